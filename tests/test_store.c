/* The store's rows: what comes back is what went in, impossible rows are refused on the way in and passed over on the
 * way out, and nothing is doubled. test_store_files.c and test_store_processes.c see to the rest. */
#include "csv.h"
#include "stores.h"
#include "tables.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- what comes back --------------------------------------------------------------------------------------- */

static void assert_same(const ks_measurement *x, const ks_measurement *y)
{
    assert_same_problem(&x->problem, &y->problem);
    assert_string_equal(x->device, y->device);
    assert_string_equal(x->kernel, y->kernel);
    assert_int_equal(x->kernel_version, y->kernel_version);
    assert_int_equal(x->family, y->family);
    assert_int_equal(x->status, y->status);
    assert_string_equal(x->reason, y->reason);
    assert_true(x->time_s == y->time_s || (isnan(x->time_s) && isnan(y->time_s)));
    assert_true(x->spread == y->spread || (isnan(x->spread) && isnan(y->spread)));
    assert_true(x->energy_j == y->energy_j || (isnan(x->energy_j) && isnan(y->energy_j)));
    assert_int_equal(x->samples, y->samples);
    assert_true(x->measured_at_s == y->measured_at_s);
}

static void test_measurements(void **state)
{
    const char *path = sandbox_path(state, "deep/er/'; DROP TABLE devices; -- %41?#.db");
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_measurement in[3] = {measurement(1), measurement(2), measurement(INT64_C(3) << 31)};
    double raw[3] = {0.3, 1.0 / 3.0, 0.4};
    strcpy(in[0].device, "Robert'); DROP TABLE measurements;--");
    in[1].status = KS_ERR_WRONG_RESULT;
    in[1].time_s = NAN;
    in[1].problem.type = KS_F32;
    in[1].problem.math = KS_MATH_TF32;
    strcpy(in[1].reason, "y[3] is 1 not 2");
    in[2].energy_j = 1e-3;
    in[2].problem.layout = KS_BATCH_FIRST;
    for (int i = 0; i < 3; i++) assert_int_equal(ks_store_add(store, &in[i], i == 0 ? raw : NULL), KS_OK);
    assert_sound(store);
    ks_store_close(store);

    store = opened(path, KS_STORE_READ);
    seen s = {0};
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    assert_int_equal(s.count, 3);
    for (int i = 0; i < 3; i++) assert_same(&s.rows[i], &in[i]);

    s = (seen){.stop_after = 2};
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    assert_int_equal(s.count, 2);
    ks_store_filter filters[] = {{.device = in[0].device},
                                 {.types = 1u << KS_F32},
                                 {.layouts = 1u << KS_BATCH_FIRST},
                                 {.usable = true},
                                 {.device = "nobody"}};
    int expected[] = {1, 1, 1, 2, 0};
    for (int i = 0; i < 5; i++) {
        s = (seen){0};
        assert_int_equal(ks_store_each(store, &filters[i], see, &s), KS_OK);
        assert_int_equal(s.count, expected[i]);
    }
    ks_store_info info = info_of(store);
    assert_int_equal(info.schema, 1);
    assert_int_equal(info.measurements, 3);
    assert_int_equal(info.usable, 2);
    assert_int_equal(info.devices, 2);
    assert_true(info.bytes > 0);
    assert_string_equal(info.journal, "wal");

    /* the raw samples lie there as float64 */
    ks_sql sql;
    bool row;
    size_t bytes;
    assert_int_equal(ks_sql_prepare(store, "SELECT sample_times_s, cache_state FROM measurements WHERE id = 1", &sql),
                     KS_OK);
    assert_int_equal(ks_sql_step(&sql, &row), KS_OK);
    assert_true(row);
    const void *blob = ks_sql_blob(&sql, 0, &bytes);
    assert_int_equal(bytes, sizeof raw);
    assert_memory_equal(blob, raw, sizeof raw);
    char word[8];
    assert_true(ks_sql_text(&sql, 1, word, sizeof word));
    assert_string_equal(word, "cold");
    ks_sql_finish(&sql);

    /* a store opened for reading takes nothing */
    assert_failure(ks_store_add(store, &in[0], NULL), KS_ERR_STORE, path, "reading only");
    ks_store_close(store);
}

