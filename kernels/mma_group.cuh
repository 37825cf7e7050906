/* Products of four warps (wgmma, Hopper alone), one instruction deep.
 *
 * Each warp brings 16 rows of X in registers, laid out as for mma.sync; K's columns are read from shared memory by the
 * tensor cores themselves, in rows of 32 bytes of k with the 32-byte swizzle: the second four of every eight rows have their
 * halves exchanged. Results lie as mma.sync's do. A product goes on while the warps do: what it reads and adds to may not be
 * touched before group_wait. (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".) */
#ifndef KS_MMA_GROUP_CUH
#define KS_MMA_GROUP_CUH

#include "mma_tile.cuh"

namespace ks_mma
{

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
static constexpr bool can_group = true;
#    define KS_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
static constexpr bool can_group = false;
#    define KS_HOPPER_ASM(...) /* never reached */
#endif

/* 8 columns' results, and lists of them as operands and as their names. */
#define KS_SUMS1(n)  "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define KS_SUMS2(n)  KS_SUMS1(n), KS_SUMS1(n + 1)
#define KS_SUMS3(n)  KS_SUMS2(n), KS_SUMS1(n + 2)
#define KS_SUMS4(n)  KS_SUMS2(n), KS_SUMS2(n + 2)
#define KS_SUMS6(n)  KS_SUMS4(n), KS_SUMS2(n + 4)
#define KS_SUMS8(n)  KS_SUMS4(n), KS_SUMS4(n + 4)
#define KS_SUMS12(n) KS_SUMS8(n), KS_SUMS4(n + 8)
#define KS_SUMS16(n) KS_SUMS8(n), KS_SUMS8(n + 8)
#define KS_SUMS20(n) KS_SUMS16(n), KS_SUMS4(n + 16)
#define KS_SUMS24(n) KS_SUMS16(n), KS_SUMS8(n + 16)
#define KS_SUMS32(n) KS_SUMS16(n), KS_SUMS16(n + 16)
#define KS_NAMES1    "%0, %1, %2, %3"
#define KS_NAMES2    KS_NAMES1 ", %4, %5, %6, %7"
#define KS_NAMES3    KS_NAMES2 ", %8, %9, %10, %11"
#define KS_NAMES4    KS_NAMES2 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define KS_NAMES6    KS_NAMES4 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define KS_NAMES8    KS_NAMES6 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define KS_NAMES12   KS_NAMES8 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define KS_NAMES16   KS_NAMES12 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define KS_NAMES20   KS_NAMES16 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define KS_NAMES24                                                                                                   \
    KS_NAMES16 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, "   \
               "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define KS_NAMES32                                                                                                   \
    KS_NAMES24                                                                                                       \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, "           \
    "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define KS_GROUP_ASM(TILES, COLUMNS, X, K, ADD)                                                                      \
    KS_HOPPER_ASM("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                                               \
                  "wgmma.mma_async.sync.aligned.m64n" COLUMNS KS_KIND "{" KS_NAMES##TILES                            \
                  "}, {" X "}, " K ", add, 1, 1" KS_TRANSPOSED ";\n}\n"                                              \
                  : KS_SUMS##TILES(0)                                                                                \
                  : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(k), "r"(add))
#define KS_GROUP_PRODUCT(TILES, COLUMNS, X, K, IF)                                                                   \
    if constexpr (NT == TILES && ADD == ALWAYS) KS_GROUP_ASM(TILES, COLUMNS, X, K, "1");                             \
    if constexpr (NT == TILES && ADD == ASKED) KS_GROUP_ASM(TILES, COLUMNS, X, K, IF)

/* Whether a product is added to what c was; ASKED: where `add` is not 0. */
enum addition { ALWAYS, ASKED };

/* c[n] += a * (columns 8n to 8n + 7 of k), or =, for each n of NT. */
#define KS_GROUP_PRODUCTS(TYPE)                                                                                      \
    template <int NT, addition ADD>                                                                                  \
    __device__ __forceinline__ void group_product(TYPE, float(&c)[NT][4], const uint32_t(&a)[4], uint64_t k,         \
                                                  int add = 0)                                                       \
    {                                                                                                                \
        static_assert(NT == 3 || NT == 4 || NT == 6 || NT == 8 || NT == 12 || NT == 16, "compiled for these");       \
        KS_GROUP_PRODUCT(3, "24", "%12, %13, %14, %15", "%16", "%17");                                               \
        KS_GROUP_PRODUCT(4, "32", "%16, %17, %18, %19", "%20", "%21");                                               \
        KS_GROUP_PRODUCT(6, "48", "%24, %25, %26, %27", "%28", "%29");                                               \
        KS_GROUP_PRODUCT(8, "64", "%32, %33, %34, %35", "%36", "%37");                                               \
        KS_GROUP_PRODUCT(12, "96", "%48, %49, %50, %51", "%52", "%53");                                              \
        KS_GROUP_PRODUCT(16, "128", "%64, %65, %66, %67", "%68", "%69");                                             \
    }

/* The same where X lies in shared memory, too: x tells of 64 rows, as k does of columns. */
#define KS_SHARED_PRODUCT(TILES, COLUMNS, X, K)                                                                      \
    if constexpr (NT == TILES)                                                                                       \
    KS_HOPPER_ASM("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"                                                     \
                  "wgmma.mma_async.sync.aligned.m64n" COLUMNS KS_KIND "{" KS_NAMES##TILES "}, " X ", " K             \
                                                                                          ", add, 1, 1, 0, 0;\n}\n"  \
                  : KS_SUMS##TILES(0)                                                                                \
                  : "l"(x), "l"(k))
#define KS_SHARED_PRODUCTS(TYPE)                                                                                     \
    template <int NT> __device__ __forceinline__ void shared_product(TYPE, float(&c)[NT][4], uint64_t x, uint64_t k) \
    {                                                                                                                \
        static_assert(NT == 6 || NT == 8 || NT == 12 || NT == 16 || NT == 20 || NT == 24 || NT == 32,                \
                      "compiled for these");                                                                         \
        KS_SHARED_PRODUCT(6, "48", "%24", "%25");                                                                    \
        KS_SHARED_PRODUCT(8, "64", "%32", "%33");                                                                    \
        KS_SHARED_PRODUCT(12, "96", "%48", "%49");                                                                   \
        KS_SHARED_PRODUCT(16, "128", "%64", "%65");                                                                  \
        KS_SHARED_PRODUCT(20, "160", "%80", "%81");                                                                  \
        KS_SHARED_PRODUCT(24, "192", "%96", "%97");                                                                  \
        KS_SHARED_PRODUCT(32, "256", "%128", "%129");                                                                \
    }

#define KS_KIND       "k16.f32.f16.f16 "
#define KS_TRANSPOSED ", 0"
KS_GROUP_PRODUCTS(f16)
KS_SHARED_PRODUCTS(f16)
#undef KS_KIND
#define KS_KIND "k16.f32.bf16.bf16 "
KS_GROUP_PRODUCTS(bf16)
KS_SHARED_PRODUCTS(bf16)
#undef KS_KIND
#undef KS_TRANSPOSED
#define KS_KIND "k8.f32.tf32.tf32 "
#define KS_TRANSPOSED
KS_GROUP_PRODUCTS(f32)
#undef KS_KIND
#undef KS_TRANSPOSED

/* K's rows from `at` on, a multiple of 256 bytes, as a product wants to be told: 8 rows of 32 bytes each 256. Further on by n
 * bytes is n >> 4 more. */
__device__ __forceinline__ uint64_t group_operand(const char *at)
{
    const uint64_t rows = 256 >> 4, swizzle = 3;
    return (shared_address(at) & 0x3ffff) >> 4 | 1u << 16 | rows << 32 | swizzle << 62;
}

/* Before products: what the warps did to the registers is done. */
__device__ __forceinline__ void group_fence()
{
    KS_HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void group_commit()
{
    KS_HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING of the groups committed last are under way. */
template <int PENDING> __device__ __forceinline__ void group_wait()
{
    KS_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* After group_wait: the compiler is not to read c before. */
template <int NT> __device__ __forceinline__ void group_hold(float (&c)[NT][4])
{
#pragma unroll
    for (int e = 0; e < NT * 4; e++) asm volatile("" : "+f"(c[e / 4][e % 4])::"memory");
}

/* Before a barrier and products after it: what this thread wrote to shared memory. */
__device__ __forceinline__ void group_publish()
{
    KS_HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory");
}

/* 16 bytes of K as rounded to TF32, in place, and what that leaves of them. */
__device__ __forceinline__ void split_chunk(char *rest, char *k)
{
    uint32_t w[4];
    load_words<4>(w, k);
    f32::operand<4> split;
    split.set(w);
    *reinterpret_cast<uint4 *>(k) = make_uint4(split.high[0], split.high[1], split.high[2], split.high[3]);
    *reinterpret_cast<uint4 *>(rest) = make_uint4(split.low[0], split.low[1], split.low[2], split.low[3]);
}

} // namespace ks_mma

#endif
