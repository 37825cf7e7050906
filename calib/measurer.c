/* One run after another on any device: memory and time come from memory.h and timer.h. Inputs and outputs have an arena each:
 * outputs never become inputs, so the inputs stay the well-behaved numbers they were filled with, whatever the type they
 * are read as. */
#include "measurer.h"
#include "error.h"
#include "memory.h"
#include "random.h"
#include "ref_cpu.h"
#include "timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256, CHECKED_OUTPUTS = 24 };

static const double memory_share = 0.7;   /* of the device's memory, where nothing else is said */
static const double state_fresh_s = 0.25; /* how long what the device said of its clock is taken for true */

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static ks_status grow(const ks_device *device, void **memory, size_t *has, size_t bytes)
{
    ks_memory_free(device, *memory);
    *memory = NULL, *has = 0;
    ks_status s = ks_memory_alloc(device, round_up(bytes), memory);
    if (s == KS_OK) *has = round_up(bytes);
    return s;
}

ks_status ks_measurer_grow(ks_measurer *m, arena *a, size_t bytes)
{
    void *memory = a->memory;
    if (a->bytes >= bytes) return KS_OK;
    ks_status s = grow(&m->device, &memory, &a->bytes, bytes);
    a->memory = memory, a->next = 0;
    if (s != KS_OK) return s;
    return a == &m->in ? ks_memory_randomise(&m->device, a->memory, a->bytes, ks_random(&m->random))
                       : ks_memory_set(&m->device, a->memory, 0x3e, a->bytes);
}

/* The next stretch of the arena: each call returns other memory until all of it was used. */
static char *arena_take(arena *a, size_t bytes)
{
    if (a->next + bytes > a->bytes) a->next = 0;
    char *at = a->memory + a->next;
    a->next += round_up(bytes);
    return at;
}

/* What an arena holds at least. A GPU's cache holds what was written last, too, and its memory is fast and large. */
static size_t arena_bytes(const ks_device *device)
{
    const bool gpu = device->backend == KS_CUDA;
    int64_t cache = device->l3_bytes > device->l2_bytes ? device->l3_bytes : device->l2_bytes;
    int64_t least = gpu ? 256 << 20 : 32 << 20, most = device->memory_bytes / 16;
    if (gpu) cache *= 4;
    if (cache > least) least = cache;
    return (size_t)(most > 0 && least > most ? most : least);
}

/* Whether the device has that much memory beside what is held already. */
static ks_status check_free(const ks_measurer *m, double bytes)
{
    const double held = (double)m->in.bytes + (double)m->out.bytes + (double)m->workspace_bytes;
    const double left = (double)ks_memory_left(&m->device);
    if (left <= 0 || bytes <= held + left) return KS_OK;
    return ks_fail(KS_ERR_MEMORY, "out of memory: measuring needs %.3g bytes, %.3g are free", bytes, held + left);
}

ks_status ks_measurer_open_with(ks_measurer **measurer, const ks_device *device, const ks_measurer_setup *setup)
{
    const size_t bytes = arena_bytes(device);
    ks_measurer *m = *measurer = calloc(1, sizeof *m);
    if (!m) return ks_fail(KS_ERR_MEMORY, "out of memory opening the measurer");
    m->device = *device;
    m->random = (uint64_t)(ks_clock_s() * 1e6);
    m->setup = *setup;
    m->most_bytes = setup->most_bytes > 0        ? (double)setup->most_bytes
                    : m->device.memory_bytes > 0 ? memory_share * (double)m->device.memory_bytes
                                                 : INFINITY;
    ks_status s = KS_OK;
    if (2 * (double)bytes > m->most_bytes)
        s = ks_fail(KS_ERR_MEMORY,
                    "measuring on \"%s\" takes %zu bytes at least, so that inputs are not in the cache", device->name,
                    2 * bytes);
    if (s == KS_OK) s = check_free(m, 2 * (double)bytes);
    if (s == KS_OK) s = ks_measurer_grow(m, &m->in, bytes);
    if (s == KS_OK) s = ks_measurer_grow(m, &m->out, bytes);
    if (s == KS_OK) return KS_OK;
    ks_measurer_close(m);
    *measurer = NULL;
    return s;
}

ks_status ks_measurer_open(ks_measurer **measurer, const ks_device *device)
{
    return ks_measurer_open_with(measurer, device, &(ks_measurer_setup){0});
}

