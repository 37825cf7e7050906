/* The wrapper around SQLite's own file system. For lost power every file has a shadow: what is surely on the disk, and the
 * changes since its last sync. While a plan of lost power is followed nothing is really synced, which makes thousands of
 * trials cheap. The model is SQLite's own: a write may arrive whole, by sectors in any selection, or not at all, and touches no
 * byte beside its own; a file's name is there for sure once the file was synced, and gone for sure once the directory was. */
#include "bad_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR = 512, MOST_SHADOWS = 16 };

typedef enum change_kind { WRITTEN, TRUNCATED, REMOVED } change_kind;

typedef struct change {
    change_kind kind;
    int64_t at; /* or the size, for TRUNCATED */
    int bytes;
    unsigned char *data;
} change;

typedef struct shadow {
    char path[512];
    bool exists; /* for sure */
    unsigned char *data;
    int64_t size;
    change *pending;
    int count, room;
} shadow;

typedef struct file {
    sqlite3_file base; /* first: SQLite sees this */
    sqlite3_file *inner;
    shadow *shadow; /* NULL: power is not lost in this plan, or a temporary file */
} file;

static sqlite3_vfs outer, *inner;
static vfs_plan plan;
static int64_t counted;
static bool failed, dark;
static shadow shadows[MOST_SHADOWS];
static int shadow_count;

static void *sure(void *memory)
{
    assert_non_null(memory);
    return memory;
}

/* --- shadows ------------------------------------------------------------------------------------------------ */

static shadow *shadow_of(const char *path)
{
    for (int i = 0; i < shadow_count; i++)
        if (strcmp(shadows[i].path, path) == 0) return &shadows[i];
    assert_true(shadow_count < MOST_SHADOWS && strlen(path) < sizeof shadows->path);
    shadow *s = &shadows[shadow_count++];
    *s = (shadow){0};
    strcpy(s->path, path);
    FILE *in = fopen(path, "rb");
    if (!in) return s;
    s->exists = true;
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    s->size = ftell(in);
    rewind(in);
    s->data = sure(malloc((size_t)s->size + 1));
    assert_int_equal(fread(s->data, 1, (size_t)s->size, in), s->size);
    fclose(in);
    return s;
}

static void resize(shadow *s, int64_t size)
{
    s->data = sure(realloc(s->data, (size_t)size + 1));
    if (size > s->size) memset(s->data + s->size, 0, (size_t)(size - s->size));
    s->size = size;
}

static void put(shadow *s, int64_t at, const unsigned char *data, int bytes)
{
    if (at + bytes > s->size) resize(s, at + bytes);
    memcpy(s->data + at, data, (size_t)bytes);
    s->exists = true;
}

static void remember(shadow *s, change_kind kind, int64_t at, const void *data, int bytes)
{
    if (!s) return;
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        s->pending = sure(realloc(s->pending, (size_t)s->room * sizeof *s->pending));
    }
    change *c = &s->pending[s->count++];
    *c = (change){kind, at, bytes, NULL};
    if (bytes) c->data = memcpy(sure(malloc((size_t)bytes)), data, (size_t)bytes);
}

static bool coin(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 63;
}

/* choice as for vfs_power_back. */
static void settle(shadow *s, uint64_t choice)
{
    for (int i = 0; i < s->count; i++) {
        change *c = &s->pending[i];
        const bool whole = choice == 1 || (choice > 1 && coin(&choice));
        if (c->kind == REMOVED && whole)
            s->exists = false, s->size = 0;
        else if (c->kind == TRUNCATED && whole)
            resize(s, c->at), s->exists = true;
        else if (c->kind == WRITTEN && whole)
            put(s, c->at, c->data, c->bytes);
        else if (c->kind == WRITTEN && choice > 1)
            for (int from = 0; from < c->bytes; from += SECTOR)
                if (coin(&choice))
                    put(s, c->at + from, c->data + from, c->bytes - from < SECTOR ? c->bytes - from : SECTOR);
        free(c->data);
    }
    s->count = 0;
}

