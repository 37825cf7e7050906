/* bmm.cpu.permute and bmm.cpu.strided: one GEMM for each of the a*d blocks, by OpenBLAS.
 *
 * permute is the paper's baseline (section 3, "bmm"): bring each block's X together, multiply, spread Y out again:
 * three passes over memory. strided multiplies straight on the arrays as they lie: in batch-last each block's X is a
 * matrix of leading dimension d*batch, in batch-first with d = 1 of leading dimension a*c. F16 and BF16 need a float32
 * copy of X and Y in any case, since this BLAS has no GEMM for them; permute makes that copy, so strided leaves them to it.
 *
 * The team (pool.h) owns the threads: blocks, and pieces of the batch or of b where blocks are few, are its tasks, and
 * each GEMM runs on one thread. */
#include "blas.h"
#include "error.h"
#include "half.h"
#include "pool.h"
#include "rows.h"
#include "sizes.h"

#include <limits.h>
#include <math.h>

/* BLAS counts in int. Larger sizes are cut: b and the batch into pieces, c into terms of a sum. */
enum { TASKS_PER_THREAD = 8, LEAST_PIECE = 64, BLAS_MOST = INT_MAX / 2, SMALL = 1000000 };

/* How the blocks lie: block (i, l) starts at i * i_step + l * l_step; its rows are ld apart. In elements. */
typedef struct view {
    int64_t i_step, l_step, ld;
} view;

typedef struct gemm_job {
    const ks_problem *problem;
    const char *x, *k;
    char *y;
    view xv, yv;
    bool sample_rows; /* a block's rows are samples (n x c), else it is (c x n) */
    size_t size;      /* bytes of an element: 4 or 8 */
    int64_t n_piece, j_piece, n_pieces, j_pieces;
} gemm_job;

static int64_t clamp(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* Pieces such that every thread has several tasks where the problem is large enough for that. A leading dimension past
 * BLAS's reach does not matter in a matrix of one row. */
static void cut(const ks_problem *p, int units, gemm_job *job)
{
    const int64_t blocks = p->a * p->d;
    const int64_t wanted = blocks >= 4 * units ? 1 : ks_ceil_div((int64_t)units * TASKS_PER_THREAD, blocks);
    job->n_piece = clamp(ks_ceil_div(p->batch, wanted), LEAST_PIECE, BLAS_MOST);
    if (job->sample_rows && (job->xv.ld > INT_MAX || job->yv.ld > INT_MAX)) job->n_piece = 1;
    job->n_pieces = ks_ceil_div(p->batch, job->n_piece);
    job->j_piece = clamp(ks_ceil_div(p->b, ks_ceil_div(units, blocks * job->n_pieces)), LEAST_PIECE, BLAS_MOST);
    if (p->c > INT_MAX) job->j_piece = 1;
    job->j_pieces = ks_ceil_div(p->b, job->j_piece);
}

static int64_t row_step(int64_t rows, int64_t columns, int64_t ld)
{
    return rows == 1 ? columns : ld;
}

static void gemm_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const gemm_job *g = arg;
    const ks_problem *p = g->problem;
    const int64_t j0 = index % g->j_pieces * g->j_piece, n0 = index / g->j_pieces % g->n_pieces * g->n_piece;
    const int64_t block = index / g->j_pieces / g->n_pieces, i = block / p->d, l = block % p->d;
    const int64_t n = p->batch - n0 < g->n_piece ? p->batch - n0 : g->n_piece;
    const int64_t b = p->b - j0 < g->j_piece ? p->b - j0 : g->j_piece;
    const int64_t x_at = i * g->xv.i_step + l * g->xv.l_step + (g->sample_rows ? n0 * g->xv.ld : n0);
    const int64_t y_at =
        i * g->yv.i_step + l * g->yv.l_step + (g->sample_rows ? n0 * g->yv.ld + j0 : j0 * g->yv.ld + n0);
    void *y = g->y + (size_t)y_at * g->size;
    for (int64_t k0 = 0; k0 < p->c; k0 += BLAS_MOST) {
        const int64_t c = p->c - k0 < BLAS_MOST ? p->c - k0 : BLAS_MOST;
        const void *x = g->x + (size_t)(x_at + (g->sample_rows ? k0 : k0 * g->xv.ld)) * g->size;
        const void *k = g->k + (size_t)((block * p->b + j0) * p->c + k0) * g->size;
        const int64_t ldk = row_step(b, c, p->c), ldx = g->sample_rows ? row_step(n, c, g->xv.ld) : g->xv.ld;
        const int64_t ldy = g->sample_rows ? row_step(n, b, g->yv.ld) : g->yv.ld;
        if (g->size == sizeof(float)) {
            if (g->sample_rows) /* (n x c) (b x c)^T */
                ks_blas_sgemm(k0 > 0, true, n, b, c, x, ldx, k, ldk, y, ldy);
            else /* (b x c) (c x n) */
                ks_blas_sgemm(k0 > 0, false, b, n, c, k, ldk, x, ldx, y, ldy);
        } else {
            if (g->sample_rows)
                ks_blas_dgemm(k0 > 0, true, n, b, c, x, ldx, k, ldk, y, ldy);
            else
                ks_blas_dgemm(k0 > 0, false, b, n, c, k, ldk, x, ldx, y, ldy);
        }
    }
}

