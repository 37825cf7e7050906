/* The tables of devices and of the models fitted to them. As in measurements.c: what is stored is checked on the way in, and a
 * row that makes no sense on the way out is passed over. */
#include "error.h"
#include "tables.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { MODEL_BYTES = 16 << 20 /* longest model text that is read */ };

/* --- devices ----------------------------------------------------------------------------------------------- */

static const char *const backend_names[] = {"cpu", "cuda"};

static const char device_columns[] =
    "SELECT name, backend, ordinal, arch, units, l1_bytes, l2_bytes, l3_bytes, memory_bytes, driver, runtime, blas, "
    "copy_bytes_per_s, gemm_f32_flops_per_s, gemm_f16_flops_per_s, gemm_bf16_flops_per_s, gemm_f64_flops_per_s "
    "FROM devices WHERE ?1 IS NULL OR name = ?1 ORDER BY id";

/* ?18: whether facts already there stay (merging) or give way (the device itself was just looked at). */
static const char device_put[] =
    "INSERT INTO devices (name, backend, ordinal, arch, units, l1_bytes, l2_bytes, l3_bytes, memory_bytes, driver, "
    "runtime, blas, copy_bytes_per_s, gemm_f32_flops_per_s, gemm_f16_flops_per_s, gemm_bf16_flops_per_s, "
    "gemm_f64_flops_per_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) "
    "ON CONFLICT (name) DO UPDATE SET backend = excluded.backend, ordinal = excluded.ordinal, arch = excluded.arch, "
    "units = excluded.units, l1_bytes = excluded.l1_bytes, l2_bytes = excluded.l2_bytes, "
    "l3_bytes = excluded.l3_bytes, memory_bytes = excluded.memory_bytes, driver = excluded.driver, "
    "runtime = excluded.runtime, blas = excluded.blas, "
    "copy_bytes_per_s = ifnull(nullif(excluded.copy_bytes_per_s, 0), copy_bytes_per_s), "
    "gemm_f32_flops_per_s = ifnull(nullif(excluded.gemm_f32_flops_per_s, 0), gemm_f32_flops_per_s), "
    "gemm_f16_flops_per_s = ifnull(nullif(excluded.gemm_f16_flops_per_s, 0), gemm_f16_flops_per_s), "
    "gemm_bf16_flops_per_s = ifnull(nullif(excluded.gemm_bf16_flops_per_s, 0), gemm_bf16_flops_per_s), "
    "gemm_f64_flops_per_s = ifnull(nullif(excluded.gemm_f64_flops_per_s, 0), gemm_f64_flops_per_s) "
    "WHERE devices.backend IS NULL OR NOT ?18";

static bool is_rate(double rate)
{
    return isfinite(rate) && rate >= 0;
}

static bool is_plain(const ks_device *d)
{
    return ks_text_is_plain(d->name) && ks_text_is_plain(d->arch) && ks_text_is_plain(d->driver) &&
           ks_text_is_plain(d->runtime) && ks_text_is_plain(d->blas);
}

static bool read_device(const ks_sql *sql, ks_device *device)
{
    int64_t ordinal, units, backend = 0;
    char word[8];
    *device = (ks_device){0};
    if (ks_sql_text(sql, 1, word, sizeof word)) /* NULL: known by name alone */
        while (backend < 2 && strcmp(word, backend_names[backend]) != 0) backend++;
    bool good = backend < 2 && ks_sql_text(sql, 0, device->name, sizeof device->name) && *device->name &&
                ks_sql_int(sql, 2, 0, INT_MAX, &ordinal) && ks_sql_text(sql, 3, device->arch, sizeof device->arch) &&
                ks_sql_int(sql, 4, 0, KS_MOST_UNITS, &units) &&
                ks_sql_int(sql, 5, 0, KS_MOST_BYTES, &device->l1_bytes) &&
                ks_sql_int(sql, 6, 0, KS_MOST_BYTES, &device->l2_bytes) &&
                ks_sql_int(sql, 7, 0, KS_MOST_BYTES, &device->l3_bytes) &&
                ks_sql_int(sql, 8, 0, KS_MOST_BYTES, &device->memory_bytes) &&
                ks_sql_text(sql, 9, device->driver, sizeof device->driver) &&
                ks_sql_text(sql, 10, device->runtime, sizeof device->runtime) &&
                ks_sql_text(sql, 11, device->blas, sizeof device->blas) && is_plain(device);
    if (!good) return false;
    device->backend = (ks_backend)backend;
    device->index = (int)ordinal;
    device->units = (int)units;
    device->copy_bytes_per_s = ks_sql_real(sql, 12);
    for (int type = 0; type < KS_NTYPES; type++) {
        device->gemm_flops_per_s[type] = ks_sql_real(sql, 13 + type);
        good = good && is_rate(device->gemm_flops_per_s[type]);
    }
    return good && is_rate(device->copy_bytes_per_s);
}

