/* tests/forward/t_forward.c - the forward pass against a float64 reference on random tiny models, and
 * the bit-for-bit rule: chunking, batching, threads and order change nothing. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/forward.h"
#include "engine/kernels/kern.h"
#include "tests/forward/tiny.h"

#define MAX_ROWS 64
#define PAGE_TOKENS 16
#define BF16_TOLERANCE 0.1 /* of the deviation: a logit where rows or operands are rounded to bfloat16 */

static unsigned long long seed;

static const struct model_config base = {
    .architecture = "deepseek_v3",
    .vocab_size = 97,
    .hidden_size = 40,
    .num_hidden_layers = 3,
    .num_attention_heads = 3,
    .q_lora_rank = 24,
    .kv_lora_rank = 20,
    .qk_nope_head_dim = 12,
    .qk_rope_head_dim = 6,
    .v_head_dim = 10,
    .intermediate_size = 56,
    .moe_intermediate_size = 18,
    .n_routed_experts = 8,
    .num_experts_per_tok = 3,
    .n_shared_experts = 1,
    .first_k_dense_replace = 1,
    .gating = GATING_SIGMOID,
    .n_group = 1,
    .topk_group = 1,
    .norm_topk_prob = true,
    .routed_scaling_factor = 1.5f,
    .rms_norm_eps = 1e-6f,
    .rope_theta = 1000.0f,
    .rope_interleave = true,
    .max_position_embeddings = 2048,
};

/* Kinds of layers: as above; sparse attention with its second stream; two attentions a layer, experts
 * on a shortcut, some of them identity. */
enum { PLAIN, SPARSE, SHORTCUT, N_KINDS };

static struct model_config config_of(int kind)
{
    struct model_config c = base;
    switch (kind) {
    case SPARSE:
        c.index_n_heads = 21;
        c.index_head_dim = 10;
        c.index_topk = 9;
        break;
    case SHORTCUT:
        c.num_hidden_layers = 4;
        c.attentions_per_layer = 2;
        c.first_k_dense_replace = 0;
        c.n_shared_experts = 0;
        c.zero_expert_num = 4;
        c.gating = GATING_SOFTMAX;
        c.norm_topk_prob = false;
        c.latent_norm_eps = 1e-3f;
        c.mla_scale_q_lora = 1.3f;
        c.mla_scale_kv_lora = 1.4f;
        break;
    default:
        break;
    }
    return c;
}

struct rig {
    struct pool *pool;
    struct model *model;
    struct kv *kv;
};

static void rig_open(struct rig *r, const struct checkpoint *ck, enum cpu_level level, int threads,
                     enum cache_type type)
{
    struct err e = {0};
    struct model_options o = {
        .level = level,
        .cache_type = type,
        .page_tokens = PAGE_TOKENS,
        .max_batch_tokens = MAX_ROWS,
        .max_logit_rows = MAX_ROWS,
        .max_seqs = 8,
        .max_position = 2048,
    };
    ck_assert_int_eq(pool_new(threads, 0, &r->pool, &e), 0);
    ck_assert_msg(model_new(ck, &o, r->pool, &r->model, &e) == 0, "%s", e.text);
    struct kv_config kc = {.page_tokens = PAGE_TOKENS, .pool_bytes = 16u << 20, .max_seqs = 16,
                           .max_seq_tokens = 2048};
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

static int n_rounded; /* positions of every sequence whose products are rounded */

/* A chunk of at most m tokens from `at` on, of one kind. */
static int one_kind(int at, int m)
{
    return at < n_rounded && at + m > n_rounded ? n_rounded - at : m;
}

/* Feeds tokens in chunks of at most `chunk` (0: random sizes) and keeps the logits of every token. */
static void feed(struct rig *r, struct kv_seq *seq, const int32_t *tokens, int n, int chunk,
                 float *logits)
{
    int vocab = model_config(r->model)->vocab_size;
    for (int at = 0; at < n;) {
        int m = chunk ? chunk : 1 + rand() % 20;
        if (m > n - at)
            m = n - at;
        m = one_kind(at, m);
        ck_assert_int_eq(kv_seq_reserve(r->kv, seq, (uint32_t)m), 0);
        struct forward_seq s = {kv_seq_pages(seq, NULL), at, m, tokens + at, m, false, at < n_rounded};
        struct forward_batch b = {1, &s, logits + (size_t)at * (size_t)vocab};
        kv_step_begin(r->kv);
        ck_assert_int_eq(model_forward(r->model, &b), 0);
        kv_seq_commit(r->kv, seq, tokens + at, (uint32_t)m);
        kv_step_end(r->kv);
        at += m;
    }
}

static void run_prompt(const struct checkpoint *ck, enum cpu_level level, int threads,
                       enum cache_type type, const int32_t *tokens, int n, int chunk, float *logits)
{
    struct rig r;
    struct kv_seq *seq = NULL;
    rig_open(&r, ck, level, threads, type);
    ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq), 0);
    feed(&r, seq, tokens, n, chunk, logits);
    kv_seq_free(r.kv, &seq);
    rig_close(&r);
}

