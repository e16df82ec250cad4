/* engine/tokenizer/vocab_json_steps.c - normalizer, pre_tokenizer and decoder of a tokenizer.json. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/vocab_json.h"

#define GPT2_RULE                                                                                  \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define MARK "\xe2\x96\x81" /* U+2581 */
#define MAX_DEPTH 4

/* --- normalizer ------------------------------------------------------------------------------ */

static int put_step(struct vocab *v, struct normal_step step, struct err *e)
{
    if (v->n_steps == NORMAL_MAX_STEPS)
        return err_set_param(e, ERR_LIMIT, "normalizer",
                             "tokenizer.json: normalizer has more than %d steps", NORMAL_MAX_STEPS);
    v->steps[v->n_steps++] = step;
    return 0;
}

static int read_replace(const cJSON *o, struct vocab *v, struct err *e)
{
    const cJSON *pattern = member(o, "pattern"), *content = member(o, "content");
    const cJSON *text = member(pattern, "String"), *regex = member(pattern, "Regex");
    const cJSON *which = regex ? regex : text;
    if (!cJSON_IsString(which) || !*which->valuestring || !cJSON_IsString(content))
        return err_set_param(
            e, ERR_FORMAT, "normalizer",
            "tokenizer.json: normalizer Replace needs a pattern (String or Regex) and a content");
    return put_step(v,
                    (struct normal_step){NORMAL_REPLACE, content->valuestring, which->valuestring,
                                         regex != NULL},
                    e);
}

static int read_normalizer(const cJSON *o, struct vocab *v, int depth, struct err *e)
{
    static const struct {
        const char *name;
        enum normal_kind kind;
    } plain[] = {{"NFC", NORMAL_NFC},
                 {"NFD", NORMAL_NFD},
                 {"NFKC", NORMAL_NFKC},
                 {"NFKD", NORMAL_NFKD},
                 {"Lowercase", NORMAL_LOWERCASE}};
    const char *type = text_of(o, "type");
    const cJSON *at;
    int r = 0;
    if (!cJSON_IsObject(o))
        return 0;
    for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++)
        if (!strcmp(type, plain[i].name))
            return put_step(v, (struct normal_step){.kind = plain[i].kind}, e);
    if (!strcmp(type, "Sequence") && depth < MAX_DEPTH) {
        cJSON_ArrayForEach (at, member(o, "normalizers")) {
            if ((r = read_normalizer(at, v, depth + 1, e)) < 0)
                return r;
        }
        return 0;
    }
    if (!strcmp(type, "Prepend"))
        return put_step(
            v, (struct normal_step){.kind = NORMAL_PREPEND, .content = text_of(o, "prepend")}, e);
    if (!strcmp(type, "Replace"))
        return read_replace(o, v, e);
    if (!strcmp(type, "Strip")) {
        if (is_set(o, "strip_left"))
            r = put_step(v, (struct normal_step){.kind = NORMAL_STRIP_LEFT}, e);
        if (r == 0 && is_set(o, "strip_right"))
            r = put_step(v, (struct normal_step){.kind = NORMAL_STRIP_RIGHT}, e);
        return r;
    }
    return unsupported(e, "normalizer", type);
}

int vocab__json_normalizer(const cJSON *root, struct vocab *v, struct err *e)
{
    return read_normalizer(member(root, "normalizer"), v, 0, e);
}

/* --- pre-tokenizer --------------------------------------------------------------------------- */

static int put_rule(struct vocab *v, struct pretok_rule rule, struct err *e)
{
    if (v->n_patterns == PRETOK_MAX_PATTERNS)
        return err_set_param(e, ERR_LIMIT, "pre_tokenizer",
                             "tokenizer.json: pre_tokenizer has more than %d patterns",
                             PRETOK_MAX_PATTERNS);
    v->patterns[v->n_patterns++] = rule;
    return 0;
}

