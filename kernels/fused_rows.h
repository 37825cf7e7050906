/* What the driver (fused_rows.c) and the cores (fused_core.c with fused_rows_task.h) of fused.cpu.rows agree on.
 *
 * In batch-first a sample's outputs of one super-block lie side by side: (j, l), l fastest. Lanes run along them: d neighbouring
 * l's times lanes / d neighbouring j's. The operand of X for a vector is then the d elements x[s][k][.], repeated: it
 * is read where it lies, and sums are written where they belong; no sample is transposed or copied. It is K that has to be
 * put in order, once a task: [vector][k][lane]. That needs a d that divides the lanes; at d = lanes nothing is repeated, X
 * comes by whole lines for every k, and fused.cpu is faster. */
#ifndef KS_FUSED_ROWS_H
#define KS_FUSED_ROWS_H

#include "kernel.h"

/* A task: super-blocks [ti * ig, ...) and samples [tn * batch / tasks_n, ...). */
typedef struct ks_rows_plan {
    int64_t vectors; /* of outputs a super-block; the last may overlap the one before */
    int64_t ig, tasks_i, tasks_n;
    bool stream;             /* write Y past the caches */
    size_t k_bytes, x_bytes; /* of a thread's K in order, and of its widened rows of X */
} ks_rows_plan;

typedef struct ks_rows_job {
    const ks_problem *problem;
    const ks_rows_plan *plan;
    const void *x, *k;
    void *y;
    char *scratch;               /* threads * (k_bytes + x_bytes), 64-byte aligned */
    const ks_epilogue *epilogue; /* NULL: none */
} ks_rows_job;

#endif
