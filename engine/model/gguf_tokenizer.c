/* engine/model/gguf_tokenizer.c - the tokenizer keys of a GGUF file as a tokenizer_source. */
#include "config.h"

#include "engine/model/gguf.h"

#include <string.h>

/* Vocabularies in use have up to 262,144 tokens and about as many merges. */
#define MAX_TOKENS (4 << 20)
#define MAX_MERGES (16 << 20)
#define MAX_NAME_BYTES 63
#define MAX_TEMPLATE_BYTES (1 << 20)

struct reader {
    const struct gguf *g;
    struct arena *arena;
    struct err *e;
};

static int wrong_type(const struct reader *rd, const struct gguf_kv *kv, const char *wanted)
{
    bool array = kv->type == GGUF_ARR;
    return err_set_param(rd->e, ERR_FORMAT, kv->key, "%s: %s must be %s, not %s%s",
                         rd->g->map->label, kv->key, wanted, array ? "an array of " : "",
                         gguf__type_name(array ? kv->elem_type : kv->type));
}

static int no_memory(const struct reader *rd, const char *key)
{
    return err_set_param(rd->e, ERR_NOMEM, key, "%s: no memory for %s", rd->g->map->label, key);
}

/* NUL-terminated copy; *ret untouched when the key is absent. */
static int read_string(const struct reader *rd, const char *key, size_t max_bytes, const char **ret)
{
    const struct gguf_kv *kv = gguf__find(rd->g, key);
    if (!kv)
        return 0;
    if (kv->type != GGUF_STR)
        return wrong_type(rd, kv, "a string");
    if (kv->n > max_bytes || memchr(kv->data, 0, (size_t)kv->n))
        return err_set_param(rd->e, ERR_FORMAT, key,
                             "%s: %s has %llu bytes or a NUL; at most %zu without NUL are accepted",
                             rd->g->map->label, key, (unsigned long long)kv->n, max_bytes);
    const char *s = arena_strndup(rd->arena, (const char *)kv->data, (size_t)kv->n);
    if (!s)
        return no_memory(rd, key);
    *ret = s;
    return 0;
}

static int read_strings(const struct reader *rd, const char *key, int max, int *ret_n,
                        const struct str_view **ret)
{
    const struct gguf_kv *kv = gguf__find(rd->g, key);
    if (!kv)
        return 0;
    if (kv->type != GGUF_ARR || kv->elem_type != GGUF_STR)
        return wrong_type(rd, kv, "an array of strings");
    if (kv->n > (uint64_t)max)
        return err_set_param(rd->e, ERR_FORMAT, key,
                             "%s: %s has %llu elements; at most %d are accepted",
                             rd->g->map->label, key, (unsigned long long)kv->n, max);
    struct str_view *v = arena_array(rd->arena, (size_t)kv->n, sizeof(*v));
    if (!v)
        return no_memory(rd, key);
    const unsigned char *p = kv->data; /* lengths were checked by the parser */
    for (uint64_t i = 0; i < kv->n; i++) {
        uint64_t n;
        memcpy(&n, p, sizeof(n));
        v[i] = (struct str_view){(const char *)p + sizeof(n), (size_t)n};
        p += sizeof(n) + n;
    }
    *ret = v;
    *ret_n = (int)kv->n;
    return 0;
}

/* An aligned copy of an array that goes with the tokens; NULL when absent. */
static int read_per_token(const struct reader *rd, const char *key, uint32_t elem_type, int n_tokens,
                          const char *wanted, const void **ret)
{
    const struct gguf_kv *kv = gguf__find(rd->g, key);
    if (!kv)
        return 0;
    bool ok = kv->type == GGUF_ARR &&
              (kv->elem_type == elem_type || (elem_type == GGUF_I32 && kv->elem_type == GGUF_U32));
    if (!ok)
        return wrong_type(rd, kv, wanted);
    if (kv->n != (uint64_t)n_tokens)
        return err_set_param(rd->e, ERR_FORMAT, key,
                             "%s: %s has %llu elements; tokenizer.ggml.tokens has %d",
                             rd->g->map->label, key, (unsigned long long)kv->n, n_tokens);
    void *v = arena_memdup(rd->arena, kv->data, (size_t)kv->n * 4);
    if (!v)
        return no_memory(rd, key);
    *ret = v;
    return 0;
}

static int read_id(const struct reader *rd, const char *key, int vocab_size, int *ret)
{
    const struct gguf_kv *kv = gguf__find(rd->g, key);
    int64_t v;
    *ret = -1;
    if (!kv)
        return 0;
    if (!gguf__is_int_type(kv->type))
        return wrong_type(rd, kv, "an integer");
    if (!gguf__as_int(kv, &v))
        v = INT64_MAX;
    /* converters write "none" as -1, in whichever integer type */
    if (v == -1 || (kv->type == GGUF_U32 && v == UINT32_MAX))
        return 0;
    if (v < 0 || v >= vocab_size)
        return err_set_param(rd->e, ERR_FORMAT, key,
                             "%s: %s is %lld; 0..%d is accepted (the vocabulary)",
                             rd->g->map->label, key, (long long)v, vocab_size - 1);
    *ret = (int)v;
    return 0;
}

