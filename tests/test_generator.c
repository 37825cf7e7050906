/* The tests' own tools. A checker that passes everything looks just like a library without faults, so here it must
 * catch faults planted on purpose: kernels that are right but for one thing. The conversions, on which every verdict
 * on a 16-bit type rests, are checked on all 65536 values and on their ties. */
#include "trial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

/* ---- planted faults ---- */

typedef enum fault {
    NONE = 0,
    LAST_OUTPUT_MISSING,
    WRITES_PAST_Y,
    WRITES_BEFORE_Y,
    WRITES_PAST_WORKSPACE,
    CHANGES_X,
    CHANGES_K,
    SUMS_IN_THE_TYPE,
    TRUNCATES,
    SKIPS_ZEROS,
    DROPS_NAN,
    LAST_TERM_MISSING,
    ADDS_TO_Y,
    REPORTS_FAILURE,
    NFAULTS
} fault;

static fault planted;

static bool fake_supports(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return true;
}

static size_t fake_workspace(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return 24;
}

static void fake_costs(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)p, (void)device;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 1;
}

static double toward_zero(ks_type type, double value)
{
    const double near = value_round(type, value);
    if (fabs(near) <= fabs(value) || !isfinite(near)) return near;
    const int digits = type == KS_F16 ? 11 : type == KS_BF16 ? 8 : 24;
    int exponent;
    (void)frexp(near, &exponent);
    return near - copysign(ldexp(1.0, exponent - digits), near);
}

static double fake_output(const ks_problem *p, const ks_run_args *args, int64_t n, int64_t i, int64_t j, int64_t l)
{
    double sum = 0;
    const int64_t terms = planted == LAST_TERM_MISSING ? p->c - 1 : p->c;
    for (int64_t k = 0; k < terms; k++) {
        const double x = value_load(p->type, args->x, (size_t)problem_x_index(p, n, i, k, l));
        const double w = value_load(p->type, args->k, (size_t)problem_k_index(p, i, j, k, l));
        if (planted == SKIPS_ZEROS && (x == 0 || w == 0)) continue;
        if (planted == DROPS_NAN && isnan(x * w)) continue;
        sum += x * w;
        if (planted == SUMS_IN_THE_TYPE) sum = value_round(p->type, sum);
    }
    return sum;
}

static ks_status fake_run(const ks_problem *p, const ks_run_args *args)
{
    const size_t count = (size_t)(p->batch * p->a * p->b * p->d), size = value_bytes(p->type);
    for (int64_t n = 0; n < p->batch; n++) {
        for (int64_t i = 0; i < p->a; i++) {
            for (int64_t j = 0; j < p->b; j++) {
                for (int64_t l = 0; l < p->d; l++) {
                    const size_t at = (size_t)problem_y_index(p, n, i, j, l);
                    double y = fake_output(p, args, n, i, j, l);
                    if (planted == LAST_OUTPUT_MISSING && at == count - 1) continue;
                    if (planted == TRUNCATES) y = toward_zero(p->type, y);
                    if (planted == ADDS_TO_Y) y += 0 * value_load(p->type, args->y, at);
                    value_store(p->type, args->y, at, y);
                }
            }
        }
    }
    memset(args->workspace, 0, planted == WRITES_PAST_WORKSPACE ? 25 : 24);
    if (planted == WRITES_PAST_Y) memset((char *)args->y + count * size, 0, 1);
    if (planted == WRITES_BEFORE_Y) memset((char *)args->y - 1, 0, 1);
    /* The inputs' lowest bit: no output needs to change by it. */
    if (planted == CHANGES_X) *(unsigned char *)(uintptr_t)args->x ^= 1;
    if (planted == CHANGES_K) *(unsigned char *)(uintptr_t)args->k ^= 1;
    return planted == REPORTS_FAILURE ? KS_ERR_INTERNAL : KS_OK;
}

static const ks_kernel fake = {"fake", KS_FUSED, KS_CPU, 1, fake_supports, fake_workspace, fake_costs, fake_run};

static bool is_loose(const array *a)
{
    return a->data != a->zone && a->data + a->bytes != a->zone + a->zone_bytes;
}

/* Whether the planted fault is noticed in a trial of this type and these values. Y must lie loose: a fault against a
 * forbidden page is noticed too, but ends the process. */
