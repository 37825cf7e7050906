/* Advice inside a design loop: the block size of a Monarch layer that costs least time on each device, with nothing run.
 *
 *     cc design_loop.c -o design_loop $(pkg-config --cflags --libs ksauto) -lm && ./design_loop "NVIDIA H100" cpu
 *
 * A Monarch layer of width n with blocks of m is (1, m, m, n/m) times (n/m, m, m, 1): 2 n m weights. More weights learn more and
 * cost more, but not in proportion: as long as memory decides, larger blocks are nearly free. The loop asks for every m, for a
 * device that need not be here, and names the largest one that takes at most a tenth longer than the fastest. `ksauto advise
 * --search` looks through all chains in this way. */
#include <inttypes.h>
#include <ksauto.h>
#include <math.h>
#include <stdio.h>

enum { WIDTH = 4096, BATCH = 8192, SMALLEST = 8, STEPS = 7 };

/* Seconds of both factors; NaN, and a message, if there is no advice. */
static double layer_s(ks_context *ctx, int64_t m)
{
    const ks_problem factors[] = {{.a = WIDTH / m, .b = m, .c = m, .d = 1, .batch = BATCH, .type = KS_F16},
                                  {.a = 1, .b = m, .c = m, .d = WIDTH / m, .batch = BATCH, .type = KS_F16}};
    double sum = 0;
    for (int i = 0; i < 2; i++) {
        ks_advice advice;
        const ks_status s = ks_advise(ctx, &factors[i], &advice);
        if (s != KS_OK) return fprintf(stderr, "%s\n", ks_status_message(s)), NAN;
        sum += advice.candidates[0].time_s;
    }
    return sum;
}

static int design(const char *device)
{
    ks_context *ctx;
    double times[STEPS], least = INFINITY;
    if (ks_open(&ctx, &(ks_options){.device = device}) != KS_OK)
        return fprintf(stderr, "%s\n", ks_status_message(KS_ERR_DEVICE)), 1;
    for (int i = 0; i < STEPS; i++) {
        times[i] = layer_s(ctx, (int64_t)SMALLEST << i);
        least = fmin(least, times[i]);
    }
    int taken = 0;
    for (int i = 0; i < STEPS; i++)
        if (times[i] <= 1.1 * least) taken = i;
    printf("%s:\n", device);
    for (int i = 0; i < STEPS; i++)
        printf("%s blocks of %3d  %8d weights  %8.3f ms\n", i == taken ? "->" : "  ", SMALLEST << i,
               2 * WIDTH * (SMALLEST << i), 1e3 * times[i]);
    ks_close(ctx);
    return isfinite(least) ? 0 : 1;
}

int main(int argc, char **argv)
{
    int code = argc < 2 ? design("cpu") : 0;
    for (int i = 1; i < argc; i++) code |= design(argv[i]);
    return code;
}
