/* ksauto advise --search: which chains of Kronecker-sparse factors make a layer fast, at so many parameters.
 *
 * A chain W = K1 K2 ... KL stands for a dense matrix if every output can depend on every input. That asks for patterns that fit
 * into one another: with 1 = a1 | a2 | ... | a(L+1) = inputs, outputs = d0, d1 | d0, ..., dL = 1, and ranks r0 = rL = 1,
 *
 *     b(i) = r(i-1) d(i-1) / d(i),   c(i) = r(i) a(i+1) / a(i),
 *
 * and this is all of them. (Monarch has L = 2; a butterfly has L = log2 n and b = c = 2.) So all sequences of divisors are
 * tried, with ranks that are powers of two. A chain's time is the sum of its factors', each as the advisor predicts it;
 * listed are those that no other chain beats in parameters and time at once. */
#include "search.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char synopsis[] = "ksauto [--db FILE] advise --search INPUTSxOUTPUTS --params SHARE [OPTION]...";
static const char about[] = "Lists the chains of Kronecker-sparse factors for a layer of that shape that are fastest "
                            "on a device: none listed is "
                            "beaten in parameters and time at once by any other. Beside them stands the dense layer. "
                            "Factors are applied from "
                            "right to left; chains of which an output does not depend on every input are left out.";

enum { MOST_SIZE = 1 << 20, MOST_DIVISORS = 240 /* of numbers up to that */ };

/* Room for the patterns of four factors: where they drive each other out a search takes six times as long. */
enum { SLOTS = 1 << 17 };

typedef struct divisors {
    int64_t of[MOST_DIVISORS]; /* rising */
    int count;
} divisors;

typedef struct search {
    const cli *c;
    ks_context *ctx;
    ks_problem like; /* batch, type, layout, math */
    int64_t inputs, outputs;
    divisors in, out;     /* of these */
    double most;          /* parameters */
    int longest;          /* factors */
    search_factor *slots; /* what was asked already, by pattern */
    search_chain now;     /* being built, from the left */
    search_chain *best;   /* the front, by parameters, most first */
    int count, room;
    int64_t tried;
    ks_status status;
} search;

static search_factor *look_up(search *s, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const uint64_t key = (((uint64_t)a * 0x9e3779b97f4a7c15u ^ (uint64_t)b) * 0x9e3779b97f4a7c15u ^ (uint64_t)c) *
                             0x9e3779b97f4a7c15u ^
                         (uint64_t)d * 0xff51afd7ed558ccdu;
    search_factor *f = &s->slots[(key ^ key >> 32) % SLOTS];
    if (f->problem.a == a && f->problem.b == b && f->problem.c == c && f->problem.d == d) return f;
    ks_advice advice;
    *f = (search_factor){.problem = s->like, .time_s = NAN};
    f->problem.a = a, f->problem.b = b, f->problem.c = c, f->problem.d = d;
    s->status = ks_advise(s->ctx, &f->problem, &advice);
    if (s->status != KS_OK) return NULL;
    snprintf(f->kernel, sizeof f->kernel, "%s", advice.kernel);
    for (int i = 0; i < advice.candidate_count; i++)
        if (strcmp(advice.candidates[i].kernel, advice.kernel) == 0) f->time_s = advice.candidates[i].time_s;
    return f;
}

/* Puts a chain into the front, and out of it what the chain beats. */
static void offer(search *s, const search_chain *chain)
{
    int kept = 0;
    s->tried++;
    for (int i = 0; i < s->count; i++)
        if (s->best[i].parameters >= chain->parameters && s->best[i].time_s <= chain->time_s) return;
    for (int i = 0; i < s->count; i++)
        if (!(s->best[i].parameters <= chain->parameters && s->best[i].time_s >= chain->time_s))
            s->best[kept++] = s->best[i];
    s->count = kept;
    if (s->count == s->room) {
        const int room = s->room ? 2 * s->room : 64;
        search_chain *more = realloc(s->best, (size_t)room * sizeof *more);
        if (!more) {
            s->status = KS_ERR_MEMORY;
            return;
        }
        s->best = more, s->room = room;
    }
    int at = s->count++;
    for (; at > 0 && s->best[at - 1].parameters < chain->parameters; at--) s->best[at] = s->best[at - 1];
    s->best[at] = *chain;
}

static void extend(search *s, int64_t a, int64_t d_before, int64_t rank_before);

