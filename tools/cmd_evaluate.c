/* ksauto evaluate: what the fitted advisor would have lost on a table of measurements, beside the static policies.
 *
 * The table must be one that the models were not fitted on, or the result flatters them; this command cannot know. With --cv or
 * --train it splits the table itself and fits to the one part what it judges by the other; then no model is needed. */
#include "cli.h"

#include "csv.h"
#include "refit.h"
#include "report.h"
#include "seeds.h"
#include "standing.h"
#include "validate.h"
#include <stdlib.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] evaluate --csv FILE [--format ksauto|ksmm] [OPTION]...\n"
                               "       ksauto [--db FILE] evaluate --cv K|--train N|--replay SECONDS [--csv FILE "
                               "[--format ksauto|ksmm]] [OPTION]...";
static const char about[] =
    "Regret of the store's fitted models on a table of measurements that they were not fitted on, for "
    "each device, type and\nlayout in it, beside always-fused, always-bmm and the paper's ratio; how honest P(fused "
    "faster) and the "
    "expected\nregret are; and regret by groups of problems. With --cv or --train models are fitted to parts of the "
    "table (of "
    "the\nstore's measurements where there is no --csv), split by pattern, and judged by the rest; nothing is "
    "stored.";

enum { MAX_DEVICES = 64, MOST_FOLDS = 100, MOST_DRAWS = 1000 };

typedef struct job {
    const cli *c;
    ks_store *store; /* NULL: none */
    char path[4096]; /* of the store */
    const char *source;
    const char *device; /* as the user named it; NULL: each row's own */
    ks_objective objective;
    ks_split split;           /* all 0: the store's models are judged */
    ks_replay_options replay; /* budgets to replay calibrations for; none: no replay */
    bool learners;            /* the others, too */
    const char *from;         /* the device whose models what is learned starts from; NULL: none */
    cJSON *list;
    int configs;
    ks_reliability pooled; /* over the configurations of the device at hand */
} job;

static bool splits(const job *j)
{
    return j->split.folds || j->split.train || j->replay.count;
}

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
    if (w->status == KS_OK) w->status = ks_model_factorise(w->model);
    return false;
}

/* The table's rows of one device. */
static ks_rows rows_of(const ks_rows *table, const char *device)
{
    ks_rows rows = {0};
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->items[i].device, device) == 0 && !ks_rows_add(&rows, &table->items[i])) break;
    return rows;
}

static bool no_model(void *user, const ks_model_row *row)
{
    (void)user, (void)row;
    return false;
}

/* The facts of a device: from the store; to fit anew, also from a seed, or none but its name. */
static bool find_device(const job *j, const char *name, ks_device *device)
{
    size_t seeds;
    const ks_seed *seed = ks_seeds(&seeds);
    if (j->store && ks_store_get_device(j->store, name, device) == KS_OK) return true;
    const bool here = ks_device_find(name, device) == KS_OK; /* "cpu", "cuda:0" */
    if (here && j->store && ks_store_get_device(j->store, device->name, device) == KS_OK) return true;
    if (!splits(j) || here) return splits(j);
    for (size_t i = 0; i < seeds; i++)
        if (ks_seed_read(&seed[i], device, no_model, NULL) == KS_OK && strcmp(device->name, name) == 0) return true;
    *device = (ks_device){0};
    snprintf(device->name, sizeof device->name, "%s", name);
    return true;
}

/* The other learners on the same folds. */
static ks_status compare(const job *j, const ks_cases *cases, const ks_device *device,
                         ks_regret regrets[KS_NLEARNERS])
{
    ks_status s = KS_OK;
    for (int learner = KS_LEARN_GP + 1; s == KS_OK && learner < KS_NLEARNERS; learner++) {
        ks_heldout h;
        ks_heldout_open(&h, cases);
        s = ks_validate(cases, device, (ks_learner)learner, NULL, &j->split, &h);
        if (s == KS_OK) regrets[learner] = ks_cases_regret(&h.cases, h.chosen, NULL);
        ks_heldout_close(&h);
    }
    return s;
}

/* What learning starts from: a model of the store. KS_OK without one if none was asked for. */
static ks_status find_origin(const job *j, const wanted *like, ks_origin *origin)
{
    wanted w = {.type = like->type, .layout = like->layout, .objective = like->objective};
    *origin = (ks_origin){0};
    if (!j->from) return KS_OK;
    ks_status s = ks_store_get_device(j->store, j->from, &origin->device);
    if (s == KS_OK) s = ks_store_each_model(j->store, j->from, take, &w);
    if (s == KS_OK) s = w.status;
    ks_device_assume_rates(&origin->device);
    origin->model = w.model;
    return s;
}

