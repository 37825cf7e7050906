/* fused2.cuda's kernels. */
#include "fused2.cuh"

namespace ks_fused2
{

template kernel_function kernel_for<ks_mma::f16>(bool);
template kernel_function kernel_for<ks_mma::bf16>(bool);

} // namespace ks_fused2
