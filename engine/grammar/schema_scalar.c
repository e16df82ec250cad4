/* engine/grammar/schema_scalar.c - strings and numbers under a schema. */
#include "config.h"

#include "engine/grammar/schema.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- strings --------------------------------------------------------------------------------------- */

#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define DATE                                                                                         \
    "[0-9]{4}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
#define HOST "(" LABEL "\\.){1,4}[a-z]{2,10}"
#define HEX4 "[0-9a-f]{1,4}"

/* Each a part of what the format allows. */
static const struct {
    const char *name, *regex;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration",
     "P([0-9]{1,4}[DW]|[0-9]{1,4}Y|[0-9]{1,4}M|([0-9]{1,4}D)?T([0-9]{1,4}H([0-9]{1,4}M)?|[0-9]{1,4}[MS]))"},
    {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"},
    {"email", "[a-z0-9_+-]{1,24}(\\.[a-z0-9_+-]{1,24}){0,2}@" HOST},
    {"hostname", HOST},
    {"ipv4", OCTET "(\\." OCTET "){3}"},
    {"ipv6", "((" HEX4 ":){7}" HEX4 "|::1|(" HEX4 ":){1,4}(:" HEX4 "){1,3})"},
    {"uri", "(https?|ftp)://" HOST
            "(:[1-9][0-9]{1,3})?(/[A-Za-z0-9._~-]{1,32}){0,8}/?(\\?[A-Za-z0-9=&_-]{1,64})?"},
};

static struct expr *format_expr(struct schema *c, const cJSON *v)
{
    for (size_t i = 0; cJSON_IsString(v) && i < sizeof(formats) / sizeof(*formats); i++)
        if (!strcmp(v->valuestring, formats[i].name))
            return regex_read(c->b, formats[i].regex, strlen(formats[i].regex), false);
    schema_fail(c, ERR_UNSUPPORTED, "format",
                "must be date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6 or uri");
    return NULL;
}

/* A pattern that is one repeated class can have the lengths for its numbers. */
static struct expr *only_repeat(struct expr *x)
{
    if (x->kind == EXPR_ALT && x->first && x->first == x->last)
        x = x->first;
    if (x->kind == EXPR_SEQ && x->first && x->first == x->last)
        x = x->first;
    return x->kind == EXPR_REPEAT && x->first->kind == EXPR_SET ? x : NULL;
}

static void bound(struct schema *c, struct expr *x, int min, int max)
{
    int64_t lo, hi;
    struct expr *r = only_repeat(x);
    if (r) {
        r->min = r->min > min ? r->min : min;
        r->max = r->max < 0 || (max >= 0 && max < r->max) ? max : r->max;
        if (r->max >= 0 && r->max < r->min)
            schema_fail(c, ERR_INVAL, NULL, "no string has this length and pattern");
        return;
    }
    expr_length(x, &lo, &hi);
    if (lo < min)
        schema_fail(c, ERR_UNSUPPORTED, "minLength", "is supported beside pattern or format only where these "
                                                     "say as much");
    if (max >= 0 && (hi < 0 || hi > max))
        schema_fail(c, ERR_UNSUPPORTED, "maxLength", "is supported beside pattern or format only where these "
                                                     "say as much");
}

/* Any characters but controls without a short escape. */
static struct expr *characters(struct rules *b, int min, int max)
{
    struct expr *set = expr_new(b, EXPR_SET), *x = expr_new(b, EXPR_REPEAT);
    charset_add(b, &set->set, 0, 7);
    charset_add(b, &set->set, 0x0b, 0x0b);
    charset_add(b, &set->set, 0x0e, 0x1f);
    charset_close(b, &set->set, true);
    expr_add(x, set);
    x->min = min;
    x->max = max;
    return x;
}

