/* The command line's shared parts: messages, options, the two or three ways in which every subcommand starts.
 *
 * getopt_long does the parsing, silenced, because its own messages name neither the value nor what would be valid; what
 * went wrong is worked out here from what it leaves behind. Values are read by the library's own parsers, so that the
 * command accepts just what the CSV files and the API accept. Printing of quantities and JSON is in print.c. */
#include "cli.h"

#include "help.h"
#include "store.h"
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool quiet; /* --quiet: no notes, no progress; errors all the same */

const char *cli_look(FILE *stream, const char *look)
{
    static char code[4][8];
    static int next;
    const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
    if ((no_color && *no_color) || isatty(fileno(stream)) != 1 || !terminal || strcmp(terminal, "dumb") == 0)
        return "";
    next = (next + 1) % 4;
    snprintf(code[next], sizeof code[next], "\033[%sm", look);
    return code[next];
}

bool cli_shows_progress(const cli *c)
{
    return !quiet && !c->json && isatty(STDERR_FILENO) == 1;
}

int cli_columns(void)
{
    struct winsize window;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
}

/* A sentence of which `column` columns are there already: in lines of whole words on a terminal, else, for grep, in one. */
static void put_sentence(const char *text, int column)
{
    const int most = isatty(STDERR_FILENO) == 1 ? cli_columns() : INT_MAX;
    while (*text) {
        const int length = (int)strcspn(text + 1, " ") + 1; /* of a word with the blank before it */
        if (column > 0 && *text == ' ' && column + length > most) {
            fputc('\n', stderr);
            column = 0;
            text++;
            continue;
        }
        fwrite(text, 1, (size_t)length, stderr);
        column += length;
        text += length;
    }
    fputc('\n', stderr);
}

/* look: of the prefix, as cli_look has it. */
static void say(const char *look, const char *prefix, const char *command, const char *format, va_list args)
{
    char text[4096];
    const char *blank = command ? " " : "", *name = command ? command : "";
    vsnprintf(text, sizeof text, format, args);
    fflush(stdout); /* keeps the order right where both streams are one file */
    fprintf(stderr, "%sksauto%s%s: %s%s", cli_look(stderr, look), blank, name, prefix, cli_look(stderr, "0"));
    put_sentence(text, (int)(strlen("ksauto: ") + strlen(blank) + strlen(name) + strlen(prefix)));
}

int cli_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("1;31", "", NULL, format, args);
    va_end(args);
    return CLI_FAILED;
}

void cli_note(const char *format, ...)
{
    va_list args;
    if (quiet) return;
    va_start(args, format);
    say("1", "note: ", NULL, format, args);
    va_end(args);
}

int cli_misuse(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("1;31", "", command, format, args);
    va_end(args);
    fprintf(stderr, "Try 'ksauto%s%s --help'.\n", command ? " " : "", command ? command : "");
    return CLI_MISUSED;
}

/* How many letters two words differ by: changed, missing, or too many. */
static int distance(const char *x, size_t x_length, const char *y, size_t y_length)
{
    enum { LONGEST = 24 };
    int row[LONGEST + 1];
    if (x_length > LONGEST || y_length > LONGEST) return INT_MAX;
    for (size_t j = 0; j <= y_length; j++) row[j] = (int)j;
    for (size_t i = 1; i <= x_length; i++) {
        int corner = row[0]; /* of the row above, one to the left */
        row[0] = (int)i;
        for (size_t j = 1; j <= y_length; j++) {
            const int changed = corner + (x[i - 1] != y[j - 1]), shorter = row[j] + 1, longer = row[j - 1] + 1;
            corner = row[j];
            row[j] = changed < shorter ? changed : shorter;
            row[j] = row[j] < longer ? row[j] : longer;
        }
    }
    return row[y_length];
}

int cli_unknown(const char *command, const char *what, const char *word, const char *valid)
{
    const size_t typed = strcspn(word, "=");
    const char *best = "";
    size_t best_length = 0;
    int least = 3; /* so many letters are another word, and not a slip */
    for (const char *at = valid; *at; at += strspn(at, ", ")) {
        const size_t length = strcspn(at, ",");
        const int off = distance(word, typed, at, length);
        if (off < least && off < (int)length - 1) least = off, best = at, best_length = length;
        at += length;
    }
    return cli_misuse(command, "unknown %s '%.*s'; %s%.*s%svalid: %s", what, (int)typed, word,
                      *best ? "did you mean '" : "", (int)best_length, best, *best ? "'? " : "", valid);
}

