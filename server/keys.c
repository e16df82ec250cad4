/* server/keys.c - see keys.h. The format of a keys file is told in docs/access.md. */
#include "config.h"

#include "server/keys.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hex.h"
#include "server/conf.h"
#include "server/openssl.h"

#define MAX_LINE 8192
#define MAX_LINES 100000
#define PRIORITY_END 1000000 /* the range of `priority` in requests */

/* --- hashes --------------------------------------------------------------------------------------- */

int key_digest(const char *key, size_t n_bytes, unsigned char digest[KEY_DIGEST_BYTES])
{
    return SHA256((const unsigned char *)key, n_bytes, digest) ? 0 : ERR_NOMEM; /* it allocates */
}

static int check_key(const char *key, size_t n_bytes, struct err *e)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (key[i] <= ' ' || key[i] > '~')
            return err_set(e, ERR_INVAL, "a key has printable ASCII characters without spaces only");
    if (n_bytes < KEY_MIN_BYTES || n_bytes > KEY_MAX_BYTES)
        return err_set(e, ERR_INVAL,
                       "a key has %d to %d characters, not %zu (openssl rand -hex 32 makes one)",
                       KEY_MIN_BYTES, KEY_MAX_BYTES, n_bytes);
    return 0;
}

int key_hash_text(const char *key, size_t n_bytes, char text[KEY_HASH_TEXT], struct err *e)
{
    unsigned char digest[KEY_DIGEST_BYTES];
    int r = check_key(key, n_bytes, e);
    if (r < 0)
        return r;
    if ((r = key_digest(key, n_bytes, digest)) < 0)
        return err_set(e, r, "out of memory");
    size_t at = (size_t)snprintf(text, KEY_HASH_TEXT, "sha256:");
    for (int i = 0; i < KEY_DIGEST_BYTES; i++)
        at += (size_t)snprintf(text + at, KEY_HASH_TEXT - at, "%02x", digest[i]);
    return 0;
}

