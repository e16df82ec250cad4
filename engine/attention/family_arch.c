/* engine/attention/family_arch.c - "latent_family" folders (docs/family-format.md): a plain decoder
 * whose layers each name a mechanism of the attention family. */
#include "config.h"

#include "engine/attention/layout.h"
#include "engine/model/deepseek.h"

#include <string.h>

const struct family_files family_own_files = {"model.layers.", "self_attn.", NULL};

static void names(struct layout_names *n)
{
    if (n->layer >= 0)
        return;
    deepseek__refuse_variants(n->k);
    if (keys__has(n->k, "rope_scaling"))
        keys__fail(n->k, ERR_UNSUPPORTED, "rope_scaling", "must be null");
}

static bool has_key(const struct family_mechanism *m, const char *name)
{
    for (int i = 0; m->keys[i].kind; i++)
        if (!strcmp(m->keys[i].name, name))
            return true;
    return false;
}

/* A key that only mechanisms have which no layer has would be left out in silence. */
static void refuse_strangers(struct keys *k, const struct family_layer *layers, int n)
{
    static const char *const known[] = {"attention_mechanism", "attention_bias", "attention_dropout", NULL};
    keys__refuse_others(k, "attention_", known);
    for (int m = 0; family_at_row(m) && k->r == 0; m++) {
        for (int i = 0; family_at_row(m)->keys[i].kind && k->r == 0; i++) {
            const char *name = family_at_row(m)->keys[i].name;
            /* these two stand in configurations of every kind */
            bool used = !keys__has(k, name) || !strcmp(name, "head_dim") ||
                        !strcmp(name, "num_key_value_heads");
            for (int l = 0; l < n && !used; l++)
                used = has_key(layers[l].mechanism, name);
            if (!used)
                keys__fail(k, ERR_FORMAT, name, "is a key of %s attention, which no layer has",
                           family_at_row(m)->name);
        }
    }
}

static const struct family_layout layout = {
    .files = &family_own_files, .names = names, .refuse = refuse_strangers};

static void config_hf(struct keys *k, const struct tix *tix, struct model_config *c)
{
    (void)tix;
    layout__config(&layout, k, c);
}

static void layers_hf(struct keys *k, struct arena *arena, struct checkpoint *c)
{
    layout__layers(&layout, k, arena, c);
}

static void bind(struct binder *b)
{
    layout__bind(&layout, b);
}

const struct arch_out family_gguf_out = {.gguf_name = "latent-family"};

/* declared by arch.c through arch.def */
extern const struct arch arch__latent_family;
const struct arch arch__latent_family = {
    .name = "latent_family",
    .gguf_name = "latent-family",
    .hf_model_type = "latent_family",
    .config_hf = config_hf,
    .layers_hf = layers_hf,
    .bind = bind,
    .out = &family_gguf_out,
};
