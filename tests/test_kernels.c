/* Every kernel of the table against plain loops in float64: on random problems, on nasty ones, with NaN and Inf, at
 * the ends of float16's range, from arrays at any alignment.
 *
 *     KS_TEST_SEED=n       the seed (else the clock; printed)
 *     KS_TEST_PROBLEMS=n   how many random problems (500)
 *     KS_TEST_ONLY=i       of each test the i-th problem alone, to repeat a failure
 *
 * Kernels of other backends than the CPU need their device's memory and are tested where that is; here they must
 * merely decline a CPU. */
#include "trial.h"
#include "kernel.h"
#include "sandbox.h"

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

enum { FAILURES_SHOWN = 10, LEAST_RUNS = 30, KERNELS_MAX = 64 };

static ks_device cpu;
static ks_device
    tight; /* the same with hardly any cache: kernels that plan by it cut even small problems to pieces */
static uint64_t seed;
static int64_t only; /* -1: all */
static size_t random_problems;
static unsigned long runs[KERNELS_MAX]; /* by row of the table */
static size_t failures;
static char running[TRIAL_WHY_BYTES]; /* what a crash interrupted; "" when nothing runs */

static void failed(size_t index, const char *what)
{
    if (failures++ < FAILURES_SHOWN) print_error("problem %zu of seed %" PRIu64 ": %s\n", index, seed, what);
}

static void check_costs(const ks_kernel *kernel, const ks_problem *problem, const ks_device *device, size_t index)
{
    double terms[KS_NTERMS];
    char text[PROBLEM_TEXT_BYTES], what[TRIAL_WHY_BYTES];
    bool any = false;
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = NAN; /* every term must be set */
    kernel->cost_terms(problem, device, terms);
    for (int t = 0; t < KS_NTERMS; t++) {
        if (terms[t] > 0) any = true;
        if (isfinite(terms[t]) && terms[t] >= 0) continue;
        snprintf(what, sizeof what, "%s on %s: cost term %d is %g", kernel->name, problem_text(problem, text), t,
                 terms[t]);
        failed(index, what);
    }
    if (any) return;
    snprintf(what, sizeof what, "%s on %s: every cost term is 0", kernel->name, problem_text(problem, text));
    failed(index, what);
}

/* The library's own reference is plain loops, too slow to be run on all that the others are run on. */
static bool worth_running(const ks_kernel *kernel, const ks_problem *p, size_t index)
{
    const int64_t terms = p->batch * p->a * p->b * p->c * p->d;
    return kernel->family != KS_REFERENCE || terms < 10000 || index % 32 == 0;
}

/* One problem by every kernel that says it can; and of each family of the table somebody must. */
static void try_all(size_t index, const ks_problem *problem, trial_values values, rng *r)
{
    char why[TRIAL_WHY_BYTES], text[PROBLEM_TEXT_BYTES];
    bool has[KS_NFAMILIES] = {false}, can[KS_NFAMILIES] = {false};
    const ks_device *device = rng_below(r, 2) == 0 ? &cpu : &tight;
    trial t;
    if (!trial_make(&t, problem, values, r)) fail_msg("no memory for %s", problem_text(problem, text));
    for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
        const ks_kernel *kernel = ks_kernels()[row];
        if (kernel->backend != KS_CPU) continue;
        has[kernel->family] = true;
        if (!kernel->supports(problem, device)) continue;
        can[kernel->family] = true;
        check_costs(kernel, problem, device, index);
        if (!worth_running(kernel, problem, index)) continue;
        runs[row]++;
        snprintf(running, sizeof running, "problem %zu of seed %" PRIu64 ": %s on %s, %" PRId64 " bytes of L2", index,
                 seed, kernel->name, problem_text(problem, text), device->l2_bytes);
        if (!trial_run(&t, kernel, device, why)) failed(index, why);
        running[0] = '\0';
    }
    trial_free(&t);
    for (int f = 0; f < KS_NFAMILIES; f++) {
        if (!has[f] || can[f]) continue;
        snprintf(why, sizeof why, "no kernel of the %s family supports %s", ks_family_name((ks_family)f),
                 problem_text(problem, text));
        failed(index, why);
    }
}

static void try_all_types(size_t index, ks_problem problem, trial_values values)
{
    if (only >= 0 && index != (size_t)only) return;
    for (unsigned combo = 0; combo < KS_NTYPES * KS_NLAYOUTS; combo++) {
        rng r = rng_make(seed, index * 16 + combo);
        problem.type = (ks_type)(combo % KS_NTYPES);
        problem.layout = (ks_layout)(combo / KS_NTYPES);
        try_all(index, &problem, values, &r);
    }
}

static ks_problem random_shape(size_t index)
{
    /* Most problems small, so that many shapes are seen; one in 20 large enough for several tiles, panels and threads.
     * Sizes up to c = 2000 reach every blocking along the sum. */
    const problem_bounds bounds = {.hi = {.a = 64, .b = 400, .c = 2000, .d = 200, .batch = 1000},
                                   .flops_max = index % 20 == 0 ? 5e6 : 4e5,
                                   .bytes_max = index % 20 == 0 ? 2e6 : 1e5,
                                   .awkward = 0.5};
    rng r = rng_make(seed, index * 16 + 15);
    return problem_random(&r, &bounds);
}

