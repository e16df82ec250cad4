/* engine/tokenizer/vocab_json.c - a tokenizer from a Hugging Face tokenizer.json.
 *
 * BPE over bytes, or over characters with byte fallback. The vocabulary and the file are here, the
 * steps from text to pieces in vocab_json_steps.c. What would change the ids and is not served is
 * refused by name: a wrong token is worse than an error. */
#include "config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/json.h"
#include "engine/model/map.h"
#include "engine/tokenizer/added.h"
#include "engine/tokenizer/vocab_json.h"

#define MAX_FILE_BYTES (128u << 20)
#define MAX_ITEMS 8000000u

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

/* A whole number in [0, limit), or -1. */
static int id_of(const cJSON *v, int limit)
{
    double d = cJSON_IsNumber(v) ? v->valuedouble : -1;
    return d >= 0 && d < limit && d == floor(d) ? (int)d : -1;
}

/* --- vocabulary ------------------------------------------------------------------------------- */

static int put_token(struct vocab *v, int limit, const char *text, const cJSON *id_value, int type,
                     struct err *e)
{
    int id = id_of(id_value, limit);
    if (id < 0)
        return err_set_param(e, ERR_FORMAT, "vocab",
                             "tokenizer.json: the id of token \"%.40s\" is not in 0..%d", text,
                             limit - 1);
    if (v->types[id] != TOKEN_HOLE && (type == TOKEN_NORMAL || v->types[id] != TOKEN_NORMAL ||
                                       strcmp(v->tokens[id].data, text) != 0))
        return err_set_param(e, ERR_FORMAT, "vocab",
                             "tokenizer.json: two tokens have the id %d: \"%.40s\", \"%.40s\"", id,
                             v->tokens[id].data, text);
    v->tokens[id] = view(text);
    v->types[id] = (unsigned char)type;
    v->n_tokens = id >= v->n_tokens ? id + 1 : v->n_tokens;
    return 0;
}

static int by_content(const void *a, const void *b)
{
    return strcmp(text_of(*(cJSON *const *)a, "content"), text_of(*(cJSON *const *)b, "content"));
}

/* An added token that the vocabulary has must have the same id there: otherwise readers disagree. */
static int check_added(const cJSON *vocab, const cJSON *added, int limit, struct err *e)
{
    int n = cJSON_GetArraySize(added), i = 0, r = 0;
    const cJSON **sorted = malloc(((size_t)n + 1) * sizeof(*sorted)), *at;
    if (!sorted)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    cJSON_ArrayForEach (at, added)
        sorted[i++] = at;
    qsort(sorted, (size_t)n, sizeof(*sorted), by_content);
    cJSON_ArrayForEach (at, vocab) {
        int lo = 0, hi = n;
        while (lo < hi) {
            int mid = lo + (hi - lo) / 2;
            if (strcmp(text_of(sorted[mid], "content"), at->string) < 0)
                lo = mid + 1;
            else
                hi = mid;
        }
        if (r == 0 && lo < n && !strcmp(text_of(sorted[lo], "content"), at->string) &&
            id_of(member(sorted[lo], "id"), limit) != id_of(at, limit))
            r = err_set_param(e, ERR_FORMAT, "added_tokens",
                              "tokenizer.json: added token \"%.40s\" has another id in model.vocab",
                              at->string);
    }
    free(sorted);
    return r;
}

