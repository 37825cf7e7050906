/* Canaries: a few problems that were measured before a change, measured again after it. */
#ifndef KS_CANARIES_H
#define KS_CANARIES_H

#include "standing.h"

typedef enum ks_verdict { KS_KEEP = 0, KS_RESCALE, KS_REFIT, KS_NVERDICTS } ks_verdict;

const char *ks_verdict_name(ks_verdict verdict); /* "keep", "rescale", "refit" */

/* What logarithms of ratios, new over old, say of a kernel: within the noise of each other, all off by one factor (*factor), or
 * neither. Too few are no reason to keep anything. */
ks_verdict ks_canary_verdict(double *log_ratios, int count, double *factor);

typedef struct ks_canaries {
    const ks_device *device; /* as it is now */
    ks_type type;
    ks_layout layout;
    bool changed; /* another environment: all kernels are asked about; else those of another version */
    ks_status (*measure)(void *user, const ks_problem *problem); /* adds its rows behind the others */
    void *user;
    int problems, verdicts[KS_NVERDICTS]; /* out: how many were measured; how many kernels were told what */
} ks_canaries;

/* Measures a dozen of the rows' problems again, if there is a reason to; notes the verdicts in the standing, and applies them to
 * the rows. rows is where measure adds its own. */
ks_status ks_canaries_run(ks_canaries *canaries, ks_rows *rows, ks_standing *standing);

#endif
