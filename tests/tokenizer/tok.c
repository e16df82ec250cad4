/* tests/tokenizer/tok.c - a tokenizer on standard input, for tests that compare it with others.
 *
 * tok FILE [spm|PRE]: FILE is a tokenizer.json, or with the suffix .model a tiktoken.model with
 * tokenizer_config.json beside it. With a second word the vocabulary of the tokenizer.json is taken
 * as a GGUF file would hold it: "spm" as tokenizer.ggml.model "llama" with scores that fall in the
 * order of the merges, else as tokenizer.ggml.pre.
 *
 * Reads a letter and "LENGTH\n", then so many bytes, again and again; answers one line each.
 *   e: the text with special tokens parsed, and what is put around it: ids    n: the same without
 * what is around it p: no special tokens: ids d: ids: the decoded text as hexadecimal bytes s: the
 * same, special tokens left out t: ids: the same as d by streaming, after a check that what
 * streamed out was whole characters at each step */
#include "config.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/textout.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

#define VOCAB 300000

static void die(const char *what)
{
    fprintf(stderr, "tok: %s\n", what);
    exit(1);
}

/* What lives as long as the program stays reachable, which is what leak checkers ask for. */
static void **kept;
static size_t n_kept;

static void *all(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if ((n_kept & (n_kept - 1)) == 0)
        kept = realloc(kept, (n_kept ? 2 * n_kept : 1) * sizeof(*kept));
    if (!p || !kept)
        die("no memory");
    kept[n_kept++] = p;
    return p;
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END))
        die(path);
    long n = ftell(f);
    char *s = all(1, (size_t)n + 1);
    rewind(f);
    if (fread(s, 1, (size_t)n, f) != (size_t)n)
        die(path);
    fclose(f);
    return s;
}

static int by_text(const void *a, const void *b)
{
    return strcmp((*(cJSON *const *)a)->string, (*(cJSON *const *)b)->string);
}

/* A token's score is minus the index of the first merge that makes it, as in the file that the
 * merges came from. */
static void score(cJSON *vocab, const struct str_view *merges, int n_merges, float *scores)
{
    int n = cJSON_GetArraySize(vocab), i = 0;
    cJSON **sorted = all((size_t)n, sizeof(*sorted)), *at;
    cJSON_ArrayForEach (at, vocab)
        sorted[i++] = at;
    qsort(sorted, (size_t)n, sizeof(*sorted), by_text);
    for (int m = n_merges - 1; m >= 0; m--) {
        char *s = all(1, merges[m].n_bytes + 1);
        const char *space = strchr(merges[m].data + 1, ' ');
        sprintf(s, "%.*s%s", (int)(space - merges[m].data), merges[m].data, space + 1);
        cJSON key = {.string = s}, *pkey = &key;
        cJSON **hit = bsearch(&pkey, sorted, (size_t)n, sizeof(*sorted), by_text);
        if (hit)
            scores[(*hit)->valueint] = -(float)m;
        free(s);
    }
    free(sorted);
}

/* What a converter writes of a tokenizer.json. */
static void as_gguf(const char *path, const char *pre, struct tokenizer_source *src)
{
    char *text = read_file(path);
    static cJSON *root; /* its strings are borrowed to the end */
    root = cJSON_Parse(text);
    cJSON *at, *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    struct str_view *tokens = all(VOCAB, sizeof(*tokens)), *merges;
    int32_t *types = all(VOCAB, sizeof(*types));
    float *scores = all(VOCAB, sizeof(*scores));
    bool spm = !strcmp(pre, "spm");
    int n = 0, m = 0;
    cJSON_ArrayForEach (at, cJSON_GetObjectItemCaseSensitive(model, "vocab")) {
        int id = at->valueint;
        tokens[id] = (struct str_view){at->string, strlen(at->string)};
        types[id] = spm && !strncmp(at->string, "<0x", 3) && strlen(at->string) == 6 ? 6 : 1;
        scores[id] = -1e9f;
        n = id >= n ? id + 1 : n;
    }
    cJSON_ArrayForEach (at, cJSON_GetObjectItemCaseSensitive(root, "added_tokens")) {
        const char *s = cJSON_GetObjectItemCaseSensitive(at, "content")->valuestring;
        int id = cJSON_GetObjectItemCaseSensitive(at, "id")->valueint;
        tokens[id] = (struct str_view){s, strlen(s)};
        types[id] = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(at, "special")) ? 3 : 4;
        n = id >= n ? id + 1 : n;
        if (!strcmp(s, "<unk>"))
            src->unk_token_id = id, types[id] = 2;
        if (!strcmp(s, "<s>"))
            src->bos_token_id = id;
    }
    for (int i = 0; i < n; i++)
        if (!tokens[i].data) /* as converters fill holes */
            tokens[i] = (struct str_view){"[PAD]", 5}, types[i] = 5;
    cJSON *list = cJSON_GetObjectItemCaseSensitive(model, "merges");
    merges = all((size_t)cJSON_GetArraySize(list) + 1, sizeof(*merges));
    cJSON_ArrayForEach (at, list) {
        char *s = at->valuestring;
        if (cJSON_IsArray(at)) {
            const char *a = at->child->valuestring, *b = at->child->next->valuestring;
            s = all(1, strlen(a) + strlen(b) + 2);
            sprintf(s, "%s %s", a, b);
        }
        merges[m++] = (struct str_view){s, strlen(s)};
    }
    if (spm)
        score(cJSON_GetObjectItemCaseSensitive(model, "vocab"), merges, m, scores);
    src->model = spm ? "llama" : "gpt2";
    src->pre = spm ? "" : pre;
    src->n_tokens = n;
    src->tokens = tokens;
    src->token_types = types;
    src->scores = spm ? scores : NULL;
    src->n_merges = m;
    src->merges = merges;
    if (!spm)
        src->add_bos_token = 0;
}

