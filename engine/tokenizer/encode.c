/* engine/tokenizer/encode.c - text to ids; see tokenizer.h.
 *
 * The order is that of the reference implementation: added tokens are found in the text as it is;
 * what is between them is normalized; added tokens that ask for it are found in that; the rest is
 * split into pieces, and each piece is merged. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/tokenizer/tokenizer_internal.h"

#define MARK "\xe2\x96\x81" /* U+2581 */

struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    size_t max_tokens;
};

static int room(struct token_list *l, size_t extra)
{
    if (l->cap - l->n >= extra)
        return 0;
    size_t cap = l->cap * 2 > l->n + extra ? l->cap * 2 : l->n + extra + 64;
    int32_t *ids = realloc(l->ids, cap * sizeof(*ids));
    if (!ids)
        return ERR_NOMEM;
    l->ids = ids;
    l->cap = cap;
    return 0;
}

static int put(struct encoder *en, int32_t id)
{
    if (en->out->n >= en->max_tokens)
        return ERR_LIMIT;
    if (room(en->out, 1) < 0)
        return ERR_NOMEM;
    en->out->ids[en->out->n++] = id;
    return 0;
}

/* Characters of a piece as ids: tokens, else the tokens of their bytes, else the unknown one. */
static int char_ids(const struct tokenizer *t, const char *s, size_t n_bytes, int32_t *ids)
{
    int n = 0;
    bool unknown = false;
    for (size_t i = 0, len; i < n_bytes; i += len) {
        unsigned char c = (unsigned char)s[i];
        len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        len = len > n_bytes - i ? n_bytes - i : len;
        int32_t id = tokenizer__lookup(t, s + i, len);
        if (id >= 0 && t->entries[id].ordinary) {
            ids[n++] = id;
            unknown = false;
            continue;
        }
        size_t k = 0;
        while (k < len && t->byte_ids[(unsigned char)s[i + k]] >= 0)
            k++;
        if (k == len) {
            for (k = 0; k < len; k++)
                ids[n++] = t->byte_ids[(unsigned char)s[i + k]];
            unknown = false;
        } else if (t->unk >= 0) {
            if (!unknown || !t->fuse_unk)
                ids[n++] = t->unk;
            unknown = true;
        }
    }
    return n;
}

static int on_piece(void *arg, const char *text, size_t n_bytes)
{
    struct encoder *en = arg;
    const struct tokenizer *t = en->t;
    struct token_list *out = en->out;
    int32_t id = t->whole_words ? tokenizer__lookup(t, text, n_bytes) : -1;
    if (id >= 0 && t->entries[id].ordinary)
        return put(en, id);
    if (room(out, n_bytes) < 0)
        return ERR_NOMEM;
    int n = t->kind == VOCAB_BYTES
                ? bpe_encode(t->bpe, (const unsigned char *)text, n_bytes, out->ids + out->n)
                : bpe_merge_ids(t->bpe, out->ids + out->n,
                                char_ids(t, text, n_bytes, out->ids + out->n));
    if (n < 0)
        return n;
    out->n += (size_t)n;
    return out->n > en->max_tokens ? ERR_LIMIT : 0;
}

/* Length of the character at s, or 0 when it is ill-formed. */
static size_t char_bytes(const char *s, size_t n)
{
    unsigned char c = (unsigned char)s[0];
    size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    return c < 0x80 || (len <= n && utf8_valid(s, len)) ? len : 0;
}

/* A part of the text: s[n] with its mask (or NULL); first: it begins the text. */
struct part {
    const char *s;
    const unsigned char *literal;
    size_t n;
    bool first, special;
};

/* Spaces to marks, and one before. */
static int marked(struct encoder *en, const struct part *p)
{
    size_t n = 0;
    char *out = malloc(3 * p->n + 3);
    if (!out)
        return ERR_NOMEM;
    bool has = p->s[0] == ' ' || (p->n >= 3 && !memcmp(p->s, MARK, 3));
    if (!has && (en->t->mark == MARK_ALWAYS || (en->t->mark == MARK_FIRST && p->first))) {
        memcpy(out, MARK, 3);
        n = 3;
    }
    for (size_t i = 0; i < p->n; i++) {
        if (p->s[i] == ' ') {
            memcpy(out + n, MARK, 3);
            n += 3;
        } else {
            out[n++] = p->s[i];
        }
    }
    int r = pretok_split(en->t->pretok, out, n, on_piece, en);
    free(out);
    return r;
}