static void fill_tokens(int32_t *t, int n, int vocab)
{
    for (int i = 0; i < n; i++)
        t[i] = rand() % vocab;
}

/* gap: least difference of index scores that decide; below it rounding may choose another row, which is
 * another function. */
static void compare_long(const struct model_config *c, int split_kv_b, int n_tokens, double gap,
                         double tolerance, enum cache_type type)
{
    struct tiny t;
    int32_t *tokens = malloc((size_t)n_tokens * sizeof(*tokens));
    unsigned long long s = seed;
    size_t n = (size_t)n_tokens * (size_t)c->vocab_size;
    double *want = malloc(n * sizeof(double)), mean = 0, var = 0;
    float *got = malloc(n * sizeof(float));
    for (;; s++) {
        tiny_new(&t, c, split_kv_b, s);
        fill_tokens(tokens, n_tokens, c->vocab_size);
        tiny_reference(&t, tokens, n_tokens, want);
        if (t.least_gap > gap)
            break;
        tiny_free(&t);
    }
    for (size_t i = 0; i < n; i++)
        mean += want[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        var += (want[i] - mean) * (want[i] - mean) / (double)n;
    for (int level = 0; level < CPU_LEVEL_MAX; level++) {
        if (!kern_level_built((enum cpu_level)level))
            continue;
        run_prompt(&t.ck, (enum cpu_level)level, 2, type, tokens, n_tokens, 0, got);
        double worst = 0;
        size_t far = 0;
        for (size_t i = 0; i < n; i++) {
            double off = fabs((double)got[i] - want[i]) / sqrt(var);
            worst = fmax(worst, off);
            far += !(off < fmax(tolerance, BF16_TOLERANCE));
        }
        /* operands rounded to bfloat16: a token whose router is near a tie may get another expert */
        ck_assert_msg(kern_table((enum cpu_level)level)->attn_bf16 ? far * 2 < n : worst < tolerance,
                      "level %s: worst logit error %g of the deviation, %zu of %zu far off (seed %llu)",
                      cpu_level_name((enum cpu_level)level), worst, far, n, seed);
    }
    free(want);
    free(got);
    free(tokens);
    tiny_free(&t);
}

static void compare_with_reference(const struct model_config *c, int split_kv_b, double tolerance,
                                   enum cache_type type)
{
    compare_long(c, split_kv_b, 37, 2e-5, tolerance, type);
}

START_TEST(test_reference)
{
    struct model_config c = base;
    compare_with_reference(&c, _i, 1e-4, CACHE_F32);
}
END_TEST

START_TEST(test_reference_variants)
{
    struct model_config c = base;
    switch (_i) {
    case 0: /* no q_lora, halves, tied */
        c.q_lora_rank = 0;
        c.rope_interleave = false;
        c.tie_word_embeddings = true;
        break;
    case 1: /* groups, no shared expert, weights as they are */
        c.n_group = 4;
        c.topk_group = 2;
        c.n_shared_experts = 0;
        c.norm_topk_prob = false;
        break;
    case 2: /* dense, one head, sizes of one group exactly */
        c.n_routed_experts = 0;
        c.num_experts_per_tok = 0;
        c.n_shared_experts = 0;
        c.num_attention_heads = 1;
        c.hidden_size = 16;
        c.kv_lora_rank = 16;
        break;
    case 3: /* more heads than lanes, two shared experts, no dense layer */
        c.num_attention_heads = 21;
        c.n_shared_experts = 2;
        c.first_k_dense_replace = 0;
        break;
    case 4:
        c = config_of(SPARSE);
        break;
    case 5:
        c = config_of(SHORTCUT);
        break;
    case 6: /* one index head, experts that are all identity but one, shared */
        c = config_of(SPARSE);
        c.index_n_heads = 1;
        c.n_routed_experts = 3;
        c.zero_expert_num = 9;
        c.gating = GATING_SOFTMAX;
        break;
    default: /* value wider than latent */
        c.v_head_dim = 33;
        c.qk_nope_head_dim = 31;
        c.kv_lora_rank = 7;
        break;
    }
    compare_with_reference(&c, 1, 1e-4, CACHE_F32);
}
END_TEST

/* Any type for any matrix. All experts are taken, so that no router near a tie makes another function of
 * the rounding of activations; what is left is far below what one matrix read in the wrong form does. */
START_TEST(test_mixed_types)
{
    enum { N = 20 };
    struct model_config c = base;
    struct checkpoint mixed;
    struct tiny t;
    int32_t tokens[N];
    c.hidden_size = c.intermediate_size = 64;
    c.q_lora_rank = c.kv_lora_rank = c.qk_nope_head_dim = c.v_head_dim = c.moe_intermediate_size = 32;
    c.num_experts_per_tok = c.n_routed_experts;
    size_t n = (size_t)N * (size_t)c.vocab_size;
    double *want = malloc(n * sizeof(double)), sum = 0, squares = 0;
    float *got = malloc(n * sizeof(float)), *again = malloc(n * sizeof(float));
    tiny_new(&t, &c, 0, seed + (unsigned)_i);
    tiny_mix(&t, &mixed);
    fill_tokens(tokens, N, c.vocab_size);
    tiny_reference(&t, tokens, N, want);
    for (size_t i = 0; i < n; i++)
        sum += want[i];
    for (size_t i = 0; i < n; i++)
        squares += (want[i] - sum / (double)n) * (want[i] - sum / (double)n);
    for (int level = 0; level < CPU_LEVEL_MAX; level++) {
        double worst = 0;
        if (!kern_level_built((enum cpu_level)level))
            continue;
        run_prompt(&mixed, (enum cpu_level)level, 2, CACHE_F32, tokens, N, 0, got);
        for (size_t i = 0; i < n; i++)
            worst = fmax(worst, fabs((double)got[i] - want[i]) / sqrt(squares / (double)n));
        ck_assert_msg(worst < 0.25, "level %s: worst logit error %g of the deviation (seed %llu)",
                      cpu_level_name((enum cpu_level)level), worst, seed);
        printf("# mixed types, %s: worst error %.3f of the deviation\n",
               cpu_level_name((enum cpu_level)level), worst);
        run_prompt(&mixed, (enum cpu_level)level, 1, CACHE_F32, tokens, N, 3, again);
        ck_assert_msg(memcmp(got, again, n * sizeof(float)) == 0, "chunks of 3 differ (seed %llu)", seed);
    }
    free(want);
    free(got);
    free(again);
    tiny_free(&t);
}
END_TEST

/* More chosen rows than one piece holds, and a context of more pages than one item scores. */
START_TEST(test_reference_long)
{
    struct model_config c = config_of(SPARSE);
    c.num_hidden_layers = 1; /* deeper, near ties of the index scores would be everywhere */
    c.index_topk = 1040;
    compare_long(&c, 0, 1060, 4e-6, 1e-4, CACHE_F32);
}
END_TEST

START_TEST(test_rounded_rows)
{
    /* Rounding rows to 8 bits of mantissa, or to 8 bits, moves logits, but not far. Dense: a router near a
     * tie may choose another expert, which is another function. */
    static const enum cache_type types[] = {CACHE_BF16, CACHE_INT8, CACHE_FP8, CACHE_INT4};
    static const double bounds[] = {BF16_TOLERANCE, 0.2, 0.8, 2.0}; /* a third of it is usual */
    struct model_config c = base;
    c.kv_lora_rank += c.kv_lora_rank % 2;
    c.n_routed_experts = 0;
    c.num_experts_per_tok = 0;
    c.n_shared_experts = 0;
    compare_with_reference(&c, 1, bounds[_i], types[_i]);
}
END_TEST

START_TEST(test_bit_for_bit)
{
    enum { N = 1100 }; /* over two piece boundaries */
    enum cpu_level level = (enum cpu_level)(_i / N_KINDS);
    enum cache_type type = (enum cache_type)(_i % 5);
    struct model_config c = config_of(_i % N_KINDS);
    struct tiny t;
    int32_t tokens[N];
    if (!kern_level_built(level))
        return;
    c.num_hidden_layers = 2;
    if (c.index_topk)
        c.index_topk = 700; /* over one piece boundary */
    size_t n = (size_t)N * (size_t)c.vocab_size;
    float *a = malloc(n * sizeof(float)), *b = malloc(n * sizeof(float));
    tiny_new(&t, &c, 1, seed);
    fill_tokens(tokens, N, c.vocab_size);
    n_rounded = rand() % 2 ? rand() % N : 0;
    run_prompt(&t.ck, level, 1, type, tokens, N, MAX_ROWS, a);
    const int chunks[] = {1, 0, 7, 33};
    for (int k = 0; k < (_i % N_KINDS == PLAIN ? 4 : 2); k++) {
        memset(b, 0, n * sizeof(float));
        run_prompt(&t.ck, level, 1 + k, type, tokens, N, chunks[k], b);
        ck_assert_msg(memcmp(a, b, n * sizeof(float)) == 0,
                      "chunks of %d, %d threads, %d rounded (seed %llu)", chunks[k], 1 + k, n_rounded, seed);
    }
    n_rounded = 0;
    free(a);
    free(b);
    tiny_free(&t);
}
END_TEST

/* Commits the tokens of *s, whose logits are as those of the sequence alone. */
static void take(struct rig *r, const struct forward_seq *s, struct kv_seq *seq, const float *got,
                 const float *alone)
{
    size_t vocab = (size_t)model_config(r->model)->vocab_size;
    size_t first = (size_t)(s->position + s->n_tokens - s->n_logits);
    ck_assert_msg(memcmp(got, alone + first * vocab, (size_t)s->n_logits * vocab * sizeof(float)) == 0,
                  "%d tokens at %d (seed %llu)", s->n_tokens, s->position, seed);
    kv_seq_commit(r->kv, seq, s->tokens, (uint32_t)s->n_tokens);
}

/* Several sequences of different lengths in one batch, at different phases, and one beside them in slices of
 * layers, against each alone. */
START_TEST(test_batched)
{
    enum { SEQS = 5, N = 90 };
    enum cpu_level level = (enum cpu_level)(_i / N_KINDS);
    enum cache_type type = (enum cache_type)(_i % 4);
    struct model_config c = config_of(_i % N_KINDS);
    struct tiny t;
    struct rig r;
    int32_t tokens[SEQS][N];
    struct kv_seq *seq[SEQS];
    int at[SEQS] = {0};
    if (!kern_level_built(level))
        return;
    size_t vocab = (size_t)c.vocab_size;
    float *alone = malloc(SEQS * N * vocab * sizeof(float));
    float *logits = malloc(MAX_ROWS * vocab * sizeof(float));
    float *sliced = malloc(MAX_ROWS * vocab * sizeof(float));
    struct forward_seq slice = {0};
    struct forward_batch slices = {1, &slice, sliced};
    int in_slices = -1, n_slices = 0;
    tiny_new(&t, &c, 0, seed);
    n_rounded = rand() % 2 ? rand() % N : 0;
    for (int s = 0; s < SEQS; s++) {
        fill_tokens(tokens[s], N, c.vocab_size);
        run_prompt(&t.ck, level, 2, type, tokens[s], N, 11, alone + (size_t)s * N * vocab);
    }
    rig_open(&r, &t.ck, level, 2, type);
    for (int s = 0; s < SEQS; s++)
        ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq[s]), 0);
    for (;;) {
        struct forward_seq fs[SEQS];
        int who[SEQS], n = 0;
        for (int i = 0; i < 2 * SEQS; i++) { /* the rounded ones first */
            int s = i % SEQS;
            bool round = i < SEQS;
            if (at[s] == N || s == in_slices || (at[s] < n_rounded) != round || rand() % 4 == 0)
                continue;
            int m = 1 + rand() % 12;
            m = one_kind(at[s], m > N - at[s] ? N - at[s] : m);
            ck_assert_int_eq(kv_seq_reserve(r.kv, seq[s], (uint32_t)m), 0);
            if (in_slices < 0 && rand() % 8 == 0) {
                in_slices = s;
                slice = (struct forward_seq){kv_seq_pages(seq[s], NULL), at[s], m, tokens[s] + at[s],
                                             rand() % (m + 1), false, round};
                ck_assert_int_eq(model_begin(r.model, &slices), 0);
                continue;
            }
            who[n] = s;
            fs[n++] = (struct forward_seq){kv_seq_pages(seq[s], NULL), at[s], m, tokens[s] + at[s],
                                           rand() % (m + 1), false, round};
        }
        int left = 0;
        for (int s = 0; s < SEQS; s++)
            left += N - at[s];
        if (!left)
            break;
        struct forward_batch b = {n, fs, logits};
        kv_step_begin(r.kv);
        if (n)
            ck_assert_int_eq(model_forward(r.model, &b), 0);
        const float *got = logits;
        for (int i = 0; i < n; i++) {
            take(&r, &fs[i], seq[who[i]], got, alone + (size_t)who[i] * N * vocab);
            got += (size_t)fs[i].n_logits * vocab;
            at[who[i]] += fs[i].n_tokens;
        }
        int to_do = in_slices < 0 ? 1 : model_continue(r.model, 0);
        if (to_do == 0) {
            take(&r, &slice, seq[in_slices], sliced, alone + (size_t)in_slices * N * vocab);
            at[in_slices] += slice.n_tokens;
            in_slices = -1;
            n_slices++;
        }
        ck_assert_int_ge(to_do, 0);
        kv_step_end(r.kv);
    }
    ck_assert_int_gt(n_slices, 0);
    ck_assert_int_eq(model_continue(r.model, 0), ERR_INVAL);
    n_rounded = 0;
    for (int s = 0; s < SEQS; s++)
        kv_seq_free(r.kv, &seq[s]);
    rig_close(&r);
    free(alone);
    free(logits);
    free(sliced);
    tiny_free(&t);
}
END_TEST

