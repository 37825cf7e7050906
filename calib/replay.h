/* Calibrations that never were: on measurements that are there already, what each second of measuring would have bought, had
 * the problems been chosen otherwise. It needs no quiet machine, nor the device, and comes out the same every time. */
#ifndef KS_REPLAY_H
#define KS_REPLAY_H

#include "design.h"
#include "heldout.h"
#include "origin.h"

typedef enum ks_plan { KS_PLAN_REGRET = 0, KS_PLAN_FILL, KS_PLAN_RANDOM, KS_NPLANS } ks_plan;

const char *ks_plan_name(ks_plan plan); /* "regret": as calibrate does it; "fill": Sobol's sequence alone; "random" */

enum { KS_REPLAY_MOST = 16 };

typedef struct ks_replay_options {
    int count;                      /* of budgets */
    double seconds[KS_REPLAY_MOST]; /* of measuring, rising */
    int draws;                      /* of what is held out: a third of the patterns each time */
    const ks_origin *origin;        /* to start from, or NULL */
} ks_replay_options;

typedef struct ks_replay_point {
    int draws;        /* that had problems enough for so many seconds */
    double measured;  /* problems, mean over the draws */
    ks_regret regret; /* on what was held out in all draws; of no problems, where a draw had too few */
} ks_replay_point;

/* points[k] for seconds[k]. What a problem takes
 * to be measured is told by its rows' times and numbers of samples; fits in between take no time. Rows are those that the
 * cases were made of. */
ks_status ks_replay(const ks_rows *rows, const ks_cases *cases, const ks_device *device, ks_plan plan,
                    const ks_replay_options *options, ks_replay_point *points);

#endif
