/* fused.cuda.simt: one launch, no workspace, float32 FMA (float64 for KS_F64), every problem there is.
 *
 * What it is for: whatever the tensor-core kernel declines (sizes that nothing divides, arrays aligned to their element
 * alone, float64) and problems so small that one launch is all the time there is. It is the classical register-tiled
 * product: a block computes an output tile of l x n x j, walks along k in slabs staged through two shared buffers, the
 * next slab under way in registers while the last one is multiplied; each thread owns 8 x 8 or 4 x 4 outputs of one l.
 *
 * Only the thread's tile is known to the compiler. How many threads a block has along l, n and j, how many share one
 * output by taking every `parts`-th k, and how deep a slab is, are numbers that the host picks for each problem, so that
 * b = 48 gets a tile of 48 and b = 3 one of 4, without a kernel for each. What that costs is an addition or two for every
 * 16 or 64 multiplications. Along l a tile takes 8 where it can: in batch-first that is what lies together in memory, and 8
 * floats are one sector. Tiles that share X (neighbours in j, in l) follow each other, so that X is read again from L2.
 *
 * Dropped: shared memory filled by cp.async, which cannot convert float16 on its way nor copy 2 bytes. */
#include "cuda_device.h"
#include "epilogue.cuh"
#include "launch.cuh"
#include "rows.h"
#include "split.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace
{

constexpr int threads_most = 256, slab_most = 32, parts_most = 16;
constexpr size_t shared_most = 48 << 10;
constexpr int64_t grid_most = INT32_MAX;

/* Elements of X and of K that one thread stages for a slab, at most: registers, next to those of its side x side sums. */
constexpr int k_staged = 8;
constexpr int x_staged(int side)
{
    return side == 8 ? 4 : 8;
}

/* ---- the plan: what the host picks ------------------------------------------------------------------------------ */

struct plan {
    bool large;            /* a thread's tile is 8 x 8, else 4 x 4 */
    int bl, nt, jt, parts; /* threads along l, n, j and k */
    int bn, bj, slab;      /* the tile along n and j, the slab along k */
    int x_pitch, k_pitch;  /* shared X is [k][l][n], shared K [k][l][j] */
    int threads;
    int64_t l_tiles, j_tiles, n_tiles, tiles;
    size_t shared_bytes;
};

/* size cut into the fewest parts of at most `most`, even ones: how long they are. */
int64_t even_part(int64_t size, int64_t most)
{
    return ks_ceil_div(size, ks_ceil_div(size, most));
}

/* An odd multiple of 4: the 16-byte reads of 8 neighbouring l's then hit all banks once. */
int pitch(int length)
{
    return (length / 4 | 1) * 4;
}

/* Whether slabs of that depth can be staged by the threads there are, and fit shared memory. */
bool slab_fits(const ks_problem *p, const plan &g, int slab, size_t sum_bytes)
{
    const bool last = p->layout == KS_BATCH_LAST;
    const int width = slab * g.bl, x_width = last ? g.bl * g.bn : width, x_rows = last ? slab : g.bn;
    return width <= g.threads && x_width <= g.threads &&
           ks_ceil_div(x_rows, g.threads / x_width) <= x_staged(g.large ? 8 : 4) &&
           ks_ceil_div(g.bj, g.threads / width) <= k_staged &&
           2 * (size_t)(slab * g.bl * (g.x_pitch + g.k_pitch)) * sum_bytes <= shared_most;
}

/* Threads along l, n and j for thread tiles of `side` x `side`, by what there is to compute. */
void lay_out(const ks_problem *p, int side, int64_t tiles_wanted, plan *g)
{
    const bool last = p->layout == KS_BATCH_LAST;
    const int64_t js = ks_ceil_div(p->b, side), ns = ks_ceil_div(p->batch, side);
    /* In batch-last the samples lie together, and only few of them leave room for several l's. */
    const int64_t bl = !last ? even_part(p->d, 8) : p->batch < 32 ? even_part(p->d, 32 / p->batch) : 1;
    const int64_t room = threads_most / bl;
    int64_t jt = even_part(js, bl > 1 ? 8 : 16);
    /* Batch-last stages X one row of the tile at a time, so it needs a thread for each of the row's elements. */
    const auto along_k = [&](int64_t j) { return last ? ks_ceil_div(side, j) : 1; };
    int64_t nt = even_part(ns, ks_min(32, room / (jt * along_k(jt)) > 0 ? room / (jt * along_k(jt)) : 1));
    const auto tiles = [&] { return p->a * ks_ceil_div(p->d, bl) * ks_ceil_div(js, jt) * ks_ceil_div(ns, nt); };
    while (tiles() < tiles_wanted && (jt > 2 || nt > 1)) {
        if (jt > 2 && jt >= nt)
            jt = (jt + 1) / 2;
        else if (nt > 1)
            nt = (nt + 1) / 2;
        else
            jt = (jt + 1) / 2;
    }
    g->bl = (int)bl, g->nt = (int)nt, g->jt = (int)jt;
    g->bn = (int)nt * side, g->bj = (int)jt * side;
    g->x_pitch = pitch(g->bn), g->k_pitch = pitch(g->bj);
    g->j_tiles = ks_ceil_div(js, jt), g->n_tiles = ks_ceil_div(ns, nt), g->l_tiles = ks_ceil_div(p->d, bl);
    g->tiles = p->a * g->j_tiles * g->n_tiles * g->l_tiles;
    /* Few tiles: several threads share an output, so that more of K and X is on its way at a time. */
    const int64_t base = bl * nt * jt, aim = g->tiles < 4 * tiles_wanted ? threads_most : threads_most / 2;
    int64_t parts = ks_min(ks_min(aim / base, parts_most), ks_ceil_div(p->c, 4));
    if (parts < 1 || side > 4) parts = 1;
    if (parts < along_k(jt)) parts = along_k(jt);
    g->parts = (int)parts, g->threads = (int)(base * parts);
}

plan make_plan(const ks_problem *p, const ks_device *device)
{
    plan g = {};
    const int64_t units = device->units > 0 ? device->units : 1;
    const size_t sum_bytes = p->type == KS_F64 ? 8 : 4;
    /* The large thread tile halves the shared reads of each FMA; it asks for enough rows and columns to fill it. */
    if (p->type != KS_F64 && p->batch >= 32 && p->b > (p->layout == KS_BATCH_LAST ? 56 : 24)) {
        lay_out(p, 8, 1, &g);
        g.large = g.tiles >= units;
    }
    if (!g.large) lay_out(p, 4, units, &g);
    g.slab = (int)ks_min(p->c, g.large ? slab_most / 2 : slab_most);
    while (!slab_fits(p, g, g.slab, sum_bytes))
        g.slab -= g.slab > 16 ? (g.slab - 9) % 8 + 1 : g.slab > 4 ? (g.slab - 1) % 4 + 1 : 1;
    g.shared_bytes = 2 * (size_t)(g.slab * g.bl * (g.x_pitch + g.k_pitch)) * sum_bytes;
    const size_t reduction = g.parts > 1 ? (size_t)g.threads * 16 * sum_bytes : 0;
    if (g.shared_bytes < reduction) g.shared_bytes = reduction;
    return g;
}

/* ---- the kernel ------------------------------------------------------------------------------------------------- */

template <typename T> struct number {
    using sum = float;
};
template <> struct number<double> {
    using sum = double;
};

template <typename T> struct alignas(sizeof(T) * 4) four {
    T e[4];
};

/* Four neighbours in shared memory, at a multiple of 16 bytes. */
__device__ __forceinline__ void read_four(const float *at, float *out)
{
    const float4 v = *reinterpret_cast<const float4 *>(at);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
__device__ __forceinline__ void read_four(const double *at, double *out)
{
    const double2 v = reinterpret_cast<const double2 *>(at)[0], w = reinterpret_cast<const double2 *>(at)[1];
    out[0] = v.x, out[1] = v.y, out[2] = w.x, out[3] = w.y;
}

struct sizes {
    int64_t a, b, c, d, batch;
};

/* Where a tile begins; i is its super-block. */
struct corner {
    int64_t i, l0, n0, j0;
};

__device__ __forceinline__ corner corner_of(int64_t tile, const plan &g)
{
    corner at;
    at.i = tile;
    at.j0 = split_off(at.i, g.j_tiles) * g.bj;
    at.l0 = split_off(at.i, g.l_tiles) * g.bl;
    at.n0 = split_off(at.i, g.n_tiles) * g.bn;
    return at;
}

/* Hides from the compiler what it could keep for every staged element through all slabs, in registers that it lacks. */
__device__ __forceinline__ void forget(int &value)
{
    asm volatile("" : "+r"(value));
}
__device__ __forceinline__ void forget(int64_t &value)
{
    asm volatile("" : "+l"(value));
}

__device__ __forceinline__ int clamp(int64_t value, int most)
{
    return value < 0 ? 0 : value < most ? (int)value : most;
}

/* Who computes what: l fastest, then what lies together in y; `parts` threads on each. */
struct owner_place {
    int l, nt, jt, part;
};

template <bool LAST> __device__ __forceinline__ owner_place owner_of(int tid, const plan &g)
{
    const int owners = g.bl * g.nt * g.jt, part = tid / owners, owner = tid - part * owners;
    const int nj = owner / g.bl, fast = LAST ? g.nt : g.jt, slow = nj / fast;
    return {owner - nj * g.bl, LAST ? nj - slow * fast : slow, LAST ? slow : nj - slow * fast, part};
}

/* Every step-th of `rows` rows, from memory; zero beyond. */
template <typename T, int N>
__device__ __forceinline__ void load_rows(T (&to)[N], const T *from, int rows, int step, int64_t stride)
{
    forget(stride);
#pragma unroll
    for (int q = 0, row = 0; q < N; q++, row += step, from += stride) to[q] = row < rows ? *from : T();
}

/* The same to shared memory, widened. */
template <typename S, typename T, int N>
__device__ __forceinline__ void store_rows(S *to, const T (&from)[N], int rows, int step, int stride)
{
    forget(stride);
#pragma unroll
    for (int q = 0, row = 0; q < N; q++, row += step, to += stride)
        if (row < rows) *to = static_cast<S>(from[q]);
}

/* SIDE x SIDE is the thread's tile; LAST the layout; LEAST_BLOCKS how many blocks a multiprocessor shall hold. */
template <typename T, int SIDE, bool LAST, int LEAST_BLOCKS>
__global__ void __launch_bounds__(threads_most, LEAST_BLOCKS)
    multiply(const T *__restrict__ x, const T *__restrict__ weights, T *__restrict__ y, sizes s, plan g,
             int64_t first_tile, ks_cuda::epilogue<typename number<T>::sum> finish)
{
    using S = typename number<T>::sum;
    constexpr int HALVES = SIDE / 4, XS = x_staged(SIDE), KS = k_staged;
    static_assert(SIDE % 4 == 0, "a thread reads its operands four at a time");
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    S *const shared = reinterpret_cast<S *>(shared_bytes);
    const int x_slab = g.slab * g.bl * g.x_pitch, buffer = x_slab + g.slab * g.bl * g.k_pitch;

    const owner_place mine = owner_of<LAST>(threadIdx.x, g);
    const int x_mine = (mine.part * g.bl + mine.l) * g.x_pitch + mine.nt * 4;
    const int k_mine = x_slab + (mine.part * g.bl + mine.l) * g.k_pitch + mine.jt * 4;

    /* Who stages what: a thread keeps its place along what lies together, (l, n) of X in batch-last, (k, l) of X in
     * batch-first and of K in both, and takes every step-th of the rest: k's, samples, j's. */
    const corner at = corner_of(first_tile + blockIdx.x, g);
    const int width = g.slab * g.bl, x_width = LAST ? g.bl * g.bn : width;
    const int x_fast = threadIdx.x % x_width, x_first = threadIdx.x / x_width, x_step = g.threads / x_width;
    const int x_l = LAST ? x_fast / g.bn : x_fast % g.bl, x_n = LAST ? x_fast - x_l * g.bn : x_first;
    const int x_k = LAST ? x_first : x_fast / g.bl;
    const int k_fast = threadIdx.x % width, k_j = threadIdx.x / width, k_step = g.threads / width;
    const int k_l = k_fast / g.slab, k_k = k_fast - k_l * g.slab;

    const int64_t x_along = LAST ? s.d * s.batch : s.d; /* from one k to the next */
    const T *x_at = LAST ? x + (at.i * s.c + x_k) * x_along + (at.l0 + x_l) * s.batch + at.n0 + x_n
                         : x + (((at.n0 + x_n) * s.a + at.i) * s.c + x_k) * x_along + at.l0 + x_l;
    const T *k_at = weights + ((at.i * s.d + at.l0 + k_l) * s.b + at.j0 + k_j) * s.c + k_k;
    S *const x_put = shared + (x_k * g.bl + x_l) * g.x_pitch + x_n;
    S *const k_put = shared + x_slab + (k_k * g.bl + k_l) * g.k_pitch + k_j;
    /* Rows from this thread's first on: in the tile, and of these in the array. */
    const int x_rows = x_first < x_step ? (LAST ? g.slab : g.bn) - x_first : 0,
              k_rows = k_j < k_step ? g.bj - k_j : 0;
    const int x_there = at.l0 + x_l >= s.d ? 0 : LAST ? at.n0 + x_n < s.batch : clamp(s.batch - at.n0 - x_n, x_rows);
    const int k_there = at.l0 + k_l >= s.d ? 0 : clamp(s.b - at.j0 - k_j, k_rows);

    T x_next[XS], k_next[KS];
    /* The slab that comes next, of which `left` k's are in the arrays, to registers. */
    const auto fetch = [&](int64_t left) {
        const int x_in = LAST ? (x_there ? clamp(left - x_k, x_rows) : 0) : x_k < left ? x_there : 0;
        load_rows(x_next, x_at, x_in, x_step, x_step * (LAST ? x_along : s.a * s.c * s.d));
        load_rows(k_next, k_at, k_k < left ? k_there : 0, k_step, k_step * s.c);
        x_at += g.slab * x_along, k_at += g.slab;
    };
    const auto stage = [&](int to) {
        store_rows(x_put + to, x_next, x_rows, x_step, x_step * (LAST ? g.bl * g.x_pitch : 1));
        store_rows(k_put + to, k_next, k_rows, k_step, k_step);
    };

    S sum[SIDE][SIDE];
#pragma unroll
    for (int n = 0; n < SIDE; n++)
#pragma unroll
        for (int j = 0; j < SIDE; j++) sum[n][j] = 0;

    ks_cuda::await_earlier();
    fetch(s.c);
    stage(0);
    __syncthreads();
    int turn = 0;
    for (int64_t left = s.c; left > 0; left -= g.slab) {
        const bool more = left > g.slab;
        if (more) fetch(left - g.slab);
        const S *xs = shared + turn + x_mine, *ks = shared + turn + k_mine;
#pragma unroll(SIDE == 8 ? 1 : 2)
        for (int k = mine.part; k < g.slab; k += g.parts) {
            S xv[SIDE], kv[SIDE];
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                read_four(xs + h * g.nt * 4, xv + h * 4);
                read_four(ks + h * g.jt * 4, kv + h * 4);
            }
            xs += g.parts * g.bl * g.x_pitch, ks += g.parts * g.bl * g.k_pitch;
#pragma unroll
            for (int n = 0; n < SIDE; n++)
#pragma unroll
                for (int j = 0; j < SIDE; j++) sum[n][j] += xv[n] * kv[j];
        }
        turn = buffer - turn;
        if (more) stage(turn);
        __syncthreads();
    }

    /* From here on all places once more, rather than kept through the loop. */
    int block = (int)blockIdx.x, tid = (int)threadIdx.x;
    forget(block), forget(tid);
    const corner to = corner_of(first_tile + block, g);
    const owner_place me = owner_of<LAST>(tid, g);

    /* Partial sums meet in shared memory; each part then owns every parts-th output. */
    if (SIDE == 4 && g.parts > 1) {
        const int owners = g.threads / g.parts;
#pragma unroll
        for (int q = 0; q < SIDE * SIDE; q++) shared[q * g.threads + tid] = sum[q / SIDE][q % SIDE];
        __syncthreads();
#pragma unroll
        for (int q = 0; q < SIDE * SIDE; q++) {
            S total = 0;
            if (q % g.parts == me.part)
                for (int u = tid - me.part * owners; u < g.threads; u += owners) total += shared[q * g.threads + u];
            sum[q / SIDE][q % SIDE] = total;
        }
    }
    if (to.l0 + me.l >= s.d) return;

    if (finish.asked) {
        constexpr int chunk = sizeof(S) == 8 ? 1 : 8;
        const auto whose = [&](int q) {
            const int j = ((q % SIDE) / 4 * g.jt + me.jt) * 4 + q % 4;
            return to.j0 + j < s.b ? j * s.d : 0;
        };
        ks_cuda::finish_sums<T, chunk>(finish, reinterpret_cast<S(&)[SIDE * SIDE]>(sum),
                                       (to.i * s.b + to.j0) * s.d + to.l0 + me.l, whose);
    }

    /* Runs of four neighbours, at once where they begin at a multiple of their size. */
    const int64_t run_step = LAST ? 1 : s.d, other_step = LAST ? s.d * s.batch : s.a * s.b * s.d;
    const int64_t run_end = LAST ? s.batch : s.b, other_end = LAST ? s.b : s.batch;
    const bool at_once =
        g.parts == 1 && run_step == 1 && run_end % 4 == 0 && reinterpret_cast<uintptr_t>(y) % (4 * sizeof(T)) == 0;
    T *const y_block = y + (LAST ? (to.i * s.b * s.d + to.l0 + me.l) * s.batch : to.i * s.b * s.d + to.l0 + me.l);
#pragma unroll
    for (int o = 0; o < SIDE; o++)
#pragma unroll
        for (int r = 0; r < SIDE; r += 4) {
            const int64_t other =
                LAST ? to.j0 + (o / 4 * g.jt + me.jt) * 4 + o % 4 : to.n0 + (o / 4 * g.nt + me.nt) * 4 + o % 4;
            const int64_t run = LAST ? to.n0 + (r / 4 * g.nt + me.nt) * 4 : to.j0 + (r / 4 * g.jt + me.jt) * 4;
            if (other >= other_end || run >= run_end) continue;
            T *const put = y_block + other * other_step + run * run_step;
            four<T> values;
#pragma unroll
            for (int q = 0; q < 4; q++) values.e[q] = static_cast<T>(LAST ? sum[r + q][o] : sum[o][r + q]);
            if (at_once) {
                *reinterpret_cast<four<T> *>(put) = values;
                continue;
            }
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int which = LAST ? (r + q) * SIDE + o : o * SIDE + r + q;
                const bool mine = SIDE != 4 || g.parts == 1 || which % g.parts == me.part;
                if (mine && run + q < run_end) put[q * run_step] = values.e[q];
            }
        }
}

