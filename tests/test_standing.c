/* Staleness: what canaries say of measurements that are older than a driver, a BLAS or a kernel, each case forged: keep, rescale,
 * refit. What is measured again is forged, too, so that no clock decides. */
#include "canaries.h"
#include "knowledge.h"
#include "refit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

static const char fused[] = "fused.cpu", permute[] = "bmm.cpu.permute";
static const char *const names[] = {fused, permute};

static ks_device cpu;

static int enter(void **state)
{
    ks_device_cpu(&cpu);
    ks_device_assume_rates(&cpu);
    return sandbox_enter(state);
}

/* What kernel q took before the change. */
static double law(int q, const ks_problem *p)
{
    return (q + 1) * (1e-6 + ks_problem_bytes(p) / 1e10) + ks_problem_flops(p) / 5e10;
}

/* What has changed: kernel q now takes factor[q] times as long, give or take `scatter`. */
typedef struct change {
    ks_rows rows;
    double factor[2], scatter;
    rng r;
} change;

static void add_row(change *c, const ks_problem *p, int q, double time_s, double at_s)
{
    ks_measurement m = known_row(cpu.name, p, names[q], ks_kernel_find(names[q])->family, time_s);
    m.measured_at_s = at_s;
    assert_true(ks_rows_add(&c->rows, &m));
}

static ks_status measure(void *user, const ks_problem *p)
{
    change *c = user;
    for (int q = 0; q < 2; q++)
        add_row(c, p, q, law(q, p) * c->factor[q] * exp(c->scatter * (2 * rng_unit(&c->r) - 1)), 2e9);
    return KS_OK;
}

/* Rows from before the change. */
static void fill(change *c, int count)
{
    static const problem_bounds bounds = {.hi = {.a = 16, .b = 128, .c = 128, .d = 16, .batch = 512},
                                          .flops_max = 1e10};
    c->r = rng_make(11, 0);
    for (int i = 0; i < count; i++) {
        ks_problem p = problem_random(&c->r, &bounds);
        p.type = KS_F32, p.layout = KS_BATCH_FIRST, p.math = KS_MATH_F32;
        for (int q = 0; q < 2; q++) add_row(c, &p, q, law(q, &p), 1e9);
    }
}

static ks_canaries canaries_of(change *c, bool changed)
{
    return (ks_canaries){
        .device = &cpu, .type = KS_F32, .layout = KS_BATCH_FIRST, .changed = changed, .measure = measure, .user = c};
}

/* How the old rows of kernel q look now: over the law; NaN where they are set aside. All must look alike. */
static double looks(const change *c, int q, int count)
{
    double ratio = NAN;
    for (int i = 0; i < 2 * count; i++) {
        const ks_measurement *m = &c->rows.items[i];
        if (strcmp(m->kernel, names[q]) != 0) continue;
        const double now = m->status == KS_OK && m->kernel_version == ks_kernel_find(m->kernel)->version
                               ? m->time_s / law(q, &m->problem)
                               : NAN;
        if (i > 1 && !isnan(ratio)) assert_near(now, ratio, 1e-9);
        ratio = now;
    }
    return ratio;
}

static void test_nothing_changed(void **state)
{
    change c = {.factor = {1, 1}};
    ks_standing standing = {.count = 0};
    (void)state;
    fill(&c, 60);
    ks_canaries canaries = canaries_of(&c, false);
    assert_int_equal(ks_canaries_run(&canaries, &c.rows, &standing), KS_OK);
    assert_int_equal(canaries.problems, 0);
    assert_int_equal(c.rows.count, 120);
    ks_rows_free(&c.rows);
}