static void forget_shadows(void)
{
    for (int i = 0; i < shadow_count; i++) {
        for (int c = 0; c < shadows[i].count; c++) free(shadows[i].pending[c].data);
        free(shadows[i].pending);
        free(shadows[i].data);
    }
    shadow_count = 0;
}

void vfs_power_back(uint64_t choice)
{
    for (int i = 0; i < shadow_count; i++) {
        shadow *s = &shadows[i];
        settle(s, choice > 1 ? choice + (uint64_t)i * 7919 : choice);
        if (!s->exists) {
            unlink(s->path);
            continue;
        }
        FILE *out = sure(fopen(s->path, "wb"));
        assert_int_equal(fwrite(s->data, 1, (size_t)s->size, out), s->size);
        assert_int_equal(fclose(out), 0);
        char shared[sizeof s->path + 8];
        strcpy(shared, s->path);
        strcat(shared, "-shm");
        unlink(shared); /* was memory */
    }
    vfs_follow(NULL);
}

/* --- the plan ----------------------------------------------------------------------------------------------- */

/* Whether this call fails. */
static bool fails(vfs_call call)
{
    if (dark) return true;
    if (!(plan.calls & (unsigned)call)) return false;
    counted++;
    if (counted <= plan.good || (plan.once && counted > plan.good + 1)) return false;
    failed = true;
    dark = plan.fault == VFS_POWER;
    return true;
}

static int code_of(int io_error)
{
    return plan.fault == VFS_ENOSPC ? SQLITE_FULL : io_error;
}

int64_t vfs_counted(void)
{
    return counted;
}

bool vfs_failed(void)
{
    return failed;
}

/* --- files -------------------------------------------------------------------------------------------------- */

#define INNER(f)  (((file *)(f))->inner)
#define SHADOW(f) (((file *)(f))->shadow)

static int file_close(sqlite3_file *f)
{
    return INNER(f)->pMethods->xClose(INNER(f));
}

static int file_read(sqlite3_file *f, void *to, int bytes, sqlite3_int64 at)
{
    if (fails(VFS_READ)) return code_of(SQLITE_IOERR_READ);
    return INNER(f)->pMethods->xRead(INNER(f), to, bytes, at);
}

static int file_write(sqlite3_file *f, const void *from, int bytes, sqlite3_int64 at)
{
    if (fails(VFS_WRITE)) return code_of(SQLITE_IOERR_WRITE);
    remember(SHADOW(f), WRITTEN, at, from, bytes);
    return INNER(f)->pMethods->xWrite(INNER(f), from, bytes, at);
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (fails(VFS_WRITE)) return code_of(SQLITE_IOERR_TRUNCATE);
    remember(SHADOW(f), TRUNCATED, size, NULL, 0);
    return INNER(f)->pMethods->xTruncate(INNER(f), size);
}

static int file_sync(sqlite3_file *f, int flags)
{
    if (fails(VFS_SYNC)) return code_of(SQLITE_IOERR_FSYNC);
    if (!SHADOW(f)) return INNER(f)->pMethods->xSync(INNER(f), flags);
    settle(SHADOW(f), 1);
    SHADOW(f)->exists = true;
    return SQLITE_OK;
}

static int file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return dark ? SQLITE_IOERR_FSTAT : INNER(f)->pMethods->xFileSize(INNER(f), size);
}

static int file_lock(sqlite3_file *f, int level)
{
    return fails(VFS_LOCK) ? code_of(SQLITE_IOERR_LOCK) : INNER(f)->pMethods->xLock(INNER(f), level);
}

static int file_unlock(sqlite3_file *f, int level)
{
    return INNER(f)->pMethods->xUnlock(INNER(f), level);
}

