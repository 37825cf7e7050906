/* Loading cuBLAS, its handles, and its GEMMs in row-major terms.
 *
 * Sums are float32 at least, so float16's reductions in float16 are forbidden by name; float32 is float32 unless the
 * problem allows TF32. The pedantic compute types are not asked for: they forbid tensor cores to float16 as well, and the
 * default one for float32 computes in float32 already. */
#include "cublas.h"
#include "cuda_device.h"
#include "error.h"

#include <cublas_v2.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

enum { DEVICES = 64, HANDLES = 64 };

static struct {
    void *library;
    char name[64];
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*destroy)(cublasHandle_t);
    cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
    cublasStatus_t (*set_workspace)(cublasHandle_t, void *, size_t);
    cublasStatus_t (*set_math)(cublasHandle_t, cublasMath_t);
    cublasStatus_t (*property)(libraryPropertyType, int *);
    const char *(*status_name)(cublasStatus_t);
    __typeof__(cublasGemmStridedBatchedEx_64) *strided;
    __typeof__(cublasGemmBatchedEx_64) *pointers;
} blas;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Handles at rest. Kept until the process ends: to destroy one is to wait for the whole device. */
static _Atomic(cublasHandle_t) pool[DEVICES][HANDLES];

static void *open_library(void)
{
    static const char *const folders[] = {"", "/usr/local/cuda/lib64/", "/usr/local/cuda/lib/"};
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++)
        for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
            char path[96];
            snprintf(path, sizeof path, "%s%s", folders[f], names[n]);
            void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            if (library) return library;
        }
    return NULL;
}

static void load(void)
{
    void *library = open_library();
    if (!library) return;
    const struct {
        void *function; /* where the pointer goes */
        const char *name;
    } wanted[] = {
        {&blas.create, "cublasCreate_v2"},          {&blas.destroy, "cublasDestroy_v2"},
        {&blas.set_stream, "cublasSetStream_v2"},   {&blas.set_workspace, "cublasSetWorkspace_v2"},
        {&blas.set_math, "cublasSetMathMode"},      {&blas.property, "cublasGetProperty"},
        {&blas.status_name, "cublasGetStatusName"}, {&blas.strided, "cublasGemmStridedBatchedEx_64"},
        {&blas.pointers, "cublasGemmBatchedEx_64"},
    };
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++) {
        void *symbol = dlsym(library, wanted[w].name);
        if (!symbol) { /* older than 12, which has no 64-bit sizes */
            dlclose(library);
            return;
        }
        *(void **)wanted[w].function = symbol;
    }
    int major = 0, minor = 0, patch = 0;
    blas.property(MAJOR_VERSION, &major);
    blas.property(MINOR_VERSION, &minor);
    blas.property(PATCH_LEVEL, &patch);
    snprintf(blas.name, sizeof blas.name, "cuBLAS %d.%d.%d", major, minor, patch);
    blas.library = library;
}

bool ks_cublas_available(void)
{
    pthread_once(&once, load);
    return blas.library != NULL;
}

const char *ks_cublas_name(void)
{
    return ks_cublas_available() ? blas.name : "";
}

size_t ks_cublas_workspace_bytes(const ks_device *device)
{
    return (size_t)(ks_cuda_arch(device) >= 90 ? 32 : 4) << 20;
}

/* On a device that is lost cuBLAS says "execution failed" or "allocation failed": what CUDA says is the reason. */
static ks_status status_of(cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS) return KS_OK;
    const ks_status lost = ks_cuda_status(ks_cuda_lost(), what);
    if (lost != KS_OK) return lost;
    return ks_fail(status == CUBLAS_STATUS_ALLOC_FAILED    ? KS_ERR_MEMORY
                   : status == CUBLAS_STATUS_NOT_SUPPORTED ? KS_ERR_UNSUPPORTED
                                                           : KS_ERR_DEVICE,
                   "%s: %s of %s", what, blas.status_name(status), blas.name);
}

/* A new handle allocates, which stream capture forbids to threads in its stricter modes, even on behalf of nobody's
 * stream. These allocations belong to no graph, so this thread asks for leave. */
