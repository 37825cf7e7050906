/* Checks that the parts of db/ share: is this row one that may be stored, and the words of enums that ksauto.h names
 * but does not parse. Internal to db/. */
#ifndef KS_ROWS_H
#define KS_ROWS_H

#include "store.h"

/* What is wrong with a measurement as a short phrase ("time_s is -1, ..."), or NULL. The phrase lies in text. */
const char *ks_measurement_fault(const ks_measurement *m, char *text, size_t size);

bool ks_family_from_name(const char *name, ks_family *family);
bool ks_status_from_name(const char *name, ks_status *status);

#endif
