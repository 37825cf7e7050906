/* The CUDA backend: which devices there are, the facts that follow from an architecture, errors in words, and workspace in
 * the order of a stream.
 *
 * The runtime is linked statically and finds the driver by itself, so this file runs everywhere: without a driver every
 * call of CUDA fails with an error code, and ks_cuda_count says why in words. */
#include "cuda_device.h"
#include "backend.h"
#include "cublas.h"
#include "error.h"
#include "nvml.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors, and whose device is current ----------------------------------------------------------------------------- */

ks_status ks_cuda_status(int error, const char *what)
{
    if (error == cudaSuccess) return KS_OK;
    cudaGetLastError(); /* or the caller's next check of it would find ours */
    return ks_fail(error == cudaErrorMemoryAllocation ? KS_ERR_MEMORY : KS_ERR_DEVICE, "%s: %s, %s", what,
                   cudaGetErrorName((cudaError_t)error), cudaGetErrorString((cudaError_t)error));
}

int ks_cuda_lost(void)
{
    size_t unused, total;
    const cudaError_t e = cudaMemGetInfo(&unused, &total); /* asks the device, and waits for nothing */
    if (e != cudaSuccess) cudaGetLastError();
    return e;
}

ks_status ks_cuda_enter(const ks_device *device, int *previous)
{
    cudaError_t e = cudaGetDevice(previous);
    if (e == cudaSuccess && *previous != device->index)
        e = cudaSetDevice(device->index);
    else
        *previous = -1;
    return ks_cuda_status(e, "choosing the CUDA device");
}

void ks_cuda_leave(int previous)
{
    if (previous >= 0) cudaSetDevice(previous);
}

/* ---- discovery ------------------------------------------------------------------------------------------------------- */

static int count(const char **why)
{
    static _Thread_local char reason[256];
    int devices = 0, driver = 0, runtime = 0;
    const cudaError_t e = cudaGetDeviceCount(&devices);
    reason[0] = '\0';
    if (why) *why = reason;
    if (e == cudaSuccess && devices > 0) return devices;
    cudaGetLastError();
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError(), driver = 0;
    if (driver == 0)
        snprintf(reason, sizeof reason, "no NVIDIA driver");
    else if (e == cudaErrorInsufficientDriver)
        snprintf(reason, sizeof reason, "the NVIDIA driver is for CUDA %d.%d, older than this build's %d.%d",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (e == cudaSuccess || e == cudaErrorNoDevice)
        snprintf(reason, sizeof reason, "there is a driver, but no CUDA device%s%s%s",
                 getenv("CUDA_VISIBLE_DEVICES") ? " (CUDA_VISIBLE_DEVICES is \"" : "",
                 getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "",
                 getenv("CUDA_VISIBLE_DEVICES") ? "\")" : "");
    else
        snprintf(reason, sizeof reason, "%s, %s", cudaGetErrorName(e), cudaGetErrorString(e));
    return 0;
}

static ks_status describe(int index, ks_device *device)
{
    struct cudaDeviceProp facts;
    int driver = 0, runtime = 0;
    ks_status s = ks_cuda_status(cudaGetDeviceProperties(&facts, index), "reading a CUDA device's properties");
    if (s != KS_OK) return s;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    *device = (ks_device){.backend = KS_CUDA,
                          .index = index,
                          .units = facts.multiProcessorCount,
                          .l2_bytes = facts.l2CacheSize,
                          .memory_bytes = (int64_t)facts.totalGlobalMem};
    snprintf(device->name, sizeof device->name, "%.*s", KS_DEVICE_BYTES - 1, facts.name);
    snprintf(device->arch, sizeof device->arch, "sm_%d%d", facts.major, facts.minor);
    snprintf(device->driver, sizeof device->driver, "%s%sCUDA %d.%d", ks_nvml_driver(), *ks_nvml_driver() ? ", " : "",
             driver / 1000, driver % 1000 / 10);
    snprintf(device->runtime, sizeof device->runtime, "CUDA %d.%d", runtime / 1000, runtime % 1000 / 10);
    snprintf(device->blas, sizeof device->blas, "%s", ks_cublas_name());
    return KS_OK;
}

static void state(const ks_device *device, ks_device_state *now)
{
    char bus_id[32];
    *now = (ks_device_state){.energy_j = NAN};
    if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device->index) == cudaSuccess)
        ks_nvml_read(bus_id, now);
    else
        cudaGetLastError();
}

