/* Stores that cannot be used, one way after another: the product is right all the same, advice comes from the seeds or the
 * built-in costs, ks_store_status names the reason, and the user's file comes out as it went in.
 *
 * A context costs tens of times what a store does (it reads the seeds). So where there are hundreds of trials the store is asked
 * by itself, and every so many of them a context is opened, too.
 * KS_TEST_FLIPS: how many stores with flipped bytes, a few hundred by default. */
#include "bad_disk.h"
#include "knowledge.h"
#include "seeds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static const ks_problem usual = {.a = 3, .b = 24, .c = 16, .d = 5, .batch = 33};
static const ks_problem measured = {.a = 2, .b = 8, .c = 16, .d = 3, .batch = 17};

static ks_device cpu;

static int enter(void **state)
{
    unsetenv("KSAUTO_EXPLAIN");
    ks_device_cpu(&cpu);
    vfs_follow(NULL);
    return sandbox_enter(state);
}

static int leave(void **state)
{
    vfs_follow(NULL);
    return sandbox_leave(state);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long wanted(const char *variable, long otherwise)
{
    const char *text = getenv(variable);
    return text && atol(text) > 0 ? atol(text) : otherwise;
}

/* A store of this machine as a calibration leaves it, in small: facts, a model, rows. */
static void make_whole_store(const char *path, int rows)
{
    const known_kernel kernels[] = {{"fused.cpu", KS_FUSED, 1e-6}, {"bmm.cpu.permute", KS_BMM, 1e-3}};
    ks_store *store = opened(path, KS_STORE_WRITE);
    ks_model *model = known_model(KS_F32, KS_BATCH_FIRST, kernels, 2);
    assert_int_equal(ks_store_put_device(store, &cpu), KS_OK);
    known_put_model(store, cpu.name, model);
    ks_model_free(model);
    for (int i = 0; i < rows; i++) {
        ks_problem p = measured;
        p.batch += i / 2;
        const ks_measurement m = known_row(cpu.name, &p, i % 2 ? "bmm.cpu.permute" : "fused.cpu",
                                           i % 2 ? KS_BMM : KS_FUSED, i % 2 ? 1e-3 : 2e-3);
        known_put_row(store, &m);
    }
    ks_store_close(store);
}

/* A context on it: right products, other advice, and why. `named` may be NULL: then the store may be as good as new. */
static void assert_serves(const char *path, const char *named, unsigned flags)
{
    const ks_options options = {.store = path, .flags = flags, .measure_budget_s = 0.01};
    const char *why = NULL;
    ks_advice advice;
    ks_context *ctx = context_open(&options);
    const ks_status status = ks_store_status(ctx, &why);
    assert_true(status == KS_OK ? !*why : *why != '\0');
    if (named && status == KS_OK) fail_msg("%s: is as good as any, where \"%s\" was expected", path, named);
    if (named && !strstr(why, named)) fail_msg("\"%s\" does not name \"%s\"", why, named);
    assert_product(ctx, &usual, NULL);
    assert_int_equal(ks_advise(ctx, &usual, &advice), KS_OK);
    assert_true(!named || advice.source >= KS_FROM_SEEDS || flags);
    ks_close(ctx);
}

/* The same, and the file is what it was, whether the context may measure or not. */
static void assert_serves_untouched(const char *path, const char *named)
{
    size_t bytes;
    char *before = file_read(path, &bytes);
    assert_serves(path, named, 0);
    assert_serves(path, named, KS_MEASURE);
    file_assert_equal(path, before, bytes);
    free(before);
}

/* Everything that reads a store; what may come of it is a status with a message. */
static ks_status read_all(const char *path)
{
    ks_store *store;
    ks_store_info info;
    ks_device device;
    seen s = {0};
    ks_status status = ks_store_open(&store, path, KS_STORE_READ);
    assert_true(status == KS_OK || status == KS_ERR_STORE);
    if (status != KS_OK) {
        assert_null(store);
        assert_non_null(strstr(ks_status_message(status), path));
        return status;
    }
    const ks_status all[] = {ks_store_each(store, NULL, see, &s), ks_store_info_get(store, &info),
                             ks_store_get_device(store, cpu.name, &device), ks_store_check(store, NULL, NULL)};
    for (int i = 0; i < 4; i++) {
        assert_true(all[i] == KS_OK || all[i] == KS_ERR_STORE || (i == 2 && all[i] == KS_ERR_NO_DATA));
        if (all[i] != KS_OK) status = KS_ERR_STORE;
    }
    ks_store_close(store);
    return status;
}

/* --- files that are none ------------------------------------------------------------------------------------ */

static void test_no_file(void **state)
{
    const char *folder = sandbox_path(state, "folder"), *fifo = sandbox_path(state, "fifo"),
               *file = sandbox_path(state, "file"), *empty = sandbox_path(state, "empty");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    file_write(file, "a letter to a friend", 20);
    assert_serves(sandbox_path(state, "not/here.db"), "No such file", 0);
    assert_int_equal(access(sandbox_path(state, "not"), F_OK), -1);
    assert_serves(folder, "is a directory", KS_MEASURE);
    assert_serves(fifo, "is a FIFO", KS_MEASURE);
    assert_serves(sandbox_path(state, "file/s.db"), "Not a directory", KS_MEASURE);
    assert_serves_untouched(file, "not a ksauto store");
    file_write(empty, "", 0);
    assert_serves(empty, "is empty (0 bytes)", 0);
    file_assert_equal(empty, "", 0);
    assert_serves(empty, "is empty (0 bytes)", KS_MEASURE); /* the one file that is taken over */
    ks_store *store = opened(empty, KS_STORE_WRITE);
    assert_sound(store);
    ks_store_close(store);
}

static void test_others_files(void **state)
{
    const char *newer = sandbox_path(state, "newer.db"), *foreign = sandbox_path(state, "foreign.db");
    static const unsigned char nobody[4] = {0};
    make_whole_store(newer, 4);
    ks_store *store = opened(newer, KS_STORE_WRITE);
    exec(store, "PRAGMA user_version = 1000");
    ks_store_close(store);
    assert_serves_untouched(newer, "schema 1000, this library knows schema 1");
    make_whole_store(foreign, 4);
    file_patch(foreign, 68, nobody, 4);
    assert_serves_untouched(foreign, "not a ksauto store but an SQLite file");
}

/* --- permissions -------------------------------------------------------------------------------------------- */

/* In a process of its own, since nothing of this can be undone: `become` makes it so, or says that it cannot be had here. */
static void in_child(bool (*become)(const char *directory), const char *directory, const char *named)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char path[512], why[TRIAL_WHY_BYTES];
        const char *reason;
        const ks_options options = {.store = path, .flags = KS_MEASURE, .measure_budget_s = 0.01};
        ks_context *ctx;
        rng r = rng_make(5, 5);
        snprintf(path, sizeof path, "%s/s.db", directory);
        if (!become(directory)) _exit(77);
        MUST(ks_open(&ctx, &options) == KS_OK);
        const ks_status opened_as = ks_store_status(ctx, &reason);
        MUST(named ? opened_as == KS_ERR_STORE && strstr(reason, named) : opened_as == KS_OK);
        MUST(product_right(ctx, &usual, NULL, &r, why));
        ks_close(ctx);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        print_message("[  PART    ] not to be had here: %s\n", named ? named : "a file system for reading");
    else
        assert_int_equal(status, 0);
}