struct expr *schema_string_expr(struct schema *c, const cJSON *s)
{
    struct rules *b = c->b;
    const cJSON *pattern = schema_get(s, "pattern"), *format = schema_get(s, "format");
    int min = 0, max = -1;
    struct expr *x = NULL;
    bool some = schema_count(c, s, "minLength", &min);
    some |= schema_count(c, s, "maxLength", &max);
    if (max >= 0 && max < min)
        schema_fail(c, ERR_INVAL, "maxLength", "is below minLength");
    if (pattern && format)
        schema_fail(c, ERR_UNSUPPORTED, "format", "is not supported beside pattern");
    if (b->failed)
        return NULL;
    if (pattern && !cJSON_IsString(pattern)) {
        schema_fail(c, ERR_INVAL, "pattern", "must be a string");
    } else if (pattern) {
        const char *place = b->place;
        b->place = NULL;
        x = regex_read(b, pattern->valuestring, strlen(pattern->valuestring), true);
        b->place = place;
        if (b->failed) { /* with the path in front */
            char text[200];
            snprintf(text, sizeof(text), "%.199s", b->err.text);
            int code = b->failed;
            b->failed = 0;
            schema_fail(c, code, "pattern", "%s", text);
        }
    } else if (format) {
        x = format_expr(c, format);
    }
    if (b->failed)
        return NULL;
    if (x)
        bound(c, x, min, max);
    else if (some)
        x = characters(b, min, max);
    return x;
}

int32_t schema_string(struct schema *c, int32_t from, const cJSON *s)
{
    struct rules *b = c->b;
    struct expr *x = schema_string_expr(c, s);
    if (b->failed)
        return 0;
    if (!x)
        return rules_use(b, from, schema_base(c, RULE_STRING));
    return rules_text(b, expr_write(b, rules_text(b, from, "\"", 1), x, SPELL_JSON), "\"", 1);
}

/* --- numbers --------------------------------------------------------------------------------------- */

#define MAX_WHOLE 999999999999999ll /* 15 digits: exact as a double, with what follows the point */
#define POINT_BELOW 1000000000ll
#define MAX_LISTED 4096
#define MAX_MULTIPLE 1000

static int n_digits(int64_t v)
{
    int n = 1;
    while (v >= 10) {
        v /= 10;
        n++;
    }
    return n;
}

static int64_t power(int n)
{
    int64_t v = 1;
    while (n-- > 0)
        v *= 10;
    return v;
}

static int32_t digits(struct rules *b, int32_t from, int n)
{
    for (int i = 0; i < n && !b->failed; i++) {
        int32_t to = rules_state(b);
        rules_bytes(b, from, to, '0', '9');
        from = to;
    }
    return from;
}

/* Numbers lo .. hi, which have n digits, with zeros in front. */
static void digit_range(struct rules *b, int32_t from, int32_t end, int64_t lo, int64_t hi, int n)
{
    if (!rules_tick(b))
        return;
    if (n == 0) {
        rules_join(b, from, end);
        return;
    }
    int64_t unit = power(n - 1);
    int first = (int)(lo / unit), last = (int)(hi / unit);
    if (first == last || (lo % unit == 0 && hi % unit == unit - 1)) {
        int32_t to = rules_state(b);
        rules_bytes(b, from, to, (uint8_t)('0' + first), (uint8_t)('0' + last));
        if (first == last)
            digit_range(b, to, end, lo % unit, hi % unit, n - 1);
        else
            rules_join(b, digits(b, to, n - 1), end);
    } else if (lo % unit != 0) {
        digit_range(b, from, end, lo, (first + 1) * unit - 1, n);
        digit_range(b, from, end, (first + 1) * unit, hi, n);
    } else {
        digit_range(b, from, end, lo, last * unit - 1, n);
        digit_range(b, from, end, last * unit, hi, n);
    }
}

/* Whole numbers 0 <= lo .. hi. */
static int32_t whole_range(struct rules *b, int32_t from, int64_t lo, int64_t hi)
{
    int32_t end = rules_state(b);
    for (int n = n_digits(lo); lo <= hi && n <= n_digits(hi) && !b->failed; n++) {
        int64_t most = power(n) - 1;
        digit_range(b, from, end, lo, hi < most ? hi : most, n);
        lo = most + 1;
    }
    return end;
}

