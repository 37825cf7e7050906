/* Pairs: two factors in one launch. Their place in chains, with a pair kernel of the test's own on the CPU; what fused2.cuda says
 * it can do, which needs no GPU; and its results, against both factors in float64.
 *
 *     test_pair [DEVICE]     "cpu", or "cuda:0": skipped (77) where that is not there
 *
 * KS_TEST_SEED is the seed (else the clock; printed), KS_TEST_PROBLEMS how many random pairs (300). */
#include "chains.h"
#include "memory.h"
#include "pair.h"
#include "problems.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 256 };

static ks_device device;
static ks_context *ctx;
static uint64_t seed;
static size_t pairs;

static ks_problem factor(int64_t a, int64_t b, int64_t c, int64_t d, int64_t batch, ks_type type)
{
    return (ks_problem){.a = a, .b = b, .c = c, .d = d, .batch = batch, .type = type};
}

static void assert_refused(ks_status status, ks_status as, const char *text)
{
    assert_int_equal(status, as);
    if (!strstr(ks_status_message(status), text)) fail_msg("\"%s\" lacks \"%s\"", ks_status_message(status), text);
}

/* ---- chains with a pair kernel of the test's ------------------------------------------------------------------------- */

static double own_price_s;
static int own_runs;

static bool own_supports(const ks_problem pair[2], const ks_device *on)
{
    return on->backend == KS_CPU && pair[0].layout == KS_BATCH_FIRST && pair[0].b <= 24;
}

static double own_predicted_s(const ks_problem pair[2], const ks_device *on)
{
    (void)pair, (void)on;
    return own_price_s;
}

static ks_status own_run(const ks_problem pair[2], const ks_pair_args *args)
{
    void *between = malloc((size_t)ks_y_count(&pair[1]) * ks_type_bytes(pair[1].type));
    assert_non_null(between);
    own_runs++;
    const ks_kernel *oracle = ks_kernels()[0];
    const ks_run_args first = {.device = args->device, .x = args->x, .k = args->k[1], .y = between};
    const ks_run_args second = {.device = args->device, .x = between, .k = args->k[0], .y = args->y};
    ks_status s = oracle->run(&pair[1], &first);
    if (s == KS_OK) s = oracle->run(&pair[0], &second);
    free(between);
    return s;
}

static const ks_pair own = {"pair.test", KS_CPU, 16, own_supports, own_predicted_s, own_run};

static void three_factors(chain_trial *t, size_t misalign, rng *r)
{
    *t = (chain_trial){.count = 3};
    t->f[0] = factor(1, 40, 6, 4, 9, KS_F32);
    t->f[1] = factor(3, 8, 5, 1, 9, KS_F32);
    t->f[2] = factor(1, 15, 7, 1, 9, KS_F32);
    chain_make(t, &device, (int)misalign, r);
}

static ks_chain *open_chain(const chain_trial *t, const char *plan)
{
    ks_chain *chain;
    ks_status s = ks_chain_open(&chain, ctx, t->f, t->count, plan);
    if (s != KS_OK) fail_msg("%s", ks_status_message(s));
    return chain;
}

/* The pair's place in the chain is where it is supported: the factors applied first. */
static void test_chosen_where_cheap(void **state)
{
    (void)state;
    rng r = rng_make(seed, 1);
    chain_trial t;
    if (device.backend != KS_CPU) skip();
    three_factors(&t, 0, &r);
    own_price_s = 1e-12;
    ks_chain *chain = open_chain(&t, NULL), *again = open_chain(&t, ks_chain_plan(chain));
    assert_ptr_equal(strstr(ks_chain_plan(chain), "pair.test/first "), ks_chain_plan(chain));
    assert_non_null(strstr(ks_chain_describe(chain), "K2 K3"));
    assert_string_equal(ks_chain_describe(chain), ks_chain_describe(again));
    own_runs = 0;
    chain_check(&t, chain, NULL, seed);
    chain_check(&t, again, NULL, seed);
    assert_int_equal(own_runs, 2);
    ks_chain_close(again);
    ks_chain_close(chain);

    own_price_s = 1e6;
    chain = open_chain(&t, NULL);
    assert_null(strstr(ks_chain_plan(chain), "pair.test"));
    assert_true(ks_chain_predicted_s(chain) < 1);
    ks_chain_close(chain);
    chain_drop(&t);
}

