/* engine/model/arch.c - the list of families, and binding by name and shape; see arch.h. */
#include "config.h"

#include "engine/model/arch.h"

#include <stdio.h>
#include <string.h>

#define ARCH(row) extern const struct arch row;
#include "engine/model/arch.def"
#undef ARCH

#define ARCH(row) &row,
static const struct arch *const rows[] = {
#include "engine/model/arch.def"
};
#undef ARCH
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static const char *row_name(const struct arch *a, enum ckpt_format format)
{
    return format == FORMAT_GGUF ? a->gguf_name : a->hf_model_type;
}

static const struct arch *find(enum ckpt_format format, const char *name)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *s = row_name(rows[i], format);
        if (s && strcmp(s, name) == 0)
            return rows[i];
    }
    return NULL;
}

const struct arch *arch__by_gguf_name(const char *name)
{
    return find(FORMAT_GGUF, name);
}

const struct arch *arch__by_hf_model_type(const char *type)
{
    return find(FORMAT_HF, type);
}

const struct arch *arch__by_name(const char *name)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i]->name, name) == 0)
            return rows[i];
    return NULL;
}

void arch__list(enum ckpt_format format, char *dst, size_t dst_bytes)
{
    size_t n = 0;
    dst[0] = 0;
    for (size_t i = 0; i < N_ROWS && n < dst_bytes; i++) {
        const char *s = row_name(rows[i], format);
        bool listed = s && find(format, s) != rows[i];
        if (s && !listed)
            n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%s", n ? ", " : "", s);
    }
}

static const struct tix_entry *entry_of(const struct binder *b, const char *name)
{
    char full[TIX_MAX_NAME_BYTES + 1];
    if (!b->prefix[0])
        return tix__find(b->tix, name);
    int n = snprintf(full, sizeof(full), "%s%s", b->prefix, name);
    return n > 0 && (size_t)n < sizeof(full) ? tix__find(b->tix, full) : NULL;
}

bool bind__has(const struct binder *b, const char *name)
{
    return entry_of(b, name) != NULL;
}

static void shape_text(const int64_t *ne, int n_dims, char *dst, size_t dst_bytes)
{
    size_t n = (size_t)snprintf(dst, dst_bytes, "{");
    for (int i = 0; i < n_dims && n < dst_bytes; i++)
        n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%lld", i ? ", " : "", (long long)ne[i]);
    if (n < dst_bytes)
        snprintf(dst + n, dst_bytes - n, "}");
}

static void bind_entry(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                       const struct tix_entry *entry)
{
    const struct tensor *t = &entry->t;
    bool same = t->ne[3] == 1;
    for (int i = 0; i < 3; i++)
        same = same && t->ne[i] == (i < n_dims ? ne[i] : 1);
    if (!t->data) {
        char served[160];
        tensor_weight_types(served, sizeof(served));
        b->r = err_set_param(b->e, ERR_UNSUPPORTED, t->name,
                             "%s: tensor %s is %s, which is not served (%s are)",
                             entry->map->label, t->name, entry->type_name, served);
    } else if (!same) {
        char found[96], wanted[96];
        shape_text(t->ne, t->n_dims, found, sizeof(found));
        shape_text(ne, n_dims, wanted, sizeof(wanted));
        b->r = err_set_param(b->e, ERR_FORMAT, t->name,
                             "%s: tensor %s has shape %s; the configuration wants %s",
                             entry->map->label, t->name, found, wanted);
    } else {
        *dst = *t;
        dst->n_dims = n_dims;
        if (b->counting)
            b->ck->n_params += t->ne[0] * t->ne[1] * t->ne[2];
    }
}

void bind__tensor(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                  const char *name)
{
    if (b->r < 0)
        return;
    const struct tix_entry *entry = entry_of(b, name);
    if (!entry)
        b->r = err_set_param(b->e, ERR_FORMAT, name, "%s: tensor %s%s is missing", b->label, b->prefix, name);
    else
        bind_entry(b, dst, n_dims, ne, entry);
}

void bind__optional(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                    const char *name)
{
    const struct tix_entry *entry = b->r < 0 ? NULL : entry_of(b, name);
    if (entry)
        bind_entry(b, dst, n_dims, ne, entry);
}

void *bind__alloc(struct binder *b, size_t n, size_t elem_bytes)
{
    void *p = b->r < 0 ? NULL : arena_array(b->arena, n, elem_bytes);
    if (!p && b->r == 0)
        b->r = err_set(b->e, ERR_NOMEM, "%s: no memory for the list of tensors", b->label);
    return p;
}
