/* A measurer from within: what measure.c makes a measurement of. */
#ifndef KS_MEASURER_H
#define KS_MEASURER_H

#include "measure.h"

typedef struct arena {
    char *memory;
    size_t bytes, next;
} arena;

struct ks_measurer {
    ks_device device;
    arena in, out;
    void *workspace;
    size_t workspace_bytes;
    void *fetched; /* host memory: what a check looks at */
    size_t fetched_bytes;
    uint64_t random;
    ks_measurer_setup setup;
    ks_device_state state; /* clock and throttling, as they were at state_s */
    double state_s;
    double most_bytes;   /* INFINITY: not known */
    ks_measurement lost; /* of whom the device was lost to, if it was: else without a kernel */
};

/* Grows an arena and fills it: inputs with ordinary numbers. */
ks_status ks_measurer_grow(ks_measurer *m, arena *a, size_t bytes);

/* Room for at least two of each array, and for every kernel's workspace; no less than keeps inputs cold. */
ks_status ks_measurer_make_room(ks_measurer *m, const ks_problem *p, const ks_kernel *const *kernels, int count);

/* To be said before a kernel runs: see ks_measurer_setup. */
void ks_measurer_tell(const ks_measurer *m, const ks_measurement *running);

/* Seconds of `calls` runs in a row, or a negative number if one failed. */
double ks_measurer_time(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, int calls);

/* Runs the kernel once and compares outputs, the first and the last among them, with the reference. *first_s is what the run
 * took; reason, of `size` bytes, says what is wrong. */
ks_status ks_measurer_check(ks_measurer *m, const ks_problem *p, const ks_kernel *kernel, double *first_s,
                            char *reason, size_t size);

/* The device's clock and whether it is held down, a quarter of a second old at most: to ask costs milliseconds. */
const ks_device_state *ks_measurer_state(ks_measurer *m);

#endif
