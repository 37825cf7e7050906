/* CSV as records: RFC 4180 turned into rows of strings, and numbers in and out that no locale can bend. What the
 * columns mean is csv.c's. Internal to db/. */
#ifndef KS_RECORDS_H
#define KS_RECORDS_H

#include "ksauto.h"
#include <stdio.h>

enum { KS_MAX_FIELDS = 64, KS_MAX_FIELD_BYTES = 1 << 16, KS_MAX_CSV_BYTES = 1 << 28 };

typedef struct ks_records {
    const char *name; /* of the file, for messages */
    char *text;       /* the whole input, owned; fields are cut out of it in place */
    size_t bytes, at;
    int64_t line;      /* at which the current row begins, from 1 */
    int64_t next_line; /* at which the next one does */
    int count;
    char *fields[KS_MAX_FIELDS];
    int header_count;
    char *header[KS_MAX_FIELDS];
} ks_records;

/* Take the input, skip a byte order mark and read the header. Names must outlive the records. Close after failures
 * too. KS_ERR_IO, KS_ERR_MEMORY, or KS_ERR_PARSE ("NAME:LINE: ..."). */
ks_status ks_records_open_text(ks_records *r, const char *text, size_t bytes, const char *name);
ks_status ks_records_open(ks_records *r, FILE *in, const char *name);
void ks_records_close(ks_records *r);

/* *got: whether there was another row. Blank lines are none. Its fields have no NUL inside and live until the next. */
ks_status ks_records_next(ks_records *r, bool *got);

/* The place of each column: at[i] of names[i], -1 if absent. The first `required` must be there, and none twice. */
ks_status ks_records_columns(const ks_records *r, const char *const *names, int count, int required, int *at);

/* "NAME:LINE: COLUMN \"VALUE\" what"; a long or unprintable value is shown in part. */
ks_status ks_records_fail(const ks_records *r, const char *column, const char *value, const char *what);

bool ks_text_to_int(const char *text, int64_t *out);     /* decimal digits alone, after an optional '-' */
bool ks_text_to_real(const char *text, double *out);     /* a finite decimal number */
const char *ks_real_to_text(double value, char out[32]); /* shortest that reads back the same; "" for NaN */

#endif
