/* api/template.h - chat templates: the part of Jinja that the shipped model's template and its like use.
 *
 * Served: text, {{ }}, {% for x in y %} with else and loop.index, index0, first, last, length; {% if %},
 * {% set name = %}; comments; whitespace control, trim_blocks and lstrip_blocks as transformers sets them;
 * literals, lists, names, a.b, a['b'], a[1], a[-1]; + - * % ~ comparisons, in, and, or, not, x if c else y;
 * `is` defined, undefined, none, string, true, false; filters trim, upper, lower, length, default, join,
 * tojson of strings, string; raise_exception(). Anything else is an error when the template is read.
 *
 * Rendering marks the bytes that came from messages, so that a user cannot write a special token. A
 * template is immutable; rendering is limited in steps and output. Any thread. */
#ifndef LATENT_API_TEMPLATE_H
#define LATENT_API_TEMPLATE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

struct template;

/* ERR_UNSUPPORTED or ERR_FORMAT with the line, ERR_NOMEM. The text is copied. */
int template_new(const char *text, size_t n_bytes, struct template **ret, struct err *e)
    LATENT_MUST_CHECK;
void template_free(struct template **t);

struct template_input {
    const cJSON *messages; /* list of objects */
    bool add_generation_prompt;
    const char *bos_token, *eos_token; /* "" when the model has none */
};

struct template_output { /* free both */
    char *text;             /* NUL-terminated */
    unsigned char *literal; /* n_bytes: 1 where the byte came from a message */
    size_t n_bytes;
};

/* ERR_INVAL: the template refused (raise_exception) or cannot work on this; ERR_LIMIT, ERR_NOMEM. */
int template_render(const struct template *t, const struct template_input *in, size_t max_bytes,
                    struct template_output *ret, struct err *e) LATENT_MUST_CHECK;

#endif
