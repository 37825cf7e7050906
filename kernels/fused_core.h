/* What the fused CPU kernel's driver (fused_cpu.c) and its cores (fused_core.c, compiled once per instruction set and
 * per type of sum) agree on: the shape of a task. */
#ifndef KS_FUSED_CORE_H
#define KS_FUSED_CORE_H

#include "kernel.h"

enum {
    KS_FUSED_MAX_ROWS = 8,      /* rows j of a register tile, at most */
    KS_FUSED_MAX_VECS = 3,      /* vectors of batch in a register tile, at most */
    KS_FUSED_DOT_SAMPLES = 4,   /* samples of a dot tile (lanes along k), at most */
    KS_FUSED_PLAIN_SAMPLES = 2, /* samples up to which short dots are summed one value at a time */
    KS_FUSED_SLICE = 128        /* k's of one pass of the register tile: keeps its X slice in L1 */
};

/* One task computes Y for `ig` super-blocks from i0, `lg` neighbouring l's from l0 (lg = d where ig > 1), the batch
 * [n0, n0 + n_task) and the rows [j0, j0 + j_task), in tiles of n_tile batch samples. Sizes at the edges are cut. */
typedef struct ks_fused_plan {
    int64_t n_tile, n_group, n_task; /* a group of tiles is packed at once, so that batch-last rows are long runs */
    int64_t ig, lg;
    int64_t j_task, j_chunk; /* j_chunk rows of all blocks are held at once before they are written */
    int64_t k_slab;          /* k's packed at once; all of c unless that is too much */
    int64_t tasks_i, tasks_l, tasks_n, tasks_j;
    bool dot;      /* few samples: lanes along k; then k_slab is c */
    bool direct;   /* batch-last X is read where it lies: too few rows use it to be worth packing */
    bool direct_y; /* whole tiles of batch-last Y are written where they belong, straight from registers */
    bool cold_k;   /* K will not be found in cache */
    bool own_y;    /* Y is written through the caches, and its lines are worth asking for early */
    bool stream;   /* write Y past the caches */
    size_t x_bytes, y_bytes, k_bytes; /* of a thread's packed X, of its output tile, of its widened weights */
} ks_fused_plan;

typedef struct ks_fused_job {
    const ks_problem *problem;
    const ks_fused_plan *plan;
    const void *x, *k;
    void *y;
    char *scratch;               /* threads * (x_bytes + y_bytes + k_bytes), 64-byte aligned */
    const ks_epilogue *epilogue; /* NULL: none */
} ks_fused_job;

/* One run of outputs, from the product to y, which may be the same; all at any alignment. */
typedef struct ks_finish_run {
    const ks_epilogue *epilogue;
    const void *product, *bias; /* bias NULL: none */
    void *y;
    bool bias_runs; /* a value of the bias for each output; else one for all */
    int64_t count;
} ks_finish_run;

typedef struct ks_fused_core {
    const char *isa;
    int lanes, rows;                                         /* of a register tile: samples per vector, rows j */
    void (*task)(void *job, int64_t index, int thread);      /* of a ks_fused_job */
    void (*rows_task)(void *job, int64_t index, int thread); /* of a ks_rows_job (fused_rows.h) */
    void (*copy)(char *to, const char *from, size_t bytes);  /* past the caches; `to` aligned to 64 */
    void (*finish)(ks_type type, const ks_finish_run *run);
} ks_fused_core;

/* The best core for this machine and type. */
const ks_fused_core *ks_fused_core_for(ks_type type);

/* Y larger than this will not be found in the caches by whoever reads it next: write past them. */
enum { KS_FUSED_STREAM_BYTES = 2000000 };

/* Whether every row of Y is of whole cache lines of the type of the sums: only such go past the caches. */
bool ks_fused_whole_lines(const ks_problem *problem);

/* The best core's copy: what the machine's copy rate is measured with. */
void ks_fused_copy(char *to, const char *from, size_t bytes);

/* float32 sums for F32, F16 and BF16; float64 sums for F64. NULL where this build has no such core. */
extern const ks_fused_core ks_fused_core_portable, ks_fused_core_portable_f64;
#if defined(__x86_64__)
extern const ks_fused_core ks_fused_core_avx2, ks_fused_core_avx2_f64;
extern const ks_fused_core ks_fused_core_avx512, ks_fused_core_avx512_f64;
#endif

#endif
