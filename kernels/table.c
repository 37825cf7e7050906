/* The one list of kernels, of pairs and of backends: the only file that knows what this build has. */
#include "backend.h"
#include "error.h"
#include "pair.h"
#include "rows.h"

#include <string.h>

enum { ROWS = KS_MAX_KERNELS + 2 }; /* the oracle, as many as an advice can list, and NULL */

static const ks_kernel *table[ROWS] = {
    &ks_ref_cpu,
    &ks_fused_cpu,
    &ks_fused_cpu_rows,
    &ks_bmm_cpu_permute,
    &ks_bmm_cpu_strided,
#if KSAUTO_CUDA
    &ks_fused_cuda_cluster,
    &ks_fused_cuda_exchange,
    &ks_fused_cuda_mma,
    &ks_fused_cuda_skinny,
    &ks_fused_cuda_simt,
    &ks_bmm_cuda_permute,
    &ks_bmm_cuda_strided,
#endif
    NULL,
};

enum { PAIRS = 4 };

static const ks_pair *pairs[PAIRS] = {
#if KSAUTO_CUDA
    &ks_fused2_cuda,
#endif
    NULL,
};

const ks_backend_ops *ks_backend_find(ks_backend backend)
{
#if KSAUTO_CUDA
    if (backend == KS_CUDA) return &ks_backend_cuda;
#endif
    return backend == KS_CPU ? &ks_backend_cpu : NULL;
}

const ks_kernel *const *ks_kernels(void)
{
    return table;
}

ks_status ks_kernel_add(const ks_kernel *kernel)
{
    int count = 0;
    if (ks_kernel_find(kernel->name)) return ks_fail(KS_ERR_ARGUMENT, "there is a kernel %s already", kernel->name);
    while (table[count]) count++;
    if (count == ROWS - 1) return ks_fail(KS_ERR_ARGUMENT, "no room for %s among %d kernels", kernel->name, count);
    table[count] = kernel;
    return KS_OK;
}

const ks_kernel *ks_kernel_find(const char *name)
{
    for (const ks_kernel *const *k = table; *k; k++)
        if (strcmp((*k)->name, name) == 0) return *k;
    return NULL;
}

bool ks_kernel_finishes(const ks_kernel *kernel)
{
    static const ks_kernel *const finishing[] = {
        &ks_fused_cpu,
        &ks_fused_cpu_rows,
#if KSAUTO_CUDA
        &ks_fused_cuda_simt,
        &ks_fused_cuda_mma,
        &ks_fused_cuda_skinny,
        &ks_fused_cuda_cluster,
        &ks_fused_cuda_exchange,
#endif
    };
    for (size_t i = 0; i < sizeof finishing / sizeof *finishing; i++)
        if (kernel == finishing[i]) return true;
    return false;
}

int ks_kernels_for(const ks_problem *problem, const ks_device *device, const ks_kernel *out[KS_MAX_KERNELS])
{
    int count = 0;
    for (const ks_kernel *const *k = table; *k; k++)
        if ((*k)->family != KS_REFERENCE && (*k)->backend == device->backend && (*k)->supports(problem, device))
            out[count++] = *k;
    return count;
}

const ks_pair *const *ks_pairs(void)
{
    return pairs;
}

const ks_pair *ks_pair_find(const char *name)
{
    for (const ks_pair *const *p = pairs; *p; p++)
        if (strcmp((*p)->name, name) == 0) return *p;
    return NULL;
}

ks_status ks_pair_add(const ks_pair *pair)
{
    int count = 0;
    if (ks_pair_find(pair->name)) return ks_fail(KS_ERR_ARGUMENT, "there is a pair kernel %s already", pair->name);
    while (pairs[count]) count++;
    if (count == PAIRS - 1)
        return ks_fail(KS_ERR_ARGUMENT, "no room for %s among %d pair kernels", pair->name, count);
    pairs[count] = pair;
    return KS_OK;
}
