/* The ladder of the design, section 6: measured here, then the model, then the seeds, then the built-in costs; and what
 * climbs it: first-use measuring. Everything known is made by hand, so what must be decided is known beforehand. */
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33};
static const ks_problem another = {.a = 2, .b = 8, .c = 40, .d = 3, .batch = 16};
static const char fused[] = "fused.cpu", permute[] = "bmm.cpu.permute";

static ks_device cpu;

static int enter(void **state)
{
    unsetenv("KSAUTO_EXPLAIN");
    ks_device_cpu(&cpu);
    return sandbox_enter(state);
}

/* A store in which a model holds that the fused kernel is a thousand times faster. */
static ks_store *biased_store(const char *path)
{
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-6}, {permute, KS_BMM, 1e-3}};
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    known_put_model(store, cpu.name, model);
    ks_model_free(model);
    return store;
}

static void put_time(ks_store *store, const ks_problem *p, const char *kernel, double time_s)
{
    const ks_kernel *row = ks_kernel_find(kernel);
    const ks_measurement m = known_row(cpu.name, p, kernel, row->family, time_s);
    known_put_row(store, &m);
}

static ks_context *context_on(const char *path)
{
    const ks_options options = {.store = path};
    const char *why;
    ks_context *ctx = context_open(&options);
    if (ks_store_status(ctx, &why) != KS_OK) fail_msg("%s", why);
    return ctx;
}

static void assert_advice(ks_context *ctx, const ks_problem *p, ks_source source, const char *kernel)
{
    ks_advice a;
    const char *chosen;
    assert_int_equal(ks_advise(ctx, p, &a), KS_OK);
    if (source == KS_FROM_COST_MODEL && a.source == KS_FROM_SEEDS)
        assert_true(*a.source_device); /* this build ships a seed that is near enough */
    else {
        assert_string_equal(ks_source_name(a.source), ks_source_name(source));
        assert_string_equal(a.source_device, source == KS_FROM_COST_MODEL ? "" : a.device);
    }
    if (!kernel) return;
    assert_string_equal(a.kernel, kernel);
    assert_int_equal(ks_choose(ctx, p, &chosen), KS_OK);
    assert_string_equal(chosen, kernel);
    assert_int_equal(a.path, ks_kernel_find(kernel) ? ks_kernel_find(kernel)->family : a.path);
}

static void test_measurement_beats_model(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = biased_store(path);
    put_time(store, &usual, fused, 2e-3);
    put_time(store, &usual, permute, 1e-3);
    ks_store_close(store);
    ks_context *ctx = context_on(path);
    assert_advice(ctx, &another, KS_FROM_MODEL, fused);
    assert_advice(ctx, &usual, KS_FROM_MEASUREMENT, permute);
    assert_product(ctx, &usual, NULL);

    ks_advice a;
    assert_int_equal(ks_advise(ctx, &usual, &a), KS_OK);
    assert_string_equal(a.candidates[0].kernel, permute);
    assert_near(a.candidates[0].time_s, 1e-3, 1e-5);
    assert_near(a.candidates[1].time_s, 2e-3, 1e-5);
    assert_true(a.p_fused_faster < 0.01 && a.expected_regret < 0.01);
    assert_int_equal(ks_advise(ctx, &another, &a), KS_OK);
    assert_true(a.p_fused_faster > 0.99);
    assert_near(a.candidates[0].time_s, 1e-6, 1e-5);
    assert_true(a.candidates[0].time_hi_s > 1.05e-6); /* the model's deviation is 0.1 */
    /* Another batch, type or layout is another problem. */
    ks_problem near = usual;
    near.batch++;
    assert_advice(ctx, &near, KS_FROM_MODEL, fused);
    near = usual, near.type = KS_F64;
    assert_advice(ctx, &near, KS_FROM_COST_MODEL, NULL);
    near = usual, near.layout = KS_BATCH_LAST;
    assert_advice(ctx, &near, KS_FROM_COST_MODEL, NULL);
    ks_close(ctx);
}

static void test_what_does_not_count(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = biased_store(path);
    ks_measurement m = known_row(cpu.name, &usual, permute, KS_BMM, 1e-9);
    m.kernel_version += 5; /* another version's time */
    known_put_row(store, &m);
    m = known_row("Some other machine", &usual, permute, KS_BMM, 1e-9);
    known_put_row(store, &m);
    m = known_row(cpu.name, &usual, permute, KS_BMM, 1e-9);
    m.status = KS_ERR_WRONG_RESULT, m.time_s = NAN;
    known_put_row(store, &m);
    m = known_row(cpu.name, &usual, "ref.cpu", KS_REFERENCE, 1e-9);
    known_put_row(store, &m);
    ks_store_close(store);
    ks_context *ctx = context_on(path);
    assert_advice(ctx, &usual, KS_FROM_MODEL, fused);
    ks_close(ctx);
}

