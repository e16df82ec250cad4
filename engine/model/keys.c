/* engine/model/keys.c - see keys.h. */
#include "config.h"

#include "engine/model/keys.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/json.h"

#define MAX_PATH_BYTES 160

/* A value of either source. */
struct value {
    const struct gguf_kv *kv;
    const cJSON *json;
    const struct keys_name *fixed; /* a name's own value */
};

static const struct keys_name *name_of(const struct keys *k, const char *key)
{
    for (const struct keys_name *n = k->names; n && n->key; n++)
        if (strcmp(n->key, key) == 0)
            return n;
    return NULL;
}

static const char *path_of(const struct keys *k, const char *key)
{
    const struct keys_name *n = name_of(k, key);
    return n && n->path ? n->path : key;
}

void keys__from_gguf(struct keys *k, const struct gguf *g, const char *prefix, struct err *e)
{
    *k = (struct keys){.gguf = g, .prefix = prefix, .label = g->map->label, .e = e};
}

void keys__from_json(struct keys *k, const struct cJSON *object, const char *label, struct err *e)
{
    *k = (struct keys){.json = object, .prefix = "", .label = label, .e = e};
}

void keys__fail(struct keys *k, int code, const char *key, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    if (k->r < 0)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    key = path_of(k, key);
    k->r = err_set_param(k->e, code, key, "%s: %s%s %s", k->label, k->prefix, key, text);
}

/* NULL: not there, or an error in k. */
static const cJSON *at_path(struct keys *k, const char *path)
{
    const cJSON *at = k->json;
    char part[MAX_PATH_BYTES];
    for (const char *s = path; at && s;) {
        const char *dot = strchr(s, '.');
        size_t n = dot ? (size_t)(dot - s) : strlen(s);
        if (n >= sizeof(part))
            return NULL;
        memcpy(part, s, n);
        part[n] = 0;
        if (json__get(at, part, &at) < 0) {
            keys__fail(k, ERR_FORMAT, path, "occurs twice");
            return NULL;
        }
        s = dot ? dot + 1 : NULL;
    }
    return at;
}

static bool find(struct keys *k, const char *key, struct value *ret)
{
    const struct keys_name *n = name_of(k, key);
    *ret = (struct value){0};
    if (n && !n->path) {
        ret->fixed = n;
        return true;
    }
    key = path_of(k, key);
    if (k->gguf) {
        char full[MAX_PATH_BYTES];
        snprintf(full, sizeof(full), "%s%s", k->prefix, key);
        ret->kv = gguf__find(k->gguf, full);
    } else {
        const cJSON *at = at_path(k, key);
        ret->json = at && !cJSON_IsNull(at) ? at : NULL;
    }
    return ret->kv || ret->json;
}

/* A number of JSON or of a name. */
static bool number_of(const struct value *v, double *ret)
{
    *ret = v->fixed ? v->fixed->number : v->json ? cJSON_GetNumberValue(v->json) : 0;
    return v->fixed ? !v->fixed->word : v->json && cJSON_IsNumber(v->json);
}

/* What a value is, for messages. */
static const char *describe(const struct value *v)
{
    if (v->kv)
        return gguf__type_name(v->kv->type);
    if (v->fixed || cJSON_IsString(v->json))
        return "a string";
    if (cJSON_IsNumber(v->json))
        return "a number";
    if (cJSON_IsBool(v->json))
        return "a bool";
    return cJSON_IsArray(v->json) ? "an array" : "an object";
}

bool keys__has(struct keys *k, const char *key)
{
    struct value v;
    return k->r == 0 && find(k, key, &v);
}

bool keys__null(struct keys *k, const char *key)
{
    return k->r == 0 && k->json && cJSON_IsNull(at_path(k, path_of(k, key)));
}

static void missing(struct keys *k, const char *key)
{
    keys__fail(k, ERR_FORMAT, key, "is missing");
}

static int64_t to_int(struct keys *k, const char *key, const struct value *v, int64_t lo, int64_t hi)
{
    int64_t i = 0;
    double d = 0;
    if (v->kv) {
        if (!gguf__is_int_type(v->kv->type)) {
            keys__fail(k, ERR_FORMAT, key, "must be an integer in %lld..%lld, not %s",
                       (long long)lo, (long long)hi, describe(v));
            return lo;
        }
        if (!gguf__as_int(v->kv, &i))
            i = INT64_MAX;
    } else {
        if (!number_of(v, &d)) {
            keys__fail(k, ERR_FORMAT, key, "must be an integer in %lld..%lld, not %s",
                       (long long)lo, (long long)hi, describe(v));
            return lo;
        }
        if (!(d >= -0x1p53 && d <= 0x1p53) || floor(d) != d) {
            keys__fail(k, ERR_FORMAT, key, "is %g; an integer in %lld..%lld is accepted", d,
                       (long long)lo, (long long)hi);
            return lo;
        }
        i = (int64_t)d;
    }
    if (i < lo || i > hi) {
        keys__fail(k, ERR_FORMAT, key, "is %lld; %lld..%lld is accepted", (long long)i,
                   (long long)lo, (long long)hi);
        return lo;
    }
    return i;
}

