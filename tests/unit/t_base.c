/* tests/unit/t_base.c - base/ without threads: buf, arena, err, clock, hash, log, cpu, utf8. What is
 * made for several threads (mailbox, metrics) stands in t_shared.c. */
#include "config.h"

#include <check.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/place.h"
#include "base/utf8.h"

static unsigned long long seed;

/* --- buf --------------------------------------------------------------------------------------- */

START_TEST(test_buf)
{
    struct buf b;
    buf_init(&b, 1000);
    ck_assert_uint_eq(b.n_bytes, 0);
    ck_assert_int_eq(buf_append(&b, "ab\0cd", 5), 0);
    ck_assert_int_eq(buf_append(&b, NULL, 0), 0);
    ck_assert_int_eq(buf_puts(&b, "efg"), 0);
    ck_assert_int_eq(buf_printf(&b, "%d-%s", 42, "x"), 0);
    ck_assert_uint_eq(b.n_bytes, 12);
    ck_assert_mem_eq(b.data, "ab\0cdefg42-x", 13); /* with the NUL */
    buf_consume(&b, 3);
    ck_assert_str_eq(b.data, "cdefg42-x");
    ck_assert_uint_eq(b.n_bytes, 9);
    buf_consume(&b, 0);
    ck_assert_uint_eq(b.n_bytes, 9);
    buf_consume(&b, 1000); /* more than there is: all of it */
    ck_assert_uint_eq(b.n_bytes, 0);
    ck_assert_str_eq(b.data, "");
    ck_assert_int_eq(buf_puts(&b, "again"), 0);
    buf_reset(&b);
    ck_assert_uint_eq(b.n_bytes, 0);
    ck_assert_str_eq(b.data, "");
    buf_shed(&b, b.cap_bytes); /* no more than that */
    ck_assert_ptr_nonnull(b.data);
    buf_shed(&b, 16);
    ck_assert_ptr_null(b.data);
    ck_assert_int_eq(buf_puts(&b, "mine"), 0);
    buf_shed(&b, 0); /* not empty */
    ck_assert_str_eq(b.data, "mine");
    size_t n = 0;
    char *p = buf_take(&b, &n);
    ck_assert_str_eq(p, "mine");
    ck_assert_uint_eq(n, 4);
    ck_assert_ptr_null(b.data);
    ck_assert_uint_eq(b.n_bytes, 0);
    free(p);
    ck_assert_int_eq(buf_puts(&b, "more"), 0); /* still usable, with its maximum */
    ck_assert_uint_eq(b.max_bytes, 1000);
    buf_done(&b);
    ck_assert_ptr_null(b.data);
    ck_assert_ptr_null(buf_take(&b, NULL));
}
END_TEST

START_TEST(test_buf_limit)
{
    struct buf b;
    char big[300];
    memset(big, 'x', sizeof(big));
    buf_init(&b, 10);
    ck_assert_int_eq(buf_puts(&b, "12345"), 0);
    ck_assert_int_eq(buf_puts(&b, "678901"), ERR_LIMIT);
    ck_assert_int_eq(buf_printf(&b, "%s", "678901"), ERR_LIMIT);
    ck_assert_int_eq(buf_append(&b, big, sizeof(big)), ERR_LIMIT);
    ck_assert_int_eq(buf_reserve(&b, SIZE_MAX), ERR_LIMIT);
    ck_assert_str_eq(b.data, "12345");
    ck_assert_int_eq(buf_printf(&b, "%s", "67890"), 0); /* to the last byte */
    ck_assert_int_eq(buf_puts(&b, ""), 0);
    ck_assert_int_eq(buf_puts(&b, "x"), ERR_LIMIT);
    ck_assert_str_eq(b.data, "1234567890");
    buf_done(&b);
    buf_init(&b, 0);
    ck_assert_int_eq(buf_puts(&b, ""), 0);
    ck_assert_str_eq(b.data, "");
    ck_assert_int_eq(buf_puts(&b, "x"), ERR_LIMIT);
    buf_done(&b);
    /* no maximum but memory */
    buf_init(&b, SIZE_MAX);
    ck_assert_int_eq(buf_puts(&b, "abc"), 0);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(buf_append(&b, big, sizeof(big)), 0);
    ck_assert_uint_eq(b.n_bytes, 30003);
    ck_assert_int_eq(buf_reserve(&b, SIZE_MAX - 30003), ERR_NOMEM);
    ck_assert_int_eq(buf_reserve(&b, SIZE_MAX), ERR_LIMIT);
    ck_assert_int_eq(b.data[30003], 0);
    buf_done(&b);
}
END_TEST

