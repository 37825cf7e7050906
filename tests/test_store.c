/* The store: what comes back is what went in; it is there when the call returned, whoever is killed when; several
 * write at once; and every file that cannot be a store is named, refused, and left as it was. */
#include "csv.h"
#include "place.h"
#include "sandbox.h"
#include "sql.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static ks_store *opened(const char *path, ks_store_mode mode)
{
    ks_store *store;
    ks_status status = ks_store_open(&store, path, mode);
    if (status != KS_OK) fail_msg("%s: %s", path, ks_status_message(status));
    return store;
}

static ks_measurement measurement(int64_t a)
{
    ks_measurement m = {.problem = {a, 48, 64, 3, 25088, KS_F16, KS_BATCH_LAST, KS_MATH_F32},
                        .device = "A Device (2 threads)",
                        .kernel = "fused.cpu",
                        .kernel_version = 3,
                        .family = KS_FUSED,
                        .status = KS_OK,
                        .reason = "tie",
                        .time_s = 1.0 / 3.0,
                        .spread = 0.01,
                        .energy_j = NAN,
                        .samples = 3,
                        .measured_at_s = 1.7e9 + (double)a};
    return m;
}

static void add(ks_store *store, int64_t a)
{
    ks_measurement m = measurement(a);
    ks_status status = ks_store_add(store, &m, NULL);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
}

static ks_store_info info_of(ks_store *store)
{
    ks_store_info info;
    assert_int_equal(ks_store_info_get(store, &info), KS_OK);
    return info;
}

static void print_finding(void *user, const char *finding)
{
    (void)user;
    print_message("finding: %s\n", finding);
}

static void assert_sound(ks_store *store)
{
    assert_int_equal(ks_store_check(store, print_finding, NULL), KS_OK);
}

static void exec(ks_store *store, const char *sql)
{
    ks_status status = ks_sql_exec(store, sql);
    if (status != KS_OK) fail_msg("%s: %s", sql, ks_status_message(status));
}

typedef struct seen {
    int count;
    ks_measurement rows[8];
    int stop_after;
} seen;

static bool see(void *user, const ks_measurement *m)
{
    seen *s = user;
    if (s->count < 8) s->rows[s->count] = *m;
    s->count++;
    return s->count != s->stop_after;
}

/* --- what comes back --------------------------------------------------------------------------------------- */

static void assert_same(const ks_measurement *x, const ks_measurement *y)
{
    assert_memory_equal(&x->problem, &y->problem, sizeof x->problem);
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

/* --- files that are no stores ------------------------------------------------------------------------------ */

static void assert_refused(const char *path, ks_store_mode mode, const char *part)
{
    ks_store *store = (ks_store *)1;
    size_t bytes = 0;
    struct stat facts;
    bool file = stat(path, &facts) == 0 && S_ISREG(facts.st_mode) && access(path, R_OK) == 0;
    char *before = file ? file_read(path, &bytes) : NULL;
    assert_failure(ks_store_open(&store, path, mode), KS_ERR_STORE, path, part);
    assert_null(store);
    if (file) file_assert_equal(path, before, bytes);
    free(before);
}

static void test_no_store_there(void **state)
{
    const char *file = sandbox_path(state, "file");
    file_write(file, "hello", 5);
    assert_refused(sandbox_path(state, "none.db"), KS_STORE_READ, "No such file");
    assert_int_equal(access(sandbox_path(state, "none.db"), F_OK), -1);
    assert_refused(sandbox_path(state, "no/dir/none.db"), KS_STORE_READ, "No such file");
    assert_int_equal(access(sandbox_path(state, "no"), F_OK), -1);
    assert_refused(sandbox_path(state, "file/s.db"), KS_STORE_READ, "Not a directory");
    assert_refused(sandbox_path(state, "file/s.db"), KS_STORE_WRITE, "not a directory");
    file_assert_equal(file, "hello", 5);

    assert_int_equal(mkdir(sandbox_path(state, "dir"), 0777), 0);
    assert_int_equal(mkfifo(sandbox_path(state, "fifo"), 0666), 0);
    assert_int_equal(symlink("nowhere/at/all", sandbox_path(state, "link")), 0);
    for (int mode = KS_STORE_READ; mode <= KS_STORE_WRITE; mode++) {
        assert_refused(sandbox_path(state, "dir"), (ks_store_mode)mode, "a directory");
        assert_refused(sandbox_path(state, "fifo"), (ks_store_mode)mode, "a FIFO"); /* does not block */
        assert_refused(sandbox_path(state, "link"), (ks_store_mode)mode, NULL);
        assert_refused("/dev/null", (ks_store_mode)mode, "a device");
    }
    ks_store *store;
    assert_failure(ks_store_open(&store, "", KS_STORE_READ), KS_ERR_ARGUMENT, "empty", NULL);
}

static void test_garbage(void **state)
{
    const char *path = sandbox_path(state, "garbage.db");
    char noise[5000];
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)(i * 7919 >> 3);
    static const size_t lengths[] = {1, 15, 16, 99, 100, 512, 4096, sizeof noise};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        file_write(path, noise, lengths[i]);
        assert_refused(path, KS_STORE_READ, "not a ksauto store");
        assert_refused(path, KS_STORE_WRITE, "not a ksauto store");
    }
    file_write(path, "SQLite format 3", 16);
    assert_refused(path, KS_STORE_WRITE, "not a ksauto store");

    /* nothing at all: no harm in taking it over, and a writer killed at the start leaves just that */
    file_write(path, "", 0);
    assert_refused(path, KS_STORE_READ, "empty");
    ks_store *store = opened(path, KS_STORE_WRITE);
    add(store, 1);
    ks_store_close(store);
}

