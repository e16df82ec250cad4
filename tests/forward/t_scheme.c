/* tests/forward/t_scheme.c - prompts whose first positions are computed decompressed: against the float64
 * reference, against the absorbed scheme, and bit for bit over chunks, threads, batches and shared pages. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/attention/attention.h"
#include "engine/ffn.h"
#include "engine/forward.h"
#include "engine/kernels/kern.h"
#include "tests/forward/tiny.h"

#define PAGE_TOKENS 16
#define MAX_LEN 1200

static unsigned long long seed;

static const struct model_config base = {
    .architecture = "deepseek_v3",
    .vocab_size = 61,
    .hidden_size = 40,
    .num_hidden_layers = 2,
    .num_attention_heads = 3,
    .q_lora_rank = 24,
    .kv_lora_rank = 20,
    .qk_nope_head_dim = 12,
    .qk_rope_head_dim = 6,
    .v_head_dim = 10,
    .intermediate_size = 56,
    .rms_norm_eps = 1e-6f,
    .rope_theta = 1000.0f,
    .rope_interleave = true,
    .max_position_embeddings = 2048,
};

struct rig {
    struct pool *pool;
    struct model *model;
    struct kv *kv;
    int max_rows;
};

static void rig_open(struct rig *r, const struct checkpoint *ck, enum cpu_level level, int threads,
                     enum cache_type type, int max_rows, int product)
{
    struct err e = {0};
    struct model_options o = {.level = level, .cache_type = type, .page_tokens = PAGE_TOKENS,
                              .max_batch_tokens = max_rows, .max_logit_rows = max_rows, .max_seqs = 4,
                              .max_position = MAX_LEN, .decompressed = true, .mla_product = product};
    r->max_rows = max_rows;
    ck_assert_int_eq(pool_new(threads, 0, &r->pool, &e), 0);
    ck_assert_msg(model_new(ck, &o, r->pool, &r->model, &e) == 0, "%s", e.text);
    struct kv_config kc = {.page_tokens = PAGE_TOKENS, .pool_bytes = 16u << 20, .max_seqs = 8,
                           .max_seq_tokens = MAX_LEN};
    kc.planes = model_planes(r->model, &kc.n_planes);
    ck_assert_msg(kv_open(&kc, &r->kv, &e) == 0, "%s", e.text);
    ck_assert_msg(model_bind_cache(r->model, r->kv, &e) == 0, "%s", e.text);
}

static void rig_close(struct rig *r)
{
    model_free(&r->model);
    kv_close(&r->kv);
    pool_free(&r->pool);
}

/* The next m tokens of a prompt, cut where the scheme changes. */
static struct forward_seq next(struct rig *r, struct kv_seq *seq, const int32_t *tokens, int m, int marked)
{
    int at = (int)kv_seq_length(seq);
    if (at < marked && at + m > marked)
        m = marked - at;
    ck_assert_int_eq(kv_seq_reserve(r->kv, seq, (uint32_t)m), 0);
    return (struct forward_seq){kv_seq_pages(seq, NULL), at, m, tokens + at, m, at < marked, false};
}

/* Feeds a prompt from where it stands, in chunks (0: random sizes), keeping the logits of every token. */
static void feed(struct rig *r, struct kv_seq *seq, const int32_t *tokens, int n, int chunk, int marked,
                 float *logits)
{
    int vocab = model_config(r->model)->vocab_size, at;
    while ((at = (int)kv_seq_length(seq)) < n) {
        int m = chunk ? chunk : 1 + rand() % r->max_rows;
        struct forward_seq s = next(r, seq, tokens, m > n - at ? n - at : m, marked);
        struct forward_batch b = {1, &s, logits + (size_t)at * (size_t)vocab};
        kv_step_begin(r->kv);
        ck_assert_int_eq(model_forward(r->model, &b), 0);
        kv_seq_commit(r->kv, seq, tokens + at, (uint32_t)s.n_tokens);
        kv_step_end(r->kv);
    }
}

struct way {
    enum cpu_level level;
    enum cache_type type;
    int threads, max_rows, chunk, marked, product;
};

