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
 * d, and stores along j, touch all banks. K's rows (one j of one block) lie in planes of 32 k's, 64 bytes a row, as copied:
 * lane t of a quarter-warp reads chunk t, the k's 8t..8t+7 of a plane, and takes the same k's of X: the sum over k does not mind
 * that the hardware calls them by other numbers. Where c is no multiple of 32, the missing k's are zeros in both operands.
 *
 * Which j a column of a product stands for is chosen so that a lane's results are neighbours: up to 16 bytes at a time. */
#ifndef KS_FUSED2_CUH
#define KS_FUSED2_CUH

#include "mma_group.cuh"

namespace ks_fused2
{

enum { WARPS = 8, THREADS = 32 * WARPS, STEP = 32, PLANE_ROW = 64, MOST_FEATURES = 1 << 15 };

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
    int64_t row, outer, inner, rank, part, step;
    int features, piece; /* elements moved at a time */
    divisor run;
};

/* Filled in by fused2.cu. */
struct arguments {
    factor f[2]; /* in the order of application */
    side x, y;
    int64_t batch, units, n_tiles; /* units: (slice and part, tile of rows) */
    int rows, teams, blocks;       /* of a tile; of a team */
    int inners, parts;
    int tile_bytes, tile_pitch, h_pitch, k_bytes;
    sharing first, second;
    int h_shift;            /* BY_RUNS in the first: l's of the slice's H; else 0 */
    int h_rank;             /* from one rank's outputs to the next one's */
    int h_piece;            /* elements that always have one owner: 8, 4 or 2 */
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

__device__ __forceinline__ int element_offset(int q, int row)
{
    return placed(q >> 3, row) * 16 + (q & 7) * 2;
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

/* Where results go: to a row-wise array of this block, or to the H of the team. */
template <bool TEAM> struct target {
    const arguments &p;
    char *to;
    int pitch, rank;

    /* 2 * WORDS neighbouring outputs, the first of which is (ij, l) with ij = i * b + j. */
    template <int WORDS> __device__ __forceinline__ void put(int ij, int l, int d, int row, const uint32_t *v) const
    {
        if constexpr (TEAM) {
            if (p.h_piece >= 2 * WORDS)
                hand_over<WORDS>(ij, l, row, v);
            else if constexpr (WORDS == 4) {
                if (p.h_piece == 4) {
                    hand_over<2>(ij, l, row, v), hand_over<2>(ij, l + 4, row, v + 2);
                } else {
#pragma unroll
                    for (int w = 0; w < 4; w++) hand_over<1>(ij, l + 2 * w, row, v + w);
                }
            } else if constexpr (WORDS == 2) {
                hand_over<1>(ij, l, row, v), hand_over<1>(ij, l + 2, row, v + 1);
            }
        } else {
            store_words<WORDS>(to + row * pitch + element_offset(ij * d + l, row), v);
        }
    }

    template <int WORDS> __device__ __forceinline__ void hand_over(int ij, int l, int row, const uint32_t *v) const
    {
        const int h = rank * p.h_rank + ij * p.h_shift + l;
        if (p.second == BY_OUTPUTS) {
            const uint32_t at = ks_mma::shared_address(to + row * pitch + element_offset(h, row));
            for (int r = 0; r < p.blocks; r++) store_remote<WORDS>(at, r, v);
            return;
        }
        int own = h, line = 0;
        if (p.second == BY_RUNS) {
            line = quotient(h, p.h_slice);
            own = h - line * static_cast<int>(p.h_slice.by);
        }
        const int owner = quotient(own, p.h_own);
        const int q = (line - owner) * static_cast<int>(p.h_own.by) + own;
        store_remote<WORDS>(ks_mma::shared_address(to + row * pitch + element_offset(q, row)), owner, v);
    }
};

/* The shape of a warp's work: 16 * MT rows x 8 * NT outputs j x D neighbouring l's; MODE: d, or 8 for multiples of 8. MT is 2
 * where tiles allow it and registers do. G: products of neighbouring j's. */
template <int MODE, int MT_> struct shape {
    static constexpr bool RUNS = MODE == 8;
    static constexpr int D = MODE, MT = D > 3 ? 1 : MT_;
    static constexpr int NT = MODE <= 2 ? 4 : 2;
    static constexpr int G = MODE == 1 ? 4 : MODE == 2 ? 2 : 1;
    static constexpr int STORED = RUNS ? 4 : G * D; /* words of a lane's neighbouring results */
    static constexpr int WORDS = STORED % 4 == 0 ? 4 : STORED % 2 == 0 ? 2 : 1;

    /* Which j, from the first, column c of product `tile` stands for. */
    static __device__ __forceinline__ int column(int tile, int c)
    {
        return tile / G * 8 * G + (c >> 1) * 2 * G + tile % G * 2 + (c & 1);
    }
};

/* The k's 8t..8t+7 of a step as pairs, of D neighbouring l's, from one row. chunk: where they begin; step: from k to k + 1 in
 * chunks (RUNS). */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::D][4], const char *row_at, int row, int chunk, int step)
{
    if constexpr (S::RUNS) {
        uint32_t r[8][4];
#pragma unroll
        for (int k = 0; k < 8; k++) ks_mma::load_words<4>(r[k], row_at + placed(chunk + k * step, row) * 16);
#pragma unroll
        for (int w = 0; w < 4; w++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                a[2 * w][q] = ks_mma::low_halves(r[2 * q][w], r[2 * q + 1][w]);
                a[2 * w + 1][q] = ks_mma::high_halves(r[2 * q][w], r[2 * q + 1][w]);
            }
    } else {
        uint32_t w[4 * S::D];
#pragma unroll
        for (int v = 0; v < S::D; v++) ks_mma::load_words<4>(w + 4 * v, row_at + placed(chunk + v, row) * 16);
#pragma unroll
        for (int l = 0; l < S::D; l++)
#pragma unroll
            for (int q = 0; q < 4; q++) a[l][q] = ks_mma::halves(w, l + S::D * 2 * q, l + S::D * (2 * q + 1));
    }
}

