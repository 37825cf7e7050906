/* ksauto calibrate: measure this machine, fit, and report what the advisor now loses on problems it never saw.
 *
 * It runs for a minute or for hours, so somebody is watching, or has gone. On a terminal one line is redrawn in place;
 * in a pipe there is nothing unless --progress asks for a line a second (a log wants lines, not carriage returns).
 * Ctrl-C only asks: the library is told to stop at its next step, has stored every measurement already, and the next
 * run goes on from there. A second Ctrl-C kills.
 *
 * The measuring is done by a child process (apart.h). If a kernel takes that down, or hangs, this one writes a row that says so
 * into the store; if it loses the GPU, the child has done so. Then another child goes on from what the store holds and leaves the
 * kernel out there. */
#include "apart.h"
#include "calibrate_plan.h"
#include "cli.h"
#include "watch.h"

#include "store.h"
#include "timer.h"
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>

static const char synopsis[] = "ksauto [--db FILE] calibrate [OPTION]...";
static const char about[] = "Measures kernels on this machine, fits the predictor to what the store then holds, and "
                            "reports the regret of the\n"
                            "advisor on fresh problems. Goes on from what earlier runs stored; Ctrl-C loses nothing.";

enum { LATE_STARTS = 3 }; /* how often more to start when the time is up */

static const double patience_s = 60, same_signal_s = 0.5;

static volatile sig_atomic_t asked_to_stop;
static double asked_at_s;

/* A second one works on a run that hangs. But the first may come twice: from the terminal, and from the parent process. */
static void ask_to_stop(int signal_number)
{
    const double now_s = ks_now_s();
    if (asked_to_stop && now_s > asked_at_s + same_signal_s) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
    if (!asked_to_stop) asked_at_s = now_s;
    asked_to_stop = 1;
}

/* Ignored signals stay ignored. */
static void listen_for(int signal_number)
{
    struct sigaction action = {.sa_handler = ask_to_stop}, before;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(signal_number, &action, NULL);
}

/* A run, of which each child is one part. */
typedef struct session {
    watch watch;
    int before;       /* problems measured by earlier children */
    apart_note *note; /* NULL: there is no other process */
} session;

static void on_running(void *user, const ks_measurement *running)
{
    const session *s = user;
    if (s->note) apart_running(s->note, running);
}