static int file_reserved(sqlite3_file *f, int *out)
{
    return INNER(f)->pMethods->xCheckReservedLock(INNER(f), out);
}

static int file_control(sqlite3_file *f, int what, void *argument)
{
    return INNER(f)->pMethods->xFileControl(INNER(f), what, argument);
}

static int file_sector(sqlite3_file *f)
{
    return INNER(f)->pMethods->xSectorSize(INNER(f));
}

static int file_device(sqlite3_file *f)
{
    return INNER(f)->pMethods->xDeviceCharacteristics(INNER(f));
}

static int shm_map(sqlite3_file *f, int region, int bytes, int extend, void volatile **at)
{
    if (fails(VFS_SHM)) return plan.fault == VFS_ENOSPC ? SQLITE_IOERR_SHMSIZE : SQLITE_IOERR_SHMMAP;
    return INNER(f)->pMethods->xShmMap(INNER(f), region, bytes, extend, at);
}

static int shm_lock(sqlite3_file *f, int offset, int count, int flags)
{
    if (fails(VFS_SHM) && !(flags & SQLITE_SHM_UNLOCK)) return SQLITE_IOERR_SHMLOCK;
    return INNER(f)->pMethods->xShmLock(INNER(f), offset, count, flags);
}

static void shm_barrier(sqlite3_file *f)
{
    INNER(f)->pMethods->xShmBarrier(INNER(f));
}

static int shm_unmap(sqlite3_file *f, int remove)
{
    return INNER(f)->pMethods->xShmUnmap(INNER(f), remove);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_device,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

/* --- the file system ---------------------------------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *out, int flags, int *out_flags)
{
    static sqlite3_io_methods without_shm;
    file *f = (file *)out;
    (void)vfs;
    *f = (file){.inner = (sqlite3_file *)(f + 1)};
    if (fails(VFS_OPEN)) return SQLITE_CANTOPEN;
    const bool followed = name && plan.fault == VFS_POWER && plan.calls &&
                          flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL);
    shadow *s = followed ? shadow_of(name) : NULL; /* before the file is made */
    int code = inner->xOpen(inner, name, f->inner, flags, out_flags);
    if (code != SQLITE_OK) return code;
    without_shm = methods;
    without_shm.iVersion = 1;
    f->shadow = s;
    f->base.pMethods = plan.no_shm ? &without_shm : &methods;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_directory)
{
    (void)vfs;
    if (fails(VFS_DELETE)) return SQLITE_IOERR_DELETE;
    const bool followed = plan.fault == VFS_POWER && plan.calls;
    if (followed) remember(shadow_of(name), REMOVED, 0, NULL, 0);
    int code = inner->xDelete(inner, name, sync_directory && !followed);
    if (followed && sync_directory) settle(shadow_of(name), 1);
    return code;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
    (void)vfs;
    return dark ? SQLITE_IOERR_ACCESS : inner->xAccess(inner, name, flags, out);
}

static int vfs_full_name(sqlite3_vfs *vfs, const char *name, int size, char *out)
{
    (void)vfs;
    return inner->xFullPathname(inner, name, size, out);
}

void vfs_follow(const vfs_plan *wanted)
{
    if (!inner) {
        inner = sure(sqlite3_vfs_find(NULL));
        outer = *inner; /* time, randomness, sleeping: SQLite's own */
        outer.iVersion = 1;
        outer.zName = "failing";
        outer.pNext = NULL;
        outer.szOsFile = (int)sizeof(file) + inner->szOsFile;
        outer.xOpen = vfs_open;
        outer.xDelete = vfs_delete;
        outer.xAccess = vfs_access;
        outer.xFullPathname = vfs_full_name;
        assert_int_equal(sqlite3_vfs_register(&outer, 1), SQLITE_OK);
    }
    forget_shadows();
    plan = wanted ? *wanted : (vfs_plan){0};
    counted = 0;
    failed = dark = false;
}
