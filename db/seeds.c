/* Seeds as structs and back. The data itself is linked in by seeds_data.c, which seeds.cmake writes.
 *
 * JSON goes through cJSON. It writes and reads numbers with the process's locale, so both happen under the C locale,
 * set for this thread alone. A model is an object inside the seed and text everywhere else: it is printed for visitors
 * and parsed for the file, and what it says is calib/model.c's business. */
#include "seeds.h"
#include "csv.h"
#include "error.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of seeds_data.c. */
extern const ks_seed ks_seed_table[];
extern const size_t ks_seed_count;

const ks_seed *ks_seeds(size_t *count)
{
    *count = ks_seed_count;
    return ks_seed_table;
}

static const char *const backend_names[] = {"cpu", "cuda"};

/* Whole-number and text facts, by name: reading and writing walk the same lists. */
typedef struct fact {
    const char *name;
    size_t at, bytes;
} fact;

#define FACT(field)                                                                                                  \
    {                                                                                                                \
#        field, offsetof(ks_device, field), sizeof((ks_device){0}.field)                                             \
    }
static const fact sizes[] = {FACT(l1_bytes), FACT(l2_bytes), FACT(l3_bytes), FACT(memory_bytes)};
static const fact texts[] = {FACT(name), FACT(arch), FACT(driver), FACT(runtime), FACT(blas)};
#undef FACT

enum { SIZES = sizeof sizes / sizeof sizes[0], TEXTS = sizeof texts / sizeof texts[0] };

typedef struct c_locale {
    locale_t mine, before;
} c_locale;

static c_locale enter_c_locale(void)
{
    locale_t mine = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return (c_locale){mine, mine ? uselocale(mine) : (locale_t)0};
}

static void leave_c_locale(c_locale c)
{
    if (!c.mine) return;
    uselocale(c.before);
    freelocale(c.mine);
}

/* --- reading ----------------------------------------------------------------------------------------------- */

static ks_status fail_field(const ks_seed *seed, const char *field, const char *what)
{
    return ks_fail(KS_ERR_PARSE, "seed %s: \"%s\" %s", seed->name, field, what);
}

/* An absent number is 0. */
static ks_status get_number(const ks_seed *seed, const cJSON *object, const char *field, double high, double *out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, field);
    *out = 0;
    if (!item) return KS_OK;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= high))
        return fail_field(seed, field, "is not a possible number");
    *out = item->valuedouble;
    return KS_OK;
}

/* An absent text is "". */
static ks_status get_text(const ks_seed *seed, const cJSON *object, const char *field, char *out, size_t size)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, field);
    *out = '\0';
    if (!item) return KS_OK;
    if (!cJSON_IsString(item) || strlen(item->valuestring) >= size)
        return fail_field(seed, field, "is not a text, or too long");
    strcpy(out, item->valuestring);
    return KS_OK;
}

static ks_status read_device(const ks_seed *seed, const cJSON *object, ks_device *device)
{
    const double exact = 9007199254740992.0; /* 2^53: JSON's numbers are doubles */
    char backend[8];
    double number;
    ks_status status;
    if (!cJSON_IsObject(object)) return fail_field(seed, "device", "is not an object");
    for (int i = 0; i < TEXTS; i++) {
        status = get_text(seed, object, texts[i].name, (char *)device + texts[i].at, texts[i].bytes);
        if (status != KS_OK) return status;
    }
    if (!*device->name) return fail_field(seed, "name", "is missing or empty");
    if ((status = get_text(seed, object, "backend", backend, sizeof backend)) != KS_OK) return status;
    if (strcmp(backend, backend_names[KS_CUDA]) == 0)
        device->backend = KS_CUDA;
    else if (strcmp(backend, backend_names[KS_CPU]) != 0)
        return fail_field(seed, "backend", "is neither \"cpu\" nor \"cuda\"");
    if ((status = get_number(seed, object, "units", INT_MAX, &number)) != KS_OK) return status;
    device->units = (int)number;
    for (int i = 0; i < SIZES; i++) {
        if ((status = get_number(seed, object, sizes[i].name, exact, &number)) != KS_OK) return status;
        *(int64_t *)(void *)((char *)device + sizes[i].at) = (int64_t)number;
    }
    if ((status = get_number(seed, object, "copy_bytes_per_s", 1e300, &device->copy_bytes_per_s)) != KS_OK)
        return status;
    const cJSON *rates = cJSON_GetObjectItemCaseSensitive(object, "gemm_flops_per_s");
    if (rates && !cJSON_IsObject(rates)) return fail_field(seed, "gemm_flops_per_s", "is not an object");
    for (int type = 0; rates && type < KS_NTYPES; type++) {
        status = get_number(seed, rates, ks_type_name((ks_type)type), 1e300, &device->gemm_flops_per_s[type]);
        if (status != KS_OK) return status;
    }
    return KS_OK;
}

