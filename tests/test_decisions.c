/* Pinned decisions: followed whatever the store says, by every process and thread; what is not in the table is computed all the
 * same, and said; a table that is wrong anywhere is not followed anywhere. */
#include "csv.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PROBLEMS = 100 };

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33};

static ks_device cpu;

static int enter(void **state)
{
    ks_device_cpu(&cpu);
    unsetenv("KSAUTO_EXPLAIN");
    unsetenv("KSAUTO_DECISIONS");
    return sandbox_enter(state);
}

static ks_problem draw(rng *r)
{
    const problem_bounds bounds = {
        .hi = {.a = 8, .b = 48, .c = 48, .d = 12, .batch = 96}, .flops_max = 4e5, .bytes_max = 2e5, .awkward = 0.4};
    return problem_random(r, &bounds);
}

/* A table in which everything is ref-like slow's: the kernel that the model below likes least. */
static void write_table(const char *path, const ks_problem *problems, int count, const char *device,
                        const char *kernel)
{
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(ks_decisions_write_header(out), KS_OK);
    for (int i = 0; i < count; i++)
        assert_int_equal(ks_decisions_write_row(out, &problems[i], device, kernel), KS_OK);
    assert_int_equal(fclose(out), 0);
}

/* A store by which fused.cpu is far ahead, measured so for the usual problem. */
static void make_known_store(const char *path)
{
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 1e-6}, {"bmm.cpu.permute", KS_BMM, 1e-3}};
    ks_store *store = opened(path, KS_STORE_WRITE);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    for (int i = 0; i < KS_NTYPES * KS_NLAYOUTS; i++) {
        ks_model *model = known_model((ks_type)(i / KS_NLAYOUTS), (ks_layout)(i % KS_NLAYOUTS), kernels, 2);
        known_put_model(store, cpu.name, model);
        ks_model_free(model);
    }
    ks_measurement m = known_row(cpu.name, &usual, "fused.cpu", KS_FUSED, 1e-6);
    known_put_row(store, &m);
    m = known_row(cpu.name, &usual, "bmm.cpu.permute", KS_BMM, 1e-3);
    known_put_row(store, &m);
    ks_store_close(store);
}

static uint64_t missed_by(const ks_context *ctx)
{
    uint64_t missed;
    assert_int_equal(ks_decisions_status(ctx, NULL, &missed), KS_OK);
    return missed;
}

static void assert_choice(ks_context *ctx, const ks_problem *p, const char *kernel, ks_source source)
{
    const char *chosen;
    ks_advice advice;
    assert_int_equal(ks_choose(ctx, p, &chosen), KS_OK);
    assert_string_equal(chosen, kernel);
    assert_int_equal(ks_advise(ctx, p, &advice), KS_OK);
    assert_string_equal(advice.kernel, kernel);
    if (advice.source != source) fail_msg("from %s", ks_source_name(advice.source));
    assert_product(ctx, p, NULL);
}

static void test_followed(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *table = sandbox_path(state, "table.csv");
    const ks_options options = {.store = path, .flags = KS_MEASURE, .decisions = table};
    ks_problem problems[PROBLEMS], other = usual;
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 0);
    make_known_store(path);
    for (int i = 0; i < PROBLEMS; i++) problems[i] = draw(&r);
    problems[0] = usual;
    write_table(table, problems, PROBLEMS, cpu.name, "bmm.cpu.permute");
    const int rows = known_count(path);
    ks_context *ctx = context_open(&options);
    for (int i = 0; i < PROBLEMS; i++) assert_choice(ctx, &problems[i], "bmm.cpu.permute", KS_FROM_DECISIONS);
    assert_int_equal(missed_by(ctx), 0);
    assert_int_equal(known_count(path), rows); /* none was measured at its first use */
    ks_close(ctx);
    /* What is not in it. */
    ctx = context_open(&(ks_options){.store = path, .decisions = table});
    other.batch = 97;
    assert_choice(ctx, &other, "fused.cpu", KS_FROM_MODEL);
    assert_choice(ctx, &other, "fused.cpu", KS_FROM_MODEL);
    assert_int_equal(missed_by(ctx), 1); /* a problem once */
    ks_close(ctx);
    /* Without it, and by the environment, which an option overrules. */
    assert_int_equal(setenv("KSAUTO_DECISIONS", table, 1), 0);
    ctx = context_open(&(ks_options){.store = path, .decisions = ""});
    assert_choice(ctx, &usual, "fused.cpu", KS_FROM_MEASUREMENT);
    assert_int_equal(missed_by(ctx), 0);
    ks_close(ctx);
    ctx = context_open(&(ks_options){.store = path});
    assert_choice(ctx, &usual, "bmm.cpu.permute", KS_FROM_DECISIONS);
    ks_close(ctx);
    unsetenv("KSAUTO_DECISIONS");
    ctx = context_open(&(ks_options){.store = "", .decisions = table}); /* no store, and the same decisions */
    assert_choice(ctx, &usual, "bmm.cpu.permute", KS_FROM_DECISIONS);
    ks_close(ctx);
}

