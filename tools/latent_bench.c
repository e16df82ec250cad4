/* tools/latent_bench.c - measures the engine on a model, each figure beside the machine's bound taken
 * in the same run. Modes: decode, prefill, batch, shared. See docs/performance.md for the method. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/kernels/kern.h"
#include "tools/bench.h"

#define PAGE_TOKENS 32
#define CHUNK 256
#define MAX_BATCH 512

static int n_rows;

void bench_row(const struct bench_rig *r, const char *mode, const char *params, double value,
               const char *unit, double bound)
{
    if (!r->o->json) {
        printf("%-8s %-34s %10.1f %-9s", mode, params, value, unit);
        if (bound > 0)
            printf("  bound %10.1f  ratio %.2f", bound, value / bound);
        printf("\n");
        return;
    }
    printf("%s{\"mode\":\"%s\",\"parameters\":\"%s\",\"value\":%.3f,\"unit\":\"%s\"",
           n_rows++ ? "," : "", mode, params, value, unit);
    if (bound > 0)
        printf(",\"bound\":%.3f,\"ratio\":%.4f}", bound, value / bound);
    else
        printf(",\"bound\":null,\"ratio\":null}");
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static int fail(const struct err *e)
{
    fprintf(stderr, "latent-bench: %s\n", e->text);
    return 1;
}

/* Weights that one token passes through: routed experts count num_experts_per_tok times. */
static void count_active(struct bench_rig *r)
{
    const struct checkpoint *ck = r->ck;
    const struct model_config *c = &ck->config;
    const struct tensor *list[18];
    r->active_bytes = ck->output.n_bytes;
    r->active_weights = ck->output.ne[0] * ck->output.ne[1];
    for (int i = 0; i < c->num_hidden_layers; i++) {
        const struct layer_tensors *l = &ck->layers[i];
        const struct ffn_tensors *x = l->experts;
        const struct tensor *all[] = {&l->q_proj, &l->q_a, &l->q_b, &l->kv_a, &l->kv_b, &l->k_b,
                                      &l->v_b, &l->o, &l->router, &l->dense.gate, &l->dense.up,
                                      &l->dense.down, &l->shared.gate, &l->shared.up,
                                      &l->shared.down, &l->index_q, &l->index_k, &l->index_weights};
        memcpy(list, all, sizeof(list));
        for (int t = 0; t < 18; t++) {
            if (!list[t]->data)
                continue;
            r->active_bytes += list[t]->n_bytes;
            r->active_weights += list[t]->ne[0] * list[t]->ne[1] * list[t]->ne[2];
        }
        if (x) {
            uint64_t k = (uint64_t)c->num_experts_per_tok;
            r->active_bytes += k * (x->gate.n_bytes + x->up.n_bytes + x->down.n_bytes);
            r->active_weights += 3 * (int64_t)k * x->gate.ne[0] * x->gate.ne[1];
        }
    }
}

static int rig_open(struct bench_rig *r, const struct bench_options *o)
{
    struct err e = {0};
    memset(r, 0, sizeof(*r));
    r->o = o;
    int max_len = o->context + o->tokens + CHUNK;
    if (checkpoint_open(o->model, &r->ck, &e) < 0)
        return fail(&e);
    if (pool_new(o->threads, 1, &r->pool, &e) < 0)
        return fail(&e);
    r->read_bytes_per_s = bench_read_bandwidth(r->pool);
    r->macs_per_s = bench_product_peak(r->pool, kern_table(o->level));
    struct model_options mo = {.level = o->level, .cache_type = o->cache_type,
                               .page_tokens = PAGE_TOKENS, .max_batch_tokens = MAX_BATCH,
                               .max_logit_rows = o->batch, .max_seqs = o->batch,
                               .max_position = max_len};
    if (model_new(r->ck, &mo, r->pool, &r->model, &e) < 0)
        return fail(&e);
    count_active(r);
    struct kv_config kc = {.page_tokens = PAGE_TOKENS, .max_seqs = (uint32_t)o->batch + 2,
                           .max_seq_tokens = (uint32_t)max_len, .huge_pages = true};
    kc.planes = model_planes(r->model, &kc.n_planes);
    uint64_t page = 4096;
    for (uint32_t i = 0; i < kc.n_planes; i++)
        page += (uint64_t)kc.planes[i].row_bytes * PAGE_TOKENS + kc.planes[i].align;
    kc.pool_bytes = page * (uint64_t)(o->batch + 2) * (uint64_t)(max_len / PAGE_TOKENS + 2);
    if (kv_open(&kc, &r->kv, &e) < 0 || model_bind_cache(r->model, r->kv, &e) < 0)
        return fail(&e);
    r->logits = malloc((size_t)o->batch * (size_t)r->ck->config.vocab_size * sizeof(float));
    if (!r->logits) {
        err_set(&e, ERR_NOMEM, "out of memory");
        return fail(&e);
    }
    return 0;
}

