/* From rows to a stored model: what calibrate does at its end and `ksauto fit` does alone. */
#ifndef KS_REFIT_H
#define KS_REFIT_H

#include "fit.h"
#include "store.h"

typedef struct ks_refit_result {
    int problems, quarantined;
    double cv_regret; /* NaN unless asked for */
} ks_refit_result;

/* Fits one type, layout and objective. *model is the start on entry (or NULL); it is replaced on success and kept
 * otherwise. KS_ERR_NO_DATA if there are too few rows. result may be NULL: then nothing is cross-validated. */
ks_status ks_refit(const ks_rows *rows, const ks_device *device, ks_type type, ks_layout layout,
                   ks_objective objective, int search_steps, ks_model **model, ks_refit_result *result);

/* Writes the model to the store as the device's, in place of the one that was there. */
ks_status ks_refit_keep(ks_store *store, const ks_device *device, const ks_model *model,
                        const ks_refit_result *result);

#endif
