/* The library as its users meet it: contexts that open whatever the store is like, products that are right on every path,
 * refusals that say what was wrong, and decisions that are the same every time, for every thread, and as advised.
 *
 * Decisions are tested against knowledge made by hand (models of launches alone, rows of our own), so that no test depends
 * on how fast this machine is or on what else it does. An argument is a pattern of tests to run: `test_threads*` is for
 * ThreadSanitizer. */
#include "context.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33, .layout = KS_BATCH_LAST};
static const ks_options no_store = {.store = ""};

/* Nobody's store and nobody's wish for explanations may reach these tests. */
static int enter(void **state)
{
    unsetenv("KSAUTO_EXPLAIN");
    if (sandbox_enter(state) != 0) return -1;
    return setenv("KSAUTO_DB", sandbox_path(state, "default.db"), 1);
}

static const char *cpu_name(void)
{
    static ks_device cpu;
    if (!*cpu.name) ks_device_cpu(&cpu);
    return cpu.name;
}

static ks_advice advice_of(ks_context *ctx, const ks_problem *p)
{
    ks_advice advice;
    ks_status status = ks_advise(ctx, p, &advice);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    return advice;
}

static const char *choice_of(ks_context *ctx, const ks_problem *p)
{
    const char *name;
    ks_status status = ks_choose(ctx, p, &name);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    return name;
}

