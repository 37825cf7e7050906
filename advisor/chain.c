/* Chains: products by several factors, planned as one.
 *
 * Each factor may run in either layout, and between two of different layouts the activations are transposed. What is fastest
 * for one factor alone need not be for the chain, so the plan is a shortest path: from the caller's layout through a layout
 * for every factor back to the caller's, over the predicted times of the products and of the transpositions. Where a pair kernel
 * (pair.h) does two neighbours in one launch, that is one more step of the path. A plan is text of one word a factor, or a pair,
 * which can be kept and given again.
 *
 * Transpositions are priced as a pass over the data at half the rate of a copy and a launch, since nobody has measured them. */
#include "backend.h"
#include "context.h"
#include "error.h"
#include "pair.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FACTORS = 64, PASSES = 2 * MOST_FACTORS + 1, WORD = KS_NAME_BYTES + 8, LINE = 160, ALIGNMENT = 256 };

/* One pass over the activations: the product by a factor, by two, or, with neither kernel nor pair, a transposition. */
typedef struct pass {
    ks_problem
        problem; /* of a pair: the factor applied last; of a transposition: the batch, and the layout that comes out */
    int64_t features; /* that come out */
    const ks_kernel *kernel;
    const ks_pair *pair;
    int factor; /* of a pair: the one applied last */
    double time_s;
} pass;

/* What a factor, or two, take in the plan, before transpositions are put in between. */
typedef struct leg {
    const ks_kernel *kernel;
    const ks_pair *pair; /* else NULL */
    int factor;
    ks_layout layout;
    double time_s;
} leg;

struct ks_chain {
    ks_context *ctx;
    int count, passes;
    ks_problem ends; /* x has c features, y has b: a pattern (1,b,c,1) of the chain's batch, type and layout */
    ks_problem factors[MOST_FACTORS];
    pass pass[PASSES];
    size_t buffer_bytes[2], kernel_bytes;
    atomic_bool checked; /* that the device reaches the arrays, once */
    char plan[MOST_FACTORS * WORD], *text;
};

static int64_t features_in(const ks_problem *p)
{
    return p->a * p->c * p->d;
}

static int64_t features_out(const ks_problem *p)
{
    return p->a * p->b * p->d;
}

static ks_status check_factors(const ks_problem *f, int count)
{
    if (!f) return ks_fail(KS_ERR_ARGUMENT, "factors is NULL");
    if (count < 1 || count > MOST_FACTORS)
        return ks_fail(KS_ERR_ARGUMENT, "count is %d, valid: 1 to %d", count, MOST_FACTORS);
    for (int i = 0; i < count; i++) {
        ks_status s = ks_problem_check(&f[i]);
        if (s != KS_OK) return s;
        if (f[i].batch != f[0].batch || f[i].type != f[0].type || f[i].layout != f[0].layout ||
            f[i].math != f[0].math)
            return ks_fail(KS_ERR_ARGUMENT, "factors 1 and %d differ in batch, type, layout or math", i + 1);
        if (i > 0 && features_out(&f[i]) != features_in(&f[i - 1]))
            return ks_fail(KS_ERR_ARGUMENT,
                           "factor %d, (%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "), makes %" PRId64
                           " features, but factor %d takes %" PRId64,
                           i + 1, f[i].a, f[i].b, f[i].c, f[i].d, features_out(&f[i]), i, features_in(&f[i - 1]));
    }
    return KS_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------------------- */

/* With one sample, or one feature, both layouts are the same memory. */
static bool must_turn(const ks_problem *p, int64_t features)
{
    return p->batch > 1 && features > 1;
}

static double turn_s(const ks_context *ctx, const ks_problem *p, int64_t features)
{
    const double bytes = 2.0 * (double)p->batch * (double)features * (double)ks_type_bytes(p->type);
    return must_turn(p, features) ? ks_context_pass_s(ctx, 2 * bytes) : 0;
}

/* The kernel for a product, if *kernel is NULL; and its predicted time, NaN for one that is in no choice. What is only thought
 * about here enters no memo, and KSAUTO_EXPLAIN does not tell of it. */
