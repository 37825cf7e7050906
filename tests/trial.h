/* A trial: one problem with its arrays, laid where mistakes show, and the verdict on one kernel that ran on it.
 *
 * Arrays live between pages that cannot be touched. An array is either pushed against one of those pages, so that
 * reading or writing one byte too far is a fault even in assembly that no sanitizer sees, or lies loose at a chosen
 * misalignment, in a zone of known bytes that is looked at afterwards. On a device they lie loose, in a zone like that, at
 * a misalignment of whole elements, the only one that a GPU can read. Nothing here calls cmocka, so that threads may use
 * it; a verdict is a bool and a sentence. */
#ifndef KS_TESTS_TRIAL_H
#define KS_TESTS_TRIAL_H

#include "kernel.h"
#include "problems.h"

typedef enum array_edge { ARRAY_LOOSE = 0, ARRAY_FLUSH_END, ARRAY_FLUSH_START } array_edge;

typedef struct array {
    unsigned char *data; /* what kernels are given: in the device's memory */
    unsigned char *seen; /* what the host sees of it: data itself, or a copy as of the last push or pull */
    size_t bytes;
    unsigned char *zone; /* the readable bytes around data */
    size_t zone_bytes;
    const ks_device *device; /* NULL: host memory */
} array;

enum { ARRAY_ALIGNMENT = 64, ARRAY_DEVICE_ALIGNMENT = 256 };

/* bytes of memory; a loose array's address is misalign modulo ARRAY_ALIGNMENT, and misalign is ignored for the
 * others. The zone is filled with known bytes. False if memory ran out. */
bool array_alloc(array *out, size_t bytes, array_edge edge, size_t misalign);

/* The same in a device's memory, misaligned modulo ARRAY_DEVICE_ALIGNMENT; host memory if device is NULL or a CPU. Without
 * `seen` nothing can be pushed or pulled. */
bool array_alloc_on(array *out, const ks_device *device, size_t bytes, size_t misalign, bool seen);
void array_free(array *a);

/* From what the host sees to the device, and back; nothing to do for host memory. False if the device failed. */
bool array_push(array *a);
bool array_pull(array *a);
bool array_poison(array *a);            /* the data to 0xff: NaN in every type */
bool array_zone_intact(const array *a); /* nothing was written around the data */

/* For a program that runs on the device it is called with, "cpu" if with none: finds it, opens a context without a store on it,
 * and takes a seed from KS_TEST_SEED and a count from KS_TEST_PROBLEMS, if there are such. Returns 0, or what to exit with: 77 if
 * there is no such device. */
int trial_open(int argc, char **argv, ks_device *device, ks_context **ctx, uint64_t *seed, size_t *count);

typedef enum trial_values {
    TRIAL_PLAIN = 0, /* in [-1, 1] */
    TRIAL_NONFINITE, /* and NaN, Inf and zeros here and there, in X and K */
    TRIAL_LARGE,     /* float16 sums that overflow the type; others merely large */
    TRIAL_TINY       /* float16 sums that are subnormal; others merely small */
} trial_values;

typedef struct trial {
    ks_problem problem;
    array x, k, y;
    unsigned char *x_before, *k_before; /* copies: inputs must not change */
    double *reference, *magnitude;
} trial;

/* Arrays, placed and filled at random from r, and the reference product. False if memory ran out. */
bool trial_make(trial *t, const ks_problem *problem, trial_values values, rng *r);
bool trial_make_on(trial *t, const ks_device *device, const ks_problem *problem, trial_values values, rng *r);
void trial_free(trial *t);

/* Other values in the same arrays, and their product. */
bool trial_renew(trial *t, trial_values values, rng *r);

enum { TRIAL_WHY_BYTES = 512 };

/* Runs the kernel with a workspace of just the size it asks for. False, with a sentence in why, if it failed, wrote
 * where it may not, or any output is further from the reference than trial_output_right allows. */
bool trial_run(trial *t, const ks_kernel *kernel, const ks_device *device, char why[TRIAL_WHY_BYTES]);

/* The two halves of it that surround a run, for whoever runs the product otherwise: y is poisoned; then, all work being
 * done, the arrays are looked at. `who` ran. */
bool trial_begin(trial *t);
bool trial_end(trial *t, const char *who, char why[TRIAL_WHY_BYTES]);

/* Whether y may be the output where float64 sums to reference: NaN for NaN, the same Inf for Inf; else y must be what
 * one rounding to the type makes of a sum that float32 (float64 for KS_F64) arithmetic may have reached in any order. */
bool trial_output_right(ks_type type, int64_t c, double y, double reference, double magnitude);

/* The same for an output of this problem: where it allows TF32, each factor may have lost all but 11 bits. */
bool trial_product_right(const ks_problem *problem, double y, double reference, double magnitude);

#endif
