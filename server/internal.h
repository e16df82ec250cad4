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
#include "server/access.h"
#include "server/peer.h"
#include "server/conf.h"
#include "server/server.h"
#include "server/tls.h"
#include "server/trace.h"

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
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } spare;        /* takes a connection for which there is no memory, to close it */
    bool spare_used, spare_asked;
    int64_t told_ns; /* when a failure was logged */
    char path[108]; /* of a Unix socket: unlinked at the end */
    bool open, tls, proxy; /* proxy: the PROXY protocol is spoken */
    bool waits;            /* connections are taken from listeners_start on */
};

/* Takes the sockets that the service manager hands over, or else opens every address of cfg->listen, and logs
 * them; the error names the address. */
int listeners_open(struct server *s, struct err *e) LATENT_MUST_CHECK;
void listeners_start(struct server *s); /* the model is loaded */
void listeners_close(struct server *s); /* idempotent */
bool listen_has_tls(const char *list);  /* is one of the addresses a tls: one? */
/* Can all of them be read? None is opened. */
int listen_check(const char *addresses, struct err *e) LATENT_MUST_CHECK;
bool listeners_have_tls(const struct server *s); /* one that is open, whoever opened it */

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
    CONN_PROXY,     /* the PROXY header is read */
    CONN_HANDSHAKE, /* of TLS; no request yet */
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
    struct conn *waits_next, *waits_prev; /* crowd.c */
    enum conn_state state;
    bool reading, eof, in_process, close_after;
    bool served; /* a request was answered */
    bool broken; /* no memory for output: closed at the next turn of the loop */
    bool kicked; /* the timer runs for conn_kick */
    bool waits;  /* for a request: may be closed in favour of a new connection */
    char peer[PEER_TEXT];

    /* the request */
    llhttp_t parser;
    struct buf in;          /* bytes not parsed yet */
    struct buf head;        /* target, then header names and values that matter, NUL-separated */
    struct buf field, value; /* the header line being read */
    size_t header_bytes;
    int n_headers;
    bool has_host, expects, message_complete, value_seen;
    bool coded, recoded;    /* there is a transfer coding; one besides chunked */
    bool openmetrics;       /* preferred to Prometheus' text */
    char content_type[128], request_id[132], last_event_id[32];
    struct buf forwarded;   /* the header that tells of proxies */
    char client_text[PEER_TEXT]; /* its address as a trusted proxy tells, else "" */
    struct {
        char origin[256], host[256], headers[512];
        bool asks; /* as a preflight does */
    } cors;
    struct access access;   /* whose it is */
    uint64_t client;        /* hash of the key; 0: none */
    struct buf audited;     /* of its body, what audit_prompts wants told */
    struct trace_context trace;
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
    struct tls *tls;        /* NULL: plain */
    struct buf sealed;      /* of out, encrypted */
    uv_write_t write;
    bool writing;           /* flight is with libuv */
    size_t unread_bytes;    /* of it, when write_timer was started */
    struct request_log log;
};

/* Takes over an accepted handle: *u is copied by libuv, so it is initialised in place by the caller. */
struct conn *conn_new(struct server *s, uv_handle_type type);
void conn_start(struct conn *c, const struct listener *l);
void conn_close(struct conn *c); /* at once; a running request is cancelled */
/* Whether a request is being read, or may be on its way as the connection's first. */
bool conn_may_ask(const struct conn *c);
/* Ends idle connections; busy ones end after their answer. grace: those that may ask are left alone. */
void conn_drain(struct conn *c, bool grace);
extern const struct api_reply_ops conn_reply_ops; /* reply.c; `reply` is the conn */

/* --- request.c: what the connection's request says ------------------------------------------------- */

void request_reset(struct conn *c); /* there is none */
/* Whoever was to read its body has: on a connection that stays open it counts no longer. */
void request_drop_body(struct conn *c);
void request_begin(struct conn *c); /* its first byte is there, and the parser ready for it */
void conn_has_header(struct conn *c); /* conn.c: the header is complete and the request not refused */
enum http_method conn_method(const struct conn *c);
/* The address of the client, without the port. */
void conn_client(const struct conn *c, char *dst, size_t n);

/* --- absent.c: streams that go on without their client ---------------------------------------------- */

/* What the connection's stream still uses counts for its key. false: it must end. */
bool absent_take(struct conn *c);

/* --- crowd.c: when max_connections are open --------------------------------------------------------- */

void crowd_wait(struct conn *c);  /* it waits for a request, from now on */
void crowd_leave(struct conn *c); /* it has one, or ends */
/* Closes the connection that has waited longest. False: none waits. */
bool crowd_make_room(struct server *s);

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

/* --- metrics.c ------------------------------------------------------------------------------------ */

struct process_metrics {
    struct metric *cpu, *resident, *virt, *fds, *max_fds, *start, *step_age;
    int64_t start_s;
};
int metrics_start(struct server *s, struct err *e) LATENT_MUST_CHECK;
void metrics_header(struct conn *c, const char *value); /* of Accept */
void metrics_answer(struct conn *c);

/* --- routes.c: health ----------------------------------------------------------------------------- */

