/* ksauto advise: which path and kernel ks_auto_matmul would take for a problem, and why.
 *
 * The answer stands first, since most readers want no more; then the candidates, so that one sees by how much; then
 * what the answer rests on. --explain (explain.c) takes it apart. */
#include "cli.h"
#include "explain.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] advise A,B,C,D --batch N [OPTION]...";
static const char about[] =
    "Says which path (fused or bmm) and kernel multiplies fastest by a Kronecker-sparse matrix of pattern A,B,C,D,\n"
    "with the predicted time of every candidate and what the prediction stands on.";

static cli_text cost(const ks_advice *advice, double value)
{
    return advice->objective == KS_ENERGY ? cli_energy(value) : cli_time(value);
}

static const ks_candidate *chosen(const ks_advice *advice)
{
    for (int i = 0; i < advice->candidate_count; i++) {
        if (strcmp(advice->candidates[i].kernel, advice->kernel) == 0) return &advice->candidates[i];
    }
    return NULL;
}

static int print_json(const ks_advice *advice, const ks_explanation *why)
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
    if (why) cJSON_AddItemToObject(object, "explain", explain_json(why));
    return cli_print_json(object);
}

static void print_text(const ks_advice *advice, const ks_explanation *why)
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
    if (why) explain_print(why);
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
    ks_explanation why;
    ks_advice *advice = &why.advice;
    code = cli_open(c, "advise", &context, &ctx);
    if (code != CLI_GO_ON) return code;
    status = with_reasons ? ks_explain(ctx, &problem, &why) : ks_advise(ctx, &problem, advice);
    if (status != KS_OK) {
        code = cli_status(status);
        goto done;
    }
    code = CLI_DONE;
    if (c->json)
        code = print_json(advice, with_reasons ? &why : NULL);
    else
        print_text(advice, with_reasons ? &why : NULL);
done:
    ks_close(ctx);
    return code;
}