static float *run_prompt(const struct checkpoint *ck, const struct way *y, const int32_t *tokens, int n)
{
    struct rig r;
    struct kv_seq *seq = NULL;
    float *logits = malloc((size_t)n * (size_t)ck->config.vocab_size * sizeof(float));
    rig_open(&r, ck, y->level, y->threads, y->type, y->max_rows, y->product);
    ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq), 0);
    feed(&r, seq, tokens, n, y->chunk, y->marked, logits);
    kv_seq_free(r.kv, &seq);
    rig_close(&r);
    return logits;
}

static void fill_tokens(int32_t *t, int n, int vocab)
{
    for (int i = 0; i < n; i++)
        t[i] = rand() % vocab;
}

/* Of rows [from, to): the worst difference as a part of the deviation of b. */
static double worst_of(const float *a, const double *b, int from, int to, int vocab)
{
    double mean = 0, var = 0, worst = 0, n = (double)(to - from) * vocab;
    for (size_t i = (size_t)from * (size_t)vocab; i < (size_t)to * (size_t)vocab; i++)
        mean += b[i] / n;
    for (size_t i = (size_t)from * (size_t)vocab; i < (size_t)to * (size_t)vocab; i++)
        var += (b[i] - mean) * (b[i] - mean) / n;
    for (size_t i = (size_t)from * (size_t)vocab; i < (size_t)to * (size_t)vocab; i++)
        worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst / sqrt(var);
}

START_TEST(test_reference)
{
    enum { N = 560, MARKED = 528 }; /* over a piece boundary, then a tail of the other scheme */
    struct model_config c = base;
    int32_t tokens[N];
    struct tiny t;
    switch (_i / 2) {
    case 0:
        break;
    case 1: /* no q_lora, more heads than an item takes */
        c.q_lora_rank = 0;
        c.num_attention_heads = 21;
        c.rope_interleave = false;
        break;
    case 2: /* value wider than latent */
        c.v_head_dim = 34;
        c.qk_nope_head_dim = 32;
        c.kv_lora_rank = 8;
        break;
    default: /* two attentions a layer, scaled latents */
        c.num_hidden_layers = 4;
        c.attentions_per_layer = 2;
        c.n_routed_experts = 4;
        c.num_experts_per_tok = 4; /* all: no near ties */
        c.n_group = c.topk_group = 1;
        c.routed_scaling_factor = 1.0f;
        c.moe_intermediate_size = 18;
        c.gating = GATING_SOFTMAX;
        c.latent_norm_eps = 1e-3f;
        c.mla_scale_q_lora = 1.3f;
        c.mla_scale_kv_lora = 1.4f;
        break;
    }
    double *want = malloc((size_t)N * (size_t)c.vocab_size * sizeof(double));
    tiny_new(&t, &c, _i % 2, seed);
    fill_tokens(tokens, N, c.vocab_size);
    tiny_reference(&t, tokens, N, want);
    for (int level = 0; level < CPU_LEVEL_MAX; level++) {
        if (!kern_level_built((enum cpu_level)level))
            continue;
        struct way y = {(enum cpu_level)level, CACHE_F32, 2, 100, 0, MARKED, 0};
        float *got = run_prompt(&t.ck, &y, tokens, N);
        double worst = worst_of(got, want, 0, N, c.vocab_size);
        double most = kern_table((enum cpu_level)level)->attn_bf16 ? 0.2 : 2e-4; /* bfloat16 operands */
        ck_assert_msg(worst < most, "level %s: worst logit error %g of the deviation (seed %llu)",
                      cpu_level_name((enum cpu_level)level), worst, seed);
        free(got);
        /* queries by a product of their matrices: near the same, whole or in pieces */
        for (int product = MLA_PRODUCT_KEPT; product <= MLA_PRODUCT_MADE; product++) {
            struct way whole = {(enum cpu_level)level, CACHE_F32, 2, 100, 0, 0, product};
            struct way pieces = {(enum cpu_level)level, CACHE_F32, 1, 7, 3, 0, product};
            got = run_prompt(&t.ck, &whole, tokens, 150);
            float *again = run_prompt(&t.ck, &pieces, tokens, 150);
            worst = worst_of(got, want, 0, 150, c.vocab_size);
            ck_assert_msg(worst < most, "level %s, product %d: worst logit error %g (seed %llu)",
                          cpu_level_name((enum cpu_level)level), product, worst, seed);
            ck_assert(!memcmp(got, again, 150 * (size_t)c.vocab_size * sizeof(float)));
            free(got);
            free(again);
        }
    }
    free(want);
    tiny_free(&t);
}
END_TEST

