/* tests/fuzz/fuzz_disk.c - a file of the cache's disk tier, as a start finds it.
 *
 * The first byte says what the rest is:
 *   p  a length (2 bytes) that a good file is cut to, and edits of it: offset (2 bytes), bits to turn over
 *   r  a file whose checksums and key hashes are put right, so that what is behind them is reached
 *   c  nothing: a good file, put right once more (the two ways of making one agree)
 *   x  a file as it is
 *
 * The folder is opened, looked through, each of three known pages read, one more written, and all that again.
 * No page may come back with other bytes than were written unless the checksums were put right; nothing that
 * was there may be lost by writing; and the folder stays within its budget. */
#include "config.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kvcache/disk.h"
#include "tests/fuzz/fuzz.h"

#define P 8
#define PAGE 64
#define RECORD 1024
#define N_PAGES 3
#define FILE_BYTES (DISK_FILE_HEADER + N_PAGES * RECORD)
#define MAX_FILE 16384
#define NAME "pages-0000000000000001.kv"

/* Where the parts of a head lie, once more. */
enum { AT_HASH = 24, AT_PARENT = 40, AT_WAYS = 64, AT_PAGE_SUM = 72, AT_TOKENS = 80, AT_SUM = 112,
       AT_PAGE = 512, AT_HEADER_SUM = 64 };

static const struct ways ways = {{8, 3}};

static struct disk_layout layout(void)
{
    struct disk_layout l = {.fingerprint = {5, 6}, .page_tokens = P, .page_bytes = PAGE};
    disk__layout(&l);
    FUZZ_CHECK(l.record_bytes == RECORD && l.head_bytes == AT_PAGE);
    return l;
}

/* The i-th page of one prompt. Its first N_PAGES are looked for; the one behind them is written. */
static struct disk_key key_of(int i, int32_t tokens[P])
{
    struct disk_key k = {.salt = 7, .ways = ways, .tokens = tokens, .hash = kv__root_hash(7)};
    for (int at = 0; at <= i; at++) {
        for (int t = 0; t < P; t++)
            tokens[t] = at * P + t;
        k.parent = k.hash;
        k.hash = kv__chain_hash(k.parent, ways, tokens, P);
    }
    return k;
}

static void make_record(unsigned char *record, const struct disk_layout *l, int i, uint64_t slot)
{
    int32_t tokens[P];
    struct disk_key k = key_of(i, tokens);
    memset(record, 0, RECORD);
    disk__put_key(record, l, &k);
    memset(record + AT_PAGE, 'A' + i, PAGE);
    disk__finish_record(record, l, 1, slot);
}

static size_t good_file(unsigned char *file, const struct disk_layout *l)
{
    disk__put_header(file, l, 1);
    for (int i = 0; i < N_PAGES; i++)
        make_record(file + DISK_FILE_HEADER + i * RECORD, l, i, (uint64_t)i);
    return FILE_BYTES;
}

static void put64(unsigned char *to, uint64_t v)
{
    memcpy(to, &v, sizeof(v));
}

static void repair(unsigned char *file, size_t n)
{
    if (n >= DISK_FILE_HEADER)
        put64(file + AT_HEADER_SUM, hash64_bytes(file, AT_HEADER_SUM, 0));
    for (size_t at = DISK_FILE_HEADER; at + RECORD <= n; at += RECORD) {
        unsigned char *r = file + at;
        struct hash128 parent;
        struct ways w;
        int32_t tokens[P];
        memcpy(&parent, r + AT_PARENT, sizeof(parent));
        memcpy(&w, r + AT_WAYS, sizeof(w));
        memcpy(tokens, r + AT_TOKENS, sizeof(tokens));
        struct hash128 hash = kv__chain_hash(parent, w, tokens, P);
        memcpy(r + AT_HASH, &hash, sizeof(hash));
        put64(r + AT_PAGE_SUM, hash64_bytes(r + AT_PAGE, PAGE, 0));
        put64(r + AT_SUM, hash64_bytes(r, AT_SUM, 0));
    }
}

