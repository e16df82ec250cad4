/* engine/model/bind.c - tensors of a checkpoint taken by name: presence, shape and type are checked, and
 * all that is wrong with a checkpoint is said in one error.
 *
 * A tensor with a problem is noted and replaced by one of the wanted shape without values, so that the
 * family goes on with the others; nothing reads the values before bind__finish has turned the notes into
 * an error. What no role has taken is an error as well: a weight that the computation leaves out (a bias,
 * a layer too many) would make other text in silence. Known exceptions are in means_nothing. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "engine/model/arch.h"

/* A configuration may ask for millions of tensors that a small file lacks: the names end here. */
#define MAX_PROBLEMS 20000
#define SCALE_SUFFIX "_scale_inv"

bool bind__has(const struct binder *b, const char *name)
{
    return tix__find(b->tix, name) != NULL;
}

static void shape_text(const int64_t *ne, int n_dims, char *dst, size_t dst_bytes)
{
    size_t n = (size_t)snprintf(dst, dst_bytes, "{");
    for (int i = 0; i < n_dims && n < dst_bytes; i++)
        n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%lld", i ? ", " : "", (long long)ne[i]);
    if (n < dst_bytes)
        snprintf(dst + n, dst_bytes - n, "}");
}

/* --- problems ---------------------------------------------------------------------------------- */

static void problem(struct binder *b, enum bind_problem kind, const char *name, const char *detail)
{
    struct bind_problems *p = &b->problems[kind];
    if (p->n < BIND_SHOWN)
        snprintf(p->shown[p->n], sizeof(p->shown[0]), "%.90s%s", name, detail);
    if (p->n == 0)
        p->first = arena_strndup(b->arena, name, strlen(name));
    if (++p->n == MAX_PROBLEMS)
        b->r = ERR_FORMAT; /* stops the family; bind__finish says why */
}

static int n_problems(const struct binder *b)
{
    int n = 0;
    for (int i = 0; i < N_BIND_PROBLEMS; i++)
        n += b->problems[i].n;
    return n;
}

/* "2 tensors are missing: a, b; 1 tensor has another shape: ..". Only one name of each kind is shown when
 * there are several kinds: the text of an error is short. */
static void report(struct binder *b)
{
    static const char *const what[N_BIND_PROBLEMS][2] = {
        {"tensor is missing", "tensors are missing"},
        {"tensor has a shape other than the configuration says",
         "tensors have shapes other than the configuration says"},
        {"tensor is of a type that is not served", "tensors are of types that are not served"},
        {"tensor is not part of this model as it is known here",
         "tensors are not part of this model as it is known here"},
    };
    char text[380] = "", types[160] = "";
    const char *param = NULL;
    size_t n = 0;
    int kinds = 0;
    for (int i = 0; i < N_BIND_PROBLEMS; i++)
        kinds += b->problems[i].n > 0;
    for (int i = 0; i < N_BIND_PROBLEMS && n < sizeof(text); i++) {
        const struct bind_problems *p = &b->problems[i];
        int shown = kinds > 1 ? 1 : p->n < BIND_SHOWN ? p->n : BIND_SHOWN;
        if (!p->n)
            continue;
        param = param ? param : p->first;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s%d %s: ", n ? "; " : "",
                              p->n == MAX_PROBLEMS ? "at least " : "", p->n, what[i][p->n > 1]);
        for (int k = 0; k < shown && n < sizeof(text); k++)
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", k ? ", " : "", p->shown[k]);
        if (p->n > shown && n < sizeof(text))
            n += (size_t)snprintf(text + n, sizeof(text) - n, " and %d more", p->n - shown);
    }
    if (kinds == 1 && b->problems[BIND_TYPE].n && n + 20 < sizeof(text)) {
        tensor_weight_types(types, sizeof(types));
        snprintf(text + n, sizeof(text) - n, " (served are %s)", types);
    }
    b->r = err_set_param(b->e, kinds == 1 && b->problems[BIND_TYPE].n ? ERR_UNSUPPORTED : ERR_FORMAT,
                         param ? param : "", "%.60s: %s", b->label, text);
}

/* --- binding ----------------------------------------------------------------------------------- */

static void placeholder(struct tensor *dst, int n_dims, const int64_t ne[3])
{
    static const unsigned char none[8];
    *dst = (struct tensor){.name = "", .type = TT_F32, .n_dims = n_dims, .ne = {1, 1, 1, 1}, .data = none};
    for (int i = 0; i < n_dims; i++)
        dst->ne[i] = ne[i];
}

