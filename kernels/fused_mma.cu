/* fused.cuda.mma: the row of the kernel table, and its planner. What runs on the device is fused_mma.cuh. */
#include "fused_mma_plan.cuh"
#include "plan_memory.cuh"
#include "sizes.h"

extern "C" {
#include "cuda_device.h"
#include "error.h"
#include "rows.h"
}

#include <cuda_runtime.h>
#include <math.h>

namespace ks_mma
{

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

enum { HALF_SECTORS_BATCH = 1024 };

/* Copies move 16 bytes and sizes are 32 bits inside a block. */
static bool fits(const variant *v, const ks_problem *p)
{
    const int64_t most = INT32_MAX / 64;
    const int run = v->TL * v->size;
    if (p->b > most || p->c > most || p->d > most || p->c % v->VL != 0 || p->c * p->d > most || p->b * p->d > most)
        return false;
    switch (v->READER) {
    case LAST:
        return p->layout == KS_BATCH_LAST && p->batch % v->VL == 0;
    case WHOLE:
        return p->layout == KS_BATCH_FIRST && p->d == v->TL;
    case VECTOR:
        if (p->layout != KS_BATCH_FIRST || (v->GROUP && p->d != v->TL)) return false;
        /* Runs of whole sectors of 32 bytes: what straddles two is fetched and written in parts, and what is half of one is
         * worth it only where small tiles are what keeps the multiprocessors busy. */
        return p->d == v->TL || (v->LW >= v->VL && p->d % v->LW == 0 && p->d >= v->TL &&
                                 (run % 32 == 0 || (32 % run == 0 && p->batch <= HALF_SECTORS_BATCH)));
    }
    return false;
}

/* What the cost of a plan is made of; fitted to 790 measurements of 142 problems on an H100. */
static const double clock_hz = 1.7e9, launch_s = 4.6e-6;
static const double l2_unit_bytes_per_s = 32e9, hopper_unit_bytes_per_s = 22e9, ampere_unit_bytes_per_s = 14e9;
static const double half_cycles = 3.1,
                    float_cycles = 8.1; /* of a multiprocessor, for a product of 16 x 8 x one step */
static const double half_group_cycles = 1, float_group_cycles = 4.8, split_cycles_per_byte = 1.0 / 64;
static const double request_bytes = 40; /* a separate piece of X or Y costs L2 as much as so many bytes */
static const double unit_cycles = 160;

/* Clock cycles of one multiprocessor for a step of all warps of a block: the tensor cores' and shared memory's, and what few
 * independent products in flight leave idle. */
static double step_cycles(const variant *v)
{
    const double warps = v->threads / 32.0, products = v->LW * v->MT * v->NT;
    const double each = v->GROUP       ? v->size == 2 ? half_group_cycles : float_group_cycles
                        : v->size == 2 ? half_cycles
                                       : float_cycles;
    const double arithmetic = warps * products * each;
    const double k_reads = v->GROUP ? v->k_copies / 4.0 : 1; /* of a warp */
    const double shared = 1.16 * warps * 32.0 * v->LW * (16.0 * v->MT + 8.0 * v->NT * k_reads) / 128;
    return (arithmetic + shared) * (1 + 4.25 / (warps * products));
}

/* A problem on a device, as every shape sees it. */
struct task {
    const ks_problem *problem;
    int64_t units, shared_most;
    double x, y, k; /* bytes */
    double l2_rate, dram_rate;
};

/* How a shape may cut a problem, and what that should cost. */
struct cut {
    const variant *shape;
    double seconds, dram_bytes, l2_bytes;
    int64_t siblings, teams;
    int resident;
};

/* A block's shared memory: `staging` bytes of X's slabs and K's, then room for results on their way out. */
struct room {
    int64_t stages, staging;
    int per_unit; /* blocks of a multiprocessor */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static int most_per_unit(const variant *v)
{
    return v->threads > 256 ? 1 : 256 / v->threads;
}

/* With all of K's rows there from start to end, or K by slabs like X. */
static room room_of(const variant *v, int64_t shared_most, int64_t steps, bool resident)
{
    const int64_t k_bytes = (resident ? steps : v->TK / v->KS) * v->k_step_bytes;
    const int64_t kept = k_bytes * (resident ? v->k_copies : 2 * (v->k_copies - 1)),
                  stage = v->x_bytes + (resident ? 0 : k_bytes);
    const int64_t left = shared_most - v->staging_bytes - kept;
    room r;
    r.stages = left < 2 * stage ? 0 : left < 3 * stage ? 2 : left < 4 * stage ? 3 : 4;
    r.staging = kept + r.stages * stage;
    r.per_unit = (int)((shared_most + 2048) / (r.staging + v->staging_bytes + 1024));
    if (r.per_unit > most_per_unit(v)) r.per_unit = most_per_unit(v);
    if (r.per_unit < 1) r.per_unit = 1;
    return r;
}

/* A number's divisors up to `most`, in ascending order. None below 2^25, as all of ours are, has more than 504. */
enum { DIVISORS_MOST = 504 };

static int divisors_of(uint32_t number, int64_t most, uint32_t divisors[DIVISORS_MOST])
{
    int count = 0;
    for (uint32_t by = 1; by <= most && (uint64_t)by * by <= number; by++)
        if (number % by == 0) divisors[count++] = by;
    for (int small = count - 1; small >= 0; small--) {
        const uint32_t by = number / divisors[small];
        if (by > most) break;
        if (by != divisors[small]) divisors[count++] = by;
    }
    return count;
}

static double memory_s(const task &t, double dram_bytes, double l2_bytes)
{
    const double dram_s = dram_bytes / t.dram_rate, l2_s = l2_bytes / t.l2_rate;
    return larger(dram_s, l2_s) + 0.15 * smaller(dram_s, l2_s);
}

/* Memory and multiprocessors work side by side, though not wholly. */
static double total_s(double memory, double busy)
{
    return launch_s + larger(memory, busy) + 0.25 * smaller(memory, busy);
}

/* Makes *best the shape's best cut where that is better. Microseconds of a decision are spent here, so what does not depend
 * on the cut is out of the loops, and a shape that cannot win is seen off by a bound. */
static void try_shape(const variant *v, const task &t, cut *best)
{
    const ks_problem *p = t.problem;
    const int64_t j_tiles = ks_ceil_div(p->b, v->TJ), l_tiles = ks_ceil_div(p->d, v->TL),
                  n_tiles = ks_ceil_div(p->batch, v->TN), steps = ks_ceil_div(p->c, v->KS);
    const double size = v->size, unit_count = (double)t.units, run = v->TL * size;
    const double piece = v->READER == LAST || l_tiles == 1 ? INFINITY : smaller(128, run);
    const double l2_xy = (t.x * (double)j_tiles + t.y) * (1 + request_bytes / piece);
    const double cycles = (double)steps * step_cycles(v) + unit_cycles;
    /* No cut moves less, uses more blocks, or shares the work among the multiprocessors more evenly. */
    const double tiles = (double)p->a * (double)(j_tiles * l_tiles) * (double)n_tiles;
    const double memory_least = memory_s(t, t.x + t.y + t.k, l2_xy) / smaller(1, 1.25 * tiles / unit_count);
    const double busy_least = larger(1, tiles / unit_count) * cycles / clock_hz;
    if (total_s(memory_least, busy_least) * (1 - 1e-9) > best->seconds) return;

    /* Parts that share bytes of X but do not run side by side find most of them in L2, not all. */
    const double sharing = (double)j_tiles * (run >= 64 ? 1 : smaller(64 / run, (double)l_tiles));
    uint32_t divisors[DIVISORS_MOST];
    const int divisor_count = divisors_of((uint32_t)l_tiles, t.units * most_per_unit(v) / j_tiles, divisors);
    for (int resident = 0; resident < 2; resident++) {
        const room r = room_of(v, t.shared_most, steps, resident);
        if (r.stages < 2) continue;
        /* K that comes with each slab is split each time. */
        const double split =
            resident || v->k_copies == 1 ? 0 : (double)(steps * v->k_step_bytes) * split_cycles_per_byte;
        const int64_t most_blocks = t.units * r.per_unit;
        /* One block alone, or all that share X's k's of some l's. */
        for (int together = -1; together < divisor_count; together++) {
            const int64_t siblings = together < 0 ? 1 : divisors[together] * j_tiles;
            if (siblings > most_blocks) break;
            if (together == 0 && siblings == 1) continue; /* the same cut again */
            const int64_t rounds = together < 0 ? j_tiles * l_tiles : l_tiles / divisors[together];
            const int64_t units = p->a * rounds * n_tiles, teams = ks_min(most_blocks / siblings, units);
            const int64_t longest = ks_ceil_div(units, teams);
            const double blocks = (double)(teams * siblings);
            const double k_traffic = resident ? blocks * v->TL * v->TJ * (double)p->c * size
                                              : (double)n_tiles * t.k * (double)(v->TJ * j_tiles) / (double)p->b;
            const double l2 = l2_xy + k_traffic;
            const double dram = t.x * (1 + 0.1 * larger(0, sharing / (double)siblings - 1)) + t.y + t.k;
            /* The longest team's share, and blocks too few to draw all that memory gives. */
            const double share = (double)longest * (double)teams / (double)units;
            const double used = smaller(1, 1.25 * blocks / unit_count);
            const double memory = memory_s(t, dram, l2) * share / used;
            const double busy = (double)longest * (cycles + split) / clock_hz * r.per_unit;
            const double seconds = total_s(memory, busy);
            if (seconds < best->seconds) *best = {v, seconds, dram, l2, siblings, teams, resident};
        }
    }
}

/* The whole plan of a cut. */
static void fill_in(plan *out, const cut &c, const task &t)
{
    const ks_problem *p = t.problem;
    const variant *v = c.shape;
    const int64_t j_tiles = ks_ceil_div(p->b, v->TJ), l_tiles = ks_ceil_div(p->d, v->TL);
    const bool last = v->READER == LAST;
    const room r = room_of(v, t.shared_most, ks_ceil_div(p->c, v->KS), c.resident);
    out->shape = v;
    out->seconds = c.seconds;
    out->dram_bytes = c.dram_bytes, out->l2_bytes = c.l2_bytes, out->step_cycles = step_cycles(v);
    out->blocks = (int)(c.teams * c.siblings);
    out->shared_bytes = (int)(r.staging + v->staging_bytes);
    arguments &a = out->args;
    a.batch = p->batch, a.b = (int)p->b, a.c = (int)p->c, a.d = (int)p->d;
    a.x_row = (last ? p->d * p->batch : p->a * p->c * p->d) * v->size;
    a.y_row = (last ? p->d * p->batch : p->a * p->b * p->d) * v->size;
    a.n_tiles = ks_ceil_div(p->batch, v->TN), a.j_tiles = (int)j_tiles;
    a.siblings = (int)c.siblings, a.teams = (int)c.teams, a.rounds = (int)(j_tiles * l_tiles / c.siblings);
    a.units = p->a * a.rounds * a.n_tiles;
    a.slabs = (int)ks_ceil_div(p->c, v->TK), a.stages = (int)r.stages;
    a.resident = c.resident, a.staging = (int)r.staging;
    a.wide_stores = p->b * p->d * v->size % 16 == 0;
}

static bool make_plan(const ks_problem *p, const ks_device *device, plan *out)
{
    const double units = device->units, size = (double)ks_type_bytes(p->type);
    task t;
    t.problem = p, t.units = device->units, t.shared_most = (int64_t)ks_cuda_shared_bytes(device);
    t.x = (double)ks_x_count(p) * size, t.y = (double)ks_y_count(p) * size, t.k = (double)ks_k_count(p) * size;
    t.l2_rate = units * l2_unit_bytes_per_s;
    t.dram_rate = units * (ks_cuda_arch(device) >= 90 ? hopper_unit_bytes_per_s : ampere_unit_bytes_per_s);
    const bool groups = KS_HOPPER && ks_cuda_arch(device) == 90;
    int count;
    const variant *shapes = shapes_for(p, &count);
    cut best = {};
    best.seconds = INFINITY;
    for (int v = 0; v < count; v++)
        if (shapes[v].kernel && (groups || !shapes[v].GROUP) && fits(&shapes[v], p)) try_shape(&shapes[v], t, &best);
    if (!best.shape) return false;
    fill_in(out, best, t);
    return true;
}

const plan *best_plan(const ks_problem *p, const ks_device *device)
{
    return ks_cuda::remembered_plan<plan, make_plan>(p, device);
}

static bool supports(const ks_problem *p, const ks_device *device)
{
    return device->backend == KS_CUDA && ks_cuda_arch(device) >= 80 && best_plan(p, device);
}

static size_t workspace_bytes(const ks_problem *, const ks_device *)
{
    return 0;
}

/* Outputs that leave one by one, since rows of Y are no whole pieces of 16 bytes, count like 60 times their bytes from L2: of 50
 * times and more the measurements tell no difference. A block that goes on to another part of K waits for that part and for its
 * first slabs, and empties its ring before: as long as four slabs, 2 us. (Fitted to 3,800 problems of an H100, the spread of these
 * terms fell by it from 0.25 to 0.21 batch-first, from 0.22 to 0.13 and 0.16 batch-last.) */
static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    enum { ONE_BY_ONE = 60, STRETCH = 4 /* slabs */ };
    const plan *best = best_plan(p, device);
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 0;
    if (!best) return;
    const double longest = (double)ks_ceil_div(best->args.units, best->args.teams);
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = best->dram_bytes;
    terms[KS_TERM_FLOPS] = longest * (double)ks_ceil_div(p->c, best->shape->KS) * best->step_cycles * 1000;
    terms[KS_TERM_SHUFFLE] = best->l2_bytes;
    if (p->layout == KS_BATCH_FIRST && !best->args.wide_stores)
        terms[KS_TERM_SHUFFLE] += ONE_BY_ONE * (double)best->shape->size * (double)ks_y_count(p);
    terms[KS_TERM_CALLS] = longest * best->args.slabs + STRETCH * ceil(longest / (double)best->args.n_tiles);
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

static ks_status launch(const ks_problem *, const ks_run_args *args, const plan &best)
{
    const ks_status s = allow_shared(args->device, best.shape);
    if (s != KS_OK) return s;
    arguments a = best.args;
    a.x = static_cast<const char *>(args->x);
    a.k = static_cast<const char *>(args->k);
    a.y = static_cast<char *>(args->y);
    a.finish = ks_cuda::epilogue_of<float>(args->epilogue);
    return ks_cuda_status(ks_launch_early(args->device, best.shape->kernel, best.blocks, best.shape->threads,
                                          best.shared_bytes, args->stream, a),
                          "launch of fused.cuda.mma");
}

} // namespace ks_mma

extern "C" const ks_kernel ks_fused_cuda_mma = {
    "fused.cuda.mma",
    KS_FUSED,
    KS_CUDA,
    4,
    ks_mma::supports,
    ks_mma::workspace_bytes,
    ks_mma::cost_terms,
    ks_cuda::run_planned<ks_mma::plan, ks_mma::best_plan, ks_mma::launch>};
