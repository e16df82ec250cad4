/* engine/model/checkpoint.c - opening a model of any format; see checkpoint.h. */
#include "config.h"

#include "engine/model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/model/internal.h"

/* Names, keys and views of a checkpoint; tokenizers of 300 k tokens need some 20 MB. */
#define ARENA_BYTES ((size_t)1 << 30)

static const struct model_arch *const archs[] = {
#define ARCH(x) &x,
#include "engine/model/arch.def"
#undef ARCH
};
#define N_ARCHS (sizeof(archs) / sizeof(archs[0]))

const struct model_arch *arch_find_gguf(const char *name)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (archs[i]->gguf_name && !strcmp(archs[i]->gguf_name, name))
            return archs[i];
    return NULL;
}

const struct model_arch *arch_find_hf(const char *model_type)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (archs[i]->hf_model_type && !strcmp(archs[i]->hf_model_type, model_type))
            return archs[i];
    return NULL;
}

char *ckpt_printf(struct checkpoint *c, const char *fmt, ...)
{
    char text[8192];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return n < 0 || (size_t)n >= sizeof(text) ? NULL
                                              : arena_strndup(c->priv->arena, text, (size_t)n);
}

int config_check(const struct model_config *c, struct err *e)
{
    if (c->num_experts_per_tok > c->n_routed_experts)
        return err_set_param(e, ERR_FORMAT, "num_experts_per_tok",
                             "num_experts_per_tok %d exceeds n_routed_experts %d",
                             c->num_experts_per_tok, c->n_routed_experts);
    if (c->n_routed_experts > 0 && (c->n_group < 1 || c->n_routed_experts % c->n_group ||
                                    c->topk_group < 1 || c->topk_group > c->n_group))
        return err_set_param(e, ERR_FORMAT, "n_group",
                             "n_group %d must divide n_routed_experts %d and be at least topk_group %d",
                             c->n_group, c->n_routed_experts, c->topk_group);
    if (c->n_routed_experts > 0 &&
        c->num_experts_per_tok > c->topk_group * (c->n_routed_experts / c->n_group))
        return err_set_param(e, ERR_FORMAT, "topk_group",
                             "%d experts a token do not fit in topk_group %d groups of %d",
                             c->num_experts_per_tok, c->topk_group, c->n_routed_experts / c->n_group);
    if (c->qk_rope_head_dim % 2)
        return err_set_param(e, ERR_FORMAT, "qk_rope_head_dim", "qk_rope_head_dim %d must be even",
                             c->qk_rope_head_dim);
    if ((int64_t)c->num_attention_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim) > (1 << 24) ||
        (int64_t)c->num_attention_heads * (c->qk_nope_head_dim + c->v_head_dim) > (1 << 24))
        return err_set_param(e, ERR_FORMAT, "num_attention_heads",
                             "num_attention_heads times the head sizes exceeds %d", 1 << 24);
    if (!(c->rms_norm_eps >= 0.0f && c->rms_norm_eps < 1.0f))
        return err_set_param(e, ERR_FORMAT, "rms_norm_eps", "rms_norm_eps %g must be in 0..1",
                             (double)c->rms_norm_eps);
    if (!(c->rope_theta >= 1.0f))
        return err_set_param(e, ERR_FORMAT, "rope_theta", "rope_theta %g must be at least 1",
                             (double)c->rope_theta);
    if (c->rope_scaling.type == ROPE_SCALING_YARN &&
        (!(c->rope_scaling.factor >= 1.0f) || c->rope_scaling.original_max_position_embeddings < 1))
        return err_set_param(e, ERR_FORMAT, "rope_scaling",
                             "rope_scaling: factor must be at least 1 and the original context above 0");
    return 0;
}

static int open_gguf(const char *path, struct checkpoint *c, struct err *e)
{
    int r = gguf_open(path, c, e);
    if (r < 0)
        return r;
    const char *name = gguf_string(c, "general.architecture");
    const struct model_arch *arch = name ? arch_find_gguf(name) : NULL;
    if (!arch)
        return err_set_param(e, ERR_UNSUPPORTED, "general.architecture",
                             "%s: architecture %s is not served", path, name ? name : "(missing)");
    if ((r = arch->read_gguf(c, e)) < 0 || (r = config_check(&c->config, e)) < 0 ||
        (r = arch->bind_gguf(c, e)) < 0)
        return r;
    const char *title = gguf_string(c, "general.name"), *base = strrchr(path, '/');
    snprintf(c->config.name, sizeof(c->config.name), "%s",
             title && title[0] ? title : base ? base + 1 : path);
    c->format = "GGUF v3";
    return gguf_tokenizer(c, e);
}

static int64_t elements(const struct tensor *t)
{
    return t->data ? t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3] : 0;
}

static int64_t count_params(const struct checkpoint *c)
{
    int64_t n = elements(&c->token_embd) + elements(&c->output_norm);
    if (c->output.data != c->token_embd.data)
        n += elements(&c->output);
    for (int i = 0; i < c->config.num_hidden_layers; i++) {
        const struct layer_tensors *l = &c->layers[i];
        const struct tensor *all[] = {
            &l->attn_norm, &l->q_proj, &l->q_a, &l->q_a_norm, &l->q_b, &l->kv_a, &l->kv_a_norm,
            &l->kv_b, &l->k_b, &l->v_b, &l->o, &l->ffn_norm, &l->dense.gate, &l->dense.up,
            &l->dense.down, &l->router, &l->router_bias, &l->shared.gate, &l->shared.up,
            &l->shared.down};
        for (size_t t = 0; t < sizeof(all) / sizeof(all[0]); t++)
            n += elements(all[t]);
        for (int x = 0; l->experts && x < c->config.n_routed_experts; x++)
            n += elements(&l->experts[x].gate) + elements(&l->experts[x].up) +
                 elements(&l->experts[x].down);
    }
    return n;
}

int checkpoint_open(const char *path, struct checkpoint **ret, struct err *e)
{
    struct stat st;
    struct checkpoint *c = calloc(1, sizeof(*c));
    int r;
    if (!c || !(c->priv = calloc(1, sizeof(*c->priv))) || !(c->priv->arena = arena_new(ARENA_BYTES))) {
        r = err_set(e, ERR_NOMEM, "out of memory");
        goto fail;
    }
    if (stat(path, &st)) {
        r = err_set_param(e, ERR_NOTFOUND, "model", "%s: no such file or folder", path);
        goto fail;
    }
    r = S_ISDIR(st.st_mode) ? hf_open(path, c, e) : open_gguf(path, c, e);
    if (r < 0)
        goto fail;
    for (int i = 0; i < c->priv->n_maps; i++)
        c->file_bytes += c->priv->maps[i].n_bytes;
    c->n_params = count_params(c);
    *ret = c;
    return 0;
fail:
    checkpoint_close(&c);
    return r;
}

void checkpoint_close(struct checkpoint **cp)
{
    struct checkpoint *c = *cp;
    *cp = NULL;
    if (!c)
        return;
    struct checkpoint_priv *p = c->priv;
    if (p) {
        gguf_close(p);
        cJSON_Delete(p->config);
        cJSON_Delete(p->tok_config);
        cJSON_Delete(p->gen_config);
        tensor_set_done(&p->tensors);
        for (int i = 0; i < p->n_maps; i++)
            map_close(&p->maps[i]);
        arena_free(p->arena);
        free(p);
    }
    free(c);
}
