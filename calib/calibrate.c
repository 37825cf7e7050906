/* ks_calibrate: measure, fit, accept.
 *
 * The nearest seed's measurements stand in, as far as they go, for what is not measured yet (origin.h), so that there is a model
 * after a few problems.
 *
 * Every type and layout gets an equal share of the time left; types that pool their measurements have one between them.
 * Within a share: measure what fills the space, and, once there is a model, what it is least sure of, per second; fit, store
 * the model; judge it on fresh problems; fit once more with those.
 * Before that, where a driver, a BLAS or a kernel is of another version than when the stored rows were measured, a few of their
 * problems are measured again, which tells what the rows are still worth (canaries.h).
 * Every measurement is in the store as soon as it is made, so a run that is killed has lost nothing but the one under
 * way, and the next run starts from what is there. Failures are in it, too: a kernel that failed on a problem, or took the
 * device or the process with it, is not run on it again (failures.h). */
#include "canaries.h"
#include "design.h"
#include "error.h"
#include "measure.h"
#include "refit.h"
#include "timer.h"
#include "validate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXPLORE_LEAST = 8, SPREAD_FIRST = 24, ACCEPT_LEAST = 8, ACCEPT_MOST = 400 };

static const double accept_share = 0.25, budget_default_s = 60;
static const double memory_default = 0.5; /* of the device's memory */

typedef struct run {
    const ks_calibrate_options *options;
    ks_calibrate_report *report;
    ks_device device;
    ks_store *store;
    ks_measurer *measurer;
    double start_s, end_s; /* of the whole run, on the clock of timer.h */
    double config_end_s;   /* of the type and layout at hand */
    double fit_s;          /* the longest that a fit of the type and layout at hand has taken: to be kept in hand */
    ks_failures failures;  /* of this device, in all types and layouts */
    ks_rows rows;          /* of the type and layout at hand */
    ks_origin origin;      /* of the type and layout at hand: a known device to start from */
    ks_standing standing;  /* of the type and layout at hand: what older rows are worth */
    char environment[KS_ENVIRONMENT_BYTES],
        stored_environment[KS_ENVIRONMENT_BYTES]; /* now, and as the store had it */
    double expected_regret;
    int problems; /* of the type and layout at hand, those from the store included */
} run;

static ks_status stopped(const run *r)
{
    return ks_fail(KS_ERR_INTERRUPTED, "stopped after %d problems; all of them are stored", r->report->measured);
}

static ks_status report_progress(run *r, const char *phase)
{
    if (!r->options->progress) return KS_OK;
    const double now = ks_now_s();
    const ks_progress p = {.phase = phase,
                           .measured = r->report->measured,
                           .stored = r->problems,
                           .elapsed_s = now - r->start_s,
                           .left_s = fmax(0, r->end_s - now),
                           .expected_regret = r->expected_regret};
    return r->options->progress(r->options->user, &p) ? KS_OK : stopped(r);
}

/* What the device was lost to is for the next run to know. */
static ks_status keep_loss(run *r)
{
    char why[256];
    const ks_measurement *lost = r->measurer ? ks_measurer_lost_to(r->measurer) : NULL;
    snprintf(why, sizeof why, "%s", ks_status_message(KS_ERR_DEVICE));
    if (lost) ks_store_add(r->store, lost, NULL);
    return ks_fail(KS_ERR_DEVICE, "%s", why);
}

static ks_status measure_one(run *r, const ks_problem *p, const ks_measure_limits *limits, const char *phase)
{
    const ks_kernel *kernels[KS_MAX_KERNELS];
    ks_measurement out[KS_MAX_KERNELS];
    double raw[KS_MAX_KERNELS * KS_MAX_SAMPLES];
    const int count = ks_measurer_kernels(r->measurer, p, kernels);
    ks_status s = ks_measure(r->measurer, p, kernels, count, limits, out, raw);
    if (s == KS_ERR_MEMORY) return report_progress(r, phase); /* too large for this machine: go on with others */
    if (s == KS_OK) s = ks_store_add_all(r->store, out, count, raw, KS_MAX_SAMPLES);
    for (int q = 0; s == KS_OK && q < count; q++) {
        if (!ks_rows_add(&r->rows, &out[q])) s = ks_rows_status(&r->rows);
        if (s == KS_OK && !ks_failures_see(&r->failures, &out[q])) s = ks_failures_status(&r->failures);
    }
    ks_failures_sort(&r->failures);
    if (s != KS_OK) return s;
    r->report->measured++, r->problems++;
    return report_progress(r, phase);
}

