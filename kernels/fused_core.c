/* The core of fused.cpu: pack a tile of X, multiply it in registers, write the tile of Y.
 *
 * One idea serves every layout and type: the batch runs along the vector lanes. A tile of X is packed once into cache
 * as [block][k][sample] in the type of the sums; then the register tile multiplies a run of rows of K, broadcast value
 * by value straight from their b x c block (block order needs no packing), with vectors of samples. Batch-last data
 * already runs along the samples, so packing is a copy; batch-first data is transposed in registers, vector by vector,
 * on the way in and on the way out, which hides behind memory. The layout, d, and the element type exist only in pack
 * and unpack; the register tile is one function.
 *
 * Dropped: vectors along l (needs d >= 16 and weights in another order); vectors along b (weights transposed in every
 * call, a loss at small batch); copying K into panels (K's rows are short and re-read from L1 and L2 anyway).
 *
 * Compiled once per instruction set (the vector's width follows the compiler's target) and, with KS_CORE_F64, once more
 * for float64 sums. Vectors are the compilers' vector extension; only transposes and half conversions name intrinsics. */
#include "fused_core.h"
#include "fused_vector.h"

_Static_assert((int)ROWS <= (int)KS_FUSED_MAX_ROWS, "the driver sizes its tiles by KS_FUSED_MAX_ROWS");

/* ---- the register tile -------------------------------------------------------------------------------------- */

/* acc[r][.] += K[r][q] * X[q][.] for r < rows: one k of a register tile. */
INLINE void tile_step(const int rows, const int vecs, const real *restrict k, int64_t ldk, const real *restrict x,
                      vec acc[ROWS][KS_FUSED_MAX_VECS])
{
    vec xv[KS_FUSED_MAX_VECS];
#pragma GCC unroll 3
    for (int v = 0; v < vecs; v++) xv[v] = *(const vec_u *)(x + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const real w = k[r * ldk];
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] += xv[v] * w;
    }
}

/* Lines to bring towards L2 while a register tile is multiplied, one with every k: memory then works during arithmetic,
 * and never more of it at once than the core's fill buffers take without stalling. Those that will be written are asked
 * for as such, so that a store finds its line instead of waiting for it. */
typedef struct stretch {
    const char *at;
    int64_t lines;
} stretch;

/* C[r][.] (+)= sum over q < count of K[r][q] * X[q][.]   for r < rows; X and C rows are vecs vectors, `ldx` and
 * `ldc` apart, K's rows `ldk`. rows and vecs are constants after inlining, so `acc` lives in registers. */
INLINE void tile(const int rows, const int vecs, const real *restrict k, int64_t ldk, const real *restrict x,
                 int64_t ldx, int64_t count, real *restrict c, int64_t ldc, bool add, stretch y_next, stretch x_next)
{
    vec acc[ROWS][KS_FUSED_MAX_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] = add ? *(const vec *)(c + r * ldc + v * LANES) : (vec){0};
    int64_t q = 0;
    for (; q < count && q < y_next.lines; q++, x += ldx) {
        __builtin_prefetch(y_next.at + q * 64, 1, 2);
        tile_step(rows, vecs, k + q, ldk, x, acc);
    }
    x_next.at -= q * 64;
    x_next.lines += q;
    for (; q < count && q < x_next.lines; q++, x += ldx) {
        __builtin_prefetch(x_next.at + q * 64, 0, 2);
        tile_step(rows, vecs, k + q, ldk, x, acc);
    }
    for (; q < count; q++, x += ldx) tile_step(rows, vecs, k + q, ldk, x, acc);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) *(vec *)(c + r * ldc + v * LANES) = acc[r][v];
}

typedef void tile_function(const real *k, int64_t ldk, const real *x, int64_t ldx, int64_t count, real *c,
                           int64_t ldc, bool add, stretch y_next, stretch x_next);

