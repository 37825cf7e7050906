/* Epilogues: every kernel's product with bias, activation, alpha and beta against float64; accuracy of the activations; NaN and
 * Inf; which kernel is chosen; chains; and what is refused.
 *
 *     test_epilogue [DEVICE]     "cpu", or "cuda:0": skipped (77) where that is not there
 *
 * KS_TEST_SEED is the seed (else the clock; printed), KS_TEST_PROBLEMS how many random problems (60). */
#include "context.h"
#include "memory.h"
#include "problems.h"
#include "trial.h"

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

enum { KINDS = KS_NTYPES * KS_NLAYOUTS };

static ks_device device;
static ks_context *ctx;
static uint64_t seed;
static size_t problems;

static const double unit_of[] = {0x1p-24, 0x1p-11, 0x1p-8, 0x1p-53};

/* A problem with its arrays on the device and here, y as it is before a product, and the product in float64. */
typedef struct case_of {
    ks_problem p;
    ks_epilogue e;
    array x, k, bias, y;
    unsigned char *before;
    double *product, *magnitude;
} case_of;

static double activate(ks_activation activation, double z)
{
    switch (activation) {
    case KS_RELU:
        return z < 0 ? 0 : z;
    case KS_GELU:
        return z * (0.5 * erfc(-z * sqrt(0.5)));
    case KS_GELU_TANH:
        return z / (1 + exp(-2 * sqrt(2 / acos(-1)) * (z + 0.044715 * z * z * z)));
    case KS_SILU:
        return z / (1 + exp(-z));
    default:
        return z;
    }
}

/* The CPU reads any alignment, a GPU whole elements; that of whole vectors half of the time, and where it is asked for. */
static void make_array(array *a, size_t bytes, ks_type type, bool whole, rng *r)
{
    const size_t size = ks_type_bytes(type), grain = device.backend == KS_CPU ? 1 : size;
    const size_t off = whole || rng_below(r, 2) ? 0 : grain * rng_below(r, 8);
    assert_true(array_alloc_on(a, &device, bytes, off, true));
    values_fill(r, type, a->seen, bytes / size, 1);
}

static ks_epilogue draw_epilogue(rng *r)
{
    static const double alphas[] = {1, 1, -0.75, 3.1}, betas[] = {0, 0, 0, 1, -0.6};
    return (ks_epilogue){.alpha = alphas[rng_below(r, 4)],
                         .beta = betas[rng_below(r, 5)],
                         .activation = (ks_activation)rng_below(r, KS_NACTIVATIONS)};
}

static void make(case_of *t, const ks_problem *p, bool whole, rng *r)
{
    const size_t size = ks_type_bytes(p->type), y_bytes = size * (size_t)ks_y_count(p);
    *t = (case_of){.p = *p, .e = draw_epilogue(r)};
    make_array(&t->x, size * (size_t)ks_x_count(p), p->type, whole, r);
    make_array(&t->k, size * (size_t)ks_k_count(p), p->type, whole, r);
    make_array(&t->bias, size * (size_t)(p->a * p->b * p->d), p->type, whole, r);
    make_array(&t->y, y_bytes, p->type, whole, r);
    if (rng_below(r, 4) == 0) values_sprinkle(r, p->type, t->x.seen, (size_t)ks_x_count(p), 2);
    if (rng_below(r, 4) == 0) values_sprinkle(r, p->type, t->bias.seen, (size_t)(p->a * p->b * p->d), 2);
    t->e.bias = rng_below(r, 4) ? t->bias.data : NULL;
    if (t->e.beta == 0) memset(t->y.seen, 0xff, y_bytes); /* NaN, which must not be read */
    assert_true(array_push(&t->x) && array_push(&t->k) && array_push(&t->bias));
    t->before = malloc(y_bytes);
    t->product = malloc((size_t)ks_y_count(p) * sizeof(double));
    t->magnitude = malloc((size_t)ks_y_count(p) * sizeof(double));
    assert_true(t->before && t->product && t->magnitude);
    memcpy(t->before, t->y.seen, y_bytes);
    assert_true(problem_reference(p, t->x.seen, t->k.seen, t->product, t->magnitude));
}

static void drop(case_of *t)
{
    array *const arrays[] = {&t->x, &t->k, &t->bias, &t->y};
    for (int i = 0; i < 4; i++) {
        assert_true(array_zone_intact(arrays[i]));
        array_free(arrays[i]);
    }
    free(t->before);
    free(t->product);
    free(t->magnitude);
}