/* How many problems a fit takes from the known device. */
static int borrowed(const run *r)
{
    const ks_model *m = r->origin.model;
    const int own = m ? m->points - m->borrowed : 0;
    return own < KS_FIT_BORROWED ? own : KS_FIT_BORROWED;
}

/* Measures until the time for it is over, and in any case what a fit needs. *model holds the last fit. */
static ks_status explore(run *r, ks_design *design, ks_type type, ks_layout layout, double end_s, ks_model **model)
{
    const bool gpu = r->device.backend == KS_CUDA; /* a median spread of 0.3 % there */
    const ks_measure_limits limits = {
        .min_samples = gpu ? 3 : 5, .max_samples = gpu ? 7 : 15, .max_s = fmax((end_s - ks_now_s()) / 150, 0.01)};
    const int lent = borrowed(r), first = lent ? EXPLORE_LEAST : SPREAD_FIRST;
    int fitted_at = 0, searched_at = 0;
    ks_status s = KS_OK;
    while (s == KS_OK && (r->problems < EXPLORE_LEAST || ks_now_s() + 3 * r->fit_s < end_s)) {
        if (r->problems >= first && r->problems > fitted_at + (fitted_at + lent) / 8) {
            const bool search = r->problems > 2 * searched_at;
            const double start = ks_now_s();
            s = ks_refit(&r->rows, &r->device, type, layout, KS_TIME, &r->origin, KS_EFFORT_QUICK,
                         search ? KS_FIT_QUICK_STEPS : 0, model, NULL);
            r->fit_s = fmax(r->fit_s, ks_now_s() - start);
            if (s == KS_ERR_NO_DATA) s = KS_OK; /* not yet */
            fitted_at = r->problems;
            if (search) searched_at = r->problems;
        }
        ks_problem p;
        if (s == KS_OK && *model) {
            double mean;
            ks_design_next(design, *model, &p, &mean);
            r->expected_regret = isnan(r->expected_regret) ? mean : 0.9 * r->expected_regret + 0.1 * mean;
            if (r->options->target_regret > 0 && r->expected_regret < r->options->target_regret && searched_at) break;
        } else {
            ks_design_spread(design, &p);
        }
        if (s == KS_OK) s = measure_one(r, &p, &limits, "measure");
    }
    return s;
}

/* Judges the model on problems drawn at random, which it has not seen, all candidates measured with more care. */
static ks_status accept(run *r, const ks_design *design, ks_type type, ks_layout layout, const ks_model *model,
                        uint64_t *random)
{
    ks_acceptance *a = &r->report->acceptance[r->report->count];
    const ks_measure_limits limits = {
        .min_samples = 7, .max_samples = 31, .max_s = fmax((r->config_end_s - ks_now_s()) / 10, 0.02)};
    const size_t first = r->rows.count;
    ks_status s = KS_OK;
    *a = (ks_acceptance){.type = type, .layout = layout, .measured = r->problems};
    for (int i = 0; s == KS_OK && i < ACCEPT_MOST &&
                    (i < ACCEPT_LEAST || ks_now_s() + KS_VALIDATED_FITS * r->fit_s < r->config_end_s);
         i++) {
        ks_problem p;
        ks_design_random(design, random, &p);
        s = measure_one(r, &p, &limits, "accept");
    }
    if (s != KS_OK) return s;
    ks_cases cases;
    s = ks_cases_build(r->rows.items + first, r->rows.count - first, &r->device, type, layout, KS_TIME, &cases);
    if (s != KS_OK) return s;
    int *chosen = malloc(((size_t)cases.count + 1) * sizeof *chosen);
    if (chosen) {
        ks_cases_choose(&cases, &r->device, model, chosen);
        a->advisor = ks_cases_regret(&cases, chosen, &a->agreement);
        ks_cases_judge_static(&cases, chosen, a);
        r->report->count++;
    }
    free(chosen);
    ks_cases_free(&cases);
    return KS_OK;
}

static ks_status fit_and_keep(run *r, ks_type type, ks_layout layout, ks_effort effort, int search_steps,
                              ks_model **model)
{
    ks_refit_result result;
    const double start = ks_now_s();
    ks_status s =
        ks_refit(&r->rows, &r->device, type, layout, KS_TIME, &r->origin, effort, search_steps, model, &result);
    if (s == KS_OK) (*model)->standing = r->standing;
    if (s == KS_OK) s = ks_refit_keep(r->store, &r->device, *model, &result);
    if (effort != KS_EFFORT_VALIDATED) r->fit_s = fmax(r->fit_s, ks_now_s() - start);
    return s;
}

