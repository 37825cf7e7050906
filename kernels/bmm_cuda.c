/* bmm.cuda.strided and bmm.cuda.permute: one GEMM for each of the a*d blocks, by cuBLAS.
 *
 * strided multiplies on the arrays as they lie. In batch-last each block's X is a matrix of leading dimension d*batch, for
 * every pattern; in batch-first that needs d = 1, since a GEMM's matrices must be contiguous along one side. permute is
 * the paper's baseline: bring each block together, multiply, spread Y out again, three passes over memory; where there is
 * nothing to bring together it declines, because it would be strided.
 *
 * A strided-batched call walks the blocks at one step, and the blocks of a batch-last array lie at two: c*d*batch from one
 * i to the next and batch from one l to the next. So the calls are repeated over the smaller of a and d, unless that
 * makes many small launches: then one call takes arrays of pointers, written by a launch of their own. Such a call cannot
 * look at its pointers before it picks a kernel, hence their use only where all are aligned to 16 bytes.
 *
 * Left out: cuBLASLt, whose strided layouts have one batch step as well; and permute in pieces of the batch that stay in L2
 * from one launch to the next: with pieces of 12 to 32 MB it took 1.3 to 2 times as long on an H100 in one stream, and still
 * 1.05 to 1.5 times over 2 to 6 streams side by side. */
#include "cublas.h"
#include "cuda_device.h"
#include "permute.h"
#include "rows.h"
#include "sizes.h"

#include <math.h>

/* A launch is about 3 us of a stream's time when it follows another closely, and as much memory as 3 us move is what a
 * call must have to do for its launch to vanish behind its neighbours. */
enum { LOOP_MOST = 4, POINTERS_MOST = 1 << 20, POINTER_ALIGNMENT = 16, PIECE = 1 << 24 };
static const double LOOP_BYTES = 8e6;

/* How the blocks lie: block (i, l) starts at i * i_step + l * l_step; its rows are ld apart. In elements. */
typedef struct view {
    int64_t i_step, l_step, ld;
} view;

/* The leading dimension of a matrix of one row does not matter, and may be past what 32 bits count. */
static int64_t row_step(int64_t rows, int64_t columns, int64_t ld)
{
    return rows == 1 ? columns : ld;
}

static size_t round_up(size_t bytes)
{
    return (bytes + KS_CUBLAS_ALIGNMENT - 1) / KS_CUBLAS_ALIGNMENT * KS_CUBLAS_ALIGNMENT;
}

/* A device known by its measurements alone has the cuBLAS that those were made with. */
static bool has_cublas(const ks_device *device)
{
    return device->backend == KS_CUDA && (device->blas[0] || ks_cublas_available());
}

/* What reaches tensor cores in 2-byte types: rows of whole pieces of 16 bytes, or so much less as `row` and `other` elements leave. */
static double pieces_for_one(const ks_problem *p, int64_t row, int64_t other)
{
    enum { PIECE_BYTES = 16 };
    const int64_t size = (int64_t)ks_type_bytes(p->type), bytes = (row | other | PIECE_BYTES) * size;
    return size == 2 ? (double)PIECE_BYTES / (double)ks_min(bytes & -bytes, PIECE_BYTES) : 1;
}

/* cuBLAS's time by tiles: all units work as long as the one with most tiles. It has tiles of many shapes, smaller ones with
 * more reads a product, other kernels for vectors, and splits long sums where there are fewer tiles than units, though not those of
 * several matrices: taken is what needs fewest flops. What tiles read in smaller pieces than 16 bytes is beside that. */
