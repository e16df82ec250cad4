/* server/tls.h - TLS between a connection's bytes and the socket's, without touching the socket.
 *
 * OpenSSL reads and writes memory: the connection hands over what arrived and asks for what is to be sent,
 * so that its timers, limits and back-pressure are the same with TLS and without. A context is made of the
 * configuration's files; sessions hold the one that they began with, so that a reload replaces it. Loop
 * thread. */
#ifndef LATENT_SERVER_TLS_H
#define LATENT_SERVER_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include "base/buf.h"
#include "base/err.h"

struct server_config;
struct ssl_ctx_st; /* OpenSSL's SSL_CTX */
struct tls;

/* Of tls_cert, tls_key, tls_client_ca and tls_min_version; *ret NULL where none is set, an error where
 * one is needed. The error names the key and the file. */
int tls_context_read(const struct server_config *cfg, bool needed, struct ssl_ctx_st **ret,
                     struct err *e) LATENT_MUST_CHECK;
/* To ask others: their certificates must be signed by an authority of the file ca, or by one that the system
 * trusts where that is "". */
int tls_client_context(const char *ca, struct ssl_ctx_st **ret, struct err *e) LATENT_MUST_CHECK;
void tls_context_free(struct ssl_ctx_st **ctx); /* NULL-safe; sessions go on */

struct tls *tls_new(struct ssl_ctx_st *ctx); /* NULL: out of memory */
/* Asks the server of that name, or address, and believes no other. */
struct tls *tls_new_client(struct ssl_ctx_st *ctx, const char *host);
void tls_free(struct tls **t);               /* NULL-safe */

/* Bytes that arrived; what they decrypt to is appended to `in`: at most n_bytes and a record. Negative: the
 * session is broken, tls_seal may still have an alert. *ret_closed: the client has sent its last. */
int tls_receive(struct tls *t, const char *data, size_t n_bytes, struct buf *in,
                bool *ret_closed) LATENT_MUST_CHECK;
bool tls_established(const struct tls *t);
/* Moves a slice of `plain` (emptied at once, kept in t) into `out`, encrypted, behind what the handshake
 * has to say. Nothing goes out of `plain` before the handshake is over. */
int tls_seal(struct tls *t, struct buf *plain, struct buf *out) LATENT_MUST_CHECK;
size_t tls_unsealed(const struct tls *t); /* bytes of earlier `plain` that are not in an `out` yet */
void tls_close(struct tls *t);            /* the next seal ends with "nothing follows" */
void tls_shed(struct tls *t, size_t keep_bytes); /* frees the memory beyond that of what is empty */
bool tls_met_http(const struct tls *t); /* it broke because plain HTTP came */
/* Why the session broke: text of OpenSSL. */
const char *tls_error(const struct tls *t);

#endif
