/* tools/bench_cost.c - the least that a step of a model costs: bytes that must be read once, and
 * multiply-adds. Nothing of how the engine does it is assumed but this: attention may be absorbed (scores
 * and values straight over latents) or decompressed (keys and values of each head made anew in every
 * step), whichever is quicker; in the last layer only tokens that are answered need more than their cache
 * row. */
#include "config.h"

#include <math.h>

#include "engine/attention/family.h"
#include "engine/scheme.h"
#include "tools/bench.h"


/* rows of a product with n_bytes of weights, `each` multiply-adds a row. */
static void add(struct bench_cost *c, const struct tensor *t, double bytes, double macs)
{
    c->bytes += bytes;
    if (kern_act_is_q8(t->type))
        c->integer_macs += macs;
    else
        c->float_macs += macs;
}

static double values(const struct tensor *t)
{
    return (double)t->ne[0] * (double)t->ne[1] * (double)(t->ne[2] > 0 ? t->ne[2] : 1);
}

/* What queries by a product cost beside absorbed ones, with q_b (or q_proj) counted already: the product's
 * multiply-adds a row instead of those of its factors; kept, its bytes instead of theirs; made, what
 * making it takes in every step. */
static void add_product(struct bench_cost *c, const struct model_config *mc, const struct layer_tensors *l,
                        double rows, bool made, double kv_bytes)
{
    const struct tensor *q = mc->q_lora_rank > 0 ? &l->q_b : &l->q_proj;
    double heads = mc->num_attention_heads, rank = mc->kv_lora_rank, nope = mc->qk_nope_head_dim;
    double rope = mc->qk_rope_head_dim, v = mc->v_head_dim, n_in = (double)q->ne[0];
    double factors = nope * (n_in + rank),
           *macs = kern_act_is_q8(q->type) ? &c->integer_macs : &c->float_macs;
    *macs -= rows * heads * factors;
    c->float_macs += rows * heads * rank * n_in;
    if (made)
        c->float_macs += heads * rank * nope * n_in;
    else
        c->bytes += heads * rank * n_in * (kern_act_is_q8(q->type) ? 2.0 : (double)q->n_bytes / values(q)) -
                    (double)q->n_bytes * nope / (nope + rope) - kv_bytes * nope / (nope + v);
}

/* A layer of the attention family: its own weights, and what a query and a key cost it. */
static struct bench_cost family(const struct model_config *mc, const struct layer_tensors *l,
                                const struct bench_step *s, double wanted, double row_bytes)
{
    struct bench_cost c = {0};
    struct family_cost each = family_cost(l->family);
    double longest = (double)s->context + s->n_tokens, n = s->n_seqs;
    double keys = wanted > 0 ? n * (longest - s->shared) + s->shared : 0;
    for (int i = 0; i < FAMILY_MAX_TENSORS; i++) {
        const struct tensor *t = &l->family->t[i];
        if (i != FAMILY_OUT && t->data && t->ne[1] != mc->vocab_size) /* of a table some rows are read */
            add(&c, t, (double)t->n_bytes, n * s->n_tokens * values(t));
    }
    c.bytes += keys * row_bytes;
    c.float_macs += n * wanted * (longest - (wanted - 1) / 2) * each.pair_macs + keys * each.key_macs;
    return c;
}

static void add_all(struct bench_cost *c, const struct tensor *const *list, int n, double rows)
{
    for (int i = 0; i < n; i++)
        if (list[i]->data && rows > 0)
            add(c, list[i], (double)list[i]->n_bytes, rows * values(list[i]));
}

/* Routing is taken as even: of E experts, k a row, n rows touch E (1 - (1 - k/E)^n). */
static void add_experts(struct bench_cost *c, const struct model_config *mc,
                        const struct ffn_tensors *x, double rows)
{
    double n = mc->n_routed_experts, share = (double)mc->num_experts_per_tok / n;
    double touched = n * (1 - pow(1 - share, rows));
    const struct tensor *list[] = {&x->gate, &x->up, &x->down};
    for (int i = 0; i < 3 && rows > 0; i++)
        add(c, list[i], touched * (double)list[i]->n_bytes,
            rows * mc->num_experts_per_tok * (double)list[i]->ne[0] * (double)list[i]->ne[1]);
}

/* Attention of one layer, with the products between queries, latents and heads; wanted: new tokens of each
 * sequence whose output is needed, the last ones. */
