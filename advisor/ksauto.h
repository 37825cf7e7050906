/* ksauto: multiply by Kronecker-sparse matrices, the fastest way this machine has, on its CPU or its NVIDIA GPUs.
 *
 * A Kronecker-sparse (KS) matrix K of pattern (a,b,c,d) has shape (a*b*d) x (a*c*d) and support
 * I_a (x) 1_{b x c} (x) I_d. With i<a, j<b, k<c, l<d this library computes Y = X * transpose(K):
 *
 *     Y[n, i, j, l] = sum over k of  K[i, j, k, l] * X[n, i, k, l]          for each n < batch
 *
 * It knows several ways to do so, of two families: fused (one pass, output-stationary) and bmm
 * (batched GEMM through a BLAS). Which is faster depends on the pattern, the batch, the type, the
 * layout and the machine; ksauto measures, remembers and predicts it, and takes the faster one.
 *
 *     #include <ksauto.h>
 *     ks_context *ctx;
 *     if (ks_open(&ctx, NULL) != KS_OK) return 1;           // this CPU, the user's store of measurements
 *     ks_problem p = {.a = 6, .b = 64, .c = 64, .d = 1, .batch = 128, .type = KS_F32, .layout = KS_BATCH_FIRST};
 *     ks_status s = ks_auto_matmul(ctx, &p, x, k, y, NULL); // y = x * transpose(K), by the faster path
 *     if (s != KS_OK) fprintf(stderr, "%s\n", ks_status_message(s));
 *     ks_close(ctx);
 *
 * It promises: a product is always computed, rightly, and a committed measurement is never lost. Trouble with the store of
 * measurements (missing, locked, read-only, damaged, a full disk) is told by ks_store_status and never reaches a product.
 *
 * Ownership: the caller owns every array and string passed in; strings that the library returns are its
 * own and live as long as said at the function. The library never prints (but see KSAUTO_EXPLAIN), never
 * exits, never aborts, and never changes signal handlers.
 *
 * Threads: one context serves any number of threads at once. ks_open and ks_close of one context must not
 * overlap its other uses. Inside, work is spread over KSAUTO_NUM_THREADS threads, else OMP_NUM_THREADS,
 * else the cores this process may use; the team of workers belongs to one caller at a time, and a caller
 * that finds it busy computes alone instead of oversubscribing the machine.
 *
 * GPUs: with the device "cuda:N" arrays lie in that GPU's memory, and a call returns once its work is queued on the
 * caller's stream. A library built without CUDA, and one on a machine without GPU or driver, opens CPUs only, and says
 * why; it still advises for GPUs that it knows by their measurements.
 *
 * Environment: KSAUTO_DB (the store's file), KSAUTO_DECISIONS (pinned decisions: see ks_decisions_status),
 * KSAUTO_NUM_THREADS, KSAUTO_CHECK=1 (on GPUs: see ks_auto_matmul), and KSAUTO_EXPLAIN=1, the one thing that makes the
 * library write: one line on standard error for every new problem, with the path taken and why.
 *
 * License: MIT. This library links no GPL code; libksauto_calib (ks_calibrate, ks_fit) links GSL. */
#ifndef KSAUTO_H
#define KSAUTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define KS_API __attribute__((visibility("default")))
#else
#    define KS_API
#endif

#define KSAUTO_VERSION_MAJOR 0
#define KSAUTO_VERSION_MINOR 1
#define KSAUTO_VERSION_PATCH 0

/* "0.1.0"; static storage. */
KS_API const char *ks_version(void);

/* ---------------------------------------------------------------------------------------------------
 * Status
 * ------------------------------------------------------------------------------------------------- */

