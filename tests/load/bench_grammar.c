/* tests/load/bench_grammar.c - what masks cost at a vocabulary of 128 k tokens: `make bench-grammar`.
 *
 * The vocabulary is made up: all bytes, words of 2 to 12 letters with and without a blank before them,
 * numbers, punctuation, pieces of other scripts. Answers are random walks over what the masks allow, with
 * tokens of words, as a model's answers have, likelier than others. The first answers of a grammar pay for
 * what is kept afterwards; both are told. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/grammar/grammar.h"

#define SPM_MAX 128000
#include "tests/unit/spm.h"

#define N_VOCAB 128000
#define N_ANSWERS 200
#define MAX_ANSWER 400

static uint64_t state = 1;

static unsigned below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

static char *one_text(int i)
{
    static const char *const marks[] = {
        "\"", "\":",   "\",",   "{",   "}",   "[",   "]",  ",",
        ":",  "\":\"", "\",\"", "{\"", "\"}", "...", "\n", "\n\xe2\x96\x81\xe2\x96\x81",
        "()", "\\",    "\\n",   "'s",  "-",   "=",   "//", "});"};
    char s[64];
    size_t n = 0;
    if (i % 100 < 8) {
        n = (size_t)snprintf(s, sizeof(s), "%s", marks[below(24)]);
        while (below(2) && n < 40)
            n += (size_t)snprintf(s + n, sizeof(s) - n, "%s", marks[below(24)]);
    } else if (i % 100 < 12) {
        n = (size_t)snprintf(s, sizeof(s), "%u", below(1000));
    } else if (i % 100 < 25) {
        for (unsigned k = 1 + below(4); k > 0; k--) {
            unsigned c = 0x4e00 + below(0x5000);
            s[n++] = (char)(0xe0 | c >> 12);
            s[n++] = (char)(0x80 | (c >> 6 & 0x3f));
            s[n++] = (char)(0x80 | (c & 0x3f));
        }
    } else {
        if (below(2))
            n = (size_t)snprintf(s, sizeof(s), "\xe2\x96\x81");
        for (unsigned k = 2 + below(6) + below(6); k > 0; k--, n++)
            s[n] = (char)((n < 4 && below(5) == 0 ? 'A' : 'a') + (int)below(below(2) ? 26 : 8));
    }
    s[n] = 0;
    return strdup(s);
}

static struct tokenizer *make_vocab(void)
{
    static struct spm s;
    struct tokenizer *t = NULL;
    struct err e = {0};
    spm_begin(&s, NULL, 0);
    for (int i = s.src.n_tokens; i < N_VOCAB; i++)
        spm_add(&s, one_text(i), 1, 0);
    if (tokenizer_new(&s.src, N_VOCAB, &t, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    return t;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* A token with its bit set: a random one, or the next after a random place. */
static int32_t choose(const uint32_t *bits, int n_set)
{
    if (n_set > N_VOCAB / 20)
        for (;;) {
            int32_t id = (int32_t)below(N_VOCAB);
            if (bits[id / 32] >> (id % 32) & 1)
                return id;
        }
    int pick = (int)below((unsigned)n_set);
    for (int w = 0;; w++) {
        int n = __builtin_popcount(bits[w]);
        if (pick >= n) {
            pick -= n;
            continue;
        }
        uint32_t x = bits[w];
        while (pick-- > 0)
            x &= x - 1;
        return w * 32 + __builtin_ctz(x);
    }
}