/* Another driver or BLAS: the one kernel is as it was, the other takes three times as long. */
static void test_environment(void **state)
{
    change c = {.factor = {1, 3}, .scatter = 0.03};
    ks_standing standing = {.count = 0};
    (void)state;
    fill(&c, 60);
    ks_canaries canaries = canaries_of(&c, true);
    assert_int_equal(ks_canaries_run(&canaries, &c.rows, &standing), KS_OK);
    assert_int_equal(canaries.problems, 12);
    assert_int_equal(canaries.verdicts[KS_KEEP], 1);
    assert_int_equal(canaries.verdicts[KS_RESCALE], 1);
    assert_int_equal(standing.count, 1);
    assert_near(looks(&c, 0, 60), 1, 1e-9);
    assert_near(looks(&c, 1, 60), 3, 0.05);
    for (size_t i = 120; i < c.rows.count; i++)
        assert_near(c.rows.items[i].measured_at_s, 2e9, 1e-9); /* new: as measured */
    ks_rows_free(&c.rows);
}

/* Neither as it was nor off by one factor: what was measured before is set aside, what is measured now is not. */
static void test_refit(void **state)
{
    change c = {.factor = {1, 1}, .scatter = 1};
    ks_standing standing = {.count = 0};
    ks_cases cases;
    (void)state;
    fill(&c, 60);
    ks_canaries canaries = canaries_of(&c, true);
    assert_int_equal(ks_canaries_run(&canaries, &c.rows, &standing), KS_OK);
    assert_int_equal(canaries.verdicts[KS_REFIT], 2);
    assert_true(isnan(looks(&c, 0, 60)) && isnan(looks(&c, 1, 60)));
    assert_int_equal(ks_refit_cases(&c.rows, &cpu, KS_F32, KS_BATCH_FIRST, KS_TIME, &cases), KS_OK);
    assert_int_equal(cases.count, 12);
    ks_cases_free(&cases);
    ks_rows_free(&c.rows);
}

/* Another version of one kernel: its rows alone are asked about, and count as the new version's. */
static void test_version(void **state)
{
    static const struct {
        double factor, scatter, looks;
    } tries[] = {{1, 0.01, 1}, {0.5, 0.01, 0.5}, {0.5, 1, NAN}};
    (void)state;
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        change c = {.factor = {tries[i].factor, 1}, .scatter = tries[i].scatter};
        ks_standing standing = {.count = 0};
        fill(&c, 60);
        for (size_t r = 0; r < c.rows.count; r++)
            if (strcmp(c.rows.items[r].kernel, fused) == 0) c.rows.items[r].kernel_version--;
        assert_true(isnan(looks(&c, 0, 60)));
        ks_canaries canaries = canaries_of(&c, false);
        assert_int_equal(ks_canaries_run(&canaries, &c.rows, &standing), KS_OK);
        assert_int_equal(canaries.verdicts[KS_KEEP] + canaries.verdicts[KS_RESCALE] + canaries.verdicts[KS_REFIT], 1);
        assert_int_equal(standing.count, 1); /* keeping the rows of another version is to be noted, too */
        if (isnan(tries[i].looks))
            assert_true(isnan(looks(&c, 0, 60)));
        else
            assert_near(looks(&c, 0, 60), tries[i].looks, 0.02);
        assert_near(looks(&c, 1, 60), 1, 1e-9);
        ks_rows_free(&c.rows);
    }
}

