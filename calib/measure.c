/* The protocol of measure.h, on any device: memory and time come from memory.h. Inputs and outputs have an arena each:
 * outputs never become inputs, so the inputs stay the well-behaved numbers they were filled with, whatever the type they
 * are read as. */
#include "measure.h"
#include "error.h"
#include "memory.h"
#include "random.h"
#include "ref_cpu.h"
#include "timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256, CHECKED_OUTPUTS = 24, MOST_CALLS = 64 };

static const double sample_least_s = 40e-6; /* a sample shorter than this is a run of calls */
static const double sample_long_s = 1e-3;   /* one sample this long tells who is far behind; of shorter ones, three */
static const double far_behind = 1.6;       /* times the fastest: not in the race for first place */
static const double floor_share = 0.35;     /* of the roofline time: nothing can be faster */
static const double energy_least_s = 0.3;   /* energy counters tick every 20 to 100 ms */
static const double memory_share = 0.7;     /* of the device's memory, where nothing else is said */

typedef struct arena {
    char *memory;
    size_t bytes, next;
} arena;

struct ks_measurer {
    ks_device device;
    arena in, out;
    void *workspace;
    size_t workspace_bytes;
    void *fetched; /* host memory: what a check looks at */
    size_t fetched_bytes;
    uint64_t random;
    ks_measurer_setup setup;
    double most_bytes; /* INFINITY: not known */
};

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

/* Grows an arena and fills it: inputs with ordinary numbers. */
static ks_status arena_grow(ks_measurer *m, arena *a, size_t bytes)
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
    if (s == KS_OK) s = arena_grow(m, &m->in, bytes);
    if (s == KS_OK) s = arena_grow(m, &m->out, bytes);
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

/* Room for at least two of each array, and for every kernel's workspace; no less than keeps inputs cold. */
static ks_status make_room(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count)
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
    if (s == KS_OK) s = arena_grow(m, &m->in, (size_t)larger(2 * in, roomy ? least : 0));
    if (s == KS_OK) s = arena_grow(m, &m->out, (size_t)larger(2 * y, roomy ? least : 0));
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

