/* cuBLAS, found at run time.
 *
 * Loaded rather than linked, as OpenBLAS is (blas.h): the library starts on a machine without it, and takes the one that
 * the process has loaded before (PyTorch's, say) instead of bringing a second one of 600 MB.
 *
 * A cuBLAS handle is host state, a stream and a workspace on the device. Calls are asynchronous, so a workspace that
 * belongs to the handle would still be in use when the next thread takes the handle for another stream, and a graph that
 * was captured with it would use it at every replay. So no handle here owns one: the workspace comes with the call, out of
 * ks_run_args.workspace, whose owner orders it by stream and by graph as it does for the kernels' own scratch memory. What
 * is left of a handle is host state, needed for as long as the call takes to return. Handles therefore wait in a pool for
 * each device, are exchanged out and in without a lock, and their number is that of callers at the same instant. */
#ifndef KS_CUBLAS_H
#define KS_CUBLAS_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether there is a cuBLAS, and its name and version: "cuBLAS 13.0.0"; "" if there is none. Needs no GPU. */
bool ks_cublas_available(void);
const char *ks_cublas_name(void);

/* What a call wants for itself: as NVIDIA recommends for the architecture; a multiple of 256. */
size_t ks_cublas_workspace_bytes(const ks_device *device);

enum { KS_CUBLAS_ALIGNMENT = 256 }; /* of that workspace */

/* Makes a first handle if the device has none yet. For whoever opens the device: a first handle made while the caller
 * captures a stream is allowed, but takes a second of host time. KS_ERR_UNSUPPORTED if there is no cuBLAS. */
ks_status ks_cublas_prepare(const ks_device *device);

/* A handle that works on `stream` with this workspace until ks_cublas_end, which never waits. The device is current. */
ks_status ks_cublas_begin(const ks_device *device, void *stream, void *workspace, void **handle);
void ks_cublas_end(const ks_device *device, void *handle);

/* `count` products of one shape, row-major: C (m x n, ldc) = A (m x k, lda) B, where B is (k x n, ldb), or with bt the
 * transpose of an (n x k, ldb); likewise at says that A lies as (k x m, lda). With add C += that product. The steps are
 * from one product's matrix to the next one's; all in elements. */
typedef struct ks_cublas_gemm {
    ks_type type;
    ks_math math;
    bool at, bt, add; /* of at and add the calls by pointers know nothing */
    int64_t m, n, k, lda, ldb, ldc, count, a_step, b_step, c_step;
} ks_cublas_gemm;

ks_status ks_cublas_strided(void *handle, const ks_cublas_gemm *g, const void *a, const void *b, void *c);

/* The same with arrays of `count` pointers on the device in place of steps. Every pointer must be aligned to 16 bytes:
 * cuBLAS chooses kernels by what it can see from the host, and it cannot see these. */
ks_status ks_cublas_pointers(void *handle, const ks_cublas_gemm *g, const void *const *a, const void *const *b,
                             void *const *c);

#ifdef __cplusplus
}
#endif

#endif
