/* engine/tokenizer/bpe.c - see bpe.h. Pairs are found in an open-addressing table. */
#include "config.h"

#include "engine/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#define SCAN_MAX 48 /* symbols up to which scanning beats the heap */

struct slot {
    int32_t left, right; /* left -1: empty */
    int32_t rank, result;
};

struct bpe {
    struct slot *slots;
    uint32_t mask;
    int32_t byte_ids[256];
};

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32) ^ (uint32_t)(h >> 11);
}

static const struct slot *find(const struct bpe *b, int32_t left, int32_t right)
{
    for (uint32_t i = hash_pair(left, right);; i++) {
        const struct slot *s = &b->slots[i & b->mask];
        if (s->left < 0)
            return NULL;
        if (s->left == left && s->right == right)
            return s;
    }
}

int bpe_new(const struct bpe_merge *merges, int n_merges, const int32_t byte_ids[256],
            struct bpe **ret)
{
    uint32_t size = 16;
    while (size < 2u * (uint32_t)n_merges)
        size *= 2;
    struct bpe *b = calloc(1, sizeof(*b));
    if (!b)
        return ERR_NOMEM;
    b->slots = malloc(size * sizeof(*b->slots));
    if (!b->slots) {
        free(b);
        return ERR_NOMEM;
    }
    memset(b->slots, 0xff, size * sizeof(*b->slots));
    memcpy(b->byte_ids, byte_ids, sizeof(b->byte_ids));
    b->mask = size - 1;
    for (int m = 0; m < n_merges; m++) {
        uint32_t i = hash_pair(merges[m].left, merges[m].right);
        while (b->slots[i & b->mask].left >= 0 && (b->slots[i & b->mask].left != merges[m].left ||
                                                   b->slots[i & b->mask].right != merges[m].right))
            i++;
        b->slots[i & b->mask] =
            (struct slot){merges[m].left, merges[m].right, merges[m].rank, merges[m].result};
    }
    *ret = b;
    return 0;
}

void bpe_free(struct bpe **bp)
{
    struct bpe *b = *bp;
    *bp = NULL;
    if (!b)
        return;
    free(b->slots);
    free(b);
}

static int encode_short(const struct bpe *b, int32_t *ids, int n)
{
    const struct slot *pair[SCAN_MAX]; /* of ids[i], ids[i + 1] */
    for (int i = 0; i + 1 < n; i++)
        pair[i] = find(b, ids[i], ids[i + 1]);
    while (n > 1) {
        int best = -1;
        for (int i = 0; i + 1 < n; i++)
            if (pair[i] && (best < 0 || pair[i]->rank < pair[best]->rank))
                best = i;
        if (best < 0)
            break;
        ids[best] = pair[best]->result;
        n--;
        memmove(&ids[best + 1], &ids[best + 2], (size_t)(n - best - 1) * sizeof(*ids));
        if (best + 2 < n)
            memmove(&pair[best + 1], &pair[best + 2], (size_t)(n - best - 2) * sizeof(*pair));
        if (best > 0)
            pair[best - 1] = find(b, ids[best - 1], ids[best]);
        if (best + 1 < n)
            pair[best] = find(b, ids[best], ids[best + 1]);
    }
    return n;
}

/* --- long pieces ------------------------------------------------------------------------------- */

struct symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t prev, next;
};

struct candidate {
    int32_t rank, at; /* at: index of the left symbol */
    int32_t left, right; /* ids when it was found: stale when they have changed */
    int32_t result;
};

struct heap {
    struct candidate *c;
    int n;
};

static int before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(struct heap *h, struct candidate c)
{
    int i = h->n++;
    for (; i > 0 && before(&c, &h->c[(i - 1) / 2]); i = (i - 1) / 2)
        h->c[i] = h->c[(i - 1) / 2];
    h->c[i] = c;
}

static struct candidate pop(struct heap *h)
{
    struct candidate top = h->c[0], last = h->c[--h->n];
    int i = 0;
    for (;;) {
        int k = 2 * i + 1;
        if (k >= h->n)
            break;
        if (k + 1 < h->n && before(&h->c[k + 1], &h->c[k]))
            k++;
        if (!before(&h->c[k], &last))
            break;
        h->c[i] = h->c[k];
        i = k;
    }
    h->c[i] = last;
    return top;
}

static void consider(const struct bpe *b, struct heap *h, const struct symbol *s, int32_t at)
{
    if (at < 0 || s[at].next < 0)
        return;
    const struct slot *p = find(b, s[at].id, s[s[at].next].id);
    if (p)
        push(h, (struct candidate){p->rank, at, p->left, p->right, p->result});
}

static int encode_long(const struct bpe *b, int32_t *ids, int n)
{
    struct symbol *s = malloc((size_t)n * sizeof(*s));
    /* n - 1 pairs at first; each merge takes one symbol away and adds at most two pairs. */
    struct heap h = {malloc((size_t)n * 3 * sizeof(*h.c)), 0};
    if (!s || !h.c) {
        free(s);
        free(h.c);
        return ERR_NOMEM;
    }
    for (int i = 0; i < n; i++)
        s[i] = (struct symbol){ids[i], i - 1, i + 1 < n ? i + 1 : -1};
    for (int i = 0; i + 1 < n; i++)
        consider(b, &h, s, i);
    while (h.n > 0) {
        struct candidate c = pop(&h);
        int32_t right = s[c.at].next;
        if (s[c.at].id != c.left || right < 0 || s[right].id != c.right)
            continue;
        s[c.at].id = c.result;
        s[c.at].next = s[right].next;
        s[right].id = -1;
        if (s[right].next >= 0)
            s[s[right].next].prev = c.at;
        consider(b, &h, s, s[c.at].prev);
        consider(b, &h, s, c.at);
    }
    int out = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next)
        ids[out++] = s[i].id;
    free(s);
    free(h.c);
    return out;
}

int bpe_encode(const struct bpe *b, const unsigned char *piece, size_t n_bytes, int32_t *ret)
{
    int n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        if (b->byte_ids[piece[i]] >= 0)
            ret[n++] = b->byte_ids[piece[i]];
    return bpe_merge_ids(b, ret, n);
}

int bpe_merge_ids(const struct bpe *b, int32_t *ids, int n)
{
    return n < 2 ? n : n <= SCAN_MAX ? encode_short(b, ids, n) : encode_long(b, ids, n);
}
