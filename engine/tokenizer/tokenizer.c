/* engine/tokenizer/tokenizer.c - the tokenizer itself; see tokenizer.h. Built once from a struct vocab.
 *
 * All token bytes lie in one block. A hash from bytes to id answers tokenizer_find and whole words;
 * the texts that are tokens by themselves (control, user-defined) are chained by their first byte,
 * longest first. */
#include "config.h"

#include "engine/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/utf8.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/vocab.h"

#define MAX_TOKEN_BYTES 4096

struct entry {
    uint32_t at, n_bytes;
    unsigned char type;
    bool eog;
};

struct tokenizer {
    int n;
    struct entry *entries;
    char *bytes;
    int32_t *table; /* by bytes; -1 empty */
    uint32_t mask;
    int32_t first[257]; /* added[first[b] .. first[b + 1]) begin with byte b */
    int32_t *added;
    struct bpe *bpe;
    struct pretok *pretok;
    bool whole_words, prefix_space, add_bos, add_eos;
    int32_t bos, eos;
    size_t max_token_bytes;
    char *pre_name;
};

/* --- the byte alphabet of GPT-2 ----------------------------------------------------------------- */

/* Printable bytes stand for themselves, the other 68 for U+0100 onwards, in order. */
static int byte_of_codepoint(unsigned cp)
{
    if ((cp >= '!' && cp <= '~') || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
        return (int)cp;
    if (cp < 0x100 || cp > 0x143)
        return -1;
    unsigned k = cp - 0x100;
    return k <= 0x20 ? (int)k : k <= 0x42 ? (int)(0x7f + k - 0x21) : 0xad;
}

/* Returns the bytes written, or -1 when s has another character. dst has room for n. */
static long decode_alphabet(struct str_view s, char *dst)
{
    long n = 0;
    for (size_t i = 0; i < s.n_bytes;) {
        unsigned char c = (unsigned char)s.data[i];
        unsigned cp = c;
        size_t len = 1;
        if (c >= 0xc2 && c < 0xe0 && i + 1 < s.n_bytes) {
            cp = (c & 0x1fu) << 6 | ((unsigned char)s.data[i + 1] & 0x3fu);
            len = 2;
        } else if (c >= 0x80) {
            return -1;
        }
        int b = byte_of_codepoint(cp);
        if (b < 0)
            return -1;
        dst[n++] = (char)b;
        i += len;
    }
    return n;
}

/* --- building ----------------------------------------------------------------------------------- */

static int32_t lookup(const struct tokenizer *t, const char *s, size_t n)
{
    for (uint32_t i = (uint32_t)hash64_bytes(s, n, 0);; i++) {
        int32_t id = t->table[i & t->mask];
        if (id < 0)
            return -1;
        if (t->entries[id].n_bytes == n && !memcmp(t->bytes + t->entries[id].at, s, n))
            return id;
    }
}

static void insert(struct tokenizer *t, int32_t id)
{
    const struct entry *en = &t->entries[id];
    uint32_t h = (uint32_t)hash64_bytes(t->bytes + en->at, en->n_bytes, 0);
    if (en->n_bytes == 0 || lookup(t, t->bytes + en->at, en->n_bytes) >= 0)
        return;
    while (t->table[h & t->mask] >= 0)
        h++;
    t->table[h & t->mask] = id;
}

static bool literal(int type)
{
    return type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN ||
           type == TOKEN_UNUSED;
}

static int fill_entries(struct tokenizer *t, const struct vocab *v, struct err *e)
{
    size_t total = 0, at = 0;
    uint32_t size = 16;
    for (int i = 0; i < v->n_tokens; i++) {
        if (v->tokens[i].n_bytes > MAX_TOKEN_BYTES)
            return err_set_param(e, ERR_LIMIT, "tokens", "token %d has %zu bytes; at most %d", i,
                                 v->tokens[i].n_bytes, MAX_TOKEN_BYTES);
        total += v->tokens[i].n_bytes;
    }
    while (size < 2u * (uint32_t)v->n_tokens)
        size *= 2;
    t->n = v->n_tokens;
    t->mask = size - 1;
    t->entries = calloc((size_t)t->n, sizeof(*t->entries));
    t->bytes = malloc(total + 1);
    t->table = malloc(size * sizeof(*t->table));
    t->added = malloc((size_t)t->n * sizeof(*t->added));
    if (!t->entries || !t->bytes || !t->table || !t->added || total > UINT32_MAX)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    memset(t->table, 0xff, size * sizeof(*t->table));
    for (int i = 0; i < t->n; i++) {
        struct entry *en = &t->entries[i];
        struct str_view s = v->tokens[i];
        long n = literal(v->types[i]) ? -1 : decode_alphabet(s, t->bytes + at);
        if (n < 0) { /* stands for its own text */
            memcpy(t->bytes + at, s.data, s.n_bytes);
            n = (long)s.n_bytes;
        }
        *en = (struct entry){(uint32_t)at, (uint32_t)n, v->types[i], false};
        at += (size_t)n;
        t->max_token_bytes = (size_t)n > t->max_token_bytes ? (size_t)n : t->max_token_bytes;
    }
    /* Of equal bytes the first is found, and merges mean the ordinary one. */
    for (int i = 0; i < t->n; i++)
        if (v->types[i] != TOKEN_HOLE && !literal(v->types[i]))
            insert(t, i);
    for (int i = 0; i < t->n; i++)
        if (literal(v->types[i]))
            insert(t, i);
    return 0;
}

static int32_t find_text(const struct tokenizer *t, struct str_view s, char *scratch)
{
    long n = s.n_bytes <= MAX_TOKEN_BYTES ? decode_alphabet(s, scratch) : -1;
    return n < 0 ? -1 : lookup(t, scratch, (size_t)n);
}

static int fill_merges(struct tokenizer *t, const struct vocab *v, struct err *e)
{
    struct bpe_merge *m = malloc(((size_t)v->n_merges + 1) * sizeof(*m));
    char *scratch = malloc(2 * MAX_TOKEN_BYTES);
    int32_t byte_ids[256];
    int r = m && scratch ? 0 : err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    for (int i = 0; i < v->n_merges && r == 0; i++) {
        m[i].left = find_text(t, v->merges[i].left, scratch);
        m[i].right = find_text(t, v->merges[i].right, scratch);
        m[i].result = -1;
        if (m[i].left >= 0 && m[i].right >= 0) {
            const struct entry *a = &t->entries[m[i].left], *b = &t->entries[m[i].right];
            memcpy(scratch, t->bytes + a->at, a->n_bytes);
            memcpy(scratch + a->n_bytes, t->bytes + b->at, b->n_bytes);
            m[i].result = lookup(t, scratch, (size_t)a->n_bytes + b->n_bytes);
        }
        if (m[i].result < 0)
            r = err_set_param(e, ERR_FORMAT, "merges",
                              "merges: entry %d joins or makes a token that is not in the vocabulary",
                              i);
    }
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        byte_ids[b] = lookup(t, &c, 1);
    }
    if (r == 0 && bpe_new(m, v->n_merges, byte_ids, &t->bpe) < 0)
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    free(scratch);
    free(m);
    return r;
}

