/* Files that appear whole or not at all.
 *
 * A reader of Y.npy must never meet half of it, and a failed command must not have destroyed yesterday's. So bytes go to
 * a temporary file in the same directory (rename works inside one file system only) and take their name at the end.
 * What cannot be renamed over is written directly: renaming onto /dev/null as root would replace the device.
 * Symbolic links are followed first, so that the link stays and its target is replaced.
 *
 * A signal in the middle would leave the temporary file behind. The three signals by which people and batch systems end
 * a command therefore remove it first; a handler may call unlink, and little else. They are left alone where the
 * command was started with them ignored (nohup). */
#include "output.h"

#include "error.h"
#include "place.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
enum { DEADLY = sizeof deadly / sizeof *deadly };
static struct sigaction before[DEADLY];
static const char *volatile doomed; /* the temporary file that a signal is to remove */

static void remove_doomed(int signal_number)
{
    if (doomed) unlink(doomed);
    raise(signal_number); /* SA_RESETHAND has put the default back, and it comes once this handler returns */
}

static void guard(const char *path)
{
    struct sigaction action = {.sa_handler = remove_doomed, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    doomed = path;
    for (int i = 0; i < DEADLY; i++) {
        sigaction(deadly[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN) sigaction(deadly[i], &action, NULL);
    }
}

static void unguard(const char *path)
{
    if (doomed != path) return;
    for (int i = 0; i < DEADLY; i++) sigaction(deadly[i], &before[i], NULL);
    doomed = NULL;
}

static void forget(output *out)
{
    free(out->path);
    free(out->temporary);
    *out = (output){0};
}

ks_status output_open(output *out, const char *path)
{
    ks_status status = KS_OK;
    struct stat facts;
    int file = -1;
    *out = (output){0};
    bool exists = stat(path, &facts) == 0;
    if (ks_place_is_planted(path))
        return ks_fail(KS_ERR_IO, "%s: is, or is behind, somebody else's link, in a directory that all may write to",
                       path);
    if (exists && S_ISDIR(facts.st_mode)) return ks_fail(KS_ERR_IO, "%s: is a directory, not a file", path);

    out->path = exists ? realpath(path, NULL) : strdup(path);
    if (exists && !out->path && errno != ENOMEM)
        out->path = strdup(path); /* /dev/stdout on a pipe has no real path */
    if (!out->path) goto no_memory;
    if (exists && !S_ISREG(facts.st_mode)) {
        out->file = fopen(path, "wb");
    } else if (exists && access(path, W_OK) != 0) {
        out->file = NULL; /* rename would replace a file that its owner made read-only */
    } else {
        mode_t mask = umask(0);
        umask(mask);
        if (asprintf(&out->temporary, "%s.tmp-XXXXXX", out->path) < 0) {
            out->temporary = NULL;
            goto no_memory;
        }
        file = mkstemp(out->temporary);
        if (file >= 0) {
            guard(out->temporary);
            fchmod(file, exists ? facts.st_mode & 0777 : 0666 & ~mask);
            out->file = fdopen(file, "wb");
            if (!out->file) {
                close(file);
                goto no_memory;
            }
        }
    }
    if (!out->file) {
        status = ks_fail(KS_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
        forget(out);
    }
    return status;

no_memory:
    if (file >= 0) {
        unlink(out->temporary);
        unguard(out->temporary);
    }
    forget(out);
    return ks_fail(KS_ERR_MEMORY, "%s: not enough memory to open it", path);
}

ks_status output_commit(output *out)
{
    ks_status status = KS_OK;
    int reason = 0;
    errno = 0;
    if (ferror(out->file) || fflush(out->file) != 0) reason = errno ? errno : EIO;
    if (fclose(out->file) != 0 && !reason) reason = errno;
    out->file = NULL;
    if (!reason && out->temporary && rename(out->temporary, out->path) != 0) reason = errno;
    if (reason) status = ks_fail(KS_ERR_IO, "%s: cannot be written: %s", out->path, strerror(reason));
    if (reason && out->temporary) unlink(out->temporary);
    unguard(out->temporary);
    forget(out);
    return status;
}

void output_discard(output *out)
{
    if (!out->path) return;
    if (out->file) fclose(out->file);
    if (out->temporary) unlink(out->temporary);
    unguard(out->temporary);
    forget(out);
}
