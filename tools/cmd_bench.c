/* ksauto bench: times every kernel of the table on a panel of problems, side by side, inputs cold, and shows what `auto`
 * takes beside the roofline and the static policies. All ratios of a row come from one interleaved run (calib/measure.h).
 * Nothing of it goes into the store, so a panel of fresh problems (--random) stays one that no fit has seen.
 *
 * auto's time is that of the kernel it takes, as measured in the same race: what it adds is the decision, which --dispatch
 * measures in nanoseconds; timing it as one more contestant would only add noise to a tie with itself. */
#include "bench.h"

#include "csv.h"
#include "design.h"
#include "error.h"
#include "measure.h"
#include "output.h"
#include "store.h"
#include "timer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] bench [--panel FILE | --random N] [--device DEVICE] [--csv OUT] "
                               "[--energy] | --chains FILE | --dispatch";
static const char about[] =
    "Times every kernel and `auto` on a panel of problems, with cold inputs: time, bytes and flops a second,\n"
    "times over the roofline, and how much slower always-fused and always-bmm are. The panel is a file's, or N "
    "problems\n"
    "drawn afresh from those that calibrate measures, or else the six factors of ViT-S/16 at batch 25088.\n"
    "Nothing is stored.";

enum { RANDOM_MOST = 100000 };

/* What the options ask for. */
typedef struct request {
    const char *device, *file, *csv, *chains; /* NULL where not given */
    bool energy;
    int64_t random, seed; /* problems to draw, 0: none; 0: by the clock */
    unsigned types, layouts;
} request;

static const char vit_s16[] = "a,b,c,d,batch,dtype,layout\n"
                              "2,48,192,1,25088,f32,first\n2,48,192,1,25088,f32,last\n"
                              "1,192,48,2,25088,f32,first\n1,192,48,2,25088,f32,last\n"
                              "6,64,64,1,25088,f32,first\n6,64,64,1,25088,f32,last\n"
                              "1,768,192,2,25088,f32,first\n1,768,192,2,25088,f32,last\n"
                              "6,64,256,1,25088,f32,first\n6,64,256,1,25088,f32,last\n"
                              "1,128,128,3,25088,f32,first\n1,128,128,3,25088,f32,last\n";

/* One problem of the panel, measured. */
typedef struct row {
    ks_problem problem;
    int count, best, chosen, best_fused, best_bmm, permute; /* indices of measured; -1: none */
    ks_measurement measured[KS_MAX_KERNELS];
    double roofline_s;
} row;

static bool usable(const ks_measurement *m)
{
    return m->status == KS_OK && m->time_s > 0;
}

static int faster(const row *r, int q, int best)
{
    return usable(&r->measured[q]) && (best < 0 || r->measured[q].time_s < r->measured[best].time_s) ? q : best;
}

static double time_of(const row *r, int q)
{
    return q < 0 ? NAN : r->measured[q].time_s;
}

/* The paper's baseline on this backend: "bmm.cpu.permute", "bmm.cuda.permute". */
static bool is_permute(const ks_kernel *kernel)
{
    const char *last = strrchr(kernel->name, '.');
    return kernel->family == KS_BMM && last && strcmp(last, ".permute") == 0;
}

