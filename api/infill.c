/* api/infill.c - prompts with a suffix ("fill in the middle"), for models that have tokens for it. The tokens
 * are ours; the client's text around them can hold no control token. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

static const struct form {
    const char *begin, *hole, *end; /* begin prefix hole suffix end */
} forms[] = {
    {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"},         /* DeepSeek */
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},       /* Qwen, and the shipped model's family */
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},             /* StarCoder, Granite */
    {"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"},    /* GLM */
    {"▁<PRE>", "▁<SUF>", "▁<MID>"},                               /* Code Llama */
};

static bool has(const struct tokenizer *t, const char *token)
{
    return tokenizer_find(t, token, strlen(token)) >= 0;
}

static const struct form *form_of(const struct tokenizer *t)
{
    for (size_t i = 0; t && i < sizeof(forms) / sizeof(*forms); i++)
        if (has(t, forms[i].begin) && has(t, forms[i].hole) && has(t, forms[i].end))
            return &forms[i];
    return NULL;
}

bool infill_possible(const struct tokenizer *t)
{
    return form_of(t) != NULL;
}

int infill_prompt(struct prompt *pr, const struct tokenizer *t, const char *suffix, struct err *e)
{
    const struct form *f = form_of(t);
    if (!f)
        return err_set_param(e, ERR_UNSUPPORTED, "suffix",
                             "suffix is not supported: this model has no tokens for filling in the middle");
    if (!pr->text)
        return err_set_param(e, ERR_INVAL, "suffix", "suffix needs a prompt that is text");
    const char *parts[] = {f->begin, pr->text, f->hole, suffix, f->end};
    size_t n = 0, at = 0;
    for (int i = 0; i < 5; i++)
        n += i == 1 ? pr->text_bytes : strlen(parts[i]);
    pr->owned = malloc(n + 1);
    pr->literal = malloc(n + 1);
    if (!pr->owned || !pr->literal)
        return err_set(e, ERR_NOMEM, "out of memory for the request");
    for (int i = 0; i < 5; i++) {
        size_t part = i == 1 ? pr->text_bytes : strlen(parts[i]);
        memcpy(pr->owned + at, parts[i], part);
        memset(pr->literal + at, i % 2, part);
        at += part;
    }
    pr->owned[n] = 0;
    pr->text = pr->owned;
    pr->text_bytes = n;
    return 0;
}
