/* fused2.cuda's kernel: Y = (X * transpose(K2)) * transpose(K1), batch-first, in one launch on tensor cores, 2-byte types.
 *
 * Why. Two launches write what lies between the factors and read it again. Where both are bound by memory that is half of all
 * traffic: with Monarch's square factors 4 passes over the activations, here 2.
 *
 * What a block keeps in shared memory: all weights, for as long as it lives, since they are needed again for every row; two
 * tiles of X, of which the second arrives while the first is worked on; and one tile of the intermediate H. Y takes the place of
 * its X, from where it is stored in whole rows. Eight warps multiply, X -> H -> Y; four others meanwhile store the Y of the tile
 * before and fetch the X of the next to its place. Weights that were read again from L2 for every tile would be the limit instead:
 * at n = 4096 they are 1 MB, and 16 rows of X and Y 256 KB. So pairs whose weights do not fit are declined.
 *
 * Slices. A pair falls apart into independent ones: along the outermost index, where both have super-blocks in common, and along
 * the innermost, where both have l's in common (runs of `run` of them). A slice is a pair of smaller patterns whose X and Y are
 * runs of features a step apart. Monarch's pair is one slice.
 *
 * Places. X, H and Y lie in shared memory as in memory, row by row, in the order of a slice's features; a chunk of 16 bytes is
 * moved within its 128 by an exclusive-or of its number's higher bits and of the row, so that reads along k at any power of two
 * d, and stores along j, touch all banks. K's rows (one j of one block) lie in planes of 64 bytes of k, as copied: lane t of four
 * reads chunk t, and takes the same k's of X: the sum over k does not mind that the hardware calls them by other numbers. Where
 * c ends within a plane, the missing k's are zeros in both operands; where c is at most 16, planes are half as wide, and lanes
 * read half a chunk. Which j a column of a product stands for is chosen so that a lane's results are neighbours: up to 16 bytes at
 * a time.
 *
 * Tried and dropped, on an H100. Clusters of blocks that share the weights and write H into one another's shared memory: such
 * stores, 16 bytes each, go at 7 bytes a cycle, and Monarch's pair at n = 4096 took 1.4 times as long as two launches. Outputs
 * shared out among blocks that each do all of the first product: never faster. Y from registers straight to memory, and the
 * first product a tile ahead of the second: 3 % here, 20 % worse there. Twelve warps for eight: slower. Float32 by three TF32
 * products: 0.4 to 0.95 times as fast as two launches at batch 25088. What limits it is waiting, for one another and for shared
 * memory: at n = 1024 no scheduler issues an instruction in three of five cycles.
 *
 * The two kinds of warps hand tiles over by barriers in shared memory, at which each thread arrives for itself. racecheck of CUDA
 * 13.0 takes it for a race if one of a warp's threads does so for all, after __syncwarp, or if bar.arrive and bar.sync are used. */
#ifndef KS_FUSED2_CUH
#define KS_FUSED2_CUH

#include "bulk_copy.cuh"
#include "launch.cuh"
#include "mma_tile.cuh"

