/* The CPU as a backend: host memory, work that is done when a call returns, wall time. */
#include "backend.h"
#include "error.h"
#include "fused_core.h"
#include "pool.h"
#include "rapl.h"
#include "timer.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, COPY_PIECE = 1 << 20 };

static int count(const char **why)
{
    if (why) *why = "";
    return 1;
}

static ks_status describe(int index, ks_device *device)
{
    (void)index;
    ks_device_cpu(device);
    return KS_OK;
}

static ks_rapl counters;
static pthread_once_t counters_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t counters_lock = PTHREAD_MUTEX_INITIALIZER;

static void find_counters(void)
{
    ks_rapl_open(&counters, "/sys/class/powercap");
}

static void state(const ks_device *device, ks_device_state *now)
{
    (void)device;
    *now = (ks_device_state){.energy_j = NAN};
    pthread_once(&counters_once, find_counters);
    pthread_mutex_lock(&counters_lock);
    now->energy_j = ks_rapl_read(&counters);
    pthread_mutex_unlock(&counters_lock);
}

/* A number behind a label, or alone in its file; -1 if there is none. */
static int64_t read_number(const char *path, const char *label)
{
    char line[128];
    long long number = -1;
    FILE *in = fopen(path, "re");
    while (in && number < 0 && fgets(line, sizeof line, in)) {
        const size_t length = strlen(label);
        if (strncmp(line, label, length) != 0 || sscanf(line + length, "%lld", &number) != 1) number = -1;
    }
    if (in) fclose(in);
    return number;
}

/* What the system could give, or what the control group (of either version) is still allowed: cached files, which count as
 * used, would be given up. */
static int64_t left(const ks_device *device)
{
    static const struct {
        const char *most, *used, *facts, *cached;
    } groups[] = {{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
                   "inactive_file "},
                  {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                   "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file "}};
    (void)device;
    int64_t bytes = read_number("/proc/meminfo", "MemAvailable:");
    if (bytes > 0) bytes *= 1024;
    for (int i = 0; bytes > 0 && i < 2; i++) {
        const int64_t most = read_number(groups[i].most, ""), used = read_number(groups[i].used, "");
        const int64_t cached = read_number(groups[i].facts, groups[i].cached);
        if (most <= 0 || used < 0) continue;
        const int64_t free_bytes = most - used + (cached > 0 ? cached : 0);
        if (free_bytes < bytes) bytes = free_bytes > 0 ? free_bytes : 1;
    }
    return bytes > 0 ? bytes : 0;
}

static ks_status alloc(const ks_device *device, size_t bytes, void **memory)
{
    (void)device;
    if (bytes <= SIZE_MAX - ALIGN)
        *memory = aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN + !bytes * ALIGN);
    return *memory ? KS_OK : ks_fail(KS_ERR_MEMORY, "out of memory: %zu bytes", bytes);
}

static void release(const ks_device *device, void *memory)
{
    (void)device;
    free(memory);
}

static ks_status copy_bytes(const ks_device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes > 0) memcpy(to, from, bytes);
    return KS_OK;
}

static ks_status gather(const ks_device *device, void *to_host, const void *from_device, size_t element_bytes,
                        const int64_t *starts, int runs, int64_t step, int64_t each)
{
    (void)device;
    char *to = to_host;
    for (int r = 0; r < runs; r++)
        for (int64_t q = 0; q < each; q++, to += element_bytes)
            memcpy(to, (const char *)from_device + (size_t)(starts[r] + q * step) * element_bytes, element_bytes);
    return KS_OK;
}

static ks_status set(const ks_device *device, void *memory, int byte, size_t bytes)
{
    (void)device;
    if (bytes > 0) memset(memory, byte, bytes);
    return KS_OK;
}

static ks_status set_some(const ks_device *device, void *memory, int byte, size_t element_bytes, const int64_t *at,
                          int count)
{
    (void)device;
    for (int i = 0; i < count; i++) memset((char *)memory + (size_t)at[i] * element_bytes, byte, element_bytes);
    return KS_OK;
}

/* The same words as memory_cuda.cu makes: splitmix64, counted. */
static ks_status randomise(const ks_device *device, void *memory, size_t bytes, uint64_t seed)
{
    (void)device;
    for (size_t i = 0; i * 8 < bytes; i++) {
        uint64_t z = seed * 0xd1342543de82ef95u + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z = ((z ^ z >> 31) & 0x81ff81ff81ff81ffu) | 0x3e003e003e003e00u;
        memcpy((char *)memory + i * 8, &z, bytes - i * 8 < 8 ? bytes - i * 8 : 8);
    }
    return KS_OK;
}

typedef struct copy_job {
    char *to;
    const char *from;
    size_t bytes;
} copy_job;

static void copy_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const copy_job *job = arg;
    const size_t at = (size_t)index * COPY_PIECE, left = job->bytes - at;
    ks_fused_copy(job->to + at, job->from + at, left < COPY_PIECE ? left : COPY_PIECE);
}

/* Over the whole team, by whole vectors past the caches. */
static ks_status copy(const ks_device *device, void *to, const void *from, size_t bytes, void *stream)
{
    (void)device, (void)stream;
    copy_job job = {to, from, bytes};
    ks_pool_run((int64_t)((bytes + COPY_PIECE - 1) / COPY_PIECE), (double)bytes / 1e10, copy_task, &job);
    return KS_OK;
}

static ks_status check(const ks_device *device, const void *memory, size_t bytes, const char *name)
{
    (void)device, (void)memory, (void)bytes, (void)name;
    return KS_OK;
}

static ks_status pool_open(const ks_device *device, void **pool)
{
    (void)device;
    *pool = NULL;
    return KS_OK;
}

static ks_status wait(const ks_device *device)
{
    (void)device;
    return KS_OK;
}

static ks_status time_calls(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds)
{
    (void)device;
    ks_pool_wake();
    const double start = ks_now_s();
    ks_status s = KS_OK;
    for (int i = 0; s == KS_OK && i < calls; i++) s = body(user, i, NULL);
    *seconds = ks_now_s() - start;
    return s;
}

static bool capturing(const ks_device *device, void *stream)
{
    (void)device, (void)stream;
    return false;
}

const ks_backend_ops ks_backend_cpu = {.count = count,
                                       .describe = describe,
                                       .state = state,
                                       .alloc = alloc,
                                       .release = release,
                                       .left = left,
                                       .put = copy_bytes,
                                       .get = copy_bytes,
                                       .gather = gather,
                                       .set = set,
                                       .set_some = set_some,
                                       .randomise = randomise,
                                       .copy = copy,
                                       .check = check,
                                       .pool_open = pool_open,
                                       .wait = wait,
                                       .time = time_calls,
                                       .capturing = capturing,
                                       .grad_bytes = ks_cpu_grad_bytes,
                                       .grad_weights = ks_cpu_grad_weights,
                                       .transpose = ks_cpu_transpose,
                                       .finish = ks_cpu_finish};
