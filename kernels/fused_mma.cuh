/* fused.cuda.mma's kernel: one launch, output-stationary, on tensor cores (mma.sync: Ampere and later).
 *
 * Shapes. A block computes tiles of Y of TN batch rows x TJ outputs j x TL neighbouring l, of one super-block i. X comes in
 * slabs of TK values of k through a ring of shared-memory stages that cp.async fills ahead of the arithmetic; K either stays
 * in shared memory for as long as the block keeps its (i, j's, l's) ("resident"), or comes with each slab.
 *
 * Every byte of X is read in pieces of 16 along what is contiguous, and sorted out on the way to the registers:
 *   WHOLE    batch-first, small d: the row (k, l) of one n is contiguous; a lane reads its k's with all D values of l each
 *   VECTOR   batch-first, TL a run of l's of length 16 bytes or more: a lane reads 16 bytes of l's for each of its k's
 *   LAST     batch-last: a lane reads 16 bytes of neighbouring n's for each of its k's
 * and byte permutes put the pairs of neighbouring k's together that products of 2-byte types want. X's chunks of 16 bytes are
 * placed in shared memory by an exclusive-or of their number, so that the 8 lanes served at once touch all 32 banks. K lies
 * there as (step, l, column of a product, 32 bytes of k): a warp's operands are 256 bytes in a row at offsets known when the
 * kernel is compiled.
 *
 * Which j a column of a product stands for, and which n a row, is chosen so that what the lanes of a warp store at a time is
 * in runs of at least 32 bytes, L2's sector: a store of half a sector costs as much as one of a whole.
 *
 * On Hopper some shapes multiply by wgmma (GROUP): four warps of neighbouring rows together, each with its rows of X in
 * registers as above, K read from shared memory by the tensor cores. That halves what the warps have to issue and lets the
 * tensor cores run on while X is sorted out. For float32 K lies in shared memory in two parts, as rounded to TF32 and what
 * that leaves; each thread splits what it copied, while products of the slab before are under way.
 *
 * Work. Units are (i, group of j's and l's, tile of n); a team of `siblings` blocks takes the same units at the same time,
 * each for its own j's and l's, so that what they share of X comes from L2. Teams divide all units evenly: no last wave. */
#ifndef KS_FUSED_MMA_CUH
#define KS_FUSED_MMA_CUH

#include "launch.cuh"
#include "mma_group.cuh"
#include "mma_store.cuh"

