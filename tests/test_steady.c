/* What samples are said to mean, on samples made up: which kernel is faster, and whose the slow runs are. */
#include "measure.h"
#include "steady.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <string.h>

typedef struct made {
    double samples[KS_MAX_SAMPLES];
} made;

/* Close to 1, and `times` as long in the first of every `period` runs; 0: in none. */
static made habit(int period, double times)
{
    made m;
    for (int i = 0; i < KS_MAX_SAMPLES; i++)
        m.samples[i] = (1 + 0.01 * (i % 7)) * (period && i % period == 0 ? times : 1);
    return m;
}

/* Runs that waited for another process: at odd moments, for a long time. */
static void disturb(made *m, int first, int every)
{
    for (int i = first; i < KS_MAX_SAMPLES; i += every) m->samples[i] += 40 + i;
}

static ks_steadiness judge(const made *m, int count, const made *rival, int rival_count)
{
    return ks_samples_steadiness(m->samples, count, rival->samples, rival_count);
}

/* After so many samples of both it is known; KS_MAX_SAMPLES + 1: never. */
static int known_after(const made *m, const made *rival, ks_steadiness *found)
{
    int count = 5;
    while (count <= KS_MAX_SAMPLES && (*found = judge(m, count, rival, count)) == KS_IN_DOUBT) count++;
    return count;
}

static void test_numbers(void **state)
{
    const double samples[] = {5, 1, 3, 2, 30};
    (void)state;
    assert_true(ks_samples_mean(samples, 5) == 8.2);
    assert_true(ks_samples_quantile(samples, 5, 0) == 1 && ks_samples_quantile(samples, 5, 1) == 30);
    assert_true(ks_samples_quantile(samples, 5, 0.5) == 3 && ks_samples_quantile(samples, 4, 0.5) == 2.5);
    assert_true(ks_samples_quantile(samples, 1, 0.75) == 5);
    assert_true(ks_samples_time(samples, 5) == 3 && ks_samples_time(samples, 2) == 1 &&
                ks_samples_time(samples, 1) == 5);
    assert_int_equal(ks_samples_slow(samples, 5), 1);
    assert_int_equal(ks_samples_slow(samples, 4), 0); /* twice the median is not over it */
    assert_true(samples[0] == 5 && samples[4] == 30);
}

static void test_verdict(void **state)
{
    made fast = habit(0, 1), slow = habit(0, 1), even = habit(0, 1);
    (void)state;
    for (int i = 0; i < KS_MAX_SAMPLES; i++) slow.samples[i] *= 1.1, even.samples[i] *= i % 2 ? 1.001 : 0.999;
    assert_string_equal(ks_samples_verdict(fast.samples, slow.samples, 5), "decided");
    assert_string_equal(ks_samples_verdict(fast.samples, even.samples, 5), "tie");
    disturb(&fast, 1, 5); /* not by a hit in five, */
    assert_string_equal(ks_samples_verdict(fast.samples, slow.samples, 25), "decided");
    for (int i = 0; i < KS_MAX_SAMPLES; i++)
        even.samples[i] = i % 2 ? 1.3 : 0.8; /* but where it is now this, now that */
    assert_null(ks_samples_verdict(fast.samples, even.samples, 12));
}

static void test_steady(void **state)
{
    const made calm = habit(0, 1), nearly = habit(5, 1.9);
    made hit = habit(0, 1);
    ks_steadiness found;
    (void)state;
    for (int count = 1; count <= KS_MAX_SAMPLES; count++) {
        assert_int_equal(judge(&calm, count, &calm, 1), KS_STEADY);
        assert_int_equal(judge(&nearly, count, &calm, count), KS_STEADY);
    }
    hit.samples[2] = 300; /* once is doubted, and then no habit */
    assert_int_equal(judge(&hit, 3, &calm, 3), KS_IN_DOUBT);
    assert_int_equal(known_after(&hit, &calm, &found), 20);
    assert_int_equal(found, KS_STEADY);
}

/* A busy machine hits both, at different moments: however often, nobody is condemned. */
static void test_noise(void **state)
{
    (void)state;
    for (int every = 3; every <= 20; every++)
        for (int shift = 0; shift < every; shift++) {
            made one = habit(0, 1), other = habit(0, 1);
            disturb(&one, 0, every);
            disturb(&other, shift, every);
            ks_steadiness found;
            const int after = known_after(&one, &other, &found);
            if (found != KS_STEADY || after > 30) fail_msg("every %d: %d after %d", every, found, after);
        }
}

static void test_unsteady(void **state)
{
    static const struct {
        int period, at_most;
        double times;
    } habits[] = {{3, 12, 20}, {3, 12, 2.5}, {5, 18, 20}, {5, 18, 3}, {6, 20, 10}, {8, 26, 10}};
    const made calm = habit(0, 1);
    made hit = habit(0, 1);
    ks_steadiness found;
    (void)state;
    hit.samples[3] = 100, hit.samples[30] = 100;
    for (size_t i = 0; i < sizeof habits / sizeof *habits; i++) {
        const made m = habit(habits[i].period, habits[i].times);
        int after = known_after(&m, &calm, &found);
        assert_int_equal(found, KS_UNSTEADY);
        assert_in_range(after, 8, habits[i].at_most);
        /* A machine that hits the rival, too, but seldom, hides a frequent habit for longer, not for ever. */
        after = known_after(&m, &hit, &found);
        if (habits[i].period <= 5) assert_int_equal(found, KS_UNSTEADY);
        if (habits[i].period <= 5) assert_in_range(after, 8, 3 * habits[i].at_most);
    }
    const made third = habit(3, 20);
    /* Two that share a habit shield each other: the machine may be to blame. */
    known_after(&third, &third, &found);
    assert_int_equal(found, KS_STEADY);
    /* Slow in every second run, or more often: the median tells, or the count does. */
    const made half = habit(2, 20);
    const double median = ks_samples_quantile(half.samples, 9, 0.5);
    assert_true(median > 10 || judge(&half, 9, &calm, 9) == KS_UNSTEADY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_verdict),  cmocka_unit_test(test_steady),
        cmocka_unit_test(test_noise),   cmocka_unit_test(test_unsteady),
    };
    return cmocka_run_group_tests_name("steady", tests, NULL, NULL);
}
