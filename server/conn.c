/* server/conn.c - one HTTP connection: from its socket to requests (request.c) and their answers (reply.c).
 *
 * One request is answered at a time; what a client pipelines behind it waits in `in`, whose size is
 * bounded: beyond IN_HIGH the socket is not read. While an answer is made the socket is read on, since
 * only so a client's leaving is seen: end of file then counts as gone. Every wait has a timer. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "server/internal.h"

#define IN_HIGH (256u << 10)
#define LINGER_MS 2000
#define READ_BYTES 65536
#define TURN_NS (2 * NS_PER_MS) /* that pipelined requests of one connection may take at a time */
#define CLIENT_LEFT 499 /* in logs, as nginx has it */
#define IDLE_BYTES 16384u /* that each buffer of a connection may keep which waits for a request */
#define REFUSED_MAX 64 /* connections beyond max_connections that are told so */

static void process(struct conn *c);
static void on_timer(uv_timer_t *t);
static void refuse_now(struct conn *c, int status, const char *text);

/* --- life ----------------------------------------------------------------------------------------- */

static void set_timer(struct conn *c, long long ms)
{
    c->kicked = false;
    uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0);
}

static void kick_in(struct conn *c, long long ms)
{
    set_timer(c, ms);
    c->kicked = true;
}

/* Comes back from the loop with a clean stack: not from inside the API or the parser. */
void conn_kick(struct conn *c)
{
    if (c->state != CONN_CLOSED)
        kick_in(c, 0);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    if (--c->n_handles > 0)
        return;
    struct server *s = c->s;
    s->n_closing--;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_conns--;
    metric_set(s->m_connections, s->n_conns);
    request_reset(c);
    buf_done(&c->in);
    buf_done(&c->head);
    buf_done(&c->field);
    buf_done(&c->value);
    buf_done(&c->body);
    buf_done(&c->out);
    buf_done(&c->flight);
    buf_done(&c->sealed);
    tls_free(&c->tls);
    buf_done(&c->audited);
    buf_done(&c->forwarded);
    free(c);
    server_check_drained(s);
}

/* A request has ended, one way or the other. */
static void tell(struct conn *c)
{
    access_log_write(c);
    audit_write(c);
    trace_write(c);
}

