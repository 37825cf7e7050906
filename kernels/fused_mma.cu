/* fused.cuda.mma: the row of the kernel table, and its planner. What runs on the device is fused_mma.cuh. */
#include "fused_mma_plan.cuh"
#include "launch.cuh"

extern "C" {
#include "cuda.h"
#include "error.h"
#include "rows.h"
}

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

namespace ks_mma
{

namespace
{

int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

} /* namespace */

const variant *shapes_for(const ks_problem *p, int *count)
{
    switch (p->type) {
    case KS_F16:
        return shapes_f16(count);
    case KS_BF16:
        return shapes_bf16(count);
    case KS_F32:
        return p->math == KS_MATH_TF32 ? shapes_tf32(count) : shapes_f32(count);
    default:
        *count = 0;
        return NULL;
    }
}

/* Copies move 16 bytes and sizes are 32 bits inside a block. */
static bool fits(const variant *v, const ks_problem *p)
{
    const int64_t most = INT32_MAX / 64;
    if (p->b > most || p->c > most || p->d > most || p->c % v->VL != 0 || p->c * p->d > most || p->b * p->d > most)
        return false;
    switch (v->READER) {
    case LAST:
        return p->layout == KS_BATCH_LAST && p->batch % v->VL == 0;
    case WHOLE:
        return p->layout == KS_BATCH_FIRST && p->d == v->TL;
    case VECTOR:
        if (p->layout != KS_BATCH_FIRST) return false;
        return v->LW >= v->VL ? p->d % v->LW == 0 && p->d >= v->TL : p->d == v->TL;
    }
    return false;
}

/* What the cost of a plan is made of; fitted to 790 measurements of 142 problems on an H100. */
static const double clock_hz = 1.7e9, launch_s = 4.6e-6;
static const double l2_unit_bytes_per_s = 32e9, hopper_unit_bytes_per_s = 22e9, ampere_unit_bytes_per_s = 14e9;
static const double half_cycles = 3.1,
                    float_cycles = 8.1; /* of a multiprocessor, for a product of 16 x 8 x one step */
static const double request_bytes = 40; /* a separate piece of X or Y costs L2 as much as so many bytes */
static const double unit_cycles = 160;

/* Clock cycles of one multiprocessor for a step of all warps of a block: the tensor cores' and shared memory's, and what few
 * independent products in flight leave idle. */
static double step_cycles(const variant *v)
{
    const double warps = v->threads / 32.0, products = v->LW * v->MT * v->NT;
    const double arithmetic = warps * products * (v->size == 2 ? half_cycles : float_cycles);
    const double shared = 1.16 * warps * 32.0 * v->LW * (16.0 * v->MT + 8.0 * v->NT) / 128;
    return (arithmetic + shared) * (1 + 4.25 / (warps * products));
}

bool make_plan(const variant *v, const ks_problem *p, const ks_device *device, size_t shared_most, plan *out)
{
    if (!fits(v, p)) return false;
    const int64_t j_tiles = ceil_div(p->b, v->TJ), l_tiles = ceil_div(p->d, v->TL),
                  n_tiles = ceil_div(p->batch, v->TN);
    const int64_t parts = j_tiles * l_tiles;
    const int slabs = (int)ceil_div(p->c, v->TK);
    const int steps = (int)ceil_div(p->c, v->KS);
    const int size = v->size;
    const double cycles = step_cycles(v);
    const double l2_rate = device->units * l2_unit_bytes_per_s;
    const double dram_rate =
        device->units * (ks_cuda_arch(device) >= 90 ? hopper_unit_bytes_per_s : ampere_unit_bytes_per_s);
    out->seconds = INFINITY;
    for (int resident = 0; resident < 2; resident++) {
        const int64_t k_bytes = (int64_t)(resident ? steps : v->TK / v->KS) * v->k_step_bytes;
        const int64_t stage = v->x_bytes + (resident ? 0 : k_bytes);
        int64_t stages = ((int64_t)shared_most - v->staging_bytes - (resident ? k_bytes : 0)) / stage;
        if (stages < 2) continue;
        if (stages > 4) stages = 4;
        const int64_t staging = (resident ? k_bytes : 0) + stages * stage, shared = staging + v->staging_bytes;
        int per_unit = (int)((int64_t)(shared_most + 2048) / (shared + 1024));
        if (per_unit > 256 / v->threads) per_unit = v->threads > 256 ? 1 : 256 / v->threads;
        if (per_unit < 1) per_unit = 1;
        const int64_t most_blocks = (int64_t)device->units * per_unit;
        /* One block alone, or all that share X's k's of some l's. */
        for (int64_t together = 0; together <= l_tiles && together * j_tiles <= most_blocks; together++) {
            if (together > 0 && l_tiles % together) continue;
            const int64_t siblings = together > 0 ? together * j_tiles : 1;
            const int64_t rounds = parts / siblings, units = p->a * rounds * n_tiles;
            int64_t teams = most_blocks / siblings;
            if (teams > units) teams = units;
            const int64_t longest = ceil_div(units, teams);
            const double x = (double)ks_x_count(p) * size, y = (double)ks_y_count(p) * size,
                         k = (double)ks_k_count(p) * size;
            const double k_traffic = resident ? (double)(teams * siblings) * v->TL * v->TJ * (double)p->c * size
                                              : (double)n_tiles * k * (double)(v->TJ * j_tiles) / (double)p->b;
            const double piece = v->READER == LAST || l_tiles == 1 ? INFINITY : fmin(128, (double)v->TL * size);
            const double l2 = (x * (double)j_tiles + y) * (1 + request_bytes / piece) + k_traffic;
            /* Parts that share bytes of X but do not run side by side find most of them in L2, not all. */
            const double run = (double)v->TL * size;
            const double sharing = (double)j_tiles * (run >= 64 ? 1 : fmin(64 / run, (double)l_tiles));
            const double dram = x * (1 + 0.1 * fmax(0, sharing / (double)siblings - 1)) + y + k;
            /* The longest team's share, and blocks too few to draw all that memory gives. */
            const double share = (double)longest * (double)teams / (double)units;
            const double used = fmin(1, 1.25 * (double)(teams * siblings) / (double)device->units);
            const double dram_s = dram / dram_rate, l2_s = l2 / l2_rate;
            const double memory = (fmax(dram_s, l2_s) + 0.15 * fmin(dram_s, l2_s)) * share / used;
            const double busy = (double)longest * (steps * cycles + unit_cycles) / clock_hz * per_unit;
            const double seconds = launch_s + fmax(memory, busy) + 0.25 * fmin(memory, busy);
            if (seconds >= out->seconds) continue;
            out->shape = v;
            out->seconds = seconds;
            out->dram_bytes = dram, out->l2_bytes = l2, out->step_cycles = cycles;
            out->blocks = (int)(teams * siblings);
            out->shared_bytes = (int)shared;
            arguments &a = out->args;
            memset(&a, 0, sizeof a);
            a.batch = p->batch, a.b = (int)p->b, a.c = (int)p->c, a.d = (int)p->d;
            const bool last = v->READER == LAST;
            a.x_row = (last ? p->d * p->batch : p->a * p->c * p->d) * size;
            a.y_row = (last ? p->d * p->batch : p->a * p->b * p->d) * size;
            a.units = units, a.n_tiles = n_tiles, a.j_tiles = (int)j_tiles, a.siblings = (int)siblings;
            a.teams = (int)teams, a.rounds = (int)rounds, a.slabs = slabs, a.stages = (int)stages;
            a.resident = resident, a.staging = (int)staging;
            a.wide_stores = p->b * p->d * size % 16 == 0;
        }
    }
    return isfinite(out->seconds);
}

/* The best plan over all shapes. Planning takes microseconds, more than a launch can wait for,
 * so each thread remembers what it planned last. */
static bool best_plan(const ks_problem *p, const ks_device *device, plan *out)
{
    enum { REMEMBERED = 64 };
    struct memory {
        ks_problem problem;
        int units, arch;
        bool known, possible;
        plan best;
    };
    static thread_local memory remembered[REMEMBERED];
    const int arch = ks_cuda_arch(device);
    uint64_t hash = 0;
    for (const int64_t v : {p->a, p->b, p->c, p->d, p->batch, (int64_t)p->type, (int64_t)p->layout, (int64_t)p->math})
        hash = (hash ^ (uint64_t)v) * 0x9e3779b97f4a7c15u;
    memory *m = &remembered[hash >> 58];
    const ks_problem *q = &m->problem;
    if (!m->known || q->a != p->a || q->b != p->b || q->c != p->c || q->d != p->d || q->batch != p->batch ||
        q->type != p->type || q->layout != p->layout || q->math != p->math || m->units != device->units ||
        m->arch != arch) {
        *m = {};
        m->problem = *p, m->units = device->units, m->arch = arch, m->known = true;
        int count;
        const variant *shapes = shapes_for(p, &count);
        plan candidate;
        m->best.seconds = INFINITY;
        for (int v = 0; v < count; v++)
            if (make_plan(&shapes[v], p, device, ks_cuda_shared_bytes(device), &candidate) &&
                candidate.seconds < m->best.seconds)
                m->best = candidate;
        m->possible = isfinite(m->best.seconds);
    }
    if (m->possible) *out = m->best;
    return m->possible;
}

static bool supports(const ks_problem *p, const ks_device *device)
{
    plan unused;
    return device->backend == KS_CUDA && ks_cuda_arch(device) >= 80 && best_plan(p, device, &unused);
}

static size_t workspace_bytes(const ks_problem *, const ks_device *)
{
    return 0;
}

static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    plan best;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 0;
    if (!best_plan(p, device, &best)) return;
    const double longest = (double)ceil_div(best.args.units, best.args.teams);
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = best.dram_bytes;
    terms[KS_TERM_FLOPS] = longest * (double)ceil_div(p->c, best.shape->KS) * best.step_cycles * 1000;
    terms[KS_TERM_SHUFFLE] = best.l2_bytes;
    terms[KS_TERM_CALLS] = longest * best.args.slabs;
}