static bool become_nobody(const char *directory)
{
    (void)directory;
    return geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
}

static bool read_only_mount(const char *directory)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount(directory, directory, NULL, MS_BIND, NULL) == 0 &&
           mount(NULL, directory, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0;
}

static void test_permissions(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    size_t bytes;
    make_whole_store(path, 4);
    char *before = file_read(path, &bytes);
    in_child(read_only_mount, *state, NULL);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(*state, 0555), 0);
    in_child(become_nobody, *state, NULL); /* can be read, and that is all that is needed */
    assert_int_equal(chmod(path, 0), 0);
    in_child(become_nobody, *state, "denied");
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(chmod(*state, 0), 0);
    in_child(become_nobody, *state, "denied");
    assert_int_equal(chmod(*state, 0755), 0);
    file_assert_equal(path, before, bytes);
    free(before);
}

/* Links that somebody else has put where all may write, under the names that are about to be used. */
static void test_planted_links(void **state)
{
    const char *shared = sandbox_path(state, "shared"), *victim = sandbox_path(state, "victim"),
               *path = sandbox_path(state, "shared/s.db"), *link = sandbox_path(state, "shared/link.db");
    static const char *const suffixes[] = {"-journal", "-wal", "-shm"};
    char beside[700];
    assert_int_equal(mkdir(shared, 0700), 0);
    assert_int_equal(chmod(shared, 01777), 0);
    file_write(victim, "dear", 4);
    for (int network = 0; network < 2; network++)
        for (int i = 0; i < 3; i++) { /* SQLite's own files: none is followed */
            ks_store *store;
            snprintf(beside, sizeof beside, "%s%s", path, suffixes[i]);
            unlink(path);
            unlink(beside);
            assert_int_equal(symlink(victim, beside), 0);
            if (ks_store_open_on(&store, path, KS_STORE_WRITE, network) == KS_OK) {
                const ks_measurement m = measurement(1);
                ks_store_add(store, &m, NULL);
                ks_store_close(store);
            }
            file_assert_equal(victim, "dear", 4);
            unlink(beside);
        }
    make_whole_store(sandbox_path(state, "own.db"), 2);
    ks_store *store = opened(sandbox_path(state, "own.db"), KS_STORE_READ);
    char json[600], csv[600];
    snprintf(json, sizeof json, "%s/seed.json", shared);
    snprintf(csv, sizeof csv, "%s/seed.csv", shared);
    snprintf(beside, sizeof beside, "%s.draft", json);
    assert_int_equal(symlink(victim, beside), 0);
    assert_int_equal(ks_seed_write(store, cpu.name, json, csv), KS_OK);
    file_assert_equal(victim, "dear", 4);
    ks_store_close(store);

    assert_int_equal(symlink(victim, link), 0); /* one's own is one's own affair */
    assert_refused(link, KS_STORE_WRITE, "not a ksauto store");
    if (lchown(link, 65534, 65534) != 0) return; /* only root can play somebody else */
    assert_refused(link, KS_STORE_READ, "somebody else's link");
    assert_refused(link, KS_STORE_WRITE, "somebody else's link");
    assert_serves(link, "somebody else's link", KS_MEASURE);
    file_assert_equal(victim, "dear", 4);
}

