/* Pinned decisions: read once, when a context opens, sorted, and found by halving. All of the file must be right, or nothing of it
 * is followed: with half a table the ranks of a job would differ, which is what it is there to prevent. But what is wrong with it
 * keeps no context from opening, and no product from being computed; it is told by ks_decisions_status. */
#include "context.h"
#include "csv.h"
#include "error.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *x, const void *y)
{
    const ks_problem *p = &((const pin *)x)->problem, *q = &((const pin *)y)->problem;
    const int64_t first[] = {p->a, p->b, p->c, p->d, p->batch, p->type, p->layout, p->math};
    const int64_t second[] = {q->a, q->b, q->c, q->d, q->batch, q->type, q->layout, q->math};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        if (first[i] != second[i]) return first[i] < second[i] ? -1 : 1;
    return 0;
}

/* math says nothing but of float32. */
static pin key_of(const ks_problem *p)
{
    pin key = {.problem = *p};
    if (p->type != KS_F32) key.problem.math = KS_MATH_F32;
    return key;
}

static ks_status take(void *user, const ks_decision *d)
{
    ks_context *ctx = user;
    pins *all = &ctx->pins;
    if (strcmp(d->device, ctx->device.name) != 0) return KS_OK;
    if (all->count == all->room) {
        const size_t room = all->room ? 2 * all->room : 64;
        pin *items = realloc(all->items, room * sizeof *items);
        if (!items) return ks_fail(KS_ERR_MEMORY, "out of memory for more than %zu decisions", all->count);
        all->items = items, all->room = room;
    }
    pin *new = &all->items[all->count++];
    *new = key_of(&d->problem);
    memcpy(new->kernel, d->kernel, sizeof new->kernel);
    new->line = d->line;
    return KS_OK;
}

/* Sorts; the same decision twice is one, and two for one problem are none. */
static ks_status settle(pins *all, const char *path)
{
    size_t kept = 0;
    if (all->count) qsort(all->items, all->count, sizeof *all->items, compare);
    for (size_t i = 0; i < all->count; i++) {
        const pin *last = kept ? &all->items[kept - 1] : NULL, *this = &all->items[i];
        if (!last || compare(last, this) != 0)
            all->items[kept++] = *this;
        else if (strcmp(last->kernel, this->kernel) != 0)
            return ks_fail(KS_ERR_PARSE, "%s:%" PRId64 ": %s, where line %" PRId64 " says %s for the same problem",
                           path, this->line, this->kernel, last->line, last->kernel);
    }
    all->count = kept;
    return KS_OK;
}

void ks_context_read_pins(ks_context *ctx, const char *path)
{
    pins *all = &ctx->pins;
    if (!path) path = getenv("KSAUTO_DECISIONS");
    if (!path || !*path) return;
    all->asked = true;
    ks_status s = ks_decisions_read_file(path, take, ctx);
    if (s == KS_OK) s = settle(all, path);
    if (s == KS_OK && all->count == 0)
        s = ks_fail(KS_ERR_NO_DATA, "%s: has no decision for device \"%s\"", path, ctx->device.name);
    all->status = s;
    if (s == KS_OK) return;
    all->count = 0;
    snprintf(all->why, sizeof all->why, "%s", ks_status_message(s));
}

int ks_context_pinned(const ks_context *ctx, const ks_problem *p, const ks_prediction *predictions, int count)
{
    if (ctx->pins.count == 0) return -1;
    const pin key = key_of(p);
    const pin *found = bsearch(&key, ctx->pins.items, ctx->pins.count, sizeof key, compare);
    for (int q = 0; found && q < count; q++)
        if (strcmp(predictions[q].kernel->name, found->kernel) == 0) return q;
    return -1;
}

ks_status ks_decisions_status(const ks_context *ctx, const char **why, uint64_t *missed)
{
    if (why) *why = ctx ? ctx->pins.why : "";
    if (missed) *missed = ctx ? atomic_load(&ctx->pins.missed) : 0;
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    return ctx->pins.status;
}
