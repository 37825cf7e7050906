/* The one generator of problems, for tests, benchmarks and calibration's acceptance.
 *
 * All three must draw from the same well, or a benchmark flatters shapes that no test ever ran. It knows the public
 * header and the C library and nothing else, so that whoever wants problems compiles problems.c and is done. The
 * random numbers are our own, so that a seed means the same problems on every machine and C library. */
#ifndef KS_TESTS_PROBLEMS_H
#define KS_TESTS_PROBLEMS_H

#include "ksauto.h"

/* splitmix64: one word of state, every seed is good, 0 too. */
typedef struct rng {
    uint64_t state;
} rng;

/* The stream-th generator of a seed: streams do not follow from one another, so that problem 417 of a run can be
 * repeated without drawing the 416 before it. */
rng rng_make(uint64_t seed, uint64_t stream);
uint64_t rng_next(rng *r);
double rng_unit(rng *r);                      /* uniform in [0, 1) */
uint64_t rng_below(rng *r, uint64_t bound);   /* uniform in [0, bound), bound >= 1 */
uint64_t rng_seed_from_env(const char *name); /* the variable's number, else a seed from the clock */

typedef struct problem_bounds {
    ks_problem lo, hi; /* sizes, both ends included; a size of 0 in lo means 1; other fields are ignored */
    unsigned types;    /* bit 1u << ks_type; 0: all */
    unsigned layouts;  /* bit 1u << ks_layout; 0: all */
    double flops_max;  /* 0: no limit */
    double bytes_max;  /* 0: no limit */
    double awkward;    /* share of sizes that are the lower end, a prime, or a power of two plus or minus one */
} problem_bounds;

/* A problem with log-uniform sizes within bounds. Problems past flops_max or bytes_max are drawn again, and after
 * many vain draws cut down to fit as far as lo allows. */
ks_problem problem_random(rng *r, const problem_bounds *bounds);

/* Fills in the sizes of the index-th nasty problem; type, layout and math are KS_F32, KS_BATCH_FIRST, KS_MATH_F32.
 * False past the end. All are small (about 5e6 flops at most). */
bool problem_nasty(size_t index, ks_problem *problem);

enum { PROBLEM_TEXT_BYTES = 160 };

/* "a,b,c,d=2,3,5,7 batch=11 bf16 last", for messages; returns text. */
const char *problem_text(const ks_problem *problem, char text[PROBLEM_TEXT_BYTES]);

/* Where an element lies, in its array. K in block order. */
int64_t problem_x_index(const ks_problem *p, int64_t n, int64_t i, int64_t k, int64_t l);
int64_t problem_k_index(const ks_problem *p, int64_t i, int64_t j, int64_t k, int64_t l);
int64_t problem_y_index(const ks_problem *p, int64_t n, int64_t i, int64_t j, int64_t l);

/* The product by plain loops in float64, independent of the library: y holds ks_y_count sums and magnitude (may be
 * NULL) the sums of |K||X|, which error bounds are made of. x and k are of the problem's type at any alignment.
 * False if memory ran out. */
bool problem_reference(const ks_problem *problem, const void *x, const void *k, double *y, double *magnitude);

/* One output of the same, for problems too large to compute in full. */
double problem_reference_at(const ks_problem *problem, const void *x, const void *k, int64_t n, int64_t i, int64_t j,
                            int64_t l, double *magnitude);

/* Element types, one value at a time, by memcpy and our own conversions: round to nearest even, overflow to Inf,
 * subnormals kept, NaN and Inf kept. Any alignment. */
double value_load(ks_type type, const void *data, size_t index);
void value_store(ks_type type, void *data, size_t index, double value);
double value_round(ks_type type, double value); /* to the nearest value of the type */
size_t value_bytes(ks_type type);
uint16_t value_to_half(double value);
uint16_t value_to_bfloat(double value);
double value_from_half(uint16_t bits);
double value_from_bfloat(uint16_t bits);

/* count values uniform in [-scale, scale]. */
void values_fill(rng *r, ks_type type, void *data, size_t count, double scale);

/* Puts NaN, Inf, -Inf and some zeros (0 * Inf must be seen) at `specials` random places. */
void values_sprinkle(rng *r, ks_type type, void *data, size_t count, size_t specials);

#endif
