/* Launching a kernel, early where that can be, and learning how that launch went.
 *
 * kernel<<<...>>>(...) returns nothing, and cudaGetLastError, which one would ask afterwards, may as well tell, and clear, an
 * error that the caller of this library left behind: a launch that went well would be reported as failed.
 *
 * What a launch costs, and a kernel's first steps, can pass while the kernel before it still runs: "Programmatic Dependent Launch"
 * in the CUDA programming guide, griddepcontrol in PTX. Dropped: asking L2 for K meanwhile. Launches below 6 us took 4 % less, many
 * others up to a quarter more. */
#ifndef KS_LAUNCH_CUH
#define KS_LAUNCH_CUH

#include "cuda_device.h"

#include <cuda_runtime.h>

namespace ks_cuda
{

/* Until all that lies before this kernel in its stream is done, and its results are in memory. From then on the kernel that
 * comes next may begin: not earlier, since it may count on what lies before this one. */
__device__ __forceinline__ void await_earlier()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Only where what runs is sure to have been compiled with the wait: not where a driver compiles for a GPU from older code. */
inline bool can_be_early(const ks_device *device)
{
    return KS_HOPPER && ks_cuda_arch(device) == 90;
}

inline cudaLaunchAttribute early()
{
    cudaLaunchAttribute a = {};
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
    return a;
}

/* T, but where a template's parameters are found out: there the kernel says what they are, not the argument. */
template <class T> struct as_declared {
    using type = T;
};

} // namespace ks_cuda

template <class... Parameters>
static cudaError_t ks_launch(void (*kernel)(Parameters...), dim3 blocks, unsigned threads, int64_t shared_bytes,
                             void *stream, typename ks_cuda::as_declared<Parameters>::type... arguments)
{
    void *addresses[] = {&arguments...};
    return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), blocks, dim3(threads), addresses,
                            (size_t)shared_bytes, static_cast<cudaStream_t>(stream));
}

/* The same, but so that the kernel may begin while what lies before it in its stream still runs (programmatic dependent launch,
 * of Hopper and later): its blocks come to stand on multiprocessors that have become free, and there get ready. Such a kernel
 * calls ks_cuda::await_earlier before it reads or writes any array. */
template <class... Parameters>
static cudaError_t ks_launch_early(const ks_device *device, void (*kernel)(Parameters...), dim3 blocks,
                                   unsigned threads, int64_t shared_bytes, void *stream,
                                   typename ks_cuda::as_declared<Parameters>::type... arguments)
{
    void *addresses[] = {&arguments...};
    cudaLaunchAttribute early = ks_cuda::early();
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks, config.blockDim = dim3(threads);
    config.dynamicSmemBytes = (size_t)shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &early, config.numAttrs = ks_cuda::can_be_early(device);
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void *>(kernel), addresses);
}

#endif