static bool noticed(ks_type type, trial_values values, uint64_t stream)
{
    const ks_problem p = {.a = 2, .b = 3, .c = 40, .d = 5, .batch = 7, .type = type, .layout = KS_BATCH_LAST};
    const ks_device none = {.backend = KS_CPU};
    char why[TRIAL_WHY_BYTES] = "";
    rng r = rng_make(20, stream);
    for (;;) {
        trial t;
        assert_true(trial_make(&t, &p, values, &r));
        if (!is_loose(&t.y)) {
            trial_free(&t);
            continue;
        }
        const bool right = trial_run(&t, &fake, &none, why);
        trial_free(&t);
        if (!right) assert_true(strlen(why) > 0);
        return !right;
    }
}

static void test_right_kernel_passes(void **state)
{
    (void)state;
    planted = NONE;
    for (int type = 0; type < KS_NTYPES; type++) {
        for (int values = TRIAL_PLAIN; values <= TRIAL_TINY; values++) {
            for (uint64_t stream = 0; stream < 5; stream++)
                assert_false(noticed((ks_type)type, (trial_values)values, stream));
        }
    }
}

static void test_faults_are_caught(void **state)
{
    (void)state;
    for (int f = NONE + 1; f < NFAULTS; f++) {
        planted = (fault)f;
        for (int type = 0; type < KS_NTYPES; type++) {
            /* In F32 and F64 these two are what is asked for, or no more than a rounding away from it. */
            if ((f == SUMS_IN_THE_TYPE || f == TRUNCATES) && (type == KS_F32 || type == KS_F64)) continue;
            const bool special = f == SKIPS_ZEROS || f == DROPS_NAN;
            bool caught = false;
            /* Whether 0 meets Inf is up to chance, the rest must be caught at once. */
            for (uint64_t stream = 0; stream < (special ? 200 : 1) && !caught; stream++)
                caught = noticed((ks_type)type, special ? TRIAL_NONFINITE : TRIAL_PLAIN, stream);
            if (!caught) fail_msg("fault %d went unseen in type %d", f, type);
        }
    }
    planted = NONE;
}

static void test_zones(void **state)
{
    (void)state;
    for (size_t misalign = 0; misalign < ARRAY_ALIGNMENT; misalign++) {
        array a;
        assert_true(array_alloc(&a, 5 + misalign, ARRAY_LOOSE, misalign));
        assert_int_equal((uintptr_t)a.data % ARRAY_ALIGNMENT, misalign);
        array_poison(&a);
        assert_true(array_zone_intact(&a));
        a.data[-1] ^= 1;
        assert_false(array_zone_intact(&a));
        a.data[-1] ^= 1;
        a.data[a.bytes] ^= 1;
        assert_false(array_zone_intact(&a));
        array_free(&a);
    }
}

/* ---- conversions ---- */

static void all_small_floats(ks_type type, uint16_t (*to)(double), double (*from)(uint16_t), unsigned infinity)
{
    for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
        for (unsigned magnitude = 0; magnitude < 0x8000; magnitude++) {
            const uint16_t bits = (uint16_t)(sign | magnitude);
            const double value = from(bits);
            if (magnitude > infinity) {
                assert_true(isnan(value));
                assert_true(isnan(from(to(value))));
                continue;
            }
            assert_int_equal(to(value), bits);
            assert_true(value_round(type, value) == value);
            if (magnitude >= infinity - 1) continue;
            /* Half-way to the next value: to the even one; a touch to either side: to the nearer. */
            const double next = from((uint16_t)(bits + 1)), middle = (value + next) / 2;
            assert_int_equal(to(middle), bits + (bits & 1));
            assert_int_equal(to(nextafter(middle, value)), bits);
            assert_int_equal(to(nextafter(middle, next)), bits + 1);
        }
    }
    const double largest = from((uint16_t)(infinity - 1));
    const double gap = largest - from((uint16_t)(infinity - 2));
    assert_int_equal(to(largest + gap / 2), infinity);
    assert_int_equal(to(nextafter(largest + gap / 2, 0)), infinity - 1);
    assert_int_equal(to(1e300), infinity);
    assert_int_equal(to(-INFINITY), 0x8000 | infinity);
}

static void test_conversions(void **state)
{
    (void)state;
    all_small_floats(KS_F16, value_to_half, value_from_half, 0x7c00);
    all_small_floats(KS_BF16, value_to_bfloat, value_from_bfloat, 0x7f80);
    assert_true(value_from_half(0x3c00) == 1.0 && value_from_half(0x7bff) == 65504.0);
    assert_true(value_from_half(0x0001) == 0x1p-24 && value_from_half(0x0400) == 0x1p-14);
    assert_true(value_from_bfloat(0x3f80) == 1.0 && value_from_bfloat(0x0001) == 0x1p-133);
}

