/* tests/fuzz/fuzz_access.c - what operators and proxies write about access. The first byte says what the
 * rest is:
 *
 *   k  a keys file          c  a configuration file      n  a list of networks
 *   p  a PROXY header       x  X-Forwarded-For           f  Forwarded */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/conf.h"
#include "server/keys.h"
#include "server/peer.h"
#include "tests/fuzz/fuzz.h"

static void keys(const uint8_t *data, size_t n_bytes)
{
    struct keyring *ring = NULL;
    struct err e = {0};
    fuzz_put("keys", data, n_bytes);
    const struct key_sources src = {fuzz_path("keys"), "", ""};
    if (fuzz_result(keyring_read(&src, &ring, &e), &e) == 0) {
        FUZZ_CHECK(ring->required && ring->n <= KEYS_MAX);
        for (int i = 0; i < ring->n; i++) {
            const struct api_key *k = &ring->keys[i];
            FUZZ_CHECK(keyring_find(ring, k->digest) == k);
            FUZZ_CHECK(k->name[0] && k->grant.best_priority <= k->grant.priority);
        }
    }
    keyring_unref(&ring);
    fuzz_drop("keys");
}

static void configuration(const uint8_t *data, size_t n_bytes)
{
    struct server_config c;
    struct err e = {0};
    FUZZ_CHECK(config_init(&c) == 0);
    fuzz_put("conf", data, n_bytes);
    int r = config_read_file(&c, fuzz_path("conf"), &e);
    if (r == 0)
        r = config_check(&c, &e);
    if (fuzz_result(r, &e) == 0) { /* what is printed is read again as the same, but for secrets */
        struct server_config again;
        char *first = NULL, *second = NULL;
        size_t n_first = 0, n_second = 0;
        FILE *f = open_memstream(&first, &n_first);
        FUZZ_CHECK(f && config_init(&again) == 0);
        config_print(&c, false, f);
        fclose(f);
        fuzz_put("conf", first, n_first);
        FUZZ_CHECK(config_read_file(&again, fuzz_path("conf"), &e) == 0);
        f = open_memstream(&second, &n_second);
        config_print(&again, false, f);
        fclose(f);
        FUZZ_CHECK(n_first == n_second && !memcmp(first, second, n_first));
        free(first);
        free(second);
        config_done(&again);
    }
    config_done(&c);
    fuzz_drop("conf");
}

static void proxy(const uint8_t *data, size_t n_bytes)
{
    struct err e = {0};
    char peer[PEER_TEXT] = "before", other[PEER_TEXT];
    int r = n_bytes ? proxy_read((const char *)data, n_bytes, peer) : 0;
    FUZZ_CHECK(r <= (int)n_bytes && r <= PROXY_MAX_BYTES && strlen(peer) < sizeof(peer));
    /* what a longer piece decides a shorter one has not decided otherwise */
    for (size_t i = 1; r > 0 && i < n_bytes && i < 300; i++) {
        int part = proxy_read((const char *)data, i, other);
        FUZZ_CHECK(part == (i < (size_t)r ? 0 : r));
    }
    if (r <= 0)
        err_set(&e, ERR_FORMAT, "no PROXY header, or half of one");
    fuzz_result(r > 0 ? 0 : ERR_FORMAT, &e);
}

static char *text(const uint8_t *data, size_t n_bytes)
{
    char *s = malloc(n_bytes + 1);
    FUZZ_CHECK(s);
    memcpy(s, data, n_bytes);
    s[n_bytes] = 0;
    return s;
}

static void networks(const uint8_t *data, size_t n_bytes)
{
    struct nets nets;
    struct err e = {0};
    char *s = text(data, n_bytes);
    if (fuzz_result(nets_read(s, &nets, &e), &e) == 0)
        (void)nets_have(&nets, "192.0.2.1:80");
    (void)nets_have(&(struct nets){.n = 0}, s);
    free(s);
}

static void forwarded(const uint8_t *data, size_t n_bytes, bool standard)
{
    struct nets trusted;
    struct err e = {0};
    char client[PEER_TEXT] = "", *s = text(data, n_bytes);
    FUZZ_CHECK(nets_read("10.0.0.0/8 fd00::/8", &trusted, &e) == 0);
    bool found = forwarded_client(s, standard, &trusted, client);
    FUZZ_CHECK(found == (client[0] != 0));
    if (!found)
        err_set(&e, ERR_FORMAT, "no address");
    fuzz_result(found ? 0 : ERR_FORMAT, &e);
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    switch (data[0]) {
    case 'k':
        keys(data + 1, n_bytes - 1);
        break;
    case 'c':
        configuration(data + 1, n_bytes - 1);
        break;
    case 'n':
        networks(data + 1, n_bytes - 1);
        break;
    case 'p':
        proxy(data + 1, n_bytes - 1);
        break;
    case 'x':
    case 'f':
        forwarded(data + 1, n_bytes - 1, data[0] == 'f');
        break;
    }
    return 0;
}
