/* Kernels made for tests, in the table beside the real ones, and a whole calibration with one of them by the command: from the
 * parent process to the stored rows, and to what a context then takes. None of them may ever be chosen, each must have rows that
 * say why, and the calibration must come to its end.
 *
 * Kernels can only be added to the table of a fresh process: the calibrations, and the contexts that choose, run in the test's own
 * executable again, whose main calls made_role first. */
#ifndef KS_TESTS_MADE_H
#define KS_TESTS_MADE_H

#include "kernel.h"

typedef struct made_kernel {
    const char *name;
    const char *reason; /* part of what its rows must say */
    ks_status status;   /* of rows that must be there; KS_OK: it never fails, and rows that are good say the reason */
    ks_family family;
    bool (*supports)(const ks_problem *problem,
                     const ks_device *device); /* NULL: what the kernel that it is like does */
    ks_status (*run)(const ks_problem *problem, const ks_run_args *args);
} made_kernel;

typedef struct made_set {
    const made_kernel *kernels;
    int count;
    const char *device;                      /* of the command and the context */
    const char *like;                        /* the real kernel whose problems, workspace and device these have */
    ks_type type;                            /* the calibration's */
    ks_layout layout;                        /* and this */
    const char *budget;                      /* for a made kernel that fails, and for others */
    const char *budget_unfailing;            /* NULL: there are no others */
    bool rated;                              /* the store knows the device's rates, which take a CPU seconds */
    void (*prepare)(const made_kernel *own); /* in the process that calibrates; may be NULL */
} made_set;

/* The product by the kernel that the set's are like. */
ks_status made_right(const ks_problem *problem, const ks_run_args *args);

/* Right while it is checked, and gone before the work is done from then on. */
ks_status made_early(const ks_problem *problem, const ks_run_args *args);

/* Puts the set's kernel of that name into this process's table, for as long as it lives. */
void made_add(const char *name);

/* To be called by main with the set of this executable. What one of the child processes is to do, if this is one: its exit code;
 * else -1. */
int made_role(const made_set *set, int count, char **arguments);

/* Runs this executable again with three arguments; its exit code, or -1. */
int made_run_self(const char *role, const char *name, const char *path);

/* The whole of it, in the sandbox *state. */
void made_calibrate(void **state, const char *name);

#endif