/* Random operations against plain arrays. */
START_TEST(test_buf_random)
{
    enum { MAX = 5000 };
    static char model[MAX + 1], piece[2000];
    struct buf b;
    size_t n = 0;
    buf_init(&b, MAX);
    for (int i = 0; i < 20000; i++) {
        size_t k = (size_t)rand() % (rand() % 4 ? 50 : sizeof(piece));
        for (size_t j = 0; j < k; j++)
            piece[j] = (char)('a' + rand() % 26);
        switch (rand() % 3) {
        case 0:
            buf_consume(&b, k);
            k = k < n ? k : n;
            memmove(model, model + k, n - k);
            n -= k;
            break;
        default: {
            int r = buf_append(&b, piece, k);
            if ((r == 0) != (n + k <= MAX))
                ck_abort_msg("append of %zu to %zu answers %d, seed %llu", k, n, r, seed);
            if (r == 0) {
                memcpy(model + n, piece, k);
                n += k;
            }
        }
        }
        if (b.n_bytes != n || (n && memcmp(b.data, model, n)) || (b.data && b.data[n]))
            ck_abort_msg("contents differ after %d operations, seed %llu", i, seed);
    }
    buf_done(&b);
}
END_TEST

/* --- arena ------------------------------------------------------------------------------------- */

START_TEST(test_arena)
{
    struct arena *a = arena_new(1 << 20);
    unsigned char *p[200];
    size_t n[200];
    ck_assert_ptr_nonnull(a);
    for (int i = 0; i < 200; i++) {
        n[i] = (size_t)(rand() % (i % 20 ? 200 : 9000));
        p[i] = arena_alloc(a, n[i]);
        ck_assert_ptr_nonnull(p[i]);
        ck_assert_uint_eq((uintptr_t)p[i] % 16, 0);
        for (size_t k = 0; k < n[i]; k++)
            if (p[i][k])
                ck_abort_msg("not zeroed");
        memset(p[i], i, n[i]);
    }
    for (int i = 0; i < 200; i++) /* nothing overlaps */
        for (size_t k = 0; k < n[i]; k++)
            if (p[i][k] != (unsigned char)i)
                ck_abort_msg("block %d was overwritten, seed %llu", i, seed);
    char *s = arena_strndup(a, "hello world", 5);
    ck_assert_str_eq(s, "hello");
    ck_assert_str_eq(arena_strndup(a, "", 0), "");
    ck_assert_mem_eq(arena_memdup(a, "a\0b", 3), "a\0b", 3);
    ck_assert_ptr_nonnull(arena_memdup(a, NULL, 0));
    ck_assert_ptr_nonnull(arena_array(a, 10, 8));
    ck_assert_ptr_nonnull(arena_array(a, 10, 0));
    arena_free(a);
    arena_free(NULL);
}
END_TEST

START_TEST(test_arena_limit)
{
    struct arena *a = arena_new(1000);
    ck_assert_ptr_null(arena_alloc(a, 1001));
    ck_assert_ptr_null(arena_alloc(a, SIZE_MAX));
    ck_assert_ptr_null(arena_alloc(a, SIZE_MAX - 15));
    ck_assert_ptr_null(arena_array(a, SIZE_MAX / 2, 3));
    ck_assert_ptr_null(arena_array(a, (size_t)1 << 33, (size_t)1 << 33));
    ck_assert_ptr_null(arena_strndup(a, "", SIZE_MAX));
    ck_assert_ptr_nonnull(arena_alloc(a, 900));
    ck_assert_ptr_null(arena_alloc(a, 101));
    ck_assert_ptr_nonnull(arena_alloc(a, 80)); /* what failed took nothing */
    int n = 0;
    while (arena_alloc(a, 0)) /* even nothing counts: an endless loop of it ends */
        n++;
    ck_assert_int_le(n, 1);
    arena_free(a);
    a = arena_new(SIZE_MAX);
    ck_assert_ptr_nonnull(arena_alloc(a, 100000));
    ck_assert_ptr_null(arena_alloc(a, SIZE_MAX - 100));
    arena_free(a);
}
END_TEST