/* Held-out advice for one type and layout, by the store's model or by new ones, and what it says. */
static ks_status judge(job *j, const ks_device *device, const ks_cases *cases, const wanted *w)
{
    ks_heldout h;
    cli_report r = {.device = device->name, .cases = cases, .acceptance.measured = w->measured};
    ks_origin origin;
    ks_heldout_open(&h, cases);
    ks_status s = find_origin(j, w, &origin);
    if (s == KS_OK)
        s = w->model ? ks_heldout_advise_all(&h, cases, device, w->model)
                     : ks_validate(cases, device, KS_LEARN_GP, &origin, &j->split, &h);
    ks_origin_free(&origin);
    if (s == KS_OK) s = ks_heldout_judge(&h, &r.acceptance);
    if (s == KS_OK && j->learners) s = compare(j, cases, device, r.learners);
    if (s == KS_OK) {
        ks_heldout_reliability(&h, &r.reliability);
        ks_reliability_add(&j->pooled, &r.reliability);
        r.group_count = ks_heldout_groups(&h, r.groups);
        if (j->c->json)
            cJSON_AddItemToArray(j->list, cli_report_json(&r));
        else
            cli_print_report(&r, j->configs > 0);
        j->configs++;
    }
    ks_heldout_close(&h);
    return s;
}

/* The designs' curves for one type and layout. */
static ks_status replay(job *j, const ks_device *device, const ks_rows *rows, const ks_cases *cases, const wanted *w)
{
    ks_origin origin;
    ks_status s = find_origin(j, w, &origin);
    ks_replay_options options = j->replay;
    options.draws = j->split.draws, options.origin = &origin;
    if (s == KS_OK) s = cli_replay(rows, cases, device, &options, j->c->json ? j->list : NULL);
    ks_origin_free(&origin);
    j->configs++;
    return s;
}

static ks_status evaluate(job *j, const ks_device *device, const ks_rows *rows, ks_type type, ks_layout layout)
{
    ks_cases cases;
    wanted w = {.type = type, .layout = layout, .objective = j->objective};
    if (splits(j) && ks_refit_twin(device, type) < type) return KS_OK; /* judged already, with its twin's rows */
    ks_status s = splits(j) ? ks_refit_cases(rows, device, type, layout, j->objective, &cases)
                            : ks_cases_build(rows->items, rows->count, device, type, layout, j->objective, &cases);
    if (s == KS_OK && cases.count > 0 && !splits(j)) s = ks_store_each_model(j->store, device->name, take, &w);
    if (s == KS_OK) s = w.status;
    if (s == KS_OK && cases.count > 0 && j->replay.count)
        s = replay(j, device, rows, &cases, &w);
    else if (s == KS_OK && cases.count > 0 && (w.model || splits(j)))
        s = judge(j, device, &cases, &w);
    else if (s == KS_OK && cases.count > 0)
        cli_note("no model of \"%s\" for %s, batch-%s: %d problems left out; `ksauto fit` makes one", device->name,
                 ks_type_name(type), ks_layout_name(layout), cases.count);
    if (s == KS_ERR_NO_DATA && splits(j)) {
        cli_note("%s, %s, batch-%s: %s", device->name, ks_type_name(type), ks_layout_name(layout),
                 ks_status_message(s));
        s = KS_OK;
    }
    ks_model_free(w.model);
    ks_cases_free(&cases);
    return s;
}

static int evaluate_device(job *j, const ks_rows *table, const char *name)
{
    ks_device device;
    if (!find_device(j, j->device ? j->device : name, &device))
        return j->device
                   ? cli_misuse("evaluate", "--device '%s' is not in %s", j->device, j->path)
                   : cli_fail("device \"%s\" of %s is not in %s: import and fit measurements of it, or name another "
                              "device with --device",
                              name, j->source, j->path);
    ks_device_assume_rates(&device);
    ks_rows rows = rows_of(table, name);
    ks_status s = ks_rows_status(&rows);
    const int before = j->configs;
    j->pooled = (ks_reliability){0};
    for (int t = 0; s == KS_OK && t < KS_NTYPES; t++)
        for (int l = 0; s == KS_OK && l < KS_NLAYOUTS; l++) s = evaluate(j, &device, &rows, (ks_type)t, (ks_layout)l);
    ks_rows_free(&rows);
    if (!j->c->json && !j->replay.count && j->configs > before + 1) {
        printf("\n%s, all types and layouts\n", name);
        cli_print_reliability(&j->pooled);
    }
    return s == KS_OK ? CLI_GO_ON : cli_status(s);
}

static int evaluate_all(job *j, const ks_rows *table)
{
    char devices[MAX_DEVICES][KS_DEVICE_BYTES];
    int count = 0, code = CLI_GO_ON;
    for (size_t i = 0; i < table->count; i++) {
        int d = 0;
        while (d < count && strcmp(devices[d], table->items[i].device) != 0) d++;
        if (d == count && d < MAX_DEVICES) snprintf(devices[count++], KS_DEVICE_BYTES, "%s", table->items[i].device);
    }
    for (int d = 0; code == CLI_GO_ON && d < count; d++) code = evaluate_device(j, table, devices[d]);
    if (code == CLI_GO_ON && j->configs == 0)
        code = splits(j)
                   ? cli_fail("%s holds too few measurements to split%s%s", j->source, j->device ? " of " : "",
                              j->device ? j->device : "")
                   : cli_fail("nothing in %s could be evaluated: no model in %s fits its devices, types and layouts",
                              j->source, j->path);
    return code;
}

