/* Seeds as structs and back. The data itself is linked in by seeds_data.c, which seeds.cmake writes.
 *
 * JSON goes through cJSON. It writes and reads numbers with the process's locale, so both happen under the C locale,
 * set for this thread alone. A model is text here, one line of a seed: what it says is calib/model.c's business, and
 * whoever only wants to know which device a seed is of does not pay for its models. */
#include "seeds.h"
#include "csv.h"
#include "error.h"
#include "place.h"

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

/* A seed's text as lines; the current one is not terminated. */
typedef struct lines {
    const ks_seed *seed;
    const char *line, *next;
    size_t bytes;
    int number; /* from 1 */
} lines;

static bool next_line(lines *in)
{
    const char *end = in->seed->text + in->seed->bytes;
    in->number++;
    if (in->next == end) return false;
    const char *stop = memchr(in->next, '\n', (size_t)(end - in->next));
    in->line = in->next;
    in->bytes = (size_t)((stop ? stop : end) - in->line);
    in->next = stop ? stop + 1 : end;
    return true;
}

static ks_status fail_field(const lines *in, const char *field, const char *what)
{
    return ks_fail(KS_ERR_PARSE, "seed %s, line %d: \"%s\" %s", in->seed->name, in->number, field, what);
}

/* The current line; the caller deletes the object. */
static ks_status parse_line(const lines *in, cJSON **object)
{
    c_locale locale = enter_c_locale();
    *object = cJSON_ParseWithLength(in->line, in->bytes);
    leave_c_locale(locale);
    if (cJSON_IsObject(*object)) return KS_OK;
    cJSON_Delete(*object);
    *object = NULL;
    return ks_fail(KS_ERR_PARSE, "seed %s, line %d: is not a JSON object", in->seed->name, in->number);
}

/* An absent number is 0. */
static ks_status get_number(const lines *in, const cJSON *object, const char *field, double high, double *out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, field);
    *out = 0;
    if (!item) return KS_OK;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= high))
        return fail_field(in, field, "is not a possible number");
    *out = item->valuedouble;
    return KS_OK;
}

/* An absent text is "". */
static ks_status get_text(const lines *in, const cJSON *object, const char *field, char *out, size_t size)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, field);
    *out = '\0';
    if (!item) return KS_OK;
    if (!cJSON_IsString(item) || strlen(item->valuestring) >= size || !ks_text_is_plain(item->valuestring))
        return fail_field(in, field, "is not a text, too long, or has control characters");
    strcpy(out, item->valuestring);
    return KS_OK;
}

static ks_status read_device(const lines *in, const cJSON *object, ks_device *device)
{
    char backend[8];
    double number;
    ks_status status;
    for (int i = 0; i < TEXTS; i++) {
        status = get_text(in, object, texts[i].name, (char *)device + texts[i].at, texts[i].bytes);
        if (status != KS_OK) return status;
    }
    if (!*device->name) return fail_field(in, "name", "is missing or empty");
    if ((status = get_text(in, object, "backend", backend, sizeof backend)) != KS_OK) return status;
    if (strcmp(backend, backend_names[KS_CUDA]) == 0)
        device->backend = KS_CUDA;
    else if (strcmp(backend, backend_names[KS_CPU]) != 0)
        return fail_field(in, "backend", "is neither \"cpu\" nor \"cuda\"");
    if ((status = get_number(in, object, "units", KS_MOST_UNITS, &number)) != KS_OK) return status;
    device->units = (int)number;
    for (int i = 0; i < SIZES; i++) {
        if ((status = get_number(in, object, sizes[i].name, KS_MOST_BYTES, &number)) != KS_OK) return status;
        *(int64_t *)(void *)((char *)device + sizes[i].at) = (int64_t)number;
    }
    if ((status = get_number(in, object, "copy_bytes_per_s", 1e300, &device->copy_bytes_per_s)) != KS_OK)
        return status;
    const cJSON *rates = cJSON_GetObjectItemCaseSensitive(object, "gemm_flops_per_s");
    if (rates && !cJSON_IsObject(rates)) return fail_field(in, "gemm_flops_per_s", "is not an object");
    for (int type = 0; rates && type < KS_NTYPES; type++) {
        status = get_number(in, rates, ks_type_name((ks_type)type), 1e300, &device->gemm_flops_per_s[type]);
        if (status != KS_OK) return status;
    }
    return KS_OK;
}

