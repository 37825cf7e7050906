/* The oracle, one output at a time: for checking a kernel's result where recomputing all of it would take too long. */
#ifndef KS_REF_CPU_H
#define KS_REF_CPU_H

#include "kernel.h"

/* Element `index` of an array of this type (host memory, any alignment), as a double. */
double ks_load(ks_type type, const void *array, int64_t index);

/* Output number `index`, counted as Y lies in memory, summed in float64. If scale is not NULL, *scale is the sum of the
 * terms' magnitudes: the yardstick of a relative error. x and k in host memory, k in block order. */
double ks_ref_output(const ks_problem *problem, const void *x, const void *k, int64_t index, double *scale);

#endif
