/* api/params_lists.c - see params_readers.h. */
#include "config.h"

#include "api/params_readers.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORDS 256      /* bad_words */
#define MAX_WORD_BYTES 256
#define MAX_BREAKERS 64
#define MAX_BREAKER_BYTES 64
#define MAX_PATTERN 1024   /* repetition_detection */
#define MAX_COUNT 1000
#define MAX_EXTRA 256      /* input_extra */

int read_best_of(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_int(v, name, 1, p->cfg->max_n, &p->best_of, e);
}

int read_suffix(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *text;
    int r = params_text(v, name, &text, e);
    if (r == 0)
        p->suffix = *text ? text : NULL;
    return r;
}

int read_input_prefix(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_text(v, name, &p->input_prefix, e);
}

int read_input_suffix(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_text(v, name, &p->input_suffix, e);
}

int read_input_extra(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *at;
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) > MAX_EXTRA)
        return err_set_param(e, ERR_INVAL, name, "%s must be a list of at most %d objects", name, MAX_EXTRA);
    cJSON_ArrayForEach(at, v)
    {
        const cJSON *file = cJSON_GetObjectItemCaseSensitive(at, "filename");
        if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(at, "text")) || (file && !cJSON_IsString(file)))
            return params_bad(e, name, "a list of objects with the strings text and filename");
    }
    p->input_extra = v;
    return 0;
}

int read_n_probs(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int n = 0, r = params_int(v, name, 0, p->cfg->max_logprobs, &n, e);
    p->logprobs = n > 0 ? n : -1;
    return r;
}

/* -1 asks for no bound, as llama-server and LM Studio have it. */
int read_max_tokens(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int n, r = params_int(v, name, -1, INT32_MAX, &n, e);
    if (r == 0)
        p->max_tokens = n < 0 ? INT_MAX : n;
    return r;
}

int read_chat_max_tokens(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int r = read_max_tokens(p, v, name, e);
    return r == 0 && p->max_tokens == 0 ? params_bad(e, name, "-1 or a whole number of at least 1") : r;
}

int read_n_predict(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int n, r = params_int(v, name, -2, INT32_MAX, &n, e); /* 0: the prompt goes into the cache */
    if (r == 0)
        p->max_tokens = n < 0 ? INT_MAX : n;
    return r;
}

/* Of one token (text NULL), or of all tokens of a text. */
static int add_bias(struct params *p, const char *text, int32_t id, float bias, const char *name,
                    struct err *e)
{
    const struct tokenizer *t = engine_info(p->cfg->engine)->tokenizer;
    size_t room = (size_t)(p->cfg->max_logit_bias - p->n_logit_bias), n = text ? strlen(text) : 0;
    struct token_list ids = {0};
    if (n > MAX_WORD_BYTES)
        return err_set_param(e, ERR_INVAL, name, "%s may hold texts of at most %d bytes", name,
                             MAX_WORD_BYTES);
    if (text && !t)
        return err_set_param(e, ERR_UNSUPPORTED, name, "%s: this model has no tokenizer", name);
    int r = text ? tokenizer_encode(t, text, n, 0, room, &ids, e) : room ? 0 : ERR_LIMIT;
    if (r == ERR_LIMIT)
        err_set_param(e, ERR_INVAL, name, "%s may hold at most %d tokens", name, p->cfg->max_logit_bias);
    if (r == 0 && !text)
        p->logit_bias[p->n_logit_bias++] = (struct logit_bias){id, bias};
    for (size_t i = 0; r == 0 && i < ids.n; i++)
        p->logit_bias[p->n_logit_bias++] = (struct logit_bias){ids.ids[i], bias};
    free(ids.ids);
    return r;
}

/* llama-server's: an object, or a list of pairs; a token is an id or a text, and false bans it. */
int read_native_logit_bias(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *at;
    bool object = cJSON_IsObject(v);
    int r = object || cJSON_IsArray(v) ? 0 : params_bad(e, name, "a list of pairs of a token and a number");
    size_t most = p->cfg->max_logit_bias > 0 ? (size_t)p->cfg->max_logit_bias : 1;
    p->n_logit_bias = 0;
    if (r == 0 && !(p->logit_bias = arena_array(p->arena, most, sizeof(*p->logit_bias))))
        r = params_no_memory(e);
    for (at = v ? v->child : NULL; r == 0 && at; at = at->next) {
        const cJSON *token = at->child, *bias = object ? at : token ? token->next : NULL;
        const char *text = object ? at->string : cJSON_GetStringValue(token);
        double number = cJSON_IsFalse(bias) ? -100 : cJSON_IsNumber(bias) ? bias->valuedouble : NAN;
        double id = !object && cJSON_IsNumber(token) ? token->valuedouble : -1;
        char *end = NULL;
        if (object && *text && (id = (double)strtol(text, &end, 10), !*end))
            text = NULL;
        bool pair = object || (cJSON_IsArray(at) && bias && !bias->next);
        if (!pair || !(number >= -100 && number <= 100))
            return params_bad(e, name, "of pairs of a token and a number from -100 to 100, or false");
        if (!text && !(id >= 0 && id < p->vocab_size && id == floor(id)))
            return err_set_param(e, ERR_INVAL, name, "%s holds what is no token id from 0 to %d", name,
                                 p->vocab_size - 1);
        r = add_bias(p, text, (int32_t)id, (float)number, name, e);
    }
    return r;
}

