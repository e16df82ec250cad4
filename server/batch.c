/* server/batch.c - a file of requests, answered into another through the API that HTTP uses.
 *
 * As many lines are in flight as run at once, and as many again to wait in the engine's queue, so that it
 * never runs dry; beyond them only the line that is next is in memory. Answers are written as they come, one
 * write a line. What the engine refuses for want of room is asked again when another line has ended, and
 * taken as the answer only if it was alone.
 *
 * The output tells what is done: a run that was ended in whatever way goes on where it was. The files
 * belong to batch_file.h, the JSON of a line to api.h. Everything runs on the loop thread. */
#include "config.h"

#include "server/batch.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/batch_file.h"
#include "server/batch_ids.h"
#include "server/batch_progress.h"
#include "server/conf.h"
#include "server/start.h"

#define TICK_MS 250
#define WAIT_MS 20                     /* between two looks at a pipe that has nothing */
#define SYNC_NS (5 * NS_PER_SEC)
#define LINES_A_TURN 256               /* read before the loop gets on */
#define MAX_ANSWER ((size_t)300 << 20) /* of a line of output; the API's answers are smaller */

struct batch;

struct line { /* in flight, or refused for now */
    struct batch *b;
    struct line *next, *prev;
    long long number;
    uint64_t n_bytes; /* of it in the input, with its end */
    char *text;       /* owned; the body lies in it */
    struct api_batch_line request;
    char request_id[40];
    bool alone; /* asked while nothing else was */

    struct api_exchange *exchange;
    int status;
    bool lost; /* there was no memory for the answer */
    struct buf answer;
    struct api_log_facts facts;
};

struct lines {
    struct line *first, *last;
    long long n;
};

struct batch {
    const struct server_config *cfg;
    struct batch_in in;
    struct batch_out out;
    struct batch_ids ids;
    struct batch_progress progress;
    struct buf text; /* the line of output being made */
    uv_loop_t loop;
    uv_async_t wake;
    uv_check_t check; /* work off the loop ends lines, too */
    uv_timer_t tick, again, deadline;
    uv_signal_t signals[3];
    uv_fs_t sync;
    bool syncing;
    int64_t synced_ns;
    struct engine *engine;
    struct api *api;
    struct metrics *metrics;
    char *chat_template;
    int load_shown;
    bool loaded, at_end;
    struct lines running, ended, refused;
    uint64_t held_bytes; /* of the lines in them */
    bool blocked;        /* the engine is full until a line ends */
    bool stopping;       /* no more lines are begun */
    bool closed;
    bool trouble;
    uint64_t id_seed[2];
};

static void on_again(uv_timer_t *t);
static void on_deadline(uv_timer_t *t);

static void push(struct lines *l, struct line *x)
{
    x->next = NULL;
    x->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = x;
    l->last = x;
    l->n++;
}

static void take_out(struct lines *l, struct line *x)
{
    *(x->prev ? &x->prev->next : &l->first) = x->next;
    *(x->next ? &x->next->prev : &l->last) = x->prev;
    l->n--;
}

static void line_free(struct line *l)
{
    l->b->held_bytes -= l->n_bytes;
    api_batch_line_done(&l->request);
    buf_done(&l->answer);
    free(l->text);
    free(l);
}

/* --- the end -------------------------------------------------------------------------------------- */

static void close_all(struct batch *b)
{
    if (b->closed)
        return;
    b->closed = b->stopping = true;
    for (struct line *l = b->running.first; l; l = l->next)
        if (l->exchange)
            api_exchange_gone(l->exchange);
    uv_close((uv_handle_t *)&b->check, NULL);
    uv_close((uv_handle_t *)&b->tick, NULL);
    uv_close((uv_handle_t *)&b->again, NULL);
    uv_close((uv_handle_t *)&b->deadline, NULL);
    for (int i = 0; i < 3; i++)
        uv_close((uv_handle_t *)&b->signals[i], NULL);
    uv_unref((uv_handle_t *)&b->wake); /* closed when the engine, which uses it, has gone */
}

