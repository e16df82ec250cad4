/* engine/sampler.c - see sampler.h. Order: bias, penalties, bans, temperature, top_k, top_p, min_p,
 * draw. Engine thread and pool threads; a sampler is used by one at a time. */
#include "config.h"

#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Tokens that are e^-30 (10^-13) as likely as the best are not candidates: together they could not
 * reach one draw in a million even over the largest vocabulary. */
#define CUT_NATS 30.0f

struct seen {
    int32_t token; /* -1: empty */
    uint32_t in_output;
};

struct sampler {
    const struct sampling_params *p;
    uint64_t key;
    bool penalties;
    struct seen *seen; /* open addressing, at most half full */
    uint32_t n_seen_slots;
};

struct candidate {
    float logit; /* after temperature, relative to the best */
    int32_t id;
};

struct sampler_scratch {
    int vocab_size;
    struct candidate c[];
};

struct sampler_scratch *sampler_scratch_new(int vocab_size)
{
    struct sampler_scratch *s =
        malloc(sizeof(*s) + (size_t)vocab_size * sizeof(struct candidate));
    if (s)
        s->vocab_size = vocab_size;
    return s;
}

void sampler_scratch_free(struct sampler_scratch *s)
{
    free(s);
}

/* splitmix64 finaliser (Steele et al.): every input bit moves every output bit. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Uniform in [0, 1) for output token `index`: a function of key and index, not a stream. */
static double uniform(uint64_t key, int index)
{
    return (double)(mix(key ^ mix((uint64_t)index)) >> 11) * 0x1p-53;
}

static struct seen *seen_slot(const struct sampler *s, int32_t token)
{
    uint32_t i = (uint32_t)mix((uint64_t)token) & (s->n_seen_slots - 1);
    while (s->seen[i].token >= 0 && s->seen[i].token != token)
        i = (i + 1) & (s->n_seen_slots - 1);
    return &s->seen[i];
}

int sampler_new(const struct sampling_params *p, int choice, int vocab_size, const int32_t *prompt,
                int n_prompt, int room, struct sampler **ret)
{
    struct sampler *s = calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    s->p = p;
    s->key = mix(p->seed + (uint64_t)choice);
    s->penalties = p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
                   p->frequency_penalty != 0.0f;
    if (s->penalties) {
        int64_t n = (int64_t)n_prompt + room;
        n = n > vocab_size ? vocab_size : n;
        s->n_seen_slots = 16;
        while (s->n_seen_slots < 2 * n)
            s->n_seen_slots *= 2;
        s->seen = malloc(s->n_seen_slots * sizeof(*s->seen));
        if (!s->seen) {
            free(s);
            return ERR_NOMEM;
        }
        for (uint32_t i = 0; i < s->n_seen_slots; i++)
            s->seen[i] = (struct seen){-1, 0};
        for (int i = 0; p->repetition_penalty != 1.0f && i < n_prompt; i++)
            seen_slot(s, prompt[i])->token = prompt[i];
    }
    *ret = s;
    return 0;
}

void sampler_free(struct sampler **sp)
{
    struct sampler *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    free(s->seen);
    free(s);
}

void sampler_accept(struct sampler *s, int32_t token)
{
    if (!s->penalties)
        return;
    struct seen *at = seen_slot(s, token);
    at->token = token;
    at->in_output++;
}

static void penalize(const struct sampler *s, float *logits)
{
    const struct sampling_params *p = s->p;
    for (int i = 0; i < p->n_logit_bias; i++)
        logits[p->logit_bias[i].token_id] += p->logit_bias[i].bias;
    if (!s->penalties)
        return;
    for (uint32_t i = 0; i < s->n_seen_slots; i++) {
        const struct seen *at = &s->seen[i];
        if (at->token < 0)
            continue;
        float *l = &logits[at->token];
        *l = *l > 0.0f ? *l / p->repetition_penalty : *l * p->repetition_penalty;
        if (at->in_output)
            *l -= p->presence_penalty + p->frequency_penalty * (float)at->in_output;
    }
}

