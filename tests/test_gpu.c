/* Every CUDA kernel of the table against plain loops in float64, on cuda:0: random problems, nasty ones, with NaN and Inf,
 * at the ends of float16's range, from arrays at any multiple of their element, in zones of known bytes; and larger ones,
 * sampled. Without a GPU it says so and is skipped (77).
 *
 *     KS_TEST_SEED=n       the seed (else the clock; printed)
 *     KS_TEST_PROBLEMS=n   how many random problems (300); the fewer, the fewer of the others too (sanitize_gpu.sh)
 *     KS_TEST_ONLY=i       of each test the i-th problem alone, to repeat a failure
 *     --accuracy           or KS_ACCURACY=1: no tests, but a table of relative errors by kernel, type and c */
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

enum { FAILURES_SHOWN = 10, KERNELS_MAX = 64, SKIPPED = 77, KINDS = KS_NTYPES + 1, SAMPLES = 400 };

static ks_device gpu;
static uint64_t seed;
static int64_t only; /* -1: all */
static size_t random_problems;
static bool few; /* so few problems that the slow tests shrink too */
static unsigned long runs[KERNELS_MAX];
static size_t failures;

static void failed(size_t index, const char *what)
{
    if (failures++ < FAILURES_SHOWN) print_error("problem %zu of seed %" PRIu64 ": %s\n", index, seed, what);
}

static void verdict(void)
{
    const size_t seen = failures;
    failures = 0;
    if (seen > 0) fail_msg("%zu failures; repeat with KS_TEST_SEED=%" PRIu64, seen, seed);
}

/* The types, and float32 once more with TF32 allowed. */
static void set_kind(ks_problem *p, unsigned kind)
{
    p->type = kind < KS_NTYPES ? (ks_type)kind : KS_F32;
    p->math = kind < KS_NTYPES ? KS_MATH_F32 : KS_MATH_TF32;
}

static void check_costs(const ks_kernel *kernel, const ks_problem *problem, size_t index)
{
    double terms[KS_NTERMS];
    char text[PROBLEM_TEXT_BYTES], what[TRIAL_WHY_BYTES];
    for (int t = 0; t < KS_NTERMS; t++) terms[t] = NAN; /* every term must be set */
    kernel->cost_terms(problem, &gpu, terms);
    for (int t = 0; t < KS_NTERMS; t++) {
        if (isfinite(terms[t]) && terms[t] >= 0) continue;
        snprintf(what, sizeof what, "%s on %s: cost term %d is %g", kernel->name, problem_text(problem, text), t,
                 terms[t]);
        failed(index, what);
    }
}

/* One problem by every kernel that says it can; and of each family somebody must. */
static void try_all(size_t index, const ks_problem *problem, trial_values values, rng *r)
{
    char why[TRIAL_WHY_BYTES], text[PROBLEM_TEXT_BYTES];
    bool can[KS_NFAMILIES] = {false};
    trial t;
    if (!trial_make_on(&t, &gpu, problem, values, r))
        fail_msg("no memory for %s, or the device has failed", problem_text(problem, text));
    for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
        const ks_kernel *kernel = ks_kernels()[row];
        if (kernel->backend != KS_CUDA || !kernel->supports(problem, &gpu)) continue;
        can[kernel->family] = true;
        runs[row]++;
        check_costs(kernel, problem, index);
        if (!trial_run(&t, kernel, &gpu, why)) failed(index, why);
    }
    trial_free(&t);
    if (!can[KS_FUSED] || (!can[KS_BMM] && gpu.blas[0])) {
        snprintf(why, sizeof why, "no %s kernel supports %s", can[KS_FUSED] ? "bmm" : "fused",
                 problem_text(problem, text));
        failed(index, why);
    }
}

static void try_all_kinds(size_t index, ks_problem problem, trial_values values)
{
    if (only >= 0 && index != (size_t)only) return;
    for (unsigned combo = 0; combo < KINDS * KS_NLAYOUTS; combo++) {
        rng r = rng_make(seed, index * 16 + combo);
        set_kind(&problem, combo % KINDS);
        problem.layout = (ks_layout)(combo / KINDS);
        try_all(index, &problem, values, &r);
    }
}

