/* What evaluate reports of one device, type and layout, as text and as JSON. */
#ifndef REPORT_H
#define REPORT_H

#include "cli.h"

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

#endif