static int read_vocab(const cJSON *root, const cJSON *model, int limit, struct vocab *v,
                      struct err *e)
{
    const cJSON *vocab = member(model, "vocab"), *added = member(root, "added_tokens"), *at;
    int r;
    if (!cJSON_IsObject(vocab))
        return err_set_param(e, ERR_FORMAT, "vocab",
                             "tokenizer.json: model.vocab is not an object");
    bool fallback = v->kind == VOCAB_CHARS && v->byte_fallback;
    cJSON_ArrayForEach (at, vocab) {
        const char *t = at->string;
        bool byte = fallback && strlen(t) == 6 && !strncmp(t, "<0x", 3) && t[5] == '>';
        if ((r = put_token(v, limit, t, at, byte ? TOKEN_BYTE : TOKEN_NORMAL, e)) < 0)
            return r;
    }
    cJSON_ArrayForEach (at, added) {
        const char *text = text_of(at, "content");
        if (!*text)
            return err_set_param(e, ERR_FORMAT, "added_tokens",
                                 "tokenizer.json: added_tokens: an entry without content");
        int id = id_of(member(at, "id"), limit);
        if (id < 0 && id_of(member(at, "id"), INT32_MAX) >= limit) { /* padding and images, mostly */
            v->warning = "tokenizer.json has added tokens beyond the model's vocabulary: they are plain text";
            continue;
        }
        bool in_model = id >= 0 && v->types[id] == TOKEN_NORMAL;
        r = put_token(v, limit, text, member(at, "id"),
                      is_set(at, "special") ? TOKEN_CONTROL : TOKEN_USER_DEFINED, e);
        if (r < 0)
            return r;
        v->rules[id] = (unsigned char)((in_model ? ADDED_IN_MODEL : 0) |
                                       (is_set(at, "lstrip") ? ADDED_LSTRIP : 0) |
                                       (is_set(at, "rstrip") ? ADDED_RSTRIP : 0) |
                                       (is_set(at, "single_word") ? ADDED_SINGLE_WORD : 0) |
                                       (is_set(at, "normalized") ? ADDED_NORMALIZED : 0));
    }
    if ((r = check_added(vocab, added, limit, e)) < 0)
        return r;
    return v->n_tokens > 0
               ? 0
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
    cJSON_ArrayForEach (at, list) {
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

/* --- what is put around a text ---------------------------------------------------------------- */

static int template_id(const cJSON *processor, const cJSON *piece, int limit)
{
    const cJSON *special = member(member(piece, "SpecialToken"), "id");
    const cJSON *entry = cJSON_IsString(special)
                             ? member(member(processor, "special_tokens"), special->valuestring)
                             : NULL;
    const cJSON *ids = member(entry, "ids");
    return ids && cJSON_GetArraySize(ids) == 1 ? id_of(ids->child, limit) : -1;
}

static int read_template(const cJSON *processor, int limit, struct vocab *v, struct err *e)
{
    const cJSON *at, *single = member(processor, "single");
    const char *type = text_of(processor, "type");
    bool after = false;
    if (!cJSON_IsObject(processor) || !strcmp(type, "ByteLevel")) /* which moves offsets only */
        return 0;
    if (!strcmp(type, "Sequence")) {
        cJSON_ArrayForEach (at, member(processor, "processors")) {
            int r = read_template(at, limit, v, e);
            if (r < 0)
                return r;
        }
        return 0;
    }
    if (strcmp(type, "TemplateProcessing") != 0)
        return unsupported(e, "post_processor", type);
    cJSON_ArrayForEach (at, single) {
        bool special = member(at, "SpecialToken") != NULL;
        int id = special ? template_id(processor, at, limit) : -1;
        if (special && (id < 0 || (after ? v->add_eos : v->add_bos)))
            return err_set_param(
                e, ERR_UNSUPPORTED, "post_processor",
                "tokenizer.json: post_processor puts something else than one known token before "
                "and one after the text");
        if (!special) {
            after = true;
        } else if (after) {
            v->add_eos = true;
            v->eos = id;
        } else {
            v->add_bos = true;
            v->bos = id;
        }
    }
    return 0;
}

/* --- the file --------------------------------------------------------------------------------- */

static int read_kind(const cJSON *model, struct vocab *v, struct err *e)
{
    const cJSON *dropout = member(model, "dropout");
    const char *type = text_of(model, "type");
    /* older files, GPT-2's among them, do not say it: what has merges is BPE */
    if (strcmp(type, "BPE") != 0 && (*type || !member(model, "merges")))
        return unsupported(e, "model", type);
    if (*text_of(model, "continuing_subword_prefix") || *text_of(model, "end_of_word_suffix"))
        return unsupported(e, "model", "BPE with subword marks");
    if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0)
        return unsupported(e, "model", "BPE with dropout");
    v->whole_words = is_set(model, "ignore_merges");
    v->byte_fallback = is_set(model, "byte_fallback");
    v->fuse_unk = is_set(model, "fuse_unk");
    return 0;
}

/* Everything but tokens and merges: enough to know the kind of a tokenizer. */
static int read_steps(const cJSON *root, struct vocab *v, struct kept *k, struct err *e)
{
    int r = read_kind(member(root, "model"), v, e);
    if (r == 0 && (r = vocab__json_normalizer(root, v, e)) == 0 &&
        (r = vocab__json_pretok(root, v, k, e)) == 0)
        r = vocab__json_decoder(root, v, e);
    return r;
}

static int named(const struct vocab *v, const char *text, int otherwise)
{
    size_t n = text ? strlen(text) : 0;
    for (int i = 0; n && i < v->n_tokens; i++)
        if (v->types[i] != TOKEN_HOLE && v->tokens[i].n_bytes == n && !memcmp(v->tokens[i].data, text, n))
            return i;
    return otherwise;
}

void vocab__named_ends(const struct tokenizer_source *src, struct vocab *v)
{
    v->bos = named(v, src->bos_text, v->bos);
    v->eos = named(v, src->eos_text, v->eos);
}

static int read_all(const cJSON *root, const struct tokenizer_source *src, int limit,
                    struct vocab *v, struct kept *k, struct err *e)
{
    const cJSON *model = member(root, "model"), *vocab = member(model, "vocab");
    int r;
    if ((r = read_steps(root, v, k, e)) < 0 || (r = read_vocab(root, model, limit, v, e)) < 0 ||
        (r = read_merges(model, v, e)) < 0)
        return r;
    if (*text_of(model, "unk_token"))
        v->unk = id_of(member(vocab, text_of(model, "unk_token")), limit);
    if ((r = read_template(member(root, "post_processor"), limit, v, e)) < 0)
        return r;
    if (src->bos_token_id >= 0)
        v->bos = src->bos_token_id;
    if (src->eos_token_id >= 0)
        v->eos = src->eos_token_id;
    vocab__named_ends(src, v);
    /* tokenizer_config.json speaks last: Llama-like classes of transformers rewrite the template. */
    if (src->add_bos_token >= 0)
        v->add_bos = src->add_bos_token;
    if (src->add_eos_token >= 0)
        v->add_eos = src->add_eos_token;
    return 0;
}

static int open_json(const char *path, struct kept **ret, struct err *e)
{
    struct file_map map = {0};
    struct kept *k = calloc(1, sizeof(*k));
    int r = map__open(path, MAX_FILE_BYTES, &map, e);
    if (r == 0 && !k)
        r = err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    if (r == 0)
        r = json__parse((const char *)map.data, map.n_bytes, MAX_ITEMS, "tokenizer.json", &k->root,
                        e);
    map__close(&map);
    if (r < 0)
        free(k);
    else
        *ret = k;
    return r;
}

int vocab_from_json(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e)
{
    struct vocab v = {.bos = -1, .eos = -1, .unk = -1};
    struct kept *k;
    int r = open_json(src->json_path, &k, e);
    if (r < 0)
        return r;
    v.keep = k;
    v.keep_free = kept_free;
    v.tokens = calloc((size_t)vocab_size, sizeof(*v.tokens));
    v.types = calloc((size_t)vocab_size, 1);
    v.rules = calloc((size_t)vocab_size, 1);
    if (!v.tokens || !v.types || !v.rules)
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

int vocab_pre_name_for(const char *json_path, const char **ret, struct err *e)
{
    struct vocab v = {.bos = -1, .eos = -1, .unk = -1};
    struct kept *k;
    int r = open_json(json_path, &k, e);
    if (r < 0)
        return r;
    v.keep = k;
    v.keep_free = kept_free;
    if ((r = read_steps(k->root, &v, k, e)) == 0) {
        const char *name = v.kind == VOCAB_CHARS
                               ? ""
                               : pretok_name_of(v.patterns, v.n_patterns, v.whole_words);
        *ret = name && !strcmp(name, "default") ? NULL : v.prefix_space ? NULL : name;
    }
    vocab_done(&v);
    return r;
}
