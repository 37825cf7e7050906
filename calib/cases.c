/* Grouping rows, and what the fit and every report need to know of groups: costs, choices, regrets. */
#include "cases.h"
#include "error.h"
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many times too small a value must be to be taken for a failed run. */
static const double absurd = 20;

bool ks_rows_add(void *user, const ks_measurement *m)
{
    ks_rows *r = user;
    if (r->count == r->room) {
        const size_t room = r->room ? 2 * r->room : 1024;
        ks_measurement *items = realloc(r->items, room * sizeof *items);
        if (!items) return !(r->incomplete = true);
        r->items = items, r->room = room;
    }
    r->items[r->count++] = *m;
    return true;
}

ks_status ks_rows_status(const ks_rows *r)
{
    return r->incomplete ? ks_fail(KS_ERR_MEMORY, "out of memory for more than %zu measurements", r->count) : KS_OK;
}

void ks_rows_free(ks_rows *r)
{
    free(r->items);
    *r = (ks_rows){0};
}

static bool same_pattern_and_batch(const ks_problem *p, const ks_problem *q)
{
    return p->a == q->a && p->b == q->b && p->c == q->c && p->d == q->d && p->batch == q->batch && p->math == q->math;
}

/* Sorting brings a problem's rows together, and a kernel's within it. */
static int compare_rows(const void *x, const void *y)
{
    const ks_measurement *a = *(const ks_measurement *const *)x, *b = *(const ks_measurement *const *)y;
    const int64_t p[] = {a->problem.a, a->problem.b, a->problem.c, a->problem.d, a->problem.batch, a->problem.math};
    const int64_t q[] = {b->problem.a, b->problem.b, b->problem.c, b->problem.d, b->problem.batch, b->problem.math};
    for (int i = 0; i < 6; i++)
        if (p[i] != q[i]) return p[i] < q[i] ? -1 : 1;
    return strcmp(a->kernel, b->kernel);
}

static int compare_values(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double value_of(const ks_measurement *m, ks_objective objective)
{
    return objective == KS_ENERGY ? m->energy_j : m->time_s;
}

/* The kernel's column; -1 if it is to be left out. */
static int column(ks_cases *cases, const ks_measurement *m)
{
    const ks_kernel *row = ks_kernel_find(m->kernel);
    if (m->family == KS_REFERENCE || (row && row->version != m->kernel_version)) return -1;
    for (int q = 0; q < cases->kernels; q++)
        if (strcmp(cases->kernel[q]->name, m->kernel) == 0) return q;
    if (cases->kernels == KS_MODEL_KERNELS) return -1;
    const int q = cases->kernels++;
    if (!row) {
        snprintf(cases->names[q], sizeof cases->names[q], "%s", m->kernel);
        ks_foreign_kernel(&cases->foreign[q], cases->names[q], m->family, m->kernel_version);
        row = &cases->foreign[q];
    }
    cases->kernel[q] = row;
    return q;
}

/* Least squares of (sum(w * terms) - value) / scale with w >= 0, by coordinate descent on the normal equations: few terms, so
 * it converges at once, and it cannot go negative. */
static void fit_cost(const ks_cases *cases, const ks_device *device, int q, const double *scale,
                     double cost[KS_NTERMS])
{
    double gram[KS_NTERMS][KS_NTERMS] = {{0}}, right[KS_NTERMS] = {0}, unit[KS_NTERMS] = {0}, w[KS_NTERMS] = {0};
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < cases->count; i++) {
            double terms[KS_NTERMS];
            const ks_case *c = &cases->items[i];
            if (isnan(c->value[q])) continue;
            cases->kernel[q]->cost_terms(&c->problem, device, terms);
            for (int t = 0; t < KS_NTERMS; t++) {
                const double z = terms[t] / scale[i];
                if (pass == 0) unit[t] += z * z;
                if (pass == 0) continue;
                right[t] += z * unit[t] * c->value[q] / scale[i];
                for (int u = 0; u < KS_NTERMS; u++) gram[t][u] += z * unit[t] * terms[u] / scale[i] * unit[u];
            }
        }
        for (int t = 0; pass == 0 && t < KS_NTERMS; t++) unit[t] = unit[t] > 0 ? 1 / sqrt(unit[t]) : 0;
    }
    for (int sweep = 0; sweep < 500; sweep++)
        for (int t = 0; t < KS_NTERMS; t++) {
            double gradient = right[t];
            for (int u = 0; u < KS_NTERMS; u++) gradient -= u == t ? 0 : gram[t][u] * w[u];
            w[t] = gram[t][t] > 1e-12 && gradient > 0 ? gradient / (gram[t][t] + 1e-6) : 0;
        }
    for (int t = 0; t < KS_NTERMS; t++) cost[t] = w[t] * unit[t];
}

