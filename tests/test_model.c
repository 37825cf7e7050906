/* The predictor: its text, its probabilities, what it learns, and the grouping of rows that it learns from.
 *
 * Learning is tested on laws of our own (known costs times a smooth function of the log sizes), where the right answer is
 * known to any accuracy; probabilities against Monte Carlo; policies against tables worked out by hand. */
#include "cholesky.h"
#include "knowledge.h"
#include "measure.h"
#include "validate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ks_device device = {
    .name = "A Device", .units = 2, .copy_bytes_per_s = 1e10, .gemm_flops_per_s = {1e11, 1e11, 1e11, 1e11}};

static const char *const names[] = {"ksmm.kernel", "ksmm.bmm"}; /* foreign: their costs are bytes and flops alone */
static const ks_family families[] = {KS_FUSED, KS_BMM};

/* ---- a law --------------------------------------------------------------------------------------------------------- */

static ks_problem draw(rng *r)
{
    const problem_bounds bounds = {.hi = {.a = 32, .b = 512, .c = 512, .d = 64, .batch = 8192}, .flops_max = 1e12};
    ks_problem p = problem_random(r, &bounds);
    p.type = KS_F32, p.layout = KS_BATCH_FIRST, p.math = KS_MATH_F32;
    return p;
}

static double cost(int q, const ks_problem *p)
{
    return (q ? 9e-6 : 2e-6) + (q ? 2e-10 : 1e-10) * ks_problem_bytes(p) + (q ? 1e-11 : 3e-11) * ks_problem_flops(p);
}

static double law(int q, const ks_problem *p)
{
    const double b = log2((double)p->b), batch = log2((double)p->batch);
    return cost(q, p) * exp(q ? 0.2 * sin(batch / 4) : 0.3 * cos(b / 3) + 0.02 * batch);
}

typedef struct table {
    ks_measurement *rows;
    size_t count;
} table;

static void put(table *t, const ks_problem *p, int q, double time_s)
{
    t->rows = realloc(t->rows, (t->count + 1) * sizeof *t->rows);
    assert_non_null(t->rows);
    t->rows[t->count++] = known_row(device.name, p, names[q], families[q], time_s);
}

/* Rows by the law for both kernels of `count` problems. */
static table by_law(uint64_t seed, int count)
{
    table t = {0};
    rng r = rng_make(seed, 0);
    for (int i = 0; i < count; i++) {
        const ks_problem p = draw(&r);
        for (int q = 0; q < 2; q++) put(&t, &p, q, law(q, &p));
    }
    return t;
}

/* The cases of a table, which goes. (By pointer: cases point into themselves.) */
static void make_cases(table *t, ks_cases *cases)
{
    assert_int_equal(ks_cases_build(t->rows, t->count, &device, KS_F32, KS_BATCH_FIRST, KS_TIME, cases), KS_OK);
    free(t->rows);
    *t = (table){0};
}

static void test_learns_a_law(void **state)
{
    table t = by_law(1, 200), fresh = by_law(2, 150);
    ks_cases cases, unseen;
    make_cases(&t, &cases);
    make_cases(&fresh, &unseen);
    ks_model *model;
    double sum = 0, cross;
    int chosen[200];
    const ks_fit_options options = {.search_steps = KS_FIT_STEPS, .seed = 1};
    assert_int_equal(ks_fit_validated(&cases, &device, &options, &model, &cross), KS_OK);
    (void)state;
    assert_in_range(cases.count, 190, 200); /* a few problems may be the same */
    assert_int_equal(cases.quarantined, 0);
    assert_int_equal(cases.kernels, 2);
    assert_int_equal(model->kernels, 2);
    for (int i = 0; i < unseen.count; i++) {
        ks_prediction out[2];
        ks_model_predict(model, &device, &unseen.items[i].problem, unseen.kernel, 2, true, out);
        for (int q = 0; q < 2; q++) {
            const double error = out[q].log_time - log(unseen.items[i].value[q]);
            sum += fabs(error);
            assert_true(out[q].deviation > 0 && out[q].deviation < 1);
            assert_true(fabs(error) < 6 * out[q].deviation + 0.05);
        }
    }
    const double mean_error = sum / (2 * unseen.count);
    ks_cases_choose(&unseen, &device, model, chosen);
    double agreement;
    const ks_regret regret = ks_cases_regret(&unseen, chosen, &agreement);
    print_message("mean error %.3g, mean regret %.3g, cross-validated %.3g, agreement %.3g\n", mean_error,
                  regret.mean, cross, agreement);
    assert_true(mean_error < 0.03);
    assert_int_equal(regret.problems, unseen.count);
    assert_true(regret.mean < 0.005);
    assert_true(cross >= 0 && cross < 0.01);
    assert_true(agreement > 0.9);
    /* On the points themselves it is closer still. */
    for (int i = 0; i < 20; i++) {
        ks_prediction out[2];
        ks_model_predict(model, &device, &cases.items[i].problem, cases.kernel, 2, false, out);
        for (int q = 0; q < 2; q++) assert_true(fabs(out[q].log_time - log(cases.items[i].value[q])) < 0.03);
    }
    ks_model_free(model);
    ks_cases_free(&cases);
    ks_cases_free(&unseen);
}

