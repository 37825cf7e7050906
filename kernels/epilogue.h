/* Epilogues: what is done to a product before it is Y, y = activation(alpha * product + beta * y + bias).
 *
 * Most fused kernels do it themselves, to sums that are still in cache or in registers (ks_kernel_finishes); behind the others,
 * and wherever the old y is to be added, a backend's finish goes over the product once. */
#ifndef KS_EPILOGUE_H
#define KS_EPILOGUE_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* product and y: ks_y_count elements of the problem's type, in its layout; they are the same array or do not overlap. On CUDA
 * they, and the bias, are aligned to their elements, and work is queued on the stream. */
typedef struct ks_finish_args {
    const ks_device *device;
    const ks_epilogue *epilogue;
    const void *product;
    void *y, *stream;
} ks_finish_args;

/* The functions of the backends' tables (backend.h). Arithmetic is in float32, for KS_F64 in float64. */
ks_status ks_cpu_finish(const ks_problem *problem, const ks_finish_args *args);
ks_status ks_cuda_finish(const ks_problem *problem, const ks_finish_args *args);

/* Y as a matrix of rows x columns, and whether the bias has a value for each column (and not for each row). */
typedef struct ks_finish_shape {
    int64_t rows, columns;
    bool bias_by_column;
} ks_finish_shape;

static inline ks_finish_shape ks_finish_shape_of(const ks_problem *p)
{
    const int64_t features = p->a * p->b * p->d;
    /* One sample lies alike in both layouts, and one feature. */
    if (p->layout == KS_BATCH_FIRST && features > 1) return (ks_finish_shape){p->batch, features, true};
    if (p->batch == 1) return (ks_finish_shape){1, features, true};
    return (ks_finish_shape){features, p->batch, false};
}

#ifdef __cplusplus
}
#endif

#endif
