/* Stores made by somebody who means harm: SQL in the schema, values beyond all measure, names that a terminal would obey, links on
 * the way to a file. They are data: refused or passed over, in little time and memory. (Numbers and sizes that are not possible are
 * test_store's and test_model_json's, links in a file's own place test_bad_stores'.) */
#include "knowledge.h"
#include "place.h"
#include "seeds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { ROWS = 5 };

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33};

/* Without any of the library's caution. Returns whether this SQLite can do that at all. */
static bool spoil(const char *path, const char *sql)
{
    sqlite3 *db;
    char *why = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    const int code = sqlite3_exec(db, sql, NULL, NULL, &why);
    const bool lacks = why && strstr(why, "no such module");
    if (code != SQLITE_OK && !lacks) fail_msg("%s: %s", sql, why);
    sqlite3_free(why);
    sqlite3_close(db);
    return !lacks;
}

/* A context opens on it and multiplies; what it says of the store has this part (NULL: that it is a good one). */
static void assert_serves(const char *path, const char *part)
{
    const char *why;
    ks_context *ctx = context_open(&(ks_options){.store = path, .flags = KS_MEASURE, .measure_budget_s = 0.01});
    if (ks_store_status(ctx, &why) != (part ? KS_ERR_STORE : KS_OK)) fail_msg("\"%s\"", why);
    if (part && !strstr(why, part)) fail_msg("\"%s\" does not say \"%s\"", why, part);
    assert_product(ctx, &usual, NULL);
    ks_close(ctx);
}

/* ---- SQL in the schema ---- */

/* What stands in a table's place: views, endless ones too, columns that are computed, tables of a module. */
static void test_no_tables(void **state)
{
    static const char *const spoilt[] = {
        ("ALTER TABLE measurements RENAME TO m; CREATE VIEW measurements AS "
         "WITH RECURSIVE e(n) AS (SELECT 1 UNION ALL SELECT n FROM e) SELECT m.* FROM e, m"),
        "ALTER TABLE models RENAME TO m; CREATE VIEW models AS SELECT * FROM m",
        "ALTER TABLE measurements ADD COLUMN x TEXT AS (hex(zeroblob(a * 100000000)))",
        "ALTER TABLE devices RENAME TO m; CREATE VIRTUAL TABLE devices USING fts4(name)", "DROP TABLE kernels"};
    for (size_t i = 0; i < sizeof spoilt / sizeof *spoilt; i++) {
        char name[32];
        snprintf(name, sizeof name, "%zu.db", i);
        const char *path = sandbox_path(state, name);
        make_store(path, ROWS);
        if (!spoil(path, spoilt[i])) continue;
        assert_refused(path, KS_STORE_READ, "its tables are not those of a store");
        assert_refused(path, KS_STORE_WRITE, "its tables are not those of a store");
        assert_serves(path, "its tables are not those of a store");
        /* What can be read of it can be had all the same, without running anything. */
        const char *rescued = sandbox_path(state, "rescued.db");
        ks_store *from = opened(path, KS_STORE_SALVAGE), *to = opened(rescued, KS_STORE_WRITE);
        int64_t added;
        assert_int_equal(ks_store_salvage(to, from, &added), KS_OK);
        assert_sound(to);
        ks_store_close(to);
        ks_store_close(from);
        unlink(rescued);
    }
}

