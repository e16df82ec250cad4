/* t_tool_choice - answers that must be calls: for every format, whatever its grammar allows is read back as
 * calls of the tools that were given, with arguments that their schemas allow. Walks are random over masks,
 * so over single bytes, pieces and control tokens alike. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/assistant.h"
#include "api/internal.h"
#include "base/clock.h"
#include "engine/grammar/grammar.h"
#include "tests/unit/spm.h"

/* --- a vocabulary: bytes, pieces, and the marks of some formats as control tokens ---------------------- */

static const char *const pieces[] = {
    "<tool_call>", "</tool_call>", "{\"",          "\"}",          "</",
    "<",           "null",         "12",           "\":",          "a",
    "ab",          "\n",           "</arg_value>", "</parameter>", "\n</parameter>\n",
    "the",         "\xc3\xa9"};
static const char *const marks[] = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", "｜DSML｜",
                                    "<|other|>"};
#define N_PIECES ((int)(sizeof(pieces) / sizeof(*pieces)))
#define N_MARKS ((int)(sizeof(marks) / sizeof(*marks)))
#define N_CONTROLS (3 + N_MARKS)
#define N_VOCAB (N_CONTROLS + 256 + N_PIECES)

static struct tokenizer *tokenizer;

static void make_vocab(void)
{
    static struct spm s;
    struct err e = {0};
    spm_begin(&s, marks, N_MARKS);
    for (int i = 0; i < N_PIECES; i++)
        spm_add(&s, pieces[i], 1, -(float)i);
    if (tokenizer_new(&s.src, s.src.n_tokens, &tokenizer, &e) < 0) {
        printf("Bail out! %s\n", e.text);
        exit(1);
    }
}

static uint64_t state = 1;

static unsigned below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

/* --- tools -------------------------------------------------------------------------------------------- */

static const char *const schemas[][2] = {
    {"get",
     "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\","
     "\"maximum\":99,"
     "\"minimum\":0},\"unit\":{\"type\":\"string\",\"enum\":[\"c\",\"f k\"]}},\"required\":[\"city\"]}"},
    {"set_it", "{\"type\":\"object\",\"properties\":{\"on\":{\"type\":\"boolean\"},\"p\":{\"type\":"
               "\"string\",\"pattern\":"
               "\"^[^a]{0,5}$\"},\"l\":{\"items\":{\"$ref\":\"#/$defs/"
               "x\"},\"maxItems\":2},\"m\":{\"const\":\"7\"}},"
               "\"required\":[\"l\",\"m\",\"p\"],\"$defs\":{\"x\":{\"enum\":[\"u\",5]}}}"},
    {"none-here", "{\"type\":\"object\",\"properties\":{}}"},
};
#define N_TOOLS 3
#define FREE_TOOL 1 /* the others are strict */

static const char *const formats[] = {"hermes",     "llama", "kimi",     "glm",
                                      "qwen_coder", "dsml",  "deepseek", "deepseek ```json",
                                      "longcat",    "longcat <longcat_arg_key>"};
static const struct grammar_limits limits = {65536, 200000, 5 * NS_PER_SEC, 64 << 20};
static cJSON *tools;

static void make_tools(void)
{
    tools = cJSON_CreateArray();
    for (int i = 0; i < N_TOOLS; i++) {
        cJSON *at = cJSON_CreateObject(), *f = cJSON_CreateObject();
        cJSON_AddStringToObject(at, "type", "function");
        cJSON_AddItemToObject(at, "function", f);
        cJSON_AddStringToObject(f, "name", schemas[i][0]);
        cJSON_AddItemToObject(f, "parameters", cJSON_Parse(schemas[i][1]));
        if (i != FREE_TOOL)
            cJSON_AddTrueToObject(f, "strict");
        cJSON_AddItemToArray(tools, at);
    }
}

