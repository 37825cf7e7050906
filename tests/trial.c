/* Trials: arrays between forbidden pages, and the verdict on a kernel's output. See trial.h. */
#include "trial.h"
#include "memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LEAST_ZONE_BYTES = 128, DEVICE_ZONE_BYTES = 512, MOST_EDGE_BYTES = 2 * DEVICE_ZONE_BYTES };

static unsigned char zone_byte(size_t offset)
{
    return (unsigned char)(0xa5 ^ (offset * 37));
}

bool array_alloc(array *out, size_t bytes, array_edge edge, size_t misalign)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t room = bytes + (edge == ARRAY_LOOSE ? 2 * LEAST_ZONE_BYTES + ARRAY_ALIGNMENT : 0);
    const size_t zone_bytes = (room + page - 1) / page * page + (room == 0 ? page : 0);
    unsigned char *map = mmap(NULL, zone_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return false;
    if (mprotect(map + page, zone_bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, zone_bytes + 2 * page);
        return false;
    }
    *out = (array){.bytes = bytes, .zone = map + page, .zone_bytes = zone_bytes};
    switch (edge) {
    case ARRAY_FLUSH_END:
        out->data = out->zone + zone_bytes - bytes;
        break;
    case ARRAY_FLUSH_START:
        out->data = out->zone;
        break;
    case ARRAY_LOOSE:
        out->data = out->zone + LEAST_ZONE_BYTES + misalign % ARRAY_ALIGNMENT;
        break;
    }
    out->seen = out->data;
    const size_t before = (size_t)(out->data - out->zone);
    for (size_t o = 0; o < before; o++) out->zone[o] = zone_byte(o);
    for (size_t o = before + bytes; o < zone_bytes; o++) out->zone[o] = zone_byte(o);
    return true;
}

/* The zone's known bytes before the data (side 0) or after it, as they must be; how many. */
static size_t edge_bytes(const array *a, int side, unsigned char expected[MOST_EDGE_BYTES], unsigned char **at)
{
    const size_t before = (size_t)(a->data - a->zone), first = side == 0 ? 0 : before + a->bytes;
    const size_t count = side == 0 ? before : a->zone_bytes - first;
    for (size_t o = 0; o < count; o++) expected[o] = zone_byte(first + o);
    *at = a->zone + first;
    return count;
}

bool array_alloc_on(array *out, const ks_device *device, size_t bytes, size_t misalign, bool seen)
{
    unsigned char expected[MOST_EDGE_BYTES], *at;
    void *zone;
    if (device == NULL || device->backend == KS_CPU) return array_alloc(out, bytes, ARRAY_LOOSE, misalign);
    *out = (array){.bytes = bytes, .zone_bytes = bytes + 2 * DEVICE_ZONE_BYTES, .device = device};
    if (ks_memory_alloc(device, out->zone_bytes, &zone) != KS_OK) return false;
    out->zone = zone;
    out->data = out->zone + DEVICE_ZONE_BYTES / 2 + misalign % ARRAY_DEVICE_ALIGNMENT;
    if (seen && (out->seen = malloc(bytes)) == NULL) goto fail;
    for (int side = 0; side < 2; side++) {
        const size_t count = edge_bytes(out, side, expected, &at);
        if (ks_memory_put(device, at, expected, count) != KS_OK) goto fail;
    }
    return true;
fail:
    array_free(out);
    return false;
}

void array_free(array *a)
{
    if (a->zone == NULL) return;
    if (a->device != NULL) {
        ks_memory_free(a->device, a->zone);
        free(a->seen);
    } else {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        munmap(a->zone - page, a->zone_bytes + 2 * page);
    }
    *a = (array){0};
}

bool array_push(array *a)
{
    return a->device == NULL || ks_memory_put(a->device, a->data, a->seen, a->bytes) == KS_OK;
}

bool array_pull(array *a)
{
    return a->device == NULL || ks_memory_get(a->device, a->seen, a->data, a->bytes) == KS_OK;
}

