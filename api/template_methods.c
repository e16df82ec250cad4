/* api/template_methods.c - methods of strings, lists and objects, as Python names them. */
#include "config.h"

#include <string.h>

#include "api/template_builtin.h"
#include "api/template_text.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* --- strings: parts ------------------------------------------------------------------------------- */

/* The text of an argument that must be a string; "" and a failure otherwise. */
static const struct str *text_arg(struct run *x, const struct value *v)
{
    static const struct str empty = {"", NULL, 0};
    if (v->type == V_STRING)
        return v->str;
    tpl__fail(x, ERR_INVAL, "a string is expected, not a %s", tpl__type_name(v));
    return &empty;
}

static bool in_set(const struct str *set, const char *s, size_t n)
{
    for (size_t i = 0, k; i < set->n; i += k) {
        k = text_char_bytes(set->s + i, set->n - i);
        if (k == n && !memcmp(set->s + i, s, n))
            return true;
    }
    return false;
}

struct value builtin__strip(struct run *x, const struct str *s, const struct value *chars,
                            bool left, bool right)
{
    size_t from = 0, to = s->n;
    if (!tpl__charge(x, s->n / 32))
        return tpl__undefined(NULL);
    if (chars->type == V_ABSENT || chars->type == V_NONE) {
        to = right ? text_rstrip(s->s, s->n) : s->n;
        from = left ? text_lstrip(s->s, to) : 0;
        return tpl__sub(x, s, from, to);
    }
    const struct str *set = text_arg(x, chars);
    while (left && from < to && tpl__charge(x, set->n / 32)) {
        size_t k = text_char_bytes(s->s + from, to - from);
        if (!in_set(set, s->s + from, k))
            break;
        from += k;
    }
    while (right && to > from && tpl__charge(x, set->n / 32)) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)s->s[at] & 0xc0) == 0x80)
            at--;
        if (!in_set(set, s->s + at, to - at))
            break;
        to = at;
    }
    return tpl__sub(x, s, from, to);
}

static struct value m_strip(struct run *x, struct value self, struct call *c)
{
    return builtin__strip(x, self.str, &c->bound[0], true, true);
}

static struct value m_lstrip(struct run *x, struct value self, struct call *c)
{
    return builtin__strip(x, self.str, &c->bound[0], true, false);
}

static struct value m_rstrip(struct run *x, struct value self, struct call *c)
{
    return builtin__strip(x, self.str, &c->bound[0], false, true);
}

static int64_t int_arg(struct run *x, const struct value *v, int64_t fallback)
{
    int64_t i = fallback;
    if (v->type != V_ABSENT && v->type != V_NONE && !tpl__integer(v, &i))
        tpl__fail(x, ERR_INVAL, "a whole number is expected, not a %s", tpl__type_name(v));
    return i;
}

static struct value split_space(struct run *x, const struct str *s, int64_t max)
{
    struct value l = tpl__list(x, V_LIST, 0);
    size_t at = text_lstrip(s->s, s->n);
    while (at < s->n && x->r == 0) {
        size_t end = at;
        if (max == 0) {
            tpl__append(x, l.list, tpl__sub(x, s, at, s->n));
            break;
        }
        while (end < s->n && text_space(s->s + end, s->n - end) == 0)
            end += text_char_bytes(s->s + end, s->n - end);
        tpl__append(x, l.list, tpl__sub(x, s, at, end));
        at = end + text_lstrip(s->s + end, s->n - end);
        max--;
    }
    return l;
}

static const char *find_last(const char *s, size_t n, const struct str *what)
{
    for (size_t at = n >= what->n ? n - what->n + 1 : 0; at-- > 0;)
        if (!memcmp(s + at, what->s, what->n))
            return s + at;
    return NULL;
}

static void reverse(struct list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        struct value v = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = v;
    }
}