/* Every type of cache row and of weights: the two schemes differ by rounding only, and they do differ. */
START_TEST(test_types)
{
    enum { N = 600, MARKED = 592 };
    const double bound[] = {[CACHE_BF16] = 0.15, [CACHE_F32] = 0.15, [CACHE_INT8] = 0.2, [CACHE_FP8] = 0.6,
                            [CACHE_INT4] = 0.8};
    enum cache_type type = (enum cache_type)(_i % 5);
    struct model_config c = base;
    struct checkpoint mixed;
    int32_t tokens[N];
    struct tiny t;
    c.hidden_size = c.intermediate_size = 64;
    c.q_lora_rank = c.kv_lora_rank = c.qk_nope_head_dim = c.v_head_dim = 32;
    size_t n = (size_t)N * (size_t)c.vocab_size;
    double *want = malloc(n * sizeof(double));
    tiny_new(&t, &c, _i / 5 % 2, seed + (unsigned)_i);
    tiny_mix(&t, &mixed);
    fill_tokens(tokens, N, c.vocab_size);
    for (int level = 0; level < CPU_LEVEL_MAX; level++) {
        if (!kern_level_built((enum cpu_level)level))
            continue;
        struct way y = {(enum cpu_level)level, type, 2, 100, 100, MARKED, 0};
        float *got = run_prompt(&mixed, &y, tokens, N);
        y.marked = 0;
        float *absorbed = run_prompt(&mixed, &y, tokens, N);
        for (size_t i = 0; i < n; i++)
            want[i] = (double)absorbed[i];
        double worst = worst_of(got, want, 0, N, c.vocab_size);
        printf("# %s, cache type %d: schemes differ by %.4f of the deviation\n",
               cpu_level_name((enum cpu_level)level), (int)type, worst);
        ck_assert_msg(worst < bound[type] && worst > 0, "level %s: %g of the deviation (seed %llu)",
                      cpu_level_name((enum cpu_level)level), worst, seed);
        free(got);
        free(absorbed);
    }
    free(want);
    tiny_free(&t);
}
END_TEST

START_TEST(test_bit_for_bit)
{
    enum { N = 1100, MARKED = 1024 }; /* over two piece boundaries */
    enum cpu_level level = (enum cpu_level)_i;
    struct model_config c = base;
    struct tiny t;
    int32_t tokens[N];
    if (!kern_level_built(level))
        return;
    size_t bytes = (size_t)N * (size_t)c.vocab_size * sizeof(float);
    tiny_new(&t, &c, 1, seed);
    fill_tokens(tokens, N, c.vocab_size);
    struct way y = {level, CACHE_BF16, 1, 400, 400, MARKED, 0};
    float *a = run_prompt(&t.ck, &y, tokens, N);
    const int chunks[] = {0, 7, 33, 300};
    for (int k = 0; k < 4; k++) {
        y.chunk = chunks[k];
        y.threads = 1 + k;
        float *b = run_prompt(&t.ck, &y, tokens, N);
        ck_assert_msg(memcmp(a, b, bytes) == 0, "chunks of %d, %d threads (seed %llu)", chunks[k], 1 + k,
                      seed);
        free(b);
    }
    free(a);
    tiny_free(&t);
}
END_TEST

/* So many heads that the rows of a chunk go in parts, in both schemes, and so wide a middle that its
 * rows go in
 * lots: of the dense block, then also of experts. */
