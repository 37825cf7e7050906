/* The core of fused.cpu: pack a tile of X, multiply it in registers, write the tile of Y.
 *
 * One idea serves every layout and type: the batch runs along the vector lanes. A tile of X is packed once into cache
 * as [block][k][sample] in the type of the sums; then the register tile multiplies a run of rows of K, broadcast value
 * by value straight from their b x c block (block order needs no packing), with vectors of samples. Batch-last data
 * already runs along the samples, so packing is a copy; batch-first data is transposed in registers, vector by vector,
 * on the way in and on the way out, which hides behind memory. The layout, d, and the element type exist only in pack
 * and unpack; the register tile is one function.
 *
 * Dropped: vectors along l (needs d >= 16 and weights in another order); vectors along b (weights transposed in every
 * call, a loss at small batch); copying K into panels (K's rows are short and re-read from L1 and L2 anyway).
 *
 * Compiled once per instruction set (the vector's width follows the compiler's target) and, with KS_CORE_F64, once more
 * for float64 sums. Vectors are the compilers' vector extension; only transposes and half conversions name intrinsics. */
#include "fused_core.h"
#include "half.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#    include <immintrin.h>
#endif

#ifdef KS_CORE_F64
typedef double real;
#else
typedef float real;
#endif

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, ROWS = 8 };
#    define ISA avx512
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, ROWS = 4 };
#    define ISA avx2
#else
enum { VECTOR_BYTES = 16, ROWS = 4 };
#    define ISA portable
#endif

enum { LANES = VECTOR_BYTES / sizeof(real) };
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_u __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));

_Static_assert((int)ROWS <= (int)KS_FUSED_MAX_ROWS, "the driver sizes its tiles by KS_FUSED_MAX_ROWS");

#define INLINE static inline __attribute__((always_inline))

/* ---- the register tile -------------------------------------------------------------------------------------- */

/* C[r][.] (+)= sum over q < count of K[r][q] * X[q][.]   for r < rows; X and C rows are vecs vectors, C's rows `ldc`
 * apart, K's `ldk`. rows and vecs are constants after inlining, so `acc` lives in registers. */
INLINE void tile(const int rows, const int vecs, const real *restrict k, int64_t ldk, const vec *restrict x,
                 int64_t count, real *restrict c, int64_t ldc, bool add)
{
    vec acc[ROWS][KS_FUSED_MAX_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] = add ? *(const vec *)(c + r * ldc + v * LANES) : (vec){0};
    for (int64_t q = 0; q < count; q++, x += vecs) {
        vec xv[KS_FUSED_MAX_VECS];
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) xv[v] = x[v];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const real w = k[r * ldk + q];
#pragma GCC unroll 3
            for (int v = 0; v < vecs; v++) acc[r][v] += xv[v] * w;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) *(vec *)(c + r * ldc + v * LANES) = acc[r][v];
}

typedef void tile_function(const real *k, int64_t ldk, const vec *x, int64_t count, real *c, int64_t ldc, bool add);

#define TILE(rows, vecs)                                                                                             \
    static void tile_##rows##x##vecs(const real *k, int64_t ldk, const vec *x, int64_t count, real *c, int64_t ldc,  \
                                     bool add)                                                                       \
    {                                                                                                                \
        tile(rows, vecs, k, ldk, x, count, c, ldc, add);                                                             \
    }
#define TILE_ROW(rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3)
TILE_ROW(1)
TILE_ROW(2)
TILE_ROW(3) TILE_ROW(4)
#if defined(__AVX512F__)
    TILE_ROW(5) TILE_ROW(6) TILE_ROW(7) TILE_ROW(8)
#endif

        static tile_function *const tiles[ROWS][KS_FUSED_MAX_VECS] = {
            {tile_1x1, tile_1x2, tile_1x3}, {tile_2x1, tile_2x2, tile_2x3},
            {tile_3x1, tile_3x2, tile_3x3}, {tile_4x1, tile_4x2, tile_4x3},
#if defined(__AVX512F__)
            {tile_5x1, tile_5x2, tile_5x3}, {tile_6x1, tile_6x2, tile_6x3},
            {tile_7x1, tile_7x2, tile_7x3}, {tile_8x1, tile_8x2, tile_8x3},
#endif
};

/* ---- elements of the problem's type <-> real ---------------------------------------------------------------- */

