/* The model's text: there and back without a change that matters, whatever the locale, and refused with a reason as soon as
 * anything is wrong with it, since it comes from files that others may have written. */
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char good[2048];

/* A model of two points, in two places or in one, as text; `good` is what tests spoil. */
static void write_model(char text[static 2048], bool apart)
{
    char *at = stpcpy(
        text, "{\"format\":6,\"type\":\"f32\",\"layout\":\"first\",\"objective\":\"time\",\"points\":2,\"length\":");
    for (int d = 0; d < KS_MODEL_DIMS + KS_MODEL_OWN; d++) at += sprintf(at, "%c%d", d ? ',' : '[', d + 1);
    at = stpcpy(at, "],\"input\":");
    for (int d = 0; d < KS_MODEL_DIMS; d++) at += sprintf(at, "%c[%d,%d]", d ? ',' : '[', d, d + apart);
    strcpy(
        at,
        "],\"kernels\":[{\"name\":\"fused.cpu\",\"version\":1,\"family\":\"fused\",\"terms\":\"own\",\"cost\":[1e-6,"
        "1e-10,2e-11,0,0],"
        "\"signal\":0.1,\"noise\":0.001,\"alpha\":[0.5,-0.25],\"own\":[[1,1],[0,0],[0,0],[0,0]]},{\"name\":\"their."
        "own\",\"version\":1,"
        "\"family\":\"bmm\",\"terms\":\"generic\",\"cost\":[1e-6,1e-10,2e-11,0,0],\"signal\":0.1,\"noise\":0.001,"
        "\"alpha\":[0.5,null],"
        "\"own\":[[1,0],[0,0],[0,0],[0,0]]}]}");
}

static ks_device cpu;

static ks_model *parsed(const char *text)
{
    ks_model *m;
    ks_status status = ks_model_parse(text, &m);
    if (status == KS_OK) status = ks_model_factorise(m);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    return m;
}

static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out = malloc(strlen(text) + strlen(to) + 1);
    if (!at) fail_msg("no \"%s\" to replace", from);
    assert_non_null(out);
    memcpy(out, text, (size_t)(at - text));
    strcpy(stpcpy(out + (at - text), to), at + strlen(from));
    return out;
}

static void assert_not_parsed(const char *text, const char *named)
{
    ks_model *m = (ks_model *)1;
    assert_failure(ks_model_parse(text, &m), KS_ERR_PARSE, named, NULL);
    assert_null(m);
}