bool array_poison(array *a)
{
    if (a->device != NULL) return ks_memory_set(a->device, a->data, 0xff, a->bytes) == KS_OK;
    memset(a->data, 0xff, a->bytes);
    return true;
}

static bool device_zone_intact(const array *a)
{
    unsigned char expected[MOST_EDGE_BYTES], found[MOST_EDGE_BYTES], *at;
    for (int side = 0; side < 2; side++) {
        const size_t count = edge_bytes(a, side, expected, &at);
        if (ks_memory_get(a->device, found, at, count) != KS_OK || memcmp(found, expected, count) != 0) return false;
    }
    return true;
}

bool array_zone_intact(const array *a)
{
    if (a->device != NULL) return device_zone_intact(a);
    const size_t before = (size_t)(a->data - a->zone);
    for (size_t o = 0; o < before; o++) {
        if (a->zone[o] != zone_byte(o)) return false;
    }
    for (size_t o = before + a->bytes; o < a->zone_bytes; o++) {
        if (a->zone[o] != zone_byte(o)) return false;
    }
    return true;
}

/* One array in four as malloc would give it, one each pushed against a forbidden page, the rest misaligned: by whole
 * elements or, as the contract allows, by bytes. */
static bool alloc_at_random(array *out, const ks_device *device, size_t count, ks_type type, rng *r)
{
    const size_t bytes = count * value_bytes(type);
    if (device != NULL && device->backend != KS_CPU) /* half aligned, which some kernels ask for */
        return array_alloc_on(out, device, bytes, rng_below(r, 2) * (1 + rng_below(r, 7)) * value_bytes(type), true);
    switch (rng_below(r, 6)) {
    case 0:
        return array_alloc(out, bytes, ARRAY_LOOSE, 0);
    case 1:
        return array_alloc(out, bytes, ARRAY_FLUSH_START, 0);
    case 2:
        return array_alloc(out, bytes, ARRAY_FLUSH_END, 0);
    case 3:
        return array_alloc(out, bytes, ARRAY_LOOSE, (1 + rng_below(r, 7)) * value_bytes(type));
    case 4:
        return array_alloc(out, bytes, ARRAY_LOOSE, 1);
    default:
        return array_alloc(out, bytes, ARRAY_LOOSE, 1 + rng_below(r, ARRAY_ALIGNMENT - 1));
    }
}

static unsigned char *copy_of(const array *a)
{
    unsigned char *copy = malloc(a->bytes);
    if (copy != NULL) memcpy(copy, a->seen, a->bytes);
    return copy;
}

bool trial_renew(trial *t, trial_values values, rng *r)
{
    const ks_type type = t->problem.type;
    const size_t x_count = t->x.bytes / value_bytes(type), k_count = t->k.bytes / value_bytes(type);
    const double scale = values == TRIAL_LARGE ? 0x1p9 : values == TRIAL_TINY ? 0x1p-9 : 1.0;
    values_fill(r, type, t->x.seen, x_count, scale);
    values_fill(r, type, t->k.seen, k_count, scale);
    if (values == TRIAL_NONFINITE) {
        /* Few, or every output is NaN and nothing is left to be contaminated. */
        values_sprinkle(r, type, t->x.seen, x_count, 1 + rng_below(r, 3 + x_count / 200));
        values_sprinkle(r, type, t->k.seen, k_count, rng_below(r, 3 + k_count / 200));
    }
    free(t->x_before), free(t->k_before);
    t->x_before = copy_of(&t->x);
    t->k_before = copy_of(&t->k);
    return t->x_before != NULL && t->k_before != NULL && array_push(&t->x) && array_push(&t->k) &&
           problem_reference(&t->problem, t->x.seen, t->k.seen, t->reference, t->magnitude);
}