static void test_bad_measurements_are_refused(void **state)
{
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    ks_measurement m = measurement(0);
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "a is 0", NULL);
    m = measurement(INT64_MAX);
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "9223372036854775807", NULL);
    m = measurement(1), m.time_s = -2.5;
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "time_s is -2.5", NULL);
    m = measurement(1), m.time_s = INFINITY;
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "time_s is inf", NULL);
    m = measurement(1), m.time_s = NAN;
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "neither time_s nor energy_j", NULL);
    m = measurement(1), m.samples = -1;
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "samples is -1", NULL);
    m = measurement(1), memset(m.kernel, 'k', sizeof m.kernel);
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "kernel", NULL);
    m = measurement(1), m.device[0] = '\0';
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "device", NULL);
    m = measurement(1), m.family = (ks_family)77;
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_ARGUMENT, "family 77", NULL);
    assert_int_equal(info_of(store).measurements, 0);
    assert_int_equal(info_of(store).devices, 0);
    ks_store_close(store);
}

static void test_bad_rows_are_passed_over(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_store *store = opened(path, KS_STORE_WRITE);
    static const char *const spoils[] = {"type = 'f31'",
                                         "layout = x'00ff'",
                                         "math = ''",
                                         "status = 'fine'",
                                         "a = 0",
                                         "b = 'many'",
                                         "c = -9223372036854775808",
                                         "d = 9223372036854775807",
                                         "batch = 1.5",
                                         "time_s = 9e999",
                                         "time_s = 'fast'",
                                         "samples = 99999999999",
                                         "reason = hex(zeroblob(5000))",
                                         "cache_state = hex(zeroblob(5000))",
                                         "measured_at_s = 'noon'",
                                         "device_id = 12345",
                                         "sample_times_s = x'0102030405'"};
    int count = (int)(sizeof spoils / sizeof spoils[0]);
    for (int i = 0; i <= count; i++) add(store, 1 + i);
    exec(store, "PRAGMA ignore_check_constraints = 1; PRAGMA foreign_keys = 0");
    for (int i = 0; i < count; i++) {
        char sql[256];
        snprintf(sql, sizeof sql, "UPDATE measurements SET %s WHERE id = %d", spoils[i], i + 1);
        exec(store, sql);
    }
    exec(store, "UPDATE devices SET name = char(65, 0, 66) WHERE 0; "
                "INSERT INTO devices (name) VALUES (hex(zeroblob(500))); "
                "INSERT INTO devices (name, units, backend) VALUES ('odd', 'x', 'tpu'); "
                "INSERT INTO models VALUES (1, 'f32', 'first', 'time', 1, 0.1, 1, x'00'); "
                "INSERT INTO models VALUES (1, 'f32', 'none', 'time', 1, 0.1, 1, '{}')");
    ks_store_close(store);

    store = opened(path, KS_STORE_READ);
    seen s = {0};
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    assert_int_equal(s.count, 2); /* the good one, and the one whose samples alone are spoilt */
    assert_int_equal(s.rows[1].problem.a, count + 1);
    ks_device device;
    assert_failure(ks_store_get_device(store, "odd", &device), KS_ERR_NO_DATA, "odd", path);
    assert_failure(ks_store_check(store, NULL, NULL), KS_ERR_STORE, path, "findings");
    ks_store_close(store);
}

static void test_same_row_is_not_doubled(void **state)
{
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    add(store, 1);
    add(store, 1); /* the same to the microsecond: the same */
    assert_int_equal(info_of(store).measurements, 1);
    ks_measurement m = measurement(1);
    m.measured_at_s += 1e-3;
    assert_int_equal(ks_store_add(store, &m, NULL), KS_OK);
    m.measured_at_s = 0; /* now */
    assert_int_equal(ks_store_add(store, &m, NULL), KS_OK);
    assert_int_equal(info_of(store).measurements, 3);
    seen s = {0};
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    assert_true(s.rows[2].measured_at_s > 1.7e9);
    ks_store_close(store);
}

/* The samples of the newest rows are kept, of all the summaries. */
static void test_samples_are_thinned(void **state)
{
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    const double raw[3] = {1, 2, 3};
    const int64_t more = KS_RAW_ROWS - 10;
    char sql[512];
    int64_t with, bytes = 0;
    ks_measurement m = measurement(1);
    assert_int_equal(ks_store_add(store, &m, raw), KS_OK);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < %lld) "
             "INSERT INTO measurements (device_id, kernel_id, a, b, c, d, batch, type, layout, math, status, time_s, "
             "samples, "
             "sample_times_s) SELECT device_id, kernel_id, a + i, b, c, d, batch, type, layout, math, status, "
             "time_s, samples, "
             "sample_times_s FROM measurements, n WHERE id = 1",
             (long long)more);
    exec(store, sql);
    for (int i = 0; i < 40; i++) {
        m = measurement(1000000 + i);
        assert_int_equal(ks_store_add(store, &m, raw), KS_OK);
    }
    assert_int_equal(info_of(store).measurements, 1 + more + 40);
    assert_int_equal(
        ks_sql_one_int(store, "SELECT count(*) FROM measurements WHERE sample_times_s IS NOT NULL", &with), KS_OK);
    assert_int_equal(with, KS_RAW_ROWS);
    assert_int_equal(
        ks_sql_one_int(store, "SELECT length(sample_times_s) FROM measurements ORDER BY id DESC", &bytes), KS_OK);
    assert_int_equal(bytes, sizeof raw);
    assert_sound(store);
    ks_store_close(store);
}

