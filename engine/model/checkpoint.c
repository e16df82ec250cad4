/* engine/model/checkpoint.c - opening and closing, whatever the format; see checkpoint.h. */
#include "config.h"

#include "engine/model/checkpoint_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Names of a million tensors, keys, copies of tokenizer arrays. */
#define MAX_ARENA_BYTES ((size_t)2 << 30)

int checkpoint__map(struct checkpoint *c, const char *path, struct file_map **ret, struct err *e)
{
    struct checkpoint_priv *p = c->priv;
    if (p->n_maps == CHECKPOINT_MAX_FILES)
        return err_set(e, ERR_LIMIT, "more than %d files of weights", CHECKPOINT_MAX_FILES);
    struct file_map *m = calloc(1, sizeof(*m));
    struct file_map **maps = realloc(p->maps, ((size_t)p->n_maps + 1) * sizeof(*maps));
    if (maps)
        p->maps = maps;
    if (!m || !maps) {
        free(m);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    int r = map__open(path, 0, m, e);
    if (r < 0) {
        free(m);
        return r;
    }
    p->maps[p->n_maps++] = m;
    c->file_bytes += m->n_bytes;
    *ret = m;
    return 0;
}

char *checkpoint__path(struct checkpoint *c, const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = arena_alloc(c->priv->arena, n);
    if (path)
        snprintf(path, n, "%s/%s", folder, name);
    return path;
}

int checkpoint__bind(struct checkpoint *c, const struct arch *a, enum ckpt_format format,
                     const char *label, struct err *e)
{
    struct checkpoint_priv *p = c->priv;
    struct binder b = {.ck = c, .tix = &p->tix, .arena = p->arena, .format = format, .label = label,
                       .e = e};
    snprintf(c->config.architecture, sizeof(c->config.architecture), "%s", a->name);
    a->bind(&b);
    bind__finish(&b);
    return b.r;
}

/* A name for people where the file has none: the last part of the path without ".gguf". */
static void name_from_path(const char *path, char *dst, size_t dst_bytes)
{
    char *real = NULL;
    size_t n = strlen(path), at;
    for (;;) {
        while (n > 1 && path[n - 1] == '/')
            n--;
        at = n;
        while (at > 0 && path[at - 1] != '/')
            at--;
        /* "." and ".." say where, not what */
        if (real || n - at > 2 || strspn(path + at, ".") < n - at || !(real = realpath(path, NULL)))
            break;
        path = real;
        n = strlen(path);
    }
    if (n - at > 5 && !memcmp(path + n - 5, ".gguf", 5))
        n -= 5;
    map__printable(path + at, n - at, dst, dst_bytes);
    free(real);
}

int checkpoint_open(const char *path, struct checkpoint **ret, struct err *e)
{
    struct stat st;
    char file[4096];
    int found = stat(path, &st), why = errno;
    if (found < 0 && why == ENOENT && snprintf(file, sizeof(file), "%s.gguf", path) < (int)sizeof(file) &&
        (found = stat(file, &st)) == 0)
        path = file; /* a GGUF file may be named without its ending */
    errno = why;
    if (found < 0)
        return err_set(e, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "cannot open model %.200s: %s", path,
                       strerror(errno));
    struct checkpoint *c = calloc(1, sizeof(*c));
    struct checkpoint_priv *p = calloc(1, sizeof(*p));
    if (c)
        c->priv = p;
    if (p)
        p->arena = arena_new(MAX_ARENA_BYTES);
    int r = 0;
    if (!c || !p || !p->arena) {
        r = err_set(e, ERR_NOMEM, "out of memory");
    } else {
        tix__init(&p->tix, p->arena);
        r = S_ISDIR(st.st_mode) ? hf__open(c, path, e) : gguf__open(c, path, e);
    }
    if (r < 0) {
        if (!c)
            free(p);
        checkpoint_close(&c);
        return r;
    }
    if (!c->config.name[0])
        name_from_path(path, c->config.name, sizeof(c->config.name));
    *ret = c;
    return 0;
}

void checkpoint_close(struct checkpoint **cp)
{
    struct checkpoint *c = *cp;
    *cp = NULL;
    if (!c)
        return;
    struct checkpoint_priv *p = c->priv;
    if (p) {
        for (int i = 0; i < p->n_maps; i++) {
            map__close(p->maps[i]);
            free(p->maps[i]);
        }
        free(p->maps);
        tix__done(&p->tix);
        arena_free(p->arena);
        free(p);
    }
    free(c);
}

void checkpoint_expect(const struct checkpoint *c, const void *data, size_t n_bytes)
{
    for (int i = 0; c->priv && i < c->priv->n_maps; i++)
        if (map__expect(c->priv->maps[i], data, n_bytes))
            return;
}

void checkpoint_let_go(const struct checkpoint *c, const void *data, size_t n_bytes)
{
    for (int i = 0; c->priv && i < c->priv->n_maps; i++)
        if (map__let_go(c->priv->maps[i], data, n_bytes))
            return;
}
