/* server/reply.c - answers to bytes: status line, headers, chunked framing, and what the client has not
 * read yet.
 *
 * Output gathers in c->out. Whenever nothing is with libuv the whole of it is offered to the kernel at
 * once; what the kernel leaves goes to libuv as one write, and the next waits for its end. */
#include "config.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/internal.h"

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {200, "OK"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if (table[i].status == status)
            return table[i].text;
    return "Unknown";
}

/* --- to the kernel -------------------------------------------------------------------------------- */

size_t conn_queued(const struct conn *c)
{
    return c->out.n_bytes + c->sealed.n_bytes + (c->tls ? tls_unsealed(c->tls) : 0) +
           (c->writing ? uv_stream_get_write_queue_size(&c->u.stream) : 0);
}

/* Closes what makes no progress for write_timeout; slow is fine. */
static void on_write_timer(uv_timer_t *t)
{
    struct conn *c = t->data;
    size_t unread = uv_stream_get_write_queue_size(&c->u.stream);
    if (unread < c->unread_bytes) {
        c->unread_bytes = unread;
        uv_timer_again(t);
        return;
    }
    LOG_DEBUG("http", "%s does not read its answer: closed", c->peer);
    conn_close(c);
}

static void on_written(uv_write_t *req, int status)
{
    struct conn *c = req->data;
    c->writing = false;
    if (c->state == CONN_CLOSED)
        return;
    uv_timer_stop(&c->write_timer);
    buf_reset(&c->flight);
    if (status < 0) {
        conn_close(c);
        return;
    }
    conn_flush(c);
    if (!c->broken && conn_queued(c) <= (size_t)c->s->cfg->write_low)
        conn_on_flushed(c);
}

static void fail(struct conn *c)
{
    c->broken = true;
    conn_kick(c);
}

/* What may go to the socket next: the output, or as much of it as is encrypted at a time. */
static struct buf *next_bytes(struct conn *c)
{
    if (!c->tls)
        return &c->out;
    if (tls_seal(c->tls, &c->out, &c->sealed) < 0) {
        fail(c);
        buf_reset(&c->sealed);
    }
    return &c->sealed;
}

/* Offers b to the kernel. True: it took everything. */
static bool offer(struct conn *c, struct buf *from)
{
    uv_buf_t b = uv_buf_init(from->data, (unsigned)from->n_bytes);
    int n = uv_try_write(&c->u.stream, &b, 1);
    if (n < 0 && n != UV_EAGAIN) {
        fail(c);
        return false;
    }
    if (n > 0 && (size_t)n == from->n_bytes) {
        buf_reset(from);
        return true;
    }
    struct buf empty = c->flight;
    c->flight = *from;
    *from = empty;
    n = n > 0 ? n : 0;
    b = uv_buf_init(c->flight.data + n, (unsigned)(c->flight.n_bytes - (size_t)n));
    if (uv_write(&c->write, &c->u.stream, &b, 1, on_written) < 0) {
        fail(c);
        return false;
    }
    c->writing = true;
    c->unread_bytes = b.len;
    uv_timer_start(&c->write_timer, on_write_timer, (uint64_t)c->s->cfg->write_timeout,
                   (uint64_t)c->s->cfg->write_timeout);
    return false;
}

void conn_flush(struct conn *c)
{
    struct buf *b;
    if (c->writing || c->broken || c->state == CONN_CLOSED)
        return;
    do
        b = next_bytes(c);
    while (b->n_bytes > 0 && offer(c, b) && c->tls);
}

static void put(struct conn *c, const void *data, size_t n_bytes)
{
    if (!c->broken && buf_append(&c->out, data, n_bytes) < 0)
        fail(c);
}

/* --- the answer ----------------------------------------------------------------------------------- */

/* The Date header's text changes once a second. */
static const char *http_date(void)
{
    static char text[40];
    static time_t made;
    time_t now = (time_t)(clock_wall_ns() / 1000000000);
    if (now != made) {
        struct tm tm;
        gmtime_r(&now, &tm);
        strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        made = now;
    }
    return text;
}

