/* The fit: costs by non-negative least squares (cases.c), then one Gaussian process a kernel over the log residuals.
 *
 * How far a feature's influence reaches is much the same on every device: length scales found on two GPUs predict each
 * other's regrets no worse than those found on the data at hand, which are too few for so many parameters. So the lengths are
 * built in, for GPUs and CPUs and for each layout, and what is found anew is one factor of them all and the noise: by the
 * marginal likelihood (Rasmussen and Williams, section 5.4.1), the signal's variance profiled out, on a random subset, by
 * Nelder-Mead, with a weak prior. The last solve takes all points. */
#include "fit.h"
#include "cholesky.h"
#include "condense.h"
#include "error.h"
#include "random.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_multimin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEARCH_POINTS = 120, LENGTHS = KS_MODEL_DIMS + KS_MODEL_OWN };

static const double noise_least = 1e-3; /* measurement variance over signal variance */

/* What is known before a device is: lengths in the order of ks_model_features and ks_model_own_features. They are geometric
 * means over the best for F32 and F16 on an H100 and an H200, and for F32 on a CPU of two threads in three calibrations. */
typedef struct scales {
    double length[LENGTHS], noise;
    double apart; /* squared distance between what was measured here and what is borrowed */
} scales;

static const scales gpu_prior[KS_NLAYOUTS] = {
    [KS_BATCH_FIRST] =
        {{39, 32, 7.6, 9.1, 19, 5.9, 22, 7.5, 3.7, 25, 14, 2.7, 4.3, 3.4, 3.7, 9, 8.4, 2.7, 2.5, 3.1, 3}, 0.004, 0.1},
    [KS_BATCH_LAST] = {{71, 30, 6, 62, 15, 18, 7.8, 2.6, 6.2, 9.6, 5.7, 3.2, 11, 2.6, 3.4, 2.1, 9, 2.6, 2.1, 2, 2.3},
                       0.002,
                       0.1},
};

static const scales cpu_prior[KS_NLAYOUTS] = {
    [KS_BATCH_FIRST] = {{12, 6, 4.9, 9.5, 6.5, 8, 2.2, 5.8, 3.7, 2, 3, 8, 5.5, 2.9, 5.8, 6.3, 7, 2.7, 4.2, 2.2, 6.4},
                        0.022,
                        0.1},
    [KS_BATCH_LAST] = {{10,  6.8, 6.6, 10,  5.2, 5.9, 2.6, 2.8, 2.6, 1.9, 2.8,
                        5.1, 4.7, 2.8, 5.8, 4.4, 5.6, 1.8, 6.9, 2.3, 2.4},
                       0.05,
                       0.1},
};

/* What is looked for: logarithms of the factor of all lengths and of that of the noise, and, where measurements are borrowed, of
 * that of their squared distance. */
enum { FACTOR, NOISE, APART, PARAMETERS };

/* One kernel's measured points: their rows in the input, and their residuals. */
typedef struct samples {
    int count, index[KS_MODEL_POINTS];
    double residual[KS_MODEL_POINTS];
} samples;

typedef struct training {
    int points, kernels;
    int borrowed;              /* the last so many points */
    int item[KS_MODEL_POINTS]; /* case of each point */
    const scales *prior;
    float features[KS_MODEL_POINTS][KS_MODEL_DIMS];
    float own[KS_MODEL_KERNELS][KS_MODEL_POINTS][KS_MODEL_OWN];
    samples kernel[KS_MODEL_KERNELS];
    double cost[KS_MODEL_KERNELS][KS_NTERMS];
} training;

static double squared(const float *x, const float *y, int count, const double *length)
{
    double sum = 0;
    for (int d = 0; d < count; d++) {
        const double z = (double)(x[d] - y[d]) / length[d];
        sum += z * z;
    }
    return sum;
}

/* Of kernel q between points i and j. */
static double correlation(const training *t, int q, int i, int j, const scales *at)
{
    const int own = t->points - t->borrowed;
    const double apart = (i < own) == (j < own) ? 0 : at->apart;
    const double r = sqrt(3 * (apart + squared(t->features[i], t->features[j], KS_MODEL_DIMS, at->length) +
                               squared(t->own[q][i], t->own[q][j], KS_MODEL_OWN, at->length + KS_MODEL_DIMS)));
    return (1 + r) * exp(-r);
}

