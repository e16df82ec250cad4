/* server/batch_ids.c - see batch_ids.h. An open table with linear probing, at most three quarters full. */
#include "config.h"

#include "server/batch_ids.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SLOTS 1024

void batch_ids_init(struct batch_ids *s, size_t max)
{
    *s = (struct batch_ids){.max = max};
}

void batch_ids_done(struct batch_ids *s)
{
    free(s->ids);
    batch_ids_init(s, s->max);
}

static struct hash128 hash_of(const char *custom_id, long long line)
{
    return custom_id ? hash128_bytes(custom_id, strlen(custom_id), 1) : hash128_bytes(&line, sizeof(line), 2);
}

/* Where it is, or would be. The table has a free slot. */
static struct batch_id *find(const struct batch_ids *s, struct hash128 h)
{
    size_t i = h.lo & (s->n_slots - 1);
    while (s->ids[i].marks && (s->ids[i].hash.lo != h.lo || s->ids[i].hash.hi != h.hi))
        i = (i + 1) & (s->n_slots - 1);
    return &s->ids[i];
}

unsigned batch_ids_marks(const struct batch_ids *s, const char *custom_id, long long line)
{
    return s->n_slots ? find(s, hash_of(custom_id, line))->marks : 0;
}

static int grow(struct batch_ids *s)
{
    struct batch_ids larger = *s;
    larger.n_slots = s->n_slots ? 2 * s->n_slots : FIRST_SLOTS;
    larger.ids = calloc(larger.n_slots, sizeof(*larger.ids));
    if (!larger.ids)
        return ERR_NOMEM;
    for (size_t i = 0; i < s->n_slots; i++)
        if (s->ids[i].marks)
            *find(&larger, s->ids[i].hash) = s->ids[i];
    free(s->ids);
    *s = larger;
    return 0;
}

int batch_ids_mark(struct batch_ids *s, const char *custom_id, long long line, unsigned clear, unsigned set)
{
    struct hash128 h = hash_of(custom_id, line);
    struct batch_id *id = s->n_slots ? find(s, h) : NULL;
    if (!id || !id->marks) {
        if (s->n == s->max)
            return ERR_LIMIT;
        if (s->n >= s->n_slots / 4 * 3 && grow(s) < 0)
            return ERR_NOMEM;
        id = find(s, h);
        s->n++;
    }
    id->hash = h;
    id->marks = (uint8_t)((id->marks & ~clear) | set);
    return 0;
}
