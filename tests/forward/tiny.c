/* tests/forward/tiny.c - see tiny.h. */
#include "config.h"

#include "tests/forward/tiny.h"

#include <math.h>
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
        if (c->n_routed_experts == 0 || i < c->first_k_dense_replace) {
            l->dense = block(t, hidden, c->intermediate_size);
        } else {
            l->router = projection(t, "router", hidden, c->n_routed_experts);
            l->router_bias = make(t, "router_bias", c->n_routed_experts, 1, 1, 0.1, 0.0);
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

void tiny_free(struct tiny *t)
{
    for (int i = 0; i < t->n_blocks; i++)
        free(t->blocks[i]);
    t->n_blocks = 0;
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

static void rotate(const struct model_config *c, int pos, double *x)
{
    int d = c->qk_rope_head_dim;
    for (int i = 0; i < d / 2; i++) {
        double a = pos * pow(c->rope_theta, -2.0 * i / d);
        int p = c->rope_interleave ? 2 * i : i, q = c->rope_interleave ? 2 * i + 1 : i + d / 2;
        double u = x[p], v = x[q];
        x[p] = u * cos(a) - v * sin(a);
        x[q] = u * sin(a) + v * cos(a);
    }
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

static void ffn(const struct model_config *c, const struct layer_tensors *l, const double *x,
                double *y)
{
    double tmp[4096], s[1024], choice[1024];
    if (l->dense.gate.data) {
        swiglu(&l->dense, x, y);
        return;
    }
    memset(y, 0, (size_t)c->hidden_size * sizeof(*y));
    mul(&l->router, x, s);
    for (int i = 0; i < c->n_routed_experts; i++) {
        s[i] = 1.0 / (1.0 + exp(-s[i]));
        choice[i] = s[i] + (double)((const float *)l->router_bias.data)[i];
    }
    int per = c->n_routed_experts / c->n_group;
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
    for (int i = 0; i < c->n_routed_experts; i++) {
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
        for (int i = 1; i < c->n_routed_experts; i++)
            if (choice[i] > choice[b])
                b = i;
        choice[b] = -1e30;
        picked[k] = b;
        sum += s[b];
    }
    for (int k = 0; k < c->num_experts_per_tok; k++) {
        double w = s[picked[k]] / (c->norm_topk_prob ? sum : 1.0) * c->routed_scaling_factor;
        swiglu(&l->experts[picked[k]], x, tmp);
        for (int i = 0; i < c->hidden_size; i++)
            y[i] += w * tmp[i];
    }
    if (l->shared.gate.data) {
        swiglu(&l->shared, x, tmp);
        for (int i = 0; i < c->hidden_size; i++)
            y[i] += tmp[i];
    }
}

void tiny_reference(const struct tiny *t, const int *tokens, int n_tokens, double *logits)
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
    double h[4096], a[8192], b[8192];
    for (size_t i = 0; i < n; i++)
        for (int d = 0; d < hidden; d++)
            x[i * (size_t)hidden + (size_t)d] =
                (double)((const float *)t->ck.token_embd.data)[tokens[i] * hidden + d];
    for (int li = 0; li < c->num_hidden_layers; li++) {
        const struct layer_tensors *l = &t->ck.layers[li];
        for (size_t i = 0; i < n; i++) {
            double *qi = q + i * (size_t)(heads * qk);
            norm(&l->attn_norm, x + i * (size_t)hidden, c->rms_norm_eps, h);
            if (c->q_lora_rank) {
                mul(&l->q_a, h, a);
                norm(&l->q_a_norm, a, c->rms_norm_eps, b);
                mul(&l->q_b, b, qi);
            } else {
                mul(&l->q_proj, h, qi);
            }
            for (int hd = 0; hd < heads; hd++)
                rotate(c, (int)i, qi + hd * qk + nope);
            mul(&l->kv_a, h, a);
            norm(&l->kv_a_norm, a, c->rms_norm_eps, b);
            memcpy(kpe + i * (size_t)rope, a + r, (size_t)rope * sizeof(double));
            rotate(c, (int)i, kpe + i * (size_t)rope);
            mul(&l->kv_b, b, kv + i * (size_t)(heads * (nope + v)));
        }
        for (size_t i = 0; i < n; i++) {
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
                    max = fmax(max, p[j]);
                }
                memset(o, 0, (size_t)v * sizeof(double));
                for (size_t j = 0; j <= i; j++) {
                    const double *vj =
                        kv + j * (size_t)(heads * (nope + v)) + hd * (nope + v) + nope;
                    double w = exp(p[j] - max);
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
            ffn(c, l, h, b);
            for (int d = 0; d < hidden; d++)
                x[i * (size_t)hidden + (size_t)d] += b[d];
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
}
