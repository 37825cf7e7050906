/* The one list of kernels. */
#include "rows.h"
#include "error.h"

#include <string.h>

static const ks_kernel *const table[] = {
    &ks_ref_cpu, &ks_fused_cpu, &ks_bmm_cpu_permute, &ks_bmm_cpu_strided, NULL,
};

_Static_assert(sizeof table / sizeof *table <= KS_MAX_KERNELS + 1, "an advice must be able to list every kernel");

const ks_kernel *const *ks_kernels(void)
{
    return table;
}

const ks_kernel *ks_kernel_find(const char *name)
{
    for (const ks_kernel *const *k = table; *k; k++)
        if (strcmp((*k)->name, name) == 0) return *k;
    return NULL;
}

int ks_kernels_for(const ks_problem *problem, const ks_device *device, const ks_kernel *out[KS_MAX_KERNELS])
{
    int count = 0;
    for (const ks_kernel *const *k = table; *k; k++)
        if ((*k)->family != KS_REFERENCE && (*k)->backend == device->backend && (*k)->supports(problem, device))
            out[count++] = *k;
    return count;
}
