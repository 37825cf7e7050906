/* The store as a whole: what it holds, whether it is sound, and taking over another store's contents. */
#include "error.h"
#include "tables.h"
#include "trouble.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

ks_status ks_store_info_get(ks_store *store, ks_store_info *info)
{
    ks_sql sql;
    int64_t schema, devices, models;
    bool row = false;
    ks_status status;
    *info = (ks_store_info){0};
    if ((status = ks_sql_one_int(store, "PRAGMA user_version", &schema)) != KS_OK ||
        (status = ks_sql_one_int(store, "SELECT count(*) FROM devices", &devices)) != KS_OK ||
        (status = ks_sql_one_int(store, "SELECT count(*) FROM models", &models)) != KS_OK ||
        (status = ks_sql_one_int(store, "SELECT count(*) FROM measurements", &info->measurements)) != KS_OK ||
        (status = ks_sql_one_int(store, "SELECT count(*) FROM measurements WHERE status = 'KS_OK'", &info->usable)) !=
            KS_OK)
        return status;
    info->schema = (int)schema;
    info->devices = (int)devices;
    info->models = (int)models;

    status = ks_sql_prepare(store, "PRAGMA journal_mode", &sql);
    if (status == KS_OK) status = ks_sql_step(&sql, &row);
    if (row) ks_sql_text(&sql, 0, info->journal, sizeof info->journal);
    ks_sql_finish(&sql);

    /* what the user sees on the disk: the file and what is still in its log */
    struct stat facts;
    char log[4096];
    if (stat(store->path, &facts) == 0) info->bytes = facts.st_size;
    int length = snprintf(log, sizeof log, "%s-wal", store->path);
    if (length > 0 && (size_t)length < sizeof log && stat(log, &facts) == 0) info->bytes += facts.st_size;
    return status;
}

/* --- checking ---------------------------------------------------------------------------------------------- */

typedef struct findings {
    void (*report)(void *user, const char *finding);
    void *user;
    int count;
} findings;

static void found(findings *all, const char *sentence)
{
    all->count++;
    if (all->report) all->report(all->user, sentence);
}

/* SQLite's own examination: pages, indexes, CHECK and NOT NULL. */
static ks_status check_integrity(ks_store *store, findings *all)
{
    ks_sql sql;
    bool more = true;
    ks_status status = ks_sql_prepare(store, "PRAGMA integrity_check", &sql);
    while (status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more) {
        const char *text = ks_sql_long_text(&sql, 0, 4096);
        if (!text || strcmp(text, "ok") != 0)
            found(all, text ? text : "the integrity check says something unreadable");
    }
    ks_sql_finish(&sql);
    return status;
}

static ks_status check_references(ks_store *store, findings *all)
{
    ks_sql sql;
    bool more = true;
    ks_status status = ks_sql_prepare(store, "PRAGMA foreign_key_check", &sql);
    while (status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more) {
        char table[32] = "?", parent[32] = "?", sentence[160];
        int64_t id = 0;
        ks_sql_text(&sql, 0, table, sizeof table);
        ks_sql_int(&sql, 1, INT64_MIN, INT64_MAX, &id);
        ks_sql_text(&sql, 2, parent, sizeof parent);
        snprintf(sentence, sizeof sentence, "row %lld of %s names a row of %s that does not exist", (long long)id,
                 table, parent);
        found(all, sentence);
    }
    ks_sql_finish(&sql);
    return status;
}

static ks_status check_rows(ks_store *store, findings *all)
{
    ks_sql sql;
    ks_row row;
    bool more = true;
    ks_status status = ks_sql_prepare(store, ks_row_columns, &sql);
    ks_sql_bind_text(&sql, 1, NULL);
    while (status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more) {
        char text[160], sentence[224];
        int64_t id = 0;
        const char *fault = ks_row_read(&sql, &row, text, sizeof text);
        if (!fault) fault = ks_row_read_raw(&sql, &row);
        if (!fault) continue;
        ks_sql_int(&sql, 0, INT64_MIN, INT64_MAX, &id);
        snprintf(sentence, sizeof sentence, "measurement %lld is passed over: %s", (long long)id, fault);
        found(all, sentence);
    }
    ks_sql_finish(&sql);
    return status;
}

static bool count_device(void *user, const ks_device *device)
{
    (void)device;
    ++*(int64_t *)user;
    return true;
}

static bool count_model(void *user, const ks_model_row *model)
{
    (void)model;
    ++*(int64_t *)user;
    return true;
}