/* Lets the kernel take more shared memory than 48 KB: once for each device. */
static ks_status allow_shared(const ks_device *device, const variant *v)
{
    enum { DEVICES = 64, SHAPES = 256 };
    static unsigned char done[4][DEVICES][SHAPES]; /* races write the same */
    int count;
    ks_problem first = {};
    for (int type = 0; type < 4; type++) {
        first.type = type == 1   ? KS_F16
                     : type == 2 ? KS_BF16
                                 : KS_F32,
        first.math = type == 3 ? KS_MATH_TF32 : KS_MATH_F32;
        const variant *shapes = shapes_for(&first, &count);
        if (v < shapes || v >= shapes + count) continue;
        unsigned char *flag =
            device->index < DEVICES && v - shapes < SHAPES ? &done[type][device->index][v - shapes] : NULL;
        if (flag && __atomic_load_n(flag, __ATOMIC_RELAXED)) return KS_OK;
        const cudaError_t e = cudaFuncSetAttribute(
            (const void *)v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)ks_cuda_shared_bytes(device));
        if (e == cudaSuccess && flag) __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
        return ks_cuda_status(e, "shared memory of fused.cuda.mma");
    }
    return ks_fail(KS_ERR_INTERNAL, "a shape of fused.cuda.mma is in no list");
}

static ks_status run(const ks_problem *p, const ks_run_args *args)
{
    plan best;
    /* Copies and stores are of 16 bytes: arrays that begin elsewhere go the general way. */
    if (((uintptr_t)args->x | (uintptr_t)args->k | (uintptr_t)args->y) % 16 || !best_plan(p, args->device, &best))
        return ks_fused_cuda_simt.run(p, args);
    int previous;
    ks_status s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    s = allow_shared(args->device, best.shape);
    if (s == KS_OK) {
        best.args.x = static_cast<const char *>(args->x);
        best.args.k = static_cast<const char *>(args->k);
        best.args.y = static_cast<char *>(args->y);
        s = ks_cuda_status(ks_launch(best.shape->kernel, best.blocks, best.shape->threads, best.shared_bytes,
                                     args->stream, best.args),
                           "launch of fused.cuda.mma");
    }
    ks_cuda_leave(previous);
    return s;
}

} // namespace ks_mma

extern "C" const ks_kernel ks_fused_cuda_mma = {
    "fused.cuda.mma",        KS_FUSED,           KS_CUDA,    1, ks_mma::supports,
    ks_mma::workspace_bytes, ks_mma::cost_terms, ks_mma::run};