/* The token that the plan goes on with, of a random length, or any one of the mask. */
static int choose(const uint32_t *bits, int n_allowed, const char **plan)
{
    size_t n = strlen(*plan);
    for (int tries = 0; n > 0 && tries < 8; tries++) {
        size_t len = tries < 4 ? 1 + below((unsigned)n) : 1;
        int id = len > 1 ? tokenizer_find(tokenizer, *plan, len) : N_CONTROLS + (unsigned char)**plan;
        if (id >= 0 && !tokenizer_is_eog(tokenizer, id) && ((bits[id / 32] >> (id % 32)) & 1)) {
            *plan += len;
            return id;
        }
    }
    int pick = (int)below((unsigned)n_allowed), id = 0;
    *plan = "";
    while (!((bits[id / 32] >> (id % 32)) & 1) || pick-- > 0)
        id++;
    return id;
}

/* A walk to the end of the text, which it chooses in one of `end_in` cases where it may; false: it became too
 * long. With a format it is mostly of what the format's marks are made of, so that it often nearly is one. */
static bool wander(struct grammar *g, const struct call_format *f, unsigned end_in, struct buf *out)
{
    const char *plan = "";
    struct matcher *m;
    uint32_t bits[N_VOCAB / 32 + 1];
    unsigned n_marks = 0;
    while (f && f->begin[n_marks])
        n_marks++;
    ck_assert_int_eq(matcher_new(g, &m), 0);
    for (int step = 0; step < 3000; step++) {
        int k = matcher_mask(m, true, bits);
        ck_assert_int_gt(k, 0);
        if (matcher_may_end(m) && (k == 1 || below(end_in) == 0)) {
            matcher_free(&m);
            return true;
        }
        if (f && below(8) == 0)
            plan = f->begin[below(n_marks)];
        if (f && below(30) == 0)
            plan = "";
        int id = choose(bits, k, &plan);
        if (tokenizer_is_eog(tokenizer, id))
            continue;
        size_t n;
        const char *s = tokenizer_token_bytes(tokenizer, id, &n);
        ck_assert_int_eq(matcher_accept(m, id), 0);
        ck_assert_int_eq(buf_append(out, s, n), 0);
    }
    matcher_free(&m);
    return false;
}

/* The arguments under the tool's schema, by the grammar of that schema. */
static void check_call(struct grammars *all, const struct part *p, const char *text, bool all_strict)
{
    int i = 0;
    while (i < N_TOOLS && strcmp(schemas[i][0], p->name) != 0)
        i++;
    ck_assert_msg(i < N_TOOLS, "%s: a call of %s", text, p->name);
    /* what parts hold is escaped for JSON */
    struct buf quoted;
    buf_init(&quoted, 1 << 20);
    ck_assert_int_eq(buf_append(&quoted, "\"", 1), 0);
    ck_assert_int_eq(buf_append(&quoted, p->text.b.data, p->text.b.n_bytes), 0);
    ck_assert_int_eq(buf_append(&quoted, "\"", 1), 0);
    cJSON *s = cJSON_ParseWithLength(quoted.data, quoted.n_bytes);
    ck_assert_msg(cJSON_IsString(s), "%s", text);
    cJSON *args = cJSON_Parse(s->valuestring);
    ck_assert_msg(cJSON_IsObject(args), "%s: arguments %s", text, s->valuestring);
    char *compact = cJSON_PrintUnformatted(args);
    struct grammar *g;
    struct matcher *m;
    if (i == FREE_TOOL && !all_strict) {
        free(compact);
        cJSON_Delete(args);
        cJSON_Delete(s);
        buf_done(&quoted);
        return;
    }
    ck_assert_int_eq(grammars_get(all, GRAMMAR_SCHEMA, schemas[i][1], strlen(schemas[i][1]), &g, NULL),
                     0);
    ck_assert_int_eq(matcher_new(g, &m), 0);
    ck_assert_msg(matcher_bytes(m, compact, strlen(compact)) == 0 && matcher_may_end(m),
                  "%s: arguments %s", text, compact);
    matcher_free(&m);
    grammar_put(&g);
    free(compact);
    cJSON_Delete(args);
    cJSON_Delete(s);
    buf_done(&quoted);
}

