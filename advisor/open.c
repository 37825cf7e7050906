/* Opening a context: find the device, read the store once, fill the gaps from the seeds.
 *
 * Nothing that is wrong with the store or a model in it may keep a context from opening: it is noted for ks_store_status
 * and the next rung of the ladder serves. */
#include "context.h"
#include "error.h"
#include "memory.h"
#include "seeds.h"
#include "standing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* A file that is there and cannot be read is not written to, either: it may be damaged. */
static void note_store_trouble(ks_context *ctx, ks_status status)
{
    struct stat facts;
    if (status == KS_ERR_STORE && ctx->store_path && stat(ctx->store_path, &facts) == 0 && facts.st_size > 0) {
        free(ctx->store_path);
        ctx->store_path = NULL;
    }
    if (ctx->store_status != KS_OK) return;
    ctx->store_status = status;
    snprintf(ctx->store_why, sizeof ctx->store_why, "%s", ks_status_message(status));
}

/* ---- which device -------------------------------------------------------------------------------------------------- */

/* Looks for a device by name among those visited: the exact name wins; else the only one that contains the text. */
typedef struct search {
    const char *text;
    ks_device found;
    int exact, partial;
} search;

static bool visit_device(void *user, const ks_device *device)
{
    search *s = user;
    if (strcmp(device->name, s->text) == 0) {
        s->exact++;
        s->found = *device;
    } else if (!s->exact && strcasestr(device->name, s->text)) {
        if (s->partial == 0 || strcmp(s->found.name, device->name) != 0) s->partial++;
        s->found = *device;
    }
    return true;
}

static ks_status find_device(ks_context *ctx, const char *wanted, ks_store *store)
{
    ks_status found = ks_device_find(wanted, &ctx->device);
    ctx->here = found == KS_OK;
    if (found != KS_ERR_NO_DATA) return found;
    search s = {.text = wanted};
    for (int i = 0; i < ks_cuda_count(NULL); i++) {
        ks_device device;
        if (ks_device_cuda(i, &device) == KS_OK) visit_device(&s, &device);
    }
    if (store) ks_store_each_device(store, visit_device, &s);
    size_t count;
    const ks_seed *seeds = ks_seeds(&count);
    for (size_t i = 0; i < count && !s.exact; i++) {
        ks_device device;
        if (ks_seed_read(&seeds[i], &device, NULL, NULL) == KS_OK) visit_device(&s, &device);
    }
    if (!s.exact && s.partial != 1)
        return ks_fail(KS_ERR_DEVICE,
                       "device \"%s\" is %s; valid: cpu, cuda:0, ..., or a name that `ksauto devices` lists", wanted,
                       s.partial ? "the name of several" : "unknown");
    ctx->here = ks_device_find(s.found.name, &ctx->device) == KS_OK;
    if (!ctx->here) ctx->device = s.found;
    return KS_OK;
}

/* ---- what is known of it ------------------------------------------------------------------------------------------- */

/* Takes models of one device into the gaps that are still open. */
typedef struct intake {
    ks_context *ctx;
    ks_source source;
    const char *device;
} intake;

static bool take_model(void *user, const ks_model_row *row)
{
    const intake *in = user;
    knowledge *k = &in->ctx->known[row->type][row->layout];
    ks_model *model;
    if (row->objective != in->ctx->objective || k->model) return true;
    ks_status s = ks_model_parse(row->json, &model);
    if (s == KS_OK && (model->type != row->type || model->layout != row->layout))
        s = ks_fail(KS_ERR_PARSE, "model: is stored for %s, batch-%s, but made for %s, batch-%s",
                    ks_type_name(row->type), ks_layout_name(row->layout), ks_type_name(model->type),
                    ks_layout_name(model->layout));
    if (s != KS_OK) {
        ks_model_free(model);
        if (in->source == KS_FROM_MODEL) note_store_trouble(in->ctx, s);
        return true;
    }
    /* Here only kernels of this build are chosen from; elsewhere those of the model are. */
    if (!in->ctx->here && ks_model_usable(model) != KS_OK) {
        snprintf(k->why, sizeof k->why, "%s", ks_status_message(KS_ERR_UNSUPPORTED));
        if (in->source == KS_FROM_MODEL) note_store_trouble(in->ctx, KS_ERR_UNSUPPORTED);
        ks_model_free(model);
        return true;
    }
    if (in->ctx->here && in->source == KS_FROM_MODEL && in->ctx->store_status == KS_OK && !*in->ctx->store_why)
        ks_model_stale(model, &in->ctx->device, in->ctx->store_why, sizeof in->ctx->store_why);
    k->model = model, k->source = in->source;
    snprintf(k->source_device, sizeof k->source_device, "%s", in->device);
    return true;
}

