/* The store among processes: several write at once, writers are killed at any instant, locks are held, the disk is
 * full; what was acknowledged is there, and nothing else is. */
#include "stores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

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
    other->wait_ms = 50;
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

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_writers_at_once), TEST(test_kill),   TEST(test_kill_while_created),
        TEST(test_hot_journal),     TEST(test_locked), TEST(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
