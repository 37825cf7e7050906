/* From accumulators to Y: which results a lane holds together, and how a warp stores them. */
#ifndef KS_MMA_STORE_CUH
#define KS_MMA_STORE_CUH

#include "mma_shape.cuh"

namespace ks_mma
{

/* Rounds neighbouring results to the type, as words. */
template <class T, int WORDS, int COUNT>
__device__ __forceinline__ void pack_run(uint32_t (&w)[WORDS], const float (&v)[COUNT])
{
    static_assert(COUNT * T::size == WORDS * 4, "whole words");
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        if constexpr (T::size == 2)
            w[i] = T::pack(v[2 * i], v[2 * i + 1]);
        else
            w[i] = __float_as_uint(v[i]);
    }
}

/* Stores neighbouring results. */
template <class T, int COUNT> __device__ __forceinline__ void store_run(char *to, const float (&v)[COUNT], bool wide)
{
    constexpr int words = COUNT * T::size / 4;
    if (!wide) {
#pragma unroll
        for (int e = 0; e < COUNT; e++) reinterpret_cast<typename T::scalar *>(to)[e] = T::narrow(v[e]);
        return;
    }
    uint32_t w[words];
    pack_run<T>(w, v);
    if constexpr (words % 4 == 0) {
#pragma unroll
        for (int i = 0; i < words / 4; i++)
            reinterpret_cast<uint4 *>(to)[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    } else if constexpr (words % 2 == 0) {
#pragma unroll
        for (int i = 0; i < words / 2; i++) reinterpret_cast<uint2 *>(to)[i] = make_uint2(w[2 * i], w[2 * i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < words; i++) reinterpret_cast<uint32_t *>(to)[i] = w[i];
    }
}

/* The strip of results that lane (g, t) stores together: its number in 0..runs-1 gives n, j and l of the first. */
template <class S> struct strip {
    static constexpr int length = S::READER == LAST ? S::VL : S::READER == WHOLE ? 2 * S::G * S::D : S::LW;
    static constexpr int count = S::MT * S::NT * S::LW * 4 / length;
    int n, j, l; /* from the tile's first */
    __device__ __forceinline__ strip(int number, int wn, int wj, int wl, int g, int t)
    {
        if constexpr (S::READER == LAST) {
            constexpr int vectors = S::MT * 2 / S::VL;
            const int v = number / (2 * S::NT), col = number % (2 * S::NT);
            n = ((wn * vectors + v) * 8 + g) * S::VL, j = wj * 8 * S::NT + S::column(col / 2, 2 * t + col % 2), l = 0;
        } else {
            constexpr int columns = S::READER == WHOLE ? S::NT / S::G : 2 * S::NT;
            const int row = number / columns, col = number % columns;
            n = wn * 16 * S::MT + row * 8 + g, l = wl * S::LW;
            j = wj * 8 * S::NT +
                (S::READER == WHOLE ? col * 8 * S::G + 2 * S::G * t : S::column(col / 2, 2 * t + col % 2));
        }
    }
    /* Element e of the strip: which accumulator. All arguments are known when the loops are unrolled. */
    static __device__ __forceinline__ float pick(const float (&acc)[S::LW][S::MT][S::NT][4], int number, int e)
    {
        if constexpr (S::READER == LAST) {
            constexpr int MV = S::VL / 2;
            const int v = number / (2 * S::NT), col = number % (2 * S::NT);
            return acc[0][v * MV + e / 2][col / 2][e % 2 * 2 + col % 2];
        } else if constexpr (S::READER == WHOLE) {
            const int row = number / (S::NT / S::G), group = number % (S::NT / S::G), jj = e / S::D;
            return acc[e % S::D][row / 2][group * S::G + jj / 2][row % 2 * 2 + jj % 2];
        } else {
            const int row = number / (2 * S::NT), col = number % (2 * S::NT);
            return acc[e][row / 2][col / 2][row % 2 * 2 + col % 2];
        }
    }
};

/* A stretch of units of one block: what stays the same while K does. */
struct stretch {
    const char *x, *k; /* of the first (i, l), and j */
    char *y;
    int j0, l0;
};

template <class S>
__device__ __forceinline__ char *output(const arguments &p, const stretch &at, int64_t n, int j, int l)
{
    return at.y + (S::READER == LAST ? j * p.y_row + n * S::size
                                     : n * p.y_row + (static_cast<int64_t>(j) * p.d + l) * S::size);
}

/* The feature that Y has at a stretch's first. */
template <class S> __device__ __forceinline__ int64_t feature_of(const arguments &p, const stretch &at)
{
    const int64_t elements = (at.y - p.y) / S::size;
    return S::READER == LAST ? elements / p.batch : elements;
}

/* This lane's sums made outputs. All sums of a column c of a product are of one j. */
template <class S>
__device__ __forceinline__ void finish(float (&acc)[S::LW][S::MT][S::NT][4], const arguments &p, const stretch &at,
                                       int wj, int wl, int t)
{
    constexpr int count = S::LW * S::MT * S::NT * 4,
                  chunk = S::threads > 256 ? 4 : 8; /* by the registers there are */
    const int l0 = at.l0 + wl * S::LW < p.d ? wl * S::LW : 0;
    const auto whose = [&](int q) {
        const int j = wj * 8 * S::NT + S::column(q / 4 % S::NT, 2 * t + q % 2);
        return (at.j0 + j < p.b ? j * p.d : 0) + l0 + q / (4 * S::NT * S::MT);
    };
    constexpr bool straight = S::READER != VECTOR; /* whose shapes have no registers to spare */
    ks_cuda::finish_sums<typename S::T::scalar, chunk, straight>(p.finish, reinterpret_cast<float(&)[count]>(acc),
                                                                 feature_of<S>(p, at), whose);
}

/* Takes this lane's NaNs of a tile anew, in float32 by ordinary units: splitting an infinite operand makes a NaN that may
 * not belong in the sum. Rare, so kept out of the way of the registers. */
template <class S>
__device__ __noinline__ void rescue(const arguments &p, const stretch &at, int64_t n0, int wn, int wj, int wl, int g,
                                    int t)
{
    const int64_t x_step = S::READER == LAST ? p.x_row : static_cast<int64_t>(p.d) * 4;
#pragma unroll 1
    for (int number = 0; number < strip<S>::count; number++)
#pragma unroll 1
        for (int e = 0; e < strip<S>::length; e++) {
            const strip<S> r(number, wn, wj, wl, g, t);
            const int64_t n = n0 + r.n + (S::READER == LAST ? e : 0);
            const int j = r.j + (S::READER == WHOLE ? e / S::D : 0);
            const int l = r.l + (S::READER == WHOLE ? e % S::D : S::READER == VECTOR ? e : 0);
            if (n >= p.batch || at.j0 + j >= p.b || at.l0 + l >= p.d) continue;
            float *const y = reinterpret_cast<float *>(output<S>(p, at, n, j, l));
            if (*y == *y) continue;
            const char *const x = at.x + (S::READER == LAST ? (l * p.batch + n) * 4 : n * p.x_row + l * 4);
            const float *const k = reinterpret_cast<const float *>(at.k) + (static_cast<int64_t>(l) * p.b + j) * p.c;
            float sum = 0;
#pragma unroll 1
            for (int q = 0; q < p.c; q++) sum = fmaf(*reinterpret_cast<const float *>(x + q * x_step), k[q], sum);
            *y = p.finish.asked ? ks_cuda::finished<float>(p.finish, sum, feature_of<S>(p, at) + j * p.d + l) : sum;
        }
}

/* A warp's results by way of shared memory: 8 rows n at a time, then 16 bytes a lane. Says whether there was a NaN. */
template <class S>
__device__ __forceinline__ bool store_staged(const float (&acc)[S::LW][S::MT][S::NT][4], const arguments &p,
                                             const stretch &at, char *staging, int64_t n0, int wn, int wj, int lane)
{
    using T = typename S::T;
    constexpr int columns = S::NT / S::G, length = strip<S>::length, words = length * S::size / 4,
                  row_chunks = S::staged_row / 16;
    const int g = lane / 4, t = lane % 4, j = wj * 8 * S::NT, left = (p.b - at.j0 - j) * S::D;
    bool lost = false;
#pragma unroll
    for (int row = 0; row < 2 * S::MT; row++) {
#pragma unroll
        for (int col = 0; col < columns; col++) {
            float v[length];
            uint32_t w[words];
#pragma unroll
            for (int e = 0; e < length; e++) {
                v[e] = strip<S>::pick(acc, row * columns + col, e);
                if (T::may_lose_infinity) lost |= v[e] != v[e];
            }
            pack_run<T>(w, v);
            uint32_t *to =
                reinterpret_cast<uint32_t *>(staging + g * S::staged_pitch + (col * 4 + t) * length * S::size);
#pragma unroll
            for (int i = 0; i < words; i++) to[i] = w[i];
        }
        __syncwarp();
        const int64_t n = n0 + wn * 16 * S::MT + row * 8;
#pragma unroll 2
        for (int c = lane; c < 8 * row_chunks; c += 32) {
            const int r = c / row_chunks, chunk = c % row_chunks;
            if (n + r < p.batch && chunk * S::VL < left)
                *reinterpret_cast<uint4 *>(output<S>(p, at, n + r, j, 0) + chunk * 16) =
                    *reinterpret_cast<const uint4 *>(staging + r * S::staged_pitch + chunk * 16);
        }
        __syncwarp();
    }
    return lost;
}

} // namespace ks_mma

#endif