/* From the right, at white space. */
static struct value rsplit_space(struct run *x, const struct str *s, int64_t max)
{
    struct value l = tpl__list(x, V_LIST, 0);
    size_t end = text_rstrip(s->s, s->n);
    while (end > 0 && x->r == 0) {
        size_t at = end, prev;
        if (max == 0) {
            tpl__append(x, l.list, tpl__sub(x, s, 0, end));
            break;
        }
        for (; at > 0; at = prev) {
            prev = at - 1;
            while (prev > 0 && ((unsigned char)s->s[prev] & 0xc0) == 0x80)
                prev--;
            if (text_space(s->s + prev, s->n - prev))
                break;
        }
        tpl__append(x, l.list, tpl__sub(x, s, at, end));
        end = text_rstrip(s->s, at);
        max--;
    }
    if (x->r == 0)
        reverse(l.list);
    return l;
}

static struct value split(struct run *x, const struct str *s, struct call *c, bool from_right)
{
    int64_t max = int_arg(x, &c->bound[1], -1);
    if (!tpl__charge(x, s->n / 32))
        return tpl__undefined(NULL);
    if (c->bound[0].type == V_ABSENT || c->bound[0].type == V_NONE)
        return from_right && max >= 0 ? rsplit_space(x, s, max) : split_space(x, s, max);
    const struct str *sep = text_arg(x, &c->bound[0]);
    if (sep->n == 0)
        return tpl__fail(x, ERR_INVAL, "split needs a separator that is not empty");
    struct value l = tpl__list(x, V_LIST, 0);
    size_t at = 0, end = s->n;
    for (; x->r == 0 && max != 0; max--) {
        const char *found =
            from_right ? find_last(s->s, end, sep) : memmem(s->s + at, s->n - at, sep->s, sep->n);
        if (!found)
            break;
        size_t i = (size_t)(found - s->s);
        tpl__append(x, l.list,
                    from_right ? tpl__sub(x, s, i + sep->n, end) : tpl__sub(x, s, at, i));
        at = i + sep->n;
        end = i;
    }
    tpl__append(x, l.list, from_right ? tpl__sub(x, s, 0, end) : tpl__sub(x, s, at, s->n));
    if (from_right && x->r == 0)
        reverse(l.list);
    return l;
}

static struct value m_split(struct run *x, struct value self, struct call *c)
{
    return split(x, self.str, c, false);
}

static struct value m_rsplit(struct run *x, struct value self, struct call *c)
{
    return split(x, self.str, c, true);
}

static struct value m_splitlines(struct run *x, struct value self, struct call *c)
{
    const struct str *s = self.str;
    struct value l = tpl__list(x, V_LIST, 0);
    bool keep = tpl__truth(&c->bound[0]);
    for (size_t at = 0; at < s->n && x->r == 0;) {
        size_t k, n = text_line(s->s + at, s->n - at, &k);
        tpl__append(x, l.list, tpl__sub(x, s, at, at + n + (keep ? k : 0)));
        at += n + k;
    }
    return l;
}

/* before, separator, after */
static struct value partition(struct run *x, struct value self, struct call *c, bool from_right)
{
    const struct str *s = self.str, *sep = text_arg(x, &c->bound[0]);
    struct value t = tpl__list(x, V_TUPLE, 3);
    if (sep->n == 0)
        tpl__fail(x, ERR_INVAL, "partition needs a separator that is not empty");
    if (!tpl__charge(x, s->n / 32))
        return t;
    const char *found =
        from_right ? find_last(s->s, s->n, sep) : memmem(s->s, s->n, sep->s, sep->n);
    size_t at = found ? (size_t)(found - s->s) : from_right ? 0 : s->n;
    size_t end = found ? at + sep->n : at;
    tpl__append(x, t.list, tpl__sub(x, s, 0, at));
    tpl__append(x, t.list, tpl__sub(x, s, at, end));
    tpl__append(x, t.list, tpl__sub(x, s, end, s->n));
    return t;
}

static struct value m_partition(struct run *x, struct value self, struct call *c)
{
    return partition(x, self, c, false);
}

static struct value m_rpartition(struct run *x, struct value self, struct call *c)
{
    return partition(x, self, c, true);
}

/* --- strings: questions --------------------------------------------------------------------------- */

static bool has_end(const struct str *s, const struct str *part, bool start)
{
    return part->n <= s->n && !memcmp(start ? s->s : s->s + s->n - part->n, part->s, part->n);
}