/* Nothing can be read or written, or there is no memory: what is written stays. */
static void give_up(struct batch *b, const struct err *e)
{
    LOG_ERROR("batch", "%s", *e->text ? e->text : "out of memory");
    b->trouble = true;
    close_all(b);
}

static void stop(struct batch *b)
{
    b->stopping = true;
    if (!b->loaded || b->running.n == 0)
        close_all(b);
    else
        uv_timer_start(&b->deadline, on_deadline, (uint64_t)b->cfg->drain_timeout, 0);
}

static void on_signal(uv_signal_t *h, int number)
{
    struct batch *b = h->data;
    if (b->stopping) {
        LOG_WARN("batch", "second signal: ending at once, %lld lines are cut off", b->running.n);
        close_all(b);
        return;
    }
    LOG_INFO("batch", "%s: %lld lines finish, no more are begun",
             number == SIGINT ? "SIGINT" : number == SIGHUP ? "SIGHUP" : "SIGTERM", b->running.n);
    stop(b);
}

/* --- answers -------------------------------------------------------------------------------------- */

static void ops_begin(void *reply, int status, const struct api_header *headers, int n_headers,
                      int64_t body_bytes)
{
    struct line *l = reply;
    (void)headers, (void)n_headers, (void)body_bytes;
    l->status = status;
}

static void ops_write(void *reply, const char *data, size_t n_bytes)
{
    struct line *l = reply;
    l->lost |= buf_append(&l->answer, data, n_bytes) < 0;
}

static void ops_end(void *reply, const struct api_log_facts *facts)
{
    struct line *l = reply;
    l->facts = *facts;
    l->exchange = NULL;
    take_out(&l->b->running, l);
    push(&l->b->ended, l); /* the API must not be called from here: settle() looks at it */
}

static size_t ops_queued_bytes(void *reply)
{
    (void)reply;
    return 0;
}

static const struct api_reply_ops reply_ops = {ops_begin, ops_write, ops_end, ops_queued_bytes};

static int mark(struct batch *b, const char *custom_id, long long line, unsigned clear, unsigned set,
                struct err *e)
{
    int r = batch_ids_mark(&b->ids, custom_id, line, clear, set);
    if (r == ERR_LIMIT)
        return err_set_param(e, r, "batch_max_lines", "%.250s has more requests than batch_max_lines = %lld",
                             b->in.name, b->cfg->batch_max_lines);
    return r < 0 ? err_set(e, r, "out of memory") : 0;
}

static int write_line(struct batch *b, struct api_batch_answer *a, struct err *e)
{
    char id[48];
    snprintf(id, sizeof(id), "batch_req_%016" PRIx64 "%08" PRIx64, b->id_seed[0], ++b->id_seed[1]);
    a->id = id;
    buf_reset(&b->text);
    if (api_batch_write(a, &b->text) < 0)
        return err_set(e, ERR_NOMEM, "out of memory for an answer");
    return batch_out_write(&b->out, b->text.data, b->text.n_bytes, e);
}

static void count(struct batch *b, const struct line *l)
{
    struct batch_progress *p = &b->progress;
    p->n_answered++;
    p->n_failed += l->status != 200;
    p->bytes += l->n_bytes;
    p->prompt_tokens += l->facts.prompt_tokens > 0 ? l->facts.prompt_tokens : 0;
    p->cached_tokens += l->facts.cached_tokens > 0 ? l->facts.cached_tokens : 0;
    p->completion_tokens += l->facts.completion_tokens > 0 ? l->facts.completion_tokens : 0;
}

static int write_answer(struct batch *b, const struct line *l, struct err *e)
{
    struct api_batch_answer a = {
        .custom_id = l->request.custom_id,
        .request_id = l->request_id,
        .status = l->status,
        .body = l->answer.data ? l->answer.data : "null",
        .body_bytes = l->answer.data ? l->answer.n_bytes : strlen("null"),
    };
    int r = write_line(b, &a, e);
    if (r == 0)
        count(b, l);
    return r;
}

