/* tests/fuzz/fuzz.c - see fuzz.h. */
#include "config.h"

#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_TOKENS 4096

int fuzz_verdict;
char fuzz_text[sizeof(((struct err *)0)->text)];
static volatile unsigned char sink;

void fuzz__broken(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: broken: %s\n", file, line, what);
    abort();
}

int fuzz_result(int r, const struct err *e)
{
    fuzz_verdict = r;
    if (r == 0)
        return 0;
    FUZZ_CHECK(r <= ERR_INVAL && r != ERR_INTERNAL);
    FUZZ_CHECK(e->text[0] && memchr(e->text, 0, sizeof(e->text)));
    FUZZ_CHECK(memchr(e->param, 0, sizeof(e->param)));
    memcpy(fuzz_text, e->text, sizeof(fuzz_text));
    return r;
}

/* --- files -------------------------------------------------------------------------------------- */

static char folder[64];

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    if (system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", folder);
}

static void make_folder(void)
{
    if (folder[0])
        return;
    snprintf(folder, sizeof(folder), "%s/latentd-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    FUZZ_CHECK(mkdtemp(folder));
    atexit(remove_folder);
}

const char *fuzz_path(const char *name)
{
    static char path[256];
    make_folder();
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

void fuzz_put_sparse(const char *name, const void *head, size_t n_bytes, uint64_t total_bytes)
{
    int fd = open(fuzz_path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0);
    FUZZ_CHECK(write(fd, head, n_bytes) == (ssize_t)n_bytes);
    if (total_bytes > n_bytes)
        FUZZ_CHECK(ftruncate(fd, (off_t)total_bytes) == 0);
    close(fd);
}

void fuzz_put(const char *name, const void *data, size_t n_bytes)
{
    fuzz_put_sparse(name, data, n_bytes, n_bytes);
}

void fuzz_drop(const char *name)
{
    unlink(fuzz_path(name));
}

void fuzz_alias(const char *name, const char *target)
{
    fuzz_drop(name);
    FUZZ_CHECK(symlink(target, fuzz_path(name)) == 0);
}

const uint8_t *fuzz_part(const uint8_t **data, size_t *n_bytes, size_t *ret_bytes)
{
    const uint8_t *part = *data;
    if (!part)
        return NULL;
    const uint8_t *end = *n_bytes ? memchr(part, FUZZ_DIVIDER, *n_bytes) : NULL;
    *ret_bytes = end ? (size_t)(end - part) : *n_bytes;
    *n_bytes = end ? *n_bytes - *ret_bytes - 1 : 0;
    *data = end ? end + 1 : NULL;
    return part;
}

char *fuzz_data(const char *name, size_t *ret_bytes)
{
    char path[4096];
    const char *top = getenv("top_srcdir");
    struct stat st;
    snprintf(path, sizeof(path), "%s/tests/fuzz/%s", top ? top : "..", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fprintf(stderr, "cannot open %s (top_srcdir names the sources)\n", path);
    FUZZ_CHECK(fd >= 0 && fstat(fd, &st) == 0);
    char *s = malloc((size_t)st.st_size + 1);
    FUZZ_CHECK(s && read(fd, s, (size_t)st.st_size) == st.st_size);
    close(fd);
    s[st.st_size] = 0;
    *ret_bytes = (size_t)st.st_size;
    return s;
}

/* --- tokenizers --------------------------------------------------------------------------------- */

static void encode(const struct tokenizer *t, const char *text, const unsigned char *literal, size_t n,
                   unsigned flags, size_t max_tokens)
{
    struct token_list list = {0};
    struct err e = {0};
    int r = literal ? tokenizer_encode_masked(t, text, literal, n, flags, max_tokens, &list, &e)
                    : tokenizer_encode(t, text, n, flags, max_tokens, &list, &e);
    FUZZ_CHECK(r == 0 || r == ERR_LIMIT || r == ERR_NOMEM || e.text[0]);
    FUZZ_CHECK(r < 0 || list.n <= max_tokens);
    for (size_t i = 0; i < list.n; i++) {
        size_t bytes = 0;
        FUZZ_CHECK(list.ids[i] >= 0 && list.ids[i] < tokenizer_vocab_size(t));
        const char *s = tokenizer_token_bytes(t, list.ids[i], &bytes);
        FUZZ_CHECK(s && bytes <= tokenizer_max_token_bytes(t));
        for (size_t k = 0; k < bytes; k++)
            sink ^= (unsigned char)s[k];
    }
    free(list.ids);
}

void fuzz_use_tokenizer(const struct tokenizer *t, const char *text, size_t n_bytes)
{
    static const int32_t ids[] = {-1, 0, 1, 255, 256, INT32_MAX, INT32_MIN};
    static const char words[] = "Hi there, x1 = 20.5;\r\n\n  \xe4\xbd\xa0\xe5\xa5\xbd <s>a</s>"
                                "\xc3\xa9\xf0\x9f\x98\x80 don't\t\xff\xc3 <|eot_id|>";
    unsigned char mask[sizeof(words)] = {0};
    for (size_t i = 20; i < 30; i++)
        mask[i] = 1;
    encode(t, words, NULL, sizeof(words) - 1, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, MAX_TOKENS);
    encode(t, words, mask, sizeof(words) - 1, TOKENIZE_PARSE_SPECIAL, 7);
    if (n_bytes) {
        encode(t, text, NULL, n_bytes, 0, MAX_TOKENS);
        encode(t, text, NULL, n_bytes, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, MAX_TOKENS);
    }
    encode(t, "", NULL, 0, TOKENIZE_ADD_SPECIAL, MAX_TOKENS);
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        size_t bytes = 1;
        FUZZ_CHECK(tokenizer_token_bytes(t, ids[i], &bytes));
        (void)tokenizer_is_special(t, ids[i]);
        (void)tokenizer_is_eog(t, ids[i]);
    }
    FUZZ_CHECK(tokenizer_bos(t) >= -1 && tokenizer_bos(t) < tokenizer_vocab_size(t));
    FUZZ_CHECK(tokenizer_eos(t) >= -1 && tokenizer_eos(t) < tokenizer_vocab_size(t));
    FUZZ_CHECK(tokenizer_find(t, "<s>", 3) >= -1);
}

/* --- checkpoints -------------------------------------------------------------------------------- */

static void touch(const struct tensor *t)
{
    if (t->data && t->n_bytes)
        sink ^= ((const unsigned char *)t->data)[0] ^ ((const unsigned char *)t->data)[t->n_bytes - 1];
}

/* A layer is nothing but tensors, a list of experts and a name: whatever roles there are, all of them
 * that are bound lie in the file. */
static void touch_layer(const struct layer_tensors *l, int n_experts)
{
    const struct tensor *const all[] = {
        &l->attn_norm, &l->q_proj, &l->q_a, &l->q_a_norm, &l->q_b, &l->kv_a, &l->kv_a_norm, &l->kv_b,
        &l->k_b, &l->v_b, &l->o, &l->ffn_norm, &l->dense.gate, &l->dense.up, &l->dense.down, &l->router,
        &l->router_bias, &l->shared.gate, &l->shared.up, &l->shared.down};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        touch(all[i]);
    for (int i = 0; l->experts && i < n_experts; i++) {
        touch(&l->experts[i].gate);
        touch(&l->experts[i].up);
        touch(&l->experts[i].down);
    }
}

void fuzz_open(const char *path)
{
    struct checkpoint *c = NULL;
    struct tokenizer *t = NULL;
    struct err e = {0};
    if (fuzz_result(checkpoint_open(path, &c, &e), &e) < 0) {
        FUZZ_CHECK(!c);
        return;
    }
    const struct model_config *m = &c->config;
    FUZZ_CHECK(m->vocab_size > 0 && m->hidden_size > 0 && m->num_hidden_layers > 0);
    FUZZ_CHECK(c->n_params >= 0 && c->format && m->name[0]);
    touch(&c->token_embd);
    touch(&c->output);
    touch(&c->output_norm);
    for (int i = 0; i < m->num_hidden_layers; i++)
        touch_layer(&c->layers[i], m->n_routed_experts);
    for (int i = 0; c->mtp && i < m->num_nextn_predict_layers; i++) {
        touch_layer(&c->mtp[i].layer, m->n_routed_experts);
        touch(&c->mtp[i].eh_proj);
        touch(&c->mtp[i].shared_head_norm);
    }
    if (c->chat_template)
        sink ^= (unsigned char)strlen(c->chat_template);
    int r = tokenizer_new(&c->tokenizer, m->vocab_size, &t, &e);
    if (r != ERR_NOTFOUND)
        (void)fuzz_result(r, &e);
    if (r == 0)
        fuzz_use_tokenizer(t, NULL, 0);
    tokenizer_free(&t);
    checkpoint_close(&c);
}
