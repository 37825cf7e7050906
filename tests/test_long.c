/* Problems past 2^31 elements, where a product or an index kept in 32 bits goes wrong: in X, in Y and in K, one at a
 * time so that all fits 12 GiB. Far too many outputs to recompute; a sample is: the first, the last, those on both
 * sides of 2^31 elements (in X, Y or K) and of 2^31 and 2^32 bytes, and the rest at random. Every output must have
 * been written.
 *
 * Slow: a minute or more, and up to 8.6 GB of arrays beside the workspace. Skips itself on machines with less than 14 GiB available,
 * and where KS_TEST_LONG=0. KS_TEST_SEED as in test_kernels.c. */
#include "trial.h"

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
#include <sys/mman.h>
#include <time.h>

enum { SAMPLES = 2000, TABLE = 1000003 };

static const double GIB = 1024.0 * 1024.0 * 1024.0;
static const double AVAILABLE_LEAST = 14, TOTAL_MOST = 12, WORKSPACE_MOST = 8;

/* What may be taken without pushing others out: the machine's, or less inside a container. */
static double available_gib(void)
{
    double kib, least = INFINITY;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %lf", &kib) == 1) least = kib * 1024.0 / GIB;
    }
    if (file != NULL) fclose(file);
    double limit, used;
    file = fopen("/sys/fs/cgroup/memory.max", "r");
    const bool limited = file != NULL && fscanf(file, "%lf", &limit) == 1;
    if (file != NULL) fclose(file);
    file = fopen("/sys/fs/cgroup/memory.current", "r");
    if (limited && file != NULL && fscanf(file, "%lf", &used) == 1) least = fmin(least, (limit - used) / GIB);
    if (file != NULL) fclose(file);
    return least;
}

static void *map_bytes(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) fail_msg("no memory for %.1f GiB", (double)bytes / GIB);
    return map;
}

/* Random values, over and over with a prime period: an index that lost its 32nd bit then reads another value. */
static void fill(rng *r, ks_type type, void *data, size_t count)
{
    const size_t first = count < TABLE ? count : TABLE, size = value_bytes(type);
    values_fill(r, type, data, first, 1.0);
    for (size_t at = first; at < count; at += first) {
        const size_t piece = count - at < first ? count - at : first;
        memcpy((char *)data + at * size, data, piece * size);
    }
}

typedef struct output {
    int64_t n, i, j, l;
} output;

static output output_at(const ks_problem *p, int64_t index)
{
    output o;
    const bool first = p->layout == KS_BATCH_FIRST;
    const int64_t row = p->a * p->b * p->d;
    o.n = first ? index / row : index % p->batch;
    int64_t rest = first ? index % row : index / p->batch;
    o.l = rest % p->d;
    rest /= p->d;
    o.j = rest % p->b;
    o.i = rest / p->b;
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
    static const int64_t edges[] = {INT64_C(1) << 30, INT64_C(1) << 31}; /* 2^31 bytes; 2^31 elements, 2^32 bytes */
    const int64_t x_count = p->batch * p->a * p->c * p->d, y_count = p->batch * p->a * p->b * p->d;
    const int64_t k_count = p->a * p->b * p->c * p->d;
    if (s == 0) return output_at(p, 0);
    if (s == 1) return output_at(p, y_count - 1);
    if (s < 1000) {
        const int64_t near = edges[s % 2] + (int64_t)rng_below(r, 200) - 100;
        if (near < y_count && s % 3 == 0) return output_at(p, near);
        if (near < x_count && s % 3 == 1) return reader_of_x(p, near, r);
        if (near < k_count && s % 3 == 2) return reader_of_k(p, near, r);
    }
    return output_at(p, (int64_t)rng_below(r, (uint64_t)y_count));
}

typedef struct arrays {
    void *x, *k, *y;
    size_t x_bytes, k_bytes, y_bytes;
} arrays;

/* By eights: four poisoned outputs in a row. (One alone would be NaN in a sample, or be missed.) */
static bool all_written(const arrays *in)
{
    const uint64_t *word = in->y;
    for (size_t w = 0; w < in->y_bytes / sizeof *word; w++) {
        if (word[w] == UINT64_MAX) return false;
    }
    return true;
}

