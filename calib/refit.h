/* From rows to a stored model: what calibrate does at its end and `ksauto fit` does alone. */
#ifndef KS_REFIT_H
#define KS_REFIT_H

#include "fit.h"
#include "store.h"

/* Of the model's points alone, which guides what is measured next; of all measurements; and cross-validated, which takes
 * KS_VALIDATED_FITS times as long. */
typedef enum ks_effort { KS_EFFORT_QUICK = 0, KS_EFFORT_ALL, KS_EFFORT_VALIDATED } ks_effort;

typedef struct ks_refit_result {
    int problems, quarantined;
    double cv_regret; /* NaN unless validated */
} ks_refit_result;

/* The type whose measurements are as good as the type's own: on a GPU F16 and BF16 run the same kernels at the same rates
 * (within 1 to 3 % on an H100). The type itself where there is none. */
ks_type ks_refit_twin(const ks_device *device, ks_type type);

/* The cases that a fit of the type rests on: ks_cases_build's, with the twin's rows among them. */
ks_status ks_refit_cases(const ks_rows *rows, const ks_device *device, ks_type type, ks_layout layout,
                         ks_objective objective, ks_cases *cases);

/* Fits one type, layout and objective; what the rows lack is borrowed from the origin (or NULL). *model is the start on entry
 * (or NULL); it is replaced on success and kept otherwise. KS_ERR_NO_DATA if there are too few rows. result may be NULL. */
ks_status ks_refit(const ks_rows *rows, const ks_device *device, ks_type type, ks_layout layout,
                   ks_objective objective, const ks_origin *origin, ks_effort effort, int search_steps,
                   ks_model **model, ks_refit_result *result);

/* Writes the model to the store as the device's, in place of the one that was there; also as its type's twin's, as it rests
 * on the same measurements. */
ks_status ks_refit_keep(ks_store *store, const ks_device *device, const ks_model *model,
                        const ks_refit_result *result);

#endif
