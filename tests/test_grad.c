/* Gradients against plain loops in float64, by the definition, and against finite differences of the product itself.
 *
 *     test_grad [DEVICE]     "cpu", or "cuda:0": skipped (77) where that is not there
 *
 * KS_TEST_SEED is the seed (else the clock; printed), KS_TEST_PROBLEMS how many random problems (100). */
#include "backend.h"
#include "memory.h"
#include "problems.h"
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

enum { KINDS = KS_NTYPES + 1 };

static ks_device device;
static ks_context *ctx;
static uint64_t seed;
static size_t problems;

/* One problem with X, K and dY on the device and here, and room for the two gradients. */
typedef struct grad_trial {
    ks_problem p;
    array x, k, dy, dx, dk;
} grad_trial;

static void make(grad_trial *t, const ks_problem *p, rng *r)
{
    const size_t size = ks_type_bytes(p->type);
    const size_t x = size * (size_t)ks_x_count(p), k = size * (size_t)ks_k_count(p), y = size * (size_t)ks_y_count(p);
    array *const arrays[] = {&t->x, &t->k, &t->dy, &t->dx, &t->dk};
    const size_t bytes[] = {x, k, y, x, k};
    *t = (grad_trial){.p = *p};
    for (int i = 0; i < 5; i++) {
        /* The CPU reads any alignment, a GPU whole elements. */
        const size_t off = device.backend == KS_CPU ? rng_below(r, 8) : size * rng_below(r, 4);
        assert_true(array_alloc_on(arrays[i], &device, bytes[i], off, true));
        if (i < 3) values_fill(r, p->type, arrays[i]->seen, bytes[i] / size, 1);
        assert_true(i < 3 ? array_push(arrays[i]) : array_poison(arrays[i]));
    }
}

static void drop(grad_trial *t)
{
    array *const arrays[] = {&t->x, &t->k, &t->dy, &t->dx, &t->dk};
    for (int i = 0; i < 5; i++) {
        assert_true(array_pull(arrays[i]));
        assert_true(array_zone_intact(arrays[i]));
        array_free(arrays[i]);
    }
}

/* terms: the length of the sum. Where TF32 is allowed each factor may have lost bits, as in a product of as many terms. */
static void assert_near(const ks_problem *p, int64_t terms, double value, double sum, double magnitude,
                        const char *what)
{
    ks_problem as = *p;
    char text[PROBLEM_TEXT_BYTES];
    as.c = terms;
    if (trial_product_right(&as, value, sum, magnitude)) return;
    fail_msg("%s of %s%s is %.9g, must be %.9g (seed %" PRIu64 ")", what, problem_text(p, text),
             p->math == KS_MATH_TF32 ? " tf32" : "", value, sum, seed);
}

static void check_dx(const grad_trial *t)
{
    const ks_problem *p = &t->p;
    for (int64_t n = 0; n < p->batch; n++)
        for (int64_t i = 0; i < p->a; i++)
            for (int64_t k = 0; k < p->c; k++)
                for (int64_t l = 0; l < p->d; l++) {
                    double sum = 0, magnitude = 0;
                    for (int64_t j = 0; j < p->b; j++) {
                        const double term = value_load(p->type, t->k.seen, (size_t)problem_k_index(p, i, j, k, l)) *
                                            value_load(p->type, t->dy.seen, (size_t)problem_y_index(p, n, i, j, l));
                        sum += term, magnitude += fabs(term);
                    }
                    const double dx = value_load(p->type, t->dx.seen, (size_t)problem_x_index(p, n, i, k, l));
                    assert_near(p, p->b, dx, sum, magnitude, "dx");
                }
}

static void check_dk(const grad_trial *t)
{
    const ks_problem *p = &t->p;
    for (int64_t i = 0; i < p->a; i++)
        for (int64_t j = 0; j < p->b; j++)
            for (int64_t k = 0; k < p->c; k++)
                for (int64_t l = 0; l < p->d; l++) {
                    double sum = 0, magnitude = 0;
                    for (int64_t n = 0; n < p->batch; n++) {
                        const double term = value_load(p->type, t->x.seen, (size_t)problem_x_index(p, n, i, k, l)) *
                                            value_load(p->type, t->dy.seen, (size_t)problem_y_index(p, n, i, j, l));
                        sum += term, magnitude += fabs(term);
                    }
                    const double dk = value_load(p->type, t->dk.seen, (size_t)problem_k_index(p, i, j, k, l));
                    assert_near(p, p->batch, dk, sum, magnitude, "dk");
                }
}

