/* Trials: arrays between forbidden pages, and the verdict on a kernel's output. See trial.h. */
#include "trial.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LEAST_ZONE_BYTES = 128 };

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
    const size_t before = (size_t)(out->data - out->zone);
    for (size_t o = 0; o < before; o++) out->zone[o] = zone_byte(o);
    for (size_t o = before + bytes; o < zone_bytes; o++) out->zone[o] = zone_byte(o);
    return true;
}

void array_free(array *a)
{
    if (a->zone == NULL) return;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(a->zone - page, a->zone_bytes + 2 * page);
    *a = (array){0};
}

void array_poison(array *a)
{
    memset(a->data, 0xff, a->bytes);
}

bool array_zone_intact(const array *a)
{
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
static bool alloc_at_random(array *out, size_t count, ks_type type, rng *r)
{
    const size_t bytes = count * value_bytes(type);
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
    if (copy != NULL) memcpy(copy, a->data, a->bytes);
    return copy;
}

bool trial_make(trial *t, const ks_problem *problem, trial_values values, rng *r)
{
    const size_t ad = (size_t)(problem->a * problem->d), batch = (size_t)problem->batch;
    const size_t x_count = batch * ad * (size_t)problem->c, y_count = batch * ad * (size_t)problem->b;
    const size_t k_count = ad * (size_t)(problem->b * problem->c);
    const double scale = values == TRIAL_LARGE ? 0x1p9 : values == TRIAL_TINY ? 0x1p-9 : 1.0;

    *t = (trial){.problem = *problem};
    if (!alloc_at_random(&t->x, x_count, problem->type, r) || !alloc_at_random(&t->k, k_count, problem->type, r) ||
        !alloc_at_random(&t->y, y_count, problem->type, r))
        goto fail;
    values_fill(r, problem->type, t->x.data, x_count, scale);
    values_fill(r, problem->type, t->k.data, k_count, scale);
    if (values == TRIAL_NONFINITE) {
        /* Few, or every output is NaN and nothing is left to be contaminated. */
        values_sprinkle(r, problem->type, t->x.data, x_count, 1 + rng_below(r, 3 + x_count / 200));
        values_sprinkle(r, problem->type, t->k.data, k_count, rng_below(r, 3 + k_count / 200));
    }
    t->x_before = copy_of(&t->x);
    t->k_before = copy_of(&t->k);
    t->reference = malloc(y_count * sizeof *t->reference);
    t->magnitude = malloc(y_count * sizeof *t->magnitude);
    if (t->x_before == NULL || t->k_before == NULL || t->reference == NULL || t->magnitude == NULL) goto fail;
    if (!problem_reference(problem, t->x.data, t->k.data, t->reference, t->magnitude)) goto fail;
    return true;
fail:
    trial_free(t);
    return false;
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

bool trial_output_right(ks_type type, int64_t c, double y, double reference, double magnitude)
{
    if (isnan(reference)) return isnan(y);
    if (isinf(reference)) return y == reference;
    /* (c + 8) units of roundoff on the sum of magnitudes hold for any order of summation, fused or not; the last term
     * is for products below float32's subnormals. Rounding to the type is monotone, so what one rounding makes of
     * [low, high] is an interval too, and overflow and subnormals need no case of their own. */
    const double unit = type == KS_F64 ? 0x1p-52 : 0x1p-24;
    const double error = (double)(c + 8) * (unit * magnitude + 0x1p-150);
    const double low = reference - error, high = reference + error;
    /* Sums that are surely rounded to y, in whatever binade it is; most outputs need no more than this to be right. */
    const double half_gap = type == KS_F16 ? 0x1p-12 * fabs(y) : type == KS_BF16 ? 0x1p-9 * fabs(y) : 0;
    if (isfinite(y) && low <= y + half_gap && high >= y - half_gap) return true;
    return y >= value_round(type, low) && y <= value_round(type, high);
}

static bool say(char why[TRIAL_WHY_BYTES], const trial *t, const ks_kernel *kernel, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static bool say(char why[TRIAL_WHY_BYTES], const trial *t, const ks_kernel *kernel, const char *format, ...)
{
    char problem[PROBLEM_TEXT_BYTES], what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    /* Where the arrays lay is part of the reproducer: address modulo 64, and what follows up to the page's end. */
    snprintf(why, TRIAL_WHY_BYTES, "%s on %s (x, k, y at %u, %u, %u modulo 64): %s", kernel->name,
             problem_text(&t->problem, problem), (unsigned)((uintptr_t)t->x.data % 64),
             (unsigned)((uintptr_t)t->k.data % 64), (unsigned)((uintptr_t)t->y.data % 64), what);
    return false;
}

static bool outputs_right(const trial *t, const ks_kernel *kernel, char why[TRIAL_WHY_BYTES])
{
    const size_t count = t->y.bytes / value_bytes(t->problem.type);
    size_t wrong = 0, first = 0;
    for (size_t o = 0; o < count; o++) {
        const double y = value_load(t->problem.type, t->y.data, o);
        if (trial_output_right(t->problem.type, t->problem.c, y, t->reference[o], t->magnitude[o])) continue;
        if (wrong++ == 0) first = o;
    }
    if (wrong == 0) return true;
    return say(why, t, kernel, "%zu of %zu outputs wrong, first y[%zu] = %.9g, reference %.9g (sum of sizes %.9g)",
               wrong, count, first, value_load(t->problem.type, t->y.data, first), t->reference[first],
               t->magnitude[first]);
}

bool trial_run(trial *t, const ks_kernel *kernel, const ks_device *device, char why[TRIAL_WHY_BYTES])
{
    const size_t wanted = kernel->workspace_bytes(&t->problem, device);
    array workspace = {0};
    bool ok = false;

    /* NULL where nothing was asked for: whoever touches it all the same shall fault. */
    if (wanted > 0) {
        if (!array_alloc(&workspace, wanted, ARRAY_LOOSE, 0))
            return say(why, t, kernel, "no memory for a workspace of %zu bytes", wanted);
        array_poison(&workspace);
    }
    array_poison(&t->y);
    const ks_run_args args = {
        .device = device, .x = t->x.data, .k = t->k.data, .y = t->y.data, .workspace = workspace.data};
    const ks_status status = kernel->run(&t->problem, &args);

    if (status != KS_OK)
        say(why, t, kernel, "%s: %s", ks_status_name(status), ks_status_message(status));
    else if (!array_zone_intact(&t->y))
        say(why, t, kernel, "wrote outside y");
    else if (!array_zone_intact(&t->x) || !array_zone_intact(&t->k))
        say(why, t, kernel, "wrote around x or k");
    else if (wanted > 0 && !array_zone_intact(&workspace))
        say(why, t, kernel, "wrote outside its workspace of %zu bytes", wanted);
    else if (memcmp(t->x.data, t->x_before, t->x.bytes) != 0 || memcmp(t->k.data, t->k_before, t->k.bytes) != 0)
        say(why, t, kernel, "changed its inputs");
    else
        ok = outputs_right(t, kernel, why);
    array_free(&workspace);
    return ok;
}
