/* The table of measurements as C structs, in SQL's words and back.
 *
 * Nothing read back is trusted. A store may have been edited by hand, written by a build with other kernels, or be
 * hostile; a row that is not a possible measurement is passed over (and named by ks_store_check), because one bad row
 * must not cost the user the other ten thousand. On the way in the same rules are errors. */
#include "tables.h"
#include "csv.h"
#include "error.h"

#include <endian.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool ks_family_from_name(const char *name, ks_family *family)
{
    for (int i = 0; i < KS_NFAMILIES; i++)
        if (strcmp(name, ks_family_name((ks_family)i)) == 0) {
            *family = (ks_family)i;
            return true;
        }
    return false;
}

bool ks_status_from_name(const char *name, ks_status *status)
{
    for (int i = KS_OK; i <= KS_ERR_INTERNAL; i++)
        if (strcmp(name, ks_status_name((ks_status)i)) == 0) {
            *status = (ks_status)i;
            return true;
        }
    return false;
}

static bool is_amount(double value)
{
    return isfinite(value) && value >= 0;
}

static bool is_name(const char *text, size_t size)
{
    return memchr(text, '\0', size) && *text && ks_text_is_plain(text);
}

const char *ks_measurement_fault(const ks_measurement *m, char *text, size_t size)
{
    ks_status checked = ks_problem_check(&m->problem);
    if (checked != KS_OK)
        snprintf(text, size, "%s", ks_status_message(checked));
    else if (!is_name(m->device, sizeof m->device))
        snprintf(text, size, "the device's name is empty, too long, or has control characters");
    else if (!is_name(m->kernel, sizeof m->kernel))
        snprintf(text, size, "the kernel's name is empty, too long, or has control characters");
    else if (!memchr(m->reason, '\0', sizeof m->reason))
        snprintf(text, size, "the reason is not a terminated string");
    else if ((int)m->family < 0 || m->family >= KS_NFAMILIES)
        snprintf(text, size, "family %d is unknown", (int)m->family);
    else if ((int)m->status < 0 || m->status > KS_ERR_INTERNAL)
        snprintf(text, size, "status %d is unknown", (int)m->status);
    else if (!isnan(m->time_s) && !(isfinite(m->time_s) && m->time_s > 0))
        snprintf(text, size, "time_s is %g, must be > 0 and finite", m->time_s);
    else if (!isnan(m->energy_j) && !is_amount(m->energy_j))
        snprintf(text, size, "energy_j is %g, must be >= 0 and finite", m->energy_j);
    else if (!isnan(m->spread) && !is_amount(m->spread))
        snprintf(text, size, "spread is %g, must be >= 0 and finite", m->spread);
    else if (m->samples < 0)
        snprintf(text, size, "samples is %d, must be >= 0", m->samples);
    else if (!is_amount(m->measured_at_s))
        snprintf(text, size, "measured_at_s is %g, must be >= 0 and finite", m->measured_at_s);
    else if (m->status == KS_OK && isnan(m->time_s) && isnan(m->energy_j))
        snprintf(text, size, "the status is KS_OK, but there is neither time_s nor energy_j");
    else
        return NULL;
    return text;
}

/* CROSS JOIN keeps SQLite from walking devices first and then sorting everything by id */
#define ROW_COLUMNS                                                                                                  \
    "SELECT m.id, d.name, k.name, k.version, k.family, m.a, m.b, m.c, m.d, m.batch, m.type, m.layout, m.math, "      \
    "m.cache_state, m.status, m.reason, m.time_s, m.spread, m.energy_j, m.clock_hz, m.samples, m.measured_at_s, "    \
    "m.sample_times_s FROM measurements m CROSS JOIN devices d ON d.id = m.device_id "                               \
    "CROSS JOIN kernels k ON k.id = m.kernel_id WHERE ?1 IS NULL OR d.name = ?1 ORDER BY m.id"

enum { THINNED_AT_ONCE = 8 }; /* for each row that is added: more than one, for those that came by import or merge */

