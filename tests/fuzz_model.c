/* libFuzzer on the texts that the library parses: models, which come from stores that others may have written, seeds, which
 * come from files, and patterns, which come from the command line. Nothing may crash or leak; a model that is accepted must be
 * printable, and predict numbers; a seed that is accepted has a device's name; a pattern has four sizes of at least 1.
 *
 *     cmake --preset fuzz && cmake --build build/fuzz && build/fuzz/tests/fuzz_model -max_total_time=60 CORPUS */
#include "model.h"
#include "seeds.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void predict(const ks_model *m)
{
    static const ks_device device = {
        .units = 2, .copy_bytes_per_s = 1e10, .gemm_flops_per_s = {1e11, 1e11, 1e11, 1e11}};
    static const int64_t batches[] = {1, 1000, INT64_C(1) << 30};
    for (int i = 0; i < 3; i++) {
        const ks_problem p = {3, 40, 7, 2, batches[i], m->type, m->layout, KS_MATH_F32};
        const ks_kernel *kernels[KS_MODEL_KERNELS];
        ks_prediction out[KS_MODEL_KERNELS];
        for (int q = 0; q < m->kernels; q++) kernels[q] = ks_model_kernel_of(m, q);
        ks_model_predict(m, &device, &p, kernels, m->kernels, true, out);
        for (int q = 0; q < m->kernels; q++)
            if (!isfinite(out[q].log_time) || !(out[q].deviation >= 0 && isfinite(out[q].deviation))) abort();
        if (m->kernels && ks_prediction_best(out, m->kernels) >= m->kernels) abort();
    }
}

static bool look(void *user, const ks_model_row *row)
{
    size_t *bytes = user;
    *bytes += strlen(row->json);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const ks_seed seed = {.name = "fuzz", .text = (const char *)data, .bytes = bytes};
    ks_device device;
    size_t seen = 0;
    if (ks_seed_read(&seed, &device, look, &seen) == KS_OK && (!*device.name || seen > bytes)) abort();
    char *text = malloc(bytes + 1);
    ks_model *m;
    if (!text) return 0;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    const ks_status status = ks_model_parse(text, &m);
    if ((status == KS_OK) != (m != NULL)) abort();
    if (m) {
        predict(m);
        if (ks_model_factorise(m) == KS_OK) predict(m);
        char *printed = ks_model_print(m);
        if (!printed) abort();
        free(printed);
        ks_model_free(m);
    }
    ks_problem p = {0};
    if (ks_pattern_parse(text, &p) == KS_OK && (p.a < 1 || p.b < 1 || p.c < 1 || p.d < 1)) abort();
    free(text);
    return 0;
}
