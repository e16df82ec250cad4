/* api/calls_tagged.c - see calls_tagged.h. */
#include "config.h"

#include "api/calls_tagged.h"

#include <string.h>

enum { AT_SECTION, AT_CALL, AT_ARGUMENT };

/* <parameter=NAME> VALUE </parameter>: 1 when it was there, 0 when it is not complete. */
static bool argument(struct call_text *t, const struct call_tags *g, bool end)
{
    size_t k0 = strlen(g->arg), k1 = k0;
    const char *in = t->in.data;
    long close = text_find(t, k0, ">");
    if (close < 0)
        return false;
    while (k1 < (size_t)close && in[k1] != '"' && in[k1] != '>')
        k1++;
    int is_string = -1;
    if (g->string_true)
        is_string = memmem(in + k1, (size_t)close - k1, g->string_true, strlen(g->string_true)) != NULL;
    size_t v0 = (size_t)close + 1;
    long over = call_value_end(t, in + k0, k1 - k0, v0, g->arg_end, is_string, end);
    if (over < 0)
        return false;
    size_t v1 = (size_t)over;
    if (g->lines && v0 < v1 && in[v0] == '\n')
        v0++;
    if (g->lines && v1 > v0 && in[v1 - 1] == '\n')
        v1--;
    call_arg(t, in + k0, k1 - k0, in + v0, v1 - v0, is_string);
    buf_consume(&t->in, (size_t)over + strlen(g->arg_end));
    return true;
}

static enum call_step at_call(struct call_text *t, const struct call_tags *g, bool end)
{
    if (text_begins(t, g->section_end)) {
        buf_consume(&t->in, strlen(g->section_end));
        t->state = AT_SECTION;
        return CALL_OUT;
    }
    if (text_begins(t, g->call)) {
        size_t from = strlen(g->call);
        long close = text_find(t, from, g->close);
        if (close >= 0) {
            call_begin(t, t->in.data + from, (size_t)close - from, NULL, 0);
            buf_consume(&t->in, (size_t)close + strlen(g->close));
            t->state = AT_ARGUMENT;
            return CALL_AGAIN;
        }
    } else if (!text_may_begin(t, g->section_end) && !text_may_begin(t, g->call)) {
        return text_is_plain(t);
    }
    return end ? text_is_plain(t) : CALL_MORE;
}

enum call_step call_tagged_step(struct call_text *t, const struct call_tags *g, bool end)
{
    if (t->state == AT_SECTION) { /* the section's own mark is given back when nothing of ours follows */
        size_t n = strlen(g->section), i = n;
        if (!text_begins(t, g->section)) {
            t->state = AT_CALL;
            return CALL_AGAIN;
        }
        while (i < t->in.n_bytes && strchr(" \t\r\n", t->in.data[i]))
            i++;
        size_t m = strlen(g->call), left = t->in.n_bytes - i;
        if (memcmp(t->in.data + i, g->call, left < m ? left : m) != 0)
            return text_is_plain(t);
        if (left < m)
            return end ? text_is_plain(t) : CALL_MORE;
        buf_consume(&t->in, i);
        t->state = AT_CALL;
    }
    text_skip_space(t);
    if (t->state == AT_CALL)
        return at_call(t, g, end);
    if (text_begins(t, g->call_end)) {
        buf_consume(&t->in, strlen(g->call_end));
        call_args_end(t);
        t->state = AT_CALL;
        return CALL_AGAIN;
    }
    if (text_begins(t, g->arg) && argument(t, g, end))
        return CALL_AGAIN;
    if (!text_begins(t, g->arg) && !text_may_begin(t, g->arg) && !text_may_begin(t, g->call_end)) {
        call_args_end(t);
        return text_is_plain(t);
    }
    return call_args_wait(t, end);
}