/* row->json is NULL; the caller prints the model. */
static ks_status read_model(const ks_seed *seed, const cJSON *object, const char *device, ks_model_row *row)
{
    char word[16];
    double number;
    ks_status status;
    *row = (ks_model_row){0};
    strcpy(row->device, device);
    if (!cJSON_IsObject(object)) return fail_field(seed, "models", "holds something that is not an object");
    if ((status = get_text(seed, object, "type", word, sizeof word)) != KS_OK) return status;
    if (ks_type_parse(word, &row->type) != KS_OK) return fail_field(seed, "type", "of a model is unknown");
    if ((status = get_text(seed, object, "layout", word, sizeof word)) != KS_OK) return status;
    if (ks_layout_parse(word, &row->layout) != KS_OK) return fail_field(seed, "layout", "of a model is unknown");
    if ((status = get_text(seed, object, "objective", word, sizeof word)) != KS_OK) return status;
    if (ks_objective_parse(word, &row->objective) != KS_OK)
        return fail_field(seed, "objective", "of a model is unknown");
    if ((status = get_number(seed, object, "rows", INT_MAX, &number)) != KS_OK) return status;
    row->rows = (int)number;
    row->cv_regret = NAN; /* null and absent: unknown */
    const cJSON *regret = cJSON_GetObjectItemCaseSensitive(object, "cv_regret");
    if (regret && !cJSON_IsNull(regret) &&
        (status = get_number(seed, object, "cv_regret", 1e300, &row->cv_regret)) != KS_OK)
        return status;
    if ((status = get_number(seed, object, "fitted_at_s", 1e300, &row->fitted_at_s)) != KS_OK) return status;
    if (!cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(object, "model")))
        return fail_field(seed, "model", "is not an object");
    return KS_OK;
}

ks_status ks_seed_read(const ks_seed *seed, ks_device *device, bool (*visit)(void *user, const ks_model_row *),
                       void *user)
{
    c_locale locale = enter_c_locale();
    const char *stop = seed->json;
    cJSON *root = cJSON_ParseWithLengthOpts(seed->json, seed->json_bytes, &stop, false);
    ks_status status;
    ks_model_row row;
    ks_device read = {0};
    if (!root) {
        status = ks_fail(KS_ERR_PARSE, "seed %s: is not JSON (byte %td of %zu)", seed->name, stop - seed->json,
                         seed->json_bytes);
        goto end;
    }
    status = read_device(seed, cJSON_GetObjectItemCaseSensitive(root, "device"), &read);
    if (status != KS_OK) goto end;
    const cJSON *models = cJSON_GetObjectItemCaseSensitive(root, "models");
    if (!cJSON_IsArray(models)) {
        status = fail_field(seed, "models", "is not an array");
        goto end;
    }
    /* all are looked at before the first is handed out: half a seed is none */
    for (const cJSON *model = models->child; model; model = model->next)
        if ((status = read_model(seed, model, read.name, &row)) != KS_OK) goto end;
    *device = read;
    for (const cJSON *model = models->child; model && visit; model = model->next) {
        if ((status = read_model(seed, model, read.name, &row)) != KS_OK) goto end;
        char *json = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(model, "model"));
        if (!json) {
            status = ks_fail(KS_ERR_MEMORY, "seed %s: no memory for a model", seed->name);
            goto end;
        }
        row.json = json;
        leave_c_locale(locale); /* visitors see the world as their caller left it */
        bool more = visit(user, &row);
        locale = enter_c_locale();
        cJSON_free(json);
        if (!more) break;
    }
