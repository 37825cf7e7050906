/* fused.cuda.cluster's kernel: batch-first, Hopper alone; one launch, output-stationary.
 *
 * Why. Sums of 32 K numbers are what a multiprocessor's registers hold, so a block's tile of Y is small in n and j where it
 * takes a run of l's, and X and K are read again for every tile: large products wait for L2. Here up to eight blocks form a
 * cluster of `across` tiles of j times `down` tiles of n. Each fetches its part of a slab of X, and of K, from L2 once, and the
 * copy engine hands it to all blocks that need it (multicast): L2 serves a cluster as if it were one block with a tile as large
 * as all of theirs.
 *
 * Tiles. Y's tile is TN batch rows x N outputs j x D l's of one super-block i. Slabs of TK values of k come through a ring of
 * stages, filled by one thread with bulk tensor copies, which fill with zeros what lies outside of the arrays; two groups of
 * four warps multiply by wgmma, X sorted out on the way to the registers as in fused_mma.cuh, K as the copy engine laid it.
 *   RUN    D l's fill a sector of 32 bytes, or two: a slab of X lies as (n, k, D l's)
 *   else   D is d: a slab lies as (some k's, n, these k's with all their l's)
 * Of 16 l's a group takes 8, of fewer all for half of the n's. Where d = 1, 2-byte types need no sorting out (DIRECT): the tensor
 * cores read X from shared memory, too.
 * Results go through shared memory and leave as bulk tensor copies, too, which drop what lies outside of Y.
 *
 * float32. Three products of TF32 make one (mma_tile.cuh says how, and why sums start from zero often: here at each product of
 * 8 k's). Each warp splits X in its registers. Of K the tensor cores cut what they read to TF32 themselves; what that leaves
 * out is written beside it by three warps that do nothing else, as soon as a slab has come.
 *
 * A slot of the ring may be filled again once every block that it is filled from, and they for theirs, has done with it: each
 * warp tells all blocks that send to it. (PTX ISA: "Asynchronous copies", "mbarrier"; CUTLASS's pipelines are of the same
 * kind.)
 *
 * Dropped: each block fetching its part alone and handing it on from shared memory to shared memory, so that runs of 32 bytes arrive
 * as long ones: that brings 18 bytes a cycle, multicast 37 and more. */
#ifndef KS_FUSED_CLUSTER_CUH
#define KS_FUSED_CLUSTER_CUH

#include "bulk_copy.cuh"
#include "epilogue.cuh"
#include "launch.cuh"
#include "mma_group.cuh"
#include "mma_store.cuh"