typedef struct turn {
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

/* To be said before a kernel runs: see ks_measurer_setup. */
static void tell(const ks_measurer *m, const ks_measurement *running)
{
    if (m->setup.running) m->setup.running(m->setup.user, running);
}

int ks_measurer_kernels(const ks_measurer *m, const ks_problem *p, const ks_kernel *kernels[KS_MAX_KERNELS])
{
    const int count = ks_kernels_for(p, &m->device, kernels);
    return m->setup.failures ? ks_failures_spare(m->setup.failures, p, kernels, count) : count;
}

/* Seconds of `calls` runs in a row, or a negative number if one failed. */
static double timed(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, int calls)
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

/* Runs the kernel once and compares outputs, the first and the last among them, with the reference. */
static ks_status check(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, double *first_s, char *reason,
                       size_t size)
{
    ks_run_args args = next_arrays(m, p);
    const int64_t count = ks_y_count(p);
    const size_t bytes = ks_type_bytes(p->type), row = (size_t)p->c * bytes;
    int64_t index[CHECKED_OUTPUTS];
    ks_status s = KS_OK;
    for (int i = 0; s == KS_OK && i < CHECKED_OUTPUTS; i++) { /* NaN: what is not written is found */
        index[i] = i == 0 ? 0 : i == 1 ? count - 1 : (int64_t)(ks_random(&m->random) % (uint64_t)count);
        s = ks_memory_set(&m->device, (char *)args.y + (size_t)index[i] * bytes, 0xff, bytes);
    }
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

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The quantile of unsorted samples, by interpolation. */
static double quantile(const double *samples, int count, double at)
{
    double sorted[KS_MAX_SAMPLES];
    memcpy(sorted, samples, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare);
    double place = at * (count - 1);
    int below = (int)place;
    return below + 1 < count ? sorted[below] + (place - below) * (sorted[below + 1] - sorted[below]) : sorted[below];
}

/* Whether the race between the two fastest is decided: returns the reason, or NULL. */
static const char *decided(const double *best, const double *second, int count)
{
    double ratio[KS_MAX_SAMPLES];
    for (int i = 0; i < count; i++) ratio[i] = log(second[i] / best[i]);
    const double middle = quantile(ratio, count, 0.5);
    const double width = (quantile(ratio, count, 0.75) - quantile(ratio, count, 0.25)) / 1.349;
    const double error = 2 * 1.2533 * width / sqrt(count); /* two standard errors of a median */
    if (middle - error > KS_TIE) return "decided";
    if (fabs(middle) + error < KS_TIE) return "tie";
    return NULL;
}

/* What no kernel can stay below; 0 where nothing is known. A GPU's float32 product may be made of faster ones, so there
 * the flops are held against the fastest type. */
static double floor_s(const ks_device *device, const ks_problem *p)
{
    if (device->copy_bytes_per_s <= 0 || device->gemm_flops_per_s[p->type] <= 0 || ks_problem_bytes(p) <= 1e6)
        return 0;
    ks_device fastest = *device;
    for (int t = 0; device->backend == KS_CUDA && t < KS_NTYPES; t++)
        fastest.gemm_flops_per_s[p->type] = fmax(fastest.gemm_flops_per_s[p->type], device->gemm_flops_per_s[t]);
    return floor_share * ks_roofline_s(&fastest, p);
}

/* Joules of one product, NaN where the device does not tell. */
static double energy_of(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, double time_s)
{
    ks_device_state before, after;
    const int calls = (int)fmin(fmax(0.02 / time_s, 1), MOST_CALLS);
    int64_t runs = 0;
    if (timed(m, p, kernel, calls) < 0) return NAN; /* the draw of what ran before has died away */
    ks_device_state_read(&m->device, &before);
    for (double start = ks_now_s(); !isnan(before.energy_j) && ks_now_s() - start < energy_least_s; runs += calls)
        if (timed(m, p, kernel, calls) < 0) return NAN;
    ks_device_state_read(&m->device, &after);
    return (after.energy_j - before.energy_j) / (double)runs;
}

/* Whether a kernel that has failed took the device with it. */
static bool is_lost(const ks_measurer *m, const ks_kernel *kernel)
{
    char why[160];
    if (ks_device_wait(&m->device) == KS_OK) return false;
    snprintf(why, sizeof why, "%s", ks_status_message(KS_ERR_DEVICE));
    ks_fail(KS_ERR_DEVICE, "\"%s\" was lost to %s: %s", m->device.name, kernel->name, why);
    return true;
}

/* Rows of which nothing is known yet. */
static void begin_rows(const ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count,
                       ks_measurement *out)
{
    for (int q = 0; q < count; q++) {
        out[q] = (ks_measurement){.problem = *p,
                                  .kernel_version = kernels[q]->version,
                                  .family = kernels[q]->family,
                                  .time_s = NAN,
                                  .energy_j = NAN,
                                  .measured_at_s = ks_clock_s()};
        snprintf(out[q].device, sizeof out[q].device, "%s", m->device.name);
        snprintf(out[q].kernel, sizeof out[q].kernel, "%s", kernels[q]->name);
    }
}

/* A kernel may be right when it is first looked at and not while it is timed. */
static ks_status check_again(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, ks_measurement *out)
{
    char reason[sizeof out->reason - 16];
    double unused_s;
    tell(m, out);
    const ks_status s = check(m, p, kernel, &unused_s, reason, sizeof reason);
    if (s == KS_OK) return KS_OK;
    snprintf(out->reason, sizeof out->reason, "once timed: %s", reason);
    out->status = s, out->time_s = NAN;
    return s;
}

/* So the one that is about to win is looked at once more; if it is found out, the next one is. */
static ks_status check_winner(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count,
                              ks_measurement *out)
{
    for (;;) {
        int best = -1;
        for (int q = 0; q < count; q++)
            if (out[q].status == KS_OK && !isnan(out[q].time_s) && (best < 0 || out[q].time_s < out[best].time_s))
                best = q;
        if (best < 0 || check_again(m, p, kernels[best], &out[best]) == KS_OK) return KS_OK;
        if (is_lost(m, kernels[best])) return KS_ERR_DEVICE;
    }
}

ks_status ks_measure(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count,
                     const ks_measure_limits *limits, ks_measurement *out, double *raw)
{
    double own[KS_MAX_KERNELS][KS_MAX_SAMPLES];
    int calls[KS_MAX_KERNELS] = {0};
    const int least = limits && limits->min_samples ? limits->min_samples : 5;
    int most = limits && limits->max_samples ? limits->max_samples : 25;
    if (most > KS_MAX_SAMPLES) most = KS_MAX_SAMPLES;
    begin_rows(m, p, kernels, count, out);
    ks_status s = make_room(m, p, kernels, count);
    if (s != KS_OK) return s;
    const double start = ks_now_s(), end = limits && limits->max_s > 0 ? start + limits->max_s : INFINITY;

    for (int q = 0; q < count; q++) {
        double first_s;
        tell(m, &out[q]);
        out[q].status = check(m, p, kernels[q], &first_s, out[q].reason, sizeof out[q].reason);
        if (out[q].status != KS_OK && is_lost(m, kernels[q])) return KS_ERR_DEVICE;
        if (out[q].status != KS_OK) continue;
        if (first_s < 100 * sample_least_s || m->device.backend != KS_CPU)
            first_s = timed(m, p, kernels[q], 1); /* the first run pays for much else */
        calls[q] = first_s >= sample_least_s ? 1 : (int)(sample_least_s / (fabs(first_s) + 1e-7)) + 1;
        if (calls[q] > MOST_CALLS) calls[q] = MOST_CALLS;
    }

    const char *why = "sample limit";
    for (int round = 0; round < most; round++) {
        int best = -1, second = -1;
        for (int q = 0; q < count; q++) {
            if (calls[q] == 0 || out[q].samples == 0) continue;
            out[q].time_s = quantile(own[q], out[q].samples, 0.5);
            if (best < 0 || out[q].time_s < out[best].time_s)
                second = best, best = q;
            else if (second < 0 || out[q].time_s < out[second].time_s)
                second = q;
        }
        if (round >= least) {
            const bool race = second >= 0 && out[second].samples == round && out[best].samples == round;
            const char *verdict = second < 0 ? "alone" : race ? decided(own[best], own[second], round) : "decided";
            if (verdict) {
                why = verdict;
                break;
            }
        }
        if (ks_now_s() > end && round >= 2) {
            why = "time limit";
            break;
        }
        for (int turn = 0; turn < count; turn++) {
            const int q = (turn + round) % count;
            if (calls[q] == 0) continue;
            const bool telling = out[q].samples >= (out[q].time_s > sample_long_s ? 1 : 3);
            const bool behind = telling && best >= 0 && out[q].time_s > far_behind * out[best].time_s;
            if (behind && !(limits && limits->full_race)) continue;
            tell(m, &out[q]);
            double time = timed(m, p, kernels[q], calls[q]);
            if (time < 0) {
                out[q].status = KS_ERR_DEVICE, calls[q] = 0;
                snprintf(out[q].reason, sizeof out[q].reason, "failed while it was timed");
                if (is_lost(m, kernels[q])) return KS_ERR_DEVICE;
                continue;
            }
            own[q][out[q].samples++] = time / calls[q];
        }
    }

    ks_device_state state;
    ks_device_state_read(&m->device, &state);
    for (int q = 0; q < count; q++) {
        if (raw) memcpy(raw + q * KS_MAX_SAMPLES, own[q], (size_t)out[q].samples * sizeof *raw);
        if (out[q].status != KS_OK || out[q].samples == 0) {
            out[q].time_s = NAN;
            continue;
        }
        out[q].time_s = quantile(own[q], out[q].samples, 0.5);
        out[q].spread =
            (quantile(own[q], out[q].samples, 0.75) - quantile(own[q], out[q].samples, 0.25)) / 2 / out[q].time_s;
        out[q].clock_hz = state.clock_hz;
        snprintf(out[q].reason, sizeof out[q].reason, "%s%s%s", why, *state.throttle ? "; clock held down: " : "",
                 state.throttle);
        if (out[q].time_s < floor_s(&m->device, p)) {
            snprintf(out[q].reason, sizeof out[q].reason, "%.3g s is below the physical floor", out[q].time_s);
            if (check_again(m, p, kernels[q], &out[q]) == KS_OK) out[q].status = KS_ERR_NO_DATA, out[q].time_s = NAN;
            if (out[q].status == KS_ERR_DEVICE && is_lost(m, kernels[q])) return KS_ERR_DEVICE;
            continue;
        }
        if (limits && limits->energy) {
            tell(m, &out[q]);
            out[q].energy_j = energy_of(m, p, kernels[q], out[q].time_s);
        }
    }
    s = check_winner(m, p, kernels, count, out);
    if (s == KS_OK) tell(m, NULL);
    return s;
}

typedef struct copy_job {
    const ks_device *device;
    void *to;
    const void *from;
    size_t bytes;
} copy_job;

static ks_status copy_once(void *user, int index, void *stream)
{
    const copy_job *job = user;
    (void)index;
    return ks_memory_copy_kernel(job->device, job->to, job->from, job->bytes, stream);
}

/* A GPU copies 256 MB in the time of a few waves of blocks: a longer run shows its rate. Where that is not to be had, what
 * there is must do. */
static ks_status measure_copy_rate(ks_measurer *m, double *bytes_per_s)
{
    const size_t wanted = (size_t)1 << 30;
    const bool roomy = m->device.backend == KS_CUDA && m->device.memory_bytes > (int64_t)(16 * wanted) &&
                       m->most_bytes >= 2.0 * (double)wanted;
    ks_status s = roomy ? arena_grow(m, &m->in, wanted) : KS_OK;
    if (s == KS_OK && roomy) s = arena_grow(m, &m->out, wanted);
    const size_t bytes = m->in.bytes < m->out.bytes ? m->in.bytes : m->out.bytes;
    copy_job job = {&m->device, m->out.memory, m->in.memory, bytes};
    double best = INFINITY;
    for (int i = 0; s == KS_OK && i < 6; i++) {
        double time;
        s = ks_device_time(&m->device, copy_once, &job, 1, &time);
        if (s == KS_OK && time > 0) best = fmin(best, time);
    }
    if (s == KS_OK) *bytes_per_s = 2.0 * (double)bytes / best;
    return s;
}

/* The kernels whose rate on a dense problem is the device's GEMM rate. */
static int dense_kernels(const ks_measurer *m, const ks_problem *p, const ks_kernel *kernels[KS_MAX_KERNELS])
{
    const int count = ks_measurer_kernels(m, p, kernels);
    int kept = 0;
    if (m->device.backend == KS_CPU) return count;
    for (int q = 0; q < count; q++)
        if (kernels[q]->family == KS_BMM) kernels[kept++] = kernels[q];
    return kept ? kept : count; /* no BLAS: the kernels there are */
}

ks_status ks_measure_rates(ks_measurer *m, ks_device *device)
{
    ks_status s = measure_copy_rate(m, &device->copy_bytes_per_s);
    if (s != KS_OK) return s;
    m->device.copy_bytes_per_s = device->copy_bytes_per_s;
    const ks_measure_limits limits = {.min_samples = 3, .max_samples = 3};
    for (int t = 0; t < KS_NTYPES; t++) {
        const bool half = t == KS_F16 || t == KS_BF16;
        const int64_t side = device->backend == KS_CPU ? 1536 : half ? 8192 : 4096;
        const ks_problem p = {1, side, side, 1, side, (ks_type)t, KS_BATCH_LAST, KS_MATH_F32};
        const ks_kernel *kernels[KS_MAX_KERNELS];
        ks_measurement out[KS_MAX_KERNELS];
        const int count = dense_kernels(m, &p, kernels);
        s = ks_measure(m, &p, kernels, count, &limits, out, NULL);
        if (s == KS_ERR_MEMORY) continue; /* the rate stays unknown */
        if (s != KS_OK) return s;
        for (int q = 0; q < count; q++) {
            const double rate = ks_problem_flops(&p) / out[q].time_s;
            if (out[q].status == KS_OK && rate > device->gemm_flops_per_s[t]) device->gemm_flops_per_s[t] = rate;
        }
    }
    memcpy(m->device.gemm_flops_per_s, device->gemm_flops_per_s, sizeof m->device.gemm_flops_per_s);
    return KS_OK;
}
