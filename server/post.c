/* server/post.c - see post.h.
 *
 * A post is freed when all that the loop holds of it has come back: its socket, its timer, the look-up. */
#include "config.h"

#include "server/post.h"

#include <llhttp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/tls.h"

#define ANSWER_MAX (64u << 10) /* a collector answers in a line */
#define HEAD_MAX (64u << 10)

struct post {
    uv_loop_t *loop;
    int n_held; /* handles and requests that the loop has */
    bool over, open, complete, writing; /* open: the socket is to be closed */
    post_done *done;
    void *arg;
    uv_timer_t timer;
    uv_tcp_t tcp;
    uv_getaddrinfo_t lookup;
    uv_connect_t connect;
    uv_write_t write;
    struct addrinfo *addresses, *at;
    int connect_error; /* of the address before */
    char host[256];
    struct tls *tls;
    struct buf out, sealed, flight, in, body;
    size_t n_received;
    llhttp_t parser;
    llhttp_settings_t settings;
    char name[32], value[32]; /* the header line being read, cut */
    bool value_seen;
    int retry_after_s;
    char error[512];
    char piece[16384];
};

/* --- the target ----------------------------------------------------------------------------------- */

int post_target_read(const char *url, struct post_target *ret, struct err *e)
{
    struct post_target t = {.tls = !strncasecmp(url, "https://", 8)};
    if (!t.tls && strncasecmp(url, "http://", 7) != 0)
        return err_set(e, ERR_INVAL, "\"%.100s\" does not begin with http:// or https://", url);
    for (const char *s = url; *s; s++)
        if (*s <= ' ' || *s > '~')
            return err_set(e, ERR_INVAL, "a URL has neither blanks nor characters beyond ASCII");
    const char *host = url + (t.tls ? 8 : 7);
    size_t n_authority = strcspn(host, "/?#");
    const char *path = host + n_authority;
    bool bracketed = *host == '[';
    size_t n = bracketed ? strcspn(host, "]") : strcspn(host, ":/?#");
    const char *after = host + n + bracketed;
    if (memchr(host, '@', n_authority))
        return err_set(e, ERR_INVAL, "a URL with a user in it: credentials go into headers");
    if (bracketed && (host[n] != ']' || n > n_authority))
        return err_set(e, ERR_INVAL, "\"%.100s\": the address does not end", url);
    host += bracketed;
    n -= bracketed;
    if (n == 0 || n >= sizeof(t.host))
        return err_set(e, ERR_INVAL, "\"%.100s\" names no host", url);
    snprintf(t.host, sizeof(t.host), "%.*s", (int)n, host);
    snprintf(t.port, sizeof(t.port), "%s", t.tls ? "443" : "80");
    if (after < path && *after == ':') {
        size_t digits = strspn(after + 1, "0123456789");
        long port = digits > 0 && digits <= 5 && after + 1 + digits == path ? atol(after + 1) : 0;
        if (port < 1 || port > 65535)
            return err_set(e, ERR_INVAL, "\"%.100s\": a port is a number from 1 to 65535", url);
        snprintf(t.port, sizeof(t.port), "%ld", port);
    } else if (after != path) {
        return err_set(e, ERR_INVAL, "\"%.100s\" is not scheme://host:port/path", url);
    }
    if (strchr(path, '#') || strlen(path) + 2 > sizeof(t.path))
        return err_set(e, ERR_INVAL, "\"%.100s\": the path is too long, or has a #", url);
    snprintf(t.path, sizeof(t.path), "%s%s", *path == '/' ? "" : "/", path);
    *ret = t;
    return 0;
}

/* --- life ----------------------------------------------------------------------------------------- */

static void release(struct post *p)
{
    if (--p->n_held > 0)
        return;
    uv_freeaddrinfo(p->addresses);
    tls_free(&p->tls);
    buf_done(&p->out);
    buf_done(&p->sealed);
    buf_done(&p->flight);
    buf_done(&p->in);
    buf_done(&p->body);
    free(p);
}

static void on_closed(uv_handle_t *h)
{
    release(h->data);
}

static void end(struct post *p)
{
    p->over = true;
    uv_close((uv_handle_t *)&p->timer, on_closed);
    if (p->open) {
        p->open = false;
        uv_close((uv_handle_t *)&p->tcp, on_closed);
    }
    (void)uv_cancel((uv_req_t *)&p->lookup); /* one that has begun runs to its end */
}

static void finish(struct post *p, int status)
{
    if (p->over)
        return;
    const struct post_answer a = {status, p->retry_after_s, p->error, p->body.data, p->body.n_bytes};
    end(p); /* what the answer points to lasts until the handles are closed */
    p->done(p->arg, &a);
}