/* A line that was answered: written, or kept to be asked again. */
static int settle(struct batch *b, struct line *l, struct err *e)
{
    if (l->lost) {
        l->status = 503;
        buf_reset(&l->answer);
        (void)api_error_body(503, NULL, "out of memory for the answer", &l->answer);
    }
    if ((l->status == 429 || l->status == 503) && !l->alone) {
        buf_reset(&l->answer);
        l->lost = false;
        push(&b->refused, l);
        b->blocked = true;
        return 0;
    }
    b->blocked = false;
    int r = write_answer(b, l, e);
    line_free(l);
    return r;
}

/* A line that is no request. What stands in the output already is not told again. */
static int write_refusal(struct batch *b, const char *custom_id, const char *code, const char *text,
                         uint64_t n_bytes, struct err *e)
{
    struct batch_progress *p = &b->progress;
    char message[sizeof(e->text) + 40];
    long long number = b->in.number;
    p->n_failed++;
    if (batch_ids_marks(&b->ids, NULL, number) & BATCH_TOLD) {
        p->n_before++;
        p->n_failed_before++;
        p->bytes_before += n_bytes;
        return 0;
    }
    p->n_answered++;
    p->bytes += n_bytes;
    snprintf(message, sizeof(message), "line %lld: %s", number, text);
    struct api_batch_answer a = {
        .custom_id = custom_id, .code = code, .message = message, .line = number};
    return write_line(b, &a, e);
}

/* --- requests ------------------------------------------------------------------------------------- */

static void ask(struct batch *b, struct line *l)
{
    l->status = 0;
    l->alone = b->running.n == 0 && b->ended.n == 0 && api_active(b->api) == 0;
    snprintf(l->request_id, sizeof(l->request_id), "req-%016" PRIx64 "%016" PRIx64, b->id_seed[0],
             ++b->id_seed[1]);
    const struct api_request req = {
        .method = HTTP_M_POST,
        .path = l->request.url,
        .query = "",
        .content_type = "application/json",
        .body = l->request.body,
        .body_bytes = l->request.body_bytes,
        .request_id = l->request_id,
        .received_ns = clock_now_ns(),
    };
    push(&b->running, l);
    struct api_exchange *x = api_handle(b->api, &req, &reply_ops, l);
    if (l->status == 0) /* else it has ended already */
        l->exchange = x;
}

/* A request as read into `in`, kept while it is in flight: takes the request over. */
static int begin(struct batch *b, const char *text, size_t n, struct api_batch_line *request,
                 uint64_t n_bytes, struct err *e)
{
    struct line *l = calloc(1, sizeof(*l));
    if (!l || !(l->text = malloc(n))) {
        free(l);
        api_batch_line_done(request);
        return err_set(e, ERR_NOMEM, "out of memory for line %lld", b->in.number);
    }
    memcpy(l->text, text, n);
    l->b = b;
    l->number = b->in.number;
    l->n_bytes = n_bytes;
    l->request = *request;
    l->request.body = l->text + (request->body - text);
    buf_init(&l->answer, MAX_ANSWER);
    b->held_bytes += n_bytes;
    ask(b, l);
    return 0;
}

/* Is the request with this id to be asked? 1; 0: it is done, or a duplicate, which is told. */
static int is_due(struct batch *b, const char *custom_id, uint64_t n_bytes, struct err *e)
{
    struct batch_progress *p = &b->progress;
    unsigned marks = batch_ids_marks(&b->ids, custom_id, 0);
    if (marks & BATCH_SEEN)
        return write_refusal(b, custom_id, "duplicate_custom_id", "an earlier line has the same custom_id",
                             n_bytes, e);
    int r = mark(b, custom_id, 0, 0, BATCH_SEEN, e);
    if (r < 0 || !(marks & BATCH_DONE))
        return r < 0 ? r : 1;
    p->n_before++;
    p->n_failed_before += (marks & BATCH_FAILED) != 0;
    p->n_failed += (marks & BATCH_FAILED) != 0;
    p->bytes_before += n_bytes;
    return 0;
}

