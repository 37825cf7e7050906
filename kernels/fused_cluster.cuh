/* fused.cuda.cluster's kernel: batch-first, d > 1, 2-byte types, Hopper alone; one launch, output-stationary.
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
 *   RUN    D is 16 of the l's, whole sectors: a slab of X lies as (n, k, 16 l's)
 *   else   D is d: a slab lies as (some k's, n, these k's with all their l's)
 * Of 16 l's a group takes 8, of fewer all for half of the n's.
 * Results go through shared memory and leave as bulk tensor copies, too, which drop what lies outside of Y.
 *
 * A slot of the ring may be filled again once every block that it is filled from, and they for theirs, has done with it: each
 * warp tells all blocks that send to it. (PTX ISA: "Asynchronous copies", "mbarrier"; CUTLASS's pipelines are of the same
 * kind.) */
#ifndef KS_FUSED_CLUSTER_CUH
#define KS_FUSED_CLUSTER_CUH

#include "bulk_copy.cuh"
#include "mma_group.cuh"

namespace ks_cluster
{

using ks_mma::load_words;
using ks_mma::shared_address;

enum { THREADS = 384, CONSUMERS = 256, MOST_STAGES = 8, BARRIER_BYTES = 2 * MOST_STAGES * 8 };

struct arguments {
    CUtensorMap x, k, y;
    int across, down;  /* blocks of a cluster: tiles of j, tiles of n */
    int slabs, stages; /* of k; of the ring */
    /* Units: (i, span of j groups, n group, j group of the span, l tile), the last the fastest. */
    unsigned l_tiles, j_span, n_groups, j_spans, units;
};

/* D: l's of a row of X that are read together: all of d, or, in RUN, a run of 16 of them. */
template <class Type, int D_, int N_, int TK_, bool RUN_> struct shape {
    using T = Type;
    static constexpr bool RUN = RUN_, HALVES = D_ == 16; /* each group half of the l's, else half of the n's */
    static constexpr int D = D_, N = N_, NT = N / 8, L = HALVES ? 8 : D;
    static constexpr int TN = HALVES ? 64 : 128;
    static constexpr int TK = TK_, STEPS = TK / 16;
    /* X's rows in shared memory: those of RUN k by k; else as many k's as 128 bytes, the swizzle's width, hold. */
    static constexpr int XK = RUN ? 1 : D == 6 ? 8 : D == 3 ? 16 : 64 / D;
    static constexpr int x_row = XK * D * 2;
    static constexpr int x_bytes = TN * TK * D * 2, k_bytes = N * TK * D * 2, stage_bytes = x_bytes + k_bytes;
    static constexpr int k_row = TK * 2; /* bytes of one j: the copy engine's swizzle is as wide */
    static constexpr int buffers = L * (4 * NT + 8) <= 208 ? 2 : 1; /* of X's operands */
    /* Results on their way out: 8 rows of n for each warp, or pair of warps that share them. */
    static constexpr int strip_bytes = 8 * N * D * 2, strips = HALVES ? 4 : 8, staging_bytes = strips * strip_bytes;
    static constexpr int out_j = HALVES ? N : D % 3 == 0 ? 16 : 64 / D; /* columns of one copy */
    static constexpr int out_row = out_j * D * 2; /* its bytes of one n, but in HALVES of one j */
    static_assert(TK % XK == 0 && N % out_j == 0, "whole copies");
    static_assert(stage_bytes % 1024 == 0 && x_bytes % 1024 == 0 && staging_bytes % 1024 == 0,
                  "swizzles repeat within");

    /* Where the 4 * D bytes of k and k + 1, or the 16 of k and the group's l's, of row n lie in a slab of X. */
    static __device__ __forceinline__ int x_at(int n, int k, int group)
    {
        if constexpr (RUN) return (n * TK + k) * 32 + ((group ^ k / 4) & 1) * 16;
        const int at = k % XK * D * 2 + (HALVES ? group * 16 : 0), row = (k / XK * TN + n) * x_row;
        return row + (x_row == 128 ? at ^ n % 8 * 16 : at);
    }

    /* Where the results of column j and the next go, all l's of row g of a strip; those of the group's l's in HALVES. */
    static __device__ __forceinline__ int y_at(int g, int j, int group)
    {
        if constexpr (HALVES) return (g * N + j) * 32 + ((group ^ j / 4) & 1) * 16;
        const int at = j % out_j * D * 2;
        return (j / out_j * 8 + g) * out_row + (out_row == 128 ? at ^ g * 16 : at);
    }
};

/* The raw operands of 16 k's for all l's of this group: a[l]. xs: the stage. */
template <class S>
__device__ __forceinline__ void read_x(uint32_t (&a)[S::L][4], const char *xs, int step, int group, int warp, int g,
                                       int t)
{
    const int row = (S::HALVES ? 0 : group * 64) + warp * 16 + g;
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
                    load_words<4>(r[e],
                                  xs + S::x_at(row + half * 8, step * 16 + q * 8 + 2 * t + (e ^ turned), group));
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
                const char *const at = xs + S::x_at(row + half * 8, step * 16 + q * 8 + 2 * t, group);
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

/* The thread that fills the ring. */
template <class S>
__device__ __forceinline__ void fill(const arguments &p, char *stages, uint32_t full, uint32_t empty)
{
    const int rank = cluster_rank(), jr = rank % p.across, nr = rank / p.across;
    const uint16_t row = static_cast<uint16_t>(((1u << p.across) - 1) << (nr * p.across));
    uint16_t column = 0;
    for (int q = 0; q < p.down; q++) column |= static_cast<uint16_t>(1u << (q * p.across + jr));
    const int x_rows = S::TN / p.across, k_ls = S::D / p.down; /* its part of the slabs */
    const unsigned blocks = static_cast<unsigned>(p.across * p.down);
    int slot = 0, phase = 1;
    for (unsigned unit = blockIdx.x / blocks; unit < p.units; unit += gridDim.x / blocks) {
        const corner at = corner_of<S>(p, unit, rank);
        const int n0 = at.n + jr * x_rows;
        for (int slab = 0; slab < p.slabs; slab++) {
            barrier_wait(empty + slot * 8, phase);
            barrier_expect(full + slot * 8, S::stage_bytes);
            const uint32_t to = shared_address(stages) + slot * S::stage_bytes;
            if constexpr (S::RUN) {
                copy_in<4>(to + jr * x_rows * S::TK * S::x_row, &p.x, full + slot * 8, row, at.l, slab * S::TK, at.i,
                           n0);
            } else {
#pragma unroll
                for (int q = 0; q < S::TK / S::XK; q++)
                    copy_in<3>(to + (q * S::TN + jr * x_rows) * S::x_row, &p.x, full + slot * 8, row,
                               (slab * S::TK + q * S::XK) * S::D, at.i, n0, 0);
            }
            copy_in<4>(to + S::x_bytes + nr * k_ls * S::N * S::k_row, &p.k, full + slot * 8, column, slab * S::TK,
                       at.j, at.l + nr * k_ls, at.i);
            if (++slot == p.stages) slot = 0, phase ^= 1;
        }
    }
}

/* This group's results of a unit to Y. */
template <class S>
__device__ __forceinline__ void store(const arguments &p, const float (&acc)[S::L][S::NT][4], char *staging,
                                      const corner &at, int group, int warp, int lane)
{
    using T = typename S::T;
    const int g = lane / 4, t = lane % 4;
    const int row0 = at.n + (S::HALVES ? 0 : group * 64) + warp * 16;
    char *const own = staging + (S::HALVES ? warp : group * 4 + warp) * S::strip_bytes;
    const auto together = [&] {
        if (S::HALVES)
            asm volatile("bar.sync %0, 64;" ::"r"(1 + warp) : "memory");
        else
            __syncwarp();
    };
    const bool sends = lane < S::N / S::out_j && (!S::HALVES || group == 0);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (sends) copies_out_read();
        together();
#pragma unroll
        for (int c = 0; c < S::NT; c++) {
            if constexpr (S::L == 8) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    uint32_t w[4];
#pragma unroll
                    for (int v = 0; v < 4; v++)
                        w[v] = T::pack(acc[2 * v][c][half * 2 + e], acc[2 * v + 1][c][half * 2 + e]);
                    char *const to = own + S::y_at(g, c * 8 + 2 * t + e, group);
                    *reinterpret_cast<uint4 *>(to) = make_uint4(w[0], w[1], w[2], w[3]);
                }
            } else {
                constexpr int D = S::D, piece = D % 4 == 0 ? 4 : D % 2 == 0 ? 2 : 1;
                uint32_t w[D];
#pragma unroll
                for (int v = 0; v < D; v++)
                    w[v] = T::pack(acc[2 * v % D][c][half * 2 + 2 * v / D],
                                   acc[(2 * v + 1) % D][c][half * 2 + (2 * v + 1) / D]);
                char *const to = own + S::y_at(g, c * 8 + 2 * t, group);
#pragma unroll
                for (int v = 0; v < D / piece; v++) {
                    if constexpr (piece == 4)
                        *reinterpret_cast<uint4 *>(to + 16 * v) =
                            make_uint4(w[4 * v], w[4 * v + 1], w[4 * v + 2], w[4 * v + 3]);
                    else if constexpr (piece == 2)
                        *reinterpret_cast<uint2 *>(to + 8 * v) = make_uint2(w[2 * v], w[2 * v + 1]);
                    else
                        *reinterpret_cast<uint32_t *>(to + 4 * v) = w[v];
                }
            }
        }
        ks_mma::group_publish();
        together();
        if (sends) {
            if (S::HALVES)
                copy_out<4>(&p.y, shared_address(own), at.l, at.j, at.i, row0 + half * 8);
            else
                copy_out<3>(&p.y, shared_address(own) + lane * 8 * S::out_row, (at.j + lane * S::out_j) * S::D, at.i,
                            row0 + half * 8, 0);
            copies_out_commit();
        }
    }
}