static void fail(struct post *p, const char *what, const char *why)
{
    snprintf(p->error, sizeof(p->error), "%s%s%s", what, *why ? ": " : "", why);
    finish(p, 0);
}

void post_cancel(struct post **pp)
{
    struct post *p = *pp;
    *pp = NULL;
    if (p && !p->over)
        end(p);
}

static void on_timeout(uv_timer_t *t)
{
    fail(t->data, "no answer in time", "");
}

/* --- the answer ----------------------------------------------------------------------------------- */

static void put_cut(char *dst, size_t n, const char *at, size_t len)
{
    size_t have = strlen(dst);
    if (have + 1 < n)
        snprintf(dst + have, n - have, "%.*s", (int)(len < n ? len : n), at);
}

static void take_header(struct post *p)
{
    if (!strcasecmp(p->name, "retry-after")) {
        long seconds = strtol(p->value, NULL, 10); /* a date reads as nothing */
        p->retry_after_s = seconds > 0 && seconds < 86400 ? (int)seconds : 0;
    }
    p->name[0] = p->value[0] = 0;
    p->value_seen = false;
}

static int on_field(llhttp_t *h, const char *at, size_t n)
{
    struct post *p = h->data;
    if (p->value_seen)
        take_header(p);
    put_cut(p->name, sizeof(p->name), at, n);
    return 0;
}

static int on_value(llhttp_t *h, const char *at, size_t n)
{
    struct post *p = h->data;
    p->value_seen = true;
    put_cut(p->value, sizeof(p->value), at, n);
    return 0;
}

static int on_headers(llhttp_t *h)
{
    struct post *p = h->data;
    if (p->value_seen)
        take_header(p);
    return 0;
}

static int on_body(llhttp_t *h, const char *at, size_t n)
{
    struct post *p = h->data;
    return buf_append(&p->body, at, n) < 0 ? HPE_USER : 0;
}

static int on_complete(llhttp_t *h)
{
    struct post *p = h->data;
    if (h->status_code < 200) /* of those that come before the answer */
        return 0;
    p->complete = true;
    return HPE_PAUSED;
}

static void parse(struct post *p)
{
    llhttp_errno_t r = llhttp_execute(&p->parser, p->in.data, p->in.n_bytes);
    buf_reset(&p->in);
    if (p->complete)
        finish(p, p->parser.status_code);
    else if (r != HPE_OK)
        fail(p, "the answer is not valid HTTP", "");
}

static void pump(struct post *p);

static void on_eof(struct post *p, const char *why)
{
    (void)llhttp_finish(&p->parser); /* an answer without a length ends so */
    if (p->complete)
        finish(p, p->parser.status_code);
    else
        fail(p, "the connection ended before the answer", why);
}

static void alloc(uv_handle_t *h, size_t suggested, uv_buf_t *b)
{
    struct post *p = h->data;
    (void)suggested;
    *b = uv_buf_init(p->piece, sizeof(p->piece));
}

static void on_read(uv_stream_t *st, ssize_t n, const uv_buf_t *b)
{
    struct post *p = st->data;
    bool closed = false;
    int r = 0;
    if (n == 0 || p->over)
        return;
    if (n < 0) {
        on_eof(p, n == UV_EOF ? "" : uv_strerror((int)n));
        return;
    }
    p->n_received += (size_t)n;
    if (p->n_received > ANSWER_MAX) {
        fail(p, "the answer is too large", "");
        return;
    }
    if (p->tls)
        r = tls_receive(p->tls, b->base, (size_t)n, &p->in, &closed);
    else
        r = buf_append(&p->in, b->base, (size_t)n);
    if (r < 0) {
        fail(p, p->tls ? "TLS" : err_name(r), p->tls ? tls_error(p->tls) : "");
        return;
    }
    if (p->in.n_bytes)
        parse(p);
    if (!p->over && closed)
        on_eof(p, "");
    if (!p->over)
        pump(p);
}

/* --- the request ---------------------------------------------------------------------------------- */

/* That it failed shows when the answer is read: there may be one, to a body that was too large. */
static void on_written(uv_write_t *w, int status)
{
    struct post *p = w->data;
    p->writing = false;
    buf_reset(&p->flight);
    if (!p->over && status == 0)
        pump(p);
    release(p);
}