START_TEST(test_parts)
{
    enum { N = 600 };
    enum cpu_level level = cpu_detect();
    struct model_config c = base;
    struct tiny t;
    int32_t tokens[N];
    c.num_hidden_layers = 1;
    c.num_attention_heads = 300;
    c.intermediate_size = 4000;
    if (_i == 1) {
        c.num_attention_heads = 3;
        c.n_routed_experts = 4;
        c.num_experts_per_tok = 2;
        c.moe_intermediate_size = 1500;
        c.n_shared_experts = c.n_group = c.topk_group = 1;
        c.gating = GATING_SIGMOID;
        c.routed_scaling_factor = 1.0f;
    }
    size_t bytes = (size_t)N * (size_t)c.vocab_size * sizeof(float);
    tiny_new(&t, &c, 0, seed);
    fill_tokens(tokens, N, c.vocab_size);
    for (int marked = 0; marked <= N; marked += N) {
        struct way y = {level, CACHE_BF16, 2, N, N, marked, 0};
        float *a = run_prompt(&t.ck, &y, tokens, N);
        y.chunk = 75;
        float *b = run_prompt(&t.ck, &y, tokens, N);
        ck_assert_msg(memcmp(a, b, bytes) == 0, "%d decompressed (seed %llu)", marked, seed);
        free(a);
        free(b);
    }
    tiny_free(&t);
}
END_TEST

/* What a step of 512 tokens of GLM-4.7-Flash takes beside weights and cache, on two threads. */
START_TEST(test_memory)
{
    const struct model_config c = {
        .vocab_size = 154880, .hidden_size = 2048, .num_hidden_layers = 47, .num_attention_heads = 20,
        .q_lora_rank = 768, .kv_lora_rank = 512, .qk_nope_head_dim = 192, .qk_rope_head_dim = 64,
        .v_head_dim = 256, .intermediate_size = 10240, .moe_intermediate_size = 1536,
        .n_routed_experts = 64, .num_experts_per_tok = 4, .n_shared_experts = 1,
        .first_k_dense_replace = 1, .rope_theta = 1e6f, .max_position_embeddings = 202752,
    };
    const int rows[] = {512, 2048}, positions[] = {4096, 32768};
    uint64_t bytes[2];
    for (int i = 0; i < 8; i++) {
        struct scratch scratch = {0};
        struct step_limits lim = {.max_rows = rows[i / 4], .max_seqs = 64, .n_threads = 2,
                                  .max_position = positions[i % 2], .page_tokens = 32,
                                  .row_type = TT_BF16, .decompressed = i / 2 % 2 == 1, .scratch = &scratch};
        struct ffn_work *ffn = NULL;
        void *mla = NULL;
        ck_assert_int_eq(attention_mla.work_new(&c, NULL, 0, &lim, &mla), 0);
        ck_assert_int_eq(ffn_work_new(&c, &lim, &ffn), 0);
        bytes[i % 2] = scratch.n_bytes + attention_mla.work_bytes(mla) + ffn_work_bytes(ffn) +
                       (uint64_t)lim.max_rows * (uint64_t)(c.hidden_size
                           + c.qk_rope_head_dim) * sizeof(float);
        printf("# %d tokens a step, %d positions%s: %.1f MiB, %.1f of them shared\n", lim.max_rows,
               lim.max_position, lim.decompressed ? ", decompressed" : "", (double)bytes[i % 2] / (1 << 20),
               (double)scratch.n_bytes / (1 << 20));
        if (i % 2) /* nothing grows with the context */
            ck_assert_uint_eq(bytes[0], bytes[1]);
        fflush(stdout);
        if (lim.max_rows == 512)
            ck_assert_uint_lt(bytes[i % 2], (uint64_t)64 << 20);
        attention_mla.work_free(mla);
        ffn_work_free(ffn);
    }
}
END_TEST

/* Sequences of both schemes in one batch, at different phases, against each alone; the first of a batch
 * perhaps in slices beside the others, which stop wherever they can. */
