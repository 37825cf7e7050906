/* A device's memory and its clock, in one way for every backend, so that measuring and testing need not know whose
 * memory they handle: for the CPU these are malloc, memcpy and the monotonic clock; for CUDA, cudaMalloc, cudaMemcpy
 * and events. Every call leaves the calling thread's current CUDA device as it found it. */
#ifndef KS_MEMORY_H
#define KS_MEMORY_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* bytes of the device's memory, aligned to 256 bytes (64 on the CPU), uninitialised. KS_ERR_MEMORY names the size. */
ks_status ks_memory_alloc(const ks_device *device, size_t bytes, void **memory);
void ks_memory_free(const ks_device *device, void *memory); /* NULL is allowed; waits for work that uses it */

/* How much of the device's memory could be had now: on the CPU also of what this process may use (cgroup). 0: not known. */
int64_t ks_memory_left(const ks_device *device);

/* Copies between host and device; both return when the copy is done, after all earlier work on the device. */
ks_status ks_memory_put(const ks_device *device, void *to_device, const void *from_host, size_t bytes);
ks_status ks_memory_get(const ks_device *device, void *to_host, const void *from_device, size_t bytes);
/* For each of `runs` starts, `count` elements that lie `step` elements apart, in one go:
 * to_host[r * count + q] = from_device[starts[r] + q * step]. */
ks_status ks_memory_gather(const ks_device *device, void *to_host, const void *from_device, size_t element_bytes,
                           const int64_t *starts, int runs, int64_t step, int64_t count);
ks_status ks_memory_set(const ks_device *device, void *memory, int byte, size_t bytes);
/* The same for single elements of an array: those at[0], at[1], ... */
ks_status ks_memory_set_some(const ks_device *device, void *memory, int byte, size_t element_bytes, const int64_t *at,
                             int count);

/* Fills with numbers that are ordinary in every type: every 16 bits are a sign and 0x3e00..0x3fff. As float16 that is 1.5
 * to 2 in magnitude, and as bfloat16, float32 and float64 (the upper 16 bits decide) between 0.1 and 2, 0.1 and 2, and
 * 1e-9 and 2. The same for the same seed on every backend; memory is aligned to 8 bytes. */
ks_status ks_memory_randomise(const ks_device *device, void *memory, size_t bytes, uint64_t seed);

/* Copies within the device's memory as fast as it can: what the copy rate is measured with. Both arrays are aligned to 64
 * bytes. On CUDA it is queued on the stream. */
ks_status ks_memory_copy_kernel(const ks_device *device, void *to, const void *from, size_t bytes, void *stream);

/* KS_OK if kernels on the device can read and write these bytes (1 at least), as far as can be told in a few hundred
 * nanoseconds; else KS_ERR_ARGUMENT with a message that calls the array by its name. Always KS_OK on the CPU. */
ks_status ks_memory_check(const ks_device *device, const void *memory, size_t bytes, const char *name);

/* Memory taken and given back in the order of a stream's work, which the host need not wait for; under stream capture both
 * become part of the graph. What was given back stays with the pool for the next take. A pool serves any number of
 * threads. The CPU, whose work is done when a call returns, has none: *pool is NULL, and the others are not called. */
ks_status ks_memory_pool_open(const ks_device *device, void **pool);
void ks_memory_pool_close(const ks_device *device, void *pool); /* NULL is allowed */
ks_status ks_memory_pool_take(const ks_device *device, void *pool, size_t bytes, void *stream, void **memory);
ks_status ks_memory_pool_give(const ks_device *device, void *pool, void *memory, void *stream);

/* Waits until all work of this process on the device is done; a failure of earlier work shows here. */
ks_status ks_device_wait(const ks_device *device);

/* Runs body(user, index, stream) for index 0..calls-1 and returns the device time they took together, in seconds.
 * CPU: wall time; stream is NULL. CUDA: all calls are queued behind a kernel that holds the stream, so that launch
 * costs of the host do not count, and timed between two events. Stops at the first failure and returns it. */
typedef ks_status ks_timed_body(void *user, int index, void *stream);
ks_status ks_device_time(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds);

/* Whether the stream's work is being captured into a graph rather than done: then nothing may be measured. */
bool ks_stream_capturing(const ks_device *device, void *stream);

#ifdef __cplusplus
}
#endif

#endif
