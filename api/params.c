/* api/params.c - see params.h. The readers of fields that are more than a number or a flag, the table, and
 * the walk over a request. */
#include "config.h"

#include "api/params.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "api/fields.h"
#include "api/json_read.h"
#include "api/params_readers.h"
#include "base/hash.h"

#define MAX_INT INT_MAX
#define MAX_STOP_BYTES 512
#define MAX_STOP_IDS 256
#define MAX_TEMPLATE_KWARGS 64
#define MAX_FIELDS 1024 /* in an object of fields: each is looked up */
#define PARAMS_ARENA_BYTES (256u << 20)

int params_bad(struct err *e, const char *name, const char *expected)
{
    return err_set_param(e, ERR_INVAL, name, "%s must be %s", name, expected);
}

int params_no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory for the request");
}

/* A whole number in [min, max]: 3.5, 1e999 and "3" are none. */
static int whole(const cJSON *v, double min, double max, double *ret)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= min && v->valuedouble <= max) ||
        v->valuedouble != floor(v->valuedouble))
        return ERR_INVAL;
    *ret = v->valuedouble;
    return 0;
}

int params_int(const cJSON *v, const char *name, int min, int max, int *ret, struct err *e)
{
    double d;
    if (whole(v, min, max, &d) < 0)
        return max == MAX_INT
                   ? err_set_param(e, ERR_INVAL, name, "%s must be a whole number of at least %d", name, min)
                   : err_set_param(e, ERR_INVAL, name, "%s must be a whole number from %d to %d", name,
                                   min, max);
    *ret = (int)d;
    return 0;
}

int params_text(const cJSON *v, const char *name, const char **ret, struct err *e)
{
    if (!cJSON_IsString(v))
        return params_bad(e, name, "a string");
    *ret = v->valuestring;
    return 0;
}

static void *list_of(struct params *p, size_t n, size_t elem_bytes)
{
    return arena_array(p->arena, n ? n : 1, elem_bytes);
}

/* --- readers -------------------------------------------------------------------------------------- */

static int read_model(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_text(v, name, &p->model, e);
}

static int read_prompt(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)name;
    (void)e;
    p->prompt = v;
    return 0;
}

static int read_messages(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)name;
    (void)e;
    p->messages = v;
    return 0;
}

static int read_list(const cJSON *v, const char *name, const cJSON **ret, struct err *e)
{
    if (!cJSON_IsArray(v))
        return params_bad(e, name, "a list of objects");
    *ret = v->child ? v : NULL; /* an empty one asks for nothing */
    return 0;
}

static int read_tools(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return read_list(v, name, &p->tools, e);
}

static int read_documents(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return read_list(v, name, &p->documents, e);
}

/* More variables for the template. What the request says elsewhere, and the model's own, stay theirs. */
static int read_template_kwargs(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    static const char *const taken[] = {"messages", "tools", "documents", "add_generation_prompt",
                                        "chat_template", "bos_token", "eos_token"};
    const cJSON *at;
    int n = 0;
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object");
    cJSON_ArrayForEach(at, v)
    {
        if (++n > MAX_TEMPLATE_KWARGS)
            return err_set_param(e, ERR_LIMIT, name, "%s may hold at most %d values", name,
                                 MAX_TEMPLATE_KWARGS);
        for (size_t i = 0; i < sizeof(taken) / sizeof(*taken); i++)
            if (!strcmp(at->string, taken[i]))
                return err_set_param(e, ERR_INVAL, name, "%s cannot set \"%s\"", name, taken[i]);
    }
    p->template_kwargs = v;
    return 0;
}

static int read_tokens(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsArray(v))
        return params_bad(e, name, "a list of token ids");
    p->tokens = v;
    return 0;
}

static int read_n(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_int(v, name, 1, p->cfg->max_n, &p->n, e);
}

static int read_seed(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    double d;
    if (whole(v, -9223372036854775808.0, 9223372036854774784.0, &d) < 0)
        return params_bad(e, name, "a whole number of 64 bits");
    p->has_seed = true;
    p->seed = (uint64_t)(int64_t)d;
    return 0;
}

/* llama-server's and Ollama's: -1 asks for any. */
static int read_seed_or_any(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int r = read_seed(p, v, name, e);
    p->has_seed = p->has_seed && p->seed != UINT64_MAX;
    return r;
}

