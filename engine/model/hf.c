/* engine/model/hf.c - a checkpoint from a Hugging Face folder: config.json, safetensors whole or in
 * shards, and what stands beside them about tokenizer and generation. */
#include "config.h"

#include "engine/model/checkpoint_internal.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/json.h"
#include "engine/model/keys.h"
#include "engine/model/safetensors.h"

#define MAX_CONFIG_BYTES ((size_t)8 << 20)
#define MAX_INDEX_BYTES ((size_t)128 << 20)
#define MAX_INDEX_ITEMS ((size_t)2 * TIX_MAX_TENSORS)
#define MAX_TEMPLATE_FILE_BYTES ((size_t)1 << 20)

/* Parses folder/name. A file that is not there gives *ret NULL, unless it is required. */
static int read_json(struct checkpoint *c, const char *folder, const char *name, bool required,
                     size_t max_bytes, size_t max_items, cJSON **ret, struct err *e)
{
    struct file_map m;
    struct cJSON *json;
    char *path = checkpoint__path(c, folder, name);
    if (!path)
        return err_set(e, ERR_NOMEM, "out of memory");
    *ret = NULL;
    int r = map__open(path, max_bytes, &m, e);
    if (r == ERR_NOTFOUND && !required) {
        err_set(e, 0, "%s", "");
        return 0;
    }
    if (r < 0)
        return r;
    r = json__parse((const char *)m.data, m.n_bytes, max_items, name, &json, e);
    map__close(&m);
    if (r == 0)
        *ret = json;
    return r;
}

static int add_file(struct checkpoint *c, const char *folder, const char *name, struct err *e)
{
    struct file_map *m;
    char *path = checkpoint__path(c, folder, name);
    if (!path)
        return err_set(e, ERR_NOMEM, "out of memory");
    int r = checkpoint__map(c, path, &m, e);
    return r < 0 ? r : safetensors__parse(m, &c->priv->tix, e);
}

/* A shard lies in the folder itself: the index must not lead elsewhere. */
static bool plain_name(const char *s)
{
    return s[0] && !strchr(s, '/') && strcmp(s, ".") && strcmp(s, "..") && strlen(s) < 96;
}

static bool mapped_already(const struct checkpoint *c, const char *name)
{
    for (int i = 0; i < c->priv->n_maps; i++)
        if (strcmp(c->priv->maps[i]->label, name) == 0)
            return true;
    return false;
}

