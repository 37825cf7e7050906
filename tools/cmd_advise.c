/* ksauto advise: which path and kernel ks_auto_matmul would take for a problem, and why.
 *
 * The answer stands first, since most readers want no more; then the candidates, so that one sees by how much; then
 * what the answer rests on. --explain says in words what the numbers mean for somebody who does not know the paper. */
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] advise A,B,C,D --batch N [OPTION]...";
static const char about[] =
    "Says which path (fused or bmm) and kernel multiplies fastest by a Kronecker-sparse matrix of pattern A,B,C,D,\n"
    "with the predicted time of every candidate and what the prediction stands on.";

enum { MAX_REASONS = 8, REASON_BYTES = 320 };

typedef struct reasons {
    int count;
    char text[MAX_REASONS][REASON_BYTES];
} reasons;

static void add_reason(reasons *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_reason(reasons *r, const char *format, ...)
{
    va_list args;
    if (r->count == MAX_REASONS) return;
    va_start(args, format);
    vsnprintf(r->text[r->count++], REASON_BYTES, format, args);
    va_end(args);
}

static cli_text cost(const ks_advice *advice, double value)
{
    return advice->objective == KS_ENERGY ? cli_energy(value) : cli_time(value);
}

/* The fastest candidate of a family, or NULL. */
static const ks_candidate *best_of(const ks_advice *advice, ks_family family)
{
    for (int i = 0; i < advice->candidate_count; i++) {
        if (advice->candidates[i].family == family) return &advice->candidates[i];
    }
    return NULL;
}

static const ks_candidate *chosen(const ks_advice *advice)
{
    for (int i = 0; i < advice->candidate_count; i++) {
        if (strcmp(advice->candidates[i].kernel, advice->kernel) == 0) return &advice->candidates[i];
    }
    return NULL;
}

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

static void explain(reasons *r, const ks_advice *advice)
{
    const ks_problem *p = &advice->problem;
    const ks_candidate *fused = best_of(advice, KS_FUSED), *bmm = best_of(advice, KS_BMM), *best = chosen(advice);
    double bytes = ks_problem_bytes(p), flops = ks_problem_flops(p);
    r->count = 0;
    explain_source(r, advice);
    explain_layout(r, p);
    add_reason(
        r,
        "It moves %s at least and does %s: %.3g flops a byte. The paper's ratio (b+c)/(bc) is %.3g; the larger it "
        "is, the more memory decides and the more fusing saves.",
        cli_rate(bytes, "B").s, cli_rate(flops, "FLOP").s, flops / bytes,
        (double)(p->b + p->c) / ((double)p->b * (double)p->c));
    if (fused && bmm) {
        const ks_candidate *first = fused->time_s <= bmm->time_s ? fused : bmm, *other = first == fused ? bmm : fused;
        bool apart = first->time_hi_s < other->time_lo_s;
        double ratio = other->time_s / first->time_s;
        if (ratio < 1.02)
            add_reason(r, "The best of both families are within 2 %%, a tie: ties always go to the same kernel.");
        else
            add_reason(r,
                       "The best %s kernel takes %.2f times the %s of the best %s kernel; their 80 %% intervals %s.",
                       ks_family_name(other->family), ratio, ks_objective_name(advice->objective),
                       ks_family_name(first->family), apart ? "lie apart" : "overlap, so the choice may be wrong");
    } else {
        add_reason(r, "Only kernels of one family can do this problem on this device.");
    }
    if (best && advice->objective == KS_TIME && best->time_s > 0 && advice->roofline_s > 0) {
        add_reason(r, "The choice takes %.2f times the roofline time.", best->time_s / advice->roofline_s);
        if (advice->dense_s > 0)
            add_reason(
                r,
                "The dense matrix of the same shape holds %.4g times the values and takes %s at least: %.3g times "
                "the choice.",
                (double)p->a * (double)p->d, cli_time(advice->dense_s).s, advice->dense_s / best->time_s);
    }
}

static int print_json(const ks_advice *advice, const reasons *why)
{
    cJSON *object = cli_result_json();
    cJSON_AddItemToObject(object, "problem", cli_problem_json(&advice->problem));
    cJSON_AddStringToObject(object, "device", advice->device);
    if (advice->objective != KS_TIME) /* then every time_s below is joules */
        cJSON_AddStringToObject(object, "objective", ks_objective_name(advice->objective));
    cJSON_AddStringToObject(object, "path", ks_family_name(advice->path));
    cJSON_AddStringToObject(object, "kernel", advice->kernel);
    cJSON_AddStringToObject(object, "source", ks_source_name(advice->source));
    cJSON *candidates = cJSON_AddArrayToObject(object, "candidates");
    for (int i = 0; i < advice->candidate_count; i++) {
        const ks_candidate *candidate = &advice->candidates[i];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "kernel", candidate->kernel);
        cJSON_AddStringToObject(row, "family", ks_family_name(candidate->family));
        cli_add_number(row, "time_s", candidate->time_s);
        cli_add_number(row, "time_lo_s", candidate->time_lo_s);
        cli_add_number(row, "time_hi_s", candidate->time_hi_s);
        cJSON_AddItemToArray(candidates, row);
    }
    cli_add_number(object, "p_fused_faster", advice->p_fused_faster);
    cli_add_number(object, "expected_regret", advice->expected_regret);
    cli_add_number(object, "roofline_s", advice->roofline_s);
    if (why) {
        cJSON *more = cJSON_AddObjectToObject(object, "explain");
        cJSON_AddStringToObject(more, "source_device", advice->source_device);
        cli_add_number(more, "dense_s", advice->dense_s);
        cJSON *list = cJSON_AddArrayToObject(more, "reasons");
        for (int i = 0; i < why->count; i++) cJSON_AddItemToArray(list, cJSON_CreateString(why->text[i]));
    }
    return cli_print_json(object);
}

