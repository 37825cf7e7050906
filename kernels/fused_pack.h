/* Between memory and the packed tiles of the fused CPU kernel: the only place that knows of layouts. A tile of X is packed
 * as [block][k][sample] in the type of the sums, a tile of Y is unpacked from the same form; in batch-first both transpose
 * in registers. Included by fused_core.c alone. */
#ifndef KS_FUSED_PACK_H
#define KS_FUSED_PACK_H

#include "fused_tile.h"

/* A task's piece of the problem: blocks (i0.., l0..), samples n0.., after cutting at the edges. */
typedef struct piece {
    const ks_problem *p;
    size_t size;            /* bytes of an element */
    int64_t i0, ig, l0, lg; /* blocks = ig * lg, numbered i-major */
    int64_t n0, n;          /* samples of this group of tiles */
    int64_t stride;         /* lanes of a packed row: samples of a tile */
    bool stream;
} piece;

/* Packed rows are [block][row][stride]. Elements (i, row, l) of an outer array of `rows_all` rows per super-block lie,
 * for one sample in batch-first, in runs: all of (i, row, l) if the piece spans d and every row, else per (i, row) or
 * per i. A walk follows a run through the packed tile, where neighbouring l's are `rows` packed rows apart. */
typedef struct walk {
    int64_t row, l, rows, lg;
    int64_t next_l, next_row, next_i; /* steps, in elements of the packed tile */
    int64_t at;
} walk;

INLINE walk walk_from(int64_t i, int64_t row, int64_t rows, int64_t lg, int64_t stride)
{
    return (walk){.row = row,
                  .l = 0,
                  .rows = rows,
                  .lg = lg,
                  .next_l = rows * stride,
                  .next_row = stride - (lg - 1) * rows * stride,
                  .next_i = stride,
                  .at = (i * lg * rows + row) * stride};
}

INLINE void walk_on(walk *w)
{
    if (++w->l < w->lg) {
        w->at += w->next_l;
        return;
    }
    w->l = 0;
    if (++w->row < w->rows) {
        w->at += w->next_row;
        return;
    }
    w->row = 0;
    w->at += w->next_i;
}

/* Runs of contiguous elements of one sample: `runs` of them, `length` each, run r starting at walker `start(r)`. */
typedef struct runs {
    int64_t count, length;
    bool per_row; /* one run per (i, row), else per i, or a single one if count == 1 */
} runs;

INLINE runs runs_of(const piece *t, int64_t rows, int64_t rows_all)
{
    if (t->lg < t->p->d) return (runs){t->ig * rows, t->lg, true};
    if (rows < rows_all) return (runs){t->ig, rows * t->lg, false};
    return (runs){1, t->ig * rows * t->lg, false};
}

/* Where run r starts: its offset within a sample, and the walk through the packed tile. */
INLINE int64_t run_offset(const piece *t, runs u, int64_t r, int64_t rows, int64_t row0, int64_t rows_all, walk *w)
{
    const int64_t i = u.per_row ? r / rows : r, row = u.per_row ? r % rows : 0;
    *w = walk_from(i, row, rows, t->lg, t->stride);
    return ((t->i0 + i) * rows_all + row0 + row) * t->p->d + t->l0;
}

/* Memory that will be wanted: `left` stretches of `bytes`, in rows of `inner`; handed to the register tiles piece by
 * piece, such that all is fetched when the last one is multiplied. */
typedef struct ahead {
    const char *row, *at; /* of the stretch at hand: its row's first, itself */
    size_t outer_step, inner_step, bytes, at_byte;
    int64_t inner, left, at_inner;
    int64_t lines; /* for every register tile */
} ahead;

