/* Files that appear whole or not at all: written beside their place under a temporary name, then renamed. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "ksauto.h"
#include <stdio.h>

typedef struct output {
    FILE *file;      /* write here */
    char *path;      /* where it goes in the end */
    char *temporary; /* NULL: path is no regular file (a pipe, /dev/null) and is written directly */
} output;

/* Opens an output for path. KS_ERR_IO names path and why not. One output at a time is removed when SIGINT, SIGTERM or
 * SIGHUP ends the process. */
ks_status output_open(output *out, const char *path);

/* Flushes, closes and renames; on failure (KS_ERR_IO: a full disk, say) nothing is left, and path is as it was. */
ks_status output_commit(output *out);

/* Closes and removes; nothing to do after output_commit, after a failed output_open, or on a zeroed output. */
void output_discard(output *out);

#endif
