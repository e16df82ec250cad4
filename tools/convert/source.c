/* tools/convert/source.c - see source.h. */
#include "config.h"

#include "tools/convert/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ARENA_BYTES ((size_t)2 << 30)
#define MAX_PER_LAYER 40

/* --- tensors of a folder ----------------------------------------------------------------------- */

struct list {
    struct source *s;
    int cap;
    int r;
    struct err *e;
};

static struct source_tensor *append(struct list *l, const char *name)
{
    struct source *s = l->s;
    if (l->r < 0)
        return NULL;
    char *copy = arena_strndup(s->arena, name, strlen(name));
    if (!copy || s->n_tensors == l->cap) {
        l->r = err_set(l->e, copy ? ERR_INTERNAL : ERR_NOMEM, "no room for tensor %s", name);
        return NULL;
    }
    struct source_tensor *t = &s->tensors[s->n_tensors++];
    t->name = copy;
    return t;
}

static void finish(struct source_tensor *t)
{
    t->n_rows = 1;
    for (int i = 0; i < TENSOR_MAX_DIMS; i++) {
        if (i >= t->n_dims)
            t->ne[i] = 1;
        if (i > 0)
            t->n_rows *= t->ne[i];
    }
    t->readable = true;
    t->type_name = tensor_type_info((uint32_t)t->parts[0].type)->name;
}

/* A tensor that the model lacks adds nothing. */
static struct source_tensor *one(struct list *l, int layer, const char *name, const struct tensor *from,
                                 enum source_form form)
{
    char full[96];
    if (!from->data)
        return NULL;
    if (layer < 0)
        snprintf(full, sizeof(full), "%s", name);
    else
        snprintf(full, sizeof(full), "blk.%d.%s", layer, name);
    struct source_tensor *t = append(l, full);
    if (!t)
        return NULL;
    t->n_dims = from->n_dims;
    memcpy(t->ne, from->ne, sizeof(t->ne));
    t->form = form;
    t->n_parts = 1;
    t->parts = from;
    finish(t);
    return t;
}

/* kv_b as the two tensors that hold it per head. */
static void split_kv_b(struct list *l, int layer, const struct tensor *kv_b)
{
    const struct model_config *c = &l->s->ck->config;
    struct source_tensor *t = one(l, layer, "attn_k_b.weight", kv_b, SOURCE_K_B);
    if (t) {
        t->n_dims = 3;
        t->ne[0] = c->qk_nope_head_dim;
        t->ne[1] = c->kv_lora_rank;
        t->ne[2] = c->num_attention_heads;
        finish(t);
    }
    t = one(l, layer, "attn_v_b.weight", kv_b, SOURCE_V_B);
    if (t) {
        t->n_dims = 3;
        t->ne[0] = c->kv_lora_rank;
        t->ne[1] = c->v_head_dim;
        t->ne[2] = c->num_attention_heads;
        finish(t);
    }
}

static const struct tensor *part_of(const struct ffn_tensors *f, int which)
{
    return which == 0 ? &f->gate : which == 1 ? &f->up : &f->down;
}

static void stack_experts(struct list *l, int layer, const struct ffn_tensors *experts, int n)
{
    static const char *const names[] = {"ffn_gate_exps.weight", "ffn_up_exps.weight",
                                        "ffn_down_exps.weight"};
    for (int which = 0; which < 3 && l->r == 0; which++) {
        const struct tensor *first = part_of(&experts[0], which);
        struct tensor *parts = arena_array(l->s->arena, (size_t)n, sizeof(*parts));
        struct source_tensor *t = one(l, layer, names[which], first, SOURCE_ROWS);
        if (!t || !parts) {
            if (l->r == 0 && !parts)
                l->r = err_set(l->e, ERR_NOMEM, "no memory for the list of experts");
            return;
        }
        for (int i = 0; i < n; i++)
            parts[i] = *part_of(&experts[i], which);
        t->n_dims = 3;
        t->ne[2] = n;
        t->n_parts = n;
        t->parts = parts;
        finish(t);
    }
}

