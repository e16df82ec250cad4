/* engine/model/fingerprint.c - which weights these are, without reading all of a large checkpoint.
 *
 * The hash covers what the configuration came to, and every tensor's name, type, shape and length. Of the
 * data it covers all when the files have at most WHOLE_BYTES, else the beginning, the end and places at equal
 * distances of each tensor: weights that were trained or quantised again differ there, a single value
 * changed by hand may not. */
#include "config.h"

#include <string.h>

#include "base/hash.h"
#include "engine/model/checkpoint_internal.h"

#define WHOLE_BYTES ((uint64_t)256 << 20)
#define MAX_PLACES 65536 /* over all tensors: each may cost a read of the disk */
#define PLACE_BYTES 64

static void add_number(struct hash64_stream *h, int64_t v)
{
    hash64_stream_add(h, &v, sizeof(v));
}

static void add_data(struct hash64_stream *h, const struct tensor *t, bool whole, size_t n_places)
{
    const unsigned char *p = t->data;
    if (!p)
        return;
    if (whole || t->n_bytes <= n_places * PLACE_BYTES) {
        hash64_stream_add(h, p, t->n_bytes);
        return;
    }
    for (size_t i = 0; i < n_places; i++) {
        size_t at = n_places > 1 ? (size_t)((double)(t->n_bytes - PLACE_BYTES) * (double)i /
                                            (double)(n_places - 1))
                                 : 0;
        hash64_stream_add(h, p + at, PLACE_BYTES);
    }
}

int checkpoint_fingerprint(const struct checkpoint *c, uint64_t *ret)
{
    struct model_config config = c->config;
    const struct tix *x = &c->priv->tix;
    bool whole = c->file_bytes <= WHOLE_BYTES;
    size_t n_places = x->n ? MAX_PLACES / x->n : 1;
    struct hash64_stream *h = hash64_stream_new();
    if (!h)
        return ERR_NOMEM;
    memset(config.name, 0, sizeof(config.name)); /* may come from the path */
    hash64_stream_add(h, &config, sizeof(config));
    for (int i = 0; c->layers && i < config.num_hidden_layers; i++)
        if (c->layers[i].hash)
            add_number(h, (int64_t)c->layers[i].hash);
    for (size_t i = 0; i < x->n; i++) {
        const struct tensor *t = &x->v[i].t;
        hash64_stream_add(h, t->name, strlen(t->name) + 1);
        hash64_stream_add(h, x->v[i].type_name, strlen(x->v[i].type_name) + 1);
        for (int d = 0; d < TENSOR_MAX_DIMS; d++)
            add_number(h, t->ne[d]);
        add_number(h, (int64_t)t->n_bytes);
        add_data(h, t, whole, n_places < 2 ? 2 : n_places > 64 ? 64 : n_places);
    }
    *ret = hash64_stream_value(h);
    hash64_stream_free(&h);
    return 0;
}