/* Triggers fire for nobody; a table, a view, an index of the user's own are no harm. */
static void test_triggers(void **state)
{
    static const char *const triggers[] = {
        "CREATE TRIGGER t AFTER INSERT ON measurements BEGIN DELETE FROM measurements; END",
        "CREATE TRIGGER t BEFORE INSERT ON measurements BEGIN SELECT raise(IGNORE); END",
        "CREATE TRIGGER t AFTER INSERT ON kernels BEGIN UPDATE measurements SET time_s = 1e-9; END",
        "CREATE TABLE mine (a, b); CREATE VIEW fast AS SELECT * FROM measurements WHERE time_s < 1e-5; CREATE INDEX "
        "by_batch ON "
        "measurements (batch)"};
    for (size_t i = 0; i < sizeof triggers / sizeof *triggers; i++) {
        char name[32];
        seen s = {0};
        snprintf(name, sizeof name, "%zu.db", i);
        const char *path = sandbox_path(state, name);
        make_store(path, ROWS);
        assert_true(spoil(path, triggers[i]));
        ks_store *store = opened(path, KS_STORE_WRITE);
        const double time_s = measurement(1).time_s;
        for (int row = 1; row <= 2; row++) {
            ks_measurement m = measurement(ROWS + row);
            m.kernel_version += 7; /* a new row of kernels, too */
            assert_int_equal(ks_store_add(store, &m, NULL), KS_OK);
        }
        assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
        assert_int_equal(s.count, ROWS + 2);
        for (int row = 0; row < s.count; row++) assert_true(s.rows[row].time_s == time_s);
        assert_sound(store);
        ks_store_close(store);
        assert_serves(path, NULL);
    }
}

/* ---- values ---- */

/* In a process of its own, whose memory is not counted. */
static void spoil_apart(const char *path, const char *sql)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sqlite3 *db;
        _exit(sqlite3_open(path, &db) != SQLITE_OK || sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK ||
              sqlite3_close(db) != SQLITE_OK);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* A long text is not taken into memory to find that it is too long. */
static void test_huge_values(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    char sql[512];
    struct rusage before, after;
    seen s = {0};
    ks_device cpu;
    ks_device_cpu(&cpu);
    make_store(path, ROWS);
    snprintf(sql, sizeof sql,
             "DROP INDEX measurements_identity; UPDATE devices SET name = '%s'; "
             "UPDATE measurements SET status = CAST(zeroblob(300000000) AS TEXT) WHERE id = 3",
             cpu.name);
    spoil_apart(path, sql);
    getrusage(RUSAGE_SELF, &before);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_failure(ks_store_each(store, NULL, see, &s), KS_ERR_STORE, path, "damaged");
    ks_store_close(store);
    assert_serves(path, "damaged");
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 200000); /* kB */
}

/* Control characters, of ASCII and of UTF-8, in whatever is shown. */
static void test_control_characters(void **state)
{
    static const char *const plain[] = {"", "a name", "R\xc3\xb6ssel \xe2\x82\xac"}, *const others[] = {
                                                                                         "\x1b[2J", "two\nlines",
                                                                                         "\x7f",    "\xc2\x9b[31m",
                                                                                         "bell\a",  "\x9d\xc2\x85"};
    static const char *const columns[] = {"name", "arch", "driver", "runtime", "blas"};
    char sql[256], json[1024];
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) assert_true(ks_text_is_plain(plain[i]));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) assert_false(ks_text_is_plain(others[i]));
    for (size_t column = 0; column < sizeof columns / sizeof *columns; column++) {
        char name[32];
        ks_device device;
        snprintf(name, sizeof name, "%zu.db", column);
        const char *path = sandbox_path(state, name);
        ks_device_cpu(&device);
        ks_store *store = opened(path, KS_STORE_WRITE);
        assert_int_equal(ks_store_put_device(store, &device), KS_OK);
        ks_store_close(store);
        snprintf(sql, sizeof sql, "UPDATE devices SET %s = 'x' || char(27) || ']0;y' || char(7)", columns[column]);
        assert_true(spoil(path, sql));
        store = opened(path, KS_STORE_READ);
        assert_int_equal(ks_store_get_device(store, device.name, &device), KS_ERR_NO_DATA);
        assert_failure(ks_store_check(store, NULL, NULL), KS_ERR_STORE, "1 finding", NULL);
        ks_store_close(store);
        /* nor does it come by a seed, or go into a store */
        snprintf(json, sizeof json, "{\"backend\":\"cpu\",\"units\":2,\"name\":\"A\",\"%s\":\"x\\u001b[31m\"}\n",
                 column == 0 ? "arch" : columns[column]);
        const ks_seed seed = {.name = "made", .text = json, .bytes = strlen(json)};
        assert_failure(ks_seed_read(&seed, &device, NULL, NULL), KS_ERR_PARSE, "made", "control characters");
    }
    ks_device device;
    ks_device_cpu(&device);
    strcpy(device.blas, "Open\tBLAS");
    ks_store *store = opened(sandbox_path(state, "put.db"), KS_STORE_WRITE);
    assert_failure(ks_store_put_device(store, &device), KS_ERR_ARGUMENT, "control characters", NULL);
    ks_store_close(store);
}