/* Solves (R + noise I) alpha = residuals over the kernel's first `count` samples; returns the profiled signal variance, NaN if
 * there is no solution, infinity if out of memory. log_det may be NULL. */
static double solve(const training *t, int q, int count, const scales *at, double *alpha, double *log_det)
{
    const samples *s = &t->kernel[q];
    if (count < 1) return NAN;
    double *m = malloc(ks_packed_count(count) * sizeof *m), signal = NAN;
    if (!m) return INFINITY;
    for (int i = 0; i < count; i++) {
        double *row = m + ks_packed_count(i);
        for (int j = 0; j <= i; j++) row[j] = correlation(t, q, s->index[i], s->index[j], at);
        row[i] += at->noise;
    }
    if (ks_cholesky(m, count)) {
        memcpy(alpha, s->residual, (size_t)count * sizeof *alpha);
        ks_cholesky_solve(m, count, alpha);
        signal = 1e-6;
        for (int i = 0; i < count; i++) signal += s->residual[i] * alpha[i] / count;
        if (log_det) *log_det = ks_cholesky_log_det(m, count);
    }
    free(m);
    return signal;
}

/* The prior's, by the logarithms of their factors. */
static void scale(const scales *prior, const double factor[PARAMETERS], scales *out)
{
    for (int d = 0; d < LENGTHS; d++) out->length[d] = prior->length[d] * exp(factor[FACTOR]);
    out->noise = fmax(prior->noise * exp(factor[NOISE]), noise_least);
    out->apart = prior->apart * exp(factor[APART]);
}

/* How many parameters there are to look for. */
static int parameters(const training *t)
{
    return t->borrowed ? PARAMETERS : APART;
}

static double negative_log_posterior(const gsl_vector *v, void *user)
{
    const training *t = user;
    double factor[PARAMETERS] = {0}, alpha[KS_MODEL_POINTS];
    scales at;
    for (int i = 0; i < parameters(t); i++) factor[i] = gsl_vector_get(v, (size_t)i);
    /* Half and twice the length are as unlikely as a factor of 4 of the noise. */
    double sum = 2 * pow(factor[FACTOR], 2) + 0.5 * pow(factor[NOISE], 2) + 0.5 * pow(factor[APART], 2);
    scale(t->prior, factor, &at);
    for (int q = 0; q < t->kernels; q++) {
        const int all = t->kernel[q].count, count = all < SEARCH_POINTS ? all : SEARCH_POINTS;
        double log_det = 0;
        if (count < 3) continue;
        const double signal = solve(t, q, count, &at, alpha, &log_det);
        if (!(signal > 0 && isfinite(signal))) return 1e10;
        sum += 0.5 * count * log(signal) + 0.5 * log_det;
    }
    return isfinite(sum) ? sum : 1e10;
}

static void search(const training *t, int steps, double at[PARAMETERS])
{
    const int count = parameters(t);
    gsl_vector *start = gsl_vector_alloc((size_t)count), *step = gsl_vector_alloc((size_t)count);
    gsl_multimin_fminimizer *minimiser =
        gsl_multimin_fminimizer_alloc(gsl_multimin_fminimizer_nmsimplex2, (size_t)count);
    if (start && step && minimiser) {
        for (int i = 0; i < count; i++) gsl_vector_set(start, (size_t)i, at[i]);
        gsl_vector_set_all(step, 0.4);
        gsl_multimin_function f = {negative_log_posterior, (size_t)count, (void *)(uintptr_t)t};
        if (gsl_multimin_fminimizer_set(minimiser, &f, start, step) == GSL_SUCCESS)
            for (int i = 0; i < steps && gsl_multimin_fminimizer_iterate(minimiser) == GSL_SUCCESS; i++)
                if (gsl_multimin_test_size(gsl_multimin_fminimizer_size(minimiser), 0.05) == GSL_SUCCESS) break;
        const gsl_vector *best = gsl_multimin_fminimizer_x(minimiser);
        for (int i = 0; i < count; i++) at[i] = fmin(fmax(gsl_vector_get(best, (size_t)i), -2), 2);
    }
    gsl_vector_free(start);
    gsl_vector_free(step);
    if (minimiser) gsl_multimin_fminimizer_free(minimiser);
}

