/* server/access.c - see access.h. Which route needs what is told in docs/access.md. */
#include "config.h"

#include "server/access.h"

#include <math.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "server/internal.h"
#include "server/limits.h"
#include "server/openssl.h"

/* --- the keys in force ---------------------------------------------------------------------------- */

int access_read(const struct server_config *cfg, struct keyring **ret, struct err *e)
{
    const struct key_sources src = {cfg->api_keys_file, cfg->api_key, cfg->admin_key};
    char path[4096];
    struct stat st;
    int r = keyring_read(&src, ret, e);
    if (r < 0)
        return r;
    if (*cfg->api_keys_file &&
        config_path(cfg->api_keys_file, "api_keys_file", path, sizeof(path), NULL) == 0 &&
        stat(path, &st) == 0 && (st.st_mode & 022))
        LOG_WARN("access", "%s can be written by others than its owner: they can let themselves in", path);
    if ((*ret)->required && (*ret)->n == 0)
        LOG_WARN("access", "%s holds no key: every request is refused", cfg->api_keys_file);
    return 0;
}

int access_use(struct server *s, struct keyring *ring, struct err *e)
{
    int r = limits_bind(s->limits, ring, e);
    if (r < 0)
        return r;
    keyring_unref(&s->keyring);
    s->keyring = ring;
    return 0;
}

/* --- who asks ------------------------------------------------------------------------------------- */

static void present(struct conn *c, const char *key)
{
    struct access *a = &c->access;
    unsigned char digest[KEY_DIGEST_BYTES];
    if (key_digest(key, strlen(key), digest) < 0) {
        a->lost = true;
        return;
    }
    a->ambiguous |= a->presented && CRYPTO_memcmp(a->digest, digest, sizeof(digest)) != 0;
    a->presented = true;
    memcpy(a->digest, digest, sizeof(digest));
    /* without keys of our own it still tells clients apart */
    c->client = hash64_bytes(digest, sizeof(digest), 0);
}

void access_header(struct conn *c, const char *name, const char *value)
{
    static const char bearer[] = "bearer";
    if (!strcasecmp(name, "authorization")) {
        if (!strncasecmp(value, bearer, sizeof(bearer) - 1) && strchr(" \t", value[sizeof(bearer) - 1])) {
            value += sizeof(bearer) - 1;
            value += strspn(value, " \t");
        }
    } else if (strcasecmp(name, "x-api-key") != 0) {
        return;
    }
    if (*value)
        present(c, value);
}

enum need { NEED_NOTHING, NEED_KEY, NEED_ADMIN };

/* Balancers and service managers ask for health without a key; it is one word. The page is the same for
 * everybody, and where the key is typed in: browsers send none when they fetch it. */
static enum need need_of(const struct conn *c)
{
    static const char *const open[] = {"/livez", "/readyz", "/startupz", "/health"};
    bool reads = c->parser.method == HTTP_GET || c->parser.method == HTTP_HEAD;
    for (size_t i = 0; i < sizeof(open) / sizeof(*open); i++)
        if (!strcmp(c->path, open[i]))
            return NEED_NOTHING;
    if (reads && !strcmp(c->path, "/"))
        return NEED_NOTHING;
    if (!strcmp(c->path, "/metrics"))
        return c->s->cfg->metrics_open ? NEED_NOTHING : NEED_KEY;
    if (!reads && !strncmp(c->path, "/v1/cache", 9) && (c->path[9] == 0 || c->path[9] == '/'))
        return NEED_ADMIN;
    return NEED_KEY;
}

/* Addresses are written into logs, histories and referrers everywhere: a key in one is as good as
 * published. */
static bool key_in_query(const char *query)
{
    static const char *const names[] = {"key",          "api_key", "api-key",  "apikey",
                                        "access_token", "token",   "x-api-key"};
    while (*query) {
        size_t n = strcspn(query, "=&;");
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
            if (strlen(names[i]) == n && !strncasecmp(query, names[i], n))
                return true;
        query += strcspn(query, "&;");
        query += *query != 0;
    }
    return false;
}

