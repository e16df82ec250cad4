/* tests/unit/t_assistant.c - answers taken apart: thoughts, calls in every format, text. Each text is fed
 * whole, byte by byte (character by character where it has longer ones) and in random pieces; what comes
 * out must not depend on that. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/assistant.h"

/* What comes out, as lines: "text: ...", "think: ...", "call NAME ID?: arguments". */
static const struct sample {
    const char *format; /* NULL: no calls are looked for */
    int thinks;         /* 1: from <think> on; 2: the prompt began it */
    const char *text, *want;
} samples[] = {
    {NULL, 0, "plain <tool_call>{}</tool_call> <think>x</think>",
     "text: plain <tool_call>{}</tool_call> <think>x</think>\n"},
    /* thoughts */
    {NULL, 1, "<think>\nhm, well\n</think>\n\nYes.", "think: hm, well\ntext: Yes.\n"},
    {NULL, 2, "hm</think>Yes. <think>", "think: hm\ntext: Yes. <think>\n"},
    {NULL, 1, " \n<think></think>\nYes", "text: Yes\n"},
    {NULL, 1, "<thin air> a</think>", "text: <thin air> a</think>\n"},
    {NULL, 2, "without an end </thin", "think: without an end </thin\n"},
    {NULL, 1, "<thi", "text: <thi\n"},
    {NULL, 1, "", ""},
    {"hermes", 2, "I call\n</think>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
     "think: I call\ncall f: {}\n"},
    /* a model that forgets to end its thought calls all the same */
    {"kimi", 2,
     "now<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_"
     "call_end|>"
     "<|tool_calls_section_end|>",
     "think: now\ncall f functions.f:0: {}\n"},
    /* Hermes and Qwen */
    {"hermes", 0,
     "Let me look.\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"n\": "
     "[1, {\"a\": \"}\"}]}}\n"
     "</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
     "text: Let me look.\ncall get_weather: {\"city\": \"Paris\", \"n\": [1, {\"a\": \"}\"}]}\ncall g: "
     "{}\n"},
    {"hermes", 0, "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"f\"}</tool_call> and so on",
     "call f: {\"x\":1}\ntext: and so on\n"},
    {"hermes", 0,
     "<tool_call>{\"name\": \"f\", \"id\": 7, \"arguments\": \"{\\\"x\\\": 1}\", \"k\": [2]}</tool_call>",
     "call f: {\"x\": 1}\n"},
    {"hermes", 0, "<tool_call>{\"arguments\": \"{\\\"x\\\": 1}\", \"name\": \"f\"}</tool_call>",
     "call f: {\"x\": 1}\n"},
    {"hermes", 0, "<tool_call>{\"name\": \"f\"}</tool_call>", "call f: {}\n"},
    {"hermes", 0, "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call> x", "call f: {}\ntext: x\n"},
    {"hermes", 0,
     "<tool_call>{\"name\": \"f\", \"arguments\": null , \"id\": 1}</tool_call>",
     "call f: {}\n"},
    {"hermes", 0, "<tool_call>{\"arguments\": null, \"name\": \"f\"}</tool_call>", "call f: {}\n"},
    {"hermes", 0, "<tool_call>{\"name\": \"f\", \"arguments\": nul", "call f: {}\n"},
    {"hermes", 0,
     "<tool_call>{\"name\": \"caf\\u00e9_\\/a\", \"arguments\": {}}</tool_call>",
     "call caf\u00e9_/a: {}\n"},
    {"hermes", 0, "a  <tool_call>nothing</tool_call> b", "text: a  <tool_call>nothing</tool_call> b\n"},
    {"hermes", 0, "<tool_call>x<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
     "text: <tool_call>x\ncall f: {}\n"},
    {"hermes", 0, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"cut o",
     "call f: {\"a\": \"cut o\n"},
    {"hermes", 0, "a < b <tool", "text: a < b <tool\n"},
    {"hermes", 0, "trailing spaces  ", "text: trailing spaces  \n"},
    /* DeepSeek V3, R1 */
    {"deepseek", 0,
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{\"q\": "
     "\"```\"}\n```<｜tool▁call▁end｜>\n"
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>h\n```json\n{}\n```<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>",
     "call get: {\"q\": \"```\"}\ncall h: {}\n"},
    /* ... V3.1 */
    {"deepseek", 1,
     "ok\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{\"q\": "
     "\"é\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜> done",
     "text: ok\ncall get: {\"q\": \"é\"}\ntext: done\n"},
    {"deepseek", 0, "<｜tool▁calls▁begin｜>?", "text: ?\n"},
    /* ... V3.2 */
    {"dsml", 0,
     "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"city\" "
     "string=\"true\">5</｜DSML｜parameter>\n"
     "<｜DSML｜parameter name=\"n\" string=\"false\">[1, "
     "2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
     "call get: {\"city\": \"5\", \"n\": [1, 2]}\n"},
    /* Kimi-K2 */
    {"kimi", 0,
     "Sure.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:3<|tool_call_argument_"
     "begin|>{\"a\":1}"
     "<|tool_call_end|><|tool_call_begin|>functions.f:4<|tool_call_argument_begin|> {} "
     "<|tool_call_end|><|tool_calls_section_end|>",
     "text: Sure.\ncall get_weather functions.get_weather:3: {\"a\":1}\ncall f functions.f:4: {}\n"},
    /* GLM */
    {"glm", 0,
     "<tool_call>get\n<arg_key>city</arg_key>\n<arg_value>75</arg_value>\n<arg_key>n</"
     "arg_key>\n<arg_value>3</arg_value>\n"
     "<arg_key>s</arg_key><arg_value>free text</arg_value></tool_call>",
     "call get: {\"city\": \"75\", \"n\": 3, \"s\": \"free text\"}\n"},
    {"glm", 0,
     "<tool_call>now</tool_call>\n<tool_call>get<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>",
     "call now: {}\ncall get: {\"n\": 1}\n"},
    {"glm", 0, "<tool_call>get<arg_key>n</arg_key><arg_value>1</arg_value><arg_key>cit",
     "call get: {\"n\": 1}\n"},
    /* LongCat-Flash-Chat; Thinking-2601 */
    {"longcat", 0,
     "Sure.\n<longcat_tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": "
     "\"Paris\"}}\n</longcat_tool_call>\n"
     "<longcat_tool_call>{\"name\": \"g\", \"arguments\": {}}</longcat_tool_call>",
     "text: Sure.\ncall get: {\"city\": \"Paris\"}\ncall g: {}\n"},
    {"longcat", 2,
     "hm\n</longcat_think>\n<longcat_tool_call>get\n<longcat_arg_key>city</longcat_arg_key>\n"
     "<longcat_arg_value>75</longcat_arg_value>\n<longcat_arg_key>n</longcat_arg_key>\n"
     "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call>\n"
     "<longcat_tool_call>now</longcat_tool_call> so",
     "think: hm\ncall get: {\"city\": \"75\", \"n\": 3}\ncall now: {}\ntext: so\n"},
    {"longcat", 1, "<longcat_think>a</longcat_think>\nb", "think: a\ntext: b\n"},
    {"longcat", 1, "<think>a</think>", "text: <think>a</think>\n"},
    {"longcat", 0, "a <longcat_tool_call> ", "text: a <longcat_tool_call> \n"},
    {"longcat", 0, "a <longcat_tool_call>{1}</longcat_tool_call>",
     "text: a <longcat_tool_call>{1}</longcat_tool_call>\n"},
    /* Qwen3-Coder */
    {"qwen_coder", 0,
     "<tool_call>\n<function=get>\n<parameter=city>\nNew\nYork\n</parameter>\n<parameter=n>\n{\"a\": "
     "1}\n</parameter>\n"
     "</function>\n</tool_call>",
     "call get: {\"city\": \"New\\nYork\", \"n\": {\"a\": 1}}\n"},
    {"qwen_coder", 0, "<function=get>\n<parameter=n>\n2\n</parameter>\n</function>\n</tool_call>",
     "call get: {\"n\": 2}\n"},
    /* what is JSON to the parser only: line ends in strings, numbers that are none */
    {"qwen_coder", 0,
     "<function=get>\n<parameter=n>\n[\"a\nb\", 1.]\n</parameter>\n</function>\n</tool_call>",
     "call get: {\"n\": [\"a\\nb\",1]}\n"},
    {"qwen_coder", 0,
     "<function=get>\n<parameter=n>\n[\n 1e5, -0.5,\t\"\\\"7.\"]\n</parameter>\n"
     "</function>\n</tool_call>",
     "call get: {\"n\": [\n 1e5, -0.5,\t\"\\\"7.\"]}\n"},
    {"glm", 0,
     "<tool_call>get<arg_key>n</arg_key><arg_value>007</arg_value>"
     "<arg_key>s</arg_key><arg_value>1.</arg_value></tool_call>",
     "call get: {\"n\": \"007\", \"s\": \"1.\"}\n"},
    /* the mark that ends a value inside of one; and what only begins like JSON */
    {"glm", 0,
     "<tool_call>get<arg_key>n</arg_key><arg_value> [\"a</arg_value>\\\"b\", 1]</arg_value>\n"
     "<arg_key>s</arg_key><arg_value>[</arg_value></tool_call>",
     "call get: {\"n\":  [\"a</arg_value>\\\"b\", 1], \"s\": \"[\"}\n"},
    {"qwen_coder", 0,
     "<function=get>\n<parameter=n>\n{\"x\": \"</parameter>\\n</function>\"}\n</parameter>\n"
     "<parameter=city>\n\"a\n</parameter>\n</function>\n</tool_call>",
     "call get: {\"n\": {\"x\": \"</parameter>\\n</function>\"}, \"city\": \"\\\"a\"}\n"},
    {"glm", 0,
     "<tool_call>get<arg_key>n</arg_key><arg_value>\"odd</arg_value>"
     "<arg_key>s</arg_key><arg_value>5\" x</arg_value></tool_call> and",
     "call get: {\"n\": \"\\\"odd\", \"s\": \"5\\\" x\"}\ntext: and\n"},
    {"qwen_coder", 0, "<tool_call>hello</tool_call>", "text: <tool_call>hello</tool_call>\n"},
    /* Llama 3 */
    {"llama", 0,
     "{\"name\": \"get\", \"parameters\": {\"city\": \"Oslo\"}}; {\"name\": \"f\", \"parameters\": {}}",
     "call get: {\"city\": \"Oslo\"}\ncall f: {}\n"},
    {"llama", 0, "<|python_tag|>{\"type\": \"function\", \"name\": \"get\", \"parameters\": {\"a\": 2}}",
     "call get: {\"a\": 2}\n"},
    {"llama", 0, "{\"answer\": 42}", "text: {\"answer\": 42}\n"},
    {"llama", 0, "see {\"name\": \"f\", \"parameters\": {}}",
     "text: see {\"name\": \"f\", \"parameters\": {}}\n"},
};
#define N_SAMPLES (int)(sizeof(samples) / sizeof(samples[0]))

static cJSON *tools;

static void describe(const struct parts *p, struct buf *out)
{
    for (int i = 0; i < p->n; i++) {
        const struct part *at = &p->list[i];
        struct buf text;
        buf_init(&text, 65536);
        ck_assert_int_eq(buf_printf(&text, "[\"%s\"]", at->text.b.n_bytes ? at->text.b.data : ""), 0);
        cJSON *s = cJSON_Parse(text.data);
        ck_assert_ptr_nonnull(s);
        bool own = at->kind == PART_CALL && strncmp(at->id, "call_", 5) != 0;
        ck_assert_int_eq(buf_printf(out, "%s%s%s%s: %s\n",
                                    at->kind == PART_TEXT        ? "text"
                                    : at->kind == PART_REASONING ? "think"
                                                                 : "call ",
                                    at->name ? at->name : "", own ? " " : "", own ? at->id : "",
                                    s->child->valuestring),
                         0);
        cJSON_Delete(s);
        buf_done(&text);
    }
}

/* how: 0 whole, 1 by characters, else random pieces of up to `how` characters */
static void run(const struct sample *s, bool only_one, int how, struct buf *out)
{
    struct assistant a;
    struct parts p;
    size_t n = strlen(s->text);
    buf_init(out, 65536);
    parts_init(&p, 65536, "call_", 1);
    const char *template = s->format && !strcmp(s->format, "longcat") ? "</longcat_think>" : "</think>";
    assistant_init(&a, &p, s->thinks ? thought_marks_of(template) : NULL, s->thinks == 2,
                   s->format ? call_format_find(s->format) : NULL, tools, only_one, 65536);
    for (size_t i = 0; i < n;) {
        size_t k = how == 0 ? n - i : how == 1 ? 1 : 1 + (size_t)rand() % (size_t)how;
        k = k < n - i ? k : n - i;
        while (i + k < n && ((unsigned char)s->text[i + k] & 0xc0) == 0x80)
            k++;
        assistant_feed(&a, s->text + i, k);
        i += k;
    }
    assistant_end(&a);
    ck_assert_int_eq(p.err, 0);
    describe(&p, out);
    for (int i = 0; i < p.n; i++)
        ck_assert(p.list[i].closed);
    assistant_done(&a);
    parts_done(&p);
}

START_TEST(test_samples)
{
    const struct sample *s = &samples[_i];
    for (int round = 0; round < 60; round++) {
        struct buf out;
        run(s, false, round < 2 ? round : 2 + rand() % 12, &out);
        ck_assert_msg(!strcmp(out.n_bytes ? out.data : "", s->want), "%s, %s\ngave\n%swanted\n%s",
                      s->format ? s->format : "-", s->text, out.n_bytes ? out.data : "", s->want);
        buf_done(&out);
    }
}
END_TEST

START_TEST(test_only_one)
{
    for (int i = 0; i < N_SAMPLES; i++) {
        struct buf out;
        int calls = 0;
        run(&samples[i], true, 3, &out);
        for (const char *at = out.n_bytes ? out.data : ""; (at = strstr(at, "call ")); at++)
            calls += at == out.data || at[-1] == '\n';
        ck_assert_int_le(calls, 1);
        buf_done(&out);
    }
}
END_TEST

/* Whatever is fed: no crash, no endless loop, and the same out of pieces. */
START_TEST(test_garbage)
{
    static const char *const bits[] = {"<tool_call>",
                                       "</tool_call>",
                                       "<think>",
                                       "</think>",
                                       "{",
                                       "}",
                                       "\"name\": \"f\"",
                                       ", ",
                                       "\"arguments\": ",
                                       "<arg_key>",
                                       "</arg_key>",
                                       "<arg_value>",
                                       "</arg_value>",
                                       "<longcat_tool_call>",
                                       "</longcat_tool_call>",
                                       "<longcat_arg_key>",
                                       "</longcat_arg_key>",
                                       "<longcat_arg_value>",
                                       "</longcat_arg_value>",
                                       "</longcat_think>",
                                       "<function=",
                                       ">",
                                       "</function>",
                                       "<parameter=",
                                       "</parameter>",
                                       "a",
                                       "\n",
                                       "<｜tool▁calls▁begin｜>",
                                       "<｜tool▁call▁begin｜>",
                                       "<｜tool▁sep｜>",
                                       "```json",
                                       "```",
                                       "<｜tool▁call▁end｜>",
                                       "<｜tool▁calls▁end｜>",
                                       "<|tool_calls_section_begin|>",
                                       "<|tool_call_begin|>",
                                       "<|tool_call_argument_begin|>",
                                       "<|tool_call_end|>",
                                       "<|tool_calls_section_end|>",
                                       "<|python_tag|>",
                                       "\"",
                                       "\\",
                                       ";",
                                       "[",
                                       "]",
                                       "é",
                                       "<｜DSML｜invoke name=\"",
                                       "\">",
                                       "</｜DSML｜invoke>",
                                       "<｜DSML｜function_calls>"};
    static const char *const names[] = {"hermes", "deepseek",   "dsml",  "kimi",
                                        "glm",    "qwen_coder", "llama", "longcat"};
    for (int round = 0; round < 3000; round++) {
        char text[2000] = "";
        struct sample s = {names[rand() % 8], rand() % 3, text, NULL};
        struct buf a, b;
        for (int i = rand() % 24, at = 0; i > 0; i--)
            at += snprintf(text + at, sizeof(text) - (size_t)at, "%s",
                           bits[(size_t)rand() % (sizeof(bits) / sizeof(*bits))]);
        run(&s, false, 0, &a);
        run(&s, false, 1 + rand() % 9, &b);
        ck_assert_msg(a.n_bytes == b.n_bytes && (!a.n_bytes || !strcmp(a.data, b.data)),
                      "%s %d: %s\nwhole\n%spieces\n%s", s.format, s.thinks, text, a.n_bytes ? a.data : "",
                      b.n_bytes ? b.data : "");
        buf_done(&a);
        buf_done(&b);
    }
}
END_TEST

/* Each known template is of the format that its model writes. */
START_TEST(test_templates)
{
    static const char *const of[][2] = {{"deepseek-v3.1", "deepseek"},
                                        {"deepseek-r1-distill-qwen", "deepseek"},
                                        {"glm-4.6", "glm"},
                                        {"glm-4.7-flash", "glm"},
                                        {"kimi-k2-instruct", "kimi"},
                                        {"kimi-k2-thinking", "kimi"},
                                        {"qwen2.5", "hermes"},
                                        {"qwen3", "hermes"},
                                        {"qwq", "hermes"},
                                        {"qwen3-coder", "qwen_coder"},
                                        {"deepseek-v2", NULL}};
    const char *src = getenv("top_srcdir");
    static char path[4096], text[200000];
    for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++) {
        snprintf(path, sizeof(path), "%s/tests/template/models/%s.jinja", src ? src : ".", of[i][0]);
        FILE *f = fopen(path, "r");
        ck_assert_msg(f != NULL, "%s", path);
        text[fread(text, 1, sizeof(text) - 1, f)] = 0;
        fclose(f);
        const struct call_format *c = call_format_of(text);
        if (of[i][1])
            ck_assert_msg(c && !strcmp(c->name, of[i][1]), "%s: %s", of[i][0], c ? c->name : "none");
        else
            ck_assert_ptr_null(c);
    }
    const struct call_format *c = call_format_of("say <longcat_tool_call>{..}</longcat_tool_call>");
    ck_assert(c && !strcmp(c->name, "longcat"));
    ck_assert_str_eq(thought_marks_of("a</longcat_think>b")->begin, "<longcat_think>");
    ck_assert_str_eq(thought_marks_of("a</think>b")->begin, "<think>");
    ck_assert_ptr_null(thought_marks_of("<think>"));
    ck_assert_ptr_null(thought_marks_of(NULL));
    ck_assert_ptr_null(call_format_of(NULL));
    ck_assert_ptr_null(call_format_find("x"));
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    unsigned seed = s ? (unsigned)strtoul(s, NULL, 10) : (unsigned)time(NULL);
    srand(seed);
    printf("# seed %u (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    tools = cJSON_Parse("[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"parameters\":{\"type\":"
                        "\"object\",\"properties\":"
                        "{\"city\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"}}}}}]");
    Suite *suite = suite_create("assistant");
    TCase *tc = tcase_create("assistant");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_samples, 0, N_SAMPLES);
    tcase_add_test(tc, test_only_one);
    tcase_add_test(tc, test_garbage);
    tcase_add_test(tc, test_templates);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    cJSON_Delete(tools);
    return failed ? 1 : 0;
}