/* Rows [row0, row0 + rows) of rows_all, of the piece's blocks, in samples [n, n + samples) of the array. */
INLINE ahead ahead_of(const piece *t, const char *array, int64_t row0, int64_t rows, int64_t rows_all, int64_t n,
                      int64_t samples, int64_t register_tiles)
{
    const ks_problem *p = t->p;
    const size_t row = (size_t)(p->layout == KS_BATCH_FIRST ? p->d : p->d * p->batch) * t->size;
    ahead a = {.row = NULL};
    if (samples <= 0) return a;
    if (p->layout == KS_BATCH_FIRST) {
        const runs u = runs_of(t, rows, rows_all);
        const int64_t sample = p->a * rows_all * p->d;
        a.row = array + (size_t)(n * sample + (t->i0 * rows_all + row0) * p->d + t->l0) * t->size;
        a.outer_step = (size_t)sample * t->size, a.inner_step = row * (u.per_row ? 1 : (size_t)rows_all);
        a.bytes = (size_t)u.length * t->size, a.inner = u.count, a.left = samples * u.count;
    } else {
        a.row = array + (size_t)(((t->i0 * rows_all + row0) * p->d + t->l0) * p->batch + n) * t->size;
        a.outer_step = row, a.inner_step = (size_t)p->batch * t->size;
        a.bytes = (size_t)samples * t->size, a.inner = t->lg, a.left = t->ig * rows * t->lg;
    }
    a.at = a.row;
    a.lines = a.left * (int64_t)(a.bytes / 64 + 1) / register_tiles + 1;
    return a;
}

/* The next piece: of one stretch, so what is short of `lines` is made up for, or forgone. */
INLINE stretch ahead_next(ahead *a)
{
    if (a->left <= 0) return (stretch){NULL, 0};
    stretch s = {a->at + a->at_byte, (int64_t)(a->bytes - a->at_byte + 63) / 64};
    if (s.lines > a->lines) {
        s.lines = a->lines;
        a->at_byte += (size_t)s.lines * 64;
        return s;
    }
    a->at_byte = 0, a->left--;
    if (++a->at_inner < a->inner)
        a->at += a->inner_step;
    else
        a->at_inner = 0, a->row += a->outer_step, a->at = a->row;
    return s;
}

enum { FEW = 2 };

/* Keeps the compiler from turning LANES row addresses into as many induction variables, which it then spills. */
INLINE size_t opaque(size_t step)
{
    __asm__("" : "+r"(step));
    return step;
}

/* X rows [k0, k0 + rows) of the piece's blocks and samples, widened, as [block][k][stride]; spare lanes are 0. */
INLINE void pack_first(ks_type type, const piece *t, const char *x, int64_t k0, int64_t rows, real *packed)
{
    const int64_t sample = t->p->a * t->p->c * t->p->d;
    const size_t step = (size_t)sample * t->size;
    const runs u = runs_of(t, rows, t->p->c);
    for (int64_t v = 0; v < t->stride; v += LANES) {
        const int64_t samples = t->n - v;
        for (int64_t r = 0; r < u.count; r++) {
            walk w;
            const char *from =
                x + (size_t)((t->n0 + v) * sample + run_offset(t, u, r, rows, k0, t->p->c, &w)) * t->size;
            if (samples <= FEW) { /* not worth a transpose */
                for (int64_t f = 0; f < u.length; f++, walk_on(&w)) {
                    *(vec *)(packed + w.at + v) = (vec){0};
                    for (int64_t s = 0; s < samples; s++)
                        packed[w.at + v + s] = widen_one(type, from + (size_t)s * step + (size_t)f * t->size);
                }
                continue;
            }
            for (int64_t f = 0; f < u.length; f += LANES, from += LANES * t->size) {
                const int64_t count = u.length - f;
                const size_t here = opaque(step);
                vec m[LANES];
                if (samples >= LANES && count >= LANES) {
#pragma GCC unroll 16
                    for (int s = 0; s < LANES; s++) m[s] = widen(type, from + (size_t)s * here, LANES);
                } else {
                    for (int s = 0; s < LANES; s++)
                        m[s] = s < samples ? widen(type, from + (size_t)s * step, count) : (vec){0};
                }
                transpose(m);
                if (count >= LANES) {
#pragma GCC unroll 16
                    for (int q = 0; q < LANES; q++, walk_on(&w)) *(vec *)(packed + w.at + v) = m[q];
                } else {
                    for (int q = 0; q < count; q++, walk_on(&w)) *(vec *)(packed + w.at + v) = m[q];
                }
            }
        }
    }
}

