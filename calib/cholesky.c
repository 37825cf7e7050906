/* Row by row, every element a product of two rows (Golub and Van Loan, Matrix Computations, section 4.2.5), so that the inner
 * loop runs along memory. */
#include "cholesky.h"
#include "wide.h"

#include <math.h>

enum { SUMS = 32 }; /* four vectors of eight: one sum would wait for its own last addition each time */

static inline __attribute__((always_inline)) double dot(const double *restrict x, const double *restrict y, int n)
{
    double sum[SUMS] = {0}, total = 0;
    int i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int k = 0; k < SUMS; k++) sum[k] += x[i + k] * y[i + k];
    for (; i < n; i++) total += x[i] * y[i];
    for (int half = SUMS / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++) sum[k] += sum[k + half];
    return total + sum[0];
}

WIDE bool ks_cholesky(double *matrix, int n)
{
    for (int i = 0; i < n; i++) {
        double *row = matrix + ks_packed_count(i);
        for (int j = 0; j < i; j++) {
            const double *other = matrix + ks_packed_count(j);
            row[j] = (row[j] - dot(row, other, j)) / other[j];
        }
        const double left = row[i] - dot(row, row, i);
        if (!(left > 0)) return false;
        row[i] = sqrt(left);
    }
    return true;
}

WIDE void ks_cholesky_forward(const double *factor, int n, double *x)
{
    for (int i = 0; i < n; i++) {
        const double *row = factor + ks_packed_count(i);
        x[i] = (x[i] - dot(row, x, i)) / row[i];
    }
}

WIDE void ks_cholesky_solve(const double *factor, int n, double *x)
{
    ks_cholesky_forward(factor, n, x);
    for (int i = n - 1; i >= 0; i--) {
        const double *restrict row = factor + ks_packed_count(i);
        x[i] /= row[i];
        for (int j = 0; j < i; j++) x[j] -= row[j] * x[i];
    }
}

double ks_cholesky_log_det(const double *factor, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += 2 * log(factor[ks_packed_count(i) + (size_t)i]);
    return sum;
}
