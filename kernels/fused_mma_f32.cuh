/* The shapes of fused.cuda.mma for float32, exact or in TF32; compiled once for each. One that is the fastest, or nearly,
 * nowhere in the measurements is not here; of those tried, two in three went. */
#include "fused_mma.cuh"

namespace ks_mma
{

/*                                 D LW MT NT WN WJ TK GROUP */
template <class T>
constexpr variant float_shapes[] = {
    describe<shape<T, WHOLE, 1, 1, 4, 4, 4, 4, 32>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 4, 8, 2, 32>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 6, 8, 1, 32>>(),
    describe<shape<T, WHOLE, 1, 1, 1, 4, 2, 2, 32>>(),
    describe<shape<T, WHOLE, 2, 2, 4, 4, 2, 4, 16>>(),
    describe<shape<T, WHOLE, 2, 2, 2, 6, 4, 2, 16>>(),
    describe<shape<T, WHOLE, 3, 3, 2, 6, 4, 2, 16>>(),
    describe<shape<T, WHOLE, 3, 3, 1, 4, 2, 2, 16>>(),
    describe<shape<T, WHOLE, 6, 6, 1, 2, 8, 2, 16>>(),
    describe<shape<T, VECTOR, 4, 4, 2, 4, 4, 2, 16>>(),
    describe<shape<T, VECTOR, 4, 4, 2, 3, 4, 2, 16>>(),
    describe<shape<T, VECTOR, 4, 4, 2, 3, 2, 4, 16>>(),
    describe<shape<T, VECTOR, 4, 4, 1, 4, 1, 4, 16>>(),
    describe<shape<T, VECTOR, 8, 4, 1, 4, 1, 2, 16>>(),
    describe<shape<T, VECTOR, 8, 4, 1, 4, 2, 1, 16>>(),
    describe<shape<T, VECTOR, 8, 4, 1, 4, 2, 2, 16>>(),
    describe<shape<T, VECTOR, 8, 8, 1, 2, 4, 4, 16>>(),
    describe<shape<T, VECTOR, 8, 8, 1, 2, 4, 3, 16>>(),
    describe<shape<T, VECTOR, 12, 4, 2, 4, 2, 1, 8>>(),
    describe<shape<T, VECTOR, 16, 8, 1, 3, 4, 1, 8>>(),
    describe<shape<T, VECTOR, 16, 8, 1, 4, 2, 2, 8>>(),
    describe<shape<T, VECTOR, 16, 8, 1, 3, 2, 2, 8>>(),
    describe<shape<T, VECTOR, 8, 8, 1, 2, 6, 2, 16>>(),
    describe<shape<T, VECTOR, 8, 8, 1, 2, 3, 4, 16>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 6, 6, 2, 32>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 8, 6, 2, 32>>(),
    describe<shape<T, LAST, 1, 1, 4, 4, 4, 3, 32>>(),
    describe<shape<T, LAST, 1, 1, 2, 6, 6, 2, 32>>(),
    describe<shape<T, LAST, 1, 1, 2, 8, 6, 2, 32>>(),
    describe<shape<T, LAST, 1, 1, 2, 8, 8, 1, 32>>(),
    describe<shape<T, LAST, 1, 1, 2, 6, 8, 1, 32>>(),
    describe<shape<T, LAST, 1, 1, 2, 4, 1, 4, 32>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 8, 8, 1, 32, true>>(),
    describe<shape<T, WHOLE, 2, 2, 1, 8, 8, 1, 32, true>>(),
    describe<shape<T, WHOLE, 2, 2, 1, 12, 8, 1, 16, true>>(),
    describe<shape<T, WHOLE, 3, 3, 1, 8, 8, 1, 16, true>>(),
    describe<shape<T, WHOLE, 3, 3, 1, 6, 8, 1, 16, true>>(),
    describe<shape<T, WHOLE, 4, 4, 1, 6, 8, 1, 16, true>>(),
    describe<shape<T, WHOLE, 4, 4, 1, 4, 8, 1, 16, true>>(),
    describe<shape<T, WHOLE, 6, 6, 1, 4, 8, 1, 16, true>>(),
    describe<shape<T, VECTOR, 8, 4, 1, 8, 4, 1, 16, true>>(),
    describe<shape<T, VECTOR, 8, 4, 1, 6, 4, 1, 16, true>>(),
    describe<shape<T, LAST, 1, 1, 2, 12, 8, 1, 16, true>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 6, 8, 1, 32, true>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 6, 4, 1, 32, true>>(),
    describe<shape<T, WHOLE, 1, 1, 2, 4, 8, 1, 32, true>>(),
    describe<shape<T, LAST, 1, 1, 2, 8, 8, 1, 32, true>>(),
    describe<shape<T, LAST, 1, 1, 2, 6, 8, 1, 32, true>>(),
    describe<shape<T, LAST, 1, 1, 2, 4, 8, 1, 32, true>>(),
    describe<shape<T, LAST, 1, 1, 2, 6, 4, 1, 32, true>>(),
};

} // namespace ks_mma