namespace ks_mma
{

/* The raw A operands of one step for LC l's, those from u * LC on: a[l][m-tile]. xs: the stage. */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::LC][S::MT][4], const char *xs, int step, int u, int wn,
                                       int wl, int g, int t)
{
    constexpr int KT = S::KT;
    if constexpr (S::READER == LAST) {
        constexpr int MV = S::VL / 2; /* m-tiles of a chunk */
        const char *const at =
            xs + (S::k_of(t, 0) * S::x_pitch + wn * (S::MT / MV) * 8 + (g ^ S::x_swizzle(0, t))) * 16;
#pragma unroll
        for (int v = 0; v < S::MT / MV; v++) {
            uint32_t r[KT][4];
#pragma unroll
            for (int q = 0; q < KT; q++)
                load_words<4>(r[q], at + ((step * S::KS + S::k_of(0, q)) * S::x_pitch + v * 8) * 16);
#pragma unroll
            for (int w = 0; w < 4; w++) {
                if constexpr (S::size == 2) {
                    a[0][v * MV + w][0] = low_halves(r[0][w], r[1][w]);
                    a[0][v * MV + w][1] = high_halves(r[0][w], r[1][w]);
                    a[0][v * MV + w][2] = low_halves(r[KT - 2][w], r[KT - 1][w]);
                    a[0][v * MV + w][3] = high_halves(r[KT - 2][w], r[KT - 1][w]);
                } else {
                    a[0][v * MV + w / 2][w % 2] = r[0][w];
                    a[0][v * MV + w / 2][w % 2 + 2] = r[1][w];
                }
            }
        }
    } else {
        const char *const lane = xs + (wn * 16 * S::MT + g) * S::x_pitch * 16;
        const int swizzle = S::x_swizzle(g, t) << 4; /* 8 and 16 rows on it is the same */
#pragma unroll
        for (int m = 0; m < S::MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const char *const at = lane + (m * 16 + half * 8) * S::x_pitch * 16;
                if constexpr (S::READER == WHOLE && S::GROUP) {
                    constexpr int D = S::D, piece = D % 4 == 0 ? 4 : D % 2 == 0 ? 2 : 1;
                    uint32_t w[2][D];
#pragma unroll
                    for (int q = 0; q < 2; q++)
#pragma unroll
                        for (int v = 0; v < D / piece; v++)
                            load_words<piece>(w[q] + piece * v,
                                              at + ((((step * 2 + q) * 4 + t) * 4 * D + 4 * piece * v) ^ swizzle));
#pragma unroll
                    for (int l = 0; l < D; l++)
#pragma unroll
                        for (int q = 0; q < 2; q++)
                            a[l][m][half + 2 * q] = S::size == 2 ? halves(w[q], l, D + l) : w[q][l];
                } else if constexpr (S::READER == WHOLE) {
                    constexpr int D = S::D, words = 2 * D;
                    uint32_t w[words];
                    constexpr int piece = words % 4 == 0 ? 4 : 2;
#pragma unroll
                    for (int v = 0; v < words / piece; v++)
                        load_words<piece>(w + piece * v, at + (((step * 4 + t) * 8 * D + 4 * piece * v) ^ swizzle));
#pragma unroll
                    for (int l = 0; l < D; l++) {
                        if constexpr (S::size == 2) {
                            a[l][m][half] = halves(w, l, D + l);
                            a[l][m][half + 2] = halves(w, 2 * D + l, 3 * D + l);
                        } else {
                            a[l][m][half] = w[l];
                            a[l][m][half + 2] = w[D + l];
                        }
                    }
                } else {
                    constexpr int words = S::LC * S::size / 4;
                    uint32_t r[KT][words];
#pragma unroll
                    for (int q = 0; q < KT; q++)
                        load_words<words>(r[q],
                                          at + step * (S::KS * S::TL * S::size) +
                                              ((S::k_of(t, q) * S::TL + wl * S::LW + u * S::LC) * S::size ^ swizzle));
#pragma unroll
                    for (int w = 0; w < words; w++) {
                        if constexpr (S::size == 2) {
                            a[2 * w][m][half] = low_halves(r[0][w], r[1][w]);
                            a[2 * w + 1][m][half] = high_halves(r[0][w], r[1][w]);
                            a[2 * w][m][half + 2] = low_halves(r[KT - 2][w], r[KT - 1][w]);
                            a[2 * w + 1][m][half + 2] = high_halves(r[KT - 2][w], r[KT - 1][w]);
                        } else {
                            a[w][m][half] = r[0][w];
                            a[w][m][half + 2] = r[1][w];
                        }
                    }
                }
            }
    }
}

/* STEPS steps from `step` on: acc[l][m-tile][n-tile] += X * K^T over STEPS * KS values of k. ks: K at the first of them. */
template <class S, int STEPS>
__device__ __forceinline__ void multiply_steps(float (&acc)[S::LW][S::MT][S::NT][4], const char *xs, const char *ks,
                                               int step, int wn, int wj, int wl, int g, int t)
{
    using T = typename S::T;
    const char *const lane = ks + ((wl * S::LW * S::TJ + wj * 8 * S::NT + g) * 32 + t * 8);
#pragma unroll
    for (int u = 0; u < S::LW / S::LC; u++) {
        uint32_t a[STEPS][S::LC][S::MT][4];
#pragma unroll
        for (int s = 0; s < STEPS; s++) read_x<S>(a[s], xs, step + s, u, wn, wl, g, t);
#pragma unroll
        for (int l = 0; l < S::LC; l++) {
            typename T::template operand<4> x[S::MT][STEPS];
#pragma unroll
            for (int m = 0; m < S::MT; m++)
#pragma unroll
                for (int s = 0; s < STEPS; s++) x[m][s].set(a[s][l][m]);
#pragma unroll
            for (int n = 0; n < S::NT; n++) {
                typename T::template operand<2> k[STEPS];
#pragma unroll
                for (int s = 0; s < STEPS; s++) {
                    uint32_t raw[2];
                    load_words<2>(raw, lane + s * S::k_step_bytes + ((u * S::LC + l) * S::TJ + n * 8) * 32);
                    k[s].set(raw);
                }
#pragma unroll
                for (int m = 0; m < S::MT; m++) T::multiply(acc[u * S::LC + l][m][n], x[m], k);
            }
        }
    }
}

