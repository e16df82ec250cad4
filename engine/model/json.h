/* engine/model/json.h - cJSON with limits, for the JSON files of a model folder. */
#ifndef LATENT_ENGINE_MODEL_JSON_H
#define LATENT_ENGINE_MODEL_JSON_H

#include <stddef.h>
#include "base/err.h"

struct cJSON;

/* Parses an object. `what` names it in messages. Values and keys together may be at most max_items:
 * cJSON spends about 64 bytes on each, so the text's length alone is no bound. ERR_FORMAT with the
 * byte where the text goes wrong; free with cJSON_Delete. */
int json__parse(const char *text, size_t n_bytes, size_t max_items, const char *what,
                struct cJSON **ret, struct err *e) LATENT_MUST_CHECK;
/* Member of an object (case matters); *ret NULL when absent or when o is no object. ERR_FORMAT when
 * the key is there twice: readers disagree on which one counts. */
int json__get(const struct cJSON *o, const char *key, const struct cJSON **ret) LATENT_MUST_CHECK;

#endif
