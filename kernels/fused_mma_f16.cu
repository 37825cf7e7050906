/* fused.cuda.mma in f16: a file a type, so that they compile side by side. */
#include "fused_mma_half.cuh"
#include "fused_mma_plan.cuh"

const ks_mma::variant *ks_mma::shapes_f16(int *count)
{
    *count = sizeof half_shapes<f16> / sizeof *half_shapes<f16>;
    return half_shapes<f16>;
}
