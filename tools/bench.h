/* Between cmd_bench.c and dispatch.c. */
#ifndef BENCH_H
#define BENCH_H

#include "cli.h"

/* ksauto bench --dispatch: what a decision costs. */
int bench_dispatch(const cli *c, const char *device);

#endif
