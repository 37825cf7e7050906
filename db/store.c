/* The store's connection: opening, refusing, migrating, and SQLite wrapped into statements and statuses (sql.h).
 * measurements.c and devices.c say what is in the tables; this is the only file of the project that includes sqlite3.h.
 *
 * Opening is where the promises are kept. A file that is not ours must come out byte for byte as it went in, and
 * SQLite alone cannot promise that: reading a database rolls back its hot journal, closing one checkpoints its
 * write-ahead log. So the header is read through SQLite's own file handle before SQLite looks at it. (Not through an
 * open() of our own: closing that would drop the POSIX locks which SQLite holds on the same file elsewhere in the
 * process.) The application id is written in the transaction that creates the schema, in rollback mode and before the
 * switch to WAL; hence a store killed while being created is empty or whole, and the main file's header always names
 * the owner, whatever the log holds.
 *
 * Journal: WAL, so that advice can be read while a calibration writes; but its shared memory does not work across
 * hosts, so rollback journals on network file systems. synchronous=FULL in both: a measurement costs more than a
 * sync. Readers wait 0.2 s for a lock (a matmul's context waits for them), writers 5 s. */
#include "sql.h"
#include "error.h"
#include "place.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef KS_SCHEMA_PATH
#    error "the build must define KS_SCHEMA_PATH as the absolute path of db/schema.sql, a string"
#endif

/* schema.sql as text, so that it is read and edited as SQL. */
__asm__(".pushsection .rodata\n"
        ".globl ks_schema_text\n"
        ".hidden ks_schema_text\n"
        ".type ks_schema_text, %object\n"
        "ks_schema_text:\n"
        ".incbin \"" KS_SCHEMA_PATH "\"\n"
        ".byte 0\n"
        ".size ks_schema_text, . - ks_schema_text\n"
        ".popsection\n");
extern const char ks_schema_text[] __attribute__((visibility("hidden")));

/* migrations[v] takes schema v to v + 1. Forward only; a released entry is never edited. */
static const char *const migrations[] = {ks_schema_text};

enum {
    SCHEMA = sizeof migrations / sizeof migrations[0],
    APPLICATION_ID = 0x6b736175, /* "ksau" */
    HEADER_BYTES = 100,          /* of an SQLite file: https://www.sqlite.org/fileformat.html */
    READER_WAIT_MS = 200,
    WRITER_WAIT_MS = 5000
};

/* What the header says before SQLite has read anything. */
typedef struct header {
    bool empty; /* 0 bytes: no database yet */
    bool wal;
} header;

/* --- failures ---------------------------------------------------------------------------------------------- */

static ks_status fail_code(const ks_store *store, int code, const char *doing)
{
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return ks_fail(KS_ERR_MEMORY, "store %s: cannot %s: out of memory", store->path, doing);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ks_fail(KS_ERR_STORE, "store %s: cannot %s: locked by another process for more than %g s", store->path,
                       doing, (store->mode == KS_STORE_READ ? READER_WAIT_MS : WRITER_WAIT_MS) / 1000.0);
    case SQLITE_READONLY:
        return ks_fail(KS_ERR_STORE, "store %s: cannot %s: it, or its directory, is read-only", store->path, doing);
    case SQLITE_FULL:
        return ks_fail(KS_ERR_STORE, "store %s: cannot %s: the disk is full", store->path, doing);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ks_fail(KS_ERR_STORE, "store %s: cannot %s: it is damaged (%s)", store->path, doing,
                       sqlite3_errstr(code));
    default:
        break;
    }
    int reason = store->db ? sqlite3_system_errno(store->db) : 0;
    return ks_fail(KS_ERR_STORE, "store %s: cannot %s: %s%s%s", store->path, doing,
                   store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(code), reason ? ": " : "",
                   reason ? strerror(reason) : "");
}

/* --- statements -------------------------------------------------------------------------------------------- */

