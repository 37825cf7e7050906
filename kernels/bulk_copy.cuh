/* Barriers in shared memory, and what only Hopper has: a copy engine that counts its bytes on them, and clusters of blocks. One
 * instruction deep. Addresses are those of shared memory, 32 bits. (PTX ISA: mbarrier, cp.async.bulk.tensor, mapa, barrier.cluster,
 * setmaxnreg.) */
#ifndef KS_BULK_COPY_CUH
#define KS_BULK_COPY_CUH

#include "mma_group.cuh"

#include <cuda.h>

namespace ks_cluster
{

template <int VALUE> struct number {
    static constexpr int value = VALUE;
};

/* Where in a ring of slots a thread is: in which slot, and the parity of its uses. */
struct place {
    int slot, phase;
    __device__ __forceinline__ void next(int stages)
    {
        if (++slot == stages) slot = 0, phase ^= 1;
    }
};

/* For so many arrivals in each phase. */
__device__ __forceinline__ void barrier_open(uint32_t barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive_here(uint32_t barrier)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(barrier) : "memory");
}

/* Until the phase of this parity is over. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity)
{
#if __CUDA_ARCH__ >= 900
#    define KS_TRY "try_wait"
#else
#    define KS_TRY "test_wait"
#endif
    asm volatile("{\n.reg .pred done;\nwait:\n"
                 "mbarrier." KS_TRY ".parity.shared.b64 done, [%0], %1;\n"
                 "@done bra.uni over;\nbra.uni wait;\nover:\n}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
#undef KS_TRY
}

/* The same where other blocks' stores (hand_over) are what is waited for. */
__device__ __forceinline__ void barrier_wait_cluster(uint32_t barrier, int parity)
{
    KS_HOPPER_ASM("{\n.reg .pred done;\nwait:\n"
                  "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                  "@done bra.uni over;\nbra.uni wait;\nover:\n}\n" ::"r"(barrier),
                  "r"(parity)
                  : "memory");
}

/* 16 bytes to shared memory of any block of the cluster, counted on a barrier of that block. */
__device__ __forceinline__ void hand_over(uint32_t remote, const uint32_t (&w)[4], uint32_t remote_barrier)
{
    KS_HOPPER_ASM(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            remote),
        "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(remote_barrier)
        : "memory");
}

/* Four matrices of 8 x 8 elements of 2 bytes, turned: lane i says where row i % 8 of matrix i / 8 is, 16 bytes, and gets of column
 * i / 4 of each the elements of rows 2 (i % 4) and the next. */
__device__ __forceinline__ void read_turned(uint32_t (&w)[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(row)
                 : "memory");
}

/* 16 bytes. */
__device__ __forceinline__ void read_words(uint32_t (&w)[4], uint32_t from)
{
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(from)
                 : "memory");
}

/* Before cluster_sync: barriers opened by this thread, for the copy engine and the other blocks. */
__device__ __forceinline__ void barriers_publish()
{
    KS_HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives, and says how many bytes the copies of this phase will bring. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes)
{
    KS_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/* The address of what lies at `address` in the block of that rank. */
__device__ __forceinline__ uint32_t remote_address(uint32_t address, int rank)
{
    uint32_t remote = 0;
    KS_HOPPER_ASM("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

/* Arrives at a barrier of any block of the cluster. */
__device__ __forceinline__ void barrier_arrive(uint32_t remote)
{
    KS_HOPPER_ASM("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
}

__device__ __forceinline__ int cluster_rank()
{
    uint32_t rank = 0;
    KS_HOPPER_ASM("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}

__device__ __forceinline__ void cluster_sync()
{
    KS_HOPPER_ASM("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

template <int COUNT> __device__ __forceinline__ void fewer_registers()
{
    KS_HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> __device__ __forceinline__ void more_registers()
{
    KS_HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* Fetches what `map` says before it is needed. */
__device__ __forceinline__ void map_prefetch(const CUtensorMap *map)
{
    KS_HOPPER_ASM("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* A box of the array that `map` describes, from its element (c0, c1, ...), to the same place `to` in every block of `blocks`, whose
 * barriers, also at one place, count its bytes. */
template <int RANK>
__device__ __forceinline__ void copy_in(uint32_t to, const CUtensorMap *map, uint32_t barrier, uint16_t blocks,
                                        int c0, int c1, int c2, int c3)
{
    if constexpr (RANK == 4)
        KS_HOPPER_ASM(
            "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(to),
            "l"(map), "r"(barrier), "h"(blocks), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
            : "memory");
    else
        KS_HOPPER_ASM(
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(to),
            "l"(map), "r"(barrier), "h"(blocks), "r"(c0), "r"(c1), "r"(c2)
            : "memory");
}

/* The way back, from this block. */
template <int RANK>
__device__ __forceinline__ void copy_out(const CUtensorMap *map, uint32_t from, int c0, int c1, int c2, int c3)
{
    if constexpr (RANK == 4)
        KS_HOPPER_ASM(
            "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
            "r"(from), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
            : "memory");
    else
        KS_HOPPER_ASM("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                      "r"(from), "r"(c0), "r"(c1), "r"(c2)
                      : "memory");
}

__device__ __forceinline__ void copies_out_commit()
{
    KS_HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until at most PENDING of this thread's copies out have still to read shared memory; until all are done. */
template <int PENDING> __device__ __forceinline__ void copies_out_read()
{
    KS_HOPPER_ASM("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void copies_out_done()
{
    KS_HOPPER_ASM("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* K's rows of ROW bytes of k from `at` on, swizzled as widely, as a product wants to be told. */
template <int ROW> __device__ __forceinline__ uint64_t k_operand(uint32_t at)
{
    static_assert(ROW == 32 || ROW == 64 || ROW == 128, "the copy engine's swizzles");
    const uint64_t rows = 8 * ROW >> 4, swizzle = ROW == 32 ? 3 : ROW == 64 ? 2 : 1;
    return (at & 0x3ffff) >> 4 | 1u << 16 | rows << 32 | swizzle << 62;
}

template <int ROW> __device__ __forceinline__ uint64_t k_operand(const char *at)
{
    return k_operand<ROW>(ks_mma::shared_address(at));
}

} // namespace ks_cluster

#endif
