/* engine/attention/family/gla.c - grouped latent attention (GLA, arXiv 2505.21487): m latents, each with
 * its own norm and its own share of the heads; one rotary key for all. cache row = m r + rope values. */
#include "config.h"

#include "engine/attention/family/latent.h"

enum { LATENTS = LATENT_KEYS };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [LATENTS] = {FAMILY_INT, "latent_groups", 1, MAX_HEADS, 2, NULL},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static struct latent shape(const struct family_layer *l)
{
    struct latent s = latent_of(l);
    s.blocks = l->n[LATENTS];
    return s;
}

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
    if (l->n[LATENT_HEADS] % l->n[LATENTS])
        keys__fail(k, ERR_FORMAT, "latent_groups", "is %d and does not divide %d heads", l->n[LATENTS],
                   l->n[LATENT_HEADS]);
}

LATENT_PARTS(shape)

const struct family_mechanism family_gla = {
    .name = "gla",
    .keys = keys,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