static struct value ends(struct run *x, struct value self, struct call *c, bool start)
{
    const struct value *v = &c->bound[0];
    if (v->type != V_TUPLE)
        return tpl__bool(has_end(self.str, text_arg(x, v), start));
    for (size_t i = 0; i < v->list->n && tpl__charge(x, 0); i++)
        if (has_end(self.str, text_arg(x, &v->list->items[i]), start))
            return tpl__bool(true);
    return tpl__bool(false);
}

static struct value m_startswith(struct run *x, struct value self, struct call *c)
{
    return ends(x, self, c, true);
}

static struct value m_endswith(struct run *x, struct value self, struct call *c)
{
    return ends(x, self, c, false);
}

static struct value find(struct run *x, struct value self, struct call *c, bool from_right,
                         bool must)
{
    const struct str *s = self.str, *part = text_arg(x, &c->bound[0]);
    if (!tpl__charge(x, s->n / 32))
        return tpl__undefined(NULL);
    const char *found =
        from_right ? find_last(s->s, s->n, part) : memmem(s->s, s->n, part->s, part->n);
    if (!found && part->n == 0)
        found = s->s;
    if (!found && must)
        return tpl__fail(x, ERR_INVAL, "index: the text is not there");
    return tpl__int(found ? (int64_t)text_chars(s->s, (size_t)(found - s->s)) : -1);
}

static struct value m_find(struct run *x, struct value self, struct call *c)
{
    return find(x, self, c, false, false);
}

static struct value m_rfind(struct run *x, struct value self, struct call *c)
{
    return find(x, self, c, true, false);
}

static struct value m_index(struct run *x, struct value self, struct call *c)
{
    return find(x, self, c, false, true);
}

static struct value m_count(struct run *x, struct value self, struct call *c)
{
    const struct str *s = self.str, *part = text_arg(x, &c->bound[0]);
    int64_t n = 0;
    if (!tpl__charge(x, s->n / 32))
        return tpl__undefined(NULL);
    if (part->n == 0)
        return tpl__int((int64_t)text_chars(s->s, s->n) + 1);
    for (const char *at = s->s, *end = at + s->n;
         (at = memmem(at, (size_t)(end - at), part->s, part->n)); n++)
        at += part->n;
    return tpl__int(n);
}

/* Are all characters of this class, and is there one? */
static bool all(struct run *x, const struct str *s, enum text_class k)
{
    size_t n;
    bool cased = false;
    if (!tpl__charge(x, s->n / 8))
        return false;
    for (size_t at = 0; at < s->n; at += n) {
        uint32_t c = text_code_point(s->s + at, s->n - at, &n);
        if (k == TEXT_UPPER || k == TEXT_LOWER) { /* letters without case do not count */
            if (text_is(c, k == TEXT_UPPER ? TEXT_LOWER : TEXT_UPPER))
                return false;
            cased = cased || text_is(c, k);
        } else if (!text_is(c, k)) {
            return false;
        }
    }
    return s->n > 0 && (cased || (k != TEXT_UPPER && k != TEXT_LOWER));
}

#define CLASS_METHOD(name, class)                                                       \
    static struct value name(struct run *x, struct value self, struct call *c)          \
    {                                                                                   \
        (void)c;                                                                        \
        return tpl__bool(all(x, self.str, class));                                      \
    }
CLASS_METHOD(m_isalpha, TEXT_ALPHA)
CLASS_METHOD(m_isdigit, TEXT_DIGIT)
CLASS_METHOD(m_isalnum, TEXT_ALNUM)
CLASS_METHOD(m_isspace, TEXT_SPACE)
CLASS_METHOD(m_isupper, TEXT_UPPER)
CLASS_METHOD(m_islower, TEXT_LOWER)

bool builtin__all_upper(struct run *x, const struct str *s, bool upper)
{
    return all(x, s, upper ? TEXT_UPPER : TEXT_LOWER);
}

/* --- strings: other forms ------------------------------------------------------------------------- */