static void rig_close(struct bench_rig *r)
{
    free(r->logits);
    model_free(&r->model);
    if (r->kv)
        kv_close(&r->kv);
    pool_free(&r->pool);
    checkpoint_close(&r->ck);
}

static void must(int r, const char *what)
{
    if (r < 0) {
        fprintf(stderr, "latent-bench: %s: %s\n", what, err_name(r));
        exit(1);
    }
}

static int32_t token_of(const struct bench_rig *r, uint64_t n)
{
    n = (n + 1) * 0x9e3779b97f4a7c15ull;
    return (int32_t)((n >> 33) % (uint64_t)r->ck->config.vocab_size);
}

/* Appends n made-up tokens in chunks. */
static void fill(struct bench_rig *r, struct kv_seq *seq, int n, uint64_t salt, int n_logits)
{
    int32_t tokens[MAX_BATCH];
    for (int at = 0; at < n;) {
        int m = n - at < CHUNK ? n - at : CHUNK;
        int32_t pos = (int32_t)kv_seq_length(seq);
        for (int i = 0; i < m; i++)
            tokens[i] = token_of(r, salt * 1000003u + (uint64_t)(pos + i));
        must(kv_seq_reserve(r->kv, seq, (uint32_t)m), "cache");
        struct forward_seq s = {kv_seq_pages(seq, NULL), pos, m, tokens,
                                at + m == n ? n_logits : 0};
        struct forward_batch b = {1, &s, r->logits};
        kv_step_begin(r->kv);
        must(model_forward(r->model, &b), "forward");
        kv_seq_commit(r->kv, seq, tokens, (uint32_t)m);
        kv_step_end(r->kv);
        at += m;
    }
}

/* Bytes that a step of n sequences must read: every touched weight once, and each one's rows. */
static double step_bytes(const struct bench_rig *r, int n, int64_t cache_tokens)
{
    const struct model_config *c = &r->ck->config;
    double bytes = (double)r->active_bytes;
    for (int i = c->first_k_dense_replace; c->n_routed_experts && i < c->num_hidden_layers; i++) {
        const struct ffn_tensors *x = r->ck->layers[i].experts;
        if (!x)
            continue;
        double each = (double)(x->gate.n_bytes + x->up.n_bytes + x->down.n_bytes), miss = 1.0;
        for (int k = 0; k < n; k++)
            miss *= 1.0 - (double)c->num_experts_per_tok / c->n_routed_experts;
        bytes += each * (c->n_routed_experts * (1.0 - miss) - c->num_experts_per_tok);
    }
    uint32_t n_planes;
    const struct kv_plane *p = model_planes(r->model, &n_planes);
    for (uint32_t i = 0; i < n_planes; i++)
        bytes += (double)cache_tokens * p[i].row_bytes / p[i].tokens_per_row;
    return bytes;
}

