/* base/mailbox.h - a bounded queue of pointers between two threads.
 *
 * Many producers, one consumer. A producer never blocks: a full mailbox answers ERR_LIMIT. The
 * consumer either sleeps in mailbox_wait (engine thread), or is woken through `wake` (uv_async_send
 * on the loop thread) and then pops until empty, because wakes coalesce. */
#ifndef LATENT_BASE_MAILBOX_H
#define LATENT_BASE_MAILBOX_H

#include <stdint.h>
#include "base/err.h"

struct mailbox;

/* wake may be NULL; it is called from the producer's thread after a push, outside the lock. */
int mailbox_new(uint32_t capacity, void (*wake)(void *arg), void *wake_arg, struct mailbox **ret);
void mailbox_free(struct mailbox **mb); /* NULL-safe; messages inside are not freed: pop them first */
int mailbox_push(struct mailbox *mb, void *msg) LATENT_MUST_CHECK; /* 0 or ERR_LIMIT */
void *mailbox_pop(struct mailbox *mb);                             /* NULL when empty */
/* Waits at most timeout_ns (negative: for ever) for a message or a mailbox_poke; NULL when none. */
void *mailbox_wait(struct mailbox *mb, int64_t timeout_ns);
void mailbox_poke(struct mailbox *mb); /* ends a wait without a message */
uint32_t mailbox_count(struct mailbox *mb);

#endif