/* ---- the row of the table --------------------------------------------------------------------------------------- */

template <typename T, int SIDE, int LEAST_BLOCKS>
cudaError_t launch(const ks_problem *p, const ks_run_args *args, const plan &g)
{
    const sizes s = {p->a, p->b, p->c, p->d, p->batch};
    const auto kernel =
        p->layout == KS_BATCH_LAST ? multiply<T, SIDE, true, LEAST_BLOCKS> : multiply<T, SIDE, false, LEAST_BLOCKS>;
    const auto finish = ks_cuda::epilogue_of<typename number<T>::sum>(args->epilogue);
    cudaError_t e = cudaSuccess;
    for (int64_t tile = 0; e == cudaSuccess && tile < g.tiles; tile += grid_most) /* one launch, below 2^31 tiles */
        e = ks_launch_early(args->device, kernel, (unsigned)ks_min(g.tiles - tile, grid_most), g.threads,
                            g.shared_bytes, args->stream, static_cast<const T *>(args->x),
                            static_cast<const T *>(args->k), static_cast<T *>(args->y), s, g, tile, finish);
    return e;
}

template <typename T> cudaError_t launch_float(const ks_problem *p, const ks_run_args *args, const plan &g)
{
    return g.large ? launch<T, 8, 2>(p, args, g) : launch<T, 4, 2>(p, args, g);
}

