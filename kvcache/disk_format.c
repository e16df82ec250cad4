/* kvcache/disk_format.c - the bytes of a file of the disk tier. See disk.h.
 *
 *     file:    header (512 bytes) | record 0 | record 1 | ...
 *     record:  head: fields, tokens, checksum of both, zeros | the page's bytes | zeros, to 512 bytes
 *
 * Numbers are in the order of the machine that wrote them; a mark in the header tells another order apart.
 * Everything is checked that a reader relies on: a record is taken only if its head is whole, lies where it
 * says it lies, hashes to its own key, is asked for by the same parent, salt, ways and tokens, and its
 * page has the checksum that was taken when it was written. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "kvcache/disk.h"

#define ORDER_MARK 0x01020304u
#define RECORD_MAGIC 0x4b56504cu

struct header {
    char magic[8];
    uint32_t version, order;
    struct hash128 fingerprint;
    uint64_t page_tokens, page_bytes, record_bytes;
    uint64_t number;
    uint64_t checksum; /* of what comes before */
};

struct head {
    uint32_t magic, n_tokens;
    uint64_t number, slot;
    struct hash128 hash, parent;
    uint64_t salt;
    struct ways ways;
    uint32_t zero;
    uint64_t page_checksum;
};
_Static_assert(sizeof(struct header) == 72 && sizeof(struct head) == 80, "no padding in what is written");
_Static_assert(sizeof(struct ways) == 4, "a change of the ways is another DISK_VERSION");

static const char magic[8] = "latentKV";

static size_t round512(size_t n)
{
    return (n + 511) & ~(size_t)511;
}

static size_t head_used(const struct disk_layout *l)
{
    return sizeof(struct head) + l->page_tokens * sizeof(int32_t);
}

void disk__layout(struct disk_layout *l)
{
    l->head_bytes = round512(head_used(l) + sizeof(uint64_t));
    l->record_bytes = l->head_bytes + round512(l->page_bytes);
}

void disk__put_header(unsigned char out[DISK_FILE_HEADER], const struct disk_layout *l, uint64_t number)
{
    struct header h = {.version = DISK_VERSION, .order = ORDER_MARK, .fingerprint = l->fingerprint,
                       .page_tokens = l->page_tokens, .page_bytes = l->page_bytes,
                       .record_bytes = l->record_bytes, .number = number};
    memcpy(h.magic, magic, sizeof(magic));
    h.checksum = hash64_bytes(&h, offsetof(struct header, checksum), 0);
    memset(out, 0, DISK_FILE_HEADER);
    memcpy(out, &h, sizeof(h));
}

int disk__check_header(const unsigned char *in, size_t n_bytes, const struct disk_layout *l,
                       uint64_t number, const char **ret_why)
{
    struct header h;
    *ret_why = "its header is short";
    if (n_bytes < DISK_FILE_HEADER)
        return ERR_FORMAT;
    memcpy(&h, in, sizeof(h));
    *ret_why = "it does not begin as a file of this cache";
    if (memcmp(h.magic, magic, sizeof(magic)) != 0)
        return ERR_FORMAT;
    *ret_why = "it is of another version of the format";
    if (h.order != ORDER_MARK || h.version != DISK_VERSION)
        return ERR_UNSUPPORTED;
    *ret_why = "the checksum of its header is wrong";
    if (h.checksum != hash64_bytes(&h, offsetof(struct header, checksum), 0))
        return ERR_FORMAT;
    *ret_why = "it was written for another model, configuration, program or processor";
    if (h.fingerprint.lo != l->fingerprint.lo || h.fingerprint.hi != l->fingerprint.hi ||
        h.page_tokens != l->page_tokens || h.page_bytes != l->page_bytes || h.record_bytes != l->record_bytes)
        return ERR_UNSUPPORTED;
    *ret_why = "its name is that of another file";
    return h.number == number ? 0 : ERR_FORMAT;
}

void disk__put_key(unsigned char *record, const struct disk_layout *l, const struct disk_key *key)
{
    struct head h = {.magic = RECORD_MAGIC, .n_tokens = l->page_tokens, .hash = key->hash,
                     .parent = key->parent, .salt = key->salt, .ways = key->ways};
    memset(record, 0, l->head_bytes);
    memcpy(record, &h, sizeof(h));
    memcpy(record + sizeof(h), key->tokens, l->page_tokens * sizeof(int32_t));
}

static uint64_t page_checksum(const unsigned char *record, const struct disk_layout *l)
{
    return hash64_bytes(disk__page(record, l), l->page_bytes, 0);
}

void disk__finish_record(unsigned char *record, const struct disk_layout *l, uint64_t number, uint64_t slot)
{
    struct head h;
    memcpy(&h, record, sizeof(h));
    h.number = number;
    h.slot = slot;
    h.page_checksum = page_checksum(record, l);
    memcpy(record, &h, sizeof(h));
    uint64_t sum = hash64_bytes(record, head_used(l), 0);
    memcpy(record + head_used(l), &sum, sizeof(sum));
}

int disk__check_head(const unsigned char *record, const struct disk_layout *l, uint64_t number,
                     uint64_t slot, struct disk_key *ret, const char **ret_why)
{
    struct head h;
    uint64_t sum;
    memcpy(&h, record, sizeof(h));
    memcpy(&sum, record + head_used(l), sizeof(sum));
    *ret_why = "it was not written to its end";
    if (h.magic != RECORD_MAGIC || h.n_tokens != l->page_tokens)
        return ERR_FORMAT;
    *ret_why = "the checksum of its head is wrong";
    if (sum != hash64_bytes(record, head_used(l), 0))
        return ERR_FORMAT;
    *ret_why = "it belongs elsewhere";
    if (h.number != number || h.slot != slot)
        return ERR_FORMAT;
    const int32_t *tokens = (const int32_t *)(const void *)(record + sizeof(h));
    struct hash128 hash = kv__chain_hash(h.parent, h.ways, tokens, l->page_tokens);
    *ret_why = "its tokens are not those of its key";
    if (hash.lo != h.hash.lo || hash.hi != h.hash.hi)
        return ERR_FORMAT;
    *ret = (struct disk_key){h.hash, h.parent, h.salt, h.ways, tokens};
    return 0;
}

int disk__check_record(const unsigned char *record, const struct disk_layout *l, uint64_t number,
                       uint64_t slot, const struct disk_key *want, const char **ret_why)
{
    struct disk_key is;
    struct head h;
    int r = disk__check_head(record, l, number, slot, &is, ret_why);
    if (r < 0)
        return r;
    *ret_why = "its key is not the one asked for";
    if (is.hash.lo != want->hash.lo || is.hash.hi != want->hash.hi || is.parent.lo != want->parent.lo ||
        is.parent.hi != want->parent.hi || is.salt != want->salt ||
        memcmp(&is.ways, &want->ways, sizeof(is.ways)) != 0 ||
        memcmp(is.tokens, want->tokens, l->page_tokens * sizeof(*is.tokens)) != 0)
        return ERR_FORMAT;
    memcpy(&h, record, sizeof(h));
    *ret_why = "the checksum of its page is wrong";
    return h.page_checksum == page_checksum(record, l) ? 0 : ERR_FORMAT;
}
