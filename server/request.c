/* server/request.c - one HTTP request: what its header lines and its body say, under the limits on each.
 *
 * llhttp hands over pieces of any size. A mistake stays in error_status, and conn.c answers it. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/hex.h"
#include "server/internal.h"

void request_drop_body(struct conn *c)
{
    buf_done(&c->body); /* its memory may be large */
    buf_init(&c->body, (size_t)c->s->cfg->max_body_size);
    c->s->body_bytes -= c->body_counted;
    c->body_counted = 0;
}

void request_reset(struct conn *c)
{
    buf_reset(&c->field);
    buf_reset(&c->value);
    request_drop_body(c);
    buf_reset(&c->head);
    free(c->target);
    free(c->path);
    c->target = c->path = NULL;
    c->query = "";
    c->header_bytes = 0;
    c->n_headers = 0;
    c->has_host = c->expects = c->message_complete = c->value_seen = c->coded = c->recoded = false;
    c->openmetrics = false;
    c->content_type[0] = c->request_id[0] = 0;
    access_end(c);
    c->client = 0;
    c->client_text[0] = 0;
    c->last_event_id[0] = 0;
    c->cors.origin[0] = c->cors.host[0] = c->cors.headers[0] = 0;
    c->cors.asks = false;
    buf_reset(&c->forwarded);
    buf_reset(&c->audited);
    trace_reset(&c->trace);
    c->error_status = 0;
    c->log = (struct request_log){.handler = "other", .facts = API_NO_FACTS};
}

/* --- its header ----------------------------------------------------------------------------------- */

static int refuse(struct conn *c, int status, const char *text)
{
    c->error_status = status;
    c->error_text = text;
    return HPE_USER;
}

static int on_url(llhttp_t *p, const char *at, size_t n)
{
    struct conn *c = p->data;
    if (c->head.n_bytes + n > (size_t)c->s->cfg->max_uri_size)
        return refuse(c, 414, "the request's target is too long");
    return buf_append(&c->head, at, n) == 0 ? 0 : refuse(c, 503, "out of memory");
}

static int count_header(struct conn *c, size_t n)
{
    c->header_bytes += n;
    return c->header_bytes <= (size_t)c->s->cfg->max_header_size
               ? 0
               : refuse(c, 431, "the request's header lines are too long");
}

static void copy_value(const struct conn *c, char *dst, size_t n)
{
    snprintf(dst, n, "%s", c->value.data ? c->value.data : "");
}

static bool sane_id(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:");
    return n > 0 && n <= 128 && s[n] == 0;
}

/* llhttp leaves blanks behind a value: they are not of it (RFC 9112, 5.1). */
static void trim_value(struct conn *c)
{
    struct buf *v = &c->value;
    while (v->n_bytes > 0 && (v->data[v->n_bytes - 1] == ' ' || v->data[v->n_bytes - 1] == '\t'))
        v->data[--v->n_bytes] = 0;
}

/* Several lines are one list (RFC 9110, 5.3), and that must be "chunked", once; empty elements do not
 * count. */
static void take_coding(struct conn *c, const char *value)
{
    value += strspn(value, ", \t");
    if (!*value)
        return;
    c->recoded |= c->coded || strncasecmp(value, "chunked", 7) != 0 || value[7 + strspn(value + 7, ", \t")];
    c->coded = true;
}

/* A header line is complete. */
static void take_header(struct conn *c)
{
    trim_value(c);
    const char *name = c->field.data ? c->field.data : "";
    const char *value = c->value.data ? c->value.data : "";
    /* RFC 9112, 5.1: servers that read "A : b" differently can be played against each other. */
    if (c->field.n_bytes == 0 || strpbrk(name, " \t"))
        refuse(c, 400, "a header's name has white space");
    if (c->state == CONN_BODY) {
        /* a trailer: what the header said stays (RFC 9110, 6.5.1) */
    } else if (!strcasecmp(name, "host")) {
        if (c->has_host)
            refuse(c, 400, "there are two Host headers");
        cors_header(c, name, value);
        c->has_host = true;
    } else if (!strcasecmp(name, "transfer-encoding")) {
        take_coding(c, value);
    } else if (!strcasecmp(name, "content-type")) {
        copy_value(c, c->content_type, sizeof(c->content_type));
    } else if (!strcasecmp(name, "last-event-id")) {
        copy_value(c, c->last_event_id, sizeof(c->last_event_id));
    } else if (!strcasecmp(name, "accept")) {
        metrics_header(c, value);
    } else if (!strcasecmp(name, "authorization") || !strcasecmp(name, "x-api-key")) {
        access_header(c, name, value);
    } else if (!strcasecmp(name, c->s->cfg->forwarded_header)) {
        /* several lines are one list; its size is that of the header at most */
        if (buf_printf(&c->forwarded, "%s%s", c->forwarded.n_bytes ? "," : "", value) < 0)
            refuse(c, 503, "out of memory");
    } else if (!strcasecmp(name, "x-request-id") && sane_id(value)) {
        copy_value(c, c->request_id, sizeof(c->request_id));
    } else if (!strcasecmp(name, "expect") && *value) {
        c->expects = true;
        if (strcasecmp(value, "100-continue") != 0)
            refuse(c, 417, "Expect: only 100-continue is understood");
    } else {
        cors_header(c, name, value);
        trace_header(c, name, value);
    }
    buf_reset(&c->field);
    buf_reset(&c->value);
    c->value_seen = false;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n)
{
    struct conn *c = p->data;
    if (c->value_seen)
        take_header(c);
    return buf_append(&c->field, at, n) == 0 ? count_header(c, n) : refuse(c, 503, "out of memory");
}

