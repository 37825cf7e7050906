/* fused2.cuda's kernel: Y = (X * transpose(K2)) * transpose(K1), batch-first, in one launch on tensor cores.
 *
 * Why. Two launches write what lies between the factors and read it again. Where both are bound by memory that is half of all
 * traffic: with Monarch's square factors 4 passes over the activations, here 2.
 *
 * What a block keeps. All weights that it needs, for as long as it lives, since they are read again for every row; two tiles of
 * X, of which the second arrives while the first is worked on; and one tile of the intermediate H. Y takes the place of its X,
 * from where it is stored in whole rows. So a tile of TN rows is: X there? -> product -> H -> product -> Y -> store, fetch X of
 * the tile after next. Weights that were read again from L2 for every tile would be the limit instead: at n = 4096 they are 1 MB,
 * and 16 rows of X and Y 256 KB.
 *
 * Slices. A pair falls apart into independent ones: along the outermost index, where both have super-blocks in common (A of
 * them), and along the innermost, where both have l's in common (runs of `run` of G). A slice is a pair of smaller patterns
 * whose X and Y are runs of features a step apart. Monarch's pair is one slice.
 *
 * Teams. Where the weights of a slice are too many for one block, a team of blocks shares them: a cluster, whose blocks can write
 * into one another's shared memory (Hopper). Each block takes its part of the first factor (of its super-blocks, or of its l's)
 * with that part of X, and its part of the second (super-blocks, l's or outputs j) with that part of Y; what the first product
 * makes it writes into the H of whoever needs it. The team acts as one block with as much more shared memory. Without clusters
 * outputs j of the second factor can be shared out among blocks that each do all of the first product (`parts`).
 *
 * Places. X, H and Y lie in shared memory as in memory, row by row, in the order of a slice's features; a chunk of 16 bytes is
 * moved within its 128 by an exclusive-or of its number's higher bits and of the row, so that reads along k at any power of two
 * d, and stores along j, touch all banks. K's rows (one j of one block) lie in planes of 64 bytes of k, as copied: lane t of four
 * reads chunk t, and takes the same k's of X: the sum over k does not mind that the hardware calls them by other numbers. Where
 * c ends within a plane, the missing k's are zeros in both operands.
 *
 * Which j a column of a product stands for is chosen so that a lane's results are neighbours: up to 16 bytes at a time. */
#ifndef KS_FUSED2_CUH
#define KS_FUSED2_CUH

#include "mma_group.cuh"

