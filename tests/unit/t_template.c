/* tests/unit/t_template.c - the language of chat templates: what Jinja2 gives for each construct
 * (tests/data/template-cases.json), errors, and what is ours alone. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/rendered.h"

#define ONE "[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define TWO "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"Hi\"}]"

static struct err e;
static const struct rendered one = {.messages = ONE}, two = {.messages = TWO};

static char *read_file(const char *name)
{
    char path[1000];
    const char *top = getenv("top_srcdir");
    snprintf(path, sizeof(path), "%s/%s", top ? top : "..", name);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "cannot open %s", path);
    char *text = calloc(1, 1u << 20);
    ck_assert_ptr_nonnull(text);
    ck_assert_uint_gt(fread(text, 1, (1u << 20) - 1, f), 0);
    fclose(f);
    return text;
}

START_TEST(test_cases)
{
    char *text = read_file("tests/data/template-cases.json");
    cJSON *data = cJSON_Parse(text), *row;
    ck_assert_ptr_nonnull(data);
    char *messages = cJSON_PrintUnformatted(cJSON_GetObjectItem(data, "messages"));
    char *tools = cJSON_PrintUnformatted(cJSON_GetObjectItem(data, "tools"));
    char *kwargs = cJSON_PrintUnformatted(cJSON_GetObjectItem(data, "kw"));
    const struct rendered with = {.messages = messages, .tools = tools, .kwargs = kwargs};
    int n = 0, n_text = 0;
    cJSON_ArrayForEach(row, cJSON_GetObjectItem(data, "cases"))
    {
        const char *template = cJSON_GetStringValue(cJSON_GetObjectItem(row, "template"));
        const char *want = cJSON_GetStringValue(cJSON_GetObjectItem(row, "want"));
        /* the tests' own bos and eos differ from those of the file */
        const char *got = rendered(template, &with, &e);
        n++;
        n_text += want != NULL;
        if (!want) {
            ck_assert_msg(!got, "%s should be refused and gave \"%s\"", template, got);
            ck_assert_msg(*e.text != 0, "%s: no text", template);
            continue;
        }
        ck_assert_msg(got != NULL, "%s: %s", template, e.text);
        ck_assert_msg(!strcmp(got, want), "%s gave \"%s\", not \"%s\"", template, got, want);
    }
    ck_assert_int_gt(n, 200);
    ck_assert_int_gt(n_text, 140);
    free(messages);
    free(tools);
    free(kwargs);
    cJSON_Delete(data);
    free(text);
}
END_TEST

START_TEST(test_inputs)
{
    static const struct {
        const char *template, *want;
    } rows[] = {
        {"{{ bos_token }}{{ eos_token }}", "<B><E>"},
        {"{{ tools }}{{ documents is none }}{{ add_generation_prompt }}", "NoneTrueTrue"},
        {"{{ strftime_now('%Y-%m-%d') }}", "2025-11-24"},
        {"{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hi"},
        /* a list may be changed, which transformers refuses and Kimi's templates need */
        {"{% set l = [] %}{% set _ = l.append(1) %}{{ l }}", "[1]"},
        {"{% set l = [1, 2] %}{{ l.pop() }}{{ l }}{% set _ = l.insert(0, 9) %}{{ l }}",
         "2[1][9, 1]"},
        {"{% set d = {} %}{% set _ = d.update({'a': 1}) %}{{ d }}{{ d.pop('a') }}{{ d }}",
         "{'a': 1}1{}"},
        {"{{ '{\"a\": [1, 2.5]}' | from_json }}", "{'a': [1, 2.5]}"},
        {"{{ 'x' is defined if true else 1 }}", "True"},
    };
    setenv("TZ", "UTC", 1);
    tzset();
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        const char *got = rendered(rows[i].template, &one, &e);
        ck_assert_msg(got != NULL, "%s: %s", rows[i].template, e.text);
        ck_assert_msg(!strcmp(got, rows[i].want), "%s gave \"%s\"", rows[i].template, got);
    }
    /* what the client adds cannot replace what the request or the model says */
    const struct rendered mean = {
        .messages = ONE,
        .kwargs =
            "{\"messages\":[],\"bos_token\":\"<evil>\",\"add_generation_prompt\":false,\"x\":5}"};
    ck_assert_str_eq(
        rendered("{{ messages | length }}{{ bos_token }}{{ add_generation_prompt }}{{ x }}", &mean,
                 &e),
        "1<B>True5");
}
END_TEST

