/* The library on a GPU as its callers use it: on several streams at once, inside CUDA graphs, from several threads on one
 * context, with memory that a GPU cannot read, and without memory. What these have in common is time: a call returns
 * before its work is done, so whatever the library keeps (workspace above all) must outlive the call and yet be nobody
 * else's. Each check therefore queues much and looks afterwards.
 *
 * Without a GPU it says so and is skipped (77). KS_TEST_SEED as in test_gpu.c. */
#include "trial.h"
#include "kernel.h"
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77, STREAMS = 3, TRIALS = 6, ROUNDS = 8, THREADS = 6, MOST_CHUNKS = 512, LEGS = 60 };

static ks_device gpu;
static uint64_t seed;

#define assert_cuda(call) assert_string_equal(cudaGetErrorName(call), "cudaSuccess")

static ks_context *open_context(void)
{
    const ks_options options = {.device = "cuda:0", .store = ""};
    ks_context *ctx;
    const ks_status status = ks_open(&ctx, &options);
    if (status != KS_OK) fail_msg("ks_open: %s", ks_status_message(status));
    return ctx;
}

/* Paths through every kernel that can, by turns; NULL past the last. The first two go through the choice. */
static const char *path_for(const ks_problem *p, int turn)
{
    const ks_kernel *kernels[KS_MAX_KERNELS];
    const int count = ks_kernels_for(p, &gpu, kernels);
    if (turn == 0) return "auto";
    if (turn == 1) return "fused";
    return turn - 2 < count ? kernels[turn - 2]->name : NULL;
}

static const char *some_path(const ks_problem *p, rng *r)
{
    int count = 0;
    while (path_for(p, count) != NULL) count++;
    return path_for(p, (int)rng_below(r, (uint64_t)count));
}

/* Large enough for work to be queued up behind it, and for workspace to differ from one to the next. */
static ks_problem draw(rng *r)
{
    const problem_bounds bounds = {.lo = {.a = 1, .b = 8, .c = 8, .d = 1, .batch = 8},
                                   .hi = {.a = 8, .b = 96, .c = 96, .d = 32, .batch = 300},
                                   .flops_max = 4e6,
                                   .bytes_max = 1e6,
                                   .awkward = 0.3};
    return problem_random(r, &bounds);
}

static ks_status run_on(ks_context *ctx, trial *t, const char *path, cudaStream_t stream)
{
    return ks_matmul(ctx, &t->problem, path, t->x.data, t->k.data, t->y.data, stream);
}

/* ---- streams ---- */

static void test_streams(void **state)
{
    ks_context *ctx = open_context();
    static trial trials[STREAMS][TRIALS];
    cudaStream_t streams[STREAMS];
    char why[TRIAL_WHY_BYTES];
    rng r = rng_make(seed, 1);
    (void)state;
    for (int s = 0; s < STREAMS; s++) {
        assert_cuda(cudaStreamCreateWithFlags(&streams[s], s == 0 ? cudaStreamDefault : cudaStreamNonBlocking));
        for (int n = 0; n < TRIALS; n++) {
            const ks_problem p = draw(&r);
            assert_true(trial_make_on(&trials[s][n], &gpu, &p, TRIAL_PLAIN, &r));
        }
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int s = 0; s < STREAMS; s++)
            for (int n = 0; n < TRIALS; n++) assert_true(trial_begin(&trials[s][n]));
        for (int n = 0; n < TRIALS; n++)
            for (int s = 0; s < STREAMS; s++) {
                const char *path = some_path(&trials[s][n].problem, &r);
                const ks_status status = run_on(ctx, &trials[s][n], path, streams[s]);
                if (status != KS_OK) fail_msg("%s: %s", path, ks_status_message(status));
            }
        for (int s = 0; s < STREAMS; s++)
            for (int n = 0; n < TRIALS; n++)
                if (!trial_end(&trials[s][n], "one of several streams", why)) fail_msg("%s", why);
    }
    for (int s = 0; s < STREAMS; s++) {
        for (int n = 0; n < TRIALS; n++) trial_free(&trials[s][n]);
        assert_cuda(cudaStreamDestroy(streams[s]));
    }
    ks_close(ctx);
}

/* ---- graphs ---- */