static ks_status create(cublasHandle_t *handle)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    ks_status s = ks_cuda_status(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
    if (s != KS_OK) return s;
    s = status_of(blas.create(handle), "cublasCreate");
    if (s == KS_OK) {
        const int exact = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        s = status_of(blas.set_math(*handle, (cublasMath_t)exact), "cublasSetMathMode");
        if (s != KS_OK) blas.destroy(*handle);
    }
    cudaThreadExchangeStreamCaptureMode(&mode);
    return s;
}

static ks_status take(const ks_device *device, cublasHandle_t *handle)
{
    if (!ks_cublas_available()) return ks_fail(KS_ERR_UNSUPPORTED, "there is no cuBLAS on this machine");
    if (device->index >= 0 && device->index < DEVICES)
        for (int h = 0; h < HANDLES; h++) {
            if (!atomic_load_explicit(&pool[device->index][h], memory_order_relaxed)) continue;
            *handle = atomic_exchange(&pool[device->index][h], NULL);
            if (*handle) return KS_OK;
        }
    return create(handle);
}

ks_status ks_cublas_begin(const ks_device *device, void *stream, void *workspace, void **handle)
{
    cublasHandle_t taken;
    *handle = NULL;
    ks_status s = take(device, &taken);
    if (s != KS_OK) return s;
    /* In this order: a new stream takes the handle back to cuBLAS's own workspace. */
    s = status_of(blas.set_stream(taken, stream), "cublasSetStream");
    if (s == KS_OK)
        s = status_of(blas.set_workspace(taken, workspace, ks_cublas_workspace_bytes(device)), "cublasSetWorkspace");
    if (s == KS_OK)
        *handle = taken;
    else
        ks_cublas_end(device, taken);
    return s;
}

void ks_cublas_end(const ks_device *device, void *handle)
{
    if (!handle) return;
    if (device->index >= 0 && device->index < DEVICES)
        for (int h = 0; h < HANDLES; h++) {
            cublasHandle_t empty = NULL;
            if (atomic_compare_exchange_strong(&pool[device->index][h], &empty, (cublasHandle_t)handle)) return;
        }
    blas.destroy(handle); /* more than HANDLES callers at one instant */
}

ks_status ks_cublas_prepare(const ks_device *device)
{
    cublasHandle_t handle;
    int previous;
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    s = take(device, &handle);
    if (s == KS_OK) ks_cublas_end(device, handle);
    ks_cuda_leave(previous);
    return s;
}

static const float one_f32 = 1, zero_f32 = 0;
static const double one_f64 = 1, zero_f64 = 0;

typedef struct kind {
    cudaDataType data;
    cublasComputeType_t compute;
    const void *one, *zero;
} kind;

static kind kind_of(const ks_cublas_gemm *g)
{
    switch (g->type) {
    case KS_F64:
        return (kind){CUDA_R_64F, CUBLAS_COMPUTE_64F, &one_f64, &zero_f64};
    case KS_F16:
        return (kind){CUDA_R_16F, CUBLAS_COMPUTE_32F, &one_f32, &zero_f32};
    case KS_BF16:
        return (kind){CUDA_R_16BF, CUBLAS_COMPUTE_32F, &one_f32, &zero_f32};
    default:
        return (kind){CUDA_R_32F, g->math == KS_MATH_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                      &one_f32, &zero_f32};
    }
}

/* cuBLAS is column-major, where the same memory is C^T (n x m) = B^T A^T: the operands change places. */

ks_status ks_cublas_strided(void *handle, const ks_cublas_gemm *g, const void *a, const void *b, void *c)
{
    const kind t = kind_of(g);
    return status_of(blas.strided(handle, g->bt ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, g->n, g->m, g->k, t.one, b,
                                  t.data, g->ldb, g->b_step, a, t.data, g->lda, g->a_step, t.zero, c, t.data, g->ldc,
                                  g->c_step, g->count, t.compute, CUBLAS_GEMM_DEFAULT),
                     "cublasGemmStridedBatchedEx");
}

ks_status ks_cublas_pointers(void *handle, const ks_cublas_gemm *g, const void *const *a, const void *const *b,
                             void *const *c)
{
    const kind t = kind_of(g);
    return status_of(blas.pointers(handle, g->bt ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, g->n, g->m, g->k, t.one, b,
                                   t.data, g->ldb, a, t.data, g->lda, t.zero, c, t.data, g->ldc, g->count, t.compute,
                                   CUBLAS_GEMM_DEFAULT),
                     "cublasGemmBatchedEx");
}
