/* Seeds: those of this build are well-formed and give good advice, a store turns into one and back, and malformed lines are
 * refused. */
#include "cases.h"
#include "csv.h"
#include "knowledge.h"
#include "sandbox.h"
#include "seeds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE                                                                                                       \
    "{\"name\":\"Test GPU\",\"backend\":\"cuda\",\"arch\":\"sm_90\",\"units\":132,\"l2_bytes\":52428800,"            \
    "\"memory_bytes\":85520809984,\"driver\":\"580\",\"copy_bytes_per_s\":3.0e12,"                                   \
    "\"gemm_flops_per_s\":{\"f32\":5.1e13,\"f16\":7.2e14}}\n"
#define RECORD                                                                                                       \
    "{\"type\":\"f16\",\"layout\":\"last\",\"objective\":\"time\",\"rows\":580,\"cv_regret\":0.0125,"                \
    "\"fitted_at_s\":1763812345.5}\n"
#define MODEL "{\"w\":[0.10,-2.5e-300,3], \"kernel\":\"fused.cuda.mma\"}"

/* The models of a shipped seed are of this build's format, and of terms that it has. */
static bool usable(void *user, const ks_model_row *row)
{
    ks_model *m;
    int *count = user;
    ks_status status = ks_model_parse(row->json, &m);
    if (status == KS_OK) status = ks_model_usable(m);
    if (status != KS_OK) fail_msg("%s: %s", row->device, ks_status_message(status));
    ks_model_free(m);
    ++*count;
    return true;
}

typedef struct models {
    int count, stop_after;
    ks_model_row rows[4];
    char json[4][256];
} models;

static bool take(void *user, const ks_model_row *row)
{
    models *m = user;
    if (m->count < 4) {
        m->rows[m->count] = *row;
        snprintf(m->json[m->count], sizeof m->json[0], "%s", row->json);
    }
    return ++m->count != m->stop_after;
}

static ks_status read_text(const char *text, ks_device *device, models *m)
{
    /* a copy of just these bytes: a seed's text is not terminated, and the sanitizer sees who reads on */
    size_t bytes = strlen(text);
    char *copy = malloc(bytes + 1);
    assert_non_null(copy);
    memcpy(copy + 1, text, bytes);
    ks_seed seed = {.name = "test", .text = copy + 1, .bytes = bytes};
    *m = (models){.stop_after = m->stop_after};
    ks_status status = ks_seed_read(&seed, device, take, m);
    free(copy);
    return status;
}

/* The measurements beside a shipped seed; the caller frees them. */
static void shipped_rows(const ks_seed *seed, ks_table *table)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.csv", KS_SEEDS_DIR, seed->name);
    const ks_status status = ks_csv_read_file(path, KS_CSV_KSAUTO, false, table);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
}

static void test_shipped(void **state)
{
    size_t count;
    const ks_seed *seeds = ks_seeds(&count);
    (void)state;
    assert_non_null(seeds);
    print_message("%zu seed(s) in this build\n", count);
    for (size_t i = 0; i < count; i++) {
        ks_device device;
        ks_table table;
        int fitted = 0;
        ks_status status = ks_seed_read(&seeds[i], &device, usable, &fitted);
        if (status != KS_OK) fail_msg("%s", ks_status_message(status));
        assert_true(*device.name && fitted > 0);
        shipped_rows(&seeds[i], &table);
        for (size_t row = 0; row < table.count; row++) assert_string_equal(table.rows[row].device, device.name);
        ks_table_free(&table);
    }
}

/* The shipped rows of a device, as cases of one type and layout; the seed must be there. */
static void shipped_cases(const char *name, ks_type type, ks_layout layout, ks_cases *cases)
{
    size_t count, i = 0;
    ks_device device;
    ks_table table;
    const ks_seed *seeds = ks_seeds(&count);
    while (i < count && (ks_seed_read(&seeds[i], &device, NULL, NULL) != KS_OK || strcmp(device.name, name) != 0))
        i++;
    assert_true(i < count);
    shipped_rows(&seeds[i], &table);
    ks_device_assume_rates(&device);
    assert_int_equal(ks_cases_build(table.rows, table.count, &device, type, layout, KS_TIME, cases), KS_OK);
    ks_table_free(&table);
}

