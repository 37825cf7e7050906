/* A GPU that is lost: after a kernel that went astray or trapped, CUDA does nothing more in this process. Every call of the
 * library that needs the device must then say so, with CUDA's reason, and return; contexts must close and the process end. And
 * what must not come to that: arrays that were freed, or are too short, where that shows before anything is queued.
 *
 * A process has one GPU to lose, so each way is tried in a child, forked before anything of CUDA has run. A child that
 * hangs is killed. Without a GPU the test says so and is skipped (77). */
#include "break_gpu.h"
#include "kernel.h"
#include "memory.h"
#include "stores.h"
#include "trial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77, HANGS_S = 180, CONTEXTS = 3, MEASURED = 3 };

static ks_device gpu;
static break_how how;
static const char *reason; /* CUDA's name for what happened */
static int failures;

/* All calls are made whatever one of them does, so that one run tells everything. */
static void expect(bool right, const char *what, ks_status status)
{
    if (right) return;
    print_error("%s: %s, \"%s\"\n", what, ks_status_name(status), ks_status_message(status));
    failures++;
}

static void expect_lost(const char *what, ks_status status)
{
    expect(status == KS_ERR_DEVICE && strstr(ks_status_message(status), reason) != NULL, what, status);
}

static void lose(unsigned long long wait_ns)
{
    assert_int_equal(break_gpu(how, wait_ns, NULL), cudaSuccess);
}

static ks_context *context(unsigned flags)
{
    const ks_options options = {.device = "cuda:0", .store = "", .flags = flags};
    ks_context *ctx;
    const ks_status status = ks_open(&ctx, &options);
    if (status != KS_OK) fail_msg("ks_open: %s", ks_status_message(status));
    return ctx;
}

static ks_problem small(ks_type type, int64_t batch)
{
    return (ks_problem){.a = 2, .b = 32, .c = 48, .d = 4, .batch = batch, .type = type};
}

static ks_status product(ks_context *ctx, const trial *t, const char *path)
{
    return ks_matmul(ctx, &t->problem, path, t->x.data, t->k.data, t->y.data, NULL);
}

static void assert_product(ks_context *ctx, trial *t, const char *path)
{
    char why[TRIAL_WHY_BYTES];
    assert_true(trial_begin(t));
    const ks_status status = product(ctx, t, path);
    if (status != KS_OK) fail_msg("%s: %s", path, ks_status_message(status));
    if (!trial_end(t, path, why)) fail_msg("%s", why);
}

/* Every kernel, and whatever it keeps from one call to the next, is used before it is lost. */
static void each_kernel(ks_context *ctx, trial *t, bool lost)
{
    const ks_kernel *kernels[KS_MAX_KERNELS];
    const int count = ks_kernels_for(&t->problem, &gpu, kernels);
    for (int q = 0; q < count; q++)
        if (lost)
            expect_lost(kernels[q]->name, product(ctx, t, kernels[q]->name));
        else
            assert_product(ctx, t, kernels[q]->name);
}

/* ---- calls on a lost device ---- */

static ks_status time_nothing(void *user, int index, void *stream)
{
    (void)user, (void)index, (void)stream;
    return KS_OK;
}

/* What measuring and testing are made of. */
static void memory_calls(void *device_memory)
{
    const int64_t start = 0;
    unsigned char bytes[64] = {0};
    void *memory;
    double seconds;
    ks_device_state now;
    expect_lost("wait", ks_device_wait(&gpu));
    expect_lost("alloc", ks_memory_alloc(&gpu, 1 << 20, &memory));
    assert_null(memory);
    expect_lost("put", ks_memory_put(&gpu, device_memory, bytes, sizeof bytes));
    expect_lost("get", ks_memory_get(&gpu, bytes, device_memory, sizeof bytes));
    expect_lost("set", ks_memory_set(&gpu, device_memory, 0, sizeof bytes));
    expect_lost("gather", ks_memory_gather(&gpu, bytes, device_memory, 1, &start, 1, 1, 1));
    expect_lost("randomise", ks_memory_randomise(&gpu, device_memory, sizeof bytes, 1));
    expect_lost("copy", ks_memory_copy_kernel(&gpu, device_memory, (char *)device_memory + 64, 64, NULL));
    expect_lost("time", ks_device_time(&gpu, time_nothing, NULL, 1, &seconds));
    ks_device_state_read(&gpu, &now);
    const ks_status checked = ks_memory_check(&gpu, device_memory, 1, "x");
    expect(checked == KS_OK || checked == KS_ERR_DEVICE, "check", checked);
}

/* What the device is not asked for goes on as ever. */
static void advice(ks_context *ctx, const ks_problem *p)
{
    ks_advice advised;
    const char *kernel, *why;
    size_t bytes;
    ks_status s = ks_advise(ctx, p, &advised);
    expect(s == KS_OK && advised.candidate_count > 0, "ks_advise", s);
    s = ks_choose(ctx, p, &kernel);
    expect(s == KS_OK, "ks_choose", s);
    s = ks_workspace_bytes(ctx, p, "auto", &bytes);
    expect(s == KS_OK, "ks_workspace_bytes", s);
    ks_store_status(ctx, &why);
}

