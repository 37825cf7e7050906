/* A directory of its own for every test of files, and looking at files whole. For tests of db/ and of the tools. */
#ifndef KS_SANDBOX_H
#define KS_SANDBOX_H

#include "ksauto.h"
#include <sys/types.h>

/* cmocka setup and teardown: *state is the directory's path (char *). What is in it goes with it. */
int sandbox_enter(void **state);
int sandbox_leave(void **state);

/* DIR/NAME in one of eight rotating buffers. */
const char *sandbox_path(void *const *state, const char *name);

/* The whole file, NUL-terminated; to be freed. Fails the test if it cannot be read. */
char *file_read(const char *path, size_t *bytes);
void file_write(const char *path, const void *text, size_t bytes);
/* Overwrites bytes in the middle of a file. */
void file_patch(const char *path, off_t at, const void *bytes, size_t count);
void file_assert_equal(const char *path, const char *text, size_t bytes);

/* That status is as expected and that its message holds each of the (up to two, else NULL) parts. */
void assert_failure(ks_status status, ks_status expected, const char *part, const char *other_part);

#endif
