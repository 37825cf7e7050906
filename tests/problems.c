/* Problems: random ones, nasty ones, and what their product should be. See problems.h. */
#include "problems.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

rng rng_make(uint64_t seed, uint64_t stream)
{
    rng r = {seed};
    const uint64_t mixed = rng_next(&r);
    return (rng){mixed ^ (stream + 1) * UINT64_C(0xd1342543de82ef95)};
}

uint64_t rng_next(rng *r)
{
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

double rng_unit(rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* The bias of a plain remainder is bound / 2^64: nothing that a test could see. */
uint64_t rng_below(rng *r, uint64_t bound)
{
    return rng_next(r) % bound;
}

uint64_t rng_seed_from_env(const char *name)
{
    const char *text = getenv(name);
    if (text != NULL && *text != '\0') return strtoull(text, NULL, 0);
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    /* Short enough to be typed again. */
    return ((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000) % 1000000000;
}

static bool is_prime(int64_t n)
{
    if (n < 4) return n >= 2;
    for (int64_t f = 2; f * f <= n; f++) {
        if (n % f == 0) return false;
    }
    return true;
}

static int64_t clamp(int64_t value, int64_t lo, int64_t hi)
{
    return value < lo ? lo : value > hi ? hi : value;
}

static int64_t random_size(rng *r, int64_t lo, int64_t hi, double awkward)
{
    if (lo < 1) lo = 1;
    if (hi <= lo) return lo;
    /* Over [lo, hi + 1) and rounded down, or the upper end would almost never be drawn. */
    const double log_lo = log((double)lo), log_hi = log((double)hi + 1.0);
    int64_t size = clamp((int64_t)exp(log_lo + rng_unit(r) * (log_hi - log_lo)), lo, hi);
    if (rng_unit(r) >= awkward) return size;

    switch (rng_below(r, 4)) {
    case 0:
        return lo;
    case 1:
        while (size > lo && !is_prime(size)) size--;
        return size;
    case 2:
        return clamp((int64_t)exp2(floor(log2((double)size))) - 1, lo, hi);
    default:
        return clamp((int64_t)exp2(floor(log2((double)size))) + 1, lo, hi);
    }
}

static unsigned random_bit(rng *r, unsigned allowed, unsigned count)
{
    unsigned which;
    do which = (unsigned)rng_below(r, count);
    while (allowed != 0 && (allowed & (1u << which)) == 0);
    return which;
}

/* Own arithmetic instead of ks_problem_flops and ks_problem_bytes: those are under test, and exact sizes do not
 * matter here. */
static bool fits(const ks_problem *p, const problem_bounds *bounds)
{
    const double ad = (double)p->a * (double)p->d, b = (double)p->b, c = (double)p->c, batch = (double)p->batch;
    const double flops = 2.0 * batch * ad * b * c;
    const double bytes = (double)value_bytes(p->type) * ad * (batch * (b + c) + b * c);
    return (bounds->flops_max <= 0 || flops <= bounds->flops_max) &&
           (bounds->bytes_max <= 0 || bytes <= bounds->bytes_max);
}

ks_problem problem_random(rng *r, const problem_bounds *bounds)
{
    const ks_problem *lo = &bounds->lo, *hi = &bounds->hi;
    ks_problem p = {.math = KS_MATH_F32};
    p.type = (ks_type)random_bit(r, bounds->types, KS_NTYPES);
    p.layout = (ks_layout)random_bit(r, bounds->layouts, KS_NLAYOUTS);
    for (int draw = 0; draw < 1000; draw++) {
        p.a = random_size(r, lo->a, hi->a, bounds->awkward);
        p.b = random_size(r, lo->b, hi->b, bounds->awkward);
        p.c = random_size(r, lo->c, hi->c, bounds->awkward);
        p.d = random_size(r, lo->d, hi->d, bounds->awkward);
        p.batch = random_size(r, lo->batch, hi->batch, bounds->awkward);
        if (fits(&p, bounds)) return p;
    }
    int64_t *sizes[] = {&p.batch, &p.d, &p.a, &p.c, &p.b};
    const int64_t least[] = {lo->batch, lo->d, lo->a, lo->c, lo->b};
    for (int s = 0; s < 5; s++) {
        while (*sizes[s] / 2 >= (least[s] < 1 ? 1 : least[s]) && !fits(&p, bounds)) *sizes[s] /= 2;
    }
    return p;
}

/* Batches on both sides of every tile and vector width in sight, crossed with patterns that are small in every way
 * but one. */
static const int16_t cross_batches[] = {1, 15, 16, 17, 47, 48, 49, 63, 64, 65};
static const int16_t cross_patterns[][4] = {
    {1, 1, 1, 1},   {1, 16, 16, 1}, {2, 16, 16, 16}, {1, 17, 31, 1}, {3, 5, 7, 17},    {2, 1, 33, 13},
    {5, 33, 1, 7},  {7, 3, 2, 31},  {1, 48, 48, 1},  {1, 64, 64, 2}, {13, 2, 3, 1},    {1, 7, 13, 33},
    {2, 13, 5, 16}, {1, 1, 1, 127}, {127, 1, 1, 1},  {3, 31, 33, 3}, {1, 127, 127, 1}, {2, 8, 8, 15},
};

/* The rest, one by one: a, b, c, d, batch; some have more blocks than a side of a CUDA grid. */
static const int32_t singles[][5] = {
    {1, 1, 1, 1, 2},      {1, 1, 1, 1, 127},    {1, 1, 1, 1, 5000},   {1, 1, 2, 1, 1},      {1, 2, 1, 1, 1},
    {1, 1, 5000, 1, 1},   {1, 1, 5000, 1, 17},  {2, 1, 5000, 3, 7},   {1, 1, 5000, 16, 3},  {1, 3, 5000, 1, 33},
    {1, 5000, 1, 1, 1},   {1, 5000, 1, 1, 33},  {2, 5000, 1, 3, 5},   {1, 5000, 3, 1, 31},  {1, 4099, 2, 17, 3},
    {1, 1, 1, 5000, 1},   {1, 1, 1, 5000, 31},  {1, 2, 3, 4099, 3},   {5000, 1, 1, 1, 1},   {5000, 1, 1, 1, 31},
    {4099, 2, 3, 1, 3},   {1021, 2, 2, 2, 7},   {1, 256, 256, 1, 7},  {1, 255, 257, 1, 13}, {1, 257, 255, 2, 3},
    {1, 512, 512, 1, 1},  {1, 511, 513, 1, 2},  {1, 2, 1023, 1, 127}, {1, 1023, 2, 1, 127}, {1, 1, 2047, 2, 127},
    {3, 127, 31, 1, 33},  {3, 31, 127, 1, 33},  {3, 31, 127, 2, 13},  {7, 13, 31, 33, 1},   {31, 13, 7, 5, 3},
    {2, 3, 5, 7, 13},     {13, 7, 5, 3, 2},     {33, 33, 1, 1, 33},   {33, 1, 33, 1, 33},   {1, 33, 33, 33, 1},
    {1, 33, 33, 1, 127},  {1, 31, 31, 31, 31},  {2, 2, 2, 2, 2},      {3, 3, 3, 3, 3},      {5, 5, 5, 5, 5},
    {7, 7, 7, 7, 7},      {13, 13, 13, 13, 13}, {1, 3, 3, 16, 5000},  {1, 2, 2, 17, 8191},  {2, 1, 1, 1, 65537},
    {1, 4, 4, 8, 1025},   {1, 6, 12, 24, 48},   {6, 48, 48, 16, 2},   {1, 14, 6, 64, 33},   {1, 15, 15, 15, 129},
    {1, 16, 16, 128, 3},  {1, 16, 16, 129, 3},  {2, 96, 80, 3, 19},   {1, 65, 65, 4, 65},   {1, 8, 128, 4, 257},
    {1, 128, 8, 4, 257},  {4, 5, 6, 7, 383},    {1, 24, 384, 2, 97},  {1, 100, 300, 1, 61}, {64, 4, 4, 1, 127},
    {1, 4, 4, 64, 127},   {8, 4, 4, 8, 127},    {97, 3, 5, 2, 11},    {2, 5, 3, 97, 11},    {3, 11, 13, 17, 19},
    {1, 2, 2, 70000, 3},  {70000, 2, 2, 1, 3},  {40000, 1, 2, 1, 33}, {1, 1, 60000, 5, 1},  {1, 2, 20011, 17, 2},
    {1, 1, 100003, 3, 3}, {5, 1, 30011, 2, 1},  {1, 3, 65537, 3, 1},  {3, 33, 72, 2, 50},   {1, 40, 24, 4, 130},
    {2, 17, 104, 4, 39},  {1, 20, 264, 12, 43}, {2, 9, 520, 8, 50},   {1, 9, 40, 24, 200},  {2, 3, 72, 24, 133},
    {1, 200, 8, 24, 65},  {3, 5, 16, 16, 129},  {20, 5, 8, 16, 129},  {1, 100, 16, 40, 49},
};

bool problem_nasty(size_t index, ks_problem *problem)
{
    const size_t batches = sizeof cross_batches / sizeof cross_batches[0];
    const size_t crossed = batches * (sizeof cross_patterns / sizeof cross_patterns[0]);
    *problem = (ks_problem){.type = KS_F32, .layout = KS_BATCH_FIRST, .math = KS_MATH_F32};
    if (index < crossed) {
        const int16_t *p = cross_patterns[index / batches];
        problem->a = p[0], problem->b = p[1], problem->c = p[2], problem->d = p[3];
        problem->batch = cross_batches[index % batches];
        return true;
    }
    index -= crossed;
    if (index >= sizeof singles / sizeof singles[0]) return false;
    const int32_t *p = singles[index];
    problem->a = p[0], problem->b = p[1], problem->c = p[2], problem->d = p[3], problem->batch = p[4];
    return true;
}

const char *problem_text(const ks_problem *p, char text[PROBLEM_TEXT_BYTES])
{
    static const char *const types[] = {"f32", "f16", "bf16", "f64"};
    static const char *const layouts[] = {"first", "last"};
    const bool known = (unsigned)p->type < KS_NTYPES && (unsigned)p->layout < KS_NLAYOUTS;
    snprintf(text, PROBLEM_TEXT_BYTES,
             "a,b,c,d=%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 " batch=%" PRId64 " %s %s", p->a, p->b, p->c,
             p->d, p->batch, known ? types[p->type] : "?", known ? layouts[p->layout] : "?");
    return text;
}

int64_t problem_x_index(const ks_problem *p, int64_t n, int64_t i, int64_t k, int64_t l)
{
    const int64_t row = (i * p->c + k) * p->d + l;
    return p->layout == KS_BATCH_FIRST ? n * (p->a * p->c * p->d) + row : row * p->batch + n;
}

int64_t problem_k_index(const ks_problem *p, int64_t i, int64_t j, int64_t k, int64_t l)
{
    return ((i * p->d + l) * p->b + j) * p->c + k;
}

int64_t problem_y_index(const ks_problem *p, int64_t n, int64_t i, int64_t j, int64_t l)
{
    const int64_t row = (i * p->b + j) * p->d + l;
    return p->layout == KS_BATCH_FIRST ? n * (p->a * p->b * p->d) + row : row * p->batch + n;
}

static double *unpack(ks_type type, const void *data, int64_t count)
{
    double *out = malloc((size_t)count * sizeof *out);
    if (out == NULL) return NULL;
    for (int64_t e = 0; e < count; e++) out[e] = value_load(type, data, (size_t)e);
    return out;
}

bool problem_reference(const ks_problem *p, const void *x, const void *k, double *y, double *magnitude)
{
    /* Both unpacked once: a conversion in the innermost loop is most of the time of a test. */
    double *xs = unpack(p->type, x, p->batch * p->a * p->c * p->d);
    double *ks = unpack(p->type, k, p->a * p->b * p->c * p->d);
    const bool ok = xs != NULL && ks != NULL;
    if (!ok) goto done;

    const int64_t step = p->layout == KS_BATCH_FIRST ? p->d : p->d * p->batch; /* from one k to the next, in X */
    for (int64_t n = 0; n < p->batch; n++) {
        for (int64_t i = 0; i < p->a; i++) {
            for (int64_t j = 0; j < p->b; j++) {
                for (int64_t l = 0; l < p->d; l++) {
                    const double *xk = xs + problem_x_index(p, n, i, 0, l);
                    const double *kk = ks + problem_k_index(p, i, j, 0, l);
                    double sum = 0, size = 0;
                    for (int64_t m = 0; m < p->c; m++) {
                        const double product = kk[m] * xk[m * step];
                        sum += product;
                        size += fabs(product);
                    }
                    const int64_t at = problem_y_index(p, n, i, j, l);
                    y[at] = sum;
                    if (magnitude != NULL) magnitude[at] = size;
                }
            }
        }
    }
done:
    free(xs);
    free(ks);
    return ok;
}

double problem_reference_at(const ks_problem *p, const void *x, const void *k, int64_t n, int64_t i, int64_t j,
                            int64_t l, double *magnitude)
{
    double sum = 0, size = 0;
    for (int64_t m = 0; m < p->c; m++) {
        const double product = value_load(p->type, k, (size_t)problem_k_index(p, i, j, m, l)) *
                               value_load(p->type, x, (size_t)problem_x_index(p, n, i, m, l));
        sum += product;
        size += fabs(product);
    }
    if (magnitude != NULL) *magnitude = size;
    return sum;
}
