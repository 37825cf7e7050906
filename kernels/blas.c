/* Loading OpenBLAS with the right kernel set, and keeping it to one thread while the team owns the work. */
#include "blas.h"
#include "rows.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

typedef void sgemm_function(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                            const float *b, int ldb, float beta, float *c, int ldc);
typedef void dgemm_function(int order, int ta, int tb, int m, int n, int k, double alpha, const double *a, int lda,
                            const double *b, int ldb, double beta, double *c, int ldc);

static struct {
    void *library;
    sgemm_function *sgemm;
    dgemm_function *dgemm;
    int (*get_threads)(void);
    void (*set_threads)(int);
    char name[96];
    char **environment;
    pthread_mutex_t lock; /* guards users and threads */
    int users, threads;
} blas = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static const char library_name[] = "libopenblas.so.0";

/* dlopen with one variable more in the environment. The array of variables is exchanged whole and put back, since a
 * setenv could free the array under another thread's getenv. */
static void *open_with_core(const char *core)
{
    static char variable[64];
    size_t count = 0;
    while (environ && environ[count]) count++;
    char **with = malloc((count + 2) * sizeof *with), **without = environ;
    if (!with) return NULL;
    snprintf(variable, sizeof variable, "OPENBLAS_CORETYPE=%s", core);
    for (size_t i = 0; i < count; i++) with[i] = without[i];
    with[count] = variable, with[count + 1] = NULL;
    environ = with;
    void *library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    environ = without;
    blas.environment = with; /* another thread may still be reading it: left in place, once a process */
    return library;
}

static void core_of(void *library, char *core, size_t size)
{
    char *(*corename)(void) = NULL;
    *(void **)&corename = dlsym(library, "openblas_get_corename");
    snprintf(core, size, "%s", corename ? corename() : "unknown");
}

/* Kernel sets of OpenBLAS that use AVX2 or better; any other one on a CPU with AVX2 is a misdetection. */
static bool core_is_modern(const char *core)
{
    static const char *const modern[] = {"Haswell", "Zen", "Excavator", "SkylakeX", "Cooperlake", "SapphireRapids"};
    for (size_t i = 0; i < sizeof modern / sizeof *modern; i++)
        if (strcasecmp(core, modern[i]) == 0) return true;
    return false;
}

static void load(void)
{
    char core[32], version[16] = "";
    const bool loaded_before = dlopen(library_name, RTLD_NOW | RTLD_NOLOAD) != NULL;
    void *library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    core_of(library, core, sizeof core);
    if (!loaded_before && !getenv("OPENBLAS_CORETYPE") && ks_cpu_has_avx2() && !core_is_modern(core)) {
        dlclose(library);
        library = open_with_core(ks_cpu_has_avx512() ? "SkylakeX" : "Haswell");
        if (!library) return;
        core_of(library, core, sizeof core);
    }
    *(void **)&blas.sgemm = dlsym(library, "cblas_sgemm");
    *(void **)&blas.dgemm = dlsym(library, "cblas_dgemm");
    *(void **)&blas.get_threads = dlsym(library, "openblas_get_num_threads");
    *(void **)&blas.set_threads = dlsym(library, "openblas_set_num_threads");
    if (!blas.sgemm || !blas.dgemm || !blas.get_threads || !blas.set_threads) {
        dlclose(library);
        return;
    }
    char *(*config)(void) = NULL;
    *(void **)&config = dlsym(library, "openblas_get_config");
    if (config) sscanf(config(), "OpenBLAS %15s", version);
    snprintf(blas.name, sizeof blas.name, "OpenBLAS %s%s%s", version, version[0] ? " " : "", core);
    blas.library = library;
}

bool ks_blas_available(void)
{
    pthread_once(&once, load);
    return blas.library != NULL;
}

const char *ks_blas_name(void)
{
    return ks_blas_available() ? blas.name : "";
}

void ks_blas_begin(void)
{
    pthread_mutex_lock(&blas.lock);
    if (blas.users++ == 0) {
        blas.threads = blas.get_threads();
        if (blas.threads != 1) blas.set_threads(1);
    }
    pthread_mutex_unlock(&blas.lock);
}

void ks_blas_end(void)
{
    pthread_mutex_lock(&blas.lock);
    if (--blas.users == 0 && blas.threads != 1) blas.set_threads(blas.threads);
    pthread_mutex_unlock(&blas.lock);
}

void ks_blas_sgemm(bool add, bool bt, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float *c, int64_t ldc)
{
    blas.sgemm(ROW_MAJOR, NO_TRANS, bt ? TRANS : NO_TRANS, (int)m, (int)n, (int)k, 1, a, (int)lda, b, (int)ldb, add,
               c, (int)ldc);
}

void ks_blas_dgemm(bool add, bool bt, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
                   int64_t ldb, double *c, int64_t ldc)
{
    blas.dgemm(ROW_MAJOR, NO_TRANS, bt ? TRANS : NO_TRANS, (int)m, (int)n, (int)k, 1, a, (int)lda, b, (int)ldb, add,
               c, (int)ldc);
}
