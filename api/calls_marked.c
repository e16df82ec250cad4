/* api/calls_marked.c - calls between tokens made for that: a section of calls, each a head, a separator and
 * JSON. What stands between calls is dropped; arguments pass through as they come. */
#include "config.h"

#include <string.h>

#include "api/calls.h"

enum { AT_SECTION, AT_CALL, AT_HEAD, AT_FENCE, AT_VALUE, IN_VALUE, AT_END };

static enum call_step at_call(struct call_text *t, const struct call_marks *m, bool end)
{
    text_skip_space(t);
    if (text_begins(t, m->call)) {
        buf_consume(&t->in, strlen(m->call));
        t->state = AT_HEAD;
        return CALL_AGAIN;
    }
    if (text_begins(t, m->section_end)) {
        buf_consume(&t->in, strlen(m->section_end));
        t->state = AT_SECTION;
        return CALL_OUT;
    }
    if (!end && (text_may_begin(t, m->call) || text_may_begin(t, m->section_end)))
        return CALL_MORE;
    return text_is_plain(t);
}

static enum call_step at_head(struct call_text *t, const struct call_marks *m, bool end)
{
    long at = text_find(t, 0, m->separator);
    if (at < 0)
        return end ? text_is_plain(t) : CALL_MORE;
    t->state = m->head(t, t->in.data, (size_t)at) ? AT_FENCE : AT_VALUE;
    buf_consume(&t->in, (size_t)at + strlen(m->separator));
    return CALL_AGAIN;
}

/* name, newline, ```json */
static enum call_step at_fence(struct call_text *t, bool end)
{
    static const char fence[] = "```json";
    long at = text_find(t, 0, fence);
    if (at < 0)
        return end ? text_is_plain(t) : CALL_MORE;
    size_t n = (size_t)at;
    while (n && strchr(" \t\r\n", t->in.data[n - 1]))
        n--;
    call_begin(t, t->in.data, n, NULL, 0);
    buf_consume(&t->in, (size_t)at + sizeof(fence) - 1);
    t->state = AT_VALUE;
    return CALL_AGAIN;
}

enum call_step call_marked_step(struct call_text *t, const struct call_marks *m, bool end)
{
    switch (t->state) {
    case AT_SECTION:
        buf_consume(&t->in, text_begins(t, m->section) ? strlen(m->section) : 0);
        t->state = AT_CALL;
        return CALL_AGAIN;
    case AT_CALL:
        return at_call(t, m, end);
    case AT_HEAD:
        return at_head(t, m, end);
    case AT_FENCE:
        return at_fence(t, end);
    case AT_VALUE:
        text_skip_space(t);
        if (t->in.n_bytes == 0 && !end)
            return CALL_MORE;
        t->state = t->in.n_bytes && strchr("{[\"", t->in.data[0]) ? IN_VALUE : AT_END;
        if (t->state == AT_END)
            call_args(t, "{}", 2);
        return CALL_AGAIN;
    case IN_VALUE:
        if (!call_json_value(t) && !end)
            return CALL_MORE;
        t->state = AT_END;
        return CALL_AGAIN;
    }
    long at = text_find(t, 0, m->end);
    if (at < 0 && !end)
        return CALL_MORE;
    call_end(t);
    buf_consume(&t->in, at < 0 ? t->in.n_bytes : (size_t)at + strlen(m->end));
    t->state = AT_CALL;
    return end && t->in.n_bytes == 0 ? CALL_OUT : CALL_AGAIN;
}