#define TILE(rows, vecs)                                                                                             \
    static void tile_##rows##x##vecs(const real *k, int64_t ldk, const real *x, int64_t ldx, int64_t count, real *c, \
                                     int64_t ldc, bool add, stretch y_next, stretch x_next)                          \
    {                                                                                                                \
        tile(rows, vecs, k, ldk, x, ldx, count, c, ldc, add, y_next, x_next);                                        \
    }
#define TILE_ROW(rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3)
TILE_ROW(1)
TILE_ROW(2)
TILE_ROW(3)
TILE_ROW(4)
#if defined(__AVX512F__)
TILE_ROW(5)
TILE_ROW(6)
TILE_ROW(7)
TILE_ROW(8)
#endif

static tile_function *const tiles[ROWS][KS_FUSED_MAX_VECS] = {
    {tile_1x1, tile_1x2, tile_1x3}, {tile_2x1, tile_2x2, tile_2x3},
    {tile_3x1, tile_3x2, tile_3x3}, {tile_4x1, tile_4x2, tile_4x3},
#if defined(__AVX512F__)
    {tile_5x1, tile_5x2, tile_5x3}, {tile_6x1, tile_6x2, tile_6x3},
    {tile_7x1, tile_7x2, tile_7x3}, {tile_8x1, tile_8x2, tile_8x3},
#endif
};

/* ---- pack and unpack ------------------------------------------------------------------------------------------ */

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

INLINE void unpack_last(ks_type type, const piece *t, char *y, int64_t j0, int64_t rows, const real *packed)
{
    const ks_problem *p = t->p;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t j = 0; j < rows; j++)
            for (int64_t l = 0; l < t->lg; l++) {
                const int64_t row = ((t->i0 + i) * p->b + j0 + j) * p->d + t->l0 + l;
                char *to = y + (size_t)(row * p->batch + t->n0) * t->size;
                const real *from = packed + ((i * t->lg + l) * rows + j) * t->stride;
                for (int64_t n = 0; n < t->n; n += t->stride, from += t->ig * t->lg * rows * t->stride)
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

/* ---- few samples: lanes along k ------------------------------------------------------------------------------- */

/* With fewer samples than lanes the batch cannot fill a vector, and reading K is what takes the time. So here the lanes
 * run along k, K is read once by whole vectors in its own type, and X is packed as [block][sample][c, padded with 0]. */
enum { DOT_ROWS = 4, DOT_UNROLL = 4, PREFETCH_BYTES = 2048 };

INLINE int64_t dot_stride(const ks_problem *p)
{
    return (p->c + LANES - 1) / LANES * LANES;
}

INLINE void pack_dot(ks_type type, const piece *t, const char *x, real *packed)
{
    const ks_problem *p = t->p;
    const int64_t stride = dot_stride(p);
    const int64_t n_step = p->layout == KS_BATCH_FIRST ? p->a * p->c * p->d : 1;
    const int64_t row_step = p->layout == KS_BATCH_FIRST ? 1 : p->batch;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t s = 0; s < t->n; s++) {
            real *to = packed + (i * t->lg * t->n + s) * stride;
            for (int64_t l = 0; l < t->lg; l++)
                for (int64_t q = p->c; q < stride; q++) to[l * t->n * stride + q] = 0;
            for (int64_t q = 0; q < p->c; q++) {
                const int64_t row = ((t->i0 + i) * p->c + q) * p->d + t->l0;
                const char *from = x + (size_t)((t->n0 + s) * n_step + row * row_step) * t->size;
                for (int64_t l = 0; l < t->lg; l++)
                    to[l * t->n * stride + q] = widen_one(type, from + (size_t)(l * row_step) * t->size);
            }
        }
}

