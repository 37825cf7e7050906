/* The fit: costs by non-negative least squares (cases.c), then one Gaussian process a kernel over the log residuals.
 *
 * Length scales and the noise ratio are shared by the kernels and found by maximising the marginal likelihood (Rasmussen
 * and Williams, section 5.4.1), the signal's variance profiled out, on a random subset: Nelder-Mead over their logarithms,
 * with a weak prior that keeps scales sensible where there is little data. The last solve takes all points. */
#include "fit.h"
#include "error.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include <gsl/gsl_multimin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEARCH_POINTS = 150, PARAMETERS = KS_MODEL_DIMS + 1, FOLDS = 5 };

static const double noise_least = 1e-3, noise_start = 0.03; /* measurement variance over signal variance */
static const double length_start = 3.0;                     /* doublings of a size */

/* One kernel's measured points: their rows in the input, and their residuals. */
typedef struct samples {
    int count, index[KS_MODEL_POINTS];
    double residual[KS_MODEL_POINTS];
} samples;

typedef struct training {
    int points, kernels;
    int item[KS_MODEL_POINTS]; /* case of each point */
    float features[KS_MODEL_POINTS][KS_MODEL_DIMS];
    samples kernel[KS_MODEL_KERNELS];
    double cost[KS_MODEL_KERNELS][KS_NTERMS];
} training;

static double correlation(const float *x, const float *y, const double *length)
{
    double sum = 0;
    for (int d = 0; d < KS_MODEL_DIMS; d++) {
        const double z = ((double)x[d] - (double)y[d]) / length[d];
        sum += z * z;
    }
    const double r = sqrt(3 * sum);
    return (1 + r) * exp(-r);
}

/* (R + noise I) over the kernel's first `count` samples, factorised. NULL if out of memory or not positive definite. */
static gsl_matrix *factorised(const training *t, const samples *s, int count, const double *length, double noise)
{
    gsl_matrix *m = gsl_matrix_alloc((size_t)count, (size_t)count);
    if (!m) return NULL;
    for (int i = 0; i < count; i++)
        for (int j = 0; j <= i; j++) {
            const double value =
                correlation(t->features[s->index[i]], t->features[s->index[j]], length) + (i == j ? noise : 0);
            gsl_matrix_set(m, (size_t)i, (size_t)j, value);
            gsl_matrix_set(m, (size_t)j, (size_t)i, value);
        }
    if (gsl_linalg_cholesky_decomp1(m) != GSL_SUCCESS) {
        gsl_matrix_free(m);
        return NULL;
    }
    return m;
}

/* Solves for the weights; returns the profiled signal variance, or NaN. log_det may be NULL. */
static double solve(const training *t, const samples *s, int count, const double *length, double noise, double *alpha,
                    double *log_det)
{
    if (count < 1) return NAN;
    gsl_matrix *m = factorised(t, s, count, length, noise);
    if (!m) return NAN;
    gsl_vector_const_view right = gsl_vector_const_view_array(s->residual, (size_t)count);
    gsl_vector_view x = gsl_vector_view_array(alpha, (size_t)count);
    double signal = NAN;
    if (gsl_linalg_cholesky_solve(m, &right.vector, &x.vector) == GSL_SUCCESS) {
        gsl_blas_ddot(&right.vector, &x.vector, &signal);
        signal = signal / count + 1e-6;
    }
    if (log_det) {
        *log_det = 0;
        for (int i = 0; i < count; i++) *log_det += 2 * log(gsl_matrix_get(m, (size_t)i, (size_t)i));
    }
    gsl_matrix_free(m);
    return signal;
}

static double negative_log_posterior(const gsl_vector *v, void *user)
{
    const training *t = user;
    double length[KS_MODEL_DIMS], alpha[KS_MODEL_POINTS], sum = 0;
    for (int d = 0; d < KS_MODEL_DIMS; d++) {
        const double z = gsl_vector_get(v, (size_t)d);
        length[d] = exp(z);
        sum += 0.5 * (z - log(length_start)) * (z - log(length_start));
    }
    const double z = gsl_vector_get(v, KS_MODEL_DIMS), noise = exp(z);
    sum += 0.125 * (z - log(noise_start)) * (z - log(noise_start));
    if (noise < noise_least) return 1e10;
    for (int q = 0; q < t->kernels; q++) {
        const samples *s = &t->kernel[q];
        const int count = s->count < SEARCH_POINTS ? s->count : SEARCH_POINTS;
        double log_det;
        if (count < 3) continue;
        const double signal = solve(t, s, count, length, noise, alpha, &log_det);
        if (!(signal > 0)) return 1e10;
        sum += 0.5 * count * log(signal) + 0.5 * log_det;
    }
    return isfinite(sum) ? sum : 1e10;
}