/* Its price takes part in the path as a kernel's does: of two ways that differ in the pair alone the cheaper is taken. */
static void test_price_counts(void **state)
{
    (void)state;
    rng r = rng_make(seed, 2);
    chain_trial t;
    if (device.backend != KS_CPU) skip();
    three_factors(&t, 0, &r);
    own_price_s = 1; /* second: dearer than the chain, and little enough to be taken off again without rounding */
    ks_chain *apart = open_chain(&t, NULL), *third = open_chain(&t, "pair.test/first auto/first");
    const double third_s = ks_chain_predicted_s(third) - own_price_s, apart_s = ks_chain_predicted_s(apart);
    for (int q = -1; q <= 1; q += 2) { /* for all but 20 % of the difference, and for 20 % more */
        own_price_s = (apart_s - third_s) * (1 - 0.2 * q);
        if (!(own_price_s > 0)) continue;
        ks_chain *chain = open_chain(&t, NULL);
        if (q < 0)
            assert_string_equal(ks_chain_plan(chain), ks_chain_plan(apart));
        else
            assert_true(ks_chain_predicted_s(chain) <= third_s + own_price_s + 1e-12);
        ks_chain_close(chain);
    }
    ks_chain_close(third);
    ks_chain_close(apart);
    chain_drop(&t);
}

static void test_plans_as_text(void **state)
{
    (void)state;
    rng r = rng_make(seed, 3);
    chain_trial t;
    ks_chain *chain;
    if (device.backend != KS_CPU) skip();
    three_factors(&t, 0, &r);
    own_price_s = 1;
    assert_refused(ks_chain_open(&chain, ctx, t.f, 3, "auto/first auto/first pair.test/first"), KS_ERR_PARSE,
                   "ends before pair.test's second factor");
    assert_refused(ks_chain_open(&chain, ctx, t.f, 3, "pair.test/first"), KS_ERR_PARSE, "ends before factor 1");
    assert_refused(ks_chain_open(&chain, ctx, t.f, 3, "pair.test/first auto/first auto/first"), KS_ERR_PARSE,
                   "left over");
    assert_refused(ks_chain_open(&chain, ctx, t.f, 3, "auto/first pair.test/first"), KS_ERR_UNSUPPORTED,
                   "does not support factors 1 and 2");
    assert_refused(ks_chain_open(&chain, ctx, t.f, 3, "pair.test/last auto/first"), KS_ERR_UNSUPPORTED,
                   "does not support factors 2 and 3");
    chain = open_chain(&t, "pair.test/first auto/last"); /* transpositions around it */
    chain_check(&t, chain, NULL, seed);
    ks_chain_close(chain);
    chain_drop(&t);
}

/* Arrays that the pair kernel cannot take are done by two kernels, and so is what has an epilogue. */
static void test_unaligned_and_epilogue(void **state)
{
    (void)state;
    if (device.backend != KS_CPU) skip();
    const ks_epilogue relu = {.alpha = 1, .activation = KS_RELU};
    for (size_t misalign = 0; misalign <= 4; misalign += 4) {
        rng r = rng_make(seed, 4 + misalign);
        chain_trial t = {.count = 2};
        t.f[0] = factor(1, 8, 6, 4, 33, KS_F32), t.f[1] = factor(3, 8, 5, 1, 33, KS_F32);
        chain_make(&t, &device, (int)misalign, &r);
        own_runs = 0;
        ks_chain *chain = open_chain(&t, "pair.test/first");
        chain_check(&t, chain, NULL, seed);
        chain_check(&t, chain, &relu, seed);
        assert_int_equal(own_runs, misalign ? 0 : 1);
        assert_true(ks_chain_workspace_bytes(chain) == 0);
        ks_chain_close(chain);
        chain_drop(&t);
    }
}

/* y is read where it is added to: twice the product and the old y. */
static void test_adding(void **state)
{
    (void)state;
    if (device.backend != KS_CPU) skip();
    rng r = rng_make(seed, 9);
    chain_trial t = {.count = 2};
    const ks_epilogue add = {.alpha = 2, .beta = 0.5};
    t.f[0] = factor(1, 8, 6, 4, 5, KS_F64), t.f[1] = factor(3, 8, 5, 1, 5, KS_F64);
    chain_make(&t, &device, 0, &r);
    double *before = malloc(t.y.bytes);
    assert_non_null(before);
    memcpy(before, t.y.seen, t.y.bytes);
    ks_chain *chain = open_chain(&t, "pair.test/first");
    assert_int_equal(ks_chain_matmul_with(chain, t.x.data, t.weights, t.y.data, &add, NULL), KS_OK);
    for (int64_t q = 0; q < ks_y_count(&t.f[0]); q++)
        assert_true(fabs(value_load(KS_F64, t.y.seen, (size_t)q) - (2 * t.want[q] + 0.5 * before[q])) < 1e-12);
    ks_chain_close(chain);
    free(before);
    chain_drop(&t);
}