static void multiply(gemm_job *job, int units)
{
    cut(job->problem, units, job);
    const int64_t tasks = job->problem->a * job->problem->d * job->n_pieces * job->j_pieces;
    ks_blas_begin();
    ks_pool_run(tasks, ks_cpu_alone_s(job->problem), gemm_task, job);
    ks_blas_end();
}

/* What the calls cost beside bytes: OpenBLAS copies both operands of a product into blocks of its own, unless it is of at
 * most SMALL multiplications (the condition of its small kernels); and the last round of tasks leaves threads idle. */
static void gemm_cost(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const double units = ks_cpu_is_wide(p) ? (double)device->units : 1;
    gemm_job job = {.problem = p, .sample_rows = p->layout == KS_BATCH_FIRST};
    cut(p, device->units, &job);
    const double n = (double)job.n_piece < (double)p->batch ? (double)job.n_piece : (double)p->batch;
    const double b = (double)job.j_piece < (double)p->b ? (double)job.j_piece : (double)p->b, c = (double)p->c;
    const double calls = (double)(p->a * p->d) * (double)(job.n_pieces * job.j_pieces);
    terms[KS_TERM_FLOPS] = ks_problem_flops(p) * ceil(calls / units) * units / calls;
    terms[KS_TERM_SHUFFLE] = n * b * c > SMALL ? calls * (n + b) * c : 0;
    terms[KS_TERM_CALLS] = calls / units;
}

/* ---- bmm.cpu.strided ------------------------------------------------------------------------------------------ */

static void strided_views(const ks_problem *p, view *x, view *y)
{
    if (p->layout == KS_BATCH_LAST) {
        *x = (view){p->c * p->d * p->batch, p->batch, p->d * p->batch};
        *y = (view){p->b * p->d * p->batch, p->batch, p->d * p->batch};
    } else {
        *x = (view){p->c, 0, p->a * p->c};
        *y = (view){p->b, 0, p->a * p->b};
    }
}

static bool strided_supports(const ks_problem *p, const ks_device *device)
{
    if (device->backend != KS_CPU || !ks_blas_available() || (p->type != KS_F32 && p->type != KS_F64)) return false;
    if (p->layout == KS_BATCH_FIRST && p->d > 1) return false;
    view x, y;
    strided_views(p, &x, &y);
    return x.ld <= INT_MAX && y.ld <= INT_MAX;
}

static size_t no_workspace(const ks_problem *problem, const ks_device *device)
{
    (void)problem, (void)device;
    return 0;
}

static void strided_cost(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    gemm_cost(p, device, terms);
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p) + (double)ks_y_count(p) * (double)ks_type_bytes(p->type);
}

static ks_status strided_run(const ks_problem *p, const ks_run_args *args)
{
    gemm_job job = {.problem = p,
                    .x = args->x,
                    .k = args->k,
                    .y = args->y,
                    .size = ks_type_bytes(p->type),
                    .sample_rows = p->layout == KS_BATCH_FIRST};
    strided_views(p, &job.xv, &job.yv);
    multiply(&job, args->device->units);
    return KS_OK;
}

/* ---- bmm.cpu.permute ------------------------------------------------------------------------------------------ */

/* Blocks are [i][l][n][row] in batch-first, [i][l][row][n] in batch-last, the order that moves whole runs; and the former
 * where the batch is too long for a leading dimension. */
