/* The subset of regressors: the process is written as a sum of correlations with the model's points, and the weights are found by
 * least squares over all measurements,
 *
 *     (noise K + sum of c c') alpha = sum of c r,
 *
 * where K holds the correlations among the points, c those of one measured problem with the points, and r is its residual.
 * (Rasmussen and Williams, section 8.3.1, equation 8.14. Deviations stay those of the points alone, with a noise that is the
 * smaller the more measurements a point stands for; the caution found by cross-validation is their measure.) */
#include "condense.h"
#include "cholesky.h"
#include "error.h"
#include "random.h"
#include "wide.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 8 * KS_MODEL_POINTS, AT_ONCE = 8 };

static const double jitter = 1e-4; /* of a point's own noise: points that are all but equal */

/* The equations of one kernel, over the points where it was measured. */
typedef struct equations {
    int points, index[KS_MODEL_POINTS];
    double *left; /* as in cholesky.h */
    double right[KS_MODEL_POINTS];
    double row[AT_ONCE][KS_MODEL_POINTS]; /* measurements that are not yet added */
    int rows;
} equations;

/* The correlations of a problem with those points. */
static void correlate(const equations *e, const ks_model *m, int q, const ks_problem *p, const ks_device *device,
                      double *row)
{
    float likeness[KS_MODEL_POINTS];
    ks_model_likeness(m, q, p, device, likeness);
    for (int i = 0; i < e->points; i++) row[i] = (double)likeness[e->index[i]];
}

/* Adds several products of a row with itself in one pass over the matrix, which is larger than a core's cache. */
static WIDE void add_rows(equations *e)
{
    for (int i = 0; i < e->points; i++) {
        double *restrict out = e->left + ks_packed_count(i), x[AT_ONCE];
        for (int r = 0; r < AT_ONCE; r++) x[r] = e->row[r][i];
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int r = 0; r < AT_ONCE; r++) sum += x[r] * e->row[r][j];
            out[j] += sum;
        }
    }
    memset(e->row, 0, sizeof e->row);
    e->rows = 0;
}

static void begin(equations *e, const ks_model *m, int q, const ks_device *device)
{
    const double noise = m->kernel[q].noise / m->kernel[q].signal;
    e->points = e->rows = 0;
    for (int i = 0; i < m->points; i++)
        if (m->kernel[q].measured[i]) e->index[e->points++] = i;
    memset(e->right, 0, sizeof e->right);
    memset(e->row, 0, sizeof e->row);
    for (int i = 0; i < e->points; i++) {
        const ks_problem p = ks_model_point(m, e->index[i]);
        double row[KS_MODEL_POINTS], *out = e->left + ks_packed_count(i);
        correlate(e, m, q, &p, device, row);
        for (int j = 0; j <= i; j++) out[j] = noise * (row[j] + (i == j ? jitter : 0));
    }
}

static void add_case(equations *e, const ks_model *m, int q, const ks_case *c, double value, const ks_device *device)
{
    double terms[KS_NTERMS], *row = e->row[e->rows++];
    ks_model_terms(m, q, &c->problem, device, terms);
    const double residual = log(value / ks_cost_s(m->kernel[q].cost, terms));
    correlate(e, m, q, &c->problem, device, row);
    for (int i = 0; i < e->points; i++) e->right[i] += row[i] * residual;
    if (e->rows == AT_ONCE) add_rows(e);
}

static bool solve(equations *e, ks_model_kernel *k)
{
    if (!ks_cholesky(e->left, e->points)) return false;
    ks_cholesky_solve(e->left, e->points, e->right);
    for (int i = 0; i < e->points; i++) k->alpha[e->index[i]] = (float)e->right[i];
    return true;
}

static int column_of(const ks_cases *cases, const char *name)
{
    for (int k = 0; k < cases->kernels; k++)
        if (strcmp(cases->kernel[k]->name, name) == 0) return k;
    return -1;
}

ks_status ks_condense(const ks_cases *cases, const ks_device *device, uint64_t seed, ks_model *m)
{
    const int own = cases->count - cases->borrowed;
    ks_status s = KS_OK;
    if (own <= m->points - m->borrowed) return KS_OK;
    equations *e = malloc(sizeof *e);
    double *left = malloc(ks_packed_count(m->points) * sizeof *left);
    if (!e || !left) s = ks_fail(KS_ERR_MEMORY, "out of memory for a fit to %d problems", own);
    if (s == KS_OK) e->left = left;
    m->problems = own < MOST ? own : MOST;
    for (int q = 0; s == KS_OK && q < m->kernels; q++) {
        const int column = column_of(cases, m->kernel[q].name);
        begin(e, m, q, device);
        for (int i = 0; i < own; i++) {
            const ks_case *c = &cases->items[i];
            const bool drawn = own <= MOST || ks_mix(seed ^ (uint64_t)i) % (uint64_t)own < MOST;
            if (drawn && !isnan(c->value[column])) add_case(e, m, q, c, c->value[column], device);
        }
        add_rows(e);
        if (!solve(e, &m->kernel[q]))
            s = ks_fail(KS_ERR_INTERNAL, "the fit of %s to %d problems has no solution", m->kernel[q].name, own);
    }
    free(left);
    free(e);
    return s;
}
