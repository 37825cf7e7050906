/* Held-out cases and their advice: regret, honesty, groups. */
#include "heldout.h"
#include "error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the logarithm of the caution, before anything is seen; and the share of outcomes that say nothing (a disturbed
 * measurement), so that no single one commands. */
static const double caution_deviation = 0.5, freak_share = 0.01;

void ks_heldout_open(ks_heldout *h, const ks_cases *like)
{
    *h = (ks_heldout){.cases = *like};
    h->cases.items = NULL;
    h->cases.count = 0;
}

void ks_heldout_close(ks_heldout *h)
{
    free(h->cases.items);
    free(h->chosen);
    free(h->lead);
    free(h->expected);
    free(h->predicted);
    *h = (ks_heldout){0};
}

static bool grown(void *array, size_t size, int room)
{
    void **at = array, *more = realloc(*at, (size_t)room * size);
    if (more) *at = more;
    return more != NULL;
}

static ks_status make_room(ks_heldout *h)
{
    if (h->cases.count < h->room) return KS_OK;
    const int room = h->room ? 2 * h->room : 256;
    if (!grown(&h->cases.items, sizeof *h->cases.items, room) || !grown(&h->chosen, sizeof *h->chosen, room) ||
        !grown(&h->lead, sizeof *h->lead, room) || !grown(&h->expected, sizeof *h->expected, room) ||
        !grown(&h->predicted, sizeof *h->predicted, room))
        return ks_fail(KS_ERR_MEMORY, "out of memory for %d held-out problems", room);
    h->room = room;
    return KS_OK;
}

ks_status ks_heldout_add(ks_heldout *h, const ks_case *c, const ks_prediction *p, const int *columns, int count,
                         bool deviations)
{
    if (count == 0) return KS_OK;
    ks_status s = make_room(h);
    if (s != KS_OK) return s;
    const int at = h->cases.count++, best = ks_prediction_best(p, count);
    h->cases.items[at] = *c;
    h->chosen[at] = columns[best];
    h->lead[at] = h->expected[at] = NAN;
    for (int q = 0; q < KS_MODEL_KERNELS; q++) h->predicted[at][q] = NAN;
    for (int i = 0; i < count; i++) h->predicted[at][columns[i]] = exp(p[i].log_time);
    if (!deviations) return KS_OK;
    h->expected[at] = ks_expected_regret(p, count, best);
    if (ks_case_best(&h->cases, c, KS_FUSED) >= 0 && ks_case_best(&h->cases, c, KS_BMM) >= 0)
        h->lead[at] = ks_lead_of_fused(p, count);
    return KS_OK;
}

ks_status ks_heldout_advise(ks_heldout *h, const ks_case *c, const ks_device *device, const ks_model *model,
                            bool deviations)
{
    const ks_kernel *kernels[KS_MODEL_KERNELS];
    int columns[KS_MODEL_KERNELS];
    ks_prediction predicted[KS_MODEL_KERNELS];
    const int count = ks_case_kernels(&h->cases, c, kernels, columns);
    ks_model_predict(model, device, &c->problem, kernels, count, deviations, predicted);
    return ks_heldout_add(h, c, predicted, columns, count, deviations);
}

ks_status ks_heldout_advise_all(ks_heldout *h, const ks_cases *cases, const ks_device *device, const ks_model *model)
{
    ks_status s = KS_OK;
    for (int i = 0; s == KS_OK && i < cases->count; i++)
        s = ks_heldout_advise(h, &cases->items[i], device, model, true);
    return s;
}

ks_status ks_heldout_judge(const ks_heldout *h, ks_acceptance *a)
{
    int *chosen = malloc(((size_t)h->cases.count + 1) * sizeof *chosen);
    if (!chosen) return ks_fail(KS_ERR_MEMORY, "out of memory for %d choices", h->cases.count);
    a->type = h->cases.type, a->layout = h->cases.layout;
    a->advisor = ks_cases_regret(&h->cases, h->chosen, &a->agreement);
    ks_cases_judge_static(&h->cases, chosen, a);
    free(chosen);
    return KS_OK;
}

/* Of the kernel in a column, if there is one. */
static double regret_of(const ks_cases *cases, const ks_case *c, int column)
{
    const int best = ks_case_best(cases, c, -1);
    return best < 0 || column < 0 || isnan(c->value[column]) ? NAN : c->value[column] / c->value[best] - 1;
}

/* Only where both families were measured. */
static bool fused_won(const ks_cases *cases, const ks_case *c)
{
    return c->value[ks_case_best(cases, c, KS_FUSED)] < c->value[ks_case_best(cases, c, KS_BMM)];
}