int read_prompt_logprobs(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_int(v, name, 0, p->cfg->max_logprobs, &p->prompt_logprobs, e);
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int read_allowed_token_ids(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int r = params_ids(p, v, name, p->vocab_size, &p->allowed, &p->n_allowed, e);
    if (r == 0 && p->n_allowed == 0)
        return params_bad(e, name, "a list of at least one token id");
    if (r == 0)
        qsort(p->allowed, (size_t)p->n_allowed, sizeof(*p->allowed), ascending);
    return r;
}

/* The strings of a list, each of 1 to max_bytes, in the arena. */
static int strings_of(struct params *p, const cJSON *v, const char *name, int max, int max_bytes,
                      struct stop_string **ret, int *ret_n, struct err *e)
{
    int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : -1, i = 0;
    const cJSON *at;
    if (n < 0 || n > max)
        return err_set_param(e, ERR_INVAL, name, "%s must be a list of at most %d strings", name, max);
    struct stop_string *list = arena_array(p->arena, n ? (size_t)n : 1, sizeof(*list));
    if (!list)
        return params_no_memory(e);
    cJSON_ArrayForEach(at, v)
    {
        size_t bytes = cJSON_IsString(at) ? strlen(at->valuestring) : 0;
        if (bytes < 1 || bytes > (size_t)max_bytes)
            return err_set_param(e, ERR_INVAL, name, "%s must hold strings of 1 to %d bytes", name,
                                 max_bytes);
        list[i++] = (struct stop_string){at->valuestring, bytes};
    }
    *ret = list;
    *ret_n = n;
    return 0;
}

int read_breakers(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return strings_of(p, v, name, MAX_BREAKERS, MAX_BREAKER_BYTES, &p->breakers, &p->n_breakers, e);
}

/* One word as tokens: at the beginning of a text, or after a space. */
static int add_word(struct params *p, const struct tokenizer *t, const char *space,
                    const struct stop_string *word, struct err *e)
{
    char text[MAX_WORD_BYTES + 2];
    struct token_list ids = {0};
    size_t n = strlen(space);
    memcpy(text, space, n);
    memcpy(text + n, word->data, word->n_bytes);
    int r = tokenizer_encode(t, text, n + word->n_bytes, 0, sizeof(text) * 4, &ids, e);
    int32_t *copy = r == 0 && ids.n ? arena_memdup(p->arena, ids.ids, ids.n * sizeof(*copy)) : NULL;
    if (r == 0 && ids.n && !copy)
        r = params_no_memory(e);
    if (copy)
        p->bad_words[p->n_bad_words++] = (struct token_word){copy, (int)ids.n};
    free(ids.ids);
    return r;
}

int read_bad_words(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const struct tokenizer *t = engine_info(p->cfg->engine)->tokenizer;
    struct stop_string *words;
    int n, r = strings_of(p, v, name, MAX_WORDS, MAX_WORD_BYTES, &words, &n, e);
    p->n_bad_words = 0;
    if (r < 0 || n == 0)
        return r;
    if (!t)
        return err_set_param(e, ERR_UNSUPPORTED, name, "%s: this model has no tokenizer", name);
    if (!(p->bad_words = arena_array(p->arena, 2 * (size_t)n, sizeof(*p->bad_words))))
        return params_no_memory(e);
    for (int i = 0; i < n && r == 0; i++) {
        r = add_word(p, t, "", &words[i], e);
        if (r == 0 && words[i].data[0] != ' ')
            r = add_word(p, t, " ", &words[i], e);
    }
    return r;
}

int read_truncate(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int r = params_int(v, name, -1, INT_MAX, &p->truncate_prompt, e);
    if (r == 0 && p->truncate_prompt == 0)
        return params_bad(e, name, "-1 (as much as fits) or at least 1");
    return r;
}

int read_repetition_detection(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    struct repetition_detection *d = &p->repetition;
    const struct {
        const char *name;
        int min, max, *at;
    } parts[] = {
        {"max_pattern_size", 0, MAX_PATTERN, &d->max_pattern_size},
        {"min_pattern_size", 0, MAX_PATTERN, &d->min_pattern_size},
        {"min_count", 2, MAX_COUNT, &d->min_count},
    };
    const cJSON *at;
    char field[64];
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object of max_pattern_size, min_pattern_size and min_count");
    *d = (struct repetition_detection){0, 0, 2};
    cJSON_ArrayForEach(at, v)
    {
        int r = ERR_NOTFOUND;
        for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
            if (!strcmp(parts[i].name, at->string)) {
                snprintf(field, sizeof(field), "%s.%s", name, parts[i].name);
                r = params_int(at, field, parts[i].min, parts[i].max, parts[i].at, e);
            }
        if (r == ERR_NOTFOUND)
            return params_bad(e, name, "an object of max_pattern_size, min_pattern_size and min_count");
        if (r < 0)
            return r;
    }
    if (d->min_pattern_size > d->max_pattern_size)
        return err_set_param(e, ERR_INVAL, name,
                             "%s.min_pattern_size must not be above max_pattern_size (%d)", name,
                             d->max_pattern_size);
    return 0;
}

int read_reasoning_effort(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    static const char *const known[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    for (size_t i = 0; cJSON_IsString(v) && i < sizeof(known) / sizeof(*known); i++)
        if (!strcmp(v->valuestring, known[i])) {
            p->reasoning_effort = known[i];
            return 0;
        }
    return params_bad(e, name, "none, minimal, low, medium, high or xhigh");
}

/* llama-server's words for it. */
int read_reasoning_format(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    if (strcmp(s, "none") != 0 && strcmp(s, "auto") != 0 && strcmp(s, "deepseek") != 0)
        return params_bad(e, name, "none, auto or deepseek");
    p->separate_reasoning = strcmp(s, "none") != 0;
    return 0;
}

int read_request_id(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-");
    if (n < 1 || n > MAX_REQUEST_ID || s[n])
        return params_bad(e, name,
                          "a string of 1 to 64 letters, digits, dots, colons, dashes or underscores");
    p->request_id = s;
    return 0;
}
