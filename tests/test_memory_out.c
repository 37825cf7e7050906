/* Out of memory, at every place that allocates: for each of the library's main uses, one run for every place in the code
 * (told apart by its last few callers, in this library, SQLite, cJSON and GSL alike) in which its first allocation fails, and
 * one in which all later ones fail, too. What may come of it is a status and a message; the context can be closed, the store is
 * sound and used as ever by the next run, and nothing leaks.
 *
 * KS_TEST_MEMORY: how many places of each use, at most, spread over all of them; 0: all; default 60. */
#include "bad_memory.h"
#include "csv.h"
#include "validate.h"
#include "knowledge.h"
#include "measure.h"
#include "seeds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33};

static ks_device cpu;
static char *model_text, *seed_text;
static size_t seed_bytes;
static float x[3 * 16 * 5 * 33], k[3 * 24 * 16 * 5], y[3 * 24 * 5 * 33], right[3 * 24 * 5 * 33];

/* Each use returns the first status that is not KS_OK. It must not assert anything: memory is short. */
typedef ks_status (*use)(const char *path);

static ks_status use_context(const char *path)
{
    const ks_options options = {.store = path};
    const char *name, *why;
    ks_context *ctx;
    ks_advice advice;
    ks_status s = ks_open(&ctx, &options), failure = s;
    if (s != KS_OK) return s;
    if (ks_store_status(ctx, &why) != KS_OK) failure = KS_ERR_MEMORY;
    s = ks_choose(ctx, &usual, &name);
    if (s == KS_OK) s = ks_advise(ctx, &usual, &advice);
    if (s == KS_OK) s = ks_workspace_reserve(ctx, 1 << 12);
    memset(y, 0xff, sizeof y);
    /* The product itself is owed whenever some kernel needs no memory. */
    const ks_status product = ks_auto_matmul(ctx, &usual, x, k, y, NULL);
    if (product != KS_OK || memcmp(y, right, sizeof y) != 0) s = KS_ERR_WRONG_RESULT;
    /* One that is to be added needs room for itself, and leaves y alone if there is none. */
    memcpy(y, right, sizeof y);
    const ks_status sum = ks_matmul_with(ctx, &usual, "auto", x, k, y, &(ks_epilogue){.alpha = 1, .beta = 1}, NULL);
    if ((sum == KS_OK) == (memcmp(y, right, sizeof y) == 0)) s = KS_ERR_WRONG_RESULT;
    if (s == KS_OK) s = sum;
    ks_close(ctx);
    return s == KS_OK ? failure : s;
}

/* A layer of two factors forward, and of one backward: what is computed is right, or there is a status. */
typedef struct layer {
    float y[3 * 24 * 5 * 33], dx[3 * 16 * 5 * 33], dk[3 * 24 * 16 * 5];
} layer;

static float k_inner[3 * 16 * 16 * 5];
static layer right_layer;

static ks_status run_layer(const char *path, layer *out)
{
    const ks_problem factors[] = {usual, {.a = 3, .b = 16, .c = 16, .d = 5, .batch = 33}};
    const void *const weights[] = {k, k_inner};
    ks_context *ctx;
    ks_chain *chain;
    ks_status s = ks_open(&ctx, &(ks_options){.store = path});
    if (s != KS_OK) return s;
    s = ks_chain_open(&chain, ctx, factors, 2, NULL);
    if (s == KS_OK) s = ks_chain_matmul(chain, x, weights, out->y, NULL);
    if (s == KS_OK) s = ks_grad_input(ctx, &usual, right, k, out->dx, NULL);
    if (s == KS_OK) s = ks_grad_weights(ctx, &usual, x, right, out->dk, NULL);
    ks_chain_close(chain);
    ks_close(ctx);
    return s;
}

static ks_status use_layer(const char *path)
{
    static layer out;
    memset(&out, 0xff, sizeof out);
    const ks_status s = run_layer(path, &out);
    return s == KS_OK && memcmp(&out, &right_layer, sizeof out) != 0 ? KS_ERR_WRONG_RESULT : s;
}

static ks_status use_store(const char *path)
{
    ks_store *store;
    ks_device device;
    ks_store_info info;
    seen found = {0};
    const double raw[3] = {1, 2, 3};
    const ks_measurement m = measurement(5);
    const ks_model_row model = {.device = "D", .rows = 1, .fitted_at_s = 1, .json = "{}"};
    ks_status s = ks_store_open(&store, path, KS_STORE_WRITE);
    if (s == KS_OK) s = ks_store_add(store, &m, raw);
    if (s == KS_OK) s = ks_store_put_device(store, &cpu);
    if (s == KS_OK) s = ks_store_get_device(store, cpu.name, &device);
    if (s == KS_OK) s = ks_store_put_model(store, &model);
    if (s == KS_OK) s = ks_store_each(store, NULL, see, &found);
    if (s == KS_OK) s = ks_store_info_get(store, &info);
    if (s == KS_OK) s = ks_store_check(store, NULL, NULL);
    ks_store_close(store);
    return s;
}

