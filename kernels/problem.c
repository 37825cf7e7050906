/* The problem: its rules, its sizes, and its words. Everything that a caller may get wrong about a problem is found
 * here, once, with the field and its value in the message; what lies behind ks_problem_check trusts it. */
#include "kernel.h"
#include "error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KS_STRING(x)        #x
#define KS_VERSION(a, b, c) KS_STRING(a) "." KS_STRING(b) "." KS_STRING(c)

const char *ks_version(void)
{
    return KS_VERSION(KSAUTO_VERSION_MAJOR, KSAUTO_VERSION_MINOR, KSAUTO_VERSION_PATCH);
}

static const char *const type_names[] = {"f32", "f16", "bf16", "f64"};
static const char *const layout_names[] = {"first", "last"};
static const char *const math_names[] = {"f32", "tf32"};
static const char *const family_names[] = {"fused", "bmm", "reference"};
static const char *const objective_names[] = {"time", "energy"};
static const size_t type_bytes[] = {4, 2, 2, 8};

enum { MATHS = 2, OBJECTIVES = 2 };

static const char *name_of(const char *const *names, int count, int value)
{
    return value >= 0 && value < count ? names[value] : NULL;
}

const char *ks_type_name(ks_type type)
{
    return name_of(type_names, KS_NTYPES, (int)type);
}

const char *ks_layout_name(ks_layout layout)
{
    return name_of(layout_names, KS_NLAYOUTS, (int)layout);
}

const char *ks_math_name(ks_math math)
{
    return name_of(math_names, MATHS, (int)math);
}

const char *ks_family_name(ks_family family)
{
    return name_of(family_names, KS_NFAMILIES, (int)family);
}

const char *ks_objective_name(ks_objective objective)
{
    return name_of(objective_names, OBJECTIVES, (int)objective);
}

size_t ks_type_bytes(ks_type type)
{
    return (unsigned)type < KS_NTYPES ? type_bytes[type] : 0;
}

/* The name's index, or -1 with the failure told. */
static int index_of(const char *what, const char *const *names, int count, const char *text)
{
    char valid[64] = "";
    for (int i = 0; i < count; i++) {
        if (text && strcmp(text, names[i]) == 0) return i;
        size_t used = strlen(valid);
        snprintf(valid + used, sizeof valid - used, "%s%s", i ? ", " : "", names[i]);
    }
    ks_fail(KS_ERR_PARSE, "%s \"%.80s\" is unknown; valid: %s", what, text ? text : "(null)", valid);
    return -1;
}

ks_status ks_type_parse(const char *text, ks_type *type)
{
    int i = index_of("type", type_names, KS_NTYPES, text);
    if (i < 0) return KS_ERR_PARSE;
    *type = (ks_type)i;
    return KS_OK;
}

ks_status ks_layout_parse(const char *text, ks_layout *layout)
{
    int i = index_of("layout", layout_names, KS_NLAYOUTS, text);
    if (i < 0) return KS_ERR_PARSE;
    *layout = (ks_layout)i;
    return KS_OK;
}

ks_status ks_math_parse(const char *text, ks_math *math)
{
    int i = index_of("math", math_names, MATHS, text);
    if (i < 0) return KS_ERR_PARSE;
    *math = (ks_math)i;
    return KS_OK;
}

ks_status ks_objective_parse(const char *text, ks_objective *objective)
{
    int i = index_of("objective", objective_names, OBJECTIVES, text);
    if (i < 0) return KS_ERR_PARSE;
    *objective = (ks_objective)i;
    return KS_OK;
}

ks_status ks_pattern_parse(const char *text, ks_problem *problem)
{
    int64_t sizes[4];
    const char *at = text ? text : "";
    for (int i = 0; i < 4; i++) {
        char *end;
        errno = 0;
        long long value = *at >= '0' && *at <= '9' ? strtoll(at, &end, 10) : 0;
        if (value < 1 || errno || *end != (i < 3 ? ',' : '\0'))
            return ks_fail(KS_ERR_PARSE,
                           "pattern \"%.80s\" is not four whole numbers >= 1 as A,B,C,D (number %d is wrong)",
                           text ? text : "(null)", i + 1);
        sizes[i] = value;
        at = end + 1;
    }
    problem->a = sizes[0], problem->b = sizes[1], problem->c = sizes[2], problem->d = sizes[3];
    return KS_OK;
}

/* Counts and the products on the way to them must stay below 2^63 bytes for every array. */
static bool product_fits(const int64_t *factors, int count, int64_t limit)
{
    int64_t product = 1;
    for (int i = 0; i < count; i++)
        if (__builtin_mul_overflow(product, factors[i], &product) || product > limit) return false;
    return true;
}

