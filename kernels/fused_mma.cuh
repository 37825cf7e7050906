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
 * Work. Units are (i, group of j's and l's, tile of n); a team of `siblings` blocks takes the same units at the same time,
 * each for its own j's and l's, so that what they share of X comes from L2. Teams divide all units evenly: no last wave. */
#ifndef KS_FUSED_MMA_CUH
#define KS_FUSED_MMA_CUH

#include "mma_tile.cuh"

namespace ks_mma
{

enum reader { WHOLE, VECTOR, LAST };

/* Filled in by plan() in fused_mma.cu. Offsets and pitches in bytes unless said otherwise. */
struct arguments {
    const char *x, *k;
    char *y;
    int64_t batch;
    int b, c, d;
    int64_t x_row, y_row; /* batch-first: from n to n + 1; batch-last: from k to k + 1, from j to j + 1 */
    int64_t units;        /* of one sibling: a * rounds * n_tiles */
    int64_t n_tiles;
    int j_tiles, siblings, teams, rounds; /* siblings * rounds = j_tiles * l_tiles */
    int slabs, stages;
    bool resident;
    bool wide_stores; /* rows of Y are aligned to 16 bytes */
};

/* T: type. D: WHOLE: the pattern's d. VECTOR: TL. LAST: 1. A warp computes 16*MT rows x 8*NT columns x LW l's; WN x WJ x WL
 * warps make a block. TK values of k make a slab. */
template <class T_, reader READER_, int D_, int LW_, int MT_, int NT_, int WN_, int WJ_, int TK_> struct shape {
    using T = T_;
    static constexpr reader READER = READER_;
    static constexpr int size = T::size, D = D_, LW = LW_, MT = MT_, NT = NT_, WN = WN_, WJ = WJ_, TK = TK_;
    static constexpr int WL = D / LW, TL = D;
    static constexpr int KT = 8 / size, KS = 32 / size,
                         VL = 16 / size; /* k's of a lane, of a step; values of a chunk */
    static constexpr int threads = 32 * WN * WJ * WL;
    static constexpr int TN = 16 * MT * WN, TJ = 8 * NT * WJ;
    /* Neighbouring columns of how many products a lane gathers for its stores. */
    static constexpr int G = READER != WHOLE              ? 1
                             : NT % 4 == 0 && 8 * D <= VL ? 4
                             : NT % 2 == 0 && 4 * D <= VL ? 2
                                                          : 1;

    /* X in shared memory: `rows` rows (n; k in batch-last) of `row_chunks`, `x_pitch` apart. */
    static constexpr int rows = READER == LAST ? TK : TN;
    static constexpr int row_chunks = READER == LAST ? TN / VL : TK * TL / VL;
    static constexpr int k_chunks = TL * size / 16; /* VECTOR: chunks of one k */
    static constexpr int x_pitch = READER != WHOLE ? (LW * size >= 16 || READER == LAST ? row_chunks : row_chunks | 1)
                                   : D == 3 && row_chunks % 8 != 6 ? (row_chunks + 1) / 8 * 8 + 6
                                                                   : row_chunks;
    static constexpr int x_bytes = rows * x_pitch * 16;
    static constexpr int k_step_bytes = TL * TJ * 32;
    static constexpr int STEPS = TK / KS % T::steps == 0 ? T::steps : 1; /* taken together */
    static constexpr int LC = READER == VECTOR && LW > VL ? VL : LW;     /* l's that a lane reads at a time */

    static_assert(D % LW == 0, "warps share the l's evenly");
    static_assert(TK % KS == 0, "slabs of whole steps");
    static_assert(READER != WHOLE || LW == D, "a lane reads all l's");
    static_assert(READER != LAST || MT % (VL / 2) == 0, "a lane reads whole chunks of n's");
    static_assert(row_chunks * VL == (READER == LAST ? TN : TK * TL), "rows of whole chunks");
    static_assert(READER != WHOLE || D == 3 || x_pitch % 4 == 0, "swizzles stay within rows");

    /* What is exclusive-ored to the number of a chunk of row r (of k's `step quarter` t = (k / KT) % 4). */
    static __device__ __forceinline__ int x_swizzle(int r, int t)
    {
        if constexpr (READER == LAST) return t << 1;
        if constexpr (READER == WHOLE) {
            if constexpr (D == 1) return x_pitch % 8 == 0 ? (r & 3) << 1 : x_pitch % 8 == 4 ? r & 2 : 0;
            if constexpr (D == 2 || D == 6) return x_pitch % 8 == 0 ? (r & 1) << 2 : 0;
            if constexpr (D == 4) return r & 1;
            return 0;
        } else {
            if constexpr (LW * size < 16) return 0;
            if constexpr (KT * k_chunks == 2) return r & 1;
            if constexpr (KT * k_chunks == 4) return (t >> 1) | (r & 1) << 1;
            return t | (r & 1) << 2;
        }
    }
    /* Which j, from the warp's first, column c of product `tile` stands for; and the way back, to tile * 8 + c. In VECTOR
     * mode a store takes one column of each lane t, so there the columns of one parity are neighbours. */
    static __device__ __forceinline__ int column(int tile, int c)
    {
        if constexpr (READER == VECTOR) return tile * 8 + (c & 1) * 4 + (c >> 1);
        return tile / G * 8 * G + (c >> 1) * 2 * G + tile % G * 2 + (c & 1);
    }
    static __device__ __forceinline__ int place(int j)
    {
        if constexpr (READER == VECTOR) return (j & ~7) + (j & 3) * 2 + (j >> 2 & 1);
        const int group = j / (8 * G), in_group = j % (8 * G);
        return (group * G + in_group % (2 * G) / 2) * 8 + in_group / (2 * G) * 2 + (j & 1);
    }
    static __device__ __forceinline__ int block_place(int j) /* of any of the block's j's */
    {
        return j / (8 * NT) * (8 * NT) + place(j % (8 * NT));
    }
};

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b)
{
    return __byte_perm(a, b, 0x5410);
}