static void add_layer(struct list *l, int i, const struct layer_tensors *t)
{
    const struct model_config *c = &l->s->ck->config;
    const struct arch_out *out = arch__by_name(c->architecture)->out;
    bool pairs = out && out->rope_pairs && !c->rope_interleave;
    enum source_form q_form = pairs ? SOURCE_ROPE_Q : SOURCE_ROWS;
    one(l, i, "attn_norm.weight", &t->attn_norm, SOURCE_ROWS);
    one(l, i, "attn_q.weight", &t->q_proj, q_form);
    one(l, i, "attn_q_a.weight", &t->q_a, SOURCE_ROWS);
    one(l, i, "attn_q_a_norm.weight", &t->q_a_norm, SOURCE_ROWS);
    one(l, i, "attn_q_b.weight", &t->q_b, q_form);
    one(l, i, "attn_kv_a_mqa.weight", &t->kv_a, pairs ? SOURCE_ROPE_KV : SOURCE_ROWS);
    one(l, i, "attn_kv_a_norm.weight", &t->kv_a_norm, SOURCE_ROWS);
    if (t->kv_b.data && out && out->split_kv_b)
        split_kv_b(l, i, &t->kv_b);
    else
        one(l, i, "attn_kv_b.weight", &t->kv_b, SOURCE_ROWS);
    one(l, i, "attn_output.weight", &t->o, SOURCE_ROWS);
    one(l, i, "indexer.attn_q_b.weight", &t->index_q, SOURCE_ROWS);
    one(l, i, "indexer.attn_k.weight", &t->index_k, SOURCE_ROWS);
    one(l, i, "indexer.k_norm.weight", &t->index_k_norm, SOURCE_ROWS);
    one(l, i, "indexer.k_norm.bias", &t->index_k_norm_bias, SOURCE_ROWS);
    one(l, i, "indexer.proj.weight", &t->index_weights, SOURCE_ROWS);
    one(l, i, "ffn_norm.weight", &t->ffn_norm, SOURCE_ROWS);
    one(l, i, "ffn_gate.weight", &t->dense.gate, SOURCE_ROWS);
    one(l, i, "ffn_up.weight", &t->dense.up, SOURCE_ROWS);
    one(l, i, "ffn_down.weight", &t->dense.down, SOURCE_ROWS);
    one(l, i, "ffn_gate_inp.weight", &t->router, SOURCE_ROWS);
    one(l, i, "exp_probs_b.bias", &t->router_bias, SOURCE_ROWS);
    if (t->experts)
        stack_experts(l, i, t->experts, c->n_routed_experts);
    one(l, i, "ffn_gate_shexp.weight", &t->shared.gate, SOURCE_ROWS);
    one(l, i, "ffn_up_shexp.weight", &t->shared.up, SOURCE_ROWS);
    one(l, i, "ffn_down_shexp.weight", &t->shared.down, SOURCE_ROWS);
}

/* Numbers of the configuration that GGUF has as a tensor. */
static void add_factors(struct list *l, const char *name, const float *factors)
{
    struct tensor *t = arena_alloc(l->s->arena, sizeof(*t));
    int n = l->s->ck->config.qk_rope_head_dim / 2;
    if (!t) {
        l->r = err_set(l->e, ERR_NOMEM, "no memory for tensor %s", name);
        return;
    }
    *t = (struct tensor){.name = name, .type = TT_F32, .n_dims = 1, .ne = {n, 1, 1, 1},
                         .data = factors, .n_bytes = (size_t)n * sizeof(*factors)};
    one(l, -1, name, t, SOURCE_ROWS);
}

static int list_folder(struct source *s, struct err *e)
{
    const struct checkpoint *ck = s->ck;
    const struct model_config *c = &ck->config;
    int n_mtp = ck->mtp ? c->num_nextn_predict_layers : 0;
    struct list l = {s, 8 + MAX_PER_LAYER * (c->num_hidden_layers + n_mtp), 0, e};
    s->tensors = arena_array(s->arena, (size_t)l.cap, sizeof(*s->tensors));
    if (!s->tensors)
        return err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    one(&l, -1, "token_embd.weight", &ck->token_embd, SOURCE_ROWS);
    one(&l, -1, "output_norm.weight", &ck->output_norm, SOURCE_ROWS);
    if (!c->tie_word_embeddings)
        one(&l, -1, "output.weight", &ck->output, SOURCE_ROWS);
    if (c->rope_scaling.type == ROPE_SCALING_LONGROPE) {
        add_factors(&l, "rope_factors_long.weight", c->rope_scaling.long_factor);
        add_factors(&l, "rope_factors_short.weight", c->rope_scaling.short_factor);
    }
    for (int i = 0; i < c->num_hidden_layers; i++)
        add_layer(&l, i, &ck->layers[i]);
    for (int i = 0; i < n_mtp; i++) {
        const struct mtp_tensors *m = &ck->mtp[i];
        int at = c->num_hidden_layers + i;
        add_layer(&l, at, &m->layer);
        one(&l, at, "nextn.eh_proj.weight", &m->eh_proj, SOURCE_ROWS);
        one(&l, at, "nextn.enorm.weight", &m->enorm, SOURCE_ROWS);
        one(&l, at, "nextn.hnorm.weight", &m->hnorm, SOURCE_ROWS);
        one(&l, at, "nextn.shared_head_norm.weight", &m->shared_head_norm, SOURCE_ROWS);
        one(&l, at, "nextn.shared_head_head.weight", &m->shared_head, SOURCE_ROWS);
        one(&l, at, "nextn.embed_tokens.weight", &m->embed_tokens, SOURCE_ROWS);
    }
    for (int i = 0; i < s->n_tensors; i++) {
        const struct source_tensor *t = &s->tensors[i];
        for (int p = 0; p < t->n_parts && t->form != SOURCE_V_B; p++)
            s->n_bytes += t->parts[p].n_bytes;
    }
    return l.r;
}