static ks_status price(const ks_context *ctx, const ks_problem *p, const ks_kernel **kernel, double *time_s)
{
    ks_prediction predicted[KS_MAX_KERNELS];
    bool measured;
    const int count = ks_context_predict(ctx, p, false, predicted, &measured);
    if (count == 0) return ks_fail(KS_ERR_UNSUPPORTED, "no kernel supports this problem on \"%s\"", ctx->device.name);
    if (!*kernel) *kernel = ks_context_recall(ctx, p);
    if (!*kernel) *kernel = predicted[ks_prediction_best(predicted, count)].kernel;
    *time_s = NAN;
    for (int q = 0; q < count; q++)
        if (predicted[q].kernel == *kernel) *time_s = exp(predicted[q].log_time);
    return KS_OK;
}

/* The two problems of a pair that ends with factor f, in a layout. */
static void pair_at(const ks_chain *chain, int f, ks_layout layout, ks_problem pair[2])
{
    memcpy(pair, &chain->factors[f], 2 * sizeof *pair);
    pair[0].layout = pair[1].layout = layout;
}

/* The fastest pair kernel for factors f and f + 1; leg->pair is NULL if there is none. A pair's price is in seconds, so none is
 * taken where joules count. */
static void price_pair(const ks_chain *chain, int f, leg *l)
{
    const ks_device *device = &chain->ctx->device;
    ks_problem pair[2];
    l->pair = NULL, l->time_s = INFINITY;
    if (f + 1 >= chain->count || chain->ctx->objective != KS_TIME) return;
    pair_at(chain, f, l->layout, pair);
    for (const ks_pair *const *p = ks_pairs(); *p; p++) {
        if ((*p)->backend != device->backend || !(*p)->supports(pair, device)) continue;
        const double time_s = (*p)->predicted_s(pair, device);
        if (time_s < l->time_s) l->pair = *p, l->time_s = time_s;
    }
}

/* A state of the search: all factors from some one on are applied, and what they make lies in some layout. */
typedef struct state {
    double until_s;
    leg last; /* the step to it, from a state of the leg's layout or by a transposition from the other */
    int before;
    ks_layout from;
} state;

static void reach(const ks_chain *chain, state states[][KS_NLAYOUTS], int to, int before, const leg *l)
{
    const state *same = &states[before][l->layout], *other = &states[before][!l->layout];
    const double turn = turn_s(chain->ctx, &chain->ends, features_in(&chain->factors[before - 1]));
    const bool stays = same->until_s <= other->until_s + turn;
    const double until_s = l->time_s + (stays ? same->until_s : other->until_s + turn);
    if (!(until_s < states[to][l->layout].until_s)) return;
    states[to][l->layout] = (state){until_s, *l, before, stays ? l->layout : !l->layout};
}

/* The fastest way; its legs in the order of application, *count of them. The last factor is the first to be applied. */
static ks_status find_plan(const ks_chain *chain, leg legs[MOST_FACTORS], int *count)
{
    const ks_layout ends = chain->ends.layout;
    state(*states)[KS_NLAYOUTS] = calloc(MOST_FACTORS + 1, sizeof *states);
    ks_status s = states ? KS_OK : ks_fail(KS_ERR_MEMORY, "out of memory for a chain");
    for (int f = chain->count; s == KS_OK && f >= 0; f--)
        for (int l = 0; s == KS_OK && l < KS_NLAYOUTS; l++) {
            leg one = {.factor = f, .layout = (ks_layout)l}, two = one;
            states[f][l].until_s = f == chain->count && l == (int)ends ? 0 : INFINITY;
            if (f == chain->count) continue;
            ks_problem p = chain->factors[f];
            p.layout = one.layout;
            s = price(chain->ctx, &p, &one.kernel, &one.time_s);
            if (s != KS_OK) break;
            reach(chain, states, f, f + 1, &one);
            price_pair(chain, f, &two);
            if (two.pair) reach(chain, states, f, f + 2, &two);
        }
    if (s == KS_OK) {
        const double turn = turn_s(chain->ctx, &chain->ends, chain->ends.b);
        ks_layout layout = states[0][ends].until_s <= states[0][!ends].until_s + turn ? ends : !ends;
        *count = 0;
        for (int f = 0; f < chain->count;) {
            const state *at = &states[f][layout];
            legs[(*count)++] = at->last;
            layout = at->from, f = at->before;
        }
        for (int i = 0; i < *count / 2; i++) {
            const leg other = legs[i];
            legs[i] = legs[*count - 1 - i], legs[*count - 1 - i] = other;
        }
    }
    free(states);
    return s;
}