namespace ks_fused2
{

enum { WARPS = 8, THREADS = 32 * WARPS, PLANE_ROW = 64, MOST_FEATURES = 1 << 15 };

/* value / by for values below 2^16. */
struct divisor {
    unsigned by, magic;
};

/* Which part of a slice's features one block of a team has, and how the team shares a factor. */
enum sharing { WHOLE_FACTOR, BY_BLOCKS, BY_RUNS, BY_OUTPUTS };

/* One product as a block does it: a pattern (a, b, c, d) of its own. Offsets into K are in rows of c values. */
struct factor {
    const char *k;
    int a, b, c, d, planes, plane_bytes;
    int64_t k_outer, k_inner, k_rank, k_part; /* to the first row, from slice to slice, rank to rank, part to part */
    int64_t stretch_step;                     /* the rows are `stretches` stretches of neighbours */
    int stretch, stretches;
    divisor j_groups, l_groups, groups; /* of 8 * NT j's, of 8 l's where d allows; all, for each 16 * MT rows */
};

/* X or Y as a block sees it: `features` of each row, in runs of neighbours. Offsets in elements. */
struct side {
    char *at;
    int64_t row, outer, inner, rank, part;
    int step, features, words; /* words of a run that lie aligned: 4, 2 or 1 */
    divisor run;
};

/* Filled in by fused2.cu. */
struct arguments {
    factor f[2]; /* in the order of application */
    side x, y;
    int64_t batch, units, n_tiles; /* units: (slice and part, tile of rows) */
    int rows, teams, blocks;       /* of a tile; of a team */
    int inners, parts;
    int x_bytes, x_pitch, h_bytes, h_pitch, k_bytes;
    divisor x_lanes; /* threads that copy a row of X: each a chunk, or several */
    int x_step;      /* rows that are copied at a time */
    bool ahead;      /* two H's: the first product is a tile ahead of the second */
    sharing first, second;
    int h_shift;            /* BY_RUNS in the first: l's of the slice's H; else 0 */
    int h_rank;             /* from one rank's outputs to the next one's */
    int h_words;            /* neighbouring words that always have one owner: 4, 2 or 1 */
    divisor h_own, h_slice; /* of the second: features of one owner, or its l's and all l's */
};

__device__ __forceinline__ int quotient(int value, const divisor &d)
{
    return d.by == 1 ? value : static_cast<int>(__umulhi(static_cast<unsigned>(value), d.magic));
}

/* Where the chunk of 16 bytes lies in a row. */
__device__ __forceinline__ int placed(int chunk, int row)
{
    const int fold = (chunk >> 3) ^ (chunk >> 6) ^ (chunk >> 9) ^ ((row & 1) * 7) ^ ((row >> 1) & 3);
    return chunk ^ (fold & 7);
}

template <int SIZE> __device__ __forceinline__ int element_offset(int q, int row)
{
    constexpr int PER_CHUNK = 16 / SIZE;
    return placed(q / PER_CHUNK, row) * 16 + q % PER_CHUNK * SIZE;
}

__device__ __forceinline__ void team_arrive()
{
    KS_HOPPER_ASM("barrier.cluster.arrive.aligned;" ::: "memory");
}

__device__ __forceinline__ void team_wait()
{
    KS_HOPPER_ASM("barrier.cluster.wait.aligned;" ::: "memory");
}

/* WORDS words to the place in that block of the team whose address here is `to`. */
template <int WORDS> __device__ __forceinline__ void store_remote(uint32_t to, int rank, const uint32_t *v)
{
    uint32_t remote = 0;
    KS_HOPPER_ASM("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(to), "r"(rank));
    if constexpr (WORDS == 4)
        KS_HOPPER_ASM("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(remote), "r"(v[0]), "r"(v[1]),
                      "r"(v[2]), "r"(v[3])
                      : "memory");
    else if constexpr (WORDS == 2)
        KS_HOPPER_ASM("st.shared::cluster.v2.b32 [%0], {%1, %2};" ::"r"(remote), "r"(v[0]), "r"(v[1]) : "memory");
    else
        KS_HOPPER_ASM("st.shared::cluster.b32 [%0], %1;" ::"r"(remote), "r"(v[0]) : "memory");
}

template <int WORDS> __device__ __forceinline__ void store_words(char *to, const uint32_t *v)
{
    if constexpr (WORDS == 4)
        *reinterpret_cast<uint4 *>(to) = make_uint4(v[0], v[1], v[2], v[3]);
    else if constexpr (WORDS == 2)
        *reinterpret_cast<uint2 *>(to) = make_uint2(v[0], v[1]);
    else
        *reinterpret_cast<uint32_t *>(to) = v[0];
}

/* Where results go, row by row: the H of this block or, of a team, of whoever needs them. */
template <int SIZE, bool TEAM> struct hidden {
    static constexpr int PER_WORD = 4 / SIZE;
    const arguments &p;
    char *to;
    int rank;

    struct line {
        const hidden &h;
        char *at;
        int row;

        /* WORDS words of neighbouring outputs, the first of which is (ij, l) with ij = i * b + j. */
        template <int WORDS> __device__ __forceinline__ void put(int ij, int l, int d, const uint32_t *v) const
        {
            if constexpr (!TEAM) {
                store_words<WORDS>(at + element_offset<SIZE>(ij * d + l, row), v);
            } else if (WORDS <= h.p.h_words) {
                h.template hand_over<WORDS>(ij, l, at, row, v);
            } else if constexpr (WORDS > 1) {
                put<WORDS / 2>(ij, l, d, v);
                put<WORDS / 2>(ij, l + WORDS / 2 * PER_WORD, d, v + WORDS / 2);
            }
        }
    };

    __device__ __forceinline__ line at_row(int row) const
    {
        return {*this, to + row * p.h_pitch, row};
    }

    template <int WORDS>
    __device__ __forceinline__ void hand_over(int ij, int l, char *at, int row, const uint32_t *v) const
    {
        const int place = rank * p.h_rank + ij * p.h_shift + l;
        if (p.second == BY_OUTPUTS) {
            const uint32_t there = ks_mma::shared_address(at + element_offset<SIZE>(place, row));
            for (int r = 0; r < p.blocks; r++) store_remote<WORDS>(there, r, v);
            return;
        }
        int own = place, run = 0;
        if (p.second == BY_RUNS) {
            run = quotient(place, p.h_slice);
            own = place - run * static_cast<int>(p.h_slice.by);
        }
        const int owner = quotient(own, p.h_own);
        const int q = (run - owner) * static_cast<int>(p.h_own.by) + own;
        store_remote<WORDS>(ks_mma::shared_address(at + element_offset<SIZE>(q, row)), owner, v);
    }
};

/* The same for Y in memory: a lane's neighbours together. */
template <int SIZE> struct memory_rows {
    const side &y;
    char *to;
    int64_t left; /* rows of the tile that there are */

    struct line {
        const side &y;
        char *at;
        bool there;

        template <int WORDS> __device__ __forceinline__ void put(int ij, int l, int d, const uint32_t *v) const
        {
            if (!there) return;
            if (WORDS <= y.words) {
                const int q = ij * d + l, run = quotient(q, y.run);
                store_words<WORDS>(at + (q + run * (y.step - static_cast<int>(y.run.by))) * SIZE, v);
            } else if constexpr (WORDS > 1) {
                put<WORDS / 2>(ij, l, d, v);
                put<WORDS / 2>(ij, l + WORDS / 2 * (4 / SIZE), d, v + WORDS / 2);
            }
        }
    };

    __device__ __forceinline__ line at_row(int row) const
    {
        return {y, to + row * y.row * SIZE, row < left};
    }
};

/* The shape of a warp's work: 16 * MT rows x 8 * NT outputs j x D neighbouring l's of I super-blocks, of a pattern with d = D
 * or, RUNS, a multiple of the D values of a chunk. MT is 2 where tiles allow it and registers do. fused2.cu knows these, too. G: products of neighbouring j's. */
template <class T_, int D_, int MT_> struct shape {
    using T = T_;
    static constexpr int SIZE = T::size, PER_CHUNK = 16 / SIZE, PER_WORD = 4 / SIZE, STEP = PLANE_ROW / SIZE;
    static constexpr bool RUNS = D_ == PER_CHUNK;
    static constexpr int D = D_, MT = D > 3 ? 1 : MT_, NT = D <= 2 ? 4 : 2;
    static constexpr int I = D == 1 ? 2 : 1, BLOCKS = I * D;
    static constexpr int G = D * 8 <= PER_CHUNK ? 4 : D * 4 <= PER_CHUNK ? 2 : 1;
    static constexpr int STORED = RUNS ? 4 : 2 * G * D / PER_WORD; /* words of a lane's neighbouring results */
    static constexpr int WORDS = STORED % 4 == 0 ? 4 : STORED % 2 == 0 ? 2 : 1;

    /* Which j, from the first, column c of product `tile` stands for. */
    static __device__ __forceinline__ int column(int tile, int c)
    {
        return tile / G * 8 * G + (c >> 1) * 2 * G + tile % G * 2 + (c & 1);
    }
};

/* A lane's k's of a step, 16 bytes of them, as four words, of D neighbouring l's, from one row. chunk: where they begin; step:
 * from k to k + 1 in chunks (RUNS). */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::D][4], const char *row_at, int row, int chunk, int step)
{
    if constexpr (S::RUNS) {
        uint32_t r[S::PER_CHUNK][4];
#pragma unroll
        for (int k = 0; k < S::PER_CHUNK; k++)
            ks_mma::load_words<4>(r[k], row_at + placed(chunk + k * step, row) * 16);
#pragma unroll
        for (int w = 0; w < 4; w++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                if constexpr (S::SIZE == 2) {
                    a[2 * w][q] = ks_mma::low_halves(r[2 * q][w], r[2 * q + 1][w]);
                    a[2 * w + 1][q] = ks_mma::high_halves(r[2 * q][w], r[2 * q + 1][w]);
                } else {
                    a[w][q] = r[q][w];
                }
            }
    } else {
        uint32_t w[4 * S::D];
#pragma unroll
        for (int v = 0; v < S::D; v++) ks_mma::load_words<4>(w + 4 * v, row_at + placed(chunk + v, row) * 16);
#pragma unroll
        for (int l = 0; l < S::D; l++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                a[l][q] = S::SIZE == 2 && S::D > 1 ? ks_mma::halves(w, l + S::D * 2 * q, l + S::D * (2 * q + 1))
                                                   : w[l + S::D * q];
    }
}

/* A warp's piece of a product: where it begins. */
struct piece {
    int row0, i, j0, l0;
};

template <class S> using sums = float[S::BLOCKS][S::MT][S::NT][4];

/* Output (row, j) of block i * d + l anew, without splitting numbers in two: Inf has no second part, and makes NaN of it. */
template <class S>
__device__ __noinline__ float one_output(const factor &f, const char *from, int pitch, const char *ks, int row, int i,
                                         int j, int l)
{
    float sum = 0;
    for (int k = 0; k < f.c; k++) {
        const char *const x = from + row * pitch + element_offset<4>((i * f.c + k) * f.d + l, row);
        const char *const w =
            ks + k / S::STEP * f.plane_bytes + ((i * f.d + l) * f.b + j) * PLANE_ROW + k % S::STEP * 4;
        sum = fmaf(*reinterpret_cast<const float *>(x), *reinterpret_cast<const float *>(w), sum);
    }
    return sum;
}

template <class S>
__device__ __forceinline__ void rescue(sums<S> &acc, const factor &f, const char *from, int pitch, const char *ks,
                                       const piece &own, int g, int t)
{
#pragma unroll
    for (int q = 0; q < S::BLOCKS * S::MT * S::NT * 4; q++) {
        const int u = q / 4 / S::NT / S::MT, m = q / 4 / S::NT % S::MT, n = q / 4 % S::NT, e = q % 4;
        const int i = own.i + u / S::D, j = own.j0 + S::column(n, 2 * t + e % 2);
        float &v = acc[u][m][n][e];
        if (v != v && j < f.b && i < f.a)
            v = one_output<S>(f, from, pitch, ks, own.row0 + m * 16 + e / 2 * 8 + g, i, j, own.l0 + u % S::D);
    }
}

/* acc[block][m-tile][n-tile] = X * K^T. */
template <class S>
__device__ __forceinline__ void sum_up(sums<S> &acc, const factor &f, const char *from, int pitch, const char *ks,
                                       const piece &own, int g, int t)
{
    using T = typename S::T;
    constexpr int D = S::D, I = S::I, MT = S::MT, NT = S::NT, E = S::PER_CHUNK;
    const int step = S::RUNS ? f.d / E : 0; /* from k to k + 1, in chunks */
    const char *const x_own = from + (own.row0 + g) * pitch;
    int chunk0[I], k_row[I];
#pragma unroll
    for (int v = 0; v < I; v++) {
        const int i = I == 1 ? own.i : min(own.i + v, f.a - 1); /* what is no more is done twice */
        chunk0[v] = S::RUNS ? (i * f.c + E * t) * step + own.l0 / E : (i * f.c / E + t) * D;
        k_row[v] = ((i * f.d + own.l0) * f.b + own.j0 + S::column(0, g)) * PLANE_ROW + t * 16;
    }
#pragma unroll
    for (int q = 0; q < S::BLOCKS * MT * NT * 4; q++) (&acc[0][0][0][0])[q] = 0;

    for (int s = 0; s < f.planes; s++) {
        uint32_t a[MT][2][I][D][4];
        if (s * S::STEP + E * t < f.c) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
#pragma unroll
                    for (int v = 0; v < I; v++)
                        read_x<S>(a[m][half][v], x_own + (m * 16 + half * 8) * pitch, g,
                                  chunk0[v] + s * (S::RUNS ? S::STEP * step : 4 * D), step);
        } else {
#pragma unroll
            for (int q = 0; q < MT * 2 * S::BLOCKS * 4; q++) (&a[0][0][0][0][0])[q] = 0;
        }
#pragma unroll
        for (int u = 0; u < S::BLOCKS; u++) {
            const int v = u / D, l = u % D;
            const char *const k_plane = ks + s * f.plane_bytes + k_row[v] + l * f.b * PLANE_ROW;
            typename T::template operand<4> x[MT][2];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int q = 0; q < 2; q++)
                    x[m][q].set({a[m][0][v][l][2 * q], a[m][1][v][l][2 * q], a[m][0][v][l][2 * q + 1],
                                 a[m][1][v][l][2 * q + 1]});
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint32_t w[4];
                ks_mma::load_words<4>(w, k_plane + S::column(n, 0) * PLANE_ROW);
                typename T::template operand<2> k[2];
                k[0].set({w[0], w[1]});
                k[1].set({w[2], w[3]});
#pragma unroll
                for (int m = 0; m < MT; m++) T::multiply(acc[u][m][n], x[m], k);
            }
        }
    }
}

