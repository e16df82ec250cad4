/* tools/bench_family.c - mode family: models side by side, one for each mechanism of attention: what a token
 * leaves in the cache, what attention does for each byte of it, perplexity on a text, and speed of decoding
 * and prompts. The last lines are one table of all. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/attention/family.h"
#include "engine/scheme.h"
#include "engine/tokenizer/tokenizer.h"
#include "tools/bench_rig.h"

#define MAX_MODELS 64
#define WINDOW 512            /* tokens of a text that are predicted from each other */
#define MAX_SCORED (1 << 19)  /* tokens of a text that are looked at */
#define MAX_TEXT (16 << 20)   /* bytes of it */

/* A line of the last table. */
struct line {
    char name[64];
    const char *mechanism;
    double bytes, flops, perplexity; /* of a token; for a byte of cache; 0: not measured */
    double decode[BENCH_MAX_LIST], ratio[BENCH_MAX_LIST], prefill;
};

struct table {
    const struct bench_options *o;
    const struct bench_machine *machine;
    char *text;
    size_t n_text;
    struct line lines[MAX_MODELS];
    int n;
};

/* --- which models ---------------------------------------------------------------------------------- */

static bool is_model(const char *path)
{
    char config[4200];
    struct stat s;
    size_t n = strlen(path);
    snprintf(config, sizeof(config), "%s/config.json", path);
    return stat(config, &s) == 0 || (n > 5 && !strcmp(path + n - 5, ".gguf") && stat(path, &s) == 0);
}

/* The models in a folder, by name, or the one that path is. Names are malloc'd. */
static int find_models(const char *path, char **names, struct err *e)
{
    struct dirent **all;
    int n = 0, n_all = is_model(path) ? 0 : scandir(path, &all, NULL, alphasort);
    if (n_all < 0)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (n_all == 0 && is_model(path))
        return (names[n++] = strdup(path)) ? n : err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_all; i++) {
        char one[4096];
        int len = snprintf(one, sizeof(one), "%s/%s", path, all[i]->d_name);
        if (all[i]->d_name[0] != '.' && len < (int)sizeof(one) && is_model(one) && n < MAX_MODELS)
            n += (names[n] = strdup(one)) != NULL;
        free(all[i]);
    }
    free(all);
    return n > 0 ? n : err_set(e, ERR_INVAL, "%s: neither a model nor a folder of models", path);
}

/* --- what one is ----------------------------------------------------------------------------------- */

static const char *mechanism_of(const struct checkpoint *ck)
{
    const char *name = NULL;
    for (int i = 0; i < ck->config.num_hidden_layers; i++) {
        const struct family_layer *l = ck->layers[i].family;
        const char *one = l ? l->mechanism->name : ck->config.index_topk > 0 ? "dsa" : "mla";
        if (name && strcmp(name, one) != 0)
            return "mixed";
        name = one;
    }
    return name;
}

/* What one query does for each byte of the rows that it sees, two operations a multiply-add. */
static double flops_a_byte(const struct checkpoint *ck, double token_bytes)
{
    const struct model_config *c = &ck->config;
    double macs = 0;
    int writers = 0;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        const struct family_layer *l = ck->layers[i].family;
        struct family_cost cost =
            l ? family_cost(l)
              : (struct family_cost){
                    (double)c->num_attention_heads * (2 * c->kv_lora_rank + c->qk_rope_head_dim), 0};
        macs += cost.pair_macs + cost.key_macs;
        writers += !l || family_writes(l);
    }
    return 2 * macs / (token_bytes / writers * c->num_hidden_layers);
}

/* Natural logarithm of the probability of a token. */
static double logprob(const float *logits, int n, int32_t token)
{
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < n; i++)
        sum += exp(logits[i] - most);
    return logits[token] - most - log(sum);
}

/* Over whole windows; each token but a window's first is predicted from those before it there. Special
 * tokens in the text count as such: that is how one file holds several documents. */
static int perplexity(struct rig *r, const struct table *t, double *ret, struct err *e)
{
    struct tokenizer *tok = NULL;
    struct token_list ids = {0};
    int vocab = r->ck->config.vocab_size, err = tokenizer_new(&r->ck->tokenizer, vocab, &tok, e);
    if (err == 0)
        err = tokenizer_encode(tok, t->text, t->n_text, TOKENIZE_PARSE_SPECIAL, MAX_TEXT, &ids, e);
    size_t n = ids.n < MAX_SCORED ? ids.n : MAX_SCORED, n_scored = 0;
    double sum = 0;
    if (err == 0 && n < WINDOW)
        err = err_set(e, ERR_INVAL, "--text has %zu tokens; it takes at least %d", n, WINDOW);
    for (size_t at = 0; err == 0 && at + WINDOW <= n; at += WINDOW) {
        rig_score(r, ids.ids + at, WINDOW);
        for (int i = 1; i < WINDOW; i++, n_scored++)
            sum -= logprob(r->logits + (size_t)(i - 1) * (size_t)vocab, vocab, ids.ids[at + (size_t)i]);
    }
    *ret = err == 0 ? exp(sum / (double)n_scored) : 0;
    free(ids.ids);
    tokenizer_free(&tok);
    return err;
}

/* --- measurements ---------------------------------------------------------------------------------- */

