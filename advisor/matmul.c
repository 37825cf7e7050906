/* Multiplying: decide, borrow workspace, run.
 *
 * The CPU's workspaces are blocks in a small array of atomic pointers: a call exchanges one out and puts it back, so that
 * threads never wait for each other; a block that is too small is replaced by a larger one, and from then on nothing is
 * allocated. A device that works on after the call returns has a pool instead, from which memory is taken, and to which
 * it is given back, in the order of the caller's stream. */
#include "context.h"
#include "error.h"
#include "measure.h"
#include "memory.h"
#include "store.h"
#include "timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 64, FIRST_USE_ROUNDS = 5 };

typedef struct block {
    size_t bytes; /* behind the header */
} block;

/* A block of at least `bytes`, or NULL. */
static block *borrow(ks_context *ctx, size_t bytes)
{
    block *small = NULL;
    for (int i = 0; i < WORKSPACES; i++) {
        if (!atomic_load_explicit(&ctx->workspace[i], memory_order_relaxed)) continue;
        block *b = atomic_exchange(&ctx->workspace[i], NULL);
        if (b && b->bytes >= bytes) {
            free(small);
            return b;
        }
        if (b) {
            free(small);
            small = b;
        }
    }
    free(small);
    if (bytes > SIZE_MAX - 2 * HEADER) return NULL;
    const size_t room = (bytes + HEADER - 1) / HEADER * HEADER;
    block *b = aligned_alloc(HEADER, HEADER + room);
    if (b) b->bytes = room;
    return b;
}

static void give_back(ks_context *ctx, block *b)
{
    for (int i = 0; i < WORKSPACES; i++) {
        void *empty = NULL;
        if (atomic_compare_exchange_strong(&ctx->workspace[i], &empty, b)) return;
    }
    free(b);
}

ks_status ks_workspace_reserve(ks_context *ctx, size_t bytes)
{
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    if (ctx->pool && bytes > 0) { /* what was given back, the pool keeps */
        void *memory;
        ks_status s = ks_memory_pool_take(&ctx->device, ctx->pool, bytes, NULL, &memory);
        if (s == KS_OK) s = ks_memory_pool_give(&ctx->device, ctx->pool, memory, NULL);
        return s == KS_OK ? ks_device_wait(&ctx->device) : s; /* given back to all streams, then */
    }
    block *b = borrow(ctx, bytes);
    if (!b) return ks_fail(KS_ERR_MEMORY, "out of memory: %zu bytes of workspace", bytes);
    give_back(ctx, b);
    return KS_OK;
}

ks_status ks_workspace_bytes(ks_context *ctx, const ks_problem *p, const char *path, size_t *bytes)
{
    const ks_kernel *kernel;
    if (!ctx || !bytes) return ks_fail(KS_ERR_ARGUMENT, "%s is NULL", ctx ? "bytes" : "ctx");
    ks_status s = ks_problem_check(p);
    if (s == KS_OK) s = ks_context_resolve(ctx, p, path, &kernel);
    if (s == KS_OK) *bytes = kernel->workspace_bytes(p, &ctx->device);
    return s;
}

ks_status ks_context_take(ks_context *ctx, const char *who, size_t bytes, void *stream, void **memory)
{
    *memory = NULL;
    if (bytes == 0) return KS_OK;
    if (ctx->pool) return ks_memory_pool_take(&ctx->device, ctx->pool, bytes, stream, memory);
    block *b = borrow(ctx, bytes);
    if (!b) return ks_fail(KS_ERR_MEMORY, "out of memory: %s needs %zu bytes of workspace", who, bytes);
    *memory = (char *)b + HEADER;
    return KS_OK;
}

ks_status ks_context_give(ks_context *ctx, void *memory, void *stream, ks_status status)
{
    if (!memory) return status;
    if (!ctx->pool) {
        give_back(ctx, (block *)((char *)memory - HEADER));
        return status;
    }
    ks_status given = ks_memory_pool_give(&ctx->device, ctx->pool, memory, stream);
    return given == KS_OK ? status : given; /* the failure whose message is the last */
}

static ks_status run(ks_context *ctx, const ks_problem *p, const ks_kernel *kernel, ks_run_args *args)
{
    if (args->epilogue) return ks_context_run_with(ctx, p, kernel, args);
    const size_t bytes = kernel->workspace_bytes(p, &ctx->device);
    ks_status s = ks_context_take(ctx, kernel->name, bytes, args->stream, &args->workspace);
    return s == KS_OK ? ks_context_give(ctx, args->workspace, args->stream, kernel->run(p, args)) : s;
}

/* The kernel that needs least workspace, of those that have not failed here: what is left when memory is short. (Where even
 * that is not to be had, the CPU's reference needs none.) */
