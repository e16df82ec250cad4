/* engine/grammar/marks.h - texts with control tokens in them, and free text around them. Where the vocabulary
 * has a control token for a part of a mark, that part is that token. */
#ifndef LATENT_ENGINE_GRAMMAR_MARKS_H
#define LATENT_ENGINE_GRAMMAR_MARKS_H

#include "engine/grammar/rules.h"

#define MARK_MAX_BYTES 256

/* Writes a mark from a state on; returns where it ends. */
int32_t mark_text(struct rules *b, int32_t from, const char *s);

/* A mark in free text. */
struct mark_end {
    const char *mark;
    int32_t to; /* where the text goes on behind it; -1: it cannot be written */
};

/* Any characters but NUL from a state on, up to the first of the marks. A mark with a control token ends the
 * text as that token; spelled in plain characters it cannot be written. end: the text may also end there, or
 * -1. first: marks count only at the beginning of the text, behind spaces and empty lines. */
void marks_free_text(struct rules *b, int32_t from, const struct mark_end *ends, int n, int32_t end,
                     bool first);

#endif