/* Pages that another sequence left in the cache, instead of the beginning of a prompt. */
START_TEST(test_shared_prefix)
{
    enum { N = 120, PREFIX = 5 * PAGE_TOKENS };
    struct model_config c = config_of(_i);
    size_t vocab = (size_t)c.vocab_size, left = (size_t)(N - PREFIX) * vocab;
    int32_t first[N], second[N];
    struct kv_seq *seq = NULL;
    struct tiny t;
    struct rig r;
    float *cold = malloc(N * vocab * sizeof(float)), *warm = malloc(N * vocab * sizeof(float));
    tiny_new(&t, &c, 0, seed);
    fill_tokens(first, N, c.vocab_size);
    fill_tokens(second, N, c.vocab_size);
    memcpy(second, first, PREFIX * sizeof(*first));
    second[PREFIX] = (first[PREFIX] + 1) % c.vocab_size;
    run_prompt(&t.ck, CPU_GENERIC, 1, CACHE_BF16, second, N, 13, cold);
    rig_open(&r, &t.ck, CPU_GENERIC, 1, CACHE_BF16);
    ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq), 0);
    feed(&r, seq, first, N, 0, warm);
    kv_seq_free(r.kv, &seq);
    ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq), 0);
    ck_assert_uint_eq(kv_seq_match(r.kv, seq, second, N, N - 1), PREFIX);
    for (int at = PREFIX; at < N; at++) {
        ck_assert_int_eq(kv_seq_reserve(r.kv, seq, 1), 0);
        struct forward_seq s = {kv_seq_pages(seq, NULL), at, 1, second + at, 1, false, false};
        struct forward_batch b = {1, &s, warm + (size_t)at * vocab};
        kv_step_begin(r.kv);
        ck_assert_int_eq(model_forward(r.model, &b), 0);
        kv_seq_commit(r.kv, seq, second + at, 1);
        kv_step_end(r.kv);
    }
    ck_assert_msg(memcmp(cold + PREFIX * vocab, warm + PREFIX * vocab, left * sizeof(float)) == 0,
                  "kind %d (seed %llu)", _i, seed);
    kv_seq_free(r.kv, &seq);
    rig_close(&r);
    tiny_free(&t);
    free(cold);
    free(warm);
}
END_TEST

