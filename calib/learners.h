/* The learners that the Gaussian process is compared with, for ks_validate. */
#ifndef KS_LEARNERS_H
#define KS_LEARNERS_H

#include "validate.h"

/* Learns the residuals of the model's costs on the training cases, by the model's own features and length scales, and adds the
 * advice for each of the others to out. Not for KS_LEARN_GP, which is the model itself. */
ks_status ks_learn_and_advise(ks_learner learner, const ks_model *model, const ks_cases *train,
                              const ks_device *device, const ks_cases *others, ks_heldout *out);

#endif