static int read_request(struct batch *b, const char *text, size_t n, uint64_t n_bytes, struct err *e)
{
    struct api_batch_line request;
    int r = api_batch_read(text, n, &request, e);
    if (r == ERR_INVAL)
        r = write_refusal(b, request.custom_id, request.code, e->text, n_bytes, e);
    else if (r == 0 && (r = is_due(b, request.custom_id, n_bytes, e)) == 1)
        return begin(b, text, n, &request, n_bytes, e);
    api_batch_line_done(&request);
    return r;
}

/* Reads the next line and does what it asks for. 1; 0: there is none now; or an error. */
static int next_line(struct batch *b, struct err *e)
{
    char text[120];
    const char *line;
    size_t n;
    uint64_t from = b->in.offset;
    int r = batch_in_next(&b->in, &line, &n, e);
    uint64_t n_bytes = b->in.offset - from;
    switch (r) {
    case BATCH_LINE:
        r = read_request(b, line, n, n_bytes, e);
        break;
    case BATCH_TOO_LONG:
        snprintf(text, sizeof(text), "it has more than max_body_size = %lld bytes", b->cfg->max_body_size);
        r = write_refusal(b, NULL, "line_too_long", text, n_bytes, e);
        break;
    case BATCH_WAIT:
        uv_timer_start(&b->again, on_again, WAIT_MS, 0);
        return 0;
    case BATCH_END:
        b->at_end = true;
        return 0;
    default:
        break;
    }
    return r < 0 ? r : 1;
}

/* --- turns ---------------------------------------------------------------------------------------- */

static bool has_room(const struct batch *b)
{
    const struct server_config *c = b->cfg;
    long long ahead = c->max_queue_requests < c->max_num_seqs ? c->max_queue_requests : c->max_num_seqs;
    return b->running.n < c->max_num_seqs + ahead && b->held_bytes < (uint64_t)c->max_body_memory;
}

/* Begins one more request. 1; 0: not now; or an error. */
static int advance(struct batch *b, struct err *e)
{
    struct line *l = b->refused.first;
    if (b->running.n == 0 && api_active(b->api) == 0)
        b->blocked = false; /* alone it is refused for good */
    if (b->blocked)
        return 0;
    if (l) {
        take_out(&b->refused, l);
        ask(b, l);
        return 1;
    }
    return b->at_end || !has_room(b) ? 0 : next_line(b, e);
}

/* Whatever has happened: writes what ended, begins what there is room for. Not from inside the API. */
static void turn(struct batch *b)
{
    struct err e = {0};
    int r = 1;
    for (int n = 0; r == 1 && !b->closed; n++) {
        struct line *l;
        while (r >= 0 && (l = b->ended.first)) {
            take_out(&b->ended, l);
            r = settle(b, l, &e);
        }
        if (r < 0 || b->stopping || !b->loaded)
            break;
        if (n == LINES_A_TURN) {
            uv_timer_start(&b->again, on_again, 0, 0);
            break;
        }
        r = advance(b, &e);
    }
    if (r < 0)
        give_up(b, &e);
    else if (b->running.n == 0 && (b->stopping || (b->at_end && b->refused.n == 0)))
        close_all(b);
}

static void on_check(uv_check_t *h)
{
    turn(h->data);
}

static void on_again(uv_timer_t *t)
{
    turn(t->data);
}

static void on_deadline(uv_timer_t *t)
{
    struct batch *b = t->data;
    LOG_WARN("batch", "drain_timeout has passed: %lld lines are cut off", b->running.n);
    close_all(b);
}

/* --- the loop ------------------------------------------------------------------------------------- */

static void watch_load(struct batch *b)
{
    if (b->loaded || b->closed)
        return;
    enum engine_state st = engine_state(b->engine);
    if (st == ENGINE_FAILED) {
        give_up(b, engine_load_error(b->engine));
    } else if (st == ENGINE_READY) {
        b->loaded = true;
        start_log_ready(b->engine);
        batch_progress_begin(&b->progress, b->in.size);
    } else {
        start_log_loading(b->engine, &b->load_shown);
    }
}

