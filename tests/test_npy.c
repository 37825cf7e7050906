/* The .npy reader and writer: what NumPy writes is read, what it would not write is refused with a reason, and what is
 * written here is what NumPy would have written. matmul_numpy.py has NumPy itself on the other side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "npy.h"
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILE_BYTES = 4096 };

/* A version major.0 file of this header and data_bytes bytes counting up from 0; returns its size. */
static size_t make_file(unsigned char *file, int major, const char *header, size_t data_bytes)
{
    size_t length = strlen(header), at = major == 1 ? 10 : 12;
    memset(file, 0, FILE_BYTES);
    memcpy(file, "\x93NUMPY", 6);
    file[6] = (unsigned char)major;
    file[8] = (unsigned char)length;
    file[9] = (unsigned char)(length >> 8);
    memcpy(file + at, header, length);
    for (size_t i = 0; i < data_bytes; i++) file[at + length + i] = (unsigned char)i;
    return at + length + data_bytes;
}

static ks_status read_text(int major, const char *header, size_t data_bytes, npy_array *array)
{
    unsigned char file[FILE_BYTES];
    size_t size = make_file(file, major, header, data_bytes);
    /* An exact copy on the heap, so that the sanitizer sees every read past the end. */
    unsigned char *exact = malloc(size);
    assert_non_null(exact);
    memcpy(exact, file, size);
    ks_status status = npy_read_memory(exact, size, "T.npy", array);
    free(exact);
    return status;
}

/* The header is refused, and the message names the file and has the word in it. */
static void refuse(const char *header, size_t data_bytes, const char *word)
{
    npy_array array;
    ks_status status = read_text(1, header, data_bytes, &array);
    if (status != KS_ERR_PARSE) fail_msg("%s: status %s", header, ks_status_name(status));
    const char *message = ks_status_message(status);
    if (!strstr(message, "T.npy") || !strstr(message, word))
        fail_msg("%s: message \"%s\" lacks \"%s\"", header, message, word);
    assert_null(array.data);
}

static void accept(int major, const char *header, ks_type type, int rank, const int64_t *shape)
{
    npy_array array;
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= shape[i];
    ks_status status = read_text(major, header, (size_t)count * ks_type_bytes(type), &array);
    if (status != KS_OK) fail_msg("%s: %s", header, ks_status_message(status));
    assert_int_equal(array.type, type);
    assert_int_equal(array.rank, rank);
    assert_int_equal(array.count, count);
    for (int i = 0; i < rank; i++) assert_int_equal(array.shape[i], shape[i]);
    for (size_t i = 0; i < (size_t)count * ks_type_bytes(type); i++)
        assert_int_equal(((unsigned char *)array.data)[i], (unsigned char)i);
    npy_free(&array);
}

static void test_reads_what_numpy_writes(void **state)
{
    (void)state;
    const int64_t pair[] = {2, 3};
    for (int major = 1; major <= 3; major++) {
        accept(major, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n", KS_F32, 2, pair);
        accept(major, "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }\n", KS_F16, 2, pair);
        accept(major, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n", KS_F64, 2, pair);
    }
}

static void test_reads_any_spelling(void **state)
{
    (void)state;
    const int64_t pair[] = {2, 3}, one[] = {5}, none[] = {0, 7};
    accept(1, "{'shape':(2,3),'fortran_order':False,'descr':'<f4'}", KS_F32, 2, pair);
    accept(1, "  { \"shape\" : ( 2 , 3 , ) ,\t\"descr\":\"=f4\" , 'fortran_order' : False , }\n\n", KS_F32, 2, pair);
    accept(1, "{'descr': '|f4', 'fortran_order': False, 'shape': (5,)}", KS_F32, 1, one);
    accept(1, "{'descr': 'f4', 'fortran_order': False, 'shape': (5L,)}", KS_F32, 1, one);
    accept(1, "{'descr': '<f4', 'fortran_order': False, 'shape': ()}", KS_F32, 0, NULL);
    accept(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7)}", KS_F32, 2, none);
}

static void test_refuses_types(void **state)
{
    (void)state;
    refuse("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4, "big-endian");
    refuse("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 4, "'<i4'");
    refuse("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8, "'|O'");
    refuse("{'descr': '<V2', 'fortran_order': False, 'shape': (1,), }", 2, "'<V2'");
    refuse("{'descr': '', 'fortran_order': False, 'shape': (1,), }", 2, "''");
    refuse("{'descr': '<', 'fortran_order': False, 'shape': (1,), }", 2, "'<'");
    refuse("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4, "structured");
    refuse("{'descr': 4, 'fortran_order': False, 'shape': (1,), }", 4, "descr");
    refuse("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", 4, "Fortran");
    refuse("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", 4, "True or False");
}

static void test_refuses_shapes(void **state)
{
    (void)state;
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", 4, "','");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': 1, }", 4, "tuple");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 4, "size >= 0");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,), }", 4, "','");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", 4, "size >= 0");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1,,), }", 4, "size >= 0");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }", 4, "2^63");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 4, "2^63");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }", 4, "2^63");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }", 4, "truncated");

    char many[1024] = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
    for (int i = 0; i <= NPY_MAX_RANK; i++) strcat(many, "1,");
    strcat(many, ")}");
    refuse(many, 4, "dimensions");
}