static void verdict(void)
{
    const size_t seen = failures;
    failures = 0;
    if (seen > 0) fail_msg("%zu failures; repeat with KS_TEST_SEED=%" PRIu64, seen, seed);
}

static void test_random(void **state)
{
    (void)state;
    for (size_t index = 0; index < random_problems; index++) try_all_types(index, random_shape(index), TRIAL_PLAIN);
    verdict();
}

static void test_nasty(void **state)
{
    ks_problem problem;
    (void)state;
    for (size_t index = 0; problem_nasty(index, &problem); index++) try_all_types(index, problem, TRIAL_PLAIN);
    verdict();
}

/* A kernel that pads with the neighbour's values times zero, or skips zeros, is right on every finite problem. */
static void test_nonfinite(void **state)
{
    ks_problem problem;
    (void)state;
    for (size_t index = 0; index < random_problems / 8; index++)
        try_all_types(index, random_shape(index), TRIAL_NONFINITE);
    for (size_t index = 0; problem_nasty(index, &problem); index += 5) try_all_types(index, problem, TRIAL_NONFINITE);
    verdict();
}

/* Sums that leave float16's range must become Inf, and small ones subnormal, though the sum itself is float32. */
static void test_extreme_values(void **state)
{
    (void)state;
    for (size_t index = 0; index < random_problems / 12; index++) {
        try_all_types(index, random_shape(index), TRIAL_LARGE);
        try_all_types(index, random_shape(index), TRIAL_TINY);
    }
    verdict();
}

/* Outputs of more than 2 MB, which a kernel may write past the caches; that asks for aligned rows, so some are. */
static void test_large_outputs(void **state)
{
    static const ks_problem problems[] = {
        {.a = 2, .b = 8, .c = 2, .d = 16, .batch = 2100},
        {.a = 1, .b = 16, .c = 3, .d = 32, .batch = 1104},
    };
    (void)state;
    for (size_t index = 0; index < 32; index++) {
        ks_problem problem = problems[index % 2];
        rng r = rng_make(seed, index);
        problem.type = index / 2 % 2 == 0 ? KS_F32 : KS_F64;
        problem.layout = (ks_layout)(index / 4 % 2);
        if (only < 0 || index == (size_t)only) try_all(index, &problem, TRIAL_PLAIN, &r);
    }
    verdict();
}

/* Sizes that no test has the memory to run, one at a time: each family must be willing, for nothing but memory may
 * limit it. */
static void test_huge_sizes_supported(void **state)
{
    const int64_t huge = (INT64_C(1) << 33) + 1;
    (void)state;
    for (unsigned combo = 0; combo < 5 * KS_NTYPES * KS_NLAYOUTS; combo++) {
        bool has[KS_NFAMILIES] = {false}, can[KS_NFAMILIES] = {false};
        char text[PROBLEM_TEXT_BYTES], what[TRIAL_WHY_BYTES];
        ks_problem p = {.a = 1, .b = 1, .c = 1, .d = 1, .batch = 1};
        *(int64_t *const[]){&p.a, &p.b, &p.c, &p.d, &p.batch}[combo % 5] = huge;
        p.type = (ks_type)(combo / 5 % KS_NTYPES);
        p.layout = (ks_layout)(combo / 5 / KS_NTYPES);
        for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
            const ks_kernel *kernel = ks_kernels()[row];
            if (kernel->backend != KS_CPU) continue;
            has[kernel->family] = true;
            if (kernel->supports(&p, &cpu)) can[kernel->family] = true;
        }
        for (int f = 0; f < KS_NFAMILIES; f++) {
            if (!has[f] || can[f]) continue;
            snprintf(what, sizeof what, "no %s kernel supports %s", ks_family_name((ks_family)f),
                     problem_text(&p, text));
            failed(combo, what);
        }
    }
    verdict();
}

static void test_table(void **state)
{
    const ks_kernel *const *table = ks_kernels();
    (void)state;
    assert_non_null(table[0]);
    assert_string_equal(table[0]->name, "ref.cpu");
    assert_int_equal(table[0]->family, KS_REFERENCE);
    for (size_t row = 0; table[row] != NULL; row++) {
        assert_true(row < KERNELS_MAX);
        assert_non_null(table[row]->supports);
        assert_non_null(table[row]->workspace_bytes);
        assert_non_null(table[row]->cost_terms);
        assert_non_null(table[row]->run);
        assert_true(strlen(table[row]->name) < KS_NAME_BYTES);
        assert_true(table[row]->version >= 1);
        /* Names are keys, so this also proves them unique. */
        assert_ptr_equal(ks_kernel_find(table[row]->name), table[row]);
    }
    assert_null(ks_kernel_find("no.such.kernel"));
    assert_null(ks_kernel_find(""));
}

