/* What measurements are still worth after something has changed: a driver, a BLAS, a kernel.
 *
 * A model says under which versions its device's measurements stand, and what has become of older ones: kept, scaled, or set
 * aside. That is told by canaries (canaries.h), a few problems measured again. Measurements themselves are never rewritten: it
 * is when they are read that they are adjusted. */
#ifndef KS_STANDING_H
#define KS_STANDING_H

#include "cases.h"
#include "store.h"

struct cJSON;

/* Everything that may change times while the device stays the same: "Linux 6.1; glibc 2.36; OpenBLAS 0.3.21 SkylakeX". */
void ks_environment(const ks_device *device, char text[KS_ENVIRONMENT_BYTES]);

/* Whether what a model was fitted to was measured under other versions than there are now. why says which, in a sentence. */
bool ks_model_stale(const ks_model *model, const ks_device *device, char *why, size_t size);

/* Adjusts rows of one type and layout, in memory; energies by the same factors as times. What is set aside gets the status KS_ERR_NO_DATA. */
void ks_standing_apply(const ks_standing *standing, ks_type type, ks_layout layout, ks_measurement *rows,
                       size_t count);

/* A verdict on a kernel: its rows of a version that were measured before now count as another version's, times a factor (0: not
 * at all). Returns the factor that was noted: 0 also for a kernel that has been scaled too often. */
double ks_standing_note(ks_standing *standing, const ks_adjustment *verdict);

/* The standing of a stored model of times; KS_OK with an empty one where there is none. */
ks_status ks_standing_find(ks_store *store, const char *device, ks_type type, ks_layout layout,
                           ks_standing *standing);

/* ks_store_each into rows, adjusted as the store's models say: the way to read measurements that are to be learned from. */
ks_status ks_rows_read(ks_store *store, const ks_store_filter *filter, ks_rows *rows);

/* As part of a model's JSON: optional, since older models have none. False if out of memory. */
ks_status ks_standing_parse(const struct cJSON *model, ks_standing *standing);
bool ks_standing_add(struct cJSON *model, const ks_standing *standing);

#endif