/* The rows to judge by: the table's, or the store's, of the device that is named, if one is. */
static ks_status read_rows(job *j, const char *file, ks_csv_format format, ks_rows *rows)
{
    ks_table table;
    ks_device device;
    if (file) {
        ks_status s = ks_csv_read_file(file, format, j->objective == KS_ENERGY, &table);
        *rows = (ks_rows){.items = table.rows, .count = table.count, .room = table.count};
        return s;
    }
    const bool here = j->device && ks_device_find(j->device, &device) == KS_OK;
    const ks_store_filter filter = {.device = here ? device.name : j->device, .usable = true};
    return ks_rows_read(j->store, &filter, rows);
}

int cmd_evaluate(cli *c, int argc, char **argv)
{
    const char *file = NULL, *budgets = NULL, *format_name = "ksauto";
    int64_t folds = 0, train = 0, draws = 10;
    job j = {.c = c};
    ks_csv_format format;
    const cli_option options[] = {
        {"csv", CLI_TEXT, &file, "FILE", "the table", false},
        {"format", CLI_TEXT, &format_name, "FORMAT", "ksauto (default) or ksmm, the paper's", false},
        {"device", CLI_TEXT, &j.device, "DEVICE", "take this device's models for every row (default: each row's own)",
         false},
        {"objective", CLI_OBJECTIVE, &j.objective, "WHAT", "time (default) or energy", false},
        {"cv", CLI_INT, &folds, "K", "cross-validate: predict each of K folds of the patterns from the others",
         false},
        {"train", CLI_INT, &train, "N", "learn from N patterns drawn at random, judge by all others", false},
        {"replay", CLI_TEXT, &budgets, "SECONDS",
         "what designs of calibration, choosing from the table's problems, have learned after so many seconds of "
         "measuring: 1,2,4,8",
         false},
        {"draws", CLI_INT, &draws, "M", "how many times --train and --replay draw (default 10)", false},
        {"from", CLI_TEXT, &j.from, "DEVICE",
         "with --cv, --train or --replay: start from this device's models in the store", false},
        {"learners", CLI_FLAG, &j.learners, NULL, "with --cv or --train: compare other learners on the same parts",
         false},
        {0},
    };
    int code = cli_parse(c, "evaluate", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    if (ks_csv_format_parse(format_name, &format) != KS_OK)
        return cli_misuse("evaluate", "--format '%s' is unknown; valid: ksauto, ksmm", format_name);
    if (file && (code = cli_readable("evaluate", "--csv", file)) != CLI_GO_ON) return code;
    if ((folds != 0) + (train != 0) + (budgets != NULL) > 1)
        return cli_misuse("evaluate", "--cv, --train and --replay exclude each other");
    if (budgets && j.objective == KS_ENERGY)
        return cli_misuse("evaluate", "--replay has no energy: what it counts are the seconds of measuring");
    if (budgets && (code = cli_replay_parse("evaluate", budgets, &j.replay)) != CLI_GO_ON) return code;
    if (folds == 1 || folds > MOST_FOLDS) return cli_misuse("evaluate", "--cv must be from 2 to %d", MOST_FOLDS);
    if (draws > MOST_DRAWS) return cli_misuse("evaluate", "--draws must be from 1 to %d", MOST_DRAWS);
    j.split =
        (ks_split){.folds = (int)folds, .train = train > INT32_MAX ? INT32_MAX : (int)train, .draws = (int)draws};
    if (!file && !splits(&j))
        return cli_misuse("evaluate", "--csv is required, unless --cv, --train or --replay is given");
    if ((j.learners && (!splits(&j) || budgets)) || (j.from && !splits(&j)))
        return cli_misuse("evaluate", "--%s needs --cv or --train", j.learners ? "learners" : "from");

    ks_rows rows = {0};
    cJSON *object = cli_result_json();
    cJSON_AddStringToObject(object, "objective", ks_objective_name(j.objective));
    j.list = cJSON_AddArrayToObject(object, "configs");
    ks_status s = ks_store_path(c->store, j.path, sizeof j.path);
    if (s == KS_OK) s = ks_store_open(&j.store, j.path, KS_STORE_READ);
    if (s != KS_OK && file && splits(&j) && !j.from) s = KS_OK; /* it would only have told facts of the device */
    j.source = file ? file : j.path;
    if (s == KS_OK) s = read_rows(&j, file, format, &rows);
    code = s == KS_OK ? evaluate_all(&j, &rows) : cli_status(s);
    if (code == CLI_GO_ON) {
        code = c->json ? cli_print_json(object) : CLI_DONE;
        if (c->json) object = NULL;
    }
    cJSON_Delete(object);
    ks_rows_free(&rows);
    ks_store_close(j.store);
    return code;
}
