/* api/json_read.h - request bodies as cJSON trees, with limits. */
#ifndef LATENT_API_JSON_READ_H
#define LATENT_API_JSON_READ_H

#include <cjson/cJSON.h>
#include <stddef.h>
#include "base/err.h"

/* A tree costs about 64 bytes a value. */
#define JSON_MAX_ITEMS 1000000u

/* Parses one JSON object. ERR_INVAL with the byte where the text goes wrong, ERR_LIMIT, ERR_NOMEM. Free with
 * cJSON_Delete. */
int json_read(const char *text, size_t n_bytes, cJSON **ret, struct err *e) LATENT_MUST_CHECK;
/* The same of another text than a body: `what` is the subject of the error. */
int json_read_as(const char *what, const char *text, size_t n_bytes, cJSON **ret, struct err *e)
    LATENT_MUST_CHECK;

/* A member of an object; NULL where there is none or it is null. o may be NULL. */
const cJSON *json_get(const cJSON *o, const char *name);
/* The same as text; NULL where it is no string. */
const char *json_text(const cJSON *o, const char *name);

#endif
