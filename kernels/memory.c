/* memory.h by way of the backend's table. Only what can be called for a device that this build cannot run checks for a
 * missing table; the rest needs memory, or a pool, that was had from here before. */
#include "backend.h"
#include "error.h"

static const ks_backend_ops *ops_of(const ks_device *device)
{
    return ks_backend_find(device->backend);
}

static ks_status no_backend(const ks_device *device)
{
    return ks_fail(KS_ERR_DEVICE, "this build has no backend for \"%s\"", device->name);
}

ks_status ks_memory_alloc(const ks_device *device, size_t bytes, void **memory)
{
    *memory = NULL;
    return ops_of(device) ? ops_of(device)->alloc(device, bytes, memory) : no_backend(device);
}

void ks_memory_free(const ks_device *device, void *memory)
{
    if (memory) ops_of(device)->release(device, memory);
}

int64_t ks_memory_left(const ks_device *device)
{
    return ops_of(device) ? ops_of(device)->left(device) : 0;
}

ks_status ks_memory_put(const ks_device *device, void *to_device, const void *from_host, size_t bytes)
{
    return ops_of(device)->put(device, to_device, from_host, bytes);
}

ks_status ks_memory_get(const ks_device *device, void *to_host, const void *from_device, size_t bytes)
{
    return ops_of(device)->get(device, to_host, from_device, bytes);
}

ks_status ks_memory_gather(const ks_device *device, void *to_host, const void *from_device, size_t element_bytes,
                           const int64_t *starts, int runs, int64_t step, int64_t count)
{
    return ops_of(device)->gather(device, to_host, from_device, element_bytes, starts, runs, step, count);
}

ks_status ks_memory_set(const ks_device *device, void *memory, int byte, size_t bytes)
{
    return ops_of(device)->set(device, memory, byte, bytes);
}

ks_status ks_memory_set_some(const ks_device *device, void *memory, int byte, size_t element_bytes, const int64_t *at,
                             int count)
{
    return ops_of(device)->set_some(device, memory, byte, element_bytes, at, count);
}

ks_status ks_memory_randomise(const ks_device *device, void *memory, size_t bytes, uint64_t seed)
{
    return ops_of(device)->randomise(device, memory, bytes, seed);
}

ks_status ks_memory_copy_kernel(const ks_device *device, void *to, const void *from, size_t bytes, void *stream)
{
    return ops_of(device)->copy(device, to, from, bytes, stream);
}

ks_status ks_memory_check(const ks_device *device, const void *memory, size_t bytes, const char *name)
{
    return ops_of(device)->check(device, memory, bytes, name);
}

ks_status ks_memory_pool_open(const ks_device *device, void **pool)
{
    *pool = NULL;
    return ops_of(device) ? ops_of(device)->pool_open(device, pool) : no_backend(device);
}

void ks_memory_pool_close(const ks_device *device, void *pool)
{
    if (pool) ops_of(device)->pool_close(device, pool);
}

ks_status ks_memory_pool_take(const ks_device *device, void *pool, size_t bytes, void *stream, void **memory)
{
    return ops_of(device)->pool_take(device, pool, bytes, stream, memory);
}

ks_status ks_memory_pool_give(const ks_device *device, void *pool, void *memory, void *stream)
{
    return ops_of(device)->pool_give(device, pool, memory, stream);
}

ks_status ks_device_wait(const ks_device *device)
{
    return ops_of(device) ? ops_of(device)->wait(device) : no_backend(device);
}

ks_status ks_device_time(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds)
{
    return ops_of(device) ? ops_of(device)->time(device, body, user, calls, seconds) : no_backend(device);
}

bool ks_stream_capturing(const ks_device *device, void *stream)
{
    return ops_of(device) && ops_of(device)->capturing(device, stream);
}