typedef enum ks_status {
    KS_OK = 0,
    KS_ERR_ARGUMENT,     /* a value that is not allowed: size < 1, NULL, unknown enum, overlapping arrays */
    KS_ERR_OVERFLOW,     /* a*b*c*d, or an array's bytes, cannot be counted in 63 bits */
    KS_ERR_PARSE,        /* a pattern, CSV, .npy or model that is not well-formed */
    KS_ERR_UNSUPPORTED,  /* well-formed, but no kernel (or not the named one) can do it on this device */
    KS_ERR_DEVICE,       /* no such device, or it failed */
    KS_ERR_MEMORY,       /* an allocation failed */
    KS_ERR_STORE,        /* the store cannot be used as asked: locked, read-only, corrupt, newer, ... */
    KS_ERR_IO,           /* a file cannot be read or written */
    KS_ERR_WRONG_RESULT, /* a kernel's output disagreed with the reference while being measured */
    KS_ERR_NO_DATA,      /* not enough measurements for what was asked */
    KS_ERR_INTERRUPTED,  /* the caller's progress function asked to stop */
    KS_ERR_INTERNAL      /* a defect of this library: please report it */
} ks_status;

/* The name of a status: "KS_ERR_ARGUMENT"; static storage. */
KS_API const char *ks_status_name(ks_status status);

/* What went wrong, with the offending value. If the calling thread's last failure in this library had this
 * status, its full message; else a general sentence. Valid until the thread's next failing call. */
KS_API const char *ks_status_message(ks_status status);

/* ---------------------------------------------------------------------------------------------------
 * The problem
 * ------------------------------------------------------------------------------------------------- */

typedef enum ks_type { KS_F32 = 0, KS_F16, KS_BF16, KS_F64, KS_NTYPES } ks_type;

/* KS_BATCH_FIRST: X is (batch, a, c, d), Y is (batch, a, b, d), row-major.
 * KS_BATCH_LAST:  X is (a, c, d, batch), Y is (a, b, d, batch), row-major. */
typedef enum ks_layout { KS_BATCH_FIRST = 0, KS_BATCH_LAST, KS_NLAYOUTS } ks_layout;

/* For KS_F32 on devices with tensor cores: float32 accuracy, or TF32's. Elsewhere without effect. */
typedef enum ks_math { KS_MATH_F32 = 0, KS_MATH_TF32 } ks_math;

typedef enum ks_family { KS_FUSED = 0, KS_BMM, KS_REFERENCE, KS_NFAMILIES } ks_family;

typedef enum ks_objective { KS_TIME = 0, KS_ENERGY } ks_objective;

typedef struct ks_problem {
    int64_t a, b, c, d; /* the pattern, each >= 1 */
    int64_t batch;      /* >= 1 */
    ks_type type;       /* of X, K and Y; sums are taken in float32 at least */
    ks_layout layout;
    ks_math math;
} ks_problem;

/* KS_OK when every size is >= 1, every enum known, and all byte counts fit 63 bits; else a message naming the
 * field and its value. */
KS_API ks_status ks_problem_check(const ks_problem *problem);

/* Sizes of a valid problem. bytes = sizeof(type) * (batch*a*d*(b+c) + a*b*c*d); flops = 2*batch*a*b*c*d. */
KS_API size_t ks_type_bytes(ks_type type);
KS_API int64_t ks_x_count(const ks_problem *problem); /* elements of X: batch*a*c*d */
KS_API int64_t ks_k_count(const ks_problem *problem); /* elements of K: a*b*c*d */
KS_API int64_t ks_y_count(const ks_problem *problem); /* elements of Y: batch*a*b*d */
KS_API double ks_problem_bytes(const ks_problem *problem);
KS_API double ks_problem_flops(const ks_problem *problem);

/* "f32", "first", ... as the command and the CSV files write them; static storage, NULL for unknown values. */
KS_API const char *ks_type_name(ks_type type);
KS_API const char *ks_layout_name(ks_layout layout);
KS_API const char *ks_math_name(ks_math math);
KS_API const char *ks_family_name(ks_family family);
KS_API const char *ks_objective_name(ks_objective objective);