/* STEPS steps from `step` on by products of four warps. rest: K's second part, where it has one. meanwhile() is what else there
 * is to do, done once, while products are under way. */
template <class S, int STEPS, class F>
__device__ __forceinline__ void group_steps(float (&acc)[S::LW][S::MT][S::NT][4], const char *xs, const char *ks,
                                            const char *rest, int step, int wn, int wj, int wl, int g, int t,
                                            int never, const F &meanwhile)
{
    using T = typename S::T;
    const int own = (wl * S::LW * S::TJ + wj * 8 * S::NT) * 32;
    const uint64_t k0 = group_operand(ks + own), rest0 = group_operand(rest + own);
    if constexpr (S::k_copies == 1) {
        constexpr int BUFFERS = S::LW * S::MT * (4 * S::NT + 8) <= 176 && STEPS > 1 ? 2 : 1;
        uint32_t a[BUFFERS][S::LW][S::MT][4];
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            if (s >= BUFFERS) group_wait<BUFFERS - 1>();
            read_x<S>(a[s % BUFFERS], xs, step + s, 0, wn, wl, g, t);
            group_fence();
#pragma unroll
            for (int l = 0; l < S::LW; l++)
#pragma unroll
                for (int m = 0; m < S::MT; m++)
                    group_product<S::NT, ALWAYS>(T(), acc[l][m], a[s % BUFFERS][l][m],
                                                 k0 + ((s * S::k_step_bytes + l * S::TJ * 32) >> 4));
            group_commit();
            if (s == 0) meanwhile();
        }
        group_wait<0>();
#pragma unroll
        for (int q = 0; q < S::LW * S::MT; q++) group_hold(acc[q / S::MT][q % S::MT]);
    } else {
        /* Sums of two steps start from zero: mma_tile.cuh says why. */
        constexpr int TOGETHER = STEPS % 2 == 0 ? 2 : 1, SUMS = STEPS / TOGETHER * S::LW * S::MT;
        uint32_t a[TOGETHER][S::LW][S::MT][4];
        float sum[S::NT][4] = {};
#pragma unroll
        for (int q = 0; q < SUMS; q++) {
            const int s0 = q / (S::LW * S::MT) * TOGETHER, l = q / S::MT % S::LW, m = q % S::MT;
            if (l == 0 && m == 0)
#pragma unroll
                for (int s = 0; s < TOGETHER; s++) read_x<S>(a[s], xs, step + s0 + s, 0, wn, wl, g, t);
            typename T::template operand<4> x[TOGETHER];
#pragma unroll
            for (int s = 0; s < TOGETHER; s++) x[s].set(a[s][l][m]);
            group_fence();
#pragma unroll
            for (int s = 0; s < TOGETHER; s++) {
                const uint64_t at = ((s0 + s) * S::k_step_bytes + l * S::TJ * 32) >> 4;
                if (s == 0)
                    group_product<S::NT, ASKED>(T(), sum, x[s].low, k0 + at, never);
                else
                    group_product<S::NT, ALWAYS>(T(), sum, x[s].low, k0 + at);
                group_product<S::NT, ALWAYS>(T(), sum, x[s].high, rest0 + at);
                group_product<S::NT, ALWAYS>(T(), sum, x[s].high, k0 + at);
            }
            group_commit();
            /* Early, so that it is done in time; where a lane holds X of many l's, once these are used up. */
            if (q == (S::LW * S::MT < 6 ? 0 : SUMS - 1)) meanwhile();
            group_wait<0>();
            group_hold(sum);
#pragma unroll
            for (int e = 0; e < S::NT * 4; e++) (&acc[l][m][0][0])[e] += (&sum[0][0])[e];
        }
    }
}

