/* A clock on which other processes take no time: what the calling thread has computed. For tests of what is timed, so that they
 * say the same on a busy machine. With it go KSAUTO_NUM_THREADS=1 and one process: no clock says what several have computed. */
#ifndef OWN_CLOCK_H
#define OWN_CLOCK_H

#include <stdbool.h>

/* Whether the monotonic clock, of all libraries of the process, is the thread's. */
extern bool own_clock;

/* By how much it is put forward: what only pretends to have computed adds to it, or takes off. */
extern double own_clock_ahead_s;

#endif
