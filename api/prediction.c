/* api/prediction.c - `prediction`, OpenAI's predicted outputs: an answer that this one will be much like, as
 * when a file comes back with a few lines changed. The engine drafts from it (engine/sched_draft.c), which
 * changes no answer, but how soon it comes. */
#include "config.h"

#include <string.h>

#include "api/internal.h"
#include "api/json_read.h"
#include "api/params_readers.h"

static const char expected[] = "{\"type\":\"content\",\"content\":...} with a string or a list of text parts";

static bool is_part(const cJSON *part)
{
    const char *type = json_text(part, "type");
    return type && !strcmp(type, "text") && json_text(part, "text");
}

/* The texts of a list of parts as one, in the arena. */
static int join(struct params *p, const cJSON *parts, const char *name, struct err *e)
{
    const cJSON *part;
    size_t n = 0;
    cJSON_ArrayForEach(part, parts)
    {
        if (!is_part(part))
            return params_bad(e, name, expected);
        n += strlen(json_text(part, "text"));
    }
    char *at = arena_array(p->arena, n + 1, 1);
    if (!at)
        return params_no_memory(e);
    p->prediction = at;
    *at = 0;
    cJSON_ArrayForEach(part, parts)
        at = stpcpy(at, json_text(part, "text"));
    return 0;
}

int read_prediction(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *type = json_text(v, "type");
    const cJSON *content = json_get(v, "content");
    if (!type || strcmp(type, "content") != 0 || !(cJSON_IsString(content) || cJSON_IsArray(content)))
        return params_bad(e, name, expected);
    p->prediction = cJSON_GetStringValue(content);
    return p->prediction ? 0 : join(p, content, name, e);
}

int tokenize_prediction(struct api_exchange *x, struct err *e)
{
    const struct engine_info *info = engine_info(x->a->engine);
    const char *text = x->p.prediction;
    if (!text)
        return 0;
    int r = tokenizer_encode(info->tokenizer, text, strlen(text), 0, (size_t)info->max_model_len,
                             &x->prediction, e);
    return r == ERR_LIMIT ? err_set_param(e, r, "prediction", "prediction has more tokens than the model's "
                                          "context length, %d", info->max_model_len)
                          : r;
}
