/* api/template_text.c - see template_text.h. Simple case pairs and classes come from the C
 * library's C.UTF-8 locale; letters whose upper case is several characters are in a table here. */
#include "config.h"

#include "api/template_text.h"

#include <locale.h>
#include <pthread.h>
#include <string.h>
#include <wctype.h>

static locale_t utf8_locale;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_locale(void)
{
    utf8_locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!utf8_locale)
        utf8_locale = newlocale(LC_CTYPE_MASK, "C", (locale_t)0);
}

size_t text_char_bytes(const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;
    size_t k = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    return k <= n ? k : n;
}

uint32_t text_code_point(const char *s, size_t n, size_t *ret_bytes)
{
    size_t k = text_char_bytes(s, n);
    uint32_t c = (unsigned char)*s;
    c &= k == 1 ? 0xff : k == 2 ? 0x1f : k == 3 ? 0x0f : 0x07;
    for (size_t i = 1; i < k; i++)
        c = c << 6 | ((unsigned char)s[i] & 0x3f);
    *ret_bytes = k;
    return c;
}

size_t text_encode(uint32_t c, char dst[4])
{
    if (c < 0x80) {
        dst[0] = (char)c;
        return 1;
    }
    size_t k = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = k; i-- > 1; c >>= 6)
        dst[i] = (char)(0x80 | (c & 0x3f));
    dst[0] = (char)((0xf00 >> k & 0xff) | c);
    return k;
}

