/* ksauto calibrate: measure this machine, fit, and report what the advisor now loses on problems it never saw.
 *
 * It runs for a minute or for hours, so somebody is watching, or has gone. On a terminal one line is redrawn in place;
 * in a pipe there is nothing unless --progress asks for a line a second (a log wants lines, not carriage returns).
 * Ctrl-C only asks: the library is told to stop at its next step, has stored every measurement already, and the next
 * run goes on from there. A second Ctrl-C kills. */
#include "cli.h"

#include "device.h"
#include "store.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* What the run shows while it goes on, and remembers for its end. */
typedef struct watch {
    const ks_device *device;
    bool terminal, lines; /* redraw one line; print one a second */
    double drawn_at_s;    /* of the run's own clock; negative: not yet */
    int width;            /* of the line on the terminal */
    int measured;
    double first_regret, last_regret; /* expected; NaN: none yet */
    char throttle[64];                /* what held a GPU's clock down, if anything did */
} watch;

/* "[#####.....]" */
static const char *bar(char text[16], double elapsed_s, double left_s)
{
    const double share = elapsed_s / fmax(elapsed_s + fmax(left_s, 0), 1e-9);
    text[0] = '[', text[11] = ']', text[12] = '\0';
    for (int i = 0; i < 10; i++) text[1 + i] = i < (int)(10 * share) ? '#' : '.';
    return text;
}

static const char *phase_in_words(const char *phase)
{
    static const char *const words[][2] = {
        {"rates", "the machine's limits"}, {"fit", "fitting"}, {"accept", "judging on fresh problems"}};
    for (size_t i = 0; phase && i < sizeof words / sizeof *words; i++)
        if (strcmp(phase, words[i][0]) == 0) return words[i][1];
    return NULL;
}

/* Regret as it falls: the first that was known, and the present one. */
static int show_line(watch *w, const ks_progress *now, char *text, size_t size)
{
    char drawn[16] = "";
    const char *phase = phase_in_words(now->phase);
    int length = snprintf(text, size, "%s%smeasured %d | %.0f s left | expected regret ",
                          w->terminal ? bar(drawn, now->elapsed_s, now->left_s) : "", w->terminal ? " " : "",
                          now->measured, fmax(now->left_s, 0));
    if (!isnan(w->first_regret) && w->first_regret != w->last_regret)
        length += snprintf(text + length, size - (size_t)length, "%s -> ", cli_percent(w->first_regret).s);
    length += snprintf(text + length, size - (size_t)length, "%s", cli_percent(w->last_regret).s);
    if (phase) length += snprintf(text + length, size - (size_t)length, " | %s", phase);
    return length;
}

static bool on_progress(void *user, const ks_progress *now)
{
    watch *w = user;
    double interval_s = w->terminal ? 0.1 : 1;
    w->measured = now->measured;
    if (isnan(w->first_regret)) w->first_regret = now->expected_regret;
    if (!isnan(now->expected_regret)) w->last_regret = now->expected_regret;
    if (w->drawn_at_s < 0 || now->elapsed_s - w->drawn_at_s >= interval_s) {
        char text[192];
        ks_device_state state;
        const int length = show_line(w, now, text, sizeof text);
        /* Blanks wipe what the last line was longer by: even a terminal that knows no escape codes can do that. */
        if (w->terminal)
            fprintf(stderr, "\r%-*s", w->width, text);
        else if (w->lines)
            fprintf(stderr, "%s\n", text);
        fflush(stderr);
        w->width = length;
        w->drawn_at_s = now->elapsed_s;
        ks_device_state_read(w->device, &state);
        if (*state.throttle) snprintf(w->throttle, sizeof w->throttle, "%s", state.throttle);
    }
    return !asked_to_stop;
}

static void wipe_line(watch *w)
{
    if (w->terminal && w->drawn_at_s >= 0) fprintf(stderr, "\r%*s\r", w->width, "");
}

/* ---- Before ---- */

/* What will be measured, and what there is of it already. */
typedef struct plan {
    ks_device device;
    char path[4096]; /* of the store */
    unsigned types, layouts;
    int stored[KS_NTYPES][KS_NLAYOUTS]; /* problems */
    ks_problem last;
    double load; /* processes that run or wait, for each CPU; NaN: unknown */
} plan;

/* The kernels of a problem are measured, and stored, one after the other. */
static bool count_problem(void *user, const ks_measurement *m)
{
    plan *p = user;
    if (memcmp(&m->problem, &p->last, sizeof p->last) != 0) p->stored[m->problem.type][m->problem.layout]++;
    p->last = m->problem;
    return true;
}

static ks_status make_plan(const cli *c, const ks_calibrate_options *run, plan *p)
{
    double load;
    ks_store *store;
    *p = (plan){.types = run->types, .layouts = run->layouts, .load = NAN};
    ks_status s = ks_device_find(run->device, &p->device);
    if (s == KS_OK) s = ks_store_path(c->store, p->path, sizeof p->path);
    if (s != KS_OK) return s;
    if (!p->types)
        p->types = p->device.backend == KS_CUDA ? 1u << KS_F32 | 1u << KS_F16 | 1u << KS_BF16 : 1u << KS_F32;
    if (!p->layouts) p->layouts = (1u << KS_NLAYOUTS) - 1;
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (getloadavg(&load, 1) == 1 && cpus > 0) p->load = load / (double)cpus;
    const ks_store_filter filter = {.device = p->device.name, .usable = true};
    if (access(p->path, F_OK) == 0 && ks_store_open(&store, p->path, KS_STORE_READ) == KS_OK) {
        ks_store_each(store, &filter, count_problem, p); /* what cannot be read counts for nothing here */
        ks_store_close(store);
    }
    return KS_OK;
}