static bool try_kernel(const ks_problem *p, const ks_kernel *kernel, const ks_device *device, const arrays *in,
                       uint64_t seed)
{
    char text[PROBLEM_TEXT_BYTES];
    const size_t wanted = kernel->workspace_bytes(p, device);
    const double total = ((double)wanted + (double)in->x_bytes + (double)in->k_bytes + (double)in->y_bytes) / GIB;
    if ((double)wanted > WORKSPACE_MOST * GIB || total > TOTAL_MOST) {
        print_message("  %-20s skipped: %.1f GiB of workspace, %.1f in all\n", kernel->name, (double)wanted / GIB,
                      total);
        return true;
    }
    void *workspace = wanted > 0 ? map_bytes(wanted) : NULL; /* whole pages: aligned */
    struct timespec start, stop;
    memset(in->y, 0xff, in->y_bytes);
    const ks_run_args args = {.device = device, .x = in->x, .k = in->k, .y = in->y, .workspace = workspace};
    timespec_get(&start, TIME_UTC);
    const ks_status status = kernel->run(p, &args);
    timespec_get(&stop, TIME_UTC);
    if (workspace != NULL) munmap(workspace, wanted);
    print_message("  %-20s %.1f s\n", kernel->name,
                  (double)(stop.tv_sec - start.tv_sec) + 1e-9 * (double)(stop.tv_nsec - start.tv_nsec));

    if (status != KS_OK) {
        print_error("%s on %s: %s\n", kernel->name, problem_text(p, text), ks_status_message(status));
        return false;
    }
    if (!all_written(in)) {
        print_error("%s on %s: left outputs unwritten\n", kernel->name, problem_text(p, text));
        return false;
    }
    rng r = rng_make(seed, 1);
    for (int s = 0; s < SAMPLES; s++) {
        const output o = sample(p, s, &r);
        const int64_t at = problem_y_index(p, o.n, o.i, o.j, o.l);
        double magnitude;
        const double reference = problem_reference_at(p, in->x, in->k, o.n, o.i, o.j, o.l, &magnitude);
        const double y = value_load(p->type, in->y, (size_t)at);
        if (trial_output_right(p->type, p->c, y, reference, magnitude)) continue;
        print_error("%s on %s: y[%" PRId64 "] (n,i,j,l = %" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
                    ") is %g, reference %g\n",
                    kernel->name, problem_text(p, text), at, o.n, o.i, o.j, o.l, y, reference);
        return false;
    }
    return true;
}

static void try_problem(ks_problem p)
{
    if (getenv("KS_TEST_LONG") != NULL && strcmp(getenv("KS_TEST_LONG"), "0") == 0) {
        print_message("KS_TEST_LONG=0: not run\n");
        skip();
    }
    if (available_gib() < AVAILABLE_LEAST) {
        print_message("%.1f GiB available, %.0f needed: not run\n", available_gib(), AVAILABLE_LEAST);
        skip();
    }
    const uint64_t seed = rng_seed_from_env("KS_TEST_SEED");
    const size_t size = value_bytes(p.type);
    arrays in = {.x_bytes = size * (size_t)ks_x_count(&p),
                 .k_bytes = size * (size_t)ks_k_count(&p),
                 .y_bytes = size * (size_t)ks_y_count(&p)};
    bool ok = true;
    ks_device cpu;
    rng r = rng_make(seed, 0);
    ks_device_cpu(&cpu);
    assert_int_equal(ks_problem_check(&p), KS_OK);
    in.x = map_bytes(in.x_bytes), in.k = map_bytes(in.k_bytes), in.y = map_bytes(in.y_bytes);
    fill(&r, p.type, in.x, in.x_bytes / size);
    fill(&r, p.type, in.k, in.k_bytes / size);
    for (int layout = 0; layout < KS_NLAYOUTS; layout++) {
        char text[PROBLEM_TEXT_BYTES];
        const ks_kernel *kernels[KS_MAX_KERNELS];
        p.layout = (ks_layout)layout;
        print_message("%s, seed %" PRIu64 "\n", problem_text(&p, text), seed);
        const int count = ks_kernels_for(&p, &cpu, kernels);
        for (int c = 0; c < count; c++) ok = try_kernel(&p, kernels[c], &cpu, &in, seed) && ok;
    }
    munmap(in.x, in.x_bytes), munmap(in.k, in.k_bytes), munmap(in.y, in.y_bytes);
    assert_true(ok);
}

/* Each a little past 2^31 elements in one array and small in the others; odd sizes, so that nothing divides. */
static void test_long_x(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 3, .b = 2, .c = 331, .d = 5, .batch = 432601, .type = KS_F16});
}

static void test_long_y(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 3, .b = 331, .c = 2, .d = 5, .batch = 432601, .type = KS_F16});
}

static void test_long_k(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 1, .b = 26755, .c = 26757, .d = 3, .batch = 1, .type = KS_F16});
}

/* For kernels that take F32 alone; the arrays are then 8 GiB. */
static void test_long_x_f32(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 3, .b = 2, .c = 331, .d = 5, .batch = 432601, .type = KS_F32});
}

/* Kernels with a float32 copy of everything need more than 12 GiB for the above. These are past 2^30 elements: past
 * 2^31 bytes in the arrays and 2^32 in the copies. */
static void test_half_as_long(void **state)
{
    (void)state;
    try_problem((ks_problem){.a = 3, .b = 2, .c = 331, .d = 5, .batch = 216301, .type = KS_F16});
    try_problem((ks_problem){.a = 3, .b = 331, .c = 2, .d = 5, .batch = 216301, .type = KS_BF16});
    try_problem((ks_problem){.a = 1, .b = 18919, .c = 18920, .d = 3, .batch = 1, .type = KS_F16});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_x),     cmocka_unit_test(test_long_y),       cmocka_unit_test(test_long_k),
        cmocka_unit_test(test_long_x_f32), cmocka_unit_test(test_half_as_long),
    };
    return cmocka_run_group_tests_name("long", tests, NULL, NULL);
}
