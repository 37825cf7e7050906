/* Problems past 2^31 and 2^32 elements on cuda:0, as test_long.c has them for the CPU: in X, in Y, in K and in one size
 * alone, where a product or an index kept in 32 bits goes wrong. The arrays lie on the device only; X and K repeat a table
 * of prime length, so that the host knows every element of them, and an index that lost its upper bits reads another one.
 * A sample of outputs is checked, around the edges and at random, and that every output was written.
 *
 * Needs up to some 35 GB of device memory; what does not fit is skipped and said. Minutes. Without a GPU, or with
 * KS_TEST_LONG=0, it is skipped (77). KS_TEST_SEED as in test_gpu.c. */
#include "trial.h"
#include "kernel.h"
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77, SAMPLES = 2000, TABLE = 1000003, PERIODS = 32, PIECE = 1 << 26 };

static const double GB = 1e9, SPARE = 2e9; /* beside our arrays: cuBLAS's code, and others' */

static ks_device gpu;
static uint64_t seed;

/* ---- arrays that repeat a table ---- */

/* Fills `table` with PERIODS periods and the device's array with as many as it takes. */
static void fill(rng *r, ks_type type, unsigned char *table, unsigned char *memory, size_t count)
{
    const size_t size = value_bytes(type), period = TABLE * size, bytes = count * size;
    values_fill(r, type, table, TABLE, 1.0);
    for (size_t q = 1; q < PERIODS; q++) memcpy(table + q * period, table, period);
    for (size_t at = 0; at < bytes; at += PERIODS * period) {
        const size_t piece = bytes - at < PERIODS * period ? bytes - at : PERIODS * period;
        assert_int_equal(ks_memory_put(&gpu, memory + at, table, piece), KS_OK);
    }
}

typedef struct output {
    int64_t n, i, j, l;
} output;

static output output_at(const ks_problem *p, int64_t index)
{
    const bool first = p->layout == KS_BATCH_FIRST;
    const int64_t row = p->a * p->b * p->d;
    output o = {.n = first ? index / row : index % p->batch};
    const int64_t rest = first ? index % row : index / p->batch;
    o.l = rest % p->d, o.j = rest / p->d % p->b, o.i = rest / p->d / p->b;
    return o;
}

/* An output that reads the element of X (or K) at this index, by inverting the index. */
static output reader_of_x(const ks_problem *p, int64_t index, rng *r)
{
    const ks_problem as_y = {p->a, p->c, p->c, p->d, p->batch, p->type, p->layout, p->math};
    output o = output_at(&as_y, index);
    o.j = (int64_t)rng_below(r, (uint64_t)p->b);
    return o;
}

static output reader_of_k(const ks_problem *p, int64_t index, rng *r)
{
    const int64_t row = index / p->c;
    return (output){.n = (int64_t)rng_below(r, (uint64_t)p->batch),
                    .i = row / p->b / p->d,
                    .j = row % p->b,
                    .l = row / p->b % p->d};
}

static output sample(const ks_problem *p, int s, rng *r)
{
    static const int64_t edges[] = {INT64_C(1) << 30, INT64_C(1) << 31, INT64_C(1) << 32};
    if (s == 0) return output_at(p, 0);
    if (s == 1) return output_at(p, ks_y_count(p) - 1);
    if (s < SAMPLES / 2) {
        const int64_t near = edges[s / 3 % 3] + (int64_t)rng_below(r, 200) - 100;
        if (near < ks_y_count(p) && s % 3 == 0) return output_at(p, near);
        if (near < ks_x_count(p) && s % 3 == 1) return reader_of_x(p, near, r);
        if (near < ks_k_count(p) && s % 3 == 2) return reader_of_k(p, near, r);
    }
    return output_at(p, (int64_t)rng_below(r, (uint64_t)ks_y_count(p)));
}

/* ---- one problem ---- */

typedef struct arrays {
    unsigned char *x, *k, *y, *x_table, *k_table;
    size_t x_bytes, k_bytes, y_bytes;
} arrays;

