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

/* C[r][.] (+)= sum over q < count of K[r][q] * X[q][.]   for r < rows; X and C rows are vecs vectors, C's rows `ldc`
 * apart, K's `ldk`. rows and vecs are constants after inlining, so `acc` lives in registers. */
INLINE void tile(const int rows, const int vecs, const real *restrict k, int64_t ldk, const vec *restrict x,
                 int64_t count, real *restrict c, int64_t ldc, bool add)
{
    vec acc[ROWS][KS_FUSED_MAX_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] = add ? *(const vec *)(c + r * ldc + v * LANES) : (vec){0};
    for (int64_t q = 0; q < count; q++, x += vecs) {
        vec xv[KS_FUSED_MAX_VECS];
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) xv[v] = x[v];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const real w = k[r * ldk + q];
#pragma GCC unroll 3
            for (int v = 0; v < vecs; v++) acc[r][v] += xv[v] * w;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) *(vec *)(c + r * ldc + v * LANES) = acc[r][v];
}

typedef void tile_function(const real *k, int64_t ldk, const vec *x, int64_t count, real *c, int64_t ldc, bool add);

#define TILE(rows, vecs)                                                                                             \
    static void tile_##rows##x##vecs(const real *k, int64_t ldk, const vec *x, int64_t count, real *c, int64_t ldc,  \
                                     bool add)                                                                       \
    {                                                                                                                \
        tile(rows, vecs, k, ldk, x, count, c, ldc, add);                                                             \
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
    int64_t n0, n;          /* samples of this tile */
    int64_t stride;         /* lanes of a packed row: n rounded up to whole vectors */
    bool stream;
} piece;

/* Packed rows are [block][row][stride]. Elements (i, row, l) of an outer array of `rows_all` rows per super-block lie,
 * for one sample in batch-first, in runs: all of (i, row, l) if the piece spans d and every row, else per (i, row) or
 * per i. A run is walked with (i, row, l) counters, since it maps to rows of the packed tile `rows * stride` apart. */
typedef struct run {
    int64_t i, row, l;
} run;

INLINE run run_next(run at, int64_t rows, int64_t lg)
{
    if (++at.l == lg) {
        at.l = 0;
        if (++at.row == rows) at.row = 0, at.i++;
    }
    return at;
}

