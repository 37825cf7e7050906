/* The design of experiments: first fill the space evenly, then measure where it pays: of every eight points of the same even
 * sequence the one that does so most. (The best of forty, or of four, chose about as well; filling the space with three in four
 * problems, and aiming at one of forty in the fourth, clearly worse: `ksauto evaluate --replay`.)
 *
 * Sizes are drawn on a logarithmic scale over what people use: mostly products of 2 and 3, as in the published
 * patterns, the rest any whole number; b and c mostly 16 and more; a = 1 and d = 1, the ends that behave differently,
 * have a share of their own. A GPU is given more: larger batches, and now and then the long ends of a and d, where the
 * published patterns have a = 4096 and d = 14336. */
#include "design.h"
#include "error.h"
#include "random.h"

#include <gsl/gsl_qrng.h>
#include <math.h>
#include <stdlib.h>

enum { SPACE = 8 };

/* The largest sizes; most of the draws of a and d stay below the common ones. */
typedef struct ranges {
    double common_a, most_a, most_b, most_c, common_d, most_d, most_batch;
} ranges;

static const ranges cpu_ranges = {64, 64, 1024, 1024, 128, 128, 32768};
static const ranges gpu_ranges = {128, 4096, 4096, 4096, 128, 16384, 131072};

static const double common_share = 0.9, most_share_of_memory = 1.0 / 8;

/* Roofline time of the largest problems. A CPU's are the larger the longer it is measured. A GPU is saturated long before,
 * and what is large takes long: on an H100 a tenth of the problems, those of 3 ms and more, took about half of a calibration.
 * Fitted without those above 2.5 ms, the models chose no worse on a panel of batch 25088. */
static const double gpu_most_s = 1e-3, cpu_most_s = 20e-3, cpu_least_most_s = 2e-3;

struct ks_design {
    ks_device device;
    ks_type type;
    ks_layout layout;
    double most_s;
    gsl_qrng *sequence;
};

/* u in [0,1) to a size in [1, most]: rounded to 2^i or 3 * 2^i, or to any whole number. */
static int64_t size_from(double u, double most, bool nice)
{
    const double x = exp2(u * log2(most + 1));
    if (!nice || x < 4) return (int64_t)x;
    const double power = exp2(floor(log2(x)));
    return (int64_t)(x < power * 1.25 ? power : x < power * 1.75 ? power * 1.5 : power * 2);
}

/* A tenth of the blocks' sides is below 16, the first 40 % of the logarithmic scale. */
static double block_size(double u)
{
    return u < 0.1 ? u * 10 * 0.4 : 0.4 + (u - 0.1) / 0.9 * 0.6;
}

/* u in [0,1) to the same for a size on the scale up to `most`, with the common share of all draws up to `common`. */
static double with_long_end(double u, double common, double most)
{
    const double knee = log2(common + 1) / log2(most + 1);
    if (knee >= 1) return u;
    return u < common_share ? u / common_share * knee : knee + (u - common_share) / (1 - common_share) * (1 - knee);
}

/* A point of the unit cube to a problem. */
static void problem_from(const ks_design *d, const double u[SPACE], ks_problem *p)
{
    const bool nice = u[5] < 0.75;
    const ranges *r = d->device.backend == KS_CUDA ? &gpu_ranges : &cpu_ranges;
    *p = (ks_problem){.type = d->type, .layout = d->layout};
    p->a = u[6] < 0.3 ? 1 : size_from(with_long_end(u[0], r->common_a, r->most_a), r->most_a, nice);
    p->b = size_from(block_size(u[1]), r->most_b, nice);
    p->c = size_from(block_size(u[2]), r->most_c, nice);
    p->d = u[7] < 0.35 ? 1 : size_from(with_long_end(u[3], r->common_d, r->most_d), r->most_d, nice);
    p->batch = size_from(u[4], r->most_batch, nice);
}

