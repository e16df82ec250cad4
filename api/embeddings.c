/* api/embeddings.c - POST /v1/embeddings, and Ollama's /api/embed and /api/embeddings: a text as one vector
 * of length 1, of what the model's last norm gives: the mean over its tokens, or that of the last. Models
 * made for this say which; the mean is the default. */
#include "config.h"

#include <string.h>

#include "api/internal.h"
#include "base/clock.h"

#define MAX_FLOAT_BYTES 16 /* "-1.23456789e-05," */

static void write_floats(const struct choice *c, struct jw *w)
{
    jw_raw(w, "[");
    for (int i = 0; i < c->n_vector; i++) {
        jw_raw(w, i ? "," : "");
        jw_float(w, c->vector[i]);
    }
    jw_raw(w, "]");
}

/* Little-endian float32, as OpenAI's clients ask for it. */
static void write_base64(const struct choice *c, struct jw *w)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = (size_t)c->n_vector * sizeof(float);
    unsigned char in[3];
    char out[4];
    jw_raw(w, "\"");
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        for (size_t k = 0; k < 3; k++) {
            uint32_t bits = 0;
            if (k < have)
                memcpy(&bits, &c->vector[(i + k) / 4], sizeof(bits));
            in[k] = (unsigned char)(bits >> 8 * ((i + k) % 4));
        }
        out[0] = digits[in[0] >> 2];
        out[1] = digits[(in[0] & 3) << 4 | in[1] >> 4];
        out[2] = have > 1 ? digits[(in[1] & 15) << 2 | in[2] >> 6] : '=';
        out[3] = have > 2 ? digits[in[2] & 63] : '=';
        jw_bytes(w, out, 4);
    }
    jw_raw(w, "\"");
}

static void whole(struct api_exchange *x, struct jw *w)
{
    jw_raw(w, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < x->n_choices; i++) {
        jw_printf(w, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        if (x->p.base64)
            write_base64(&x->choices[i], w);
        else
            write_floats(&x->choices[i], w);
        jw_raw(w, "}");
    }
    jw_raw(w, "],\"model\":");
    jw_cstring(w, api_model_name(x->a));
    jw_printf(w, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}", x->prompt_tokens,
              x->prompt_tokens);
}

static void ollama_whole(struct api_exchange *x, struct jw *w)
{
    jw_raw(w, "{\"model\":");
    jw_cstring(w, api_model_name(x->a));
    jw_raw(w, ",\"embeddings\":[");
    for (int i = 0; i < x->n_choices; i++) {
        jw_raw(w, i ? "," : "");
        write_floats(&x->choices[i], w);
    }
    jw_printf(w, "],\"total_duration\":%lld,\"load_duration\":0,\"prompt_eval_count\":%d}",
              (long long)(clock_now_ns() - x->received_ns), x->prompt_tokens);
}

static void old_whole(struct api_exchange *x, struct jw *w)
{
    jw_raw(w, "{\"embedding\":");
    write_floats(&x->choices[0], w);
    jw_raw(w, "}");
}

static const struct answer_ops openai_ops = {.id_prefix = "embd-", .lots = true, .whole = whole};
static const struct answer_ops ollama_ops = {.id_prefix = "embd-", .lots = true, .whole = ollama_whole};
static const struct answer_ops old_ops = {.id_prefix = "embd-", .lots = true, .whole = old_whole};

static int check(const struct api *a, const struct params *p, const struct answer_ops *ops, struct err *e)
{
    int size = engine_info(a->cfg.engine)->config.hidden_size;
    if (p->dimensions && p->dimensions != size)
        return err_set_param(e, ERR_UNSUPPORTED, "dimensions",
                             "dimensions can be %d: this model's embeddings cannot be cut", size);
    if (!p->prompt && ops != &old_ops)
        return err_set_param(e, ERR_INVAL, "input", "input is missing");
    return check_model(a, p, e);
}

/* How many texts there are, and whether all their vectors fit into an answer. */
static int count(const struct api *a, const struct params *p, int *ret, struct err *e)
{
    size_t each = (size_t)engine_info(a->cfg.engine)->config.hidden_size * (p->base64 ? 6 : MAX_FLOAT_BYTES);
    int r = count_prompts(p, a->cfg.max_embedding_inputs, ret, e);
    if (r < 0 || (size_t)*ret <= API_MAX_ANSWER_BYTES / (each + 64))
        return r;
    return err_set_param(e, ERR_INVAL, "input", "input: an answer holds at most %zu vectors of this model",
                         API_MAX_ANSWER_BYTES / (each + 64));
}

/* That the model be there, as an empty prompt of Ollama's asks. Takes p over. */
static struct api_exchange *reply_nothing(const struct reply *r, struct params *p)
{
    struct jw w;
    jw_init(&w, 4096);
    jw_raw(&w, "{\"embedding\":[]}");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    params_done(p);
    return NULL;
}

static struct api_exchange *handle(struct api *a, const struct api_request *req, const struct reply *r,
                                   enum field_where where, const struct answer_ops *ops)
{
    struct params p;
    struct err e = {0};
    int n = 0;
    if (params_read(&a->cfg, where, req->body, req->body_bytes, &p, &e) < 0) {
        reply_error(r, a, &e);
        return NULL;
    }
    bool nothing = ops == &old_ops && (!p.prompt || !*p.prompt->valuestring);
    if (check(a, &p, ops, &e) < 0 || (!nothing && count(a, &p, &n, &e) < 0)) {
        params_done(&p);
        reply_error(r, a, &e);
        return NULL;
    }
    if (nothing)
        return reply_nothing(r, &p);
    if (where != IN_EMBEDDINGS && p.truncate && !p.truncate_prompt)
        p.truncate_prompt = -1;
    p.max_tokens = 0;
    struct api_exchange *x = exchange_new(a, r, req, &p, n, ops);
    if (!x)
        return NULL;
    n = set_prompts(x, &e);
    return exchange_start_if(x, n, &e);
}

struct api_exchange *handle_embeddings(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, IN_EMBEDDINGS, &openai_ops);
}

struct api_exchange *handle_ollama_embed(struct api *a, const struct api_request *req, const struct reply *r)
{
    return handle(a, req, r, IN_EMBED, &ollama_ops);
}

struct api_exchange *handle_ollama_embedding(struct api *a, const struct api_request *req,
                                             const struct reply *r)
{
    return handle(a, req, r, IN_OLD_EMBED, &old_ops);
}

/* --- fields --------------------------------------------------------------------------------------- */

int read_embed_input(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    (void)e;
    p->prompt = v;
    p->asked = name;
    return 0;
}

int read_encoding_format(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    p->base64 = !strcmp(s, "base64");
    return p->base64 || !strcmp(s, "float")
               ? 0
               : err_set_param(e, ERR_INVAL, name, "%s must be float or base64", name);
}

int read_pooling(struct params *p, const cJSON *v, const char *name, struct err *e)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    p->pooling = !strcmp(s, "last") ? POOLING_LAST : POOLING_MEAN;
    return p->pooling == POOLING_LAST || !strcmp(s, "mean")
               ? 0
               : err_set_param(e, ERR_INVAL, name, "%s must be mean or last", name);
}