/* Captures one product, then replays it with other values in the same arrays, other work in between. */
static void replay(ks_context *ctx, trial *t, const char *path, enum cudaStreamCaptureMode mode, rng *r)
{
    char why[TRIAL_WHY_BYTES], text[PROBLEM_TEXT_BYTES];
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    assert_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    assert_cuda(cudaStreamBeginCapture(stream, mode));
    const ks_status status = run_on(ctx, t, path, stream);
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (status != KS_OK || ended != cudaSuccess)
        fail_msg("capture of %s on %s: %s; end of capture: %s", path, problem_text(&t->problem, text),
                 status == KS_OK ? "ok" : ks_status_message(status), cudaGetErrorName(ended));
    assert_cuda(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 3; round++) {
        if (round > 0) assert_true(trial_renew(t, TRIAL_PLAIN, r));
        assert_true(trial_begin(t));
        assert_cuda(cudaGraphLaunch(exec, stream));
        if (!trial_end(t, path, why)) fail_msg("replay %d: %s", round, why);
        /* The same outside: the graph must not have kept what others now use. */
        assert_true(trial_begin(t));
        assert_int_equal(run_on(ctx, t, path, NULL), KS_OK);
        if (!trial_end(t, path, why)) fail_msg("after replay %d: %s", round, why);
    }
    assert_cuda(cudaGraphExecDestroy(exec));
    assert_cuda(cudaGraphDestroy(graph));
    assert_cuda(cudaStreamDestroy(stream));
}

static void test_graphs(void **state)
{
    static const enum cudaStreamCaptureMode modes[] = {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                                                       cudaStreamCaptureModeRelaxed};
    rng r = rng_make(seed, 2);
    (void)state;
    for (int n = 0; n < 12; n++) {
        /* A context of its own: each first use happens inside the capture. */
        ks_context *ctx = open_context();
        const ks_problem p = draw(&r);
        trial t;
        assert_true(trial_make_on(&t, &gpu, &p, TRIAL_PLAIN, &r));
        for (int turn = 0; path_for(&p, turn) != NULL; turn++) replay(ctx, &t, path_for(&p, turn), modes[n % 3], &r);
        trial_free(&t);
        ks_close(ctx);
    }
}

/* Two graphs with workspace, replayed at the same time on two streams. */
static void test_graphs_together(void **state)
{
    ks_context *ctx = open_context();
    trial trials[2];
    cudaStream_t streams[2];
    cudaGraphExec_t execs[2];
    char why[TRIAL_WHY_BYTES];
    rng r = rng_make(seed, 3);
    (void)state;
    for (int g = 0; g < 2; g++) {
        const ks_problem p = {.a = 2, .b = 64, .c = 64, .d = 8, .batch = 200, .type = g == 0 ? KS_F32 : KS_F16};
        cudaGraph_t graph;
        assert_true(trial_make_on(&trials[g], &gpu, &p, TRIAL_PLAIN, &r));
        assert_cuda(cudaStreamCreateWithFlags(&streams[g], cudaStreamNonBlocking));
        assert_cuda(cudaStreamBeginCapture(streams[g], cudaStreamCaptureModeThreadLocal));
        assert_int_equal(run_on(ctx, &trials[g], gpu.blas[0] ? "bmm" : "fused", streams[g]), KS_OK);
        assert_cuda(cudaStreamEndCapture(streams[g], &graph));
        assert_cuda(cudaGraphInstantiate(&execs[g], graph, 0));
        assert_cuda(cudaGraphDestroy(graph));
        assert_true(trial_begin(&trials[g]));
    }
    for (int round = 0; round < 50; round++)
        for (int g = 0; g < 2; g++) assert_cuda(cudaGraphLaunch(execs[g], streams[g]));
    for (int g = 0; g < 2; g++) {
        if (!trial_end(&trials[g], "one of two graphs", why)) fail_msg("%s", why);
        assert_cuda(cudaGraphExecDestroy(execs[g]));
        assert_cuda(cudaStreamDestroy(streams[g]));
        trial_free(&trials[g]);
    }
    ks_close(ctx);
}

/* ---- threads ---- */

