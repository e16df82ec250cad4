/* api/store.c - see store.h. A question goes to the thread through one mailbox and comes back through another
 * with what came of it; both hold all that may wait, so that only the loop thread ever finds one full. What
 * is counted here is counted on the loop thread; the thread has the database, and nothing else. */
#include "config.h"

#include "api/store.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/store_db.h"
#include "base/clock.h"
#include "base/mailbox.h"

#define MAX_WAITING 4096 /* questions; their bytes have a bound of their own */
#define TELL_NS (60 * NS_PER_SEC)

enum what { PUT, GET, DELETE, END };

struct question {
    enum what what;
    uint64_t client;
    size_t n_bytes; /* as it counts while it waits */
    const char *id, *body, *items; /* in `text` */
    store_told *told;
    void *arg;
    /* what came of it */
    int result;
    char *found_body, *found_items;
    char trouble[128];
    char text[];
};

struct store {
    struct store_config cfg;
    struct store_db *db; /* the thread's while there is one */
    pthread_t thread;
    bool runs;
    struct mailbox *asked, *done;
    struct question *end; /* the last question: there from the start, so that the end needs no memory */
    uint64_t n_waiting, n_waiting_bytes;
    uint64_t n_lost;
    int64_t told_ns; /* when trouble was logged last; 0: never */
    struct metric *m_kept, *m_kept_bytes; /* set by the thread */
    struct metric *m_waiting, *m_waiting_bytes, *m_lost_full, *m_lost_failed;
};

/* --- the thread ------------------------------------------------------------------------------------- */

static void count_kept(struct store *s)
{
    int64_t n, n_bytes;
    store_db_use(s->db, &n, &n_bytes);
    metric_set(s->m_kept, (double)n);
    metric_set(s->m_kept_bytes, (double)n_bytes);
}

static void answer(struct store *s, struct question *q)
{
    switch (q->what) {
    case PUT:
        q->result = store_db_put(s->db, q->id, q->client, q->body, q->items);
        break;
    case GET:
        q->result = store_db_get(s->db, q->id, q->client, &q->found_body, &q->found_items);
        break;
    case DELETE:
        q->result = store_db_delete(s->db, q->id, q->client);
        break;
    case END:
        break;
    }
    if (q->result < 0 && q->result != ERR_NOTFOUND)
        snprintf(q->trouble, sizeof(q->trouble), "%s",
                 q->result == ERR_NOMEM    ? "out of memory"
                 : q->result == ERR_DENIED ? "the response's id is that of another client's"
                                           : store_db_trouble(s->db));
    if (q->what != GET)
        count_kept(s);
}

static void *store_main(void *arg)
{
    struct store *s = arg;
    bool over = false;
    pthread_setname_np(pthread_self(), "responses");
    while (!over) {
        struct question *q = mailbox_wait(s->asked, -1);
        if (!q)
            continue;
        over = q->what == END;
        answer(s, q);
        (void)!mailbox_push(s->done, q); /* has room for all that may wait */
    }
    return NULL;
}

/* --- asking ----------------------------------------------------------------------------------------- */

static void count_waiting(struct store *s)
{
    metric_set(s->m_waiting, (double)s->n_waiting);
    metric_set(s->m_waiting_bytes, (double)s->n_waiting_bytes);
}

/* A disk that fails does so for every response: one line a minute says so. */
static void tell(struct store *s, const char *trouble)
{
    char text[256];
    int64_t now = clock_now_ns();
    if (!s->cfg.log || (s->told_ns && now - s->told_ns < TELL_NS))
        return;
    s->told_ns = now;
    snprintf(text, sizeof(text), "the store of responses: %s; %llu responses were not kept since the start",
             trouble, (unsigned long long)s->n_lost);
    s->cfg.log(s->cfg.host, text);
}

static void lose(struct store *s, struct metric *why, const char *trouble)
{
    s->n_lost++;
    metric_add(why, 1);
    tell(s, trouble);
}

/* Texts but the id may be NULL. */
static int ask(struct store *s, enum what what, const char *id, uint64_t client, const char *body,
               const char *items, store_told *told, void *arg)
{
    const size_t n_id = strlen(id) + 1, n_body = body ? strlen(body) + 1 : 0;
    const size_t n_items = items ? strlen(items) + 1 : 0;
    const size_t n_bytes = sizeof(struct question) + n_id + n_body + n_items;
    if (s->n_waiting == MAX_WAITING ||
        (s->n_waiting > 0 && s->n_waiting_bytes + n_bytes > s->cfg.max_waiting_bytes))
        return ERR_BUSY;
    struct question *q = malloc(n_bytes);
    if (!q)
        return ERR_NOMEM;
    *q = (struct question){.what = what, .client = client, .n_bytes = n_bytes, .told = told, .arg = arg};
    q->id = memcpy(q->text, id, n_id);
    if (body)
        q->body = memcpy(q->text + n_id, body, n_body);
    if (items)
        q->items = memcpy(q->text + n_id + n_body, items, n_items);
    int r = mailbox_push(s->asked, q);
    if (r < 0) {
        free(q);
        return ERR_BUSY;
    }
    s->n_waiting++;
    s->n_waiting_bytes += n_bytes;
    count_waiting(s);
    return 0;
}