/* Kernels that nobody has, that cannot do the problem, or that failed on it: the table cannot be followed there. */
static void test_not_to_be_followed(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *table = sandbox_path(state, "table.csv");
    const ks_options options = {.store = path, .decisions = table};
    static const char *const kernels[] = {"made.nowhere", "ref.cpu", "fused.cuda.mma", "bmm.cpu.strided"};
    const ks_problem p = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 31}; /* batch-first, d > 1: not strided's */
    make_known_store(path);
    for (int i = 0; i < 4; i++) {
        write_table(table, &p, 1, cpu.name, kernels[i]);
        ks_context *ctx = context_open(&options);
        assert_choice(ctx, &p, "fused.cpu", KS_FROM_MODEL);
        assert_int_equal(missed_by(ctx), 1);
        ks_close(ctx);
    }
    write_table(table, &p, 1, cpu.name, "bmm.cpu.permute");
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_measurement m = known_row(cpu.name, &p, "bmm.cpu.permute", KS_BMM, NAN);
    m.status = KS_ERR_WRONG_RESULT;
    known_put_row(store, &m);
    ks_store_close(store);
    ks_context *ctx = context_open(&options);
    assert_choice(ctx, &p, "fused.cpu", KS_FROM_MODEL);
    assert_int_equal(missed_by(ctx), 1);
    ks_close(ctx);
}

/* A table that cannot be used: the context opens, decides as without, and says why. */
static void assert_unused(const char *table, ks_status status, const char *part)
{
    const char *why;
    uint64_t missed;
    ks_context *ctx = context_open(&(ks_options){.store = "", .decisions = table});
    assert_int_equal(ks_decisions_status(ctx, &why, NULL), status);
    if (!strstr(why, part) || !strstr(why, table)) fail_msg("%s: %s", part, why);
    assert_product(ctx, &usual, NULL);
    assert_int_equal(ks_decisions_status(ctx, NULL, &missed), status);
    assert_int_equal(missed, 1);
    ks_close(ctx);
}

