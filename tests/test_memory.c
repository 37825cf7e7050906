/* memory.h's promises on every device of this machine: the CPU, and each CUDA device where there are some. The same
 * sequence of calls must leave the same bytes everywhere. */
#include "memory.h"
#include "knowledge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_DEVICES = 17, BYTES = 100003 };

static ks_device devices[MOST_DEVICES];
static int device_count;

static int find_devices(void **state)
{
    (void)state;
    ks_device_cpu(&devices[device_count++]);
    for (int i = 0; i < ks_cuda_count(NULL) && device_count < MOST_DEVICES; i++)
        if (ks_device_cuda(i, &devices[device_count]) == KS_OK) device_count++;
    return 0;
}

static void *take(const ks_device *device, size_t bytes)
{
    void *memory;
    assert_int_equal(ks_memory_alloc(device, bytes, &memory), KS_OK);
    assert_int_equal((uintptr_t)memory % (device->backend == KS_CPU ? 64 : 256), 0);
    return memory;
}

static void test_bytes(void **state)
{
    static unsigned char first[BYTES], host[BYTES], expected[BYTES];
    (void)state;
    for (int d = 0; d < device_count; d++) {
        const ks_device *device = &devices[d];
        unsigned char *x = take(device, BYTES), *y = take(device, BYTES);
        assert_int_equal(ks_memory_randomise(device, x, BYTES, 7), KS_OK);
        assert_int_equal(ks_memory_get(device, host, x, BYTES), KS_OK);
        if (d == 0) memcpy(first, host, BYTES);
        assert_memory_equal(host, first, BYTES); /* on every backend */
        for (size_t i = 1; i < BYTES; i += 2) assert_in_range(host[i] & 0x7f, 0x3e, 0x3f);
        assert_int_equal(ks_memory_randomise(device, y, BYTES, 8), KS_OK);
        assert_int_equal(ks_memory_get(device, host, y, BYTES), KS_OK);
        assert_memory_not_equal(host, first, BYTES);

        assert_int_equal(ks_memory_copy_kernel(device, y, x, BYTES, NULL), KS_OK);
        assert_int_equal(ks_memory_set(device, y + 11, 0x5a, 1000), KS_OK);
        memcpy(expected, first, BYTES);
        memset(expected + 11, 0x5a, 1000);
        assert_int_equal(ks_memory_get(device, host, y, BYTES), KS_OK);
        assert_memory_equal(host, expected, BYTES);
        assert_int_equal(ks_memory_put(device, y, first, BYTES), KS_OK);
        assert_int_equal(ks_device_wait(device), KS_OK);
        assert_int_equal(ks_memory_get(device, host, y, BYTES), KS_OK);
        assert_memory_equal(host, first, BYTES);
        ks_memory_free(device, x);
        ks_memory_free(device, y);
        ks_memory_free(device, NULL);
    }
}

/* Every size of element, from any alignment, and more runs than go in one launch. */
static void test_gather(void **state)
{
    enum { RUNS = 70, COUNT = 13 };
    static unsigned char host[BYTES], got[RUNS * COUNT * 8];
    (void)state;
    for (int d = 0; d < device_count; d++) {
        unsigned char *memory = take(&devices[d], BYTES);
        assert_int_equal(ks_memory_randomise(&devices[d], memory, BYTES, 3), KS_OK);
        assert_int_equal(ks_memory_get(&devices[d], host, memory, BYTES), KS_OK);
        for (size_t turn = 0; turn < 6; turn++) {
            const size_t size = (size_t)2 << turn % 3, from = turn < 3 ? 1 : 2 * size;
            int64_t starts[RUNS];
            const int64_t step = 1 + (int64_t)size * 37;
            for (int r = 0; r < RUNS; r++) starts[r] = (r * 7919) % ((BYTES - 16) / (int64_t)size - COUNT * step);
            assert_int_equal(ks_memory_gather(&devices[d], got, memory + from, size, starts, RUNS, step, COUNT),
                             KS_OK);
            for (int r = 0; r < RUNS; r++)
                for (int q = 0; q < COUNT; q++)
                    assert_memory_equal(got + (size_t)(r * COUNT + q) * size,
                                        host + from + (size_t)(starts[r] + q * step) * size, size);
        }
        ks_memory_free(&devices[d], memory);
    }
}

