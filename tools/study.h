/* What `ksauto report` shows of one type and layout on a device, and the pictures of it. */
#ifndef STUDY_H
#define STUDY_H

#include "heldout.h"
#include <stdio.h>

enum { STUDY_STEPS = 6 }; /* of the learning curve: each has twice the time of the one before */

/* What a fit on the measurements up to then loses on patterns that were held out. */
typedef struct study_step {
    double seconds, regret; /* of measuring, from the first of this kind on, whatever else was measured; mean */
    int problems;           /* of this type and layout, learned from */
} study_step;

typedef struct study {
    ks_type type;
    ks_layout layout;
    const ks_device *device;
    ks_context *ctx;
    ks_cases cases;  /* all; not to be moved, for it points into itself */
    ks_heldout held; /* cross-validated advice for them */
    ks_acceptance acceptance;
    ks_reliability reliability;
    int steps, judged; /* problems that the steps are judged by */
    study_step step[STUDY_STEPS];
    double step_fused, step_bmm; /* mean regret of the static policies on them */
} study;

/* Rows are those of the device. KS_ERR_NO_DATA if they are too few. */
ks_status study_make(study *s, const ks_rows *rows);
void study_free(study *s);

/* A kind of picture. script writes what gnuplot is to draw, without terminal and output; says writes in a sentence or two what
 * this picture shows, with its figures: it is the caption, and what those hear who cannot see it. */
typedef struct study_plot {
    const char *name, *title, *reading; /* of files; heading; how to read it */
    int width, height;
    void (*data)(FILE *out, const study *s), (*script)(FILE *out, const study *s), (*says)(FILE *out, const study *s);
} study_plot;

enum { STUDY_PLOTS = 6 };
extern const study_plot study_plots[STUDY_PLOTS];

/* "map-f32-first": the base name of the files of a picture. */
typedef struct study_name {
    char s[64];
} study_name;
study_name study_name_of(const study_plot *plot, const study *s);

/* Writes DIR/NAME.gp and has gnuplot make DIR/NAME.svg and DIR/NAME.png of it. */
ks_status study_draw(const char *dir, const study_plot *plot, const study *s);
ks_status study_can_draw(void); /* KS_ERR_UNSUPPORTED, saying what to install, without gnuplot */

/* Writes DIR/index.html, which holds all pictures. */
ks_status study_write_page(const char *dir, const study *studies, int count);

#endif
