/* server/traces.c - see traces.h. */
#include "config.h"

#include "server/traces.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cjson/cJSON.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/conf.h"
#include "server/json.h"
#include "server/post.h"
#include "server/tls.h"

#define GATHER_MS 1000               /* that spans wait for others */
#define BATCH_BYTES (512u << 10)     /* of spans in one delivery; or a single request's, whatever it has */
#define BACKOFF_MS 1000              /* after a failure, then twice that, and so on */
#define BACKOFF_MAX_MS 60000
#define RETRY_AFTER_MAX_S 300        /* that a collector may ask for */
#define LOG_NS (60 * NS_PER_SEC)     /* between two lines about the same trouble */
#define HEADER_LINES_MAX 64
#define HEADERS_MAX 16384

struct trace_settings {
    struct post_target target;
    char *url, *headers;
    double ratio;
    size_t queue_bytes;
    long long timeout_ms;
    struct buf resource; /* what stands before the spans of a delivery */
};

struct item {
    struct item *next;
    char *text;
    size_t n_bytes;
    int n_spans;
};

struct traces {
    uv_loop_t *loop;
    struct trace_settings *set; /* NULL: off */
    struct item *first, *last;
    size_t queued_bytes;
    int n_sending; /* of the items in front: they are in the delivery under way */
    struct post *post;
    uv_timer_t timer;
    long long backoff_ms; /* 0: the last delivery went well */
    int64_t told_ns;
    bool failing, ending, closed;
    int64_t end_ns; /* when the last delivery must be over */
    char instance[33];
    struct metric *m_delivered, *m_full, *m_refused, *m_ended, *m_failures, *m_bytes;
};

/* --- settings ------------------------------------------------------------------------------------- */

void trace_settings_free(struct trace_settings **tp)
{
    struct trace_settings *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    tls_context_free(&t->target.ctx);
    buf_done(&t->resource);
    free(t->url);
    free(t->headers);
    free(t);
}

static int read_ratio(const char *text, double *ret, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0 && v <= 1))
        return err_set_param(e, ERR_INVAL, "otlp_sampling",
                             "otlp_sampling = \"%.40s\" is not a number from 0 to 1", text);
    *ret = v;
    return 0;
}

