/* OpenBLAS, found at run time.
 *
 * Loaded rather than linked, for three reasons seen in practice. (1) Debian 12's OpenBLAS 0.3.21 does not know CPUs
 * newer than itself and then runs its SSE3 kernels, five times slower than its AVX-512 ones on the same machine; the
 * kernel set can be named only before the library is loaded. (2) A machine without OpenBLAS still multiplies. (3) GSL's
 * cblas.h and OpenBLAS's clash. The price: a caller who has loaded OpenBLAS before gets that one as it is. */
#ifndef KS_BLAS_H
#define KS_BLAS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether there is a BLAS, and its name, version and kernel set: "OpenBLAS 0.3.21 SkylakeX"; "" if there is none. */
bool ks_blas_available(void);
const char *ks_blas_name(void);

/* Between begin and end, GEMM calls run on the calling thread alone: the team (pool.h) owns the parallelism. Nests and
 * may overlap between threads; the caller's own setting of OpenBLAS's threads comes back with the last end. */
void ks_blas_begin(void);
void ks_blas_end(void);

/* Row-major C (m x n, ldc) = op(A) op(B), with op(A) m x k and op(B) k x n; or C += it, if add (else C is not read). No
 * size or leading dimension may exceed INT_MAX. */
void ks_blas_sgemm(bool add, bool bt, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float *c, int64_t ldc);
void ks_blas_dgemm(bool add, bool bt, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
                   int64_t ldb, double *c, int64_t ldc);

#endif
