/* tests/fuzz/fuzz_grammar.c - grammars that a request brings. The first byte is the kind, as a letter; the
 * rest the source. What compiles is walked by its own masks: a token that the mask allows must be accepted,
 * and there must be one. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/grammar/grammar.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/spm.h"

#define N_VOCAB (5 + 256 + 64)

static struct tokenizer *make_tokenizer(void)
{
    static const char *const pieces[] = {"{\"",
                                         "\":",
                                         "\",\"",
                                         "\"}",
                                         "}}",
                                         "],",
                                         "[{",
                                         "true",
                                         "null",
                                         "tru",
                                         "12",
                                         "-1",
                                         "ab",
                                         "aa",
                                         "abc",
                                         "\\n",
                                         "\\u",
                                         "\xe2\x96\x81",
                                         "\xe2\x96\x81"
                                         "a",
                                         "\n",
                                         "\xc3\xa9",
                                         "\xe4\xb8\xad",
                                         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    static const char *const controls[] = {"<|call|>", "<|end|>"}; /* marks of calls */
    static struct spm s;
    struct tokenizer *t = NULL;
    struct err e = {0};
    spm_begin(&s, controls, 2);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++)
        spm_add(&s, pieces[i], 1, 0);
    FUZZ_CHECK(tokenizer_new(&s.src, s.src.n_tokens, &t, &e) == 0);
    return t;
}

static void walk(struct grammar *g, uint64_t seed)
{
    struct matcher *m;
    uint32_t bits[(N_VOCAB + 31) / 32];
    int r = matcher_new(g, &m);
    if (r < 0) {
        FUZZ_CHECK(r == ERR_LIMIT);
        return;
    }
    for (int k = 0; k < 24; k++) {
        int n = matcher_mask(m, true, bits), pick;
        if (n == ERR_LIMIT)
            break;
        FUZZ_CHECK(n >= 0);
        if (n == 0) /* too ambiguous or too deep for one more byte */
            break;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        pick = (int)((seed >> 33) % (unsigned)n);
        int32_t id = -1;
        for (int32_t i = 0; i < N_VOCAB && id < 0; i++)
            if ((bits[i / 32] >> (i % 32) & 1) && pick-- == 0)
                id = i;
        FUZZ_CHECK(id >= 2);
        r = matcher_accept(m, id);
        FUZZ_CHECK(r == 0 || r == ERR_INVAL); /* ERR_INVAL: a limit of all configurations together */
        if (r < 0 || id == 2)
            break;
    }
    matcher_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char letters[] = "grcsotl";
    static const struct grammar_limits lim = {12288, 3000, NS_PER_SEC, 1 << 20};
    struct grammars *all = NULL;
    struct grammar *g = NULL;
    struct err e = {0};
    const char *kind = n_bytes && data[0] ? strchr(letters, data[0]) : NULL;
    if (!kind)
        return 0;
    struct tokenizer *t = make_tokenizer();
    FUZZ_CHECK(grammars_new(t, N_VOCAB, &lim, &all) == 0);
    int r =
        grammars_get(all, (enum grammar_kind)(kind - letters), (const char *)data + 1, n_bytes - 1, &g, &e);
    if (fuzz_result(r, &e) == 0) {
        walk(g, n_bytes);
        walk(g, n_bytes + 77);
    }
    grammar_put(&g);
    grammars_free(&all);
    tokenizer_free(&t);
    return 0;
}
