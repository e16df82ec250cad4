/* engine/tokenizer/vocab_json.h - what the two halves of the tokenizer.json reader share. */
#ifndef LATENT_ENGINE_TOKENIZER_VOCAB_JSON_H
#define LATENT_ENGINE_TOKENIZER_VOCAB_JSON_H

#include <cjson/cJSON.h>
#include "engine/model/json.h"
#include "engine/tokenizer/vocab.h"

/* Owns what the strings of the vocab point into. */
struct kept {
    cJSON *root;
    char *quoted[PRETOK_MAX_PATTERNS]; /* literal patterns, escaped */
    int n_quoted;
};

static inline const cJSON *member(const cJSON *o, const char *key)
{
    const cJSON *ret = NULL;
    return json__get(o, key, &ret) < 0 ? NULL : ret;
}

static inline const char *text_of(const cJSON *o, const char *key)
{
    const cJSON *v = member(o, key);
    return cJSON_IsString(v) ? v->valuestring : "";
}

static inline bool is_set(const cJSON *o, const char *key)
{
    return cJSON_IsTrue(member(o, key));
}

static inline int unsupported(struct err *e, const char *what, const char *value)
{
    return err_set_param(e, ERR_UNSUPPORTED, what, "tokenizer.json: %s \"%.60s\" is not served",
                         what, value);
}

/* The steps before, into and out of the vocabulary; vocab__json_pretok decides the kind of symbols. */
int vocab__json_normalizer(const cJSON *root, struct vocab *v, struct err *e) LATENT_MUST_CHECK;
int vocab__json_pretok(const cJSON *root, struct vocab *v, struct kept *k,
                       struct err *e) LATENT_MUST_CHECK;
int vocab__json_decoder(const cJSON *root, struct vocab *v, struct err *e) LATENT_MUST_CHECK;

#endif
