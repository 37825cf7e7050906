/* Explanations: the parts of a candidate's time add up to it, and the neighbours are the problems that were measured, with the
 * times that they had, the most alike first. */
#include "fit.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

static const char fused[] = "fused.cpu", permute[] = "bmm.cpu.permute";
static const ks_problem asked = {.a = 4, .b = 48, .c = 48, .d = 6, .batch = 100};

static ks_device cpu;

static int enter(void **state)
{
    ks_device_cpu(&cpu);
    return sandbox_enter(state);
}

static double time_of(const ks_part *p)
{
    return p->time_s;
}

static void assert_adds_up(const ks_explanation *e)
{
    for (int i = 0; i < e->advice.candidate_count; i++) {
        const ks_cost *c = &e->cost[i];
        const double sum = time_of(&c->launches) + time_of(&c->bytes) + time_of(&c->flops) + time_of(&c->elements) +
                           time_of(&c->tiles);
        assert_near(sum, e->advice.candidates[i].time_s, 1e-6);
        assert_true(c->own);
        assert_true(c->bytes.amount >= ks_problem_bytes(&e->advice.problem));
        assert_true(c->launches.amount >= 1);
    }
}

/* Any function of the problem that tells the kernels and the sizes apart. */
static double law(const char *kernel, const ks_problem *p)
{
    return 1e-6 + ks_problem_bytes(p) / (strcmp(kernel, fused) == 0 ? 1e10 : 6e9) +
           ks_problem_flops(p) / 5e10 * (1 + 0.2 * sin((double)p->b));
}

static void fill(ks_store *store, int count)
{
    static const problem_bounds bounds = {.hi = {.a = 16, .b = 128, .c = 128, .d = 16, .batch = 512},
                                          .flops_max = 1e10};
    const char *const names[] = {fused, permute};
    rng r = rng_make(7, 0);
    ks_rows rows = {0};
    ks_cases cases;
    ks_model *model;
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    for (int i = 0; i < count; i++) {
        ks_problem p = problem_random(&r, &bounds);
        p.type = KS_F32, p.layout = KS_BATCH_FIRST, p.math = KS_MATH_F32;
        for (int q = 0; q < 2; q++) {
            const ks_measurement m =
                known_row(cpu.name, &p, names[q], ks_kernel_find(names[q])->family, law(names[q], &p));
            assert_true(ks_rows_add(&rows, &m));
        }
    }
    ks_device rated = cpu;
    ks_device_assume_rates(&rated);
    assert_int_equal(ks_cases_build(rows.items, rows.count, &rated, KS_F32, KS_BATCH_FIRST, KS_TIME, &cases), KS_OK);
    assert_int_equal(ks_fit(&cases, &rated, NULL, &model), KS_OK);
    known_put_model(store, cpu.name, model); /* and no rows: the model is all that an explanation needs */
    ks_model_free(model);
    ks_cases_free(&cases);
    ks_rows_free(&rows);
}

static void test_fitted(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = opened(path, KS_STORE_WRITE);
    fill(store, 80);
    ks_store_close(store);
    ks_context *ctx = context_open(&(ks_options){.store = path});
    ks_explanation e;
    ks_advice a;
    assert_int_equal(ks_explain(ctx, &asked, &e), KS_OK);
    assert_int_equal(ks_advise(ctx, &asked, &a), KS_OK);
    assert_string_equal(e.advice.kernel, a.kernel);
    assert_int_equal(e.advice.source, KS_FROM_MODEL);
    assert_adds_up(&e);
    assert_int_equal(e.neighbour_count, KS_MAX_NEIGHBOURS);
    for (int n = 0; n < e.neighbour_count; n++) {
        const ks_neighbour *at = &e.neighbours[n];
        assert_true(at->likeness > 0 && at->likeness <= 1 && !at->borrowed);
        assert_true(n == 0 || at->likeness <= e.neighbours[n - 1].likeness);
        for (int i = 0; i < a.candidate_count; i++) {
            const bool known =
                strcmp(a.candidates[i].kernel, fused) == 0 || strcmp(a.candidates[i].kernel, permute) == 0;
            assert_int_equal(!isnan(at->time_s[i]), known);
            assert_int_equal(e.cost[i].fitted, known);
            if (known) assert_near(at->time_s[i], law(a.candidates[i].kernel, &at->problem), 1e-3);
        }
    }
    /* What was measured is its own nearest neighbour. */
    const ks_problem point = e.neighbours[1].problem;
    assert_int_equal(ks_explain(ctx, &point, &e), KS_OK);
    assert_memory_equal(&e.neighbours[0].problem, &point, sizeof point);
    assert_near(e.neighbours[0].likeness, 1, 1e-4);
    ks_close(ctx);
}

/* Nobody has measured anything: assumed costs, no neighbours. */
static void test_assumed(void **state)
{
    ks_problem p = asked;
    p.type = KS_F64;
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = opened(path, KS_STORE_WRITE);
    const known_kernel kernels[] = {{"known.nowhere", KS_FUSED, 1e-6}};
    ks_model *model = known_model(KS_F64, KS_BATCH_FIRST, kernels, 1);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    known_put_model(store, cpu.name, model);
    ks_model_free(model);
    ks_store_close(store);
    ks_context *ctx = context_open(&(ks_options){.store = path});
    ks_explanation e;
    assert_int_equal(ks_explain(ctx, &p, &e), KS_OK);
    assert_adds_up(&e);
    assert_int_equal(e.neighbour_count, 0);
    for (int i = 0; i < e.advice.candidate_count; i++) {
        assert_false(e.cost[i].fitted);
        assert_near(e.cost[i].nearby, 1, 1e-6);
    }
    assert_int_equal(ks_explain(ctx, &p, NULL), KS_ERR_ARGUMENT);
    p.a = 0;
    assert_int_equal(ks_explain(ctx, &p, &e), KS_ERR_ARGUMENT);
    ks_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_fitted, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_assumed, enter, sandbox_leave)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