/* The error of the logarithm of a time, over all kernels of the cases. */
static double mean_error(const ks_cases *cases, const ks_model *model)
{
    double sum = 0;
    for (int i = 0; i < cases->count; i++) {
        ks_prediction out[2];
        ks_model_predict(model, &device, &cases->items[i].problem, cases->kernel, 2, false, out);
        for (int q = 0; q < 2; q++) sum += fabs(out[q].log_time - log(cases->items[i].value[q]));
    }
    return sum / (2 * cases->count);
}

/* Of noisy measurements the points alone know less than all do together, and what is fitted to all survives print and parse. */
static void test_condense(void **state)
{
    table t = {0}, fresh = by_law(12, 200);
    rng r = rng_make(11, 0);
    ks_cases cases, unseen;
    ks_model *few, *all, *again;
    for (int i = 0; i < 4 * KS_MODEL_POINTS; i++) {
        const ks_problem p = draw(&r);
        for (int q = 0; q < 2; q++) put(&t, &p, q, law(q, &p) * exp(0.3 * (rng_unit(&r) + rng_unit(&r) - 1)));
    }
    make_cases(&t, &cases);
    make_cases(&fresh, &unseen);
    (void)state;
    assert_int_equal(ks_fit(&cases, &device, &(ks_fit_options){.points_only = true}, &few), KS_OK);
    assert_int_equal(ks_fit(&cases, &device, NULL, &all), KS_OK);
    assert_int_equal(few->problems, few->points);
    assert_int_equal(all->points, few->points);
    assert_int_equal(all->problems, cases.count);
    const double by_few = mean_error(&unseen, few), by_all = mean_error(&unseen, all);
    print_message("mean error by the points %.3g, by all measurements %.3g\n", by_few, by_all);
    assert_true(by_all < 0.8 * by_few);
    char *json = ks_model_print(all);
    assert_non_null(json);
    assert_int_equal(ks_model_parse(json, &again), KS_OK);
    assert_int_equal(again->problems, all->problems);
    assert_true(fabs(mean_error(&unseen, again) - by_all) < 1e-3);
    /* What a point lends to another device is what all say of it, not its one noisy measurement, off by 0.1. */
    const int q = strcmp(all->kernel[0].name, names[1]) == 0;
    double lent = 0;
    for (int i = 0; i < all->points; i++) {
        const ks_problem p = ks_model_point(all, i);
        lent += fabs(log(ks_model_point_value(all, 0, i, &device) / law(q, &p))) / all->points;
    }
    print_message("error of what a point lends %.3g\n", lent);
    assert_true(lent < 0.08);
    free(json);
    ks_model_free(few), ks_model_free(all), ks_model_free(again);
    ks_cases_free(&cases), ks_cases_free(&unseen);
}

