/* Kernels that failed while they were measured: where they are not to be run again, nor chosen.
 *
 * A row of the store with a status is such a failure: a wrong result, an error, a crash that took the process or the device
 * with it. It bars the kernel, in that version, from that very problem; and from all of that type and layout once it has failed
 * on three problems and on more than one in ten of those it was measured on, or has cost three processes or devices. Memory that
 * was short says nothing of the kernel, nor does a time that cannot be although the result is right (KS_ERR_NO_DATA): the clock, or
 * the rates that it was held against, may be wrong. */
#ifndef KS_FAILURES_H
#define KS_FAILURES_H

#include "kernel.h"

typedef struct ks_failure {
    ks_problem problem;
    int kernel; /* row of the table */
    bool ruinous;
} ks_failure;

/* How the reason of a kernel begins that took the device with it, which no other work of the process gets back. */
#define KS_LOST_DEVICE "lost the device: "

typedef struct ks_tally {
    size_t good, bad; /* rows; problems, once sorted */
    size_t ruinous;   /* problems that cost the device or the process, once sorted */
} ks_tally;

/* Zeroed: nothing has failed. */
typedef struct ks_failures {
    ks_failure *items;
    size_t count, room;
    bool sorted, incomplete;
    ks_tally tally[KS_MAX_KERNELS + 1][KS_NTYPES][KS_NLAYOUTS];
} ks_failures;

/* A visitor for ks_store_each, to be shown good rows as well as failures. False: out of memory. */
bool ks_failures_see(void *failures, const ks_measurement *m);
/* KS_ERR_MEMORY if some are missing: a walk that ends early is KS_OK. */
ks_status ks_failures_status(const ks_failures *f);
void ks_failures_free(ks_failures *f);

/* To be called when rows were seen, before ks_failures_spare is asked. */
void ks_failures_sort(ks_failures *f);

/* Keeps those of the kernels that may run on the problem, in their order; returns how many. */
int ks_failures_spare(const ks_failures *f, const ks_problem *problem, const ks_kernel **kernels, int count);

#endif
