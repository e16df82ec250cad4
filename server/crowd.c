/* server/crowd.c - who gives way when max_connections are open.
 *
 * A connection that waits for a request costs its holder nothing, so whoever opens many of them could keep
 * all others out. So the one that has waited longest is closed for a new one: since it came or got its last
 * answer, or since its header was complete, whatever trickled in meanwhile. Connections that are being
 * answered stay. The list is in the order of waiting; each change of it takes the same time however many
 * there are. */
#include "config.h"

#include "server/internal.h"

void crowd_leave(struct conn *c)
{
    struct server *s = c->s;
    if (!c->waits)
        return;
    c->waits = false;
    *(c->waits_prev ? &c->waits_prev->waits_next : &s->waits_first) = c->waits_next;
    *(c->waits_next ? &c->waits_next->waits_prev : &s->waits_last) = c->waits_prev;
    c->waits_prev = c->waits_next = NULL;
}

void crowd_wait(struct conn *c)
{
    struct server *s = c->s;
    crowd_leave(c);
    c->waits = true;
    c->waits_prev = s->waits_last;
    *(s->waits_last ? &s->waits_last->waits_next : &s->waits_first) = c;
    s->waits_last = c;
}

bool crowd_make_room(struct server *s)
{
    if (!s->waits_first)
        return false;
    metric_add(s->m_displaced, 1);
    conn_close(s->waits_first);
    return true;
}
