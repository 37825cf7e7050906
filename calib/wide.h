/* For functions whose loops are to be compiled for wider vectors as well; which of them is run is decided when the library is
 * loaded. (Not under sanitizers: they are not ready so early.) What such a function calls must be inlined to gain by it. */
#ifndef KS_WIDE_H
#define KS_WIDE_H

#include <limits.h> /* __GLIBC__, where it is that */

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&            \
    !defined(__SANITIZE_THREAD__)
#    define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#    define WIDE
#endif

#endif