static void read_store(ks_context *ctx, ks_store *store)
{
    ks_device stored;
    ks_rows r = {0};
    if (ks_store_get_device(store, ctx->device.name, &stored) == KS_OK) {
        ctx->device.copy_bytes_per_s = stored.copy_bytes_per_s;
        memcpy(ctx->device.gemm_flops_per_s, stored.gemm_flops_per_s, sizeof stored.gemm_flops_per_s);
    }
    intake in = {ctx, KS_FROM_MODEL, ctx->device.name};
    ks_status s = ks_store_each_model(store, ctx->device.name, take_model, &in);
    const ks_store_filter all = {.device = ctx->device.name}, usable = {.device = ctx->device.name, .usable = true};
    if (s == KS_OK) s = ks_store_each(store, &all, ks_failures_see, &ctx->failures);
    if (s == KS_OK) s = ks_failures_status(&ctx->failures);
    if (s == KS_OK) s = ks_rows_read(store, &usable, &r);
    if (s != KS_OK) note_store_trouble(ctx, s);
    ks_failures_sort(&ctx->failures);
    ctx->stored = r.count + ctx->failures.count;
    ks_device known = ctx->device;
    ks_device_assume_rates(&known);
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            s = ks_cases_build(r.items, r.count, &known, (ks_type)t, (ks_layout)l, ctx->objective,
                               &ctx->known[t][l].cases);
            if (s != KS_OK) note_store_trouble(ctx, s);
        }
    ks_rows_free(&r);
}

static void read_seeds(ks_context *ctx)
{
    ks_device device;
    const ks_seed *seed = ks_seed_nearest(&ctx->device, &device);
    if (!seed) return;
    if (strcmp(device.name, ctx->device.name) == 0 && ctx->device.copy_bytes_per_s <= 0) {
        ctx->device.copy_bytes_per_s = device.copy_bytes_per_s;
        memcpy(ctx->device.gemm_flops_per_s, device.gemm_flops_per_s, sizeof device.gemm_flops_per_s);
    }
    intake in = {ctx, KS_FROM_SEEDS, device.name};
    ks_seed_read(seed, &device, take_model, &in);
}

static ks_store *open_store(ks_context *ctx, const ks_options *options)
{
    char path[4096];
    ks_store *store = NULL;
    if (options->store && !*options->store) {
        note_store_trouble(ctx, ks_fail(KS_ERR_STORE, "no store was asked for"));
        return NULL;
    }
    ks_status s = ks_store_path(options->store, path, sizeof path);
    if (s == KS_OK) {
        ctx->store_path = strdup(path);
        s = ks_store_open(&store, path, KS_STORE_READ);
    }
    if (s != KS_OK) note_store_trouble(ctx, s);
    return s == KS_OK ? store : NULL;
}

ks_status ks_open(ks_context **out, const ks_options *options)
{
    const ks_options defaults = {0};
    if (!out) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    *out = NULL;
    if (!options) options = &defaults;
    if (options->flags & ~(unsigned)KS_MEASURE)
        return ks_fail(KS_ERR_ARGUMENT, "flags is %#x, valid: 0 or KS_MEASURE", options->flags);
    if (!ks_objective_name(options->objective))
        return ks_fail(KS_ERR_ARGUMENT, "objective is %d, not a ks_objective", (int)options->objective);
    ks_context *ctx = calloc(1, sizeof *ctx);
    if (ctx) ctx->memo = calloc(MEMO_SLOTS, sizeof *ctx->memo);
    if (!ctx || !ctx->memo) {
        free(ctx);
        return ks_fail(KS_ERR_MEMORY, "out of memory for a context");
    }
    pthread_mutex_init(&ctx->measuring, NULL);
    ctx->objective = options->objective, ctx->flags = options->flags;
    ctx->measure_budget_s = options->measure_budget_s > 0 ? options->measure_budget_s : 0.1;
    const char *explain = getenv("KSAUTO_EXPLAIN");
    ctx->explain = explain && strcmp(explain, "1") == 0;
    const char *check_arrays = getenv("KSAUTO_CHECK");
    ctx->check_arrays = check_arrays && strcmp(check_arrays, "1") == 0;
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) ctx->known[t][l].source = KS_FROM_COST_MODEL;

    ks_store *store = open_store(ctx, options);
    ks_status s = find_device(ctx, options->device, store);
    if (s == KS_OK && ctx->here) s = ks_memory_pool_open(&ctx->device, &ctx->pool);
    if (s == KS_OK) {
        if (store) read_store(ctx, store);
        read_seeds(ctx);
        ks_device_assume_rates(&ctx->device);
        ks_context_read_pins(ctx, options->decisions);
    }
    ks_store_close(store);
    if (s != KS_OK) {
        ks_close(ctx);
        return s;
    }
    *out = ctx;
    return KS_OK;
}

void ks_close(ks_context *ctx)
{
    if (!ctx) return;
    for (int t = 0; t < KS_NTYPES; t++)
        for (int l = 0; l < KS_NLAYOUTS; l++) {
            ks_model_free(ctx->known[t][l].model);
            ks_cases_free(&ctx->known[t][l].cases);
        }
    ks_failures_free(&ctx->failures);
    free(ctx->pins.items);
    for (int i = 0; i < WORKSPACES; i++) free(atomic_load(&ctx->workspace[i]));
    ks_memory_pool_close(&ctx->device, ctx->pool);
    pthread_mutex_destroy(&ctx->measuring);
    free(ctx->store_path);
    free(ctx->memo);
    free(ctx);
}

ks_status ks_store_status(const ks_context *ctx, const char **why)
{
    if (why) *why = ctx ? ctx->store_why : "";
    if (!ctx) return ks_fail(KS_ERR_ARGUMENT, "ctx is NULL");
    return ctx->store_status;
}
