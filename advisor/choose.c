/* Choosing: the ladder, the memo, and the advice that says what they would do.
 *
 * The memo is a fixed open-addressed table. A slot goes from free to being written to ready, once; readers look only at
 * ready slots, so a decision that is known costs a hash and a comparison and takes no lock. When a run of slots is full
 * the decision is simply made again: the table bounds memory, not correctness. */
#include "context.h"
#include "error.h"
#include "measure.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double measured_deviation = 0.03; /* of a median of a few samples */

/* math has no effect but on float32: other types are decided alike whatever it says. */
static ks_math math_of(const ks_problem *p)
{
    return p->type == KS_F32 ? p->math : KS_MATH_F32;
}

/* finished: decided for products with an epilogue that some kernels apply themselves. */
static uint32_t traits_of(const ks_problem *p, bool finished)
{
    return (uint32_t)p->type | (uint32_t)p->layout << 8 | (uint32_t)math_of(p) << 16 | (uint32_t)finished << 24;
}

static uint64_t hash(const ks_problem *p, uint32_t traits)
{
    uint64_t h = traits;
    const int64_t sizes[] = {p->a, p->b, p->c, p->d, p->batch};
    for (int i = 0; i < 5; i++) {
        h = (h ^ (uint64_t)sizes[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h;
}

static bool matches(const memo_slot *s, const ks_problem *p, uint32_t traits)
{
    return s->sizes[0] == p->a && s->sizes[1] == p->b && s->sizes[2] == p->c && s->sizes[3] == p->d &&
           s->sizes[4] == p->batch && s->traits == traits;
}

static const ks_kernel *recall(const ks_context *ctx, const ks_problem *p, uint32_t traits)
{
    const uint64_t start = hash(p, traits);
    for (int i = 0; i < MEMO_PROBES; i++) {
        const memo_slot *s = &ctx->memo[(start + (uint64_t)i) % MEMO_SLOTS];
        const uint32_t state = atomic_load_explicit(&s->state, memory_order_acquire);
        if (state == 0) return NULL;
        if (state == 2 && matches(s, p, traits)) return s->kernel;
    }
    return NULL;
}

static void remember(ks_context *ctx, const ks_problem *p, uint32_t traits, const ks_kernel *kernel)
{
    const uint64_t start = hash(p, traits);
    for (int i = 0; i < MEMO_PROBES; i++) {
        memo_slot *s = &ctx->memo[(start + (uint64_t)i) % MEMO_SLOTS];
        uint32_t state = 0;
        if (atomic_compare_exchange_strong(&s->state, &state, 1)) {
            s->traits = traits;
            s->sizes[0] = p->a, s->sizes[1] = p->b, s->sizes[2] = p->c, s->sizes[3] = p->d, s->sizes[4] = p->batch;
            s->kernel = kernel;
            atomic_store_explicit(&s->state, 2, memory_order_release);
            return;
        }
        if (state == 2 && matches(s, p, traits)) return; /* another thread was faster */
    }
}

const ks_kernel *ks_context_recall(const ks_context *ctx, const ks_problem *p)
{
    return recall(ctx, p, traits_of(p, false));
}

void ks_context_remember(ks_context *ctx, const ks_problem *p, const ks_kernel *kernel)
{
    remember(ctx, p, traits_of(p, false), kernel);
}

/* The measured case of this very problem, or NULL: the cases are sorted. */
static const ks_case *find_case(const ks_cases *cases, const ks_problem *p)
{
    const int64_t want[] = {p->a, p->b, p->c, p->d, p->batch, math_of(p)};
    int low = 0, high = cases->count;
    while (low < high) {
        const int middle = (low + high) / 2;
        const ks_problem *q = &cases->items[middle].problem;
        const int64_t have[] = {q->a, q->b, q->c, q->d, q->batch, q->math};
        int i = 0;
        while (i < 6 && have[i] == want[i]) i++;
        if (i == 6) return &cases->items[middle];
        if (have[i] < want[i])
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

int ks_context_predict(const ks_context *ctx, const ks_problem *p, bool deviations, ks_prediction *out,
                       bool *measured)
{
    const knowledge *known = &ctx->known[p->type][p->layout];
    const ks_kernel *kernels[KS_MAX_KERNELS] = {NULL}, *trusted[KS_MAX_KERNELS];
    int count = 0;
    if (ctx->here)
        count = ks_kernels_for(p, &ctx->device, kernels);
    else
        for (int q = 0; known->model && q < known->model->kernels; q++) {
            const ks_kernel *row = ks_model_kernel_of(known->model, q);
            if (row->family != KS_REFERENCE && ks_model_supports(known->model, q, p, &ctx->device))
                kernels[count++] = row;
        }
    /* If all have failed, either the device is broken or the store does not tell the truth: then it tells nothing. */
    memcpy(trusted, kernels, sizeof trusted);
    const int spared = ks_failures_spare(&ctx->failures, p, trusted, count);
    if (spared > 0) memcpy(kernels, trusted, sizeof kernels), count = spared;
    ks_model_predict(known->model, &ctx->device, p, kernels, count, deviations, out);
    const ks_case *seen = find_case(&known->cases, p);
    *measured = false;
    for (int q = 0; seen && q < count; q++)
        for (int k = 0; k < known->cases.kernels; k++)
            if (strcmp(known->cases.kernel[k]->name, kernels[q]->name) == 0 && !isnan(seen->value[k])) {
                out[q].log_time = log(seen->value[k]);
                out[q].deviation = deviations ? measured_deviation : 0;
                *measured = true;
            }
    return count;
}

const ks_kernel *ks_context_choose(ks_context *ctx, const ks_problem *p)
{
    const ks_kernel *kernel = ks_context_recall(ctx, p);
    if (kernel) return kernel;
    ks_prediction predicted[KS_MAX_KERNELS];
    bool measured;
    const int count = ks_context_predict(ctx, p, false, predicted, &measured);
    if (count == 0) return NULL;
    const int pinned = ks_context_pinned(ctx, p, predicted, count);
    if (ctx->pins.asked && pinned < 0) atomic_fetch_add(&ctx->pins.missed, 1);
    kernel = predicted[pinned >= 0 ? pinned : ks_prediction_best(predicted, count)].kernel;
    ks_context_remember(ctx, p, kernel);
    if (ctx->explain) ks_context_explain(ctx, p);
    return kernel;
}

/* The pass behind a kernel that does not finish: Y read and written, at the rate of a copy, and a launch. (Where energy counts,
 * the kernel's own, in proportion.) */
static void add_pass(const ks_context *ctx, const ks_problem *p, ks_prediction *predicted)
{
    const double bytes = 2.0 * (double)ks_y_count(p) * (double)ks_type_bytes(p->type);
    const double pass_s = ks_context_pass_s(ctx, bytes), cost = exp(predicted->log_time);
    const double share = pass_s / (ctx->objective == KS_ENERGY ? ks_roofline_s(&ctx->device, p) : cost);
    predicted->log_time += log1p(share);
}

/* Where Y is added to, the pass is behind every kernel. */
const ks_kernel *ks_context_recall_with(const ks_context *ctx, const ks_problem *p, const ks_epilogue *e)
{
    return recall(ctx, p, traits_of(p, e->beta == 0));
}

const ks_kernel *ks_context_choose_with(ks_context *ctx, const ks_problem *p, const ks_epilogue *e)
{
    const ks_kernel *kernel = ks_context_recall_with(ctx, p, e);
    if (kernel) return kernel;
    ks_prediction predicted[KS_MAX_KERNELS];
    bool measured;
    const int count = ks_context_predict(ctx, p, false, predicted, &measured);
    if (e->beta != 0 || count == 0 || ks_context_pinned(ctx, p, predicted, count) >= 0)
        return ks_context_choose(ctx, p);
    if (ctx->pins.asked) atomic_fetch_add(&ctx->pins.missed, 1);
    for (int q = 0; q < count; q++)
        if (!ks_kernel_finishes(predicted[q].kernel)) add_pass(ctx, p, &predicted[q]);
    kernel = predicted[ks_prediction_best(predicted, count)].kernel;
    remember(ctx, p, traits_of(p, true), kernel);
    return kernel;
}

static ks_status check_call(const ks_context *ctx, const ks_problem *p)
{
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    return ks_problem_check(p);
}

static ks_status no_kernel(const ks_context *ctx, const ks_problem *p)
{
    const knowledge *known = &ctx->known[p->type][p->layout];
    if (!ctx->here && !known->model)
        return ks_fail(KS_ERR_NO_DATA, "device \"%s\" has no model for %s, batch-%s%s%s", ctx->device.name,
                       ks_type_name(p->type), ks_layout_name(p->layout), *known->why ? ": " : "", known->why);
    return ks_fail(KS_ERR_UNSUPPORTED, "no kernel supports this problem on \"%s\"", ctx->device.name);
}

ks_status ks_choose(ks_context *ctx, const ks_problem *p, const char **name)
{
    ks_status s = check_call(ctx, p);
    if (s != KS_OK) return s;
    if (!name) return ks_fail(KS_ERR_ARGUMENT, "kernel is NULL");
    const ks_kernel *kernel = ks_context_choose(ctx, p);
    if (!kernel) return no_kernel(ctx, p);
    *name = kernel->name;
    return KS_OK;
}

ks_status ks_context_resolve(ks_context *ctx, const ks_problem *p, const char *path, const ks_kernel **kernel)
{
    if (!path) return ks_fail(KS_ERR_ARGUMENT, "path is NULL; valid: auto, fused, bmm, or a kernel's name");
    if (strcmp(path, "auto") == 0) {
        *kernel = ks_context_choose(ctx, p);
        return *kernel ? KS_OK : no_kernel(ctx, p);
    }
    const bool fused = strcmp(path, ks_family_name(KS_FUSED)) == 0, bmm = strcmp(path, ks_family_name(KS_BMM)) == 0;
    if (fused || bmm) {
        ks_prediction predicted[KS_MAX_KERNELS];
        bool measured;
        int kept = 0;
        const int count = ks_context_predict(ctx, p, false, predicted, &measured);
        for (int q = 0; q < count; q++)
            if (predicted[q].kernel->family == (fused ? KS_FUSED : KS_BMM)) predicted[kept++] = predicted[q];
        if (kept == 0)
            return ks_fail(KS_ERR_UNSUPPORTED, "no %s kernel supports this problem on \"%s\"", path,
                           ctx->device.name);
        *kernel = predicted[ks_prediction_best(predicted, kept)].kernel;
        return KS_OK;
    }
    *kernel = ks_kernel_find(path);
    if (!*kernel)
        return ks_fail(KS_ERR_ARGUMENT, "path \"%.80s\" is unknown; valid: auto, fused, bmm, or a kernel's name",
                       path);
    if ((*kernel)->backend != ctx->device.backend || !(*kernel)->supports(p, &ctx->device))
        return ks_fail(KS_ERR_UNSUPPORTED,
                       "%s does not support (%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ") batch %" PRId64
                       " %s batch-%s",
                       path, p->a, p->b, p->c, p->d, p->batch, ks_type_name(p->type), ks_layout_name(p->layout));
    return KS_OK;
}

/* Decisions need no variances; the first advice of a type and layout makes what they need. Before that flag is set no
 * thread reads what is written here. */
static void factorise(ks_context *ctx, knowledge *known)
{
    if (!known->model || atomic_load(&known->factored)) return;
    pthread_mutex_lock(&ctx->measuring);
    if (!atomic_load(&known->factored)) {
        ks_model_factorise(known->model); /* where it fails, deviations are wide, not wrong */
        atomic_store(&known->factored, true);
    }
    pthread_mutex_unlock(&ctx->measuring);
}

static int compare_candidates(const void *x, const void *y)
{
    const ks_candidate *a = x, *b = y;
    return (a->time_s > b->time_s) - (a->time_s < b->time_s);
}

const char *ks_source_name(ks_source source)
{
    static const char *const names[] = {"measurement", "model", "seeds", "cost-model", "decisions"};
    return (unsigned)source < KS_NSOURCES ? names[source] : NULL;
}

ks_status ks_advise(ks_context *ctx, const ks_problem *p, ks_advice *advice)
{
    ks_status s = check_call(ctx, p);
    if (s != KS_OK) return s;
    if (!advice) return ks_fail(KS_ERR_ARGUMENT, "advice is NULL");
    ks_prediction predicted[KS_MAX_KERNELS];
    bool measured;
    factorise(ctx, &ctx->known[p->type][p->layout]);
    const int count = ks_context_predict(ctx, p, true, predicted, &measured);
    if (count == 0) return no_kernel(ctx, p);

    const knowledge *known = &ctx->known[p->type][p->layout];
    const int pinned = ks_context_pinned(ctx, p, predicted, count);
    *advice = (ks_advice){.problem = *p,
                          .objective = ctx->objective,
                          .candidate_count = count,
                          .source = pinned >= 0 ? KS_FROM_DECISIONS
                                    : measured  ? KS_FROM_MEASUREMENT
                                                : known->source,
                          .roofline_s = ks_roofline_s(&ctx->device, p),
                          .dense_s = ks_dense_roofline_s(&ctx->device, p)};
    snprintf(advice->device, sizeof advice->device, "%s", ctx->device.name);
    snprintf(advice->source_device, sizeof advice->source_device, "%s",
             measured ? ctx->device.name : known->source_device);
    const ks_kernel *remembered = ks_context_recall(ctx, p);
    int chosen = pinned >= 0 ? pinned : ks_prediction_best(predicted, count);
    for (int q = 0; q < count; q++) {
        const ks_prediction *r = &predicted[q];
        if (r->kernel == remembered) chosen = q; /* measured at its first use, perhaps */
        ks_candidate *c = &advice->candidates[q];
        snprintf(c->kernel, sizeof c->kernel, "%s", r->kernel->name);
        c->family = r->kernel->family;
        c->time_s = exp(r->log_time);
        c->time_lo_s = exp(r->log_time - 1.2816 * r->deviation);
        c->time_hi_s = exp(r->log_time + 1.2816 * r->deviation);
    }
    advice->path = predicted[chosen].kernel->family;
    snprintf(advice->kernel, sizeof advice->kernel, "%s", predicted[chosen].kernel->name);
    advice->expected_regret = ks_expected_regret(predicted, count, chosen);
    advice->p_fused_faster = ks_lead_probability(ks_lead_of_fused(predicted, count));
    qsort(advice->candidates, (size_t)count, sizeof *advice->candidates, compare_candidates);
    return KS_OK;
}

void ks_context_explain(ks_context *ctx, const ks_problem *p)
{
    ks_advice a;
    int chosen = 0;
    if (ks_advise(ctx, p, &a) != KS_OK) return;
    while (chosen + 1 < a.candidate_count && strcmp(a.candidates[chosen].kernel, a.kernel) != 0) chosen++;
    fprintf(
        stderr,
        "ksauto: (%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ") batch %" PRId64 " %s batch-%s: %s by %s, %.3g us "
        "expected, P(fused faster) %.2f, from %s%s\n",
        p->a, p->b, p->c, p->d, p->batch, ks_type_name(p->type), ks_layout_name(p->layout), ks_family_name(a.path),
        a.kernel, a.candidates[chosen].time_s * 1e6, a.p_fused_faster, ks_source_name(a.source),
        ctx->pins.asked && a.source != KS_FROM_DECISIONS ? ", not in the table of decisions" : "");
}
