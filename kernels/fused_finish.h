/* Epilogues on vectors: activations, and runs of outputs that get one. Included by fused_core.c alone.
 *
 * exp in float32 is that of the Cephes library's range reduction (x = n ln 2 + f) and a polynomial; the erfc of GELU the
 * Chebyshev fit of Numerical Recipes, whose relative error is below 1.2e-7 everywhere, so that the left tail of GELU, where
 * 1 + erf would cancel, keeps its digits. In float64 both are the C library's, lane by lane. */
#ifndef KS_FUSED_FINISH_H
#define KS_FUSED_FINISH_H

#include "fused_core.h"
#include "fused_vector.h"

#include <math.h>

#ifdef KS_CORE_F64
typedef int64_t mask_vec __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef int32_t mask_vec __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t bits_vec __attribute__((vector_size(VECTOR_BYTES)));
#endif

INLINE vec splat(real value)
{
    return (vec){0} + value;
}

INLINE vec pick(mask_vec which, vec yes, vec no)
{
    return (vec)((which & (mask_vec)yes) | (~which & (mask_vec)no));
}

#ifdef KS_CORE_F64
INLINE vec exp_of(vec x)
{
    for (int q = 0; q < LANES; q++) x[q] = exp(x[q]);
    return x;
}

INLINE vec erfc_of(vec x) /* of x >= 0 */
{
    for (int q = 0; q < LANES; q++) x[q] = erfc(x[q]);
    return x;
}
#else
/* 0 below -80: subnormal numbers, which nobody here needs, would take processors a hundred cycles each. NaN stays NaN:
 * comparisons with it are false, and n is then any number. */
INLINE vec exp_of(vec x)
{
    const float to_integer = 0x1.8p23f; /* adding it leaves n in the low bits */
    const mask_vec none = (mask_vec)(x < splat(-80));
    x = pick(none, splat(-80), x);
    x = pick((mask_vec)(x > splat(89)), splat(89), x); /* where the result is Inf */
    const vec shifted = x * 1.44269504f + to_integer, whole = shifted - to_integer;
    const mask_vec n = (mask_vec)((bits_vec)shifted - (bits_vec)splat(to_integer)), half = n >> 1;
    const vec f = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    /* 2 to the n in two steps, since n may be 128. */
    const bits_vec low = ((bits_vec)half + 127) << 23, high = ((bits_vec)n - (bits_vec)half + 127) << 23;
    return pick(none, splat(0), p * (vec)low * (vec)high);
}

INLINE vec erfc_of(vec x) /* of x >= 0 */
{
    const vec t = 1.0f / (x * 0.5f + 1.0f);
    vec p = t * 0.17087277f - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    return t * exp_of(p - x * x);
}
#endif

INLINE vec activated(ks_activation activation, vec x)
{
    const mask_vec negative = (mask_vec)(x < splat(0));
    vec tail;
    switch (activation) {
    case KS_RELU:
        return pick(negative, splat(0), x);
    case KS_GELU:
        tail = erfc_of(pick(negative, -x, x) * (real)0.70710678118654752) * (real)0.5;
        return x * pick(negative, tail, 1 - tail);
    case KS_GELU_TANH:
        return x / (exp_of((x + x * x * x * (real)0.044715) * (real)-1.5957691216057308) + 1);
    case KS_SILU:
        return x / (exp_of(-x) + 1);
    default:
        return x;
    }
}

/* A vector of the product, and its bias. */
INLINE vec finished(const ks_epilogue *e, vec product, vec bias)
{
    return activated(e->activation, product * (real)e->alpha + bias);
}

INLINE void finish_of(ks_type type, const ks_finish_run *run)
{
    const ks_epilogue *e = run->epilogue;
    const size_t size = ks_type_bytes(type);
    const vec all = splat(run->bias && !run->bias_runs ? widen_one(type, run->bias) : 0);
    for (int64_t q = 0; q < run->count; q += LANES) {
        const int64_t left = run->count - q;
        char *y = (char *)run->y + (size_t)q * size;
        vec bias = all;
        if (run->bias && run->bias_runs) bias = widen(type, (const char *)run->bias + (size_t)q * size, left);
        if (e->beta != 0) bias += widen(type, y, left) * (real)e->beta;
        const vec product = widen(type, (const char *)run->product + (size_t)q * size, left);
        narrow(type, y, finished(e, product, bias), left);
    }
}

static void finish(ks_type type, const ks_finish_run *run)
{
    switch (type) {
#ifdef KS_CORE_F64
    default:
        finish_of(KS_F64, run);
        break;
#else
    case KS_F16:
        finish_of(KS_F16, run);
        break;
    case KS_BF16:
        finish_of(KS_BF16, run);
        break;
    default:
        finish_of(KS_F32, run);
        break;
#endif
    }
}

#endif