static void test_malformed(void **state)
{
    static const char nine[] = "\"kernels\":[0,0,0,0,0,0,0,0,0,";
    static const char long_name[] = "\"name\":\"0123456789012345678901234567890123456789012345678901234567890123\"";
    static const struct {
        const char *from, *to, *named;
    } edits[] = {
        {"\"f32\"", "\"f31\"", "f31"},
        {"\"type\":\"f32\",", "", "type"},
        {"\"f32\"", "32", "type"},
        {"\"first\"", "\"middle\"", "middle"},
        {"\"time\"", "\"money\"", "money"},
        {"\"points\":2", "\"points\":1e9", "points"},
        {"\"points\":2", "\"points\":-1", "points"},
        {"\"points\":2", "\"points\":3", "input[0]"},
        {"\"points\":2", "\"points\":1", "input[0]"},
        {"\"points\":2", "\"points\":\"2\"", "points"},
        {"\"points\":2,", "", "points"},
        {"\"points\":2", "\"points\":1e999", "points"},
        {"\"points\":2", "\"points\":2,\"caution\":0", "caution"},
        {"\"points\":2", "\"points\":2,\"caution\":11", "caution"},
        {"\"points\":2", "\"points\":2,\"caution\":\"1\"", "caution"},
        {"\"points\":2", "\"points\":2,\"problems\":1", "problems"},
        {"\"points\":2", "\"points\":2,\"problems\":1e10", "problems"},
        {"\"points\":2", "\"points\":2,\"problems\":\"2\"", "problems"},
        {"\"points\":2", "\"points\":2,\"borrowed\":3", "borrowed"},
        {"\"points\":2", "\"points\":2,\"borrowed\":-1", "borrowed"},
        {"\"points\":2", "\"points\":2,\"apart\":-1", "apart"},
        {"\"points\":2", "\"points\":2,\"apart\":[1]", "apart"},
        {"\"format\":6", "\"format\":7", "format"},
        {"[1,2,3", "[0,2,3", "length[0]"},
        {"[1,2,3", "[-1,2,3", "length[0]"},
        {"[1,2,3", "[1e300,2,3", "length"},
        {"[1,2,3", "[2,3", "length"},
        {"\"length\"", "\"width\"", "length"},
        {"[0,1]", "[0]", "input[0]"},
        {"[0,1]", "[0,1,2]", "input[0]"},
        {"[0,1]", "[0,1e999]", "input[0]"},
        {"[0,1]", "[0,NaN]", "JSON"},
        {"[0,1]", "[0,null]", "input[0]"},
        {"[0,1]", "7", "input[0]"},
        {"[0,1],", "", "input"},
        {"\"name\":\"fused.cpu\",", "", "name"},
        {"\"name\":\"fused.cpu\"", "\"name\":7", "name"},
        {"\"name\":\"fused.cpu\"", long_name, "name"},
        {"\"version\":1", "\"version\":-1", "version"},
        {"\"version\":1", "\"version\":1e12", "version"},
        {"\"version\":1,", "", "version"},
        {"\"family\":\"fused\"", "\"family\":\"warped\"", "family"},
        {"\"family\":\"fused\",", "", "family"},
        {"\"terms\":\"own\"", "\"terms\":\"borrowed\"", "terms"},
        {"\"terms\":\"own\"", "\"terms\":1", "terms"},
        {"\"terms\":\"own\",", "", "terms"},
        {"[1e-6,1e-10", "[-1e-6,1e-10", "-1e-06"},
        {"[1e-6,1e-10", "[1e999,1e-10", "cost"},
        {"[1e-6,1e-10", "[1e-6", "cost"},
        {"[1e-6,1e-10", "[\"1\",1e-10", "cost"},
        {"\"cost\":[1e-6,1e-10,2e-11,0,0],", "", "cost"},
        {"\"signal\":0.1", "\"signal\":-0.1", "variances"},
        {"\"signal\":0.1,", "", "variances"},
        {"\"noise\":0.001", "\"noise\":0", "variances"},
        {"\"noise\":0.001", "\"noise\":-1", "variances"},
        {"\"noise\":0.001", "\"noise\":nan", "JSON"},
        {"[0.5,-0.25]", "[0.5]", "alpha"},
        {"[0.5,-0.25]", "[0.5,\"x\"]", "alpha"},
        {"[0.5,-0.25]", "[0.5,-1e999]", "alpha[1]"},
        {",\"alpha\":[0.5,-0.25]", "", "alpha"},
        {"[[1,1]", "[[1]", "own[0]"},
        {"[[1,1]", "[[1,1e4]", "own[0][1]"},
        {"[[1,1]", "[[1,null]", "own[0]"},
        {"[[1,1],", "[", "own"},
        {"\"format\":6", "\"format\":5", "format"},
        {"\"format\":6,", "", "format"},
        {"\"kernels\":[", "\"kernel\":[", "kernels"},
        {"\"kernels\":[", "\"kernels\":[7,", "name"},
        {"\"kernels\":[", nine, "kernels"},
    };
    (void)state;
    ks_model_free(parsed(good));
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        char *text = replaced(good, edits[i].from, edits[i].to);
        assert_not_parsed(text, edits[i].named);
        free(text);
    }
    assert_not_parsed("", "JSON");
    assert_not_parsed("null", "type");
    assert_not_parsed("[]", "type");
    for (size_t cut = 0; cut < strlen(good); cut += 7) { /* cut short anywhere */
        char *text = strndup(good, cut);
        assert_not_parsed(text, NULL);
        free(text);
    }
    char *deep = malloc(200001);
    memset(deep, '[', 200000);
    deep[200000] = '\0';
    assert_not_parsed(deep, "JSON");
    for (size_t i = 0; i + 5 < 200000; i += 5) memcpy(deep + i, "{\"a\":", 5);
    assert_not_parsed(deep, "JSON");
    free(deep);
}