struct value builtin__case(struct run *x, const struct str *s, enum text_case k)
{
    size_t begin = tpl__text_begin(x), n;
    bool first = true; /* of a word, or of the text */
    for (size_t at = 0; at < s->n && x->r == 0; at += n) {
        char dst[12];
        uint32_t c = text_code_point(s->s + at, s->n - at, &n);
        bool up = k == CASE_UPPER ||
                  (first && (k == CASE_TITLE || k == CASE_CAPITAL || k == CASE_WORDS)) ||
                  (k == CASE_SWAP && text_is(c, TEXT_LOWER));
        size_t len =
            up ? text_upper(c, k == CASE_TITLE || k == CASE_CAPITAL, dst)
               : text_lower(c, dst);
        if (k == CASE_TITLE) /* Python: a word begins after what is no letter */
            first = !text_is(c, TEXT_UPPER) && !text_is(c, TEXT_LOWER);
        else if (k == CASE_WORDS) /* Jinja: after white space and - ( { [ < */
            first = text_is(c, TEXT_SPACE) || (c < 0x80 && c && strchr("-({[<", (int)c));
        else
            first = false;
        tpl__put_as(x, dst, len, s->mark && s->mark[at]);
        tpl__charge(x, 0);
    }
    return tpl__text_end(x, begin);
}

#define CASE_METHOD(name, case)                                                         \
    static struct value name(struct run *x, struct value self, struct call *c)          \
    {                                                                                   \
        (void)c;                                                                        \
        return builtin__case(x, self.str, case);                                        \
    }
CASE_METHOD(m_upper, CASE_UPPER)
CASE_METHOD(m_lower, CASE_LOWER)
CASE_METHOD(m_title, CASE_TITLE)
CASE_METHOD(m_capitalize, CASE_CAPITAL)
CASE_METHOD(m_swapcase, CASE_SWAP)

struct value builtin__replace(struct run *x, const struct str *s, const struct value *from,
                              const struct value *to, int64_t count)
{
    const struct str *a = text_arg(x, from), *b = text_arg(x, to);
    size_t begin = tpl__text_begin(x), at = 0;
    if (!tpl__charge(x, s->n / 32))
        return tpl__undefined(NULL);
    while (count != 0 && x->r == 0 && at <= s->n) {
        const char *found = a->n ? memmem(s->s + at, s->n - at, a->s, a->n) : s->s + at;
        if (!found)
            break;
        size_t i = (size_t)(found - s->s);
        tpl__put_part(x, s, at, i);
        tpl__put(x, b->s, b->mark, b->n);
        at = i + a->n;
        if (a->n == 0) { /* before each character, and at the end */
            if (i == s->n) {
                at = s->n + 1;
                break;
            }
            size_t k = text_char_bytes(s->s + i, s->n - i);
            tpl__put_part(x, s, i, i + k);
            at = i + k;
        }
        count -= count > 0;
        tpl__charge(x, 0);
    }
    if (at < s->n)
        tpl__put_part(x, s, at, s->n);
    return tpl__text_end(x, begin);
}

static struct value m_replace(struct run *x, struct value self, struct call *c)
{
    return builtin__replace(x, self.str, &c->bound[0], &c->bound[1], int_arg(x, &c->bound[2], -1));
}

static struct value m_join(struct run *x, struct value self, struct call *c)
{
    struct value l = tpl__iterate(x, &c->bound[0]);
    size_t begin = tpl__text_begin(x);
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        if (i)
            tpl__put_value(x, &self);
        const struct str *s = text_arg(x, &l.list->items[i]);
        tpl__put(x, s->s, s->mark, s->n);
    }
    return tpl__text_end(x, begin);
}

static struct value remove_end(struct run *x, struct value self, struct call *c, bool start)
{
    const struct str *s = self.str, *part = text_arg(x, &c->bound[0]);
    if (!has_end(s, part, start))
        return self;
    return start ? tpl__sub(x, s, part->n, s->n) : tpl__sub(x, s, 0, s->n - part->n);
}

static struct value m_removeprefix(struct run *x, struct value self, struct call *c)
{
    return remove_end(x, self, c, true);
}

static struct value m_removesuffix(struct run *x, struct value self, struct call *c)
{
    return remove_end(x, self, c, false);
}

