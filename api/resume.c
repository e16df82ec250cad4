/* api/resume.c - see resume.h. A stream without client keeps its exchange, whose reply is then one of the
 * server's that goes nowhere; a stream that is over keeps its events alone. */
#include "config.h"

#include "api/resume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define PREFIX "/v1/streams/"
#define MAX_EVENT_BYTES (1u << 30)
#define SCRATCH_KEPT (1u << 20) /* room that is not given back after a large event */

struct resumable {
    struct api_exchange *x; /* NULL: over */
    char path[sizeof(PREFIX) + sizeof(((struct api_exchange *)0)->id)];
    uint64_t client;
    struct buf events;
    size_t start;          /* so many bytes in front are dropped */
    long long first, next; /* numbers of the oldest event in it, and of the next to come */
    bool absent, deleted;
    int64_t since_ns; /* absent, or over */
    struct resumable *newer, *older;
};

struct resumables {
    struct resumable *newest, *oldest;
    uint64_t n_bytes; /* of all events, and of what holds them */
    struct buf scratch;
    int n, n_absent;
    struct metric *m_streams, *m_absent, *m_bytes, *m_resumed, *m_expired, *m_dropped;
};

int resumables_new(struct api *a, struct err *e)
{
    struct metrics *m = a->cfg.metrics;
    struct resumables *all = a->resumables = calloc(1, sizeof(*all));
    if (!all)
        return err_set(e, ERR_NOMEM, "out of memory");
    buf_init(&all->scratch, MAX_EVENT_BYTES);
    all->m_streams = metrics_gauge(m, "latentd_resumable_streams", "Streams that can be resumed.", NULL);
    all->m_absent = metrics_gauge(m, "latentd_resumable_streams_absent",
                                  "Of them, those that are generated without a client.", NULL);
    all->m_bytes = metrics_gauge(m, "latentd_resumable_stream_bytes", "Bytes kept of their events.", NULL);
    all->m_resumed = metrics_counter(m, "latentd_streams_resumed_total",
                                     "Streams that a client came back to.", NULL);
    all->m_expired = metrics_counter(m, "latentd_streams_expired_total",
                                     "Streams cancelled because no client came back.", NULL);
    all->m_dropped = metrics_counter(m, "latentd_stream_resumptions_refused_total",
                                     "Resumptions after an event that is not kept any more.", NULL);
    return 0;
}

static void count(struct resumables *all)
{
    metric_set(all->m_streams, all->n);
    metric_set(all->m_absent, all->n_absent);
    metric_set(all->m_bytes, (double)all->n_bytes);
}

static void set_absent(struct resumables *all, struct resumable *s, bool absent)
{
    all->n_absent += absent - s->absent;
    s->absent = absent;
    s->since_ns = clock_now_ns();
}

static void drop(struct resumables *all, struct resumable *s)
{
    if (s->x)
        s->x->resumable = NULL;
    set_absent(all, s, false);
    *(s->newer ? &s->newer->older : &all->newest) = s->older;
    *(s->older ? &s->older->newer : &all->oldest) = s->newer;
    all->n_bytes -= sizeof(*s) + s->events.n_bytes;
    all->n--;
    buf_done(&s->events);
    free(s);
    count(all);
}

void resumables_free(struct api *a)
{
    struct resumables *all = a->resumables;
    if (!all)
        return;
    for (struct resumable *s; (s = all->newest);) {
        struct api_exchange *x = s->absent ? s->x : NULL;
        drop(all, s);
        if (x) /* what stands for its client is the server's */
            exchange_end(x);
    }
    buf_done(&all->scratch);
    free(all);
    a->resumables = NULL;
}

static struct resumable *find(const struct api *a, const char *id, uint64_t client)
{
    for (struct resumable *s = a->resumables->newest; s; s = s->older)
        if (s->client == client && !s->deleted && !strcmp(s->path + strlen(PREFIX), id))
            return s;
    return NULL;
}

