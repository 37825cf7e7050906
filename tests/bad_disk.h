/* Disks that fail, as SQLite sees them: its own file system, wrapped, registered as the default one. Calls can be made to
 * fail from the n-th on, shared memory can be absent, and power can be lost, whereupon only synced writes are sure to be on
 * the disk. One thread only. */
#ifndef KS_TESTS_BAD_DISK_H
#define KS_TESTS_BAD_DISK_H

#include <stdbool.h>
#include <stdint.h>

typedef enum vfs_call {
    VFS_OPEN = 1 << 0,
    VFS_READ = 1 << 1,
    VFS_WRITE = 1 << 2, /* and truncating */
    VFS_SYNC = 1 << 3,
    VFS_DELETE = 1 << 4,
    VFS_LOCK = 1 << 5,
    VFS_SHM = 1 << 6, /* mapping and locking shared memory */
    VFS_CHANGES = VFS_WRITE | VFS_SYNC | VFS_DELETE
} vfs_call;

typedef enum vfs_fault { VFS_EIO, VFS_ENOSPC, VFS_POWER } vfs_fault;

typedef struct vfs_plan {
    unsigned calls;  /* those that count, bits of vfs_call */
    int64_t good;    /* so many of them work; */
    bool once;       /* then one fails, else all that follow */
    vfs_fault fault; /* VFS_POWER: with the first failure everything ends, whatever counts */
    bool no_shm;     /* as on a network file system: files opened from now on have no shared memory */
} vfs_plan;

/* Replaces the plan (NULL: nothing fails) and forgets what was counted. The first call registers the file system. */
void vfs_follow(const vfs_plan *plan);
/* Calls that counted since then. */
int64_t vfs_counted(void);
/* Whether one failed. */
bool vfs_failed(void);

/* What the disk holds when power is back. Synced writes are there. Others (whole, or by sectors of 512 bytes), files that were
 * made and removed without syncing the directory: none (0), all (1), or some, chosen by the number. To be called when nothing
 * is open. */
void vfs_power_back(uint64_t choice);

#endif
