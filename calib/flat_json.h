/* JSON of which arrays of numbers are the bulk, as models are: read without a node for every number. */
#ifndef KS_FLAT_JSON_H
#define KS_FLAT_JSON_H

#include "ksauto.h"
#include <cjson/cJSON.h>
#include <stddef.h>

typedef struct ks_flat_json {
    cJSON *root;
    double *values; /* of all arrays that hold nothing but numbers and nulls, one after the other; NaN for null */
    size_t *starts; /* where in them each array starts; one more than there are arrays: the last is their end */
    size_t arrays;
} ks_flat_json;

/* Numbers have a point, whatever the locale. KS_ERR_PARSE if it is not JSON, KS_ERR_MEMORY. To be freed after failures, too. */
ks_status ks_flat_json_parse(ks_flat_json *flat, const char *text);
void ks_flat_json_free(ks_flat_json *flat);

/* What an array of exactly `count` numbers and nulls holds; NULL if the item (NULL is allowed) is no such array. */
const double *ks_flat_json_row(const ks_flat_json *flat, const cJSON *item, int count);

#endif
