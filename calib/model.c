/* Predictions. The loops over points are written for the compiler's vectoriser: one array a feature, float32. */
#include "model.h"
#include "cholesky.h"
#include "error.h"
#include "measure.h"
#include "wide.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double unknown_deviation = 0.7; /* of an uncalibrated cost: a factor of two, roughly */

/* How round a distance of so many elements is in memory: log2 of the power of two, up to 2^most, that its bytes are a multiple
 * of, over most. Distances that are no multiples of a line cost partial lines, those of whole pages cache conflicts. */
static float roundness(const ks_problem *p, int64_t elements, int most)
{
    const int64_t bytes = elements * (int64_t)ks_type_bytes(p->type);
    return fminf((float)__builtin_ctzll((unsigned long long)bytes), (float)most) / (float)most;
}

void ks_model_features(const ks_problem *p, float f[KS_MODEL_DIMS])
{
    const bool first = p->layout == KS_BATCH_FIRST;
    f[0] = (float)log2((double)p->a);
    f[1] = (float)log2((double)p->b);
    f[2] = (float)log2((double)p->c);
    f[3] = (float)log2((double)p->d);
    f[4] = (float)log2((double)p->batch);
    f[5] = p->d == 1;
    f[6] = p->batch <= 4;
    f[7] = roundness(p, first ? p->a * p->b * p->d : p->batch, 6);
    f[8] = roundness(p, first ? p->a * p->c * p->d : p->d * p->batch, first ? 6 : 14);
    f[9] = ks_problem_bytes(p) > 1e5 || ks_problem_flops(p) > 1e6;
    f[10] = p->a * p->d == 1;
    f[11] = roundness(p, p->c, 6);
    f[12] = roundness(p, p->b, 6);
    f[13] = roundness(p, p->batch, 6);
    f[14] = p->b == 1;
    f[15] = p->batch == 1;
    f[16] = p->c == 1;
}

void ks_model_own_features(const double cost[KS_NTERMS], const double terms[KS_NTERMS], float own[KS_MODEL_OWN])
{
    const double sum = ks_cost_s(cost, terms);
    for (int t = 0; t < KS_MODEL_OWN; t++) own[t] = 4 * (float)sqrt(cost[t + 1] * terms[t + 1] / sum);
}

double ks_cost_s(const double cost[KS_NTERMS], const double terms[KS_NTERMS])
{
    double sum = 0;
    for (int t = 0; t < KS_NTERMS; t++) sum += cost[t] * terms[t];
    return sum > 1e-9 ? sum : 1e-9;
}

void ks_cost_assume(const ks_device *device, ks_type type, double cost[KS_NTERMS])
{
    /* A GPU's multiprocessor moves some 32 elements a clock through shared memory; a wave of tiles starts and ends in about
     * the memory's latency. */
    const bool gpu = device->backend == KS_CUDA;
    const double units = device->units > 0 ? device->units : 1;
    cost[KS_TERM_LAUNCH] = 3e-6;
    cost[KS_TERM_BYTES] = 1 / device->copy_bytes_per_s;
    cost[KS_TERM_FLOPS] = 1 / device->gemm_flops_per_s[type];
    cost[KS_TERM_SHUFFLE] = (gpu ? 0.02e-9 : 0.5e-9) / units;
    cost[KS_TERM_CALLS] = gpu ? 0.5e-6 : 50e-9;
}

static bool foreign_supports(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return true;
}

static size_t foreign_workspace(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return 0;
}

/* What a problem costs any kernel. */
static void generic_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)device;
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p);
    terms[KS_TERM_FLOPS] = ks_problem_flops(p);
    terms[KS_TERM_SHUFFLE] = (double)(ks_x_count(p) + ks_y_count(p));
    terms[KS_TERM_CALLS] = (double)(p->a * p->d);
}

static ks_status foreign_run(const ks_problem *p, const ks_run_args *args)
{
    (void)p, (void)args;
    return ks_fail(KS_ERR_UNSUPPORTED, "this kernel is known by its measurements only");
}

void ks_foreign_kernel(ks_kernel *row, const char *name, ks_family family, unsigned version)
{
    *row =
        (ks_kernel){name, family, KS_CPU, version, foreign_supports, foreign_workspace, generic_terms, foreign_run};
}

bool ks_kernel_is_foreign(const ks_kernel *row)
{
    return row->run == foreign_run;
}

