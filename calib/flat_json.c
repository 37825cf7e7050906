/* A model is a hundred kilobytes, nearly all of them numbers in arrays, and opening a context reads eight. cJSON makes a node of
 * every number, and asks the C library for its value and the locale: thirty milliseconds in all. Here arrays of numbers are read
 * straight into one block, and cJSON gets the text with each array's place among them in its stead: "[[0.5,2],[3,null]]" as
 * "[[0],[1]]". No other array of numbers is left in what it gets, so that one is always such a place. */
#include "flat_json.h"
#include "error.h"

#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLACE_BYTES = 24 }; /* of a place, in brackets */

/* What cJSON takes for blanks. */
static const char *skip_blanks(const char *at)
{
    while (*at && (unsigned char)*at <= ' ') at++;
    return at;
}

/* Adds digits to a whole number, as many as fit; *most counts down, below zero if some did not. */
static const char *read_digits(const char *at, uint64_t *number, int *most)
{
    for (; *at >= '0' && *at <= '9'; at++) {
        if (*number > 0 || *at != '0') --*most;
        if (*most >= 0) *number = *number * 10 + (uint64_t)(*at - '0');
    }
    return at;
}

/* The number at `at`, rounded once, as strtod does; returns where it ends, or NULL if there is none. Up to 2^53 and 10^22 both
 * factors are exact, so that their product, or quotient, is rounded once, too (Clinger, 1990): nearly every number is one such. */
static const char *read_number(const char *at, locale_t c, double *value)
{
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *start = at, *digits = at + (*at == '-'), *point;
    uint64_t number = 0, power = 0;
    int64_t exponent = 0;
    int most = 18, most_of_power = 4;
    at = read_digits(digits, &number, &most);
    if (at == digits) return NULL;
    if (*at == '.') {
        point = at + 1;
        at = read_digits(point, &number, &most);
        exponent = point - at;
    }
    if (*at == 'e' || *at == 'E') {
        const bool down = at[1] == '-';
        digits = at + (down || at[1] == '+' ? 2 : 1);
        at = read_digits(digits, &power, &most_of_power);
        if (at == digits) return NULL;
        exponent += down ? -(int64_t)power : (int64_t)power;
    }
    if (most >= 0 && most_of_power >= 0 && number <= UINT64_C(1) << 53 && exponent >= -22 && exponent <= 22) {
        const double exact = (double)number;
        *value = exponent < 0 ? exact / tens[-exponent] : exact * tens[exponent];
        if (*start == '-') *value = -*value;
    } else {
        *value = strtod_l(start, NULL, c);
    }
    return at;
}

/* Numbers and nulls behind an opening bracket, up to the closing one; NULL if there is nothing, or anything else. */
static const char *read_row(const char *at, locale_t c, double *values, size_t *count)
{
    *count = 0;
    at = skip_blanks(at);
    for (;;) {
        double *value = &values[(*count)++];
        if (*at == 'n' && strncmp(at, "null", 4) == 0)
            *value = NAN, at += 4;
        else if (!(at = read_number(at, c, value)))
            return NULL;
        at = skip_blanks(at);
        if (*at == ']') return at + 1;
        if (*at++ != ',') return NULL;
        at = skip_blanks(at);
    }
}

/* From the opening quote past the closing one, or to the text's end. */
static const char *skip_string(const char *at)
{
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && at[1]) at++;
    return at + (*at == '"');
}

/* Takes the rows out of the text. `rest` has room for it and for all places. */
static void take_rows(ks_flat_json *flat, const char *text, locale_t c, char *rest)
{
    size_t count;
    while (*text) {
        const char *next = text + 1;
        const size_t start = flat->starts[flat->arrays];
        if (*text == '"') {
            next = skip_string(text);
        } else if (*text == '[' && (next = read_row(text + 1, c, flat->values + start, &count))) {
            rest += snprintf(rest, PLACE_BYTES, "[%zu]", flat->arrays++);
            flat->starts[flat->arrays] = start + count;
            text = next;
            continue;
        } else {
            next = text + 1;
        }
        memcpy(rest, text, (size_t)(next - text));
        rest += next - text;
        text = next;
    }
    *rest = '\0';
}

ks_status ks_flat_json_parse(ks_flat_json *flat, const char *text)
{
    size_t bytes = 0, brackets = 0, commas = 0;
    for (; text[bytes]; bytes++) brackets += text[bytes] == '[', commas += text[bytes] == ',';
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0); /* glibc hands out a static one */
    char *rest = malloc(bytes + PLACE_BYTES * brackets + 1);
    flat->root = NULL, flat->arrays = 0;
    flat->values = malloc((brackets + commas + 1) * sizeof *flat->values);
    flat->starts = calloc(brackets + 1, sizeof *flat->starts);
    const bool room = c && rest && flat->values && flat->starts;
    if (room) {
        take_rows(flat, text, c, rest);
        flat->root = cJSON_Parse(rest);
    }
    if (c) freelocale(c);
    free(rest);
    if (!room) return ks_fail(KS_ERR_MEMORY, "out of memory for JSON of %zu bytes", bytes);
    return flat->root ? KS_OK : ks_fail(KS_ERR_PARSE, "not JSON");
}

void ks_flat_json_free(ks_flat_json *flat)
{
    cJSON_Delete(flat->root);
    free(flat->values);
    free(flat->starts);
}

const double *ks_flat_json_row(const ks_flat_json *flat, const cJSON *item, int count)
{
    if (!cJSON_IsArray(item)) return NULL;
    if (!item->child && count == 0) return flat->values;
    if (!cJSON_IsNumber(item->child) || item->child->next) return NULL;
    const size_t place = (size_t)item->child->valuedouble;
    if (place >= flat->arrays || flat->starts[place + 1] - flat->starts[place] != (size_t)count) return NULL;
    return flat->values + flat->starts[place];
}
