/* What samples of running times say: which of two kernels is faster, and whether a kernel's slow runs are its own.
 *
 * A time is the median of its samples, which the machine's own noise moves least: on a busy machine some runs of every kernel
 * are held up. But a kernel that is quick in four runs of five and slow in the fifth costs its callers the mean. Two things tell
 * the two apart: noise hits a rival that takes turns with it alike, and more samples do not take a habit away. */
#ifndef KS_STEADY_H
#define KS_STEADY_H

double ks_samples_mean(const double *samples, int count);

/* The quantile of unsorted samples, at most KS_MAX_SAMPLES, by interpolation. */
double ks_samples_quantile(const double *samples, int count, double at);

/* A kernel's time: the median; of two the lesser, since what holds a run up only adds. */
double ks_samples_time(const double *samples, int count);

/* How many took over twice the median. */
int ks_samples_slow(const double *samples, int count);

/* Whether the race between the two fastest, sampled in turn, is decided: "decided", "tie", or NULL. */
const char *ks_samples_verdict(const double *best, const double *second, int count);

typedef enum ks_steadiness { KS_STEADY, KS_IN_DOUBT, KS_UNSTEADY } ks_steadiness;

/* Unsteady is what is slow in an eighth of the runs or more, and more often than the rival by two standard errors: four times
 * against none, seven against one. Steady is what has no slow run, or, of 20 or more, less than a twelfth that the rival has
 * not; else more samples of both must tell. */
ks_steadiness ks_samples_steadiness(const double *samples, int count, const double *rival, int rival_count);

#endif
