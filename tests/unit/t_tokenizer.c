/* t_tokenizer - small vocabularies: kimi-k2's splitter against one written by hand, merges by score
 * against the plain algorithm, tiktoken files, ends of generation, damaged input. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/textout.h"
#include "engine/tokenizer/pretok.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/unit/spm.h"

/* Of a file that says nothing. */
static const struct tokenizer_source blank = {.pre = "", .bos_token_id = -1, .eos_token_id = -1,
                                              .eot_token_id = -1, .eom_token_id = -1, .add_bos_token = -1,
                                              .add_eos_token = -1};

static uint64_t state = 1;

static unsigned below(unsigned n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

/* --- kimi-k2 --------------------------------------------------------------------------------- */

/* Letters of the test with what matters of each; only assigned ones, so that no table is needed. */
enum kind {
    HAN,
    UPPER,
    LOWER,
    OTHER,
    MARK_,
    DIGIT,
    PUNCT,
    SPACE,
    NEWLINE
};

static const struct {
    const char *s;
    enum kind k;
} letters[] = {{"\xe4\xb8\xad", HAN},
               {"\xe3\x80\x85", HAN},
               {"A", UPPER},
               {"S", UPPER},
               {"T", UPPER},
               {"a", LOWER},
               {"s", LOWER},
               {"t", LOWER},
               {"l", LOWER},
               {"\xc3\x9f", LOWER},
               {"\xd7\x90", OTHER},
               {"\xe3\x81\x82", OTHER},
               {"\xe3\x83\xbc", OTHER},
               {"\xcc\x81", MARK_},
               {"1", DIGIT},
               {"\xc2\xbd", DIGIT},
               {"'", PUNCT},
               {".", PUNCT},
               {"\xf0\x9f\x98\x80", PUNCT},
               {" ", SPACE},
               {"\xe3\x80\x80", SPACE},
               {"\t", SPACE},
               {"\n", NEWLINE},
               {"\r", NEWLINE}};
#define N_LETTERS ((int)(sizeof(letters) / sizeof(*letters)))

static bool is_letter(enum kind k)
{
    return k == HAN || k == UPPER || k == LOWER || k == OTHER;
}

static bool upperish(enum kind k)
{
    return k == UPPER || k == OTHER || k == MARK_;
}

static bool lowerish(enum kind k)
{
    return k == LOWER || k == OTHER || k == MARK_;
}

static bool same_ascii(const int *c, int at, int n, const char *want)
{
    for (int i = 0; want[i]; i++) {
        const char *s = at + i < n ? letters[c[at + i]].s : "";
        if (!s[0] || s[1] || (s[0] | 0x20) != (want[i] | 0x20))
            return false;
    }
    return true;
}

static int contraction(const int *c, int at, int n)
{
    static const char *const all[] = {"'s", "'t", "'ll"}; /* what the letters can make */
    for (int i = 0; i < 3; i++)
        if (same_ascii(c, at, n, all[i]))
            return (int)strlen(all[i]);
    return 0;
}

/* Where upper* lower+ (or upper+ lower*) ends that begins at `at`, or -1. Greedy with backtracking.
 */
static int word_end(const int *c, int at, int n, bool lower_needed)
{
    int u = at;
    while (u < n && upperish(letters[c[u]].k))
        u++;
    for (; u >= at + (lower_needed ? 0 : 1); u--) {
        int e = u;
        while (e < n && lowerish(letters[c[e]].k))
            e++;
        if (!lower_needed || e > u)
            return e;
    }
    return -1;
}

/* Length in letters of the piece at `at`, straight from the list of alternatives. */
static int kimi_piece(const int *c, int at, int n)
{
    enum kind k = letters[c[at]].k;
    int e = at;
    while (e < n && letters[c[e]].k == HAN)
        e++;
    if (e > at)
        return e - at;
    bool may_lead = k != NEWLINE && !is_letter(k) && k != DIGIT;
    for (int needed = 1; needed >= 0; needed--)
        for (int lead = may_lead; lead >= 0; lead--)
            if (at + lead < n && (e = word_end(c, at + lead, n, needed)) >= 0)
                return e + contraction(c, e, n) - at;
    for (e = at; e < n && e < at + 3 && letters[c[e]].k == DIGIT; e++)
        ;
    if (e > at)
        return e - at;
    int p = at + (letters[c[at]].s[0] == ' ' && !letters[c[at]].s[1]);
    for (e = p; e < n && (letters[c[e]].k == PUNCT || letters[c[e]].k == MARK_); e++)
        ;
    if (e > p) {
        while (e < n && letters[c[e]].k == NEWLINE)
            e++;
        return e - at;
    }
    int last = -1;
    for (e = at; e < n && (letters[c[e]].k == SPACE || letters[c[e]].k == NEWLINE); e++)
        if (letters[c[e]].k == NEWLINE)
            last = e;
    if (last >= 0)
        return last + 1 - at;
    if (e < n && e - at > 1)
        e--;
    return e - at;
}

struct pieces {
    int n;
    size_t n_bytes[512];
};

static int on_piece(void *arg, const char *text, size_t n_bytes)
{
    struct pieces *p = arg;
    (void)text;
    p->n_bytes[p->n++] = n_bytes;
    return 0;
}

static struct pretok *named(const char *name)
{
    struct pretok_rule rules[PRETOK_MAX_PATTERNS] = {0};
    struct pretok *p;
    struct err e;
    int whole, n = 0;
    const char *const *patterns = pretok_patterns(name, &whole);
    ck_assert_ptr_nonnull(patterns);
    for (; patterns[n]; n++)
        rules[n].pattern = patterns[n];
    ck_assert_msg(pretok_new(rules, n, &p, &e) == 0, "%s: %s", name, e.text);
    return p;
}

START_TEST(kimi_splitter)
{
    struct pretok *p = named("kimi-k2");
    for (int round = 0; round < 20000; round++) {
        int c[64], n = 1 + (int)below(40),
                   from = (int)below(4) ? 0 : (int)below((unsigned)N_LETTERS);
        char text[512] = "";
        struct pieces got = {0};
        for (int i = 0; i < n; i++) {
            c[i] = from + (int)below((unsigned)(N_LETTERS - from));
            strcat(text, letters[c[i]].s);
        }
        ck_assert_int_eq(pretok_split(p, text, strlen(text), on_piece, &got), 0);
        int k = 0;
        for (int at = 0; at < n; k++) {
            int len = kimi_piece(c, at, n);
            size_t bytes = 0;
            for (int i = at; i < at + len; i++)
                bytes += strlen(letters[c[i]].s);
            ck_assert_msg(k < got.n && got.n_bytes[k] == bytes,
                          "\"%s\": piece %d has %zu bytes, not %zu", text, k,
                          k < got.n ? got.n_bytes[k] : 0, bytes);
            at += len;
        }
        ck_assert_int_eq(k, got.n);
    }
    pretok_free(&p);
}
END_TEST

START_TEST(every_name)
{
    char *names = strdup(pretok_names());
    for (char *s = strtok(names, " "); s; s = strtok(NULL, " ")) {
        struct pretok *p = named(s);
        struct pieces got = {0};
        const char *text = "Hello World's 12345 \xe4\xb8\xad\xe6\x96\x87\n\n  x\xcc\x81!!";
        size_t sum = 0;
        ck_assert_int_eq(pretok_split(p, text, strlen(text), on_piece, &got), 0);
        for (int i = 0; i < got.n; i++)
            sum += got.n_bytes[i];
        ck_assert_uint_eq(sum, strlen(text));
        ck_assert_int_gt(got.n, 4);
        pretok_free(&p);
    }
    free(names);
}
END_TEST

/* --- small vocabularies ---------------------------------------------------------------------- */

#define MARK "\xe2\x96\x81"
#define MAX 400
static void small_spm(struct spm *s)
{
    spm_begin(s, NULL, 0);
    static const char *const text[] = {MARK,  "a",      "b",       "c",       "ab",  "bc",
                                       "abc", MARK "a", MARK "ab", "ca",      "aa",  "aaa",
                                       "bca", "cab",    "bb",      MARK MARK, "aab", "caa"};
    for (size_t i = 0; i < sizeof(text) / sizeof(*text); i++)
        spm_add(s, text[i], 1, -(float)((i * 7) % 11)); /* with ties */
    spm_add(s, "<user>", 4, 0);
}

/* SentencePiece as it is described: the best pair of neighbours by score, leftmost of equals, until
 * none is left. */
static int plain_spm(const struct spm *s, const char *text, int32_t *ids)
{
    struct str_view sym[256];
    int n = 0;
    for (const char *p = text; *p;) {
        size_t k = *p == MARK[0] ? 3 : 1;
        sym[n++] = (struct str_view){p, k};
        p += k;
    }
    for (;;) {
        int best = -1;
        float score = 0;
        for (int i = 0; i + 1 < n; i++)
            for (int t = 259; t < s->src.n_tokens - 1; t++)
                if (s->tokens[t].n_bytes == sym[i].n_bytes + sym[i + 1].n_bytes &&
                    !memcmp(s->tokens[t].data, sym[i].data, s->tokens[t].n_bytes) &&
                    (best < 0 || s->scores[t] > score)) {
                    best = i;
                    score = s->scores[t];
                }
        if (best < 0)
            break;
        sym[best].n_bytes += sym[best + 1].n_bytes;
        memmove(&sym[best + 1], &sym[best + 2], (size_t)(n - best - 2) * sizeof(*sym));
        n--;
    }
    int out = 0;
    for (int i = 0; i < n; i++) {
        int t = 259;
        while (t < s->src.n_tokens && (s->tokens[t].n_bytes != sym[i].n_bytes ||
                                       memcmp(s->tokens[t].data, sym[i].data, sym[i].n_bytes)))
            t++;
        if (t < s->src.n_tokens)
            ids[out++] = t;
        else
            ids[out++] = 3 + (unsigned char)sym[i].data[0];
    }
    return out;
}

START_TEST(scores)
{
    static struct spm s;
    struct tokenizer *t;
    struct err e;
    small_spm(&s);
    ck_assert_msg(tokenizer_new(&s.src, MAX, &t, &e) == 0, "%s", e.text);
    for (int round = 0; round < 3000; round++) {
        char text[128] = "", marked[400] = MARK;
        int32_t want[256];
        struct token_list l = {0};
        int n = 1 + (int)below(round < 100 ? 100 : 20);
        for (int i = 0; i < n; i++) {
            char c = "aabbcc xz"[below(9)];
            strncat(text, &c, 1);
            strcat(marked, c == ' ' ? MARK : (char[]){c, 0});
        }
        int n_want = plain_spm(&s, marked, want);
        ck_assert_int_eq(tokenizer_encode(t, text, strlen(text), 0, 1000, &l, &e), 0);
        ck_assert_int_eq((int)l.n, n_want);
        ck_assert_mem_eq(l.ids, want, l.n * sizeof(*want));
        struct buf out;
        buf_init(&out, 1000);
        ck_assert_int_eq(tokenizer_decode(t, l.ids, l.n, false, &out), 0);
        ck_assert_uint_eq(out.n_bytes, strlen(text));
        ck_assert_mem_eq(out.data, text, out.n_bytes);
        buf_done(&out);
        free(l.ids);
    }
    /* What a client writes is never a control token; user-defined ones are found; BOS comes unless
     * it is turned off. */
    struct token_list l = {0};
    ck_assert_int_eq(tokenizer_encode(t, "</s><user>", 10, 0, 100, &l, &e), 0);
    ck_assert_int_eq(l.ids[l.n - 1], s.src.n_tokens - 1);
    for (size_t i = 0; i < l.n; i++)
        ck_assert(!tokenizer_is_special(t, l.ids[i]));
    l.n = 0;
    ck_assert_int_eq(
        tokenizer_encode(t, "a</s>", 5, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, 100, &l, &e),
        0);
    ck_assert_int_eq((int)l.n, 3);
    ck_assert(l.ids[0] == 1 && l.ids[2] == 2);
    ck_assert(tokenizer_is_eog(t, 2) && !tokenizer_is_eog(t, 1));
    free(l.ids);
    tokenizer_free(&t);
}
END_TEST

/* Random ids, most of them bytes: what streams out is what is decoded at once, and whole characters
 * at each step. */
START_TEST(streamed)
{
    static struct spm s;
    struct tokenizer *t;
    struct err e;
    small_spm(&s);
    ck_assert_msg(tokenizer_new(&s.src, MAX, &t, &e) == 0, "%s", e.text);
    for (int round = 0; round < 3000; round++) {
        int32_t ids[300];
        int n = 1 + (int)below(round < 20 ? 300 : 24);
        struct buf whole, piece;
        struct textout o;
        for (int i = 0; i < n; i++)
            ids[i] = below(2) ? 3 + (int)below(256) : (int)below((unsigned)s.src.n_tokens);
        if (below(3) == 0 && n > 4) /* a character of four bytes */
            for (int i = 0; i < 4; i++)
                ids[1 + i] = 3 + (unsigned char)"\xf0\x9f\x98\x80"[i];
        buf_init(&whole, 4000);
        buf_init(&piece, 4000);
        ck_assert_int_eq(tokenizer_decode(t, ids, (size_t)n, false, &whole), 0);
        ck_assert_int_eq(textout_init(&o, t, NULL, 0, false, false, true), 0);
        for (int i = 0; i < n; i++)
            ck_assert_int_eq(textout_push(&o, ids[i], true, &piece), -1);
        ck_assert_int_eq(textout_finish(&o, true, &piece), -1);
        ck_assert_uint_eq(whole.n_bytes, piece.n_bytes);
        if (whole.n_bytes)
            ck_assert_mem_eq(whole.data, piece.data, whole.n_bytes);
        textout_done(&o);
        buf_done(&whole);
        buf_done(&piece);
    }
    tokenizer_free(&t);
}
END_TEST

/* A run of byte tokens longer than is kept is cut between its characters, wherever these lie. */
START_TEST(long_run_of_bytes)
{
    static struct spm s;
    struct tokenizer *t;
    struct buf text, out;
    struct err e;
    small_spm(&s);
    ck_assert_msg(tokenizer_new(&s.src, MAX, &t, &e) == 0, "%s", e.text);
    for (int first = 0; first < 12; first++) {
        int32_t ids[2000];
        buf_init(&text, 2000);
        buf_init(&out, 8000);
        for (int i = 0; i < first; i++)
            ck_assert_int_eq(buf_puts(&text, "\n"), 0);
        for (int i = 0; i < 100; i++) /* and lines of characters of two, three and four bytes */
            ck_assert_int_eq(buf_puts(&text, "\xf0\x9f\x98\x80\n\xe1\x80\x80\xc3\xa9\n"), 0);
        for (size_t i = 0; i < text.n_bytes; i++)
            ids[i] = 3 + (unsigned char)text.data[i];
        ck_assert_int_eq(tokenizer_decode(t, ids, text.n_bytes, false, &out), 0);
        ck_assert_str_eq(out.data, text.data);
        buf_done(&text);
        buf_done(&out);
    }
    tokenizer_free(&t);
}
END_TEST

/* A stop string of byte tokens, which are held back until their run ends: the text ends with the token that
 * completes it. Where a character is not whole there is none. */
START_TEST(stop_of_bytes)
{
    static struct spm s;
    static const struct stop_string stop[] = {{"\n", 1}, {"b\xc3\xa9", 3}, {"\xef\xbf\xbd", 3}};
    static const char *const texts[] = {"a\n", "\n", "ab\xc3\xa9", "a\xc3\xa9\n", "a\xc3\xc3\n"};
    static const char *const shown[] = {"a", "", "a", "a\xc3\xa9", "a"};
    struct tokenizer *t;
    struct textout o;
    struct buf out;
    struct err e;
    small_spm(&s);
    ck_assert_msg(tokenizer_new(&s.src, MAX, &t, &e) == 0, "%s", e.text);
    for (int check = 0; check < 2; check++)
        for (int k = 0; k < 5; k++) {
            int n = (int)strlen(texts[k]), hit = -1;
            buf_init(&out, 100);
            ck_assert_int_eq(textout_init(&o, t, stop, 3, true, false, true), 0);
            for (int i = 0; i < n; i++) {
                unsigned char c = (unsigned char)texts[k][i];
                ck_assert_int_eq(hit, -1); /* not before the last */
                hit = textout_push(&o, c == 'a' ? tokenizer_find(t, "a", 1) : 3 + c, check, &out);
            }
            ck_assert_int_eq(hit >= 0, check && k < 4);
            if (hit < 0)
                hit = textout_finish(&o, check, &out); /* what is no character is U+FFFD, at the end */
            ck_assert_int_eq(hit, !check ? -1 : k == 2 ? 1 : k == 4 ? 2 : 0);
            if (check)
                ck_assert_str_eq(out.data ? out.data : "", shown[k]);
            textout_done(&o);
            buf_done(&out);
        }
    tokenizer_free(&t);
}
END_TEST

/* --- damaged input --------------------------------------------------------------------------- */

static void refused(const struct tokenizer_source *src, const char *names)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    int r = tokenizer_new(src, MAX, &t, &e);
    ck_assert_msg(r < 0 && strstr(e.text, names), "%d \"%s\" does not name \"%s\"", r, e.text,
                  names);
    ck_assert_ptr_null(t);
}