static ks_status measure_canary(void *user, const ks_problem *p)
{
    return measure_one(user, p, &(ks_measure_limits){.min_samples = 5, .max_samples = 15, .max_s = 0.1}, "canaries");
}

/* What was measured under other versions than these is asked about anew. */
static ks_status look_back(run *r, ks_type type, ks_layout layout)
{
    ks_status s = ks_standing_find(r->store, r->device.name, type, layout, &r->standing);
    if (s != KS_OK) return s;
    const char *before = *r->standing.environment ? r->standing.environment : r->stored_environment;
    ks_canaries c = {.device = &r->device,
                     .type = type,
                     .layout = layout,
                     .changed = *before && strcmp(before, r->environment) != 0,
                     .measure = measure_canary,
                     .user = r};
    s = ks_canaries_run(&c, &r->rows, &r->standing);
    if (s != KS_OK) return s;
    memcpy(r->standing.environment, r->environment, sizeof r->environment);
    r->report->canaries += c.problems, r->report->kept += c.verdicts[KS_KEEP];
    r->report->rescaled += c.verdicts[KS_RESCALE], r->report->set_aside += c.verdicts[KS_REFIT];
    return KS_OK;
}

static ks_status calibrate_one(run *r, ks_type type, ks_layout layout, uint64_t *random)
{
    const ks_store_filter filter = {.device = r->device.name,
                                    .types = 1u << type | 1u << ks_refit_twin(&r->device, type),
                                    .layouts = 1u << layout};
    const double share = r->config_end_s - ks_now_s();
    ks_design *design = NULL;
    ks_model *model = NULL;
    ks_cases before;
    r->rows.count = 0, r->problems = 0, r->expected_regret = NAN, r->fit_s = 0;
    ks_status s = ks_rows_read(r->store, &filter, &r->rows);
    if (s == KS_OK) s = look_back(r, type, layout);
    if (s == KS_OK) s = ks_refit_cases(&r->rows, &r->device, type, layout, KS_TIME, &before);
    if (s != KS_OK) return s;
    r->problems = before.count;
    ks_cases_free(&before);

    if (!r->options->alone) ks_origin_nearest(&r->device, type, layout, KS_TIME, &r->origin);
    s = ks_design_open(&design, &r->device, type, layout, ks_design_most_s(&r->device, share));
    if (s != KS_OK) goto done;
    ks_design_skip(design, r->problems);
    s = explore(r, design, type, layout, r->config_end_s - accept_share * share, &model);
    if (s != KS_OK && s != KS_ERR_INTERRUPTED) goto done;
    /* Stopped or not, what was measured is put to use. */
    ks_status fit =
        fit_and_keep(r, type, layout, s == KS_OK ? KS_EFFORT_ALL : KS_EFFORT_VALIDATED, KS_FIT_QUICK_STEPS, &model);
    if (s == KS_OK) s = fit;
    if (s == KS_OK) s = report_progress(r, "fit");
    if (s != KS_OK) goto done;
    s = accept(r, design, type, layout, model, random);
    fit = fit_and_keep(r, type, layout, KS_EFFORT_VALIDATED, 0, &model);
    if (s == KS_OK) s = fit;
    if (s == KS_ERR_INTERRUPTED) stopped(r); /* a fit that had too little to go on has left another message */
done:
    ks_design_close(design);
    ks_model_free(model);
    ks_origin_free(&r->origin);
    return s;
}

/* The stored rates if there are any: they are facts of the device, not of a run. */
static ks_status prepare_device(run *r)
{
    ks_device stored;
    const bool known = ks_store_get_device(r->store, r->device.name, &stored) == KS_OK;
    if (known) ks_environment(&stored, r->stored_environment);
    ks_environment(&r->device, r->environment);
    if (known && stored.copy_bytes_per_s > 0 && stored.gemm_flops_per_s[KS_F32] > 0) {
        r->device.copy_bytes_per_s = stored.copy_bytes_per_s;
        memcpy(r->device.gemm_flops_per_s, stored.gemm_flops_per_s, sizeof stored.gemm_flops_per_s);
    }
    const ks_measurer_setup setup = {.most_bytes = r->options->memory_bytes
                                                       ? r->options->memory_bytes
                                                       : (int64_t)(memory_default * (double)r->device.memory_bytes),
                                     .failures = &r->failures,
                                     .running = r->options->running,
                                     .user = r->options->user};
    const ks_store_filter filter = {.device = r->device.name};
    ks_status s = ks_store_each(r->store, &filter, ks_failures_see, &r->failures);
    if (s == KS_OK) s = ks_failures_status(&r->failures);
    ks_failures_sort(&r->failures);
    if (s == KS_OK) s = ks_measurer_open_with(&r->measurer, &r->device, &setup);
    if (s == KS_OK && r->device.copy_bytes_per_s <= 0) {
        s = report_progress(r, "rates");
        if (s == KS_OK) s = ks_measure_rates(r->measurer, &r->device);
    }
    return s == KS_OK ? ks_store_put_device(r->store, &r->device) : s;
}

