/* The predictor's arithmetic: no GSL, no SQL, no allocation once loaded.
 *
 * One model serves one device, type, layout and objective, and all kernels at once. For each kernel
 *
 *     log time = log(sum over terms of w[t] * terms[t])  +  residual(features),
 *
 * a calibrated cost model over the kernel's own cost_terms (or over generic ones, see below), which extrapolates, and a
 * Gaussian process over features of the problem, which corrects it where there are measurements. Most features are those of the problem, shared by all kernels;
 * a few are the kernel's own: what its time is made of, so that problems are alike for it if the same thing limits it.
 * Length scales are shared, so one pass over the points serves all kernels but for the last few dimensions: that is what
 * makes a prediction of every candidate cost microseconds. The posterior's variance gives P(one faster than another) and the
 * expected regret. (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.2 and algorithm 2.1.) Coefficients are found by calib/fit.c. */
#ifndef KS_MODEL_H
#define KS_MODEL_H

#include "kernel.h"

enum {
    KS_MODEL_DIMS = 17,           /* see ks_model_features */
    KS_MODEL_OWN = KS_NTERMS - 1, /* see ks_model_own_features */
    KS_MODEL_POINTS = 768,        /* measurements kept as inputs of the process, at most */
    KS_MODEL_KERNELS = 8
};

typedef struct ks_model_kernel {
    char name[KS_NAME_BYTES];
    unsigned version;
    ks_family family;
    ks_kernel foreign;            /* stands in for a kernel that this build does not have (another machine's table) */
    bool generic;                 /* cost is that of a stand-in's terms, whoever predicts; else of the kernel's own */
    double cost[KS_NTERMS];       /* seconds (joules) per unit of each term, >= 0 */
    double signal, noise;         /* variances of the residual and of a measurement, in log^2 */
    float alpha[KS_MODEL_POINTS]; /* weights of the points; 0 where this kernel was not measured */
    bool measured[KS_MODEL_POINTS];
    float own[KS_MODEL_OWN][KS_MODEL_POINTS]; /* own features over length; 0 where not measured */
    double *factor; /* Cholesky factor over the measured points, row by row; NULL: no variance known */
    int factor_size;
} ks_model_kernel;

/* What a model makes of measurements that were taken before something changed (standing.h). */
typedef struct ks_adjustment {
    char kernel[KS_NAME_BYTES];
    unsigned version, becomes; /* rows of this version count as that one's, */
    double before_s;           /* if they were measured before this moment, */
    double factor;             /* as so many times what they say; 0: they are set aside */
} ks_adjustment;

enum { KS_ADJUSTMENTS = 4 * KS_MODEL_KERNELS, KS_ENVIRONMENT_BYTES = 240 };

typedef struct ks_standing {
    char environment
        [KS_ENVIRONMENT_BYTES]; /* driver, run-time library and BLAS that the measurements stand for; "": unknown */
    int count;
    ks_adjustment items[KS_ADJUSTMENTS]; /* to be applied in this order */
} ks_standing;

typedef struct ks_model {
    ks_type type;
    ks_layout layout;
    ks_objective objective;
    int points, kernels;
    int problems;   /* measured ones that the weights stand for: the points, or more (condense.h) */
    int borrowed;   /* the last so many points come from another device, */
    float apart;    /* this squared distance away */
    double caution; /* factor of all deviations, found by cross-validation */
    ks_standing standing;
    float length[KS_MODEL_DIMS + KS_MODEL_OWN];  /* length scales, in units of the features; the own ones last */
    float input[KS_MODEL_DIMS][KS_MODEL_POINTS]; /* features over length */
    ks_model_kernel kernel[KS_MODEL_KERNELS];
} ks_model;

/* What is predicted for one kernel: the logarithm of the time, and its standard deviation. */
typedef struct ks_prediction {
    const ks_kernel *kernel;
    double log_time, deviation;
} ks_prediction;

/* log2 of a, b, c, d and batch; whether d = 1, whether the batch is at most 4; how well rows of Y and of X lie on cache
 * lines (in batch-last, how round the leading dimension is); whether the problem is large enough for several threads,
 * whether there is but one block; how round c, b and the batch are; whether b, the batch and c are 1: BLAS libraries take
 * another kernel for a matrix that is a vector. What is in came in because cross-validated regret fell with it. */
void ks_model_features(const ks_problem *problem, float features[KS_MODEL_DIMS]);

/* The shares of a kernel's terms in its cost, but for the starts'. As square roots: a small share says more than it is. */
void ks_model_own_features(const double cost[KS_NTERMS], const double terms[KS_NTERMS], float own[KS_MODEL_OWN]);

