/* What the hosts of kernels that run in clusters of blocks share: how Hopper's copy engine is told of an array, and launches. */
#ifndef KS_CLUSTERS_CUH
#define KS_CLUSTERS_CUH

#include "launch.cuh"
#include "sizes.h"

extern "C" {
#include "error.h"
}

#include <cuda.h>
#include <cuda_runtime.h>

namespace ks_cluster
{

/* An array as the copy engine is told of it: sizes in elements, the innermost first; the steps from one to the next, of all
 * dimensions but that, in bytes; the box that a copy moves, and how 16-byte pieces lie in shared memory. */
template <int RANK> struct array_map {
    const void *at;
    int64_t sizes[RANK], steps[RANK - 1];
    int box[RANK];
    CUtensorMapSwizzle swizzle;
};

using encoder = decltype(&cuTensorMapEncodeTiled);

template <int RANK>
static ks_status encode(encoder encode, ks_type type, const array_map<RANK> &array, CUtensorMap *map)
{
    cuuint64_t sizes[RANK], steps[RANK];
    cuuint32_t box[RANK], ones[RANK];
    for (int r = 0; r < RANK; r++) {
        sizes[r] = (cuuint64_t)array.sizes[r], box[r] = (cuuint32_t)array.box[r], ones[r] = 1;
        if (r + 1 < RANK) steps[r] = (cuuint64_t)array.steps[r];
    }
    const CUtensorMapDataType of = type == KS_F32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : type == KS_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const CUresult e =
        encode(map, of, RANK, const_cast<void *>(array.at), sizes, steps, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
               array.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? KS_OK : ks_fail(KS_ERR_INTERNAL, "cuTensorMapEncodeTiled: error %d", (int)e);
}

/* The driver's function that describes arrays; the driver is not linked. */
static ks_status find_encoder(encoder *out)
{
    static void *found;
    void *f = __atomic_load_n(&found, __ATOMIC_RELAXED); /* races write the same */
    if (!f) {
        cudaDriverEntryPointQueryResult result;
        const cudaError_t e =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result);
        if (e != cudaSuccess) return ks_cuda_status(e, "finding cuTensorMapEncodeTiled");
        if (result != cudaDriverEntryPointSuccess)
            return ks_fail(KS_ERR_DEVICE, "the CUDA driver has no cuTensorMapEncodeTiled");
        __atomic_store_n(&found, f, __ATOMIC_RELAXED);
    }
    *out = (encoder)f;
    return KS_OK;
}

static CUtensorMapSwizzle swizzle_of(int bytes)
{
    return bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
           : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
           : bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                         : CU_TENSOR_MAP_SWIZZLE_NONE;
}

/* How many tiles of j to take together, a divisor of `tiles`, where each has so many bytes of K: theirs stay in L2 while all of X
 * passes by. */
static int64_t kept_together(int64_t tiles, double tile_bytes)
{
    const double kept_bytes = 20e6;
    int64_t span = tiles;
    for (int64_t by = 2; by <= tiles && (double)span * tile_bytes > kept_bytes; by++)
        if (tiles % by == 0) span = tiles / by;
    return span;
}

/* How many clusters of so many blocks run at a time, roughly: they do not straddle the parts that a GPU is made of, whose sizes are
 * odd. */
static int64_t clusters_at_once(const ks_device *device, int blocks)
{
    return ks_max(1, (blocks <= 2 ? device->units : device->units * 10 / 11) / blocks);
}

/* A persistent kernel: each cluster of `blocks` blocks takes one of `units` after the other. */
struct cluster_launch {
    const char *name;
    const void *kernel;
    int blocks, threads;
    size_t shared_bytes;
    int64_t units;
    int *
        known; /* where the number of clusters that run at a time is remembered, 0 before the first launch; or NULL */
};

/* In as many clusters as run at a time. *fits: whether there is one; not on parts of GPUs that are too small. */
static ks_status launch_clusters(const cluster_launch &l, const ks_device *device, void *stream, void *argument,
                                 bool *fits)
{
    cudaLaunchAttribute attributes[2] = {{}, ks_cuda::early()}, &cluster = attributes[0];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)l.blocks, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)l.blocks), config.blockDim = dim3((unsigned)l.threads);
    config.dynamicSmemBytes = l.shared_bytes, config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes, config.numAttrs = 2;
    int count = l.known ? __atomic_load_n(l.known, __ATOMIC_RELAXED) : 0; /* races write the same */
    if (count < 1) {
        /* The first to ask for a kernel also lets it take more shared memory than 48 KB. */
        cudaError_t e = cudaFuncSetAttribute(l.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)ks_cuda_shared_bytes(device));
        if (e == cudaSuccess) e = cudaOccupancyMaxActiveClusters(&count, l.kernel, &config);
        if (e != cudaSuccess) return ks_cuda_status(e, l.name);
        if (l.known) __atomic_store_n(l.known, count, __ATOMIC_RELAXED);
    }
    *fits = count > 0;
    if (!*fits) return KS_OK;
    config.gridDim.x = (unsigned)(ks_min(count, l.units) * l.blocks);
    void *arguments[] = {argument};
    return ks_cuda_status(cudaLaunchKernelExC(&config, l.kernel, arguments), l.name);
}

} // namespace ks_cluster

#endif