/* The way back; KS_ERR_PARSE names the text and the valid values. "A,B,C,D" fills problem's a, b, c, d. */
KS_API ks_status ks_type_parse(const char *text, ks_type *type);
KS_API ks_status ks_layout_parse(const char *text, ks_layout *layout);
KS_API ks_status ks_math_parse(const char *text, ks_math *math);
KS_API ks_status ks_objective_parse(const char *text, ks_objective *objective);
KS_API ks_status ks_pattern_parse(const char *text, ks_problem *problem);

/* Weights. Every kernel reads K in block order: (a, d, b, c) row-major, that is a*d dense b x c blocks one after
 * the other. PyTorch code and the paper write (a, b, c, d) row-major. Both functions copy, on the host;
 * source and destination hold ks_k_count elements of problem->type and must not overlap. */
KS_API ks_status ks_weights_to_block(const ks_problem *problem, const void *abcd, void *block);
KS_API ks_status ks_weights_from_block(const ks_problem *problem, const void *block, void *abcd);

/* ---------------------------------------------------------------------------------------------------
 * Context
 * ------------------------------------------------------------------------------------------------- */

typedef struct ks_context ks_context;

enum { KS_MEASURE = 1u << 0 }; /* options.flags: a problem never measured here is measured at its first use */

typedef struct ks_options {
    const char *device;     /* "cpu" (default, also NULL); "cuda" or "cuda:N"; or a device's name: one of this
                                      machine's, or one that the store or the seeds know: then the context
                                      advises for it and cannot multiply */
    const char *store;      /* the store's file; NULL: $KSAUTO_DB, else $XDG_DATA_HOME/ksauto/ksauto.db,
                                      else ~/.local/share/ksauto/ksauto.db; "": no store, seeds only */
    unsigned flags;         /* KS_MEASURE or 0 */
    ks_objective objective; /* what to minimise */
    double
        measure_budget_s;  /* longest that KS_MEASURE may hold up one call; 0: 0.1 s. Where another process holds the
                                      store, some tenths of a second more: what was measured is then not stored */
    const char *decisions; /* a file of decisions that are to be followed whatever was measured: see
                                      ks_decisions_status; NULL: $KSAUTO_DECISIONS, if set; "": none */
} ks_options;

/* Opens a context; options may be NULL, and zeroed fields mean the defaults. The store is read here, once.
 * Trouble with the store is never an error here: the context then runs on the shipped seeds or the built-in cost
 * model, and ks_store_status says why. Fails with KS_ERR_DEVICE (a device that is unknown, or not there: the message says
 * which there are, or why there is none) or KS_ERR_MEMORY; *ctx is then NULL. */
KS_API ks_status ks_open(ks_context **ctx, const ks_options *options);

/* Closes a context and frees what it owns; NULL is allowed. On CUDA, work that still runs keeps its memory until it is
 * done. */
KS_API void ks_close(ks_context *ctx);

/* KS_OK if the store was read; else why not, in *why (may be NULL; the context's own string). With KS_OK *why is "", or says
 * that something has changed since the store's models were made (a driver, a BLAS, a kernel's version): ks_calibrate then
 * measures a few problems again and decides what the rest is still worth. */
KS_API ks_status ks_store_status(const ks_context *ctx, const char **why);

/* Pinned decisions. The same store gives the same decisions in every process and thread, but measuring more changes them. A
 * table of decisions does not change: ranks that are given the same one take the same kernels. It is a CSV file with a header
 * and the columns a,b,c,d,batch,dtype,layout,device,kernel (math may follow), as `ksauto pin` writes it. Its rows for the
 * context's device come before all else that is known of their problems, and those are not measured at first use.
 *
 * A problem that is not in it, or whose kernel this build lacks, cannot do the problem, or has failed on it here, is decided as
 * without a table, and it is said: ks_advice.source is not KS_FROM_DECISIONS, KSAUTO_EXPLAIN says so, and *missed (may be NULL)
 * counts such decisions. Returns KS_OK if there is no table, or it is used; else why nothing of it is, in *why (may be NULL; the
 * context's own string): KS_ERR_IO, KS_ERR_PARSE (one line that is wrong is enough), KS_ERR_NO_DATA (no row for the device). */