typedef struct worker {
    ks_context *ctx;
    unsigned number;
    bool ok;
    char why[TRIAL_WHY_BYTES];
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    rng r = rng_make(seed, 100 + w->number);
    cudaStream_t stream;
    w->ok = cudaSetDevice(gpu.index) == cudaSuccess &&
            cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess;
    if (!w->ok) {
        snprintf(w->why, sizeof w->why, "no stream");
        return NULL;
    }
    for (int n = 0; w->ok && n < TRIALS; n++) {
        const ks_problem p = draw(&r);
        trial t;
        w->ok = trial_make_on(&t, &gpu, &p, TRIAL_PLAIN, &r);
        if (!w->ok) {
            snprintf(w->why, sizeof w->why, "no memory");
            break;
        }
        for (int round = 0; w->ok && round < ROUNDS; round++) {
            const char *path = some_path(&p, &r);
            w->ok = trial_begin(&t);
            /* Several in a row: the second takes up what the first gave back while it still runs. */
            for (int again = 0; w->ok && again < 4; again++) {
                const ks_status status = run_on(w->ctx, &t, path, stream);
                w->ok = status == KS_OK;
                if (!w->ok) snprintf(w->why, sizeof w->why, "%s: %s", path, ks_status_message(status));
            }
            if (w->ok) w->ok = trial_end(&t, path, w->why);
        }
        trial_free(&t);
    }
    cudaStreamDestroy(stream);
    return NULL;
}

static void test_threads(void **state)
{
    ks_context *ctx = open_context();
    pthread_t threads[THREADS];
    worker workers[THREADS];
    (void)state;
    for (unsigned w = 0; w < THREADS; w++) {
        workers[w] = (worker){.ctx = ctx, .number = w};
        assert_int_equal(pthread_create(&threads[w], NULL, work, &workers[w]), 0);
    }
    for (unsigned w = 0; w < THREADS; w++) pthread_join(threads[w], NULL);
    for (unsigned w = 0; w < THREADS; w++)
        if (!workers[w].ok) fail_msg("thread %u: %s", w, workers[w].why);
    ks_close(ctx);
}

/* ---- one after another ---- */

/* Products that each read what the last one wrote, and write where it read. */
typedef struct relay {
    ks_problem problem;
    const char *paths[LEGS];
    void *arrays[2], *weights, *bias;
} relay;

/* All legs; after each, with `waits`, the stream is waited for. */
static void run_relay(ks_context *ctx, const relay *r, cudaStream_t stream, bool waits)
{
    for (int leg = 0; leg < LEGS; leg++) {
        const ks_epilogue epilogue = {.alpha = 1, .bias = r->bias, .activation = KS_RELU};
        const void *from = r->arrays[leg % 2];
        const ks_status status = ks_matmul_with(ctx, &r->problem, r->paths[leg], from, r->weights,
                                                r->arrays[1 - leg % 2], leg % 5 == 3 ? &epilogue : NULL, stream);
        if (status != KS_OK) fail_msg("%s: %s", r->paths[leg], ks_status_message(status));
        if (waits) assert_cuda(cudaStreamSynchronize(stream));
    }
}

/* How a relay is run. */
enum manner { WAITING, QUEUED, CAPTURED, MANNERS };

static void run_in_manner(ks_context *ctx, const relay *r, cudaStream_t stream, enum manner how)
{
    if (how == CAPTURED) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        assert_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        run_relay(ctx, r, stream, false);
        assert_cuda(cudaStreamEndCapture(stream, &graph));
        assert_cuda(cudaGraphInstantiate(&exec, graph, 0));
        assert_cuda(cudaGraphLaunch(exec, stream));
        assert_cuda(cudaStreamSynchronize(stream));
        assert_cuda(cudaGraphExecDestroy(exec));
        assert_cuda(cudaGraphDestroy(graph));
        return;
    }
    run_relay(ctx, r, stream, how == WAITING);
    assert_cuda(cudaStreamSynchronize(stream));
}

/* A kernel may begin before what lies ahead of it in its stream has ended (launch.cuh). What comes out is the same to the last bit
 * as if each had been waited for. */
