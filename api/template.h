/* api/template.h - chat templates: the Jinja language as transformers runs it (docs/templates.md).
 *
 * template_lex.c cuts the text into tokens, template_parse.c and template_expr.c make the tree of
 * template_ast.h from them; template_run.c runs statements and template_eval.c expressions over the
 * values of template_value.h; template_filters.c, template_tests.c, template_methods.c and
 * template_globals.c are what a template can call.
 *
 * Every string carries a mark per byte: set where the byte came from the client (messages, tools,
 * ...). The marks follow the bytes through every operation, so that a client cannot write a special
 * token.
 *
 * A template is immutable and any thread may render it. Reading and rendering are limited in depth,
 * work, memory and output: a template or a message that asks for more ends in an error with the
 * line. */
#ifndef LATENT_API_TEMPLATE_H
#define LATENT_API_TEMPLATE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct template;

/* ERR_UNSUPPORTED or ERR_FORMAT with the line, ERR_LIMIT, ERR_NOMEM. The text is copied. */
int template_new(const char *text, size_t n_bytes, struct template **ret, struct err *e)
    LATENT_MUST_CHECK;
void template_free(struct template **t);

struct template_text {
    const char *name, *text; /* "bos_token"; the model's own, not marked */
};

struct template_input {
    const cJSON *messages;  /* list of objects */
    const cJSON *tools;     /* list, or NULL: the variable is none, as in transformers */
    const cJSON *documents; /* the same */
    const cJSON *kwargs;    /* object: more variables, from the client; NULL: none. They cannot
                             * replace those above and below */
    bool add_generation_prompt;
    /* For messages as OpenAI's API has them: a tool call's arguments that are the text of a JSON
     * object become that object, which printed or added to a string is its text again; a content
     * that is null or absent beside tool calls is the empty string, for which `is none` holds too:
     * templates expect either. */
    bool adapt_messages;
    const struct template_text *texts;
    int n_texts;
    int64_t now; /* seconds since 1970, for strftime_now (local time) */
};

struct template_output { /* free both */
    char *text;             /* NUL-terminated */
    unsigned char *literal; /* n_bytes: 1 where the byte came from the client */
    size_t n_bytes;
};

/* ERR_INVAL: the template refused (raise_exception) or cannot work on this; ERR_LIMIT, ERR_NOMEM.
 * The text has at most max_bytes. */
int template_render(const struct template *t, const struct template_input *in, size_t max_bytes,
                    struct template_output *ret, struct err *e) LATENT_MUST_CHECK;

#endif
