/* The protocol of measure.h: races, and the device's rates. */
#include "measurer.h"
#include "error.h"
#include "memory.h"
#include "steady.h"
#include "timer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_CALLS = 64 };

static const double sample_least_s = 40e-6; /* a sample shorter than this is a run of calls */
static const double sample_long_s = 1e-3;   /* of shorter ones it takes three to tell who is far behind */
static const double held_up = 1.3;          /* times the run that was checked: so long a sample is in doubt */
static const double disturbed = 0.2;        /* a spread of the two fastest by which a race tells little */
static const double far_behind = 1.6;       /* times the fastest: not in the race for first place */
static const double patience = 3;           /* times max_s, or what a race took: the most for what is in doubt */
static const double floor_share = 0.35;     /* of the roofline time: nothing can be faster */
static const double cpu_floor_share = 0.12; /* a CPU's rates may have been measured beside other work */
static const double energy_least_s = 0.3;   /* energy counters tick every 20 to 100 ms */

/* What no kernel can stay below; 0 where nothing is known. A GPU's float32 product may be made of faster ones, so there
 * the flops are held against the fastest type. */
static double floor_s(const ks_device *device, const ks_problem *p)
{
    if (device->copy_bytes_per_s <= 0 || device->gemm_flops_per_s[p->type] <= 0 || ks_problem_bytes(p) <= 1e6)
        return 0;
    ks_device fastest = *device;
    for (int t = 0; device->backend == KS_CUDA && t < KS_NTYPES; t++)
        fastest.gemm_flops_per_s[p->type] = fmax(fastest.gemm_flops_per_s[p->type], device->gemm_flops_per_s[t]);
    return (device->backend == KS_CPU ? cpu_floor_share : floor_share) * ks_roofline_s(&fastest, p);
}

/* Joules of one product, NaN where the device does not tell. */
static double energy_of(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, double time_s)
{
    ks_device_state before, after;
    const int calls = (int)fmin(fmax(0.02 / time_s, 1), MOST_CALLS);
    int64_t runs = 0;
    if (ks_measurer_time(m, p, kernel, calls) < 0) return NAN; /* the draw of what ran before has died away */
    ks_device_state_read(&m->device, &before);
    for (double start = ks_now_s(); !isnan(before.energy_j) && ks_now_s() - start < energy_least_s; runs += calls)
        if (ks_measurer_time(m, p, kernel, calls) < 0) return NAN;
    ks_device_state_read(&m->device, &after);
    return (after.energy_j - before.energy_j) / (double)runs;
}

/* Whether a kernel that has failed took the device with it: its row then says so, and is kept. */
static bool is_lost(ks_measurer *m, ks_measurement *out)
{
    char why[160];
    if (ks_device_wait(&m->device) == KS_OK) return false;
    snprintf(why, sizeof why, "%s", ks_status_message(KS_ERR_DEVICE));
    out->status = KS_ERR_DEVICE, out->time_s = NAN;
    snprintf(out->reason, sizeof out->reason, KS_LOST_DEVICE "%.72s", why);
    m->lost = *out;
    ks_fail(KS_ERR_DEVICE, "\"%s\" was lost to %s: %s", m->device.name, out->kernel, why);
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
    ks_measurer_tell(m, out);
    const ks_status s = ks_measurer_check(m, p, kernel, &unused_s, reason, sizeof reason);
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
        if (is_lost(m, &out[best])) return KS_ERR_DEVICE;
    }
}

/* One problem's race. */
typedef struct race {
    ks_measurer *measurer;
    const ks_problem *problem;
    const ks_kernel *const *kernels;
    ks_measurement *out;
    int count, least, most; /* kernels; rounds */
    bool full;
    double own[KS_MAX_KERNELS][KS_MAX_SAMPLES];
    double first_s[KS_MAX_KERNELS]; /* what the run took that was checked */
    int calls[KS_MAX_KERNELS];      /* in a sample; 0: failed */
    bool unsteady[KS_MAX_KERNELS];
    double start_s, max_s; /* max_s: INFINITY if there is no limit */
    double round_s;        /* the quickest round so far */
} race;

