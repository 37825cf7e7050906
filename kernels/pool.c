/* A team of workers with a gate.
 *
 * The gate is one 64-bit word: generation | open | joined. The owner opens a new generation; a worker joins by
 * raising `joined` while the gate is open, and takes tasks from a counter; when the owner finds no task left it
 * closes the gate and waits only for those who did join. A worker that wakes late finds the gate closed and sleeps
 * again: a small job never waits for a slow wake-up. Workers spin for a short while before they sleep, because
 * matmuls come in rows. To wake them costs the owner, too (on a virtual machine 13 us, and the worker comes after 40), so
 * it is done for large jobs, and for small ones that do come in a row.
 *
 * Why not OpenMP: a team per calling thread oversubscribes, and ThreadSanitizer cannot see into libgomp. */
#include "pool.h"
#include "timer.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MAX_THREADS = 256, SPINS = 4000 };

static const double wake_s = 100e-6; /* jobs that are worth a wake-up by themselves */
static const double row_s = 200e-6;  /* between jobs that come in a row: about as long as a worker spins */

#define GATE_OPEN       ((uint64_t)1 << 31)
#define GATE_JOINED     (GATE_OPEN - 1)
#define GATE_GENERATION (~(GATE_OPEN | GATE_JOINED))

static struct {
    pthread_mutex_t owner; /* held by the caller whose job the team does */
    pthread_mutex_t sleep; /* guards going to sleep against being woken */
    pthread_cond_t wake;
    atomic_int sleepers;
    _Atomic uint64_t gate;
    atomic_bool stop;
    int workers; /* started; under owner */
    bool started;
    double ended_s; /* when the last job was done; under owner */
    pthread_t threads[MAX_THREADS];
    /* The job: written before the gate opens, read after joining. */
    void (*task)(void *, int64_t, int);
    void *arg;
    int64_t tasks;
    _Atomic int64_t next;
} team = {.owner = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static pthread_once_t threads_once = PTHREAD_ONCE_INIT;
static int threads_wanted = 1;

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* A whole number >= 1 at the start of the variable's value (OMP_NUM_THREADS may be a list); else 0. */
static int threads_from(const char *variable)
{
    const char *text = getenv(variable);
    long value = text ? strtol(text, NULL, 10) : 0;
    return value >= 1 ? (int)(value < MAX_THREADS ? value : MAX_THREADS) : 0;
}

static void after_fork_in_child(void)
{
    /* The workers stayed with the parent. Start from nothing; locks may have been held by threads that are gone. */
    pthread_mutex_init(&team.owner, NULL);
    pthread_mutex_init(&team.sleep, NULL);
    pthread_cond_init(&team.wake, NULL);
    atomic_store(&team.sleepers, 0);
    atomic_store(&team.gate, 0);
    team.started = false;
    team.workers = 0;
}

static void find_threads(void)
{
    int n = threads_from("KSAUTO_NUM_THREADS");
    if (!n) n = threads_from("OMP_NUM_THREADS");
    if (!n) {
        cpu_set_t set;
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    }
    threads_wanted = n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

int ks_pool_threads(void)
{
    pthread_once(&threads_once, find_threads);
    return threads_wanted;
}

static void take_tasks(int thread)
{
    int64_t index;
    while ((index = atomic_fetch_add_explicit(&team.next, 1, memory_order_relaxed)) < team.tasks)
        team.task(team.arg, index, thread);
}

/* Waits until the gate's generation is not `seen`, spinning first; returns the gate. */
static uint64_t await_gate(uint64_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        uint64_t gate = atomic_load(&team.gate);
        if ((gate & GATE_GENERATION) != seen || atomic_load(&team.stop)) return gate;
        relax();
    }
    pthread_mutex_lock(&team.sleep);
    atomic_fetch_add(&team.sleepers, 1);
    while ((atomic_load(&team.gate) & GATE_GENERATION) == seen && !atomic_load(&team.stop))
        pthread_cond_wait(&team.wake, &team.sleep);
    atomic_fetch_sub(&team.sleepers, 1);
    pthread_mutex_unlock(&team.sleep);
    return atomic_load(&team.gate);
}

static void *worker(void *arg)
{
    const int thread = (int)(intptr_t)arg;
    uint64_t seen = 0;
    for (;;) {
        uint64_t gate = await_gate(seen);
        if (atomic_load(&team.stop)) return NULL;
        while ((gate & GATE_OPEN) && (gate & GATE_GENERATION) != seen &&
               !atomic_compare_exchange_weak(&team.gate, &gate, gate + 1))
            ;
        if ((gate & GATE_OPEN) && (gate & GATE_GENERATION) != seen) {
            take_tasks(thread);
            atomic_fetch_sub(&team.gate, 1);
        }
        seen = gate & GATE_GENERATION;
    }
}

static void wake_workers(void)
{
    if (atomic_load(&team.sleepers) == 0) return;
    pthread_mutex_lock(&team.sleep);
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.sleep);
}

/* Under owner. A thread that cannot be had makes a smaller team, not a failure. */
static void start_workers(void)
{
    team.started = true;
    atomic_store(&team.stop, false);
    while (team.workers < threads_wanted - 1) {
        void *number = (void *)(intptr_t)(team.workers + 1);
        if (pthread_create(&team.threads[team.workers], NULL, worker, number) != 0) break;
        team.workers++;
    }
}

/* The library may be unloaded while the workers wait. */
__attribute__((destructor)) static void stop_workers(void)
{
    if (pthread_mutex_trylock(&team.owner) != 0) return;
    atomic_store(&team.stop, true);
    pthread_mutex_lock(&team.sleep);
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.sleep);
    for (int i = 0; i < team.workers; i++) pthread_join(team.threads[i], NULL);
    team.workers = 0;
    team.started = false;
    pthread_mutex_unlock(&team.owner);
}

void ks_pool_run(int64_t tasks, double alone_s, void (*task)(void *, int64_t, int), void *arg)
{
    if (tasks < 2 || alone_s <= KS_POOL_LEAST_S || ks_pool_threads() < 2 || pthread_mutex_trylock(&team.owner) != 0) {
        for (int64_t i = 0; i < tasks; i++) task(arg, i, 0);
        return;
    }
    const bool wakes = alone_s >= wake_s || ks_now_s() - team.ended_s < row_s;
    if (!team.started && wakes) start_workers();
    team.task = task, team.arg = arg, team.tasks = tasks;
    atomic_store_explicit(&team.next, 0, memory_order_relaxed);
    uint64_t generation = (atomic_load(&team.gate) & GATE_GENERATION) + 2 * GATE_OPEN;
    atomic_store(&team.gate, generation | GATE_OPEN);
    if (wakes) wake_workers();
    take_tasks(0);
    atomic_fetch_and(&team.gate, ~GATE_OPEN);
    for (int spins = 0; atomic_load(&team.gate) & GATE_JOINED; spins++)
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    team.ended_s = ks_now_s();
    pthread_mutex_unlock(&team.owner);
}

static void nothing(void *arg, int64_t index, int thread)
{
    (void)arg, (void)index, (void)thread;
}

void ks_pool_wake(void)
{
    enum { PATIENCE = 1000 };
    ks_pool_run(2, wake_s, nothing, NULL);
    for (int i = 0; i < PATIENCE && atomic_load(&team.sleepers) > 0; i++) sched_yield();
}
