/* A program as a user of the installed library would write it: it sees ksauto.h and nothing else of ours.
 *
 * It multiplies by ks_auto_matmul, by each path and in both layouts, and compares with plain loops over the definition.
 * With CONSUMER_CALIB it needs libksauto_calib as well: it asks for a calibration that must be refused, since a real one
 * takes a while and writes into the store. Exit status 0 if all is as it should be. */
#include <ksauto.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { A = 2, B = 5, C = 7, D = 3, BATCH = 9 };

static float x[A * C * D * BATCH], k[A * B * C * D], block[A * B * C * D], y[A * B * D * BATCH];

/* Element `feature` of sample n, in an array of so many features a sample. */
static float *at(float *array, ks_layout layout, int n, int feature, int features)
{
    return layout == KS_BATCH_FIRST ? &array[n * features + feature] : &array[feature * BATCH + n];
}

static int compare(ks_layout layout, const char *path)
{
    for (int n = 0; n < BATCH; n++)
        for (int row = 0; row < A * B * D; row++) {
            const int i = row / (B * D), j = row / D % B, l = row % D;
            double sum = 0;
            for (int m = 0; m < C; m++)
                sum += (double)k[((i * B + j) * C + m) * D + l] * *at(x, layout, n, (i * C + m) * D + l, A * C * D);
            const float got = *at(y, layout, n, row, A * B * D);
            if (!(fabs(got - sum) <= 1e-5)) {
                fprintf(stderr, "%s, batch-%s: sample %d, row %d is %g, not %g\n", path, ks_layout_name(layout), n,
                        row, (double)got, sum);
                return 1;
            }
        }
    return 0;
}

#ifdef CONSUMER_CALIB
static int refuse_calibration(void)
{
    const ks_calibrate_options options = {.device = "no such device"};
    const ks_status status = ks_calibrate(&options, NULL);
    if (status == KS_ERR_DEVICE) return 0;
    fprintf(stderr, "ks_calibrate on no such device: %s\n", ks_status_name(status));
    return 1;
}
#else
static int refuse_calibration(void)
{
    return 0;
}
#endif

int main(void)
{
    static const char *const paths[] = {"auto", "fused", "bmm"};
    char header[32];
    snprintf(header, sizeof header, "%d.%d.%d", KSAUTO_VERSION_MAJOR, KSAUTO_VERSION_MINOR, KSAUTO_VERSION_PATCH);
    if (strcmp(header, ks_version()) != 0) {
        fprintf(stderr, "the header is %s, the library %s\n", header, ks_version());
        return 1;
    }
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)((int)(i * 7 % 31) - 15) / 16;
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) k[i] = (float)((int)(i * 5 % 29) - 14) / 16;

    ks_context *ctx;
    ks_problem problem = {.a = A, .b = B, .c = C, .d = D, .batch = BATCH, .type = KS_F32};
    ks_status status = ks_open(&ctx, NULL);
    if (status == KS_OK) status = ks_weights_to_block(&problem, k, block);
    int wrong = 0;
    for (int layout = 0; layout < KS_NLAYOUTS && status == KS_OK; layout++)
        for (size_t p = 0; p < sizeof paths / sizeof *paths && status == KS_OK; p++) {
            problem.layout = (ks_layout)layout;
            memset(y, 0xff, sizeof y); /* NaN: what is not written shows */
            status = p == 0 ? ks_auto_matmul(ctx, &problem, x, block, y, NULL)
                            : ks_matmul(ctx, &problem, paths[p], x, block, y, NULL);
            if (status == KS_OK) wrong += compare(problem.layout, paths[p]);
        }
    ks_close(ctx);
    if (status != KS_OK) {
        fprintf(stderr, "%s\n", ks_status_message(status));
        return 1;
    }
    wrong += refuse_calibration();
    if (!wrong) printf("ksauto %s multiplies\n", ks_version());
    return wrong != 0;
}
