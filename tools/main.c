/* The command ksauto: options that stand before the command, and the table of commands. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(cli *c, int argc, char **argv);
    const char *summary;
} commands[] = {
    {"advise", cmd_advise, "which path and kernel a problem should take, and why"},
    {"calibrate", cmd_calibrate, "measure this machine, fit the predictor and report its regret"},
    {"fit", cmd_fit, "refit the predictor from what the store holds"},
    {"evaluate", cmd_evaluate, "regret of the advisor on a table of measurements"},
    {"bench", cmd_bench, "time every kernel and auto on a panel of problems"},
    {"matmul", cmd_matmul, "multiply NumPy arrays"},
    {"pin", cmd_pin, "write a table of decisions, for every process to follow"},
    {"db", cmd_db, "the store of measurements: info, path, check, import, export, merge"},
    {"report", cmd_report, "a page of pictures of what is known of a device"},
    {"devices", cmd_devices, "this machine and the devices that advice can be had for"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const char synopsis[] = "ksauto [--db FILE] [--json] COMMAND [ARGUMENT]...";

/* The overview of --help; made from the table, so that a new command is one line above. */
static const char *overview(char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size,
                                   "Multiplies by Kronecker-sparse matrices the fastest way this machine has.\n\n"
                                   "Commands ('ksauto COMMAND --help' says more):");
    for (int i = 0; i < COMMANDS && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "\n  %-9s  %s", commands[i].name, commands[i].summary);
    if (used < size)
        snprintf(text + used, size - used,
                 "\n\nExit status: 0 done, 1 failed, 2 misused. Environment: KSAUTO_DB (the store),\n"
                 "KSAUTO_DECISIONS (what 'ksauto pin' wrote), KSAUTO_NUM_THREADS, KSAUTO_EXPLAIN=1 (one line for "
                 "every new problem).");
    return text;
}

static int run(int argc, char **argv)
{
    cli c = {0};
    bool version = false;
    char about[2048], **rest;
    int count;
    const cli_option options[] = {{"version", CLI_FLAG, &version, NULL, "print the version and exit", false}, {0}};
    int code =
        cli_parse(&c, NULL, synopsis, overview(about, sizeof about), options, argc, argv, 0, CLI_REST, &rest, &count);
    if (code != CLI_GO_ON) return code;
    if (version) {
        printf("ksauto %s\n", ks_version());
        return CLI_DONE;
    }
    if (count && strcmp(rest[0], "help") == 0) { /* "ksauto help db import" is "ksauto db import --help" */
        static char flag[] = "--help";
        for (int i = 0; i + 1 < count; i++) rest[i] = rest[i + 1];
        rest[count - 1] = flag;
        if (count == 1) return run(2, (char *[]){argv[0], flag, NULL});
    }
    char names[256] = "";
    for (int i = 0; i < COMMANDS; i++) {
        if (count && strcmp(rest[0], commands[i].name) == 0) return commands[i].run(&c, count, rest);
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", commands[i].name);
    }
    return count ? cli_unknown(NULL, "command", rest[0], names)
                 : cli_misuse(NULL, "a command is missing; valid: %s", names);
}

int main(int argc, char **argv)
{
    /* The library calls OpenBLAS from threads of its own. OpenBLAS's threads would have nothing to do here, but wait for it
     * busily, for some 30 ms of every start. */
    setenv("OPENBLAS_NUM_THREADS", "1", 0);
    int code = run(argc, argv);
    /* What was printed counts only once it has arrived: a full disk must not look like success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == CLI_DONE)
        code = cli_fail("standard output cannot be written");
    return code;
}
