/* Many threads on the kernels at once, each with problems of its own: the team of workers belongs to one caller at a
 * time, and whoever finds it busy must compute alone and be right all the same. Meant for ThreadSanitizer, and worth
 * running without it. KS_TEST_SEED as in test_kernels.c. */
#include "trial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 8, PROBLEMS = 24 };

typedef struct worker {
    uint64_t seed;
    unsigned number;
    const ks_device *device;
    atomic_int *waiting;
    bool ok;
    char why[TRIAL_WHY_BYTES];
} worker;

/* Threads start a few microseconds apart, and a small problem takes no longer than that: without a common start the
 * first one would be done before the last one runs. */
static void start_together(atomic_int *waiting)
{
    atomic_fetch_sub(waiting, 1);
    while (atomic_load(waiting) > 0) sched_yield();
}

/* Even-numbered threads bring problems worth a team, odd ones tiny ones. */
static ks_problem draw(rng *r, unsigned number)
{
    const problem_bounds large = {.lo = {.a = 1, .b = 16, .c = 16, .d = 1, .batch = 64},
                                  .hi = {.a = 8, .b = 128, .c = 128, .d = 16, .batch = 512},
                                  .flops_max = 3e6,
                                  .bytes_max = 1e6,
                                  .awkward = 0.5};
    const problem_bounds small = {.hi = {.a = 8, .b = 32, .c = 32, .d = 8, .batch = 32}, .flops_max = 1e5};
    return problem_random(r, number % 2 == 0 ? &large : &small);
}

static void *work(void *arg)
{
    worker *w = arg;
    rng r = rng_make(w->seed, w->number);
    start_together(w->waiting);
    for (int index = 0; w->ok && index < PROBLEMS; index++) {
        const ks_problem problem = draw(&r, w->number);
        trial t;
        if (!trial_make(&t, &problem, TRIAL_PLAIN, &r)) {
            snprintf(w->why, sizeof w->why, "no memory");
            w->ok = false;
            break;
        }
        for (size_t row = 0; w->ok && ks_kernels()[row] != NULL; row++) {
            const ks_kernel *kernel = ks_kernels()[row];
            if (kernel->backend == KS_CPU && kernel->supports(&problem, w->device))
                w->ok = trial_run(&t, kernel, w->device, w->why);
        }
        trial_free(&t);
    }
    return NULL;
}

static void test_kernels_at_once(void **state)
{
    const uint64_t seed = rng_seed_from_env("KS_TEST_SEED");
    ks_device cpu;
    worker workers[THREADS];
    pthread_t threads[THREADS];
    atomic_int waiting = THREADS;
    bool ok = true;
    (void)state;
    ks_device_cpu(&cpu);
    print_message("KS_TEST_SEED=%" PRIu64 "\n", seed);
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] = (worker){.seed = seed, .number = t, .device = &cpu, .waiting = &waiting, .ok = true};
        assert_int_equal(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        if (!workers[t].ok) print_error("thread %u: %s\n", t, workers[t].why);
        ok = ok && workers[t].ok;
    }
    assert_true(ok);
}

/* The very first use of the library may come from several threads: whatever is set up lazily (the team, the chosen
 * instruction set) is set up once. A process has one first use, so this test must be the group's first. */
static void *first_use(void *arg)
{
    worker *w = arg;
    ks_device cpu;
    start_together(w->waiting);
    ks_device_cpu(&cpu);
    const ks_problem problem = {.a = 4, .b = 48, .c = 48, .d = 4, .batch = 64, .type = KS_F32};
    rng r = rng_make(w->number, 0);
    trial t;
    w->ok = trial_make(&t, &problem, TRIAL_PLAIN, &r);
    for (size_t row = 0; w->ok && ks_kernels()[row] != NULL; row++) {
        const ks_kernel *kernel = ks_kernels()[row];
        if (kernel->backend == KS_CPU && kernel->supports(&problem, &cpu))
            w->ok = trial_run(&t, kernel, &cpu, w->why);
    }
    if (w->ok) trial_free(&t);
    return NULL;
}

static void test_first_use(void **state)
{
    worker workers[THREADS];
    pthread_t threads[THREADS];
    atomic_int waiting = THREADS;
    (void)state;
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] = (worker){.number = t, .waiting = &waiting};
        assert_int_equal(pthread_create(&threads[t], NULL, first_use, &workers[t]), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) assert_int_equal(pthread_join(threads[t], NULL), 0);
    for (unsigned t = 0; t < THREADS; t++) {
        if (!workers[t].ok) fail_msg("thread %u: %s", t, workers[t].why);
    }
}

/* Each thread reads its own last message, however the others fail meanwhile. */
static void *fail_often(void *arg)
{
    worker *w = arg;
    char value[32];
    snprintf(value, sizeof value, "-%u", 1000 + w->number);
    start_together(w->waiting);
    w->ok = true;
    for (int turn = 0; w->ok && turn < 2000; turn++) {
        const ks_problem problem = {.a = 1, .b = 1, .c = 1, .d = 1, .batch = -1000 - (int64_t)w->number};
        w->ok = ks_problem_check(&problem) == KS_ERR_ARGUMENT &&
                strstr(ks_status_message(KS_ERR_ARGUMENT), value) != NULL;
    }
    return NULL;
}

static void test_messages_at_once(void **state)
{
    worker workers[THREADS];
    pthread_t threads[THREADS];
    atomic_int waiting = THREADS;
    (void)state;
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] = (worker){.number = t, .waiting = &waiting};
        assert_int_equal(pthread_create(&threads[t], NULL, fail_often, &workers[t]), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        assert_true(workers[t].ok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_use),
        cmocka_unit_test(test_kernels_at_once),
        cmocka_unit_test(test_messages_at_once),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