static bool ends_within(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

static ks_status check_device(const ks_device *device)
{
    if (!ends_within(device->name, sizeof device->name) || !*device->name)
        return ks_fail(KS_ERR_ARGUMENT, "a device to be stored has no name");
    if (!ends_within(device->arch, sizeof device->arch) || !ends_within(device->driver, sizeof device->driver) ||
        !ends_within(device->runtime, sizeof device->runtime) || !ends_within(device->blas, sizeof device->blas))
        return ks_fail(KS_ERR_ARGUMENT, "device %s: a fact is not a terminated string", device->name);
    if (!is_plain(device)) return ks_fail(KS_ERR_ARGUMENT, "a device's name or facts have control characters");
    if (device->backend != KS_CPU && device->backend != KS_CUDA)
        return ks_fail(KS_ERR_ARGUMENT, "device %s: backend %d is unknown", device->name, (int)device->backend);
    if (!is_rate(device->copy_bytes_per_s))
        return ks_fail(KS_ERR_ARGUMENT, "device %s: copy rate %g is not possible", device->name,
                       device->copy_bytes_per_s);
    for (int type = 0; type < KS_NTYPES; type++)
        if (!is_rate(device->gemm_flops_per_s[type]))
            return ks_fail(KS_ERR_ARGUMENT, "device %s: %s GEMM rate %g is not possible", device->name,
                           ks_type_name((ks_type)type), device->gemm_flops_per_s[type]);
    return KS_OK;
}

ks_status ks_device_row_put(ks_store *store, const ks_device *device, bool keep)
{
    ks_sql sql = {0};
    ks_status status = check_device(device);
    if (status == KS_OK) status = ks_sql_prepare(store, device_put, &sql);
    if (status == KS_OK) {
        /* a device merged in by name alone (no facts at all) stays marked so: backend NULL */
        bool bare = keep && device->units == 0 && !*device->arch;
        ks_sql_bind_text(&sql, 1, device->name);
        ks_sql_bind_text(&sql, 2, bare ? NULL : backend_names[device->backend]);
        ks_sql_bind_int(&sql, 3, device->index);
        ks_sql_bind_text(&sql, 4, device->arch);
        ks_sql_bind_int(&sql, 5, device->units);
        ks_sql_bind_int(&sql, 6, device->l1_bytes);
        ks_sql_bind_int(&sql, 7, device->l2_bytes);
        ks_sql_bind_int(&sql, 8, device->l3_bytes);
        ks_sql_bind_int(&sql, 9, device->memory_bytes);
        ks_sql_bind_text(&sql, 10, device->driver);
        ks_sql_bind_text(&sql, 11, device->runtime);
        ks_sql_bind_text(&sql, 12, device->blas);
        ks_sql_bind_real(&sql, 13, device->copy_bytes_per_s);
        for (int type = 0; type < KS_NTYPES; type++)
            ks_sql_bind_real(&sql, 14 + type, device->gemm_flops_per_s[type]);
        ks_sql_bind_int(&sql, 18, keep);
        status = ks_sql_do(&sql, NULL);
    }
    ks_sql_finish(&sql);
    return status;
}

ks_status ks_store_put_device(ks_store *store, const ks_device *device)
{
    ks_status status = ks_sql_begin(store);
    return status == KS_OK ? ks_sql_end(store, ks_device_row_put(store, device, false)) : status;
}

static ks_status each_device(ks_store *store, const char *name, bool (*visit)(void *user, const ks_device *),
                             void *user)
{
    ks_sql sql;
    ks_device device;
    bool more = true;
    ks_status status = ks_sql_prepare(store, device_columns, &sql);
    ks_sql_bind_text(&sql, 1, name);
    while (status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more)
        if (read_device(&sql, &device) && !visit(user, &device)) break;
    ks_sql_finish(&sql);
    return status;
}

ks_status ks_store_each_device(ks_store *store, bool (*visit)(void *user, const ks_device *), void *user)
{
    return each_device(store, NULL, visit, user);
}

static bool take_device(void *user, const ks_device *device)
{
    *(ks_device *)user = *device;
    return false;
}

ks_status ks_store_get_device(ks_store *store, const char *name, ks_device *device)
{
    ks_device found = {0}; /* not *device at once: name may lie in it */
    ks_status status = each_device(store, name ? name : "", take_device, &found);
    if (status == KS_OK && !*found.name)
        status = ks_fail(KS_ERR_NO_DATA, "store %s: holds no device named '%s'", store->path, name ? name : "");
    *device = found;
    return status;
}

/* --- models ------------------------------------------------------------------------------------------------ */

ks_status ks_model_row_put(ks_store *store, const ks_model_row *model, bool keep)
{
    ks_sql device = {0}, sql = {0};
    const char *type = ks_type_name(model->type), *layout = ks_layout_name(model->layout);
    const char *objective = ks_objective_name(model->objective);
    if (!ends_within(model->device, sizeof model->device) || !*model->device)
        return ks_fail(KS_ERR_ARGUMENT, "a model to be stored names no device");
    if (!type || !layout || !objective)
        return ks_fail(KS_ERR_ARGUMENT, "a model for %s: type %d, layout %d or objective %d is unknown",
                       model->device, (int)model->type, (int)model->layout, (int)model->objective);
    if (model->rows < 0 || !isfinite(model->fitted_at_s))
        return ks_fail(KS_ERR_ARGUMENT, "a model for %s: rows %d or fitted_at_s %g is not possible", model->device,
                       model->rows, model->fitted_at_s);
    if (!model->json || strlen(model->json) > MODEL_BYTES)
        return ks_fail(KS_ERR_ARGUMENT, "a model for %s: its text is missing, or longer than %d bytes", model->device,
                       (int)MODEL_BYTES);

    ks_status status =
        ks_sql_prepare(store, "INSERT INTO devices (name) VALUES (?1) ON CONFLICT DO NOTHING", &device);
    if (status != KS_OK) goto end;
    ks_sql_bind_text(&device, 1, model->device);
    if ((status = ks_sql_do(&device, NULL)) != KS_OK) goto end;

    status = ks_sql_prepare(
        store,
        "INSERT INTO models (device_id, type, layout, objective, rows, cv_regret, fitted_at_s, json) VALUES ("
        "(SELECT id FROM devices WHERE name = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8) "
        "ON CONFLICT (device_id, type, layout, objective) DO UPDATE SET rows = excluded.rows, "
        "cv_regret = excluded.cv_regret, fitted_at_s = excluded.fitted_at_s, json = excluded.json "
        "WHERE excluded.fitted_at_s > models.fitted_at_s OR NOT ?9",
        &sql);
    if (status != KS_OK) goto end;
    ks_sql_bind_text(&sql, 1, model->device);
    ks_sql_bind_text(&sql, 2, type);
    ks_sql_bind_text(&sql, 3, layout);
    ks_sql_bind_text(&sql, 4, objective);
    ks_sql_bind_int(&sql, 5, model->rows);
    ks_sql_bind_real(&sql, 6, isfinite(model->cv_regret) ? model->cv_regret : NAN);
    ks_sql_bind_real(&sql, 7, model->fitted_at_s);
    ks_sql_bind_text(&sql, 8, model->json);
    ks_sql_bind_int(&sql, 9, keep);
    status = ks_sql_do(&sql, NULL);
end:
    ks_sql_finish(&device);
    ks_sql_finish(&sql);
    return status;
}

ks_status ks_store_put_model(ks_store *store, const ks_model_row *row)
{
    ks_status status = ks_sql_begin(store);
    return status == KS_OK ? ks_sql_end(store, ks_model_row_put(store, row, false)) : status;
}

static bool read_model(const ks_sql *sql, ks_model_row *model)
{
    char type[8], layout[8], objective[8];
    int64_t rows;
    *model = (ks_model_row){0};
    bool good = ks_sql_text(sql, 0, model->device, sizeof model->device) && *model->device &&
                ks_text_is_plain(model->device) && ks_sql_text(sql, 1, type, sizeof type) &&
                ks_type_parse(type, &model->type) == KS_OK && ks_sql_text(sql, 2, layout, sizeof layout) &&
                ks_layout_parse(layout, &model->layout) == KS_OK &&
                ks_sql_text(sql, 3, objective, sizeof objective) &&
                ks_objective_parse(objective, &model->objective) == KS_OK && ks_sql_int(sql, 4, 0, INT_MAX, &rows);
    if (!good) return false;
    model->rows = (int)rows;
    model->cv_regret = ks_sql_real(sql, 5);
    model->fitted_at_s = ks_sql_real(sql, 6);
    model->json = ks_sql_long_text(sql, 7, MODEL_BYTES);
    return !isnan(model->fitted_at_s) && model->json;
}

ks_status ks_store_each_model(ks_store *store, const char *device, bool (*visit)(void *user, const ks_model_row *),
                              void *user)
{
    ks_sql sql;
    ks_model_row model;
    bool more = true;
    ks_status status = ks_sql_prepare(
        store,
        "SELECT d.name, m.type, m.layout, m.objective, m.rows, m.cv_regret, m.fitted_at_s, m.json FROM models m "
        "JOIN devices d ON d.id = m.device_id WHERE ?1 IS NULL OR d.name = ?1 "
        "ORDER BY d.id, m.type, m.layout, m.objective",
        &sql);
    ks_sql_bind_text(&sql, 1, device);
    while (status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more)
        if (read_model(&sql, &model) && !visit(user, &model)) break;
    ks_sql_finish(&sql);
    return status;
}