bool resumable_begin(struct api_exchange *x)
{
    struct api *a = x->a;
    struct resumables *all = a->resumables;
    struct err e = {0};
    char text[200];
    if (!a->cfg.stream_window) {
        exchange_fail(x, (err_set_param(&e, ERR_UNSUPPORTED, "resumable",
                                        "resumable: this server keeps no streams"), &e));
        return false;
    }
    if (find(a, x->id, x->client)) { /* the client chose the id, and asks again */
        snprintf(text, sizeof(text), "this stream is there already: GET " PREFIX "%s resumes it", x->id);
        x->state = X_ENDED;
        reply_error_full(&x->reply, 409, "stream_exists", "request_id", text, 0, NULL);
        return false;
    }
    struct resumable *s = calloc(1, sizeof(*s));
    if (!s) {
        exchange_fail(x, (err_set(&e, ERR_NOMEM, "out of memory for the request"), &e));
        return false;
    }
    s->x = x;
    s->client = x->client;
    snprintf(s->path, sizeof(s->path), PREFIX "%s", x->id);
    buf_init(&s->events, MAX_EVENT_BYTES);
    s->older = all->newest;
    *(s->older ? &s->older->newer : &all->oldest) = s;
    all->newest = s;
    all->n++;
    all->n_bytes += sizeof(*s);
    x->resumable = s;
    count(all);
    return true;
}

const char *resumable_path(const struct api_exchange *x)
{
    return x->resumable->path;
}

bool resumable_absent(const struct api_exchange *x)
{
    return x->resumable && x->resumable->absent;
}

/* --- the window ------------------------------------------------------------------------------------- */

static size_t kept_bytes(const struct resumable *s)
{
    return s->events.n_bytes - s->start;
}

/* Bytes of the first event in the text. */
static size_t event_bytes(const char *data, size_t n_bytes)
{
    const char *end = memmem(data, n_bytes, "\n\n", 2);
    return end ? (size_t)(end - data) + 2 : n_bytes;
}

static void compact(struct resumables *all, struct resumable *s)
{
    all->n_bytes -= s->start;
    buf_consume(&s->events, s->start);
    s->start = 0;
}

static void drop_oldest(struct resumable *s)
{
    s->start += event_bytes(s->events.data + s->start, kept_bytes(s));
    s->first++;
}

static void drop_all(struct resumables *all, struct resumable *s)
{
    s->start = s->events.n_bytes;
    compact(all, s);
    s->first = s->next;
}

static bool drop_oldest_over(struct resumables *all)
{
    struct resumable *s = all->oldest;
    while (s && s->x)
        s = s->newer;
    if (s)
        drop(all, s);
    return s != NULL;
}

/* Puts the event with the number s->next - 1 into the window. */
static void keep(struct api *a, struct resumable *s, const char *event, size_t n_bytes)
{
    struct resumables *all = a->resumables;
    size_t most = a->cfg.stream_window;
    bool over = s->x->n_done == s->x->n_choices; /* its last events: there are no more to keep room for */
    if (!s->absent && !over)
        most /= 2;
    while (kept_bytes(s) && kept_bytes(s) + n_bytes > most)
        drop_oldest(s);
    if (s->start && s->events.n_bytes + n_bytes > a->cfg.stream_window)
        compact(all, s);
    while (all->n_bytes + n_bytes > a->cfg.stream_memory / 4 * 3 && drop_oldest_over(all))
        ;
    while (all->n_bytes + n_bytes > a->cfg.stream_memory && kept_bytes(s)) {
        drop_oldest(s);
        compact(all, s);
    }
    if (n_bytes <= most && all->n_bytes + n_bytes <= a->cfg.stream_memory &&
        buf_append(&s->events, event, n_bytes) == 0)
        all->n_bytes += n_bytes;
    else
        drop_all(all, s);
}

