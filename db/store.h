/* The store: what was measured, kept in one SQLite file that outlives versions, crashes and machines.
 *
 * store.c and store_sql.c are the only files of the library that include sqlite3.h. Callers see rows as C structs and failures as
 * statuses; no SQL leaves this module. Promises (db/README.md): every added row is committed before the call
 * returns; a kill at any instant loses at most the row under way; several processes may write; a file that cannot be
 * used is reported and never deleted, truncated or overwritten. */
#ifndef KS_STORE_H
#define KS_STORE_H

#include "device.h"

typedef struct ks_store ks_store;

typedef enum ks_store_mode {
    KS_STORE_READ,          /* existing file only, opened read-only; KS_ERR_STORE if it does not exist */
    KS_STORE_WRITE,         /* created (with its directories) and migrated as needed; refused if it is damaged */
    KS_STORE_WRITE_BRIEFLY, /* the same for those whom somebody waits for: no longer than a reader waits for locks, and
                               without looking for damage first */
    KS_STORE_SALVAGE,       /* as KS_STORE_READ, for ks_store_salvage: damage is no reason to refuse it */
} ks_store_mode;

/* Where the store is: explicit_path if given and not "", else $KSAUTO_DB, else $XDG_DATA_HOME/ksauto/ksauto.db, else
 * $HOME/.local/share/ksauto/ksauto.db. Writes at most size bytes; KS_ERR_STORE if nothing of these is set or it
 * does not fit. */
ks_status ks_store_path(const char *explicit_path, char *path, size_t size);

ks_status ks_store_open(ks_store **store, const char *path, ks_store_mode mode);
void ks_store_close(ks_store *store); /* NULL is allowed */

/* What a person can do about the calling thread's last KS_ERR_STORE of these functions, where FILE is the store: static
 * text, "" if there was none. */
const char *ks_store_remedy(void);

/* Writes the device's facts, replacing those of the device with that name (rates of 0 keep the stored ones). */
ks_status ks_store_put_device(ks_store *store, const ks_device *device);
/* KS_ERR_NO_DATA if there is no device of that exact name. */
ks_status ks_store_get_device(ks_store *store, const char *name, ks_device *device);
ks_status ks_store_each_device(ks_store *store, bool (*visit)(void *user, const ks_device *), void *user);

/* Adds one measurement and commits it. raw (may be NULL) are m->samples sample times in seconds. A device that is not
 * in the store yet is added by name alone. measured_at_s 0 means now. A row equal in every field, time of day included, to
 * one already there is the same measurement and is not doubled. */
ks_status ks_store_add(ks_store *store, const ks_measurement *m, const double *raw);
/* The same for several at once, in one commit: all or none. The samples of m[i], if raw is given, begin at raw[i * raw_step]. */
ks_status ks_store_add_all(ks_store *store, const ks_measurement *m, int count, const double *raw, int raw_step);

/* What to read; zeroed fields select everything. */
typedef struct ks_store_filter {
    const char *device; /* exact name, or NULL */
    unsigned types;     /* bit 1u << ks_type, 0: all */
    unsigned layouts;   /* bit 1u << ks_layout, 0: all */
    bool usable;        /* only rows with status KS_OK */
} ks_store_filter;

/* Visits measurements in the order they were added; a visitor that returns false ends the walk (still KS_OK). Visitors,
 * here and below, must not write to the same store. */
ks_status ks_store_each(ks_store *store, const ks_store_filter *filter,
                        bool (*visit)(void *user, const ks_measurement *), void *user);

/* One fitted model per device, type, layout and objective: its JSON text as calib/model.c writes it. */
typedef struct ks_model_row {
    char device[KS_DEVICE_BYTES];
    ks_type type;
    ks_layout layout;
    ks_objective objective;
    int rows;           /* measurements it was fitted to */
    double cv_regret;   /* cross-validated mean regret; NaN if unknown */
    double fitted_at_s; /* seconds since 1970 */
    const char *json;   /* on reading: valid during the visit */
} ks_model_row;

ks_status ks_store_put_model(ks_store *store, const ks_model_row *row); /* replaces */
ks_status ks_store_each_model(ks_store *store, const char *device,      /* NULL: all */
                              bool (*visit)(void *user, const ks_model_row *), void *user);

typedef struct ks_store_info {
    int schema; /* PRAGMA user_version */
    int devices, models;
    int64_t measurements, usable, bytes;
    char journal[16]; /* "wal", "delete", ... */
} ks_store_info;

ks_status ks_store_info_get(ks_store *store, ks_store_info *info);

/* PRAGMA integrity_check and the schema's own rules; each finding is handed to report as a sentence. KS_OK when
 * there is none. */
ks_status ks_store_check(ks_store *store, void (*report)(void *user, const char *finding), void *user);

/* Copies what `from` holds and `to` lacks; a measurement already there (all fields equal) is not doubled. Models are
 * taken where `to` has none, or an older one. One transaction. */
ks_status ks_store_merge(ks_store *to, ks_store *from, int64_t *added);

/* The same from a store that is damaged: takes what can be read, from the first row on and from the last one back. KS_OK
 * whatever could not; failures are those of `to`. */
ks_status ks_store_salvage(ks_store *to, ks_store *from, int64_t *added);

#endif