/* side: -1 text at the left, 1 at the right, 0 in the middle, 2 zeros after the sign */
static struct value pad(struct run *x, struct value self, struct call *c, int side)
{
    static const struct str space = {" ", NULL, 1}, zero = {"0", NULL, 1};
    const struct str *s = self.str, *fill = side == 2 ? &zero : &space;
    int64_t width = int_arg(x, &c->bound[0], 0), n = tpl__length(x, &self);
    if (c->bound[1].type != V_ABSENT)
        fill = text_arg(x, &c->bound[1]);
    if (text_chars(fill->s, fill->n) != 1)
        return tpl__fail(x, ERR_INVAL, "the fill of a padding is one character");
    if (width <= n || x->r)
        return self;
    int64_t all_fill = width - n;
    int64_t left = side == -1 ? 0 : side == 0 ? all_fill / 2 + (all_fill & width & 1) : all_fill;
    size_t begin = tpl__text_begin(x),
           sign = side == 2 && s->n && (s->s[0] == '-' || s->s[0] == '+');
    tpl__put_part(x, s, 0, sign);
    for (int64_t i = 0; i < all_fill && x->r == 0; i++) {
        if (i == left)
            tpl__put_part(x, s, sign, s->n);
        tpl__put(x, fill->s, fill->mark, fill->n);
    }
    if (left == all_fill)
        tpl__put_part(x, s, sign, s->n);
    return tpl__text_end(x, begin);
}

#define PAD_METHOD(name, side)                                                          \
    struct value name(struct run *x, struct value self, struct call *c)                 \
    {                                                                                   \
        return pad(x, self, c, side);                                                   \
    }
static PAD_METHOD(m_ljust, -1)
static PAD_METHOD(m_rjust, 1)
static PAD_METHOD(m_zfill, 2)
PAD_METHOD(builtin__center, 0)

static struct value m_format(struct run *x, struct value self, struct call *c)
{
    return builtin__format_braces(x, self.str, c);
}

static const struct builtin string_methods[] = {
    {"strip", "chars", m_strip},
    {"lstrip", "chars", m_lstrip},
    {"rstrip", "chars", m_rstrip},
    {"split", "sep maxsplit", m_split},
    {"rsplit", "sep maxsplit", m_rsplit},
    {"splitlines", "keepends", m_splitlines},
    {"partition", "sep!", m_partition},
    {"rpartition", "sep!", m_rpartition},
    {"startswith", "prefix!", m_startswith},
    {"endswith", "suffix!", m_endswith},
    {"find", "sub!", m_find},
    {"rfind", "sub!", m_rfind},
    {"index", "sub!", m_index},
    {"count", "sub!", m_count},
    {"upper", "", m_upper},
    {"lower", "", m_lower},
    {"casefold", "", m_lower},
    {"title", "", m_title},
    {"capitalize", "", m_capitalize},
    {"swapcase", "", m_swapcase},
    {"replace", "old! new! count", m_replace},
    {"join", "iterable!", m_join},
    {"removeprefix", "prefix!", m_removeprefix},
    {"removesuffix", "suffix!", m_removesuffix},
    {"ljust", "width! fillchar", m_ljust},
    {"rjust", "width! fillchar", m_rjust},
    {"center", "width! fillchar", builtin__center},
    {"zfill", "width!", m_zfill},
    {"format", "*", m_format},
    {"isalpha", "", m_isalpha},
    {"isdigit", "", m_isdigit},
    {"isdecimal", "", m_isdigit},
    {"isnumeric", "", m_isdigit},
    {"isalnum", "", m_isalnum},
    {"isspace", "", m_isspace},
    {"isupper", "", m_isupper},
    {"islower", "", m_islower},
};

/* --- lists ---------------------------------------------------------------------------------------- */

/* Changes are in place, as @huggingface/jinja has it; transformers refuses them. */
static struct value m_append(struct run *x, struct value self, struct call *c)
{
    tpl__append(x, self.list, c->bound[0]);
    return (struct value){.type = V_NONE};
}

static struct value m_extend(struct run *x, struct value self, struct call *c)
{
    struct value more = tpl__iterate(x, &c->bound[0]);
    size_t n = x->r ? 0 : more.list->n;
    for (size_t i = 0; i < n && x->r == 0; i++)
        tpl__append(x, self.list, more.list->items[i]);
    return (struct value){.type = V_NONE};
}