INLINE void dot_tile(ks_type type, const int rows, const int samples, const char *k, size_t ldk, const real *x,
                     int64_t stride, int64_t count, size_t size, real *c, int64_t ldc)
{
    vec acc[DOT_ROWS][KS_FUSED_DOT_SAMPLES];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) acc[r][s] = (vec){0};
    for (int64_t q = 0; q < count; q += LANES) {
        vec xv[KS_FUSED_DOT_SAMPLES];
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) xv[s] = *(const vec *)(x + s * stride + q);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const vec kv = widen(type, k + (size_t)r * ldk + (size_t)q * size, count - q);
#pragma GCC unroll 4
            for (int s = 0; s < samples; s++) acc[r][s] += kv * xv[s];
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) c[r * ldc + s] = sum_lanes(acc[r][s]);
}

/* One long row: K is one stream, several sums in flight. */
INLINE void dot_row(ks_type type, const int samples, const char *k, const real *x, int64_t stride, int64_t count,
                    size_t size, real *c)
{
    vec acc[DOT_UNROLL][KS_FUSED_DOT_SAMPLES];
#pragma GCC unroll 4
    for (int u = 0; u < DOT_UNROLL; u++)
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) acc[u][s] = (vec){0};
    int64_t q = 0;
    for (; q + DOT_UNROLL * LANES <= count; q += DOT_UNROLL * LANES) {
        __builtin_prefetch(k + (size_t)q * size + PREFETCH_BYTES);
        if (size > 2) __builtin_prefetch(k + (size_t)q * size + PREFETCH_BYTES + 128);
#pragma GCC unroll 4
        for (int u = 0; u < DOT_UNROLL; u++) {
            const vec kv = widen(type, k + (size_t)(q + u * LANES) * size, LANES);
#pragma GCC unroll 4
            for (int s = 0; s < samples; s++) acc[u][s] += kv * *(const vec *)(x + s * stride + q + u * LANES);
        }
    }
    for (; q < count; q += LANES) {
        const vec kv = widen(type, k + (size_t)q * size, count - q);
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) acc[0][s] += kv * *(const vec *)(x + s * stride + q);
    }
#pragma GCC unroll 4
    for (int s = 0; s < samples; s++) c[s] = sum_lanes((acc[0][s] + acc[1][s]) + (acc[2][s] + acc[3][s]));
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
    if (count >= 2 * DOT_UNROLL * LANES) {
        for (; r < rows; r++) dot_row(type, samples, k + (size_t)r * ldk, x, xs, count, t->size, c + r * t->stride);
        return;
    }
    for (; r + DOT_ROWS <= rows; r += DOT_ROWS) {
        for (size_t line = 0; line < DOT_ROWS * ldk; line += 64)
            __builtin_prefetch(k + (size_t)(r + DOT_ROWS) * ldk + line);
        dot_tile(type, DOT_ROWS, samples, k + (size_t)r * ldk, ldk, x, xs, count, t->size, c + r * t->stride,
                 t->stride);
    }
    for (; r < rows; r++)
        dot_tile(type, 1, samples, k + (size_t)r * ldk, ldk, x, xs, count, t->size, c + r * t->stride, t->stride);
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

/* ---- one task ------------------------------------------------------------------------------------------------ */

/* Rows [j, j + rows) of one block times one tile of the packed slab of X: [rows][stride] of the output tile. */
INLINE void multiply(ks_type type, const piece *t, const char *k_block, int64_t j, int64_t rows, int64_t k0,
                     int64_t count, const real *x, int64_t ldx, real *c, real *widened, bool prefetch, ahead *x_ahead,
                     ahead *y_ahead)
{
    const int vecs = (int)(t->stride / LANES);
    for (int64_t s = 0; s < count; s += KS_FUSED_SLICE) {
        const int64_t slice = count - s < KS_FUSED_SLICE ? count - s : KS_FUSED_SLICE;
        const bool add = k0 + s > 0;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int height = (int)(rows - r < ROWS ? rows - r : ROWS);
            const char *from = k_block + (size_t)((j + r) * t->p->c + k0 + s) * t->size;
            if (prefetch && slice == t->p->c) /* the rows to come follow at once */
                for (size_t line = 0; line < (size_t)(ROWS * slice) * t->size; line += 64)
                    __builtin_prefetch(from + (size_t)(ROWS * slice) * t->size + line);
            const real *k = (const real *)(const void *)from;
            int64_t ldk = t->p->c;
            if (t->size != sizeof(real) || (uintptr_t)from % sizeof(real) != 0) {
                for (int h = 0; h < height; h++)
                    for (int64_t q = 0; q < slice; q += LANES)
                        *(vec *)(widened + h * KS_FUSED_SLICE + q) =
                            widen(type, from + (size_t)(h * t->p->c + q) * t->size, slice - q);
                k = widened, ldk = KS_FUSED_SLICE;
            }
            const stretch y_next = ahead_next(y_ahead), x_next = ahead_next(x_ahead);
            tiles[height - 1][vecs - 1](k, ldk, x + s * ldx, ldx, slice, c + r * t->stride, t->stride, add, y_next,
                                        x_next);
        }
    }
}

