/* fused.cuda.cluster: the row of the kernel table, and its planner. What runs on the device is fused_cluster.cuh. */
#include "clusters.cuh"
#include "fused_cluster.cuh"
#include "plan_memory.cuh"
#include "sizes.h"

extern "C" {
#include "error.h"
#include "rows.h"
}

#include <math.h>

namespace ks_cluster
{

/* A shape as the planner sees it. */
struct variant {
    const void *kernels[KS_NTYPES]; /* NULL: not for this type */
    bool RUN, SECTORS, DIRECT;
    int size, parts, D, L, N, TN, TK, KS, XK, x_row, stage_bytes, x_bytes, k_bytes, staging_bytes, out_n, out_j,
        out_row;
};

template <class S> constexpr variant describe()
{
    return {{},       S::RUN,   S::SECTORS,     S::DIRECT,  S::size,    S::T::parts,
            S::D,     S::L,     S::N,           S::TN,      S::TK,      S::KS,
            S::XK,    S::x_row, S::stage_bytes, S::x_bytes, S::k_bytes, S::staging_bytes,
            S::out_n, S::out_j, S::out_row};
}

template <int D, int N, int TK, bool RUN = false> constexpr variant half()
{
    variant v = describe<shape<ks_mma::f16, D, N, TK, RUN>>();
    v.kernels[KS_F16] = (const void *)multiply<shape<ks_mma::f16, D, N, TK, RUN>>;
    v.kernels[KS_BF16] = (const void *)multiply<shape<ks_mma::bf16, D, N, TK, RUN>>;
    return v;
}

template <int D, int N, int TK, bool RUN = false> constexpr variant exact()
{
    variant v = describe<shape<ks_mma::f32, D, N, TK, RUN>>();
    v.kernels[KS_F32] = (const void *)multiply<shape<ks_mma::f32, D, N, TK, RUN>>;
    return v;
}

/* As in fused_mma_half.cuh, those that are the fastest somewhere.
 *    D  N  TK  RUN */
static const variant shapes[] = {
    half<16, 32, 16, true>(), half<16, 24, 16, true>(), half<16, 32, 16>(),       half<16, 24, 16>(),
    half<8, 32, 16>(),        half<6, 32, 32>(),        half<6, 48, 16>(),        half<4, 48, 32>(),
    half<4, 64, 32>(),        half<3, 48, 32>(),        half<3, 64, 32>(),        half<3, 96, 32>(),
    half<2, 96, 32>(),        half<2, 128, 32>(),       exact<16, 32, 8, true>(), exact<16, 24, 8, true>(),
    exact<8, 32, 8, true>(),  exact<8, 32, 8>(),        exact<8, 24, 8>(),        exact<6, 32, 8>(),
    exact<6, 48, 8>(),        exact<4, 64, 8>(),        exact<4, 48, 8>(),        exact<3, 96, 16>(),
    exact<3, 64, 16>(),       exact<3, 48, 16>(),       exact<2, 128, 16>(),      exact<2, 64, 16>(),
    exact<1, 128, 32>(),      exact<1, 64, 32>(),       half<1, 48, 64>(),        half<1, 64, 64>(),
    half<1, 96, 64>(),        half<1, 128, 64>(),       half<1, 192, 64>(),       half<1, 256, 64>(),
};
enum { SHAPES = sizeof shapes / sizeof *shapes, MOST_BLOCKS = 8 /* of a cluster that every GPU can run */ };

/* How a shape would cut a problem, and what that should cost. */
struct plan {
    const variant *shape;
    int across, down, clusters, stages;
    int64_t l_tiles, j_groups, j_span, n_groups, units;
    double seconds, dram_bytes, cycles; /* predicted; cycles: of the multiprocessor with the most to do */
};

/* The copy engine wants rows that begin at multiples of 16 bytes, and counts in 32 bits. */
static bool fits(const variant *v, const ks_problem *p)
{
    const double most = INT32_MAX / 64;
    const double a = (double)p->a, b = (double)p->b, c = (double)p->c, d = (double)p->d, n = (double)p->batch;
    if (a > most || c * d > most || b * d > most || b * c > most || n > INT32_MAX - 4096 || a * c * d > 1e11 ||
        a * b * d > 1e11 || p->c * v->size % 16 != 0 || p->b * p->d * v->size % 16 != 0 || !v->kernels[p->type])
        return false;
    return v->RUN ? p->d * v->size > 32 && p->d * v->size % 16 == 0 : p->d == v->D;
}

/* What the time of a cut is made of; fitted to 2,800 measurements of 170 problems on an H100 (median error 8 %; the cut
 * chosen takes 2.6 % longer than the best in the mean). A multiprocessor takes a row of shared memory from the copy engine
 * in so many cycles, and its bytes; asks for one in so many; for float32, turns 8 k's into products and splits K. What goes on
 * side by side takes a little longer than the longest. A block waits for the others of its cluster, the more the larger it is;
 * memory gives runs of 32 bytes more slowly. */
static const double clock_hz = 1.7e9, launch_s = 6.3e-6, dram_unit_bytes_per_s = 24.4e9, short_runs = 1.25;
static const double row_cycles = 0.73, bytes_per_cycle = 101, request_cycles = 2.2;
static const double exact_column_cycles = 3.97, split_bytes_per_cycle = 37, doubling_cycles = 83;
static const double product_flops_per_cycle = 4096;
static const double unit_cycles = 140, result_bytes_per_cycle = 31;

static double cube(double x)
{
    return x * x * x;
}

static void try_cut(const variant *v, const ks_problem *p, const ks_device *device, int across, int down, plan *best)
{
    const int64_t j_tiles = ks_ceil_div(p->b, v->N), n_tiles = ks_ceil_div(p->batch, v->TN);
    const int blocks = across * down;
    if ((v->DIRECT ? v->N / 8 : v->D) % down != 0 || (across > 1 && across / 2 >= j_tiles) ||
        (down > 1 && down / 2 >= n_tiles))
        return;
    plan c = {};
    c.shape = v, c.across = across, c.down = down;
    c.l_tiles = ks_ceil_div(p->d, v->D), c.j_groups = ks_ceil_div(j_tiles, across),
    c.n_groups = ks_ceil_div(n_tiles, down);
    if ((double)c.l_tiles * (double)c.j_groups * (double)c.n_groups * (double)p->a > INT32_MAX / 2) return;
    c.units = c.l_tiles * c.j_groups * c.n_groups * p->a;
    c.j_span = kept_together(c.j_groups, v->size * (double)(across * v->N) * (double)p->c * (double)p->d);
    c.clusters = (int)ks_min(c.units, clusters_at_once(device, blocks));
    c.stages = (int)ks_min(
        ((int64_t)ks_cuda_shared_bytes(device) - BARRIER_BYTES - v->staging_bytes) / v->stage_bytes, MOST_STAGES);
    if (c.stages < 2) return;

    const double x_rows = (double)v->x_bytes / v->x_row, k_rows = (double)(v->N * v->D);
    const double arrives = (x_rows + k_rows) * row_cycles + (v->x_bytes + v->k_bytes) / bytes_per_cycle;
    const double asks = (x_rows / across + k_rows / down) * request_cycles;
    double multiplies = 0, waits = 0; /* hidden behind the copies of 2-byte types */
    if (v->DIRECT) multiplies = 2.0 * v->TN * v->N * v->TK / product_flops_per_cycle;
    if (v->parts == 2) {
        multiplies = exact_column_cycles * v->L * v->N * (v->TK / v->KS) + v->k_bytes / split_bytes_per_cycle;
        waits = doubling_cycles * log2(blocks);
    }
    const double slab = cbrt(cube(arrives) + cube(asks) + cube(multiplies)) + waits;
    const double slabs = (double)ks_ceil_div(p->c, v->TK), rounds = (double)ks_ceil_div(c.units, c.clusters);
    const double results = (double)v->size * v->TN * v->N * v->D;
    c.cycles = rounds * (slabs * slab + unit_cycles + results / result_bytes_per_cycle);
    const double x = v->size * (double)ks_x_count(p), y = v->size * (double)ks_y_count(p),
                 k = v->size * (double)ks_k_count(p);
    c.dram_bytes = x * (double)(c.j_groups / c.j_span) + y + k;
    const double runs = v->RUN && v->x_row == 32 ? short_runs : 1;
    const double dram_s = c.dram_bytes * runs / (device->units * dram_unit_bytes_per_s), busy_s = c.cycles / clock_hz;
    c.seconds = launch_s + fmax(dram_s, busy_s) + 0.27 * fmin(dram_s, busy_s);
    if (c.seconds < best->seconds) *best = c;
}

static bool make_plan(const ks_problem *p, const ks_device *device, plan *best)
{
    if (!KS_HOPPER || device->backend != KS_CUDA || ks_cuda_arch(device) != 90 || p->layout != KS_BATCH_FIRST ||
        p->type == KS_F64 || (p->type == KS_F32 && p->math != KS_MATH_F32))
        return false;
    best->seconds = INFINITY;
    for (int s = 0; s < SHAPES; s++) {
        if (!fits(&shapes[s], p)) continue;
        for (int across = 1; across <= MOST_BLOCKS; across *= 2)
            for (int down = 1; across * down <= MOST_BLOCKS; down *= 2)
                try_cut(&shapes[s], p, device, across, down, best);
    }
    return best->shape != NULL;
}

static const plan *best_plan(const ks_problem *p, const ks_device *device)
{
    return ks_cuda::remembered_plan<plan, make_plan>(p, device);
}

static bool supports(const ks_problem *p, const ks_device *device)
{
    return best_plan(p, device) != NULL;
}

static size_t workspace_bytes(const ks_problem *, const ks_device *)
{
    return 0;
}

/* Beside the plan's bytes and cycles: what memory moves of the sectors that runs of l's touch, in part where they begin anywhere,
 * and half of K where it comes 32 bytes at a time. That took a tenth off the terms' error; what L2 serves says nothing more. */
static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    enum { SECTOR = 32 };
    const plan *best = best_plan(p, device);
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 0;
    if (!best) return;
    const variant *v = best->shape;
    const double row = (double)p->d * v->size, k = v->size * (double)ks_k_count(p);
    const double touched = (double)best->l_tiles * (v->x_row + (p->d * v->size % SECTOR != 0 ? SECTOR : 0)) / row;
    const double arrays = v->size * ((double)ks_x_count(p) + (double)ks_y_count(p));
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = best->dram_bytes;
    terms[KS_TERM_FLOPS] = best->cycles * 1000;
    terms[KS_TERM_SHUFFLE] = (v->RUN ? arrays * touched : 0) + (v->TK * v->size == SECTOR ? k / 2 : 0);
    terms[KS_TERM_CALLS] = (double)ks_ceil_div(best->units, best->clusters);
}