static int put_pattern(struct vocab *v, const char *pattern, struct err *e)
{
    return put_rule(v, (struct pretok_rule){pattern, PRETOK_ISOLATED, false}, e);
}

/* A literal string as a pattern: every ASCII character that is no letter or digit is escaped. */
static int quote(struct kept *k, const char *s, const char **ret, struct err *e)
{
    char *q = k->n_quoted < PRETOK_MAX_PATTERNS ? malloc(2 * strlen(s) + 1) : NULL, *p = q;
    if (!q)
        return err_set(e, ERR_NOMEM, "out of memory for the tokenizer");
    k->quoted[k->n_quoted++] = q;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x80 && c > ' ' && !(c >= '0' && c <= '9') &&
            !((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))
            *p++ = '\\';
        *p++ = *s;
    }
    *p = 0;
    *ret = q;
    return 0;
}

static int read_behaviour(const cJSON *o, enum pretok_behaviour *ret, struct err *e)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = text_of(o, "behavior");
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) {
            *ret = (enum pretok_behaviour)i;
            return 0;
        }
    return unsupported(e, "pre_tokenizer behavior", name);
}

static int read_split(const cJSON *o, struct vocab *v, struct kept *k, struct err *e)
{
    const cJSON *pattern = member(o, "pattern"), *literal = member(pattern, "String");
    struct pretok_rule rule = {text_of(pattern, "Regex"), PRETOK_ISOLATED, is_set(o, "invert")};
    int r = read_behaviour(o, &rule.behaviour, e);
    if (r == 0 && cJSON_IsString(literal))
        r = quote(k, literal->valuestring, &rule.pattern, e);
    if (r == 0 && !*rule.pattern)
        r = err_set_param(e, ERR_FORMAT, "pre_tokenizer",
                          "tokenizer.json: a Split has neither Regex nor String");
    return r < 0 ? r : put_rule(v, rule, e);
}

static int read_metaspace(const cJSON *o, struct vocab *v, struct err *e)
{
    const char *scheme = text_of(o, "prepend_scheme");
    if (v->n_patterns > 0 || v->metaspace)
        return unsupported(e, "pre_tokenizer", "Metaspace after another one");
    if (strcmp(text_of(o, "replacement"), MARK) != 0)
        return unsupported(e, "pre_tokenizer Metaspace replacement", text_of(o, "replacement"));
    v->metaspace = true;
    if (!*scheme) /* older files */
        scheme = cJSON_IsFalse(member(o, "add_prefix_space")) ? "never" : "always";
    v->mark = !strcmp(scheme, "always")  ? MARK_ALWAYS
              : !strcmp(scheme, "first") ? MARK_FIRST
                                         : MARK_NEVER;
    if (v->mark == MARK_NEVER && strcmp(scheme, "never") != 0)
        return unsupported(e, "pre_tokenizer Metaspace prepend_scheme", scheme);
    return cJSON_IsFalse(member(o, "split"))
               ? 0
               : put_rule(v, (struct pretok_rule){MARK, PRETOK_WITH_NEXT, false}, e);
}

static int read_pretok(const cJSON *o, struct vocab *v, struct kept *k, bool *byte_level, int depth,
                       struct err *e)
{
    const char *type = text_of(o, "type");
    const cJSON *at;
    int r;
    if (!cJSON_IsObject(o))
        return 0;
    if (*byte_level)
        return unsupported(e, "pre_tokenizer", "anything after ByteLevel");
    if (!strcmp(type, "Sequence") && depth < MAX_DEPTH) {
        cJSON_ArrayForEach (at, member(o, "pretokenizers")) {
            if ((r = read_pretok(at, v, k, byte_level, depth + 1, e)) < 0)
                return r;
        }
        return 0;
    }
    if (!strcmp(type, "Split"))
        return read_split(o, v, k, e);
    if (!strcmp(type, "Digits"))
        return put_pattern(v, is_set(o, "individual_digits") ? "\\p{N}" : "\\p{N}+", e);
    if (!strcmp(type, "WhitespaceSplit"))
        return put_rule(v, (struct pretok_rule){"\\s+", PRETOK_REMOVED, false}, e);
    if (!strcmp(type, "Metaspace"))
        return read_metaspace(o, v, e);
    if (!strcmp(type, "ByteLevel")) {
        *byte_level = true;
        v->prefix_space = is_set(o, "add_prefix_space");
        if (v->prefix_space && v->n_patterns > 0)
            return unsupported(e, "pre_tokenizer",
                               "ByteLevel with add_prefix_space after another one");
        return cJSON_IsFalse(member(o, "use_regex")) ? 0 : put_pattern(v, GPT2_RULE, e);
    }
    return unsupported(e, "pre_tokenizer", type);
}

