/* ksauto db: the store as people handle it. What it may do to a store is what db/store.h promises: add, and read; there is
 * no command that removes measurements. */
#include "cli.h"

#include "csv.h"
#include "output.h"
#include "seeds.h"
#include "standing.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int open_store(const cli *c, ks_store_mode mode, char *path, size_t size, ks_store **store)
{
    *store = NULL;
    ks_status status = ks_store_path(c->store, path, size);
    if (status == KS_OK) status = ks_store_open(store, path, mode);
    return status == KS_OK ? CLI_GO_ON : cli_status(status);
}

static int db_path(cli *c, int argc, char **argv)
{
    const cli_option options[] = {{0}};
    char path[4096];
    int code =
        cli_parse(c, "db path", "ksauto [--db FILE] db path", "Prints where the store is, whether it exists or not.",
                  options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    ks_status status = ks_store_path(c->store, path, sizeof path);
    if (status != KS_OK) return cli_status(status);
    if (c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "path", path);
        return cli_print_json(object);
    }
    puts(path);
    return CLI_DONE;
}

/* Models of this machine's devices whose measurements were made under other versions: a sentence each. */
typedef struct stale_models {
    void (*report)(void *user, const char *sentence);
    void *user;
} stale_models;

static bool look_at_model(void *user, const ks_model_row *row)
{
    const stale_models *s = user;
    ks_device device;
    ks_model *model;
    char why[600], sentence[800];
    if (row->objective != KS_TIME || ks_device_find(row->device, &device) != KS_OK) return true;
    if (ks_model_parse(row->json, &model) != KS_OK) return true;
    if (ks_model_stale(model, &device, why, sizeof why)) {
        snprintf(sentence, sizeof sentence, "%s: %s; `ksauto calibrate` looks at what that has changed", row->device,
                 why);
        s->report(s->user, sentence);
    }
    ks_model_free(model);
    return true;
}

static void on_stale(void *user, const char *sentence)
{
    cJSON *list = user;
    if (list)
        cJSON_AddItemToArray(list, cJSON_CreateString(sentence));
    else
        cli_note("%s", sentence);
}

static int db_info(cli *c, int argc, char **argv)
{
    const cli_option options[] = {{0}};
    char path[4096];
    ks_store *store;
    ks_store_info info;
    int code = cli_parse(c, "db info", "ksauto [--db FILE] db info", "Says what the store holds.", options, argc,
                         argv, 0, 0, NULL, NULL);
    if (code == CLI_GO_ON) code = open_store(c, KS_STORE_READ, path, sizeof path, &store);
    if (code != CLI_GO_ON) return code;
    cJSON *object = c->json ? cli_result_json() : NULL;
    stale_models stale = {on_stale, object ? cJSON_AddArrayToObject(object, "stale") : NULL};
    ks_status status = ks_store_info_get(store, &info);
    if (status == KS_OK) status = ks_store_each_model(store, NULL, look_at_model, &stale);
    ks_store_close(store);
    if (status != KS_OK) {
        cJSON_Delete(object);
        return cli_status(status);
    }
    if (object) {
        cJSON_AddStringToObject(object, "path", path);
        cli_add_integer(object, "schema", info.schema);
        cli_add_integer(object, "devices", info.devices);
        cli_add_integer(object, "models", info.models);
        cli_add_integer(object, "measurements", info.measurements);
        cli_add_integer(object, "usable", info.usable);
        cli_add_integer(object, "bytes", info.bytes);
        cJSON_AddStringToObject(object, "journal", info.journal);
        return cli_print_json(object);
    }
    printf("path          %s\nschema        %d\ndevices       %d\nmodels        %d\n", path, info.schema,
           info.devices, info.models);
    printf("measurements  %" PRId64 ", %" PRId64 " of them usable\n", info.measurements, info.usable);
    printf("size          %s\njournal       %s\n", cli_rate((double)info.bytes, "B").s, info.journal);
    return CLI_DONE;
}

typedef struct findings {
    cJSON *list; /* NULL: print them */
    int count;
} findings;

static void on_finding(void *user, const char *finding)
{
    findings *f = user;
    f->count++;
    if (f->list)
        cJSON_AddItemToArray(f->list, cJSON_CreateString(finding));
    else
        puts(finding);
}