/* a is the better candidate; ties go to the lower id, so that the order is total. */
static bool better(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift(struct candidate *h, int n, int i)
{
    struct candidate x = h[i];
    for (int k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && better(&h[k + 1], &h[k]))
            k++;
        if (!better(&h[k], &x))
            break;
        h[i] = h[k];
    }
    h[i] = x;
}

/* Moves the best candidates to the end of c, best last, until `enough` says stop; returns how many.
 * Building the heap is linear, and few are usually taken. */
static int take_best(struct candidate *c, int n, int most, double mass)
{
    int taken = 0;
    double sum = 0;
    for (int i = n / 2 - 1; i >= 0; i--)
        sift(c, n, i);
    while (taken < most && taken < n) {
        struct candidate best = c[0];
        int last = n - 1 - taken;
        c[0] = c[last];
        c[last] = best;
        sift(c, last, 0);
        taken++;
        sum += exp((double)best.logit);
        if (sum >= mass)
            break;
    }
    return taken;
}

static int32_t draw(const struct sampler *s, struct candidate *c, int n, int index)
{
    const struct sampling_params *p = s->p;
    if (p->top_k > 0 && p->top_k < n) {
        int k = take_best(c, n, p->top_k, INFINITY);
        c += n - k;
        n = k;
    }
    if (p->top_p < 1.0f) {
        double total = 0;
        for (int i = 0; i < n; i++)
            total += exp((double)c[i].logit);
        int k = take_best(c, n, n, total * (double)p->top_p);
        c += n - k;
        n = k;
    }
    double sum = 0, least = p->min_p > 0.0f ? log((double)p->min_p) : -INFINITY;
    int kept = 0;
    for (int i = 0; i < n; i++)
        if ((double)c[i].logit >= least) { /* relative to the best, whose logit is 0 */
            c[kept++] = c[i];
            sum += exp((double)c[i].logit);
        }
    double u = uniform(s->key, index) * sum;
    for (int i = 0; i < kept; i++) {
        u -= exp((double)c[i].logit);
        if (u < 0)
            return c[i].id;
    }
    return c[kept - 1].id;
}

int sampler_pick(const struct sampler *s, struct sampler_scratch *scratch, float *logits,
                 const int32_t *banned, int n_banned, int index, int32_t *ret_token)
{
    int vocab = scratch->vocab_size, n = 0;
    bool finite = true;
    for (int i = 0; i < vocab; i++)
        finite &= fabsf(logits[i]) <= 3.0e38f;
    if (!finite)
        return ERR_INTERNAL;
    penalize(s, logits);
    for (int i = 0; i < n_banned; i++)
        if (banned[i] >= 0 && banned[i] < vocab)
            logits[banned[i]] = -INFINITY;
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    if (logits[best] == -INFINITY)
        return ERR_INTERNAL;
    if (s->p->temperature <= 0.0f) {
        *ret_token = best;
        return 0;
    }
    float scale = 1.0f / s->p->temperature, top = logits[best];
    for (int i = 0; i < vocab; i++) {
        float l = (logits[i] - top) * scale;
        if (l > -CUT_NATS)
            scratch->c[n++] = (struct candidate){l, i};
    }
    if (n == 0) /* a temperature so low that differences overflow */
        *ret_token = best;
    else
        *ret_token = draw(s, scratch->c, n, index);
    return 0;
}

int logprobs_top(const float *logits, int vocab_size, float logsumexp, int k,
                 struct token_logprob *ret)
{
    int n = 0;
    for (int i = 0; i < vocab_size && k > 0; i++) {
        float lp = logits[i] - logsumexp;
        if (n == k && lp <= ret[n - 1].logprob)
            continue;
        int at = n < k ? n++ : n - 1;
        for (; at > 0 && ret[at - 1].logprob < lp; at--)
            ret[at] = ret[at - 1];
        ret[at] = (struct token_logprob){i, lp, 0};
    }
    for (int i = 0; i < n; i++)
        ret[i].rank = i + 1;
    return n;
}

int logprobs_rank(const float *logits, int vocab_size, int32_t token)
{
    int rank = 1;
    for (int i = 0; i < vocab_size; i++)
        rank += logits[i] > logits[token];
    return rank;
}
