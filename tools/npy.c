/* NumPy's .npy files.
 *
 * A file is the magic string "\x93NUMPY", a version (major, minor), the header's length (two bytes in version 1, four
 * from 2 on, little-endian), the header, and the data. The header is the text of a Python dict with exactly the keys
 * descr, fortran_order and shape. It may come from anybody, so the parser below takes the few literals that can occur
 * (strings, True, False, tuples of integers) in any order and spacing, and believes no size before it has been held
 * against the file's. It works on memory, where a fuzzer can reach it; reading a file is reading its header into
 * memory first and its data after.
 *
 * Mapping the file instead of reading it was considered: a file cut short by someone else in the meantime would then
 * end the command with SIGBUS instead of a message. */
#include "npy.h"

#include "error.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#    error "npy.c copies little-endian data as it is: a big-endian host needs a byte swap here"
#endif

static const char magic[] = "\x93NUMPY";
enum {
    MAGIC_BYTES = 6,
    PREAMBLE_BYTES = 12,     /* magic, version, the longer of the two lengths */
    MAX_HEADER_BYTES = 65536 /* what a shape of 64 numbers needs is below 2000; NumPy stops at 10000 */
};

static const struct {
    const char *descr; /* without the byte order */
    ks_type type;
} known_types[] = {{"f2", KS_F16}, {"f4", KS_F32}, {"f8", KS_F64}};
#define VALID_TYPES "'<f2', '<f4' or '<f8' (little-endian float16, float32, float64)"

/* ---- The header's text ---- */

typedef struct cursor {
    const char *at, *end;
    const char *name; /* of the file */
} cursor;

static void skip_space(cursor *c)
{
    while (c->at < c->end && memchr(" \t\r\n\f\v", *c->at, 6)) c->at++;
}

/* Takes the character if it comes next. */
static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (c->at == c->end || *c->at != wanted) return false;
    c->at++;
    return true;
}

static bool take_word(cursor *c, const char *word)
{
    size_t length = strlen(word);
    skip_space(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0) return false;
    c->at += length;
    return true;
}

/* The text from here on, made printable, for messages. */
static const char *excerpt(const cursor *c, char *text, size_t size)
{
    size_t used = 0;
    for (const char *p = c->at; p < c->end && *p != '\n' && used + 1 < size; p++)
        text[used++] = isprint((unsigned char)*p) ? *p : '?';
    text[used] = '\0';
    return used ? text : "its end";
}

static ks_status expected(const cursor *c, const char *what)
{
    char found[40];
    return ks_fail(KS_ERR_PARSE, "%s: .npy header: expected %s, found: %s", c->name, what,
                   excerpt(c, found, sizeof found));
}

/* A Python string without escapes, which neither keys nor the types read here have. */
static ks_status read_string(cursor *c, const char *what, char *text, size_t size)
{
    cursor start = *c;
    char quote = '\'';
    skip_space(&start);
    if (!take(c, '\'')) {
        if (!take(c, '"')) return expected(c, what);
        quote = '"';
    }
    size_t length = 0;
    while (c->at + length < c->end && c->at[length] != quote) length++;
    if (c->at + length == c->end || length >= size || memchr(c->at, '\\', length) || memchr(c->at, '\0', length))
        return expected(&start, what);
    memcpy(text, c->at, length);
    text[length] = '\0';
    c->at += length + 1;
    return KS_OK;
}