INLINE real widen_one(ks_type type, const char *at)
{
    uint16_t half;
    real value;
    switch (type) {
    case KS_F16:
        memcpy(&half, at, 2);
        return (real)ks_f16_to_f32(half);
    case KS_BF16:
        memcpy(&half, at, 2);
        return (real)ks_bf16_to_f32(half);
    default:
        memcpy(&value, at, sizeof value);
        return value;
    }
}

INLINE void narrow_one(ks_type type, char *at, real value)
{
    uint16_t half;
    switch (type) {
    case KS_F16:
        half = ks_f32_to_f16((float)value), memcpy(at, &half, 2);
        break;
    case KS_BF16:
        half = ks_f32_to_bf16((float)value), memcpy(at, &half, 2);
        break;
    default:
        memcpy(at, &value, sizeof value);
        break;
    }
}

/* LANES elements at any alignment. */
INLINE vec widen(ks_type type, const char *at)
{
#if !defined(KS_CORE_F64) && defined(__AVX512F__)
    if (type == KS_F16) return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
    if (type == KS_BF16)
        return (vec)_mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16));
#elif !defined(KS_CORE_F64) && defined(__AVX2__)
    if (type == KS_F16) return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
    if (type == KS_BF16)
        return (vec)_mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)), 16));
#endif
    if (type == KS_F32 || type == KS_F64) return *(const vec_u *)at;
    vec value;
    for (int i = 0; i < LANES; i++) value[i] = widen_one(type, at + 2 * i);
    return value;
}

INLINE void narrow(ks_type type, char *at, vec value)
{
#if !defined(KS_CORE_F64) && (defined(__AVX512F__) || defined(__AVX2__))
    if (type == KS_BF16) { /* ks_f32_to_bf16, a vector at a time */
#    if defined(__AVX512F__)
        __m512i bits = _mm512_castps_si512((__m512)value);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        __mmask16 nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
        rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        _mm256_storeu_si256((__m256i *)at, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#    else
        __m256i bits = _mm256_castps_si256((__m256)value);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps((__m256)value, (__m256)value, _CMP_UNORD_Q));
        rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
        rounded = _mm256_srli_epi32(rounded, 16);
        __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
        _mm_storeu_si128((__m128i *)at, packed);
#    endif
        return;
    }
    if (type == KS_F16) {
#    if defined(__AVX512F__)
        _mm256_storeu_si256((__m256i *)at, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
#    else
        _mm_storeu_si128((__m128i *)at, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#    endif
        return;
    }
#endif
    if (type == KS_F32 || type == KS_F64)
        *(vec_u *)at = value;
    else
        for (int i = 0; i < LANES; i++) narrow_one(type, at + 2 * i, value[i]);
}

/* A whole vector of F32 or F64, aligned, past the caches. */
INLINE void stream(char *at, vec value)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)at, (__m512i)value);
#elif defined(__AVX2__)
    _mm256_stream_si256((void *)at, (__m256i)value);
#else
    *(vec *)(void *)at = value;
#endif
}

/* The first `count` <= LANES elements; the other lanes are 0. */
INLINE vec widen_some(ks_type type, const char *at, int64_t count, size_t size)
{
    if (count >= LANES) return widen(type, at);
    vec value = {0};
    for (int64_t i = 0; i < count; i++) value[i] = widen_one(type, at + (size_t)i * size);
    return value;
}

INLINE void narrow_some(ks_type type, char *at, vec value, int64_t count, size_t size)
{
    if (count >= LANES)
        narrow(type, at, value);
    else
        for (int64_t i = 0; i < count; i++) narrow_one(type, at + (size_t)i * size, value[i]);
}