static int64_t feature_of(const ks_problem *p, int64_t at)
{
    return p->layout == KS_BATCH_FIRST ? at % (p->a * p->b * p->d) : at / p->batch;
}

/* Whether y is right, given that the product may be off by so much. */
static bool near(const case_of *t, int64_t at, double product, double product_error, double *want, double *bound)
{
    const ks_type type = t->p.type;
    const double unit = unit_of[type], sums = type == KS_F64 ? unit : 0x1p-24;
    const double old = t->e.beta == 0 ? 0 : t->e.beta * value_load(type, t->before, (size_t)at);
    const double bias = t->e.bias ? value_load(type, t->bias.seen, (size_t)feature_of(&t->p, at)) : 0;
    const double z = t->e.alpha * product + old + bias, y = value_load(type, t->y.seen, (size_t)at);
    *want = activate(t->e.activation, z);
    /* No activation is steeper than 1.13. */
    *bound = 1.2 * (fabs(t->e.alpha) * (product_error + unit * fabs(product)) +
                    4 * sums * (fabs(t->e.alpha * product) + fabs(old) + fabs(bias))) +
             (2 * unit + 40 * sums) * fabs(*want) + (type == KS_F16 ? (1 + fabs(t->e.alpha)) * 0x1p-24 : 1e-37);
    if (isnan(*want) || isinf(*want)) return isnan(*want) ? isnan(y) : y == *want;
    return fabs(y - *want) <= *bound;
}

static void check(const case_of *t, const char *path)
{
    char text[PROBLEM_TEXT_BYTES];
    const ks_problem *p = &t->p;
    const double sums = p->type == KS_F64                              ? 0x1p-52
                        : p->type == KS_F32 && p->math == KS_MATH_TF32 ? 0x1p-10
                                                                       : 0x1p-24;
    for (int64_t at = 0; at < ks_y_count(p); at++) {
        double want, bound;
        if (near(t, at, t->product[at], (double)(p->c + 8) * sums * t->magnitude[at], &want, &bound)) continue;
        fail_msg("%s, %s, activation %d, alpha %g, beta %g, bias %d: y[%" PRId64
                 "] is %.9g, must be %.9g within %.3g (seed "
                 "%" PRIu64 ")",
                 path, problem_text(p, text), (int)t->e.activation, t->e.alpha, t->e.beta, t->e.bias != NULL, at,
                 value_load(p->type, t->y.seen, (size_t)at), want, bound, seed);
    }
}

static void try_path(case_of *t, const char *path)
{
    memcpy(t->y.seen, t->before, t->y.bytes);
    assert_true(array_push(&t->y));
    ks_status s = ks_matmul_with(ctx, &t->p, path, t->x.data, t->k.data, t->y.data, &t->e, NULL);
    if (s == KS_OK) s = ks_device_wait(&device);
    if (s != KS_OK) fail_msg("%s: %s", path, ks_status_message(s));
    assert_true(array_pull(&t->y));
    check(t, path);
}

static void try_all(const ks_problem *shape, bool whole, size_t index)
{
    for (unsigned kind = 0; kind < KINDS; kind++) {
        const ks_kernel *kernels[KS_MAX_KERNELS];
        rng r = rng_make(seed, index * 16 + kind);
        ks_problem p = *shape;
        case_of t;
        p.type = (ks_type)(kind % KS_NTYPES), p.layout = (ks_layout)(kind / KS_NTYPES);
        make(&t, &p, whole, &r);
        const int count = ks_kernels_for(&p, &device, kernels);
        for (int q = 0; q < count; q++) try_path(&t, kernels[q]->name);
        try_path(&t, "auto");
        drop(&t);
    }
}

static void test_random(void **state)
{
    const problem_bounds bounds = {
        .hi = {.a = 8, .b = 80, .c = 60, .d = 24, .batch = 700}, .flops_max = 1e6, .bytes_max = 4e5, .awkward = 0.5};
    (void)state;
    for (size_t index = 0; index < problems; index++) {
        rng r = rng_make(seed, index * 16 + 15);
        const ks_problem p = problem_random(&r, &bounds);
        try_all(&p, false, index);
    }
}

/* What kernels whose tiles are of whole vectors take: c of whole vectors, the d's that they are made for, several tiles along
 * each size and parts of one, several units of work for each multiprocessor. */