static int put_stop(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    size_t n = cJSON_IsString(v) ? strlen(v->valuestring) : 0;
    if (n < 1 || n > MAX_STOP_BYTES)
        return err_set_param(e, ERR_INVAL, name, "%s must hold strings of 1 to %d bytes", name,
                             MAX_STOP_BYTES);
    p->stop[p->n_stop++] = (struct stop_string){v->valuestring, n};
    return 0;
}

static int read_stop(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : 1;
    const cJSON *at;
    if (!cJSON_IsArray(v) && !cJSON_IsString(v))
        return params_bad(e, name, "a string or a list of strings");
    if (n > p->cfg->max_stop)
        return err_set_param(e, ERR_INVAL, name, "%s may hold at most %d strings", name,
                             p->cfg->max_stop);
    p->n_stop = 0;
    if (!(p->stop = list_of(p, (size_t)n, sizeof(*p->stop))))
        return params_no_memory(e);
    if (cJSON_IsString(v)) /* an empty string asks for nothing, as other servers have it */
        return *v->valuestring ? put_stop(p, v, name, e) : 0;
    cJSON_ArrayForEach(at, v)
    {
        int r = put_stop(p, at, name, e);
        if (r < 0)
            return r;
    }
    return 0;
}

int params_ids(struct params *p, const cJSON *list, const char *what, int max, int32_t **ret_ids,
               int *ret_n, struct err *e)
{
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1, i = 0;
    const cJSON *at;
    double d;
    if (n < 0)
        return params_bad(e, what, "a list of token ids");
    if (n > max)
        return err_set_param(e, ERR_LIMIT, what, "%s has %d token ids; at most %d are accepted", what, n,
                             max);
    int32_t *ids = list_of(p, (size_t)n, sizeof(*ids));
    if (!ids)
        return params_no_memory(e);
    cJSON_ArrayForEach(at, list)
    {
        if (whole(at, 0, p->vocab_size - 1, &d) < 0)
            return err_set_param(e, ERR_INVAL, what, "%s[%d] is not a token id from 0 to %d", what, i,
                                 p->vocab_size - 1);
        ids[i++] = (int32_t)d;
    }
    *ret_ids = ids;
    *ret_n = n;
    return 0;
}

static int read_stop_token_ids(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_ids(p, v, name, MAX_STOP_IDS, &p->stop_token_ids, &p->n_stop_token_ids, e);
}

int read_logit_bias(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    int n = cJSON_IsObject(v) ? cJSON_GetArraySize(v) : -1;
    const cJSON *at;
    if (n < 0)
        return params_bad(e, name, "an object of token ids and numbers");
    if (n > p->cfg->max_logit_bias)
        return err_set_param(e, ERR_INVAL, name, "%s may hold at most %d entries", name,
                             p->cfg->max_logit_bias);
    p->n_logit_bias = 0;
    if (!(p->logit_bias = list_of(p, (size_t)n, sizeof(*p->logit_bias))))
        return params_no_memory(e);
    cJSON_ArrayForEach(at, v)
    {
        char *end = NULL;
        errno = 0;
        long id = strtol(at->string, &end, 10);
        if (errno || end == at->string || *end || id < 0 || id >= p->vocab_size)
            return err_set_param(e, ERR_INVAL, name, "%s: \"%.20s\" is not a token id from 0 to %d", name,
                                 at->string, p->vocab_size - 1);
        if (!cJSON_IsNumber(at) || !(at->valuedouble >= -100 && at->valuedouble <= 100))
            return err_set_param(e, ERR_INVAL, name, "%s[%ld] must be a number from -100 to 100", name, id);
        p->logit_bias[p->n_logit_bias++] = (struct logit_bias){(int32_t)id, (float)at->valuedouble};
    }
    return 0;
}

static int read_logprobs(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (cJSON_IsFalse(v))
        return 0;
    if (cJSON_IsTrue(v)) {
        p->logprobs = 0;
        return 0;
    }
    return params_int(v, name, 0, p->cfg->max_logprobs, &p->logprobs, e);
}

static int read_top_logprobs(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return params_int(v, name, 0, p->cfg->max_logprobs, &p->top_logprobs, e);
}

static int read_add_special(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsBool(v))
        return params_bad(e, name, "true or false");
    p->add_special_tokens = cJSON_IsTrue(v);
    p->has_add_special_tokens = true;
    return 0;
}

static int read_stream_options(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(v, "include_usage");
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(v, "continuous_usage_stats");
    if (!cJSON_IsObject(v))
        return params_bad(e, name, "an object");
    if (usage && !cJSON_IsBool(usage) && !cJSON_IsNull(usage))
        return params_bad(e, "stream_options.include_usage", "true or false");
    if (all && !cJSON_IsBool(all) && !cJSON_IsNull(all))
        return params_bad(e, "stream_options.continuous_usage_stats", "true or false");
    p->include_usage = cJSON_IsTrue(usage);
    p->continuous_usage_stats = cJSON_IsTrue(usage) && cJSON_IsTrue(all);
    return 0;
}

