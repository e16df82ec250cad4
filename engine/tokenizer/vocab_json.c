/* engine/tokenizer/vocab_json.c - a tokenizer from a Hugging Face tokenizer.json.
 *
 * Byte-level BPE only. What would change the ids and is not served here (normalizers, strip rules,
 * other models) is refused by name: a wrong token is worse than an error. */
#include "config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/json.h"
#include "engine/model/map.h"
#include "engine/tokenizer/vocab.h"

#define MAX_FILE_BYTES (128u << 20)
#define MAX_ITEMS 8000000u

#define GPT2_RULE "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Owns what the strings of the vocab point into. */
struct kept {
    cJSON *root;
    char *quoted[PRETOK_MAX_PATTERNS]; /* literal patterns, escaped */
    int n_quoted;
};

static void kept_free(void *p)
{
    struct kept *k = p;
    cJSON_Delete(k->root);
    for (int i = 0; i < k->n_quoted; i++)
        free(k->quoted[i]);
    free(k);
}

static struct str_view view(const char *s)
{
    return (struct str_view){s, strlen(s)};
}

static const cJSON *member(const cJSON *o, const char *key)
{
    const cJSON *ret = NULL;
    return json__get(o, key, &ret) < 0 ? NULL : ret;
}

static const char *text_of(const cJSON *o, const char *key)
{
    const cJSON *v = member(o, key);
    return cJSON_IsString(v) ? v->valuestring : "";
}

static bool is_set(const cJSON *o, const char *key)
{
    return cJSON_IsTrue(member(o, key));
}

/* A whole number in [0, limit), or -1. */
static int id_of(const cJSON *v, int limit)
{
    double d = cJSON_IsNumber(v) ? v->valuedouble : -1;
    return d >= 0 && d < limit && d == floor(d) ? (int)d : -1;
}

static int unsupported(struct err *e, const char *what, const char *value)
{
    return err_set_param(e, ERR_UNSUPPORTED, what, "tokenizer.json: %s \"%.60s\" is not served", what,
                         value);
}

/* --- vocabulary ----------------------------------------------------------------------------------- */

static int put_token(struct vocab *v, int limit, const char *text, const cJSON *id_value, int type,
                     struct err *e)
{
    int id = id_of(id_value, limit);
    if (id < 0)
        return err_set_param(e, ERR_FORMAT, "vocab",
                             "tokenizer.json: the id of token \"%.40s\" is not in 0..%d", text,
                             limit - 1);
    if (v->types[id] == TOKEN_NORMAL && type == TOKEN_NORMAL)
        return err_set_param(e, ERR_FORMAT, "vocab", "tokenizer.json: two tokens have the id %d", id);
    v->tokens[id] = view(text);
    v->types[id] = (unsigned char)type;
    v->n_tokens = id >= v->n_tokens ? id + 1 : v->n_tokens;
    return 0;
}

static int read_vocab(const cJSON *root, const cJSON *model, int limit, struct vocab *v, struct err *e)
{
    const cJSON *vocab = member(model, "vocab"), *added = member(root, "added_tokens"), *at;
    int r;
    if (!cJSON_IsObject(vocab))
        return err_set_param(e, ERR_FORMAT, "vocab", "tokenizer.json: model.vocab is not an object");
    cJSON_ArrayForEach(at, vocab)
    {
        if ((r = put_token(v, limit, at->string, at, TOKEN_NORMAL, e)) < 0)
            return r;
    }
    cJSON_ArrayForEach(at, added)
    {
        static const char *const rules[] = {"lstrip", "rstrip", "single_word"};
        for (int i = 0; i < 3; i++)
            if (is_set(at, rules[i]))
                return err_set_param(e, ERR_UNSUPPORTED, "added_tokens",
                                     "tokenizer.json: added token \"%.40s\" has %s, which is not served",
                                     text_of(at, "content"), rules[i]);
        r = put_token(v, limit, text_of(at, "content"), member(at, "id"),
                      is_set(at, "special") ? TOKEN_CONTROL : TOKEN_USER_DEFINED, e);
        if (r < 0)
            return r;
    }
    return v->n_tokens > 0 ? 0
                           : err_set_param(e, ERR_FORMAT, "vocab", "tokenizer.json: no token at all");
}

