/* fused.cuda.exchange's kernel: batch-first, 2-byte types, d a multiple of 8; Hopper alone; one launch, output-stationary.
 *
 * Why. Memory gives l's by sectors of 16, and a block that takes 16 l's has registers for the sums of few n and j: it reads X and K
 * from L2 again and again (fused_cluster.cuh). Here the eight blocks of a cluster read 16 l's together, and then each keeps two
 * of them for itself: the others it hands, by stores to shared memory, to the blocks whose they are, and gets from these its
 * own. From there on a block multiplies as if d were 1: the tensor cores read both operands from shared memory, and its tile is
 * 128 n's x up to 192 j's, or 64 x 256. Results go back the same way, to the block whose n's they are, which stores all 16 l's.
 *
 * How X is sorted out. A slab lies as (k, 4 n's, 16 l's) in shared memory. ldmatrix.trans takes 16 bytes of each of eight rows and
 * gives a lane two values of one l, from two rows; these are chosen such that the four words that a lane gets of four matrices
 * are eight k's of one n and l, as the tensor cores want them: each lane sends them as they came.
 *
 * Roles. Four warps fetch X and sort it out, one of them also has the copy engine fetch K; two groups of four warps multiply,
 * hand over, and store. X comes by loads of 16 bytes: the copy engine would fetch 64 for each run of 32. What blocks hand over
 * counts its bytes on barriers of those that get it. (PTX ISA: st.async, ldmatrix, mbarrier, wgmma.)
 *
 * What bounds it: the way out of a multiprocessor takes 32 bytes a cycle, of what is handed over as of what is stored, and one
 * request for a run of X; L2 is busy for three quarters of the time and more.
 *
 * Dropped: X by the copy engine (up to half more time); warps of their own that store (no registers are left for them beside
 * tiles of 192 j's); sums of the next tile while results leave (5 % less time for 64 j's, more than lost for 96); asking L2 for
 * the whole line of a run. */
#ifndef KS_FUSED_EXCHANGE_CUH
#define KS_FUSED_EXCHANGE_CUH

#include "bulk_copy.cuh"
#include "epilogue.cuh"
#include "launch.cuh"
#include "mma_group.cuh"

