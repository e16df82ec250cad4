/* api/json_write.c - see json_write.h. */
#include "config.h"

#include "api/json_write.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

void jw_init(struct jw *w, size_t max_bytes)
{
    buf_init(&w->b, max_bytes);
    w->err = 0;
}

void jw_done(struct jw *w)
{
    buf_done(&w->b);
}

void jw_reset(struct jw *w)
{
    buf_reset(&w->b);
    w->err = 0;
}

void jw_bytes(struct jw *w, const char *s, size_t n_bytes)
{
    if (w->err == 0)
        w->err = buf_append(&w->b, s, n_bytes);
}

void jw_raw(struct jw *w, const char *s)
{
    jw_bytes(w, s, strlen(s));
}

void jw_printf(struct jw *w, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(text))
        w->err = w->err ? w->err : ERR_LIMIT;
    else
        jw_bytes(w, text, (size_t)n);
}

void jw_join(struct jw *w, const struct jw *other)
{
    jw_bytes(w, other->b.data ? other->b.data : "", other->b.n_bytes);
    if (w->err == 0)
        w->err = other->err;
}

void jw_escape(struct jw *w, const char *s, size_t n_bytes)
{
    size_t done = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char c = (unsigned char)s[i];
        const char *two = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n"
                        : c == '\r' ? "\\r" : c == '\t' ? "\\t" : NULL;
        if (c >= 0x20 && c != 0x7f && !two)
            continue;
        jw_bytes(w, s + done, i - done);
        if (two)
            jw_bytes(w, two, 2);
        else
            jw_printf(w, "\\u%04x", c);
        done = i + 1;
    }
    jw_bytes(w, s + done, n_bytes - done);
}

void jw_string(struct jw *w, const char *s, size_t n_bytes)
{
    jw_bytes(w, "\"", 1);
    jw_escape(w, s, n_bytes);
    jw_bytes(w, "\"", 1);
}

void jw_cstring(struct jw *w, const char *s)
{
    if (s)
        jw_string(w, s, strlen(s));
    else
        jw_raw(w, "null");
}

void jw_float(struct jw *w, float v)
{
    if (isfinite(v))
        jw_printf(w, "%.9g", (double)v);
    else
        jw_raw(w, v > 0 ? "9999.0" : "-9999.0");
}

void jw_token_text(struct jw *w, const char *s, size_t n_bytes)
{
    if (utf8_valid(s, n_bytes)) {
        jw_string(w, s, n_bytes);
        return;
    }
    jw_raw(w, "\"bytes:");
    for (size_t i = 0; i < n_bytes; i++)
        jw_printf(w, "\\\\x%02x", (unsigned char)s[i]);
    jw_raw(w, "\"");
}
