/* Starting from a known device: what is borrowed is what was measured there, in terms of this device; it helps where devices are
 * alike and does little harm where they are not; and what is to be judged is never borrowed. */
#include "knowledge.h"
#include "validate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ks_device here = {
    .name = "Here", .units = 2, .copy_bytes_per_s = 2e10, .gemm_flops_per_s = {1e11, 1e11, 1e11, 1e11}};
static const ks_device there = {
    .name = "There", .units = 2, .copy_bytes_per_s = 1e10, .gemm_flops_per_s = {1e11, 1e11, 1e11, 1e11}};

static const char *const names[] = {"ksmm.kernel", "ksmm.bmm"};

/* Neither family is better, but for ripples: those of a phase. */
static double law(const ks_device *device, int q, const ks_problem *p, double phase)
{
    const double cost = 5e-6 + ks_problem_bytes(p) / device->copy_bytes_per_s + ks_problem_flops(p) / 5e10;
    return cost * exp(q ? 0.4 * sin(log2((double)p->batch) / 3 + phase) : 0.4 * cos(log2((double)p->b) / 2 + phase));
}

/* Every kernel takes `slower` times the law. */
static void make_cases(uint64_t seed, int count, const ks_device *device, double phase, double slower,
                       ks_cases *cases)
{
    const problem_bounds bounds = {.hi = {.a = 32, .b = 512, .c = 512, .d = 64, .batch = 4096}, .flops_max = 1e12};
    ks_rows rows = {0};
    rng r = rng_make(seed, 0);
    for (int i = 0; i < count; i++) {
        ks_problem p = problem_random(&r, &bounds);
        p.type = KS_F32, p.layout = KS_BATCH_FIRST, p.math = KS_MATH_F32;
        for (int q = 0; q < 2; q++) {
            const ks_measurement m =
                known_row(device->name, &p, names[q], q ? KS_BMM : KS_FUSED, slower * law(device, q, &p, phase));
            assert_true(ks_rows_add(&rows, &m));
        }
    }
    assert_int_equal(ks_cases_build(rows.items, rows.count, device, KS_F32, KS_BATCH_FIRST, KS_TIME, cases), KS_OK);
    ks_rows_free(&rows);
}

static ks_origin make_origin(ks_cases *cases, double phase)
{
    ks_origin origin = {.device = there};
    make_cases(1, 200, &there, phase, 1, cases);
    assert_int_equal(ks_fit(cases, &there, &(ks_fit_options){.search_steps = KS_FIT_STEPS}, &origin.model), KS_OK);
    return origin;
}

/* The values of the borrowed cases over the law's, at most so far from `ratio`. */
static void assert_borrowed(const ks_cases *both, const ks_device *device, double ratio, double error)
{
    assert_true(both->borrowed > 0 && both->borrowed <= both->count);
    for (int i = both->count - both->borrowed; i < both->count; i++)
        for (int k = 0; k < both->kernels; k++) {
            const int q = both->kernel[k]->family == KS_BMM;
            assert_near(both->items[i].value[k] / law(device, q, &both->items[i].problem, 0), ratio, error);
        }
}

static void test_borrow(void **state)
{
    ks_cases known, own, both;
    ks_origin origin = make_origin(&known, 0);
    (void)state;
    /* Onto the same device: what was measured. */
    make_cases(2, 40, &there, 0, 1, &own);
    own.count = 0;
    assert_int_equal(ks_cases_borrow(&own, &there, &origin, 150, &both), KS_OK);
    assert_int_equal(both.count, 150);
    assert_int_equal(both.borrowed, 150);
    assert_borrowed(&both, &there, 1, 0.01);
    free(both.items);
    ks_cases_free(&own);
    /* Onto one of twice the copy rate, where everything takes half as long again: the rates tell the one, what was measured
     * there the other, and both stay apart. */
    make_cases(2, 40, &here, 0, 1.5, &own);
    assert_int_equal(ks_cases_borrow(&own, &here, &origin, KS_FIT_BORROWED, &both), KS_OK);
    assert_int_equal(both.count, own.count + both.borrowed);
    assert_memory_equal(both.items, own.items, (size_t)own.count * sizeof *own.items);
    assert_borrowed(&both, &here, 1.5, 0.25);
    free(both.items);
    /* What is withheld is not borrowed, nor what was measured here. */
    origin.withheld[1] = &known;
    assert_int_equal(ks_cases_borrow(&own, &here, &origin, KS_FIT_BORROWED, &both), KS_OK);
    assert_int_equal(both.borrowed, 0);
    free(both.items);
    origin.withheld[1] = NULL;
    assert_int_equal(ks_cases_borrow(&known, &there, &origin, KS_FIT_BORROWED, &both), KS_OK);
    assert_int_equal(both.borrowed, 0);
    free(both.items);
    /* Another version of a kernel is another kernel. */
    origin.model->kernel[0].version++;
    assert_int_equal(ks_cases_borrow(&own, &here, &origin, KS_FIT_BORROWED, &both), KS_OK);
    for (int k = 0; k < both.kernels; k++)
        assert_int_equal(isnan(both.items[own.count].value[k]),
                         strcmp(both.kernel[k]->name, origin.model->kernel[0].name) == 0);
    free(both.items);
    ks_origin_free(&origin);
    ks_cases_free(&own);
    ks_cases_free(&known);
}