namespace ks_fused2
{

using ks_cluster::barrier_arrive_here;
using ks_cluster::barrier_open;
using ks_cluster::barrier_wait;

enum {
    WARPS = 8, /* that multiply */
    THREADS = 32 * WARPS,
    COPY_THREADS = 128, /* that fetch X and store Y */
    ALL_THREADS = THREADS + COPY_THREADS,
    SIZE = 2,
    PER_CHUNK = 8,
    BARRIER_BYTES = 128,
    MOST_FEATURES = 1 << 15
};

/* k's of a plane, which is what a warp takes at a time: 8 a lane, two steps of products, or 4 where c is no more than that. */
__host__ __device__ constexpr int plane_width(int64_t c)
{
    return c <= 16 ? 16 : 32;
}

/* value / by for values below 2^16. */
struct divisor {
    unsigned by, magic;
};

/* One product as a slice has it: a pattern (a, b, c, d) of its own. Offsets into K are in rows of c values. */
struct factor {
    const char *k;
    int a, b, c, d, planes, plane_row, plane_bytes; /* plane_row: bytes of a row in a plane */
    int64_t k_outer, k_inner;                       /* to the first row, from slice to slice */
    int64_t stretch_step;                           /* the rows are `stretches` stretches of neighbours */
    int stretch, stretches;
    divisor j_groups, l_groups; /* of 8 * NT j's; of a chunk of l's, where d allows */
    divisor groups;             /* all, for each 16 * MT rows */
};

/* X or Y: a slice's `features` of each row, in runs of neighbours. Offsets in elements. */
struct side {
    char *at;
    int64_t row, outer, inner;
    int step, features;
    divisor run, lanes; /* lanes: threads that copy a row, each a chunk of it, or several */
    int rows;           /* copied at a time */
};

/* Filled in by fused2.cu. */
struct arguments {
    factor f[2]; /* in the order of application */
    side x, y;
    int64_t batch, units, n_tiles; /* units: (slice, tile of rows) */
    int rows, inners;              /* of a tile; slices along the innermost index */
    int tile_bytes, tile_pitch, h_pitch, k_bytes;
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

__device__ __forceinline__ int element_offset(int q, int row)
{
    return placed(q / PER_CHUNK, row) * 16 + q % PER_CHUNK * SIZE;
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

/* The shape of a warp's work: 16 * MT rows x 8 * NT outputs j x D neighbouring l's of I super-blocks, of a pattern with d = D
 * or, RUNS, a multiple of the D values of a chunk. MT is 2 where tiles allow it and registers do. fused2.cu knows these, too. G:
 * products of neighbouring j's. E: k's of a lane in a plane of WIDTH, in STEPS products. */
template <class T_, int D_, int MT_, int WIDTH_> struct shape {
    using T = T_;
    static constexpr bool RUNS = D_ == PER_CHUNK;
    static constexpr int WIDTH = WIDTH_, E = WIDTH / 4, STEPS = E / 4, PLANE_ROW = WIDTH * SIZE;
    static constexpr int D = D_, MT = D > 3 ? 1 : MT_, NT = D <= 2 ? 4 : 2;
    static constexpr int I = D == 1 ? 2 : 1, BLOCKS = I * D;
    static constexpr int G = D * 8 <= PER_CHUNK ? 4 : D * 4 <= PER_CHUNK ? 2 : 1;
    static constexpr int STORED = RUNS ? 4 : G * D; /* words of a lane's neighbouring results */
    static constexpr int WORDS = STORED % 4 == 0 ? 4 : STORED % 2 == 0 ? 2 : 1;

    /* Which j, from the first, column c of product `tile` stands for. */
    static __device__ __forceinline__ int column(int tile, int c)
    {
        return tile / G * 8 * G + (c >> 1) * 2 * G + tile % G * 2 + (c & 1);
    }
};

/* A lane's k's of a plane, as E / 2 words, of D neighbouring l's, from one row. at: the element where they begin; step: from k to
 * k + 1 in chunks (RUNS). */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::D][S::E / 2], const char *row_at, int row, int at, int step)
{
    constexpr int E = S::E;
    if constexpr (S::RUNS) {
        uint32_t r[E][4];
#pragma unroll
        for (int k = 0; k < E; k++) ks_mma::load_words<4>(r[k], row_at + placed((at >> 3) + k * step, row) * 16);
#pragma unroll
        for (int w = 0; w < 4; w++)
#pragma unroll
            for (int q = 0; q < E / 2; q++) {
                a[2 * w][q] = ks_mma::low_halves(r[2 * q][w], r[2 * q + 1][w]);
                a[2 * w + 1][q] = ks_mma::high_halves(r[2 * q][w], r[2 * q + 1][w]);
            }
    } else {
        uint32_t w[E * S::D / 2];
        if constexpr (E * S::D % PER_CHUNK == 0) {
#pragma unroll
            for (int v = 0; v < E * S::D / PER_CHUNK; v++)
                ks_mma::load_words<4>(w + 4 * v, row_at + placed((at >> 3) + v, row) * 16);
        } else { /* halves of chunks: a lane may begin in the middle of one */
#pragma unroll
            for (int v = 0; v < E * S::D / 4; v++) {
                const int q = at + 4 * v;
                ks_mma::load_words<2>(w + 2 * v, row_at + placed(q >> 3, row) * 16 + (q & 4) * SIZE);
            }
        }
#pragma unroll
        for (int l = 0; l < S::D; l++)
#pragma unroll
            for (int q = 0; q < E / 2; q++)
                a[l][q] = S::D == 1 ? w[q] : ks_mma::halves(w, l + S::D * 2 * q, l + S::D * (2 * q + 1));
    }
}

/* A warp's piece of a product: where it begins. */
struct piece {
    int row0, i, j0, l0;
};

template <class S> using sums = float[S::BLOCKS][S::MT][S::NT][4];

/* acc[block][m-tile][n-tile] = X * K^T. */
template <class S>
__device__ __forceinline__ void sum_up(sums<S> &acc, const factor &f, const char *from, int pitch, const char *ks,
                                       const piece &own, int g, int t)
{
    using T = typename S::T;
    constexpr int D = S::D, I = S::I, MT = S::MT, NT = S::NT, E = S::E, STEPS = S::STEPS;
    const int step = S::RUNS ? f.d / PER_CHUNK : 0; /* from k to k + 1, in chunks */
    const char *const x_own = from + (own.row0 + g) * pitch;
    int x_at[I], k_row[I];
#pragma unroll
    for (int v = 0; v < I; v++) {
        const int i = I == 1 ? own.i : min(own.i + v, f.a - 1); /* what is no more is done twice */
        x_at[v] = (i * f.c + E * t) * (S::RUNS ? f.d : D) + own.l0;
        k_row[v] = ((i * f.d + own.l0) * f.b + own.j0 + S::column(0, g)) * S::PLANE_ROW + t * E * SIZE;
    }
#pragma unroll
    for (int q = 0; q < S::BLOCKS * MT * NT * 4; q++) (&acc[0][0][0][0])[q] = 0;

    for (int s = 0; s < f.planes; s++) {
        uint32_t a[MT][2][I][D][E / 2];
        if (s * S::WIDTH + E * t < f.c) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
#pragma unroll
                    for (int v = 0; v < I; v++)
                        read_x<S>(a[m][half][v], x_own + (m * 16 + half * 8) * pitch, g,
                                  x_at[v] + s * S::WIDTH * (S::RUNS ? f.d : D), step);
        } else {
#pragma unroll
            for (int q = 0; q < MT * 2 * S::BLOCKS * E / 2; q++) (&a[0][0][0][0][0])[q] = 0;
        }
#pragma unroll
        for (int u = 0; u < S::BLOCKS; u++) {
            const int v = u / D, l = u % D;
            const char *const k_plane = ks + s * f.plane_bytes + k_row[v] + l * f.b * S::PLANE_ROW;
            typename T::template operand<4> x[MT][STEPS];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int q = 0; q < STEPS; q++)
                    x[m][q].set({a[m][0][v][l][2 * q], a[m][1][v][l][2 * q], a[m][0][v][l][2 * q + 1],
                                 a[m][1][v][l][2 * q + 1]});
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint32_t w[2 * STEPS];
                ks_mma::load_words<2 * STEPS>(w, k_plane + S::column(n, 0) * S::PLANE_ROW);
                typename T::template operand<2> k[STEPS];
#pragma unroll
                for (int q = 0; q < STEPS; q++) k[q].set({w[2 * q], w[2 * q + 1]});
#pragma unroll
                for (int m = 0; m < MT; m++) T::multiply(acc[u][m][n], x[m], k);
            }
        }
    }
}