/* n sequences decode `tokens` each, behind `context` tokens of which `shared` are common. */
static void decode(struct bench_rig *r, const char *mode, int n, int context, int shared)
{
    const struct bench_options *o = r->o;
    double rate[BENCH_MAX_REPEAT];
    struct kv_seq **seq = calloc((size_t)n, sizeof(*seq)), *root = NULL;
    struct forward_seq *fs = calloc((size_t)n, sizeof(*fs));
    int32_t *tok = calloc((size_t)n, sizeof(*tok));
    char params[96];
    if (!seq || !fs || !tok)
        exit(1);
    must(kv_seq_new(r->kv, 0, &root), "cache");
    fill(r, root, shared, 0, 0);
    for (int i = 0; i < n; i++) {
        must(kv_seq_fork(r->kv, root, &seq[i]), "cache");
        fill(r, seq[i], context - shared, (uint64_t)i + 1, 0);
    }
    for (int rep = 0; rep < o->repeat; rep++) {
        int64_t t0 = clock_now_ns();
        for (int t = 0; t < o->tokens; t++) {
            for (int i = 0; i < n; i++) {
                must(kv_seq_reserve(r->kv, seq[i], 1), "cache");
                tok[i] = token_of(r, (uint64_t)(i * 7919 + t + rep * 31));
                fs[i] = (struct forward_seq){kv_seq_pages(seq[i], NULL),
                                             (int32_t)kv_seq_length(seq[i]), 1, &tok[i], 1};
            }
            struct forward_batch b = {n, fs, r->logits};
            kv_step_begin(r->kv);
            must(model_forward(r->model, &b), "forward");
            for (int i = 0; i < n; i++)
                kv_seq_commit(r->kv, seq[i], &tok[i], 1);
            kv_step_end(r->kv);
        }
        rate[rep] = (double)n * o->tokens * 1e9 / (double)(clock_now_ns() - t0);
        for (int i = 0; i < n; i++)
            must(kv_seq_truncate(r->kv, seq[i], (uint32_t)context), "cache");
    }
    int64_t rows = (int64_t)n * (context - shared + o->tokens / 2) + shared;
    double bound = n * r->read_bytes_per_s / step_bytes(r, n, rows);
    double by_macs = r->macs_per_s / (double)r->active_weights;
    snprintf(params, sizeof(params), "batch %d context %d shared %d", n, context, shared);
    bench_row(r, mode, params, bench_median(rate, o->repeat), "tokens/s",
              by_macs < bound ? by_macs : bound);
    for (int i = 0; i < n; i++)
        kv_seq_free(r->kv, &seq[i]);
    kv_seq_free(r->kv, &root);
    free(seq);
    free(fs);
    free(tok);
}

static void prefill(struct bench_rig *r)
{
    const struct bench_options *o = r->o;
    const struct model_config *c = &r->ck->config;
    double rate[BENCH_MAX_REPEAT];
    char params[96];
    for (int rep = 0; rep < o->repeat; rep++) {
        struct kv_seq *seq = NULL;
        must(kv_seq_new(r->kv, (uint64_t)rep + 77, &seq), "cache");
        fill(r, seq, o->context, 5, 0);
        int64_t t0 = clock_now_ns();
        fill(r, seq, o->tokens, 5, 1);
        rate[rep] = (double)o->tokens * 1e9 / (double)(clock_now_ns() - t0);
        kv_seq_free(r->kv, &seq);
    }
    /* Weights, and absorbed attention over half the new tokens and all of the old, per token. */
    double head = (double)r->ck->output.ne[0] * (double)r->ck->output.ne[1];
    double macs = (double)r->active_weights - head +
                  (double)c->num_hidden_layers * c->num_attention_heads *
                      (2.0 * c->kv_lora_rank + c->qk_rope_head_dim) *
                      (o->context + o->tokens / 2.0);
    snprintf(params, sizeof(params), "tokens %d context %d", o->tokens, o->context);
    bench_row(r, "prefill", params, bench_median(rate, o->repeat), "tokens/s", r->macs_per_s / macs);
}

static void usage(FILE *f)
{
    fprintf(f,
            "usage: latent-bench MODE --model PATH [options]\n\n"
            "  decode    one sequence (or --batch) decodes --tokens behind --context tokens\n"
            "  batch     the same for 1, 2, 4 ... --batch sequences\n"
            "  shared    --batch sequences decode behind a common prefix of --shared tokens\n"
            "  prefill   --tokens prompt tokens behind --context tokens\n\n"
            "  --batch N (1)  --context N (0)  --tokens N (64; prefill: 512)  --shared N (0)\n"
            "  --cache-type bf16|f32|int8|fp8  --cpu LEVEL  --threads N  --repeat N (5)  --json\n\n"
            "Each line shows the median of --repeat runs beside the machine's bound: weights and\n"
            "rows over the read bandwidth, or multiply-adds over the level's product peak,\n"
            "whichever is slower; both are measured at start.\n");
}

static int parse_int(const char *name, const char *s, int min, int max)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (*end || end == s || v < min || v > max) {
        fprintf(stderr, "latent-bench: --%s must be an integer in %d..%d, not \"%s\"\n", name, min,
                max, s);
        exit(1);
    }
    return (int)v;
}