static struct grammar *compile_for(struct grammars *all, const char *format, const char *template,
                                   const char *must, const char *only, bool many)
{
    struct params p = {.parallel_tool_calls = many, .must_call = must, .must_call_name = only};
    struct grammar *g = NULL;
    struct err e = {0};
    struct jw w;
    jw_init(&w, 1 << 20);
    ck_assert_int_eq(call_source(call_format_find(format), template, tools, &p, &w), only ? 1 : N_TOOLS);
    ck_assert_int_eq(w.err, 0);
    int r = grammars_get(all, GRAMMAR_CALLS, w.b.data, w.b.n_bytes, &g, &e);
    ck_assert_msg(r == 0, "%s: %s", format, e.text);
    jw_done(&w);
    return g;
}

static struct grammar *compile(struct grammars *all, const char *format, const char *template,
                               const char *only, bool many)
{
    return compile_for(all, format, template, "tool_choice", only, many);
}

/* How many calls the format's reader finds. strict: all of the text is calls, of tools held to their schema;
 * else only those that are strict are. */
static int read_back(struct grammars *all, const char *format, const struct buf *text, bool strict)
{
    struct parts parts;
    struct assistant a;
    char shown[400];
    snprintf(shown, sizeof(shown), "%s: %.*s", format, (int)(text->n_bytes < 300 ? text->n_bytes : 300),
             text->data);
    parts_init(&parts, 1 << 20, "call_", 1);
    assistant_init(&a, &parts, NULL, false, call_format_find(format), tools, false, 1 << 20);
    for (size_t at = 0, n; at < text->n_bytes; at += n) { /* in pieces of any size */
        n = 1 + below(20);
        n = n < text->n_bytes - at ? n : text->n_bytes - at;
        assistant_feed(&a, text->data + at, n);
    }
    assistant_end(&a);
    ck_assert_int_eq(parts.err, 0);
    int calls = 0;
    for (int i = 0; i < parts.n; i++) {
        ck_assert_msg(parts.list[i].kind == PART_CALL || !strict || parts.list[i].text.b.n_bytes == 0, "%s",
                      shown);
        if (parts.list[i].kind == PART_CALL) {
            check_call(all, &parts.list[i], shown, strict);
            calls++;
        }
    }
    assistant_done(&a);
    parts_done(&parts);
    return calls;
}

START_TEST(test_formats)
{
    char format[32];
    struct grammars *all;
    int whole = 0, several = 0;
    snprintf(format, sizeof(format), "%.*s", (int)strcspn(formats[_i], " "), formats[_i]);
    ck_assert_int_eq(grammars_new(tokenizer, N_VOCAB, &limits, &all), 0);
    for (int kind = 0; kind < 3; kind++) {
        struct grammar *g = compile(all, format, formats[_i], kind == 2 ? "get" : NULL, kind == 0);
        for (int k = 0; k < 60; k++) {
            struct buf text;
            buf_init(&text, 1 << 20);
            if (wander(g, NULL, 3, &text)) {
                int n = read_back(all, format, &text, true);
                ck_assert_int_ge(n, 1);
                ck_assert(kind == 0 || n == 1);
                several += n > 1;
                whole++;
            }
            buf_done(&text);
        }
        grammar_put(&g);
    }
    printf("# %s: %d answers, %d with several calls\n", formats[_i], whole, several);
    ck_assert_int_gt(whole, 60);
    ck_assert_int_gt(several, 0);
    grammars_free(&all);
}
END_TEST

/* Tools that are strict while calls may come: text is free, and a call that is read is one that may be. */
START_TEST(test_free_text)
{
    char format[32];
    struct grammars *all;
    int whole = 0, calls = 0;
    snprintf(format, sizeof(format), "%.*s", (int)strcspn(formats[_i], " "), formats[_i]);
    ck_assert_int_eq(grammars_new(tokenizer, N_VOCAB, &limits, &all), 0);
    struct grammar *g = compile_for(all, format, formats[_i], NULL, NULL, true);
    for (int k = 0; k < 400; k++) {
        struct buf text;
        buf_init(&text, 1 << 20);
        if (wander(g, call_format_find(format), 30, &text)) {
            whole++;
            calls += read_back(all, format, &text, false) > 0;
        }
        buf_done(&text);
    }
    grammar_put(&g);
    printf("# %s: %d texts, %d with calls\n", formats[_i], whole, calls);
    ck_assert_int_gt(whole, 40);
    ck_assert_int_gt(calls, 0);
    ck_assert_int_lt(calls, whole - 5);
    grammars_free(&all);
}
END_TEST