/* What was measured of a kernel; NaN: nothing. */
static double measured_s(const ks_cases *cases, const ks_case *c, const char *kernel)
{
    for (int q = 0; q < cases->kernels; q++)
        if (strcmp(cases->kernel[q]->name, kernel) == 0) return c->value[q];
    return NAN;
}

/* Of every candidate, if it was measured. */
static void assert_as_measured(const ks_advice *a, const ks_cases *cases, const ks_case *c)
{
    for (int q = 0; q < a->candidate_count; q++) {
        const double factor = a->candidates[q].time_s / measured_s(cases, c, a->candidates[q].kernel);
        if (factor > 3 || factor < 1. / 3)
            fail_msg("(%d,%d,%d,%d) batch %d: %s is predicted at %.2f times what was measured", (int)c->problem.a,
                     (int)c->problem.b, (int)c->problem.c, (int)c->problem.d, (int)c->problem.batch,
                     a->candidates[q].kernel, factor);
    }
}

/* Advice for a GPU that is elsewhere, in a build with its kernels or without: its times are those that were measured, it loses
 * little, and it is hardly ever for a kernel that cannot do the problem. The rows are those that the models were fitted to:
 * this is no judgement of the fit, only of its being read as it was meant. */
static void test_advice(void **state)
{
    enum { CLOSELY = 20 };
    static const char name[] = "NVIDIA H100 80GB HBM3";
    const ks_options options = {.store = "", .device = name};
    ks_context *ctx = context_open(&options);
    (void)state;
    for (int layout = 0; layout < KS_NLAYOUTS; layout++) {
        ks_cases cases;
        double regret = 0;
        int impossible = 0;
        shipped_cases(name, KS_F16, (ks_layout)layout, &cases);
        assert_true(cases.count >= CLOSELY);
        for (int i = 0; i < cases.count; i++) {
            const ks_case *c = &cases.items[i];
            ks_advice a;
            assert_int_equal(ks_advise(ctx, &c->problem, &a), KS_OK);
            assert_int_equal(a.source, KS_FROM_SEEDS);
            assert_string_equal(a.source_device, name);
            if (i % (cases.count / CLOSELY) == 0) assert_as_measured(&a, &cases, c);
            const double chosen_s = measured_s(&cases, c, a.kernel);
            if (isnan(chosen_s))
                impossible++;
            else
                regret += chosen_s / c->value[ks_case_best(&cases, c, -1)] - 1;
        }
        regret /= cases.count;
        print_message("batch-%s: %d problems, mean regret %.2f %%, %d kernels that were not measured\n",
                      ks_layout_name((ks_layout)layout), cases.count, 100 * regret, impossible);
        assert_true(regret < 0.1);
        assert_true(impossible <= cases.count / 20);
        ks_cases_free(&cases);
    }
    ks_close(ctx);
}

