/* tests/forward/gguf_file.c - see gguf_file.h. */
#include "config.h"

#include "tests/forward/gguf_file.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 32

struct bytes {
    unsigned char *p;
    size_t n;
};

struct gguf_file {
    char architecture[64];
    struct bytes keys, tensors, data;
    uint64_t n_keys, n_tensors;
};

static void put(struct bytes *b, const void *p, size_t n)
{
    b->p = realloc(b->p, b->n + n + 1);
    ck_assert_ptr_nonnull(b->p);
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t v)
{
    put(b, &v, sizeof(v));
}

static void put_u64(struct bytes *b, uint64_t v)
{
    put(b, &v, sizeof(v));
}

static void put_string(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void pad(struct bytes *b)
{
    static const unsigned char zeros[ALIGN];
    put(b, zeros, (ALIGN - b->n % ALIGN) % ALIGN);
}

struct gguf_file *gguf_file_new(const char *architecture)
{
    struct gguf_file *g = calloc(1, sizeof(*g));
    ck_assert_ptr_nonnull(g);
    snprintf(g->architecture, sizeof(g->architecture), "%s", architecture);
    put_string(&g->keys, "general.architecture");
    put_u32(&g->keys, 8);
    put_string(&g->keys, architecture);
    g->n_keys = 1;
    return g;
}

static void put_key(struct gguf_file *g, const char *key, uint32_t type)
{
    char name[160];
    snprintf(name, sizeof(name), "%s.%s", g->architecture, key);
    put_string(&g->keys, name);
    put_u32(&g->keys, type);
    g->n_keys++;
}

void gguf_file_u32(struct gguf_file *g, const char *key, int64_t value)
{
    put_key(g, key, 4);
    put_u32(&g->keys, (uint32_t)value);
}

void gguf_file_plain_u32(struct gguf_file *g, const char *key, int64_t value)
{
    put_string(&g->keys, key);
    put_u32(&g->keys, 4);
    put_u32(&g->keys, (uint32_t)value);
    g->n_keys++;
}

void gguf_file_plain_string(struct gguf_file *g, const char *key, const char *value)
{
    put_string(&g->keys, key);
    put_u32(&g->keys, 8);
    put_string(&g->keys, value);
    g->n_keys++;
}

void gguf_file_bool(struct gguf_file *g, const char *key, int value)
{
    unsigned char b = value != 0;
    put_key(g, key, 7);
    put(&g->keys, &b, 1);
}

void gguf_file_f32(struct gguf_file *g, const char *key, float value)
{
    put_key(g, key, 6);
    put(&g->keys, &value, sizeof(value));
}

void gguf_file_stack(struct gguf_file *g, const char *name, const struct tensor *const *t, int n)
{
    int n_dims = t[0]->n_dims;
    put_string(&g->tensors, name);
    put_u32(&g->tensors, (uint32_t)(n > 1 ? n_dims + 1 : n_dims));
    for (int i = 0; i < n_dims; i++)
        put_u64(&g->tensors, (uint64_t)t[0]->ne[i]);
    if (n > 1)
        put_u64(&g->tensors, (uint64_t)n);
    put_u32(&g->tensors, (uint32_t)t[0]->type);
    put_u64(&g->tensors, g->data.n);
    for (int i = 0; i < n; i++)
        put(&g->data, t[i]->data, t[i]->n_bytes);
    pad(&g->data);
    g->n_tensors++;
}

void gguf_file_tensor(struct gguf_file *g, const char *name, const struct tensor *t)
{
    gguf_file_stack(g, name, &t, 1);
}

void gguf_file_write(struct gguf_file *g, const char *path)
{
    struct bytes head = {0};
    put(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, g->n_tensors);
    put_u64(&head, g->n_keys);
    put(&head, g->keys.p, g->keys.n);
    put(&head, g->tensors.p, g->tensors.n);
    pad(&head);
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(head.p, 1, head.n, f), head.n);
    ck_assert_uint_eq(fwrite(g->data.p, 1, g->data.n, f), g->data.n);
    ck_assert_int_eq(fclose(f), 0);
    free(head.p);
    free(g->keys.p);
    free(g->tensors.p);
    free(g->data.p);
    free(g);
}

