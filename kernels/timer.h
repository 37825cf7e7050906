/* The clock of every measurement: monotonic, in seconds. */
#ifndef KS_TIMER_H
#define KS_TIMER_H

#include <time.h>

static inline double ks_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds since 1970, UTC. */
static inline double ks_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
