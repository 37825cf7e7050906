/* fused.cuda.skinny's kernel: one short launch for small batches.
 *
 * With few samples a product is a walk over K, and all that counts is that K's bytes are under way at once from the whole
 * chip. So a block takes 16 outputs j and 16 samples of one (i, l), or of a run of L neighbouring l's, its warps share the
 * sum over k, and K and X go from memory to the registers of the tensor cores' operands with nothing between: rows of K are one
 * side, as they lie, samples the other. X is read again for every 16 outputs, and K for every 16 samples, from L2: while a batch is
 * small that is less than staging would cost, or larger blocks, which are fewer. The warps' sums meet in shared memory.
 *
 * Between neighbouring k's of batch-first X lie the values of other l's. A block of one l reads X element by element then, and a
 * sector of 32 bytes for each; one of L l's reads L of them at a time, four lanes neighbouring k's: L2 serves whole cache lines at
 * once. K, which comes in pieces of neighbouring k's, is dealt out among the four lanes to match.
 *
 * Operands as in mma_tile.cuh, but for 16 bytes of k a lane: two steps of them. */
#ifndef KS_FUSED_SKINNY_CUH
#define KS_FUSED_SKINNY_CUH

#include "epilogue.cuh"
#include "launch.cuh"
#include "mma_tile.cuh"
#include "split.cuh"

namespace ks_skinny
{

enum { TJ = 16, TN = 16, MOST_SUMS = 32 /* l's times warps: what fits into 48 KB of shared memory */ };

/* Elements: X at x_first(i, l) + n * x_n + k * x_k, Y likewise with j, K in block order. */
struct arguments {
    const char *x, *k;
    char *y;
    int64_t batch, b, c, d;
    int64_t step; /* k's that a block takes at a time */
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

/* Four lanes that share a row of K hold 16 bytes each, one after the other; afterwards each has one value out of every 4 of them
 * (words), or two, 4 apart, out of every 8 (halves). So neighbouring lanes have neighbouring k's, whose l's they read of X. */
template <class T> __device__ __forceinline__ void deal_out(uint32_t (&words)[4], int t)
{
    if constexpr (T::size == 2) {
        const uint32_t w[4] = {words[0], words[1], words[2], words[3]};
#pragma unroll
        for (int q = 0; q < 2; q++) {
            words[2 * q] = ks_mma::low_halves(w[q], w[q + 2]);
            words[2 * q + 1] = ks_mma::high_halves(w[q], w[q + 2]);
        }
    }
#pragma unroll
    for (int far = 1; far <= 2; far *= 2) { /* a transposition, by exchange with the lanes 1 and 2 away */
        const bool upper = t & far;
#pragma unroll
        for (int q = 0; q < 2; q++) {
            const int low = far == 1 ? 2 * q : q, high = low + far;
            const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? words[low] : words[high], far);
            words[low] = upper ? got : words[low], words[high] = upper ? words[high] : got;
        }
    }
}

/* L neighbouring l's of X, which lie side by side, at every fourth k from `at` on, as deal_out leaves K; zeros past `count`:
 * words[l]. */
template <class T, int L>
__device__ __forceinline__ void load_runs(uint32_t (&words)[L][4], const char *row, int64_t at, int64_t count,
                                          int64_t step)
{
    constexpr int VL = 16 / T::size, WORDS = L * T::size / 4;
    uint32_t run[VL][WORDS] = {};
#pragma unroll
    for (int e = 0; e < VL; e++)
        if (at + 4 * e < count) ks_mma::load_words<WORDS>(run[e], row + (at + 4 * e) * step * T::size);
#pragma unroll
    for (int l = 0; l < L; l++)
#pragma unroll
        for (int w = 0; w < 4; w++) {
            if constexpr (T::size == 4)
                words[l][w] = run[w][l];
            else if (l % 2 == 0)
                words[l][w] = ks_mma::low_halves(run[2 * w][l / 2], run[2 * w + 1][l / 2]);
            else
                words[l][w] = ks_mma::high_halves(run[2 * w][l / 2], run[2 * w + 1][l / 2]);
        }
}

/* L l's, WARPS warps. X_CHUNKS: 16 bytes of X are neighbouring k's; K_CHUNKS: c is whole pieces of 16 bytes. */
template <class T, bool X_CHUNKS, bool K_CHUNKS, int L, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, L > 2) skinny(const __grid_constant__ arguments p)
{
    /* A warp's sums: for each l, for each sample, those of its outputs, at steps that spread lanes over the banks both when
     * operands' lanes write them and when Y's order reads them. */
    constexpr int VL = 16 / T::size, NT = TN / 8; /* products of 8 samples */
    constexpr int SAMPLE = L > 1 ? TJ + 4 : TJ + 5, PLANE = TN * SAMPLE + (L > 1 ? 4 : 0);
    static_assert(L == 1 || (K_CHUNKS && !X_CHUNKS), "runs of l's: none of k's, and whole pieces of K");
    __shared__ float sums[WARPS][L * PLANE];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int64_t rest = blockIdx.x;
    const int64_t j0 = split_off(rest, p.j_tiles) * TJ, l0 = split_off(rest, p.d / L) * L,
                  n0 = split_off(rest, p.n_tiles) * TN, i = rest;
    const char *const x = p.x + (i * p.x_i + l0 * p.x_l) * T::size;
    const char *const k = p.k + (i * p.d + l0) * p.b * p.c * T::size;

    float acc[L][NT][4] = {};
    ks_cuda::await_earlier();
#pragma unroll(L > 1 ? 1 : 2)
    for (int64_t k0 = warp * 4 * VL; k0 < p.c; k0 += p.step) {
        /* All loads first, K's before X's, which L2 is likelier to have. */
        uint32_t kw[L][2][4] = {}, xw[NT][L][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (j0 + half * 8 + g < p.b)
#pragma unroll
                for (int l = 0; l < L; l++)
                    load_chunk<T, K_CHUNKS>(kw[l][half], k + (l * p.b + j0 + half * 8 + g) * p.c * T::size,
                                            k0 + t * VL, p.c, 1);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const char *const row = x + (n0 + n * 8 + g) * p.x_n * T::size;
            const int64_t count = n0 + n * 8 + g < p.batch ? p.c : 0;
            if constexpr (L > 1) {
                load_runs<T, L>(xw[n], row, k0 + t, count, p.x_k);
            } else {
#pragma unroll
                for (int w = 0; w < 4; w++) xw[n][0][w] = 0;
                if (count > 0) load_chunk<T, X_CHUNKS>(xw[n][0], row, k0 + t * VL, count, p.x_k);
            }
        }
#pragma unroll
        for (int l = 0; l < L; l++) {
            typename T::template operand<4> a[2];
            if constexpr (L > 1) deal_out<T>(kw[l][0], t), deal_out<T>(kw[l][1], t);
#pragma unroll
            for (int s = 0; s < 2; s++) {
                const uint32_t raw[4] = {kw[l][0][2 * s], kw[l][1][2 * s], kw[l][0][2 * s + 1], kw[l][1][2 * s + 1]};
                a[s].set(raw);
            }
#pragma unroll
            for (int n = 0; n < NT; n++) {
                typename T::template operand<2> b[2];
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    const uint32_t raw[2] = {xw[n][l][2 * s], xw[n][l][2 * s + 1]};
                    b[s].set(raw);
                }
                T::multiply(acc[l][n], a, b);
            }
        }
    }
