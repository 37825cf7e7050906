/* The permutations of bmm.cuda.permute.
 *
 *     batch-first    outer (n, i, row, l)  <->  blocks (i, l, n, row)      a transposition in pieces
 *     batch-last     outer (i, row, l, n)  <->  blocks (i, l, row, n)      a move of whole runs of n
 *
 * Both are bound by memory, so all that counts is that every sector of 32 bytes is moved once, whole, with enough of them
 * under way. In batch-first the outer side is contiguous along (row, l) and the blocks' side along (n, row), so a tile
 * spans all three: n samples x k rows x all or a run of the l's, 16 KB or less, through shared memory. Where d is small
 * the tile takes all l's and the outer run is k*d long; where there are few rows it takes all of them and the blocks' run
 * is n*rows long. A tile of two dimensions, the textbook's transposition, has runs of 2 elements for d = 2.
 *
 * Global accesses are of 16 bytes where every run begins and ends at a multiple of that, else of one element; those to
 * shared memory are of one element, of which a multiprocessor moves ten times what memory asks for. */
#include "permute.h"
#include "cuda_device.h"
#include "launch.cuh"
#include "split.cuh"

#include <cuda_runtime.h>

namespace
{

constexpr int threads = 256, ahead = 4, shared_most = 16 << 10, wide = 16;
constexpr int64_t grid_most = INT32_MAX;

/* Division by a number fixed at launch, exact for values below 2^16. */
struct divisor {
    unsigned by, magic;
};

divisor make_divisor(int64_t by)
{
    return {(unsigned)by, by > 1 ? (unsigned)(((UINT64_C(1) << 32) + (uint64_t)by - 1) / (uint64_t)by) : 0};
}

__device__ __forceinline__ unsigned quotient(unsigned value, divisor d)
{
    return d.by > 1 ? __umulhi(value, d.magic) : value;
}

template <typename E, int V> struct alignas(sizeof(E) * V) vec {
    E e[V];
};

/* ---- batch-first ------------------------------------------------------------------------------------------------ */

struct tiling {
    int64_t a, rows, d, batch; /* the array */
    int n, k, l;               /* the tile: samples, rows, l's */
    int l_pitch, n_pitch;      /* shared element (n, k, l) is at n * n_pitch + l * l_pitch + k */
    int64_t n_tiles, k_tiles, l_tiles, tiles;
    bool all_l, all_k;              /* whether a run on the outer, on the blocks' side goes on over l, over k */
    divisor outer_run, outer_split; /* vectors a run; what splits the run's number or the place in it */
    divisor block_run, block_split;
    unsigned outer_count, block_count; /* vectors of a tile */
};

/* A place in the tile. */
struct place {
    int n, k, l;
};

template <int V> __device__ __forceinline__ place outer_place(const tiling &t, unsigned v)
{
    const unsigned run = quotient(v, t.outer_run), at = (v - run * t.outer_run.by) * V;
    if (t.all_l) {
        const unsigned k = quotient(at, t.outer_split);
        return {(int)run, (int)k, (int)(at - k * t.outer_split.by)};
    }
    const unsigned n = quotient(run, t.outer_split);
    return {(int)n, (int)(run - n * t.outer_split.by), (int)at};
}

template <int V> __device__ __forceinline__ place block_place(const tiling &t, unsigned v)
{
    const unsigned run = quotient(v, t.block_run), at = (v - run * t.block_run.by) * V;
    if (t.all_k) {
        const unsigned n = quotient(at, t.block_split);
        return {(int)n, (int)(at - n * t.block_split.by), (int)run};
    }
    const unsigned l = quotient(run, t.block_split);
    return {(int)(run - l * t.block_split.by), (int)at, (int)l};
}

/* The V elements from a place on, in the order of one side, between registers and shared memory. */
template <bool OUTER, bool STORE, typename E, int V>
__device__ __forceinline__ void shared_move(const tiling &t, E *tile, place p, vec<E, V> &data)
{
    int at = p.n * t.n_pitch + p.l * t.l_pitch + p.k, left = OUTER ? t.l - p.l : t.k - p.k;
    const int step = OUTER ? t.l_pitch : 1, turn = OUTER ? 1 - t.l * t.l_pitch : t.n_pitch - t.k;
#pragma unroll
    for (int q = 0; q < V; q++) {
        if (STORE)
            tile[at] = data.e[q];
        else
            data.e[q] = tile[at];
        at += step;
        if (--left == 0) at += turn, left = OUTER ? t.l : t.k;
    }
}

/* VO, VB: elements of one global access on the outer and on the blocks' side. */
template <typename E, int VO, int VB, bool INWARD>
__global__ void __launch_bounds__(threads) permute_tiles(const E *__restrict__ from, E *__restrict__ to, tiling t)
{
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int VF = INWARD ? VO : VB, VT = INWARD ? VB : VO;
    E *tile = reinterpret_cast<E *>(shared);
    ks_cuda::await_earlier();
    for (int64_t index = blockIdx.x; index < t.tiles; index += gridDim.x) {
        int64_t rest = index;
        const int64_t l0 = split_off(rest, t.l_tiles) * t.l, k0 = split_off(rest, t.k_tiles) * t.k;
        const int64_t i = split_off(rest, t.a), n0 = rest * t.n;
        const int64_t n_left = t.batch - n0, k_left = t.rows - k0, l_left = t.d - l0;
        const int64_t outer_at = ((n0 * t.a + i) * t.rows + k0) * t.d + l0, outer_n = t.a * t.rows * t.d;
        const int64_t block_at = ((i * t.d + l0) * t.batch + n0) * t.rows + k0, block_l = t.batch * t.rows;
        const auto place_at = [&](bool outer, unsigned v) {
            return outer ? outer_place<VO>(t, v) : block_place<VB>(t, v);
        };
        const auto inside = [&](place p) { return p.n < n_left && p.k < k_left && p.l < l_left; };
        const auto offset = [&](bool outer, place p) {
            return outer ? outer_at + p.n * outer_n + p.k * t.d + p.l : block_at + p.l * block_l + p.n * t.rows + p.k;
        };

        const unsigned in_count = INWARD ? t.outer_count : t.block_count;
        for (unsigned v0 = threadIdx.x; v0 < in_count; v0 += threads * ahead) {
            vec<E, VF> data[ahead];
            place p[ahead];
            bool there[ahead];
#pragma unroll
            for (int u = 0; u < ahead; u++) {
                const unsigned v = v0 + u * threads;
                p[u] = place_at(INWARD, v);
                there[u] = v < in_count && inside(p[u]);
                if (there[u]) data[u] = *reinterpret_cast<const vec<E, VF> *>(from + offset(INWARD, p[u]));
            }
#pragma unroll
            for (int u = 0; u < ahead; u++)
                if (there[u]) shared_move<INWARD, true>(t, tile, p[u], data[u]);
        }
        __syncthreads();
        const unsigned out_count = INWARD ? t.block_count : t.outer_count;
        for (unsigned v = threadIdx.x; v < out_count; v += threads) {
            const place p = place_at(!INWARD, v);
            if (!inside(p)) continue;
            vec<E, VT> data;
            shared_move<!INWARD, false>(t, tile, p, data);
            *reinterpret_cast<vec<E, VT> *>(to + offset(!INWARD, p)) = data;
        }
        __syncthreads();
    }
}

/* size cut into the fewest parts of at most `most`, even ones, each a multiple of `grain`. */
int64_t part(int64_t size, int64_t most, int64_t grain)
{
    if (size <= most) return size;
    return ks_ceil_div(ks_ceil_div(size, ks_ceil_div(size, most)), grain) * grain;
}

/* Runs of 128 bytes on both sides, or the whole where that is shorter than two of them; then as many samples as fit. The
 * pitch of l is an odd multiple of s words: the lanes that write neighbouring l's, s rows of each, hit as many banks. */
tiling make_tiling(const ks_problem *p, int64_t rows, size_t size, size_t *shared_bytes)
{
    tiling t = {};
    const int64_t line = 128 / (int64_t)size, grain = wide / (int64_t)size;
    t.a = p->a, t.rows = rows, t.d = p->d, t.batch = p->batch;
    t.l = (int)(t.d <= line ? t.d : part(t.d, line, grain));
    t.k = (int)(rows <= line ? rows : part(rows, line, grain));
    t.all_l = t.l == t.d, t.all_k = t.k == rows;

    const int64_t word = size < 4 ? 4 : (int64_t)size;
    int64_t s = 1;
    while (s < 8 && t.l * s < 128 / word) s *= 2;
    const int64_t words = ks_ceil_div(ks_ceil_div(t.k * (int64_t)size, word), s);
    t.l_pitch = (int)((words | 1) * s * (word / (int64_t)size));
    if (t.l == 1) t.l_pitch = t.k;
    t.n_pitch = t.l * t.l_pitch;
    const int64_t fit = shared_most / ((int64_t)t.n_pitch * (int64_t)size);
    t.n = (int)(fit < 1 ? 1 : fit > 512 ? 512 : fit);
    if (t.n > grain) t.n = (int)(t.n / grain * grain); /* so that runs over whole samples stay wide */
    if (t.n > t.batch) t.n = (int)t.batch;
    t.n_tiles = ks_ceil_div(t.batch, t.n), t.k_tiles = ks_ceil_div(rows, t.k), t.l_tiles = ks_ceil_div(t.d, t.l);
    t.tiles = t.a * t.n_tiles * t.k_tiles * t.l_tiles;
    *shared_bytes = (size_t)t.n * (size_t)t.n_pitch * size;
    return t;
}

bool aligned(const void *pointer)
{
    return (uintptr_t)pointer % wide == 0;
}

template <typename E>
ks_status permute_first(const ks_device *device, const ks_problem *p, bool inward, int64_t rows, const void *from,
                        void *to, void *stream)
{
    constexpr int V = wide / (int)sizeof(E);
    size_t shared_bytes;
    tiling t = make_tiling(p, rows, sizeof(E), &shared_bytes);
    const void *outer = inward ? from : to, *blocks = inward ? to : from;
    const bool outer_wide = aligned(outer) && (t.all_l ? rows * t.d % V == 0 && (int64_t)t.k * t.d % V == 0
                                                       : t.d % V == 0 && t.l % V == 0);
    const bool block_wide = aligned(blocks) && (t.all_k ? t.batch * rows % V == 0 && (int64_t)t.n * rows % V == 0
                                                        : rows % V == 0 && t.k % V == 0);
    const int vo = outer_wide ? V : 1, vb = block_wide ? V : 1;
    const int64_t outer_run = (t.all_l ? (int64_t)t.k * t.l : t.l) / vo,
                  block_run = (t.all_k ? (int64_t)t.n * t.k : t.k) / vb;
    t.outer_run = make_divisor(outer_run), t.outer_split = make_divisor(t.all_l ? t.l : t.k);
    t.block_run = make_divisor(block_run), t.block_split = make_divisor(t.all_k ? t.k : t.n);
    t.outer_count = (unsigned)(outer_run * t.n * (t.all_l ? 1 : t.k));
    t.block_count = (unsigned)(block_run * t.l * (t.all_k ? 1 : t.n));

    using kernel = void (*)(const E *, E *, tiling);
    const kernel kernels[2][2][2] = {
        {{permute_tiles<E, 1, 1, false>, permute_tiles<E, 1, V, false>},
         {permute_tiles<E, V, 1, false>, permute_tiles<E, V, V, false>}},
        {{permute_tiles<E, 1, 1, true>, permute_tiles<E, 1, V, true>},
         {permute_tiles<E, V, 1, true>, permute_tiles<E, V, V, true>}},
    };
    const unsigned grid = (unsigned)(t.tiles < grid_most ? t.tiles : grid_most);
    return ks_cuda_status(ks_launch_early(device, kernels[inward][outer_wide][block_wide], grid, threads,
                                          (int64_t)shared_bytes, stream, static_cast<const E *>(from),
                                          static_cast<E *>(to), t),
                          "launch of a permutation");
}

/* ---- batch-last ------------------------------------------------------------------------------------------------- */

/* Tiles of `runs` runs by `chunk` units: many short runs, or a piece of a long one. */
struct run_tiling {
    int64_t rows, d, units, runs_total, tiles, chunks;
    int runs;
    divisor chunk;
    unsigned count;
};

template <typename E, bool INWARD>
__global__ void __launch_bounds__(threads) permute_runs(const E *__restrict__ from, E *__restrict__ to, run_tiling t)
{
    ks_cuda::await_earlier();
    for (int64_t index = blockIdx.x; index < t.tiles; index += gridDim.x) {
        int64_t rest = index;
        const int64_t u0 = split_off(rest, t.chunks) * t.chunk.by, r0 = rest * t.runs;
        for (unsigned v0 = threadIdx.x; v0 < t.count; v0 += threads * ahead) {
            E data[ahead];
            int64_t at[ahead];
#pragma unroll
            for (int q = 0; q < ahead; q++) {
                const unsigned v = v0 + q * threads, r = quotient(v, t.chunk), u = v - r * t.chunk.by;
                at[q] = -1;
                if (v >= t.count || r0 + r >= t.runs_total || u0 + u >= t.units) continue;
                /* Runs are walked as they lie in `to`: (i, l, row) inward, (i, row, l) outward. */
                int64_t i = r0 + r;
                const int64_t fast = split_off(i, INWARD ? t.rows : t.d), slow = split_off(i, INWARD ? t.d : t.rows);
                const int64_t source = (i * (INWARD ? t.rows : t.d) + fast) * (INWARD ? t.d : t.rows) + slow;
                data[q] = from[source * t.units + u0 + u];
                at[q] = (r0 + r) * t.units + u0 + u;
            }
#pragma unroll
            for (int q = 0; q < ahead; q++)
                if (at[q] >= 0) to[at[q]] = data[q];
        }
    }
}

template <typename E>
ks_status permute_last(const ks_device *device, const ks_problem *p, bool inward, int64_t rows, const void *from,
                       void *to, void *stream)
{
    constexpr int64_t tile_units = threads * ahead * 2;
    run_tiling t = {};
    t.rows = rows, t.d = p->d, t.runs_total = p->a * rows * p->d;
    t.units = p->batch * (int64_t)ks_type_bytes(p->type) / (int64_t)sizeof(E);
    const int64_t chunk = t.units < tile_units ? t.units : tile_units;
    t.chunk = make_divisor(chunk);
    t.runs = (int)(tile_units / chunk);
    t.count = (unsigned)(t.runs * chunk);
    t.chunks = ks_ceil_div(t.units, chunk);
    t.tiles = t.chunks * ks_ceil_div(t.runs_total, t.runs);
    const unsigned grid = (unsigned)(t.tiles < grid_most ? t.tiles : grid_most);
    return ks_cuda_status(ks_launch_early(device, inward ? permute_runs<E, true> : permute_runs<E, false>, grid,
                                          threads, 0, stream, static_cast<const E *>(from), static_cast<E *>(to), t),
                          "launch of a permutation");
}

/* ---- pointers --------------------------------------------------------------------------------------------------- */

struct pointer_job {
    ks_block_view view[3];
    int64_t a, d;
};

__global__ void __launch_bounds__(threads) write_pointers(pointer_job g, const void **pointers)
{
    const int64_t blocks = g.a * g.d;
    ks_cuda::await_earlier();
    for (int64_t b = (int64_t)blockIdx.x * threads + threadIdx.x; b < blocks; b += (int64_t)gridDim.x * threads) {
        int64_t i = b;
        const int64_t l = split_off(i, g.d);
#pragma unroll
        for (int v = 0; v < 3; v++)
            pointers[v * blocks + b] =
                static_cast<const char *>(g.view[v].base) + i * g.view[v].i_step + l * g.view[v].l_step;
    }
}

} /* namespace */