void conn_close(struct conn *c)
{
    struct api_exchange *x = c->exchange;
    if (c->state == CONN_CLOSED)
        return;
    if (c->state == CONN_ANSWERING) {
        if (x) /* what was generated counts, also for those who leave before the end */
            api_exchange_facts(x, &c->log.facts);
        c->log.facts.finish = "disconnect";
        if (!c->log.status) /* no answer has begun: nobody was told one */
            c->log.status = c->s->stopping ? 503 : CLIENT_LEFT;
        tell(c);
        if (x && absent_take(c))
            x = NULL;
        access_end(c);
    }
    if (c->tls) { /* so that the end is known to be one */
        tls_close(c->tls);
        conn_flush(c);
    }
    c->state = CONN_CLOSED;
    crowd_leave(c);
    c->s->n_closing++;
    c->exchange = NULL;
    if (x)
        api_exchange_gone(x);
    uv_close(&c->u.handle, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    uv_close((uv_handle_t *)&c->write_timer, on_handle_closed);
}

bool conn_may_ask(const struct conn *c)
{
    return c->state == CONN_HEADER || c->state == CONN_BODY ||
           (!c->served && (c->state == CONN_PROXY || c->state == CONN_HANDSHAKE || c->state == CONN_IDLE));
}

void conn_drain(struct conn *c, bool grace)
{
    if (grace && conn_may_ask(c))
        return; /* its answer will be the last: the server drains */
    if (c->state == CONN_HEADER || c->state == CONN_BODY) /* as slow as they like: the end does not wait */
        refuse_now(c, 503, "the server is shutting down");
    else if (c->state == CONN_PROXY || c->state == CONN_HANDSHAKE ||
             (c->state == CONN_IDLE && conn_queued(c) == 0))
        conn_close(c);
    else
        c->close_after = true;
}

void conn_has_header(struct conn *c)
{
    c->state = CONN_BODY;
    crowd_wait(c);
    set_timer(c, c->s->cfg->body_timeout);
}

/* --- answering ------------------------------------------------------------------------------------ */

static void begin_answer(struct conn *c)
{
    struct server *s = c->s;
    uv_timer_stop(&c->timer);
    crowd_leave(c);
    c->state = CONN_ANSWERING;
    c->log.begin_ns = c->log.begin_ns ? c->log.begin_ns : clock_now_ns();
    if (!c->request_id[0])
        snprintf(c->request_id, sizeof(c->request_id), "req-%016llx%016llx",
                 (unsigned long long)s->id_seed[0], (unsigned long long)++s->id_seed[1]);
    trace_begin(c);
}

/* Whom a request counts for when service is shared out: the key, or else the address. */
static uint64_t client_of(const struct conn *c)
{
    char address[sizeof(c->peer)];
    conn_client(c, address, sizeof(address));
    return c->client ? c->client : hash64_bytes(address, strlen(address), 1);
}

/* The request is complete: whoever it is for answers it. */
static void answer(struct conn *c)
{
    struct server *s = c->s;
    if (!access_begin(c))
        return;
    if (cors_is_preflight(c)) {
        cors_preflight(c);
        return;
    }
    if (!api_owns_path(c->path)) {
        route_request(c);
        return;
    }
    const struct api_request req = {
        .method = conn_method(c),
        .path = c->path,
        .query = c->query,
        .content_type = c->content_type,
        .last_event_id = c->last_event_id,
        .body = c->body.data ? c->body.data : "",
        .body_bytes = c->body.n_bytes,
        .client = client_of(c),
        .grant = c->access.key ? &c->access.key->grant : NULL,
        .key = c->client,
        .request_id = c->request_id,
        .received_ns = c->log.begin_ns,
    };
    struct api_exchange *x = api_handle(s->api, &req, &conn_reply_ops, c);
    /* A reply that has ended meanwhile may have closed the connection or not; x is NULL then. */
    if (c->state == CONN_ANSWERING)
        c->exchange = x;
}

static void dispatch(struct conn *c)
{
    struct server *s = c->s;
    begin_answer(c);
    c->keep_alive = llhttp_should_keep_alive(&c->parser) && !c->close_after && !s->draining;
    if (c->http10 && (c->parser.flags & F_CHUNKED))
        c->keep_alive = false; /* HTTP/1.0 has no chunks: who reads them differs (RFC 9112, 6.1) */
    c->log.handler = handler_name(c->path);
    if (audit_wants_body(s)) {
        size_t most = (size_t)s->cfg->audit_prompts;
        buf_done(&c->audited);
        buf_init(&c->audited, most);
        /* without memory the line has no body */
        (void)buf_append(&c->audited, c->body.data, c->body.n_bytes < most ? c->body.n_bytes : most);
    }
    answer(c);
    request_drop_body(c);
}

static void refuse_now(struct conn *c, int status, const char *text)
{
    begin_answer(c);
    c->keep_alive = false;
    c->close_after = true;
    c->head_only = c->parser.method == HTTP_HEAD;
    reply_refusal(c, status, text);
    request_drop_body(c);
}

static void parse(struct conn *c)
{
    if (c->state == CONN_IDLE) {
        /* Empty lines between requests are no request. */
        size_t n = 0;
        while (n < c->in.n_bytes && (c->in.data[n] == '\r' || c->in.data[n] == '\n'))
            n++;
        buf_consume(&c->in, n);
        if (c->in.n_bytes == 0)
            return;
        request_begin(c);
        c->state = CONN_HEADER;
        c->log.begin_ns = clock_now_ns();
        set_timer(c, c->s->cfg->header_timeout);
    } else if (c->state == CONN_BODY) {
        set_timer(c, c->s->cfg->body_timeout);
    }
    size_t n_bytes = c->in.n_bytes;
    llhttp_errno_t r = llhttp_execute(&c->parser, c->in.data, n_bytes);
    size_t used = n_bytes;
    if (r != HPE_OK) {
        const char *at = llhttp_get_error_pos(&c->parser);
        if (at && at >= c->in.data && at <= c->in.data + n_bytes)
            used = (size_t)(at - c->in.data);
    }
    buf_consume(&c->in, used);
    if (c->message_complete)
        dispatch(c);
    else if (c->error_status)
        refuse_now(c, c->error_status, c->error_text);
    else if (r != HPE_OK)
        refuse_now(c, 400, "the request is not valid HTTP");
}

/* A client that pipelines and does not read its answers is not served on. */
static bool wants_more(const struct conn *c)
{
    if (c->state == CONN_IDLE)
        return !c->close_after && !c->broken && conn_queued(c) < (size_t)c->s->cfg->write_high;
    return c->state == CONN_HEADER || c->state == CONN_BODY;
}

/* Nothing more comes. Who closes its half while an answer is made is taken as gone, and of a request that is
 * not whole nothing becomes; answers before it still go out. */
static void end_with(struct conn *c)
{
    if (c->state == CONN_ANSWERING) {
        conn_close(c);
    } else if (c->state == CONN_HEADER || c->state == CONN_BODY) {
        request_reset(c);
        c->state = CONN_IDLE;
        c->close_after = true;
        conn_kick(c);
    }
}

/* Goes through what has been read until an answer is open or more bytes are needed, or until it is others'
 * turn: 64 KiB hold thousands of requests. */
static void process(struct conn *c)
{
    int64_t until = clock_now_ns() + TURN_NS;
    if (c->in_process)
        return;
    c->in_process = true;
    while (c->in.n_bytes > 0 && wants_more(c)) {
        parse(c);
        if (c->eof)
            end_with(c);
        if (c->state == CONN_IDLE && c->in.n_bytes > 0 && clock_now_ns() >= until) {
            kick_in(c, 1); /* with 0 the loop might come back to it before it looks at others */
            break;
        }
    }
    c->in_process = false;
}

static void alloc(uv_handle_t *h, size_t suggested, uv_buf_t *b)
{
    static char space[READ_BYTES]; /* used up before the next read */
    (void)h;
    (void)suggested;
    *b = uv_buf_init(space, sizeof(space));
}

static void on_read(uv_stream_t *st, ssize_t n, const uv_buf_t *b);

static void update_reading(struct conn *c)
{
    bool want = c->state != CONN_CLOSED && !c->eof && c->in.n_bytes < IN_HIGH;
    if (want == c->reading || c->state == CONN_CLOSED)
        return;
    c->reading = want;
    if (want && uv_read_start(&c->u.stream, alloc, on_read) < 0)
        conn_close(c);
    else if (!want)
        uv_read_stop(&c->u.stream);
}

/* HTTP may begin, or the handshake before it. */
static void begin_session(struct conn *c)
{
    c->state = c->tls ? CONN_HANDSHAKE : CONN_IDLE;
    set_timer(c, c->tls ? c->s->cfg->header_timeout : c->s->cfg->idle_timeout);
}

/* Who speaks plain HTTP where TLS is spoken is told so, in plain HTTP. */
static void answer_plainly(struct conn *c)
{
    LOG_DEBUG("tls", "%s: plain HTTP", c->peer);
    metric_add(c->s->m_handshakes_failed, 1);
    tls_free(&c->tls);
    c->state = CONN_IDLE;
    refuse_now(c, 400, "plain HTTP was sent to a port that speaks HTTPS: ask with https:");
}

/* The socket's bytes to a session's. False: the connection has been closed. */
static bool receive_tls(struct conn *c, const char *data, size_t n_bytes)
{
    bool closed;
    int r = tls_receive(c->tls, data, n_bytes, &c->in, &closed);
    if (r == 0 && c->state == CONN_HANDSHAKE && tls_established(c->tls)) {
        metric_add(c->s->m_handshakes, 1);
        c->state = CONN_IDLE;
        set_timer(c, c->s->cfg->idle_timeout);
    }
    if (r < 0 && c->state == CONN_HANDSHAKE && tls_met_http(c->tls)) {
        answer_plainly(c);
        return c->state != CONN_CLOSED;
    }
    conn_flush(c); /* the handshake's next part, or an alert */
    if (r < 0 || (closed && c->state == CONN_HANDSHAKE)) {
        LOG_DEBUG("tls", "%s: %s", c->peer, tls_error(c->tls));
        if (c->state == CONN_HANDSHAKE)
            metric_add(c->s->m_handshakes_failed, 1);
        conn_close(c);
        return false;
    }
    if (closed) /* it sends no more; like a half-closed socket */
        c->eof = true;
    return true;
}

/* The PROXY header, from c->in. False: the connection has been closed, or more bytes are needed. */
static bool receive_proxy(struct conn *c)
{
    const struct nets *trusted = &c->s->trusted;
    bool believed = (trusted->n == 0 && !trusted->local) || nets_have(trusted, c->peer);
    char before[PEER_TEXT];
    snprintf(before, sizeof(before), "%s", c->peer);
    int n = believed ? proxy_read(c->in.data, c->in.n_bytes, c->peer) : ERR_DENIED;
    if (n < 0) {
        LOG_DEBUG("http", "%s: %s", before, believed ? "no PROXY header" : "not a trusted proxy");
        conn_close(c);
    }
    if (n <= 0)
        return false;
    buf_consume(&c->in, (size_t)n);
    begin_session(c);
    return c->state != CONN_CLOSED;
}

static void on_eof(struct conn *c, bool orderly)
{
    bool asks = c->state == CONN_IDLE || c->state == CONN_HEADER || c->state == CONN_BODY;
    c->eof = true;
    if (!orderly || !asks || (conn_queued(c) == 0 && (c->in.n_bytes == 0 || c->state != CONN_IDLE))) {
        conn_close(c);
        return;
    }
    update_reading(c);
    end_with(c);
    conn_kick(c); /* what was read before is answered, and the answers go out */
}

static void on_read(uv_stream_t *st, ssize_t n, const uv_buf_t *b)
{
    struct conn *c = st->data;
    if (n == 0 || c->state == CONN_CLOSED)
        return;
    if (n < 0) {
        on_eof(c, n == UV_EOF);
        return;
    }
    if (c->state == CONN_LINGERING)
        return;
    if (c->tls && c->state != CONN_PROXY) {
        if (!receive_tls(c, b->base, (size_t)n))
            return;
    } else if (buf_append(&c->in, b->base, (size_t)n) < 0) {
        conn_close(c);
        return;
    }
    if (c->state == CONN_PROXY) {
        if (!receive_proxy(c))
            return;
        if (c->tls && c->in.n_bytes) { /* what came with it is the session's */
            struct buf rest = c->in;
            buf_init(&c->in, rest.max_bytes);
            bool open = receive_tls(c, rest.data, rest.n_bytes);
            buf_done(&rest);
            if (!open)
                return;
        }
    }
    struct server *s = c->s;
    process(c);
    if (c->tls && c->eof && c->state != CONN_CLOSED)
        on_eof(c, true);
    else
        update_reading(c);
    server_let_tokens_through(s);
}

static void linger(struct conn *c);

/* There may be very many that wait: a large request or answer leaves them no memory. */
static void shed(struct conn *c)
{
    buf_shed(&c->in, IDLE_BYTES);
    buf_shed(&c->out, IDLE_BYTES);
    buf_shed(&c->flight, IDLE_BYTES);
    buf_shed(&c->sealed, IDLE_BYTES);
    buf_reset(&c->audited);
    buf_shed(&c->audited, IDLE_BYTES);
    if (c->tls)
        tls_shed(c->tls, IDLE_BYTES);
}

/* Nothing is left to write and no answer is open: the next request, or the end. */
static void next(struct conn *c)
{
    c->close_after |= c->eof && c->in.n_bytes == 0;
    if (c->close_after && conn_queued(c) == 0) {
        linger(c);
        return;
    }
    if (c->close_after)
        return; /* conn_on_flushed comes back */
    set_timer(c, c->s->cfg->idle_timeout); /* also when only empty lines wait: process skips them */
    if (conn_queued(c) == 0) {
        shed(c);
        crowd_wait(c);
    }
    process(c);
    if (c->eof && c->state == CONN_IDLE && c->in.n_bytes == 0)
        conn_kick(c);
    update_reading(c);
}

void conn_answered(struct conn *c)
{
    tell(c);
    access_end(c);
    c->exchange = NULL;
    c->state = CONN_IDLE;
    c->served = true;
    c->close_after |= !c->keep_alive || c->s->draining;
    conn_kick(c);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status;
    free(req);
}

/* The client shall read the last answer before the connection is reset because it still sends. */
static void linger(struct conn *c)
{
    if (c->state == CONN_LINGERING)
        return;
    uv_shutdown_t *req = malloc(sizeof(*req));
    if (c->tls) {
        tls_close(c->tls);
        conn_flush(c);
    }
    if (c->eof || !req || uv_shutdown(req, &c->u.stream, on_shutdown) < 0) {
        free(req);
        conn_close(c);
        return;
    }
    c->state = CONN_LINGERING;
    buf_reset(&c->in);
    set_timer(c, LINGER_MS);
    update_reading(c);
    server_check_drained(c->s);
}

void conn_on_flushed(struct conn *c)
{
    if (c->state == CONN_ANSWERING && c->exchange)
        api_exchange_writable(c->exchange);
    else if (c->state == CONN_IDLE)
        conn_kick(c);
}

static void on_timer(uv_timer_t *t)
{
    struct conn *c = t->data;
    if (c->broken) {
        conn_close(c);
        return;
    }
    switch (c->state) {
    case CONN_PROXY:
        conn_close(c);
        return;
    case CONN_HANDSHAKE:
        metric_add(c->s->m_handshakes_failed, 1);
        conn_close(c);
        return;
    case CONN_IDLE:
        if (c->kicked || conn_queued(c) > 0) { /* what is not read has a timer of its own */
            struct server *s = c->s;
            next(c);
            server_let_tokens_through(s);
        } else {
            conn_close(c);
        }
        return;
    case CONN_HEADER:
        refuse_now(c, 408, "the request's header did not arrive in time");
        return;
    case CONN_BODY:
        refuse_now(c, 408, "the request's body did not arrive in time");
        return;
    case CONN_LINGERING:
        conn_close(c);
        return;
    case CONN_ANSWERING:
    case CONN_CLOSED:
        return;
    }
}

struct conn *conn_new(struct server *s, uv_handle_type type)
{
    struct conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->s = s;
    c->query = "";
    buf_init(&c->in, IN_HIGH + 2 * READ_BYTES); /* a read, and a record of TLS that it completes */
    buf_init(&c->head, (size_t)s->cfg->max_uri_size + 1);
    buf_init(&c->field, (size_t)s->cfg->max_header_size + READ_BYTES);
    buf_init(&c->value, (size_t)s->cfg->max_header_size + READ_BYTES);
    buf_init(&c->body, (size_t)s->cfg->max_body_size);
    buf_init(&c->out, 1u << 30);
    buf_init(&c->flight, 1u << 30);
    buf_init(&c->sealed, 1u << 30);
    buf_init(&c->forwarded, (size_t)s->cfg->max_header_size * 2);
    if (type == UV_TCP)
        uv_tcp_init(&s->loop, &c->u.tcp);
    else
        uv_pipe_init(&s->loop, &c->u.pipe, 0);
    uv_timer_init(&s->loop, &c->timer);
    uv_timer_init(&s->loop, &c->write_timer);
    c->u.handle.data = c->timer.data = c->write_timer.data = c->write.data = c;
    c->n_handles = 3;
    c->next = s->conns;
    if (c->next)
        c->next->prev = c;
    s->conns = c;
    s->n_conns++;
    metric_set(s->m_connections, s->n_conns);
    return c;
}

void conn_start(struct conn *c, const struct listener *l)
{
    struct server *s = c->s;
    c->state = l->proxy ? CONN_PROXY : l->tls ? CONN_HANDSHAKE : CONN_IDLE;
    request_reset(c);
    long long over = s->n_conns - s->n_closing - s->most_connections;
    int made = 0;
    while (over > made && crowd_make_room(s)) /* more than one where a reload has lowered max_connections */
        made++;
    bool full = over > 0 && made == 0;
    if (full && (c->state != CONN_IDLE || over > REFUSED_MAX)) {
        metric_add(s->m_rejected, 1);
        conn_close(c); /* a flood gets no answer, nor does who would first have to be understood */
        return;
    }
    if (full) {
        metric_add(s->m_rejected, 1);
        refuse_now(c, 503, "too many connections");
        update_reading(c);
        return;
    }
    if (l->tls && !(c->tls = tls_new(s->tls))) {
        conn_close(c);
        return;
    }
    crowd_wait(c);
    if (l->proxy)
        set_timer(c, s->cfg->header_timeout);
    else
        begin_session(c);
    update_reading(c);
}
