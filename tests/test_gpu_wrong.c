/* Kernels that are wrong, stop early, or cost the process its GPU, in the table beside the real ones (made.h): whole calibrations
 * of a GPU by the command. And a kernel that never ends, in a child process that is given up. Without a GPU the test says so and is
 * skipped (77).
 *
 * This process must not start CUDA, for its children could not: they alone look for the GPU. */
#include "apart.h"
#include "break_gpu.h"
#include "device.h"
#include "made.h"
#include "memory.h"
#include "sandbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SKIPPED = 77 };

/* ---- the kernels ---- */

/* Nothing is queued, and y stays what it was. */
static ks_status run_nothing(const ks_problem *p, const ks_run_args *args)
{
    (void)p, (void)args;
    return KS_OK;
}

/* The nth run, and every nth from then on, breaks the GPU. As always with one, the call itself knows nothing of it. */
static ks_status run_broken(const ks_problem *p, const ks_run_args *args, break_how how, int nth)
{
    static int runs;
    if (++runs % nth == 0) return break_gpu(how, 0, args->stream) == 0 ? KS_OK : KS_ERR_DEVICE;
    return made_right(p, args);
}

static ks_status run_trap_at_once(const ks_problem *p, const ks_run_args *args)
{
    return run_broken(p, args, BREAK_TRAP, 1);
}

/* When its first timed run tells how many make a sample. */
static ks_status run_address_soon(const ks_problem *p, const ks_run_args *args)
{
    return run_broken(p, args, BREAK_WRONG_ADDRESS, 2);
}

static ks_status run_address_later(const ks_problem *p, const ks_run_args *args)
{
    return run_broken(p, args, BREAK_WRONG_ADDRESS, 100);
}

/* What a GPU's rates are measured on, before anything else. */
static bool is_dense(const ks_problem *p, const ks_device *device)
{
    (void)device;
    return p->a * p->d == 1 && p->b >= 4096 && p->c >= 4096 && p->batch >= 4096;
}

static const made_kernel made[] = {
    {"made.nothing", "wrong result", KS_ERR_WRONG_RESULT, KS_FUSED, NULL, run_nothing},
    {"made.early", "once timed: wrong result", KS_ERR_WRONG_RESULT, KS_FUSED, NULL, made_early},
    {"made.trap", "lost the device", KS_ERR_DEVICE, KS_FUSED, NULL, run_trap_at_once},
    {"made.address", "lost the device", KS_ERR_DEVICE, KS_FUSED, NULL, run_address_soon},
    {"made.late-address", "lost the device", KS_ERR_DEVICE, KS_FUSED, NULL, run_address_later},
    {"made.trap-of-rates", "lost the device", KS_ERR_DEVICE, KS_BMM, is_dense, run_trap_at_once}};

static const made_set set = {.kernels = made,
                             .count = sizeof made / sizeof *made,
                             .device = "cuda:0",
                             .like = "fused.cuda.simt",
                             .type = KS_F16,
                             .layout = KS_BATCH_FIRST,
                             .budget = "5s"};

static void test_nothing(void **state)
{
    made_calibrate(state, "made.nothing");
}

static void test_early(void **state)
{
    made_calibrate(state, "made.early");
}

static void test_trap(void **state)
{
    made_calibrate(state, "made.trap");
}

static void test_address(void **state)
{
    made_calibrate(state, "made.address");
}

static void test_late_address(void **state)
{
    made_calibrate(state, "made.late-address");
}

static void test_trap_of_rates(void **state)
{
    made_calibrate(state, "made.trap-of-rates");
}

/* ---- a kernel that never ends ---- */

/* The child's whole life. */
static void work(apart_note *note, bool endlessly)
{
    static const unsigned long long for_ever_ns = 1ull << 62;
    ks_device gpu;
    void *memory;
    if (ks_device_cuda(0, &gpu) != KS_OK || ks_memory_alloc(&gpu, 1 << 20, &memory) != KS_OK) _exit(2);
    apart_running(note, &(ks_measurement){.kernel = "made.endless"});
    if (endlessly && break_gpu(BREAK_TRAP, for_ever_ns, NULL) != 0) _exit(3);
    const bool worked = ks_memory_set(&gpu, memory, 1, 1 << 20) == KS_OK && ks_device_wait(&gpu) == KS_OK;
    apart_running(note, NULL);
    note->returned = true;
    _exit(worked ? 0 : 4);
}

/* It is given up, with its reason, and the GPU is there for the next child. */
static void test_endless(void **state)
{
    apart_note *note = apart_open();
    int code;
    (void)state;
    assert_non_null(note);
    for (int turn = 0; turn < 2; turn++) {
        const apart_end end = apart_run(note, turn == 0 ? 5 : 60, &code);
        if (end == APART_CHILD) work(note, turn == 0);
        assert_int_equal(end, turn == 0 ? APART_CRASHED : APART_RETURNED);
        if (turn == 0) assert_string_equal(note->running.reason, "did not return in 5 s");
    }
    assert_int_equal(code, 0);
    apart_close(note);
}

/* ---- */

static int look_for_gpu(void)
{
    ks_device gpu;
    if (ks_device_cuda(0, &gpu) == KS_OK) return 0;
    printf("skipped: %s\n", ks_status_message(KS_ERR_DEVICE));
    return SKIPPED;
}

int main(int count, char **arguments)
{
    int code = made_role(&set, count, arguments);
    if (code >= 0) return code;
    if (count == 4 && strcmp(arguments[1], "--look") == 0) return look_for_gpu();
    code = made_run_self("--look", "", "");
    if (code != 0) return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_early, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_trap, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_address, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_late_address, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_trap_of_rates, sandbox_enter, sandbox_leave),
        cmocka_unit_test(test_endless),
    };
    return cmocka_run_group_tests_name("wrong kernels on a GPU", tests, NULL, NULL);
}