/* These elements and no others, and more of them than go in one launch. */
static void test_set_some(void **state)
{
    enum { SOME = 70 };
    static unsigned char host[BYTES];
    (void)state;
    for (int d = 0; d < device_count; d++) {
        unsigned char *memory = take(&devices[d], BYTES);
        for (size_t size = 2; size <= 8; size *= 2) {
            int64_t at[SOME];
            for (int i = 0; i < SOME; i++) at[i] = 3 * i;
            assert_int_equal(ks_memory_set(&devices[d], memory, 0x11, BYTES), KS_OK);
            assert_int_equal(ks_memory_set_some(&devices[d], memory + 1, 0xff, size, at, SOME), KS_OK);
            assert_int_equal(ks_memory_get(&devices[d], host, memory, BYTES), KS_OK);
            for (size_t i = 0; i < BYTES; i++) {
                const size_t element = (i - 1) / size;
                assert_int_equal(host[i], i > 0 && element % 3 == 0 && element < 3 * SOME ? 0xff : 0x11);
            }
        }
        ks_memory_free(&devices[d], memory);
    }
}

typedef struct job {
    const ks_device *device;
    void *x, *y;
    int calls, fail_at;
} job;

static ks_status body(void *user, int index, void *stream)
{
    job *j = user;
    assert_int_equal(index, j->calls++);
    if (index == j->fail_at) return ks_problem_check(NULL);
    return ks_memory_copy_kernel(j->device, j->y, j->x, BYTES, stream);
}

static void test_time(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++) {
        job j = {&devices[d], take(&devices[d], BYTES), take(&devices[d], BYTES), 0, -1};
        double seconds = NAN;
        assert_int_equal(ks_memory_randomise(j.device, j.x, BYTES, 5), KS_OK);
        assert_int_equal(ks_memory_randomise(j.device, j.y, BYTES, 6), KS_OK);
        for (int turn = 0; turn < 5; turn++, j.calls = 0) {
            assert_int_equal(ks_device_time(j.device, body, &j, 16, &seconds), KS_OK);
            assert_int_equal(j.calls, 16);
            assert_true(seconds > 0 && seconds < 1);
        }
        j.fail_at = 3;
        assert_failure(ks_device_time(j.device, body, &j, 16, &seconds), KS_ERR_ARGUMENT, "problem", NULL);
        assert_int_equal(j.calls, 4);
        assert_false(ks_stream_capturing(j.device, NULL));
        ks_memory_free(j.device, j.x);
        ks_memory_free(j.device, j.y);
    }
}

static void test_pool(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++) {
        void *pool, *memory;
        unsigned char got[3];
        assert_int_equal(ks_memory_pool_open(&devices[d], &pool), KS_OK);
        assert_int_equal(pool == NULL, devices[d].backend == KS_CPU);
        for (int turn = 0; pool && turn < 3; turn++) {
            assert_int_equal(ks_memory_pool_take(&devices[d], pool, BYTES, NULL, &memory), KS_OK);
            assert_int_equal((uintptr_t)memory % 256, 0);
            assert_int_equal(ks_memory_check(&devices[d], memory, BYTES, "x"), KS_OK);
            assert_int_equal(ks_memory_set(&devices[d], memory, turn, BYTES), KS_OK);
            assert_int_equal(ks_memory_get(&devices[d], got, (char *)memory + BYTES - 3, 3), KS_OK);
            assert_true(got[0] == turn && got[2] == turn);
            assert_int_equal(ks_memory_pool_give(&devices[d], pool, memory, NULL), KS_OK);
        }
        if (pool)
            assert_failure(ks_memory_pool_take(&devices[d], pool, (size_t)1 << 60, NULL, &memory), KS_ERR_MEMORY,
                           "1152921504606846976", NULL);
        ks_memory_pool_close(&devices[d], pool);
    }
}

static void test_failures(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++) {
        /* More than any machine has; of the CPU, more than malloc is ever asked for (AddressSanitizer would abort). */
        const size_t bytes = devices[d].backend == KS_CPU ? SIZE_MAX : (size_t)1 << 60;
        char number[32];
        void *memory = state;
        snprintf(number, sizeof number, "%zu", bytes);
        assert_failure(ks_memory_alloc(&devices[d], bytes, &memory), KS_ERR_MEMORY, number, NULL);
        assert_null(memory);
        memory = take(&devices[d], 0); /* and it goes on */
        ks_memory_free(&devices[d], memory);
    }
}

static void test_state(void **state)
{
    (void)state;
    for (int d = 0; d < device_count; d++) {
        ks_device_state now;
        ks_device_state_read(&devices[d], &now);
        assert_true(now.clock_hz >= 0 && (isnan(now.energy_j) || now.energy_j >= 0));
        if (devices[d].backend == KS_CPU) assert_true(now.clock_hz == 0 && isnan(now.energy_j) && !*now.throttle);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes), cmocka_unit_test(test_gather), cmocka_unit_test(test_set_some),
        cmocka_unit_test(test_time),  cmocka_unit_test(test_pool),   cmocka_unit_test(test_failures),
        cmocka_unit_test(test_state),
    };
    return cmocka_run_group_tests(tests, find_devices, NULL);
}
