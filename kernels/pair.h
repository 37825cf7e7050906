/* Pairs: kernels that do two neighbouring factors of a chain in one launch, so that what lies between them never reaches
 * memory.
 *
 * A list of their own beside the kernel table: two problems are no problem, and nothing that is measured, stored or fitted for
 * the one kind has a place for the other. So a pair's price is what its kernel predicts itself, from its own model of the
 * device, in seconds as all prices are. Only chains use them (advisor/chain.c). */
#ifndef KS_PAIR_H
#define KS_PAIR_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As ks_run_args (kernel.h); x, y and both k are aligned as `alignment` says. */
typedef struct ks_pair_args {
    const ks_device *device;
    const void *x, *k[2];
    void *y, *stream;
} ks_pair_args;

/* pair: the two problems, in the order of a chain's factors: pair[1] is applied first, and pair[0] takes what it makes. They fit
 * and agree in batch, type, layout and math. What lies between them is rounded to the type, as between two launches. */
typedef struct ks_pair {
    const char *name; /* "fused2.cuda": in plans; no kernel of the table is called so */
    ks_backend backend;
    size_t alignment; /* of x, y and the weights, in bytes: with others two kernels must do */
    bool (*supports)(const ks_problem pair[2], const ks_device *device);
    double (*predicted_s)(const ks_problem pair[2], const ks_device *device); /* for a pair that it supports */
    ks_status (*run)(const ks_problem pair[2], const ks_pair_args *args);
} ks_pair;

/* All of this build, then those that were added; NULL-terminated. */
const ks_pair *const *ks_pairs(void);

/* The pair kernel of that name, or NULL. */
const ks_pair *ks_pair_find(const char *name);

/* Adds one, as ks_kernel_add does. */
ks_status ks_pair_add(const ks_pair *pair);

extern const ks_pair ks_fused2_cuda; /* for table.c */

#ifdef __cplusplus
}
#endif

#endif
