/* ksauto calibrate: measure this machine, fit, and report what the advisor now loses on problems it never saw.
 *
 * It runs for a minute or for hours, so somebody is watching, or has gone. On a terminal one line is redrawn in place;
 * in a pipe there is nothing unless --progress asks for a line a second (a log wants lines, not carriage returns).
 * Ctrl-C only asks: the library is told to stop at its next step, has stored every measurement already, and the next
 * run goes on from there. A second Ctrl-C kills. */
#include "calibrate_plan.h"
#include "cli.h"
#include "watch.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>

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

static bool on_progress(void *user, const ks_progress *now)
{
    watch_progress(user, now);
    return !asked_to_stop;
}

static int print_report(const ks_calibrate_report *report, const char *path, bool json)
{
    if (json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "device", report->device);
        cli_add_number(object, "elapsed_s", report->elapsed_s);
        cli_add_integer(object, "measured", report->measured);
        cli_add_integer(object, "canaries", report->canaries);
        cli_add_integer(object, "kept", report->kept);
        cli_add_integer(object, "rescaled", report->rescaled);
        cli_add_integer(object, "set_aside", report->set_aside);
        cli_add_rates(object, report->copy_bytes_per_s, report->gemm_flops_per_s);
        cJSON *configs = cJSON_AddArrayToObject(object, "configs");
        for (int i = 0; i < report->count; i++)
            cJSON_AddItemToArray(configs, cli_acceptance_json(&report->acceptance[i]));
        return cli_print_json(object);
    }
    printf("%s: %d problems measured in %.0f s\n", report->device, report->measured, report->elapsed_s);
    if (report->canaries)
        printf("Versions have changed: %d known problems were measured again. What was known is\n"
               "kept for %d kernels, rescaled for %d, set aside for %d.\n",
               report->canaries, report->kept, report->rescaled, report->set_aside);
    printf("copy %s\nGEMM", cli_rate(report->copy_bytes_per_s, "B/s").s);
    for (int type = 0, shown = 0; type < KS_NTYPES; type++) {
        if (report->gemm_flops_per_s[type] > 0)
            printf("%s %s %s", shown++ ? "," : "", ks_type_name((ks_type)type),
                   cli_rate(report->gemm_flops_per_s[type], "FLOP/s").s);
    }
    printf("\n\n");
    cli_print_acceptance(report->acceptance, report->count);
    printf(
        "\nKept in %s. The same command goes on from here;\n'ksauto report --out DIR' shows all of it in pictures.\n",
        path);
    return CLI_DONE;
}

int cmd_calibrate(cli *c, int argc, char **argv)
{
    ks_calibrate_options run = {.budget_s = 60};
    watch w = watch_new();
    bool dry = false;
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
        {"dry-run", CLI_FLAG, &dry, NULL, "say what would be done, and measure nothing", false},
        {0},
    };
    plan p;
    ks_calibrate_report report = {.measured = 0};
    int code = cli_parse(c, "calibrate", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;

    run.store = c->store;
    run.seed = (uint64_t)seed;
    run.progress = on_progress;
    run.user = &w;
    ks_status status = plan_make(c, &run, &p);
    if (status == KS_ERR_DEVICE || status == KS_ERR_NO_DATA)
        return cli_misuse("calibrate", "--device '%s': %s", run.device, ks_status_message(status));
    if (status != KS_OK) return cli_status(status);
    plan_warn_of_noise(&p);
    if (dry && c->json) return plan_print_json(&p, &run);
    w.device = &p.device;
    w.terminal = cli_shows_progress(c);
    if (dry || w.terminal) plan_print(dry ? stdout : stderr, &p, &run);
    if (dry) return CLI_DONE;

    const double began_s = (double)time(NULL);
    listen_for(SIGINT);
    listen_for(SIGTERM);
    status = ks_calibrate(&run, &report);
    watch_wipe_line(&w);
    if (status == KS_ERR_INTERRUPTED)
        return cli_fail(
            "interrupted; the %d problems measured in this run are kept in %s, and the same command goes on "
            "from there. 'ksauto fit' makes advice of what there is",
            w.measured, p.path);
    if (status == KS_ERR_DEVICE && run.device && w.measured == 0) /* nothing ran yet: it is the name that is wrong */
        return cli_misuse("calibrate", "--device '%s': %s", run.device, ks_status_message(status));
    if (status != KS_OK) return cli_status(status);
    plan_warn_of_doubts(&p, &w, began_s);
    return print_report(&report, p.path, c->json);
}
