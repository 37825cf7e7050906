/* Fitting the model of model.h to cases, with GSL. */
#ifndef KS_FIT_H
#define KS_FIT_H

#include "origin.h"

/* Steps that find nearly all there is to find, and steps that do while measuring goes on. */
enum { KS_FIT_STEPS = 30, KS_FIT_QUICK_STEPS = 12 };

/* Cases that a fit borrows at most: its time grows with the cube of their number. */
enum { KS_FIT_BORROWED = 256 };

typedef struct ks_fit_options {
    const ks_model *start; /* length scales and noise to start from, and the caution to keep; NULL: those built in */
    const ks_origin *origin; /* whose measurements fill up what cases lack; NULL or without a model: none */
    int search_steps;        /* of the search for better ones (maximum marginal likelihood); 0: take the start's */
    uint64_t seed;           /* of the subset that the search looks at */
    bool points_only;        /* a quick fit: measurements beyond the model's points are left out */
} ks_fit_options;

/* KS_ERR_NO_DATA with fewer than 4 cases. The model's inputs are at most KS_MODEL_POINTS cases: all, or those where the
 * race between the kernels is closest and as many spread over the rest; their weights then stand for all (condense.h). */
ks_status ks_fit(const ks_cases *cases, const ks_device *device, const ks_fit_options *options, ks_model **model);

#endif
