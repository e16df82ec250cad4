/* t_grammar - grammars: what each front end accepts and refuses, masks against every token tried byte by
 * byte, limits, and that nothing depends on what is kept. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/grammar/grammar.h"
#include "tests/unit/spm.h"

/* --- a vocabulary: all bytes, and pieces of JSON and words ------------------------------------------- */

#define MAX_TOKENS 4096
#define FIRST_BYTE 3

static const char *const pieces[] = {
    "{",
    "}",
    "[",
    "]",
    "\":",
    "\",",
    "\"",
    "{\"",
    "\"}",
    "\"}}",
    "\"],",
    "],[",
    "},{",
    "null",
    "true",
    "false",
    "tru",
    "ue",
    "fal",
    "se",
    "nul",
    "1",
    "12",
    "123",
    "0.",
    ".5",
    "e+",
    "-",
    "-1",
    "00",
    "name",
    "\"name\"",
    "\"name\":",
    "age",
    "\"age",
    "na",
    "me\"",
    "the",
    "\xe2\x96\x81the",
    "\xe2\x96\x81",
    "\xe2\x96\x81\xe2\x96\x81",
    "\n",
    "\n\xe2\x96\x81\xe2\x96\x81",
    ",\n",
    ", ",
    "a",
    "b",
    "ab",
    "aa",
    "aab",
    "abc",
    "\xc3\xa9",
    "\xe4\xb8\xad",
    "\xf0\x9f\x98\x80",
    "\\",
    "\\n",
    "\\u",
    "\\\"",
    "x\"",
    "x\",\"",
    "\"x\"",
    "yes",
    "no",
    "ye",
    "es",
    "2024",
    "-01",
    "T1",
    "Z\"",
    "@",
    ".com",
    "red",
    "green",
    "blue",
    "gre",
    "en\"",
    "<fn",
    "<fn=",
    "</fn>",
    ">{",
    "hello",
    /* at and beyond the length that nodes are compared for */
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabaaaaaaaa",
};

static struct tokenizer *tokenizer;
static int n_vocab;

static void make_vocab(void)
{
    static struct spm s;
    struct err e = {0};
    spm_begin(&s, NULL, 0);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++)
        spm_add(&s, pieces[i], 1, -(float)i);
    n_vocab = s.src.n_tokens;
    if (tokenizer_new(&s.src, n_vocab, &tokenizer, &e) < 0)
        ck_abort_msg("%s", e.text);
}

static const struct grammar_limits limits = {65536, 200000, 5 * NS_PER_SEC, 64 << 20};

static struct grammars *new_grammars(const struct grammar_limits *lim)
{
    struct grammars *g;
    ck_assert_int_eq(grammars_new(tokenizer, n_vocab, lim, &g), 0);
    return g;
}

static uint64_t state = 1;

static unsigned below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

static bool accepts(struct grammar *g, const char *text)
{
    struct matcher *m;
    ck_assert_int_eq(matcher_new(g, &m), 0);
    bool yes = matcher_bytes(m, text, strlen(text)) == 0 && matcher_may_end(m);
    matcher_free(&m);
    return yes;
}

/* --- what is accepted ------------------------------------------------------------------------------ */

struct example {
    enum grammar_kind kind;
    const char *source;
    const char *yes[12], *no[12];
};

