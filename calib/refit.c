/* Rows to cases to model to store. */
#include "refit.h"
#include "error.h"
#include "timer.h"
#include "validate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ks_type ks_refit_twin(const ks_device *device, ks_type type)
{
    return device->backend != KS_CUDA ? type : type == KS_F16 ? KS_BF16 : type == KS_BF16 ? KS_F16 : type;
}

ks_status ks_refit_cases(const ks_rows *rows, const ks_device *device, ks_type type, ks_layout layout,
                         ks_objective objective, ks_cases *cases)
{
    const ks_type twin = ks_refit_twin(device, type);
    if (twin == type) return ks_cases_build(rows->items, rows->count, device, type, layout, objective, cases);
    ks_measurement *pooled = malloc((rows->count + 1) * sizeof *pooled);
    if (!pooled) return ks_fail(KS_ERR_MEMORY, "out of memory for %zu measurements", rows->count);
    for (size_t i = 0; i < rows->count; i++) {
        pooled[i] = rows->items[i];
        if (pooled[i].problem.type == twin) pooled[i].problem.type = type;
    }
    ks_status s = ks_cases_build(pooled, rows->count, device, type, layout, objective, cases);
    free(pooled);
    return s;
}

ks_status ks_refit(const ks_rows *rows, const ks_device *device, ks_type type, ks_layout layout,
                   ks_objective objective, const ks_origin *origin, ks_effort effort, int search_steps,
                   ks_model **model, ks_refit_result *result)
{
    ks_cases cases;
    ks_model *fitted;
    ks_status s = ks_refit_cases(rows, device, type, layout, objective, &cases);
    if (s != KS_OK) return s;
    const ks_fit_options options = {.start = *model,
                                    .origin = origin,
                                    .search_steps = search_steps,
                                    .seed = (uint64_t)cases.count,
                                    .points_only = effort == KS_EFFORT_QUICK};
    double regret = NAN;
    s = effort == KS_EFFORT_VALIDATED ? ks_fit_validated(&cases, device, &options, &fitted, &regret)
                                      : ks_fit(&cases, device, &options, &fitted);
    if (s == KS_OK) {
        ks_model_free(*model);
        *model = fitted;
    }
    if (result) *result = (ks_refit_result){cases.count, cases.quarantined, regret};
    ks_cases_free(&cases);
    return s;
}

static ks_status keep(ks_store *store, const ks_device *device, const ks_model *model, const ks_refit_result *result)
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

ks_status ks_refit_keep(ks_store *store, const ks_device *device, const ks_model *model,
                        const ks_refit_result *result)
{
    const ks_type twin = ks_refit_twin(device, model->type);
    ks_status s = keep(store, device, model, result);
    if (s != KS_OK || twin == model->type) return s;
    ks_model *other = malloc(sizeof *other);
    if (!other) return ks_fail(KS_ERR_MEMORY, "out of memory for a model");
    *other = *model;
    other->type = twin;
    s = keep(store, device, other, result);
    free(other); /* its factors are the model's own */
    return s;
}
