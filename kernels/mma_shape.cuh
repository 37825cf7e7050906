/* The shapes of fused.cuda.mma: which tiles a kernel is compiled for, and how they lie in shared memory. fused_mma.cuh says why
 * they are so. */
#ifndef KS_MMA_SHAPE_CUH
#define KS_MMA_SHAPE_CUH

#include "epilogue.cuh"
#include "mma_tile.cuh"

namespace ks_mma
{

enum reader { WHOLE, VECTOR, LAST };

/* Filled in by make_plan() in fused_mma.cu. Offsets and pitches in bytes unless said otherwise. */
struct arguments {
    const char *x, *k;
    char *y;
    int64_t batch;
    int b, c, d;
    int64_t x_row, y_row; /* batch-first: from n to n + 1; batch-last: from k to k + 1, from j to j + 1 */
    int64_t units;        /* of one sibling: a * rounds * n_tiles */
    int64_t n_tiles;
    int j_tiles, siblings, teams, rounds; /* siblings * rounds = j_tiles * l_tiles */
    int slabs, stages;
    bool resident;
    bool wide_stores; /* rows of Y are aligned to 16 bytes */
    int staging;      /* where in shared memory results are staged, for shapes that do */
    ks_cuda::epilogue<float> finish;
};

/* T: type. D: WHOLE: the pattern's d. VECTOR: TL. LAST: 1. A warp computes 16*MT rows x 8*NT columns x LW l's; WN x WJ x WL
 * warps make a block. TK values of k make a slab. GROUP: four warps of neighbouring rows make a product together, which reads K
 * from shared memory by itself (wgmma: Hopper alone). */
template <class T_, reader READER_, int D_, int LW_, int MT_, int NT_, int WN_, int WJ_, int TK_, bool GROUP_ = false>
struct shape {
    using T = T_;
    static constexpr reader READER = READER_;
    static constexpr bool GROUP = GROUP_;
    static constexpr int size = T::size, D = D_, LW = LW_, MT = MT_, NT = NT_, WN = WN_, WJ = WJ_, TK = TK_;
    static constexpr int WL = D / LW, TL = D;
    static constexpr int KT = 8 / size, KS = 32 / size,
                         VL = 16 / size; /* k's of a lane, of a step; values of a chunk */
    static constexpr int threads = 32 * WN * WJ * WL;
    static constexpr int TN = 16 * MT * WN, TJ = 8 * NT * WJ;
    /* Neighbouring columns of how many products a lane gathers for its stores. */
    static constexpr int G = READER != WHOLE              ? 1
                             : NT % 4 == 0 && 8 * D <= VL ? 4
                             : NT % 2 == 0 && 4 * D <= VL ? 2
                                                          : 1;

    /* X in shared memory: `rows` rows (n; k in batch-last) of `row_chunks`, `x_pitch` apart. */
    static constexpr int rows = READER == LAST ? TK : TN;
    static constexpr int row_chunks = READER == LAST ? TN / VL : TK * TL / VL;
    static constexpr int k_chunks = TL * size / 16; /* VECTOR: chunks of one k */
    static constexpr int x_pitch = READER != WHOLE ? (LW * size >= 16 || READER == LAST ? row_chunks : row_chunks | 1)
                                   : D == 3 && row_chunks % 8 != 6 ? (row_chunks + 1) / 8 * 8 + 6
                                                                   : row_chunks;
    static constexpr int x_bytes = rows * x_pitch * 16;
    static constexpr int k_step_bytes = TL * TJ * 32;
    static constexpr int k_copies =
        GROUP ? T::parts : 1; /* K as it is, and what its rounding leaves (mma_group.cuh) */
    /* Where a lane's run of results is no power of two, the warp puts 8 rows of them together in shared memory first. */
    static constexpr bool STAGED = READER == WHOLE && D % 3 == 0;
    static constexpr int staged_row = 8 * NT * D * size, staged_pitch = staged_row + 16;
    static constexpr int staging_bytes = STAGED ? WN * WJ * WL * 8 * staged_pitch : 0;
    static constexpr int LC = READER == VECTOR && LW > VL ? VL : LW; /* l's that a lane reads at a time */
    /* Steps taken together: as many as the type likes, where their operands leave room for the results. */
    static constexpr int STEPS = TK / KS % T::steps == 0 && LC * MT <= 6 ? T::steps : 1;