static ks_problem draw(rng *r)
{
    const problem_bounds bounds = {
        .hi = {.a = 8, .b = 48, .c = 48, .d = 12, .batch = 96}, .flops_max = 4e5, .bytes_max = 2e5, .awkward = 0.4};
    return problem_random(r, &bounds);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static void assert_opens_without(const char *path, const char *named)
{
    const ks_options options = {.store = path};
    ks_context *ctx = context_open(&options);
    const char *why = NULL;
    assert_int_equal(ks_store_status(ctx, &why), KS_ERR_STORE);
    assert_int_equal(ks_store_status(ctx, NULL), KS_ERR_STORE);
    if (!strstr(why, named)) fail_msg("\"%s\" does not name \"%s\"", why, named);
    assert_product(ctx, &usual, NULL);
    assert_true(advice_of(ctx, &usual).source >=
                KS_FROM_SEEDS); /* seeds, where one is near; else the built-in costs */
    ks_close(ctx);
}

static void test_store_trouble(void **state)
{
    const char *garbage = sandbox_path(state, "garbage.db"), *missing = sandbox_path(state, "not/here.db"),
               *folder = sandbox_path(state, "folder"), *newer = sandbox_path(state, "newer.db");
    char text[5000];
    size_t bytes;
    memset(text, 'g', sizeof text);
    file_write(garbage, text, sizeof text);
    assert_int_equal(mkdir(folder, 0700), 0);
    make_store(newer, 1);
    ks_store *store = opened(newer, KS_STORE_WRITE);
    exec(store, "PRAGMA user_version = 1000");
    ks_store_close(store);
    char *before = file_read(newer, &bytes);

    assert_opens_without("", "no store");
    assert_opens_without(missing, missing);
    assert_opens_without(folder, folder);
    assert_opens_without(garbage, garbage);
    assert_opens_without(newer, newer);
    file_assert_equal(garbage, text, sizeof text);
    file_assert_equal(newer, before, bytes);
    assert_int_equal(access(missing, F_OK), -1); /* asking makes no file */
    free(before);

    assert_int_equal(setenv("KSAUTO_DB", garbage, 1), 0);
    assert_opens_without(NULL, garbage);
    const ks_options measuring = {.flags = KS_MEASURE};
    ks_context *ctx = context_open(&measuring);
    assert_product(ctx, &usual, NULL);
    ks_close(ctx);
    file_assert_equal(garbage, text, sizeof text);
}

static void test_good_store(void **state)
{
    const char *path = sandbox_path(state, "default.db"), *why = NULL;
    make_store(path, 2);
    ks_context *ctx = context_open(NULL);
    if (ks_store_status(ctx, &why) != KS_OK) fail_msg("%s", why);
    assert_string_equal(why, "");
    assert_product(ctx, &usual, NULL);
    ks_close(ctx);
    ks_close(NULL);
}

static void test_bad_options(void **state)
{
    (void)state;
    static const struct {
        ks_options options;
        ks_status status;
        const char *named;
    } bad[] = {
        {{.store = "", .device = "Zx80 nobody has"}, KS_ERR_DEVICE, "Zx80 nobody has"},
        {{.store = "", .device = "cuda:9999"}, KS_ERR_DEVICE, "cuda:9999"},
        {{.store = "", .device = "cuda:1x"}, KS_ERR_DEVICE, "cuda:1x"},
        {{.store = "", .device = "cuda:-1"}, KS_ERR_DEVICE, "cuda:-1"},
        {{.store = "", .flags = 0x82}, KS_ERR_ARGUMENT, "0x82"},
        {{.store = "", .objective = (ks_objective)7}, KS_ERR_ARGUMENT, "7"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ks_context *ctx = (ks_context *)1;
        assert_failure(ks_open(&ctx, &bad[i].options), bad[i].status, bad[i].named, NULL);
        assert_null(ctx);
    }
    assert_failure(ks_open(NULL, &no_store), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_store_status(NULL, NULL), KS_ERR_ARGUMENT, "ctx", NULL);
}

/* Where there is no GPU, every door says so, and for the same reason; where there is one, it opens. */
static void test_cuda_or_why_not(void **state)
{
    const char *why = NULL;
    const int count = ks_cuda_count(&why);
    const ks_options first = {.store = "", .device = "cuda:0"}, any = {.store = "", .device = "cuda"};
    ks_device device;
    ks_context *ctx;
    (void)state;
    assert_non_null(why);
    if (count > 0) {
        ctx = context_open(&first);
        assert_true(ctx->here && ctx->device.backend == KS_CUDA && ctx->device.index == 0 && ctx->device.units > 0);
        ks_close(ctx);
        return;
    }
    assert_true(*why);
    assert_failure(ks_open(&ctx, &first), KS_ERR_DEVICE, "cuda:0", why);
    assert_failure(ks_open(&ctx, &any), KS_ERR_DEVICE, "cuda:0", why);
    assert_failure(ks_device_cuda(3, &device), KS_ERR_DEVICE, "cuda:3", why);
    assert_failure(ks_device_find("NVIDIA Nothing", &device), KS_ERR_NO_DATA, "NVIDIA Nothing", NULL);
    assert_int_equal(ks_device_find("cpu", &device), KS_OK);
    assert_int_equal(device.backend, KS_CPU);
}

/* ---- multiplying --------------------------------------------------------------------------------------------------- */

/* On one path: right where a kernel of it supports the problem, else refused with its name. */
static void assert_path(ks_context *ctx, const ks_problem *p, const char *path, bool possible)
{
    static unsigned char arrays[3][1 << 20]; /* room for all that draw() can make */
    size_t bytes;
    if (possible) {
        assert_product(ctx, p, path);
        assert_int_equal(ks_workspace_bytes(ctx, p, path, &bytes), KS_OK);
        return;
    }
    assert_failure(ks_matmul(ctx, p, path, arrays[0], arrays[1], arrays[2], NULL), KS_ERR_UNSUPPORTED, path, NULL);
    assert_failure(ks_workspace_bytes(ctx, p, path, &bytes), KS_ERR_UNSUPPORTED, path, NULL);
}

static void test_products(void **state)
{
    ks_context *ctx = context_open(&no_store);
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 0);
    int refused = 0;
    (void)state;
    for (int index = 0; index < 6 * KS_NTYPES * KS_NLAYOUTS; index++) {
        ks_problem p = draw(&r);
        bool family[KS_NFAMILIES] = {false};
        p.type = (ks_type)(index % KS_NTYPES), p.layout = (ks_layout)(index / KS_NTYPES % KS_NLAYOUTS);
        if (index % 3 == 0) p.d = 1;
        for (const ks_kernel *const *k = ks_kernels(); *k; k++) {
            const bool possible = (*k)->supports(&p, &ctx->device);
            assert_path(ctx, &p, (*k)->name, possible);
            family[(*k)->family] |= possible;
            refused += !possible;
        }
        assert_path(ctx, &p, "auto", true);
        assert_product(ctx, &p, NULL);
        assert_path(ctx, &p, "fused", family[KS_FUSED]);
        assert_path(ctx, &p, "bmm", family[KS_BMM]);
    }
    assert_true(refused > 0); /* the strided kernel cannot do batch-first with d > 1 */
    ks_close(ctx);
}

/* Values that are wrong one at a time; y must stay as it was. */
static void test_refusals(void **state)
{
    const ks_problem good = {.a = 2, .b = 3, .c = 4, .d = 5, .batch = 6};
    float x[240], k[120], y[240], before[240];
    ks_context *ctx = context_open(&no_store);
    ks_problem p = good;
    (void)state;
    for (int i = 0; i < 240; i++) x[i] = y[i] = before[i] = (float)i;
    for (int i = 0; i < 120; i++) k[i] = 1;
    for (int turn = 0; turn < 2; turn++) {
#define REFUSED(status, problem, X, K, Y, part, other)                                                               \
    assert_failure(turn ? ks_matmul(ctx, problem, "fused", X, K, Y, NULL)                                            \
                        : ks_auto_matmul(ctx, problem, X, K, Y, NULL),                                               \
                   status, part, other)
        REFUSED(KS_ERR_ARGUMENT, NULL, x, k, y, "problem", "NULL");
        REFUSED(KS_ERR_ARGUMENT, &good, NULL, k, y, "x", "NULL");
        REFUSED(KS_ERR_ARGUMENT, &good, x, NULL, y, "k", "NULL");
        REFUSED(KS_ERR_ARGUMENT, &good, x, k, NULL, "y", "NULL");
        REFUSED(KS_ERR_ARGUMENT, &good, y, k, y, "overlap", "x");
        REFUSED(KS_ERR_ARGUMENT, &good, y + 60, k, y, "overlap", "x");
        REFUSED(KS_ERR_ARGUMENT, &good, x, y + 179, y, "overlap", "k");
        p = good, p.c = 0;
        REFUSED(KS_ERR_ARGUMENT, &p, x, k, y, "c is 0", NULL);
        p = good, p.batch = -17;
        REFUSED(KS_ERR_ARGUMENT, &p, x, k, y, "batch is -17", NULL);
        p = good, p.type = (ks_type)9;
        REFUSED(KS_ERR_ARGUMENT, &p, x, k, y, "type is 9", NULL);
        p = good, p.layout = (ks_layout)5;
        REFUSED(KS_ERR_ARGUMENT, &p, x, k, y, "layout is 5", NULL);
        p = good, p.batch = INT64_MAX / 2;
        REFUSED(KS_ERR_OVERFLOW, &p, x, k, y, "4611686018427387903", NULL);
    }
    assert_failure(ks_auto_matmul(NULL, &good, x, k, y, NULL), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_matmul(NULL, &good, "auto", x, k, y, NULL), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_matmul(ctx, &good, NULL, x, k, y, NULL), KS_ERR_ARGUMENT, "path", "NULL");
    assert_failure(ks_matmul(ctx, &good, "fsued", x, k, y, NULL), KS_ERR_ARGUMENT, "fsued", "bmm");
    assert_failure(ks_matmul(ctx, &good, "", x, k, y, NULL), KS_ERR_ARGUMENT, "path", NULL);
    assert_memory_equal(y, before, sizeof y);

    ks_advice advice;
    const char *name;
    assert_failure(ks_choose(NULL, &good, &name), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_choose(ctx, NULL, &name), KS_ERR_ARGUMENT, "problem", NULL);
    assert_failure(ks_choose(ctx, &good, NULL), KS_ERR_ARGUMENT, "NULL", NULL);
    assert_failure(ks_advise(NULL, &good, &advice), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_advise(ctx, &p, &advice), KS_ERR_OVERFLOW, "4611686018427387903", NULL);
    assert_failure(ks_advise(ctx, &good, NULL), KS_ERR_ARGUMENT, "advice", NULL);
    ks_close(ctx);
}

static void test_workspaces(void **state)
{
    const ks_problem p = {.a = 4, .b = 48, .c = 48, .d = 4, .batch = 128};
    ks_context *ctx = context_open(&no_store);
    size_t bytes, most = 0;
    (void)state;
    for (const ks_kernel *const *k = ks_kernels(); *k; k++) {
        if (!(*k)->supports(&p, &ctx->device)) continue;
        assert_int_equal(ks_workspace_bytes(ctx, &p, (*k)->name, &bytes), KS_OK);
        assert_int_equal(bytes, (*k)->workspace_bytes(&p, &ctx->device));
        if (bytes > most) most = bytes;
    }
    assert_true(most > 0);
    assert_int_equal(ks_workspace_reserve(ctx, most), KS_OK);
    void *held = atomic_load(&ctx->workspace[0]);
    assert_non_null(held);
    for (const ks_kernel *const *k = ks_kernels(); *k; k++)
        if ((*k)->supports(&p, &ctx->device)) assert_product(ctx, &p, (*k)->name);
    assert_ptr_equal(atomic_load(&ctx->workspace[0]), held); /* the very block, back in its place, */
    assert_null(atomic_load(&ctx->workspace[1]));            /* and no other */
    assert_int_equal(ks_workspace_reserve(ctx, most / 2), KS_OK);
    assert_ptr_equal(atomic_load(&ctx->workspace[0]), held);
    assert_int_equal(ks_workspace_reserve(ctx, 4 * most), KS_OK);
    assert_null(atomic_load(&ctx->workspace[1])); /* the larger one in place of the smaller */
    assert_product(ctx, &p, "bmm");

    assert_failure(ks_workspace_reserve(ctx, SIZE_MAX), KS_ERR_MEMORY, "18446744073709551615", NULL);
    assert_failure(ks_workspace_reserve(NULL, 1), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_workspace_bytes(NULL, &p, "auto", &bytes), KS_ERR_ARGUMENT, "ctx", NULL);
    assert_failure(ks_workspace_bytes(ctx, &p, "auto", NULL), KS_ERR_ARGUMENT, "bytes", NULL);
    assert_failure(ks_workspace_bytes(ctx, NULL, "auto", &bytes), KS_ERR_ARGUMENT, "problem", NULL);
    assert_failure(ks_workspace_bytes(ctx, &p, "bnm", &bytes), KS_ERR_ARGUMENT, "bnm", NULL);
    ks_close(ctx);
}

/* ---- deciding ------------------------------------------------------------------------------------------------------ */

static void assert_sane(const ks_advice *a)
{
    bool found = false;
    assert_in_range(a->candidate_count, 1, KS_MAX_CANDIDATES);
    for (int q = 0; q < a->candidate_count; q++) {
        const ks_candidate *c = &a->candidates[q];
        assert_true(c->time_s > 0 && isfinite(c->time_s));
        assert_true(0 < c->time_lo_s && c->time_lo_s <= c->time_s && c->time_s <= c->time_hi_s);
        assert_true(q == 0 || a->candidates[q - 1].time_s <= c->time_s);
        assert_non_null(ks_kernel_find(c->kernel));
        assert_true(c->family == KS_FUSED || c->family == KS_BMM);
        found |= strcmp(c->kernel, a->kernel) == 0 && c->family == a->path;
    }
    assert_true(found);
    assert_true(a->p_fused_faster >= 0 && a->p_fused_faster <= 1);
    assert_true(a->expected_regret >= 0 && isfinite(a->expected_regret));
    assert_true(a->roofline_s > 0 && a->dense_s >= a->roofline_s && isfinite(a->dense_s));
    assert_string_equal(a->device, cpu_name());
}

static void test_decisions_agree(void **state)
{
    ks_context *one = context_open(&no_store), *other = context_open(&no_store);
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 1);
    (void)state;
    for (int i = 0; i < 500; i++) {
        ks_problem p = draw(&r);
        const ks_advice before = advice_of(one, &p);
        const char *chosen = choice_of(one, &p);
        assert_string_equal(before.kernel, chosen);
        assert_string_equal(advice_of(one, &p).kernel, chosen);
        assert_string_equal(choice_of(one, &p), chosen);
        assert_string_equal(choice_of(other, &p), chosen);
        assert_sane(&before);
        assert_same_problem(&before.problem, &p);
        assert_true(before.source >= KS_FROM_SEEDS);
        assert_int_equal(*before.source_device == '\0', before.source == KS_FROM_COST_MODEL);
        assert_int_equal(before.objective, KS_TIME);
    }
    ks_close(one);
    ks_close(other);
}

