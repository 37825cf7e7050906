/* What a predictor says of problems that it has not seen, and what that was worth. */
#ifndef KS_HELDOUT_H
#define KS_HELDOUT_H

#include "cases.h"

/* Cases that were held out, and the advice for each. Several draws lie one behind the other, so a problem may be in it more than
 * once. */
typedef struct ks_heldout {
    ks_cases cases; /* items are its own */
    int room;
    int *chosen;      /* a kernel's column, as ks_cases_regret takes it */
    double *lead;     /* ks_lead_of_fused; NaN where only one family was measured, or without deviations */
    double *expected; /* regret; NaN without deviations */
    double (*predicted)[KS_MODEL_KERNELS]; /* each column's time (energy); NaN where the kernel was not measured */
} ks_heldout;

/* An empty one for cases like these, whose kernels it goes on using; and back. */
void ks_heldout_open(ks_heldout *heldout, const ks_cases *like);
void ks_heldout_close(ks_heldout *heldout);

/* Adds a case, with the predictions for those of its kernels that were measured (columns[i] is that of predictions[i]). */
ks_status ks_heldout_add(ks_heldout *heldout, const ks_case *c, const ks_prediction *predictions, const int *columns,
                         int count, bool deviations);

/* Adds what the model advises for one case, or for all of them. */
ks_status ks_heldout_advise(ks_heldout *heldout, const ks_case *c, const ks_device *device, const ks_model *model,
                            bool deviations);
ks_status ks_heldout_advise_all(ks_heldout *heldout, const ks_cases *cases, const ks_device *device,
                                const ks_model *model);

/* The acceptance report: the advice's regret, and the static policies'. */
ks_status ks_heldout_judge(const ks_heldout *heldout, ks_acceptance *acceptance);

/* How honest the probabilities are. Advice names a family and how sure it is of it, from 50 to 100 %; of what is said at 80 %
 * 80 % should be right. */
enum { KS_BINS = 6 };

typedef struct ks_bin {
    double from, to; /* of the confidence */
    int count;
    double confidence, right; /* means; NaN if there is none */
} ks_bin;

typedef struct ks_reliability {
    ks_bin bin[KS_BINS];
    int count;                 /* problems with both families */
    double brier;              /* mean of (probability - outcome)^2 */
    int known;                 /* problems with an expected regret */
    double expected, realised; /* mean regret of these, as predicted and as it was */
} ks_reliability;

void ks_heldout_reliability(const ks_heldout *heldout, ks_reliability *reliability);

/* Adds what another set of held-out problems says; {0} is none. */
void ks_reliability_add(ks_reliability *sum, const ks_reliability *part);

/* The factor of all deviations under which what happened is most likely: which family won, given the leads. */
double ks_heldout_caution(const ks_heldout *heldout);

/* Regret by d = 1 or not and by the batch's decade. */
enum { KS_GROUPS = 2 * 8 };

typedef struct ks_group {
    bool single;   /* d = 1 */
    int64_t batch; /* from this to ten times this */
    int problems;
    double advisor, fused, bmm; /* mean regrets, where each has an opinion */
} ks_group;

/* Those that have problems; returns how many. */
int ks_heldout_groups(const ks_heldout *heldout, ks_group groups[KS_GROUPS]);

#endif
