/* engine/tokenizer/vocab_gguf.c - a tokenizer from GGUF metadata (tokenizer.ggml.*). */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/vocab.h"

void vocab_done(struct vocab *v)
{
    free(v->tokens);
    free(v->types);
    free(v->rules);
    free(v->merges);
    if (v->keep)
        v->keep_free(v->keep);
    *v = (struct vocab){0};
}

int vocab__split_merge(struct str_view m, int index, struct merge_text *ret, struct err *e)
{
    /* The left side may itself begin with the separator only in damaged files: it is not in the
     * byte alphabet. */
    const char *space = m.n_bytes > 2 ? memchr(m.data + 1, ' ', m.n_bytes - 2) : NULL;
    if (!space)
        return err_set_param(e, ERR_FORMAT, "merges", "merges: entry %d is not \"left right\"",
                             index);
    ret->left = (struct str_view){m.data, (size_t)(space - m.data)};
    ret->right = (struct str_view){space + 1, m.n_bytes - ret->left.n_bytes - 1};
    return 0;
}

static int gguf_bytes(const struct tokenizer_source *src, struct vocab *v, struct err *e)
{
    int whole_words = 0;
    const char *pre = *src->pre ? src->pre : "default";
    const char *const *patterns = pretok_patterns(pre, &whole_words);
    if (!patterns)
        return err_set_param(e, ERR_UNSUPPORTED, "tokenizer.ggml.pre",
                             "tokenizer.ggml.pre \"%.40s\" is not known; served are: %s", src->pre,
                             pretok_names());
    if (!strcmp(pre, "default"))
        v->warning = "the file does not name its pre-tokenizer (tokenizer.ggml.pre): a guess is "
                     "used, and texts may become wrong tokens; convert the model again";
    for (int i = 0; patterns[i]; i++)
        v->patterns[v->n_patterns++] = (struct pretok_rule){patterns[i], PRETOK_ISOLATED, false};
    v->whole_words = whole_words;
    /* tiktoken's vocabularies are in order of their ranks and may come without merges. */
    v->derive_merges = src->n_merges == 0 && !strcmp(pre, "kimi-k2");
    if (src->n_merges == 0 && !v->derive_merges)
        return err_set_param(e, ERR_FORMAT, "tokenizer.ggml.merges",
                             "tokenizer.ggml.merges is missing");
    /* What llama.cpp does when the key is absent: Llama 3 vocabularies begin with BOS. */
    bool llama3 = whole_words && strcmp(pre, "kimi-k2") && strcmp(pre, "youtu") &&
                  strcmp(pre, "minicpm5");
    v->add_bos = src->add_bos_token >= 0 ? src->add_bos_token : llama3;
    return 0;
}

/* SentencePiece: the pair with the highest score merges first, spaces are U+2581. */
static int gguf_chars(const struct tokenizer_source *src, struct vocab *v, struct err *e)
{
    if (!src->scores || !src->token_types)
        return err_set_param(
            e, ERR_FORMAT, "tokenizer.ggml.scores",
            "tokenizer.ggml.%s is missing; tokenizer.ggml.model \"llama\" needs it",
            src->scores ? "token_type" : "scores");
    v->kind = VOCAB_CHARS;
    v->derive_merges = true;
    v->scores = src->scores;
    v->byte_fallback = v->fuse_unk = true;
    if (!src->no_space_prefix)
        v->steps[v->n_steps++] = (struct normal_step){.kind = NORMAL_PREPEND,
                                                      .content = "\xe2\x96\x81"};
    v->steps[v->n_steps++] =
        (struct normal_step){.kind = NORMAL_REPLACE, .pattern = " ", .content = "\xe2\x96\x81"};
    v->strip_left = !src->no_space_prefix;
    v->add_bos = src->add_bos_token != 0;
    return 0;
}

int vocab_from_gguf(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e)
{
    struct vocab v = {.bos = src->bos_token_id, .eos = src->eos_token_id, .unk = src->unk_token_id};
    int n = src->n_tokens, r;
    if (strcmp(src->model, "gpt2") != 0 && strcmp(src->model, "llama") != 0)
        return err_set_param(
            e, ERR_UNSUPPORTED, "tokenizer.ggml.model",
            "tokenizer.ggml.model \"%.40s\" is not served; \"gpt2\" and \"llama\" are", src->model);
    if (n < 1 || n > vocab_size)
        return err_set_param(e, ERR_FORMAT, "tokenizer.ggml.tokens",
                             "tokenizer.ggml.tokens has %d entries; the model has 1..%d", n,
                             vocab_size);
    r = !strcmp(src->model, "llama") ? gguf_chars(src, &v, e) : gguf_bytes(src, &v, e);
    if (r < 0)
        return r;
    v.add_eos = src->add_eos_token > 0;
    v.n_tokens = n;
    v.n_merges = v.derive_merges ? 0 : src->n_merges;
    v.tokens = malloc((size_t)n * sizeof(*v.tokens));
    v.types = malloc((size_t)n);
    v.merges = malloc(((size_t)v.n_merges + 1) * sizeof(*v.merges));
    if (!v.tokens || !v.types || !v.merges)
        r = err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n && r == 0; i++) {
        int type = src->token_types ? src->token_types[i] : TOKEN_NORMAL;
        v.tokens[i] = src->tokens[i];
        v.types[i] = type >= TOKEN_NORMAL && type <= TOKEN_BYTE ? (unsigned char)type
                                                                : TOKEN_NORMAL;
    }
    for (int i = 0; i < v.n_merges && r == 0; i++)
        r = vocab__split_merge(src->merges[i], i, &v.merges[i], e);
    if (r < 0) {
        vocab_done(&v);
        return r;
    }
    *ret = v;
    return 0;
}
