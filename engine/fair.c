/* engine/fair.c - see fair.h. */
#include "config.h"

#include "engine/fair.h"

#include <stdlib.h>

struct place {
    uint64_t key;
    int64_t served; /* virtual: tokens, raised to the clock when the key comes back */
    int n_jobs;
};

struct fair {
    int max, n;
    int64_t clock; /* what the key had been served that was chosen last */
    struct place places[];
};

struct fair *fair_new(int max_keys)
{
    struct fair *f = calloc(1, sizeof(*f) + (size_t)max_keys * sizeof(struct place));
    if (f)
        f->max = max_keys;
    return f;
}

void fair_free(struct fair *f)
{
    free(f);
}

static int find(struct fair *f, uint64_t key)
{
    int unused = -1;
    for (int i = 0; i < f->n; i++) {
        struct place *p = &f->places[i];
        if (p->key == key)
            return i;
        if (p->n_jobs == 0 && (unused < 0 || p->served < f->places[unused].served))
            unused = i;
    }
    if (f->n < f->max)
        unused = f->n++;
    if (unused < 0)
        return (int)(key % (uint64_t)f->max);
    f->places[unused] = (struct place){.key = key};
    return unused;
}

int fair_enter(struct fair *f, uint64_t key)
{
    int i = find(f, key);
    struct place *p = &f->places[i];
    if (p->n_jobs++ == 0 && p->served < f->clock)
        p->served = f->clock;
    return i;
}

void fair_leave(struct fair *f, int place)
{
    f->places[place].n_jobs--;
}

void fair_charge(struct fair *f, int place, int tokens)
{
    f->places[place].served += tokens;
}

void fair_chosen(struct fair *f, int place)
{
    if (f->places[place].served > f->clock)
        f->clock = f->places[place].served;
}

int64_t fair_served(const struct fair *f, int place)
{
    return f->places[place].served;
}
