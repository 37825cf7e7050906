/* The rows of the kernel table, for table.c, and what the CPU's rows share. */
#ifndef KS_ROWS_H
#define KS_ROWS_H

#include "kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const ks_kernel ks_ref_cpu, ks_fused_cpu, ks_fused_cpu_rows, ks_bmm_cpu_permute, ks_bmm_cpu_strided;
extern const ks_kernel ks_fused_cuda_cluster, ks_fused_cuda_exchange, ks_fused_cuda_mma, ks_fused_cuda_skinny,
    ks_fused_cuda_simt, ks_bmm_cuda_permute, ks_bmm_cuda_strided;

/* How long one thread takes, roughly, and whether that is long enough for the team (pool.h). */
double ks_cpu_alone_s(const ks_problem *problem);
bool ks_cpu_is_wide(const ks_problem *problem);

/* What this CPU and this operating system can run; false off x86-64. KSAUTO_ISA=portable|avx2|avx512 lowers it. */
bool ks_cpu_has_avx2(void);
bool ks_cpu_has_avx512(void);

#ifdef __cplusplus
}
#endif

#endif
