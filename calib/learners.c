/* What else could learn the residual: nothing at all (the cost model alone), a ridge regression on all products of two features,
 * and the nearest neighbours. None of them is used by the library. They see what the Gaussian process sees, features over
 * length scales, so that only the learner differs. */
#include "learners.h"
#include "error.h"

#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIMS = KS_MODEL_DIMS + KS_MODEL_OWN, NEIGHBOURS = 5, PENALTIES = 6, TRIED = 200 };

/* One kernel's training set. */
typedef struct lesson {
    int count;
    double (*place)[DIMS]; /* features over length scale */
    double *residual;
    double *weight; /* the ridge's, of each row; else unused */
} lesson;

static const ks_model_kernel *find(const ks_model *m, const ks_kernel *kernel)
{
    for (int q = 0; q < m->kernels; q++)
        if (strcmp(m->kernel[q].name, kernel->name) == 0) return &m->kernel[q];
    return NULL;
}

/* The problem's place for this kernel; returns the logarithm of its cost. */
static double place_of(const ks_model *m, const ks_model_kernel *k, const ks_kernel *kernel, const ks_problem *p,
                       const ks_device *device, double place[DIMS])
{
    float shared[KS_MODEL_DIMS], own[KS_MODEL_OWN];
    double terms[KS_NTERMS];
    kernel->cost_terms(p, device, terms);
    ks_model_features(p, shared);
    ks_model_own_features(k->cost, terms, own);
    for (int d = 0; d < KS_MODEL_DIMS; d++) place[d] = (double)(shared[d] / m->length[d]);
    for (int d = KS_MODEL_DIMS; d < DIMS; d++) place[d] = (double)(own[d - KS_MODEL_DIMS] / m->length[d]);
    return log(ks_cost_s(k->cost, terms));
}

/* Every polynomial of degree 2, as an inner product. */
static double product(const double x[DIMS], const double y[DIMS])
{
    double sum = 1;
    for (int d = 0; d < DIMS; d++) sum += x[d] * y[d];
    return sum * sum;
}

static double squared_distance(const double x[DIMS], const double y[DIMS])
{
    double sum = 0;
    for (int d = 0; d < DIMS; d++) sum += (x[d] - y[d]) * (x[d] - y[d]);
    return sum;
}

/* Weights of the first `count` rows by the ridge of this penalty. Returns the sum of squared errors when each row is left out in
 * turn, if asked for (it takes the inverse); NaN if there is no solution. */
static double solve_ridge(const lesson *l, int count, double penalty, double *weight, bool leave_out)
{
    gsl_matrix *m = gsl_matrix_alloc((size_t)count, (size_t)count);
    double sum = NAN;
    if (!m) return sum;
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++)
            gsl_matrix_set(m, (size_t)i, (size_t)j, product(l->place[i], l->place[j]) + (i == j ? penalty : 0));
    gsl_vector_const_view right = gsl_vector_const_view_array(l->residual, (size_t)count);
    gsl_vector_view w = gsl_vector_view_array(weight, (size_t)count);
    if (gsl_linalg_cholesky_decomp1(m) == GSL_SUCCESS &&
        gsl_linalg_cholesky_solve(m, &right.vector, &w.vector) == GSL_SUCCESS) {
        sum = 0;
        if (leave_out) gsl_linalg_cholesky_invert(m);
        for (int i = 0; leave_out && i < count; i++)
            sum += pow(weight[i] / gsl_matrix_get(m, (size_t)i, (size_t)i), 2);
    }
    gsl_matrix_free(m);
    return sum;
}

static ks_status learn_ridge(lesson *l)
{
    static const double penalties[PENALTIES] = {1e-3, 1e-2, 0.1, 1, 10, 100};
    const int tried = l->count < TRIED ? l->count : TRIED;
    double best = INFINITY, penalty = penalties[PENALTIES - 1];
    for (int i = 0; i < PENALTIES; i++) {
        const double sum = solve_ridge(l, tried, penalties[i], l->weight, true);
        if (sum < best) best = sum, penalty = penalties[i];
    }
    return isnan(solve_ridge(l, l->count, penalty, l->weight, false))
               ? ks_fail(KS_ERR_INTERNAL, "the ridge is not positive definite")
               : KS_OK;
}