static void test_list(void **state)
{
    (void)state;
    assert_ptr_equal(ks_pair_find("pair.test"), &own);
    assert_null(ks_pair_find("no such pair"));
    assert_refused(ks_pair_add(&own), KS_ERR_ARGUMENT, "there is a pair kernel pair.test already");
    for (const ks_pair *const *p = ks_pairs(); *p; p++) {
        assert_null(ks_kernel_find((*p)->name));
        assert_true((*p)->alignment > 0);
    }
}

/* ---- fused2.cuda ----------------------------------------------------------------------------------------------------- */

/* As NVIDIA's data sheets have them. */
static ks_device gpu_of(const char *arch, int units)
{
    ks_device d = {.backend = KS_CUDA, .units = units};
    snprintf(d.arch, sizeof d.arch, "%s", arch);
    return d;
}

/* Monarch's pairs, and those of the paper's networks: K_1 K_2. */
static const int64_t known[][8] = {
    {16, 16, 16, 1, 1, 16, 16, 16},  {32, 32, 32, 1, 1, 32, 32, 32},  {1, 32, 32, 32, 32, 32, 32, 1},
    {1, 192, 48, 2, 2, 48, 192, 1},  {4, 32, 32, 8, 1, 32, 32, 32},   {16, 16, 16, 16, 256, 16, 16, 1},
    {2, 64, 64, 8, 16, 64, 64, 1},   {1, 16, 16, 6, 6, 16, 64, 1},    {1, 32, 16, 4, 4, 16, 40, 1},
    {2, 16, 16, 64, 2, 16, 24, 64},  {2, 32, 32, 96, 4, 32, 32, 48},  {64, 64, 64, 1, 1, 64, 64, 64},
    {1, 64, 256, 16, 64, 64, 64, 1}, {1, 64, 64, 16, 16, 64, 256, 1}, {1, 768, 192, 2, 6, 64, 64, 1},
};
enum { KNOWN = sizeof known / sizeof *known, DONE = 11 /* of them, in 2-byte types */ };

static void known_pair(size_t q, int64_t batch, ks_type type, ks_problem pair[2])
{
    const int64_t *k = known[q];
    pair[0] = factor(k[0], k[1], k[2], k[3], batch, type), pair[1] = factor(k[4], k[5], k[6], k[7], batch, type);
    assert_true(pair[0].a * pair[0].c * pair[0].d == pair[1].a * pair[1].b * pair[1].d);
}

static void test_planner(void **state)
{
    (void)state;
    const ks_pair *fused2 = ks_pair_find("fused2.cuda");
    const ks_device hopper = gpu_of("sm_90", 132), ampere = gpu_of("sm_80", 108), turing = gpu_of("sm_75", 68);
    ks_problem pair[2];
    if (!fused2) skip();
    for (size_t q = 0; q < KNOWN; q++)
        for (int64_t batch = 1; batch <= 100000; batch = batch * 7 + 1) {
            known_pair(q, batch, batch % 2 ? KS_F16 : KS_BF16, pair);
            assert_int_equal(fused2->supports(pair, &hopper), q < DONE);
            if (q >= DONE) continue;
            const double bytes = 2.0 * (double)(ks_x_count(&pair[1]) + ks_y_count(&pair[0]) + ks_k_count(&pair[0]) +
                                                ks_k_count(&pair[1]));
            assert_true(fused2->predicted_s(pair, &hopper) > 2e-6 + bytes / 3.35e12);
            assert_false(fused2->supports(pair, &turing));
            pair[0].layout = pair[1].layout = KS_BATCH_LAST;
            assert_false(fused2->supports(pair, &hopper));
        }
    /* What the weights leave of shared memory decides: on an A100, less. */
    known_pair(0, 1000, KS_F16, pair);
    assert_true(fused2->supports(pair, &ampere));
    known_pair(1, 1000, KS_F16, pair);
    assert_false(fused2->supports(pair, &ampere));
    pair[0].type = pair[1].type = KS_F32;
    assert_false(fused2->supports(pair, &hopper));
    pair[0] = factor(12, 8, 12, 1, 10, KS_F16), pair[1] = factor(1, 12, 8, 12, 10, KS_F16); /* 24 bytes a row */
    assert_false(fused2->supports(pair, &hopper));
    pair[0] = factor(1, 4096, 4096, 1, 10, KS_F16), pair[1] = pair[0]; /* 64 MB of weights */
    assert_false(fused2->supports(pair, &hopper));
}