static void make_store(const char *path, int rows)
{
    ks_store *store = opened(path, KS_STORE_WRITE);
    for (int i = 1; i <= rows; i++) add(store, i);
    ks_store_close(store);
}

static void test_foreign_and_newer(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    static const unsigned char foreign[4] = {0, 0, 0, 0}, other[4] = {1, 2, 3, 4}, own[4] = {0x6b, 0x73, 0x61, 0x75},
                               newer[4] = {0, 0, 0, 7};
    make_store(path, 3);
    file_patch(path, 68, foreign, 4);
    assert_refused(path, KS_STORE_READ, "not a ksauto store");
    assert_refused(path, KS_STORE_WRITE, "not a ksauto store");
    file_patch(path, 68, other, 4);
    assert_refused(path, KS_STORE_READ, "16909060");
    assert_refused(path, KS_STORE_WRITE, "16909060");
    file_patch(path, 68, own, 4);
    file_patch(path, 60, newer, 4);
    assert_refused(path, KS_STORE_READ, "schema 7, this library knows schema 1");
    assert_refused(path, KS_STORE_WRITE, "schema 7, this library knows schema 1");

    /* newer in the log alone, as a newer ksauto that was killed leaves it */
    const char *other_path = sandbox_path(state, "t.db");
    make_store(other_path, 3);
    pid_t child = fork();
    if (child == 0) {
        ks_store *store;
        bool good = ks_store_open(&store, other_path, KS_STORE_WRITE) == KS_OK &&
                    ks_sql_exec(store, "PRAGMA user_version = 7") == KS_OK;
        _exit(good ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_refused(other_path, KS_STORE_READ, "schema 7, this library knows schema 1");
    assert_refused(other_path, KS_STORE_WRITE, "schema 7, this library knows schema 1");
}

static void test_migration(void **state)
{
    /* version 0 with our name on it, and nothing inside: brought forward */
    const char *path = sandbox_path(state, "zero.db");
    make_store(path, 0);
    ks_store *store = opened(path, KS_STORE_WRITE);
    exec(store, "DROP TABLE measurements; DROP TABLE models; DROP TABLE kernels; DROP TABLE devices; "
                "PRAGMA user_version = 0");
    ks_store_close(store);
    assert_refused(path, KS_STORE_READ, "schema 0, this library reads schema 1");
    store = opened(path, KS_STORE_WRITE);
    assert_int_equal(info_of(store).schema, 1);
    add(store, 1);
    assert_sound(store);
    ks_store_close(store);

    /* a step that fails half-way leaves no trace: the last table of the schema is in the way */
    store = opened(path, KS_STORE_WRITE);
    exec(store, "DROP TABLE measurements; DROP TABLE kernels; DROP TABLE devices; PRAGMA user_version = 0; "
                "PRAGMA journal_mode = DELETE");
    ks_store_close(store);
    assert_refused(path, KS_STORE_WRITE, "models already exists");
}

static void test_damaged(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    make_store(path, 200);
    size_t bytes;
    char *good = file_read(path, &bytes);
    assert_true(bytes > 8 * 4096);
    unsigned seed = 1;
    for (int round = 0; round < 60; round++) {
        char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        size_t from = round < 20 ? 100 : 4096; /* the schema's page, or any */
        for (int i = 0; i < 200; i++) {
            seed = seed * 1103515245u + 12345u;
            size_t at = from + (seed >> 8) % ((round < 20 ? 4096 : bytes) - from);
            bad[at] = (char)(seed >> 3);
        }
        file_write(path, bad, round % 3 == 2 ? bytes / 2 + 17 : bytes);
        ks_store *store;
        seen s = {0};
        if (ks_store_open(&store, path, KS_STORE_READ) == KS_OK) { /* any status, but no crash and no change */
            ks_status status = ks_store_each(store, NULL, see, &s);
            assert_true(status == KS_OK || status == KS_ERR_STORE);
            ks_store_info info;
            ks_store_info_get(store, &info);
            ks_store_check(store, NULL, NULL);
            ks_store_close(store);
        }
        file_assert_equal(path, bad, round % 3 == 2 ? bytes / 2 + 17 : bytes);
        free(bad);
    }
    free(good);
}

/* --- permissions: as nobody, since root may everything ------------------------------------------------------ */

static void as_nobody(void (*what)(const char *), const char *directory)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(77);
        what(directory);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    assert_int_equal(status, 0);
}

#define MUST(condition)                                                                                              \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                          \
            fprintf(stderr, "%s\n", ks_status_message(KS_ERR_STORE));                                                \
            _exit(1);                                                                                                \
        }                                                                                                            \
    } while (0)

