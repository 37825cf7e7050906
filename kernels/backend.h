/* What a backend must be able to do beside running kernels: finding its devices, holding their memory, timing them. One
 * table of functions each, found through table.c, so that the rest of the library asks for no backend by name. */
#ifndef KS_BACKEND_H
#define KS_BACKEND_H

#include "epilogue.h"
#include "grad.h"
#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As the functions of memory.h, device.h, grad.h and epilogue.h that are named likewise. */
typedef struct ks_backend_ops {
    int (*count)(const char **why);
    ks_status (*describe)(int index, ks_device *device);
    void (*state)(const ks_device *device, ks_device_state *state);

    ks_status (*alloc)(const ks_device *device, size_t bytes, void **memory);
    void (*release)(const ks_device *device, void *memory);
    int64_t (*left)(const ks_device *device);
    ks_status (*put)(const ks_device *device, void *to_device, const void *from_host, size_t bytes);
    ks_status (*get)(const ks_device *device, void *to_host, const void *from_device, size_t bytes);
    ks_status (*gather)(const ks_device *device, void *to_host, const void *from_device, size_t element_bytes,
                        const int64_t *starts, int runs, int64_t step, int64_t count);
    ks_status (*set)(const ks_device *device, void *memory, int byte, size_t bytes);
    ks_status (*set_some)(const ks_device *device, void *memory, int byte, size_t element_bytes, const int64_t *at,
                          int count);
    ks_status (*randomise)(const ks_device *device, void *memory, size_t bytes, uint64_t seed);
    ks_status (*copy)(const ks_device *device, void *to, const void *from, size_t bytes, void *stream);
    ks_status (*check)(const ks_device *device, const void *memory, size_t bytes, const char *name);

    ks_status (*pool_open)(const ks_device *device, void **pool);
    void (*pool_close)(const ks_device *device, void *pool);
    ks_status (*pool_take)(const ks_device *device, void *pool, size_t bytes, void *stream, void **memory);
    ks_status (*pool_give)(const ks_device *device, void *pool, void *memory, void *stream);

    ks_status (*wait)(const ks_device *device);
    ks_status (*time)(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds);
    bool (*capturing)(const ks_device *device, void *stream);

    size_t (*grad_bytes)(const ks_problem *problem, const ks_device *device);
    ks_status (*grad_weights)(const ks_problem *problem, const ks_grad_args *args);
    ks_status (*transpose)(const ks_device *device, ks_type type, int64_t count, int64_t rows, int64_t columns,
                           const void *from, void *to, void *stream);
    ks_status (*finish)(const ks_problem *problem, const ks_finish_args *args);
} ks_backend_ops;

/* The backend's table; NULL if this build lacks it. */
const ks_backend_ops *ks_backend_find(ks_backend backend);

extern const ks_backend_ops ks_backend_cpu, ks_backend_cuda;

#ifdef __cplusplus
}
#endif

#endif
