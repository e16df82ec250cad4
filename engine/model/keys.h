/* engine/model/keys.h - numbers and strings by key, from GGUF metadata or from a JSON object, with
 * their accepted ranges.
 *
 * An architecture reads its sizes through this. The error is sticky: after the first one every read
 * answers its lower bound (or false, or "") and r stays what it is, so that a table of reads needs
 * one check at its end. Messages name file, key, what was found and what is accepted. A key that is
 * there twice is an error, JSON null counts as absent. */
#ifndef LATENT_ENGINE_MODEL_KEYS_H
#define LATENT_ENGINE_MODEL_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/model/gguf.h"

struct cJSON;

/* A key under another name: where it is in a configuration that says it differently (path), or, without a
 * path, its value: a word or a number. */
struct keys_name {
    const char *key, *path;
    double number;
    const char *word;
};

struct keys {
    const struct gguf *gguf; /* one of the two */
    const struct cJSON *json;
    const char *prefix; /* put before every GGUF key: "deepseek2." */
    const char *label;  /* the file, for messages */
    const struct keys_name *names; /* up to key == NULL, or NULL; borrowed. Messages say the other name */
    int r;              /* 0 or the first error */
    struct err *e;
};

void keys__from_gguf(struct keys *k, const struct gguf *g, const char *prefix, struct err *e);
void keys__from_json(struct keys *k, const struct cJSON *object, const char *label, struct err *e);

/* JSON keys may be paths: "rope_scaling.factor". */
bool keys__has(struct keys *k, const char *key);
/* It is there, and null. JSON only. */
bool keys__null(struct keys *k, const char *key);
int64_t keys__int(struct keys *k, const char *key, int64_t lo, int64_t hi);
int64_t keys__int_or(struct keys *k, const char *key, int64_t lo, int64_t hi, int64_t absent);
float keys__float(struct keys *k, const char *key, double lo, double hi);
float keys__float_or(struct keys *k, const char *key, double lo, double hi, double absent);
bool keys__bool_or(struct keys *k, const char *key, bool absent);
/* Copies at most dst_bytes - 1 bytes; a longer string is an error. absent NULL: required. */
void keys__string(struct keys *k, const char *key, char *dst, size_t dst_bytes, const char *absent);
/* A list of n numbers in lo..hi. JSON only. */
void keys__floats(struct keys *k, const char *key, int n, double lo, double hi, float *dst);
/* A JSON list of n kinds of layers, `head` for some of the first and `rest` for all that follow: how many
 * the first are. Any other list is an error. */
int keys__layer_kinds(struct keys *k, const char *key, int n, const char *head, const char *rest,
                      int absent);
/* What a key says of layer i of n: its value, or item i of a list of n values; null counts as absent. */
struct keys_layer {
    int i, n;
};
bool keys__layer_has(struct keys *k, const char *key, struct keys_layer at);
/* whole: an integer. absent NAN: required. */
double keys__layer_number(struct keys *k, const char *key, struct keys_layer at, bool whole, double lo,
                          double hi, double absent);
void keys__layer_string(struct keys *k, const char *key, struct keys_layer at, char *dst, size_t dst_bytes,
                        const char *absent);
/* A list of integers for all layers, or a list of n lists. Returns how many there are, at most max. */
int keys__layer_list(struct keys *k, const char *key, struct keys_layer at, double lo, double hi, int max,
                     int32_t *dst);
/* A list of integers, or a string of them with commas between. Returns how many there are, at most max. */
int keys__int_list(struct keys *k, const char *key, int64_t lo, int64_t hi, int max, int32_t *dst);
/* Refuses JSON keys that begin so and are none of `known` (up to NULL). */
void keys__refuse_others(struct keys *k, const char *prefix, const char *const *known);
/* Sets the error, unless there is one already. */
void keys__fail(struct keys *k, int code, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
