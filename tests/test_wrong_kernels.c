/* Kernels that are wrong, crash, end the process, hang, stop early or jump about, in the table beside the real ones: a whole
 * calibration by the command, from the parent process to the stored rows, and what a context then takes. None of them is ever
 * chosen, each has rows that say why, and the calibration comes to its end.
 *
 * Kernels can only be added to the table of a fresh process: the calibrations, and the contexts that choose, run in this
 * executable again. */
#include "apart.h"
#include "cli.h"
#include "knowledge.h"
#include "own_clock.h"
#include "timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* A crash is to be one under AddressSanitizer, too, and not its report and an exit. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "handle_segv=0:handle_abort=0:handle_sigbus=0";
}

static const ks_problem usual = {.a = 2, .b = 16, .c = 16, .d = 3, .batch = 24};

/* ---- the kernels --------------------------------------------------------------------------------------------------------- */

static bool supports_all(const ks_problem *p, const ks_device *device)
{
    (void)p;
    return device->backend == KS_CPU;
}

static size_t right_workspace(const ks_problem *p, const ks_device *device)
{
    return ks_kernel_find("fused.cpu")->workspace_bytes(p, device);
}

/* They promise to be fast: what is not known to be bad would win. */
static void few_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)p, (void)device;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = t == KS_TERM_LAUNCH ? 1e-3 : 0;
}

static ks_status right(const ks_problem *p, const ks_run_args *args)
{
    return ks_kernel_find("fused.cpu")->run(p, args);
}

static ks_status run_wrong(const ks_problem *p, const ks_run_args *args)
{
    memset(args->y, 0, (size_t)ks_y_count(p) * ks_type_bytes(p->type));
    return KS_OK;
}

static ks_status run_crashing(const ks_problem *p, const ks_run_args *args)
{
    if (p->d > 1) raise(SIGSEGV);
    return right(p, args);
}

