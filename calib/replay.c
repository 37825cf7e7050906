/* Replaying. A third of the table's patterns is held out; the others are there to be measured, which takes the time that it
 * took. A design that asks for a problem gets that of the table which is nearest, and was not measured yet; and what is judged
 * by are problems drawn at random, for each the nearest of what is held out. (The table is itself a calibration's, which aimed
 * at some: drawn from it by chance, problems would be those that pay.) So all designs choose from the same problems, and the
 * differences between them are smaller than where each may choose freely. */
#include "replay.h"
#include "error.h"
#include "fit.h"
#include "random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST = 24, FIRST_WITH_ORIGIN = 8, HELD_OUT_OF = 3, JUDGED = 400 };

/* As calibrate measures (measure.c): a sample is a run of at least so long; each kernel is run for its check, and, unless it is
 * slow, once more; and on a GPU what is beside the kernels takes a hundredth of a second, as the moments of the seeds' rows
 * tell. */
static const double sample_least_s = 40e-6, slow_s = 4e-3, gpu_beside_s = 0.01;

/* What is left of a table in one draw. */
typedef struct pool {
    const ks_cases *cases;
    const double *cost_s; /* of each case */
    int count, *items;    /* not measured yet */
    ks_cases measured;    /* items is its own */
    ks_cases others;      /* held out; items is its own */
    double spent_s;
    ks_design *design;
    uint64_t random;
} pool;

const char *ks_plan_name(ks_plan plan)
{
    static const char *const names[] = {"regret", "fill", "random"};
    return (unsigned)plan < KS_NPLANS ? names[plan] : NULL;
}

static bool held_out(const ks_problem *p, int draw)
{
    uint64_t key = (uint64_t)draw;
    const int64_t sizes[] = {p->a, p->b, p->c, p->d};
    for (int i = 0; i < 4; i++) key = ks_mix(key ^ (uint64_t)sizes[i]);
    return key % HELD_OUT_OF == 0;
}

static bool same(const ks_problem *p, const ks_problem *q)
{
    return p->a == q->a && p->b == q->b && p->c == q->c && p->d == q->d && p->batch == q->batch && p->math == q->math;
}

/* Seconds that measuring each case took. */
static void find_costs(const ks_rows *rows, const ks_cases *cases, const ks_device *device, double *cost_s)
{
    const bool gpu = device->backend == KS_CUDA;
    for (int i = 0; i < cases->count; i++) {
        cost_s[i] = gpu ? gpu_beside_s : 0;
        for (size_t r = 0; r < rows->count; r++) {
            const ks_measurement *m = &rows->items[r];
            if (m->problem.layout != cases->layout || !same(&m->problem, &cases->items[i].problem) ||
                !(m->time_s > 0))
                continue;
            cost_s[i] +=
                m->samples * fmax(m->time_s, sample_least_s) + m->time_s * (gpu || m->time_s < slow_s ? 2 : 1);
        }
    }
}

/* Between problems: in factors of two, and the ends that behave differently count for as much as a factor of four. */
static double distance(const ks_problem *p, const ks_problem *q)
{
    const double sizes[][2] = {{(double)p->a, (double)q->a},
                               {(double)p->b, (double)q->b},
                               {(double)p->c, (double)q->c},
                               {(double)p->d, (double)q->d},
                               {(double)p->batch, (double)q->batch}};
    double sum = 4 * ((p->a == 1) != (q->a == 1)) + 4 * ((p->d == 1) != (q->d == 1));
    for (int i = 0; i < 5; i++) sum += pow(log2(sizes[i][0] / sizes[i][1]), 2);
    return sum;
}

static int nearest(const ks_problem *wanted, const ks_case *items, const int *index, int count)
{
    int best = 0;
    double least = INFINITY;
    for (int i = 0; i < count; i++) {
        const double d = distance(wanted, &items[index ? index[i] : i].problem);
        if (d < least) least = d, best = i;
    }
    return best;
}

/* Where in the pool the next point of the space-filling sequence is found, and one drawn at random. */
static int spread(pool *p)
{
    ks_problem wanted;
    ks_design_spread(p->design, &wanted);
    return nearest(&wanted, p->cases->items, p->items, p->count);
}

static int chance(pool *p)
{
    ks_problem wanted;
    ks_design_random(p->design, &p->random, &wanted);
    return nearest(&wanted, p->cases->items, p->items, p->count);
}

static int aim(pool *p, const ks_model *model, const ks_device *device)
{
    int best = 0;
    double most = -1;
    for (int i = 0; i < KS_DESIGN_CANDIDATES; i++) {
        const ks_kernel *kernels[KS_MODEL_KERNELS];
        int columns[KS_MODEL_KERNELS];
        double regret;
        const int at = spread(p);
        const ks_case *c = &p->cases->items[p->items[at]];
        const int count = ks_case_kernels(p->cases, c, kernels, columns);
        const double worth = ks_design_worth(model, device, &c->problem, kernels, count, &regret);
        if (worth > most) most = worth, best = at;
    }
    return best;
}

static void measure(pool *p, int at)
{
    const int item = p->items[at];
    p->items[at] = p->items[--p->count];
    p->measured.items[p->measured.count++] = p->cases->items[item];
    p->spent_s += p->cost_s[item];
}