static ks_status read_type(cursor *c, npy_array *array)
{
    static const char what[] = "descr " VALID_TYPES;
    char descr[32];
    skip_space(c);
    if (c->at < c->end && (*c->at == '[' || *c->at == '('))
        return ks_fail(KS_ERR_PARSE, "%s: has a structured dtype; valid: %s", c->name, VALID_TYPES);
    ks_status status = read_string(c, what, descr, sizeof descr);
    if (status != KS_OK) return status;

    /* '=' is this host's order, '|' says that order does not matter; NumPy takes both for '<' here, and no mark too. */
    const char *kind = descr + (*descr && strchr("<=|>", *descr) ? 1 : 0);
    for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++) {
        if (strcmp(kind, known_types[i].descr) != 0) continue;
        if (*descr == '>')
            return ks_fail(KS_ERR_PARSE, "%s: dtype '%s' is big-endian; valid: %s", c->name, descr, VALID_TYPES);
        array->type = known_types[i].type;
        return KS_OK;
    }
    for (char *p = descr; *p; p++) {
        if (!isprint((unsigned char)*p)) *p = '?';
    }
    return ks_fail(KS_ERR_PARSE, "%s: dtype '%s' is not supported; valid: %s", c->name, descr, VALID_TYPES);
}

static ks_status read_order(cursor *c)
{
    if (take_word(c, "False")) return KS_OK;
    if (take_word(c, "True"))
        return ks_fail(KS_ERR_PARSE, "%s: is in Fortran order; valid: C order (save numpy.ascontiguousarray of it)",
                       c->name);
    return expected(c, "True or False after 'fortran_order'");
}

static ks_status read_size(cursor *c, int64_t *size)
{
    cursor start = *c;
    int64_t value = 0;
    int digits = 0;
    skip_space(c);
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++, digits++) {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *c->at - '0', &value))
            return expected(&start, "a size below 2^63 in 'shape'");
    }
    if (digits == 0) return expected(&start, "a size >= 0 in 'shape'");
    if (c->at < c->end && *c->at == 'L') c->at++; /* Python 2's long integers */
    *size = value;
    return KS_OK;
}

/* "()", "(3,)", "(3, 4)", "(3, 4,)"; but not "(3)", which in Python is no tuple. */
static ks_status read_shape(cursor *c, npy_array *array)
{
    if (!take(c, '(')) return expected(c, "a tuple such as (3, 4) after 'shape'");
    array->rank = 0;
    while (!take(c, ')')) {
        if (array->rank == NPY_MAX_RANK)
            return ks_fail(KS_ERR_PARSE, "%s: has more than %d dimensions", c->name, (int)NPY_MAX_RANK);
        ks_status status = read_size(c, &array->shape[array->rank]);
        if (status != KS_OK) return status;
        array->rank++;
        if (take(c, ',')) continue;
        skip_space(c);
        if (array->rank < 2 || c->at == c->end || *c->at != ')') return expected(c, "',' in 'shape'");
    }
    return KS_OK;
}

static ks_status read_dict(cursor *c, npy_array *array)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    bool seen[3] = {false};
    if (!take(c, '{')) return expected(c, "'{'");
    while (!take(c, '}')) {
        char key[32];
        cursor start = *c;
        ks_status status = read_string(c, "a key: 'descr', 'fortran_order' or 'shape'", key, sizeof key);
        if (status != KS_OK) return status;
        int which = 0;
        while (which < 3 && strcmp(key, keys[which]) != 0) which++;
        if (which == 3) return expected(&start, "'descr', 'fortran_order' or 'shape'");
        if (seen[which]) return expected(&start, "each key once");
        seen[which] = true;
        if (!take(c, ':')) return expected(c, "':' after a key");
        status = which == 0 ? read_type(c, array) : which == 1 ? read_order(c) : read_shape(c, array);
        if (status != KS_OK) return status;
        skip_space(c);
        if (!take(c, ',') && (c->at == c->end || *c->at != '}')) return expected(c, "',' or '}' after a value");
    }
    for (int i = 0; i < 3; i++) {
        if (!seen[i]) return ks_fail(KS_ERR_PARSE, "%s: .npy header: has no key '%s'", c->name, keys[i]);
    }
    skip_space(c);
    return c->at == c->end ? KS_OK : expected(c, "nothing but spaces after '}'");
}

/* ---- The file around it ---- */