end:
    cJSON_Delete(root);
    leave_c_locale(locale);
    return status;
}

/* --- writing ----------------------------------------------------------------------------------------------- */

/* NULL when memory ran out. */
static cJSON *device_to_json(const ks_device *device)
{
    cJSON *object = cJSON_CreateObject();
    bool good = cJSON_AddStringToObject(object, "backend", backend_names[device->backend]) != NULL;
    for (int i = 0; i < TEXTS; i++)
        good = good && cJSON_AddStringToObject(object, texts[i].name, (const char *)device + texts[i].at);
    good = good && cJSON_AddNumberToObject(object, "units", device->units);
    for (int i = 0; i < SIZES; i++) {
        int64_t size;
        memcpy(&size, (const char *)device + sizes[i].at, sizeof size);
        good = good && cJSON_AddNumberToObject(object, sizes[i].name, (double)size);
    }
    good = good && cJSON_AddNumberToObject(object, "copy_bytes_per_s", device->copy_bytes_per_s);
    cJSON *rates = good ? cJSON_AddObjectToObject(object, "gemm_flops_per_s") : NULL;
    good = rates != NULL;
    for (int type = 0; type < KS_NTYPES; type++)
        good = good &&
               cJSON_AddNumberToObject(rates, ks_type_name((ks_type)type), device->gemm_flops_per_s[type]) != NULL;
    if (good) return object;
    cJSON_Delete(object);
    return NULL;
}

typedef struct writing {
    cJSON *models;
    FILE *csv;
    ks_status status;
} writing;

static bool write_model(void *user, const ks_model_row *row)
{
    writing *out = user;
    cJSON *object = cJSON_CreateObject(), *model = cJSON_Parse(row->json);
    if (!cJSON_IsObject(model)) {
        out->status = ks_fail(KS_ERR_PARSE, "the %s, %s model of %s is not a JSON object", ks_type_name(row->type),
                              ks_layout_name(row->layout), row->device);
        goto end;
    }
    out->status = KS_ERR_MEMORY;
    if (!cJSON_AddStringToObject(object, "type", ks_type_name(row->type)) ||
        !cJSON_AddStringToObject(object, "layout", ks_layout_name(row->layout)) ||
        !cJSON_AddStringToObject(object, "objective", ks_objective_name(row->objective)) ||
        !cJSON_AddNumberToObject(object, "rows", row->rows) ||
        /* cJSON prints NaN as null */
        !cJSON_AddNumberToObject(object, "cv_regret", row->cv_regret) ||
        !cJSON_AddNumberToObject(object, "fitted_at_s", row->fitted_at_s))
        goto end;
    if (!cJSON_AddItemToObject(object, "model", model)) goto end;
    model = NULL; /* the object's now */
    if (!cJSON_AddItemToArray(out->models, object)) goto end;
    object = NULL; /* the array's now */
    out->status = KS_OK;
end:
    if (out->status == KS_ERR_MEMORY) ks_fail(KS_ERR_MEMORY, "no memory for a model of %s", row->device);
    cJSON_Delete(object);
    cJSON_Delete(model);
    return out->status == KS_OK;
}

static bool write_measurement(void *user, const ks_measurement *m)
{
    writing *out = user;
    out->status = ks_csv_write_row(out->csv, m);
    return out->status == KS_OK;
}

/* Files appear under their names when they are whole: a seed cut short would break the next build. */
typedef struct output {
    const char *path;
    char *draft;
    FILE *file;
} output;