static ks_status quarantine(ks_cases *cases, const ks_problem *problem, const char *kernel, double value,
                            double expected)
{
    ks_suspect *more = realloc(cases->suspects, ((size_t)cases->quarantined + 1) * sizeof *more);
    if (!more) return ks_fail(KS_ERR_MEMORY, "out of memory for what is quarantined");
    cases->suspects = more, more += cases->quarantined++;
    *more = (ks_suspect){.problem = *problem, .value = value, .expected = expected};
    snprintf(more->kernel, sizeof more->kernel, "%s", kernel);
    return KS_OK;
}

/* Finds values absurdly small beside what the kernel's costs say. Costs fitted to relative errors would be bent by the very
 * rows that are looked for (their weight is one over their value, squared), so here an error counts relative to the larger of
 * the value and the last fit: whatever a row says, it pulls no harder than an error of 100 %. `scale` holds a number a case. */
static ks_status quarantine_impossible(ks_cases *cases, const ks_device *device, double *scale)
{
    ks_status s = KS_OK;
    for (int q = 0; q < cases->kernels; q++) {
        double cost[KS_NTERMS], terms[KS_NTERMS];
        int n = 0;
        ks_device rated = *device;
        ks_device_assume_rates(&rated);
        ks_cost_assume(&rated, cases->type, cost);
        for (int i = 0; i < cases->count; i++) { /* the unit of the values, from the median */
            if (isnan(cases->items[i].value[q])) continue;
            cases->kernel[q]->cost_terms(&cases->items[i].problem, device, terms);
            scale[n++] = cases->items[i].value[q] / ks_cost_s(cost, terms);
        }
        if (n == 0) continue;
        qsort(scale, (size_t)n, sizeof *scale, compare_values);
        for (int t = 0; t < KS_NTERMS; t++) cost[t] *= scale[n / 2];
        for (int pass = 0; pass < 5; pass++) {
            for (int i = 0; i < cases->count; i++) {
                if (isnan(cases->items[i].value[q])) continue;
                cases->kernel[q]->cost_terms(&cases->items[i].problem, device, terms);
                scale[i] = fmax(cases->items[i].value[q], ks_cost_s(cost, terms));
            }
            fit_cost(cases, device, q, scale, cost);
        }
        for (int i = 0; s == KS_OK && i < cases->count; i++) {
            ks_case *c = &cases->items[i];
            if (isnan(c->value[q])) continue;
            cases->kernel[q]->cost_terms(&c->problem, device, terms);
            const double expected = ks_cost_s(cost, terms);
            if (c->value[q] >= expected / absurd) continue;
            s = quarantine(cases, &c->problem, cases->kernel[q]->name, c->value[q], expected);
            c->value[q] = NAN;
        }
    }
    return s;
}

ks_status ks_cases_build(const ks_measurement *rows, size_t count, const ks_device *device, ks_type type,
                         ks_layout layout, ks_objective objective, ks_cases *cases)
{
    memset(cases, 0, sizeof *cases);
    cases->type = type, cases->layout = layout, cases->objective = objective;
    const ks_measurement **sorted = malloc((count + 1) * sizeof *sorted);
    double *values = malloc((count + 1) * sizeof *values);
    cases->items = malloc((count + 1) * sizeof *cases->items);
    if (!sorted || !values || !cases->items) {
        free(sorted);
        free(values);
        ks_cases_free(cases);
        return ks_fail(KS_ERR_MEMORY, "out of memory for %zu measurements", count);
    }
    size_t kept = 0;
    ks_status s = KS_OK;
    for (size_t i = 0; s == KS_OK && i < count; i++) {
        const ks_measurement *m = &rows[i];
        if (m->problem.type != type || m->problem.layout != layout || m->status != KS_OK) continue;
        const double value = value_of(m, objective);
        if (isnan(value)) continue;
        if (value > 0 && !isinf(value))
            sorted[kept++] = m;
        else
            s = quarantine(cases, &m->problem, m->kernel, value, NAN);
    }
    qsort(sorted, kept, sizeof *sorted, compare_rows);
    for (size_t i = 0, next; i < kept; i = next) {
        size_t n = 0;
        for (next = i; next < kept && compare_rows(&sorted[i], &sorted[next]) == 0; next++)
            values[n++] = value_of(sorted[next], objective);
        const int q = column(cases, sorted[i]);
        if (q < 0) continue;
        ks_case *c = cases->count ? &cases->items[cases->count - 1] : NULL;
        if (!c || !same_pattern_and_batch(&c->problem, &sorted[i]->problem)) {
            c = &cases->items[cases->count++];
            c->problem = sorted[i]->problem;
            for (int k = 0; k < KS_MODEL_KERNELS; k++) c->value[k] = NAN;
        }
        qsort(values, n, sizeof *values, compare_values);
        c->value[q] = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    }
    if (s == KS_OK) s = quarantine_impossible(cases, device, values);
    free(sorted);
    free(values);
    if (s != KS_OK) ks_cases_free(cases);
    return s;
}

void ks_cases_free(ks_cases *cases)
{
    free(cases->items);
    free(cases->suspects);
    cases->items = NULL, cases->suspects = NULL;
    cases->count = cases->quarantined = 0;
}

