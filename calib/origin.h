/* Where a device without measurements of its own starts: from a known device's model. */
#ifndef KS_ORIGIN_H
#define KS_ORIGIN_H

#include "cases.h"

/* A model of another device, and that device's facts. */
typedef struct ks_origin {
    ks_device device;
    ks_model *model; /* NULL: there is none */
    /* Patterns that are not to be borrowed, since advice on them is to be judged; cross-validation may be nested. NULL: none. */
    const ks_cases *withheld[2];
} ks_origin;

/* The model of the seed that is nearest to this device: its own, or that of a device much like it. Without one, or without one
 * that this build can use, or for a device known by name alone, origin->model is NULL, which is no failure. */
void ks_origin_nearest(const ks_device *device, ks_type type, ks_layout layout, ks_objective objective,
                       ks_origin *origin);
void ks_origin_free(ks_origin *origin);

/* The cases, and behind them at most `most` borrowed ones: the origin's measured points, their values put into terms of this
 * device, as far as its rates and its own cases tell. both->items is malloc'ed; its kernels are those of cases and origin,
 * which must outlive it. */
ks_status ks_cases_borrow(const ks_cases *cases, const ks_device *device, const ks_origin *origin, int most,
                          ks_cases *both);

#endif
