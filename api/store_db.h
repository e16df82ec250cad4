/* api/store_db.h - finished responses by id, in SQLite: a file, or memory. Bounded in number and bytes; the
 * oldest go. A response belongs to the client that asked for it and is found by no other. The database runs
 * without syncing (a crash of the machine may lose the last ones, never damage the rest), but a disk can take
 * its time all the same: store.h keeps that from the loop. One thread at a time. */
#ifndef LATENT_API_STORE_DB_H
#define LATENT_API_STORE_DB_H

#include <stdint.h>
#include "base/err.h"

struct store_db;

/* path: NULL or "": in memory. ERR_IO names the file. */
int store_db_open(const char *path, int max_entries, uint64_t max_bytes, struct store_db **ret,
                  struct err *e) LATENT_MUST_CHECK;
void store_db_close(struct store_db **d);
/* body: the response, items: what it was asked with, both JSON. What is larger than the store is not kept.
 * ERR_DENIED: another client has a response of that id, which stays. */
int store_db_put(struct store_db *d, const char *id, uint64_t client, const char *body,
                 const char *items) LATENT_MUST_CHECK;
/* Copies that the caller frees; either may be NULL. ERR_NOTFOUND, ERR_NOMEM, ERR_IO. */
int store_db_get(struct store_db *d, const char *id, uint64_t client, char **ret_body,
                 char **ret_items) LATENT_MUST_CHECK;
int store_db_delete(struct store_db *d, const char *id, uint64_t client) LATENT_MUST_CHECK;
/* Why the last call gave ERR_IO; valid until the next. */
const char *store_db_trouble(const struct store_db *d);
/* What is in it. */
void store_db_use(const struct store_db *d, int64_t *ret_entries, int64_t *ret_bytes);

#endif
