/* Kernels that are wrong, crash, end the process, hang, stop early or jump about, in the table beside the real ones (made.h), on
 * the CPU; and what a store makes of failures. */
#include "apart.h"
#include "failures.h"
#include "measure.h"
#include "knowledge.h"
#include "made.h"
#include "own_clock.h"
#include "steady.h"
#include "timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* A crash is to be one under AddressSanitizer, too, and not its report and an exit. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "handle_segv=0:handle_abort=0:handle_sigbus=0";
}

static const ks_problem usual = {.a = 2, .b = 16, .c = 16, .d = 3, .batch = 24};

/* ---- the kernels --------------------------------------------------------------------------------------------------------- */

static ks_status run_wrong(const ks_problem *p, const ks_run_args *args)
{
    memset(args->y, 0, (size_t)ks_y_count(p) * ks_type_bytes(p->type));
    return KS_OK;
}

static ks_status run_crashing(const ks_problem *p, const ks_run_args *args)
{
    if (p->d > 1) raise(SIGSEGV);
    return made_right(p, args);
}

/* Not when it is checked: the third time that it runs. */
static ks_status run_aborting(const ks_problem *p, const ks_run_args *args)
{
    static int runs;
    if (++runs % 3 == 0) abort();
    return made_right(p, args);
}

static ks_status run_exiting(const ks_problem *p, const ks_run_args *args)
{
    (void)p, (void)args;
    _exit(7);
}

static ks_status run_hanging(const ks_problem *p, const ks_run_args *args)
{
    (void)p, (void)args;
    while (pause() != 0) continue;
    return KS_OK;
}

/* Right, and by the clock quicker than any other, but in so many runs of so many ten times slower. */
static ks_status run_unstable(const ks_problem *p, const ks_run_args *args, unsigned slow, unsigned of)
{
    static unsigned runs;
    const double start = ks_now_s();
    const ks_status s = made_right(p, args);
    own_clock_ahead_s += (ks_now_s() - start) * (runs++ % of < slow ? 4 : -0.5);
    return s;
}

static ks_status run_mostly_slow(const ks_problem *p, const ks_run_args *args)
{
    return run_unstable(p, args, 2, 3);
}

static ks_status run_often_slow(const ks_problem *p, const ks_run_args *args)
{
    return run_unstable(p, args, 1, 3);
}

static ks_status run_sometimes_slow(const ks_problem *p, const ks_run_args *args)
{
    return run_unstable(p, args, 1, 5);
}

/* What jumps about is for small problems: the time for a large one does not allow twenty samples of it, and there it would be
 * quicker than can be. */
static bool is_small(const ks_problem *p, const ks_device *device)
{
    (void)device;
    return ks_problem_flops(p) < 1e7 && ks_problem_bytes(p) < 1e6;
}

static const made_kernel made[] = {
    {"made.wrong", "wrong result", KS_ERR_WRONG_RESULT, KS_FUSED, NULL, run_wrong},
    {"made.crashing", "crashed: Segmentation fault", KS_ERR_INTERNAL, KS_FUSED, NULL, run_crashing},
    {"made.aborting", "crashed: Aborted", KS_ERR_INTERNAL, KS_FUSED, NULL, run_aborting},
    {"made.exiting", "ended the process, exit code 7", KS_ERR_INTERNAL, KS_FUSED, NULL, run_exiting},
    {"made.early", "", KS_ERR_WRONG_RESULT, KS_FUSED, NULL, made_early},
    {"made.mostly-slow", "", KS_OK, KS_FUSED, is_small, run_mostly_slow}, /* the median tells */
    {"made.often-slow", "unsteady", KS_OK, KS_FUSED, is_small, run_often_slow},
    {"made.sometimes-slow", "unsteady", KS_OK, KS_FUSED, is_small, run_sometimes_slow}};

/* Whether a kernel jumps about is asked on a clock on which the machine does not. */
static void choose_clock(const made_kernel *own)
{
    own_clock = own->status == KS_OK;
}

static const made_set set = {.kernels = made,
                             .count = sizeof made / sizeof *made,
                             .device = "cpu",
                             .like = "bmm.cpu.strided", /* the quickest of batch-last under sanitizers, too */
                             .type = KS_F32,
                             .layout = KS_BATCH_LAST,
                             .budget = "3s",
                             .budget_unfailing = "4s",
                             .rated = true,
                             .prepare = choose_clock};

/* ---- a calibration with each --------------------------------------------------------------------------------------------- */

static void test_wrong(void **state)
{
    made_calibrate(state, "made.wrong");
}

static void test_crashing(void **state)
{
    made_calibrate(state, "made.crashing");
}

static void test_aborting(void **state)
{
    made_calibrate(state, "made.aborting");
}

static void test_exiting(void **state)
{
    made_calibrate(state, "made.exiting");
}

static void test_early(void **state)
{
    made_calibrate(state, "made.early");
}

static void test_mostly_slow(void **state)
{
    made_calibrate(state, "made.mostly-slow");
}

