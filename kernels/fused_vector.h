/* The vector layer of the fused CPU kernel: vectors of the type of the sums, loads and stores that convert, masks for the
 * ends of runs, transposes. The only place of the kernel that names an instruction set; what it is compiled for
 * decides the vectors' width. Included by fused_core.c alone. */
#ifndef KS_FUSED_VECTOR_H
#define KS_FUSED_VECTOR_H

#include "kernel.h"
#include "half.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#    include <immintrin.h>
#endif

#ifdef KS_CORE_F64
typedef double real;
#else
typedef float real;
#endif

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, ROWS = 8 };
#    define ISA avx512
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, ROWS = 4 };
#    define ISA avx2
#else
enum { VECTOR_BYTES = 16, ROWS = 4 };
#    define ISA portable
#endif

enum { LANES = VECTOR_BYTES / sizeof(real) };
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_u __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* ---- elements of the problem's type <-> real ---------------------------------------------------------------- */

INLINE real widen_one(ks_type type, const char *at)
{
    uint16_t half;
    real value;
    switch (type) {
    case KS_F16:
        memcpy(&half, at, 2);
        return (real)ks_f16_to_f32(half);
    case KS_BF16:
        memcpy(&half, at, 2);
        return (real)ks_bf16_to_f32(half);
    default:
        memcpy(&value, at, sizeof value);
        return value;
    }
}

INLINE void narrow_one(ks_type type, char *at, real value)
{
    uint16_t half;
    switch (type) {
    case KS_F16:
        half = ks_f32_to_f16((float)value), memcpy(at, &half, 2);
        break;
    case KS_BF16:
        half = ks_f32_to_bf16((float)value), memcpy(at, &half, 2);
        break;
    default:
        memcpy(at, &value, sizeof value);
        break;
    }
}

/* The conversions of a vector of bits, where the machine has instructions for them. */
#if !defined(KS_CORE_F64) && defined(__AVX512F__)
#    define HALF_VECTORS 1
typedef __m256i half_vec;

INLINE vec widen_half(ks_type type, half_vec bits)
{
    if (type == KS_F16) return (vec)_mm512_cvtph_ps(bits);
    return (vec)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

INLINE half_vec narrow_half(ks_type type, vec value)
{
    if (type == KS_F16) return _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
    const __m512i bits = _mm512_castps_si512((__m512)value); /* as ks_f32_to_bf16 */
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
#elif !defined(KS_CORE_F64) && defined(__AVX2__)
#    define HALF_VECTORS 1
typedef __m128i half_vec;

INLINE vec widen_half(ks_type type, half_vec bits)
{
    if (type == KS_F16) return (vec)_mm256_cvtph_ps(bits);
    return (vec)_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

INLINE half_vec narrow_half(ks_type type, vec value)
{
    if (type == KS_F16) return _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
    const __m256i bits = _mm256_castps_si256((__m256)value); /* as ks_f32_to_bf16 */
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps((__m256)value, (__m256)value, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
#else
#    define HALF_VECTORS 0
#endif

/* The first `count` elements at `at`, at any alignment, no byte read beyond them; the other lanes are 0. */
INLINE vec widen(ks_type type, const char *at, int64_t count)
{
    const bool half = type == KS_F16 || type == KS_BF16;
    if (!half && count >= LANES) return *(const vec_u *)at;
#if HALF_VECTORS
    half_vec bits = {0};
    if (half && count >= LANES) {
        memcpy(&bits, at, sizeof bits);
        return widen_half(type, bits);
    }
#    if defined(__AVX512F__)
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (half) return widen_half(type, _mm256_maskz_loadu_epi16(mask, at));
    return (vec)_mm512_maskz_loadu_ps(mask, at);
#    endif
#endif
    vec value = {0};
    for (int64_t i = 0; i < LANES && i < count; i++)
        value[i] = widen_one(type, at + (half ? 2 : sizeof(real)) * (size_t)i);
    return value;
}

/* The first `count` lanes to `at`, at any alignment, no byte written beyond them. */
INLINE void narrow(ks_type type, char *at, vec value, int64_t count)
{
    const bool half = type == KS_F16 || type == KS_BF16;
    if (!half && count >= LANES) {
        *(vec_u *)at = value;
        return;
    }
#if HALF_VECTORS
    if (half && count >= LANES) {
        const half_vec bits = narrow_half(type, value);
        memcpy(at, &bits, sizeof bits);
        return;
    }
#    if defined(__AVX512F__)
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (half)
        _mm256_mask_storeu_epi16(at, mask, narrow_half(type, value));
    else
        _mm512_mask_storeu_ps(at, mask, (__m512)value);
    return;
#    endif
#endif
    for (int64_t i = 0; i < LANES && i < count; i++)
        narrow_one(type, at + (half ? 2 : sizeof(real)) * (size_t)i, value[i]);
}

/* A whole vector of F32 or F64, aligned, past the caches. */
INLINE void stream(char *at, vec value)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)at, (__m512i)value);
#elif defined(__AVX2__)
    _mm256_stream_si256((void *)at, (__m256i)value);
#else
    *(vec *)(void *)at = value;
#endif
}

/* The `count` elements at `at`, at any alignment, as often as a vector holds them. count divides LANES. */
INLINE vec repeated(const int count, const char *at)
{
    typedef uint32_t vec_32 __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint64_t vec_64 __attribute__((vector_size(VECTOR_BYTES)));
    uint32_t one;
    uint64_t two;
    switch ((size_t)count * sizeof(real)) { /* integers: adding zero to a number changes some */
    case 4:
        memcpy(&one, at, 4);
        return (vec)((vec_32){0} + one);
    case 8:
        memcpy(&two, at, 8);
        return (vec)((vec_64){0} + two);
#if defined(__AVX512F__)
    case 16:
        return (vec)_mm512_broadcast_f32x4(_mm_loadu_ps((const float *)(const void *)at));
    case 32:
        return (vec)_mm512_broadcast_f64x4(_mm256_loadu_pd((const double *)(const void *)at));
#elif defined(__AVX2__)
    case 16:
        return (vec)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)at));
#endif
    default:
        return *(const vec_u *)at;
    }
}

INLINE real sum_lanes(vec value)
{
#if !defined(KS_CORE_F64) && defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)value);
#else
    real sum = 0;
    for (int i = 0; i < LANES; i++) sum += value[i];
    return sum;
#endif
}

/* A LANES x LANES transpose in registers. */
INLINE void transpose(vec m[LANES])
{
#if !defined(KS_CORE_F64) && defined(__AVX512F__)
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps((__m512)m[i], (__m512)m[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps((__m512)m[i], (__m512)m[i + 1]);
    }
    __m512 u[16];
    for (int i = 0; i < 16; i += 4) {
        u[i] = (__m512)_mm512_unpacklo_pd((__m512d)t[i], (__m512d)t[i + 2]);
        u[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[i], (__m512d)t[i + 2]);
        u[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
        u[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        m[i] = (vec)_mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        m[i + 8] = (vec)_mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
#elif !defined(KS_CORE_F64) && defined(__AVX2__)
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps((__m256)m[i], (__m256)m[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps((__m256)m[i], (__m256)m[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        m[i] = (vec)_mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        m[i + 4] = (vec)_mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            real swap = m[i][j];
            m[i][j] = m[j][i];
            m[j][i] = swap;
        }
#endif
}

#endif
