/* The problem's rules, sizes and words, the order of weights, and the messages that go with a refusal. A message must
 * name the field and the value, as whole words: "a" is in nearly every sentence. */
#include "kernel.h"
#include "problems.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ks_problem plain = {.a = 2, .b = 3, .c = 5, .d = 7, .batch = 11, .type = KS_F32};

static bool word_char(char ch)
{
    return isalnum((unsigned char)ch) || ch == '_' || ch == '-';
}

static bool has_word(const char *text, const char *word)
{
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
        if ((at == text || !word_char(at[-1])) && !word_char(at[strlen(word)])) return true;
    }
    return false;
}

static void assert_names(ks_status status, const char *word)
{
    const char *message = ks_status_message(status);
    assert_non_null(message);
    if (!has_word(message, word)) fail_msg("\"%s\" does not name %s", message, word);
}

/* ---- ks_problem_check ---- */

static void test_check_accepts(void **state)
{
    ks_problem p;
    (void)state;
    for (size_t index = 0; problem_nasty(index, &p); index++) {
        p.type = (ks_type)(index % KS_NTYPES);
        p.layout = (ks_layout)(index % KS_NLAYOUTS);
        assert_int_equal(ks_problem_check(&p), KS_OK);
    }
    p = plain;
    p.math = KS_MATH_TF32;
    assert_int_equal(ks_problem_check(&p), KS_OK);
}

static void test_check_sizes(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "batch"};
    static const int64_t bad[] = {0, -1, -17, INT64_MIN};
    (void)state;
    for (int f = 0; f < 5; f++) {
        for (size_t v = 0; v < sizeof bad / sizeof bad[0]; v++) {
            ks_problem p = plain;
            int64_t *const fields[] = {&p.a, &p.b, &p.c, &p.d, &p.batch};
            char value[32];
            *fields[f] = bad[v];
            snprintf(value, sizeof value, "%" PRId64, bad[v]);
            assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
            assert_names(KS_ERR_ARGUMENT, names[f]);
            assert_names(KS_ERR_ARGUMENT, value);
        }
    }
    assert_int_equal(ks_problem_check(NULL), KS_ERR_ARGUMENT);
    assert_names(KS_ERR_ARGUMENT, "NULL");
}

static void test_check_enums(void **state)
{
    static const int bad[] = {99, 1000};
    char value[32];
    (void)state;
    for (int v = 0; v < 2; v++) {
        snprintf(value, sizeof value, "%d", bad[v]);
        ks_problem p = plain;
        p.type = (ks_type)bad[v];
        assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
        assert_names(KS_ERR_ARGUMENT, "type");
        assert_names(KS_ERR_ARGUMENT, value);
        p = plain;
        p.layout = (ks_layout)bad[v];
        assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
        assert_names(KS_ERR_ARGUMENT, "layout");
        assert_names(KS_ERR_ARGUMENT, value);
        p = plain;
        p.math = (ks_math)bad[v];
        assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
        assert_names(KS_ERR_ARGUMENT, "math");
        assert_names(KS_ERR_ARGUMENT, value);
    }
    ks_problem p = plain;
    p.type = KS_NTYPES;
    assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
    p = plain;
    p.layout = KS_NLAYOUTS;
    assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
    p.layout = KS_BATCH_LAST;
    p.math = (ks_math)(KS_MATH_TF32 + 1);
    assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
}

static void assert_overflows(ks_problem p, int64_t named)
{
    char value[32], text[PROBLEM_TEXT_BYTES];
    snprintf(value, sizeof value, "%" PRId64, named);
    if (ks_problem_check(&p) != KS_ERR_OVERFLOW) fail_msg("%s was not refused as too large", problem_text(&p, text));
    assert_names(KS_ERR_OVERFLOW, value);
}