/* A kernel that fails once it is timed is out of the race. Fails only if the device is lost. */
static ks_status drop(race *r, int q)
{
    ks_measurement *out = &r->out[q];
    out->status = KS_ERR_DEVICE, r->calls[q] = 0;
    snprintf(out->reason, sizeof out->reason, "failed while it was timed");
    return is_lost(r->measurer, out) ? KS_ERR_DEVICE : KS_OK;
}

/* Checks every kernel, and finds out how many calls make a sample. Fails only if the device is lost. */
static ks_status enter(race *r)
{
    ks_measurer *m = r->measurer;
    for (int q = 0; q < r->count; q++) {
        ks_measurement *out = &r->out[q];
        ks_measurer_tell(m, out);
        out->status =
            ks_measurer_check(m, r->problem, r->kernels[q], &r->first_s[q], out->reason, sizeof out->reason);
        if (out->status != KS_OK && is_lost(m, out)) return KS_ERR_DEVICE;
        if (out->status != KS_OK) continue;
        double first_s = r->first_s[q];
        if (first_s < 100 * sample_least_s || m->device.backend != KS_CPU)
            first_s = ks_measurer_time(m, r->problem, r->kernels[q], 1); /* the first run pays for much else */
        if (first_s < 0 && drop(r, q) != KS_OK) return KS_ERR_DEVICE;
        if (first_s < 0) continue;
        r->calls[q] = first_s >= sample_least_s ? 1 : (int)(sample_least_s / (first_s + 1e-7)) + 1;
        if (r->calls[q] > MOST_CALLS) r->calls[q] = MOST_CALLS;
    }
    return KS_OK;
}

/* One more of the kernel. Fails only if the device is lost. */
static ks_status take_sample(race *r, int q)
{
    ks_measurement *out = &r->out[q];
    ks_measurer_tell(r->measurer, out);
    const double time = ks_measurer_time(r->measurer, r->problem, r->kernels[q], r->calls[q]);
    if (time >= 0) {
        r->own[q][out->samples++] = time / r->calls[q];
        out->time_s = ks_samples_time(r->own[q], out->samples);
        return KS_OK;
    }
    return drop(r, q);
}

static bool is_sampled(const race *r, int q)
{
    return r->calls[q] > 0 && r->out[q].samples > 0;
}

static void find_leaders(const race *r, int *best, int *second)
{
    *best = *second = -1;
    for (int q = 0; q < r->count; q++) {
        if (!is_sampled(r, q)) continue;
        if (*best < 0 || r->out[q].time_s < r->out[*best].time_s)
            *second = *best, *best = q;
        else if (*second < 0 || r->out[q].time_s < r->out[*second].time_s)
            *second = q;
    }
}

static bool is_late(const race *r, double limits)
{
    return ks_now_s() - r->start_s > limits * r->max_s;
}

/* Why no further round is needed, or NULL. The least number of rounds is taken though something else held the machine
 * meanwhile, for then the first samples tell nothing, but not if rounds are too long by themselves. */
static const char *verdict(const race *r, int round, int best, int second)
{
    const bool fits = r->least * r->round_s <= r->max_s;
    if (round >= r->least) {
        const bool beside = second >= 0 && r->out[second].samples == round && r->out[best].samples == round;
        const char *why = second < 0 ? "alone"
                          : beside   ? ks_samples_verdict(r->own[best], r->own[second], round)
                                     : "decided";
        if (why) return why;
    }
    return round >= 2 && is_late(r, round < r->least && fits ? patience : 1) ? "time limit" : NULL;
}

/* Whether the kernel is behind, and has shown it: by three samples, by a long one that took no longer than the run before, or by
 * two long ones. */
