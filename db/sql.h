/* SQLite as the rest of db/ sees it: statements that are prepared, bound, stepped and read, and failures that are
 * statuses with a message. Internal to db/ (and its tests); implemented by store_sql.c, which with store.c is all that
 * includes sqlite3.h. */
#ifndef KS_SQL_H
#define KS_SQL_H

#include "store.h"

struct sqlite3;
struct sqlite3_stmt;

struct ks_store {
    struct sqlite3 *db;
    char *path; /* as given, for messages */
    ks_store_mode mode;
    int wait_ms; /* longest wait for a lock */
    int64_t waiting_since_ms, contended_at_ms;
};

/* One statement. Binding cannot fail by itself: the first trouble is kept and reported by ks_sql_step. Zeroed is
 * valid to finish. */
typedef struct ks_sql {
    ks_store *store;
    struct sqlite3_stmt *handle;
    int trouble;
} ks_sql;

/* ks_store_open's second half, with the file system's kind given by the caller: tests have no network at hand. */
ks_status ks_store_open_on(ks_store **store, const char *path, ks_store_mode mode, bool network);

bool ks_store_writes(const ks_store *store);
int ks_store_wait_ms(const ks_store *store); /* for a lock */

/* Where others were met at the lock, leaves it to them for longer than they take to look again: who writes row after row would
 * take it back each time before they do. */
void ks_store_let_others(const ks_store *store);

/* SQLite's code as a status, and what it means for whoever was doing that. */
ks_status ks_sql_fail(const ks_store *store, int code, const char *doing);

ks_status ks_sql_prepare(ks_store *store, const char *text, ks_sql *sql);
void ks_sql_finish(ks_sql *sql);

/* Parameters count from 1. NaN binds NULL, and so does a NULL pointer. */
void ks_sql_bind_int(ks_sql *sql, int at, int64_t value);
void ks_sql_bind_real(ks_sql *sql, int at, double value);
void ks_sql_bind_text(ks_sql *sql, int at, const char *value);
void ks_sql_bind_blob(ks_sql *sql, int at, const void *value, size_t bytes);

/* *row: whether there is a row to read. After the last row, or a failure, the statement is reset for other values. */
ks_status ks_sql_step(ks_sql *sql, bool *row);
/* Steps a statement that returns no rows; *changed (may be NULL) says whether it changed any. */
ks_status ks_sql_do(ks_sql *sql, bool *changed);

/* Columns count from 0. A column that is not of the asked kind is false, or NaN: the file may be anyone's work.
 * Text must fit out with its NUL and contain none. */
bool ks_sql_int(const ks_sql *sql, int column, int64_t low, int64_t high, int64_t *out);
double ks_sql_real(const ks_sql *sql, int column); /* NaN for NULL and everything that is no finite number */
bool ks_sql_text(const ks_sql *sql, int column, char *out, size_t size);
const char *ks_sql_long_text(const ks_sql *sql, int column, size_t limit); /* NULL if not text; until the next step */
const void *ks_sql_blob(const ks_sql *sql, int column, size_t *bytes);     /* NULL if none; until the next step */

/* Fixed texts: pragmas, schema. */
ks_status ks_sql_exec(ks_store *store, const char *text);
ks_status ks_sql_one_int(ks_store *store, const char *text, int64_t *out);

/* Takes the write lock at once, so that a transaction that starts can also end. */
ks_status ks_sql_begin(ks_store *store);
/* Commits if status is KS_OK, else rolls back and keeps status (and its message). */
ks_status ks_sql_end(ks_store *store, ks_status status);

#endif