static int read_cache_salt(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    if (!cJSON_IsString(v) || !*v->valuestring)
        return params_bad(e, name, "a string that is not empty");
    p->cache_salt = hash64_bytes(v->valuestring, strlen(v->valuestring), 0x6c617465);
    p->cache_salt += p->cache_salt == 0;
    return 0;
}

/* Seconds, above 0 and at most what the operator allows (0: a day). */
static int read_seconds(const cJSON *v, const char *name, int64_t max_ns, int64_t *ret, struct err *e)
{
    double max = max_ns > 0 ? (double)max_ns / 1e9 : 86400, d = cJSON_IsNumber(v) ? v->valuedouble : NAN;
    if (!(d > 0 && d <= max))
        return err_set_param(e, ERR_INVAL, name, "%s must be a number of seconds above 0 and up to %g", name,
                             max);
    *ret = (int64_t)(d * 1e9) + 1;
    return 0;
}

static int read_timeout(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return read_seconds(v, name, p->cfg->request_timeout_ns, &p->timeout_ns, e);
}

static int read_max_queue_time(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    return read_seconds(v, name, p->cfg->max_queue_ns, &p->max_queue_ns, e);
}

/* --- the table ------------------------------------------------------------------------------------ */

const struct field api_fields[] = {
#define NUM(where, name, member, min, max) \
    {where, name, KIND_NUM, offsetof(struct params, member), min, max, NULL, NULL},
#define OPEN(where, name, member, min, max) \
    {where, name, KIND_OPEN, offsetof(struct params, member), min, max, NULL, NULL},
#define INT(where, name, member, min, max) \
    {where, name, KIND_INT, offsetof(struct params, member), min, max, NULL, NULL},
#define BOOL(where, name, member) {where, name, KIND_BOOL, offsetof(struct params, member), 0, 1, NULL, NULL},
#define VALUE(where, name, function) {where, name, KIND_VALUE, 0, 0, 0, function, #function},
#define IGNORED(where, name) {where, name, KIND_IGNORED, 0, 0, 0, NULL, NULL},
#define UNSERVED(where, name) {where, name, KIND_UNSERVED, 0, 0, 0, NULL, NULL},
#include "api/fields.def"
#undef NUM
#undef OPEN
#undef INT
#undef BOOL
#undef VALUE
#undef IGNORED
#undef UNSERVED
};

const size_t api_n_fields = sizeof(api_fields) / sizeof(*api_fields);

static const struct field *find_field(const char *name, enum field_where where)
{
    for (size_t i = 0; i < api_n_fields; i++)
        if ((api_fields[i].where & where) && !strcmp(api_fields[i].name, name))
            return &api_fields[i];
    return NULL;
}

/* Values by which clients say "not this": they ask for nothing. */
static bool asks_nothing(const cJSON *v)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");
    if (cJSON_IsString(v))
        return !*v->valuestring || !strcmp(v->valuestring, "none") || !strcmp(v->valuestring, "auto");
    if (cJSON_IsNumber(v))
        return v->valuedouble == 0;
    if (cJSON_IsObject(v) && cJSON_IsString(type))
        return !strcmp(type->valuestring, "text");
    return cJSON_IsFalse(v) || ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child) ||
           (cJSON_IsArray(v) && cJSON_GetArraySize(v) == 1 && cJSON_IsString(v->child) &&
            !strcmp(v->child->valuestring, "text")); /* modalities */
}

static int read_number(const struct field *f, const cJSON *v, double *ret, struct err *e)
{
    double d = cJSON_IsNumber(v) ? v->valuedouble : NAN;
    if (!(d >= f->min && d <= f->max) || (f->kind == KIND_OPEN && d == f->min))
        return err_set_param(e, ERR_INVAL, f->name, "%s must be a number %s %g%s %g", f->name,
                             f->kind == KIND_OPEN ? "above" : "from", f->min,
                             f->kind == KIND_OPEN ? " and up to" : " to", f->max);
    *ret = d;
    return 0;
}