KS_API ks_status ks_decisions_status(const ks_context *ctx, const char **why, uint64_t *missed);

/* ---------------------------------------------------------------------------------------------------
 * Multiplying
 * ------------------------------------------------------------------------------------------------- */

/* Y = X * transpose(K) by the path and kernel predicted fastest.
 *
 * x: ks_x_count elements, k: ks_k_count elements in block order, y: ks_y_count elements, all of problem->type, in
 * memory the context's device reads (host memory for "cpu"). For the CPU they may have any alignment. For CUDA each must
 * be aligned to its elements (KS_ERR_ARGUMENT names the one that is not), and all three to 16 bytes to be fast: else the
 * tensor-core kernel leaves its work to a general one. y must not overlap x or k; it is written in full and never read.
 * NaN and Inf pass through as arithmetic says. After a failure y's content is unspecified.
 *
 * stream: a cudaStream_t of the context's device, NULL for its default stream; ignored by the CPU. The calling thread's
 * current device stays as it is. The stream may be under capture: all of the work, its workspace included, then becomes part
 * of the graph, and nothing is measured. On Hopper a kernel may begin before what is ahead of it in the stream has ended
 * (programmatic dependent launch); it touches no array before that.
 *
 * Errors on CUDA: the call is asynchronous. KS_OK says that the work is queued, not that it is done; any other status, that
 * y will not be computed. Only waiting for the stream (cudaStreamSynchronize) tells that y is there. What goes wrong on the
 * device in between (an array that ends too early, another library's kernel) shows there and in later calls, of ksauto or of
 * CUDA, and need not be their doing. After an error that CUDA does not recover from, a kernel's access to a wrong address above
 * all, the device is lost to this process: every call that needs it returns KS_ERR_DEVICE, with CUDA's name for the error,
 * and so does opening another context. Advice, which needs no device, and ks_close work as before. Only a new process can
 * use the device again.
 *
 * Whether the GPU reaches the first and the last byte of x, k and y is checked at a problem's first use, and at every one if
 * KSAUTO_CHECK=1 is set when the context is opened: it costs a microsecond or two. KS_ERR_ARGUMENT names the array that lies
 * in host memory, was freed, or ends where nothing is. An array that is too short, but ends in other memory of the process, is
 * not found out.
 *
 * A decision costs <= 10 us for a new problem and <= 100 ns from then on; it neither locks, allocates nor reads
 * files. Kernels that need workspace take it from the context, which keeps it for the next call; where it cannot
 * be had, a kernel that needs none runs instead (on a CPU there is always one). On CUDA that is a memory pool of the context's own, from which workspace is
 * taken in the stream's order.
 *
 * Returns KS_OK, KS_ERR_ARGUMENT, KS_ERR_OVERFLOW, KS_ERR_UNSUPPORTED or KS_ERR_DEVICE. */
KS_API ks_status ks_auto_matmul(ks_context *ctx, const ks_problem *problem, const void *x, const void *k, void *y,
                                void *stream);

/* The same by a path of the caller's: "auto", "fused", "bmm" (the fastest kernel of that family), or a kernel's name
 * such as "bmm.cpu.permute". Also KS_ERR_MEMORY, since a named kernel has no substitute. Arrays are checked each time. */
KS_API ks_status ks_matmul(ks_context *ctx, const ks_problem *problem, const char *path, const void *x, const void *k,
                           void *y, void *stream);

