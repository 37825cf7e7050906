/* Why an advice is as it is, at a glance: one sentence, where each candidate's time goes, what it does for that, the measured
 * problems that it leans on, and what else is worth knowing. 80 columns. */
#include "explain.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { MOST_REASONS = 8, REASON_BYTES = 320, COLUMNS = 80, PARTS = 5 };

typedef struct reasons {
    int count;
    char text[MOST_REASONS][REASON_BYTES];
} reasons;

static void add_reason(reasons *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_reason(reasons *r, const char *format, ...)
{
    va_list args;
    if (r->count == MOST_REASONS) return;
    va_start(args, format);
    vsnprintf(r->text[r->count++], REASON_BYTES, format, args);
    va_end(args);
}

static cli_text quantity(const ks_advice *advice, double value)
{
    return advice->objective == KS_ENERGY ? cli_energy(value) : cli_time(value);
}

static ks_part part(const ks_cost *cost, int index)
{
    const ks_part parts[PARTS] = {cost->launches, cost->bytes, cost->flops, cost->elements, cost->tiles};
    return parts[index];
}

/* The first candidate of a family, or of any (-1), besides one; -1 if there is none. */
static int first_of(const ks_advice *advice, int family, int besides)
{
    for (int i = 0; i < advice->candidate_count; i++)
        if (i != besides && (family < 0 || (int)advice->candidates[i].family == family)) return i;
    return -1;
}

static int chosen(const ks_advice *advice)
{
    int i = 0;
    while (i + 1 < advice->candidate_count && strcmp(advice->candidates[i].kernel, advice->kernel) != 0) i++;
    return i;
}

/* ---- the sentence -------------------------------------------------------------------------------------------------- */

/* What of a part there is more of. */
static void amounts(int index, const ks_cost *more, const ks_cost *less, char *text, size_t size)
{
    const double x = part(more, index).amount, y = part(less, index).amount;
    *text = '\0';
    if (!more->own || !less->own || x < 1.05 * y) return;
    if (index == 0) snprintf(text, size, ": it starts %.0f times, not %.0f", x, y);
    if (index == 1)
        snprintf(text, size, ": it moves %.3g times the bytes (%s, not %s)", x / y, cli_rate(x, "B").s,
                 cli_rate(y, "B").s);
}

/* One sentence on why the choice and not the best of the other family, or not the next kernel where there is but one. */
static void sentence(const ks_explanation *why, char *text, size_t size)
{
    static const char *const purposes[PARTS] = {"starting", "memory", "arithmetic", "reordering on the chip",
                                                "tiles and calls"};
    const ks_advice *a = &why->advice;
    const int best = chosen(a), rival = first_of(a, a->path == KS_FUSED ? KS_BMM : KS_FUSED, best);
    const int other = rival >= 0 ? rival : first_of(a, -1, best);
    if (other < 0) {
        snprintf(text, size, "%s is the only kernel that can do this problem here.", a->kernel);
        return;
    }
    const ks_candidate *x = &a->candidates[best], *y = &a->candidates[other];
    const ks_cost *cx = &why->cost[best], *cy = &why->cost[other];
    const double ratio = y->time_s / x->time_s, costs = ratio * cx->nearby / cy->nearby;
    int most = 0;
    for (int i = 1; i < PARTS; i++)
        if (part(cy, i).time_s - part(cx, i).time_s > part(cy, most).time_s - part(cx, most).time_s) most = i;
    if (ratio < 1.02) {
        snprintf(text, size, "%s and %s are within 2 %%, a tie: ties always go to the same kernel.", x->kernel,
                 y->kernel);
    } else if (!cx->own || !cy->own) {
        snprintf(text, size, "%s %s %.3g times as much as %s, by what was measured of problems like this one.",
                 y->kernel, a->objective == KS_ENERGY ? "needs" : "takes", ratio, x->kernel);
    } else if (costs < 1) {
        snprintf(
            text, size,
            "%s %s %.3g times as much as %s because measurements of problems like this one say so; by what it does "
            "alone it would be the other way round.",
            y->kernel, a->objective == KS_ENERGY ? "needs" : "takes", ratio, x->kernel);
    } else {
        char more[128];
        amounts(most, cy, cx, more, sizeof more);
        snprintf(text, size, "%s %s %s more than %s, above all for %s (%s, not %s)%s.", y->kernel,
                 a->objective == KS_ENERGY ? "needs" : "takes", quantity(a, y->time_s - x->time_s).s, x->kernel,
                 purposes[most], quantity(a, part(cy, most).time_s).s, quantity(a, part(cx, most).time_s).s, more);
    }
}

/* ---- what else is worth knowing ------------------------------------------------------------------------------------ */

static void explain_source(reasons *r, const ks_advice *advice)
{
    const char *from = advice->source_device;
    bool same = strcmp(from, advice->device) == 0;
    switch (advice->source) {
    case KS_FROM_MEASUREMENT:
        add_reason(r, "This very problem was measured on %s, and the winner is beyond the noise.", from);
        break;
    case KS_FROM_MODEL:
        add_reason(r, "Predicted by a model fitted to measurements of %s%s.", from,
                   same ? "" : ", which stands in for the device asked about");
        break;
    case KS_FROM_SEEDS:
        add_reason(r,
                   "Predicted from the shipped measurements of %s%s 'ksauto calibrate' measures the device itself.",
                   from, same ? "." : ", the nearest device that ships: its times are only a guide.");
        break;
    case KS_FROM_COST_MODEL:
        add_reason(
            r, "Nothing is measured for this device: predicted from bytes, flops and launches alone, so trust the "
               "order more than the times. 'ksauto calibrate' measures it.");
        break;
    case KS_FROM_DECISIONS:
        add_reason(r, "The table of decisions pins the kernel ($KSAUTO_DECISIONS), whatever the times below say.");
        break;
    case KS_NSOURCES:
        break;
    }
}

static void explain_sureness(reasons *r, const ks_explanation *why)
{
    const ks_advice *a = &why->advice;
    const double p = a->path == KS_FUSED ? a->p_fused_faster : 1 - a->p_fused_faster;
    const bool alone = first_of(a, a->path == KS_FUSED ? KS_BMM : KS_FUSED, -1) < 0;
    if (alone)
        add_reason(r, "Only kernels of one family can do this problem on this device.");
    else
        add_reason(
            r,
            "Sure by %s that %s is the faster family. Following the advice loses %s to the best kernel on average.",
            cli_percent(p).s, ks_family_name(a->path), cli_percent(a->expected_regret).s);
    for (int i = 0; i < a->candidate_count; i++)
        if (!why->cost[i].own) {
            add_reason(r, "This build lacks these kernels: what they do is taken to be what the problem asks for.");
            return;
        }
}

static void explain_layout(reasons *r, const ks_problem *p)
{
    if (p->d == 1)
        add_reason(r,
                   "d = 1: each of the %" PRId64
                   " blocks reads neighbouring values, so a batched GEMM runs straight on X "
                   "without permuting it.",
                   p->a);
    else if (p->layout == KS_BATCH_LAST)
        add_reason(
            r, "Batch last: every (i, l) slice of X is a matrix of leading dimension d*batch, so a batched GEMM runs "
               "straight on X without permuting it.");
    else
        add_reason(r,
                   "Batch first with d = %" PRId64 ": a block's inputs lie %" PRId64
                   " apart, so bmm has to permute X before "
                   "and Y after its GEMM; a fused kernel reads X and writes Y once.",
                   p->d, p->d);
}

static void explain_bounds(reasons *r, const ks_advice *a)
{
    const ks_problem *p = &a->problem;
    const double bytes = ks_problem_bytes(p), flops = ks_problem_flops(p), time = a->candidates[chosen(a)].time_s;
    add_reason(
        r,
        "The problem moves %s at least and does %s: %.3g flops a byte. The paper's ratio (b+c)/(bc) is %.3g; the "
        "larger it is, the more memory decides and the more fusing saves.",
        cli_rate(bytes, "B").s, cli_rate(flops, "FLOP").s, flops / bytes,
        (double)(p->b + p->c) / ((double)p->b * (double)p->c));
    if (a->objective != KS_TIME || !(time > 0 && a->roofline_s > 0 && a->dense_s > 0)) return;
    add_reason(r, "The choice takes %.3g times the roofline time.", time / a->roofline_s);
    if (p->a * p->d == 1)
        add_reason(r, "The problem is itself a dense product: one block.");
    else if (a->dense_s < time)
        add_reason(r, "A dense product of the same shape might be faster: %s, where its GEMM reaches the roofline.",
                   cli_time(a->dense_s).s);
    else
        add_reason(r, "A dense product of the same shape is slower: %s at least, %.3g times the choice.",
                   cli_time(a->dense_s).s, a->dense_s / time);
}

static void collect(reasons *r, const ks_explanation *why)
{
    r->count = 0;
    explain_source(r, &why->advice);
    explain_sureness(r, why);
    explain_layout(r, &why->advice.problem);
    explain_bounds(r, &why->advice);
}

/* ---- for people ---------------------------------------------------------------------------------------------------- */

/* Words up to the last column, the later lines indented. */
static void print_wrapped(const char *lead, const char *text)
{
    const int indent = (int)strlen(lead);
    int column = printf("%s", lead);
    bool first = true;
    while (*text) {
        const int length = (int)strcspn(text, " ");
        if (!first && column + 1 + length > COLUMNS)
            column = printf("\n%*s", indent, "") - 1;
        else if (!first)
            column += printf(" ");
        column += printf("%.*s", length, text);
        text += length + (text[length] == ' ');
        first = false;
    }
    printf("\n");
}

static void print_parts(const ks_explanation *why)
{
    const ks_advice *a = &why->advice;
    printf("\n  %-19s  %8s  %8s  %8s  %8s  %8s  %6s\n",
           a->objective == KS_ENERGY ? "joules go into" : "time goes into", "starts", "memory", "flops", "on chip",
           "tiles", "nearby");
    for (int i = 0; i < a->candidate_count; i++) {
        printf("  %-19s", a->candidates[i].kernel);
        for (int k = 0; k < PARTS; k++) printf("  %8s", quantity(a, part(&why->cost[i], k).time_s).s);
        printf("  x %.2f\n", why->cost[i].nearby);
    }
    const double flops = ks_problem_flops(&a->problem);
    printf("\n  %-19s  %8s  %8s  %8s  %8s  %8s\n", "for doing", "launches", "bytes", "x flops", "elements", "tiles");
    for (int i = 0; i < a->candidate_count; i++) {
        const ks_cost *c = &why->cost[i];
        char waste[16] = "-";
        if (c->own && c->flops.amount > 0.999 * flops) snprintf(waste, sizeof waste, "%.3g", c->flops.amount / flops);
        printf("  %-19s  %8.0f  %8s  %8s  %8s  %8s\n", a->candidates[i].kernel, c->launches.amount,
               cli_rate(c->bytes.amount, "B").s, waste, cli_rate(c->elements.amount, "").s,
               cli_rate(c->tiles.amount, "").s);
    }
}

/* The best measured time of a family among the candidates. */
static double best_of(const ks_advice *a, const ks_neighbour *n, ks_family family)
{
    double best = NAN;
    for (int i = 0; i < a->candidate_count; i++)
        if (a->candidates[i].family == family) best = fmin(best, n->time_s[i]);
    return best;
}

static void print_neighbours(const ks_explanation *why)
{
    const ks_advice *a = &why->advice;
    if (why->neighbour_count == 0) return;
    printf("\n  %-23s  %7s  %5s  %9s  %9s  %s\n", "measured, most alike", "batch", "alike", "fused", "bmm", "faster");
    for (const ks_neighbour *n = why->neighbours; n < why->neighbours + why->neighbour_count; n++) {
        const ks_problem *p = &n->problem;
        const double fused = best_of(a, n, KS_FUSED), bmm = best_of(a, n, KS_BMM);
        char pattern[96], faster[32] = "";
        snprintf(pattern, sizeof pattern, "(%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")%s", p->a, p->b, p->c,
                 p->d, n->borrowed ? " lent" : "");
        if (fused > 0 && bmm > 0)
            snprintf(faster, sizeof faster, "%s, x %.2f", fused < bmm ? "fused" : "bmm",
                     fmax(fused, bmm) / fmin(fused, bmm));
        printf("  %-23s  %7" PRId64 "  %5.2f  %9s  %9s  %s\n", pattern, p->batch, n->likeness, quantity(a, fused).s,
               quantity(a, bmm).s, faster);
    }
}

