/* Knowledge made by hand: models and rows whose consequences can be told without a clock, and products through the public
 * calls with the verdict of trial.h. For the tests of advisor/ and calib/. */
#ifndef KS_TESTS_KNOWLEDGE_H
#define KS_TESTS_KNOWLEDGE_H

#include "model.h"
#include "stores.h"
#include "trial.h"

/* One kernel of a hand-made model: it takes start_s for each of its starts (KS_TERM_LAUNCH), and nothing else counts. */
typedef struct known_kernel {
    const char *name;
    ks_family family;
    double start_s;
} known_kernel;

/* A model without points, its deviations all 0.1; to be freed with ks_model_free. */
ks_model *known_model(ks_type type, ks_layout layout, const known_kernel *kernels, int count);

/* Stores a model, or any text in its place, for a device that is there already. */
void known_put_model(ks_store *store, const char *device, const ks_model *model);
void known_put_text(ks_store *store, const char *device, ks_type type, ks_layout layout, const char *json);

/* A usable row of a kernel, in this build's version if it has the kernel, else in version 1. */
ks_measurement known_row(const char *device, const ks_problem *problem, const char *kernel, ks_family family,
                         double time_s);
void known_put_row(ks_store *store, const ks_measurement *row);
int known_count(const char *path); /* measurements in a store; 0 if there is no file */

/* Multiplies by ks_auto_matmul (path NULL) or ks_matmul, on a trial of its own made from r; for threads, too. */
bool product_right(ks_context *ctx, const ks_problem *problem, const char *path, rng *r, char why[TRIAL_WHY_BYTES]);
/* The same for the main thread: fails the test. */
void assert_product(ks_context *ctx, const ks_problem *problem, const char *path);

ks_context *context_open(const ks_options *options); /* or fails the test */

/* Within a relative error. */
void assert_near(double value, double wanted, double error);

#endif
