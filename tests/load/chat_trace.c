/* tests/load/chat_trace.c - requests of conversations, made from a seed. First when each request comes, then,
 * in that order, what it says. Lengths are spread evenly over their logarithm: many short, few long. */
#include "config.h"

#include "tests/load/chat_trace.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW 16384 /* tokens of a prompt and its answer at most */
#define VOCAB 32000

struct conversation {
    int32_t *tokens; /* [WINDOW]: the last prompt and its answer */
    uint32_t n, n_prompt, n_system;
    bool begun;
};

static uint64_t rng;

static uint64_t bits(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng * 0x2545f4914f6cdd1dull;
}

static double between(double low, double high)
{
    return low + (high - low) * ((double)(bits() >> 11) / 9007199254740992.0);
}

static uint32_t length(double low, double high)
{
    return (uint32_t)exp(between(log(low), log(high)));
}

static bool one_in(double n)
{
    return between(0, n) < 1;
}

static void *need(void *p)
{
    if (!p)
        abort();
    return p;
}

static void say(int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(bits() % VOCAB);
}

static int by_time(const void *a, const void *b)
{
    const struct chat_request *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Who comes when. */
static void plan(struct chat_trace *t, const struct chat_shape *s)
{
    int n_turns = s->n_requests - s->n_one_off, at = 0;
    double *share = need(calloc((size_t)s->n_conversations, sizeof(*share))), sum = 0;
    for (int c = 0; c < s->n_conversations; c++)
        sum += share[c] = 0.3 - log(between(1e-9, 1));
    double upto = 0;
    for (int c = 0; c < s->n_conversations; c++) {
        upto += share[c] / sum;
        int end = c + 1 == s->n_conversations ? n_turns : (int)(upto * n_turns);
        double begin = between(0, 0.8);
        for (int left = end - at; left > 0;) { /* a sitting */
            double span = s->sitting * between(0.3, 1.7);
            int turns = one_in(3) ? (left + 1) / 2 : left;
            for (int i = 0; i < turns; i++)
                t->requests[at++] = (struct chat_request){.at = begin + between(0, span), .conversation = c};
            begin += span + between(0.05, 0.3);
            left -= turns;
        }
    }
    while (at < s->n_requests)
        t->requests[at++] = (struct chat_request){.at = between(0, 1), .conversation = -1};
    free(share);
    qsort(t->requests, (size_t)t->n, sizeof(*t->requests), by_time);
}

static void turn(struct conversation *c, const int32_t *system, uint32_t n_system)
{
    if (!c->begun) {
        c->tokens = need(malloc(WINDOW * sizeof(*c->tokens)));
        memcpy(c->tokens, system, n_system * sizeof(*system));
        c->n = c->n_system = n_system;
        c->begun = true;
    } else if (one_in(16)) {
        c->n = c->n_prompt; /* the same again, for another answer */
        return;
    }
    uint32_t n = one_in(12) ? length(300, 1500) : length(8, 150);
    if (c->n + n + 400 > WINDOW) { /* the oldest half of what was said is dropped */
        uint32_t keep = (c->n - c->n_system) / 2;
        memmove(c->tokens + c->n_system, c->tokens + c->n - keep, keep * sizeof(*c->tokens));
        c->n = c->n_system + keep;
    }
    say(c->tokens + c->n, n);
    c->n += n;
    c->n_prompt = c->n;
}

void chat_trace_make(struct chat_trace *t, const struct chat_shape *s)
{
    int32_t *system = need(malloc((size_t)s->n_systems * 2048 * sizeof(*system)));
    uint32_t *n_system = need(calloc((size_t)s->n_systems, sizeof(*n_system)));
    struct conversation *all = need(calloc((size_t)s->n_conversations, sizeof(*all)));
    rng = s->seed * 0x9e3779b97f4a7c15ull + 1;
    t->n = s->n_requests;
    t->requests = need(calloc((size_t)t->n, sizeof(*t->requests)));
    plan(t, s);
    for (int i = 0; i < s->n_systems; i++) {
        n_system[i] = length(150, 2000);
        say(system + (size_t)i * 2048, n_system[i]);
    }
    for (int i = 0; i < t->n; i++) {
        struct chat_request *r = &t->requests[i];
        struct conversation once = {0}, *c = r->conversation < 0 ? &once : &all[r->conversation];
        int which = (int)(s->n_systems * pow(between(0, 1), 2)); /* some are more popular */
        turn(c, system + (size_t)which * 2048, c == &once && one_in(2) ? 0 : n_system[which]);
        if (c == &once) {
            uint32_t n = length(1500, 8000);
            say(c->tokens + c->n, n);
            c->n_prompt = c->n += n;
        }
        uint32_t n_answer = length(20, 400);
        say(c->tokens + c->n, n_answer);
        c->n += n_answer;
        r->n_prompt = c->n_prompt;
        r->n_tokens = c->n;
        r->tokens = need(malloc(c->n * sizeof(*r->tokens)));
        memcpy(r->tokens, c->tokens, c->n * sizeof(*r->tokens));
        free(once.tokens);
    }
    for (int i = 0; i < s->n_conversations; i++)
        free(all[i].tokens);
    free(all);
    free(n_system);
    free(system);
}

void chat_trace_free(struct chat_trace *t)
{
    for (int i = 0; i < t->n; i++)
        free(t->requests[i].tokens);
    free(t->requests);
    *t = (struct chat_trace){0};
}
