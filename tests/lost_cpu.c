/* Two of memory.h's functions in place of the library's: a shared library's own calls come here, too. */
#include "lost_cpu.h"
#include "backend.h"
#include "error.h"

bool cpu_is_lost;

static ks_status lost(void)
{
    return ks_fail(KS_ERR_DEVICE, "the test has broken it");
}

ks_status ks_device_wait(const ks_device *device)
{
    return cpu_is_lost ? lost() : ks_backend_find(device->backend)->wait(device);
}

ks_status ks_device_time(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds)
{
    return cpu_is_lost ? lost() : ks_backend_find(device->backend)->time(device, body, user, calls, seconds);
}