static struct value m_insert(struct run *x, struct value self, struct call *c)
{
    struct list *l = self.list;
    int64_t at = int_arg(x, &c->bound[0], 0), n = (int64_t)l->n;
    at += at < 0 ? n : 0;
    at = at < 0 ? 0 : at > n ? n : at;
    tpl__append(x, l, c->bound[1]);
    if (tpl__charge(x, l->n / 4)) {
        memmove(l->items + at + 1, l->items + at, (size_t)(n - at) * sizeof(*l->items));
        l->items[at] = c->bound[1];
    }
    return (struct value){.type = V_NONE};
}

static struct value m_pop(struct run *x, struct value self, struct call *c)
{
    struct list *l = self.list;
    int64_t n = (int64_t)l->n, at = int_arg(x, &c->bound[0], -1);
    at += at < 0 ? n : 0;
    if (at < 0 || at >= n)
        return tpl__fail(x, ERR_INVAL, "pop: the list has no such item");
    struct value v = l->items[at];
    if (tpl__charge(x, l->n / 4))
        memmove(l->items + at, l->items + at + 1, (size_t)(n - at - 1) * sizeof(*l->items));
    l->n--;
    return v;
}

static struct value m_list_index(struct run *x, struct value self, struct call *c)
{
    for (size_t i = 0; i < self.list->n && x->r == 0; i++)
        if (tpl__equal(x, &self.list->items[i], &c->bound[0]))
            return tpl__int((int64_t)i);
    return tpl__fail(x, ERR_INVAL, "index: the value is not in the list");
}

static struct value m_list_count(struct run *x, struct value self, struct call *c)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n && x->r == 0; i++)
        n += tpl__equal(x, &self.list->items[i], &c->bound[0]);
    return tpl__int(n);
}

static const struct builtin list_methods[] = {
    {"append", "item!", m_append},        {"extend", "items!", m_extend},
    {"insert", "index! item!", m_insert}, {"pop", "index", m_pop},
    {"index", "item!", m_list_index},     {"count", "item!", m_list_count},
};

/* --- objects -------------------------------------------------------------------------------------- */

static struct value m_get(struct run *x, struct value self, struct call *c)
{
    const struct value *v = tpl__dict_find(x, self.dict, &c->bound[0]);
    if (v)
        return *v;
    return c->bound[1].type == V_ABSENT ? (struct value){.type = V_NONE} : c->bound[1];
}

struct value builtin__items(struct run *x, const struct dict *d)
{
    struct value l = tpl__list(x, V_LIST, d->n);
    for (size_t i = 0; i < d->n && x->r == 0; i++)
        tpl__append(x, l.list, tpl__pair(x, d->entries[i].key, d->entries[i].value));
    return l;
}

static struct value m_items(struct run *x, struct value self, struct call *c)
{
    (void)c;
    return builtin__items(x, self.dict);
}

static struct value m_keys(struct run *x, struct value self, struct call *c)
{
    (void)c;
    return tpl__iterate(x, &self);
}

static struct value m_values(struct run *x, struct value self, struct call *c)
{
    struct value l = tpl__list(x, V_LIST, self.dict->n);
    (void)c;
    for (size_t i = 0; i < self.dict->n && x->r == 0; i++)
        tpl__append(x, l.list, self.dict->entries[i].value);
    return l;
}

void builtin__update(struct run *x, struct dict *d, const struct value *from)
{
    if (from->type == V_DICT) {
        for (size_t i = 0; i < from->dict->n && x->r == 0; i++)
            tpl__dict_set(x, d, from->dict->entries[i].key, from->dict->entries[i].value);
        return;
    }
    struct value l = tpl__iterate(x, from);
    for (size_t i = 0; x->r == 0 && i < l.list->n; i++) {
        const struct value *pair = &l.list->items[i];
        if (!tpl__is_list(pair) || pair->list->n != 2)
            tpl__fail(x, ERR_INVAL, "an object is made of pairs");
        else
            tpl__dict_set(x, d, pair->list->items[0], pair->list->items[1]);
    }
}

