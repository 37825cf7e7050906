/* Device memory for measuring and testing: allocate, copy, fill, gather, and copy at full speed.
 *
 * Nothing here is on the path of a product, so everything waits: for all earlier work on the device, on whatever stream,
 * and for its own. Only ks_cuda_copy, which is timed, is queued on a stream. */
#include "cuda_device.h"
#include "error.h"
#include "launch.cuh"

#include <cuda_runtime.h>
#include <pthread.h>
#include <string.h>

/* What the calls below share: on the device, after all earlier work, and done on return. */
template <typename Work> static ks_status on_device(const ks_device *device, const char *what, Work work)
{
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    cudaError_t e = cudaDeviceSynchronize();
    if (e == cudaSuccess) e = work();
    if (e == cudaSuccess) e = cudaDeviceSynchronize();
    s = ks_cuda_status(e, what);
    ks_cuda_leave(previous);
    return s;
}

ks_status ks_cuda_alloc(const ks_device *device, size_t bytes, void **memory)
{
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    const cudaError_t e = cudaMalloc(memory, bytes ? bytes : 1);
    s = ks_cuda_status(e, "allocating device memory");
    if (s != KS_OK) *memory = NULL;
    if (e == cudaErrorMemoryAllocation)
        s = ks_fail(KS_ERR_MEMORY, "out of memory: %zu bytes on cuda:%d", bytes, device->index);
    ks_cuda_leave(previous);
    return s;
}

/* Leaves no message: memory is freed on the way out of failures, whose own must last. */
void ks_cuda_free(const ks_device *device, void *memory)
{
    int previous;
    if (ks_cuda_enter(device, &previous) != KS_OK) return;
    if (cudaDeviceSynchronize() != cudaSuccess || cudaFree(memory) != cudaSuccess) cudaGetLastError();
    ks_cuda_leave(previous);
}

ks_status ks_cuda_put(const ks_device *device, void *to_device, const void *from_host, size_t bytes)
{
    return on_device(device, "copying to the device",
                     [=] { return cudaMemcpy(to_device, from_host, bytes, cudaMemcpyHostToDevice); });
}

ks_status ks_cuda_get(const ks_device *device, void *to_host, const void *from_device, size_t bytes)
{
    return on_device(device, "copying from the device",
                     [=] { return cudaMemcpy(to_host, from_device, bytes, cudaMemcpyDeviceToHost); });
}

ks_status ks_cuda_set(const ks_device *device, void *memory, int byte, size_t bytes)
{
    return on_device(device, "filling device memory", [=] { return cudaMemset(memory, byte, bytes); });
}

ks_status ks_cuda_wait(const ks_device *device)
{
    return on_device(device, "waiting for the device", [] { return cudaSuccess; });
}

/* ---- random words ---------------------------------------------------------------------------------------------------- */

/* The same words as memory_cpu.c makes: splitmix64, counted. */
static __global__ void __launch_bounds__(256) randomise(unsigned char *memory, size_t bytes, uint64_t seed)
{
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i * 8 < bytes; i += stride) {
        uint64_t z = seed * 0xd1342543de82ef95u + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z = ((z ^ z >> 31) & 0x81ff81ff81ff81ffu) | 0x3e003e003e003e00u;
        if (bytes - i * 8 >= 8)
            *(uint64_t *)(memory + i * 8) = z;
        else
            for (size_t k = 0; k < bytes - i * 8; k++) memory[i * 8 + k] = (unsigned char)(z >> 8 * k);
    }
}

ks_status ks_cuda_randomise(const ks_device *device, void *memory, size_t bytes, uint64_t seed)
{
    const size_t blocks = (bytes + 8 * 256 - 1) / (8 * 256), most = 65536;
    if (bytes == 0) return KS_OK;
    return on_device(device, "filling device memory", [=] {
        return ks_launch(randomise, (unsigned)(blocks < most ? blocks : most), 256, 0, NULL, (unsigned char *)memory,
                         bytes, seed);
    });
}

/* ---- gathering ---------------------------------------------------------------------------------------------------------- */

enum { RUNS = 64, STAGING_BYTES = 4 << 20 };

struct starts_of_runs {
    int64_t at[RUNS];
};

/* In units of T, `units` of which make an element: whatever the addresses allow. Run r is blockIdx.y; count elements of each,
 * from element `first`. */
template <typename T>
static __global__ void gather(T *to, const T *from, int units, starts_of_runs starts, int64_t step, int64_t first,
                              int64_t count)
{
    const int64_t q = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (q >= count) return;
    const T *source = from + (starts.at[blockIdx.y] + (first + q) * step) * units;
    T *target = to + (blockIdx.y * count + q) * units;
    for (int k = 0; k < units; k++) target[k] = source[k];
}

template <typename T>
static cudaError_t launch_gather(void *to, const void *from, size_t element_bytes, const starts_of_runs &starts,
                                 int runs, int64_t step, int64_t first, int64_t count)
{
    const dim3 grid((unsigned)((count + 127) / 128), (unsigned)runs);
    return ks_launch(gather<T>, grid, 128, 0, NULL, (T *)to, (const T *)from, (int)(element_bytes / sizeof(T)),
                     starts, step, first, count);
}