int cli_no_device(const char *command, const char *device, ks_status status)
{
    const char *why = ks_status_message(status);
    return cli_misuse(command, "--device '%s': %s%s", device ? device : "cpu", why,
                      strstr(why, "valid:") ? "" : "; 'ksauto devices' lists what there is");
}

int cli_status(ks_status status)
{
    cli_fail("%s", ks_status_message(status));
    if (status == KS_ERR_STORE && *ks_store_remedy()) {
        static const char begin[] = "What helps: ";
        fputs(begin, stderr);
        put_sentence(ks_store_remedy(), (int)strlen(begin));
    }
    return status == KS_ERR_ARGUMENT || status == KS_ERR_OVERFLOW || status == KS_ERR_PARSE ? CLI_MISUSED
                                                                                            : CLI_FAILED;
}

/* ---- Reading values ---- */

/* A plain decimal number at the start of text; *end is what follows. strtod alone would take "inf", "nan" and "0x1p3". */
static bool read_decimal(const char *text, double *value, const char **end)
{
    size_t span = strspn(text, "0123456789.");
    if (span == 0 || text[span] == 'x' || text[span] == 'X') return false;
    char *stop;
    errno = 0;
    *value = strtod(text, &stop);
    *end = stop;
    return stop != text && errno == 0 && isfinite(*value);
}

static bool read_seconds(const char *text, double *seconds)
{
    static const struct {
        const char *suffix;
        double unit_s;
    } units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"m", 60}, {"min", 60}, {"h", 3600}};
    double value;
    const char *suffix;
    if (!read_decimal(text, &value, &suffix) || !(value > 0)) return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(suffix, units[i].suffix) == 0) {
            *seconds = value * units[i].unit_s;
            return true;
        }
    }
    return false;
}

/* A bare 1 is refused: whoever writes it means 1 % more often than 100 %. */
static bool read_fraction(const char *text, double *fraction)
{
    double value;
    const char *suffix;
    if (!read_decimal(text, &value, &suffix)) return false;
    if (strcmp(suffix, "%") == 0) {
        *fraction = value / 100;
        return *fraction <= 1;
    }
    *fraction = value;
    return *suffix == '\0' && value < 1;
}

static bool read_integer(const char *text, int64_t *value)
{
    char *end;
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    *value = n;
    return errno == 0 && *end == '\0' && n >= 1;
}

/* In powers of 1024. */
static bool read_bytes(const char *text, int64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;
    const int shift = suffix ? 10 * (int)(suffix - suffixes + 1) : 0;
    if (errno != 0 || end[suffix != NULL] != '\0' || n < 1 || n > INT64_MAX >> shift) return false;
    *bytes = (int64_t)n << shift;
    return true;
}

static bool read_types(const char *text, unsigned *types)
{
    if (strcmp(text, "all") == 0) {
        *types = (1u << KS_NTYPES) - 1;
        return true;
    }
    *types = 0;
    while (true) {
        char word[16];
        ks_type type;
        size_t length = strcspn(text, ",");
        if (length >= sizeof word) return false;
        memcpy(word, text, length);
        word[length] = '\0';
        if (ks_type_parse(word, &type) != KS_OK) return false;
        *types |= 1u << type;
        if (text[length] == '\0') return true;
        text += length + 1;
    }
}

static bool read_layouts(const char *text, unsigned *layouts)
{
    ks_layout layout;
    if (strcmp(text, "both") == 0) {
        *layouts = (1u << KS_NLAYOUTS) - 1;
        return true;
    }
    if (ks_layout_parse(text, &layout) != KS_OK) return false;
    *layouts = 1u << layout;
    return true;
}

/* Stores text as the option's value; false if it is none. */
static bool read_value(const cli_option *option, const char *text)
{
    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)option->value = true;
        return true;
    case CLI_TEXT:
        *(const char **)option->value = text;
        return *text != '\0';
    case CLI_INT:
        return read_integer(text, option->value);
    case CLI_SECONDS:
        return read_seconds(text, option->value);
    case CLI_BYTES:
        return read_bytes(text, option->value);
    case CLI_FRACTION:
        return read_fraction(text, option->value);
    case CLI_TYPE:
        return ks_type_parse(text, option->value) == KS_OK;
    case CLI_TYPES:
        return read_types(text, option->value);
    case CLI_LAYOUT:
        return ks_layout_parse(text, option->value) == KS_OK;
    case CLI_LAYOUTS:
        return read_layouts(text, option->value);
    case CLI_MATH:
        return ks_math_parse(text, option->value) == KS_OK;
    case CLI_OBJECTIVE:
        return ks_objective_parse(text, option->value) == KS_OK;
    }
    return false;
}