ks_status ks_sql_prepare(ks_store *store, const char *text, ks_sql *sql)
{
    *sql = (ks_sql){.store = store};
    int code = sqlite3_prepare_v2(store->db, text, -1, &sql->handle, NULL);
    return code == SQLITE_OK ? KS_OK : fail_code(store, code, "use its tables");
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
            : fail_code(sql->store, code, sqlite3_stmt_readonly(sql->handle) ? "read it" : "write to it");
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
    return code == SQLITE_OK ? KS_OK
                             : fail_code(store, code, store->mode == KS_STORE_READ ? "read it" : "write to it");
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
    if (store->mode == KS_STORE_READ)
        return ks_fail(KS_ERR_STORE, "store %s: was opened for reading only", store->path);
    return ks_sql_exec(store, "BEGIN IMMEDIATE");
}

ks_status ks_sql_end(ks_store *store, ks_status status)
{
    if (status == KS_OK) status = ks_sql_exec(store, "COMMIT");
    /* not ks_sql_exec: the first failure's message is the one to keep. Full disks roll back by themselves. */
    if (status != KS_OK && !sqlite3_get_autocommit(store->db)) sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* --- opening ----------------------------------------------------------------------------------------------- */

/* "file:...?immutable=1" for a path with any bytes; the caller frees. */
static char *immutable_uri(const char *path)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-";
    char *uri = malloc(3 * strlen(path) + sizeof "file://./?immutable=1");
    if (!uri) return NULL;
    char *to = uri + sprintf(uri, *path == '/' ? "file://" : "file:./");
    for (; *path; path++) {
        if (strchr(plain, *path))
            *to++ = *path;
        else
            to += sprintf(to, "%%%02X", (unsigned)(unsigned char)*path);
    }
    strcpy(to, "?immutable=1");
    return uri;
}

static void disconnect(ks_store *store)
{
    sqlite3_close(store->db);
    store->db = NULL;
}

/* Opens the file and reads nothing of it. */
static ks_status connect_to(ks_store *store, int flags, bool immutable)
{
    char *name = NULL;
    if (immutable)
        name = immutable_uri(store->path);
    else if ((name = malloc(strlen(store->path) + 3)))
        /* "./" takes the magic out of ":memory:" and "file:..." */
        sprintf(name, "%s%s", *store->path == '/' ? "" : "./", store->path);
    if (!name) return ks_fail(KS_ERR_MEMORY, "store %s: out of memory", store->path);

    int code =
        sqlite3_open_v2(name, &store->db, flags | SQLITE_OPEN_NOMUTEX | (immutable ? SQLITE_OPEN_URI : 0), NULL);
    free(name);
    if (code != SQLITE_OK) return fail_code(store, code, "open it");
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, store->mode == KS_STORE_READ ? READER_WAIT_MS : WRITER_WAIT_MS);
    /* the file may be anyone's work: no functions from its schema, no writing to it behind SQL's back */
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    /* until it is known to be ours and of our schema, closing must not move the log into it */
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return KS_OK;
}