/* Answers what is not the API's. */
void route_request(struct conn *c);
/* A step has been running for longer than step_stall_timeout: /livez fails, and the watchdog is not fed. */
bool step_is_stalled(const struct server *s);
const char *handler_name(const char *path);
const char *route_name(const struct conn *c); /* its path as a pattern, or NULL */

/* --- access_log.c --------------------------------------------------------------------------------- */

struct access_log;
int access_log_open(struct server *s, struct err *e) LATENT_MUST_CHECK;
void access_log_close(struct server *s);
/* To append to. A pipe that nobody reads holds up the loop neither now nor when it is full, and may be read
 * later: what has no room in it is lost. -1, and errno. */
int log_file_open(const char *path, mode_t mode);
void access_log_write(struct conn *c); /* the log line and the metrics of a request that ended */

/* --- cors.c --------------------------------------------------------------------------------------- */

void cors_header(struct conn *c, const char *name, const char *value);
bool cors_is_preflight(const struct conn *c); /* of an origin that is allowed: needs no key */
int cors_check(const struct conn *c, const char **ret_text); /* 0, or the status to refuse with */
void cors_preflight(struct conn *c);                         /* answers it */
int cors_answer_headers(const struct conn *c, struct buf *out);

/* --- audit.c -------------------------------------------------------------------------------------- */

struct audit;
/* Also anew; on failure the old file stays. */
int audit_open(struct server *s, struct err *e) LATENT_MUST_CHECK;
void audit_close(struct server *s);
bool audit_wants_body(const struct server *s);
void audit_write(const struct conn *c); /* the line of a request that ended */

/* --- spans.c: one trace a request ------------------------------------------------------------------ */

void trace_header(struct conn *c, const char *name, const char *value);
void trace_begin(struct conn *c); /* before its answer */
int trace_answer_headers(const struct conn *c, struct buf *out);
void trace_write(const struct conn *c); /* of a request that ended */

/* --- systemd.c ------------------------------------------------------------------------------------ */

void systemd_ready(void);
void systemd_loading(int percent);
void systemd_reloading(void); /* systemd_ready follows */
void systemd_stopping(long long timeout_ms); /* within which it ends */
int64_t systemd_watchdog_ns(void); /* time without systemd_alive after which it ends us; 0: never */
void systemd_alive(void);
/* A listening socket made by the service manager (systemd.socket). Its FileDescriptorName says how it is
 * spoken to, as the marks of `listen` do: with "tls" or "proxy" in it, or both. */
struct passed_socket {
    int fd;
    bool is_unix, tls, proxy;
};
/* Sockets handed over, at most `most`; 0: none. They are ours now. */
int systemd_sockets(struct passed_socket *ret, int most, struct err *e) LATENT_MUST_CHECK;

/* --- watchdog.c ------------------------------------------------------------------------------------ */

/* Called several times a second: tells the service manager that the engine gets on. When a step takes longer
 * than step_stall_timeout it does not, and the state of scheduler and threads goes to the log, once a
 * stall. */
void watchdog_tick(struct server *s);

/* --- server.c ------------------------------------------------------------------------------------- */

struct server {
    struct server_config *cfg;
    reread_fn reread;
    void *reread_arg;
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t tick, drain_timer;
    uv_signal_t sigterm, sigint, sighup;
    struct listener listeners[MAX_LISTENERS];
    int n_listeners;
    struct conn *conns;
    int n_conns, n_closing; /* of them */
    long long most_connections; /* max_connections, or what descriptors allow */
    struct conn *waits_first, *waits_last;
    size_t body_bytes; /* of all requests being received */
    struct engine *engine;
    struct api *api;
    struct metrics *metrics;
    struct metric *m_connections, *m_rejected, *m_displaced, *m_handshakes, *m_handshakes_failed;
    struct process_metrics process;
    struct access_log *access_log;
    struct audit *audit;
    struct traces *traces;
    struct keyring *keyring;
    struct limits *limits;
    struct nets trusted;    /* proxies */
    struct ssl_ctx_st *tls; /* for new connections; NULL: none */
    struct pins *pins; /* NULL: none */
    char *chat_template;
    bool draining, stopping, loaded;
    bool deliver_traces; /* at the end, what waits of them */
    int exit_status, load_shown;
    int64_t watchdog_ns, watchdog_told_ns; /* 0: nobody waits for us */
    bool stall_told;
    int64_t polled_ns; /* when events of the engine were last taken */
    int64_t grace_until_ns; /* draining: until then requests that were on their way are taken; 0: no more */
    uint64_t id_seed[2];
};

/* To what max_connections needs, where that is allowed; sets most_connections. */
void server_raise_descriptors(struct server *s);
/* cfg->trusted_proxies. */
int trusted_read(const struct server_config *cfg, struct nets *ret, struct err *e) LATENT_MUST_CHECK;
struct api_config server_api_config(const struct server *s);
/* The loop answers all who are ready before it looks at the engine again: with a thousand of them streams
 * would stand still for that long. Whoever has served one lets tokens go out, every 2 ms. Not from inside the
 * API. */
void server_let_tokens_through(struct server *s);

/* A connection or request ended: is the drain over? */
void server_check_drained(struct server *s);

/* --- reload.c ------------------------------------------------------------------------------------- */

void server_reload(struct server *s);
bool reload_may_change(const char *key); /* without a restart */

#endif
