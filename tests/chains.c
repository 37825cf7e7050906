/* Chains on trial: each factor in float64, in turn, is what the chain must come to. */
#include "chains.h"

#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* One factor in float64, batch-first or batch-last as the problem says, or magnitudes of it. */
static double *apply(const ks_problem *p, const double *x, const unsigned char *k, bool magnitudes)
{
    double *y = calloc((size_t)ks_y_count(p), sizeof *y);
    double *row = malloc((size_t)p->c * sizeof *row);
    assert_true(y && row);
    for (int64_t i = 0; i < p->a; i++)
        for (int64_t l = 0; l < p->d; l++)
            for (int64_t j = 0; j < p->b; j++) {
                for (int64_t q = 0; q < p->c; q++) {
                    row[q] = value_load(p->type, k, (size_t)problem_k_index(p, i, j, q, l));
                    if (magnitudes) row[q] = fabs(row[q]);
                }
                for (int64_t n = 0; n < p->batch; n++) {
                    double sum = 0;
                    for (int64_t q = 0; q < p->c; q++) sum += row[q] * x[problem_x_index(p, n, i, q, l)];
                    y[problem_y_index(p, n, i, j, l)] = sum;
                }
            }
    free(row);
    return y;
}

static double *apply_all(const chain_trial *t, bool magnitudes)
{
    const ks_problem *first = &t->f[t->count - 1];
    double *x = malloc((size_t)ks_x_count(first) * sizeof *x);
    assert_non_null(x);
    for (int64_t q = 0; q < ks_x_count(first); q++) {
        x[q] = value_load(first->type, t->x.seen, (size_t)q);
        if (magnitudes) x[q] = fabs(x[q]);
    }
    for (int f = t->count - 1; f >= 0; f--) {
        double *y = apply(&t->f[f], x, t->k[f].seen, magnitudes);
        free(x);
        x = y;
    }
    return x;
}

static void make_array(const chain_trial *t, array *a, int64_t count, double scale, int misalign, rng *r)
{
    const ks_type type = t->f[0].type;
    const size_t size = ks_type_bytes(type);
    size_t at = (size_t)misalign;
    if (misalign == CHAIN_ANYWHERE) at = t->device->backend == KS_CPU ? rng_below(r, 8) : size * rng_below(r, 4);
    assert_true(array_alloc_on(a, t->device, (size_t)count * size, at, true));
    values_fill(r, type, a->seen, (size_t)count, scale);
}

void chain_changed(chain_trial *t)
{
    assert_true(array_push(&t->x));
    for (int f = 0; f < t->count; f++) assert_true(array_push(&t->k[f]));
    free(t->want);
    free(t->magnitude);
    t->want = apply_all(t, false), t->magnitude = apply_all(t, true);
}

void chain_make(chain_trial *t, const ks_device *device, int misalign, rng *r)
{
    t->device = device;
    make_array(t, &t->x, ks_x_count(&t->f[t->count - 1]), 1, misalign, r);
    make_array(t, &t->y, ks_y_count(&t->f[0]), 1, misalign, r);
    for (int f = 0; f < t->count; f++) {
        /* So that sums stay of one size through the chain. */
        make_array(t, &t->k[f], ks_k_count(&t->f[f]), 1 / sqrt((double)t->f[f].c), misalign, r);
        t->weights[f] = t->k[f].data;
    }
    t->want = t->magnitude = NULL;
    chain_changed(t);
}

void chain_drop(chain_trial *t)
{
    free(t->want);
    free(t->magnitude);
    array_free(&t->x);
    array_free(&t->y);
    for (int f = 0; f < t->count; f++) array_free(&t->k[f]);
}

/* The roundings of a chain: each factor's sums, and one to the type after each. Float16 may underflow, too. */
static double bound_at(const chain_trial *t, int64_t at)
{
    static const double rounding[] = {[KS_F32] = 0x1p-24, [KS_F16] = 0x1p-11, [KS_BF16] = 0x1p-8, [KS_F64] = 0x1p-52};
    const ks_type type = t->f[0].type;
    double terms = 0;
    for (int f = 0; f < t->count; f++) terms += (double)t->f[f].c + 8;
    const double sums = terms * (type == KS_F64 ? 0x1p-52 : 0x1p-24), roundings = t->count * rounding[type];
    return 1.1 * (sums + roundings) * t->magnitude[at] + (type == KS_F16 ? 1e-4 : 1e-300);
}

static bool right(const chain_trial *t, int64_t at, double y, double want)
{
    if (isnan(want)) return isnan(y);
    if (isinf(want)) return y == want;
    return fabs(y - want) <= bound_at(t, at);
}

void chain_check(chain_trial *t, ks_chain *chain, const ks_epilogue *epilogue, uint64_t seed)
{
    assert_true(array_poison(&t->y));
    ks_status s = ks_chain_matmul_with(chain, t->x.data, t->weights, t->y.data, epilogue, NULL);
    if (s == KS_OK) s = ks_device_wait(t->device);
    if (s != KS_OK) fail_msg("%s", ks_status_message(s));
    assert_true(array_pull(&t->y));
    assert_true(array_zone_intact(&t->y));
    for (int64_t q = 0; q < ks_y_count(&t->f[0]); q++) {
        const double y = value_load(t->f[0].type, t->y.seen, (size_t)q);
        const double want = epilogue ? fmax(0, t->want[q]) : t->want[q];
        if (!right(t, q, y, want))
            fail_msg("output %" PRId64 " is %.9g, must be %.9g within %.3g, by\n%s(seed %" PRIu64 ")", q, y, want,
                     bound_at(t, q), ks_chain_describe(chain), seed);
    }
}
