/* The model as JSON and back. Text comes from stores and seeds that others may have written, so nothing of it is trusted:
 * sizes are checked before they are used, numbers must be finite and in range, names are cut to length. */
#include "model.h"
#include "error.h"
#include "flat_json.h"
#include "standing.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT = 6 }; /* raised when anything changes its meaning, what a kernel's terms count included */
static const char *const terms_names[] = {[false] = "own", [true] = "generic"};

/* Bad magnitudes are as harmful as NaN. Nothing here is near these: features are logarithms of sizes below 2^63, and
 * variances those of logarithms of times. */
static const double largest = 1e12, largest_feature = 1e3, largest_variance = 1e4;

static bool is_number(double value)
{
    return isfinite(value) && fabs(value) <= largest;
}

static bool number(const cJSON *object, double *value)
{
    if (!cJSON_IsNumber(object) || !is_number(object->valuedouble)) return false;
    *value = object->valuedouble;
    return true;
}

/* The array's numbers; NULL if it is not one of so many, or any of them is none. */
static const double *numbers(const ks_flat_json *text, const cJSON *array, int count)
{
    const double *values = ks_flat_json_row(text, array, count);
    for (int i = 0; values && i < count; i++)
        if (!is_number(values[i])) return NULL;
    return values;
}

static const char *text_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static ks_status parse_kernel(const ks_flat_json *text, const cJSON *object, int points, ks_model_kernel *k)
{
    double version;
    const char *name = text_of(object, "name");
    if (!name || strlen(name) >= sizeof k->name || !ks_text_is_plain(name))
        return ks_fail(KS_ERR_PARSE, "model: a kernel has no usable name");
    strcpy(k->name, name);
    if (!number(cJSON_GetObjectItemCaseSensitive(object, "version"), &version) || version < 0 || version > 1e6)
        return ks_fail(KS_ERR_PARSE, "model: version of %s is not a number", name);
    k->version = (unsigned)version;
    const char *family = text_of(object, "family");
    for (k->family = KS_FUSED; !family || strcmp(family, ks_family_name(k->family)) != 0; k->family++)
        if (!family || k->family == KS_REFERENCE)
            return ks_fail(KS_ERR_PARSE, "model: family of %s is not fused, bmm or reference", name);
    ks_foreign_kernel(&k->foreign, k->name, k->family, k->version);
    const char *terms = text_of(object, "terms");
    k->generic = terms && strcmp(terms, terms_names[true]) == 0;
    if (!k->generic && (!terms || strcmp(terms, terms_names[false]) != 0))
        return ks_fail(KS_ERR_PARSE, "model: terms of %s are neither own nor generic", name);
    const double *cost = numbers(text, cJSON_GetObjectItemCaseSensitive(object, "cost"), KS_NTERMS);
    if (!cost) return ks_fail(KS_ERR_PARSE, "model: cost of %s is not %d numbers", name, KS_NTERMS);
    memcpy(k->cost, cost, sizeof k->cost);
    for (int t = 0; t < KS_NTERMS; t++)
        if (k->cost[t] < 0) return ks_fail(KS_ERR_PARSE, "model: cost %g of %s is negative", k->cost[t], name);
    if (!number(cJSON_GetObjectItemCaseSensitive(object, "signal"), &k->signal) || k->signal < 0 ||
        k->signal > largest_variance || !number(cJSON_GetObjectItemCaseSensitive(object, "noise"), &k->noise) ||
        k->noise <= 0 || k->noise > largest_variance)
        return ks_fail(KS_ERR_PARSE, "model: variances of %s are not numbers in (0, %g]", name, largest_variance);
    const double *alpha = ks_flat_json_row(text, cJSON_GetObjectItemCaseSensitive(object, "alpha"), points);
    if (!alpha) return ks_fail(KS_ERR_PARSE, "model: alpha of %s is not %d numbers or nulls", name, points);
    for (int i = 0; i < points; i++) {
        k->measured[i] = !isnan(alpha[i]);
        if (k->measured[i] && !is_number(alpha[i]))
            return ks_fail(KS_ERR_PARSE, "model: alpha[%d] of %s is not a number", i, name);
        k->alpha[i] = k->measured[i] ? (float)alpha[i] : 0;
    }
    return KS_OK;
}

/* A kernel's own features; its alpha says where it was measured. */
static ks_status parse_own(const ks_flat_json *text, const cJSON *object, const ks_model *m, ks_model_kernel *k)
{
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(object, "own");
    if (!cJSON_IsArray(own) || cJSON_GetArraySize(own) != KS_MODEL_OWN)
        return ks_fail(KS_ERR_PARSE, "model: own of %s is not %d arrays", k->name, KS_MODEL_OWN);
    const cJSON *row = own->child;
    for (int t = 0; t < KS_MODEL_OWN; t++, row = row->next) {
        const double *values = numbers(text, row, m->points);
        if (!values) return ks_fail(KS_ERR_PARSE, "model: own[%d] of %s is not %d numbers", t, k->name, m->points);
        for (int i = 0; i < m->points; i++) {
            if (fabs(values[i]) > largest_feature)
                return ks_fail(KS_ERR_PARSE, "model: own[%d][%d] of %s is %g, no share", t, i, k->name, values[i]);
            k->own[t][i] = (float)values[i] / m->length[KS_MODEL_DIMS + t];
        }
    }
    return KS_OK;
}