/* Two points in one place whose noise vanishes beside the signal: no Cholesky factor. */
static void test_not_positive_definite(void **state)
{
    (void)state;
    char same[2048];
    write_model(same, false);
    ks_model_free(parsed(same)); /* with noise there is one */
    char *sharp = replaced(same, "\"noise\":0.001", "\"noise\":1e-25");
    ks_model *m;
    assert_int_equal(ks_model_parse(sharp, &m), KS_OK); /* its means are as good as any */
    assert_failure(ks_model_factorise(m), KS_ERR_PARSE, "positive definite", NULL);
    const ks_problem p = {.a = 3, .b = 5, .c = 7, .d = 11, .batch = 13};
    const ks_kernel *row = ks_model_kernel_of(m, 0);
    ks_prediction out;
    ks_model_predict(m, &cpu, &p, &row, 1, true, &out);
    assert_true(isfinite(out.log_time) && isfinite(out.deviation));
    ks_model_free(m);
    free(sharp);
}

/* Whatever numbers are let in, a prediction is a number. */
static void test_large_numbers(void **state)
{
    static const char *const edits[][2] = {{"[1,2,3", "[1e-6,2,3"},
                                           {"[0,1]", "[1e29,-1e29]"},
                                           {"[0.5,-0.25]", "[1e29,null]"},
                                           {"[1e-6,1e-10", "[1e29,1e29"},
                                           {"\"signal\":0.1", "\"signal\":1e29"},
                                           {"\"noise\":0.001", "\"noise\":1e29"}};
    int failures = 0;
    (void)state;
    for (int set = 1; set < 64; set++) {
        char *text = strdup(good);
        for (int i = 0; i < 6; i++) {
            if (!(set >> i & 1)) continue;
            char *next = replaced(text, edits[i][0], edits[i][1]);
            free(text);
            text = next;
        }
        ks_model *m;
        if (ks_model_parse(text, &m) == KS_OK) {
            ks_model_factorise(m); /* or not */
            const ks_problem p = {.a = 3, .b = 5, .c = 7, .d = 11, .batch = 13};
            const ks_kernel *kernels[] = {ks_model_kernel_of(m, 0), ks_model_kernel_of(m, 1)};
            ks_prediction out[2];
            ks_model_predict(m, &cpu, &p, kernels, 2, true, out);
            for (int q = 0; q < 2; q++) {
                if (isfinite(out[q].log_time) && isfinite(out[q].deviation)) continue;
                print_error("edits %#x: log_time %g, deviation %g\n", (unsigned)set, out[q].log_time,
                            out[q].deviation);
                failures++;
            }
            ks_model_free(m);
        }
        free(text);
    }
    assert_int_equal(failures, 0);
}

static void assert_same_predictions(const ks_model *m, const ks_model *n)
{
    rng r = rng_make(1, 1);
    const problem_bounds bounds = {.hi = {.a = 64, .b = 512, .c = 512, .d = 64, .batch = 4096}};
    assert_int_equal(m->points, n->points);
    assert_int_equal(m->problems, n->problems);
    assert_true(m->caution == n->caution);
    assert_int_equal(m->borrowed, n->borrowed);
    assert_true(fabsf(m->apart - n->apart) < 1e-6f);
    assert_int_equal(m->kernels, n->kernels);
    assert_true(m->type == n->type && m->layout == n->layout && m->objective == n->objective);
    for (int i = 0; i < 200; i++) {
        const ks_problem p = problem_random(&r, &bounds);
        for (int q = 0; q < m->kernels; q++) {
            const ks_kernel *row = ks_model_kernel_of(m, q), *other = ks_model_kernel_of(n, q);
            ks_prediction x, y;
            assert_string_equal(row->name, other->name);
            assert_int_equal(row->family, other->family);
            assert_int_equal(m->kernel[q].generic, n->kernel[q].generic);
            ks_model_predict(m, &cpu, &p, &row, 1, true, &x);
            ks_model_predict(n, &cpu, &p, &other, 1, true, &y);
            assert_true(fabs(x.log_time - y.log_time) < 1e-4);
            assert_true(fabs(x.deviation - y.deviation) < 1e-3);
        }
    }
}