/* The nearest rows' residuals, each weighted by one over its distance. */
static double nearest(const lesson *l, const double place[DIMS])
{
    double distance[NEIGHBOURS], residual[NEIGHBOURS], sum = 0, weights = 0;
    int kept = 0;
    for (int i = 0; i < l->count; i++) {
        const double d = squared_distance(l->place[i], place);
        if (kept == NEIGHBOURS && d >= distance[kept - 1]) continue;
        int at = kept < NEIGHBOURS ? kept++ : kept - 1;
        for (; at > 0 && distance[at - 1] > d; at--) distance[at] = distance[at - 1], residual[at] = residual[at - 1];
        distance[at] = d, residual[at] = l->residual[i];
    }
    for (int i = 0; i < kept; i++) {
        const double w = 1 / (sqrt(distance[i]) + 1e-6);
        sum += w * residual[i], weights += w;
    }
    return kept ? sum / weights : 0;
}

static double recall(ks_learner learner, const lesson *l, const double place[DIMS])
{
    double sum = 0;
    if (learner == KS_LEARN_NEAREST) return nearest(l, place);
    if (learner == KS_LEARN_RIDGE)
        for (int i = 0; i < l->count; i++) sum += l->weight[i] * product(l->place[i], place);
    return sum;
}

/* The rows in random order, so that the first of them are a random part. */
static ks_status read_lesson(const ks_cases *train, int q, const ks_model *m, const ks_model_kernel *k,
                             const ks_device *device, lesson *l)
{
    const size_t room = (size_t)train->count + 1;
    uint64_t random = 1;
    l->place = malloc(room * sizeof *l->place);
    l->residual = malloc(room * sizeof *l->residual);
    l->weight = malloc(room * sizeof *l->weight);
    if (!l->place || !l->residual || !l->weight) return ks_fail(KS_ERR_MEMORY, "out of memory for a learner");
    for (int i = 0; i < train->count; i++) {
        const ks_case *c = &train->items[i];
        if (isnan(c->value[q])) continue;
        random = random * 6364136223846793005u + 1442695040888963407u;
        const int at = l->count++, other = (int)((random >> 33) % (uint64_t)l->count);
        memcpy(l->place[at], l->place[other], sizeof *l->place);
        l->residual[at] = l->residual[other];
        const double cost = place_of(m, k, train->kernel[q], &c->problem, device, l->place[other]);
        l->residual[other] = log(c->value[q]) - cost;
    }
    return KS_OK;
}

static ks_status advise(ks_learner learner, const ks_model *m, const lesson *lessons, const ks_case *c,
                        const ks_device *device, ks_heldout *out)
{
    const ks_kernel *kernels[KS_MODEL_KERNELS];
    int columns[KS_MODEL_KERNELS];
    ks_prediction predicted[KS_MODEL_KERNELS];
    const int count = ks_case_kernels(&out->cases, c, kernels, columns);
    ks_model_predict(m, device, &c->problem, kernels, count, false, predicted); /* for the kernels it does not know */
    for (int i = 0; i < count; i++) {
        double place[DIMS];
        const ks_model_kernel *k = find(m, kernels[i]);
        if (k) predicted[i].log_time = place_of(m, k, kernels[i], &c->problem, device, place);
        if (k) predicted[i].log_time += recall(learner, &lessons[columns[i]], place);
    }
    return ks_heldout_add(out, c, predicted, columns, count, false);
}

ks_status ks_learn_and_advise(ks_learner learner, const ks_model *m, const ks_cases *train, const ks_device *device,
                              const ks_cases *others, ks_heldout *out)
{
    lesson lessons[KS_MODEL_KERNELS] = {{0}};
    gsl_error_handler_t *handler = gsl_set_error_handler_off();
    ks_status s = KS_OK;
    for (int q = 0; s == KS_OK && q < train->kernels; q++) {
        const ks_model_kernel *k = find(m, train->kernel[q]);
        if (k) s = read_lesson(train, q, m, k, device, &lessons[q]);
        if (k && s == KS_OK && learner == KS_LEARN_RIDGE) s = learn_ridge(&lessons[q]);
    }
    for (int i = 0; s == KS_OK && i < others->count; i++)
        s = advise(learner, m, lessons, &others->items[i], device, out);
    for (int q = 0; q < KS_MODEL_KERNELS; q++) {
        free(lessons[q].place);
        free(lessons[q].residual);
        free(lessons[q].weight);
    }
    gsl_set_error_handler(handler);
    return s;
}