cudaError_t launch_type(const ks_problem *p, const ks_run_args *args, const plan &g)
{
    switch (p->type) {
    case KS_F16:
        return launch_float<__half>(p, args, g);
    case KS_BF16:
        return launch_float<__nv_bfloat16>(p, args, g);
    case KS_F64:
        return launch<double, 4, 1>(p, args, g);
    default:
        return launch_float<float>(p, args, g);
    }
}

bool supports(const ks_problem *, const ks_device *device)
{
    return device->backend == KS_CUDA;
}

size_t workspace_bytes(const ks_problem *, const ks_device *)
{
    return 0;
}

/* On chip a tile stages its X and its K once; X beyond the first tile along j comes from L2, and so does K beyond the
 * first along n. The 4 x 4 thread tile reads twice as much shared memory for each FMA: by a guess, a third more time. */
void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const plan g = make_plan(p, device);
    const double units = device->units > 0 ? device->units : 1, side = g.large ? 8 : 4;
    const double waves =
        g.tiles < 1000 * units ? (double)ks_ceil_div(g.tiles, (int64_t)units) : (double)g.tiles / units;
    const double slabs = (double)ks_ceil_div(p->c, g.slab), depth = slabs * g.slab;
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p);
    terms[KS_TERM_FLOPS] = 2 * waves * units * (double)g.bl * g.bn * g.bj * depth * (1 + 4 / side) / 1.5;
    /* Products of the half types are float32 FMAs, and what an uncalibrated model divides by is the tensor cores' rate: 15 to
     * 16 times that of FMAs on an A100 and an H100. */
    if (p->type == KS_F16 || p->type == KS_BF16) terms[KS_TERM_FLOPS] *= 15;
    terms[KS_TERM_SHUFFLE] = (double)g.tiles * g.bl * (g.bn + g.bj) * depth;
    terms[KS_TERM_CALLS] = waves * slabs;
}

ks_status run(const ks_problem *p, const ks_run_args *args)
{
    int previous;
    ks_status s = ks_cuda_aligned(p, args);
    if (s == KS_OK) s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    s = ks_cuda_status(launch_type(p, args, make_plan(p, args->device)), "launch of fused.cuda.simt");
    ks_cuda_leave(previous);
    return s;
}

} /* namespace */

extern "C" const ks_kernel ks_fused_cuda_simt = {"fused.cuda.simt", KS_FUSED,        KS_CUDA,    2,
                                                 supports,          workspace_bytes, cost_terms, run};
