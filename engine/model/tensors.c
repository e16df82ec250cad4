/* engine/model/tensors.c - the tensors of a checkpoint by name, and taking them by role. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "engine/model/internal.h"

int tensor_set_add(struct tensor_set *s, const struct tensor *t, struct err *e)
{
    if (s->n == MAX_TENSORS)
        return err_set(e, ERR_LIMIT, "more than %u tensors", MAX_TENSORS);
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 64;
        struct tensor *v = realloc(s->v, cap * sizeof(*v));
        if (!v)
            return err_set(e, ERR_NOMEM, "out of memory for the list of tensors");
        s->v = v;
        s->cap = cap;
    }
    s->v[s->n++] = *t;
    return 0;
}

static uint32_t *slot_of(const struct tensor_set *s, const char *name)
{
    uint32_t i = (uint32_t)hash64_bytes(name, strlen(name), 0) & (s->n_table - 1);
    while (s->table[i] != UINT32_MAX && strcmp(s->v[s->table[i]].name, name))
        i = (i + 1) & (s->n_table - 1);
    return &s->table[i];
}

int tensor_set_index(struct tensor_set *s, struct err *e)
{
    s->n_table = 16;
    while (s->n_table < 2 * s->n)
        s->n_table *= 2;
    s->table = malloc(s->n_table * sizeof(*s->table));
    if (!s->table)
        return err_set(e, ERR_NOMEM, "out of memory for the list of tensors");
    memset(s->table, 0xff, s->n_table * sizeof(*s->table));
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t *slot = slot_of(s, s->v[i].name);
        if (*slot != UINT32_MAX)
            return err_set_param(e, ERR_FORMAT, s->v[i].name, "tensor %s occurs twice", s->v[i].name);
        *slot = i;
    }
    return 0;
}

const struct tensor *tensor_set_find(const struct tensor_set *s, const char *name)
{
    uint32_t i = *slot_of(s, name);
    return i == UINT32_MAX ? NULL : &s->v[i];
}

void tensor_set_done(struct tensor_set *s)
{
    free(s->v);
    free(s->table);
    *s = (struct tensor_set){0};
}

int tensor_place(struct tensor *t, const struct map *m, uint64_t offset, struct err *e)
{
    const struct tensor_type_info *info = tensor_type_info(t->type);
    uint64_t rows = 1;
    if (!info)
        return err_set_param(e, ERR_UNSUPPORTED, t->name, "%s: tensor %s: type id %u is not served",
                             m->path, t->name, (unsigned)t->type);
    for (int i = 0; i < TENSOR_MAX_DIMS; i++) {
        if (i >= t->n_dims)
            t->ne[i] = 1;
        if (t->ne[i] < 1 || t->ne[i] > INT32_MAX)
            return err_set_param(e, ERR_FORMAT, t->name,
                                 "%s: tensor %s: dimension %d is %lld, accepted are 1..%d", m->path,
                                 t->name, i, (long long)t->ne[i], INT32_MAX);
        if (i > 0 && rows > INT64_MAX / (uint64_t)t->ne[i])
            return err_set_param(e, ERR_FORMAT, t->name, "%s: tensor %s: too many values", m->path,
                                 t->name);
        if (i > 0)
            rows *= (uint64_t)t->ne[i];
    }
    size_t row_bytes = tensor_row_bytes(t->type, t->ne[0]);
    if (!row_bytes)
        return err_set_param(e, ERR_FORMAT, t->name,
                             "%s: tensor %s: rows of %lld values are no multiple of a %s block of %d",
                             m->path, t->name, (long long)t->ne[0], info->name, info->block_elems);
    if (rows > m->n_bytes / row_bytes || offset > m->n_bytes ||
        rows * row_bytes > m->n_bytes - offset)
        return err_set_param(e, ERR_FORMAT, t->name,
                             "%s: tensor %s reaches beyond the end of the file (truncated download?)",
                             m->path, t->name);
    t->n_bytes = (size_t)rows * row_bytes;
    t->data = m->data + offset;
    return 0;
}

static void shape_text(const int64_t *ne, int n, char *out, size_t out_bytes)
{
    size_t at = 0;
    for (int i = 0; i < n && at < out_bytes; i++)
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%lld", i ? " x " : "", (long long)ne[i]);
}

int bind_tensor(const struct checkpoint *c, const char *name, int64_t n0, int64_t n1, int64_t n2,
                bool optional, struct tensor *ret, struct err *e)
{
    const struct tensor *t = tensor_set_find(&c->priv->tensors, name);
    int64_t want[3] = {n0, n1, n2};
    int n = n2 ? 3 : n1 ? 2 : 1;
    if (!t && optional)
        return 0;
    if (!t)
        return err_set_param(e, ERR_NOTFOUND, name, "tensor %s is missing", name);
    if (!t->data)
        return err_set_param(e, ERR_UNSUPPORTED, name, "tensor %s: weights of type id %u are not served",
                             name, (unsigned)t->type);
    bool same = true;
    for (int i = 0; i < TENSOR_MAX_DIMS; i++)
        same = same && t->ne[i] == (i < n ? want[i] : 1);
    if (!same) {
        char found[96], wanted[96];
        shape_text(t->ne, t->n_dims, found, sizeof(found));
        shape_text(want, n, wanted, sizeof(wanted));
        return err_set_param(e, ERR_FORMAT, name, "tensor %s has shape %s, the configuration wants %s",
                             name, found, wanted);
    }
    if (n == 1 && t->type != TT_F32 && t->type != TT_F16 && t->type != TT_BF16)
        return err_set_param(e, ERR_UNSUPPORTED, name, "tensor %s: vectors must be F32, F16 or BF16",
                             name);
    *ret = *t;
    return 0;
}