ks_status ks_problem_check(const ks_problem *p)
{
    if (!p) return ks_fail(KS_ERR_ARGUMENT, "problem is NULL");
    const char *const names[] = {"a", "b", "c", "d", "batch"};
    const int64_t sizes[] = {p->a, p->b, p->c, p->d, p->batch};
    for (int i = 0; i < 5; i++)
        if (sizes[i] < 1) return ks_fail(KS_ERR_ARGUMENT, "%s is %" PRId64 ", must be >= 1", names[i], sizes[i]);
    if (!ks_type_name(p->type)) return ks_fail(KS_ERR_ARGUMENT, "type is %d, not a ks_type", (int)p->type);
    if (!ks_layout_name(p->layout)) return ks_fail(KS_ERR_ARGUMENT, "layout is %d, not a ks_layout", (int)p->layout);
    if (!ks_math_name(p->math)) return ks_fail(KS_ERR_ARGUMENT, "math is %d, not a ks_math", (int)p->math);
    const int64_t limit = INT64_MAX / (int64_t)ks_type_bytes(p->type);
    const int64_t k[] = {p->a, p->b, p->c, p->d}, x[] = {p->batch, p->a, p->c, p->d},
                  y[] = {p->batch, p->a, p->b, p->d};
    const struct {
        const char *name;
        const int64_t *factors;
    } arrays[] = {{"K (a*b*c*d)", k}, {"X (batch*a*c*d)", x}, {"Y (batch*a*b*d)", y}};
    for (int i = 0; i < 3; i++)
        if (!product_fits(arrays[i].factors, 4, limit))
            return ks_fail(KS_ERR_OVERFLOW,
                           "%s does not fit 63 bits of bytes: a=%" PRId64 " b=%" PRId64 " c=%" PRId64 " d=%" PRId64
                           " batch=%" PRId64,
                           arrays[i].name, p->a, p->b, p->c, p->d, p->batch);
    return KS_OK;
}

int64_t ks_x_count(const ks_problem *p)
{
    return p->batch * p->a * p->c * p->d;
}

int64_t ks_k_count(const ks_problem *p)
{
    return p->a * p->b * p->c * p->d;
}

int64_t ks_y_count(const ks_problem *p)
{
    return p->batch * p->a * p->b * p->d;
}

double ks_problem_bytes(const ks_problem *p)
{
    double per_sample = (double)p->a * (double)p->d * ((double)p->b + (double)p->c);
    return (double)ks_type_bytes(p->type) * ((double)p->batch * per_sample + (double)ks_k_count(p));
}

double ks_problem_flops(const ks_problem *p)
{
    return 2.0 * (double)p->batch * (double)ks_k_count(p);
}

bool ks_overlap(const void *p, int64_t p_bytes, const void *q, int64_t q_bytes)
{
    uintptr_t a = (uintptr_t)p, b = (uintptr_t)q;
    return a < b + (uintptr_t)q_bytes && b < a + (uintptr_t)p_bytes;
}

ks_status ks_arrays_check(const ks_problem *p, const void *x, const void *k, const void *y)
{
    if (!x) return ks_fail(KS_ERR_ARGUMENT, "x is NULL");
    if (!k) return ks_fail(KS_ERR_ARGUMENT, "k is NULL");
    if (!y) return ks_fail(KS_ERR_ARGUMENT, "y is NULL");
    int64_t size = (int64_t)ks_type_bytes(p->type);
    if (ks_overlap(y, ks_y_count(p) * size, x, ks_x_count(p) * size))
        return ks_fail(KS_ERR_ARGUMENT, "y (%p) overlaps x (%p)", y, x);
    if (ks_overlap(y, ks_y_count(p) * size, k, ks_k_count(p) * size))
        return ks_fail(KS_ERR_ARGUMENT, "y (%p) overlaps k (%p)", y, k);
    return KS_OK;
}

/* Weights are moved as opaque words of the type's size: no value is looked at, so NaN payloads survive. */
typedef struct reorder {
    const ks_problem *problem;
    bool to_block;
} reorder;

static ks_status weights_reorder(reorder r, const void *from, void *to)
{
    const ks_problem *p = r.problem;
    ks_status s = ks_problem_check(p);
    if (s != KS_OK) return s;
    if (!from || !to) return ks_fail(KS_ERR_ARGUMENT, "%s is NULL", from ? "the destination" : "the source");
    const size_t size = ks_type_bytes(p->type);
    const int64_t bytes = ks_k_count(p) * (int64_t)size;
    if (ks_overlap(from, bytes, to, bytes)) return ks_fail(KS_ERR_ARGUMENT, "source and destination overlap");
    const char *src = from;
    char *dst = to;
    for (int64_t i = 0; i < p->a; i++)
        for (int64_t l = 0; l < p->d; l++)
            for (int64_t j = 0; j < p->b; j++)
                for (int64_t k = 0; k < p->c; k++) {
                    size_t block = (size_t)(((i * p->d + l) * p->b + j) * p->c + k) * size;
                    size_t abcd = (size_t)(((i * p->b + j) * p->c + k) * p->d + l) * size;
                    memcpy(dst + (r.to_block ? block : abcd), src + (r.to_block ? abcd : block), size);
                }
    return KS_OK;
}

ks_status ks_weights_to_block(const ks_problem *problem, const void *abcd, void *block)
{
    return weights_reorder((reorder){problem, true}, abcd, block);
}

ks_status ks_weights_from_block(const ks_problem *problem, const void *block, void *abcd)
{
    return weights_reorder((reorder){problem, false}, block, abcd);
}
