/* ksauto evaluate: what the fitted advisor would have lost on a table of measurements, beside the static policies.
 *
 * The table must be one that the models were not fitted on, or the result flatters them; this command cannot know. */
#include "cli.h"

#include "csv.h"
#include "refit.h"
#include <stdlib.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] evaluate --csv FILE [--format ksauto|ksmm] [OPTION]...";
static const char about[] =
    "Regret of the store's fitted models on a table of measurements that they were not fitted on, for "
    "each device, type and\nlayout in it, beside always-fused, always-bmm and the paper's ratio.";

enum { MAX_DEVICES = 64 };

/* The model for one configuration, looked for among the store's. */
typedef struct wanted {
    ks_type type;
    ks_layout layout;
    ks_objective objective;
    ks_model *model;
    int measured; /* problems that it was fitted on */
    ks_status status;
} wanted;

static bool take(void *user, const ks_model_row *row)
{
    wanted *w = user;
    if (row->type != w->type || row->layout != w->layout || row->objective != w->objective) return true;
    w->measured = row->rows;
    w->status = ks_model_parse(row->json, &w->model);
    if (w->status == KS_OK) w->status = ks_model_usable(w->model);
    return false;
}

/* The table's rows of one device. */
static ks_rows rows_of(const ks_table *table, const char *device)
{
    ks_rows rows = {0};
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->rows[i].device, device) == 0 && !ks_rows_add(&rows, &table->rows[i])) break;
    return rows;
}

static ks_acceptance judge(const ks_cases *cases, const ks_device *device, const wanted *w, int *chosen)
{
    ks_acceptance a = {.type = cases->type, .layout = cases->layout, .measured = w->measured};
    ks_cases_choose(cases, device, w->model, chosen);
    a.advisor = ks_cases_regret(cases, chosen, &a.agreement);
    ks_cases_judge_static(cases, chosen, &a);
    return a;
}

int cmd_evaluate(cli *c, int argc, char **argv)
{
    const char *file = NULL, *format_name = "ksauto", *name = NULL;
    ks_objective objective = KS_TIME;
    ks_csv_format format;
    const cli_option options[] = {
        {"csv", CLI_TEXT, &file, "FILE", "the table", true},
        {"format", CLI_TEXT, &format_name, "FORMAT", "ksauto (default) or ksmm, the paper's", false},
        {"device", CLI_TEXT, &name, "DEVICE", "take this device's models for every row (default: each row's own)",
         false},
        {"objective", CLI_OBJECTIVE, &objective, "WHAT", "time (default) or energy", false},
        {0},
    };
    char path[4096], devices[MAX_DEVICES][KS_DEVICE_BYTES];
    int device_count = 0, code = cli_parse(c, "evaluate", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    if (ks_csv_format_parse(format_name, &format) != KS_OK)
        return cli_misuse("evaluate", "--format '%s' is unknown; valid: ksauto, ksmm", format_name);
    if ((code = cli_readable("evaluate", "--csv", file)) != CLI_GO_ON) return code;

    ks_table table = {0};
    ks_store *store = NULL;
    int *chosen = NULL, configs = 0;
    cJSON *object = cli_result_json(), *list = cJSON_AddArrayToObject(object, "configs");
    cJSON_AddStringToObject(object, "objective", ks_objective_name(objective));
    ks_status s = ks_csv_read_file(file, format, objective == KS_ENERGY, &table);
    if (s == KS_OK) s = ks_store_path(c->store, path, sizeof path);
    if (s == KS_OK) s = ks_store_open(&store, path, KS_STORE_READ);
    if (s != KS_OK) goto failed;
    chosen = malloc((table.count + 1) * sizeof *chosen);
    for (size_t i = 0; i < table.count; i++) {
        int d = 0;
        while (d < device_count && strcmp(devices[d], table.rows[i].device) != 0) d++;
        if (d == device_count && d < MAX_DEVICES)
            snprintf(devices[device_count++], KS_DEVICE_BYTES, "%s", table.rows[i].device);
    }
    for (int d = 0; chosen && d < device_count; d++) {
        const char *by = name ? name : devices[d];
        ks_device device;
        if (ks_store_get_device(store, by, &device) != KS_OK && /* "cpu", "cuda:0" */
            (ks_device_find(by, &device) != KS_OK || ks_store_get_device(store, device.name, &device) != KS_OK)) {
            code =
                name
                    ? cli_misuse("evaluate", "--device '%s' is not in %s", name, path)
                    : cli_fail("device \"%s\" of %s is not in %s: import and fit measurements of it, or name another "
                               "device with --device",
                               by, file, path);
            goto done;
        }
        ks_device_assume_rates(&device);
        ks_rows rows = rows_of(&table, devices[d]);
        for (int t = 0; t < KS_NTYPES; t++)
            for (int l = 0; l < KS_NLAYOUTS; l++) {
                ks_cases cases;
                wanted w = {.type = (ks_type)t, .layout = (ks_layout)l, .objective = objective};
                s = ks_cases_build(rows.items, rows.count, &device, w.type, w.layout, objective, &cases);
                if (s == KS_OK && cases.count > 0) s = ks_store_each_model(store, device.name, take, &w);
                if (s == KS_OK) s = w.status;
                if (s == KS_OK && w.model) {
                    const ks_acceptance a = judge(&cases, &device, &w, chosen);
                    cJSON *row = cli_acceptance_json(&a);
                    cJSON_AddStringToObject(row, "device", devices[d]);
                    cli_add_integer(row, "quarantined", cases.quarantined);
                    cJSON_AddItemToArray(list, row);
                    if (!c->json) {
                        printf("%s%s, %d rows quarantined\n", configs ? "\n" : "", devices[d], cases.quarantined);
                        cli_print_acceptance(&a, 1);
                    }
                    configs++;
                } else if (s == KS_OK && cases.count > 0) {
                    cli_note("no model of \"%s\" for %s, batch-%s: %d problems left out; `ksauto fit` makes one",
                             device.name, ks_type_name(w.type), ks_layout_name(w.layout), cases.count);
                }
                ks_model_free(w.model);
                ks_cases_free(&cases);
                if (s != KS_OK) {
                    ks_rows_free(&rows);
                    goto failed;
                }
            }
        ks_rows_free(&rows);
    }
    if (configs == 0)
        code = cli_fail("nothing in %s could be evaluated: no model in %s fits its devices, types and layouts", file,
                        path);
    else if (c->json)
        code = cli_print_json(object), object = NULL;
    else
        code = CLI_DONE;
    goto done;
failed:
    code = cli_status(s);
done:
    cJSON_Delete(object);
    free(chosen);
    ks_table_free(&table);
    ks_store_close(store);
    return code;
}