/* Two neighbouring results, or one, as a word of the type. */
template <class T, class F> __device__ __forceinline__ uint32_t word_of(int w, const F &value)
{
    if constexpr (T::size == 2)
        return T::pack(value(2 * w), value(2 * w + 1));
    else
        return __float_as_uint(value(w));
}

/* A lane's results of row half * 8 + g of m-tile m and super-block own.i + v, neighbours together. */
template <class S, class Line>
__device__ __forceinline__ void put_row(const sums<S> &acc, const factor &f, const piece &own, int v, int m, int half,
                                        int t, const Line &to)
{
    using T = typename S::T;
    constexpr int D = S::D, G = S::G;
    const int i = own.i + v;
    if (S::I > 1 && i >= f.a) return;
#pragma unroll
    for (int n = 0; n < S::NT; n += G)
#pragma unroll
        for (int e = 0; e < (S::RUNS ? 2 : 1); e++) {
            const int j = own.j0 + n * 8 + 2 * G * t + e;
            const auto value = [&](int q) { /* the q-th from (j, l0) on */
                                            return S::RUNS
                                                       ? acc[q % D][m][n][half * 2 + e]
                                                       : acc[v * D + q % D][m][n + q / D / 2][half * 2 + q / D % 2];
            };
            uint32_t words[S::STORED];
#pragma unroll
            for (int w = 0; w < S::STORED; w++) words[w] = word_of<T>(w, value);
            if (j < f.b)
#pragma unroll
                for (int w = 0; w < S::STORED; w += S::WORDS)
                    to.template put<S::WORDS>(i * f.b + j, own.l0 + w * S::PER_WORD, f.d, words + w);
        }
}