/* A verdict outlives the run in the model's JSON, and rows are read as it says; the store's own rows stay as they were. */
static void test_stored(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *why;
    ks_store *store = opened(path, KS_STORE_WRITE);
    change c = {.factor = {1, 1}};
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-6}, {permute, KS_BMM, 1e-3}};
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    ks_rows rows = {0}, raw = {0};
    const ks_store_filter filter = {.device = cpu.name};
    fill(&c, 20);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    for (size_t i = 0; i < c.rows.count; i++) assert_int_equal(ks_store_add(store, &c.rows.items[i], NULL), KS_OK);
    ks_environment(&cpu, model->standing.environment);
    ks_adjustment scaled = {.version = ks_kernel_find(fused)->version, .before_s = 1.5e9, .factor = 2}, aside;
    strcpy(scaled.kernel, fused);
    scaled.becomes = scaled.version;
    aside = scaled, aside.factor = 0, aside.version = aside.becomes = ks_kernel_find(permute)->version;
    strcpy(aside.kernel, permute);
    ks_standing_note(&model->standing, &scaled);
    ks_standing_note(&model->standing, &aside);
    known_put_model(store, cpu.name, model);
    assert_int_equal(ks_rows_read(store, &filter, &rows), KS_OK);
    assert_int_equal(ks_store_each(store, &filter, ks_rows_add, &raw), KS_OK);
    assert_int_equal(rows.count, c.rows.count);
    for (size_t i = 0; i < rows.count; i++) {
        const bool first = strcmp(rows.items[i].kernel, fused) == 0;
        assert_near(raw.items[i].time_s, c.rows.items[i].time_s, 1e-12);
        assert_int_equal(raw.items[i].status, KS_OK);
        if (first) assert_near(rows.items[i].time_s, 2 * raw.items[i].time_s, 1e-12);
        assert_int_equal(rows.items[i].status, first ? KS_OK : KS_ERR_NO_DATA);
    }
    /* A context says nothing while the versions are those of the models, and which are not when they are not. */
    ks_context *ctx = context_open(&(ks_options){.store = path});
    assert_int_equal(ks_store_status(ctx, &why), KS_OK);
    assert_string_equal(why, "");
    ks_close(ctx);
    strcpy(model->standing.environment, "Linux 1.0; glibc 2.0; OpenBLAS 0.1");
    known_put_model(store, cpu.name, model);
    ctx = context_open(&(ks_options){.store = path});
    assert_int_equal(ks_store_status(ctx, &why), KS_OK);
    assert_non_null(strstr(why, "OpenBLAS 0.1"));
    ks_close(ctx);
    ks_environment(&cpu, model->standing.environment);
    model->kernel[0].version++;
    known_put_model(store, cpu.name, model);
    ctx = context_open(&(ks_options){.store = path});
    assert_int_equal(ks_store_status(ctx, &why), KS_OK);
    assert_non_null(strstr(why, fused));
    ks_close(ctx);
    ks_model_free(model);
    ks_store_close(store);
    ks_rows_free(&rows);
    ks_rows_free(&raw);
    ks_rows_free(&c.rows);
}

/* A whole calibration after a change: the canaries are measured, and the model then stands for what there is now. */
static void test_calibrate(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = opened(path, KS_STORE_WRITE);
    change c = {.factor = {1, 1}};
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-6}, {permute, KS_BMM, 1e-3}};
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    ks_calibrate_report report;
    ks_standing standing;
    char now[KS_ENVIRONMENT_BYTES];
    fill(&c, 20);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    for (size_t i = 0; i < c.rows.count; i++) assert_int_equal(ks_store_add(store, &c.rows.items[i], NULL), KS_OK);
    strcpy(model->standing.environment, "Linux 1.0; glibc 2.0; OpenBLAS 0.1");
    known_put_model(store, cpu.name, model);
    ks_store_close(store);
    const ks_calibrate_options options = {
        .store = path, .budget_s = 0.5, .types = 1u << KS_F32, .layouts = 1u << KS_BATCH_FIRST, .seed = 1};
    assert_int_equal(ks_calibrate(&options, &report), KS_OK);
    assert_true(report.canaries >= 12);
    assert_int_equal(report.kept + report.rescaled + report.set_aside, 2);
    store = opened(path, KS_STORE_READ);
    assert_int_equal(ks_standing_find(store, cpu.name, KS_F32, KS_BATCH_FIRST, &standing), KS_OK);
    ks_environment(&cpu, now);
    assert_string_equal(standing.environment, now);
    assert_int_equal(standing.count, report.rescaled + report.set_aside);
    ks_store_close(store);
    assert_int_equal(ks_calibrate(&options, &report), KS_OK); /* and once is enough */
    assert_int_equal(report.canaries, 0);
    ks_model_free(model);
    ks_rows_free(&c.rows);
}