/* From the first bytes of a file (PREAMBLE_BYTES of them, or all there are) to where header and data begin. */
static ks_status read_preamble(const unsigned char *bytes, size_t size, int64_t file_bytes, const char *name,
                               size_t *header_at, size_t *data_at)
{
    if (size < MAGIC_BYTES || memcmp(bytes, magic, MAGIC_BYTES) != 0)
        return ks_fail(KS_ERR_PARSE, "%s: is not a .npy file: does not begin with \"\\x93NUMPY\"", name);
    if (size < 8)
        return ks_fail(KS_ERR_PARSE, "%s: is truncated after %zu bytes, inside the .npy header", name, size);
    unsigned major = bytes[6], minor = bytes[7];
    if (major < 1 || major > 3 || minor != 0)
        return ks_fail(KS_ERR_PARSE, "%s: .npy version %u.%u; valid: 1.0, 2.0, 3.0", name, major, minor);
    *header_at = major == 1 ? 10 : 12;
    if (size < *header_at)
        return ks_fail(KS_ERR_PARSE, "%s: is truncated after %zu bytes, inside the .npy header", name, size);
    size_t length = bytes[8] | (size_t)bytes[9] << 8;
    if (major > 1) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    *data_at = *header_at + length;
    if ((uint64_t)*data_at > (uint64_t)file_bytes)
        return ks_fail(KS_ERR_PARSE, "%s: is truncated: its header takes %zu bytes, the file has %" PRId64, name,
                       *data_at, file_bytes);
    if (length > MAX_HEADER_BYTES)
        return ks_fail(KS_ERR_PARSE, "%s: .npy header of %zu bytes; valid: up to %d", name, length,
                       (int)MAX_HEADER_BYTES);
    return KS_OK;
}

/* Reads type and shape, and holds the array's size against the file's. */
static ks_status read_header(const char *header, size_t length, const char *name, int64_t data_bytes,
                             npy_array *array)
{
    cursor c = {header, header + length, name};
    char shape[128];
    int64_t bytes;
    ks_status status = read_dict(&c, array);
    if (status != KS_OK) return status;

    npy_shape_text(array->rank, array->shape, shape, sizeof shape);
    array->count = 1;
    bool overflow = false;
    for (int i = 0; i < array->rank; i++)
        overflow |= __builtin_mul_overflow(array->count, array->shape[i], &array->count);
    overflow |= __builtin_mul_overflow(array->count, (int64_t)ks_type_bytes(array->type), &bytes);
    if (overflow) return ks_fail(KS_ERR_PARSE, "%s: shape %s has more than 2^63 bytes", name, shape);
    if (bytes != data_bytes)
        return ks_fail(
            KS_ERR_PARSE, "%s: is %s: shape %s of %s takes %" PRId64 " bytes of data, the file has %" PRId64, name,
            data_bytes < bytes ? "truncated" : "too long", shape, ks_type_name(array->type), bytes, data_bytes);
    return KS_OK;
}

static ks_status take_memory(npy_array *array, const char *name, size_t *bytes)
{
    *bytes = (size_t)array->count * ks_type_bytes(array->type);
    array->data = malloc(*bytes ? *bytes : 1);
    return array->data ? KS_OK : ks_fail(KS_ERR_MEMORY, "%s: no memory for its %zu bytes", name, *bytes);
}

ks_status npy_read_memory(const void *bytes, size_t size, const char *name, npy_array *array)
{
    size_t header_at = 0, data_at = 0, data_bytes = 0;
    *array = (npy_array){0};
    ks_status status = read_preamble(bytes, size, (int64_t)size, name, &header_at, &data_at);
    if (status == KS_OK)
        status =
            read_header((const char *)bytes + header_at, data_at - header_at, name, (int64_t)(size - data_at), array);
    if (status == KS_OK) status = take_memory(array, name, &data_bytes);
    if (status == KS_OK)
        memcpy(array->data, (const char *)bytes + data_at, data_bytes);
    else
        *array = (npy_array){0};
    return status;
}

/* read(2) until size bytes are there, or the file ends. */
static ks_status read_fully(int file, const char *name, void *bytes, size_t size, size_t *got)
{
    *got = 0;
    while (*got < size) {
        size_t want = size - *got < (1u << 30) ? size - *got : 1u << 30;
        ssize_t n = read(file, (char *)bytes + *got, want);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ks_fail(KS_ERR_IO, "%s: cannot be read: %s", name, strerror(errno));
        if (n == 0) break;
        *got += (size_t)n;
    }
    return KS_OK;
}

