/* fused.cuda.skinny: the row of the kernel table, and how it cuts a problem. What runs on the device is fused_skinny.cuh. */
#include "fused_skinny.cuh"

extern "C" {
#include "cuda_device.h"
#include "error.h"
#include "rows.h"
}

#include <cuda_runtime.h>

namespace ks_skinny
{

using ks_mma::bf16;
using ks_mma::f16;
using ks_mma::f32;
using ks_mma::tf32;

enum { BATCH_MOST = 256 };

/* How a problem is cut: l's and warps of a block, and how many blocks there are. */
struct cut {
    int together, warps;
    int64_t n_tiles, blocks;
};

/* k's that a warp takes at a time: four of its lanes share a row, with 16 bytes each. */
static int64_t step_of(const ks_problem *p)
{
    return 4 * 16 / (int64_t)ks_type_bytes(p->type);
}

/* Whether whole pieces of 16 bytes are of one row of K. */
static bool has_k_chunks(const ks_problem *p)
{
    return p->c * (int64_t)ks_type_bytes(p->type) % 16 == 0;
}

/* How many neighbouring l's can be read at once: 4 at most, which is as many as ever paid. */
static int most_together(const ks_problem *p)
{
    const bool runs = p->layout == KS_BATCH_FIRST || p->batch == 1;
    return runs && has_k_chunks(p) ? (int)ks_min(p->d & -p->d, 4) : 1;
}

static int64_t blocks_of(const ks_problem *p, int together)
{
    return ks_ceil_div(p->b, TJ) * ks_ceil_div(p->batch, TN) * p->a * (p->d / together);
}

/* More l's together, the more bytes of X lie side by side, over all samples, but not so that too few warps are left to have K on
 * its way from memory. More warps to share a sum until they have a step each, or are enough to fill the multiprocessors. The
 * numbers are those which, of 215 problems, had the least time by measurement, 1.6 % above the best cut of each. (aligned: arrays
 * begin at 16 bytes.) */
static cut cut_of(const ks_problem *p, const ks_device *device, bool aligned)
{
    enum { TWO_FROM = 96, FOUR_FROM = 512 /* bytes */, LEAST_WARPS = 8, UNIT_WARPS = 16 /* of a multiprocessor */ };
    const int most = aligned ? most_together(p) : 1;
    const int64_t steps = ks_ceil_div(p->c, step_of(p)), beside = p->batch * p->d * (int64_t)ks_type_bytes(p->type);
    cut c = {1, 4, ks_ceil_div(p->batch, TN), 0};
    if (most >= 2 && beside >= TWO_FROM) c.together = 2;
    if (most >= 4 && beside >= FOUR_FROM &&
        blocks_of(p, 4) * ks_min(steps, 16) >= LEAST_WARPS * (int64_t)device->units)
        c.together = 4;
    c.blocks = blocks_of(p, c.together);
    while (c.warps < 16 && c.together * c.warps < MOST_SUMS && steps > c.warps &&
           c.blocks * c.together * c.warps <= UNIT_WARPS * (int64_t)device->units)
        c.warps *= 2;
    return c;
}

template <class T, bool X_CHUNKS, bool K_CHUNKS, int L>
static cudaError_t launch(const ks_run_args *args, const arguments &p, const cut &c)
{
    const auto go = [&](void (*kernel)(arguments)) {
        return ks_launch_early(args->device, kernel, (unsigned)c.blocks, 32 * c.warps, 0, args->stream, p);
    };
    if constexpr (L * 16 <= MOST_SUMS)
        if (c.warps == 16) return go(skinny<T, X_CHUNKS, K_CHUNKS, L, 16>);
    return c.warps == 8 ? go(skinny<T, X_CHUNKS, K_CHUNKS, L, 8>) : go(skinny<T, X_CHUNKS, K_CHUNKS, L, 4>);
}

template <class T> static cudaError_t launch_type(const ks_run_args *args, const arguments &p, const cut &c)
{
    const bool k_chunks = p.c * T::size % 16 == 0 && (uintptr_t)p.k % 16 == 0, x_chunks = (uintptr_t)p.x % 16 == 0;
    return c.together == 4          ? launch<T, false, true, 4>(args, p, c)
           : c.together == 2        ? launch<T, false, true, 2>(args, p, c)
           : !k_chunks              ? launch<T, false, false, 1>(args, p, c)
           : x_chunks && p.x_k == 1 ? launch<T, true, true, 1>(args, p, c)
                                    : launch<T, false, true, 1>(args, p, c);
}

static bool supports(const ks_problem *p, const ks_device *device)
{
    return device->backend == KS_CUDA && ks_cuda_arch(device) >= 80 && p->type != KS_F64 && p->batch <= BATCH_MOST &&
           (double)p->a * (double)p->b * (double)p->d < 1e9 && blocks_of(p, 1) < INT32_MAX;
}

static size_t workspace_bytes(const ks_problem *, const ks_device *)
{
    return 0;
}

/* What a block asks L2 for of X: cache lines, each as often as an instruction touches it, and sectors of those. */
static double requests_of(const ks_problem *p, const cut *c)
{
    enum { LINE = 128, SECTOR = 32 };
    const int64_t size = (int64_t)ks_type_bytes(p->type), chunk = 16 / size, row = p->d * size;
    const double samples = (double)ks_min(p->batch, TN), elements = samples * (double)p->c;
    if (p->layout == KS_BATCH_LAST) return ceil(samples / 8) * (double)p->c; /* 8 samples lie side by side */
    if (p->d == 1 && has_k_chunks(p)) return samples * (double)ks_ceil_div(p->c, step_of(p));
    /* Four lanes have k's that are neighbours, or begin 16 bytes of them. */
    const double step = (double)(row * (c->together > 1 ? 1 : chunk));
    return elements * (fmin(fmax(step / LINE, 0.25), 1) + fmin((double)row / SECTOR, 1));
}

/* Of each multiprocessor: what its blocks ask L2 for, again for every 16 outputs; the sums that its warps exchange; and, waiting
 * for memory, a block's steps from k to k, longer where l's are taken together. The weights make the terms' own, of a
 * device that nobody has measured, come to microseconds. */
static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    enum { UNIT_WARPS = 64, REQUEST = 16 /* elements */ };
    const double sharing = 1e7; /* flops */
    const cut c = cut_of(p, device, true);
    const double units = device->units > 0 ? device->units : 1, blocks = ceil((double)c.blocks / units);
    const double waves = ceil((double)(c.blocks * c.warps * c.together) / (units * UNIT_WARPS));
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p);
    terms[KS_TERM_FLOPS] = sharing * blocks * c.warps * c.together;
    terms[KS_TERM_SHUFFLE] = REQUEST * blocks * units * requests_of(p, &c);
    terms[KS_TERM_CALLS] = waves * (double)ks_ceil_div(p->c, step_of(p) * c.warps) * (c.together + 1);
}