void explain_print(const ks_explanation *why)
{
    char text[REASON_BYTES];
    reasons r;
    sentence(why, text, sizeof text);
    printf("\n");
    print_wrapped("Why: ", text);
    print_parts(why);
    print_neighbours(why);
    printf("\n");
    collect(&r, why);
    for (int i = 0; i < r.count; i++) print_wrapped("- ", r.text[i]);
}

/* ---- for programs -------------------------------------------------------------------------------------------------- */

static void add_costs(cJSON *object, const ks_explanation *why)
{
    static const char *const names[PARTS][2] = {{"launches", "launches_s"},
                                                {"bytes", "bytes_s"},
                                                {"flops", "flops_s"},
                                                {"elements", "elements_s"},
                                                {"tiles", "tiles_s"}};
    cJSON *list = cJSON_AddArrayToObject(object, "costs");
    for (int i = 0; i < why->advice.candidate_count; i++) {
        const ks_cost *c = &why->cost[i];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddStringToObject(row, "kernel", why->advice.candidates[i].kernel);
        for (int k = 0; k < PARTS; k++) {
            cli_add_number(row, names[k][0], part(c, k).amount);
            cli_add_number(row, names[k][1], part(c, k).time_s);
        }
        cli_add_number(row, "nearby", c->nearby);
        cJSON_AddBoolToObject(row, "fitted", c->fitted);
        cJSON_AddBoolToObject(row, "own", c->own);
    }
}

