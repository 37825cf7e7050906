/* float16 and bfloat16 to float32 and back, by bit arithmetic: rounding to nearest even, subnormals, infinities and
 * NaN (kept NaN, made quiet) as IEEE 754 asks. Plain C because clang 14 and older gcc have no _Float16 on every
 * target; the fast paths convert vectors with the machine's instructions (fused_core.c). */
#ifndef KS_HALF_H
#define KS_HALF_H

#include <stdint.h>
#include <string.h>

static inline float ks_bits_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t ks_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float ks_bf16_to_f32(uint16_t half)
{
    return ks_bits_f32((uint32_t)half << 16);
}

static inline uint16_t ks_f32_to_bf16(float value)
{
    uint32_t bits = ks_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float ks_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00)
        return ks_bits_f32(sign | 0x7f800000u | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00) << 22);
    if (magnitude < 0x400) { /* zero or subnormal: magnitude * 2^-24 is exact */
        float value = (float)magnitude * 0x1p-24f;
        return ks_bits_f32(sign | ks_f32_bits(value));
    }
    return ks_bits_f32(sign | ((magnitude << 13) + (112u << 23)));
}

static inline uint16_t ks_f32_to_f16(float value)
{
    uint32_t bits = ks_f32_bits(value), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* >= 65520 rounds to infinity */
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits */
        return (uint16_t)(sign | (ks_f32_bits(ks_bits_f32(magnitude) + 0.5f) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13));
}

#endif
