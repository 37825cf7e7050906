/* What the devices of this machine are. The CPU's facts are read from the system, never timed, never failing; those of
 * others come from their backend. */
#include "backend.h"
#include "blas.h"
#include "error.h"
#include "pool.h"
#include "rows.h"

#if defined(__x86_64__)
#    include <cpuid.h>
#endif
#include <gnu/libc-version.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#if defined(__x86_64__)
/* __builtin_cpu_supports does not know f16c in clang 14. The operating system saves its registers if it does AVX2's. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

/* 0 portable, 1 AVX2, 2 AVX-512: the CPU's level, lowered by KSAUTO_ISA. */
static int isa_level(void)
{
    int level = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) level = 1;
    if (level && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        level = 2;
#endif
    const char *wish = getenv("KSAUTO_ISA");
    if (wish && strcmp(wish, "portable") == 0) return 0;
    if (wish && strcmp(wish, "avx2") == 0 && level > 1) return 1;
    return level;
}

static int cpu_level(void)
{
    /* Read once: a kernel asks on every call. Two threads that both find -1 write the same value. */
    static _Atomic int level = -1;
    if (level < 0) level = isa_level();
    return level;
}

bool ks_cpu_has_avx2(void)
{
    return cpu_level() >= 1;
}

bool ks_cpu_has_avx512(void)
{
    return cpu_level() >= 2;
}

double ks_cpu_alone_s(const ks_problem *p)
{
    return fmax(ks_problem_bytes(p) / 1e10, ks_problem_flops(p) / 1e11);
}

bool ks_cpu_is_wide(const ks_problem *p)
{
    return ks_cpu_alone_s(p) > KS_POOL_LEAST_S;
}

static void cpu_model(char *name, size_t size)
{
    snprintf(name, size, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        char *value = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!value) continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = '\0';
        if (*value) snprintf(name, size, "%s", value);
        break;
    }
    fclose(f);
}

static int64_t known(long value)
{
    return value > 0 ? (int64_t)value : 0;
}

void ks_device_cpu(ks_device *device)
{
    *device = (ks_device){.backend = KS_CPU, .units = ks_pool_threads()};
    char model[KS_DEVICE_BYTES - 24];
    cpu_model(model, sizeof model);
    snprintf(device->name, sizeof device->name, "%s (%d thread%s)", model, device->units,
             device->units > 1 ? "s" : "");
    static const char *const levels[] = {"portable", "avx2", "avx512"};
    snprintf(device->arch, sizeof device->arch, "%s", levels[cpu_level()]);
    device->l1_bytes = known(sysconf(_SC_LEVEL1_DCACHE_SIZE));
    device->l2_bytes = known(sysconf(_SC_LEVEL2_CACHE_SIZE));
    device->l3_bytes = known(sysconf(_SC_LEVEL3_CACHE_SIZE));
    device->memory_bytes = known(sysconf(_SC_PHYS_PAGES)) * known(sysconf(_SC_PAGESIZE));
    struct utsname system;
    if (uname(&system) == 0)
        snprintf(device->driver, sizeof device->driver, "%.20s %.40s", system.sysname, system.release);
    snprintf(device->runtime, sizeof device->runtime, "glibc %s", gnu_get_libc_version());
    snprintf(device->blas, sizeof device->blas, "%s", ks_blas_name());
}

int ks_cuda_count(const char **why)
{
    const ks_backend_ops *cuda = ks_backend_find(KS_CUDA);
    if (why) *why = "this build has no CUDA backend";
    return cuda ? cuda->count(why) : 0;
}

ks_status ks_device_cuda(int index, ks_device *device)
{
    const char *why;
    const int count = ks_cuda_count(&why);
    if (count == 0) return ks_fail(KS_ERR_DEVICE, "cuda:%d is not there: %s", index, why);
    if (index < 0 || index >= count)
        return ks_fail(KS_ERR_DEVICE, "cuda:%d is not there: %d CUDA device%s, numbered from 0", index, count,
                       count > 1 ? "s" : "");
    return ks_backend_find(KS_CUDA)->describe(index, device);
}

