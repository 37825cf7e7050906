/* fused.cuda.mma in f32: a file a type, so that they compile side by side. */
#include "fused_mma_f32.cuh"
#include "fused_mma_plan.cuh"

const ks_mma::variant *ks_mma::shapes_f32(int *count)
{
    *count = sizeof float_shapes<f32> / sizeof *float_shapes<f32>;
    return float_shapes<f32>;
}
