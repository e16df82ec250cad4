/* tools/convert/plan.c - see plan.h. */
#include "config.h"

#include "tools/convert/plan.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/convert/quantize.h"

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Vectors, norms, frequencies and gates stay exact: they are small, and a gate decides by
 * differences. Names may be those of folders, where a matrix need not be called weight. */
static bool stays_f32(const struct source_tensor *t)
{
    return t->n_dims < 2 || t->n_rows == 1 || ends_in(t->name, "bias") || ends_in(t->name, "_freqs") ||
           strstr(t->name, "norm.") || strstr(t->name, "ffn_gate_inp.") || strstr(t->name, ".gate.");
}

/* Where rows are no multiple of the block, as llama.cpp does it. */
static enum tensor_type fallback(enum tensor_type type, int64_t n_in)
{
    static const enum tensor_type pairs[][2] = {{TT_Q4_K, TT_Q5_0},     {TT_Q5_K, TT_Q5_1},
                                                {TT_Q6_K, TT_Q8_0},     {TT_Q2_K, TT_Q4_0},
                                                {TT_Q3_K, TT_Q4_0},     {TT_IQ4_XS, TT_IQ4_NL}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        if (type == pairs[i][0] && n_in % 256)
            type = pairs[i][1];
    return tensor_row_bytes(type, n_in) ? type : TT_F16;
}

static void choose(const struct source *s, const struct plan_options *o, const struct source_tensor *t,
                   struct plan_tensor *p)
{
    int n_layers = s->ck->config.num_hidden_layers;
    if (t->readable && t->parts[0].type == TT_I32) {
        p->type = p->wanted = TT_I32;
        return;
    }
    if (stays_f32(t)) {
        p->type = p->wanted = TT_F32;
        return;
    }
    p->wanted = recipe_type(o->recipe, t->name, n_layers);
    for (int i = 0; i < o->n_overrides; i++)
        if (fnmatch(o->overrides[i].pattern, t->name, 0) == 0) {
            p->wanted = o->overrides[i].type;
            break;
        }
    p->type = fallback(p->wanted, t->ne[0]);
}

static int check_overrides(const struct source *s, const struct plan_options *o, struct err *e)
{
    for (int i = 0; i < o->n_overrides; i++) {
        bool used = false;
        for (int k = 0; k < s->n_tensors && !used; k++)
            used = fnmatch(o->overrides[i].pattern, s->tensors[k].name, 0) == 0;
        if (!used)
            return err_set_param(e, ERR_NOTFOUND, "--tensor-type",
                                 "--tensor-type %.100s: no tensor has a name like that",
                                 o->overrides[i].pattern);
    }
    return 0;
}

/* What a part has besides the data of its tensors: its own keys, room for alignment, and each tensor's entry,
 * checksum and padding. */
#define PART_BYTES 1024

static uint64_t entry_bytes(const struct source_tensor *t)
{
    return strlen(t->name) + 8 * (uint64_t)t->n_dims + 32 + GGUF_DEFAULT_ALIGNMENT;
}

/* Keys that the first part has for all. */
static int keys_bytes(const struct source *s, uint64_t *ret, struct err *e)
{
    struct gguf_writer w;
    gguf_write_init(&w, s->gguf_arch);
    int r = source_keys(s, &w, e);
    *ret = w.kv.n_bytes;
    gguf_write_done(&w);
    return r;
}

int plan_make(const struct source *s, const struct plan_options *o, struct plan *ret, struct err *e)
{
    struct plan p = {.source = s, .recipe = o->recipe};
    uint64_t in_part = 0;
    int r = check_overrides(s, o, e);
    if (r == 0 && o->split_bytes)
        r = keys_bytes(s, &in_part, e);
    if (r < 0)
        return r;
    p.tensors = calloc((size_t)s->n_tensors + 1, sizeof(*p.tensors));
    p.first = calloc((size_t)s->n_tensors + 2, sizeof(*p.first));
    if (!p.tensors || !p.first) {
        plan_done(&p);
        return err_set(e, ERR_NOMEM, "no memory for the plan");
    }
    in_part += PART_BYTES;
    for (int i = 0; i < s->n_tensors; i++) {
        const struct source_tensor *t = &s->tensors[i];
        struct plan_tensor *at = &p.tensors[i];
        if (!t->readable) {
            r = err_set_param(e, ERR_UNSUPPORTED, t->name,
                              "tensor %s is %s, which this program cannot read", t->name, t->type_name);
            plan_done(&p);
            return r;
        }
        choose(s, o, t, at);
        at->n_bytes = tensor_row_bytes(at->type, t->ne[0]) * (uint64_t)t->n_rows;
        uint64_t more = at->n_bytes + entry_bytes(t);
        if (o->split_bytes && i > p.first[p.n_parts] && in_part + more > o->split_bytes) {
            p.first[++p.n_parts] = i;
            in_part = PART_BYTES;
        }
        at->part = p.n_parts;
        in_part += more;
        p.n_bytes += at->n_bytes;
    }
    p.first[++p.n_parts] = s->n_tensors;
    *ret = p;
    if (p.n_parts > CHECKPOINT_MAX_FILES) {
        plan_done(ret);
        return err_set_param(e, ERR_LIMIT, "--split-size", "--split-size makes %d parts; 1..%d are "
                             "accepted", p.n_parts, CHECKPOINT_MAX_FILES);
    }
    return 0;
}

void plan_done(struct plan *p)
{
    free(p->tensors);
    free(p->first);
    *p = (struct plan){0};
}

/* --- printing ---------------------------------------------------------------------------------- */

const char *plan_size(uint64_t n_bytes, char dst[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double v = (double)n_bytes;
    int u = 0;
    while (v >= 1000 && u < 4) {
        v /= 1000;
        u++;
    }
    snprintf(dst, 32, u ? "%.2f %s" : "%.0f %s", v, units[u]);
    return dst;
}

/* The name without its block's number; *ret_of is what stands before it. */
static const char *kind(const char *name, const char **ret_of)
{
    static const char *const of[][2] = {{"blk.%*d.%n", "blk.*."},
                                        {"model.layers.%*d.%n", "model.layers.*."},
                                        {"transformer.h.%*d.%n", "transformer.h.*."}};
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        int n = 0;
        *ret_of = of[i][1];
        if (sscanf(name, of[i][0], &n) == 0 && n > 0)
            return name + n;
    }
    *ret_of = "";
    return name;
}

static bool alike(const struct plan *p, int a, int b)
{
    const struct source_tensor *x = &p->source->tensors[a], *y = &p->source->tensors[b];
    const char *of_x, *of_y, *kind_x = kind(x->name, &of_x), *kind_y = kind(y->name, &of_y);
    return p->tensors[a].type == p->tensors[b].type && p->tensors[a].wanted == p->tensors[b].wanted &&
           strcmp(x->type_name, y->type_name) == 0 && memcmp(x->ne, y->ne, sizeof(x->ne)) == 0 &&
           strcmp(of_x, of_y) == 0 && strcmp(kind_x, kind_y) == 0;
}

static void print_kind(const struct plan *p, int first, int count, FILE *f)
{
    const struct source_tensor *t = &p->source->tensors[first];
    const struct plan_tensor *at = &p->tensors[first];
    char shape[96], name[128], size[32];
    const char *of, *what = kind(t->name, &of);
    int n = snprintf(shape, sizeof(shape), "%" PRId64, t->ne[0]);
    for (int i = 1; i < t->n_dims && n < (int)sizeof(shape); i++)
        n += snprintf(shape + n, sizeof(shape) - (size_t)n, " x %" PRId64, t->ne[i]);
    snprintf(name, sizeof(name), "%s%.100s", of, what);
    fprintf(f, "  %-32s %4d x %-22s %5s -> %-6s %10s", name, count, shape, t->type_name,
            tensor_type_info((uint32_t)at->type)->name, plan_size(at->n_bytes * (uint64_t)count, size));
    if (at->type != at->wanted) {
        const struct tensor_type_info *w = tensor_type_info((uint32_t)at->wanted);
        fprintf(f, "  (not %s: its rows are no multiple of %d)", w->name, w->block_elems);
    }
    fputc('\n', f);
}

void plan_print(const struct plan *p, FILE *f)
{
    int n = p->source->n_tensors;
    char in[32], out[32];
    bool *done = calloc((size_t)n + 1, sizeof(*done));
    for (int i = 0; done && i < n; i++) {
        int count = 0;
        for (int k = i; !done[i] && k < n; k++)
            if (!done[k] && alike(p, i, k)) {
                done[k] = k != i;
                count++;
            }
        if (!done[i])
            print_kind(p, i, count, f);
    }
    free(done);
    fprintf(f, "%d tensors, %s in, %s out", n, plan_size(p->source->n_bytes, in),
            plan_size(p->n_bytes, out));
    if (p->n_parts > 1)
        fprintf(f, " in %d parts", p->n_parts);
    fprintf(f, "\n");
}
