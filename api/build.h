/* api/build.h - chat messages and tools built from requests of other shapes. What is made hangs below the
 * request's own tree and goes with it. Calls after a failure do nothing; `err` tells at the end. Loop
 * thread. */
#ifndef LATENT_API_BUILD_H
#define LATENT_API_BUILD_H

#include <cjson/cJSON.h>
#include "api/params.h"

struct build {
    cJSON *messages;
    int err;
    struct growing { /* texts appended to last: a message may have hundreds of thousands of pieces */
        cJSON *text;
        size_t n_bytes, cap;
    } growing[2]; /* of a message's content, and of its thoughts */
    unsigned n_growing;
};

/* A list at root under a name that no request can use. */
void build_init(struct build *b, struct params *p);
cJSON *build_message(struct build *b, const char *role);
void build_text(struct build *b, cJSON *message, const char *name, const char *text);
/* Adds a call to the assistant's message; arguments as JSON text. */
void build_call(struct build *b, cJSON *message, const char *id, const char *name, const char *arguments);
/* A tool in OpenAI's form into a list; schema is copied, may be NULL. */
void build_tool(struct build *b, cJSON *tools, const char *name, const char *description, const cJSON *schema,
                bool strict);
/* Appends to text that a message has already, on a line of its own. */
void build_more(struct build *b, cJSON *message, const char *name, const char *text);
/* Adds a list to the request's tree. */
cJSON *build_list(struct build *b, struct params *p, const char *name);
/* A string, or the texts of a list of parts whose type is one of these (NULL ends), joined. *ret is
 * malloc'ed. ERR_INVAL: field must be `expected`. */
int build_joined(const cJSON *v, const char *const *types, const char *field, const char *expected,
                 char **ret, struct err *e) LATENT_MUST_CHECK;
int build_done(const struct build *b, struct err *e) LATENT_MUST_CHECK;

#endif