static ks_status use_csv(const char *path)
{
    static const char text[] = "a,b,c,d,batch,dtype,layout,device,kernel,family,time_s\n"
                               "1,2,3,4,5,f32,first,Some CPU,fused.cpu,fused,1.5e-05\n"
                               "1,2,3,4,6,f32,first,Some CPU,fused.cpu,fused,1.5e-05\n";
    ks_store *store = NULL;
    ks_table table;
    int64_t added;
    ks_status s = ks_csv_read_text(text, sizeof text - 1, "text", KS_CSV_KSAUTO, false, &table);
    if (s == KS_OK) s = ks_store_open(&store, path, KS_STORE_WRITE);
    if (s == KS_OK) s = ks_store_import(store, &table, &added);
    ks_store_close(store);
    ks_table_free(&table);
    return s;
}

static bool ignore_model(void *user, const ks_model_row *row)
{
    (void)user, (void)row;
    return true;
}

static ks_status use_seed(const char *path)
{
    const ks_seed seed = {.name = "made", .text = seed_text, .bytes = seed_bytes};
    ks_device device;
    (void)path;
    return ks_seed_read(&seed, &device, ignore_model, NULL);
}

static ks_status use_seed_files(const char *path)
{
    char json[600], csv[600];
    ks_store *store;
    ks_device device;
    int64_t added;
    snprintf(json, sizeof json, "%s.jsonl", path);
    snprintf(csv, sizeof csv, "%s.csv", path);
    ks_status s = ks_store_open(&store, path, KS_STORE_WRITE);
    if (s == KS_OK) s = ks_seed_write(store, cpu.name, json, csv);
    if (s == KS_OK) s = ks_seed_import(store, json, csv, &device, &added);
    ks_store_close(store);
    return s;
}

static ks_status use_model(const char *path)
{
    ks_model *m;
    (void)path;
    ks_status s = ks_model_parse(model_text, &m);
    if (s != KS_OK) return s;
    char *text = ks_model_print(m);
    if (!text) s = KS_ERR_MEMORY;
    if (text && strcmp(text, model_text) != 0)
        s = KS_ERR_WRONG_RESULT; /* half a model must not be stored for a whole one */
    free(text);
    if (s == KS_OK) s = ks_model_factorise(m);
    ks_model_free(m);
    return s;
}

static ks_status use_fit(const char *path)
{
    ks_rows rows = {0};
    ks_cases cases;
    ks_model *m = NULL;
    (void)path;
    ks_status s = KS_OK;
    for (int i = 0; s == KS_OK && i < 24; i++) {
        ks_problem p = usual;
        p.batch += i / 2, p.b += i;
        const ks_measurement row = known_row(cpu.name, &p, i % 2 ? "bmm.cpu.permute" : "fused.cpu",
                                             i % 2 ? KS_BMM : KS_FUSED, 1e-5 * (1 + i % 5));
        if (!ks_rows_add(&rows, &row)) s = ks_rows_status(&rows);
    }
    if (s == KS_OK) s = ks_cases_build(rows.items, rows.count, &cpu, KS_F32, KS_BATCH_FIRST, KS_TIME, &cases);
    if (s == KS_OK) {
        const ks_fit_options options = {.search_steps = 4};
        double regret = NAN;
        s = ks_fit_validated(&cases, &cpu, &options, &m, &regret);
        if (s == KS_OK && isnan(regret)) s = KS_ERR_MEMORY;
        ks_cases_free(&cases);
    }
    ks_model_free(m);
    ks_rows_free(&rows);
    return s;
}

static ks_status use_measurer(const char *path)
{
    const ks_measure_limits limits = {.min_samples = 3, .max_samples = 3};
    const ks_kernel *kernels[KS_MAX_KERNELS];
    ks_measurement out[KS_MAX_KERNELS];
    const int count = ks_kernels_for(&usual, &cpu, kernels);
    ks_device small = cpu;
    ks_measurer *measurer;
    small.memory_bytes = 1 << 25; /* it takes an eighth of that */
    (void)path;
    ks_status s = ks_measurer_open(&measurer, &small);
    if (s != KS_OK) return s;
    s = ks_measure(measurer, &usual, kernels, count, &limits, out, NULL);
    ks_measurer_close(measurer);
    for (int q = 0; s == KS_OK && q < count; q++)
        if (out[q].status != KS_OK) s = out[q].status == KS_ERR_WRONG_RESULT ? KS_ERR_INTERNAL : KS_ERR_MEMORY;
    return s;
}

/* ---- the trials ---------------------------------------------------------------------------------------------------- */

