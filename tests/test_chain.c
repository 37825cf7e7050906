/* Chains: against their factors one after the other in float64, whatever the plan; plans as text; and what is refused.
 *
 *     test_chain [DEVICE]     "cpu", or "cuda:0": skipped (77) where that is not there
 *
 * KS_TEST_SEED is the seed (else the clock; printed), KS_TEST_PROBLEMS how many random chains (100). */
#include "chains.h"
#include "memory.h"
#include "problems.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ks_device device;
static ks_context *ctx;
static uint64_t seed;
static size_t chains;

/* A chain that fits: from right to left every factor takes what the one before makes. */
static void random_chain(chain_trial *t, rng *r)
{
    *t = (chain_trial){.count = 1 + (int)rng_below(r, 5)};
    int64_t features = INT64_C(1) << rng_below(r, 4);
    if (rng_below(r, 2)) features *= 3;
    const ks_problem common = {.batch = 1 + (int64_t)rng_below(r, 40),
                               .type = (ks_type)rng_below(r, KS_NTYPES),
                               .layout = (ks_layout)rng_below(r, KS_NLAYOUTS)};
    for (int f = t->count - 1; f >= 0; f--) {
        int64_t left = features, divisors[3];
        for (int part = 0; part < 3; part++) {
            do {
                divisors[part] = 1 + (int64_t)rng_below(r, (uint64_t)left);
            } while (left % divisors[part] != 0);
            left /= divisors[part];
        }
        t->f[f] = common;
        t->f[f].a = divisors[0], t->f[f].d = divisors[1], t->f[f].c = divisors[2] * left;
        t->f[f].b = 1 + (int64_t)rng_below(r, 8);
        features = t->f[f].a * t->f[f].b * t->f[f].d;
    }
}

/* A plan of the caller's: each factor in a layout drawn at random, so that there are transpositions. */
static void random_plan(const chain_trial *t, rng *r, char *plan, size_t size)
{
    plan[0] = '\0';
    for (int f = t->count - 1; f >= 0; f--) {
        const size_t used = strlen(plan);
        snprintf(plan + used, size - used, "auto/%s ", rng_below(r, 2) ? "first" : "last");
    }
}

static void try_chain(chain_trial *t, rng *r)
{
    ks_chain *chain;
    char plan[64 * CHAIN_MOST];
    chain_make(t, &device, CHAIN_ANYWHERE, r);
    for (int q = 0; q < 3; q++) {
        ks_status s = ks_chain_open(&chain, ctx, t->f, t->count, q == 0 ? NULL : plan);
        if (s != KS_OK) fail_msg("%s (seed %" PRIu64 ")", ks_status_message(s), seed);
        if (q == 0) assert_true(ks_chain_predicted_s(chain) > 0);
        chain_check(t, chain, NULL, seed);
        if (q == 1) { /* what a chain says of itself makes the same chain */
            ks_chain *again;
            assert_int_equal(ks_chain_open(&again, ctx, t->f, t->count, ks_chain_plan(chain)), KS_OK);
            assert_string_equal(ks_chain_describe(again), ks_chain_describe(chain));
            ks_chain_close(again);
        }
        ks_chain_close(chain);
        random_plan(t, r, plan, sizeof plan);
    }
    chain_drop(t);
}

static void test_random(void **state)
{
    (void)state;
    for (size_t index = 0; index < chains; index++) {
        rng r = rng_make(seed, index);
        chain_trial t;
        random_chain(&t, &r);
        try_chain(&t, &r);
    }
}