/* --- a model ----------------------------------------------------------------------------------- */

static void put_part(struct gguf_file *g, int layer, const char *name, const struct tensor *t)
{
    char full[96];
    if (!t->data)
        return;
    snprintf(full, sizeof(full), "blk.%d.%s", layer, name);
    gguf_file_tensor(g, full, t);
}

/* kv_b split per head, W_UK transposed: what today's files have. */
static void put_split(struct gguf_file *g, const struct model_config *c, int layer,
                      const struct tensor *kv_b)
{
    int64_t nope = c->qk_nope_head_dim, v = c->v_head_dim, rank = c->kv_lora_rank;
    int64_t heads = c->num_attention_heads;
    const uint16_t *from = kv_b->data;
    ck_assert_int_eq(kv_b->type, TT_BF16);
    uint16_t *k = malloc((size_t)(nope * rank * heads) * 2), *u = malloc((size_t)(rank * v * heads) * 2);
    for (int64_t h = 0; h < heads; h++)
        for (int64_t j = 0; j < rank; j++) {
            for (int64_t i = 0; i < nope; i++)
                k[(h * rank + j) * nope + i] = from[(h * (nope + v) + i) * rank + j];
            for (int64_t i = 0; i < v; i++)
                u[(h * v + i) * rank + j] = from[(h * (nope + v) + nope + i) * rank + j];
        }
    struct tensor t = {.type = TT_BF16, .n_dims = 3, .ne = {nope, rank, heads, 1}, .data = k};
    t.n_bytes = (size_t)(nope * rank * heads) * 2;
    put_part(g, layer, "attn_k_b.weight", &t);
    t = (struct tensor){.type = TT_BF16, .n_dims = 3, .ne = {rank, v, heads, 1}, .data = u};
    t.n_bytes = (size_t)(rank * v * heads) * 2;
    put_part(g, layer, "attn_v_b.weight", &t);
    free(k);
    free(u);
}

static void put_layer(struct gguf_file *g, const struct model_config *c, int i,
                      const struct layer_tensors *l, bool split)
{
    const struct tensor *part[3][64];
    const char *names[3] = {"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"};
    put_part(g, i, "attn_norm.weight", &l->attn_norm);
    put_part(g, i, "attn_q.weight", &l->q_proj);
    put_part(g, i, "attn_q_a.weight", &l->q_a);
    put_part(g, i, "attn_q_a_norm.weight", &l->q_a_norm);
    put_part(g, i, "attn_q_b.weight", &l->q_b);
    put_part(g, i, "attn_kv_a_mqa.weight", &l->kv_a);
    put_part(g, i, "attn_kv_a_norm.weight", &l->kv_a_norm);
    if (split)
        put_split(g, c, i, &l->kv_b);
    else
        put_part(g, i, "attn_kv_b.weight", &l->kv_b);
    put_part(g, i, "attn_output.weight", &l->o);
    put_part(g, i, "indexer.attn_q_b.weight", &l->index_q);
    put_part(g, i, "indexer.attn_k.weight", &l->index_k);
    put_part(g, i, "indexer.k_norm.weight", &l->index_k_norm);
    put_part(g, i, "indexer.k_norm.bias", &l->index_k_norm_bias);
    put_part(g, i, "indexer.proj.weight", &l->index_weights);
    put_part(g, i, "ffn_norm.weight", &l->ffn_norm);
    put_part(g, i, "ffn_gate.weight", &l->dense.gate);
    put_part(g, i, "ffn_up.weight", &l->dense.up);
    put_part(g, i, "ffn_down.weight", &l->dense.down);
    put_part(g, i, "ffn_gate_inp.weight", &l->router);
    put_part(g, i, "exp_probs_b.bias", &l->router_bias);
    put_part(g, i, "ffn_gate_shexp.weight", &l->shared.gate);
    put_part(g, i, "ffn_up_shexp.weight", &l->shared.up);
    put_part(g, i, "ffn_down_shexp.weight", &l->shared.down);
    for (int x = 0; l->experts && x < c->n_routed_experts; x++) {
        part[0][x] = &l->experts[x].gate;
        part[1][x] = &l->experts[x].up;
        part[2][x] = &l->experts[x].down;
    }
    for (int k = 0; l->experts && k < 3; k++) {
        char full[96];
        snprintf(full, sizeof(full), "blk.%d.%s", i, names[k]);
        gguf_file_stack(g, full, part[k], c->n_routed_experts);
    }
}

