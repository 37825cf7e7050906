/* ksauto report: what is known of a device, as a page of pictures.
 *
 * The measurements are those of the store; of a device that only ships, those of its seed, which are installed beside the command.
 * Nothing is measured and nothing stored. */
#include "cli.h"

#include "csv.h"
#include "error.h"
#include "place.h"
#include "refit.h"
#include "seeds.h"
#include "store.h"
#include "study.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char synopsis[] =
    "ksauto [--db FILE] report --out DIR [--device DEVICE] [--dtype TYPES] [--layout LAYOUTS]";
static const char about[] =
    "Writes DIR/index.html, one page that needs no network, and its pictures as SVG, PNG and gnuplot scripts:\n"
    "where which path is faster, what the choice loses, predicted against measured times, how honest the\n"
    "probabilities are, time over the roofline, and what calibrating taught. Needs gnuplot. Measures nothing.";

typedef struct facts {
    char name[KS_DEVICE_BYTES]; /* in full */
    ks_device device;
    ks_rows rows;
} facts;

/* The folder of the seeds' tables, as installed (bin and share side by side) or in a build. */
static bool seed_table(const char *seed, char *path, size_t size)
{
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) return false;
    self[length] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(self, '/');
        if (!slash) return false;
        *slash = '\0';
        if ((size_t)snprintf(path, size, "%s/share/ksauto/seeds/%s.csv", self, seed) < size &&
            access(path, R_OK) == 0)
            return true;
    }
    return false;
}

static ks_status read_seed(facts *f)
{
    size_t count;
    char path[4096];
    ks_table table;
    const ks_seed *seeds = ks_seeds(&count);
    for (size_t i = 0; i < count; i++) {
        ks_device device;
        if (ks_seed_read(&seeds[i], &device, NULL, NULL) != KS_OK || strcmp(device.name, f->name) != 0) continue;
        if (!seed_table(seeds[i].name, path, sizeof path))
            return ks_fail(KS_ERR_NO_DATA,
                           "the measurements of \"%s\" (%s.csv) are not installed beside the command; give them to a "
                           "store by 'ksauto --db FILE db import --seed PREFIX', and name it by --db",
                           f->name, seeds[i].name);
        ks_status status = ks_csv_read_file(path, KS_CSV_KSAUTO, false, &table);
        if (status != KS_OK) return status;
        f->device = device;
        f->rows = (ks_rows){.items = table.rows, .count = table.count, .room = table.count};
        return KS_OK;
    }
    return ks_fail(KS_ERR_NO_DATA, "nothing is measured of \"%s\" yet; 'ksauto calibrate' does that", f->name);
}

static ks_status read_facts(const cli *c, facts *f)
{
    char path[4096];
    ks_store *store = NULL;
    ks_status status = ks_store_path(c->store, path, sizeof path);
    if (status == KS_OK && (c->store || access(path, F_OK) == 0)) status = ks_store_open(&store, path, KS_STORE_READ);
    const ks_store_filter filter = {.device = f->name, .usable = true};
    if (store && ks_store_get_device(store, f->name, &f->device) == KS_OK) {
        status = ks_store_each(store, &filter, ks_rows_add, &f->rows);
        if (status == KS_OK) status = ks_rows_status(&f->rows);
    }
    ks_store_close(store);
    if (status == KS_OK && f->rows.count == 0) status = read_seed(f);
    if (status == KS_OK) ks_device_assume_rates(&f->device);
    return status;
}

/* Whether there is anything of this type and layout to show. A GPU's half types share their measurements: one picture does. */
static bool is_measured(const facts *f, ks_type type, ks_layout layout)
{
    const ks_type twin = ks_refit_twin(&f->device, type);
    for (size_t i = 0; i < f->rows.count && type <= twin; i++) {
        const ks_problem *p = &f->rows.items[i].problem;
        if ((p->type == type || p->type == twin) && p->layout == layout) return true;
    }
    return false;
}

/* A line on a terminal, for it takes seconds a picture. */
static void show_progress(const cli *c, const char *doing, const study *s)
{
    if (cli_shows_progress(c))
        fprintf(stderr, "\r\033[K%s %s, batch-%s", doing, ks_type_name(s->type), ks_layout_name(s->layout));
}

static ks_status make_folder(const char *dir)
{
    struct stat info;
    if (ks_place_is_planted(dir))
        return ks_fail(KS_ERR_IO,
                       "--out '%s': is, or is behind, somebody else's link, in a directory that all may write to",
                       dir);
    if (mkdir(dir, 0777) == 0 || (errno == EEXIST && stat(dir, &info) == 0 && S_ISDIR(info.st_mode))) return KS_OK;
    return ks_fail(KS_ERR_IO, "--out '%s': cannot be made: %s", dir, strerror(errno));
}