static void try_read_only_file(const char *directory)
{
    ks_store *store;
    char path[512];
    snprintf(path, sizeof path, "%s/s.db", directory);
    MUST(ks_store_open(&store, path, KS_STORE_WRITE) == KS_ERR_STORE);
    MUST(strstr(ks_status_message(KS_ERR_STORE), path));
    MUST(strstr(ks_status_message(KS_ERR_STORE), "read-only"));
    MUST(ks_store_open(&store, path, KS_STORE_READ) == KS_OK); /* in a directory that cannot hold -shm */
    seen s = {0};
    MUST(ks_store_each(store, NULL, see, &s) == KS_OK);
    MUST(s.count == 3);
    ks_store_close(store);
    snprintf(path, sizeof path, "%s/new.db", directory);
    MUST(ks_store_open(&store, path, KS_STORE_WRITE) == KS_ERR_STORE);
    MUST(strstr(ks_status_message(KS_ERR_STORE), path));
    MUST(strstr(ks_status_message(KS_ERR_STORE), "denied"));
    snprintf(path, sizeof path, "%s/a/b/new.db", directory);
    MUST(ks_store_open(&store, path, KS_STORE_WRITE) == KS_ERR_STORE);
    MUST(strstr(ks_status_message(KS_ERR_STORE), "denied"));
}

static void try_secret_file(const char *directory)
{
    ks_store *store;
    char path[512];
    snprintf(path, sizeof path, "%s/s.db", directory);
    for (int mode = KS_STORE_READ; mode <= KS_STORE_WRITE; mode++) {
        MUST(ks_store_open(&store, path, (ks_store_mode)mode) == KS_ERR_STORE);
        MUST(strstr(ks_status_message(KS_ERR_STORE), path));
        MUST(strstr(ks_status_message(KS_ERR_STORE), "denied"));
    }
}

static void test_permissions(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    make_store(path, 3);
    size_t bytes;
    char *before = file_read(path, &bytes);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(*state, 0555), 0);
    as_nobody(try_read_only_file, *state);
    file_assert_equal(path, before, bytes);
    assert_int_equal(chmod(path, 0000), 0);
    as_nobody(try_secret_file, *state);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(chmod(*state, 0755), 0);
    file_assert_equal(path, before, bytes);
    free(before);
}