/* Files are made with the user's umask. */
static void test_umask(void **state)
{
    static const char *const names[] = {"s.db", "seed.json", "seed.csv"};
    const mode_t before = umask(027);
    make_whole_store(sandbox_path(state, names[0]), 2);
    ks_store *store = opened(sandbox_path(state, names[0]), KS_STORE_READ);
    assert_int_equal(ks_seed_write(store, cpu.name, sandbox_path(state, names[1]), sandbox_path(state, names[2])),
                     KS_OK);
    ks_store_close(store);
    umask(before);
    for (int i = 0; i < 3; i++) {
        struct stat facts;
        assert_int_equal(stat(sandbox_path(state, names[i]), &facts), 0);
        assert_int_equal(facts.st_mode & 027, 0);
    }
}

/* --- damage ------------------------------------------------------------------------------------------------- */

static void test_truncated(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *part = sandbox_path(state, "part.db");
    size_t bytes, pages = 0;
    make_whole_store(path, 60);
    char *whole = file_read(path, &bytes);
    for (size_t size = 512; size < bytes; size += 512, pages++) {
        file_write(part, whole, size);
        assert_int_equal(read_all(part), KS_ERR_STORE);
        file_assert_equal(part, whole, size);
        if (pages % 8 == 0) assert_serves_untouched(part, "damaged");
        ks_store *store; /* nobody writes to it, either */
        assert_failure(ks_store_open(&store, part, KS_STORE_WRITE), KS_ERR_STORE, part, "damaged");
        file_assert_equal(part, whole, size);
    }
    print_message("%zu truncations\n", pages);
    free(whole);
}

static void test_flipped(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *bad = sandbox_path(state, "bad.db");
    const long trials = wanted("KS_TEST_FLIPS", 300), every = trials / 30 + 1;
    rng r = rng_make(rng_seed_from_env("KS_TEST_SEED"), 0);
    size_t bytes;
    long noticed = 0;
    make_whole_store(path, 60);
    char *whole = file_read(path, &bytes), *flipped = malloc(bytes);
    assert_non_null(flipped);
    for (long turn = 0; turn < trials; turn++) {
        const int flips = 1 << rng_below(&r, 10);
        const uint64_t until = rng_unit(&r) < 0.3 ? 4096 : bytes; /* the page of the schema has a share of its own */
        memcpy(flipped, whole, bytes);
        for (int i = 0; i < flips; i++) {
            const size_t at = (size_t)rng_below(&r, until);
            flipped[at] = (char)(flipped[at] ^ 1 << rng_below(&r, 8));
        }
        file_write(bad, flipped, bytes);
        noticed += read_all(bad) != KS_OK;
        if (turn % every == 0) assert_serves(bad, NULL, 0);
        file_assert_equal(bad, flipped, bytes);
    }
    print_message("%ld trials, %ld noticed\n", trials, noticed);
    free(flipped);
    free(whole);
}

static bool is_original(void *user, const ks_measurement *m)
{
    const double time_s = m->family == KS_BMM ? 1e-3 : 2e-3;
    ++*(int *)user;
    assert_int_equal(m->problem.a, measured.a);
    assert_true(m->time_s == time_s);
    return true;
}