static void make_small_store(const char *path)
{
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 1e-6}, {"bmm.cpu.permute", KS_BMM, 1e-3}};
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    const ks_measurement m = known_row(cpu.name, &usual, "fused.cpu", KS_FUSED, 1e-5);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    known_put_model(store, cpu.name, model);
    known_put_row(store, &m);
    ks_model_free(model);
    ks_store_close(store);
}

static void try(void **state, const char *what, use used)
{
    const char *path = sandbox_path(state, "s.db"), *text = getenv("KS_TEST_MEMORY");
    const int most = text ? atoi(text) : 60;
    int trials = 0, refused = 0;
    make_small_store(path);
    assert_int_equal(used(path), KS_OK); /* everything that is set up once */
    memory_watch();
    ks_status s = used(path);
    const int64_t allocations = memory_stop();
    assert_int_equal(memory_balance(), 0);
    if (s != KS_OK) fail_msg("%s: %s", what, ks_status_message(s));
    const int sites = memory_sites(), step = most > 0 && sites > most ? (sites + most - 1) / most : 1;
    for (int i = 0; i < sites; i += step)
        for (int once = 0; once < 2; once++, trials++) {
            memory_fail(memory_site(i), once != 0);
            s = used(path);
            const int64_t reached = memory_stop(), kept = memory_balance();
            refused += s != KS_OK;
            if (s == KS_ERR_WRONG_RESULT || s == KS_ERR_INTERNAL || !memory_failed())
                fail_msg("%s, place %d (allocation %lld of %lld): %s %s", what, i, (long long)memory_site(i),
                         (long long)reached, ks_status_name(s), ks_status_message(s));
            if (kept != 0 &&
                !(kept == 1 && used == use_fit)) /* GSL's minimiser loses a block if its simplex is not to be had */
                fail_msg("%s, place %d (allocation %lld): %lld blocks leaked", what, i, (long long)memory_site(i),
                         (long long)kept);
        }
    s = used(path); /* and everything is as before */
    if (s != KS_OK) fail_msg("%s, after it all: %s", what, ks_status_message(s));
    ks_store *store = opened(path, KS_STORE_READ);
    assert_sound(store);
    ks_store_close(store);
    print_message("%s: %lld allocations at %d places, %d trials, %d refused\n", what, (long long)allocations, sites,
                  trials, refused);
}

static void test_context(void **state)
{
    try(state, "context", use_context);
}

static void test_layer(void **state)
{
    try(state, "layer", use_layer);
}

static void test_store(void **state)
{
    try(state, "store", use_store);
}

static void test_csv(void **state)
{
    try(state, "csv", use_csv);
}

static void test_seed(void **state)
{
    try(state, "seed", use_seed);
}

static void test_seed_files(void **state)
{
    try(state, "seed files", use_seed_files);
}

static void test_model(void **state)
{
    try(state, "model", use_model);
}

static void test_fit(void **state)
{
    try(state, "fit", use_fit);
}

static void test_measurer(void **state)
{
    try(state, "measuring", use_measurer);
}

/* ---- what the uses need ---------------------------------------------------------------------------------------------- */

static int set_up(void **state)
{
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 1e-6}, {"bmm.cpu.permute", KS_BMM, 1e-3}};
    rng r = rng_make(3, 3);
    (void)state;
    unsetenv("KSAUTO_EXPLAIN");
    ks_device_cpu(&cpu);
    /* Small whole numbers: every kernel sums them to the same bits. */
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)rng_below(&r, 9) - 4;
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) k[i] = (float)rng_below(&r, 9) - 4;
    ks_model *m = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    m->points = m->problems = 3;
    model_text = ks_model_print(m);
    ks_model_free(m);
    if (!model_text || asprintf(&seed_text,
                                "{\"name\":\"Made\",\"backend\":\"cpu\",\"units\":2}\n"
                                "{\"type\":\"f32\",\"layout\":\"first\",\"objective\":\"time\",\"rows\":3}\n%s\n",
                                model_text) < 0)
        return -1;
    seed_bytes = strlen(seed_text);
    ks_device_assume_rates(&cpu);
    for (size_t i = 0; i < sizeof k_inner / sizeof *k_inner; i++) k_inner[i] = (float)rng_below(&r, 9) - 4;
    const ks_options options = {.store = ""};
    ks_context *ctx = context_open(&options);
    ks_status s = ks_auto_matmul(ctx, &usual, x, k, right, NULL);
    ks_close(ctx);
    if (s == KS_OK) s = run_layer("", &right_layer);
    return s == KS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free(model_text);
    free(seed_text);
    return 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_context),    TEST(test_layer), TEST(test_store), TEST(test_csv),      TEST(test_seed),
        TEST(test_seed_files), TEST(test_model), TEST(test_fit),   TEST(test_measurer),
    };
    return cmocka_run_group_tests_name("memory out", tests, set_up, tear_down);
}
