/* api/infill.c - prompts with a gap ("fill in the middle"), for models that have tokens for it. The tokens
 * are ours; the client's text around them can hold no control token. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

static const struct form {
    const char *tokens[3];    /* tokens[0] prefix tokens[1] suffix tokens[2] */
    const char *project, *file; /* before the project's name, and before each file's; NULL: none */
} forms[] = {
    {{"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"}, NULL, NULL}, /* DeepSeek */
    {{"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"}, "<|repo_name|>", "<|file_sep|>"}, /* Qwen */
    {{"<fim_prefix>", "<fim_suffix>", "<fim_middle>"}, "<repo_name>", "<file_sep>"}, /* StarCoder, Granite */
    {{"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"}, NULL, NULL}, /* GLM */
    {{"▁<PRE>", "▁<SUF>", "▁<MID>"}, NULL, NULL},                           /* Code Llama */
};

static bool has(const struct tokenizer *t, const char *token)
{
    return t && token && tokenizer_find(t, token, strlen(token)) >= 0;
}

static int n_present(const struct tokenizer *t, const struct form *f)
{
    return has(t, f->tokens[0]) + has(t, f->tokens[1]) + has(t, f->tokens[2]);
}

/* The form of which the model has most tokens. */
static const struct form *form_of(const struct tokenizer *t)
{
    const struct form *best = &forms[0];
    for (size_t i = 1; i < sizeof(forms) / sizeof(*forms); i++)
        if (n_present(t, &forms[i]) > n_present(t, best))
            best = &forms[i];
    return best;
}

bool infill_possible(const struct tokenizer *t)
{
    return n_present(t, form_of(t)) == 3;
}

/* The model's form; NULL with the tokens that are missing. */
static const struct form *form_or_error(const struct tokenizer *t, const char *param, struct err *e)
{
    const struct form *f = form_of(t);
    char missing[100] = "";
    size_t at = 0;
    int n = n_present(t, f);
    if (n == 3)
        return f;
    for (int i = 0; i < 3; i++)
        if (!has(t, f->tokens[i]))
            at += (size_t)snprintf(missing + at, sizeof(missing) - at, "%s%s", at ? ", " : "", f->tokens[i]);
    err_set_param(e, ERR_UNSUPPORTED, param,
                  "%s is not supported: this model lacks tokens for filling in the middle: %s%s", param,
                  missing, n ? "" : ", or those of another family");
    return NULL;
}

struct piece {
    const char *text;
    size_t n_bytes;
    bool literal; /* the client's: holds no control token */
};

static struct piece token(const char *text)
{
    return (struct piece){text, strlen(text), false};
}

static struct piece literal(const char *text)
{
    return (struct piece){text, strlen(text), true};
}

static int join(struct prompt *pr, const struct piece *pieces, int n_pieces, size_t max_bytes, struct err *e)
{
    size_t n = 0, at = 0;
    for (int i = 0; i < n_pieces; i++)
        n += pieces[i].n_bytes;
    if (n > max_bytes)
        return err_set_param(e, ERR_LIMIT, "prompt", "the prompt has %zu bytes; at most %zu are accepted", n,
                             max_bytes);
    pr->owned = malloc(n + 1);
    pr->literal = malloc(n + 1);
    if (!pr->owned || !pr->literal)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    for (int i = 0; i < n_pieces; i++) {
        memcpy(pr->owned + at, pieces[i].text, pieces[i].n_bytes);
        memset(pr->literal + at, pieces[i].literal, pieces[i].n_bytes);
        at += pieces[i].n_bytes;
    }
    pr->owned[n] = 0;
    pr->text = pr->owned;
    pr->text_bytes = n;
    return 0;
}

int infill_prompt(struct prompt *pr, const struct tokenizer *t, const char *suffix, struct err *e)
{
    const struct form *f = form_or_error(t, "suffix", e);
    if (!f)
        return e->code;
    if (!pr->text)
        return err_set_param(e, ERR_INVAL, "suffix", "suffix needs a prompt that is text");
    const struct piece pieces[] = {token(f->tokens[0]), {pr->text, pr->text_bytes, true}, token(f->tokens[1]),
                                   literal(suffix), token(f->tokens[2])};
    return join(pr, pieces, 5, SIZE_MAX, e);
}

/* As llama-server has it: the project and the files before, then the file with the gap. */
int infill_files(struct prompt *pr, const struct tokenizer *t, const struct params *p, size_t max_bytes,
                 struct err *e)
{
    const struct form *f = form_or_error(t, "input_prefix", e);
    const cJSON *at;
    int n = 0;
    if (!f)
        return e->code;
    bool files = has(t, f->file);
    size_t most = (size_t)cJSON_GetArraySize(p->input_extra) * 4 + 10;
    struct piece *pieces = calloc(most, sizeof(*pieces));
    if (!pieces)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    if (has(t, f->project)) {
        pieces[n++] = token(f->project);
        pieces[n++] = literal("myproject\n");
    }
    cJSON_ArrayForEach(at, p->input_extra)
    {
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(at, "filename"));
        if (files) {
            pieces[n++] = token(f->file);
            pieces[n++] = literal(name ? name : "tmp");
            pieces[n++] = literal("\n");
        } else {
            pieces[n++] = literal("\n\n--- snippet ---\n\n");
        }
        pieces[n++] = literal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(at, "text")));
    }
    if (files) {
        pieces[n++] = token(f->file);
        pieces[n++] = literal("filename\n");
    }
    pieces[n++] = token(f->tokens[0]);
    pieces[n++] = literal(p->input_prefix);
    pieces[n++] = literal(p->prompt ? p->prompt->valuestring : ""); /* what stands before the gap already */
    pieces[n++] = token(f->tokens[1]);
    pieces[n++] = literal(p->input_suffix);
    pieces[n++] = token(f->tokens[2]);
    int r = join(pr, pieces, n, max_bytes, e);
    free(pieces);
    return r;
}
