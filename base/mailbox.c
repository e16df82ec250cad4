/* base/mailbox.c - bounded queue of pointers; see mailbox.h. */
#include "config.h"

#include "base/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"

struct mailbox {
    pthread_mutex_t lock; /* guards all below but wake */
    pthread_cond_t filled;
    void **ring;
    uint32_t capacity, head, count;
    bool poked;
    void (*wake)(void *arg);
    void *wake_arg;
};

int mailbox_new(uint32_t capacity, void (*wake)(void *arg), void *wake_arg, struct mailbox **ret)
{
    if (capacity == 0)
        return ERR_INVAL;
    struct mailbox *mb = calloc(1, sizeof(*mb));
    void **ring = calloc(capacity, sizeof(*ring));
    pthread_condattr_t attr;
    if (!mb || !ring || pthread_condattr_init(&attr)) {
        free(mb);
        free(ring);
        return ERR_NOMEM;
    }
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&mb->lock, NULL);
    pthread_cond_init(&mb->filled, &attr);
    pthread_condattr_destroy(&attr);
    mb->ring = ring;
    mb->capacity = capacity;
    mb->wake = wake;
    mb->wake_arg = wake_arg;
    *ret = mb;
    return 0;
}

void mailbox_free(struct mailbox **p)
{
    struct mailbox *mb = *p;
    *p = NULL;
    if (!mb)
        return;
    pthread_cond_destroy(&mb->filled);
    pthread_mutex_destroy(&mb->lock);
    free(mb->ring);
    free(mb);
}

int mailbox_push(struct mailbox *mb, void *msg)
{
    int r = ERR_LIMIT;
    pthread_mutex_lock(&mb->lock);
    if (mb->count < mb->capacity) {
        mb->ring[(mb->head + mb->count++) % mb->capacity] = msg;
        pthread_cond_signal(&mb->filled);
        r = 0;
    }
    pthread_mutex_unlock(&mb->lock);
    if (r == 0 && mb->wake)
        mb->wake(mb->wake_arg);
    return r;
}

static void *take(struct mailbox *mb)
{
    if (mb->count == 0)
        return NULL;
    void *msg = mb->ring[mb->head];
    mb->head = (mb->head + 1) % mb->capacity;
    mb->count--;
    return msg;
}

void *mailbox_pop(struct mailbox *mb)
{
    pthread_mutex_lock(&mb->lock);
    void *msg = take(mb);
    pthread_mutex_unlock(&mb->lock);
    return msg;
}

void *mailbox_wait(struct mailbox *mb, int64_t timeout_ns)
{
    int64_t now = clock_now_ns();
    if (timeout_ns > INT64_MAX - now)
        timeout_ns = -1; /* beyond the end of the clock */
    int64_t end = now + timeout_ns;
    struct timespec until = {end / NS_PER_SEC, end % NS_PER_SEC};
    int r = 0;
    pthread_mutex_lock(&mb->lock);
    while (mb->count == 0 && !mb->poked && r != ETIMEDOUT) {
        if (timeout_ns < 0)
            pthread_cond_wait(&mb->filled, &mb->lock);
        else
            r = pthread_cond_timedwait(&mb->filled, &mb->lock, &until);
    }
    mb->poked = false;
    void *msg = take(mb);
    pthread_mutex_unlock(&mb->lock);
    return msg;
}

void mailbox_poke(struct mailbox *mb)
{
    pthread_mutex_lock(&mb->lock);
    mb->poked = true;
    pthread_cond_signal(&mb->filled);
    pthread_mutex_unlock(&mb->lock);
}

uint32_t mailbox_count(struct mailbox *mb)
{
    pthread_mutex_lock(&mb->lock);
    uint32_t n = mb->count;
    pthread_mutex_unlock(&mb->lock);
    return n;
}
