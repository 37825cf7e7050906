/* Measuring, choosing what to measure, and the whole calibration: with kernels made to fail, runs stopped halfway, processes
 * killed at any instant, and stores that take nothing.
 *
 * One measurer serves all tests (it takes twice the last-level cache and the time to fill it). A calibration that is to be
 * killed runs in a process of its own: this executable again, since a team of workers does not survive a bare fork. */
#include "design.h"
#include "knowledge.h"
#include "measure.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static ks_device cpu;
static ks_measurer *measurer;

static int open_measurer(void **state)
{
    (void)state;
    ks_device_cpu(&cpu);
    return ks_measurer_open(&measurer, &cpu) == KS_OK ? 0 : -1;
}

static int close_measurer(void **state)
{
    (void)state;
    ks_measurer_close(measurer);
    return 0;
}

/* ---- measuring ----------------------------------------------------------------------------------------------------- */

static int fastest(const ks_measurement *out, int count)
{
    int best = 0;
    for (int q = 1; q < count; q++)
        if (out[q].time_s < out[best].time_s) best = q;
    return best;
}

static void test_measure(void **state)
{
    const ks_measure_limits limits = {.min_samples = 4, .max_samples = 9, .max_s = 2};
    (void)state;
    for (int i = 0; i < 2 * KS_NTYPES; i++) {
        const ks_problem p = {.a = 3,
                              .b = 20,
                              .c = 17,
                              .d = i % 3 + 1,
                              .batch = 50,
                              .type = (ks_type)(i / 2),
                              .layout = (ks_layout)(i % 2)};
        const ks_kernel *kernels[KS_MAX_KERNELS];
        ks_measurement out[KS_MAX_KERNELS];
        double raw[KS_MAX_KERNELS * KS_MAX_SAMPLES];
        const int count = ks_kernels_for(&p, &cpu, kernels);
        assert_true(count > 0);
        assert_int_equal(ks_measure(measurer, &p, kernels, count, &limits, out, raw), KS_OK);
        for (int q = 0; q < count; q++) {
            const ks_measurement *m = &out[q];
            double least = INFINITY, most = 0;
            if (m->status != KS_OK) fail_msg("%s: %s", m->kernel, m->reason);
            assert_string_equal(m->kernel, kernels[q]->name);
            assert_string_equal(m->device, cpu.name);
            assert_int_equal(m->kernel_version, kernels[q]->version);
            assert_same_problem(&m->problem, &p);
            /* Far behind: out of the race. More than 9: it was disturbed, and looked at further. */
            assert_in_range(m->samples, q == fastest(out, count) ? 4 : 1, KS_MAX_SAMPLES);
            assert_true(*m->reason && m->time_s > 0 && m->time_s < 1 && m->spread >= 0 && isnan(m->energy_j));
            assert_true(m->measured_at_s > 1.7e9);
            for (int s = 0; s < m->samples; s++) {
                least = fmin(least, raw[q * KS_MAX_SAMPLES + s]);
                most = fmax(most, raw[q * KS_MAX_SAMPLES + s]);
            }
            assert_true(least > 0 && least <= m->time_s && m->time_s <= most);
        }
        assert_true(out[0].samples >= 9 || strcmp(out[0].reason, "sample limit") != 0);
    }
}

static bool supports_all(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return true;
}

static size_t no_workspace(const ks_problem *p, const ks_device *device)
{
    (void)p, (void)device;
    return 0;
}

static void no_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)p, (void)device;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 1;
}

static ks_status run_wrong(const ks_problem *p, const ks_run_args *args)
{
    memset(args->y, 0, (size_t)ks_y_count(p) * ks_type_bytes(p->type));
    return KS_OK;
}

static ks_status run_failing(const ks_problem *p, const ks_run_args *args)
{
    return ks_matmul(NULL, p, "auto", args->x, args->k, args->y, NULL); /* fails, with a message */
}

static ks_status run_nothing(const ks_problem *p, const ks_run_args *args)
{
    (void)p, (void)args;
    return KS_OK;
}

/* Right when it is checked, failing when it is timed. */
static int runs_left;

static ks_status run_tired(const ks_problem *p, const ks_run_args *args)
{
    return runs_left-- > 0 ? ks_kernels()[0]->run(p, args) : KS_ERR_DEVICE;
}

