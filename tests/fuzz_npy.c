/* libFuzzer entry over the .npy reader: whatever the bytes, it returns a whole array or a status, and what it returns can
 * be read to its end. Build with -fsanitize=fuzzer,address,undefined; seeds are any .npy files. */
#include "npy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    npy_array array;
    ks_status status = npy_read_memory(bytes, size, "fuzz", &array);
    if (status == KS_OK) {
        size_t data_bytes = (size_t)array.count * ks_type_bytes(array.type);
        unsigned sum = 0;
        if (data_bytes > size || array.rank > NPY_MAX_RANK) abort();
        for (size_t i = 0; i < data_bytes; i++) sum += ((unsigned char *)array.data)[i];
        if (sum == 1u << 31) abort(); /* cannot be: keeps the reads above from being optimised away */
        npy_free(&array);
    } else if (status != KS_ERR_PARSE && status != KS_ERR_MEMORY) {
        abort();
    }
    return 0;
}