/* Every other one with sizes that tensor cores like; one in ten large enough for several tiles and waves. */
static ks_problem random_shape(size_t index)
{
    const problem_bounds bounds = {.hi = {.a = 64, .b = 400, .c = 2000, .d = 200, .batch = 1000},
                                   .flops_max = index % 10 == 0 ? 1e7 : 5e5,
                                   .bytes_max = index % 10 == 0 ? 4e6 : 2e5,
                                   .awkward = index % 2 == 0 ? 0.5 : 0};
    rng r = rng_make(seed, index * 16 + 15);
    ks_problem p = problem_random(&r, &bounds);
    if (index % 2 == 1) {
        int64_t *const sizes[] = {&p.b, &p.c, &p.d, &p.batch};
        for (size_t s = 0; s < 4; s++) {
            const int64_t grain = INT64_C(4) << rng_below(&r, 3);
            if (*sizes[s] >= grain) *sizes[s] = *sizes[s] / grain * grain;
        }
    }
    return p;
}

static void test_nasty(void **state)
{
    ks_problem problem;
    (void)state;
    for (size_t index = 0; problem_nasty(index, &problem); index += few ? 11 : 1)
        try_all_kinds(index, problem, TRIAL_PLAIN);
    verdict();
}

static void test_random(void **state)
{
    (void)state;
    for (size_t index = 0; index < random_problems; index++) try_all_kinds(index, random_shape(index), TRIAL_PLAIN);
    verdict();
}

/* A kernel that pads with the neighbour's values times zero, or skips zeros, is right on every finite problem. */
static void test_nonfinite(void **state)
{
    ks_problem problem;
    (void)state;
    for (size_t index = 0; index < random_problems / 4; index++)
        try_all_kinds(index, random_shape(index), TRIAL_NONFINITE);
    for (size_t index = 0; problem_nasty(index, &problem); index += few ? 37 : 5)
        try_all_kinds(index, problem, TRIAL_NONFINITE);
    verdict();
}

/* Sums that leave float16's range must become Inf, and small ones subnormal, though the sum itself is float32. */
static void test_extreme_values(void **state)
{
    (void)state;
    for (size_t index = 0; index < random_problems / 8; index++) {
        try_all_kinds(index, random_shape(index), TRIAL_LARGE);
        try_all_kinds(index, random_shape(index), TRIAL_TINY);
    }
    verdict();
}

/* ---- larger problems, sampled ---- */

/* All outputs must have been written (poison is NaN, and nothing else here is), a sample of them must be right. */
static bool sample_right(const ks_problem *p, const ks_kernel *kernel, const array *x, const array *k, const array *y,
                         rng *r, char why[TRIAL_WHY_BYTES])
{
    char text[PROBLEM_TEXT_BYTES];
    const size_t count = (size_t)ks_y_count(p);
    for (size_t o = 0; o < count; o++) {
        if (!isnan(value_load(p->type, y->seen, o))) continue;
        snprintf(why, TRIAL_WHY_BYTES, "%s on %s: y[%zu] is NaN or was not written", kernel->name,
                 problem_text(p, text), o);
        return false;
    }
    for (int s = 0; s < SAMPLES; s++) {
        const int64_t n = (int64_t)rng_below(r, (uint64_t)p->batch), i = (int64_t)rng_below(r, (uint64_t)p->a);
        const int64_t j = (int64_t)rng_below(r, (uint64_t)p->b), l = (int64_t)rng_below(r, (uint64_t)p->d);
        double magnitude;
        const double reference = problem_reference_at(p, x->seen, k->seen, n, i, j, l, &magnitude);
        const double found = value_load(p->type, y->seen, (size_t)problem_y_index(p, n, i, j, l));
        if (trial_product_right(p, found, reference, magnitude)) continue;
        snprintf(why, TRIAL_WHY_BYTES, "%s on %s: y at n,i,j,l = %d,%d,%d,%d is %.9g, reference %.9g", kernel->name,
                 problem_text(p, text), (int)n, (int)i, (int)j, (int)l, found, reference);
        return false;
    }
    return true;
}