bool trial_make_on(trial *t, const ks_device *device, const ks_problem *problem, trial_values values, rng *r)
{
    const size_t ad = (size_t)(problem->a * problem->d), batch = (size_t)problem->batch;
    const size_t x_count = batch * ad * (size_t)problem->c, y_count = batch * ad * (size_t)problem->b;
    const size_t k_count = ad * (size_t)(problem->b * problem->c);

    *t = (trial){.problem = *problem};
    if (!alloc_at_random(&t->x, device, x_count, problem->type, r) ||
        !alloc_at_random(&t->k, device, k_count, problem->type, r) ||
        !alloc_at_random(&t->y, device, y_count, problem->type, r))
        goto fail;
    t->reference = malloc(y_count * sizeof *t->reference);
    t->magnitude = malloc(y_count * sizeof *t->magnitude);
    if (t->reference == NULL || t->magnitude == NULL || !trial_renew(t, values, r)) goto fail;
    return true;
fail:
    trial_free(t);
    return false;
}

bool trial_make(trial *t, const ks_problem *problem, trial_values values, rng *r)
{
    return trial_make_on(t, NULL, problem, values, r);
}

void trial_free(trial *t)
{
    array_free(&t->x);
    array_free(&t->k);
    array_free(&t->y);
    free(t->x_before);
    free(t->k_before);
    free(t->reference);
    free(t->magnitude);
    *t = (trial){0};
}

/* unit is the relative error of an operation, slack that of a product beside it. */
static bool output_right(ks_type type, int64_t c, double unit, double slack, double y, double reference,
                         double magnitude)
{
    if (isnan(reference)) return isnan(y);
    if (isinf(reference)) return y == reference;
    /* (c + 8) units of roundoff on the sum of magnitudes hold for any order of summation, fused or not; the last term
     * is for products below float32's subnormals. Rounding to the type is monotone, so what one rounding makes of
     * [low, high] is an interval too, and overflow and subnormals need no case of their own. */
    const double error = (double)(c + 8) * (unit * magnitude + 0x1p-150) + slack * magnitude;
    const double low = reference - error, high = reference + error;
    /* Sums that are surely rounded to y, in whatever binade it is; most outputs need no more than this to be right. */
    const double half_gap = type == KS_F16 ? 0x1p-12 * fabs(y) : type == KS_BF16 ? 0x1p-9 * fabs(y) : 0;
    if (isfinite(y) && low <= y + half_gap && high >= y - half_gap) return true;
    return y >= value_round(type, low) && y <= value_round(type, high);
}

bool trial_output_right(ks_type type, int64_t c, double y, double reference, double magnitude)
{
    return output_right(type, c, type == KS_F64 ? 0x1p-52 : 0x1p-24, 0, y, reference, magnitude);
}

bool trial_product_right(const ks_problem *p, double y, double reference, double magnitude)
{
    /* TF32 keeps 10 bits of the fraction, and the hardware cuts the rest off: 2^-10 for each of two factors. */
    const double slack = p->type == KS_F32 && p->math == KS_MATH_TF32 ? 0x1p-9 + 0x1p-20 : 0;
    return output_right(p->type, p->c, p->type == KS_F64 ? 0x1p-52 : 0x1p-24, slack, y, reference, magnitude);
}