static int db_check(cli *c, int argc, char **argv)
{
    const cli_option options[] = {{0}};
    char path[4096];
    ks_store *store;
    findings f = {0};
    int code =
        cli_parse(c, "db check", "ksauto [--db FILE] db check",
                  "Checks the store's integrity; prints each finding and what can be done about it, and fails if\n"
                  "there is any. The store stays as it is.",
                  options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    ks_status status = ks_store_path(c->store, path, sizeof path);
    if (status != KS_OK) return cli_status(status);
    cJSON *object = c->json ? cli_result_json() : NULL;
    if (object) {
        cJSON_AddStringToObject(object, "path", path);
        f.list = cJSON_AddArrayToObject(object, "findings");
    }
    stale_models stale = {on_stale, object ? cJSON_AddArrayToObject(object, "stale") : NULL};
    status = ks_store_open(&store, path, KS_STORE_READ);
    if (status == KS_OK)
        status = ks_store_check(store, on_finding, &f);
    else
        on_finding(&f, ks_status_message(status));
    if (status == KS_OK) /* no finding: nothing is wrong with the store */
        status = ks_store_each_model(store, NULL, look_at_model, &stale);
    ks_store_close(store);
    if (object) {
        cJSON_AddBoolToObject(object, "ok", status == KS_OK);
        cJSON_AddStringToObject(object, "remedy", status == KS_ERR_STORE ? ks_store_remedy() : "");
        code = cli_print_json(object);
    } else {
        code = CLI_DONE;
        if (status == KS_OK) printf("%s: ok\n", path);
        if (status == KS_ERR_STORE) printf("FILE is %s; %s\n", path, ks_store_remedy());
    }
    return status == KS_OK ? code : cli_fail("%s", ks_status_message(status));
}

/* A seed's files, malloc'ed: PREFIX.jsonl and PREFIX.csv. */
static int seed_files(const char *prefix, char **lines, char **csv)
{
    if (asprintf(lines, "%s.jsonl", prefix) < 0) *lines = NULL;
    if (asprintf(csv, "%s.csv", prefix) < 0) *csv = NULL;
    return *lines && *csv ? CLI_GO_ON : cli_fail("not enough memory");
}

/* What `db export --seed` wrote. */
static int import_seed(const cli *c, const char *prefix)
{
    char path[4096], *lines = NULL, *csv = NULL;
    ks_store *store = NULL;
    ks_device device;
    int64_t added;
    int code = open_store(c, KS_STORE_WRITE, path, sizeof path, &store);
    if (code != CLI_GO_ON) return code;
    if ((code = seed_files(prefix, &lines, &csv)) != CLI_GO_ON) goto done;
    ks_status status = ks_seed_import(store, lines, csv, &device, &added);
    code = status == KS_OK ? CLI_DONE : cli_status(status);
    if (status != KS_OK) goto done;
    if (c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "path", path);
        cJSON_AddStringToObject(object, "device", device.name);
        cli_add_integer(object, "added", added);
        code = cli_print_json(object);
    } else {
        printf("%s: %" PRId64 " rows added to %s\n", device.name, added, path);
    }
done:
    ks_store_close(store);
    free(lines);
    free(csv);
    return code;
}

/* Reads a ksmm table whose medians may be either, and tells by their size: in the published tables no run takes 10 s, and none
 * takes less than 2000 mJ. */
static ks_status read_undeclared(const char *file, ks_table *table)
{
    size_t large = 0;
    ks_status s = ks_csv_read_file(file, KS_CSV_KSMM, true, table);
    for (size_t i = 0; s == KS_OK && i < table->count; i++)
        large += table->rows[i].energy_j * 1000 * table->rows[i].samples >= 10;
    if (s != KS_OK) return s;
    if (2 * large > table->count) {
        cli_note("%s: medians of 10 and more are taken for millijoules (--objective energy)", file);
        return KS_OK;
    }
    ks_table_free(table);
    return ks_csv_read_file(file, KS_CSV_KSMM, false, table);
}