static void products(ks_context *ctx, trial *t)
{
    ks_problem unseen = t->problem;
    unseen.batch--; /* the arrays are large enough for it */
    each_kernel(ctx, t, true);
    expect_lost("auto", product(ctx, t, "auto"));
    expect_lost("fused", product(ctx, t, "fused"));
    expect_lost("an unseen problem", ks_auto_matmul(ctx, &unseen, t->x.data, t->k.data, t->y.data, NULL));
    expect_lost("and again", ks_auto_matmul(ctx, &unseen, t->x.data, t->k.data, t->y.data, NULL));
    expect_lost("ks_workspace_reserve", ks_workspace_reserve(ctx, 1 << 20));
    advice(ctx, &unseen);
}

static void test_calls(void **state)
{
    enum { TRIALS = 2 };
    const ks_options options = {.device = "cuda:0", .store = ""};
    const ks_calibrate_options calibration = {
        .device = "cuda:0", .store = sandbox_path(state, "after.db"), .budget_s = 3, .types = 1u << KS_F32};
    ks_context *contexts[CONTEXTS], *none;
    ks_calibrate_report report;
    trial trials[TRIALS];
    rng r = rng_make(1, 1);
    contexts[0] = context(0), contexts[1] = context(KS_MEASURE);
    setenv("KSAUTO_CHECK", "1", 1);
    contexts[2] = context(0);
    for (int n = 0; n < TRIALS; n++) {
        const ks_problem p = small(n == 0 ? KS_F32 : KS_F16, n == 0 ? 100 : 3000);
        assert_true(trial_make_on(&trials[n], &gpu, &p, TRIAL_PLAIN, &r));
        for (int c = 0; c < CONTEXTS; c++) {
            each_kernel(contexts[c], &trials[n], false);
            assert_product(contexts[c], &trials[n], "auto");
        }
    }

    /* What is queued before the failure shows is accepted, since nobody can know; but it shows at the next wait. */
    lose(50000000);
    const ks_status queued = product(contexts[0], &trials[0], "auto");
    const cudaError_t lost = cudaDeviceSynchronize();
    reason = cudaGetErrorName(lost);
    print_message("queued behind the failure: %s; then %s\n", ks_status_name(queued), reason);
    assert_int_not_equal(lost, cudaSuccess);
    assert_int_not_equal(cudaDeviceSynchronize(), cudaSuccess); /* it stays */
    expect(queued == KS_OK || queued == KS_ERR_DEVICE, "queued", queued);

    for (int c = 0; c < CONTEXTS; c++)
        for (int n = 0; n < TRIALS; n++) products(contexts[c], &trials[n]);
    memory_calls(trials[0].x.zone);
    expect_lost("ks_calibrate", ks_calibrate(&calibration, &report));
    expect_lost("ks_open", ks_open(&none, &options));
    assert_null(none);
    for (int n = 0; n < TRIALS; n++) trial_free(&trials[n]);
    for (int c = 0; c < CONTEXTS; c++) ks_close(contexts[c]);
    assert_int_equal(failures, 0);
}

/* ---- lost in the middle of a calibration ---- */

static bool lose_soon(void *user, const ks_progress *progress)
{
    (void)user;
    if (progress->measured == MEASURED) lose(0);
    return true;
}

static bool see_status(void *user, const ks_measurement *m)
{
    int *lost = user;
    if (m->status == KS_ERR_DEVICE) ++*lost;
    return true;
}

/* It ends at once, with the reason; what was measured is kept, and no kernel is blamed. */
static void test_calibration(void **state)
{
    const char *path = sandbox_path(state, "during.db");
    const ks_calibrate_options options = {.device = "cuda:0",
                                          .store = path,
                                          .budget_s = 60,
                                          .types = 1u << KS_F16,
                                          .layouts = 1u << KS_BATCH_FIRST,
                                          .progress = lose_soon};
    const ks_store_filter all = {0};
    ks_calibrate_report report;
    int blamed = 0;
    const ks_status status = ks_calibrate(&options, &report);
    reason = cudaGetErrorName(cudaDeviceSynchronize());
    print_message("calibration: %s\n", ks_status_message(status));
    expect_lost("ks_calibrate", status);
    assert_int_equal(report.measured, MEASURED);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_true(info_of(store).measurements >= MEASURED);
    assert_int_equal(ks_store_each(store, &all, see_status, &blamed), KS_OK);
    assert_int_equal(blamed, 0);
    ks_store_close(store);
    assert_int_equal(failures, 0);
}

/* ---- arrays that are not what they should be ---- */

static void expect_refused(ks_context *ctx, const ks_problem *p, void *const arrays[3], const char *name)
{
    const ks_status status = ks_auto_matmul(ctx, p, arrays[0], arrays[1], arrays[2], NULL);
    char beginning[8];
    snprintf(beginning, sizeof beginning, "%s (", name);
    expect(status == KS_ERR_ARGUMENT && strstr(ks_status_message(status), beginning) == ks_status_message(status),
           name, status);
}