struct by_first {
    uint32_t n_bytes;
    int32_t id;
    unsigned char first;
};

static int compare_first(const void *pa, const void *pb)
{
    const struct by_first *a = pa, *b = pb;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    if (a->n_bytes != b->n_bytes)
        return a->n_bytes > b->n_bytes ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static int fill_added(struct tokenizer *t, struct err *e)
{
    struct by_first *list = malloc((size_t)t->n * sizeof(*list));
    int n = 0;
    if (!list)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    for (int i = 0; i < t->n; i++) {
        const struct entry *en = &t->entries[i];
        if ((en->type == TOKEN_CONTROL || en->type == TOKEN_USER_DEFINED) && en->n_bytes > 0)
            list[n++] = (struct by_first){en->n_bytes, i, (unsigned char)t->bytes[en->at]};
    }
    qsort(list, (size_t)n, sizeof(*list), compare_first);
    for (int i = 0, b = 0; b <= 256; b++) {
        while (i < n && list[i].first < b)
            i++;
        t->first[b] = i;
    }
    for (int i = 0; i < n; i++)
        t->added[i] = list[i].id;
    free(list);
    return 0;
}

/* Texts that end a generation in some model's chat format; the list that llama.cpp knows. */
static const char *const eog_texts[] = {
    "<|eot_id|>", "<|im_end|>",   "<|end|>",  "<|return|>", "<|call|>",         "<|flush|>",
    "<|calls|>",  "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",       "<EOT>",
    "_<EOT>",     "[EOT]",        "[EOS]",    "<|end_of_text|>", "<end_of_utterance>", "<eos>",
    "<turn|>",    "<|tool_response>", "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
    "[e~["};

static void fill_eog(struct tokenizer *t, const struct tokenizer_source *src)
{
    const int ids[] = {t->eos, src->eot_token_id, src->eom_token_id};
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++)
        if (ids[i] >= 0 && ids[i] < t->n)
            t->entries[ids[i]].eog = true;
    for (int i = 0; i < src->n_eos_extra; i++)
        if (src->eos_extra[i] >= 0 && src->eos_extra[i] < t->n)
            t->entries[src->eos_extra[i]].eog = true;
    for (size_t i = 0; i < sizeof(eog_texts) / sizeof(*eog_texts); i++) {
        int32_t id = lookup(t, eog_texts[i], strlen(eog_texts[i]));
        if (id >= 0 && t->entries[id].type != TOKEN_NORMAL)
            t->entries[id].eog = true;
    }
}