struct bounds {
    int64_t lo, hi; /* of whole numbers, inclusive where not said otherwise */
    bool lo_out, hi_out, some;
};

/* ".", then digits, not all of them 0 where nonzero. */
static int32_t fraction(struct rules *b, int32_t from, int most, bool nonzero)
{
    int32_t at = rules_text(b, from, ".", 1), end = rules_state(b);
    for (int i = 0; i < most && nonzero && !b->failed; i++) {
        int32_t found = rules_state(b), zero = rules_state(b), more = found;
        rules_bytes(b, at, found, '1', '9');
        rules_join(b, found, end);
        for (int k = i + 1; k < most && !b->failed; k++) {
            more = digits(b, more, 1);
            rules_join(b, more, end);
        }
        rules_bytes(b, at, zero, '0', '0');
        at = zero;
    }
    for (int i = 0; i < most && !nonzero && !b->failed; i++) {
        at = digits(b, at, 1);
        rules_join(b, at, end);
    }
    return end;
}

/* Numbers of one sign by their size. Those with a point are of 15 digits at most, and below 10^9. */
static void sized(struct rules *b, int32_t from, int32_t end, struct bounds s, bool whole)
{
    int64_t lo = s.lo + s.lo_out, top = s.hi < POINT_BELOW ? s.hi : POINT_BELOW;
    int most = 15 - n_digits(top);
    if (lo <= s.hi - s.hi_out)
        rules_join(b, whole_range(b, from, lo, s.hi - s.hi_out), end);
    if (!whole && s.lo_out && s.lo < top)
        rules_join(b, fraction(b, whole_range(b, from, s.lo, s.lo), most, true), end);
    if (!whole && lo <= top - 1)
        rules_join(b, fraction(b, whole_range(b, from, lo, top - 1), most, false), end);
}

static int32_t ranged(struct schema *c, int32_t from, struct bounds s, bool whole)
{
    struct rules *b = c->b;
    int32_t end = rules_state(b);
    if (s.hi >= 0) {
        struct bounds up = {s.lo > 0 ? s.lo : 0, s.hi, s.lo >= 0 && s.lo_out, s.hi_out, true};
        sized(b, from, end, up, whole);
    }
    if (s.lo < 0) {
        struct bounds down = {s.hi < 0 ? -s.hi : 0, -s.lo, s.hi <= 0 && s.hi_out, s.lo_out, true};
        if (whole && down.lo == 0 && !down.lo_out)
            down.lo = 1; /* no -0 */
        int32_t minus = rules_text(b, from, "-", 1);
        sized(b, minus, end, down, whole);
    }
    return end;
}

/* One bound; keyword may be absent. */
static void read_bound(struct schema *c, const cJSON *s, const char *keyword, bool out, bool upper,
                       bool whole, struct bounds *at)
{
    const cJSON *v = schema_get(s, keyword);
    if (!v)
        return;
    if (!cJSON_IsNumber(v)) {
        schema_fail(c, ERR_INVAL, keyword, "must be a number");
        return;
    }
    double d = v->valuedouble;
    if (whole && d != floor(d)) { /* the next whole number inside */
        d = upper ? floor(d) : ceil(d);
        out = false;
    }
    if (d != floor(d)) {
        schema_fail(c, ERR_UNSUPPORTED, keyword, "must be a whole number");
        return;
    }
    if (fabs(d) > (double)MAX_WHOLE) {
        if ((d > 0) == upper) { /* beyond all that a bounded number has; RULE_NUMBER has more */
            at->some = true;
            return;
        }
        schema_fail(c, ERR_UNSUPPORTED, keyword, "must be within 10^15");
        return;
    }
    at->some = true;
    int64_t n = (int64_t)d;
    if (upper && (n < at->hi || (n == at->hi && out))) {
        at->hi = n;
        at->hi_out = out;
    } else if (!upper && (n > at->lo || (n == at->lo && out))) {
        at->lo = n;
        at->lo_out = out;
    }
}

