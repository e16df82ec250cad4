/* server/json.c - see json.h. */
#include "config.h"

#include "server/json.h"

#include <stdlib.h>

#include "base/utf8.h"

int json_string(struct buf *b, const char *text, size_t n_bytes)
{
    char *clean = malloc(3 * n_bytes + 1);
    if (!clean)
        return ERR_NOMEM;
    size_t n = utf8_sanitize(text, n_bytes, clean), from = 0;
    int r = buf_puts(b, "\"");
    for (size_t i = 0; i <= n && r == 0; i++) {
        unsigned char ch = i < n ? (unsigned char)clean[i] : '"';
        if (ch >= ' ' && ch != '"' && ch != '\\')
            continue;
        r = buf_append(b, clean + from, i - from);
        if (r == 0 && i < n)
            r = ch == '"' || ch == '\\' ? buf_printf(b, "\\%c", ch) : buf_printf(b, "\\u%04x", ch);
        from = i + 1;
    }
    free(clean);
    return r < 0 ? r : buf_puts(b, "\"");
}