/* More that end a generation, as Ollama's files list them. */
static int read_ids(const struct reader *rd, const char *key, int vocab_size, struct tokenizer_source *t)
{
    const struct gguf_kv *kv = gguf__find(rd->g, key);
    int max = (int)(sizeof(t->eos_extra) / sizeof(t->eos_extra[0]));
    if (!kv)
        return 0;
    if (kv->type != GGUF_ARR || !gguf__is_int_type(kv->elem_type))
        return wrong_type(rd, kv, "an array of integers");
    struct gguf_kv one = {.type = kv->elem_type, .data = kv->data};
    for (uint64_t i = 0; i < kv->n && t->n_eos_extra < max; i++) {
        int64_t id;
        if (!gguf__as_int(&one, &id))
            id = INT64_MAX;
        if (id < 0 || id >= vocab_size)
            return err_set_param(rd->e, ERR_FORMAT, key,
                                 "%s: %s has %lld; 0..%d are accepted (the vocabulary)",
                                 rd->g->map->label, key, (long long)id, vocab_size - 1);
        t->eos_extra[t->n_eos_extra++] = (int32_t)id;
        one.data += gguf__value_bytes(&one);
    }
    return 0;
}

static int read_flag(const struct reader *rd, const char *key, int *ret)
{
    const struct gguf_kv *kv = gguf__find(rd->g, key);
    int64_t v;
    *ret = -1;
    if (!kv)
        return 0;
    if (kv->type != GGUF_BOOL || !gguf__as_int(kv, &v))
        return wrong_type(rd, kv, "a bool");
    if (v != 0 && v != 1)
        return err_set_param(rd->e, ERR_FORMAT, key, "%s: %s is %lld; 0..1 is accepted",
                             rd->g->map->label, key, (long long)v);
    *ret = (int)v;
    return 0;
}

int gguf__tokenizer(const struct gguf *g, int vocab_size, struct arena *arena,
                    struct tokenizer_source *ret, const char **ret_chat_template, struct err *e)
{
    struct reader rd = {g, arena, e};
    struct tokenizer_source t = {.pre = ""};
    const char *chat_template = NULL;
    const void *token_types = NULL, *scores = NULL;
    int r, space_prefix = -1;
    if ((r = read_string(&rd, "tokenizer.ggml.model", MAX_NAME_BYTES, &t.model)) < 0 ||
        (r = read_string(&rd, "tokenizer.ggml.pre", MAX_NAME_BYTES, &t.pre)) < 0 ||
        (r = read_string(&rd, "tokenizer.chat_template", MAX_TEMPLATE_BYTES, &chat_template)) < 0 ||
        (r = read_strings(&rd, "tokenizer.ggml.tokens", MAX_TOKENS, &t.n_tokens, &t.tokens)) < 0 ||
        (r = read_strings(&rd, "tokenizer.ggml.merges", MAX_MERGES, &t.n_merges, &t.merges)) < 0 ||
        (r = read_per_token(&rd, "tokenizer.ggml.token_type", GGUF_I32, t.n_tokens,
                            "an array of int32", &token_types)) < 0 ||
        (r = read_per_token(&rd, "tokenizer.ggml.scores", GGUF_F32, t.n_tokens,
                            "an array of float32", &scores)) < 0 ||
        (r = read_id(&rd, "tokenizer.ggml.bos_token_id", vocab_size, &t.bos_token_id)) < 0 ||
        (r = read_id(&rd, "tokenizer.ggml.eos_token_id", vocab_size, &t.eos_token_id)) < 0 ||
        (r = read_ids(&rd, "tokenizer.ggml.eos_token_ids", vocab_size, &t)) < 0 ||
        (r = read_id(&rd, "tokenizer.ggml.eot_token_id", vocab_size, &t.eot_token_id)) < 0 ||
        (r = read_id(&rd, "tokenizer.ggml.eom_token_id", vocab_size, &t.eom_token_id)) < 0 ||
        (r = read_id(&rd, "tokenizer.ggml.padding_token_id", vocab_size, &t.pad_token_id)) < 0 ||
        (r = read_id(&rd, "tokenizer.ggml.unknown_token_id", vocab_size, &t.unk_token_id)) < 0 ||
        (r = read_flag(&rd, "tokenizer.ggml.add_bos_token", &t.add_bos_token)) < 0 ||
        (r = read_flag(&rd, "tokenizer.ggml.add_eos_token", &t.add_eos_token)) < 0 ||
        (r = read_flag(&rd, "tokenizer.ggml.add_space_prefix", &space_prefix)) < 0)
        return r;
    if (t.model && strcmp(t.model, "none") == 0) /* how converters say "ids only" */
        t.model = NULL;
    if (t.n_tokens > vocab_size)
        return err_set_param(e, ERR_FORMAT, "tokenizer.ggml.tokens",
                             "%s: tokenizer.ggml.tokens has %d elements; the vocabulary has %d",
                             g->map->label, t.n_tokens, vocab_size);
    if (t.model && t.n_tokens == 0)
        return err_set_param(e, ERR_FORMAT, "tokenizer.ggml.tokens",
                             "%s: tokenizer.ggml.model is %s, but tokenizer.ggml.tokens is missing",
                             g->map->label, t.model);
    t.no_space_prefix = space_prefix == 0;
    t.token_types = token_types;
    t.scores = scores;
    *ret = t;
    *ret_chat_template = chat_template;
    return 0;
}

int gguf__tool_template(const struct gguf *g, struct arena *arena, const char **ret, struct err *e)
{
    struct reader rd = {g, arena, e};
    const char *text = NULL;
    int r = read_string(&rd, "tokenizer.chat_template.tool_use", MAX_TEMPLATE_BYTES, &text);
    if (r == 0)
        *ret = text;
    return r;
}