static void measure(struct grammars *all, const char *name, enum grammar_kind kind, const char *source)
{
    static uint32_t bits[N_VOCAB / 32 + 1];
    static int64_t times[N_ANSWERS * MAX_ANSWER];
    struct grammar *g;
    struct err e = {0};
    int n = 0, n_first = 0, n_warm = 0;
    int64_t first = 0, warm = 0, worst = 0, began = clock_now_ns();
    if (grammars_get(all, kind, source, strlen(source), &g, &e) < 0) {
        fprintf(stderr, "%s: %s\n", name, e.text);
        exit(1);
    }
    double compile_ms = (double)(clock_now_ns() - began) / 1e6;
    for (int a = 0; a < N_ANSWERS; a++) {
        struct matcher *m;
        if (matcher_new(g, &m) < 0)
            exit(1);
        for (int k = 0; k < MAX_ANSWER; k++) {
            int64_t t = clock_now_ns();
            int set = matcher_mask(m, true, bits);
            t = clock_now_ns() - t;
            if (set <= 0)
                exit(1);
            int32_t id = choose(bits, set);
            int64_t u = clock_now_ns();
            if (matcher_accept(m, id) < 0)
                exit(1);
            t += clock_now_ns() - u;
            times[n++] = t;
            worst = t > worst ? t : worst;
            if (a < 2) {
                first += t;
                n_first++;
            } else if (a >= 20) {
                warm += t;
                n_warm++;
            }
            if (id == 2 || matcher_must_end(m))
                break;
        }
        matcher_free(&m);
    }
    int64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += times[i];
    qsort(times, (size_t)n, sizeof(*times), by_size);
    printf("| %s | %.2f | %d | %.1f | %.1f | %.1f | %.1f | %.2f |\n", name, compile_ms, n,
           (double)first / n_first / 1e3, (double)sum / n / 1e3, n_warm ? (double)warm / n_warm / 1e3 : 0,
           (double)times[n * 99 / 100] / 1e3, (double)worst / 1e6);
    fflush(stdout);
    grammar_put(&g);
}

int main(void)
{
    const struct grammar_limits lim = {65536, 200000, 5 * NS_PER_SEC, 64 << 20};
    struct tokenizer *t = make_vocab();
    struct grammars *all;
    struct grammar *g;
    if (grammars_new(t, N_VOCAB, &lim, &all) < 0)
        return 1;
    int64_t began = clock_now_ns();
    if (grammars_get(all, GRAMMAR_REGEX, "a", 1, &g, NULL) < 0)
        return 1;
    printf("tree of %d tokens: %.0f ms, once\n\n", N_VOCAB, (double)(clock_now_ns() - began) / 1e6);
    grammar_put(&g);
    printf("| grammar | compiled, ms | tokens | us a token: first two answers | all | after twenty | p99 | "
           "most, ms |\n"
           "| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    measure(all, "JSON object", GRAMMAR_OBJECT, "");
    measure(all, "schema: a person", GRAMMAR_SCHEMA,
            "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":"
            "\"integer\",\"minimum\":0,"
            "\"maximum\":130},\"email\":{\"type\":\"string\",\"format\":\"email\"},\"tags\":{\"type\":"
            "\"array\",\"items\":"
            "{\"enum\":[\"red\",\"green\",\"blue\"]},\"maxItems\":5},\"address\":{\"type\":\"object\","
            "\"properties\":{"
            "\"street\":{\"type\":\"string\"},\"city\":{\"type\":\"string\"},\"zip\":{\"type\":\"string\","
            "\"pattern\":"
            "\"^[0-9]{5}$\"}},\"required\":[\"street\",\"city\",\"zip\"]}},\"required\":[\"name\",\"age\","
            "\"email\",\"tags\","
            "\"address\"],\"additionalProperties\":false}");
    measure(all, "schema: a recursive list", GRAMMAR_SCHEMA,
            "{\"$ref\":\"#/$defs/"
            "n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"string\"},\"next\":"
            "{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/n\"}]}},\"required\":[\"v\",\"next\"]}}}");
    measure(all, "schema: a string of up to 1000", GRAMMAR_SCHEMA,
            "{\"type\":\"string\",\"maxLength\":1000}");
    measure(all, "regex: words", GRAMMAR_REGEX, "([A-Z][a-z]+ )*[a-z]+\\.");
    measure(all, "GBNF: sums", GRAMMAR_GBNF,
            "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | \"(\" expr \")\"");
    grammars_free(&all);
    return 0;
}