ks_status npy_read_file(const char *path, npy_array *array)
{
    unsigned char preamble[PREAMBLE_BYTES];
    char *header = NULL;
    size_t got = 0, header_at = 0, data_at = 0, length, data_bytes = 0;
    struct stat facts;
    ks_status status;
    *array = (npy_array){0};

    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* so that a fifo without a writer does not hang */
    if (file < 0 || fstat(file, &facts) != 0) {
        status = ks_fail(KS_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(facts.st_mode)) {
        status = ks_fail(KS_ERR_IO, "%s: is a %s; valid: a regular file", path,
                         S_ISDIR(facts.st_mode) ? "directory" : "device or pipe");
        goto done;
    }
    status = read_fully(file, path, preamble, sizeof preamble, &got);
    if (status == KS_OK) status = read_preamble(preamble, got, facts.st_size, path, &header_at, &data_at);
    if (status != KS_OK) goto done;

    length = data_at - header_at;
    header = malloc(length ? length : 1);
    if (!header) {
        status = ks_fail(KS_ERR_MEMORY, "%s: no memory for its header of %zu bytes", path, length);
        goto done;
    }
    if (lseek(file, (off_t)header_at, SEEK_SET) < 0) {
        status = ks_fail(KS_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
        goto done;
    }
    status = read_fully(file, path, header, length, &got);
    if (status == KS_OK) status = read_header(header, got, path, facts.st_size - (int64_t)data_at, array);
    if (status == KS_OK) status = take_memory(array, path, &data_bytes);
    if (status == KS_OK) status = read_fully(file, path, array->data, data_bytes, &got);
    if (status == KS_OK && got != data_bytes)
        status = ks_fail(KS_ERR_IO, "%s: became shorter while it was read", path);

done:
    if (status != KS_OK) npy_free(array);
    if (file >= 0) close(file);
    free(header);
    return status;
}

void npy_free(npy_array *array)
{
    free(array->data);
    *array = (npy_array){0};
}

const char *npy_shape_text(int rank, const int64_t *shape, char *text, size_t size)
{
    size_t used = 0;
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? ", " : "(", shape[i]);
    if (used < size) snprintf(text + used, size - used, "%s", rank == 0 ? "()" : rank == 1 ? ",)" : ")");
    return text;
}

ks_status npy_write(output *out, ks_type type, int rank, const int64_t *shape, const void *data)
{
    char dims[NPY_MAX_RANK * 22 + 4], header[NPY_MAX_RANK * 22 + 128];
    const char *descr = NULL;
    size_t bytes = ks_type_bytes(type);
    for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++) {
        if (known_types[i].type == type) descr = known_types[i].descr;
    }
    if (!descr || rank < 0 || rank > NPY_MAX_RANK)
        return ks_fail(KS_ERR_ARGUMENT, "no .npy file holds type %s with %d dimensions",
                       ks_type_name(type) ? ks_type_name(type) : "?", rank);
    for (int i = 0; i < rank; i++) bytes *= (size_t)shape[i];

    npy_shape_text(rank, shape, dims, sizeof dims);
    int length =
        snprintf(header, sizeof header, "{'descr': '<%s', 'fortran_order': False, 'shape': %s, }", descr, dims);
    int padded = (10 + length + 1 + 63) / 64 * 64 - 10; /* the data begins at a multiple of 64, after a newline */
    unsigned char start[10] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)padded, (unsigned char)(padded >> 8)};
    fwrite(start, 1, sizeof start, out->file);
    fprintf(out->file, "%-*s\n", padded - 1, header);
    fwrite(data, 1, bytes, out->file);
    if (ferror(out->file)) return ks_fail(KS_ERR_IO, "%s: cannot be written: %s", out->path, strerror(errno));
    return KS_OK;
}
