/* The protocol of measure.h. Inputs and outputs have an arena each: outputs never become inputs, so the inputs stay the
 * well-behaved numbers they were filled with, whatever the type they are read as. */
#include "measure.h"
#include "error.h"
#include "fused_core.h"
#include "pool.h"
#include "ref_cpu.h"
#include "timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, CHECKED_OUTPUTS = 24 };

static const double sample_least_s = 40e-6; /* a sample shorter than this is a run of calls */
static const double sample_long_s = 1e-3;   /* one sample this long tells who is far behind; of shorter ones, three */
static const double far_behind = 1.6;       /* times the fastest: not in the race for first place */
static const double floor_share = 0.35;     /* of the roofline time: nothing can be faster */

typedef struct arena {
    char *memory;
    size_t bytes, next;
} arena;

struct ks_measurer {
    ks_device device;
    arena in, out;
    void *workspace;
    size_t workspace_bytes;
    uint64_t random;
};

static uint64_t next_random(ks_measurer *m)
{
    uint64_t z = m->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static bool arena_grow(arena *a, size_t bytes)
{
    if (a->bytes >= bytes) return true;
    free(a->memory);
    a->bytes = a->next = 0;
    a->memory = aligned_alloc(ALIGN, round_up(bytes));
    if (!a->memory) return false;
    a->bytes = round_up(bytes);
    return true;
}

/* Every 16 bits are a sign and 0x3e00..0x3fff: as float16 that is 1.5 to 2 in magnitude, and as bfloat16, float32 and
 * float64 (the upper 16 bits decide) between 0.1 and 2, 0.1 and 2, and 1e-9 and 2: ordinary numbers in every type. */
static void fill(ks_measurer *m, arena *a)
{
    for (size_t i = 0; i + 8 <= a->bytes; i += 8) {
        uint64_t word = (next_random(m) & 0x81ff81ff81ff81ffu) | 0x3e003e003e003e00u;
        memcpy(a->memory + i, &word, 8);
    }
}

/* The next stretch of the arena: each call returns other memory until all of it was used. */
static char *arena_take(arena *a, size_t bytes)
{
    if (a->next + bytes > a->bytes) a->next = 0;
    char *at = a->memory + a->next;
    a->next += round_up(bytes);
    return at;
}

static size_t last_level(const ks_device *device)
{
    int64_t cache = device->l3_bytes > device->l2_bytes ? device->l3_bytes : device->l2_bytes;
    int64_t most = device->memory_bytes / 16, wanted = cache > 32 << 20 ? cache : 32 << 20;
    return (size_t)(most > 0 && wanted > most ? most : wanted);
}

ks_status ks_measurer_open(ks_measurer **measurer, const ks_device *device)
{
    ks_measurer *m = *measurer = calloc(1, sizeof *m);
    if (!m) return ks_fail(KS_ERR_MEMORY, "out of memory opening the measurer");
    m->device = *device;
    m->random = (uint64_t)(ks_clock_s() * 1e6);
    if (!arena_grow(&m->in, last_level(device)) || !arena_grow(&m->out, last_level(device))) {
        ks_measurer_close(m);
        *measurer = NULL;
        return ks_fail(KS_ERR_MEMORY, "out of memory: measuring needs %zu bytes twice", last_level(device));
    }
    fill(m, &m->in);
    memset(m->out.memory, 0x3e, m->out.bytes);
    return KS_OK;
}

void ks_measurer_close(ks_measurer *m)
{
    if (!m) return;
    free(m->in.memory);
    free(m->out.memory);
    free(m->workspace);
    free(m);
}

/* Room for at least two of each array, and for every kernel's workspace. */
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
    if (m->device.memory_bytes > 0 && total > 0.7 * (double)m->device.memory_bytes)
        return ks_fail(KS_ERR_MEMORY, "measuring needs %.3g bytes, the machine has %.3g", total,
                       (double)m->device.memory_bytes);
    const size_t in_before = m->in.bytes, out_before = m->out.bytes;
    if (!arena_grow(&m->in, 2 * in) || !arena_grow(&m->out, 2 * y))
        return ks_fail(KS_ERR_MEMORY, "out of memory: measuring needs %.3g bytes", total);
    if (m->in.bytes != in_before) fill(m, &m->in);
    if (m->out.bytes != out_before) memset(m->out.memory, 0x3e, m->out.bytes);
    if (workspace > m->workspace_bytes) {
        free(m->workspace);
        m->workspace_bytes = 0;
        m->workspace = aligned_alloc(ALIGN, round_up(workspace));
        if (!m->workspace) return ks_fail(KS_ERR_MEMORY, "out of memory: %zu bytes of workspace", workspace);
        m->workspace_bytes = round_up(workspace);
        memset(m->workspace, 0, m->workspace_bytes);
    }
    return KS_OK;
}

