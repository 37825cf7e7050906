/* Memory that runs out: malloc and its kin in the tests' executable itself, so that the library, SQLite, cJSON, GSL and the C
 * library all use it. A failure can be asked for at any allocation of the calling thread, and what it does not give back is
 * counted. Link bad_memory.c into the executable that needs it; sanitizers have allocators of their own and cannot go with
 * it. */
#ifndef KS_TESTS_BAD_MEMORY_H
#define KS_TESTS_BAD_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* From now on allocations of this thread count; of each place in the code (by the last few callers) the first one is remembered.
 * Then memory_sites() are known. */
void memory_watch(void);
/* From now on allocation number `at` (from 0) fails, and all that follow, unless once. */
void memory_fail(int64_t at, bool once);
/* Neither any more; returns how many allocations there were. */
int64_t memory_stop(void);
bool memory_failed(void);
/* How many more blocks that thread has taken than given back, since counting began: what leaked. */
int64_t memory_balance(void);

/* What the last watch has found: number of places, and the first allocation of each. */
int memory_sites(void);
int64_t memory_site(int i);

#endif
