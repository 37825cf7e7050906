/* ksauto evaluate --replay: the curves "seconds of measuring, held-out regret" of the designs, from a table. */
#include "report.h"

#include <stdlib.h>

int cli_replay_parse(const char *command, const char *text, ks_replay_options *options)
{
    const char *at = text;
    options->count = 0;
    while (*at && options->count < KS_REPLAY_MOST) {
        char *end;
        const double value = strtod(at, &end);
        const double last = options->count ? options->seconds[options->count - 1] : 0;
        if (end == at || !(value > last && value < 1e9) || (*end && *end != ',') || (*end == ',' && !end[1])) break;
        options->seconds[options->count++] = value;
        at = *end ? end + 1 : end;
    }
    if (!*at && options->count) return CLI_GO_ON;
    return cli_misuse(command, "--replay '%s': must be rising numbers of seconds, such as 1,2,4,8; %d at most", text,
                      (int)KS_REPLAY_MOST);
}

static void add_json(const ks_cases *cases, const ks_device *device, const ks_replay_options *options,
                     const ks_replay_point points[KS_NPLANS][KS_REPLAY_MOST], cJSON *list)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(list, object);
    cJSON_AddStringToObject(object, "device", device->name);
    cJSON_AddStringToObject(object, "dtype", ks_type_name(cases->type));
    cJSON_AddStringToObject(object, "layout", ks_layout_name(cases->layout));
    cli_add_integer(object, "draws", options->draws);
    cJSON *budgets = cJSON_AddArrayToObject(object, "budgets");
    for (int k = 0; k < options->count; k++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(budgets, row);
        cli_add_number(row, "seconds", options->seconds[k]);
        for (int plan = 0; plan < KS_NPLANS; plan++) {
            if (points[plan][k].regret.problems == 0) continue;
            cJSON *design = cJSON_AddObjectToObject(row, ks_plan_name((ks_plan)plan));
            cli_add_number(design, "measured", points[plan][k].measured);
            cJSON_AddItemToObject(design, "regret", cli_regret_json(&points[plan][k].regret));
        }
    }
}

static void print(const ks_cases *cases, const ks_device *device, const ks_replay_options *options,
                  const ks_replay_point points[KS_NPLANS][KS_REPLAY_MOST])
{
    printf("\n%s\n%s, batch-%s: held-out regret, mean of %d draw%s\n\n%8s", device->name, ks_type_name(cases->type),
           ks_layout_name(cases->layout), options->draws, options->draws == 1 ? "" : "s", "");
    for (int plan = 0; plan < KS_NPLANS; plan++) printf("  %-21s", ks_plan_name((ks_plan)plan));
    printf("\n%8s", "seconds");
    for (int plan = 0; plan < KS_NPLANS; plan++) printf("  %5s %7s %7s", "n", "mean", "p95");
    printf("\n");
    for (int k = 0; k < options->count; k++) {
        printf("%8g", options->seconds[k]);
        for (int plan = 0; plan < KS_NPLANS; plan++) {
            const ks_replay_point *at = &points[plan][k];
            if (at->regret.problems)
                printf("  %5.0f %7s %7s", at->measured, cli_percent(at->regret.mean).s,
                       cli_percent(at->regret.p95).s);
            else
                printf("  %5s %7s %7s", "-", "-", "-");
        }
        printf("\n");
    }
}

ks_status cli_replay(const ks_rows *rows, const ks_cases *cases, const ks_device *device,
                     const ks_replay_options *options, cJSON *list)
{
    ks_replay_point points[KS_NPLANS][KS_REPLAY_MOST];
    ks_status s = KS_OK;
    for (int plan = 0; s == KS_OK && plan < KS_NPLANS; plan++)
        s = ks_replay(rows, cases, device, (ks_plan)plan, options, points[plan]);
    if (s != KS_OK) return s;
    if (list)
        add_json(cases, device, options, points, list);
    else
        print(cases, device, options, points);
    return KS_OK;
}
