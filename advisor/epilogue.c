/* Epilogues: what may be asked, and a kernel's run with what follows it.
 *
 * Where y is to be added to, the product goes to workspace first: every kernel writes all of its y, and some write parts of it
 * twice. */
#include "backend.h"
#include "context.h"
#include "error.h"
#include "sizes.h"

enum { ALIGNMENT = 256 };

bool ks_epilogue_is_plain(const ks_epilogue *e)
{
    return !e || (e->alpha == 1 && e->beta == 0 && !e->bias && e->activation == KS_NO_ACTIVATION);
}

ks_status ks_epilogue_check(const ks_context *ctx, const ks_problem *p, const ks_epilogue *e, const void *y,
                            bool first_use)
{
    const int64_t size = (int64_t)ks_type_bytes(p->type), features = p->a * p->b * p->d;
    const uintptr_t grain = ctx->device.backend == KS_CPU ? 1 : (uintptr_t)size; /* a GPU reads whole elements */
    if ((unsigned)e->activation >= KS_NACTIVATIONS)
        return ks_fail(KS_ERR_ARGUMENT, "activation is %d, valid: 0 to %d", (int)e->activation, KS_NACTIVATIONS - 1);
    if (e->alpha == 0) return ks_fail(KS_ERR_ARGUMENT, "alpha is 0; it is 1 for the product itself");
    if ((uintptr_t)y % grain != 0 || (uintptr_t)e->bias % grain != 0)
        return ks_fail(KS_ERR_ARGUMENT, "y (%p) or bias (%p) is not aligned to its elements of %d bytes", y, e->bias,
                       (int)size);
    if (!e->bias) return KS_OK;
    if (ks_overlap(y, size * ks_y_count(p), e->bias, size * features))
        return ks_fail(KS_ERR_ARGUMENT, "y (%p) overlaps bias (%p)", y, e->bias);
    return first_use ? ks_context_reaches(ctx, e->bias, features, p->type, "bias") : KS_OK;
}

ks_status ks_context_run_with(ks_context *ctx, const ks_problem *p, const ks_kernel *kernel, const ks_run_args *args)
{
    const bool apart = args->epilogue->beta != 0, finishes = !apart && ks_kernel_finishes(kernel);
    const size_t own = (size_t)ks_round_up((int64_t)kernel->workspace_bytes(p, &ctx->device), ALIGNMENT);
    const size_t product = apart ? (size_t)ks_y_count(p) * ks_type_bytes(p->type) : 0;
    ks_run_args now = *args;
    ks_status s = ks_context_take(ctx, kernel->name, own + product, args->stream, &now.workspace);
    if (s != KS_OK) return s;
    if (apart) now.y = (char *)now.workspace + own;
    if (!finishes) now.epilogue = NULL;
    s = kernel->run(p, &now);
    if (s == KS_OK && !finishes) {
        const ks_finish_args finish = {&ctx->device, args->epilogue, now.y, args->y, args->stream};
        s = ks_backend_find(ctx->device.backend)->finish(p, &finish);
    }
    return ks_context_give(ctx, now.workspace, args->stream, s);
}
