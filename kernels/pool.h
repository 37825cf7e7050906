/* The team of threads that the CPU kernels share.
 *
 * One team a process. It belongs to one caller at a time; a caller that finds it busy does all its tasks itself, so
 * that many threads on one context never oversubscribe the machine. */
#ifndef KS_POOL_H
#define KS_POOL_H

#include <stdint.h>

/* Threads of the team, the caller's included: KSAUTO_NUM_THREADS, else OMP_NUM_THREADS, else the cores in this
 * process's affinity mask. Read once. */
int ks_pool_threads(void);

/* A job that one thread does in less is no work for a team. */
#define KS_POOL_LEAST_S 10e-6

/* Calls task(arg, index, thread) for every index in [0, tasks), on the team's threads; 0 <= thread <
 * ks_pool_threads(), and no two calls at once share a thread number within one ks_pool_run. Returns when all are
 * done. alone_s is, roughly, how long one thread would take. If that is little, or the team is busy, the caller does all of it as
 * thread 0; if it is not much, those help who are awake. */
void ks_pool_run(int64_t tasks, double alone_s, void (*task)(void *arg, int64_t index, int thread), void *arg);

/* Wakes the team and waits until it is awake, as in a row of jobs: so that what is timed next does not depend on what ran before. */
void ks_pool_wake(void);

#endif
