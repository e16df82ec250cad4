/* server/trace.c - see trace.h. */
#include "config.h"

#include "server/trace.h"

#include <stdio.h>
#include <string.h>

void trace_reset(struct trace_context *t)
{
    t->trace_id[0] = t->parent_id[0] = t->span_id[0] = t->state[0] = 0;
    t->given = t->repeated = t->sampled = t->state_lost = false;
}

/* n lowercase hex digits. */
static bool is_hex(const char *s, size_t n)
{
    return strspn(s, "0123456789abcdef") >= n;
}

static bool is_zero(const char *s, size_t n)
{
    return strspn(s, "0") >= n;
}

/* 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01; a later version may have more behind it. */
bool trace_read_parent(struct trace_context *t, const char *v)
{
    size_t n = strlen(v);
    if (t->given || t->repeated) {
        bool state_lost = t->state_lost;
        trace_reset(t);
        t->repeated = true;
        t->state_lost = state_lost;
        return false;
    }
    if (n < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || !is_hex(v, 2) || !is_hex(v + 3, 32) ||
        !is_hex(v + 36, 16) || !is_hex(v + 53, 2))
        return false;
    if (!strncmp(v, "ff", 2) || (!strncmp(v, "00", 2) && n != 55) || (n > 55 && v[55] != '-') ||
        is_zero(v + 3, 32) || is_zero(v + 36, 16))
        return false;
    t->given = true;
    snprintf(t->trace_id, sizeof(t->trace_id), "%.32s", v + 3);
    snprintf(t->parent_id, sizeof(t->parent_id), "%.16s", v + 36);
    t->sampled = strchr("13579bdf", v[54]) != NULL;
    return true;
}

void trace_read_state(struct trace_context *t, const char *v)
{
    size_t have = strlen(t->state), n = strlen(v);
    bool plain = true;
    for (size_t i = 0; i < n; i++)
        plain = plain && v[i] >= ' ' && v[i] <= '~';
    t->state_lost = t->state_lost || !plain || have + n + 1 > TRACE_STATE_MAX;
    if (t->state_lost)
        t->state[0] = 0;
    else if (n)
        snprintf(t->state + have, sizeof(t->state) - have, "%s%s", have ? "," : "", v);
}
