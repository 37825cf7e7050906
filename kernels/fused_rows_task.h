/* The task of fused.cpu.rows (fused_rows.h): K put in order, then register tiles of ROWS samples by up to three vectors of
 * outputs. Included by fused_core.c alone. */
#ifndef KS_FUSED_ROWS_TASK_H
#define KS_FUSED_ROWS_TASK_H

#include "fused_finish.h"
#include "fused_rows.h"
#include "fused_vector.h"

enum { ROW_VECS = 3 };

/* What register tiles of the same samples share: where X, K and Y lie, all distances in bytes. */
typedef struct row_tile {
    ks_type type; /* of Y */
    bool stream;
    int64_t count; /* k's */
    const char *x;
    size_t x_sample, x_step; /* from one sample to the next, from one k to the next */
    const real *k;           /* [k][vecs][LANES] */
    char *y;
    size_t y_sample, y_at[ROW_VECS]; /* of each vector */
    const char *ahead;               /* X of samples to come: those from `first` to `last` are brought nearer, */
    size_t ahead_sample, ahead_step; /* a line with every ahead_every k's */
    int64_t ahead_every;
    int first, last;
} row_tile;

/* d and vecs are constants after inlining, so that `acc` lives in registers. */
INLINE void row_tile_run(const int d, const int vecs, const row_tile *t)
{
    vec acc[ROWS][ROW_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] = (vec){0};
    const char *x = t->x;
    const real *k = t->k;
    for (int64_t q = 0, stop; q < t->count; q = stop) {
        for (int r = t->first; r < t->last; r++)
            __builtin_prefetch(t->ahead + (size_t)r * t->ahead_sample + (size_t)q * t->ahead_step, 0, 2);
        stop = t->count - q < t->ahead_every ? t->count : q + t->ahead_every;
        for (int64_t n = q; n < stop; n++, x += t->x_step, k += vecs * LANES) {
            vec w[ROW_VECS];
#pragma GCC unroll 3
            for (int v = 0; v < vecs; v++) w[v] = *(const vec *)(k + v * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const vec value = repeated(d, x + (size_t)r * t->x_sample);
#pragma GCC unroll 3
                for (int v = 0; v < vecs; v++) acc[r][v] += value * w[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) {
            char *to = t->y + (size_t)r * t->y_sample + t->y_at[v];
            if (t->stream)
                stream(to, acc[r][v]);
            else
                narrow(t->type, to, acc[r][v], LANES);
        }
}

typedef void row_tile_function(const row_tile *t);

#define ROW_TILE(d, vecs)                                                                                            \
    static void row_tile_##d##x##vecs(const row_tile *t)                                                             \
    {                                                                                                                \
        row_tile_run(d < LANES ? d : LANES, vecs, t);                                                                \
    }
#define ROW_TILES(d) ROW_TILE(d, 1) ROW_TILE(d, 2) ROW_TILE(d, 3)
#define ROW_NAMES(d)                                                                                                 \
    {                                                                                                                \
        row_tile_##d##x1, row_tile_##d##x2, row_tile_##d##x3                                                         \
    }
ROW_TILES(1)
ROW_TILES(2)
ROW_TILES(4)
ROW_TILES(8)

/* By the logarithm of d, which is less than LANES, and the vectors. */
static row_tile_function *const row_tiles[][ROW_VECS] = {ROW_NAMES(1), ROW_NAMES(2), ROW_NAMES(4), ROW_NAMES(8)};

/* The first output of a super-block's vector v: the last vector ends where the outputs do. */
INLINE int64_t row_start(const ks_problem *p, int64_t v)
{
    const int64_t outputs = p->b * p->d, start = v * LANES;
    return start + LANES <= outputs ? start : outputs - LANES;
}

/* A super-block's vectors, in tiles as even as can be: those of tile `tile` are [row_vector(tile), row_vector(tile + 1)). */
INLINE int64_t row_tile_count(const ks_rows_plan *plan)
{
    return (plan->vectors + ROW_VECS - 1) / ROW_VECS;
}

INLINE int64_t row_vector(const ks_rows_plan *plan, int64_t tile)
{
    return tile * plan->vectors / row_tile_count(plan);
}

/* Puts one vector in order: for every k, LANES weights, `step` elements from one k to the next. */
INLINE void order_vector(ks_type type, const ks_rows_job *job, int64_t i, int64_t v, real *to, int64_t step)
{
    const ks_problem *p = job->problem;
    const size_t size = ks_type_bytes(type);
    const char *row[LANES];
    for (int e = 0; e < LANES; e++) {
        const int64_t output = row_start(p, v) + e, j = output / p->d, l = output % p->d;
        row[e] = (const char *)job->k + (size_t)(((i * p->d + l) * p->b + j) * p->c) * size;
    }
    for (int64_t k = 0; k < p->c; k += LANES) {
        vec m[LANES];
        for (int e = 0; e < LANES; e++) m[e] = widen(type, row[e] + (size_t)k * size, p->c - k);
        transpose(m);
        for (int64_t q = 0; q < LANES && k + q < p->c; q++) *(vec *)(to + (k + q) * step) = m[q];
    }
}

/* All weights of super-block i, tile after tile. */
INLINE void order_weights(ks_type type, const ks_rows_job *job, int64_t i, real *to)
{
    for (int64_t tile = 0; tile < row_tile_count(job->plan); tile++) {
        const int64_t from = row_vector(job->plan, tile), vecs = row_vector(job->plan, tile + 1) - from;
        for (int64_t v = 0; v < vecs; v++) order_vector(type, job, i, from + v, to + v * LANES, vecs * LANES);
        to += vecs * LANES * job->problem->c;
    }
}

/* The epilogue: a register tile's sums come by way of a few lines that stay in L1. What a vector has in common with the one
 * before it is computed, and written, twice alike. */
static __attribute__((noinline)) void finish_row_tile(const ks_rows_job *job, const row_tile *t, int64_t i,
                                                      int64_t from, int64_t vecs)
{
    const ks_epilogue *e = job->epilogue;
    const ks_type type = t->type;
    const size_t size = ks_type_bytes(type);
    real sums[ROWS * ROW_VECS * LANES] __attribute__((aligned(VECTOR_BYTES)));
    row_tile here = *t;
    here.type = sizeof(real) == 8 ? KS_F64 : KS_F32, here.stream = false;
    here.y = (char *)sums, here.y_sample = (size_t)vecs * VECTOR_BYTES;
    for (int64_t v = 0; v < vecs; v++) here.y_at[v] = (size_t)v * VECTOR_BYTES;
    row_tiles[__builtin_ctzll((unsigned long long)job->problem->d)][vecs - 1](&here);
    for (int64_t v = 0; v < vecs; v++) {
        const size_t feature = (size_t)(i * job->problem->b * job->problem->d + row_start(job->problem, from + v));
        const vec bias = e->bias ? widen(type, (const char *)e->bias + feature * size, LANES) : splat(0);
        for (int r = 0; r < ROWS; r++) {
            const vec done = finished(e, *(const vec *)(sums + (r * vecs + v) * LANES), bias);
            char *to = t->y + (size_t)r * t->y_sample + t->y_at[v];
            if (t->stream)
                stream(to, done);
            else
                narrow(type, to, done, LANES);
        }
    }
}

/* ROWS samples of super-block i, whose outputs start at t->y. */
INLINE void multiply_rows(const ks_rows_job *job, row_tile *t, int64_t i)
{
    const int64_t count = row_tile_count(job->plan);
    for (int64_t tile = 0; tile < count; tile++) {
        const int64_t from = row_vector(job->plan, tile), vecs = row_vector(job->plan, tile + 1) - from;
        t->stream = job->plan->stream;
        for (int64_t v = 0; v < vecs; v++) {
            t->y_at[v] = (size_t)row_start(job->problem, from + v) * ks_type_bytes(t->type);
            if ((uintptr_t)(t->y + t->y_at[v]) % VECTOR_BYTES != 0) t->stream = false;
        }
        t->first = (int)(tile * ROWS / count), t->last = (int)((tile + 1) * ROWS / count);
        if (job->epilogue)
            finish_row_tile(job, t, i, from, vecs);
        else
            row_tiles[__builtin_ctzll((unsigned long long)job->problem->d)][vecs - 1](t);
        t->k += vecs * LANES * t->count;
    }
}

/* What half precision needs first: `length` elements of ROWS samples of X in the type of the sums. */
INLINE void widen_rows(ks_type type, const char *x, size_t x_sample, int64_t length, real *to)
{
    for (int s = 0; s < ROWS; s++, x += x_sample, to += length)
        for (int64_t f = 0; f < length; f += LANES) {
            const vec value = widen(type, x + (size_t)f * ks_type_bytes(type), length - f);
            memcpy(to + f, &value, (size_t)(length - f < LANES ? length - f : LANES) * sizeof(real));
        }
}

INLINE void rows_task_of(ks_type type, const ks_rows_job *job, int64_t index, int thread)
{
    const ks_problem *p = job->problem;
    const ks_rows_plan *plan = job->plan;
    const size_t size = ks_type_bytes(type);
    const bool widened = size != sizeof(real);
    char *scratch = job->scratch + (size_t)thread * (plan->k_bytes + plan->x_bytes);
    real *k = (real *)(void *)scratch, *x_rows = (real *)(void *)(scratch + plan->k_bytes);

    const int64_t tn = index % plan->tasks_n, i0 = index / plan->tasks_n * plan->ig;
    const int64_t i1 = i0 + plan->ig < p->a ? i0 + plan->ig : p->a;
    const int64_t n0 = tn * p->batch / plan->tasks_n, n1 = (tn + 1) * p->batch / plan->tasks_n;
    const int64_t x_block = p->c * p->d, y_block = p->b * p->d, k_block = plan->vectors * LANES * p->c;

    for (int64_t i = i0; i < i1; i++) order_weights(type, job, i, k + (i - i0) * k_block);
    row_tile t = {.type = type,
                  .count = p->c,
                  .x_step = (size_t)p->d * sizeof(real),
                  .y_sample = (size_t)(p->a * y_block) * size,
                  .ahead_sample = (size_t)(p->a * x_block) * size,
                  .ahead_step = (size_t)p->d * size};
    t.ahead_every = 64 / (int64_t)t.ahead_step;
    t.x_sample = widened ? (size_t)((i1 - i0) * x_block) * sizeof(real) : t.ahead_sample;
    for (int64_t n = n0; n < n1; n += ROWS) {
        if (n + ROWS > n1) n = n1 - ROWS; /* some once more: the same values */
        const int64_t next = n1 - n >= 2 * ROWS ? ROWS : 0;
        const char *x = (const char *)job->x + (size_t)n * t.ahead_sample + (size_t)(i0 * x_block) * size;
        if (widened) widen_rows(type, x, t.ahead_sample, (i1 - i0) * x_block, x_rows);
        t.ahead = x + (size_t)next * t.ahead_sample;
        t.x = widened ? (const char *)x_rows : x;
        t.y = (char *)job->y + (size_t)n * t.y_sample + (size_t)(i0 * y_block) * size;
        t.k = k;
        for (int64_t i = i0; i < i1; i++) {
            multiply_rows(job, &t, i);
            t.ahead += (size_t)x_block * size;
            t.x += (size_t)x_block * sizeof(real);
            t.y += (size_t)y_block * size;
        }
    }
#if defined(__AVX2__)
    if (plan->stream) _mm_sfence();
#endif
}

#endif