static ks_status measure(ks_measurer *measurer, const ks_device *device, ks_context *ctx, bool energy, row *r)
{
    const ks_kernel *kernels[KS_MAX_KERNELS];
    const char *chosen;
    const ks_measure_limits limits = {
        .min_samples = 9, .max_samples = 41, .max_s = 3, .full_race = true, .energy = energy};
    ks_status s = ks_choose(ctx, &r->problem, &chosen);
    r->count = ks_kernels_for(&r->problem, device, kernels);
    if (s == KS_OK) s = ks_measure(measurer, &r->problem, kernels, r->count, &limits, r->measured, NULL);
    if (s != KS_OK) return s;
    r->best = r->chosen = r->best_fused = r->best_bmm = r->permute = -1;
    for (int q = 0; q < r->count; q++) {
        r->best = faster(r, q, r->best);
        if (kernels[q]->family == KS_FUSED) r->best_fused = faster(r, q, r->best_fused);
        if (kernels[q]->family == KS_BMM) r->best_bmm = faster(r, q, r->best_bmm);
        if (strcmp(kernels[q]->name, chosen) == 0) r->chosen = q;
        if (is_permute(kernels[q])) r->permute = q;
    }
    return KS_OK;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median, p95 and mean of one ratio over the rows that have it. */
typedef double ratio_function(const row *r);

static double over_roofline(const row *r)
{
    return time_of(r, r->chosen) / r->roofline_s;
}

static double best_over_roofline(const row *r)
{
    return time_of(r, r->best) / r->roofline_s;
}

static double regret(const row *r)
{
    return time_of(r, r->chosen) / time_of(r, r->best) - 1;
}

static double permute_over_auto(const row *r)
{
    return time_of(r, r->permute) / time_of(r, r->chosen);
}

static double permute_over_auto_interleaved(const row *r)
{
    return r->problem.d > 1 ? permute_over_auto(r) : NAN;
}

typedef struct summary {
    int count;
    double least, median, p95, mean;
} summary;

static summary summarise(const row *rows, size_t count, ratio_function *f)
{
    summary s = {.least = NAN, .median = NAN, .p95 = NAN, .mean = NAN};
    double *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; values && i < count; i++)
        if (isfinite(f(&rows[i]))) values[s.count++] = f(&rows[i]);
    if (s.count) {
        qsort(values, (size_t)s.count, sizeof *values, compare);
        s.least = values[0], s.median = (values[(s.count - 1) / 2] + values[s.count / 2]) / 2;
        s.p95 = values[(int)ceil(0.95 * s.count) - 1], s.mean = 0;
        for (int i = 0; i < s.count; i++) s.mean += values[i] / s.count;
    }
    free(values);
    return s;
}

/* Three digits, as many as a timing has; two decimals at most. */
static cli_text figure(double value)
{
    cli_text text = {"-"};
    const int decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    if (isfinite(value)) snprintf(text.s, sizeof text.s, "%.*f", decimals, value);
    return text;
}

static cli_text times(double value)
{
    cli_text text;
    snprintf(text.s, sizeof text.s, isfinite(value) ? "%.20sx" : "%.20s", figure(value).s);
    return text;
}

enum { PLACE = 20, TAKEN = 18 }; /* columns for pattern and batch; for a kernel's name */

static void print_row(const row *r)
{
    const ks_problem *p = &r->problem;
    const double time = time_of(r, r->chosen);
    char pattern[96], batch[24];
    const int used = snprintf(pattern, sizeof pattern, "%lld,%lld,%lld,%lld", (long long)p->a, (long long)p->b,
                              (long long)p->c, (long long)p->d);
    snprintf(batch, sizeof batch, "%lld", (long long)p->batch);
    /* A long pattern takes its room from the name, which is seldom that long. */
    const int place = printf("%s %*s", pattern, used + 1 < PLACE ? PLACE - used - 1 : 0, batch);
    const int taken = PLACE + TAKEN - place;
    printf(" %-*s %7s %6s %6s %6s %5s %5s\n", taken > 0 ? taken : 0,
           r->chosen < 0 ? "-" : r->measured[r->chosen].kernel, cli_time(time).s,
           cli_rate(ks_problem_bytes(p) / time, "").s, cli_rate(ks_problem_flops(p) / time, "").s,
           figure(time / r->roofline_s).s, times(time_of(r, r->best_fused) / time).s,
           times(time_of(r, r->best_bmm) / time).s);
}

static bool same_section(const ks_problem *a, const ks_problem *b)
{
    return a->type == b->type && a->math == b->math && a->layout == b->layout;
}

/* Rows of one type and layout, d = 1 apart: GPUs' kernels differ by these, and so do their distances to the roofline. */
static bool same_group(const ks_problem *a, const ks_problem *b)
{
    return same_section(a, b) && (a->d == 1) == (b->d == 1);
}

typedef bool likeness(const ks_problem *a, const ks_problem *b);

static bool is_first_of_its_kind(const row *rows, size_t i, likeness *alike)
{
    for (size_t q = 0; q < i; q++)
        if (alike(&rows[q].problem, &rows[i].problem)) return false;
    return true;
}

/* One type and layout after the other, which leaves more of 80 columns for what differs from row to row. */
static void print_rows(const row *rows, size_t count)
{
    printf("%-*s%*s %-*s %7s %6s %6s %6s %5s %5s\n", PLACE / 2, "pattern", PLACE / 2, "batch", TAKEN, "auto takes",
           "time", "B/s", "FLOP/s", "x roof", "fused", "bmm");
    for (size_t i = 0; i < count; i++) {
        const ks_problem *p = &rows[i].problem;
        if (!is_first_of_its_kind(rows, i, same_section)) continue;
        printf("%s%s, batch-%s\n", i ? "\n" : "", ks_type_name(p->type), ks_layout_name(p->layout));
        for (size_t q = i; q < count; q++)
            if (same_section(p, &rows[q].problem)) print_row(&rows[q]);
    }
}

