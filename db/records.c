/* CSV as records: a reader for RFC 4180 with what people's tools add to it (byte order marks, either line end, blanks
 * around values, a last line without an end) and without what they break (NUL bytes, quotes in the middle, unclosed
 * quotes, rows of another length): those are refused with the line, since a guess would put numbers into wrong columns.
 *
 * The input is taken whole and cut up in place: tables of measurements are small, and all-or-nothing needs the whole
 * anyway. The C library's number functions follow the process's locale, which is the caller's business and may use a
 * decimal comma; hence the ones with an explicit locale. */
#include "records.h"
#include "error.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- numbers ----------------------------------------------------------------------------------------------- */

bool ks_text_to_int(const char *text, int64_t *out)
{
    const char *digits = text + (*text == '-');
    if (!*digits || digits[strspn(digits, "0123456789")]) return false;
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno) return false;
    *out = value;
    return true;
}

bool ks_text_to_real(const char *text, double *out)
{
    char *end;
    /* strtod also takes blanks, hexadecimal, "inf" and "nan" */
    if (!*text || text[strspn(text, "0123456789+-.eE")]) return false;
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0); /* glibc hands out a static one */
    if (!c) return false;
    double value = strtod_l(text, &end, c);
    freelocale(c);
    if (*end || !isfinite(value)) return false;
    *out = value;
    return true;
}

const char *ks_real_to_text(double value, char out[32])
{
    *out = '\0';
    if (isnan(value)) return out;
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!c) return out;
    locale_t before = uselocale(c);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, value);
        if (strtod_l(out, NULL, c) == value) break;
    }
    uselocale(before);
    freelocale(c);
    return out;
}

/* --- failures ---------------------------------------------------------------------------------------------- */

/* The value as it may stand in a message: on one line and not too long. */
static const char *shown(const char *value, char out[72])
{
    size_t i = 0;
    for (; value[i] && i < 60; i++) out[i] = (unsigned char)value[i] < ' ' || value[i] == 0x7f ? '?' : value[i];
    strcpy(out + i, value[i] ? "..." : "");
    return out;
}

ks_status ks_records_fail(const ks_records *r, const char *column, const char *value, const char *what)
{
    char text[72];
    return ks_fail(KS_ERR_PARSE, "%s:%lld: %s \"%s\" %s", r->name, (long long)r->line, column, shown(value, text),
                   what);
}

static ks_status fail_line(const ks_records *r, int64_t line, const char *what)
{
    return ks_fail(KS_ERR_PARSE, "%s:%lld: %s", r->name, (long long)line, what);
}

/* --- cutting rows into fields ------------------------------------------------------------------------------ */

/* A quoted field: its text moves down over the opening and the doubled quotes. */
static ks_status cut_quoted(ks_records *r, char **field)
{
    int64_t opened = r->next_line;
    char *to = *field = r->text + r->at;
    for (r->at++;; r->at++) {
        if (r->at >= r->bytes) return fail_line(r, opened, "a quoted field is never closed");
        char c = r->text[r->at];
        if (c == '\0') return fail_line(r, r->next_line, "there is a NUL byte");
        if (c == '"') {
            if (r->at + 1 >= r->bytes || r->text[r->at + 1] != '"') break;
            r->at++;
        }
        if (c == '\n') r->next_line++;
        if (to - *field >= KS_MAX_FIELD_BYTES) return fail_line(r, opened, "a field is longer than 65536 bytes");
        *to++ = c;
    }
    r->at++; /* past the closing quote; what follows is for the caller to judge */
    *to = '\0';
    return KS_OK;
}

static ks_status cut_plain(ks_records *r, char **field)
{
    char *start = r->text + r->at;
    size_t length = 0;
    for (; r->at + length < r->bytes; length++) {
        char c = start[length];
        if (c == ',' || c == '\n' || (c == '\r' && r->at + length + 1 < r->bytes && start[length + 1] == '\n')) break;
        if (c == '\0') return fail_line(r, r->next_line, "there is a NUL byte");
        if (c == '"') return fail_line(r, r->next_line, "there is a quote inside an unquoted field");
        if (c == '\r' && r->at + length + 1 < r->bytes)
            return fail_line(r, r->next_line, "there is a carriage return inside a line");
        if (length >= KS_MAX_FIELD_BYTES) return fail_line(r, r->next_line, "a field is longer than 65536 bytes");
    }
    r->at += length;
    while (length > 0 && (*start == ' ' || *start == '\t')) start++, length--;
    while (length > 0 && strchr(" \t\r", start[length - 1])) length--;
    *field = start;
    start[length] = '\0'; /* on the separator or before it: ended() looks at a copy */
    return KS_OK;
}