/* --- tensors as files have them ----------------------------------------------------------------- */

struct place {
    const struct tix_entry *entry;
    int map;
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->map != y->map)
        return x->map - y->map;
    return x->entry->offset < y->entry->offset ? -1 : x->entry->offset > y->entry->offset;
}

static int map_index(const struct checkpoint_priv *p, const struct file_map *m)
{
    int i = 0;
    while (i < p->n_maps && p->maps[i] != m)
        i++;
    return i;
}

/* llama.cpp's names for what is no layer's: our own format has them in GGUF. */
static const char *end_name(const char *name)
{
    static const char *const ends[][2] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                          {"model.norm.weight", "output_norm.weight"},
                                          {"lm_head.weight", "output.weight"}};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (strcmp(name, ends[i][0]) == 0)
            return ends[i][1];
    return name;
}

/* All that the files have, or (folders) all that the model takes of it. */
static int list_files(struct source *s, struct err *e)
{
    const struct checkpoint_priv *p = s->ck->priv;
    bool rename = !s->is_gguf && arch__by_name(s->ck->config.architecture)->gguf_name;
    size_t n = 0;
    struct place *order = arena_array(s->arena, p->tix.n, sizeof(*order));
    s->tensors = arena_array(s->arena, p->tix.n, sizeof(*s->tensors));
    if (!order || !s->tensors)
        return err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    for (size_t i = 0; i < p->tix.n; i++) /* scales are read with what they scale */
        if (s->is_gguf || (p->tix.v[i].claimed && !p->tix.v[i].is_scale))
            order[n++] = (struct place){&p->tix.v[i], map_index(p, p->tix.v[i].map)};
    qsort(order, n, sizeof(*order), by_place);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *from = &order[i].entry->t;
        struct source_tensor *t = &s->tensors[s->n_tensors++];
        *t = (struct source_tensor){.name = rename ? end_name(from->name) : from->name,
                                    .n_dims = from->n_dims, .n_parts = 1, .parts = from, .n_rows = 1,
                                    .readable = from->data != NULL, .type_name = order[i].entry->type_name};
        memcpy(t->ne, from->ne, sizeof(t->ne));
        for (int d = 1; d < TENSOR_MAX_DIMS; d++)
            t->n_rows *= t->ne[d];
        s->n_bytes += from->n_bytes;
    }
    return 0;
}

/* --- opening ----------------------------------------------------------------------------------- */

