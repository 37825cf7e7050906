/* The CPU's energy counters, where the system has them and lets us read them (Linux powercap, "RAPL"). */
#ifndef KS_RAPL_H
#define KS_RAPL_H

#include <stdint.h>

enum { KS_RAPL_ZONES = 64, KS_RAPL_PATH = 512 };

/* One counter: microjoules that go back to 0 beyond a range. */
typedef struct ks_rapl_zone {
    char path[KS_RAPL_PATH]; /* of its energy_uj */
    uint64_t last, range;
} ks_rapl_zone;

typedef struct ks_rapl {
    int count; /* 0: nothing to be read */
    ks_rapl_zone zones[KS_RAPL_ZONES];
    double joules; /* since it was opened, up to the last reading */
} ks_rapl;

/* Finds the counters below root ("/sys/class/powercap"). Where one of them cannot be read there are none: a part of the
 * energy would be taken for all of it. */
void ks_rapl_open(ks_rapl *rapl, const char *root);

/* Joules since ks_rapl_open; NaN where there are no counters, and from the moment on that one can no longer be read. To be
 * called more often than counters go round (minutes). */
double ks_rapl_read(ks_rapl *rapl);

#endif
