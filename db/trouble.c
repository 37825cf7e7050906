/* Failing with a remedy. It is a kind of trouble, not text, that is remembered: per thread, like the message itself, so that
 * failing needs no memory. */
#include "trouble.h"
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local const char *remedy = "";

static const char *const remedies[KS_NTROUBLES] = {
    [KS_TROUBLE_MISSING] = "`ksauto calibrate` makes one, and until then the shipped seeds serve",
    [KS_TROUBLE_PLACE] = "name another file (--db FILE, or the environment's KSAUTO_DB), or make way for this one",
    [KS_TROUBLE_FOREIGN] = "nothing is done to a file of another kind: name another one (--db FILE, or KSAUTO_DB)",
    [KS_TROUBLE_NEWER] = "use the ksauto that made it, or name another file (--db FILE, or KSAUTO_DB)",
    [KS_TROUBLE_OLDER] = "`ksauto calibrate` or `ksauto db import` brings it forward",
    [KS_TROUBLE_DAMAGED] = ("to keep what can be read: mv FILE FILE.damaged && ksauto --db FILE db merge --salvage "
                            "FILE.damaged (with FILE-wal and FILE-journal, if they are there)"),
    [KS_TROUBLE_READ_ONLY] = "give yourself leave to write to it and its directory, or name another file (--db FILE)",
    [KS_TROUBLE_LOCKED] = "wait for the process that holds it, or end it (`fuser FILE` names it)",
    [KS_TROUBLE_FULL] = "make room on the disk: everything stored so far is there",
    [KS_TROUBLE_DISK] = "the disk or its file system fails: copy FILE to another disk and name it there (--db FILE)",
};

ks_status ks_store_fail(ks_trouble trouble, const char *path, const char *format, ...)
{
    char what[384];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    remedy = remedies[trouble];
    return ks_fail(KS_ERR_STORE, "store %s: %s", path, what);
}

const char *ks_store_remedy(void)
{
    return remedy;
}
