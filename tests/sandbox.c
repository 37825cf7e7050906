/* Making and removing the directory, and files read and written whole; a failure fails the test at hand. */
#include "sandbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sandbox_enter(void **state)
{
    const char *tmp = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/ksauto-test-XXXXXX", tmp && *tmp ? tmp : "/tmp") < 0 || !mkdtemp(path)) return -1;
    *state = path;
    return 0;
}

static int remove_one(const char *path, const struct stat *facts, int kind, struct FTW *at)
{
    (void)facts, (void)kind, (void)at;
    return remove(path);
}

int sandbox_leave(void **state)
{
    int rc = nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return rc;
}

const char *sandbox_path(void *const *state, const char *name)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", (const char *)*state, name);
    return path;
}

char *file_read(const char *path, size_t *bytes)
{
    FILE *in = fopen(path, "rb");
    struct stat facts;
    assert_non_null(in);
    assert_int_equal(fstat(fileno(in), &facts), 0);
    char *text = malloc((size_t)facts.st_size + 1);
    assert_non_null(text);
    *bytes = fread(text, 1, (size_t)facts.st_size, in);
    assert_int_equal(*bytes, facts.st_size);
    text[*bytes] = '\0';
    fclose(in);
    return text;
}

void file_write(const char *path, const void *text, size_t bytes)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, bytes, out), bytes);
    assert_int_equal(fclose(out), 0);
}

void file_patch(const char *path, off_t at, const void *bytes, size_t count)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(pwrite(file, bytes, count, at), count);
    assert_int_equal(close(file), 0);
}

void file_assert_equal(const char *path, const char *text, size_t bytes)
{
    size_t now;
    char *read = file_read(path, &now);
    assert_int_equal(now, bytes);
    assert_memory_equal(read, text, bytes);
    free(read);
}

void assert_failure(ks_status status, ks_status expected, const char *part, const char *other_part)
{
    const char *message = ks_status_message(status);
    if (status != expected)
        fail_msg("%s where %s was expected: %s", ks_status_name(status), ks_status_name(expected), message);
    if (part && !strstr(message, part)) fail_msg("\"%s\" does not name \"%s\"", message, part);
    if (other_part && !strstr(message, other_part)) fail_msg("\"%s\" does not name \"%s\"", message, other_part);
}
