/* Rows as the files of db/ pass them among each other. Internal to db/. */
#ifndef KS_TABLES_H
#define KS_TABLES_H

#include "sql.h"

/* A measurement with what the public struct leaves out. */
typedef struct ks_row {
    ks_measurement m;
    char cache_state[16];
    double clock_hz;
    const void *raw; /* samples x float64, little-endian; NULL if none */
    size_t raw_bytes;
} ks_row;

/* What is wrong with a measurement as a short phrase ("time_s is -1, ..."), or NULL. The phrase may lie in text. */
const char *ks_measurement_fault(const ks_measurement *m, char *text, size_t size);

bool ks_family_from_name(const char *name, ks_family *family);
bool ks_status_from_name(const char *name, ks_status *status);

/* The query whose columns ks_row_read reads; ?1 is a device's name, or NULL for all. Column 0 is the row's id. */
extern const char ks_row_columns[], ks_row_columns_backwards[];
/* What is wrong with the row that sql stands on, or NULL. Leaves raw alone: it lies in pages of its own, to be read
 * only by those who want it. */
const char *ks_row_read(const ks_sql *sql, ks_row *out, char *text, size_t size);
/* Adds raw, valid until the next step, to what ks_row_read has read. */
const char *ks_row_read_raw(const ks_sql *sql, ks_row *out);

/* Statements that add rows, prepared once a transaction, which the caller begins and ends. */
typedef struct ks_adder {
    ks_sql device, kernel, row;
} ks_adder;

/* Drops the samples of rows that are older than the newest KS_RAW_ROWS, of the `window` next older ones; their summaries
 * stay. Inside the caller's transaction. */
enum { KS_RAW_ROWS = 20000 };
ks_status ks_rows_thin(ks_store *store, int64_t window);

ks_status ks_adder_open(ks_store *store, ks_adder *add);
void ks_adder_close(ks_adder *add);
/* *added is raised by one unless the row was there already. */
ks_status ks_adder_add(ks_adder *add, const ks_row *row, int64_t *added);

/* Inside the caller's transaction. keep: facts that are there already stay, and a model gives way to a newer one only;
 * else they are replaced. */
ks_status ks_device_row_put(ks_store *store, const ks_device *device, bool keep);
ks_status ks_model_row_put(ks_store *store, const ks_model_row *model, bool keep);

#endif