INLINE void unpack_first(ks_type type, const piece *t, char *y, int64_t j0, int64_t rows, const real *packed)
{
    const int64_t sample = t->p->a * t->p->b * t->p->d;
    const size_t step = (size_t)sample * t->size;
    const runs u = runs_of(t, rows, t->p->b);
    for (int64_t v = 0; v < t->n; v += LANES) {
        const int64_t samples = t->n - v;
        for (int64_t r = 0; r < u.count; r++) {
            walk w;
            char *to = y + (size_t)((t->n0 + v) * sample + run_offset(t, u, r, rows, j0, t->p->b, &w)) * t->size;
            if (samples <= FEW) { /* not worth a transpose */
                for (int64_t f = 0; f < u.length; f++, walk_on(&w))
                    for (int64_t s = 0; s < samples; s++)
                        narrow_one(type, to + (size_t)s * step + (size_t)f * t->size, packed[w.at + v + s]);
                continue;
            }
            for (int64_t f = 0; f < u.length; f += LANES, to += LANES * t->size) {
                const int64_t count = u.length - f;
                const size_t here = opaque(step);
                vec m[LANES];
                if (count >= LANES) {
#pragma GCC unroll 16
                    for (int q = 0; q < LANES; q++, walk_on(&w)) m[q] = *(const vec *)(packed + w.at + v);
                } else {
                    for (int q = 0; q < LANES; q++) m[q] = (vec){0};
                    for (int q = 0; q < count; q++, walk_on(&w)) m[q] = *(const vec *)(packed + w.at + v);
                }
                transpose(m);
                if (samples < LANES || count < LANES) {
                    for (int s = 0; s < LANES && s < samples; s++) narrow(type, to + (size_t)s * step, m[s], count);
                } else if (t->stream && (uintptr_t)to % VECTOR_BYTES == 0) {
#pragma GCC unroll 16
                    for (int s = 0; s < LANES; s++) stream(to + (size_t)s * here, m[s]);
                } else {
#pragma GCC unroll 16
                    for (int s = 0; s < LANES; s++) narrow(type, to + (size_t)s * here, m[s], LANES);
                }
            }
        }
    }
}

/* In batch-last a row of a group is one run, cut into its tiles: [tile][block][row][stride]. Those before sample n_from
 * are left out. */
INLINE void pack_last(ks_type type, const piece *t, const char *x, int64_t k0, int64_t rows, int64_t n_from,
                      real *packed)
{
    const ks_problem *p = t->p;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t q = 0; q < rows; q++)
            for (int64_t l = 0; l < t->lg; l++) {
                const int64_t row = ((t->i0 + i) * p->c + k0 + q) * p->d + t->l0 + l;
                const char *from = x + (size_t)(row * p->batch + t->n0) * t->size;
                const int64_t tile_step = t->ig * t->lg * rows * t->stride;
                real *to = packed + ((i * t->lg + l) * rows + q) * t->stride + n_from / t->stride * tile_step;
                for (int64_t n = n_from; n < t->n; n += t->stride, to += tile_step)
                    for (int64_t v = 0; v < t->stride; v += LANES) {
                        const int64_t left = t->n - n - v;
                        *(vec *)(to + v) = left > 0 ? widen(type, from + (size_t)(n + v) * t->size, left) : (vec){0};
                    }
            }
}

INLINE void unpack_last(ks_type type, const piece *t, char *y, int64_t j0, int64_t rows, int64_t n_from,
                        const real *packed)
{
    const ks_problem *p = t->p;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t j = 0; j < rows; j++)
            for (int64_t l = 0; l < t->lg; l++) {
                const int64_t row = ((t->i0 + i) * p->b + j0 + j) * p->d + t->l0 + l;
                char *to = y + (size_t)(row * p->batch + t->n0) * t->size;
                const int64_t tile_step = t->ig * t->lg * rows * t->stride;
                const real *from = packed + ((i * t->lg + l) * rows + j) * t->stride + n_from / t->stride * tile_step;
                for (int64_t n = n_from; n < t->n; n += t->stride, from += tile_step)
                    for (int64_t v = 0; v < t->stride && n + v < t->n; v += LANES) {
                        const vec value = *(const vec *)(from + v);
                        char *at = to + (size_t)(n + v) * t->size;
                        if (t->stream && t->n - n - v >= LANES && (uintptr_t)at % VECTOR_BYTES == 0)
                            stream(at, value);
                        else
                            narrow(type, at, value, t->n - n - v);
                    }
            }
}

#endif
