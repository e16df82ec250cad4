/* server/internal.h - what the files of server/ share. Everything runs on the loop thread. */
#ifndef LATENT_SERVER_INTERNAL_H
#define LATENT_SERVER_INTERNAL_H

#include <llhttp.h>
#include <stdbool.h>
#include <stdio.h>
#include <uv.h>
#include "api/api.h"
#include "base/buf.h"
#include "base/metrics.h"
#include "server/conf.h"

#define MAX_LISTENERS 16

struct conn;
struct server;

/* --- listener.c ----------------------------------------------------------------------------------- */

struct listener {
    struct server *s;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    char path[108]; /* of a Unix socket: unlinked at the end */
    bool open;
};

/* Opens every address of cfg->listen and logs it; the error names the address. */
int listeners_open(struct server *s, struct err *e) LATENT_MUST_CHECK;
void listeners_close(struct server *s); /* idempotent */

/* --- pins.c: cache_pin_files ------------------------------------------------------------------------ */

/* Finds the files; the error names the one that cannot be read. */
int pins_open(struct server *s, struct err *e) LATENT_MUST_CHECK;
void pins_start(struct server *s); /* the model is loaded */
void pins_close(struct server *s); /* before the loop runs out */
void pins_free(struct server *s);

/* --- conn.c: one HTTP connection ------------------------------------------------------------------ */

/* What the access log tells of a request. */
struct request_log {
    const char *handler; /* label of metrics: "completions", "other" */
    int status;
    int64_t begin_ns;
    uint64_t bytes;
    struct api_log_facts facts;
};

enum conn_state {
    CONN_IDLE,      /* between requests */
    CONN_HEADER,
    CONN_BODY,
    CONN_ANSWERING, /* the reply is open */
    CONN_LINGERING, /* the last answer is out; what the client still sends is dropped */
    CONN_CLOSED,
};

struct conn {
    struct server *s;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } u;
    uv_timer_t timer, write_timer;
    int n_handles; /* to be closed before the connection is freed */
    struct conn *next, *prev;
    enum conn_state state;
    bool reading, eof, in_process, close_after;
    bool broken; /* no memory for output: closed at the next turn of the loop */
    bool kicked; /* the timer runs for conn_kick */
    char peer[64];

    /* the request */
    llhttp_t parser;
    struct buf in;          /* bytes not parsed yet */
    struct buf head;        /* target, then header names and values that matter, NUL-separated */
    struct buf field, value; /* the header line being read */
    size_t header_bytes;
    int n_headers;
    bool has_host, expects, message_complete, value_seen;
    bool recoded;           /* a transfer coding besides chunked */
    char content_type[128], request_id[132];
    uint64_t client;        /* hash of the Authorization header; 0: none */
    char *target;           /* owned */
    char *path;             /* owned, decoded */
    const char *query;
    struct buf body;
    size_t body_counted;    /* of s->body_bytes */
    int error_status;       /* set by a parser callback */
    const char *error_text;

    /* the answer */
    struct api_exchange *exchange;
    bool head_only, chunked, keep_alive, http10;
    bool streams;           /* the body's length is not known before its end */
    struct buf out, flight;
    uv_write_t write;
    bool writing;           /* flight is with libuv */
    size_t unread_bytes;    /* of it, when write_timer was started */
    struct request_log log;
};

/* Takes over an accepted handle: *u is copied by libuv, so it is initialised in place by the caller. */
struct conn *conn_new(struct server *s, uv_handle_type type);
void conn_start(struct conn *c);
void conn_close(struct conn *c); /* at once; a running request is cancelled */
/* Ends idle connections; busy ones end after their answer. */
void conn_drain(struct conn *c);
extern const struct api_reply_ops conn_reply_ops; /* reply.c; `reply` is the conn */

/* --- reply.c -------------------------------------------------------------------------------------- */

/* A short answer with everything in it. `headers` as whole lines, or "". */
void reply_simple(struct conn *c, int status, const char *content_type, const char *headers,
                  const char *body, size_t n_bytes);
/* The same as an error in the API's shape; the connection closes after it. */
void reply_refusal(struct conn *c, int status, const char *message);
/* Gives the kernel what it takes of c->out. Errors show as the connection's end, later. */
void conn_flush(struct conn *c);
size_t conn_queued(const struct conn *c); /* bytes that the kernel has not taken */
/* conn.c: what reply.c calls */
void conn_on_flushed(struct conn *c); /* queued output fell to write_low or less */
void conn_answered(struct conn *c);   /* the reply has ended */
void conn_kick(struct conn *c);       /* look at the connection again, from the loop */

/* --- routes.c: health, metrics -------------------------------------------------------------------- */

/* Answers what is not the API's. */
void route_request(struct conn *c);
const char *handler_name(const char *path);

/* --- access_log.c --------------------------------------------------------------------------------- */

struct access_log;
int access_log_open(struct server *s, struct err *e) LATENT_MUST_CHECK;
void access_log_close(struct server *s);
void access_log_write(struct conn *c); /* the log line and the metrics of a request that ended */

/* --- systemd.c ------------------------------------------------------------------------------------ */

void systemd_ready(void);
void systemd_loading(int percent);
void systemd_stopping(void);

/* --- server.c ------------------------------------------------------------------------------------- */

struct server {
    const struct server_config *cfg;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t tick, drain_timer;
    uv_signal_t sigterm, sigint, sighup;
    struct listener listeners[MAX_LISTENERS];
    int n_listeners;
    struct conn *conns;
    int n_conns;
    size_t body_bytes; /* of all requests being received */
    struct engine *engine;
    struct api *api;
    struct metrics *metrics;
    struct metric *m_connections, *m_rejected;
    struct access_log *access_log;
    struct pins *pins; /* NULL: none */
    char *chat_template;
    bool draining, stopping, loaded;
    int exit_status, load_shown;
    uint64_t id_seed[2];
};

/* A connection or request ended: is the drain over? */
void server_check_drained(struct server *s);

#endif