static void test_one_after_another(void **state)
{
    static const struct {
        int64_t a, side, d, batch;
    } shapes[] = {{2, 64, 8, 700}, {1, 48, 1, 3000}, {4, 32, 3, 500},    {1, 128, 16, 200},
                  {1, 256, 1, 40}, {3, 37, 2, 60},   {1, 128, 1, 20000}, {8, 64, 2, 4000}};
    ks_context *ctx = open_context();
    cudaStream_t stream;
    rng r = rng_make(seed, 6);
    (void)state;
    assert_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (size_t n = 0; n < 4 * (sizeof shapes / sizeof *shapes); n++) {
        relay run = {.problem = {.a = shapes[n / 4].a,
                                 .b = shapes[n / 4].side,
                                 .c = shapes[n / 4].side,
                                 .d = shapes[n / 4].d,
                                 .batch = shapes[n / 4].batch,
                                 .type = n % 2 ? KS_F32 : KS_F16,
                                 .layout = n / 2 % 2 ? KS_BATCH_LAST : KS_BATCH_FIRST}};
        const ks_problem *p = &run.problem;
        const size_t size = ks_type_bytes(p->type), bytes = size * (size_t)ks_x_count(p),
                     k_bytes = size * (size_t)ks_k_count(p);
        char *const host = malloc(k_bytes), *const first = malloc(bytes), *const now = malloc(bytes);
        assert_true(host != NULL && first != NULL && now != NULL);
        assert_int_equal(ks_memory_alloc(&gpu, bytes, &run.arrays[0]), KS_OK);
        assert_int_equal(ks_memory_alloc(&gpu, bytes, &run.arrays[1]), KS_OK);
        assert_int_equal(ks_memory_alloc(&gpu, k_bytes, &run.weights), KS_OK);
        const double most = sqrt(3 / (double)p->c); /* products as large as what they are made of */
        for (int64_t i = 0; i < ks_k_count(p); i++)
            value_store(p->type, host, (size_t)i, most * (2 * rng_unit(&r) - 1));
        assert_int_equal(ks_memory_put(&gpu, run.weights, host, k_bytes), KS_OK);
        run.bias = run.weights; /* values as good as any */
        for (int leg = 0; leg < LEGS; leg++) run.paths[leg] = some_path(p, &r);
        for (enum manner how = WAITING; how < MANNERS; how++) {
            assert_int_equal(ks_memory_randomise(&gpu, run.arrays[0], bytes, n), KS_OK);
            assert_int_equal(ks_memory_set(&gpu, run.arrays[1], 0xff, bytes), KS_OK);
            assert_int_equal(ks_device_wait(&gpu), KS_OK);
            run_in_manner(ctx, &run, stream, how);
            assert_int_equal(ks_memory_get(&gpu, how == WAITING ? first : now, run.arrays[LEGS % 2], bytes), KS_OK);
            char text[PROBLEM_TEXT_BYTES];
            if (how != WAITING && memcmp(first, now, bytes) != 0)
                fail_msg("%s: %d products in a row differ from the same, each waited for", problem_text(p, text),
                         LEGS);
        }
        free(host), free(first), free(now);
        ks_memory_free(&gpu, run.arrays[0]), ks_memory_free(&gpu, run.arrays[1]), ks_memory_free(&gpu, run.weights);
    }
    assert_cuda(cudaStreamDestroy(stream));
    ks_close(ctx);
}

/* ---- what goes wrong ---- */

static void assert_works(ks_context *ctx)
{
    const ks_problem p = {.a = 2, .b = 24, .c = 40, .d = 3, .batch = 50, .type = KS_F32};
    char why[TRIAL_WHY_BYTES];
    rng r = rng_make(seed, 4);
    trial t;
    assert_true(trial_make_on(&t, &gpu, &p, TRIAL_PLAIN, &r));
    assert_true(trial_begin(&t));
    assert_int_equal(ks_auto_matmul(ctx, &p, t.x.data, t.k.data, t.y.data, NULL), KS_OK);
    if (!trial_end(&t, "auto", why)) fail_msg("%s", why);
    trial_free(&t);
}

static void test_host_pointers(void **state)
{
    static const char *const names[] = {"x", "k", "y"};
    const ks_problem p = {.a = 2, .b = 16, .c = 16, .d = 4, .batch = 64, .type = KS_F32};
    const size_t bytes = 1 << 20;
    ks_context *ctx = open_context();
    void *device, *host = calloc(1, bytes);
    int pageable = 0;
    (void)state;
    assert_non_null(host);
    assert_int_equal(ks_memory_alloc(&gpu, 3 * bytes, &device), KS_OK);
    assert_cuda(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, gpu.index));
    for (int which = 0; which < 3; which++) {
        void *arrays[3];
        for (int n = 0; n < 3; n++) arrays[n] = n == which ? host : (char *)device + (size_t)n * bytes;
        const ks_status status = ks_auto_matmul(ctx, &p, arrays[0], arrays[1], arrays[2], NULL);
        if (status == KS_OK && pageable) continue; /* this machine's GPU reads all of the host's memory */
        if (status != KS_ERR_ARGUMENT || strstr(ks_status_message(status), names[which]) == NULL)
            fail_msg("%s in host memory: %s, %s", names[which], ks_status_name(status), ks_status_message(status));
    }
    assert_int_equal(ks_device_wait(&gpu), KS_OK);
    assert_works(ctx);
    ks_memory_free(&gpu, device);
    free(host);
    ks_close(ctx);
}