static size_t make_file(unsigned char *file, const struct disk_layout *l, char kind, const uint8_t *data,
                        size_t n)
{
    if (kind == 'r' || kind == 'x') {
        n = n < MAX_FILE ? n : MAX_FILE;
        memcpy(file, data, n);
        if (kind == 'r')
            repair(file, n);
        return n;
    }
    size_t length = good_file(file, l), cut = n >= 2 ? (size_t)(data[0] | data[1] << 8) : length;
    if (kind == 'c') {
        unsigned char before[FILE_BYTES];
        memcpy(before, file, sizeof(before));
        repair(file, length);
        FUZZ_CHECK(!memcmp(before, file, sizeof(before)));
        return length;
    }
    for (size_t i = 2; i + 3 <= n; i += 3) {
        size_t at = (size_t)(data[i] | data[i + 1] << 8);
        if (at < length)
            file[at] ^= data[i + 2];
    }
    return cut < length ? cut : length;
}

static void store_open(struct kv_disk *d, const struct disk_layout *l, char *path)
{
    struct err e = {0};
    *d = (struct kv_disk){.io = disk__system_io, .path = path, .max_bytes = 32 * 1024, .layout = *l};
    disk__init(d);
    d->record = malloc(RECORD);
    FUZZ_CHECK(d->record && disk__store_open(d, &e) == 0);
    while (disk__store_scan(d))
        ;
    FUZZ_CHECK(d->index.n <= MAX_FILE / RECORD + 1 && d->stats.pages == d->index.n);
}

static void store_close(struct kv_disk *d)
{
    disk__store_close(d);
    FUZZ_CHECK(d->stats.bytes == 0 && d->stats.files == 0 && d->index.n == 0);
    free(d->record);
    free(d->segments);
    disk__index_done(&d->index);
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
}

/* Bits of the pages that come back, the one that was written too. */
static unsigned read_all(struct kv_disk *d, bool forged)
{
    unsigned char record[RECORD], page[PAGE];
    int32_t tokens[P];
    unsigned found = 0;
    for (int i = 0; i <= N_PAGES; i++) {
        struct disk_key k = key_of(i, tokens);
        if (disk__store_read(d, &k, record) < 0)
            continue;
        memset(page, 'A' + i, PAGE);
        FUZZ_CHECK(forged || !memcmp(disk__page(record, &d->layout), page, PAGE));
        found |= 1u << i;
    }
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static unsigned char file[MAX_FILE + FILE_BYTES], record[RECORD];
    char kind = n_bytes ? (char)data[0] : 'x', path[256];
    bool forged = kind == 'r';
    struct disk_layout l = layout();
    struct kv_disk d;
    struct err e = {0};
    size_t n = make_file(file, &l, kind, data + (n_bytes > 0), n_bytes - (n_bytes > 0));
    strcpy(path, fuzz_path("."));
    fuzz_put(NAME, file, n);
    store_open(&d, &l, path);
    unsigned first = read_all(&d, forged), all = (1u << N_PAGES) - 1;
    fuzz_verdict = (first & all) == all ? 0 : (first & all) == 0 ? ERR_FORMAT : 0;
    if (fuzz_verdict < 0)
        strcpy(fuzz_text, "no page came back");
    if (!(first >> N_PAGES & 1)) { /* else a forger has written it already */
        int32_t tokens[P];
        make_record(record, &l, N_PAGES, 0);
        FUZZ_CHECK(disk__store_write(&d, record, key_of(N_PAGES, tokens).hash, &e) == 0);
        FUZZ_CHECK(d.stats.bytes <= d.max_bytes);
    }
    FUZZ_CHECK(disk__store_sync(&d, &e) == 0);
    unsigned second = read_all(&d, forged);
    store_close(&d);
    store_open(&d, &l, path);
    unsigned third = read_all(&d, forged);
    FUZZ_CHECK(second == (first | 1u << N_PAGES) && third == second);
    disk__store_drop(&d);
    store_close(&d);
    fuzz_drop("lock");
    return 0;
}
