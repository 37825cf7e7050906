/* What evaluate reports of one device, type and layout, as text and as JSON. */
#ifndef REPORT_H
#define REPORT_H

#include "cli.h"

#include "replay.h"
#include "validate.h"

typedef struct cli_report {
    const char *device;
    const ks_cases *cases; /* all that the advice was judged by, or was learned from */
    ks_acceptance acceptance;
    ks_regret learners[KS_NLEARNERS]; /* the others; no problems: not asked for */
    ks_reliability reliability;
    ks_group groups[KS_GROUPS];
    int group_count;
} cli_report;

/* cli_acceptance_json's object, with device, quarantined (how many), quarantine [{problem, kernel, value,
 * expected, reason}], learners {name: regret}, reliability {problems, brier,
 * expected_regret, realised_regret, bins [{from, to, problems, confidence, right}]} and groups [{d_is_1, batch, problems,
 * advisor, always_fused, always_bmm}]. */
cJSON *cli_report_json(const cli_report *report);

/* The same as tables on standard output; another report comes before it. */
void cli_print_report(const cli_report *report, bool another);
void cli_print_reliability(const ks_reliability *reliability);

/* ---- Replays (replay.c) ---- */

/* "1,2,4": rising numbers, KS_REPLAY_MOST at most. CLI_GO_ON or CLI_MISUSED. */
int cli_replay_parse(const char *command, const char *text, ks_replay_options *options);

/* What each design makes of the cases, as a table, or as an object {device, dtype, layout, draws, budgets [{seconds, NAME:
 * {measured, regret}}]} that is added to the list, where there is one. */
ks_status cli_replay(const ks_rows *rows, const ks_cases *cases, const ks_device *device,
                     const ks_replay_options *options, cJSON *list);

#endif