static void test_often_slow(void **state)
{
    made_calibrate(state, "made.often-slow");
}

static void test_sometimes_slow(void **state)
{
    made_calibrate(state, "made.sometimes-slow");
}

/* ---- the child process alone ----------------------------------------------------------------------------------------------- */

static const struct end {
    ks_status (*run)(const ks_problem *, const ks_run_args *);
    const char *kernel, *reason;
} ends[] = {{run_crashing, "made.crashing", "crashed: Segmentation fault"},
            {run_exiting, "made.exiting", "ended the process, exit code 7"},
            {run_hanging, "made.hanging", "did not return in 0.5 s"}};

static void run_noted(apart_note *note, const struct end *e)
{
    const ks_run_args args = {0};
    ks_measurement m = {.problem = usual, .kernel_version = 1};
    signal(SIGSEGV, SIG_DFL); /* cmocka catches it */
    snprintf(m.kernel, sizeof m.kernel, "%s", e->kernel);
    apart_running(note, &m);
    e->run(&usual, &args);
}

static void test_apart(void **state)
{
    apart_note *note = apart_open();
    int code;
    (void)state;
    assert_non_null(note);
    for (int i = 0; i < 3; i++) {
        const apart_end end = apart_run(note, 0.5, &code);
        if (end == APART_CHILD) run_noted(note, &ends[i]);
        assert_int_equal(end, APART_CRASHED);
        assert_int_equal(note->running.status, KS_ERR_INTERNAL);
        assert_string_equal(note->running.kernel, ends[i].kernel);
        assert_string_equal(note->running.reason, ends[i].reason);
    }
    /* What people and systems do is no kernel's fault. */
    apart_end end = apart_run(note, 60, &code);
    if (end == APART_CHILD) {
        apart_running(note, &(ks_measurement){.problem = usual});
        raise(SIGKILL);
    }
    assert_int_equal(end, APART_RETURNED);
    assert_int_equal(code, 128 + SIGKILL);
    assert_false(note->returned);
    /* A child that has lost its device, and one that has done its work. */
    end = apart_run(note, 60, &code);
    if (end == APART_CHILD) {
        apart_running(note, &(ks_measurement){.problem = usual});
        note->status = KS_ERR_DEVICE, note->returned = true;
        _exit(1);
    }
    assert_int_equal(end, APART_LOST);
    end = apart_run(note, 60, &code);
    if (end == APART_CHILD) {
        apart_running(note, &(ks_measurement){.problem = usual});
        apart_running(note, NULL);
        note->returned = true;
        _exit(5);
    }
    assert_int_equal(end, APART_RETURNED);
    assert_int_equal(code, 5);
    apart_close(note);
}

/* ---- what a store says of failures ------------------------------------------------------------------------------------------ */

static void put_failure(ks_store *store, ks_problem p, const char *kernel, unsigned version, ks_status status)
{
    ks_device cpu;
    ks_device_cpu(&cpu);
    ks_measurement m = known_row(cpu.name, &p, kernel, KS_FUSED, NAN);
    m.status = status, m.kernel_version = version;
    known_put_row(store, &m);
}

static const char *choice(const char *path, const ks_problem *p)
{
    const char *kernel;
    ks_context *ctx = context_open(&(ks_options){.store = path});
    assert_int_equal(ks_choose(ctx, p, &kernel), KS_OK);
    assert_product(ctx, p, NULL);
    ks_close(ctx);
    return kernel;
}

/* One failure bars a kernel from the problem, three from all of the kind; another version's bar nothing, and a store in which
 * everything has failed is not believed. */
static void test_failures_count(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 1e-6}, {"bmm.cpu.permute", KS_BMM, 1e-3}};
    const unsigned version = ks_kernel_find("fused.cpu")->version;
    ks_problem p = usual, other = usual;
    ks_device cpu;
    ks_device_cpu(&cpu);
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    known_put_model(store, cpu.name, model);
    ks_model_free(model);
    put_failure(store, p, "fused.cpu", version + 1, KS_ERR_WRONG_RESULT);
    put_failure(store, p, "fused.cpu", version, KS_ERR_MEMORY);
    assert_string_equal(choice(path, &p), "fused.cpu");
    put_failure(store, p, "fused.cpu", version, KS_ERR_WRONG_RESULT);
    other.batch++;
    assert_string_not_equal(choice(path, &p), "fused.cpu");
    assert_string_equal(choice(path, &other), "fused.cpu");
    for (p.batch = 2; p.batch < 4; p.batch++) put_failure(store, p, "fused.cpu", version, KS_ERR_INTERNAL);
    assert_string_not_equal(choice(path, &other), "fused.cpu");
    const ks_kernel *all[KS_MAX_KERNELS];
    const int count = ks_kernels_for(&other, &cpu, all);
    for (int q = 0; q < count; q++) put_failure(store, other, all[q]->name, all[q]->version, KS_ERR_WRONG_RESULT);
    assert_string_equal(choice(path, &other), "fused.cpu");
    ks_store_close(store);
}

