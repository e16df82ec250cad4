/* base/utf8.c - UTF-8 boundaries and validity (Unicode standard, table 3-7). */
#include "config.h"

#include "base/utf8.h"

#include <string.h>

/* Looks at the character at s. Returns its length when whole and valid; 0 when s ends inside what may
 * still become a valid character; else minus the length of the ill-formed part (at least 1). */
static int step(const unsigned char *s, size_t n)
{
    unsigned c = s[0], lo = 0x80, hi = 0xbf;
    int len;
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        lo = c == 0xe0 ? 0xa0 : lo;
        hi = c == 0xed ? 0x9f : hi;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        lo = c == 0xf0 ? 0x90 : lo;
        hi = c == 0xf4 ? 0x8f : hi;
    } else {
        return -1;
    }
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n)
            return 0;
        if (s[i] < lo || s[i] > hi)
            return -i;
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

size_t utf8_complete_bytes(const char *s, size_t n_bytes)
{
    /* Only the last three bytes can belong to an unfinished character. */
    for (size_t back = 1; back <= 3 && back <= n_bytes; back++) {
        const unsigned char *p = (const unsigned char *)s + n_bytes - back;
        if ((*p & 0xc0) == 0x80)
            continue;
        return step(p, back) == 0 ? n_bytes - back : n_bytes;
    }
    return n_bytes;
}

int utf8_valid(const char *s, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes;) {
        int k = step((const unsigned char *)s + i, n_bytes - i);
        if (k <= 0)
            return 0;
        i += (size_t)k;
    }
    return 1;
}

size_t utf8_sanitize(const char *s, size_t n_bytes, char *dst)
{
    size_t out = 0;
    for (size_t i = 0; i < n_bytes;) {
        int k = step((const unsigned char *)s + i, n_bytes - i);
        if (k > 0) {
            memcpy(dst + out, s + i, (size_t)k);
            out += (size_t)k;
            i += (size_t)k;
            continue;
        }
        memcpy(dst + out, "\xef\xbf\xbd", 3);
        out += 3;
        i += k == 0 ? n_bytes - i : (size_t)-k;
    }
    return out;
}