static void search(const training *t, int steps, double length[KS_MODEL_DIMS], double *noise)
{
    gsl_vector *at = gsl_vector_alloc(PARAMETERS), *step = gsl_vector_alloc(PARAMETERS);
    gsl_multimin_fminimizer *minimiser =
        gsl_multimin_fminimizer_alloc(gsl_multimin_fminimizer_nmsimplex2, PARAMETERS);
    if (at && step && minimiser) {
        for (int d = 0; d < KS_MODEL_DIMS; d++) gsl_vector_set(at, (size_t)d, log(length[d]));
        gsl_vector_set(at, KS_MODEL_DIMS, log(*noise));
        gsl_vector_set_all(step, 0.6);
        gsl_multimin_function f = {negative_log_posterior, PARAMETERS, (void *)(uintptr_t)t};
        if (gsl_multimin_fminimizer_set(minimiser, &f, at, step) == GSL_SUCCESS)
            for (int i = 0; i < steps && gsl_multimin_fminimizer_iterate(minimiser) == GSL_SUCCESS; i++)
                if (gsl_multimin_test_size(gsl_multimin_fminimizer_size(minimiser), 0.02) == GSL_SUCCESS) break;
        const gsl_vector *best = gsl_multimin_fminimizer_x(minimiser);
        for (int d = 0; d < KS_MODEL_DIMS; d++) length[d] = exp(gsl_vector_get(best, (size_t)d));
        *noise = fmax(exp(gsl_vector_get(best, KS_MODEL_DIMS)), noise_least);
    }
    for (int d = 0; d < KS_MODEL_DIMS; d++) length[d] = fmin(fmax(length[d], 0.05), 100);
    gsl_vector_free(at);
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

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Which cases become points, in random order (so that a prefix is a random subset). */
static bool choose_points(const ks_cases *cases, uint64_t seed, training *t)
{
    ranked *r = malloc(((size_t)cases->count + 1) * sizeof *r);
    if (!r) return false;
    int count = cases->count;
    if (count > KS_MODEL_POINTS) {
        for (int i = 0; i < count; i++) r[i] = (ranked){closeness(cases, &cases->items[i]), i};
        qsort(r, (size_t)count, sizeof *r, compare_ranked);
        /* The closest half stays at the front; of the others a random half fills up. */
        for (int i = KS_MODEL_POINTS / 2; i < count; i++) r[i].key = (double)mix(seed + (uint64_t)r[i].item);
        qsort(r + KS_MODEL_POINTS / 2, (size_t)(count - KS_MODEL_POINTS / 2), sizeof *r, compare_ranked);
        count = KS_MODEL_POINTS;
    } else {
        for (int i = 0; i < count; i++) r[i].item = i;
    }
    for (int i = 0; i < count; i++) r[i].key = (double)mix(seed ^ (uint64_t)r[i].item << 20);
    qsort(r, (size_t)count, sizeof *r, compare_ranked);
    t->points = count;
    for (int i = 0; i < count; i++) {
        t->item[i] = r[i].item;
        ks_model_features(&cases->items[r[i].item].problem, t->features[i]);
    }
    free(r);
    return true;
}

static void collect_residuals(const ks_cases *cases, const ks_device *device, training *t)
{
    t->kernels = cases->kernels;
    for (int q = 0; q < t->kernels; q++) {
        samples *s = &t->kernel[q];
        s->count = 0;
        ks_cases_cost(cases, device, q, t->cost[q]);
        for (int i = 0; i < t->points; i++) {
            const ks_case *c = &cases->items[t->item[i]];
            double terms[KS_NTERMS];
            if (isnan(c->value[q])) continue;
            cases->kernel[q]->cost_terms(&c->problem, device, terms);
            s->index[s->count] = i;
            s->residual[s->count++] = log(c->value[q] / ks_cost_s(t->cost[q], terms));
        }
    }
}

static ks_status build(const ks_cases *cases, const training *t, const double *length, double noise, bool means_only,
                       ks_model *m)
{
    double alpha[KS_MODEL_POINTS];
    m->type = cases->type, m->layout = cases->layout, m->objective = cases->objective;
    m->points = t->points;
    for (int d = 0; d < KS_MODEL_DIMS; d++) {
        m->length[d] = (float)length[d];
        for (int i = 0; i < t->points; i++) m->input[d][i] = t->features[i][d] / m->length[d];
    }
    for (int q = 0; q < t->kernels; q++) {
        const samples *s = &t->kernel[q];
        if (s->count < 3) continue;
        const double signal = solve(t, s, s->count, length, noise, alpha, NULL);
        if (isnan(signal))
            return ks_fail(KS_ERR_INTERNAL, "the fit of %s is not positive definite", cases->kernel[q]->name);
        ks_model_kernel *k = &m->kernel[m->kernels++];
        strcpy(k->name, cases->kernel[q]->name);
        k->version = cases->kernel[q]->version, k->family = cases->kernel[q]->family;
        ks_foreign_kernel(&k->foreign, k->name, k->family, k->version);
        memcpy(k->cost, t->cost[q], sizeof k->cost);
        k->signal = signal, k->noise = noise * signal;
        for (int i = 0; i < s->count; i++) k->alpha[s->index[i]] = (float)alpha[i], k->measured[s->index[i]] = true;
    }
    if (m->kernels == 0) return ks_fail(KS_ERR_NO_DATA, "no kernel has 3 measurements or more");
    return means_only ? KS_OK : ks_model_factorise(m);
}

ks_status ks_fit(const ks_cases *cases, const ks_device *device, const ks_fit_options *options, ks_model **model)
{
    *model = NULL;
    if (cases->count < 4) return ks_fail(KS_ERR_NO_DATA, "%d problems are measured, a fit needs 4", cases->count);
    gsl_error_handler_t *handler = gsl_set_error_handler_off(); /* GSL's own one aborts the process */
    training *t = malloc(sizeof *t);
    ks_model *m = calloc(1, sizeof *m);
    ks_status s = KS_OK;
    if (!t || !m || !choose_points(cases, options ? options->seed : 0, t)) {
        s = ks_fail(KS_ERR_MEMORY, "out of memory for a fit");
        goto done;
    }
    collect_residuals(cases, device, t);
    double length[KS_MODEL_DIMS], noise = noise_start;
    const ks_model *start = options ? options->start : NULL;
    for (int d = 0; d < KS_MODEL_DIMS; d++) length[d] = start ? (double)start->length[d] : length_start;
    if (start && start->kernels) noise = fmax(start->kernel[0].noise / start->kernel[0].signal, noise_least);
    if (options && options->search_steps > 0) search(t, options->search_steps, length, &noise);
    s = build(cases, t, length, noise, options && options->means_only, m);
done:
    gsl_set_error_handler(handler);
    free(t);
    if (s != KS_OK) {
        ks_model_free(m);
        return s;
    }
    *model = m;
    return KS_OK;
}

static int fold_of(const ks_problem *p)
{
    const uint64_t key = mix(mix(mix(mix((uint64_t)p->a) ^ (uint64_t)p->b) ^ (uint64_t)p->c) ^ (uint64_t)p->d);
    return (int)(key % FOLDS);
}

double ks_fit_cross_validate(const ks_cases *cases, const ks_device *device, const ks_model *model)
{
    double sum = 0;
    int problems = 0;
    ks_cases part = *cases, rest = *cases;
    part.items = malloc(((size_t)cases->count + 1) * sizeof *part.items);
    rest.items = malloc(((size_t)cases->count + 1) * sizeof *rest.items);
    int *chosen = malloc(((size_t)cases->count + 1) * sizeof *chosen);
    for (int fold = 0; part.items && rest.items && chosen && fold < FOLDS; fold++) {
        part.count = rest.count = 0;
        for (int i = 0; i < cases->count; i++) {
            const ks_case *c = &cases->items[i];
            if (fold_of(&c->problem) == fold)
                part.items[part.count++] = *c;
            else
                rest.items[rest.count++] = *c;
        }
        ks_model *m;
        ks_fit_options options = {.start = model, .means_only = true};
        if (ks_fit(&rest, device, &options, &m) != KS_OK) continue;
        ks_cases_choose(&part, device, m, chosen);
        const ks_regret r = ks_cases_regret(&part, chosen, NULL);
        sum += r.mean * r.problems, problems += r.problems;
        ks_model_free(m);
    }
    free(part.items);
    free(rest.items);
    free(chosen);
    return problems ? sum / problems : NAN;
}
