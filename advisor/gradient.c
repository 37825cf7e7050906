/* Gradients. That of X is the product by the transposed weights: a problem of its own, with b and c exchanged, which goes
 * through the same choice. That of the weights is the backend's. */
#include "backend.h"
#include "context.h"
#include "error.h"

static ks_status check_context(const ks_context *ctx)
{
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    if (ctx->here) return KS_OK;
    return ks_fail(KS_ERR_DEVICE, "device \"%s\" is known by its measurements only; it cannot multiply here",
                   ctx->device.name);
}

ks_status ks_grad_input(ks_context *ctx, const ks_problem *p, const void *dy, const void *k, void *dx, void *stream)
{
    ks_status s = check_context(ctx);
    if (s == KS_OK) s = ks_problem_check(p);
    if (s != KS_OK) return s;
    if (!dy || !k || !dx) return ks_fail(KS_ERR_ARGUMENT, "%s is NULL", !dy ? "dy" : !k ? "k" : "dx");
    const int64_t x_bytes = ks_x_count(p) * (int64_t)ks_type_bytes(p->type);
    const int64_t k_bytes = ks_k_count(p) * (int64_t)ks_type_bytes(p->type);
    if (ks_overlap(dx, x_bytes, k, k_bytes)) return ks_fail(KS_ERR_ARGUMENT, "dx (%p) overlaps k (%p)", dx, k);
    s = ks_context_reaches(ctx, k, ks_k_count(p), p->type, "k");
    if (s != KS_OK) return s;
    ks_problem turned = *p;
    turned.b = p->c, turned.c = p->b;
    void *kt;
    s = ks_context_take(ctx, "the transposed weights", (size_t)k_bytes, stream, &kt);
    if (s != KS_OK) return s;
    s = ks_backend_find(ctx->device.backend)
            ->transpose(&ctx->device, p->type, p->a * p->d, p->b, p->c, k, kt, stream);
    if (s == KS_OK) s = ks_auto_matmul(ctx, &turned, dy, kt, dx, stream);
    return ks_context_give(ctx, kt, stream, s);
}

static ks_status check_arrays(const ks_context *ctx, const ks_problem *p, const void *x, const void *dy, void *dk)
{
    const int64_t size = (int64_t)ks_type_bytes(p->type);
    const int64_t x_bytes = ks_x_count(p) * size, y_bytes = ks_y_count(p) * size, k_bytes = ks_k_count(p) * size;
    if (!x || !dy || !dk) return ks_fail(KS_ERR_ARGUMENT, "%s is NULL", !x ? "x" : !dy ? "dy" : "dk");
    if (ks_overlap(dk, k_bytes, x, x_bytes)) return ks_fail(KS_ERR_ARGUMENT, "dk (%p) overlaps x (%p)", dk, x);
    if (ks_overlap(dk, k_bytes, dy, y_bytes)) return ks_fail(KS_ERR_ARGUMENT, "dk (%p) overlaps dy (%p)", dk, dy);
    ks_status s = ks_context_reaches(ctx, x, ks_x_count(p), p->type, "x");
    if (s == KS_OK) s = ks_context_reaches(ctx, dy, ks_y_count(p), p->type, "dy");
    return s == KS_OK ? ks_context_reaches(ctx, dk, ks_k_count(p), p->type, "dk") : s;
}

ks_status ks_grad_weights(ks_context *ctx, const ks_problem *p, const void *x, const void *dy, void *dk, void *stream)
{
    ks_status s = check_context(ctx);
    if (s == KS_OK) s = ks_problem_check(p);
    if (s == KS_OK) s = check_arrays(ctx, p, x, dy, dk);
    if (s != KS_OK) return s;
    const ks_backend_ops *ops = ks_backend_find(ctx->device.backend);
    ks_grad_args args = {.device = &ctx->device, .x = x, .dy = dy, .dk = dk, .stream = stream};
    s = ks_context_take(ctx, "a gradient", ops->grad_bytes(p, &ctx->device), stream, &args.workspace);
    return s == KS_OK ? ks_context_give(ctx, args.workspace, stream, ops->grad_weights(p, &args)) : s;
}