namespace ks_cluster
{

using ks_mma::load_words;
using ks_mma::shared_address;

enum { THREADS = 384, CONSUMERS = 256, SPLITTERS = 96, MOST_STAGES = 8, BARRIER_BYTES = 3 * MOST_STAGES * 8 };

struct arguments {
    CUtensorMap x, k, y;
    int across, down;  /* blocks of a cluster: tiles of j, tiles of n */
    int slabs, stages; /* of k; of the ring */
    /* Units: (i, span of j groups, n group, j group of the span, l tile), the last the fastest. */
    unsigned l_tiles, j_span, n_groups, j_spans, units;
    ks_cuda::epilogue<float> finish;
    int b, c, d, batch;
    /* For outputs that are taken anew: */
    const float *x_at, *k_at;
    float *y_at;
    int64_t x_row, y_row; /* elements of a sample */
};

/* The widest part of at most `most` of n columns, in multiples of `by`. */
constexpr int widest_part(int n, int by, int most)
{
    int width = by;
    for (int w = by; w <= most; w += by)
        if (n % w == 0) width = w;
    return width;
}

/* D: l's of a row of X that are read together: all of d, or, in RUN, those of a sector or two. */
template <class Type, int D_, int N_, int TK_, bool RUN_> struct shape {
    using T = Type;
    static constexpr int size = T::size, D = D_, N = N_, NT = N / 8;
    static constexpr bool EXACT = T::parts == 2;                /* float32 */
    static constexpr bool RUN = RUN_, SECTORS = D * size >= 32; /* l's fill sectors */
    static constexpr bool DIRECT = D == 1 && !EXACT;            /* X need not be sorted out */
    static constexpr bool HALVES = D == 16;                     /* each group half of the l's, else half of the n's */
    static constexpr int L = HALVES ? 8 : D, TN = HALVES ? 64 : 128;
    static constexpr int TK = TK_, KS = 32 / size, STEPS = TK / KS; /* k's of a slab, of a product */
    /* X's rows in shared memory: those of RUN k by k; else as many k's as 128 bytes, the swizzle's width, hold. */
    static constexpr int XK = RUN ? 1 : (D % 3 == 0 ? 96 : 128) / (D * size);
    static constexpr int x_row = XK * D * size;
    static constexpr int x_bytes = TN * TK * D * size, k_bytes = N * TK * D * size;
    static constexpr int stage_bytes = x_bytes + T::parts * k_bytes;
    static constexpr int k_row = TK * size; /* bytes of one j: the copy engine's swizzle is as wide */
    /* How many of X's operands a lane holds at a time; in float32 of sums, too. */
    static constexpr int buffers = (EXACT ? 4 * (L * NT + L + 2 * NT + 4) <= 216 : L * (4 * NT + 8) <= 208) ? 2 : 1;
    /* Results on their way out, in parts of 8 rows of n and out_n columns: two parts for each warp, or pair of warps that share
     * them, so that one is written while the other leaves. */
    static constexpr int out_j = SECTORS                                     ? 8 /* least that is copied */
                                 : D % 3 == 0 || N % (128 / (D * size)) != 0 ? 32 / size
                                                                             : 128 / (D * size);
    static constexpr int out_row = out_j * D * size; /* its bytes of one n, but in SECTORS of one j */
    static constexpr int out_n = widest_part(N, out_j, EXACT ? N / 4 : N <= 128 && DIRECT ? N : N / 2);
    static constexpr int strip_bytes = 8 * out_n * D * size, strips = HALVES ? 4 : 8,
                         staging_bytes = 2 * strips * strip_bytes;
    static_assert(TK % XK == 0 && TK % KS == 0 && out_n % out_j == 0 && N % out_n == 0 && out_n % 8 == 0,
                  "whole copies");
    static_assert(stage_bytes % 1024 == 0 && x_bytes % 1024 == 0 && staging_bytes % 1024 == 0 && k_bytes % 1024 == 0,
                  "swizzles repeat within");

    /* Where in the r'th row of 32 or 64 bytes the swizzle puts the number'th 16 of them. */
    static __device__ __forceinline__ int chunk(int number, int r)
    {
        return D * size == 32 ? number ^ (r / 4 & 1) : number ^ (r / 2 & 3);
    }

    /* Where the number'th 16 bytes of k's l's of row n lie in a slab of X. */
    static __device__ __forceinline__ int x_at(int n, int k, int number)
    {
        if constexpr (RUN) return (n * TK + k) * x_row + chunk(number, k) * 16;
        const int at = k % XK * D * size + number * 16, row = (k / XK * TN + n) * x_row;
        return row + (x_row == 128 ? at ^ n % 8 * 16 : at);
    }

    /* Where the results of column j lie in row g of a strip: in SECTORS the number'th 16 bytes; else with those of the next
     * column behind them. */
    static __device__ __forceinline__ int y_at(int g, int j, int number)
    {
        if constexpr (SECTORS) return (g * out_n + j) * D * size + chunk(number, j) * 16;
        const int at = j % out_j * D * size;
        return (j / out_j * 8 + g) * out_row + (out_row == 128 ? at ^ g * 16 : at);
    }
};

/* The operands of 16 k's for all l's of this group, 2-byte types: a[l]. xs: the stage; row: this lane's first. */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::L][4], const char *xs, int step, int row, int group, int g,
                                       int t)
{
    if constexpr (S::L == 8) {
        /* A lane reads 8 l's of its k's 2t and 2t + 1. Half of the lanes take the second one first, so that the eight that are
         * served at once touch all banks. */
        const int turned = S::RUN ? g % 2 : S::HALVES ? t / 2 : 0;
        const uint32_t low = turned ? 0x1054 : 0x5410, high = turned ? 0x3276 : 0x7632;
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int q = 0; q < 2; q++) {
                uint32_t r[2][4];
#pragma unroll
                for (int e = 0; e < 2; e++)
                    load_words<4>(r[e], xs + S::x_at(row + half * 8, step * 16 + q * 8 + 2 * t + (e ^ turned),
                                                     S::HALVES ? group : 0));
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    a[2 * w][half + 2 * q] = __byte_perm(r[0][w], r[1][w], low);
                    a[2 * w + 1][half + 2 * q] = __byte_perm(r[0][w], r[1][w], high);
                }
            }
    } else {
        constexpr int D = S::D, piece = D % 4 == 0 ? 4 : D % 2 == 0 ? 2 : 1;
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const char *const at = xs + S::x_at(row + half * 8, step * 16 + q * 8 + 2 * t, 0);
                uint32_t w[D];
#pragma unroll
                for (int v = 0; v < D / piece; v++) load_words<piece>(w + piece * v, at + 4 * piece * v);
#pragma unroll
                for (int l = 0; l < D; l++) a[l][half + 2 * q] = ks_mma::halves(w, l, D + l);
            }
    }
}