/* ---------------------------------------------------------------------------------------------------
 * Epilogues: bias, activation and accumulation with the product, in the order of cuBLASLt's,
 *
 *     Y = activation(alpha * X * transpose(K) + beta * Y + bias)
 * ------------------------------------------------------------------------------------------------- */

typedef enum ks_activation {
    KS_NO_ACTIVATION = 0,
    KS_RELU,      /* max(x, 0); NaN stays NaN */
    KS_GELU,      /* x * Phi(x), Phi the normal distribution's: PyTorch's default */
    KS_GELU_TANH, /* the approximation of it by tanh: cuBLASLt's, GPT-2's */
    KS_SILU,      /* x / (1 + exp(-x)) */
    KS_NACTIVATIONS
} ks_activation;

typedef struct ks_epilogue {
    double alpha;     /* 1 for the product itself; 0, which forgetting it makes, is refused */
    double beta;      /* 0: Y is not read, and may hold anything */
    const void *bias; /* a value of the problem's type for each feature of Y, (a, b, d) row-major; NULL: none */
    ks_activation activation;
} ks_epilogue;

/* The product by `path` ("auto", or as in ks_matmul) with an epilogue; NULL: none. Arithmetic is in float32, for KS_F64 in
 * float64. Fused kernels apply it to their sums, before these are rounded to the type and leave for memory; behind all others,
 * and wherever beta is not 0, one more pass over Y does, of an output that was rounded once.
 * "auto" takes the kernel that is fastest together with that pass, at the rate of a copy. KS_MEASURE has no effect here, and
 * KSAUTO_EXPLAIN tells of plain products alone.
 *
 * Memory, stream, errors and workspace are as in ks_auto_matmul; bias lies where x does, and may not overlap y. If beta is not
 * 0 the product takes as much workspace as Y, for which there is no substitute: KS_ERR_MEMORY, and y is as it was. */
KS_API ks_status ks_matmul_with(ks_context *ctx, const ks_problem *problem, const char *path, const void *x,
                                const void *k, void *y, const ks_epilogue *epilogue, void *stream);

/* How much workspace ks_matmul would take from the context for this problem and path. */
KS_API ks_status ks_workspace_bytes(ks_context *ctx, const ks_problem *problem, const char *path, size_t *bytes);

/* Makes the context hold that much workspace now, so that no later call that needs no more allocates. On CUDA that holds for
 * one stream at a time, and not for graphs, which own their memory. Waits for the device. */
KS_API ks_status ks_workspace_reserve(ks_context *ctx, size_t bytes);

/* ---------------------------------------------------------------------------------------------------
 * Gradients: what training needs. `problem` is the product's own, Y = X * transpose(K); memory, stream, errors and workspace
 * are as in ks_auto_matmul, and sums are taken in float32 at least. Arrays are checked each time.
 * ------------------------------------------------------------------------------------------------- */

/* dX[n,i,k,l] = sum over j of K[i,j,k,l] * dY[n,i,j,l]: the product of pattern (a,c,b,d) by the transposed weights, which are
 * made in workspace, through the same choice. dy: ks_y_count elements, k: ks_k_count in block order, dx: ks_x_count; dx must
 * not overlap the others. */
KS_API ks_status ks_grad_input(ks_context *ctx, const ks_problem *problem, const void *dy, const void *k, void *dx,
                               void *stream);

/* dK[i,j,k,l] = sum over n of dY[n,i,j,l] * X[n,i,k,l]. dk: ks_k_count elements in block order, written in full; it must not
 * overlap the others. A batched GEMM each time: there is no other way to choose from. KS_ERR_UNSUPPORTED on CUDA without
 * cuBLAS. */
KS_API ks_status ks_grad_weights(ks_context *ctx, const ks_problem *problem, const void *x, const void *dy, void *dk,
                                 void *stream);

/* ---------------------------------------------------------------------------------------------------
 * Chains: Y = X * transpose(W) with W = K_1 K_2 ... K_L, planned as one. The last factor is applied first.
 * ------------------------------------------------------------------------------------------------- */