void ks_heldout_reliability(const ks_heldout *h, ks_reliability *r)
{
    static const double edges[KS_BINS + 1] = {0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1};
    *r = (ks_reliability){0};
    for (int b = 0; b < KS_BINS; b++) r->bin[b] = (ks_bin){.from = edges[b], .to = edges[b + 1]};
    for (int i = 0; i < h->cases.count; i++) {
        const ks_case *c = &h->cases.items[i];
        const double regret = regret_of(&h->cases, c, h->chosen[i]), p = ks_lead_probability(h->lead[i]);
        if (!isnan(regret) && !isnan(h->expected[i])) {
            r->expected += h->expected[i], r->realised += regret;
            r->known++;
        }
        if (isnan(p)) continue;
        const bool fused = fused_won(&h->cases, c);
        const double confidence = fmax(p, 1 - p);
        ks_bin *bin = r->bin;
        while (bin + 1 < r->bin + KS_BINS && confidence >= bin->to) bin++;
        bin->count++, r->count++;
        bin->confidence += confidence;
        bin->right += (p > 0.5) == fused;
        r->brier += pow(p - fused, 2);
    }
    for (ks_bin *bin = r->bin; bin < r->bin + KS_BINS; bin++)
        bin->confidence /= bin->count, bin->right /= bin->count; /* NaN of an empty one */
    r->brier /= r->count;
    r->expected /= r->known, r->realised /= r->known;
}

/* Of two means; that of none counts for nothing. */
static double pooled(double x, int count_x, double y, int count_y)
{
    return ((count_x ? x * count_x : 0) + (count_y ? y * count_y : 0)) / (count_x + count_y);
}

void ks_reliability_add(ks_reliability *sum, const ks_reliability *part)
{
    for (int b = 0; b < KS_BINS; b++) {
        ks_bin *to = &sum->bin[b];
        const ks_bin *from = &part->bin[b];
        to->from = from->from, to->to = from->to;
        to->confidence = pooled(to->confidence, to->count, from->confidence, from->count);
        to->right = pooled(to->right, to->count, from->right, from->count);
        to->count += from->count;
    }
    sum->brier = pooled(sum->brier, sum->count, part->brier, part->count);
    sum->expected = pooled(sum->expected, sum->known, part->expected, part->known);
    sum->realised = pooled(sum->realised, sum->known, part->realised, part->known);
    sum->count += part->count, sum->known += part->known;
}

double ks_heldout_caution(const ks_heldout *h)
{
    double best = INFINITY, caution = 1;
    for (double log_factor = -0.7; log_factor < 1.6; log_factor += 0.02) {
        double sum = log_factor * log_factor / (2 * caution_deviation * caution_deviation);
        for (int i = 0; i < h->cases.count; i++) {
            if (isnan(h->lead[i])) continue;
            const double lead = fused_won(&h->cases, &h->cases.items[i]) ? h->lead[i] : -h->lead[i];
            sum -= log(freak_share / 2 + (1 - freak_share) * ks_lead_probability(lead / exp(log_factor)));
        }
        if (sum < best) best = sum, caution = exp(log_factor);
    }
    return caution;
}

/* Running means of what is not NaN. */
typedef struct mean {
    double sum;
    int count;
} mean;

static void mean_add(mean *m, double value)
{
    if (!isnan(value)) m->sum += value, m->count++;
}

static int decade(int64_t batch)
{
    int digits = 0;
    while (batch >= 10 && digits < KS_GROUPS / 2 - 1) batch /= 10, digits++;
    return digits;
}

int ks_heldout_groups(const ks_heldout *h, ks_group groups[KS_GROUPS])
{
    mean sums[KS_GROUPS][3] = {{{0, 0}}};
    int problems[KS_GROUPS] = {0}, count = 0;
    for (int i = 0; i < h->cases.count; i++) {
        const ks_case *c = &h->cases.items[i];
        const int g = decade(c->problem.batch) + (c->problem.d == 1 ? 0 : KS_GROUPS / 2);
        problems[g]++;
        mean_add(&sums[g][0], regret_of(&h->cases, c, h->chosen[i]));
        mean_add(&sums[g][1], regret_of(&h->cases, c, ks_case_best(&h->cases, c, KS_FUSED)));
        mean_add(&sums[g][2], regret_of(&h->cases, c, ks_case_best(&h->cases, c, KS_BMM)));
    }
    for (int g = 0; g < KS_GROUPS; g++)
        if (problems[g])
            groups[count++] = (ks_group){.single = g < KS_GROUPS / 2,
                                         .batch = (int64_t)pow(10, g % (KS_GROUPS / 2)),
                                         .problems = problems[g],
                                         .advisor = sums[g][0].sum / sums[g][0].count,
                                         .fused = sums[g][1].sum / sums[g][1].count,
                                         .bmm = sums[g][2].sum / sums[g][2].count};
    return count;
}