/* log of the second best value over the best: how close the race is. */
static double closeness(const ks_cases *cases, const ks_case *c)
{
    double best = INFINITY, second = INFINITY;
    for (int q = 0; q < cases->kernels; q++) {
        if (isnan(c->value[q])) continue;
        if (c->value[q] < best)
            second = best, best = c->value[q];
        else if (c->value[q] < second)
            second = c->value[q];
    }
    return isfinite(second) ? log(second / best) : INFINITY;
}

typedef struct ranked {
    double key;
    int item;
} ranked;

static int compare_ranked(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    return (a->key > b->key) - (a->key < b->key);
}

/* Which cases become points, in random order, the borrowed ones last. */
static bool choose_points(const ks_cases *cases, uint64_t seed, training *t)
{
    ranked *r = malloc(((size_t)cases->count + 1) * sizeof *r);
    if (!r) return false;
    int count = cases->count - cases->borrowed;
    if (count > KS_MODEL_POINTS) {
        for (int i = 0; i < count; i++) r[i] = (ranked){closeness(cases, &cases->items[i]), i};
        qsort(r, (size_t)count, sizeof *r, compare_ranked);
        /* The closest half stays at the front; of the others a random half fills up. */
        for (int i = KS_MODEL_POINTS / 2; i < count; i++) r[i].key = (double)ks_mix(seed + (uint64_t)r[i].item);
        qsort(r + KS_MODEL_POINTS / 2, (size_t)(count - KS_MODEL_POINTS / 2), sizeof *r, compare_ranked);
        count = KS_MODEL_POINTS;
    } else {
        for (int i = 0; i < count; i++) r[i].item = i;
    }
    for (int i = 0; i < count; i++) r[i].key = (double)ks_mix(seed ^ (uint64_t)r[i].item << 20);
    qsort(r, (size_t)count, sizeof *r, compare_ranked);
    for (int i = 0; i < count; i++) t->item[i] = r[i].item;
    free(r);
    t->points = count;
    for (int i = cases->count - cases->borrowed; i < cases->count && t->points < KS_MODEL_POINTS; i++)
        t->item[t->points++] = i;
    t->borrowed = t->points - count;
    for (int i = 0; i < t->points; i++) ks_model_features(&cases->items[t->item[i]].problem, t->features[i]);
    return true;
}

/* Points by turns from here and borrowed, as long as there are both: a prefix is a random part of either. */
static int nth_point(const training *t, int n)
{
    const int own = t->points - t->borrowed, both = own < t->borrowed ? own : t->borrowed;
    if (n < 2 * both) return n % 2 ? own + n / 2 : n / 2;
    return own > t->borrowed ? n - both : n;
}

/* False if out of memory. */
static bool collect_residuals(const ks_cases *cases, const ks_device *device, training *t)
{
    t->kernels = cases->kernels;
    for (int q = 0; q < t->kernels; q++) {
        samples *s = &t->kernel[q];
        s->count = 0;
        if (!ks_cases_cost(cases, device, q, t->cost[q])) return false;
        for (int n = 0; n < t->points; n++) {
            const int i = nth_point(t, n);
            const ks_case *c = &cases->items[t->item[i]];
            double terms[KS_NTERMS];
            if (isnan(c->value[q])) continue;
            cases->kernel[q]->cost_terms(&c->problem, device, terms);
            s->index[s->count] = i;
            ks_model_own_features(t->cost[q], terms, t->own[q][i]);
            s->residual[s->count++] = log(c->value[q] / ks_cost_s(t->cost[q], terms));
        }
    }
    return true;
}