/* A sum modulo m of digits as they come; up to 15 of them. */
static int32_t remainders(struct schema *c, int32_t from, int m)
{
    struct rules *b = c->b;
    int32_t *now = rules_alloc(b, 2 * (size_t)m * sizeof(*now)), end = rules_state(b);
    if (!now)
        return 0;
    int32_t *then = now + m;
    rules_join(b, rules_text(b, from, "0", 1), end);
    for (int i = 0; i < 15 && !b->failed; i++) {
        for (int k = 0; k < m; k++)
            then[k] = rules_state(b);
        if (!b->failed)
            rules_join(b, then[0], end);
        for (int d = 1; i == 0 && d < 10; d++)
            rules_bytes(b, from, then[d % m], (uint8_t)('0' + d), (uint8_t)('0' + d));
        for (int k = 0; i > 0 && k < m && !b->failed; k++)
            for (int d = 0; d < 10; d++)
                rules_bytes(b, now[k], then[(10 * k + d) % m], (uint8_t)('0' + d), (uint8_t)('0' + d));
        int32_t *t = now;
        now = then;
        then = t;
    }
    return end;
}

static int32_t multiples(struct schema *c, int32_t from, const cJSON *v, struct bounds s)
{
    struct rules *b = c->b;
    if (!cJSON_IsNumber(v) || !(v->valuedouble > 0)) {
        schema_fail(c, ERR_INVAL, "multipleOf", "must be a number above 0");
        return 0;
    }
    if (v->valuedouble != floor(v->valuedouble) || v->valuedouble > (double)MAX_WHOLE) {
        schema_fail(c, ERR_UNSUPPORTED, "multipleOf", "must be a whole number up to 10^15");
        return 0;
    }
    int64_t m = (int64_t)v->valuedouble, lo = s.lo + s.lo_out, hi = s.hi - s.hi_out;
    if (m == 1)
        return ranged(c, from, s, true);
    if ((hi - lo) / m <= MAX_LISTED) {
        int32_t end = rules_state(b);
        int64_t first = lo / m * m;
        for (int64_t x = first < lo ? first + m : first; x <= hi && !b->failed; x += m) {
            char text[24];
            int n = snprintf(text, sizeof(text), "%lld", (long long)x);
            rules_join(b, rules_text(b, from, text, (size_t)n), end);
        }
        return end;
    }
    bool upward = lo <= 0 && hi == MAX_WHOLE;
    if (m > MAX_MULTIPLE || !upward || (lo != 0 && lo != -MAX_WHOLE)) {
        schema_fail(
            c, ERR_UNSUPPORTED, "multipleOf",
            "is supported up to %d without bounds or from 0 on, and where bounds leave at most %d values",
            MAX_MULTIPLE, MAX_LISTED);
        return 0;
    }
    int32_t begin = from;
    if (lo < 0) {
        begin = rules_state(b);
        rules_join(b, from, begin);
        rules_join(b, rules_text(b, from, "-", 1), begin);
    }
    return remainders(c, begin, (int)m);
}

int32_t schema_number(struct schema *c, int32_t from, const cJSON *s, bool whole)
{
    const cJSON *multiple = schema_get(s, "multipleOf");
    struct bounds at = {-MAX_WHOLE, MAX_WHOLE, false, false, false};
    whole |= multiple != NULL;
    read_bound(c, s, "minimum", false, false, whole, &at);
    read_bound(c, s, "exclusiveMinimum", true, false, whole, &at);
    read_bound(c, s, "maximum", false, true, whole, &at);
    read_bound(c, s, "exclusiveMaximum", true, true, whole, &at);
    if (c->b->failed)
        return 0;
    if (at.lo > at.hi || (at.lo == at.hi && (at.lo_out || at.hi_out))) {
        schema_fail(c, ERR_INVAL, NULL, "no number is within the bounds");
        return 0;
    }
    if (multiple)
        return multiples(c, from, multiple, at);
    if (!at.some)
        return rules_use(c->b, from, schema_base(c, whole ? RULE_INTEGER : RULE_NUMBER));
    return ranged(c, from, at, whole);
}
