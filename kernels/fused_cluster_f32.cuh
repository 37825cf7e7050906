/* fused.cuda.cluster for float32: three products of TF32 for one. See fused_cluster.cuh, which includes this. */
#ifndef KS_FUSED_CLUSTER_F32_CUH
#define KS_FUSED_CLUSTER_F32_CUH

namespace ks_cluster
{

/* 8 k's of LS l's, the number'th 16 bytes of them, raw: a[l]. Half of the lanes take the second four k's first where all of
 * them would meet in the same banks. */
template <class S, int LS>
__device__ __forceinline__ void read_floats(uint32_t (&a)[LS][4], const char *xs, int step, int number, int row,
                                            int g, int t)
{
    constexpr int piece = LS % 4 == 0 ? 4 : LS % 2 == 0 ? 2 : 1;
    const int turned = S::RUN || S::L == 4 ? g % 2 : 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t w[2][LS];
#pragma unroll
        for (int q = 0; q < 2; q++)
#pragma unroll
            for (int v = 0; v < LS / piece; v++)
                ks_mma::load_words<piece>(w[q] + piece * v,
                                          xs + S::x_at(row + r * 8, step * 8 + (q ^ turned) * 4 + t, number) +
                                              4 * piece * v);
#pragma unroll
        for (int l = 0; l < LS; l++) {
            a[l][r] = turned ? w[1][l] : w[0][l];
            a[l][r + 2] = turned ? w[0][l] : w[1][l];
        }
    }
}

/* What TF32 leaves of 16 bytes of K, rounded in its turn: the tensor cores will cut it. */
__device__ __forceinline__ void write_rest(char *rest, const char *k)
{
    uint32_t w[4];
    ks_mma::load_words<4>(w, k);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float left = __uint_as_float(w[i]) - __uint_as_float(w[i] & 0xffffe000);
        w[i] = __float_as_uint(left) + (left == left ? 0x1000 : 0); /* a NaN stays one */
    }
    *reinterpret_cast<uint4 *>(rest) = make_uint4(w[0], w[1], w[2], w[3]);
}

/* The warps that split K. */
template <class S> __device__ __forceinline__ void split(const arguments &p, char *stages, const barriers &ring)
{
    const int own = threadIdx.x - (THREADS - SPLITTERS);
    const unsigned blocks = static_cast<unsigned>(p.across * p.down);
    place now = {0, 0};
    for (unsigned unit = blockIdx.x / blocks; unit < p.units; unit += gridDim.x / blocks)
        for (int slab = 0; slab < p.slabs; slab++) {
            barrier_wait(ring.full + now.slot * 8, now.phase);
            char *const k = stages + now.slot * S::stage_bytes + S::x_bytes;
#pragma unroll 2
            for (int at = own * 16; at < S::k_bytes; at += SPLITTERS * 16) write_rest(k + S::k_bytes + at, k + at);
            ks_mma::group_publish();
            __syncwarp();
            if (own % 32 == 0) barrier_arrive(remote_address(ring.split + now.slot * 8, cluster_rank()));
            now.next(p.stages);
        }
}

/* acc[l] = X * K^T over all slabs of a unit, float32. done(slot): this warp is. */
template <class S, class F>
__device__ __forceinline__ void sum_exact(const arguments &p, float (&acc)[S::L][S::NT][4], const char *stages,
                                          const barriers &ring, place &now, int row, int group, int g, int t,
                                          const F &done)
{
    using T = typename S::T;
    constexpr int B = S::buffers, AHEAD = B - 1, COUNT = S::STEPS * S::L; /* of the sums of a slab */
    constexpr int LS = S::L == 8 ? 4 : S::L;                              /* l's whose X is read at a time */
    float sum[B][S::NT][4];
#pragma unroll
    for (int e = 0; e < S::L * S::NT * 4; e++) (&acc[0][0][0])[e] = 0;
#pragma unroll
    for (int e = 0; e < B * S::NT * 4; e++) (&sum[0][0][0])[e] = 0;
    /* The compiler is not to know that a sum starts anew: it would give each registers of its own. */
    const int never = p.slabs < 0;
#pragma unroll 1
    for (int slab = 0; slab < p.slabs; slab++) {
        barrier_wait(ring.full + now.slot * 8, now.phase);
        barrier_wait(ring.split + now.slot * 8, now.phase);
        const char *const xs = stages + now.slot * S::stage_bytes;
        const uint64_t k0 = k_operand<S::k_row>(xs + S::x_bytes + (S::HALVES ? group * S::L * S::N * S::k_row : 0));
        typename T::template operand<4> x[B];
        uint32_t a[LS][4];
        const auto add = [&](int number) {
            ks_mma::group_hold(sum[number % B]);
#pragma unroll
            for (int e = 0; e < S::NT * 4; e++) acc[number % S::L][e / 4][e % 4] += sum[number % B][e / 4][e % 4];
        };
#pragma unroll
        for (int number = 0; number < COUNT; number++) {
            const int l = number % S::L, step = number / S::L, here = number % B;
            const uint64_t k = k0 + ((l * S::N * S::k_row + step * 32) >> 4), rest = k + (S::k_bytes >> 4);
            if (l % LS == 0) read_floats<S>(a, xs, step, (S::HALVES ? group * 2 : 0) + l / LS, row, g, t);
            x[here].set(a[l % LS]);
            ks_mma::group_fence();
            ks_mma::group_product<S::NT, ks_mma::ASKED>(T(), sum[here], x[here].low, k, never);
            ks_mma::group_product<S::NT, ks_mma::ALWAYS>(T(), sum[here], x[here].high, rest);
            ks_mma::group_product<S::NT, ks_mma::ALWAYS>(T(), sum[here], x[here].high, k);
            ks_mma::group_commit();
            if (number < AHEAD) continue;
            ks_mma::group_wait<AHEAD>();
            add(number - AHEAD);
        }
        if (AHEAD) {
            ks_mma::group_wait<0>();
            add(COUNT - 1);
        }
        done(now.slot);
        now.next(p.stages);
    }
}

/* Takes the NaNs among this lane's outputs anew, in float32 by ordinary units: splitting an infinite operand makes a NaN that
 * may not belong in the sum. Rare, so kept out of the way of the registers. row: the lane's first, in the tile. */
template <class S> __device__ __noinline__ void rescue(const arguments &p, const corner &at, int row, int l0, int t)
{
#pragma unroll 1
    for (int number = 0; number < S::L * S::NT * 4; number++) {
        const int e = number % 4, c = number / 4 % S::NT, l = at.l + l0 + number / (4 * S::NT);
        const int n = at.n + row + e / 2 * 8, j = at.j + c * 8 + 2 * t + e % 2;
        if (n >= p.batch || j >= p.b || l >= p.d) continue;
        float *const y = p.y_at + n * p.y_row + (static_cast<int64_t>(at.i) * p.b + j) * p.d + l;
        if (*y == *y) continue;
        const float *const x = p.x_at + n * p.x_row + static_cast<int64_t>(at.i) * p.c * p.d + l;
        const float *const k = p.k_at + ((static_cast<int64_t>(at.i) * p.d + l) * p.b + j) * p.c;
        float sum = 0;
#pragma unroll 1
        for (int q = 0; q < p.c; q++) sum = fmaf(x[static_cast<int64_t>(q) * p.d], k[q], sum);
        *y = p.finish.asked
                 ? ks_cuda::finished<float>(p.finish, sum, (static_cast<int64_t>(at.i) * p.b + j) * p.d + l)
                 : sum;
    }
}

} // namespace ks_cluster

#endif
