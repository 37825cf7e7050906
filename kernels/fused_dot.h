/* Few samples, in the fused CPU kernel: lanes along k. Included by fused_core.c alone. */
#ifndef KS_FUSED_DOT_H
#define KS_FUSED_DOT_H

#include "fused_pack.h"

/* With fewer samples than lanes the batch cannot fill a vector, and reading K is what takes the time. So here the lanes
 * run along k, K is read once by whole vectors in its own type, and X is packed as [block][sample][c, padded with 0]. */
enum { DOT_ROWS = 4 };

INLINE int64_t dot_stride(const ks_problem *p)
{
    return (p->c + LANES - 1) / LANES * LANES;
}

/* Rows q of X, `step` bytes apart, of `run` neighbouring elements each, to one row of q's for every element, `pitch` apart
 * and padded with 0: transposed in registers where a row has more than a few. */
INLINE void pack_dot_rows(ks_type type, const char *x, size_t step, int64_t run, int64_t rows, real *to,
                          int64_t pitch)
{
    const size_t size = ks_type_bytes(type);
    for (int64_t q = 0; q < rows; q += LANES)
        for (int64_t e = 0; e < run; e += LANES) {
            const char *from = x + (size_t)q * step + (size_t)e * size;
            vec m[LANES];
            for (int r = 0; r < LANES; r++)
                m[r] = q + r < rows ? widen(type, from + (size_t)r * step, run - e) : (vec){0};
            transpose(m);
            for (int64_t n = 0; n < LANES && e + n < run; n++) *(vec *)(to + (e + n) * pitch + q) = m[n];
        }
}

INLINE void pack_dot(ks_type type, const piece *t, const char *x, real *packed)
{
    const ks_problem *p = t->p;
    const bool first = p->layout == KS_BATCH_FIRST;
    const int64_t stride = dot_stride(p), sample = p->a * p->c * p->d;
    /* What lies side by side: the l's of a sample; in batch-last all samples of every l. */
    const int64_t run = first ? t->lg : t->lg * t->n, runs_per_i = first ? t->n : 1;
    const size_t step = (size_t)(first ? p->d : p->d * p->batch) * t->size;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t s = 0; s < runs_per_i; s++) {
            const int64_t row = (t->i0 + i) * p->c * p->d + t->l0;
            const char *from = x + (size_t)(first ? (t->n0 + s) * sample + row : row * p->batch + t->n0) * t->size;
            real *to = packed + (i * t->lg * t->n + s) * stride;
            if (p->d == 1 && run == 1) { /* the q's are neighbours */
                for (int64_t q = 0; q < p->c; q += LANES)
                    *(vec *)(to + q) = widen(type, from + (size_t)q * t->size, p->c - q);
                continue;
            }
            pack_dot_rows(type, from, step, run, p->c, to, first ? t->n * stride : stride);
        }
}

/* Rows of K are `ldk` bytes apart. */
INLINE void dot_tile(ks_type type, const int rows, const int samples, const char *k, size_t ldk, const real *x,
                     int64_t stride, int64_t count, size_t size, real *c, int64_t ldc)
{
    vec acc[DOT_ROWS][KS_FUSED_DOT_SAMPLES];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) acc[r][s] = (vec){0};
    for (int64_t q = 0; q < count; q += LANES) {
        const char *from = k + (size_t)q * size;
        vec xv[KS_FUSED_DOT_SAMPLES];
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) xv[s] = *(const vec *)(x + s * stride + q);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            if ((size_t)q * size % LINE == 0) __builtin_prefetch(from + (size_t)r * ldk + K_AHEAD_BYTES);
            const vec kv = widen(type, from + (size_t)r * ldk, count - q);
#pragma GCC unroll 4
            for (int s = 0; s < samples; s++) acc[r][s] += kv * xv[s];
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) c[r * ldc + s] = sum_lanes(acc[r][s]);
}

/* Rows [j, j + rows) of one block, all of c: [rows][stride lanes] of the output tile, samples in the first lanes. */
INLINE void multiply_dot(ks_type type, const piece *t, const int samples, const char *k_block, int64_t j,
                         int64_t rows, const real *x, real *c)
{
    const size_t ldk = (size_t)t->p->c * t->size;
    const int64_t xs = dot_stride(t->p), count = t->p->c;
    const char *k = k_block + (size_t)j * ldk;
    int64_t r = 0;
    if (count < LANES / 2) {
        for (; r < rows; r++)
            for (int s = 0; s < samples; s++) {
                real sum = 0;
                for (int64_t q = 0; q < count; q++)
                    sum += widen_one(type, k + (size_t)r * ldk + (size_t)q * t->size) * x[s * xs + q];
                c[r * t->stride + s] = sum;
            }
        return;
    }
    const bool streams = are_streams(DOT_ROWS, rows, ldk);
    while (r < rows) {
        const choice now = next_rows(DOT_ROWS, r, rows, streams);
        const char *from = k + (size_t)now.at * ldk;
        if (now.height == DOT_ROWS)
            dot_tile(type, DOT_ROWS, samples, from, (size_t)now.apart * ldk, x, xs, count, t->size,
                     c + now.at * t->stride, now.apart * t->stride);
        else
            for (int h = 0; h < now.height; h++)
                dot_tile(type, 1, samples, from + (size_t)h * ldk, ldk, x, xs, count, t->size,
                         c + (now.at + h) * t->stride, t->stride);
        r += now.height;
    }
}

INLINE void multiply_dots(ks_type type, const piece *t, const char *k_block, int64_t j, int64_t rows, const real *x,
                          real *c)
{
    switch (t->n) {
    case 1:
        multiply_dot(type, t, 1, k_block, j, rows, x, c);
        break;
    case 2:
        multiply_dot(type, t, 2, k_block, j, rows, x, c);
        break;
    case 3:
        multiply_dot(type, t, 3, k_block, j, rows, x, c);
        break;
    default:
        multiply_dot(type, t, 4, k_block, j, rows, x, c);
        break;
    }
}

#endif
