/* fused.cuda.mma in tf32: a file a type, so that they compile side by side. */
#include "fused_mma_f32.cuh"
#include "fused_mma_plan.cuh"

const ks_mma::variant *ks_mma::shapes_tf32(int *count)
{
    *count = sizeof float_shapes<tf32> / sizeof *float_shapes<tf32>;
    return float_shapes<tf32>;
}
