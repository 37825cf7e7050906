/* The oracle, one output at a time: for checking a kernel's result where recomputing all of it would take too long. */
#ifndef KS_REF_CPU_H
#define KS_REF_CPU_H

#include "kernel.h"

/* Element `index` of an array of this type (host memory, any alignment), as a double. */
double ks_load(ks_type type, const void *array, int64_t index);

/* Where output number `index`, counted as Y lies in memory, finds its c factors: x[x_at + q * x_step] and k[k_at + q]. */
typedef struct ks_ref_place {
    int64_t x_at, x_step, k_at;
} ks_ref_place;

ks_ref_place ks_ref_place_of(const ks_problem *problem, int64_t index);

/* The sum over q < c of x[q * x_step] * k[q], in float64. If scale is not NULL, *scale is the sum of the terms' magnitudes:
 * the yardstick of a relative error. x and k in host memory. */
double ks_ref_dot(ks_type type, int64_t c, const void *x, int64_t x_step, const void *k, double *scale);

/* Output number `index`; x and k as for a kernel. */
double ks_ref_output(const ks_problem *problem, const void *x, const void *k, int64_t index, double *scale);

#endif