void resumable_write(struct api_exchange *x, const char *data, size_t n_bytes)
{
    struct resumable *s = x->resumable;
    struct resumables *all = x->a->resumables;
    struct buf *out = &all->scratch;
    buf_reset(out);
    for (size_t n; n_bytes; data += n, n_bytes -= n) {
        size_t from = out->n_bytes;
        n = event_bytes(data, n_bytes);
        int r = buf_printf(out, "id: %lld\n", s->next);
        if (r == 0)
            r = buf_append(out, data, n);
        s->next++;
        if (r == 0) {
            keep(x->a, s, out->data + from, out->n_bytes - from);
            continue;
        }
        /* no memory: it goes out without its number, and cannot be had again */
        drop_all(all, s);
        if (from)
            x->reply.ops->write(x->reply.host, out->data, from);
        buf_reset(out);
        x->reply.ops->write(x->reply.host, data, n);
    }
    if (out->n_bytes)
        x->reply.ops->write(x->reply.host, out->data, out->n_bytes);
    if (out->n_bytes > SCRATCH_KEPT) {
        buf_done(out);
        buf_init(out, MAX_EVENT_BYTES);
    }
    count(all);
}

bool resumable_crowded(const struct api_exchange *x)
{
    const struct api_config *cfg = &x->a->cfg;
    return kept_bytes(x->resumable) > cfg->stream_window / 4 * 3 ||
           x->a->resumables->n_bytes > cfg->stream_memory / 4 * 3;
}

/* --- with and without clients ----------------------------------------------------------------------- */

void resumable_end(struct api_exchange *x)
{
    struct resumable *s = x->resumable;
    struct resumables *all = x->a->resumables;
    if (!s)
        return;
    if (s->deleted || !x->begun) {
        drop(all, s);
        return;
    }
    set_absent(all, s, false);
    s->x = NULL;
    x->resumable = NULL;
    count(all);
}

void resumable_forget(struct api_exchange *x)
{
    if (x->resumable)
        drop(x->a->resumables, x->resumable);
}

bool api_exchange_leave(struct api_exchange *x, const struct api_reply_ops *ops, void *reply)
{
    struct resumable *s = x->resumable;
    if (!s || s->deleted || !x->begun || x->state != X_RUNNING || x->a->cfg.stream_absence_ns <= 0)
        return false;
    x->reply.ops = ops;
    x->reply.host = reply;
    set_absent(x->a->resumables, s, true);
    count(x->a->resumables);
    exchange_pressure(x);
    return true;
}

/* Ends the reply of the client that it had, or of its absence. */
static void end_reply(struct api_exchange *x, const char *why)
{
    struct api_log_facts facts;
    api_exchange_facts(x, &facts);
    facts.finish = why;
    x->told_tokens = x->completion_tokens;
    x->reply.ops->end(x->reply.host, &facts);
}

/* A stream without client is cancelled and forgotten. */
static void abandon(struct api *a, struct resumable *s)
{
    struct api_exchange *x = s->x;
    end_reply(x, "abort");
    drop(a->resumables, s);
    api_exchange_gone(x);
}

void resume_tick(struct api *a, int64_t now_ns)
{
    for (struct resumable *s = a->resumables->newest, *older; s; s = older) {
        older = s->older;
        if (!s->x && now_ns - s->since_ns > a->cfg.stream_kept_ns) {
            drop(a->resumables, s);
        } else if (s->absent && now_ns - s->since_ns > a->cfg.stream_absence_ns) {
            metric_add(a->resumables->m_expired, 1);
            abandon(a, s);
        } else if (s->absent) {
            exchange_pressure(s->x); /* others may have made room */
        }
    }
}

void api_drain(struct api *a)
{
    a->draining = true;
    for (struct resumable *s = a->resumables->newest, *older; s; s = older) {
        older = s->older;
        if (s->absent)
            abandon(a, s);
        else if (!s->x)
            drop(a->resumables, s);
    }
}

/* --- requests --------------------------------------------------------------------------------------- */

