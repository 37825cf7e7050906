/* Adjusting what was measured before something changed; and saying so in a model's JSON. */
#include "standing.h"
#include "error.h"
#include "flat_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_OF_A_KERNEL = KS_ADJUSTMENTS / KS_MODEL_KERNELS };

static const double largest_factor = 1e3, largest_moment_s = 1e12;

void ks_environment(const ks_device *d, char text[KS_ENVIRONMENT_BYTES])
{
    const char *const parts[] = {d->driver, d->runtime, d->blas};
    size_t length = 0;
    *text = '\0';
    for (int i = 0; i < 3; i++)
        if (*parts[i])
            length +=
                (size_t)snprintf(text + length, KS_ENVIRONMENT_BYTES - length, "%s%s", length ? "; " : "", parts[i]);
}

bool ks_model_stale(const ks_model *m, const ks_device *device, char *why, size_t size)
{
    char now[KS_ENVIRONMENT_BYTES];
    ks_environment(device, now);
    if (*m->standing.environment && strcmp(m->standing.environment, now) != 0) {
        snprintf(why, size, "%s batch-%s was measured under %s, and here is %s", ks_type_name(m->type),
                 ks_layout_name(m->layout), m->standing.environment, now);
        return true;
    }
    for (int q = 0; q < m->kernels; q++) {
        const ks_kernel *row = ks_kernel_find(m->kernel[q].name);
        if (!row || row->version == m->kernel[q].version) continue;
        snprintf(why, size, "%s batch-%s was measured with %s of version %u, and this is version %u",
                 ks_type_name(m->type), ks_layout_name(m->layout), row->name, m->kernel[q].version, row->version);
        return true;
    }
    return false;
}

void ks_standing_apply(const ks_standing *standing, ks_type type, ks_layout layout, ks_measurement *rows,
                       size_t count)
{
    for (size_t r = 0; standing->count && r < count; r++) {
        ks_measurement *m = &rows[r];
        if (m->problem.type != type || m->problem.layout != layout) continue;
        for (const ks_adjustment *a = standing->items; a < standing->items + standing->count; a++) {
            if (m->kernel_version != a->version || !(m->measured_at_s < a->before_s) ||
                strcmp(m->kernel, a->kernel) != 0)
                continue;
            m->kernel_version = a->becomes;
            m->time_s *= a->factor, m->energy_j *= a->factor;
            if (a->factor == 0) m->status = KS_ERR_NO_DATA;
        }
    }
}

static int of_kernel(const ks_standing *s, const char *kernel)
{
    int count = 0;
    for (int i = 0; i < s->count; i++) count += strcmp(s->items[i].kernel, kernel) == 0;
    return count;
}

/* Whatever is set aside needs no earlier verdict. What has been scaled time and again is set aside, too: errors add up, and the
 * list is finite. Should it be full all the same, then of kernels that are long gone. */
double ks_standing_note(ks_standing *s, const ks_adjustment *verdict)
{
    ks_adjustment a = *verdict;
    if (a.factor == 1 && a.version == a.becomes) return 1;
    if (of_kernel(s, a.kernel) == MOST_OF_A_KERNEL) a.factor = 0;
    int kept = 0;
    for (int i = 0; i < s->count; i++)
        if (a.factor > 0 || strcmp(s->items[i].kernel, a.kernel) != 0) s->items[kept++] = s->items[i];
    if (kept == KS_ADJUSTMENTS) memmove(s->items, s->items + 1, (size_t)--kept * sizeof *s->items);
    s->items[kept] = a;
    s->count = kept + 1;
    return a.factor;
}

/* ---- as JSON ------------------------------------------------------------------------------------------------------- */

static bool number(const cJSON *object, const char *name, double most, double *value)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    *value = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    return *value >= 0 && *value <= most;
}

/* Shorter than size bytes. */
static bool is_text(const cJSON *item, size_t size)
{
    return cJSON_IsString(item) && strlen(item->valuestring) < size && ks_text_is_plain(item->valuestring);
}