static ks_problem draw_tiled(rng *r)
{
    static const int64_t ds[] = {1, 1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 96};
    const int64_t d = ds[rng_below(r, sizeof ds / sizeof *ds)];
    const problem_bounds bounds = {.hi = {.a = 60, .b = 300, .c = 12, .d = 1, .batch = 9000},
                                   .flops_max = 2e5 / (double)d,
                                   .bytes_max = 4e5 / (double)d,
                                   .awkward = 0.3};
    ks_problem p = problem_random(r, &bounds);
    p.c *= 8, p.d = d;
    if (rng_below(r, 2)) p.batch = (p.batch + 7) / 8 * 8;
    return p;
}

static void test_tiled(void **state)
{
    (void)state;
    for (size_t index = 0; index < 2 * problems; index++) {
        rng r = rng_make(seed, 5000000 + index);
        ks_problem p = draw_tiled(&r);
        p.math = index % 4 == 3 ? KS_MATH_TF32 : KS_MATH_F32;
        try_all(&p, true, 6000000 + index);
    }
}

static void test_nasty(void **state)
{
    ks_problem p;
    (void)state;
    for (size_t index = 0; problem_nasty(index, &p); index++)
        if (ks_problem_flops(&p) < 1e6) try_all(&p, false, 1000000 + index);
}

/* So large that y is written past the caches; rows of whole lines, and not. */
static void test_large(void **state)
{
    const int64_t sizes[][5] = {{6, 64, 8, 1, 2048}, {3, 40, 8, 4, 2057}, {1, 333, 4, 3, 1999}, {1, 5, 3, 1, 300000}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t *s = sizes[i];
        try_all(&(ks_problem){.a = s[0], .b = s[1], .c = s[2], .d = s[3], .batch = s[4]}, false, 2000000 + i);
    }
}

/* One activation of many numbers, against float64: relative to what comes out, tails included. */
static void check_accuracy(const ks_problem *p, ks_activation activation, const char *path, const array *x,
                           const array *y)
{
    /* A product by 1 on tensor cores loses a few of float32's digits. */
    const double lost = p->type == KS_F32 && device.backend != KS_CPU ? 0x1p-21 : 0;
    const double sums = p->type == KS_F64 ? 0x1p-53 : 0x1p-24;
    for (int64_t q = 0; q < p->batch; q++) {
        const double z = value_load(p->type, x->seen, (size_t)(q * p->c)),
                     got = value_load(p->type, y->seen, (size_t)q);
        const double want = activate(activation, z), moved = fabs(activate(activation, z * (1 + lost)) - want);
        /* exp of a large number u loses digits as u grows. */
        const double u = activation == KS_GELU_TANH ? fabs(z) + fabs(z * z * z) / 10 : z * z / 2 + fabs(z);
        const double error = moved + (unit_of[p->type] * 1.01 + sums * (12 + 4 * u)) * fabs(want);
        if (fabs(got - want) > error + (p->type == KS_F16 ? 0x1p-24 : p->type == KS_F64 ? 1e-300 : 1e-33))
            fail_msg("%s, %s, activation %d of %.9g is %.9g, must be %.9g", path, ks_type_name(p->type), activation,
                     z, got, want);
    }
}

/* Numbers near and far, times 1, by each kernel. */
static void test_accuracy(void **state)
{
    enum { COUNT = 4000, C = 8 };
    (void)state;
    for (int type = 0; type < KS_NTYPES; type++) {
        const ks_problem p = {.a = 1, .b = 1, .c = C, .d = 1, .batch = COUNT, .type = (ks_type)type};
        const size_t size = ks_type_bytes(p.type);
        const ks_kernel *kernels[KS_MAX_KERNELS];
        const int count = ks_kernels_for(&p, &device, kernels);
        array x, k, y;
        assert_true(array_alloc_on(&x, &device, COUNT * C * size, 0, true));
        assert_true(array_alloc_on(&k, &device, C * size, 0, true));
        assert_true(array_alloc_on(&y, &device, COUNT * size, 0, true));
        memset(x.seen, 0, x.bytes), memset(k.seen, 0, k.bytes);
        value_store(p.type, k.seen, 0, 1);
        for (size_t q = 0; q < COUNT; q++) {
            const double wave = (double)q / (COUNT - 1) * 2 - 1; /* -1 to 1, most of them near 0 */
            value_store(p.type, x.seen, q * C, 20 * wave * wave * wave);
        }
        assert_true(array_push(&x) && array_push(&k));
        for (int at = 0; at < count * KS_NACTIVATIONS; at++) {
            const char *path = kernels[at / KS_NACTIVATIONS]->name;
            const ks_epilogue e = {.alpha = 1, .activation = (ks_activation)(at % KS_NACTIVATIONS)};
            assert_true(array_poison(&y));
            assert_int_equal(ks_matmul_with(ctx, &p, path, x.data, k.data, y.data, &e, NULL), KS_OK);
            assert_true(ks_device_wait(&device) == KS_OK && array_pull(&y));
            check_accuracy(&p, e.activation, path, &x, &y);
        }
        array_free(&x), array_free(&k), array_free(&y);
    }
}