static void try_sampled(size_t index, const ks_problem *p)
{
    const size_t size = value_bytes(p->type), x_count = (size_t)ks_x_count(p), k_count = (size_t)ks_k_count(p);
    char why[TRIAL_WHY_BYTES];
    array x, k, y;
    rng r = rng_make(seed, index);
    assert_true(array_alloc_on(&x, &gpu, x_count * size, 0, true));
    assert_true(array_alloc_on(&k, &gpu, k_count * size, 0, true));
    assert_true(array_alloc_on(&y, &gpu, (size_t)ks_y_count(p) * size, 0, true));
    values_fill(&r, p->type, x.seen, x_count, 1);
    values_fill(&r, p->type, k.seen, k_count, 1);
    assert_true(array_push(&x) && array_push(&k));
    for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
        const ks_kernel *kernel = ks_kernels()[row];
        if (kernel->backend != KS_CUDA || !kernel->supports(p, &gpu)) continue;
        const size_t wanted = kernel->workspace_bytes(p, &gpu);
        array workspace = {0};
        if (wanted > 0) assert_true(array_alloc_on(&workspace, &gpu, wanted, 0, false));
        assert_true(array_poison(&y) && (wanted == 0 || array_poison(&workspace)));
        const ks_run_args args = {.device = &gpu, .x = x.data, .k = k.data, .y = y.data, .workspace = workspace.data};
        ks_status status = kernel->run(p, &args);
        if (status == KS_OK) status = ks_device_wait(&gpu);
        if (status != KS_OK) {
            failed(index, ks_status_message(status));
        } else {
            assert_true(array_pull(&y));
            if (!sample_right(p, kernel, &x, &k, &y, &r, why)) failed(index, why);
            if (!array_zone_intact(&y) || (wanted > 0 && !array_zone_intact(&workspace)))
                failed(index, "wrote outside y or its workspace");
        }
        array_free(&workspace);
    }
    array_free(&x), array_free(&k), array_free(&y);
}

static void test_larger(void **state)
{
    static const ks_problem shapes[] = {
        {.a = 6, .b = 48, .c = 48, .d = 16, .batch = 700},  {.a = 1, .b = 256, .c = 64, .d = 64, .batch = 300},
        {.a = 2, .b = 192, .c = 48, .d = 16, .batch = 333}, {.a = 1, .b = 1024, .c = 1024, .d = 1, .batch = 257},
        {.a = 1, .b = 48, .c = 192, .d = 48, .batch = 256}, {.a = 48, .b = 64, .c = 64, .d = 2, .batch = 400},
        {.a = 16, .b = 16, .c = 16, .d = 16, .batch = 512}, {.a = 3, .b = 130, .c = 70, .d = 11, .batch = 501},
        {.a = 2, .b = 104, .c = 72, .d = 24, .batch = 333}, {.a = 2, .b = 136, .c = 40, .d = 16, .batch = 777},
        {.a = 1, .b = 100, .c = 96, .d = 8, .batch = 1001}, {.a = 3, .b = 72, .c = 120, .d = 6, .batch = 450},
        {.a = 3, .b = 58, .c = 88, .d = 4, .batch = 1300},  {.a = 1, .b = 264, .c = 48, .d = 3, .batch = 900},
        {.a = 2, .b = 324, .c = 64, .d = 2, .batch = 600},  {.a = 1, .b = 1024, .c = 1024, .d = 16, .batch = 70},
        {.a = 1, .b = 768, .c = 512, .d = 32, .batch = 65}, {.a = 2, .b = 1024, .c = 1032, .d = 6, .batch = 140},
    };
    (void)state;
    for (size_t index = 0; index < (few ? 0 : sizeof shapes / sizeof *shapes + 12); index++) {
        const problem_bounds bounds = {.lo = {.a = 1, .b = 8, .c = 8, .d = 1, .batch = 64},
                                       .hi = {.a = 32, .b = 1024, .c = 1024, .d = 128, .batch = 20000},
                                       .flops_max = 2e9,
                                       .bytes_max = 6e7,
                                       .awkward = 0.2};
        rng r = rng_make(seed, 1000 + index);
        ks_problem p = index < sizeof shapes / sizeof *shapes ? shapes[index] : problem_random(&r, &bounds);
        if (only >= 0 && index != (size_t)only) continue;
        for (unsigned combo = 0; combo < KINDS * KS_NLAYOUTS; combo++) {
            set_kind(&p, combo % KINDS);
            p.layout = (ks_layout)(combo / KINDS);
            try_sampled(index, &p);
        }
    }
    verdict();
}

