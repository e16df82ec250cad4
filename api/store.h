/* api/store.h - the store of responses (store_db.h) on a thread of its own, since a disk can take its time.
 *
 * The loop thread asks, the store's thread does it in the order in which it was asked, and store_poll on the
 * loop thread tells what came of it. So who asks behind an answer that was to be kept finds it. What waits is
 * bounded: beyond that questions are refused, and a response that was to be kept is lost, which is counted
 * and logged, as it is when the disk fails. Everything here runs on the loop thread. */
#ifndef LATENT_API_STORE_H
#define LATENT_API_STORE_H

#include <stdint.h>
#include "base/err.h"
#include "base/metrics.h"

struct store;

struct store_config {
    const char *path; /* NULL or "": in memory */
    int max_entries;
    uint64_t max_bytes;         /* of what is kept */
    uint64_t max_waiting_bytes; /* of what waits for the disk; one thing may always wait */
    struct metrics *metrics;    /* not owned; may be NULL */
    /* From the store's thread: store_poll has something to tell. Also during store_close. */
    void (*wake)(void *host);
    /* A line for the operator; at most one a minute. May be NULL. */
    void (*log)(void *host, const char *text);
    void *host;
};

/* Opens the file on the calling thread, then starts the other. ERR_IO names the file. */
int store_open(const struct store_config *cfg, struct store **ret, struct err *e) LATENT_MUST_CHECK;
/* Waits until all is written that was to be kept; what was asked is told no more. NULL-safe. */
void store_close(struct store **s);
/* Keeps copies. body: the response, items: what it was asked with, both JSON. What is larger than the store
 * is not kept. */
void store_put(struct store *s, const char *id, uint64_t client, const char *body, const char *items);

/* result: 0, ERR_NOTFOUND, ERR_NOMEM or ERR_IO. The texts are valid during the call; NULL unless result is 0
 * and they were asked for. It may ask again. */
typedef void store_told(void *arg, int result, const char *body, const char *items);
/* `told` is called once, by store_poll, if 0 is returned, unless the store is closed before. ERR_BUSY: too
 * much waits; ERR_NOMEM. */
int store_get(struct store *s, const char *id, uint64_t client, store_told *told,
              void *arg) LATENT_MUST_CHECK;
int store_delete(struct store *s, const char *id, uint64_t client, store_told *told,
                 void *arg) LATENT_MUST_CHECK;
/* Calls back for all that is done. */
void store_poll(struct store *s);

#endif