/* Butterflies of (1 1; 1 -1) are the Walsh-Hadamard transform: y = +-1 for x a unit vector, by parity of bits. */
static void test_hadamard(void **state)
{
    enum { LEVELS = 7, N = 1 << LEVELS };
    (void)state;
    for (int layout = 0; layout < KS_NLAYOUTS; layout++) {
        chain_trial t = {.count = LEVELS};
        rng r = rng_make(seed, 12345);
        for (int f = 0; f < LEVELS; f++)
            t.f[f] = (ks_problem){.a = 1 << f,
                                  .b = 2,
                                  .c = 2,
                                  .d = N >> (f + 1),
                                  .batch = N,
                                  .type = KS_F32,
                                  .layout = (ks_layout)layout};
        chain_make(&t, &device, CHAIN_ANYWHERE, &r);
        for (int f = 0; f < LEVELS; f++) {
            for (int64_t q = 0; q < ks_k_count(&t.f[f]); q++)
                value_store(KS_F32, t.k[f].seen, (size_t)q, q % 4 == 3 ? -1 : 1);
            assert_true(array_push(&t.k[f]));
        }
        for (int q = 0; q < N * N; q++) value_store(KS_F32, t.x.seen, (size_t)q, q / N == q % N);
        assert_true(array_push(&t.x) && array_poison(&t.y));
        ks_chain *chain;
        assert_int_equal(ks_chain_open(&chain, ctx, t.f, t.count, NULL), KS_OK);
        assert_int_equal(ks_chain_matmul(chain, t.x.data, t.weights, t.y.data, NULL), KS_OK);
        assert_int_equal(ks_device_wait(&device), KS_OK);
        assert_true(array_pull(&t.y));
        for (int n = 0; n < N; n++)
            for (int q = 0; q < N; q++)
                assert_true(value_load(KS_F32, t.y.seen, (size_t)(n * N + q)) ==
                            (__builtin_popcount((unsigned)(n & q)) % 2 ? -1 : 1));
        ks_chain_close(chain);
        chain_drop(&t);
    }
}

static void assert_refused(ks_status status, ks_status as, const char *text)
{
    assert_int_equal(status, as);
    if (!strstr(ks_status_message(status), text)) fail_msg("\"%s\" lacks \"%s\"", ks_status_message(status), text);
}

static void test_refuses(void **state)
{
    const ks_problem fits[] = {{.a = 1, .b = 3, .c = 2, .d = 4, .batch = 5},
                               {.a = 4, .b = 2, .c = 7, .d = 1, .batch = 5}};
    ks_problem f[2];
    ks_chain *chain = (ks_chain *)&f;
    rng r = rng_make(seed, 4);
    chain_trial t = {.count = 2};
    (void)state;
    memcpy(f, fits, sizeof f);
    assert_refused(ks_chain_open(NULL, ctx, f, 2, NULL), KS_ERR_ARGUMENT, "chain is NULL");
    assert_refused(ks_chain_open(&chain, NULL, f, 2, NULL), KS_ERR_ARGUMENT, "ctx is NULL");
    assert_null(chain);
    assert_refused(ks_chain_open(&chain, ctx, f, 0, NULL), KS_ERR_ARGUMENT, "count is 0");
    assert_refused(ks_chain_open(&chain, ctx, f, 65, NULL), KS_ERR_ARGUMENT, "count is 65");
    f[1].a = 3;
    assert_refused(ks_chain_open(&chain, ctx, f, 2, NULL), KS_ERR_ARGUMENT, "makes 6 features, but factor 1 takes 8");
    f[1].a = 4, f[1].batch = 6;
    assert_refused(ks_chain_open(&chain, ctx, f, 2, NULL), KS_ERR_ARGUMENT, "factors 1 and 2 differ");
    memcpy(f, fits, sizeof f);
    assert_refused(ks_chain_open(&chain, ctx, f, 2, "auto/first"), KS_ERR_PARSE, "ends before factor 1");
    assert_refused(ks_chain_open(&chain, ctx, f, 2, "auto first"), KS_ERR_PARSE, "\"auto\" is not KERNEL/LAYOUT");
    assert_refused(ks_chain_open(&chain, ctx, f, 2, "auto/first auto/mid"), KS_ERR_PARSE, "valid: first, last");
    assert_refused(ks_chain_open(&chain, ctx, f, 2, "auto/first no/last"), KS_ERR_ARGUMENT, "path \"no\" is unknown");
    assert_refused(ks_chain_open(&chain, ctx, f, 2, "auto/first auto/last more"), KS_ERR_PARSE, "left over");
    assert_null(chain);

    memcpy(t.f, fits, sizeof fits);
    chain_make(&t, &device, CHAIN_ANYWHERE, &r);
    assert_int_equal(ks_chain_open(&chain, ctx, f, 2, NULL), KS_OK);
    assert_refused(ks_chain_matmul(NULL, t.x.data, t.weights, t.y.data, NULL), KS_ERR_ARGUMENT, "chain is NULL");
    assert_refused(ks_chain_matmul(chain, NULL, t.weights, t.y.data, NULL), KS_ERR_ARGUMENT, "x is NULL");
    assert_refused(ks_chain_matmul(chain, t.x.data, t.weights, t.x.data, NULL), KS_ERR_ARGUMENT, "overlaps x");
    t.weights[1] = t.y.data;
    assert_refused(ks_chain_matmul(chain, t.x.data, t.weights, t.y.data, NULL), KS_ERR_ARGUMENT, "overlaps k[1]");
    t.weights[1] = NULL;
    assert_refused(ks_chain_matmul(chain, t.x.data, t.weights, t.y.data, NULL), KS_ERR_ARGUMENT, "k[1] is NULL");
    ks_chain_close(chain);
    ks_chain_close(NULL);
    chain_drop(&t);
}