/* ---- what is declined, and what is not ---- */

/* Sizes that no device has the memory for, one at a time: each family must be willing all the same. */
static void test_huge_sizes_supported(void **state)
{
    const int64_t huge = (INT64_C(1) << 33) + 1;
    (void)state;
    for (unsigned combo = 0; combo < 5 * KS_NTYPES * KS_NLAYOUTS; combo++) {
        bool can[KS_NFAMILIES] = {false};
        char text[PROBLEM_TEXT_BYTES], what[TRIAL_WHY_BYTES];
        ks_problem p = {.a = 1, .b = 1, .c = 1, .d = 1, .batch = 1};
        *(int64_t *const[]){&p.a, &p.b, &p.c, &p.d, &p.batch}[combo % 5] = huge;
        p.type = (ks_type)(combo / 5 % KS_NTYPES);
        p.layout = (ks_layout)(combo / 5 / KS_NTYPES);
        for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
            const ks_kernel *kernel = ks_kernels()[row];
            if (kernel->backend != KS_CUDA || !kernel->supports(&p, &gpu)) continue;
            can[kernel->family] = true;
            check_costs(kernel, &p, combo);
        }
        if (can[KS_FUSED] && (can[KS_BMM] || !gpu.blas[0])) continue;
        snprintf(what, sizeof what, "no kernel of a family supports %s", problem_text(&p, text));
        failed(combo, what);
    }
    verdict();
}

/* A GPU cannot read an element across its alignment: that must be refused, not tried. */
static void test_split_elements(void **state)
{
    static const char *const names[] = {"x", "k", "y"};
    const ks_problem p = {.a = 2, .b = 16, .c = 16, .d = 16, .batch = 32, .type = KS_F32};
    (void)state;
    void *memory;
    assert_int_equal(ks_memory_alloc(&gpu, 1 << 20, &memory), KS_OK);
    unsigned char *const base = memory;
    for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
        const ks_kernel *kernel = ks_kernels()[row];
        if (kernel->backend != KS_CUDA || !kernel->supports(&p, &gpu)) continue;
        const size_t wanted = kernel->workspace_bytes(&p, &gpu);
        void *workspace = NULL;
        if (wanted > 0) assert_int_equal(ks_memory_alloc(&gpu, wanted, &workspace), KS_OK);
        for (int which = 0; which < 3; which++) {
            const ks_run_args args = {.device = &gpu,
                                      .x = base + (which == 0 ? 2 : 0),
                                      .k = base + (1 << 18) + (which == 1 ? 1 : 0),
                                      .y = base + (1 << 19) + (which == 2 ? 3 : 0),
                                      .workspace = workspace};
            const ks_status status = kernel->run(&p, &args);
            if (status != KS_ERR_ARGUMENT || strstr(ks_status_message(status), names[which]) == NULL)
                fail_msg("%s took a misaligned %s: %s, %s", kernel->name, names[which], ks_status_name(status),
                         ks_status_message(status));
        }
        ks_memory_free(&gpu, workspace);
    }
    assert_int_equal(ks_device_wait(&gpu), KS_OK);
    ks_memory_free(&gpu, memory);
}

/* Last in the group: a kernel that hardly ever ran was hardly ever tested, and the tests above would not say so. */
static void test_all_kernels_ran(void **state)
{
    bool enough = true;
    (void)state;
    for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
        if (ks_kernels()[row]->backend != KS_CUDA) continue;
        print_message("%-24s ran on %lu problems\n", ks_kernels()[row]->name, runs[row]);
        if (only < 0 && runs[row] < 30 && (gpu.blas[0] || ks_kernels()[row]->family != KS_BMM)) enough = false;
    }
    if (!enough && !few) fail_msg("a kernel of the GPU ran on fewer than 30 problems");
}

/* ---- accuracy ---- */

