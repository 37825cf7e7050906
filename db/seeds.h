/* Seeds: measurements of real devices, and the models fitted to them, that ship inside the library, so that a machine
 * with an empty store has advice for every device that ships.
 *
 * db/seeds/NAME.json holds one device: {"device": {...facts and rates...}, "models": [{"type","layout","objective",
 * "rows","cv_regret","fitted_at_s","model": {...}}]}; db/seeds/NAME.csv its measurements in the store's CSV format.
 * Both are made by `ksauto db export --seed` (see db/README.md) and are linked into the library as data. */
#ifndef KS_SEEDS_H
#define KS_SEEDS_H

#include "store.h"

typedef struct ks_seed {
    const char *name;       /* the files' base name */
    const char *json, *csv; /* not terminated */
    size_t json_bytes, csv_bytes;
} ks_seed;

/* The seeds of this build; count of them in *count. Static. */
const ks_seed *ks_seeds(size_t *count);

/* Reads a seed's JSON: its device, and each model (row->json valid during the visit). KS_ERR_PARSE if malformed. */
ks_status ks_seed_read(const ks_seed *seed, ks_device *device, bool (*visit)(void *user, const ks_model_row *),
                       void *user);

/* Writes a seed for one device of a store: its JSON to json, its measurements to csv. */
ks_status ks_seed_write(ks_store *store, const char *device, const char *json_path, const char *csv_path);

/* The way back: puts the device, the models and the measurements into the store. */
ks_status ks_seed_import(ks_store *store, const char *json_path, const char *csv_path, ks_device *device,
                         int64_t *added);

#endif
