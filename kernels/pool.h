/* The team of threads that the CPU kernels share.
 *
 * One team a process. It belongs to one caller at a time; a caller that finds it busy does all its tasks itself, so
 * that many threads on one context never oversubscribe the machine. */
#ifndef KS_POOL_H
#define KS_POOL_H

#include <stdbool.h>
#include <stdint.h>

/* Threads of the team, the caller's included: KSAUTO_NUM_THREADS, else OMP_NUM_THREADS, else the cores in this
 * process's affinity mask. Read once. */
int ks_pool_threads(void);

/* Calls task(arg, index, thread) for every index in [0, tasks), on the team's threads; 0 <= thread <
 * ks_pool_threads(), and no two calls at once share a thread number within one ks_pool_run. Returns when all are
 * done. If wide is false, or the team is busy, the caller does all of it as thread 0. */
void ks_pool_run(int64_t tasks, bool wide, void (*task)(void *arg, int64_t index, int thread), void *arg);

#endif
