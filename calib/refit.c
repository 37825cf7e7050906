/* Rows to cases to model to store. */
#include "refit.h"
#include "error.h"
#include "timer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ks_status ks_refit(const ks_rows *rows, const ks_device *device, ks_type type, ks_layout layout,
                   ks_objective objective, int search_steps, ks_model **model, ks_refit_result *result)
{
    ks_cases cases;
    ks_model *fitted;
    ks_status s = ks_cases_build(rows->items, rows->count, device, type, layout, objective, &cases);
    if (s != KS_OK) return s;
    if (result) *result = (ks_refit_result){cases.count, cases.quarantined, NAN};
    const ks_fit_options options = {.start = *model, .search_steps = search_steps, .seed = (uint64_t)cases.count};
    s = ks_fit(&cases, device, &options, &fitted);
    if (s == KS_OK) {
        ks_model_free(*model);
        *model = fitted;
        if (result) result->cv_regret = ks_fit_cross_validate(&cases, device, fitted);
    }
    ks_cases_free(&cases);
    return s;
}

ks_status ks_refit_keep(ks_store *store, const ks_device *device, const ks_model *model,
                        const ks_refit_result *result)
{
    char *json = ks_model_print(model);
    if (!json) return ks_fail(KS_ERR_MEMORY, "out of memory for a model");
    ks_model_row row = {.type = model->type,
                        .layout = model->layout,
                        .objective = model->objective,
                        .rows = result->problems,
                        .cv_regret = result->cv_regret,
                        .fitted_at_s = ks_clock_s(),
                        .json = json};
    memcpy(row.device, device->name, sizeof row.device);
    ks_status s = ks_store_put_model(store, &row);
    free(json);
    return s;
}
