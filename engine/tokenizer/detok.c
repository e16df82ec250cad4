/* engine/tokenizer/detok.c - ids to text; see tokenizer.h.
 *
 * Byte-level tokens are bytes and nothing more. Where symbols are characters, a run of byte tokens
 * is text only when all of it is valid UTF-8, otherwise each byte becomes U+FFFD: so does the
 * reference implementation. A run that is longer than is kept is judged in parts, cut between characters. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/tokenizer/tokenizer_internal.h"

void detok_init(struct detok *d, const struct tokenizer *t, bool begins)
{
    d->t = t;
    d->strip = t && begins ? t->strip_left : 0;
    d->n_run = 0;
}

static int give(struct detok *d, const char *s, size_t n, struct buf *out)
{
    while (n > 0 && d->strip > 0 && *s == ' ') {
        s++;
        n--;
        d->strip--;
    }
    if (n > 0)
        d->strip = 0;
    return buf_append(out, s, n);
}

static int end_run(struct detok *d, struct buf *out)
{
    int n = d->n_run, r = 0;
    d->n_run = 0;
    if (n == 0 || utf8_valid((const char *)d->run, (size_t)n))
        return give(d, (const char *)d->run, (size_t)n, out);
    for (int i = 0; i < n && r == 0; i++)
        r = give(d, "\xef\xbf\xbd", 3, out);
    return r;
}

/* What is kept is full: the characters in it, without the beginning of one that may go on. */
static int end_part(struct detok *d, struct buf *out)
{
    size_t n = (size_t)d->n_run, whole = utf8_complete_bytes((const char *)d->run, n);
    d->n_run = (int)whole;
    int r = end_run(d, out);
    memmove(d->run, d->run + whole, n - whole);
    d->n_run = (int)(n - whole);
    return r;
}

int detok_push(struct detok *d, int32_t id, struct buf *out)
{
    const struct tokenizer *t = d->t;
    int r = 0;
    if (id < 0 || id >= t->n)
        return 0;
    const struct entry *en = &t->entries[id];
    const char *s = t->bytes + en->out_at;
    if (t->kind == VOCAB_BYTES)
        return buf_append(out, s, en->n_out_bytes);
    if (en->type != TOKEN_BYTE || en->n_out_bytes != 1) {
        r = end_run(d, out);
        return r < 0 ? r : give(d, s, en->n_out_bytes, out);
    }
    if (d->n_run == (int)sizeof(d->run))
        r = end_part(d, out);
    d->run[d->n_run++] = (unsigned char)*s;
    return r;
}

int detok_finish(struct detok *d, struct buf *out)
{
    return end_run(d, out);
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *out)
{
    struct detok d;
    struct buf raw;
    int r = 0;
    detok_init(&d, t, true);
    buf_init(&raw, out->max_bytes);
    for (size_t i = 0; i < n && r == 0; i++)
        if (!skip_special || !tokenizer_is_special(t, ids[i]))
            r = detok_push(&d, ids[i], &raw);
    if (r == 0)
        r = detok_finish(&d, &raw);
    if (r == 0)
        r = buf_reserve(out, 3 * raw.n_bytes);
    if (r == 0 && raw.n_bytes > 0) {
        out->n_bytes += utf8_sanitize(raw.data, raw.n_bytes, out->data + out->n_bytes);
        out->data[out->n_bytes] = 0;
    }
    buf_done(&raw);
    return r;
}
