/* Counts of slow runs are compared as counts of rare events are: the error of a difference is the root of the sum. Slow runs are
 * counted, not weighed, because one run that waited for another process may take a hundred times the median. */
#include "steady.h"
#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES_ENOUGH = 20 };

/* Rarer slow runs cost the caller little, or cannot be told from noise. In between is doubt: then more samples tell. */
static const double slow_times = 2; /* the median */
static const double unsteady_share = 1 / 8., steady_share = 1 / 12.;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double ks_samples_mean(const double *samples, int count)
{
    double sum = 0;
    for (int i = 0; i < count; i++) sum += samples[i];
    return sum / count;
}

double ks_samples_quantile(const double *samples, int count, double at)
{
    double sorted[KS_MAX_SAMPLES];
    memcpy(sorted, samples, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare);
    double place = at * (count - 1);
    int below = (int)place;
    return below + 1 < count ? sorted[below] + (place - below) * (sorted[below + 1] - sorted[below]) : sorted[below];
}

double ks_samples_time(const double *samples, int count)
{
    return ks_samples_quantile(samples, count, count == 2 ? 0 : 0.5);
}

int ks_samples_slow(const double *samples, int count)
{
    const double limit = slow_times * ks_samples_quantile(samples, count, 0.5);
    int slow = 0;
    for (int i = 0; i < count; i++) slow += samples[i] > limit;
    return slow;
}

const char *ks_samples_verdict(const double *best, const double *second, int count)
{
    double ratio[KS_MAX_SAMPLES];
    for (int i = 0; i < count; i++) ratio[i] = log(second[i] / best[i]);
    const double middle = ks_samples_quantile(ratio, count, 0.5);
    const double width = (ks_samples_quantile(ratio, count, 0.75) - ks_samples_quantile(ratio, count, 0.25)) / 1.349;
    const double error = 2 * 1.2533 * width / sqrt(count); /* two standard errors of a median */
    if (middle - error > KS_TIE) return "decided";
    if (fabs(middle) + error < KS_TIE) return "tie";
    return NULL;
}

ks_steadiness ks_samples_steadiness(const double *samples, int count, const double *rival, int rival_count)
{
    const double slow = ks_samples_slow(samples, count);
    const double noise = (double)ks_samples_slow(rival, rival_count) * count / rival_count; /* slow runs of as many */
    if (slow == 0) return KS_STEADY;
    if (slow >= unsteady_share * count && slow - noise >= 2 * sqrt(slow + noise)) return KS_UNSTEADY;
    return count >= SAMPLES_ENOUGH && slow - noise < steady_share * count ? KS_STEADY : KS_IN_DOUBT;
}
