/* One process that uses the library for long: contexts on good stores, bad ones and none, products and advice from several
 * threads, first-use measuring, calibrations that are stopped, tables in and out, merging, salvage. Memory in use and descriptors
 * must be the same after every cycle as after the first ones, and what the process occupies may not grow.
 *
 * KS_TEST_USE_S: for how long, 20 s by default; an hour under AddressSanitizer, whose leak check then has the last word, is
 * the test test_endurance_more. */
#include "csv.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PRODUCTS = 24, THREADS = 4, WARM_UP = 3 };

/* Freed memory that AddressSanitizer holds back counts as occupied; a little of it catches late uses well enough. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=16";
}

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

/* ---- what is watched ------------------------------------------------------------------------------------------------- */

typedef struct usage {
    size_t live_bytes;    /* allocated and not freed */
    long occupied_kbytes; /* resident */
    int descriptors, threads;
} usage;

static int entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;
    assert_non_null(folder);
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

static usage usage_now(void)
{
    usage u = {.descriptors = entries("/proc/self/fd"), .threads = entries("/proc/self/task")};
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    assert_non_null(status);
    while (fgets(line, sizeof line, status)) sscanf(line, "VmRSS: %ld", &u.occupied_kbytes);
    fclose(status);
    if (__sanitizer_get_current_allocated_bytes) {
        u.live_bytes = __sanitizer_get_current_allocated_bytes();
    } else {
        const struct mallinfo2 info = mallinfo2();
        u.live_bytes = info.uordblks + info.hblkhd;
    }
    return u;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the mixture ------------------------------------------------------------------------------------------------------- */

static int products; /* in all, by the main thread */

static ks_problem draw(rng *r)
{
    const problem_bounds bounds = {
        .hi = {.a = 8, .b = 64, .c = 64, .d = 12, .batch = 256}, .flops_max = 2e6, .bytes_max = 1e6, .awkward = 0.4};
    return problem_random(r, &bounds);
}

static void use(const ks_options *options, rng *r)
{
    static const char *const paths[] = {NULL, "fused", "bmm", "ref.cpu"};
    ks_context *ctx = context_open(options);
    for (int i = 0; i < PRODUCTS; i++) {
        const ks_problem p = draw(r);
        ks_advice advice;
        char why[TRIAL_WHY_BYTES];
        size_t bytes;
        if (!product_right(ctx, &p, paths[i % 4], r, why)) fail_msg("%s", why);
        assert_int_equal(ks_advise(ctx, &p, &advice), KS_OK);
        assert_int_equal(ks_workspace_bytes(ctx, &p, "auto", &bytes), KS_OK);
        assert_int_equal(ks_workspace_reserve(ctx, bytes % 100000), KS_OK);
        products++;
    }
    ks_close(ctx);
}

typedef struct worker {
    ks_context *ctx;
    uint64_t seed;
    bool ok;
    char why[TRIAL_WHY_BYTES];
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    rng r = rng_make(w->seed, 0);
    w->ok = true;
    for (int i = 0; w->ok && i < PRODUCTS / 2; i++) {
        const ks_problem p = draw(&r);
        w->ok = product_right(w->ctx, &p, NULL, &r, w->why);
    }
    return NULL;
}

static void use_from_threads(const char *path, rng *r)
{
    const ks_options options = {.store = path, .flags = KS_MEASURE, .measure_budget_s = 0.002};
    worker workers[THREADS];
    pthread_t threads[THREADS];
    ks_context *ctx = context_open(&options);
    for (int t = 0; t < THREADS; t++) {
        workers[t] = (worker){.ctx = ctx, .seed = rng_next(r)};
        assert_int_equal(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        if (!workers[t].ok) fail_msg("%s", workers[t].why);
    }
    ks_close(ctx);
}

static bool go_on(void *user, const ks_progress *p)
{
    (void)p;
    return --*(int *)user > 0;
}

/* Stopped after a dozen problems, once among them fitted. */
static void calibrate(const char *path)
{
    int left = 14;
    const ks_calibrate_options options = {.store = path, .budget_s = 1, .progress = go_on, .user = &left};
    const ks_status s = ks_calibrate(&options, NULL);
    if (s != KS_OK && s != KS_ERR_INTERRUPTED) fail_msg("%s", ks_status_message(s));
}

static bool write_row(void *user, const ks_measurement *m)
{
    return ks_csv_write_row(user, m) == KS_OK;
}

/* Out as a table, in again elsewhere; merged, checked, salvaged; and what is no table. */
static void exchange(void *const *state, const char *path)
{
    const char *csv = sandbox_path(state, "rows.csv"), *copy = sandbox_path(state, "copy.db");
    ks_table table;
    int64_t added;
    ks_store *from = opened(path, KS_STORE_READ);
    FILE *out = fopen(csv, "w");
    assert_non_null(out);
    assert_int_equal(ks_csv_write_header(out), KS_OK);
    assert_int_equal(ks_store_each(from, NULL, write_row, out), KS_OK);
    assert_int_equal(fclose(out), 0);
    remove(copy);
    ks_store *to = opened(copy, KS_STORE_WRITE);
    assert_int_equal(ks_csv_read_file(csv, KS_CSV_KSAUTO, false, &table), KS_OK);
    assert_int_equal(ks_store_import(to, &table, &added), KS_OK);
    assert_int_equal(added, table.count);
    ks_table_free(&table);
    assert_int_equal(ks_store_merge(to, from, &added), KS_OK);
    assert_int_equal(ks_store_salvage(to, from, &added), KS_OK);
    assert_sound(to);
    ks_store_close(to);
    ks_store_close(from);
    assert_int_equal(ks_csv_read_text("a,b\n1", 5, "text", KS_CSV_KSMM, true, &table), KS_ERR_PARSE);
}

/* A new store, since a growing one takes more memory to read. It has rates, which would take seconds to measure. */
static void begin_store(const char *path)
{
    char log[600];
    ks_device cpu;
    ks_device_cpu(&cpu);
    ks_device_assume_rates(&cpu);
    remove(path);
    snprintf(log, sizeof log, "%s-wal", path), remove(log);
    snprintf(log, sizeof log, "%s-shm", path), remove(log);
    make_store(path, 3);
    ks_store *store = opened(path, KS_STORE_WRITE);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    ks_store_close(store);
}

static void cycle(void *const *state, rng *r)
{
    const char *path = sandbox_path(state, "s.db"), *garbage = sandbox_path(state, "garbage");
    begin_store(path);
    calibrate(path);
    use(&(ks_options){.store = path}, r);
    use(&(ks_options){.store = path, .flags = KS_MEASURE, .measure_budget_s = 0.002}, r);
    use_from_threads(path, r);
    exchange(state, path);
    file_write(garbage, "neither SQLite nor anything else", 32);
    use(&(ks_options){.store = garbage}, r);
    use(&(ks_options){.store = "", .objective = KS_ENERGY}, r);
    ks_context *ctx;
    assert_int_equal(ks_open(&ctx, &(ks_options){.device = "no device is called so", .store = path}), KS_ERR_DEVICE);
    assert_null(ctx);
}

static void test_use_for_long(void **state)
{
    const char *text = getenv("KS_TEST_USE_S");
    const double start_s = now_s(), use_s = text && atof(text) > 0 ? atof(text) : 20;
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 0);
    usage first = {0}, now = {0};
    int cycles = 0;
    for (double said_s = start_s; cycles <= WARM_UP || now_s() < start_s + use_s; cycles++) {
        cycle(state, &r);
        now = usage_now();
        if (cycles < WARM_UP || now_s() - said_s > 60) {
            print_message("%.0f s, %d cycles: %zu bytes live, %ld kB resident, %d descriptors, %d threads\n",
                          now_s() - start_s, cycles + 1, now.live_bytes, now.occupied_kbytes, now.descriptors,
                          now.threads);
            said_s = now_s();
        }
        if (cycles < WARM_UP) first = now;
        assert_int_equal(now.descriptors, first.descriptors);
        assert_true(now.threads <= first.threads);
        if (now.live_bytes > first.live_bytes + 100000)
            fail_msg("cycle %d: %zu bytes live, %zu after the first cycles", cycles, now.live_bytes,
                     first.live_bytes);
        if (now.occupied_kbytes > first.occupied_kbytes + 100000)
            fail_msg("cycle %d: %ld kB resident, %ld after the first cycles", cycles, now.occupied_kbytes,
                     first.occupied_kbytes);
    }
    print_message(
        "%.0f s, %d cycles, %d products: %zu bytes live after the first cycles, %zu at the end; %ld and %ld kB "
        "resident; %d descriptors\n",
        now_s() - start_s, cycles, products, first.live_bytes, now.live_bytes, first.occupied_kbytes,
        now.occupied_kbytes, now.descriptors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_use_for_long, sandbox_enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("endurance", tests, NULL, NULL);
}
