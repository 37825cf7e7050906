/* Held-out judgement: what splits keep apart, and the arithmetic of the reports, against tables worked out by hand and laws
 * whose answer is known. */
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

static const ks_device device = {
    .name = "A Device", .units = 2, .copy_bytes_per_s = 1e10, .gemm_flops_per_s = {1e11, 1e11, 1e11, 1e11}};

static const char *const names[] = {"ksmm.kernel", "ksmm.bmm"};

/* Neither family is better, but for ripples that no cost term has. */
static double law(int q, const ks_problem *p)
{
    const double cost = 5e-6 + 1e-10 * ks_problem_bytes(p) + 2e-11 * ks_problem_flops(p);
    return cost * exp(q ? 0.4 * sin(log2((double)p->batch) / 3) : 0.4 * cos(log2((double)p->b) / 2));
}

/* `patterns` patterns by the law, each at two batches. */
static void make_cases(int patterns, ks_cases *cases)
{
    const problem_bounds bounds = {.hi = {.a = 32, .b = 512, .c = 512, .d = 64, .batch = 4096}, .flops_max = 1e12};
    ks_rows rows = {0};
    rng r = rng_make(5, 0);
    for (int i = 0; i < 2 * patterns; i++) {
        static ks_problem p;
        if (i % 2 == 0)
            p = problem_random(&r, &bounds);
        else
            p.batch *= 2;
        p.type = KS_F32, p.layout = KS_BATCH_FIRST, p.math = KS_MATH_F32;
        for (int q = 0; q < 2; q++) {
            const ks_measurement m = known_row(device.name, &p, names[q], q ? KS_BMM : KS_FUSED, law(q, &p));
            assert_true(ks_rows_add(&rows, &m));
        }
    }
    assert_int_equal(ks_cases_build(rows.items, rows.count, &device, KS_F32, KS_BATCH_FIRST, KS_TIME, cases), KS_OK);
    ks_rows_free(&rows);
}

static bool same_problem(const ks_problem *p, const ks_problem *q)
{
    return p->a == q->a && p->b == q->b && p->c == q->c && p->d == q->d && p->batch == q->batch;
}

/* Every case is held out once by folds; by draws, as often as its pattern was not drawn, both its batches alike. */
static void test_splits(void **state)
{
    ks_cases cases;
    ks_heldout folds, draws, again;
    (void)state;
    make_cases(60, &cases);
    ks_heldout_open(&folds, &cases);
    ks_heldout_open(&draws, &cases);
    ks_heldout_open(&again, &cases);
    assert_int_equal(ks_validate(&cases, &device, KS_LEARN_GP, NULL, &(ks_split){.folds = 5}, &folds), KS_OK);
    assert_int_equal(folds.cases.count, cases.count);
    for (int i = 0; i < cases.count; i++) {
        int found = 0;
        for (int j = 0; j < cases.count; j++)
            found += same_problem(&folds.cases.items[j].problem, &cases.items[i].problem);
        assert_int_equal(found, 1);
    }
    const ks_split split = {.train = 20, .draws = 3};
    assert_int_equal(ks_validate(&cases, &device, KS_LEARN_GP, NULL, &split, &draws), KS_OK);
    assert_int_equal(draws.cases.count, 3 * (cases.count - 2 * 20));
    for (int i = 0; i + 1 < cases.count; i += 2) { /* cases are sorted: a pattern's batches lie side by side */
        int found[2] = {0};
        for (int j = 0; j < draws.cases.count; j++)
            for (int k = 0; k < 2; k++)
                found[k] += same_problem(&draws.cases.items[j].problem, &cases.items[i + k].problem);
        assert_int_equal(found[0], found[1]);
        assert_in_range(found[0], 0, 3);
    }
    assert_int_equal(ks_validate(&cases, &device, KS_LEARN_GP, NULL, &split, &again), KS_OK);
    assert_int_equal(again.cases.count, draws.cases.count);
    assert_memory_equal(again.chosen, draws.chosen, (size_t)again.cases.count * sizeof *again.chosen);
    ks_heldout_close(&again);
    ks_heldout_open(&again, &cases);
    cases.count = 2;
    assert_failure(ks_validate(&cases, &device, KS_LEARN_GP, NULL, &(ks_split){.folds = 2}, &again), KS_ERR_NO_DATA,
                   "2", NULL);
    ks_heldout_close(&folds);
    ks_heldout_close(&draws);
    ks_heldout_close(&again);
    ks_cases_free(&cases);
}

