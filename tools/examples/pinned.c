/* Multiplying by a table of decisions instead of by advice: what was decided once stays, whatever is measured later.
 *
 *     sh decision_table.sh > decisions.csv
 *     cc pinned.c -o pinned $(pkg-config --cflags --libs ksauto) -lm && ./pinned decisions.csv
 *
 * A training job on many machines wants all of them to add up in the same order, and a release wants the kernels that were
 * tested. Each row names a kernel, which ks_matmul takes by its name. Here every row is run, and compared with what
 * ks_auto_matmul gives. */
#include <inttypes.h>
#include <ksauto.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool read_row(FILE *in, ks_problem *p, char kernel[KS_NAME_BYTES])
{
    char type[8], layout[8];
    *p = (ks_problem){.a = 0};
    return fscanf(in, "%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%7[^,],%7[^,],%63s", &p->a, &p->b,
                  &p->c, &p->d, &p->batch, type, layout, kernel) == 8 &&
           ks_type_parse(type, &p->type) == KS_OK && ks_layout_parse(layout, &p->layout) == KS_OK &&
           p->type == KS_F32;
}

static float *numbers(int64_t count)
{
    float *array = malloc(sizeof *array * (size_t)count);
    for (int64_t i = 0; array && i < count; i++) array[i] = (float)(i * 31 % 17) / 17 - 0.5f;
    return array;
}

int main(int argc, char **argv)
{
    FILE *in = argc == 2 ? fopen(argv[1], "r") : NULL;
    char kernel[KS_NAME_BYTES];
    ks_problem p;
    ks_context *ctx = NULL;
    int rows = 0;
    ks_status s = KS_OK;
    double worst = 0;
    if (!in) return fprintf(stderr, "usage: pinned DECISIONS.csv\n"), 2;
    if (ks_open(&ctx, NULL) != KS_OK || fscanf(in, "%*[^\n]") == EOF) return 1;
    while (s == KS_OK && read_row(in, &p, kernel)) {
        float *x = numbers(ks_x_count(&p)), *k = numbers(ks_k_count(&p)), *pinned = numbers(ks_y_count(&p)),
              *advised = numbers(ks_y_count(&p));
        s = x && k && pinned && advised ? ks_matmul(ctx, &p, kernel, x, k, pinned, NULL) : KS_ERR_MEMORY;
        if (s == KS_OK) s = ks_auto_matmul(ctx, &p, x, k, advised, NULL);
        for (int64_t i = 0; s == KS_OK && i < ks_y_count(&p); i++)
            worst = fmax(worst, fabs((double)pinned[i] - (double)advised[i]));
        free(x), free(k), free(pinned), free(advised);
        rows++;
    }
    if (s != KS_OK)
        fprintf(stderr, "%s\n", ks_status_message(s));
    else
        printf("%d decisions pinned; %s\n", rows, worst < 1e-4 ? "the products are right" : "a product is wrong");
    fclose(in);
    ks_close(ctx);
    return s != KS_OK || rows == 0 || worst >= 1e-4;
}
