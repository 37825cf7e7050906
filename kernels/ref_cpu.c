/* ref.cpu: the definition, as plain loops with float64 sums. It is the oracle of every test and of every measurement's
 * check, so it is written to be read, not to be fast, and it is in no choice. */
#include "ref_cpu.h"
#include "half.h"

double ks_load(ks_type type, const void *array, int64_t index)
{
    const char *at = (const char *)array + (size_t)index * ks_type_bytes(type);
    switch (type) {
    case KS_F32: {
        float value;
        memcpy(&value, at, sizeof value);
        return (double)value;
    }
    case KS_F16:
    case KS_BF16: {
        uint16_t bits;
        memcpy(&bits, at, sizeof bits);
        return (double)(type == KS_F16 ? ks_f16_to_f32(bits) : ks_bf16_to_f32(bits));
    }
    case KS_F64:
    default: {
        double value;
        memcpy(&value, at, sizeof value);
        return value;
    }
    }
}

static void store(ks_type type, void *array, int64_t index, double value)
{
    char *at = (char *)array + (size_t)index * ks_type_bytes(type);
    float narrow = (float)value;
    uint16_t bits;
    switch (type) {
    case KS_F32:
        memcpy(at, &narrow, sizeof narrow);
        break;
    case KS_F16:
        bits = ks_f32_to_f16(narrow), memcpy(at, &bits, sizeof bits);
        break;
    case KS_BF16:
        bits = ks_f32_to_bf16(narrow), memcpy(at, &bits, sizeof bits);
        break;
    case KS_F64:
    default:
        memcpy(at, &value, sizeof value);
        break;
    }
}

ks_ref_place ks_ref_place_of(const ks_problem *p, int64_t index)
{
    /* index counts outputs as they lie in memory: (n,i,j,l) in batch-first, (i,j,l,n) in batch-last. */
    int64_t n, rest;
    if (p->layout == KS_BATCH_FIRST)
        n = index / (p->a * p->b * p->d), rest = index % (p->a * p->b * p->d);
    else
        n = index % p->batch, rest = index / p->batch;
    const int64_t l = rest % p->d, j = rest / p->d % p->b, i = rest / p->d / p->b;
    const int64_t row = i * p->c * p->d + l, k_at = ((i * p->d + l) * p->b + j) * p->c;
    return p->layout == KS_BATCH_FIRST ? (ks_ref_place){n * p->a * p->c * p->d + row, p->d, k_at}
                                       : (ks_ref_place){row * p->batch + n, p->d * p->batch, k_at};
}

double ks_ref_dot(ks_type type, int64_t c, const void *x, int64_t x_step, const void *k, double *scale)
{
    double sum = 0, magnitude = 0;
    for (int64_t q = 0; q < c; q++) {
        double term = ks_load(type, x, q * x_step) * ks_load(type, k, q);
        sum += term;
        magnitude += term < 0 ? -term : term;
    }
    if (scale) *scale = magnitude;
    return sum;
}

double ks_ref_output(const ks_problem *p, const void *x, const void *k, int64_t index, double *scale)
{
    const ks_ref_place at = ks_ref_place_of(p, index);
    const size_t size = ks_type_bytes(p->type);
    return ks_ref_dot(p->type, p->c, (const char *)x + (size_t)at.x_at * size, at.x_step,
                      (const char *)k + (size_t)at.k_at * size, scale);
}

static bool supports(const ks_problem *problem, const ks_device *device)
{
    (void)problem;
    return device->backend == KS_CPU;
}

static size_t workspace_bytes(const ks_problem *problem, const ks_device *device)
{
    (void)problem, (void)device;
    return 0;
}

static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    (void)device;
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p);
    terms[KS_TERM_FLOPS] = ks_problem_flops(p);
    terms[KS_TERM_SHUFFLE] = 0;
    terms[KS_TERM_CALLS] = (double)ks_y_count(p);
}

static ks_status run(const ks_problem *p, const ks_run_args *args)
{
    const int64_t count = ks_y_count(p);
    for (int64_t index = 0; index < count; index++)
        store(p->type, args->y, index, ks_ref_output(p, args->x, args->k, index, NULL));
    return KS_OK;
}

const ks_kernel ks_ref_cpu = {"ref.cpu", KS_REFERENCE, KS_CPU, 1, supports, workspace_bytes, cost_terms, run};