/* L L' is the matrix, L L' x the right side; a matrix that is not positive definite is refused. */
static void test_cholesky(void **state)
{
    enum { N = 83 }; /* beyond one round of the unrolled sums, and no multiple of it */
    double matrix[N * (N + 1) / 2], factor[N * (N + 1) / 2], x[N], right[N], forward[N], root[N][N], log_det = 0;
    rng r = rng_make(21, 0);
    (void)state;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) root[i][j] = rng_unit(&r) - 0.5 + (i == j ? 2 : 0);
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++) sum += root[i][k] * root[j][k];
            matrix[ks_packed_count(i) + (size_t)j] = sum;
        }
    memcpy(factor, matrix, sizeof factor);
    assert_true(ks_cholesky(factor, N));
    for (int i = 0; i < N; i++) {
        log_det += 2 * log(factor[ks_packed_count(i) + (size_t)i]);
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k <= j; k++)
                sum += factor[ks_packed_count(i) + (size_t)k] * factor[ks_packed_count(j) + (size_t)k];
            assert_true(fabs(sum - matrix[ks_packed_count(i) + (size_t)j]) < 1e-9);
        }
        right[i] = x[i] = forward[i] = rng_unit(&r);
    }
    assert_true(fabs(ks_cholesky_log_det(factor, N) - log_det) < 1e-9);
    ks_cholesky_forward(factor, N, forward);
    ks_cholesky_solve(factor, N, x);
    for (int i = 0; i < N; i++) {
        double by_matrix = 0, by_factor = 0;
        for (int j = 0; j < N; j++)
            by_matrix += matrix[j <= i ? ks_packed_count(i) + (size_t)j : ks_packed_count(j) + (size_t)i] * x[j];
        for (int j = 0; j <= i; j++) by_factor += factor[ks_packed_count(i) + (size_t)j] * forward[j];
        assert_true(fabs(by_matrix - right[i]) < 1e-8 && fabs(by_factor - right[i]) < 1e-9);
    }
    matrix[ks_packed_count(N - 1) + N - 1] = -1;
    assert_false(ks_cholesky(matrix, N));
}

/* More cases than a model keeps, and fewer than it needs. */
static void test_many_cases(void **state)
{
    table t = by_law(3, KS_MODEL_POINTS + 150);
    ks_cases cases;
    make_cases(&t, &cases);
    const ks_fit_options quick = {.search_steps = 0};
    ks_model *model;
    int *chosen = malloc((size_t)cases.count * sizeof *chosen);
    (void)state;
    assert_true(cases.count > KS_MODEL_POINTS);
    assert_int_equal(ks_fit(&cases, &device, &quick, &model), KS_OK);
    assert_int_equal(model->points, KS_MODEL_POINTS);
    assert_int_equal(model->problems, cases.count);
    ks_cases_choose(&cases, &device, model, chosen);
    assert_true(ks_cases_regret(&cases, chosen, NULL).mean < 0.005);
    ks_model_free(model);
    free(chosen);
    cases.count = 3;
    assert_failure(ks_fit(&cases, &device, &quick, &model), KS_ERR_NO_DATA, "3", NULL);
    assert_null(model);
    ks_cases_free(&cases);
}

static void test_deviations(void **state)
{
    (void)state;
    const known_kernel kernels[] = {{names[0], KS_FUSED, 1e-6}};
    ks_model *m = known_model(KS_F32, KS_BATCH_FIRST, kernels, 1);
    ks_problem p = {.a = 1, .b = 64, .c = 64, .d = 1, .batch = 64};
    const ks_kernel *row = ks_model_kernel_of(m, 0);
    ks_prediction out;
    float f[KS_MODEL_DIMS];
    assert_string_equal(row->name, names[0]);
    for (m->points = 0; m->points < 3; m->points++, p.b *= 4) {
        ks_model_features(&p, f);
        for (int d = 0; d < KS_MODEL_DIMS; d++) m->input[d][m->points] = f[d] / m->length[d];
        m->kernel[0].measured[m->points] = true;
    }
    m->kernel[0].signal = 0.25, m->kernel[0].noise = 1e-4;
    assert_int_equal(ks_model_factorise(m), KS_OK);
    p.b = 64;
    ks_model_predict(m, &device, &p, &row, 1, true, &out);
    assert_true(out.deviation > 0 && out.deviation <= sqrt(m->kernel[0].noise));
    p.a = 1 << 20, p.d = 1 << 10;
    ks_model_predict(m, &device, &p, &row, 1, true, &out);
    assert_near(out.deviation, 0.5, 0.01);
    p.a = 2, p.d = 1;
    ks_model_predict(m, &device, &p, &row, 1, true, &out);
    assert_true(out.deviation > 0.01 && out.deviation < 0.4999);
    /* A kernel in another version is a kernel that the model does not know. */
    ks_kernel newer = *row;
    newer.version++;
    row = &newer;
    ks_model_predict(m, &device, &p, &row, 1, true, &out);
    assert_true(out.deviation > 0.5);
    ks_model_predict(NULL, &device, &p, &row, 1, true, &out);
    assert_true(out.deviation > 0.5 && isfinite(out.log_time));
    ks_model_free(m);
}

