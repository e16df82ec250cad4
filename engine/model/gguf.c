/* engine/model/gguf.c - GGUF v2 and v3 headers; see gguf.h.
 *
 *     magic "GGUF" | u32 version | u64 n_tensors | u64 n_kv
 *     n_kv    x  key string | u32 type | value          string: u64 bytes, text
 *     n_tensors x name string | u32 n_dims | u64 ne[] | u32 type | u64 offset
 *     padding to general.alignment | tensor data, offsets from here
 *
 * v3 differs from v2 only in allowing big-endian files, which are refused here. A cursor walks the
 * map; each step says how many bytes it needs, and the first lack of them ends the parse. */
#include "config.h"

#include "engine/model/gguf.h"

#include <stdlib.h>
#include <string.h>

/* The shortest possible entries: a claim of more of them than fit into the rest of the file is
 * refused before anything is allocated. */
#define MIN_KV_BYTES (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)
#define MAX_NE ((int64_t)1 << 48)
/* ggml's own ids end below 50 today. */
#define MAX_TENSOR_TYPE 255

struct cursor {
    const struct file_map *map;
    size_t pos;
};

static const struct {
    const char *name;
    uint8_t n_bytes; /* 0: variable */
} value_types[GGUF_TYPE_MAX] = {
    [GGUF_U8] = {"uint8", 1},     [GGUF_I8] = {"int8", 1},      [GGUF_U16] = {"uint16", 2},
    [GGUF_I16] = {"int16", 2},    [GGUF_U32] = {"uint32", 4},   [GGUF_I32] = {"int32", 4},
    [GGUF_F32] = {"float32", 4},  [GGUF_BOOL] = {"bool", 1},    [GGUF_STR] = {"string", 0},
    [GGUF_ARR] = {"array", 0},    [GGUF_U64] = {"uint64", 8},   [GGUF_I64] = {"int64", 8},
    [GGUF_F64] = {"float64", 8},
};

const char *gguf__type_name(uint32_t type)
{
    return type < GGUF_TYPE_MAX ? value_types[type].name : "unknown type";
}

/* Names of tensor types for messages; what tensor_type_info knows is served. */
static const char *tensor_type_name(uint32_t type)
{
    static const char *const names[] = {
        [0] = "F32",      [1] = "F16",      [2] = "Q4_0",     [3] = "Q4_1",    [6] = "Q5_0",
        [7] = "Q5_1",     [8] = "Q8_0",     [9] = "Q8_1",     [10] = "Q2_K",   [11] = "Q3_K",
        [12] = "Q4_K",    [13] = "Q5_K",    [14] = "Q6_K",    [15] = "Q8_K",   [16] = "IQ2_XXS",
        [17] = "IQ2_XS",  [18] = "IQ3_XXS", [19] = "IQ1_S",   [20] = "IQ4_NL", [21] = "IQ3_S",
        [22] = "IQ2_S",   [23] = "IQ4_XS",  [24] = "I8",      [25] = "I16",    [26] = "I32",
        [27] = "I64",     [28] = "F64",     [29] = "IQ1_M",   [30] = "BF16",   [34] = "TQ1_0",
        [35] = "TQ2_0",   [39] = "MXFP4",
    };
    const char *s = type < sizeof(names) / sizeof(names[0]) ? names[type] : NULL;
    return s ? s : "of a type without a name";
}

static int truncated(const struct cursor *c, const char *what, uint64_t need, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s: %s at byte %zu needs %llu bytes; the file has %zu left",
                   c->map->label, what, c->pos, (unsigned long long)need,
                   c->map->n_bytes - c->pos);
}

static int take(struct cursor *c, uint64_t n_bytes, const unsigned char **ret, const char *what,
                struct err *e)
{
    if (n_bytes > c->map->n_bytes - c->pos)
        return truncated(c, what, n_bytes, e);
    *ret = c->map->data + c->pos;
    c->pos += (size_t)n_bytes;
    return 0;
}

static int take_u32(struct cursor *c, uint32_t *ret, const char *what, struct err *e)
{
    const unsigned char *p = NULL;
    int r = take(c, sizeof(*ret), &p, what, e);
    if (r == 0)
        memcpy(ret, p, sizeof(*ret));
    return r;
}

static int take_u64(struct cursor *c, uint64_t *ret, const char *what, struct err *e)
{
    const unsigned char *p = NULL;
    int r = take(c, sizeof(*ret), &p, what, e);
    if (r == 0)
        memcpy(ret, p, sizeof(*ret));
    return r;
}

