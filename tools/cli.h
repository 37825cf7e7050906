/* What every subcommand shares: how options are read, how results are printed, how failures are told.
 *
 * A subcommand is one file with one function `int cmd_NAME(cli *, int argc, char **argv)` (argv[0] is its name) that
 * returns the exit code: CLI_DONE, CLI_FAILED or CLI_MISUSED. Results go to standard output, everything else to standard
 * error. Nothing is coloured or animated unless standard error is a terminal. */
#ifndef CLI_H
#define CLI_H

#include "ksauto.h"
#include <cjson/cJSON.h>
#include <stdio.h>

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_MISUSED = 2, CLI_GO_ON = -1 /* of cli_parse and its like: no exit yet */ };

/* The number of the JSON's shape: raised when a field goes or changes its meaning, not when one is added. */
enum { CLI_SCHEMA_VERSION = 1 };

/* What may stand before the command as well as after it; main fills in the one, cli_parse the other. */
typedef struct cli {
    const char *store; /* --db FILE, or NULL */
    bool json;         /* --json */
} cli;

int cmd_advise(cli *c, int argc, char **argv);
int cmd_bench(cli *c, int argc, char **argv);
int cmd_calibrate(cli *c, int argc, char **argv);
int cmd_db(cli *c, int argc, char **argv);
int cmd_devices(cli *c, int argc, char **argv);
int cmd_evaluate(cli *c, int argc, char **argv);
int cmd_fit(cli *c, int argc, char **argv);
int cmd_matmul(cli *c, int argc, char **argv);
int cmd_pin(cli *c, int argc, char **argv);
int cmd_report(cli *c, int argc, char **argv);

/* ---- Failing ---- */

