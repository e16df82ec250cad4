/* tests/unit/t_template_limits.c - chat templates: what a client writes stays marked through every
 * operation, messages of OpenAI's API in the form that templates expect, and limits. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/rendered.h"

static struct err e;

/* The messages' content is "<A>bc" in each row; the template's own text has no letters of it. */
START_TEST(test_marks)
{
    static const struct {
        const char *template, *want, *marks;
    } rows[] = {
        {"[{{ c }}]", "[<A>bc]", "0111110"},
        {"{{ '[' + c ~ ']' }}", "[<A>bc]", "0111110"},
        {"{{ c | upper }}{{ c | lower }}", "<A>BC<a>bc", "1111111111"},
        {"{{ ('x' ~ c ~ 'y') | upper }}", "X<A>BCY", "0111110"},
        {"{{ c | title }}{{ c.capitalize() }}{{ c.swapcase() }}", "<A>bc<a>bc<a>BC",
         "111111111111111"},
        {"{{ c | trim }}{{ c.strip('<') }}", "<A>bcA>bc", "111111111"},
        {"{{ c[1:3] }}{{ c[::-1] }}{{ c[0] }}", "A>cb>A<<", "11111111"},
        {"{{ ('-' ~ c)[:2] }}", "-<", "01"},
        {"{{ c | replace('b', '-') }}", "<A>-c", "11101"},
        {"{{ 'x-y'.replace('-', c) }}", "x<A>bcy", "0111110"},
        {"{{ c.split('>') | join('-') }}", "<A-bc", "11011"},
        {"{{ [c, '.'] | join('-') }}", "<A>bc-.", "1111100"},
        {"{{ '-'.join([c, c[0]]) }}", "<A>bc-<", "1111101"},
        {"{{ c | tojson }}", "\"<A>bc\"", "1111111"},
        {"{{ {'k': c} | tojson }}", "{\"k\": \"<A>bc\"}", "00000011111110"},
        {"{{ messages[0] | tojson }}", "{\"content\": \"<A>bc\"}", "11111111111111111111"},
        {"{{ messages[0] }}", "{'content': '<A>bc'}", "11111111111111111111"},
        {"{{ [c] }}", "['<A>bc']", "011111110"},
        {"{% set x %}[{{ c }}]{% endset %}{{ x }}", "[<A>bc]", "0111110"},
        {"{% macro f(a) %}({{ a }}){% endmacro %}{{ f(c) }}", "(<A>bc)", "0111110"},
        {"{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}{{ c }}{% endcall %}",
         "(<A>bc)", "0111110"},
        {"{% filter upper %}x{{ c }}{% endfilter %}", "X<A>BC", "011111"},
        {"{{ '%s!' % c }}{{ '{}!'.format(c) }}", "<A>bc!<A>bc!", "111110111110"},
        {"{{ '%8s' % c }}{{ c.center(7, '-') }}", "   <A>bc-<A>bc-", "000111110111110"},
        {"{{ (c ~ '\\n.') | indent(1) }}", "<A>bc\n .", "11111000"},
        {"{{ c | escape }}", "&lt;A&gt;bc", "11111111111"},
        {"{{ c | list | join }}{{ c | reverse }}{{ c | first }}", "<A>bccb>A<<", "11111111111"},
        {"{{ c * 2 }}", "<A>bc<A>bc", "1111111111"},
        {"{% set ns = namespace(s='.') %}{% for m in messages %}{% set ns.s = ns.s + m.content "
         "%}{% endfor %}"
         "{{ ns.s }}",
         ".<A>bc", "011111"},
        {"{{ c.partition('>') | join }}{{ c | truncate(4, true, '-', 0) }}", "<A>bc<A>-",
         "111111110"},
        {"{{ messages | map(attribute='content') | join('|') }}", "<A>bc", "11111"},
        {"{{ n }}{{ n + 1 }}{{ 1 }}{{ n | string }}{{ '%d' % n }}",
         "781"
         "77",
         "11011"},
        {"{{ tools | tojson }}", "[{\"k\": 7}]", "1111111111"},
        {"{% for k, v in tools[0].items() %}{{ k }}={{ v }}{% endfor %}", "k=7", "101"},
        {"{{ '[\"<\"]' | from_json | first }}", "<", "1"},
        {"{{ c | default('x') }}{{ nothing | default(c) }}", "<A>bc<A>bc", "1111111111"},
        {"{{ bos_token }}{{ messages | length }}", "<B>1", "0000"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char text[600];
        snprintf(text, sizeof(text), "{%% set c = messages[0].content %%}%s", rows[i].template);
        const struct rendered with = {.messages = "[{\"content\":\"<A>bc\"}]",
                                      .tools = "[{\"k\":7}]",
                                      .kwargs = "{\"n\":7}"};
        const char *got = rendered(text, &with, &e);
        ck_assert_msg(got != NULL, "%s: %s", rows[i].template, e.text);
        ck_assert_msg(!strcmp(got, rows[i].want), "%s gave \"%s\"", rows[i].template, got);
        ck_assert_msg(!strcmp(rendered_marks(), rows[i].marks), "%s gave %s for \"%s\"",
                      rows[i].template, rendered_marks(), got);
    }
}
END_TEST

/* Whatever a template does with a message of one letter, no such letter comes out unmarked. */
START_TEST(test_marks_random)
{
    static const char *const filters[] = {
        "upper",
        "lower",
        "title",
        "trim",
        "string",
        "list | join('.')",
        "reverse",
        "tojson",
        "replace('z', '..')",
        "replace('.', 'q')",
        "indent(2, true)",
        "capitalize",
        "center(9)",
        "escape",
        "truncate(7, true, '.', 0)",
        "batch(2) | list | string",
        "first",
        "last",
        "list | string",
        "list | tojson(indent=2)",
        "format()",
        "default('.')",
        "unique | join",
        "sort | join",
        "select | join('.')",
        "map('upper') | join",
    };
    static const struct rendered with = {.messages = "[{\"content\":\"zZz\\nz Zz\"}]"};
    for (int i = 0; i < 4000; i++) {
        char text[600];
        int at = snprintf(text, sizeof(text), "{{ ('.' ~ messages[0].content ~ '. .')");
        for (int n = 1 + rand() % 5; n > 0; n--)
            at += snprintf(text + at, sizeof(text) - (size_t)at, " | %s",
                           filters[(size_t)rand() % (sizeof(filters) / sizeof(*filters))]);
        snprintf(text + at, sizeof(text) - (size_t)at, " }}");
        const char *got = rendered(text, &with, &e);
        const char *marks = got ? rendered_marks() : "";
        for (size_t k = 0; got && got[k]; k++)
            if (got[k] == 'z' || got[k] == 'Z')
                ck_assert_msg(marks[k] == '1', "%s gave \"%s\" marked %s", text, got, marks);
    }
}
END_TEST

START_TEST(test_adapt)
{
#define CALL(arguments)                                                                            \
    "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":\"function\","            \
    "\"function\":{\"name\":\"f\",\"arguments\":" arguments "}}]}]"
    static const struct {
        const char *messages, *template, *want;
    } rows[] = {
        {CALL("\"{\\\"a\\\":1}\""), "{{ f.arguments | tojson }}", "{\"a\": 1}"},
        {CALL("\"{\\\"a\\\":1}\""), "{{ f.arguments.a }}{{ f.arguments is mapping }}", "1True"},
        {CALL("\"{\\\"a\\\":1}\""), "{{ '<' + f.arguments + '>' }}", "<{\"a\":1}>"},
        {CALL("\"{\\\"a\\\":1}\""), "{{ f.arguments }}{{ f.arguments ~ '' }}",
         "{\"a\":1}{\"a\":1}"},
        {CALL("\"{\\\"a\\\":1}\""),
         "{% for k, v in f.arguments | items %}{{ k }}{{ v }}{% endfor %}", "a1"},
        {CALL("{\"a\":1}"), "{{ f.arguments | tojson }}", "{\"a\": 1}"},
        {CALL("\"no JSON\""), "{{ f.arguments }}{{ f.arguments is string }}", "no JSONTrue"},
        {CALL("\"[1]\""), "{{ f.arguments is string }}", "True"},
        {CALL("\"\""), "{{ f.arguments is mapping }}{{ f.arguments.items() | length }}", "True0"},
        {CALL("\" \\n\""), "{{ f.arguments }}{{ '<' + f.arguments }}{{ f.arguments | tojson }}", "{}<{}{}"},
        {CALL("null"), "{{ f.arguments | tojson }}{{ f.arguments is defined }}", "{}True"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]",
         "{% for k, v in f.arguments | items %}{{ k }}{% endfor %}{{ f }}", "{'name': 'f', 'arguments': {}}"},
        {CALL("\"\""), "[{{ m.content }}{{ m.content | trim }}]{{ m.content is none }}", "[]True"},
        {CALL("\"\""), "{{ 'a' + m.content }}{{ m.content | tojson }}{{ m.content or 'x' }}",
         "anullx"},
        {CALL("\"\""),
         "{{ 'x' in m.content }}{{ m.content == none }}{{ m.content.split('x')[-1] }}",
         "FalseTrue"},
        {"[{\"tool_calls\":[]}]", "{{ m.content is none }}{{ m.content is defined }}", "TrueTrue"},
        {"[{\"content\":null}]", "{{ m.content }}", "None"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char text[600];
        const struct rendered with = {.messages = rows[i].messages, .adapt = true};
        snprintf(text, sizeof(text),
                 "{%% set m = messages[0] %%}{%% set f = m.tool_calls[0].function if m.tool_calls "
                 "else 0 %%}%s",
                 rows[i].template);
        const char *got = rendered(text, &with, &e);
        ck_assert_msg(got != NULL, "%s: %s", rows[i].template, e.text);
        ck_assert_msg(!strcmp(got, rows[i].want), "%s gave \"%s\"", rows[i].template, got);
        for (size_t k = 0; got[k]; k++) /* the arguments are the client's in either form */
            if (strchr("{}1", got[k]))
                ck_assert_int_eq(rendered_marks()[k], '1');
    }
}
END_TEST

/* A role is one of a few words, and may become part of a control token; what else a message says may not. */
START_TEST(test_roles)
{
    static const char template[] = "{% for m in messages %}<{{ m.role }}|{{ m.name }}>{% endfor %}";
    const struct rendered with = {
        .messages = "[{\"role\":\"user\",\"name\":\"user\"},{\"role\":\"tool\"},{\"role\":\"x\"}]",
        .adapt = true};
    const char *got = rendered(template, &with, &e);
    ck_assert_msg(got != NULL, "%s", e.text);
    ck_assert_str_eq(got, "<user|user><tool|><x|>");
    ck_assert_str_eq(rendered_marks(), "0000001111000000000100");
}
END_TEST

/* n times text */
static char *many(const char *begin, const char *text, int n, const char *end)
{
    size_t len = strlen(text);
    char *s = malloc(strlen(begin) + len * (size_t)n + strlen(end) + 1), *at = s;
    ck_assert_ptr_nonnull(s);
    at = stpcpy(at, begin);
    for (int i = 0; i < n; i++)
        at = stpcpy(at, text);
    stpcpy(at, end);
    return s;
}

START_TEST(test_limits)
{
    static const char *const rows[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in [[]] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}",
        "{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}",
        "{% set l = [] %}{% set _ = l.append(l) %}{% set k = [] %}{% set _ = k.append(k) %}{{ l == "
        "k }}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor "
        "%}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor "
        "%}",
        "{{ 'x' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 'x' * 100001 }}",
        "{{ range(100001) | list }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a\nb' | indent(9999999999) }}",
        "{{ [1] | batch(9999999999, 'x') | list }}",
    };
    static const struct rendered with = {.messages = "[{\"content\":\"x\"}]"};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        ck_assert_msg(!rendered(rows[i], &with, &e), "%s was rendered", rows[i]);
        ck_assert_msg(e.code == ERR_LIMIT, "%s: %d %s", rows[i], e.code, e.text);
    }
    static const char *const deep[][3] = {
        {"{{ ", "(", ""},
        {"{{ ", "[", ""},
        {"{{ ", "not ", "1 }}"},
        {"{{ ", "-", "1 }}"},
        {"{{ ", "1 if 1 else ", "1 }}"},
        {"", "{% if 1 %}", ""},
        {"{{ 1", "+1", " }}"},
        {"{{ 'a'", "|upper", " }}"},
        {"{{ a", ".b", " }}"},
        {"{{ 1", " ~ 1", " }}"},
    };
    for (size_t i = 0; i < sizeof(deep) / sizeof(*deep); i++) {
        char *text = many(deep[i][0], deep[i][1], 20000, deep[i][2]);
        ck_assert_msg(!rendered(text, &with, &e), "20000 times %s was rendered", deep[i][1]);
        free(text);
    }
    /* long is not deep */
    char *text = many("{% if 0 %}", "{% elif 0 %}", 20000, "{% else %}x{% endif %}");
    ck_assert_str_eq(rendered(text, &with, &e), "x");
    free(text);
    text = many("", " ", 2000000, "");
    ck_assert_ptr_null(rendered(text, &with, &e));
    ck_assert_int_eq(e.code, ERR_LIMIT);
    free(text);
}
END_TEST

