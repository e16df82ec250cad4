/* base/buf.h - a growing byte buffer with a maximum fixed at init. Not thread safe. */
#ifndef LATENT_BASE_BUF_H
#define LATENT_BASE_BUF_H

#include <stddef.h>
#include "base/err.h"

struct buf {
    char *data;       /* n_bytes used; always NUL-terminated one past the end when not NULL */
    size_t n_bytes;
    size_t cap_bytes; /* private */
    size_t max_bytes; /* appends that would exceed it fail with ERR_LIMIT and change nothing */
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_done(struct buf *b);  /* frees; the struct may be used again after buf_init */
void buf_reset(struct buf *b); /* empties, keeps the memory */
void buf_shed(struct buf *b, size_t keep_bytes); /* frees what is empty and has more memory than that */
int buf_reserve(struct buf *b, size_t extra_bytes); /* 0, ERR_NOMEM, ERR_LIMIT */
int buf_append(struct buf *b, const void *data, size_t n_bytes);
int buf_puts(struct buf *b, const char *s);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *b, size_t n_bytes); /* drops n_bytes from the front */
/* Hands the memory to the caller, who frees it with free(); the buffer is empty afterwards. */
char *buf_take(struct buf *b, size_t *ret_bytes);

#endif