/* One row, blank or not. text has a spare byte at its end, so that the last field can be terminated. */
static ks_status cut_row(ks_records *r)
{
    ks_status status;
    r->count = 0;
    r->line = r->next_line;
    for (;;) {
        char *field = NULL, separator;
        if (r->count == KS_MAX_FIELDS) return fail_line(r, r->line, "there are more than 64 fields");
        if (r->at < r->bytes && r->text[r->at] == '"') {
            if ((status = cut_quoted(r, &field)) != KS_OK) return status;
            if (r->at + 1 < r->bytes && r->text[r->at] == '\r' && r->text[r->at + 1] == '\n') r->at++;
            separator = r->at < r->bytes ? r->text[r->at] : '\n';
            if (separator != ',' && separator != '\n')
                return fail_line(r, r->next_line, "there is text after a closing quote");
        } else {
            /* the separator is looked for first: terminating the field overwrites it */
            size_t end = r->at;
            while (end < r->bytes && r->text[end] != ',' && r->text[end] != '\n') end++;
            separator = end < r->bytes ? r->text[end] : '\n';
            if ((status = cut_plain(r, &field)) != KS_OK) return status;
            r->at = end;
        }
        r->fields[r->count++] = field;
        if (r->at < r->bytes) r->at++;
        if (separator == '\n') break;
    }
    r->next_line++;
    return KS_OK;
}

static bool is_blank(const ks_records *r)
{
    return r->count == 1 && !*r->fields[0];
}

ks_status ks_records_next(ks_records *r, bool *got)
{
    char text[96];
    *got = false;
    while (r->at < r->bytes) {
        ks_status status = cut_row(r);
        if (status != KS_OK) return status;
        if (is_blank(r)) continue;
        if (r->header_count > 0 && r->count != r->header_count) {
            snprintf(text, sizeof text, "there are %d fields, the header has %d", r->count, r->header_count);
            return fail_line(r, r->line, text);
        }
        *got = true;
        return KS_OK;
    }
    return KS_OK;
}

/* --- taking the input -------------------------------------------------------------------------------------- */

static ks_status read_header(ks_records *r)
{
    bool got;
    if (r->bytes >= 3 && memcmp(r->text, "\xEF\xBB\xBF", 3) == 0) r->at = 3;
    ks_status status = ks_records_next(r, &got);
    if (status != KS_OK) return status;
    if (!got) return fail_line(r, 1, "there is no header line");
    r->header_count = r->count;
    memcpy(r->header, r->fields, sizeof r->header);
    return KS_OK;
}

ks_status ks_records_open_text(ks_records *r, const char *text, size_t bytes, const char *name)
{
    *r = (ks_records){.name = name, .next_line = 1, .line = 1};
    if (bytes > KS_MAX_CSV_BYTES) return ks_fail(KS_ERR_PARSE, "%s:1: is larger than 256 MiB", name);
    r->text = malloc(bytes + 1);
    if (!r->text) return ks_fail(KS_ERR_MEMORY, "%s: no memory for %zu bytes", name, bytes);
    if (bytes > 0) memcpy(r->text, text, bytes);
    r->text[bytes] = '\0';
    r->bytes = bytes;
    return read_header(r);
}

ks_status ks_records_open(ks_records *r, FILE *in, const char *name)
{
    size_t room = 1 << 16;
    *r = (ks_records){.name = name, .next_line = 1, .line = 1};
    r->text = malloc(room);
    if (!r->text) return ks_fail(KS_ERR_MEMORY, "%s: no memory", name);
    for (;;) {
        errno = 0;
        size_t read = fread(r->text + r->bytes, 1, room - 1 - r->bytes, in);
        if (read == 0 && ferror(in)) return ks_fail(KS_ERR_IO, "%s: cannot be read: %s", name, strerror(errno));
        /* the row with the NUL will be refused: no need to read on, perhaps for ever (/dev/zero) */
        bool nul = memchr(r->text + r->bytes, '\0', read) != NULL;
        r->bytes += read;
        if (read == 0 || nul) break;
        if (r->bytes > KS_MAX_CSV_BYTES) return ks_fail(KS_ERR_PARSE, "%s:1: is larger than 256 MiB", name);
        if (r->bytes == room - 1) {
            char *more = realloc(r->text, room * 2);
            if (!more) return ks_fail(KS_ERR_MEMORY, "%s: no memory for %zu bytes", name, room * 2);
            r->text = more;
            room *= 2;
        }
    }
    r->text[r->bytes] = '\0';
    return read_header(r);
}

void ks_records_close(ks_records *r)
{
    free(r->text);
    r->text = NULL;
}

/* Says what the whole header should be: who has another kind of file lacks more than one column. */
static ks_status fail_missing(const ks_records *r, const char *const *names, int required, const char *missing)
{
    char what[256] = "is missing in the header, which must have ";
    for (int i = 0; i < required; i++) {
        const size_t used = strlen(what);
        snprintf(what + used, sizeof what - used, "%s%s", i ? "," : "", names[i]);
    }
    return ks_records_fail(r, "column", missing, what);
}

ks_status ks_records_columns(const ks_records *r, const char *const *names, int count, int required, int *at)
{
    for (int i = 0; i < count; i++) {
        at[i] = -1;
        for (int j = 0; j < r->header_count; j++) {
            if (strcmp(r->header[j], names[i]) != 0) continue;
            if (at[i] >= 0) return ks_records_fail(r, "column", names[i], "appears twice in the header");
            at[i] = j;
        }
        if (at[i] < 0 && i < required) return fail_missing(r, names, required, names[i]);
    }
    return KS_OK;
}