/* Where a block's tile of a unit begins. */
struct corner {
    int i, j, l, n;
};

template <class S> __device__ __forceinline__ corner corner_of(const arguments &p, unsigned unit, int rank)
{
    corner c;
    c.l = static_cast<int>(unit % p.l_tiles) * S::D, unit /= p.l_tiles;
    const int j_group = static_cast<int>(unit % p.j_span);
    unit /= p.j_span;
    c.n = (static_cast<int>(unit % p.n_groups) * p.down + rank / p.across) * S::TN, unit /= p.n_groups;
    c.j = ((static_cast<int>(unit % p.j_spans) * p.j_span + j_group) * p.across + rank % p.across) * S::N;
    c.i = static_cast<int>(unit / p.j_spans);
    return c;
}

/* Barriers of the ring, one for each slot from these addresses on: X and K have come; what TF32 leaves of K is written, too; all
 * have done with the slot. */
struct barriers {
    uint32_t full, split, empty;
};

/* The thread that fills the ring. */
template <class S> __device__ __forceinline__ void fill(const arguments &p, char *stages, const barriers &ring)
{
    const int rank = cluster_rank(), jr = rank % p.across, nr = rank / p.across;
    const uint16_t row = static_cast<uint16_t>(((1u << p.across) - 1) << (nr * p.across));
    uint16_t column = 0;
    for (int q = 0; q < p.down; q++) column |= static_cast<uint16_t>(1u << (q * p.across + jr));
    /* Its part of the slabs: of X some rows, of K some l's, or some j's of the one there is. */
    const int x_rows = S::TN / p.across, k_ls = S::DIRECT ? 0 : S::D / p.down, k_js = S::DIRECT ? S::N / p.down : 0;
    const int k_at = nr * (k_ls * S::N + k_js) * S::k_row;
    const unsigned blocks = static_cast<unsigned>(p.across * p.down);
    unsigned unit = blockIdx.x / blocks;
    corner at = corner_of<S>(p, unit, rank);
    place now = {0, 1};
    ks_cuda::await_earlier();
    while (unit < p.units) {
        const int n0 = at.n + jr * x_rows;
        for (int slab = 0; slab < p.slabs; slab++) {
            const uint32_t full = ring.full + now.slot * 8;
            barrier_wait(ring.empty + now.slot * 8, now.phase);
            barrier_expect(full, S::x_bytes + S::k_bytes);
            const uint32_t to = shared_address(stages) + now.slot * S::stage_bytes;
            if constexpr (S::RUN) {
                copy_in<4>(to + jr * x_rows * S::TK * S::x_row, &p.x, full, row, at.l, slab * S::TK, at.i, n0);
            } else {
#pragma unroll
                for (int q = 0; q < S::TK / S::XK; q++)
                    copy_in<3>(to + (q * S::TN + jr * x_rows) * S::x_row, &p.x, full, row,
                               (slab * S::TK + q * S::XK) * S::D, at.i, n0, 0);
            }
            copy_in<4>(to + S::x_bytes + k_at, &p.k, full, column, slab * S::TK, at.j + nr * k_js, at.l + nr * k_ls,
                       at.i);
            now.next(p.stages);
        }
        unit += gridDim.x / blocks;
        at = corner_of<S>(p, unit, rank);
    }
}

