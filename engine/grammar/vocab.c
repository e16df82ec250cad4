/* engine/grammar/vocab.c - see vocab.h. */
#include "config.h"

#include "engine/grammar/vocab.h"

#include <stdlib.h>
#include <string.h>

struct text {
    const char *s;
    size_t n;
    int32_t id;
};

static int by_text(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    if (c != 0)
        return c;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static size_t shared(const struct text *a, const struct text *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->s[n] == b->s[n])
        n++;
    return n;
}

/* open[d]: the last node of depth d + 1, whose end is not known yet. */
static void build(struct vocab *v, const struct text *t, int n, int32_t *open)
{
    size_t depth = 0;
    for (int i = 0; i < n; i++) {
        size_t keep = i ? shared(&t[i - 1], &t[i]) : 0;
        if (i && keep == t[i].n && t[i - 1].n == keep) {
            v->same[t[i - 1].id] = t[i].id;
            continue;
        }
        while (depth > keep)
            v->nodes[open[--depth]].end = v->n_nodes;
        for (; depth < t[i].n; depth++) {
            open[depth] = v->n_nodes;
            v->nodes[v->n_nodes++] =
                (struct trie_node){0, -1, (uint16_t)(depth + 1), (uint8_t)t[i].s[depth]};
        }
        v->nodes[v->n_nodes - 1].token = t[i].id;
    }
    while (depth > 0)
        v->nodes[open[--depth]].end = v->n_nodes;
}

static bool is_control(const struct tokenizer *t, int32_t id)
{
    size_t n;
    (void)tokenizer_token_bytes(t, id, &n);
    return n > 0 && tokenizer_is_special(t, id) && !tokenizer_is_eog(t, id);
}

static int find_controls(struct vocab *v, int n_known)
{
    size_t n_bytes = 1, n;
    for (int32_t id = 0; id < n_known; id++)
        if (is_control(v->tokenizer, id)) {
            (void)tokenizer_token_bytes(v->tokenizer, id, &n);
            n_bytes += n + 1;
            v->n_control++;
        }
    v->control = malloc(((size_t)v->n_control + 1) * sizeof(*v->control));
    v->control_text = malloc(((size_t)v->n_control + 1) * sizeof(*v->control_text));
    char *at = v->control_bytes = malloc(n_bytes);
    if (!v->control || !v->control_text || !at)
        return ERR_NOMEM;
    v->n_control = 0;
    for (int32_t id = 0; id < n_known; id++)
        if (is_control(v->tokenizer, id)) {
            const char *s = tokenizer_token_bytes(v->tokenizer, id, &n);
            v->control[v->n_control] = id;
            v->control_text[v->n_control++] = at;
            *at++ = (char)VOCAB_CONTROL;
            memcpy(at, s, n);
            at += n;
        }
    return 0;
}

const char *vocab_text(const struct vocab *v, int32_t id, size_t *ret_n_bytes)
{
    const char *s = tokenizer_token_bytes(v->tokenizer, id, ret_n_bytes);
    if (!tokenizer_is_special(v->tokenizer, id)) {
        if (memchr(s, VOCAB_CONTROL, *ret_n_bytes))
            *ret_n_bytes = 0;
        return s;
    }
    int lo = 0, hi = v->n_control;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (v->control[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    bool found = lo < v->n_control && v->control[lo] == id;
    *ret_n_bytes = found ? *ret_n_bytes + 1 : 0;
    return found ? v->control_text[lo] : "";
}

static int fill(struct vocab *v, struct text *t)
{
    int n = 0, n_known = tokenizer_vocab_size(v->tokenizer);
    size_t most = 1, longest = 1;
    if (find_controls(v, n_known < v->n_ids ? n_known : v->n_ids) < 0)
        return ERR_NOMEM;
    for (int32_t id = 0; id < v->n_ids; id++) {
        v->same[id] = -1;
        if (id >= n_known)
            continue;
        if (tokenizer_is_eog(v->tokenizer, id))
            v->end[v->n_end++] = id;
        if (tokenizer_is_eog(v->tokenizer, id))
            continue;
        t[n].s = vocab_text(v, id, &t[n].n);
        t[n].id = id;
        if (t[n].n > UINT16_MAX)
            return ERR_LIMIT;
        longest = t[n].n > longest ? t[n].n : longest;
        most += t[n].n;
        n += t[n].n > 0;
    }
    qsort(t, (size_t)n, sizeof(*t), by_text);
    for (int i = 1; i < n; i++)
        most -= shared(&t[i - 1], &t[i]);
    v->max_depth = (int)longest;
    int32_t *open = malloc(longest * sizeof(*open));
    v->nodes = malloc(most * sizeof(*v->nodes));
    if (!open || !v->nodes) {
        free(open);
        return ERR_NOMEM;
    }
    build(v, t, n, open);
    free(open);
    return 0;
}

int vocab_new(const struct tokenizer *t, int n_ids, int most, struct vocab **ret)
{
    struct vocab *v = calloc(1, sizeof(*v));
    struct text *texts = malloc(((size_t)n_ids + 1) * sizeof(*texts));
    int r = ERR_NOMEM;
    if (v && texts) {
        v->tokenizer = t;
        v->n_ids = n_ids;
        v->n_words = (n_ids + 31) / 32;
        v->same = malloc(((size_t)n_ids + 1) * sizeof(*v->same));
        v->end = malloc(((size_t)n_ids + 1) * sizeof(*v->end));
        r = v->same && v->end ? fill(v, texts) : ERR_NOMEM;
    }
    free(texts);
    for (int32_t i = 0; r == 0 && i < v->n_nodes; i++)
        v->n_longer += v->nodes[i].depth > most && v->nodes[i].token >= 0;
    if (r == 0 && !(v->longer = malloc(((size_t)v->n_longer + 1) * sizeof(*v->longer))))
        r = ERR_NOMEM;
    for (int32_t i = 0, n = 0; r == 0 && i < v->n_nodes; i++)
        if (v->nodes[i].depth > most && v->nodes[i].token >= 0)
            v->longer[n++] = i;
    if (r < 0) {
        vocab_free(&v);
        return r;
    }
    *ret = v;
    return 0;
}

void vocab_free(struct vocab **vp)
{
    struct vocab *v = *vp;
    *vp = NULL;
    if (!v)
        return;
    free(v->nodes);
    free(v->same);
    free(v->end);
    free(v->longer);
    free(v->control);
    free(v->control_text);
    free(v->control_bytes);
    free(v);
}