INLINE void task_of(ks_type type, ks_layout layout, const ks_fused_job *job, int64_t index, int thread)
{
    const ks_fused_plan *plan = job->plan;
    const ks_problem *p = job->problem;
    char *scratch = job->scratch + (size_t)thread * (plan->x_bytes + plan->y_bytes + plan->k_bytes);
    real *x_tile = (real *)(void *)scratch, *y_tile = (real *)(void *)(scratch + plan->x_bytes);
    real *widened = (real *)(void *)(scratch + plan->x_bytes + plan->y_bytes);

    const int64_t tj = index % plan->tasks_j, tn = index / plan->tasks_j % plan->tasks_n;
    const int64_t tl = index / plan->tasks_j / plan->tasks_n % plan->tasks_l;
    const int64_t ti = index / plan->tasks_j / plan->tasks_n / plan->tasks_l;
    piece t = {.p = p, .size = ks_type_bytes(type), .i0 = ti * plan->ig, .l0 = tl * plan->lg, .stream = plan->stream};
    t.ig = p->a - t.i0 < plan->ig ? p->a - t.i0 : plan->ig;
    t.lg = p->d - t.l0 < plan->lg ? p->d - t.l0 : plan->lg;
    const int64_t n_end = (tn + 1) * plan->n_task < p->batch ? (tn + 1) * plan->n_task : p->batch;
    const int64_t j_end = (tj + 1) * plan->j_task < p->b ? (tj + 1) * plan->j_task : p->b;

    t.stride = plan->n_tile; /* all tiles of a group alike; the batch's last may have spare lanes */
    const int64_t blocks = t.ig * t.lg, slices = (p->c + KS_FUSED_SLICE - 1) / KS_FUSED_SLICE;
    for (t.n0 = tn * plan->n_task; t.n0 < n_end; t.n0 += plan->n_group) {
        t.n = n_end - t.n0 < plan->n_group ? n_end - t.n0 : plan->n_group;
        const int64_t after = n_end - t.n0 - t.n, tiles_n = (t.n + t.stride - 1) / t.stride;
        const int64_t per_row = blocks * slices * tiles_n; /* register tiles for every ROWS rows */
        ahead x_ahead = ahead_of(&t, job->x, 0, p->c, p->c, t.n0 + t.n, after < plan->n_group ? after : plan->n_group,
                                 per_row * ((j_end - tj * plan->j_task + ROWS - 1) / ROWS));
        /* Samples [0, direct) of the group are whole tiles that are read where they lie, not packed. */
        const int64_t direct = plan->direct && layout == KS_BATCH_LAST ? t.n / t.stride * t.stride : 0;
        int64_t packed_k0 = -1;
        for (int64_t j0 = tj * plan->j_task; j0 < j_end; j0 += plan->j_chunk) {
            const int64_t rows = j_end - j0 < plan->j_chunk ? j_end - j0 : plan->j_chunk;
            ahead y_ahead = ahead_of(&t, job->y, j0, rows, p->b, t.n0, plan->own_y ? t.n : 0,
                                     per_row * ((rows + ROWS - 1) / ROWS));
            for (int64_t k0 = 0; k0 < p->c; k0 += plan->k_slab) {
                const int64_t count = p->c - k0 < plan->k_slab ? p->c - k0 : plan->k_slab;
                if (packed_k0 != k0) {
                    if (plan->dot)
                        pack_dot(type, &t, job->x, x_tile);
                    else if (layout == KS_BATCH_FIRST)
                        pack_first(type, &t, job->x, k0, count, x_tile);
                    else
                        pack_last(type, &t, job->x, k0, count, direct, x_tile);
                    packed_k0 = k0;
                }
                for (int64_t g = 0; g < blocks; g++) {
                    const int64_t block = (t.i0 + g / t.lg) * p->d + t.l0 + g % t.lg;
                    const char *k_block = (const char *)job->k + (size_t)(block * p->b * p->c) * t.size;
                    if (plan->dot) {
                        multiply_dots(type, &t, k_block, j0, rows, x_tile + g * t.n * dot_stride(p),
                                      y_tile + g * rows * t.stride);
                        continue;
                    }
                    for (int64_t n = 0; n < tiles_n; n++) {
                        const real *x = x_tile + (n * blocks + g) * count * t.stride;
                        int64_t ldx = t.stride;
                        if ((n + 1) * t.stride <= direct) {
                            const int64_t row = ((t.i0 + g / t.lg) * p->c + k0) * p->d + t.l0 + g % t.lg;
                            ldx = p->d * p->batch;
                            x = (const real *)job->x + row * p->batch + t.n0 + n * t.stride;
                        }
                        multiply(type, &t, k_block, j0, rows, k0, count, x, ldx,
                                 y_tile + (n * blocks + g) * rows * t.stride, widened, plan->prefetch_k, &x_ahead,
                                 &y_ahead);
                    }
                }
            }
            if (layout == KS_BATCH_FIRST)
                unpack_first(type, &t, job->y, j0, rows, y_tile);
            else
                unpack_last(type, &t, job->y, j0, rows, y_tile);
        }
    }
#if defined(__AVX2__)
    if (plan->stream) _mm_sfence();
#endif
}