static void gemm_cost(const ks_problem *p, const ks_device *device, int64_t calls, double pieces,
                      double terms[KS_NTERMS])
{
    enum { LEAST_TILE = 32, MOST_TILE = 128, LEAST_SUM = 128 };
    const double units = device->units > 0 ? device->units : 1, depth = (double)ks_ceil_div(p->c, 16) * 16;
    const double products = (double)p->a * (double)p->d / (double)calls; /* of a call */
    const bool whole = products > 1 && p->b > 1 && p->batch > 1;
    const double most_splits = whole ? 1 : fmax(1, floor(depth / LEAST_SUM));
    terms[KS_TERM_FLOPS] = INFINITY;
    for (int64_t j = p->b == 1 ? 1 : LEAST_TILE; j <= MOST_TILE; j *= 2)
        for (int64_t n = p->batch == 1 ? 1 : LEAST_TILE; n <= MOST_TILE; n *= 2) {
            const double tiles = products * (double)ks_ceil_div(p->b, j) * (double)ks_ceil_div(p->batch, n);
            const double splits = fmin(fmax(1, floor(units / tiles)), most_splits);
            const double waves = ceil(tiles * splits / units) * (double)calls,
                         reads = LEAST_TILE / (double)j + LEAST_TILE / (double)n;
            const double flops = 2 * waves * units * (double)(j * n) * depth / splits * (1 + reads) / 1.5;
            if (flops >= terms[KS_TERM_FLOPS]) continue;
            terms[KS_TERM_FLOPS] = flops;
            terms[KS_TERM_SHUFFLE] = (pieces - 1) * waves * units * (double)(j + n) * depth / splits;
            terms[KS_TERM_CALLS] = waves;
        }
    terms[KS_TERM_BYTES] = ks_problem_bytes(p);
}

/* The product on views, everything else decided. The batch and the count of blocks go in pieces far above any wave and
 * below what 32-bit kernels reach, so that of the usual sizes only leading dimensions and steps are ever longer. */
typedef struct job {
    const ks_device *device;
    const ks_problem *problem;
    void *handle, *stream;
    const char *x, *k;
    char *y;
    view xv, yv;
    bool sample_rows;      /* a block's rows are samples (n x c), else it is (c x n) */
    const void **pointers; /* 3 * a * d of them, or NULL: not that way */
} job;

static ks_status multiply_pointers(const job *g, ks_cublas_gemm *gemm, const char *x, char *y)
{
    const ks_problem *p = g->problem;
    const int64_t size = (int64_t)ks_type_bytes(p->type), blocks = p->a * p->d, k = p->b * p->c * size;
    const void **xs = g->pointers, **ks = xs + blocks, **ys = ks + blocks;
    const ks_block_view views[3] = {{x, g->xv.i_step * size, g->xv.l_step * size},
                                    {g->k, p->d * k, k},
                                    {y, g->yv.i_step * size, g->yv.l_step * size}};
    ks_status s = ks_block_pointers(g->device, views, p->a, p->d, g->pointers, g->stream);
    if (s != KS_OK) return s;
    gemm->count = blocks;
    return ks_cublas_pointers(g->handle, gemm, g->sample_rows ? xs : ks, g->sample_rows ? ks : xs, (void *const *)ys);
}

static ks_status multiply_strided(const job *g, ks_cublas_gemm *gemm, const char *x, char *y)
{
    const ks_problem *p = g->problem;
    const size_t size = ks_type_bytes(p->type);
    const int64_t k_step = p->b * p->c;
    /* One step for all blocks where the arrays allow it, else one over the larger of a and d in each of `calls` calls. */
    const bool all =
        p->a == 1 || p->d == 1 || (g->xv.i_step == p->d * g->xv.l_step && g->yv.i_step == p->d * g->yv.l_step);
    const bool along_l = p->d > 1 && (all || p->d >= p->a);
    const int64_t calls = all ? 1 : ks_min(p->a, p->d), x_step = along_l ? g->xv.l_step : g->xv.i_step,
                  y_step = along_l ? g->yv.l_step : g->yv.i_step, kk_step = along_l ? k_step : p->d * k_step;
    const int64_t count = p->a * p->d / calls;
    gemm->a_step = g->sample_rows ? x_step : kk_step;
    gemm->b_step = g->sample_rows ? kk_step : x_step;
    gemm->c_step = y_step;
    for (int64_t call = 0; call < calls; call++)
        for (int64_t done = 0; done < count; done += PIECE) {
            const int64_t at = along_l ? p->d * k_step : k_step;
            const char *xc = x + (size_t)(call * (along_l ? g->xv.i_step : g->xv.l_step) + done * x_step) * size;
            const char *kc = g->k + (size_t)(call * at + done * kk_step) * size;
            char *yc = y + (size_t)(call * (along_l ? g->yv.i_step : g->yv.l_step) + done * y_step) * size;
            gemm->count = ks_min(count - done, PIECE);
            const ks_status s =
                ks_cublas_strided(g->handle, gemm, g->sample_rows ? xc : kc, g->sample_rows ? kc : xc, yc);
            if (s != KS_OK) return s;
        }
    return KS_OK;
}

