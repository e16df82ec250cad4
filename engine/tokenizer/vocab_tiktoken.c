/* engine/tokenizer/vocab_tiktoken.c - a tokenizer from a tiktoken.model file, as Kimi-K2's folders
 * have it.
 *
 * Each line is a token's bytes in base64, a space, and its rank, which is its id; merges follow
 * from the ranks. The special tokens are in tokenizer_config.json (added_tokens_decoder). The
 * splitting pattern is in the model's Python code only: it is kimi-k2's, so only tokenizer classes
 * that have it are served. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "engine/model/map.h"
#include "engine/tokenizer/vocab_json.h"

#define MAX_FILE_BYTES (64u << 20)
#define MAX_CONFIG_BYTES (16u << 20)
#define MAX_ITEMS 1000000u
#define MAX_TOKEN_BYTES 256

struct kept_tiktoken {
    struct buf text; /* all tokens, in the byte alphabet */
    cJSON *config;
};

static void tiktoken_free(void *p)
{
    struct kept_tiktoken *k = p;
    buf_done(&k->text);
    cJSON_Delete(k->config);
    free(k);
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Returns the bytes written, or -1. */
static int decode_base64(const char *s, size_t n, unsigned char *dst)
{
    unsigned bits = 0;
    int have = 0, out = 0;
    while (n > 0 && s[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++) {
        int d = base64_digit(s[i]);
        if (d < 0 || out >= MAX_TOKEN_BYTES)
            return -1;
        bits = (bits << 6 | (unsigned)d) & 0xffff;
        have += 6;
        if (have >= 8) {
            have -= 8;
            dst[out++] = (unsigned char)(bits >> have);
        }
    }
    return out;
}

/* A byte in the alphabet of GPT-2. */
static int put_byte(struct buf *b, unsigned char c)
{
    unsigned cp = c;
    if (c <= 0x20)
        cp = 0x100u + c;
    else if (c >= 0x7f && c <= 0xa0)
        cp = 0x121u + c - 0x7f;
    else if (c == 0xad)
        cp = 0x143;
    char utf8[2] = {(char)(0xc0 | cp >> 6), (char)(0x80 | (cp & 63))};
    return cp < 0x80 ? buf_append(b, &c, 1) : buf_append(b, utf8, 2);
}

static int bad_line(struct err *e, int line)
{
    return err_set_param(e, ERR_FORMAT, "tiktoken.model",
                         "tiktoken.model: line %d is not \"BASE64 RANK\" with %s", line,
                         "at most 256 bytes and a new rank in the vocabulary");
}

/* v->tokens[i].n_bytes is filled; data is set when the text has stopped moving. */
static int read_lines(const struct file_map *map, int limit, struct vocab *v, size_t *at,
                      struct buf *text, struct err *e)
{
    const char *p = (const char *)map->data, *end = p + map->n_bytes;
    unsigned char bytes[MAX_TOKEN_BYTES + 4];
    for (int line = 1; p < end; line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        stop = stop ? stop : end;
        const char *space = memchr(p, ' ', (size_t)(stop - p));
        if (p == stop || (p + 1 == stop && *p == '\r')) {
            p = stop + 1;
            continue;
        }
        long id = 0;
        int n = space ? decode_base64(p, (size_t)(space - p), bytes) : -1, r = 0;
        const char *d = space ? space + 1 : stop;
        for (; d < stop && *d >= '0' && *d <= '9' && id < limit; d++)
            id = id * 10 + (*d - '0');
        if (d < stop && *d == '\r')
            d++;
        if (n < 1 || d != stop || d == space + 1 || id >= limit || v->types[id] != TOKEN_HOLE)
            return bad_line(e, line);
        at[id] = text->n_bytes;
        for (int i = 0; i < n && r == 0; i++)
            r = put_byte(text, bytes[i]);
        if (r < 0)
            return err_set(e, r, "out of memory for the tokenizer");
        v->tokens[id].n_bytes = text->n_bytes - at[id];
        v->types[id] = TOKEN_NORMAL;
        v->n_tokens = id >= v->n_tokens ? (int)id + 1 : v->n_tokens;
        p = stop + 1;
    }
    for (int i = 0; i < v->n_tokens; i++)
        if (v->types[i] == TOKEN_HOLE)
            return err_set_param(e, ERR_FORMAT, "tiktoken.model",
                                 "tiktoken.model: no token has the rank %d", i);
    return v->n_tokens > 0
               ? 0
               : err_set_param(e, ERR_FORMAT, "tiktoken.model", "tiktoken.model has no token");
}

static int read_special(const cJSON *config, int limit, struct vocab *v, struct err *e)
{
    const cJSON *at;
    int n_ranks = v->n_tokens;
    cJSON_ArrayForEach (at, member(config, "added_tokens_decoder")) {
        char *end;
        long id = strtol(at->string, &end, 10);
        const char *text = text_of(at, "content");
        if (end == at->string || *end || id < n_ranks || id >= limit || !*text ||
            v->types[id] != TOKEN_HOLE)
            return err_set_param(e, ERR_FORMAT, "added_tokens_decoder",
                                 "tokenizer_config.json: added_tokens_decoder: \"%.20s\" is no "
                                 "free id in %d..%d, or has "
                                 "no content",
                                 at->string, n_ranks, limit - 1);
        v->tokens[id] = (struct str_view){text, strlen(text)};
        v->types[id] = cJSON_IsFalse(member(at, "special")) ? TOKEN_USER_DEFINED : TOKEN_CONTROL;
        v->n_tokens = id >= v->n_tokens ? (int)id + 1 : v->n_tokens;
    }
    const char *bos = text_of(config, "bos_token"), *eos = text_of(config, "eos_token");
    for (int i = n_ranks; i < v->n_tokens; i++) {
        if (v->types[i] != TOKEN_HOLE && !strcmp(v->tokens[i].data, bos))
            v->bos = i;
        if (v->types[i] != TOKEN_HOLE && !strcmp(v->tokens[i].data, eos))
            v->eos = i;
    }
    return 0;
}

static int read_config(const char *path, struct kept_tiktoken *k, struct err *e)
{
    struct file_map map = {0};
    int r = map__open(path, MAX_CONFIG_BYTES, &map, e);
    if (r == 0)
        r = json__parse((const char *)map.data, map.n_bytes, MAX_ITEMS, "tokenizer_config.json",
                        &k->config, e);
    map__close(&map);
    if (r < 0)
        return r;
    /* The class is the only thing that tells whose pattern it is. */
    const char *class = text_of(k->config, "tokenizer_class");
    return strcmp(class, "TikTokenTokenizer") == 0
               ? 0
               : err_set_param(e, ERR_UNSUPPORTED, "tokenizer_class",
                               "tokenizer_config.json: tokenizer_class \"%.40s\" with a "
                               "tiktoken.model is not served; "
                               "\"TikTokenTokenizer\" is",
                               class);
}

int vocab_from_tiktoken(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                        struct err *e)
{
    struct vocab v = {.kind = VOCAB_BYTES,
                      .bos = src->bos_token_id,
                      .eos = src->eos_token_id,
                      .unk = -1,
                      .derive_merges = true};
    struct file_map map = {0};
    struct kept_tiktoken *k = calloc(1, sizeof(*k));
    size_t *at = calloc((size_t)vocab_size, sizeof(*at));
    int whole_words = 0, r = map__open(src->tiktoken_path, MAX_FILE_BYTES, &map, e);
    const char *const *patterns = pretok_patterns("kimi-k2", &whole_words);
    v.tokens = calloc((size_t)vocab_size, sizeof(*v.tokens));
    v.types = calloc((size_t)vocab_size, 1);
    v.rules = calloc((size_t)vocab_size, 1); /* no added token comes out of plain text */
    if (r == 0 && (!k || !at || !v.tokens || !v.types || !v.rules))
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    if (k) {
        buf_init(&k->text, 2 * MAX_FILE_BYTES);
        v.keep = k;
        v.keep_free = tiktoken_free;
    }
    if (r == 0 && !src->config_path)
        r = err_set_param(e, ERR_NOTFOUND, "tokenizer_config.json",
                          "tiktoken.model needs tokenizer_config.json beside it");
    if (r == 0 && (r = read_config(src->config_path, k, e)) == 0 &&
        (r = read_lines(&map, vocab_size, &v, at, &k->text, e)) == 0) {
        for (int i = 0; i < v.n_tokens; i++)
            v.tokens[i].data = k->text.data + at[i];
        r = read_special(k->config, vocab_size, &v, e);
    }
    map__close(&map);
    free(at);
    for (int i = 0; patterns[i]; i++)
        v.patterns[v.n_patterns++] = (struct pretok_rule){patterns[i], PRETOK_ISOLATED, false};
    v.whole_words = whole_words;
    v.add_bos = src->add_bos_token > 0;
    v.add_eos = src->add_eos_token > 0;
    if (r < 0) {
        vocab_done(&v);
        return r;
    }
    *ret = v;
    return 0;
}
