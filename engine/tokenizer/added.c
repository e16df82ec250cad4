/* engine/tokenizer/added.c - see added.h. */
#include "config.h"

#include "engine/tokenizer/added.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/normal.h"

struct added_set {
    int n;
    struct added_token *list; /* by text */
    int first[257];           /* list[first[b] .. first[b + 1]) begin with byte b */
};

static int compare(const void *pa, const void *pb)
{
    const struct added_token *a = pa, *b = pb;
    int c = memcmp(a->text, b->text, a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes);
    if (c != 0)
        return c;
    if (a->n_bytes != b->n_bytes)
        return a->n_bytes < b->n_bytes ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

int added_new(const struct added_token *list, int n, struct added_set **ret)
{
    struct added_set *s = calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    s->list = malloc(((size_t)n + 1) * sizeof(*s->list));
    if (!s->list) {
        free(s);
        return ERR_NOMEM;
    }
    for (int i = 0; i < n; i++)
        if (list[i].n_bytes > 0)
            s->list[s->n++] = list[i];
    qsort(s->list, (size_t)s->n, sizeof(*s->list), compare);
    for (int i = 0, b = 0; b <= 256; b++) {
        while (i < s->n && (unsigned char)s->list[i].text[0] < b)
            i++;
        s->first[b] = i;
    }
    *ret = s;
    return 0;
}

void added_free(struct added_set **sp)
{
    struct added_set *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    free(s->list);
    free(s);
}

/* First index in [lo, hi) whose byte at `depth` is at least b. All of them are longer than depth. */
static int lower(const struct added_set *s, int lo, int hi, size_t depth, int b)
{
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((unsigned char)s->list[mid].text[depth] < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that text begins with, or NULL. */
static const struct added_token *longest(const struct added_set *s, const char *text, size_t n,
                                         bool special)
{
    const struct added_token *best = NULL;
    int lo = s->first[(unsigned char)text[0]], hi = s->first[(unsigned char)text[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        while (lo < hi &&
               s->list[lo].n_bytes == depth) { /* equal texts lie together, lowest id first */
            if ((special || !s->list[lo].special) && (!best || best->n_bytes < depth))
                best = &s->list[lo];
            lo++;
        }
        if (depth == n)
            break;
        int b = (unsigned char)text[depth];
        lo = lower(s, lo, hi, depth, b);
        hi = lower(s, lo, hi, depth, b + 1);
    }
    return best;
}

static bool any_set(const unsigned char *mask, size_t n)
{
    return mask && memchr(mask, 1, n) != NULL;
}

int32_t added_next(const struct added_set *s, const char *text, const unsigned char *literal,
                   size_t n, size_t done, bool special, size_t *ret_begin, size_t *ret_end)
{
    for (size_t at = done; at < n && s->n > 0;) {
        unsigned char b = (unsigned char)text[at];
        const struct added_token *t = s->first[b] < s->first[b + 1]
                                          ? longest(s, text + at, n - at, special)
                                          : NULL;
        if (!t || any_set(literal ? literal + at : NULL, t->n_bytes)) {
            at++;
            continue;
        }
        size_t begin = at, end = at + t->n_bytes;
        if ((t->rules & ADDED_SINGLE_WORD) &&
            (normal_word_before(text, begin) || normal_word_after(text + end, n - end))) {
            at = end;
            continue;
        }
        if (t->rules & ADDED_LSTRIP)
            begin = normal_spaces_before(text, done, begin);
        if (t->rules & ADDED_RSTRIP)
            end += normal_spaces_after(text + end, n - end);
        *ret_begin = begin;
        *ret_end = end;
        return t->id;
    }
    return -1;
}
