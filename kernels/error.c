/* The last failure of each thread: one fixed buffer in thread-local storage. A message longer than it is cut, never
 * refused; reporting a failure allocates nothing and cannot fail itself. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local struct {
    ks_status status;
    char message[512];
} last_failure;

static const struct {
    const char *name, *sentence;
} statuses[] = {
    [KS_OK] = {"KS_OK", "no error"},
    [KS_ERR_ARGUMENT] = {"KS_ERR_ARGUMENT", "an argument has a value that is not allowed"},
    [KS_ERR_OVERFLOW] = {"KS_ERR_OVERFLOW", "the problem's sizes do not fit 63 bits"},
    [KS_ERR_PARSE] = {"KS_ERR_PARSE", "the input is not well-formed"},
    [KS_ERR_UNSUPPORTED] = {"KS_ERR_UNSUPPORTED", "no kernel can do this on this device"},
    [KS_ERR_DEVICE] = {"KS_ERR_DEVICE", "the device is unknown or failed"},
    [KS_ERR_MEMORY] = {"KS_ERR_MEMORY", "out of memory"},
    [KS_ERR_STORE] = {"KS_ERR_STORE", "the store cannot be used"},
    [KS_ERR_IO] = {"KS_ERR_IO", "a file cannot be read or written"},
    [KS_ERR_WRONG_RESULT] = {"KS_ERR_WRONG_RESULT", "a kernel's output disagreed with the reference"},
    [KS_ERR_NO_DATA] = {"KS_ERR_NO_DATA", "not enough measurements"},
    [KS_ERR_INTERRUPTED] = {"KS_ERR_INTERRUPTED", "stopped on request"},
    [KS_ERR_INTERNAL] = {"KS_ERR_INTERNAL", "a defect of this library"},
};

static bool status_known(ks_status status)
{
    return (unsigned)status < sizeof statuses / sizeof *statuses;
}

ks_status ks_fail(ks_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(last_failure.message, sizeof last_failure.message, format, args);
    va_end(args);
    last_failure.status = status;
    return status;
}

const char *ks_status_name(ks_status status)
{
    return status_known(status) ? statuses[status].name : "unknown status";
}

const char *ks_status_message(ks_status status)
{
    if (status != KS_OK && last_failure.status == status) return last_failure.message;
    return status_known(status) ? statuses[status].sentence : "unknown status";
}