static struct bench_cost attention(const struct checkpoint *ck, const struct layer_tensors *l,
                                   const struct bench_step *s, double wanted, double row_bytes,
                                   const struct bench_machine *m)
{
    const struct model_config *c = &ck->config;
    if (l->family)
        return family(c, l, s, wanted, row_bytes);
    double heads = c->num_attention_heads, rank = c->kv_lora_rank, rope = c->qk_rope_head_dim;
    double nope = c->qk_nope_head_dim, v = c->v_head_dim, n = s->n_seqs;
    double longest = (double)s->context + s->n_tokens;
    double pairs = n * wanted * (longest - (wanted - 1) / 2), seen = pairs;
    double keys = wanted > 0 ? n * (longest - s->shared) + s->shared : 0, read = keys;
    struct bench_cost common = {0}, absorbed = {0}, expanded = {0};
    const struct tensor *kv = l->kv_b.data ? &l->kv_b : &l->k_b;
    double kv_bytes = (double)(l->kv_b.data ? l->kv_b.n_bytes : l->k_b.n_bytes + l->v_b.n_bytes);
    if (wanted <= 0)
        return common;
    if (c->index_topk > 0) { /* a token sees at most so many rows, but scores all index keys */
        seen = fmin(pairs, n * wanted * c->index_topk);
        read = fmin(keys, n * wanted * c->index_topk);
        double index = c->index_head_dim / (rank + rope + c->index_head_dim);
        common.bytes = keys * row_bytes * index + read * row_bytes * (1 - index);
        common.float_macs = pairs * c->index_n_heads * c->index_head_dim;
    } else {
        common.bytes = keys * row_bytes;
    }
    absorbed = expanded = common;
    absorbed.float_macs += seen * heads * (2 * rank + rope);
    add(&absorbed, kv, kv_bytes, n * wanted * heads * rank * (nope + v));
    expanded.float_macs += seen * heads * (nope + rope + v);
    add(&expanded, kv, kv_bytes, read * heads * rank * (nope + v));
    if (s->scheme == MLA_REUSE || s->scheme == MLA_RECOMPUTE)
        add_product(&absorbed, c, l, n * wanted, s->scheme == MLA_RECOMPUTE, kv_bytes);
    if (s->scheme != MLA_AUTO)
        return s->scheme == MLA_DECOMPRESSED ? expanded : absorbed;
    return bench_cost_seconds(&absorbed, m, NULL) <= bench_cost_seconds(&expanded, m, NULL)
               ? absorbed
               : expanded;
}

struct bench_cost bench_cost_of(const struct checkpoint *ck, double token_bytes,
                                const struct bench_step *s, const struct bench_machine *m)
{
    const struct model_config *mc = &ck->config;
    struct bench_cost c = {0};
    int n_layers = mc->num_hidden_layers;
    int last_group = n_layers - (mc->attentions_per_layer > 1 ? mc->attentions_per_layer : 1);
    double rows = (double)s->n_seqs * s->n_tokens;
    for (int i = 0; i < n_layers; i++) {
        const struct layer_tensors *l = &ck->layers[i];
        const struct tensor *caches[] = {&l->kv_a, &l->index_k};
        const struct tensor *rest[] = {&l->q_proj, &l->q_a, &l->q_b, &l->o, &l->index_q,
                                       &l->index_weights, &l->dense.gate, &l->dense.up,
                                       &l->dense.down, &l->shared.gate, &l->shared.up,
                                       &l->shared.down};
        double wanted = i == n_layers - 1 ? s->n_logits : s->n_tokens;
        double routed = i < last_group ? s->n_tokens : s->n_logits;
        add_all(&c, caches, 2, rows);
        add_all(&c, rest, 12, s->n_seqs * wanted);
        if (l->experts) {
            const struct tensor *router[] = {&l->router};
            add_all(&c, router, 1, s->n_seqs * routed);
            add_experts(&c, mc, l->experts, s->n_seqs * routed);
        }
        struct bench_cost a = attention(ck, l, s, wanted, token_bytes / n_layers, m);
        c.bytes += a.bytes;
        c.integer_macs += a.integer_macs;
        c.float_macs += a.float_macs;
    }
    const struct tensor *head[] = {&ck->output};
    add_all(&c, head, 1, (double)s->n_seqs * s->n_logits);
    return c;
}

double bench_cost_seconds(const struct bench_cost *c, const struct bench_machine *m,
                          const char **ret_limit)
{
    double integer = bench_integer_peak(m), floating = bench_float_peak(m);
    double memory = m->read > 0 ? c->bytes / m->read : 0, arithmetic = 0;
    if (integer > 0 && floating > 0)
        arithmetic = c->integer_macs / integer + c->float_macs / floating;
    if (ret_limit)
        *ret_limit = arithmetic > memory ? "arithmetic" : "memory";
    return arithmetic > memory ? arithmetic : memory;
}

double bench_prefill_seconds(const struct checkpoint *ck, double token_bytes, int n_tokens,
                             int context, int chunk, const struct bench_machine *m,
                             const char **ret_limit)
{
    double seconds = 0, longest = -1;
    for (int at = 0; at < n_tokens; at += chunk) {
        const char *limit;
        int n = n_tokens - at < chunk ? n_tokens - at : chunk;
        struct bench_step s = {1, n, context + at, 0, at + n == n_tokens, 0};
        struct bench_cost c = bench_cost_of(ck, token_bytes, &s, m);
        double t = bench_cost_seconds(&c, m, &limit);
        if (t > longest && ret_limit)
            *ret_limit = limit;
        longest = t > longest ? t : longest;
        seconds += t;
    }
    return seconds;
}