static void test_refuses_headers(void **state)
{
    (void)state;
    refuse("", 0, "'{'");
    refuse("{}", 0, "no key 'descr'");
    refuse("{'descr': '<f4', 'fortran_order': False}", 4, "no key 'shape'");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'extra': 1}", 4, "'extra'");
    refuse("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, "once");
    refuse("{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}", 4, "'}' after a value");
    refuse("{'descr' '<f4', 'fortran_order': False, 'shape': (1,)}", 4, "':'");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", 4, "nothing but spaces");
    refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", 0, "'}'");
    refuse("{'descr': '<f4", 0, "descr");
    refuse("{'des\\x63r': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, "key");
}

static void test_refuses_sizes(void **state)
{
    (void)state;
    static const char header[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
    unsigned char file[FILE_BYTES];
    npy_array array;
    refuse(header, 23, "truncated");
    refuse(header, 25, "too long");
    size_t size = make_file(file, 1, header, 24);
    for (size_t cut = 0; cut < size; cut++) { /* every truncation is refused, and none is read past its end */
        unsigned char *exact = malloc(cut ? cut : 1);
        assert_non_null(exact);
        memcpy(exact, file, cut);
        assert_int_equal(npy_read_memory(exact, cut, "T.npy", &array), KS_ERR_PARSE);
        free(exact);
    }
    file[6] = 4;
    assert_int_equal(npy_read_memory(file, size, "T.npy", &array), KS_ERR_PARSE);
    assert_non_null(strstr(ks_status_message(KS_ERR_PARSE), "4.0"));
    file[6] = 2; /* a four-byte length, which takes the header's first bytes for its upper half */
    assert_int_equal(npy_read_memory(file, size, "T.npy", &array), KS_ERR_PARSE);
    file[0] = 'x';
    assert_int_equal(npy_read_memory(file, size, "T.npy", &array), KS_ERR_PARSE);
    assert_non_null(strstr(ks_status_message(KS_ERR_PARSE), "not a .npy file"));
}

static void test_round_trip(void **state)
{
    const char *path = *state;
    static const ks_type types[] = {KS_F16, KS_F32, KS_F64};
    const int64_t shape[] = {2, 1, 3};
    double data[6] = {1, -2, 3.5, 1e300, 0, -0.0};
    for (int rank = 0; rank <= 3; rank++) {
        for (int t = 0; t < 3; t++) {
            output out;
            npy_array array;
            unsigned char start[10];
            struct stat facts;
            assert_int_equal(output_open(&out, path), KS_OK);
            assert_int_equal(npy_write(&out, types[t], rank, shape, data), KS_OK);
            assert_int_equal(output_commit(&out), KS_OK);
            assert_int_equal(npy_read_file(path, &array), KS_OK);
            assert_int_equal(array.type, types[t]);
            assert_int_equal(array.rank, rank);
            assert_memory_equal(array.shape, shape, (size_t)rank * sizeof *shape);
            assert_memory_equal(array.data, data, (size_t)array.count * ks_type_bytes(types[t]));

            FILE *file = fopen(path, "rb");
            assert_non_null(file);
            assert_int_equal(fread(start, 1, sizeof start, file), sizeof start);
            fclose(file);
            assert_int_equal((10 + start[8] + 256 * start[9]) % 64, 0); /* the data is aligned as NumPy aligns it */
            assert_int_equal(stat(path, &facts), 0);
            assert_int_equal(facts.st_size,
                             10 + start[8] + 256 * start[9] + array.count * (int64_t)ks_type_bytes(types[t]));
            npy_free(&array);
        }
    }
}

static void test_failures_leave_the_old_file(void **state)
{
    const char *path = *state;
    const int64_t shape[] = {1};
    const float one = 1;
    output out;
    npy_array array;
    assert_int_equal(output_open(&out, path), KS_OK);
    assert_int_equal(npy_write(&out, KS_F32, 1, shape, &one), KS_OK);
    assert_int_equal(output_commit(&out), KS_OK);

    assert_int_equal(output_open(&out, path), KS_OK);
    fputs("half of something", out.file);
    char *temporary = strdup(out.temporary);
    output_discard(&out);
    assert_int_not_equal(access(temporary, F_OK), 0);
    free(temporary);
    assert_int_equal(npy_read_file(path, &array), KS_OK);
    npy_free(&array);

    assert_int_equal(output_open(&out, path), KS_OK);
    assert_int_equal(npy_write(&out, KS_BF16, 1, shape, &one), KS_ERR_ARGUMENT);
    output_discard(&out);
    assert_int_equal(output_open(&out, "/nowhere/at/all.npy"), KS_ERR_IO);
    assert_int_equal(output_open(&out, "/"), KS_ERR_IO);
    assert_int_equal(npy_read_file("/", &array), KS_ERR_IO);
    assert_int_equal(npy_read_file("/dev/zero", &array), KS_ERR_IO);
    assert_int_equal(npy_read_file("/nowhere/at/all.npy", &array), KS_ERR_IO);
    assert_non_null(strstr(ks_status_message(KS_ERR_IO), "/nowhere/at/all.npy"));
}

/* Ended by a signal between opening and committing: the process dies of it, and nothing is left. */
static void test_signals_leave_nothing(void **state)
{
    const char *path = *state;
    const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
    unlink(path);
    for (int i = 0; i < 3; i++) {
        int way;
        char left[256];
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            output out;
            if (output_open(&out, path) == KS_OK) raise(deadly[i]);
            _exit(99);
        }
        assert_int_equal(waitpid(child, &way, 0), child);
        assert_true(WIFSIGNALED(way));
        assert_int_equal(WTERMSIG(way), deadly[i]);
        glob_t found;
        snprintf(left, sizeof left, "%s*", path);
        assert_int_equal(glob(left, 0, NULL, &found), GLOB_NOMATCH);
        globfree(&found);
    }
}

/* What cannot be renamed over is written directly, and a full device is a failure. */
static void test_special_files(void **state)
{
    (void)state;
    const int64_t shape[] = {1};
    const float one = 1;
    output out;
    struct stat facts;
    assert_int_equal(output_open(&out, "/dev/null"), KS_OK);
    assert_null(out.temporary);
    assert_int_equal(npy_write(&out, KS_F32, 1, shape, &one), KS_OK);
    assert_int_equal(output_commit(&out), KS_OK);
    assert_int_equal(stat("/dev/null", &facts), 0);
    assert_true(S_ISCHR(facts.st_mode));
    if (access("/dev/full", W_OK) != 0) return;
    assert_int_equal(output_open(&out, "/dev/full"), KS_OK);
    assert_int_equal(npy_write(&out, KS_F32, 1, shape, &one), KS_OK); /* still in the buffer */
    assert_int_equal(output_commit(&out), KS_ERR_IO);
}

static void test_links_stay_links(void **state)
{
    const char *path = *state;
    char link[256];
    struct stat facts;
    output out;
    snprintf(link, sizeof link, "%s.link", path);
    assert_int_equal(output_open(&out, path), KS_OK);
    assert_int_equal(output_commit(&out), KS_OK);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(output_open(&out, link), KS_OK);
    fputs("new", out.file);
    assert_int_equal(output_commit(&out), KS_OK);
    assert_int_equal(lstat(link, &facts), 0);
    assert_true(S_ISLNK(facts.st_mode));
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_size, 3);
    unlink(link);
}