static bool is_far_behind(const race *r, int q, double best_s)
{
    const double time_s = r->out[q].time_s;
    const int telling = time_s <= sample_long_s ? 3 : time_s < held_up * r->first_s[q] ? 1 : 2;
    return r->out[q].samples >= telling && time_s > far_behind * best_s;
}

static ks_status run_rounds(race *r, const char **why)
{
    for (int round = 0; round < r->most; round++) {
        int best, second;
        find_leaders(r, &best, &second);
        *why = verdict(r, round, best, second);
        if (*why) return KS_OK;
        const double start = ks_now_s();
        for (int turn = 0; turn < r->count; turn++) {
            const int q = (turn + round) % r->count;
            if (r->calls[q] == 0) continue;
            if (best >= 0 && !r->full && is_far_behind(r, q, r->out[best].time_s)) continue;
            const ks_status s = take_sample(r, q);
            if (s != KS_OK) return s;
        }
        r->round_s = fmin(r->round_s, ks_now_s() - start);
    }
    *why = "sample limit";
    return KS_OK;
}

/* The one that a caller fares best with, going by all its samples. */
static int least_mean(const race *r)
{
    double least = INFINITY;
    int found = -1;
    for (int q = 0; q < r->count; q++) {
        const double mean = is_sampled(r, q) ? ks_samples_mean(r->own[q], r->out[q].samples) : INFINITY;
        if (mean < least) least = mean, found = q;
    }
    return found;
}

/* Samples both on, in turn, until it is known whether the kernel's slow runs are its own. */
static ks_status look_at(race *r, int q, int rival, double end_s)
{
    const int *own = &r->out[q].samples, *others = &r->out[rival].samples;
    while (r->calls[q] > 0 && r->calls[rival] > 0) {
        const ks_steadiness found = ks_samples_steadiness(r->own[q], *own, r->own[rival], *others);
        r->unsteady[q] = found == KS_UNSTEADY;
        if (found != KS_IN_DOUBT || ks_now_s() > end_s) break;
        const int next = *others <= *own ? rival : q;
        if (r->out[next].samples == KS_MAX_SAMPLES) break;
        const ks_status s = take_sample(r, next);
        if (s != KS_OK) return s;
    }
    return KS_OK;
}

/* Looks at all that are in the race for first place and had slow runs, but for the one that would win by its mean. */
static ks_status find_unsteady(race *r)
{
    const double end_s = r->start_s + patience * fmin(r->max_s, ks_now_s() - r->start_s);
    bool looked[KS_MAX_KERNELS] = {false};
    ks_status s = KS_OK;
    for (int q = 0; s == KS_OK && q < r->count; q++) {
        int best, second;
        find_leaders(r, &best, &second);
        const int rival = least_mean(r);
        if (looked[q] || q == rival || !is_sampled(r, q)) continue;
        if (r->out[q].time_s > far_behind * r->out[best].time_s) continue;
        if (ks_samples_slow(r->own[q], r->out[q].samples) == 0) continue;
        s = look_at(r, q, rival, end_s);
        looked[q] = true, q = -1; /* there may be another rival now */
    }
    return s;
}

/* What the samples come to, and why there are no more of them. */
static void sum_up(const race *r, int q, const char *why, const ks_device_state *state)
{
    ks_measurement *out = &r->out[q];
    const double *own = r->own[q];
    if (r->unsteady[q]) out->time_s = ks_samples_mean(own, out->samples);
    out->spread = (ks_samples_quantile(own, out->samples, 0.75) - ks_samples_quantile(own, out->samples, 0.25)) / 2 /
                  out->time_s;
    out->clock_hz = state->clock_hz;
    if (r->unsteady[q])
        snprintf(out->reason, sizeof out->reason,
                 "unsteady: %d of %d runs took over twice the median; the mean counts",
                 ks_samples_slow(own, out->samples), out->samples);
    else
        snprintf(out->reason, sizeof out->reason, "%s%s%s", why, *state->throttle ? "; clock held down: " : "",
                 state->throttle);
}