namespace ks_exchange
{

using namespace ks_cluster;
using ks_mma::shared_address;

enum {
    BLOCKS = 8,      /* of a cluster */
    L = 2,           /* l's of a block */
    D = BLOCKS * L,  /* of a cluster: a sector */
    TK = 32,         /* k's of a slab */
    CONSUMERS = 256, /* threads that multiply */
    SORTERS = 4,     /* warps that do not */
    THREADS = CONSUMERS + 32 * SORTERS,
    REGISTERS = 224, /* of a thread that multiplies: with the others', what there are */
    SORTERS_REGISTERS = 56,
    RAW_SLOTS = 3,  /* of the rings: X as it comes */
    MOST_SLOTS = 6, /* X sorted out, and K */
    PARTS = 3,      /* results, as blocks hand them over: */
    PART = 32,      /* j's of a group of warps */
    /* Of each block four times what a warp sends at once: of 128 n's (16 j's, half of the rows), of 64 (group, 16 j's). A lane
     * sends 4 j's of 2 l's of one n. */
    SENT_BYTES = 32 * 16,
    FROM_BYTES = 4 * SENT_BYTES,
    FROM_PITCH = FROM_BYTES + 16, /* so that those of two blocks lie in other banks */
    PART_BYTES = BLOCKS * FROM_PITCH,
    BARRIERS = 2 * MOST_SLOTS + PARTS + PARTS * BLOCKS
};

struct arguments {
    CUtensorMap k;
    const char *x;
    char *y;
    int slabs, slots, k_js; /* j's of a copy of K */
    /* Units: (i, span of j tiles, n tile, j tile of the span, l tile), the last the fastest. */
    unsigned l_tiles, j_span, n_tiles, j_spans, units;
    ks_cuda::epilogue<float> finish;
    int b, c, d, batch;
    int64_t x_row, y_row; /* elements of a sample */
};

/* Tiles of TN n's x N j's: of 128 n's each group of warps multiplies 64, of 64 both all, each half of the j's. */
template <class Type, int N_, int TN_> struct shape {
    using T = Type;
    /* GROUP_J: j's of a group of warps; OWN: n's whose X a block fetches, and whose Y it stores. */
    static constexpr int N = N_, TN = TN_, GROUP_J = TN == 128 ? N : N / 2, NT = GROUP_J / 8;
    static constexpr int OWN = TN / BLOCKS, FOURS = OWN / 4;
    static constexpr int EIGHTS = TK / 8 * FOURS / SORTERS; /* a sorter's share of a slab: 8 k's of 4 n's, so often */
    static constexpr int raw_bytes = EIGHTS * 8 * 4 * D * 2, x_bytes = TN * TK * L * 2, k_bytes = N * TK * L * 2,
                         slot_bytes = x_bytes + k_bytes,
                         fixed_bytes = RAW_SLOTS * SORTERS * raw_bytes + PARTS * PART_BYTES + BARRIERS * 8;
    static constexpr int COUNT = GROUP_J / PART; /* parts of a tile */
    static_assert(TN == 128 || TN == 64, "a group's rows");
    static_assert(GROUP_J % PART == 0 && EIGHTS % 2 == 0, "whole parts and shares");
    static_assert(slot_bytes % 1024 == 0 && x_bytes % 1024 == 0, "swizzles repeat within");
};

/* Addresses in shared memory, the same in every block. */
struct rings {
    uint32_t raw, slots, parts;
    /* Barriers. One for each slot: X and K have come; all blocks are done with it; results have come. */
    uint32_t full, empty, part_full;
    /* One for each slot and block: that block has stored what it got there. */
    uint32_t part_free;
};

template <class S> __device__ __forceinline__ rings place_rings(uint32_t memory, int slots)
{
    rings r;
    r.raw = memory, r.slots = r.raw + RAW_SLOTS * SORTERS * S::raw_bytes, r.parts = r.slots + slots * S::slot_bytes;
    r.full = r.parts + PARTS * PART_BYTES, r.empty = r.full + 8 * MOST_SLOTS;
    r.part_full = r.empty + 8 * MOST_SLOTS, r.part_free = r.part_full + 8 * PARTS;
    return r;
}

/* Where a cluster's tile of a unit begins. */
struct corner {
    int i, j, l, n;
};

template <class S> __device__ __forceinline__ corner corner_of(const arguments &p, unsigned unit)
{
    corner c;
    c.l = static_cast<int>(unit % p.l_tiles) * D, unit /= p.l_tiles;
    const int j_tile = static_cast<int>(unit % p.j_span);
    unit /= p.j_span;
    c.n = static_cast<int>(unit % p.n_tiles) * S::TN, unit /= p.n_tiles;
    c.j = (static_cast<int>(unit % p.j_spans) * static_cast<int>(p.j_span) + j_tile) * S::N;
    c.i = static_cast<int>(unit / p.j_spans);
    return c;
}

/* How many parts the results of a tile have: those with j's that there are. */
template <class S> __device__ __forceinline__ int parts_of(const arguments &p, const corner &at)
{
    const int left = (p.b - at.j + PART - 1) / PART;
    return left < S::COUNT ? left : S::COUNT;
}

/* Calls f(corner) for each unit of this cluster. */
template <class S, class F> __device__ __forceinline__ void for_units(const arguments &p, const F &f)
{
    for (unsigned unit = blockIdx.x / BLOCKS; unit < p.units; unit += gridDim.x / BLOCKS) f(corner_of<S>(p, unit));
}

/* A slab of K, as (l, j, k) of each group's j's where these are apart: what there is of it, since filling with zeros takes seven
 * cycles a row, and what lies there for other j's and l's comes to results that nobody stores. Says for how many bytes X and K come. */
template <class S>
__device__ __forceinline__ void fetch_k(const arguments &p, uint32_t slot, uint32_t full, int rank, int k,
                                        const corner &at)
{
    constexpr int groups = S::N / S::GROUP_J, row = TK * 2;
    const int l0 = at.l + rank * L;
    const bool whole = p.k_js == S::GROUP_J; /* all j's and l's of a group come in one copy */
    const int j_end = l0 < p.d ? p.b - at.j : 0;
    int boxes = 0;
#pragma unroll
    for (int g = 0; g < groups; g++) {
        const int left = j_end - g * S::GROUP_J;
        if (left > 0) boxes += whole ? 1 : ((left < S::GROUP_J ? left : S::GROUP_J) + p.k_js - 1) / p.k_js;
    }
    barrier_expect(full, S::x_bytes + boxes * p.k_js * L * row);
#pragma unroll
    for (int g = 0; g < groups; g++)
        for (int j = 0; j < S::GROUP_J && g * S::GROUP_J + j < j_end; j += p.k_js)
            for (int l = 0; l < (whole ? 1 : L); l++)
                copy_in<4>(slot + S::x_bytes + ((g * L + l) * S::GROUP_J + j) * row, &p.k, full,
                           static_cast<uint16_t>(1u << rank), k, at.j + g * S::GROUP_J + j, l0 + l, at.i);
}

/* The warps that sort X out, each some k's of four n's, which it fetches itself. X lies in a slot as (l, eight k's, n, these k's). */
template <class S>
__device__ __forceinline__ void sort_x(const arguments &p, const rings &r, int rank, int sorter, int lane)
{
    const int g = lane / 4, t = lane % 4, n0 = rank * S::OWN + sorter % S::FOURS * 4,
              u0 = sorter / S::FOURS * S::EIGHTS;
    const uint32_t raw = r.raw + sorter * RAW_SLOTS * S::raw_bytes;
    /* The row that this lane says where it is: the first or second of two k's, of number lane / 8, of n number row / 2. Of odd k's
     * the second 8 l's lie first: so no two rows of a matrix lie in the same banks. */
    const uint32_t row = raw + ((lane / 8 * 2 + lane % 2) * 4 + lane % 8 / 2) * D * 2 + lane % 2 * 16;
    uint32_t to[2], told[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int whose = (8 * h + g) / L;
        to[h] = remote_address(r.slots, whose) + g % L * (S::x_bytes / L) + (u0 * S::TN + n0 + t) * 16;
        told[h] = remote_address(r.full, whose);
    }
    /* What it fetches: of every four k's one, half of the l's of one n. */
    const int k0 = u0 * 8 + lane / 8, n = n0 + lane / 2 % 4, half = lane % 2;
    const uint32_t into = raw + lane / 2 * D * 2 + (half ^ k0 % 2) * 16;
    unsigned ahead = blockIdx.x / BLOCKS;
    int k_left = 0, slabs_left = 0; /* k_left: 0 or less where there is nothing but zeros */
    const char *from = p.x;
    const auto enter = [&] {
        const corner at = corner_of<S>(p, ahead);
        from = p.x + 2 * ((at.n + n) * p.x_row + (static_cast<int64_t>(at.i) * p.c + k0) * p.d + at.l + half * 8);
        k_left = at.l + half * 8 < p.d && at.n + n < p.batch ? p.c - k0 : 0;
        slabs_left = ahead < p.units ? p.slabs : 0;
    };
    const auto fetch = [&](int slot) {
        if (slabs_left > 0) {
#pragma unroll
            for (int k = 0; k < S::EIGHTS * 8; k += 4)
                ks_mma::copy16(into + slot * S::raw_bytes + k * 4 * D * 2, from + 2 * static_cast<int64_t>(k) * p.d,
                               k < k_left);
            from += static_cast<int64_t>(TK) * 2 * p.d, k_left -= TK;
            if (--slabs_left == 0) ahead += gridDim.x / BLOCKS, enter();
        }
        ks_mma::copies_commit();
    };
    enter();
    for (int slot = 0; slot < RAW_SLOTS; slot++) fetch(slot);
    place now = {0, 1};
    int come = 0;
    for_units<S>(p, [&](const corner &at) {
        for (int slab = 0; slab < p.slabs; slab++) {
            const uint32_t full = r.full + now.slot * 8;
            barrier_wait(r.empty + now.slot * 8, now.phase);
            if (sorter == 0 && lane == 0)
                fetch_k<S>(p, r.slots + now.slot * S::slot_bytes, full, rank, slab * TK, at);
            __syncwarp();
            ks_mma::copies_wait(RAW_SLOTS - 1);
            __syncwarp();
#pragma unroll
            for (int u1 = 0; u1 < S::EIGHTS; u1 += 2) {
                uint32_t w[2][2][4];
#pragma unroll
                for (int u = 0; u < 2; u++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        read_turned(w[u][h], (row + come * S::raw_bytes + (u1 + u) * 8 * 4 * D * 2) ^ h * 16);
#pragma unroll
                for (int u = 0; u < 2; u++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        hand_over(to[h] + now.slot * S::slot_bytes + (u1 + u) * S::TN * 16, w[u][h],
                                  told[h] + now.slot * 8);
            }
            __syncwarp();
            fetch(come);
            come = come + 1 == RAW_SLOTS ? 0 : come + 1;
            now.next(p.slots);
        }
    });
}

/* What a product is told of 64 n's and 16 k's of sorted-out X: 8 rows of 16 bytes each 128, the next 8 k's TN * 16 on; no
 * swizzle. */
template <int TN> __device__ __forceinline__ uint64_t x_operand(uint32_t at)
{
    return (at & 0x3ffff) >> 4 | static_cast<uint64_t>(TN * 16 >> 4) << 16 | static_cast<uint64_t>(128 >> 4) << 32;
}

/* Waits for the group's other warps. */
__device__ __forceinline__ void group_sync(int group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
}

/* The groups of warps that multiply, hand over, and store. */
template <class S> struct consumer {
    using T = typename S::T;
    using sums = float[L][S::NT][4];
    const arguments &p;
    const rings &r;
    const int rank, group, warp, lane;
    const bool tells; /* other blocks, lane by lane */
    uint32_t emptied, freed, out[2], told[2], in;
    int n0, j0;
    place now, sent, stored;

    __device__ __forceinline__ consumer(const arguments &p_, const rings &r_, int rank_)
        : p(p_), r(r_), rank(rank_), group(threadIdx.x / 128), warp(threadIdx.x / 32), lane(threadIdx.x % 32),
          tells(warp % 4 == 0 && lane < BLOCKS), now{0, 0}, sent{0, 1}, stored{0, 0}
    {
        emptied = remote_address(r.empty, lane % BLOCKS);
        freed = remote_address(r.part_free + rank * 8, lane % BLOCKS);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            out[half] = remote_address(
                r.parts + rank * FROM_PITCH + (S::TN == 128 ? 0 : group * 2 * SENT_BYTES) + lane * 16, whose(half));
            told[half] = remote_address(r.part_full, whose(half));
        }
        /* What a warp stores of each part: 16 j's of 4 n's; two lanes 4 j's of one n, each half of the l's. */
        in = r.parts + lane % 2 * 4 * FROM_PITCH + warp * (SENT_BYTES / 2) + lane / 2 * 16;
        n0 = rank * S::OWN + warp % S::FOURS * 4 + lane / 8;
        j0 = (S::TN == 128 ? warp / 4 * 16 : warp / 4 * S::GROUP_J + warp / 2 % 2 * 16) + lane / 2 % 4 * 2;
    }

    /* Whose n's half of a warp's 16 rows are: of 128 n's those of one block, of 64 of two. */
    __device__ __forceinline__ int whose(int half) const
    {
        return S::TN == 128 ? warp : warp % 4 * 2 + half;
    }

    __device__ __forceinline__ void sum_slab(sums &acc)
    {
        barrier_wait_cluster(r.full + now.slot * 8, now.phase);
        const uint32_t xs = r.slots + now.slot * S::slot_bytes,
                       ks = xs + S::x_bytes + (S::TN == 128 ? 0 : group * (S::k_bytes / 2));
        const uint64_t x = x_operand<S::TN>(xs + (S::TN == 128 ? group * 64 * 16 : 0)), k = k_operand<TK * 2>(ks);
        ks_mma::group_publish();
        ks_mma::group_fence();
#pragma unroll
        for (int step = 0; step < TK / 16; step++)
#pragma unroll
            for (int l = 0; l < L; l++)
                ks_mma::shared_product(T(), acc[l], x + ((l * (S::x_bytes / L) + step * 2 * S::TN * 16) >> 4),
                                       k + ((l * S::GROUP_J * TK * 2 + step * 32) >> 4));
        ks_mma::group_commit();
        ks_mma::group_wait<0>();
        group_sync(group);
        if (tells) barrier_arrive(emptied + now.slot * 8);
        now.next(p.slots);
    }

    /* Sums made outputs. What lies outside of Y gets the bias of some feature. */
    __device__ __forceinline__ void finish(sums &acc, const corner &at)
    {
        const int l0 = at.l + rank * L, first = at.j + (S::TN == 128 ? 0 : group * S::GROUP_J);
        const auto whose = [&](int q) {
            const int l = l0 + q / (4 * S::NT), j = first + q / 4 % S::NT * 8 + 2 * (lane % 4) + q % 2;
            return (j < p.b ? j * p.d : 0) + (l < p.d ? l : 0);
        };
        ks_cuda::finish_sums<typename T::scalar, 4, false>(p.finish, reinterpret_cast<float(&)[L * S::NT * 4]>(acc),
                                                           static_cast<int64_t>(at.i) * p.b * p.d, whose);
    }

    /* Part NUMBER of the results, to the blocks whose n's they are. */
    template <int NUMBER> __device__ __forceinline__ void send(const sums &acc)
    {
        if (threadIdx.x == 0) barrier_expect(r.part_full + sent.slot * 8, BLOCKS * FROM_BYTES);
#pragma unroll
        for (int half = 0; half < (S::TN == 128 ? 1 : 2); half++)
            barrier_wait(r.part_free + (sent.slot * BLOCKS + whose(half)) * 8, sent.phase);
#pragma unroll
        for (int q = 0; q < PART / 8; q++) { /* (16 j's, half of the rows) */
            const int c = NUMBER * PART / 8 + q / 2 * 2, half = q % 2;
            uint32_t w[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                w[e] = T::pack(acc[0][c + e / 2][half * 2 + e % 2], acc[1][c + e / 2][half * 2 + e % 2]);
            hand_over(out[half] + sent.slot * PART_BYTES + (S::TN == 128 ? q : q / 2) * SENT_BYTES, w,
                      told[half] + sent.slot * 8);
        }
        sent.next(PARTS);
    }

    /* The part that came next, from all blocks, to Y: at `to` where this lane's n and l are there, its j's as far as there are. */
    __device__ __forceinline__ void store(char *to, int j_left)
    {
        uint32_t v[4][4];
        barrier_wait_cluster(r.part_full + stored.slot * 8, stored.phase);
#pragma unroll
        for (int e = 0; e < 4; e++) read_words(v[e], in + stored.slot * PART_BYTES + e * FROM_PITCH);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int j = e / 2 * 8 + e % 2;
            if (j < j_left)
                *reinterpret_cast<uint4 *>(to + static_cast<int64_t>(j) * p.d * 2) =
                    make_uint4(v[0][e], v[1][e], v[2][e], v[3][e]);
        }
        group_sync(group);
        if (tells) barrier_arrive(freed + stored.slot * BLOCKS * 8);
        stored.next(PARTS);
    }

    __device__ __forceinline__ void unit(const corner &at)
    {
        sums acc;
#pragma unroll
        for (int e = 0; e < L * S::NT * 4; e++) (&acc[0][0][0])[e] = 0;
#pragma unroll 1
        for (int slab = 0; slab < p.slabs; slab++) sum_slab(acc);
#pragma unroll
        for (int l = 0; l < L; l++) ks_mma::group_hold(acc[l]);
        if (__builtin_expect(p.finish.asked, false)) finish(acc, at);

        const int l = at.l + lane % 2 * 8, parts = parts_of<S>(p, at);
        int j_left = l < p.d && at.n + n0 < p.batch ? p.b - at.j - j0 : 0;
        char *to = p.y + 2 * ((at.n + n0) * p.y_row + (static_cast<int64_t>(at.i) * p.b + at.j + j0) * p.d + l);
        const auto store_next = [&] {
            store(to, j_left);
            to += static_cast<int64_t>(PART) * p.d * 2, j_left -= PART;
        };
        send<0>(acc); /* each part is stored once the next is under way */
        send_from<1>(acc, parts, store_next);
        store_next();
    }

    template <int FIRST, class F>
    __device__ __forceinline__ void send_from(const sums &acc, int parts, const F &store_next)
    {
        if constexpr (FIRST < S::COUNT) {
            if (FIRST >= parts) return;
            send<FIRST>(acc);
            store_next();
            send_from<FIRST + 1>(acc, parts, store_next);
        }
    }
};

template <class S> __global__ void __launch_bounds__(THREADS, 1) multiply(const __grid_constant__ arguments p)
{
    if constexpr (ks_mma::can_group) {
        extern __shared__ __align__(1024) char memory[];
        const rings r = place_rings<S>(shared_address(memory), p.slots);
        const int rank = cluster_rank(), at = threadIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (at < BARRIERS) {
            const int empty = MOST_SLOTS, part_full = empty + MOST_SLOTS, part_free = part_full + PARTS;
            barrier_open(r.full + at * 8, at < empty       ? 1
                                          : at < part_full ? CONSUMERS / 128 * BLOCKS
                                          : at < part_free ? 1
                                                           : CONSUMERS / 128);
            barriers_publish();
        }
        if (at == CONSUMERS) map_prefetch(&p.k);
        __syncthreads();
        cluster_sync();
        if (at >= CONSUMERS) {
            fewer_registers<SORTERS_REGISTERS>();
            ks_cuda::await_earlier();
            sort_x<S>(p, r, rank, warp - CONSUMERS / 32, lane);
            __syncwarp();
        } else {
            more_registers<REGISTERS>();
            ks_cuda::await_earlier();
            consumer<S> me(p, r, rank);
            for_units<S>(p, [&](const corner &at) { me.unit(at); });
        }
        cluster_sync(); /* nobody leaves while others may write to it */
    }
}

} // namespace ks_exchange

#endif