static void on_wake(uv_async_t *h)
{
    struct batch *b = h->data;
    watch_load(b);
    if (!b->closed)
        api_poll(b->api);
}

static void on_synced(uv_fs_t *req)
{
    struct batch *b = req->data;
    struct err e = {0};
    int r = (int)req->result;
    b->syncing = false;
    uv_fs_req_cleanup(req);
    if (r < 0) {
        err_set(&e, ERR_IO, "%.250s: it cannot be synced: %s", b->out.name, uv_strerror(r));
        give_up(b, &e);
    }
}

/* A disk takes its time: not on this thread. */
static void sync_now_and_then(struct batch *b)
{
    int64_t now = clock_now_ns();
    if (!b->out.regular || !b->out.dirty || b->syncing || now - b->synced_ns < SYNC_NS)
        return;
    b->synced_ns = now;
    b->out.dirty = false;
    b->sync.data = b;
    b->syncing = uv_fs_fsync(&b->loop, &b->sync, b->out.fd, on_synced) == 0;
}

static void on_tick(uv_timer_t *t)
{
    struct batch *b = t->data;
    watch_load(b);
    if (b->closed || !b->loaded)
        return;
    api_tick(b->api);
    turn(b);
    if (!b->closed) {
        sync_now_and_then(b);
        batch_progress_tell(&b->progress);
    }
}

static void start_handles(struct batch *b)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    uv_async_init(&b->loop, &b->wake, on_wake);
    uv_check_init(&b->loop, &b->check);
    uv_timer_init(&b->loop, &b->tick);
    uv_timer_init(&b->loop, &b->again);
    uv_timer_init(&b->loop, &b->deadline);
    b->wake.data = b->check.data = b->tick.data = b->again.data = b->deadline.data = b;
    for (int i = 0; i < 3; i++) {
        uv_signal_init(&b->loop, &b->signals[i]);
        b->signals[i].data = b;
        uv_signal_start(&b->signals[i], on_signal, numbers[i]);
    }
    uv_check_start(&b->check, on_check);
    uv_timer_start(&b->tick, on_tick, TICK_MS, TICK_MS);
}

/* --- start and end -------------------------------------------------------------------------------- */

/* What a line of output makes of its request. The same one may have several: the last counts. */
static int note(struct batch *b, const char *line, size_t n, long long number, struct err *e)
{
    struct api_batch_told t;
    int r = api_batch_read_told(line, n, &t);
    if (r == ERR_NOMEM)
        return err_set(e, r, "out of memory");
    if (r < 0)
        return err_set(e, r, "%.250s: line %lld is not one of a batch's output: is it the right file?",
                       b->out.name, number);
    if (t.status == 0)
        r = mark(b, NULL, t.line, 0, BATCH_TOLD, e);
    else if (t.custom_id && t.status < 500 && t.status != 408) /* what failed here is tried again */
        r = mark(b, t.custom_id, 0, BATCH_FAILED, BATCH_DONE | (t.status == 200 ? 0 : BATCH_FAILED), e);
    free(t.custom_id);
    return r;
}

static int read_done(struct batch *b, struct err *e)
{
    struct batch_in old;
    const char *line;
    size_t n;
    uint64_t whole = 0;
    int r;
    if (!b->out.regular)
        return 0;
    batch_out_read(&b->out, MAX_ANSWER, &old);
    while ((r = batch_in_next(&old, &line, &n, e)) == BATCH_LINE && old.ended) {
        if ((r = note(b, line, n, old.number, e)) < 0)
            break;
        whole = old.offset;
    }
    if (r == BATCH_TOO_LONG && old.ended)
        r = err_set(e, ERR_FORMAT, "%.250s: line %lld is too long for a batch's output", b->out.name,
                    old.number);
    if (r >= 0 && old.offset > whole) {
        LOG_WARN("batch", "%s: the last line is not whole; it is cut off", b->out.name);
        r = batch_out_cut(&b->out, whole, e);
    }
    batch_in_close(&old);
    return r < 0 ? r : 0;
}