int64_t keys__int(struct keys *k, const char *key, int64_t lo, int64_t hi)
{
    struct value v;
    if (k->r < 0)
        return lo;
    if (!find(k, key, &v)) {
        missing(k, key);
        return lo;
    }
    return to_int(k, key, &v, lo, hi);
}

int64_t keys__int_or(struct keys *k, const char *key, int64_t lo, int64_t hi, int64_t absent)
{
    struct value v;
    if (k->r < 0)
        return lo;
    return find(k, key, &v) ? to_int(k, key, &v, lo, hi) : absent;
}

static float to_float(struct keys *k, const char *key, const struct value *v, double lo, double hi)
{
    double d = 0;
    bool number = v->kv ? gguf__as_float(v->kv, &d) : number_of(v, &d);
    if (!number) {
        keys__fail(k, ERR_FORMAT, key, "must be a number in %g..%g, not %s", lo, hi, describe(v));
        return (float)lo;
    }
    if (!(d >= lo && d <= hi)) { /* also not a number */
        keys__fail(k, ERR_FORMAT, key, "is %g; %g..%g is accepted", d, lo, hi);
        return (float)lo;
    }
    return (float)d;
}

float keys__float(struct keys *k, const char *key, double lo, double hi)
{
    struct value v;
    if (k->r < 0)
        return (float)lo;
    if (!find(k, key, &v)) {
        missing(k, key);
        return (float)lo;
    }
    return to_float(k, key, &v, lo, hi);
}

float keys__float_or(struct keys *k, const char *key, double lo, double hi, double absent)
{
    struct value v;
    if (k->r < 0)
        return (float)lo;
    return find(k, key, &v) ? to_float(k, key, &v, lo, hi) : (float)absent;
}

bool keys__bool_or(struct keys *k, const char *key, bool absent)
{
    struct value v;
    int64_t i = 0;
    if (k->r < 0 || !find(k, key, &v))
        return absent;
    if (v.json && cJSON_IsBool(v.json))
        return cJSON_IsTrue(v.json);
    if (v.fixed)
        return v.fixed->number != 0;
    if (v.kv && v.kv->type == GGUF_BOOL && gguf__as_int(v.kv, &i) && (i == 0 || i == 1))
        return i == 1;
    keys__fail(k, ERR_FORMAT, key, "must be a bool, true or false, not %s", describe(&v));
    return absent;
}

static void to_string(struct keys *k, const char *key, const struct value *v, char *dst, size_t dst_bytes,
                      const char *absent)
{
    const char *s = absent;
    size_t n = 0;
    if (v->kv && v->kv->type == GGUF_STR) {
        s = (const char *)v->kv->data;
        n = (size_t)v->kv->n;
    } else if (v->json && cJSON_IsString(v->json)) {
        s = v->json->valuestring;
        n = strlen(s);
    } else if (v->fixed && v->fixed->word) {
        s = v->fixed->word;
        n = strlen(s);
    } else if (v->kv || v->json) {
        keys__fail(k, ERR_FORMAT, key, "must be a string, not %s", describe(v));
        return;
    } else if (!absent) {
        missing(k, key);
        return;
    } else {
        n = strlen(absent);
    }
    if (n >= dst_bytes || memchr(s, 0, n)) {
        keys__fail(k, ERR_FORMAT, key, "has %zu bytes or a NUL; at most %zu without NUL are accepted",
                   n, dst_bytes - 1);
        return;
    }
    memcpy(dst, s, n);
    dst[n] = 0;
}

void keys__string(struct keys *k, const char *key, char *dst, size_t dst_bytes, const char *absent)
{
    struct value v;
    dst[0] = 0;
    if (k->r < 0)
        return;
    find(k, key, &v);
    to_string(k, key, &v, dst, dst_bytes, absent);
}

/* --- by layer ---------------------------------------------------------------------------------- */

static bool find_layer(struct keys *k, const char *key, struct keys_layer at, struct value *v)
{
    *v = (struct value){0};
    if (k->r < 0 || !find(k, key, v))
        return false;
    if (v->json && cJSON_IsArray(v->json)) {
        if (cJSON_GetArraySize(v->json) != at.n) {
            keys__fail(k, ERR_FORMAT, key, "is a list of %d; one value or a list of %d (layers) is accepted",
                       cJSON_GetArraySize(v->json), at.n);
            return false;
        }
        v->json = cJSON_GetArrayItem(v->json, at.i);
        if (cJSON_IsNull(v->json))
            v->json = NULL;
    }
    return v->kv || v->json || v->fixed;
}