/* One product of a tile: its pieces of work, dealt out to the warps. */
template <class T, class S, class To>
__device__ __forceinline__ void multiply(const factor &f, const char *from, int pitch, const char *ks, int rows,
                                         const To &to)
{
    constexpr int D = S::D, MT = S::MT, NT = S::NT, G = S::G;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int items = f.groups.by * (rows / (16 * MT));
    for (int item = threadIdx.x / 32; item < items; item += WARPS) {
        const int m_tile = quotient(item, f.groups), group = item - m_tile * static_cast<int>(f.groups.by);
        const int row0 = m_tile * 16 * MT;
        const int il = quotient(group, f.j_groups), j0 = (group - il * static_cast<int>(f.j_groups.by)) * 8 * NT;
        const int i = S::RUNS ? quotient(il, f.l_groups) : il;
        const int l0 = S::RUNS ? (il - i * static_cast<int>(f.l_groups.by)) * 8 : 0;
        const int step = S::RUNS ? f.d / 8 : 0;
        const int chunk0 = S::RUNS ? (i * f.c + 8 * t) * step + l0 / 8 : (i * f.c / 8 + t) * D;
        const char *const x_own = from + (row0 + g) * pitch;
        const char *const k_own = ks + ((i * f.d + l0) * f.b + j0 + S::column(0, g)) * PLANE_ROW + t * 16;
        float acc[D][MT][NT][4];
#pragma unroll
        for (int q = 0; q < D * MT * NT * 4; q++) (&acc[0][0][0][0])[q] = 0;

        for (int s = 0; s < f.planes; s++) {
            uint32_t a[MT][2][D][4];
            if (s * STEP + 8 * t < f.c) {
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        read_x<S>(a[m][half], x_own + (m * 16 + half * 8) * pitch, g,
                                  chunk0 + s * (S::RUNS ? STEP * step : STEP / 8 * D), step);
            } else {
#pragma unroll
                for (int q = 0; q < MT * 2 * D * 4; q++) (&a[0][0][0][0])[q] = 0;
            }
            const char *const k_plane = k_own + s * f.plane_bytes;
#pragma unroll
            for (int l = 0; l < D; l++)
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    uint32_t w[4];
                    ks_mma::load_words<4>(w, k_plane + (l * f.b + S::column(n, 0)) * PLANE_ROW);
#pragma unroll
                    for (int m = 0; m < MT; m++)
#pragma unroll
                        for (int q = 0; q < 4; q += 2) {
                            const typename T::template operand<4> x = {
                                {a[m][0][l][q], a[m][1][l][q], a[m][0][l][q + 1], a[m][1][l][q + 1]}};
                            const typename T::template operand<2> k = {{w[q], w[q + 1]}};
                            T::product(acc[l][m][n], x, k);
                        }
                }
        }

#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = row0 + m * 16 + half * 8 + g;
                if constexpr (S::RUNS) {
#pragma unroll
                    for (int n = 0; n < NT; n++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            const int j = j0 + n * 8 + 2 * t + e;
                            uint32_t v[4];
#pragma unroll
                            for (int w = 0; w < 4; w++)
                                v[w] = T::pack(acc[2 * w][m][n][half * 2 + e], acc[2 * w + 1][m][n][half * 2 + e]);
                            if (j < f.b) to.template put<4>(i * f.b + j, l0, f.d, row, v);
                        }
                } else {
#pragma unroll
                    for (int n = 0; n < NT; n += G) {
                        const int j = j0 + n * 8 + 2 * G * t;
                        uint32_t v[S::STORED];
#pragma unroll
                        for (int w = 0; w < S::STORED; w++) {
                            const int lo = 2 * w, hi = 2 * w + 1; /* of the lane's (j, l) */
                            v[w] = T::pack(acc[lo % D][m][n + lo / D / 2][half * 2 + lo / D % 2],
                                           acc[hi % D][m][n + hi / D / 2][half * 2 + hi / D % 2]);
                        }
                        if (j < f.b)
#pragma unroll
                            for (int w = 0; w < S::STORED; w += S::WORDS)
                                to.template put<S::WORDS>(i * f.b + j, 2 * w, f.d, row, v + w);
                    }
                }
            }
    }
}

