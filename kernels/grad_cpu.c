/* Gradients of weights, and transposition, on the CPU.
 *
 * Each of the a*d blocks of dK is a product of dY's block (b x batch) and X's (batch x c). A task is a tile of one block: it
 * walks down the batch, packs what it needs of dY and X into float32 (float64 for KS_F64) and adds their product by OpenBLAS
 * to the tile, which leaves for dk at the end. Packing takes every layout, type and alignment to one form, and costs little
 * beside the product wherever b and c are not tiny. Without OpenBLAS plain loops in float64 do it. */
#include "grad.h"
#include "blas.h"
#include "half.h"
#include "kernel.h"
#include "pool.h"
#include "rows.h"
#include "sizes.h"

#include <string.h>

/* The largest tile and piece of the batch; the smallest tile that work is cut into where blocks are few. */
enum { J_MOST = 256, K_MOST = 512, N_MOST = 256, LEAST_TILE = 32, TASKS_PER_THREAD = 4 };

typedef struct grad_job {
    const ks_problem *problem;
    const ks_grad_args *args;
    bool narrow; /* sums in float32, by BLAS; else in float64 */
    bool blas;
    int64_t j_tile, k_tile, j_tiles, k_tiles;
} grad_job;

/* A thread's share of the workspace, in doubles, of which the sums in float32 use half. */
static size_t scratch_count(void)
{
    return (size_t)N_MOST * J_MOST + (size_t)N_MOST * K_MOST + (size_t)J_MOST * K_MOST;
}

size_t ks_cpu_grad_bytes(const ks_problem *problem, const ks_device *device)
{
    (void)problem, (void)device;
    return (size_t)ks_pool_threads() * scratch_count() * sizeof(double);
}

static void cut(grad_job *job)
{
    const ks_problem *p = job->problem;
    const int64_t wanted = (int64_t)ks_pool_threads() * TASKS_PER_THREAD, blocks = p->a * p->d;
    job->j_tile = ks_min(p->b, J_MOST), job->k_tile = ks_min(p->c, K_MOST);
    for (;;) {
        job->j_tiles = ks_ceil_div(p->b, job->j_tile), job->k_tiles = ks_ceil_div(p->c, job->k_tile);
        if (blocks >= wanted || job->j_tiles * job->k_tiles >= ks_ceil_div(wanted, blocks)) return;
        int64_t *larger = job->j_tile >= job->k_tile ? &job->j_tile : &job->k_tile;
        if (*larger < 2 * LEAST_TILE) return;
        *larger = ks_ceil_div(*larger, 2);
    }
}

/* `count` elements, from_step apart, to float32 or float64, to_step apart. type and narrow are constants where inlined. */
static inline __attribute__((always_inline)) void
widen_run(ks_type type, bool narrow, const char *from, int64_t from_step, void *to, int64_t to_step, int64_t count)
{
    const size_t size = ks_type_bytes(type);
    for (int64_t q = 0; q < count; q++) {
        const char *at = from + (size_t)(q * from_step) * size;
        double wide;
        float value = 0;
        uint16_t half;
        if (type == KS_F64) {
            memcpy(&wide, at, sizeof wide);
        } else {
            if (type == KS_F32)
                memcpy(&value, at, sizeof value);
            else
                memcpy(&half, at, sizeof half), value = type == KS_F16 ? ks_f16_to_f32(half) : ks_bf16_to_f32(half);
            wide = value;
        }
        if (narrow)
            ((float *)to)[q * to_step] = value;
        else
            ((double *)to)[q * to_step] = wide;
    }
}

static void widen(ks_type type, bool narrow, const char *from, int64_t from_step, void *to, int64_t to_step,
                  int64_t count)
{
    switch (type) {
    case KS_F64:
        widen_run(KS_F64, false, from, from_step, to, to_step, count);
        break;
    case KS_F16:
        narrow ? widen_run(KS_F16, true, from, from_step, to, to_step, count)
               : widen_run(KS_F16, false, from, from_step, to, to_step, count);
        break;
    case KS_BF16:
        narrow ? widen_run(KS_BF16, true, from, from_step, to, to_step, count)
               : widen_run(KS_BF16, false, from, from_step, to, to_step, count);
        break;
    default:
        narrow ? widen_run(KS_F32, true, from, from_step, to, to_step, count)
               : widen_run(KS_F32, false, from, from_step, to, to_step, count);
        break;
    }
}

/* Part of an array of `all` rows per super-block: of block (i, l), samples n0.. and rows r0... */
typedef struct part {
    const char *array;
    int64_t all, i, l, n0, n, r0, rows;
} part;

/* The part, to where its samples are n_step and its rows r_step apart. */
static void pack(const grad_job *job, part t, void *to, int64_t n_step, int64_t r_step)
{
    const ks_problem *p = job->problem;
    const size_t size = ks_type_bytes(p->type), wide = job->narrow ? sizeof(float) : sizeof(double);
    if (p->layout == KS_BATCH_FIRST) {
        for (int64_t n = 0; n < t.n; n++) {
            const int64_t at = (((t.n0 + n) * p->a + t.i) * t.all + t.r0) * p->d + t.l;
            widen(p->type, job->narrow, t.array + (size_t)at * size, p->d, (char *)to + (size_t)(n * n_step) * wide,
                  r_step, t.rows);
        }
    } else {
        for (int64_t r = 0; r < t.rows; r++) {
            const int64_t at = ((t.i * t.all + t.r0 + r) * p->d + t.l) * p->batch + t.n0;
            widen(p->type, job->narrow, t.array + (size_t)at * size, 1, (char *)to + (size_t)(r * r_step) * wide,
                  n_step, t.n);
        }
    }
}