bool keys__layer_has(struct keys *k, const char *key, struct keys_layer at)
{
    struct value v;
    return find_layer(k, key, at, &v);
}

double keys__layer_number(struct keys *k, const char *key, struct keys_layer at, bool whole, double lo,
                          double hi, double absent)
{
    struct value v;
    if (!find_layer(k, key, at, &v)) {
        if (k->r == 0 && isnan(absent))
            missing(k, key);
        return k->r < 0 ? lo : absent;
    }
    return whole ? (double)to_int(k, key, &v, (int64_t)lo, (int64_t)hi)
                 : (double)to_float(k, key, &v, lo, hi);
}

void keys__layer_string(struct keys *k, const char *key, struct keys_layer at, char *dst, size_t dst_bytes,
                        const char *absent)
{
    struct value v;
    dst[0] = 0;
    find_layer(k, key, at, &v);
    if (k->r == 0)
        to_string(k, key, &v, dst, dst_bytes, absent);
}

int keys__layer_list(struct keys *k, const char *key, struct keys_layer at, double lo, double hi, int max,
                     int32_t *dst)
{
    struct value v;
    const cJSON *item;
    int n = 0;
    if (k->r < 0 || !find(k, key, &v) || !v.json)
        return 0;
    if (cJSON_IsArray(v.json) && cJSON_IsArray(cJSON_GetArrayItem(v.json, 0)) && !find_layer(k, key, at, &v))
        return 0;
    if (!cJSON_IsArray(v.json) || cJSON_GetArraySize(v.json) > max) {
        keys__fail(k, ERR_FORMAT, key, "must be a list of at most %d integers", max);
        return 0;
    }
    cJSON_ArrayForEach(item, v.json)
    {
        struct value one = {.json = item};
        dst[n++] = (int32_t)to_int(k, key, &one, (int64_t)lo, (int64_t)hi);
    }
    return n;
}

int keys__int_list(struct keys *k, const char *key, int64_t lo, int64_t hi, int max, int32_t *dst)
{
    struct value v;
    int n = 0;
    if (k->r < 0 || !find(k, key, &v) || !v.json || !cJSON_IsString(v.json))
        return keys__layer_list(k, key, (struct keys_layer){0, 1}, (double)lo, (double)hi, max, dst);
    for (const char *s = v.json->valuestring; *s && k->r == 0;) {
        char *end;
        long long i = strtoll(s, &end, 10);
        while (*end == ' ')
            end++;
        if (end == s || (*end && *end != ',') || i < lo || i > hi || n == max)
            keys__fail(k, ERR_FORMAT, key, "must be at most %d integers in %lld..%lld with commas between",
                       max, (long long)lo, (long long)hi);
        else
            dst[n++] = (int32_t)i;
        s = *end ? end + 1 : end;
    }
    return k->r < 0 ? 0 : n;
}

void keys__floats(struct keys *k, const char *key, int n, double lo, double hi, float *dst)
{
    struct value v;
    int i = 0;
    if (k->r < 0)
        return;
    if (!find(k, key, &v) || !v.json) {
        missing(k, key);
        return;
    }
    const cJSON *at;
    if (!cJSON_IsArray(v.json) || cJSON_GetArraySize(v.json) != n) {
        keys__fail(k, ERR_FORMAT, key, "must be a list of %d numbers", n);
        return;
    }
    cJSON_ArrayForEach(at, v.json)
    {
        struct value one = {.json = at};
        dst[i++] = to_float(k, key, &one, lo, hi);
    }
}

int keys__layer_kinds(struct keys *k, const char *key, int n, const char *head, const char *rest,
                      int absent)
{
    struct value v;
    const cJSON *at;
    int i = 0, n_head = 0;
    if (k->r < 0 || !find(k, key, &v))
        return absent;
    if (!v.json || !cJSON_IsArray(v.json) || cJSON_GetArraySize(v.json) != n) {
        keys__fail(k, ERR_FORMAT, key, "must be a list of %d kinds of layers", n);
        return absent;
    }
    cJSON_ArrayForEach(at, v.json)
    {
        const char *s = cJSON_IsString(at) ? at->valuestring : "";
        if (i == n_head && strcmp(s, head) == 0) {
            n_head++;
        } else if (strcmp(s, rest)) {
            keys__fail(k, ERR_UNSUPPORTED, key,
                       "has %.40s for layer %d; served are %s for the first layers and %s after them", s,
                       i, head, rest);
            return absent;
        }
        i++;
    }
    return n_head;
}

void keys__refuse_others(struct keys *k, const char *prefix, const char *const *known)
{
    const cJSON *at;
    cJSON_ArrayForEach(at, k->json)
    {
        bool found = strncmp(at->string, prefix, strlen(prefix)) != 0;
        for (int i = 0; !found && known[i]; i++)
            found = !strcmp(known[i], at->string);
        if (!found)
            keys__fail(k, ERR_UNSUPPORTED, at->string, "is not known");
    }
}
