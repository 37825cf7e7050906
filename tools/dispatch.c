/* ksauto bench --dispatch: nanoseconds of ks_auto_matmul's decision (ks_choose is that decision alone), for problems it
 * has seen and for new ones, from one thread and from several at once on one context. */
#include "bench.h"

#include "timer.h"
#include <pthread.h>
#include <stdlib.h>

enum { KNOWN = 64, KNOWN_CALLS = 2000000, NEW_CALLS = 2000, MAX_THREADS = 64, ROUNDS = 5 };

typedef struct caller {
    ks_context *ctx;
    pthread_barrier_t *start;
    uint64_t seed;
    double known_ns, new_ns;
    ks_status status;
} caller;

/* Problems that differ from call to call and from thread to thread; more of them than any memo need hold. */
static ks_problem problem_of(uint64_t number)
{
    return (ks_problem){.a = 1 + (int64_t)(number % 7),
                        .b = 16 + (int64_t)(number / 7 % 11) * 16,
                        .c = 16 + (int64_t)(number / 77 % 13) * 16,
                        .d = 1 + (int64_t)(number % 3),
                        .batch = 1 + (int64_t)number,
                        .type = KS_F32,
                        .layout = (ks_layout)(number % 2)};
}

static void *call(void *arg)
{
    caller *c = arg;
    const char *kernel;
    ks_problem known[KNOWN];
    pthread_barrier_wait(c->start);
    double start = ks_now_s();
    for (int i = 0; i < NEW_CALLS; i++) {
        const ks_problem p = problem_of(c->seed + (uint64_t)i);
        ks_status s = ks_choose(c->ctx, &p, &kernel);
        if (s != KS_OK) c->status = s;
    }
    c->new_ns = (ks_now_s() - start) * 1e9 / NEW_CALLS;
    for (int i = 0; i < KNOWN; i++) known[i] = problem_of(c->seed + (uint64_t)i);
    pthread_barrier_wait(c->start);
    start = ks_now_s();
    for (int i = 0; i < KNOWN_CALLS; i++)
        if (ks_choose(c->ctx, &known[i % KNOWN], &kernel) != KS_OK) c->status = KS_ERR_INTERNAL;
    c->known_ns = (ks_now_s() - start) * 1e9 / KNOWN_CALLS;
    return NULL;
}

/* The worst thread of the best round: a round that the system disturbed says nothing about a decision. */
static int measure(const cli *c, const char *device, int threads, double *known_ns, double *new_ns)
{
    *known_ns = *new_ns = 1e30;
    for (int round = 0; round < ROUNDS; round++) {
        ks_context *ctx;
        caller callers[MAX_THREADS];
        pthread_t ids[MAX_THREADS];
        pthread_barrier_t start;
        const ks_options options = {.device = device, .store = c->store};
        int code = cli_open(c, "bench", &options, &ctx), started = 1;
        if (code != CLI_GO_ON) return code;
        pthread_barrier_init(&start, NULL, (unsigned)threads);
        for (int t = 0; t < threads; t++)
            callers[t] =
                (caller){.ctx = ctx, .start = &start, .seed = (uint64_t)(round * MAX_THREADS + t) * NEW_CALLS};
        while (started < threads && pthread_create(&ids[started], NULL, call, &callers[started]) == 0) started++;
        if (started < threads)
            abort(); /* the barrier would never open: no thread can be had for a benchmark of threads */
        call(&callers[0]);
        double known = 0, fresh = 0;
        for (int t = 0; t < threads; t++) {
            if (t > 0) pthread_join(ids[t], NULL);
            if (callers[t].status != KS_OK) code = cli_status(callers[t].status);
            if (callers[t].known_ns > known) known = callers[t].known_ns;
            if (callers[t].new_ns > fresh) fresh = callers[t].new_ns;
        }
        pthread_barrier_destroy(&start);
        ks_close(ctx);
        if (code != CLI_GO_ON) return code;
        if (known < *known_ns) *known_ns = known;
        if (fresh < *new_ns) *new_ns = fresh;
    }
    return CLI_GO_ON;
}

int bench_dispatch(const cli *c, const char *device)
{
    cJSON *object = cli_result_json(), *rows = cJSON_AddArrayToObject(object, "dispatch");
    if (!c->json) printf("%7s  %16s  %14s\n", "threads", "known, ns a call", "new, ns a call");
    for (int threads = 1; threads <= 2; threads++) {
        double known_ns, new_ns;
        int code = measure(c, device, threads, &known_ns, &new_ns);
        if (code != CLI_GO_ON) {
            cJSON_Delete(object);
            return code;
        }
        if (!c->json) printf("%7d  %16.1f  %14.0f\n", threads, known_ns, new_ns);
        cJSON *row = cJSON_CreateObject();
        cli_add_integer(row, "threads", threads);
        cli_add_number(row, "known_ns", known_ns);
        cli_add_number(row, "new_ns", new_ns);
        cJSON_AddItemToArray(rows, row);
    }
    if (c->json) return cli_print_json(object);
    cJSON_Delete(object);
    return CLI_DONE;
}
