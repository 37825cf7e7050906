/* Symmetric positive definite systems, for the run-time library and for fits: the one has no GSL, and for the others GSL's BLAS
 * takes ten times as long.
 *
 * A matrix is its lower triangle, row after row: ks_packed_count(n) numbers, of which element (i,j), j <= i, is number
 * ks_packed_count(i) + j. */
#ifndef KS_CHOLESKY_H
#define KS_CHOLESKY_H

#include <stdbool.h>
#include <stddef.h>

static inline size_t ks_packed_count(int n)
{
    return (size_t)n * (size_t)(n + 1) / 2;
}

/* The matrix becomes its factor L, matrix = L L'. False if it is not positive definite; it is then neither. */
bool ks_cholesky(double *matrix, int n);

/* x becomes the solution of L y = x. */
void ks_cholesky_forward(const double *factor, int n, double *x);

/* x becomes the solution of L L' y = x. */
void ks_cholesky_solve(const double *factor, int n, double *x);

/* Of L L'. */
double ks_cholesky_log_det(const double *factor, int n);

#endif