/* One product of a tile: its pieces of work, dealt out to the warps. */
template <class S, class To>
__device__ __forceinline__ void multiply(const factor &f, const char *from, int pitch, const char *ks, int rows,
                                         const To &to)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int pieces = f.groups.by * (rows / (16 * S::MT));
    for (int number = threadIdx.x / 32; number < pieces; number += WARPS) {
        const int m_tile = quotient(number, f.groups), group = number - m_tile * static_cast<int>(f.groups.by);
        const int il = quotient(group, f.j_groups);
        piece own = {m_tile * 16 * S::MT, il * S::I, (group - il * static_cast<int>(f.j_groups.by)) * 8 * S::NT, 0};
        if constexpr (S::RUNS) {
            own.i = quotient(il, f.l_groups);
            own.l0 = (il - own.i * static_cast<int>(f.l_groups.by)) * S::D;
        }
        sums<S> acc;
        sum_up<S>(acc, f, from, pitch, ks, own, g, t);
        if constexpr (S::T::may_lose_infinity) rescue<S>(acc, f, from, pitch, ks, own, g, t);
#pragma unroll
        for (int m = 0; m < S::MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const auto line = to.at_row(own.row0 + m * 16 + half * 8 + g);
#pragma unroll
                for (int v = 0; v < S::I; v++) put_row<S>(acc, f, own, v, m, half, t, line);
            }
    }
}