static bool is_planned(const plan *p, int type, int layout)
{
    return p->types >> type & 1 && p->layouts >> layout & 1;
}

static int print_plan_json(const plan *p, const ks_calibrate_options *run)
{
    cJSON *object = cli_result_json();
    cJSON_AddStringToObject(object, "device", p->device.name);
    cJSON_AddStringToObject(object, "store", p->path);
    cli_add_number(object, "budget_s", run->budget_s);
    cli_add_number(object, "target_regret", run->target_regret > 0 ? run->target_regret : NAN);
    cli_add_number(object, "busy", p->load);
    cJSON *configs = cJSON_AddArrayToObject(object, "configs");
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            if (!is_planned(p, t, l)) continue;
            cJSON *row = cJSON_CreateObject();
            cJSON_AddItemToArray(configs, row);
            cJSON_AddStringToObject(row, "dtype", ks_type_name((ks_type)t));
            cJSON_AddStringToObject(row, "layout", ks_layout_name((ks_layout)l));
            cli_add_integer(row, "stored", p->stored[t][l]);
        }
    return cli_print_json(object);
}

static void print_plan(FILE *out, const plan *p, const ks_calibrate_options *run)
{
    fprintf(out, "%s: kernels will be measured for %.0f s", p->device.name, run->budget_s);
    if (run->target_regret > 0)
        fprintf(out, ", or until the expected\nregret is %s", cli_percent(run->target_regret).s);
    fprintf(out, ",\nthree quarters of it to learn from, one to judge by:\n");
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++)
            if (is_planned(p, t, l))
                fprintf(out, "  %-4s  batch-%-5s  %d problems known already\n", ks_type_name((ks_type)t),
                        ks_layout_name((ks_layout)l), p->stored[t][l]);
    fprintf(
        out,
        "Every measurement is kept at once, in %s.\nCtrl-C stops without losing any, and the same command goes on "
        "from there.\n",
        p->path);
}

static void warn_of_noise(const plan *p)
{
    if (p->load > 0.7)
        cli_note(
            "the machine is busy: %.1f processes for each CPU in the last minute; what disturbs the measurements "
            "disturbs the advice",
            p->load);
}

/* ---- Afterwards ---- */

static int print_report(const ks_calibrate_report *report, const char *path, bool json)
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

/* How many of the run's measurements scattered much, of those with samples enough to tell. */
typedef struct spreads {
    double since_s;
    int count, wide;
} spreads;

/* On quiet machines half of the spreads are below 3 % on a CPU, and below 1 % on a GPU. */
static const double wide_spread = 0.1;

static bool look_at_spread(void *user, const ks_measurement *m)
{
    spreads *s = user;
    if (m->measured_at_s >= s->since_s && m->samples > 2) s->count++, s->wide += m->spread > wide_spread;
    return true;
}

static void warn_of_doubts(const plan *p, const watch *w, double since_s)
{
    ks_store *store;
    spreads s = {.since_s = since_s};
    const ks_store_filter filter = {.device = p->device.name, .usable = true};
    if (*w->throttle)
        cli_note("the GPU's clock was held down meanwhile (%s): its times are not what it can do", w->throttle);
    if (ks_store_open(&store, p->path, KS_STORE_READ) != KS_OK) return;
    ks_store_each(store, &filter, look_at_spread, &s);
    ks_store_close(store);
    if (s.count > 20 && s.wide > s.count / 4)
        cli_note(
            "%d of %d measurements scattered by more than %.0f %%: the machine was not quiet, and a calibration on a "
            "quiet one is better",
            s.wide, s.count, 100 * wide_spread);
}

int cmd_calibrate(cli *c, int argc, char **argv)
{
    ks_calibrate_options run = {.budget_s = 60};
    watch w = {.drawn_at_s = -1, .first_regret = NAN, .last_regret = NAN};
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
    ks_status status = make_plan(c, &run, &p);
    if (status == KS_ERR_DEVICE || status == KS_ERR_NO_DATA)
        return cli_misuse("calibrate", "--device '%s': %s", run.device, ks_status_message(status));
    if (status != KS_OK) return cli_status(status);
    warn_of_noise(&p);
    if (dry && c->json) return print_plan_json(&p, &run);
    w.device = &p.device;
    w.terminal = cli_shows_progress(c);
    if (dry || w.terminal) print_plan(dry ? stdout : stderr, &p, &run);
    if (dry) return CLI_DONE;

    const double began_s = (double)time(NULL);
    listen_for(SIGINT);
    listen_for(SIGTERM);
    status = ks_calibrate(&run, &report);
    wipe_line(&w);
    if (status == KS_ERR_INTERRUPTED)
        return cli_fail(
            "interrupted; the %d problems measured in this run are kept in %s, and the same command goes on "
            "from there. 'ksauto fit' makes advice of what there is",
            w.measured, p.path);
    if (status == KS_ERR_DEVICE && run.device && w.measured == 0) /* nothing ran yet: it is the name that is wrong */
        return cli_misuse("calibrate", "--device '%s': %s", run.device, ks_status_message(status));
    if (status != KS_OK) return cli_status(status);
    warn_of_doubts(&p, &w, began_s);
    return print_report(&report, p.path, c->json);
}