/* The leg of a plan's word NAME for factor f, or for f and the next one to be applied: *l then ends with that. */
static ks_status read_leg(const ks_chain *chain, const char *name, int f, ks_layout layout, leg *l)
{
    const ks_pair *pair = ks_pair_find(name);
    ks_problem p[2];
    *l = (leg){.pair = pair, .factor = pair ? f - 1 : f, .layout = layout};
    if (!pair) {
        p[0] = chain->factors[f];
        p[0].layout = layout;
        ks_status s = ks_context_resolve(chain->ctx, p, name, &l->kernel);
        return s == KS_OK ? price(chain->ctx, p, &l->kernel, &l->time_s) : s;
    }
    if (f == 0) return ks_fail(KS_ERR_PARSE, "the plan ends before %s's second factor", name);
    pair_at(chain, f - 1, layout, p);
    if (pair->backend != chain->ctx->device.backend || !pair->supports(p, &chain->ctx->device))
        return ks_fail(KS_ERR_UNSUPPORTED, "%s does not support factors %d and %d", name, f, f + 1);
    l->time_s = pair->predicted_s(p, &chain->ctx->device);
    return KS_OK;
}

/* The same from a plan's text: "kernel/layout" for each factor, or pair, in the order of application. */
static ks_status read_plan(const ks_chain *chain, const char *plan, leg legs[MOST_FACTORS], int *count)
{
    *count = 0;
    for (int f = chain->count - 1; f >= 0; f = legs[(*count)++].factor - 1) {
        char word[WORD], format[16];
        int used = 0;
        ks_layout layout;
        snprintf(format, sizeof format, " %%%ds%%n", WORD - 1);
        if (sscanf(plan, format, word, &used) != 1)
            return ks_fail(KS_ERR_PARSE, "the plan ends before factor %d; valid: KERNEL/LAYOUT for each", f + 1);
        plan += used;
        char *slash = strrchr(word, '/');
        if (!slash) return ks_fail(KS_ERR_PARSE, "plan: \"%.80s\" is not KERNEL/LAYOUT", word);
        *slash = '\0';
        ks_status s = ks_layout_parse(slash + 1, &layout);
        if (s == KS_OK) s = read_leg(chain, word, f, layout, &legs[*count]);
        if (s != KS_OK) return s;
    }
    if (plan[strspn(plan, " \n")] != '\0') return ks_fail(KS_ERR_PARSE, "plan: \"%.80s\" is left over", plan);
    return KS_OK;
}

static void add_pass(ks_chain *chain, pass p)
{
    chain->pass[chain->passes++] = p;
}

static void add_turn(ks_chain *chain, ks_layout to, int64_t features)
{
    if (!must_turn(&chain->ends, features)) return;
    ks_problem p = chain->ends;
    p.layout = to;
    add_pass(chain, (pass){.problem = p, .features = features, .time_s = turn_s(chain->ctx, &p, features)});
}