static int start(struct batch *b, const char *in, const char *out, struct err *e)
{
    int r = batch_in_open(&b->in, in, (size_t)b->cfg->max_body_size, e);
    if (r == 0)
        r = batch_out_open(&b->out, out, &b->in, e);
    if (r == 0)
        r = read_done(b, e);
    if (r == 0 && !(b->metrics = metrics_new()))
        r = err_set(e, ERR_NOMEM, "out of memory");
    if (r == 0)
        r = start_engine(b->cfg, b->metrics, &b->wake, &b->engine, e);
    if (r == 0)
        r = start_template(b->cfg, &b->chat_template, e);
    struct api_config ac = start_api_config(b->cfg, b->engine, b->metrics, b->chat_template, &b->wake);
    ac.max_queue_ns = 0; /* lines wait for each other, and nobody for them */
    return r < 0 ? r : api_new(&ac, &b->api, e);
}

static void free_lines(struct lines *l)
{
    for (struct line *x = l->first, *next; x; x = next) {
        next = x->next;
        line_free(x);
    }
}

/* What ended in the last turn of the loop is written yet. */
static int finish(struct batch *b)
{
    struct err e = {0};
    int r = 0;
    for (struct line *l; r == 0 && !b->trouble && (l = b->ended.first);) {
        take_out(&b->ended, l);
        r = settle(b, l, &e);
    }
    if (b->out.fd >= 0) {
        int closed = batch_out_close(&b->out, r < 0 ? NULL : &e);
        r = r < 0 ? r : closed;
    }
    if (r < 0) {
        LOG_ERROR("batch", "%s", *e.text ? e.text : "out of memory");
        b->trouble = true;
    }
    bool all = b->at_end && b->running.n == 0 && b->refused.n == 0;
    if (b->loaded)
        batch_progress_end(&b->progress, b->trouble ? "broken off" : all ? "done" : "interrupted");
    return b->trouble             ? BATCH_EXIT_TROUBLE
           : !all                 ? BATCH_EXIT_INTERRUPTED
           : b->progress.n_failed ? BATCH_EXIT_FAILURES
                                  : BATCH_EXIT_OK;
}

int batch_run(const struct server_config *cfg, const char *in, const char *out)
{
    struct batch *b = calloc(1, sizeof(*b));
    struct err e = {0};
    if (!b || uv_loop_init(&b->loop) < 0) {
        LOG_ERROR("batch", "out of memory");
        free(b);
        return BATCH_EXIT_TROUBLE;
    }
    b->cfg = cfg;
    b->in.fd = b->out.fd = -1;
    batch_ids_init(&b->ids, (size_t)cfg->batch_max_lines);
    buf_init(&b->text, MAX_ANSWER + (size_t)cfg->max_body_size);
    start_helpers(&b->loop);
    signal(SIGPIPE, SIG_IGN);
    if (uv_random(NULL, NULL, b->id_seed, sizeof(b->id_seed), 0, NULL) < 0)
        b->id_seed[0] = uv_hrtime();
    start_handles(b);
    if (start(b, in, out, &e) < 0)
        give_up(b, &e);
    else
        LOG_INFO("model", "loading %s", cfg->model);
    uv_run(&b->loop, UV_RUN_DEFAULT);

    engine_stop(&b->engine);
    api_stop(b->api);
    uv_close((uv_handle_t *)&b->wake, NULL);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    uv_loop_close(&b->loop);
    int status = finish(b);
    api_free(&b->api);
    free_lines(&b->running);
    free_lines(&b->refused);
    free_lines(&b->ended);
    batch_in_close(&b->in);
    batch_ids_done(&b->ids);
    buf_done(&b->text);
    metrics_free(&b->metrics);
    free(b->chat_template);
    free(b);
    return status;
}
