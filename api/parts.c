/* api/parts.c - see parts.h. */
#include "config.h"

#include "api/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void parts_init(struct parts *p, size_t max_bytes, const char *id_prefix, unsigned long long id_seed)
{
    *p = (struct parts){.max_bytes = max_bytes, .id_prefix = id_prefix, .id_seed = id_seed};
}

void parts_done(struct parts *p)
{
    for (int i = 0; i < p->n; i++) {
        jw_done(&p->list[i].text);
        free(p->list[i].name);
    }
    free(p->list);
    p->list = NULL;
    p->n = 0;
}

static struct part *add(struct parts *p, enum part_kind kind)
{
    parts_close(p);
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 4;
        struct part *list = realloc(p->list, (size_t)cap * sizeof(*list));
        if (!list) {
            p->err = ERR_NOMEM;
            return NULL;
        }
        p->list = list;
        p->cap = cap;
    }
    struct part *at = &p->list[p->n++];
    *at = (struct part){.kind = kind};
    jw_init(&at->text, p->max_bytes);
    return at;
}

void parts_add(struct parts *p, enum part_kind kind, const char *text, size_t n_bytes)
{
    struct part *at = p->n ? &p->list[p->n - 1] : NULL;
    if (n_bytes == 0 || p->err)
        return;
    if (!at || at->kind != kind || at->closed)
        at = add(p, kind);
    if (!at)
        return;
    jw_escape(&at->text, text, n_bytes);
    p->err = at->text.err;
}

void parts_call(struct parts *p, const char *name, size_t n_name, const char *id, size_t n_id)
{
    struct part *at = p->err ? NULL : add(p, PART_CALL);
    if (!at)
        return;
    at->call = p->n_calls++;
    at->name = strndup(name, n_name);
    if (!at->name)
        p->err = ERR_NOMEM;
    if (id && n_id > 0 && n_id < sizeof(at->id))
        memcpy(at->id, id, n_id);
    else
        snprintf(at->id, sizeof(at->id), "%s%016llx%02d", p->id_prefix, p->id_seed, at->call);
}

void parts_close(struct parts *p)
{
    if (p->n)
        p->list[p->n - 1].closed = true;
}

void parts_told(struct parts *p, bool keep)
{
    for (int i = 0; i < p->n; i++) {
        struct part *at = &p->list[i];
        at->opened = true;
        if (!keep)
            jw_reset(&at->text);
        at->told = at->text.b.n_bytes;
    }
}

void parts_join(const struct parts *p, enum part_kind kind, struct jw *w)
{
    for (int i = 0; i < p->n; i++) {
        const struct part *at = &p->list[i];
        if (at->kind == kind && at->text.b.n_bytes > at->told)
            jw_bytes(w, at->text.b.data + at->told, at->text.b.n_bytes - at->told);
    }
    if (p->err && !w->err)
        w->err = p->err;
}

bool parts_pending(const struct parts *p)
{
    for (int i = 0; i < p->n; i++)
        if (!p->list[i].opened || p->list[i].text.b.n_bytes > p->list[i].told)
            return true;
    return false;
}

bool parts_has(const struct parts *p, enum part_kind kind)
{
    for (int i = 0; i < p->n; i++)
        if (p->list[i].kind == kind && p->list[i].text.b.n_bytes > p->list[i].told)
            return true;
    return false;
}