void ks_measurer_close(ks_measurer *m)
{
    if (!m) return;
    ks_memory_free(&m->device, m->in.memory);
    ks_memory_free(&m->device, m->out.memory);
    ks_memory_free(&m->device, m->workspace);
    free(m->fetched);
    free(m);
}

/* Frees what a problem that needs much of one array does not need of the others. */
static void drop_arenas(ks_measurer *m)
{
    ks_memory_free(&m->device, m->in.memory);
    ks_memory_free(&m->device, m->out.memory);
    ks_memory_free(&m->device, m->workspace);
    m->in = m->out = (arena){0};
    m->workspace = NULL, m->workspace_bytes = 0;
}

static double larger(size_t a, size_t b)
{
    return (double)(a > b ? a : b);
}

ks_status ks_measurer_make_room(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count)
{
    const size_t size = ks_type_bytes(p->type), y = round_up((size_t)ks_y_count(p) * size);
    const size_t in = round_up((size_t)ks_x_count(p) * size) + round_up((size_t)ks_k_count(p) * size);
    size_t workspace = 0;
    for (int q = 0; q < count; q++) {
        size_t bytes = kernels[q]->workspace_bytes(p, &m->device);
        if (bytes > workspace) workspace = bytes;
    }
    const double total = 2.0 * (double)in + 2.0 * (double)y + (double)workspace;
    const size_t least = arena_bytes(&m->device);
    if (total > fmin(m->most_bytes, 0x1p62))
        return ks_fail(KS_ERR_MEMORY, "measuring needs %.3g bytes, it may use %.3g", total, m->most_bytes);
    ks_status s = ks_device_wait(&m->device); /* a device that an earlier kernel has broken measures nothing more */
    if (s != KS_OK) return s;
    const bool roomy = larger(2 * in, least) + larger(2 * y, least) + (double)workspace <= m->most_bytes;
    if (larger(2 * in, m->in.bytes) + larger(2 * y, m->out.bytes) + larger(workspace, m->workspace_bytes) >
        m->most_bytes)
        drop_arenas(m);
    if (2 * in > m->in.bytes || 2 * y > m->out.bytes || workspace > m->workspace_bytes) s = check_free(m, total);
    if (s == KS_OK) s = ks_measurer_grow(m, &m->in, (size_t)larger(2 * in, roomy ? least : 0));
    if (s == KS_OK) s = ks_measurer_grow(m, &m->out, (size_t)larger(2 * y, roomy ? least : 0));
    if (s == KS_OK && workspace > m->workspace_bytes) {
        s = grow(&m->device, &m->workspace, &m->workspace_bytes, workspace);
        if (s == KS_OK) s = ks_memory_set(&m->device, m->workspace, 0, m->workspace_bytes);
    }
    return s;
}

static ks_run_args next_arrays(ks_measurer *m, const ks_problem *p)
{
    const size_t size = ks_type_bytes(p->type);
    const size_t x = round_up((size_t)ks_x_count(p) * size), k = round_up((size_t)ks_k_count(p) * size);
    char *in = arena_take(&m->in, x + k);
    char *y = arena_take(&m->out, round_up((size_t)ks_y_count(p) * size));
    return (ks_run_args){.device = &m->device, .x = in, .k = in + x, .y = y, .workspace = m->workspace};
}

typedef struct run_job {
    ks_measurer *measurer;
    const ks_problem *problem;
    const ks_kernel *kernel;
} run_job;

static ks_status run_once(void *user, int index, void *stream)
{
    const run_job *t = user;
    ks_run_args args = next_arrays(t->measurer, t->problem);
    (void)index;
    args.stream = stream;
    return t->kernel->run(t->problem, &args);
}

void ks_measurer_tell(const ks_measurer *m, const ks_measurement *running)
{
    if (m->setup.running) m->setup.running(m->setup.user, running);
}

const ks_device_state *ks_measurer_state(ks_measurer *m)
{
    const double now = ks_now_s();
    if (m->state_s == 0 || now > m->state_s + state_fresh_s)
        ks_device_state_read(&m->device, &m->state), m->state_s = now;
    return &m->state;
}

const ks_measurement *ks_measurer_lost_to(const ks_measurer *m)
{
    return *m->lost.kernel ? &m->lost : NULL;
}

int ks_measurer_kernels(const ks_measurer *m, const ks_problem *p, const ks_kernel *kernels[KS_MAX_KERNELS])
{
    const int count = ks_kernels_for(p, &m->device, kernels);
    return m->setup.failures ? ks_failures_spare(m->setup.failures, p, kernels, count) : count;
}

