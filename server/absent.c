/* server/absent.c - the place of a client that has left its stream, until it comes back or the stream ends:
 * what is generated counts for the key as if it were there. */
#include "config.h"

#include <stdlib.h>

#include "server/internal.h"

struct absent {
    struct access access;
};

static void begin(void *reply, int status, const struct api_header *headers, int n_headers,
                  int64_t body_bytes)
{
    (void)reply, (void)status, (void)headers, (void)n_headers, (void)body_bytes;
}

static void write_nothing(void *reply, const char *data, size_t n_bytes)
{
    (void)reply, (void)data, (void)n_bytes;
}

static void end(void *reply, const struct api_log_facts *facts)
{
    struct absent *a = reply;
    access_over(&a->access, facts->completion_tokens, false);
    free(a);
}

static size_t queued_bytes(void *reply)
{
    (void)reply;
    return 0;
}

static const struct api_reply_ops ops = {begin, write_nothing, end, queued_bytes};

bool absent_take(struct conn *c)
{
    if (c->s->draining || c->s->stopping) /* nobody could come back */
        return false;
    struct absent *a = malloc(sizeof(*a));
    if (!a)
        return false;
    a->access = c->access;
    if (!api_exchange_leave(c->exchange, &ops, a)) {
        free(a);
        return false;
    }
    c->access = (struct access){.ring = NULL};
    return true;
}