static int read_hash(const char *text, unsigned char digest[KEY_DIGEST_BYTES], struct err *e)
{
    const char *s = text + strlen("sha256:");
    if (strncmp(text, "sha256:", strlen("sha256:")) != 0 || strlen(s) != 2 * KEY_DIGEST_BYTES)
        return err_set(e, ERR_FORMAT, "a hash is sha256: and 64 hexadecimal digits (latentd --hash-key)");
    for (int i = 0; i < KEY_DIGEST_BYTES; i++) {
        int hi = hex_value(s[2 * i]), lo = hex_value(s[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return err_set(e, ERR_FORMAT, "a hash is sha256: and 64 hexadecimal digits (latentd --hash-key)");
        digest[i] = (unsigned char)(hi * 16 + lo);
    }
    return 0;
}

const struct api_key *keyring_find(const struct keyring *r, const unsigned char digest[KEY_DIGEST_BYTES])
{
    int found = -1;
    for (int i = 0; i < r->n; i++) { /* all of them, always */
        int same = CRYPTO_memcmp(r->keys[i].digest, digest, KEY_DIGEST_BYTES) == 0;
        found = (same * i) | ((same - 1) & found);
    }
    return found < 0 ? NULL : &r->keys[found];
}

/* --- the options of a key ------------------------------------------------------------------------- */

static int bad_option(struct err *e, const char *name, const char *range)
{
    return err_set_param(e, ERR_INVAL, name, "%.40s wants %s", name, range);
}

static int read_number(const char *name, const char *value, long long min, long long max, long long *ret,
                       struct err *e)
{
    char range[80], *end = NULL;
    errno = 0;
    long long v = value ? strtoll(value, &end, 10) : 0;
    if (!value || end == value || *end || errno || v < min || v > max) {
        snprintf(range, sizeof(range), "a whole number from %lld to %lld", min, max);
        return bad_option(e, name, range);
    }
    *ret = v;
    return 0;
}

static int read_option(struct api_key *k, char *option, bool *best_given, struct err *e)
{
    char *value = strchr(option, '=');
    long long v = 0;
    int r;
    if (value)
        *value++ = 0;
    if (!strcmp(option, "admin"))
        return value ? bad_option(e, option, "no value") : (k->admin = true, 0);
    if (!strcmp(option, "requests_per_minute"))
        return read_number(option, value, 1, 1000000000, &k->requests_per_minute, e);
    if (!strcmp(option, "tokens_per_minute"))
        return read_number(option, value, 1, 1000000000000, &k->tokens_per_minute, e);
    if (!strcmp(option, "concurrent")) {
        r = read_number(option, value, 1, 1000000, &v, e);
        k->concurrent = (int)v;
        return r;
    }
    if (!strcmp(option, "priority") || !strcmp(option, "best_priority")) {
        r = read_number(option, value, -PRIORITY_END, PRIORITY_END, &v, e);
        bool best = option[0] == 'b';
        *best_given |= best;
        *(best ? &k->grant.best_priority : &k->grant.priority) = (int)v;
        return r;
    }
    if (!strcmp(option, "models")) {
        if (!value || !*value)
            return bad_option(e, option, "names, separated by commas");
        free(k->models);
        k->models = strdup(value);
        k->grant.models = k->models;
        return k->models ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    }
    return err_set_param(e, ERR_NOTFOUND, option,
                         "there is no option \"%.40s\"; there are requests_per_minute, tokens_per_minute, "
                         "concurrent, priority, best_priority, models, admin",
                         option);
}

static int check_name(const char *name, struct err *e)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@");
    if (n == 0 || n > KEY_NAME_MAX || name[n])
        return err_set(e, ERR_INVAL, "a name has 1 to %d letters, digits and - _ . @", KEY_NAME_MAX);
    return 0;
}

/* Takes k's strings over, also on failure. */
static int add(struct keyring *r, struct api_key *k, struct err *e)
{
    struct api_key *more;
    int failed = 0;
    for (int i = 0; i < r->n && !failed; i++) {
        if (!strcmp(r->keys[i].name, k->name))
            failed = err_set(e, ERR_INVAL, "there are two keys named %.64s", k->name);
        else if (!memcmp(r->keys[i].digest, k->digest, KEY_DIGEST_BYTES))
            failed = err_set(e, ERR_INVAL, "%.64s and %.64s are the same key", r->keys[i].name, k->name);
    }
    if (!failed && r->n == KEYS_MAX)
        failed = err_set(e, ERR_LIMIT, "there are at most %d keys", KEYS_MAX);
    if (!failed && k->grant.best_priority > k->grant.priority)
        failed = err_set_param(e, ERR_INVAL, "best_priority", "best_priority must not be above priority (%d)",
                               k->grant.priority);
    /* grows by doubling: when n is a power of two */
    if (!failed && (r->n & (r->n - 1)) == 0) {
        more = realloc(r->keys, (size_t)(r->n ? 2 * r->n : 1) * sizeof(*more));
        failed = more ? 0 : err_set(e, ERR_NOMEM, "out of memory");
        r->keys = more ? more : r->keys;
    }
    if (failed) {
        free(k->models);
        return failed;
    }
    r->keys[r->n++] = *k;
    return 0;
}

int keyring_read_line(struct keyring *r, char *line, struct err *e)
{
    static const char blank[] = " \t\r\n";
    struct api_key k = {.models = NULL};
    char *save = NULL, *option;
    bool best_given = false;
    char *name = strtok_r(line, blank, &save);
    if (!name || *name == '#')
        return 0;
    char *hash = strtok_r(NULL, blank, &save);
    int failed = check_name(name, e);
    if (!failed && !hash)
        failed = err_set(e, ERR_FORMAT, "\"%.64s\" has no hash", name);
    if (!failed)
        failed = read_hash(hash, k.digest, e);
    while (!failed && (option = strtok_r(NULL, blank, &save)) && *option != '#')
        failed = read_option(&k, option, &best_given, e);
    if (failed) {
        free(k.models);
        return failed;
    }
    snprintf(k.name, sizeof(k.name), "%s", name);
    if (!best_given) /* nobody puts himself before others unless that was given */
        k.grant.best_priority = k.grant.priority;
    return add(r, &k, e);
}

/* --- sources -------------------------------------------------------------------------------------- */

static int read_file(struct keyring *r, const char *name, struct err *e)
{
    char line[MAX_LINE], path[4096];
    struct err inner = {0};
    int n = 0;
    int failed = config_path(name, "api_keys_file", path, sizeof(path), e);
    if (failed)
        return failed;
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set_param(e, ERR_IO, "api_keys_file", "api_keys_file %.200s: %s", path, strerror(errno));
    while (!failed && fgets(line, sizeof(line), f)) {
        if (++n > MAX_LINES || (!strchr(line, '\n') && strlen(line) == sizeof(line) - 1))
            failed = err_set(&inner, ERR_LIMIT, "a file has at most %d lines of %d bytes", MAX_LINES,
                             MAX_LINE);
        else
            failed = keyring_read_line(r, line, &inner);
    }
    if (!failed && ferror(f))
        failed = err_set(&inner, ERR_IO, "%s", strerror(errno));
    fclose(f);
    if (failed)
        return err_set_param(e, failed, "api_keys_file", "api_keys_file %.120s, line %d: %s", path, n,
                             inner.text);
    return 0;
}

/* A key of the configuration itself: plain, or already hashed. */
static int read_single(struct keyring *r, const char *param, const char *name, const char *key, bool admin,
                       struct err *e)
{
    struct api_key k = {.admin = admin, .grant = {.best_priority = admin ? -PRIORITY_END : 0}};
    struct err inner = {0};
    int failed = 0;
    if (!strncmp(key, "sha256:", strlen("sha256:"))) {
        failed = read_hash(key, k.digest, &inner);
    } else {
        failed = check_key(key, strlen(key), &inner);
        if (!failed && (failed = key_digest(key, strlen(key), k.digest)) < 0)
            err_set(&inner, failed, "out of memory");
    }
    snprintf(k.name, sizeof(k.name), "%s", name);
    if (!failed)
        failed = add(r, &k, &inner);
    return failed ? err_set_param(e, failed, param, "%s: %s", param, inner.text) : 0;
}

int keyring_read(const struct key_sources *src, struct keyring **ret, struct err *e)
{
    struct keyring *r = calloc(1, sizeof(*r));
    if (!r)
        return err_set(e, ERR_NOMEM, "out of memory");
    r->refs = 1;
    /* an empty file lets nobody in: that it is named says that keys are wanted */
    r->required = *src->file || *src->api_key;
    int failed = *src->file ? read_file(r, src->file, e) : 0;
    if (!failed && *src->api_key)
        failed = read_single(r, "api_key", "default", src->api_key, false, e);
    if (!failed && *src->admin_key)
        failed = read_single(r, "admin_key", "admin", src->admin_key, true, e);
    if (failed) {
        keyring_unref(&r);
        return failed;
    }
    *ret = r;
    return 0;
}

struct keyring *keyring_ref(struct keyring *r)
{
    r->refs++;
    return r;
}

void keyring_unref(struct keyring **rp)
{
    struct keyring *r = *rp;
    *rp = NULL;
    if (!r || --r->refs > 0)
        return;
    for (int i = 0; i < r->n; i++)
        free(r->keys[i].models);
    free(r->keys);
    free(r);
}
