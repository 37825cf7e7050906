/* Arithmetic on sizes, shared by the plans of the kernels. */
#ifndef KS_SIZES_H
#define KS_SIZES_H

#include <stdint.h>

static inline int64_t ks_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t ks_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t ks_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static inline int64_t ks_round_up(int64_t a, int64_t b)
{
    return ks_ceil_div(a, b) * b;
}

#endif
