/* The kernel table: everything that can compute Y = X * transpose(K), as data.
 *
 * Tests, benchmarks, calibration and choice loop over this table and know no kernel by name, so a new kernel is one
 * new file and one row in table.c. (FFTW calls such rows solvers; there as here the planner is elsewhere.) */
#ifndef KS_KERNEL_H
#define KS_KERNEL_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a kernel's time is made of. A kernel states how much of each term a problem costs it; the calibrated cost
 * model (calib/model.h) learns what one unit of each term costs on this device. */
typedef enum ks_term {
    KS_TERM_LAUNCH = 0, /* fixed starts: launches, or wake-ups of the team */
    KS_TERM_BYTES,      /* bytes moved to and from memory, re-reads and write-allocates included */
    KS_TERM_FLOPS,      /* flops on the critical unit: padding of tiles and idle units included */
    KS_TERM_SHUFFLE,    /* elements rearranged or converted on chip */
    KS_TERM_CALLS,      /* tiles, GEMM calls: whatever has an overhead per piece, on the critical unit */
    KS_NTERMS
} ks_term;

/* On CUDA run queues its work on the stream and returns. The workspace stays the kernel's own until that work is done: who
 * takes it back does so in the stream's order, and neither run nor its caller waits. */
typedef struct ks_run_args {
    const ks_device *device;
    const void *x, *k; /* k in block order */
    void *y;
    void *workspace; /* 64-byte aligned, 256 on CUDA; at least workspace_bytes(problem, device) */
    void *stream;
    const ks_epilogue *epilogue; /* NULL for rows that do not finish; beta is 0: y is never read */
} ks_run_args;

typedef struct ks_kernel {
    const char *name; /* "fused.cpu": the key in the store; never renamed, never an index */
    ks_family family;
    ks_backend backend;
    unsigned version; /* raised when its timings may have changed */
    bool (*supports)(const ks_problem *problem, const ks_device *device);
    size_t (*workspace_bytes)(const ks_problem *problem, const ks_device *device);
    void (*cost_terms)(const ks_problem *problem, const ks_device *device, double terms[KS_NTERMS]);
    ks_status (*run)(const ks_problem *problem, const ks_run_args *args);
} ks_kernel;

/* All kernels, NULL-terminated: those of this build, then those that were added. Row 0 is ref.cpu, the oracle: in no choice. */
const ks_kernel *const *ks_kernels(void);

/* Adds a row behind the others, for as long as the process lives: for kernels that are no part of the library, such as the
 * tests' bad ones. To be called before anything else of the library, by one thread. KS_ERR_ARGUMENT if the name is taken or the
 * table full. */
ks_status ks_kernel_add(const ks_kernel *kernel);

/* The kernel of that name, or NULL. */
const ks_kernel *ks_kernel_find(const char *name);

/* Whether the row applies args->epilogue itself; behind the others the backend's finish (epilogue.h) does. */
bool ks_kernel_finishes(const ks_kernel *kernel);

enum { KS_MAX_KERNELS = KS_MAX_CANDIDATES };

/* The kernels that may be chosen for this problem on this device, in table order; returns how many. */
int ks_kernels_for(const ks_problem *problem, const ks_device *device, const ks_kernel *out[KS_MAX_KERNELS]);

/* KS_OK if the arrays of args may be given to a kernel: not NULL, and y apart from x and k; else the reason. */
ks_status ks_arrays_check(const ks_problem *problem, const void *x, const void *k, const void *y);

/* Whether two arrays of so many bytes share one. */
bool ks_overlap(const void *p, int64_t p_bytes, const void *q, int64_t q_bytes);

#ifdef __cplusplus
}
#endif

#endif