static bool sample_rows(const ks_problem *p)
{
    return p->layout == KS_BATCH_FIRST || p->batch > INT_MAX;
}

/* One of the two permutations, between an outer array of `rows` rows per super-block (c for X, b for Y) and its
 * blocks, in float32 or float64. */
typedef struct permute_job {
    const ks_problem *problem;
    int64_t rows;
    char *outer, *blocks;
    bool inward; /* outer to blocks */
    int64_t n_piece, n_pieces;
} permute_job;

/* `count` elements between an outer run and a run of blocks, each with its own step. type is a constant where inlined. */
static inline __attribute__((always_inline)) void move(ks_type type, bool inward, char *outer, int64_t outer_step,
                                                       char *blocks, int64_t blocks_step, int64_t count)
{
    const size_t narrow = ks_type_bytes(type), wide = type == KS_F64 ? 8 : 4;
    for (int64_t q = 0; q < count; q++) {
        char *o = outer + (size_t)(q * outer_step) * narrow, *b = blocks + (size_t)(q * blocks_step) * wide;
        uint16_t half;
        float value;
        if (type == KS_F32 || type == KS_F64) {
            memcpy(inward ? b : o, inward ? o : b, type == KS_F64 ? 8 : 4);
        } else if (inward) {
            memcpy(&half, o, sizeof half);
            value = type == KS_F16 ? ks_f16_to_f32(half) : ks_bf16_to_f32(half);
            memcpy(b, &value, sizeof value);
        } else {
            memcpy(&value, b, sizeof value);
            half = type == KS_F16 ? ks_f32_to_f16(value) : ks_f32_to_bf16(value);
            memcpy(o, &half, sizeof half);
        }
    }
}

static inline __attribute__((always_inline)) void permute_piece(ks_type type, bool inward, const permute_job *g,
                                                                int64_t i, int64_t n0, int64_t n)
{
    const ks_problem *p = g->problem;
    const size_t narrow = ks_type_bytes(type), wide = type == KS_F64 ? 8 : 4;
    if (p->layout == KS_BATCH_FIRST) {
        for (int64_t s = n0; s < n0 + n; s++)
            for (int64_t l = 0; l < p->d; l++) {
                char *o = g->outer + (size_t)(((s * p->a + i) * g->rows) * p->d + l) * narrow;
                char *b = g->blocks + (size_t)(((i * p->d + l) * p->batch + s) * g->rows) * wide;
                move(type, inward, o, p->d, b, 1, g->rows);
            }
    } else {
        for (int64_t row = 0; row < g->rows; row++)
            for (int64_t l = 0; l < p->d; l++) {
                char *o = g->outer + (size_t)(((i * g->rows + row) * p->d + l) * p->batch + n0) * narrow;
                const int64_t block = i * p->d + l;
                if (sample_rows(p))
                    move(type, inward, o, 1, g->blocks + (size_t)((block * p->batch + n0) * g->rows + row) * wide,
                         g->rows, n);
                else
                    move(type, inward, o, 1, g->blocks + (size_t)((block * g->rows + row) * p->batch + n0) * wide, 1,
                         n);
            }
    }
}

static void permute_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const permute_job *g = arg;
    const int64_t i = index / g->n_pieces, n0 = index % g->n_pieces * g->n_piece;
    const int64_t n = g->problem->batch - n0 < g->n_piece ? g->problem->batch - n0 : g->n_piece;
    switch (g->problem->type) {
    case KS_F16:
        g->inward ? permute_piece(KS_F16, true, g, i, n0, n) : permute_piece(KS_F16, false, g, i, n0, n);
        break;
    case KS_BF16:
        g->inward ? permute_piece(KS_BF16, true, g, i, n0, n) : permute_piece(KS_BF16, false, g, i, n0, n);
        break;
    case KS_F64:
        g->inward ? permute_piece(KS_F64, true, g, i, n0, n) : permute_piece(KS_F64, false, g, i, n0, n);
        break;
    default:
        g->inward ? permute_piece(KS_F32, true, g, i, n0, n) : permute_piece(KS_F32, false, g, i, n0, n);
        break;
    }
}