typedef struct ks_chain ks_chain;

/* Plans a product by `count` factors (at most 64), K_1 first. Each is a problem of its own pattern; batch, type, layout and
 * math must be the same in all, and neighbours must fit: a*b*d of a factor is a*c*d of the one before. X and Y are in the
 * layout given; inside, each factor runs in the layout that makes the whole fastest, as predicted, with transpositions where
 * layouts change, their time counted. Factors are never multiplied together, even where a dense matrix would be faster:
 * ks_chain_describe says what that would take.
 *
 * plan: NULL, or text from ks_chain_plan (or written by hand) to do it just so: for each factor in the order of application
 * KERNEL/LAYOUT, where KERNEL is as `path` in ks_matmul: "fused.cpu.rows/first bmm/last". KS_ERR_PARSE says what is wrong. A pair
 * kernel does two factors in one launch, and its word stands for both: "fused2.cuda/first bmm/last" is three factors. Without a
 * plan one is taken where it is predicted faster than the two apart, and needs no memory for what lies between them.
 *
 * The context must outlive the chain. A chain serves any number of threads at once. *chain is NULL after a failure. */
KS_API ks_status ks_chain_open(ks_chain **chain, ks_context *ctx, const ks_problem *factors, int count,
                               const char *plan);
KS_API void ks_chain_close(ks_chain *chain); /* NULL is allowed */

/* The product. k: the factors' weights in block order, K_1 first; the pointers are the host's. y must not overlap the
 * others. Memory, stream and errors are as in ks_auto_matmul; workspace, for what is between two passes and for the kernels,
 * comes from the context. */
KS_API ks_status ks_chain_matmul(ks_chain *chain, const void *x, const void *const *k, void *y, void *stream);

/* The same with an epilogue behind the last factor; NULL: none. The plan is made without it; where it does that factor together
 * with another in one launch, they are then done by two. */
KS_API ks_status ks_chain_matmul_with(ks_chain *chain, const void *x, const void *const *k, void *y,
                                      const ks_epilogue *epilogue, void *stream);

/* What will be done: a line of totals and a line for each pass, in order. The chain's own string, as is the plan. */
KS_API const char *ks_chain_describe(const ks_chain *chain);
KS_API const char *ks_chain_plan(const ks_chain *chain);
KS_API double ks_chain_predicted_s(const ks_chain *chain); /* NaN where a plan names ref.cpu */
KS_API size_t ks_chain_workspace_bytes(const ks_chain *chain);

/* ---------------------------------------------------------------------------------------------------
 * Advice
 * ------------------------------------------------------------------------------------------------- */

/* The rung of the ladder a decision stands on, best first, or what overrules it. */
typedef enum ks_source {
    KS_FROM_MEASUREMENT = 0, /* this very problem was measured on this device, and the winner is significant */
    KS_FROM_MODEL,           /* predicted by a model fitted to measurements of this device */
    KS_FROM_SEEDS,           /* predicted by the shipped model of this device, or of the nearest one */
    KS_FROM_COST_MODEL,      /* predicted from bytes, flops and launches alone */
    KS_FROM_DECISIONS,       /* not from the ladder: pinned by the table of decisions */
    KS_NSOURCES
} ks_source;

KS_API const char *ks_source_name(ks_source source); /* "measurement", "model", "seeds", "cost-model", "decisions" */

enum { KS_MAX_CANDIDATES = 16, KS_NAME_BYTES = 64, KS_DEVICE_BYTES = 128 };

typedef struct ks_candidate {
    char kernel[KS_NAME_BYTES];
    ks_family family;
    double time_s;               /* predicted (or measured) time of one product */
    double time_lo_s, time_hi_s; /* 80 % interval */
} ks_candidate;