static void test_too_large(void **state)
{
    ks_context *ctx = open_context();
    const size_t bytes = 4 * (size_t)gpu.memory_bytes;
    void *memory;
    (void)state;
    assert_int_equal(ks_memory_alloc(&gpu, bytes, &memory), KS_ERR_MEMORY);
    assert_null(memory);
    assert_int_equal(ks_workspace_reserve(ctx, bytes), KS_ERR_MEMORY);
    assert_works(ctx);
    ks_close(ctx);
}

/* With the device's memory taken, a kernel that needs workspace says so, and the automatic path does without. */
static void test_memory_short(void **state)
{
    const ks_problem p = {.a = 4, .b = 64, .c = 64, .d = 16, .batch = 16384, .type = KS_F16};
    const size_t x_bytes = 2 * (size_t)ks_x_count(&p), k_bytes = 2 * (size_t)ks_k_count(&p),
                 y_bytes = 2 * (size_t)ks_y_count(&p);
    ks_context *ctx = open_context();
    static void *chunks[MOST_CHUNKS];
    void *x, *k, *y, *host_x = malloc(x_bytes), *host_k = malloc(k_bytes), *host_y = malloc(y_bytes);
    int count = 0;
    rng r = rng_make(seed, 5);
    (void)state;
    assert_true(host_x != NULL && host_k != NULL && host_y != NULL);
    assert_works(ctx);
    assert_int_equal(ks_memory_alloc(&gpu, x_bytes, &x), KS_OK);
    assert_int_equal(ks_memory_alloc(&gpu, k_bytes, &k), KS_OK);
    assert_int_equal(ks_memory_alloc(&gpu, y_bytes, &y), KS_OK);
    assert_int_equal(ks_memory_randomise(&gpu, x, x_bytes, 1), KS_OK);
    assert_int_equal(ks_memory_randomise(&gpu, k, k_bytes, 2), KS_OK);
    assert_int_equal(ks_memory_set(&gpu, y, 0xff, y_bytes), KS_OK);
    for (size_t chunk = (size_t)8 << 30; chunk >= (size_t)32 << 20; chunk /= 4)
        while (count < MOST_CHUNKS && ks_memory_alloc(&gpu, chunk, &chunks[count]) == KS_OK) count++;
    const ks_status named = gpu.blas[0] ? ks_matmul(ctx, &p, "bmm.cuda.permute", x, k, y, NULL) : KS_ERR_MEMORY;
    const ks_status automatic = ks_auto_matmul(ctx, &p, x, k, y, NULL), waited = ks_device_wait(&gpu);
    while (count > 0) ks_memory_free(&gpu, chunks[--count]);
    assert_int_equal(named, KS_ERR_MEMORY);
    assert_int_equal(automatic, KS_OK);
    assert_int_equal(waited, KS_OK);

    assert_int_equal(ks_memory_get(&gpu, host_x, x, x_bytes), KS_OK);
    assert_int_equal(ks_memory_get(&gpu, host_k, k, k_bytes), KS_OK);
    assert_int_equal(ks_memory_get(&gpu, host_y, y, y_bytes), KS_OK);
    for (int s = 0; s < 1000; s++) {
        const int64_t n = (int64_t)rng_below(&r, (uint64_t)p.batch), i = (int64_t)rng_below(&r, (uint64_t)p.a);
        const int64_t j = (int64_t)rng_below(&r, (uint64_t)p.b), l = (int64_t)rng_below(&r, (uint64_t)p.d);
        double magnitude;
        const double reference = problem_reference_at(&p, host_x, host_k, n, i, j, l, &magnitude);
        const double found = value_load(p.type, host_y, (size_t)problem_y_index(&p, n, i, j, l));
        assert_true(trial_product_right(&p, found, reference, magnitude));
    }
    free(host_x), free(host_k), free(host_y);
    ks_memory_free(&gpu, x), ks_memory_free(&gpu, k), ks_memory_free(&gpu, y);
    assert_works(ctx);
    ks_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),         cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_graphs_together), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_too_large),       cmocka_unit_test(test_memory_short),
        cmocka_unit_test(test_host_pointers),   cmocka_unit_test(test_one_after_another),
    };
    if (ks_device_cuda(0, &gpu) != KS_OK) {
        printf("skipped: %s\n", ks_status_message(KS_ERR_DEVICE));
        return SKIPPED;
    }
    seed = rng_seed_from_env("KS_TEST_SEED");
    print_message("KS_TEST_SEED=%" PRIu64 " on %s\n", seed, gpu.name);
    return cmocka_run_group_tests_name("gpu_streams", tests, NULL, NULL);
}