void store_put(struct store *s, const char *id, uint64_t client, const char *body, const char *items)
{
    if (s->cfg.max_entries < 1 || strlen(body) + strlen(items) > s->cfg.max_bytes)
        return;
    int r = ask(s, PUT, id, client, body, items, NULL, NULL);
    if (r == ERR_BUSY)
        lose(s, s->m_lost_full, "more than response_store_queue waits for its disk");
    else if (r < 0)
        lose(s, s->m_lost_failed, "out of memory");
}

int store_get(struct store *s, const char *id, uint64_t client, store_told *told, void *arg)
{
    return ask(s, GET, id, client, NULL, NULL, told, arg);
}

int store_delete(struct store *s, const char *id, uint64_t client, store_told *told, void *arg)
{
    return ask(s, DELETE, id, client, NULL, NULL, told, arg);
}

static void question_free(struct question *q)
{
    free(q->found_body);
    free(q->found_items);
    free(q);
}

/* It does not wait any more. */
static void settle(struct store *s, const struct question *q)
{
    s->n_waiting--;
    s->n_waiting_bytes -= q->n_bytes;
    if (*q->trouble && q->what == PUT)
        lose(s, s->m_lost_failed, q->trouble);
    else if (*q->trouble)
        tell(s, q->trouble);
}

void store_poll(struct store *s)
{
    struct question *q;
    while ((q = mailbox_pop(s->done))) {
        settle(s, q);
        count_waiting(s);
        if (q->told)
            q->told(q->arg, q->result, q->found_body, q->found_items);
        question_free(q);
    }
}

/* --- life ------------------------------------------------------------------------------------------- */

static void make_metrics(struct store *s)
{
    struct metrics *m = s->cfg.metrics;
    static const char lost[] = "latentd_responses_lost_total";
    static const char lost_help[] =
        "Responses that were to be kept and are not: too much waited for the disk, or it failed.";
    s->m_kept = metrics_gauge(m, "latentd_responses_kept", "Responses in the store.", NULL);
    s->m_kept_bytes = metrics_gauge(m, "latentd_response_store_bytes",
                                    "Bytes of the responses in the store.", NULL);
    s->m_waiting = metrics_gauge(m, "latentd_response_store_queue",
                                 "What waits for the store: responses to be kept, and questions.", NULL);
    s->m_waiting_bytes = metrics_gauge(m, "latentd_response_store_queue_bytes",
                                       "Bytes of what waits for the store.", NULL);
    s->m_lost_full = metrics_counter(m, lost, lost_help, "reason=\"queue_full\"");
    s->m_lost_failed = metrics_counter(m, lost, lost_help, "reason=\"failed\"");
}

int store_open(const struct store_config *cfg, struct store **ret, struct err *e)
{
    struct store *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    s->cfg = *cfg;
    s->cfg.path = NULL; /* the caller's */
    s->end = calloc(1, sizeof(*s->end));
    int r = s->end && mailbox_new(MAX_WAITING + 1, NULL, NULL, &s->asked) == 0 &&
                    mailbox_new(MAX_WAITING + 1, cfg->wake, cfg->host, &s->done) == 0
                ? store_db_open(cfg->path, cfg->max_entries, cfg->max_bytes, &s->db, e)
                : err_set(e, ERR_NOMEM, "out of memory");
    if (r == 0) {
        s->end->what = END;
        make_metrics(s);
        count_kept(s);
        int failed = pthread_create(&s->thread, NULL, store_main, s);
        s->runs = !failed;
        if (failed)
            r = err_set(e, ERR_NOMEM, "the thread of the store of responses cannot be started: %s",
                        strerror(failed));
    }
    if (r < 0)
        store_close(&s);
    else
        *ret = s;
    return r;
}

void store_close(struct store **sp)
{
    struct store *s = *sp;
    struct question *q;
    *sp = NULL;
    if (!s)
        return;
    if (s->runs) {
        (void)!mailbox_push(s->asked, s->end); /* there is room for it */
        pthread_join(s->thread, NULL);
    }
    while (s->runs && (q = mailbox_pop(s->done)) && q != s->end) {
        settle(s, q);
        question_free(q);
    }
    free(s->end);
    mailbox_free(&s->asked);
    mailbox_free(&s->done);
    store_db_close(&s->db);
    free(s);
}