static ks_status multiply(const job *g)
{
    const ks_problem *p = g->problem;
    const size_t size = ks_type_bytes(p->type);
    for (int64_t n0 = 0; n0 < p->batch; n0 += PIECE) {
        const int64_t n = ks_min(p->batch - n0, PIECE);
        ks_cublas_gemm gemm = {.type = p->type, .math = p->math, .bt = g->sample_rows, .k = p->c};
        gemm.m = g->sample_rows ? n : p->b, gemm.n = g->sample_rows ? p->b : n;
        gemm.lda = row_step(gemm.m, p->c, g->sample_rows ? g->xv.ld : p->c);
        gemm.ldb = g->sample_rows ? p->c : row_step(p->c, gemm.n, g->xv.ld);
        gemm.ldc = row_step(gemm.m, gemm.n, g->yv.ld);
        const char *x = g->x + (size_t)(g->sample_rows ? n0 * g->xv.ld : n0) * size;
        char *y = g->y + (size_t)(g->sample_rows ? n0 * g->yv.ld : n0) * size;
        const ks_status s = g->pointers ? multiply_pointers(g, &gemm, x, y) : multiply_strided(g, &gemm, x, y);
        if (s != KS_OK) return s;
    }
    return KS_OK;
}

/* ---- bmm.cuda.strided ----------------------------------------------------------------------------------------- */

static bool strided_supports(const ks_problem *p, const ks_device *device)
{
    return has_cublas(device) && (p->layout == KS_BATCH_LAST || p->d == 1);
}

/* How many calls it takes without pointers, and whether pointers are the better way. */
static int64_t strided_calls(const ks_problem *p)
{
    return p->layout == KS_BATCH_LAST ? ks_min(p->a, p->d) : 1;
}

static bool wants_pointers(const ks_problem *p)
{
    const int64_t size = (int64_t)ks_type_bytes(p->type), calls = strided_calls(p);
    return calls > LOOP_MOST && ks_problem_bytes(p) / (double)calls < LOOP_BYTES &&
           (double)p->a * (double)p->d <= POINTERS_MOST && p->batch * size % POINTER_ALIGNMENT == 0 &&
           p->b * p->c * size % POINTER_ALIGNMENT == 0;
}

/* Workspace: the margin that takes 64-byte alignment to cuBLAS's, cuBLAS's own, the pointers. */
static size_t strided_workspace(const ks_problem *p, const ks_device *device)
{
    const size_t pointers = wants_pointers(p) ? 3 * (size_t)(p->a * p->d) * sizeof(void *) : 0;
    return KS_CUBLAS_ALIGNMENT + ks_cublas_workspace_bytes(device) + pointers;
}

static void strided_cost(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const bool pointers = wants_pointers(p), first = p->layout == KS_BATCH_FIRST;
    const double pieces = pieces_for_one(p, p->c, first ? p->a * p->b : p->batch);
    gemm_cost(p, device, pointers ? 1 : strided_calls(p), pieces, terms);
    terms[KS_TERM_LAUNCH] = pointers ? 2 : (double)strided_calls(p);
}

