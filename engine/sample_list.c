/* engine/sample_list.c - the list of candidates that samplers work on; see sample.h. A heap, for of 160 k
 * entries few are usually taken. */
#include "config.h"

#include "engine/sample.h"

static bool before(const struct sample_entry *a, const struct sample_entry *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static void sift(struct sample_entry *h, int n, int i)
{
    struct sample_entry x = h[i];
    for (int k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && before(&h[k + 1], &h[k]))
            k++;
        if (!before(&h[k], &x))
            break;
        h[i] = h[k];
    }
    h[i] = x;
}

void sample_take(struct sample_list *l, int most, double mass)
{
    struct sample_entry *e = l->e;
    int n = l->n, taken = 0;
    double sum = 0;
    for (int i = n / 2 - 1; i >= 0; i--)
        sift(e, n, i);
    /* what is taken goes behind the shrinking heap, best last */
    while (taken < n && (taken == 0 || (taken < most && sum < mass))) {
        struct sample_entry best = e[0];
        int last = n - 1 - taken++;
        e[0] = e[last];
        e[last] = best;
        sift(e, last, 0);
        sum += best.p;
    }
    for (int i = 0, k = n - 1; i < taken && i < k; i++, k--) { /* to the front, best first */
        struct sample_entry x = e[k];
        e[k] = e[i];
        e[i] = x;
    }
    l->n = taken;
}

double sample_sum(const struct sample_list *l)
{
    double sum = 0;
    for (int i = 0; i < l->n; i++)
        sum += l->e[i].p;
    return sum;
}

int sample_at(const struct sample_list *l, double u)
{
    u *= sample_sum(l);
    for (int i = 0; i < l->n; i++) {
        u -= l->e[i].p;
        if (u < 0)
            return i;
    }
    return l->n - 1;
}

void sample_key_weights(struct sample_list *l)
{
    for (int i = 0; i < l->n; i++)
        l->e[i].key = (float)l->e[i].p;
}