/* The number of the event after `text`: 0 when there is none. */
static int number_after(const char *text, long long *ret)
{
    char *end;
    *ret = 0;
    if (!text || !*text)
        return 0;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end || n >= INT64_MAX)
        return ERR_INVAL;
    *ret = n + 1;
    return 0;
}

static void take_over(struct api *a, struct resumable *s, const struct reply *r)
{
    end_reply(s->x, s->absent ? "disconnect" : "resumed");
    s->x->reply.ops = r->ops; /* its dialect stays */
    s->x->reply.host = r->host;
    s->x->written_ns = clock_now_ns();
    set_absent(a->resumables, s, false);
}

bool resume(struct api *a, const char *id, const char *after, const struct api_request *req,
            const struct reply *r, struct api_exchange **ret)
{
    struct resumable *s = find(a, id, req->client);
    long long from;
    char text[200];
    *ret = NULL;
    if (!s)
        return false;
    if (number_after(after, &from) < 0 || from > s->next) {
        snprintf(text, sizeof(text),
                 "this is no number of an event that this stream has had: they are 0 to %lld", s->next - 1);
        reply_error_full(r, 400, NULL, "starting_after", text, 0, NULL);
        return true;
    }
    if (from < s->first) {
        snprintf(text, sizeof(text), "event %lld of this stream is not kept any more; the oldest is %lld",
                 from, s->first);
        metric_add(a->resumables->m_dropped, 1);
        reply_error_full(r, 410, "events_gone", "starting_after", text, 0, NULL);
        return true;
    }
    static const struct api_log_facts none = API_NO_FACTS;
    size_t at = s->start;
    for (long long i = s->first; i < from; i++)
        at += event_bytes(s->events.data + at, s->events.n_bytes - at);
    bool reads = req->method != HTTP_M_HEAD;
    if (!s->x && at == s->events.n_bytes) { /* tells an EventSource not to come again */
        r->ops->begin(r->host, 204, NULL, 0, 0);
        r->ops->end(r->host, &none);
        return true;
    }
    if (s->x && reads)
        take_over(a, s, r);
    stream_headers(r, s->path);
    if (reads) {
        metric_add(a->resumables->m_resumed, 1);
        if (at < s->events.n_bytes)
            r->ops->write(r->host, s->events.data + at, s->events.n_bytes - at);
    }
    if (!s->x || !reads) {
        r->ops->end(r->host, &none);
        return true;
    }
    exchange_pressure(s->x);
    count(a->resumables);
    *ret = s->x;
    return true;
}

bool resume_delete(struct api *a, const char *id, uint64_t client)
{
    struct resumable *s = find(a, id, client);
    if (!s)
        return false;
    if (s->absent) {
        abandon(a, s);
    } else if (s->x) { /* its client is told how it ends */
        s->deleted = true;
        exchange_cancel(s->x);
    } else {
        drop(a->resumables, s);
    }
    return true;
}

static void no_such(const struct reply *r, const char *id)
{
    char text[256];
    snprintf(text, sizeof(text), "there is no stream \"%.150s\"", id);
    reply_error_full(r, 404, "not_found", "id", text, 0, NULL);
}

struct api_exchange *handle_stream_get(struct api *a, const struct api_request *req, const struct reply *r)
{
    const char *id = req->path + strlen(PREFIX);
    struct api_exchange *x;
    const char *after = *req->last_event_id ? req->last_event_id : query_value(req, "starting_after");
    if (!resume(a, id, after, req, r, &x))
        no_such(r, id);
    return x;
}

struct api_exchange *handle_stream_delete(struct api *a, const struct api_request *req,
                                          const struct reply *r)
{
    const char *id = req->path + strlen(PREFIX);
    struct jw w;
    if (!resume_delete(a, id, req->client)) {
        no_such(r, id);
        return NULL;
    }
    jw_init(&w, 4096);
    jw_raw(&w, "{\"id\":");
    jw_cstring(&w, id);
    jw_raw(&w, ",\"object\":\"stream\",\"deleted\":true}");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}
