/* tests/peers/llama_logits.c - what llama.cpp computes for a GGUF file, by token ids: the other side of
 * llama_cpp.mjs. Linked with libllama, outside `make check`.
 *
 * llama_logits MODEL reads commands from standard input and answers each with one line:
 *     logits FILE id id ...   writes float32 [ids][vocab] to FILE, answers the vocabulary's size
 *     greedy N id id ...      answers N more ids, each the likeliest
 *     nll id id ...           answers the summed negative log-likelihood of all ids after the first */
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_IDS 4096

static struct llama_context *ctx;
static int n_vocab;

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static void fail(const char *what)
{
    fprintf(stderr, "llama_logits: %s\n", what);
    exit(1);
}

/* Logits of all n positions that begin at `position`; valid until the next call. */
static void decode(const llama_token *ids, int n, int position)
{
    struct llama_batch b = llama_batch_init(n, 0, 1);
    b.n_tokens = n;
    for (int i = 0; i < n; i++) {
        b.token[i] = ids[i];
        b.pos[i] = position + i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = 0;
        b.logits[i] = 1;
    }
    if (llama_decode(ctx, b))
        fail("llama_decode failed");
    llama_batch_free(b);
}

static int best(const float *v)
{
    int at = 0;
    for (int i = 1; i < n_vocab; i++)
        if (v[i] > v[at])
            at = i;
    return at;
}

static double nll_of(const float *v, int id)
{
    double max = v[best(v)], sum = 0;
    for (int i = 0; i < n_vocab; i++)
        sum += exp(v[i] - max);
    return log(sum) + max - v[id];
}

static int read_ids(char **rest, llama_token *ids)
{
    int n = 0;
    for (char *s; (s = strtok_r(NULL, " \n", rest));) {
        if (n == MAX_IDS)
            fail("too many ids");
        ids[n++] = atoi(s);
        if (ids[n - 1] < 0 || ids[n - 1] >= n_vocab)
            fail("an id is out of range");
    }
    return n;
}

int main(int argc, char **argv)
{
    static char line[1 << 16];
    static llama_token ids[MAX_IDS];
    if (argc != 2)
        fail("usage: llama_logits MODEL");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model)
        fail("the model does not load");
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = p.n_batch = p.n_ubatch = 2048;
    p.n_threads = p.n_threads_batch = 2;
    ctx = llama_init_from_model(model, p);
    if (!ctx)
        fail("no context");
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    while (fgets(line, sizeof(line), stdin)) {
        char *rest, *command = strtok_r(line, " \n", &rest);
        char *first = command && strcmp(command, "nll") ? strtok_r(NULL, " \n", &rest) : NULL;
        int n = read_ids(&rest, ids);
        if (!command || n < 1)
            fail("a command without ids");
        llama_memory_clear(llama_get_memory(ctx), true);
        decode(ids, n, 0);
        if (strcmp(command, "logits") == 0) {
            FILE *f = fopen(first, "wb");
            for (int i = 0; f && i < n; i++)
                fwrite(llama_get_logits_ith(ctx, i), sizeof(float), (size_t)n_vocab, f);
            if (!f || fclose(f))
                fail("cannot write the logits");
            printf("%d\n", n_vocab);
        } else if (strcmp(command, "greedy") == 0) {
            int more = atoi(first), at = n - 1;
            for (int k = 0; k < more; k++) {
                llama_token id = best(llama_get_logits_ith(ctx, at));
                printf("%d ", id);
                decode(&id, 1, n + k);
                at = 0;
            }
            printf("\n");
        } else {
            double sum = 0;
            for (int i = 0; i + 1 < n; i++)
                sum += nll_of(llama_get_logits_ith(ctx, i), ids[i + 1]);
            printf("%.6f\n", sum);
        }
        fflush(stdout);
    }
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