START_TEST(test_limits)
{
    struct tiny t;
    struct rig r;
    struct kv_seq *seq = NULL;
    int32_t tokens[MAX_ROWS + 1] = {0};
    float *logits = malloc((size_t)MAX_ROWS * (size_t)base.vocab_size * sizeof(float));
    tiny_new(&t, &base, 1, seed);
    rig_open(&r, &t.ck, CPU_GENERIC, 1, CACHE_BF16);
    ck_assert_int_eq(kv_seq_new(r.kv, 0, &seq), 0);
    ck_assert_int_eq(kv_seq_reserve(r.kv, seq, MAX_ROWS + 1), 0);
    struct forward_seq s = {kv_seq_pages(seq, NULL), 0, MAX_ROWS + 1, tokens, 1, false, false};
    struct forward_batch b = {1, &s, logits};
    ck_assert_int_eq(model_forward(r.model, &b), ERR_INVAL);
    s.n_tokens = 1;
    s.n_logits = 2;
    ck_assert_int_eq(model_forward(r.model, &b), ERR_INVAL);
    s.n_logits = 1;
    tokens[0] = base.vocab_size;
    ck_assert_int_eq(model_forward(r.model, &b), ERR_INVAL);
    tokens[0] = -1;
    ck_assert_int_eq(model_forward(r.model, &b), ERR_INVAL);
    tokens[0] = 0;
    s.position = 2048;
    ck_assert_int_eq(model_forward(r.model, &b), ERR_INVAL);
    s.position = 0;
    ck_assert_int_eq(model_forward(r.model, &b), 0);
    kv_seq_free(r.kv, &seq);
    rig_close(&r);
    tiny_free(&t);
    free(logits);
}
END_TEST