static int print_result(const cli *c, const char *dir, const char *device, const study *studies, int count)
{
    if (!c->json) {
        printf("%s/index.html: %d pictures of %s\n\n", dir, count * STUDY_PLOTS, device);
        for (int i = 0; i < count; i++) cli_print_acceptance(&studies[i].acceptance, 1);
        return CLI_DONE;
    }
    cJSON *object = cli_result_json();
    cJSON_AddStringToObject(object, "device", device);
    cJSON_AddStringToObject(object, "page", "index.html");
    cJSON *pictures = cJSON_AddArrayToObject(object, "pictures"),
          *configs = cJSON_AddArrayToObject(object, "configs");
    for (int i = 0; i < count; i++) {
        cJSON_AddItemToArray(configs, cli_acceptance_json(&studies[i].acceptance));
        for (int p = 0; p < STUDY_PLOTS; p++)
            cJSON_AddItemToArray(pictures, cJSON_CreateString(study_name_of(&study_plots[p], &studies[i]).s));
    }
    return cli_print_json(object);
}

static ks_status report(const cli *c, const facts *f, ks_context *ctx, const char *dir, unsigned types,
                        unsigned layouts, study *studies, int *count)
{
    ks_status status = make_folder(dir);
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; status == KS_OK && l < KS_NLAYOUTS; l++) {
            if (!(types >> t & 1) || !(layouts >> l & 1) || !is_measured(f, (ks_type)t, (ks_layout)l)) continue;
            study *s = &studies[*count];
            *s = (study){.type = (ks_type)t, .layout = (ks_layout)l, .device = &f->device, .ctx = ctx};
            show_progress(c, "learning", s);
            status = study_make(s, &f->rows);
            if (status == KS_ERR_NO_DATA) {
                cli_note("%s, batch-%s is left out: %s", ks_type_name(s->type), ks_layout_name(s->layout),
                         ks_status_message(status));
                study_free(s);
                status = KS_OK;
                continue;
            }
            ++*count;
            show_progress(c, "drawing", s);
            for (int p = 0; status == KS_OK && p < STUDY_PLOTS; p++) status = study_draw(dir, &study_plots[p], s);
        }
    if (cli_shows_progress(c)) fputs("\r\033[K", stderr);
    if (status == KS_OK && *count == 0)
        status = ks_fail(KS_ERR_NO_DATA,
                         "of \"%s\" too little is measured in these types and layouts; 'ksauto calibrate' "
                         "does that",
                         f->name);
    return status == KS_OK ? study_write_page(dir, studies, *count) : status;
}

int cmd_report(cli *c, int argc, char **argv)
{
    static const ks_problem any = {.a = 1, .b = 1, .c = 1, .d = 1, .batch = 1};
    const char *dir = NULL;
    unsigned types = (1u << KS_NTYPES) - 1, layouts = (1u << KS_NLAYOUTS) - 1;
    ks_options context = {0};
    const cli_option options[] = {
        {"out", CLI_TEXT, &dir, "DIR", "where the page goes; made if it is not there", true},
        {"device", CLI_TEXT, &context.device, "DEVICE",
         "cpu (default), cuda:N, or a name that 'ksauto devices' lists", false},
        {"dtype", CLI_TYPES, &types, "TYPES", "several with commas; default: all that are measured", false},
        {"layout", CLI_LAYOUTS, &layouts, "LAYOUTS", "first, last or both (default)", false},
        {0},
    };
    ks_context *ctx = NULL;
    ks_advice advice;
    facts f = {.rows = {0}};
    study studies[KS_NTYPES * KS_NLAYOUTS];
    int count = 0, code = cli_parse(c, "report", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    ks_status status = study_can_draw();
    if (status != KS_OK) return cli_status(status);
    code = cli_open(c, "report", &context, &ctx);
    if (code != CLI_GO_ON) return code;
    status = ks_advise(ctx, &any, &advice);
    if (status == KS_OK) snprintf(f.name, sizeof f.name, "%s", advice.device);
    if (status == KS_OK) status = read_facts(c, &f);
    if (status == KS_OK) status = report(c, &f, ctx, dir, types, layouts, studies, &count);
    code = status == KS_OK ? print_result(c, dir, f.name, studies, count) : cli_status(status);
    for (int i = 0; i < count; i++) study_free(&studies[i]);
    ks_rows_free(&f.rows);
    ks_close(ctx);
    return code;
}
