/* fused2.cuda: the row of the list of pairs, and its planner. What runs on the device is fused2.cuh.
 *
 * Planning tries tiles of 16, 32 and 64 rows, and slices of several widths, and takes the way of which the model below expects
 * least. */
#include "fused2.cuh"
#include "sizes.h"

extern "C" {
#include "cuda_device.h"
#include "error.h"
#include "pair.h"
}

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

namespace ks_fused2
{

enum { MOST_PLANES = THREADS / 4, MOST_SLICES = 32 };

struct plan {
    arguments args; /* but for the pointers */
    int blocks, shared_bytes;
    double seconds;
};

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

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* ---- the shapes, as fused2.cuh has them ------------------------------------------------------------------------------ */

/* Whether l's are taken in runs of a chunk. */
static bool in_runs(const ks_problem *p)
{
    return p->d % PER_CHUNK == 0;
}

static bool has_shape(const ks_problem *p)
{
    return p->d == 1 || p->d == 2 || p->d == 3 || p->d == 4 || p->d == 6 || in_runs(p);
}

/* A warp's piece: so many neighbouring l's, super-blocks, columns of 8 j's and, in tiles of more than 16 rows, m-tiles. */
struct piece_shape {
    int d, super_blocks, columns, m_tiles;
};

static piece_shape shape_of(const ks_problem *p, int rows)
{
    const int d = (int)(in_runs(p) ? (int64_t)PER_CHUNK : p->d);
    return {d, d == 1 ? 2 : 1, d <= 2 ? 4 : 2, rows == 16 || d > 3 ? 1 : 2};
}

/* ---- cost ------------------------------------------------------------------------------------------------------------ */

/* What the cost of a plan is made of, on an H100: fitted to 113 measurements of 13 pairs, all of which it meets to 15 %. Few are
 * bound by memory: what warps issue, and waiting for one another, is more. */
static const double launch_s = 5.5e-6, weights_s = 11.6e-12; /* of each byte that a block keeps */
static const double tile_s = 0.82e-6, round_of_copies_s = 0.071e-6;
static const double instruction_s = 0.74e-9; /* of each of the four schedulers of a multiprocessor */
static const double hopper_unit_bytes_per_s = 22e9, ampere_unit_bytes_per_s = 14e9;

/* Instructions that a product of a tile takes all schedulers. */
static double instructions(const factor &f, const ks_problem *share, int rows)
{
    const piece_shape s = shape_of(share, rows);
    const int blocks = s.d * s.super_blocks, sums = blocks * s.m_tiles * s.columns * 4,
              operands = blocks * s.m_tiles * 8;
    const int64_t pieces = f.groups.by * rows / (16 * s.m_tiles);
    const double plane = plane_width(f.c) / 32.0 * (60 + 3.4 * operands);
    return (double)(ks_ceil_div(pieces, WARPS) * WARPS) * (100 + 3.5 * sums + f.planes * plane);
}

static double seconds_of(const plan &out, const ks_problem shares[2], const ks_problem pair[2],
                         const ks_device *device)
{
    const arguments &a = out.args;
    const double units = device->units;
    const double rate = units * (ks_cuda_arch(device) >= 90 ? hopper_unit_bytes_per_s : ampere_unit_bytes_per_s);
    const double bytes =
        SIZE * (double)(ks_x_count(&pair[1]) + ks_y_count(&pair[0]) + ks_k_count(&pair[0]) + ks_k_count(&pair[1]));
    const double issued = instructions(a.f[0], &shares[1], a.rows) + instructions(a.f[1], &shares[0], a.rows);
    const double copies = (double)a.rows * (a.x.features + a.y.features) / PER_CHUNK / COPY_THREADS;
    const double tile = tile_s + issued / 4 * instruction_s + copies * round_of_copies_s;
    const double longest = (double)ks_ceil_div(a.units, out.blocks);
    return launch_s + a.k_bytes * weights_s + larger(bytes / rate, longest * tile);
}

/* ---- plans ----------------------------------------------------------------------------------------------------------- */

/* Fills in a factor but for its weights; s: a slice's share of p; run: how many neighbouring l's it has of those that both factors
 * have in common, of which there are `inners` times as many. */
static void fill_factor(factor *f, const ks_problem *p, const ks_problem *s, int64_t run, int64_t inners)
{
    const piece_shape shape = shape_of(s, 16);
    const int64_t columns = 8 * shape.columns, whole = s->a * s->d * s->b;
    f->a = (int)s->a, f->b = (int)s->b, f->c = (int)s->c, f->d = (int)s->d;
    f->planes = (int)ks_ceil_div(s->c, plane_width(s->c)), f->plane_row = plane_width(s->c) * SIZE;
    /* The last piece's columns beyond b are read, too. */
    f->plane_bytes = (int)((whole + ks_round_up(s->b, columns) - s->b) * f->plane_row);
    f->k_outer = s->a * p->d * p->b, f->k_inner = run * p->b;
    f->stretch = (int)(inners > 1 ? run * s->b : whole), f->stretch_step = run * inners * p->b;
    f->stretches = (int)(whole / f->stretch);
    f->j_groups = divide_by(ks_ceil_div(s->b, columns));
    f->l_groups = divide_by(s->d / shape.d);
    f->groups = divide_by(ks_ceil_div(s->a, shape.super_blocks) * f->l_groups.by * f->j_groups.by);
}

/* X or Y: `width` is the pattern's c or b. */
static void fill_side(side *x, const ks_problem *p, const ks_problem *s, int64_t width, int64_t run, int64_t inners)
{
    const int64_t features = s->a * width * s->d, lanes = ks_min(features / PER_CHUNK, COPY_THREADS);
    x->row = p->a * width * p->d, x->outer = s->a * width * p->d, x->inner = run;
    x->features = (int)features;
    x->run = divide_by(inners > 1 ? run : features);
    x->step = (int)(inners > 1 ? run * inners : features);
    x->lanes = divide_by(lanes), x->rows = (int)(COPY_THREADS / lanes);
}

/* Fills in the plan for tiles of so many rows and outers * inners slices; false if it does not fit. */
static bool follow(int rows, int64_t outers, int64_t inners, const ks_problem pair[2], const ks_device *device,
                   plan *out)
{
    const int64_t run = gcd(pair[0].d, pair[1].d) / inners;
    ks_problem s[2] = {pair[0], pair[1]};
    for (int q = 0; q < 2; q++) {
        s[q].a /= outers, s[q].d /= inners;
        const int64_t width = plane_width(s[q].c), planes = ks_ceil_div(s[q].c, width);
        const int64_t k_rows = s[q].a * s[q].d * s[q].b;
        if (!has_shape(&s[q]) || planes > MOST_PLANES || planes * k_rows * width * SIZE > INT32_MAX / 4) return false;
    }
    const int64_t x_features = s[1].a * s[1].c * s[1].d, h_features = s[1].a * s[1].b * s[1].d;
    const int64_t y_features = s[0].a * s[0].b * s[0].d, widest = ks_max(x_features, y_features);
    if (ks_max(widest, h_features) > MOST_FEATURES) return false;

    arguments &a = out->args;
    memset(out, 0, sizeof *out);
    fill_factor(&a.f[0], &pair[1], &s[1], run, inners);
    fill_factor(&a.f[1], &pair[0], &s[0], run, inners);
    fill_side(&a.x, &pair[1], &s[1], pair[1].c, run, inners);
    fill_side(&a.y, &pair[0], &s[0], pair[0].b, run, inners);
    a.rows = rows, a.inners = (int)inners;
    a.batch = pair[0].batch, a.n_tiles = ks_ceil_div(pair[0].batch, rows);
    a.units = outers * inners * a.n_tiles;
    a.tile_pitch = (int)ks_round_up(widest * SIZE, 128), a.h_pitch = (int)ks_round_up(h_features * SIZE, 128);
    a.tile_bytes = rows * a.tile_pitch;
    a.k_bytes = (int)ks_round_up(
        a.f[0].planes * (int64_t)a.f[0].plane_bytes + a.f[1].planes * (int64_t)a.f[1].plane_bytes, 128);
    const int64_t shared = BARRIER_BYTES + a.k_bytes + 2 * (int64_t)a.tile_bytes + (int64_t)rows * a.h_pitch;
    if (shared > (int64_t)ks_cuda_shared_bytes(device)) return false;
    out->shared_bytes = (int)shared;
    out->blocks = (int)ks_min(device->units, a.units);
    out->seconds = seconds_of(*out, s, pair, device);
    return true;
}

/* Copies are of 16 bytes, and offsets inside a row of X or Y, in bytes, of 32 bits. */
static bool is_a_pair(const ks_problem pair[2])
{
    const int64_t most = INT32_MAX / 64;
    for (int q = 0; q < 2; q++) {
        const ks_problem *p = &pair[q];
        if ((p->type != KS_F16 && p->type != KS_BF16) || p->layout != KS_BATCH_FIRST || p->b % 8 || p->c % 8 ||
            p->a > most || p->b > most || p->c > most || p->d > most || p->a * p->d > most ||
            p->a * p->d * p->b > most || p->a * p->d * p->c > most)
            return false;
    }
    return true;
}

/* The best plan; false if there is none. */
static bool make_plan(const ks_problem pair[2], const ks_device *device, plan *best)
{
    best->seconds = INFINITY;
    if (device->backend != KS_CUDA || ks_cuda_arch(device) < 80 || !is_a_pair(pair)) return false;
    /* A slice is the narrowest there is or as many of these together; runs are 32 bytes, a sector, or more, unless all there is. */
    const int64_t common_a = gcd(pair[0].a, pair[1].a), common_d = gcd(pair[0].d, pair[1].d);
    const int64_t sector = 2 * PER_CHUNK;
    for (int64_t inners = 1; inners <= ks_min(common_d, MOST_SLICES); inners++) {
        if (common_d % inners != 0 || (inners > 1 && common_d / inners % sector != 0)) continue;
        for (int64_t together = 1; together <= ks_min(common_a, MOST_SLICES); together++)
            for (int rows = 16; common_a % together == 0 && rows <= 64; rows *= 2) {
                plan now;
                const bool fits = follow(rows, common_a / together, inners, pair, device, &now);
                if (fits && now.seconds < best->seconds) *best = now;
            }
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
    static thread_local unsigned next;
    const int arch = ks_cuda_arch(device);
    for (memory &m : remembered)
        if (m.known && memcmp(m.pair, pair, sizeof m.pair) == 0 && m.units == device->units && m.arch == arch)
            return m.possible ? &m.best : NULL;
    memory *m = &remembered[next++ % REMEMBERED];
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

/* ---- running --------------------------------------------------------------------------------------------------------- */

static ks_status run(const ks_problem pair[2], const ks_pair_args *args)
{
    const plan *best = best_plan(pair, args->device);
    if (!best) return ks_fail(KS_ERR_UNSUPPORTED, "fused2.cuda does not support this pair");
    arguments a = best->args;
    a.f[0].k = static_cast<const char *>(args->k[1]), a.f[1].k = static_cast<const char *>(args->k[0]);
    a.x.at = static_cast<char *>(const_cast<void *>(args->x)), a.y.at = static_cast<char *>(args->y);
    const kernel_function kernel =
        pair[0].type == KS_F16 ? kernel_for<ks_mma::f16>(a.rows > 16) : kernel_for<ks_mma::bf16>(a.rows > 16);
    int previous;
    ks_status s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    /* More shared memory than 48 KB has to be allowed, on each device. */
    s = ks_cuda_status(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (int)ks_cuda_shared_bytes(args->device)),
                       "shared memory of fused2.cuda");
    if (s == KS_OK)
        s = ks_cuda_status(
            ks_launch_early(args->device, kernel, best->blocks, ALL_THREADS, best->shared_bytes, args->stream, a),
            "launch of fused2.cuda");
    ks_cuda_leave(previous);
    return s;
}

} // namespace ks_fused2

extern "C" const ks_pair ks_fused2_cuda = {"fused2.cuda",          KS_CUDA,       16, ks_fused2::supports,
                                           ks_fused2::predicted_s, ks_fused2::run};