static int take_string(struct cursor *c, const unsigned char **ret, uint64_t *ret_bytes,
                       const char *what, struct err *e)
{
    uint64_t n = 0;
    int r = take_u64(c, &n, what, e);
    if (r < 0 || (r = take(c, n, ret, what, e)) < 0)
        return r;
    *ret_bytes = n;
    return 0;
}

/* --- keys and values --------------------------------------------------------------------------- */

static int parse_array(struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    int r;
    if ((r = take_u32(c, &kv->elem_type, kv->key, e)) < 0 ||
        (r = take_u64(c, &kv->n, kv->key, e)) < 0)
        return r;
    if (kv->elem_type >= GGUF_TYPE_MAX || kv->elem_type == GGUF_ARR)
        return err_set_param(e, ERR_FORMAT, kv->key,
                             "%s: key %.100s: array elements of type %u; 0..12 without 9 are accepted",
                             c->map->label, kv->key, kv->elem_type);
    size_t size = value_types[kv->elem_type].n_bytes, left = c->map->n_bytes - c->pos;
    kv->data = c->map->data + c->pos;
    /* a string has at least its length in the file */
    if (kv->n > left / (size ? size : 8))
        return err_set_param(e, ERR_FORMAT, kv->key,
                             "%s: key %.100s: array of %llu elements; the file has %zu bytes left",
                             c->map->label, kv->key, (unsigned long long)kv->n, left);
    if (size) {
        c->pos += (size_t)kv->n * size;
        return 0;
    }
    for (uint64_t i = 0; i < kv->n; i++) {
        const unsigned char *s = NULL;
        uint64_t n_bytes;
        if ((r = take_string(c, &s, &n_bytes, kv->key, e)) < 0)
            return r;
    }
    return 0;
}

static int parse_kv(struct cursor *c, struct arena *arena, struct gguf_kv *kv, struct err *e)
{
    const unsigned char *s = NULL;
    uint64_t n = 0;
    char shown[64];
    int r;
    if ((r = take_string(c, &s, &n, "a key", e)) < 0)
        return r;
    map__printable((const char *)s, (size_t)n, shown, sizeof(shown));
    if (n < 1 || n > GGUF_MAX_KEY_BYTES)
        return err_set_param(e, ERR_FORMAT, shown, "%s: key %s has %llu bytes; 1..%d are accepted",
                             c->map->label, shown, (unsigned long long)n, GGUF_MAX_KEY_BYTES);
    for (uint64_t i = 0; i < n; i++)
        if (s[i] < 0x20 || s[i] > 0x7e)
            return err_set_param(e, ERR_FORMAT, shown, "%s: key %s is not printable ASCII",
                                 c->map->label, shown);
    kv->key = arena_strndup(arena, (const char *)s, (size_t)n);
    if (!kv->key)
        return err_set(e, ERR_NOMEM, "%s: no memory for keys", c->map->label);
    if ((r = take_u32(c, &kv->type, kv->key, e)) < 0)
        return r;
    if (kv->type >= GGUF_TYPE_MAX)
        return err_set_param(e, ERR_FORMAT, kv->key,
                             "%s: key %.100s has type %u; 0..12 are accepted", c->map->label,
                             kv->key, kv->type);
    if (kv->type == GGUF_ARR)
        return parse_array(c, kv, e);
    if (kv->type == GGUF_STR)
        return take_string(c, &kv->data, &kv->n, kv->key, e);
    return take(c, value_types[kv->type].n_bytes, &kv->data, kv->key, e);
}

static int by_key(const void *a, const void *b)
{
    const struct gguf_kv *x = a, *y = b;
    return strcmp(x->key, y->key);
}

const struct gguf_kv *gguf__find(const struct gguf *g, const char *key)
{
    struct gguf_kv probe = {.key = key};
    return g->n_kv ? bsearch(&probe, g->kv, g->n_kv, sizeof(*g->kv), by_key) : NULL;
}

size_t gguf__value_bytes(const struct gguf_kv *kv)
{
    size_t at = 0;
    uint64_t n;
    if (kv->type == GGUF_STR)
        return (size_t)kv->n;
    if (kv->type != GGUF_ARR)
        return value_types[kv->type].n_bytes;
    if (kv->elem_type != GGUF_STR)
        return (size_t)kv->n * value_types[kv->elem_type].n_bytes;
    for (uint64_t i = 0; i < kv->n; i++) { /* lengths were checked by the parser */
        memcpy(&n, kv->data + at, sizeof(n));
        at += sizeof(n) + (size_t)n;
    }
    return at;
}

bool gguf__is_int_type(uint32_t type)
{
    return type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64;
}

