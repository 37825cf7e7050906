/* Allocators that defer to the C library's own. Everything in the process comes through here, so a failing run can be compared
 * with itself: what a use of the library takes it must give back, whatever failed in between. */
#include "bad_memory.h"

#include <errno.h>
#include <execinfo.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 8, MOST_SITES = 1 << 14 };

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *memory);

static enum { IDLE, WATCHING, FAILING } mode;
static _Thread_local bool mine, inside;
static int64_t counted, balance, fail_at;
static bool fail_once, failed;

static uint64_t site_key[MOST_SITES];
static int64_t site_first[MOST_SITES];
static int sites;

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

static void *taken(void *memory)
{
    if (memory && mode != IDLE && mine && !inside) balance++;
    return memory;
}

void *malloc(size_t bytes)
{
    return fails() ? NULL : taken(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : taken(__libc_calloc(count, bytes));
}

void *realloc(void *memory, size_t bytes)
{
    if (fails()) return NULL;
    return memory ? __libc_realloc(memory, bytes) : taken(__libc_realloc(NULL, bytes));
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : taken(__libc_memalign(alignment, bytes));
}

void free(void *memory)
{
    if (memory && mode != IDLE && mine && !inside) balance--;
    __libc_free(memory);
}

void memory_watch(void)
{
    void *frames[DEPTH];
    backtrace(frames, DEPTH); /* loads what it needs */
    memset(site_key, 0, sizeof site_key);
    sites = 0, counted = balance = 0, failed = false, mine = true;
    mode = WATCHING;
}

void memory_fail(int64_t at, bool once)
{
    fail_at = at, fail_once = once, counted = balance = 0, failed = false, mine = true;
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

int64_t memory_balance(void)
{
    return balance;
}

int memory_sites(void)
{
    return sites;
}

int64_t memory_site(int i)
{
    return site_first[i];
}