template <class T, int MT, class To>
__device__ __forceinline__ void multiply_by(const factor &f, const char *from, int pitch, const char *ks, int rows,
                                            const To &to)
{
    switch (f.d) {
    case 1:
        return multiply<shape<T, 1, MT>>(f, from, pitch, ks, rows, to);
    case 2:
        return multiply<shape<T, 2, MT>>(f, from, pitch, ks, rows, to);
    case 3:
        return multiply<shape<T, 3, MT>>(f, from, pitch, ks, rows, to);
    case 4:
        return multiply<shape<T, 4, MT>>(f, from, pitch, ks, rows, to);
    case 6:
        return multiply<shape<T, 6, MT>>(f, from, pitch, ks, rows, to);
    default:
        return multiply<shape<T, 16 / T::size, MT>>(f, from, pitch, ks, rows, to);
    }
}

/* A block's rows of K into shared memory. */
template <int SIZE> __device__ __forceinline__ void load_k(const factor &f, char *to, int64_t first_row)
{
    const int chunks = f.planes * 4, step = THREADS / chunks; /* chunks of a row */
    const int chunk = threadIdx.x % chunks, row0 = threadIdx.x / chunks;
    const uint32_t own = ks_mma::shared_address(to) + chunk / 4 * f.plane_bytes + chunk % 4 * 16;
    const int64_t k_row = static_cast<int64_t>(f.c) * SIZE;
    const bool inside = chunk * 16 < k_row;
    if (row0 >= step) return;
    for (int s = 0; s < f.stretches; s++) {
        const char *from = f.k + (first_row + s * f.stretch_step + row0) * k_row + chunk * 16;
        const uint32_t at = own + s * f.stretch * PLANE_ROW;
        for (int row = row0; row < f.stretch; row += step, from += step * k_row)
            ks_mma::copy16(at + row * PLANE_ROW, inside ? from : f.k, inside);
    }
}

