/* Allocators that defer to the next ones in line: the C library's, or a sanitizer's, which sees all that was not freed. Before
 * these are known (looking them up may itself allocate) the C library's own serve. */
#include "bad_memory.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 8, MOST_SITES = 1 << 14 };

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void *(*next_aligned)(size_t, size_t);
static char *(*next_strdup)(const char *);

static enum { IDLE, WATCHING, FAILING } mode;
static _Thread_local bool mine, inside;
static int64_t counted, fail_at;
static bool fail_once, failed;

static uint64_t site_key[MOST_SITES];
static int64_t site_first[MOST_SITES];
static int sites;

__attribute__((constructor)) static void look_up(void)
{
    void *frames[DEPTH];
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_aligned = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&next_strdup = dlsym(RTLD_NEXT, "strdup");
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    backtrace(frames, DEPTH); /* loads what it needs */
}

static void note_site(void)
{
    void *frames[DEPTH];
    uint64_t key = 0;
    const int depth = backtrace(frames, DEPTH);
    for (int i = 0; i < depth; i++) key = (key ^ (uint64_t)(uintptr_t)frames[i]) * 0x9e3779b97f4a7c15u;
    for (uint64_t at = key >> 50, i = 0; i < MOST_SITES; i++, at = (at + 1) % MOST_SITES) {
        if (site_key[at] == key) return;
        if (site_key[at]) continue;
        site_key[at] = key;
        site_first[sites++] = counted;
        return;
    }
}

static bool fails(void)
{
    if (mode == IDLE || !mine || inside) return false;
    inside = true;
    if (mode == WATCHING) note_site();
    inside = false;
    const int64_t at = counted++;
    if (mode == WATCHING || at < fail_at || (fail_once && at > fail_at)) return false;
    failed = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t bytes)
{
    if (!next_malloc) return __libc_malloc(bytes);
    return fails() ? NULL : next_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    if (!next_malloc) return __libc_calloc(count, bytes);
    return fails() ? NULL : next_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    if (!next_malloc) return __libc_realloc(memory, bytes);
    return fails() ? NULL : next_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : next_aligned(alignment, bytes);
}

/* The C library's would call malloc above, a sanitizer's would not. */
char *strdup(const char *text)
{
    if (!next_strdup || fails()) return NULL;
    const bool before = inside;
    inside = true;
    char *copy = next_strdup(text);
    inside = before;
    return copy;
}

void memory_watch(void)
{
    memset(site_key, 0, sizeof site_key);
    sites = 0, counted = 0, failed = false, mine = true;
    mode = WATCHING;
}

void memory_fail(int64_t at, bool once)
{
    fail_at = at, fail_once = once, counted = 0, failed = false, mine = true;
    mode = FAILING;
}

int64_t memory_stop(void)
{
    mode = IDLE;
    return counted;
}

bool memory_failed(void)
{
    return failed;
}

int memory_sites(void)
{
    return sites;
}

int64_t memory_site(int i)
{
    return site_first[i];
}