START_TEST(damaged_gguf)
{
    static struct spm s;
    small_spm(&s);
    s.src.scores = NULL;
    refused(&s.src, "tokenizer.ggml.scores");
    small_spm(&s);
    s.src.token_types = NULL;
    refused(&s.src, "tokenizer.ggml.token_type");
    small_spm(&s);
    s.scores[270] = __builtin_nanf("");
    refused(&s.src, "entry 270");
    small_spm(&s);
    s.src.model = "bert";
    refused(&s.src, "bert");
    s.src.model = "gpt2";
    s.src.pre = "who-knows";
    refused(&s.src, "who-knows");
    s.src.pre = "llama-bpe";
    refused(&s.src, "merges");
    char *large = malloc(5000);
    memset(large, 'a', 5000);
    small_spm(&s);
    s.tokens[270] = (struct str_view){large, 300};
    refused(&s.src, "token 270");
    s.tokens[270] = (struct str_view){large, 5000};
    refused(&s.src, "token 270");
    free(large);
}
END_TEST

static const char *write_file(const char *name, const char *text)
{
    static char path[4096];
    snprintf(path, sizeof(path), "t_tokenizer.%d.%s", (int)getpid(), name);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
    return path;
}

#define HEAD                                                                                       \
    "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":false},\"decoder\":{\"type\":"       \
    "\"ByteLevel\"},"