static const struct example examples[] = {
    {GRAMMAR_GBNF,
     "root ::= \"a\" b* | [0-9]{2,3}\nb ::= \"x\" | \"y\" # more\n",
     {"a", "axyx", "12", "123"},
     {"", "x", "1", "1234", "ab"}},
    {GRAMMAR_GBNF, "root ::= (\"a\"\n  | \"b\")+\n", {"a", "abba"}, {"", "c"}},
    {GRAMMAR_GBNF, "root ::= \"a\" |\n \"b\"\n", {"a", "b"}, {"ab"}},
    {GRAMMAR_GBNF, "root ::=\n  \"a\"\n  | \"b\"\nother ::= \"c\"", {"a", "b"}, {"c"}},
    {GRAMMAR_GBNF,
     "root ::= [^a-z\\n] . \"\\x41\\u00e9\"",
     {"AzA\xc3\xa9", "\xf0\x9f\x98\x80\nA\xc3\xa9"},
     {"azA\xc3\xa9", "A\xc3\xa9"}},
    {GRAMMAR_GBNF, "root ::= \"(\" root \")\" | \"\"", {"", "()", "((()))"}, {"(", ")(", "(()"}},
    {GRAMMAR_GBNF,
     "root ::= expr\nexpr ::= term ([-+] term)*\nterm ::= [0-9]+ | \"(\" expr \")\"",
     {"1", "1+2-(3+4)", "((7))"},
     {"1+", "(1", "+1"}},
    /* the same beginning for two rules that go on differently at any depth */
    {GRAMMAR_GBNF,
     "root ::= a | b\na ::= \"x\" a \"y\" | \"y\"\nb ::= \"x\" b \"z\" | \"z\"",
     {"y", "xyy", "xxzzz", "xxxyyyy"},
     {"xyz", "xxyzz", "x"}},
    /* in circles, but never deeper */
    {GRAMMAR_GBNF, "root ::= e a\ne ::= \"x\"?\na ::= e root | \"y\"", {"y", "xy", "xxxy"},
     {"", "x", "yy", "yx"}},
    {GRAMMAR_GBNF, "start: \"a\" word?\nword: /[b-d]+/ | 'q'\n", {"a", "abcd", "aq"}, {"b", "abq"}},
    /* Lark's ranges; to llama.cpp the same is any two characters between two texts */
    {GRAMMAR_GBNF,
     "start: (\"a\"..\"c\" | '0' .. \"9\")+ last\nlast: \"Y\"..\"Z\" .",
     {"aZ!", "c0bYx", "9Z."},
     {"dZ!", "a..cZ!", "Z!", "aXx"}},
    {GRAMMAR_GBNF, "root ::= \"a\"..\"c\"", {"axyc", "a..c"}, {"b", "ac"}},
    {GRAMMAR_GBNF, "root ::= a? a? a? \"b\"\na ::= \"a\"?", {"b", "ab", "aaab"}, {"aaaab", "a"}},
    {GRAMMAR_REGEX, "(foo|bar)+\\d{2}", {"foo12", "barfoo00"}, {"foo1", "12", "foo123"}},
    {GRAMMAR_REGEX, "^[^\\s\"]+?$", {"a", "x-\xc3\xa9"}, {"", "a b", "\xe3\x80\x80", "\""}},
    {GRAMMAR_REGEX,
     "a.c",
     {"abc", "a\xe4\xb8\xad"
             "c"},
     {"a\nc", "ac"}},
    {GRAMMAR_REGEX, "(?:a|b){0}c|\\u{1F600}|[\\w-]{2,}", {"c", "\xf0\x9f\x98\x80", "a-_9"},
     {"ac ", "-", ""}},
    {GRAMMAR_REGEX, "(?<y>[0-9]{4})-(?P<m>0[1-9])", {"2024-01"}, {"2024-00"}},
    {GRAMMAR_REGEX, "a{,2}|[]", {"a{,2}"}, {"a", "aa"}},
    {GRAMMAR_REGEX,
     "a{45}|b",
     {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "b"},
     {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a"}},
    {GRAMMAR_REGEX,
     "[ab]{34,70}",
     {"abababababababababababababababababababab"},
     {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", ""}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"string\",\"maxLength\":44}",
     {"\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "\"\""},
     {"\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""}},
    {GRAMMAR_CHOICE,
     "[\"yes\",\"no\",\"yes, \\\"of course\\\"\"]",
     {"yes", "no", "yes, \"of course\""},
     {"", "y", "yesno", "YES"}},
    {GRAMMAR_OBJECT,
     "",
     {"{}", "{\"a\": [1, 2.5e-3, null, {\"b\": true}]}", "{ \"\\u00e9\\n\":\"x\"}"},
     {"[]", "1", "{\"a\":}", "{a:1}", "{\"a\":01}", "{\"a\":1,}", "{\"a\":\"\n\"}", "{\"a\":\"\\ud800\"}"}},
    {GRAMMAR_SCHEMA, "{}", {"1", "null", "[]", "{\"a\":\"b\"}", "\"x\""}, {"", "x", "tru"}},
    {GRAMMAR_SCHEMA, "true", {"1"}, {"x"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},"
     "\"c\":{\"type\":\"null\"}},\"required\":[\"b\"],\"additionalProperties\":false}",
     {"{\"b\":\"\"}", "{\"a\":1,\"b\":\"x\"}", "{\"b\":\"x\",\"c\":null}",
      "{\n  \"a\": -7,\n  \"b\": \"\"\n}"},
     {"{}", "{\"a\":1}", "{\"b\":1}", "{\"c\":null,\"b\":\"\"}", "{\"b\":\"\",\"d\":1}", "{\"b\":\"\",}"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"ab\":{\"type\":\"integer\"},\"ac\":{\"type\":\"integer\"}},"
     "\"additionalProperties\":{\"type\":\"string\"}}",
     {"{}", "{\"ab\":1}", "{\"ab\":1,\"x\":\"y\"}", "{\"a\":\"y\",\"abc\":\"\"}", "{\"ac\":1,\"\":\"\"}"},
     {"{\"ab\":\"\"}", "{\"x\":1}", "{\"x\":\"\",\"ab\":1}", "{\"\\u0061b\":\"\"}"}},
    /* a property that nothing matches is no further one either */
    {GRAMMAR_SCHEMA,
     "{\"properties\":{\"a\":false,\"b\":{}},\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{}", "{\"b\":[],\"c\":1}", "{\"ab\":1}"},
     {"{\"a\":1}", "{\"b\":1,\"a\":1}"}},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":false},\"additionalProperties\":true}", {"{}", "{\"b\":1}"},
     {"{\"a\":1}"}},
    {GRAMMAR_SCHEMA,
     "{\"properties\":{\"a\":{},\"b\":{}},\"minProperties\":1,\"maxProperties\":1}",
     {"{\"a\":1}", "{\"b\":[]}"},
     {"{}", "{\"a\":1,\"b\":1}"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":2}",
     {"{\"a\":1}"},
     {"{}", "{\"a\":1,\"a\":2,\"a\":3}"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"object\",\"patternProperties\":{\"^x-[a-z]+$\":{\"type\":\"integer\"}}}",
     {"{}", "{\"x-a\":1,\"x-b\":2}"},
     {"{\"x-\":1}", "{\"y\":1}", "{\"x-a\":\"\"}"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":1,\"maxItems\":3}",
     {"[true]", "[true,false, true]"},
     {"[]", "[1]", "[true,true,true,true]"}},
    {GRAMMAR_SCHEMA,
     "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":{\"type\":\"null\"}}",
     {"[]", "[1]", "[1,\"\"]", "[1,\"\",null,null]"},
     {"[\"\"]", "[1,2]", "[1,\"\",3]"}},
    {GRAMMAR_SCHEMA,
     "{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":false,\"minItems\":1}",
     {"[1]"},
     {"[]", "[1,2]"}},
    {GRAMMAR_SCHEMA,
     "{\"prefixItems\":[{\"type\":\"integer\"},false],\"items\":{\"type\":\"null\"}}",
     {"[]", "[1]"},
     {"[1,null]", "[1,2]", "[1,2,null]", "[null]"}},
    {GRAMMAR_SCHEMA,
     "{\"enum\":[\"a\",1,null,{\"x\":[1]}]}",
     {"\"a\"", "1", "null", "{\"x\":[1]}"},
     {"a", "2"}},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
    {GRAMMAR_SCHEMA, "{\"const\":\"q\\\"\"}", {"\"q\\\"\""}, {"\"q\""}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"\xc3\xa9\xf0\x9f\x98\x80\\n\"", "\"\\\"\\\\\""},
     {"\"a\"", "\"abcd\"", "\"\xc3\xa9\""}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^[a-c]+$\",\"maxLength\":3}",
     {"\"a\"", "\"abc\""},
     {"\"\"", "\"abca\"", "\"d\""}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"b|^c\"}",
     {"\"abc\"", "\"cx\"", "\"b\""},
     {"\"xc\"", "\"\""}},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"^\\\"\\n$\"}", {"\"\\\"\\n\""}, {"\"\"\""}},
    {GRAMMAR_SCHEMA,
     "{\"format\":\"date\"}",
     {"\"2024-02-28\"", "\"2023-12-31\""},
     {"\"2024-02-30\"", "\"2024-04-31\"", "\"2024-13-01\""}},
    {GRAMMAR_SCHEMA, "{\"format\":\"ipv4\"}", {"\"0.255.10.1\""}, {"\"256.1.1.1\"", "\"01.1.1.1\""}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}",
     {"0", "-12", "-9", "105", "99", "100", "7"},
     {"-13", "106", "-0", "00", "999", "-20"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"integer\",\"exclusiveMinimum\":9.5,\"exclusiveMaximum\":1000}",
     {"10", "999"},
     {"9", "1000", "-10"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"number\",\"minimum\":0,\"exclusiveMaximum\":2}",
     {"0", "0.0", "1", "1.999", "0.5"},
     {"2", "2.0", "-1", "-0.5", "1e1"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"number\",\"exclusiveMinimum\":-1,\"maximum\":0}",
     {"0", "-0.5", "-0.0"},
     {"-1", "-1.0", "0.5", "1"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"number\",\"exclusiveMinimum\":0}",
     {"0.001", "1", "12.5", "100000"},
     {"0", "0.0", "-1"}},
    {GRAMMAR_SCHEMA, "{\"type\":\"integer\",\"multipleOf\":7}", {"0", "7", "-14", "1001"},
     {"1", "15", "07"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"number\",\"multipleOf\":5,\"minimum\":1,\"maximum\":20}",
     {"5", "20"},
     {"0", "25", "7"}},
    {GRAMMAR_SCHEMA, "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"integer\"}]}", {"null", "3"}, {"\"\""}},
    {GRAMMAR_SCHEMA,
     "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"v\":{\"type\":\"null\"}},"
     "\"required\":[\"k\",\"v\"]},{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"b\"}},"
     "\"required\":"
     "[\"k\"]}]}",
     {"{\"k\":\"a\",\"v\":null}", "{\"k\":\"b\"}"},
     {"{\"k\":\"a\"}", "{\"k\":\"c\"}"}},
    {GRAMMAR_SCHEMA,
     "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}},\"required\":[\"a\"]},"
     "{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":3},\"b\":{\"type\":\"null\"}}}]}",
     {"{\"a\":3}", "{\"a\":4,\"b\":null}"},
     {"{}", "{\"a\":2}", "{\"a\":3.5}"}},
    /* bounds beyond what is generated still bound: the first are JavaScript's safe integers */
    {GRAMMAR_SCHEMA,
     "{\"type\":\"integer\",\"minimum\":-9007199254740991,\"maximum\":9007199254740991}",
     {"5", "-999999999999999", "999999999999999"},
     {"9007199254740992", "-9007199254740992", "99999999999999999"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"number\",\"minimum\":-1e16}",
     {"5", "-0.5"},
     {"-1e99", "-99999999999999999"}},
    {GRAMMAR_SCHEMA,
     "{\"type\":\"number\",\"exclusiveMaximum\":1e16}",
     {"5"},
     {"1e99", "10000000000000000"}},
    /* a backslash, then letters: no NUL */
    {GRAMMAR_SCHEMA, "{\"const\":\"\\\\u0000\"}", {"\"\\\\u0000\""}, {"\"\"", "\"\\\\\""}},
    {GRAMMAR_SCHEMA,
     "{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":"
     "\"integer\"},\"next\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/node\",\"title\":\"n\"}]}},"
     "\"required\":[\"v\",\"next\"]}}}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {GRAMMAR_SCHEMA,
     "{\"$defs\":{\"b\":{\"type\":\"object\",\"required\":[\"n\"],\"properties\":{\"n\":{\"type\":"
     "\"integer\"}}},"
     "\"t\":{\"allOf\":[{\"$ref\":\"#/$defs/b\"},{\"properties\":{\"kids\":{\"type\":\"array\",\"items\":"
     "{\"$ref\":\"#/$defs/t\"}}}}]}},\"$ref\":\"#/$defs/t\"}",
     {"{\"n\":1}", "{\"n\":1,\"kids\":[{\"n\":2,\"kids\":[]}]}"},
     {"{\"n\":1,\"kids\":[{}]}"}},
    /* recursion through alternatives: at once, through others, inside items and properties */
    {GRAMMAR_SCHEMA, "{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#\"}]}", {"null"}, {"1", "nullnull", ""}},
    {GRAMMAR_SCHEMA,
     "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/$defs/b\"},{\"type\":\"null\"}]},"
     "\"b\":{\"anyOf\":[{\"$ref\":\"#/$defs/a\"},{\"type\":\"boolean\"}]}}}",
     {"null", "true"},
     {"1"}},
    {GRAMMAR_SCHEMA,
     "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"array\",\"items\":"
     "{\"$ref\":\"#\"}},{\"type\":\"object\","
     "\"properties\":{\"k\":{\"$ref\":\"#\"}},\"additionalProperties\":"
     "{\"$ref\":\"#\"}},{\"$ref\":\"#\"}]}",
     {"1", "[1,[2,[]]]", "{\"k\":[1],\"x\":{\"k\":{}}}"},
     {"null", "[null]", "{\"k\":\"\"}"}},
    {GRAMMAR_SCHEMA,
     "{\"allOf\":[{\"enum\":[9007199254740991,1,{\"a\":1,"
     "\"b\":2}]},{\"enum\":[9007199254740990,1,{\"b\":2,\"a\":1}]}]}",
     {"1", "{\"a\":1,\"b\":2}"},
     {"9007199254740991", "9007199254740990"}},
    {GRAMMAR_SCHEMA, "{\"type\":[\"string\",\"null\"],\"maxLength\":1}", {"\"a\"", "null"},
     {"\"ab\"", "1"}},
    {GRAMMAR_TAG,
     "{\"structures\":[{\"begin\":\"<fn=a>\",\"schema\":{\"type\":\"integer\"},\"end\":\"</fn>\"},"
     "{\"begin\":\"<fn=b>\",\"schema\":{\"const\":\"x\"},\"end\":\"</fn>\"}],\"triggers\":[\"<fn=\"]}",
     {"", "hello <f <<fn", "a<fn=a>12</fn> b<fn=b>\"x\"</fn>", "<<fn=a>1</fn>"},
     {"<fn=", "<fn=c>", "<fn=a>x</fn>", "<fn=a>1</fn", "<fn=b>1</fn>"}},
    /* triggers that overlap, one of them twice; characters of several bytes */
    {GRAMMAR_TAG,
     "{\"structures\":[{\"begin\":\"aab!\",\"schema\":{\"const\":1},\"end\":\";\"},{\"begin\":\"ac?\","
     "\"schema\":{\"const\":2},\"end\":\"\"},{\"begin\":\"\u00e4\u20ac\",\"schema\":{\"const\":3},\"end\":"
     "\"\u00e4\"}],\"triggers\":[\"aab\",\"ac\",\"\u00e4\",\"ac\"]}",
     {"aa aaab!1; ab", "aac?2ac?2aab!1;", "aaaa",
      "a\xc3\xb6\xf0\x9f\x98\x80\xc3\xa4\xe2\x82\xac" "3\xc3\xa4" "a"},
     {"aaab", "aab?1;", "aac2", "ac!", "\xc3\xa4", "\xc3\xa4\xe2\x82\xac" "3", "aaab!1;ac"}},
    /* arguments are an object, whatever else their schema would let them be */
    {GRAMMAR_CALLS,
     "{\"open\":\"<\",\"name_end\":\" \",\"close\":\">\","
     "\"tools\":[{\"name\":\"a\",\"schema\":{\"title\":\"A\"}},"
     "{\"name\":\"b\",\"schema\":{\"type\":[\"object\",\"null\"]}},"
     "{\"name\":\"c\",\"schema\":{\"anyOf\":[{\"type\":\"integer\"},{"
     "\"type\":\"object\",\"properties\":{\"x\":{}}}]}},"
     "{\"name\":\"d\",\"schema\":true}]}",
     {"<a {}>", "<a {\"x\":1}>", "<b {}>", "<c {}>", "<c {\"x\":1}>", "<d {}>"},
     {"<a 1>", "<a []>", "<b null>", "<c 1>", "<d null>"}},
};

START_TEST(accepting)
{
    const struct example *x = &examples[_i];
    struct grammars *all = new_grammars(&limits);
    struct grammar *g;
    struct err e = {0};
    int r = grammars_get(all, x->kind, x->source, strlen(x->source), &g, &e);
    ck_assert_msg(r == 0, "%s: %s", x->source, e.text);
    for (int i = 0; i < 12 && x->yes[i]; i++)
        ck_assert_msg(accepts(g, x->yes[i]), "%s does not accept %s", x->source, x->yes[i]);
    for (int i = 0; i < 12 && x->no[i]; i++)
        ck_assert_msg(!accepts(g, x->no[i]), "%s accepts %s", x->source, x->no[i]);
    grammar_put(&g);
    grammars_free(&all);
}
END_TEST

static const struct {
    enum grammar_kind kind;
    const char *source;
    int code;
    const char *says; /* part of the message */
} refusals[] = {
    {GRAMMAR_CALLS,
     "{\"open\":\"<\",\"close\":\">\","
     "\"argument\":{\"begin\":\"(\",\"text\":\"=\",\"json\":\"=\",\"end\":\")\"},"
     "\"tools\":[{\"name\":\"f\",\"path\":\"p\",\"schema\":{\"properties\":{"
     "\"a\":{\"type\":\"string\",\"allOf\":[{\"type\":\"integer\"}]}},\"required\":[\"a\"]}}]}",
     ERR_INVAL, "p#/properties/a: nothing matches"},
    {GRAMMAR_GBNF, "root ::= root \"a\" | \"b\"", ERR_UNSUPPORTED, "\"root\" begins with itself"},
    {GRAMMAR_GBNF, "root ::= e a\ne ::= \"x\"?\na ::= e root", ERR_INVAL, "nothing matches"},
    {GRAMMAR_GBNF, "root ::= e a \"z\"\ne ::= \"x\"?\na ::= e root | \"y\"",
     ERR_UNSUPPORTED, "begins with itself"},
    {GRAMMAR_GBNF, "root ::= \"x\" a\na ::= \"y\" b\nb ::= a \"z\" | \"u\" b",
     ERR_INVAL, "nothing matches"},
    {GRAMMAR_GBNF, "root ::= nope", ERR_INVAL, "\"nope\" is used and never defined"},
    {GRAMMAR_GBNF, "a ::= \"a\"", ERR_INVAL, "no rule \"root\""},
    {GRAMMAR_GBNF, "root ::= \"a\nb ::= \"c\"", ERR_INVAL, "line 1"},
    {GRAMMAR_GBNF, "root ::= \"a\"\nroot ::= \"b\"", ERR_INVAL, "defined twice"},
    {GRAMMAR_GBNF, "root ::= (\"a\"", ERR_INVAL, ") is missing"},
    {GRAMMAR_GBNF, "start: \"ab\"..\"c\"", ERR_INVAL, "one character to another"},
    {GRAMMAR_GBNF, "start: \"c\" .. 'a'", ERR_INVAL, "wrong way round"},
    {GRAMMAR_GBNF, "root ::= \"a\"{3,2}", ERR_INVAL, "wrong way round"},
    {GRAMMAR_GBNF, "%import common.INT\nroot ::= \"a\"", ERR_UNSUPPORTED, "directive"},
    {GRAMMAR_GBNF, "root ::= ((\"a\"{1000}){1000}){1000}", ERR_LIMIT, "too large"},
    {GRAMMAR_GBNF, "root ::= (((\"\"{9000}){9000}){9000}){9000}", ERR_LIMIT, "too large"},
    {GRAMMAR_REGEX, "a(?=b)", ERR_UNSUPPORTED, "byte 3"},
    {GRAMMAR_REGEX, "(a)\\1", ERR_UNSUPPORTED, "reference back"},
    {GRAMMAR_REGEX, "a\\b", ERR_UNSUPPORTED, "escape"},
    {GRAMMAR_REGEX, "a^b", ERR_UNSUPPORTED, "in the middle"},
    {GRAMMAR_REGEX, "(a", ERR_INVAL, ") is missing"},
    {GRAMMAR_REGEX, "a)", ERR_INVAL, "byte 1"},
    {GRAMMAR_REGEX, "*", ERR_INVAL, "nothing to repeat"},
    {GRAMMAR_REGEX, "[z-a]", ERR_INVAL, "wrong way round"},
    {GRAMMAR_REGEX, "[]", ERR_INVAL, "nothing matches"},
    {GRAMMAR_REGEX, "\\p{L}", ERR_UNSUPPORTED, "escape"},
    {GRAMMAR_REGEX, "(a{99999}){99999}", ERR_LIMIT, "too large"},
    {GRAMMAR_CHOICE, "[]", ERR_INVAL, "not empty"},
    {GRAMMAR_CHOICE, "[1]", ERR_INVAL, "strings"},
    {GRAMMAR_SCHEMA, "{", ERR_INVAL, "not JSON"},
    {GRAMMAR_SCHEMA, "{} x", ERR_INVAL, "not JSON"},
    {GRAMMAR_SCHEMA, "{\"const\":\"a\\u0000b\"}", ERR_UNSUPPORTED, "u0000"},
    {GRAMMAR_CHOICE, "[\"a\\u0000b\"]", ERR_UNSUPPORTED, "u0000"},
    {GRAMMAR_SCHEMA, "{\"enum\":[1,[-1e400]]}", ERR_INVAL, "1.8e308"},
    {GRAMMAR_SCHEMA, "[]", ERR_INVAL, "object or a boolean"},
    {GRAMMAR_SCHEMA, "false", ERR_INVAL, "nothing matches"},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"not\":{}}}}", ERR_UNSUPPORTED, "#/properties/a/not"},
    {GRAMMAR_SCHEMA, "{\"if\":{}}", ERR_UNSUPPORTED, "#/if"},
    {GRAMMAR_SCHEMA, "{\"items\":{\"type\":\"strin\"}}", ERR_INVAL, "#/items/type"},
    {GRAMMAR_SCHEMA, "{\"uniqueItems\":true}", ERR_UNSUPPORTED, "#/uniqueItems"},
    {GRAMMAR_SCHEMA, "{\"contains\":{}}", ERR_UNSUPPORTED, "#/contains"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"#\"}", ERR_UNSUPPORTED, "leads back to itself"},
    {GRAMMAR_SCHEMA, "{\"allOf\":[{\"$ref\":\"#\"}]}", ERR_UNSUPPORTED, "leads back to itself"},
    {GRAMMAR_SCHEMA, "{\"allOf\":[{\"type\":\"object\",\"properties\":[\"a\"]}]}", ERR_INVAL,
     "#/properties: must be an object of schemas"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"#/$defs/x\"}", ERR_INVAL, "leads nowhere"},
    {GRAMMAR_SCHEMA, "{\"$ref\":\"other.json\"}", ERR_UNSUPPORTED, "$ref"},
    {GRAMMAR_SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
     ERR_INVAL, "#/properties/a: nothing matches"},
    /* the circle, not what leads there or what may be left out */
    {GRAMMAR_SCHEMA,
     "{\"properties\":{\"o\":{\"$ref\":\"#/$defs/n\"},\"r\":{\"items\":{\"$ref\":\"#/$defs/n\"},"
     "\"minItems\":1}},"
     "\"required\":[\"r\"],\"$defs\":{\"n\":{\"properties\":{\"n\":{\"$ref\":\"#/$defs/n\"}},"
     "\"required\":[\"n\"]}}}",
     ERR_INVAL, "#/properties/o/properties/n: nothing matches"},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"pattern\":\"x[]\"}},\"required\":[\"a\"]}", ERR_INVAL,
     "#/properties/a: nothing matches"},
    {GRAMMAR_SCHEMA, "{\"items\":{\"anyOf\":[{\"allOf\":[{\"$ref\":\"#/items\"},{\"minLength\":1}]},{}]}}",
     ERR_UNSUPPORTED, "#/items"},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"items\":{\"minLength\":99999999}}}}", ERR_LIMIT,
     "#/properties/a/items: the grammar is too large"},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"pattern\":\"((a{900}){900}){900}\"}}}", ERR_LIMIT,
     "#/properties/a"},
    {GRAMMAR_SCHEMA, "{\"type\":\"null\",\"type\":\"null\"}", ERR_INVAL, "#/type: stands twice"},
    {GRAMMAR_SCHEMA, "{\"properties\":{\"a\":{\"anyOf\":[{},{\"const\":{\"b\":1,\"c\":{},"
     "\"b\":1}}]}}}", ERR_INVAL,
     "#/properties/a/anyOf/1/const/b: stands twice"},
    {GRAMMAR_SCHEMA, "{\"items\":{\"enum\":[1,[9007199254740993]]}}",
     ERR_UNSUPPORTED, "#/items/enum: numbers beyond"},
    {GRAMMAR_SCHEMA, "{\"const\":-9007199254740992}", ERR_UNSUPPORTED, "#/const: numbers beyond"},
    {GRAMMAR_SCHEMA,
     "{\"allOf\":[{\"enum\":[9007199254740991]},{\"enum\":[9007199254740990]}]}",
     ERR_INVAL, "#: nothing matches"},
    {GRAMMAR_SCHEMA, "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", ERR_UNSUPPORTED,
     "#/oneOf"},
    {GRAMMAR_SCHEMA, "{\"oneOf\":[{\"enum\":[\"a\"]},{\"minimum\":3}]}", ERR_UNSUPPORTED, "#/oneOf"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(\"}", ERR_INVAL, "#/pattern"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"pattern\":\"ab\",\"maxLength\":3}", ERR_UNSUPPORTED,
     "#/maxLength"},
    {GRAMMAR_SCHEMA, "{\"format\":\"iri\"}", ERR_UNSUPPORTED, "#/format"},
    {GRAMMAR_SCHEMA, "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", ERR_INVAL, "bounds"},
    {GRAMMAR_SCHEMA, "{\"type\":\"number\",\"minimum\":0.5}", ERR_UNSUPPORTED, "#/minimum"},
    {GRAMMAR_SCHEMA, "{\"multipleOf\":0.01}", ERR_UNSUPPORTED, "#/multipleOf"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"maxLength\":-1}", ERR_INVAL, "#/maxLength"},
    {GRAMMAR_SCHEMA, "{\"type\":\"string\",\"minLength\":100000000}", ERR_LIMIT, "too large"},
    {GRAMMAR_SCHEMA, "{\"minProperties\":3}", ERR_UNSUPPORTED, "#/minProperties"},
    {GRAMMAR_SCHEMA,
     "{\"allOf\":[{\"prefixItems\":[{\"type\":\"string\"}]},{\"items\":{\"type\":\"integer\"}}]}",
     ERR_UNSUPPORTED, "prefixItems"},
    {GRAMMAR_SCHEMA,
     "{\"allOf\":[{\"properties\":{\"a\":{}},\"required\":[\"a\"]},{\"properties\":{\"b\":{}},"
     "\"additionalProperties\":false}]}",
     ERR_INVAL, "nothing matches it"},
    {GRAMMAR_TAG, "{\"structures\":[],\"triggers\":[\"a\"]}", ERR_INVAL, "structures"},
    {GRAMMAR_TAG,
     "{\"structures\":[{\"begin\":\"a\",\"schema\":{},\"end\":\"\"}],\"triggers\":[\"a\",\"b\"]}",
     ERR_INVAL, "no structure begins with the trigger \"b\""},
    {GRAMMAR_TAG, "{\"structures\":[{\"begin\":\"b\",\"schema\":{},\"end\":\"\"}],\"triggers\":[\"a\"]}",
     ERR_INVAL, "no structure begins"},
    {GRAMMAR_TAG,
     "{\"structures\":[{\"begin\":\"ab\",\"schema\":{\"not\":{}},\"end\":\"\"}],\"triggers\":[\"a\"]}",
     ERR_UNSUPPORTED, "structures[0].schema#/not"},
    {GRAMMAR_TAG,
     "{\"structures\":[{\"begin\":\"ab\",\"schema\":{\"type\":\"null\",\"type\":\"null\"},"
     "\"end\":\"\"}],\"triggers\":"
     "[\"a\"]}",
     ERR_INVAL, "#/structures/0/schema/type: stands twice"},
    {GRAMMAR_TAG,
     "{\"structures\":[{\"begin\":\"ab\",\"schema\":{\"minLength\":99999999},\"end\":\"\"}],"
     "\"triggers\":[\"a\"]}",
     ERR_LIMIT, "structures[0].schema#: the grammar is too large"},
};

START_TEST(refusing)
{
    struct grammars *all = new_grammars(&limits);
    struct grammar *g = NULL;
    struct err e = {0};
    int64_t began = clock_now_ns();
    int r = grammars_get(all, refusals[_i].kind, refusals[_i].source, strlen(refusals[_i].source), &g, &e);
    ck_assert_msg(r == refusals[_i].code, "%s: %d %s", refusals[_i].source, r, e.text);
    ck_assert_msg(strstr(e.text, refusals[_i].says) != NULL, "%s: %s", refusals[_i].source, e.text);
    ck_assert_ptr_null(g);
    ck_assert_int_lt(clock_now_ns() - began, 20 * NS_PER_SEC);
    grammars_free(&all);
}
END_TEST

/* --- masks ----------------------------------------------------------------------------------------- */

#define MAX_TEXT 4096

/* What the mask must be: each token's bytes after the text so far. */
static void check_mask(struct grammar *g, const char *text, size_t n, const uint32_t *bits,
                       const char *source)
{
    for (int32_t id = 0; id < n_vocab; id++) {
        struct matcher *m;
        size_t n_bytes;
        const char *s = tokenizer_token_bytes(tokenizer, id, &n_bytes);
        ck_assert_int_eq(matcher_new(g, &m), 0);
        ck_assert_int_eq(matcher_bytes(m, text, n), 0);
        bool may = tokenizer_is_eog(tokenizer, id) ? matcher_may_end(m)
                   : tokenizer_is_special(tokenizer, id) || n_bytes == 0
                       ? false
                       : matcher_bytes(m, s, n_bytes) == 0;
        matcher_free(&m);
        ck_assert_msg(may == (bits[id / 32] >> (id % 32) & 1), "%s: after %.*s token %d (%.*s): %d", source,
                      (int)n, text, id, (int)n_bytes, s, may);
    }
}

/* A walk by masks; returns the number of tokens. check_every 0: no comparison. */
static int wander(struct grammar *g, const char *source, int max_steps, int check_every, char *text,
                  size_t *ret_n)
{
    struct matcher *m;
    uint32_t bits[MAX_TOKENS / 32];
    size_t n = 0;
    int steps = 0;
    ck_assert_int_eq(matcher_new(g, &m), 0);
    for (; steps < max_steps; steps++) {
        int k = matcher_mask(m, true, bits);
        ck_assert_msg(k > 0, "%s: nothing may follow %.*s", source, (int)n, text);
        if (check_every && steps % check_every == 0)
            check_mask(g, text, n, bits, source);
        int pick = (int)below((unsigned)k);
        int32_t id = 0;
        for (;; id++)
            if ((bits[id / 32] >> (id % 32) & 1) && pick-- == 0)
                break;
        size_t n_bytes;
        const char *s = tokenizer_token_bytes(tokenizer, id, &n_bytes);
        if (matcher_must_end(m) != (k == 1 && id == 2))
            ck_abort_msg("%s: must_end after %.*s", source, (int)n, text);
        ck_assert_int_eq(matcher_accept(m, id), 0);
        if (tokenizer_is_eog(tokenizer, id) || n + n_bytes >= MAX_TEXT)
            break;
        memcpy(text + n, s, n_bytes);
        n += n_bytes;
    }
    matcher_free(&m);
    *ret_n = n;
    return steps;
}

START_TEST(masks)
{
    const struct example *x = &examples[_i];
    static char text[MAX_TEXT];
    struct grammars *all = new_grammars(&limits);
    struct grammar *g;
    size_t n;
    state = (uint64_t)_i + 1;
    ck_assert_int_eq(grammars_get(all, x->kind, x->source, strlen(x->source), &g, NULL), 0);
    for (int k = 0; k < 8; k++)
        wander(g, x->source, 40, 3, text, &n);
    grammar_put(&g);
    grammars_free(&all);
}
END_TEST

/* Random grammars: rules that call later ones, and themselves behind a byte. */
static void random_expr(char *s, size_t *n, size_t cap, int depth, int rule, int n_rules)
{
    static const char *const atoms[] = {
        "\"a\"", "\"b\"",   "\"ab\"",           "[a-c]", "[^a]",  "\"aa\"",   "\"\\\"x\"", "\"the\"",
        "\" \"", "\"\\n\"", "\"\xe4\xb8\xad\"", "[0-9]", "\"}\"", "\"\\\":\""};
    unsigned what = below(depth > 3 ? 2 : 7);
    if (*n + 200 > cap)
        what = 0;
    if (what == 1 && rule + 1 < n_rules) {
        *n +=
            (size_t)snprintf(s + *n, cap - *n, " r%d", rule + 1 + (int)below((unsigned)(n_rules - rule - 1)));
    } else if (what == 2) {
        *n += (size_t)snprintf(s + *n, cap - *n, " (\"%c\" r%d | \"x\")", 'a' + (int)below(3), rule);
    } else if (what == 3 || what == 4) {
        *n += (size_t)snprintf(s + *n, cap - *n, " (");
        random_expr(s, n, cap, depth + 1, rule, n_rules);
        *n += (size_t)snprintf(s + *n, cap - *n, what == 3 ? " |" : "");
        random_expr(s, n, cap, depth + 1, rule, n_rules);
        *n += (size_t)snprintf(s + *n, cap - *n, ")");
    } else if (what == 5) {
        static const char *const times[] = {"*", "+", "?", "{2}", "{1,3}", "{2,}"};
        *n += (size_t)snprintf(s + *n, cap - *n, " (");
        random_expr(s, n, cap, depth + 1, rule, n_rules);
        *n += (size_t)snprintf(s + *n, cap - *n, ")%s", times[below(6)]);
    } else {
        *n += (size_t)snprintf(s + *n, cap - *n, " %s", atoms[below(sizeof(atoms) / sizeof(*atoms))]);
    }
}

START_TEST(random_grammars)
{
    static char source[8192], text[MAX_TEXT];
    int walked = 0;
    state = (uint64_t)_i * 977 + 5;
    for (int k = 0; k < 30; k++) {
        int n_rules = 1 + (int)below(4);
        size_t n = 0, n_text;
        for (int r = 0; r < n_rules; r++) {
            n += (size_t)snprintf(source + n, sizeof(source) - n, r ? "r%d ::=" : "root ::= r0\nr0 ::=", r);
            random_expr(source, &n, sizeof(source), 0, r, n_rules);
            n += (size_t)snprintf(source + n, sizeof(source) - n, "\n");
        }
        struct grammars *all = new_grammars(&limits);
        struct grammar *g;
        struct err e = {0};
        int r = grammars_get(all, GRAMMAR_GBNF, source, n, &g, &e);
        if (r == 0) {
            wander(g, source, 25, 4, text, &n_text);
            walked++;
            grammar_put(&g);
        } else { /* a call of itself behind something that may be empty */
            ck_assert_msg(r == ERR_UNSUPPORTED || strstr(e.text, "nothing matches"), "%s: %s", source,
                          e.text);
        }
        grammars_free(&all);
    }
    ck_assert_int_gt(walked, 15);
}
END_TEST

/* With next to no memory for what is kept, the same. */
START_TEST(forgetting)
{
    static const struct grammar_limits tight = {65536, 200000, 5 * NS_PER_SEC, 1};
    static char a[MAX_TEXT], b[MAX_TEXT];
    struct grammars *roomy = new_grammars(&limits), *small = new_grammars(&tight);
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++) {
        const struct example *x = &examples[i];
        struct grammar *g, *h;
        struct matcher *deep;
        size_t n, m;
        ck_assert_int_eq(grammars_get(roomy, x->kind, x->source, strlen(x->source), &g, NULL), 0);
        ck_assert_int_eq(grammars_get(small, x->kind, x->source, strlen(x->source), &h, NULL), 0);
        ck_assert_int_eq(matcher_new(h, &deep), 0); /* lives through it all */
        state = i + 7;
        int steps = wander(g, x->source, 200, 0, a, &n);
        state = i + 7;
        ck_assert_int_eq(wander(h, x->source, 200, 0, b, &m), steps);
        ck_assert(n == m && !memcmp(a, b, n));
        size_t len = strlen(x->yes[0]);
        ck_assert_int_eq(matcher_bytes(deep, x->yes[0], len), 0);
        ck_assert(matcher_may_end(deep));
        matcher_free(&deep);
        grammar_put(&g);
        grammar_put(&h);
    }
    grammars_free(&roomy);
    grammars_free(&small);
}
END_TEST

START_TEST(bounded)
{
    struct grammars *all = new_grammars(&limits);
    struct grammar *g;
    struct matcher *m;
    uint32_t bits[MAX_TOKENS / 32];
    const char *deep = "root ::= \"(\" root \")\" | \"x\"";
    ck_assert_int_eq(grammars_get(all, GRAMMAR_GBNF, deep, strlen(deep), &g, NULL), 0);
    ck_assert_int_eq(matcher_new(g, &m), 0);
    int n = 0;
    while (n < 100000 && matcher_bytes(m, "(", 1) == 0)
        n++;
    ck_assert_int_ge(n, 500); /* it ends somewhere, and says so */
    ck_assert_int_lt(n, 5000);
    ck_assert_int_eq(matcher_bytes(m, "x", 1), 0); /* what fails changes nothing */
    ck_assert_int_gt(matcher_mask(m, true, bits), 0);
    ck_assert_int_eq(matcher_accept(m, 2), ERR_INVAL); /* not complete */
    ck_assert_int_eq(matcher_accept(m, 1), ERR_INVAL); /* a control token */
    matcher_free(&m);
    grammar_put(&g);
    /* exponentially many states where all were made at once */
    const char *bomb = "(a|b)*a(a|b){40}";
    int64_t began = clock_now_ns();
    ck_assert_int_eq(grammars_get(all, GRAMMAR_REGEX, bomb, strlen(bomb), &g, NULL), 0);
    ck_assert(accepts(g, "baababababababababababababababababababababababababa"));
    ck_assert(!accepts(g, "baabababababababababababababababababababababababab"));
    ck_assert_int_lt(clock_now_ns() - began, 5 * NS_PER_SEC);
    grammar_put(&g);
    struct err e = {0};
    char *big = calloc(1, 70000);
    memset(big, 'a', 69999);
    ck_assert_int_eq(grammars_get(all, GRAMMAR_REGEX, big, 69999, &g, &e), ERR_LIMIT);
    free(big);
    grammars_free(&all);
}
END_TEST

/* Schemas in which everything is compared or joined with everything: they end in time, one way or other. */
START_TEST(merging)
{
    static const struct grammar_limits quick = {4 << 20, 10000000, NS_PER_SEC / 4, 64 << 20};
    enum { N = 40000, CAP = 4 << 20 };
    static const char *const shapes[] = { /* head, items of the first list, between, of the second, tail */
        "{\"allOf\":[{\"enum\":[%s]},{\"enum\":[%s]}]}",
        "{\"oneOf\":[{\"enum\":[%s]},{\"enum\":[%s]}]}",
        "{\"allOf\":[{\"required\":[%s]},{\"required\":[%s]}]}",
        "{\"const\":1,\"allOf\":[{\"enum\":[[%s]]},{\"enum\":[[%s]]}]}",
    };
    char *source = malloc(CAP), *list[2];
    struct grammars *all = new_grammars(&quick);
    for (int k = 0; k < 2; k++) {
        size_t n = 0;
        list[k] = malloc(CAP);
        for (int i = 0; i < N; i++)
            n += (size_t)snprintf(list[k] + n, CAP - n, "%s\"%c%d\"", i ? "," : "", 'a' + k, i);
    }
    for (size_t i = 0; i <= sizeof(shapes) / sizeof(*shapes); i++) {
        struct grammar *g = NULL;
        struct err e = {0};
        int n = 0;
        if (i < sizeof(shapes) / sizeof(*shapes)) {
            n = snprintf(source, CAP, shapes[i], list[0], list[1]);
        } else { /* properties, each of which the other schema limits */
            n += snprintf(source, CAP, "{\"allOf\":[");
            for (int k = 0; k < 2; k++) {
                n += snprintf(source + n, CAP - (size_t)n, "%s{\"additionalProperties\":"
     "{\"type\":\"null\"},\"properties\":{",
                              k ? "," : "");
                for (int j = 0; j < N; j++)
                    n += snprintf(source + n, CAP - (size_t)n, "%s\"%c%d\":{}", j ? "," : "", 'a' + k, j);
                n += snprintf(source + n, CAP - (size_t)n, "}}");
            }
            n += snprintf(source + n, CAP - (size_t)n, "]}");
        }
        int64_t began = clock_now_ns();
        int r = grammars_get(all, GRAMMAR_SCHEMA, source, (size_t)n, &g, &e);
        int64_t took = clock_now_ns() - began;
        ck_assert_msg(r < 0, "shape %zu", i);
        /* cJSON's own reading and copying is linear */
        ck_assert_msg(took < 2 * NS_PER_SEC, "shape %zu: %g s, %s", i, (double)took / 1e9, e.text);
    }
    grammars_free(&all);
    free(list[0]);
    free(list[1]);
    free(source);
}
END_TEST

START_TEST(found_again)
{
    struct grammars *all = new_grammars(&limits);
    struct grammar *a, *b, *c;
    ck_assert_int_eq(grammars_get(all, GRAMMAR_REGEX, "a+", 2, &a, NULL), 0);
    ck_assert_int_eq(grammars_get(all, GRAMMAR_REGEX, "a+", 2, &b, NULL), 0);
    ck_assert_int_eq(grammars_get(all, GRAMMAR_REGEX, "b+", 2, &c, NULL), 0);
    ck_assert_ptr_eq(a, b);
    ck_assert_ptr_ne(a, c);
    grammar_put(&a);
    grammar_put(&b);
    grammar_put(&c);
    grammars_free(&all);
}
END_TEST

int main(void)
{
    make_vocab();
    Suite *s = suite_create("grammar");
    TCase *t = tcase_create("grammar");
    int n = (int)(sizeof(examples) / sizeof(*examples));
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, accepting, 0, n);
    tcase_add_loop_test(t, refusing, 0, (int)(sizeof(refusals) / sizeof(*refusals)));
    tcase_add_loop_test(t, masks, 0, n);
    tcase_add_loop_test(t, random_grammars, 0, 8);
    tcase_add_test(t, forgetting);
    tcase_add_test(t, bounded);
    tcase_add_test(t, merging);
    tcase_add_test(t, found_again);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_tap(r, "-");
    srunner_run_all(r, CK_SILENT);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    tokenizer_free(&tokenizer);
    return failed != 0;
}
