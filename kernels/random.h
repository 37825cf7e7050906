/* Random numbers where they must come out the same on every machine: splitmix64 (Steele, Lea and Flood, "Fast Splittable
 * Pseudorandom Number Generators", 2014). */
#ifndef KS_RANDOM_H
#define KS_RANDOM_H

#include <stdint.h>

/* What follows z: also a hash of it. */
static inline uint64_t ks_mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t ks_random(uint64_t *state)
{
    const uint64_t number = ks_mix(*state);
    *state += 0x9e3779b97f4a7c15u;
    return number;
}

#endif