START_TEST(damaged_json)
{
    static const struct {
        const char *text, *names;
    } cases[] = {
        {HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
         "two tokens have the id 0"},
        {HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":400},\"merges\":[]}}",
         "\"a\" is not in 0..399"},
        {HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "\"a\""},
        {HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "entry 0"},
        {HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "entry 0"},
        {HEAD "\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "no token"},
        {HEAD "\"model\":{\"type\":\"Unigram\"}}", "Unigram"},
        {HEAD "\"normalizer\":{\"type\":\"Nmt\"},\"model\":{\"type\":\"BPE\"}}", "Nmt"},
        {HEAD "\"post_processor\":{\"type\":\"BertProcessing\"},\"model\":{\"type\":\"BPE\","
              "\"vocab\":{\"a\":0},\"merges\":[]}}",
         "BertProcessing"},
        {HEAD "\"added_tokens\":[{\"id\":1,\"content\":\"a\"}],\"model\":{\"type\":\"BPE\","
              "\"vocab\":{\"a\":0},\"merges\":[]}}",
         "\"a\" has another id"},
        {HEAD "\"added_tokens\":[{\"id\":0,\"content\":\"x\"}],\"model\":{\"type\":\"BPE\","
              "\"vocab\":{\"a\":0},\"merges\":[]}}",
         "the id 0"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"
         "\"(\"}},\"model\":{\"type\":\"BPE\","
         "\"vocab\":{\"a\":0},\"merges\":[]}}",
         "decoder"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
         "\"behavior\":\"Isolated\",\"pattern\":"
         "{\"Regex\":\"(\"}},{\"type\":\"ByteLevel\"}]},\"decoder\":{\"type\":\"ByteLevel\"},"
         "\"model\":{\"type\":\"BPE\","
         "\"vocab\":{\"a\":0},\"merges\":[]}}",
         "does not compile"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct tokenizer_source src = {.pre = "",
                                       .bos_token_id = -1,
                                       .eos_token_id = -1,
                                       .eot_token_id = -1,
                                       .eom_token_id = -1,
                                       .add_bos_token = -1,
                                       .add_eos_token = -1};
        src.json_path = write_file("json", cases[i].text);
        refused(&src, cases[i].names);
        unlink(src.json_path);
    }
}
END_TEST

START_TEST(tiktoken)
{
    /* bytes a b c, then ab, bc, abc; a special token */
    char config[4096], ranks[4096];
    struct tokenizer_source src = blank;
    struct tokenizer *t;
    struct err e;
    struct token_list l = {0};
    strcpy(
        config,
        write_file("config",
                   "{\"tokenizer_class\":\"TikTokenTokenizer\",\"eos_token\":\"[EOS]\","
                   "\"added_tokens_decoder\":{\"8\":{\"content\":\"[EOS]\",\"special\":true}}}"));
    strcpy(ranks, write_file("model", "YQ== 0\nYg== 1\nYw== 2\nYmM= 3\nYWI= 4\nYWJj 5\n"));
    src.tiktoken_path = ranks;
    src.config_path = config;
    ck_assert_msg(tokenizer_new(&src, MAX, &t, &e) == 0, "%s", e.text);
    ck_assert_int_eq(tokenizer_encode(t, "abcab[EOS]abc", 13, TOKENIZE_PARSE_SPECIAL, 100, &l, &e),
                     0);
    ck_assert_int_eq((int)l.n, 4); /* bc first, then a+bc; ab */
    ck_assert(l.ids[0] == 5 && l.ids[1] == 4 && l.ids[2] == 8 && l.ids[3] == 5);
    ck_assert(tokenizer_is_eog(t, 8) && tokenizer_eos(t) == 8);
    ck_assert(tokenizer_is_special(t, 8));
    tokenizer_free(&t);
    /* "special" false: one token whatever is asked, but text when it is read back, as Kimi-K2's <think> */
    write_file("config",
               "{\"tokenizer_class\":\"TikTokenTokenizer\",\"added_tokens_decoder\":{"
               "\"8\":{\"content\":\"[EOS]\",\"special\":true},"
               "\"10\":{\"content\":\"<t>\",\"special\":false}}}");
    ck_assert_msg(tokenizer_new(&src, MAX, &t, &e) == 0, "%s", e.text);
    l.n = 0;
    ck_assert_int_eq(tokenizer_encode(t, "<t>ab[EOS]", 10, TOKENIZE_PARSE_SPECIAL, 100, &l, &e), 0);
    ck_assert(l.n == 3 && l.ids[0] == 10 && l.ids[1] == 4 && l.ids[2] == 8);
    struct buf out;
    buf_init(&out, 100);
    ck_assert_int_eq(tokenizer_decode(t, l.ids, l.n, true, &out), 0);
    ck_assert_str_eq(out.data, "<t>ab");
    buf_done(&out);
    ck_assert(!tokenizer_is_special(t, 10) && tokenizer_is_special(t, 8));
    free(l.ids);
    tokenizer_free(&t);
    static const char *const bad[] = {"YQ== 0\nYg== 0\n",      "YQ== 1\n", "Y!== 0\n", "YQ==\n",
                                      "YQ== 99999999999999\n", ""};
    for (int i = 0; i < 6; i++) {
        write_file("model", bad[i]);
        refused(&src, "tiktoken.model");
    }
    write_file("model", "YQ== 0\n");
    write_file("config", "{\"tokenizer_class\":\"Other\"}");
    refused(&src, "Other");
    unlink(config);
    unlink(ranks);
}
END_TEST

/* The names of a folder's ends, which its templates and HF's classes go by, are those that
 * tokenizer_config.json says; the ids of the other files end a generation all the same. */
START_TEST(named_ends)
{
    struct tokenizer_source src = {.pre = "",
                                   .bos_token_id = 0,
                                   .eos_token_id = 1,
                                   .eot_token_id = -1,
                                   .eom_token_id = -1,
                                   .add_bos_token = 1,
                                   .add_eos_token = -1,
                                   .bos_text = "<b>",
                                   .eos_text = "<|e|>"};
    struct tokenizer *t;
    struct token_list l = {0};
    struct err e;
    src.json_path = write_file(
        "json", HEAD "\"added_tokens\":[{\"id\":2,\"content\":\"<b>\",\"special\":true},"
                     "{\"id\":3,\"content\":\"<|e|>\",\"special\":true}],"
                     "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}");
    ck_assert_msg(tokenizer_new(&src, MAX, &t, &e) == 0, "%s", e.text);
    ck_assert(tokenizer_bos(t) == 2 && tokenizer_eos(t) == 3);
    ck_assert(tokenizer_is_eog(t, 1) && tokenizer_is_eog(t, 3) && !tokenizer_is_eog(t, 2));
    ck_assert_int_eq(tokenizer_encode(t, "a", 1, TOKENIZE_ADD_SPECIAL, 100, &l, &e), 0);
    ck_assert(l.n == 2 && l.ids[0] == 2 && l.ids[1] == 0);
    tokenizer_free(&t);
    src.bos_text = src.eos_text = "no token"; /* then the ids speak */
    ck_assert_msg(tokenizer_new(&src, MAX, &t, &e) == 0, "%s", e.text);
    ck_assert(tokenizer_bos(t) == 0 && tokenizer_eos(t) == 1);
    tokenizer_free(&t);
    free(l.ids);
    unlink(src.json_path);
}
END_TEST

/* Published files that say less, and more, than they should. */
START_TEST(odd_json)
{
    struct tokenizer_source src = blank;
    struct tokenizer *t;
    struct token_list l = {0};
    struct err e;
    /* GPT-2's: no type */
    src.json_path = write_file("json", HEAD "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
                                            "\"merges\":[\"a b\"]}}");
    ck_assert_msg(tokenizer_new(&src, MAX, &t, &e) == 0, "%s", e.text);
    ck_assert_int_eq(tokenizer_encode(t, "ab", 2, 0, 100, &l, &e), 0);
    ck_assert(l.n == 1 && l.ids[0] == 2);
    tokenizer_free(&t);
    /* a token for padding that the model has no row for */
    write_file("json", HEAD "\"added_tokens\":[{\"id\":400,\"content\":\"ab\",\"special\":true}],"
                            "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}");
    ck_assert_msg(tokenizer_new(&src, MAX, &t, &e) == 0, "%s", e.text);
    ck_assert_ptr_nonnull(tokenizer_warning(t));
    l.n = 0;
    ck_assert_int_eq(tokenizer_encode(t, "ab", 2, TOKENIZE_PARSE_SPECIAL, 100, &l, &e), 0);
    ck_assert(l.n == 2 && l.ids[0] == 0 && l.ids[1] == 1);
    ck_assert_int_eq(tokenizer_vocab_size(t), 2);
    tokenizer_free(&t);
    write_file("json", HEAD "\"added_tokens\":[{\"id\":-1,\"content\":\"x\"}],\"model\":{\"type\":"
                            "\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}");
    refused(&src, "\"x\"");
    free(l.ids);
    unlink(src.json_path);
}
END_TEST

int main(void)
{
    const char *seed = getenv("LATENT_TEST_SEED");
    state = seed ? strtoull(seed, NULL, 10) : 1;
    Suite *s = suite_create("tokenizer");
    TCase *tc = tcase_create("tokenizer");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, kimi_splitter);
    tcase_add_test(tc, every_name);
    tcase_add_test(tc, scores);
    tcase_add_test(tc, streamed);
    tcase_add_test(tc, long_run_of_bytes);
    tcase_add_test(tc, stop_of_bytes);
    tcase_add_test(tc, damaged_gguf);
    tcase_add_test(tc, damaged_json);
    tcase_add_test(tc, tiktoken);
    tcase_add_test(tc, named_ends);
    tcase_add_test(tc, odd_json);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