int access_check(struct conn *c, const char **text)
{
    struct access *a = &c->access;
    struct keyring *ring = c->s->keyring;
    enum need need = need_of(c);
    if (cors_is_preflight(c))
        return 0; /* browsers send no key with it */
    if (ring->n > 0 && key_in_query(c->query)) {
        *text = "a key does not belong into a URL: send it as Authorization: Bearer KEY, or x-api-key";
        return 400;
    }
    if (a->lost) {
        *text = "out of memory";
        return 503;
    }
    bool needed = need == NEED_ADMIN ? ring->n > 0 || ring->required : need == NEED_KEY && ring->required;
    if (a->presented && !a->ambiguous) {
        a->key = keyring_find(ring, a->digest);
        if (a->key) {
            a->ring = keyring_ref(ring);
            c->client = hash64_bytes(a->key->name, strlen(a->key->name), 2);
        }
    }
    if (!needed || (a->key && (need != NEED_ADMIN || a->key->admin)))
        return 0;
    if (a->key) {
        *text = "this changes the server's state and needs a key with the option admin";
        return 403;
    }
    *text = a->ambiguous   ? "two different API keys were sent"
            : a->presented ? "the API key is not known here"
                           : "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY";
    return 401;
}

const char *access_key_name(const struct conn *c)
{
    return c->access.key ? c->access.key->name : NULL;
}

/* --- how much ------------------------------------------------------------------------------------- */

/* What is posted below the id of a response ends one that runs: those may, whose requests are all running. */
static bool may_generate(const struct conn *c)
{
    return c->parser.method == HTTP_POST &&
           (strncmp(c->path, "/v1/responses/", 14) != 0 || !strcmp(c->path, "/v1/responses/input_tokens"));
}

bool access_begin(struct conn *c)
{
    struct access *a = &c->access;
    struct err e = {0};
    char retry[40];
    struct buf body;
    if (!a->key || need_of(c) == NEED_NOTHING || !strcmp(c->path, "/metrics"))
        return true;
    int seconds = limits_begin(a->key, may_generate(c), clock_now_ns(), &e);
    if (seconds == 0) {
        a->begun = true;
        return true;
    }
    snprintf(retry, sizeof(retry), "Retry-After: %d\r\n", seconds);
    buf_init(&body, 4096);
    (void)api_error_body(429, c->path, e.text, &body); /* without memory the status alone is told */
    reply_simple(c, 429, "application/json", retry, body.data ? body.data : "", body.n_bytes);
    buf_done(&body);
    return false;
}

int access_admit(void *reply, long long n_tokens, struct err *e)
{
    struct access *a = &((struct conn *)reply)->access;
    if (!a->begun)
        return 0;
    int seconds = limits_take_prompt(a->key, n_tokens, clock_now_ns(), e);
    a->prompt_tokens += seconds ? 0 : n_tokens;
    return seconds;
}

void access_over(struct access *a, long long completion_tokens, bool refused)
{
    if (a->begun)
        limits_end(a->key, a->prompt_tokens, completion_tokens > 0 ? completion_tokens : 0, refused,
                   clock_now_ns());
    keyring_unref(&a->ring);
    *a = (struct access){.ring = NULL};
}

void access_end(struct conn *c)
{
    access_over(&c->access, c->log.facts.completion_tokens, c->log.status == 429 || c->log.status == 503);
}

/* "12ms", "3.5s", "2m4s": as OpenAI writes them. */
static void write_time(double seconds, char *dst, size_t n)
{
    if (seconds < 1)
        snprintf(dst, n, "%.0fms", ceil(seconds * 1000));
    else if (seconds < 60)
        snprintf(dst, n, "%.1fs", seconds);
    else
        snprintf(dst, n, "%dm%ds", (int)seconds / 60, (int)seconds % 60);
}

static int write_rate(struct buf *out, const char *what, struct bucket *b, long long per_minute)
{
    char reset[40];
    double level = bucket_level(b, per_minute, clock_now_ns());
    write_time(((double)per_minute - level) * 60 / (double)per_minute, reset, sizeof(reset));
    return buf_printf(
        out, "x-ratelimit-limit-%s: %lld\r\nx-ratelimit-remaining-%s: %.0f\r\nx-ratelimit-reset-%s: %s\r\n",
        what, per_minute, what, level > 0 ? floor(level) : 0, what, reset);
}

int access_answer_headers(struct conn *c, int status, struct buf *out)
{
    const struct api_key *k = c->access.key;
    int r = 0;
    if (status == 401)
        r = buf_printf(out, "WWW-Authenticate: Bearer realm=\"latentd\"%s\r\n",
                       c->access.presented ? ", error=\"invalid_token\"" : "");
    if (k && k->requests_per_minute && r == 0)
        r = write_rate(out, "requests", &k->use->requests, k->requests_per_minute);
    if (k && k->tokens_per_minute && r == 0)
        r = write_rate(out, "tokens", &k->use->tokens, k->tokens_per_minute);
    return r;
}
