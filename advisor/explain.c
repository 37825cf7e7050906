/* Explaining: taking an advice apart into what each candidate does, and finding the measurements that it leans on.
 *
 * Both are read from the model that gave the advice. Its costs say what each term takes; it holds the problems that it was
 * fitted to, and its correlations say which of them count. */
#include "context.h"
#include "error.h"
#include "seeds.h"

#include <math.h>
#include <string.h>

/* The row of a candidate: the table's, or the model's stand-in. */
static const ks_kernel *row_of(const ks_model *m, const char *name)
{
    for (int q = 0; m && q < m->kernels; q++)
        if (strcmp(m->kernel[q].name, name) == 0) return ks_model_kernel_of(m, q);
    return ks_kernel_find(name);
}

static void explain_cost(const ks_context *ctx, const ks_model *m, const ks_problem *p, const ks_candidate *candidate,
                         ks_cost *out)
{
    const ks_kernel *row = row_of(m, candidate->kernel);
    const int q = ks_model_find(m, row);
    double cost[KS_NTERMS], terms[KS_NTERMS], sum;
    if (q < 0) {
        ks_cost_assume(&ctx->device, p->type, cost);
        row->cost_terms(p, &ctx->device, terms);
    } else {
        memcpy(cost, m->kernel[q].cost, sizeof cost);
        ks_model_terms(m, q, p, &ctx->device, terms);
    }
    sum = ks_cost_s(cost, terms);
    *out = (ks_cost){.nearby = candidate->time_s / sum,
                     .fitted = q >= 0,
                     .own = !ks_kernel_is_foreign(row) && (q < 0 || !m->kernel[q].generic)};
    ks_part *const parts[KS_NTERMS] = {[KS_TERM_LAUNCH] = &out->launches,
                                       [KS_TERM_BYTES] = &out->bytes,
                                       [KS_TERM_FLOPS] = &out->flops,
                                       [KS_TERM_SHUFFLE] = &out->elements,
                                       [KS_TERM_CALLS] = &out->tiles};
    for (int t = 0; t < KS_NTERMS; t++) *parts[t] = (ks_part){terms[t], cost[t] * terms[t] * out->nearby};
}

/* The facts of the device whose measurements the model was fitted to: a seed may be another device's. */
static const ks_device *home_of(const ks_context *ctx, const char *name, ks_device *device)
{
    if (strcmp(name, ctx->device.name) == 0 || !ks_seed_nearest(&ctx->device, device) ||
        strcmp(name, device->name) != 0)
        return &ctx->device;
    ks_device_assume_rates(device);
    return device;
}

/* How alike each point is: mean over the candidates that were measured there; 0 without any. */
static void find_likeness(const ks_model *m, const ks_problem *p, const ks_device *device, const int *known,
                          int count, double likeness[KS_MODEL_POINTS])
{
    float one[KS_MODEL_POINTS];
    int measured[KS_MODEL_POINTS] = {0};
    for (int i = 0; i < m->points; i++) likeness[i] = 0;
    for (int k = 0; k < count; k++) {
        if (known[k] < 0) continue;
        ks_model_likeness(m, known[k], p, device, one);
        for (int i = 0; i < m->points; i++)
            if (m->kernel[known[k]].measured[i]) likeness[i] += (double)one[i], measured[i]++;
    }
    for (int i = 0; i < m->points; i++)
        if (measured[i]) likeness[i] /= measured[i];
}

static void find_neighbours(const ks_context *ctx, const ks_model *m, const char *home, ks_explanation *e)
{
    double best[KS_MAX_NEIGHBOURS], all[KS_MODEL_POINTS];
    int point[KS_MAX_NEIGHBOURS], known[KS_MAX_CANDIDATES], count = 0;
    const ks_advice *a = &e->advice;
    ks_device other;
    const ks_device *device = home_of(ctx, home, &other);
    for (int i = 0; i < a->candidate_count; i++) known[i] = ks_model_find(m, row_of(m, a->candidates[i].kernel));
    find_likeness(m, &a->problem, device, known, a->candidate_count, all);
    for (int i = 0; i < m->points; i++) {
        const double likeness = all[i];
        int at = count < KS_MAX_NEIGHBOURS ? count++ : KS_MAX_NEIGHBOURS;
        for (; at > 0 && likeness > best[at - 1]; at--)
            if (at < KS_MAX_NEIGHBOURS) best[at] = best[at - 1], point[at] = point[at - 1];
        if (at < KS_MAX_NEIGHBOURS) best[at] = likeness, point[at] = i;
    }
    for (int n = 0; n < count && best[n] > 0; n++) {
        ks_neighbour *out = &e->neighbours[e->neighbour_count++];
        *out = (ks_neighbour){.problem = ks_model_point(m, point[n]),
                              .borrowed = point[n] >= m->points - m->borrowed,
                              .likeness = best[n]};
        for (int i = 0; i < a->candidate_count; i++)
            out->time_s[i] = known[i] < 0 ? NAN : ks_model_point_value(m, known[i], point[n], device);
    }
}

ks_status ks_explain(ks_context *ctx, const ks_problem *p, ks_explanation *e)
{
    if (!e) return ks_fail(KS_ERR_ARGUMENT, "explanation is NULL");
    memset(e, 0, sizeof *e);
    ks_status s = ks_advise(ctx, p, &e->advice);
    if (s != KS_OK) return s;
    const knowledge *known = &ctx->known[p->type][p->layout];
    for (int i = 0; i < e->advice.candidate_count; i++)
        explain_cost(ctx, known->model, p, &e->advice.candidates[i], &e->cost[i]);
    if (known->model) find_neighbours(ctx, known->model, known->source_device, e);
    return KS_OK;
}