static void test_ties(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = biased_store(path);
    ks_problem p = usual;
    put_time(store, &p, fused, 1.015e-3); /* inside 2 %: the table's first */
    put_time(store, &p, permute, 1e-3);
    p.batch = 40;
    put_time(store, &p, fused, 1.03e-3);
    put_time(store, &p, permute, 1e-3);
    p.batch = 41;
    put_time(store, &p, fused, 1e-3);
    put_time(store, &p, permute, 1e-3);
    ks_store_close(store);
    ks_context *ctx = context_on(path);
    p.batch = usual.batch;
    assert_advice(ctx, &p, KS_FROM_MEASUREMENT, fused);
    p.batch = 40;
    assert_advice(ctx, &p, KS_FROM_MEASUREMENT, permute);
    p.batch = 41;
    assert_advice(ctx, &p, KS_FROM_MEASUREMENT, fused);
    ks_close(ctx);
}

/* math has no effect but on float32 (the header says so): it must not split what is known, nor make the decision depend on
 * which of the two came first. */
static void test_math_without_effect(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_problem plain = usual, odd;
    plain.type = KS_F16, odd = plain, odd.math = KS_MATH_TF32;
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-6}, {permute, KS_BMM, 1e-3}};
    ks_model *model = known_model(KS_F16, KS_BATCH_FIRST, kernels, 2);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    known_put_model(store, cpu.name, model);
    ks_model_free(model);
    put_time(store, &plain, fused, 2e-3);
    put_time(store, &plain, permute, 1e-3);
    ks_store_close(store);
    const char *first, *second;
    for (int turn = 0; turn < 2; turn++) {
        ks_context *ctx = context_on(path);
        assert_int_equal(ks_choose(ctx, turn ? &odd : &plain, &first), KS_OK);
        assert_int_equal(ks_choose(ctx, turn ? &plain : &odd, &second), KS_OK);
        assert_string_equal(first, permute);
        assert_string_equal(second, permute);
        ks_close(ctx);
    }
}

static void test_device_elsewhere(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    const char far[] = "Far Machine 9000 (64 threads)", farther[] = "Far Machine 9001";
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-3}, {"their.own", KS_BMM, 1e-5}};
    ks_store *store = biased_store(path);
    ks_device device = {.units = 64, .memory_bytes = INT64_C(1) << 40};
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    for (int i = 0; i < 2; i++) {
        snprintf(device.name, sizeof device.name, "%s", i ? farther : far);
        assert_int_equal(ks_store_put_device(store, &device), KS_OK);
    }
    known_put_model(store, far, model);
    ks_model_free(model);
    ks_store_close(store);

    const char *names[] = {far, "machine 9000"};
    for (int i = 0; i < 2; i++) {
        const ks_options options = {.store = path, .device = names[i]};
        ks_context *ctx = context_open(&options);
        float x[3 * 16 * 5 * 33], k[3 * 24 * 16 * 5], y[3 * 24 * 5 * 33];
        memset(y, 0x5a, sizeof y);
        memset(x, 0, sizeof x);
        memset(k, 0, sizeof k);
        assert_advice(ctx, &usual, KS_FROM_MODEL, "their.own");
        assert_failure(ks_auto_matmul(ctx, &usual, x, k, y, NULL), KS_ERR_DEVICE, far, NULL);
        assert_failure(ks_matmul(ctx, &usual, fused, x, k, y, NULL), KS_ERR_DEVICE, far, NULL);
        for (size_t b = 0; b < sizeof y; b++) assert_int_equal(((unsigned char *)y)[b], 0x5a);
        ks_problem p = usual;
        ks_advice a;
        p.type = KS_BF16;
        if (ks_advise(ctx, &p, &a) == KS_OK)
            assert_int_equal(a.source, KS_FROM_SEEDS);
        else
            assert_failure(ks_advise(ctx, &p, &a), KS_ERR_NO_DATA, far, "bf16");
        ks_close(ctx);
    }
    ks_context *ctx;
    const ks_options several = {.store = path, .device = "Far Machine"};
    assert_failure(ks_open(&ctx, &several), KS_ERR_DEVICE, "Far Machine", "several");
    const ks_options own = {.store = path, .device = cpu.name};
    ctx = context_open(&own);
    assert_product(ctx, &usual, NULL); /* the name of this very machine is as good as "cpu" */
    ks_close(ctx);
}

/* Costs of terms that this build lacks make no advice: the next rung serves, and the reason is told. */
static void test_terms_elsewhere(void **state)
{
    const char *path = sandbox_path(state, "s.db"), far[] = "Far Machine 9000 (64 threads)", *why;
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-9}, {"their.own", KS_BMM, 1e-5}};
    const ks_device device = {.name = "Far Machine 9000 (64 threads)", .units = 64, .memory_bytes = INT64_C(1) << 40};
    ks_store *store = biased_store(path);
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    assert_int_equal(ks_store_put_device(store, &device), KS_OK);
    model->kernel[1].generic = false;
    known_put_model(store, far, model);
    known_put_model(store, cpu.name, model); /* here it does no harm: what cannot be run is no candidate */
    ks_model_free(model);
    ks_store_close(store);

    const ks_options options = {.store = path, .device = far};
    ks_context *ctx = context_open(&options);
    ks_advice a;
    const ks_status status = ks_advise(ctx, &usual, &a);
    if (status == KS_OK)
        assert_int_equal(a.source, KS_FROM_SEEDS);
    else
        assert_failure(status, KS_ERR_NO_DATA, far, "lacks their.own");
    assert_int_equal(ks_store_status(ctx, &why), KS_ERR_UNSUPPORTED);
    assert_non_null(strstr(why, "their.own"));
    ks_close(ctx);
    ctx = context_on(path);
    assert_advice(ctx, &usual, KS_FROM_MODEL, fused);
    ks_close(ctx);
}