/* 300 points in random places, weights of both signs, some points without a measurement. */
static ks_model *large_model(void)
{
    const known_kernel kernels[] = {
        {"fused.cpu", KS_FUSED, 1e-6}, {"bmm.cpu.permute", KS_BMM, 3e-6}, {"x.y", KS_BMM, 1}};
    ks_model *m = known_model(KS_BF16, KS_BATCH_LAST, kernels, 3);
    rng r = rng_make(9, 9);
    m->objective = KS_ENERGY, m->points = 300, m->problems = 1000, m->caution = 1.75;
    m->borrowed = 100, m->apart = 0.375f;
    for (int d = 0; d < KS_MODEL_DIMS; d++) {
        m->length[d] = (float)(0.7 + 3 * rng_unit(&r));
        for (int i = 0; i < m->points; i++) m->input[d][i] = (float)(12 * rng_unit(&r)) / m->length[d];
    }
    for (int t = 0; t < KS_MODEL_OWN; t++) m->length[KS_MODEL_DIMS + t] = (float)(0.7 + 3 * rng_unit(&r));
    for (int q = 0; q < 3; q++)
        for (int i = 0; i < m->points; i++) {
            for (int t = 0; t < KS_MODEL_OWN; t++) m->kernel[q].own[t][i] = (float)rng_unit(&r);
            m->kernel[q].measured[i] = rng_unit(&r) < 0.8;
            m->kernel[q].alpha[i] = m->kernel[q].measured[i] ? (float)(2 * rng_unit(&r) - 1) : 0;
        }
    for (int q = 0; q < 3; q++) m->kernel[q].cost[KS_TERM_BYTES] = 1.23456789e-10;
    assert_int_equal(ks_model_factorise(m), KS_OK);
    return m;
}

static void test_round_trip(void **state)
{
    ks_model *m = large_model();
    char *text = ks_model_print(m);
    (void)state;
    assert_non_null(text);
    ks_model *n = parsed(text);
    assert_false(n->kernel[0].generic);
    assert_true(n->kernel[2].generic);
    assert_same_predictions(m, n);
    char *again = ks_model_print(n);
    ks_model *third = parsed(again);
    assert_same_predictions(n, third);
    free(text);
    free(again);
    ks_model_free(m);
    ks_model_free(n);
    ks_model_free(third);
}

/* localedef -i de_DE -f UTF-8 DIR/de_DE.UTF-8 and LOCPATH=DIR make a locale for this. */
static void test_decimal_comma(void **state)
{
    static const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8"};
    ks_model *m = large_model();
    char *plain = ks_model_print(m);
    int found = 0;
    (void)state;
    while (found < 5 && !(setlocale(LC_ALL, locales[found]) && *localeconv()->decimal_point == ',')) found++;
    if (found < 5) {
        char *comma = ks_model_print(m);
        assert_string_equal(comma, plain);
        ks_model *n = parsed(comma);
        assert_same_predictions(m, n);
        ks_model_free(n);
        free(comma);
    }
    setlocale(LC_ALL, "C");
    ks_model_free(m);
    free(plain);
    if (found == 5) skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),     cmocka_unit_test(test_not_positive_definite),
        cmocka_unit_test(test_large_numbers), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_decimal_comma),
    };
    write_model(good, true);
    ks_device_cpu(&cpu);
    ks_device_assume_rates(&cpu);
    return cmocka_run_group_tests_name("model_json", tests, NULL, NULL);
}