int vocab__json_pretok(const cJSON *root, struct vocab *v, struct kept *k, struct err *e)
{
    bool byte_level = false;
    int r = read_pretok(member(root, "pre_tokenizer"), v, k, &byte_level, 0, e);
    if (r < 0)
        return r;
    v->kind = byte_level ? VOCAB_BYTES : VOCAB_CHARS;
    if (byte_level && (v->byte_fallback || v->metaspace))
        return unsupported(e, "pre_tokenizer", "ByteLevel with byte_fallback or Metaspace");
    return 0;
}

/* --- decoder --------------------------------------------------------------------------------- */

static int read_byte_decoder(const char *type, const struct vocab *v, struct err *e)
{
    return v->kind == VOCAB_BYTES && !strcmp(type, "ByteLevel") ? 0
                                                                : unsupported(e, "decoder", type);
}

/* Replace U+2581 by a space, ByteFallback, Fuse, Strip: what SentencePiece's decoding is made of. */
static int read_char_decoders(const cJSON *list, struct vocab *v, struct err *e)
{
    const cJSON *at;
    bool replaced = false, fallback = false, fused = false;
    cJSON_ArrayForEach (at, list) {
        const char *type = text_of(at, "type");
        if (!strcmp(type, "Replace") && !replaced && !fused &&
            !strcmp(text_of(member(at, "pattern"), "String"), MARK) &&
            !strcmp(text_of(at, "content"), " ")) {
            replaced = true;
        } else if (!strcmp(type, "ByteFallback") && replaced && !fused) {
            fallback = true;
        } else if (!strcmp(type, "Fuse") && replaced) {
            fused = true;
        } else if (!strcmp(type, "Strip") && fused && !strcmp(text_of(at, "content"), " ")) {
            const cJSON *start = member(at, "start"), *stop = member(at, "stop");
            if (!cJSON_IsNumber(start) || start->valuedouble < 0 || start->valuedouble > 16 ||
                (cJSON_IsNumber(stop) && stop->valuedouble != 0))
                return unsupported(e, "decoder", "Strip with such a start or stop");
            v->strip_left = (int)start->valuedouble;
        } else {
            return unsupported(e, "decoder in this place", type);
        }
    }
    if (!replaced || !fused || fallback != v->byte_fallback)
        return unsupported(e, "decoder",
                           "a Sequence without Replace, Fuse, or byte_fallback's ByteFallback");
    return 0;
}

int vocab__json_decoder(const cJSON *root, struct vocab *v, struct err *e)
{
    const cJSON *o = member(root, "decoder");
    const char *type = text_of(o, "type");
    if (v->kind == VOCAB_BYTES) {
        const cJSON *list = member(o, "decoders");
        bool one = !strcmp(type, "Sequence") && list && cJSON_GetArraySize(list) == 1;
        return read_byte_decoder(one ? text_of(list->child, "type") : type, v, e);
    }
    if (strcmp(type, "Sequence") != 0)
        return unsupported(e, "decoder", type);
    return read_char_decoders(member(o, "decoders"), v, e);
}
