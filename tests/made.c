/* The processes, what they do, and what is found in the store afterwards. */
#include "made.h"
#include "cli.h"
#include "stores.h"
#include "trial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { MOST_FAILURES = 64, FRESH_PROBLEMS = 60 };

static const made_set *set;
static const made_kernel *own;

/* ---- the kernels ---- */

static const ks_kernel *real(void)
{
    return ks_kernel_find(set->like);
}

ks_status made_right(const ks_problem *p, const ks_run_args *args)
{
    return real()->run(p, args);
}

ks_status made_early(const ks_problem *p, const ks_run_args *args)
{
    static ks_problem last;
    const bool checked = memcmp(&last, p, sizeof last) != 0;
    last = *p;
    return checked ? made_right(p, args) : KS_OK;
}

static bool supports(const ks_problem *p, const ks_device *device)
{
    return real()->supports(p, device) && (!own->supports || own->supports(p, device));
}

static size_t workspace_bytes(const ks_problem *p, const ks_device *device)
{
    return real()->workspace_bytes(p, device);
}

/* They promise to be fast: what is not known to be bad would win. */
static void few_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)p, (void)device;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = t == KS_TERM_LAUNCH ? 1e-3 : 0;
}

static const made_kernel *find_made(const char *name)
{
    for (int i = 0; i < set->count; i++)
        if (strcmp(set->kernels[i].name, name) == 0) return &set->kernels[i];
    return NULL;
}

void made_add(const char *name)
{
    static ks_kernel kernel;
    own = find_made(name);
    kernel = (ks_kernel){own->name, own->family, real()->backend, 1, supports, workspace_bytes, few_terms, own->run};
    MUST(ks_kernel_add(&kernel) == KS_OK);
    MUST(ks_kernel_find(own->name) == &kernel && ks_kernel_add(&kernel) == KS_ERR_ARGUMENT);
}

/* ---- what the processes do ---- */

static int calibrate(const char *path)
{
    char *arguments[] = {"calibrate",
                         "--device",
                         (char *)set->device,
                         "--budget",
                         (char *)(own->status == KS_OK ? set->budget_unfailing : set->budget),
                         "--dtype",
                         (char *)ks_type_name(set->type),
                         "--layout",
                         (char *)ks_layout_name(set->layout),
                         "--seed",
                         "5",
                         "--alone",
                         NULL};
    cli c = {.store = path};
    if (set->prepare) set->prepare(own);
    MUST(freopen("/dev/null", "w", stdout) != NULL);
    return cmd_calibrate(&c, sizeof arguments / sizeof *arguments - 1, arguments);
}

typedef struct asked {
    ks_context *ctx;
    int asked, failed, chosen;
} asked;

/* Wherever it failed it is not taken. Where it jumps about it should not be, either. */
static bool ask(void *user, const ks_measurement *m)
{
    asked *a = user;
    const char *kernel;
    if (strcmp(m->kernel, own->name) != 0) return true;
    MUST(ks_choose(a->ctx, &m->problem, &kernel) == KS_OK);
    if (m->status == KS_OK && own->status != KS_OK) return true;
    a->asked++, a->failed += m->status != KS_OK, a->chosen += strcmp(kernel, own->name) == 0;
    return true;
}

static void multiply(ks_context *ctx, const ks_device *device, const ks_problem *p, rng *r)
{
    char why[TRIAL_WHY_BYTES];
    trial t;
    MUST(trial_make_on(&t, device, p, TRIAL_PLAIN, r) && trial_begin(&t));
    MUST(ks_auto_matmul(ctx, p, t.x.data, t.k.data, t.y.data, NULL) == KS_OK);
    MUST(trial_end(&t, "auto", why));
    trial_free(&t);
}

/* Nor is it on problems that nobody has measured. What jumps about is allowed one in eight: its rival, too, may be disturbed in
 * several runs, and be no better by what was seen. Going by medians it is taken on a third of all problems. */