START_TEST(test_errors)
{
    static const struct {
        const char *template, *part; /* of the text */
    } rows[] = {
        {"a\n{% for m in messages %}", "line 2"},
        {"{{ x | shout }}", "shout"},
        {"{{ x is loud }}", "loud"},
        {"\n\n{% include 'x' %}", "line 3: the statement \"include\" is not served"},
        {"{% import 'x' as y %}", "import"},
        {"{% extends 'x' %}", "extends"},
        {"{{ 'open }}", "a string has no end"},
        {"{# open", "a comment has no end"},
        {"{% if 1 %}\n{% endfor %}", "line 2"},
        {"{{ messages[0].nothing.more }}", "'nothing' is undefined"},
        {"\n{{ nobody() }}", "line 2: 'nobody' is undefined"},
        {"{{ 'a' + 1 }}", "+ does not work between str and int"},
        {"{{ 1 < 'a' }}", "no order"},
        {"{{ range() }}", "range needs its argument start"},
        {"{{ 'a'.replace('b') }}", "replace needs its argument new"},
        {"{{ [1] | random }}", "random"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "f takes at most 1"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        ck_assert_msg(!rendered(rows[i].template, &one, &e), "%s was taken", rows[i].template);
        ck_assert_msg(strstr(e.text, rows[i].part) != NULL, "%s: %s", rows[i].template, e.text);
    }
    ck_assert_ptr_null(rendered("{{ raise_exception('roles must alternate') }}", &one, &e));
    ck_assert_ptr_nonnull(strstr(e.text, "roles must alternate"));
    ck_assert_int_eq(e.code, ERR_INVAL);
    ck_assert_str_eq(e.param, "messages");
    ck_assert_ptr_null(rendered("\xff", &one, &e));
    ck_assert_int_eq(e.code, ERR_FORMAT);
}
END_TEST

/* Random pieces of the language: any answer, but no crash (sanitizers see more). */
START_TEST(test_random)
{
    static const char *const pieces[] = {
        "{{",        "}}",         "{%",       "%}",          "{#",      "#}",
        "{%-",       "-%}",        " for ",    " in ",        " if ",    " else ",
        " elif ",    " endif ",    " endfor ", " set ",       " macro ", " endmacro ",
        " call ",    " endcall ",  " filter ", " endfilter ", " raw ",   " endraw ",
        " with ",    " endwith ",  " endset ", " recursive ", " break ", "messages",
        "m",         "'a'",        "\"",       "[",           "]",       "(",
        ")",         ".",          "|",        "trim",        "~",       "+",
        "-",         "**",         "//",       "%",           "==",      "1",
        "0",         "2.5",        "content",  ",",           " is ",    " not ",
        " defined ", "loop",       ".index",   "(loop)",      "\n",      "x",
        ":",         "{",          "}",        "default(",    "join(",   "map(",
        "upper",     "namespace(", "range(9)", "split(",      "format(", "tojson",
        "sort",      "*",          " and ",    " or ",        "=",       "caller()",
        "items()",   "none",       "true",
    };
    for (int i = 0; i < 30000; i++) {
        char text[500] = "";
        int n = rand() % 30, at = 0;
        for (int k = 0; k < n; k++)
            at += snprintf(text + at, sizeof(text) - (size_t)at, "%s",
                           pieces[(size_t)rand() % (sizeof(pieces) / sizeof(*pieces))]);
        if (!rendered(text, &two, &e))
            ck_assert_msg(*e.text != 0, "no text for %s", text);
    }
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    unsigned seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
    srand(seed);
    printf("# seed %u (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    setenv("TZ", "UTC", 1);
    Suite *suite = suite_create("template");
    TCase *tc = tcase_create("template");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_cases);
    tcase_add_test(tc, test_inputs);
    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_random);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
