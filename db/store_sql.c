/* SQLite wrapped into statements and statuses (sql.h). What may go wrong is told apart here: out of memory, locked, read-only,
 * full, damaged, or a disk that fails. With store.c the only files of the library that include sqlite3.h. */
#include "sql.h"
#include "error.h"
#include "trouble.h"

#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

/* --- failures ---------------------------------------------------------------------------------------------- */

ks_status ks_sql_fail(const ks_store *store, int code, const char *doing)
{
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return ks_fail(KS_ERR_MEMORY, "store %s: cannot %s: out of memory", store->path, doing);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ks_store_fail(KS_TROUBLE_LOCKED, store->path,
                             "cannot %s: locked by another process for more than %g s", doing,
                             ks_store_wait_ms(store) / 1000.0);
    case SQLITE_READONLY:
        return ks_store_fail(KS_TROUBLE_READ_ONLY, store->path, "cannot %s: it, or its directory, is read-only",
                             doing);
    case SQLITE_FULL:
        return ks_store_fail(KS_TROUBLE_FULL, store->path, "cannot %s: the disk is full", doing);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_TOOBIG:
        return ks_store_fail(KS_TROUBLE_DAMAGED, store->path, "cannot %s: it is damaged (%s)", doing,
                             sqlite3_errstr(code));
    default:
        break;
    }
    int reason = store->db ? sqlite3_system_errno(store->db) : 0;
    return ks_store_fail(KS_TROUBLE_DISK, store->path, "cannot %s: %s%s%s", doing,
                         store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(code), reason ? ": " : "",
                         reason ? strerror(reason) : "");
}

/* --- statements -------------------------------------------------------------------------------------------- */

ks_status ks_sql_prepare(ks_store *store, const char *text, ks_sql *sql)
{
    *sql = (ks_sql){.store = store};
    int code = sqlite3_prepare_v2(store->db, text, -1, &sql->handle, NULL);
    return code == SQLITE_OK ? KS_OK : ks_sql_fail(store, code, "use its tables");
}

void ks_sql_finish(ks_sql *sql)
{
    sqlite3_finalize(sql->handle); /* its code repeats the step's */
    sql->handle = NULL;
}

static void bound(ks_sql *sql, int code)
{
    if (sql->trouble == SQLITE_OK) sql->trouble = code;
}

void ks_sql_bind_int(ks_sql *sql, int at, int64_t value)
{
    bound(sql, sqlite3_bind_int64(sql->handle, at, value));
}

void ks_sql_bind_real(ks_sql *sql, int at, double value)
{
    bound(sql, isnan(value) ? sqlite3_bind_null(sql->handle, at) : sqlite3_bind_double(sql->handle, at, value));
}

void ks_sql_bind_text(ks_sql *sql, int at, const char *value)
{
    /* copied: a statement outlives the caller's strings */
    bound(sql, value ? sqlite3_bind_text(sql->handle, at, value, -1, SQLITE_TRANSIENT)
                     : sqlite3_bind_null(sql->handle, at));
}

void ks_sql_bind_blob(ks_sql *sql, int at, const void *value, size_t bytes)
{
    bound(sql, value ? sqlite3_bind_blob64(sql->handle, at, value, bytes, SQLITE_TRANSIENT)
                     : sqlite3_bind_null(sql->handle, at));
}

ks_status ks_sql_step(ks_sql *sql, bool *row)
{
    int code = sql->trouble == SQLITE_OK ? sqlite3_step(sql->handle) : sql->trouble;
    *row = code == SQLITE_ROW;
    if (code == SQLITE_ROW) return KS_OK;
    ks_status status =
        code == SQLITE_DONE
            ? KS_OK
            : ks_sql_fail(sql->store, code, sqlite3_stmt_readonly(sql->handle) ? "read it" : "write to it");
    sqlite3_reset(sql->handle);
    sql->trouble = SQLITE_OK;
    return status;
}

ks_status ks_sql_do(ks_sql *sql, bool *changed)
{
    bool row;
    /* total_changes, because changes() keeps the count of an earlier statement where this one changed nothing */
    int before = sqlite3_total_changes(sql->store->db);
    ks_status status = ks_sql_step(sql, &row);
    if (changed) *changed = sqlite3_total_changes(sql->store->db) != before;
    return status;
}

bool ks_sql_int(const ks_sql *sql, int column, int64_t low, int64_t high, int64_t *out)
{
    if (sqlite3_column_type(sql->handle, column) != SQLITE_INTEGER) return false;
    *out = sqlite3_column_int64(sql->handle, column);
    return *out >= low && *out <= high;
}

double ks_sql_real(const ks_sql *sql, int column)
{
    int type = sqlite3_column_type(sql->handle, column);
    if (type != SQLITE_FLOAT && type != SQLITE_INTEGER) return NAN;
    double value = sqlite3_column_double(sql->handle, column);
    return isfinite(value) ? value : NAN;
}

const char *ks_sql_long_text(const ks_sql *sql, int column, size_t limit)
{
    if (sqlite3_column_type(sql->handle, column) != SQLITE_TEXT) return NULL;
    const char *text = (const char *)sqlite3_column_text(sql->handle, column);
    size_t bytes = (size_t)sqlite3_column_bytes(sql->handle, column);
    return text && bytes <= limit && !memchr(text, '\0', bytes) ? text : NULL;
}

bool ks_sql_text(const ks_sql *sql, int column, char *out, size_t size)
{
    const char *text = ks_sql_long_text(sql, column, size - 1);
    if (text) memcpy(out, text, strlen(text) + 1);
    return text != NULL;
}

const void *ks_sql_blob(const ks_sql *sql, int column, size_t *bytes)
{
    *bytes = 0;
    if (sqlite3_column_type(sql->handle, column) != SQLITE_BLOB) return NULL;
    const void *blob = sqlite3_column_blob(sql->handle, column);
    *bytes = (size_t)sqlite3_column_bytes(sql->handle, column);
    return blob;
}

ks_status ks_sql_exec(ks_store *store, const char *text)
{
    int code = sqlite3_exec(store->db, text, NULL, NULL, NULL);
    return code == SQLITE_OK ? KS_OK : ks_sql_fail(store, code, ks_store_writes(store) ? "write to it" : "read it");
}

ks_status ks_sql_one_int(ks_store *store, const char *text, int64_t *out)
{
    ks_sql sql;
    bool row = false;
    *out = 0;
    ks_status status = ks_sql_prepare(store, text, &sql);
    if (status == KS_OK) status = ks_sql_step(&sql, &row);
    if (row && !ks_sql_int(&sql, 0, INT64_MIN, INT64_MAX, out)) *out = 0;
    ks_sql_finish(&sql);
    return status;
}

ks_status ks_sql_begin(ks_store *store)
{
    if (!ks_store_writes(store))
        return ks_store_fail(KS_TROUBLE_READ_ONLY, store->path, "was opened for reading only");
    ks_store_let_others(store);
    return ks_sql_exec(store, "BEGIN IMMEDIATE");
}

ks_status ks_sql_end(ks_store *store, ks_status status)
{
    if (status == KS_OK) status = ks_sql_exec(store, "COMMIT");
    /* not ks_sql_exec: the first failure's message is the one to keep. Full disks roll back by themselves. */
    if (status != KS_OK && !sqlite3_get_autocommit(store->db)) sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}
