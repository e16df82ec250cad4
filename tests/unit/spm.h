/* tests/unit/spm.h - small vocabularies of SentencePiece: control tokens, the 256 bytes, what a test adds.
 * They must live as long as their tokenizer: make them static. */
#ifndef LATENT_TESTS_UNIT_SPM_H
#define LATENT_TESTS_UNIT_SPM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/tokenizer.h"

#ifndef SPM_MAX
#define SPM_MAX 4096
#endif

struct spm {
    struct tokenizer_source src;
    struct str_view tokens[SPM_MAX];
    int32_t types[SPM_MAX];
    float scores[SPM_MAX];
    char bytes[256][8];
};

/* type: as in GGUF, 1 ordinary, 2 unknown, 3 control, 4 the user's, 6 a byte. text is borrowed. */
static inline void spm_add(struct spm *s, const char *text, int type, float score)
{
    int i = s->src.n_tokens++;
    if (i >= SPM_MAX)
        abort();
    s->tokens[i] = (struct str_view){text, strlen(text)};
    s->types[i] = type;
    s->scores[i] = score;
}

/* "<unk>", "<s>", "</s>" and n_more control tokens, and then the bytes. */
static inline void spm_begin(struct spm *s, const char *const *more, int n_more)
{
    memset(s, 0, sizeof(*s));
    s->src = (struct tokenizer_source){.model = "llama",
                                       .pre = "",
                                       .tokens = s->tokens,
                                       .token_types = s->types,
                                       .scores = s->scores,
                                       .bos_token_id = 1,
                                       .eos_token_id = 2,
                                       .eot_token_id = -1,
                                       .eom_token_id = -1,
                                       .pad_token_id = -1,
                                       .unk_token_id = 0,
                                       .add_bos_token = -1,
                                       .add_eos_token = -1};
    spm_add(s, "<unk>", 2, 0);
    spm_add(s, "<s>", 3, 0);
    spm_add(s, "</s>", 3, 0);
    for (int i = 0; i < n_more; i++)
        spm_add(s, more[i], 3, 0);
    for (int b = 0; b < 256; b++) {
        snprintf(s->bytes[b], sizeof(s->bytes[b]), "<0x%02X>", (unsigned)b);
        spm_add(s, s->bytes[b], 6, 0);
    }
}

#endif
