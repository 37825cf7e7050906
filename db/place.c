/* Where the store is: the path's three sources, the directories above it, and what kind of file system it lies on.
 *
 * The file is looked at with stat before SQLite opens it, because opening a FIFO blocks for ever and SQLite's
 * "unable to open database file" helps nobody. It is never opened here: closing a descriptor of our own would drop
 * the POSIX locks that SQLite holds on the same file elsewhere in this process. */
#include "place.h"
#include "error.h"
#include "trouble.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

ks_status ks_store_path(const char *explicit_path, char *path, size_t size)
{
    const char *from = explicit_path && *explicit_path ? explicit_path : getenv("KSAUTO_DB");
    const char *data = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    int length;
    if (from && *from)
        length = snprintf(path, size, "%s", from);
    else if (data && *data == '/') /* the XDG specification: relative paths are to be ignored */
        length = snprintf(path, size, "%s/ksauto/ksauto.db", data);
    else if (home && *home)
        length = snprintf(path, size, "%s/.local/share/ksauto/ksauto.db", home);
    else
        return ks_fail(KS_ERR_STORE, "no place for the store: none of KSAUTO_DB, XDG_DATA_HOME and HOME is set");
    if (length < 0 || (size_t)length >= size)
        return ks_fail(KS_ERR_STORE, "the store's path has %d bytes, at most %zu are possible", length,
                       size > 0 ? size - 1 : 0);
    return KS_OK;
}

bool ks_place_type_is_network(uint64_t type)
{
    static const uint32_t network[] = {
        0x6969,     /* NFS */
        0x517B,     /* SMB */
        0xFF534D42, /* CIFS */
        0xFE534D42, /* SMB2 */
        0x65735546, /* FUSE: sshfs, s3fs, GlusterFS, virtiofs, ... */
        0x0BD00BD0, /* Lustre */
        0x47504653, /* GPFS */
        0x01021997, /* 9p: virtual machines, WSL */
        0x5346414F, /* OpenAFS */
        0x6B414653, /* kAFS */
        0x00C36400, /* Ceph */
        0x19830326, /* BeeGFS */
        0xAAD7AAEA, /* PanFS */
        0x20030528, /* OrangeFS */
        0x73757245, /* Coda */
        0x01161970, /* GFS2: local disks, shared among hosts */
        0x7461636F, /* OCFS2: likewise */
        0x564C,     /* NCP */
        0x786F4256, /* VirtualBox shared folders */
    };
    for (size_t i = 0; i < sizeof network / sizeof network[0]; i++)
        if ((uint32_t)type == network[i]) return true; /* f_type is sign-extended on some systems */
    return false;
}

/* Makes the directories above path. An existing one is fine whatever its mode: that the file cannot be made in it is
 * SQLite's to find out. */
static ks_status make_directories(const char *path)
{
    ks_status status = KS_OK;
    char *copy = strdup(path);
    if (!copy) return ks_fail(KS_ERR_MEMORY, "store %s: no memory for its path", path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        struct stat facts;
        *slash = '\0';
        /* EEXIST is not the only answer for a directory that is there: read-only file systems say EROFS */
        if (mkdir(copy, 0777) != 0) {
            int reason = errno;
            if (stat(copy, &facts) != 0) {
                status =
                    ks_store_fail(KS_TROUBLE_PLACE, path, "cannot make the directory %s: %s", copy, strerror(reason));
                break;
            }
            if (!S_ISDIR(facts.st_mode)) {
                status = ks_store_fail(KS_TROUBLE_PLACE, path, "%s is not a directory", copy);
                break;
            }
        }
        *slash = '/';
    }
    free(copy);
    return status;
}

static void directory_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(out, size, ".");
    else
        snprintf(out, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

static bool is_on_network(const char *path)
{
    struct statfs facts;
    char directory[4096];
    directory_of(path, directory, sizeof directory);
    /* unknown: take the careful mode */
    if (statfs(path, &facts) != 0 && statfs(directory, &facts) != 0) return true;
    return ks_place_type_is_network((uint64_t)facts.f_type);
}

static bool is_planted(const char *path)
{
    struct stat link, above;
    char directory[4096];
    directory_of(path, directory, sizeof directory);
    return lstat(path, &link) == 0 && S_ISLNK(link.st_mode) && stat(directory, &above) == 0 &&
           above.st_mode & S_IWOTH && link.st_uid != geteuid() && link.st_uid != above.st_uid;
}

bool ks_place_is_planted(const char *path)
{
    char part[4096];
    for (size_t i = 1; path[i - 1]; i++) {
        const bool ends = path[i] == '\0' || (path[i] == '/' && path[i - 1] != '/');
        if (!ends || (size_t)snprintf(part, sizeof part, "%.*s", (int)i, path) >= sizeof part) continue;
        if (is_planted(part)) return true;
    }
    return false;
}

static const char *kind_name(mode_t mode)
{
    return S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : "a device";
}

ks_status ks_place_check(const char *path, ks_store_mode mode, bool *network)
{
    struct stat facts;
    ks_status status;
    const bool writing = mode == KS_STORE_WRITE || mode == KS_STORE_WRITE_BRIEFLY;
    *network = true;
    if (!path || !*path) return ks_fail(KS_ERR_ARGUMENT, "the store's path is empty");
    if (ks_place_is_planted(path))
        return ks_store_fail(KS_TROUBLE_PLACE, path,
                             "is, or is behind, somebody else's link, in a directory that all may write to");
    if (writing && (status = make_directories(path)) != KS_OK) return status;
    if (stat(path, &facts) == 0) {
        if (!S_ISREG(facts.st_mode))
            return ks_store_fail(KS_TROUBLE_PLACE, path, "is %s, not a file", kind_name(facts.st_mode));
        if (!writing && facts.st_size == 0) return ks_store_fail(KS_TROUBLE_MISSING, path, "is empty (0 bytes)");
        /* SQLite takes a file of one byte for an empty one and would write over it */
        if (facts.st_size > 0 && facts.st_size < 100)
            return ks_store_fail(KS_TROUBLE_FOREIGN, path, "not a ksauto store but %lld bytes of something",
                                 (long long)facts.st_size);
    } else if (!writing || errno != ENOENT) {
        return ks_store_fail(errno == ENOENT ? KS_TROUBLE_MISSING : KS_TROUBLE_PLACE, path, "%s", strerror(errno));
    } else {
        char directory[4096];
        directory_of(path, directory, sizeof directory);
        if (eaccess(directory, W_OK | X_OK) != 0) /* SQLite reports the reason of a second attempt */
            return ks_store_fail(KS_TROUBLE_PLACE, path, "cannot be made in %s: %s", directory, strerror(errno));
    }
    *network = is_on_network(path);
    return KS_OK;
}