/* This group's sums made outputs. What lies outside of Y gets the bias of some feature. */
template <class S>
__device__ __forceinline__ void finish(const arguments &p, float (&acc)[S::L][S::NT][4], const corner &at, int group,
                                       int t)
{
    const int l0 = at.l + (S::HALVES ? group * S::L : 0);
    const auto whose = [&](int q) {
        const int l = l0 + q / (4 * S::NT), j = at.j + q / 4 % S::NT * 8 + 2 * t + q % 2;
        return (j < p.b ? j * p.d : 0) + (l < p.d ? l : 0);
    };
    constexpr int chunk = S::L * S::NT > 40 ? 4 : 8; /* what registers there are for it */
    ks_cuda::finish_sums<typename S::T::scalar, chunk>(p.finish, reinterpret_cast<float(&)[S::L * S::NT * 4]>(acc),
                                                       static_cast<int64_t>(at.i) * p.b * p.d, whose);
}

/* The lanes that share a strip: a warp, in HALVES both groups' warps of that number. Waits for them all; whether it is so for
 * any. */
template <class S> __device__ __forceinline__ void together(int warp)
{
    if (S::HALVES)
        asm volatile("bar.sync %0, 64;" ::"r"(1 + warp) : "memory");
    else
        __syncwarp();
}

template <class S> __device__ __forceinline__ bool for_any(int warp, bool so)
{
    if (!S::HALVES) return __any_sync(0xffffffffu, so);
    int any;
    asm volatile("{\n.reg .pred one, any;\nsetp.ne.b32 one, %1, 0;\nbar.red.or.pred any, %2, 64, one;\n"
                 "selp.b32 %0, 1, 0, any;\n}"
                 : "=r"(any)
                 : "r"(static_cast<int>(so)), "r"(1 + warp)
                 : "memory");
    return any;
}

/* This group's results of a unit to Y. Says whether this lane has a NaN among them. */
template <class S>
__device__ __forceinline__ bool store(const arguments &p, const float (&acc)[S::L][S::NT][4], char *staging,
                                      const corner &at, int group, int warp, int lane)
{
    using T = typename S::T;
    const int g = lane / 4, t = lane % 4;
    const int row0 = at.n + (S::HALVES ? 0 : group * 64) + warp * 16;
    char *const strips = staging + (S::HALVES ? warp : group * 4 + warp) * 2 * S::strip_bytes;
    constexpr int copies = S::SECTORS ? 1 : S::out_n / S::out_j;
    const bool sends = lane < copies && (!S::HALVES || group == 0);
    bool lost = false;
#pragma unroll
    for (int part = 0; part < 2 * S::N / S::out_n; part++) {
        const int half = part / (S::N / S::out_n), c0 = part % (S::N / S::out_n) * S::out_n / 8, n = row0 + half * 8;
        char *const own = strips + part % 2 * S::strip_bytes;
        if (sends) copies_out_read<1>();
        together<S>(warp);
#pragma unroll
        for (int c = 0; c < S::out_n / 8; c++) {
            float v[2][S::L]; /* two columns' l's */
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int l = 0; l < S::L; l++) {
                    v[e][l] = acc[l][c0 + c][half * 2 + e];
                    if (T::may_lose_infinity) lost |= v[e][l] != v[e][l];
                }
            if constexpr (S::SECTORS) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    uint32_t w[S::L * S::size / 4];
                    ks_mma::pack_run<T>(w, v[e]);
#pragma unroll
                    for (int q = 0; q < S::L * S::size / 16; q++)
                        *reinterpret_cast<uint4 *>(
                            own + S::y_at(g, c * 8 + 2 * t + e, (S::HALVES ? group * S::L * S::size / 16 : 0) + q)) =
                            make_uint4(w[4 * q], w[4 * q + 1], w[4 * q + 2], w[4 * q + 3]);
                }
            } else {
                constexpr int words = S::L * S::size / 2, piece = words % 4 == 0 ? 4 : words % 2 == 0 ? 2 : 1;
                float run[2 * S::L];
                uint32_t w[words];
#pragma unroll
                for (int e = 0; e < 2 * S::L; e++) run[e] = v[e / S::L][e % S::L];
                ks_mma::pack_run<T>(w, run);
                const int first = S::y_at(g, c * 8 + 2 * t, 0);
#pragma unroll
                for (int q = 0; q < words / piece; q++) {
                    char *const there = own + (S::out_row == 128 ? first ^ 4 * piece * q : first + 4 * piece * q);
                    if constexpr (piece == 4)
                        *reinterpret_cast<uint4 *>(there) =
                            make_uint4(w[4 * q], w[4 * q + 1], w[4 * q + 2], w[4 * q + 3]);
                    else if constexpr (piece == 2)
                        *reinterpret_cast<uint2 *>(there) = make_uint2(w[2 * q], w[2 * q + 1]);
                    else
                        *reinterpret_cast<uint32_t *>(there) = w[q];
                }
            }
        }
        ks_mma::group_publish();
        together<S>(warp);
        if (sends) {
            const int j = at.j + c0 * 8;
            if (S::SECTORS)
                copy_out<4>(&p.y, shared_address(own), at.l, j, at.i, n);
            else
                copy_out<3>(&p.y, shared_address(own) + lane * 8 * S::out_row, (j + lane * S::out_j) * S::D, at.i, n,
                            0);
            copies_out_commit();
        }
    }
    return lost;
}

} // namespace ks_cluster