static void try_fused2(const ks_problem pair[2], bool nonfinite, rng *r)
{
    chain_trial t = {.count = 2, .f = {pair[0], pair[1]}};
    chain_make(&t, &device, 0, r);
    if (nonfinite) {
        values_sprinkle(r, pair[0].type, t.x.seen, (size_t)ks_x_count(&pair[1]), 3);
        for (int f = 0; f < 2; f++) values_sprinkle(r, pair[0].type, t.k[f].seen, (size_t)ks_k_count(&pair[f]), 2);
        chain_changed(&t);
    }
    ks_chain *chain = open_chain(&t, "fused2.cuda/first");
    for (int again = 0; again < 2; again++) chain_check(&t, chain, NULL, seed);
    ks_chain_close(chain);
    chain_drop(&t);
}

static int64_t divisor_of(rng *r, int64_t number)
{
    int64_t by;
    do {
        by = 1 + (int64_t)rng_below(r, (uint64_t)number);
    } while (number % by != 0);
    return by;
}

/* Two patterns that fit, of sizes that tensor cores like. */
static void random_pair(rng *r, ks_problem pair[2])
{
    static const int64_t inner[] = {1, 1, 2, 3, 4, 6, 8, 16, 24, 32, 64};
    const int64_t batch = 1 + (int64_t)rng_below(r, 300);
    const ks_type type = rng_below(r, 2) ? KS_F16 : KS_BF16;
    const bool first = rng_below(r, 2);
    const int64_t a = 1 + (int64_t)rng_below(r, 9), d = inner[rng_below(r, sizeof inner / sizeof *inner)];
    const int64_t width = 8 * (1 + (int64_t)rng_below(r, 8)), eighths = a * d * width / 8;
    const int64_t a_other = divisor_of(r, eighths), d_other = divisor_of(r, eighths / a_other);
    const int64_t other = 8 * eighths / a_other / d_other;
    const int64_t in = 8 * (1 + (int64_t)rng_below(r, 12)), out = 8 * (1 + (int64_t)rng_below(r, 12));
    pair[0] = first ? factor(a, out, width, d, batch, type) : factor(a_other, out, other, d_other, batch, type);
    pair[1] = first ? factor(a_other, other, in, d_other, batch, type) : factor(a, width, in, d, batch, type);
}

static void test_fused2_random(void **state)
{
    (void)state;
    const ks_pair *fused2 = ks_pair_find("fused2.cuda");
    if (device.backend != KS_CUDA) skip();
    size_t done = 0;
    for (size_t index = 0; done < pairs && index < 100 * pairs; index++) {
        rng r = rng_make(seed, 1000 + index);
        ks_problem pair[2];
        random_pair(&r, pair);
        if (ks_problem_flops(&pair[0]) + ks_problem_flops(&pair[1]) > 2e7 || !fused2->supports(pair, &device))
            continue;
        try_fused2(pair, index % 4 == 0, &r);
        done++;
    }
    assert_int_equal(done, pairs);
}

static void test_fused2_known(void **state)
{
    static const int64_t batches[] = {1, 16, 33, 200};
    (void)state;
    if (device.backend != KS_CUDA) skip();
    for (size_t q = 0; q < KNOWN; q++)
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            ks_problem pair[2];
            rng r = rng_make(seed, 100 + 4 * q + b);
            known_pair(q, batches[b], (q + b) % 2 ? KS_F16 : KS_BF16, pair);
            if (!ks_pair_find("fused2.cuda")->supports(pair, &device)) continue;
            try_fused2(pair, b == 2, &r);
        }
}

/* Arrays that begin at odd elements: the same results, by two kernels. */
static void test_fused2_unaligned(void **state)
{
    (void)state;
    if (device.backend != KS_CUDA) skip();
    for (size_t misalign = 2; misalign <= 8; misalign += 6) {
        rng r = rng_make(seed, misalign);
        chain_trial t = {.count = 2};
        t.f[0] = factor(4, 16, 16, 1, 33, KS_F16), t.f[1] = factor(1, 16, 24, 4, 33, KS_F16);
        chain_make(&t, &device, (int)misalign, &r);
        ks_chain *chain = open_chain(&t, "fused2.cuda/first");
        chain_check(&t, chain, NULL, seed);
        ks_chain_close(chain);
        chain_drop(&t);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_chosen_where_cheap),
        cmocka_unit_test(test_price_counts),
        cmocka_unit_test(test_plans_as_text),
        cmocka_unit_test(test_unaligned_and_epilogue),
        cmocka_unit_test(test_adding),
        cmocka_unit_test(test_planner),
        cmocka_unit_test(test_fused2_unaligned),
        cmocka_unit_test(test_fused2_known),
        cmocka_unit_test(test_fused2_random),
    };
    pairs = 300;
    if (ks_pair_add(&own) != KS_OK) return 1;
    const int code = trial_open(argc, argv, &device, &ctx, &seed, &pairs);
    if (code != 0) return code;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ks_close(ctx);
    return failed;
}