/* Prints "ksauto: message" and returns CLI_FAILED; cli_misuse: "ksauto COMMAND: message" and where help is, CLI_MISUSED
 * (command may be NULL: the command line before any command). cli_note prints "ksauto: note: message",
 * unless --quiet was given. */
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int cli_misuse(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Misuses of which the message is the same everywhere: a word that is none of those in valid ("advise, fit"), with the one that
 * may have been meant; a --device that is not there. */
int cli_unknown(const char *command, const char *what, const char *word, const char *valid);
int cli_no_device(const char *command, const char *device, ks_status status);
/* A status of the library: prints ks_status_message, and of a store what helps; returns CLI_MISUSED for KS_ERR_ARGUMENT,
 * KS_ERR_OVERFLOW and KS_ERR_PARSE, else CLI_FAILED. */
int cli_status(ks_status status);

/* An escape code (look "1" is bold, "0" the end of it) if the stream is a terminal that wants colours, else "". Four at a
 * time. */
const char *cli_look(FILE *stream, const char *look);
int cli_columns(void); /* of the terminal that standard error is, else 80 */
/* Whether long work shows how far it is: on a terminal, without --quiet and --json. */
bool cli_shows_progress(const cli *c);

/* ---- Options: a small table over getopt_long ---- */

typedef enum cli_kind {
    CLI_FLAG,     /* bool */
    CLI_TEXT,     /* const char *, not empty */
    CLI_INT,      /* int64_t, >= 1 */
    CLI_SECONDS,  /* double, > 0; "60", "60s", "2m", "500ms", "1h" */
    CLI_BYTES,    /* int64_t, >= 1; "4096", "512K", "512M", "4G" */
    CLI_FRACTION, /* double, 0 .. 1; "1%" or "0.01" */
    CLI_TYPE,     /* ks_type */
    CLI_TYPES,    /* unsigned, bits: "f32,f16" or "all" */
    CLI_LAYOUT,   /* ks_layout */
    CLI_LAYOUTS,  /* unsigned, bits: "first", "last" or "both" */
    CLI_MATH,     /* ks_math */
    CLI_OBJECTIVE /* ks_objective */
} cli_kind;

typedef struct cli_option {
    const char *name; /* without the dashes; NULL ends the table */
    cli_kind kind;
    void *value;                /* left as it is where the option is not given: initialise it to the default */
    const char *metavar, *help; /* "--name METAVAR  help" */
    bool required;
} cli_option;

/* Every table has --db, --json, --quiet and --help besides its own options, 28 at most. */
enum { CLI_MAX_OPTIONS = 32, CLI_REST = -1 };

/* The words that an option of this kind takes, with blanks between; "" if they cannot be listed. Until the next call. */
const char *cli_words_of(cli_kind kind);

/* Parses argv into the options' values and into c. Positional arguments are left in *positional (argv order), their
 * count in *positional_count, which must lie in [min, max]; with max CLI_REST parsing stops at the first of them and
 * the rest is left untouched. command names the subcommand in messages (NULL before any). Returns CLI_GO_ON, or the exit
 * code to return at once: CLI_DONE after --help (usage is synopsis, about, options), CLI_MISUSED after a message. */
int cli_parse(cli *c, const char *command, const char *synopsis, const char *about, const cli_option *options,
              int argc, char **argv, int positional_min, int positional_max, char ***positional,
              int *positional_count);

/* "A,B,C,D" into problem's a, b, c, d. CLI_GO_ON or CLI_MISUSED. */
int cli_pattern(const char *command, const char *text, ks_problem *problem);

/* CLI_GO_ON if path may be read and is no directory; else CLI_MISUSED, naming what (an option such as
 * "--x", or "FILE"), so that a mistyped name is told apart from a file that fails while being read. */
int cli_readable(const char *command, const char *what, const char *path);

/* ks_open for a command: an unknown --device is a misuse and says where the valid ones are listed; a store that exists
 * and cannot be read is a note on standard error, not a failure. CLI_GO_ON, or the exit code (*ctx is then NULL). */
int cli_open(const cli *c, const char *command, const ks_options *options, ks_context **ctx);

/* ---- Printing ---- */

/* Quantities as people read them, "-" if not finite: "12.3 us", "4.10 mJ", "1.91 TB/s", "37.2 %". */
typedef struct cli_text {
    char s[32];
} cli_text;
cli_text cli_time(double seconds);
cli_text cli_energy(double joules);
cli_text cli_rate(double per_s, const char *unit); /* "B/s", "FLOP/s" with k M G T; "B" and "FLOP" do as well */
cli_text cli_percent(double fraction);

/* Prints the object on standard output with a newline, frees it, returns CLI_DONE (CLI_FAILED if it cannot be written,
 * or if object is NULL for want of memory). */
int cli_print_json(cJSON *object);
cJSON *cli_result_json(void); /* {"schema_version": 1}: what every result starts with */
cJSON *cli_problem_json(const ks_problem *problem);
/* Non-finite numbers become null. */
void cli_add_number(cJSON *object, const char *name, double value);
void cli_add_integer(cJSON *object, const char *name, int64_t value); /* all 64 bits, which cJSON's doubles lose */

/* Adds copy_bytes_per_s and gemm_flops_per_s {dtype: rate}; a rate of 0 is not known and becomes null. */
void cli_add_rates(cJSON *object, double copy_bytes_per_s, const double gemm_flops_per_s[KS_NTYPES]);

/* ---- Regret, as calibrate and evaluate report it (acceptance.c) ---- */

/* {dtype, layout, problems, measured, regret {mean, median, p95, max}, agreement, ratio_threshold, static {always_fused,
 * always_bmm, ratio}}, each of static with the same four. */
cJSON *cli_acceptance_json(const ks_acceptance *acceptance);

/* An aligned table on standard output: for each dtype and layout a line a policy; and one more line for it. */
void cli_print_acceptance(const ks_acceptance *acceptance, int count);
void cli_print_regret(const char *policy, const ks_regret *regret);

cJSON *cli_regret_json(const ks_regret *regret);

#endif
