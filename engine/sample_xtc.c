/* engine/sample_xtc.c - exclude top choices: of all tokens that would do, the least likely stays. */
#include "config.h"

#include "engine/sample.h"

void sample_xtc(struct sample_list *l, double threshold)
{
    double bound = threshold * sample_sum(l);
    int n_over = 0, keep = -1, n = 0;
    for (int i = 0; i < l->n; i++) {
        const struct sample_entry *e = &l->e[i], *k = keep >= 0 ? &l->e[keep] : NULL;
        if (e->p < bound)
            continue;
        n_over++;
        if (!k || e->p < k->p || (e->p == k->p && e->id > k->id))
            keep = i;
    }
    if (n_over < 2)
        return;
    for (int i = 0; i < l->n; i++)
        if (l->e[i].p < bound || i == keep)
            l->e[n++] = l->e[i];
    l->n = n;
}