static int db_import(cli *c, int argc, char **argv)
{
    enum { UNDECLARED = KS_ENERGY + 1 };
    bool seed = false;
    const char *format_name = "ksauto";
    ks_objective objective = (ks_objective)UNDECLARED;
    const cli_option options[] = {
        {"format", CLI_TEXT, &format_name, "FORMAT", "ksauto (default): the store's own; ksmm: the paper's tables",
         false},
        {"seed", CLI_FLAG, &seed, NULL, "FILE.jsonl and FILE.csv, as `db export --seed` writes them: models, too",
         false},
        {"objective", CLI_OBJECTIVE, &objective, "WHAT",
         "a ksmm table's median is: time, in seconds, or energy, in millijoules (default: told by its size; of "
         "standard "
         "input: time)",
         false},
        {0},
    };
    ks_csv_format format;
    ks_table table = {0};
    ks_store *store = NULL;
    char path[4096], **arguments;
    int64_t added = 0;
    int code = cli_parse(
        c, "db import", "ksauto [--db FILE] db import [OPTION]... FILE",
        "Adds the measurements of a CSV file (- is standard input) to the store: all of them, or none if a\n"
        "line is wrong. Rows that are there already are not doubled.",
        options, argc, argv, 1, 1, &arguments, NULL);
    if (code != CLI_GO_ON) return code;
    const char *file = arguments[0];
    if (seed) return import_seed(c, file);
    bool from_stdin = strcmp(file, "-") == 0;
    if (ks_csv_format_parse(format_name, &format) != KS_OK)
        return cli_misuse("db import", "--format '%s': valid: ksauto, ksmm", format_name);
    code = from_stdin ? CLI_GO_ON : cli_readable("db import", "FILE", file);
    if (code != CLI_GO_ON) return code;

    const bool energy = objective == KS_ENERGY;
    const bool told = (int)objective != UNDECLARED;
    ks_status status = from_stdin                       ? ks_csv_read(stdin, "standard input", format, energy, &table)
                       : format == KS_CSV_KSMM && !told ? read_undeclared(file, &table)
                                                        : ks_csv_read_file(file, format, energy, &table);
    if (status != KS_OK) return cli_status(status);
    code = open_store(c, KS_STORE_WRITE, path, sizeof path, &store);
    if (code != CLI_GO_ON) goto done;
    status = ks_store_import(store, &table, &added);
    if (status != KS_OK) {
        code = cli_status(status);
        goto done;
    }
    code = CLI_DONE;
    if (c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "path", path);
        cli_add_integer(object, "read", (int64_t)table.count);
        cli_add_integer(object, "added", added);
        code = cli_print_json(object);
    } else {
        printf("%zu rows read, %" PRId64 " added to %s\n", table.count, added, path);
    }
done:
    ks_store_close(store);
    ks_table_free(&table);
    return code;
}

typedef struct export_state {
    FILE *file;
    int64_t rows;
    ks_status status;
} export_state;

static bool export_row(void *user, const ks_measurement *m)
{
    export_state *e = user;
    e->status = ks_csv_write_row(e->file, m);
    e->rows++;
    return e->status == KS_OK;
}

/* One device's seed, for db/seeds/: both files whole, or none of them new. */
static int export_seed(const cli *c, const char *device, const char *prefix)
{
    char path[4096], *lines = NULL, *csv = NULL;
    ks_store *store = NULL;
    int code = open_store(c, KS_STORE_READ, path, sizeof path, &store);
    if (code != CLI_GO_ON) return code;
    if ((code = seed_files(prefix, &lines, &csv)) != CLI_GO_ON) goto done;
    ks_status status = ks_seed_write(store, device, lines, csv);
    code = status == KS_OK ? CLI_DONE : cli_status(status);
    if (status == KS_OK && c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "device", device);
        cJSON_AddStringToObject(object, "jsonl", lines);
        cJSON_AddStringToObject(object, "csv", csv);
        code = cli_print_json(object);
    }
done:
    ks_store_close(store);
    free(lines);
    free(csv);
    return code;
}