ks_status ks_permute_first(const ks_device *device, const ks_problem *p, bool inward, int64_t rows, const void *from,
                           void *to, void *stream)
{
    switch (ks_type_bytes(p->type)) {
    case 2:
        return permute_first<uint16_t>(device, p, inward, rows, from, to, stream);
    case 4:
        return permute_first<uint32_t>(device, p, inward, rows, from, to, stream);
    default:
        return permute_first<uint64_t>(device, p, inward, rows, from, to, stream);
    }
}

ks_status ks_permute_last(const ks_device *device, const ks_problem *p, bool inward, int64_t rows, const void *from,
                          void *to, void *stream)
{
    /* The widest unit that begins and ends with every run. */
    const uint64_t places = (uintptr_t)from | (uintptr_t)to | (uint64_t)p->batch * ks_type_bytes(p->type);
    if (places % 16 == 0) return permute_last<uint4>(device, p, inward, rows, from, to, stream);
    if (places % 8 == 0) return permute_last<uint64_t>(device, p, inward, rows, from, to, stream);
    if (places % 4 == 0) return permute_last<uint32_t>(device, p, inward, rows, from, to, stream);
    return permute_last<uint16_t>(device, p, inward, rows, from, to, stream);
}

ks_status ks_block_pointers(const ks_device *device, const ks_block_view views[3], int64_t a, int64_t d,
                            const void **pointers, void *stream)
{
    const pointer_job g = {{views[0], views[1], views[2]}, a, d};
    const int64_t grid = ks_ceil_div(a * d, threads);
    return ks_cuda_status(ks_launch_early(device, write_pointers, (unsigned)(grid < grid_most ? grid : grid_most),
                                          threads, 0, stream, g, pointers),
                          "launch of the pointers");
}