static void make_passes(ks_chain *chain, const leg *legs, int count)
{
    ks_layout now = chain->ends.layout;
    int64_t features = chain->ends.c;
    for (int i = 0; i < count; i++) {
        const leg *l = &legs[i];
        if (l->layout != now) add_turn(chain, l->layout, features);
        now = l->layout;
        features = features_out(&chain->factors[l->factor]);
        pass product = {chain->factors[l->factor], features, l->kernel, l->pair, l->factor, l->time_s};
        product.problem.layout = now;
        add_pass(chain, product);
        char word[WORD];
        snprintf(word, sizeof word, "%s/%s%s", l->pair ? l->pair->name : l->kernel->name, ks_layout_name(now),
                 i + 1 < count ? " " : "");
        strncat(chain->plan, word, sizeof chain->plan - strlen(chain->plan) - 1);
    }
    if (now != chain->ends.layout) add_turn(chain, chain->ends.layout, chain->ends.b);
    for (int i = 0; i < chain->passes; i++) {
        const pass *p = &chain->pass[i];
        const size_t out = (size_t)(p->features * p->problem.batch) * ks_type_bytes(p->problem.type);
        const size_t own = p->kernel ? p->kernel->workspace_bytes(&p->problem, &chain->ctx->device) : 0;
        if (i + 1 < chain->passes && out > chain->buffer_bytes[i % 2])
            chain->buffer_bytes[i % 2] = (out + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        if (own > chain->kernel_bytes) chain->kernel_bytes = own;
    }
}

/* ---- the plan in words ----------------------------------------------------------------------------------------------- */

static double total_s(const ks_chain *chain)
{
    double sum = 0;
    for (int i = 0; i < chain->passes; i++) sum += chain->pass[i].time_s;
    return sum;
}

static ks_status write_text(ks_chain *chain)
{
    const ks_kernel *kernel = NULL;
    const size_t size = (size_t)(chain->passes + 2) * LINE;
    double dense_s = NAN;
    ks_status s = price(chain->ctx, &chain->ends, &kernel, &dense_s);
    if (s != KS_OK) return s;
    chain->text = malloc(size);
    if (!chain->text) return ks_fail(KS_ERR_MEMORY, "out of memory for a chain");
    int at =
        snprintf(chain->text, size,
                 "%d factors, batch %" PRId64 ", %s, batch-%s: %.4g us predicted, as one dense matrix %.4g us, "
                 "workspace %zu bytes\n",
                 chain->count, chain->ends.batch, ks_type_name(chain->ends.type), ks_layout_name(chain->ends.layout),
                 total_s(chain) * 1e6, dense_s * 1e6, ks_chain_workspace_bytes(chain));
    for (int i = 0; i < chain->passes; i++) {
        const pass *p = &chain->pass[i];
        const ks_problem *q = &p->problem;
        char what[LINE / 2];
        if (p->pair)
            snprintf(what, sizeof what, "K%d K%d", p->factor + 1, p->factor + 2);
        else if (p->kernel)
            snprintf(what, sizeof what, "K%d (%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")", p->factor + 1, q->a,
                     q->b, q->c, q->d);
        else
            snprintf(what, sizeof what, "transpose %" PRId64 " features", p->features);
        at += snprintf(chain->text + at, size - (size_t)at, "  %-28s %-6s %-20s %10.4g us\n", what,
                       ks_layout_name(q->layout),
                       p->pair     ? p->pair->name
                       : p->kernel ? p->kernel->name
                                   : "",
                       p->time_s * 1e6);
    }
    return KS_OK;
}

const char *ks_chain_describe(const ks_chain *chain)
{
    return chain ? chain->text : "";
}

const char *ks_chain_plan(const ks_chain *chain)
{
    return chain ? chain->plan : "";
}

double ks_chain_predicted_s(const ks_chain *chain)
{
    return chain ? total_s(chain) : NAN;
}

size_t ks_chain_workspace_bytes(const ks_chain *chain)
{
    return chain ? chain->buffer_bytes[0] + chain->buffer_bytes[1] + chain->kernel_bytes : 0;
}

/* ---- opening and running --------------------------------------------------------------------------------------------- */