/* By eights: four poisoned halves in a row. (One alone would be NaN in a sample, or be missed.) */
static bool all_written(const arrays *in)
{
    uint64_t *words = malloc(PIECE);
    bool written = words != NULL;
    for (size_t at = 0; written && at + sizeof *words <= in->y_bytes; at += PIECE) {
        const size_t piece = in->y_bytes - at < PIECE ? in->y_bytes - at : PIECE;
        written = ks_memory_get(&gpu, words, in->y + at, piece) == KS_OK;
        for (size_t w = 0; written && w < piece / sizeof *words; w++) written = words[w] != UINT64_MAX;
    }
    free(words);
    return written;
}

static bool output_right(const ks_problem *p, const arrays *in, const char *who, output o)
{
    char text[PROBLEM_TEXT_BYTES];
    const int64_t at = problem_y_index(p, o.n, o.i, o.j, o.l);
    unsigned char bytes[8];
    double reference = 0, magnitude = 0;
    for (int64_t q = 0; q < p->c; q++) {
        const double term = value_load(p->type, in->x_table, (size_t)(problem_x_index(p, o.n, o.i, q, o.l) % TABLE)) *
                            value_load(p->type, in->k_table, (size_t)(problem_k_index(p, o.i, o.j, q, o.l) % TABLE));
        reference += term, magnitude += fabs(term);
    }
    const size_t size = value_bytes(p->type);
    assert_int_equal(ks_memory_get(&gpu, bytes, in->y + (size_t)at * size, size), KS_OK);
    const double y = value_load(p->type, bytes, 0);
    if (trial_product_right(p, y, reference, magnitude)) return true;
    print_error("%s on %s: y[%" PRId64 "] (n,i,j,l = %" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
                ") is %g, reference %g\n",
                who, problem_text(p, text), at, o.n, o.i, o.j, o.l, y, reference);
    return false;
}

static bool try_kernel(const ks_problem *p, const ks_kernel *kernel, const arrays *in)
{
    char text[PROBLEM_TEXT_BYTES];
    const size_t wanted = kernel->workspace_bytes(p, &gpu);
    const double total = (double)wanted + (double)in->x_bytes + (double)in->k_bytes + (double)in->y_bytes;
    if (total + SPARE > (double)gpu.memory_bytes) {
        print_message("  %-20s skipped: %.1f GB in all\n", kernel->name, total / GB);
        return true;
    }
    void *workspace = NULL;
    if (wanted > 0 && ks_memory_alloc(&gpu, wanted, &workspace) != KS_OK) {
        print_message("  %-20s skipped: %s\n", kernel->name, ks_status_message(KS_ERR_MEMORY));
        return true;
    }
    assert_int_equal(ks_memory_set(&gpu, in->y, 0xff, in->y_bytes), KS_OK);
    const ks_run_args args = {.device = &gpu, .x = in->x, .k = in->k, .y = in->y, .workspace = workspace};
    ks_status status = kernel->run(p, &args);
    if (status == KS_OK) status = ks_device_wait(&gpu);
    ks_memory_free(&gpu, workspace);
    if (status != KS_OK) {
        print_error("%s on %s: %s\n", kernel->name, problem_text(p, text), ks_status_message(status));
        return false;
    }
    if (!all_written(in)) {
        print_error("%s on %s: left outputs unwritten\n", kernel->name, problem_text(p, text));
        return false;
    }
    rng r = rng_make(seed, 1);
    for (int s = 0; s < SAMPLES; s++)
        if (!output_right(p, in, kernel->name, sample(p, s, &r))) return false;
    print_message("  %-20s right, with %.1f GB in all\n", kernel->name, total / GB);
    return true;
}