static void permute(permute_job *job, int units)
{
    const ks_problem *p = job->problem;
    job->n_piece = ks_ceil_div(p->batch, ks_ceil_div((int64_t)units * TASKS_PER_THREAD, p->a));
    if (job->n_piece < LEAST_PIECE) job->n_piece = LEAST_PIECE;
    job->n_pieces = ks_ceil_div(p->batch, job->n_piece);
    ks_pool_run(p->a * job->n_pieces, ks_cpu_alone_s(p), permute_task, job);
}

/* K of a half type to float32. */
typedef struct widen_job {
    const ks_problem *problem;
    const void *from;
    char *to;
} widen_job;

enum { WIDEN_PIECE = 1 << 16 };

static void widen_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const widen_job *g = arg;
    const int64_t at = index * WIDEN_PIECE, left = ks_k_count(g->problem) - at,
                  count = left < WIDEN_PIECE ? left : WIDEN_PIECE;
    char *from = (char *)(uintptr_t)g->from + at * 2, *to = g->to + at * 4;
    if (g->problem->type == KS_F16)
        move(KS_F16, true, from, 1, to, 1, count);
    else
        move(KS_BF16, true, from, 1, to, 1, count);
}

static int64_t round_64(int64_t bytes)
{
    return ks_ceil_div(bytes, 64) * 64;
}

static int64_t wide_size(ks_type type)
{
    return type == KS_F64 ? 8 : 4;
}

/* Workspace: X's blocks, Y's blocks, and for the half types K in float32. */
static size_t permute_workspace(const ks_problem *p, const ks_device *device)
{
    (void)device;
    const int64_t size = wide_size(p->type), k = ks_type_bytes(p->type) < 4 ? ks_k_count(p) * size : 0;
    return (size_t)(round_64(ks_x_count(p) * size) + round_64(ks_y_count(p) * size) + round_64(k));
}

static bool permute_supports(const ks_problem *p, const ks_device *device)
{
    /* The float32 copies of half types must be countable too. */
    const int64_t limit = INT64_MAX / 32;
    return device->backend == KS_CPU && ks_blas_available() && ks_x_count(p) < limit && ks_y_count(p) < limit &&
           ks_k_count(p) < limit;
}

static void permute_cost(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const double wide = (double)wide_size(p->type), narrow = (double)ks_type_bytes(p->type);
    const double xy = (double)ks_x_count(p) + (double)ks_y_count(p);
    gemm_cost(p, device, terms);
    terms[KS_TERM_LAUNCH] = 3;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p) + xy * (3 * wide) + (double)ks_y_count(p) * narrow;
    terms[KS_TERM_SHUFFLE] += xy * (narrow < 4 ? 4 : p->layout == KS_BATCH_FIRST ? 2 : 0.25);
}

static ks_status permute_run(const ks_problem *p, const ks_run_args *args)
{
    const int64_t size = wide_size(p->type);
    char *x = args->workspace, *y = x + round_64(ks_x_count(p) * size), *k = y + round_64(ks_y_count(p) * size);
    permute_job in = {.problem = p, .rows = p->c, .outer = (char *)(uintptr_t)args->x, .blocks = x, .inward = true};
    permute(&in, args->device->units);

    gemm_job job = {.problem = p, .x = x, .k = args->k, .y = y, .size = (size_t)size, .sample_rows = sample_rows(p)};
    const int64_t ldx = job.sample_rows ? p->c : p->batch, ldy = job.sample_rows ? p->b : p->batch;
    job.xv = (view){p->d * p->c * p->batch, p->c * p->batch, ldx};
    job.yv = (view){p->d * p->b * p->batch, p->b * p->batch, ldy};
    if (ks_type_bytes(p->type) < sizeof(float)) {
        widen_job widen = {p, args->k, k};
        ks_pool_run(ks_ceil_div(ks_k_count(p), WIDEN_PIECE), ks_cpu_alone_s(p), widen_task, &widen);
        job.k = k;
    }
    multiply(&job, args->device->units);

    permute_job out = {.problem = p, .rows = p->b, .outer = args->y, .blocks = y, .inward = false};
    permute(&out, args->device->units);
    return KS_OK;
}

const ks_kernel ks_bmm_cpu_permute = {"bmm.cpu.permute", KS_BMM,       KS_CPU,     1, permute_supports,
                                      permute_workspace, permute_cost, permute_run};
const ks_kernel ks_bmm_cpu_strided = {"bmm.cpu.strided", KS_BMM,       KS_CPU,       1,
                                      strided_supports,  no_workspace, strided_cost, strided_run};