static void report(struct rig *r, const struct line *l, const char *what, int at, double *values, int n,
                   const char *unit, double bound, const char *limit, double *ret_value, double *ret_ratio)
{
    struct bench_row row = {
        .mode = r->mode, .unit = unit, .bound = bound, .limit = limit,
        .fields = {{"model", l->name, 0}, {"mechanism", l->mechanism, 0}, {"measure", what, 0},
                   {"cache_type", bench_cache_type_name(r->o->cache_type), 0},
                   {"cpu", cpu_level_name(r->machine->level), 0}, {"threads", NULL, r->machine->threads},
                   {"cache_bytes_a_token", NULL, l->bytes}, {"flops_a_byte", NULL, l->flops},
                   {at >= 0 ? "context" : NULL, NULL, at}}};
    bench_row_values(&row, values, n);
    if (n == 1)
        row.min = row.max = 0;
    *ret_value = row.value;
    if (ret_ratio)
        *ret_ratio = bound > 0 ? row.value / bound : 0;
    bench_report_row(&row);
}

static void measure(struct rig *r, struct line *l)
{
    const struct bench_options *o = r->o;
    double v[BENCH_MAX_REPEAT], bound;
    const char *limit;
    struct rig_group g;
    rig_group_begin(r, &g, 0);
    for (int i = 0; i < o->context.n; i++) {
        int context = o->context.v[i], tokens = o->tokens.v[0];
        rig_group_grow(r, &g, context);
        rig_decode(r, &g, 1, context, tokens, v);
        struct bench_step s = {1, 1, context + tokens / 2, 0, 1, MLA_AUTO};
        struct bench_cost c = bench_cost_of(r->ck, r->token_bytes, &s, r->machine);
        bound = 1 / bench_cost_seconds(&c, r->machine, &limit);
        report(r, l, "decode", context, v, o->repeat, "tokens/s", bound, limit, &l->decode[i], &l->ratio[i]);
    }
    rig_group_end(r, &g);
    rig_prefill(r, WINDOW, 0, v);
    bound = WINDOW / bench_prefill_seconds(r->ck, r->token_bytes, WINDOW, 0, r->chunk, r->machine, &limit);
    report(r, l, "prefill", -1, v, o->repeat, "tokens/s", bound, limit, &l->prefill, NULL);
}

static int run_one(struct table *t, const char *path, struct err *e)
{
    const struct bench_options *o = t->o;
    struct rig r = {.o = o, .machine = t->machine, .mode = "family", .chunk = o->chunk};
    struct line *l = &t->lines[t->n];
    const char *name = strrchr(path, '/');
    int longest = o->context.v[o->context.n - 1] + o->tokens.v[0] + 1;
    int err = rig_open(&r, path, 1, longest > WINDOW ? longest : WINDOW + 1, t->text ? WINDOW : 1, e);
    if (err == 0) {
        name = name && name[1] ? name + 1 : path;
        snprintf(l->name, sizeof(l->name), "%.*s", (int)strcspn(name, "."), name);
        l->mechanism = mechanism_of(r.ck);
        l->bytes = r.token_bytes;
        l->flops = flops_a_byte(r.ck, r.token_bytes);
        t->n++;
        if (t->text && (err = perplexity(&r, t, &l->perplexity, e)) == 0)
            report(&r, l, "perplexity", -1, &l->perplexity, 1, "perplexity", 0, NULL, &l->perplexity, NULL);
    }
    if (err == 0)
        measure(&r, l);
    rig_close(&r);
    if (err < 0) {
        char why[sizeof(e->text)];
        snprintf(why, sizeof(why), "%s", e->text);
        err_set(e, err, "%s: %s", path, why);
    }
    return err;
}

static void print_table(const struct table *t)
{
    const struct bench_options *o = t->o;
    printf("\n%-14s %-10s %8s %8s %10s", "model", "mechanism", "bytes", "FLOP/B", "perplexity");
    for (int i = 0; i < o->context.n; i++)
        printf("   decode @%-6d ", o->context.v[i]);
    printf("   prefill\n");
    for (int k = 0; k < t->n; k++) {
        const struct line *l = &t->lines[k];
        printf("%-14s %-10s %8.0f %8.1f ", l->name, l->mechanism, l->bytes, l->flops);
        if (l->perplexity > 0)
            printf("%10.2f", l->perplexity);
        else
            printf("%10s", "-");
        for (int i = 0; i < o->context.n; i++)
            printf("  %8.1f (%4.2f) ", l->decode[i], l->ratio[i]);
        printf("%10.0f\n", l->prefill);
    }
    printf("bytes: of a token in the cache. FLOP/B: what a query does for a byte that it reads. Tokens\n"
           "a second; in brackets over the bound. Prefill of %d tokens; perplexity in windows of %d.\n",
           WINDOW, WINDOW);
}

static int read_text(struct table *t, struct err *e)
{
    FILE *f = t->o->text ? fopen(t->o->text, "rb") : NULL;
    if (!t->o->text)
        return 0;
    t->text = f ? malloc(MAX_TEXT) : NULL;
    t->n_text = t->text ? fread(t->text, 1, MAX_TEXT, f) : 0;
    bool failed = !f || (t->text && ferror(f));
    int why = errno;
    if (f)
        fclose(f);
    if (failed)
        return err_set(e, ERR_IO, "--text %s: %s", t->o->text, strerror(why));
    return t->text ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

int bench_family_run(const struct bench_options *o, const struct bench_machine *m, struct err *e)
{
    struct table *t = calloc(1, sizeof(*t));
    char *names[MAX_MODELS] = {NULL};
    if (!t)
        return err_set(e, ERR_NOMEM, "out of memory");
    t->o = o;
    t->machine = m;
    int n = find_models(o->model, names, e), r = n < 0 ? n : read_text(t, e);
    for (int i = 0; i < n && r == 0; i++)
        r = run_one(t, names[i], e);
    if (r == 0 && !o->json)
        print_table(t);
    for (int i = 0; i < MAX_MODELS; i++)
        free(names[i]);
    free(t->text);
    free(t);
    return r;
}
