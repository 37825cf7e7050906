/* Borrowing measurements from a known device.
 *
 * A model holds what it was fitted to: its points are problems, and a point's residual is what the process says there plus what
 * it took for noise. So a seed's model is a table of measurements, and needs no other.
 *
 * Devices of one kind differ in rates first: a term that counts bytes is scaled by the two copy rates, one that counts flops by
 * the GEMM rates. What is left differs by kernel, and is told by the median over the problems that were measured here, held
 * back while these are few. The fit takes the rest from there (fit.c). */
#include "origin.h"
#include "error.h"
#include "seeds.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* So many own measurements of a kernel count as much as the belief that the rates explain all. */
static const double faith = 3;

/* ---- finding one --------------------------------------------------------------------------------------------------- */

typedef struct wanted {
    ks_type type;
    ks_layout layout;
    ks_objective objective;
    ks_model *model;
} wanted;

static bool take(void *user, const ks_model_row *row)
{
    wanted *w = user;
    if (row->type != w->type || row->layout != w->layout || row->objective != w->objective) return true;
    if (ks_model_parse(row->json, &w->model) == KS_OK && ks_model_usable(w->model) == KS_OK) return false;
    ks_model_free(w->model);
    w->model = NULL;
    return false;
}

void ks_origin_nearest(const ks_device *device, ks_type type, ks_layout layout, ks_objective objective,
                       ks_origin *origin)
{
    wanted w = {.type = type, .layout = layout, .objective = objective};
    *origin = (ks_origin){0};
    if (!*device->arch) return; /* of a device that is known by name alone nothing says what it is like */
    const ks_seed *seed = ks_seed_nearest(device, &origin->device);
    if (!seed) return;
    ks_device_assume_rates(&origin->device);
    ks_seed_read(seed, &(ks_device){0}, take, &w);
    origin->model = w.model;
}

void ks_origin_free(ks_origin *origin)
{
    ks_model_free(origin->model);
    *origin = (ks_origin){0};
}

/* ---- borrowing ----------------------------------------------------------------------------------------------------- */

/* The kernel's column in cases, which is added if there is room; -1 if it is of another version here, or there is no room. */
static int column(ks_cases *cases, const ks_model *m, int q)
{
    const ks_kernel *row = ks_model_kernel_of(m, q);
    if (row->version != m->kernel[q].version) return -1;
    for (int k = 0; k < cases->kernels; k++)
        if (strcmp(cases->kernel[k]->name, row->name) == 0) return k;
    if (cases->kernels == KS_MODEL_KERNELS) return -1;
    cases->kernel[cases->kernels] = row;
    return cases->kernels++;
}

/* What the rates alone make of the logarithm of a time there: what to add to have it here. */
static double translation(const ks_origin *origin, const ks_model_kernel *k, const ks_kernel *kernel,
                          const ks_device *device, const ks_problem *p)
{
    double there[KS_NTERMS], here[KS_NTERMS], cost[KS_NTERMS];
    kernel->cost_terms(p, &origin->device, there);
    kernel->cost_terms(p, device, here);
    memcpy(cost, k->cost, sizeof cost);
    cost[KS_TERM_BYTES] *= origin->device.copy_bytes_per_s / device->copy_bytes_per_s;
    cost[KS_TERM_FLOPS] *= origin->device.gemm_flops_per_s[p->type] / device->gemm_flops_per_s[p->type];
    return log(ks_cost_s(cost, here) / ks_cost_s(k->cost, there));
}

static int compare(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* By what more the kernel's own measurements differ: their median, held back. `room` is for a number a case. */
static double offset(const ks_cases *cases, int column, const ks_origin *origin, int q, const ks_device *device,
                     double *room)
{
    const ks_kernel *kernel = cases->kernel[column];
    int n = 0;
    for (int i = 0; i < cases->count; i++) {
        const ks_case *c = &cases->items[i];
        ks_prediction there;
        if (isnan(c->value[column])) continue;
        ks_model_predict(origin->model, &origin->device, &c->problem, &kernel, 1, false, &there);
        room[n++] = log(c->value[column]) - there.log_time -
                    translation(origin, &origin->model->kernel[q], kernel, device, &c->problem);
    }
    if (n == 0) return 0;
    qsort(room, (size_t)n, sizeof *room, compare);
    return room[n / 2] * n / (n + faith);
}

/* Fills in one kernel's values of the borrowed cases. */
static void lend(const ks_origin *origin, int q, const ks_device *device, double more, int column, ks_cases *both,
                 const int *point)
{
    for (int i = 0; i < both->borrowed; i++) {
        ks_case *c = &both->items[both->count - both->borrowed + i];
        const double there = ks_model_point_value(origin->model, q, point[i], &origin->device);
        const double apart =
            translation(origin, &origin->model->kernel[q], both->kernel[column], device, &c->problem);
        if (!isnan(there)) c->value[column] = there * exp(more + apart);
    }
}

static bool holds(const ks_cases *cases, const ks_problem *p, bool any_batch)
{
    for (int i = 0; cases && i < cases->count; i++) {
        const ks_problem *q = &cases->items[i].problem;
        if (p->a == q->a && p->b == q->b && p->c == q->c && p->d == q->d && (any_batch || p->batch == q->batch))
            return true;
    }
    return false;
}

ks_status ks_cases_borrow(const ks_cases *cases, const ks_device *device, const ks_origin *origin, int most,
                          ks_cases *both)
{
    const ks_model *m = origin->model;
    int point[KS_MODEL_POINTS];
    *both = *cases;
    both->borrowed = 0;
    both->items = malloc(((size_t)cases->count + KS_MODEL_POINTS) * sizeof *both->items);
    double *room = malloc(((size_t)cases->count + 1) * sizeof *room);
    if (!both->items || !room) {
        free(both->items);
        free(room);
        both->items = NULL;
        return ks_fail(KS_ERR_MEMORY, "out of memory for %d borrowed cases", KS_MODEL_POINTS);
    }
    memcpy(both->items, cases->items, (size_t)cases->count * sizeof *both->items);
    /* A model's points are in random order. What was measured here need not be borrowed. */
    for (int i = 0; i < m->points - m->borrowed && both->borrowed < most; i++) {
        ks_case *c = &both->items[both->count];
        c->problem = ks_model_point(m, i);
        if (holds(cases, &c->problem, false) || holds(origin->withheld[0], &c->problem, true) ||
            holds(origin->withheld[1], &c->problem, true))
            continue;
        for (int q = 0; q < KS_MODEL_KERNELS; q++) c->value[q] = NAN;
        point[both->borrowed++] = i;
        both->count++;
    }
    for (int q = 0; q < m->kernels; q++) {
        const int at = column(both, m, q);
        if (at < 0) continue;
        const double more = at < cases->kernels ? offset(cases, at, origin, q, device, room) : 0;
        lend(origin, q, device, more, at, both, point);
    }
    free(room);
    return KS_OK;
}
