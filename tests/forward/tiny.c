/* tests/forward/tiny.c - see tiny.h. */
#include "config.h"

#include "tests/forward/tiny.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *keep(struct tiny *t, size_t n_bytes)
{
    if (t->n_blocks == (int)(sizeof(t->blocks) / sizeof(t->blocks[0])))
        abort();
    void *p = aligned_alloc(64, (n_bytes + 63) & ~(size_t)63);
    if (!p)
        abort();
    return t->blocks[t->n_blocks++] = p;
}

double tiny_uniform(struct tiny *t)
{
    t->rng ^= t->rng << 13;
    t->rng ^= t->rng >> 7;
    t->rng ^= t->rng << 17;
    return (double)(t->rng >> 11) / 4503599627370496.0 - 1.0;
}

static struct tensor make(struct tiny *t, const char *name, int n0, int n1, int n2, double scale,
                          double offset)
{
    struct tensor x = {.name = name, .type = TT_F32, .n_dims = n2 > 1 ? 3 : n1 > 1 ? 2 : 1};
    size_t n = (size_t)n0 * (size_t)n1 * (size_t)n2;
    float *v = keep(t, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        v[i] = (float)(offset + scale * tiny_uniform(t));
    x.ne[0] = n0;
    x.ne[1] = n1;
    x.ne[2] = n2;
    x.ne[3] = 1;
    x.data = v;
    x.n_bytes = n * sizeof(float);
    return x;
}

static struct tensor projection(struct tiny *t, const char *name, int n_in, int n_out)
{
    return make(t, name, n_in, n_out, 1, 1.7 / sqrt(n_in), 0.0);
}

static struct ffn_tensors block(struct tiny *t, int hidden, int width)
{
    struct ffn_tensors f;
    f.gate = projection(t, "gate", hidden, width);
    f.up = projection(t, "up", hidden, width);
    f.down = projection(t, "down", width, hidden);
    return f;
}

/* k_b[h][j][i] = kv_b[h * (nope + v) + i][j]; v_b[h] = the value rows. */
static void split(struct tiny *t, const struct model_config *c, struct layer_tensors *l)
{
    int nope = c->qk_nope_head_dim, v = c->v_head_dim, r = c->kv_lora_rank;
    int heads = c->num_attention_heads;
    const float *src = l->kv_b.data;
    l->k_b = make(t, "k_b", nope, r, heads, 1.0, 0.0);
    l->v_b = make(t, "v_b", r, v, heads, 1.0, 0.0);
    float *k = (float *)(uintptr_t)l->k_b.data, *u = (float *)(uintptr_t)l->v_b.data;
    for (int h = 0; h < heads; h++) {
        const float *base = src + (size_t)h * (size_t)(nope + v) * (size_t)r;
        for (int i = 0; i < nope; i++)
            for (int j = 0; j < r; j++)
                k[((size_t)h * (size_t)r + (size_t)j) * (size_t)nope + (size_t)i] =
                    base[(size_t)i * (size_t)r + (size_t)j];
        memcpy(u + (size_t)h * (size_t)v * (size_t)r, base + (size_t)nope * (size_t)r,
               (size_t)v * (size_t)r * sizeof(float));
    }
}

static void make_indexer(struct tiny *t, const struct model_config *c, struct layer_tensors *l)
{
    l->attention = "dsa";
    l->index_q = projection(t, "index_q", c->q_lora_rank, c->index_n_heads * c->index_head_dim);
    l->index_k = projection(t, "index_k", c->hidden_size, c->index_head_dim);
    l->index_k_norm = make(t, "index_k_norm", c->index_head_dim, 1, 1, 0.2, 1.0);
    l->index_k_norm_bias = make(t, "index_k_norm_bias", c->index_head_dim, 1, 1, 0.2, 0.0);
    l->index_weights = projection(t, "index_weights", c->hidden_size, c->index_n_heads);
}

void tiny_new(struct tiny *t, const struct model_config *cfg, int split_kv_b,
              unsigned long long seed)
{
    memset(t, 0, sizeof(*t));
    t->rng = seed * 2654435761u + 88172645463325252ull;
    struct checkpoint *ck = &t->ck;
    ck->config = *cfg;
    const struct model_config *c = &ck->config;
    int hidden = c->hidden_size, heads = c->num_attention_heads;
    int qd = heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    ck->token_embd = make(t, "embd", hidden, c->vocab_size, 1, 1.0, 0.0);
    ck->output_norm = make(t, "output_norm", hidden, 1, 1, 0.2, 1.0);
    ck->output = c->tie_word_embeddings ? ck->token_embd
                                        : projection(t, "output", hidden, c->vocab_size);
    ck->layers = keep(t, (size_t)c->num_hidden_layers * sizeof(*ck->layers));
    memset(ck->layers, 0, (size_t)c->num_hidden_layers * sizeof(*ck->layers));
    for (int i = 0; i < c->num_hidden_layers; i++) {
        struct layer_tensors *l = &ck->layers[i];
        l->attn_norm = make(t, "attn_norm", hidden, 1, 1, 0.2, 1.0);
        if (c->q_lora_rank) {
            l->q_a = projection(t, "q_a", hidden, c->q_lora_rank);
            l->q_a_norm = make(t, "q_a_norm", c->q_lora_rank, 1, 1, 0.2, 1.0);
            l->q_b = projection(t, "q_b", c->q_lora_rank, qd);
        } else {
            l->q_proj = projection(t, "q_proj", hidden, qd);
        }
        l->kv_a = projection(t, "kv_a", hidden, c->kv_lora_rank + c->qk_rope_head_dim);
        l->kv_a_norm = make(t, "kv_a_norm", c->kv_lora_rank, 1, 1, 0.2, 1.0);
        l->kv_b = projection(t, "kv_b", c->kv_lora_rank,
                             heads * (c->qk_nope_head_dim + c->v_head_dim));
        l->o = projection(t, "o", heads * c->v_head_dim, hidden);
        l->ffn_norm = make(t, "ffn_norm", hidden, 1, 1, 0.2, 1.0);
        int group = c->attentions_per_layer > 1 ? c->attentions_per_layer : 1;
        if (c->index_topk)
            make_indexer(t, c, l);
        if (c->n_routed_experts == 0 || i < c->first_k_dense_replace || group > 1)
            l->dense = block(t, hidden, c->intermediate_size);
        if (c->n_routed_experts && (group > 1 ? i % group == 0 : i >= c->first_k_dense_replace)) {
            int n = c->n_routed_experts + c->zero_expert_num;
            l->router = projection(t, "router", hidden, n);
            l->router_bias = make(t, "router_bias", n, 1, 1, 0.1, 0.0);
            l->experts = keep(t, (size_t)c->n_routed_experts * sizeof(*l->experts));
            for (int x = 0; x < c->n_routed_experts; x++)
                l->experts[x] = block(t, hidden, c->moe_intermediate_size);
            if (c->n_shared_experts)
                l->shared = block(t, hidden, c->n_shared_experts * c->moe_intermediate_size);
        }
        if (split_kv_b) {
            split(t, c, l);
        }
    }
}

/* A tensor as F32. */
static void copy_tensor(struct tiny *t, struct tensor *x)
{
    struct tensor from = *x;
    if (!from.data)
        return;
    size_t row = (size_t)from.ne[0];
    int64_t rows = from.ne[1] * from.ne[2];
    float *v = keep(t, row * (size_t)rows * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        tensor_row_f32(&from, i, v + (size_t)i * row);
    x->type = TT_F32;
    x->data = v;
    x->n_bytes = row * (size_t)rows * sizeof(float);
}

void tiny_copy(struct tiny *t, const struct checkpoint *from)
{
    memset(t, 0, sizeof(*t));
    struct checkpoint *ck = &t->ck;
    ck->config = from->config;
    ck->token_embd = from->token_embd;
    ck->output_norm = from->output_norm;
    ck->output = from->output;
    copy_tensor(t, &ck->token_embd);
    copy_tensor(t, &ck->output_norm);
    copy_tensor(t, &ck->output);
    size_t n = (size_t)ck->config.num_hidden_layers;
    ck->layers = keep(t, n * sizeof(*ck->layers));
    memcpy(ck->layers, from->layers, n * sizeof(*ck->layers));
    for (size_t i = 0; i < n; i++) {
        struct layer_tensors *l = &ck->layers[i];
        struct tensor *one[] = {
            &l->attn_norm, &l->q_proj, &l->q_a, &l->q_a_norm, &l->q_b, &l->kv_a, &l->kv_a_norm,
            &l->kv_b, &l->o, &l->index_q, &l->index_k, &l->index_k_norm, &l->index_k_norm_bias,
            &l->index_weights, &l->ffn_norm, &l->dense.gate, &l->dense.up, &l->dense.down,
            &l->router, &l->router_bias, &l->shared.gate, &l->shared.up, &l->shared.down};
        for (size_t k = 0; k < sizeof(one) / sizeof(one[0]); k++)
            copy_tensor(t, one[k]);
        if (!l->experts)
            continue;
        size_t n_bytes = (size_t)ck->config.n_routed_experts * sizeof(*l->experts);
        l->experts = memcpy(keep(t, n_bytes), l->experts, n_bytes);
        for (int x = 0; x < ck->config.n_routed_experts; x++) {
            copy_tensor(t, &l->experts[x].gate);
            copy_tensor(t, &l->experts[x].up);
            copy_tensor(t, &l->experts[x].down);
        }
    }
}

void tiny_free(struct tiny *t)
{
    for (int i = 0; i < t->n_blocks; i++)
        free(t->blocks[i]);
    t->n_blocks = 0;
}

/* --- mixed types ------------------------------------------------------------------------------- */

static uint16_t bf16_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return (uint16_t)(u >> 16);
}

/* The half of a power of two 2^-14 .. 2^15. */
static uint16_t half_of_power(int exponent)
{
    return (uint16_t)((exponent + 15) << 10);
}

/* 32 values as a block of Q8_0 or Q4_0 whose scale is a power of two; v becomes what it says. */
static void encode(float *v, enum tensor_type type, unsigned char *dst)
{
    int max = type == TT_Q8_0 ? 127 : 7, q[32], exponent = -14;
    float top = 0.0f;
    for (int i = 0; i < 32; i++)
        top = fmaxf(top, fabsf(v[i]));
    while (ldexpf((float)max, exponent) < top)
        exponent++;
    for (int i = 0; i < 32; i++) {
        q[i] = (int)lrintf(ldexpf(v[i], -exponent));
        v[i] = ldexpf((float)q[i], exponent);
    }
    uint16_t scale = half_of_power(exponent);
    memcpy(dst, &scale, 2);
    for (int i = 0; i < 32 && type == TT_Q8_0; i++)
        dst[2 + i] = (unsigned char)(signed char)q[i];
    for (int i = 0; i < 16 && type == TT_Q4_0; i++)
        dst[2 + i] = (unsigned char)((q[i] + 8) | (q[i + 16] + 8) << 4);
}

static void restore(struct tiny *t, struct tensor *x, int *turn)
{
    static const enum tensor_type types[] = {TT_F32, TT_Q8_0, TT_BF16, TT_Q4_0};
    if (!x->data || x->n_dims < 2)
        return;
    enum tensor_type type = types[(*turn)++ % 4];
    float *v = (float *)(uintptr_t)x->data;
    size_t n = x->n_bytes / sizeof(float), unit = type == TT_BF16 ? 1 : 32;
    size_t unit_bytes = type == TT_BF16 ? 2 : type == TT_Q8_0 ? 34 : 18;
    if (type == TT_F32)
        return;
    if (x->ne[0] % 32)
        abort();
    x->n_bytes = n / unit * unit_bytes;
    unsigned char *bytes = keep(t, x->n_bytes);
    for (size_t i = 0; i < n; i += unit) {
        unsigned char *dst = bytes + i / unit * unit_bytes;
        if (type == TT_BF16) {
            uint16_t h = bf16_of(v[i]);
            uint32_t u = (uint32_t)h << 16;
            memcpy(dst, &h, 2);
            memcpy(&v[i], &u, 4);
        } else {
            encode(v + i, type, dst);
        }
    }
    x->type = type;
    x->data = bytes;
}

static void restore_block(struct tiny *t, struct ffn_tensors *f, int *turn)
{
    restore(t, &f->gate, turn);
    restore(t, &f->up, turn);
    restore(t, &f->down, turn);
}

void tiny_mix(struct tiny *t, struct checkpoint *ret)
{
    const struct model_config *c = &t->ck.config;
    int turn = (int)(t->rng % 4), n = c->num_hidden_layers;
    *ret = t->ck;
    ret->layers = keep(t, (size_t)n * sizeof(*ret->layers));
    memcpy(ret->layers, t->ck.layers, (size_t)n * sizeof(*ret->layers));
    restore(t, &ret->token_embd, &turn);
    restore(t, &ret->output, &turn);
    for (int i = 0; i < n; i++) {
        struct layer_tensors *l = &ret->layers[i];
        struct tensor *const attention[] = {&l->q_proj, &l->q_a, &l->q_b, &l->kv_a, &l->kv_b, &l->o};
        for (size_t k = 0; k < sizeof(attention) / sizeof(*attention); k++)
            restore(t, attention[k], &turn);
        restore_block(t, &l->dense, &turn);
        restore(t, &l->router, &turn);
        restore_block(t, &l->shared, &turn);
        if (!l->experts)
            continue;
        struct ffn_tensors *x = keep(t, (size_t)c->n_routed_experts * sizeof(*x));
        memcpy(x, l->experts, (size_t)c->n_routed_experts * sizeof(*x));
        for (int k = 0; k < c->n_routed_experts; k++)
            restore_block(t, &x[k], &turn);
        l->experts = x;
    }
}

/* --- reference --------------------------------------------------------------------------------- */

static void mul(const struct tensor *w, const double *x, double *y)
{
    const float *v = w->data;
    for (int64_t o = 0; o < w->ne[1]; o++) {
        double s = 0;
        for (int64_t i = 0; i < w->ne[0]; i++)
            s += (double)v[o * w->ne[0] + i] * x[i];
        y[o] = s;
    }
}

static void norm(const struct tensor *w, const double *x, double eps, double *y)
{
    const float *v = w->data;
    double s = 0;
    for (int64_t i = 0; i < w->ne[0]; i++)
        s += x[i] * x[i];
    s = 1.0 / sqrt(s / (double)w->ne[0] + eps);
    for (int64_t i = 0; i < w->ne[0]; i++)
        y[i] = x[i] * s * (double)v[i];
}

static double latent_eps(const struct model_config *c)
{
    return (double)(c->latent_norm_eps > 0.0f ? c->latent_norm_eps : c->rms_norm_eps);
}

static void rotate_as(const struct model_config *c, bool interleave, int pos, double *x)
{
    int d = c->qk_rope_head_dim;
    for (int i = 0; i < d / 2; i++) {
        double a = pos * pow(c->rope_theta, -2.0 * i / d);
        int p = interleave ? 2 * i : i, q = interleave ? 2 * i + 1 : i + d / 2;
        double u = x[p], v = x[q];
        x[p] = u * cos(a) - v * sin(a);
        x[q] = u * sin(a) + v * cos(a);
    }
}

static void rotate(const struct model_config *c, int pos, double *x)
{
    rotate_as(c, c->rope_interleave, pos, x);
}

static void swiglu(const struct ffn_tensors *f, const double *x, double *y)
{
    double g[4096], u[4096];
    mul(&f->gate, x, g);
    mul(&f->up, x, u);
    for (int64_t i = 0; i < f->gate.ne[1]; i++)
        g[i] = g[i] / (1.0 + exp(-g[i])) * u[i];
    mul(&f->down, g, y);
}

static void experts(const struct model_config *c, const struct layer_tensors *l, const double *x,
                    double *y)
{
    double tmp[4096], s[1024], choice[1024], exp_sum = 0;
    int n = c->n_routed_experts + c->zero_expert_num;
    memset(y, 0, (size_t)c->hidden_size * sizeof(*y));
    mul(&l->router, x, s);
    for (int i = 0; i < n; i++)
        exp_sum += exp(s[i]);
    for (int i = 0; i < n; i++) {
        s[i] = c->gating == GATING_SOFTMAX ? exp(s[i]) / exp_sum : 1.0 / (1.0 + exp(-s[i]));
        choice[i] = s[i] + (double)((const float *)l->router_bias.data)[i];
    }
    int per = n / c->n_group;
    /* an expert is out when at least topk_group groups have a larger sum of their two best */
    double best2[64];
    for (int g = 0; g < c->n_group; g++) {
        best2[g] = -1e30;
        for (int i = 0; i < per; i++)
            for (int j = 0; j < i; j++)
                best2[g] = fmax(best2[g], choice[g * per + i] + choice[g * per + j]);
        if (per == 1)
            best2[g] = choice[g];
    }
    for (int i = 0; i < n; i++) {
        int better = 0;
        for (int g = 0; g < c->n_group; g++)
            better += best2[g] > best2[i / per];
        if (better >= c->topk_group)
            choice[i] = -1e30;
    }
    int picked[64];
    double sum = 0;
    for (int k = 0; k < c->num_experts_per_tok; k++) {
        int b = 0;
        for (int i = 1; i < n; i++)
            if (choice[i] > choice[b])
                b = i;
        choice[b] = -1e30;
        picked[k] = b;
        sum += s[b];
    }
    for (int k = 0; k < c->num_experts_per_tok; k++) {
        double w = s[picked[k]] / (c->norm_topk_prob ? sum : 1.0) * c->routed_scaling_factor;
        if (picked[k] < c->n_routed_experts)
            swiglu(&l->experts[picked[k]], x, tmp);
        else
            memcpy(tmp, x, (size_t)c->hidden_size * sizeof(*tmp));
        for (int i = 0; i < c->hidden_size; i++)
            y[i] += w * tmp[i];
    }
    if (l->shared.gate.data) {
        swiglu(&l->shared, x, tmp);
        for (int i = 0; i < c->hidden_size; i++)
            y[i] += tmp[i];
    }
}

/* keep[]: the largest scores, the later of equal ones. */
static void choose_later(const double *s, int n_seen, int n_total, int k, char *kept)
{
    (void)n_total;
    memset(kept, 0, (size_t)n_seen);
    for (; k > 0; k--) {
        int best = -1;
        for (int i = 0; i < n_seen; i++)
            if (!kept[i] && (best < 0 || s[i] >= s[best]))
                best = i;
        kept[best] = 1;
    }
}

/* Index keys of all tokens from their normalised residuals h, [n][hidden]. */
static void index_keys(const struct model_config *c, const struct layer_tensors *l, const double *h,
                       int n, double *keys)
{
    int dim = c->index_head_dim;
    const float *w = l->index_k_norm.data, *bias = l->index_k_norm_bias.data;
    for (int i = 0; i < n; i++) {
        double *k = keys + (size_t)i * (size_t)dim, mean = 0, var = 0;
        mul(&l->index_k, h + (size_t)i * (size_t)c->hidden_size, k);
        for (int d = 0; d < dim; d++)
            mean += k[d] / dim;
        for (int d = 0; d < dim; d++)
            var += (k[d] - mean) * (k[d] - mean) / dim;
        for (int d = 0; d < dim; d++)
            k[d] = (k[d] - mean) / sqrt(var + 1e-6) * (double)w[d] + (double)bias[d];
        rotate_as(c, false, i, k);
    }
}

/* Rows that token i attends to, from its residual h and query latent cq. */
static void index_choose(struct tiny *t, const struct layer_tensors *l, const double *h,
                         const double *cq, const double *keys, int i, int n_total, char *kept)
{
    const struct model_config *c = &t->ck.config;
    int dim = c->index_head_dim, heads = c->index_n_heads, n = i + 1;
    double q[8192], w[1024], *s = malloc((size_t)n * sizeof(*s));
    memset(kept, 1, (size_t)n);
    if (n <= c->index_topk) {
        free(s);
        return;
    }
    mul(&l->index_q, cq, q);
    mul(&l->index_weights, h, w);
    for (int a = 0; a < heads; a++)
        rotate_as(c, false, i, q + a * dim);
    for (int j = 0; j < n; j++) {
        s[j] = 0;
        for (int a = 0; a < heads; a++) {
            double dot = 0;
            for (int d = 0; d < dim; d++)
                dot += q[a * dim + d] * keys[(size_t)j * (size_t)dim + (size_t)d];
            s[j] += w[a] / sqrt(heads) * fmax(dot / sqrt(dim), 0);
        }
    }
    (t->choose ? t->choose : choose_later)(s, n, n_total, c->index_topk, kept);
    double in = INFINITY, out = -INFINITY;
    for (int j = 0; j < n; j++) {
        if (kept[j])
            in = fmin(in, s[j]);
        else
            out = fmax(out, s[j]);
    }
    if (in != out)
        t->least_gap = fmin(t->least_gap, in - out);
    free(s);
}

void tiny_reference(struct tiny *t, const int *tokens, int n_tokens, double *logits)
{
    const struct model_config *c = &t->ck.config;
    int hidden = c->hidden_size, heads = c->num_attention_heads;
    int nope = c->qk_nope_head_dim, rope = c->qk_rope_head_dim, v = c->v_head_dim;
    int r = c->kv_lora_rank, qk = nope + rope;
    size_t n = (size_t)n_tokens;
    double *x = malloc(n * (size_t)hidden * sizeof(double));
    double *q = malloc(n * (size_t)(heads * qk) * sizeof(double));
    double *kv = malloc(n * (size_t)(heads * (nope + v)) * sizeof(double));
    double *kpe = malloc(n * (size_t)rope * sizeof(double));
    double *p = malloc(n * sizeof(double));
    double *hs = malloc(n * (size_t)hidden * sizeof(double));
    double *cq = malloc(n * (size_t)(c->q_lora_rank + 1) * sizeof(double));
    double *keys = malloc(n * (size_t)(c->index_head_dim + 1) * sizeof(double));
    double *shortcut = calloc(n * (size_t)hidden, sizeof(double));
    char *kept = malloc(n);
    double h[4096], a[8192], b[8192];
    double q_scale = c->mla_scale_q_lora > 0.0f ? (double)c->mla_scale_q_lora : 1.0;
    double kv_scale = c->mla_scale_kv_lora > 0.0f ? (double)c->mla_scale_kv_lora : 1.0;
    int group = c->attentions_per_layer > 1 ? c->attentions_per_layer : 1;
    t->least_gap = INFINITY;
    memset(kept, 1, n);
    for (size_t i = 0; i < n; i++)
        for (int d = 0; d < hidden; d++)
            x[i * (size_t)hidden + (size_t)d] =
                (double)((const float *)t->ck.token_embd.data)[tokens[i] * hidden + d];
    for (int li = 0; li < c->num_hidden_layers; li++) {
        const struct layer_tensors *l = &t->ck.layers[li];
        for (size_t i = 0; i < n; i++) {
            double *qi = q + i * (size_t)(heads * qk);
            norm(&l->attn_norm, x + i * (size_t)hidden, c->rms_norm_eps, h);
            memcpy(hs + i * (size_t)hidden, h, (size_t)hidden * sizeof(double));
            if (c->q_lora_rank) {
                mul(&l->q_a, h, a);
                norm(&l->q_a_norm, a, latent_eps(c), b);
                memcpy(cq + i * (size_t)c->q_lora_rank, b,
                       (size_t)c->q_lora_rank * sizeof(double));
                mul(&l->q_b, b, qi);
            } else {
                mul(&l->q_proj, h, qi);
            }
            for (int d = 0; d < heads * qk; d++)
                qi[d] *= q_scale;
            for (int hd = 0; hd < heads; hd++)
                rotate(c, (int)i, qi + hd * qk + nope);
            mul(&l->kv_a, h, a);
            norm(&l->kv_a_norm, a, latent_eps(c), b);
            for (int d = 0; d < r; d++)
                b[d] *= kv_scale;
            memcpy(kpe + i * (size_t)rope, a + r, (size_t)rope * sizeof(double));
            rotate(c, (int)i, kpe + i * (size_t)rope);
            mul(&l->kv_b, b, kv + i * (size_t)(heads * (nope + v)));
        }
        if (c->index_topk)
            index_keys(c, l, hs, n_tokens, keys);
        for (size_t i = 0; i < n; i++) {
            if (c->index_topk)
                index_choose(t, l, hs + i * (size_t)hidden, cq + i * (size_t)c->q_lora_rank, keys,
                             (int)i, n_tokens, kept);
            for (int hd = 0; hd < heads; hd++) {
                const double *qi = q + i * (size_t)(heads * qk) + hd * qk;
                double max = -1e300, sum = 0, *o = a + hd * v;
                for (size_t j = 0; j <= i; j++) {
                    const double *kj = kv + j * (size_t)(heads * (nope + v)) + hd * (nope + v);
                    p[j] = 0;
                    for (int d = 0; d < nope; d++)
                        p[j] += qi[d] * kj[d];
                    for (int d = 0; d < rope; d++)
                        p[j] += qi[nope + d] * kpe[j * (size_t)rope + (size_t)d];
                    p[j] /= sqrt(qk);
                    if (kept[j])
                        max = fmax(max, p[j]);
                }
                memset(o, 0, (size_t)v * sizeof(double));
                for (size_t j = 0; j <= i; j++) {
                    const double *vj =
                        kv + j * (size_t)(heads * (nope + v)) + hd * (nope + v) + nope;
                    double w = kept[j] ? exp(p[j] - max) : 0;
                    sum += w;
                    for (int d = 0; d < v; d++)
                        o[d] += w * vj[d];
                }
                for (int d = 0; d < v; d++)
                    o[d] /= sum;
            }
            mul(&l->o, a, b);
            for (int d = 0; d < hidden; d++)
                x[i * (size_t)hidden + (size_t)d] += b[d];
            norm(&l->ffn_norm, x + i * (size_t)hidden, c->rms_norm_eps, h);
            double *sc = shortcut + i * (size_t)hidden;
            if (l->experts)
                experts(c, l, h, l->dense.gate.data ? sc : b);
            if (l->dense.gate.data)
                swiglu(&l->dense, h, b);
            for (int d = 0; d < hidden; d++)
                x[i * (size_t)hidden + (size_t)d] += b[d];
            for (int d = 0; li % group == group - 1 && d < hidden; d++) {
                x[i * (size_t)hidden + (size_t)d] += sc[d];
                sc[d] = 0;
            }
        }
    }
    for (size_t i = 0; i < n; i++) {
        norm(&t->ck.output_norm, x + i * (size_t)hidden, c->rms_norm_eps, h);
        mul(&t->ck.output, h, logits + i * (size_t)c->vocab_size);
    }
    free(x);
    free(q);
    free(kv);
    free(kpe);
    free(p);
    free(hs);
    free(cq);
    free(keys);
    free(shortcut);
    free(kept);
}
