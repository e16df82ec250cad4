/* engine/model/hf.c - a Hugging Face folder: config.json, safetensors whole or in shards, and what
 * stands beside them about the tokenizer and generation. */
#include "config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/internal.h"

/* The parsed file, or NULL with ret_missing set when it is not there. */
static int read_json(const char *path, bool required, cJSON **ret, struct err *e)
{
    struct map m = {0};
    int r = map_open(path, &m, e);
    if (r == ERR_NOTFOUND && !required)
        return 0;
    if (r < 0)
        return r;
    if (m.n_bytes > MAX_JSON_BYTES)
        r = err_set(e, ERR_LIMIT, "%s: %zu bytes, at most %zu are accepted", path, m.n_bytes,
                    MAX_JSON_BYTES);
    else if (!(*ret = cJSON_ParseWithLength((const char *)m.data, m.n_bytes)))
        r = err_set(e, ERR_FORMAT, "%s: not valid JSON", path);
    else if (!cJSON_IsObject(*ret))
        r = err_set(e, ERR_FORMAT, "%s: not a JSON object", path);
    map_close(&m);
    return r;
}

static const cJSON *get(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsNull(v) ? NULL : v;
}

int hf_int(const cJSON *o, const char *key, int64_t min, int64_t max, const int64_t *def,
           int64_t *ret, struct err *e)
{
    const cJSON *v = get(o, key);
    if (!v && def) {
        *ret = *def;
        return 0;
    }
    if (!v)
        return err_set_param(e, ERR_FORMAT, key, "config.json: %s is missing", key);
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble))
        return err_set_param(e, ERR_FORMAT, key, "config.json: %s must be an integer", key);
    if (!(v->valuedouble >= (double)min && v->valuedouble <= (double)max))
        return err_set_param(e, ERR_FORMAT, key, "config.json: %s is %.17g, accepted are %lld..%lld",
                             key, v->valuedouble, (long long)min, (long long)max);
    *ret = (int64_t)v->valuedouble;
    return 0;
}

int hf_float(const cJSON *o, const char *key, const float *def, float *ret, struct err *e)
{
    const cJSON *v = get(o, key);
    if (!v && def) {
        *ret = *def;
        return 0;
    }
    if (!v)
        return err_set_param(e, ERR_FORMAT, key, "config.json: %s is missing", key);
    if (!cJSON_IsNumber(v) || !isfinite((float)v->valuedouble))
        return err_set_param(e, ERR_FORMAT, key, "config.json: %s must be a finite number", key);
    *ret = (float)v->valuedouble;
    return 0;
}

int hf_bool(const cJSON *o, const char *key, bool def, bool *ret, struct err *e)
{
    const cJSON *v = get(o, key);
    if (v && !cJSON_IsBool(v))
        return err_set_param(e, ERR_FORMAT, key, "config.json: %s must be true or false", key);
    *ret = v ? cJSON_IsTrue(v) : def;
    return 0;
}