static ks_status map_arrays(const ks_problem *p, const ks_run_args *args, const plan &best, arguments *out)
{
    const variant *v = best.shape;
    const int64_t a = p->a, b = p->b, c = p->c, d = p->d, n = p->batch, size = v->size;
    const int rows = v->TN / best.across;
    /* With all l's in a row of X or Y, k and l, or j and l, are one dimension; else l is one of its own. */
    const array_map<4> k = {args->k,
                            {c, b, d, a},
                            {c * size, b * c * size, d * b * c * size},
                            {v->TK, v->DIRECT ? v->N / best.down : v->N, v->DIRECT ? 1 : v->D / best.down, 1},
                            swizzle_of(v->TK * v->size)};
    const array_map<4> x_runs = {args->x,
                                 {d, c, a, n},
                                 {d * size, c * d * size, a * c * d * size},
                                 {v->D, v->TK, 1, rows},
                                 swizzle_of(v->D * v->size)};
    const array_map<3> x_rows = {args->x,
                                 {c * d, a, n},
                                 {c * d * size, a * c * d * size},
                                 {v->XK * v->D, 1, rows},
                                 v->x_row == 128 ? swizzle_of(128) : swizzle_of(0)};
    const array_map<4> y_runs = {args->y,
                                 {d, b, a, n},
                                 {d * size, b * d * size, a * b * d * size},
                                 {v->D, v->out_n, 1, 8},
                                 swizzle_of(v->D * v->size)};
    const array_map<3> y_rows = {args->y,
                                 {b * d, a, n},
                                 {b * d * size, a * b * d * size},
                                 {v->out_j * v->D, 1, 8},
                                 v->out_row == 128 ? swizzle_of(128) : swizzle_of(0)};
    encoder f = NULL;
    ks_status s = find_encoder(&f);
    if (s == KS_OK) s = encode(f, p->type, k, &out->k);
    if (s == KS_OK) s = v->RUN ? encode(f, p->type, x_runs, &out->x) : encode(f, p->type, x_rows, &out->x);
    if (s == KS_OK) s = v->SECTORS ? encode(f, p->type, y_runs, &out->y) : encode(f, p->type, y_rows, &out->y);
    return s;
}

