/* A chain on trial: its problems, its arrays, and what must come out, by its factors one after the other in float64. */
#ifndef KS_TESTS_CHAINS_H
#define KS_TESTS_CHAINS_H

#include "trial.h"

enum { CHAIN_MOST = 12, CHAIN_ANYWHERE = -1 };

/* want: W applied in float64; magnitude: the same with every number's magnitude, of which error bounds are made. */
typedef struct chain_trial {
    ks_problem f[CHAIN_MOST];
    int count;
    const ks_device *device;
    array x, y, k[CHAIN_MOST];
    const void *weights[CHAIN_MOST];
    double *want, *magnitude;
} chain_trial;

/* The arrays of t->f[0] to t->f[t->count - 1] with random numbers; misalign: as array_alloc_on's, or CHAIN_ANYWHERE, of each
 * array its own. */
void chain_make(chain_trial *t, const ks_device *device, int misalign, rng *r);

/* After a change of what the host sees of x or k: on the device, and in want and magnitude. */
void chain_changed(chain_trial *t);

/* The product by the chain, with an epilogue that is none or ReLU alone: within the roundings of every factor, NaN and Inf where
 * they belong, nothing written around it. What fails names the seed. */
void chain_check(chain_trial *t, ks_chain *chain, const ks_epilogue *epilogue, uint64_t seed);

void chain_drop(chain_trial *t);

#endif
