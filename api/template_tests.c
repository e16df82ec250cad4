/* api/template_tests.c - what may follow `is`, and select(...). */
#include "config.h"

#include <string.h>

#include "api/template_ast.h"
#include "api/template_builtin.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static bool case_is(struct run *x, struct value v, bool upper)
{
    v = tpl__to_string(x, v);
    return x->r == 0 && builtin__all_upper(x, v.str, upper);
}

#define TYPE_TEST(name, condition)                                                      \
    static struct value name(struct run *x, struct value v, struct call *c)             \
    {                                                                                   \
        (void)x;                                                                        \
        (void)v;                                                                        \
        (void)c;                                                                        \
        return tpl__bool(condition);                                                    \
    }
TYPE_TEST(t_defined, v.type != V_UNDEFINED)
TYPE_TEST(t_undefined, v.type == V_UNDEFINED)
TYPE_TEST(t_none, v.type == V_NONE || v.null)
TYPE_TEST(t_boolean, v.type == V_BOOL)
TYPE_TEST(t_true, v.type == V_BOOL && v.b)
TYPE_TEST(t_false, v.type == V_BOOL && !v.b)
TYPE_TEST(t_string, v.type == V_STRING)
TYPE_TEST(t_number, tpl__number(&v))
TYPE_TEST(t_integer, v.type == V_INT)
TYPE_TEST(t_float, v.type == V_FLOAT)
TYPE_TEST(t_mapping, v.type == V_DICT)
TYPE_TEST(t_iterable,
          v.type == V_STRING || v.type == V_DICT || v.type == V_UNDEFINED || tpl__is_list(&v))
TYPE_TEST(t_sequence,
          v.type == V_STRING || v.type == V_DICT || v.type == V_UNDEFINED || tpl__is_list(&v))
TYPE_TEST(t_callable, v.type == V_MACRO || v.type == V_BUILTIN || v.type == V_LOOP ||
                          v.type == V_JOINER || v.type == V_UNDEFINED)
TYPE_TEST(t_escaped, false)
TYPE_TEST(t_lower, case_is(x, v, false))
TYPE_TEST(t_upper, case_is(x, v, true))
TYPE_TEST(t_eq, tpl__equal(x, &v, &c->bound[0]))
TYPE_TEST(t_ne, !tpl__equal(x, &v, &c->bound[0]))
TYPE_TEST(t_lt, tpl__compare(x, &v, &c->bound[0]) < 0)
TYPE_TEST(t_le, tpl__compare(x, &v, &c->bound[0]) <= 0)
TYPE_TEST(t_gt, tpl__compare(x, &v, &c->bound[0]) > 0)
TYPE_TEST(t_ge, tpl__compare(x, &v, &c->bound[0]) >= 0)
TYPE_TEST(t_in, tpl__contains(x, &c->bound[0], &v))

/* The same object; equal numbers and words are one object in Python too. */
TYPE_TEST(t_sameas,
          v.type == c->bound[0].type && (v.type == V_LIST || v.type == V_TUPLE || v.type == V_DICT
                                             ? v.dict == c->bound[0].dict
                                             : tpl__equal(x, &v, &c->bound[0])))

static struct value remainder_is(struct run *x, struct value v, int64_t by, int64_t want)
{
    struct value rest =
        tpl__binary(x, OP_MOD, v.type == V_STRING ? tpl__undefined(NULL) : v, tpl__int(by));
    return tpl__bool(tpl__number(&rest) && tpl__double(&rest) == (double)want);
}

static struct value t_odd(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return remainder_is(x, v, 2, 1);
}

static struct value t_even(struct run *x, struct value v, struct call *c)
{
    (void)c;
    return remainder_is(x, v, 2, 0);
}

static struct value t_divisibleby(struct run *x, struct value v, struct call *c)
{
    int64_t by = 0;
    if (!tpl__integer(&c->bound[0], &by))
        return tpl__fail(x, ERR_INVAL, "divisibleby needs a whole number");
    return remainder_is(x, v, by, 0);
}

static struct value t_filter(struct run *x, struct value v, struct call *c)
{
    (void)x;
    (void)c;
    return tpl__bool(v.type == V_STRING && tpl__find_filter(v.str->s, v.str->n));
}

static struct value t_test(struct run *x, struct value v, struct call *c)
{
    (void)x;
    (void)c;
    return tpl__bool(v.type == V_STRING && tpl__find_test(v.str->s, v.str->n));
}

static const struct builtin tests[] = {
    {"defined", "", t_defined},
    {"undefined", "", t_undefined},
    {"none", "", t_none},
    {"boolean", "", t_boolean},
    {"true", "", t_true},
    {"false", "", t_false},
    {"string", "", t_string},
    {"number", "", t_number},
    {"integer", "", t_integer},
    {"float", "", t_float},
    {"mapping", "", t_mapping},
    {"iterable", "", t_iterable},
    {"sequence", "", t_sequence},
    {"callable", "", t_callable},
    {"escaped", "", t_escaped},
    {"lower", "", t_lower},
    {"upper", "", t_upper},
    {"odd", "", t_odd},
    {"even", "", t_even},
    {"divisibleby", "num!", t_divisibleby},
    {"sameas", "other!", t_sameas},
    {"eq", "other!", t_eq},
    {"equalto", "other!", t_eq},
    {"==", "other!", t_eq},
    {"ne", "other!", t_ne},
    {"!=", "other!", t_ne},
    {"lt", "other!", t_lt},
    {"lessthan", "other!", t_lt},
    {"<", "other!", t_lt},
    {"le", "other!", t_le},
    {"<=", "other!", t_le},
    {"gt", "other!", t_gt},
    {"greaterthan", "other!", t_gt},
    {">", "other!", t_gt},
    {"ge", "other!", t_ge},
    {">=", "other!", t_ge},
    {"in", "seq!", t_in},
    {"filter", "", t_filter},
    {"test", "", t_test},
    /* the names of the constants, which some templates write with a capital */
    {"None", "", t_none},
    {"True", "", t_true},
    {"False", "", t_false},
};

const struct builtin *tpl__find_test(const char *s, size_t n)
{
    return tpl__find(tests, COUNT(tests), s, n);
}

bool builtin__passes(struct run *x, struct value v, const struct value *test,
                     const struct value *args, int n_args)
{
    const struct builtin *b =
        test->type == V_STRING ? tpl__find_test(test->str->s, test->str->n) : NULL;
    struct call c = {.args = (struct value *)(uintptr_t)args, .n_args = n_args};
    if (!b) {
        tpl__fail(x, ERR_UNSUPPORTED, "the test \"%.40s\" is not known",
                  test->type == V_STRING ? test->str->s : tpl__type_name(test));
        return false;
    }
    struct value yes = tpl__call_builtin(x, b, v, &c);
    return tpl__truth(&yes);
}