ks_status ks_standing_parse(const cJSON *model, ks_standing *s)
{
    const cJSON *environment = cJSON_GetObjectItemCaseSensitive(model, "environment"),
                *list = cJSON_GetObjectItemCaseSensitive(model, "adjustments"), *item;
    *s = (ks_standing){0};
    if (environment && !is_text(environment, KS_ENVIRONMENT_BYTES))
        return ks_fail(KS_ERR_PARSE, "model: environment is no plain text of at most %d bytes",
                       KS_ENVIRONMENT_BYTES - 1);
    if (environment) strcpy(s->environment, environment->valuestring);
    if (list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > KS_ADJUSTMENTS))
        return ks_fail(KS_ERR_PARSE, "model: adjustments is not an array of at most %d", KS_ADJUSTMENTS);
    cJSON_ArrayForEach(item, list)
    {
        ks_adjustment *a = &s->items[s->count++];
        const cJSON *kernel = cJSON_GetObjectItemCaseSensitive(item, "kernel");
        double version, becomes;
        if (!is_text(kernel, sizeof a->kernel) || !number(item, "version", 1e6, &version) ||
            !number(item, "becomes", 1e6, &becomes) || !number(item, "before_s", largest_moment_s, &a->before_s) ||
            !number(item, "factor", largest_factor, &a->factor))
            return ks_fail(KS_ERR_PARSE, "model: adjustments[%d] lacks kernel, version, becomes, before_s or factor",
                           s->count - 1);
        strcpy(a->kernel, kernel->valuestring);
        a->version = (unsigned)version, a->becomes = (unsigned)becomes;
    }
    return KS_OK;
}

bool ks_standing_add(cJSON *model, const ks_standing *s)
{
    if (*s->environment && !cJSON_AddStringToObject(model, "environment", s->environment)) return false;
    if (s->count == 0) return true;
    cJSON *list = cJSON_AddArrayToObject(model, "adjustments");
    bool good = list != NULL;
    for (const ks_adjustment *a = s->items; good && a < s->items + s->count; a++) {
        cJSON *item = cJSON_CreateObject();
        good = item && cJSON_AddItemToArray(list, item) && cJSON_AddStringToObject(item, "kernel", a->kernel) &&
               cJSON_AddNumberToObject(item, "version", a->version) &&
               cJSON_AddNumberToObject(item, "becomes", a->becomes) &&
               cJSON_AddNumberToObject(item, "before_s", a->before_s) &&
               cJSON_AddNumberToObject(item, "factor", a->factor);
    }
    return good;
}

/* ---- from a store -------------------------------------------------------------------------------------------------- */

/* A model's text is long, and hardly any has adjustments. */
static ks_status read_standing(const char *json, ks_standing *s)
{
    ks_flat_json model;
    *s = (ks_standing){0};
    ks_status status = ks_flat_json_parse(&model, json);
    if (status == KS_OK)
        status = ks_standing_parse(model.root, s);
    else if (status == KS_ERR_PARSE)
        status = KS_OK; /* what is no model is told by others */
    ks_flat_json_free(&model);
    return status;
}

typedef struct search {
    ks_type type;
    ks_layout layout;
    ks_standing *out;
    ks_rows *rows; /* to be adjusted, or NULL: to find one */
} search;

static bool visit(void *user, const ks_model_row *row)
{
    search *s = user;
    ks_standing own;
    if (row->objective != KS_TIME) return true;
    if (!s->rows) {
        if (row->type != s->type || row->layout != s->layout) return true;
        read_standing(row->json, s->out);
        return false;
    }
    if (!strstr(row->json, "\"adjustments\"") || read_standing(row->json, &own) != KS_OK) return true;
    for (size_t i = 0; i < s->rows->count; i++)
        if (strcmp(s->rows->items[i].device, row->device) == 0)
            ks_standing_apply(&own, row->type, row->layout, &s->rows->items[i], 1);
    return true;
}

ks_status ks_standing_find(ks_store *store, const char *device, ks_type type, ks_layout layout, ks_standing *out)
{
    search s = {.type = type, .layout = layout, .out = out};
    *out = (ks_standing){0};
    return ks_store_each_model(store, device, visit, &s);
}

ks_status ks_rows_read(ks_store *store, const ks_store_filter *filter, ks_rows *rows)
{
    search s = {.rows = rows};
    ks_status status = ks_store_each(store, filter, ks_rows_add, rows);
    if (status == KS_OK) status = ks_rows_status(rows);
    return status == KS_OK ? ks_store_each_model(store, filter ? filter->device : NULL, visit, &s) : status;
}
