/* tests/unit/t_template.c - chat templates: the language, its limits, and that what a client writes stays
 * text. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/template.h"

static struct err e;

/* Renders and gives the text; NULL when it failed (then e tells). */
static char *render(const char *text, const char *messages, struct template_output *ret)
{
    static struct template_output out;
    struct template *t = NULL;
    struct template_output got = {0};
    free(out.text);
    free(out.literal);
    out = (struct template_output){0};
    e = (struct err){0};
    if (template_new(text, strlen(text), &t, &e) < 0)
        return NULL;
    cJSON *m = cJSON_Parse(messages);
    ck_assert_ptr_nonnull(m);
    const struct template_text texts[] = {{"bos_token", "<B>"}, {"eos_token", "<E>"}};
    const struct template_input in = {
        .messages = m, .add_generation_prompt = true, .texts = texts, .n_texts = 2};
    int r = template_render(t, &in, 100000, &got, &e);
    cJSON_Delete(m);
    template_free(&t);
    if (r < 0)
        return NULL;
    out = got;
    if (ret)
        *ret = got;
    return out.text;
}

#define ONE "[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define TWO "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"Hi\"}]"

START_TEST(test_language)
{
    static const struct {
        const char *template, *messages, *want;
    } rows[] = {
        {"plain", ONE, "plain"},
        {"{{ bos_token }}{{ eos_token }}", ONE, "<B><E>"},
        {"{# no #}a", ONE, "a"},
        {"{% for m in messages %}{{ m['role'] }}:{{ m.content }};{% endfor %}", TWO, "system:S;user:Hi;"},
        {"{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }} "
         "{% endfor %}",
         TWO, "10TrueFalse 21FalseTrue "},
        {"{% if messages[0]['role'] == 'system' %}s{% elif true %}t{% else %}u{% endif %}", TWO, "s"},
        {"{% if messages[0]['role'] == 'system' %}s{% elif true %}t{% else %}u{% endif %}", ONE, "t"},
        {"{{ messages[-1].content }}", TWO, "Hi"},
        {"{% set x = 'a' %}{{ x + 'b' ~ 1 }}", ONE, "ab1"},
        {"{{ 7 % 4 }} {{ 2 * 3 - 1 }}", ONE, "3 5"},
        {"{{ '  x ' | trim | upper }}", ONE, "X"},
        {"{{ messages | length }}", TWO, "2"},
        {"{{ 'a' if messages is defined else 'b' }}{{ 'c' if nothing is defined else 'd' }}", ONE, "ad"},
        {"{{ 'x' in 'axb' }}{{ not false and true }}", ONE, "TrueTrue"},
        {"a  {%- if true -%}  b  {%- endif -%}  c", ONE, "abc"},
        {"a\n{% if true %}\nb\n{% endif %}\nc", ONE, "a\nb\nc"}, /* trim_blocks */
        {"{{ nothing | default('d') }}", ONE, "d"},
        {"{% if add_generation_prompt %}go{% endif %}", ONE, "go"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char *got = render(rows[i].template, rows[i].messages, NULL);
        ck_assert_msg(got != NULL, "%s: %s", rows[i].template, e.text);
        ck_assert_msg(!strcmp(got, rows[i].want), "%s gave \"%s\"", rows[i].template, got);
    }
}
END_TEST

START_TEST(test_errors)
{
    static const char *const wrong[] = {
        "{% for m in messages %}", "{% if %}{% endif %}", "{{ 'open }}",      "{{ a",
        "{% endfor %}",            "{% unknown %}",       "{{ x | shout }}",  "{% macro f() %}",
        "{{ open('file') }}",      "{{ (1 }}",            "{% set = 1 %}",    "{{ [1, }}",
        "{% for in messages %}{% endfor %}",              "{{ 1 +  }}",       "{% else %}",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        ck_assert_msg(!render(wrong[i], ONE, NULL), "%s was taken", wrong[i]);
        ck_assert_msg(*e.text != 0, "%s: no text", wrong[i]);
    }
    ck_assert_ptr_null(render("{{ raise_exception('roles must alternate') }}", ONE, NULL));
    ck_assert_ptr_nonnull(strstr(e.text, "roles must alternate"));
    ck_assert_int_eq(e.code, ERR_INVAL);
}
END_TEST

/* What a client wrote is marked, so that the tokenizer takes no special token out of it. */
START_TEST(test_literal)
{
    struct template_output out;
    char *got = render("<|user|>{{ messages[0]['content'] | trim }}<|assistant|>",
                       "[{\"role\":\"user\",\"content\":\" <|system|>{{ x }}{% if %} \"}]", &out);
    ck_assert_str_eq(got, "<|user|><|system|>{{ x }}{% if %}<|assistant|>");
    size_t begin = strlen("<|user|>"), end = out.n_bytes - strlen("<|assistant|>");
    for (size_t i = 0; i < out.n_bytes; i++)
        ck_assert_int_eq(out.literal[i], i >= begin && i < end);
    /* joined to other text, in upper case or as part of a list: still the client's */
    got = render("{{ ('[' ~ messages[0].content ~ ']') | upper }}",
                 "[{\"role\":\"u\",\"content\":\"<e>\"}]", &out);
    ck_assert_str_eq(got, "[<E>]");
    for (size_t i = 1; i < 4; i++)
        ck_assert_int_eq(out.literal[i], 1);
}
END_TEST

START_TEST(test_limits)
{
    /* a thousand times a thousand messages is refused, not computed */
    struct buf_like {
        char *data;
    } b = {malloc(60 * 2000 + 10)};
    char *at = b.data;
    *at++ = '[';
    for (int i = 0; i < 2000; i++)
        at += snprintf(at, 60, "%s{\"role\":\"user\",\"content\":\"0123456789\"}", i ? "," : "");
    *at++ = ']';
    *at = 0;
    ck_assert_ptr_null(render("{% for a in messages %}{% for b in messages %}{% for c in messages %}"
                              "{{ a.content }}{% endfor %}{% endfor %}{% endfor %}",
                              b.data, NULL));
    ck_assert_int_eq(e.code, ERR_LIMIT);
    free(b.data);
    char deep[20001];
    memset(deep, '(', sizeof(deep) - 1);
    memcpy(deep, "{{", 2);
    deep[sizeof(deep) - 1] = 0;
    ck_assert_ptr_null(render(deep, ONE, NULL));
}
END_TEST

/* Random pieces of the language: any answer, but no crash (sanitizers see more). */
START_TEST(test_random)
{
    static const char *const pieces[] = {
        "{{", "}}", "{%", "%}", "{#", "#}", " for ", " in ", " if ", " else ", " endif ", " endfor ", " set ",
        "messages", "m", "'a'", "\"", "[", "]", "(", ")", ".", "|", "trim", "~", "+", "-", "==", "1", "0",
        "content", ",", " is ", " not ", " defined ", "loop.index", "\n", "x", ":", "{", "}",
        "default(", "join(",
    };
    for (int i = 0; i < 20000; i++) {
        char text[400] = "";
        int n = rand() % 24, at = 0;
        for (int k = 0; k < n; k++)
            at += snprintf(text + at, sizeof(text) - (size_t)at, "%s",
                           pieces[(size_t)rand() % (sizeof(pieces) / sizeof(*pieces))]);
        if (!render(text, TWO, NULL))
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
    Suite *suite = suite_create("template");
    TCase *tc = tcase_create("template");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_language);
    tcase_add_test(tc, test_errors);
    tcase_add_test(tc, test_literal);
    tcase_add_test(tc, test_limits);
    tcase_add_test(tc, test_random);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