static int db_export(cli *c, int argc, char **argv)
{
    const char *out_path = NULL, *seed = NULL, *prefix = NULL;
    const cli_option options[] = {
        {"out", CLI_TEXT, &out_path, "FILE", "write there instead of to standard output", false},
        {"seed", CLI_TEXT, &seed, "DEVICE",
         "write the seed of one device of the store: its models and its measurements", false},
        {"out-prefix", CLI_TEXT, &prefix, "P", "with --seed: the files are P.jsonl and P.csv", false},
        {0},
    };
    char path[4096];
    ks_store *store = NULL;
    output out = {0};
    export_state state = {.file = stdout, .status = KS_OK};
    int code = cli_parse(c, "db export", "ksauto [--db FILE] db export [--out FILE | --seed DEVICE --out-prefix P]",
                         "Writes every measurement of the store as CSV.", options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    if (!seed != !prefix)
        return cli_misuse("db export", "--%s needs --%s too", seed ? "seed" : "out-prefix",
                          seed ? "out-prefix" : "seed");
    if (seed && out_path)
        return cli_misuse("db export", "--out '%s': does not go with --seed; valid: --out-prefix", out_path);
    if (seed) return export_seed(c, seed, prefix);
    if (c->json && !out_path)
        return cli_misuse("db export", "--json: needs --out, since standard output has the CSV");

    code = open_store(c, KS_STORE_READ, path, sizeof path, &store);
    if (code != CLI_GO_ON) return code;
    ks_status status = out_path ? output_open(&out, out_path) : KS_OK;
    if (status == KS_OK && out_path) state.file = out.file;
    if (status == KS_OK) status = ks_csv_write_header(state.file);
    if (status == KS_OK) status = ks_store_each(store, &(ks_store_filter){0}, export_row, &state);
    if (status == KS_OK) status = state.status;
    if (status == KS_OK && out_path) status = output_commit(&out);
    code = status == KS_OK ? CLI_DONE : cli_status(status);
    if (status == KS_OK && c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "out", out_path);
        cli_add_integer(object, "rows", state.rows);
        code = cli_print_json(object);
    }
    output_discard(&out);
    ks_store_close(store);
    return code;
}

static int db_merge(cli *c, int argc, char **argv)
{
    bool salvage = false;
    const cli_option options[] = {
        {"salvage", CLI_FLAG, &salvage, NULL, "OTHER.db is damaged: take what can be read of it", false},
        {0},
    };
    char path[4096], **arguments;
    ks_store *to = NULL, *from = NULL;
    int64_t added = 0;
    int code = cli_parse(c, "db merge", "ksauto [--db FILE] db merge [--salvage] OTHER.db",
                         "Adds to the store what OTHER.db holds and it lacks. OTHER.db stays as it is.", options,
                         argc, argv, 1, 1, &arguments, NULL);
    if (code == CLI_GO_ON) code = cli_readable("db merge", "OTHER.db", arguments[0]);
    if (code != CLI_GO_ON) return code;
    ks_status status = ks_store_open(&from, arguments[0], salvage ? KS_STORE_SALVAGE : KS_STORE_READ);
    if (status != KS_OK) return cli_status(status);
    code = open_store(c, KS_STORE_WRITE, path, sizeof path, &to);
    if (code != CLI_GO_ON) goto done;
    status = (salvage ? ks_store_salvage : ks_store_merge)(to, from, &added);
    if (status != KS_OK) {
        code = cli_status(status);
        goto done;
    }
    code = CLI_DONE;
    if (c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "path", path);
        cli_add_integer(object, "added", added);
        code = cli_print_json(object);
    } else {
        printf("%" PRId64 " measurements added to %s\n", added, path);
    }
done:
    ks_store_close(to);
    ks_store_close(from);
    return code;
}

static const struct {
    const char *name;
    int (*run)(cli *c, int argc, char **argv);
    const char *summary;
} actions[] = {
    {"info", db_info, "what the store holds"},
    {"path", db_path, "where it is"},
    {"check", db_check, "whether it is sound"},
    {"import", db_import, "add the measurements of a CSV file"},
    {"export", db_export, "write the measurements as CSV, or one device as a seed"},
    {"merge", db_merge, "add what another store holds"},
};
enum { ACTIONS = sizeof actions / sizeof *actions };

int cmd_db(cli *c, int argc, char **argv)
{
    const cli_option options[] = {{0}};
    char about[512] = "The store of measurements. Actions ('ksauto db ACTION --help' says more):", names[128] = "",
         **rest;
    int count;
    for (int i = 0; i < ACTIONS; i++) {
        size_t used = strlen(about), named = strlen(names);
        snprintf(about + used, sizeof about - used, "\n  %-6s  %s", actions[i].name, actions[i].summary);
        snprintf(names + named, sizeof names - named, "%s%s", i ? ", " : "", actions[i].name);
    }
    int code = cli_parse(c, "db", "ksauto [--db FILE] db ACTION [ARGUMENT]...", about, options, argc, argv, 0,
                         CLI_REST, &rest, &count);
    if (code != CLI_GO_ON) return code;
    for (int i = 0; count && i < ACTIONS; i++) {
        if (strcmp(rest[0], actions[i].name) == 0) return actions[i].run(c, count, rest);
    }
    return count ? cli_unknown("db", "action", rest[0], names)
                 : cli_misuse("db", "an action is missing; valid: %s", names);
}