/* Facts of which the calculations would overflow: such a device is none, in a store and in a seed. */
static void test_facts(void **state)
{
    static const struct {
        const char *fact;
        int64_t most;
    } facts[] = {{"units", KS_MOST_UNITS},
                 {"l1_bytes", KS_MOST_BYTES},
                 {"l2_bytes", KS_MOST_BYTES},
                 {"l3_bytes", KS_MOST_BYTES},
                 {"memory_bytes", KS_MOST_BYTES}};
    char sql[128], json[256];
    ks_device device;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        for (int over = 0; over < 2; over++) {
            const long long value = facts[i].most + over;
            char name[32];
            snprintf(name, sizeof name, "%zu-%d.db", i, over);
            const char *path = sandbox_path(state, name);
            ks_store *store = opened(path, KS_STORE_WRITE);
            assert_int_equal(ks_store_put_device(store, &(ks_device){.name = "A"}), KS_OK);
            ks_store_close(store);
            snprintf(sql, sizeof sql, "UPDATE devices SET %s = %lld", facts[i].fact, value);
            assert_true(spoil(path, sql));
            store = opened(path, KS_STORE_READ);
            assert_int_equal(ks_store_get_device(store, "A", &device), over ? KS_ERR_NO_DATA : KS_OK);
            ks_store_close(store);
            snprintf(json, sizeof json, "{\"name\":\"A\",\"backend\":\"cpu\",\"%s\":%lld}\n", facts[i].fact, value);
            const ks_seed seed = {.name = "made", .text = json, .bytes = strlen(json)};
            assert_int_equal(ks_seed_read(&seed, &device, NULL, NULL), over ? KS_ERR_PARSE : KS_OK);
        }
}

/* ---- links ---- */

/* On the way to the file: a directory that is somebody else's link, in a directory that all may write to. */
static void test_planted_directories(void **state)
{
    const char *shared = sandbox_path(state, "shared"), *victim = sandbox_path(state, "victim"),
               *link = sandbox_path(state, "shared/mine"), *path = sandbox_path(state, "shared/mine/deep/s.db");
    assert_int_equal(mkdir(shared, 0700), 0);
    assert_int_equal(chmod(shared, 01777), 0);
    assert_int_equal(mkdir(victim, 0700), 0);
    assert_int_equal(symlink(victim, link), 0);
    assert_false(ks_place_is_planted(path)); /* one's own */
    make_store(path, ROWS);
    assert_false(ks_place_is_planted("/tmp"));
    assert_false(ks_place_is_planted(""));
    if (lchown(link, 65534, 65534) != 0) skip(); /* only root can play somebody else */
    assert_true(ks_place_is_planted(path));
    assert_true(ks_place_is_planted(link));
    assert_refused(path, KS_STORE_READ, "somebody else's link");
    assert_refused(path, KS_STORE_WRITE, "somebody else's link");
    assert_serves(path, "somebody else's link");
    const char *other = sandbox_path(state, "shared/mine/new/s.db");
    ks_store *store;
    assert_failure(ks_store_open(&store, other, KS_STORE_WRITE), KS_ERR_STORE, "somebody else's link", NULL);
    assert_int_equal(access(sandbox_path(state, "victim/new"), F_OK), -1);
    store = opened(sandbox_path(state, "own.db"), KS_STORE_WRITE);
    const ks_device a = {.name = "A"};
    assert_int_equal(ks_store_put_device(store, &a), KS_OK);
    assert_failure(
        ks_seed_write(store, "A", sandbox_path(state, "shared/mine/A.jsonl"), sandbox_path(state, "A.csv")),
        KS_ERR_IO, "somebody else's link", NULL);
    ks_store_close(store);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_tables),          TEST(test_triggers), TEST(test_huge_values),
        TEST(test_control_characters), TEST(test_facts),    TEST(test_planted_directories),
    };
    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