static void test_read(void **state)
{
    ks_device device;
    models m = {0};
    (void)state;
    setlocale(LC_ALL, "de_DE.UTF-8"); /* where there is one: JSON has points all the same */
    assert_int_equal(read_text(DEVICE RECORD MODEL "\n" RECORD MODEL, &device, &m), KS_OK);
    setlocale(LC_ALL, "C");
    assert_string_equal(device.name, "Test GPU");
    assert_int_equal(device.backend, KS_CUDA);
    assert_string_equal(device.arch, "sm_90");
    assert_int_equal(device.units, 132);
    assert_int_equal(device.l1_bytes, 0);
    assert_int_equal(device.memory_bytes, INT64_C(85520809984));
    assert_true(device.copy_bytes_per_s == 3e12);
    assert_true(device.gemm_flops_per_s[KS_F16] == 7.2e14);
    assert_true(device.gemm_flops_per_s[KS_F64] == 0);
    assert_int_equal(m.count, 2);
    assert_string_equal(m.rows[0].device, "Test GPU");
    assert_int_equal(m.rows[0].type, KS_F16);
    assert_int_equal(m.rows[0].layout, KS_BATCH_LAST);
    assert_int_equal(m.rows[0].objective, KS_TIME);
    assert_int_equal(m.rows[0].rows, 580);
    assert_true(m.rows[0].cv_regret == 0.0125);
    assert_true(m.rows[0].fitted_at_s == 1763812345.5);
    assert_string_equal(m.json[0], MODEL); /* as it stands */
    assert_string_equal(m.json[1], MODEL);

    m.stop_after = 1;
    assert_int_equal(read_text(DEVICE RECORD MODEL "\n" RECORD MODEL, &device, &m), KS_OK);
    assert_int_equal(m.count, 1);
    m.stop_after = 0;
    assert_int_equal(read_text("{\"name\":\"N\",\"backend\":\"cpu\"}", &device, &m), KS_OK);
    assert_int_equal(m.count, 0);
    assert_int_equal(device.backend, KS_CPU);
}

