/* engine/textout.c - see textout.h. What is pending is at most a stop string and a token long, so
 * plain searches do. */
#include "config.h"

#include "engine/textout.h"

#include <string.h>

#include "base/utf8.h"

#define MAX_PENDING ((size_t)1 << 20)

int textout_init(struct textout *t, const struct tokenizer *tokenizer,
                 const struct stop_string *stop, int n_stop, bool skip_special, bool include_stop,
                 bool begins)
{
    *t = (struct textout){
        .tokenizer = tokenizer, .stop = stop, .n_stop = n_stop, .skip_special = skip_special,
        .include_stop = include_stop};
    buf_init(&t->pending, MAX_PENDING);
    detok_init(&t->detok, tokenizer, begins);
    size_t room = tokenizer ? tokenizer_max_token_bytes(tokenizer) : 0;
    for (int i = 0; i < n_stop; i++)
        room = stop[i].n_bytes > room ? stop[i].n_bytes : room;
    /* and a run of byte tokens, each of which may become U+FFFD */
    return buf_reserve(&t->pending, 2 * room + 3 * sizeof(t->detok.run) + 16);
}

void textout_done(struct textout *t)
{
    buf_done(&t->pending);
}

/* Gives out the first n pending bytes, ill-formed parts replaced. */
static int emit(struct textout *t, size_t n, struct buf *out)
{
    if (n == 0)
        return 0;
    int r = buf_reserve(out, 3 * n);
    if (r < 0)
        return r;
    out->n_bytes += utf8_sanitize(t->pending.data, n, out->data + out->n_bytes);
    out->data[out->n_bytes] = 0;
    buf_consume(&t->pending, n);
    return 0;
}

/* Index of the stop string whose match begins first (then: the longest), with its place. */
static int find_stop(const struct textout *t, size_t *ret_at)
{
    int best = -1;
    size_t best_at = 0;
    for (int i = 0; i < t->n_stop; i++) {
        const char *p = memmem(t->pending.data, t->pending.n_bytes, t->stop[i].data,
                               t->stop[i].n_bytes);
        if (!p)
            continue;
        size_t at = (size_t)(p - t->pending.data);
        if (best < 0 || at < best_at ||
            (at == best_at && t->stop[i].n_bytes > t->stop[best].n_bytes)) {
            best = i;
            best_at = at;
        }
    }
    *ret_at = best_at;
    return best;
}

/* The stop string that is pending, with the text up to it given out; or -1. */
static int take_stop(struct textout *t, struct buf *out)
{
    size_t at;
    int hit = find_stop(t, &at);
    if (hit < 0)
        return -1;
    int r = emit(t, at + (t->include_stop ? t->stop[hit].n_bytes : 0), out);
    buf_reset(&t->pending);
    return r < 0 ? r : hit;
}

/* The same with the byte tokens that are held back: should they end the text here, they are its end. As long
 * as they may be the beginning of a character they are not. */
static int take_held_stop(struct textout *t, struct buf *out)
{
    size_t at, before = t->pending.n_bytes, n = (size_t)t->detok.n_run;
    if (t->n_stop == 0 || n == 0 || !utf8_valid((const char *)t->detok.run, n))
        return -1;
    struct detok ended = t->detok;
    int r = detok_finish(&ended, &t->pending);
    if (r < 0)
        return r;
    if (find_stop(t, &at) >= 0) {
        t->detok = ended;
        return take_stop(t, out);
    }
    t->pending.n_bytes = before;
    return -1;
}

/* Length of the longest end of pending that begins a stop string. */
static size_t may_become_stop(const struct textout *t)
{
    size_t longest = 0, n = t->pending.n_bytes;
    for (int i = 0; i < t->n_stop; i++) {
        size_t k = t->stop[i].n_bytes - 1;
        for (k = k < n ? k : n; k > longest; k--)
            if (!memcmp(t->pending.data + n - k, t->stop[i].data, k))
                longest = k;
    }
    return longest;
}

int textout_push(struct textout *t, int32_t token, bool check_stop, struct buf *out)
{
    int r, hit;
    if (!t->tokenizer)
        return -1;
    if (t->skip_special && tokenizer_is_special(t->tokenizer, token))
        return -1;
    if ((r = detok_push(&t->detok, token, &t->pending)) < 0)
        return r;
    if (check_stop && ((hit = take_stop(t, out)) != -1 || (hit = take_held_stop(t, out)) != -1))
        return hit;
    if (t->pending.n_bytes == 0)
        return -1;
    size_t show = t->pending.n_bytes - (check_stop ? may_become_stop(t) : 0);
    r = emit(t, utf8_complete_bytes(t->pending.data, show), out);
    return r < 0 ? r : -1;
}

int textout_finish(struct textout *t, bool check_stop, struct buf *out)
{
    int r = t->tokenizer ? detok_finish(&t->detok, &t->pending) : 0, hit;
    if (r == 0 && check_stop && (hit = take_stop(t, out)) != -1)
        return hit;
    if (r == 0)
        r = emit(t, t->pending.n_bytes, out);
    return r < 0 ? r : -1;
}