static void test_check_overflow(void **state)
{
    const int64_t m = INT64_MAX, two31 = INT64_C(1) << 31;
    (void)state;
    /* The count alone, in every pair of factors; 2^64 and 2^128 wrap around to 0. */
    assert_overflows((ks_problem){m, 2, 1, 1, 1, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, m);
    assert_overflows((ks_problem){1, m, m, 1, 1, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, m);
    assert_overflows((ks_problem){1, 1, m, m, 1, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, m);
    assert_overflows((ks_problem){1, 1, 1, m, m, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, m);
    assert_overflows((ks_problem){m, m, m, m, m, KS_F32, KS_BATCH_LAST, KS_MATH_F32}, m);
    assert_overflows((ks_problem){two31, two31, two31, two31, 1, KS_F32, KS_BATCH_FIRST, KS_MATH_F32}, two31);
    assert_overflows((ks_problem){two31, 4, two31, 1, 1, KS_F32, KS_BATCH_FIRST, KS_MATH_F32}, two31);
    assert_overflows((ks_problem){two31, 1, 1, 2, two31, KS_F32, KS_BATCH_FIRST, KS_MATH_F32}, two31);
    /* The count fits and the bytes do not: only K, only X, only Y. */
    assert_overflows((ks_problem){1, two31, two31, 1, 1, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, two31);
    assert_overflows((ks_problem){1, 1, two31, 1, two31, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, two31);
    assert_overflows((ks_problem){1, two31, 1, 1, two31, KS_F16, KS_BATCH_FIRST, KS_MATH_F32}, two31);
    /* 2^61 elements: 2^62 bytes of F16, 2^63 of F32. */
    ks_problem p = {1, two31 / 2, two31, 1, 1, KS_F16, KS_BATCH_FIRST, KS_MATH_F32};
    assert_int_equal(ks_problem_check(&p), KS_OK);
    p.type = KS_F32;
    assert_overflows(p, two31);
    p.type = KS_F64;
    assert_overflows(p, two31);
}

/* ---- sizes ---- */

static void test_sizes(void **state)
{
    static const size_t sizes[KS_NTYPES] = {[KS_F32] = 4, [KS_F16] = 2, [KS_BF16] = 2, [KS_F64] = 8};
    (void)state;
    for (int type = 0; type < KS_NTYPES; type++) {
        ks_problem p = plain;
        p.type = (ks_type)type;
        assert_int_equal(ks_type_bytes(p.type), sizes[type]);
        assert_int_equal(ks_x_count(&p), 11 * 2 * 5 * 7);
        assert_int_equal(ks_k_count(&p), 2 * 3 * 5 * 7);
        assert_int_equal(ks_y_count(&p), 11 * 2 * 3 * 7);
        assert_true(ks_problem_bytes(&p) == (double)(sizes[type] * (11 * 2 * 7 * (3 + 5) + 2 * 3 * 5 * 7)));
        assert_true(ks_problem_flops(&p) == 2.0 * 11 * 2 * 3 * 5 * 7);
    }
    /* Past 2^31 and, in flops, past 2^63. */
    const ks_problem p = {1, 1 << 20, 1 << 20, 1, 1 << 20, KS_F32, KS_BATCH_FIRST, KS_MATH_F32};
    assert_int_equal(ks_problem_check(&p), KS_OK);
    assert_true(ks_x_count(&p) == INT64_C(1) << 40);
    assert_true(ks_k_count(&p) == INT64_C(1) << 40);
    assert_true(ks_problem_flops(&p) == 0x1p61);
    assert_true(ks_problem_bytes(&p) == 3 * 0x1p42);
    const ks_problem q = {1, 1 << 28, 1 << 28, 1, 1 << 28, KS_F32, KS_BATCH_FIRST, KS_MATH_F32};
    assert_int_equal(ks_problem_check(&q), KS_OK);
    assert_true(ks_problem_flops(&q) == 0x1p85);
}

/* ---- words ---- */

static void test_names_and_parsing(void **state)
{
    static const char *const types[] = {"f32", "f16", "bf16", "f64"}, *const layouts[] = {"first", "last"};
    static const char *const bad[] = {"", "f", "f320", "f32 ", " f32", "double", "lastt", "tf", "tim"};
    (void)state;
    for (int t = 0; t < KS_NTYPES; t++) {
        ks_type type = KS_NTYPES;
        assert_string_equal(ks_type_name((ks_type)t), types[t]);
        assert_int_equal(ks_type_parse(types[t], &type), KS_OK);
        assert_int_equal(type, t);
    }
    for (int l = 0; l < KS_NLAYOUTS; l++) {
        ks_layout layout = KS_NLAYOUTS;
        assert_string_equal(ks_layout_name((ks_layout)l), layouts[l]);
        assert_int_equal(ks_layout_parse(layouts[l], &layout), KS_OK);
        assert_int_equal(layout, l);
    }
    ks_math math = KS_MATH_F32;
    assert_string_equal(ks_math_name(KS_MATH_F32), "f32");
    assert_string_equal(ks_math_name(KS_MATH_TF32), "tf32");
    assert_int_equal(ks_math_parse("tf32", &math), KS_OK);
    assert_int_equal(math, KS_MATH_TF32);
    ks_objective objective = KS_TIME;
    assert_string_equal(ks_objective_name(KS_TIME), "time");
    assert_string_equal(ks_objective_name(KS_ENERGY), "energy");
    assert_int_equal(ks_objective_parse("energy", &objective), KS_OK);
    assert_int_equal(objective, KS_ENERGY);
    assert_string_equal(ks_family_name(KS_FUSED), "fused");
    assert_string_equal(ks_family_name(KS_BMM), "bmm");
    assert_non_null(ks_family_name(KS_REFERENCE));

    assert_null(ks_type_name(KS_NTYPES));
    assert_null(ks_layout_name(KS_NLAYOUTS));
    assert_null(ks_math_name((ks_math)2));
    assert_null(ks_family_name(KS_NFAMILIES));
    assert_null(ks_objective_name((ks_objective)2));

    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        ks_type type;
        ks_layout layout;
        assert_int_equal(ks_type_parse(bad[b], &type), KS_ERR_PARSE);
        assert_non_null(strstr(ks_status_message(KS_ERR_PARSE), bad[b]));
        for (int t = 0; t < KS_NTYPES; t++) assert_names(KS_ERR_PARSE, types[t]);
        assert_int_equal(ks_layout_parse(bad[b], &layout), KS_ERR_PARSE);
        assert_non_null(strstr(ks_status_message(KS_ERR_PARSE), bad[b]));
        for (int l = 0; l < KS_NLAYOUTS; l++) assert_names(KS_ERR_PARSE, layouts[l]);
        assert_int_equal(ks_math_parse(bad[b], &math), KS_ERR_PARSE);
        assert_names(KS_ERR_PARSE, "tf32");
        assert_int_equal(ks_objective_parse(bad[b], &objective), KS_ERR_PARSE);
        assert_names(KS_ERR_PARSE, "energy");
    }
}

static void test_pattern_parse(void **state)
{
    /* No spaces and no signs: a pattern is one word of a command line. */
    static const char *const bad[] = {
        "",
        "1",
        "1,2,3",
        "1,2,3,4,5",
        "1,2,3,4,",
        "1,,3,4",
        ",1,2,3",
        "1,2,3,",
        "a,b,c,d",
        "1,2,3,-4",
        "0,1,1,1",
        "1,1,1,0",
        " 1,2,3,4",
        "1, 2,3,4",
        "1,2,3,4 ",
        "+1,2,3,4",
        "1;2;3;4",
        "0x2,2,3,4",
        "1.5,2,3,4",
        "1e3,2,3,4",
        "1,2,3,4x",
        "1,2,3,4\n",
        "99999999999999999999,1,1,1",
        "1,1,1,9223372036854775808",
    };
    ks_problem p = {.batch = 77, .type = KS_BF16, .layout = KS_BATCH_LAST};
    (void)state;
    assert_int_equal(ks_pattern_parse("1,2,3,4", &p), KS_OK);
    assert_true(p.a == 1 && p.b == 2 && p.c == 3 && p.d == 4);
    assert_true(p.batch == 77 && p.type == KS_BF16 && p.layout == KS_BATCH_LAST);
    assert_int_equal(ks_pattern_parse("9223372036854775807,1,1,4294967296", &p), KS_OK);
    assert_true(p.a == INT64_MAX && p.d == INT64_C(1) << 32);
    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        if (ks_pattern_parse(bad[b], &p) != KS_ERR_PARSE) fail_msg("\"%s\" was taken for a pattern", bad[b]);
        if (strstr(ks_status_message(KS_ERR_PARSE), bad[b]) == NULL)
            fail_msg("\"%s\" does not name \"%s\"", ks_status_message(KS_ERR_PARSE), bad[b]);
    }
    /* A text longer than any message. */
    char text[5000];
    memset(text, '7', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(ks_pattern_parse(text, &p), KS_ERR_PARSE);
    assert_true(strlen(ks_status_message(KS_ERR_PARSE)) > 0);
}

/* ---- statuses ---- */

static void *message_elsewhere(void *out)
{
    *(const char **)out = ks_status_message(KS_ERR_ARGUMENT);
    return NULL;
}

static void test_status_messages(void **state)
{
    ks_problem p = plain;
    (void)state;
    assert_string_equal(ks_status_name(KS_OK), "KS_OK");
    assert_string_equal(ks_status_name(KS_ERR_ARGUMENT), "KS_ERR_ARGUMENT");
    assert_string_equal(ks_status_name(KS_ERR_INTERNAL), "KS_ERR_INTERNAL");
    for (int s = KS_OK; s <= KS_ERR_INTERNAL; s++) {
        assert_true(strlen(ks_status_message((ks_status)s)) > 0);
        for (int other = s + 1; other <= KS_ERR_INTERNAL; other++)
            assert_string_not_equal(ks_status_name((ks_status)s), ks_status_name((ks_status)other));
    }
    assert_non_null(ks_status_name((ks_status)999));
    assert_non_null(ks_status_message((ks_status)999));

    /* The full sentence belongs to the thread and the status that failed last; others get a general one. */
    p.batch = -424242;
    assert_int_equal(ks_problem_check(&p), KS_ERR_ARGUMENT);
    assert_names(KS_ERR_ARGUMENT, "-424242");
    assert_null(strstr(ks_status_message(KS_ERR_OVERFLOW), "424242"));
    const char *message = NULL;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, message_elsewhere, &message), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_non_null(message);
    assert_null(strstr(message, "424242"));
    assert_int_equal(ks_problem_check(&plain), KS_OK);
    assert_names(KS_ERR_ARGUMENT, "-424242");
}

/* ---- weights ---- */

static void test_weights(void **state)
{
    static const int64_t patterns[][4] = {{2, 3, 5, 7}, {1, 1, 1, 1}, {3, 1, 4, 1}, {1, 6, 1, 5}, {4, 16, 16, 16}};
    (void)state;
    for (size_t s = 0; s < sizeof patterns / sizeof patterns[0] * KS_NTYPES * 4; s++) {
        const int64_t *abcd = patterns[s / (KS_NTYPES * 4)];
        const ks_type type = (ks_type)(s / 4 % KS_NTYPES);
        const ks_problem p = {abcd[0], abcd[1], abcd[2], abcd[3], 1, type, KS_BATCH_FIRST, KS_MATH_F32};
        const size_t size = value_bytes(type), bytes = size * (size_t)ks_k_count(&p);
        /* One byte each side is watched, and the arrays lie 0 to 3 bytes off. */
        const size_t off = 1 + s % 4;
        unsigned char *room = calloc(3, bytes + 8), *from = room + off, *to = from + bytes + 8,
                      *back = to + bytes + 8;
        assert_non_null(room);
        /* Any bytes, NaN among them: weights are copied, not computed with. */
        rng r = rng_make(3, s);
        for (size_t o = 0; o < bytes; o++) from[o] = (unsigned char)rng_next(&r);
        to[-1] = to[bytes] = back[-1] = back[bytes] = 0x5c;

        assert_int_equal(ks_weights_to_block(&p, from, to), KS_OK);
        for (int64_t i = 0; i < p.a; i++) {
            for (int64_t j = 0; j < p.b; j++) {
                for (int64_t k = 0; k < p.c; k++) {
                    for (int64_t l = 0; l < p.d; l++) {
                        const int64_t at = ((i * p.b + j) * p.c + k) * p.d + l;
                        assert_memory_equal(to + size * (size_t)problem_k_index(&p, i, j, k, l),
                                            from + size * (size_t)at, size);
                    }
                }
            }
        }
        assert_int_equal(ks_weights_from_block(&p, to, back), KS_OK);
        assert_memory_equal(back, from, bytes);
        assert_true(to[-1] == 0x5c && to[bytes] == 0x5c && back[-1] == 0x5c && back[bytes] == 0x5c);
        free(room);
    }
    ks_problem p = plain;
    float few[210];
    p.c = 0;
    assert_int_equal(ks_weights_to_block(&p, few, few + 1), KS_ERR_ARGUMENT);
    assert_int_equal(ks_weights_from_block(&p, few, few + 1), KS_ERR_ARGUMENT);
    assert_int_equal(ks_weights_to_block(&plain, NULL, few), KS_ERR_ARGUMENT);
    assert_int_equal(ks_weights_to_block(&plain, few, NULL), KS_ERR_ARGUMENT);
    assert_int_equal(ks_weights_from_block(&plain, few, NULL), KS_ERR_ARGUMENT);
}

/* ---- arrays ---- */

static void test_arrays_check(void **state)
{
    const ks_problem *p = &plain;
    const size_t x_bytes = 4 * (size_t)ks_x_count(p), k_bytes = 4 * (size_t)ks_k_count(p);
    const size_t y_bytes = 4 * (size_t)ks_y_count(p);
    unsigned char *room = calloc(2, x_bytes + k_bytes + y_bytes);
    (void)state;
    assert_non_null(room);
    /* Touching end to end is fine, in either order. */
    unsigned char *x = room, *y = x + x_bytes, *k = y + y_bytes;
    assert_int_equal(ks_arrays_check(p, x, k, y), KS_OK);
    assert_int_equal(ks_arrays_check(p, room + y_bytes, room + y_bytes + x_bytes, room), KS_OK);
    assert_int_equal(ks_arrays_check(p, room + k_bytes + y_bytes, room, room + k_bytes), KS_OK);
    assert_int_equal(ks_arrays_check(p, x + 1, k + 1, y + 1), KS_OK);
    /* Only y must keep apart. */
    assert_int_equal(ks_arrays_check(p, x, x, y), KS_OK);

    assert_int_equal(ks_arrays_check(p, NULL, k, y), KS_ERR_ARGUMENT);
    assert_names(KS_ERR_ARGUMENT, "x");
    assert_int_equal(ks_arrays_check(p, x, NULL, y), KS_ERR_ARGUMENT);
    assert_names(KS_ERR_ARGUMENT, "k");
    assert_int_equal(ks_arrays_check(p, x, k, NULL), KS_ERR_ARGUMENT);
    assert_names(KS_ERR_ARGUMENT, "y");

    /* In x: the same, by one byte at either end, inside; then in k. */
    unsigned char *far = room + x_bytes + k_bytes + y_bytes + 8;
    const struct {
        const unsigned char *x, *k, *y;
        const char *with;
    } overlaps[] = {
        {x, far, x, "x"},
        {x, far, x + x_bytes - 1, "x"},
        {x + y_bytes - 1, far, x, "x"},
        {x, far, x + 100, "x"},
        {far, room, room, "k"},
        {far, room, room + k_bytes - 1, "k"},
        {far, room + y_bytes - 1, room, "k"},
        {far, room + 100, room, "k"},
    };
    for (size_t o = 0; o < sizeof overlaps / sizeof overlaps[0]; o++) {
        if (ks_arrays_check(p, overlaps[o].x, overlaps[o].k, overlaps[o].y) != KS_ERR_ARGUMENT)
            fail_msg("overlap %zu was not seen", o);
        assert_names(KS_ERR_ARGUMENT, "y");
        assert_names(KS_ERR_ARGUMENT, overlaps[o].with);
    }
    free(room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check_accepts), cmocka_unit_test(test_check_sizes),
        cmocka_unit_test(test_check_enums),   cmocka_unit_test(test_check_overflow),
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_names_and_parsing),
        cmocka_unit_test(test_pattern_parse), cmocka_unit_test(test_status_messages),
        cmocka_unit_test(test_weights),       cmocka_unit_test(test_arrays_check),
    };
    return cmocka_run_group_tests_name("problem", tests, NULL, NULL);
}