/* Costs go with the terms that they were fitted to, whichever kernels the build has. */
static void test_terms(void **state)
{
    (void)state;
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 0}, {names[1], KS_BMM, 0}};
    ks_model *m = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    const ks_kernel *rows[] = {ks_model_kernel_of(m, 0), ks_model_kernel_of(m, 1)};
    const ks_problem p = {.a = 1, .b = 3, .c = 5, .d = 7, .batch = 2000};
    double own[KS_NTERMS];
    ks_prediction out[2];
    rows[0]->cost_terms(&p, &device, own);
    assert_true(own[KS_TERM_FLOPS] > 1.1 * ks_problem_flops(&p)); /* or this would show nothing */
    for (int q = 0; q < 2; q++) m->kernel[q].cost[KS_TERM_FLOPS] = 1e-9;
    assert_int_equal(ks_model_usable(m), KS_OK);
    ks_model_predict(m, &device, &p, rows, 2, true, out);
    assert_near(exp(out[0].log_time), 1e-9 * own[KS_TERM_FLOPS], 1e-6);
    assert_near(exp(out[1].log_time), 1e-9 * ks_problem_flops(&p), 1e-6);
    m->kernel[0].generic = true;
    ks_model_predict(m, &device, &p, rows, 2, true, out);
    assert_near(exp(out[0].log_time), 1e-9 * ks_problem_flops(&p), 1e-6);
    m->kernel[1].generic = false; /* fitted where the kernel is: what its terms are is not known here */
    assert_failure(ks_model_usable(m), KS_ERR_UNSUPPORTED, names[1], NULL);
    ks_model_predict(m, &device, &p, rows, 2, true, out);
    assert_true(out[1].deviation > 0.5 && isfinite(out[1].log_time));
    ks_model_free(m);
}

