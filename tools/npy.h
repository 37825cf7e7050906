/* NumPy's .npy files: one array, its type and shape in a header that is the text of a Python dict. Versions 1.0, 2.0 and
 * 3.0, C order, little-endian float16, float32 and float64 (there is no bfloat16 in NumPy). */
#ifndef NPY_H
#define NPY_H

#include "ksauto.h"
#include "output.h"

enum { NPY_MAX_RANK = 64 }; /* NumPy 2's own limit */

typedef struct npy_array {
    ks_type type; /* KS_F16, KS_F32 or KS_F64 */
    int rank;
    int64_t shape[NPY_MAX_RANK];
    int64_t count; /* product of shape; 1 for rank 0 */
    void *data;    /* count elements; malloc'ed */
} npy_array;

/* Reads an array; name is how messages call it. KS_ERR_PARSE for what is not such a file, is truncated or too long;
 * KS_ERR_IO if it cannot be read, KS_ERR_MEMORY. Sizes are checked against the file's before memory is taken. On
 * failure *array is zeroed. */
ks_status npy_read_file(const char *path, npy_array *array);
ks_status npy_read_memory(const void *bytes, size_t size, const char *name, npy_array *array);
void npy_free(npy_array *array);

/* Writes header and data to an open output; the caller commits. */
ks_status npy_write(output *out, ks_type type, int rank, const int64_t *shape, const void *data);

/* "(3, 4)", "(3,)", "()" as Python writes a shape; cut short to fit. Returns text. */
const char *npy_shape_text(int rank, const int64_t *shape, char *text, size_t size);

#endif