/* The scales of an FP8 weight: a row for each 128 rows, a value for each 128 columns; copied, as they lie
 * unaligned in the file. */
static void bind_scale(struct binder *b, struct tensor *t, const struct tix_entry *of)
{
    char name[TIX_MAX_NAME_BYTES + sizeof(SCALE_SUFFIX)], detail[200], found[64], wanted[64];
    int64_t rows = t->ne[1] * t->ne[2], block = TENSOR_SCALE_BLOCK;
    const int64_t ne[2] = {(t->ne[0] + block - 1) / block, (rows + block - 1) / block};
    snprintf(name, sizeof(name), "%s" SCALE_SUFFIX, t->name);
    const struct tix_entry *entry = tix__find(b->tix, name);
    if (!entry) {
        problem(b, BIND_MISSING, name, "");
        return;
    }
    tix__claim(b->tix, entry);
    const struct tensor *s = &entry->t;
    /* matrices in one tensor have theirs in one: the same as long as no block lies in two matrices */
    bool each = t->ne[2] > 1 && t->ne[1] % block == 0 && s->ne[2] == t->ne[2];
    if (s->ne[0] != ne[0] || s->ne[1] * s->ne[2] != ne[1] || (s->ne[2] != 1 && !each) || s->ne[3] != 1) {
        shape_text(s->ne, s->n_dims, found, sizeof(found));
        shape_text(ne, 2, wanted, sizeof(wanted));
        snprintf(detail, sizeof(detail), " is %s, wanted %s (a scale for each block of 128x128)", found,
                 wanted);
        problem(b, BIND_SHAPE, name, detail);
        return;
    }
    if (!s->data || (s->type != TT_F32 && s->type != TT_BF16 && s->type != TT_F16)) {
        snprintf(detail, sizeof(detail), " is %s, wanted F32", entry->type_name);
        problem(b, BIND_TYPE, name, detail);
        return;
    }
    float *scale = bind__alloc(b, (size_t)(ne[0] * ne[1]), sizeof(*scale));
    for (int64_t r = 0; scale && r < ne[1]; r++)
        tensor_row_f32(s, r, scale + r * ne[0]);
    t->scale = scale;
    t->scale_cols = ne[0];
    t->scale_row0 = 0;
    tix__scaled(b->tix, of, entry, t); /* for who reads what the files have */
}

static void count(struct binder *b, const struct tensor *t)
{
    int64_t n = t->ne[0] * t->ne[1] * t->ne[2];
    b->ck->n_params += n;
    for (int i = 0; i < BIND_MAX_TYPES && tensor_type_at(i); i++)
        if (tensor_type_at(i)->type == t->type)
            b->params[i] += n;
}

static void bind_entry(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                       const struct tix_entry *entry)
{
    const struct tensor *t = &entry->t;
    const struct tensor_type_info *info = t->data ? tensor_type_info((uint32_t)t->type) : NULL;
    char detail[200], found[64], wanted[64];
    bool same = t->ne[3] == 1;
    for (int i = 0; i < 3; i++)
        same = same && t->ne[i] == (i < n_dims ? ne[i] : 1);
    tix__claim(b->tix, entry);
    placeholder(dst, n_dims, ne);
    if (!info || !info->weight) {
        snprintf(detail, sizeof(detail), " is %s", entry->type_name);
        problem(b, BIND_TYPE, t->name, detail);
    } else if (!same) {
        shape_text(t->ne, t->n_dims, found, sizeof(found));
        shape_text(ne, n_dims, wanted, sizeof(wanted));
        snprintf(detail, sizeof(detail), " is %s, wanted %s", found, wanted);
        problem(b, BIND_SHAPE, t->name, detail);
    } else {
        *dst = *t;
        dst->n_dims = n_dims;
        if (t->type == TT_F8_E4M3)
            bind_scale(b, dst, entry);
        if (b->counting)
            count(b, t);
    }
}

void bind__tensor(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                  const char *name)
{
    if (b->r < 0)
        return;
    const struct tix_entry *entry = tix__find(b->tix, name);
    if (entry) {
        bind_entry(b, dst, n_dims, ne, entry);
    } else {
        placeholder(dst, n_dims, ne);
        problem(b, BIND_MISSING, name, "");
    }
}

void bind__optional(struct binder *b, struct tensor *dst, int n_dims, const int64_t ne[3],
                    const char *name)
{
    const struct tix_entry *entry = b->r < 0 ? NULL : tix__find(b->tix, name);
    if (entry)
        bind_entry(b, dst, n_dims, ne, entry);
}