/* The cost model alone; cost as in ks_model_kernel. */
double ks_cost_s(const double cost[KS_NTERMS], const double terms[KS_NTERMS]);

/* Costs for a device nobody has measured: from its (assumed) rates. */
void ks_cost_assume(const ks_device *device, ks_type type, double cost[KS_NTERMS]);

/* A fit uses each kernel's own terms. In a build without the kernel it can only use generic ones, the problem's own bytes and
 * flops, and says so in the model. Costs mean nothing beside other terms than they were fitted to: KS_ERR_UNSUPPORTED,
 * naming the kernel, if this build lacks one whose own terms the model needs. */
ks_status ks_model_usable(const ks_model *model);

/* The row of model kernel q: the table's, or a stand-in with generic cost terms that cannot run. */
const ks_kernel *ks_model_kernel_of(const ks_model *model, int q);

/* Whether that kernel can do the problem. A stand-in can where it was measured: in every feature within the range of its
 * points. (What kernels ask for, such as d = 1, a small batch or rows of whole 16 bytes, is among the features; asked about
 * the problems of one GPU's seed, models of another's were wrong about 0.3 % of the kernels.) Beyond the range of all points
 * the nearest end counts. */
bool ks_model_supports(const ks_model *model, int q, const ks_problem *problem, const ks_device *device);

/* What the model knows of the kernel: its index, or -1 if it does not know it, or knows it in another version, or by terms that
 * this build lacks. model may be NULL. */
int ks_model_find(const ks_model *model, const ks_kernel *kernel);

/* Fills in a stand-in row; name must outlive it. Its cost terms are generic. */
void ks_foreign_kernel(ks_kernel *row, const char *name, ks_family family, unsigned version);
bool ks_kernel_is_foreign(const ks_kernel *row);

/* Predicts `count` kernels; a kernel that ks_model_find does not find gets the assumed costs and a wide deviation. Without
 * deviations (false) nothing beyond the means is computed. model may be NULL. */
void ks_model_predict(const ks_model *model, const ks_device *device, const ks_problem *problem,
                      const ks_kernel *const *kernels, int count, bool deviations, ks_prediction *out);

/* A model holds what it was fitted to. The problem of one of its points (logarithms of sizes are kept to seven digits: enough for
 * sizes up to 10^5); what was measured of kernel q there, NaN if nothing was; and how alike kernel q takes each
 * point and another problem to be: the correlation of their residuals, 0 to 1. The device is the one that the model was fitted to. */
ks_problem ks_model_point(const ks_model *model, int point);
double ks_model_point_value(const ks_model *model, int q, int point, const ks_device *device);
void ks_model_likeness(const ks_model *model, int q, const ks_problem *problem, const ks_device *device,
                       float likeness[KS_MODEL_POINTS]);

/* The costs of the model's kernel q for a problem, on its own terms or on the generic ones, as the model has it. */
void ks_model_terms(const ks_model *model, int q, const ks_problem *problem, const ks_device *device,
                    double terms[KS_NTERMS]);

/* Index of the smallest predicted time; ties (inside KS_TIE) go to the kernel that comes first in the table. */
int ks_prediction_best(const ks_prediction *predictions, int count);

/* E[time of `chosen` / best time] - 1, bounded by the sum over rivals, each pair taken as independent normals. */
double ks_expected_regret(const ks_prediction *predictions, int count, int chosen);

/* By how many deviations the best fused kernel is ahead of the best bmm one; infinite where there is but one of the families. */
double ks_lead_of_fused(const ks_prediction *predictions, int count);

/* P(what leads by so many deviations is faster). Held-out errors have heavier tails than a normal distribution: it is Student's t
 * of four degrees of freedom, made so narrow that a lead of one deviation means much the same by either. */
double ks_lead_probability(double lead);

/* The model as JSON text (malloc'ed; NULL if out of memory), and back. Reading checks every size and number:
 * KS_ERR_PARSE names what is wrong. */
char *ks_model_print(const ks_model *model);
ks_status ks_model_parse(const char *text, ks_model **model);
void ks_model_free(ks_model *model); /* NULL is allowed */

/* The factor that variances need, from length, signal, noise and the measured points: n^3/3 flops a kernel, so it is made
 * when first needed. Without it ks_model_predict takes the signal's variance, as if nothing were measured nearby. Not to
 * be called while another thread uses the model. KS_ERR_MEMORY, or KS_ERR_PARSE if the covariances are not positive
 * definite. */
ks_status ks_model_factorise(ks_model *model);

#endif