/* One copy of task_of per type and layout, so that neither is asked about inside a loop. */
static void task(void *arg, int64_t index, int thread)
{
    const ks_fused_job *job = arg;
    const bool first = job->problem->layout == KS_BATCH_FIRST;
    switch (job->problem->type) {
#ifdef KS_CORE_F64
    default:
        first ? task_of(KS_F64, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_F64, KS_BATCH_LAST, job, index, thread);
        break;
#else
    case KS_F16:
        first ? task_of(KS_F16, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_F16, KS_BATCH_LAST, job, index, thread);
        break;
    case KS_BF16:
        first ? task_of(KS_BF16, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_BF16, KS_BATCH_LAST, job, index, thread);
        break;
    default:
        first ? task_of(KS_F32, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_F32, KS_BATCH_LAST, job, index, thread);
        break;
#endif
    }
}

static void copy(char *to, const char *from, size_t bytes)
{
    size_t i = 0;
    for (; i + VECTOR_BYTES <= bytes; i += VECTOR_BYTES) stream(to + i, *(const vec_u *)(from + i));
    memcpy(to + i, from + i, bytes - i);
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

#define NAME3(isa, suffix) ks_fused_core_##isa##suffix
#define NAME2(isa, suffix) NAME3(isa, suffix)
#define TEXT2(isa)         #isa
#define TEXT(isa)          TEXT2(isa)
#ifdef KS_CORE_F64
const ks_fused_core NAME2(ISA, _f64) = {TEXT(ISA), LANES, ROWS, task, copy};
#else
const ks_fused_core NAME2(ISA, ) = {TEXT(ISA), LANES, ROWS, task, copy};
#endif
