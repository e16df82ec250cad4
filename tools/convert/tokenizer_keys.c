/* tools/convert/tokenizer_keys.c - a folder's tokenizer as the tokenizer.* keys of a GGUF file.
 *
 * Byte-level BPE becomes "gpt2": GGUF names a pre-tokenizer, tokenizer.json spells its rules out, and the
 * name is the one with the same rules. SentencePiece's kind becomes "llama", which has scores instead of
 * merges: the earlier the merge that makes a token, the higher its score. Ids without a token become unused
 * "[PADn]". */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/added.h"
#include "engine/tokenizer/vocab.h"
#include "tools/convert/source.h"

#define PAD_BYTES ((size_t)24)
#define NO_MERGE_SCORE (-1e9f)
#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */

/* --- the keys ---------------------------------------------------------------------------------- */

static void put_id(struct gguf_writer *w, const char *key, int id)
{
    if (id >= 0)
        gguf_write_u32(w, key, id);
}

static void put_ids(const struct tokenizer_source *t, const struct vocab *v, struct gguf_writer *w)
{
    /* what else ends a generation goes where readers look for it: end of turn, end of message; all of them
     * into a list, which fewer readers look at, where there are more */
    int more[2] = {t->eot_token_id, t->eom_token_id}, n = 0, eos = v->eos >= 0 ? v->eos : t->eos_token_id;
    bool all = true;
    for (int i = -1; i < t->n_eos_extra; i++) {
        int id = i < 0 ? t->eos_token_id : t->eos_extra[i];
        while (n < 2 && more[n] >= 0)
            n++;
        if (id < 0 || id == eos || id == more[0] || id == more[1])
            continue;
        if (n < 2)
            more[n++] = id;
        else
            all = false;
    }
    put_id(w, "tokenizer.ggml.bos_token_id", v->bos);
    put_id(w, "tokenizer.ggml.eos_token_id", eos);
    put_id(w, "tokenizer.ggml.eot_token_id", more[0]);
    put_id(w, "tokenizer.ggml.eom_token_id", more[1]);
    if (!all)
        gguf_write_array(w, "tokenizer.ggml.eos_token_ids", GGUF_I32, t->eos_extra, (size_t)t->n_eos_extra,
                         sizeof(*t->eos_extra));
    put_id(w, "tokenizer.ggml.padding_token_id", t->pad_token_id);
    put_id(w, "tokenizer.ggml.unknown_token_id", v->unk >= 0 ? v->unk : t->unk_token_id);
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_write_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
}

/* Type in the file. Added tokens of a text's own characters are looked for in it; one with a mark for spaces
 * (Gemma's runs of them) is not found there, but made by merges. */
static int type_of(const struct vocab *v, int id)
{
    const struct str_view *s = &v->tokens[id];
    if (v->kind != VOCAB_CHARS)
        return v->types[id];
    if (id == v->unk)
        return TOKEN_UNKNOWN;
    bool merged = v->types[id] == TOKEN_USER_DEFINED && v->rules && (v->rules[id] & ADDED_IN_MODEL);
    return merged && memmem(s->data, s->n_bytes, SPACE_MARK, 3) ? TOKEN_NORMAL : v->types[id];
}

static int put_tokens(const struct source *s, const struct vocab *v, struct gguf_writer *w, struct err *e)
{
    size_t n = (size_t)s->ck->config.vocab_size;
    struct str_view *tokens = arena_array(s->arena, n, sizeof(*tokens));
    int32_t *types = arena_array(s->arena, n, sizeof(*types));
    if (!tokens || !types)
        return err_set(e, ERR_NOMEM, "no memory for the tokens");
    for (size_t i = 0; i < n; i++) {
        bool hole = i >= (size_t)v->n_tokens || v->types[i] == TOKEN_HOLE;
        if (!hole) {
            tokens[i] = v->tokens[i];
            types[i] = type_of(v, (int)i);
            continue;
        }
        char pad[PAD_BYTES];
        int len = snprintf(pad, sizeof(pad), "[PAD%zu]", i);
        tokens[i] = (struct str_view){arena_strndup(s->arena, pad, (size_t)len), (size_t)len};
        types[i] = TOKEN_UNUSED;
        if (!tokens[i].data)
            return err_set(e, ERR_NOMEM, "no memory for the tokens");
    }
    gguf_write_strings(w, "tokenizer.ggml.tokens", tokens, n);
    gguf_write_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, n, sizeof(*types));
    return 0;
}