static int read_merges(const cJSON *model, struct vocab *v, struct err *e)
{
    const cJSON *list = member(model, "merges"), *at;
    int i = 0;
    if (!cJSON_IsArray(list))
        return err_set_param(e, ERR_FORMAT, "merges", "tokenizer.json: model.merges is not a list");
    v->n_merges = cJSON_GetArraySize(list);
    v->merges = malloc(((size_t)v->n_merges + 1) * sizeof(*v->merges));
    if (!v->merges)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    cJSON_ArrayForEach(at, list)
    {
        const cJSON *left = cJSON_IsArray(at) ? at->child : NULL, *right = left ? left->next : NULL;
        if (cJSON_IsString(at)) {
            int r = vocab__split_merge(view(at->valuestring), i, &v->merges[i], e);
            if (r < 0)
                return r;
        } else if (cJSON_IsString(left) && cJSON_IsString(right) && !right->next) {
            v->merges[i] = (struct merge_text){view(left->valuestring), view(right->valuestring)};
        } else {
            return err_set_param(e, ERR_FORMAT, "merges",
                                 "tokenizer.json: merges: entry %d is no pair of tokens", i);
        }
        i++;
    }
    return 0;
}

/* --- pre-tokenizer --------------------------------------------------------------------------------- */

static int put_pattern(struct vocab *v, const char *pattern, struct err *e)
{
    if (v->n_patterns == PRETOK_MAX_PATTERNS)
        return err_set_param(e, ERR_LIMIT, "pre_tokenizer",
                             "tokenizer.json: pre_tokenizer has more than %d patterns",
                             PRETOK_MAX_PATTERNS);
    v->patterns[v->n_patterns++] = pattern;
    return 0;
}

/* A literal string as a pattern: every ASCII character that is no letter or digit is escaped. */
static int put_literal(struct vocab *v, struct kept *k, const char *s, struct err *e)
{
    char *q = k->n_quoted < PRETOK_MAX_PATTERNS ? malloc(2 * strlen(s) + 1) : NULL, *p = q;
    if (!q)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    k->quoted[k->n_quoted++] = q;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x80 && !(c >= '0' && c <= '9') && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))
            *p++ = '\\';
        *p++ = *s;
    }
    *p = 0;
    return put_pattern(v, q, e);
}

static int read_split(const cJSON *o, struct vocab *v, struct kept *k, struct err *e)
{
    const cJSON *pattern = member(o, "pattern"), *literal = member(pattern, "String");
    if (strcmp(text_of(o, "behavior"), "Isolated") != 0)
        return unsupported(e, "pre_tokenizer Split behavior", text_of(o, "behavior"));
    if (cJSON_IsString(literal))
        return put_literal(v, k, literal->valuestring, e);
    if (!*text_of(pattern, "Regex"))
        return err_set_param(e, ERR_FORMAT, "pre_tokenizer",
                             "tokenizer.json: a Split has neither Regex nor String");
    return put_pattern(v, text_of(pattern, "Regex"), e);
}

static int read_pretok(const cJSON *o, struct vocab *v, struct kept *k, bool *byte_level, struct err *e)
{
    const char *type = text_of(o, "type");
    if (!strcmp(type, "Split"))
        return read_split(o, v, k, e);
    if (!strcmp(type, "Digits"))
        return put_pattern(v, is_set(o, "individual_digits") ? "\\p{N}" : "\\p{N}+", e);
    if (!strcmp(type, "ByteLevel")) {
        *byte_level = true;
        v->prefix_space = is_set(o, "add_prefix_space");
        return cJSON_IsFalse(member(o, "use_regex")) ? 0 : put_pattern(v, GPT2_RULE, e);
    }
    return unsupported(e, "pre_tokenizer", type);
}

static int read_pretoks(const cJSON *root, struct vocab *v, struct kept *k, struct err *e)
{
    const cJSON *o = member(root, "pre_tokenizer"), *at;
    bool byte_level = false;
    int r = 0;
    if (!strcmp(text_of(o, "type"), "Sequence")) {
        cJSON_ArrayForEach(at, member(o, "pretokenizers"))
        {
            if ((r = read_pretok(at, v, k, &byte_level, e)) < 0)
                return r;
        }
    } else if ((r = read_pretok(o, v, k, &byte_level, e)) < 0) {
        return r;
    }
    return byte_level ? 0 : unsupported(e, "pre_tokenizer", "without ByteLevel");
}