static void test_candidates(void **state)
{
    ks_problem problem;
    (void)state;
    for (size_t index = 0; problem_nasty(index, &problem); index++) {
        const ks_kernel *chosen[KS_MAX_KERNELS];
        problem.type = (ks_type)(index % KS_NTYPES);
        problem.layout = (ks_layout)(index % KS_NLAYOUTS);
        const int count = ks_kernels_for(&problem, &cpu, chosen);
        assert_in_range(count, 1, KS_MAX_KERNELS);
        int found = 0;
        for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
            const ks_kernel *kernel = ks_kernels()[row];
            if (kernel->backend != KS_CPU) assert_false(kernel->supports(&problem, &cpu));
            if (kernel->family == KS_REFERENCE || !kernel->supports(&problem, &cpu)) continue;
            assert_true(found < count);
            assert_ptr_equal(chosen[found], kernel);
            found++;
        }
        assert_int_equal(found, count);
    }
}

/* What a GPU cannot read is refused by name before any device is touched, so that no GPU is needed to see it. */
static void test_misaligned_on_gpu(void **state)
{
    enum { APART = 1 << 14 };
    static _Alignas(256) unsigned char memory[4 * APART];
    static const char *const names[] = {"x (", "k (", "y ("};
    const ks_device gpu = {.backend = KS_CUDA, .units = 132, .arch = "sm_90", .blas = "cuBLAS"};
    (void)state;
    for (size_t row = 0; ks_kernels()[row] != NULL; row++)
        for (int combo = 0; combo < KS_NTYPES * KS_NLAYOUTS; combo++) {
            const ks_kernel *kernel = ks_kernels()[row];
            const ks_problem p = {.a = 2,
                                  .b = 16,
                                  .c = 16,
                                  .d = 1 + combo % 2,
                                  .batch = 16,
                                  .type = (ks_type)(combo / 2),
                                  .layout = (ks_layout)(combo % 2)};
            if (kernel->backend != KS_CUDA || !kernel->supports(&p, &gpu)) continue;
            for (int which = 0; which < 3; which++) {
                unsigned char *at[3];
                for (int n = 0; n < 3; n++) at[n] = memory + n * APART + (n == which ? ks_type_bytes(p.type) / 2 : 0);
                const ks_run_args args = {
                    .device = &gpu, .x = at[0], .k = at[1], .y = at[2], .workspace = memory + 3 * APART};
                assert_failure(kernel->run(&p, &args), KS_ERR_ARGUMENT, names[which], "aligned");
            }
        }
}

/* Last in the group: a kernel that hardly ever ran was hardly ever tested, and the tests above would not say so. */
static void test_all_kernels_ran(void **state)
{
    bool enough = true;
    (void)state;
    for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
        if (ks_kernels()[row]->backend != KS_CPU) continue;
        print_message("%-24s ran on %lu problems\n", ks_kernels()[row]->name, runs[row]);
        if (only < 0 && runs[row] < LEAST_RUNS) enough = false;
    }
    if (!enough) fail_msg("a kernel of the CPU ran on fewer than %d problems", LEAST_RUNS);
}

/* cmocka turns a fault into a failed test, but cannot say where it came from. */
static int name_the_crash(void **state)
{
    (void)state;
    if (running[0] != '\0') print_error("crashed: %s\n", running);
    running[0] = '\0';
    failures = 0;
    return 0;
}

static int setup(void **state)
{
    const char *problems = getenv("KS_TEST_PROBLEMS"), *index = getenv("KS_TEST_ONLY");
    (void)state;
    seed = rng_seed_from_env("KS_TEST_SEED");
    random_problems = problems != NULL ? strtoull(problems, NULL, 10) : 500;
    only = index != NULL ? strtoll(index, NULL, 10) : -1;
    ks_device_cpu(&cpu);
    tight = cpu;
    tight.l1_bytes = 1 << 10, tight.l2_bytes = 8 << 10, tight.l3_bytes = 16 << 10;
    tight.units += 3; /* than the team has: workspace is asked for by units, tasks run on threads */
    print_message("KS_TEST_SEED=%" PRIu64 " KS_TEST_PROBLEMS=%zu on %s, %s, BLAS \"%s\"\n", seed, random_problems,
                  cpu.name, cpu.arch, cpu.blas);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_candidates),
        cmocka_unit_test_teardown(test_nasty, name_the_crash),
        cmocka_unit_test_teardown(test_random, name_the_crash),
        cmocka_unit_test_teardown(test_nonfinite, name_the_crash),
        cmocka_unit_test_teardown(test_extreme_values, name_the_crash),
        cmocka_unit_test_teardown(test_large_outputs, name_the_crash),
        cmocka_unit_test(test_huge_sizes_supported),
        cmocka_unit_test(test_misaligned_on_gpu),
        cmocka_unit_test(test_all_kernels_ran),
    };
    return cmocka_run_group_tests_name("kernels", tests, setup, NULL);
}
