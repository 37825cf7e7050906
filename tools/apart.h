/* Work in a child process, because what it runs may crash, hang, or break the GPU for its process. */
#ifndef APART_H
#define APART_H

#include "ksauto.h"

/* Shared by both processes. */
typedef struct apart_note {
    ks_measurement running; /* what the child is at, if is_running; apart_running writes it */
    bool is_running;
    unsigned turns;   /* raised by every apart_running */
    bool returned;    /* the work came to an end by itself, well or not */
    ks_status status; /* then: the work's */
    int measured;     /* the child's own, kept from one child to the next */
} apart_note;

/* For ks_calibrate_options.running: user is the note. */
void apart_running(apart_note *note, const ks_measurement *running);

typedef enum apart_end {
    APART_CHILD,    /* this is the child: do the work, set note->status and note->returned, and exit with its code */
    APART_RETURNED, /* the child has returned, or was ended by the user: *code is to be this process's exit code */
    APART_CRASHED,  /* it died of what it was running; note->running has a status and a reason */
    APART_LOST, /* it returned with KS_ERR_DEVICE while something ran: the device is lost to it, not to another child */
    APART_FAILED /* no child can be had */
} apart_end;

/* A note for all children, zeroed; NULL: no memory. */
apart_note *apart_open(void);
void apart_close(apart_note *note);

/* Forks, and waits for the child; a child that stays at one run longer than patience_s is killed. The process must have one
 * thread, and must not have started CUDA. SIGINT, SIGTERM and SIGHUP are passed on; if this process is killed, so is the child. */
apart_end apart_run(apart_note *note, double patience_s, int *code);

#endif