/* Messages that are large or nested cost what they are, or end in an error. */
START_TEST(test_messages)
{
    struct rendered with = {
        .messages = many("[{\"content\":\"\"}", ",{\"content\":\"0123456789\"}", 4000, "]")};
    ck_assert_str_eq(
        rendered("{% for m in messages %}{{ m.content[0] }}{% endfor %}", &with, &e) + 3998, "00");
    ck_assert_ptr_null(rendered("{% for a in messages %}{% for b in messages %}{% for c in messages %}"
                                "{{ a.content }}{% endfor %}{% endfor %}{% endfor %}",
                                &with, &e));
    ck_assert_int_eq(e.code, ERR_LIMIT);
    with.max_bytes = 39999;
    ck_assert_ptr_null(rendered("{% for m in messages %}{{ m.content }}{% endfor %}", &with, &e));
    ck_assert_int_eq(e.code, ERR_LIMIT);
    with.max_bytes = 40000;
    ck_assert_ptr_nonnull(rendered("{% for m in messages %}{{ m.content }}{% endfor %}", &with, &e));
    free((char *)(uintptr_t)with.messages);
    char *deep = many("[{\"content\":", "[", 300, "");
    char *closed = many(deep, "]", 300, "}]");
    const struct rendered nested = {.messages = closed, .adapt = true};
    ck_assert_ptr_null(rendered("x", &nested, &e));
    ck_assert_int_eq(e.code, ERR_LIMIT);
    free(deep);
    free(closed);
    /* many keys: found by hash, not one after the other */
    char *keys = many("[{\"k\":7", ",\"0123456789\":1", 1, "");
    char *all = malloc(2000000), *at = stpcpy(all, keys);
    ck_assert_ptr_nonnull(all);
    for (int i = 0; i < 50000; i++)
        at += snprintf(at, 40, ",\"k%d\":%d", i, i);
    stpcpy(at, "}]");
    const struct rendered wide = {.messages = all};
    ck_assert_str_eq(rendered("{% for i in range(9999) %}{% set x = messages[0].k49999 %}{% endfor %}"
                              "{{ messages[0].k7 }}{{ messages[0].k }}",
                              &wide, &e),
                     "77");
    free(keys);
    free(all);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("template_limits");
    TCase *tc = tcase_create("template_limits");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_marks);
    tcase_add_test(tc, test_marks_random);
    tcase_add_test(tc, test_adapt);
    tcase_add_test(tc, test_roles);
    tcase_add_test(tc, test_limits);
    tcase_add_test(tc, test_messages);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