static void add_neighbours(cJSON *object, const ks_explanation *why)
{
    cJSON *list = cJSON_AddArrayToObject(object, "neighbours");
    for (const ks_neighbour *n = why->neighbours; n < why->neighbours + why->neighbour_count; n++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddItemToObject(row, "problem", cli_problem_json(&n->problem));
        cli_add_number(row, "likeness", n->likeness);
        cJSON_AddBoolToObject(row, "borrowed", n->borrowed);
        cJSON *times = cJSON_AddObjectToObject(row, "time_s");
        for (int i = 0; i < why->advice.candidate_count; i++)
            cli_add_number(times, why->advice.candidates[i].kernel, n->time_s[i]);
    }
}

cJSON *explain_json(const ks_explanation *why)
{
    cJSON *object = cJSON_CreateObject();
    char text[REASON_BYTES];
    reasons r;
    sentence(why, text, sizeof text);
    collect(&r, why);
    cJSON_AddStringToObject(object, "source_device", why->advice.source_device);
    cli_add_number(object, "dense_s", why->advice.dense_s);
    cJSON_AddStringToObject(object, "why", text);
    cJSON *list = cJSON_AddArrayToObject(object, "reasons");
    for (int i = 0; i < r.count; i++) cJSON_AddItemToArray(list, cJSON_CreateString(r.text[i]));
    add_costs(object, why);
    add_neighbours(object, why);
    return object;
}