__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b)
{
    return __byte_perm(a, b, 0x7632);
}

/* Halves number e0 and e1 of the words w, as a pair. */
__device__ __forceinline__ uint32_t halves(const uint32_t *w, int e0, int e1)
{
    return __byte_perm(w[e0 / 2], w[e1 / 2], (e0 % 2 ? 0x32 : 0x10) | (e1 % 2 ? 0x7600 : 0x5400));
}

/* The raw A operands of one step for LC l's, those from u * LC on: a[l][m-tile]. xs: the stage. */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::LC][S::MT][4], const char *xs, int step, int u, int wn,
                                       int wl, int g, int t)
{
    constexpr int KT = S::KT;
    if constexpr (S::READER == LAST) {
        constexpr int MV = S::VL / 2; /* m-tiles of a chunk */
        const char *const at = xs + (KT * t * S::x_pitch + wn * (S::MT / MV) * 8 + (g ^ S::x_swizzle(0, t))) * 16;
#pragma unroll
        for (int v = 0; v < S::MT / MV; v++) {
            uint32_t r[KT][4];
#pragma unroll
            for (int q = 0; q < KT; q++) load_words<4>(r[q], at + ((step * S::KS + q) * S::x_pitch + v * 8) * 16);
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
                if constexpr (S::READER == WHOLE) {
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
                                              (((KT * t + q) * S::TL + wl * S::LW + u * S::LC) * S::size ^ swizzle));
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

/* Rounds neighbouring results to the type, as words. */
template <class T, int WORDS, int COUNT>
__device__ __forceinline__ void pack_run(uint32_t (&w)[WORDS], const float (&v)[COUNT])
{
    static_assert(COUNT * T::size == WORDS * 4, "whole words");
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        if constexpr (T::size == 2)
            w[i] = T::pack(v[2 * i], v[2 * i + 1]);
        else
            w[i] = __float_as_uint(v[i]);
    }
}

/* Stores neighbouring results. */
template <class T, int COUNT> __device__ __forceinline__ void store_run(char *to, const float (&v)[COUNT], bool wide)
{
    constexpr int words = COUNT * T::size / 4;
    if (!wide) {
#pragma unroll
        for (int e = 0; e < COUNT; e++) reinterpret_cast<typename T::scalar *>(to)[e] = T::narrow(v[e]);
        return;
    }
    uint32_t w[words];
    pack_run<T>(w, v);
    if constexpr (words % 4 == 0) {
#pragma unroll
        for (int i = 0; i < words / 4; i++)
            reinterpret_cast<uint4 *>(to)[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    } else if constexpr (words % 2 == 0) {
#pragma unroll
        for (int i = 0; i < words / 2; i++) reinterpret_cast<uint2 *>(to)[i] = make_uint2(w[2 * i], w[2 * i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < words; i++) reinterpret_cast<uint32_t *>(to)[i] = w[i];
    }
}

/* The strip of results that lane (g, t) stores together: its number in 0..runs-1 gives n, j and l of the first. */
template <class S> struct strip {
    static constexpr int length = S::READER == LAST ? S::VL : S::READER == WHOLE ? 2 * S::G * S::D : S::LW;
    static constexpr int count = S::MT * S::NT * S::LW * 4 / length;
    int n, j, l; /* from the tile's first */
    __device__ __forceinline__ strip(int number, int wn, int wj, int wl, int g, int t)
    {
        if constexpr (S::READER == LAST) {
            constexpr int vectors = S::MT * 2 / S::VL;
            const int v = number / (2 * S::NT), col = number % (2 * S::NT);
            n = ((wn * vectors + v) * 8 + g) * S::VL, j = wj * 8 * S::NT + S::column(col / 2, 2 * t + col % 2), l = 0;
        } else {
            constexpr int columns = S::READER == WHOLE ? S::NT / S::G : 2 * S::NT;
            const int row = number / columns, col = number % columns;
            n = wn * 16 * S::MT + row * 8 + g, l = wl * S::LW;
            j = wj * 8 * S::NT +
                (S::READER == WHOLE ? col * 8 * S::G + 2 * S::G * t : S::column(col / 2, 2 * t + col % 2));
        }
    }
    /* Element e of the strip: which accumulator. All arguments are known when the loops are unrolled. */
    static __device__ __forceinline__ float pick(const float (&acc)[S::LW][S::MT][S::NT][4], int number, int e)
    {
        if constexpr (S::READER == LAST) {
            constexpr int MV = S::VL / 2;
            const int v = number / (2 * S::NT), col = number % (2 * S::NT);
            return acc[0][v * MV + e / 2][col / 2][e % 2 * 2 + col % 2];
        } else if constexpr (S::READER == WHOLE) {
            const int row = number / (S::NT / S::G), group = number % (S::NT / S::G), jj = e / S::D;
            return acc[e % S::D][row / 2][group * S::G + jj / 2][row % 2 * 2 + jj % 2];
        } else {
            const int row = number / (2 * S::NT), col = number % (2 * S::NT);
            return acc[e][row / 2][col / 2][row % 2 * 2 + col % 2];
        }
    }
};

/* A stretch of units of one block: what stays the same while K does. */
struct stretch {
    const char *x, *k; /* of the first (i, l), and j */
    char *y;
    int j0, l0;
};

template <class S>
__device__ __forceinline__ char *output(const arguments &p, const stretch &at, int64_t n, int j, int l)
{
    return at.y + (S::READER == LAST ? j * p.y_row + n * S::size
                                     : n * p.y_row + (static_cast<int64_t>(j) * p.d + l) * S::size);
}

/* Takes this lane's NaNs of a tile anew, in float32 by ordinary units: splitting an infinite operand makes a NaN that may
 * not belong in the sum. Rare, so kept out of the way of the registers. */
template <class S>
__device__ __noinline__ void rescue(const arguments &p, const stretch &at, int64_t n0, int wn, int wj, int wl, int g,
                                    int t)
{
    const int64_t x_step = S::READER == LAST ? p.x_row : static_cast<int64_t>(p.d) * 4;
#pragma unroll 1
    for (int number = 0; number < strip<S>::count; number++)
#pragma unroll 1
        for (int e = 0; e < strip<S>::length; e++) {
            const strip<S> r(number, wn, wj, wl, g, t);
            const int64_t n = n0 + r.n + (S::READER == LAST ? e : 0);
            const int j = r.j + (S::READER == WHOLE ? e / S::D : 0);
            const int l = r.l + (S::READER == WHOLE ? e % S::D : S::READER == VECTOR ? e : 0);
            if (n >= p.batch || at.j0 + j >= p.b || at.l0 + l >= p.d) continue;
            float *const y = reinterpret_cast<float *>(output<S>(p, at, n, j, l));
            if (*y == *y) continue;
            const char *const x = at.x + (S::READER == LAST ? (l * p.batch + n) * 4 : n * p.x_row + l * 4);
            const float *const k = reinterpret_cast<const float *>(at.k) + (static_cast<int64_t>(l) * p.b + j) * p.c;
            float sum = 0;
#pragma unroll 1
            for (int q = 0; q < p.c; q++) sum = fmaf(*reinterpret_cast<const float *>(x + q * x_step), k[q], sum);
            *y = sum;
        }
}

template <class S> __global__ void __launch_bounds__(S::threads, 1) fused_mma(const __grid_constant__ arguments p)
{
    using T = typename S::T;
    constexpr int size = S::size;
    extern __shared__ __align__(128) char memory[];
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
    const int wl = warp % S::WL, wj = warp / S::WL % S::WJ, wn = warp / (S::WL * S::WJ);
    const int team = blockIdx.x / p.siblings, sibling = blockIdx.x % p.siblings;
    const int k_steps = p.resident ? (p.c + S::KS - 1) / S::KS : S::TK / S::KS;
    const int k_bytes = k_steps * S::k_step_bytes;
    const int stage_bytes = S::x_bytes + (p.resident ? 0 : k_bytes);
    char *const stages = memory + (p.resident ? k_bytes : 0);
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
                const int quarter = (S::READER == LAST ? row : x_k) / S::KT % 4;
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
        const auto load_k = [&](char *to, int k0) {
            const bool inside = k_chunk * S::VL < p.c - k0;
            const uint32_t first = shared_address(to) + k_chunk / 2 * S::k_step_bytes + k_chunk % 2 * 16;
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
                    copy16(first + (l * S::TJ + S::block_place(j)) * 32, from, valid && l0 + l < p.d);
                    from += kl_step * p.b * k_row;
                }
            }
        };
        const auto load_all_k = [&](char *to) {
            const int row_chunks = k_steps * 2;
#pragma unroll 4
            for (int c = tid; c < S::TL * S::TJ * row_chunks; c += S::threads) {
                const int row = c / row_chunks, chunk = c % row_chunks, l = row / S::TJ, j = row % S::TJ;
                copy16(shared_address(to) + chunk / 2 * S::k_step_bytes + (l * S::TJ + S::block_place(j)) * 32 +
                           chunk % 2 * 16,
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
        if (p.resident) load_all_k(memory);
        for (int s = 0; s < ahead; s++) load_next(s < total);

        float acc[S::LW][S::MT][S::NT][4];
#pragma unroll
        for (int e = 0; e < S::LW * S::MT * S::NT * 4; e++) (&acc[0][0][0][0])[e] = 0;
        int slab = 0, slot = 0;
        int64_t tile = tile0;
        for (int64_t it = 0; it < total; it++) {
            copies_wait(ahead - 1);
            __syncthreads();
            load_next(it + ahead < total);
            const char *const xs = stages + slot * stage_bytes;
            const char *const ks = p.resident ? memory + slab * (S::TK / S::KS * S::k_step_bytes) : xs + S::x_bytes;
            const int steps = min(S::TK / S::KS, (p.c - slab * S::TK + S::KS - 1) / S::KS);
            if (steps == S::TK / S::KS) {
#pragma unroll
                for (int step = 0; step < S::TK / S::KS; step += S::STEPS)
                    multiply_steps<S, S::STEPS>(acc, xs, ks + step * S::k_step_bytes, step, wn, wj, wl, g, t);
            } else {
#pragma unroll 1
                for (int step = 0; step < steps; step++)
                    multiply_steps<S, 1>(acc, xs, ks + step * S::k_step_bytes, step, wn, wj, wl, g, t);
            }
            if (++slot == p.stages) slot = 0;
            if (++slab < p.slabs) continue;

            /* The tile is done. */
            slab = 0;
            const int64_t n0 = tile++ * S::TN;
            bool lost = false;
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
                            odd ? make_uint4(sent[0], sent[1], sent[2], sent[3]) : make_uint4(w[0], w[1], w[2], w[3]);
                    if (inside && j0 + r.j + !odd < p.b)
                        *reinterpret_cast<uint4 *>(odd ? own : own + across) =
                            odd ? make_uint4(w[4], w[5], w[6], w[7]) : make_uint4(sent[0], sent[1], sent[2], sent[3]);
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
            if (T::may_lose_infinity && lost) rescue<S>(p, at, n0, wn, wj, wl, g, t);
#pragma unroll
            for (int e = 0; e < S::LW * S::MT * S::NT * 4; e++) (&acc[0][0][0][0])[e] = 0;
        }
        unit += tiles;
        __syncthreads(); /* before the next stretch's copies overwrite what slower warps still read */
    }
}

/* A shape as the host sees it, and its kernel. */
struct variant {
    reader READER;
    int size, LW, MT, NT, TN, TJ, TL, TK, KS, VL, threads, x_bytes, k_step_bytes;
    void (*kernel)(const arguments);
};

template <class S> constexpr variant describe()
{
    return {S::READER, S::size, S::LW, S::MT,      S::NT,      S::TN,           S::TJ,       S::TL,
            S::TK,     S::KS,   S::VL, S::threads, S::x_bytes, S::k_step_bytes, fused_mma<S>};
}

} // namespace ks_mma

#endif
