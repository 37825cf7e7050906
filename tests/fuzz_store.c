/* libFuzzer on the contents of a store: the bytes are the file. Whatever they are, reading ends with a status, no row that comes
 * out is impossible, what can be read is salvaged into a sound store, a context opens and decides, and the file is as it was.
 * Nothing may crash, leak or hang.
 *
 *     cmake --preset fuzz && cmake --build build/fuzz && build/fuzz/tests/fuzz_store -max_total_time=60 CORPUS */
#include "model.h"
#include "store.h"
#include "tables.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char folder[64], path[96], rescued[96];

static void remove_store(const char *file)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    char name[128];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", file, suffixes[i]);
        unlink(name);
    }
}

static void clean_up(void)
{
    remove_store(path);
    remove_store(rescued);
    rmdir(folder);
}

/* In memory, where there is such a folder. */
static void prepare(void)
{
    snprintf(folder, sizeof folder, "%s/ksauto-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder)) abort();
    snprintf(path, sizeof path, "%s/s.db", folder);
    snprintf(rescued, sizeof rescued, "%s/rescued.db", folder);
    atexit(clean_up);
}

static void put(const uint8_t *data, size_t bytes)
{
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(data, 1, bytes, out) != bytes || fclose(out) != 0) abort();
}

static void assert_unchanged(const uint8_t *data, size_t bytes)
{
    unsigned char piece[4096];
    size_t at = 0, count;
    FILE *in = fopen(path, "rb");
    if (!in) abort();
    while ((count = fread(piece, 1, sizeof piece, in)) > 0) {
        if (at + count > bytes || memcmp(data + at, piece, count) != 0) abort();
        at += count;
    }
    fclose(in);
    if (at != bytes) abort();
}

static bool see_row(void *user, const ks_measurement *m)
{
    char why[160];
    (void)user;
    if (ks_measurement_fault(m, why, sizeof why)) abort();
    return true;
}

static bool see_device(void *user, const ks_device *device)
{
    (void)user;
    if (!*device->name || !(device->copy_bytes_per_s >= 0)) abort();
    return true;
}

static bool see_model(void *user, const ks_model_row *row)
{
    ks_model *m;
    (void)user;
    if (ks_model_parse(row->json, &m) == KS_OK) ks_model_free(m);
    return true;
}

static void read_it(void)
{
    ks_store *store;
    ks_store_info info;
    if (ks_store_open(&store, path, KS_STORE_READ) != KS_OK) return;
    ks_store_each_device(store, see_device, NULL);
    ks_store_each(store, NULL, see_row, NULL);
    ks_store_each_model(store, NULL, see_model, NULL);
    ks_store_info_get(store, &info);
    ks_store_check(store, NULL, NULL);
    ks_store_close(store);
}

static void rescue(void)
{
    ks_store *from, *to;
    int64_t added;
    if (ks_store_open(&from, path, KS_STORE_SALVAGE) != KS_OK) return;
    remove_store(rescued);
    if (ks_store_open(&to, rescued, KS_STORE_WRITE) != KS_OK) abort();
    if (ks_store_salvage(to, from, &added) == KS_OK && ks_store_check(to, NULL, NULL) != KS_OK) abort();
    ks_store_close(to);
    ks_store_close(from);
}

/* device: NULL, or one of the store's, of which there need be no model. */
static void decide(const char *device)
{
    const ks_options options = {.device = device, .store = path};
    ks_context *ctx;
    const char *kernel;
    const ks_status opened = ks_open(&ctx, &options);
    if (opened == KS_ERR_DEVICE && device) return; /* there are several so called */
    if (opened != KS_OK) abort();
    for (int i = 0; i < KS_NTYPES * KS_NLAYOUTS; i++) {
        const ks_problem p = {3,          40, 7, 2, 100, (ks_type)(i / KS_NLAYOUTS), (ks_layout)(i % KS_NLAYOUTS),
                              KS_MATH_F32};
        if (ks_choose(ctx, &p, &kernel) != KS_OK && !device) abort();
    }
    ks_close(ctx);
}

static bool note_name(void *user, const ks_device *device)
{
    snprintf(user, KS_DEVICE_BYTES, "%s", device->name);
    return false;
}

static void decide_for_all(void)
{
    char name[KS_DEVICE_BYTES] = "";
    ks_store *store;
    decide(NULL);
    if (ks_store_open(&store, path, KS_STORE_READ) != KS_OK) return;
    ks_store_each_device(store, note_name, name);
    ks_store_close(store);
    if (*name) decide(name);
}

static unsigned hash(const uint8_t *data, size_t bytes)
{
    unsigned h = 0;
    for (size_t i = 0; i < bytes; i++) h = h * 31 + data[i];
    return h ^ h >> 16;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (!*folder) prepare();
    put(data, bytes);
    read_it();
    rescue();
    if (hash(data, bytes) % 4 == 0) decide_for_all(); /* which takes longer than the rest */
    assert_unchanged(data, bytes);
    remove_store(path);
    return 0;
}