bool gguf__as_int(const struct gguf_kv *kv, int64_t *ret)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    if (!gguf__is_int_type(kv->type) && kv->type != GGUF_BOOL)
        return false;
    memcpy(&v, kv->data, value_types[kv->type].n_bytes);
    switch (kv->type) {
    case GGUF_I8: *ret = v.i8; break;
    case GGUF_U16: *ret = v.u16; break;
    case GGUF_I16: *ret = v.i16; break;
    case GGUF_U32: *ret = v.u32; break;
    case GGUF_I32: *ret = v.i32; break;
    case GGUF_I64: *ret = v.i64; break;
    case GGUF_U64:
        if (v.u64 > INT64_MAX)
            return false;
        *ret = (int64_t)v.u64;
        break;
    default: *ret = v.u8; break; /* U8, BOOL */
    }
    return true;
}

bool gguf__as_float(const struct gguf_kv *kv, double *ret)
{
    if (kv->type == GGUF_F32) {
        float f;
        memcpy(&f, kv->data, sizeof(f));
        *ret = (double)f;
        return true;
    }
    if (kv->type == GGUF_F64) {
        memcpy(ret, kv->data, sizeof(*ret));
        return true;
    }
    int64_t i;
    if (kv->type == GGUF_BOOL || !gguf__as_int(kv, &i))
        return false;
    *ret = (double)i;
    return true;
}

/* --- tensors ----------------------------------------------------------------------------------- */

struct info {
    uint32_t type;
    uint64_t offset;
};

/* Appends a tensor without its place: data starts where the last info ends. */
static int parse_info(struct cursor *c, struct tix *x, struct info *ret, struct err *e)
{
    const unsigned char *s = NULL;
    uint64_t n = 0, ne = 0;
    uint32_t n_dims = 0;
    struct tix_entry *t = NULL;
    int r;
    if ((r = take_string(c, &s, &n, "a tensor name", e)) < 0 ||
        (r = tix__add(x, (const char *)s, (size_t)n, c->map, &t, e)) < 0 ||
        (r = take_u32(c, &n_dims, t->t.name, e)) < 0)
        return r;
    if (n_dims < 1 || n_dims > TENSOR_MAX_DIMS)
        return err_set_param(e, ERR_FORMAT, t->t.name,
                             "%s: tensor %s has %u dimensions; 1..%d are accepted", c->map->label,
                             t->t.name, n_dims, TENSOR_MAX_DIMS);
    t->t.n_dims = (int)n_dims;
    int64_t product = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        if ((r = take_u64(c, &ne, t->t.name, e)) < 0)
            return r;
        if (ne < 1 || ne > (uint64_t)MAX_NE)
            return err_set_param(e, ERR_FORMAT, t->t.name,
                                 "%s: tensor %s: dimension %u is %llu; 1..%lld is accepted",
                                 c->map->label, t->t.name, i, (unsigned long long)ne,
                                 (long long)MAX_NE);
        if (__builtin_mul_overflow(product, (int64_t)ne, &product))
            return err_set_param(e, ERR_FORMAT, t->t.name,
                                 "%s: tensor %s: the product of its dimensions overflows",
                                 c->map->label, t->t.name);
        t->t.ne[i] = (int64_t)ne;
    }
    if ((r = take_u32(c, &ret->type, t->t.name, e)) < 0 ||
        (r = take_u64(c, &ret->offset, t->t.name, e)) < 0)
        return r;
    if (ret->type > MAX_TENSOR_TYPE)
        return err_set_param(e, ERR_FORMAT, t->t.name,
                             "%s: tensor %s has type id %u; 0..%d are accepted", c->map->label,
                             t->t.name, ret->type, MAX_TENSOR_TYPE);
    t->type_name = tensor_type_name(ret->type);
    return 0;
}

static int place_tensor(struct tix_entry *t, const struct info *info, uint64_t data_start,
                        uint64_t alignment, struct err *e)
{
    uint64_t offset;
    if (info->offset % alignment)
        return err_set_param(e, ERR_FORMAT, t->t.name,
                             "%s: tensor %s: offset %llu is not a multiple of the alignment %llu",
                             t->map->label, t->t.name, (unsigned long long)info->offset,
                             (unsigned long long)alignment);
    if (__builtin_add_overflow(data_start, info->offset, &offset) || offset >= t->map->n_bytes)
        return err_set_param(e, ERR_FORMAT, t->t.name,
                             "%s: tensor %s: offset %llu lies outside the file of %zu bytes",
                             t->map->label, t->t.name, (unsigned long long)info->offset,
                             t->map->n_bytes);
    t->offset = offset;
    if (!tensor_type_info(info->type))
        return 0; /* an error when the model needs it */
    return tix__place(t, info->type, offset, e);
}