static void test_memo_overflow(void **state)
{
    ks_context *ctx = context_open(&no_store);
    (void)state;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 3 * MEMO_SLOTS; i++) {
            const ks_problem p = {.a = 1 + i % 7, .b = 8, .c = 8 + i / 7 % 64, .d = 3, .batch = 1 + i / 448};
            ks_prediction predicted[KS_MAX_KERNELS];
            bool measured;
            const int count = ks_context_predict(ctx, &p, false, predicted, &measured);
            assert_string_equal(choice_of(ctx, &p), predicted[ks_prediction_best(predicted, count)].kernel->name);
            if (i % 999 == 0) assert_product(ctx, &p, NULL);
        }
    ks_close(ctx);
}

/* ---- explaining ---------------------------------------------------------------------------------------------------- */

/* What two problems, three calls each, write on standard error. */
static char *explained(void **state, const ks_options *options)
{
    const char *path = sandbox_path(state, "stderr.txt");
    const ks_problem another = {.a = 2, .b = 9, .c = 9, .d = 1, .batch = 4, .type = KS_BF16};
    size_t bytes;
    ks_context *ctx = context_open(options);
    fflush(stderr);
    const int kept = dup(STDERR_FILENO), file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(kept >= 0 && file >= 0 && dup2(file, STDERR_FILENO) >= 0);
    char why[TRIAL_WHY_BYTES] = "";
    bool right = true;
    rng r = rng_make(1, 1);
    for (int turn = 0; right && turn < 3; turn++)
        right = product_right(ctx, &usual, NULL, &r, why) && product_right(ctx, &another, NULL, &r, why);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(file);
    if (!right) fail_msg("%s", why);
    char *text = file_read(path, &bytes);
    if (*text) {
        char *end = strchr(text, '\n'), *last = strrchr(text, '\n');
        assert_true(end && end != last && last[1] == '\0' && strchr(end + 1, '\n') == last); /* two lines */
        assert_non_null(strstr(text, "(3,24,16,5) batch 33 f32 batch-last"));
        assert_non_null(strstr(end, "(2,9,9,1) batch 4 bf16 batch-first"));
        const char *chosen = strstr(text, choice_of(ctx, &usual));
        assert_true(chosen && chosen < end);
    }
    ks_close(ctx);
    return text;
}