INLINE int64_t packed_row(run at, int64_t rows, int64_t lg)
{
    return (at.i * lg + at.l) * rows + at.row;
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

/* Where run r starts: its first element's (i, row, l) within the piece, and its offset within a sample. */
INLINE int64_t run_offset(const piece *t, runs u, int64_t r, int64_t rows, int64_t row0, int64_t rows_all, run *first)
{
    *first = u.per_row ? (run){r / rows, r % rows, 0} : (run){r, 0, 0};
    return ((t->i0 + first->i) * rows_all + row0 + first->row) * t->p->d + t->l0;
}

/* X rows [k0, k0 + rows) of the piece's blocks and samples, widened, as [block][k][stride]; spare lanes are 0. */
INLINE void pack_first(ks_type type, const piece *t, const char *x, int64_t k0, int64_t rows, real *packed)
{
    const int64_t sample = t->p->a * t->p->c * t->p->d;
    const runs u = runs_of(t, rows, t->p->c);
    for (int64_t v = 0; v < t->stride; v += LANES) {
        const int64_t samples = t->n - v;
        for (int64_t r = 0; r < u.count; r++) {
            run at;
            const char *from =
                x + (size_t)((t->n0 + v) * sample + run_offset(t, u, r, rows, k0, t->p->c, &at)) * t->size;
            for (int64_t f = 0; f < u.length; f += LANES, from += LANES * t->size) {
                const int64_t count = u.length - f;
                vec m[LANES];
#pragma GCC unroll 16
                for (int s = 0; s < LANES; s++)
                    m[s] = s < samples ? widen(type, from + (size_t)(s * sample) * t->size, count) : (vec){0};
                transpose(m);
                for (int q = 0; q < LANES && q < count; q++) {
                    *(vec *)(packed + packed_row(at, rows, t->lg) * t->stride + v) = m[q];
                    at = run_next(at, rows, t->lg);
                }
            }
        }
    }
}

INLINE void unpack_first(ks_type type, const piece *t, char *y, int64_t j0, int64_t rows, const real *packed)
{
    const int64_t sample = t->p->a * t->p->b * t->p->d;
    const runs u = runs_of(t, rows, t->p->b);
    for (int64_t v = 0; v < t->n; v += LANES) {
        const int64_t samples = t->n - v;
        for (int64_t r = 0; r < u.count; r++) {
            run at;
            char *to = y + (size_t)((t->n0 + v) * sample + run_offset(t, u, r, rows, j0, t->p->b, &at)) * t->size;
            for (int64_t f = 0; f < u.length; f += LANES, to += LANES * t->size) {
                const int64_t count = u.length - f;
                vec m[LANES];
                for (int q = 0; q < LANES; q++) {
                    m[q] =
                        q < count ? *(const vec *)(packed + packed_row(at, rows, t->lg) * t->stride + v) : (vec){0};
                    at = run_next(at, rows, t->lg);
                }
                transpose(m);
                const bool past = t->stream && t->size == sizeof(real) && count >= LANES &&
                                  ((uintptr_t)to | (uintptr_t)sample * t->size) % VECTOR_BYTES == 0;
                if (past && samples >= LANES)
                    for (int s = 0; s < LANES; s++) stream(to + (size_t)(s * sample) * t->size, m[s]);
                else
                    for (int s = 0; s < LANES && s < samples; s++)
                        narrow(type, to + (size_t)(s * sample) * t->size, m[s], count);
            }
        }
    }
}

INLINE void pack_last(ks_type type, const piece *t, const char *x, int64_t k0, int64_t rows, real *packed)
{
    const ks_problem *p = t->p;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t q = 0; q < rows; q++)
            for (int64_t l = 0; l < t->lg; l++) {
                const int64_t row = ((t->i0 + i) * p->c + k0 + q) * p->d + t->l0 + l;
                const char *from = x + (size_t)(row * p->batch + t->n0) * t->size;
                real *to = packed + ((i * t->lg + l) * rows + q) * t->stride;
                for (int64_t v = 0; v < t->stride; v += LANES)
                    *(vec *)(to + v) = widen(type, from + (size_t)v * t->size, t->n - v);
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
                const bool past = t->stream && t->size == sizeof(real) && (uintptr_t)to % VECTOR_BYTES == 0;
                for (int64_t v = 0; v < t->n; v += LANES) {
                    vec value = *(const vec *)(from + v);
                    if (past && t->n - v >= LANES)
                        stream(to + (size_t)v * t->size, value);
                    else
                        narrow(type, to + (size_t)v * t->size, value, t->n - v);
                }
            }
}

/* ---- few samples: lanes along k ------------------------------------------------------------------------------- */

/* With fewer samples than lanes the batch cannot fill a vector, and reading K is what takes the time. So here the lanes
 * run along k, K is read once by whole vectors in its own type, and X is packed as [block][sample][c, padded with 0]. */
enum { DOT_ROWS = 4, PREFETCH_LINES = 64 };

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

/* Rows [j, j + rows) of one block, all of c: [rows][stride lanes] of the output tile, samples in the first lanes. */
INLINE void multiply_dot(ks_type type, const piece *t, const char *k_block, int64_t j, int64_t rows, const real *x,
                         real *c)
{
    const size_t ldk = (size_t)t->p->c * t->size;
    const int64_t xs = dot_stride(t->p), count = t->p->c;
    for (int64_t r = 0; r < rows; r += DOT_ROWS) {
        const char *k = k_block + (size_t)(j + r) * ldk;
        const char *next = k + DOT_ROWS * ldk;
        for (size_t line = 0; line < PREFETCH_LINES && line * 64 < DOT_ROWS * ldk; line++)
            __builtin_prefetch(next + line * 64);
        real *to = c + r * t->stride;
        if (rows - r >= DOT_ROWS) {
            switch (t->n) {
            case 1:
                dot_tile(type, DOT_ROWS, 1, k, ldk, x, xs, count, t->size, to, t->stride);
                break;
            case 2:
                dot_tile(type, DOT_ROWS, 2, k, ldk, x, xs, count, t->size, to, t->stride);
                break;
            case 3:
                dot_tile(type, DOT_ROWS, 3, k, ldk, x, xs, count, t->size, to, t->stride);
                break;
            default:
                dot_tile(type, DOT_ROWS, 4, k, ldk, x, xs, count, t->size, to, t->stride);
                break;
            }
            continue;
        }
        for (int64_t h = 0; h < rows - r; h++)
            for (int64_t s = 0; s < t->n; s++)
                dot_tile(type, 1, 1, k + (size_t)h * ldk, ldk, x + s * xs, xs, count, t->size, to + h * t->stride + s,
                         1);
    }
}