const ks_kernel *ks_model_kernel_of(const ks_model *m, int q)
{
    const ks_kernel *row = ks_kernel_find(m->kernel[q].name);
    return row ? row : &m->kernel[q].foreign;
}

ks_status ks_model_usable(const ks_model *m)
{
    for (int q = 0; q < m->kernels; q++)
        if (!m->kernel[q].generic && ks_kernel_is_foreign(ks_model_kernel_of(m, q)))
            return ks_fail(
                KS_ERR_UNSUPPORTED,
                "this build lacks %s, whose costs the %s, batch-%s model is made of; `ksauto fit` makes one "
                "without",
                m->kernel[q].name, ks_type_name(m->type), ks_layout_name(m->layout));
    return KS_OK;
}

static bool covers(const ks_model *m, const ks_model_kernel *k, const ks_problem *p)
{
    float place[KS_MODEL_DIMS];
    ks_model_features(p, place);
    for (int d = 0; d < KS_MODEL_DIMS; d++) {
        const float slack = 1e-3f / m->length[d]; /* for rounding */
        float low = INFINITY, high = -INFINITY, own_low = INFINITY, own_high = -INFINITY;
        for (int i = 0; i < m->points; i++) {
            const float x = m->input[d][i];
            low = fminf(low, x), high = fmaxf(high, x);
            if (k->measured[i]) own_low = fminf(own_low, x), own_high = fmaxf(own_high, x);
        }
        const float x = fminf(fmaxf(place[d] / m->length[d], low), high);
        if (x < own_low - slack || x > own_high + slack) return false;
    }
    return true;
}

bool ks_model_supports(const ks_model *m, int q, const ks_problem *p, const ks_device *device)
{
    const ks_kernel *row = ks_model_kernel_of(m, q);
    if (!ks_kernel_is_foreign(row)) return row->supports(p, device);
    return m->points == 0 || covers(m, &m->kernel[q], p);
}

/* e^-x for x >= 0, to 1e-6: the 16th power of 1 over a short series of e^(x/16). No comparison and no whole numbers, so that
 * every compiler makes it a vector. */
static inline float exp_minus(float x)
{
    const float y = x / 16;
    const float grown = 1 + y * (1 + y * (0.5f + y * (0.16666667f + y * (0.04166667f + y * 0.00833333f))));
    const float e = 1 / grown, e2 = e * e, e4 = e2 * e2, e8 = e4 * e4;
    return e8 * e8;
}

/* Squared distances of a place, on this device or where points were borrowed from, to every point in the shared features, all
 * over their lengths. */
static WIDE void distances(const ks_model *m, const float place[KS_MODEL_DIMS], bool elsewhere, float *restrict out)
{
    const int points = m->points, own = points - m->borrowed;
    for (int i = 0; i < own; i++) out[i] = elsewhere ? m->apart : 0;
    for (int i = own; i < points; i++) out[i] = elsewhere ? 0 : m->apart;
    for (int k = 0; k < KS_MODEL_DIMS; k++) {
        const float x = place[k], *input = m->input[k];
        for (int i = 0; i < points; i++) out[i] += (input[i] - x) * (input[i] - x);
    }
}

/* Correlations for one kernel: Matern 3/2 over the distance in the shared and in its own features. */
static WIDE void correlations(const ks_model_kernel *k, int points, const float *restrict shared,
                              const float own[KS_MODEL_OWN], float *restrict out)
{
    for (int i = 0; i < points; i++) {
        float sum = shared[i];
        for (int t = 0; t < KS_MODEL_OWN; t++) sum += (k->own[t][i] - own[t]) * (k->own[t][i] - own[t]);
        const float r = sqrtf(3 * sum);
        out[i] = (1 + r) * exp_minus(r);
    }
}

int ks_model_find(const ks_model *m, const ks_kernel *kernel)
{
    for (int q = 0; m && q < m->kernels; q++)
        if (strcmp(m->kernel[q].name, kernel->name) == 0 && m->kernel[q].version == kernel->version)
            return m->kernel[q].generic || !ks_kernel_is_foreign(kernel) ? q : -1;
    return -1;
}

