/* api/calls_tagged.h - calls as tags that have the name in them, one tag for each argument. */
#ifndef LATENT_API_CALLS_TAGGED_H
#define LATENT_API_CALLS_TAGGED_H

#include "api/calls.h"

struct call_tags {
    const char *section, *section_end;
    const char *call, *call_end;   /* call: up to the name, which `close` ends */
    const char *arg, *arg_end;
    const char *close;             /* ends a tag: ">" or "\">" */
    bool lines;                    /* a value stands between newlines that are not its own */
    const char *string_true;       /* in what follows the argument's name: it is a string; NULL: by schema */
};
enum call_step call_tagged_step(struct call_text *t, const struct call_tags *g, bool end);

#endif
