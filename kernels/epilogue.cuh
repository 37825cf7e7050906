/* Epilogues in device code: the activations, and sums in registers made outputs.
 *
 * For float32 they are made of the multiprocessor's approximations of 2 to the x and of 1/x, good to a unit or two of the last
 * place, and the erfc of GELU is the Chebyshev fit of Numerical Recipes, whose relative error is below 1.2e-7 everywhere: five
 * to twenty instructions a number, which a kernel bound by memory has time for. */
#ifndef KS_EPILOGUE_CUH
#define KS_EPILOGUE_CUH

#include "epilogue.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ks_cuda
{

/* An epilogue as a kernel's parameter, beta being 0. R: what sums are made in. */
template <class R> struct epilogue {
    const void *bias; /* a value for each feature, (i * b + j) * d + l; NULL for none */
    R alpha;
    int activation;
    bool asked; /* else the sums are the outputs */
};

template <class R> epilogue<R> epilogue_of(const ks_epilogue *e)
{
    epilogue<R> f = {};
    if (e) f = {e->bias, static_cast<R>(e->alpha), static_cast<int>(e->activation), true};
    return f;
}

__device__ __forceinline__ float widened(float value)
{
    return value;
}
__device__ __forceinline__ double widened(double value)
{
    return value;
}
__device__ __forceinline__ float widened(__half value)
{
    return __half2float(value);
}
__device__ __forceinline__ float widened(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

__device__ __forceinline__ float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Activations of N numbers side by side: one alone would wait at each step for the step before. */

/* Each x becomes x / (1 + exp(-u)), by u times -log2(e). */
template <int N> __device__ __forceinline__ void weigh(float (&x)[N], float (&u)[N])
{
#pragma unroll
    for (int q = 0; q < N; q++) u[q] = 1 + power_of_2(u[q]);
#pragma unroll
    for (int q = 0; q < N; q++) x[q] *= reciprocal(u[q]);
}
template <int N> __device__ __forceinline__ void weigh(double (&x)[N], double (&u)[N])
{
#pragma unroll
    for (int q = 0; q < N; q++) x[q] /= 1 + exp2(u[q]);
}

/* x times half the erfc of -x / sqrt(2): from the tail of |x|, so that it keeps its digits where 1 + erf would cancel. The
 * coefficients are those of the fit times log2(e), the last less 1 for the half. */
template <int N> __device__ __forceinline__ void gelu(float (&x)[N])
{
    constexpr float fit[] = {0.246517298f, -1.18611495f, 2.14747446f,  -1.63775315f, 0.402321582f,
                             -0.26875686f, 0.139630057f, 0.539700616f, 1.4427292f,   -2.82574822f};
    float t[N], tail[N];
#pragma unroll
    for (int q = 0; q < N; q++) t[q] = reciprocal(fmaf(fabsf(x[q]), 0.353553391f, 1)), tail[q] = fit[0];
#pragma unroll
    for (int k = 1; k < 10; k++)
#pragma unroll
        for (int q = 0; q < N; q++) tail[q] = fmaf(tail[q], t[q], fit[k]);
#pragma unroll
    for (int q = 0; q < N; q++) tail[q] = t[q] * power_of_2(fmaf(x[q] * -0.72134752f, x[q], tail[q]));
#pragma unroll
    for (int q = 0; q < N; q++) x[q] *= x[q] < 0 ? tail[q] : 1 - tail[q];
}
template <int N> __device__ __forceinline__ void gelu(double (&x)[N])
{
#pragma unroll
    for (int q = 0; q < N; q++) x[q] *= 0.5 * erfc(x[q] * -0.70710678118654752);
}

/* NaN stays NaN. */
__device__ __forceinline__ float relu(float x)
{
    float y;
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ double relu(double x)
{
    return x < 0 ? 0 : x;
}

template <class R, int N> __device__ __forceinline__ void smooth(int activation, R (&x)[N])
{
    constexpr R log2_e = R(1.4426950408889634), steep = R(-1.5957691216057308) * log2_e;
    R u[N];
    switch (activation) {
    case KS_GELU:
        gelu(x);
        break;
    case KS_GELU_TANH:
#pragma unroll
        for (int q = 0; q < N; q++) u[q] = x[q] * (x[q] * x[q] * (steep * R(0.044715)) + steep);
        weigh(x, u);
        break;
    case KS_SILU:
#pragma unroll
        for (int q = 0; q < N; q++) u[q] = x[q] * -log2_e;
        weigh(x, u);
        break;
    }
}

template <class R, int N> __device__ __forceinline__ void activate(int activation, R (&x)[N])
{
    if (activation == KS_RELU) {
#pragma unroll
        for (int q = 0; q < N; q++) x[q] = relu(x[q]);
    } else {
        smooth(activation, x);
    }
}

template <int VALUE> struct number {
    static constexpr int value = VALUE;
};

/* A sum made an output, but for the rounding. */
template <class E, class R> __device__ __forceinline__ R finished(const epilogue<R> &f, R sum, int64_t feature)
{
    R value[1] = {f.alpha * sum};
    if (f.bias) value[0] += widened(static_cast<const E *>(f.bias)[feature]);
    activate(f.activation, value);
    return value[0];
}

/* visit(number<index>()) for an index from FIRST on and below END: so that what is in registers, which have none, is found. */
template <int FIRST, int END, class F> __device__ __forceinline__ void with_index(int index, const F &visit)
{
    constexpr int middle = (FIRST + END) / 2;
    if constexpr (END - FIRST == 1)
        visit(number<FIRST>());
    else if (index < middle)
        with_index<FIRST, middle>(index, visit);
    else
        with_index<middle, END>(index, visit);
}

/* All sums that a thread has, in place; the first'th feature plus whose(q) is that of sum q (of a sum that is outside of Y, any
 * that is there). Of activations but ReLU there is code for CHUNK sums, which all sums go through; bias and ReLU are a line or
 * two of code for each sum where it is STRAIGHT, which is faster, but takes more registers: else they go through chunks, too.
 * (Loads of the bias are plain ones: those of __ldg were made before it was known whether there is one.) */
template <class E, int CHUNK, bool STRAIGHT = true, int COUNT, class R, class F>
__device__ __forceinline__ void finish_sums(const epilogue<R> &f, R (&sums)[COUNT], int64_t first, const F &whose)
{
    constexpr int chunks = COUNT / CHUNK;
    static_assert(COUNT % CHUNK == 0, "whole chunks");
    if constexpr (STRAIGHT) {
        if (f.bias) {
            const E *const bias = static_cast<const E *>(f.bias) + first;
#pragma unroll
            for (int q = 0; q < COUNT; q++) sums[q] = f.alpha * sums[q] + widened(bias[whose(q)]);
        } else {
#pragma unroll
            for (int q = 0; q < COUNT; q++) sums[q] *= f.alpha;
        }
        if (f.activation == KS_NO_ACTIVATION) return;
        if (f.activation == KS_RELU) {
#pragma unroll
            for (int q = 0; q < COUNT; q++) sums[q] = relu(sums[q]);
            return;
        }
    }
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; chunk++) {
        R v[CHUNK];
        with_index<0, chunks>(chunk, [&](auto index) {
#pragma unroll
            for (int q = 0; q < CHUNK; q++) v[q] = sums[decltype(index)::value * CHUNK + q];
        });
        if constexpr (!STRAIGHT) {
#pragma unroll
            for (int q = 0; q < CHUNK; q++) v[q] *= f.alpha;
            if (f.bias)
#pragma unroll
                for (int q = 0; q < CHUNK; q++)
                    v[q] += widened(static_cast<const E *>(f.bias)[first + whose(chunk * CHUNK + q)]);
            if (f.activation == KS_RELU)
#pragma unroll
                for (int q = 0; q < CHUNK; q++) v[q] = relu(v[q]);
        }
        smooth(f.activation, v);
        with_index<0, chunks>(chunk, [&](auto index) {
#pragma unroll
            for (int q = 0; q < CHUNK; q++) sums[decltype(index)::value * CHUNK + q] = v[q];
        });
    }
}

} // namespace ks_cuda

#endif
