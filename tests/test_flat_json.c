/* JSON read without a node for every number (flat_json.h): the numbers are those that strtod reads, to the bit; rows are found where
 * they are; and what is refused is what cJSON refuses. KS_TEST_SEED as in test_kernels.c. */
#include "flat_json.h"
#include "problems.h"

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

static rng r;

static void assert_reads(const char *number)
{
    char text[1024];
    ks_flat_json flat;
    snprintf(text, sizeof text, "[ %s\t, -%s]", number, number);
    assert_int_equal(ks_flat_json_parse(&flat, text), KS_OK);
    const double *row = ks_flat_json_row(&flat, flat.root, 2), wanted = strtod(number, NULL), negative = -wanted;
    if (!row || memcmp(&row[0], &wanted, sizeof wanted) != 0 || memcmp(&row[1], &negative, sizeof negative) != 0)
        fail_msg("%s: %.17g and %.17g", text, row ? row[0] : NAN, row ? row[1] : NAN);
    ks_flat_json_free(&flat);
}

static void test_numbers(void **state)
{
    static const char *const odd[] = {"0",
                                      "0.0",
                                      "00012",
                                      "1.",
                                      "9007199254740992",
                                      "9007199254740993",
                                      "900719925474099267",
                                      "1e22",
                                      "1e23",
                                      "1e-22",
                                      "1e-23",
                                      "8.5e-23",
                                      "123456789012345678901234567890",
                                      "0.1234567890123456789012345678",
                                      "1000000000000000000000000000000e-30",
                                      "0.000000000000000000000000000000000000000000000001",
                                      "1e308",
                                      "1e309",
                                      "1e-323",
                                      "1e-400",
                                      "4.9406564584124654e-324",
                                      "1E+05",
                                      "1e-0000000007",
                                      "1e999999999999999999999",
                                      "0e999999999999999999999",
                                      "2.2250738585072011e-308"};
    static const char *const formats[] = {"%.7g", "%.17g", "%.3f", "%.9e", "%.0f", "%.18e"};
    char text[512];
    (void)state;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) assert_reads(odd[i]);
    for (int i = 0; i < 100000; i++) {
        const double value = exp2(200 * (rng_unit(&r) - 0.5)) * rng_unit(&r);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, formats[rng_below(&r, 6)], value);
#pragma GCC diagnostic pop
        assert_reads(text);
    }
    snprintf(text, sizeof text, "0.%0300d1e301", 0); /* as many zeros as the exponent takes back */
    assert_reads(text);
}

static void test_rows(void **state)
{
    static const char text[] = "{\"[1,2\":\"]\\\"[3,\\\\\",\"rows\":[[1,null],[ -0.5 ]],\"none\":[],\"mixed\":[4,[5],"
                               "\"[6]\",{\"seven\":[7,7,7]}],\"number\":8}";
    ks_flat_json flat;
    (void)state;
    assert_int_equal(ks_flat_json_parse(&flat, text), KS_OK);
    assert_int_equal(flat.arrays, 4);
    const cJSON *rows = cJSON_GetObjectItem(flat.root, "rows"), *none = cJSON_GetObjectItem(flat.root, "none"),
                *mixed = cJSON_GetObjectItem(flat.root, "mixed");
    assert_string_equal(cJSON_GetObjectItem(flat.root, "[1,2")->valuestring, "]\"[3,\\");
    const double *first = ks_flat_json_row(&flat, rows->child, 2);
    assert_true(first[0] == 1 && isnan(first[1]));
    assert_true(*ks_flat_json_row(&flat, rows->child->next, 1) == -0.5);
    assert_non_null(ks_flat_json_row(&flat, none, 0));
    assert_true(*ks_flat_json_row(&flat, mixed->child->next, 1) == 5);
    assert_string_equal(mixed->child->next->next->valuestring, "[6]");
    assert_true(ks_flat_json_row(&flat, mixed->child->next->next->next->child, 3)[2] == 7);
    const cJSON *const others[] = {NULL, rows, mixed, cJSON_GetObjectItem(flat.root, "number"), none};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) assert_null(ks_flat_json_row(&flat, others[i], 1));
    assert_null(ks_flat_json_row(&flat, rows->child, 1));
    assert_null(ks_flat_json_row(&flat, rows->child, 3));
    ks_flat_json_free(&flat);
}

/* Texts that are nearly JSON: a good one with bytes changed, taken out and put in. */
static void test_refused(void **state)
{
    static const char good[] = "{\"a\":[1,-2.5e3,null],\"b\":[[0],[],\"[1,2]\"],\"c\":{\"d\":[7]}}",
                      bytes[] = "[]{},:\"\\0123456789.+-eEnul \n";
    int accepted = 0;
    (void)state;
    for (int i = 0; i < 200000; i++) {
        char text[2 * sizeof good];
        strcpy(text, good);
        for (uint64_t edits = 1 + rng_below(&r, 3); edits > 0; edits--) {
            const size_t length = strlen(text), at = rng_below(&r, length);
            const char byte = bytes[rng_below(&r, sizeof bytes - 1)];
            const uint64_t kind = rng_below(&r, 3);
            if (kind == 0) memmove(text + at, text + at + 1, length - at);
            if (kind == 1) memmove(text + at + 1, text + at, length - at + 1);
            if (kind >= 1) text[at] = byte;
        }
        ks_flat_json flat;
        cJSON *tree = cJSON_Parse(text);
        const ks_status s = ks_flat_json_parse(&flat, text);
        if (s != (tree ? KS_OK : KS_ERR_PARSE)) fail_msg("%s: %s", text, ks_status_name(s));
        accepted += tree != NULL;
        ks_flat_json_free(&flat);
        cJSON_Delete(tree);
    }
    assert_in_range(accepted, 20000, 180000);
}

int main(void)
{
    const uint64_t seed = rng_seed_from_env("KS_TEST_SEED");
    r = rng_make(seed, 0);
    printf("KS_TEST_SEED=%" PRIu64 "\n", seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("flat JSON", tests, NULL, NULL);
}