static int put_merges(const struct source *s, const struct vocab *v, struct gguf_writer *w, struct err *e)
{
    size_t n = (size_t)v->n_merges;
    struct str_view *merges = arena_array(s->arena, n ? n : 1, sizeof(*merges));
    if (!merges)
        return err_set(e, ERR_NOMEM, "no memory for the merges");
    for (size_t i = 0; i < n; i++) {
        const struct merge_text *m = &v->merges[i];
        size_t bytes = m->left.n_bytes + 1 + m->right.n_bytes;
        char *text = arena_alloc(s->arena, bytes);
        if (!text)
            return err_set(e, ERR_NOMEM, "no memory for the merges");
        memcpy(text, m->left.data, m->left.n_bytes);
        text[m->left.n_bytes] = ' ';
        memcpy(text + m->left.n_bytes + 1, m->right.data, m->right.n_bytes);
        merges[i] = (struct str_view){text, bytes};
    }
    gguf_write_strings(w, "tokenizer.ggml.merges", merges, n);
    return 0;
}

/* --- scores ------------------------------------------------------------------------------------ */

struct text_id {
    struct str_view text;
    int id;
};

static int by_text(const void *a, const void *b)
{
    const struct str_view *x = &((const struct text_id *)a)->text, *y = &((const struct text_id *)b)->text;
    size_t n = x->n_bytes < y->n_bytes ? x->n_bytes : y->n_bytes;
    int r = n ? memcmp(x->data, y->data, n) : 0;
    return r ? r : (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static void score_merges(const struct vocab *v, const struct text_id *sorted, char *text, float *scores)
{
    for (int i = 0; i < v->n_merges; i++) {
        const struct merge_text *m = &v->merges[i];
        struct text_id key = {{text, m->left.n_bytes + m->right.n_bytes}, 0};
        memcpy(text, m->left.data, m->left.n_bytes);
        memcpy(text + m->left.n_bytes, m->right.data, m->right.n_bytes);
        const struct text_id *at = bsearch(&key, sorted, (size_t)v->n_tokens, sizeof(*sorted), by_text);
        if (at && scores[at->id] == NO_MERGE_SCORE)
            scores[at->id] = (float)-i;
    }
}

static int put_scores(const struct source *s, const struct vocab *v, struct gguf_writer *w, struct err *e)
{
    size_t n = (size_t)s->ck->config.vocab_size, longest = 1;
    float *scores = arena_array(s->arena, n, sizeof(*scores));
    struct text_id *sorted = arena_array(s->arena, (size_t)v->n_tokens, sizeof(*sorted));
    for (int i = 0; i < v->n_merges; i++) {
        size_t bytes = v->merges[i].left.n_bytes + v->merges[i].right.n_bytes;
        longest = bytes > longest ? bytes : longest;
    }
    char *text = arena_alloc(s->arena, longest);
    if (!scores || !sorted || !text)
        return err_set(e, ERR_NOMEM, "no memory for the scores");
    for (size_t i = 0; i < n; i++)
        scores[i] = v->scores && i < (size_t)v->n_tokens ? v->scores[i] : NO_MERGE_SCORE;
    for (int i = 0; i < v->n_tokens; i++)
        sorted[i] = (struct text_id){v->tokens[i], i};
    qsort(sorted, (size_t)v->n_tokens, sizeof(*sorted), by_text);
    if (!v->scores)
        score_merges(v, sorted, text, scores);
    gguf_write_array(w, "tokenizer.ggml.scores", GGUF_F32, scores, n, sizeof(*scores));
    return 0;
}

/* --- the two kinds ----------------------------------------------------------------------------- */

static int bytes_keys(const struct source *s, const struct vocab *v, struct gguf_writer *w, struct err *e)
{
    const char *name = pretok_name_of(v->patterns, v->n_patterns, v->whole_words);
    if (!name)
        return err_set_param(e, ERR_UNSUPPORTED, "pre_tokenizer",
                             "the tokenizer splits text by rules that GGUF has no name for; it has: %s",
                             pretok_names());
    if (v->prefix_space)
        return err_set_param(e, ERR_UNSUPPORTED, "pre_tokenizer",
                             "the tokenizer puts a space before a text (add_prefix_space), which GGUF cannot "
                             "say");
    for (int i = 0; i < v->n_steps; i++) /* readers take texts to be in this form, as most are */
        if (v->steps[i].kind != NORMAL_NFC)
            return err_set_param(e, ERR_UNSUPPORTED, "normalizer",
                                 "the tokenizer's normalizer has a step that GGUF cannot say");
    gguf_write_string(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_string(w, "tokenizer.ggml.pre", name);
    int r = put_tokens(s, v, w, e);
    if (r == 0 && !v->derive_merges)
        r = put_merges(s, v, w, e);
    return r;
}

static int chars_keys(const struct source *s, const struct vocab *v, struct gguf_writer *w, struct err *e)
{
    bool prefix = v->metaspace && v->mark != MARK_NEVER;
    for (int i = 0; i < v->n_steps; i++) {
        const struct normal_step *step = &v->steps[i];
        bool spaces = step->kind == NORMAL_REPLACE && !strcmp(step->pattern, " ");
        if (step->kind == NORMAL_PREPEND)
            prefix = true;
        else if (!spaces)
            return err_set_param(e, ERR_UNSUPPORTED, "normalizer",
                                 "the tokenizer's normalizer has a step that GGUF cannot say");
    }
    gguf_write_string(w, "tokenizer.ggml.model", "llama");
    gguf_write_string(w, "tokenizer.ggml.pre", "default");
    int r = put_tokens(s, v, w, e);
    if (r == 0)
        r = put_scores(s, v, w, e);
    gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", prefix);
    return r;
}

/* The second template under the name that readers look for, and in the list of such names. */
static void put_templates(const struct checkpoint *ck, struct gguf_writer *w)
{
    static const struct str_view others[] = {{"tool_use", 8}};
    if (ck->chat_template)
        gguf_write_string(w, "tokenizer.chat_template", ck->chat_template);
    if (!ck->tool_template)
        return;
    gguf_write_strings(w, "tokenizer.chat_templates", others, 1);
    gguf_write_string(w, "tokenizer.chat_template.tool_use", ck->tool_template);
}

int source__tokenizer_keys(const struct source *s, struct gguf_writer *w, struct err *e)
{
    const struct tokenizer_source *t = &s->ck->tokenizer;
    int vocab_size = s->ck->config.vocab_size;
    struct vocab v;
    if (!t->json_path && !t->tiktoken_path) { /* ids only: llama.cpp's word for it */
        gguf_write_string(w, "tokenizer.ggml.model", "none");
        return 0;
    }
    int r = t->json_path ? vocab_from_json(t, vocab_size, &v, e)
                         : vocab_from_tiktoken(t, vocab_size, &v, e);
    if (r < 0)
        return r;
    r = v.kind == VOCAB_CHARS ? chars_keys(s, &v, w, e) : bytes_keys(s, &v, w, e);
    put_ids(t, &v, w);
    put_templates(s->ck, w);
    vocab_done(&v);
    return r;
}
