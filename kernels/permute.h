/* The rearrangements that bmm.cuda.* needs: device memory to device memory, queued on a stream (a cudaStream_t). The
 * device is current. Blocks are what a batched GEMM wants: one matrix for each of the a*d blocks (i, l), one after the
 * other. rows is c for X and b for Y. */
#ifndef KS_PERMUTE_H
#define KS_PERMUTE_H

#include "kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Batch-first, inward: blocks[i][l][n][row] = outer[n][i][row][l]; outward the way back. */
ks_status ks_permute_first(const ks_device *device, const ks_problem *problem, bool inward, int64_t rows,
                           const void *from, void *to, void *stream);

/* Batch-last, inward: blocks[i][l][row][n] = outer[i][row][l][n]; outward the way back. */
ks_status ks_permute_last(const ks_device *device, const ks_problem *problem, bool inward, int64_t rows,
                          const void *from, void *to, void *stream);

/* Where the blocks of X, K and Y lie, in bytes: pointers[(v * a + i) * d + l] = base + i * i_step + l * l_step of view v. */
typedef struct ks_block_view {
    const void *base;
    int64_t i_step, l_step;
} ks_block_view;

ks_status ks_block_pointers(const ks_device *device, const ks_block_view views[3], int64_t a, int64_t d,
                            const void **pointers, void *stream);

#ifdef __cplusplus
}
#endif

#endif