/* A lane's results of row half * 8 + g of m-tile m and super-block own.i + v, to where that row begins. */
template <class S>
__device__ __forceinline__ void put_row(const sums<S> &acc, const factor &f, const piece &own, int v, int m, int half,
                                        int t, char *to, int row)
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
            for (int w = 0; w < S::STORED; w++) words[w] = T::pack(value(2 * w), value(2 * w + 1));
            if (j < f.b)
#pragma unroll
                for (int w = 0; w < S::STORED; w += S::WORDS)
                    store_words<S::WORDS>(to + element_offset((i * f.b + j) * f.d + own.l0 + 2 * w, row), words + w);
        }
}

/* One product of a tile: its pieces of work, dealt out to the warps. */
template <class S>
__device__ __forceinline__ void multiply(const factor &f, const char *from, int from_pitch, const char *ks, int rows,
                                         char *to, int to_pitch)
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
        sum_up<S>(acc, f, from, from_pitch, ks, own, g, t);
#pragma unroll
        for (int m = 0; m < S::MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = own.row0 + m * 16 + half * 8 + g;
#pragma unroll
                for (int v = 0; v < S::I; v++) put_row<S>(acc, f, own, v, m, half, t, to + row * to_pitch, row);
            }
    }
}

template <class T, int MT, int WIDTH>
__device__ __forceinline__ void multiply_by(const factor &f, const char *from, int from_pitch, const char *ks,
                                            int rows, char *to, int to_pitch)
{
    switch (f.d) {
    case 1:
        return multiply<shape<T, 1, MT, WIDTH>>(f, from, from_pitch, ks, rows, to, to_pitch);
    case 2:
        return multiply<shape<T, 2, MT, WIDTH>>(f, from, from_pitch, ks, rows, to, to_pitch);
    case 3:
        return multiply<shape<T, 3, MT, WIDTH>>(f, from, from_pitch, ks, rows, to, to_pitch);
    case 4:
        return multiply<shape<T, 4, MT, WIDTH>>(f, from, from_pitch, ks, rows, to, to_pitch);
    case 6:
        return multiply<shape<T, 6, MT, WIDTH>>(f, from, from_pitch, ks, rows, to, to_pitch);
    default:
        return multiply<shape<T, PER_CHUNK, MT, WIDTH>>(f, from, from_pitch, ks, rows, to, to_pitch);
    }
}