/* --- what is put around a text --------------------------------------------------------------------- */

static int template_id(const cJSON *processor, const cJSON *piece, int limit)
{
    const cJSON *special = member(member(piece, "SpecialToken"), "id");
    const cJSON *entry = cJSON_IsString(special)
                             ? member(member(processor, "special_tokens"), special->valuestring)
                             : NULL;
    const cJSON *ids = member(entry, "ids");
    return ids && cJSON_GetArraySize(ids) == 1 ? id_of(ids->child, limit) : -1;
}

static void read_template(const cJSON *processor, int limit, struct vocab *v)
{
    const cJSON *at, *single = member(processor, "single");
    bool after = false;
    if (!strcmp(text_of(processor, "type"), "Sequence")) {
        cJSON_ArrayForEach(at, member(processor, "processors"))
            if (!strcmp(text_of(at, "type"), "TemplateProcessing"))
                read_template(at, limit, v);
        return;
    }
    cJSON_ArrayForEach(at, single)
    {
        int id = template_id(processor, at, limit);
        if (id < 0) {
            after = true;
        } else if (after) {
            v->add_eos = true;
            v->eos = id;
        } else {
            v->add_bos = true;
            v->bos = id;
        }
    }
}

/* --- the file -------------------------------------------------------------------------------------- */

static int read_all(const cJSON *root, const struct tokenizer_source *src, int limit, struct vocab *v,
                    struct kept *k, struct err *e)
{
    const cJSON *model = member(root, "model"), *normalizer = member(root, "normalizer");
    const cJSON *list = member(normalizer, "normalizers");
    int r;
    if (strcmp(text_of(model, "type"), "BPE") != 0)
        return unsupported(e, "model", text_of(model, "type"));
    if (is_set(model, "byte_fallback"))
        return unsupported(e, "model", "BPE with byte_fallback");
    if (*text_of(model, "continuing_subword_prefix") || *text_of(model, "end_of_word_suffix"))
        return unsupported(e, "model", "BPE with subword marks");
    if (cJSON_IsObject(normalizer) && !(list && cJSON_GetArraySize(list) == 0))
        return unsupported(e, "normalizer", text_of(normalizer, "type"));
    v->whole_words = is_set(model, "ignore_merges");
    if ((r = read_vocab(root, model, limit, v, e)) < 0 || (r = read_merges(model, v, e)) < 0 ||
        (r = read_pretoks(root, v, k, e)) < 0)
        return r;
    read_template(member(root, "post_processor"), limit, v);
    if (src->bos_token_id >= 0)
        v->bos = src->bos_token_id;
    if (src->eos_token_id >= 0)
        v->eos = src->eos_token_id;
    /* tokenizer_config.json speaks last: Llama-like classes of transformers rewrite the template. */
    if (src->add_bos_token >= 0)
        v->add_bos = src->add_bos_token;
    if (src->add_eos_token >= 0)
        v->add_eos = src->add_eos_token;
    return 0;
}

int vocab_from_json(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e)
{
    struct vocab v = {.bos = -1, .eos = -1, .pre_name = "tokenizer.json"};
    struct file_map map = {0};
    struct kept *k = calloc(1, sizeof(*k));
    int r = map__open(src->json_path, MAX_FILE_BYTES, &map, e);
    if (r == 0 && !k)
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    if (r == 0)
        r = json__parse((const char *)map.data, map.n_bytes, MAX_ITEMS, "tokenizer.json", &k->root, e);
    map__close(&map);
    if (r < 0) {
        free(k);
        return r;
    }
    v.keep = k;
    v.keep_free = kept_free;
    v.tokens = calloc((size_t)vocab_size, sizeof(*v.tokens));
    v.types = calloc((size_t)vocab_size, 1);
    if (!v.tokens || !v.types)
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    else
        r = read_all(k->root, src, vocab_size, &v, k, e);
    if (r < 0) {
        vocab_done(&v);
        return r;
    }
    *ret = v;
    return 0;
}