static void try_problem(ks_problem p)
{
    const size_t size = value_bytes(p.type);
    char text[PROBLEM_TEXT_BYTES];
    void *x = NULL, *k = NULL, *y = NULL;
    bool ok = true, there;
    rng r = rng_make(seed, 0);
    arrays in = {.x_bytes = size * (size_t)ks_x_count(&p),
                 .k_bytes = size * (size_t)ks_k_count(&p),
                 .y_bytes = size * (size_t)ks_y_count(&p),
                 .x_table = malloc(PERIODS * TABLE * size),
                 .k_table = malloc(PERIODS * TABLE * size)};
    assert_true(in.x_table != NULL && in.k_table != NULL);
    assert_int_equal(ks_problem_check(&p), KS_OK);
    there = ks_memory_alloc(&gpu, in.x_bytes, &x) == KS_OK && ks_memory_alloc(&gpu, in.k_bytes, &k) == KS_OK &&
            ks_memory_alloc(&gpu, in.y_bytes, &y) == KS_OK;
    if (there) {
        in.x = x, in.k = k, in.y = y;
        fill(&r, p.type, in.x_table, in.x, in.x_bytes / size);
        fill(&r, p.type, in.k_table, in.k, in.k_bytes / size);
    } else {
        print_message("%s: skipped, not enough device memory\n", problem_text(&p, text));
    }
    for (int layout = 0; there && layout < KS_NLAYOUTS; layout++) {
        const ks_kernel *kernels[KS_MAX_KERNELS];
        p.layout = (ks_layout)layout;
        print_message("%s, seed %" PRIu64 "\n", problem_text(&p, text), seed);
        const int count = ks_kernels_for(&p, &gpu, kernels);
        for (int c = 0; c < count; c++) ok = try_kernel(&p, kernels[c], &in) && ok;
    }
    ks_memory_free(&gpu, x), ks_memory_free(&gpu, k), ks_memory_free(&gpu, y);
    free(in.x_table), free(in.k_table);
    assert_true(ok);
}

/* Each a little past the mark in one array and small in the others; odd sizes, so that nothing divides. */
static void test_long_x(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 3, .b = 2, .c = 331, .d = 5, .batch = 432601, .type = KS_F16});
    try_problem((ks_problem){.a = 3, .b = 2, .c = 331, .d = 5, .batch = 865201, .type = KS_BF16});
    try_problem((ks_problem){.a = 3, .b = 2, .c = 331, .d = 5, .batch = 432601, .type = KS_F32});
}

static void test_long_y(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 3, .b = 331, .c = 2, .d = 5, .batch = 432601, .type = KS_F16});
    try_problem((ks_problem){.a = 3, .b = 331, .c = 2, .d = 5, .batch = 432601, .type = KS_F32});
}

static void test_long_k(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 1, .b = 26755, .c = 26757, .d = 3, .batch = 1, .type = KS_F16});
    try_problem((ks_problem){.a = 1, .b = 26755, .c = 26757, .d = 3, .batch = 1, .type = KS_F32});
}

/* And sizes that tensor cores like. */
static void test_long_even(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 4, .b = 16, .c = 64, .d = 16, .batch = 540672, .type = KS_F16});
    try_problem((ks_problem){.a = 2, .b = 64, .c = 32, .d = 16, .batch = 1064960, .type = KS_F16});
    try_problem((ks_problem){.a = 4, .b = 16, .c = 64, .d = 16, .batch = 540672, .type = KS_F32});
}

/* One size past 2^31 alone: counters of tiles and rows, and leading dimensions. */
static void test_long_size(void **state)
{
    const int64_t longer = (INT64_C(1) << 31) + 11;
    (void)state;
    try_problem((ks_problem){.a = 1, .b = 1, .c = 1, .d = 2, .batch = longer, .type = KS_F16});
    try_problem((ks_problem){.a = 1, .b = 1, .c = 2, .d = longer, .batch = 1, .type = KS_F16});
    try_problem((ks_problem){.a = longer, .b = 2, .c = 1, .d = 1, .batch = 1, .type = KS_F16});
    try_problem((ks_problem){.a = 1, .b = longer, .c = 1, .d = 1, .batch = 2, .type = KS_F16});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_x),    cmocka_unit_test(test_long_y),    cmocka_unit_test(test_long_k),
        cmocka_unit_test(test_long_even), cmocka_unit_test(test_long_size),
    };
    const char *wanted = getenv("KS_TEST_LONG");
    if (wanted != NULL && strcmp(wanted, "0") == 0) {
        printf("skipped: KS_TEST_LONG=0\n");
        return SKIPPED;
    }
    if (ks_device_cuda(0, &gpu) != KS_OK) {
        printf("skipped: %s\n", ks_status_message(KS_ERR_DEVICE));
        return SKIPPED;
    }
    seed = rng_seed_from_env("KS_TEST_SEED");
    print_message("KS_TEST_SEED=%" PRIu64 " on %s\n", seed, gpu.name);
    return cmocka_run_group_tests_name("gpu_long", tests, NULL, NULL);
}
