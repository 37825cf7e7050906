/* Between cmd_bench.c, chains.c and dispatch.c. */
#ifndef BENCH_H
#define BENCH_H

#include "cli.h"

/* ksauto bench --dispatch: what a decision costs. */
int bench_dispatch(const cli *c, const char *device);

/* ksauto bench --chains: how long chains take, as planned and otherwise; `path` is the panel's. */
int bench_chains(const cli *c, const char *device, const char *path);

#endif
