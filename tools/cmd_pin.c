/* ksauto pin: what would be taken for each problem of a panel, as a table that every process can be told to follow. It is text, to
 * be read, kept with a job's other settings, and edited. */
#include "cli.h"

#include "csv.h"
#include "error.h"
#include "output.h"

static const char synopsis[] = "ksauto [--db FILE] pin --panel FILE --out TABLE [OPTION]...";
static const char about[] =
    "Writes which kernel is taken for each problem of a panel (a CSV of a,b,c,d,batch,dtype,layout) as a table of\n"
    "decisions. Where KSAUTO_DECISIONS names such a table, it is followed, whatever is measured from then on.";

static ks_status write_table(ks_context *ctx, const ks_panel *panel, FILE *out, ks_advice *last)
{
    ks_status s = ks_decisions_write_header(out);
    for (size_t i = 0; s == KS_OK && i < panel->count; i++) {
        s = ks_advise(ctx, &panel->problems[i], last);
        if (s == KS_OK) s = ks_decisions_write_row(out, &panel->problems[i], last->device, last->kernel);
    }
    return s;
}

int cmd_pin(cli *c, int argc, char **argv)
{
    const char *file = NULL, *path = NULL;
    ks_options context = {.decisions = ""}; /* made anew, not copied */
    const cli_option options[] = {
        {"panel", CLI_TEXT, &file, "FILE", "the problems", true},
        {"out", CLI_TEXT, &path, "TABLE", "where the table goes", true},
        {"device", CLI_TEXT, &context.device, "DEVICE",
         "cpu (default), cuda:N, or a name that 'ksauto devices' lists", false},
        {"objective", CLI_OBJECTIVE, &context.objective, "WHAT", "time (default) or energy", false},
        {0},
    };
    ks_panel panel = {0};
    ks_context *ctx = NULL;
    ks_advice last = {.candidate_count = 0};
    output out = {0};
    int code = cli_parse(c, "pin", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code == CLI_GO_ON) code = cli_readable("pin", "--panel", file);
    if (code == CLI_GO_ON) code = cli_open(c, "pin", &context, &ctx);
    if (code != CLI_GO_ON) return code;
    ks_status s = ks_panel_read_file(file, &panel);
    if (s == KS_OK && panel.count == 0) s = ks_fail(KS_ERR_NO_DATA, "%s: has no problems", file);
    if (s == KS_OK) s = output_open(&out, path);
    if (s == KS_OK) s = write_table(ctx, &panel, out.file, &last);
    if (s == KS_OK) s = output_commit(&out);
    output_discard(&out);
    if (s != KS_OK) {
        code = cli_status(s);
    } else if (c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "path", path);
        cJSON_AddStringToObject(object, "device", last.device);
        cli_add_integer(object, "decisions", (int64_t)panel.count);
        code = cli_print_json(object);
    } else {
        printf("%zu decisions for %s in %s\n", panel.count, last.device, path);
        code = CLI_DONE;
    }
    ks_panel_free(&panel);
    ks_close(ctx);
    return code;
}
