/* What was acknowledged is there, whatever ends the process or the machine: power that is lost at every single change of a
 * file, and kills of a calibration at random instants. KS_TEST_KILLS: how many of those, 12 by default; KS_TEST_SEED as in
 * test_kernels.c. A calibration runs in a process of its own: this executable again. */
#include "bad_disk.h"
#include "cases.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

/* --- power -------------------------------------------------------------------------------------------------- */

enum { BEFORE = 2, ROWS = 4 };

/* Opens, adds rows and a model, until power is lost; returns how many rows were acknowledged. */
static int write_until_dark(const char *path, bool network, bool *model_kept)
{
    ks_store *store;
    const ks_model_row model = {.device = "D", .rows = 9, .fitted_at_s = 1.7e9, .json = "{\"kept\":1}"};
    int rows = 0;
    *model_kept = false;
    if (ks_store_open_on(&store, path, KS_STORE_WRITE, network) != KS_OK) return 0;
    for (int i = 1; i <= ROWS; i++) {
        const ks_measurement m = measurement(100 + i);
        if (ks_store_add(store, &m, NULL) != KS_OK) break;
        rows++;
        if (i == ROWS / 2) *model_kept = ks_store_put_model(store, &model) == KS_OK;
    }
    ks_store_close(store);
    return rows;
}

static void assert_all_there(const char *path, bool network, int least, int most, bool model)
{
    ks_store *store;
    seen s = {0};
    if (least > 0) {
        store = opened(path, KS_STORE_READ); /* a reader alone must get over it */
        assert_int_equal(ks_store_each(store, NULL, see, &s), KS_OK);
        assert_in_range(s.count, least, most);
        assert_true(!model || info_of(store).models == 1);
        for (int i = 0; i < s.count && i < 8; i++) assert_true(s.rows[i].time_s == 1.0 / 3.0);
        assert_sound(store);
        ks_store_close(store);
    }
    ks_status status = ks_store_open_on(&store, path, KS_STORE_WRITE, network);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    add(store, 1000);
    assert_in_range(info_of(store).measurements, least + 1, most + 1);
    assert_sound(store);
    ks_store_close(store);
}

/* first: the store is being made when power is lost; else it has rows already. */
static int lose_power(void **state, bool network, bool first, uint64_t choice)
{
    int trials = 0;
    bool lost = true;
    for (int64_t good = 0; lost; good++, trials++) {
        char name[64];
        bool model;
        snprintf(name, sizeof name, "%d-%d-%d-%d.db", network, first, (int)choice, (int)good);
        const char *path = sandbox_path(state, name);
        if (!first) {
            ks_store *store;
            assert_int_equal(ks_store_open_on(&store, path, KS_STORE_WRITE, network), KS_OK);
            for (int i = 1; i <= BEFORE; i++) add(store, i);
            ks_store_close(store);
        }
        const vfs_plan plan = {.calls = VFS_CHANGES, .good = good, .fault = VFS_POWER};
        vfs_follow(&plan);
        const int before = first ? 0 : BEFORE, rows = write_until_dark(path, network, &model);
        lost = vfs_failed();
        assert_true(lost || (rows == ROWS && model));
        vfs_power_back(choice < 2 ? choice : choice * 1000 + (uint64_t)good);
        assert_all_there(path, network, before + rows, before + rows + 1, model);
        unlink(path);
    }
    return trials;
}

static void test_power(void **state)
{
    int trials = 0;
    for (int way = 0; way < 4; way++)
        for (uint64_t choice = 0; choice < 3; choice++) trials += lose_power(state, way & 1, way & 2, choice);
    print_message("power lost %d times\n", trials);
}

/* --- kills -------------------------------------------------------------------------------------------------- */

/* What a calibration in a child has reported through a pipe. */
typedef struct report {
    int32_t stored, measured;
} report;

static int report_to;

static bool tell(void *user, const ks_progress *p)
{
    const report r = {p->stored, p->measured};
    (void)user;
    return strcmp(p->phase, "rates") == 0 || write(report_to, &r, sizeof r) == (ssize_t)sizeof r;
}