static void print_groups(const row *rows, size_t count)
{
    row *group = malloc((count + 1) * sizeof *group);
    printf("\n%28s%16s%16s%20s\n%-19s%9s%9s%7s%9s%7s%10s%10s\n", "", "auto x roofline", "best x roofline",
           "auto's regret", "group", "problems", "median", "p95", "median", "p95", "mean", "p95");
    for (size_t i = 0; group && i < count; i++) {
        const ks_problem *p = &rows[i].problem;
        size_t size = 0;
        if (!is_first_of_its_kind(rows, i, same_group)) continue;
        for (size_t q = i; q < count; q++)
            if (same_group(p, &rows[q].problem)) group[size++] = rows[q];
        const summary own = summarise(group, size, over_roofline), best = summarise(group, size, best_over_roofline),
                      lost = summarise(group, size, regret);
        char name[32];
        snprintf(name, sizeof name, "%s %s, d %s", ks_type_name(p->type), ks_layout_name(p->layout),
                 p->d == 1 ? "= 1" : "> 1");
        printf("%-19s%9zu%9.2f%7.2f%9.2f%7.2f%10s%10s\n", name, size, own.median, own.p95, best.median, best.p95,
               cli_percent(lost.mean).s, cli_percent(lost.p95).s);
    }
    free(group);
}

static void print_summary(const row *rows, size_t count)
{
    print_groups(rows, count);
    const summary own = summarise(rows, count, over_roofline), best = summarise(rows, count, best_over_roofline);
    const summary lost = summarise(rows, count, regret), all = summarise(rows, count, permute_over_auto);
    const summary deep = summarise(rows, count, permute_over_auto_interleaved);
    printf("\nauto over the roofline time:        median %.2f, p95 %.2f (%d problems)\n", own.median, own.p95,
           own.count);
    printf("best kernel over the roofline time: median %.2f, p95 %.2f\n", best.median, best.p95);
    printf("auto's regret:                      mean %s, p95 %s\n", cli_percent(lost.mean).s,
           cli_percent(lost.p95).s);
    if (all.count) printf("bmm by permuting over auto:         median %.2f, least %.2f\n", all.median, all.least);
    if (deep.count) printf("  where d > 1:                      median %.2f, least %.2f\n", deep.median, deep.least);
}

static cJSON *row_json(const row *r, bool energy)
{
    cJSON *object = cJSON_CreateObject(), *kernels;
    cJSON_AddItemToObject(object, "problem", cli_problem_json(&r->problem));
    kernels = cJSON_AddObjectToObject(object, "kernels");
    for (int q = 0; q < r->count; q++) cli_add_number(kernels, r->measured[q].kernel, r->measured[q].time_s);
    if (energy) kernels = cJSON_AddObjectToObject(object, "energy_j");
    for (int q = 0; energy && q < r->count; q++)
        cli_add_number(kernels, r->measured[q].kernel, r->measured[q].energy_j);
    cJSON *chosen = cJSON_AddObjectToObject(object, "auto");
    cJSON_AddStringToObject(chosen, "kernel", r->chosen < 0 ? "" : r->measured[r->chosen].kernel);
    cli_add_number(chosen, "time_s", time_of(r, r->chosen));
    cli_add_number(object, "roofline_s", r->roofline_s);
    return object;
}

static ks_status write_csv(const char *path, const row *rows, size_t count)
{
    output out = {0};
    ks_status s = output_open(&out, path);
    if (s == KS_OK) s = ks_csv_write_header(out.file);
    for (size_t i = 0; s == KS_OK && i < count; i++)
        for (int q = 0; s == KS_OK && q < rows[i].count; q++) s = ks_csv_write_row(out.file, &rows[i].measured[q]);
    if (s == KS_OK) return output_commit(&out);
    output_discard(&out);
    return s;
}

/* Rates belong to the run: a machine that is disturbed now was perhaps not when it was calibrated. They are measured
 * before the panel and after it, and the better ones count, so that the roofline flatters nobody. */
