/* tools/convert/verify.c - latent-convert verify: checksums of a file that latent-convert wrote, finite
 * values in any model, and two models' tensors side by side. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tools/convert/commands.h"
#include "tools/convert/emit.h"

#define MAX_ARENA_BYTES ((size_t)2 << 30)
#define BLOCK_VALUES ((int64_t)1 << 18)

/* --- checksums --------------------------------------------------------------------------------- */

struct sums {
    int n_checked, n_bad;
};

static uint64_t layout_of(const struct tix *x, struct hash64_stream *h)
{
    hash64_stream_reset(h);
    for (size_t i = 0; i < x->n; i++) /* in the file's order: the index is not sorted yet */
        emit_layout_add(h, x->v[i].t.name, (uint32_t)x->v[i].t.type, x->v[i].t.ne);
    return hash64_stream_value(h);
}

static int check_file(const struct file_map *m, struct arena *arena, struct sums *s, struct err *e)
{
    struct gguf g;
    struct tix x;
    tix__init(&x, arena);
    int r = gguf__parse(m, arena, &x, &g, e);
    const struct gguf_kv *sums = r == 0 ? gguf__find(&g, EMIT_KEY_SUMS) : NULL;
    const struct gguf_kv *layout = r == 0 ? gguf__find(&g, EMIT_KEY_LAYOUT) : NULL;
    struct hash64_stream *h = hash64_stream_new();
    uint64_t want = 0;
    if (r == 0 && !h)
        r = err_set(e, ERR_NOMEM, "out of memory");
    if (r == 0 && sums && layout && layout->type == GGUF_U64 && sums->type == GGUF_ARR &&
        sums->elem_type == GGUF_U64 && sums->n == x.n) {
        memcpy(&want, layout->data, sizeof(want));
        if (layout_of(&x, h) != want) {
            printf("%s: the list of tensors is not the one that was written; another program changed the "
                   "file, or it is damaged\n", m->label);
            s->n_bad++;
        }
        for (size_t i = 0; i < x.n; i++) {
            const struct tensor *t = &x.v[i].t;
            memcpy(&want, sums->data + i * sizeof(want), sizeof(want));
            s->n_checked++;
            if (t->data && hash64_bytes(t->data, t->n_bytes, 0) == want)
                continue;
            printf("%s: tensor %s is damaged: its checksum differs\n", m->label, t->name);
            s->n_bad++;
        }
    }
    hash64_stream_free(&h);
    tix__done(&x);
    return r;
}

/* --- values ------------------------------------------------------------------------------------ */

struct reader {
    const struct source *s;
    float *values, *tmp;
};

static int64_t block_rows(const struct source_tensor *t)
{
    int64_t unit = source_unit(t), rows = BLOCK_VALUES / t->ne[0] / unit * unit;
    return rows < unit ? unit : rows;
}

/* Values of the largest block. */
static int64_t most_values(const struct source *s)
{
    int64_t max = 1;
    for (int i = 0; i < s->n_tensors; i++) {
        int64_t n = block_rows(&s->tensors[i]) * s->tensors[i].ne[0];
        max = n > max ? n : max;
    }
    return max;
}