/* The wider spread of the two fastest, on which their order hangs; 0 where it is a kernel's own, or where one failed, which another
 * race must not make forget. */
static double disturbance(const race *r)
{
    int best, second;
    for (int q = 0; q < r->count; q++)
        if (r->out[q].status != KS_OK) return 0;
    find_leaders(r, &best, &second);
    if (second < 0 || r->unsteady[best] || r->unsteady[second]) return 0;
    return fmax(r->out[best].spread, r->out[second].spread);
}

/* *spread: the race's disturbance. */
static ks_status run_race(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count,
                          const ks_measure_limits *limits, ks_measurement *out, double *raw, double *spread)
{
    const ks_measure_limits defaults = {0}, *l = limits ? limits : &defaults;
    race r = {.measurer = m,
              .problem = p,
              .kernels = kernels,
              .out = out,
              .count = count,
              .least = l->min_samples ? l->min_samples : 5,
              .most = l->max_samples ? l->max_samples : 25,
              .full = l->full_race,
              .max_s = l->max_s > 0 ? l->max_s : INFINITY,
              .round_s = INFINITY};
    const char *why = NULL;
    if (r.most > KS_MAX_SAMPLES) r.most = KS_MAX_SAMPLES;
    begin_rows(m, p, kernels, count, out);
    ks_status s = ks_measurer_make_room(m, p, kernels, count);
    r.start_s = ks_now_s();
    if (s == KS_OK) s = enter(&r);
    if (s == KS_OK) s = run_rounds(&r, &why);
    if (s == KS_OK) s = find_unsteady(&r);
    if (s != KS_OK) return s;

    const ks_device_state *state = ks_measurer_state(m);
    for (int q = 0; q < count; q++) {
        if (raw) memcpy(raw + q * KS_MAX_SAMPLES, r.own[q], (size_t)out[q].samples * sizeof *raw);
        if (out[q].status != KS_OK || out[q].samples == 0) {
            out[q].time_s = NAN;
            continue;
        }
        sum_up(&r, q, why, state);
        if (out[q].time_s < floor_s(&m->device, p)) {
            snprintf(out[q].reason, sizeof out[q].reason, "%.3g s is below the physical floor", out[q].time_s);
            if (check_again(m, p, kernels[q], &out[q]) == KS_OK) out[q].status = KS_ERR_NO_DATA, out[q].time_s = NAN;
            if (out[q].status == KS_ERR_DEVICE && is_lost(m, &out[q])) return KS_ERR_DEVICE;
            continue;
        }
        if (l->energy) {
            ks_measurer_tell(m, &out[q]);
            out[q].energy_j = energy_of(m, p, kernels[q], out[q].time_s);
            if (isnan(out[q].energy_j) && is_lost(m, &out[q])) return KS_ERR_DEVICE;
        }
    }
    s = check_winner(m, p, kernels, count, out);
    if (s == KS_OK) ks_measurer_tell(m, NULL);
    *spread = disturbance(&r);
    return s;
}

ks_status ks_measure(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count,
                     const ks_measure_limits *limits, ks_measurement *out, double *raw)
{
    ks_measurement again[KS_MAX_KERNELS];
    double again_raw[KS_MAX_KERNELS * KS_MAX_SAMPLES], spread, again_spread;
    ks_status s = run_race(m, p, kernels, count, limits, out, raw, &spread);
    if (s != KS_OK || spread <= disturbed) return s;
    s = run_race(m, p, kernels, count, limits, again, raw ? again_raw : NULL, &again_spread);
    if (s != KS_OK || again_spread >= spread) return s;
    memcpy(out, again, (size_t)count * sizeof *out);
    if (raw) memcpy(raw, again_raw, (size_t)count * KS_MAX_SAMPLES * sizeof *raw);
    return KS_OK;
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
    ks_status s = roomy ? ks_measurer_grow(m, &m->in, wanted) : KS_OK;
    if (s == KS_OK && roomy) s = ks_measurer_grow(m, &m->out, wanted);
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