/* From a file that was cut short, and from one with a page in the middle that is gone, what can be read is saved; the file
 * stays as it is. */
static void test_salvage(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    char zeros[4096] = {0}, name[64];
    size_t bytes, size;
    int saved_in_all = 0, trials = 0;
    make_whole_store(path, 400);
    char *whole = file_read(path, &bytes);
    for (size_t page = 2; page < bytes / 4096; page += 3) /* the first has the schema: without it there is nothing */
        for (int cut = 0; cut < 2; cut++) {
            snprintf(name, sizeof name, "%zu-%d.db", page, cut);
            const char *bad = sandbox_path(state, name), *good = sandbox_path(state, "good.db");
            size = cut ? page * 4096 - 100 : bytes;
            ks_store *from, *to;
            int64_t added;
            int rows = 0;
            file_write(bad, whole, size);
            if (!cut) file_patch(bad, (off_t)page * 4096, zeros, sizeof zeros);
            char *before = file_read(bad, &size);
            trials++;
            if (ks_store_open(&from, bad, KS_STORE_SALVAGE) != KS_OK)
                fail_msg("page %zu, cut %d: %s", page, cut, ks_status_message(KS_ERR_STORE));
            to = opened(good, KS_STORE_WRITE);
            assert_int_equal(ks_store_salvage(to, from, &added), KS_OK);
            assert_sound(to);
            assert_int_equal(ks_store_each(to, NULL, is_original, &rows), KS_OK);
            assert_int_equal(rows, added);
            assert_in_range(rows, 0, 400);
            saved_in_all += rows;
            ks_store_close(to);
            ks_store_close(from);
            file_assert_equal(bad, before, size);
            assert_int_equal(unlink(good), 0);
            free(before);
        }
    print_message("%d trials, %.0f of 400 rows saved in the mean\n", trials, (double)saved_in_all / trials);
    free(whole);
}

/* --- disks that fail ---------------------------------------------------------------------------------------- */

static void test_failing_reads(void **state)
{
    const char *path = sandbox_path(state, "s.db");
    static const vfs_call kinds[] = {VFS_READ, VFS_OPEN, VFS_LOCK, VFS_SHM, VFS_READ | VFS_OPEN | VFS_LOCK | VFS_SHM};
    size_t bytes;
    int trials = 0;
    make_whole_store(path, 60);
    char *before = file_read(path, &bytes);
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int once = 0; once < 2; once++) {
            bool failing = true;
            for (int64_t good = 0; failing; good++, trials++) {
                const vfs_plan plan = {.calls = kinds[kind], .good = good, .once = once != 0};
                vfs_follow(&plan);
                const ks_status status = read_all(path);
                failing = vfs_failed();
                assert_true(failing || status == KS_OK);
                if (kind == 0 && !once && good < 40 && good % 4 == 0) {
                    vfs_follow(&plan);
                    assert_serves(path, good == 0 ? path : NULL, 0);
                }
            }
        }
    vfs_follow(NULL);
    file_assert_equal(path, before, bytes);
    assert_int_equal(read_all(path), KS_OK);
    print_message("%d trials\n", trials);
    free(before);
}

/* Makes a store and adds to it until something fails; returns how many rows were acknowledged. */
static int write_some(const char *path, bool network)
{
    ks_store *store;
    int rows = 0;
    if (ks_store_open_on(&store, path, KS_STORE_WRITE, network) != KS_OK) {
        assert_null(store);
        return 0;
    }
    for (int i = 1; i <= 4; i++) {
        const ks_measurement m = measurement(i);
        const ks_status status = ks_store_add(store, &m, NULL);
        assert_true(status == KS_OK || status == KS_ERR_STORE);
        rows += status == KS_OK;
    }
    ks_store_close(store);
    return rows;
}

static void test_failing_writes(void **state)
{
    static const vfs_call kinds[] = {VFS_WRITE, VFS_SYNC, VFS_DELETE, VFS_SHM, VFS_CHANGES | VFS_SHM};
    int trials = 0;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int way = 0; way < 8; way++) {
            bool failing = true;
            for (int64_t good = 0; failing; good++, trials++) {
                const vfs_plan plan = {
                    .calls = kinds[kind], .good = good, .once = way & 1, .fault = way & 2 ? VFS_ENOSPC : VFS_EIO};
                char name[64];
                snprintf(name, sizeof name, "%zu-%d-%d.db", kind, way, (int)good);
                const char *path = sandbox_path(state, name);
                vfs_follow(&plan);
                const int rows = write_some(path, way & 4);
                failing = vfs_failed();
                assert_true(failing || rows == 4);
                vfs_follow(NULL);
                ks_store *store = opened(path, KS_STORE_WRITE); /* room again */
                seen s = {0};
                assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
                assert_in_range(s.count, rows, 4);
                add(store, 1000);
                assert_sound(store);
                ks_store_close(store);
                unlink(path);
            }
        }
    print_message("%d trials\n", trials);
}