static ks_status build(const ks_cases *cases, const training *t, const scales *at, ks_model *m)
{
    double alpha[KS_MODEL_POINTS];
    m->type = cases->type, m->layout = cases->layout, m->objective = cases->objective;
    m->points = m->problems = t->points, m->borrowed = t->borrowed, m->apart = (float)at->apart;
    for (int d = 0; d < LENGTHS; d++) m->length[d] = (float)at->length[d];
    for (int d = 0; d < KS_MODEL_DIMS; d++)
        for (int i = 0; i < t->points; i++) m->input[d][i] = t->features[i][d] / m->length[d];
    for (int q = 0; q < t->kernels; q++) {
        const samples *s = &t->kernel[q];
        if (s->count < 3) continue;
        const double signal = solve(t, q, s->count, at, alpha, NULL);
        if (isinf(signal)) return ks_fail(KS_ERR_MEMORY, "out of memory for a fit to %d problems", s->count);
        if (isnan(signal))
            return ks_fail(KS_ERR_INTERNAL, "the fit of %s is not positive definite", cases->kernel[q]->name);
        ks_model_kernel *k = &m->kernel[m->kernels++];
        strcpy(k->name, cases->kernel[q]->name);
        k->version = cases->kernel[q]->version, k->family = cases->kernel[q]->family;
        ks_foreign_kernel(&k->foreign, k->name, k->family, k->version);
        k->generic = ks_kernel_is_foreign(cases->kernel[q]);
        memcpy(k->cost, t->cost[q], sizeof k->cost);
        k->signal = signal, k->noise = at->noise * signal;
        for (int i = 0; i < s->count; i++) {
            const int point = s->index[i];
            k->alpha[point] = (float)alpha[i], k->measured[point] = true;
            for (int o = 0; o < KS_MODEL_OWN; o++)
                k->own[o][point] = t->own[q][point][o] / m->length[KS_MODEL_DIMS + o];
        }
    }
    return m->kernels ? KS_OK : ks_fail(KS_ERR_NO_DATA, "no kernel has 3 measurements or more");
}

/* Of a start's lengths, noise and distance, as factors of the prior's. */
static void start_from(const ks_model *start, const scales *prior, double at[PARAMETERS])
{
    if (!start) return;
    at[FACTOR] = log((double)start->length[0] / prior->length[0]);
    if (start->kernels) at[NOISE] = log(start->kernel[0].noise / start->kernel[0].signal / prior->noise);
    if (start->borrowed) at[APART] = log((double)start->apart / prior->apart);
}

static ks_status fit(const ks_cases *cases, const ks_device *device, const ks_fit_options *options, ks_model **model)
{
    training *t = calloc(1, sizeof *t);
    ks_model *m = calloc(1, sizeof *m);
    ks_status s = KS_OK;
    if (!t || !m || !choose_points(cases, options->seed, t) || !collect_residuals(cases, device, t)) {
        s = ks_fail(KS_ERR_MEMORY, "out of memory for a fit");
        goto done;
    }
    double factor[PARAMETERS] = {0};
    scales at;
    t->prior = &(device->backend == KS_CUDA ? gpu_prior : cpu_prior)[cases->layout];
    start_from(options->start, t->prior, factor);
    if (options->search_steps > 0) search(t, options->search_steps, factor);
    scale(t->prior, factor, &at);
    m->caution = options->start ? options->start->caution : 1;
    s = build(cases, t, &at, m);
    if (s == KS_OK && !options->points_only) s = ks_condense(cases, device, options->seed, m);
    if (s == KS_OK) s = ks_model_factorise(m);
done:
    free(t);
    if (s != KS_OK) {
        ks_model_free(m);
        return s;
    }
    *model = m;
    return KS_OK;
}

ks_status ks_fit(const ks_cases *cases, const ks_device *device, const ks_fit_options *options, ks_model **model)
{
    const ks_fit_options defaults = {0};
    if (!options) options = &defaults;
    *model = NULL;
    if (cases->count < 4) return ks_fail(KS_ERR_NO_DATA, "%d problems are measured, a fit needs 4", cases->count);
    gsl_error_handler_t *handler = gsl_set_error_handler_off(); /* GSL's own one aborts the process */
    ks_status s;
    if (options->origin && options->origin->model) {
        ks_cases both;
        s = ks_cases_borrow(cases, device, options->origin, KS_FIT_BORROWED, &both);
        if (s == KS_OK) s = fit(&both, device, options, model);
        free(both.items);
    } else {
        s = fit(cases, device, options, model);
    }
    gsl_set_error_handler(handler);
    return s;
}
