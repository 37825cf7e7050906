/* The store's connection: opening, refusing, migrating. store_sql.c wraps SQLite's statements, measurements.c and devices.c say
 * what is in the tables.
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
 * hosts, so rollback journals on network file systems. synchronous=EXTRA in both: a measurement costs more than a
 * sync, and FULL leaves out the directory's, so that a rollback journal may be back after power was lost, and with it what
 * was there before the commit. Readers wait 0.2 s for a lock (a matmul's context waits for them), writers 30 s.
 *
 * Before anything is written the whole file is looked at (quick_check): a row put into a damaged file may be lost, or be the
 * loss of others.
 *
 * A file's schema may be anyone's work, and SQL is a program: a view under a table's name may never end, a trigger may delete
 * what is added. So neither is run, the tables must be tables and their columns stored, and no value may be huge. */
#include "sql.h"
#include "error.h"
#include "place.h"
#include "trouble.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

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
    LONGEST_VALUE = 64 << 20,    /* bytes; the longest that is stored is a model, of 16 MiB at most */
    READER_WAIT_MS = 200,
    WRITER_WAIT_MS = 30000,
    LOOK_EVERY_MS = 3
};

bool ks_store_writes(const ks_store *store)
{
    return store->mode == KS_STORE_WRITE || store->mode == KS_STORE_WRITE_BRIEFLY;
}

int ks_store_wait_ms(const ks_store *store)
{
    return store->mode == KS_STORE_WRITE ? WRITER_WAIT_MS : READER_WAIT_MS;
}

/* What the header says before SQLite has read anything. */
typedef struct header {
    bool empty; /* 0 bytes: no database yet */
    bool wal;
    int64_t size;
    uint32_t page_bytes;
} header;

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

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ms(int ms)
{
    const struct timespec pause = {0, ms * 1000000};
    nanosleep(&pause, NULL);
}

/* Called for as long as a lock is not to be had: whether to try again. SQLite's own handler looks ever more rarely, so that
 * among many writers those who have waited longest wait for ever; here all look equally often. (Every 0.2 ms, thirteen who
 * waited left the one who held the lock no time to work.) */
static int lock_is_busy(void *user, int turn)
{
    ks_store *store = user;
    store->contended_at_ms = now_ms();
    if (turn == 0) store->waiting_since_ms = store->contended_at_ms;
    if (store->contended_at_ms - store->waiting_since_ms >= store->wait_ms) return 0;
    sleep_ms(LOOK_EVERY_MS);
    return 1;
}

void ks_store_let_others(const ks_store *store)
{
    if (store->contended_at_ms > 0 && now_ms() - store->contended_at_ms < 1000) sleep_ms(LOOK_EVERY_MS + 1);
}

static void wait_for_locks(ks_store *store, int ms)
{
    store->wait_ms = ms;
    sqlite3_busy_handler(store->db, lock_is_busy, store);
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
    if (code != SQLITE_OK) return ks_sql_fail(store, code, "open it");
    sqlite3_extended_result_codes(store->db, 1);
    wait_for_locks(store, ks_store_wait_ms(store));
    /* the file may be anyone's work: nothing that its schema says is run, no writing to it behind SQL's back */
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    sqlite3_limit(store->db, SQLITE_LIMIT_LENGTH, LONGEST_VALUE);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, store->mode != KS_STORE_SALVAGE, NULL);
    /* with this SQLite opens a file that was cut short, too; the connection is read-only */
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_WRITABLE_SCHEMA, store->mode == KS_STORE_SALVAGE, NULL);
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
    return ks_store_fail(KS_TROUBLE_NEWER, store->path,
                         "has schema %lld, this library knows schema %d: a newer ksauto made it", (long long)version,
                         (int)SCHEMA);
}