static bool say(char why[TRIAL_WHY_BYTES], const trial *t, const char *who, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static bool say(char why[TRIAL_WHY_BYTES], const trial *t, const char *who, const char *format, ...)
{
    char problem[PROBLEM_TEXT_BYTES], what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    /* Where the arrays lay is part of the reproducer: address modulo 64, and what follows up to the page's end. */
    snprintf(why, TRIAL_WHY_BYTES, "%s on %s (x, k, y at %u, %u, %u modulo 64): %s", who,
             problem_text(&t->problem, problem), (unsigned)((uintptr_t)t->x.data % 64),
             (unsigned)((uintptr_t)t->k.data % 64), (unsigned)((uintptr_t)t->y.data % 64), what);
    return false;
}

static bool outputs_right(const trial *t, const char *who, char why[TRIAL_WHY_BYTES])
{
    const size_t count = t->y.bytes / value_bytes(t->problem.type);
    size_t wrong = 0, first = 0;
    for (size_t o = 0; o < count; o++) {
        const double y = value_load(t->problem.type, t->y.seen, o);
        if (trial_product_right(&t->problem, y, t->reference[o], t->magnitude[o])) continue;
        if (wrong++ == 0) first = o;
    }
    if (wrong == 0) return true;
    return say(why, t, who, "%zu of %zu outputs wrong, first y[%zu] = %.9g, reference %.9g (sum of sizes %.9g)",
               wrong, count, first, value_load(t->problem.type, t->y.seen, first), t->reference[first],
               t->magnitude[first]);
}

bool trial_begin(trial *t)
{
    return array_poison(&t->y);
}

bool trial_end(trial *t, const char *who, char why[TRIAL_WHY_BYTES])
{
    if ((t->y.device != NULL && ks_device_wait(t->y.device) != KS_OK) || !array_pull(&t->x) || !array_pull(&t->k) ||
        !array_pull(&t->y))
        return say(why, t, who, "the device failed: %s", ks_status_message(KS_ERR_DEVICE));
    if (!array_zone_intact(&t->y)) return say(why, t, who, "wrote outside y");
    if (!array_zone_intact(&t->x) || !array_zone_intact(&t->k)) return say(why, t, who, "wrote around x or k");
    if (memcmp(t->x.seen, t->x_before, t->x.bytes) != 0 || memcmp(t->k.seen, t->k_before, t->k.bytes) != 0)
        return say(why, t, who, "changed its inputs");
    return outputs_right(t, who, why);
}

bool trial_run(trial *t, const ks_kernel *kernel, const ks_device *device, char why[TRIAL_WHY_BYTES])
{
    const size_t wanted = kernel->workspace_bytes(&t->problem, device);
    array workspace = {0};
    bool ok = false;

    /* NULL where nothing was asked for: whoever touches it all the same shall fault. */
    if (wanted > 0 && !array_alloc_on(&workspace, t->y.device, wanted, 0, false))
        return say(why, t, kernel->name, "no memory for a workspace of %zu bytes", wanted);
    if ((wanted > 0 && !array_poison(&workspace)) || !trial_begin(t)) {
        array_free(&workspace);
        return say(why, t, kernel->name, "the device failed: %s", ks_status_message(KS_ERR_DEVICE));
    }
    const ks_run_args args = {
        .device = device, .x = t->x.data, .k = t->k.data, .y = t->y.data, .workspace = workspace.data};
    const ks_status status = kernel->run(&t->problem, &args);

    if (status != KS_OK)
        say(why, t, kernel->name, "%s: %s", ks_status_name(status), ks_status_message(status));
    else if (!trial_end(t, kernel->name, why))
        ok = false;
    else if (wanted > 0 && !array_zone_intact(&workspace))
        say(why, t, kernel->name, "wrote outside its workspace of %zu bytes", wanted);
    else
        ok = true;
    array_free(&workspace);
    return ok;
}

int trial_open(int argc, char **argv, ks_device *device, ks_context **ctx, uint64_t *seed, size_t *count)
{
    enum { SKIPPED = 77 };
    const char *name = argc > 1 ? argv[1] : "cpu", *wanted = getenv("KS_TEST_PROBLEMS");
    if (ks_device_find(name, device) != KS_OK) {
        printf("skipped: %s\n", ks_status_message(KS_ERR_DEVICE));
        return SKIPPED;
    }
    if (ks_open(ctx, &(ks_options){.device = name, .store = ""}) != KS_OK) {
        printf("%s\n", ks_status_message(KS_ERR_DEVICE));
        return 1;
    }
    *seed = rng_seed_from_env("KS_TEST_SEED");
    if (wanted) *count = strtoul(wanted, NULL, 10);
    printf("%s, seed %" PRIu64 "\n", device->name, *seed);
    return 0;
}
