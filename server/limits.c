/* server/limits.c - see limits.h. */
#include "config.h"

#include "server/limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define USES_MAX (2 * KEYS_MAX) /* names of all reloads together; beyond it keys share one use's metrics */

struct limits {
    struct metrics *metrics;
    struct key_use *first;
    int n;
};

double bucket_level(struct bucket *b, long long per_minute, int64_t now_ns)
{
    double size = (double)per_minute;
    if (!b->used) {
        *b = (struct bucket){size, now_ns, true};
    } else if (now_ns > b->at_ns) {
        b->level += size * ((double)(now_ns - b->at_ns) / (60.0 * NS_PER_SEC));
        b->at_ns = now_ns;
    }
    b->level = b->level > size ? size : b->level;
    return b->level;
}

int bucket_wait_s(struct bucket *b, long long per_minute, double want, int64_t now_ns)
{
    double missing = want - bucket_level(b, per_minute, now_ns);
    double seconds = ceil(missing * 60 / (double)per_minute);
    return seconds < 1 ? 1 : seconds > 86400 ? 86400 : (int)seconds;
}

struct limits *limits_new(struct metrics *m)
{
    struct limits *l = calloc(1, sizeof(*l));
    if (l)
        l->metrics = m;
    return l;
}

void limits_free(struct limits **lp)
{
    struct limits *l = *lp;
    *lp = NULL;
    for (struct key_use *u = l ? l->first : NULL, *next; u; u = next) {
        next = u->next;
        free(u);
    }
    free(l);
}

static void add_metrics(struct limits *l, struct key_use *u)
{
    char label[KEY_NAME_MAX + 40];
    snprintf(label, sizeof(label), "key=\"%s\"", u->name);
    u->m_requests = metrics_counter(l->metrics, "latentd_key_requests_total",
                                    "Requests let in, by API key.", label);
    u->m_refused = metrics_counter(l->metrics, "latentd_key_limited_total",
                                   "Requests refused by a limit of the API key.", label);
    u->m_running = metrics_gauge(l->metrics, "latentd_key_requests_running",
                                 "Requests under way, by API key.", label);
    snprintf(label, sizeof(label), "key=\"%s\",kind=\"prompt\"", u->name);
    u->m_prompt = metrics_counter(l->metrics, "latentd_key_tokens_total", "Tokens, by API key.", label);
    snprintf(label, sizeof(label), "key=\"%s\",kind=\"completion\"", u->name);
    u->m_completion = metrics_counter(l->metrics, "latentd_key_tokens_total", "Tokens, by API key.", label);
}

static struct key_use *use_of(struct limits *l, const char *name)
{
    struct key_use *u;
    for (u = l->first; u; u = u->next)
        if (!strcmp(u->name, name))
            return u;
    if (!(u = calloc(1, sizeof(*u))))
        return NULL;
    snprintf(u->name, sizeof(u->name), "%s", name);
    if (l->n++ < USES_MAX) /* the registry keeps series for ever: renamed keys must not fill it */
        add_metrics(l, u);
    u->next = l->first;
    l->first = u;
    return u;
}

int limits_bind(struct limits *l, struct keyring *r, struct err *e)
{
    for (int i = 0; i < r->n; i++) {
        r->keys[i].use = use_of(l, r->keys[i].name);
        if (!r->keys[i].use)
            return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

static int limited(const struct api_key *k, int seconds)
{
    metric_add(k->use->m_refused, 1);
    return seconds;
}

int limits_begin(const struct api_key *k, bool generates, int64_t now_ns, struct err *e)
{
    struct key_use *u = k->use;
    if (generates && k->concurrent && u->running >= k->concurrent) {
        err_set(e, ERR_BUSY, "%d requests of this key are running, and it may have %d", u->running,
                k->concurrent);
        return limited(k, 1);
    }
    if (k->requests_per_minute && bucket_level(&u->requests, k->requests_per_minute, now_ns) < 1) {
        err_set(e, ERR_BUSY, "this key may send %lld requests a minute", k->requests_per_minute);
        return limited(k, bucket_wait_s(&u->requests, k->requests_per_minute, 1, now_ns));
    }
    /* tokens that were used up already: told before the body is looked at */
    if (generates && k->tokens_per_minute && bucket_level(&u->tokens, k->tokens_per_minute, now_ns) < 1) {
        err_set(e, ERR_BUSY, "this key may use %lld tokens a minute, and has", k->tokens_per_minute);
        return limited(k, bucket_wait_s(&u->tokens, k->tokens_per_minute, 1, now_ns));
    }
    if (k->requests_per_minute)
        u->requests.level -= 1;
    u->running++;
    metric_add(u->m_requests, 1);
    metric_set(u->m_running, u->running);
    return 0;
}

int limits_take_prompt(const struct api_key *k, long long n_tokens, int64_t now_ns, struct err *e)
{
    struct key_use *u = k->use;
    double want = (double)(n_tokens < k->tokens_per_minute ? n_tokens : k->tokens_per_minute);
    if (k->tokens_per_minute && bucket_level(&u->tokens, k->tokens_per_minute, now_ns) < want) {
        err_set(e, ERR_BUSY,
                "the prompt has %lld tokens; this key may use %lld a minute, of which %.0f are left",
                n_tokens, k->tokens_per_minute, floor(u->tokens.level > 0 ? u->tokens.level : 0));
        return limited(k, bucket_wait_s(&u->tokens, k->tokens_per_minute, want, now_ns));
    }
    if (k->tokens_per_minute)
        u->tokens.level -= (double)n_tokens;
    return 0;
}

void limits_end(const struct api_key *k, long long prompt_tokens, long long completion_tokens, bool refused,
                int64_t now_ns)
{
    struct key_use *u = k->use;
    metric_set(u->m_running, --u->running);
    if (!refused) {
        metric_add(u->m_prompt, (double)prompt_tokens);
        metric_add(u->m_completion, (double)completion_tokens);
    }
    if (k->tokens_per_minute) {
        bucket_level(&u->tokens, k->tokens_per_minute, now_ns);
        u->tokens.level += refused ? (double)prompt_tokens : -(double)completion_tokens;
    }
}