static void print_text(const ks_advice *advice, const reasons *why)
{
    const ks_problem *p = &advice->problem;
    const ks_candidate *best = chosen(advice);
    double fastest = advice->candidate_count ? advice->candidates[0].time_s : NAN;
    const char *quantity = advice->objective == KS_ENERGY ? "energy" : "time";
    printf("%s: %s, %s %s\n", ks_family_name(advice->path), advice->kernel, cost(advice, best ? best->time_s : NAN).s,
           advice->source == KS_FROM_MEASUREMENT ? "measured" : "predicted");
    printf("pattern (%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "), batch %" PRId64 " %s, %s, on %s\n\n", p->a,
           p->b, p->c, p->d, p->batch, ks_layout_name(p->layout), ks_type_name(p->type), advice->device);

    int width = 6;
    for (int i = 0; i < advice->candidate_count; i++) {
        int length = (int)strlen(advice->candidates[i].kernel);
        if (length > width) width = length;
    }
    printf("  %-*s  %-6s  %9s  %-21s  %6s\n", width, "kernel", "family", quantity, "80 % interval", "x best");
    for (int i = 0; i < advice->candidate_count; i++) {
        const ks_candidate *row = &advice->candidates[i];
        char interval[72];
        snprintf(interval, sizeof interval, "%s .. %s", cost(advice, row->time_lo_s).s,
                 cost(advice, row->time_hi_s).s);
        printf("%c %-*s  %-6s  %9s  %-21s  %6.2f\n", row == best ? '*' : ' ', width, row->kernel,
               ks_family_name(row->family), cost(advice, row->time_s).s, interval, row->time_s / fastest);
    }
    printf("\nP(fused faster)  %s\n", cli_percent(advice->p_fused_faster).s);
    printf("expected regret  %s\n", cli_percent(advice->expected_regret).s);
    printf("source           %s%s%s%s\n", ks_source_name(advice->source), *advice->source_device ? " (" : "",
           advice->source_device, *advice->source_device ? ")" : "");
    printf("roofline         %s\n", cli_time(advice->roofline_s).s);
    printf("dense            %s\n", cli_time(advice->dense_s).s);
    if (!why) return;
    printf("\nWhy:\n");
    for (int i = 0; i < why->count; i++) printf("- %s\n", why->text[i]);
}

int cmd_advise(cli *c, int argc, char **argv)
{
    ks_problem problem = {.type = KS_F32, .layout = KS_BATCH_FIRST, .math = KS_MATH_F32};
    ks_options context = {0};
    bool with_reasons = false;
    const cli_option options[] = {
        {"batch", CLI_INT, &problem.batch, "N", "rows of X", true},
        {"dtype", CLI_TYPE, &problem.type, "TYPE", "f32 (default), f16, bf16 or f64", false},
        {"layout", CLI_LAYOUT, &problem.layout, "LAYOUT", "first (default): batch first; last: batch last", false},
        {"math", CLI_MATH, &problem.math, "MATH", "f32 (default), or tf32 to allow its accuracy on GPUs", false},
        {"device", CLI_TEXT, &context.device, "DEVICE",
         "cpu (default), cuda:N, or a name that 'ksauto devices' lists", false},
        {"objective", CLI_OBJECTIVE, &context.objective, "WHAT", "time (default) or energy", false},
        {"explain", CLI_FLAG, &with_reasons, NULL, "say why, in words", false},
        {0},
    };
    char **arguments;
    int code = cli_parse(c, "advise", synopsis, about, options, argc, argv, 1, 1, &arguments, NULL);
    if (code != CLI_GO_ON) return code;
    code = cli_pattern("advise", arguments[0], &problem);
    if (code != CLI_GO_ON) return code;
    ks_status status = ks_problem_check(&problem);
    if (status != KS_OK) return cli_status(status);

    ks_context *ctx;
    ks_advice advice;
    reasons why;
    code = cli_open(c, "advise", &context, &ctx);
    if (code != CLI_GO_ON) return code;
    status = ks_advise(ctx, &problem, &advice);
    if (status != KS_OK) {
        code = cli_status(status);
        goto done;
    }
    code = CLI_DONE;
    if (with_reasons) explain(&why, &advice);
    if (c->json)
        code = print_json(&advice, with_reasons ? &why : NULL);
    else
        print_text(&advice, with_reasons ? &why : NULL);
done:
    ks_close(ctx);
    return code;
}
