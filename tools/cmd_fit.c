/* ksauto fit: refit the predictor from what the store holds, for this machine or any device in the store. */
#include "cli.h"

#include "refit.h"
#include "standing.h"
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] fit [--device DEVICE] [--objective time|energy] [--alone]";
static const char about[] =
    "Fits the predictor to the measurements in the store, one model for each type and layout that has "
    "enough of them,\nand stores the models. Measures nothing.";

/* The device by its name in the store; "cpu" and "cuda:N" are this machine's. */
static ks_status find(ks_store *store, const char *name, ks_device *device)
{
    ks_device stored;
    if (name && ks_store_get_device(store, name, device) == KS_OK) return KS_OK;
    ks_status s = ks_device_find(name, device);
    if (s == KS_OK && ks_store_get_device(store, device->name, &stored) == KS_OK) *device = stored;
    return s;
}

int cmd_fit(cli *c, int argc, char **argv)
{
    const char *name = NULL;
    ks_objective objective = KS_TIME;
    bool alone = false;
    const cli_option options[] = {
        {"device", CLI_TEXT, &name, "DEVICE", "cpu (default), cuda:N, or the name of a device in the store", false},
        {"objective", CLI_OBJECTIVE, &objective, "WHAT", "time (default) or energy", false},
        {"alone", CLI_FLAG, &alone, NULL, "take nothing from the seed of the nearest device for what is not measured",
         false},
        {0},
    };
    char path[4096];
    ks_store *store = NULL;
    ks_device device;
    ks_rows rows = {0};
    cJSON *object = NULL;
    int code = cli_parse(c, "fit", synopsis, about, options, argc, argv, 0, 0, NULL, NULL), fitted = 0;
    if (code != CLI_GO_ON) return code;

    ks_status s = ks_store_path(c->store, path, sizeof path);
    if (s == KS_OK) s = ks_store_open(&store, path, KS_STORE_WRITE);
    if (s != KS_OK) return cli_status(s);
    if (find(store, name, &device) != KS_OK) {
        code =
            cli_misuse("fit", "--device '%s' is not in %s; valid: cpu, cuda:N, or a name that `ksauto devices` lists",
                       name, path);
        goto done;
    }
    ks_device_assume_rates(&device);
    const ks_store_filter filter = {.device = device.name};
    s = ks_rows_read(store, &filter, &rows);
    if (s != KS_OK) goto failed;
    object = cli_result_json();
    cJSON_AddStringToObject(object, "device", device.name);
    cJSON_AddStringToObject(object, "objective", ks_objective_name(objective));
    cJSON *configs = cJSON_AddArrayToObject(object, "configs");
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            ks_model *model = NULL;
            ks_refit_result result;
            ks_origin origin = {0};
            if (!alone) ks_origin_nearest(&device, (ks_type)t, (ks_layout)l, objective, &origin);
            s = ks_refit(&rows, &device, (ks_type)t, (ks_layout)l, objective, &origin, KS_EFFORT_VALIDATED,
                         KS_FIT_STEPS, &model, &result);
            ks_origin_free(&origin);
            if (s == KS_OK)
                s = ks_standing_find(store, device.name, (ks_type)t, (ks_layout)l, &model->standing); /* as it was */
            if (s == KS_OK) s = ks_refit_keep(store, &device, model, &result);
            ks_model_free(model);
            if (s == KS_ERR_NO_DATA) continue;
            if (s != KS_OK) goto failed;
            if (!c->json) {
                if (fitted++ == 0)
                    printf("%s, %s\n\n%-5s  %-6s  %8s  %11s  %22s\n", device.name, ks_objective_name(objective),
                           "dtype", "layout", "problems", "quarantined", "cross-validated regret");
                printf("%-5s  %-6s  %8d  %11d  %22s\n", ks_type_name((ks_type)t), ks_layout_name((ks_layout)l),
                       result.problems, result.quarantined, cli_percent(result.cv_regret).s);
                continue;
            }
            fitted++;
            cJSON *row = cJSON_CreateObject();
            cJSON_AddStringToObject(row, "dtype", ks_type_name((ks_type)t));
            cJSON_AddStringToObject(row, "layout", ks_layout_name((ks_layout)l));
            cli_add_integer(row, "problems", result.problems);
            cli_add_integer(row, "quarantined", result.quarantined);
            cli_add_number(row, "cv_regret", result.cv_regret);
            cJSON_AddItemToArray(configs, row);
        }
    if (fitted == 0)
        code = cli_fail(
            "%s holds too few measurements of \"%s\" to fit anything (%zu rows); `ksauto calibrate` makes them", path,
            device.name, rows.count);
    else if (c->json)
        code = cli_print_json(object), object = NULL;
    else
        code = CLI_DONE;
    goto done;
failed:
    code = cli_status(s);
done:
    cJSON_Delete(object);
    ks_rows_free(&rows);
    ks_store_close(store);
    return code;
}