/* A tile's rows of X; zeros behind the last. */
template <int SIZE>
__device__ __forceinline__ void load_x(const arguments &p, const char *from, char *to, int64_t left)
{
    const int row0 = quotient(threadIdx.x, p.x_lanes), lanes = static_cast<int>(p.x_lanes.by);
    if (row0 >= p.x_step) return;
    const int64_t step = p.x_step * p.x.row * SIZE;
    for (int chunk = threadIdx.x - row0 * lanes; chunk * 16 < p.x.features * SIZE; chunk += lanes) {
        const int q = chunk * 16 / SIZE, run = quotient(q, p.x.run);
        const int64_t offset = row0 * p.x.row + run * p.x.step + (q - run * static_cast<int>(p.x.run.by));
        const char *at = from + offset * SIZE;
#pragma unroll 4
        for (int row = row0; row < p.rows; row += p.x_step, at += step)
            ks_mma::copy16(ks_mma::shared_address(to + row * p.x_pitch + placed(chunk, row) * 16),
                           row < left ? at : from, row < left);
    }
}

/* Until all threads of the block are here, and all that the team has sent since the last such call. */
template <bool TEAM> __device__ __forceinline__ void meet()
{
    if constexpr (TEAM) {
        team_arrive();
        team_wait();
    } else {
        __syncthreads();
    }
}