#pragma unroll
    for (int l = 0; l < L; l++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                sums[warp][l * PLANE + (n * 8 + 2 * t + q % 2) * SAMPLE + q / 2 * 8 + g] = acc[l][n][q];
    __syncthreads();
    /* This thread's outputs, each what made(sum, l, j) says: neighbouring threads, neighbouring outputs. */
    const auto each = [&](auto made) {
        for (int at = threadIdx.x; at < L * TJ * TN; at += 32 * WARPS) {
            const int l = at % L, r = at / L;
            const int j = p.y_n == 1 ? r / TN : r % TJ, n = p.y_n == 1 ? r % TN : r / TJ;
            if (j0 + j >= p.b || n0 + n >= p.batch) continue;
            float sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += sums[w][l * PLANE + n * SAMPLE + j];
            if (T::may_lose_infinity && sum != sum) { /* as fused_mma.cuh's rescue */
                sum = 0;
                for (int64_t q = 0; q < p.c; q++)
                    sum = fmaf(*reinterpret_cast<const float *>(x + (l * p.x_l + (n0 + n) * p.x_n + q * p.x_k) * 4),
                               *reinterpret_cast<const float *>(k + ((l * p.b + j0 + j) * p.c + q) * 4), sum);
            }
            reinterpret_cast<typename T::scalar *>(
                p.y)[i * p.y_i + (l0 + l) * p.y_l + (n0 + n) * p.y_n + (j0 + j) * p.y_j] = T::narrow(made(sum, l, j));
        }
    };
    if (p.finish.asked)
        each([&](float sum, int l, int j) {
            return ks_cuda::finished<typename T::scalar>(p.finish, sum, (i * p.b + j0 + j) * p.d + l0 + l);
        });
    else
        each([](float sum, int, int) { return sum; });
}

} // namespace ks_skinny

#endif
