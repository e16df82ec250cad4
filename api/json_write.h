/* api/json_write.h - JSON text straight into a buffer, without a tree: answers are written per token.
 *
 * The first failure sticks: later calls do nothing, and `err` tells at the end. */
#ifndef LATENT_API_JSON_WRITE_H
#define LATENT_API_JSON_WRITE_H

#include <stddef.h>
#include "base/buf.h"

struct jw {
    struct buf b;
    int err; /* 0, ERR_NOMEM, ERR_LIMIT */
};

void jw_init(struct jw *w, size_t max_bytes);
void jw_done(struct jw *w);
void jw_reset(struct jw *w); /* empties; forgets the failure */
void jw_bytes(struct jw *w, const char *s, size_t n_bytes);
void jw_raw(struct jw *w, const char *s);
void jw_printf(struct jw *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void jw_join(struct jw *w, const struct jw *other); /* appends its bytes and its failure */
/* The inside of a JSON string: quotes, backslashes and control characters escaped. s is valid UTF-8. */
void jw_escape(struct jw *w, const char *s, size_t n_bytes);
/* The same between quotes. */
void jw_string(struct jw *w, const char *s, size_t n_bytes);
void jw_cstring(struct jw *w, const char *s); /* NULL writes null */
/* A number that reads back as the same float; an infinity becomes -9999.0 or 9999.0, as other servers
 * write it. */
void jw_float(struct jw *w, float v);
/* Bytes that may be no valid UTF-8, as OpenAI shows such tokens: "bytes:\\xe2\\x80". */
void jw_token_text(struct jw *w, const char *s, size_t n_bytes);

#endif