ks_status ks_chain_open(ks_chain **out, ks_context *ctx, const ks_problem *factors, int count, const char *plan)
{
    if (!out) return ks_fail(KS_ERR_ARGUMENT, "chain is NULL");
    *out = NULL;
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    ks_status s = check_factors(factors, count);
    if (s != KS_OK) return s;
    ks_chain *chain = calloc(1, sizeof *chain);
    leg legs[MOST_FACTORS];
    int legs_count = 0;
    if (!chain) return ks_fail(KS_ERR_MEMORY, "out of memory for a chain");
    chain->ctx = ctx, chain->count = count;
    memcpy(chain->factors, factors, (size_t)count * sizeof *factors);
    chain->ends = factors[0];
    chain->ends.a = chain->ends.d = 1;
    chain->ends.b = features_out(&factors[0]), chain->ends.c = features_in(&factors[count - 1]);
    s = ks_problem_check(&chain->ends);
    if (s == KS_OK) s = plan ? read_plan(chain, plan, legs, &legs_count) : find_plan(chain, legs, &legs_count);
    if (s == KS_OK) {
        make_passes(chain, legs, legs_count);
        s = write_text(chain);
    }
    if (s == KS_OK)
        *out = chain;
    else
        ks_chain_close(chain);
    return s;
}

void ks_chain_close(ks_chain *chain)
{
    if (!chain) return;
    free(chain->text);
    free(chain);
}

static ks_status check_arrays(ks_chain *chain, const void *x, const void *const *k, const void *y)
{
    const ks_problem *ends = &chain->ends;
    const int64_t size = (int64_t)ks_type_bytes(ends->type);
    const int64_t x_bytes = size * ks_x_count(ends), y_bytes = size * ks_y_count(ends);
    if (!x || !k || !y) return ks_fail(KS_ERR_ARGUMENT, "%s is NULL", !x ? "x" : !k ? "k" : "y");
    if (ks_overlap(y, y_bytes, x, x_bytes)) return ks_fail(KS_ERR_ARGUMENT, "y (%p) overlaps x (%p)", y, x);
    for (int f = 0; f < chain->count; f++) {
        if (!k[f]) return ks_fail(KS_ERR_ARGUMENT, "k[%d] is NULL", f);
        if (ks_overlap(y, y_bytes, k[f], size * ks_k_count(&chain->factors[f])))
            return ks_fail(KS_ERR_ARGUMENT, "y (%p) overlaps k[%d] (%p)", y, f, k[f]);
    }
    if (atomic_load(&chain->checked) && !chain->ctx->check_arrays) return KS_OK;
    const ks_context *ctx = chain->ctx;
    ks_status s = ks_context_reaches(ctx, x, ks_x_count(ends), ends->type, "x");
    for (int f = 0; s == KS_OK && f < chain->count; f++)
        s = ks_context_reaches(ctx, k[f], ks_k_count(&chain->factors[f]), ends->type, "k");
    if (s == KS_OK) s = ks_context_reaches(ctx, y, ks_y_count(ends), ends->type, "y");
    if (s == KS_OK) atomic_store(&chain->checked, true);
    return s;
}

/* A pair as two products, the second with the epilogue: of these kernels some finish their outputs themselves. */
static ks_status run_apart(ks_context *ctx, const ks_problem pair[2], const ks_pair_args *args,
                           const ks_epilogue *epilogue)
{
    const void *from = args->x;
    void *between;
    ks_status s = ks_context_take(ctx, "a pair", (size_t)ks_y_count(&pair[1]) * ks_type_bytes(pair[1].type),
                                  args->stream, &between);
    if (s != KS_OK) return s;
    for (int f = 1; s == KS_OK && f >= 0; f--) {
        ks_run_args one = {.device = args->device,
                           .x = from,
                           .k = args->k[f],
                           .y = f == 1 ? between : args->y,
                           .stream = args->stream,
                           .epilogue = f == 1 ? NULL : epilogue};
        const ks_kernel *kernel =
            one.epilogue ? ks_context_choose_with(ctx, &pair[f], epilogue) : ks_context_choose(ctx, &pair[f]);
        s = kernel ? ks_context_run(ctx, &pair[f], kernel, &one)
                   : ks_fail(KS_ERR_UNSUPPORTED, "no kernel supports this problem on \"%s\"", ctx->device.name);
        from = between;
    }
    return ks_context_give(ctx, between, args->stream, s);
}