void *bind__alloc(struct binder *b, size_t n, size_t elem_bytes)
{
    void *p = b->r < 0 ? NULL : arena_array(b->arena, n, elem_bytes);
    if (!p && b->r == 0)
        b->r = err_set(b->e, ERR_NOMEM, "%s: no memory for the list of tensors", b->label);
    return p;
}

/* --- what is left ------------------------------------------------------------------------------ */

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Belongs to a multi-token-prediction block, which comes after the layers. */
static bool of_mtp(const struct binder *b, const char *name)
{
    const struct model_config *c = &b->ck->config;
    bool gguf = b->format == FORMAT_GGUF;
    const char *prefix = gguf ? "blk." : "model.layers.";
    int layers = c->num_hidden_layers, at = 0, end = 0;
    char probe[64];
    if (!gguf && c->attentions_per_layer > 1)
        layers /= c->attentions_per_layer;
    if (!gguf && strncmp(name, "model.mtp.", 10) == 0)
        return true;
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) || sscanf(name + n, "%6d.%n", &at, &end) < 1 || end == 0 || at < layers)
        return false;
    /* configurations may not declare them; without this projection it would be a layer too many */
    snprintf(probe, sizeof(probe), gguf ? "blk.%d.nextn.eh_proj.weight" : "model.layers.%d.eh_proj.weight",
             at);
    return at < layers + c->num_nextn_predict_layers || bind__has(b, probe);
}

/* An expert whose output is its input: some folders list weights for it. */
static bool of_identity_expert(const struct binder *b, const char *name)
{
    const struct model_config *c = &b->ck->config;
    const char *at = c->zero_expert_num > 0 ? strstr(name, ".mlp.experts.") : NULL;
    int expert = 0;
    return at && sscanf(at, ".mlp.experts.%6d.", &expert) == 1 && expert >= c->n_routed_experts &&
           expert < c->n_routed_experts + c->zero_expert_num;
}

/* The up-projection of the latent, kept unsplit beside its two parts. */
static bool is_spare_kv_b(const struct binder *b, const char *name)
{
    static const char end[] = "attn_kv_b.weight";
    char part[TIX_MAX_NAME_BYTES + 1];
    if (b->format != FORMAT_GGUF || !ends_in(name, end))
        return false;
    snprintf(part, sizeof(part), "%.*sattn_k_b.weight", (int)(strlen(name) - strlen(end)), name);
    return bind__has(b, part);
}

static bool means_nothing(const struct binder *b, const char *name)
{
    const struct model_config *c = &b->ck->config;
    if (ends_in(name, "rotary_emb.inv_freq")) /* follows from the configuration */
        return true;
    if (c->tie_word_embeddings && strcmp(name, "lm_head.weight") == 0) /* the reference ties it, too */
        return true;
    if (c->rope_scaling.type == ROPE_SCALING_LONGROPE && strncmp(name, "rope_factors_", 13) == 0)
        return true; /* read with the keys */
    return of_mtp(b, name) || of_identity_expert(b, name) || is_spare_kv_b(b, name);
}

static void find_extra(struct binder *b)
{
    for (size_t i = 0; i < b->tix->n && b->r == 0; i++) {
        const struct tix_entry *t = &b->tix->v[i];
        if (!t->claimed && !means_nothing(b, t->t.name))
            problem(b, BIND_EXTRA, t->t.name, "");
    }
}

/* Shares in percent, largest first; what rounds to nothing is "< 1 %". */
static void name_types(struct binder *b)
{
    struct checkpoint *ck = b->ck;
    size_t n = 0, size = sizeof(ck->weight_types);
    for (;;) {
        int best = -1;
        for (int i = 0; i < BIND_MAX_TYPES; i++)
            if (b->params[i] > 0 && (best < 0 || b->params[i] > b->params[best]))
                best = i;
        if (best < 0 || n >= size)
            return;
        double share = 100.0 * (double)b->params[best] / (double)ck->n_params;
        char percent[16] = "< 1";
        if (share >= 1)
            snprintf(percent, sizeof(percent), "%.0f", share);
        n += (size_t)snprintf(ck->weight_types + n, size - n, "%s%s %s %%", n ? ", " : "",
                              tensor_type_at(best)->name, percent);
        b->params[best] = 0;
    }
}

void bind__finish(struct binder *b)
{
    if (b->r == 0)
        find_extra(b);
    if (n_problems(b) > 0 && (b->r == 0 || b->r == ERR_FORMAT))
        report(b);
    else if (b->r == 0)
        name_types(b);
}
