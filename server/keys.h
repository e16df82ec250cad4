/* server/keys.h - API keys: who may ask for what, read from a file, a credential or the configuration.
 *
 * A key is kept as its SHA-256 only. That is enough for keys of high entropy, which is why short ones are
 * refused; it is not enough for passwords. A keyring is immutable after it was read; a reload makes a new
 * one, and requests under way hold the old (keyring_ref). Loop thread. */
#ifndef LATENT_SERVER_KEYS_H
#define LATENT_SERVER_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include "api/api.h"
#include "base/err.h"

#define KEY_DIGEST_BYTES 32
#define KEY_NAME_MAX 64
#define KEY_MIN_BYTES 16
#define KEY_MAX_BYTES 512
#define KEYS_MAX 4096
#define KEY_HASH_TEXT (sizeof("sha256:") + 2 * KEY_DIGEST_BYTES)

struct key_use; /* limits.h */

struct api_key {
    char name[KEY_NAME_MAX + 1]; /* label in metrics and logs */
    unsigned char digest[KEY_DIGEST_BYTES];
    bool admin;                  /* may use the routes that change the server's state */
    long long requests_per_minute, tokens_per_minute; /* 0: no limit */
    int concurrent;              /* requests at the same time; 0: no limit */
    struct api_grant grant;
    char *models;                /* owned; what grant.models points to */
    struct key_use *use;         /* set by access.c; not owned */
};

struct keyring {
    int refs;
    bool required; /* every request needs a key; else only what administers does, where n > 0 */
    int n;
    struct api_key *keys;
};

/* Where keys come from; "" where nothing is set. `file` may be "credential:NAME" (conf.h). */
struct key_sources {
    const char *file, *api_key, *admin_key;
};

/* ERR_IO, ERR_FORMAT, ERR_INVAL, ERR_LIMIT: the text names the file and line, or the configuration's key. No
 * text ever holds a key. */
int keyring_read(const struct key_sources *src, struct keyring **ret, struct err *e) LATENT_MUST_CHECK;
struct keyring *keyring_ref(struct keyring *r);
void keyring_unref(struct keyring **r); /* NULL-safe */

/* One line of a keys file into r: `name hash option...`; empty lines and comments add nothing. */
int keyring_read_line(struct keyring *r, char *line, struct err *e) LATENT_MUST_CHECK;

/* The SHA-256 of what a client presents. ERR_NOMEM. */
int key_digest(const char *key, size_t n_bytes, unsigned char digest[KEY_DIGEST_BYTES]) LATENT_MUST_CHECK;
/* The key with that digest, or NULL. Takes the same time whichever it is, and whether there is one. */
const struct api_key *keyring_find(const struct keyring *r, const unsigned char digest[KEY_DIGEST_BYTES]);

/* "sha256:..." of a key for a keys file. ERR_INVAL: too short, too long, or with characters beyond printable
 * ASCII. */
int key_hash_text(const char *key, size_t n_bytes, char text[KEY_HASH_TEXT], struct err *e) LATENT_MUST_CHECK;

#endif