/* Right when it is checked, and gone before the work is done from then on: faster than any. */
static int early_runs;

static ks_status run_early(const ks_problem *p, const ks_run_args *args)
{
    return early_runs++ == 0 ? ks_kernel_find("ref.cpu")->run(p, args) : KS_OK;
}

/* Right, and now and then ten times slower than usual. */
static int odd_runs;

static ks_status run_unstable(const ks_problem *p, const ks_run_args *args)
{
    const ks_kernel *kernel = ks_kernel_find("ref.cpu");
    ks_status s = kernel->run(p, args);
    for (int i = 0; s == KS_OK && odd_runs % 3 == 0 && i < 9; i++) s = kernel->run(p, args);
    odd_runs++;
    return s;
}

static ks_kernel made(const char *name, ks_status (*run)(const ks_problem *, const ks_run_args *))
{
    return (ks_kernel){name, KS_FUSED, KS_CPU, 1, supports_all, no_workspace, no_terms, run};
}

static void test_bad_kernels(void **state)
{
    const ks_problem p = {.a = 2, .b = 16, .c = 16, .d = 2, .batch = 24};
    const ks_kernel wrong = made("made.wrong", run_wrong), failing = made("made.failing", run_failing),
                    nothing = made("made.nothing", run_nothing), tired = made("made.tired", run_tired);
    const ks_kernel *kernels[] = {&wrong, ks_kernel_find("fused.cpu"), &failing, &nothing, &tired};
    ks_measurement out[5];
    (void)state;
    runs_left = 1;
    assert_int_equal(ks_measure(measurer, &p, kernels, 5, NULL, out, NULL), KS_OK);
    const ks_status statuses[] = {KS_ERR_WRONG_RESULT, KS_OK, KS_ERR_ARGUMENT, KS_ERR_WRONG_RESULT, KS_ERR_DEVICE};
    const char *reasons[] = {"wrong result", "", "ctx", "wrong result", "failed"};
    for (int q = 0; q < 5; q++) {
        assert_string_equal(out[q].kernel, kernels[q]->name);
        if (out[q].status != statuses[q]) fail_msg("%s: %s", out[q].kernel, ks_status_name(out[q].status));
        if (!strstr(out[q].reason, reasons[q])) fail_msg("%s: %s", out[q].kernel, out[q].reason);
        assert_int_equal(isnan(out[q].time_s), statuses[q] != KS_OK);
    }
    /* Nobody is right: every kernel says so, and the call has done its work. */
    kernels[1] = &nothing;
    assert_int_equal(ks_measure(measurer, &p, kernels, 4, NULL, out, NULL), KS_OK);
    for (int q = 0; q < 4; q++) assert_true(out[q].status != KS_OK && isnan(out[q].time_s) && *out[q].reason);
}

/* What is fast only while nobody looks does not win; what is unstable says so. */
static void test_deceiving_kernels(void **state)
{
    const ks_problem p = {.a = 2, .b = 32, .c = 32, .d = 4, .batch = 64};
    const ks_kernel early = made("made.early", run_early), unstable = made("made.unstable", run_unstable);
    const ks_kernel *kernels[] = {&early, ks_kernel_find("fused.cpu"), &unstable};
    const ks_measure_limits limits = {.min_samples = 9, .max_samples = 9, .full_race = true};
    ks_measurement out[3];
    (void)state;
    early_runs = odd_runs = 0;
    assert_int_equal(ks_measure(measurer, &p, kernels, 3, &limits, out, NULL), KS_OK);
    assert_int_equal(out[0].status, KS_ERR_WRONG_RESULT);
    assert_true(isnan(out[0].time_s));
    if (!strstr(out[0].reason, "once timed: wrong result")) fail_msg("%s", out[0].reason);
    assert_int_equal(out[1].status, KS_OK);
    assert_true(out[1].time_s > 0);
    assert_int_equal(out[2].status, KS_OK);
    assert_true(out[2].spread > 0.2 && out[2].time_s > out[1].time_s);
}

