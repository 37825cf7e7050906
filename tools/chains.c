/* ksauto bench --chains: chains as ks_chain plans them, beside the same factors one by one.
 *
 * Each line of the panel is a chain. It is run in up to four ways, all interleaved: "by factor", each factor in the chain's
 * layout; "apart", the best plan of one pass a factor; "pair", where it has two factors that a pair kernel does in one launch; and
 * as planned, which is one of these or something else again. Arrays are rotated through more memory than caches hold. */
#include "bench.h"

#include "error.h"
#include "measure.h"
#include "memory.h"
#include "pair.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 8, WAYS = 4, SAMPLES = 7, MOST_SETS = 64, PLAN_BYTES = 1024, LINE_BYTES = 1024 };

static const char *const way_names[WAYS] = {"by factor", "apart", "pair", "planned"};
static const char *const way_keys[WAYS] = {"by_factor", "apart", "pair", "planned"};

/* A chain, and how it is run; NULL where it cannot be. */
typedef struct contest {
    ks_problem factors[LONGEST];
    int count;
    char text[LINE_BYTES];
    ks_chain *ways[WAYS];
    double time_s[WAYS], roofline_s;
} contest;

/* One set of arrays after the other. */
typedef struct arrays {
    char *memory;
    size_t set_bytes, x_bytes, y_bytes, k_bytes[LONGEST];
    int sets, next;
    const contest *c;
    ks_chain *chain;
} arrays;

static size_t padded(int64_t count, ks_type type)
{
    return ((size_t)count * ks_type_bytes(type) + 255) / 256 * 256;
}

static ks_status run_once(void *user, int index, void *stream)
{
    arrays *a = user;
    const void *k[LONGEST];
    char *x = a->memory + (size_t)a->next * a->set_bytes, *y = x + a->x_bytes, *at = y + a->y_bytes;
    (void)index;
    for (int f = 0; f < a->c->count; f++) k[f] = at, at += a->k_bytes[f];
    a->next = (a->next + 1) % a->sets;
    return ks_chain_matmul(a->chain, x, k, y, stream);
}

static ks_status make_arrays(const ks_device *device, const contest *c, arrays *a)
{
    const ks_problem *first = &c->factors[c->count - 1];
    *a = (arrays){.x_bytes = padded(ks_x_count(first), first->type),
                  .y_bytes = padded(ks_y_count(&c->factors[0]), first->type),
                  .c = c};
    a->set_bytes = a->x_bytes + a->y_bytes;
    for (int f = 0; f < c->count; f++)
        a->set_bytes += a->k_bytes[f] = padded(ks_k_count(&c->factors[f]), first->type);
    const size_t cold = 4 * (size_t)(device->l2_bytes + device->l3_bytes);
    a->sets = (int)fmin(MOST_SETS, 2 + (double)cold / (double)a->set_bytes);
    ks_status s = ks_memory_alloc(device, (size_t)a->sets * a->set_bytes, (void **)&a->memory);
    return s == KS_OK ? ks_memory_randomise(device, a->memory, (size_t)a->sets * a->set_bytes, 1) : s;
}

