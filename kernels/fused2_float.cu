/* fused2.cuda's kernels for float32, exact or in TF32. */
#include "fused2.cuh"

namespace ks_fused2
{

template kernel_function kernel_for<ks_mma::f32>(bool);
template kernel_function kernel_for<ks_mma::tf32>(bool);

} // namespace ks_fused2
