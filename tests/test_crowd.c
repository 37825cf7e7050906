/* Many on one store: processes that measure, import, merge their knowledge and advise at once, and readers among them. No error
 * reaches anyone, no row is lost or doubled, and those who read the same store decide alike, run after run, in any number of
 * threads.
 *
 * KS_TEST_CROWD_S: how long the crowd is at work, 2 s by default. Processes are this executable again, since a team of workers
 * does not survive a bare fork. */
#include "csv.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { WRITERS = 16, READERS = 4, SHARED = 64, DECIDED = 400 };

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33};

static ks_problem draw(rng *r)
{
    const problem_bounds bounds = {
        .hi = {.a = 8, .b = 48, .c = 48, .d = 12, .batch = 96}, .flops_max = 4e5, .bytes_max = 2e5, .awkward = 0.4};
    return problem_random(r, &bounds);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A store of this machine with models of all types and layouts, in which two kernels are close: ties, above all. */
static void make_known_store(const char *path)
{
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 3.03e-6}, {"bmm.cpu.permute", KS_BMM, 1e-6}};
    ks_device cpu;
    ks_device_cpu(&cpu);
    ks_store *store = opened(path, KS_STORE_WRITE);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    for (int i = 0; i < KS_NTYPES * KS_NLAYOUTS; i++) {
        ks_model *model = known_model((ks_type)(i / KS_NLAYOUTS), (ks_layout)(i % KS_NLAYOUTS), kernels, 2);
        known_put_model(store, cpu.name, model);
        ks_model_free(model);
    }
    ks_store_close(store);
}

/* ---- what the processes do ------------------------------------------------------------------------------------------- */

/* Row `index` of a writer. Every fourth is the same for all of them. */
static ks_measurement row_of(int writer, int index)
{
    ks_measurement m = measurement(1 + index);
    if (index % 4) m.problem.b = 100 + writer;
    return m;
}

/* Adds one by one, imports in tens, opens anew now and then; returns how many rows it has handed over. */
static int write_on(const char *path, int writer, double until_s)
{
    ks_store *store = NULL;
    ks_measurement rows[10];
    int64_t added;
    int count = 0;
    for (int turn = 0; now_s() < until_s; turn++) {
        if (!store) MUST(ks_store_open(&store, path, KS_STORE_WRITE) == KS_OK);
        for (int i = 0; i < 10; i++) rows[i] = row_of(writer, count + i);
        if (turn % 3 == 0)
            MUST(ks_store_import(store, &(ks_table){rows, 10}, &added) == KS_OK);
        else
            for (int i = 0; i < 10; i++) MUST(ks_store_add(store, &rows[i], NULL) == KS_OK);
        count += 10;
        usleep(5000); /* measuring takes longer still */
        if (turn % 5 == 4) {
            ks_store_close(store);
            store = NULL;
        }
    }
    ks_store_close(store);
    return count;
}

/* Opens contexts, advises and multiplies; every other one measures at first use. */
static int use_on(const char *path, int reader, double until_s)
{
    rng r = rng_make((uint64_t)reader, 1);
    char why[TRIAL_WHY_BYTES];
    int turns = 0;
    for (; turns == 0 || now_s() < until_s; turns++) {
        const ks_options options = {.store = path, .flags = reader % 2 ? KS_MEASURE : 0, .measure_budget_s = 0.01};
        const char *reason;
        ks_context *ctx;
        ks_advice advice;
        MUST(ks_open(&ctx, &options) == KS_OK);
        if (ks_store_status(ctx, &reason) != KS_OK) fprintf(stderr, "%s\n", reason);
        MUST(ks_store_status(ctx, NULL) == KS_OK);
        for (int i = 0; i < 10; i++) {
            const ks_problem p = draw(&r);
            MUST(ks_advise(ctx, &p, &advice) == KS_OK && advice.source <= KS_FROM_MODEL);
            MUST(product_right(ctx, &p, NULL, &r, why));
        }
        ks_close(ctx);
    }
    return turns;
}

/* What a context on that store decides, one name a line. */
static int decide(const char *path, const char *out_path)
{
    const ks_options options = {.store = path};
    ks_context *ctx;
    rng r = rng_make(11, 11);
    FILE *out = fopen(out_path, "w");
    MUST(out && ks_open(&ctx, &options) == KS_OK);
    for (int i = 0; i < DECIDED; i++) {
        const ks_problem p = draw(&r);
        const char *name;
        MUST(ks_choose(ctx, &p, &name) == KS_OK);
        fprintf(out, "%s\n", name);
    }
    ks_close(ctx);
    MUST(fclose(out) == 0);
    return 0;
}

/* This executable as a process of that role; its result goes to `out`. */
static pid_t start(const char *role, const char *path, int number, double until_s, const char *out)
{
    char text[2][32];
    snprintf(text[0], sizeof text[0], "%d", number);
    snprintf(text[1], sizeof text[1], "%.9f", until_s);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/proc/self/exe", "test_crowd", role, path, text[0], text[1], out, (char *)NULL);
        _exit(127);
    }
    return child;
}