static void test_directories_follow_the_umask(void **state)
{
    mode_t before = umask(027);
    ks_store_close(opened(sandbox_path(state, "x/y/s.db"), KS_STORE_WRITE));
    umask(before);
    struct stat facts;
    assert_int_equal(stat(sandbox_path(state, "x/y"), &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0750);
}

/* --- several processes ------------------------------------------------------------------------------------- */

static void add_many(const char *path, int64_t from, int count)
{
    ks_store *store;
    MUST(ks_store_open(&store, path, KS_STORE_WRITE) == KS_OK); /* also races to create it */
    for (int i = 0; i < count; i++) {
        ks_measurement m = measurement(from + i);
        MUST(ks_store_add(store, &m, NULL) == KS_OK);
    }
    ks_store_close(store);
    _exit(0);
}

static void test_writers_at_once(void **state)
{
    enum { WRITERS = 4, EACH = 40 };
    for (int round = 0; round < 3; round++) {
        const char *path = sandbox_path(state, round == 0 ? "0/s.db" : round == 1 ? "1/s.db" : "2/s.db");
        pid_t children[WRITERS];
        for (int i = 0; i < WRITERS; i++) {
            children[i] = fork();
            assert_true(children[i] >= 0);
            if (children[i] == 0) add_many(path, 1 + 1000 * i, EACH);
        }
        for (int i = 0; i < WRITERS; i++) {
            int status;
            assert_int_equal(waitpid(children[i], &status, 0), children[i]);
            assert_int_equal(status, 0);
        }
        ks_store *store = opened(path, KS_STORE_READ);
        assert_int_equal(info_of(store).measurements, WRITERS * EACH);
        assert_sound(store);
        ks_store_close(store);
    }
}

static void kill_a_writer(const char *path, bool network, int acknowledged)
{
    int pipe_ends[2], status;
    char byte;
    assert_int_equal(pipe(pipe_ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ks_store *store;
        MUST(ks_store_open_on(&store, path, KS_STORE_WRITE, network) == KS_OK);
        for (int64_t i = 1;; i++) {
            ks_measurement m = measurement(i);
            MUST(ks_store_add(store, &m, NULL) == KS_OK);
            MUST(write(pipe_ends[1], "x", 1) == 1);
        }
    }
    close(pipe_ends[1]);
    for (int i = 0; i < acknowledged; i++) assert_int_equal(read(pipe_ends[0], &byte, 1), 1);
    usleep((useconds_t)(acknowledged * 37 % 1000)); /* somewhere in the middle of the next */
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    while (read(pipe_ends[0], &byte, 1) == 1) acknowledged++;
    close(pipe_ends[0]);

    ks_store *store = opened(path, KS_STORE_READ); /* a reader alone must get over it */
    int64_t count = info_of(store).measurements;
    assert_true(count == acknowledged || count == acknowledged + 1);
    assert_sound(store);
    ks_store_close(store);
    assert_int_equal(ks_store_open_on(&store, path, KS_STORE_WRITE, network), KS_OK);
    add(store, 1000000);
    assert_int_equal(info_of(store).measurements, count + 1);
    ks_store_close(store);
}

static void test_kill(void **state)
{
    for (int round = 0; round < 24; round++) {
        char name[16];
        snprintf(name, sizeof name, "%d.db", round);
        kill_a_writer(sandbox_path(state, name), round % 2 != 0, 1 + round * 3);
    }
}

/* Killed at any instant of its creation, a store is empty, whole or to be brought forward: never in the way. */
static void test_kill_while_created(void **state)
{
    for (int round = 0; round < 40; round++) {
        char name[16];
        snprintf(name, sizeof name, "%d.db", round);
        const char *path = sandbox_path(state, name);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            ks_store *store;
            MUST(ks_store_open_on(&store, path, KS_STORE_WRITE, round % 2 != 0) == KS_OK);
            _exit(0);
        }
        usleep((useconds_t)(round * 200));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        ks_store *store = opened(path, KS_STORE_WRITE);
        add(store, 1);
        assert_sound(store);
        ks_store_close(store);
    }
}

/* A transaction that has reached the file and is not committed, and a process that is gone: a hot journal. */
static void test_hot_journal(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    int status;
    ks_store *store;
    assert_int_equal(ks_store_open_on(&store, path, KS_STORE_WRITE, true), KS_OK);
    for (int i = 1; i <= 20; i++) add(store, i);
    ks_store_close(store);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        MUST(ks_store_open_on(&store, path, KS_STORE_WRITE, true) == KS_OK);
        MUST(ks_sql_exec(store, "PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE; "
                                "UPDATE measurements SET reason = hex(zeroblob(40)); "
                                "UPDATE measurements SET reason = hex(zeroblob(47))") == KS_OK);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    struct stat journal;
    assert_int_equal(stat(sandbox_path(state, "s.db-journal"), &journal), 0);
    assert_true(journal.st_size > 512);

    store = opened(path, KS_STORE_READ);
    seen s = {0};
    assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
    assert_int_equal(s.count, 20);
    assert_string_equal(s.rows[0].reason, "tie");
    assert_sound(store);
    ks_measurement m = measurement(21);
    assert_failure(ks_store_add(store, &m, NULL), KS_ERR_STORE, path, "reading only");
    ks_store_close(store);
}

static void test_locked(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    ks_measurement m = measurement(2);
    seen s = {0};
    make_store(path, 1);
    ks_store *holder = opened(path, KS_STORE_WRITE), *other = opened(path, KS_STORE_WRITE);
    assert_int_equal(ks_sql_begin(holder), KS_OK);
    exec(other, "PRAGMA busy_timeout = 50");
    assert_failure(ks_store_add(other, &m, NULL), KS_ERR_STORE, path, "locked by another process");
    ks_store *reader = opened(path, KS_STORE_READ); /* WAL: readers do not mind */
    assert_int_equal(ks_store_each(reader, NULL, see, &s), KS_OK);
    assert_int_equal(s.count, 1);
    ks_store_close(reader);
    assert_int_equal(ks_sql_end(holder, KS_OK), KS_OK);
    assert_int_equal(ks_store_add(other, &m, NULL), KS_OK);
    ks_store_close(other);
    ks_store_close(holder);

    const char *remote = sandbox_path(state, "remote.db");
    assert_int_equal(ks_store_open_on(&holder, remote, KS_STORE_WRITE, true), KS_OK);
    exec(holder, "BEGIN EXCLUSIVE");
    assert_refused(remote, KS_STORE_READ, "locked by another process for more than 0.2 s");
    ks_store_close(holder);
}

static void test_full_disk(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    make_store(path, 1);
    ks_store *store = opened(path, KS_STORE_WRITE);
    exec(store, "PRAGMA max_page_count = 1"); /* SQLite: as many as there are */
    ks_status status = KS_OK;
    int64_t before = 0;
    ks_measurement m;
    for (int i = 2; i < 1000 && status == KS_OK; i++) {
        before = info_of(store).measurements;
        m = measurement(i);
        status = ks_store_add(store, &m, NULL);
    }
    assert_failure(status, KS_ERR_STORE, path, "the disk is full");
    assert_int_equal(info_of(store).measurements, before);
    exec(store, "PRAGMA max_page_count = 100000"); /* room again: the same connection goes on */
    assert_int_equal(ks_store_add(store, &m, NULL), KS_OK);
    assert_sound(store);
    ks_store_close(store);
}

/* --- file systems ------------------------------------------------------------------------------------------ */

static void test_network(void **state)
{
    static const uint64_t remote[] = {0x6969, 0xFF534D42, UINT64_C(0xFFFFFFFFFF534D42), 0x65735546, 0x0BD00BD0},
                          local[] = {0xEF53, 0x01021994, 0x58465342, 0x9123683E, 0x794C7630};
    for (int i = 0; i < 5; i++) {
        assert_true(ks_place_type_is_network(remote[i]));
        assert_false(ks_place_type_is_network(local[i])); /* ext4, tmpfs, XFS, Btrfs, overlay */
    }
    const char *path = sandbox_path(state, "s.db");
    ks_store *store;
    assert_int_equal(ks_store_open_on(&store, path, KS_STORE_WRITE, true), KS_OK);
    add(store, 1);
    assert_string_equal(info_of(store).journal, "delete");
    int64_t synchronous;
    assert_int_equal(ks_sql_one_int(store, "PRAGMA synchronous", &synchronous), KS_OK);
    assert_int_equal(synchronous, 2);
    assert_int_equal(access(sandbox_path(state, "s.db-wal"), F_OK), -1);
    ks_store_close(store);

    store = opened(path, KS_STORE_WRITE); /* here it is local: WAL */
    assert_string_equal(info_of(store).journal, "wal");
    assert_int_equal(ks_sql_one_int(store, "PRAGMA synchronous", &synchronous), KS_OK);
    assert_int_equal(synchronous, 2);
    add(store, 2);
    ks_store *held;
    assert_failure(ks_store_open_on(&held, path, KS_STORE_WRITE, true), KS_ERR_STORE, path, NULL); /* in use */
    ks_store_close(store);

    assert_int_equal(ks_store_open_on(&store, path, KS_STORE_WRITE, true), KS_OK); /* moved to a network */
    assert_string_equal(info_of(store).journal, "delete");
    add(store, 3);
    ks_store *second; /* and is not held for oneself */
    assert_int_equal(ks_store_open_on(&second, path, KS_STORE_WRITE, true), KS_OK);
    add(second, 4);
    assert_int_equal(info_of(store).measurements, 4);
    ks_store_close(second);
    ks_store_close(store);
}

static void test_path(void **state)
{
    char path[64];
    (void)state;
    unsetenv("KSAUTO_DB"), unsetenv("XDG_DATA_HOME"), unsetenv("HOME");
    assert_failure(ks_store_path(NULL, path, sizeof path), KS_ERR_STORE, "HOME", NULL);
    setenv("HOME", "/h", 1);
    assert_int_equal(ks_store_path("", path, sizeof path), KS_OK);
    assert_string_equal(path, "/h/.local/share/ksauto/ksauto.db");
    setenv("XDG_DATA_HOME", "relative", 1);
    assert_int_equal(ks_store_path(NULL, path, sizeof path), KS_OK);
    assert_string_equal(path, "/h/.local/share/ksauto/ksauto.db");
    setenv("XDG_DATA_HOME", "/x", 1);
    assert_int_equal(ks_store_path(NULL, path, sizeof path), KS_OK);
    assert_string_equal(path, "/x/ksauto/ksauto.db");
    setenv("KSAUTO_DB", "k.db", 1);
    assert_int_equal(ks_store_path(NULL, path, sizeof path), KS_OK);
    assert_string_equal(path, "k.db");
    assert_int_equal(ks_store_path("e.db", path, sizeof path), KS_OK);
    assert_string_equal(path, "e.db");
    assert_failure(ks_store_path("e.db", path, 4), KS_ERR_STORE, "4 bytes, at most 3", NULL);
    assert_int_equal(ks_store_path("e.db", path, 5), KS_OK);
}

/* Names that SQLite would take for something else than files. */
static void test_odd_names(void **state)
{
    char before[512];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(*state), 0);
    static const char *const names[] = {":memory:", "file:x?mode=memory", "file::memory:", "%00.db", " "};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        make_store(names[i], 1);
        assert_int_equal(access(names[i], F_OK), 0);
        ks_store *store = opened(names[i], KS_STORE_READ);
        assert_int_equal(info_of(store).measurements, 1);
        ks_store_close(store);
    }
    assert_int_equal(chdir(before), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_measurements),
        TEST(test_bad_measurements_are_refused),
        TEST(test_bad_rows_are_passed_over),
        TEST(test_same_row_is_not_doubled),
        TEST(test_devices),
        TEST(test_models),
        TEST(test_merge),
        TEST(test_import_is_all_or_nothing),
        TEST(test_no_store_there),
        TEST(test_garbage),
        TEST(test_foreign_and_newer),
        TEST(test_migration),
        TEST(test_damaged),
        TEST(test_permissions),
        TEST(test_directories_follow_the_umask),
        TEST(test_writers_at_once),
        TEST(test_kill),
        TEST(test_kill_while_created),
        TEST(test_hot_journal),
        TEST(test_locked),
        TEST(test_full_disk),
        TEST(test_network),
        TEST(test_path),
        TEST(test_odd_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
