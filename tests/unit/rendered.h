/* tests/unit/rendered.h - chat templates in one call, for the tests of api/template*. */
#ifndef LATENT_TESTS_RENDERED_H
#define LATENT_TESTS_RENDERED_H

#include <stdbool.h>
#include "api/template.h"

struct rendered { /* what to render with; zero: nothing */
    const char *messages, *tools, *kwargs; /* JSON */
    bool adapt;
    size_t max_bytes; /* 0: 100000 */
};

/* The text, valid until the next call; NULL when it failed, and then *e tells. bos_token is <B>,
 * eos_token <E>, the time 1764000000, add_generation_prompt true. */
const char *rendered(const char *text, const struct rendered *with, struct err *e);
/* A digit for each byte of the last text: 1 where it came from the client. */
const char *rendered_marks(void);

#endif
