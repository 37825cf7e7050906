/* Failures as a sorted list, and counts beside it: a decision asks for every kernel, and most stores hold none at all. A store
 * may hold very many, made or by malice, so nothing here is slower than sorting. */
#include "failures.h"
#include "error.h"

#include <stdlib.h>
#include <string.h>

enum { STRIKES = 3, SHARE = 10 };

/* The kernel's row in the table, if it has that version; else -1. */
static int row_of(const char *name, unsigned version)
{
    const ks_kernel *const *table = ks_kernels();
    for (int q = 0; table[q]; q++)
        if (strcmp(table[q]->name, name) == 0) return table[q]->version == version ? q : -1;
    return -1;
}

static bool is_failure(ks_status status)
{
    return status != KS_OK && status != KS_ERR_MEMORY && status != KS_ERR_NO_DATA && status != KS_ERR_INTERRUPTED;
}

static bool is_ruinous(const ks_measurement *m)
{
    return m->status == KS_ERR_INTERNAL || strncmp(m->reason, KS_LOST_DEVICE, sizeof KS_LOST_DEVICE - 1) == 0;
}

bool ks_failures_see(void *user, const ks_measurement *m)
{
    ks_failures *f = user;
    const int row = row_of(m->kernel, m->kernel_version);
    if (row < 0) return true;
    if (m->status == KS_OK) f->tally[row][m->problem.type][m->problem.layout].good++;
    if (!is_failure(m->status)) return true;
    if (f->count == f->room) {
        const size_t room = f->room ? 2 * f->room : 64;
        ks_failure *items = realloc(f->items, room * sizeof *items);
        if (!items) return !(f->incomplete = true);
        f->items = items, f->room = room;
    }
    f->items[f->count++] = (ks_failure){m->problem, row, is_ruinous(m)};
    f->sorted = false;
    return true;
}

ks_status ks_failures_status(const ks_failures *f)
{
    return f->incomplete ? ks_fail(KS_ERR_MEMORY, "out of memory for more than %zu failures", f->count) : KS_OK;
}

void ks_failures_free(ks_failures *f)
{
    free(f->items);
    *f = (ks_failures){0};
}

static int compare(const void *x, const void *y)
{
    const ks_failure *a = x, *b = y;
    const ks_problem *p = &a->problem, *q = &b->problem;
    const bool plain = p->type != KS_F32; /* of which math says nothing */
    const int64_t first[] = {p->a, p->b, p->c, p->d, p->batch, p->layout, p->type, plain ? 0 : p->math, a->kernel};
    const int64_t second[] = {q->a, q->b, q->c, q->d, q->batch, q->layout, q->type, plain ? 0 : q->math, b->kernel};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        if (first[i] != second[i]) return first[i] < second[i] ? -1 : 1;
    return 0;
}

void ks_failures_sort(ks_failures *f)
{
    size_t kept = 0;
    if (f->sorted || f->count == 0) return;
    qsort(f->items, f->count, sizeof *f->items, compare);
    for (size_t i = 0; i < f->count; i++)
        if (kept == 0 || compare(&f->items[kept - 1], &f->items[i]) != 0)
            f->items[kept++] = f->items[i];
        else
            f->items[kept - 1].ruinous |= f->items[i].ruinous;
    f->count = kept;
    for (int q = 0; q <= KS_MAX_KERNELS; q++)
        for (int t = 0; t < KS_NTYPES; t++)
            for (int l = 0; l < KS_NLAYOUTS; l++) f->tally[q][t][l].bad = f->tally[q][t][l].ruinous = 0;
    for (size_t i = 0; i < kept; i++) {
        ks_tally *tally = &f->tally[f->items[i].kernel][f->items[i].problem.type][f->items[i].problem.layout];
        tally->bad++, tally->ruinous += f->items[i].ruinous;
    }
    f->sorted = true;
}

static bool is_barred(const ks_failures *f, const ks_problem *p, const ks_kernel *kernel)
{
    const ks_failure wanted = {*p, row_of(kernel->name, kernel->version), false};
    if (wanted.kernel < 0) return false; /* another machine's */
    const ks_tally *tally = &f->tally[wanted.kernel][p->type][p->layout];
    if (tally->ruinous >= STRIKES) return true;
    if (tally->bad >= STRIKES && SHARE * tally->bad > tally->good + tally->bad) return true;
    return bsearch(&wanted, f->items, f->count, sizeof *f->items, compare) != NULL;
}

int ks_failures_spare(const ks_failures *f, const ks_problem *p, const ks_kernel **kernels, int count)
{
    int kept = 0;
    if (f->count == 0) return count;
    for (int q = 0; q < count; q++)
        if (!is_barred(f, p, kernels[q])) kernels[kept++] = kernels[q];
    return kept;
}
