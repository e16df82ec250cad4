/* api/page.c - GET /: the page of page.html, compiled in. It asks this server only, and its policy says so:
 * what it runs must have the nonce of this answer. */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "api/internal.h"
#include "api/page_html.h"

#define MARK "@NONCE@"

struct api_exchange *handle_page(struct api *a, const struct api_request *req, const struct reply *r)
{
    unsigned char bytes[16];
    char nonce[2 * sizeof(bytes) + 1], policy[512];
    struct buf page;
    (void)a;
    (void)req;
    int ok = getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) == (ssize_t)sizeof(bytes) ? 0 : ERR_STATE;
    for (size_t i = 0; i < sizeof(bytes) && ok == 0; i++)
        snprintf(nonce + 2 * i, 3, "%02x", bytes[i]);
    buf_init(&page, 2 * sizeof(page_html));
    for (const char *s = page_html; *s && ok == 0;) {
        const char *mark = strstr(s, MARK);
        ok = buf_append(&page, s, mark ? (size_t)(mark - s) : strlen(s));
        if (mark && ok == 0)
            ok = buf_puts(&page, nonce);
        s = mark ? mark + strlen(MARK) : s + strlen(s);
    }
    if (ok < 0) {
        reply_error_full(r, 503, "unavailable", NULL, "the page cannot be made now", 1, NULL);
    } else {
        snprintf(policy, sizeof(policy),
                 "default-src 'none'; style-src 'nonce-%s'; script-src 'nonce-%s'; connect-src 'self'; "
                 "img-src data:; "
                 "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                 nonce, nonce);
        const struct api_header headers[] = {
            {"Content-Security-Policy", policy},
            {"Cache-Control", "no-cache"},
            {"X-Content-Type-Options", "nosniff"},
        };
        reply_typed(r, "text/html; charset=utf-8", headers, 3, page.data, page.n_bytes);
    }
    buf_done(&page);
    return NULL;
}