/* Mean regret on fresh problems after learning from `count` of this device's. */
static double regret_after(int count, const ks_origin *origin)
{
    ks_cases own, fresh;
    ks_model *model;
    int chosen[400];
    make_cases(3, count, &here, 0, 1.5, &own);
    make_cases(4, 300, &here, 0, 1.5, &fresh);
    const ks_fit_options options = {.search_steps = KS_FIT_STEPS, .origin = origin};
    assert_int_equal(ks_fit(&own, &here, &options, &model), KS_OK);
    assert_int_equal(model->borrowed > 0, origin != NULL);
    ks_cases_choose(&fresh, &here, model, chosen);
    const double mean = ks_cases_regret(&fresh, chosen, NULL).mean;
    ks_model_free(model);
    ks_cases_free(&own);
    ks_cases_free(&fresh);
    return mean;
}

static void test_transfer(void **state)
{
    ks_cases alike_cases, unlike_cases;
    ks_origin alike = make_origin(&alike_cases, 0), unlike = make_origin(&unlike_cases, 3.14159);
    (void)state;
    const double alone = regret_after(12, NULL), helped = regret_after(12, &alike);
    const double many = regret_after(100, NULL), misled = regret_after(100, &unlike);
    print_message("12 problems: %.3g, with a like device's %.3g; 100: %.3g, with an unlike one's %.3g\n", alone,
                  helped, many, misled);
    assert_true(helped < 0.3 * alone);
    assert_true(misled < 2 * many + 0.01);
    ks_origin_free(&alike);
    ks_origin_free(&unlike);
    ks_cases_free(&alike_cases);
    ks_cases_free(&unlike_cases);
}

/* A model that has borrowed says so in its text and predicts the same when it is read. */
static void test_round_trip(void **state)
{
    ks_cases known, own;
    ks_origin origin = make_origin(&known, 0);
    ks_model *model, *read;
    (void)state;
    make_cases(3, 30, &here, 0, 1.5, &own);
    const ks_fit_options options = {.search_steps = KS_FIT_STEPS, .origin = &origin};
    assert_int_equal(ks_fit(&own, &here, &options, &model), KS_OK);
    assert_in_range(model->borrowed, 150, 200);
    assert_int_equal(model->points, own.count + model->borrowed);
    char *text = ks_model_print(model);
    assert_int_equal(ks_model_parse(text, &read), KS_OK);
    assert_int_equal(ks_model_factorise(read), KS_OK);
    for (int i = 0; i < own.count; i++) {
        ks_prediction x[2], y[2];
        ks_model_predict(model, &here, &own.items[i].problem, own.kernel, 2, true, x);
        ks_model_predict(read, &here, &own.items[i].problem, own.kernel, 2, true, y);
        for (int q = 0; q < 2; q++) {
            assert_true(fabs(x[q].log_time - y[q].log_time) < 1e-3);
            assert_true(fabs(x[q].log_time - log(own.items[i].value[q])) < 0.1);
            assert_true(fabs(x[q].deviation - y[q].deviation) < 1e-3);
        }
    }
    free(text);
    ks_model_free(model);
    ks_model_free(read);
    ks_origin_free(&origin);
    ks_cases_free(&own);
    ks_cases_free(&known);
}

static void test_nearest(void **state)
{
    static const struct {
        ks_backend backend;
        const char *name, *arch;
        double copy_bytes_per_s;
        const char *origin;
    } devices[] = {
        {KS_CUDA, "NVIDIA H200", "sm_90", 4e12, "NVIDIA H200"},
        {KS_CUDA, "NVIDIA H100 PCIe", "sm_90", 1.8e12, "NVIDIA H100 80GB HBM3"},
        {KS_CPU, "A new CPU", "avx512", 1e11, "Intel(R) Xeon(R) Processor (2 threads)"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        ks_origin origin;
        ks_device device = {.backend = devices[i].backend, .copy_bytes_per_s = devices[i].copy_bytes_per_s};
        strcpy(device.name, devices[i].name);
        strcpy(device.arch, devices[i].arch);
        ks_origin_nearest(&device, KS_F32, KS_BATCH_LAST, KS_TIME, &origin);
        assert_string_equal(origin.device.name, devices[i].origin);
        assert_non_null(origin.model);
        assert_true(origin.model->type == KS_F32 && origin.model->layout == KS_BATCH_LAST);
        ks_origin_free(&origin);
        assert_null(origin.model);
        ks_origin_nearest(&device, KS_F32, KS_BATCH_LAST, KS_ENERGY, &origin);
        assert_null(origin.model);
        *device.arch = '\0';
        ks_origin_nearest(&device, KS_F32, KS_BATCH_LAST, KS_TIME, &origin);
        assert_null(origin.model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_borrow),
        cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests_name("origin", tests, NULL, NULL);
}