START_TEST(test_batched)
{
    enum { SEQS = 4, N = 700 };
    const int marked[SEQS] = {512, 0, 688, 528};
    enum cpu_level level = (enum cpu_level)_i;
    struct model_config c = base;
    struct tiny t;
    struct rig r;
    int32_t tokens[SEQS][N];
    struct kv_seq *seq[SEQS];
    float *alone[SEQS];
    if (!kern_level_built(level))
        return;
    size_t vocab = (size_t)c.vocab_size;
    tiny_new(&t, &c, 0, seed);
    for (int s = 0; s < SEQS; s++) {
        fill_tokens(tokens[s], N, c.vocab_size);
        struct way y = {level, CACHE_BF16, 2, 256, 256, marked[s], 0};
        alone[s] = run_prompt(&t.ck, &y, tokens[s], N);
    }
    rig_open(&r, &t.ck, level, 2, CACHE_BF16, 256, 0); /* fewer than heads */
    float *logits = malloc(256 * vocab * sizeof(float));
    int n_stopped = 0;
    for (int s = 0; s < SEQS; s++)
        ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq[s]), 0);
    for (int left = SEQS * N; left > 0;) {
        struct forward_seq fs[SEQS];
        int who[SEQS], n = 0;
        for (int s = 0; s < SEQS; s++) {
            int at = (int)kv_seq_length(seq[s]), m = 1 + rand() % (256 / SEQS);
            if (at == N || rand() % 4 == 0)
                continue;
            who[n] = s;
            fs[n++] = next(&r, seq[s], tokens[s], m > N - at ? N - at : m, marked[s]);
        }
        if (!n)
            continue;
        int sliced = n > 1 ? rand() % 2 : 0;
        struct forward_batch first = {1, fs, logits};
        float *others = logits + (size_t)sliced * (size_t)fs[0].n_tokens * vocab;
        struct forward_batch b = {n - sliced, fs + sliced, others};
        kv_step_begin(r.kv);
        if (sliced)
            ck_assert_int_eq(model_begin(r.model, &first), 0);
        for (int k = 0, to_do = sliced ? model_parts(r.model) : 0; k == 0 || to_do > 0; k++) {
            int before = to_do;
            bool stops = sliced && model_part_stops(r.model, model_parts(r.model) - to_do);
            if (sliced) {
                to_do = model_continue(r.model, 0);
                ck_assert(to_do == before - 1 || (to_do == before && stops));
                n_stopped += to_do == before;
            }
            if (k % 3 == 0)
                ck_assert_int_eq(model_forward(r.model, &b), 0);
        }
        const float *got = logits;
        for (int i = 0; i < n; i++) {
            size_t floats = (size_t)fs[i].n_tokens * vocab;
            ck_assert_msg(memcmp(got, alone[who[i]] + (size_t)fs[i].position * vocab,
                                 floats * sizeof(float)) == 0,
                          "sequence %d at %d (seed %llu)", who[i], fs[i].position, seed);
            got += floats;
            kv_seq_commit(r.kv, seq[who[i]], fs[i].tokens, (uint32_t)fs[i].n_tokens);
            left -= fs[i].n_tokens;
        }
        kv_step_end(r.kv);
    }
    ck_assert_int_gt(n_stopped, 0);
    for (int s = 0; s < SEQS; s++) {
        kv_seq_free(r.kv, &seq[s]);
        free(alone[s]);
    }
    rig_close(&r);
    free(logits);
    tiny_free(&t);
}
END_TEST

