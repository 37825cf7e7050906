/* Values of the four element types, converted by arithmetic rather than by bit tricks: slower than a kernel may be,
 * but each rounding below is one nearbyint in the default mode, so that it can be believed. The library has its own
 * conversions; these share nothing with them. */
#include "problems.h"

#include <math.h>
#include <string.h>

/* 2^exponent of a normal double, and back. ldexp and frexp would do, but are most of the time of a Debug build's
 * tests. */
static double power_of_two(int exponent)
{
    const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int exponent_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (int)(bits >> 52 & 0x7ff) - 1023;
}

/* A binary float of `digits` significand bits (the hidden one included), given bias and largest exponent. Both 16-bit
 * types are this one function, and both carries, from subnormal to normal and from one exponent to the next, happen
 * by adding the rounded significand to the exponent field. */
static uint16_t to_small_float(double value, int digits, int bias)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const uint16_t infinity = (uint16_t)((2 * bias + 1) << (digits - 1));
    const double size = fabs(value);

    if (isnan(value)) return (uint16_t)(sign | infinity | (1u << (digits - 2)));
    /* Half-way from the largest finite value to the next power of two: ties go to even, and that is Inf. */
    if (size >= (2.0 - power_of_two(-digits)) * power_of_two(bias)) return (uint16_t)(sign | infinity);
    if (size < power_of_two(1 - bias))
        return (uint16_t)(sign | (uint16_t)nearbyint(size * power_of_two(bias + digits - 2)));
    const int exponent = exponent_of(size);
    const unsigned significand = (unsigned)nearbyint(size * power_of_two(digits - 1 - exponent));
    return (uint16_t)(sign | (((unsigned)(exponent + bias - 1) << (digits - 1)) + significand));
}

static double from_small_float(uint16_t bits, int digits, int bias)
{
    const unsigned fraction = bits & ((1u << (digits - 1)) - 1);
    const int field = (bits & 0x7fff) >> (digits - 1);
    double size;

    if (field == 2 * bias + 1)
        size = fraction != 0 ? NAN : INFINITY;
    else if (field == 0)
        size = fraction * power_of_two(2 - bias - digits);
    else
        size = (fraction + (1u << (digits - 1))) * power_of_two(field - bias - digits + 1);
    return (bits & 0x8000) != 0 ? -size : size;
}

uint16_t value_to_half(double value)
{
    return to_small_float(value, 11, 15);
}

uint16_t value_to_bfloat(double value)
{
    return to_small_float(value, 8, 127);
}

double value_from_half(uint16_t bits)
{
    return from_small_float(bits, 11, 15);
}

double value_from_bfloat(uint16_t bits)
{
    return from_small_float(bits, 8, 127);
}

size_t value_bytes(ks_type type)
{
    return type == KS_F64 ? 8 : type == KS_F32 ? 4 : 2;
}

double value_load(ks_type type, const void *data, size_t index)
{
    const unsigned char *at = (const unsigned char *)data + index * value_bytes(type);
    if (type == KS_F64) {
        double value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    if (type == KS_F32) {
        float value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return type == KS_F16 ? value_from_half(bits) : value_from_bfloat(bits);
}

void value_store(ks_type type, void *data, size_t index, double value)
{
    unsigned char *at = (unsigned char *)data + index * value_bytes(type);
    if (type == KS_F64) {
        memcpy(at, &value, sizeof value);
    } else if (type == KS_F32) {
        const float single = (float)value;
        memcpy(at, &single, sizeof single);
    } else {
        const uint16_t bits = type == KS_F16 ? value_to_half(value) : value_to_bfloat(value);
        memcpy(at, &bits, sizeof bits);
    }
}

double value_round(ks_type type, double value)
{
    double stored;
    value_store(type, &stored, 0, value);
    return value_load(type, &stored, 0);
}

void values_fill(rng *r, ks_type type, void *data, size_t count, double scale)
{
    for (size_t i = 0; i < count; i++) value_store(type, data, i, scale * (2.0 * rng_unit(r) - 1.0));
}

void values_sprinkle(rng *r, ks_type type, void *data, size_t count, size_t specials)
{
    static const double special[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 0.0};
    for (size_t s = 0; s < specials; s++)
        value_store(type, data, rng_below(r, count), special[rng_below(r, sizeof special / sizeof special[0])]);
}
