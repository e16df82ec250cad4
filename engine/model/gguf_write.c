/* engine/model/gguf_write.c - see gguf_write.h. The format is drawn in gguf.c. */
#include "config.h"

#include "engine/model/gguf_write.h"

#include <stdio.h>
#include <string.h>

#define HEAD_BYTES ((size_t)24) /* magic, version, two counts */
#define MAX_HEADER_BYTES ((size_t)1 << 30)

void gguf_write_init(struct gguf_writer *w, const char *prefix)
{
    *w = (struct gguf_writer){.alignment = GGUF_DEFAULT_ALIGNMENT, .prefix = prefix};
    buf_init(&w->kv, MAX_HEADER_BYTES);
    buf_init(&w->infos, MAX_HEADER_BYTES);
}

void gguf_write_done(struct gguf_writer *w)
{
    buf_done(&w->kv);
    buf_done(&w->infos);
}

static void put(struct gguf_writer *w, struct buf *b, const void *p, size_t n_bytes)
{
    int r = w->r < 0 || n_bytes == 0 ? 0 : buf_append(b, p, n_bytes);
    if (r < 0)
        w->r = r;
}

static void put_string(struct gguf_writer *w, struct buf *b, const char *s, size_t n_bytes)
{
    uint64_t n = n_bytes;
    put(w, b, &n, sizeof(n));
    put(w, b, s, n_bytes);
}

static void put_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    char full[GGUF_MAX_KEY_BYTES + 1];
    int n = snprintf(full, sizeof(full), "%s%s", key[0] == '.' ? w->prefix : "", key);
    if (n <= 0 || (size_t)n >= sizeof(full))
        w->r = w->r < 0 ? w->r : ERR_INVAL;
    else
        put_string(w, &w->kv, full, (size_t)n);
    put(w, &w->kv, &type, sizeof(type));
    w->n_kv++;
}

static void put_scalar(struct gguf_writer *w, const char *key, uint32_t type, const void *v,
                       size_t n_bytes)
{
    put_key(w, key, type);
    put(w, &w->kv, v, n_bytes);
}

void gguf_write_u16(struct gguf_writer *w, const char *key, uint16_t v)
{
    put_scalar(w, key, GGUF_U16, &v, sizeof(v));
}

void gguf_write_u32(struct gguf_writer *w, const char *key, int64_t v)
{
    uint32_t u = (uint32_t)v;
    if (v < 0 || v > UINT32_MAX)
        w->r = w->r < 0 ? w->r : ERR_INVAL;
    put_scalar(w, key, GGUF_U32, &u, sizeof(u));
}

void gguf_write_i32(struct gguf_writer *w, const char *key, int32_t v)
{
    put_scalar(w, key, GGUF_I32, &v, sizeof(v));
}

void gguf_write_u64(struct gguf_writer *w, const char *key, uint64_t v)
{
    put_scalar(w, key, GGUF_U64, &v, sizeof(v));
}

void gguf_write_f32(struct gguf_writer *w, const char *key, float v)
{
    put_scalar(w, key, GGUF_F32, &v, sizeof(v));
}

void gguf_write_bool(struct gguf_writer *w, const char *key, bool v)
{
    uint8_t byte = v;
    put_scalar(w, key, GGUF_BOOL, &byte, sizeof(byte));
}

void gguf_write_string(struct gguf_writer *w, const char *key, const char *s)
{
    put_key(w, key, GGUF_STR);
    put_string(w, &w->kv, s, strlen(s));
}

static void put_array(struct gguf_writer *w, const char *key, uint32_t type, uint64_t n)
{
    put_key(w, key, GGUF_ARR);
    put(w, &w->kv, &type, sizeof(type));
    put(w, &w->kv, &n, sizeof(n));
}

size_t gguf_write_array(struct gguf_writer *w, const char *key, enum gguf_type type, const void *v,
                        size_t n, size_t elem_bytes)
{
    put_array(w, key, (uint32_t)type, n);
    size_t at = w->kv.n_bytes;
    put(w, &w->kv, v, n * elem_bytes);
    return at;
}

void gguf_write_strings(struct gguf_writer *w, const char *key, const struct str_view *v, size_t n)
{
    put_array(w, key, GGUF_STR, n);
    for (size_t i = 0; i < n; i++)
        put_string(w, &w->kv, v[i].data, v[i].n_bytes);
}

void gguf_write_copy(struct gguf_writer *w, const struct gguf_kv *kv)
{
    if (kv->type == GGUF_ARR) {
        put_array(w, kv->key, kv->elem_type, kv->n);
        put(w, &w->kv, kv->data, gguf__value_bytes(kv));
        return;
    }
    put_key(w, kv->key, kv->type);
    if (kv->type == GGUF_STR)
        put_string(w, &w->kv, (const char *)kv->data, (size_t)kv->n);
    else
        put(w, &w->kv, kv->data, gguf__value_bytes(kv));
}

uint64_t gguf_write_padded(const struct gguf_writer *w, uint64_t n_bytes)
{
    return (n_bytes + w->alignment - 1) & ~(uint64_t)(w->alignment - 1);
}

uint64_t gguf_write_tensor(struct gguf_writer *w, const char *name, int n_dims, const int64_t *ne,
                           enum tensor_type type)
{
    uint64_t offset = w->data_bytes, n_bytes = tensor_row_bytes(type, ne[0]);
    uint32_t dims = (uint32_t)n_dims, id = (uint32_t)type;
    put_string(w, &w->infos, name, strlen(name));
    put(w, &w->infos, &dims, sizeof(dims));
    for (int i = 0; i < n_dims; i++) {
        uint64_t v = (uint64_t)ne[i];
        put(w, &w->infos, &v, sizeof(v));
        if (i > 0 && __builtin_mul_overflow(n_bytes, v, &n_bytes))
            w->r = ERR_INVAL;
    }
    put(w, &w->infos, &id, sizeof(id));
    put(w, &w->infos, &offset, sizeof(offset));
    if (n_bytes == 0)
        w->r = w->r < 0 ? w->r : ERR_INVAL;
    w->data_bytes = gguf_write_padded(w, offset + n_bytes);
    w->n_tensors++;
    return offset;
}

uint64_t gguf_write_key_offset(size_t at)
{
    return HEAD_BYTES + at;
}

int gguf_write_header(const struct gguf_writer *w, struct buf *ret, struct err *e)
{
    static const char zeros[GGUF_DEFAULT_ALIGNMENT];
    uint32_t version = 3;
    size_t bytes = HEAD_BYTES + w->kv.n_bytes + w->infos.n_bytes;
    size_t padding = (size_t)(gguf_write_padded(w, bytes) - bytes);
    if (w->r < 0)
        return err_set(e, w->r, "the GGUF header cannot be built: %s", err_name(w->r));
    int r = buf_append(ret, "GGUF", 4);
    if (r == 0)
        r = buf_append(ret, &version, sizeof(version));
    if (r == 0)
        r = buf_append(ret, &w->n_tensors, sizeof(w->n_tensors));
    if (r == 0)
        r = buf_append(ret, &w->n_kv, sizeof(w->n_kv));
    if (r == 0 && w->kv.n_bytes)
        r = buf_append(ret, w->kv.data, w->kv.n_bytes);
    if (r == 0 && w->infos.n_bytes)
        r = buf_append(ret, w->infos.data, w->infos.n_bytes);
    if (r == 0 && padding)
        r = buf_append(ret, zeros, padding);
    return r < 0 ? err_set(e, r, "no room for a GGUF header of %zu bytes", bytes) : 0;
}