    static_assert(D % LW == 0, "warps share the l's evenly");
    static_assert(!GROUP || (WN % 4 == 0 && LC == LW && x_bytes % 256 == 0),
                  "four warps share K, whose rows repeat every 256");
    static_assert(TK % KS == 0, "slabs of whole steps");
    static_assert(READER != WHOLE || LW == D, "a lane reads all l's");
    static_assert(READER != LAST || MT % (VL / 2) == 0, "a lane reads whole chunks of n's");
    static_assert(row_chunks * VL == (READER == LAST ? TN : TK * TL), "rows of whole chunks");
    static_assert(READER != WHOLE || D == 3 || x_pitch % 4 == 0, "swizzles stay within rows");

    /* Value q of lane t of a step is that of which k, and which lane has k: 8 bytes of k in a row for each lane, or for GROUP as
     * the hardware counts, since there it reads K. */
    static __device__ __forceinline__ int k_of(int t, int q)
    {
        if constexpr (!GROUP) return KT * t + q;
        return size == 2 ? q / 2 * 8 + 2 * t + q % 2 : q * 4 + t;
    }
    static __device__ __forceinline__ int quarter(int k)
    {
        return (GROUP ? k / (KT / 2) : k / KT) % 4;
    }
    /* What is exclusive-ored to the number of a chunk of row r, of a k that is lane t's. */
    static __device__ __forceinline__ int x_swizzle(int r, int t)
    {
        if constexpr (READER == LAST) return t << 1;
        if constexpr (READER == WHOLE && GROUP) { /* D words at a time */
            if constexpr (x_pitch % 8 != 0) return 0;
            if constexpr (D == 1) return r & 7;
            return D == 4 ? (r & 1) << 2 : (r & 3) << 1;
        } else if constexpr (READER == WHOLE) {
            if constexpr (D == 1) return x_pitch % 8 == 0 ? (r & 3) << 1 : x_pitch % 8 == 4 ? r & 2 : 0;
            if constexpr (D == 2 || D == 6) return x_pitch % 8 == 0 ? (r & 1) << 2 : 0;
            if constexpr (D == 4) return r & 1;
            return 0;
        } else {
            constexpr int lane_chunks = (GROUP ? KT / 2 : KT) * k_chunks; /* from one lane's k to the next one's */
            if constexpr (LW * size < 16) return 0;
            if constexpr (lane_chunks == 1) return (r & 1) << 2;
            if constexpr (lane_chunks == 2) return r & 1;
            if constexpr (lane_chunks == 4) return (t >> 1) | (r & 1) << 1;
            return t | (r & 1) << 2;
        }
    }
    /* Which j, from the warp's first, column c of product `tile` stands for; and the way back, to tile * 8 + c. In VECTOR
     * mode a store takes one column of each lane t, so there the columns of one parity are neighbours. */
    static __device__ __forceinline__ int column(int tile, int c)
    {
        if constexpr (READER == VECTOR) return tile * 8 + (c & 1) * 4 + (c >> 1);
        return tile / G * 8 * G + (c >> 1) * 2 * G + tile % G * 2 + (c & 1);
    }
    static __device__ __forceinline__ int place(int j)
    {
        if constexpr (READER == VECTOR) return (j & ~7) + (j & 3) * 2 + (j >> 2 & 1);
        const int group = j / (8 * G), in_group = j % (8 * G);
        return (group * G + in_group % (2 * G) / 2) * 8 + in_group / (2 * G) * 2 + (j & 1);
    }
    static __device__ __forceinline__ int block_place(int j) /* of any of the block's j's */
    {
        return j / (8 * NT) * (8 * NT) + place(j % (8 * NT));
    }
    /* Where half h of the 32 bytes of k lies of the column at place j, from the step's and l's first. GROUP: as its 32-byte
     * swizzle has it. */
    static __device__ __forceinline__ int k_offset(int j, int h)
    {
        return j * 32 + (GROUP ? h ^ (j >> 2 & 1) : h) * 16;
    }
};

} // namespace ks_mma

#endif