/* A kernel that this build lacks can do what is like the problems it was measured on. */
static void test_supports(void **state)
{
    (void)state;
    const known_kernel kernels[] = {{names[0], KS_FUSED, 1e-6}, {names[1], KS_BMM, 1e-6}};
    ks_model *m = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    ks_problem p = {.a = 4, .b = 64, .c = 64, .d = 1, .batch = 64};
    assert_true(ks_model_supports(m, 1, &p, &device)); /* nothing is known against it */
    for (p.batch = 16; p.batch <= 4096; p.batch *= 4)
        for (p.d = 1; p.d <= 16; p.d *= 4, m->points++) { /* the second one: d = 1 and a batch of at most 256 */
            float f[KS_MODEL_DIMS];
            ks_model_features(&p, f);
            for (int d = 0; d < KS_MODEL_DIMS; d++) m->input[d][m->points] = f[d] / m->length[d];
            m->kernel[0].measured[m->points] = true;
            m->kernel[1].measured[m->points] = p.d == 1 && p.batch <= 256;
        }
    const struct {
        int64_t a, d, batch;
        bool second;
    } cases[] = {{4, 1, 64, true},    {4, 1, 256, true},      {4, 1, 16, true}, {4, 4, 64, false},
                 {4, 1, 1024, false}, {4, 1, 1 << 20, false}, {9, 1, 64, true}, {4, 512, 64, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        p.a = cases[i].a, p.d = cases[i].d, p.batch = cases[i].batch;
        assert_true(ks_model_supports(m, 0, &p, &device));
        assert_int_equal(ks_model_supports(m, 1, &p, &device), cases[i].second);
    }
    ks_model_free(m);
}

/* ---- grouping rows ------------------------------------------------------------------------------------------------- */

static void test_grouping(void **state)
{
    (void)state;
    const ks_problem p = {.a = 2, .b = 8, .c = 8, .d = 2, .batch = 16},
                     q = {.a = 2, .b = 8, .c = 8, .d = 2, .batch = 17};
    table t = {0};
    for (int i = 0; i < 3; i++) put(&t, &p, 0, 1e-3 * (1 + (i + 1) % 3)); /* 2, 3, 1 */
    put(&t, &q, 0, 3e-3);
    put(&t, &p, 1, 2e-3);
    put(&t, &p, 1, 1e-3);
    ks_measurement others[] = {
        known_row("D", &p, "fused.cpu", KS_FUSED, 1e-3),     known_row("D", &p, "ref.cpu", KS_REFERENCE, 1e-3),
        known_row("D", &p, "their.ref", KS_REFERENCE, 1e-3), known_row("D", &p, names[0], KS_FUSED, 1e-3),
        known_row("D", &p, names[0], KS_FUSED, 1e-3),        known_row("D", &p, names[0], KS_FUSED, 1e-3),
        known_row("D", &p, names[0], KS_FUSED, 0),           known_row("D", &p, names[0], KS_FUSED, INFINITY),
        known_row("D", &p, names[0], KS_FUSED, NAN)};
    others[0].kernel_version += 3;
    others[3].problem.type = KS_F16;
    others[4].problem.layout = KS_BATCH_LAST;
    others[5].status = KS_ERR_WRONG_RESULT;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        put(&t, &p, 0, 1);
        t.rows[t.count - 1] = others[i];
    }
    ks_cases cases;
    make_cases(&t, &cases);
    assert_int_equal(cases.count, 2);
    assert_int_equal(cases.kernels, 2);
    assert_int_equal(cases.quarantined, 2); /* 0 and Inf; NaN is merely not measured */
    for (int i = 0; i < 2; i++) {
        assert_string_equal(cases.suspects[i].kernel, names[0]);
        assert_same_problem(&cases.suspects[i].problem, &p);
        assert_true(isnan(cases.suspects[i].expected));
    }
    const int fused = strcmp(cases.kernel[0]->name, names[0]) == 0 ? 0 : 1;
    assert_string_equal(cases.kernel[!fused]->name, names[1]);
    assert_int_equal(cases.kernel[fused]->family, KS_FUSED);
    for (int i = 0; i < 2; i++) {
        const ks_case *c = &cases.items[i];
        if (c->problem.batch == 16) {
            assert_near(c->value[fused], 2e-3, 1e-9);
            assert_near(c->value[!fused], 1.5e-3, 1e-9);
            assert_int_equal(ks_case_best(&cases, c, -1), !fused);
            assert_int_equal(ks_case_best(&cases, c, KS_FUSED), fused);
        } else {
            assert_near(c->value[fused], 3e-3, 1e-9);
            assert_true(isnan(c->value[!fused]));
            assert_int_equal(ks_case_best(&cases, c, KS_BMM), -1);
        }
    }
    ks_cases_free(&cases);
    assert_int_equal(ks_cases_build(NULL, 0, &device, KS_F32, KS_BATCH_FIRST, KS_TIME, &cases), KS_OK);
    assert_int_equal(cases.count, 0);
    ks_cases_free(&cases);
}

/* Launches that failed and were recorded as results, far faster than anything can be. One such row must not bend the costs
 * so that it looks right itself, wherever it lies; of a law that is up to 1.4 times the cost model's, 40 is beyond doubt. */
