/* The CPU's energy counters, forged: what counts, counters that go round, and what cannot be read. */
#include "rapl.h"
#include "sandbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;

static void write_text(const char *zone, const char *file, const char *text)
{
    char path[KS_RAPL_PATH];
    snprintf(path, sizeof path, "%s/%s/%s", root, zone, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void set(const char *zone, uint64_t microjoules)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64 "\n", microjoules);
    write_text(zone, "energy_uj", text);
}

static void make_zone(const char *zone, const char *name, uint64_t range, uint64_t microjoules)
{
    char path[KS_RAPL_PATH], text[32];
    snprintf(path, sizeof path, "%s/%s", root, zone);
    assert_int_equal(mkdir(path, 0755), 0);
    snprintf(text, sizeof text, "%" PRIu64 "\n", range);
    write_text(zone, "name", name);
    write_text(zone, "max_energy_range_uj", text);
    set(zone, microjoules);
}

static void take_away(const char *zone, const char *file)
{
    char path[KS_RAPL_PATH];
    snprintf(path, sizeof path, "%s/%s/%s", root, zone, file);
    assert_int_equal(unlink(path), 0);
}

/* Two packages, one with memory, and much that must not be counted twice. */
static int enter(void **state)
{
    if (sandbox_enter(state) != 0) return -1;
    root = sandbox_path(state, "powercap");
    assert_int_equal(mkdir(root, 0755), 0);
    make_zone("intel-rapl:0", "package-0\n", 1000000000, 5000000);
    make_zone("intel-rapl:1", "package-1\n", 1000000000, 999000000);
    make_zone("intel-rapl:0:0", "core\n", 1000000000, 1);
    make_zone("intel-rapl:0:1", "dram\n", 70000000, 0);
    make_zone("intel-rapl:2", "psys\n", 1000000000, 7);
    make_zone("intel-rapl-mmio:0", "package-0\n", 1000000000, 5000000);
    make_zone("dtpm", "dtpm\n", 1000000000, 0);
    return 0;
}

static void test_counts(void **state)
{
    ks_rapl r;
    (void)state;
    ks_rapl_open(&r, root);
    assert_int_equal(r.count, 3);
    assert_true(ks_rapl_read(&r) == 0);
    set("intel-rapl:0", 7000000); /* 2 J */
    set("intel-rapl:0:0", 900000000);
    set("intel-rapl:0:1", 500000); /* 0.5 J */
    set("intel-rapl:2", 900000000);
    set("intel-rapl-mmio:0", 900000000);
    assert_float_equal(ks_rapl_read(&r), 2.5, 1e-9);
    set("intel-rapl:1", 3000000); /* round: 1 J up to the end, 3 J from 0 */
    assert_float_equal(ks_rapl_read(&r), 6.5, 1e-9);
    for (int i = 1; i <= 10; i++) { /* and round again: 0.05 J and more each time */
        set("intel-rapl:0:1", 69950000);
        const double before = ks_rapl_read(&r);
        set("intel-rapl:0:1", 0);
        assert_float_equal(ks_rapl_read(&r) - before, 0.05, 1e-6);
    }
}

static void test_absent(void **state)
{
    ks_rapl r;
    ks_rapl_open(&r, sandbox_path(state, "nowhere"));
    assert_true(isnan(ks_rapl_read(&r)));
    assert_int_equal(mkdir(sandbox_path(state, "empty"), 0755), 0);
    ks_rapl_open(&r, sandbox_path(state, "empty"));
    assert_true(isnan(ks_rapl_read(&r)));
}

/* A counter that is there and cannot be read: no part is taken for the whole. */
static void test_unreadable(void **state)
{
    static const char *const bad[] = {"", "lots\n", "-5\n", "1000000001\n"};
    ks_rapl r;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text("intel-rapl:1", "energy_uj", bad[i]);
        ks_rapl_open(&r, root);
        assert_true(isnan(ks_rapl_read(&r)));
        set("intel-rapl:1", 1);
        ks_rapl_open(&r, root);
        assert_false(isnan(ks_rapl_read(&r)));
        write_text("intel-rapl:1", "energy_uj", bad[i]); /* while it is being read */
        assert_true(isnan(ks_rapl_read(&r)));
        set("intel-rapl:1", 1);
        assert_true(isnan(ks_rapl_read(&r))); /* and for good: what went by is not known */
    }
    if (geteuid() != 0) { /* to whom every file is readable */
        char path[KS_RAPL_PATH];
        snprintf(path, sizeof path, "%s/intel-rapl:1/energy_uj", root);
        assert_int_equal(chmod(path, 0), 0);
        ks_rapl_open(&r, root);
        assert_true(isnan(ks_rapl_read(&r)));
    }
    take_away("intel-rapl:1", "energy_uj");
    ks_rapl_open(&r, root);
    assert_true(isnan(ks_rapl_read(&r)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_counts, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_absent, enter, sandbox_leave),
                                       cmocka_unit_test_setup_teardown(test_unreadable, enter, sandbox_leave)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