/* ||y - reference|| / ||reference||, and the largest |y - reference| in units of 2^-24 of the sum of magnitudes. */
static bool relative_error(trial *t, const ks_kernel *kernel, double *relative, double *worst)
{
    char why[TRIAL_WHY_BYTES];
    if (!kernel->supports(&t->problem, &gpu)) return false;
    if (!trial_run(t, kernel, &gpu, why)) print_error("%s\n", why); /* the figure follows all the same */
    double error = 0, norm = 0;
    *worst = 0;
    for (size_t o = 0; o < (size_t)ks_y_count(&t->problem); o++) {
        const double e = value_load(t->problem.type, t->y.seen, o) - t->reference[o];
        error += e * e, norm += t->reference[o] * t->reference[o];
        *worst = fmax(*worst, fabs(e) / t->magnitude[o] * 0x1p24);
    }
    *relative = sqrt(error / norm);
    return true;
}

static int print_accuracy(void)
{
    static const int64_t cs[] = {64, 256, 1024};
    static const char *const kinds[KINDS] = {"f32", "f16", "bf16", "f64", "tf32"};
    printf(
        "%s, a,b,d = 2,64,4, batch 64, values uniform in [-1, 1]: ||y - ref|| / ||ref||, and in brackets the worst\n"
        "|y - ref| / (sum of |k||x|) in units of 2^-24\n\n%-18s %-5s %-6s",
        gpu.name, "kernel", "type", "layout");
    for (size_t n = 0; n < sizeof cs / sizeof *cs; n++) printf("  c = %-16" PRId64, cs[n]);
    printf("\n");
    for (unsigned combo = 0; combo < KINDS * KS_NLAYOUTS; combo++) {
        trial trials[sizeof cs / sizeof *cs];
        for (size_t n = 0; n < sizeof cs / sizeof *cs; n++) {
            ks_problem p = {.a = 2, .b = 64, .c = cs[n], .d = 4, .batch = 64, .layout = (ks_layout)(combo / KINDS)};
            rng r = rng_make(seed, 0); /* arrays aligned, whatever the seed */
            set_kind(&p, combo % KINDS);
            do
                if (!trial_make_on(&trials[n], &gpu, &p, TRIAL_PLAIN, &r)) return 1;
            while (((uintptr_t)trials[n].x.data | (uintptr_t)trials[n].k.data | (uintptr_t)trials[n].y.data) % 16 !=
                       0 &&
                   (trial_free(&trials[n]), true));
        }
        for (size_t row = 0; ks_kernels()[row] != NULL; row++) {
            const ks_kernel *kernel = ks_kernels()[row];
            if (kernel->backend != KS_CUDA) continue;
            bool any = false;
            for (size_t n = 0; n < sizeof cs / sizeof *cs; n++) {
                double relative, worst;
                if (!relative_error(&trials[n], kernel, &relative, &worst)) continue;
                if (!any)
                    printf("%-18s %-5s %-6s", kernel->name, kinds[combo % KINDS],
                           ks_layout_name(trials[n].problem.layout));
                any = true;
                printf("  %.2e (%8.3g)", relative, worst);
            }
            if (any) printf("\n");
        }
        for (size_t n = 0; n < sizeof cs / sizeof *cs; n++) trial_free(&trials[n]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nasty),          cmocka_unit_test(test_random),
        cmocka_unit_test(test_nonfinite),      cmocka_unit_test(test_extreme_values),
        cmocka_unit_test(test_larger),         cmocka_unit_test(test_huge_sizes_supported),
        cmocka_unit_test(test_split_elements), cmocka_unit_test(test_all_kernels_ran),
    };
    const char *problems = getenv("KS_TEST_PROBLEMS"), *index = getenv("KS_TEST_ONLY");
    if (ks_device_cuda(0, &gpu) != KS_OK) {
        printf("skipped: %s\n", ks_status_message(KS_ERR_DEVICE));
        return SKIPPED;
    }
    seed = rng_seed_from_env("KS_TEST_SEED");
    random_problems = problems != NULL ? strtoull(problems, NULL, 10) : 300;
    few = random_problems < 100;
    only = index != NULL ? strtoll(index, NULL, 10) : -1;
    if ((argc > 1 && strcmp(argv[1], "--accuracy") == 0) || getenv("KS_ACCURACY") != NULL) return print_accuracy();
    print_message("KS_TEST_SEED=%" PRIu64 " KS_TEST_PROBLEMS=%zu on %s, %s, BLAS \"%s\"\n", seed, random_problems,
                  gpu.name, gpu.arch, gpu.blas);
    return cmocka_run_group_tests_name("gpu", tests, NULL, NULL);
}