static int stop_at_half(void *arg, float f)
{
    (void)arg;
    return f > 0.0f;
}

START_TEST(test_load_stopped)
{
    struct tiny t;
    struct err e = {0};
    struct pool *pool = NULL;
    struct model *m = NULL;
    struct model_options o = {.page_tokens = 16, .max_batch_tokens = 4, .max_logit_rows = 1,
                              .max_seqs = 1, .max_position = 64, .progress = stop_at_half};
    tiny_new(&t, &base, 1, seed);
    ck_assert_int_eq(pool_new(1, 0, &pool, &e), 0);
    ck_assert_int_eq(model_new(&t.ck, &o, pool, &m, &e), ERR_CANCELED);
    ck_assert_ptr_null(m);
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
    Suite *suite = suite_create("forward");
    TCase *tc = tcase_create("forward");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_reference, 0, 2);
    tcase_add_loop_test(tc, test_mixed_types, 0, 4);
    tcase_add_loop_test(tc, test_reference_variants, 0, 8);
    tcase_add_test(tc, test_reference_long);
    tcase_add_loop_test(tc, test_rounded_rows, 0, 4);
    tcase_add_loop_test(tc, test_bit_for_bit, 0, CPU_LEVEL_MAX * N_KINDS);
    tcase_add_loop_test(tc, test_batched, 0, CPU_LEVEL_MAX * N_KINDS);
    tcase_add_loop_test(tc, test_shared_prefix, 0, N_KINDS);
    tcase_add_test(tc, test_limits);
    tcase_add_test(tc, test_load_stopped);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