#include "fused_cluster_f32.cuh"

namespace ks_cluster
{

/* acc[l] = X * K^T over all slabs of a unit, 2-byte types. done(slot): this warp is. */
template <class S, class F>
__device__ __forceinline__ void sum_halves(const arguments &p, float (&acc)[S::L][S::NT][4], const char *stages,
                                           const barriers &ring, place &now, int row, int group, int g, int t,
                                           const F &done)
{
    using T = typename S::T;
#pragma unroll
    for (int e = 0; e < S::L * S::NT * 4; e++) (&acc[0][0][0])[e] = 0;
    uint32_t a[S::buffers][S::L][4];
    const int steps = p.slabs * S::STEPS;
    int before = -1; /* a slot that is free once the products before this step's are done */
    const auto take = [&](auto buffer, int step) {
        constexpr int B = decltype(buffer)::value;
        const int sub = step % S::STEPS;
        if (sub == 0) barrier_wait(ring.full + now.slot * 8, now.phase);
        const char *const xs = stages + now.slot * S::stage_bytes;
        const char *const ks = xs + S::x_bytes + (S::HALVES ? group * S::L * S::N * S::k_row : 0);
        if (S::buffers == 1) ks_mma::group_wait<0>();
        read_x<S>(a[B], xs, sub, row, group, g, t);
        ks_mma::group_fence();
        const uint64_t k0 = k_operand<S::k_row>(ks) + (sub * 32 >> 4);
#pragma unroll
        for (int l = 0; l < S::L; l++)
            ks_mma::group_product<S::NT, ks_mma::ALWAYS>(T(), acc[l], a[B][l], k0 + (l * S::N * S::k_row >> 4));
        ks_mma::group_commit();
        if (S::buffers == 2) ks_mma::group_wait<1>();
        if (sub == 0 && before >= 0) done(before);
        if (sub == S::STEPS - 1) {
            before = now.slot;
            now.next(p.stages);
        }
    };
    for (int step = 0; step + 1 < steps; step += 2) {
        take(number<0>(), step);
        take(number<S::buffers - 1>(), step + 1);
    }
    ks_mma::group_wait<0>();
    if (steps % 2) {
        take(number<0>(), steps - 1);
        ks_mma::group_wait<0>();
    }
    done(before);
#pragma unroll
    for (int l = 0; l < S::L; l++) ks_mma::group_hold(acc[l]);
}

/* The same where l is alone: the tensor cores read X as it came. */
template <class S, class F>
__device__ __forceinline__ void sum_direct(const arguments &p, float (&acc)[S::L][S::NT][4], const char *stages,
                                           const barriers &ring, place &now, int group, const F &done)
{
#pragma unroll
    for (int e = 0; e < S::NT * 4; e++) acc[0][e / 4][e % 4] = 0;
    int before = -1; /* a slot that is free once the products before this slab's are done */
#pragma unroll 1
    for (int slab = 0; slab < p.slabs; slab++) {
        const char *const xs = stages + now.slot * S::stage_bytes;
        const uint64_t x = k_operand<S::x_row>(xs + group * 64 * S::x_row), k = k_operand<S::k_row>(xs + S::x_bytes);
        barrier_wait(ring.full + now.slot * 8, now.phase);
        ks_mma::group_fence();
#pragma unroll
        for (int step = 0; step < S::STEPS; step++)
            ks_mma::shared_product(typename S::T(), acc[0], x + (step * 32 >> 4), k + (step * 32 >> 4));
        ks_mma::group_commit();
        ks_mma::group_wait<1>();
        if (before >= 0) done(before);
        before = now.slot;
        now.next(p.stages);
    }
    ks_mma::group_wait<0>();
    done(before);
    ks_mma::group_hold(acc[0]);
}

/* The groups of warps that multiply. */
template <class S>
__device__ __forceinline__ void consume(const arguments &p, char *stages, char *staging, const barriers &ring)
{
    const int group = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, g = lane / 4,
              t = lane % 4, row = (S::HALVES ? 0 : group * 64) + warp * 16 + g;
    const int rank = cluster_rank(), jr = rank % p.across, nr = rank / p.across;
    /* Whom a lane tells that a slot is free: the blocks of its row, then the others of its column. */
    const bool tells = lane < p.across + p.down - 1;
    const int other = lane - p.across;
    const uint32_t told = remote_address(ring.empty, !tells      ? rank
                                                     : other < 0 ? nr * p.across + lane
                                                                 : (other + (other >= nr)) * p.across + jr);
    const auto done = [&](int slot) {
        __syncwarp();
        if (tells) barrier_arrive(told + slot * 8);
    };
    const unsigned blocks = static_cast<unsigned>(p.across * p.down);
    place now = {0, 0};
    ks_cuda::await_earlier();
    for (unsigned unit = blockIdx.x / blocks; unit < p.units; unit += gridDim.x / blocks) {
        float acc[S::L][S::NT][4];
        if constexpr (S::EXACT)
            sum_exact<S>(p, acc, stages, ring, now, row, group, g, t, done);
        else if constexpr (S::DIRECT)
            sum_direct<S>(p, acc, stages, ring, now, group, done);
        else
            sum_halves<S>(p, acc, stages, ring, now, row, group, g, t, done);
        const corner at = corner_of<S>(p, unit, rank);
        if (__builtin_expect(p.finish.asked, false)) finish<S>(p, acc, at, group, t);
        const bool lost = store<S>(p, acc, staging, at, group, warp, lane);
        if (S::T::may_lose_infinity && for_any<S>(warp, lost)) {
            copies_out_done();
            together<S>(warp);
            rescue<S>(p, at, row, S::HALVES ? group * S::L : 0, t);
        }
    }
    copies_out_read<0>();
}

template <class S> __global__ void __launch_bounds__(THREADS, 1) multiply(const __grid_constant__ arguments p)
{
    if constexpr (ks_mma::can_group) {
        extern __shared__ __align__(1024) char memory[];
        char *const stages = memory + S::staging_bytes;
        const uint32_t first = shared_address(stages + p.stages * S::stage_bytes);
        const barriers ring = {first, first + MOST_STAGES * 8, first + 2 * MOST_STAGES * 8};
        const int slot = threadIdx.x;
        if (slot < p.stages) {
            barrier_open(ring.full + slot * 8, 1);
            barrier_open(ring.split + slot * 8, SPLITTERS / 32);
            barrier_open(ring.empty + slot * 8, CONSUMERS / 32 * (p.across + p.down - 1));
            barriers_publish();
        }
        if (threadIdx.x == CONSUMERS) map_prefetch(&p.x), map_prefetch(&p.k), map_prefetch(&p.y);
        __syncthreads();
        cluster_sync();
        if (threadIdx.x >= CONSUMERS) {
            fewer_registers<24>();
            if (threadIdx.x == CONSUMERS) fill<S>(p, stages, ring);
            if constexpr (S::EXACT)
                if (threadIdx.x >= THREADS - SPLITTERS) split<S>(p, stages, ring);
            __syncwarp();
        } else {
            more_registers<240>();
            consume<S>(p, stages, memory, ring);
        }
        if (p.across * p.down > 1) cluster_sync(); /* nobody leaves while others may write to it */
    }
}

} // namespace ks_cluster

#endif