static void try_one(const ks_problem *p, rng *r)
{
    grad_trial t;
    make(&t, p, r);
    ks_status s = ks_grad_input(ctx, p, t.dy.data, t.k.data, t.dx.data, NULL);
    if (s == KS_OK) s = ks_grad_weights(ctx, p, t.x.data, t.dy.data, t.dk.data, NULL);
    if (s == KS_OK) s = ks_device_wait(&device);
    if (s != KS_OK) fail_msg("%s", ks_status_message(s));
    assert_true(array_pull(&t.dx) && array_pull(&t.dk));
    check_dx(&t);
    check_dk(&t);
    drop(&t);
}

static void try_all_kinds(const ks_problem *shape, size_t index)
{
    for (unsigned combo = 0; combo < KINDS * KS_NLAYOUTS; combo++) {
        rng r = rng_make(seed, index * 16 + combo);
        ks_problem p = *shape;
        p.type = combo % KINDS < KS_NTYPES ? (ks_type)(combo % KINDS) : KS_F32;
        p.math = combo % KINDS < KS_NTYPES ? KS_MATH_F32 : KS_MATH_TF32;
        p.layout = (ks_layout)(combo / KINDS);
        try_one(&p, &r);
    }
}

static void test_random(void **state)
{
    const problem_bounds bounds = {
        .hi = {.a = 8, .b = 80, .c = 120, .d = 24, .batch = 700}, .flops_max = 2e6, .bytes_max = 4e5, .awkward = 0.5};
    (void)state;
    for (size_t index = 0; index < problems; index++) {
        rng r = rng_make(seed, index * 16 + 15);
        const ks_problem p = problem_random(&r, &bounds);
        try_all_kinds(&p, index);
    }
}

/* More than one tile in b and in c, more than one piece of the batch, one block and many, a of 1 and d of 1. */
static void test_tiles(void **state)
{
    const int64_t sizes[][5] = {{1, 300, 40, 1, 20}, {1, 20, 1100, 1, 9}, {1, 17, 9, 1, 1000}, {3, 33, 65, 1, 257},
                                {1, 33, 65, 3, 257}, {40, 2, 3, 5, 11},   {5, 3, 2, 40, 11},   {1, 1, 1, 1, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t *s = sizes[i];
        const ks_problem p = {.a = s[0], .b = s[1], .c = s[2], .d = s[3], .batch = s[4]};
        try_all_kinds(&p, 1000000 + i);
    }
}

static double dot(const array *u, const array *v, int64_t count)
{
    double sum = 0;
    for (int64_t q = 0; q < count; q++)
        sum += value_load(KS_F64, u->seen, (size_t)q) * value_load(KS_F64, v->seen, (size_t)q);
    return sum;
}

/* The loss <dY, Y> changes by <dX, H> when X does by H, and by <dK, H> when K does: exactly, since Y is linear in each. */
static void test_finite_differences(void **state)
{
    (void)state;
    for (int layout = 0; layout < KS_NLAYOUTS; layout++) {
        const ks_problem p = {
            .a = 3, .b = 5, .c = 7, .d = 4, .batch = 19, .type = KS_F64, .layout = (ks_layout)layout};
        const int64_t xs = ks_x_count(&p), ks = ks_k_count(&p), ys = ks_y_count(&p);
        rng r = rng_make(seed, 77 + (uint64_t)layout);
        grad_trial t;
        array y;
        double loss[3], change[2];
        make(&t, &p, &r);
        assert_true(array_alloc_on(&y, &device, 8 * (size_t)ys, 0, true));
        assert_int_equal(ks_grad_input(ctx, &p, t.dy.data, t.k.data, t.dx.data, NULL), KS_OK);
        assert_int_equal(ks_grad_weights(ctx, &p, t.x.data, t.dy.data, t.dk.data, NULL), KS_OK);
        assert_true(array_pull(&t.dx) && array_pull(&t.dk));
        for (int step = 0; step < 3; step++) {
            assert_int_equal(ks_auto_matmul(ctx, &p, t.x.data, t.k.data, y.data, NULL), KS_OK);
            assert_true(array_pull(&y));
            loss[step] = dot(&t.dy, &y, ys);
            if (step == 2) break;
            array *moved = step == 0 ? &t.x : &t.k, *gradient = step == 0 ? &t.dx : &t.dk;
            change[step] = 0;
            for (int64_t q = 0; q < (step == 0 ? xs : ks); q++) {
                const double h = rng_unit(&r) - 0.5, old = value_load(KS_F64, moved->seen, (size_t)q);
                change[step] += h * value_load(KS_F64, gradient->seen, (size_t)q);
                value_store(KS_F64, moved->seen, (size_t)q, old + h);
            }
            assert_true(array_push(moved));
            if (step == 0) { /* dK was taken at the old X */
                assert_int_equal(ks_grad_weights(ctx, &p, t.x.data, t.dy.data, t.dk.data, NULL), KS_OK);
                assert_true(array_pull(&t.dk));
            }
        }
        assert_true(fabs(loss[1] - loss[0] - change[0]) < 1e-10 * (1 + fabs(loss[0]) + fabs(change[0])));
        assert_true(fabs(loss[2] - loss[1] - change[1]) < 1e-10 * (1 + fabs(loss[1]) + fabs(change[1])));
        array_free(&y);
        drop(&t);
    }
}

static void try_transpose(ks_type type, int64_t count, int64_t rows, int64_t columns)
{
    const size_t size = ks_type_bytes(type), bytes = (size_t)(count * rows * columns) * size;
    rng r = rng_make(seed, 99);
    array from, to;
    assert_true(array_alloc_on(&from, &device, bytes, 0, true) && array_alloc_on(&to, &device, bytes, size, true));
    values_fill(&r, type, from.seen, bytes / size, 1);
    assert_true(array_push(&from) && array_poison(&to));
    const ks_backend_ops *ops = ks_backend_find(device.backend);
    assert_int_equal(ops->transpose(&device, type, count, rows, columns, from.data, to.data, NULL), KS_OK);
    assert_int_equal(ks_device_wait(&device), KS_OK);
    assert_true(array_pull(&to));
    for (int64_t m = 0; m < count; m++)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = 0; column < columns; column++) {
                const size_t at = (size_t)((m * rows + row) * columns + column) * size;
                const size_t turned = (size_t)((m * columns + column) * rows + row) * size;
                assert_memory_equal(to.seen + turned, from.seen + at, size);
            }
    assert_true(array_zone_intact(&to));
    array_free(&from);
    array_free(&to);
}

