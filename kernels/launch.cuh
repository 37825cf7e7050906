/* Launching a kernel and learning how that launch went.
 *
 * kernel<<<...>>>(...) returns nothing, and cudaGetLastError, which one would ask afterwards, may as well tell, and clear, an
 * error that the caller of this library left behind: a launch that went well would be reported as failed. */
#ifndef KS_LAUNCH_CUH
#define KS_LAUNCH_CUH

#include <cuda_runtime.h>

namespace ks_cuda
{

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

#endif