/* The first part's keys once more: checkpoint_open keeps only what it understands. */
static int reread_keys(struct source *s, struct err *e)
{
    struct tix scratch;
    const struct gguf_kv *kv;
    tix__init(&scratch, s->arena);
    int r = gguf__parse(s->ck->priv->maps[0], s->arena, &scratch, &s->gguf, e);
    tix__done(&scratch);
    if (r < 0)
        return r;
    kv = gguf__find(&s->gguf, "general.architecture"); /* a string: checkpoint_open has read it */
    s->gguf_arch = arena_strndup(s->arena, (const char *)kv->data, (size_t)kv->n);
    return s->gguf_arch ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

int source_open(const char *path, struct source *ret, struct err *e)
{
    struct source s = {0};
    int r = checkpoint_open(path, &s.ck, e);
    if (r < 0)
        return r;
    s.is_gguf = strncmp(s.ck->format, "GGUF", 4) == 0;
    s.arena = arena_new(MAX_ARENA_BYTES);
    if (!s.arena) {
        r = err_set(e, ERR_NOMEM, "out of memory");
    } else if (s.is_gguf) {
        if ((r = reread_keys(&s, e)) == 0)
            r = list_files(&s, e);
    } else {
        const struct arch_out *out = arch__by_name(s.ck->config.architecture)->out;
        s.gguf_arch = out ? out->gguf_name : "";
        r = out && !out->keys ? list_files(&s, e) : list_folder(&s, e);
    }
    if (r < 0)
        source_close(&s);
    else
        *ret = s;
    return r;
}

void source_close(struct source *s)
{
    arena_free(s->arena);
    if (s->ck)
        checkpoint_close(&s->ck);
    *s = (struct source){0};
}

/* --- values ------------------------------------------------------------------------------------ */

int64_t source_unit(const struct source_tensor *t)
{
    return t->form == SOURCE_K_B ? t->ne[1] : 1;
}

int64_t source_tmp(const struct source *s)
{
    return s->ck->config.kv_lora_rank;
}

/* Pair p of the output comes from the two halves. */
static int64_t from_halves(int64_t i, int64_t rope)
{
    return i / 2 + i % 2 * (rope / 2);
}

/* Part and row in it of output row r. */
static const struct tensor *locate(const struct source *s, const struct source_tensor *t, int64_t r,
                                   int64_t *ret_row)
{
    const struct model_config *c = &s->ck->config;
    int64_t nope = c->qk_nope_head_dim, rope = c->qk_rope_head_dim, v = c->v_head_dim;
    int64_t per_part = t->n_rows / t->n_parts;
    switch (t->form) {
    case SOURCE_V_B:
        *ret_row = r / v * (nope + v) + nope + r % v;
        return t->parts;
    case SOURCE_ROPE_Q: {
        int64_t head = r / (nope + rope), i = r % (nope + rope);
        *ret_row = i < nope ? r : head * (nope + rope) + nope + from_halves(i - nope, rope);
        return t->parts;
    }
    case SOURCE_ROPE_KV:
        *ret_row = r < c->kv_lora_rank ? r
                                       : c->kv_lora_rank + from_halves(r - c->kv_lora_rank, rope);
        return t->parts;
    default:
        *ret_row = r % per_part;
        return &t->parts[r / per_part];
    }
}

static void head_of_k_b(const struct source *s, const struct source_tensor *t, int64_t first,
                        int64_t n, float *dst, float *tmp)
{
    const struct model_config *c = &s->ck->config;
    int64_t nope = c->qk_nope_head_dim, latent = c->kv_lora_rank, step = nope + c->v_head_dim;
    for (int64_t done = 0; done < n; done += latent)
        for (int64_t i = 0; i < nope; i++) {
            tensor_row_f32(t->parts, (first + done) / latent * step + i, tmp);
            for (int64_t j = 0; j < latent; j++)
                dst[(done + j) * nope + i] = tmp[j];
        }
}

void source_rows(const struct source *s, const struct source_tensor *t, int64_t first, int64_t n,
                 float *dst, float *tmp)
{
    if (t->form == SOURCE_K_B) {
        head_of_k_b(s, t, first, n, dst, tmp);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t row;
        const struct tensor *part = locate(s, t, first + i, &row);
        tensor_row_f32(part, row, dst + i * t->ne[0]);
    }
}

bool source_copies(const struct source_tensor *t, enum tensor_type type)
{
    if (t->form == SOURCE_K_B)
        return false;
    for (int i = 0; i < t->n_parts; i++)
        if (t->parts[i].type != type || t->parts[i].scale)
            return false;
    return true;
}

const void *source_row_bytes(const struct source *s, const struct source_tensor *t, int64_t r)
{
    int64_t row;
    const struct tensor *part = locate(s, t, r, &row);
    return (const unsigned char *)part->data + (size_t)row * tensor_row_bytes(part->type, t->ne[0]);
}

/* --- keys -------------------------------------------------------------------------------------- */

static bool about_the_file(const char *key)
{
    static const char *const names[] = {"general.file_type", "general.quantization_version",
                                        "general.alignment"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(key, names[i]) == 0)
            return true;
    return strncmp(key, "split.", 6) == 0 || strncmp(key, "latentd.", 8) == 0;
}

static int folder_keys(const struct source *s, struct gguf_writer *w, struct err *e)
{
    const struct arch *a = arch__by_name(s->ck->config.architecture);
    struct model_config c = s->ck->config;
    if (!a->out)
        return err_set_param(e, ERR_UNSUPPORTED, "model_type", "%s has no GGUF form", a->name);
    if (!s->ck->mtp)
        c.num_nextn_predict_layers = 0;
    gguf_write_string(w, "general.architecture", a->out->gguf_name);
    gguf_write_string(w, "general.type", "model");
    gguf_write_string(w, "general.name", c.name);
    int r = 0;
    if (!a->out->keys) {
        char key[80];
        snprintf(key, sizeof(key), "%s.config", a->out->gguf_name);
        gguf_write_string(w, key, s->ck->priv->config_text);
    } else {
        r = a->out->keys(&c, w, e);
    }
    return r < 0 ? r : source__tokenizer_keys(s, w, e);
}

int source_keys(const struct source *s, struct gguf_writer *w, struct err *e)
{
    if (!s->is_gguf)
        return folder_keys(s, w, e);
    /* the architecture first, as readers like to see it; the rest is sorted by name */
    gguf_write_string(w, "general.architecture", s->gguf_arch);
    for (size_t i = 0; i < s->gguf.n_kv; i++)
        if (!about_the_file(s->gguf.kv[i].key) && strcmp(s->gguf.kv[i].key, "general.architecture"))
            gguf_write_copy(w, &s->gguf.kv[i]);
    return 0;
}