static ks_status run(const ks_problem *p, const ks_run_args *args)
{
    int previous;
    ks_status s = ks_cuda_aligned(p, args);
    if (s == KS_OK) s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    const bool first = p->layout == KS_BATCH_FIRST;
    const cut c = cut_of(p, args->device, ((uintptr_t)args->x | (uintptr_t)args->k) % 16 == 0);
    arguments g = {};
    g.x = static_cast<const char *>(args->x), g.k = static_cast<const char *>(args->k),
    g.y = static_cast<char *>(args->y);
    g.finish = ks_cuda::epilogue_of<float>(args->epilogue);
    g.batch = p->batch, g.b = p->b, g.c = p->c, g.d = p->d;
    g.step = step_of(p) * c.warps, g.j_tiles = ks_ceil_div(p->b, TJ), g.n_tiles = c.n_tiles;
    const int64_t wide = first ? 1 : p->batch;
    g.x_i = p->c * p->d * wide, g.x_l = wide, g.x_n = first ? p->a * p->c * p->d : 1, g.x_k = p->d * wide;
    g.y_i = p->b * p->d * wide, g.y_l = wide, g.y_n = first ? p->a * p->b * p->d : 1, g.y_j = p->d * wide;
    const cudaError_t e = p->type == KS_F16         ? launch_type<f16>(args, g, c)
                          : p->type == KS_BF16      ? launch_type<bf16>(args, g, c)
                          : p->math == KS_MATH_TF32 ? launch_type<tf32>(args, g, c)
                                                    : launch_type<f32>(args, g, c);
    s = ks_cuda_status(e, "launch of fused.cuda.skinny");
    ks_cuda_leave(previous);
    return s;
}

} // namespace ks_skinny

extern "C" const ks_kernel ks_fused_cuda_skinny = {
    "fused.cuda.skinny",   KS_FUSED,      KS_CUDA, 4, ks_skinny::supports, ks_skinny::workspace_bytes,
    ks_skinny::cost_terms, ks_skinny::run};