/* How cautious the model is, what it has borrowed, and for how many problems its points stand: where that is not said, not at all,
 * nothing, and for themselves. */
static ks_status parse_trust(const cJSON *root, ks_model *m)
{
    const cJSON *caution = cJSON_GetObjectItemCaseSensitive(root, "caution"),
                *borrowed = cJSON_GetObjectItemCaseSensitive(root, "borrowed"),
                *apart = cJSON_GetObjectItemCaseSensitive(root, "apart"),
                *problems = cJSON_GetObjectItemCaseSensitive(root, "problems");
    double count = 0, distance = 0, measured = m->points;
    m->caution = 1;
    if (caution && (!number(caution, &m->caution) || m->caution < 0.1 || m->caution > 10))
        return ks_fail(KS_ERR_PARSE, "model: caution is not a number in [0.1, 10]");
    if (borrowed && (!number(borrowed, &count) || count < 0 || count > m->points))
        return ks_fail(KS_ERR_PARSE, "model: borrowed is not a number from 0 to %d", m->points);
    if (apart && (!number(apart, &distance) || distance < 0 || distance > largest_feature))
        return ks_fail(KS_ERR_PARSE, "model: apart is not a number in [0, %g]", largest_feature);
    if (problems && (!number(problems, &measured) || measured < m->points || measured > INT_MAX))
        return ks_fail(KS_ERR_PARSE, "model: problems is not a number from %d to %d", m->points, INT_MAX);
    m->borrowed = (int)count, m->apart = (float)distance, m->problems = (int)measured;
    return KS_OK;
}

static ks_status parse_object(const ks_flat_json *text, ks_model *m)
{
    enum { LENGTHS = KS_MODEL_DIMS + KS_MODEL_OWN };
    const cJSON *root = text->root;
    double points, format;
    ks_status s;
    const char *type = text_of(root, "type"), *layout = text_of(root, "layout"),
               *objective = text_of(root, "objective");
    if ((s = ks_type_parse(type, &m->type)) || (s = ks_layout_parse(layout, &m->layout)) ||
        (s = ks_objective_parse(objective, &m->objective)))
        return s;
    if (!number(cJSON_GetObjectItemCaseSensitive(root, "format"), &format) || format != FORMAT)
        return ks_fail(KS_ERR_PARSE, "model: format is not %d: another version's; `ksauto fit` makes it anew",
                       FORMAT);
    if (!number(cJSON_GetObjectItemCaseSensitive(root, "points"), &points) || points < 0 || points > KS_MODEL_POINTS)
        return ks_fail(KS_ERR_PARSE, "model: points is not a number from 0 to %d", KS_MODEL_POINTS);
    m->points = (int)points;
    const double *length = numbers(text, cJSON_GetObjectItemCaseSensitive(root, "length"), LENGTHS);
    if (!length) return ks_fail(KS_ERR_PARSE, "model: length is not %d numbers", LENGTHS);
    for (int d = 0; d < LENGTHS; d++) {
        if (length[d] < 1e-6 || length[d] > 1e6)
            return ks_fail(KS_ERR_PARSE, "model: length[%d] is %g, must be in [1e-6, 1e6]", d, length[d]);
        m->length[d] = (float)length[d];
    }
    if ((s = parse_trust(root, m)) || (s = ks_standing_parse(root, &m->standing))) return s;
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(root, "input");
    if (!cJSON_IsArray(input) || cJSON_GetArraySize(input) != KS_MODEL_DIMS)
        return ks_fail(KS_ERR_PARSE, "model: input is not %d arrays", KS_MODEL_DIMS);
    const cJSON *row = input->child;
    for (int d = 0; d < KS_MODEL_DIMS; d++, row = row->next) {
        const double *values = numbers(text, row, m->points);
        if (!values) return ks_fail(KS_ERR_PARSE, "model: input[%d] is not %d numbers", d, m->points);
        for (int i = 0; i < m->points; i++) {
            if (fabs(values[i]) > largest_feature)
                return ks_fail(KS_ERR_PARSE, "model: input[%d][%d] is %g, no logarithm of a size", d, i, values[i]);
            m->input[d][i] = (float)values[i] / m->length[d];
        }
    }
    const cJSON *kernels = cJSON_GetObjectItemCaseSensitive(root, "kernels"), *kernel;
    if (!cJSON_IsArray(kernels) || cJSON_GetArraySize(kernels) > KS_MODEL_KERNELS)
        return ks_fail(KS_ERR_PARSE, "model: kernels is not an array of at most %d", KS_MODEL_KERNELS);
    cJSON_ArrayForEach(kernel, kernels)
    {
        ks_model_kernel *k = &m->kernel[m->kernels];
        if ((s = parse_kernel(text, kernel, m->points, k)) || (s = parse_own(text, kernel, m, k))) return s;
        m->kernels++;
    }
    return KS_OK;
}

