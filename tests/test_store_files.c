/* The store as a file: every file that cannot be a store is named, refused, and left as it was; schemas, permissions,
 * names and file systems. */
#include "place.h"
#include "stores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* --- files that are no stores ------------------------------------------------------------------------------ */

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
    assert_int_equal(synchronous, 3);
    assert_int_equal(access(sandbox_path(state, "s.db-wal"), F_OK), -1);
    ks_store_close(store);

    store = opened(path, KS_STORE_WRITE); /* here it is local: WAL */
    assert_string_equal(info_of(store).journal, "wal");
    assert_int_equal(ks_sql_one_int(store, "PRAGMA synchronous", &synchronous), KS_OK);
    assert_int_equal(synchronous, 3);
    add(store, 2);
    ks_store *held;
    assert_failure(ks_store_open_on(&held, path, KS_STORE_WRITE_BRIEFLY, true), KS_ERR_STORE, path,
                   NULL); /* in use */
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
        TEST(test_no_store_there),
        TEST(test_garbage),
        TEST(test_foreign_and_newer),
        TEST(test_migration),
        TEST(test_damaged),
        TEST(test_permissions),
        TEST(test_directories_follow_the_umask),
        TEST(test_network),
        TEST(test_path),
        TEST(test_odd_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