template <class T, int MT, class To>
__device__ __forceinline__ void multiply_by(const factor &f, const char *from, int pitch, const char *ks, int rows,
                                            const To &to)
{
    switch (f.d) {
    case 1:
        return multiply<T, shape<1, MT>>(f, from, pitch, ks, rows, to);
    case 2:
        return multiply<T, shape<2, MT>>(f, from, pitch, ks, rows, to);
    case 3:
        return multiply<T, shape<3, MT>>(f, from, pitch, ks, rows, to);
    case 4:
        return multiply<T, shape<4, MT>>(f, from, pitch, ks, rows, to);
    case 6:
        return multiply<T, shape<6, MT>>(f, from, pitch, ks, rows, to);
    default:
        return multiply<T, shape<8, MT>>(f, from, pitch, ks, rows, to);
    }
}

/* A block's rows of K into shared memory. */
static __device__ __forceinline__ void load_k(const factor &f, char *to, int64_t first_row)
{
    const int chunks = f.planes * (STEP / 8), step = THREADS / chunks; /* chunks of a row */
    const int chunk = threadIdx.x % chunks, row0 = threadIdx.x / chunks;
    const uint32_t own = ks_mma::shared_address(to) + chunk / 4 * f.plane_bytes + chunk % 4 * 16;
    const int64_t k_row = static_cast<int64_t>(f.c) * 2;
    const bool inside = chunk * 8 < f.c;
    if (row0 >= step) return;
    for (int s = 0; s < f.stretches; s++) {
        const char *from = f.k + (first_row + s * f.stretch_step + row0) * k_row + chunk * 16;
        const uint32_t at = own + s * f.stretch * PLANE_ROW;
        for (int row = row0; row < f.stretch; row += step, from += step * k_row)
            ks_mma::copy16(at + row * PLANE_ROW, inside ? from : f.k, inside);
    }
}

/* Calls body(q, offset) for each of the side's pieces that this thread has, and the rows it has of them: first, then in steps. */
template <class F> __device__ __forceinline__ void each_piece(const side &s, const F &body)
{
    const int pieces = s.features / s.piece, lanes = min(pieces, static_cast<int>(THREADS)), step = THREADS / lanes;
    const int row0 = threadIdx.x / lanes;
    if (row0 >= step) return;
    for (int piece = threadIdx.x - row0 * lanes; piece < pieces; piece += THREADS) {
        const int q = piece * s.piece, run = quotient(q, s.run);
        body(q, run * s.step + (q - run * static_cast<int>(s.run.by)), row0, step);
    }
}