/* Of the line before a model: all of the row but its json. */
static ks_status read_record(const lines *in, const cJSON *object, ks_model_row *row)
{
    char word[16];
    double number;
    ks_status status;
    if ((status = get_text(in, object, "type", word, sizeof word)) != KS_OK) return status;
    if (ks_type_parse(word, &row->type) != KS_OK) return fail_field(in, "type", "of a model is unknown");
    if ((status = get_text(in, object, "layout", word, sizeof word)) != KS_OK) return status;
    if (ks_layout_parse(word, &row->layout) != KS_OK) return fail_field(in, "layout", "of a model is unknown");
    if ((status = get_text(in, object, "objective", word, sizeof word)) != KS_OK) return status;
    if (ks_objective_parse(word, &row->objective) != KS_OK)
        return fail_field(in, "objective", "of a model is unknown");
    if ((status = get_number(in, object, "rows", INT_MAX, &number)) != KS_OK) return status;
    row->rows = (int)number;
    row->cv_regret = NAN; /* null and absent: unknown */
    const cJSON *regret = cJSON_GetObjectItemCaseSensitive(object, "cv_regret");
    if (regret && !cJSON_IsNull(regret) &&
        (status = get_number(in, object, "cv_regret", 1e300, &row->cv_regret)) != KS_OK)
        return status;
    return get_number(in, object, "fitted_at_s", 1e300, &row->fitted_at_s);
}

/* Each pair of lines that follows; visit may be NULL. */
static ks_status read_models(lines in, const char *device, bool (*visit)(void *user, const ks_model_row *),
                             void *user)
{
    bool more = true;
    while (more && next_line(&in)) {
        ks_model_row row = {0};
        cJSON *record;
        strcpy(row.device, device);
        ks_status status = parse_line(&in, &record);
        if (status == KS_OK) status = read_record(&in, record, &row);
        cJSON_Delete(record);
        if (status != KS_OK) return status;
        if (!next_line(&in) || *in.line != '{')
            return fail_field(&in, "model", "is not an object on a line of its own");
        if (!visit) continue;
        char *json = strndup(in.line, in.bytes);
        if (!json) return ks_fail(KS_ERR_MEMORY, "seed %s: no memory for a model", in.seed->name);
        row.json = json;
        more = visit(user, &row);
        free(json);
    }
    return KS_OK;
}

ks_status ks_seed_read(const ks_seed *seed, ks_device *device, bool (*visit)(void *user, const ks_model_row *),
                       void *user)
{
    lines in = {.seed = seed, .next = seed->text};
    ks_device read = {0};
    cJSON *facts;
    next_line(&in); /* no line is no object */
    ks_status status = parse_line(&in, &facts);
    if (status == KS_OK) status = read_device(&in, facts, &read);
    cJSON_Delete(facts);
    /* all are looked at before the first is handed out: half a seed is none */
    if (status == KS_OK && visit) status = read_models(in, read.name, NULL, NULL);
    if (status != KS_OK) return status;
    *device = read;
    return visit ? read_models(in, read.name, visit, user) : KS_OK;
}

/* How unlike two devices are: other backends are out of reach, other instruction sets far. */
static double distance(const ks_device *a, const ks_device *b)
{
    if (a->backend != b->backend) return INFINITY;
    if (strcmp(a->name, b->name) == 0) return -1;
    ks_device x = *a, y = *b;
    ks_device_assume_rates(&x);
    ks_device_assume_rates(&y);
    return (strcmp(x.arch, y.arch) == 0 ? 0 : 10) + fabs(log(x.copy_bytes_per_s / y.copy_bytes_per_s)) +
           fabs(log(x.gemm_flops_per_s[KS_F32] / y.gemm_flops_per_s[KS_F32]));
}

const ks_seed *ks_seed_nearest(const ks_device *device, ks_device *nearest)
{
    const ks_seed *found = NULL;
    double least = INFINITY;
    for (size_t i = 0; i < ks_seed_count; i++) {
        ks_device other;
        if (ks_seed_read(&ks_seed_table[i], &other, NULL, NULL) != KS_OK) continue;
        const double far = distance(&other, device);
        if (far < least) least = far, found = &ks_seed_table[i], *nearest = other;
    }
    return found;
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
    FILE *text, *csv;
    ks_status status;
} writing;

/* Deletes the object, too. */
static ks_status write_line(FILE *out, cJSON *object)
{
    char *text = object ? cJSON_PrintUnformatted(object) : NULL;
    cJSON_Delete(object);
    if (!text) return ks_fail(KS_ERR_MEMORY, "no memory for a line of a seed");
    fprintf(out, "%s\n", text);
    cJSON_free(text);
    return KS_OK;
}

static ks_status parse_model(const ks_model_row *row, cJSON **model)
{
    *model = cJSON_Parse(row->json);
    if (cJSON_IsObject(*model)) return KS_OK;
    cJSON_Delete(*model);
    *model = NULL;
    return ks_fail(KS_ERR_PARSE, "the %s, %s model of %s is not a JSON object", ks_type_name(row->type),
                   ks_layout_name(row->layout), row->device);
}