static int64_t left(const ks_device *device)
{
    size_t unused = 0, total;
    int previous;
    if (ks_cuda_enter(device, &previous) != KS_OK) return 0;
    if (cudaMemGetInfo(&unused, &total) != cudaSuccess) cudaGetLastError();
    ks_cuda_leave(previous);
    return (int64_t)unused;
}

int ks_cuda_arch(const ks_device *device)
{
    int arch = 0; /* by hand: every decision asks several times */
    if (strncmp(device->arch, "sm_", 3) != 0) return 0;
    for (const char *digit = device->arch + 3; *digit >= '0' && *digit <= '9'; digit++)
        arch = arch * 10 + (*digit - '0');
    return arch;
}

/* The table "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide. */
size_t ks_cuda_shared_bytes(const ks_device *device)
{
    static const struct {
        int arch, kilobytes;
    } most[] = {{70, 96},  {72, 96},   {75, 64},   {80, 163},  {86, 99},   {87, 163}, {88, 163}, {89, 99},
                {90, 227}, {100, 227}, {101, 227}, {103, 227}, {110, 227}, {120, 99}, {121, 99}};
    const int arch = ks_cuda_arch(device);
    for (size_t i = 0; i < sizeof most / sizeof *most; i++)
        if (most[i].arch == arch) return (size_t)most[i].kilobytes * 1024;
    return 48 * 1024; /* what every architecture has */
}

/* ---- the caller's arrays and streams ------------------------------------------------------------------------------------ */

/* Why the device cannot reach a byte, in *why; NULL if it can, or if that is not known. */
static ks_status reach(const ks_device *device, const void *byte, const char **why)
{
    struct cudaPointerAttributes found = {.type = cudaMemoryTypeUnregistered};
    int pageable = 0;
    *why = NULL;
    const cudaError_t e = cudaPointerGetAttributes(&found, byte);
    if (e == cudaErrorInvalidValue)
        cudaGetLastError(); /* no address at all */
    else if (e != cudaSuccess)
        return ks_cuda_status(e, "asking where an array lies");
    if (found.type == cudaMemoryTypeUnregistered) { /* a few machines' GPUs read it all the same */
        if (cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, device->index) != cudaSuccess)
            cudaGetLastError();
        if (!pageable) *why = "host memory that it cannot read, or freed";
    }
    if (found.type == cudaMemoryTypeDevice && found.device != device->index) *why = "memory of another GPU";
    return *why ? ks_cuda_status(ks_cuda_lost(), "asking where an array lies") : KS_OK;
}

/* The first byte and the last: most arrays that are freed or too short show there. What lies between is not looked at, so
 * that memory mapped piece by piece (as caching allocators do) passes. */
static ks_status check(const ks_device *device, const void *memory, size_t bytes, const char *name)
{
    const char *why;
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    s = reach(device, memory, &why);
    if (s == KS_OK && why)
        s = ks_fail(KS_ERR_ARGUMENT, "%s (%p) is not in the memory of cuda:%d: %s", name, memory, device->index, why);
    if (s == KS_OK) s = reach(device, (const char *)memory + bytes - 1, &why);
    if (s == KS_OK && why)
        s = ks_fail(KS_ERR_ARGUMENT,
                    "%s (%p) is too short: the last of its %zu bytes is not in the memory of cuda:%d", name, memory,
                    bytes, device->index);
    ks_cuda_leave(previous);
    return s;
}

ks_status ks_cuda_aligned(const ks_problem *p, const ks_run_args *args)
{
    const void *const arrays[] = {args->x, args->k, args->y};
    const size_t size = ks_type_bytes(p->type);
    for (int n = 0; n < 3; n++)
        if ((uintptr_t)arrays[n] % size)
            return ks_fail(KS_ERR_ARGUMENT, "%c (%p) is not aligned to its elements of %zu bytes", "xky"[n],
                           arrays[n], size);
    return KS_OK;
}

