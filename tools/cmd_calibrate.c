/* ksauto calibrate: measure this machine, fit, and report what the advisor now loses on problems it never saw.
 *
 * It runs for a minute or for hours, so somebody is watching, or has gone. On a terminal one line is redrawn in place;
 * in a pipe there is nothing unless --progress asks for a line a second (a log wants lines, not carriage returns).
 * Ctrl-C only asks: the library is told to stop at its next step, has stored every measurement already, and the next
 * run goes on from there. A second Ctrl-C kills. */
#include "cli.h"

#include "store.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] calibrate [OPTION]...";
static const char about[] = "Measures kernels on this machine, fits the predictor to what the store then holds, and "
                            "reports the regret of the\n"
                            "advisor on fresh problems. Goes on from what earlier runs stored; Ctrl-C loses nothing.";

static volatile sig_atomic_t asked_to_stop;

static void ask_to_stop(int signal_number)
{
    (void)signal_number;
    asked_to_stop = 1;
}

/* Once only (SA_RESETHAND), so that a second Ctrl-C works on a run that hangs; ignored signals stay ignored. */
static void listen_for(int signal_number)
{
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = (int)SA_RESETHAND}, before;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(signal_number, &action, NULL);
}

typedef struct watch {
    bool terminal, lines; /* redraw one line; print one a second */
    double drawn_at_s;    /* of the run's own clock; negative: not yet */
    int width;            /* of the line on the terminal */
    int measured;
} watch;

static bool on_progress(void *user, const ks_progress *now)
{
    watch *w = user;
    double interval_s = w->terminal ? 0.1 : 1;
    w->measured = now->measured;
    if ((w->terminal || w->lines) && (w->drawn_at_s < 0 || now->elapsed_s - w->drawn_at_s >= interval_s)) {
        char text[160];
        int length = snprintf(text, sizeof text, "measured %d | %.0f s left | expected regret %s", now->measured,
                              fmax(now->left_s, 0), cli_percent(now->expected_regret).s);
        if (now->phase && strcmp(now->phase, "measure") != 0)
            length += snprintf(text + length, sizeof text - (size_t)length, " | %s", now->phase);
        /* Blanks wipe what the last line was longer by: even a terminal that knows no escape codes can do that. */
        if (w->terminal)
            fprintf(stderr, "\r%-*s", w->width, text);
        else
            fprintf(stderr, "%s\n", text);
        fflush(stderr);
        w->width = length;
        w->drawn_at_s = now->elapsed_s;
    }
    return !asked_to_stop;
}

static void wipe_line(watch *w)
{
    if (w->terminal && w->drawn_at_s >= 0) fprintf(stderr, "\r%*s\r", w->width, "");
}

static int print_report(const ks_calibrate_report *report, bool json)
{
    if (json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "device", report->device);
        cli_add_number(object, "elapsed_s", report->elapsed_s);
        cli_add_integer(object, "measured", report->measured);
        cli_add_rates(object, report->copy_bytes_per_s, report->gemm_flops_per_s);
        cJSON *configs = cJSON_AddArrayToObject(object, "configs");
        for (int i = 0; i < report->count; i++)
            cJSON_AddItemToArray(configs, cli_acceptance_json(&report->acceptance[i]));
        return cli_print_json(object);
    }
    printf("%s: %d problems measured in %.0f s\n", report->device, report->measured, report->elapsed_s);
    printf("copy %s", cli_rate(report->copy_bytes_per_s, "B/s").s);
    for (int type = 0; type < KS_NTYPES; type++) {
        if (report->gemm_flops_per_s[type] > 0)
            printf(", GEMM %s %s", ks_type_name((ks_type)type), cli_rate(report->gemm_flops_per_s[type], "FLOP/s").s);
    }
    printf("\n\n");
    cli_print_acceptance(report->acceptance, report->count);
    return CLI_DONE;
}

int cmd_calibrate(cli *c, int argc, char **argv)
{
    ks_calibrate_options run = {.budget_s = 60};
    watch w = {.drawn_at_s = -1};
    int64_t seed = 0;
    const cli_option options[] = {
        {"device", CLI_TEXT, &run.device, "DEVICE", "cpu (default), or cuda:N", false},
        {"budget", CLI_SECONDS, &run.budget_s, "TIME", "how long to measure: 60s (default), 10m, ...", false},
        {"target-regret", CLI_FRACTION, &run.target_regret, "SHARE", "stop early at this expected regret, as 1%",
         false},
        {"dtype", CLI_TYPES, &run.types, "TYPES",
         "f32, f16, bf16, f64; several with commas; all; default: f32 on a CPU, all but f64 on a GPU", false},
        {"layout", CLI_LAYOUTS, &run.layouts, "LAYOUTS", "first, last or both (default)", false},
        {"seed", CLI_INT, &seed, "N", "choose the acceptance problems by N (default: by the clock)", false},
        {"alone", CLI_FLAG, &run.alone, NULL,
         "learn from nothing but this machine's measurements (default: start from the "
         "seed of the nearest device)",
         false},
        {"progress", CLI_FLAG, &w.lines, NULL, "a line a second on standard error, if it is no terminal", false},
        {0},
    };
    char path[4096];
    ks_calibrate_report report = {.measured = 0};
    int code = cli_parse(c, "calibrate", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;

    run.store = c->store;
    w.terminal = cli_shows_progress(c);
    run.seed = (uint64_t)seed;
    run.progress = on_progress;
    run.user = &w;
    listen_for(SIGINT);
    listen_for(SIGTERM);
    ks_status status = ks_calibrate(&run, &report);
    wipe_line(&w);
    if (status == KS_ERR_INTERRUPTED) {
        if (ks_store_path(c->store, path, sizeof path) != KS_OK) snprintf(path, sizeof path, "the store");
        return cli_fail(
            "interrupted; the %d problems measured in this run are kept in %s, and the same command goes on from "
            "there",
            w.measured, path);
    }
    if (status == KS_ERR_DEVICE && run.device && w.measured == 0) /* nothing ran yet: it is the name that is wrong */
        return cli_misuse("calibrate", "--device '%s': %s", run.device, ks_status_message(status));
    return status == KS_OK ? print_report(&report, c->json) : cli_status(status);
}