/* Not when it is checked: the third time that it runs. */
static ks_status run_aborting(const ks_problem *p, const ks_run_args *args)
{
    static int runs;
    if (++runs % 3 == 0) abort();
    return right(p, args);
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

/* Right while it is checked, and gone before the work is done from then on. */
static ks_status run_early(const ks_problem *p, const ks_run_args *args)
{
    static ks_problem last;
    const bool checked = memcmp(&last, p, sizeof last) != 0;
    last = *p;
    return checked ? right(p, args) : KS_OK;
}

/* Right, and by the clock quicker than any other, but in so many runs of so many ten times slower. */
static ks_status run_unstable(const ks_problem *p, const ks_run_args *args, unsigned slow, unsigned of)
{
    static unsigned runs;
    const double start = ks_now_s();
    const ks_status s = right(p, args);
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

static const struct bad {
    const char *name, *reason;
    ks_status (*run)(const ks_problem *, const ks_run_args *);
    ks_status status;
} bad[] = {{"made.wrong", "wrong result", run_wrong, KS_ERR_WRONG_RESULT},
           {"made.crashing", "crashed: Segmentation fault", run_crashing, KS_ERR_INTERNAL},
           {"made.aborting", "crashed: Aborted", run_aborting, KS_ERR_INTERNAL},
           {"made.exiting", "ended the process, exit code 7", run_exiting, KS_ERR_INTERNAL},
           {"made.hanging", "did not return in 0.5 s", run_hanging, KS_ERR_INTERNAL},
           {"made.early", "", run_early, KS_ERR_WRONG_RESULT},
           {"made.mostly-slow", "", run_mostly_slow, KS_OK}, /* the median tells */
           {"made.often-slow", "unsteady", run_often_slow, KS_OK},
           {"made.sometimes-slow", "unsteady", run_sometimes_slow, KS_OK}};
enum { BAD = sizeof bad / sizeof *bad };

static const struct bad *find_bad(const char *name)
{
    for (int i = 0; i < BAD; i++)
        if (strcmp(bad[i].name, name) == 0) return &bad[i];
    return NULL;
}

/* What jumps about is for small problems: the time for a large one does not allow twenty samples of it, and there it would be
 * quicker than can be. */
static bool supports_small(const ks_problem *p, const ks_device *device)
{
    return supports_all(p, device) && ks_problem_flops(p) < 1e7 && ks_problem_bytes(p) < 1e6;
}

/* Adds one for the rest of the process's life. */
static void add_bad(const char *name)
{
    static ks_kernel kernel;
    const struct bad *b = find_bad(name);
    kernel = (ks_kernel){
        name,      KS_FUSED, KS_CPU, 1, b->status == KS_OK ? supports_small : supports_all, right_workspace,
        few_terms, b->run};
    MUST(ks_kernel_add(&kernel) == KS_OK);
    MUST(ks_kernel_find(name) == &kernel && ks_kernel_add(&kernel) == KS_ERR_ARGUMENT);
}

/* ---- what the processes do ----------------------------------------------------------------------------------------------- */

/* Whether a kernel jumps about is asked on a clock on which the machine does not. */
static int calibrate(const char *name, const char *path)
{
    const bool jumps = find_bad(name)->status == KS_OK;
    char *arguments[] = {"calibrate", "--budget", jumps ? "4s" : "3s", "--dtype", "f32", "--layout", "last",
                         "--seed",    "5",        "--alone",           NULL};
    cli c = {.store = path};
    add_bad(name);
    own_clock = jumps;
    MUST(freopen("/dev/null", "w", stdout) != NULL);
    return cmd_calibrate(&c, sizeof arguments / sizeof *arguments - 1, arguments);
}

typedef struct asked {
    ks_context *ctx;
    const char *name;
    int asked, failed, chosen;
} asked;

/* Wherever it failed it is not taken. Where it jumps about it should not be, either. */
static bool ask(void *user, const ks_measurement *m)
{
    asked *a = user;
    const char *kernel;
    if (strcmp(m->kernel, a->name) != 0 || m->problem.layout != KS_BATCH_LAST) return true;
    MUST(ks_choose(a->ctx, &m->problem, &kernel) == KS_OK);
    if (m->status == KS_OK && find_bad(a->name)->status != KS_OK) return true;
    a->asked++, a->failed += m->status != KS_OK, a->chosen += strcmp(kernel, a->name) == 0;
    return true;
}

/* Nor is it on problems that nobody has measured. What jumps about is allowed one in eight: its rival, too, may be disturbed in
 * several runs, and be no better by what was seen. Going by medians it is taken on a third of all problems. */
static int choose(const char *name, const char *path)
{
    const problem_bounds bounds = {.lo = {.d = 2},
                                   .hi = {.a = 8, .b = 64, .c = 64, .d = 8, .batch = 512},
                                   .types = 1u << KS_F32,
                                   .layouts = 1u << KS_BATCH_LAST,
                                   .flops_max = 1e7};
    const ks_options options = {.store = path};
    rng r = rng_make(3, 3);
    char why[TRIAL_WHY_BYTES];
    ks_store *store;
    asked a = {.name = name};
    add_bad(name);
    MUST(ks_open(&a.ctx, &options) == KS_OK);
    MUST(ks_store_open(&store, path, KS_STORE_READ) == KS_OK);
    MUST(ks_store_each(store, NULL, ask, &a) == KS_OK);
    for (int i = 0; i < 60; i++) {
        const ks_problem p = problem_random(&r, &bounds);
        const char *kernel;
        MUST(ks_choose(a.ctx, &p, &kernel) == KS_OK);
        a.asked++, a.chosen += strcmp(kernel, name) == 0;
        MUST(product_right(a.ctx, &p, NULL, &r, why));
    }
    ks_store_close(store);
    ks_close(a.ctx);
    fprintf(stderr, "%s: failed on %d problems, chosen on %d of %d\n", name, a.failed, a.chosen, a.asked);
    return a.chosen > (find_bad(name)->status == KS_OK ? a.asked / 8 : 0);
}

static int run_self(const char *role, const char *name, const char *path)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_wrong_kernels", role, name, path, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- a calibration with each --------------------------------------------------------------------------------------------- */

typedef struct findings {
    const struct bad *bad;
    int failures, others, repeated, told;
    ks_problem failed[64];
} findings;

static bool find(void *user, const ks_measurement *m)
{
    findings *f = user;
    if (strcmp(m->kernel, f->bad->name) != 0) {
        f->others += m->status == KS_OK;
        return true;
    }
    f->told += m->status == KS_OK && strstr(m->reason, f->bad->reason);
    if (m->status == KS_OK) return true;
    assert_int_equal(m->status, f->bad->status);
    if (!strstr(m->reason, f->bad->reason)) fail_msg("%s: %s", m->kernel, m->reason);
    assert_true(isnan(m->time_s) && *m->reason);
    for (int i = 0; i < f->failures; i++) f->repeated += memcmp(&f->failed[i], &m->problem, sizeof m->problem) == 0;
    assert_in_range(f->failures, 0, 63);
    f->failed[f->failures++] = m->problem;
    return true;
}

/* Rates take seconds to measure. */
static void make_rated_store(const char *path)
{
    ks_device cpu;
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_device_cpu(&cpu);
    ks_device_assume_rates(&cpu);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    ks_store_close(store);
}

static void calibrate_with(void **state, const char *name)
{
    const char *path = sandbox_path(state, "s.db");
    findings f = {.bad = find_bad(name)};
    make_rated_store(path);
    assert_int_equal(run_self("--calibrate", name, path), 0);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_sound(store);
    assert_int_equal(ks_store_each(store, NULL, find, &f), KS_OK);
    ks_store_close(store);
    assert_int_equal(f.failures > 0, f.bad->status != KS_OK);
    assert_int_equal(f.told > 0, f.bad->status == KS_OK);
    assert_int_equal(f.repeated, 0);
    assert_true(f.others > 16);
    assert_int_equal(run_self("--choose", name, path), 0);
}

static void test_wrong(void **state)
{
    calibrate_with(state, "made.wrong");
}

static void test_crashing(void **state)
{
    calibrate_with(state, "made.crashing");
}

static void test_aborting(void **state)
{
    calibrate_with(state, "made.aborting");
}

static void test_exiting(void **state)
{
    calibrate_with(state, "made.exiting");
}

static void test_early(void **state)
{
    calibrate_with(state, "made.early");
}

static void test_mostly_slow(void **state)
{
    calibrate_with(state, "made.mostly-slow");
}

static void test_often_slow(void **state)
{
    calibrate_with(state, "made.often-slow");
}

static void test_sometimes_slow(void **state)
{
    calibrate_with(state, "made.sometimes-slow");
}

/* ---- the child process alone ----------------------------------------------------------------------------------------------- */

static void run_noted(apart_note *note, const char *name)
{
    const ks_run_args args = {0};
    ks_measurement m = {.problem = usual, .kernel_version = 1};
    signal(SIGSEGV, SIG_DFL); /* cmocka catches it */
    snprintf(m.kernel, sizeof m.kernel, "%s", name);
    apart_running(note, &m);
    find_bad(name)->run(&usual, &args);
}

static void test_apart(void **state)
{
    static const char *const ends[] = {"made.crashing", "made.exiting", "made.hanging"};
    apart_note *note = apart_open();
    int code;
    (void)state;
    assert_non_null(note);
    for (int i = 0; i < 3; i++) {
        const apart_end end = apart_run(note, 0.5, &code);
        if (end == APART_CHILD) run_noted(note, ends[i]);
        assert_int_equal(end, APART_CRASHED);
        assert_int_equal(note->running.status, find_bad(ends[i])->status);
        assert_string_equal(note->running.kernel, ends[i]);
        assert_string_equal(note->running.reason, find_bad(ends[i])->reason);
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

int main(int count, char **arguments)
{
    setenv("KSAUTO_NUM_THREADS", "1", 1); /* see own_clock.h */
    if (count == 4 && strcmp(arguments[1], "--calibrate") == 0) return calibrate(arguments[2], arguments[3]);
    if (count == 4 && strcmp(arguments[1], "--choose") == 0) return choose(arguments[2], arguments[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_apart),
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