static __global__ void set_some(unsigned char *memory, int byte, int bytes, starts_of_runs starts)
{
    for (int k = 0; k < bytes; k++) memory[starts.at[threadIdx.x] * bytes + k] = (unsigned char)byte;
}

ks_status ks_cuda_set_some(const ks_device *device, void *memory, int byte, size_t element_bytes, const int64_t *at,
                           int count)
{
    ks_status s = KS_OK;
    for (int i = 0; s == KS_OK && i < count; i += RUNS) {
        const int now = count - i < RUNS ? count - i : RUNS;
        starts_of_runs starts;
        memcpy(starts.at, at + i, (size_t)now * sizeof *at);
        s = on_device(device, "filling device memory", [&] {
            return ks_launch(set_some, 1, (unsigned)now, 0, NULL, (unsigned char *)memory, byte, (int)element_bytes,
                             starts);
        });
    }
    return s;
}

/* The kernel writes into pinned host memory, so that one launch fetches everything, however scattered it lies. */
static pthread_mutex_t staging_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *staging; /* made once, for all devices */

ks_status ks_cuda_gather(const ks_device *device, void *to_host, const void *from_device, size_t element_bytes,
                         const int64_t *starts, int runs, int64_t step, int64_t count)
{
    ks_status s = KS_OK;
    pthread_mutex_lock(&staging_lock);
    for (int r = 0; s == KS_OK && r < runs; r += RUNS) {
        const int now = runs - r < RUNS ? runs - r : RUNS;
        const int64_t room = STAGING_BYTES / (now * (int64_t)element_bytes);
        starts_of_runs from;
        memcpy(from.at, starts + r, (size_t)now * sizeof *starts);
        for (int64_t first = 0; s == KS_OK && first < count; first += room) {
            const int64_t some = count - first < room ? count - first : room;
            s = on_device(device, "gathering from the device", [&] {
                void *mapped = NULL;
                cudaError_t e = staging ? cudaSuccess
                                        : cudaHostAlloc((void **)&staging, STAGING_BYTES,
                                                        cudaHostAllocMapped | cudaHostAllocPortable);
                if (e == cudaSuccess) e = cudaHostGetDevicePointer(&mapped, staging, 0);
                if (e != cudaSuccess) return e;
                const uintptr_t odd = (uintptr_t)from_device | element_bytes;
                const auto launch = odd % 8 == 0   ? launch_gather<uint64_t>
                                    : odd % 4 == 0 ? launch_gather<uint32_t>
                                    : odd % 2 == 0 ? launch_gather<uint16_t>
                                                   : launch_gather<unsigned char>;
                return launch(mapped, from_device, element_bytes, from, now, step, first, some);
            });
            for (int i = 0; s == KS_OK && i < now; i++)
                memcpy((char *)to_host + ((size_t)(r + i) * (size_t)count + (size_t)first) * element_bytes,
                       staging + (size_t)i * (size_t)some * element_bytes, (size_t)some * element_bytes);
        }
    }
    pthread_mutex_unlock(&staging_lock);
    return s;
}

/* ---- copying at full speed ---------------------------------------------------------------------------------------------- */

/* Each thread has COPY_DEPTH loads of 16 bytes under way before it stores any: enough bytes in flight to hide the memory's
 * latency. Nothing is used twice, so neither side need stay in the caches. */
enum { COPY_THREADS = 256, COPY_DEPTH = 8 };

static __global__ void __launch_bounds__(COPY_THREADS)
    copy(uint4 *__restrict__ to, const uint4 *__restrict__ from, size_t count)
{
    const size_t base = (size_t)blockIdx.x * (COPY_THREADS * COPY_DEPTH) + threadIdx.x;
    uint4 held[COPY_DEPTH];
    if (base + (COPY_DEPTH - 1) * COPY_THREADS < count) {
#pragma unroll
        for (int i = 0; i < COPY_DEPTH; i++) held[i] = __ldcs(from + base + i * COPY_THREADS);
#pragma unroll
        for (int i = 0; i < COPY_DEPTH; i++) __stcs(to + base + i * COPY_THREADS, held[i]);
    } else {
        for (size_t at = base; at < count; at += COPY_THREADS) to[at] = from[at];
    }
}

ks_status ks_cuda_copy(const ks_device *device, void *to, const void *from, size_t bytes, void *stream)
{
    const size_t words = bytes / 16, left = bytes % 16, of_block = COPY_THREADS * COPY_DEPTH;
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    cudaError_t e = cudaSuccess;
    if (words > 0)
        e = ks_launch(copy, (unsigned)((words + of_block - 1) / of_block), COPY_THREADS, 0, stream, (uint4 *)to,
                      (const uint4 *)from, words);
    if (e == cudaSuccess && left > 0)
        e = cudaMemcpyAsync((char *)to + words * 16, (const char *)from + words * 16, left, cudaMemcpyDeviceToDevice,
                            (cudaStream_t)stream);
    s = ks_cuda_status(e, "copying device memory");
    ks_cuda_leave(previous);
    return s;
}