static int add_shards(struct checkpoint *c, const char *folder, const cJSON *index, struct err *e)
{
    static const char *const file = "model.safetensors.index.json";
    const cJSON *map, *at;
    int r = json__get(index, "weight_map", &map);
    if (r < 0 || !cJSON_IsObject(map))
        return err_set_param(e, ERR_FORMAT, "weight_map", "%s: weight_map is missing or no object", file);
    cJSON_ArrayForEach(at, map)
    {
        if (!cJSON_IsString(at) || !plain_name(at->valuestring))
            return err_set_param(e, ERR_FORMAT, at->string,
                                 "%s: the file of %.100s must be the name of a file in the folder", file,
                                 at->string);
        if (mapped_already(c, at->valuestring))
            continue;
        r = add_file(c, folder, at->valuestring, e);
        if (r == ERR_NOTFOUND)
            return err_set_param(e, ERR_NOTFOUND, at->string,
                                 "%s: file %s, where tensor %.100s is said to be, is missing", file,
                                 at->valuestring, at->string);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Every tensor that the index lists lies in the file that it names. */
static int check_index(const struct checkpoint *c, const cJSON *index, struct err *e)
{
    static const char *const file = "model.safetensors.index.json";
    const cJSON *map, *at;
    char first[256] = "";
    const char *param = "";
    int n = 0;
    if (json__get(index, "weight_map", &map) < 0)
        return err_set_param(e, ERR_FORMAT, "weight_map", "%s: weight_map is there twice", file);
    cJSON_ArrayForEach(at, map)
    {
        const struct tix_entry *t = tix__find(&c->priv->tix, at->string);
        if (t && strcmp(t->map->label, at->valuestring) == 0)
            continue;
        if (n++ > 0)
            continue;
        param = at->string;
        snprintf(first, sizeof(first), "%.100s, said to be in %.60s, %s%.60s", at->string,
                 at->valuestring, t ? "is in " : "is in none", t ? t->map->label : "");
    }
    if (n > 1)
        return err_set_param(e, ERR_FORMAT, param, "%s: %s (and %d more tensors like it)", file, first,
                             n - 1);
    return n ? err_set_param(e, ERR_FORMAT, param, "%s: %s", file, first) : 0;
}

static int read_weights(struct checkpoint *c, const char *folder, struct err *e)
{
    cJSON *index;
    int r = read_json(c, folder, "model.safetensors.index.json", false, MAX_INDEX_BYTES,
                      MAX_INDEX_ITEMS, &index, e);
    if (r < 0)
        return r;
    r = index ? add_shards(c, folder, index, e) : add_file(c, folder, "model.safetensors", e);
    if (r == 0)
        r = tix__seal(&c->priv->tix, e);
    if (r == 0 && index)
        r = check_index(c, index, e);
    cJSON_Delete(index);
    return r;
}

/* --- tokenizer and generation ------------------------------------------------------------------ */

static int token_id(const cJSON *v, int vocab_size)
{
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < vocab_size &&
                   v->valuedouble == (int)v->valuedouble
               ? (int)v->valuedouble
               : -1;
}

static const cJSON *member(const cJSON *o, const char *key)
{
    const cJSON *v = o ? cJSON_GetObjectItemCaseSensitive(o, key) : NULL;
    return v && cJSON_IsNull(v) ? NULL : v;
}

/* One id or a list of them; generation stops at each. */
static void read_eos(const cJSON *from, int vocab_size, struct tokenizer_source *t)
{
    const cJSON *v = member(from, "eos_token_id"), *at;
    if (cJSON_IsNumber(v)) {
        t->n_eos_extra = 0;
        t->eos_token_id = token_id(v, vocab_size);
    } else if (cJSON_IsArray(v)) {
        t->n_eos_extra = 0;
        t->eos_token_id = token_id(cJSON_GetArrayItem(v, 0), vocab_size);
        cJSON_ArrayForEach(at, v)
        {
            int id = token_id(at, vocab_size);
            if (id >= 0 && t->n_eos_extra < (int)(sizeof(t->eos_extra) / sizeof(t->eos_extra[0])))
                t->eos_extra[t->n_eos_extra++] = id;
        }
    }
}

static void read_ids(const cJSON *from, int vocab_size, struct tokenizer_source *t)
{
    const cJSON *v;
    if ((v = member(from, "bos_token_id")))
        t->bos_token_id = token_id(v, vocab_size);
    if ((v = member(from, "pad_token_id")))
        t->pad_token_id = token_id(v, vocab_size);
    read_eos(from, vocab_size, t);
}

static void read_flag(const cJSON *from, const char *key, int *ret)
{
    const cJSON *v = member(from, key);
    if (cJSON_IsBool(v))
        *ret = cJSON_IsTrue(v);
}

/* A token's text, which is a string or has one. */
static int read_text(struct checkpoint *c, const cJSON *v, const char **ret, struct err *e)
{
    const char *text = cJSON_GetStringValue(cJSON_IsObject(v) ? member(v, "content") : v);
    if (text && !(*ret = arena_strndup(c->priv->arena, text, strlen(text))))
        return err_set(e, ERR_NOMEM, "out of memory");
    return 0;
}

/* A template in a file of its own; *ret stays as it is when there is none. */
static int read_template_file(struct checkpoint *c, const char *folder, const char *name, const char **ret,
                              struct err *e)
{
    struct file_map m;
    char *path = checkpoint__path(c, folder, name);
    if (!path)
        return err_set(e, ERR_NOMEM, "out of memory");
    int r = map__open(path, MAX_TEMPLATE_FILE_BYTES, &m, e);
    if (r == ERR_NOTFOUND) {
        err_set(e, 0, "%s", "");
        return 0;
    }
    if (r < 0)
        return r;
    const char *text = arena_strndup(c->priv->arena, (const char *)m.data, m.n_bytes);
    map__close(&m);
    if (!text)
        return err_set(e, ERR_NOMEM, "out of memory");
    *ret = text;
    return 0;
}

static int keep_template(struct checkpoint *c, const cJSON *v, const char **ret, struct err *e)
{
    if (*ret || !cJSON_IsString(v))
        return 0;
    *ret = arena_strndup(c->priv->arena, v->valuestring, strlen(v->valuestring));
    return *ret ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

/* Newer folders have templates in files of their own, older ones in tokenizer_config.json, as a
 * string or as a list of named ones. */
static int read_template(struct checkpoint *c, const char *folder, const cJSON *tok, struct err *e)
{
    const cJSON *v = member(tok, "chat_template"), *at;
    int r = read_template_file(c, folder, "chat_template.jinja", &c->chat_template, e);
    if (r == 0)
        r = read_template_file(c, folder, "additional_chat_templates/tool_use.jinja", &c->tool_template, e);
    if (r < 0 || !cJSON_IsArray(v))
        return r < 0 ? r : keep_template(c, v, &c->chat_template, e);
    cJSON_ArrayForEach(at, v)
    {
        const char *name = cJSON_GetStringValue(member(at, "name"));
        if (r == 0 && name && !strcmp(name, "default"))
            r = keep_template(c, member(at, "template"), &c->chat_template, e);
        if (r == 0 && name && !strcmp(name, "tool_use"))
            r = keep_template(c, member(at, "template"), &c->tool_template, e);
    }
    return r;
}

static int read_tokenizer(struct checkpoint *c, const char *folder, const cJSON *config, struct err *e)
{
    struct tokenizer_source *t = &c->tokenizer;
    int vocab = c->config.vocab_size;
    cJSON *generation = NULL, *tok = NULL;
    *t = (struct tokenizer_source){.pre = "", .bos_token_id = -1, .eos_token_id = -1, .eot_token_id = -1,
                                   .eom_token_id = -1, .pad_token_id = -1, .unk_token_id = -1,
                                   .add_bos_token = -1, .add_eos_token = -1};
    int r = read_json(c, folder, "generation_config.json", false, MAX_CONFIG_BYTES, ARCH_MAX_CONFIG_ITEMS,
                      &generation, e);
    if (r == 0)
        r = read_json(c, folder, "tokenizer_config.json", false, MAX_CONFIG_BYTES, ARCH_MAX_CONFIG_ITEMS,
                      &tok, e);
    if (r == 0) {
        read_ids(member(config, "text_config"), vocab, t);
        read_ids(config, vocab, t);
        read_ids(generation, vocab, t); /* what generation really uses wins */
        read_flag(tok, "add_bos_token", &t->add_bos_token);
        read_flag(tok, "add_eos_token", &t->add_eos_token);
        r = read_template(c, folder, tok, e);
    }
    if (r == 0 && (r = read_text(c, member(tok, "bos_token"), &t->bos_text, e)) == 0)
        r = read_text(c, member(tok, "eos_token"), &t->eos_text, e);
    cJSON_Delete(generation);
    cJSON_Delete(tok);
    if (r < 0)
        return r;
    char *path = checkpoint__path(c, folder, "tokenizer.json");
    if (!path)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (access(path, R_OK) == 0) {
        t->json_path = path;
        return 0;
    }
    const char *ranks = checkpoint__path(c, folder, "tiktoken.model");
    const char *beside = checkpoint__path(c, folder, "tokenizer_config.json");
    if (!ranks || !beside)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (access(ranks, R_OK) == 0) {
        t->tiktoken_path = ranks;
        t->config_path = access(beside, R_OK) == 0 ? beside : NULL;
    }
    return 0;
}

/* Models that see and hear hold their text model as a part: its configuration under text_config, its
 * tensors behind a prefix, or beside those of the other parts. Only the text model is served. */
static const struct wrapper {
    const char *model_type, *prefix, *others[4];
} wrappers[] = {
    {"kimi_k25", "language_model.", {NULL}},
    {"kimi_vl", "language_model.", {NULL}},
    {"step3_vl", "", {"vision_model.", "vit_downsampler", "vit_large_projector."}},
};

static const struct wrapper *wrapper_of(const char *model_type)
{
    for (size_t i = 0; i < sizeof(wrappers) / sizeof(wrappers[0]); i++)
        if (strcmp(model_type, wrappers[i].model_type) == 0)
            return &wrappers[i];
    return NULL;
}

/* FP8 weights have one scale for each block; its size is fixed here (tensor.h). The family has refused other
 * methods. */
static int check_fp8(const cJSON *config, struct err *e)
{
    const cJSON *q = member(config, "quantization_config"), *fmt = member(q, "fmt");
    const cJSON *method = member(q, "quant_method"), *size = member(q, "weight_block_size");
    if (!cJSON_IsString(method) || strcmp(method->valuestring, "fp8"))
        return 0;
    double rows = cJSON_GetNumberValue(cJSON_GetArrayItem(size, 0));
    double cols = cJSON_GetNumberValue(cJSON_GetArrayItem(size, 1));
    if (fmt && (!cJSON_IsString(fmt) || strcmp(fmt->valuestring, "e4m3")))
        return err_set_param(e, ERR_UNSUPPORTED, "quantization_config.fmt",
                             "config.json: quantization_config.fmt is %.40s; e4m3 is served",
                             cJSON_IsString(fmt) ? fmt->valuestring : "no string");
    if (!cJSON_IsArray(size) || cJSON_GetArraySize(size) != 2)
        return err_set_param(e, ERR_UNSUPPORTED, "quantization_config.weight_block_size",
                             "config.json: quantization_config.weight_block_size is %s; [128, 128] is "
                             "served", size ? "not a list of two" : "missing");
    if (!(rows == TENSOR_SCALE_BLOCK && cols == TENSOR_SCALE_BLOCK))
        return err_set_param(e, ERR_UNSUPPORTED, "quantization_config.weight_block_size",
                             "config.json: quantization_config.weight_block_size is [%g, %g]; [128, 128] "
                             "is served", rows, cols);
    return 0;
}

/* For who writes the checkpoint in another format. */
static int keep_config(struct checkpoint *c, const cJSON *config, struct err *e)
{
    char *text = cJSON_PrintUnformatted(config);
    c->priv->config_text = text ? arena_strndup(c->priv->arena, text, strlen(text)) : NULL;
    cJSON_free(text);
    return c->priv->config_text ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static int read_config(struct checkpoint *c, const char *folder, const cJSON *config, struct err *e)
{
    struct keys k;
    char type[64], list[256];
    keys__from_json(&k, config, "config.json", e);
    keys__string(&k, "model_type", type, sizeof(type), NULL);
    if (k.r < 0)
        return k.r;
    const cJSON *text = NULL;
    const struct wrapper *wrapper = wrapper_of(type);
    if (wrapper) {
        if (json__get(config, "text_config", &text) < 0 || !cJSON_IsObject(text))
            return err_set_param(e, ERR_FORMAT, "text_config",
                                 "config.json: text_config is missing or no object");
        keys__from_json(&k, text, "config.json", e);
        k.prefix = "text_config.";
        keys__string(&k, "model_type", type, sizeof(type), NULL);
        if (k.r < 0)
            return k.r;
    }
    const struct arch *a = arch__by_hf_model_type(type);
    if (!a) {
        arch__list(FORMAT_HF, list, sizeof(list));
        return err_set_param(e, ERR_UNSUPPORTED, "model_type",
                             "config.json: model_type is %s; served are %s", type, list);
    }
    int r = read_weights(c, folder, e);
    if (r < 0)
        return r;
    for (int i = 0; wrapper && wrapper->others[i]; i++)
        tix__drop_part(&c->priv->tix, wrapper->others[i]);
    if (wrapper)
        tix__keep_part(&c->priv->tix, wrapper->prefix);
    arch__config_json(a, &k, c->priv->arena, &c->priv->tix, c);
    if (k.r < 0 || (r = check_fp8(text ? text : config, e)) < 0)
        return k.r < 0 ? k.r : r;
    if (a->layers_hf && (r = keep_config(c, text ? text : config, e)) < 0)
        return r;
    return checkpoint__bind(c, a, FORMAT_HF, "the folder", e);
}

/* Some layouts have more than one file of keys: they are read as members of config.json. */
static int read_others(struct checkpoint *c, const char *folder, cJSON *config, struct err *e)
{
    static const char *const files[][2] = {{"MLA_config.json", "MLA_config"},
                                           {"mla_layer_config.json", "mla_layer_config"}};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        cJSON *o;
        int r = read_json(c, folder, files[i][0], false, MAX_CONFIG_BYTES, ARCH_MAX_CONFIG_ITEMS, &o, e);
        if (r < 0)
            return r;
        if (o && !cJSON_AddItemToObject(config, files[i][1], o)) {
            cJSON_Delete(o);
            return err_set(e, ERR_NOMEM, "out of memory");
        }
    }
    return 0;
}

int hf__open(struct checkpoint *c, const char *path, struct err *e)
{
    cJSON *config;
    int r = read_json(c, path, "config.json", true, MAX_CONFIG_BYTES, ARCH_MAX_CONFIG_ITEMS, &config, e);
    if (r < 0)
        return r;
    if ((r = read_others(c, path, config, e)) == 0 && (r = read_config(c, path, config, e)) == 0)
        r = read_tokenizer(c, path, config, e);
    cJSON_Delete(config);
    c->format = "Hugging Face folder";
    return r;
}