/* A LANES x LANES transpose in registers. */
INLINE void transpose(vec m[LANES])
{
#if !defined(KS_CORE_F64) && defined(__AVX512F__)
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps((__m512)m[i], (__m512)m[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps((__m512)m[i], (__m512)m[i + 1]);
    }
    __m512 u[16];
    for (int i = 0; i < 16; i += 4) {
        u[i] = (__m512)_mm512_unpacklo_pd((__m512d)t[i], (__m512d)t[i + 2]);
        u[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[i], (__m512d)t[i + 2]);
        u[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
        u[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[i + 1], (__m512d)t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        m[i] = (vec)_mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        m[i + 8] = (vec)_mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
#elif !defined(KS_CORE_F64) && defined(__AVX2__)
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps((__m256)m[i], (__m256)m[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps((__m256)m[i], (__m256)m[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        m[i] = (vec)_mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        m[i + 4] = (vec)_mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            real swap = m[i][j];
            m[i][j] = m[j][i];
            m[j][i] = swap;
        }
#endif
}

/* ---- one task ------------------------------------------------------------------------------------------------ */

/* A task's piece of the problem: blocks (i0.., l0..), samples n0.., after cutting at the edges. */
typedef struct piece {
    const ks_problem *p;
    size_t size;            /* bytes of an element */
    int64_t i0, ig, l0, lg; /* blocks = ig * lg, numbered i-major */
    int64_t n0, n;          /* samples of this tile */
    int64_t stride;         /* lanes of a packed row: n rounded up to whole vectors */
    bool stream;
} piece;

/* Packed rows are [block][row][stride]. Elements (i, row, l) of an outer array of `rows_all` rows per super-block lie,
 * for one sample in batch-first, in runs: all of (i, row, l) if the piece spans d and every row, else per (i, row) or
 * per i. A run is walked with (i, row, l) counters, since it maps to rows of the packed tile `rows * stride` apart. */
typedef struct run {
    int64_t i, row, l;
} run;

INLINE run run_next(run at, int64_t rows, int64_t lg)
{
    if (++at.l == lg) {
        at.l = 0;
        if (++at.row == rows) at.row = 0, at.i++;
    }
    return at;
}

INLINE int64_t packed_row(run at, int64_t rows, int64_t lg)
{
    return (at.i * lg + at.l) * rows + at.row;
}

/* Runs of contiguous elements of one sample: `runs` of them, `length` each, run r starting at walker `start(r)`. */
typedef struct runs {
    int64_t count, length;
    bool per_row; /* one run per (i, row), else per i, or a single one if count == 1 */
} runs;

INLINE runs runs_of(const piece *t, int64_t rows, int64_t rows_all)
{
    if (t->lg < t->p->d) return (runs){t->ig * rows, t->lg, true};
    if (rows < rows_all) return (runs){t->ig, rows * t->lg, false};
    return (runs){1, t->ig * rows * t->lg, false};
}

/* Where run r starts: its first element's (i, row, l) within the piece, and its offset within a sample. */
INLINE int64_t run_offset(const piece *t, runs u, int64_t r, int64_t rows, int64_t row0, int64_t rows_all, run *first)
{
    *first = u.per_row ? (run){r / rows, r % rows, 0} : (run){r, 0, 0};
    return ((t->i0 + first->i) * rows_all + row0 + first->row) * t->p->d + t->l0;
}

/* X rows [k0, k0 + rows) of the piece's blocks and samples, widened, as [block][k][stride]; spare lanes are 0. */
INLINE void pack_first(ks_type type, const piece *t, const char *x, int64_t k0, int64_t rows, real *packed)
{
    const int64_t sample = t->p->a * t->p->c * t->p->d;
    const runs u = runs_of(t, rows, t->p->c);
    for (int64_t v = 0; v < t->stride; v += LANES) {
        const int64_t samples = t->n - v;
        for (int64_t r = 0; r < u.count; r++) {
            run at;
            const char *from =
                x + (size_t)((t->n0 + v) * sample + run_offset(t, u, r, rows, k0, t->p->c, &at)) * t->size;
            for (int64_t f = 0; f < u.length; f += LANES, from += LANES * t->size) {
                const int64_t count = u.length - f;
                vec m[LANES];
#pragma GCC unroll 16
                for (int s = 0; s < LANES; s++)
                    m[s] = s < samples ? widen_some(type, from + (size_t)(s * sample) * t->size, count, t->size)
                                       : (vec){0};
                transpose(m);
                for (int q = 0; q < LANES && q < count; q++) {
                    *(vec *)(packed + packed_row(at, rows, t->lg) * t->stride + v) = m[q];
                    at = run_next(at, rows, t->lg);
                }
            }
        }
    }
}

INLINE void unpack_first(ks_type type, const piece *t, char *y, int64_t j0, int64_t rows, const real *packed)
{
    const int64_t sample = t->p->a * t->p->b * t->p->d;
    const runs u = runs_of(t, rows, t->p->b);
    for (int64_t v = 0; v < t->n; v += LANES) {
        const int64_t samples = t->n - v;
        for (int64_t r = 0; r < u.count; r++) {
            run at;
            char *to = y + (size_t)((t->n0 + v) * sample + run_offset(t, u, r, rows, j0, t->p->b, &at)) * t->size;
            for (int64_t f = 0; f < u.length; f += LANES, to += LANES * t->size) {
                const int64_t count = u.length - f;
                vec m[LANES];
                for (int q = 0; q < LANES; q++) {
                    m[q] =
                        q < count ? *(const vec *)(packed + packed_row(at, rows, t->lg) * t->stride + v) : (vec){0};
                    at = run_next(at, rows, t->lg);
                }
                transpose(m);
                const bool past = t->stream && t->size == sizeof(real) && count >= LANES &&
                                  ((uintptr_t)to | (uintptr_t)sample * t->size) % VECTOR_BYTES == 0;
                if (past && samples >= LANES)
                    for (int s = 0; s < LANES; s++) stream(to + (size_t)(s * sample) * t->size, m[s]);
                else
                    for (int s = 0; s < LANES && s < samples; s++)
                        narrow_some(type, to + (size_t)(s * sample) * t->size, m[s], count, t->size);
            }
        }
    }
}

INLINE void pack_last(ks_type type, const piece *t, const char *x, int64_t k0, int64_t rows, real *packed)
{
    const ks_problem *p = t->p;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t q = 0; q < rows; q++)
            for (int64_t l = 0; l < t->lg; l++) {
                const int64_t row = ((t->i0 + i) * p->c + k0 + q) * p->d + t->l0 + l;
                const char *from = x + (size_t)(row * p->batch + t->n0) * t->size;
                real *to = packed + ((i * t->lg + l) * rows + q) * t->stride;
                for (int64_t v = 0; v < t->stride; v += LANES)
                    *(vec *)(to + v) = widen_some(type, from + (size_t)v * t->size, t->n - v, t->size);
            }
}

INLINE void unpack_last(ks_type type, const piece *t, char *y, int64_t j0, int64_t rows, const real *packed)
{
    const ks_problem *p = t->p;
    for (int64_t i = 0; i < t->ig; i++)
        for (int64_t j = 0; j < rows; j++)
            for (int64_t l = 0; l < t->lg; l++) {
                const int64_t row = ((t->i0 + i) * p->b + j0 + j) * p->d + t->l0 + l;
                char *to = y + (size_t)(row * p->batch + t->n0) * t->size;
                const real *from = packed + ((i * t->lg + l) * rows + j) * t->stride;
                const bool past = t->stream && t->size == sizeof(real) && (uintptr_t)to % VECTOR_BYTES == 0;
                for (int64_t v = 0; v < t->n; v += LANES) {
                    vec value = *(const vec *)(from + v);
                    if (past && t->n - v >= LANES)
                        stream(to + (size_t)v * t->size, value);
                    else
                        narrow_some(type, to + (size_t)v * t->size, value, t->n - v, t->size);
                }
            }
}

/* Rows [j, j + rows) of one block times the packed slab of X: [rows][stride] of the output tile. */
INLINE void multiply(ks_type type, const piece *t, const char *k_block, int64_t j, int64_t rows, int64_t k0,
                     int64_t count, const real *x, real *c, real *widened)
{
    const int vecs = (int)(t->stride / LANES);
    for (int64_t s = 0; s < count; s += KS_FUSED_SLICE) {
        const int64_t slice = count - s < KS_FUSED_SLICE ? count - s : KS_FUSED_SLICE;
        const bool add = k0 + s > 0;
        const vec *xs = (const vec *)(x + s * t->stride);
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int height = (int)(rows - r < ROWS ? rows - r : ROWS);
            const char *from = k_block + (size_t)((j + r) * t->p->c + k0 + s) * t->size;
            const real *k = (const real *)(const void *)from;
            int64_t ldk = t->p->c;
            if (t->size != sizeof(real) || (uintptr_t)from % sizeof(real) != 0) {
                for (int h = 0; h < height; h++)
                    for (int64_t q = 0; q < slice; q += LANES)
                        *(vec *)(widened + h * KS_FUSED_SLICE + q) =
                            widen_some(type, from + (size_t)(h * t->p->c + q) * t->size, slice - q, t->size);
                k = widened, ldk = KS_FUSED_SLICE;
            }
            tiles[height - 1][vecs - 1](k, ldk, xs, slice, c + r * t->stride, t->stride, add);
        }
    }
}

INLINE void task_of(ks_type type, ks_layout layout, const ks_fused_job *job, int64_t index, int thread)
{
    const ks_fused_plan *plan = job->plan;
    const ks_problem *p = job->problem;
    char *scratch = job->scratch + (size_t)thread * (plan->x_bytes + plan->y_bytes + plan->k_bytes);
    real *x_tile = (real *)(void *)scratch, *y_tile = (real *)(void *)(scratch + plan->x_bytes);
    real *widened = (real *)(void *)(scratch + plan->x_bytes + plan->y_bytes);

    const int64_t tj = index % plan->tasks_j, tn = index / plan->tasks_j % plan->tasks_n;
    const int64_t tl = index / plan->tasks_j / plan->tasks_n % plan->tasks_l;
    const int64_t ti = index / plan->tasks_j / plan->tasks_n / plan->tasks_l;
    piece t = {.p = p, .size = ks_type_bytes(type), .i0 = ti * plan->ig, .l0 = tl * plan->lg, .stream = plan->stream};
    t.ig = p->a - t.i0 < plan->ig ? p->a - t.i0 : plan->ig;
    t.lg = p->d - t.l0 < plan->lg ? p->d - t.l0 : plan->lg;
    const int64_t n_end = (tn + 1) * plan->n_task < p->batch ? (tn + 1) * plan->n_task : p->batch;
    const int64_t j_end = (tj + 1) * plan->j_task < p->b ? (tj + 1) * plan->j_task : p->b;

    for (t.n0 = tn * plan->n_task; t.n0 < n_end; t.n0 += plan->n_tile) {
        t.n = n_end - t.n0 < plan->n_tile ? n_end - t.n0 : plan->n_tile;
        t.stride = (t.n + LANES - 1) / LANES * LANES;
        int64_t packed_k0 = -1;
        for (int64_t j0 = tj * plan->j_task; j0 < j_end; j0 += plan->j_chunk) {
            const int64_t rows = j_end - j0 < plan->j_chunk ? j_end - j0 : plan->j_chunk;
            for (int64_t k0 = 0; k0 < p->c; k0 += plan->k_slab) {
                const int64_t count = p->c - k0 < plan->k_slab ? p->c - k0 : plan->k_slab;
                if (packed_k0 != k0) {
                    if (layout == KS_BATCH_FIRST)
                        pack_first(type, &t, job->x, k0, count, x_tile);
                    else
                        pack_last(type, &t, job->x, k0, count, x_tile);
                    packed_k0 = k0;
                }
                for (int64_t g = 0; g < t.ig * t.lg; g++) {
                    const int64_t block = (t.i0 + g / t.lg) * p->d + t.l0 + g % t.lg;
                    const char *k_block = (const char *)job->k + (size_t)(block * p->b * p->c) * t.size;
                    multiply(type, &t, k_block, j0, rows, k0, count, x_tile + g * count * t.stride,
                             y_tile + g * rows * t.stride, widened);
                }
            }
            if (layout == KS_BATCH_FIRST)
                unpack_first(type, &t, job->y, j0, rows, y_tile);
            else
                unpack_last(type, &t, job->y, j0, rows, y_tile);
        }
    }
#if defined(__AVX2__)
    if (plan->stream) _mm_sfence();
#endif
}

/* One copy of task_of per type and layout, so that neither is asked about inside a loop. */
static void task(void *arg, int64_t index, int thread)
{
    const ks_fused_job *job = arg;
    const bool first = job->problem->layout == KS_BATCH_FIRST;
    switch (job->problem->type) {
#ifdef KS_CORE_F64
    default:
        first ? task_of(KS_F64, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_F64, KS_BATCH_LAST, job, index, thread);
        break;
#else
    case KS_F16:
        first ? task_of(KS_F16, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_F16, KS_BATCH_LAST, job, index, thread);
        break;
    case KS_BF16:
        first ? task_of(KS_BF16, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_BF16, KS_BATCH_LAST, job, index, thread);
        break;
    default:
        first ? task_of(KS_F32, KS_BATCH_FIRST, job, index, thread)
              : task_of(KS_F32, KS_BATCH_LAST, job, index, thread);
        break;
#endif
    }
}

#define NAME3(isa, suffix) ks_fused_core_##isa##suffix
#define NAME2(isa, suffix) NAME3(isa, suffix)
#define TEXT2(isa)         #isa
#define TEXT(isa)          TEXT2(isa)
#ifdef KS_CORE_F64
const ks_fused_core NAME2(ISA, _f64) = {TEXT(ISA), LANES, ROWS, task};
#else
const ks_fused_core NAME2(ISA, ) = {TEXT(ISA), LANES, ROWS, task};
#endif
