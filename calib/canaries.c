/* Measuring a few problems again and comparing. */
#include "canaries.h"
#include "error.h"
#include "measure.h"
#include "refit.h"
#include "timer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANARIES = 12, OF_A_KERNEL = 6, LEAST = 5, MOST = CANARIES + OF_A_KERNEL * KS_MODEL_KERNELS };

/* A change may cost some problems more than others. As long as three in four canaries lie so near to the common factor, one
 * factor says it; a model is not much better known than that. */
static const double scatter_most = 0.15;

const char *ks_verdict_name(ks_verdict verdict)
{
    static const char *const names[] = {"keep", "rescale", "refit"};
    return (unsigned)verdict < KS_NVERDICTS ? names[verdict] : NULL;
}

static int compare(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

ks_verdict ks_canary_verdict(double *r, int n, double *factor)
{
    *factor = 1;
    if (n < LEAST) return KS_REFIT;
    qsort(r, (size_t)n, sizeof *r, compare);
    const double middle = n % 2 ? r[n / 2] : (r[n / 2 - 1] + r[n / 2]) / 2;
    for (int i = 0; i < n; i++) r[i] = fabs(r[i] - middle);
    qsort(r, (size_t)n, sizeof *r, compare);
    if (r[3 * n / 4] > scatter_most) return KS_REFIT;
    const double error = 1.2533 * 1.4826 * r[n / 2] / sqrt(n); /* of a median, from the median deviation */
    if (fabs(middle) <= KS_TIE + 2 * error) return KS_KEEP;
    *factor = exp(middle);
    return KS_RESCALE;
}

/* A kernel that is asked about, and the version of its rows. */
typedef struct suspect {
    const ks_kernel *kernel;
    unsigned version;
} suspect;

/* The newest version that a kernel has usable rows of; 0 if it has none. */
static unsigned newest(const ks_rows *rows, const ks_kernel *kernel)
{
    unsigned version = 0;
    for (size_t i = 0; i < rows->count; i++) {
        const ks_measurement *m = &rows->items[i];
        if (m->status == KS_OK && m->kernel_version > version && strcmp(m->kernel, kernel->name) == 0)
            version = m->kernel_version;
    }
    return version;
}

static int find_suspects(const ks_canaries *c, const ks_rows *rows, suspect out[KS_MODEL_KERNELS])
{
    int count = 0;
    for (const ks_kernel *const *k = ks_kernels(); *k && count < KS_MODEL_KERNELS; k++) {
        if ((*k)->backend != c->device->backend || (*k)->family == KS_REFERENCE) continue;
        const unsigned version = newest(rows, *k);
        if (version && (c->changed || version != (*k)->version)) out[count++] = (suspect){*k, version};
    }
    return count;
}

static int compare_cases(const void *x, const void *y)
{
    const ks_case *const *a = x, *const *b = y;
    const double p = ks_problem_bytes(&(*a)->problem), q = ks_problem_bytes(&(*b)->problem);
    return (p > q) - (p < q);
}

static int column_of(const ks_cases *cases, const char *kernel)
{
    for (int q = 0; q < cases->kernels; q++)
        if (strcmp(cases->kernel[q]->name, kernel) == 0) return q;
    return -1;
}

/* Takes so many of the sorted cases that have a value in the column (-1: any), spread over them, and not yet taken (NULL). */
static int take(const ks_case **sorted, int count, int column, int wanted, const ks_case **out)
{
    int fit = 0, seen = 0, taken = 0;
    for (int i = 0; i < count; i++) fit += sorted[i] && (column < 0 || !isnan(sorted[i]->value[column]));
    for (int i = 0; i < count && taken < wanted && taken < fit; i++) {
        if (!sorted[i] || (column >= 0 && isnan(sorted[i]->value[column]))) continue;
        if (seen++ < (int)((taken + 0.5) * fit / wanted) && fit > wanted) continue;
        out[taken++] = sorted[i];
        sorted[i] = NULL;
    }
    return taken;
}

/* Cases spread over the sizes, and more for kernels that too few of these are of; returns how many, -1 if out of
 * memory. */
static int choose(const ks_cases *cases, const suspect *suspects, int count, const ks_case *out[MOST])
{
    const ks_case **sorted = malloc(((size_t)cases->count + 1) * sizeof *sorted);
    if (!sorted) return -1;
    for (int i = 0; i < cases->count; i++) sorted[i] = &cases->items[i];
    qsort(sorted, (size_t)cases->count, sizeof *sorted, compare_cases);
    int taken = take(sorted, cases->count, -1, CANARIES, out);
    for (int k = 0; k < count; k++) {
        const int q = column_of(cases, suspects[k].kernel->name);
        int have = 0;
        for (int i = 0; q >= 0 && i < taken; i++) have += !isnan(out[i]->value[q]);
        if (q >= 0 && have < OF_A_KERNEL) taken += take(sorted, cases->count, q, OF_A_KERNEL - have, out + taken);
    }
    free(sorted);
    return taken;
}

/* The rows as if nothing had changed: those of a suspect's old version as its new one's. */
static ks_status cases_before(const ks_canaries *c, const ks_rows *rows, const suspect *suspects, int count,
                              ks_cases *cases)
{
    ks_rows copy = {.items = malloc((rows->count + 1) * sizeof *copy.items), .count = rows->count};
    if (!copy.items) return ks_fail(KS_ERR_MEMORY, "out of memory for %zu measurements", rows->count);
    if (rows->count) memcpy(copy.items, rows->items, rows->count * sizeof *copy.items);
    for (size_t i = 0; i < copy.count; i++)
        for (int k = 0; k < count; k++)
            if (copy.items[i].kernel_version == suspects[k].version &&
                strcmp(copy.items[i].kernel, suspects[k].kernel->name) == 0)
                copy.items[i].kernel_version = suspects[k].kernel->version;
    ks_status s = ks_refit_cases(&copy, c->device, c->type, c->layout, KS_TIME, cases);
    free(copy.items);
    return s;
}

ks_status ks_canaries_run(ks_canaries *c, ks_rows *rows, ks_standing *standing)
{
    suspect suspects[KS_MODEL_KERNELS];
    const ks_case *chosen[MOST];
    double ratios[KS_MODEL_KERNELS][MOST];
    int found[KS_MODEL_KERNELS] = {0};
    ks_cases cases;
    const size_t before = rows->count;
    const double now_s = ks_clock_s();
    const int count = find_suspects(c, rows, suspects);
    if (count == 0) return KS_OK;
    ks_status s = cases_before(c, rows, suspects, count, &cases);
    if (s != KS_OK) return s;
    const int canaries = choose(&cases, suspects, count, chosen);
    if (canaries < 0) s = ks_fail(KS_ERR_MEMORY, "out of memory for %d problems", cases.count);
    for (int i = 0; s == KS_OK && i < canaries; i++) {
        const size_t first = rows->count;
        s = c->measure(c->user, &chosen[i]->problem);
        for (size_t r = first; s == KS_OK && r < rows->count; r++)
            for (int k = 0; k < count; k++) {
                const ks_measurement *m = &rows->items[r];
                const int q = column_of(&cases, suspects[k].kernel->name);
                if (q < 0 || m->status != KS_OK || strcmp(m->kernel, suspects[k].kernel->name) != 0) continue;
                if (!isnan(chosen[i]->value[q])) ratios[k][found[k]++] = log(m->time_s / chosen[i]->value[q]);
            }
    }
    ks_cases_free(&cases);
    if (s != KS_OK) return s;
    c->problems += canaries;
    ks_standing verdicts = {.count = 0};
    for (int k = 0; k < count; k++) {
        ks_adjustment a = {.version = suspects[k].version, .becomes = suspects[k].kernel->version, .before_s = now_s};
        const ks_verdict verdict = ks_canary_verdict(ratios[k], found[k], &a.factor);
        strcpy(a.kernel, suspects[k].kernel->name);
        if (verdict == KS_REFIT) a.factor = 0;
        c->verdicts[verdict]++;
        a.factor = ks_standing_note(standing, &a);
        ks_standing_note(&verdicts, &a);
    }
    ks_standing_apply(&verdicts, c->type, c->layout, rows->items, before);
    const ks_type twin = ks_refit_twin(c->device, c->type);
    if (twin != c->type) ks_standing_apply(&verdicts, twin, c->layout, rows->items, before);
    return KS_OK;
}
