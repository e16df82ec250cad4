/* server/json.h - strings of the JSON lines and spans that the server writes itself. */
#ifndef LATENT_SERVER_JSON_H
#define LATENT_SERVER_JSON_H

#include "base/buf.h"

/* In quotes, escaped; bytes that are no UTF-8 become U+FFFD. */
int json_string(struct buf *b, const char *text, size_t n_bytes) LATENT_MUST_CHECK;

#endif
