/* Inside a context. Everything but the memo, the workspaces and the first-use measuring is written by ks_open and only
 * read from then on, so that any number of threads may use it without a lock. */
#ifndef KS_CONTEXT_H
#define KS_CONTEXT_H

#include "cases.h"
#include "failures.h"
#include "model.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    MOST_STORED = 100000
}; /* rows of a device, beyond which first use stores no more: a server may meet new sizes for months */
enum { MEMO_SLOTS = 8192, MEMO_PROBES = 16, WORKSPACES = 64 };

/* A decision that was made: written once by the thread that takes the slot, read by all once it is ready. */
typedef struct memo_slot {
    _Atomic uint32_t state; /* 0 free, 1 being written, 2 ready */
    uint32_t traits;        /* type, layout, math */
    int64_t sizes[5];
    const ks_kernel *kernel;
} memo_slot;

/* What a type and layout are decided by. */
typedef struct knowledge {
    ks_model *model;       /* NULL: the built-in costs */
    char why[192];         /* a model was passed over: why */
    _Atomic bool factored; /* the model has what variances need (choose.c) */
    ks_source source;
    char source_device[KS_DEVICE_BYTES];
    ks_cases cases; /* measured on this very device */
} knowledge;

/* A pinned decision. */
typedef struct pin {
    ks_problem problem;
    char kernel[KS_NAME_BYTES];
    int64_t line; /* of the file */
} pin;

typedef struct pins {
    pin *items; /* sorted by problem */
    size_t count, room;
    bool asked; /* there is a table, or should be */
    ks_status status;
    char why[512];
    _Atomic uint64_t missed;
} pins;

struct ks_context {
    ks_device device;
    bool here; /* the device can be run on; else it is known by its measurements alone */
    ks_objective objective;
    unsigned flags;
    double measure_budget_s;
    bool explain;
    char *store_path;
    size_t stored; /* rows of this device in the store, as far as this context knows */
    ks_status store_status;
    char store_why[512];
    knowledge known[KS_NTYPES][KS_NLAYOUTS];
    ks_failures failures; /* of this device's kernels */
    pins pins;
    memo_slot *memo;
    _Atomic(void *) workspace[WORKSPACES]; /* the CPU's free blocks; each starts with its size */
    void *pool;                            /* other devices' workspace: memory.h */
    bool check_arrays;                     /* at every call, not only at a problem's first: KSAUTO_CHECK=1 */
    pthread_mutex_t measuring;             /* one first-use measurement, or one factorisation, at a time */
};

/* What is predicted (or was measured) for every candidate, in table order; returns how many. *measured tells whether
 * this very problem was measured. */
int ks_context_predict(const ks_context *ctx, const ks_problem *problem, bool deviations, ks_prediction *out,
                       bool *measured);

/* The kernel for a valid problem: from the memo, or predicted and remembered. NULL if there is none. */
const ks_kernel *ks_context_choose(ks_context *ctx, const ks_problem *problem);

/* Whether the memo knows the problem. */
const ks_kernel *ks_context_recall(const ks_context *ctx, const ks_problem *problem);
void ks_context_remember(ks_context *ctx, const ks_problem *problem, const ks_kernel *kernel);

/* What a pass takes that nobody has measured, and that moves so many bytes: a launch, and the rate of a copy. */
static inline double ks_context_pass_s(const ks_context *ctx, double bytes)
{
    return 3e-6 + bytes / ctx->device.copy_bytes_per_s;
}

/* The kernel for a product with an epilogue, which not every kernel applies itself; and whether the memo knows it. */
const ks_kernel *ks_context_choose_with(ks_context *ctx, const ks_problem *problem, const ks_epilogue *epilogue);
const ks_kernel *ks_context_recall_with(const ks_context *ctx, const ks_problem *problem,
                                        const ks_epilogue *epilogue);

/* Reads the table of decisions that the caller (NULL: the environment) names; decisions.c. */
void ks_context_read_pins(ks_context *ctx, const char *path);
/* Index of the prediction whose kernel is pinned for the problem, or -1. */
int ks_context_pinned(const ks_context *ctx, const ks_problem *problem, const ks_prediction *predictions, int count);

/* Resolves "auto", "fused", "bmm" or a kernel's name for a valid problem. */
ks_status ks_context_resolve(ks_context *ctx, const ks_problem *problem, const char *path, const ks_kernel **kernel);

/* KS_OK if the device can reach so many elements and read them one by one (a GPU: at multiples of their size); else
 * KS_ERR_ARGUMENT with a message that calls the array by its name. */
ks_status ks_context_reaches(const ks_context *ctx, const void *array, int64_t count, ks_type type, const char *name);

/* Runs the kernel, and in its place one that needs less where there is no memory for its workspace. args need no workspace. */
ks_status ks_context_run(ks_context *ctx, const ks_problem *problem, const ks_kernel *kernel, ks_run_args *args);

/* epilogue.c: whether it does nothing; KS_OK if it can be applied to y, else why not (at first_use whether the device reaches the
 * bias, too); and one run of the kernel with args->epilogue, and the pass behind it where that is needed. */
bool ks_epilogue_is_plain(const ks_epilogue *epilogue);
ks_status ks_epilogue_check(const ks_context *ctx, const ks_problem *problem, const ks_epilogue *epilogue,
                            const void *y, bool first_use);
ks_status ks_context_run_with(ks_context *ctx, const ks_problem *problem, const ks_kernel *kernel,
                              const ks_run_args *args);

/* Workspace for what is queued on the stream between the two, which need not be done when it is given back; none if bytes is
 * 0. `who` needs it, for the message. ks_context_give returns status, or why giving it back failed. */
ks_status ks_context_take(ks_context *ctx, const char *who, size_t bytes, void *stream, void **memory);
ks_status ks_context_give(ks_context *ctx, void *memory, void *stream, ks_status status);

/* One line on standard error: KSAUTO_EXPLAIN=1. */
void ks_context_explain(ks_context *ctx, const ks_problem *problem);

#endif