template <class T, int MT>
__device__ __forceinline__ void multiply_wide(const factor &f, const char *from, int from_pitch, const char *ks,
                                              int rows, char *to, int to_pitch)
{
    if (plane_width(f.c) == 16)
        multiply_by<T, MT, 16>(f, from, from_pitch, ks, rows, to, to_pitch);
    else
        multiply_by<T, MT, 32>(f, from, from_pitch, ks, rows, to, to_pitch);
}

/* A slice's rows of K into shared memory. */
static __device__ __forceinline__ void load_k(const factor &f, char *to, int64_t first_row)
{
    const int in_plane = f.plane_row / 16, chunks = f.planes * in_plane,
              step = THREADS / chunks; /* chunks of a row */
    const int chunk = threadIdx.x % chunks, row0 = threadIdx.x / chunks;
    const uint32_t own = ks_mma::shared_address(to) + chunk / in_plane * f.plane_bytes + chunk % in_plane * 16;
    const int64_t k_row = static_cast<int64_t>(f.c) * SIZE;
    const bool inside = chunk * 16 < k_row;
    if (row0 >= step) return;
    for (int s = 0; s < f.stretches; s++) {
        const char *from = f.k + (first_row + s * f.stretch_step + row0) * k_row + chunk * 16;
        const uint32_t at = own + s * f.stretch * f.plane_row;
        for (int row = row0; row < f.stretch; row += step, from += step * k_row)
            ks_mma::copy16(at + row * f.plane_row, inside ? from : f.k, inside);
    }
}

/* Calls body(chunk, row, offset) for each of this thread's chunks of a tile: where that is in memory, from the tile on, in bytes. */
template <class F> __device__ __forceinline__ void each_chunk(const side &s, int thread, int rows, const F &body)
{
    const int row0 = quotient(thread, s.lanes), lanes = static_cast<int>(s.lanes.by);
    if (row0 >= s.rows) return;
    const int64_t step = s.rows * s.row * SIZE;
    for (int chunk = thread - row0 * lanes; chunk * 16 < s.features * SIZE; chunk += lanes) {
        const int q = chunk * 16 / SIZE, run = quotient(q, s.run);
        int64_t offset = (row0 * s.row + q + run * (s.step - static_cast<int>(s.run.by))) * SIZE;
#pragma unroll 4
        for (int row = row0; row < rows; row += s.rows, offset += step) body(chunk, row, offset);
    }
}

/* ---- two kinds of warps ----------------------------------------------------------------------------------------------- */

/* Named barriers: those who multiply among themselves, and those who copy. */
enum { MULTIPLIERS = 1, COPIERS };