int ks_case_best(const ks_cases *cases, const ks_case *c, int family)
{
    int best = -1;
    for (int q = 0; q < cases->kernels; q++)
        if (!isnan(c->value[q]) && (family < 0 || (int)cases->kernel[q]->family == family) &&
            (best < 0 || c->value[q] < c->value[best]))
            best = q;
    return best;
}

int ks_case_kernels(const ks_cases *cases, const ks_case *c, const ks_kernel *kernels[KS_MODEL_KERNELS],
                    int columns[KS_MODEL_KERNELS])
{
    int count = 0;
    for (int q = 0; q < cases->kernels; q++)
        if (!isnan(c->value[q])) kernels[count] = cases->kernel[q], columns[count++] = q;
    return count;
}

bool ks_cases_cost(const ks_cases *cases, const ks_device *device, int q, double cost[KS_NTERMS])
{
    double *scale = malloc(((size_t)cases->count + 1) * sizeof *scale);
    int n = 0;
    if (!scale) return false;
    for (int i = 0; i < cases->count; i++) {
        scale[i] = cases->items[i].value[q];
        n += !isnan(scale[i]);
    }
    if (n > 0)
        fit_cost(cases, device, q, scale, cost);
    else
        ks_cost_assume(device, cases->type, cost);
    free(scale);
    return true;
}

ks_regret ks_cases_regret(const ks_cases *cases, const int *chosen, double *agreement)
{
    ks_regret r = {0};
    double *regret = malloc(((size_t)cases->count + 1) * sizeof *regret);
    int agreed = 0;
    for (int i = 0; regret && i < cases->count; i++) {
        const ks_case *c = &cases->items[i];
        const int best = ks_case_best(cases, c, -1);
        if (best < 0 || chosen[i] < 0 || isnan(c->value[chosen[i]])) continue;
        regret[r.problems] = c->value[chosen[i]] / c->value[best] - 1;
        r.mean += regret[r.problems++];
        agreed += chosen[i] == best;
    }
    if (agreement) *agreement = r.problems ? (double)agreed / r.problems : NAN;
    if (r.problems) {
        qsort(regret, (size_t)r.problems, sizeof *regret, compare_values);
        r.mean /= r.problems;
        r.median = regret[(r.problems - 1) / 2];
        r.p95 = regret[(int)ceil(0.95 * r.problems) - 1];
        r.max = regret[r.problems - 1];
    }
    free(regret);
    return r;
}

void ks_cases_choose(const ks_cases *cases, const ks_device *device, const ks_model *model, int *chosen)
{
    for (int i = 0; i < cases->count; i++) {
        const ks_kernel *kernels[KS_MODEL_KERNELS];
        int columns[KS_MODEL_KERNELS];
        ks_prediction predicted[KS_MODEL_KERNELS];
        const int count = ks_case_kernels(cases, &cases->items[i], kernels, columns);
        ks_model_predict(model, device, &cases->items[i].problem, kernels, count, false, predicted);
        chosen[i] = count ? columns[ks_prediction_best(predicted, count)] : -1;
    }
}

void ks_cases_choose_family(const ks_cases *cases, ks_family family, int *chosen)
{
    for (int i = 0; i < cases->count; i++) chosen[i] = ks_case_best(cases, &cases->items[i], (int)family);
}

static double ratio_of(const ks_problem *p)
{
    return (double)(p->b + p->c) / ((double)p->b * (double)p->c);
}

static double choose_by_ratio(const ks_cases *cases, double threshold, int *chosen)
{
    for (int i = 0; i < cases->count; i++) {
        const ks_case *c = &cases->items[i];
        chosen[i] = ks_case_best(cases, c, ratio_of(&c->problem) >= threshold ? KS_FUSED : KS_BMM);
    }
    return ks_cases_regret(cases, chosen, NULL).mean;
}

void ks_cases_choose_ratio(const ks_cases *cases, int *chosen, double *threshold)
{
    double best = INFINITY;
    *threshold = INFINITY;
    /* (b+c)/(bc) lies in (0, 2]; steps of 2 % find the best threshold as finely as it matters. */
    for (double t = 1e-4; t < 2.1; t *= 1.02) {
        const double mean = choose_by_ratio(cases, t, chosen);
        if (mean < best) best = mean, *threshold = t;
    }
    choose_by_ratio(cases, *threshold, chosen);
}

void ks_cases_judge_static(const ks_cases *cases, int *chosen, ks_acceptance *a)
{
    ks_cases_choose_family(cases, KS_FUSED, chosen);
    a->always_fused = ks_cases_regret(cases, chosen, NULL);
    ks_cases_choose_family(cases, KS_BMM, chosen);
    a->always_bmm = ks_cases_regret(cases, chosen, NULL);
    ks_cases_choose_ratio(cases, chosen, &a->ratio_threshold);
    a->ratio = ks_cases_regret(cases, chosen, NULL);
}