static ks_status launch(const ks_problem *p, const ks_run_args *args, const plan &best)
{
    const variant *v = best.shape;
    const int blocks = best.across * best.down;
    arguments a;
    a.across = best.across, a.down = best.down;
    a.slabs = (int)ks_ceil_div(p->c, v->TK), a.stages = best.stages;
    a.l_tiles = (unsigned)best.l_tiles, a.j_span = (unsigned)best.j_span;
    a.j_spans = (unsigned)(best.j_groups / best.j_span);
    a.n_groups = (unsigned)best.n_groups, a.units = (unsigned)best.units;
    a.finish = ks_cuda::epilogue_of<float>(args->epilogue);
    a.x_at = (const float *)args->x, a.k_at = (const float *)args->k, a.y_at = (float *)args->y;
    a.x_row = p->a * p->c * p->d, a.y_row = p->a * p->b * p->d;
    a.b = (int)p->b, a.c = (int)p->c, a.d = (int)p->d, a.batch = (int)p->batch;
    ks_status s = map_arrays(p, args, best, &a);
    if (s != KS_OK) return s;
    enum { DEVICES = 64 };
    static int known[DEVICES][SHAPES][KS_NTYPES][MOST_BLOCKS + 1];
    const int device = args->device->index;
    const cluster_launch l = {"launch of fused.cuda.cluster",
                              v->kernels[p->type],
                              blocks,
                              THREADS,
                              (size_t)(v->staging_bytes + best.stages * v->stage_bytes + BARRIER_BYTES),
                              best.units,
                              device < DEVICES ? &known[device][v - shapes][p->type][blocks] : NULL};
    bool fits;
    s = launch_clusters(l, args->device, args->stream, &a, &fits);
    return s == KS_OK && !fits ? ks_fused_cuda_simt.run(p, args) : s;
}

} // namespace ks_cluster

extern "C" const ks_kernel ks_fused_cuda_cluster = {
    "fused.cuda.cluster",
    KS_FUSED,
    KS_CUDA,
    3,
    ks_cluster::supports,
    ks_cluster::workspace_bytes,
    ks_cluster::cost_terms,
    ks_cuda::run_planned<ks_cluster::plan, ks_cluster::best_plan, ks_cluster::launch>};