static void test_malformed(void **state)
{
    static const char *const cases[][3] = {
        {"", "seed test, line 1", "not a JSON object"},
        {"{", "seed test, line 1", "not a JSON object"},
        {"\xff\xfe", "seed test, line 1", "not a JSON object"},
        {"[]", "seed test, line 1", "not a JSON object"},
        {"null", "seed test, line 1", "not a JSON object"},
        {"\n" DEVICE, "seed test, line 1", "not a JSON object"},
        {"{}", "seed test, line 1", "name"},
        {"{\"name\":5}", "seed test, line 1", "name"},
        {"{\"name\":\"N\"}", "seed test, line 1", "backend"},
        {"{\"name\":\"N\",\"backend\":\"tpu\"}", "seed test, line 1", "backend"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"units\":-1}", "seed test, line 1", "units"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"units\":1e30}", "seed test, line 1", "units"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"l2_bytes\":1e300}", "seed test, line 1", "l2_bytes"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"l2_bytes\":\"x\"}", "seed test, line 1", "l2_bytes"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"copy_bytes_per_s\":1e999}", "seed test, line 1", "copy_bytes_per_s"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"gemm_flops_per_s\":[1]}", "seed test, line 1", "gemm_flops_per_s"},
        {"{\"name\":\"N\",\"backend\":\"cpu\",\"gemm_flops_per_s\":{\"f64\":-1}}", "seed test, line 1", "f64"},
        {DEVICE "1", "seed test, line 2", "not a JSON object"},
        {DEVICE RECORD MODEL "\n\n", "seed test, line 4", "not a JSON object"},
        {DEVICE RECORD MODEL "\n{\"type\":\"f31\"}", "seed test, line 4", "type"},
        {DEVICE RECORD MODEL "\n{\"type\":\"f32\",\"layout\":\"none\"}", "seed test, line 4", "layout"},
        {DEVICE "{\"type\":\"f32\",\"layout\":\"last\",\"objective\":\"fun\"}", "seed test, line 2", "objective"},
        {DEVICE "{\"type\":\"f32\",\"layout\":\"last\",\"objective\":\"time\",\"rows\":1.5e10}", "seed test, line 2",
         "rows"},
        {DEVICE "{\"type\":\"f32\",\"layout\":\"last\",\"objective\":\"time\",\"cv_regret\":true}",
         "seed test, line 2", "cv_regret"},
        {DEVICE RECORD, "seed test, line 3", "model"},
        {DEVICE RECORD "\n" MODEL, "seed test, line 3", "model"},
        {DEVICE RECORD "\"{}\"", "seed test, line 3", "model"},
        {DEVICE RECORD MODEL "\n" RECORD, "seed test, line 5", "model"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ks_device device = {.name = "untouched"};
        models m = {0};
        assert_failure(read_text(cases[i][0], &device, &m), KS_ERR_PARSE, cases[i][1], cases[i][2]);
        assert_int_equal(m.count, 0);
        assert_string_equal(device.name, "untouched");
    }
    char name[400], text[600];
    memset(name, 'n', 399), name[399] = '\0';
    snprintf(text, sizeof text, "{\"name\":\"%s\",\"backend\":\"cpu\"}", name);
    ks_device device;
    models m = {0};
    assert_failure(read_text(text, &device, &m), KS_ERR_PARSE, "name", "too long");
    size_t deep = 200000;
    char *brackets = malloc(deep + 1);
    memset(brackets, '[', deep), brackets[deep] = '\0';
    assert_failure(read_text(brackets, &device, &m), KS_ERR_PARSE, "not a JSON object", NULL);
    free(brackets);
}

static void test_write(void **state)
{
    const char *path = sandbox_path(state, "s.jsonl"), *csv_path = sandbox_path(state, "s.csv");
    ks_device in = {.backend = KS_CPU,
                    .name = "A \"CPU\" (2 threads)",
                    .arch = "avx2",
                    .units = 2,
                    .l1_bytes = 32768,
                    .memory_bytes = INT64_C(1) << 40,
                    .blas = "OpenBLAS",
                    .copy_bytes_per_s = 1e10 / 3,
                    .gemm_flops_per_s = {1e11, 0, 0, 5e10}},
              out;
    ks_measurement m = {.problem = {1, 2, 3, 4, 5, KS_F32, KS_BATCH_FIRST, KS_MATH_F32},
                        .kernel = "fused.cpu",
                        .kernel_version = 2,
                        .family = KS_FUSED,
                        .status = KS_OK,
                        .time_s = 1e-3 / 3,
                        .spread = 0.0123456,
                        .energy_j = NAN,
                        .samples = 9,
                        .measured_at_s = 1.7e9 + 0.25};
    ks_model_row row = {"", KS_F32, KS_BATCH_FIRST, KS_TIME, 1, NAN, 1763812345.5, "{\"w\":\n[0.33333333333333331]}"};
    models read = {0};
    ks_store *store;
    assert_int_equal(ks_store_open(&store, sandbox_path(state, "s.db"), KS_STORE_WRITE), KS_OK);
    strcpy(m.device, in.name);
    strcpy(row.device, in.name);
    assert_int_equal(ks_store_put_device(store, &in), KS_OK);
    assert_int_equal(ks_store_add(store, &m, NULL), KS_OK);
    assert_int_equal(ks_store_put_model(store, &row), KS_OK);
    strcpy(m.device, "another");
    assert_int_equal(ks_store_add(store, &m, NULL), KS_OK);

    setlocale(LC_ALL, "de_DE.UTF-8");
    assert_int_equal(ks_seed_write(store, in.name, path, csv_path), KS_OK);
    setlocale(LC_ALL, "C");
    ks_seed seed = {.name = "s"};
    size_t csv_bytes;
    char *text = file_read(path, &seed.bytes), *csv = file_read(csv_path, &csv_bytes);
    seed.text = text;
    assert_int_equal(ks_seed_read(&seed, &out, take, &read), KS_OK);
    assert_memory_equal(&in, &out, sizeof in);
    assert_int_equal(read.count, 1);
    assert_string_equal(read.json[0], "{\"w\":[0.33333333333333331]}"); /* on one line, to the last bit */
    assert_true(isnan(read.rows[0].cv_regret));
    assert_true(read.rows[0].fitted_at_s == row.fitted_at_s);
    ks_table table;
    assert_int_equal(ks_csv_read_text(csv, csv_bytes, "s.csv", KS_CSV_KSAUTO, false, &table), KS_OK);
    assert_int_equal(table.count, 1); /* of this device alone */
    assert_true(table.rows[0].time_s == 0.000333333 && table.rows[0].spread == 0.0123);
    assert_true(table.rows[0].measured_at_s == 1.7e9);
    ks_table_free(&table);

    /* failures leave what was there, and no drafts */
    assert_failure(ks_seed_write(store, "nobody", path, csv_path), KS_ERR_NO_DATA, "nobody", NULL);
    assert_failure(ks_seed_write(store, in.name, path, sandbox_path(state, "no/s.csv")), KS_ERR_IO, "no/s.csv", NULL);
    row.json = "[not JSON";
    assert_int_equal(ks_store_put_model(store, &row), KS_OK);
    assert_failure(ks_seed_write(store, in.name, path, csv_path), KS_ERR_PARSE, in.name, "model");
    file_assert_equal(path, text, seed.bytes);
    file_assert_equal(csv_path, csv, csv_bytes);
    assert_int_equal(access(sandbox_path(state, "s.jsonl.draft"), F_OK), -1);
    free(text);
    free(csv);
    ks_store_close(store);
}

/* Into a store, and out again. */
static void test_import(void **state)
{
    const char *path = sandbox_path(state, "s.jsonl"), *csv_path = sandbox_path(state, "s.csv"),
               *none = sandbox_path(state, "none"), *out_path = sandbox_path(state, "out.jsonl"),
               *out_csv = sandbox_path(state, "out.csv");
    const ks_device in = {.backend = KS_CUDA, .name = "A GPU", .units = 7, .copy_bytes_per_s = 1e12 / 3};
    const ks_problem p = {1, 2, 3, 4, 5, KS_F16, KS_BATCH_LAST, KS_MATH_F32};
    const ks_measurement m = known_row(in.name, &p, "their.own", KS_FUSED, 1e-5);
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    assert_int_equal(ks_store_put_device(store, &in), KS_OK);
    known_put_row(store, &m);
    known_put_text(store, in.name, KS_F16, KS_BATCH_LAST, "{\"w\":[0.25]}");
    assert_int_equal(ks_seed_write(store, in.name, path, csv_path), KS_OK);
    ks_store_close(store);

    ks_device out = {0};
    int64_t added;
    store = opened(sandbox_path(state, "t.db"), KS_STORE_WRITE);
    assert_int_equal(ks_seed_import(store, path, csv_path, &out, &added), KS_OK);
    assert_memory_equal(&in, &out, sizeof in);
    assert_int_equal(added, 1);
    assert_int_equal(ks_seed_write(store, in.name, out_path, out_csv), KS_OK);
    size_t bytes, csv_bytes;
    char *text = file_read(path, &bytes), *csv = file_read(csv_path, &csv_bytes);
    file_assert_equal(out_path, text, bytes);
    file_assert_equal(out_csv, csv, csv_bytes);
    free(text);
    free(csv);
    assert_failure(ks_seed_import(store, none, csv_path, &out, &added), KS_ERR_IO, none, NULL);
    assert_failure(ks_seed_import(store, path, none, &out, &added), KS_ERR_IO, none, NULL);
    file_write(none, "", 0);
    assert_failure(ks_seed_import(store, none, csv_path, &out, &added), KS_ERR_PARSE, none, "not a JSON object");
    assert_failure(ks_seed_import(store, csv_path, csv_path, &out, &added), KS_ERR_PARSE, csv_path,
                   "not a JSON object");
    static const char broken[] = DEVICE RECORD "{not JSON";
    file_write(none, broken, sizeof broken - 1);
    assert_failure(ks_seed_import(store, none, csv_path, &out, &added), KS_ERR_PARSE, "model", "Test GPU");
    assert_int_equal(ks_store_get_device(store, "Test GPU", &out), KS_ERR_NO_DATA); /* not even the device */
    ks_store_close(store);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_shipped),   TEST(test_advice), TEST(test_read),
        TEST(test_malformed), TEST(test_write),  TEST(test_import),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