/* Adds the factor (a, b, c, d) to the chain and goes on from there; next_a, d and rank are what the next one starts from. */
static void try_factor(search *s, int64_t a, int64_t b, int64_t next_a, int64_t c, int64_t d, int64_t rank)
{
    const double parameters = (double)a * (double)b * (double)c * (double)d;
    if (b < 2 || c < 2 || s->now.parameters + parameters > s->most) return;
    const search_factor *f = look_up(s, a, b, c, d);
    if (!f) return;
    const search_chain before = s->now;
    s->now.factor[s->now.length++] = *f;
    s->now.parameters += parameters, s->now.time_s += f->time_s;
    if (d == 1 && next_a == s->inputs)
        offer(s, &s->now);
    else
        extend(s, next_a, d, rank);
    s->now = before;
}

static void extend(search *s, int64_t a, int64_t d_before, int64_t rank_before)
{
    const bool last = s->now.length + 1 == s->longest;
    for (int i = 0; i < s->out.count && s->out.of[i] <= (last ? 1 : d_before); i++) {
        const int64_t d = s->out.of[i];
        if (d_before % d) continue;
        for (int j = 0; j < s->in.count; j++) {
            const int64_t next_a = s->in.of[j];
            if (next_a % a || (d == 1) != (next_a == s->inputs)) continue;
            const int64_t b = rank_before * (d_before / d), c = next_a / a;
            for (int64_t rank = 1; s->status == KS_OK; rank *= 2) {
                const double parameters = (double)a * (double)b * (double)(rank * c) * (double)d;
                if (s->now.parameters + parameters > s->most) break;
                try_factor(s, a, b, next_a, rank * c, d, rank);
                if (d == 1) break; /* nothing follows */
            }
        }
    }
}

static divisors divisors_of(int64_t n)
{
    divisors all = {.count = 0};
    for (int64_t i = 1; i <= n; i++)
        if (n % i == 0) all.of[all.count++] = i;
    return all;
}

/* "1024x4096" */
static bool read_shape(const char *text, int64_t *inputs, int64_t *outputs)
{
    char *end;
    *inputs = strtoll(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != 'x' || end[1] < '0' || end[1] > '9') return false;
    *outputs = strtoll(end + 1, &end, 10);
    return *end == '\0' && *inputs >= 1 && *inputs <= MOST_SIZE && *outputs >= 1 && *outputs <= MOST_SIZE;
}

/* As many as asked for, spread over the front, its ends among them. */
static void thin(search *s, int most)
{
    if (s->count <= most) return;
    for (int i = 0; i < most; i++) s->best[i] = s->best[most == 1 ? 0 : (int64_t)i * (s->count - 1) / (most - 1)];
    s->count = most;
}

static void print_chain(const search_chain *chain, int indent)
{
    int column = indent;
    for (int i = 0; i < chain->length; i++) {
        char text[64];
        const ks_problem *p = &chain->factor[i].problem;
        const int length =
            snprintf(text, sizeof text, "(%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ")", p->a, p->b, p->c, p->d);
        if (column + 1 + length > 80) column = printf("\n%*s", indent, "") - 1;
        column += printf("%s%s", i && column > indent ? " " : "", text);
    }
    putchar('\n');
}

static void print_text(const search *s, const search_factor *dense, const char *device, bool measured)
{
    const double all = (double)s->inputs * (double)s->outputs;
    printf("%" PRId64 " inputs, %" PRId64 " outputs, batch %" PRId64 " %s, %s, at most %.0f parameters\non %s\n",
           s->inputs, s->outputs, s->like.batch, ks_layout_name(s->like.layout), ks_type_name(s->like.type), s->most,
           device);
    printf("dense: %.0f parameters, %s predicted by %s\n\n", all, cli_time(dense->time_s).s, dense->kernel);
    printf("%10s  %6s  %8s  %7s  %s%s\n", "parameters", "share", "time", "x dense", measured ? "measured  " : "",
           "chain, applied right to left");
    for (int i = 0; i < s->count; i++) {
        const search_chain *chain = &s->best[i];
        printf("%10.0f  %6s  %8s  %7.3f  ", chain->parameters, cli_percent(chain->parameters / all).s,
               cli_time(chain->time_s).s, chain->time_s / dense->time_s);
        if (measured) printf("%8s  ", cli_time(chain->measured_s).s);
        print_chain(chain, measured ? 49 : 39);
    }
    printf("\n%d of %" PRId64 " chains: no other has more parameters and takes less time.\n", s->count, s->tried);
}

static cJSON *factor_json(const search_factor *f)
{
    cJSON *object = cJSON_CreateObject();
    cli_add_integer(object, "a", f->problem.a);
    cli_add_integer(object, "b", f->problem.b);
    cli_add_integer(object, "c", f->problem.c);
    cli_add_integer(object, "d", f->problem.d);
    cJSON_AddStringToObject(object, "kernel", f->kernel);
    cli_add_number(object, "time_s", f->time_s);
    return object;
}