/* The best way through is never worse than all factors in the caller's layout. */
static void test_plan_is_no_worse_than_the_plain_one(void **state)
{
    const ks_problem f[] = {{.a = 1, .b = 64, .c = 256, .d = 16, .batch = 4096},
                            {.a = 64, .b = 64, .c = 64, .d = 1, .batch = 4096}};
    (void)state;
    for (int layout = 0; layout < KS_NLAYOUTS; layout++) {
        ks_problem g[2] = {f[0], f[1]};
        ks_chain *best, *plain;
        g[0].layout = g[1].layout = (ks_layout)layout;
        assert_int_equal(ks_chain_open(&best, ctx, g, 2, NULL), KS_OK);
        assert_int_equal(ks_chain_open(&plain, ctx, g, 2, layout ? "auto/last auto/last" : "auto/first auto/first"),
                         KS_OK);
        assert_true(ks_chain_predicted_s(best) <= ks_chain_predicted_s(plain) * (1 + 1e-9));
        assert_true(ks_chain_workspace_bytes(plain) >= 4096 * 4096 * sizeof(float)); /* what lies between the two */
        ks_chain_close(best);
        ks_chain_close(plain);
    }
}

static void *multiply_again(void *arg)
{
    chain_trial *t = ((void **)arg)[0];
    ks_chain *chain = ((void **)arg)[1];
    const size_t bytes = t->y.bytes;
    void *y = malloc(bytes);
    bool same = y != NULL;
    for (int i = 0; same && i < 50; i++) {
        memset(y, 0xff, bytes);
        same = ks_chain_matmul(chain, t->x.data, t->weights, y, NULL) == KS_OK && memcmp(y, t->y.seen, bytes) == 0;
    }
    free(y);
    return same ? arg : NULL;
}

static void test_threads_share_a_chain(void **state)
{
    enum { THREADS = 4 };
    chain_trial t = {.count = 2};
    rng r = rng_make(seed, 6);
    ks_chain *chain;
    pthread_t threads[THREADS];
    (void)state;
    if (device.backend != KS_CPU) skip();
    t.f[0] = (ks_problem){.a = 1, .b = 6, .c = 8, .d = 12, .batch = 33};
    t.f[1] = (ks_problem){.a = 12, .b = 8, .c = 5, .d = 1, .batch = 33};
    chain_make(&t, &device, CHAIN_ANYWHERE, &r);
    assert_int_equal(ks_chain_open(&chain, ctx, t.f, 2, "auto/last auto/last"), KS_OK);
    chain_check(&t, chain, NULL, seed);
    void *arg[] = {&t, chain};
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, multiply_again, arg), 0);
    for (int i = 0; i < THREADS; i++) {
        void *same;
        pthread_join(threads[i], &same);
        assert_non_null(same);
    }
    ks_chain_close(chain);
    chain_drop(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_hadamard),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_plan_is_no_worse_than_the_plain_one),
        cmocka_unit_test(test_threads_share_a_chain),
    };
    chains = 100;
    const int code = trial_open(argc, argv, &device, &ctx, &seed, &chains);
    if (code != 0) return code;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ks_close(ctx);
    return failed;
}
