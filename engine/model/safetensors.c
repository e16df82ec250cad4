/* engine/model/safetensors.c - see safetensors.h.
 *
 *     u64 header bytes | {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [from, to]}, ..}
 *     tensor data, offsets from here */
#include "config.h"

#include "engine/model/safetensors.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "engine/model/json.h"

/* About 9 per tensor. */
#define MAX_HEADER_ITEMS (4u << 20)
#define MAX_SHAPE_DIMS 8
#define LENGTH_BYTES 8

static const struct {
    const char *name;
    int32_t type; /* -1: known to the format, not served */
} dtypes[] = {
    {"F32", TT_F32}, {"F16", TT_F16}, {"BF16", TT_BF16}, {"I32", TT_I32}, {"F64", -1},
    {"I64", -1},     {"I16", -1},     {"I8", -1},        {"U64", -1},     {"U32", -1},
    {"U16", -1},     {"U8", -1},      {"BOOL", -1},      {"F8_E4M3", TT_F8_E4M3}, {"F8_E5M2", -1},
    {"F8_E8M0", -1}, {"F4", -1},      {"F6_E2M3", -1},   {"F6_E3M2", -1}, {"C64", -1},
};
#define N_DTYPES (sizeof(dtypes) / sizeof(dtypes[0]))

static int bad(const struct tix_entry *t, struct err *e, const char *what)
{
    return err_set_param(e, ERR_FORMAT, t->t.name, "%s: tensor %s: %s", t->map->label, t->t.name,
                         what);
}

/* An integer 0..2^53 of a JSON array; false otherwise. */
static bool whole(const cJSON *v, uint64_t *ret)
{
    double d = cJSON_GetNumberValue(v); /* NaN when v is no number */
    if (!(d >= 0 && d <= 0x1p53) || floor(d) != d)
        return false;
    *ret = (uint64_t)d;
    return true;
}

static int member(const struct tix_entry *t, const cJSON *o, const char *key, const cJSON **ret,
                  struct err *e)
{
    if (json__get(o, key, ret) < 0 || !*ret)
        return err_set_param(e, ERR_FORMAT, t->t.name, "%s: tensor %s: %s is missing or there twice",
                             t->map->label, t->t.name, key);
    return 0;
}

/* Reads shape into t (ne order); *ret_fits false when it has too many dimensions, *ret_empty true
 * when one of them is 0. */
static int read_shape(struct tix_entry *t, const cJSON *shape, bool *ret_fits, bool *ret_empty,
                      struct err *e)
{
    uint64_t dims[MAX_SHAPE_DIMS], product = 1;
    int n = 0;
    const cJSON *at;
    *ret_empty = false;
    cJSON_ArrayForEach(at, shape)
    {
        if (n == MAX_SHAPE_DIMS || !whole(at, &dims[n]))
            return bad(t, e, "shape must be a list of at most 8 integers in 0..2^53");
        *ret_empty |= dims[n] == 0;
        n++;
    }
    for (int i = 0; i < n && !*ret_empty; i++)
        if (__builtin_mul_overflow(product, dims[i], &product) || product > INT64_MAX)
            return bad(t, e, "the product of its dimensions overflows");
    *ret_fits = n <= TENSOR_MAX_DIMS;
    if (!*ret_fits)
        return 0;
    t->t.n_dims = n ? n : 1; /* a scalar is one value */
    for (int i = 0; i < n; i++)
        t->t.ne[i] = (int64_t)dims[n - 1 - i];
    return 0;
}

static int parse_tensor(const cJSON *o, struct tix *x, const struct file_map *map, size_t data_start,
                        struct err *e)
{
    struct tix_entry *t;
    const cJSON *dtype = NULL, *shape = NULL, *offsets = NULL;
    uint64_t from, to;
    size_t d;
    bool fits, empty;
    int r;
    if ((r = tix__add(x, o->string, strlen(o->string), map, &t, e)) < 0)
        return r;
    if (!cJSON_IsObject(o))
        return bad(t, e, "must be an object with dtype, shape and data_offsets");
    if ((r = member(t, o, "dtype", &dtype, e)) < 0 || (r = member(t, o, "shape", &shape, e)) < 0 ||
        (r = member(t, o, "data_offsets", &offsets, e)) < 0)
        return r;
    if (!cJSON_IsString(dtype) || !cJSON_IsArray(shape) || !cJSON_IsArray(offsets))
        return bad(t, e, "dtype must be a string, shape and data_offsets arrays");
    if (cJSON_GetArraySize(offsets) != 2 || !whole(cJSON_GetArrayItem(offsets, 0), &from) ||
        !whole(cJSON_GetArrayItem(offsets, 1), &to) || from > to)
        return bad(t, e, "data_offsets must be two ascending integers in 0..2^53");
    if ((r = read_shape(t, shape, &fits, &empty, e)) < 0)
        return r;
    if (!map__has(map, data_start + from, to - from))
        return err_set_param(e, ERR_FORMAT, t->t.name,
                             "%s: tensor %s: data_offsets %llu..%llu lie outside the %zu bytes of data",
                             map->label, t->t.name, (unsigned long long)from, (unsigned long long)to,
                             map->n_bytes - data_start);
    t->offset = data_start + from;
    t->t.n_bytes = (size_t)(to - from);
    for (d = 0; d < N_DTYPES && strcmp(dtypes[d].name, dtype->valuestring); d++)
        ;
    t->type_name = !fits ? "with more than 4 dimensions"
                   : empty ? "without values"
                   : d < N_DTYPES ? dtypes[d].name
                                  : "of an unknown dtype";
    if (!fits || empty || d == N_DTYPES || dtypes[d].type < 0)
        return 0; /* an error when the model needs it */
    if ((r = tix__place(t, (uint32_t)dtypes[d].type, t->offset, e)) < 0)
        return r;
    if (to - from != t->t.n_bytes)
        return err_set_param(e, ERR_FORMAT, t->t.name,
                             "%s: tensor %s: data_offsets span %llu bytes; its shape needs %zu",
                             map->label, t->t.name, (unsigned long long)(to - from), t->t.n_bytes);
    return 0;
}

int safetensors__parse(const struct file_map *map, struct tix *x, struct err *e)
{
    uint64_t header_bytes;
    cJSON *header = NULL;
    int r = 0;
    if (map->n_bytes < LENGTH_BYTES)
        return err_set(e, ERR_FORMAT, "%s: %zu bytes are no safetensors file", map->label,
                       map->n_bytes);
    memcpy(&header_bytes, map->data, sizeof(header_bytes));
    if (header_bytes < 2 || header_bytes > SAFETENSORS_MAX_HEADER_BYTES ||
        !map__has(map, LENGTH_BYTES, header_bytes))
        return err_set(e, ERR_FORMAT,
                       "%s: header of %llu bytes; 2..%u, and no more than the file has, are accepted",
                       map->label, (unsigned long long)header_bytes, SAFETENSORS_MAX_HEADER_BYTES);
    size_t data_start = LENGTH_BYTES + (size_t)header_bytes;
    if ((r = json__parse((const char *)map->data + LENGTH_BYTES, (size_t)header_bytes,
                         MAX_HEADER_ITEMS, map->label, &header, e)) < 0)
        return r;
    const cJSON *at;
    cJSON_ArrayForEach(at, header)
    {
        if (strcmp(at->string, "__metadata__") == 0)
            continue;
        if ((r = parse_tensor(at, x, map, data_start, e)) < 0)
            break;
    }
    cJSON_Delete(header);
    return r;
}