/* Devices and models that reading passes over show as a difference of counts. */
static ks_status check_counts(ks_store *store, findings *all)
{
    int64_t devices = 0, models = 0, have_devices = 0, have_models = 0;
    char sentence[160];
    ks_status status = ks_store_each_device(store, count_device, &devices);
    if (status == KS_OK) status = ks_store_each_model(store, NULL, count_model, &models);
    if (status == KS_OK) status = ks_sql_one_int(store, "SELECT count(*) FROM devices", &have_devices);
    if (status == KS_OK) status = ks_sql_one_int(store, "SELECT count(*) FROM models", &have_models);
    if (status != KS_OK) return status;
    if (devices != have_devices) {
        snprintf(sentence, sizeof sentence, "%lld of %lld devices have facts that are not possible",
                 (long long)(have_devices - devices), (long long)have_devices);
        found(all, sentence);
    }
    if (models != have_models) {
        snprintf(sentence, sizeof sentence, "%lld of %lld models cannot be read", (long long)(have_models - models),
                 (long long)have_models);
        found(all, sentence);
    }
    return KS_OK;
}

ks_status ks_store_check(ks_store *store, void (*report)(void *user, const char *finding), void *user)
{
    static ks_status (*const checks[])(ks_store *, findings *) = {check_integrity, check_references, check_rows,
                                                                  check_counts};
    findings all = {report, user, 0};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        ks_status status = checks[i](store, &all);
        if (status == KS_ERR_MEMORY) return status;
        if (status != KS_OK) found(&all, ks_status_message(status)); /* damage can stop a check half-way */
    }
    return all.count == 0
               ? KS_OK
               : ks_store_fail(KS_TROUBLE_DAMAGED, store->path, "%d finding%s", all.count, all.count == 1 ? "" : "s");
}

/* --- merging ----------------------------------------------------------------------------------------------- */

typedef struct merging {
    ks_store *to;
    ks_status status; /* of `to` */
} merging;

static bool merge_device(void *user, const ks_device *device)
{
    merging *merge = user;
    merge->status = ks_device_row_put(merge->to, device, true);
    return merge->status == KS_OK;
}

static bool merge_model(void *user, const ks_model_row *model)
{
    merging *merge = user;
    merge->status = ks_model_row_put(merge->to, model, true);
    return merge->status == KS_OK;
}

/* Returns how reading ended; merge->status says how writing did. */
static ks_status merge_rows(merging *merge, ks_store *from, const char *query, int64_t *added)
{
    ks_sql sql = {0};
    ks_adder add = {0};
    ks_row row;
    char text[160];
    bool more = true;
    ks_status status = KS_OK;
    merge->status = ks_adder_open(merge->to, &add);
    if (merge->status == KS_OK) status = ks_sql_prepare(from, query, &sql);
    if (merge->status == KS_OK && status == KS_OK) ks_sql_bind_text(&sql, 1, NULL);
    while (merge->status == KS_OK && status == KS_OK && (status = ks_sql_step(&sql, &more)) == KS_OK && more)
        if (!ks_row_read(&sql, &row, text, sizeof text) && !ks_row_read_raw(&sql, &row))
            merge->status = ks_adder_add(&add, &row, added);
    ks_sql_finish(&sql);
    ks_adder_close(&add);
    return status;
}

static bool is_same_file(const ks_store *x, const ks_store *y)
{
    struct stat fx, fy;
    return stat(x->path, &fx) == 0 && stat(y->path, &fy) == 0 && fx.st_dev == fy.st_dev && fx.st_ino == fy.st_ino;
}

/* salvaging: what cannot be read ends a table, not the whole; rows are then read from the end, too. */
static ks_status take_over(ks_store *to, ks_store *from, bool salvaging, int64_t *added)
{
    merging merge = {to, KS_OK};
    int64_t count = 0;
    if (added) *added = 0;
    if (is_same_file(to, from)) return KS_OK; /* and would wait for its own lock */
    ks_status status = ks_sql_begin(to);
    if (status != KS_OK) return status;
    ks_status read = ks_store_each_device(from, merge_device, &merge);
    for (int back = 0; back <= salvaging && merge.status == KS_OK && (read == KS_OK || salvaging); back++)
        read = merge_rows(&merge, from, back ? ks_row_columns_backwards : ks_row_columns, &count);
    if (merge.status == KS_OK && (read == KS_OK || salvaging))
        read = ks_store_each_model(from, NULL, merge_model, &merge);
    if (merge.status != KS_OK)
        status = merge.status;
    else if (read == KS_ERR_MEMORY || !salvaging)
        status = read;
    if (status == KS_OK) status = ks_rows_thin(to, INT64_MAX / 2);
    status = ks_sql_end(to, status);
    if (added && status == KS_OK) *added = count;
    return status;
}

ks_status ks_store_merge(ks_store *to, ks_store *from, int64_t *added)
{
    return take_over(to, from, false, added);
}

ks_status ks_store_salvage(ks_store *to, ks_store *from, int64_t *added)
{
    return take_over(to, from, true, added);
}
