/* engine/model/tix.c - tensors by name; see tix.h. */
#include "config.h"

#include "engine/model/tix.h"

#include <stdlib.h>
#include <string.h>

void tix__init(struct tix *x, struct arena *arena)
{
    *x = (struct tix){.arena = arena};
}

void tix__done(struct tix *x)
{
    free(x->v);
    *x = (struct tix){0};
}

int tix__reserve(struct tix *x, size_t n, const struct file_map *m, struct err *e)
{
    if (n > TIX_MAX_TENSORS || x->n > TIX_MAX_TENSORS - n)
        return err_set(e, ERR_LIMIT, "%s: %zu tensors and more; at most %d are accepted", m->label,
                       x->n > n ? x->n : n, TIX_MAX_TENSORS);
    if (x->n + n <= x->cap)
        return 0;
    size_t cap = x->cap * 2 > x->n + n ? x->cap * 2 : x->n + n;
    struct tix_entry *v = realloc(x->v, cap * sizeof(*v));
    if (!v)
        return err_set(e, ERR_NOMEM, "%s: no memory for a list of %zu tensors", m->label, cap);
    x->v = v;
    x->cap = cap;
    return 0;
}

int tix__add(struct tix *x, const char *name, size_t n_bytes, const struct file_map *m,
             struct tix_entry **ret, struct err *e)
{
    int r = tix__reserve(x, 1, m, e);
    if (r < 0)
        return r;
    char shown[64];
    map__printable(name, n_bytes, shown, sizeof(shown));
    if (n_bytes < 1 || n_bytes > TIX_MAX_NAME_BYTES)
        return err_set_param(e, ERR_FORMAT, shown,
                             "%s: name of tensor %zu (%s) has %zu bytes; 1..%d are accepted",
                             m->label, x->n, shown, n_bytes, TIX_MAX_NAME_BYTES);
    for (size_t i = 0; i < n_bytes; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return err_set_param(e, ERR_FORMAT, shown,
                                 "%s: name of tensor %zu (%s) has a control byte", m->label, x->n,
                                 shown);
    char *copy = arena_strndup(x->arena, name, n_bytes);
    if (!copy)
        return err_set(e, ERR_NOMEM, "%s: no memory for tensor names", m->label);
    struct tix_entry *entry = &x->v[x->n++];
    *entry = (struct tix_entry){.t = {.name = copy, .ne = {1, 1, 1, 1}}, .type_name = "", .map = m};
    *ret = entry;
    return 0;
}

int tix__place(struct tix_entry *entry, uint32_t type, uint64_t offset, struct err *e)
{
    struct tensor *t = &entry->t;
    const struct tensor_type_info *info = tensor_type_info(type);
    size_t n_bytes = tensor_row_bytes((enum tensor_type)type, t->ne[0]);
    if (n_bytes == 0)
        return err_set_param(e, ERR_FORMAT, t->name,
                             "%s: tensor %s: %lld values a row do not fit %s, which has blocks of %d",
                             entry->map->label, t->name, (long long)t->ne[0],
                             info ? info->name : "an unknown type", info ? info->block_elems : 0);
    for (int i = 1; i < TENSOR_MAX_DIMS; i++)
        if (__builtin_mul_overflow(n_bytes, (size_t)t->ne[i], &n_bytes))
            return err_set_param(e, ERR_FORMAT, t->name,
                                 "%s: tensor %s: the product of its dimensions overflows",
                                 entry->map->label, t->name);
    if (!map__has(entry->map, offset, n_bytes))
        return err_set_param(e, ERR_FORMAT, t->name,
                             "%s: tensor %s: bytes %llu..+%zu lie outside the file of %zu bytes",
                             entry->map->label, t->name, (unsigned long long)offset, n_bytes,
                             entry->map->n_bytes);
    t->type = (enum tensor_type)type;
    t->n_bytes = n_bytes;
    t->data = entry->map->data + offset;
    entry->offset = offset;
    entry->type_name = info->name;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct tix_entry *x = a, *y = b;
    if (x->map != y->map)
        return (uintptr_t)x->map < (uintptr_t)y->map ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->t.n_bytes > y->t.n_bytes) - (x->t.n_bytes < y->t.n_bytes);
}

static int by_name(const void *a, const void *b)
{
    const struct tix_entry *x = a, *y = b;
    return strcmp(x->t.name, y->t.name);
}

int tix__seal(struct tix *x, struct err *e)
{
    if (x->n == 0)
        return 0;
    qsort(x->v, x->n, sizeof(*x->v), by_place);
    for (size_t i = 1; i < x->n; i++) {
        const struct tix_entry *a = &x->v[i - 1], *b = &x->v[i];
        if (a->map == b->map && b->offset - a->offset < a->t.n_bytes)
            return err_set_param(e, ERR_FORMAT, b->t.name, "%s: tensors %.100s and %.100s overlap",
                                 b->map->label, a->t.name, b->t.name);
    }
    qsort(x->v, x->n, sizeof(*x->v), by_name);
    for (size_t i = 1; i < x->n; i++)
        if (strcmp(x->v[i - 1].t.name, x->v[i].t.name) == 0)
            return err_set_param(e, ERR_FORMAT, x->v[i].t.name,
                                 "%s: tensor %s occurs twice, also in %s", x->v[i].map->label,
                                 x->v[i].t.name, x->v[i - 1].map->label);
    return 0;
}

const struct tix_entry *tix__find(const struct tix *x, const char *name)
{
    struct tix_entry key = {.t = {.name = name}};
    return x->n ? bsearch(&key, x->v, x->n, sizeof(*x->v), by_name) : NULL;
}

void tix__keep_part(struct tix *x, const char *prefix)
{
    size_t n = 0, skip = strlen(prefix);
    for (size_t i = 0; i < x->n; i++) {
        if (strncmp(x->v[i].t.name, prefix, skip))
            continue;
        x->v[n] = x->v[i];
        x->v[n++].t.name += skip; /* still in order */
    }
    x->n = n;
}

void tix__drop_part(struct tix *x, const char *prefix)
{
    size_t n = 0, length = strlen(prefix);
    for (size_t i = 0; i < x->n; i++)
        if (strncmp(x->v[i].t.name, prefix, length))
            x->v[n++] = x->v[i];
    x->n = n;
}

void tix__claim(const struct tix *x, const struct tix_entry *entry)
{
    x->v[entry - x->v].claimed = true;
}

void tix__scaled(const struct tix *x, const struct tix_entry *entry, const struct tix_entry *scale,
                 const struct tensor *with)
{
    struct tensor *t = &x->v[entry - x->v].t;
    x->v[scale - x->v].is_scale = true;
    t->scale = with->scale;
    t->scale_cols = with->scale_cols;
    t->scale_row0 = with->scale_row0;
}
