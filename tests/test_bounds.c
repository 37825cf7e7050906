/* What is promised not to be exceeded: a calibration's time and its memory. (The memo's size is test_advisor's, the store's
 * test_store's.)
 *
 * Time is told by own_clock.h: then a busy machine takes nothing from the budget, and five per cent can be asked for. */
#include "knowledge.h"
#include "measure.h"
#include "memory.h"
#include "own_clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static double live_bytes(void)
{
    if (__sanitizer_get_current_allocated_bytes) return (double)__sanitizer_get_current_allocated_bytes();
    const struct mallinfo2 info = mallinfo2();
    return (double)info.uordblks + (double)info.hblkhd;
}

/* ---- time ------------------------------------------------------------------------------------------------------------- */

static void test_time(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *text = getenv("KS_TEST_BUDGET_S");
    const double budget_s = text && atof(text) > 0 ? atof(text) : 4;
    ks_calibrate_report report;
    ks_device cpu;
    if (__sanitizer_get_current_allocated_bytes) skip(); /* the least that a calibration does takes longer there */
    ks_device_cpu(&cpu);
    ks_device_assume_rates(&cpu); /* measuring them is no part of a budget */
    ks_store *store = opened(path, KS_STORE_WRITE);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    ks_store_close(store);
    own_clock = true;
    const ks_status s =
        ks_calibrate(&(ks_calibrate_options){.store = path, .budget_s = budget_s, .seed = 7}, &report);
    own_clock = false;
    if (s != KS_OK) fail_msg("%s", ks_status_message(s));
    print_message("%g s asked for, %.3f s taken for %d problems\n", budget_s, report.elapsed_s, report.measured);
    assert_in_range(report.count, 2, 2);
    if (report.elapsed_s > 1.05 * budget_s) fail_msg("%g s asked for, %g s taken", budget_s, report.elapsed_s);
}

/* ---- memory ----------------------------------------------------------------------------------------------------------- */

/* This CPU with a small cache: what its measuring takes at least is then known, and small. */
static ks_device small_cache(void)
{
    ks_device device;
    ks_device_cpu(&device);
    device.l2_bytes = device.l3_bytes = 0;
    return device;
}

static ks_status measure(ks_measurer *m, const ks_device *device, const ks_problem *p)
{
    const ks_measure_limits limits = {.min_samples = 3, .max_samples = 3};
    const ks_kernel *kernels[KS_MAX_KERNELS];
    ks_measurement out[KS_MAX_KERNELS];
    const int count = ks_kernels_for(p, device, kernels);
    const ks_status s = ks_measure(m, p, kernels, count, &limits, out, NULL);
    for (int q = 0; s == KS_OK && q < count; q++)
        if (out[q].status != KS_OK && out[q].status != KS_ERR_NO_DATA)
            fail_msg("%s: %s", out[q].kernel, out[q].reason);
    return s;
}

static void test_memory(void **state)
{
    enum { MIB = 1 << 20 };
    const ks_device device = small_cache();
    const ks_measurer_setup setup = {.most_bytes = 100 * MIB};
    /* much of X, much of Y, much of K, and little of anything */
    static const ks_problem problems[] = {{1, 1, 256, 1, 24000, KS_F32, KS_BATCH_FIRST, KS_MATH_F32},
                                          {1, 256, 1, 1, 24000, KS_F32, KS_BATCH_LAST, KS_MATH_F32},
                                          {8, 1024, 1024, 1, 2, KS_F32, KS_BATCH_FIRST, KS_MATH_F32},
                                          {2, 16, 16, 3, 40, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}};
    ks_problem large = problems[0], huge = problems[0];
    ks_measurer *m;
    (void)state;
    large.batch = 60000, huge.batch = INT64_C(1) << 38;
    assert_failure(ks_measurer_open_with(&m, &device, &(ks_measurer_setup){.most_bytes = 60 * MIB}), KS_ERR_MEMORY,
                   "67108864", "cache");
    assert_null(m);
    const double before = live_bytes();
    assert_int_equal(ks_measurer_open_with(&m, &device, &setup), KS_OK);
    for (int i = 0; i < 12; i++) {
        const ks_status s = measure(m, &device, &problems[i % 4]);
        if (s != KS_OK) fail_msg("%s", ks_status_message(s));
        if (live_bytes() - before > 100.5 * MIB) fail_msg("%.0f bytes after problem %d", live_bytes() - before, i);
    }
    assert_failure(measure(m, &device, &large), KS_ERR_MEMORY, "may use", NULL);
    assert_int_equal(measure(m, &device, &problems[3]), KS_OK);
    ks_measurer_close(m);
    /* More than is free is not even tried. */
    ks_device unknown = device;
    unknown.memory_bytes = 0;
    assert_true(ks_memory_left(&unknown) > 0);
    assert_int_equal(ks_measurer_open_with(&m, &unknown, &(ks_measurer_setup){0}), KS_OK);
    assert_failure(measure(m, &unknown, &huge), KS_ERR_MEMORY, "are free", NULL);
    assert_int_equal(measure(m, &unknown, &problems[3]), KS_OK);
    ks_measurer_close(m);
}

int main(void)
{
    setenv("KSAUTO_NUM_THREADS", "1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_time, sandbox_enter, sandbox_leave),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("bounds", tests, NULL, NULL);
}