/* The store's companion of that suffix; malloc'ed. */
static char *beside(const ks_store *store, const char *suffix)
{
    const char *name = sqlite3_db_filename(store->db, "main"); /* links resolved */
    char *path = name ? malloc(strlen(name) + strlen(suffix) + 1) : NULL;
    if (path) sprintf(path, "%s%s", name, suffix);
    return path;
}

/* Whether power was lost while the store was being made: its first sector has not reached the disk, and the journal beside
 * it says that there was nothing before. SQLite will go back to that. */
static bool is_unfinished(const ks_store *store, const unsigned char bytes[HEADER_BYTES])
{
    static const unsigned char magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
    unsigned char start[20] = {0};
    for (int i = 0; i < HEADER_BYTES; i++)
        if (bytes[i]) return false;
    char *path = beside(store, "-journal");
    FILE *journal = path ? fopen(path, "rbe") : NULL;
    const bool read = journal && fread(start, 1, sizeof start, journal) == sizeof start;
    if (journal) fclose(journal);
    free(path);
    return read && memcmp(start, magic, sizeof magic) == 0 && big_endian(start + 16) == 0 /* pages before */;
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
    if (code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ) return ks_sql_fail(store, code, "read it");

    *out = (header){
        .empty = size == 0 || is_unfinished(store, bytes), .wal = bytes[18] == 2 || bytes[19] == 2, .size = size};
    out->page_bytes = (uint32_t)bytes[16] << 8 | bytes[17];
    if (out->page_bytes < 512) out->page_bytes = 65536; /* written as 1 */
    if (out->empty && !ks_store_writes(store))
        return ks_store_fail(KS_TROUBLE_MISSING, store->path,
                             size == 0 ? "is empty (0 bytes)" : "was being made when the machine stopped");
    if (out->empty) return KS_OK;
    if (memcmp(bytes, "SQLite format 3", 16) != 0)
        return ks_store_fail(KS_TROUBLE_FOREIGN, store->path, "not a ksauto store, and no SQLite file at all");
    if (big_endian(bytes + 68) != APPLICATION_ID)
        return ks_store_fail(KS_TROUBLE_FOREIGN, store->path,
                             "not a ksauto store but an SQLite file with application id %u", big_endian(bytes + 68));
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

/* Whether it may be for want of it that a store with a write-ahead log was not read. */
static bool lacks_shared_memory(int code)
{
    return (code & 0xff) == SQLITE_CANTOPEN || code == SQLITE_IOERR_SHMOPEN || code == SQLITE_IOERR_SHMMAP;
}

static bool log_is_empty(ks_store *store)
{
    struct stat facts;
    bool empty = true;
    char *log = beside(store, "-wal");
    if (!log) return false;
    if (stat(log, &facts) == 0) empty = facts.st_size == 0;
    free(log);
    return empty;
}

/* Whether the file ends before its last page does. SQLite finds whole pages missing, but takes the rest of a page for zeros.
 * While a log waits the file alone says nothing; and it is looked at inside a read, so that nobody is half-way through making
 * it longer. */
static ks_status check_length(ks_store *store)
{
    ks_sql sql;
    sqlite3_file *file = NULL;
    sqlite3_int64 size = 0;
    int64_t page_bytes, pages = 0;
    bool row = false;
    ks_status status = ks_sql_one_int(store, "PRAGMA page_size", &page_bytes);
    if (status != KS_OK) return status;
    status = ks_sql_prepare(store, "PRAGMA page_count", &sql);
    if (status == KS_OK) status = ks_sql_step(&sql, &row);
    if (row) ks_sql_int(&sql, 0, 0, INT32_MAX, &pages);
    if (row && log_is_empty(store)) {
        sqlite3_file_control(store->db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
        int code = file->pMethods->xFileSize(file, &size);
        if (code != SQLITE_OK)
            status = ks_sql_fail(store, code, "read it");
        else if (size < pages * page_bytes)
            status = ks_store_fail(KS_TROUBLE_DAMAGED, store->path, "it is damaged: %lld of its %lld bytes are there",
                                   (long long)size, (long long)(pages * page_bytes));
    }
    ks_sql_finish(&sql);
    return status;
}

/* That every page is what it must be, and all are there. */
static ks_status check_pages(ks_store *store)
{
    ks_sql sql;
    bool row = false;
    ks_status status = check_length(store);
    if (status != KS_OK) return status;
    status = ks_sql_prepare(store, "PRAGMA quick_check(1)", &sql);
    if (status == KS_OK) status = ks_sql_step(&sql, &row);
    const char *found = row ? ks_sql_long_text(&sql, 0, 4096) : NULL;
    if (row && (!found || strcmp(found, "ok") != 0))
        status = ks_store_fail(KS_TROUBLE_DAMAGED, store->path, "it is damaged: %s", found ? found : "unreadable");
    ks_sql_finish(&sql);
    return status;
}

/* That what is read and written are tables, and no column of them is computed. */
static ks_status check_tables(ks_store *store)
{
#define OUR_TABLES "('devices', 'kernels', 'measurements', 'models')"
    int64_t tables, computed = 0;
    ks_status status = ks_sql_one_int(store,
                                      "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage > 0 "
                                      "AND name IN " OUR_TABLES,
                                      &tables);
    if (status == KS_OK && tables == 4)
        status = ks_sql_one_int(store,
                                "SELECT count(*) FROM sqlite_master AS t JOIN pragma_table_xinfo(t.name) AS c "
                                "WHERE c.hidden AND t.name IN " OUR_TABLES,
                                &computed);
#undef OUR_TABLES
    return status != KS_OK || (tables == 4 && computed == 0)
               ? status
               : ks_store_fail(KS_TROUBLE_DAMAGED, store->path,
                               "it is damaged, or somebody has changed it: its tables are not those of a store");
}

/* For salvaging a file that ends inside a page: SQLite would take the rest of that page for zeros, and rows on it for rows.
 * So the whole pages before it are taken into memory, and read there. */
static ks_status take_whole_pages(ks_store *store, const header *head)
{
    sqlite3_file *file = NULL;
    const sqlite3_int64 size = head->size / head->page_bytes * head->page_bytes;
    if (size == head->size || !log_is_empty(store)) return KS_OK;
    unsigned char *copy = sqlite3_malloc64((sqlite3_uint64)size + 1);
    if (!copy) return ks_sql_fail(store, SQLITE_NOMEM, "read it");
    int code = sqlite3_file_control(store->db, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    for (sqlite3_int64 at = 0; code == SQLITE_OK && at < size; at += head->page_bytes)
        code = file->pMethods->xRead(file, copy + at, (int)head->page_bytes, at);
    if (code == SQLITE_OK) {
        if (size > 0) copy[18] = copy[19] = 1; /* no log goes with it */
        code = sqlite3_deserialize(store->db, "main", copy, size, size,
                                   SQLITE_DESERIALIZE_READONLY | SQLITE_DESERIALIZE_FREEONCLOSE);
        copy = NULL; /* freed even if that failed */
    }
    sqlite3_free(copy);
    return code == SQLITE_OK ? KS_OK : ks_sql_fail(store, code, "read it");
}

static ks_status open_reading(ks_store *store)
{
    header head;
    int64_t version = 0;
    ks_status status = connect_to(store, SQLITE_OPEN_READONLY, false);
    if (status == KS_OK) status = read_header(store, &head);
    if (status == KS_OK && store->mode == KS_STORE_SALVAGE) status = take_whole_pages(store, &head);
    if (status != KS_OK) return status;

    int code = first_read(store, &version);
    if (code == SQLITE_READONLY_ROLLBACK || code == SQLITE_READONLY_RECOVERY) {
        /* a writer was killed: what it left behind can only be undone by one who may write */
        disconnect(store);
        status = connect_to(store, SQLITE_OPEN_READWRITE, false);
        if (status != KS_OK) return status;
        code = first_read(store, &version);
    } else if ((lacks_shared_memory(code) || (code & 0xff) == SQLITE_READONLY) && head.wal) {
        /* A WAL store in a directory where its shared memory cannot be made. If nothing waits in the log, the file
         * alone is the whole truth; else it may be half-way through a checkpoint, and is left alone. */
        if (!log_is_empty(store))
            return ks_store_fail(KS_TROUBLE_READ_ONLY, store->path,
                                 "its log (-wal) cannot be read without shared memory, as in a read-only directory");
        disconnect(store);
        status = connect_to(store, SQLITE_OPEN_READONLY, true);
        if (status != KS_OK) return status;
        code = first_read(store, &version);
    }
    if (code != SQLITE_OK) return ks_sql_fail(store, code, "read it");
    if (version > SCHEMA) return fail_newer(store, version);
    if (version < SCHEMA)
        return ks_store_fail(KS_TROUBLE_OLDER, store->path,
                             "has schema %lld, this library reads schema %d: opening it for writing (`ksauto db "
                             "import`, `ksauto calibrate`) brings it forward",
                             (long long)version, (int)SCHEMA);
    if (store->mode != KS_STORE_SALVAGE && (status = check_length(store)) != KS_OK) return status;
    if (store->mode != KS_STORE_SALVAGE && (status = check_tables(store)) != KS_OK) return status;
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
        status = ks_store_fail(KS_TROUBLE_FOREIGN, store->path,
                               "not a ksauto store but an SQLite file with application id %lld", (long long)owner);
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
    wait_for_locks(store, READER_WAIT_MS);
    ks_status status =
        ks_sql_prepare(store, network ? "PRAGMA journal_mode = DELETE" : "PRAGMA journal_mode = WAL", &sql);
    if (status == KS_OK) status = ks_sql_step(&sql, &row);
    if (row) ks_sql_text(&sql, 0, now, sizeof now);
    ks_sql_finish(&sql);
    wait_for_locks(store, ks_store_wait_ms(store));
    if (network && strcmp(now, "delete") != 0)
        return ks_store_fail(KS_TROUBLE_LOCKED, store->path,
                             "is on a network file system with a write-ahead log that another process holds");
    return ks_sql_exec(store, "PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = 1; PRAGMA cell_size_check = 1");
}

static ks_status open_writing(ks_store *store, bool network)
{
    header head;
    int64_t version = 0;
    ks_status status = connect_to(store, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, false);
    if (status == KS_OK && sqlite3_db_readonly(store->db, "main") == 1) /* SQLite opens such files without a word */
        status = ks_store_fail(KS_TROUBLE_READ_ONLY, store->path, "is read-only");
    if (status == KS_OK) status = read_header(store, &head);
    if (status != KS_OK) return status;
    /* A WAL store that was moved to where there is no shared memory: one process can take it over without. */
    bool take_over = network && head.wal;
    int code = take_over ? SQLITE_OK : first_read(store, &version);
    if (lacks_shared_memory(code) && head.wal) take_over = true;
    if (take_over) {
        if ((status = ks_sql_exec(store, "PRAGMA locking_mode = EXCLUSIVE")) != KS_OK) return status;
        code = first_read(store, &version);
    }
    if (code != SQLITE_OK) return ks_sql_fail(store, code, "read it");
    if (version == SCHEMA && (status = check_tables(store)) != KS_OK) return status;
    if (!head.empty && store->mode == KS_STORE_WRITE && (status = check_pages(store)) != KS_OK) return status;
    if (version > SCHEMA) return fail_newer(store, version);
    if (version < SCHEMA && (status = migrate(store)) != KS_OK) return status;
    if ((status = set_journal(store, network || take_over)) != KS_OK) return status;
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
    ks_status status = ks_store_writes(*store) ? open_writing(*store, network) : open_reading(*store);
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
