/* server/cors.c - browsers and other sites' pages: closed unless cors_origins names the page's origin.
 *
 * Credentials in the browser's sense (cookies, client certificates) are never allowed: a key is sent by the
 * page itself. Where no key is needed, what another site's page sends without asking first is refused too:
 * the browser would hide the answer from the page, but the work would be done. */
#include "config.h"

#include <string.h>
#include <strings.h>

#include "server/internal.h"

static bool listed(const char *list, const char *origin)
{
    static const char separators[] = ", \t";
    size_t n = strlen(origin);
    for (list += strspn(list, separators); *list; list += strspn(list, separators)) {
        size_t word = strcspn(list, separators);
        if ((word == 1 && *list == '*') || (word == n && !strncasecmp(list, origin, n)))
            return true;
        list += word;
    }
    return false;
}

static bool allowed(const struct conn *c)
{
    return c->cors.origin[0] && listed(c->s->cfg->cors_origins, c->cors.origin);
}

static bool same_host(const struct conn *c)
{
    const char *host = strstr(c->cors.origin, "://");
    return host && !strcasecmp(host + 3, c->cors.host);
}

static void copy(char *dst, size_t n, const char *value)
{
    /* one that does not fit is nobody's */
    snprintf(dst, n, "%s", strlen(value) < n ? value : "?");
}

void cors_header(struct conn *c, const char *name, const char *value)
{
    if (!strcasecmp(name, "origin"))
        copy(c->cors.origin, sizeof(c->cors.origin), value);
    else if (!strcasecmp(name, "host"))
        copy(c->cors.host, sizeof(c->cors.host), value);
    else if (!strcasecmp(name, "access-control-request-method"))
        c->cors.asks = true;
    else if (!strcasecmp(name, "access-control-request-headers"))
        copy(c->cors.headers, sizeof(c->cors.headers), value);
}

bool cors_is_preflight(const struct conn *c)
{
    return c->parser.method == HTTP_OPTIONS && c->cors.asks && allowed(c);
}

int cors_check(const struct conn *c, const char **text)
{
    bool reads = c->parser.method == HTTP_GET || c->parser.method == HTTP_HEAD;
    if (reads || !c->cors.origin[0] || c->s->keyring->required || allowed(c) || same_host(c))
        return 0;
    *text = "pages of this origin may not send requests here (cors_origins)";
    return 403;
}

void cors_preflight(struct conn *c)
{
    char headers[sizeof(c->cors.headers) + 160];
    bool plain = strspn(c->cors.headers,
                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ") ==
                 strlen(c->cors.headers);
    snprintf(headers, sizeof(headers),
             "Access-Control-Allow-Methods: GET, POST, DELETE\r\n"
             "Access-Control-Allow-Headers: %s\r\n"
             "Access-Control-Max-Age: 600\r\n",
             plain && c->cors.headers[0] ? c->cors.headers : "Authorization, Content-Type, X-Api-Key");
    reply_simple(c, 204, NULL, headers, "", 0);
}

int cors_answer_headers(const struct conn *c, struct buf *out)
{
    if (!*c->s->cfg->cors_origins)
        return 0;
    if (!allowed(c)) /* caches must not give it to one who may */
        return buf_puts(out, "Vary: Origin\r\n");
    return buf_printf(out,
                      "Vary: Origin\r\n"
                      "Access-Control-Allow-Origin: %s\r\n"
                      "Access-Control-Expose-Headers: X-Request-Id, Content-Location, Retry-After, "
                      "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
                      "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
                      "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens\r\n",
                      c->cors.origin);
}