static ks_status output_open(output *out, const char *path)
{
    *out = (output){.path = path};
    out->draft = malloc(strlen(path) + sizeof ".draft");
    if (!out->draft) return ks_fail(KS_ERR_MEMORY, "%s: out of memory", path);
    sprintf(out->draft, "%s.draft", path);
    unlink(out->draft); /* of a run that was killed, or a link that leads elsewhere */
    const int file = open(out->draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    out->file = file >= 0 ? fdopen(file, "w") : NULL;
    if (file >= 0 && !out->file) {
        close(file);
        unlink(out->draft);
    }
    return out->file ? KS_OK : ks_fail(KS_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

/* Renames the draft if status is KS_OK and all was written, else removes it. */
static ks_status output_close(output *out, ks_status status)
{
    if (out->file) {
        bool bad = ferror(out->file) != 0;
        bad = fclose(out->file) != 0 || bad;
        if (status == KS_OK && (bad || rename(out->draft, out->path) != 0))
            status = ks_fail(KS_ERR_IO, "%s: cannot be written: %s", out->path, strerror(errno));
        if (status != KS_OK) unlink(out->draft);
    }
    free(out->draft);
    return status;
}

ks_status ks_seed_write(ks_store *store, const char *device, const char *json_path, const char *csv_path)
{
    c_locale locale = enter_c_locale();
    ks_store_filter filter = {.device = device};
    output json = {0}, csv = {0};
    writing out = {0};
    ks_device facts;
    char *text = NULL;
    cJSON *root = NULL, *object;
    ks_status status = ks_store_get_device(store, device, &facts);
    if (status != KS_OK) goto end;

    root = cJSON_CreateObject();
    object = device_to_json(&facts);
    if (!object || !cJSON_AddItemToObject(root, "device", object)) {
        cJSON_Delete(object);
        status = ks_fail(KS_ERR_MEMORY, "no memory for the seed of %s", device);
        goto end;
    }
    if (!(out.models = cJSON_AddArrayToObject(root, "models"))) {
        status = ks_fail(KS_ERR_MEMORY, "no memory for the seed of %s", device);
        goto end;
    }
    status = ks_store_each_model(store, device, write_model, &out);
    if (status == KS_OK) status = out.status;
    if (status != KS_OK) goto end;
    text = cJSON_Print(root);
    if (!text) {
        status = ks_fail(KS_ERR_MEMORY, "no memory for the seed of %s", device);
        goto end;
    }

    if ((status = output_open(&json, json_path)) != KS_OK) goto end;
    fprintf(json.file, "%s\n", text);
    if ((status = output_open(&csv, csv_path)) != KS_OK) goto end;
    out.csv = csv.file;
    if ((status = ks_csv_write_header(csv.file)) != KS_OK) goto end;
    status = ks_store_each(store, &filter, write_measurement, &out);
    if (status == KS_OK) status = out.status;
end:
    status = output_close(&csv, status);
    status = output_close(&json, status);
    cJSON_free(text);
    cJSON_Delete(root);
    leave_c_locale(locale);
    return status;
}

/* --- into a store ------------------------------------------------------------------------------------------- */

/* malloc'ed; NULL with errno set. */
static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t room = 0;
    *bytes = 0;
    if (!file) return NULL;
    const ssize_t read = getdelim(&text, &room, '\0', file); /* JSON has no zeros: the file's end ends it */
    const int error = errno;
    if (read > 0) *bytes = (size_t)read;
    if (read < 0 && ferror(file)) {
        free(text);
        text = NULL;
    }
    fclose(file);
    errno = error;
    return text;
}

typedef struct import {
    ks_store *store;
    ks_status status;
} import;

static bool import_model(void *user, const ks_model_row *row)
{
    import *in = user;
    in->status = ks_store_put_model(in->store, row);
    return in->status == KS_OK;
}

ks_status ks_seed_import(ks_store *store, const char *json_path, const char *csv_path, ks_device *device,
                         int64_t *added)
{
    ks_seed seed = {.name = json_path};
import in = {store, KS_OK };
    ks_table table = {0};
    char *json = read_file(json_path, &seed.json_bytes);
    if (!json) return ks_fail(KS_ERR_IO, "%s: cannot be read: %s", json_path, strerror(errno));
    seed.json = json;
    ks_status status = ks_seed_read(&seed, device, NULL, NULL);
    if (status == KS_OK) status = ks_csv_read_file(csv_path, KS_CSV_KSAUTO, false, &table);
    if (status == KS_OK) status = ks_store_put_device(store, device);
    if (status == KS_OK) status = ks_store_import(store, &table, added);
    if (status == KS_OK) status = ks_seed_read(&seed, device, import_model, &in);
    if (status == KS_OK) status = in.status;
    ks_table_free(&table);
    free(json);
    return status;
}