static bool too_large(const ks_design *d, const ks_problem *p)
{
    const double memory = (double)d->device.memory_bytes * most_share_of_memory;
    return ks_roofline_s(&d->device, p) > d->most_s || (memory > 0 && ks_problem_bytes(p) > memory);
}

/* Too large a problem gets a smaller batch, or, failing that, smaller blocks. */
static void bound(const ks_design *d, ks_problem *p)
{
    while (too_large(d, p)) {
        int64_t *largest = &p->b;
        if (p->c > *largest) largest = &p->c;
        if (p->batch > 16) largest = &p->batch;
        if (*largest == 1) largest = p->a > p->d ? &p->a : &p->d;
        if (*largest == 1) return;
        *largest /= 2;
    }
}

unsigned ks_design_types(const ks_device *device)
{
    return device->backend == KS_CUDA ? 1u << KS_F32 | 1u << KS_F16 | 1u << KS_BF16 : 1u << KS_F32;
}

double ks_design_most_s(const ks_device *device, double share_s)
{
    return device->backend == KS_CUDA ? gpu_most_s : fmin(fmax(share_s / 5000, cpu_least_most_s), cpu_most_s);
}

ks_status ks_design_open(ks_design **design, const ks_device *device, ks_type type, ks_layout layout, double most_s)
{
    ks_design *d = *design = calloc(1, sizeof *d);
    if (d) d->sequence = gsl_qrng_alloc(gsl_qrng_sobol, SPACE);
    if (!d || !d->sequence) {
        ks_design_close(d);
        *design = NULL;
        return ks_fail(KS_ERR_MEMORY, "out of memory for a design");
    }
    d->device = *device;
    ks_device_assume_rates(&d->device);
    d->type = type, d->layout = layout, d->most_s = most_s;
    return KS_OK;
}

void ks_design_close(ks_design *d)
{
    if (!d) return;
    if (d->sequence) gsl_qrng_free(d->sequence);
    free(d);
}

void ks_design_spread(ks_design *d, ks_problem *p)
{
    double u[SPACE];
    gsl_qrng_get(d->sequence, u);
    problem_from(d, u, p);
    bound(d, p);
}

void ks_design_skip(ks_design *d, int skip)
{
    double u[SPACE];
    for (int i = 0; i < skip; i++) gsl_qrng_get(d->sequence, u);
}

void ks_design_random(const ks_design *d, uint64_t *state, ks_problem *p)
{
    double u[SPACE];
    for (int i = 0; i < SPACE; i++) u[i] = (double)(ks_random(state) >> 11) * 0x1p-53;
    problem_from(d, u, p);
    bound(d, p);
}

double ks_design_worth(const ks_model *model, const ks_device *device, const ks_problem *p,
                       const ks_kernel *const *kernels, int count, double *regret)
{
    ks_prediction predicted[KS_MAX_KERNELS];
    double seconds = 0.02; /* what a measurement costs beside the kernels' own time */
    *regret = 0;
    if (count < 2) return 0;
    ks_model_predict(model, device, p, kernels, count, true, predicted);
    *regret = ks_expected_regret(predicted, count, ks_prediction_best(predicted, count));
    for (int k = 0; k < count; k++) seconds += 6 * exp(predicted[k].log_time);
    return *regret / seconds;
}

void ks_design_next(ks_design *d, const ks_model *model, ks_problem *p, double *mean)
{
    double best = -1, sum = 0;
    for (int i = 0; i < KS_DESIGN_CANDIDATES; i++) {
        ks_problem q;
        const ks_kernel *kernels[KS_MAX_KERNELS];
        double regret;
        ks_design_spread(d, &q);
        const int count = ks_kernels_for(&q, &d->device, kernels);
        const double worth = ks_design_worth(model, &d->device, &q, kernels, count, &regret);
        sum += regret;
        if (worth > best) best = worth, *p = q;
    }
    *mean = sum / KS_DESIGN_CANDIDATES;
}
