/* Kernels that lose the device, without a GPU: on a CPU that can be lost (lost_cpu.h). A whole calibration by the command (made.h),
 * and ks_calibrate by itself. That a GPU is lost in the same way is test_gpu_wrong's. */
#include "lost_cpu.h"
#include "made.h"
#include "stores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

/* What the nth run, and every nth from then on, does to the device; other runs do their work. */
static ks_status lose(const ks_problem *p, const ks_run_args *args, int nth)
{
    static int runs;
    if (cpu_is_lost || ++runs % nth == 0) {
        cpu_is_lost = true;
        return KS_ERR_DEVICE;
    }
    return made_right(p, args);
}

static ks_status run_lost_at_once(const ks_problem *p, const ks_run_args *args)
{
    return lose(p, args, 1);
}

/* As its first run is timed, to see how many make a sample (a CPU's first of all may do). */
static ks_status run_lost_soon(const ks_problem *p, const ks_run_args *args)
{
    return lose(p, args, 2);
}

static ks_status run_lost_later(const ks_problem *p, const ks_run_args *args)
{
    return lose(p, args, 40);
}

static const made_kernel made[] = {
    {"made.lost-at-once", "lost the device: the test has broken it", KS_ERR_DEVICE, KS_FUSED, NULL, run_lost_at_once},
    {"made.lost-soon", "lost the device: the test has broken it", KS_ERR_DEVICE, KS_FUSED, NULL, run_lost_soon},
    {"made.lost-later", "lost the device: the test has broken it", KS_ERR_DEVICE, KS_FUSED, NULL, run_lost_later}};

static const made_set set = {.kernels = made,
                             .count = sizeof made / sizeof *made,
                             .device = "cpu",
                             .like = "fused.cpu",
                             .type = KS_F32,
                             .layout = KS_BATCH_LAST,
                             .budget = "3s",
                             .rated = true};

static void test_at_once(void **state)
{
    made_calibrate(state, "made.lost-at-once");
}

static void test_soon(void **state)
{
    made_calibrate(state, "made.lost-soon");
}

static void test_later(void **state)
{
    made_calibrate(state, "made.lost-later");
}

/* The kernel that a device's rates are measured with may be the one: then ks_calibrate, too, keeps its row. */
static int calibrate_unrated(const char *name, const char *path)
{
    const ks_calibrate_options options = {.store = path, .budget_s = 3, .types = 1u << KS_F32};
    char to_whom[128];
    made_add(name);
    snprintf(to_whom, sizeof to_whom, "was lost to %s: the test has broken it", name);
    return ks_calibrate(&options, NULL) != KS_ERR_DEVICE || !strstr(ks_status_message(KS_ERR_DEVICE), to_whom);
}

static void test_rates(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    seen s = {0};
    assert_int_equal(made_run_self("--unrated", "made.lost-at-once", path), 0);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    ks_store_close(store);
    assert_int_equal(s.count, 1);
    assert_string_equal(s.rows[0].kernel, "made.lost-at-once");
    assert_int_equal(s.rows[0].status, KS_ERR_DEVICE);
    assert_string_equal(s.rows[0].reason, "lost the device: the test has broken it");
}

int main(int count, char **arguments)
{
    const int code = made_role(&set, count, arguments);
    if (code >= 0) return code;
    if (count == 4 && strcmp(arguments[1], "--unrated") == 0) return calibrate_unrated(arguments[2], arguments[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_at_once, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_soon, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_later, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_rates, sandbox_enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("lost", tests, NULL, NULL);
}