/* The groups of warps that multiply. */
template <class S>
__device__ __forceinline__ void consume(const arguments &p, char *stages, char *staging, uint32_t full,
                                        uint32_t empty)
{
    using T = typename S::T;
    const int group = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, g = lane / 4,
              t = lane % 4;
    const int rank = cluster_rank(), jr = rank % p.across, nr = rank / p.across;
    /* Whom a lane tells that a slot is free: the blocks of its row, then the others of its column. */
    const bool tells = lane < p.across + p.down - 1;
    const int other = lane - p.across;
    const uint32_t told = remote_address(empty, !tells      ? rank
                                                : other < 0 ? nr * p.across + lane
                                                            : (other + (other >= nr)) * p.across + jr);
    const auto release = [&](int slot) {
        __syncwarp();
        if (tells) barrier_arrive(told + slot * 8);
    };
    const unsigned blocks = static_cast<unsigned>(p.across * p.down);
    int slot = 0, phase = 0;
    for (unsigned unit = blockIdx.x / blocks; unit < p.units; unit += gridDim.x / blocks) {
        float acc[S::L][S::NT][4];
#pragma unroll
        for (int e = 0; e < S::L * S::NT * 4; e++) (&acc[0][0][0])[e] = 0;
        uint32_t a[S::buffers][S::L][4];
        const int steps = p.slabs * S::STEPS;
        int before = -1; /* a slot that is free once the products before this step's are done */
        const auto take = [&](auto buffer, int step) {
            constexpr int B = decltype(buffer)::value;
            const int sub = step % S::STEPS;
            if (sub == 0) barrier_wait(full + slot * 8, phase);
            const char *const xs = stages + slot * S::stage_bytes;
            const char *const ks = xs + S::x_bytes + (S::HALVES ? group * S::L * S::N * S::k_row : 0);
            if (S::buffers == 1) ks_mma::group_wait<0>();
            read_x<S>(a[B], xs, sub, group, warp, g, t);
            ks_mma::group_fence();
            const uint64_t k0 = k_operand<S::k_row>(ks) + (sub * 32 >> 4);
#pragma unroll
            for (int l = 0; l < S::L; l++)
                ks_mma::group_product<S::NT, true>(T(), acc[l], a[B][l], k0 + (l * S::N * S::k_row >> 4));
            ks_mma::group_commit();
            if (S::buffers == 2) ks_mma::group_wait<1>();
            if (sub == 0 && before >= 0) release(before);
            if (sub == S::STEPS - 1) {
                before = slot;
                if (++slot == p.stages) slot = 0, phase ^= 1;
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
        release(before);
#pragma unroll
        for (int l = 0; l < S::L; l++) ks_mma::group_hold(acc[l]);
        store<S>(p, acc, staging, corner_of<S>(p, unit, rank), group, warp, lane);
    }
    copies_out_done();
}

template <class S> __global__ void __launch_bounds__(THREADS, 1) multiply(const __grid_constant__ arguments p)
{
    if constexpr (ks_mma::can_group) {
        extern __shared__ __align__(1024) char memory[];
        char *const stages = memory + S::staging_bytes;
        const uint32_t full = shared_address(stages + p.stages * S::stage_bytes), empty = full + MOST_STAGES * 8;
        if (threadIdx.x == 0) {
            for (int s = 0; s < p.stages; s++) {
                barrier_open(full + s * 8, 1);
                barrier_open(empty + s * 8, CONSUMERS / 32 * (p.across + p.down - 1));
            }
            barriers_publish();
        }
        __syncthreads();
        cluster_sync();
        if (threadIdx.x >= CONSUMERS) {
            fewer_registers<24>();
            if (threadIdx.x == CONSUMERS) fill<S>(p, stages, full, empty);
            __syncwarp();
        } else {
            more_registers<240>();
            consume<S>(p, stages, memory, full, empty);
        }
        cluster_sync(); /* nobody leaves while others may write to it */
    }
}

} // namespace ks_cluster

#endif