template <class S> __device__ __forceinline__ void compute(const arguments &p)
{
    using T = typename S::T;
    constexpr int size = S::size;
    extern __shared__ __align__(128) char memory[];
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
    const int wl = S::GROUP ? warp / (S::WN * S::WJ) : warp % S::WL;
    const int wj = S::GROUP ? warp / S::WN % S::WJ : warp / S::WL % S::WJ;
    const int wn = S::GROUP ? warp % S::WN : warp / (S::WL * S::WJ);
    const int team = blockIdx.x / p.siblings, sibling = blockIdx.x % p.siblings;
    const int k_steps = p.resident ? (p.c + S::KS - 1) / S::KS : S::TK / S::KS;
    const int k_bytes = k_steps * S::k_step_bytes;
    const int stage_bytes = S::x_bytes + (p.resident ? 0 : k_bytes);
    char *const k_rest =
        memory + (p.resident ? k_bytes : 0); /* K's second part, where it has two: of all, or of two slabs */
    char *const stages = k_rest + (S::k_copies - 1) * (p.resident ? 1 : 2) * k_bytes;
    const int64_t k_row = static_cast<int64_t>(p.c) * size;

    int64_t unit = p.units * team / p.teams;
    const int64_t end = p.units * (team + 1) / p.teams;
    while (unit < end) {
        /* A stretch of units with the same K. */
        const int64_t group = unit / p.n_tiles, tile0 = unit % p.n_tiles;
        const int64_t tiles = min(p.n_tiles - tile0, end - unit);
        const int64_t i = group / p.rounds;
        const int own = static_cast<int>(group % p.rounds) * p.siblings + sibling;
        const int j0 = own % p.j_tiles * S::TJ, l0 = own / p.j_tiles * S::TL;
        const int64_t l_step = S::READER == LAST ? p.batch : 1;
        const stretch at = {p.x + (i * p.c * p.d + l0) * l_step * size, p.k + ((i * p.d + l0) * p.b + j0) * k_row,
                            p.y + ((i * p.b + j0) * p.d + l0) * l_step * size, j0, l0};

        /* Each thread copies the same chunk of rows a fixed step apart, so that a copy costs an addition and a comparison.
         * The threads that a row's chunks do not divide stay out. */
        constexpr int x_step = S::threads / S::row_chunks;
        const int x_row0 = tid / S::row_chunks, x_chunk = tid % S::row_chunks;
        constexpr bool pieces = S::READER == VECTOR && S::k_chunks * 16 == S::TL * size; /* whole chunks of each k */
        const int x_k = pieces ? x_chunk / S::k_chunks : 0, x_v = pieces ? x_chunk % S::k_chunks : x_chunk;
        const char *const x_own = at.x + x_row0 * p.x_row + static_cast<int64_t>(x_k) * p.d * size + x_v * 16;
        const auto load_x = [&](char *to, int64_t n0, int k0) {
            const int n_left = static_cast<int>(min(p.batch - n0, static_cast<int64_t>(S::TN))), k_left = p.c - k0;
            const int row_end = x_row0 >= x_step ? 0 : S::READER == LAST ? k_left : n_left;
            const bool inside = S::READER == LAST ? x_chunk * S::VL < n_left
                                : pieces          ? x_k < k_left && l0 + x_v * S::VL < p.d
                                                  : x_chunk * S::VL < k_left * S::TL;
            const char *from = x_own + (S::READER == LAST ? k0 * p.x_row + n0 * size
                                                          : n0 * p.x_row + static_cast<int64_t>(k0) * p.d * size);
            const uint32_t first = shared_address(to);
#pragma unroll
            for (int i = 0; i < (S::rows + x_step - 1) / x_step; i++) {
                const int row = x_row0 + i * x_step;
                const int quarter = S::quarter(S::READER == LAST ? row : x_k);
                if ((S::rows % x_step != 0 || S::threads % S::row_chunks != 0) &&
                    (row >= S::rows || x_row0 >= x_step))
                    break;
                copy16(first + (row * S::x_pitch + (x_chunk ^ S::x_swizzle(row, quarter))) * 16, from,
                       inside && row < row_end);
                from += x_step * p.x_row;
            }
        };

        /* Of K, a chunk of one j for l's a fixed step apart; of j's, too, where a thread has several. */
        constexpr int k_chunks = S::TK / S::VL, k_all = S::TJ * k_chunks;
        constexpr int kl_step = k_all < S::threads ? S::threads / k_all : 1, j_step = S::threads / k_chunks;
        const int k_l = tid / k_all, k_j = tid % k_all / k_chunks, k_chunk = tid % k_chunks;
        const char *const k_own = at.k + (static_cast<int64_t>(k_l) * p.b + k_j) * k_row + k_chunk * 16;
        const auto split_own_k = [&](char *rest, char *k) {
            const int first = k_chunk / 2 * S::k_step_bytes;
#pragma unroll
            for (int q = 0; q < (S::TJ + j_step - 1) / j_step; q++) {
                const int j = k_j + q * j_step;
                if (j >= S::TJ || k_l >= kl_step) break;
#pragma unroll
                for (int i = 0; i < (S::TL + kl_step - 1) / kl_step; i++) {
                    const int l = k_l + i * kl_step;
                    if (S::TL % kl_step != 0 && l >= S::TL) break;
                    const int at = first + l * S::TJ * 32 + S::k_offset(S::block_place(j), k_chunk % 2);
                    split_chunk(rest + at, k + at);
                }
            }
        };
        const auto load_k = [&](char *to, int k0) {
            const bool inside = k_chunk * S::VL < p.c - k0;
            const uint32_t first = shared_address(to) + k_chunk / 2 * S::k_step_bytes;
#pragma unroll
            for (int q = 0; q < (S::TJ + j_step - 1) / j_step; q++) {
                const int j = k_j + q * j_step;
                if (j >= S::TJ || k_l >= kl_step) break;
                const char *from = k_own + k0 * size + q * j_step * k_row;
                const bool valid = inside && j0 + j < p.b;
#pragma unroll
                for (int i = 0; i < (S::TL + kl_step - 1) / kl_step; i++) {
                    const int l = k_l + i * kl_step;
                    if (S::TL % kl_step != 0 && l >= S::TL) break;
                    copy16(first + l * S::TJ * 32 + S::k_offset(S::block_place(j), k_chunk % 2), from,
                           valid && l0 + l < p.d);
                    from += kl_step * p.b * k_row;
                }
            }
        };
        /* All of it: visit(where it goes, where it comes from, whether it is there) for each of this thread's chunks. */
        const auto each_k = [&](auto visit) {
            const int row_chunks = k_steps * 2;
#pragma unroll 4
            for (int c = tid; c < S::TL * S::TJ * row_chunks; c += S::threads) {
                const int row = c / row_chunks, chunk = c % row_chunks, l = row / S::TJ, j = row % S::TJ;
                visit(chunk / 2 * S::k_step_bytes + l * S::TJ * 32 + S::k_offset(S::block_place(j), chunk % 2),
                      at.k + (static_cast<int64_t>(l) * p.b + j) * k_row + chunk * 16,
                      j0 + j < p.b && l0 + l < p.d && chunk * S::VL < p.c);
            }
        };

        /* The ring: `ahead` stages are being filled while one is used. */
        const int ahead = p.stages - 1;
        const int64_t total = tiles * p.slabs;
        int64_t next_tile = tile0;
        int next_slab = 0, next_slot = 0;
        const auto load_next = [&](bool any) {
            if (any) {
                char *const to = stages + next_slot * stage_bytes;
                load_x(to, next_tile * S::TN, next_slab * S::TK);
                if (!p.resident) load_k(to + S::x_bytes, next_slab * S::TK);
                if (++next_slab == p.slabs) next_slab = 0, next_tile++;
                if (++next_slot == p.stages) next_slot = 0;
            }
            copies_commit();
        };
        ks_cuda::await_earlier(); /* once is enough, and oftener does no harm */
        if (p.resident)
            each_k([&](int to, const char *from, bool valid) { copy16(shared_address(memory) + to, from, valid); });
        for (int s = 0; s < ahead; s++) load_next(s < total);
        if constexpr (S::k_copies > 1) { /* each thread what it copied itself */
            copies_wait(ahead - 1);
            if (p.resident)
                each_k([&](int at, const char *, bool) { split_chunk(k_rest + at, memory + at); });
            else
                split_own_k(k_rest, stages + S::x_bytes);
        }

        float acc[S::LW][S::MT][S::NT][4];
#pragma unroll
        for (int e = 0; e < S::LW * S::MT * S::NT * 4; e++) (&acc[0][0][0][0])[e] = 0;
        const int never = p.slabs < 0; /* as sum_exact's in fused_cluster_f32.cuh */
        int slab = 0, slot = 0;
        int64_t tile = tile0;
        for (int64_t it = 0; it < total; it++) {
            copies_wait(ahead - 1);
            if constexpr (S::GROUP) group_publish();
            __syncthreads();
            load_next(it + ahead < total);
            const char *const xs = stages + slot * stage_bytes;
            const int k_at = p.resident ? slab * (S::TK / S::KS * S::k_step_bytes) : 0;
            const char *const ks = p.resident ? memory + k_at : xs + S::x_bytes;
            const int steps = min(S::TK / S::KS, (p.c - slab * S::TK + S::KS - 1) / S::KS);
            if (++slot == p.stages) slot = 0;
            if constexpr (S::GROUP) {
                const char *const rest = k_rest + (p.resident ? k_at : it % 2 * k_bytes);
                const auto split_next = [&] {
                    if (S::k_copies == 1 || p.resident || it + 1 == total) return;
                    copies_wait(ahead - 1);
                    split_own_k(k_rest + (it + 1) % 2 * k_bytes, stages + slot * stage_bytes + S::x_bytes);
                };
                if (steps == S::TK / S::KS) {
                    group_steps<S, S::TK / S::KS>(acc, xs, ks, rest, 0, wn, wj, wl, g, t, never, split_next);
                } else {
                    split_next();
#pragma unroll 1
                    for (int step = 0; step < steps; step++)
                        group_steps<S, 1>(acc, xs, ks + step * S::k_step_bytes, rest + step * S::k_step_bytes, step,
                                          wn, wj, wl, g, t, never, [] {});
                }
            } else if (steps == S::TK / S::KS) {
#pragma unroll
                for (int step = 0; step < S::TK / S::KS; step += S::STEPS)
                    multiply_steps<S, S::STEPS>(acc, xs, ks + step * S::k_step_bytes, step, wn, wj, wl, g, t);
            } else {
#pragma unroll 1
                for (int step = 0; step < steps; step++)
                    multiply_steps<S, 1>(acc, xs, ks + step * S::k_step_bytes, step, wn, wj, wl, g, t);
            }
            if (++slab < p.slabs) continue;

            /* The tile is done. */
            slab = 0;
            const int64_t n0 = tile++ * S::TN;
            if (__builtin_expect(p.finish.asked, false)) finish<S>(acc, p, at, wj, wl, t);
            bool lost = false;
            if (S::STAGED && p.wide_stores) {
                lost = store_staged<S>(acc, p, at, memory + p.staging + warp * 8 * S::staged_pitch, n0, wn, wj, lane);
            } else {
#pragma unroll
                for (int number = 0; number < strip<S>::count; number++) {
                    const strip<S> r(number, wn, wj, wl, g, t);
                    float v[strip<S>::length];
#pragma unroll
                    for (int e = 0; e < strip<S>::length; e++) {
                        v[e] = strip<S>::pick(acc, number, e);
                        if (T::may_lose_infinity) lost |= v[e] != v[e];
                    }
                    const int64_t n = n0 + r.n;
                    char *const to = output<S>(p, at, n, r.j, r.l);
                    if constexpr (strip<S>::length * size == 32 && S::READER == VECTOR) {
                        /* Lanes t and t^1 hold 32 bytes each, of neighbouring j's: together they store first the one's, then
                         * the other's, so that every store is of whole sectors. */
                        uint32_t w[8], sent[4];
                        pack_run<T>(w, v);
                        const bool odd = t & 1;
#pragma unroll
                        for (int q = 0; q < 4; q++) sent[q] = __shfl_xor_sync(0xffffffffu, odd ? w[q] : w[q + 4], 1);
                        const bool inside = n < p.batch && l0 + r.l < p.d;
                        char *const own = to + odd * 16;
                        const int64_t across = static_cast<int64_t>(p.d) * size;
                        if (inside && j0 + r.j - odd < p.b)
                            *reinterpret_cast<uint4 *>(odd ? own - across : own) =
                                odd ? make_uint4(sent[0], sent[1], sent[2], sent[3])
                                    : make_uint4(w[0], w[1], w[2], w[3]);
                        if (inside && j0 + r.j + !odd < p.b)
                            *reinterpret_cast<uint4 *>(odd ? own : own + across) =
                                odd ? make_uint4(w[4], w[5], w[6], w[7])
                                    : make_uint4(sent[0], sent[1], sent[2], sent[3]);
                        continue;
                    }
                    if (n >= p.batch || l0 + r.l >= p.d) continue;
                    if constexpr (S::READER == WHOLE) {
                        const int left = p.b - (j0 + r.j);
                        if (left >= 2 * S::G) {
                            store_run<T>(to, v, p.wide_stores);
                        } else {
#pragma unroll
                            for (int e = 0; e < strip<S>::length; e++)
                                if (e / S::D < left) reinterpret_cast<typename T::scalar *>(to)[e] = T::narrow(v[e]);
                        }
                    } else {
                        if (j0 + r.j < p.b) store_run<T>(to, v, true);
                    }
                }
            }
            if constexpr (T::may_lose_infinity) {
                __syncwarp(); /* lanes store for each other */
                if (lost) rescue<S>(p, at, n0, wn, wj, wl, g, t);
            }
#pragma unroll
            for (int e = 0; e < S::LW * S::MT * S::NT * 4; e++) (&acc[0][0][0][0])[e] = 0;
        }
        unit += tiles;
        __syncthreads(); /* before the next stretch's copies overwrite what slower warps still read */
    }
}

template <class S> __global__ void __launch_bounds__(S::threads, 1) fused_mma(const __grid_constant__ arguments p)
{
    if constexpr (!S::GROUP || can_group)
        compute<S>(p);
    else
        __trap(); /* planned for Hopper alone */
}

/* A shape as the host sees it, and its kernel. */
struct variant {
    reader READER;
    bool GROUP;
    int size, LW, MT, NT, TN, TJ, TL, TK, KS, VL, threads, x_bytes, k_step_bytes, k_copies, staging_bytes;
    void (*kernel)(const arguments);
};

/* No kernel: a shape that is not for this type. */
template <class S> constexpr auto kernel_of() -> void (*)(const arguments)
{
    if constexpr (S::GROUP && !S::T::groups)
        return nullptr;
    else
        return fused_mma<S>;
}

template <class S> constexpr variant describe()
{
    return {S::READER,
            S::GROUP,
            S::size,
            S::LW,
            S::MT,
            S::NT,
            S::TN,
            S::TJ,
            S::TL,
            S::TK,
            S::KS,
            S::VL,
            S::threads,
            S::x_bytes,
            S::k_step_bytes,
            S::k_copies,
            S::staging_bytes,
            kernel_of<S>()};
}

} // namespace ks_mma

#endif