static int parse_tensors(struct cursor *c, uint64_t n, uint64_t alignment, struct tix *x,
                         struct err *e)
{
    size_t first = x->n;
    int r = tix__reserve(x, (size_t)n, c->map, e);
    if (r < 0)
        return r;
    struct info *infos = calloc(n ? (size_t)n : 1, sizeof(*infos));
    if (!infos)
        return err_set(e, ERR_NOMEM, "%s: no memory for %llu tensors", c->map->label,
                       (unsigned long long)n);
    for (uint64_t i = 0; r == 0 && i < n; i++)
        r = parse_info(c, x, &infos[i], e);
    uint64_t start = ((uint64_t)c->pos + alignment - 1) & ~(alignment - 1);
    for (uint64_t i = 0; r == 0 && i < n; i++)
        r = place_tensor(&x->v[first + i], &infos[i], start, alignment, e);
    free(infos);
    return r;
}

static int read_alignment(const struct gguf *g, uint64_t *ret, struct err *e)
{
    const struct gguf_kv *kv = gguf__find(g, "general.alignment");
    int64_t v = GGUF_DEFAULT_ALIGNMENT;
    if (kv && (!gguf__as_int(kv, &v) || v < 8 || v > GGUF_MAX_ALIGNMENT || (v & (v - 1))))
        return err_set_param(e, ERR_FORMAT, kv->key,
                             "%s: general.alignment must be a power of two in 8..%d",
                             g->map->label, GGUF_MAX_ALIGNMENT);
    *ret = (uint64_t)v;
    return 0;
}

int gguf__parse(const struct file_map *map, struct arena *arena, struct tix *x, struct gguf *ret,
                struct err *e)
{
    struct cursor c = {.map = map};
    struct gguf g = {.map = map};
    const unsigned char *magic = NULL;
    uint64_t n_kv = 0, alignment = GGUF_DEFAULT_ALIGNMENT;
    int r;
    if ((r = take(&c, 4, &magic, "the magic number", e)) < 0)
        return r;
    if (memcmp(magic, "GGUF", 4))
        return err_set(e, ERR_FORMAT, "%s is not a GGUF file", map->label);
    if ((r = take_u32(&c, &g.version, "the version", e)) < 0)
        return r;
    if ((g.version & 0xffff) == 0 && g.version != 0)
        return err_set(e, ERR_UNSUPPORTED, "%s is a big-endian GGUF file; convert it", map->label);
    if (g.version < 2 || g.version > 3)
        return err_set(e, ERR_UNSUPPORTED, "%s: GGUF version %u; 2..3 are accepted", map->label,
                       g.version);
    if ((r = take_u64(&c, &g.n_tensors, "the number of tensors", e)) < 0 ||
        (r = take_u64(&c, &n_kv, "the number of keys", e)) < 0)
        return r;
    if (n_kv > GGUF_MAX_KEYS || n_kv > (map->n_bytes - c.pos) / MIN_KV_BYTES)
        return err_set(e, ERR_FORMAT, "%s: %llu keys do not fit the file (at most %d are accepted)",
                       map->label, (unsigned long long)n_kv, GGUF_MAX_KEYS);
    if (g.n_tensors > TIX_MAX_TENSORS ||
        g.n_tensors > (map->n_bytes - c.pos) / MIN_TENSOR_BYTES)
        return err_set(e, ERR_FORMAT,
                       "%s: %llu tensors do not fit the file (at most %d are accepted)", map->label,
                       (unsigned long long)g.n_tensors, TIX_MAX_TENSORS);
    g.kv = arena_array(arena, (size_t)n_kv, sizeof(*g.kv));
    if (!g.kv)
        return err_set(e, ERR_NOMEM, "%s: no memory for keys", map->label);
    for (; g.n_kv < n_kv; g.n_kv++)
        if ((r = parse_kv(&c, arena, &g.kv[g.n_kv], e)) < 0)
            return r;
    if (n_kv)
        qsort(g.kv, g.n_kv, sizeof(*g.kv), by_key);
    for (size_t i = 1; i < g.n_kv; i++)
        if (strcmp(g.kv[i - 1].key, g.kv[i].key) == 0)
            return err_set_param(e, ERR_FORMAT, g.kv[i].key, "%s: key %.100s occurs twice",
                                 map->label, g.kv[i].key);
    if ((r = read_alignment(&g, &alignment, e)) < 0 ||
        (r = parse_tensors(&c, g.n_tensors, alignment, x, e)) < 0)
        return r;
    *ret = g;
    return 0;
}
