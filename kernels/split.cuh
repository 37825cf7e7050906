/* Integer arithmetic that CUDA kernels and their launches share. */
#ifndef KS_SPLIT_CUH
#define KS_SPLIT_CUH

#include "sizes.h"

/* Divides value by `by` and returns the rest; in 32 bits, five times faster than 64, where both allow it. */
static __device__ __forceinline__ int64_t split_off(int64_t &value, int64_t by)
{
    int64_t rest;
    if ((uint64_t)value <= UINT32_MAX && (uint64_t)by <= UINT32_MAX) {
        const unsigned q = (unsigned)value / (unsigned)by;
        rest = (unsigned)value - q * (unsigned)by;
        value = q;
    } else {
        rest = value % by;
        value /= by;
    }
    return rest;
}

#endif