static void test_shape_text(void **state)
{
    (void)state;
    const int64_t shape[] = {3, 4, 5};
    char text[64], small[6];
    assert_string_equal(npy_shape_text(0, shape, text, sizeof text), "()");
    assert_string_equal(npy_shape_text(1, shape, text, sizeof text), "(3,)");
    assert_string_equal(npy_shape_text(3, shape, text, sizeof text), "(3, 4, 5)");
    assert_string_equal(npy_shape_text(3, shape, small, sizeof small), "(3, 4");
}

int main(void)
{
    char directory[] = "/tmp/ksauto-npy-XXXXXX", path[64];
    if (!mkdtemp(directory)) return 1;
    snprintf(path, sizeof path, "%s/a.npy", directory);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_numpy_writes),
        cmocka_unit_test(test_reads_any_spelling),
        cmocka_unit_test(test_refuses_types),
        cmocka_unit_test(test_refuses_shapes),
        cmocka_unit_test(test_refuses_headers),
        cmocka_unit_test(test_refuses_sizes),
        cmocka_unit_test_prestate(test_round_trip, path),
        cmocka_unit_test_prestate(test_failures_leave_the_old_file, path),
        cmocka_unit_test_prestate(test_signals_leave_nothing, path),
        cmocka_unit_test(test_special_files),
        cmocka_unit_test_prestate(test_links_stay_links, path),
        cmocka_unit_test(test_shape_text),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(directory);
    return failed;
}