static const char *type_name(int value)
{
    return value < KS_NTYPES ? ks_type_name((ks_type)value) : NULL;
}
static const char *layout_name(int value)
{
    return value < KS_NLAYOUTS ? ks_layout_name((ks_layout)value) : NULL;
}
static const char *math_name(int value)
{
    return value <= KS_MATH_TF32 ? ks_math_name((ks_math)value) : NULL;
}
static const char *objective_name(int value)
{
    return value <= KS_ENERGY ? ks_objective_name((ks_objective)value) : NULL;
}

/* Appends, and cuts short rather than overflow. */
static void append(char *text, size_t size, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s", more);
}

/* "f32, f16, bf16, f64" followed by `also`: the names come from the library, so that a new type needs no change here. */
static const char *list_names(char *text, size_t size, const char *(*name)(int), const char *also)
{
    snprintf(text, size, "valid: ");
    for (int i = 0; name(i) != NULL; i++) {
        append(text, size, i ? ", " : "");
        append(text, size, name(i));
    }
    append(text, size, also);
    return text;
}

static const char *valid_values(cli_kind kind, char *text, size_t size)
{
    switch (kind) {
    case CLI_TEXT:
        return "must not be empty";
    case CLI_INT:
        return "must be a whole number from 1 to 9223372036854775807";
    case CLI_SECONDS:
        return "must be a time longer than 0 such as 60, 60s, 2m or 500ms";
    case CLI_BYTES:
        return "must be a number of bytes such as 512M or 4G";
    case CLI_FRACTION:
        return "must be a percentage such as 1%, or a fraction below 1 such as 0.01";
    case CLI_TYPE:
        return list_names(text, size, type_name, "");
    case CLI_TYPES:
        return list_names(text, size, type_name, ", several of them with commas between, or all");
    case CLI_LAYOUT:
        return list_names(text, size, layout_name, "");
    case CLI_LAYOUTS:
        return list_names(text, size, layout_name, ", both");
    case CLI_MATH:
        return list_names(text, size, math_name, "");
    case CLI_OBJECTIVE:
        return list_names(text, size, objective_name, "");
    case CLI_FLAG:
        break;
    }
    return "takes no value";
}

const char *cli_words_of(cli_kind kind)
{
    static const char mark[] = "valid: ";
    static char words[128];
    char *to = words;
    const char *from = valid_values(kind, words, sizeof words);
    if (strncmp(from, mark, strlen(mark)) != 0) return "";
    for (from += strlen(mark); *from && strncmp(from, ", several", 9) != 0; from++)
        if (*from != ',') *to++ = *from;
    *to = '\0';
    return words;
}

/* ---- Parsing ---- */

/* getopt_long says '?' for an unknown and for an ambiguous option alike: tells which it was, and what is valid. */
static int tell_unknown(const char *command, const char *word, const cli_option *options, int count)
{
    char names[512] = "";
    int matches = 0;
    size_t length = strcspn(word, "=");
    if (strncmp(word, "--", 2) == 0) {
        for (int i = 0; i < count; i++) {
            if (strncmp(options[i].name, word + 2, length - 2) != 0) continue;
            append(names, sizeof names, matches++ ? ", --" : "--");
            append(names, sizeof names, options[i].name);
        }
        if (matches > 1) return cli_misuse(command, "option %.*s is ambiguous: %s", (int)length, word, names);
    }
    names[0] = '\0';
    for (int i = 0; i < count; i++) {
        append(names, sizeof names, i ? ", --" : "--");
        append(names, sizeof names, options[i].name);
    }
    return cli_unknown(command, "option", word, names);
}