/* NULL when memory ran out. */
static cJSON *record_to_json(const ks_model_row *row)
{
    cJSON *object = cJSON_CreateObject();
    if (cJSON_AddStringToObject(object, "type", ks_type_name(row->type)) &&
        cJSON_AddStringToObject(object, "layout", ks_layout_name(row->layout)) &&
        cJSON_AddStringToObject(object, "objective", ks_objective_name(row->objective)) &&
        cJSON_AddNumberToObject(object, "rows", row->rows) &&
        /* cJSON prints NaN as null */
        cJSON_AddNumberToObject(object, "cv_regret", row->cv_regret) &&
        cJSON_AddNumberToObject(object, "fitted_at_s", row->fitted_at_s))
        return object;
    cJSON_Delete(object);
    return NULL;
}

static bool write_model(void *user, const ks_model_row *row)
{
    writing *out = user;
    cJSON *model;
    out->status = parse_model(row, &model);
    if (out->status != KS_OK) return false;
    out->status = write_line(out->text, record_to_json(row));
    if (out->status == KS_OK)
        out->status = write_line(out->text, model); /* whatever its text in the store, this is one line */
    else
        cJSON_Delete(model);
    return out->status == KS_OK;
}

static double rounded(double value, int digits)
{
    char text[32];
    snprintf(text, sizeof text, "%.*g", digits, value);
    return strtod(text, NULL);
}

/* Seeds lie in the repository: numbers as long as they mean something, and no longer. */
static bool write_measurement(void *user, const ks_measurement *m)
{
    writing *out = user;
    ks_measurement brief = *m;
    brief.time_s = rounded(m->time_s, 6);
    brief.energy_j = rounded(m->energy_j, 6);
    brief.spread = rounded(m->spread, 3);
    brief.measured_at_s = round(m->measured_at_s);
    out->status = ks_csv_write_row(out->csv, &brief);
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
    if (ks_place_is_planted(path))
        return ks_fail(KS_ERR_IO, "%s: is, or is behind, somebody else's link, in a directory that all may write to",
                       path);
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

ks_status ks_seed_write(ks_store *store, const char *device, const char *path, const char *csv_path)
{
    c_locale locale = enter_c_locale();
    ks_store_filter filter = {.device = device};
    output text = {0}, csv = {0};
    ks_device facts;
    ks_status status = ks_store_get_device(store, device, &facts);
    if (status != KS_OK) goto end;
    if ((status = output_open(&text, path)) != KS_OK) goto end;
    if ((status = output_open(&csv, csv_path)) != KS_OK) goto end;
    writing out = {.text = text.file, .csv = csv.file};
    if ((status = write_line(text.file, device_to_json(&facts))) != KS_OK) goto end;
    status = ks_store_each_model(store, device, write_model, &out);
    if (status == KS_OK) status = out.status;
    if (status == KS_OK) status = ks_csv_write_header(csv.file);
    if (status == KS_OK) status = ks_store_each(store, &filter, write_measurement, &out);
    if (status == KS_OK) status = out.status;
end:
    status = output_close(&csv, status);
    status = output_close(&text, status);
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

static bool check_model(void *user, const ks_model_row *row)
{
    import *in = user;
    cJSON *model;
    c_locale locale = enter_c_locale();
    in->status = parse_model(row, &model);
    leave_c_locale(locale);
    cJSON_Delete(model);
    return in->status == KS_OK;
}

static bool import_model(void *user, const ks_model_row *row)
{
    import *in = user;
    in->status = ks_store_put_model(in->store, row);
    return in->status == KS_OK;
}

ks_status ks_seed_import(ks_store *store, const char *path, const char *csv_path, ks_device *device, int64_t *added)
{
    ks_seed seed = {.name = path};
import in = {store, KS_OK };
    ks_table table = {0};
    char *text = read_file(path, &seed.bytes);
    if (!text) return ks_fail(KS_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    seed.text = text;
    ks_status status = ks_seed_read(&seed, device, check_model, &in);
    if (status == KS_OK) status = in.status;
    if (status == KS_OK) status = ks_csv_read_file(csv_path, KS_CSV_KSAUTO, false, &table);
    if (status == KS_OK) status = ks_store_put_device(store, device);
    if (status == KS_OK) status = ks_store_import(store, &table, added);
    if (status == KS_OK) status = ks_seed_read(&seed, device, import_model, &in);
    if (status == KS_OK) status = in.status;
    ks_table_free(&table);
    free(text);
    return status;
}