/* Each learns something of a smooth law; only the process says how sure it is. */
static void test_learners(void **state)
{
    ks_cases cases;
    double mean[KS_NLEARNERS];
    (void)state;
    make_cases(100, &cases);
    for (int learner = 0; learner < KS_NLEARNERS; learner++) {
        ks_heldout h;
        ks_heldout_open(&h, &cases);
        assert_int_equal(ks_validate(&cases, &device, (ks_learner)learner, NULL, &(ks_split){.folds = 5}, &h), KS_OK);
        mean[learner] = ks_cases_regret(&h.cases, h.chosen, NULL).mean;
        print_message("%s: mean regret %.3g\n", ks_learner_name((ks_learner)learner), mean[learner]);
        assert_int_equal(isnan(h.expected[0]), learner != KS_LEARN_GP);
        ks_heldout_close(&h);
    }
    assert_null(ks_learner_name(KS_NLEARNERS));
    assert_true(mean[KS_LEARN_GP] < 0.01 && mean[KS_LEARN_GP] < mean[KS_LEARN_COST]);
    assert_true(mean[KS_LEARN_RIDGE] < mean[KS_LEARN_COST] && mean[KS_LEARN_NEAREST] < mean[KS_LEARN_COST]);
    ks_cases_free(&cases);
}

/* Leads of two deviations, of which as many come true as of one deviation (86 %), ask for twice the deviations; all of them, for
 * less than was said. */
static void test_caution(void **state)
{
    ks_cases cases;
    ks_model *model, *next;
    double regret;
    (void)state;
    make_cases(120, &cases);
    for (int honest = 0; honest < 2; honest++) {
        ks_heldout h;
        ks_heldout_open(&h, &cases);
        for (int i = 0; i < 200; i++) {
            const bool fused = i % 2 == 0, right = honest || i % 100 < 86;
            ks_case c = cases.items[0];
            ks_prediction p[2];
            for (int q = 0; q < 2; q++) {
                const bool is_fused = cases.kernel[q]->family == KS_FUSED;
                c.value[q] = is_fused == (fused == right) ? 1e-3 : 2e-3;
                p[q] = (ks_prediction){cases.kernel[q], is_fused == fused ? 0 : 2, sqrt(0.5)};
            }
            assert_int_equal(ks_heldout_add(&h, &c, p, (int[]){0, 1}, 2, true), KS_OK);
            assert_near(h.lead[i], fused ? 2 : -2, 1e-9);
        }
        const double caution = ks_heldout_caution(&h);
        if (honest)
            assert_true(caution < 0.9 && caution > 0.4);
        else
            assert_near(caution, 2, 0.1);
        ks_heldout_close(&h);
    }
    /* What is found widens every deviation, and a fit that starts there keeps it. */
    assert_int_equal(ks_fit_validated(&cases, &device, &(ks_fit_options){.seed = 1}, &model, &regret), KS_OK);
    assert_true(regret >= 0 && regret < 0.02 && model->caution > 0.5 && model->caution < 2);
    ks_prediction wide[2], plain[2];
    model->caution = 3;
    assert_int_equal(ks_fit(&cases, &device, &(ks_fit_options){.start = model}, &next), KS_OK);
    assert_true(next->caution == 3);
    ks_model_predict(next, &device, &cases.items[0].problem, cases.kernel, 2, true, wide);
    next->caution = 1;
    ks_model_predict(next, &device, &cases.items[0].problem, cases.kernel, 2, true, plain);
    assert_near(wide[0].deviation, 3 * plain[0].deviation, 1e-9);
    ks_model_free(next);
    ks_model_free(model);
    ks_cases_free(&cases);
}