/* The best together with the pass behind those that do not finish; as the plain product's where all have the pass. */
static void test_choice(void **state)
{
    const problem_bounds bounds = {.hi = {.a = 64, .b = 512, .c = 512, .d = 64, .batch = 8192}, .flops_max = 1e10};
    (void)state;
    for (size_t index = 0; index < 500; index++) {
        rng r = rng_make(seed, 3000000 + index);
        const ks_problem p = problem_random(&r, &bounds);
        const double pass_s =
            3e-6 + 2 * (double)ks_y_count(&p) * (double)ks_type_bytes(p.type) / ctx->device.copy_bytes_per_s;
        ks_advice advice;
        assert_int_equal(ks_advise(ctx, &p, &advice), KS_OK);
        double best = INFINITY, taken = NAN;
        const ks_epilogue bias = {.alpha = 1, .beta = 0}, sum = {.alpha = 1, .beta = 1};
        const ks_kernel *kernel = ks_context_choose_with(ctx, &p, &bias);
        assert_ptr_equal(ks_context_recall_with(ctx, &p, &bias), kernel);
        for (int q = 0; q < advice.candidate_count; q++) {
            const ks_kernel *row = ks_kernel_find(advice.candidates[q].kernel);
            const double time_s = advice.candidates[q].time_s + (ks_kernel_finishes(row) ? 0 : pass_s);
            best = fmin(best, time_s);
            if (row == kernel) taken = time_s;
        }
        assert_true(taken <= 1.021 * best); /* ties */
        assert_string_equal(ks_context_choose_with(ctx, &p, &sum)->name, advice.kernel);
    }
}

/* Chains, also with a transposition behind the last product, against the same chain without an epilogue. */
static void test_chain(void **state)
{
    static const char *const plans[] = {NULL, "fused/last fused/last", "fused/first fused/last",
                                        "fused/last fused/first"};
    (void)state;
    for (size_t turn = 0; turn < 160; turn++) {
        rng r = rng_make(seed, 4000000 + turn);
        const ks_type type = (ks_type)(turn % KS_NTYPES);
        const ks_layout layout = (ks_layout)(turn / KS_NTYPES % KS_NLAYOUTS);
        const ks_problem f[] = {{.a = 1, .b = 5, .c = 3, .d = 8, .batch = 37, .type = type, .layout = layout},
                                {.a = 2, .b = 12, .c = 7, .d = 1, .batch = 37, .type = type, .layout = layout}};
        ks_problem ends = f[0];
        ends.a = ends.d = 1, ends.b = 40, ends.c = 14;
        const size_t size = ks_type_bytes(type);
        case_of t;
        array k[2], plain;
        ks_chain *chain;
        make(&t, &ends, false, &r);
        for (int i = 0; i < 2; i++) {
            make_array(&k[i], size * (size_t)ks_k_count(&f[i]), type, false, &r);
            assert_true(array_push(&k[i]));
        }
        make_array(&plain, size * (size_t)ks_y_count(&ends), type, false, &r);
        const void *weights[] = {k[0].data, k[1].data};
        memcpy(t.y.seen, t.before, t.y.bytes);
        assert_true(array_push(&t.y));
        assert_int_equal(ks_chain_open(&chain, ctx, f, 2, plans[turn / 8 % 4]), KS_OK);
        assert_int_equal(ks_chain_matmul(chain, t.x.data, weights, plain.data, NULL), KS_OK);
        assert_int_equal(ks_chain_matmul_with(chain, t.x.data, weights, t.y.data, &t.e, NULL), KS_OK);
        assert_int_equal(ks_device_wait(&device), KS_OK);
        assert_true(array_pull(&plain) && array_pull(&t.y));
        for (int64_t at = 0; at < ks_y_count(&ends); at++) {
            const double product = value_load(type, plain.seen, (size_t)at);
            double want, bound;
            if (!near(&t, at, product, unit_of[type] * fabs(product), &want, &bound))
                fail_msg("chain %zu: y[%" PRId64 "] is %.9g, must be %.9g (seed %" PRIu64 ")", turn, at,
                         value_load(type, t.y.seen, (size_t)at), want, seed);
        }
        ks_chain_close(chain);
        array_free(&k[0]), array_free(&k[1]), array_free(&plain);
        drop(&t);
    }
}

