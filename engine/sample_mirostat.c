/* engine/sample_mirostat.c - mirostat. mu is the surprise (in bits) that a token may have at most; after each
 * token it moves against the difference between the surprise seen and tau. Version 1 turns mu into a top_k by
 * the exponent of a Zipf distribution, estimated from the 100 best; version 2 cuts by mu itself.
 *
 * mu is a function of the tokens before, so that a choice is the same however it is computed. */
#include "config.h"

#include <limits.h>
#include <math.h>

#include "engine/sample.h"

#define ZIPF_TOKENS 100

void mirostat_init(struct mirostat *m, int version, double tau, double eta, int vocab_size)
{
    *m = (struct mirostat){version, tau, eta, 2 * tau, 2 * tau, vocab_size};
}

/* How many of the likeliest surprise by mu bits at most, if weights fall as rank^-s. */
static int zipf_count(const struct mirostat *m, const struct sample_list *l)
{
    double top = 0, bottom = 0;
    for (int i = 0; i + 1 < l->n && i + 1 < ZIPF_TOKENS; i++) {
        double t = log((i + 2.0) / (i + 1.0)), b = log(l->e[i].p / l->e[i + 1].p);
        top += t * b;
        bottom += t * t;
    }
    double s = bottom > 0 ? top / bottom : 0, eps = s - 1, k;
    if (s <= 0)
        return l->n; /* flat: as many as there are */
    if (fabs(eps) < 1e-6)
        k = exp2(m->mu) / log(m->vocab_size);
    else
        k = pow(eps * exp2(m->mu) / (1 - pow(m->vocab_size, -eps)), 1 / s);
    return k >= l->n ? l->n : k > 1 ? (int)k : 1;
}

int mirostat_choose(struct mirostat *m, struct sample_list *l, double u)
{
    sample_key_weights(l);
    if (m->version == 1) {
        sample_take(l, l->n, INFINITY);
        l->n = zipf_count(m, l);
    } else { /* surprise <= mu; the likeliest always may */
        double bound = sample_sum(l) * exp2(-m->mu);
        int n = 0, best = 0;
        for (int i = 1; i < l->n; i++)
            if (l->e[i].p > l->e[best].p)
                best = i;
        for (int i = 0; i < l->n; i++)
            if (l->e[i].p >= bound || i == best)
                l->e[n++] = l->e[i];
        l->n = n;
    }
    int at = sample_at(l, u);
    m->next_mu = m->mu - m->eta * (-log2(l->e[at].p / sample_sum(l)) - m->tau);
    return at;
}

void mirostat_accept(struct mirostat *m)
{
    m->mu = m->next_mu;
}
