/* Epilogues on CUDA: one pass over Y, 16 bytes a thread at a time where product and Y begin at multiples of that.
 *
 * It is bound by memory: the product and, where it is added, the old Y are read once, Y is written once, and the bias stays in
 * the caches. Each thread divides once to know its row, and then counts on. */
#include "epilogue.cuh"
#include "cuda_device.h"
#include "launch.cuh"
#include "split.cuh"

#include <cuda_runtime.h>

namespace
{

using ks_cuda::widened;

constexpr int threads = 256, wide = 16;
constexpr int64_t grid_most = INT32_MAX;

template <typename E> struct arithmetic {
    using real = float;
};
template <> struct arithmetic<double> {
    using real = double;
};

template <typename E, typename R> __device__ __forceinline__ E narrowed(R value)
{
    return value;
}
template <> __device__ __forceinline__ __half narrowed<__half, float>(float value)
{
    return __float2half_rn(value);
}
template <> __device__ __forceinline__ __nv_bfloat16 narrowed<__nv_bfloat16, float>(float value)
{
    return __float2bfloat16_rn(value);
}

template <typename E, int V> struct alignas(sizeof(E) * V) pack {
    E e[V];
};

template <typename E> struct job {
    const E *product, *bias; /* bias: NULL for none */
    E *y;
    int64_t columns, count; /* of a row; of all elements */
    typename arithmetic<E>::real alpha, beta;
    ks_activation activation;
    bool bias_by_column;
};

/* V elements from `first` on; `left` of them are there. */
template <typename E, int V> __device__ __forceinline__ void finish(const job<E> &g, int64_t first, int64_t left)
{
    using R = typename arithmetic<E>::real;
    using P = pack<E, V>;
    int64_t row = first, column = split_off(row, g.columns);
    P product, y;
    if (left >= V) {
        product = *reinterpret_cast<const P *>(g.product + first);
        if (g.beta != R(0)) y = *reinterpret_cast<const P *>(g.y + first);
    } else {
        for (int q = 0; q < V; q++)
            if (q < left) {
                product.e[q] = g.product[first + q];
                if (g.beta != R(0)) y.e[q] = g.y[first + q];
            }
    }
    R value[V] = {};
#pragma unroll
    for (int q = 0; q < V; q++) {
        if (q >= left) break;
        value[q] = g.alpha * widened(product.e[q]);
        if (g.bias) value[q] += widened(g.bias[g.bias_by_column ? column : row]);
        if (g.beta != R(0)) value[q] += g.beta * widened(y.e[q]);
        if (++column == g.columns) column = 0, row++;
    }
    ks_cuda::activate(g.activation, value);
#pragma unroll
    for (int q = 0; q < V; q++) y.e[q] = narrowed<E, R>(value[q]);
    if (left >= V) {
        *reinterpret_cast<P *>(g.y + first) = y;
        return;
    }
    for (int q = 0; q < V; q++)
        if (q < left) g.y[first + q] = y.e[q];
}

template <typename E, int V> __global__ void __launch_bounds__(threads) finish_all(job<E> g)
{
    ks_cuda::await_earlier();
    const int64_t step = (int64_t)gridDim.x * threads * V;
    for (int64_t first = ((int64_t)blockIdx.x * threads + threadIdx.x) * V; first < g.count; first += step)
        finish<E, V>(g, first, g.count - first);
}

template <typename E> ks_status launch(const ks_problem *p, const ks_finish_args *args)
{
    constexpr int V = wide / (int)sizeof(E);
    using R = typename arithmetic<E>::real;
    const ks_epilogue *e = args->epilogue;
    const ks_finish_shape shape = ks_finish_shape_of(p);
    const job<E> g = {static_cast<const E *>(args->product),
                      static_cast<const E *>(e->bias),
                      static_cast<E *>(args->y),
                      shape.columns,
                      shape.rows * shape.columns,
                      (R)e->alpha,
                      (R)e->beta,
                      e->activation,
                      shape.bias_by_column};
    const bool aligned = ((uintptr_t)args->product | (uintptr_t)args->y) % wide == 0;
    const int64_t blocks = ks_ceil_div(g.count, (int64_t)threads * (aligned ? V : 1));
    const unsigned grid = (unsigned)(blocks < grid_most ? blocks : grid_most);
    return ks_cuda_status(ks_launch_early(args->device, aligned ? finish_all<E, V> : finish_all<E, 1>, grid, threads,
                                          0, args->stream, g),
                          "launch of an epilogue");
}

ks_status launch_for(const ks_problem *p, const ks_finish_args *args)
{
    switch (p->type) {
    case KS_F16:
        return launch<__half>(p, args);
    case KS_BF16:
        return launch<__nv_bfloat16>(p, args);
    case KS_F64:
        return launch<double>(p, args);
    default:
        return launch<float>(p, args);
    }
}

} /* namespace */

ks_status ks_cuda_finish(const ks_problem *p, const ks_finish_args *args)
{
    int previous;
    ks_status s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    s = launch_for(p, args);
    ks_cuda_leave(previous);
    return s;
}