static void test_explain(void **state)
{
    const char *wishes[] = {"1", "0", ""};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(setenv("KSAUTO_EXPLAIN", wishes[i], 1), 0);
        char *text = explained(state, &no_store);
        assert_int_equal(*text != '\0', i == 0);
        free(text);
    }
    /* A problem that is measured at its first use is a new problem, too. */
    const ks_options measuring = {.store = "", .flags = KS_MEASURE};
    assert_int_equal(setenv("KSAUTO_EXPLAIN", "1", 1), 0);
    char *text = explained(state, &measuring);
    assert_int_not_equal(strlen(text), 0);
    free(text);
}

/* ---- threads ------------------------------------------------------------------------------------------------------- */

enum { THREADS = 8, SHARED = 48 };

typedef struct worker {
    ks_context *ctx;
    const ks_problem *problems;
    const char *const *expected; /* NULL: any decision is good */
    atomic_int *waiting;
    unsigned number;
    bool ok;
    char why[TRIAL_WHY_BYTES];
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    rng r = rng_make(w->number, 0);
    atomic_fetch_sub(w->waiting, 1);
    while (atomic_load(w->waiting) > 0) sched_yield();
    w->ok = true;
    for (int i = 0; w->ok && i < SHARED; i++) {
        const int index = (int)(((unsigned)i + w->number / 2 * 12) % SHARED); /* pairs meet on the same problem */
        const char *name = "none";
        w->ok = product_right(w->ctx, &w->problems[index], NULL, &r, w->why);
        if (!w->ok || !w->expected) continue;
        ks_advice advice;
        w->ok = ks_choose(w->ctx, &w->problems[index], &name) == KS_OK && strcmp(name, w->expected[index]) == 0 &&
                ks_advise(w->ctx, &w->problems[index], &advice) == KS_OK &&
                strcmp(advice.kernel, w->expected[index]) == 0;
        if (!w->ok) snprintf(w->why, sizeof w->why, "%s, not %s", name, w->expected[index]);
    }
    return NULL;
}