int main(int argc, char **argv)
{
    struct bench_options o = {.level = cpu_detect(), .threads = pool_default_threads(), .batch = 1,
                              .repeat = 5};
    static const struct option longs[] = {
        {"model", 1, 0, 'm'},   {"batch", 1, 0, 'b'},      {"context", 1, 0, 'c'},
        {"tokens", 1, 0, 't'},  {"shared", 1, 0, 's'},     {"repeat", 1, 0, 'r'},
        {"threads", 1, 0, 'n'}, {"cache-type", 1, 0, 'y'}, {"cpu", 1, 0, 'u'},
        {"json", 0, 0, 'j'},    {"help", 0, 0, 'h'},       {0, 0, 0, 0},
    };
    int opt, level, cache_type;
    while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (opt) {
        case 'm': o.model = optarg; break;
        case 'b': o.batch = parse_int("batch", optarg, 1, MAX_BATCH); break;
        case 'c': o.context = parse_int("context", optarg, 0, 1 << 20); break;
        case 't': o.tokens = parse_int("tokens", optarg, 1, 1 << 20); break;
        case 's': o.shared = parse_int("shared", optarg, 0, 1 << 20); break;
        case 'r': o.repeat = parse_int("repeat", optarg, 1, BENCH_MAX_REPEAT); break;
        case 'n': o.threads = parse_int("threads", optarg, 1, 1024); break;
        case 'j': o.json = true; break;
        case 'y':
            if ((cache_type = cache_type_parse(optarg)) < 0) {
                fprintf(stderr, "latent-bench: --cache-type is one of bf16 f32 int8 fp8\n");
                return 1;
            }
            o.cache_type = (enum cache_type)cache_type;
            break;
        case 'u':
            if ((level = cpu_level_parse(optarg)) < 0) {
                fprintf(stderr, "latent-bench: --cpu is generic, avx2, avx512, amx or neon\n");
                return 1;
            }
            o.level = (enum cpu_level)level;
            break;
        case 'h': usage(stdout); return 0;
        default: usage(stderr); return 1;
        }
    }
    const char *mode = optind < argc ? argv[optind] : "";
    bool is_prefill = !strcmp(mode, "prefill"), is_decode = !strcmp(mode, "decode");
    bool is_batch = !strcmp(mode, "batch"), is_shared = !strcmp(mode, "shared");
    if (!o.model || optind + 1 != argc || !(is_prefill || is_decode || is_batch || is_shared)) {
        usage(stderr);
        return 1;
    }
    if (!o.tokens)
        o.tokens = is_prefill ? 512 : 64;
    if (o.shared > o.context)
        o.context = o.shared;
    if (!is_shared && o.shared) {
        fprintf(stderr, "latent-bench: --shared belongs to mode shared\n");
        return 1;
    }
    struct bench_rig r;
    if (rig_open(&r, &o))
        return 1;
    if (o.json)
        printf("{\"machine\":{\"cpu\":\"%s\",\"level\":\"%s\",\"threads\":%d,\"read_gb_s\":%.2f,"
               "\"product_gmac_s\":%.1f},\"model\":{\"name\":\"%s\",\"active_bytes\":%llu},\"rows\":[",
               cpu_brand(), cpu_level_name(o.level), o.threads, r.read_bytes_per_s / 1e9,
               r.macs_per_s / 1e9, r.ck->config.name, (unsigned long long)r.active_bytes);
    else
        printf("%s, %s, %d threads: reads %.1f GB/s, int8 products %.0f GMAC/s\n"
               "%s: %.1f MB of weights active per token\n",
               cpu_brand(), cpu_level_name(o.level), o.threads, r.read_bytes_per_s / 1e9,
               r.macs_per_s / 1e9, r.ck->config.name, (double)r.active_bytes / 1e6);
    if (is_prefill)
        prefill(&r);
    else if (is_batch)
        for (int n = 1; n < 2 * o.batch; n *= 2)
            decode(&r, mode, n < o.batch ? n : o.batch, o.context, 0);
    else
        decode(&r, mode, o.batch, o.context, o.shared);
    if (o.json)
        printf("]}\n");
    rig_close(&r);
    return 0;
}