/* The N of "cuda:N", 0 for "cuda", -1 for other texts. */
static int cuda_index(const char *text)
{
    if (strcmp(text, "cuda") == 0) return 0;
    if (strncmp(text, "cuda:", 5) != 0 || text[5] < '0' || text[5] > '9') return -1;
    char *end;
    const long index = strtol(text + 5, &end, 10);
    return *end == '\0' && index <= 9999 ? (int)index : -1;
}

ks_status ks_device_find(const char *text, ks_device *device)
{
    ks_device_cpu(device);
    if (!text || !*text || strcmp(text, "cpu") == 0 || strcmp(text, device->name) == 0) return KS_OK;
    if (cuda_index(text) >= 0) return ks_device_cuda(cuda_index(text), device);
    if (strncmp(text, "cuda:", 5) == 0)
        return ks_fail(KS_ERR_DEVICE, "device \"%.80s\" is not of the form cuda:N; valid: cuda:0, cuda:1, ...", text);
    const int count = ks_cuda_count(NULL);
    for (int i = 0; i < count; i++)
        if (ks_device_cuda(i, device) == KS_OK && strcmp(text, device->name) == 0) return KS_OK;
    return ks_fail(KS_ERR_NO_DATA, "device \"%.80s\" is not on this machine", text);
}

/* Those of ASCII, and the further 32 that UTF-8 begins with 0xc2. */
bool ks_text_is_plain(const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++)
        if (*at < ' ' || *at == 0x7f || (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0)) return false;
    return true;
}

void ks_device_state_read(const ks_device *device, ks_device_state *state)
{
    const ks_backend_ops *ops = ks_backend_find(device->backend);
    *state = (ks_device_state){.energy_j = NAN};
    if (ops) ops->state(device, state);
}

void ks_device_assume_rates(ks_device *device)
{
    const bool gpu = device->backend == KS_CUDA;
    if (device->units < 1) device->units = 1; /* known by name alone; kernels count on there being one */
    const double units = device->units;
    const double lanes = strcmp(device->arch, "avx512") == 0 ? 32 : strcmp(device->arch, "avx2") == 0 ? 16 : 4;
    /* A core: two vector FMAs a cycle at 2.5 GHz and 80 % of that; a GPU's multiprocessor: 128 FMAs at 1.5 GHz. */
    const double f32 = gpu ? units * 128 * 2 * 1.5e9 : units * lanes * 2 * 2.5e9 * 0.8;
    const double assumed[KS_NTYPES] = {
        [KS_F32] = f32, [KS_F16] = gpu ? 8 * f32 : f32, [KS_BF16] = gpu ? 8 * f32 : f32, [KS_F64] = f32 / 2};
    if (device->copy_bytes_per_s <= 0) device->copy_bytes_per_s = gpu ? units * 15e9 : fmin(units * 10e9, 200e9);
    for (int t = 0; t < KS_NTYPES; t++)
        if (device->gemm_flops_per_s[t] <= 0) device->gemm_flops_per_s[t] = assumed[t];
}

double ks_roofline_s(const ks_device *device, const ks_problem *p)
{
    return fmax(ks_problem_bytes(p) / device->copy_bytes_per_s,
                ks_problem_flops(p) / device->gemm_flops_per_s[p->type]);
}

double ks_dense_roofline_s(const ks_device *device, const ks_problem *p)
{
    const double rows = (double)p->a * (double)p->b * (double)p->d,
                 columns = (double)p->a * (double)p->c * (double)p->d;
    const double batch = (double)p->batch;
    const double bytes = (double)ks_type_bytes(p->type) * (batch * (rows + columns) + rows * columns);
    return fmax(bytes / device->copy_bytes_per_s, 2 * batch * rows * columns / device->gemm_flops_per_s[p->type]);
}