static ks_status strided_run(const ks_problem *p, const ks_run_args *args)
{
    int previous;
    ks_status s = ks_cuda_aligned(p, args);
    if (s == KS_OK) s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    char *own = (char *)round_up((uintptr_t)args->workspace);
    job g = {.device = args->device,
             .problem = p,
             .stream = args->stream,
             .x = args->x,
             .k = args->k,
             .y = args->y,
             .sample_rows = p->layout == KS_BATCH_FIRST};
    if (g.sample_rows) {
        g.xv = (view){p->c, 0, p->a * p->c};
        g.yv = (view){p->b, 0, p->a * p->b};
    } else {
        g.xv = (view){p->c * p->d * p->batch, p->batch, p->d * p->batch};
        g.yv = (view){p->b * p->d * p->batch, p->batch, p->d * p->batch};
    }
    if (wants_pointers(p) && ((uintptr_t)g.x | (uintptr_t)g.k | (uintptr_t)g.y) % POINTER_ALIGNMENT == 0)
        g.pointers = (const void **)(own + ks_cublas_workspace_bytes(args->device));
    s = ks_cublas_begin(args->device, args->stream, own, &g.handle);
    if (s == KS_OK) s = multiply(&g);
    ks_cublas_end(args->device, g.handle);
    ks_cuda_leave(previous);
    return s;
}

/* ---- bmm.cuda.permute ----------------------------------------------------------------------------------------- */

static bool permute_supports(const ks_problem *p, const ks_device *device)
{
    const int64_t limit = INT64_MAX / 32;
    const bool moves = p->d > 1 || (p->layout == KS_BATCH_FIRST && p->a > 1);
    return has_cublas(device) && moves && ks_x_count(p) < limit && ks_y_count(p) < limit;
}

/* Workspace: as above, then X's blocks and Y's blocks. */
static size_t permute_workspace(const ks_problem *p, const ks_device *device)
{
    const size_t size = ks_type_bytes(p->type);
    return KS_CUBLAS_ALIGNMENT + ks_cublas_workspace_bytes(device) + round_up((size_t)ks_x_count(p) * size) +
           round_up((size_t)ks_y_count(p) * size);
}

static void permute_cost(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const double elements = (double)ks_x_count(p) + (double)ks_y_count(p);
    const bool first = p->layout == KS_BATCH_FIRST;
    gemm_cost(p, device, 1, pieces_for_one(p, p->c, first ? p->b : p->batch), terms);
    terms[KS_TERM_LAUNCH] = 3;
    terms[KS_TERM_BYTES] += 2 * elements * (double)ks_type_bytes(p->type);
    if (first) terms[KS_TERM_SHUFFLE] += elements; /* whole rows are not rearranged on chip */
}

static ks_status permute_run(const ks_problem *p, const ks_run_args *args)
{
    int previous;
    ks_status s = ks_cuda_aligned(p, args);
    if (s == KS_OK) s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    const bool first = p->layout == KS_BATCH_FIRST;
    char *own = (char *)round_up((uintptr_t)args->workspace), *x = own + ks_cublas_workspace_bytes(args->device),
         *y = x + round_up((size_t)ks_x_count(p) * ks_type_bytes(p->type));
    job g = {.device = args->device, .problem = p, .x = x, .k = args->k, .y = y, .sample_rows = first};
    g.xv = (view){p->d * p->c * p->batch, p->c * p->batch, first ? p->c : p->batch};
    g.yv = (view){p->d * p->b * p->batch, p->b * p->batch, first ? p->b : p->batch};
    s = ks_cublas_begin(args->device, args->stream, own, &g.handle);
    if (s == KS_OK)
        s = (first ? ks_permute_first : ks_permute_last)(args->device, p, true, p->c, args->x, x, args->stream);
    if (s == KS_OK) s = multiply(&g);
    if (s == KS_OK)
        s = (first ? ks_permute_first : ks_permute_last)(args->device, p, false, p->b, y, args->y, args->stream);
    ks_cublas_end(args->device, g.handle);
    ks_cuda_leave(previous);
    return s;
}

const ks_kernel ks_bmm_cuda_permute = {"bmm.cuda.permute", KS_BMM,       KS_CUDA,    2, permute_supports,
                                       permute_workspace,  permute_cost, permute_run};
const ks_kernel ks_bmm_cuda_strided = {"bmm.cuda.strided", KS_BMM,       KS_CUDA,    2, strided_supports,
                                       strided_workspace,  strided_cost, strided_run};