static struct value m_update(struct run *x, struct value self, struct call *c)
{
    if (c->n_args > 1)
        return tpl__fail(x, ERR_INVAL, "update takes one object");
    if (c->n_args)
        builtin__update(x, self.dict, &c->args[0]);
    for (int i = 0; i < c->n_kwargs && x->r == 0; i++)
        tpl__dict_set(x, self.dict, (struct value){.type = V_STRING, .str = c->names[i]},
                      c->kwargs[i]);
    return (struct value){.type = V_NONE};
}

static struct value m_setdefault(struct run *x, struct value self, struct call *c)
{
    const struct value *v = tpl__dict_find(x, self.dict, &c->bound[0]);
    if (v)
        return *v;
    struct value made = c->bound[1].type == V_ABSENT ? (struct value){.type = V_NONE} : c->bound[1];
    tpl__dict_set(x, self.dict, c->bound[0], made);
    return made;
}

static struct value m_dict_pop(struct run *x, struct value self, struct call *c)
{
    const struct value *v = tpl__dict_find(x, self.dict, &c->bound[0]);
    if (!v && c->bound[1].type == V_ABSENT)
        return tpl__fail(x, ERR_INVAL, "pop: the object has no such key");
    if (!v)
        return c->bound[1];
    struct value found = *v;
    tpl__dict_remove(x, self.dict, &c->bound[0]);
    return found;
}

static struct value m_copy(struct run *x, struct value self, struct call *c)
{
    struct value d = tpl__dict(x, V_DICT);
    (void)c;
    if (x->r == 0)
        builtin__update(x, d.dict, &self);
    d.client = self.client;
    return d;
}

static const struct builtin dict_methods[] = {
    {"get", "key! default", m_get},
    {"items", "", m_items},
    {"keys", "", m_keys},
    {"values", "", m_values},
    {"update", "*", m_update},
    {"setdefault", "key! default", m_setdefault},
    {"pop", "key! default", m_dict_pop},
    {"copy", "", m_copy},
};

/* --- loops, cyclers ------------------------------------------------------------------------------- */

static struct value m_cycle(struct run *x, struct value self, struct call *c)
{
    if (c->n_args == 0)
        return tpl__fail(x, ERR_INVAL, "loop.cycle needs values");
    return c->args[self.loop->at % (size_t)c->n_args];
}

static struct value m_changed(struct run *x, struct value self, struct call *c)
{
    struct value now = tpl__list(x, V_TUPLE, (size_t)c->n_args);
    for (int i = 0; i < c->n_args && x->r == 0; i++)
        tpl__append(x, now.list, c->args[i]);
    bool same = x->r == 0 && self.loop->changed.type != V_ABSENT &&
                tpl__equal(x, &self.loop->changed, &now);
    self.loop->changed = now;
    return tpl__bool(!same);
}

static const struct builtin loop_methods[] = {{"cycle", "*", m_cycle}, {"changed", "*", m_changed}};

static struct value m_next(struct run *x, struct value self, struct call *c)
{
    struct cycler *cy = self.cycler;
    (void)x;
    (void)c;
    struct value v = cy->items.list->items[cy->at];
    cy->at = (cy->at + 1) % cy->items.list->n;
    return v;
}

static struct value m_reset(struct run *x, struct value self, struct call *c)
{
    (void)x;
    (void)c;
    self.cycler->at = 0;
    return (struct value){.type = V_NONE};
}

static const struct builtin cycler_methods[] = {{"next", "", m_next}, {"reset", "", m_reset}};

const struct builtin *tpl__find_method(const struct value *o, const char *s, size_t n)
{
    switch (o->type) {
    case V_STRING:
        return tpl__find(string_methods, COUNT(string_methods), s, n);
    case V_LIST:
        return tpl__find(list_methods, COUNT(list_methods), s, n);
    case V_TUPLE: /* not those that change it */
        return tpl__find(list_methods + 4, COUNT(list_methods) - 4, s, n);
    case V_DICT:
        return tpl__find(dict_methods, COUNT(dict_methods), s, n);
    case V_LOOP:
        return tpl__find(loop_methods, COUNT(loop_methods), s, n);
    case V_CYCLER:
        return tpl__find(cycler_methods, COUNT(cycler_methods), s, n);
    default:
        return NULL;
    }
}