/* --- err, clock, hash -------------------------------------------------------------------------- */

START_TEST(test_err)
{
    struct err e = {0};
    char big[1000];
    memset(big, 'y', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    ck_assert_int_eq(err_set(&e, ERR_IO, "cannot read %s: %d", "f", 7), ERR_IO);
    ck_assert_int_eq(e.code, ERR_IO);
    ck_assert_str_eq(e.text, "cannot read f: 7");
    ck_assert_str_eq(e.param, "");
    ck_assert_int_eq(err_set_param(&e, ERR_INVAL, "top_p", "top_p is %g", 1.5), ERR_INVAL);
    ck_assert_str_eq(e.param, "top_p");
    ck_assert_str_eq(e.text, "top_p is 1.5");
    ck_assert_int_eq(err_set_param(&e, ERR_INVAL, big, "%s", big), ERR_INVAL);
    ck_assert_uint_eq(strlen(e.param), sizeof(e.param) - 1);
    ck_assert_uint_eq(strlen(e.text), sizeof(e.text) - 1);
    ck_assert_int_eq(err_set(NULL, ERR_BUSY, "x"), ERR_BUSY);
    ck_assert_int_eq(err_set_param(NULL, ERR_BUSY, "x", "y"), ERR_BUSY);
    for (int c = ERR_INTERNAL; c <= ERR_INVAL; c++) { /* each code has a name of its own */
        ck_assert_str_ne(err_name(c), err_name(1));
        for (int d = ERR_INTERNAL; d < c; d++)
            ck_assert_str_ne(err_name(c), err_name(d));
    }
    ck_assert_ptr_nonnull(err_name(12345));
    ck_assert_str_ne(err_name(0), err_name(1));
}
END_TEST

START_TEST(test_clock)
{
    int64_t a = clock_now_ns(), wall = clock_wall_ns();
    for (int i = 0; i < 1000; i++) {
        int64_t b = clock_now_ns();
        ck_assert_int_ge(b, a);
        a = b;
    }
    struct timespec t = {0, 2 * NS_PER_MS};
    nanosleep(&t, NULL);
    ck_assert_int_ge(clock_now_ns() - a, 2 * NS_PER_MS);
    ck_assert_int_le(llabs(wall / NS_PER_SEC - (long long)time(NULL)), 5);
}
END_TEST

static int same_hash(struct hash128 a, struct hash128 b)
{
    return a.lo == b.lo && a.hi == b.hi;
}

START_TEST(test_hash)
{
    unsigned char p[64] = {0};
    int32_t t[16];
    struct hash128 root = {1, 2}, other = {1, 3}, third = {2, 2};
    for (int i = 0; i < 16; i++)
        t[i] = i;
    struct hash128 h = hash128_bytes(p, 64, 0), c = hash128_chain(root, t, 16);
    ck_assert(same_hash(h, hash128_bytes(p, 64, 0)));
    ck_assert(!same_hash(h, hash128_bytes(p, 63, 0)));
    ck_assert(!same_hash(h, hash128_bytes(p, 64, 1)));
    for (int bit = 0; bit < 512; bit++) {
        p[bit / 8] ^= (unsigned char)(1 << bit % 8);
        ck_assert(!same_hash(h, hash128_bytes(p, 64, 0)));
        ck_assert_uint_ne(hash64_bytes(p, 64, 5), hash64_bytes(p, 63, 5));
        p[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    ck_assert(same_hash(c, hash128_chain(root, t, 16)));
    ck_assert(!same_hash(c, hash128_chain(other, t, 16))); /* each half of the parent counts */
    ck_assert(!same_hash(c, hash128_chain(third, t, 16)));
    ck_assert(!same_hash(c, hash128_chain(root, t, 15)));
    /* order counts, within a block and between blocks */
    t[0] = 1, t[1] = 0;
    ck_assert(!same_hash(c, hash128_chain(root, t, 16)));
    struct hash128 ab = hash128_chain(hash128_chain(root, t, 8), t + 8, 8);
    struct hash128 ba = hash128_chain(hash128_chain(root, t + 8, 8), t, 8);
    ck_assert(!same_hash(ab, ba));
    ck_assert_uint_ne(hash64_bytes(p, 8, 0), hash64_bytes(p, 8, 1));
}
END_TEST

/* --- log, cpu ---------------------------------------------------------------------------------- */

/* What one call writes to stderr. */
static size_t logged(char *dst, size_t room, enum log_level level, const char *source,
                     const char *text)
{
    FILE *f = tmpfile();
    int old = dup(2);
    ck_assert_ptr_nonnull(f);
    ck_assert_int_ge(dup2(fileno(f), 2), 0);
    if (getenv("LOG_TO_JOURNAL")) { /* what the service manager says of it */
        struct stat st;
        char named[64];
        ck_assert_int_eq(fstat(2, &st), 0);
        snprintf(named, sizeof(named), "%llu:%llu", (unsigned long long)st.st_dev,
                 (unsigned long long)st.st_ino);
        setenv("JOURNAL_STREAM", named, 1);
    }
    log_write(level, source, "%s", text);
    ck_assert_int_ge(dup2(old, 2), 0);
    close(old);
    rewind(f);
    size_t n = fread(dst, 1, room - 1, f);
    dst[n] = 0;
    fclose(f);
    return n;
}

START_TEST(test_log)
{
    char line[8000], big[5000];
    ck_assert_int_eq(log_level_parse("error"), LOG_LVL_ERROR);
    ck_assert_int_eq(log_level_parse("warn"), LOG_LVL_WARN);
    ck_assert_int_eq(log_level_parse("info"), LOG_LVL_INFO);
    ck_assert_int_eq(log_level_parse("debug"), LOG_LVL_DEBUG);
    ck_assert_int_eq(log_level_parse("Info"), -1);
    ck_assert_int_eq(log_level_parse(""), -1);
    ck_assert_int_eq(log_level_parse("information"), -1);
    unsetenv("JOURNAL_STREAM");
    log_set_level(LOG_LVL_WARN);
    ck_assert_uint_eq(logged(line, sizeof(line), LOG_LVL_INFO, "t", "quiet"), 0);
    ck_assert_uint_gt(logged(line, sizeof(line), LOG_LVL_WARN, "t", "loud"), 0);
    int y, mo, d, h, mi, s, ms, at = 0;
    ck_assert_int_eq(sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &y, &mo, &d, &h, &mi, &s, &ms,
                            &at), 7);
    ck_assert_str_eq(line + at, "warn  t: loud\n");
    /* one call is one line, whatever a client put into it */
    logged(line, sizeof(line), LOG_LVL_ERROR, "t", "a\nb\r\x1b[31mc\x01");
    ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
    ck_assert_ptr_nonnull(strstr(line, "t: a b  [31mc \n"));
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    size_t n = logged(line, sizeof(line), LOG_LVL_ERROR, "t", big);
    ck_assert_uint_gt(n, 1000);
    ck_assert_uint_lt(n, 2049);
    ck_assert_int_eq(line[n - 1], '\n');
    setenv("JOURNAL_STREAM", "8:1", 1); /* of a service that we were started from, and not ours */
    logged(line, sizeof(line), LOG_LVL_WARN, "t", "x");
    ck_assert_str_eq(line + at, "warn  t: x\n");
    setenv("LOG_TO_JOURNAL", "1", 1);
    logged(line, sizeof(line), LOG_LVL_WARN, "t", "x");
    ck_assert_str_eq(line, "<4>t: x\n");
    unsetenv("LOG_TO_JOURNAL");
    unsetenv("JOURNAL_STREAM");
}
END_TEST

START_TEST(test_cpu)
{
    enum cpu_level best = cpu_detect();
    ck_assert_int_lt((int)best, CPU_LEVEL_MAX);
    ck_assert_int_eq(cpu_level_available(CPU_GENERIC), 1);
    ck_assert_int_eq(cpu_level_available(best), 1);
    for (int i = 0; i < CPU_LEVEL_MAX; i++)
        ck_assert_int_eq(cpu_level_parse(cpu_level_name((enum cpu_level)i)), i);
    ck_assert_int_eq(cpu_level_parse("AVX2"), -1);
    ck_assert_int_eq(cpu_level_parse(""), -1);
    ck_assert_str_eq(cpu_level_name(CPU_LEVEL_MAX), "unknown");
    ck_assert_uint_gt(strlen(cpu_brand()), 0);
#if defined(__x86_64__)
    ck_assert_int_eq(cpu_level_available(CPU_NEON), 0);
    ck_assert(!cpu_has_avx512_bf16() || cpu_level_available(CPU_AVX512));
    ck_assert(!cpu_level_available(CPU_AMX) || cpu_level_available(CPU_AVX512));
    if (cpu_level_available(CPU_AVX2))
        ck_assert(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    if (cpu_level_available(CPU_AVX512))
        ck_assert(__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni"));
#endif
}
END_TEST

/* --- utf8 -------------------------------------------------------------------------------------- */

static const struct {
    const char *s;
    int valid, complete;
    const char *clean;
} texts[] = {
#define R "\xef\xbf\xbd"
    {"", 1, 0, ""},
    {"abc", 1, 3, "abc"},
    {"\xc3\xa9", 1, 2, "\xc3\xa9"},
    {"\xe2\x82\xac", 1, 3, "\xe2\x82\xac"},
    {"\xf0\x9f\x98\x80", 1, 4, "\xf0\x9f\x98\x80"},
    {"\xf4\x8f\xbf\xbf", 1, 4, "\xf4\x8f\xbf\xbf"},
    {"\xed\x9f\xbf\xee\x80\x80", 1, 6, "\xed\x9f\xbf\xee\x80\x80"},
    /* unfinished at the end */
    {"a\xc3", 0, 1, "a" R},
    {"a\xe2\x82", 0, 1, "a" R},
    {"a\xe2", 0, 1, "a" R},
    {"a\xf0\x9f\x98", 0, 1, "a" R},
    {"a\xf0\x9f", 0, 1, "a" R},
    {"a\xf0", 0, 1, "a" R},
    /* can no longer become a character */
    {"\xc0\xaf", 0, 2, R R},
    {"\xc1", 0, 1, R},
    {"\xe0\x80\xaf", 0, 3, R R R},
    {"\xe0\x9f", 0, 2, R R},
    {"\xed\xa0\x80", 0, 3, R R R},
    {"\xed\xa0", 0, 2, R R},
    {"\xf0\x80\x80\xaf", 0, 4, R R R R},
    {"\xf0\x8f", 0, 2, R R},
    {"\xf4\x90", 0, 2, R R},
    {"\xf4\x91\x92\x93", 0, 4, R R R R},
    {"\xf5", 0, 1, R},
    {"\xff", 0, 1, R},
    {"\x80\xbf", 0, 2, R R},
    {"\xe2\x82\x41", 0, 3, R "A"},
    {"\xc3\xc3\xa9", 0, 3, R "\xc3\xa9"},
    /* the example of the Unicode standard, table 3-11 */
    {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 0, 9, R R R R "A"},
#undef R
};

START_TEST(test_utf8_table)
{
    char dst[64];
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        size_t n = strlen(texts[i].s);
        ck_assert_msg(utf8_valid(texts[i].s, n) == texts[i].valid, "valid of text %zu", i);
        ck_assert_msg(utf8_complete_bytes(texts[i].s, n) == (size_t)texts[i].complete,
                      "complete of text %zu", i);
        size_t m = utf8_sanitize(texts[i].s, n, dst);
        ck_assert_msg(m == strlen(texts[i].clean) && memcmp(dst, texts[i].clean, m) == 0,
                      "clean form of text %zu", i);
    }
    ck_assert_int_eq(utf8_valid("a\0b", 3), 1);
}
END_TEST

/* Every code point, written by the definition, and every pair and triple of interesting bytes against
 * the set of those that can begin a character. */
static int encode(unsigned c, char *p)
{
    if (c < 0x80) {
        p[0] = (char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (int i = n - 1; i > 0; i--, c >>= 6)
        p[i] = (char)(0x80 | (c & 63));
    p[0] = (char)(first[n] | c);
    return n;
}

START_TEST(test_utf8_all)
{
    char p[4], dst[12];
    for (unsigned c = 0; c < 0x120000; c++) {
        int n = encode(c, p), good = c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
        if (utf8_valid(p, (size_t)n) != good)
            ck_abort_msg("U+%04X", c);
        if (utf8_complete_bytes(p, (size_t)n) != (size_t)n)
            ck_abort_msg("U+%04X is whole", c);
        if (good && (utf8_sanitize(p, (size_t)n, dst) != (size_t)n || memcmp(p, dst, (size_t)n)))
            ck_abort_msg("U+%04X changes", c);
        for (int k = 1; good && k < n; k++)
            if (utf8_complete_bytes(p, (size_t)k) != 0)
                ck_abort_msg("U+%04X cut after %d bytes", c, k);
    }
}
END_TEST

/* Text cut anywhere and fed through utf8_complete_bytes, as streaming does, is the text; what
 * sanitize gives is valid and leaves the valid parts alone. */
START_TEST(test_utf8_random)
{
    static char s[600], out[1800], pieces[600];
    for (int round = 0; round < 3000; round++) {
        size_t n = 0;
        int clean = rand() % 2;
        while (n < 500) {
            if (!clean && rand() % 3 == 0)
                s[n++] = (char)rand();
            else {
                unsigned c = rand() % 4 ? (unsigned)rand() % 0x3000 : (unsigned)rand() % 0x110000;
                if (c < 0xd800 || c > 0xdfff)
                    n += (size_t)encode(c, s + n);
            }
        }
        size_t m = utf8_sanitize(s, n, out);
        if (m > 3 * n || !utf8_valid(out, m))
            ck_abort_msg("not valid after sanitize, seed %llu", seed);
        if (utf8_valid(s, n) && (m != n || memcmp(s, out, n)))
            ck_abort_msg("valid text changed, seed %llu", seed);
        if (clean && !utf8_valid(s, n))
            ck_abort_msg("text is valid, seed %llu", seed);
        size_t from = 0, to = 0, kept = 0;
        while (to < n) {
            to += 1 + (size_t)rand() % 5;
            to = to < n ? to : n;
            size_t k = utf8_complete_bytes(s + from, to - from);
            if (to - from - k > 3)
                ck_abort_msg("%zu bytes held back, seed %llu", to - from - k, seed);
            if (clean && !utf8_valid(s + from, k))
                ck_abort_msg("cut inside a character, seed %llu", seed);
            memcpy(pieces + kept, s + from, k);
            kept += k;
            from += k;
        }
        if (clean && kept != n)
            ck_abort_msg("the end is held back, seed %llu", seed);
        if (memcmp(pieces, s, kept))
            ck_abort_msg("pieces differ, seed %llu", seed);
    }
}
END_TEST

START_TEST(test_place_lists)
{
    ck_assert_int_eq(place_list_has("0-3,8\n", 0), 1);
    ck_assert_int_eq(place_list_has("0-3,8\n", 3), 1);
    ck_assert_int_eq(place_list_has("0-3,8\n", 4), 0);
    ck_assert_int_eq(place_list_has("0-3,8\n", 8), 1);
    ck_assert_int_eq(place_list_has("5", 5), 1);
    ck_assert_int_eq(place_list_has("15", 5), 0);
    ck_assert_int_eq(place_list_has("", 0), 0);
    ck_assert_int_eq(place_list_has("x", 0), 0);
}
END_TEST

/* Each processor of the mask once, however many are asked for; memory stays usable. */
START_TEST(test_place)
{
    enum { SOME = 2048, BYTES = 4 << 20 };
    int cpus[SOME], seen[SOME] = {0};
    cpu_set_t set;
    ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
    int n = place_cpus(cpus, SOME);
    ck_assert_int_eq(n, CPU_COUNT(&set));
    for (int i = 0; i < n; i++) {
        ck_assert(CPU_ISSET(cpus[i], &set));
        ck_assert_int_eq(seen[cpus[i]]++, 0);
    }
    ck_assert_int_eq(place_cpus(cpus, 1), 1);
    unsigned char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(p != MAP_FAILED);
    place_interleave(p, BYTES);
    memset(p, 7, BYTES);
    ck_assert_int_eq(p[BYTES - 1], 7);
    munmap(p, BYTES);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    srand((unsigned)seed);
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("base");
    TCase *tc = tcase_create("base");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_buf);
    tcase_add_test(tc, test_buf_limit);
    tcase_add_test(tc, test_buf_random);
    tcase_add_test(tc, test_arena);
    tcase_add_test(tc, test_arena_limit);
    tcase_add_test(tc, test_err);
    tcase_add_test(tc, test_clock);
    tcase_add_test(tc, test_hash);
    tcase_add_test(tc, test_log);
    tcase_add_test(tc, test_cpu);
    tcase_add_test(tc, test_place_lists);
    tcase_add_test(tc, test_place);
    tcase_add_test(tc, test_utf8_table);
    tcase_add_test(tc, test_utf8_all);
    tcase_add_test(tc, test_utf8_random);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