/* Lets a model learn from what is measured; keeps the old one where that is too little. */
static ks_status learn(const pool *p, const ks_device *device, const ks_origin *origin, int steps, ks_model **model)
{
    ks_model *fitted;
    const ks_fit_options options = {
        .start = *model, .origin = origin, .search_steps = steps, .seed = (uint64_t)p->measured.count};
    ks_status s = ks_fit(&p->measured, device, &options, &fitted);
    if (s == KS_ERR_NO_DATA) return KS_OK;
    if (s != KS_OK) return s;
    ks_model_free(*model);
    *model = fitted;
    return KS_OK;
}

static ks_status judge(const pool *p, const ks_device *device, const ks_origin *origin, ks_heldout *judged,
                       ks_replay_point *point)
{
    ks_model *model = NULL;
    ks_status s = learn(p, device, origin, KS_FIT_QUICK_STEPS, &model);
    uint64_t random = JUDGED; /* the same problems for all */
    for (int i = 0; s == KS_OK && model && i < JUDGED && p->others.count; i++) {
        ks_problem wanted;
        ks_design_random(p->design, &random, &wanted);
        const int at = nearest(&wanted, p->others.items, NULL, p->others.count);
        s = ks_heldout_advise(judged, &p->others.items[at], device, model, false);
    }
    point->measured += p->measured.count;
    point->draws++;
    ks_model_free(model);
    return s;
}

/* One draw: measures, and at each budget judges by what is held out. */
static ks_status run(pool *p, const ks_device *device, ks_plan plan, const ks_replay_options *options,
                     const ks_origin *origin, ks_heldout *judged, ks_replay_point *points)
{
    const bool lent = origin->model;
    const int first = lent ? FIRST_WITH_ORIGIN : FIRST;
    int fitted_at = 0, searched_at = 0, next = 0;
    ks_model *model = NULL;
    ks_status s = KS_OK;
    while (s == KS_OK && next < options->count && p->count > 0) {
        const int n = p->measured.count;
        if (plan == KS_PLAN_REGRET && n >= first && n > fitted_at + (fitted_at + (lent ? KS_FIT_BORROWED : 0)) / 8) {
            const bool search = n > 2 * searched_at;
            s = learn(p, device, origin, search ? KS_FIT_QUICK_STEPS : 0, &model);
            fitted_at = n;
            if (search) searched_at = n;
        }
        if (s != KS_OK) break;
        if (plan == KS_PLAN_RANDOM)
            measure(p, chance(p));
        else if (plan == KS_PLAN_REGRET && model)
            measure(p, aim(p, model, device));
        else
            measure(p, spread(p));
        for (; s == KS_OK && next < options->count && p->spent_s >= options->seconds[next]; next++)
            s = judge(p, device, origin, &judged[next], &points[next]);
    }
    ks_model_free(model);
    return s;
}

static ks_status replay_draw(pool *p, const ks_device *device, ks_plan plan, const ks_replay_options *options,
                             int draw, ks_heldout *judged, ks_replay_point *points)
{
    ks_status s =
        ks_design_open(&p->design, device, p->cases->type, p->cases->layout, ks_design_most_s(device, INFINITY));
    if (s != KS_OK) return s;
    ks_design_skip(p->design, draw * 1000);
    p->count = p->measured.count = p->others.count = 0, p->spent_s = 0, p->random = ks_mix((uint64_t)draw);
    for (int i = 0; i < p->cases->count; i++)
        if (held_out(&p->cases->items[i].problem, draw))
            p->others.items[p->others.count++] = p->cases->items[i];
        else
            p->items[p->count++] = i;
    ks_origin origin = options->origin ? *options->origin : (ks_origin){0};
    origin.withheld[0] = &p->others;
    s = run(p, device, plan, options, &origin, judged, points);
    ks_design_close(p->design);
    return s;
}

ks_status ks_replay(const ks_rows *rows, const ks_cases *cases, const ks_device *device, ks_plan plan,
                    const ks_replay_options *options, ks_replay_point *points)
{
    const size_t room = (size_t)cases->count + 1;
    ks_heldout judged[KS_REPLAY_MOST];
    double *cost_s = malloc(room * sizeof *cost_s);
    pool p = {.cases = cases, .cost_s = cost_s, .measured = *cases, .others = *cases};
    p.items = malloc(room * sizeof *p.items);
    p.measured.items = malloc(room * sizeof *p.measured.items);
    p.others.items = malloc(room * sizeof *p.others.items);
    ks_status s = cost_s && p.items && p.measured.items && p.others.items
                      ? KS_OK
                      : ks_fail(KS_ERR_MEMORY, "out of memory for a replay");
    for (int k = 0; k < options->count; k++) {
        points[k] = (ks_replay_point){0};
        ks_heldout_open(&judged[k], cases);
    }
    if (s == KS_OK) find_costs(rows, cases, device, cost_s);
    for (int draw = 1; s == KS_OK && draw <= options->draws; draw++)
        s = replay_draw(&p, device, plan, options, draw, judged, points);
    for (int k = 0; k < options->count; k++) {
        points[k].measured /= options->draws;
        if (s == KS_OK && points[k].draws == options->draws)
            points[k].regret = ks_cases_regret(&judged[k].cases, judged[k].chosen, NULL);
        ks_heldout_close(&judged[k]);
    }
    free(cost_s);
    free(p.items);
    free(p.measured.items);
    free(p.others.items);
    return s;
}
