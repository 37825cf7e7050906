/* What a calibration is going to do, and whether the machine lets it. */
#ifndef CALIBRATE_PLAN_H
#define CALIBRATE_PLAN_H

#include "cli.h"

#include "device.h"
#include "watch.h"

/* What will be measured, and what there is of it already. */
typedef struct plan {
    ks_device device;
    char path[4096]; /* of the store */
    unsigned types, layouts;
    int stored[KS_NTYPES][KS_NLAYOUTS]; /* problems */
    ks_problem last;                    /* counted */
    double load;                        /* processes that run or wait, for each CPU; NaN: unknown */
} plan;

/* Of what the options ask for. Starts CUDA, if the device is a GPU. */
ks_status plan_make(const cli *c, const ks_calibrate_options *run, plan *p);

void plan_print(FILE *out, const plan *p, const ks_calibrate_options *run);
int plan_print_json(const plan *p, const ks_calibrate_options *run);

/* Notes: that the machine is busy; afterwards, of the rows stored since then, that they scatter, or that a clock was held down. */
void plan_warn_of_noise(const plan *p);
void plan_warn_of_doubts(const plan *p, const watch *w, double since_s);

#endif
