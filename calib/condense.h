/* More measurements than a model has points. */
#ifndef KS_CONDENSE_H
#define KS_CONDENSE_H

#include "cases.h"

/* Finds the weights of the model's points anew, so that they stand for all cases (for 6144 at most, drawn at random). A prediction
 * costs what it did. Does nothing where every case is a point. KS_ERR_MEMORY; KS_ERR_INTERNAL if no solution is found. */
ks_status ks_condense(const ks_cases *cases, const ks_device *device, uint64_t seed, ks_model *model);

#endif