/* A context that measures on a disk that is full, or fails, from some write on. */
static void test_measuring_on_a_full_disk(void **state)
{
    for (int good = 0; good < 16; good += 9)
        for (int fault = VFS_EIO; fault <= VFS_ENOSPC; fault++) {
            char name[64];
            snprintf(name, sizeof name, "%d-%d.db", good, fault);
            const char *path = sandbox_path(state, name);
            const vfs_plan plan = {.calls = VFS_CHANGES | VFS_SHM, .good = good, .fault = (vfs_fault)fault};
            make_whole_store(path, 4);
            vfs_follow(&plan);
            assert_serves(path, NULL, KS_MEASURE);
            vfs_follow(NULL);
            assert_true(known_count(path) >= 4);
            assert_int_equal(read_all(path), KS_OK);
        }
}

/* --- locks, shared memory ----------------------------------------------------------------------------------- */

/* A process that holds the lock until it is killed. */
static pid_t hold(const char *path, const char *lock, bool network)
{
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ks_store *store;
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0); /* a test that fails leaves nobody behind */
        MUST(ks_store_open_on(&store, path, KS_STORE_WRITE, network) == KS_OK);
        MUST(ks_sql_exec(store, lock) == KS_OK);
        MUST(write(ends[1], "x", 1) == 1);
        for (;;) pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return child;
}

static void test_locked(void **state)
{
    static const struct {
        const char *lock, *named;
        bool network;
    } cases[] = {
        {"BEGIN EXCLUSIVE", "locked by another process", true},
        {"PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE", "locked by another process", false},
        {"BEGIN IMMEDIATE", NULL, false}, /* a reader does not mind; what is measured cannot be stored */
    };
    const double begin = now_s();
    assert_serves("/nowhere/s.db", "No such file", 0);
    const double usual_s = 2 * (now_s() - begin);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[64];
        snprintf(name, sizeof name, "%zu.db", i);
        const char *path = sandbox_path(state, name);
        make_whole_store(path, 4);
        const pid_t holder = hold(path, cases[i].lock, cases[i].network);
        const double start = now_s();
        assert_serves(path, cases[i].named, 0);
        assert_serves(path, cases[i].named, KS_MEASURE);
        /* Nobody waits for it as long as a writer would, not to speak of ever. */
        if (now_s() - start > 2 * usual_s + 4) fail_msg("%s: held up for %g s", cases[i].lock, now_s() - start);
        assert_int_equal(kill(holder, SIGKILL), 0);
        assert_int_equal(waitpid(holder, NULL, 0), holder);
        assert_int_equal(known_count(path), 4);
    }
}

/* Where there is no shared memory: stores made here, and stores with a write-ahead log that were brought here. */
static void test_no_shared_memory(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *brought = sandbox_path(state, "brought.db");
    const vfs_plan plan = {.no_shm = true};
    make_whole_store(brought, 4); /* WAL */
    vfs_follow(&plan);
    make_whole_store(path, 4);
    assert_serves(path, NULL, 0);
    assert_serves(path, NULL, KS_MEASURE);
    assert_int_equal(read_all(path), KS_OK);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_string_equal(info_of(store).journal, "delete");
    ks_store_close(store);
    assert_int_equal(read_all(brought), KS_OK);
    assert_serves(brought, NULL, 0);
    store = opened(brought, KS_STORE_WRITE);
    add(store, 77);
    assert_sound(store);
    ks_store_close(store);
    vfs_follow(NULL);
    assert_int_equal(read_all(path), KS_OK);
    assert_int_equal(known_count(brought), 5);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_file),
        TEST(test_others_files),
        TEST(test_permissions),
        TEST(test_planted_links),
        TEST(test_umask),
        TEST(test_truncated),
        TEST(test_flipped),
        TEST(test_salvage),
        TEST(test_failing_reads),
        TEST(test_failing_writes),
        TEST(test_measuring_on_a_full_disk),
        TEST(test_locked),
        TEST(test_no_shared_memory),
    };
    return cmocka_run_group_tests_name("bad stores", tests, NULL, NULL);
}
