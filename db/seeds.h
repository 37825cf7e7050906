/* Seeds: measurements of real devices, and the models fitted to them, that ship inside the library, so that a machine
 * with an empty store has advice for every device that ships.
 *
 * db/seeds/NAME.jsonl holds one device, a JSON object a line: first its facts and rates, then two lines a model: what it is
 * ("type", "layout", "objective", "rows", "cv_regret", "fitted_at_s"), and the model itself. So whoever looks for a device
 * reads one short line of each seed, and a model is handed on as it stands. The measurements are beside it, in NAME.csv, in
 * the store's CSV format. Both are made by `ksauto db export --seed` (see db/README.md); the first is linked into the library
 * as data. */
#ifndef KS_SEEDS_H
#define KS_SEEDS_H

#include "store.h"

typedef struct ks_seed {
    const char *name; /* the files' base name */
    const char *text; /* of NAME.jsonl; not terminated */
    size_t bytes;
} ks_seed;

/* The seeds of this build; count of them in *count. Static. */
const ks_seed *ks_seeds(size_t *count);

/* Reads a seed's device, and its models, unless visit is NULL (row->json valid during the visit). KS_ERR_PARSE if it is
 * malformed, before any visit; a model's own line is only known to begin as an object. */
ks_status ks_seed_read(const ks_seed *seed, ks_device *device, bool (*visit)(void *user, const ks_model_row *),
                       void *user);

/* The seed of the device that is most like this one, and that device: its own first (another machine of that name), then by
 * instruction set and rates. NULL if there is none for this backend. */
const ks_seed *ks_seed_nearest(const ks_device *device, ks_device *nearest);

/* Writes a seed for one device of a store: its lines to path, its measurements to csv_path, their times to six digits. */
ks_status ks_seed_write(ks_store *store, const char *device, const char *path, const char *csv_path);

/* The way back: puts the device, the models and the measurements into the store. */
ks_status ks_seed_import(ks_store *store, const char *path, const char *csv_path, ks_device *device, int64_t *added);

#endif