static void work_at_once(ks_context *ctx, const ks_problem *problems, const char *const *expected)
{
    worker workers[THREADS];
    pthread_t threads[THREADS];
    atomic_int waiting = THREADS;
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] =
            (worker){.ctx = ctx, .problems = problems, .expected = expected, .waiting = &waiting, .number = t};
        assert_int_equal(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) assert_int_equal(pthread_join(threads[t], NULL), 0);
    for (unsigned t = 0; t < THREADS; t++)
        if (!workers[t].ok) fail_msg("thread %u: %s", t, workers[t].why);
}

static void test_threads(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 3e-6}, {"bmm.cpu.permute", KS_BMM, 2e-6}};
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_device here;
    ks_device_cpu(&here);
    assert_int_equal(ks_store_put_device(store, &here), KS_OK);
    for (int t = 0; t < KS_NTYPES; t++) {
        ks_model *model = known_model((ks_type)t, KS_BATCH_FIRST, kernels, 2);
        known_put_model(store, here.name, model);
        ks_model_free(model);
    }
    ks_store_close(store);
    const ks_options options = {.store = path};
    ks_context *alone = context_open(&options), *shared = context_open(&options);
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 2);
    ks_problem problems[SHARED];
    const char *expected[SHARED];
    for (int i = 0; i < SHARED; i++) {
        problems[i] = draw(&r);
        expected[i] = choice_of(alone, &problems[i]);
        if (i % 2) choice_of(shared, &problems[i]); /* known before the threads start */
    }
    work_at_once(shared, problems, expected);
    ks_close(alone);
    ks_close(shared);
}

static void test_threads_measuring(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    const ks_options options = {.store = path, .flags = KS_MEASURE, .measure_budget_s = 1};
    ks_context *ctx = context_open(&options);
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 3);
    ks_problem problems[SHARED];
    for (int i = 0; i < SHARED; i++) problems[i] = draw(&r);
    work_at_once(ctx, problems, NULL);
    ks_close(ctx);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_sound(store);
    assert_true(info_of(store).usable > 0);
    ks_store_close(store);
}

int main(int argc, char **argv)
{
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_store_trouble, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_good_store, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_bad_options, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_cuda_or_why_not, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_products, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_refusals, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_workspaces, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_decisions_agree, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_memo_overflow, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_explain, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_threads, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_threads_measuring, enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("advisor", tests, NULL, NULL);
}