/* A text between calls and none: what the reader would take for a call of another form cannot be written. */
START_TEST(test_free_text_marks)
{
    static const struct {
        const char *format, *text;
        bool allowed;
    } cases[] = {
        {"hermes", "a < b <tool_cal> is no call", true},
        {"hermes", "<<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\":\"a\"}}\n</tool_call>",
         true},
        {"hermes", "<tool_call>{\"name\"", false},
        {"hermes", "<tool_call>\n{\"name\": \"other", false},
        {"hermes", "x<tool_call>\n{\"name\": \"get\", \"arguments\": {\"n\":1", false},
        {"hermes", "<tool_call>\n{\"name\": \"set_it\", \"arguments\": {\"n\":1}}\n</tool_call>", true},
        {"qwen_coder", "so <function=get>", false},
        {"qwen_coder",
         "so <tool_call>\n<function=set_it>\n<parameter=zz>\nany\n</parameter>\n"
         "</function>\n</tool_call>",
         true},
        {"llama", "a {\"name\"", true},
        {"llama", " \n{\"name\": \"set_it\", \"parameters\": {}}", true},
        {"llama", "{\"x\"", false},
        {"llama", "<|python_tag|>", false},
        {"llama", "<|python_tag is this|>", true},
        {"kimi", "<|tool_calls_section_begin|>", false}, /* as plain characters */
        {"kimi", "<|tool_calls_section_beginning|>", true},
    };
    struct grammars *all;
    ck_assert_int_eq(grammars_new(tokenizer, N_VOCAB, &limits, &all), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct grammar *g = compile_for(all, cases[i].format, "", NULL, NULL, true);
        struct matcher *m;
        ck_assert_int_eq(matcher_new(g, &m), 0);
        bool allowed = matcher_bytes(m, cases[i].text, strlen(cases[i].text)) == 0 && matcher_may_end(m);
        ck_assert_msg(allowed == cases[i].allowed, "%s: %s", cases[i].format, cases[i].text);
        matcher_free(&m);
        grammar_put(&g);
    }
    grammars_free(&all);
}
END_TEST

/* Marks that are control tokens come as these tokens only, and no other control token comes. */
START_TEST(test_control_tokens)
{
    struct grammars *all;
    struct matcher *m;
    uint32_t bits[N_VOCAB / 32 + 1];
    ck_assert_int_eq(grammars_new(tokenizer, N_VOCAB, &limits, &all), 0);
    struct grammar *g = compile(all, "kimi", "", NULL, true);
    ck_assert_int_eq(matcher_new(g, &m), 0);
    ck_assert_int_eq(matcher_bytes(m, "\n", 1), 0);
    ck_assert_int_gt(matcher_mask(m, true, bits), 0);
    for (int id = 0; id < N_CONTROLS; id++)
        ck_assert_int_eq(bits[0] >> id & 1, id == 3);
    ck_assert(!(bits[(N_CONTROLS + 0xff) / 32] >> ((N_CONTROLS + 0xff) % 32) & 1));
    ck_assert_int_lt(matcher_accept(m, N_CONTROLS + '<'), 0);
    ck_assert_int_eq(matcher_accept(m, 3), 0);
    ck_assert_int_eq(matcher_accept(m, 4), 0);
    ck_assert_int_lt(matcher_accept(m, 6), 0);
    matcher_free(&m);
    grammar_put(&g);
    grammars_free(&all);
}
END_TEST

int main(void)
{
    make_vocab();
    make_tools();
    Suite *s = suite_create("tool_choice");
    TCase *t = tcase_create("tool_choice");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_formats, 0, (int)(sizeof(formats) / sizeof(*formats)));
    tcase_add_test(t, test_control_tokens);
    tcase_add_loop_test(t, test_free_text, 0, (int)(sizeof(formats) / sizeof(*formats)));
    tcase_add_test(t, test_free_text_marks);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    cJSON_Delete(tools);
    tokenizer_free(&tokenizer);
    return failed != 0;
}