/* By its kernel, but where arrays are not aligned as that wants them, or a pass for the epilogue would be needed behind it. */
static ks_status run_pair(ks_chain *chain, const pass *p, const ks_pair_args *args, const ks_epilogue *epilogue)
{
    ks_problem pair[2];
    pair_at(chain, p->factor, p->problem.layout, pair);
    const uintptr_t all = (uintptr_t)args->x | (uintptr_t)args->k[0] | (uintptr_t)args->k[1] | (uintptr_t)args->y;
    const bool apart = epilogue || all % p->pair->alignment != 0;
    return apart ? run_apart(chain->ctx, pair, args, epilogue) : p->pair->run(pair, args);
}

static ks_status run_pass(ks_chain *chain, const pass *p, const void *from, const void *const *k, void *to,
                          const ks_epilogue *epilogue, void *stream)
{
    const ks_problem *q = &p->problem;
    ks_context *ctx = chain->ctx;
    if (p->pair) {
        const ks_pair_args args = {&ctx->device, from, {k[p->factor], k[p->factor + 1]}, to, stream};
        return run_pair(chain, p, &args, epilogue);
    }
    if (p->kernel) {
        ks_run_args args = {
            .device = &ctx->device, .x = from, .k = k[p->factor], .y = to, .stream = stream, .epilogue = epilogue};
        return ks_context_run(ctx, q, p->kernel, &args);
    }
    const bool last = q->layout == KS_BATCH_LAST;
    return ks_backend_find(ctx->device.backend)
        ->transpose(&ctx->device, q->type, 1, last ? q->batch : p->features, last ? p->features : q->batch, from, to,
                    stream);
}

ks_status ks_chain_matmul(ks_chain *chain, const void *x, const void *const *k, void *y, void *stream)
{
    return ks_chain_matmul_with(chain, x, k, y, NULL, stream);
}

/* An epilogue goes with the product of the first factor, the last to be applied; but to add to y, all must lie as y does: where
 * a transposition comes last, behind that. */
ks_status ks_chain_matmul_with(ks_chain *chain, const void *x, const void *const *k, void *y,
                               const ks_epilogue *epilogue, void *stream)
{
    if (!chain) return ks_fail(KS_ERR_ARGUMENT, "chain is NULL");
    ks_context *ctx = chain->ctx;
    if (!ctx->here)
        return ks_fail(KS_ERR_DEVICE, "device \"%s\" is known by its measurements only; it cannot multiply here",
                       ctx->device.name);
    if (ks_epilogue_is_plain(epilogue)) epilogue = NULL;
    const ks_problem *ends = &chain->ends;
    const bool first_use = !atomic_load(&chain->checked) || ctx->check_arrays;
    ks_status s = check_arrays(chain, x, k, y);
    if (s == KS_OK && epilogue) s = ks_epilogue_check(ctx, ends, epilogue, y, first_use);
    if (s != KS_OK) return s;
    const pass *final = &chain->pass[chain->passes - 1];
    const bool behind = epilogue && epilogue->beta != 0 && !final->kernel && !final->pair;
    const size_t passed = chain->buffer_bytes[0] + chain->buffer_bytes[1];
    const size_t product = behind ? (size_t)ks_y_count(ends) * ks_type_bytes(ends->type) : 0;
    void *memory;
    s = ks_context_take(ctx, "a chain", passed + product, stream, &memory);
    if (s != KS_OK) return s;
    char *buffers[] = {memory, memory ? (char *)memory + chain->buffer_bytes[0] : NULL};
    void *last = behind ? (char *)memory + passed : y;
    const void *from = x;
    for (int i = 0; s == KS_OK && i < chain->passes; i++) {
        const bool with = !behind && (chain->pass[i].kernel || chain->pass[i].pair) && chain->pass[i].factor == 0;
        void *to = i + 1 < chain->passes ? buffers[i % 2] : last;
        s = run_pass(chain, &chain->pass[i], from, k, to, with ? epilogue : NULL, stream);
        from = to;
    }
    if (s == KS_OK && behind) {
        const ks_finish_args finish = {&ctx->device, epilogue, last, y, stream};
        s = ks_backend_find(ctx->device.backend)->finish(ends, &finish);
    }
    return ks_context_give(ctx, memory, stream, s);
}