/* Freed memory, and arrays of 256 GiB in a GPU that has less: they end where nothing is. One that is too short by less may
 * end in what belongs to others, which nobody can tell. */
static void test_arrays(void **state)
{
    enum { PIECE = 24 << 20 };
    static const char *const names[] = {"x", "k", "y"};
    const ks_problem p = small(KS_F32, 256);
    const ks_problem long_x = {.a = 1, .b = 1, .c = (int64_t)1 << 36, .d = 1, .batch = 1, .type = KS_F32},
                     long_k = {.a = 1, .b = 1 << 18, .c = 1 << 18, .d = 1, .batch = 1, .type = KS_F32};
    ks_context *ctx = context(0);
    void *memory, *freed;
    int pageable = 0;
    trial t;
    rng r = rng_make(1, 2);
    (void)state;
    assert_int_equal(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, gpu.index), cudaSuccess);
    if (pageable) {
        print_message("this GPU reads all of the host's memory: nothing can be told of a pointer\n");
        skip();
    }
    assert_int_equal(ks_memory_alloc(&gpu, 3 * PIECE, &memory), KS_OK);
    void *const whole[3] = {(char *)memory + 2 * PIECE, (char *)memory + PIECE, memory}; /* y first: none overlap */
    assert_int_equal(ks_memory_alloc(&gpu, PIECE, &freed), KS_OK);
    ks_memory_free(&gpu, freed);
    for (int n = 0; n < 3; n++) {
        void *arrays[3] = {whole[0], whole[1], whole[2]};
        arrays[n] = freed;
        expect_refused(ctx, &p, arrays, names[n]);
    }
    expect_refused(ctx, &long_x, whole, "x");
    expect_refused(ctx, &long_k, whole, "k");
    assert_int_equal(failures, 0);
    ks_memory_free(&gpu, memory);
    assert_true(trial_make_on(&t, &gpu, &p, TRIAL_PLAIN, &r));
    assert_product(ctx, &t, "auto"); /* nothing has happened to the device */
    trial_free(&t);
    ks_close(ctx);
}

/* An error of the caller's that was never asked for is neither the library's nor cleared by it. (It could be, where both share
 * a CUDA runtime: in a static build.) */
static void test_error_of_others(void **state)
{
    const ks_problem p = small(KS_F16, 300);
    ks_context *ctx = context(0);
    trial t;
    rng r = rng_make(1, 3);
    (void)state;
    assert_true(trial_make_on(&t, &gpu, &p, TRIAL_PLAIN, &r));
    each_kernel(ctx, &t, false); /* what a kernel asks for at its first use is had */
    assert_true(trial_begin(&t));
    assert_int_not_equal(cudaSetDevice(9999), cudaSuccess);
    each_kernel(ctx, &t, false);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidDevice);
    trial_free(&t);
    ks_close(ctx);
}

/* ---- a child for each ---- */

static int in_child(const char *name, const struct CMUnitTest *test)
{
    char group[64];
    alarm(HANGS_S);
    snprintf(group, sizeof group, "gpu_lost: %s", name);
    if (ks_device_cuda(0, &gpu) != KS_OK) {
        printf("skipped: %s\n", ks_status_message(KS_ERR_DEVICE));
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {*test};
    return cmocka_run_group_tests_name(group, tests, NULL, NULL);
}

int main(void)
{
    static const struct {
        const char *name;
        break_how how;
        struct CMUnitTest test;
    } children[] = {
        {"arrays", BREAK_TRAP, cmocka_unit_test(test_arrays)},
        {"others", BREAK_TRAP, cmocka_unit_test(test_error_of_others)},
        {"address", BREAK_WRONG_ADDRESS, cmocka_unit_test_setup_teardown(test_calls, sandbox_enter, sandbox_leave)},
        {"trap", BREAK_TRAP, cmocka_unit_test_setup_teardown(test_calls, sandbox_enter, sandbox_leave)},
        {"calibration", BREAK_WRONG_ADDRESS,
         cmocka_unit_test_setup_teardown(test_calibration, sandbox_enter, sandbox_leave)},
    };
    int worst = 0;
    for (size_t n = 0; n < sizeof children / sizeof *children && worst != SKIPPED; n++) {
        int status;
        fflush(NULL);
        const pid_t child = fork();
        if (child < 0) return perror("fork"), 1;
        how = children[n].how;
        if (child == 0) exit(in_child(children[n].name, &children[n].test));
        if (waitpid(child, &status, 0) != child) return perror("waitpid"), 1;
        if (WIFSIGNALED(status))
            printf("%s: ended by signal %d%s\n", children[n].name, WTERMSIG(status),
                   WTERMSIG(status) == SIGALRM ? ": it hung" : "");
        if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
            worst = SKIPPED;
        else if (status != 0)
            worst = 1;
    }
    return worst;
}
