/* Stores for the tests of stores: opening or failing the test, one plausible measurement, and collecting visitors. */
#ifndef KS_STORES_H
#define KS_STORES_H

#include "sandbox.h"
#include "sql.h"

#include <stdio.h>
#include <unistd.h>

ks_store *opened(const char *path, ks_store_mode mode);
ks_measurement measurement(int64_t a);
void add(ks_store *store, int64_t a);
ks_store_info info_of(ks_store *store);
void assert_sound(ks_store *store);
void assert_same_problem(const ks_problem *p, const ks_problem *q); /* every field; padding may differ */
void exec(ks_store *store, const char *sql);

/* A closed store with rows 1, 2, ... */
void make_store(const char *path, int rows);
/* That opening fails, names path and part (or NULL), and leaves the file as it was. */
void assert_refused(const char *path, ks_store_mode mode, const char *part);

typedef struct seen {
    int count;
    ks_measurement rows[8];
    int stop_after;
} seen;

bool see(void *user, const ks_measurement *m);

/* For child processes, where cmocka's assertions cannot be used. */
#define MUST(condition)                                                                                              \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                          \
            fprintf(stderr, "%s\n", ks_status_message(KS_ERR_STORE));                                                \
            _exit(1);                                                                                                \
        }                                                                                                            \
    } while (0)

#endif