static void test_quarantine(void **state)
{
    static const double factors[] = {40, 100, 1e3, 1e6};
    int missed = 0;
    (void)state;
    for (int i = 0; i < 4; i++)
        for (size_t row = 0; row < 400; row += 20) {
            table t = by_law(4, 200);
            ks_cases cases;
            t.rows[row].time_s /= factors[i];
            make_cases(&t, &cases);
            if (cases.quarantined != 1) {
                if (++missed < 9)
                    print_error("row %zu, %g times too fast: %d quarantined\n", row, factors[i], cases.quarantined);
            } else {
                int left = 0;
                for (int c = 0; c < cases.count; c++)
                    for (int q = 0; q < 2; q++) left += isnan(cases.items[c].value[q]);
                assert_int_equal(left, 1);
                assert_true(cases.suspects[0].expected > 20 * cases.suspects[0].value);
            }
            ks_cases_free(&cases);
        }
    if (missed) fail_msg("%d of 80 outliers were not seen", missed);
}

/* Small problems are mostly launch: many times the roofline time, and not absurd, nor are large ones beside them. */
static void test_nothing_to_quarantine(void **state)
{
    table t = {0};
    (void)state;
    for (int i = 0; i < 120; i++) {
        ks_problem p = {.a = 1, .b = 2 + i % 7, .c = 2 + i % 9, .d = 1, .batch = 1 + i % 5};
        if (i % 5 == 0) p.b = 512, p.c = 512, p.batch = 2 + 40 * i;
        for (int q = 0; q < 2; q++) put(&t, &p, q, cost(q, &p));
    }
    ks_cases cases;
    make_cases(&t, &cases);
    assert_int_equal(cases.count, 120);
    assert_int_equal(cases.quarantined, 0);
    ks_cases_free(&cases);
}

/* Four problems of falling ratio (b+c)/(bc): 1, 1/2, 1/4, 1/8; fused wins the first two. */
static void test_policies(void **state)
{
    static const double fused_ms[] = {1, 1, 2, 4}, bmm_ms[] = {2, 1.5, 1, 1};
    table t = {0};
    (void)state;
    for (int i = 0; i < 4; i++) {
        const ks_problem p = {.a = 1, .b = 2 << i, .c = 2 << i, .d = 1, .batch = 64};
        put(&t, &p, 0, 1e-3 * fused_ms[i]);
        put(&t, &p, 1, 1e-3 * bmm_ms[i]);
    }
    ks_cases cases;
    make_cases(&t, &cases);
    ks_acceptance a = {0};
    int chosen[4];
    assert_int_equal(cases.count, 4);
    ks_cases_judge_static(&cases, chosen, &a);
    assert_int_equal(a.always_fused.problems, 4);
    assert_near(a.always_fused.mean, 1, 1e-9); /* 0, 0, 1, 3 */
    assert_near(a.always_fused.p95, 3, 1e-9);
    assert_near(a.always_fused.max, 3, 1e-9);
    assert_true(a.always_fused.median == 0);
    assert_near(a.always_bmm.mean, 0.375, 1e-9); /* 1, 1/2, 0, 0 */
    assert_near(a.always_bmm.max, 1, 1e-9);
    assert_true(a.ratio.mean == 0 && a.ratio.max == 0);
    assert_true(a.ratio_threshold > 0.25 && a.ratio_threshold <= 0.5);

    double agreement;
    ks_cases_choose_family(&cases, KS_BMM, chosen);
    ks_cases_regret(&cases, chosen, &agreement);
    assert_near(agreement, 0.5, 1e-9);
    chosen[0] = -1; /* no opinion: not counted */
    assert_int_equal(ks_cases_regret(&cases, chosen, NULL).problems, 3);
    ks_cases_free(&cases);
}

/* ---- probabilities ------------------------------------------------------------------------------------------------- */

static double normal(rng *r)
{
    const double u = 1 - rng_unit(r);
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * rng_unit(r));
}