static uint32_t big_endian(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static ks_status fail_newer(const ks_store *store, int64_t version)
{
    return ks_fail(KS_ERR_STORE, "store %s: has schema %lld, this library knows schema %d: a newer ksauto made it",
                   store->path, (long long)version, (int)SCHEMA);
}

static ks_status read_header(ks_store *store, header *out)
{
    unsigned char bytes[HEADER_BYTES] = {0};
    sqlite3_file *file = NULL;
    sqlite3_int64 size = 0;
    int code = sqlite3_file_control(store->db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    if (code == SQLITE_OK && (!file || !file->pMethods)) code = SQLITE_CANTOPEN;
    if (code == SQLITE_OK) code = file->pMethods->xFileSize(file, &size);
    if (code == SQLITE_OK && size > 0) code = file->pMethods->xRead(file, bytes, HEADER_BYTES, 0);
    if (code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ) return fail_code(store, code, "read it");

    *out = (header){.empty = size == 0, .wal = bytes[18] == 2 || bytes[19] == 2};
    if (out->empty && store->mode == KS_STORE_READ)
        return ks_fail(KS_ERR_STORE, "store %s: is empty (0 bytes)", store->path);
    if (out->empty) return KS_OK;
    if (memcmp(bytes, "SQLite format 3", 16) != 0)
        return ks_fail(KS_ERR_STORE, "store %s: not a ksauto store, and no SQLite file at all", store->path);
    if (big_endian(bytes + 68) != APPLICATION_ID)
        return ks_fail(KS_ERR_STORE, "store %s: not a ksauto store but an SQLite file with application id %u",
                       store->path, big_endian(bytes + 68));
    if ((int32_t)big_endian(bytes + 60) > SCHEMA) return fail_newer(store, (int32_t)big_endian(bytes + 60));
    return KS_OK;
}

/* The connection's first read, where journals and logs come into play. Returns SQLite's code. */
static int first_read(ks_store *store, int64_t *version)
{
    sqlite3_stmt *handle = NULL;
    int code = sqlite3_prepare_v2(store->db, "PRAGMA user_version", -1, &handle, NULL);
    if (code != SQLITE_OK) return code;
    if (sqlite3_step(handle) == SQLITE_ROW) *version = sqlite3_column_int64(handle, 0);
    return sqlite3_finalize(handle);
}

static bool log_is_empty(ks_store *store)
{
    const char *name = sqlite3_db_filename(store->db, "main"); /* links resolved */
    struct stat facts;
    bool empty = true;
    char *log = name ? malloc(strlen(name) + 5) : NULL;
    if (!log) return false;
    sprintf(log, "%s-wal", name);
    if (stat(log, &facts) == 0) empty = facts.st_size == 0;
    free(log);
    return empty;
}

static ks_status open_reading(ks_store *store)
{
    header head;
    int64_t version = 0;
    ks_status status = connect_to(store, SQLITE_OPEN_READONLY, false);
    if (status == KS_OK) status = read_header(store, &head);
    if (status != KS_OK) return status;

    int code = first_read(store, &version);
    if (code == SQLITE_READONLY_ROLLBACK || code == SQLITE_READONLY_RECOVERY) {
        /* a writer was killed: what it left behind can only be undone by one who may write */
        disconnect(store);
        status = connect_to(store, SQLITE_OPEN_READWRITE, false);
        if (status != KS_OK) return status;
        code = first_read(store, &version);
    } else if (((code & 0xff) == SQLITE_CANTOPEN || (code & 0xff) == SQLITE_READONLY) && head.wal) {
        /* A WAL store in a directory where its shared memory cannot be made. If nothing waits in the log, the file
         * alone is the whole truth; else it may be half-way through a checkpoint, and is left alone. */
        if (!log_is_empty(store))
            return ks_fail(KS_ERR_STORE, "store %s: its log (-wal) cannot be read in a read-only directory",
                           store->path);
        disconnect(store);
        status = connect_to(store, SQLITE_OPEN_READONLY, true);
        if (status != KS_OK) return status;
        code = first_read(store, &version);
    }
    if (code != SQLITE_OK) return fail_code(store, code, "read it");
    if (version > SCHEMA) return fail_newer(store, version);
    if (version < SCHEMA)
        return ks_fail(KS_ERR_STORE,
                       "store %s: has schema %lld, this library reads schema %d: opening it for writing (`ksauto db "
                       "import`, `ksauto calibrate`) brings it forward",
                       store->path, (long long)version, (int)SCHEMA);
    return ks_sql_exec(store, "PRAGMA query_only = 1");
}

/* Brings the schema forward, all steps or none. Everything is looked at again under the write lock: another process
 * may have done it meanwhile. */
static ks_status migrate(ks_store *store)
{
    int64_t owner, version, objects;
    ks_status status = ks_sql_begin(store);
    if (status != KS_OK) return status;
    if ((status = ks_sql_one_int(store, "PRAGMA application_id", &owner)) != KS_OK) goto end;
    if ((status = ks_sql_one_int(store, "PRAGMA user_version", &version)) != KS_OK) goto end;
    if ((status = ks_sql_one_int(store, "SELECT count(*) FROM sqlite_master", &objects)) != KS_OK) goto end;
    if (owner != APPLICATION_ID && (owner != 0 || version != 0 || objects != 0)) {
        status = ks_fail(KS_ERR_STORE, "store %s: not a ksauto store but an SQLite file with application id %lld",
                         store->path, (long long)owner);
        goto end;
    }
    if (version > SCHEMA) {
        status = fail_newer(store, version);
        goto end;
    }
    if (version == SCHEMA) goto end;
    for (int64_t step = version < 0 ? 0 : version; step < SCHEMA; step++)
        if ((status = ks_sql_exec(store, migrations[step])) != KS_OK) goto end;

    char pragmas[96]; /* pragmas take no parameters; both values are this file's own */
    sprintf(pragmas, "PRAGMA application_id = %d; PRAGMA user_version = %d", (int)APPLICATION_ID, (int)SCHEMA);
    status = ks_sql_exec(store, pragmas);
end:
    return ks_sql_end(store, status);
}

static ks_status set_journal(ks_store *store, bool network)
{
    ks_sql sql;
    bool row = false;
    char now[16] = "";
    /* changing it needs the file for oneself for a moment; where WAL must wait for that, the next open gets it */
    sqlite3_busy_timeout(store->db, READER_WAIT_MS);
    ks_status status =
        ks_sql_prepare(store, network ? "PRAGMA journal_mode = DELETE" : "PRAGMA journal_mode = WAL", &sql);
    if (status == KS_OK) status = ks_sql_step(&sql, &row);
    if (row) ks_sql_text(&sql, 0, now, sizeof now);
    ks_sql_finish(&sql);
    sqlite3_busy_timeout(store->db, WRITER_WAIT_MS);
    if (network && strcmp(now, "delete") != 0)
        return ks_fail(KS_ERR_STORE,
                       "store %s: is on a network file system with a write-ahead log that another process holds",
                       store->path);
    return ks_sql_exec(store, "PRAGMA synchronous = FULL; PRAGMA foreign_keys = 1; PRAGMA cell_size_check = 1");
}

static ks_status open_writing(ks_store *store, bool network)
{
    header head;
    int64_t version = 0;
    ks_status status = connect_to(store, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, false);
    if (status == KS_OK && sqlite3_db_readonly(store->db, "main") == 1) /* SQLite opens such files without a word */
        status = ks_fail(KS_ERR_STORE, "store %s: is read-only", store->path);
    if (status == KS_OK) status = read_header(store, &head);
    if (status != KS_OK) return status;
    /* a WAL store that was moved to a network: one process can take it over without shared memory */
    bool take_over = network && head.wal;
    if (take_over && (status = ks_sql_exec(store, "PRAGMA locking_mode = EXCLUSIVE")) != KS_OK) return status;

    if ((status = ks_sql_one_int(store, "PRAGMA user_version", &version)) != KS_OK) return status;
    if (version > SCHEMA) return fail_newer(store, version);
    if (version < SCHEMA && (status = migrate(store)) != KS_OK) return status;
    if ((status = set_journal(store, network)) != KS_OK) return status;
    if (take_over) {
        if ((status = ks_sql_exec(store, "PRAGMA locking_mode = NORMAL")) != KS_OK) return status;
        if ((status = ks_sql_one_int(store, "PRAGMA user_version", &version)) != KS_OK) return status; /* unlocks */
    }
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    return KS_OK;
}

ks_status ks_store_open_on(ks_store **store, const char *path, ks_store_mode mode, bool network)
{
    *store = calloc(1, sizeof **store);
    if (!*store || !((*store)->path = strdup(path))) {
        ks_store_close(*store);
        *store = NULL;
        return ks_fail(KS_ERR_MEMORY, "store %s: out of memory", path);
    }
    (*store)->mode = mode;
    ks_status status = mode == KS_STORE_READ ? open_reading(*store) : open_writing(*store, network);
    if (status != KS_OK) {
        ks_store_close(*store);
        *store = NULL;
    }
    return status;
}

ks_status ks_store_open(ks_store **store, const char *path, ks_store_mode mode)
{
    bool network;
    *store = NULL;
    ks_status status = ks_place_check(path, mode, &network);
    return status == KS_OK ? ks_store_open_on(store, path, mode, network) : status;
}

void ks_store_close(ks_store *store)
{
    if (!store) return;
    disconnect(store);
    free(store->path);
    free(store);
}
