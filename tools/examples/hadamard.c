/* The Walsh-Hadamard transform of length 4096 as a chain of Kronecker-sparse factors.
 *
 *     cc hadamard.c -o hadamard $(pkg-config --cflags --libs ksauto) -lm && ./hadamard
 *
 * H(n) = H(r) (x) H(r) (x) ... holds for every radix r, and the factor for digit q is I (x) H(r) (x) I: pattern
 * (r^q, r, r, n / r^(q+1)), every block of it the same small H(r). Radix 2 is the butterfly of textbooks, 12 passes over the data;
 * radix 64 takes two passes with more arithmetic each. Which is fastest is the machine's business, and ksauto's to know: the
 * program asks it, and takes the radix whose factors are predicted to take least time. */
#include <ksauto.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 4096, BATCH = 64 };

/* The factor of digit q. */
static ks_problem factor(int64_t radix, int64_t before)
{
    return (ks_problem){
        .a = before, .b = radix, .c = radix, .d = N / (before * radix), .batch = BATCH, .type = KS_F32};
}

/* Seconds that all factors of a radix are predicted to take; infinite if one cannot be had. */
static double predicted_s(ks_context *ctx, int64_t radix)
{
    double sum = 0;
    for (int64_t before = 1; before < N; before *= radix) {
        ks_advice advice;
        const ks_problem p = factor(radix, before);
        if (ks_advise(ctx, &p, &advice) != KS_OK) return INFINITY;
        sum += advice.candidates[0].time_s;
    }
    return sum;
}

/* Entry of H: -1 to the power of the number of common bits. */
static float entry(unsigned row, unsigned column)
{
    return __builtin_parity(row & column) ? -1.0f : 1.0f;
}

/* y = x H by one factor after the other; the result ends up in *x, and the other array holds the step before it. */
static ks_status transform(ks_context *ctx, int64_t radix, float **x, float **y)
{
    float *weights = malloc(sizeof *weights * N * (size_t)radix);
    ks_status s = weights ? KS_OK : KS_ERR_MEMORY;
    for (int64_t before = 1; s == KS_OK && before < N; before *= radix) {
        const ks_problem p = factor(radix, before);
        for (int64_t i = 0; i < ks_k_count(&p); i++) /* block order: a*d blocks of b x c, all alike */
            weights[i] = entry((unsigned)(i / radix % radix), (unsigned)(i % radix));
        s = ks_auto_matmul(ctx, &p, *x, weights, *y, NULL);
        float *swap = *x;
        *x = *y, *y = swap;
    }
    free(weights);
    return s;
}

int main(void)
{
    static const int64_t radices[] = {2, 4, 8, 16, 64};
    float *x = malloc(sizeof *x * N * BATCH), *y = malloc(sizeof *y * N * BATCH), *row = malloc(sizeof *row * N);
    ks_context *ctx = NULL;
    int64_t best = 2;
    double worst = 0;
    if (!x || !y || !row || ks_open(&ctx, NULL) != KS_OK) return 1;
    for (size_t i = 0; i < sizeof radices / sizeof *radices; i++) {
        const double time_s = predicted_s(ctx, radices[i]);
        printf("radix %2lld: %7.3f ms predicted\n", (long long)radices[i], 1e3 * time_s);
        if (time_s < predicted_s(ctx, best)) best = radices[i];
    }
    for (int i = 0; i < N * BATCH; i++) x[i] = (float)(i * 37 % 101) - 50;
    memcpy(row, x, sizeof *row * N);
    const ks_status s = transform(ctx, best, &x, &y);
    for (unsigned k = 0; s == KS_OK && k < N;
         k++) { /* the first sample, by the definition; whole numbers, so exactly */
        double sum = 0;
        for (unsigned j = 0; j < N; j++) sum += (double)entry(j, k) * row[j];
        worst = fmax(worst, fabs(sum - x[k]));
    }
    if (s != KS_OK)
        fprintf(stderr, "%s\n", ks_status_message(s));
    else
        printf("radix %lld it is; difference from the definition: %g\n", (long long)best, worst);
    ks_close(ctx);
    free(x), free(y), free(row);
    return s != KS_OK || worst > 0;
}
