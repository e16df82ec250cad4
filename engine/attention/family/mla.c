/* engine/attention/family/mla.c - multi-head latent attention whose sizes differ by layer, or whose
 * latent has no norm: what X-EcoMLA (arXiv 2503.11132), CARE (2603.17946) and TransMLA make of other
 * checkpoints; with layers that share rows it is CLLA (2410.15252). cache row = [c | rope key].
 * DeepSeek's own checkpoints are read elsewhere and run by attention/mla.c, which can also multiply rows
 * out. */
#include "config.h"

#include "engine/attention/family/latent.h"

enum { NORM = LATENT_KEYS, Q_NORM };
enum { NORM_RMS, NORM_NONE };

static const struct family_key keys[] = {
    LATENT_KEY_ROWS,
    [NORM] = {FAMILY_WORD, "latent_norm", 0, 0, NORM_RMS, "rms|none"},
    [Q_NORM] = {FAMILY_WORD, "q_latent_norm", 0, 0, NORM_RMS, "rms|none"},
    {FAMILY_END, NULL, 0, 0, 0, NULL},
};

static struct latent shape(const struct family_layer *l)
{
    struct latent s = latent_of(l);
    s.norm = l->n[NORM] == NORM_RMS;
    s.q_norm = l->n[Q_NORM] == NORM_RMS;
    return s;
}

static void check(struct keys *k, struct family_layer *l)
{
    latent_check(k, l);
}

LATENT_PARTS(shape)

const struct family_mechanism family_mla = {
    .name = "mla",
    .keys = keys,
    .shares = true,
    .check = check,
    .bind = bind,
    .plan = plan,
    .pack = pack,
    .write = write_rows,
    .query = query,
    .output = output,
};