/* ---- one task ------------------------------------------------------------------------------------------------ */

/* Rows [j, j + rows) of one block times the packed slab of X: [rows][stride] of the output tile. */
INLINE void multiply(ks_type type, const piece *t, const char *k_block, int64_t j, int64_t rows, int64_t k0,
                     int64_t count, const real *x, real *c, real *widened, bool prefetch)
{
    const int vecs = (int)(t->stride / LANES);
    for (int64_t s = 0; s < count; s += KS_FUSED_SLICE) {
        const int64_t slice = count - s < KS_FUSED_SLICE ? count - s : KS_FUSED_SLICE;
        const bool add = k0 + s > 0;
        const vec *xs = (const vec *)(x + s * t->stride);
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int height = (int)(rows - r < ROWS ? rows - r : ROWS);
            const char *from = k_block + (size_t)((j + r) * t->p->c + k0 + s) * t->size;
            if (prefetch)
                for (int h = 0; h < height; h++)
                    for (size_t line = 0; line < (size_t)slice * t->size; line += 64)
                        __builtin_prefetch(from + (size_t)((h + ROWS) * t->p->c) * t->size + line);
            const real *k = (const real *)(const void *)from;
            int64_t ldk = t->p->c;
            if (t->size != sizeof(real) || (uintptr_t)from % sizeof(real) != 0) {
                for (int h = 0; h < height; h++)
                    for (int64_t q = 0; q < slice; q += LANES)
                        *(vec *)(widened + h * KS_FUSED_SLICE + q) =
                            widen(type, from + (size_t)(h * t->p->c + q) * t->size, slice - q);
                k = widened, ldk = KS_FUSED_SLICE;
            }
            tiles[height - 1][vecs - 1](k, ldk, xs, slice, c + r * t->stride, t->stride, add);
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

    for (t.n0 = tn * plan->n_task; t.n0 < n_end; t.n0 += plan->n_tile) {
        t.n = n_end - t.n0 < plan->n_tile ? n_end - t.n0 : plan->n_tile;
        t.stride = (t.n + LANES - 1) / LANES * LANES;
        int64_t packed_k0 = -1;
        for (int64_t j0 = tj * plan->j_task; j0 < j_end; j0 += plan->j_chunk) {
            const int64_t rows = j_end - j0 < plan->j_chunk ? j_end - j0 : plan->j_chunk;
            for (int64_t k0 = 0; k0 < p->c; k0 += plan->k_slab) {
                const int64_t count = p->c - k0 < plan->k_slab ? p->c - k0 : plan->k_slab;
                if (packed_k0 != k0) {
                    if (plan->dot)
                        pack_dot(type, &t, job->x, x_tile);
                    else if (layout == KS_BATCH_FIRST)
                        pack_first(type, &t, job->x, k0, count, x_tile);
                    else
                        pack_last(type, &t, job->x, k0, count, x_tile);
                    packed_k0 = k0;
                }
                for (int64_t g = 0; g < t.ig * t.lg; g++) {
                    const int64_t block = (t.i0 + g / t.lg) * p->d + t.l0 + g % t.lg;
                    const char *k_block = (const char *)job->k + (size_t)(block * p->b * p->c) * t.size;
                    real *to = y_tile + g * rows * t.stride;
                    if (plan->dot)
                        multiply_dot(type, &t, k_block, j0, rows, x_tile + g * t.n * dot_stride(p), to);
                    else
                        multiply(type, &t, k_block, j0, rows, k0, count, x_tile + g * count * t.stride, to, widened,
                                 plan->prefetch_k);
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
