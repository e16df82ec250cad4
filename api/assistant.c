/* api/assistant.c - see assistant.h. What may become a mark is held back, and spaces before one are
 * dropped. */
#include "config.h"

#include "api/assistant.h"

#include <string.h>

enum { AT_BEGINNING, IN_THOUGHT, IN_TEXT, IN_CALLS };

const struct thought_marks *thought_marks_of(const char *chat_template)
{
    static const struct thought_marks known[] = {{"<longcat_think>", "</longcat_think>"},
                                                 {"<think>", "</think>"}};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known) && chat_template; i++)
        if (strstr(chat_template, known[i].end))
            return &known[i];
    return NULL;
}

void assistant_init(struct assistant *s, struct parts *out, const struct thought_marks *thoughts, bool begun,
                    const struct call_format *calls, const cJSON *tools, bool only_one, size_t max_bytes)
{
    *s = (struct assistant){.calls = calls, .thoughts = thoughts, .skip_space = begun};
    s->state = !thoughts ? IN_TEXT : begun ? IN_THOUGHT : AT_BEGINNING;
    s->t.out = out;
    s->t.tools = tools;
    s->t.only_one = only_one;
    buf_init(&s->t.in, max_bytes);
    buf_init(&s->t.before, max_bytes);
}

void assistant_done(struct assistant *s)
{
    buf_done(&s->t.in);
    buf_done(&s->t.before);
}

/* Bytes at the end that may become the mark. */
static size_t beginning_of(const struct buf *b, const char *mark)
{
    size_t k = strlen(mark) - 1;
    for (k = k < b->n_bytes ? k : b->n_bytes; k > 0; k--)
        if (!memcmp(b->data + b->n_bytes - k, mark, k))
            break;
    return k;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool only_spaces(const char *text, size_t n_bytes)
{
    while (n_bytes && is_space(text[n_bytes - 1]))
        n_bytes--;
    return n_bytes == 0;
}

/* The first of the marks: its offset, or -1, and then how much of the text may be given out. */
static long find_mark(const struct assistant *s, bool with_think, size_t *ret_held, const char **ret_mark)
{
    long best = -1;
    size_t held = 0;
    const char *const *at =
        s->calls && !(s->calls->at_beginning && (s->said || with_think)) ? s->calls->begin : NULL;
    const char *unthink = s->thoughts ? s->thoughts->end : NULL;
    const char *mark = with_think ? unthink : at ? *at++ : NULL;
    while (mark) {
        long i = text_find(&s->t, 0, mark);
        size_t k = beginning_of(&s->t.in, mark);
        if (i > 0 && mark != unthink && s->calls->at_beginning && !only_spaces(s->t.in.data, (size_t)i))
            i = -1; /* inside the text it is text */
        if (i >= 0 && (best < 0 || i < best)) {
            best = i;
            *ret_mark = mark;
        }
        held = k > held ? k : held;
        mark = at ? *at++ : NULL;
    }
    *ret_held = held;
    return best;
}

static void give(struct assistant *s, enum part_kind kind, size_t n)
{
    parts_add(s->t.out, kind, s->t.in.data ? s->t.in.data : "", n);
    if (kind == PART_TEXT && n)
        s->said = true;
    buf_consume(&s->t.in, n);
}

/* Text or thought up to the next mark. true: there was one. */
static bool give_upto_mark(struct assistant *s, enum part_kind kind, bool end)
{
    struct buf *in = &s->t.in;
    const char *mark = NULL, *unthink = s->thoughts ? s->thoughts->end : "";
    size_t held;
    if (s->skip_space) {
        text_skip_space(&s->t);
        s->skip_space = in->n_bytes == 0;
    }
    long at = find_mark(s, kind == PART_REASONING, &held, &mark);
    size_t n = at >= 0 ? (size_t)at : end ? in->n_bytes : in->n_bytes - held, shown = n;
    bool trims = kind == PART_REASONING || s->calls;
    while (trims && shown && (at >= 0 || !end || kind == PART_REASONING) && is_space(in->data[shown - 1]))
        shown--;
    give(s, kind, shown);
    if (at < 0) {
        if (end)
            buf_reset(in);
        return false;
    }
    if (mark != unthink && n > shown && buf_append(&s->t.before, in->data, n - shown) < 0)
        s->t.out->err = ERR_NOMEM;
    buf_consume(in, n - shown);
    if (mark == unthink) {
        parts_close(s->t.out);
        buf_consume(in, strlen(unthink));
        s->state = IN_TEXT;
        s->skip_space = true;
    } else {
        s->state = IN_CALLS;
        s->t.state = 0;
        s->t.plain = false;
    }
    return true;
}

/* One step; false: more text is needed. */
static bool step(struct assistant *s, bool end)
{
    switch (s->state) {
    case AT_BEGINNING: {
        struct call_text *t = &s->t;
        const char *think = s->thoughts->begin;
        size_t i = 0, n, whole = strlen(think);
        while (i < t->in.n_bytes && is_space(t->in.data[i]))
            i++;
        n = t->in.n_bytes - i;
        n = n < whole ? n : whole;
        bool fits = n == 0 || !memcmp(t->in.data + i, think, n);
        if (fits && n < whole && !end)
            return false;
        if (fits && n == whole) {
            buf_consume(&t->in, i + n);
            s->skip_space = true;
            s->state = IN_THOUGHT;
        } else {
            s->state = IN_TEXT;
        }
        return true;
    }
    case IN_THOUGHT:
        return give_upto_mark(s, PART_REASONING, end);
    case IN_TEXT:
        return give_upto_mark(s, PART_TEXT, end);
    }
    enum call_step r = s->calls->step(&s->t, end);
    if (r == CALL_OUT) {
        s->said |= s->t.out->n > 0;
        s->state = IN_TEXT;
        s->skip_space = !s->t.plain;
        s->t.state = 0;
    }
    return r == CALL_AGAIN || (r == CALL_OUT && s->t.in.n_bytes > 0);
}

void assistant_feed(struct assistant *s, const char *text, size_t n_bytes)
{
    if (s->state == IN_TEXT && !s->calls && !s->skip_space) { /* nothing to look for */
        parts_add(s->t.out, PART_TEXT, text, n_bytes);
        return;
    }
    int r = buf_append(&s->t.in, text, n_bytes);
    if (r < 0)
        s->t.out->err = r;
    while (r == 0 && s->t.in.n_bytes && step(s, false))
        ;
}

bool assistant_thinks(const struct assistant *s)
{
    return s->state == IN_THOUGHT;
}

void assistant_end(struct assistant *s)
{
    while (step(s, true))
        ;
    parts_close(s->t.out);
}