static void test_transpose(void **state)
{
    const int64_t sizes[][3] = {{1, 1, 1}, {1, 300, 77}, {1, 64, 1024}, {7, 33, 31}, {300, 2, 5}, {1, 1, 999}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int type = 0; type < KS_NTYPES; type++)
            try_transpose((ks_type)type, sizes[i][0], sizes[i][1], sizes[i][2]);
}

static void assert_refused(ks_status status, const char *text)
{
    assert_int_equal(status, KS_ERR_ARGUMENT);
    assert_non_null(strstr(ks_status_message(status), text));
}

static void test_arguments(void **state)
{
    ks_problem p = {.a = 1, .b = 2, .c = 3, .d = 1, .batch = 4};
    rng r = rng_make(seed, 5);
    grad_trial t;
    (void)state;
    make(&t, &p, &r);
    assert_refused(ks_grad_input(NULL, &p, t.dy.data, t.k.data, t.dx.data, NULL), "ctx is NULL");
    assert_refused(ks_grad_input(ctx, &p, NULL, t.k.data, t.dx.data, NULL), "dy is NULL");
    assert_refused(ks_grad_input(ctx, &p, t.dy.data, t.dx.data, t.dx.data, NULL), "overlaps k");
    assert_refused(ks_grad_weights(ctx, &p, t.x.data, t.dy.data, NULL, NULL), "dk is NULL");
    assert_refused(ks_grad_weights(ctx, &p, t.x.data, t.dy.data, t.x.data + 4, NULL), "overlaps x");
    assert_refused(ks_grad_weights(ctx, &p, t.x.data, t.dy.data, t.dy.data, NULL), "overlaps dy");
    p.d = 0;
    assert_refused(ks_grad_weights(ctx, &p, t.x.data, t.dy.data, t.dk.data, NULL), "d is 0");
    drop(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_transpose), cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_tiles),     cmocka_unit_test(test_random),
    };
    problems = 100;
    const int code = trial_open(argc, argv, &device, &ctx, &seed, &problems);
    if (code != 0) return code;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ks_close(ctx);
    return failed;
}
