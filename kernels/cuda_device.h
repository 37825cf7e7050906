/* What the files of the CUDA backend share. Only they include this; CUDA's own headers stay inside them. */
#ifndef KS_CUDA_DEVICE_H
#define KS_CUDA_DEVICE_H

#include "kernel.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes device->index current for this thread and returns what was current before, for ks_cuda_leave; a negative number
 * stands for "the same". After a failure there is nothing to leave. */
ks_status ks_cuda_enter(const ks_device *device, int *previous);
void ks_cuda_leave(int previous);

/* error is a cudaError_t: KS_OK for cudaSuccess; else KS_ERR_MEMORY or KS_ERR_DEVICE, with a message that names `what`
 * and CUDA's own name and sentence for the error. Clears CUDA's last error where that can be cleared. */
ks_status ks_cuda_status(int error, const char *what);

/* The error that the current device cannot recover from (a cudaError_t): a kernel that trapped or went astray, a GPU that fell
 * off its bus. Every later call of CUDA for this device then fails with it, but for some that ask the device nothing: asked
 * before these are believed, and where another library's failure may have it as its cause. cudaSuccess: none, or not yet. */
int ks_cuda_lost(void);

/* Facts that follow from an architecture's name ("sm_90"), so that plans for a device that is not here come out the
 * same. ks_cuda_arch: 90; 0 if the text is no such name. ks_cuda_shared_bytes: most shared memory of one block. */
int ks_cuda_arch(const ks_device *device);
size_t ks_cuda_shared_bytes(const ks_device *device);

/* KS_OK if x, k and y each begin at a multiple of an element's size; else KS_ERR_ARGUMENT names the one that does not: a GPU
 * cannot read it. The first thing that every kernel's run asks. */
ks_status ks_cuda_aligned(const ks_problem *problem, const ks_run_args *args);

/* Functions of the backend's table (backend.h): those of memory_cuda.cu and timer_cuda.cu; cuda.c has the rest. */
ks_status ks_cuda_alloc(const ks_device *device, size_t bytes, void **memory);
void ks_cuda_free(const ks_device *device, void *memory);
ks_status ks_cuda_put(const ks_device *device, void *to_device, const void *from_host, size_t bytes);
ks_status ks_cuda_get(const ks_device *device, void *to_host, const void *from_device, size_t bytes);
ks_status ks_cuda_gather(const ks_device *device, void *to_host, const void *from_device, size_t element_bytes,
                         const int64_t *starts, int runs, int64_t step, int64_t count);
ks_status ks_cuda_set(const ks_device *device, void *memory, int byte, size_t bytes);
ks_status ks_cuda_set_some(const ks_device *device, void *memory, int byte, size_t element_bytes, const int64_t *at,
                           int count);
ks_status ks_cuda_randomise(const ks_device *device, void *memory, size_t bytes, uint64_t seed);
ks_status ks_cuda_copy(const ks_device *device, void *to, const void *from, size_t bytes, void *stream);
ks_status ks_cuda_wait(const ks_device *device);
ks_status ks_cuda_time(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds);

#ifdef __cplusplus
}
#endif

#endif