/* --- devices and models ------------------------------------------------------------------------------------ */

static bool count_device(void *user, const ks_device *device)
{
    assert_true(*device->name);
    return ++*(int *)user, true;
}

static void test_devices(void **state)
{
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    ks_device in = {.backend = KS_CUDA,
                    .index = 1,
                    .name = "NVIDIA H100",
                    .arch = "sm_90",
                    .units = 132,
                    .l2_bytes = 50 << 20,
                    .memory_bytes = INT64_C(85520809984),
                    .driver = "580",
                    .runtime = "13.0",
                    .blas = "cuBLAS 13",
                    .copy_bytes_per_s = 3e12,
                    .gemm_flops_per_s = {5.16e13, 7.21e14, 0, 1e13}};
    ks_device out;
    assert_failure(ks_store_get_device(store, in.name, &out), KS_ERR_NO_DATA, in.name, NULL);
    assert_int_equal(ks_store_put_device(store, &in), KS_OK);
    assert_int_equal(ks_store_get_device(store, in.name, &out), KS_OK);
    assert_memory_equal(&in, &out, sizeof in);

    ks_device again = in;
    strcpy(again.driver, "590");
    again.copy_bytes_per_s = 0;
    again.gemm_flops_per_s[KS_F32] = 0;
    again.gemm_flops_per_s[KS_BF16] = 7e14;
    assert_int_equal(ks_store_put_device(store, &again), KS_OK);
    assert_int_equal(ks_store_get_device(store, in.name, &out), KS_OK);
    assert_string_equal(out.driver, "590");
    assert_true(out.copy_bytes_per_s == 3e12);
    assert_true(out.gemm_flops_per_s[KS_F32] == 5.16e13);
    assert_true(out.gemm_flops_per_s[KS_BF16] == 7e14);

    again.copy_bytes_per_s = -1;
    assert_failure(ks_store_put_device(store, &again), KS_ERR_ARGUMENT, "-1", in.name);
    again = in, again.name[0] = '\0';
    assert_failure(ks_store_put_device(store, &again), KS_ERR_ARGUMENT, "no name", NULL);

    add(store, 1); /* brings its device along, by name alone */
    int count = 0;
    assert_int_equal(ks_store_each_device(store, count_device, &count), KS_OK);
    assert_int_equal(count, 2);
    assert_int_equal(ks_store_get_device(store, "A Device (2 threads)", &out), KS_OK);
    assert_int_equal(out.units, 0);
    ks_store_close(store);
}

static bool take_model(void *user, const ks_model_row *row)
{
    ks_model_row *out = user;
    char *json = strdup(row->json);
    free((void *)(uintptr_t)out->json);
    *out = *row;
    out->json = json;
    return true;
}

static void test_models(void **state)
{
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    ks_model_row row = {"D", KS_BF16, KS_BATCH_LAST, KS_ENERGY, 123, 0.01, 1.7e9, "{\"w\":[1,2]}"}, out = {0};
    assert_int_equal(ks_store_put_model(store, &row), KS_OK);
    row.json = "{\"w\":[3]}", row.cv_regret = NAN, row.fitted_at_s = 1.6e9; /* older: replaces all the same */
    assert_int_equal(ks_store_put_model(store, &row), KS_OK);
    assert_int_equal(info_of(store).models, 1);
    assert_int_equal(ks_store_each_model(store, NULL, take_model, &out), KS_OK);
    assert_string_equal(out.json, row.json);
    assert_string_equal(out.device, "D");
    assert_int_equal(out.type, KS_BF16);
    assert_int_equal(out.layout, KS_BATCH_LAST);
    assert_int_equal(out.objective, KS_ENERGY);
    assert_int_equal(out.rows, 123);
    assert_true(isnan(out.cv_regret));
    free((void *)(uintptr_t)out.json);
    out = (ks_model_row){0};
    assert_int_equal(ks_store_each_model(store, "E", take_model, &out), KS_OK);
    assert_null(out.json);
    row.json = NULL;
    assert_failure(ks_store_put_model(store, &row), KS_ERR_ARGUMENT, "D", NULL);
    row.json = "{}", row.objective = (ks_objective)9;
    assert_failure(ks_store_put_model(store, &row), KS_ERR_ARGUMENT, "9", NULL);
    ks_store_close(store);
}