static void test_bad_tables(void **state)
{
    static const struct {
        const char *text, *part;
        ks_status status;
    } bad[] = {
        {"", ":1", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout\n1,2,3,4,5,f32,first\n", "device", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n", "no decision for device", KS_ERR_NO_DATA},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n1,2,3,4,5,f32,first,Zx80,fused.cpu\n", "no decision for device",
         KS_ERR_NO_DATA},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n3,24,16,5,33,f32,first,%s,bmm.cpu.permute\n"
         "0,2,3,4,5,f32,first,%s,fused.cpu\n",
         ":3: a \"0\"", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n3,24,16,5,33,f32,first,%s,bmm.cpu.permute\n"
         "3,24,16,5,33,f32,first,%s,fused.cpu\n",
         "for the same problem", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n3,24,16,5,33,f32,first,%s,\n", "kernel", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n3,24,16,5,33,f32,first,,fused.cpu\n", "device", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n3,24,16,5,33,f31,first,%s,fused.cpu\n", "f31", KS_ERR_PARSE},
        {"a,b,c,d,batch,dtype,layout,device,kernel\n"
         "9223372036854775807,24,16,5,33,f32,first,%s,fused.cpu\n",
         ":2", KS_ERR_PARSE}};
    const char *table = sandbox_path(state, "table.csv"), *fifo = sandbox_path(state, "fifo");
    char text[1024];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *format = bad[i].text;
        int length = 0;
        for (; *format; format++) { /* the device's name for each %s */
            if (format[0] == '%' && format[1] == 's')
                length += snprintf(text + length, sizeof text - (size_t)length, "%s", cpu.name), format++;
            else
                text[length++] = *format;
        }
        file_write(table, text, (size_t)length);
        assert_unused(table, bad[i].status, bad[i].part);
    }
    assert_unused(sandbox_path(state, "nowhere.csv"), KS_ERR_IO, "No such file");
    assert_unused((const char *)*state, KS_ERR_IO, "no regular file");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_unused(fifo, KS_ERR_IO, "no regular file");
    assert_unused("/dev/zero", KS_ERR_IO, "no regular file");
    /* The same row twice is one; math counts for float32 alone. */
    FILE *out = fopen(table, "w");
    ks_problem half = usual, loose = usual;
    half.type = KS_F16, loose.math = half.math = KS_MATH_TF32;
    assert_int_equal(ks_decisions_write_header(out), KS_OK);
    for (int i = 0; i < 2; i++) assert_int_equal(ks_decisions_write_row(out, &usual, cpu.name, "fused.cpu"), KS_OK);
    assert_int_equal(ks_decisions_write_row(out, &loose, cpu.name, "bmm.cpu.permute"), KS_OK);
    assert_int_equal(ks_decisions_write_row(out, &half, cpu.name, "bmm.cpu.permute"), KS_OK);
    fclose(out);
    ks_context *ctx = context_open(&(ks_options){.store = "", .decisions = table});
    half.math = KS_MATH_F32;
    assert_choice(ctx, &usual, "fused.cpu", KS_FROM_DECISIONS);
    assert_choice(ctx, &loose, "bmm.cpu.permute", KS_FROM_DECISIONS);
    assert_choice(ctx, &half, "bmm.cpu.permute", KS_FROM_DECISIONS);
    ks_close(ctx);
    assert_int_equal(ks_decisions_status(NULL, NULL, NULL), KS_ERR_ARGUMENT);
}

/* For a device that is not here. */
static void test_elsewhere(void **state)
{
    const char *table = sandbox_path(state, "table.csv"), *h100 = "NVIDIA H100 80GB HBM3";
    const ks_problem p = {.a = 6, .b = 64, .c = 64, .d = 4, .batch = 25088, .type = KS_F16};
    ks_advice advice;
    write_table(table, &p, 1, h100, "bmm.cuda.permute");
    ks_context *ctx = context_open(&(ks_options){.device = h100, .store = "", .decisions = table});
    assert_int_equal(ks_advise(ctx, &p, &advice), KS_OK);
    assert_string_equal(advice.kernel, "bmm.cuda.permute");
    assert_int_equal(advice.source, KS_FROM_DECISIONS);
    ks_close(ctx);
}

typedef struct worker {
    ks_context *ctx;
    const ks_problem *problems;
    int wrong;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    for (int i = 0; i < PROBLEMS; i++) {
        const char *kernel;
        if (ks_choose(w->ctx, &w->problems[i], &kernel) != KS_OK || strcmp(kernel, "bmm.cpu.permute") != 0)
            w->wrong++;
    }
    return NULL;
}

static void test_threads(void **state)
{
    enum { THREADS = 16 };
    const char *table = sandbox_path(state, "table.csv");
    ks_problem problems[PROBLEMS];
    worker workers[THREADS];
    pthread_t threads[THREADS];
    rng r = rng_make(5, 5);
    for (int i = 0; i < PROBLEMS; i++) problems[i] = draw(&r);
    write_table(table, problems, PROBLEMS, cpu.name, "bmm.cpu.permute");
    ks_context *ctx = context_open(&(ks_options){.store = "", .decisions = table});
    for (int t = 0; t < THREADS; t++) {
        workers[t] = (worker){ctx, problems, 0};
        assert_int_equal(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        assert_int_equal(workers[t].wrong, 0);
    }
    assert_int_equal(missed_by(ctx), 0);
    ks_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_followed, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_not_to_be_followed, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_bad_tables, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_elsewhere, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_threads, enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("decisions", tests, NULL, NULL);
}
