/* Failing with a message. The library returns a status and keeps the sentence that goes with it, per thread, for
 * ks_status_message: no allocation, no lock, so that reporting a failure cannot fail. */
#ifndef KS_ERROR_H
#define KS_ERROR_H

#include "ksauto.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Remembers the printf-style message for this thread and returns status, so that callers write
 * `return ks_fail(KS_ERR_ARGUMENT, "batch is %lld, must be >= 1", ...)`.
 * No argument may point into the last message: it is being overwritten. */
ks_status ks_fail(ks_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif

#endif