static int choose(const char *path)
{
    const problem_bounds bounds = {.lo = {.d = 2},
                                   .hi = {.a = 8, .b = 64, .c = 64, .d = 8, .batch = 512},
                                   .types = 1u << set->type,
                                   .layouts = 1u << set->layout,
                                   .flops_max = 1e7};
    const ks_options options = {.device = set->device, .store = path};
    rng r = rng_make(3, 3);
    ks_device device;
    ks_store *store;
    asked a = {0};
    MUST(ks_device_find(set->device, &device) == KS_OK);
    MUST(ks_open(&a.ctx, &options) == KS_OK);
    MUST(ks_store_open(&store, path, KS_STORE_READ) == KS_OK);
    MUST(ks_store_each(store, NULL, ask, &a) == KS_OK);
    for (int i = 0; i < FRESH_PROBLEMS; i++) {
        const ks_problem p = problem_random(&r, &bounds);
        const char *kernel;
        MUST(ks_choose(a.ctx, &p, &kernel) == KS_OK);
        a.asked++, a.chosen += strcmp(kernel, own->name) == 0;
        multiply(a.ctx, &device, &p, &r);
    }
    ks_store_close(store);
    ks_close(a.ctx);
    fprintf(stderr, "%s: failed on %d problems, chosen on %d of %d\n", own->name, a.failed, a.chosen, a.asked);
    return a.chosen > (own->status == KS_OK ? a.asked / 8 : 0);
}

int made_role(const made_set *of, int count, char **arguments)
{
    set = of;
    const bool calibrates = count == 4 && strcmp(arguments[1], "--calibrate") == 0,
               chooses = count == 4 && strcmp(arguments[1], "--choose") == 0;
    if (!calibrates && !chooses) return -1;
    made_add(arguments[2]);
    return calibrates ? calibrate(arguments[3]) : choose(arguments[3]);
}

int made_run_self(const char *role, const char *name, const char *path)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "made", role, name, path, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- what is in the store ---- */

typedef struct findings {
    const made_kernel *made;
    int failures, repeated, told;
    int others, blamed; /* rows of other kernels that are good, and such as say that they failed */
    ks_problem failed[MOST_FAILURES];
} findings;

static bool find(void *user, const ks_measurement *m)
{
    findings *f = user;
    if (strcmp(m->kernel, f->made->name) != 0) {
        f->others += m->status == KS_OK;
        f->blamed += m->status == KS_ERR_DEVICE || m->status == KS_ERR_INTERNAL || m->status == KS_ERR_WRONG_RESULT;
        return true;
    }
    f->told += m->status == KS_OK && strstr(m->reason, f->made->reason);
    if (m->status == KS_OK) return true;
    if (m->status != f->made->status || !strstr(m->reason, f->made->reason))
        fail_msg("%s: %s, %s", m->kernel, ks_status_name(m->status), m->reason);
    assert_true(isnan(m->time_s) && *m->reason);
    for (int i = 0; i < f->failures; i++) f->repeated += memcmp(&f->failed[i], &m->problem, sizeof m->problem) == 0;
    assert_in_range(f->failures, 0, MOST_FAILURES - 1);
    f->failed[f->failures++] = m->problem;
    return true;
}

static void make_rated_store(const char *path)
{
    ks_device device;
    ks_store *store = opened(path, KS_STORE_WRITE);
    assert_int_equal(ks_device_find(set->device, &device), KS_OK);
    ks_device_assume_rates(&device);
    assert_int_equal(ks_store_put_device(store, &device), KS_OK);
    ks_store_close(store);
}

void made_calibrate(void **state, const char *name)
{
    const char *path = sandbox_path(state, "s.db");
    findings f = {.made = find_made(name)};
    if (set->rated) make_rated_store(path);
    assert_int_equal(made_run_self("--calibrate", name, path), 0);
    ks_store *store = opened(path, KS_STORE_READ);
    assert_sound(store);
    assert_int_equal(ks_store_each(store, NULL, find, &f), KS_OK);
    ks_store_close(store);
    assert_int_equal(f.failures > 0, f.made->status != KS_OK);
    assert_int_equal(f.told > 0, f.made->status == KS_OK);
    assert_int_equal(f.repeated, 0);
    assert_int_equal(f.blamed, 0);
    assert_true(f.others > 16);
    assert_int_equal(made_run_self("--choose", name, path), 0);
}