/* `lines`: whole header lines, or "". */
static void begin(struct conn *c, int status, const struct api_header *headers, int n_headers,
                  const char *lines, int64_t body_bytes)
{
    struct buf *o = &c->out;
    c->log.status = status;
    c->log.bytes = 0;
    c->streams = body_bytes < 0;
    c->chunked = c->streams && !c->http10;
    if (body_bytes < 0 && c->http10)
        c->keep_alive = false; /* the body ends with the connection */
    int r = buf_printf(o, "HTTP/1.1 %d %s\r\nDate: %s\r\nServer: latentd\r\nX-Request-Id: %s\r\n%s", status,
                       reason(status), http_date(), c->request_id, lines);
    if (r == 0)
        r = access_answer_headers(c, status, o);
    if (r == 0)
        r = cors_answer_headers(c, o);
    if (r == 0)
        r = trace_answer_headers(c, o);
    for (int i = 0; i < n_headers && r == 0; i++)
        r = buf_printf(o, "%s: %s\r\n", headers[i].name, headers[i].value);
    if (r == 0 && c->chunked)
        r = buf_puts(o, "Transfer-Encoding: chunked\r\n");
    if (r == 0 && body_bytes >= 0 && status != 204) /* RFC 9110, 8.6 */
        r = buf_printf(o, "Content-Length: %lld\r\n", (long long)body_bytes);
    if (r == 0)
        r = buf_puts(o, !c->keep_alive ? "Connection: close\r\n\r\n"
                        : c->http10    ? "Connection: keep-alive\r\n\r\n"
                                       : "\r\n");
    if (r < 0)
        fail(c);
}

static void ops_begin(void *reply, int status, const struct api_header *headers, int n_headers,
                      int64_t body_bytes)
{
    begin(reply, status, headers, n_headers, "", body_bytes);
}

static void ops_write(void *reply, const char *data, size_t n_bytes)
{
    struct conn *c = reply;
    if (n_bytes == 0 || c->head_only)
        return;
    c->log.bytes += n_bytes;
    if (c->chunked) {
        char size[24];
        put(c, size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", n_bytes));
    }
    put(c, data, n_bytes);
    if (c->chunked)
        put(c, "\r\n", 2);
    if (c->streams)
        conn_flush(c); /* a stream's piece does not wait for the next */
}

static void ops_end(void *reply, const struct api_log_facts *facts)
{
    struct conn *c = reply;
    if (c->chunked && !c->head_only)
        put(c, "0\r\n\r\n", 5);
    c->log.facts = *facts;
    if (facts->completion_tokens < 0 && c->exchange) /* it failed on the way: what it used is still used */
        api_exchange_facts(c->exchange, &c->log.facts);
    conn_answered(c); /* logged and counted before the client has its last byte */
    conn_flush(c);
}

static size_t ops_queued_bytes(void *reply)
{
    return conn_queued(reply);
}

const struct api_reply_ops conn_reply_ops = {ops_begin, ops_write, ops_end, ops_queued_bytes};

void reply_simple(struct conn *c, int status, const char *content_type, const char *headers,
                  const char *body, size_t n_bytes)
{
    static const struct api_log_facts none = API_NO_FACTS;
    const struct api_header type = {"Content-Type", content_type};
    begin(c, status, &type, content_type != NULL, headers, (int64_t)n_bytes);
    ops_write(c, body, n_bytes);
    ops_end(c, &none);
}

void reply_refusal(struct conn *c, int status, const char *message)
{
    struct buf body;
    buf_init(&body, 4096);
    (void)api_error_body(status, c->path, message, &body); /* without memory the status alone is told */
    reply_simple(c, status, "application/json", status == 503 ? "Retry-After: 1\r\n" : "", body.data,
                 body.n_bytes);
    buf_done(&body);
}
