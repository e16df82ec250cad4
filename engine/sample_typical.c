/* engine/sample_typical.c - typical_p: tokens about as surprising as the distribution is on average. */
#include "config.h"

#include <math.h>

#include "engine/sample.h"

void sample_typical(struct sample_list *l, double part)
{
    double sum = sample_sum(l), entropy = 0;
    for (int i = 0; i < l->n; i++)
        if (l->e[i].p > 0)
            entropy -= l->e[i].p / sum * log(l->e[i].p / sum);
    for (int i = 0; i < l->n; i++)
        l->e[i].key = l->e[i].p > 0 ? -(float)fabs(-log(l->e[i].p / sum) - entropy) : -INFINITY;
    sample_take(l, l->n, part * sum);
}