size_t text_chars(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

size_t text_offset(const char *s, size_t n, size_t i)
{
    size_t at = 0;
    while (i > 0 && at < n) {
        at += text_char_bytes(s + at, n - at);
        i--;
    }
    return at;
}

size_t text_line(const char *s, size_t n, size_t *ret_end)
{
    size_t k = 0, at = 0;
    *ret_end = 0;
    for (; at < n; at += k) {
        uint32_t c = text_code_point(s + at, n - at, &k);
        if ((c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029) {
            *ret_end = k + (c == '\r' && at + k < n && s[at + k] == '\n');
            break;
        }
    }
    return at;
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t text_space(const char *s, size_t n)
{
    size_t k = 0;
    return n && is_space(text_code_point(s, n, &k)) ? k : 0;
}

size_t text_lstrip(const char *s, size_t n)
{
    size_t at = 0, k;
    while (at < n && (k = text_space(s + at, n - at)) > 0)
        at += k;
    return at;
}

size_t text_rstrip(const char *s, size_t n)
{
    while (n > 0) {
        size_t at = n - 1;
        while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80)
            at--;
        if (!text_space(s + at, n - at))
            break;
        n = at;
    }
    return n;
}

bool text_is(uint32_t c, enum text_class k)
{
    pthread_once(&once, make_locale);
    switch (k) {
    case TEXT_ALPHA:
        return iswalpha_l(c, utf8_locale) && !(c >= '0' && c <= '9');
    case TEXT_DIGIT:
        return c < 0x80 ? c >= '0' && c <= '9' : iswdigit_l(c, utf8_locale) != 0;
    case TEXT_ALNUM:
        return iswalnum_l(c, utf8_locale) != 0;
    case TEXT_SPACE:
        return is_space(c);
    case TEXT_UPPER:
        return iswupper_l(c, utf8_locale) != 0;
    case TEXT_LOWER:
        return iswlower_l(c, utf8_locale) != 0;
    }
    return false;
}

/* Letters with an upper or title case of their own kind: upper, title. */
static const struct special {
    uint32_t c;
    const char *upper, *title;
} specials[] = {
    {0xdf, "SS", "Ss"}, {0x149, "ʼN", "ʼN"}, {0x1c4, "Ǆ", "ǅ"}, {0x1c5, "Ǆ", "ǅ"},
    {0x1c6, "Ǆ", "ǅ"}, {0x1c7, "Ǉ", "ǈ"}, {0x1c8, "Ǉ", "ǈ"}, {0x1c9, "Ǉ", "ǈ"},
    {0x1ca, "Ǌ", "ǋ"}, {0x1cb, "Ǌ", "ǋ"}, {0x1cc, "Ǌ", "ǋ"}, {0x1f0, "J̌", "J̌"},
    {0x1f1, "Ǳ", "ǲ"}, {0x1f2, "Ǳ", "ǲ"}, {0x1f3, "Ǳ", "ǲ"}, {0x390, "Ϊ́", "Ϊ́"},
    {0x3b0, "Ϋ́", "Ϋ́"}, {0x587, "ԵՒ", "Եւ"}, {0x1e96, "H̱", "H̱"},
    {0x1e97, "T̈", "T̈"}, {0x1e98, "W̊", "W̊"}, {0x1e99, "Y̊", "Y̊"},
    {0x1e9a, "Aʾ", "Aʾ"}, {0x1f50, "Υ̓", "Υ̓"}, {0x1f52, "Υ̓̀", "Υ̓̀"},
    {0x1f54, "Υ̓́", "Υ̓́"}, {0x1f56, "Υ̓͂", "Υ̓͂"}, {0x1f80, "ἈΙ", "ᾈ"},
    {0x1f81, "ἉΙ", "ᾉ"}, {0x1f82, "ἊΙ", "ᾊ"}, {0x1f83, "ἋΙ", "ᾋ"},
    {0x1f84, "ἌΙ", "ᾌ"}, {0x1f85, "ἍΙ", "ᾍ"}, {0x1f86, "ἎΙ", "ᾎ"},
    {0x1f87, "ἏΙ", "ᾏ"}, {0x1f88, "ἈΙ", "ᾈ"}, {0x1f89, "ἉΙ", "ᾉ"},
    {0x1f8a, "ἊΙ", "ᾊ"}, {0x1f8b, "ἋΙ", "ᾋ"}, {0x1f8c, "ἌΙ", "ᾌ"},
    {0x1f8d, "ἍΙ", "ᾍ"}, {0x1f8e, "ἎΙ", "ᾎ"}, {0x1f8f, "ἏΙ", "ᾏ"},
    {0x1f90, "ἨΙ", "ᾘ"}, {0x1f91, "ἩΙ", "ᾙ"}, {0x1f92, "ἪΙ", "ᾚ"},
    {0x1f93, "ἫΙ", "ᾛ"}, {0x1f94, "ἬΙ", "ᾜ"}, {0x1f95, "ἭΙ", "ᾝ"},
    {0x1f96, "ἮΙ", "ᾞ"}, {0x1f97, "ἯΙ", "ᾟ"}, {0x1f98, "ἨΙ", "ᾘ"},
    {0x1f99, "ἩΙ", "ᾙ"}, {0x1f9a, "ἪΙ", "ᾚ"}, {0x1f9b, "ἫΙ", "ᾛ"},
    {0x1f9c, "ἬΙ", "ᾜ"}, {0x1f9d, "ἭΙ", "ᾝ"}, {0x1f9e, "ἮΙ", "ᾞ"},
    {0x1f9f, "ἯΙ", "ᾟ"}, {0x1fa0, "ὨΙ", "ᾨ"}, {0x1fa1, "ὩΙ", "ᾩ"},
    {0x1fa2, "ὪΙ", "ᾪ"}, {0x1fa3, "ὫΙ", "ᾫ"}, {0x1fa4, "ὬΙ", "ᾬ"},
    {0x1fa5, "ὭΙ", "ᾭ"}, {0x1fa6, "ὮΙ", "ᾮ"}, {0x1fa7, "ὯΙ", "ᾯ"},
    {0x1fa8, "ὨΙ", "ᾨ"}, {0x1fa9, "ὩΙ", "ᾩ"}, {0x1faa, "ὪΙ", "ᾪ"},
    {0x1fab, "ὫΙ", "ᾫ"}, {0x1fac, "ὬΙ", "ᾬ"}, {0x1fad, "ὭΙ", "ᾭ"},
    {0x1fae, "ὮΙ", "ᾮ"}, {0x1faf, "ὯΙ", "ᾯ"}, {0x1fb2, "ᾺΙ", "Ὰͅ"},
    {0x1fb3, "ΑΙ", "ᾼ"}, {0x1fb4, "ΆΙ", "Άͅ"}, {0x1fb6, "Α͂", "Α͂"},
    {0x1fb7, "Α͂Ι", "ᾼ͂"}, {0x1fbc, "ΑΙ", "ᾼ"}, {0x1fc2, "ῊΙ", "Ὴͅ"},
    {0x1fc3, "ΗΙ", "ῌ"}, {0x1fc4, "ΉΙ", "Ήͅ"}, {0x1fc6, "Η͂", "Η͂"},
    {0x1fc7, "Η͂Ι", "ῌ͂"}, {0x1fcc, "ΗΙ", "ῌ"}, {0x1fd2, "Ϊ̀", "Ϊ̀"},
    {0x1fd3, "Ϊ́", "Ϊ́"}, {0x1fd6, "Ι͂", "Ι͂"}, {0x1fd7, "Ϊ͂", "Ϊ͂"},
    {0x1fe2, "Ϋ̀", "Ϋ̀"}, {0x1fe3, "Ϋ́", "Ϋ́"}, {0x1fe4, "Ρ̓", "Ρ̓"},
    {0x1fe6, "Υ͂", "Υ͂"}, {0x1fe7, "Ϋ͂", "Ϋ͂"}, {0x1ff2, "ῺΙ", "Ὼͅ"},
    {0x1ff3, "ΩΙ", "ῼ"}, {0x1ff4, "ΏΙ", "Ώͅ"}, {0x1ff6, "Ω͂", "Ω͂"},
    {0x1ff7, "Ω͂Ι", "ῼ͂"}, {0x1ffc, "ΩΙ", "ῼ"}, {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"}, {0xfb02, "FL", "Fl"}, {0xfb03, "FFI", "Ffi"}, {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"}, {0xfb06, "ST", "St"}, {0xfb13, "ՄՆ", "Մն"},
    {0xfb14, "ՄԵ", "Մե"}, {0xfb15, "ՄԻ", "Մի"}, {0xfb16, "ՎՆ", "Վն"},
    {0xfb17, "ՄԽ", "Մխ"},
};

size_t text_upper(uint32_t c, bool title, char dst[12])
{
    size_t lo = 0, hi = sizeof(specials) / sizeof(*specials);
    if (c < 0x80) {
        dst[0] = (char)(c >= 'a' && c <= 'z' ? c - 32 : c);
        return 1;
    }
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (specials[mid].c < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < sizeof(specials) / sizeof(*specials) && specials[lo].c == c) {
        const char *s = title ? specials[lo].title : specials[lo].upper;
        memcpy(dst, s, strlen(s));
        return strlen(s);
    }
    if (title && c >= 0x10d0 && c <= 0x10ff) /* Georgian has no title case */
        return text_encode(c, dst);
    pthread_once(&once, make_locale);
    return text_encode(towupper_l(c, utf8_locale), dst);
}

size_t text_lower(uint32_t c, char dst[12])
{
    if (c < 0x80) {
        dst[0] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        return 1;
    }
    if (c == 0x130) {
        memcpy(dst, "i\xcc\x87", 3);
        return 3;
    }
    pthread_once(&once, make_locale);
    return text_encode(towlower_l(c, utf8_locale), dst);
}