static void assert_refused(ks_status status, const char *text)
{
    assert_int_equal(status, KS_ERR_ARGUMENT);
    if (!strstr(ks_status_message(status), text)) fail_msg("%s", ks_status_message(status));
}

static void test_arguments(void **state)
{
    const ks_problem p = {.a = 3, .b = 4, .c = 5, .d = 2, .batch = 6};
    rng r = rng_make(seed, 5);
    case_of t;
    (void)state;
    make(&t, &p, false, &r);
    const void *x = t.x.data, *k = t.k.data;
    void *y = t.y.data;
    assert_refused(ks_matmul_with(NULL, &p, "auto", x, k, y, &t.e, NULL), "ctx is NULL");
    assert_refused(ks_matmul_with(ctx, &p, "auto", x, k, y, &(ks_epilogue){.bias = t.bias.data}, NULL), "alpha is 0");
    assert_refused(ks_matmul_with(ctx, &p, NULL, x, k, y, &(ks_epilogue){.alpha = 2}, NULL), "path is NULL");
    assert_refused(
        ks_matmul_with(ctx, &p, "auto", x, k, x == y ? y : (void *)(uintptr_t)x, &(ks_epilogue){.alpha = 2}, NULL),
        "overlaps x");
    assert_refused(
        ks_matmul_with(ctx, &p, "auto", x, k, y, &(ks_epilogue){.alpha = 1, .activation = KS_NACTIVATIONS}, NULL),
        "activation is 5, valid: 0 to 4");
    assert_refused(ks_matmul_with(ctx, &p, "auto", x, k, y, &(ks_epilogue){.alpha = 1, .bias = y}, NULL),
                   "overlaps bias");
    if (device.backend != KS_CPU) {
        const ks_epilogue odd = {.alpha = 1, .bias = (const char *)t.bias.data + 1},
                          here = {.alpha = 1, .bias = t.before};
        assert_refused(ks_matmul_with(ctx, &p, "auto", x, k, y, &odd, NULL), "not aligned");
        assert_refused(ks_matmul_with(ctx, &p, "auto", x, k, y, &here, NULL), "bias");
    }
    drop(&t);
}

/* Nothing asked is the plain product, to the bit. */
static void test_plain(void **state)
{
    const ks_problem p = {.a = 3, .b = 40, .c = 5, .d = 2, .batch = 60};
    const ks_epilogue nothing = {.alpha = 1};
    rng r = rng_make(seed, 6);
    case_of t;
    (void)state;
    make(&t, &p, false, &r);
    assert_int_equal(ks_auto_matmul(ctx, &p, t.x.data, t.k.data, t.y.data, NULL), KS_OK);
    assert_true(ks_device_wait(&device) == KS_OK && array_pull(&t.y));
    memcpy(t.before, t.y.seen, t.y.bytes);
    for (int i = 0; i < 2; i++) {
        assert_true(array_poison(&t.y));
        assert_int_equal(ks_matmul_with(ctx, &p, "auto", t.x.data, t.k.data, t.y.data, i ? &nothing : NULL, NULL),
                         KS_OK);
        assert_true(ks_device_wait(&device) == KS_OK && array_pull(&t.y));
        assert_memory_equal(t.y.seen, t.before, t.y.bytes);
    }
    drop(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_plain),  cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_choice),    cmocka_unit_test(test_chain),  cmocka_unit_test(test_nasty),
        cmocka_unit_test(test_large),     cmocka_unit_test(test_random), cmocka_unit_test(test_tiled),
    };
    problems = 60;
    const int code = trial_open(argc, argv, &device, &ctx, &seed, &problems);
    if (code != 0) return code;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ks_close(ctx);
    return failed;
}