static ks_run_args next_arrays(ks_measurer *m, const ks_problem *p)
{
    const size_t size = ks_type_bytes(p->type);
    const size_t x = round_up((size_t)ks_x_count(p) * size), k = round_up((size_t)ks_k_count(p) * size);
    char *in = arena_take(&m->in, x + k);
    char *y = arena_take(&m->out, round_up((size_t)ks_y_count(p) * size));
    return (ks_run_args){.device = &m->device, .x = in, .k = in + x, .y = y, .workspace = m->workspace};
}

/* Seconds of `calls` runs in a row, or a negative number if one failed. */
static double timed(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, int calls)
{
    double start = ks_now_s();
    for (int i = 0; i < calls; i++) {
        ks_run_args args = next_arrays(m, p);
        if (kernel->run(p, &args) != KS_OK) return -1;
    }
    return ks_now_s() - start;
}

/* Relative error that sums of c terms in float32 (float64) and one rounding to the type can have. */
static double tolerance(const ks_problem *p)
{
    static const double rounding[KS_NTYPES] = {
        [KS_F32] = 0x1p-24, [KS_F16] = 0x1p-10, [KS_BF16] = 0x1p-7, [KS_F64] = 0x1p-53};
    const double unit = p->type == KS_F64 ? 0x1p-53 : p->math == KS_MATH_TF32 ? 0x1p-10 : 0x1p-24;
    return rounding[p->type] + ((double)p->c + 8) * unit;
}

/* Runs the kernel once and compares outputs, the first and the last among them, with the reference. */
static ks_status check(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, double *first_s, char *reason,
                       size_t size)
{
    ks_run_args args = next_arrays(m, p);
    const int64_t count = ks_y_count(p);
    const size_t bytes = ks_type_bytes(p->type);
    int64_t index[CHECKED_OUTPUTS];
    for (int i = 0; i < CHECKED_OUTPUTS; i++) {
        index[i] = i == 0 ? 0 : i == 1 ? count - 1 : (int64_t)(next_random(m) % (uint64_t)count);
        memset((char *)args.y + (size_t)index[i] * bytes, 0xff, bytes); /* NaN: what is not written is found */
    }
    double start = ks_now_s();
    ks_status s = kernel->run(p, &args);
    *first_s = ks_now_s() - start;
    if (s != KS_OK) {
        snprintf(reason, size, "%s", ks_status_message(s));
        return s;
    }
    for (int i = 0; i < CHECKED_OUTPUTS; i++) {
        double scale, want = ks_ref_output(p, args.x, args.k, index[i], &scale);
        double got = ks_load(p->type, args.y, index[i]);
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

ks_status ks_measure(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count,
                     const ks_measure_limits *limits, ks_measurement *out, double *raw)
{
    double own[KS_MAX_KERNELS][KS_MAX_SAMPLES];
    int calls[KS_MAX_KERNELS] = {0};
    const int least = limits && limits->min_samples ? limits->min_samples : 5;
    int most = limits && limits->max_samples ? limits->max_samples : 25;
    if (most > KS_MAX_SAMPLES) most = KS_MAX_SAMPLES;
    ks_status s = make_room(m, p, kernels, count);
    if (s != KS_OK) return s;
    const double start = ks_now_s(), end = limits && limits->max_s > 0 ? start + limits->max_s : INFINITY;

    for (int q = 0; q < count; q++) {
        out[q] = (ks_measurement){.problem = *p,
                                  .kernel_version = kernels[q]->version,
                                  .family = kernels[q]->family,
                                  .time_s = NAN,
                                  .energy_j = NAN,
                                  .measured_at_s = ks_clock_s()};
        snprintf(out[q].device, sizeof out[q].device, "%s", m->device.name);
        snprintf(out[q].kernel, sizeof out[q].kernel, "%s", kernels[q]->name);
        double first_s;
        out[q].status = check(m, p, kernels[q], &first_s, out[q].reason, sizeof out[q].reason);
        if (out[q].status != KS_OK) continue;
        if (first_s < 100 * sample_least_s)
            first_s = timed(m, p, kernels[q], 1); /* the first run pays for much else */
        calls[q] = first_s >= sample_least_s ? 1 : (int)(sample_least_s / (fabs(first_s) + 1e-7)) + 1;
        if (calls[q] > 64) calls[q] = 64;
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
            double time = timed(m, p, kernels[q], calls[q]);
            if (time < 0) {
                out[q].status = KS_ERR_DEVICE, calls[q] = 0;
                snprintf(out[q].reason, sizeof out[q].reason, "failed while it was timed");
                continue;
            }
            own[q][out[q].samples++] = time / calls[q];
        }
    }

    for (int q = 0; q < count; q++) {
        if (raw) memcpy(raw + q * KS_MAX_SAMPLES, own[q], (size_t)out[q].samples * sizeof *raw);
        if (out[q].status != KS_OK || out[q].samples == 0) {
            out[q].time_s = NAN;
            continue;
        }
        out[q].time_s = quantile(own[q], out[q].samples, 0.5);
        out[q].spread =
            (quantile(own[q], out[q].samples, 0.75) - quantile(own[q], out[q].samples, 0.25)) / 2 / out[q].time_s;
        snprintf(out[q].reason, sizeof out[q].reason, "%s", why);
        if (m->device.copy_bytes_per_s > 0 && m->device.gemm_flops_per_s[p->type] > 0 && ks_problem_bytes(p) > 1e6 &&
            out[q].time_s < floor_share * ks_roofline_s(&m->device, p)) {
            snprintf(out[q].reason, sizeof out[q].reason, "%.3g s is below the physical floor", out[q].time_s);
            out[q].status = KS_ERR_WRONG_RESULT, out[q].time_s = NAN;
        }
    }
    return KS_OK;
}

typedef struct copy_job {
    char *to;
    const char *from;
    size_t piece, bytes;
} copy_job;

static void copy_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const copy_job *job = arg;
    const size_t at = (size_t)index * job->piece, left = job->bytes - at;
    ks_fused_copy(job->to + at, job->from + at, left < job->piece ? left : job->piece);
}