static void test_corrupt_models(void **state)
{
    const known_kernel kernels[] = {{fused, KS_FUSED, 1e-3}};
    ks_model *model = known_model(KS_F64, KS_BATCH_FIRST, kernels, 1);
    char *other = ks_model_print(model);
    ks_model_free(model);
    const char *texts[] = {"", "{", "{\"type\":\"f32\"}", "[1,2,3]", "null", other /* of another type */};
    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.db", i);
        const char *path = sandbox_path(state, name), *why;
        ks_store *store = biased_store(path);
        known_put_text(store, cpu.name, KS_F32, KS_BATCH_FIRST, texts[i]);
        put_time(store, &usual, fused, 2e-3);
        put_time(store, &usual, permute, 1e-3);
        ks_store_close(store);
        const ks_options options = {.store = path};
        ks_context *ctx = context_open(&options);
        if (i > 0) { /* an empty text is no row at all, to the store */
            assert_int_equal(ks_store_status(ctx, &why), KS_ERR_PARSE);
            assert_true(*why);
        }
        assert_advice(ctx, &another, KS_FROM_COST_MODEL, NULL);
        assert_advice(ctx, &usual, KS_FROM_MEASUREMENT, permute); /* the rows are as good as ever */
        assert_product(ctx, &another, NULL);
        ks_close(ctx);
    }
    free(other);
}

/* ---- first use ----------------------------------------------------------------------------------------------------- */

static void test_first_use_is_stored(void **state)
{
    const char *path = sandbox_path(state, "new/s.db");
    const ks_options options = {
        .store = path, .flags = KS_MEASURE, .measure_budget_s = 20}; /* a busy machine may take 0.1 s away */
    ks_context *ctx = context_open(&options);
    const char *chosen;
    assert_product(ctx, &usual, NULL);
    const int rows = known_count(path);
    assert_in_range(rows, 1, KS_MAX_KERNELS);
    assert_product(ctx, &usual, NULL);
    assert_int_equal(known_count(path), rows); /* once is enough */
    assert_int_equal(ks_choose(ctx, &usual, &chosen), KS_OK);

    ks_store *store = opened(path, KS_STORE_READ);
    seen s = {0};
    double least = INFINITY;
    char fastest[KS_NAME_BYTES] = "";
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    for (int i = 0; i < s.count; i++) {
        const ks_measurement *m = &s.rows[i];
        assert_same_problem(&m->problem, &usual);
        assert_string_equal(m->device, cpu.name);
        assert_int_equal(m->status, KS_OK);
        assert_int_equal(m->kernel_version, ks_kernel_find(m->kernel)->version);
        assert_true(m->time_s > 0 && m->spread >= 0 && m->samples >= 3 && m->measured_at_s > 1.7e9);
        if (m->time_s < least) least = m->time_s, snprintf(fastest, sizeof fastest, "%s", m->kernel);
    }
    assert_string_equal(chosen, fastest);
    ks_store_close(store);
    ks_close(ctx);

    ctx = context_on(path);
    assert_advice(ctx, &usual, KS_FROM_MEASUREMENT, NULL);
    ks_close(ctx);
    /* What is measured already is not measured again. */
    ctx = context_open(&options);
    assert_product(ctx, &usual, NULL);
    assert_int_equal(known_count(path), rows);
    assert_product(ctx, &another, NULL);
    assert_true(known_count(path) > rows);
    ks_close(ctx);
}

static void test_first_use_budget(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_options options = {.store = path, .flags = KS_MEASURE, .measure_budget_s = 1e-9};
    ks_context *ctx = context_open(&options);
    assert_product(ctx, &usual, NULL);
    assert_int_equal(known_count(path), 0); /* no time for a single run */
    ks_close(ctx);
    options = (ks_options){.store = path};
    ctx = context_open(&options);
    assert_product(ctx, &usual, NULL);
    assert_int_equal(known_count(path), 0); /* not asked for */
    ks_close(ctx);
    options = (ks_options){.store = "", .flags = KS_MEASURE};
    ctx = context_open(&options);
    assert_product(ctx, &usual, NULL);
    ks_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_measurement_beats_model, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_what_does_not_count, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_ties, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_math_without_effect, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_device_elsewhere, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_terms_elsewhere, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_corrupt_models, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_first_use_is_stored, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_first_use_budget, enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("ladder", tests, NULL, NULL);
}