/* Whether fused.cpu may still run on a fresh problem after it was good on 40 and failed like that on some. */
static bool is_spared(int failed, ks_status status, const char *reason)
{
    const ks_kernel *own = ks_kernel_find("fused.cpu"), *kernels[] = {own};
    ks_failures f = {0};
    ks_problem p = usual;
    ks_device cpu;
    ks_device_cpu(&cpu);
    for (int i = 0; i < 40 + failed; i++) {
        p.batch = i + 1;
        ks_measurement m = known_row(cpu.name, &p, own->name, KS_FUSED, 1e-3);
        m.kernel_version = own->version;
        if (i >= 40) {
            m.status = status;
            snprintf(m.reason, sizeof m.reason, "%s", reason);
        }
        assert_true(ks_failures_see(&f, &m));
    }
    ks_failures_sort(&f);
    p.batch = 1000;
    const bool spared = ks_failures_spare(&f, &p, kernels, 1) == 1;
    ks_failures_free(&f);
    return spared;
}

/* Three wrong results of 43 are those problems' own; what has cost three processes or devices is not let run again. */
static void test_ruinous_failures(void **state)
{
    (void)state;
    assert_true(is_spared(3, KS_ERR_WRONG_RESULT, "wrong result: output 0 is 1, must be 2"));
    assert_true(is_spared(3, KS_ERR_DEVICE, "failed while it was timed"));
    assert_false(is_spared(5, KS_ERR_WRONG_RESULT, "wrong result: output 0 is 1, must be 2"));
    assert_true(is_spared(2, KS_ERR_DEVICE, KS_LOST_DEVICE "an illegal memory access was encountered"));
    assert_false(is_spared(3, KS_ERR_DEVICE, KS_LOST_DEVICE "an illegal memory access was encountered"));
    assert_true(is_spared(2, KS_ERR_INTERNAL, "crashed: Segmentation fault"));
    assert_false(is_spared(3, KS_ERR_INTERNAL, "crashed: Segmentation fault"));
}

/* ---- a machine that is busy for a while ------------------------------------------------------------------------------------ */

static ks_status run_for(const ks_problem *p, const ks_run_args *args, double s)
{
    own_clock_ahead_s += s;
    return ks_kernels()[0]->run(p, args);
}

static ks_status run_calm(const ks_problem *p, const ks_run_args *args)
{
    return run_for(p, args, 0.13);
}

static int held_up_runs; /* how many more are held up, but for two in five */

static ks_status run_held_up(const ks_problem *p, const ks_run_args *args)
{
    return run_for(p, args, held_up_runs-- > 0 && held_up_runs % 5 > 1 ? 0.2 : 0.1);
}

static void no_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)p, (void)device;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 1;
}

static bool any(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return true;
}

static size_t nothing(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return 0;
}

/* Going by one race the quicker kernel would lose. A race is of a look at each kernel, a first run and five samples. */
static void test_held_up(void **state)
{
    const ks_kernel calm = {"made.calm", KS_FUSED, KS_CPU, 1, any, nothing, no_terms, run_calm},
                    quick = {"made.quick", KS_BMM, KS_CPU, 1, any, nothing, no_terms, run_held_up};
    const ks_kernel *kernels[] = {&calm, &quick};
    const ks_measure_limits limits = {.min_samples = 5, .max_samples = 5};
    ks_measurement out[2];
    double raw[2 * KS_MAX_SAMPLES];
    ks_measurer *m;
    ks_device cpu;
    (void)state;
    ks_device_cpu(&cpu);
    own_clock = true;
    assert_int_equal(ks_measurer_open(&m, &cpu), KS_OK);
    for (int turn = 0; turn < 2;
         turn++) { /* for one race; and for good: then nothing can be done, and nobody waits for better */
        held_up_runs = turn ? 1000 : 7;
        assert_int_equal(ks_measure(m, &usual, kernels, 2, &limits, out, raw), KS_OK);
        assert_true(out[1].status == KS_OK && out[1].samples == 5);
        assert_true(turn ? out[1].time_s > 0.19 : out[1].time_s < 0.12);
        assert_true(fabs(ks_samples_quantile(raw + KS_MAX_SAMPLES, 5, 0.5) - out[1].time_s) < 1e-9);
    }
    assert_true(held_up_runs > 1000 - 20);
    ks_measurer_close(m);
    own_clock = false;
}

int main(int count, char **arguments)
{
    setenv("KSAUTO_NUM_THREADS", "1", 1); /* see own_clock.h */
    const int code = made_role(&set, count, arguments);
    if (code >= 0) return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_apart),
        cmocka_unit_test(test_ruinous_failures),
        cmocka_unit_test(test_held_up),
        cmocka_unit_test_setup_teardown(test_failures_count, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_wrong, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_crashing, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_aborting, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_exiting, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_early, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_mostly_slow, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_often_slow, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_sometimes_slow, sandbox_enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("wrong kernels", tests, NULL, NULL);
}
