/* api/store.h - finished responses by id, in SQLite: a file, or memory. Bounded in number and bytes; the
 * oldest go. A response belongs to the client that asked for it and is found by no other. Loop thread: the
 * database runs without waiting for the disk (a crash of the machine may lose the last ones, never damage
 * the rest). */
#ifndef LATENT_API_STORE_H
#define LATENT_API_STORE_H

#include <stdint.h>
#include "base/err.h"

struct store;

/* path: NULL or "": in memory. ERR_IO names the file. */
int store_open(const char *path, int max_entries, uint64_t max_bytes, struct store **ret, struct err *e)
    LATENT_MUST_CHECK;
void store_close(struct store **s);
/* body: the response, items: what it was asked with, both JSON. What is larger than the store is not kept. */
int store_put(struct store *s, const char *id, uint64_t client, const char *body,
              const char *items) LATENT_MUST_CHECK;
/* Copies that the caller frees; either may be NULL. ERR_NOTFOUND, ERR_NOMEM, ERR_IO. */
int store_get(struct store *s, const char *id, uint64_t client, char **ret_body,
              char **ret_items) LATENT_MUST_CHECK;
int store_delete(struct store *s, const char *id, uint64_t client) LATENT_MUST_CHECK;

#endif
