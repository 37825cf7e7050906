/* The register tile of the fused CPU kernel: a few rows of K, broadcast value by value, times a few vectors of samples. Included
 * by fused_core.c alone. */
#ifndef KS_FUSED_TILE_H
#define KS_FUSED_TILE_H

#include "fused_core.h"
#include "fused_vector.h"

_Static_assert((int)ROWS <= (int)KS_FUSED_MAX_ROWS, "the driver sizes its tiles by KS_FUSED_MAX_ROWS");

/* acc[r][.] += K[r][q] * X[q][.] for r < rows: one k of a register tile. */
INLINE void tile_step(const int rows, const int vecs, const real *restrict k, int64_t ldk, const real *restrict x,
                      vec acc[ROWS][KS_FUSED_MAX_VECS])
{
    vec xv[KS_FUSED_MAX_VECS];
#pragma GCC unroll 3
    for (int v = 0; v < vecs; v++) xv[v] = *(const vec_u *)(x + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const real w = k[r * ldk];
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] += xv[v] * w;
    }
}

/* Lines to bring towards L2 while a register tile is multiplied, one with every k: memory then works during arithmetic,
 * and never more of it at once than the core's fill buffers take without stalling. Those that will be written are asked
 * for as such, so that a store finds its line instead of waiting for it. */
typedef struct stretch {
    const char *at;
    int64_t lines;
} stretch;

/* Where a register tile's sums come from, and go to: rows of `c`, `ldc` apart; in the end perhaps to Y itself. */
typedef struct target {
    real *c;
    int64_t ldc;
    bool add; /* to what is there */
    real *to; /* NULL: back to c */
    int64_t ld_to;
    bool stream;     /* rows of `to` are aligned, and to be written past the caches */
    bool cold_k;     /* K comes from memory, */
    int64_t k_after; /* and the next register tile's rows begin so many elements after these end */
} target;

enum { K_AHEAD_BYTES = 1024, STREAM_BYTES = 4096, LINE = 64 };

/* Which rows a register tile takes: `height` of them from `at` on, `apart` rows apart. */
typedef struct choice {
    int64_t at, apart;
    int height;
} choice;

/* Rows that come from memory should lie so far apart that each is a stream of its own, which the hardware fetches ahead; it does
 * not where rows share pages. Whether so many parts of a block's rows can be streams. */
INLINE bool are_streams(int parts, int64_t rows, size_t row_bytes)
{
    return (size_t)rows * row_bytes >= (size_t)parts * STREAM_BYTES;
}

/* The tile of `most` rows, or of what is left, that comes after `done` of `rows` rows. */
INLINE choice next_rows(int most, int64_t done, int64_t rows, bool streams)
{
    if (rows - done < most) return (choice){done, 1, (int)(rows - done)};
    return streams ? (choice){done / most, rows / most, most} : (choice){done, 1, most};
}

/* K is asked for this far ahead when it comes from memory: on in its row, and where that ends, in the next tile's. */
INLINE void ask_for_k(const int rows, const real *k, int64_t ldk, int64_t left, int64_t k_after)
{
    const int64_t ahead = K_AHEAD_BYTES / (int64_t)sizeof(real);
    const int64_t at = ahead < left ? ahead : ahead + k_after;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) __builtin_prefetch(k + r * ldk + at);
}

/* T[r][.] (+)= sum over q < count of K[r][q] * X[q][.]   for r < rows; rows of X and of the target are vecs vectors, X's `ldx`
 * apart, K's `ldk`. rows and vecs are constants after inlining, so `acc` lives in registers. */
INLINE void tile(const int rows, const int vecs, const real *restrict k, int64_t ldk, const real *restrict x,
                 int64_t ldx, int64_t count, const target *t, stretch y_next, stretch x_next)
{
    vec acc[ROWS][KS_FUSED_MAX_VECS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) acc[r][v] = t->add ? *(const vec *)(t->c + r * t->ldc + v * LANES) : (vec){0};
    int64_t q = 0;
    for (; q < count && q < y_next.lines; q++, x += ldx) {
        __builtin_prefetch(y_next.at + q * 64, 1, 2);
        tile_step(rows, vecs, k + q, ldk, x, acc);
    }
    for (int64_t line = 0; q < count && line < x_next.lines; line++, q++, x += ldx) {
        __builtin_prefetch(x_next.at + line * 64, 0, 2);
        tile_step(rows, vecs, k + q, ldk, x, acc);
    }
    if (t->cold_k)
        for (const int64_t line = LINE / (int64_t)sizeof(real); q + line <= count;) {
            ask_for_k(rows, k + q, ldk, count - q, t->k_after);
            for (int64_t n = 0; n < line; n++, q++, x += ldx) tile_step(rows, vecs, k + q, ldk, x, acc);
        }
    for (; q < count; q++, x += ldx) tile_step(rows, vecs, k + q, ldk, x, acc);
    if (t->stream) {
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
            for (int v = 0; v < vecs; v++) stream((char *)(t->to + r * t->ld_to + v * LANES), acc[r][v]);
        return;
    }
    real *to = t->to ? t->to : t->c;
    const int64_t ld_to = t->to ? t->ld_to : t->ldc;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++) *(vec_u *)(to + r * ld_to + v * LANES) = acc[r][v];
}

typedef void tile_function(const real *k, int64_t ldk, const real *x, int64_t ldx, int64_t count, const target *t,
                           stretch y_next, stretch x_next);

#define TILE(rows, vecs)                                                                                             \
    static void tile_##rows##x##vecs(const real *k, int64_t ldk, const real *x, int64_t ldx, int64_t count,          \
                                     const target *t, stretch y_next, stretch x_next)                                \
    {                                                                                                                \
        tile(rows, vecs, k, ldk, x, ldx, count, t, y_next, x_next);                                                  \
    }
#define TILE_ROW(rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3)
TILE_ROW(1)
TILE_ROW(2)
TILE_ROW(3)
TILE_ROW(4)
#if defined(__AVX512F__)
TILE_ROW(5)
TILE_ROW(6)
TILE_ROW(7)
TILE_ROW(8)
#endif

static tile_function *const tiles[ROWS][KS_FUSED_MAX_VECS] = {
    {tile_1x1, tile_1x2, tile_1x3}, {tile_2x1, tile_2x2, tile_2x3},
    {tile_3x1, tile_3x2, tile_3x3}, {tile_4x1, tile_4x2, tile_4x3},
#if defined(__AVX512F__)
    {tile_5x1, tile_5x2, tile_5x3}, {tile_6x1, tile_6x2, tile_6x3},
    {tile_7x1, tile_7x2, tile_7x3}, {tile_8x1, tile_8x2, tile_8x3},
#endif
};

#endif