const char *hf_string(const cJSON *o, const char *key)
{
    const cJSON *v = get(o, key);
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

static int add_file(struct checkpoint *c, const char *path, struct err *e)
{
    struct checkpoint_priv *p = c->priv;
    if (p->n_maps == MAX_FILES)
        return err_set(e, ERR_LIMIT, "more than %d weight files", MAX_FILES);
    int r = map_open(path, &p->maps[p->n_maps], e);
    if (r < 0)
        return r;
    return safetensors_read(p, &p->maps[p->n_maps++], e);
}

static bool plain_name(const char *s)
{
    return s[0] && !strchr(s, '/') && strcmp(s, ".") && strcmp(s, "..") && strlen(s) < 256;
}

static int add_shards(struct checkpoint *c, const char *dir, const cJSON *index, struct err *e)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    struct checkpoint_priv *p = c->priv;
    if (!cJSON_IsObject(map))
        return err_set(e, ERR_FORMAT, "model.safetensors.index.json: weight_map is missing");
    for (const cJSON *v = map->child; v; v = v->next) {
        if (!cJSON_IsString(v) || !plain_name(v->valuestring))
            return err_set_param(e, ERR_FORMAT, v->string,
                                 "model.safetensors.index.json: the file of %s is not a plain name",
                                 v->string);
        char *path = ckpt_printf(c, "%s/%s", dir, v->valuestring);
        if (!path)
            return err_set(e, ERR_NOMEM, "out of memory");
        bool seen = false;
        for (int i = 0; i < p->n_maps && !seen; i++)
            seen = !strcmp(p->maps[i].path, path);
        int r = seen ? 0 : add_file(c, path, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_weights(struct checkpoint *c, const char *dir, struct err *e)
{
    cJSON *index = NULL;
    char *whole = ckpt_printf(c, "%s/model.safetensors", dir);
    char *list = ckpt_printf(c, "%s/model.safetensors.index.json", dir);
    if (!whole || !list)
        return err_set(e, ERR_NOMEM, "out of memory");
    int r = read_json(list, false, &index, e);
    if (r == 0)
        r = index ? add_shards(c, dir, index, e) : add_file(c, whole, e);
    cJSON_Delete(index);
    return r < 0 ? r : tensor_set_index(&c->priv->tensors, e);
}

static int token_id(const struct checkpoint *c, const cJSON *v)
{
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < c->config.vocab_size
               ? (int)v->valuedouble
               : -1;
}

/* generation_config.json wins over config.json, as generation does elsewhere. */
static void read_token_ids(struct checkpoint *c)
{
    struct tokenizer_source *t = &c->tokenizer;
    const cJSON *gen = c->priv->gen_config, *cfg = c->priv->config;
    const cJSON *eos = gen && get(gen, "eos_token_id") ? get(gen, "eos_token_id")
                                                       : get(cfg, "eos_token_id");
    const cJSON *bos = get(cfg, "bos_token_id"), *v;
    t->bos_token_id = token_id(c, bos);
    t->pad_token_id = token_id(c, get(cfg, "pad_token_id"));
    t->eot_token_id = t->eom_token_id = t->unk_token_id = t->eos_token_id = -1;
    if (!cJSON_IsArray(eos)) {
        t->eos_token_id = token_id(c, eos);
        return;
    }
    cJSON_ArrayForEach(v, eos)
    {
        int id = token_id(c, v);
        if (id >= 0 && t->eos_token_id < 0)
            t->eos_token_id = id;
        else if (id >= 0 && t->n_eos_extra < 16)
            t->eos_extra[t->n_eos_extra++] = id;
    }
}

/* chat_template: a string, or a list of {name, template} of which "default" is taken. */
static const char *template_of(const cJSON *v)
{
    const cJSON *item;
    if (cJSON_IsString(v))
        return v->valuestring;
    cJSON_ArrayForEach(item, v)
    {
        const char *name = hf_string(item, "name");
        if (name && !strcmp(name, "default"))
            return hf_string(item, "template");
    }
    return NULL;
}

static int read_template_file(struct checkpoint *c, const char *path, struct err *e)
{
    struct map m = {0};
    int r = map_open(path, &m, NULL);
    if (r == ERR_NOTFOUND)
        return 0;
    if (r < 0 || m.n_bytes > MAX_JSON_BYTES) {
        map_close(&m);
        return err_set(e, ERR_FORMAT, "%s: cannot be read as a template", path);
    }
    c->chat_template = arena_strndup(c->priv->arena, (const char *)m.data, m.n_bytes);
    map_close(&m);
    return c->chat_template ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static int read_tokenizer(struct checkpoint *c, const char *dir, struct err *e)
{
    struct tokenizer_source *t = &c->tokenizer;
    const cJSON *tc = c->priv->tok_config;
    char *path = ckpt_printf(c, "%s/tokenizer.json", dir);
    char *jinja = ckpt_printf(c, "%s/chat_template.jinja", dir);
    if (!path || !jinja)
        return err_set(e, ERR_NOMEM, "out of memory");
    t->pre = "";
    t->json_path = access(path, R_OK) == 0 ? path : NULL;
    t->add_bos_token = t->add_eos_token = -1;
    read_token_ids(c);
    if (cJSON_IsBool(get(tc, "add_bos_token")))
        t->add_bos_token = cJSON_IsTrue(get(tc, "add_bos_token"));
    if (cJSON_IsBool(get(tc, "add_eos_token")))
        t->add_eos_token = cJSON_IsTrue(get(tc, "add_eos_token"));
    c->chat_template = template_of(get(tc, "chat_template"));
    return read_template_file(c, jinja, e);
}

int hf_open(const char *dir, struct checkpoint *c, struct err *e)
{
    struct checkpoint_priv *p = c->priv;
    char *config = ckpt_printf(c, "%s/config.json", dir);
    char *tok = ckpt_printf(c, "%s/tokenizer_config.json", dir);
    char *gen = ckpt_printf(c, "%s/generation_config.json", dir);
    int r;
    if (!config || !tok || !gen)
        return err_set(e, ERR_NOMEM, "out of memory");
    if ((r = read_json(config, true, &p->config, e)) < 0 ||
        (r = read_json(tok, false, &p->tok_config, e)) < 0 ||
        (r = read_json(gen, false, &p->gen_config, e)) < 0)
        return r;
    const char *type = hf_string(p->config, "model_type");
    const struct model_arch *arch = type ? arch_find_hf(type) : NULL;
    if (!arch)
        return err_set_param(e, ERR_UNSUPPORTED, "model_type", "%s: model_type %s is not served", config,
                             type ? type : "(missing)");
    if ((r = arch->read_hf(c, e)) < 0 || (r = config_check(&c->config, e)) < 0 ||
        (r = read_weights(c, dir, e)) < 0 || (r = arch->bind_hf(c, e)) < 0)
        return r;
    const char *base = strrchr(dir, '/') && strrchr(dir, '/')[1] ? strrchr(dir, '/') + 1 : dir;
    if (!c->config.name[0])
        snprintf(c->config.name, sizeof(c->config.name), "%s", base);
    c->format = "Hugging Face folder";
    return read_tokenizer(c, dir, e);
}
