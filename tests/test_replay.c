/* Replays: the same every time, more seconds buy more problems and better choices, and a table that is used up says so. */
#include "knowledge.h"
#include "refit.h"
#include "replay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

static const char *const names[] = {"ksmm.kernel", "ksmm.bmm"};

static const ks_device device = {
    .name = "Here", .units = 2, .copy_bytes_per_s = 1e10, .gemm_flops_per_s = {1e11, 1e11, 1e11, 1e11}};

/* Neither kernel is always the better one. */
static double law(int q, const ks_problem *p)
{
    const double cost = 1e-4 + ks_problem_bytes(p) / 1e10 + ks_problem_flops(p) / 5e10;
    return cost * exp(q ? 0.4 * sin(log2((double)p->batch) / 3) : 0.4 * cos(log2((double)p->b) / 2));
}

static void fill(ks_rows *rows, int count)
{
    static const problem_bounds bounds = {.hi = {.a = 32, .b = 512, .c = 512, .d = 64, .batch = 4096},
                                          .flops_max = 2e8};
    rng r = rng_make(5, 0);
    for (int i = 0; i < count; i++) {
        ks_problem p = problem_random(&r, &bounds);
        p.type = KS_F32, p.layout = KS_BATCH_FIRST, p.math = KS_MATH_F32;
        for (int q = 0; q < 2; q++) {
            ks_measurement m = known_row(device.name, &p, names[q], q ? KS_BMM : KS_FUSED, law(q, &p));
            m.samples = 5;
            assert_true(ks_rows_add(rows, &m));
        }
    }
}

static void test_replay(void **state)
{
    const ks_replay_options options = {.count = 3, .seconds = {0.3, 1.5, 1e6}, .draws = 3};
    ks_rows rows = {0};
    ks_cases cases;
    (void)state;
    fill(&rows, 300);
    assert_int_equal(ks_refit_cases(&rows, &device, KS_F32, KS_BATCH_FIRST, KS_TIME, &cases), KS_OK);
    for (int plan = 0; plan < KS_NPLANS; plan++) {
        ks_replay_point points[KS_REPLAY_MOST], again[KS_REPLAY_MOST];
        assert_int_equal(ks_replay(&rows, &cases, &device, (ks_plan)plan, &options, points), KS_OK);
        assert_int_equal(ks_replay(&rows, &cases, &device, (ks_plan)plan, &options, again), KS_OK);
        assert_memory_equal(points, again, (size_t)options.count * sizeof *points);
        assert_true(points[0].measured >= 4 && points[1].measured > 2 * points[0].measured);
        assert_int_equal(points[0].regret.problems, points[1].regret.problems);
        assert_true(points[1].regret.problems > 300);
        assert_true(points[1].regret.mean < points[0].regret.mean);
        assert_int_equal(points[2].draws, 0);
        assert_int_equal(points[2].regret.problems, 0);
        assert_non_null(ks_plan_name((ks_plan)plan));
    }
    assert_null(ks_plan_name(KS_NPLANS));
    ks_cases_free(&cases);
    ks_rows_free(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
