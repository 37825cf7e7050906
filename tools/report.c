/* The report of ksauto evaluate: regret, honesty, groups. */
#include "report.h"

#include <inttypes.h>
#include <math.h>

/* Why a value is no measurement. */
static void reason_of(const ks_suspect *s, char *text, size_t size)
{
    if (isnan(s->expected))
        snprintf(text, size, "not a positive number");
    else
        snprintf(text, size, "%.0f times below what the kernel's costs say", s->expected / s->value);
}

static cJSON *quarantine_json(const ks_cases *cases)
{
    cJSON *list = cJSON_CreateArray();
    for (const ks_suspect *s = cases->suspects; s < cases->suspects + cases->quarantined; s++) {
        char reason[64];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        reason_of(s, reason, sizeof reason);
        cJSON_AddItemToObject(row, "problem", cli_problem_json(&s->problem));
        cJSON_AddStringToObject(row, "kernel", s->kernel);
        cli_add_number(row, "value", s->value);
        cli_add_number(row, "expected", s->expected);
        cJSON_AddStringToObject(row, "reason", reason);
    }
    return list;
}

static void print_quarantine(const ks_cases *cases)
{
    for (const ks_suspect *s = cases->suspects; s < cases->suspects + cases->quarantined; s++) {
        char reason[64];
        const ks_problem *p = &s->problem;
        reason_of(s, reason, sizeof reason);
        printf("left out: (%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ") batch %" PRId64 " by %s:\n  %s, %s\n",
               p->a, p->b, p->c, p->d, p->batch, s->kernel,
               (cases->objective == KS_ENERGY ? cli_energy : cli_time)(s->value).s, reason);
    }
}

static cJSON *bins_json(const ks_reliability *r)
{
    cJSON *list = cJSON_CreateArray();
    for (const ks_bin *b = r->bin; b < r->bin + KS_BINS; b++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cli_add_number(row, "from", b->from);
        cli_add_number(row, "to", b->to);
        cli_add_integer(row, "problems", b->count);
        cli_add_number(row, "confidence", b->confidence);
        cli_add_number(row, "right", b->right);
    }
    return list;
}

static cJSON *reliability_json(const ks_reliability *r)
{
    cJSON *object = cJSON_CreateObject();
    cli_add_integer(object, "problems", r->count);
    cli_add_number(object, "brier", r->brier);
    cli_add_number(object, "expected_regret", r->expected);
    cli_add_number(object, "realised_regret", r->realised);
    cJSON_AddItemToObject(object, "bins", bins_json(r));
    return object;
}

static cJSON *groups_json(const ks_group *groups, int count)
{
    cJSON *list = cJSON_CreateArray();
    for (const ks_group *g = groups; g < groups + count; g++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddBoolToObject(row, "d_is_1", g->single);
        cli_add_integer(row, "batch", g->batch);
        cli_add_integer(row, "problems", g->problems);
        cli_add_number(row, "advisor", g->advisor);
        cli_add_number(row, "always_fused", g->fused);
        cli_add_number(row, "always_bmm", g->bmm);
    }
    return list;
}

cJSON *cli_report_json(const cli_report *r)
{
    cJSON *object = cli_acceptance_json(&r->acceptance);
    cJSON_AddStringToObject(object, "device", r->device);
    cli_add_integer(object, "quarantined", r->cases->quarantined);
    cJSON_AddItemToObject(object, "quarantine", quarantine_json(r->cases));
    cJSON *learners = cJSON_AddObjectToObject(object, "learners");
    for (int i = 0; i < KS_NLEARNERS; i++)
        if (r->learners[i].problems)
            cJSON_AddItemToObject(learners, ks_learner_name((ks_learner)i), cli_regret_json(&r->learners[i]));
    cJSON_AddItemToObject(object, "reliability", reliability_json(&r->reliability));
    cJSON_AddItemToObject(object, "groups", groups_json(r->groups, r->group_count));
    return object;
}

void cli_print_reliability(const ks_reliability *r)
{
    if (r->count == 0) return;
    printf("\n%-15s  %8s  %8s  %8s\n", "sure by", "problems", "said", "right");
    for (const ks_bin *b = r->bin; b < r->bin + KS_BINS; b++) {
        char range[32];
        snprintf(range, sizeof range, "%g to %g %%", 100 * b->from, 100 * b->to);
        if (b->count)
            printf("%-15s  %8d  %8s  %8s\n", range, b->count, cli_percent(b->confidence).s, cli_percent(b->right).s);
    }
    printf("Brier score %.4f; mean regret expected %s, realised %s\n", r->brier, cli_percent(r->expected).s,
           cli_percent(r->realised).s);
}

static void print_groups(const ks_group *groups, int count)
{
    printf("\n%-5s  %9s  %8s  %8s  %12s  %10s\n", "d", "batch >=", "problems", "advisor", "always fused",
           "always bmm");
    for (const ks_group *g = groups; g < groups + count; g++)
        printf("%-5s  %9lld  %8d  %8s  %12s  %10s\n", g->single ? "d=1" : "d>1", (long long)g->batch, g->problems,
               cli_percent(g->advisor).s, cli_percent(g->fused).s, cli_percent(g->bmm).s);
}

void cli_print_report(const cli_report *r, bool another)
{
    printf("%s%s, %d rows quarantined\n", another ? "\n" : "", r->device, r->cases->quarantined);
    print_quarantine(r->cases);
    cli_print_acceptance(&r->acceptance, 1);
    for (int i = 0; i < KS_NLEARNERS; i++)
        if (r->learners[i].problems) cli_print_regret(ks_learner_name((ks_learner)i), &r->learners[i]);
    cli_print_reliability(&r->reliability);
    print_groups(r->groups, r->group_count);
}