/* A tile's rows of X; zeros behind the last. */
static __device__ __forceinline__ void load_x(const side &s, const char *from, char *to, int pitch, int rows,
                                              int64_t left)
{
    each_piece(s, [&](int q, int64_t offset, int row0, int step) {
        const char *at = from + (row0 * s.row + offset) * 2;
        for (int row = row0; row < rows; row += step, at += step * s.row * 2)
            ks_mma::copy16(ks_mma::shared_address(to + row * pitch + placed(q >> 3, row) * 16),
                           row < left ? at : from, row < left);
    });
}

static __device__ __forceinline__ void store_y(const side &s, char *to, const char *from, int pitch, int rows,
                                               int64_t left)
{
    each_piece(s, [&](int q, int64_t offset, int row0, int step) {
        char *at = to + (row0 * s.row + offset) * 2;
        for (int row = row0; row < rows && row < left; row += step, at += step * s.row * 2) {
            const char *const own = from + row * pitch + element_offset(q, row);
            if (s.piece == 8)
                *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(own);
            else if (s.piece == 4)
                *reinterpret_cast<uint2 *>(at) = *reinterpret_cast<const uint2 *>(own);
            else
                *reinterpret_cast<uint32_t *>(at) = *reinterpret_cast<const uint32_t *>(own);
        }
    });
}

template <class T, int MT, bool TEAM>
__global__ void __launch_bounds__(THREADS, 1) pair_kernel(const __grid_constant__ arguments p)
{
    extern __shared__ __align__(128) char memory[];
    const int team = blockIdx.x / p.blocks, rank = blockIdx.x % p.blocks;
    char *const k1 = memory + p.f[0].planes * p.f[0].plane_bytes, *const tiles = memory + p.k_bytes;
    char *const h = tiles + 2 * p.tile_bytes;
    int64_t unit = p.units * team / p.teams;
    const int64_t end = p.units * (team + 1) / p.teams;
    if constexpr (TEAM) team_arrive(); /* that H may be written */
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
            load_k(f, q ? k1 : memory, outer * f.k_outer + inner * f.k_inner + rank * f.k_rank + part * f.k_part);
        }
        const char *const x = p.x.at + first_of(p.x) * 2;
        char *const y = p.y.at + first_of(p.y) * 2;
        const auto fetch = [&](int64_t tile, int stage) {
            const int64_t n0 = (tile0 + tile) * p.rows;
            if (tile < count)
                load_x(p.x, x + n0 * p.x.row * 2, tiles + stage * p.tile_bytes, p.tile_pitch, p.rows, p.batch - n0);
            ks_mma::copies_commit();
        };
        fetch(0, 0);
        fetch(1, 1);
        for (int64_t tile = 0; tile < count; tile++) {
            char *const now = tiles + (tile & 1) * p.tile_bytes;
            ks_mma::copies_wait(1);
            __syncthreads();
            if constexpr (TEAM) team_wait();
            const target<TEAM> to_h = {p, h, p.h_pitch, rank};
            multiply_by<T, MT>(p.f[0], now, p.tile_pitch, memory, p.rows, to_h);
            if constexpr (TEAM) {
                team_arrive();
                team_wait();
            } else {
                __syncthreads();
            }
            const target<false> to_y = {p, now, p.tile_pitch, rank};
            multiply_by<T, MT>(p.f[1], h, p.h_pitch, k1, p.rows, to_y);
            if constexpr (TEAM) team_arrive();
            __syncthreads();
            const int64_t n0 = (tile0 + tile) * p.rows;
            store_y(p.y, y + n0 * p.y.row * 2, now, p.tile_pitch, p.rows, p.batch - n0);
            __syncthreads();
            fetch(tile + 2, static_cast<int>(tile & 1));
        }
        unit += count;
    }
    if constexpr (TEAM) team_wait();
}

} // namespace ks_fused2

#endif
