/* Regret as people and programs read it. calibrate and evaluate end in the same report: what the advisor loses against
 * the best kernel of each problem, beside the policies that need no advisor; it has to beat them to be worth having. */
#include "cli.h"

cJSON *cli_regret_json(const ks_regret *regret)
{
    cJSON *object = cJSON_CreateObject();
    cli_add_number(object, "mean", regret->mean);
    cli_add_number(object, "median", regret->median);
    cli_add_number(object, "p95", regret->p95);
    cli_add_number(object, "max", regret->max);
    return object;
}

cJSON *cli_acceptance_json(const ks_acceptance *acceptance)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "dtype", ks_type_name(acceptance->type));
    cJSON_AddStringToObject(object, "layout", ks_layout_name(acceptance->layout));
    cli_add_integer(object, "problems", acceptance->advisor.problems);
    cli_add_integer(object, "measured", acceptance->measured);
    cJSON_AddItemToObject(object, "regret", cli_regret_json(&acceptance->advisor));
    cli_add_number(object, "agreement", acceptance->agreement);
    cli_add_number(object, "ratio_threshold", acceptance->ratio_threshold);
    cJSON *fixed = cJSON_AddObjectToObject(object, "static");
    cJSON_AddItemToObject(fixed, "always_fused", cli_regret_json(&acceptance->always_fused));
    cJSON_AddItemToObject(fixed, "always_bmm", cli_regret_json(&acceptance->always_bmm));
    cJSON_AddItemToObject(fixed, "ratio", cli_regret_json(&acceptance->ratio));
    return object;
}

static void print_policy(const char *dtype, const char *layout, const char *problems, const char *policy,
                         const ks_regret *regret)
{
    printf("%-5s  %-6s  %8s  %-13s  %8s  %8s  %8s  %8s\n", dtype, layout, problems, policy,
           cli_percent(regret->mean).s, cli_percent(regret->median).s, cli_percent(regret->p95).s,
           cli_percent(regret->max).s);
}

void cli_print_acceptance(const ks_acceptance *acceptance, int count)
{
    printf("%-5s  %-6s  %8s  %-13s  %8s  %8s  %8s  %8s\n", "dtype", "layout", "problems", "regret of", "mean",
           "median", "p95", "max");
    for (int i = 0; i < count; i++) {
        const ks_acceptance *a = &acceptance[i];
        char problems[16], ratio[32];
        snprintf(problems, sizeof problems, "%d", a->advisor.problems);
        snprintf(ratio, sizeof ratio, "ratio>=%.3g", a->ratio_threshold);
        print_policy(ks_type_name(a->type), ks_layout_name(a->layout), problems, "advisor", &a->advisor);
        print_policy("", "", "", "always fused", &a->always_fused);
        print_policy("", "", "", "always bmm", &a->always_bmm);
        print_policy("", "", "", ratio, &a->ratio);
    }
}

void cli_print_regret(const char *policy, const ks_regret *regret)
{
    print_policy("", "", "", policy, regret);
}