typedef struct ks_advice {
    ks_problem problem;
    char device[KS_DEVICE_BYTES];
    ks_objective objective; /* with KS_ENERGY every time_s below is joules */
    ks_family path;
    char kernel[KS_NAME_BYTES];
    ks_source source;
    char source_device[KS_DEVICE_BYTES]; /* whose measurements were used; "" for the cost model */
    int candidate_count;                 /* fastest first */
    ks_candidate candidates[KS_MAX_CANDIDATES];
    double p_fused_faster;  /* probability that the best fused kernel beats the best bmm kernel */
    double expected_regret; /* expected time over the best kernel's time, minus 1 */
    double roofline_s;      /* max(bytes / copy rate, flops / GEMM rate of the type) */
    double dense_s;         /* the roofline time of the dense matrix of the same shape */
} ks_advice;

/* The name of the kernel that ks_auto_matmul would take: the decision alone, at its price. Static storage. */
KS_API ks_status ks_choose(ks_context *ctx, const ks_problem *problem, const char **kernel);

/* What ks_auto_matmul would take for this problem, and why. Touches no array. */
KS_API ks_status ks_advise(ks_context *ctx, const ks_problem *problem, ks_advice *advice);

/* What an advice rests on. */
typedef struct ks_part {
    double amount; /* how much of it there is */
    double time_s; /* its share of the candidate's time (of its joules, for KS_ENERGY) */
} ks_part;

/* What a candidate does, and what of its time goes into it: the five times add up to the candidate's time_s. How much a unit of
 * each takes was fitted to the measurements (without any it is assumed), and what these say of problems like this one
 * scales all five alike. */
typedef struct ks_cost {
    ks_part launches; /* starts of kernels, or of the team of threads */
    ks_part bytes;    /* to and from memory */
    ks_part flops;    /* padding, idle units and slower arithmetic included; below the problem's: counted otherwise */
    ks_part elements; /* put in another order, or converted, on the chip */
    ks_part tiles;    /* tiles or GEMM calls of the busiest unit */
    double nearby;    /* what measurements nearby make of the sum of the costs: 1.2 is 20 % more */
    bool fitted;      /* the costs were, and are not assumed */
    bool own;         /* the amounts are the kernel's; false: this build lacks it, and they are the problem's */
} ks_cost;

enum { KS_MAX_NEIGHBOURS = 4 };

/* A problem that was measured, and that the model takes to be like the one asked about. */
typedef struct ks_neighbour {
    ks_problem problem;
    bool borrowed;   /* measured on another device, and put into terms of this one */
    double likeness; /* correlation of what the costs leave unexplained, 0 to 1: mean over the candidates */
    double time_s[KS_MAX_CANDIDATES]; /* as measured, in the order of the advice's candidates; NaN: not measured */
} ks_neighbour;

typedef struct ks_explanation {
    ks_advice advice;
    ks_cost cost[KS_MAX_CANDIDATES]; /* of each candidate, in their order */
    int neighbour_count;
    ks_neighbour neighbours[KS_MAX_NEIGHBOURS]; /* the most alike first; none without a fitted model */
} ks_explanation;

/* ks_advise, and what it rests on. Takes some ten times as long. */
KS_API ks_status ks_explain(ks_context *ctx, const ks_problem *problem, ks_explanation *explanation);

/* ---------------------------------------------------------------------------------------------------
 * Measuring and calibrating
 * ------------------------------------------------------------------------------------------------- */

/* One measurement: one problem, one kernel, one device. */
typedef struct ks_measurement {
    ks_problem problem;
    char device[KS_DEVICE_BYTES];
    char kernel[KS_NAME_BYTES];
    unsigned kernel_version;
    ks_family family;
    ks_status status; /* KS_OK, or why there is no usable time (then time_s is NaN) */
    char reason[96];  /* why it failed, was quarantined, or why sampling stopped */
    double time_s;    /* median of the samples; their mean if reason begins with "unsteady" */
    double spread;    /* half the interquartile range over the median */
    double energy_j;  /* of one product; NaN if not read */
    int samples;
    double measured_at_s; /* seconds since 1970, UTC */
    double clock_hz;      /* of the device's multiprocessors meanwhile; 0 if not read */
} ks_measurement;

