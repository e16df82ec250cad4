/* engine/sample_dry.c - DRY ("don't repeat yourself"). Where the end of the text stood before, the token
 * that followed there would make the repetition longer; it loses multiplier * base^(length -
 * allowed_length), for the longest such repetition. A token whose bytes hold a sequence breaker ends
 * repetitions and is never punished.
 *
 * Lengths of all earlier occurrences of the end come from one walk (Gusfield's Z function over the reversed
 * text), linear in the window. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sample.h"

#define MOST_LOSS 1000.0 /* more than logits differ, and no infinity */

struct dry {
    const struct sampling_params *p;
    const struct tokenizer *tokenizer;
    int *z; /* [most] */
    struct dry_loss *losses; /* [most] */
};

int dry_new(const struct sampling_params *p, const struct tokenizer *tokenizer, int most, struct dry **ret)
{
    struct dry *d = calloc(1, sizeof(*d));
    if (!d)
        return ERR_NOMEM;
    d->p = p;
    d->tokenizer = tokenizer;
    d->z = malloc(((size_t)most + 1) * sizeof(*d->z));
    d->losses = malloc(((size_t)most + 1) * sizeof(*d->losses));
    if (!d->z || !d->losses)
        dry_free(&d);
    *ret = d;
    return d ? 0 : ERR_NOMEM;
}

void dry_free(struct dry **dp)
{
    struct dry *d = *dp;
    *dp = NULL;
    if (!d)
        return;
    free(d->z);
    free(d->losses);
    free(d);
}

static bool breaks(const struct dry *d, int32_t token)
{
    size_t n = 0;
    const char *s = d->tokenizer ? tokenizer_token_bytes(d->tokenizer, token, &n) : "";
    for (int i = 0; i < d->p->n_dry_breakers; i++)
        if (memmem(s, n, d->p->dry_breakers[i].data, d->p->dry_breakers[i].n_bytes))
            return true;
    return false;
}

/* The token at i from the end. */
static int32_t back(const int32_t *tokens, int n, int i)
{
    return tokens[n - 1 - i];
}

/* z[i]: how many tokens before i from the end equal those at the end, at most `most`. */
static void z_function(int *z, const int32_t *tokens, int n, int window, int most)
{
    int left = 0, right = 0; /* [left, right) equals the beginning */
    for (int i = 1; i < window; i++) {
        int k = i < right ? (z[i - left] < right - i ? z[i - left] : right - i) : 0;
        while (i + k < window && k < most && back(tokens, n, k) == back(tokens, n, i + k))
            k++;
        z[i] = k;
        if (i + k > right) {
            left = i;
            right = i + k;
        }
    }
}

static int by_token(const void *a, const void *b)
{
    const struct dry_loss *x = a, *y = b;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return y->length - x->length; /* the longest first */
}

int dry_losses(struct dry *d, const int32_t *tokens, int n, const struct dry_loss **ret)
{
    const struct sampling_params *p = d->p;
    int window = p->dry_penalty_last_n >= 0 && p->dry_penalty_last_n < n ? p->dry_penalty_last_n : n;
    int least = p->dry_allowed_length > 1 ? p->dry_allowed_length : 1, most = 0, m = 0, kept = 0;
    *ret = d->losses;
    while (most < window && !breaks(d, back(tokens, n, most)))
        most++;
    if (most < least)
        return 0;
    z_function(d->z, tokens, n, window, most);
    for (int i = 1; i < window; i++)
        if (d->z[i] >= least)
            d->losses[m++] = (struct dry_loss){back(tokens, n, i - 1), d->z[i], 0};
    qsort(d->losses, (size_t)m, sizeof(*d->losses), by_token);
    for (int i = 0; i < m; i++) {
        struct dry_loss at = d->losses[i];
        if ((kept && d->losses[kept - 1].token == at.token) || breaks(d, at.token))
            continue;
        double loss = (double)p->dry_multiplier * pow((double)p->dry_base, at.length - p->dry_allowed_length);
        at.loss = (float)(loss < MOST_LOSS ? loss : MOST_LOSS);
        d->losses[kept++] = at;
    }
    return kept;
}
