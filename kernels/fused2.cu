/* fused2.cuda: the row of the list of pairs, and its planner. What runs on the device is fused2.cuh.
 *
 * Planning tries every way to share a pair out: slices of the innermost index, teams of 1 to 8 blocks, each factor shared in
 * each way, tiles of 16, 32 or 64 rows, and takes the one of which the model below expects least. A pair whose weights fit no
 * team's shared memory is declined. */
#include "fused2.cuh"
#include "launch.cuh"
#include "sizes.h"

extern "C" {
#include "cuda_device.h"
#include "error.h"
#include "pair.h"
}

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#ifndef KS_HOPPER
#    error "KS_HOPPER says whether teams are compiled"
#endif

namespace ks_fused2
{

enum { MOST_BLOCKS = 8, MOST_PARTS = 16, TILES = 3 };

struct plan {
    arguments args; /* but for the pointers */
    int shared_bytes;
    double seconds;
};

/* A way to share a pair out. */
struct way {
    int64_t run; /* l's of a slice, of those that both factors have in common */
    int blocks, parts, rows;
    bool ahead;
    sharing first, second;
};

/* What the cost of a plan is made of. */
static const double launch_s = 4.5e-6, clock_hz = 1.7e9, hopper_unit_bytes_per_s = 22e9,
                    ampere_unit_bytes_per_s = 14e9;
static const double half_cycles = 6.2, tf32_cycles = 7,
                    float_cycles = 16.2;                           /* of a multiprocessor, for 16 x 8 x 64 bytes */
static const double fill_bytes_per_cycle = 20, fill_cycles = 3000; /* the weights' way from L2 */
static const double barrier_cycles = 450, team_barrier_cycles = 900, item_cycles = 260;

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        const int64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

static divisor divide_by(int64_t by)
{
    return {static_cast<unsigned>(by), by == 1 ? 0 : static_cast<unsigned>(((INT64_C(1) << 32) + by - 1) / by)};
}

/* Elements in 16 bytes. */
static int64_t chunk_of(const ks_problem *p)
{
    return 16 / (int64_t)ks_type_bytes(p->type);
}

/* Whether l's are taken in runs of a chunk, and which other d there are shapes for. */
static bool in_runs(const ks_problem *p)
{
    return p->d % chunk_of(p) == 0;
}

static bool has_shape(const ks_problem *p)
{
    return p->d == 1 || p->d == 2 || p->d == 3 || p->d == 4 || p->d == 6 || in_runs(p);
}

/* A block's pattern of a factor: its share of a slice. */
static ks_problem share_of(const ks_problem *p, int64_t outers, int64_t inners, sharing how, int64_t among)
{
    ks_problem s = *p;
    s.a /= outers, s.d /= inners;
    (how == BY_BLOCKS ? s.a : how == BY_RUNS ? s.d : s.b) /= how == WHOLE_FACTOR ? 1 : among;
    return s;
}

static bool divides_evenly(const ks_problem *p, int64_t outers, sharing how, int64_t among)
{
    switch (how) {
    case BY_BLOCKS:
        return p->a / outers % among == 0;
    case BY_RUNS:
        return p->d % among == 0 && p->d > 1;
    case BY_OUTPUTS:
        return p->b % (8 * among) == 0;
    default:
        return true;
    }
}

/* Fills in a factor but for its weights; s: its share. */
static void fill_factor(factor *f, const ks_problem *p, const ks_problem *s, const way &w, sharing how,
                        int64_t outers, int64_t inners)
{
    const int64_t columns = s->d <= 2 ? 32 : 16, spare = ks_round_up(s->b, columns) - s->b;
    f->a = (int)s->a, f->b = (int)s->b, f->c = (int)s->c, f->d = (int)s->d;
    f->planes = (int)ks_ceil_div(s->c * 16, chunk_of(s) * PLANE_ROW);
    f->plane_bytes = (int)((s->a * s->d * s->b + spare) * PLANE_ROW);
    f->k_outer = p->a / outers * p->d * p->b, f->k_inner = w.run * p->b;
    f->k_rank = how == BY_BLOCKS ? s->a * p->d * p->b : how == BY_RUNS ? s->d * p->b : how == BY_OUTPUTS ? s->b : 0;
    f->k_part = 0;
    /* Neighbouring rows: of all blocks, of a run of blocks, or of one. */
    const int64_t whole = s->a * s->d * s->b;
    if (s->b < p->b)
        f->stretch = (int)s->b, f->stretch_step = p->b;
    else if (how == BY_RUNS)
        f->stretch = (int)(s->d * s->b), f->stretch_step = p->d * p->b;
    else if (inners > 1)
        f->stretch = (int)(w.run * s->b), f->stretch_step = w.run * inners * p->b;
    else
        f->stretch = (int)whole, f->stretch_step = 0;
    f->stretches = (int)(whole / f->stretch);
    f->j_groups = divide_by(ks_ceil_div(s->b, columns));
    f->l_groups = divide_by(in_runs(s) ? s->d / chunk_of(s) : 1);
    f->groups = divide_by(ks_ceil_div(s->a, s->d == 1 ? 2 : 1) * f->l_groups.by * f->j_groups.by);
}

/* X or Y: `width` is c or b, of the pattern p and of the share s. False if its pieces would be too small. */
static bool fill_side(side *x, const ks_problem *p, const ks_problem *s, int64_t width, int64_t own_width,
                      const way &w, sharing how, int64_t outers, int64_t inners, int64_t least)
{
    const int64_t features = s->a * own_width * s->d;
    int64_t run = features; /* all neighbours */
    x->step = (int)features;
    if (inners > 1)
        run = w.run, x->step = (int)(w.run * inners);
    else if (how == BY_RUNS)
        run = s->d, x->step = (int)p->d;
    else if (own_width < width && s->a > 1)
        run = own_width * s->d, x->step = (int)(width * p->d);
    x->row = p->a * width * p->d;
    x->outer = p->a / outers * width * p->d, x->inner = w.run;
    x->rank = how == BY_BLOCKS    ? s->a * width * p->d
              : how == BY_RUNS    ? s->d
              : how == BY_OUTPUTS ? own_width * s->d
                                  : 0;
    x->part = 0;
    x->features = (int)features;
    x->words = (int)(gcd(run, chunk_of(p)) * 4 / chunk_of(p));
    x->run = divide_by(run);
    return x->words >= least && x->row * (int64_t)ks_type_bytes(p->type) < INT32_MAX && features <= MOST_FEATURES;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* Cycles that a tile's product takes a multiprocessor: of the tensor cores and of shared memory, whichever is more, and what a
 * warp waits for in each piece of its work. */
static double product_time(const factor &f, int rows, const ks_problem *p)
{
    const int per_chunk = (int)chunk_of(p), l = f.d % per_chunk == 0 ? per_chunk : f.d == 1 ? 2 : f.d;
    const int nt = f.d <= 2 ? 4 : 2, mt = l > 3 || rows == 16 ? 1 : 2;
    const double product_cycles = p->type != KS_F32         ? half_cycles
                                  : p->math == KS_MATH_TF32 ? tf32_cycles
                                                            : float_cycles;
    const double items = (double)f.groups.by * rows / (16 * mt), steps = f.planes;
    const double products = items * steps * mt * nt * l;
    const double reads = items * (steps * l * (mt * 16 + nt * 8) * 64 + (double)mt * nt * l * 2048 / per_chunk) / 128;
    const double waits = items / WARPS * (item_cycles + 60 * steps);
    return larger(larger(products * product_cycles, reads), waits);
}

static double seconds_of(const plan &out, const ks_problem pair[2], const ks_device *device, double *rounds)
{
    const arguments &a = out.args;
    const double units = device->units, size = (double)ks_type_bytes(pair[0].type);
    const double rate = units * (ks_cuda_arch(device) >= 90 ? hopper_unit_bytes_per_s : ampere_unit_bytes_per_s);
    const double x = (double)ks_x_count(&pair[1]), y = (double)ks_y_count(&pair[0]);
    const double k = (double)(ks_k_count(&pair[0]) + ks_k_count(&pair[1]));
    const double longest = (double)ks_ceil_div(a.units, a.teams), blocks = (double)(a.teams * a.blocks);
    const double sync = a.blocks > 1 ? 3 * barrier_cycles + 2 * team_barrier_cycles : 4 * barrier_cycles;
    const double copies = (double)a.rows * (a.x.features + a.y.features * 4 / a.y.words) * size / 64;
    const double tile = product_time(a.f[0], a.rows, pair) + product_time(a.f[1], a.rows, pair) + copies + sync;
    const double fills = (double)ks_ceil_div(a.units, a.teams * a.n_tiles);
    const double fill = fills * ((double)a.k_bytes / fill_bytes_per_cycle + fill_cycles) / clock_hz;
    /* A stretch's share of memory's rate, were all as long as the longest. */
    const double share = longest * (double)a.teams / (double)a.units;
    const double used = smaller(1, blocks / units * 1.1);
    const double dram = (x + y + k) * size / rate * share / used, busy = longest * tile / clock_hz;
    *rounds = longest;
    return launch_s + fill + larger(dram, busy) + 0.25 * smaller(dram, busy);
}

/* Fills in the plan for a way to share; false if it does not fit. */
static bool follow(const way &w, const ks_problem pair[2], const ks_device *device, plan *out)
{
    const ks_problem *const first = &pair[1], *const second = &pair[0];
    const int64_t outers = gcd(first->a, second->a), common = gcd(first->d, second->d), inners = common / w.run;
    const int64_t among = w.blocks > 1 ? w.blocks : w.parts;
    const sharing second_how = w.parts > 1 ? BY_OUTPUTS : w.second;
    if (!divides_evenly(first, outers, w.first, among) || !divides_evenly(second, outers, second_how, among))
        return false;
    const ks_problem s0 = share_of(first, outers, inners, w.first, among);
    const ks_problem s1 = share_of(second, outers, inners, second_how, among);
    if (!has_shape(&s0) || !has_shape(&s1)) return false;
    arguments &a = out->args;
    memset(out, 0, sizeof *out);
    a.rows = w.rows;
    fill_factor(&a.f[0], first, &s0, w, w.first, outers, inners);
    fill_factor(&a.f[1], second, &s1, w, second_how, outers, inners);
    if (!fill_side(&a.x, first, &s0, first->c, s0.c, w, w.first, outers, inners, 4) ||
        !fill_side(&a.y, second, &s1, second->b, s1.b, w, second_how, outers, inners, 1))
        return false;
    if (w.parts > 1) { /* what ranks share in a team, blocks share that know nothing of each other */
        a.f[1].k_part = a.f[1].k_rank, a.y.part = a.y.rank;
        a.f[1].k_rank = a.y.rank = 0;
    }

    /* H, as the slice counts it, and who has what of it. */
    const int64_t h_slice = first->a / outers * first->b * (first->d / inners);
    const int64_t h_features = w.second == BY_OUTPUTS || w.blocks == 1 ? h_slice : h_slice / w.blocks;
    const int64_t d_slice = second->d / inners;
    if (h_slice > MOST_FEATURES * 2) return false;
    a.first = w.first, a.second = w.second;
    a.h_shift = (int)(first->d / inners);
    a.h_rank = (int)(w.first == BY_BLOCKS ? s0.a * s0.b * s0.d : w.first == BY_RUNS ? s0.d : 0);
    a.h_words = 4;
    if (w.second == BY_RUNS) {
        a.h_words = (int)(gcd(s1.d, chunk_of(&s1)) * 4 / chunk_of(&s1));
        a.h_own = divide_by(s1.d), a.h_slice = divide_by(d_slice);
    } else {
        a.h_own = divide_by(h_features), a.h_slice = divide_by(1);
    }
    if (a.h_words < 1) return false;

    const int64_t size = (int64_t)ks_type_bytes(first->type), chunks = a.x.features / chunk_of(first);
    a.x_pitch = (int)ks_round_up(a.x.features * size, 128), a.h_pitch = (int)ks_round_up(h_features * size, 128);
    a.x_bytes = w.rows * a.x_pitch, a.h_bytes = w.rows * a.h_pitch;
    a.x_lanes = divide_by(ks_min(chunks, THREADS)), a.x_step = (int)(THREADS / a.x_lanes.by);
    a.k_bytes = a.f[0].planes * a.f[0].plane_bytes + a.f[1].planes * a.f[1].plane_bytes;
    a.k_bytes = (int)ks_round_up(a.k_bytes, 128);
    a.ahead = w.ahead;
    const int64_t shared = (int64_t)a.k_bytes + 2 * a.x_bytes + (w.ahead ? 2 : 1) * (int64_t)a.h_bytes;
    if (shared > (int64_t)ks_cuda_shared_bytes(device)) return false;
    out->shared_bytes = (int)shared;

    a.batch = first->batch, a.n_tiles = ks_ceil_div(first->batch, w.rows);
    a.inners = (int)inners, a.parts = w.parts, a.blocks = w.blocks;
    a.units = outers * inners * w.parts * a.n_tiles;
    a.teams = (int)ks_min(device->units / w.blocks, a.units);
    double rounds;
    out->seconds = seconds_of(*out, pair, device, &rounds);
    return true;
}

static void try_way(const way &w, const ks_problem pair[2], const ks_device *device, plan *best)
{
    plan now;
    if (follow(w, pair, device, &now) && now.seconds < best->seconds) *best = now;
}

static bool is_a_pair(const ks_problem pair[2])
{
    const int64_t most = 1 << 20;
    for (int q = 0; q < 2; q++) {
        const ks_problem *p = &pair[q];
        if (p->type == KS_F64 || p->layout != KS_BATCH_FIRST || p->b % 8 || p->c % 8 || p->a > most || p->b > most ||
            p->c > most || p->d > most || ks_k_count(p) > most * 8)
            return false;
    }
    return true;
}

/* The best plan; false if there is none. */
static bool make_plan(const ks_problem pair[2], const ks_device *device, plan *best)
{
    const sharing firsts[] = {BY_BLOCKS, BY_RUNS}, seconds[] = {BY_BLOCKS, BY_RUNS, BY_OUTPUTS};
    const int64_t common = gcd(pair[0].d, pair[1].d);
    const bool teams = KS_HOPPER && ks_cuda_arch(device) == 90;
    best->seconds = INFINITY;
    if (device->backend != KS_CUDA || ks_cuda_arch(device) < 80 || !is_a_pair(pair)) return false;
    for (int rows = 16; rows <= 64; rows *= 2)
        for (const bool ahead : {false, true}) {
            for (int64_t run = common; run > 0; run = run % 32 == 0 ? run / 2 : 0)
                try_way({run, 1, 1, rows, ahead, WHOLE_FACTOR, WHOLE_FACTOR}, pair, device, best);
            for (int parts = 2; parts <= MOST_PARTS; parts++)
                try_way({common, 1, parts, rows, ahead, WHOLE_FACTOR, WHOLE_FACTOR}, pair, device, best);
            for (int blocks = 2; teams && blocks <= MOST_BLOCKS; blocks++)
                for (const sharing first : firsts)
                    for (const sharing second : seconds)
                        try_way({common, blocks, 1, rows, ahead, first, second}, pair, device, best);
        }
    return best->seconds < INFINITY;
}

/* Each thread remembers what it planned last: a launch cannot wait for it. */
static const plan *best_plan(const ks_problem pair[2], const ks_device *device)
{
    enum { REMEMBERED = 16 };
    struct memory {
        ks_problem pair[2];
        int units, arch;
        bool known, possible;
        plan best;
    };
    static thread_local memory remembered[REMEMBERED];
    static thread_local int next;
    const int arch = ks_cuda_arch(device);
    for (int q = 0; q < REMEMBERED; q++) {
        memory *m = &remembered[q];
        if (m->known && memcmp(m->pair, pair, sizeof m->pair) == 0 && m->units == device->units && m->arch == arch)
            return m->possible ? &m->best : NULL;
    }
    memory *m = &remembered[next++ % REMEMBERED];
    memset(m, 0, sizeof *m);
    memcpy(m->pair, pair, sizeof m->pair);
    m->units = device->units, m->arch = arch, m->known = true;
    m->possible = make_plan(pair, device, &m->best);
    return m->possible ? &m->best : NULL;
}

static bool supports(const ks_problem pair[2], const ks_device *device)
{
    return best_plan(pair, device) != NULL;
}

static double predicted_s(const ks_problem pair[2], const ks_device *device)
{
    const plan *best = best_plan(pair, device);
    return best ? best->seconds : NAN;
}

static kernel_function kernel_of(const ks_problem *p, bool taller, bool team)
{
    switch (p->type) {
    case KS_F16:
        return kernel_for<ks_mma::f16>(taller, team);
    case KS_BF16:
        return kernel_for<ks_mma::bf16>(taller, team);
    default:
        return p->math == KS_MATH_TF32 ? kernel_for<ks_mma::tf32>(taller, team)
                                       : kernel_for<ks_mma::f32>(taller, team);
    }
}

/* How many teams run at a time; the first to ask for a kernel also lets it take more shared memory than 48 KB. */
static cudaError_t count_teams(const ks_device *device, const void *kernel, cudaLaunchConfig_t *config, int blocks,
                               int *count)
{
    const cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)ks_cuda_shared_bytes(device));
    *count = device->units;
    if (e != cudaSuccess || blocks == 1) return e;
    config->gridDim = dim3((unsigned)blocks);
    return cudaOccupancyMaxActiveClusters(count, kernel, config);
}

