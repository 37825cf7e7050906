/* fused.cuda.mma in bf16: a file a type, so that they compile side by side. */
#include "fused_mma_half.cuh"
#include "fused_mma_plan.cuh"

const ks_mma::variant *ks_mma::shapes_bf16(int *count)
{
    *count = sizeof half_shapes<bf16> / sizeof *half_shapes<bf16>;
    return half_shapes<bf16>;
}
