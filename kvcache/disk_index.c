/* kvcache/disk_index.c - which page lies in which record: a hash table over a growing array. See disk.h. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "kvcache/disk.h"

void disk__index_done(struct disk_index *x)
{
    free(x->entries);
    free(x->buckets);
    *x = (struct disk_index){0};
}

uint32_t disk__index_find(const struct disk_index *x, struct hash128 hash)
{
    uint32_t i = x->n_buckets ? x->buckets[hash.lo & (x->n_buckets - 1)] : DISK_NONE;
    while (i != DISK_NONE && (x->entries[i].hash.lo != hash.lo || x->entries[i].hash.hi != hash.hi))
        i = x->entries[i].next;
    return i;
}

/* Twice the entries, and a bucket for each. */
static bool grow(struct disk_index *x)
{
    uint32_t cap = x->cap ? x->cap * 2 : 256;
    if (cap > (1u << 30))
        return false;
    struct disk_entry *entries = realloc(x->entries, cap * sizeof(*entries));
    if (!entries)
        return false;
    x->entries = entries;
    uint32_t *buckets = malloc(cap * sizeof(*buckets));
    if (!buckets)
        return false;
    memset(buckets, 0xff, cap * sizeof(*buckets));
    for (uint32_t b = 0; b < x->n_buckets; b++)
        for (uint32_t i = x->buckets[b], next; i != DISK_NONE; i = next) {
            uint32_t *to = &buckets[entries[i].hash.lo & (cap - 1)];
            next = entries[i].next;
            entries[i].next = *to;
            *to = i;
        }
    free(x->buckets);
    x->buckets = buckets;
    x->n_buckets = x->cap = cap;
    return true;
}

uint32_t disk__index_add(struct disk_index *x, struct hash128 hash, uint32_t segment, uint32_t slot)
{
    uint32_t i;
    if (x->n == x->used && x->used == x->cap && !grow(x))
        return DISK_NONE;
    if (x->n < x->used) {
        i = x->free_head;
        x->free_head = x->entries[i].next;
    } else {
        i = x->used++;
    }
    uint32_t *bucket = &x->buckets[hash.lo & (x->n_buckets - 1)];
    x->entries[i] = (struct disk_entry){hash, segment, slot, *bucket, DISK_NONE};
    *bucket = i;
    x->n++;
    return i;
}

void disk__index_remove(struct disk_index *x, uint32_t i)
{
    uint32_t *at = &x->buckets[x->entries[i].hash.lo & (x->n_buckets - 1)];
    while (*at != i)
        at = &x->entries[*at].next;
    *at = x->entries[i].next;
    x->entries[i].next = x->free_head;
    x->free_head = i;
    x->n--;
}