/* ---- generator ---- */

static void test_random_problems(void **state)
{
    const problem_bounds bounds = {.lo = {.b = 2},
                                   .hi = {.a = 8, .b = 300, .c = 300, .d = 64, .batch = 512},
                                   .types = 1u << KS_BF16 | 1u << KS_F64,
                                   .layouts = 1u << KS_BATCH_LAST,
                                   .flops_max = 1e7,
                                   .bytes_max = 1e6,
                                   .awkward = 0.4};
    rng r = rng_make(1, 0), again = rng_make(1, 0);
    int ones = 0, evens = 0, largest = 0;
    (void)state;
    for (int draw = 0; draw < 2000; draw++) {
        const ks_problem p = problem_random(&r, &bounds), q = problem_random(&again, &bounds);
        assert_memory_equal(&p, &q, sizeof p);
        assert_in_range(p.a, 1, 8);
        assert_in_range(p.b, 2, 300);
        assert_in_range(p.c, 1, 300);
        assert_in_range(p.d, 1, 64);
        assert_in_range(p.batch, 1, 512);
        assert_true(p.type == KS_BF16 || p.type == KS_F64);
        assert_int_equal(p.layout, KS_BATCH_LAST);
        assert_true(2.0 * (double)(p.batch * p.a * p.b * p.c * p.d) <= 1e7);
        ones += p.c == 1;
        evens += p.c % 2 == 0;
        largest += p.a == 8;
    }
    assert_true(ones > 100 && evens > 300 && largest > 20);

    /* Limits that hardly any draw meets still give a problem within the bounds, and within the limit. */
    const problem_bounds tight = {.hi = {.a = 1000, .b = 1000, .c = 1000, .d = 1000, .batch = 1000}, .flops_max = 8};
    for (int draw = 0; draw < 5; draw++) {
        const ks_problem p = problem_random(&r, &tight);
        assert_in_range(p.batch * p.a * p.b * p.c * p.d, 1, 4);
    }
}

static void test_nasty_problems(void **state)
{
    ks_problem p;
    size_t count = 0;
    (void)state;
    for (; problem_nasty(count, &p); count++) {
        assert_true(p.a >= 1 && p.b >= 1 && p.c >= 1 && p.d >= 1 && p.batch >= 1);
        char text[PROBLEM_TEXT_BYTES];
        const double flops = 2.0 * (double)(p.batch * p.a * p.b * p.c * p.d);
        if (flops > 8e6) fail_msg("%s is %g flops", problem_text(&p, text), flops);
    }
    assert_true(count >= 200);
}

/* A product small enough to be done by hand: a=1, b=2, c=2, d=2, batch=2. */
static void test_reference(void **state)
{
    const double x_first[] = {1, 2, 3, 4, 5, 6, 7, 8};  /* (n, k, l) */
    const double k[] = {1, 10, 100, 1000, 2, 3, 5, -7}; /* (l, j, k) */
    const double y_first[] = {31, 16, 3100, -18, 75, 36, 7500, -26};
    ks_problem p = {.a = 1, .b = 2, .c = 2, .d = 2, .batch = 2, .type = KS_F64, .layout = KS_BATCH_FIRST};
    double y[8], size[8], x_last[8];
    (void)state;
    assert_true(problem_reference(&p, x_first, k, y, size));
    assert_memory_equal(y, y_first, sizeof y);
    assert_true(size[3] == 38 && size[0] == 31);
    for (int n = 0; n < 2; n++) {
        for (int row = 0; row < 4; row++) x_last[row * 2 + n] = x_first[n * 4 + row];
    }
    p.layout = KS_BATCH_LAST;
    assert_true(problem_reference(&p, x_last, k, y, NULL));
    for (int n = 0; n < 2; n++) {
        for (int row = 0; row < 4; row++) assert_true(y[row * 2 + n] == y_first[n * 4 + row]);
    }
    assert_true(problem_reference_at(&p, x_last, k, 1, 0, 1, 1, size) == -26 && size[0] == 86);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_random_problems),
        cmocka_unit_test(test_nasty_problems),
        cmocka_unit_test(test_zones),
        cmocka_unit_test(test_right_kernel_passes),
        cmocka_unit_test(test_faults_are_caught),
    };
    return cmocka_run_group_tests_name("generator", tests, NULL, NULL);
}
