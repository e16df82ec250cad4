/* engine/model/safetensors.c - one safetensors file: eight bytes of header length, a JSON header of
 * {name: {dtype, shape, data_offsets}}, then the data. */
#include "config.h"

#include <string.h>

#include "engine/model/internal.h"

#define MAX_HEADER_BYTES ((uint64_t)100 << 20) /* the format's own limit */

static const struct {
    const char *dtype;
    enum tensor_type type;
    int bytes;
} dtypes[] = {
    {"F32", TT_F32, 4}, {"F16", TT_F16, 2}, {"BF16", TT_BF16, 2}, {"I32", TT_I32, 4},
};

/* A count or offset: JSON numbers are doubles, exact up to 2^53. */
static bool whole(const cJSON *v, uint64_t *ret)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= 9007199254740992.0) ||
        v->valuedouble != (double)(uint64_t)v->valuedouble)
        return false;
    *ret = (uint64_t)v->valuedouble;
    return true;
}

static int read_tensor(struct checkpoint_priv *p, const struct map *m, const cJSON *v,
                       uint64_t data_at, struct err *e)
{
    struct tensor t = {.type = (enum tensor_type)UINT16_MAX};
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(v, "dtype");
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(v, "shape");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(v, "data_offsets");
    uint64_t lo, hi;
    int n = cJSON_IsArray(shape) ? cJSON_GetArraySize(shape) : -1;
    if (!cJSON_IsString(dtype) || n < 0 || !cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !whole(cJSON_GetArrayItem(offsets, 0), &lo) || !whole(cJSON_GetArrayItem(offsets, 1), &hi) ||
        hi < lo)
        return err_set_param(e, ERR_FORMAT, v->string,
                             "%s: tensor %s: dtype, shape or data_offsets is malformed", m->path,
                             v->string);
    if (n > TENSOR_MAX_DIMS)
        return err_set_param(e, ERR_FORMAT, v->string, "%s: tensor %s: %d dimensions, at most %d",
                             m->path, v->string, n, TENSOR_MAX_DIMS);
    t.name = arena_strndup(p->arena, v->string, strlen(v->string));
    if (!t.name)
        return err_set(e, ERR_NOMEM, "out of memory");
    t.n_dims = n ? n : 1;
    t.ne[0] = 1;
    for (int i = 0; i < n; i++) { /* their last dimension is contiguous; ours is the first */
        uint64_t d;
        if (!whole(cJSON_GetArrayItem(shape, i), &d))
            return err_set_param(e, ERR_FORMAT, v->string, "%s: tensor %s: shape is malformed",
                                 m->path, v->string);
        t.ne[n - 1 - i] = d > INT32_MAX ? -1 : (int64_t)d;
    }
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (!strcmp(dtypes[i].dtype, dtype->valuestring))
            t.type = dtypes[i].type;
    if (tensor_type_info(t.type)) { /* others are an error only if the model needs them */
        if (lo > UINT64_MAX - data_at)
            return err_set_param(e, ERR_FORMAT, v->string, "%s: tensor %s: offset beyond the file",
                                 m->path, v->string);
        int r = tensor_place(&t, m, data_at + lo, e);
        if (r < 0)
            return r;
        if (t.n_bytes != hi - lo)
            return err_set_param(e, ERR_FORMAT, v->string,
                                 "%s: tensor %s: data_offsets span %llu bytes, its shape wants %zu",
                                 m->path, v->string, (unsigned long long)(hi - lo), t.n_bytes);
    }
    return tensor_set_add(&p->tensors, &t, e);
}

int safetensors_read(struct checkpoint_priv *p, const struct map *m, struct err *e)
{
    uint64_t n = 0;
    if (m->n_bytes >= 8)
        memcpy(&n, m->data, 8);
    if (n < 2 || n > MAX_HEADER_BYTES || n > m->n_bytes - 8)
        return err_set(e, ERR_FORMAT, "%s: not a safetensors file (header of %llu bytes in %zu)",
                       m->path, (unsigned long long)n, m->n_bytes);
    cJSON *header = cJSON_ParseWithLength((const char *)m->data + 8, (size_t)n);
    int r = 0;
    if (!cJSON_IsObject(header))
        r = err_set(e, ERR_FORMAT, "%s: the safetensors header is not a JSON object", m->path);
    for (const cJSON *v = header ? header->child : NULL; v && r == 0; v = v->next)
        if (strcmp(v->string, "__metadata__"))
            r = read_tensor(p, m, v, 8 + n, e);
    cJSON_Delete(header);
    return r;
}
