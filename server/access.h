/* server/access.h - who a request comes from and what that key may do.
 *
 * The key is known when a request's header is, so that a body without one is never read; its limits are
 * asked when the request is complete, and again for the tokens of its prompts. Loop thread. */
#ifndef LATENT_SERVER_ACCESS_H
#define LATENT_SERVER_ACCESS_H

#include "server/keys.h"

struct buf;
struct conn;
struct server;
struct server_config;

/* Of one request; a part of the connection. */
struct access {
    unsigned char digest[KEY_DIGEST_BYTES]; /* of what was presented */
    bool presented, ambiguous;
    bool lost; /* there was no memory to look at what was presented */
    const struct api_key *key; /* NULL: none, or none is needed */
    struct keyring *ring;      /* held while key is */
    bool begun;                /* limits_end is due */
    long long prompt_tokens;   /* taken from the key's rate */
};

/* Reads the keys that cfg names; warns about what is suspicious. */
int access_read(const struct server_config *cfg, struct keyring **ret, struct err *e) LATENT_MUST_CHECK;
/* Puts a ring in the place of the server's, which takes it over. On failure the old one stays. */
int access_use(struct server *s, struct keyring *ring, struct err *e) LATENT_MUST_CHECK;

/* A header line that may hold a key. */
void access_header(struct conn *c, const char *name, const char *value);
/* The header is complete: 0, or the status to refuse with and its text. */
int access_check(struct conn *c, const char **ret_text);
/* The request is complete: true, or false when it was answered with 429. */
bool access_begin(struct conn *c);
/* Tokens of its prompts; api_config.admit. */
int access_admit(void *reply, long long n_tokens, struct err *e);
/* Header lines that its answer gets: rates, and how to authorize oneself. */
int access_answer_headers(struct conn *c, int status, struct buf *out);
/* The request is over, its facts are in c->log. */
void access_end(struct conn *c);
/* The same by itself. refused: the prompt's tokens are given back. */
void access_over(struct access *a, long long completion_tokens, bool refused);
/* Name of the key, or NULL. */
const char *access_key_name(const struct conn *c);

#endif