/* sums (rows x columns) = A (rows x depth) B (depth x columns), or += it. */
static void multiply(const grad_job *job, bool add, int64_t rows, int64_t columns, int64_t depth, const void *a,
                     const void *b, void *sums)
{
    if (job->narrow) {
        ks_blas_sgemm(add, false, rows, columns, depth, a, depth, b, columns, sums, columns);
        return;
    }
    if (job->blas) {
        ks_blas_dgemm(add, false, rows, columns, depth, a, depth, b, columns, sums, columns);
        return;
    }
    double *c = sums;
    const double *left = a, *right = b;
    for (int64_t q = 0; !add && q < rows * columns; q++) c[q] = 0;
    for (int64_t j = 0; j < rows; j++)
        for (int64_t n = 0; n < depth; n++)
            for (int64_t k = 0; k < columns; k++) c[j * columns + k] += left[j * depth + n] * right[n * columns + k];
}

static void store(ks_type type, const grad_job *job, const void *sums, int64_t at, char *to)
{
    const double value = job->narrow ? (double)((const float *)sums)[at] : ((const double *)sums)[at];
    const float single = (float)value;
    const uint16_t half = type == KS_F16 ? ks_f32_to_f16(single) : ks_f32_to_bf16(single);
    if (type == KS_F64)
        memcpy(to, &value, sizeof value);
    else if (type == KS_F32)
        memcpy(to, &single, sizeof single);
    else
        memcpy(to, &half, sizeof half);
}

static void grad_task(void *arg, int64_t index, int thread)
{
    const grad_job *job = arg;
    const ks_problem *p = job->problem;
    const size_t size = ks_type_bytes(p->type);
    double *scratch = (double *)job->args->workspace + (size_t)thread * scratch_count();
    double *left = scratch, *right = left + (size_t)N_MOST * J_MOST, *sums = right + (size_t)N_MOST * K_MOST;
    const int64_t k0 = index % job->k_tiles * job->k_tile, j0 = index / job->k_tiles % job->j_tiles * job->j_tile;
    const int64_t block = index / job->k_tiles / job->j_tiles, i = block / p->d, l = block % p->d;
    const int64_t rows = ks_min(job->j_tile, p->b - j0), columns = ks_min(job->k_tile, p->c - k0);
    for (int64_t n0 = 0; n0 < p->batch; n0 += N_MOST) {
        const int64_t n = ks_min(N_MOST, p->batch - n0);
        pack(job, (part){job->args->dy, p->b, i, l, n0, n, j0, rows}, left, 1, n);
        pack(job, (part){job->args->x, p->c, i, l, n0, n, k0, columns}, right, columns, 1);
        multiply(job, n0 > 0, rows, columns, n, left, right, sums);
    }
    for (int64_t j = 0; j < rows; j++)
        for (int64_t k = 0; k < columns; k++) {
            char *to = (char *)job->args->dk + (size_t)((block * p->b + j0 + j) * p->c + k0 + k) * size;
            store(p->type, job, sums, j * columns + k, to);
        }
}

ks_status ks_cpu_grad_weights(const ks_problem *p, const ks_grad_args *args)
{
    grad_job job = {.problem = p, .args = args, .blas = ks_blas_available()};
    job.narrow = job.blas && p->type != KS_F64;
    cut(&job);
    if (job.blas) ks_blas_begin();
    ks_pool_run(p->a * p->d * job.j_tiles * job.k_tiles, ks_cpu_alone_s(p), grad_task, &job);
    if (job.blas) ks_blas_end();
    return KS_OK;
}

/* ---- transposition --------------------------------------------------------------------------------------------- */

enum { SQUARE = 32 };

typedef struct transpose_job {
    size_t size;
    int64_t rows, columns, row_tiles;
    const char *from;
    char *to;
} transpose_job;

/* size is a constant where inlined. */
static inline __attribute__((always_inline)) void transpose_rows(size_t size, const transpose_job *g,
                                                                 const char *from, char *to, int64_t r0, int64_t rows)
{
    for (int64_t c0 = 0; c0 < g->columns; c0 += SQUARE)
        for (int64_t c = c0; c < ks_min(c0 + SQUARE, g->columns); c++)
            for (int64_t r = r0; r < r0 + rows; r++)
                memcpy(to + (size_t)(c * g->rows + r) * size, from + (size_t)(r * g->columns + c) * size, size);
}

static void transpose_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const transpose_job *g = arg;
    const int64_t matrix = index / g->row_tiles, r0 = index % g->row_tiles * SQUARE;
    const int64_t rows = ks_min(SQUARE, g->rows - r0);
    const size_t at = (size_t)(matrix * g->rows * g->columns) * g->size;
    if (g->size == 2)
        transpose_rows(2, g, g->from + at, g->to + at, r0, rows);
    else if (g->size == 4)
        transpose_rows(4, g, g->from + at, g->to + at, r0, rows);
    else
        transpose_rows(8, g, g->from + at, g->to + at, r0, rows);
}

ks_status ks_cpu_transpose(const ks_device *device, ks_type type, int64_t count, int64_t rows, int64_t columns,
                           const void *from, void *to, void *stream)
{
    const double element_s = 0.2e-9;
    (void)device, (void)stream;
    transpose_job job = {ks_type_bytes(type), rows, columns, ks_ceil_div(rows, SQUARE), from, to};
    ks_pool_run(count * job.row_tiles, element_s * (double)count * (double)rows * (double)columns, transpose_task,
                &job);
    return KS_OK;
}
