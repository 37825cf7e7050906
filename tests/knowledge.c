/* A kernel row whose run is the public call: so a product through the library gets the very verdict that a kernel gets,
 * guard pages and all. */
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

ks_model *known_model(ks_type type, ks_layout layout, const known_kernel *kernels, int count)
{
    ks_model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->type = type, m->layout = layout, m->kernels = count;
    m->caution = 1;
    for (int d = 0; d < KS_MODEL_DIMS + KS_MODEL_OWN; d++) m->length[d] = 1;
    for (int q = 0; q < count; q++) {
        const ks_kernel *row = ks_kernel_find(kernels[q].name);
        ks_model_kernel *k = &m->kernel[q];
        snprintf(k->name, sizeof k->name, "%s", kernels[q].name);
        k->version = row ? row->version : 1;
        k->family = kernels[q].family;
        ks_foreign_kernel(&k->foreign, k->name, k->family, k->version);
        k->generic = !row;
        k->cost[KS_TERM_LAUNCH] = kernels[q].start_s;
        k->signal = 0.01, k->noise = 1e-4;
    }
    assert_int_equal(ks_model_factorise(m), KS_OK);
    return m;
}

void known_put_text(ks_store *store, const char *device, ks_type type, ks_layout layout, const char *json)
{
    ks_model_row row = {
        .type = type, .layout = layout, .rows = 9, .cv_regret = 0.01, .fitted_at_s = 1.7e9, .json = json};
    snprintf(row.device, sizeof row.device, "%s", device);
    ks_status status = ks_store_put_model(store, &row);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
}

void known_put_model(ks_store *store, const char *device, const ks_model *model)
{
    char *json = ks_model_print(model);
    assert_non_null(json);
    known_put_text(store, device, model->type, model->layout, json);
    free(json);
}

ks_measurement known_row(const char *device, const ks_problem *problem, const char *kernel, ks_family family,
                         double time_s)
{
    const ks_kernel *row = ks_kernel_find(kernel);
    ks_measurement m = {.problem = *problem,
                        .kernel_version = row ? row->version : 1,
                        .family = family,
                        .reason = "by hand",
                        .time_s = time_s,
                        .spread = 0.01,
                        .energy_j = NAN,
                        .samples = 5,
                        .measured_at_s = 1.7e9};
    snprintf(m.device, sizeof m.device, "%s", device);
    snprintf(m.kernel, sizeof m.kernel, "%s", kernel);
    return m;
}

void known_put_row(ks_store *store, const ks_measurement *row)
{
    ks_status status = ks_store_add(store, row, NULL);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
}

int known_count(const char *path)
{
    if (access(path, F_OK) != 0) return 0;
    ks_store *store = opened(path, KS_STORE_READ);
    int count = (int)info_of(store).measurements;
    ks_store_close(store);
    return count;
}

static _Thread_local struct {
    ks_context *ctx;
    const char *path;
} via;

static ks_status run_through_library(const ks_problem *p, const ks_run_args *args)
{
    return via.path ? ks_matmul(via.ctx, p, via.path, args->x, args->k, args->y, NULL)
                    : ks_auto_matmul(via.ctx, p, args->x, args->k, args->y, NULL);
}

static size_t no_workspace(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return 0;
}

bool product_right(ks_context *ctx, const ks_problem *problem, const char *path, rng *r, char why[TRIAL_WHY_BYTES])
{
    const ks_kernel library = {
        .name = path ? path : "auto", .workspace_bytes = no_workspace, .run = run_through_library};
    trial t;
    if (!trial_make(&t, problem, TRIAL_PLAIN, r)) {
        snprintf(why, TRIAL_WHY_BYTES, "no memory");
        return false;
    }
    via.ctx = ctx, via.path = path;
    bool right = trial_run(&t, &library, NULL, why);
    trial_free(&t);
    return right;
}

void assert_product(ks_context *ctx, const ks_problem *problem, const char *path)
{
    char why[TRIAL_WHY_BYTES];
    rng r = rng_make(7, (uint64_t)problem->batch);
    if (!product_right(ctx, problem, path, &r, why)) fail_msg("%s", why);
}

ks_context *context_open(const ks_options *options)
{
    ks_context *ctx;
    ks_status status = ks_open(&ctx, options);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    return ctx;
}

void assert_near(double value, double wanted, double error)
{
    if (!(fabs(value - wanted) <= error * fabs(wanted))) fail_msg("%.9g, not %.9g", value, wanted);
}
