/* What is wrong with a store, and what a person can do about it. Internal to db/, but for ks_store_remedy (store.h). */
#ifndef KS_TROUBLE_H
#define KS_TROUBLE_H

#include "store.h"

typedef enum ks_trouble {
    KS_TROUBLE_MISSING,   /* there is nothing */
    KS_TROUBLE_PLACE,     /* something else is there, or the way is barred */
    KS_TROUBLE_FOREIGN,   /* a file of another kind */
    KS_TROUBLE_NEWER,     /* of a later schema */
    KS_TROUBLE_OLDER,     /* of an earlier one */
    KS_TROUBLE_DAMAGED,   /* ours, and parts of it are not readable */
    KS_TROUBLE_READ_ONLY, /* cannot be written to */
    KS_TROUBLE_LOCKED,
    KS_TROUBLE_FULL,
    KS_TROUBLE_DISK, /* reading or writing fails */
    KS_NTROUBLES
} ks_trouble;

/* ks_fail(KS_ERR_STORE, "store PATH: ..."), and ks_store_remedy will know. */
ks_status ks_store_fail(ks_trouble trouble, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