static void print_ids(const struct token_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        printf(i ? " %d" : "%d", l->ids[i]);
    putchar('\n');
}

static void print_hex(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%02x", (unsigned char)s[i]);
    putchar('\n');
}

static void decode(const struct tokenizer *t, char how, char *text)
{
    int32_t *ids = all(strlen(text) + 1, sizeof(*ids));
    size_t n = 0;
    struct buf out;
    struct textout o;
    for (char *p = strtok(text, " "); p; p = strtok(NULL, " "))
        ids[n++] = atoi(p);
    buf_init(&out, 64u << 20);
    if (how != 't') {
        if (tokenizer_decode(t, ids, n, how == 's', &out) < 0)
            die("decode");
    } else {
        if (textout_init(&o, t, NULL, 0, false, false, true) < 0)
            die("textout");
        for (size_t i = 0; i < n; i++)
            if (textout_push(&o, ids[i], true, &out) < -1 ||
                (out.n_bytes && !utf8_valid(out.data, out.n_bytes)))
                die("the stream ends inside a character");
        if (textout_finish(&o, true, &out) != -1)
            die("textout");
        textout_done(&o);
    }
    print_hex(out.data, out.n_bytes);
    buf_done(&out);
    free(ids);
}

int main(int argc, char **argv)
{
    struct tokenizer_source src = {.pre = "",
                                   .bos_token_id = -1,
                                   .eos_token_id = -1,
                                   .eot_token_id = -1,
                                   .eom_token_id = -1,
                                   .pad_token_id = -1,
                                   .unk_token_id = -1,
                                   .add_bos_token = -1,
                                   .add_eos_token = -1};
    struct tokenizer *t;
    struct err e = {0};
    char how;
    size_t n;
    if (argc < 2 || argc > 3)
        die("usage: tok FILE [spm|PRE]");
    size_t n_path = strlen(argv[1]);
    if (argc == 3) {
        as_gguf(argv[1], argv[2], &src);
    } else if (n_path > 6 && !strcmp(argv[1] + n_path - 6, ".model")) {
        char *config = all(1, n_path + 32), *slash;
        strcpy(config, argv[1]);
        slash = strrchr(config, '/');
        strcpy(slash ? slash + 1 : config, "tokenizer_config.json");
        src.tiktoken_path = argv[1];
        src.config_path = config;
    } else {
        const char *pre;
        src.json_path = argv[1];
        if (vocab_pre_name_for(argv[1], &pre, &e) < 0)
            die(e.text);
        printf("pre %s\n", pre ? pre : "(none)");
    }
    if (tokenizer_new(&src, VOCAB, &t, &e) < 0)
        die(e.text);
    printf("ready %d\n", tokenizer_vocab_size(t));
    fflush(stdout);
    while (scanf(" %c %zu", &how, &n) == 2 && getchar() == '\n') {
        char *text = all(1, n + 1);
        struct token_list l = {0};
        if (fread(text, 1, n, stdin) != n)
            die("short input");
        if (strchr("dst", how)) {
            decode(t, how, text);
        } else {
            unsigned flags = how == 'e'   ? TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL
                             : how == 'n' ? TOKENIZE_PARSE_SPECIAL
                                          : 0;
            if (tokenizer_encode(t, text, n, flags, 1u << 30, &l, &e) < 0)
                printf("error %s\n", e.text);
            else
                print_ids(&l);
            free(l.ids);
        }
        free(text);
        fflush(stdout);
    }
    tokenizer_free(&t);
    return 0;
}