static ks_status launch(const ks_problem pair[2], const ks_pair_args *args, const plan &best)
{
    arguments a = best.args;
    a.f[0].k = static_cast<const char *>(args->k[1]), a.f[1].k = static_cast<const char *>(args->k[0]);
    a.x.at = static_cast<char *>(const_cast<void *>(args->x)), a.y.at = static_cast<char *>(args->y);
    const bool team = a.blocks > 1;
    const kernel_function kernel = kernel_of(&pair[0], a.rows > 16, team);
    const void *const address = reinterpret_cast<const void *>(kernel);
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)a.blocks, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = (size_t)best.shared_bytes;
    config.stream = static_cast<cudaStream_t>(args->stream);
    config.attrs = &cluster, config.numAttrs = team;
    int teams;
    ks_status s =
        ks_cuda_status(count_teams(args->device, address, &config, a.blocks, &teams), "teams of fused2.cuda");
    if (s != KS_OK) return s;
    if (teams < 1) return ks_fail(KS_ERR_UNSUPPORTED, "no %d blocks of fused2.cuda can make a team here", a.blocks);
    a.teams = (int)ks_min(a.teams, teams);
    config.gridDim = dim3((unsigned)(a.teams * a.blocks));
    void *addresses[] = {&a};
    return ks_cuda_status(cudaLaunchKernelExC(&config, address, addresses), "launch of fused2.cuda");
}

static ks_status run(const ks_problem pair[2], const ks_pair_args *args)
{
    const plan *best = best_plan(pair, args->device);
    if (!best) return ks_fail(KS_ERR_UNSUPPORTED, "fused2.cuda does not support this pair");
    int previous;
    ks_status s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    s = launch(pair, args, *best);
    ks_cuda_leave(previous);
    return s;
}

} // namespace ks_fused2

extern "C" const ks_pair ks_fused2_cuda = {"fused2.cuda",          KS_CUDA,       16, ks_fused2::supports,
                                           ks_fused2::predicted_s, ks_fused2::run};