ks_status ks_model_parse(const char *text, ks_model **model)
{
    ks_flat_json flat;
    ks_model *m = NULL;
    *model = NULL;
    ks_status s = ks_flat_json_parse(&flat, text);
    if (s == KS_ERR_PARSE) ks_fail(s, "model: not JSON");
    if (s == KS_OK && !(m = calloc(1, sizeof *m))) s = ks_fail(KS_ERR_MEMORY, "out of memory for a model");
    if (s == KS_OK) s = parse_object(&flat, m);
    ks_flat_json_free(&flat);
    if (s != KS_OK) {
        ks_model_free(m);
        return s;
    }
    *model = m;
    return KS_OK;
}

/* Where memory runs out, what could not be added is missing: half a model must not be taken for a whole one, so every addition
 * says whether it was made. */

/* An item that was made or was not (NULL), into an array that was, or was not. */
static bool add_item(cJSON *array, cJSON *item)
{
    if (item && array && cJSON_AddItemToArray(array, item)) return true;
    cJSON_Delete(item);
    return false;
}

/* Seven digits are all that a float32 holds; the text is a third of the size that %.17g would make. */
static bool add_short(cJSON *array, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.7g", value);
    for (char *c = text; *c; c++)
        if (*c == ',') *c = '.'; /* the caller's locale */
    return add_item(array, cJSON_CreateRaw(text));
}

/* values[0] times unit, values[1] times unit, ... as a further row of an array. */
static bool add_row(cJSON *array, const float *values, int count, float unit)
{
    cJSON *row = cJSON_CreateArray();
    bool good = add_item(array, row);
    for (int i = 0; good && i < count; i++) good = add_short(row, (double)(values[i] * unit));
    return good;
}

static bool add_kernel(cJSON *kernels, const ks_model *m, const ks_model_kernel *k)
{
    cJSON *object = cJSON_CreateObject();
    if (!add_item(kernels, object) || !cJSON_AddStringToObject(object, "name", k->name) ||
        !cJSON_AddNumberToObject(object, "version", k->version) ||
        !cJSON_AddStringToObject(object, "family", ks_family_name(k->family)) ||
        !cJSON_AddStringToObject(object, "terms", terms_names[k->generic]))
        return false;
    cJSON *cost = cJSON_AddArrayToObject(object, "cost"), *alpha = cJSON_AddArrayToObject(object, "alpha");
    bool good = cost && alpha;
    for (int t = 0; good && t < KS_NTERMS; t++) good = add_short(cost, k->cost[t]);
    good = good && cJSON_AddNumberToObject(object, "signal", k->signal) &&
           cJSON_AddNumberToObject(object, "noise", k->noise);
    for (int i = 0; good && i < m->points; i++)
        good = k->measured[i] ? add_short(alpha, (double)k->alpha[i]) : add_item(alpha, cJSON_CreateNull());
    cJSON *own = good ? cJSON_AddArrayToObject(object, "own") : NULL;
    good = own != NULL;
    for (int t = 0; good && t < KS_MODEL_OWN; t++)
        good = add_row(own, k->own[t], m->points, m->length[KS_MODEL_DIMS + t]);
    return good;
}

static bool add_model(cJSON *root, const ks_model *m)
{
    if (!cJSON_AddNumberToObject(root, "format", FORMAT) ||
        !cJSON_AddStringToObject(root, "type", ks_type_name(m->type)) ||
        !cJSON_AddStringToObject(root, "layout", ks_layout_name(m->layout)) ||
        !cJSON_AddStringToObject(root, "objective", ks_objective_name(m->objective)) ||
        !cJSON_AddNumberToObject(root, "points", m->points) ||
        !cJSON_AddNumberToObject(root, "problems", m->problems) ||
        !cJSON_AddNumberToObject(root, "caution", m->caution) ||
        !cJSON_AddNumberToObject(root, "borrowed", m->borrowed) ||
        !cJSON_AddNumberToObject(root, "apart", (double)m->apart) || !ks_standing_add(root, &m->standing))
        return false;
    cJSON *length = cJSON_AddArrayToObject(root, "length"), *input = cJSON_AddArrayToObject(root, "input");
    bool good = length && input;
    for (int d = 0; good && d < KS_MODEL_DIMS + KS_MODEL_OWN; d++) good = add_short(length, (double)m->length[d]);
    for (int d = 0; good && d < KS_MODEL_DIMS; d++) good = add_row(input, m->input[d], m->points, m->length[d]);
    cJSON *kernels = good ? cJSON_AddArrayToObject(root, "kernels") : NULL;
    good = kernels != NULL;
    for (int q = 0; good && q < m->kernels; q++) good = add_kernel(kernels, m, &m->kernel[q]);
    return good;
}

char *ks_model_print(const ks_model *m)
{
    cJSON *root = cJSON_CreateObject();
    char *text = root && add_model(root, m) ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return text;
}
