/* What training needs beside products: the gradient of the weights, and transposition. (The gradient of X is a product by
 * the transposed weights, so it needs nothing but these.) Neither is a row of the kernel table: there is one way to each
 * on a backend, so there is nothing to choose, and nothing to measure a choice by. */
#ifndef KS_GRAD_H
#define KS_GRAD_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dK[i,j,k,l] = sum over n of dY[n,i,j,l] * X[n,i,k,l], dk in block order. On CUDA the arrays are aligned to their elements,
 * work is queued on the stream, and the workspace (64-byte aligned, 256 on CUDA) is in use until that is done. */
typedef struct ks_grad_args {
    const ks_device *device;
    const void *x, *dy;
    void *dk, *workspace, *stream;
} ks_grad_args;

/* The functions of the backends' tables (backend.h): the workspace and the gradient; and `count` matrices of rows x columns,
 * one after the other, each to columns x rows. from and to do not overlap. */
size_t ks_cpu_grad_bytes(const ks_problem *problem, const ks_device *device);
ks_status ks_cpu_grad_weights(const ks_problem *problem, const ks_grad_args *args);
ks_status ks_cpu_transpose(const ks_device *device, ks_type type, int64_t count, int64_t rows, int64_t columns,
                           const void *from, void *to, void *stream);
size_t ks_cuda_grad_bytes(const ks_problem *problem, const ks_device *device);
ks_status ks_cuda_grad_weights(const ks_problem *problem, const ks_grad_args *args);
ks_status ks_cuda_transpose(const ks_device *device, ks_type type, int64_t count, int64_t rows, int64_t columns,
                            const void *from, void *to, void *stream);

#ifdef __cplusplus
}
#endif

#endif
