/* Chains of Kronecker-sparse factors, as `ksauto advise --search` finds them, and as they are measured. */
#ifndef SEARCH_H
#define SEARCH_H

#include "cli.h"

enum { SEARCH_LONGEST = 4 };

typedef struct search_factor {
    ks_problem problem;
    char kernel[KS_NAME_BYTES];
    double time_s; /* predicted */
} search_factor;

/* W = factor[0] factor[1] ...: the last one is applied first. */
typedef struct search_chain {
    int length;
    search_factor factor[SEARCH_LONGEST];
    double parameters, time_s, measured_s;
} search_chain;

int cmd_search(cli *c, int argc, char **argv);

/* Runs each chain on random numbers, in host memory, and fills in measured_s: the median of its runs, of which those of all chains
 * take turns. KS_ERR_UNSUPPORTED unless the context multiplies on a CPU. */
ks_status search_measure(ks_context *ctx, search_chain *chains, int count);

#endif