static void test_verdicts(void **state)
{
    double same[] = {0.01, -0.02, 0.03, 0, -0.01, 0.02}, shifted[] = {0.69, 0.71, 0.7, 0.68, 0.72, 9},
           wild[] = {-1, 1, 0.5, -0.5, 0, 2}, few[] = {0, 0, 0, 0}, factor;
    (void)state;
    assert_int_equal(ks_canary_verdict(same, 6, &factor), KS_KEEP);
    assert_int_equal(ks_canary_verdict(shifted, 6, &factor), KS_RESCALE); /* whatever became of one of them */
    assert_near(factor, 2.02, 0.02);
    assert_int_equal(ks_canary_verdict(wild, 6, &factor), KS_REFIT);
    assert_int_equal(ks_canary_verdict(few, 4, &factor), KS_REFIT);
}

/* The list of adjustments is finite, and what it forgets is never what is still in use. */
static void test_finite(void **state)
{
    ks_standing s = {.count = 0};
    ks_adjustment a = {.version = 1, .becomes = 1};
    (void)state;
    for (int i = 0; i < 1000; i++) {
        snprintf(a.kernel, sizeof a.kernel, "kernel.%d", i % 8);
        a.before_s = i, a.factor = 1.1;
        ks_standing_note(&s, &a);
        assert_true(s.count <= KS_ADJUSTMENTS);
        assert_string_equal(s.items[s.count - 1].kernel, a.kernel);
    }
    a.factor = 0;
    for (int i = 0; i < 8; i++) {
        snprintf(a.kernel, sizeof a.kernel, "kernel.%d", i);
        ks_standing_note(&s, &a);
    }
    assert_int_equal(s.count, 8);
}

/* What is in a model's text need not be possible. */
static void test_malformed(void **state)
{
#define ITEM(version, factor)                                                                                        \
    "{\"kernel\":\"k\",\"version\":" version ",\"becomes\":1,\"before_s\":5,\"factor\":" factor "}"
    static const char *const bad[] = {"{\"environment\":7}",
                                      "{\"adjustments\":{}}",
                                      "{\"adjustments\":[{}]}",
                                      "{\"adjustments\":[7]}",
                                      "{\"adjustments\":[" ITEM("1", "-1") "]}",
                                      "{\"adjustments\":[" ITEM("1", "1e300") "]}",
                                      "{\"adjustments\":[" ITEM("-1", "1") "]}",
                                      "{\"adjustments\":[" ITEM("1e99", "1") "]}",
                                      "{\"adjustments\":[" ITEM("\"1\"", "1") "]}"};
    char text[4096] = "{\"adjustments\":[", kernel[400];
    ks_standing standing;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cJSON *model = cJSON_Parse(bad[i]);
        assert_non_null(model);
        assert_int_equal(ks_standing_parse(model, &standing), KS_ERR_PARSE);
        cJSON_Delete(model);
    }
    for (int i = 0; i <= KS_ADJUSTMENTS; i++) strcat(strcat(text, i ? "," : ""), ITEM("1", "1"));
    memset(kernel, 'k', sizeof kernel - 1), kernel[sizeof kernel - 1] = '\0';
    cJSON *many = cJSON_Parse(strcat(text, "]}")), *wordy = cJSON_CreateObject();
    assert_non_null(cJSON_AddStringToObject(wordy, "environment", kernel));
    assert_int_equal(ks_standing_parse(many, &standing), KS_ERR_PARSE);
    assert_int_equal(ks_standing_parse(wordy, &standing), KS_ERR_PARSE);
    cJSON_Delete(many);
    cJSON_Delete(wordy);
    cJSON *good = cJSON_Parse("{\"environment\":\"e\",\"adjustments\":[" ITEM("1", "0.5") "]}");
    assert_int_equal(ks_standing_parse(good, &standing), KS_OK);
    assert_int_equal(standing.count, 1);
    assert_near(standing.items[0].factor, 0.5, 1e-12);
    cJSON_Delete(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_malformed),
                                       cmocka_unit_test_setup_teardown(test_verdicts, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_finite, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_nothing_changed, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_environment, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_refit, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_version, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_stored, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_calibrate, enter, sandbox_leave)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
