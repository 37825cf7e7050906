/* The pieces of fused_mma.cuh that are one instruction deep: asynchronous copies, tensor-core products, and how elements of
 * one type become the operands of a product.
 *
 * A product step multiplies 16 batch rows by 8 outputs j over 32 bytes of k: 16 values of a 2-byte type (one m16n8k16), 8 of
 * float32 (one m16n8k8, or three). Lane (g, t) = (lane / 4, lane % 4) of the warp holds, of every row g and g + 8 of X and of
 * every row j = g of K, the 8 bytes of k number t: values KT*t .. KT*t + KT-1. The sum over k does not mind that the
 * hardware calls them by other numbers, as long as both operands do. */
#ifndef KS_MMA_TILE_CUH
#define KS_MMA_TILE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace ks_mma
{

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/* 16 bytes from global to shared memory past L1; zeros if !valid: then nothing is read, wherever `from` points. */
__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most `pending` of this thread's newest groups of copies are under way. */
__device__ __forceinline__ void copies_wait(int pending)
{
    switch (pending) {
    case 0:
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        break;
    case 1:
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        break;
    case 2:
        asm volatile("cp.async.wait_group 2;" ::: "memory");
        break;
    default:
        asm volatile("cp.async.wait_group 3;" ::: "memory");
    }
}

/* 4 * WORDS bytes from shared memory, by the widest loads that their alignment allows. */
template <int WORDS> __device__ __forceinline__ void load_words(uint32_t *to, const char *from)
{
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            const uint4 v = reinterpret_cast<const uint4 *>(from)[i];
            to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
        }
    } else if constexpr (WORDS % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 2; i++) {
            const uint2 v = reinterpret_cast<const uint2 *>(from)[i];
            to[2 * i] = v.x, to[2 * i + 1] = v.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i++) to[i] = reinterpret_cast<const uint32_t *>(from)[i];
    }
}

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

/* Types. `operand` is what A or B of one product is made of; `width` registers of raw bits in, as many or twice out. `parts`: how
 * many operands a number becomes; `groups`: whether four warps may multiply together (mma_group.cuh). */

template <class Scalar> struct half_type {
    static constexpr int size = 2, steps = 1, parts = 1;
    static constexpr bool groups = true;
    using scalar = Scalar;
    template <int WIDTH> struct operand {
        uint32_t v[WIDTH];
        __device__ __forceinline__ void set(const uint32_t (&raw)[WIDTH])
        {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) v[i] = raw[i];
        }
    };
    static constexpr bool may_lose_infinity = false;
};

struct f16 : half_type<__half> {
    static __device__ __forceinline__ void product(float (&c)[4], const operand<4> &a, const operand<2> &b)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
    }
    template <int STEPS>
    static __device__ __forceinline__ void multiply(float (&c)[4], const operand<4> (&a)[STEPS],
                                                    const operand<2> (&b)[STEPS])
    {
#pragma unroll
        for (int s = 0; s < STEPS; s++) product(c, a[s], b[s]);
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        const __half2 h = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&h);
    }
    static __device__ __forceinline__ __half narrow(float v)
    {
        return __float2half_rn(v);
    }
};

struct bf16 : half_type<__nv_bfloat16> {
    static __device__ __forceinline__ void product(float (&c)[4], const operand<4> &a, const operand<2> &b)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
    }
    template <int STEPS>
    static __device__ __forceinline__ void multiply(float (&c)[4], const operand<4> (&a)[STEPS],
                                                    const operand<2> (&b)[STEPS])
    {
#pragma unroll
        for (int s = 0; s < STEPS; s++) product(c, a[s], b[s]);
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&h);
    }
    static __device__ __forceinline__ __nv_bfloat16 narrow(float v)
    {
        return __float2bfloat16_rn(v);
    }
};

/* float32 on TF32 tensor cores: x = high + low, high of 11 bits rounded to nearest, low exact and cut to 11 bits by the
 * hardware; the product is low*high + high*low + high*high. (CUTLASS calls it 3xTF32.) Tensor cores truncate when they add,
 * a bias that grows with the length of the sum, so every two steps start from zero and are added in float32 by the ordinary
 * units (Ootomo and Yokota, Recovering single precision accuracy from Tensor Cores, 2022, section 3.3). Without EXACT, the
 * one product high*high. Where an operand is infinite, low is NaN: the kernel then takes that output anew. */
template <bool EXACT> struct float_type {
    static constexpr int size = 4, steps = EXACT ? 2 : 1, parts = EXACT ? 2 : 1;
    static constexpr bool groups = EXACT; /* wgmma would cut K to TF32, not round it */
    using scalar = float;
    static constexpr bool may_lose_infinity = EXACT;
    template <int WIDTH> struct operand {
        uint32_t high[WIDTH], low[EXACT ? WIDTH : 1];
        __device__ __forceinline__ void set(const uint32_t (&raw)[WIDTH])
        {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                if constexpr (EXACT) {
                    /* cvt.rna is four instructions; these are two, and wrong only for NaN, which low then is. */
                    high[i] = (raw[i] + 0x1000) & 0xffffe000;
                    low[i] = __float_as_uint(__uint_as_float(raw[i]) - __uint_as_float(high[i]));
                } else {
                    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high[i]) : "r"(raw[i]));
                }
            }
        }
    };
    template <class A, class B> static __device__ __forceinline__ void product(float (&c)[4], const A &a, const B &b)
    {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
    template <int STEPS>
    static __device__ __forceinline__ void multiply(float (&c)[4], const operand<4> (&a)[STEPS],
                                                    const operand<2> (&b)[STEPS])
    {
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            if constexpr (EXACT) {
                product(sum, a[s].low, b[s].high);
                product(sum, a[s].high, b[s].low);
                product(sum, a[s].high, b[s].high);
            } else {
                product(c, a[s].high, b[s].high);
            }
        }
        if constexpr (EXACT)
#pragma unroll
            for (int i = 0; i < 4; i++) c[i] += sum[i];
    }
    static __device__ __forceinline__ float narrow(float v)
    {
        return v;
    }
};
using f32 = float_type<true>;
using tf32 = float_type<false>;

} // namespace ks_mma

#endif