static int read_field(struct params *p, const struct field *f, const cJSON *v, struct err *e)
{
    char *at = (char *)p + f->offset;
    switch (f->kind) {
    case KIND_NUM:
    case KIND_OPEN:
        return read_number(f, v, (double *)(void *)at, e);
    case KIND_INT:
        return params_int(v, f->name, (int)f->min, (int)f->max, (int *)(void *)at, e);
    case KIND_BOOL:
        if (!cJSON_IsBool(v))
            return params_bad(e, f->name, "true or false");
        *(bool *)at = cJSON_IsTrue(v);
        return 0;
    case KIND_VALUE:
        return f->read(p, v, f->name, e);
    case KIND_IGNORED:
        return 0;
    case KIND_UNSERVED:
        return asks_nothing(v) ? 0
                               : err_set_param(e, ERR_UNSUPPORTED, f->name,
                                               "%s is not supported by this server", f->name);
    }
    return 0;
}

/* Where DRY stops looking when the request does not say: what other servers have. */
static struct stop_string default_breakers[] = {{"\n", 1}, {":", 1}, {"\"", 1}, {"*", 1}};

static void set_defaults(struct params *p, enum field_where where)
{
    p->temperature = p->top_p = p->repetition_penalty = 1;
    p->n = 1;
    p->logprobs = p->top_logprobs = -1;
    p->max_tokens = where == IN_COMPLETIONS ? 16 : where == IN_MESSAGES ? 0 : MAX_INT;
    p->stream = where & (IN_GENERATE | IN_OLLAMA_CHAT); /* Ollama streams unless told not to */
    p->pooling = where & (IN_EMBEDDINGS | IN_EMBED | IN_OLD_EMBED) ? POOLING_MEAN : POOLING_NONE;
    p->truncate = true;
    p->store = true;
    p->include_reasoning = p->separate_reasoning = p->parallel_tool_calls = true;
    if (where == IN_MESSAGES)
        p->include_reasoning = false; /* until thinking is asked for */
    p->length_penalty = 1;
    p->best_of = 1;
    p->prompt_logprobs = -1;
    p->mirostat_tau = 5;
    p->mirostat_eta = 0.1;
    p->dry_base = 1.75;
    p->dry_allowed_length = 2;
    p->dry_penalty_last_n = -1;
    p->xtc_threshold = 0.1;
    p->typical_p = 1;
    p->breakers = default_breakers;
    p->n_breakers = sizeof(default_breakers) / sizeof(*default_breakers);
    p->skip_special_tokens = p->add_special_tokens = p->parse_special = true;
    p->add_generation_prompt = where != IN_CACHE; /* what is cached is gone on with */
    p->priority = PRIORITY_NOT_SAID;
    p->timeout_ns = p->cfg->request_timeout_ns;
    p->max_queue_ns = p->cfg->max_queue_ns;
}

#define MAX_BEAMS 32 /* twice as many alternatives are asked for, and the engine tells 64 */

static int check_beams(const struct params *p, struct err *e)
{
    const struct {
        bool given;
        const char *name;
    } others[] = {
        {p->stream, "stream"},
        {p->echo, "echo"},
        {p->logprobs >= 0, "logprobs"},
        {p->prompt_logprobs >= 0, "prompt_logprobs"},
        {p->best_of > 1, "best_of"},
        {p->structure_field != NULL, "structured output"},
        {p->n_stop > 0, "stop"},
        {p->n_logit_bias > 0, "logit_bias"},
        {p->n_allowed > 0, "allowed_token_ids"},
        {p->n_bad_words > 0, "bad_words"},
        {p->min_tokens > 0, "min_tokens"},
        {p->thought_budget > 0, "thinking_token_budget"},
        {p->max_tokens < 1, "max_tokens 0"},
        {cJSON_GetArraySize(p->prompt) > 1 && !cJSON_IsNumber(p->prompt->child), "several prompts"},
    };
    for (size_t i = 0; p->use_beam_search && i < sizeof(others) / sizeof(*others); i++)
        if (others[i].given)
            return err_set_param(e, ERR_INVAL, "use_beam_search",
                                 "use_beam_search cannot be combined with %s", others[i].name);
    if (p->use_beam_search && p->n > MAX_BEAMS)
        return err_set_param(e, ERR_INVAL, "n",
                             "n must be a whole number from 1 to %d with use_beam_search", MAX_BEAMS);
    return 0;
}

