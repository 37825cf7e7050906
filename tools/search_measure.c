/* Running the chains that a search has found, the way a user would: factor by factor, by ks_auto_matmul.
 *
 * Between two runs of one chain run all the others, and each has arrays of its own, so that inputs are about as cold as
 * they were when the factors were measured. */
#include "search.h"

#include "device.h"
#include "error.h"
#include "timer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 9 };

/* The arrays of a chain: its input, what each factor puts out, and weights. */
typedef struct arrays {
    void *x[SEARCH_LONGEST + 1], *k[SEARCH_LONGEST];
} arrays;

/* Bytes whose values are small numbers in every type: no NaN, no Inf, few zeros. */
static void *random_array(int64_t count, ks_type type, uint32_t *state)
{
    const size_t size = ks_type_bytes(type), bytes = (size_t)count * size;
    unsigned char *array = malloc(bytes + 1);
    for (size_t i = 0; array && i < bytes; i++) {
        *state = *state * 1664525u + 1013904223u;
        array[i] = i % size == size - 1 ? 0x3c : (unsigned char)(*state >> 24);
    }
    return array;
}

static bool make_arrays(const search_chain *chain, arrays *a)
{
    uint32_t state = 1;
    for (int i = 0; i < chain->length; i++) {
        const ks_problem *p = &chain->factor[i].problem;
        a->x[i] = random_array(ks_y_count(p), p->type, &state);
        a->k[i] = random_array(ks_k_count(p), p->type, &state);
        if (!a->x[i] || !a->k[i]) return false;
    }
    const ks_problem *first = &chain->factor[chain->length - 1].problem;
    a->x[chain->length] = random_array(ks_x_count(first), first->type, &state);
    return a->x[chain->length] != NULL;
}

static ks_status run_chain(ks_context *ctx, const search_chain *chain, const arrays *a, double *time_s)
{
    const double start = ks_now_s();
    ks_status s = KS_OK;
    for (int i = chain->length - 1; s == KS_OK && i >= 0; i--)
        s = ks_auto_matmul(ctx, &chain->factor[i].problem, a->x[i + 1], a->k[i], a->x[i], NULL);
    *time_s = ks_now_s() - start;
    return s;
}

static int compare(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

ks_status search_measure(ks_context *ctx, search_chain *chains, int count)
{
    ks_device device;
    ks_advice advice;
    ks_status s = ks_advise(ctx, &chains[0].factor[0].problem, &advice);
    if (s != KS_OK) return s;
    ks_device_cpu(&device);
    if (strcmp(device.name, advice.device) != 0)
        return ks_fail(KS_ERR_UNSUPPORTED, "--measure runs on this machine's CPU alone, not on \"%s\"",
                       advice.device);
    arrays *all = calloc((size_t)count, sizeof *all);
    double(*times)[RUNS] = calloc((size_t)count, sizeof *times);
    s = all && times ? KS_OK : ks_fail(KS_ERR_MEMORY, "out of memory for %d chains", count);
    for (int i = 0; s == KS_OK && i < count; i++)
        if (!make_arrays(&chains[i], &all[i])) s = ks_fail(KS_ERR_MEMORY, "out of memory for the chains' arrays");
    for (int run = -1; s == KS_OK && run < RUNS; run++) /* the first one touches all memory, and does not count */
        for (int i = 0; s == KS_OK && i < count; i++)
            s = run_chain(ctx, &chains[i], &all[i], &times[i][run < 0 ? 0 : run]);
    for (int i = 0; s == KS_OK && i < count; i++) {
        qsort(times[i], RUNS, sizeof times[i][0], compare);
        chains[i].measured_s = times[i][RUNS / 2];
    }
    for (int i = 0; all && i < count; i++)
        for (int j = 0; j <= SEARCH_LONGEST; j++) {
            free(all[i].x[j]);
            if (j < SEARCH_LONGEST) free(all[i].k[j]);
        }
    free(all);
    free(times);
    return s;
}