static __device__ __forceinline__ void meet(int barrier, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* Where the block's tiles are, one of X, then of Y, and the next; and the barriers by which they change hands. */
struct places {
    char *tiles;
    int tile_bytes, pitch;
    uint32_t barriers; /* of both tiles: X is there; of both: Y is */

    __device__ __forceinline__ char *tile(int64_t turn) const
    {
        return tiles + (turn & 1) * tile_bytes;
    }
    __device__ __forceinline__ char *chunk(int64_t turn, int number, int row) const
    {
        return tile(turn) + row * pitch + placed(number, row) * 16;
    }
    __device__ __forceinline__ uint32_t x_there(int64_t turn) const
    {
        return barriers + (turn & 1) * 8;
    }
    __device__ __forceinline__ uint32_t y_there(int64_t turn) const
    {
        return barriers + 16 + (turn & 1) * 8;
    }
    static __device__ __forceinline__ int phase(int64_t turn)
    {
        return turn >> 1 & 1;
    }
};

/* Units first to end, one after the other: X there? -> product -> H -> product -> Y. */
template <class T, int MT>
static __device__ __forceinline__ void multiply_tiles(const arguments &p, char *memory, const places &at,
                                                      int64_t first, int64_t end)
{
    char *const k1 = memory + p.f[0].planes * p.f[0].plane_bytes, *const h = at.tiles + 2 * p.tile_bytes;
    int64_t slice = first / p.n_tiles, begins = first; /* the first unit of a slice, or of all */
    for (int64_t unit = first; unit < end; unit++) {
        const int64_t turn = unit - first;
        if (turn > 0) barrier_wait(at.y_there(turn - 1), at.phase(turn - 1)); /* all have read H and K */
        if (unit == begins) {
            const int64_t inner = slice % p.inners, outer = slice / p.inners;
            load_k(p.f[0], memory, outer * p.f[0].k_outer + inner * p.f[0].k_inner);
            load_k(p.f[1], k1, outer * p.f[1].k_outer + inner * p.f[1].k_inner);
            ks_mma::copies_commit();
            ks_mma::copies_wait(0);
            meet(MULTIPLIERS, THREADS);
            begins = ++slice * p.n_tiles;
        }
        char *const tile = at.tile(turn);
        barrier_wait(at.x_there(turn), at.phase(turn));
        multiply_wide<T, MT>(p.f[0], tile, p.tile_pitch, memory, p.rows, h, p.h_pitch);
        meet(MULTIPLIERS, THREADS);
        multiply_wide<T, MT>(p.f[1], h, p.h_pitch, k1, p.rows, tile, p.tile_pitch);
        barrier_arrive_here(at.y_there(turn));
    }
}

/* Beside that: stores Y when it is there, and fetches the X of the tile after next to its place. */
static __device__ __forceinline__ void copy_tiles(const arguments &p, const places &at, int thread, int64_t first,
                                                  int64_t end)
{
    /* Calls body with where a unit's tile of X or Y begins, and how many rows of it there are. */
    const auto with_tile = [&](const side &s, int64_t unit, const auto &body) {
        const int64_t slice = unit / p.n_tiles, row = (unit - slice * p.n_tiles) * p.rows;
        const int64_t inner = slice % p.inners, outer = slice / p.inners;
        body(s.at + (outer * s.outer + inner * s.inner + row * s.row) * SIZE,
             static_cast<int>(min(p.batch - row, static_cast<int64_t>(p.rows))));
    };
    const auto fetch = [&](int64_t unit) {
        if (unit < end)
            with_tile(p.x, unit, [&](const char *from, int left) {
                each_chunk(p.x, thread, p.rows, [&](int chunk, int row, int64_t offset) {
                    const bool there = row < left; /* else zeros */
                    ks_mma::copy16(ks_mma::shared_address(at.chunk(unit - first, chunk, row)),
                                   there ? from + offset : p.x.at, there);
                });
            });
        ks_mma::copies_commit();
    };
    fetch(first);
    fetch(first + 1);
    ks_mma::copies_wait(1);
    barrier_arrive_here(at.x_there(0));
    for (int64_t unit = first; unit < end; unit++) {
        const int64_t turn = unit - first;
        ks_mma::copies_wait(0);
        barrier_arrive_here(at.x_there(turn + 1));
        barrier_wait(at.y_there(turn), at.phase(turn));
        with_tile(p.y, unit, [&](char *to, int left) {
            each_chunk(p.y, thread, left, [&](int chunk, int row, int64_t offset) {
                *reinterpret_cast<uint4 *>(to + offset) =
                    *reinterpret_cast<const uint4 *>(at.chunk(turn, chunk, row));
            });
        });
        meet(COPIERS, COPY_THREADS);
        fetch(unit + 2);
    }
}

template <class T, int MT>
__global__ void __launch_bounds__(ALL_THREADS, 1) pair_kernel(const __grid_constant__ arguments p)
{
    extern __shared__ __align__(128) char barriers[];
    char *const memory = barriers + BARRIER_BYTES;
    const places at = {memory + p.k_bytes, p.tile_bytes, p.tile_pitch, ks_mma::shared_address(barriers)};
    const int64_t first = p.units * blockIdx.x / gridDim.x, end = p.units * (blockIdx.x + 1) / gridDim.x;
    const int copier = static_cast<int>(threadIdx.x) - THREADS;
    if (threadIdx.x == 0)
        for (int tile = 0; tile < 2; tile++)
            barrier_open(at.x_there(tile), COPY_THREADS), barrier_open(at.y_there(tile), THREADS);
    __syncthreads();
    ks_cuda::await_earlier();
    if (copier < 0) {
        ks_cluster::more_registers<208>();
        multiply_tiles<T, MT>(p, memory, at, first, end);
    } else {
        ks_cluster::fewer_registers<88>();
        copy_tiles(p, at, copier, first, end);
    }
}

using kernel_function = void (*)(arguments);

/* For tiles of 16 rows, or of more. */
template <class T> kernel_function kernel_for(bool taller)
{
    return taller ? pair_kernel<T, 2> : pair_kernel<T, 1>;
}

/* Compiled once for each type. */
extern template kernel_function kernel_for<ks_mma::f16>(bool);
extern template kernel_function kernel_for<ks_mma::bf16>(bool);

} // namespace ks_fused2

#endif