int tokenizer_new(const struct tokenizer_source *src, int vocab_size, struct tokenizer **ret,
                  struct err *e)
{
    struct vocab v = {0};
    int r;
    if (!src->model && !src->json_path)
        return err_set(e, ERR_NOTFOUND, "the model has no tokenizer");
    r = src->model ? vocab_from_gguf(src, vocab_size, &v, e) : vocab_from_json(src, vocab_size, &v, e);
    if (r < 0)
        return r;
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (t)
        t->pre_name = strdup(v.pre_name);
    if (!t || !t->pre_name)
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    if (r == 0 && (r = fill_entries(t, &v, e)) == 0 && (r = fill_merges(t, &v, e)) == 0 &&
        (r = fill_added(t, e)) == 0)
        r = pretok_new(v.patterns, v.n_patterns, &t->pretok, e);
    if (r == 0) {
        t->whole_words = v.whole_words;
        t->prefix_space = v.prefix_space;
        t->bos = v.bos >= 0 && v.bos < t->n ? v.bos : -1;
        t->eos = v.eos >= 0 && v.eos < t->n ? v.eos : -1;
        t->add_bos = v.add_bos && t->bos >= 0;
        t->add_eos = v.add_eos && t->eos >= 0;
        fill_eog(t, src);
        *ret = t;
    } else {
        tokenizer_free(&t);
    }
    vocab_done(&v);
    return r;
}

void tokenizer_free(struct tokenizer **tp)
{
    struct tokenizer *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    free(t->entries);
    free(t->bytes);
    free(t->table);
    free(t->added);
    free(t->pre_name);
    bpe_free(&t->bpe);
    pretok_free(&t->pretok);
    free(t);
}

/* --- encoding ----------------------------------------------------------------------------------- */

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

