/* engine/sample.h - samplers beyond top_k, top_p and min_p, one file each. They work on a list of candidates
 * and their weights; sampler.c makes the list and draws from what they leave. Engine thread and pool threads;
 * nothing allocates but the _new functions. */
#ifndef LATENT_ENGINE_SAMPLE_H
#define LATENT_ENGINE_SAMPLE_H

#include "engine/engine.h"

struct sample_entry {
    double p;   /* weight; the sum need not be 1 */
    float key;  /* larger goes first in sample_take */
    int32_t id;
};

struct sample_list {
    struct sample_entry *e;
    int n; /* at least 1, before and after every filter */
};

/* Keeps the entries with the largest keys (ties: lower id), best first, until there are `most` or their
 * weights sum up to `mass`. */
void sample_take(struct sample_list *l, int most, double mass);
double sample_sum(const struct sample_list *l);
/* The entry at u (0 .. 1) of the summed weights. */
int sample_at(const struct sample_list *l, double u);
/* keys become weights */
void sample_key_weights(struct sample_list *l);

/* sample_sigma.c: logits below max - n * deviation are left out (top-n-sigma, Tang et al. 2024). Returns the
 * bound. Logits of -infinity do not count. */
double sample_sigma_bound(const float *logits, int vocab_size, double n);
/* sample_typical.c: those whose surprise is nearest to the entropy, until their mass is `part` (locally
 * typical sampling, Meister et al. 2022). */
void sample_typical(struct sample_list *l, double part);
/* sample_xtc.c: where two or more reach `threshold`, all of these but the least likely go ("exclude top
 * choices"). The caller decides by chance whether. */
void sample_xtc(struct sample_list *l, double threshold);

/* sample_mirostat.c: truncation that holds the surprise of the output at tau (Basu et al. 2020). */
struct mirostat {
    int version; /* 1, 2 */
    double tau, eta, mu, next_mu;
    int vocab_size;
};
void mirostat_init(struct mirostat *m, int version, double tau, double eta, int vocab_size);
/* Index of the chosen entry; next_mu is what mu becomes when it is accepted. */
int mirostat_choose(struct mirostat *m, struct sample_list *l, double u);
void mirostat_accept(struct mirostat *m);

/* sample_dry.c: the longer the repetition that a token would go on with, the more it loses (DRY). */
struct dry;
struct dry_loss {
    int32_t token;
    int length; /* of the repetition */
    float loss;
};
/* most: tokens that there will ever be. ERR_NOMEM. Borrows p and tokenizer. */
int dry_new(const struct sampling_params *p, const struct tokenizer *tokenizer, int most,
            struct dry **ret) LATENT_MUST_CHECK;
void dry_free(struct dry **d);
/* What follows from tokens[0 .. n): a list, each token once, valid until the next call. */
int dry_losses(struct dry *d, const int32_t *tokens, int n, const struct dry_loss **ret);

/* sample_repeat.c: do the last n tokens end with min_count times the same pattern? */
bool repeats(const struct repetition_detection *r, const int32_t *tokens, int n);

#endif