static int print_json(const search *s, const search_factor *dense, const char *device, bool measured)
{
    cJSON *object = cli_result_json();
    cJSON_AddStringToObject(object, "device", device);
    cli_add_integer(object, "inputs", s->inputs);
    cli_add_integer(object, "outputs", s->outputs);
    cli_add_integer(object, "batch", s->like.batch);
    cJSON_AddStringToObject(object, "dtype", ks_type_name(s->like.type));
    cJSON_AddStringToObject(object, "layout", ks_layout_name(s->like.layout));
    cli_add_integer(object, "tried", s->tried);
    cJSON_AddItemToObject(object, "dense", factor_json(dense));
    cJSON *chains = cJSON_AddArrayToObject(object, "chains");
    for (int i = 0; i < s->count; i++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(chains, row);
        cli_add_number(row, "parameters", s->best[i].parameters);
        cli_add_number(row, "time_s", s->best[i].time_s);
        if (measured) cli_add_number(row, "measured_s", s->best[i].measured_s);
        cJSON *factors = cJSON_AddArrayToObject(row, "factors");
        for (int f = 0; f < s->best[i].length; f++) cJSON_AddItemToArray(factors, factor_json(&s->best[i].factor[f]));
    }
    return cli_print_json(object);
}

static int run(search *s, int top, bool measured)
{
    ks_advice advice;
    ks_status status = ks_problem_check(&s->like);
    if (status != KS_OK) return cli_status(status);
    s->slots = calloc(SLOTS, sizeof *s->slots);
    s->status = s->slots ? KS_OK : KS_ERR_MEMORY;
    const search_factor *found = s->slots ? look_up(s, 1, s->outputs, s->inputs, 1) : NULL;
    if (!found) return cli_status(s->status);
    const search_factor dense = *found;
    extend(s, 1, s->outputs, 1);
    if (s->status == KS_OK) s->status = ks_advise(s->ctx, &dense.problem, &advice);
    if (s->status != KS_OK) return cli_status(s->status);
    if (s->count == 0)
        return cli_fail(
            "no chain of at most %d factors has at most %.0f parameters; valid: more --params or --factors",
            s->longest, s->most);
    thin(s, top);
    if (measured) {
        status = search_measure(s->ctx, s->best, s->count);
        if (status != KS_OK) return cli_status(status);
    }
    if (s->c->json) return print_json(s, &dense, advice.device, measured);
    print_text(s, &dense, advice.device, measured);
    return CLI_DONE;
}

int cmd_search(cli *c, int argc, char **argv)
{
    const char *shape = NULL;
    double share = 0.1;
    int64_t longest = 3, top = 10;
    bool measured = false;
    search s = {.c = c, .like = {.a = 1, .b = 1, .c = 1, .d = 1, .batch = 4096}};
    ks_options context = {0};
    const cli_option options[] = {
        {"search", CLI_TEXT, &shape, "INPUTSxOUTPUTS", "the layer's shape, such as 1024x4096", true},
        {"params", CLI_FRACTION, &share, "SHARE", "at most this share of the dense layer's parameters (default 10%)",
         false},
        {"factors", CLI_INT, &longest, "L", "chains of at most so many factors, up to 4 (default 3)", false},
        {"top", CLI_INT, &top, "N", "list at most N chains, spread over all that are best (default 10)", false},
        {"measure", CLI_FLAG, &measured, NULL, "also run each chain that is listed, and tell its time (CPU only)",
         false},
        {"batch", CLI_INT, &s.like.batch, "N", "rows of X (default 4096)", false},
        {"dtype", CLI_TYPE, &s.like.type, "TYPE", "f32 (default), f16, bf16 or f64", false},
        {"layout", CLI_LAYOUT, &s.like.layout, "LAYOUT", "first (default): batch first; last: batch last", false},
        {"device", CLI_TEXT, &context.device, "DEVICE",
         "cpu (default), cuda:N, or a name that 'ksauto devices' lists", false},
        {0},
    };
    int code = cli_parse(c, "advise --search", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;
    if (!read_shape(shape, &s.inputs, &s.outputs))
        return cli_misuse("advise", "--search '%s': must be two sizes from 1 to %d such as 1024x4096", shape,
                          MOST_SIZE);
    if (longest < 2 || longest > SEARCH_LONGEST)
        return cli_misuse("advise", "--factors must be from 2 to %d", SEARCH_LONGEST);
    s.longest = (int)longest;
    s.in = divisors_of(s.inputs), s.out = divisors_of(s.outputs);
    s.most = share * (double)s.inputs * (double)s.outputs;
    code = cli_open(c, "advise", &context, &s.ctx);
    if (code != CLI_GO_ON) return code;
    code = run(&s, top > 1000 ? 1000 : (int)top, measured);
    ks_close(s.ctx);
    free(s.slots);
    free(s.best);
    return code;
}
