/* Before and after a calibration: what will be measured, for how long, what there is already; and whether what was measured
 * can be trusted. A minute's measuring is worth little on a machine that does something else meanwhile, and whoever waits for it
 * should not learn that from bad advice. */
#include "calibrate_plan.h"

#include "store.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static bool is_same(const ks_problem *x, const ks_problem *y)
{
    return x->a == y->a && x->b == y->b && x->c == y->c && x->d == y->d && x->batch == y->batch &&
           x->type == y->type && x->layout == y->layout && x->math == y->math;
}

/* The kernels of a problem are measured, and stored, one after the other. */
static bool count_problem(void *user, const ks_measurement *m)
{
    plan *p = user;
    if (!is_same(&m->problem, &p->last)) p->stored[m->problem.type][m->problem.layout]++;
    p->last = m->problem;
    return true;
}

ks_status plan_make(const cli *c, const ks_calibrate_options *run, plan *p)
{
    double load;
    ks_store *store;
    *p = (plan){.types = run->types, .layouts = run->layouts, .load = NAN};
    ks_status s = ks_device_find(run->device, &p->device);
    if (s == KS_OK) s = ks_store_path(c->store, p->path, sizeof p->path);
    if (s != KS_OK) return s;
    if (!p->types)
        p->types = p->device.backend == KS_CUDA ? 1u << KS_F32 | 1u << KS_F16 | 1u << KS_BF16 : 1u << KS_F32;
    if (!p->layouts) p->layouts = (1u << KS_NLAYOUTS) - 1;
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (getloadavg(&load, 1) == 1 && cpus > 0) p->load = load / (double)cpus;
    const ks_store_filter filter = {.device = p->device.name, .usable = true};
    if (access(p->path, F_OK) == 0 && ks_store_open(&store, p->path, KS_STORE_READ) == KS_OK) {
        ks_store_each(store, &filter, count_problem, p); /* what cannot be read counts for nothing here */
        ks_store_close(store);
    }
    return KS_OK;
}

static bool is_planned(const plan *p, int type, int layout)
{
    return p->types >> type & 1 && p->layouts >> layout & 1;
}

int plan_print_json(const plan *p, const ks_calibrate_options *run)
{
    cJSON *object = cli_result_json();
    cJSON_AddStringToObject(object, "device", p->device.name);
    cJSON_AddStringToObject(object, "store", p->path);
    cli_add_number(object, "budget_s", run->budget_s);
    cli_add_number(object, "target_regret", run->target_regret > 0 ? run->target_regret : NAN);
    cli_add_number(object, "busy", p->load);
    cJSON *configs = cJSON_AddArrayToObject(object, "configs");
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            if (!is_planned(p, t, l)) continue;
            cJSON *row = cJSON_CreateObject();
            cJSON_AddItemToArray(configs, row);
            cJSON_AddStringToObject(row, "dtype", ks_type_name((ks_type)t));
            cJSON_AddStringToObject(row, "layout", ks_layout_name((ks_layout)l));
            cli_add_integer(row, "stored", p->stored[t][l]);
        }
    return cli_print_json(object);
}

void plan_print(FILE *out, const plan *p, const ks_calibrate_options *run)
{
    fprintf(out, "%s:\nkernels will be measured for %.0f s", p->device.name, run->budget_s);
    if (run->target_regret > 0)
        fprintf(out, ", or until the expected regret is %s", cli_percent(run->target_regret).s);
    fprintf(out, ",\nthree quarters of it to learn from, one to judge by:\n");
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++)
            if (is_planned(p, t, l))
                fprintf(out, "  %-4s  batch-%-5s  %d problems known already\n", ks_type_name((ks_type)t),
                        ks_layout_name((ks_layout)l), p->stored[t][l]);
    fprintf(out,
            "The regret told meanwhile is the expected one: what a choice takes longer than\nthe best kernel would. "
            "Every measurement is kept at once, in\n%s.\nCtrl-C stops without losing any, and the same command goes "
            "on from there.\n",
            p->path);
}

void plan_warn_of_noise(const plan *p)
{
    if (p->load > 0.7)
        cli_note(
            "the machine is busy: %.1f processes for each CPU in the last minute; what disturbs the measurements "
            "disturbs the advice",
            p->load);
}

/* How many of the run's measurements scattered much, of those with samples enough to tell. */
typedef struct spreads {
    double since_s;
    int count, wide;
} spreads;

/* On quiet machines half of the spreads are below 3 % on a CPU, and below 1 % on a GPU. */
static const double wide_spread = 0.1;

static bool look_at_spread(void *user, const ks_measurement *m)
{
    spreads *s = user;
    if (m->measured_at_s >= s->since_s && m->samples > 2) s->count++, s->wide += m->spread > wide_spread;
    return true;
}

void plan_warn_of_doubts(const plan *p, const watch *w, double since_s)
{
    ks_store *store;
    spreads s = {.since_s = since_s};
    const ks_store_filter filter = {.device = p->device.name, .usable = true};
    if (*w->throttle)
        cli_note("the GPU's clock was held down meanwhile (%s): its times are not what it can do", w->throttle);
    if (ks_store_open(&store, p->path, KS_STORE_READ) != KS_OK) return;
    ks_store_each(store, &filter, look_at_spread, &s);
    ks_store_close(store);
    if (s.count > 20 && s.wide > s.count / 4)
        cli_note(
            "%d of %d measurements scattered by more than %.0f %%: the machine was not quiet, and a calibration on a "
            "quiet one is better",
            s.wide, s.count, 100 * wide_spread);
}