void gguf_file_model(const struct checkpoint *ck, const char *arch, bool split, const char *path)
{
    const struct model_config *c = &ck->config;
    struct gguf_file *g = gguf_file_new(arch);
    int key = c->qk_nope_head_dim + c->qk_rope_head_dim;
    gguf_file_u32(g, "embedding_length", c->hidden_size);
    gguf_file_u32(g, "block_count", c->num_hidden_layers);
    gguf_file_u32(g, "context_length", c->max_position_embeddings);
    gguf_file_u32(g, "attention.head_count", c->num_attention_heads);
    gguf_file_u32(g, "attention.q_lora_rank", c->q_lora_rank);
    gguf_file_u32(g, "attention.kv_lora_rank", c->kv_lora_rank);
    gguf_file_u32(g, "rope.dimension_count", c->qk_rope_head_dim);
    gguf_file_f32(g, "rope.freq_base", c->rope_theta);
    gguf_file_f32(g, "attention.layer_norm_rms_epsilon", c->rms_norm_eps);
    if (split) {
        gguf_file_u32(g, "attention.key_length", c->kv_lora_rank + c->qk_rope_head_dim);
        gguf_file_u32(g, "attention.value_length", c->kv_lora_rank);
    }
    gguf_file_u32(g, split ? "attention.key_length_mla" : "attention.key_length", key);
    gguf_file_u32(g, split ? "attention.value_length_mla" : "attention.value_length", c->v_head_dim);
    gguf_file_u32(g, "feed_forward_length", c->intermediate_size);
    gguf_file_u32(g, "leading_dense_block_count", c->first_k_dense_replace);
    gguf_file_u32(g, "expert_count", c->n_routed_experts);
    gguf_file_u32(g, "expert_used_count", c->num_experts_per_tok);
    gguf_file_u32(g, "expert_shared_count", c->n_shared_experts);
    gguf_file_u32(g, "expert_feed_forward_length", c->moe_intermediate_size);
    gguf_file_u32(g, "expert_gating_func", c->gating);
    gguf_file_f32(g, "expert_weights_scale", c->routed_scaling_factor);
    if (c->index_topk) {
        gguf_file_u32(g, "attention.indexer.head_count", c->index_n_heads);
        gguf_file_u32(g, "attention.indexer.key_length", c->index_head_dim);
        gguf_file_u32(g, "attention.indexer.top_k", c->index_topk);
    } else if (c->attentions_per_layer > 1) {
        gguf_file_u32(g, "expert_zero_count", c->zero_expert_num);
        gguf_file_f32(g, "attention.q_lora_scale", c->mla_scale_q_lora);
        gguf_file_f32(g, "attention.kv_lora_scale", c->mla_scale_kv_lora);
    }
    gguf_file_bool(g, "expert_weights_norm", c->norm_topk_prob);
    gguf_file_tensor(g, "token_embd.weight", &ck->token_embd);
    gguf_file_tensor(g, "output_norm.weight", &ck->output_norm);
    gguf_file_tensor(g, "output.weight", &ck->output);
    for (int i = 0; i < c->num_hidden_layers; i++)
        put_layer(g, c, i, &ck->layers[i], split);
    gguf_file_write(g, path);
}
