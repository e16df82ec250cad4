/* engine/textout.h - the text of one choice as it grows: whole characters only, and never a part of
 * a stop string. Engine thread. */
#ifndef LATENT_ENGINE_TEXTOUT_H
#define LATENT_ENGINE_TEXTOUT_H

#include "base/buf.h"
#include "engine/engine.h"

struct textout {
    const struct tokenizer *tokenizer; /* NULL: ids only, no text */
    const struct stop_string *stop;    /* borrowed */
    int n_stop;
    bool skip_special, include_stop;
    struct detok detok;
    struct buf pending; /* produced, not yet given out */
};

/* begins: no text stands before this one (tokenizer.h, detok_init). ERR_NOMEM: pending gets its
 * room here, not in the token loop. */
int textout_init(struct textout *t, const struct tokenizer *tokenizer,
                 const struct stop_string *stop, int n_stop, bool skip_special,
                 bool include_stop, bool begins) LATENT_MUST_CHECK;
void textout_done(struct textout *t);

/* Adds a token's bytes and appends what may be shown to out. check_stop: whether stop strings count
 * yet. Returns the index of the stop string that is complete now (out then ends where it begins, or
 * with it where include_stop), or -1; ERR_NOMEM as such. */
int textout_push(struct textout *t, int32_t token, bool check_stop, struct buf *out);
/* The choice ended: the rest, which is at least the byte tokens that were held back. Returns as textout_push
 * does. An unfinished character becomes U+FFFD. */
int textout_finish(struct textout *t, bool check_stop, struct buf *out) LATENT_MUST_CHECK;

#endif