static int on_header_value(llhttp_t *p, const char *at, size_t n)
{
    struct conn *c = p->data;
    c->value_seen = true;
    return buf_append(&c->value, at, n) == 0 ? count_header(c, n + 4)
                                             : refuse(c, 503, "out of memory");
}

/* The decoded path of a target; what follows '?' is left as it is. */
static int split_target(struct conn *c)
{
    char *s = c->target, *d;
    size_t scheme = !strncasecmp(s, "http://", 7) ? 7 : !strncasecmp(s, "https://", 8) ? 8 : 0;
    if (scheme) /* absolute form, whose path may be empty */
        s += scheme + strcspn(s + scheme, "/?");
    char *path = malloc(strlen(s) + 2);
    if (!path)
        return 503;
    snprintf(path, strlen(s) + 2, "%s%s", scheme && *s != '/' ? "/" : "", s);
    c->path = d = path;
    for (s = path; *s && *s != '?'; s++) {
        if (*s == '%') {
            int hi = hex_value(s[1]), lo = hi >= 0 ? hex_value(s[2]) : -1;
            if (lo < 0 || hi * 16 + lo == 0)
                return 400;
            *d++ = (char)(hi * 16 + lo);
            s += 2;
        } else {
            *d++ = *s;
        }
    }
    c->query = *s == '?' ? s + 1 : "";
    *d = 0;
    return 0;
}

static int on_headers_complete(llhttp_t *p)
{
    struct conn *c = p->data;
    const struct server_config *cfg = c->s->cfg;
    if (c->value_seen)
        take_header(c);
    c->target = strdup(c->head.data ? c->head.data : "");
    c->http10 = p->http_major == 1 && p->http_minor == 0;
    c->head_only = p->method == HTTP_HEAD;
    if (c->error_status)
        return HPE_USER;
    if (!c->target)
        return refuse(c, 503, "out of memory");
    if (p->http_major != 1)
        return refuse(c, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    if (!c->has_host && !c->http10)
        return refuse(c, 400, "the Host header is missing");
    if ((p->flags & F_CHUNKED) && c->recoded)
        return refuse(c, 501, "Transfer-Encoding: only chunked is understood");
    if (p->method == HTTP_CONNECT)
        return refuse(c, 405, "CONNECT is not served");
    int status = split_target(c);
    if (status)
        return refuse(c, status,
                      status == 400 ? "the request's target is malformed" : "out of memory");
    if (c->forwarded.n_bytes && nets_have(&c->s->trusted, c->peer))
        forwarded_client(c->forwarded.data, cfg->forwarded_header[0] == 'f', &c->s->trusted, c->client_text);
    status = access_check(c, &c->error_text);
    if (!status)
        status = cors_check(c, &c->error_text);
    if (status)
        return refuse(c, status, c->error_text);
    p->upgrade = 0; /* an offered upgrade is not taken */
    if ((p->flags & F_CONTENT_LENGTH) && p->content_length > (uint64_t)cfg->max_body_size)
        return refuse(c, 413, "the body is too large");
    if (c->expects && !c->http10 && ((p->flags & F_CHUNKED) || p->content_length > 0)) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        if (buf_append(&c->out, go_on, sizeof(go_on) - 1) < 0)
            return refuse(c, 503, "out of memory");
        conn_flush(c);
    }
    conn_has_header(c);
    return 0;
}

/* --- its body ------------------------------------------------------------------------------------- */

static int on_body(llhttp_t *p, const char *at, size_t n)
{
    struct conn *c = p->data;
    struct server *s = c->s;
    if (s->body_bytes + n > (size_t)s->cfg->max_body_memory)
        return refuse(c, 503, "too many large requests at the same time");
    int r = buf_append(&c->body, at, n);
    if (r == ERR_LIMIT)
        return refuse(c, 413, "the body is too large");
    if (r < 0)
        return refuse(c, 503, "out of memory");
    s->body_bytes += n;
    c->body_counted += n;
    return 0;
}

static int on_message_complete(llhttp_t *p)
{
    struct conn *c = p->data;
    c->message_complete = true;
    return HPE_PAUSED;
}

/* --- the parser ----------------------------------------------------------------------------------- */

static const llhttp_settings_t *settings(void)
{
    static llhttp_settings_t st;
    if (!st.on_url) {
        llhttp_settings_init(&st);
        st.on_url = on_url;
        st.on_header_field = on_header_field;
        st.on_header_value = on_header_value;
        st.on_headers_complete = on_headers_complete;
        st.on_body = on_body;
        st.on_message_complete = on_message_complete;
    }
    return &st;
}

void request_begin(struct conn *c)
{
    request_reset(c);
    llhttp_init(&c->parser, HTTP_REQUEST, settings());
    c->parser.data = c;
}

/* --- what others ask ------------------------------------------------------------------------------ */

enum http_method conn_method(const struct conn *c)
{
    switch (c->parser.method) {
    case HTTP_GET:
        return HTTP_M_GET;
    case HTTP_HEAD:
        return HTTP_M_HEAD;
    case HTTP_POST:
        return HTTP_M_POST;
    case HTTP_DELETE:
        return HTTP_M_DELETE;
    case HTTP_OPTIONS:
        return HTTP_M_OPTIONS;
    default:
        return HTTP_M_OTHER;
    }
}

void conn_client(const struct conn *c, char *dst, size_t n)
{
    const char *port = strrchr(c->peer, ':');
    if (c->client_text[0]) {
        snprintf(dst, n, "%s", c->client_text);
        return;
    }
    size_t len = port ? (size_t)(port - c->peer) : strlen(c->peer);
    bool bracketed = len > 2 && c->peer[0] == '[';
    snprintf(dst, n, "%.*s", (int)len - 2 * bracketed, c->peer + bracketed);
}