static bool on_progress(void *user, const ks_progress *now)
{
    session *s = user;
    ks_progress all = *now;
    all.measured += s->before;
    if (s->note) s->note->measured = all.measured;
    watch_progress(&s->watch, &all);
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

/* What will be done is said by the first child, for finding the device may start CUDA; if nothing else is to be done, by nobody
 * else. */
static int announce(const cli *c, const ks_calibrate_options *run, session *w, bool dry, plan *p)
{
    const ks_status status = plan_make(c, run, p);
    if (status == KS_ERR_DEVICE || status == KS_ERR_NO_DATA) return cli_no_device("calibrate", run->device, status);
    if (status != KS_OK) return cli_status(status);
    w->watch.device = &p->device;
    w->watch.terminal = cli_shows_progress(c);
    if (w->before) return CLI_GO_ON;
    plan_warn_of_noise(p);
    if (dry && c->json) return plan_print_json(p, run);
    if (dry || w->watch.terminal) plan_print(dry ? stdout : stderr, p, run);
    return dry ? CLI_DONE : CLI_GO_ON;
}

/* The calibration itself, in whatever process this is. */
static int calibrate(const cli *c, ks_calibrate_options *run, session *w, double start_s)
{
    plan p;
    ks_calibrate_report report = {.measured = 0};
    const double began_s = (double)time(NULL);
    listen_for(SIGINT);
    listen_for(SIGTERM);
    const int code = announce(c, run, w, false, &p);
    const ks_status status = code == CLI_GO_ON ? ks_calibrate(run, &report) : KS_OK;
    if (w->note) w->note->status = status, w->note->returned = true;
    if (code != CLI_GO_ON) return code;
    watch_wipe_line(&w->watch);
    if (w->note && w->note->is_running && status == KS_ERR_DEVICE) { /* lost, to this child: another goes on */
        cli_note("%s; it is left out on that problem", ks_status_message(status));
        return CLI_FAILED;
    }
    report.measured += w->before;
    report.elapsed_s = ks_now_s() - start_s;
    if (status == KS_ERR_INTERRUPTED)
        return cli_fail(
            "interrupted; the %d problems measured in this run are kept in %s, and the same command goes on "
            "from there. 'ksauto fit' makes advice of what there is",
            w->watch.measured, p.path);
    if (status == KS_ERR_DEVICE && run->device && w->watch.measured == 0) /* it is the name that is wrong */
        return cli_no_device("calibrate", run->device, status);
    if (status != KS_OK) return cli_status(status);
    if (w->watch.terminal) fputc('\n', stderr); /* between the plan and the result */
    plan_warn_of_doubts(&p, &w->watch, began_s);
    return print_report(&report, p.path, c->json);
}

/* What a crash leaves behind: the next child, and every context, goes by it. */
static int store_failure(const cli *c, const ks_measurement *failure)
{
    char path[4096];
    ks_store *store = NULL;
    const ks_problem *p = &failure->problem;
    cli_note("%s on (%lld,%lld,%lld,%lld) batch %lld %s batch-%s %s; it is left out there", failure->kernel,
             (long long)p->a, (long long)p->b, (long long)p->c, (long long)p->d, (long long)p->batch,
             ks_type_name(p->type), ks_layout_name(p->layout), failure->reason);
    ks_status s = ks_store_path(c->store, path, sizeof path);
    if (s == KS_OK) s = ks_store_open(&store, path, KS_STORE_WRITE);
    if (s == KS_OK) s = ks_store_add(store, failure, NULL);
    ks_store_close(store);
    return s == KS_OK ? CLI_GO_ON : cli_status(s);
}

/* Lets children calibrate until one comes to its end. Where no child can be had it is done here. */
static int calibrate_apart(const cli *c, ks_calibrate_options *run, session *w)
{
    const double start_s = ks_now_s(), budget_s = run->budget_s;
    int code = CLI_GO_ON, late = 0;
    w->note = apart_open();
    while (code == CLI_GO_ON) {
        const apart_end end = w->note ? apart_run(w->note, patience_s, &code) : APART_FAILED;
        if (end == APART_FAILED) apart_close(w->note), w->note = NULL;
        if (end == APART_CHILD || end == APART_FAILED) return calibrate(c, run, w, start_s);
        if (end == APART_RETURNED && !w->note->returned) code = cli_fail("the measuring process was killed");
        if (end == APART_RETURNED) break;
        watch_wipe_line(&w->watch);
        code = end == APART_CRASHED ? store_failure(c, &w->note->running) : CLI_GO_ON;
        w->before = w->note->measured;
        run->budget_s = fmax(start_s + budget_s - ks_now_s(), 1);
        if (code == CLI_GO_ON && ks_now_s() > start_s + budget_s && late++ == LATE_STARTS)
            code = cli_fail("the time is up, and kernels still fail; what was measured is stored");
    }
    apart_close(w->note);
    return code;
}

int cmd_calibrate(cli *c, int argc, char **argv)
{
    ks_calibrate_options run = {.budget_s = 60};
    session w = {.watch = watch_new()};
    bool dry = false;
    plan p;
    int64_t seed = 0;
    const cli_option options[] = {
        {"device", CLI_TEXT, &run.device, "DEVICE", "cpu (default), or cuda:N", false},
        {"budget", CLI_SECONDS, &run.budget_s, "TIME", "how long to measure: 60s (default), 10m, ...", false},
        {"target-regret", CLI_FRACTION, &run.target_regret, "SHARE", "stop early at this expected regret, as 1%",
         false},
        {"dtype", CLI_TYPES, &run.types, "TYPES",
         "f32, f16, bf16, f64; several with commas; all; default: f32 on a CPU, all but f64 on a GPU", false},
        {"layout", CLI_LAYOUTS, &run.layouts, "LAYOUTS", "first, last or both (default)", false},
        {"memory", CLI_BYTES, &run.memory_bytes, "BYTES",
         "most memory for arrays, as 512M or 4G (default: half of the device's)", false},
        {"seed", CLI_INT, &seed, "N", "choose the acceptance problems by N (default: by the clock)", false},
        {"alone", CLI_FLAG, &run.alone, NULL,
         "learn from nothing but this machine's measurements (default: start from the "
         "seed of the nearest device)",
         false},
        {"progress", CLI_FLAG, &w.watch.lines, NULL, "a line a second on standard error, if it is no terminal",
         false},
        {"dry-run", CLI_FLAG, &dry, NULL, "say what would be done, and measure nothing", false},
        {0},
    };
    int code = cli_parse(c, "calibrate", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;

    run.store = c->store;
    run.seed = (uint64_t)seed;
    run.progress = on_progress;
    run.running = on_running;
    run.user = &w;
    return dry ? announce(c, &run, &w, true, &p) : calibrate_apart(c, &run, &w);
}