static void await(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static int act(char **arguments)
{
    const char *role = arguments[1], *path = arguments[2], *out_path = arguments[5];
    const int number = atoi(arguments[3]);
    const double until_s = strtod(arguments[4], NULL);
    unsetenv("KSAUTO_EXPLAIN");
    if (strcmp(role, "--decide") == 0) return decide(path, out_path);
    const int count = strcmp(role, "--write") == 0 ? write_on(path, number, until_s) : use_on(path, number, until_s);
    file_write(out_path, &count, sizeof count);
    return 0;
}

/* ---- the crowd --------------------------------------------------------------------------------------------------------- */

static bool count_by_hand(void *user, const ks_measurement *m)
{
    *(int *)user +=
        strcmp(m->reason, "tie") == 0; /* as measurement() says; those measured at first use say otherwise */
    return true;
}

static void test_crowd(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *text = getenv("KS_TEST_CROWD_S");
    const double until_s = now_s() + (text && atof(text) > 0 ? atof(text) : 2);
    pid_t children[WRITERS + READERS];
    int most = 0, expected = 0, turns = 0, found = 0;
    char out[WRITERS + READERS][64];
    make_known_store(path);
    for (int i = 0; i < WRITERS + READERS; i++) {
        snprintf(out[i], sizeof out[i], "%s/%d", (const char *)*state, i);
        children[i] = start(i < WRITERS ? "--write" : "--use", path, i, until_s, out[i]);
    }
    for (int i = 0; i < WRITERS + READERS; i++) await(children[i]);
    for (int i = 0; i < WRITERS + READERS; i++) {
        size_t bytes;
        char *told = file_read(out[i], &bytes);
        int value;
        memcpy(&value, told, sizeof value);
        free(told);
        if (i < WRITERS) {
            expected += value - (value + 3) / 4; /* its own rows */
            if (value > most) most = value;
        } else {
            turns += value;
        }
    }
    expected += (most + 3) / 4; /* and those that all have: once */
    ks_store *store = opened(path, KS_STORE_READ);
    assert_sound(store);
    assert_int_equal(ks_store_each(store, NULL, count_by_hand, &found), KS_OK);
    assert_int_equal(found, expected);
    print_message("%d rows by %d writers, %d contexts by %d readers\n", expected, WRITERS, turns, READERS);
    ks_store_close(store);
}

/* ---- deciding alike ---------------------------------------------------------------------------------------------------- */

static void test_processes_decide_alike(void **state)
{
    enum { PROCESSES = 6 };
    const char *path = sandbox_path(state, "s.db");
    char out[PROCESSES][64];
    pid_t children[PROCESSES];
    size_t bytes, kinds = 0;
    make_known_store(path);
    /* Measured, too: within the tie band, and a little outside. */
    ks_store *store = opened(path, KS_STORE_WRITE);
    rng r = rng_make(11, 11); /* as decide's */
    ks_device cpu;
    ks_device_cpu(&cpu);
    for (int i = 0; i < DECIDED / 2; i++) {
        const ks_problem p = draw(&r);
        const double ratio = 1.01 + 0.005 * (i % 5);
        ks_measurement m = known_row(cpu.name, &p, "fused.cpu", KS_FUSED, 1e-4 * ratio);
        known_put_row(store, &m);
        m = known_row(cpu.name, &p, "bmm.cpu.permute", KS_BMM, 1e-4);
        known_put_row(store, &m);
    }
    ks_store_close(store);
    for (int i = 0; i < PROCESSES; i++) {
        snprintf(out[i], sizeof out[i], "%s/%d", (const char *)*state, i);
        children[i] = start("--decide", path, i, 0, out[i]);
    }
    for (int i = 0; i < PROCESSES; i++) await(children[i]);
    char *first = file_read(out[0], &bytes);
    for (int i = 1; i < PROCESSES; i++) file_assert_equal(out[i], first, bytes);
    kinds = (size_t)(strstr(first, "fused") != NULL) + (strstr(first, "bmm") != NULL);
    assert_int_equal(kinds, 2); /* it was a question */
    free(first);
}

typedef struct worker {
    ks_context *ctx;
    const ks_problem *problems;
    const char *const *expected;
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
        if (i % 8 == (int)w->number % 8) w->ok = product_right(w->ctx, &w->problems[index], NULL, &r, w->why);
        if (w->ok)
            w->ok = ks_choose(w->ctx, &w->problems[index], &name) == KS_OK && strcmp(name, w->expected[index]) == 0;
        if (!w->ok && !*w->why) snprintf(w->why, sizeof w->why, "%s, not %s", name, w->expected[index]);
    }
    return NULL;
}

/* 64 threads on one context, on problems known and new, decide as one thread alone. */
static void test_threads_decide_alike(void **state)
{
    enum { THREADS = 64 };
    const char *path = sandbox_path(state, "s.db");
    const ks_options options = {.store = path};
    static worker workers[THREADS];
    pthread_t threads[THREADS];
    atomic_int waiting = THREADS;
    ks_problem problems[SHARED];
    const char *expected[SHARED];
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 2);
    make_known_store(path);
    ks_context *alone = context_open(&options), *shared = context_open(&options);
    assert_product(shared, &usual, NULL);
    for (int i = 0; i < SHARED; i++) {
        const char *known;
        problems[i] = draw(&r);
        assert_int_equal(ks_choose(alone, &problems[i], &expected[i]), KS_OK);
        if (i % 2) assert_int_equal(ks_choose(shared, &problems[i], &known), KS_OK); /* before the threads start */
    }
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] = (worker){shared, problems, expected, &waiting, t, false, ""};
        assert_int_equal(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) assert_int_equal(pthread_join(threads[t], NULL), 0);
    for (unsigned t = 0; t < THREADS; t++)
        if (!workers[t].ok) fail_msg("thread %u: %s", t, workers[t].why);
    ks_close(alone);
    ks_close(shared);
}

static int enter(void **state)
{
    unsetenv("KSAUTO_EXPLAIN");
    return sandbox_enter(state);
}

int main(int count, char **arguments)
{
    if (count == 6) return act(arguments);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_threads_decide_alike, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_crowd, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_processes_decide_alike, enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("crowd", tests, NULL, NULL);
}
