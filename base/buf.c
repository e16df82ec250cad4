/* base/buf.c - growing byte buffer; see buf.h. */
#include "config.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 256

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){.max_bytes = max_bytes};
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max_bytes = b->max_bytes};
}

void buf_reset(struct buf *b)
{
    b->n_bytes = 0;
    if (b->data)
        b->data[0] = 0;
}

void buf_shed(struct buf *b, size_t keep_bytes)
{
    if (b->n_bytes == 0 && b->cap_bytes > keep_bytes)
        buf_done(b);
}

int buf_reserve(struct buf *b, size_t extra_bytes)
{
    if (extra_bytes > b->max_bytes || b->n_bytes > b->max_bytes - extra_bytes)
        return ERR_LIMIT;
    if (extra_bytes >= (size_t)-1 - b->n_bytes)
        return ERR_NOMEM;
    size_t need = b->n_bytes + extra_bytes + 1;
    if (need <= b->cap_bytes)
        return 0;
    size_t cap = b->cap_bytes ? b->cap_bytes : FIRST_BYTES;
    while (cap < need)
        cap = cap > (size_t)-1 / 2 ? need : cap * 2;
    if (cap - 1 > b->max_bytes)
        cap = b->max_bytes + 1;
    char *p = realloc(b->data, cap);
    if (!p)
        return ERR_NOMEM;
    b->data = p;
    b->cap_bytes = cap;
    b->data[b->n_bytes] = 0;
    return 0;
}

int buf_append(struct buf *b, const void *data, size_t n_bytes)
{
    int r = buf_reserve(b, n_bytes);
    if (r < 0)
        return r;
    if (n_bytes)
        memcpy(b->data + b->n_bytes, data, n_bytes);
    b->n_bytes += n_bytes;
    b->data[b->n_bytes] = 0;
    return 0;
}

int buf_puts(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int r = n < 0 ? ERR_INVAL : buf_reserve(b, (size_t)n);
    if (r == 0) {
        vsnprintf(b->data + b->n_bytes, (size_t)n + 1, fmt, again);
        b->n_bytes += (size_t)n;
    }
    va_end(again);
    return r;
}

void buf_consume(struct buf *b, size_t n_bytes)
{
    if (n_bytes >= b->n_bytes) {
        buf_reset(b);
        return;
    }
    memmove(b->data, b->data + n_bytes, b->n_bytes - n_bytes + 1);
    b->n_bytes -= n_bytes;
}

char *buf_take(struct buf *b, size_t *ret_bytes)
{
    char *p = b->data;
    if (ret_bytes)
        *ret_bytes = b->n_bytes;
    *b = (struct buf){.max_bytes = b->max_bytes};
    return p;
}
