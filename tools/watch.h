/* What a calibration shows while it goes on, and remembers for its end. */
#ifndef WATCH_H
#define WATCH_H

#include "cli.h"

#include "device.h"

typedef struct watch {
    const ks_device *device;
    bool terminal, lines; /* redraw one line; print one a second */
    double drawn_at_s;    /* of the run's own clock; negative: not yet */
    int width;            /* of the line on the terminal */
    int measured;
    double first_regret, last_regret; /* expected; NaN: none yet */
    char throttle[64];                /* what held a GPU's clock down, if anything did */
} watch;

/* Before anything has happened. */
watch watch_new(void);

/* Draws the line, or prints it, if its time has come. */
void watch_progress(watch *w, const ks_progress *now);
void watch_wipe_line(watch *w);

#endif
