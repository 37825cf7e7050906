/* A Monarch layer on an image's pixels: an image is blurred by two Kronecker-sparse factors.
 *
 *     cc monarch_image.c -o monarch_image $(pkg-config --cflags --libs ksauto) -lm && ./monarch_image IN.ppm OUT.ppm
 *
 * A filter that acts on columns and on rows is B (x) A on the pixels in reading order, a matrix of (h w)^2 entries. It is the
 * product of (I_h (x) A), pattern (h, w, w, 1), and (B (x) I_w), pattern (1, h, h, w): a Monarch layer, of h w (h + w) entries.
 * The three colours are the batch. Reads and writes binary PPM (P6, 8 bits), as `convert picture.jpg IN.ppm` makes it; without
 * arguments it draws a test picture, blurs it and checks the result against plain loops. */
#include <ksauto.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { COLOURS = 3, RADIUS = 6 };

/* Weight of neighbour j for pixel i, of n in a line: a bell around i, 1 in sum. */
static float bell(int i, int j, int n)
{
    double sum = 0;
    for (int k = 0; k < n; k++) sum += abs(k - i) <= RADIUS ? exp(-(k - i) * (k - i) / 8.0) : 0;
    return abs(j - i) <= RADIUS ? (float)(exp(-(j - i) * (j - i) / 8.0) / sum) : 0;
}

/* One factor: `blocks` blocks of n x n in block order, each the same filter along a line of n pixels. */
static ks_status filter(ks_context *ctx, ks_problem p, int n, const float *x, float *y)
{
    float *k = malloc(sizeof *k * (size_t)ks_k_count(&p)), *line = malloc(sizeof *line * (size_t)n * (size_t)n);
    ks_status s = k && line ? KS_OK : KS_ERR_MEMORY;
    for (int i = 0; s == KS_OK && i < n * n; i++) line[i] = bell(i / n, i % n, n);
    for (int64_t i = 0; s == KS_OK && i < ks_k_count(&p); i++) k[i] = line[i % (n * n)];
    if (s == KS_OK) s = ks_auto_matmul(ctx, &p, x, k, y, NULL);
    free(k), free(line);
    return s;
}

/* x and y: COLOURS images of h x w, one after the other. between is room for one of them. */
static ks_status blur(ks_context *ctx, int h, int w, const float *x, float *between, float *y)
{
    const ks_problem rows = {.a = h, .b = w, .c = w, .d = 1, .batch = COLOURS, .type = KS_F32},
                     columns = {.a = 1, .b = h, .c = h, .d = w, .batch = COLOURS, .type = KS_F32};
    const ks_status s = filter(ctx, rows, w, x, between);
    return s == KS_OK ? filter(ctx, columns, h, between, y) : s;
}

/* A chequered disc where there is no picture. */
static float test_pixel(int colour, int i, int j, int h, int w)
{
    const bool inside = hypot(i - h / 2.0, j - w / 2.0) < h / 3.0;
    return inside && (i / 12 + j / 12 + colour) % 2 ? 230.0f : 20.0f;
}

/* By the definition, for a few pixels. */
static double difference(int h, int w, const float *x, const float *y)
{
    double worst = 0;
    for (int i = 0; i < h; i += 17)
        for (int j = 0; j < w; j += 13) {
            double sum = 0;
            for (int k = 0; k < h; k++)
                for (int l = 0; l < w; l++) sum += (double)bell(i, k, h) * bell(j, l, w) * x[k * w + l];
            worst = fmax(worst, fabs(sum - y[i * w + j]));
        }
    return worst;
}

int main(int argc, char **argv)
{
    int h = 96, w = 128, most = 255;
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (argc != 1 && (argc != 3 || !in)) return fprintf(stderr, "usage: monarch_image [IN.ppm OUT.ppm]\n"), 2;
    if (in && (fscanf(in, "P6 %d %d %d", &w, &h, &most) != 3 || fgetc(in) == EOF || most != 255 || w < 1 || h < 1 ||
               w > 4096 || h > 4096))
        return fprintf(stderr, "%s: not a P6 picture of 8 bits, up to 4096 x 4096\n", argv[1]), 1;
    const size_t pixels = (size_t)h * (size_t)w, bytes = sizeof(float) * COLOURS * pixels;
    float *x = malloc(bytes), *between = malloc(bytes), *y = malloc(bytes);
    ks_context *ctx = NULL;
    if (!x || !between || !y || ks_open(&ctx, NULL) != KS_OK) return 1;
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < COLOURS; c++)
            x[(size_t)c * pixels + i] = in ? (float)fgetc(in) : test_pixel(c, (int)i / w, (int)i % w, h, w);

    const ks_status s = blur(ctx, h, w, x, between, y);
    int code = s != KS_OK;
    if (s != KS_OK) fprintf(stderr, "%s\n", ks_status_message(s));
    if (s == KS_OK && !in) {
        const double worst = difference(h, w, x, y);
        printf("%d x %d pixels, two factors of %lld entries instead of %.3g; difference from plain loops: %s\n", h, w,
               (long long)pixels * (h + w), (double)pixels * (double)pixels,
               worst < 1e-3 ? "none that is seen" : "too large");
        code = worst >= 1e-3;
    }
    FILE *out = s == KS_OK && in ? fopen(argv[2], "wb") : NULL;
    if (out) {
        fprintf(out, "P6\n%d %d\n255\n", w, h);
        for (size_t i = 0; i < pixels; i++)
            for (int c = 0; c < COLOURS; c++)
                fputc((int)lrintf(fminf(fmaxf(y[(size_t)c * pixels + i], 0), 255)), out);
        code = fclose(out) != 0;
    } else if (in)
        code = 1;
    if (in) fclose(in);
    ks_close(ctx);
    free(x), free(between), free(y);
    return code;
}
