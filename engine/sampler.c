/* engine/sampler.c - see sampler.h. Order: mask, bias, penalties, DRY, bans, temperature, top_n_sigma, top_k,
 * typical_p, top_p, min_p, XTC, draw; or mirostat after the temperature. Engine thread and pool threads; a
 * sampler is used by one at a time.
 *
 * A vocabulary has 160 k entries, and few of them matter. Whatever looks at all of them is a kernel: the
 * maxima of lanes say where the best is and bound what the k best can be; weights are made once, and sums
 * of them above a bound find the one that top_p leaves, to within some candidates that are then sorted. A
 * draw walks sums of stretches, then the values of one. */
#include "config.h"

#include "engine/sampler.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sample.h"

/* Candidates between the two bounds of top_p that are sorted instead of halved further. */
#define FEW 1024
/* Below every weight that soft_weights gives: e^-30. */
#define LEAST_WEIGHT 1e-14f

struct seen {
    int32_t token;
    uint32_t in_output;
};

struct sampler {
    const struct sampling_params *p;
    uint64_t key;
    const int32_t *tokens; /* prompt and output; borrowed */
    int n_prompt;
    struct dry *dry;           /* NULL: off */
    struct mirostat *mirostat; /* NULL: off */
    bool lists; /* samplers of sample.h are asked for */
    bool penalties;
    struct seen *seen; /* distinct tokens, as they came */
    int32_t *slots;    /* open addressing into seen, at most half full; -1: empty */
    uint32_t n_slots, n_seen;
};

struct candidate {
    float logit; /* after temperature, relative to the best */
    int32_t id;
};

struct sampler_scratch {
    const struct kernels *kern;
    int vocab_size;
    float *maxima;       /* [kern_stretches(vocab_size)][KERN_LANES] */
    float *some;         /* as long: maxima in another order */
    float *weights;      /* [vocab_size] */
    int32_t *ids;        /* [vocab_size] */
    struct candidate *c; /* [vocab_size] */
    struct sample_entry *list; /* [vocab_size] */
    float *masked;             /* [vocab_size] */
    uint32_t *mask;
    struct candidate *changed; /* logits as they were; grows */
    int n_changed, cap_changed;
};

struct sampler_scratch *sampler_scratch_new(const struct kernels *kern, int vocab_size)
{
    struct sampler_scratch *s = calloc(1, sizeof(*s));
    size_t n = (size_t)vocab_size, m = (size_t)kern_stretches(vocab_size) * KERN_LANES;
    if (!s)
        return NULL;
    s->kern = kern;
    s->vocab_size = vocab_size;
    s->maxima = malloc(2 * m * sizeof(float));
    s->weights = malloc(n * sizeof(float));
    s->ids = malloc(n * sizeof(*s->ids));
    s->c = malloc(n * sizeof(*s->c));
    s->list = malloc(n * sizeof(*s->list));
    s->masked = malloc(n * sizeof(*s->masked));
    s->mask = malloc((n / 32 + 1) * sizeof(*s->mask));
    if (!s->maxima || !s->weights || !s->ids || !s->c || !s->list || !s->masked || !s->mask) {
        sampler_scratch_free(s);
        return NULL;
    }
    s->some = s->maxima + m;
    return s;
}