static ks_status rate(ks_measurer *measurer, ks_device *device)
{
    ks_device now = *device;
    ks_status s = ks_measure_rates(measurer, &now);
    if (s != KS_OK) return s;
    device->copy_bytes_per_s = fmax(device->copy_bytes_per_s, now.copy_bytes_per_s);
    for (int t = 0; t < KS_NTYPES; t++)
        device->gemm_flops_per_s[t] = fmax(device->gemm_flops_per_s[t], now.gemm_flops_per_s[t]);
    return KS_OK;
}

static void show_progress(const cli *c, size_t done, size_t count)
{
    if (!cli_shows_progress(c)) return;
    if (done < count)
        fprintf(stderr, "\rmeasuring %zu of %zu", done + 1, count);
    else
        fprintf(stderr, "\r%30s\r", "");
}

/* The rates that the store has: like calibrate's, the sizes drawn depend on them, and they are the same in every run. */
static void take_stored_rates(const cli *c, ks_device *device)
{
    char path[4096];
    ks_store *store = NULL;
    ks_device stored;
    if (ks_store_path(c->store, path, sizeof path) != KS_OK || ks_store_open(&store, path, KS_STORE_READ) != KS_OK)
        return;
    if (ks_store_get_device(store, device->name, &stored) == KS_OK) {
        device->copy_bytes_per_s = stored.copy_bytes_per_s;
        memcpy(device->gemm_flops_per_s, stored.gemm_flops_per_s, sizeof stored.gemm_flops_per_s);
    }
    ks_store_close(store);
}

/* Problems as acceptance draws them, in equal shares for each type and layout, from a stream of random numbers of their own:
 * with the seed of a calibration they are not the ones that it was judged on, and then fitted to. */
static ks_status draw_panel(const cli *c, ks_device device, const request *r, ks_panel *panel)
{
    const unsigned types = r->types ? r->types : ks_design_types(&device);
    const unsigned layouts = r->layouts ? r->layouts : (1u << KS_NLAYOUTS) - 1;
    const size_t count = (size_t)r->random;
    size_t groups = (size_t)(__builtin_popcount(types) * __builtin_popcount(layouts));
    uint64_t random = ~(r->seed ? (uint64_t)r->seed : (uint64_t)(ks_clock_s() * 1e9));
    ks_status s = KS_OK;
    panel->problems = calloc(count, sizeof *panel->problems);
    if (!panel->problems) return ks_fail(KS_ERR_MEMORY, "out of memory for %zu problems", count);
    take_stored_rates(c, &device);
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            ks_design *design;
            if (s != KS_OK || !(types >> t & 1) || !(layouts >> l & 1)) continue;
            s = ks_design_open(&design, &device, (ks_type)t, (ks_layout)l, ks_design_most_s(&device, INFINITY));
            if (s != KS_OK) continue;
            for (size_t share = (count - panel->count) / groups--; share > 0; share--)
                ks_design_random(design, &random, &panel->problems[panel->count++]);
            ks_design_close(design);
        }
    return s;
}

static ks_status get_panel(const cli *c, const ks_device *device, const request *r, ks_panel *panel)
{
    if (r->random) return draw_panel(c, *device, r, panel);
    if (r->file) return ks_panel_read_file(r->file, panel);
    return ks_panel_read_text(vit_s16, sizeof vit_s16 - 1, "ViT-S/16", panel);
}

/* Measures the panel into rows, and the device's rates. */
static ks_status measure_panel(const cli *c, const ks_panel *panel, ks_context *ctx, bool energy, ks_device *device,
                               row *rows)
{
    ks_measurer *measurer;
    ks_status s = ks_measurer_open(&measurer, device);
    if (s != KS_OK) return s;
    s = rate(measurer, device);
    for (size_t i = 0; s == KS_OK && i < panel->count; i++) {
        show_progress(c, i, panel->count);
        rows[i].problem = panel->problems[i];
        s = measure(measurer, device, ctx, energy, &rows[i]);
    }
    show_progress(c, panel->count, panel->count);
    if (s == KS_OK) s = rate(measurer, device);
    for (size_t i = 0; i < panel->count; i++) rows[i].roofline_s = ks_roofline_s(device, &rows[i].problem);
    ks_measurer_close(measurer);
    return s;
}

