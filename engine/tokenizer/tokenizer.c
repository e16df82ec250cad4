/* engine/tokenizer/tokenizer.c - making a tokenizer from a struct vocab, and what it knows; see
 * tokenizer.h.
 *
 * All texts of tokens lie in one block. A hash from bytes to id answers tokenizer_find, merges and
 * whole words; of equal texts the ordinary token is found. */
#include "config.h"

#include "engine/tokenizer/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "engine/tokenizer/tokenizer_internal.h"

#define MAX_TOKEN_BYTES 4096
/* Merges are derived from every way to cut every token in two. */
#define MAX_DERIVED_TOKEN_BYTES 256
#define MAX_DERIVED_BYTES (16u << 20)
#define MARK "\xe2\x96\x81" /* U+2581 */

/* --- the byte alphabet of GPT-2 -------------------------------------------------------------- */

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

/* --- building -------------------------------------------------------------------------------- */

int32_t tokenizer__lookup(const struct tokenizer *t, const char *s, size_t n)
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
    if (en->n_bytes == 0 || tokenizer__lookup(t, t->bytes + en->at, en->n_bytes) >= 0)
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

/* The byte of <0xHH>, or -1. */
static int byte_of_name(struct str_view s)
{
    int v = 0;
    if (s.n_bytes != 6 || memcmp(s.data, "<0x", 3) || s.data[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char c = s.data[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* Marks to spaces. */
static size_t decode_marks(struct str_view s, char *dst)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n_bytes;) {
        if (s.n_bytes - i >= 3 && !memcmp(s.data + i, MARK, 3)) {
            dst[n++] = ' ';
            i += 3;
        } else {
            dst[n++] = s.data[i++];
        }
    }
    return n;
}

static size_t fill_entry(struct tokenizer *t, const struct vocab *v, int i, size_t at)
{
    struct entry *en = &t->entries[i];
    struct str_view s = v->tokens[i];
    long n = v->kind == VOCAB_CHARS || literal(v->types[i]) ? -1
                                                            : decode_alphabet(s, t->bytes + at);
    if (n < 0) { /* stands for its own text */
        if (s.n_bytes > 0)
            memcpy(t->bytes + at, s.data, s.n_bytes);
        n = (long)s.n_bytes;
    }
    *en = (struct entry){(uint32_t)at, (uint32_t)n, (uint32_t)at, (uint32_t)n,
                         v->types[i],  false,       false};
    en->ordinary = v->types[i] == TOKEN_NORMAL || (v->types[i] == TOKEN_USER_DEFINED &&
                                                   (!v->rules || (v->rules[i] & ADDED_IN_MODEL)));
    at += (size_t)n;
    if (v->kind == VOCAB_CHARS) {
        int byte = v->types[i] == TOKEN_BYTE ? byte_of_name(s) : -1;
        en->out_at = (uint32_t)at;
        if (byte >= 0) {
            t->bytes[at] = (char)byte;
            t->byte_ids[byte] = i;
            en->n_out_bytes = 1;
        } else {
            en->n_out_bytes = (uint32_t)decode_marks(s, t->bytes + at);
        }
        at += en->n_out_bytes;
    }
    if (en->n_out_bytes > t->max_token_bytes)
        t->max_token_bytes = en->n_out_bytes;
    return at;
}

static int fill_entries(struct tokenizer *t, const struct vocab *v, struct err *e)
{
    size_t total = 0, at = 0;
    uint32_t size = 16;
    for (int i = 0; i < v->n_tokens; i++) {
        if (v->tokens[i].n_bytes > MAX_TOKEN_BYTES)
            return err_set_param(e, ERR_LIMIT, "tokens", "token %d has %zu bytes; at most %d", i,
                                 v->tokens[i].n_bytes, MAX_TOKEN_BYTES);
        total += 2 * v->tokens[i].n_bytes;
    }
    while (size < 2u * (uint32_t)v->n_tokens)
        size *= 2;
    t->n = v->n_tokens;
    t->mask = size - 1;
    t->entries = calloc((size_t)t->n, sizeof(*t->entries));
    t->bytes = malloc(total + 1);
    t->table = malloc(size * sizeof(*t->table));
    if (!t->entries || !t->bytes || !t->table || total > UINT32_MAX)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    memset(t->table, 0xff, size * sizeof(*t->table));
    memset(t->byte_ids, 0xff, sizeof(t->byte_ids));
    for (int i = 0; i < t->n; i++)
        at = fill_entry(t, v, i, at);
    /* Of equal bytes the first is found, and merges mean the ordinary one. */
    for (int i = 0; i < t->n; i++)
        if (v->types[i] != TOKEN_HOLE && !literal(v->types[i]))
            insert(t, i);
    for (int i = 0; i < t->n; i++)
        if (literal(v->types[i]))
            insert(t, i);
    if (v->kind == VOCAB_BYTES)
        for (int b = 0; b < 256; b++) {
            char c = (char)b;
            int32_t id = tokenizer__lookup(t, &c, 1);
            t->byte_ids[b] = id >= 0 && t->entries[id].ordinary ? id : -1;
        }
    return 0;
}

/* --- merges ---------------------------------------------------------------------------------- */

struct merge_list {
    struct bpe_merge *m;
    int n, cap;
};

static int add_merge(struct merge_list *l, struct bpe_merge m)
{
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 1024;
        struct bpe_merge *p = realloc(l->m, (size_t)cap * sizeof(*p));
        if (!p)
            return ERR_NOMEM;
        l->m = p;
        l->cap = cap;
    }
    l->m[l->n++] = m;
    return 0;
}

static int32_t find_text(const struct tokenizer *t, struct str_view s, char *scratch)
{
    if (t->kind == VOCAB_CHARS)
        return tokenizer__lookup(t, s.data, s.n_bytes);
    long n = s.n_bytes <= MAX_TOKEN_BYTES ? decode_alphabet(s, scratch) : -1;
    return n < 0 ? -1 : tokenizer__lookup(t, scratch, (size_t)n);
}

static int listed_merges(struct tokenizer *t, const struct vocab *v, struct merge_list *l,
                         struct err *e)
{
    char *scratch = malloc(2 * MAX_TOKEN_BYTES);
    int r = scratch ? 0 : ERR_NOMEM;
    for (int i = 0; i < v->n_merges && r == 0; i++) {
        struct bpe_merge m = {.result = -1, .rank = i};
        m.left = find_text(t, v->merges[i].left, scratch);
        m.right = find_text(t, v->merges[i].right, scratch);
        if (m.left >= 0 && m.right >= 0) {
            const struct entry *a = &t->entries[m.left], *b = &t->entries[m.right];
            memcpy(scratch, t->bytes + a->at, a->n_bytes);
            memcpy(scratch + a->n_bytes, t->bytes + b->at, b->n_bytes);
            m.result = tokenizer__lookup(t, scratch, (size_t)a->n_bytes + b->n_bytes);
        }
        if (m.result < 0) {
            r = err_set_param(
                e, ERR_FORMAT, "merges",
                "merges: entry %d joins or makes a token that is not in the vocabulary", i);
            break;
        }
        r = add_merge(l, m);
    }
    free(scratch);
    return r;
}

struct scored {
    float score;
    int32_t id;
};

static int compare_scored(const void *pa, const void *pb)
{
    const struct scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* ranks[id]: equal scores have equal ranks, so that the leftmost merges first. */
static int rank_scores(const struct vocab *v, int32_t *ranks, struct err *e)
{
    struct scored *list = malloc((size_t)v->n_tokens * sizeof(*list));
    if (!list)
        return ERR_NOMEM;
    for (int i = 0; i < v->n_tokens; i++) {
        if (isnan(v->scores[i])) {
            free(list);
            return err_set_param(e, ERR_FORMAT, "tokenizer.ggml.scores",
                                 "tokenizer.ggml.scores: entry %d is not a number", i);
        }
        list[i] = (struct scored){v->scores[i], i};
    }
    qsort(list, (size_t)v->n_tokens, sizeof(*list), compare_scored);
    for (int i = 0, rank = 0; i < v->n_tokens; i++) {
        rank = i > 0 && list[i].score != list[i - 1].score ? i : rank;
        ranks[list[i].id] = rank;
    }
    free(list);
    return 0;
}

static int derived_merges(struct tokenizer *t, const struct vocab *v, struct merge_list *l,
                          struct err *e)
{
    int32_t *ranks = malloc((size_t)t->n * sizeof(*ranks));
    size_t total = 0;
    int r = ranks ? 0 : ERR_NOMEM;
    for (int i = 0; i < t->n && r == 0; i++)
        ranks[i] = i;
    if (r == 0 && v->scores)
        r = rank_scores(v, ranks, e);
    for (int i = 0; i < t->n && r == 0; i++) {
        const struct entry *en = &t->entries[i];
        const char *s = t->bytes + en->at;
        if (en->type != TOKEN_NORMAL || tokenizer__lookup(t, s, en->n_bytes) != i)
            continue;
        total += en->n_bytes;
        if (en->n_bytes > MAX_DERIVED_TOKEN_BYTES || total > MAX_DERIVED_BYTES)
            r = err_set_param(
                e, ERR_LIMIT, "tokens",
                "token %d: tokens without a list of merges may have %d bytes each, %u in all", i,
                MAX_DERIVED_TOKEN_BYTES, MAX_DERIVED_BYTES);
        for (uint32_t k = 1; k < en->n_bytes && r == 0; k++) {
            int32_t left = tokenizer__lookup(t, s, k);
            int32_t right = left < 0 ? -1 : tokenizer__lookup(t, s + k, en->n_bytes - k);
            if (right >= 0 && t->entries[left].type == TOKEN_NORMAL &&
                t->entries[right].type == TOKEN_NORMAL)
                r = add_merge(l, (struct bpe_merge){left, right, i, ranks[i]});
        }
    }
    free(ranks);
    return r;
}

static int fill_merges(struct tokenizer *t, const struct vocab *v, struct err *e)
{
    struct merge_list l = {0};
    int r = v->derive_merges ? derived_merges(t, v, &l, e) : listed_merges(t, v, &l, e);
    if (r == 0)
        r = bpe_new(l.m, l.n, t->byte_ids, &t->bpe);
    free(l.m);
    return r == ERR_NOMEM ? err_set(e, r, "out of memory for the tokenizer") : r;
}

/* --- added tokens ---------------------------------------------------------------------------- */

/* The texts that are looked for in normalized text are normalized themselves. */
static int normalize_texts(struct tokenizer *t, struct added_token *list, int n)
{
    struct buf one, all;
    size_t *at = malloc(((size_t)n + 1) * sizeof(*at)), bytes;
    int r = at ? 0 : ERR_NOMEM;
    buf_init(&one, (size_t)MAX_TOKEN_BYTES * NORMAL_MAX_GROWTH);
    buf_init(&all, UINT32_MAX);
    for (int i = 0; i < n && r == 0; i++) {
        at[i] = all.n_bytes;
        if ((r = normal_apply(t->normal, list[i].text, list[i].n_bytes, &one)) == 0)
            r = buf_append(&all, one.data, one.n_bytes);
        list[i].n_bytes = (uint32_t)one.n_bytes;
    }
    t->normalized = buf_take(&all, &bytes);
    for (int i = 0; i < n && r == 0; i++)
        list[i].text = t->normalized + at[i];
    free(at);
    buf_done(&one);
    buf_done(&all);
    return r;
}

static int fill_added(struct tokenizer *t, const struct vocab *v, struct err *e)
{
    size_t bytes = ((size_t)t->n + 1) * sizeof(struct added_token);
    struct added_token *list = malloc(bytes), *early = malloc(bytes), *late = malloc(bytes);
    int n = 0, n_early = 0, n_late = 0, r = list && early && late ? 0 : ERR_NOMEM;
    for (int i = 0; i < t->n && r == 0; i++) {
        const struct entry *en = &t->entries[i];
        bool special = en->type == TOKEN_CONTROL ||
                       (en->type == TOKEN_UNKNOWN && t->kind == VOCAB_CHARS);
        struct added_token a = {t->bytes + en->at, en->n_bytes, i, v->rules ? v->rules[i] : 0,
                                special};
        if ((!special && en->type != TOKEN_USER_DEFINED) || en->n_bytes == 0)
            continue;
        list[n++] = a;
        if (a.rules & ADDED_NORMALIZED)
            late[n_late++] = a;
        else
            early[n_early++] = a;
    }
    if (r == 0 && (r = normalize_texts(t, late, n_late)) == 0 &&
        (r = added_new(list, n, &t->added_all)) == 0 &&
        (r = added_new(early, n_early, &t->added)) == 0)
        r = added_new(late, n_late, &t->added_normal);
    free(list);
    free(early);
    free(late);
    return r < 0 ? err_set(e, r, "out of memory for the added tokens") : 0;
}

/* Texts that end a generation in some model's chat format; the list that llama.cpp knows. */
static const char *const eog_texts[] = {"<|eot_id|>",
                                        "<|im_end|>",
                                        "<|end|>",
                                        "<|return|>",
                                        "<|call|>",
                                        "<|flush|>",
                                        "<|calls|>",
                                        "<end_of_turn>",
                                        "<|endoftext|>",
                                        "</s>",
                                        "<|eom_id|>",
                                        "<EOT>",
                                        "_<EOT>",
                                        "[EOT]",
                                        "[EOS]",
                                        "<|end_of_text|>",
                                        "<end_of_utterance>",
                                        "<eos>",
                                        "<turn|>",
                                        "<|tool_response>",
                                        "<\xef\xbd\x9c"
                                        "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
                                        "[e~["};

static void fill_eog(struct tokenizer *t, const struct tokenizer_source *src)
{
    const int ids[] = {t->eos, src->eos_token_id, src->eot_token_id, src->eom_token_id};
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++)
        if (ids[i] >= 0 && ids[i] < t->n)
            t->entries[ids[i]].eog = true;
    for (int i = 0; i < src->n_eos_extra; i++)
        if (src->eos_extra[i] >= 0 && src->eos_extra[i] < t->n)
            t->entries[src->eos_extra[i]].eog = true;
    for (size_t i = 0; i < sizeof(eog_texts) / sizeof(*eog_texts); i++) {
        int32_t id = tokenizer__lookup(t, eog_texts[i], strlen(eog_texts[i]));
        if (id >= 0 && (src->model || t->entries[id].type != TOKEN_NORMAL))
            t->entries[id].eog = true;
    }
}

int tokenizer_new(const struct tokenizer_source *src, int vocab_size, struct tokenizer **ret,
                  struct err *e)
{
    struct vocab v = {0};
    int r;
    if (!src->model && !src->json_path && !src->tiktoken_path)
        return err_set(e, ERR_NOTFOUND, "the model has no tokenizer");
    r = src->model       ? vocab_from_gguf(src, vocab_size, &v, e)
        : src->json_path ? vocab_from_json(src, vocab_size, &v, e)
                         : vocab_from_tiktoken(src, vocab_size, &v, e);
    if (r < 0)
        return r;
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (!t) {
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    } else {
        t->kind = v.kind;
        t->whole_words = v.whole_words;
        t->prefix_space = v.prefix_space;
        t->metaspace = v.metaspace;
        t->mark = v.mark;
        t->fuse_unk = v.fuse_unk;
        t->strip_left = v.strip_left;
        t->warning = v.warning;
    }
    if (r == 0 && (r = fill_entries(t, &v, e)) == 0 && (r = fill_merges(t, &v, e)) == 0 &&
        (r = normal_new(v.steps, v.n_steps, &t->normal, e)) == 0 && (r = fill_added(t, &v, e)) == 0)
        r = pretok_new(v.patterns, v.n_patterns, &t->pretok, e);
    if (r == 0) {
        t->bos = v.bos >= 0 && v.bos < t->n ? v.bos : -1;
        t->eos = v.eos >= 0 && v.eos < t->n ? v.eos : -1;
        t->unk = v.unk >= 0 && v.unk < t->n ? v.unk : -1;
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
    free(t->normalized);
    added_free(&t->added);
    added_free(&t->added_normal);
    added_free(&t->added_all);
    bpe_free(&t->bpe);
    pretok_free(&t->pretok);
    normal_free(&t->normal);
    free(t);
}

/* --- facts ----------------------------------------------------------------------------------- */

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *ret_n_bytes)
{
    if (id < 0 || id >= t->n) {
        *ret_n_bytes = 0;
        return "";
    }
    *ret_n_bytes = t->entries[id].n_out_bytes;
    return t->bytes + t->entries[id].out_at;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n &&
           (t->entries[id].type == TOKEN_CONTROL || t->entries[id].type == TOKEN_UNKNOWN);
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

int32_t tokenizer_find(const struct tokenizer *t, const char *s, size_t n_bytes)
{
    return n_bytes ? tokenizer__lookup(t, s, n_bytes) : -1;
}

size_t tokenizer_max_token_bytes(const struct tokenizer *t)
{
    return t->max_token_bytes;
}

const char *tokenizer_warning(const struct tokenizer *t)
{
    return t->warning;
}
