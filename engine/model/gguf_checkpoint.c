/* engine/model/gguf_checkpoint.c - a checkpoint from a GGUF file, or from all parts of a split one.
 *
 * Parts are named NAME-00001-of-00003.gguf; the first holds the keys, each lists its own tensors. */
#include "config.h"

#include "engine/model/checkpoint_internal.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "engine/model/json.h"
#include "engine/model/keys.h"

#define PART_SUFFIX_BYTES ((size_t)20) /* -00001-of-00003.gguf */

/* Opens the other parts, whose names follow from the first one's. */
static int open_parts(struct checkpoint *c, const char *path, const struct gguf *first, int64_t n_parts,
                      struct err *e)
{
    struct checkpoint_priv *p = c->priv;
    size_t n = strlen(path);
    char want[64];
    snprintf(want, sizeof(want), "-00001-of-%05lld.gguf", (long long)n_parts);
    if (n <= PART_SUFFIX_BYTES || strcmp(path + n - PART_SUFFIX_BYTES, want))
        return err_set(e, ERR_FORMAT,
                       "%s is the first of %lld parts; its name must end in %s to find the others",
                       first->map->label, (long long)n_parts, want);
    char *part = arena_strndup(p->arena, path, n);
    if (!part)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (int64_t i = 2; i <= n_parts; i++) {
        struct file_map *m;
        struct gguf g;
        struct keys k;
        char suffix[64]; /* five digits each: n_parts is bounded */
        snprintf(suffix, sizeof(suffix), "-%05lld-of-%05lld.gguf", (long long)i, (long long)n_parts);
        memcpy(part + n - PART_SUFFIX_BYTES, suffix, PART_SUFFIX_BYTES);
        int r = checkpoint__map(c, part, &m, e);
        if (r < 0 || (r = gguf__parse(m, p->arena, &p->tix, &g, e)) < 0)
            return r;
        keys__from_gguf(&k, &g, "split.", e);
        keys__int(&k, "no", i - 1, i - 1);
        keys__int(&k, "count", n_parts, n_parts);
        if (k.r < 0)
            return k.r;
    }
    struct keys all;
    keys__from_gguf(&all, first, "split.", e);
    int64_t n_tensors = keys__int_or(&all, "tensors.count", 0, TIX_MAX_TENSORS, (int64_t)p->tix.n);
    if (n_tensors != (int64_t)p->tix.n)
        keys__fail(&all, ERR_FORMAT, "tensors.count", "is %lld; the %lld parts have %zu tensors: they are "
                   "not of one model", (long long)n_tensors, (long long)n_parts, p->tix.n);
    return all.r;
}

/* Longer names are cut, at a character. */
static void read_name(struct keys *k, char *dst, size_t dst_bytes)
{
    char whole[4096];
    keys__string(k, "general.name", whole, sizeof(whole), "");
    size_t n = strnlen(whole, dst_bytes);
    n = n < dst_bytes ? n : n - 1;
    while (n > 0 && ((unsigned char)whole[n] & 0xc0) == 0x80)
        n--;
    memcpy(dst, whole, n);
    dst[n] = 0;
}

/* A family whose layers are configured one by one has the text of its config.json in one key. */
static int read_config(struct checkpoint *c, const struct arch **a, const struct gguf *g, const char *name,
                       struct err *e)
{
    struct keys k;
    cJSON *config;
    char key[80], type[64];
    snprintf(key, sizeof(key), "%s.config", name);
    const struct gguf_kv *kv = gguf__find(g, key);
    if (!kv || kv->type != GGUF_STR)
        return err_set_param(e, ERR_FORMAT, key, "%s: %s is %s; the text of a config.json is needed",
                             g->map->label, key, kv ? gguf__type_name(kv->type) : "missing");
    int r = json__parse((const char *)kv->data, kv->n, ARCH_MAX_CONFIG_ITEMS, key, &config, e);
    if (r < 0)
        return r;
    keys__from_json(&k, config, g->map->label, e);
    keys__string(&k, "model_type", type, sizeof(type), (*a)->hf_model_type);
    const struct arch *of = k.r < 0 ? NULL : arch__by_hf_model_type(type);
    if (k.r == 0 && (!of || !of->layers_hf))
        keys__fail(&k, ERR_UNSUPPORTED, "model_type", "is %s, which has no such form", type);
    else if (k.r == 0)
        arch__config_json(*a = of, &k, c->priv->arena, &c->priv->tix, c);
    cJSON_Delete(config);
    return k.r;
}

int gguf__open(struct checkpoint *c, const char *path, struct err *e)
{
    struct checkpoint_priv *p = c->priv;
    struct file_map *m;
    struct gguf g;
    struct keys k;
    char name[64], prefix[72], list[256];
    int r = checkpoint__map(c, path, &m, e);
    if (r < 0 || (r = gguf__parse(m, p->arena, &p->tix, &g, e)) < 0)
        return r;
    keys__from_gguf(&k, &g, "", e);
    int64_t n_parts = keys__int_or(&k, "split.count", 0, CHECKPOINT_MAX_FILES, 0);
    int64_t no = n_parts > 1 ? keys__int(&k, "split.no", 0, n_parts - 1) : 0;
    if (no > 0)
        keys__fail(&k, ERR_FORMAT, "split.no", "is %lld: this is part %lld of %lld, and the first is the "
                   "one to open", (long long)no, (long long)no + 1, (long long)n_parts);
    keys__string(&k, "general.architecture", name, sizeof(name), NULL);
    read_name(&k, c->config.name, sizeof(c->config.name));
    if (k.r < 0)
        return k.r;
    const struct arch *a = arch__by_gguf_name(name);
    if (!a) {
        arch__list(FORMAT_GGUF, list, sizeof(list));
        return err_set_param(e, ERR_UNSUPPORTED, "general.architecture",
                             "%s: general.architecture is %s; served are %s", m->label, name, list);
    }
    if ((n_parts > 1 && (r = open_parts(c, path, &g, n_parts, e)) < 0) ||
        (r = tix__seal(&p->tix, e)) < 0)
        return r;
    snprintf(prefix, sizeof(prefix), "%s.", name);
    keys__from_gguf(&k, &g, prefix, e);
    if (a->config_gguf)
        a->config_gguf(&k, &p->tix, &c->config);
    else
        k.r = read_config(c, &a, &g, name, e);
    if (k.r < 0)
        return k.r;
    c->format = g.version == 3 ? "GGUF v3" : "GGUF v2";
    if ((r = checkpoint__bind(c, a, a->gguf_name ? FORMAT_GGUF : FORMAT_HF, m->label, e)) < 0)
        return r;
    r = gguf__tokenizer(&g, c->config.vocab_size, p->arena, &c->tokenizer, &c->chat_template, e);
    return r < 0 ? r : gguf__tool_template(&g, p->arena, &c->tool_template, e);
}
