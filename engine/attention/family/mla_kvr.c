/* engine/attention/family/mla_kvr.c - a shared latent with rotary keys for each group of heads: what
 * MHA2MLA (arXiv 2502.14837) makes of a checkpoint. No norm on the latent; each group may have
 * frequencies of its own, or all have some of those of a wider head. cache row = [c | r_0 .. r_G-1], one key
 * for all heads: a query is zero where r is another group's, so that all heads go through one product. */
#include "config.h"

#include "engine/attention/family/latent.h"

enum { GROUPS = LATENT_KEYS, NORM, FORM, FREQ_DIM, FREQ_FIRST, FREQ_STEP };
enum { FORM_HEADS, FORM_APART };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [GROUPS] = {FAMILY_INT, "num_key_value_heads", 1, MAX_HEADS, FAMILY_NEEDED, NULL},
    [NORM] = {FAMILY_WORD, "latent_norm", 0, 0, 0, "none"},
    [FORM] = {FAMILY_WORD, "kvr_layout", 0, 0, FORM_HEADS, "heads|apart"},
    [FREQ_DIM] = {FAMILY_INT, "rope_freq_dim", 2, MAX_HEAD_DIM, 0, NULL},
    [FREQ_FIRST] = {FAMILY_INT, "rope_freq_first", 0, MAX_HEAD_DIM, 0, NULL},
    [FREQ_STEP] = {FAMILY_INT, "rope_freq_step", 1, MAX_HEAD_DIM, 1, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static struct latent shape(const struct family_layer *l)
{
    struct latent s = latent_of(l);
    s.q_rank = 0;
    s.rope_keys = l->n[GROUPS];
    s.rope_apart = true;
    s.norm = false;
    s.apart = l->n[FORM] == FORM_APART;
    s.freq_dim = l->n[FREQ_DIM];
    s.freq_first = l->n[FREQ_FIRST];
    s.freq_step = l->n[FREQ_STEP];
    return s;
}

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
    if (l->n[LATENT_HEADS] % l->n[GROUPS])
        keys__fail(k, ERR_FORMAT, "num_key_value_heads", "is %d and does not divide %d heads", l->n[GROUPS],
                   l->n[LATENT_HEADS]);
    if (l->n[LATENT_Q_RANK])
        keys__fail(k, ERR_UNSUPPORTED, "q_lora_rank", "must be null");
}

LATENT_PARTS(shape)

const struct family_mechanism family_mla_kvr = {
    .name = "mla_kvr",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
