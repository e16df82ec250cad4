/* engine/events.c - see events.h. */
#include "config.h"

#include "engine/events.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SMALL_BYTES ((size_t)1024) /* a token with its text and 20 alternatives */
#define MAX_KEPT 4096

struct event_block {
    struct event_block *next;
    size_t cap_bytes;
    size_t top_at, text_at; /* offsets into data; tokens come first */
    struct gen_event event;
    _Alignas(16) unsigned char data[];
};

struct events {
    struct mailbox *up;
    pthread_mutex_t lock; /* guards kept, n_kept */
    struct event_block *kept;
    int n_kept;
    /* engine thread */
    void (*wake)(void *arg);
    void *wake_arg;
    bool posted; /* since the receiver was woken */
};

static struct event_block *block_of(struct gen_event *e)
{
    return (struct event_block *)(void *)((char *)e - offsetof(struct event_block, event));
}

int events_new(uint32_t capacity, void (*wake)(void *arg), void *wake_arg, struct events **ret)
{
    struct events *ev = calloc(1, sizeof(*ev));
    if (!ev)
        return ERR_NOMEM;
    int r = mailbox_new(capacity, NULL, NULL, &ev->up);
    if (r < 0) {
        free(ev);
        return r;
    }
    pthread_mutex_init(&ev->lock, NULL);
    ev->wake = wake;
    ev->wake_arg = wake_arg;
    *ret = ev;
    return 0;
}

void events_free(struct events **evp)
{
    struct events *ev = *evp;
    struct gen_event *e;
    *evp = NULL;
    if (!ev)
        return;
    while ((e = mailbox_pop(ev->up)))
        free(block_of(e));
    while (ev->kept) {
        struct event_block *next = ev->kept->next;
        free(ev->kept);
        ev->kept = next;
    }
    mailbox_free(&ev->up);
    pthread_mutex_destroy(&ev->lock);
    free(ev);
}

static size_t round16(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

struct gen_event *events_get(struct events *ev, size_t text_bytes, int n_tokens, int n_top)
{
    size_t top_at = round16((size_t)n_tokens * sizeof(struct gen_token));
    size_t text_at = top_at + round16((size_t)n_top * sizeof(struct token_logprob));
    size_t need = text_at + text_bytes + 1;
    struct event_block *b = NULL;
    if (need <= SMALL_BYTES) {
        need = SMALL_BYTES;
        pthread_mutex_lock(&ev->lock);
        if ((b = ev->kept)) {
            ev->kept = b->next;
            ev->n_kept--;
        }
        pthread_mutex_unlock(&ev->lock);
    }
    if (!b) {
        b = malloc(sizeof(*b) + need);
        if (!b)
            return NULL;
        b->cap_bytes = need;
    }
    b->top_at = top_at;
    b->text_at = text_at;
    memset(&b->event, 0, sizeof(b->event));
    b->event.stop_token_id = -1;
    b->event.tokens = event_tokens(&b->event);
    b->event.text = event_text(&b->event);
    b->data[text_at] = 0;
    return &b->event;
}

char *event_text(struct gen_event *e)
{
    struct event_block *b = block_of(e);
    return (char *)b->data + b->text_at;
}

struct gen_token *event_tokens(struct gen_event *e)
{
    return (struct gen_token *)(void *)block_of(e)->data;
}

struct token_logprob *event_top(struct gen_event *e)
{
    struct event_block *b = block_of(e);
    return (struct token_logprob *)(void *)(b->data + b->top_at);
}

void events_put(struct events *ev, struct gen_event *e)
{
    if (!e)
        return;
    struct event_block *b = block_of(e);
    if (b->cap_bytes == SMALL_BYTES) {
        pthread_mutex_lock(&ev->lock);
        if (ev->n_kept < MAX_KEPT) {
            b->next = ev->kept;
            ev->kept = b;
            ev->n_kept++;
            b = NULL;
        }
        pthread_mutex_unlock(&ev->lock);
    }
    free(b);
}

void events_flush(struct events *ev)
{
    if (ev->posted && ev->wake)
        ev->wake(ev->wake_arg);
    ev->posted = false;
}

void events_post(struct events *ev, struct gen_event *e, const _Atomic int *stopping)
{
    while (mailbox_push(ev->up, e) < 0) {
        /* The loop thread drains whenever it runs; when it is waiting for us to stop it does not. */
        if (atomic_load(stopping)) {
            events_put(ev, e);
            return;
        }
        events_flush(ev);
        nanosleep(&(struct timespec){0, 200000}, NULL);
    }
    ev->posted = true;
}

struct gen_event *events_next(struct events *ev)
{
    return mailbox_pop(ev->up);
}
