/* How fused.cuda.mma would compute a problem: a shape, how the work is cut, and what that should cost.
 *
 * Choosing is by predicted cost over all shapes that fit, in the manner of DeepGEMM: few facts of the device, no table. */
#ifndef KS_FUSED_MMA_PLAN_CUH
#define KS_FUSED_MMA_PLAN_CUH

#include "fused_mma.cuh"

extern "C" {
#include "kernel.h"
}

namespace ks_mma
{

struct plan {
    const variant *shape;
    arguments args; /* but for the three pointers */
    int blocks, shared_bytes;
    double seconds; /* predicted */
    double dram_bytes, l2_bytes, step_cycles;
};

/* The shapes compiled for a type and math; *count of them. */
const variant *shapes_f16(int *count);
const variant *shapes_bf16(int *count);
const variant *shapes_f32(int *count);
const variant *shapes_tf32(int *count);
const variant *shapes_for(const ks_problem *p, int *count);

/* The best plan over all shapes; NULL if none fits. It stays until another problem's takes its place. */
const plan *best_plan(const ks_problem *p, const ks_device *device);

} // namespace ks_mma

#endif