static int check_best_of(struct params *p, struct err *e)
{
    if (p->best_of > 1 && p->best_of < p->n)
        return err_set_param(e, ERR_INVAL, "best_of", "best_of must not be below n (%d)", p->n);
    if (p->best_of > 1 && p->stream)
        return err_set_param(e, ERR_INVAL, "best_of",
                             "best_of cannot be streamed: the best is known at the end");
    if (p->prompt_logprobs >= 0 && p->stream)
        return err_set_param(e, ERR_INVAL, "prompt_logprobs", "prompt_logprobs cannot be streamed");
    if (p->suffix && p->echo)
        return err_set_param(e, ERR_INVAL, "suffix", "suffix cannot be combined with echo");
    p->n_shown = p->n;
    if (p->best_of > p->n)
        p->n = p->best_of;
    return 0;
}

static int check_together(struct params *p, enum field_where where, struct err *e)
{
    if (where == IN_MESSAGES && p->max_tokens < 1)
        return err_set_param(e, ERR_INVAL, "max_tokens", "max_tokens is missing");
    if (where == IN_CHAT) {
        if (p->top_logprobs > 0 && !p->chat_logprobs) /* 0 asks for none: some clients send all defaults */
            return err_set_param(e, ERR_INVAL, "top_logprobs", "top_logprobs needs logprobs: true");
        if (p->chat_logprobs)
            p->logprobs = p->top_logprobs > 0 ? p->top_logprobs : 0;
        if (p->continue_final_message && p->add_generation_prompt) {
            /* the default gives way to what was asked for */
            p->add_generation_prompt = false;
        }
    }
    if (p->background && !p->stream)
        return err_set_param(e, ERR_UNSUPPORTED, "background", "background needs stream: true");
    p->resumable |= p->background;
    int r = check_best_of(p, e);
    if (r == 0)
        r = check_beams(p, e);
    if (r < 0)
        return r;
    bool native = where == IN_NATIVE || where == IN_INFILL; /* there 0 fills the cache */
    if (p->max_tokens == 0 && !p->echo && p->logprobs < 0 && p->prompt_logprobs < 0 && !p->pooling && !native)
        return err_set_param(
            e, ERR_INVAL, "max_tokens",
            "max_tokens may be 0 only with echo, logprobs or prompt_logprobs, to score a prompt");
    if (p->min_tokens > p->max_tokens)
        return err_set_param(e, ERR_INVAL, "min_tokens", "min_tokens must not be above max_tokens (%d)",
                             p->max_tokens);
    if (!p->has_seed && getrandom(&p->seed, sizeof(p->seed), GRND_NONBLOCK) != sizeof(p->seed))
        p->seed = (uint64_t)(uintptr_t)p ^ (uint64_t)rand();
    return 0;
}

const char *params_asked(const struct params *p)
{
    return p->asked ? p->asked : p->messages && !p->prompt ? "messages" : "prompt";
}

int params_fields(struct params *p, const cJSON *object, enum field_where where, struct err *e)
{
    const cJSON *last[sizeof(api_fields) / sizeof(*api_fields)] = {NULL}, *at;
    if (cJSON_GetArraySize(object) > MAX_FIELDS)
        return err_set(e, ERR_LIMIT, "an object of the request has more than %d fields", MAX_FIELDS);
    cJSON_ArrayForEach(at, object)
    {
        const struct field *f = find_field(at->string, where);
        if (!f && p->cfg->strict)
            return err_set_param(e, ERR_INVAL, at->string, "unknown field \"%.60s\"", at->string);
        if (f)
            last[f - api_fields] = at;
    }
    cJSON_ArrayForEach(at, object)
    {
        const struct field *f = find_field(at->string, where);
        if (!f || last[f - api_fields] != at || cJSON_IsNull(at)) /* of equal names the last counts */
            continue;
        int r = read_field(p, f, at, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int walk(struct params *p, enum field_where where, struct err *e)
{
    int r = params_fields(p, p->root, where, e);
    return r < 0 ? r : check_together(p, where, e);
}

int params_read(const struct api_config *cfg, enum field_where where, const char *body,
                size_t n_bytes, struct params *ret, struct err *e)
{
    struct params p = {.cfg = cfg};
    const struct engine_info *info = engine_info(cfg->engine);
    p.vocab_size = info->config.vocab_size;
    set_defaults(&p, where);
    int r = json_read(body, n_bytes, &p.root, e);
    if (r < 0)
        return r;
    p.arena = arena_new(PARAMS_ARENA_BYTES);
    r = p.arena ? walk(&p, where, e) : params_no_memory(e);
    if (r < 0) {
        params_done(&p);
        return r;
    }
    *ret = p;
    return 0;
}

void params_done(struct params *p)
{
    cJSON_Delete(p->root);
    arena_free(p->arena);
    p->root = NULL;
    p->arena = NULL;
}
