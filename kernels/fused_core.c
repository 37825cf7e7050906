/* The core of fused.cpu: pack a tile of X, multiply it in registers, write the tile of Y. (That of fused.cpu.rows, whose lanes
 * run otherwise, is in fused_rows_task.h.)
 *
 * One idea serves every layout and type: the batch runs along the vector lanes. A tile of X is packed once into cache
 * as [block][k][sample] in the type of the sums; then the register tile multiplies a run of rows of K, broadcast value
 * by value straight from their b x c block (block order needs no packing), with vectors of samples. Batch-last data
 * already runs along the samples: it is read and written where it lies, and copied only where its type or its place in the
 * cache asks for it. Batch-first data is transposed in registers, vector by vector, on the way in and on the way out;
 * memory works behind the arithmetic by fetching ahead. The layout, d, and the element type exist only in pack and
 * unpack; the register tile is one function.
 *
 * Considered and not built: vectors along l alone, for d >= lanes (X comes by whole lines for every k: tried, slower);
 * copying K into panels (K's rows are short and re-read from L1 and L2 anyway).
 *
 * Compiled once per instruction set (the vector's width follows the compiler's target) and, with KS_CORE_F64, once more
 * for float64 sums. Vectors are the compilers' vector extension; only transposes and half conversions name intrinsics. */
#include "fused_core.h"
#include "fused_dot.h"
#include "fused_finish.h"
#include "fused_pack.h"
#include "fused_rows_task.h"
#include "fused_tile.h"

/* ---- one task ------------------------------------------------------------------------------------------------ */

/* A slice of rows of K in the type of the sums, KS_FUSED_SLICE apart. */
INLINE void widen_slice(ks_type type, const char *from, size_t row_bytes, int height, int64_t slice, size_t size,
                        bool cold, real *to)
{
    for (int h = 0; h < height; h++, from += row_bytes, to += KS_FUSED_SLICE)
        for (int64_t q = 0; q < slice; q += LANES) {
            const size_t at = (size_t)q * size;
            if (cold && at % LINE == 0) __builtin_prefetch(from + at + K_AHEAD_BYTES);
            *(vec *)(to + q) = widen(type, from + at, slice - q);
        }
}

/* Rows [j, j + rows) of one block times one tile of the packed slab of X: [rows][stride] of the output tile. */
INLINE void multiply(ks_type type, const piece *t, const char *k_block, int64_t j, int64_t rows, int64_t k0,
                     int64_t count, const real *x, int64_t ldx, const target *all, real *widened, bool cold_k,
                     ahead *x_ahead, ahead *y_ahead)
{
    const int vecs = (int)(t->stride / LANES);
    const int64_t c = t->p->c;
    const size_t row_bytes = (size_t)c * t->size;
    const bool in_place = t->size == sizeof(real) && (uintptr_t)k_block % sizeof(real) == 0;
    /* Slices keep X in L1; but a K that comes from memory should come by rows as long as can be. */
    const int64_t most = cold_k && in_place ? count : KS_FUSED_SLICE;
    const bool streams = cold_k && count == c && are_streams(ROWS, rows, row_bytes);
    for (int64_t s = 0; s < count; s += most) {
        const int64_t slice = count - s < most ? count - s : most;
        const bool last = k0 + s + slice == c;
        for (int64_t done = 0; done < rows; done += ROWS) {
            const choice r = next_rows(ROWS, done, rows, streams);
            const char *from = k_block + (size_t)(j + r.at) * row_bytes + (size_t)(k0 + s) * t->size;
            const real *k = (const real *)(const void *)from;
            int64_t ldk = r.apart * c;
            if (!in_place) {
                widen_slice(type, from, (size_t)r.apart * row_bytes, r.height, slice, t->size, cold_k, widened);
                k = widened, ldk = KS_FUSED_SLICE;
            }
            const stretch y_next = ahead_next(y_ahead), x_next = ahead_next(x_ahead);
            const target here = {.c = all->c + r.at * all->ldc,
                                 .ldc = r.apart * all->ldc,
                                 .add = k0 + s > 0,
                                 .to = last && all->to ? all->to + r.at * all->ld_to : NULL,
                                 .ld_to = r.apart * all->ld_to,
                                 .stream = last && all->stream,
                                 .cold_k = cold_k && in_place,
                                 .k_after = r.apart > 1 ? 0 : (ROWS - 1) * c};
            tiles[r.height - 1][vecs - 1](k, ldk, x + s * ldx, ldx, slice, &here, y_next, x_next);
        }
    }
}

/* The epilogue on rows [j0, j0 + rows) of all blocks, still in cache and in the type of the sums. No part of task_of: there
 * it would stand once for each type and layout. */
static __attribute__((noinline)) void finish_tile(const ks_epilogue *e, const piece *t, int64_t j0, int64_t rows,
                                                  real *y_tile)
{
    const ks_problem *p = t->p;
    const int64_t blocks = t->ig * t->lg;
    for (int64_t n = 0; n < t->n; n += t->stride)
        for (int64_t g = 0; g < blocks; g++)
            for (int64_t r = 0; r < rows; r++, y_tile += t->stride) {
                const int64_t feature = ((t->i0 + g / t->lg) * p->b + j0 + r) * p->d + t->l0 + g % t->lg;
                const char *bias = e->bias ? (const char *)e->bias + (size_t)feature * t->size : NULL;
                const vec all = splat(bias ? widen_one(p->type, bias) : 0);
                for (int64_t v = 0; v < t->stride && n + v < t->n; v += LANES)
                    *(vec *)(y_tile + v) = finished(e, *(vec *)(y_tile + v), all);
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
        const int64_t direct_y = plan->direct_y && layout == KS_BATCH_LAST ? t.n / t.stride * t.stride : 0;
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
                        target to = {.c = y_tile + (n * blocks + g) * rows * t.stride, .ldc = t.stride};
                        if ((n + 1) * t.stride <= direct_y) {
                            const int64_t row = ((t.i0 + g / t.lg) * p->b + j0) * p->d + t.l0 + g % t.lg;
                            to.ld_to = p->d * p->batch, to.stream = plan->stream;
                            to.to = (real *)job->y + row * p->batch + t.n0 + n * t.stride;
                        }
                        multiply(type, &t, k_block, j0, rows, k0, count, x, ldx, &to, widened, plan->cold_k, &x_ahead,
                                 &y_ahead);
                    }
                }
            }
            if (job->epilogue) finish_tile(job->epilogue, &t, j0, rows, y_tile);
            if (layout == KS_BATCH_FIRST)
                unpack_first(type, &t, job->y, j0, rows, y_tile);
            else
                unpack_last(type, &t, job->y, j0, rows, direct_y, y_tile);
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

static void rows_task(void *arg, int64_t index, int thread)
{
    const ks_rows_job *job = arg;
    switch (job->problem->type) {
#ifdef KS_CORE_F64
    default:
        rows_task_of(KS_F64, job, index, thread);
        break;
#else
    case KS_F16:
        rows_task_of(KS_F16, job, index, thread);
        break;
    case KS_BF16:
        rows_task_of(KS_BF16, job, index, thread);
        break;
    default:
        rows_task_of(KS_F32, job, index, thread);
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
const ks_fused_core NAME2(ISA, _f64) = {TEXT(ISA), LANES, ROWS, task, rows_task, copy, finish};
#else
const ks_fused_core NAME2(ISA, ) = {TEXT(ISA), LANES, ROWS, task, rows_task, copy, finish};
#endif