static const ks_kernel *frugal(const ks_context *ctx, const ks_problem *p)
{
    const ks_kernel *kernels[KS_MAX_KERNELS], *least = NULL;
    const int count = ks_failures_spare(&ctx->failures, p, kernels, ks_kernels_for(p, &ctx->device, kernels));
    for (int q = 0; q < count; q++)
        if (!least || kernels[q]->workspace_bytes(p, &ctx->device) < least->workspace_bytes(p, &ctx->device))
            least = kernels[q];
    return least;
}

ks_status ks_context_reaches(const ks_context *ctx, const void *array, int64_t count, ks_type type, const char *name)
{
    const size_t size = ks_type_bytes(type);
    if (ctx->device.backend != KS_CPU && (uintptr_t)array % size != 0)
        return ks_fail(KS_ERR_ARGUMENT, "%s (%p) is not aligned to its elements of %zu bytes", name, array, size);
    return ks_memory_check(&ctx->device, array, size * (size_t)count, name);
}

ks_status ks_context_run(ks_context *ctx, const ks_problem *p, const ks_kernel *kernel, ks_run_args *args)
{
    ks_status s = run(ctx, p, kernel, args);
    const ks_kernel *least = s == KS_ERR_MEMORY ? frugal(ctx, p) : NULL;
    if (least && least != kernel) s = run(ctx, p, least, args);
    if (s == KS_ERR_MEMORY && ctx->device.backend == KS_CPU) s = run(ctx, p, ks_kernel_find("ref.cpu"), args);
    return s;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct timed_run {
    ks_context *ctx;
    const ks_problem *problem;
    const ks_kernel *kernel;
    ks_run_args args;
} timed_run;

static ks_status run_timed(void *user, int index, void *stream)
{
    timed_run *t = user;
    (void)index;
    t->args.stream = stream;
    return run(t->ctx, t->problem, t->kernel, &t->args);
}

/* KS_MEASURE: races the candidates that may be fastest on the caller's own arrays (every one of them computes the
 * right y), within the budget; remembers and stores the result. Inputs are warm here, unlike in a calibration. On a
 * device with streams the race runs on a stream of its own, after all earlier work on the device; a device's first run of
 * a kernel pays for much else (loading it, above all), so it is not counted. */
static void measure_first_use(ks_context *ctx, const ks_problem *p, const ks_run_args *args)
{
    ks_prediction predicted[KS_MAX_KERNELS];
    double samples[KS_MAX_KERNELS][FIRST_USE_ROUNDS];
    int taken[KS_MAX_KERNELS] = {0};
    bool measured;
    if (ks_stream_capturing(&ctx->device, args->stream)) return;
    if (pthread_mutex_trylock(&ctx->measuring) != 0) return; /* another thread measures: predict this time */
    if (ks_device_wait(&ctx->device) != KS_OK) {
        pthread_mutex_unlock(&ctx->measuring);
        return;
    }
    const int count = ks_context_predict(ctx, p, false, predicted, &measured);
    if (ks_context_pinned(ctx, p, predicted, count) >= 0) measured = true; /* nothing that was measured would count */
    const double start = ks_now_s();
    const double best = count ? predicted[ks_prediction_best(predicted, count)].log_time : 0;
    for (int round = 0; !measured && round < FIRST_USE_ROUNDS; round++)
        for (int q = 0; q < count; q++) {
            const double expected = exp(predicted[q].log_time), left = ctx->measure_budget_s - (ks_now_s() - start);
            if (predicted[q].log_time > best + 1.5 || 2 * expected > left) continue;
            timed_run timed = {ctx, p, predicted[q].kernel, *args};
            double time;
            if (round == 0 && ctx->pool && ks_device_time(&ctx->device, run_timed, &timed, 1, &time) != KS_OK)
                continue;
            if (ks_device_time(&ctx->device, run_timed, &timed, 1, &time) == KS_OK) samples[q][taken[q]++] = time;
        }
    ks_prediction seen[KS_MAX_KERNELS];
    int raced = 0;
    ks_store *store = NULL;
    if (ctx->store_path && !measured && ctx->stored < MOST_STORED)
        ks_store_open(&store, ctx->store_path, KS_STORE_WRITE_BRIEFLY);
    for (int q = 0; !measured && q < count; q++) {
        if (taken[q] < 3) continue;
        qsort(samples[q], (size_t)taken[q], sizeof **samples, compare);
        const double median = samples[q][taken[q] / 2];
        seen[raced++] = (ks_prediction){.kernel = predicted[q].kernel, .log_time = log(median)};
        ks_measurement m = {.problem = *p,
                            .kernel_version = predicted[q].kernel->version,
                            .family = predicted[q].kernel->family,
                            .reason = "first use, warm inputs",
                            .time_s = median,
                            .energy_j = NAN,
                            .samples = taken[q],
                            .spread = (samples[q][taken[q] * 3 / 4] - samples[q][taken[q] / 4]) / 2 / median,
                            .measured_at_s = ks_clock_s()};
        snprintf(m.device, sizeof m.device, "%s", ctx->device.name);
        snprintf(m.kernel, sizeof m.kernel, "%s", predicted[q].kernel->name);
        ctx->stored++;
        if (store && ks_store_add(store, &m, samples[q]) != KS_OK) { /* the others would wait as long for nothing */
            ks_store_close(store);
            store = NULL;
        }
    }
    ks_store_close(store);
    if (raced > 0) ks_context_remember(ctx, p, seen[ks_prediction_best(seen, raced)].kernel); /* ties as always */
    pthread_mutex_unlock(&ctx->measuring);
    if (raced > 0 && ctx->explain) ks_context_explain(ctx, p);
}

static ks_status check(const ks_context *ctx, const ks_problem *p, const void *x, const void *k, const void *y)
{
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    ks_status s = ks_problem_check(p);
    if (s == KS_OK) s = ks_arrays_check(p, x, k, y);
    if (s == KS_OK && !ctx->here)
        s = ks_fail(KS_ERR_DEVICE, "device \"%s\" is known by its measurements only; it cannot multiply here",
                    ctx->device.name);
    return s;
}

/* Whether the device can reach the arrays: asked at a problem's first use, since it costs a good part of a launch. */
static ks_status check_arrays(const ks_context *ctx, const ks_problem *p, const ks_run_args *args)
{
    const size_t size = ks_type_bytes(p->type);
    ks_status s = ks_memory_check(&ctx->device, args->x, size * (size_t)ks_x_count(p), "x");
    if (s == KS_OK) s = ks_memory_check(&ctx->device, args->k, size * (size_t)ks_k_count(p), "k");
    return s == KS_OK ? ks_memory_check(&ctx->device, args->y, size * (size_t)ks_y_count(p), "y") : s;
}

ks_status ks_auto_matmul(ks_context *ctx, const ks_problem *p, const void *x, const void *k, void *y, void *stream)
{
    ks_status s = check(ctx, p, x, k, y);
    if (s != KS_OK) return s;
    ks_run_args args = {.device = &ctx->device, .x = x, .k = k, .y = y, .stream = stream};
    const ks_kernel *kernel = ks_context_recall(ctx, p);
    if (!kernel || ctx->check_arrays) s = check_arrays(ctx, p, &args);
    if (s != KS_OK) return s;
    if (!kernel && (ctx->flags & KS_MEASURE)) measure_first_use(ctx, p, &args);
    if (!kernel) kernel = ks_context_choose(ctx, p);
    if (!kernel) return ks_fail(KS_ERR_UNSUPPORTED, "no kernel supports this problem on \"%s\"", ctx->device.name);
    return ks_context_run(ctx, p, kernel, &args);
}

ks_status ks_matmul(ks_context *ctx, const ks_problem *p, const char *path, const void *x, const void *k, void *y,
                    void *stream)
{
    const ks_kernel *kernel;
    ks_status s = check(ctx, p, x, k, y);
    if (s == KS_OK && path && strcmp(path, "auto") == 0) return ks_auto_matmul(ctx, p, x, k, y, stream);
    if (s == KS_OK) s = ks_context_resolve(ctx, p, path, &kernel);
    if (s != KS_OK) return s;
    ks_run_args args = {.device = &ctx->device, .x = x, .k = k, .y = y, .stream = stream};
    s = check_arrays(ctx, p, &args);
    return s == KS_OK ? run(ctx, p, kernel, &args) : s;
}

ks_status ks_matmul_with(ks_context *ctx, const ks_problem *p, const char *path, const void *x, const void *k,
                         void *y, const ks_epilogue *epilogue, void *stream)
{
    if (ks_epilogue_is_plain(epilogue)) return ks_matmul(ctx, p, path, x, k, y, stream);
    const bool choose = path && strcmp(path, "auto") == 0;
    ks_status s = check(ctx, p, x, k, y);
    if (s != KS_OK) return s;
    ks_run_args args = {.device = &ctx->device, .x = x, .k = k, .y = y, .stream = stream, .epilogue = epilogue};
    const ks_kernel *kernel = choose ? ks_context_recall_with(ctx, p, epilogue) : NULL;
    const bool first_use = !kernel || ctx->check_arrays;
    s = ks_epilogue_check(ctx, p, epilogue, y, first_use);
    if (s == KS_OK && first_use) s = check_arrays(ctx, p, &args);
    if (s == KS_OK && choose && !kernel) kernel = ks_context_choose_with(ctx, p, epilogue);
    if (s == KS_OK && !kernel) s = ks_context_resolve(ctx, p, path, &kernel);
    if (s != KS_OK) return s;
    return choose ? ks_context_run(ctx, p, kernel, &args) : run(ctx, p, kernel, &args);
}