/* `Name: value` into lines of a header. */
static int read_header(char *line, struct buf *out, struct err *e)
{
    static const char *const ours[] = {"host", "content-type", "content-length", "content-encoding",
                                       "transfer-encoding", "connection", "expect"};
    char *value = strchr(line, ':');
    if (!value)
        return err_set(e, ERR_FORMAT, "this is not `Name: value`"); /* which may be a secret */
    size_t n = strspn(line, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    if (n == 0 || line + n != value)
        return err_set(e, ERR_FORMAT, "a header's name is letters, digits and - before the colon");
    *value++ = 0;
    value += strspn(value, " \t");
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
        if (!strcasecmp(line, ours[i]))
            return err_set(e, ERR_INVAL, "%s is set by the exporter", ours[i]);
    for (const char *s = value; *s; s++)
        if (*s != '\t' && (*s < ' ' || *s > '~'))
            return err_set(e, ERR_INVAL, "the value of %.40s has characters beyond ASCII", line);
    int r = buf_printf(out, "%s: %s\r\n", line, value);
    return r < 0 ? err_set(e, r, "more than %d bytes of headers", HEADERS_MAX) : 0;
}

static int read_headers(const char *name, char **ret, struct err *e)
{
    static const char key[] = "otlp_headers_file";
    char path[4096], line[4096];
    struct err inner = {0};
    struct buf out;
    int n = 0, r = config_path(name, key, path, sizeof(path), e);
    if (r < 0)
        return r;
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set_param(e, ERR_IO, key, "%s %.200s: %s", key, path, strerror(errno));
    buf_init(&out, HEADERS_MAX);
    while (r == 0 && fgets(line, sizeof(line), f)) {
        size_t len = strcspn(line, "\r\n");
        if (++n > HEADER_LINES_MAX || (!line[len] && !feof(f)))
            r = err_set(&inner, ERR_LIMIT, "a file has at most %d lines of %zu bytes", HEADER_LINES_MAX,
                        sizeof(line));
        while (len > 0 && isspace((unsigned char)line[len - 1]))
            len--;
        line[len] = 0;
        if (r == 0 && *line && *line != '#')
            r = read_header(line, &out, &inner);
    }
    if (r == 0 && ferror(f))
        r = err_set(&inner, ERR_IO, "%s", strerror(errno));
    fclose(f);
    if (r < 0) {
        buf_done(&out);
        return err_set_param(e, r, key, "%s %.120s, line %d: %s", key, path, n, inner.text);
    }
    *ret = buf_take(&out, NULL);
    return 0;
}

/* What all spans of this process have. */
static int write_resource(struct buf *b, const char *service)
{
    int r = buf_puts(b, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\","
                        "\"value\":{\"stringValue\":");
    r = r < 0 ? r : json_string(b, service, strlen(service));
    return r < 0 ? r
                 : buf_puts(b, "}},{\"key\":\"service.version\",\"value\":{\"stringValue\":\"" PACKAGE_VERSION
                               "\"}}");
}

static int read_target(const struct server_config *cfg, struct trace_settings *t, struct err *e)
{
    struct err inner = {0};
    char ca[4096] = "";
    int r = post_target_read(cfg->otlp_endpoint, &t->target, &inner);
    if (r < 0)
        return err_set_param(e, r, "otlp_endpoint", "otlp_endpoint: %s", inner.text);
    if (*cfg->otlp_headers_file)
        r = read_headers(cfg->otlp_headers_file, &t->headers, e);
    t->target.headers = t->headers;
    if (r < 0 || !t->target.tls)
        return r;
    if (*cfg->otlp_ca)
        r = config_path(cfg->otlp_ca, "otlp_ca", ca, sizeof(ca), e);
    if (r == 0 && (r = tls_client_context(ca, &t->target.ctx, &inner)) < 0)
        err_set_param(e, r, "otlp_ca", "otlp_ca: %s", inner.text);
    return r;
}

int traces_read(const struct server_config *cfg, struct trace_settings **ret, struct err *e)
{
    double ratio = 0;
    int r = read_ratio(cfg->otlp_sampling, &ratio, e);
    if (r < 0 || !*cfg->otlp_endpoint)
        return r;
    struct trace_settings *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(e, ERR_NOMEM, "out of memory");
    t->ratio = ratio;
    t->queue_bytes = (size_t)cfg->otlp_queue_size;
    t->timeout_ms = cfg->otlp_timeout;
    buf_init(&t->resource, 1u << 20);
    r = read_target(cfg, t, e);
    if (r == 0 && (!(t->url = strdup(cfg->otlp_endpoint)) ||
                   write_resource(&t->resource, cfg->otlp_service_name) < 0))
        r = err_set(e, ERR_NOMEM, "out of memory");
    if (r < 0) {
        trace_settings_free(&t);
        return r;
    }
    *ret = t;
    return 0;
}

/* --- the queue ------------------------------------------------------------------------------------ */

static void tell_bytes(struct traces *t)
{
    metric_set(t->m_bytes, (double)t->queued_bytes);
}

/* Takes n items from the front; returns how many spans they had. */
static int drop(struct traces *t, int n)
{
    int n_spans = 0;
    for (; n > 0 && t->first; n--) {
        struct item *i = t->first;
        t->first = i->next;
        if (!t->first)
            t->last = NULL;
        t->queued_bytes -= i->n_bytes;
        n_spans += i->n_spans;
        free(i->text);
        free(i);
    }
    tell_bytes(t);
    return n_spans;
}

/* So much that it does not wait for more. */
static bool is_much(const struct traces *t)
{
    size_t half = t->set->queue_bytes / 2;
    return t->queued_bytes >= (half < BATCH_BYTES ? half : BATCH_BYTES);
}

static void drop_all(struct traces *t)
{
    t->n_sending = 0;
    int n = drop(t, INT32_MAX);
    if (n > 0)
        LOG_WARN("traces", "%d spans are dropped", n);
    metric_add(t->m_ended, n);
}

/* --- delivery ------------------------------------------------------------------------------------- */

static void deliver(struct traces *t);

static void on_timer(uv_timer_t *h)
{
    deliver(h->data);
}

static void deliver_in(struct traces *t, long long ms)
{
    uv_timer_start(&t->timer, on_timer, (uint64_t)ms, 0);
}

static void close_down(struct traces *t)
{
    if (t->closed)
        return;
    t->closed = true;
    post_cancel(&t->post);
    drop_all(t);
    uv_close((uv_handle_t *)&t->timer, NULL);
}

/* What a status says of the batch: these come and go, the others do not (OTLP 1.5, "Failures"). */
static bool comes_again(int status)
{
    return status == 0 || status == 429 || status == 502 || status == 503 || status == 504;
}

static void tell_failure(struct traces *t, const struct post_answer *a, bool again)
{
    int64_t now = clock_now_ns();
    char what[240], then[64] = "those of this delivery are dropped";
    metric_add(t->m_failures, 1);
    if (t->failing && now - t->told_ns < LOG_NS)
        return;
    t->told_ns = now;
    if (a->status)
        snprintf(what, sizeof(what), "it answers with %d", a->status);
    else
        snprintf(what, sizeof(what), "%s", a->error);
    if (again)
        snprintf(then, sizeof(then), "tried again in %.1f s", (double)t->backoff_ms / 1e3);
    LOG_WARN("traces", "%.200s takes no spans: %s; %s", t->set->url, what, then);
}

/* Of the n spans of a delivery that was taken, how many the collector did not want all the same
 * ("partialSuccess"). It is not to be asked again for these. */
static int rejected(struct traces *t, const struct post_answer *a, int n)
{
    cJSON *root = a->body ? cJSON_ParseWithLength(a->body, a->n_bytes) : NULL;
    const cJSON *part = cJSON_GetObjectItemCaseSensitive(root, "partialSuccess");
    const cJSON *many = cJSON_GetObjectItemCaseSensitive(part, "rejectedSpans");
    cJSON *why = cJSON_GetObjectItemCaseSensitive(part, "errorMessage");
    /* 64 bits are a string in protobuf's JSON; some write a number */
    double d = cJSON_IsString(many)   ? strtod(many->valuestring, NULL)
               : cJSON_IsNumber(many) ? many->valuedouble
                                      : 0;
    int ret = d >= n ? n : d > 0 ? (int)d : 0;
    bool says = cJSON_IsString(why) && why->valuestring[0];
    int64_t now = clock_now_ns();
    if ((ret > 0 || says) && (!t->told_ns || now - t->told_ns >= LOG_NS)) {
        t->told_ns = now;
        for (char *c = says ? why->valuestring : NULL; c && *c; c++)
            if ((unsigned char)*c < ' ') /* a line of the log is ours */
                *c = ' ';
        LOG_WARN("traces", "%.200s rejects %d of %d spans%s%.200s", t->set->url, ret, n, says ? ": " : "",
                 says ? why->valuestring : "");
    }
    cJSON_Delete(root);
    return ret;
}

static void on_answer(void *arg, const struct post_answer *a)
{
    struct traces *t = arg;
    bool ok = a->status >= 200 && a->status < 300, again = comes_again(a->status);
    t->post = NULL;
    if (ok || !again) {
        int n = drop(t, t->n_sending), n_lost = ok ? rejected(t, a, n) : n;
        metric_add(t->m_delivered, n - n_lost);
        metric_add(t->m_refused, n_lost);
    }
    t->n_sending = 0;
    if (ok && t->failing)
        LOG_INFO("traces", "%.200s takes spans again", t->set->url);
    long long wait = 0;
    if (again) {
        wait = t->backoff_ms ? 2 * t->backoff_ms : BACKOFF_MS;
        wait = wait < BACKOFF_MAX_MS ? wait : BACKOFF_MAX_MS;
        t->backoff_ms = wait;
        int asked = a->retry_after_s < RETRY_AFTER_MAX_S ? a->retry_after_s : RETRY_AFTER_MAX_S;
        wait = wait < asked * 1000LL ? asked * 1000LL : wait;
    } else {
        t->backoff_ms = 0;
    }
    if (!ok)
        tell_failure(t, a, again);
    t->failing = !ok;
    if (t->ending && (again || !t->first))
        close_down(t);
    else if (t->first)
        deliver_in(t, again ? wait : t->ending || is_much(t) ? 0 : GATHER_MS);
}

/* The items of a batch as one body; returns how many they are. */
static int write_batch(struct traces *t, struct buf *b)
{
    int n = 0;
    int r = buf_append(b, t->set->resource.data, t->set->resource.n_bytes);
    if (r == 0)
        r = buf_printf(b, ",{\"key\":\"service.instance.id\",\"value\":{\"stringValue\":\"%s\"}}]},"
                          "\"scopeSpans\":[{\"scope\":{\"name\":\"latentd\",\"version\":\"" PACKAGE_VERSION
                          "\"},\"spans\":[", t->instance);
    for (const struct item *i = t->first; i && r == 0; i = i->next) {
        if (n > 0 && b->n_bytes + i->n_bytes > BATCH_BYTES)
            break;
        r = n > 0 ? buf_puts(b, ",") : 0;
        r = r < 0 ? r : buf_append(b, i->text, i->n_bytes);
        n++;
    }
    r = r < 0 ? r : buf_puts(b, "]}]}]}");
    return r < 0 ? r : n;
}

static void deliver(struct traces *t)
{
    struct buf body;
    long long timeout = t->set ? t->set->timeout_ms : 0;
    if (t->post || !t->first || !t->set)
        return;
    if (t->ending) {
        long long left = (t->end_ns - clock_now_ns()) / NS_PER_MS;
        timeout = left < timeout ? left : timeout;
        if (timeout <= 0) {
            close_down(t);
            return;
        }
    }
    buf_init(&body, 1u << 30);
    int n = write_batch(t, &body);
    if (n > 0) {
        t->n_sending = n;
        t->post = post_start(t->loop, &t->set->target, &body, timeout, on_answer, t);
    }
    buf_done(&body);
    if (!t->post) {
        const struct post_answer none = {.error = "out of memory"};
        on_answer(t, &none);
    }
}

void traces_add(struct traces *t, struct buf *spans, int n_spans)
{
    struct item *i = NULL;
    bool fits = t->set && !t->ending && t->queued_bytes + spans->n_bytes <= t->set->queue_bytes;
    if (!fits || !(i = calloc(1, sizeof(*i)))) {
        metric_add(t->m_full, n_spans);
        buf_done(spans);
        return;
    }
    i->n_spans = n_spans;
    i->text = buf_take(spans, &i->n_bytes);
    if (t->last)
        t->last->next = i;
    else
        t->first = i;
    t->last = i;
    t->queued_bytes += i->n_bytes;
    tell_bytes(t);
    if (t->post || t->backoff_ms)
        return; /* what comes next is settled */
    if (is_much(t))
        deliver_in(t, 0);
    else if (!uv_is_active((uv_handle_t *)&t->timer))
        deliver_in(t, GATHER_MS);
}

void traces_lost(struct traces *t)
{
    metric_add(t->m_full, 1);
}

/* --- life ----------------------------------------------------------------------------------------- */

int traces_new(uv_loop_t *loop, struct metrics *m, struct traces **ret, struct err *e)
{
    static const char dropped[] = "latentd_trace_spans_dropped_total",
                      dropped_help[] = "Spans that were never delivered: no room in the queue, refused by "
                                       "the collector, left over at the end or when there was no endpoint "
                                       "any more.";
    unsigned char id[16];
    struct traces *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(e, ERR_NOMEM, "out of memory");
    t->loop = loop;
    uv_timer_init(loop, &t->timer);
    t->timer.data = t;
    if (uv_random(NULL, NULL, id, sizeof(id), 0, NULL) < 0)
        memset(id, 0, sizeof(id));
    for (size_t i = 0; i < sizeof(id); i++)
        snprintf(t->instance + 2 * i, 3, "%02x", id[i]);
    t->m_delivered = metrics_counter(m, "latentd_trace_spans_delivered_total",
                                     "Spans that the collector has taken.", NULL);
    t->m_full = metrics_counter(m, dropped, dropped_help, "reason=\"queue\"");
    t->m_refused = metrics_counter(m, dropped, dropped_help, "reason=\"refused\"");
    t->m_ended = metrics_counter(m, dropped, dropped_help, "reason=\"end\"");
    t->m_failures = metrics_counter(m, "latentd_trace_failures_total", "Deliveries of spans that failed.",
                                    NULL);
    t->m_bytes = metrics_gauge(m, "latentd_trace_queue_bytes", "Spans that wait to be delivered.", NULL);
    *ret = t;
    return 0;
}

/* Does what is on its way go where it would go now, too? Then it is not sent a second time: the collector may
 * have it already. */
static bool same_target(const struct trace_settings *a, const struct trace_settings *b)
{
    return a && b && !strcmp(a->url, b->url) &&
           !strcmp(a->headers ? a->headers : "", b->headers ? b->headers : "");
}

void traces_use(struct traces *t, struct trace_settings *settings)
{
    if (!same_target(t->set, settings)) {
        post_cancel(&t->post);
        t->n_sending = 0;
    }
    t->backoff_ms = 0;
    t->failing = false;
    trace_settings_free(&t->set);
    t->set = settings;
    if (!settings)
        drop_all(t);
    else if (t->first && !t->post)
        deliver_in(t, GATHER_MS);
}

bool traces_on(const struct traces *t)
{
    return t && t->set && !t->ending;
}

bool traces_sample(const struct traces *t, uint64_t random)
{
    return (double)(random >> 11) < t->set->ratio * 9007199254740992.0; /* of 2^53 */
}

void traces_end(struct traces *t, bool deliver_them)
{
    if (!t || t->ending)
        return;
    t->ending = true;
    if (!deliver_them || !t->set || !t->first) {
        close_down(t);
        return;
    }
    t->end_ns = clock_now_ns() + t->set->timeout_ms * NS_PER_MS;
    uv_timer_stop(&t->timer);
    deliver(t); /* or what is under way comes back within its time, and then the rest goes */
}

void traces_free(struct traces **tp)
{
    struct traces *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    drop_all(t);
    trace_settings_free(&t->set);
    free(t);
}