static void test_probabilities(void **state)
{
    static const double means[][3] = {{0, 0.1, 5}, {0.3, 0, 0.2}, {-9, -9, -9}, {0, 0.02, -0.5}};
    static const double deviations[][3] = {{0.1, 0.2, 0.1}, {0.3, 0.1, 0.4}, {0.05, 0.05, 0.05}, {0, 0.3, 0.1}};
    enum { DRAWS = 200000 };
    rng r = rng_make(5, 0);
    (void)state;
    for (int i = 0; i < 4; i++) {
        ks_prediction p[3];
        double pair = 0, all = 0;
        for (int q = 0; q < 3; q++) p[q] = (ks_prediction){NULL, means[i][q], deviations[i][q]};
        for (int n = 0; n < DRAWS; n++) {
            double z[3];
            for (int q = 0; q < 3; q++) z[q] = means[i][q] + deviations[i][q] * normal(&r);
            pair += expm1(fmax(0, z[0] - z[1]));
            all += expm1(z[0] - fmin(z[0], fmin(z[1], z[2])));
        }
        const double regret = ks_expected_regret(p, 2, 0);
        assert_true(fabs(regret - pair / DRAWS) < 0.01 * regret + 1e-3);
        assert_true(ks_expected_regret(p, 3, 0) > 0.98 * all / DRAWS - 1e-3); /* a bound */
    }
    ks_prediction sure[] = {{NULL, 1, 0}, {NULL, 2, 0}};
    assert_true(ks_expected_regret(sure, 2, 0) == 0);
    assert_near(ks_expected_regret(sure, 2, 1), exp(1) - 1, 1e-9);
    assert_true(ks_expected_regret(sure, 1, 0) == 0);
    ks_prediction tied[] = {{NULL, 0.5, 0}, {NULL, 0.015, 0}, {NULL, 0, 0}};
    assert_int_equal(ks_prediction_best(tied, 3), 1); /* inside 2 %: the first */
    tied[1].log_time = 0.03;
    assert_int_equal(ks_prediction_best(tied, 3), 2);
}

static void test_leads(void **state)
{
    static const double leads[] = {-4, -1, 0, 0.3, 1, 2, 5};
    enum { DRAWS = 200000 };
    rng r = rng_make(6, 0);
    (void)state;
    for (size_t i = 0; i < sizeof leads / sizeof *leads; i++) {
        int below = 0;
        for (int n = 0; n < DRAWS; n++) { /* a normal over the root of the mean of four squares */
            double squares = 0;
            for (int k = 0; k < 4; k++) squares += pow(normal(&r), 2) / 4;
            below += 0.8 * normal(&r) / sqrt(squares) < leads[i];
        }
        assert_true(fabs(ks_lead_probability(leads[i]) - (double)below / DRAWS) < 0.005);
        assert_true(fabs(ks_lead_probability(leads[i]) + ks_lead_probability(-leads[i]) - 1) < 1e-12);
    }
    /* The best of a family speaks for it. */
    const ks_kernel fused = {.family = KS_FUSED}, bmm = {.family = KS_BMM};
    const ks_prediction p[] = {{&fused, 3, 0.1}, {&bmm, 2, 0.4}, {&fused, 1, 0.3}, {&bmm, 5, 0.1}};
    assert_near(ks_lead_of_fused(p, 4), 2, 1e-12); /* (2 - 1) / 0.5 */
    assert_near(ks_lead_of_fused(p, 2), -1 / hypot(0.1, 0.4), 1e-12);
    assert_true(ks_lead_probability(ks_lead_of_fused(p, 1)) == 1);
    assert_true(ks_lead_probability(ks_lead_of_fused(p + 1, 1)) == 0);
    const ks_prediction sure[] = {{&fused, 1, 0}, {&bmm, 2, 0}}, even[] = {{&fused, 1, 0}, {&bmm, 1, 0}};
    assert_true(ks_lead_probability(ks_lead_of_fused(sure, 2)) == 1);
    assert_true(ks_lead_probability(ks_lead_of_fused(even, 2)) == 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns_a_law), cmocka_unit_test(test_many_cases),
        cmocka_unit_test(test_condense),     cmocka_unit_test(test_cholesky),
        cmocka_unit_test(test_deviations),   cmocka_unit_test(test_terms),
        cmocka_unit_test(test_supports),     cmocka_unit_test(test_grouping),
        cmocka_unit_test(test_quarantine),   cmocka_unit_test(test_nothing_to_quarantine),
        cmocka_unit_test(test_policies),     cmocka_unit_test(test_probabilities),
        cmocka_unit_test(test_leads),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
