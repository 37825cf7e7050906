/* A CPU that can be lost as a GPU can: for tests of what follows, on machines without one. */
#ifndef KS_TESTS_LOST_CPU_H
#define KS_TESTS_LOST_CPU_H

#include <stdbool.h>

/* Whether waiting for it and timing on it fail, as they do on a GPU that a kernel has broken. */
extern bool cpu_is_lost;

#endif