const char ks_row_columns[] = ROW_COLUMNS;
const char ks_row_columns_backwards[] = ROW_COLUMNS " DESC";

const char *ks_row_read(const ks_sql *sql, ks_row *out, char *text, size_t size)
{
    ks_measurement *m = &out->m;
    ks_problem *p = &m->problem;
    char family[16], type[8], layout[8], math[8], status[32];
    int64_t version, samples;
    *out = (ks_row){0};
    if (!ks_sql_text(sql, 1, m->device, sizeof m->device) || !ks_sql_text(sql, 2, m->kernel, sizeof m->kernel))
        return "the device's or the kernel's name is no text, or too long";
    if (!ks_sql_int(sql, 3, 0, UINT_MAX, &version)) return "the kernel's version is not possible";
    if (!ks_sql_text(sql, 4, family, sizeof family) || !ks_family_from_name(family, &m->family))
        return "the kernel's family is unknown";
    if (!ks_sql_int(sql, 5, 1, INT64_MAX, &p->a) || !ks_sql_int(sql, 6, 1, INT64_MAX, &p->b) ||
        !ks_sql_int(sql, 7, 1, INT64_MAX, &p->c) || !ks_sql_int(sql, 8, 1, INT64_MAX, &p->d) ||
        !ks_sql_int(sql, 9, 1, INT64_MAX, &p->batch))
        return "a, b, c, d or batch is not a size";
    if (!ks_sql_text(sql, 10, type, sizeof type) || ks_type_parse(type, &p->type) != KS_OK)
        return "the type is unknown";
    if (!ks_sql_text(sql, 11, layout, sizeof layout) || ks_layout_parse(layout, &p->layout) != KS_OK)
        return "the layout is unknown";
    if (!ks_sql_text(sql, 12, math, sizeof math) || ks_math_parse(math, &p->math) != KS_OK)
        return "the math is unknown";
    if (!ks_sql_text(sql, 13, out->cache_state, sizeof out->cache_state)) return "the cache state is not possible";
    if (!ks_sql_text(sql, 14, status, sizeof status) || !ks_status_from_name(status, &m->status))
        return "the status is unknown";
    if (!ks_sql_text(sql, 15, m->reason, sizeof m->reason)) return "the reason is no text, or too long";
    m->kernel_version = (unsigned)version;
    m->time_s = m->status == KS_OK ? ks_sql_real(sql, 16) : NAN;
    m->spread = ks_sql_real(sql, 17);
    m->energy_j = ks_sql_real(sql, 18);
    out->clock_hz = ks_sql_real(sql, 19);
    m->clock_hz = out->clock_hz > 0 ? out->clock_hz : 0;
    if (!ks_sql_int(sql, 20, 0, INT_MAX, &samples)) return "samples is not a count";
    m->samples = (int)samples;
    m->measured_at_s = ks_sql_real(sql, 21);
    return ks_measurement_fault(m, text, size);
}

const char *ks_row_read_raw(const ks_sql *sql, ks_row *out)
{
    out->raw = ks_sql_blob(sql, 22, &out->raw_bytes);
    return out->raw && out->raw_bytes != sizeof(double) * (size_t)out->m.samples
               ? "sample_times_s does not hold as many samples as the row says"
               : NULL;
}

ks_status ks_store_each(ks_store *store, const ks_store_filter *filter,
                        bool (*visit)(void *user, const ks_measurement *), void *user)
{
    static const ks_store_filter everything;
    ks_sql sql;
    ks_row r;
    char text[160];
    bool more = true;
    if (!filter) filter = &everything;
    ks_status status = ks_sql_prepare(store, ks_row_columns, &sql);
    ks_sql_bind_text(&sql, 1, filter->device);
    while (status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more) {
        if (ks_row_read(&sql, &r, text, sizeof text)) continue;
        if (filter->types && !(filter->types & 1u << r.m.problem.type)) continue;
        if (filter->layouts && !(filter->layouts & 1u << r.m.problem.layout)) continue;
        if (filter->usable && r.m.status != KS_OK) continue;
        if (!visit(user, &r.m)) break;
    }
    ks_sql_finish(&sql);
    return status;
}