double ks_measurer_time(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, int calls)
{
    run_job t = {m, p, kernel};
    double seconds;
    return ks_device_time(&m->device, run_once, &t, calls, &seconds) == KS_OK ? seconds : -1;
}

/* Relative error that sums of c terms in float32 (float64) and one rounding to the type can have. */
static double tolerance(const ks_problem *p)
{
    static const double rounding[KS_NTYPES] = {
        [KS_F32] = 0x1p-24, [KS_F16] = 0x1p-10, [KS_BF16] = 0x1p-7, [KS_F64] = 0x1p-53};
    const double unit = p->type == KS_F64 ? 0x1p-53 : p->math == KS_MATH_TF32 ? 0x1p-10 : 0x1p-24;
    return rounding[p->type] + ((double)p->c + 8) * unit;
}

/* Fetches what the checked outputs are made of, and the outputs: for each c elements of x, then for each c elements of k,
 * then each one's y. */
static ks_status fetch(ks_measurer *m, const ks_problem *p, const ks_run_args *args, const int64_t *index)
{
    const size_t size = ks_type_bytes(p->type), each = CHECKED_OUTPUTS * (size_t)p->c * size;
    const size_t needed = 2 * each + CHECKED_OUTPUTS * size;
    int64_t x_at[CHECKED_OUTPUTS], k_at[CHECKED_OUTPUTS], x_step = 0;
    if (m->fetched_bytes < needed) {
        free(m->fetched);
        m->fetched = malloc(needed);
        m->fetched_bytes = m->fetched ? needed : 0;
        if (!m->fetched) return ks_fail(KS_ERR_MEMORY, "out of memory: checking needs %zu bytes", needed);
    }
    for (int i = 0; i < CHECKED_OUTPUTS; i++) {
        const ks_ref_place place = ks_ref_place_of(p, index[i]);
        x_at[i] = place.x_at, k_at[i] = place.k_at, x_step = place.x_step;
    }
    char *x = m->fetched, *k = x + each, *y = k + each;
    ks_status s = ks_memory_gather(&m->device, x, args->x, size, x_at, CHECKED_OUTPUTS, x_step, p->c);
    if (s == KS_OK) s = ks_memory_gather(&m->device, k, args->k, size, k_at, CHECKED_OUTPUTS, 1, p->c);
    if (s == KS_OK) s = ks_memory_gather(&m->device, y, args->y, size, index, CHECKED_OUTPUTS, 1, 1);
    return s;
}

ks_status ks_measurer_check(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, double *first_s,
                            char *reason, size_t size)
{
    ks_run_args args = next_arrays(m, p);
    const int64_t count = ks_y_count(p);
    const size_t bytes = ks_type_bytes(p->type), row = (size_t)p->c * bytes;
    int64_t index[CHECKED_OUTPUTS];
    for (int i = 0; i < CHECKED_OUTPUTS; i++)
        index[i] = i == 0 ? 0 : i == 1 ? count - 1 : (int64_t)(ks_random(&m->random) % (uint64_t)count);
    /* NaN: what is not written is found. */
    ks_status s = ks_memory_set_some(&m->device, args.y, 0xff, bytes, index, CHECKED_OUTPUTS);
    double start = ks_now_s();
    if (s == KS_OK) s = kernel->run(p, &args);
    if (s == KS_OK) s = ks_device_wait(&m->device);
    *first_s = ks_now_s() - start;
    if (s == KS_OK) s = fetch(m, p, &args, index);
    if (s != KS_OK) {
        snprintf(reason, size, "%s", ks_status_message(s));
        return s;
    }
    const char *x = m->fetched, *k = x + CHECKED_OUTPUTS * row, *y = k + CHECKED_OUTPUTS * row;
    for (int i = 0; i < CHECKED_OUTPUTS; i++) {
        double scale, want = ks_ref_dot(p->type, p->c, x + (size_t)i * row, 1, k + (size_t)i * row, &scale);
        double got = ks_load(p->type, y, i);
        if (!(fabs(got - want) <= tolerance(p) * scale) && !(p->type == KS_F16 && fabs(want) > 65000)) {
            snprintf(reason, size, "wrong result: output %lld is %g, must be %g", (long long)index[i], got, want);
            return KS_ERR_WRONG_RESULT;
        }
    }
    return KS_OK;
}