template <class T, int MT, bool TEAM>
__global__ void __launch_bounds__(THREADS, 1) pair_kernel(const __grid_constant__ arguments p)
{
    constexpr int SIZE = T::size;
    extern __shared__ __align__(128) char memory[];
    const int team = blockIdx.x / p.blocks, rank = blockIdx.x % p.blocks;
    char *const k1 = memory + p.f[0].planes * p.f[0].plane_bytes;
    char *const x_tiles = memory + p.k_bytes, *const h_tiles = x_tiles + 2 * p.x_bytes;
    int64_t unit = p.units * team / p.teams;
    const int64_t end = p.units * (team + 1) / p.teams;
    while (unit < end) {
        /* A stretch of tiles with the same weights. */
        const int64_t own = unit / p.n_tiles, tile0 = unit % p.n_tiles, slice = own / p.parts;
        const int64_t count = min(p.n_tiles - tile0, end - unit);
        const int64_t part = own % p.parts, inner = slice % p.inners, outer = slice / p.inners;
        const auto first_of = [&](const side &s) {
            return outer * s.outer + inner * s.inner + rank * s.rank + part * s.part;
        };
#pragma unroll 1
        for (int q = 0; q < 2; q++) {
            const factor &f = p.f[q];
            load_k<SIZE>(f, q ? k1 : memory,
                         outer * f.k_outer + inner * f.k_inner + rank * f.k_rank + part * f.k_part);
        }
        const char *const x = p.x.at + (first_of(p.x) + tile0 * p.rows * p.x.row) * SIZE;
        char *const y = p.y.at + (first_of(p.y) + tile0 * p.rows * p.y.row) * SIZE;
        const int64_t left = p.batch - tile0 * p.rows;
        const auto fetch = [&](int64_t tile) {
            if (tile < count)
                load_x<SIZE>(p, x + tile * p.rows * p.x.row * SIZE, x_tiles + (tile & 1) * p.x_bytes,
                             left - tile * p.rows);
            ks_mma::copies_commit();
        };
        const auto first_product = [&](int64_t tile) {
            const hidden<SIZE, TEAM> to = {p, h_tiles + (p.ahead ? tile & 1 : 0) * p.h_bytes, rank};
            multiply_by<T, MT>(p.f[0], x_tiles + (tile & 1) * p.x_bytes, p.x_pitch, memory, p.rows, to);
        };
        fetch(0);
        if (p.ahead) {
            /* Neither product of a turn waits for the other: one is a tile ahead. */
            for (int64_t tile = -1; tile < count; tile++) {
                ks_mma::copies_wait(0);
                meet<TEAM>();
                fetch(tile + 2);
                if (tile + 1 < count) first_product(tile + 1);
                const memory_rows<SIZE> to = {p.y, y + tile * p.rows * p.y.row * SIZE, left - tile * p.rows};
                if (tile >= 0)
                    multiply_by<T, MT>(p.f[1], h_tiles + (tile & 1) * p.h_bytes, p.h_pitch, k1, p.rows, to);
            }
        } else {
            fetch(1);
            for (int64_t tile = 0; tile < count; tile++) {
                ks_mma::copies_wait(1);
                meet<TEAM>();
                first_product(tile);
                meet<TEAM>();
                fetch(tile + 2);
                const memory_rows<SIZE> to = {p.y, y + tile * p.rows * p.y.row * SIZE, left - tile * p.rows};
                multiply_by<T, MT>(p.f[1], h_tiles, p.h_pitch, k1, p.rows, to);
            }
        }
        __syncthreads(); /* before other weights take the place of these */
        unit += count;
    }
    meet<TEAM>(); /* nobody may end whose shared memory another still writes */
}

using kernel_function = void (*)(arguments);

/* For tiles of 16 rows or more, alone or in teams. */
template <class T> kernel_function kernel_for(bool taller, bool team)
{
    if (taller) return team ? pair_kernel<T, 2, true> : pair_kernel<T, 2, false>;
    return team ? pair_kernel<T, 1, true> : pair_kernel<T, 1, false>;
}

/* Compiled once for each type and math. */
extern template kernel_function kernel_for<ks_mma::f16>(bool, bool);
extern template kernel_function kernel_for<ks_mma::bf16>(bool, bool);
extern template kernel_function kernel_for<ks_mma::f32>(bool, bool);
extern template kernel_function kernel_for<ks_mma::tf32>(bool, bool);

} // namespace ks_fused2

#endif
