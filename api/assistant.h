/* api/assistant.h - the text of an assistant as it comes, taken apart: what is thought between the model's
 * marks (<think> and </think>, mostly), calls of tools in its own format (calls.h), and the rest. Loop
 * thread. */
#ifndef LATENT_API_ASSISTANT_H
#define LATENT_API_ASSISTANT_H

#include "api/calls.h"

struct thought_marks {
    const char *begin, *end;
};
/* Those that a chat template has, or NULL. */
const struct thought_marks *thought_marks_of(const char *chat_template);

struct assistant {
    const struct call_format *calls;       /* NULL: calls are not looked for */
    const struct thought_marks *thoughts;  /* NULL: nor are thoughts */
    int state;
    bool said;       /* some of the text that is not thought is out */
    bool skip_space; /* what stands before the text is dropped */
    struct call_text t;
};

/* begun: the prompt ends inside of a thought. tools: borrowed. ERR_NOMEM never: buffers grow later. */
void assistant_init(struct assistant *s, struct parts *out, const struct thought_marks *thoughts, bool begun,
                    const struct call_format *calls, const cJSON *tools, bool only_one, size_t max_bytes);
void assistant_done(struct assistant *s);
/* Adds text to the parts. Failures stick in out->err. */
void assistant_feed(struct assistant *s, const char *text, size_t n_bytes);
/* Inside of a thought? */
bool assistant_thinks(const struct assistant *s);
/* The text is over: what was held back goes out. */
void assistant_end(struct assistant *s);

#endif