static int on_piece(void *arg, const char *text, size_t n_bytes)
{
    struct encoder *en = arg;
    struct token_list *out = en->out;
    int32_t id = en->t->whole_words ? lookup(en->t, text, n_bytes) : -1;
    if (id >= 0 && en->t->entries[id].type == TOKEN_NORMAL)
        return put(en, id);
    if (room(out, n_bytes) < 0)
        return ERR_NOMEM;
    int n = bpe_encode(en->t->bpe, (const unsigned char *)text, n_bytes, out->ids + out->n);
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

/* Patterns see valid text only; bytes that are none are encoded one by one between. */
static int encode_bytes(struct encoder *en, const char *s, size_t n)
{
    size_t begin = 0, at = 0;
    if (utf8_valid(s, n))
        return pretok_split(en->t->pretok, s, n, on_piece, en);
    while (at < n) {
        size_t len = char_bytes(s + at, n - at);
        if (len > 0) {
            at += len;
            continue;
        }
        int r = pretok_split(en->t->pretok, s + begin, at - begin, on_piece, en);
        if (r == 0)
            r = on_piece(en, s + at, 1);
        if (r != 0)
            return r;
        begin = ++at;
    }
    return pretok_split(en->t->pretok, s + begin, n - begin, on_piece, en);
}

/* Text between added tokens. */
static int encode_plain(struct encoder *en, const char *s, size_t n)
{
    if (!en->t->prefix_space || n == 0 || s[0] == ' ')
        return encode_bytes(en, s, n);
    char *spaced = malloc(n + 1);
    if (!spaced)
        return ERR_NOMEM;
    spaced[0] = ' ';
    memcpy(spaced + 1, s, n);
    int r = encode_bytes(en, spaced, n + 1);
    free(spaced);
    return r;
}

/* The longest added token that text begins with, or -1. */
static int32_t added_at(const struct tokenizer *t, const char *s, size_t n, bool special)
{
    unsigned char b = (unsigned char)s[0];
    for (int32_t i = t->first[b]; i < t->first[b + 1]; i++) {
        const struct entry *en = &t->entries[t->added[i]];
        if (en->n_bytes <= n && (special || en->type != TOKEN_CONTROL) &&
            !memcmp(t->bytes + en->at, s, en->n_bytes))
            return t->added[i];
    }
    return -1;
}

static bool any_set(const unsigned char *mask, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (mask[i])
            return true;
    return false;
}

static int encode(struct encoder *en, const char *s, const unsigned char *literal, size_t n,
                  unsigned flags)
{
    const struct tokenizer *t = en->t;
    bool special = flags & TOKENIZE_PARSE_SPECIAL;
    size_t begin = 0;
    int r = 0;
    if ((flags & TOKENIZE_ADD_SPECIAL) && t->add_bos)
        r = put(en, t->bos);
    for (size_t at = 0; at < n && r == 0;) {
        int32_t id = t->first[(unsigned char)s[at]] < t->first[(unsigned char)s[at] + 1]
                         ? added_at(t, s + at, n - at, special)
                         : -1;
        if (id < 0 || (literal && any_set(literal + at, t->entries[id].n_bytes))) {
            at++;
            continue;
        }
        r = encode_plain(en, s + begin, at - begin);
        if (r == 0)
            r = put(en, id);
        at += t->entries[id].n_bytes;
        begin = at;
    }
    if (r == 0)
        r = encode_plain(en, s + begin, n - begin);
    if (r == 0 && (flags & TOKENIZE_ADD_SPECIAL) && t->add_eos)
        r = put(en, t->eos);
    return r;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, unsigned flags,
                     size_t max_tokens, struct token_list *out, struct err *e)
{
    return tokenizer_encode_masked(t, text, NULL, n_bytes, flags, max_tokens, out, e);
}

int tokenizer_encode_masked(const struct tokenizer *t, const char *text, const unsigned char *literal,
                            size_t n_bytes, unsigned flags, size_t max_tokens, struct token_list *out,
                            struct err *e)
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

/* --- facts -------------------------------------------------------------------------------------- */

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *ret_n_bytes)
{
    if (id < 0 || id >= t->n) {
        *ret_n_bytes = 0;
        return "";
    }
    *ret_n_bytes = t->entries[id].n_bytes;
    return t->bytes + t->entries[id].at;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n && t->entries[id].type == TOKEN_CONTROL;
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n && t->entries[id].eog;
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *s, size_t n_bytes)
{
    return n_bytes ? lookup(t, s, n_bytes) : -1;
}

size_t tokenizer_max_token_bytes(const struct tokenizer *t)
{
    return t->max_token_bytes;
}

const char *tokenizer_pre_name(const struct tokenizer *t)
{
    return t->pre_name;
}