/* --- merging, importing ------------------------------------------------------------------------------------ */

static void test_merge(void **state)
{
    const char *paths[] = {sandbox_path(state, "to.db"), sandbox_path(state, "from.db")};
    ks_store *to = opened(paths[0], KS_STORE_WRITE), *from = opened(paths[1], KS_STORE_WRITE);
    ks_measurement m = measurement(5);
    double raw[3] = {1, 2, 3};
    ks_device device = {.name = "A Device (2 threads)", .arch = "avx2", .units = 2, .copy_bytes_per_s = 1e10};
    ks_model_row model = {"D", KS_F32, KS_BATCH_FIRST, KS_TIME, 1, NAN, 100, "{\"new\":1}"}, out = {0};
    int64_t added = -1;
    for (int i = 1; i <= 3; i++) add(to, i);
    for (int i = 2; i <= 4; i++) add(from, i);
    assert_int_equal(ks_store_add(from, &m, raw), KS_OK);
    assert_int_equal(ks_store_put_device(from, &device), KS_OK);
    assert_int_equal(ks_store_put_model(from, &model), KS_OK);
    model.fitted_at_s = 50, model.json = "{\"old\":1}";
    assert_int_equal(ks_store_put_model(to, &model), KS_OK);
    ks_store_close(from);

    from = opened(paths[1], KS_STORE_READ);
    assert_int_equal(ks_store_merge(to, from, &added), KS_OK);
    assert_int_equal(added, 2);
    assert_int_equal(info_of(to).measurements, 5);
    assert_int_equal(ks_store_merge(to, from, &added), KS_OK);
    assert_int_equal(added, 0);
    assert_int_equal(info_of(to).measurements, 5);
    assert_int_equal(ks_store_get_device(to, device.name, &device), KS_OK);
    assert_int_equal(device.units, 2); /* facts for a device that was a mere name */
    assert_int_equal(ks_store_each_model(to, NULL, take_model, &out), KS_OK);
    assert_string_equal(out.json, "{\"new\":1}"); /* newer */
    int64_t bytes;
    assert_int_equal(ks_sql_one_int(to, "SELECT length(sample_times_s) FROM measurements WHERE a = 5", &bytes),
                     KS_OK);
    assert_int_equal(bytes, sizeof raw);

    /* back: nothing new, an older model stays away; and facts that are there stay */
    model.fitted_at_s = 10, model.json = "{\"older\":1}";
    assert_int_equal(ks_store_put_model(to, &model), KS_OK);
    ks_store_close(from);
    from = opened(paths[1], KS_STORE_WRITE);
    strcpy(device.arch, "other");
    assert_int_equal(ks_store_put_device(to, &device), KS_OK);
    assert_int_equal(ks_store_merge(from, to, &added), KS_OK);
    assert_int_equal(added, 1);
    assert_int_equal(ks_store_each_model(from, NULL, take_model, &out), KS_OK);
    assert_string_equal(out.json, "{\"new\":1}");
    assert_int_equal(ks_store_get_device(from, device.name, &device), KS_OK);
    assert_string_equal(device.arch, "avx2");
    free((void *)(uintptr_t)out.json);

    /* with itself: nothing to do, and no waiting */
    ks_store *self = opened(paths[0], KS_STORE_READ);
    assert_int_equal(ks_store_merge(to, self, &added), KS_OK);
    assert_int_equal(added, 0);
    ks_store_close(self);
    assert_sound(to);
    assert_sound(from);
    ks_store_close(to);
    ks_store_close(from);
}

static void test_import_is_all_or_nothing(void **state)
{
    ks_store *store = opened(sandbox_path(state, "s.db"), KS_STORE_WRITE);
    ks_measurement rows[3] = {measurement(1), measurement(2), measurement(1)};
    ks_table table = {rows, 3};
    int64_t added = -1;
    rows[1].time_s = -1;
    assert_failure(ks_store_import(store, &table, &added), KS_ERR_ARGUMENT, "row 2", "-1");
    assert_int_equal(added, 0);
    assert_int_equal(info_of(store).measurements, 0);
    rows[1].time_s = 1;
    assert_int_equal(ks_store_import(store, &table, &added), KS_OK);
    assert_int_equal(added, 2);
    assert_int_equal(ks_store_import(store, &table, &added), KS_OK);
    assert_int_equal(added, 0);
    ks_store_close(store);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_measurements),
        TEST(test_bad_measurements_are_refused),
        TEST(test_bad_rows_are_passed_over),
        TEST(test_same_row_is_not_doubled),
        TEST(test_samples_are_thinned),
        TEST(test_devices),
        TEST(test_models),
        TEST(test_merge),
        TEST(test_import_is_all_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