/* Two types whose measurements serve both share one part of the time. */
static double weight_of(const ks_device *device, unsigned types, ks_type type)
{
    const ks_type twin = ks_refit_twin(device, type);
    return twin != type && types >> twin & 1 ? 0.5 : 1;
}

ks_status ks_calibrate(const ks_calibrate_options *options, ks_calibrate_report *report)
{
    const ks_calibrate_options defaults = {0};
    ks_calibrate_report unused;
    run r = {.options = options ? options : &defaults, .report = report ? report : &unused, .expected_regret = NAN};
    *r.report = (ks_calibrate_report){0};
    const double budget_s = r.options->budget_s != 0 ? r.options->budget_s : budget_default_s;
    const unsigned layouts = r.options->layouts ? r.options->layouts : (1u << KS_NLAYOUTS) - 1;
    char path[4096];
    if (r.options->types >> KS_NTYPES)
        return ks_fail(KS_ERR_ARGUMENT, "types is %#x, has bits beyond %d", r.options->types, KS_NTYPES - 1);
    if (layouts >> KS_NLAYOUTS)
        return ks_fail(KS_ERR_ARGUMENT, "layouts is %#x, has bits beyond %d", layouts, KS_NLAYOUTS - 1);
    if (!(budget_s > 0 && budget_s < 1e7))
        return ks_fail(KS_ERR_ARGUMENT, "budget_s is %g, must be in (0, 1e7), or 0 for %g", budget_s,
                       budget_default_s);
    if (!(r.options->target_regret >= 0))
        return ks_fail(KS_ERR_ARGUMENT, "target_regret is %g, must be >= 0", r.options->target_regret);
    if (r.options->memory_bytes < 0)
        return ks_fail(KS_ERR_ARGUMENT, "memory_bytes is %lld, must be > 0, or 0 for half of the device's",
                       (long long)r.options->memory_bytes);

    ks_status s = ks_device_find(r.options->device, &r.device);
    if (s == KS_ERR_NO_DATA)
        s = ks_fail(KS_ERR_DEVICE, "device \"%s\" cannot be measured here; valid: cpu, cuda:0, ...",
                    r.options->device);
    if (s != KS_OK) return s;
    const unsigned types = r.options->types ? r.options->types : ks_design_types(&r.device);
    r.start_s = ks_now_s(), r.end_s = r.start_s + budget_s;
    uint64_t random = r.options->seed ? r.options->seed : (uint64_t)(ks_clock_s() * 1e9);

    s = ks_store_path(r.options->store, path, sizeof path);
    if (s == KS_OK) s = ks_store_open(&r.store, path, KS_STORE_WRITE);
    if (s == KS_OK) s = prepare_device(&r);
    double left = 0;
    for (int t = 0; t < KS_NTYPES; t++)
        if (types >> t & 1) left += weight_of(&r.device, types, (ks_type)t) * __builtin_popcount(layouts);
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            if (s != KS_OK || !(types >> t & 1) || !(layouts >> l & 1)) continue;
            const double now = ks_now_s();
            const double weight = weight_of(&r.device, types, (ks_type)t);
            r.config_end_s = now + fmax(r.end_s - now, 0.5) * weight / left;
            left -= weight;
            s = calibrate_one(&r, (ks_type)t, (ks_layout)l, &random);
        }
    if (s == KS_ERR_DEVICE) s = keep_loss(&r);
    memcpy(r.report->device, r.device.name, sizeof r.report->device);
    r.report->copy_bytes_per_s = r.device.copy_bytes_per_s;
    memcpy(r.report->gemm_flops_per_s, r.device.gemm_flops_per_s, sizeof r.report->gemm_flops_per_s);
    r.report->elapsed_s = ks_now_s() - r.start_s;
    ks_rows_free(&r.rows);
    ks_failures_free(&r.failures);
    ks_measurer_close(r.measurer);
    ks_store_close(r.store);
    return s;
}