static int reader_open(struct reader *r, const struct source *s, int64_t n_values, struct err *e)
{
    r->s = s;
    r->values = malloc((size_t)n_values * sizeof(float));
    r->tmp = malloc((size_t)source_tmp(s) * sizeof(float));
    return r->values && r->tmp ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static void reader_close(struct reader *r)
{
    free(r->values);
    free(r->tmp);
}

/* The first row with a value that is not finite, or -1. */
static int64_t first_bad(struct reader *rd, const struct source_tensor *t)
{
    int64_t rows = block_rows(t);
    for (int64_t at = 0; at < t->n_rows; at += rows) {
        int64_t n = t->n_rows - at < rows ? t->n_rows - at : rows;
        source_rows(rd->s, t, at, n, rd->values, rd->tmp);
        for (int64_t i = 0; i < n * t->ne[0]; i++)
            if (!isfinite(rd->values[i]))
                return at + i / t->ne[0];
    }
    return -1;
}

int convert_verify(const char *path)
{
    struct source s = {0};
    struct sums sums = {0};
    struct reader rd = {0};
    struct err e = {0};
    int r = source_open(path, &s, &e);
    if (r < 0)
        return convert_fail(&e);
    const struct checkpoint_priv *p = s.ck->priv;
    for (int i = 0; s.is_gguf && r == 0 && i < p->n_maps; i++)
        r = check_file(p->maps[i], s.arena, &sums, &e);
    if (r == 0)
        r = reader_open(&rd, &s, most_values(&s), &e);
    for (int i = 0; r == 0 && i < s.n_tensors; i++) {
        const struct source_tensor *t = &s.tensors[i];
        int64_t row = t->readable ? first_bad(&rd, t) : -1;
        if (row < 0)
            continue;
        printf("tensor %s, row %" PRId64 ": a value is not finite\n", t->name, row);
        sums.n_bad++;
    }
    if (r == 0)
        printf("%s: %d tensors, %d checksums compared%s: %s\n", s.ck->config.name, s.n_tensors,
               sums.n_checked, sums.n_checked ? "" : " (the file has none)",
               sums.n_bad ? "NOT well" : "well");
    reader_close(&rd);
    source_close(&s);
    return r < 0 ? convert_fail(&e) : sums.n_bad ? 1 : 0;
}

/* --- side by side ------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    const struct source_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static const struct source_tensor **sorted(const struct source *s)
{
    const struct source_tensor **v = calloc((size_t)s->n_tensors + 1, sizeof(*v));
    for (int i = 0; v && i < s->n_tensors; i++)
        v[i] = &s->tensors[i];
    if (v)
        qsort(v, (size_t)s->n_tensors, sizeof(*v), by_name);
    return v;
}

static void compare_one(struct reader *a, const struct source_tensor *x, struct reader *b,
                        const struct source_tensor *y)
{
    double sum = 0, square = 0, reference = 0, max = 0;
    int64_t rows = block_rows(x), other = block_rows(y), unit = source_unit(x);
    rows = rows < other ? rows : other;
    unit = unit > source_unit(y) ? unit : source_unit(y);
    if (rows % unit) /* a head of one is more than a block of the other, which can be read in any rows */
        rows = unit;
    for (int64_t at = 0; at < x->n_rows; at += rows) {
        int64_t n = x->n_rows - at < rows ? x->n_rows - at : rows;
        source_rows(a->s, x, at, n, a->values, a->tmp);
        source_rows(b->s, y, at, n, b->values, b->tmp);
        for (int64_t i = 0; i < n * x->ne[0]; i++) {
            double u = (double)a->values[i], d = fabs((double)b->values[i] - u);
            sum += d;
            square += d * d;
            reference += u * u;
            max = d > max ? d : max;
        }
    }
    double count = (double)x->n_rows * (double)x->ne[0];
    printf("%-40s %-6s %-6s %12.4e %12.4e %12.4e\n", x->name, x->type_name, y->type_name, max,
           sum / count, reference > 0 ? sqrt(square / reference) : sqrt(square / count));
}

static int compare_all(const struct source *s, const struct source *t, int *ret_bad, struct err *e)
{
    const struct source_tensor **x = sorted(s), **y = sorted(t);
    struct reader a = {0}, b = {0};
    int i = 0, k = 0, r = x && y ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    int64_t n_s = most_values(s), n_t = most_values(t), n = n_s > n_t ? n_s : n_t;
    if (r == 0)
        r = reader_open(&a, s, n, e);
    if (r == 0)
        r = reader_open(&b, t, n, e);
    if (r == 0)
        printf("%-40s %-6s %-6s %12s %12s %12s\n", "tensor", "a", "b", "max error", "mean error",
               "rms, of a");
    while (r == 0 && (i < s->n_tensors || k < t->n_tensors)) {
        int order = i == s->n_tensors ? 1 : k == t->n_tensors ? -1 : strcmp(x[i]->name, y[k]->name);
        if (order) {
            printf("%-40s only in %s\n", order < 0 ? x[i++]->name : y[k++]->name, order < 0 ? "a" : "b");
            ++*ret_bad;
            continue;
        }
        if (memcmp(x[i]->ne, y[k]->ne, sizeof(x[i]->ne))) {
            printf("%-40s has another shape\n", x[i]->name);
            ++*ret_bad;
        } else if (!x[i]->readable || !y[k]->readable) {
            printf("%-40s has a type that cannot be read\n", x[i]->name);
            ++*ret_bad;
        } else {
            compare_one(&a, x[i], &b, y[k]);
        }
        i++;
        k++;
    }
    reader_close(&a);
    reader_close(&b);
    free(x);
    free(y);
    return r;
}

int convert_compare(const char *path_a, const char *path_b)
{
    struct source a = {0}, b = {0};
    struct err e = {0};
    int bad = 0, r = source_open(path_a, &a, &e);
    if (r == 0 && (r = source_open(path_b, &b, &e)) == 0)
        r = compare_all(&a, &b, &bad, &e);
    source_close(&a);
    source_close(&b);
    return r < 0 ? convert_fail(&e) : bad ? 1 : 0;
}