/* Twenty problems said at P(fused faster) = 0.75 of which 15 are, and ten at 0.05 of which one is. */
static void test_reports(void **state)
{
    ks_cases like;
    ks_heldout h;
    ks_reliability r;
    ks_group groups[KS_GROUPS];
    ks_acceptance a = {0};
    (void)state;
    make_cases(2, &like);
    ks_heldout_open(&h, &like);
    for (int i = 0; i < 30; i++) {
        const bool likely = i < 20, fused = likely ? i % 4 != 0 : i == 20;
        ks_case c = like.items[0];
        c.problem.batch = likely ? 100 : 99, c.problem.d = likely ? 1 : 7;
        for (int q = 0; q < 2; q++)
            c.value[q] = (like.kernel[q]->family == KS_FUSED) == fused ? 1e-3 : 2e-3; /* the other loses 100 % */
        ks_prediction p[2];
        for (int q = 0; q < 2; q++) {
            const double gap =
                likely ? 0.8 * 0.7406970841 : -0.8 * 2.1318467863; /* of Student's t, 4: 0.75 and 0.05 */
            p[q] = (ks_prediction){.kernel = like.kernel[q], .deviation = sqrt(0.5)};
            p[q].log_time = like.kernel[q]->family == KS_FUSED ? 0 : gap;
        }
        assert_int_equal(ks_heldout_add(&h, &c, p, (int[]){0, 1}, 2, true), KS_OK);
        assert_near(ks_lead_probability(h.lead[i]), likely ? 0.75 : 0.05, 1e-6);
    }
    assert_int_equal(ks_heldout_judge(&h, &a), KS_OK);
    assert_near(a.advisor.mean, 6.0 / 30, 1e-9);
    assert_near(a.agreement, 24.0 / 30, 1e-9);
    assert_near(a.always_fused.mean, 14.0 / 30, 1e-9);
    ks_heldout_reliability(&h, &r);
    assert_int_equal(r.count, 30);
    assert_near(r.realised, 6.0 / 30, 1e-9);
    assert_true(r.expected > 0);
    assert_near(r.brier, (15 * 0.0625 + 5 * 0.5625 + 9 * 0.0025 + 0.9025) / 30, 1e-6);
    for (int b = 0; b < KS_BINS; b++) assert_int_equal(r.bin[b].count, b == 2 ? 20 : b == 4 ? 10 : 0);
    assert_near(r.bin[2].confidence, 0.75, 1e-6);
    assert_near(r.bin[2].right, 0.75, 1e-9);
    assert_near(r.bin[4].right, 0.9, 1e-9);
    ks_reliability sum = {0};
    ks_reliability_add(&sum, &r);
    r.brier = 1, r.realised = 0.8, r.bin[2].right = 0; /* as many again, all wrong */
    ks_reliability_add(&sum, &r);
    assert_int_equal(sum.count, 60);
    assert_near(sum.realised, 0.5, 1e-9);
    assert_near(sum.bin[2].right, 0.375, 1e-9);
    assert_true(sum.bin[2].count == 40 && sum.bin[0].count == 0 && sum.bin[2].from == 0.7);
    assert_int_equal(ks_heldout_groups(&h, groups), 2);
    assert_true(groups[0].single && groups[0].batch == 100 && groups[0].problems == 20);
    assert_near(groups[0].advisor, 5.0 / 20, 1e-9);
    assert_near(groups[0].bmm, 15.0 / 20, 1e-9);
    assert_true(!groups[1].single && groups[1].batch == 10 && groups[1].problems == 10);
    assert_near(groups[1].fused, 9.0 / 10, 1e-9);
    ks_heldout_close(&h);
    ks_cases_free(&like);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_learners),
        cmocka_unit_test(test_caution),
        cmocka_unit_test(test_reports),
    };
    return cmocka_run_group_tests_name("validate", tests, NULL, NULL);
}