/* A short prompt, then longer ones that begin with it: each finds what was made its own way, and no more. */
START_TEST(test_shared_pages)
{
    enum { N = 1100, BLOCK = 512, SHORT = 700 };
    struct model_config c = base;
    struct tiny t;
    struct rig r;
    struct kv_seq *seq = NULL;
    int32_t tokens[N];
    const struct {
        int n, found;
    } prompts[] = {
        {400, 0},                  /* absorbed all */
        {SHORT, 0},                /* its first block is decompressed */
        {SHORT, 688},              /* all whole pages but the token to compute */
        {N, BLOCK},                /* its second block too: that of the last was absorbed */
        {400, 399},                /* still there, the last page but the token to compute copied */
        {N, 1088},
    };
    size_t vocab = (size_t)c.vocab_size;
    tiny_new(&t, &c, 0, seed);
    fill_tokens(tokens, N, c.vocab_size);
    rig_open(&r, &t.ck, CPU_GENERIC, 2, CACHE_BF16, 128, 0);
    float *got = malloc(N * vocab * sizeof(float));
    for (size_t i = 0; i < sizeof(prompts) / sizeof(*prompts); i++) {
        int n = prompts[i].n, marked = n / BLOCK * BLOCK;
        struct way y = {CPU_GENERIC, CACHE_BF16, 1, 100, 100, marked, 0};
        float *cold = run_prompt(&t.ck, &y, tokens, n);
        ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq), 0);
        kv_seq_set_ways(r.kv, seq, (uint32_t[KV_WAYS]){(uint32_t)marked});
        int found = (int)kv_seq_match(r.kv, seq, tokens, (uint32_t)n, (uint32_t)n - 1);
        ck_assert_int_eq(found, prompts[i].found);
        feed(&r, seq, tokens, n, 0, marked, got);
        ck_assert_msg(memcmp(cold + (size_t)found * vocab, got + (size_t)found * vocab,
                             (size_t)(n - found) * vocab * sizeof(float)) == 0,
                      "prompt %zu (seed %llu)", i, seed);
        kv_seq_free(r.kv, &seq);
        free(cold);
    }
    rig_close(&r);
    free(got);
    tiny_free(&t);
}
END_TEST

/* A model that was not told to be ready for it refuses. */
START_TEST(test_not_ready)
{
    struct tiny t;
    struct err e = {0};
    struct pool *pool = NULL;
    struct model *m = NULL;
    struct kv *kv = NULL;
    struct kv_seq *seq = NULL;
    int32_t token = 1;
    float logits[128];
    struct model_options o = {.page_tokens = PAGE_TOKENS, .max_batch_tokens = 4, .max_logit_rows = 1,
                              .max_seqs = 1, .max_position = 64};
    tiny_new(&t, &base, 1, seed);
    ck_assert_int_eq(pool_new(1, 0, &pool, &e), 0);
    ck_assert_int_eq(model_new(&t.ck, &o, pool, &m, &e), 0);
    struct kv_config kc = {.page_tokens = PAGE_TOKENS, .pool_bytes = 1u << 20, .max_seqs = 1,
                           .max_seq_tokens = 64};
    kc.planes = model_planes(m, &kc.n_planes);
    ck_assert_int_eq(kv_open(&kc, &kv, &e), 0);
    ck_assert_int_eq(model_bind_cache(m, kv, &e), 0);
    ck_assert_int_eq(kv_seq_new(kv, 0, &seq), 0);
    ck_assert_int_eq(kv_seq_reserve(kv, seq, 1), 0);
    struct forward_seq s = {kv_seq_pages(seq, NULL), 0, 1, &token, 1, true, false};
    struct forward_batch b = {1, &s, logits};
    ck_assert_int_eq(model_forward(m, &b), ERR_INVAL);
    s.decompressed = false;
    ck_assert_int_eq(model_forward(m, &b), 0);
    kv_seq_free(kv, &seq);
    kv_close(&kv);
    model_free(&m);
    pool_free(&pool);
    tiny_free(&t);
}
END_TEST

int main(void)
{
    const char *s = getenv("LATENT_TEST_SEED");
    seed = s ? strtoull(s, NULL, 10) : (unsigned long long)time(NULL);
    srand((unsigned)seed);
    printf("# seed %llu (LATENT_TEST_SEED)\n", seed);
    fflush(stdout);
    Suite *suite = suite_create("scheme");
    TCase *tc = tcase_create("scheme");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_reference, 0, 8);
    tcase_add_loop_test(tc, test_types, 0, 10);
    tcase_add_loop_test(tc, test_bit_for_bit, 0, CPU_LEVEL_MAX);
    tcase_add_loop_test(tc, test_parts, 0, 2);
    tcase_add_test(tc, test_memory);
    tcase_add_loop_test(tc, test_batched, 0, CPU_LEVEL_MAX);
    tcase_add_test(tc, test_shared_pages);
    tcase_add_test(tc, test_not_ready);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
