/* engine/tokenizer/vocab_gguf.c - a tokenizer from GGUF metadata (tokenizer.ggml.*). */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/vocab.h"

void vocab_done(struct vocab *v)
{
    free(v->tokens);
    free(v->types);
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
        return err_set_param(e, ERR_FORMAT, "merges", "merges: entry %d is not \"left right\"", index);
    ret->left = (struct str_view){m.data, (size_t)(space - m.data)};
    ret->right = (struct str_view){space + 1, m.n_bytes - ret->left.n_bytes - 1};
    return 0;
}

int vocab_from_gguf(const struct tokenizer_source *src, int vocab_size, struct vocab *ret,
                    struct err *e)
{
    struct vocab v = {.bos = src->bos_token_id, .eos = src->eos_token_id};
    int whole_words = 0, n = src->n_tokens;
    if (strcmp(src->model, "gpt2") != 0)
        return err_set_param(e, ERR_UNSUPPORTED, "tokenizer.ggml.model",
                             "tokenizer.ggml.model \"%.40s\" is not served; \"gpt2\" is", src->model);
    if (n < 1 || n > vocab_size)
        return err_set_param(e, ERR_FORMAT, "tokenizer.ggml.tokens",
                             "tokenizer.ggml.tokens has %d entries; the model has 1..%d", n,
                             vocab_size);
    const char *const *patterns = pretok_patterns(src->pre, &whole_words);
    if (!patterns)
        return err_set_param(e, ERR_UNSUPPORTED, "tokenizer.ggml.pre",
                             "tokenizer.ggml.pre \"%.40s\" is not known; served are: %s",
                             src->pre, pretok_names());
    for (int i = 0; patterns[i]; i++)
        v.patterns[v.n_patterns++] = patterns[i];
    v.pre_name = src->pre;
    v.whole_words = whole_words;
    /* What llama.cpp does when the key is absent: Llama 3 vocabularies begin with BOS. */
    v.add_bos = src->add_bos_token >= 0 ? src->add_bos_token : whole_words;
    v.add_eos = src->add_eos_token > 0;
    v.n_tokens = n;
    v.n_merges = src->n_merges;
    v.tokens = malloc((size_t)n * sizeof(*v.tokens));
    v.types = malloc((size_t)n);
    v.merges = malloc(((size_t)v.n_merges + 1) * sizeof(*v.merges));
    if (!v.tokens || !v.types || !v.merges) {
        vocab_done(&v);
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    }
    memcpy(v.tokens, src->tokens, (size_t)n * sizeof(*v.tokens));
    for (int i = 0; i < n; i++) {
        int type = src->token_types ? src->token_types[i] : TOKEN_NORMAL;
        v.types[i] = type >= TOKEN_NORMAL && type <= TOKEN_BYTE ? (unsigned char)type : TOKEN_NORMAL;
    }
    for (int i = 0; i < v.n_merges; i++) {
        int r = vocab__split_merge(src->merges[i], i, &v.merges[i], e);
        if (r < 0) {
            vocab_done(&v);
            return r;
        }
    }
    *ret = v;
    return 0;
}