typedef struct ks_progress {
    const char *phase; /* "rates", "canaries", "measure", "fit", "accept" */
    int measured;      /* problems measured in this run */
    int stored;        /* problems the store holds for this device and type */
    double elapsed_s, left_s;
    double
        expected_regret; /* mean over the design's candidates, as the model sees it now; NaN before the first fit */
} ks_progress;

typedef struct ks_regret {
    int problems;
    double mean, median, p95, max;
} ks_regret;

/* Regret on fresh problems that no fit has seen, for one type and layout. */
typedef struct ks_acceptance {
    ks_type type;
    ks_layout layout;
    ks_regret advisor, always_fused, always_bmm, ratio; /* ratio: fused iff (b+c)/(bc) >= its best threshold */
    double ratio_threshold;
    double agreement; /* share of problems where the advisor took the very best kernel */
    int measured;     /* problems the model was fitted on */
} ks_acceptance;

typedef struct ks_calibrate_options {
    const char *device, *store;                        /* as in ks_options */
    double budget_s;                                   /* 0: 60 s */
    double target_regret;                              /* stop early at this expected regret; 0: use the budget */
    unsigned types;                                    /* bit 1u << ks_type; 0: KS_F32, on GPUs also the halves */
    unsigned layouts;                                  /* bit 1u << ks_layout; 0: both */
    uint64_t seed;                                     /* of the acceptance problems; 0: from the clock */
    bool alone;                                        /* do not start from what is known of the nearest device */
    bool (*progress)(void *user, const ks_progress *); /* false stops the run: all that was measured is kept */
    void *user;
    int64_t
        memory_bytes; /* most of the device's memory that measuring may hold at once; 0: half of what it has. Problems
                                      that need more, or more than is free, are left out */
    /* Called before every run of a kernel, with its name and what it is to compute, and with NULL when none runs any more: for
     * whoever calibrates in a process of its own, so as to know what ended it. */
    void (*running)(void *user, const ks_measurement *);
} ks_calibrate_options;

typedef struct ks_calibrate_report {
    char device[KS_DEVICE_BYTES];
    double elapsed_s, copy_bytes_per_s, gemm_flops_per_s[KS_NTYPES];
    int measured;
    /* Where a driver, a BLAS or a kernel is of another version than when the stored rows were measured: how many problems were
     * measured again, and for how many kernels (of each type and layout) the rows were found to be as good as new, to be off
     * by one factor, and of no use any more. */
    int canaries, kept, rescaled, set_aside;
    int count; /* of entries below */
    ks_acceptance acceptance[KS_NTYPES * KS_NLAYOUTS];
} ks_calibrate_report;

/* Measures on the device, stores every measurement as it is made, fits, and reports regret on fresh problems. Goes
 * on from what the store holds. In libksauto_calib. KS_ERR_STORE if nothing can be stored; KS_ERR_INTERRUPTED if
 * progress returned false (what was measured is stored). A context must be opened anew to see the result.
 *
 * A kernel that is wrong or fails gets a row that says so instead of a time; it is not run on that
 * problem again, nor chosen for it. With three such problems, and one in ten, it is out for the type and layout, until its
 * version changes. Kernels run in the calling process: one that crashes takes the process with it, and one that breaks the
 * GPU ends the run (KS_ERR_DEVICE; its row is stored). The command `ksauto calibrate` therefore runs this in a child process,
 * learns by `running` which kernel it was, stores its row, and goes on in another. */
KS_API ks_status ks_calibrate(const ks_calibrate_options *options, ks_calibrate_report *report);

#ifdef __cplusplus
}
#endif
#endif