static int calibrate(const char *path)
{
    const ks_calibrate_options options = {
        .store = path, .budget_s = 120, .layouts = 1u << KS_BATCH_LAST, .seed = 7, .progress = tell};
    return (int)ks_calibrate(&options, NULL);
}

/* Problems with any rows; and, after the first `skip` rows, how often every candidate has one, one after the other. */
typedef struct tally {
    int skip, whole, problems, rows;
    ks_problem last;
    int of_last;
    ks_device device;
} tally;

static bool count_row(void *user, const ks_measurement *m)
{
    tally *t = user;
    const ks_kernel *kernels[KS_MAX_KERNELS];
    const ks_problem *p = &m->problem, *q = &t->last;
    const bool same =
        t->rows > t->skip && p->a == q->a && p->b == q->b && p->c == q->c && p->d == q->d && p->batch == q->batch;
    t->of_last = same ? t->of_last + 1 : 1;
    t->last = *p;
    t->whole += t->rows++ >= t->skip && t->of_last % ks_kernels_for(p, &t->device, kernels) == 0;
    return true;
}

static tally tally_of(const char *path, int skip)
{
    tally t = {.skip = skip};
    ks_cases cases;
    ks_rows rows = {0};
    ks_device_cpu(&t.device);
    ks_store *store = opened(path, KS_STORE_WRITE);
    assert_sound(store);
    assert_int_equal(ks_store_each(store, NULL, count_row, &t), KS_OK);
    assert_int_equal(ks_store_each(store, NULL, ks_rows_add, &rows), KS_OK);
    assert_int_equal(ks_cases_build(rows.items, rows.count, &t.device, KS_F32, KS_BATCH_LAST, KS_TIME, &cases),
                     KS_OK);
    t.problems = cases.count;
    ks_cases_free(&cases);
    ks_rows_free(&rows);
    ks_store_close(store);
    return t;
}

/* Kills a calibration so long after its first report; returns the last report and how many problems it began with. */
static report kill_one(const char *path, double after_s, int *resumed)
{
    int ends[2], status;
    report first = {0}, last = {0}, r;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char end[16];
        snprintf(end, sizeof end, "%d", ends[1]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        execl("/proc/self/exe", "test_power", "--calibrate", path, end, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &first, sizeof first), sizeof first);
    const struct timespec wait = {(time_t)after_s, (long)(1e9 * (after_s - floor(after_s)))};
    nanosleep(&wait, NULL);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status)); /* it was at work still */
    for (last = first; read(ends[0], &r, sizeof r) == (ssize_t)sizeof r;) last = r;
    close(ends[0]);
    *resumed = first.stored - first.measured;
    return last;
}

static void test_kills(void **state)
{
    const char *path = sandbox_path(state, "s.db"), *text = getenv("KS_TEST_KILLS");
    const int kills = text && atoi(text) > 0 ? atoi(text) : 12;
    const uint64_t seed = rng_seed_from_env("KS_TEST_SEED");
    rng r = rng_make(seed, 0);
    tally before = {0};
    print_message("KS_TEST_SEED=%" PRIu64 "\n", seed);
    for (int turn = 0; turn < kills; turn++) {
        int resumed;
        const report last = kill_one(path, 0.15 * rng_unit(&r), &resumed);
        const tally after = tally_of(path, before.rows);
        if (after.whole < last.measured)
            fail_msg("kill %d: %d problems measured, %d of them whole in the store", turn, last.measured,
                     after.whole);
        assert_true(after.rows >= before.rows);
        assert_int_equal(resumed, before.problems); /* the next run goes on from there */
        before = after;
    }
    print_message("%d kills, %d rows of %d problems\n", kills, before.rows, before.problems);
}

static int enter(void **state)
{
    vfs_follow(NULL);
    return sandbox_enter(state);
}

int main(int count, char **arguments)
{
    if (count == 4 && strcmp(arguments[1], "--calibrate") == 0) {
        report_to = atoi(arguments[3]);
        return calibrate(arguments[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_power, enter, sandbox_leave),
        cmocka_unit_test_setup_teardown(test_kills, enter, sandbox_leave),
    };
    return cmocka_run_group_tests_name("power", tests, NULL, NULL);
}
