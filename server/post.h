/* server/post.h - sends one body to a URL by HTTP/1.1 POST, from the loop and without holding it up.
 *
 * One connection each, closed behind the answer. Made for few and small deliveries to an operator's own
 * collector: no redirects, no proxies, no coding of contents.
 * Loop thread; names are looked up by the loop's helpers. */
#ifndef LATENT_SERVER_POST_H
#define LATENT_SERVER_POST_H

#include <stdbool.h>
#include <uv.h>
#include "base/buf.h"
#include "base/err.h"

struct ssl_ctx_st;

struct post_target {
    char host[256], port[6]; /* host without the brackets of an IPv6 address */
    char path[1024];         /* with its query */
    bool tls;
    struct ssl_ctx_st *ctx;  /* where tls; not owned */
    const char *headers;     /* further header lines, each with its end; not owned */
};

/* Of http://HOST[:PORT][/PATH] or https:; the error says what is wrong with it. */
int post_target_read(const char *url, struct post_target *ret, struct err *e) LATENT_MUST_CHECK;

struct post_answer {
    int status;        /* 0: there was none, and `error` says why */
    int retry_after_s; /* that it asks for; 0: nothing */
    const char *error; /* valid during the call, as is the body */
    const char *body;  /* NULL: it has none */
    size_t n_bytes;    /* of the body; with head and framing at most 64 KiB */
};
typedef void post_done(void *arg, const struct post_answer *a);

struct post;
/* Copies what it needs of the target, takes the body. `done` is called once and from the loop, unless
 * post_cancel is. NULL: out of memory, and the body is gone all the same. */
struct post *post_start(uv_loop_t *loop, const struct post_target *to, struct buf *body, long long timeout_ms,
                        post_done *done, void *arg);
void post_cancel(struct post **p); /* NULL-safe; not inside `done` */

#endif