static int print(const cli *c, const ks_device *device, const row *rows, size_t count, bool energy)
{
    if (c->json) {
        cJSON *object = cli_result_json();
        cJSON_AddStringToObject(object, "device", device->name);
        cli_add_rates(object, device->copy_bytes_per_s, device->gemm_flops_per_s);
        cJSON *list = cJSON_AddArrayToObject(object, "rows");
        for (size_t i = 0; i < count; i++) cJSON_AddItemToArray(list, row_json(&rows[i], energy));
        return cli_print_json(object);
    }
    printf("%s: copy %s, GEMM f32 %s\n\n", device->name, cli_rate(device->copy_bytes_per_s, "B/s").s,
           cli_rate(device->gemm_flops_per_s[KS_F32], "FLOP/s").s);
    print_rows(rows, count);
    print_summary(rows, count);
    return CLI_DONE;
}

static int bench_panel(const cli *c, const request *r)
{
    ks_context *ctx = NULL;
    ks_device device;
    ks_panel panel = {0};
    row *rows = NULL;
    const ks_options options = {.device = r->device, .store = c->store};
    int code = cli_open(c, "bench", &options, &ctx);
    if (code != CLI_GO_ON) return code;
    ks_status s = ks_device_find(r->device, &device);
    if (s != KS_OK) {
        code = cli_no_device("bench", r->device, s);
        goto done;
    }
    s = get_panel(c, &device, r, &panel);
    if (s == KS_OK && !(rows = calloc(panel.count + 1, sizeof *rows)))
        s = ks_fail(KS_ERR_MEMORY, "out of memory for %zu problems", panel.count);
    if (s == KS_OK) s = measure_panel(c, &panel, ctx, r->energy, &device, rows);
    if (s == KS_OK && r->csv) s = write_csv(r->csv, rows, panel.count);
    code = s == KS_OK ? print(c, &device, rows, panel.count, r->energy) : cli_status(s);
done:
    free(rows);
    ks_panel_free(&panel);
    ks_close(ctx);
    return code;
}

int cmd_bench(cli *c, int argc, char **argv)
{
    request r = {0};
    bool dispatch = false;
    const cli_option options[] = {
        {"panel", CLI_TEXT, &r.file, "FILE", "problems to time: a CSV of a,b,c,d,batch,dtype,layout", false},
        {"random", CLI_INT, &r.random, "N", "time N fresh problems, drawn as calibrate draws those it judges by",
         false},
        {"seed", CLI_INT, &r.seed, "N", "choose the fresh problems by N (default: by the clock)", false},
        {"dtype", CLI_TYPES, &r.types, "TYPES",
         "of fresh problems: f32, f16, bf16, f64; several with commas; all; default: as calibrate's", false},
        {"layout", CLI_LAYOUTS, &r.layouts, "LAYOUTS", "of fresh problems: first, last or both (default)", false},
        {"device", CLI_TEXT, &r.device, "DEVICE", "cpu (default), or cuda:N", false},
        {"csv", CLI_TEXT, &r.csv, "OUT", "also write every measurement to this file", false},
        {"energy", CLI_FLAG, &r.energy, NULL,
         "also read the joules of each product, for --csv and --json, where the device counts them", false},
        {"chains", CLI_TEXT, &r.chains, "FILE",
         "time chains instead: lines of a type, a layout, a batch, and patterns A,B,C,D", false},
        {"dispatch", CLI_FLAG, &dispatch, NULL, "measure what a decision costs instead", false},
        {0},
    };
    int code = cli_parse(c, "bench", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    if (dispatch && (r.file || r.random || r.csv || r.energy))
        return cli_misuse("bench", "--dispatch takes neither --panel nor --random nor --csv nor --energy");
    if (r.file && r.random) return cli_misuse("bench", "--panel and --random exclude each other");
    if (!r.random && (r.seed || r.types || r.layouts))
        return cli_misuse("bench", "--seed, --dtype and --layout need --random");
    if (r.random > RANDOM_MOST)
        return cli_misuse("bench", "--random '%lld': must be at most %d", (long long)r.random, RANDOM_MOST);
    if (r.chains && (dispatch || r.file || r.random || r.csv || r.energy))
        return cli_misuse("bench", "--chains takes none of --dispatch, --panel, --random, --csv and --energy");
    if (dispatch) return bench_dispatch(c, r.device);
    if (r.chains)
        return (code = cli_readable("bench", "--chains", r.chains)) == CLI_GO_ON ? bench_chains(c, r.device, r.chains)
                                                                                 : code;
    if (r.file && (code = cli_readable("bench", "--panel", r.file)) != CLI_GO_ON) return code;
    return bench_panel(c, &r);
}
