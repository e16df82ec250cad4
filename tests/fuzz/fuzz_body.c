/* tests/fuzz/fuzz_body.c - JSON bodies of requests, read by the table of fields. The first byte
 * names the endpoint:
 *
 *   c completions   m chat   t tokenize   d detokenize   k cache;   upper case: unknown fields are errors
 *
 * Every value that is taken must lie within what the table and the configuration say. */
#include "config.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "tests/fuzz/fuzz.h"

#define N_VOCAB 1000

const struct engine_info *engine_info(const struct engine *e)
{
    static struct engine_info info = {.model_id = "m", .max_model_len = 4096};
    (void)e;
    info.config.vocab_size = N_VOCAB;
    return &info;
}

/* fields of embeddings, which no letter names: their file would bring the engine along */
int read_embed_input(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)p;
    (void)v;
    return err_set_param(e, ERR_INVAL, name, "not fuzzed");
}

int read_encoding_format(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)p;
    (void)v;
    return err_set_param(e, ERR_INVAL, name, "not fuzzed");
}

int read_pooling(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)p;
    (void)v;
    return err_set_param(e, ERR_INVAL, name, "not fuzzed");
}

static bool within(double v, double min, double max)
{
    return isfinite(v) && v >= min && v <= max;
}

static void check_values(const struct params *p, const struct api_config *cfg)
{
    FUZZ_CHECK(within(p->temperature, 0, 2) && within(p->top_p, 0, 1) && within(p->min_p, 0, 1));
    FUZZ_CHECK(within(p->repetition_penalty, 0, 10) && p->repetition_penalty > 0 && p->top_p > 0);
    FUZZ_CHECK(within(p->presence_penalty, -2, 2) && within(p->frequency_penalty, -2, 2));
    FUZZ_CHECK(p->n >= 1 && p->n <= cfg->max_n && p->top_k >= -1);
    FUZZ_CHECK(p->max_tokens >= 0 && p->min_tokens >= 0 && p->min_tokens <= p->max_tokens);
    FUZZ_CHECK(p->logprobs >= -1 && p->logprobs <= cfg->max_logprobs);
    FUZZ_CHECK(p->n_stop >= 0 && p->n_stop <= cfg->max_stop && p->n_logit_bias <= cfg->max_logit_bias);
    for (int i = 0; i < p->n_stop; i++)
        FUZZ_CHECK(p->stop[i].n_bytes > 0 && strlen(p->stop[i].data) == p->stop[i].n_bytes);
    for (int i = 0; i < p->n_stop_token_ids; i++)
        FUZZ_CHECK(p->stop_token_ids[i] >= 0 && p->stop_token_ids[i] < N_VOCAB);
    for (int i = 0; i < p->n_logit_bias; i++)
        FUZZ_CHECK(p->logit_bias[i].token_id >= 0 && p->logit_bias[i].token_id < N_VOCAB &&
                   within((double)p->logit_bias[i].bias, -100, 100));
    FUZZ_CHECK(p->priority == PRIORITY_NOT_SAID || (p->priority >= -1000000 && p->priority <= 1000000));
    FUZZ_CHECK(p->timeout_ns >= 0 && p->max_queue_ns >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char letters[] = "cmtdk";
    static const enum field_where wheres[] = {IN_COMPLETIONS, IN_CHAT, IN_TOKENIZE, IN_DETOKENIZE, IN_CACHE};
    struct err e = {0};
    struct params p;
    const char *letter = n_bytes ? strchr(letters, tolower(data[0])) : NULL;
    if (!letter || !*letter)
        return 0;
    const struct api_config cfg = {
        .max_prompts = 8, .max_embedding_inputs = 8, .max_n = 4, .max_logprobs = 5, .max_stop = 3,
        .max_logit_bias = 10, .max_prompt_bytes = 2000, .strict = isupper(data[0]) != 0,
    };
    /* the server's bodies end with a NUL that is not counted */
    char *body = malloc(n_bytes);
    FUZZ_CHECK(body);
    memcpy(body, data + 1, n_bytes - 1);
    body[n_bytes - 1] = 0;
    int r = params_read(&cfg, wheres[letter - letters], body, n_bytes - 1, &p, &e);
    if (fuzz_result(r, &e) == 0) {
        check_values(&p, &cfg);
        if (p.messages)
            r = messages_check(p.messages, &e);
        if (r == 0 && p.tools)
            r = tools_check(p.tools, &e);
        fuzz_result(r, &e);
        params_done(&p);
    }
    free(body);
    return 0;
}
