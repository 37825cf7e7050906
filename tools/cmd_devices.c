/* ksauto devices: this machine, the devices the store knows, and those that ship with the library. Any of their names
 * may be given to advise --device; only those of this machine, cpu and cuda:N, can also multiply. */
#include "cli.h"

#include "seeds.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char synopsis[] = "ksauto [--db FILE] devices";
static const char about[] = "Lists this machine's devices, the devices in the store, and those that ship with the "
                            "library: what --device may name.";

typedef struct entry {
    ks_device device;
    int64_t measurements; /* negative: does not apply */
    int models;
} entry;

typedef struct list {
    entry *entries;
    size_t count;
    bool out_of_memory;
} list;

static entry *add(list *l, const ks_device *device)
{
    entry *grown = realloc(l->entries, (l->count + 1) * sizeof *grown);
    if (!grown) {
        l->out_of_memory = true;
        return NULL;
    }
    l->entries = grown;
    grown[l->count] = (entry){.device = *device, .measurements = -1};
    return &grown[l->count++];
}

static bool visit_device(void *user, const ks_device *device)
{
    return add(user, device) != NULL;
}

static bool count_measurement(void *user, const ks_measurement *m)
{
    (void)m;
    ++*(int64_t *)user;
    return true;
}

static bool count_model(void *user, const ks_model_row *row)
{
    (void)row;
    ++*(int *)user;
    return true;
}

/* No store is no devices; a store that is there and cannot be read is a note, and no devices. */
static void read_store(const cli *c, list *l)
{
    char path[4096];
    ks_store *store = NULL;
    ks_status status = ks_store_path(c->store, path, sizeof path);
    if (status == KS_OK && !c->store && access(path, F_OK) != 0) return;
    if (status == KS_OK) status = ks_store_open(&store, path, KS_STORE_READ);
    if (status == KS_OK) status = ks_store_each_device(store, visit_device, l);
    for (size_t i = 0; status == KS_OK && i < l->count; i++) {
        entry *e = &l->entries[i];
        ks_store_filter filter = {.device = e->device.name};
        e->measurements = 0;
        status = ks_store_each(store, &filter, count_measurement, &e->measurements);
        if (status == KS_OK) status = ks_store_each_model(store, e->device.name, count_model, &e->models);
    }
    if (status != KS_OK) cli_note("the store of measurements is not used: %s", ks_status_message(status));
    ks_store_close(store);
}

static void read_seeds(list *l)
{
    size_t count;
    const ks_seed *seeds = ks_seeds(&count);
    for (size_t i = 0; i < count; i++) {
        ks_device device = {.index = 0};
        int models = 0;
        ks_status status = ks_seed_read(&seeds[i], &device, count_model, &models);
        entry *e = status == KS_OK ? add(l, &device) : NULL;
        if (e) e->models = models;
        if (status != KS_OK) cli_note("seed %s: %s", seeds[i].name, ks_status_message(status));
    }
}

static void add_text(cJSON *object, const char *name, const char *text)
{
    if (*text)
        cJSON_AddStringToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

/* 0 stands for not known: a device that came with a CSV file is a name and no more. */
static void add_fact(cJSON *object, const char *name, int64_t value)
{
    if (value > 0)
        cli_add_integer(object, name, value);
    else
        cJSON_AddNullToObject(object, name);
}

static cJSON *entry_json(const entry *e)
{
    const ks_device *device = &e->device;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", device->name);
    cJSON_AddStringToObject(object, "backend", device->backend == KS_CUDA ? "cuda" : "cpu");
    add_text(object, "arch", device->arch);
    add_fact(object, "units", device->units);
    add_fact(object, "l1_bytes", device->l1_bytes);
    add_fact(object, "l2_bytes", device->l2_bytes);
    add_fact(object, "l3_bytes", device->l3_bytes);
    add_fact(object, "memory_bytes", device->memory_bytes);
    add_text(object, "driver", device->driver);
    add_text(object, "runtime", device->runtime);
    add_text(object, "blas", device->blas);
    cli_add_rates(object, device->copy_bytes_per_s, device->gemm_flops_per_s);
    if (e->measurements >= 0) cli_add_integer(object, "measurements", e->measurements);
    cli_add_integer(object, "models", e->models);
    return object;
}

static cJSON *list_json(const list *l)
{
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < l->count; i++) cJSON_AddItemToArray(array, entry_json(&l->entries[i]));
    return array;
}