static void pump(struct post *p)
{
    if (p->writing || p->over)
        return;
    if (p->tls && tls_seal(p->tls, &p->out, &p->sealed) < 0) {
        fail(p, "TLS", tls_error(p->tls));
        return;
    }
    struct buf *from = p->tls ? &p->sealed : &p->out;
    if (!from->n_bytes)
        return;
    struct buf empty = p->flight;
    p->flight = *from;
    *from = empty;
    uv_buf_t b = uv_buf_init(p->flight.data, (unsigned)p->flight.n_bytes);
    if (uv_write(&p->write, (uv_stream_t *)&p->tcp, &b, 1, on_written) < 0) {
        fail(p, "it cannot be sent", "");
        return;
    }
    p->writing = true;
    p->n_held++;
}

static void connect_next(struct post *p);

static void on_tried(uv_handle_t *h)
{
    struct post *p = h->data;
    if (!p->over)
        connect_next(p);
    release(p);
}

static void on_connected(uv_connect_t *c, int status)
{
    struct post *p = c->data;
    if (!p->over && status < 0) {
        p->connect_error = status;
        p->at = p->at->ai_next;
        p->open = false;
        uv_close((uv_handle_t *)&p->tcp, on_tried);
    } else if (!p->over && uv_read_start((uv_stream_t *)&p->tcp, alloc, on_read) < 0) {
        fail(p, "it cannot be read from", "");
    } else if (!p->over) {
        pump(p);
    }
    release(p);
}

static void connect_next(struct post *p)
{
    if (!p->at) {
        fail(p, "cannot connect", p->connect_error ? uv_strerror(p->connect_error) : "no address");
        return;
    }
    if (uv_tcp_init(p->loop, &p->tcp) < 0) {
        fail(p, "no socket", "");
        return;
    }
    p->tcp.data = p;
    p->open = true;
    p->n_held++;
    int r = uv_tcp_connect(&p->connect, &p->tcp, p->at->ai_addr, on_connected);
    if (r < 0)
        fail(p, "cannot connect", uv_strerror(r));
    else
        p->n_held++;
}

static void on_looked_up(uv_getaddrinfo_t *l, int status, struct addrinfo *found)
{
    struct post *p = l->data;
    p->addresses = p->at = found;
    if (!p->over && status < 0)
        fail(p, p->host, uv_strerror(status));
    else if (!p->over)
        connect_next(p);
    release(p);
}

static int write_request(struct post *p, const struct post_target *to, const struct buf *body)
{
    bool v6 = strchr(to->host, ':') != NULL;
    int r = buf_printf(&p->out,
                       "POST %s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: latentd/" PACKAGE_VERSION
                       "\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n"
                       "%s\r\n",
                       to->path, v6 ? "[" : "", to->host, v6 ? "]" : "", to->port, body->n_bytes,
                       to->headers ? to->headers : "");
    return r < 0 ? r : buf_append(&p->out, body->data, body->n_bytes);
}

static void set_parser(struct post *p)
{
    llhttp_settings_init(&p->settings);
    p->settings.on_header_field = on_field;
    p->settings.on_header_value = on_value;
    p->settings.on_headers_complete = on_headers;
    p->settings.on_body = on_body;
    p->settings.on_message_complete = on_complete;
    llhttp_init(&p->parser, HTTP_RESPONSE, &p->settings);
    p->parser.data = p;
}

struct post *post_start(uv_loop_t *loop, const struct post_target *to, struct buf *body, long long timeout_ms,
                        post_done *done, void *arg)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct post *p = calloc(1, sizeof(*p));
    int r = p ? 0 : ERR_NOMEM;
    if (r == 0) {
        p->loop = loop;
        p->done = done;
        p->arg = arg;
        p->timer.data = p->lookup.data = p->connect.data = p->write.data = p;
        snprintf(p->host, sizeof(p->host), "%s", to->host);
        buf_init(&p->out, HEAD_MAX + body->n_bytes);
        buf_init(&p->in, 2 * ANSWER_MAX);
        buf_init(&p->body, 2 * ANSWER_MAX);
        buf_init(&p->sealed, 1u << 30);
        buf_init(&p->flight, 1u << 30);
        set_parser(p);
        r = write_request(p, to, body);
        if (r == 0 && to->tls && !(p->tls = tls_new_client(to->ctx, to->host)))
            r = ERR_NOMEM;
    }
    buf_done(body);
    if (r == 0)
        r = uv_getaddrinfo(loop, &p->lookup, on_looked_up, to->host, to->port, &hints);
    if (r < 0) {
        if (p) {
            p->n_held = 1;
            release(p);
        }
        return NULL;
    }
    uv_timer_init(loop, &p->timer);
    uv_timer_start(&p->timer, on_timeout, (uint64_t)timeout_ms, 0);
    p->n_held = 2; /* timer and look-up */
    return p;
}