double ks_measure_copy_s(ks_measurer *m, size_t bytes)
{
    if (bytes > m->in.bytes) bytes = m->in.bytes;
    if (bytes > m->out.bytes) bytes = m->out.bytes;
    copy_job job = {m->out.memory, m->in.memory, 1 << 20, bytes};
    double start = ks_now_s();
    ks_pool_run((int64_t)((bytes + job.piece - 1) / job.piece), true, copy_task, &job);
    return ks_now_s() - start;
}

ks_status ks_measure_rates(ks_measurer *m, ks_device *device)
{
    double best = INFINITY;
    for (int i = 0; i < 6; i++) {
        const size_t bytes = m->in.bytes < m->out.bytes ? m->in.bytes : m->out.bytes;
        const double time = ks_measure_copy_s(m, bytes);
        if (time > 0) best = fmin(best, time / (2.0 * (double)bytes));
    }
    device->copy_bytes_per_s = m->device.copy_bytes_per_s = 1 / best;
    const ks_measure_limits limits = {.min_samples = 3, .max_samples = 3};
    for (int t = 0; t < KS_NTYPES; t++) {
        const ks_problem p = {1, 1536, 1536, 1, 1536, (ks_type)t, KS_BATCH_LAST, KS_MATH_F32};
        const ks_kernel *kernels[KS_MAX_KERNELS];
        ks_measurement out[KS_MAX_KERNELS];
        const int count = ks_kernels_for(&p, &m->device, kernels);
        ks_status s = ks_measure(m, &p, kernels, count, &limits, out, NULL);
        if (s != KS_OK) return s;
        for (int q = 0; q < count; q++) {
            const double rate = ks_problem_flops(&p) / out[q].time_s;
            if (out[q].status == KS_OK && rate > device->gemm_flops_per_s[t]) device->gemm_flops_per_s[t] = rate;
        }
    }
    memcpy(m->device.gemm_flops_per_s, device->gemm_flops_per_s, sizeof m->device.gemm_flops_per_s);
    return KS_OK;
}
