/* fused.cuda.skinny: one short launch for small batches.
 *
 * With few samples a product is a walk over K, and all that counts is that K's bytes are under way at once from the whole
 * chip. So a block takes 16 outputs j of one (i, l) and up to 64 samples, its warps share the sum over k, and K and X go from
 * memory to the registers of the tensor cores' operands with nothing between: rows of K are one side, as they lie, samples the
 * other. X is read again for every 16 outputs, from L2, and where its k's are not neighbours, element by element: for a small
 * batch that is less than staging would cost. The warps' sums meet in shared memory.
 *
 * Operands as in mma_tile.cuh, but for 16 bytes of k a lane: two steps of them. */
#include "epilogue.cuh"
#include "launch.cuh"
#include "mma_tile.cuh"
#include "split.cuh"

extern "C" {
#include "cuda_device.h"
#include "error.h"
#include "rows.h"
}

#include <cuda_runtime.h>

namespace
{

using ks_mma::bf16;
using ks_mma::f16;
using ks_mma::f32;
using ks_mma::tf32;

enum { TJ = 16, BATCH_MOST = 256 };

/* Elements: X at x_first(i, l) + n * x_n + k * x_k, Y likewise with j, K in block order. */
struct arguments {
    const char *x, *k;
    char *y;
    int64_t batch, b, c, d;
    int64_t j_tiles, n_tiles, x_i, x_l, x_n, x_k, y_i, y_l, y_n, y_j;
    ks_cuda::epilogue<float> finish;
};

/* VL neighbours of a row from element `at` on, zeros past `count`; whole chunks if CHUNKS, else one by one. */
template <class T, bool CHUNKS>
__device__ __forceinline__ void load_chunk(uint32_t (&words)[4], const char *row, int64_t at, int64_t count,
                                           int64_t step)
{
    constexpr int VL = 16 / T::size;
    if constexpr (CHUNKS) {
        const uint4 v = at < count ? *reinterpret_cast<const uint4 *>(row + at * T::size) : make_uint4(0, 0, 0, 0);
        words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else if constexpr (T::size == 4) {
#pragma unroll
        for (int e = 0; e < VL; e++)
            words[e] = at + e < count ? *reinterpret_cast<const uint32_t *>(row + (at + e) * step * 4) : 0;
    } else {
#pragma unroll
        for (int w = 0; w < 4; w++) {
            uint32_t pair[2];
#pragma unroll
            for (int h = 0; h < 2; h++)
                pair[h] = at + 2 * w + h < count
                              ? *reinterpret_cast<const uint16_t *>(row + (at + 2 * w + h) * step * 2)
                              : 0;
            words[w] = pair[0] | pair[1] << 16;
        }
    }
}

/* NT products of 8 samples, WARPS warps. */
template <class T, bool X_CHUNKS, bool K_CHUNKS, int NT, int WARPS>
__global__ void __launch_bounds__(32 * WARPS) skinny(const __grid_constant__ arguments p)
{
    constexpr int VL = 16 / T::size, SLAB = 4 * VL, TN = 8 * NT;
    __shared__ float sums[WARPS][TJ][TN + 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int64_t rest = blockIdx.x;
    const int64_t j0 = split_off(rest, p.j_tiles) * TJ, l = split_off(rest, p.d),
                  n0 = split_off(rest, p.n_tiles) * TN, i = rest;
    const char *const x = p.x + (i * p.x_i + l * p.x_l) * T::size;
    const char *const k = p.k + (i * p.d + l) * p.b * p.c * T::size;

    float acc[NT][4] = {};
    ks_cuda::await_earlier();
#pragma unroll 2
    for (int64_t k0 = warp * SLAB + t * VL; k0 - t * VL < p.c; k0 += WARPS * SLAB) {
        uint32_t kw[2][4] = {}, xw[NT][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (j0 + half * 8 + g < p.b)
                load_chunk<T, K_CHUNKS>(kw[half], k + (j0 + half * 8 + g) * p.c * T::size, k0, p.c, 1);
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int w = 0; w < 4; w++) xw[n][w] = 0;
            if (n0 + n * 8 + g < p.batch)
                load_chunk<T, X_CHUNKS>(xw[n], x + (n0 + n * 8 + g) * p.x_n * T::size, k0, p.c, p.x_k);
        }
        typename T::template operand<4> a[2];
#pragma unroll
        for (int s = 0; s < 2; s++) {
            const uint32_t raw[4] = {kw[0][2 * s], kw[1][2 * s], kw[0][2 * s + 1], kw[1][2 * s + 1]};
            a[s].set(raw);
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            typename T::template operand<2> b[2];
#pragma unroll
            for (int s = 0; s < 2; s++) {
                const uint32_t raw[2] = {xw[n][2 * s], xw[n][2 * s + 1]};
                b[s].set(raw);
            }
            T::multiply(acc[n], a, b);
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int q = 0; q < 4; q++) sums[warp][q / 2 * 8 + g][n * 8 + 2 * t + q % 2] = acc[n][q];
    __syncthreads();
    /* This thread's outputs, each what made(sum, j) says. */
    const auto each = [&](auto made) {
        for (int at = threadIdx.x; at < TJ * TN; at += 32 * WARPS) {
            /* Neighbouring threads, neighbouring outputs. */
            const int j = p.y_n == 1 ? at / TN : at % TJ, n = p.y_n == 1 ? at % TN : at / TJ;
            if (j0 + j >= p.b || n0 + n >= p.batch) continue;
            float sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += sums[w][j][n];
            if (T::may_lose_infinity && sum != sum) { /* as fused_mma.cuh's rescue */
                sum = 0;
                for (int64_t q = 0; q < p.c; q++)
                    sum = fmaf(*reinterpret_cast<const float *>(x + ((n0 + n) * p.x_n + q * p.x_k) * 4),
                               *reinterpret_cast<const float *>(k + ((j0 + j) * p.c + q) * 4), sum);
            }
            reinterpret_cast<typename T::scalar *>(p.y)[i * p.y_i + l * p.y_l + (n0 + n) * p.y_n + (j0 + j) * p.y_j] =
                T::narrow(made(sum, j));
        }
    };
    if (p.finish.asked)
        each([&](float sum, int j) {
            return ks_cuda::finished<typename T::scalar>(p.finish, sum, (i * p.b + j0 + j) * p.d + l);
        });
    else
        each([](float sum, int) { return sum; });
}

/* How a problem is cut: products of 8 samples and warps of a block, and how many of these there are. */
struct cut {
    int products, warps;
    int64_t n_tiles, blocks;
};

/* k's that a warp takes at a time: four of its lanes share a row, with 16 bytes each. */
int64_t step_of(const ks_problem *p)
{
    return 4 * 16 / (int64_t)ks_type_bytes(p->type);
}

/* Just enough products for the batch, and more warps to share a sum that is long, or where blocks are too few to fill the
 * multiprocessors. */
cut cut_of(const ks_problem *p, const ks_device *device)
{
    cut c;
    c.products = p->batch <= 16 ? 2 : p->batch <= 32 ? 4 : 8;
    c.n_tiles = ks_ceil_div(p->batch, 8 * c.products);
    c.blocks = ks_ceil_div(p->b, TJ) * c.n_tiles * p->a * p->d;
    c.warps = p->c > 1536 ? 8 : 4;
    const int most = c.products == 8 ? 8 : 16;
    while (c.warps < most && p->c > step_of(p) * c.warps && c.blocks * c.warps <= 8 * (int64_t)device->units)
        c.warps *= 2;
    return c;
}

template <class T, bool X_CHUNKS, bool K_CHUNKS>
cudaError_t launch(const ks_run_args *args, const arguments &p, const cut &c)
{
    using kernel = void (*)(arguments);
    static const kernel kernels[3][3] = {
        /* for 2, 4 and 8 products, 4, 8 and 16 warps */
        {skinny<T, X_CHUNKS, K_CHUNKS, 2, 4>, skinny<T, X_CHUNKS, K_CHUNKS, 2, 8>,
         skinny<T, X_CHUNKS, K_CHUNKS, 2, 16>},
        {skinny<T, X_CHUNKS, K_CHUNKS, 4, 4>, skinny<T, X_CHUNKS, K_CHUNKS, 4, 8>,
         skinny<T, X_CHUNKS, K_CHUNKS, 4, 16>},
        {skinny<T, X_CHUNKS, K_CHUNKS, 8, 4>, skinny<T, X_CHUNKS, K_CHUNKS, 8, 8>, NULL},
    };
    return ks_launch_early(args->device, kernels[c.products / 4][c.warps / 8], (unsigned)c.blocks, 32 * c.warps, 0,
                           args->stream, p);
}

template <class T> cudaError_t launch_type(const ks_run_args *args, const arguments &p, const cut &c)
{
    const bool k_chunks = p.c * T::size % 16 == 0 && (uintptr_t)p.k % 16 == 0;
    const bool x_chunks = k_chunks && p.x_k == 1 && (uintptr_t)p.x % 16 == 0;
    return x_chunks   ? launch<T, true, true>(args, p, c)
           : k_chunks ? launch<T, false, true>(args, p, c)
                      : launch<T, false, false>(args, p, c);
}

bool supports(const ks_problem *p, const ks_device *device)
{
    return device->backend == KS_CUDA && ks_cuda_arch(device) >= 80 && p->type != KS_F64 && p->batch <= BATCH_MOST &&
           (double)p->a * (double)p->b * (double)p->d < 1e9 && cut_of(p, device).blocks < INT32_MAX;
}

size_t workspace_bytes(const ks_problem *, const ks_device *)
{
    return 0;
}

/* What the blocks of a multiprocessor take to load all they need, one load after another, and to share each product's sums among
 * the warps, as long as six loads; what they fetch of X, again for every 16 outputs, from L2, in whole sectors where d's are between
 * its k's; and, waiting for memory, a block's steps from k to k. */
void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    enum { SECTOR = 32, UNIT_WARPS = 64 };
    enum { SHARING = 6 /* of a product's sums, in loads */, START = 4 /* a block's first and last step, in steps */ };
    const int64_t size = (int64_t)ks_type_bytes(p->type), chunk = 16 / size;
    const cut g = cut_of(p, device);
    const double units = device->units > 0 ? device->units : 1, blocks = (double)g.blocks;
    const double steps = (double)ks_ceil_div(p->c, step_of(p) * g.warps),
                 waves = ceil(blocks * g.warps / (units * UNIT_WARPS));
    const bool k_chunks = p->c * size % 16 == 0, x_chunks = k_chunks && p->layout == KS_BATCH_FIRST && p->d == 1;
    const int64_t loads = 2 * (k_chunks ? 1 : chunk) + g.products * (x_chunks ? 1 : chunk);
    const int64_t fetched = p->layout == KS_BATCH_FIRST ? ks_min(p->d * size, SECTOR) : size; /* for an element */
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p);
    terms[KS_TERM_FLOPS] =
        1000 * ceil(blocks / units) * g.warps * (steps * (double)loads + (double)(SHARING * g.products));
    terms[KS_TERM_SHUFFLE] = (double)ks_ceil_div(p->b, TJ) * (double)ks_x_count(p) * (double)fetched;
    terms[KS_TERM_CALLS] = waves * (steps * (x_chunks ? 1 : 2) + START);
}

ks_status run(const ks_problem *p, const ks_run_args *args)
{
    int previous;
    ks_status s = ks_cuda_aligned(p, args);
    if (s == KS_OK) s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    const bool first = p->layout == KS_BATCH_FIRST;
    const cut c = cut_of(p, args->device);
    arguments g = {};
    g.x = static_cast<const char *>(args->x), g.k = static_cast<const char *>(args->k),
    g.y = static_cast<char *>(args->y);
    g.finish = ks_cuda::epilogue_of<float>(args->epilogue);
    g.batch = p->batch, g.b = p->b, g.c = p->c, g.d = p->d;
    g.j_tiles = ks_ceil_div(p->b, TJ), g.n_tiles = c.n_tiles;
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

} /* namespace */

extern "C" const ks_kernel ks_fused_cuda_skinny = {"fused.cuda.skinny", KS_FUSED,   KS_CUDA, 3, supports,
                                                   workspace_bytes,     cost_terms, run};