/* Valid, normalized, without added tokens. */
static int encode_plain(struct encoder *en, const struct part *p)
{
    const struct tokenizer *t = en->t;
    if (p->n == 0)
        return 0;
    if (t->metaspace)
        return marked(en, p);
    if (!t->prefix_space || p->s[0] == ' ')
        return pretok_split(t->pretok, p->s, p->n, on_piece, en);
    char *spaced = malloc(p->n + 1);
    if (!spaced)
        return ERR_NOMEM;
    spaced[0] = ' ';
    memcpy(spaced + 1, p->s, p->n);
    int r = pretok_split(t->pretok, spaced, p->n + 1, on_piece, en);
    free(spaced);
    return r;
}

/* Added tokens of `set` become ids, what is between them goes to `rest`. */
static int encode_added(struct encoder *en, const struct added_set *set, const struct part *p,
                        int (*rest)(struct encoder *en, const struct part *p))
{
    size_t done = 0, begin = 0, end = 0;
    int32_t id;
    int r = 0;
    while (r == 0 &&
           (id = added_next(set, p->s, p->literal, p->n, done, p->special, &begin, &end)) >= 0) {
        struct part before = {p->s + done, p->literal ? p->literal + done : NULL, begin - done,
                              p->first && done == 0, p->special};
        r = rest(en, &before);
        if (r == 0)
            r = put(en, id);
        done = end;
    }
    struct part after = {p->s + done, p->literal ? p->literal + done : NULL, p->n - done,
                         p->first && done == 0, p->special};
    return r == 0 ? rest(en, &after) : r;
}

/* Valid text between the added tokens that are found in the text as it is. */
static int encode_valid(struct encoder *en, const struct part *p)
{
    const struct tokenizer *t = en->t;
    struct part q = *p;
    struct buf normal;
    int r = 0;
    if (p->n == 0)
        return 0;
    buf_init(&normal, p->n > SIZE_MAX / 64 ? SIZE_MAX : p->n * NORMAL_MAX_GROWTH + 1024);
    if (!normal_is_identity(t->normal)) {
        r = normal_apply(t->normal, p->s, p->n, &normal);
        q.s = normal.data;
        q.n = normal.n_bytes;
    }
    if (r == 0)
        r = p->literal ? encode_plain(en, &q) : encode_added(en, t->added_normal, &q, encode_plain);
    buf_done(&normal);
    return r;
}

/* Patterns see valid text only; bytes that are none are encoded one by one between. */
static int encode_bytes(struct encoder *en, const struct part *p)
{
    struct part q = *p;
    size_t begin = 0, at = 0;
    int r = 0;
    if (utf8_valid(p->s, p->n))
        return encode_valid(en, p);
    while (r == 0 && at < p->n) {
        size_t len = char_bytes(p->s + at, p->n - at);
        if (len > 0) {
            at += len;
            continue;
        }
        q.s = p->s + begin;
        q.n = at - begin;
        if ((r = encode_valid(en, &q)) == 0)
            r = on_piece(en, p->s + at, 1);
        q.first = false;
        begin = ++at;
    }
    q.s = p->s + begin;
    q.n = p->n - begin;
    return r == 0 ? encode_valid(en, &q) : r;
}

static int encode(struct encoder *en, const char *s, const unsigned char *literal, size_t n,
                  unsigned flags)
{
    const struct tokenizer *t = en->t;
    struct part all = {s, literal, n, true, flags & TOKENIZE_PARSE_SPECIAL};
    int r = 0;
    if ((flags & TOKENIZE_ADD_SPECIAL) && t->add_bos)
        r = put(en, t->bos);
    /* A mask is of the text as it is: with one, all added tokens are found there. */
    if (r == 0)
        r = encode_added(en, literal ? t->added_all : t->added, &all, encode_bytes);
    if (r == 0 && (flags & TOKENIZE_ADD_SPECIAL) && t->add_eos)
        r = put(en, t->eos);
    return r;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, unsigned flags,
                     size_t max_tokens, struct token_list *out, struct err *e)
{
    return tokenizer_encode_masked(t, text, NULL, n_bytes, flags, max_tokens, out, e);
}

int tokenizer_encode_masked(const struct tokenizer *t, const char *text,
                            const unsigned char *literal, size_t n_bytes, unsigned flags,
                            size_t max_tokens, struct token_list *out, struct err *e)
{
    struct encoder en = {t, out, max_tokens};
    size_t before = out->n;
    int r = encode(&en, text, literal, n_bytes, flags);
    if (r == 0)
        return 0;
    out->n = before;
    return r == ERR_LIMIT ? err_set(e, r, "the text has more than %zu tokens", max_tokens)
                          : err_set(e, r, "the text cannot be tokenized: %s", err_name(r));
}
