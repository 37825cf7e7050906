/* fused.cuda.exchange: the row of the kernel table, and its planner. What runs on the device is fused_exchange.cuh. */
#include "fused_exchange.cuh"
#include "clusters.cuh"
#include "plan_memory.cuh"

extern "C" {
#include "rows.h"
}

#include <math.h>

namespace ks_exchange
{

/* A shape as the planner sees it. */
struct variant {
    const void *kernels[KS_NTYPES]; /* NULL: not for this type */
    int N, TN, GROUP_J, COUNT, slot_bytes, fixed_bytes;
};

template <int N, int TN> constexpr variant half()
{
    using S = shape<ks_mma::f16, N, TN>;
    variant v = {{}, N, TN, S::GROUP_J, S::COUNT, S::slot_bytes, S::fixed_bytes};
    v.kernels[KS_F16] = (const void *)multiply<S>;
    v.kernels[KS_BF16] = (const void *)multiply<shape<ks_mma::bf16, N, TN>>;
    return v;
}

/* Those that are the fastest somewhere. */
static const variant shapes[] = {half<64, 128>(), half<96, 128>(), half<128, 128>(), half<192, 128>(),
                                 half<256, 64>()};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* How a shape would cut a problem, and what that should cost. */
struct plan {
    const variant *shape;
    int clusters, slots;
    int64_t l_tiles, j_tiles, j_span, n_tiles, units;
    double seconds, bytes, unaligned_bytes, cycles; /* predicted; bytes: that nothing hides; cycles: of a cluster */
};

/* The copy engine wants rows of K that begin at multiples of 16 bytes, and counts in 32 bits; X and Y are read and written 16 bytes
 * at a time. Fewer l's or samples would leave most of a tile empty. */
static bool fits(const ks_problem *p)
{
    const double most = INT32_MAX / 64;
    const double a = (double)p->a, b = (double)p->b, c = (double)p->c, d = (double)p->d, n = (double)p->batch;
    return p->c % 8 == 0 && p->d % 8 == 0 && p->d >= D && p->batch >= 32 && a <= most && c * d <= most &&
           b * d <= most && b * c <= most && n <= INT32_MAX - 4096 && a * c * d <= 1e11 && a * b * d <= 1e11;
}

/* What the time of a cut is made of; fitted to 860 measurements of 170 problems on an H100 (median error 6 %; the cut chosen takes
 * 1.4 % longer than the best in the mean). Of X less counts than of Y, being fetched ahead; it is fetched again for each tile of
 * j, where L2 has lost it meanwhile. Where d is no multiple of 16, runs of l's begin anywhere in a sector: L2 reads what a store
 * leaves out. Runs that lie close together are asked for, and stored, together. */
static const double clock_hz = 1.7e9, launch_s = 4.5e-6, dram_unit_bytes_per_s = 22.8e9;
static const double slab_cycles = 900, column_cycles = 2.26, row_cycles = 0.4;
static const double part_cycles = 370, stored_row_cycles = 0.78, unit_cycles = 400;
static const double x_share = 0.31, unaligned_x = 0.23, unaligned_y = 1.4, l2_kept_bytes = 36e6;

static double between(double low, double value, double high)
{
    return fmax(low, fmin(value, high));
}

static void try_cut(const variant *v, const ks_problem *p, const ks_device *device, plan *best)
{
    plan c = {};
    c.shape = v;
    c.l_tiles = ks_ceil_div(p->d, D), c.j_tiles = ks_ceil_div(p->b, v->N), c.n_tiles = ks_ceil_div(p->batch, v->TN);
    if ((double)c.l_tiles * (double)c.j_tiles * (double)c.n_tiles * (double)p->a > INT32_MAX / 2) return;
    c.units = c.l_tiles * c.j_tiles * c.n_tiles * p->a;
    c.j_span = ks_cluster::kept_together(c.j_tiles, 2.0 * v->N * (double)p->c * (double)p->d);
    c.clusters = (int)ks_min(c.units, ks_cluster::clusters_at_once(device, BLOCKS));
    c.slots = (int)ks_min(((int64_t)ks_cuda_shared_bytes(device) - v->fixed_bytes) / v->slot_bytes, MOST_SLOTS);
    if (c.slots < 2) return;

    const double d = (double)p->d, slabs = (double)ks_ceil_div(p->c, TK);
    double parts = 0; /* of all tiles of j */
    for (int64_t t = 0; t < c.j_tiles; t++) parts += (double)ks_min(v->COUNT, ks_ceil_div(p->b - t * v->N, PART));
    const double slab = slab_cycles * v->TN / 128 + column_cycles * v->N +
                        row_cycles * v->TN / BLOCKS * TK * between(0.25, d / 64, 1);
    const double part = part_cycles + stored_row_cycles * FROM_BYTES * BLOCKS / 32 * between(0.5, d / 32, 1);
    c.cycles =
        (double)ks_ceil_div(c.units, c.clusters) * (slabs * slab + parts / (double)c.j_tiles * part + unit_cycles);

    const double x = 2 * (double)ks_x_count(p), y = 2 * (double)ks_y_count(p), k = 2 * (double)ks_k_count(p);
    const double lost = fmin(1, c.clusters * v->TN * (double)p->c * D * 2 / l2_kept_bytes);
    const double x_read = x * (1 + (double)(c.j_tiles - 1) * lost);
    c.unaligned_bytes = p->d % D == 0 ? 0 : unaligned_x * x_read + unaligned_y * y;
    c.bytes = x_share * x_read + y + k;
    c.seconds =
        launch_s + c.cycles / clock_hz + (c.bytes + c.unaligned_bytes) / (device->units * dram_unit_bytes_per_s);
    if (c.seconds < best->seconds) *best = c;
}

static bool make_plan(const ks_problem *p, const ks_device *device, plan *best)
{
    if (!KS_HOPPER || device->backend != KS_CUDA || ks_cuda_arch(device) != 90 || p->layout != KS_BATCH_FIRST ||
        (p->type != KS_F16 && p->type != KS_BF16) || !fits(p))
        return false;
    best->seconds = INFINITY;
    for (int s = 0; s < SHAPES; s++) try_cut(&shapes[s], p, device, best);
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

static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const plan *best = best_plan(p, device);
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = 0;
    if (!best) return;
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = best->bytes;
    terms[KS_TERM_FLOPS] = best->cycles * 1000;
    terms[KS_TERM_SHUFFLE] = best->unaligned_bytes;
    terms[KS_TERM_CALLS] = (double)ks_ceil_div(best->units, best->clusters);
}

/* How many j's a copy of K is to bring: a copy takes some cycles, a row that there is not, too. */
static int k_copy(const variant *v, int64_t b)
{
    const int64_t whole = b / v->GROUP_J;
    const int rest = (int)(b % v->GROUP_J);
    const auto cost = [&](int js) {
        const int copies = (rest + js - 1) / js, ls = js == v->GROUP_J ? 1 : L;
        return (double)(whole * (v->GROUP_J / js) + copies) * ls * 150 + (copies * js - rest) * L * 7;
    };
    int best = v->GROUP_J;
    for (int js = 8; js < v->GROUP_J; js += 8)
        if (v->GROUP_J % js == 0 && cost(js) < cost(best)) best = js;
    return best;
}

static ks_status launch(const ks_problem *p, const ks_run_args *args, const plan &best)
{
    const variant *v = best.shape;
    const int64_t a = p->a, b = p->b, c = p->c, d = p->d;
    arguments g;
    g.x = (const char *)args->x, g.y = (char *)args->y, g.x_row = a * c * d, g.y_row = a * b * d;
    g.b = (int)b, g.c = (int)c, g.d = (int)d, g.batch = (int)p->batch;
    g.slabs = (int)ks_ceil_div(c, TK), g.slots = best.slots, g.k_js = k_copy(v, b);
    g.l_tiles = (unsigned)best.l_tiles, g.j_span = (unsigned)best.j_span, g.n_tiles = (unsigned)best.n_tiles;
    g.j_spans = (unsigned)(best.j_tiles / best.j_span), g.units = (unsigned)best.units;
    g.finish = ks_cuda::epilogue_of<float>(args->epilogue);
    const ks_cluster::array_map<4> k = {args->k,
                                        {c, b, d, a},
                                        {2 * c, 2 * b * c, 2 * d * b * c},
                                        {TK, g.k_js, g.k_js == v->GROUP_J ? L : 1, 1},
                                        ks_cluster::swizzle_of(TK * 2)};
    ks_cluster::encoder encoder = NULL;
    ks_status s = ks_cluster::find_encoder(&encoder);
    if (s == KS_OK) s = ks_cluster::encode(encoder, p->type, k, &g.k);
    if (s != KS_OK) return s;
    enum { DEVICES = 64 };
    static int known[DEVICES][SHAPES][KS_NTYPES];
    const int device = args->device->index;
    const ks_cluster::cluster_launch l = {"launch of fused.cuda.exchange",
                                          v->kernels[p->type],
                                          BLOCKS,
                                          THREADS,
                                          (size_t)(v->fixed_bytes + best.slots * v->slot_bytes),
                                          best.units,
                                          device < DEVICES ? &known[device][v - shapes][p->type] : NULL};
    bool fits;
    s = ks_cluster::launch_clusters(l, args->device, args->stream, &g, &fits);
    return s == KS_OK && !fits ? ks_fused_cuda_simt.run(p, args) : s;
}

} // namespace ks_exchange

extern "C" const ks_kernel ks_fused_cuda_exchange = {
    "fused.cuda.exchange",
    KS_FUSED,
    KS_CUDA,
    1,
    ks_exchange::supports,
    ks_exchange::workspace_bytes,
    ks_exchange::cost_terms,
    ks_cuda::run_planned<ks_exchange::plan, ks_exchange::best_plan, ks_exchange::launch>};