/* While another stream of the process is captured, asking about the default stream fails: then too nothing may be measured. */
static bool capturing(const ks_device *device, void *stream)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    int previous;
    if (ks_cuda_enter(device, &previous) != KS_OK) return true;
    const bool known = cudaStreamIsCapturing(stream, &status) == cudaSuccess;
    if (!known) cudaGetLastError();
    ks_cuda_leave(previous);
    return !known || status != cudaStreamCaptureStatusNone;
}

/* ---- workspace ------------------------------------------------------------------------------------------------------------- */

/* A memory pool of our own, so that the user's default pool keeps its settings. It never returns memory to the system
 * before it is closed. A device without pools (some virtual GPUs) allocates each time; *pool is then this. Whoever opens a
 * pool is about to multiply: cuBLAS gets ready now rather than in the middle of a capture. */
static char no_pool;

static ks_status pool_open(const ks_device *device, void **pool)
{
    const struct cudaMemPoolProps wanted = {.allocType = cudaMemAllocationTypePinned,
                                            .location = {.type = cudaMemLocationTypeDevice, .id = device->index}};
    int previous, supported = 0;
    uint64_t keep = UINT64_MAX;
    cudaMemPool_t made = NULL;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    s = ks_cuda_status(ks_cuda_lost(), "opening a CUDA device");
    if (s == KS_OK)
        s = ks_cuda_status(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device->index),
                           "asking for memory pools");
    if (s == KS_OK && supported) {
        s = ks_cuda_status(cudaMemPoolCreate(&made, &wanted), "making a memory pool");
        if (s == KS_OK)
            s = ks_cuda_status(cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &keep),
                               "setting up a memory pool");
        if (s != KS_OK && made) cudaMemPoolDestroy(made), made = NULL;
    }
    if (s == KS_OK) {
        *pool = made ? (void *)made : &no_pool;
        ks_cublas_prepare(device); /* where it fails, a call that needs it says so */
    }
    ks_cuda_leave(previous);
    return s;
}

static void pool_close(const ks_device *device, void *pool)
{
    int previous;
    if (pool == &no_pool || ks_cuda_enter(device, &previous) != KS_OK) return;
    if (cudaMemPoolDestroy(pool) != cudaSuccess) cudaGetLastError();
    ks_cuda_leave(previous);
}

static ks_status pool_take(const ks_device *device, void *pool, size_t bytes, void *stream, void **memory)
{
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    const cudaError_t e =
        pool == &no_pool ? cudaMalloc(memory, bytes) : cudaMallocFromPoolAsync(memory, bytes, pool, stream);
    s = e == cudaErrorMemoryAllocation
            ? ks_fail(KS_ERR_MEMORY, "out of memory: %zu bytes of workspace on cuda:%d", bytes, device->index)
            : ks_cuda_status(e, "taking workspace");
    if (e != cudaSuccess) cudaGetLastError();
    ks_cuda_leave(previous);
    return s;
}

static ks_status pool_give(const ks_device *device, void *pool, void *memory, void *stream)
{
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    s = ks_cuda_status(pool == &no_pool ? cudaFree(memory) : cudaFreeAsync(memory, stream), "giving workspace back");
    ks_cuda_leave(previous);
    return s;
}

const ks_backend_ops ks_backend_cuda = {.count = count,
                                        .describe = describe,
                                        .state = state,
                                        .alloc = ks_cuda_alloc,
                                        .release = ks_cuda_free,
                                        .left = left,
                                        .put = ks_cuda_put,
                                        .get = ks_cuda_get,
                                        .gather = ks_cuda_gather,
                                        .set = ks_cuda_set,
                                        .set_some = ks_cuda_set_some,
                                        .randomise = ks_cuda_randomise,
                                        .copy = ks_cuda_copy,
                                        .check = check,
                                        .pool_open = pool_open,
                                        .pool_close = pool_close,
                                        .pool_take = pool_take,
                                        .pool_give = pool_give,
                                        .wait = ks_cuda_wait,
                                        .time = ks_cuda_time,
                                        .capturing = capturing,
                                        .grad_bytes = ks_cuda_grad_bytes,
                                        .grad_weights = ks_cuda_grad_weights,
                                        .transpose = ks_cuda_transpose,
                                        .finish = ks_cuda_finish};