static int compare(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Of two ways with the same plan the second is the first. */
static int same_way(const contest *c, int w)
{
    for (int q = 0; q < w; q++)
        if (c->ways[q] && strcmp(ks_chain_plan(c->ways[q]), ks_chain_plan(c->ways[w])) == 0) return q;
    return w;
}

static ks_status race(const ks_device *device, contest *c)
{
    arrays a;
    double samples[WAYS][SAMPLES];
    ks_status s = make_arrays(device, c, &a);
    for (int round = -1; s == KS_OK && round < SAMPLES; round++) /* the first does not count */
        for (int w = 0; s == KS_OK && w < WAYS; w++) {
            if (!c->ways[w] || same_way(c, w) != w) continue;
            const int calls = (int)fmax(5, fmin(200, 3e-3 / ks_chain_predicted_s(c->ways[w])));
            a.chain = c->ways[w];
            s = ks_device_time(device, run_once, &a, round < 0 ? 2 : calls, &samples[w][round < 0 ? 0 : round]);
            samples[w][round < 0 ? 0 : round] /= calls;
        }
    for (int w = 0; s == KS_OK && w < WAYS; w++) {
        c->time_s[w] = NAN;
        if (!c->ways[w]) continue;
        if (same_way(c, w) == w) qsort(samples[w], SAMPLES, sizeof samples[w][0], compare);
        c->time_s[w] = same_way(c, w) == w ? samples[w][SAMPLES / 2] : c->time_s[same_way(c, w)];
    }
    ks_memory_free(device, a.memory);
    return s;
}

/* The best plan with one pass a factor: of all layouts. */
static ks_status open_apart(ks_context *ctx, contest *c)
{
    for (unsigned layouts = 0; layouts < 1u << c->count; layouts++) {
        char plan[PLAN_BYTES] = "";
        ks_chain *chain;
        for (int f = 0; f < c->count; f++) strcat(plan, layouts >> f & 1 ? "auto/last " : "auto/first ");
        ks_status s = ks_chain_open(&chain, ctx, c->factors, c->count, plan);
        if (s != KS_OK) return s;
        if (layouts == (c->factors[0].layout == KS_BATCH_FIRST ? 0 : (1u << c->count) - 1)) {
            s = ks_chain_open(&c->ways[0], ctx, c->factors, c->count, plan);
            if (s != KS_OK) return s;
        }
        ks_chain **best = &c->ways[1];
        if (!*best || ks_chain_predicted_s(chain) < ks_chain_predicted_s(*best)) {
            ks_chain *worse = *best;
            *best = chain, chain = worse;
        }
        ks_chain_close(chain);
    }
    return KS_OK;
}

static ks_status open_ways(ks_context *ctx, const ks_device *device, contest *c)
{
    ks_status s = open_apart(ctx, c);
    for (const ks_pair *const *p = ks_pairs(); s == KS_OK && *p && c->count == 2; p++) {
        char plan[PLAN_BYTES];
        if ((*p)->backend != device->backend || !(*p)->supports(c->factors, device)) continue;
        snprintf(plan, sizeof plan, "%s/%s", (*p)->name, ks_layout_name(c->factors[0].layout));
        s = ks_chain_open(&c->ways[2], ctx, c->factors, c->count, plan);
        break;
    }
    return s == KS_OK ? ks_chain_open(&c->ways[3], ctx, c->factors, c->count, NULL) : s;
}

/* The time that memory needs for X, Y and the weights, once, or the tensor cores for all products. */
static double roofline_s(const ks_device *device, const contest *c)
{
    double bytes = 0, flops = 0;
    const ks_type type = c->factors[0].type;
    for (int f = 0; f < c->count; f++) {
        bytes += (double)(ks_k_count(&c->factors[f]) * (int64_t)ks_type_bytes(type));
        flops += ks_problem_flops(&c->factors[f]);
    }
    bytes +=
        (double)((ks_x_count(&c->factors[c->count - 1]) + ks_y_count(&c->factors[0])) * (int64_t)ks_type_bytes(type));
    return fmax(bytes / device->copy_bytes_per_s, flops / device->gemm_flops_per_s[type]);
}

/* "f16 first 25088 32,32,32,1 1,32,32,32": type, layout, batch, K_1 and so on. */
static ks_status read_line(const char *line, contest *c)
{
    char word[64];
    int used;
    ks_problem common = {0};
    ks_status s = KS_OK;
    *c = (contest){.count = 0};
    snprintf(c->text, sizeof c->text, "%s", line);
    c->text[strcspn(c->text, "\r\n")] = '\0';
    for (int q = 0; s == KS_OK && sscanf(line, "%63s%n", word, &used) == 1; q++, line += used) {
        char *end = word;
        if (q == 0) {
            s = ks_type_parse(word, &common.type);
        } else if (q == 1) {
            s = ks_layout_parse(word, &common.layout);
        } else if (q == 2) {
            common.batch = strtoll(word, &end, 10);
            if (*end || common.batch < 1) s = ks_fail(KS_ERR_PARSE, "batch \"%s\" is no number of 1 or more", word);
        } else if (c->count == LONGEST) {
            s = ks_fail(KS_ERR_PARSE, "a chain of more than %d factors", LONGEST);
        } else {
            c->factors[c->count] = common;
            s = ks_pattern_parse(word, &c->factors[c->count++]);
        }
    }
    if (s == KS_OK && c->count == 0)
        s = ks_fail(KS_ERR_PARSE, "\"%.80s\" is not: type, layout, batch, patterns", c->text);
    return s;
}

static cJSON *contest_json(const contest *c)
{
    cJSON *row = cJSON_CreateObject(), *factors, *ways;
    factors = cJSON_AddArrayToObject(row, "factors");
    for (int f = 0; f < c->count; f++) cJSON_AddItemToArray(factors, cli_problem_json(&c->factors[f]));
    ways = cJSON_AddObjectToObject(row, "ways");
    for (int w = 0; w < WAYS; w++) {
        if (!c->ways[w]) continue;
        cJSON *way = cJSON_AddObjectToObject(ways, way_keys[w]);
        cJSON_AddStringToObject(way, "plan", ks_chain_plan(c->ways[w]));
        cli_add_number(way, "time_s", c->time_s[w]);
        cli_add_number(way, "predicted_s", ks_chain_predicted_s(c->ways[w]));
    }
    cli_add_number(row, "roofline_s", c->roofline_s);
    return row;
}

/* Broken between words, that it may be no wider than a terminal. */
static void print_plan(const char *plan)
{
    int at = 0;
    for (int used; *plan; plan += used) {
        used = (int)strcspn(plan, " ");
        if (at > 0 && at + used > 78) {
            printf("\n");
            at = 0;
        }
        at += printf("%s%.*s", at ? " " : "      ", used, plan);
        used += plan[used] == ' ';
    }
    printf("\n");
}

static void print_contest(const contest *c)
{
    printf("%s\n", c->text);
    for (int w = 0; w < WAYS; w++) {
        if (!c->ways[w]) continue;
        printf("  %-10s%10s, %.2f x roofline, %s predicted:\n", way_names[w], cli_time(c->time_s[w]).s,
               c->time_s[w] / c->roofline_s, cli_time(ks_chain_predicted_s(c->ways[w])).s);
        print_plan(ks_chain_plan(c->ways[w]));
    }
}

static void print_summary(const double *gains, const double *planned, int pairs)
{
    if (pairs == 0) return;
    printf("\n%d chains that a pair kernel can do, medians: apart over pair %.2f,\nplanned over the better of both "
           "%.3f\n",
           pairs, gains[pairs / 2], planned[pairs / 2]);
}

static ks_status bench_line(const char *line, ks_context *ctx, const ks_device *device, contest *c)
{
    ks_status s = read_line(line, c);
    if (s == KS_OK) s = open_ways(ctx, device, c);
    if (s == KS_OK) s = race(device, c);
    if (s == KS_OK) c->roofline_s = roofline_s(device, c);
    return s;
}

static ks_status bench_file(const cli *c, FILE *file, ks_context *ctx, const ks_device *device, cJSON *rows)
{
    enum { MOST = 4096 };
    static double gains[MOST], planned[MOST];
    char line[LINE_BYTES];
    int pairs = 0;
    ks_status s = KS_OK;
    while (s == KS_OK && fgets(line, sizeof line, file)) {
        contest now;
        if (line[strspn(line, " \r\n")] == '\0' || *line == '#') continue;
        s = bench_line(line, ctx, device, &now);
        if (s == KS_OK && c->json) cJSON_AddItemToArray(rows, contest_json(&now));
        if (s == KS_OK && !c->json) print_contest(&now);
        if (s == KS_OK && now.ways[2] && pairs < MOST) {
            gains[pairs] = now.time_s[1] / now.time_s[2];
            planned[pairs++] = now.time_s[3] / fmin(now.time_s[1], now.time_s[2]);
        }
        for (int w = 0; w < WAYS; w++) ks_chain_close(now.ways[w]);
        fflush(stdout);
    }
    qsort(gains, (size_t)pairs, sizeof *gains, compare);
    qsort(planned, (size_t)pairs, sizeof *planned, compare);
    if (s == KS_OK && !c->json) print_summary(gains, planned, pairs);
    return s;
}

/* Rates, which the roofline stands on. */
static ks_status rate(ks_device *device)
{
    ks_measurer *measurer;
    ks_status s = ks_measurer_open(&measurer, device);
    if (s != KS_OK) return s;
    s = ks_measure_rates(measurer, device);
    ks_measurer_close(measurer);
    return s;
}

int bench_chains(const cli *c, const char *device_name, const char *path)
{
    ks_context *ctx = NULL;
    ks_device device;
    const ks_options options = {.device = device_name, .store = c->store};
    int code = cli_open(c, "bench", &options, &ctx);
    if (code != CLI_GO_ON) return code;
    FILE *file = fopen(path, "r");
    cJSON *object = cli_result_json();
    ks_status s = ks_device_find(device_name, &device);
    if (s == KS_OK) s = file ? rate(&device) : ks_fail(KS_ERR_IO, "cannot read %s", path);
    if (s == KS_OK) {
        cJSON_AddStringToObject(object, "device", device.name);
        cli_add_rates(object, device.copy_bytes_per_s, device.gemm_flops_per_s);
        if (!c->json) printf("%s: copy %s\n", device.name, cli_rate(device.copy_bytes_per_s, "B/s").s);
        s = bench_file(c, file, ctx, &device, cJSON_AddArrayToObject(object, "chains"));
    }
    if (file) fclose(file);
    ks_close(ctx);
    if (s == KS_OK && c->json) return cli_print_json(object);
    cJSON_Delete(object);
    return s == KS_OK ? CLI_DONE : cli_status(s);
}