static void test_too_large(void **state)
{
    const ks_kernel *kernels[] = {ks_kernel_find("fused.cpu")};
    ks_problem p = {.a = 1, .b = 64, .c = 64, .d = 1, .batch = INT64_C(1) << 40};
    ks_measurement out[1];
    (void)state;
    assert_failure(ks_measure(measurer, &p, kernels, 1, NULL, out, NULL), KS_ERR_MEMORY, "bytes", NULL);
    p.batch = 16; /* and the measurer goes on */
    assert_int_equal(ks_measure(measurer, &p, kernels, 1, NULL, out, NULL), KS_OK);
    assert_int_equal(out[0].status, KS_OK);
}

/* ---- the design ---------------------------------------------------------------------------------------------------- */

static int compare_problems(const void *x, const void *y)
{
    const ks_problem *p = x, *q = y;
    const int64_t a[] = {p->a, p->b, p->c, p->d, p->batch}, b[] = {q->a, q->b, q->c, q->d, q->batch};
    for (int i = 0; i < 5; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
}

static ks_design *design_open(double most_s)
{
    ks_design *design;
    ks_device device = cpu;
    ks_device_assume_rates(&device);
    assert_int_equal(ks_design_open(&design, &device, KS_BF16, KS_BATCH_LAST, most_s), KS_OK);
    return design;
}

static void test_design(void **state)
{
    enum { COUNT = 400 };
    static ks_problem spread[COUNT], sorted[COUNT];
    ks_device device = cpu;
    ks_design *design = design_open(5e-3), *resumed = design_open(5e-3);
    uint64_t random = 3;
    int same = 0, plain_a = 0, plain_d = 0;
    (void)state;
    ks_device_assume_rates(&device);
    for (int i = 0; i < COUNT; i++) {
        ks_problem p;
        ks_design_spread(design, &spread[i]);
        ks_design_random(design, &random, &p);
        for (int turn = 0; turn < 2; turn++, p = spread[i]) {
            assert_int_equal(ks_problem_check(&p), KS_OK);
            assert_true(p.type == KS_BF16 && p.layout == KS_BATCH_LAST);
            assert_true(ks_roofline_s(&device, &p) <= 5e-3);
        }
        plain_a += spread[i].a == 1, plain_d += spread[i].d == 1;
    }
    assert_in_range(plain_a, COUNT / 8, COUNT * 3 / 4);
    assert_in_range(plain_d, COUNT / 8, COUNT * 3 / 4);
    memcpy(sorted, spread, sizeof spread);
    qsort(sorted, COUNT, sizeof *sorted, compare_problems);
    for (int i = 1; i < COUNT; i++) same += compare_problems(&sorted[i - 1], &sorted[i]) == 0;
    assert_in_range(same, 0, COUNT / 50); /* points differ; rounded to sizes, few may meet */
    ks_design_skip(resumed, 123);
    for (int i = 123; i < 133; i++) {
        ks_problem p;
        ks_design_spread(resumed, &p);
        assert_same_problem(&p, &spread[i]);
    }
    ks_design_close(design);
    ks_design_close(resumed);
    ks_design_close(NULL);
}

/* Two kernels of equal cost, known at every batch up to 128 and nowhere beyond: that is where to measure. */
static void test_design_prefers_the_unknown(void **state)
{
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 3e-5}, {"bmm.cpu.permute", KS_BMM, 1e-5}};
    ks_model *m = known_model(KS_BF16, KS_BATCH_LAST, kernels, 2); /* permute starts three times */
    ks_design *design = design_open(5e-3);
    int beyond = 0, turns = 0;
    double mean, sum = 0;
    (void)state;
    for (int d = 0; d < KS_MODEL_DIMS + KS_MODEL_OWN; d++) m->length[d] = d == 4 ? 2 : 1e6f;
    m->points = m->problems = 8;
    for (int i = 0; i < 8; i++) m->input[4][i] = (float)i / m->length[4];
    for (int q = 0; q < 2; q++) {
        m->kernel[q].signal = 0.25;
        for (int i = 0; i < 8; i++) m->kernel[q].measured[i] = true;
    }
    assert_int_equal(ks_model_factorise(m), KS_OK);
    for (; turns < 20; turns++) {
        ks_problem p;
        ks_design_next(design, m, &p, &mean);
        assert_int_equal(ks_problem_check(&p), KS_OK);
        beyond += p.batch > 128;
        assert_true(mean > 0 && mean < 1);
        sum += mean;
    }
    assert_in_range(beyond, 19, 20);
    /* Once everything is known there is less to win anywhere. */
    m->points = m->problems = 16;
    for (int i = 8; i < 16; i++) m->input[4][i] = (float)i / m->length[4];
    for (int q = 0; q < 2; q++)
        for (int i = 0; i < 16; i++) m->kernel[q].measured[i] = true;
    assert_int_equal(ks_model_factorise(m), KS_OK);
    ks_problem p;
    ks_design_next(design, m, &p, &mean);
    assert_true(mean < 0.5 * sum / turns);
    ks_design_close(design);
    ks_model_free(m);
}

