/* What the tests of stores share. Everything here may fail the test at hand, so threads and children must not use it. */
#include "stores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

ks_store *opened(const char *path, ks_store_mode mode)
{
    ks_store *store;
    ks_status status = ks_store_open(&store, path, mode);
    if (status != KS_OK) fail_msg("%s: %s", path, ks_status_message(status));
    return store;
}

ks_measurement measurement(int64_t a)
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

void add(ks_store *store, int64_t a)
{
    ks_measurement m = measurement(a);
    ks_status status = ks_store_add(store, &m, NULL);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
}

ks_store_info info_of(ks_store *store)
{
    ks_store_info info;
    assert_int_equal(ks_store_info_get(store, &info), KS_OK);
    return info;
}

void assert_same_problem(const ks_problem *p, const ks_problem *q)
{
    assert_true(p->a == q->a && p->b == q->b && p->c == q->c && p->d == q->d && p->batch == q->batch);
    assert_true(p->type == q->type && p->layout == q->layout && p->math == q->math);
}

static void print_finding(void *user, const char *finding)
{
    (void)user;
    print_message("finding: %s\n", finding);
}

void assert_sound(ks_store *store)
{
    assert_int_equal(ks_store_check(store, print_finding, NULL), KS_OK);
}

void exec(ks_store *store, const char *sql)
{
    ks_status status = ks_sql_exec(store, sql);
    if (status != KS_OK) fail_msg("%s: %s", sql, ks_status_message(status));
}

bool see(void *user, const ks_measurement *m)
{
    seen *s = user;
    if (s->count < 8) s->rows[s->count] = *m;
    s->count++;
    return s->count != s->stop_after;
}

void assert_refused(const char *path, ks_store_mode mode, const char *part)
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

void make_store(const char *path, int rows)
{
    ks_store *store = opened(path, KS_STORE_WRITE);
    for (int i = 1; i <= rows; i++) add(store, i);
    ks_store_close(store);
}