void sampler_scratch_free(struct sampler_scratch *s)
{
    if (!s)
        return;
    free(s->maxima);
    free(s->weights);
    free(s->ids);
    free(s->c);
    free(s->list);
    free(s->masked);
    free(s->mask);
    free(s->changed);
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

/* The entry of a token, made when it has none. */
static struct seen *seen_entry(struct sampler *s, int32_t token)
{
    uint32_t i = (uint32_t)mix((uint64_t)token) & (s->n_slots - 1);
    for (; s->slots[i] >= 0; i = (i + 1) & (s->n_slots - 1))
        if (s->seen[s->slots[i]].token == token)
            return &s->seen[s->slots[i]];
    s->slots[i] = (int32_t)s->n_seen;
    s->seen[s->n_seen] = (struct seen){token, 0};
    return &s->seen[s->n_seen++];
}

static int new_state(struct sampler *s, int vocab_size, int most, const struct tokenizer *tokenizer)
{
    const struct sampling_params *p = s->p;
    s->lists = p->top_n_sigma > 0 || (p->typical_p > 0 && p->typical_p < 1) || p->xtc_probability > 0 ||
               p->mirostat;
    if (p->mirostat) {
        if (!(s->mirostat = malloc(sizeof(*s->mirostat))))
            return ERR_NOMEM;
        mirostat_init(s->mirostat, p->mirostat, (double)p->mirostat_tau, (double)p->mirostat_eta, vocab_size);
    }
    return p->dry_multiplier > 0 ? dry_new(p, tokenizer, most, &s->dry) : 0;
}

int sampler_new(const struct sampling_params *p, int choice, int vocab_size, const int32_t *tokens,
                int n_prompt, int room, const struct tokenizer *tokenizer, struct sampler **ret)
{
    struct sampler *s = calloc(1, sizeof(*s));
    if (!s)
        return ERR_NOMEM;
    s->p = p;
    s->key = mix(p->seed + (uint64_t)choice);
    s->tokens = tokens;
    s->n_prompt = n_prompt;
    if (new_state(s, vocab_size, n_prompt + room, tokenizer) < 0) {
        sampler_free(&s);
        return ERR_NOMEM;
    }
    s->penalties = p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
                   p->frequency_penalty != 0.0f;
    if (s->penalties) {
        int64_t n = (int64_t)n_prompt + room;
        n = n > vocab_size ? vocab_size : n;
        s->n_slots = 16;
        while (s->n_slots < 2 * n)
            s->n_slots *= 2;
        s->seen = malloc((size_t)(n + 1) * sizeof(*s->seen));
        s->slots = malloc(s->n_slots * sizeof(*s->slots));
        if (!s->seen || !s->slots) {
            sampler_free(&s);
            return ERR_NOMEM;
        }
        memset(s->slots, 0xff, s->n_slots * sizeof(*s->slots));
        for (int i = 0; p->repetition_penalty != 1.0f && i < n_prompt; i++)
            seen_entry(s, tokens[i]);
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
    free(s->slots);
    free(s->mirostat);
    dry_free(&s->dry);
    free(s);
}

void sampler_accept(struct sampler *s, int32_t token)
{
    if (s->penalties)
        seen_entry(s, token)->in_output++;
    if (s->mirostat)
        mirostat_accept(s->mirostat);
}

/* --- bias, penalties, bans ------------------------------------------------------------------------ */

static void change(struct sampler_scratch *sc, float *logits, int32_t id, float to)
{
    sc->changed[sc->n_changed++] = (struct candidate){logits[id], id};
    logits[id] = to;
}

/* The last token of each bad word whose other tokens are the last n of the text. */
static void ban_words(const struct sampler *s, struct sampler_scratch *sc, float *logits, int n)
{
    for (int i = 0; i < s->p->n_bad_words; i++) {
        const struct token_word *w = &s->p->bad_words[i];
        int before = w->n - 1;
        if (before <= n && !memcmp(s->tokens + n - before, w->ids, (size_t)before * sizeof(*w->ids)))
            change(sc, logits, w->ids[before], -INFINITY);
    }
}

static void ban_all_but(const struct sampling_params *p, struct sampler_scratch *sc, float *logits)
{
    for (int id = 0, i = 0; id < sc->vocab_size; id++) {
        while (i < p->n_allowed && p->allowed[i] < id)
            i++;
        if (i == p->n_allowed || p->allowed[i] != id)
            change(sc, logits, id, -INFINITY);
    }
}

static int change_logits(const struct sampler *s, struct sampler_scratch *sc, float *logits,
                         const int32_t *banned, int n_banned, int index)
{
    const struct sampling_params *p = s->p;
    const struct dry_loss *loss = NULL;
    int n_losses = s->dry ? dry_losses(s->dry, s->tokens, s->n_prompt + index, &loss) : 0;
    int most = p->n_logit_bias + (int)s->n_seen + n_losses + p->n_bad_words +
               (p->n_allowed ? sc->vocab_size : 0) + n_banned;
    sc->n_changed = 0;
    if (most > sc->cap_changed) {
        struct candidate *c = realloc(sc->changed, 2 * (size_t)most * sizeof(*c));
        if (!c)
            return ERR_NOMEM;
        sc->changed = c;
        sc->cap_changed = 2 * most;
    }
    for (int i = 0; i < p->n_logit_bias; i++)
        change(sc, logits, p->logit_bias[i].token_id,
               logits[p->logit_bias[i].token_id] + p->logit_bias[i].bias);
    for (uint32_t i = 0; i < s->n_seen; i++) {
        const struct seen *at = &s->seen[i];
        float l = logits[at->token];
        l = l > 0.0f ? l / p->repetition_penalty : l * p->repetition_penalty;
        if (at->in_output)
            l -= p->presence_penalty + p->frequency_penalty * (float)at->in_output;
        change(sc, logits, at->token, l);
    }
    for (int i = 0; i < n_losses; i++)
        change(sc, logits, loss[i].token, logits[loss[i].token] - loss[i].loss);
    if (p->n_allowed)
        ban_all_but(p, sc, logits);
    ban_words(s, sc, logits, s->n_prompt + index);
    for (int i = 0; i < n_banned; i++)
        if (banned[i] >= 0 && banned[i] < sc->vocab_size)
            change(sc, logits, banned[i], -INFINITY);
    return 0;
}

static void restore_logits(struct sampler_scratch *sc, float *logits)
{
    while (sc->n_changed > 0) { /* the last change first: a token may have had several */
        const struct candidate *c = &sc->changed[--sc->n_changed];
        logits[c->id] = c->logit;
    }
}

/* --- the best ------------------------------------------------------------------------------------- */

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

static void make_heap(struct candidate *c, int n)
{
    for (int i = n / 2 - 1; i >= 0; i--)
        sift(c, n, i);
}

/* Moves the best of a heap of n, of which `taken` are gone already, in front of those. */
static struct candidate take_one(struct candidate *c, int n, int taken)
{
    struct candidate best = c[0];
    int last = n - 1 - taken;
    c[0] = c[last];
    c[last] = best;
    sift(c, last, 0);
    return best;
}

/* Moves the k best candidates to the end of c, best last; returns how many. Building the heap is linear, and
 * few are usually taken. */
static int take_best(struct candidate *c, int n, int k)
{
    int taken = 0;
    make_heap(c, n);
    for (; taken < k && taken < n; taken++)
        take_one(c, n, taken);
    return taken;
}

/* The largest logit and the first token that has it, by the maxima of lanes. */
static int best_token(const struct sampler_scratch *sc, const float *logits)
{
    int lanes = kern_stretches(sc->vocab_size) * KERN_LANES, at = 0;
    for (int i = 1; i < lanes; i++)
        if (sc->maxima[i] > sc->maxima[at])
            at = i;
    int i = at / KERN_LANES * KERN_STRETCH;
    while (i < sc->vocab_size - 1 && !(logits[i] == sc->maxima[at]))
        i++;
    return i;
}

/* Moves the k-th largest of n values to the front of those that follow it and returns it. */
static float kth_largest(float *v, int n, int k)
{
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = v[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (v[i] > pivot)
                i++;
            while (v[j] < pivot)
                j--;
            if (i <= j) {
                float t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        if (k - 1 <= j)
            hi = j;
        else if (k - 1 >= i)
            lo = i;
        else
            break;
    }
    return v[k - 1];
}

/* All tokens that may be among the k best, as indices: k lanes have a value that is at least the k-th
 * largest of the maxima. */
static int collect_best(struct sampler_scratch *sc, const float *logits, int k)
{
    int lanes = kern_stretches(sc->vocab_size) * KERN_LANES;
    float least = -INFINITY;
    if (k <= lanes) {
        memcpy(sc->some, sc->maxima, (size_t)lanes * sizeof(float));
        least = kth_largest(sc->some, lanes, k);
    }
    return sc->kern->collect(logits, sc->vocab_size, least, INFINITY, sc->ids);
}

/* --- drawing -------------------------------------------------------------------------------------- */

/* One of n candidates, best last. */
static int32_t draw_few(const struct sampler *s, const struct candidate *c, int n, int index)
{
    const struct sampling_params *p = s->p;
    double sum = 0, least = p->min_p > 0.0f ? log((double)p->min_p) : -INFINITY, part = 0;
    int first = 0;
    if (p->top_p < 1.0f) {
        double total = 0;
        for (int i = 0; i < n; i++)
            total += exp((double)c[i].logit);
        first = n;
        while (first > 0 && (first == n || part < total * (double)p->top_p))
            part += exp((double)c[--first].logit);
    }
    while (first < n - 1 && (double)c[first].logit < least) /* relative to the best, whose logit is 0 */
        first++;
    for (int i = first; i < n; i++)
        sum += exp((double)c[i].logit);
    double u = uniform(s->key, index) * sum;
    for (int i = first; i < n; i++) {
        u -= exp((double)c[i].logit);
        if (u < 0)
            return c[i].id;
    }
    return c[n - 1].id;
}

static int32_t pick_top_k(const struct sampler *s, struct sampler_scratch *sc, const float *logits,
                          float top, float scale, int index)
{
    int n = 0, m = collect_best(sc, logits, s->p->top_k);
    for (int i = 0; i < m; i++) {
        float l = (logits[sc->ids[i]] - top) * scale;
        if (l > -KERN_SOFT_NATS)
            sc->c[n++] = (struct candidate){l, sc->ids[i]};
    }
    int k = take_best(sc->c, n, s->p->top_k);
    return k ? draw_few(s, sc->c + (n - k), k, index) : -1;
}

/* What top_p leaves: weights from the returned bound on, those of others set to 0. The bound is narrowed,
 * about in proportion to the sums at both ends, until few weights lie between too little and enough. */
static float cut_top_p(struct sampler_scratch *sc, float top_p)
{
    const struct kernels *k = sc->kern;
    int vocab = sc->vocab_size, n_enough, n_short = 0, n;
    double sum = (double)k->sum_from(sc->weights, vocab, LEAST_WEIGHT, &n_enough);
    double target = sum * (double)top_p, mass = 0;
    /* All that is below it cannot be as much as may be left out. */
    float enough = (float)((sum - target) / vocab * 0.99), too_high = 2.0f, next;
    enough = enough > LEAST_WEIGHT ? enough : LEAST_WEIGHT;
    while (n_enough - n_short > FEW) {
        double part = (sum - target) / (sum - mass);
        part = part < 0.25 ? 0.25 : part > 0.75 ? 0.75 : part;
        next = enough * powf(too_high / enough, (float)part);
        if (!(next > enough && next < too_high)) {
            next = sqrtf(enough * too_high);
            if (!(next > enough && next < too_high))
                break;
        }
        double from = (double)k->sum_from(sc->weights, vocab, next, &n);
        if (from >= target) {
            enough = next;
            n_enough = n;
            sum = from;
        } else {
            too_high = next;
            n_short = n;
            mass = from;
        }
    }
    int m = k->collect(sc->weights, vocab, enough, too_high, sc->ids);
    bool equal = m > FEW; /* no bound between them: the lower ids go first */
    for (int i = 0; i < m; i++)
        sc->c[i] = (struct candidate){sc->weights[sc->ids[i]], sc->ids[i]};
    if (equal) {
        int kept = 0;
        for (; kept < m && (mass < target || kept + n_short == 0); kept++)
            mass += (double)sc->c[kept].logit;
        for (; kept < m; kept++)
            sc->weights[sc->c[kept].id] = 0.0f;
        return enough;
    }
    make_heap(sc->c, m);
    int kept = 0;
    while (kept < m && (mass < target || kept + n_short == 0))
        mass += (double)take_one(sc->c, m, kept++).logit;
    for (int i = 0; i < m - kept; i++)
        sc->weights[sc->c[i].id] = 0.0f;
    return enough;
}

static int32_t pick_of_all(const struct sampler *s, struct sampler_scratch *sc, const float *logits,
                           float top, float scale, int index)
{
    const struct sampling_params *p = s->p;
    const struct kernels *k = sc->kern;
    int vocab = sc->vocab_size, n, last = -1;
    k->soft_weights(logits, vocab, top, scale, sc->weights);
    float least = p->top_p < 1.0f ? cut_top_p(sc, p->top_p) : LEAST_WEIGHT;
    least = p->min_p > least ? p->min_p : least;
    double sum = 0;
    for (int i = 0, b = 0; i < vocab; i += KERN_STRETCH, b++) {
        int len = vocab - i < KERN_STRETCH ? vocab - i : KERN_STRETCH;
        sc->some[b] = k->sum_from(sc->weights + i, len, least, &n);
        sum += (double)sc->some[b];
    }
    double u = uniform(s->key, index) * sum;
    int b = 0, blocks = kern_stretches(vocab);
    for (int i = 0; i < blocks; i++) { /* the last one with anything when rounding leaves some of u */
        if (!(sc->some[i] > 0.0f))
            continue;
        b = i;
        if (u < (double)sc->some[i])
            break;
        u -= (double)sc->some[i];
    }
    int end = (b + 1) * KERN_STRETCH < vocab ? (b + 1) * KERN_STRETCH : vocab;
    for (int i = b * KERN_STRETCH; i < end; i++) {
        if (!(sc->weights[i] >= least))
            continue;
        last = i;
        u -= (double)sc->weights[i];
        if (u < 0)
            break;
    }
    return last;
}

/* Another draw at the same index that has nothing to do with the first. */
#define SECOND_DRAW 0x5851f42d4c957f2dull

/* With samplers that work on lists. Few choices ask for them, so plain walks do. */
static int32_t pick_of_list(const struct sampler *s, struct sampler_scratch *sc, const float *logits,
                            float top, float scale, int index)
{
    const struct sampling_params *p = s->p;
    struct sample_list l = {sc->list, 0};
    double u = uniform(s->key, index), sigma = -INFINITY;
    sc->kern->soft_weights(logits, sc->vocab_size, top, scale, sc->weights);
    if (p->top_n_sigma > 0 && !s->mirostat)
        sigma = sample_sigma_bound(logits, sc->vocab_size, (double)p->top_n_sigma);
    for (int i = 0; i < sc->vocab_size; i++)
        if (sc->weights[i] >= LEAST_WEIGHT && (double)logits[i] >= sigma)
            l.e[l.n++] = (struct sample_entry){(double)sc->weights[i], logits[i], i};
    if (l.n == 0)
        return -1;
    if (s->mirostat)
        return l.e[mirostat_choose(s->mirostat, &l, u)].id;
    if (p->top_k > 0 && p->top_k < l.n)
        sample_take(&l, p->top_k, INFINITY);
    if (p->typical_p > 0 && p->typical_p < 1)
        sample_typical(&l, (double)p->typical_p);
    sample_key_weights(&l);
    if (p->top_p < 1)
        sample_take(&l, l.n, (double)p->top_p * sample_sum(&l));
    if (p->min_p > 0) {
        double best = 0;
        int n = 0;
        for (int i = 0; i < l.n; i++)
            best = l.e[i].p > best ? l.e[i].p : best;
        for (int i = 0; i < l.n; i++)
            if (l.e[i].p >= best * (double)p->min_p)
                l.e[n++] = l.e[i];
        l.n = n;
    }
    if (p->xtc_probability > 0 && uniform(s->key ^ SECOND_DRAW, index) < (double)p->xtc_probability)
        sample_xtc(&l, (double)p->xtc_threshold);
    return l.e[sample_at(&l, u)].id;
}

static int choose(const struct sampler *s, struct sampler_scratch *sc, const float *logits, int index,
                  int32_t *ret_token)
{
    int best = best_token(sc, logits);
    float top = logits[best], scale = 1.0f / s->p->temperature;
    int32_t id = -1;
    if (top == -INFINITY) /* logits are finite: what may be chosen does not meet what else is asked for */
        return ERR_LIMIT;
    if (s->p->temperature > 0.0f && s->lists)
        id = pick_of_list(s, sc, logits, top, scale, index);
    else if (s->p->temperature > 0.0f && s->p->top_k > 0 && s->p->top_k < sc->vocab_size)
        id = pick_top_k(s, sc, logits, top, scale, index);
    else if (s->p->temperature > 0.0f)
        id = pick_of_all(s, sc, logits, top, scale, index);
    /* none: greedy, or a temperature so low that differences overflow */
    *ret_token = id >= 0 ? id : best;
    return 0;
}

uint32_t *sampler_scratch_mask(struct sampler_scratch *s)
{
    return s->mask;
}

/* The maxima of lanes are those of logits. */
static int pick(const struct sampler *s, struct sampler_scratch *sc, float *logits, const int32_t *banned,
                int n_banned, int index, int32_t *ret_token)
{
    int r = change_logits(s, sc, logits, banned, n_banned, index);
    if (r < 0)
        return r;
    if (sc->n_changed)
        sc->kern->lane_max(logits, sc->vocab_size, sc->maxima);
    r = choose(s, sc, logits, index, ret_token);
    restore_logits(sc, logits);
    return r;
}

int sampler_pick(const struct sampler *s, struct sampler_scratch *sc, float *logits,
                 const int32_t *banned, int n_banned, int index, int32_t *ret_token)
{
    if (!sc->kern->lane_max(logits, sc->vocab_size, sc->maxima))
        return ERR_INTERNAL;
    return pick(s, sc, logits, banned, n_banned, index, ret_token);
}

/* Into sc->masked: most words of a mask are all or nothing. */
static void apply_mask(struct sampler_scratch *sc, const float *logits, const uint32_t *mask)
{
    for (int i = 0; i < sc->vocab_size; i += 32) {
        uint32_t w = mask[i / 32];
        int n = sc->vocab_size - i < 32 ? sc->vocab_size - i : 32;
        float *to = sc->masked + i;
        if (w == UINT32_MAX) {
            memcpy(to, logits + i, (size_t)n * sizeof(*to));
            continue;
        }
        for (int k = 0; k < n; k++)
            to[k] = -INFINITY;
        for (; w; w &= w - 1)
            if (i + __builtin_ctz(w) < sc->vocab_size)
                to[__builtin_ctz(w)] = logits[i + __builtin_ctz(w)];
    }
}

int sampler_pick_masked(const struct sampler *s, struct sampler_scratch *sc, const float *logits,
                        const uint32_t *mask, const int32_t *banned, int n_banned, int index,
                        int32_t *ret_token)
{
    if (!sc->kern->lane_max(logits, sc->vocab_size, sc->maxima))
        return ERR_INTERNAL;
    apply_mask(sc, logits, mask);
    sc->kern->lane_max(sc->masked, sc->vocab_size, sc->maxima);
    return pick(s, sc, sc->masked, banned, n_banned, index, ret_token);
}

int logprobs_top(struct sampler_scratch *sc, const float *logits, float logsumexp, int k,
                 struct token_logprob *ret)
{
    k = k < sc->vocab_size ? k : sc->vocab_size;
    if (k <= 0)
        return 0;
    sc->kern->lane_max(logits, sc->vocab_size, sc->maxima);
    int m = collect_best(sc, logits, k), n = 0;
    for (int i = 0; i < m; i++) {
        float l = logits[sc->ids[i]]; /* compared as such: differences may round to the same */
        if (n == k && l <= logits[ret[n - 1].token_id])
            continue;
        int at = n < k ? n++ : n - 1;
        for (; at > 0 && logits[ret[at - 1].token_id] < l; at--)
            ret[at] = ret[at - 1];
        ret[at] = (struct token_logprob){sc->ids[i], l - logsumexp, 0};
    }
    for (int i = 0; i < n; i++)
        ret[i].rank = i + 1;
    return n;
}

int logprobs_rank(const struct sampler_scratch *sc, const float *logits, int32_t token)
{
    int n;
    sc->kern->sum_from(logits, sc->vocab_size, nextafterf(logits[token], INFINITY), &n);
    return 1 + n;
}