/* ---- calibrating --------------------------------------------------------------------------------------------------- */

typedef struct watch {
    int calls, stop_at; /* 0: never */
    int first_stored, last_stored, measured;
    bool fitted, accepted;
} watch;

static bool look(void *user, const ks_progress *p)
{
    watch *w = user;
    if (strcmp(p->phase, "measure") == 0 && !w->measured) w->first_stored = p->stored;
    w->measured = p->measured, w->last_stored = p->stored;
    w->fitted |= strcmp(p->phase, "fit") == 0;
    w->accepted |= strcmp(p->phase, "accept") == 0;
    return ++w->calls != w->stop_at;
}

static ks_calibrate_options short_run(const char *path, watch *w)
{
    return (ks_calibrate_options){
        .store = path, .budget_s = 1, .layouts = 1u << KS_BATCH_LAST, .seed = 11, .progress = look, .user = w};
}

static bool count_model(void *user, const ks_model_row *row)
{
    ks_model *m;
    assert_string_equal(row->device, cpu.name);
    assert_int_equal(row->type, KS_F32);
    assert_int_equal(row->layout, KS_BATCH_LAST);
    assert_true(row->rows > 4);
    assert_int_equal(ks_model_parse(row->json, &m), KS_OK);
    ks_model_free(m);
    return ++*(int *)user, true;
}

static int models_of(const char *path)
{
    ks_store *store = opened(path, KS_STORE_READ);
    int count = 0;
    assert_sound(store);
    assert_int_equal(ks_store_each_model(store, NULL, count_model, &count), KS_OK);
    ks_store_close(store);
    return count;
}

static void sleep_s(double s)
{
    struct timespec t = {(time_t)s, (long)(1e9 * (s - floor(s)))};
    nanosleep(&t, NULL);
}

/* A child that calibrates this store, killed after a while. */
static void calibrate_and_kill(const char *path, double after_s)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_calib", "--calibrate", path, (char *)NULL);
        _exit(127);
    }
    int status;
    sleep_s(after_s);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status)); /* it was at work still */
}

static void test_calibrate(void **state)
{
    const char *path = sandbox_path(state, "new/s.db");
    watch w = {0}, second = {0};
    ks_calibrate_options options = short_run(path, &w);
    ks_calibrate_report report;
    ks_status status = ks_calibrate(&options, &report);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    assert_string_equal(report.device, cpu.name);
    assert_true(report.elapsed_s > 0 && report.copy_bytes_per_s > 1e8 && report.gemm_flops_per_s[KS_F32] > 1e7);
    assert_true(report.measured > 0 && w.measured == report.measured);
    assert_int_equal(report.count, 1);
    const ks_acceptance *a = &report.acceptance[0];
    assert_true(a->type == KS_F32 && a->layout == KS_BATCH_LAST);
    assert_true(a->advisor.problems >= 6 && a->measured > 3);
    assert_true(a->advisor.mean >= 0 && a->advisor.max >= a->advisor.p95 && a->advisor.p95 >= a->advisor.median);
    assert_true(a->agreement >= 0 && a->agreement <= 1 && a->always_fused.problems > 0);
    assert_true(w.fitted && w.accepted);
    assert_true(known_count(path) >= report.measured);
    assert_int_equal(models_of(path), 1);

    /* The next run goes on from there, rates and all. */
    const int rows = known_count(path);
    ks_store *store = opened(path, KS_STORE_READ);
    ks_device stored;
    assert_int_equal(ks_store_get_device(store, cpu.name, &stored), KS_OK);
    assert_true(stored.copy_bytes_per_s == report.copy_bytes_per_s);
    ks_store_close(store);
    options.progress = look, options.user = &second;
    options.budget_s = 600; /* it is the watch that ends it: a second may be over after fewer problems than that */
    second.stop_at = 6;
    assert_failure(ks_calibrate(&options, &report), KS_ERR_INTERRUPTED, "stopped", NULL);
    assert_true(second.first_stored > w.last_stored - 3 && second.last_stored > second.first_stored);
    assert_int_equal(report.measured, 6);
    assert_true(known_count(path) > rows);
    assert_int_equal(models_of(path), 1);

    /* Killed at any instant, nothing that was there is lost. */
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 0);
    for (int turn = 0; turn < 6; turn++) {
        const int before = known_count(path);
        calibrate_and_kill(path, 0.1 + 1.2 * rng_unit(&r));
        store = opened(path, KS_STORE_WRITE);
        assert_sound(store);
        ks_store_close(store);
        assert_true(known_count(path) >= before);
        assert_int_equal(models_of(path), 1);
    }
    watch last = {.stop_at = 3};
    options.user = &last;
    assert_int_equal(ks_calibrate(&options, &report), KS_ERR_INTERRUPTED);
    assert_true(last.first_stored >= second.last_stored);
    assert_int_equal(last.calls, 3);

    const ks_options use = {.store = path};
    ks_context *ctx = context_open(&use);
    const ks_problem p = {.a = 2, .b = 30, .c = 30, .d = 2, .batch = 77, .layout = KS_BATCH_LAST};
    ks_advice advice;
    assert_int_equal(ks_advise(ctx, &p, &advice), KS_OK);
    assert_int_equal(advice.source, KS_FROM_MODEL);
    assert_product(ctx, &p, NULL);
    ks_close(ctx);
}

