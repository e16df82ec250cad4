/* tools/convert/tokenizer_keys.c - tokenizer.json as the tokenizer.* keys of a GGUF file.
 *
 * GGUF names a pre-tokenizer, tokenizer.json spells its patterns out: the name is the one whose patterns
 * are the same, however they are escaped. Ids without a token become unused "[PADn]". */
#include "config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/pretok.h"
#include "engine/tokenizer/vocab.h"
#include "tools/convert/source.h"

#define MAX_PATTERN_BYTES ((size_t)1 << 16)
#define PAD_BYTES ((size_t)24)

/* --- the pre-tokenizer's name ------------------------------------------------------------------ */

static size_t encode_utf8(unsigned long cp, char dst[4])
{
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, cp >>= 6)
        dst[i] = (char)(0x80 | (cp & 0x3f));
    dst[0] = (char)((0xf00 >> n & 0xff) | (int)cp);
    return (size_t)n;
}

/* One spelling for all: escaped characters as themselves, "|\s+" at the end left out, which only
 * matches what is left between matches anyhow. */
static int canonical(const char *p, struct buf *b)
{
    int r = 0;
    while (*p && r == 0) {
        char *end;
        if (p[0] == '\\' && p[1] == 'x' && p[2] == '{') {
            char utf8[4];
            unsigned long cp = strtoul(p + 3, &end, 16);
            r = buf_append(b, utf8, encode_utf8(cp & 0x1fffff, utf8));
            p = *end ? end + 1 : end;
        } else if (p[0] == '\\' && p[1] && strchr("rnt", p[1])) {
            r = buf_puts(b, p[1] == 'r' ? "\r" : p[1] == 'n' ? "\n" : "\t");
            p += 2;
        } else if (p[0] == '\\' && p[1] && !isalnum((unsigned char)p[1])) {
            r = buf_append(b, p + 1, 1);
            p += 2;
        } else if (p[0] == '\\' && p[1]) {
            r = buf_append(b, p, 2);
            p += 2;
        } else {
            r = buf_append(b, p++, 1);
        }
    }
    static const char tail[] = "|\\s+";
    size_t n = sizeof(tail) - 1;
    if (r == 0 && b->n_bytes > n && !memcmp(b->data + b->n_bytes - n, tail, n)) {
        b->n_bytes -= n;
        b->data[b->n_bytes] = 0;
    }
    return r;
}

static bool same_pattern(const char *a, const char *b)
{
    struct buf x, y;
    buf_init(&x, MAX_PATTERN_BYTES);
    buf_init(&y, MAX_PATTERN_BYTES);
    bool same = canonical(a, &x) == 0 && canonical(b, &y) == 0 && x.n_bytes == y.n_bytes &&
                (x.n_bytes == 0 || memcmp(x.data, y.data, x.n_bytes) == 0);
    buf_done(&x);
    buf_done(&y);
    return same;
}

static bool fits(const struct vocab *v, const char *name)
{
    int whole_words = 0, n = 0;
    const char *const *patterns = pretok_patterns(name, &whole_words);
    if (!patterns || (whole_words != 0) != v->whole_words)
        return false;
    while (patterns[n]) {
        if (n == v->n_patterns || !same_pattern(patterns[n], v->patterns[n]))
            return false;
        n++;
    }
    return n == v->n_patterns;
}

/* The first name of the table that fits; "" when none does. */
static void find_name(const struct vocab *v, char *dst, size_t dst_bytes)
{
    const char *p = pretok_names();
    while (*p) {
        size_t n = strcspn(p, " ,");
        snprintf(dst, dst_bytes, "%.*s", (int)n, p);
        if (n && fits(v, dst))
            return;
        p += n;
        p += strspn(p, " ,");
    }
    dst[0] = 0;
}

/* --- the keys ---------------------------------------------------------------------------------- */

static void put_id(struct gguf_writer *w, const char *key, int id)
{
    if (id >= 0)
        gguf_write_u32(w, key, id);
}

static void put_ids(const struct tokenizer_source *t, const struct vocab *v, struct gguf_writer *w)
{
    /* what else ends a generation goes where readers look for it: end of turn, end of message */
    int more[2] = {t->eot_token_id, t->eom_token_id}, n = 0;
    for (int i = 0; i < t->n_eos_extra; i++) {
        int id = t->eos_extra[i];
        while (n < 2 && more[n] >= 0)
            n++;
        if (n < 2 && id != t->eos_token_id)
            more[n++] = id;
    }
    put_id(w, "tokenizer.ggml.bos_token_id", v->bos);
    put_id(w, "tokenizer.ggml.eos_token_id", t->eos_token_id >= 0 ? t->eos_token_id : v->eos);
    put_id(w, "tokenizer.ggml.eot_token_id", more[0]);
    put_id(w, "tokenizer.ggml.eom_token_id", more[1]);
    put_id(w, "tokenizer.ggml.padding_token_id", t->pad_token_id);
    put_id(w, "tokenizer.ggml.unknown_token_id", t->unk_token_id);
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    gguf_write_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
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
            types[i] = v->types[i];
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

int source__tokenizer_keys(const struct source *s, struct gguf_writer *w, struct err *e)
{
    const struct tokenizer_source *t = &s->ck->tokenizer;
    struct vocab v;
    char name[64];
    if (!t->json_path) { /* ids only: llama.cpp's word for it */
        gguf_write_string(w, "tokenizer.ggml.model", "none");
        return 0;
    }
    int r = vocab_from_json(t, s->ck->config.vocab_size, &v, e);
    if (r < 0)
        return r;
    find_name(&v, name, sizeof(name));
    if (!name[0]) {
        r = err_set_param(e, ERR_UNSUPPORTED, "pre_tokenizer",
                          "tokenizer.json: no GGUF pre-tokenizer has these patterns; known are: %s",
                          pretok_names());
    } else {
        gguf_write_string(w, "tokenizer.ggml.model", "gpt2");
        gguf_write_string(w, "tokenizer.ggml.pre", name);
        r = put_tokens(s, &v, w, e);
        if (r == 0)
            r = put_merges(s, &v, w, e);
        put_ids(t, &v, w);
        if (s->ck->chat_template)
            gguf_write_string(w, "tokenizer.chat_template", s->ck->chat_template);
    }
    vocab_done(&v);
    return r;
}