/* With eight partial sums: a chain of additions would take most of a prediction's time. */
static float dot_f32(const float *x, const float *y, int n)
{
    float sum[8] = {0};
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += x[i + k] * y[i + k];
    for (; i < n; i++) sum[0] += x[i] * y[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* signal - |L^-1 k|^2: what the measured points leave uncertain. */
static double posterior_variance(const ks_model *m, const ks_model_kernel *k, const float *correlation)
{
    if (!k->factor) return k->signal;
    double solved[KS_MODEL_POINTS], left = k->signal;
    int n = 0;
    for (int i = 0; i < m->points; i++)
        if (k->measured[i]) solved[n++] = k->signal * (double)correlation[i];
    ks_cholesky_forward(k->factor, n, solved);
    for (int i = 0; i < n; i++) left -= solved[i] * solved[i];
    return left > 1e-8 ? left : 1e-8;
}

void ks_model_predict(const ks_model *m, const ks_device *device, const ks_problem *p,
                      const ks_kernel *const *kernels, int count, bool deviations, ks_prediction *out)
{
    float place[KS_MODEL_DIMS], own[KS_MODEL_OWN], shared[KS_MODEL_POINTS], correlation[KS_MODEL_POINTS];
    if (m) {
        ks_model_features(p, place);
        for (int d = 0; d < KS_MODEL_DIMS; d++) place[d] /= m->length[d];
        distances(m, place, false, shared);
    }
    for (int q = 0; q < count; q++) {
        double terms[KS_NTERMS], assumed[KS_NTERMS];
        const int at = ks_model_find(m, kernels[q]);
        const ks_model_kernel *k = at < 0 ? NULL : &m->kernel[at];
        (k && k->generic ? generic_terms : kernels[q]->cost_terms)(p, device, terms);
        out[q].kernel = kernels[q];
        if (!k) {
            ks_cost_assume(device, p->type, assumed);
            out[q].log_time = log(ks_cost_s(assumed, terms));
            out[q].deviation = unknown_deviation;
            continue;
        }
        ks_model_own_features(k->cost, terms, own);
        for (int t = 0; t < KS_MODEL_OWN; t++) own[t] /= m->length[KS_MODEL_DIMS + t];
        correlations(k, m->points, shared, own, correlation);
        const float residual = dot_f32(k->alpha, correlation, m->points);
        out[q].log_time = log(ks_cost_s(k->cost, terms)) + (double)residual;
        out[q].deviation = deviations ? m->caution * sqrt(posterior_variance(m, k, correlation)) : 0;
    }
}

void ks_model_terms(const ks_model *m, int q, const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (m->kernel[q].generic ? generic_terms : ks_model_kernel_of(m, q)->cost_terms)(p, device, terms);
}

ks_problem ks_model_point(const ks_model *m, int point)
{
    int64_t size[5];
    for (int d = 0; d < 5; d++) size[d] = llround(exp2((double)(m->input[d][point] * m->length[d])));
    return (ks_problem){.a = size[0],
                        .b = size[1],
                        .c = size[2],
                        .d = size[3],
                        .batch = size[4],
                        .type = m->type,
                        .layout = m->layout};
}

double ks_model_point_value(const ks_model *m, int q, int point, const ks_device *device)
{
    float place[KS_MODEL_DIMS], own[KS_MODEL_OWN], shared[KS_MODEL_POINTS], correlation[KS_MODEL_POINTS];
    double terms[KS_NTERMS];
    const ks_model_kernel *k = &m->kernel[q];
    const ks_problem p = ks_model_point(m, point);
    if (!k->measured[point]) return NAN;
    for (int d = 0; d < KS_MODEL_DIMS; d++) place[d] = m->input[d][point];
    for (int t = 0; t < KS_MODEL_OWN; t++) own[t] = k->own[t][point];
    distances(m, place, point >= m->points - m->borrowed, shared);
    correlations(k, m->points, shared, own, correlation);
    ks_model_terms(m, q, &p, device, terms);
    /* What the process says there, and, if it stands for the points alone, what it took for noise. */
    const bool alone = m->problems <= m->points && k->signal > 0;
    const double noise = alone ? (double)k->alpha[point] * k->noise / k->signal : 0;
    return ks_cost_s(k->cost, terms) * exp((double)dot_f32(k->alpha, correlation, m->points) + noise);
}

void ks_model_likeness(const ks_model *m, int q, const ks_problem *p, const ks_device *device,
                       float likeness[KS_MODEL_POINTS])
{
    float place[KS_MODEL_DIMS], own[KS_MODEL_OWN], shared[KS_MODEL_POINTS];
    double terms[KS_NTERMS];
    ks_model_features(p, place);
    ks_model_terms(m, q, p, device, terms);
    ks_model_own_features(m->kernel[q].cost, terms, own);
    for (int d = 0; d < KS_MODEL_DIMS; d++) place[d] /= m->length[d];
    for (int t = 0; t < KS_MODEL_OWN; t++) own[t] /= m->length[KS_MODEL_DIMS + t];
    distances(m, place, false, shared);
    correlations(&m->kernel[q], m->points, shared, own, likeness);
}

int ks_prediction_best(const ks_prediction *p, int count)
{
    int best = 0;
    for (int q = 1; q < count; q++)
        if (p[q].log_time < p[best].log_time) best = q;
    for (int q = 0; q < best; q++)
        if (p[q].log_time < p[best].log_time + KS_TIE) return q;
    return best;
}

static double normal_below(double x)
{
    return 0.5 * erfc(-x / sqrt(2));
}

double ks_expected_regret(const ks_prediction *p, int count, int chosen)
{
    double sum = 0;
    for (int q = 0; q < count; q++) {
        if (q == chosen) continue;
        /* E[(e^z - 1)+] for z = log(time chosen / time q), normal */
        const double mean = p[chosen].log_time - p[q].log_time;
        const double s = hypot(p[chosen].deviation, p[q].deviation);
        if (s < 1e-9)
            sum += mean > 0 ? expm1(mean) : 0;
        else
            sum += exp(mean + s * s / 2) * normal_below(mean / s + s) - normal_below(mean / s);
    }
    return sum;
}

double ks_lead_of_fused(const ks_prediction *p, int count)
{
    int best[KS_NFAMILIES] = {-1, -1, -1};
    for (int q = 0; q < count; q++) {
        int *of = &best[p[q].kernel->family];
        if (*of < 0 || p[q].log_time < p[*of].log_time) *of = q;
    }
    if (best[KS_FUSED] < 0 || best[KS_BMM] < 0) return best[KS_FUSED] < 0 ? -INFINITY : INFINITY;
    const ks_prediction *fused = &p[best[KS_FUSED]], *bmm = &p[best[KS_BMM]];
    const double s = hypot(fused->deviation, bmm->deviation), gap = bmm->log_time - fused->log_time;
    return s > 1e-12 ? gap / s : gap > 0 ? INFINITY : gap < 0 ? -INFINITY : 0;
}

double ks_lead_probability(double lead)
{
    const double t = lead / 0.8, s = isinf(t) ? copysign(1, t) : t / sqrt(4 + t * t);
    return 0.5 + s * (3 - s * s) / 4;
}

ks_status ks_model_factorise(ks_model *m)
{
    for (int q = 0; q < m->kernels; q++) {
        ks_model_kernel *k = &m->kernel[q];
        const double noise = m->problems > m->points ? k->noise * m->points / m->problems : k->noise;
        int index[KS_MODEL_POINTS], n = 0;
        for (int i = 0; i < m->points; i++)
            if (k->measured[i]) index[n++] = i;
        free(k->factor);
        k->factor = malloc((ks_packed_count(n) + 1) * sizeof *k->factor);
        k->factor_size = n;
        if (!k->factor) return ks_fail(KS_ERR_MEMORY, "out of memory for a model of %d points", n);
        for (int i = 0; i < n; i++) {
            float place[KS_MODEL_DIMS], own[KS_MODEL_OWN], shared[KS_MODEL_POINTS], correlation[KS_MODEL_POINTS];
            for (int d = 0; d < KS_MODEL_DIMS; d++) place[d] = m->input[d][index[i]];
            for (int t = 0; t < KS_MODEL_OWN; t++) own[t] = k->own[t][index[i]];
            distances(m, place, index[i] >= m->points - m->borrowed, shared);
            correlations(k, m->points, shared, own, correlation);
            double *row = k->factor + ks_packed_count(i);
            for (int j = 0; j <= i; j++) row[j] = k->signal * (double)correlation[index[j]];
            row[i] += noise;
        }
        if (ks_cholesky(k->factor, n)) continue;
        free(k->factor);
        k->factor = NULL;
        return ks_fail(KS_ERR_PARSE, "model: covariances of %s are not positive definite", k->name);
    }
    return KS_OK;
}

void ks_model_free(ks_model *m)
{
    if (!m) return;
    for (int q = 0; q < m->kernels; q++) free(m->kernel[q].factor);
    free(m);
}