/* A device of this machine, with the rates that calibrate stored for it. */
static void add_here(list *here, const ks_device *device, const list *stored)
{
    entry *self = add(here, device);
    for (size_t i = 0; self && i < stored->count; i++) {
        const entry *e = &stored->entries[i];
        if (strcmp(e->device.name, device->name) != 0) continue;
        self->device.copy_bytes_per_s = e->device.copy_bytes_per_s;
        memcpy(self->device.gemm_flops_per_s, e->device.gemm_flops_per_s, sizeof device->gemm_flops_per_s);
        self->models = e->models;
        self->measurements = e->measurements;
    }
}

/* What --device calls this machine's own: "cpu", "cuda:0". */
static cli_text short_name(const ks_device *device)
{
    cli_text text = {"cpu"};
    if (device->backend == KS_CUDA) snprintf(text.s, sizeof text.s, "cuda:%d", device->index);
    return text;
}

/* ", 4 of what", or nothing. */
static void print_count(int64_t count, const char *what)
{
    if (count > 0) printf(", %" PRId64 " %s%s", count, what, count == 1 ? "" : "s");
}

/* A name may be long, so that it stands on a line by itself; what is known of the device below it. */
static void print_entries(const char *where, bool here, const list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const entry *e = &l->entries[i];
        const ks_device *device = &e->device;
        printf("%-5s  %-8s  %s\n", where, here ? short_name(device).s : "-", device->name);
        printf("%17s%s", "", *device->arch ? device->arch : "known by its name alone");
        print_count(device->units, "unit");
        if (device->copy_bytes_per_s > 0) printf(", copy %s", cli_rate(device->copy_bytes_per_s, "B/s").s);
        if (device->gemm_flops_per_s[KS_F32] > 0)
            printf(", GEMM f32 %s", cli_rate(device->gemm_flops_per_s[KS_F32], "FLOP/s").s);
        printf("\n%17s%s", "", e->measurements > 0 || e->models > 0 ? "" : "nothing measured yet");
        if (e->measurements > 0) printf("%" PRId64 " measurements%s", e->measurements, e->models > 0 ? ", " : "");
        if (e->models > 0) printf("%d model%s", e->models, e->models == 1 ? "" : "s");
        putchar('\n');
    }
}

int cmd_devices(cli *c, int argc, char **argv)
{
    const cli_option options[] = {{0}};
    ks_device device;
    const char *why = NULL;
    list here = {0}, stored = {0}, seeds = {0};
    int code = cli_parse(c, "devices", synopsis, about, options, argc, argv, 0, 0, NULL, NULL);
    if (code != CLI_GO_ON) return code;

    read_store(c, &stored);
    read_seeds(&seeds);
    ks_device_cpu(&device);
    add_here(&here, &device, &stored);
    const int cuda_count = ks_cuda_count(&why);
    for (int i = 0; i < cuda_count; i++)
        if (ks_device_cuda(i, &device) == KS_OK)
            add_here(&here, &device, &stored);
        else
            cli_note("cuda:%d: %s", i, ks_status_message(KS_ERR_DEVICE));
    if (here.out_of_memory || stored.out_of_memory || seeds.out_of_memory) {
        code = cli_fail("not enough memory for the list of devices");
        goto done;
    }
    if (c->json) {
        cJSON *object = cli_result_json();
        cJSON *array = list_json(&here), *item;
        int index = 0;
        cJSON_ArrayForEach(item, array)
            cJSON_AddStringToObject(item, "device", short_name(&here.entries[index++].device).s);
        cJSON_AddItemToObject(object, "here", array);
        add_text(object, "no_cuda", cuda_count ? "" : why);
        cJSON_AddItemToObject(object, "store", list_json(&stored));
        cJSON_AddItemToObject(object, "seeds", list_json(&seeds));
        code = cli_print_json(object);
        goto done;
    }
    printf("%-5s  %-8s  device\n", "where", "--device");
    print_entries("here", true, &here);
    print_entries("store", false, &stored);
    print_entries("seeds", false, &seeds);
    if (cuda_count == 0) printf("\nNo CUDA device: %s.\n", why);
    code = CLI_DONE;
done:
    free(here.entries);
    free(stored.entries);
    free(seeds.entries);
    return code;
}
