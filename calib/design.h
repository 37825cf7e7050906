/* Which problem to measure next. */
#ifndef KS_DESIGN_H
#define KS_DESIGN_H

#include "model.h"

typedef struct ks_design ks_design;

/* How many points of the space-filling sequence are compared to take one. */
enum { KS_DESIGN_CANDIDATES = 8 };

/* The types to measure where none is named, as bits: F32, and on a GPU all others that are tuned. */
unsigned ks_design_types(const ks_device *device);

/* Roofline time of the largest problems of a design when one type and layout has share_s seconds to be measured in; INFINITY
 * gives the largest of all. */
double ks_design_most_s(const ks_device *device, double share_s);

/* Problems of one type and layout whose best kernel should take no longer than most_s on this device. */
ks_status ks_design_open(ks_design **design, const ks_device *device, ks_type type, ks_layout layout, double most_s);
void ks_design_close(ks_design *design);

/* The next point of the space-filling sequence (Sobol), never repeated within one design; `skip` points first. */
void ks_design_spread(ks_design *design, ks_problem *problem);
void ks_design_skip(ks_design *design, int skip);

/* A problem drawn at random from the same ranges: what acceptance is judged on. */
void ks_design_random(const ks_design *design, uint64_t *state, ks_problem *problem);

/* How much expected regret measuring a problem takes away per second, as the model sees it; kernels are those that can do it.
 * 0 with fewer than two of them. *regret is what is expected now. */
double ks_design_worth(const ks_model *model, const ks_device *device, const ks_problem *problem,
                       const ks_kernel *const *kernels, int count, double *regret);

/* Of a fresh set of candidates, the one whose measurement takes most expected regret away per second, as the model
 * sees it. Returns the mean expected regret over all candidates of the set in *mean. */
void ks_design_next(ks_design *design, const ks_model *model, ks_problem *problem, double *mean);

#endif