ks_status ks_adder_open(ks_store *store, ks_adder *add)
{
    *add = (ks_adder){0};
    ks_status status =
        ks_sql_prepare(store, "INSERT INTO devices (name) VALUES (?1) ON CONFLICT DO NOTHING", &add->device);
    if (status == KS_OK)
        status = ks_sql_prepare(
            store, "INSERT INTO kernels (name, version, family) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            &add->kernel);
    if (status == KS_OK)
        status = ks_sql_prepare(
            store,
            "INSERT INTO measurements (device_id, kernel_id, a, b, c, d, batch, type, layout, math, cache_state, "
            "status, reason, time_s, spread, energy_j, clock_hz, samples, measured_at_s, sample_times_s) VALUES ("
            "(SELECT id FROM devices WHERE name = ?1), "
            "(SELECT id FROM kernels WHERE name = ?2 AND version = ?3 AND family = ?4), "
            "?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22) "
            "ON CONFLICT DO NOTHING",
            &add->row);
    return status;
}

void ks_adder_close(ks_adder *add)
{
    ks_sql_finish(&add->device);
    ks_sql_finish(&add->kernel);
    ks_sql_finish(&add->row);
}

ks_status ks_adder_add(ks_adder *add, const ks_row *r, int64_t *added)
{
    const ks_measurement *m = &r->m;
    const ks_problem *p = &m->problem;
    bool changed;
    ks_sql *sql = &add->row;
    ks_status status;

    ks_sql_bind_text(&add->device, 1, m->device);
    if ((status = ks_sql_do(&add->device, NULL)) != KS_OK) return status;
    ks_sql_bind_text(&add->kernel, 1, m->kernel);
    ks_sql_bind_int(&add->kernel, 2, m->kernel_version);
    ks_sql_bind_text(&add->kernel, 3, ks_family_name(m->family));
    if ((status = ks_sql_do(&add->kernel, NULL)) != KS_OK) return status;

    ks_sql_bind_text(sql, 1, m->device);
    ks_sql_bind_text(sql, 2, m->kernel);
    ks_sql_bind_int(sql, 3, m->kernel_version);
    ks_sql_bind_text(sql, 4, ks_family_name(m->family));
    ks_sql_bind_int(sql, 5, p->a);
    ks_sql_bind_int(sql, 6, p->b);
    ks_sql_bind_int(sql, 7, p->c);
    ks_sql_bind_int(sql, 8, p->d);
    ks_sql_bind_int(sql, 9, p->batch);
    ks_sql_bind_text(sql, 10, ks_type_name(p->type));
    ks_sql_bind_text(sql, 11, ks_layout_name(p->layout));
    ks_sql_bind_text(sql, 12, ks_math_name(p->math));
    ks_sql_bind_text(sql, 13, r->cache_state);
    ks_sql_bind_text(sql, 14, ks_status_name(m->status));
    ks_sql_bind_text(sql, 15, m->reason);
    ks_sql_bind_real(sql, 16, m->status == KS_OK ? m->time_s : NAN); /* a failure has no time, whatever it took */
    ks_sql_bind_real(sql, 17, m->spread);
    ks_sql_bind_real(sql, 18, m->energy_j);
    ks_sql_bind_real(sql, 19, r->clock_hz);
    ks_sql_bind_int(sql, 20, m->samples);
    ks_sql_bind_real(sql, 21, m->measured_at_s);
    ks_sql_bind_blob(sql, 22, r->raw, r->raw_bytes);
    status = ks_sql_do(sql, &changed);
    if (status == KS_OK && changed) ++*added;
    return status;
}

ks_status ks_rows_thin(ks_store *store, int64_t window)
{
    ks_sql sql;
    int64_t newest;
    ks_status status = ks_sql_one_int(store, "SELECT ifnull(max(id), 0) FROM measurements", &newest);
    if (status != KS_OK || newest <= KS_RAW_ROWS) return status;
    status = ks_sql_prepare(store,
                            "UPDATE measurements SET sample_times_s = NULL "
                            "WHERE id > ?1 AND id <= ?2 AND sample_times_s IS NOT NULL",
                            &sql);
    ks_sql_bind_int(&sql, 1, newest - KS_RAW_ROWS - window);
    ks_sql_bind_int(&sql, 2, newest - KS_RAW_ROWS);
    if (status == KS_OK) status = ks_sql_do(&sql, NULL);
    ks_sql_finish(&sql);
    return status;
}

/* Sample times as the store has them: little-endian bytes. */
static uint64_t *blob_of(const double *raw, size_t count)
{
    uint64_t *blob = malloc(count * sizeof *blob);
    for (size_t i = 0; blob && i < count; i++) {
        memcpy(&blob[i], &raw[i], sizeof *blob);
        blob[i] = htole64(blob[i]);
    }
    return blob;
}

static ks_status add_one(ks_adder *add, const ks_measurement *m, const double *raw, double now_s, int64_t *thinnable)
{
    ks_row r = {.m = *m, .cache_state = "cold", .clock_hz = m->clock_hz > 0 ? m->clock_hz : NAN};
    const size_t count = raw && m->samples > 0 ? (size_t)m->samples : 0;
    uint64_t *blob = count ? blob_of(raw, count) : NULL;
    int64_t added = 0;
    if (count && !blob) return ks_fail(KS_ERR_MEMORY, "no memory for %zu samples", count);
    if (m->measured_at_s == 0) r.m.measured_at_s = now_s;
    r.raw = blob, r.raw_bytes = count * sizeof *blob;
    const ks_status status = ks_adder_add(add, &r, &added);
    if (blob) *thinnable += added;
    free(blob);
    return status;
}

ks_status ks_store_add_all(ks_store *store, const ks_measurement *m, int count, const double *raw, int raw_step)
{
    ks_adder add = {0};
    char text[160];
    int64_t thinnable = 0;
    struct timespec now;
    for (int i = 0; i < count; i++)
        if (ks_measurement_fault(&m[i], text, sizeof text))
            return ks_fail(KS_ERR_ARGUMENT, "a measurement: %s", text);
    clock_gettime(CLOCK_REALTIME, &now);
    ks_status status = ks_sql_begin(store);
    if (status != KS_OK) return status;
    status = ks_adder_open(store, &add);
    for (int i = 0; status == KS_OK && i < count; i++)
        status = add_one(&add, &m[i], raw ? raw + (ptrdiff_t)i * raw_step : NULL,
                         (double)now.tv_sec + 1e-9 * (double)now.tv_nsec, &thinnable);
    ks_adder_close(&add);
    if (status == KS_OK && thinnable) status = ks_rows_thin(store, THINNED_AT_ONCE);
    return ks_sql_end(store, status);
}

ks_status ks_store_add(ks_store *store, const ks_measurement *m, const double *raw)
{
    return ks_store_add_all(store, m, 1, raw, 0);
}

ks_status ks_store_import(ks_store *store, const ks_table *table, int64_t *added)
{
    ks_adder add = {0};
    char text[160];
    int64_t count = 0;
    if (added) *added = 0;
    ks_status status = ks_sql_begin(store);
    if (status != KS_OK) return status;
    status = ks_adder_open(store, &add);
    for (size_t i = 0; i < table->count && status == KS_OK; i++) {
        ks_row r = {.m = table->rows[i], .cache_state = "cold", .clock_hz = NAN};
        status = ks_measurement_fault(&r.m, text, sizeof text)
                     ? ks_fail(KS_ERR_ARGUMENT, "row %zu of a table: %s", i + 1, text)
                     : ks_adder_add(&add, &r, &count);
    }
    ks_adder_close(&add);
    status = ks_sql_end(store, status);
    if (added && status == KS_OK) *added = count;
    return status;
}