static void test_bad_calibrations(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *folder = sandbox_path(state, "folder"),
               *garbage = sandbox_path(state, "garbage");
    watch w = {.stop_at = 1};
    ks_calibrate_report report;
    static const struct {
        ks_calibrate_options options;
        const char *named;
    } bad[] = {{{.types = 0x10}, "0x10"},           {{.layouts = 0x6}, "0x6"},       {{.budget_s = 1e9}, "1e+09"},
               {{.target_regret = -0.25}, "-0.25"}, {{.target_regret = NAN}, "nan"}, {{.budget_s = INFINITY}, "inf"},
               {{.budget_s = -1.5}, "-1.5"},        {{.budget_s = NAN}, "nan"},      {{.memory_bytes = -5}, "-5"}};
    int failures = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ks_calibrate_options options = bad[i].options;
        w.calls = 0;
        options.store = path, options.progress = look, options.user = &w;
        const ks_status status = ks_calibrate(&options, &report);
        if (status == KS_ERR_ARGUMENT && strstr(ks_status_message(status), bad[i].named)) continue;
        print_error("%s: %s: %s\n", bad[i].named, ks_status_name(status), ks_status_message(status));
        failures++;
    }
    ks_calibrate_options options = short_run(path, &w);
    options.device = "Zx80 nobody has";
    assert_failure(ks_calibrate(&options, &report), KS_ERR_DEVICE, "Zx80 nobody has", NULL);

    options = short_run(folder, &w);
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_failure(ks_calibrate(&options, &report), KS_ERR_STORE, folder, NULL);
    options.store = garbage;
    file_write(garbage, "this is no store, whatever it is called", 39);
    assert_failure(ks_calibrate(&options, &report), KS_ERR_STORE, garbage, NULL);
    file_assert_equal(garbage, "this is no store, whatever it is called", 39);
    options.store = "/proc/nowhere/s.db"; /* where even root writes nothing */
    assert_failure(ks_calibrate(&options, NULL), KS_ERR_STORE, "/proc/nowhere", NULL);
    assert_int_equal(failures, 0);
}

int main(int count, char **arguments)
{
    if (count == 3 && strcmp(arguments[1], "--calibrate") == 0) {
        const ks_calibrate_options options = {.store = arguments[2], .budget_s = 60, .layouts = 1u << KS_BATCH_LAST};
        return (int)ks_calibrate(&options, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measure),
        cmocka_unit_test(test_bad_kernels),
        cmocka_unit_test(test_deceiving_kernels),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_design),
        cmocka_unit_test(test_design_prefers_the_unknown),
        cmocka_unit_test_setup_teardown(test_calibrate, sandbox_enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_bad_calibrations, sandbox_enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("calib", tests, open_measurer, close_measurer);
}
