/* Gradients of weights, and transposition, on CUDA: cuBLAS on the arrays as they lie, or on blocks brought together first.
 *
 * Each of the a*d blocks of dK is a product of dY's block (b x batch) and X's (batch x c). In batch-last, and in batch-first
 * where d = 1, both are matrices as they lie, of a long leading dimension; else permute_cuda.cu brings them together as for
 * bmm.cuda.permute. A strided-batched call walks the blocks at one step, so in batch-last there are as many calls as the
 * smaller of a and d. cuBLAS cuts the sum over the batch among multiprocessors in single products only, so few blocks go one by
 * one. */
#include "grad.h"
#include "cublas.h"
#include "cuda_device.h"
#include "error.h"
#include "permute.h"
#include "sizes.h"

/* PIECE of the batch, and of the count of products: far above any wave, below what 32 bits reach. */
enum { PIECE = 1 << 24, ONE_BY_ONE_MOST = 4 };

/* How the blocks of an array lie: block (i, l) begins at i * i_step + l * l_step, its rows or samples are ld apart; and the
 * step from one piece of the batch to the next is n_step a sample. */
typedef struct view {
    const char *array;
    int64_t i_step, l_step, ld, n_step;
} view;

static size_t round_up(size_t bytes)
{
    return (bytes + KS_CUBLAS_ALIGNMENT - 1) / KS_CUBLAS_ALIGNMENT * KS_CUBLAS_ALIGNMENT;
}

static bool permutes(const ks_problem *p)
{
    return p->layout == KS_BATCH_FIRST && p->d > 1;
}

size_t ks_cuda_grad_bytes(const ks_problem *p, const ks_device *device)
{
    const size_t size = ks_type_bytes(p->type);
    const size_t blocks =
        permutes(p) ? round_up((size_t)ks_x_count(p) * size) + round_up((size_t)ks_y_count(p) * size) : 0;
    return KS_CUBLAS_ALIGNMENT + ks_cublas_workspace_bytes(device) + blocks;
}

static view view_of(const ks_problem *p, const void *array, int64_t rows)
{
    if (permutes(p)) return (view){array, p->d * p->batch * rows, p->batch * rows, rows, rows};
    if (p->layout == KS_BATCH_FIRST) return (view){array, rows, 0, p->a * rows, p->a * rows};
    return (view){array, rows * p->d * p->batch, p->batch, p->d * p->batch, 1};
}

/* All blocks, for samples n0 to n0 + n. */
static ks_status multiply(const ks_problem *p, void *handle, const view *x, const view *dy, char *dk, int64_t n0,
                          int64_t n)
{
    const int64_t size = (int64_t)ks_type_bytes(p->type), block = p->b * p->c;
    const bool samples_are_rows = p->layout == KS_BATCH_FIRST;
    const bool one_step = p->a == 1 || p->d == 1 || permutes(p);
    const bool along_l = p->d > 1 && (one_step || p->d >= p->a);
    const int64_t calls = one_step ? 1 : ks_min(p->a, p->d), count = p->a * p->d / calls;
    const int64_t piece = p->a * p->d <= ONE_BY_ONE_MOST ? 1 : PIECE;
    ks_cublas_gemm gemm = {.type = p->type,
                           .math = p->math,
                           .at = samples_are_rows,
                           .bt = !samples_are_rows,
                           .add = n0 > 0,
                           .m = p->b,
                           .n = p->c,
                           .k = n,
                           .lda = dy->ld,
                           .ldb = x->ld,
                           .ldc = p->c};
    gemm.a_step = along_l ? dy->l_step : dy->i_step;
    gemm.b_step = along_l ? x->l_step : x->i_step;
    gemm.c_step = along_l ? block : p->d * block;
    for (int64_t call = 0; call < calls; call++)
        for (int64_t done = 0; done < count; done += piece) {
            const int64_t dy_at = call * (along_l ? dy->i_step : dy->l_step) + done * gemm.a_step + n0 * dy->n_step;
            const int64_t x_at = call * (along_l ? x->i_step : x->l_step) + done * gemm.b_step + n0 * x->n_step;
            const int64_t dk_at = call * (along_l ? p->d * block : block) + done * gemm.c_step;
            gemm.count = ks_min(count - done, piece);
            const ks_status s =
                ks_cublas_strided(handle, &gemm, dy->array + dy_at * size, x->array + x_at * size, dk + dk_at * size);
            if (s != KS_OK) return s;
        }
    return KS_OK;
}

ks_status ks_cuda_grad_weights(const ks_problem *p, const ks_grad_args *args)
{
    int previous;
    void *handle = NULL;
    ks_status s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    char *own = (char *)round_up((uintptr_t)args->workspace);
    view x = view_of(p, args->x, p->c), dy = view_of(p, args->dy, p->b);
    s = ks_cublas_begin(args->device, args->stream, own, &handle);
    if (s == KS_OK && permutes(p)) {
        char *x_blocks = own + ks_cublas_workspace_bytes(args->device);
        char *dy_blocks = x_blocks + round_up((size_t)ks_x_count(p) * ks_type_bytes(p->type));
        x.array = x_blocks, dy.array = dy_blocks;
        s = ks_permute_first(args->device, p, true, p->c, args->x, x_blocks, args->stream);
        if (s == KS_OK) s = ks_permute_first(args->device, p, true, p->b, args->dy, dy_blocks, args->stream);
    }
    for (int64_t n0 = 0; s == KS_OK && n0 < p->batch; n0 += PIECE)
        s = multiply(p, handle, &x, &dy, args->dk, n0, ks_min(PIECE, p->batch - n0));
    ks_cublas_end(args->device, handle);
    ks_cuda_leave(previous);
    return s;
}

/* A matrix of a sample each is what the permutation calls batch-first with one row a block: (n, l) to (l, n). Several are
 * one sample of as many super-blocks: (i, row, l) to (i, l, row). */
ks_status ks_cuda_transpose(const ks_device *device, ks_type type, int64_t count, int64_t rows, int64_t columns,
                            const void *from, void *to, void *stream)
{
    const bool one = count == 1;
    if (((uintptr_t)from | (uintptr_t)to) % ks_type_bytes(type))
        return ks_fail(KS_ERR_ARGUMENT, "%p or %p is not aligned to its elements of %zu bytes", from, to,
                       ks_type_bytes(type));
    const ks_problem p = {.a = count, .b = 1, .c = 1, .d = columns, .batch = one ? rows : 1, .type = type};
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    s = ks_permute_first(device, &p, true, one ? 1 : rows, from, to, stream);
    ks_cuda_leave(previous);
    return s;
}