int cli_parse(cli *c, const char *command, const char *synopsis, const char *about, const cli_option *options,
              int argc, char **argv, int positional_min, int positional_max, char ***positional,
              int *positional_count)
{
    enum { COMMON = 4 };
    const char *form = NULL; /* of help */
    bool help = false, seen[CLI_MAX_OPTIONS] = {false};
    const cli_option common[COMMON] = {
        {.name = "db", .kind = CLI_TEXT, .value = &c->store, .metavar = "FILE", .help = "the store of measurements"},
        {.name = "json", .kind = CLI_FLAG, .value = &c->json, .help = "print one JSON object"},
        {.name = "quiet", .kind = CLI_FLAG, .value = &quiet, .help = "no notes and no progress"},
        {.name = "help", .kind = CLI_FLAG, .value = &help, .help = "print this and exit"},
    };
    cli_option all[CLI_MAX_OPTIONS];
    struct option table[CLI_MAX_OPTIONS + 1] = {{0}};
    int count = 0, found;

    for (const cli_option *o = options; o->name && count < CLI_MAX_OPTIONS - COMMON; o++) all[count++] = *o;
    for (int i = 0; i < COMMON; i++) all[count++] = common[i];
    for (int i = 0; i < count; i++) {
        int takes = all[i].value == &help     ? optional_argument
                    : all[i].kind == CLI_FLAG ? no_argument
                                              : required_argument;
        table[i] = (struct option){all[i].name, takes, NULL, 256 + i};
    }

    optind = 0; /* glibc and musl: start afresh, since main has parsed its own part before */
    opterr = 0;
    const char *shorts = positional_max == CLI_REST ? "+:h" : ":h";
    while ((found = getopt_long(argc, argv, shorts, table, NULL)) != -1) {
        if (found == 'h') {
            help = true;
            continue;
        }
        if (found == ':') {
            if (optopt < 256) return cli_misuse(command, "option -%c needs a value", optopt);
            char valid[256];
            const cli_option *o = &all[optopt - 256];
            return cli_misuse(command, "option --%s needs a value: %s", o->name,
                              valid_values(o->kind, valid, sizeof valid));
        }
        if (found == '?' && optopt >= 256)
            return cli_misuse(command, "option --%s takes no value", all[optopt - 256].name);
        if (found == '?' && optopt != 0) {
            char word[] = {'-', (char)optopt, '\0'};
            return tell_unknown(command, word, all, count);
        }
        if (found == '?') return tell_unknown(command, argv[optind - 1], all, count);
        const cli_option *o = &all[found - 256];
        if (o->value == &help) form = optarg;
        if (!read_value(o, optarg)) {
            char valid[256];
            return cli_misuse(command, "--%s '%s': %s", o->name, optarg, valid_values(o->kind, valid, sizeof valid));
        }
        seen[found - 256] = true;
    }
    if (help) {
        return help_print(form, command, synopsis, about, all, count)
                   ? CLI_DONE
                   : cli_misuse(command, "--help '%s': valid: man, options", form);
    }
    int left = argc - optind;
    if (positional_max != CLI_REST && left > positional_max)
        return cli_misuse(command, "unexpected argument '%s'; usage: %s", argv[optind + positional_max], synopsis);
    if (left < positional_min) return cli_misuse(command, "an argument is missing; usage: %s", synopsis);
    for (int i = 0; i < count; i++) {
        if (all[i].required && !seen[i])
            return cli_misuse(command, "--%s %s is required", all[i].name, all[i].metavar ? all[i].metavar : "");
    }
    if (positional) *positional = argv + optind;
    if (positional_count) *positional_count = left;
    return CLI_GO_ON;
}

int cli_pattern(const char *command, const char *text, ks_problem *problem)
{
    ks_status status = ks_pattern_parse(text, problem);
    return status == KS_OK ? CLI_GO_ON : cli_misuse(command, "%s", ks_status_message(status));
}

int cli_readable(const char *command, const char *what, const char *path)
{
    struct stat facts;
    if (stat(path, &facts) == 0 && S_ISDIR(facts.st_mode))
        return cli_misuse(command, "%s '%s': is a directory, not a file", what, path);
    /* access and not open: opening a named pipe and closing it again would end its writer. */
    if (access(path, R_OK) != 0) return cli_misuse(command, "%s '%s': %s", what, path, strerror(errno));
    return CLI_GO_ON;
}

int cli_open(const cli *c, const char *command, const ks_options *options, ks_context **ctx)
{
    char path[4096];
    const char *why = NULL;
    ks_options with_store = *options;
    with_store.store = c->store;
    ks_status status = ks_open(ctx, &with_store);
    if (status == KS_ERR_DEVICE) return cli_no_device(command, options->device, status);
    if (status != KS_OK) return cli_status(status);
    /* No store yet is how everybody starts, so that says nothing; a store named or present that fails does. */
    if (ks_store_status(*ctx, &why) != KS_OK &&
        (c->store || (ks_store_path(NULL, path, sizeof path) == KS_OK && access(path, F_OK) == 0)))
        cli_note("the store of measurements is not used: %s", why ? why : "no reason given");
    else if (ks_store_status(*ctx, &why) == KS_OK && *why)
        cli_note("%s; `ksauto calibrate` looks at what that has changed", why);
    if (ks_decisions_status(*ctx, &why, NULL) != KS_OK) cli_note("the table of decisions is not used: %s", why);
    return CLI_GO_ON;
}
