/* Cross-validation: learners judged on patterns that they have not seen. */
#ifndef KS_VALIDATE_H
#define KS_VALIDATE_H

#include "fit.h"
#include "heldout.h"

/* What can learn the residual of the cost model (learners.c). The Gaussian process ships; the others are what it is measured
 * against. */
typedef enum ks_learner { KS_LEARN_GP = 0, KS_LEARN_COST, KS_LEARN_RIDGE, KS_LEARN_NEAREST, KS_NLEARNERS } ks_learner;

const char *ks_learner_name(ks_learner learner); /* "gp", "cost", "ridge", "nearest"; NULL beyond */

/* How cases are split, always by pattern (a,b,c,d): a pattern at another batch would tell. Either into folds, each predicted
 * from the others, or, with train > 0, that many patterns drawn at random to learn from, and all others predicted, several
 * times over. The same cases are split in the same way every time. */
typedef struct ks_split {
    int folds;
    int train, draws;
} ks_split;

/* Adds the held-out advice of every fold or draw. What is learned from a part may be filled up from an origin (or NULL). KS_ERR_NO_DATA if nothing could be learned from any. */
ks_status ks_validate(const ks_cases *cases, const ks_device *device, ks_learner learner, const ks_origin *origin,
                      const ks_split *split, ks_heldout *out);

enum { KS_VALIDATION_FOLDS = 5, KS_VALIDATED_FITS = KS_VALIDATION_FOLDS + 1 };

/* ks_fit, and cross-validation by five folds with the length scales that it found. The mean regret goes to *regret (NaN if
 * there are too few cases), and the model's caution becomes what the held-out outcomes ask for. */
ks_status ks_fit_validated(const ks_cases *cases, const ks_device *device, const ks_fit_options *options,
                           ks_model **model, double *regret);

#endif
