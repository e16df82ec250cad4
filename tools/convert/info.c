/* tools/convert/info.c - latent-convert info: what a model file holds, for people or as JSON.
 *
 * A model that is not served (another architecture, a tensor missing) still has its tensors listed when
 * it is a GGUF file; the reason goes to stderr and the exit status is 1. */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "engine/attention/family.h"
#include "engine/tokenizer/tokenizer.h"
#include "tools/convert/commands.h"
#include "tools/convert/plan.h"

#define MAX_ARENA_BYTES ((size_t)2 << 30)
#define MAX_TYPES 64
#define CACHE_TYPE TT_BF16 /* these two as by default */
#define PAGE_TOKENS 32

struct row {
    const char *name, *type, *file;
    int n_dims;
    const int64_t *ne;
    uint64_t offset, n_bytes;
};

struct table {
    struct row *rows;
    size_t n;
    uint64_t n_bytes, n_params;
};

struct share {
    const char *type;
    uint64_t n_bytes;
    int n;
};

static int by_place(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    int r = strcmp(x->file, y->file);
    if (r)
        return r;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int make_table(const struct tix *x, struct table *ret, struct err *e)
{
    struct table t = {.rows = calloc(x->n + 1, sizeof(*t.rows)), .n = x->n};
    if (!t.rows)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < x->n; i++) {
        const struct tix_entry *at = &x->v[i];
        t.rows[i] = (struct row){at->t.name, at->type_name, at->map->label, at->t.n_dims, at->t.ne,
                                 at->offset, at->t.n_bytes};
        uint64_t n = 1;
        for (int d = 0; d < TENSOR_MAX_DIMS; d++)
            n *= (uint64_t)at->t.ne[d];
        t.n_params += n;
        t.n_bytes += at->t.n_bytes;
    }
    qsort(t.rows, t.n, sizeof(*t.rows), by_place);
    *ret = t;
    return 0;
}

static int by_share(const void *a, const void *b)
{
    const struct share *x = a, *y = b;
    return x->n_bytes > y->n_bytes ? -1 : x->n_bytes < y->n_bytes;
}

static int shares(const struct table *t, struct share s[MAX_TYPES])
{
    int n = 0;
    for (size_t i = 0; i < t->n; i++) {
        int k = 0;
        while (k < n && strcmp(s[k].type, t->rows[i].type))
            k++;
        if (k == MAX_TYPES)
            continue;
        if (k == n)
            s[n++] = (struct share){t->rows[i].type, 0, 0};
        s[k].n_bytes += t->rows[i].n_bytes;
        s[k].n++;
    }
    qsort(s, (size_t)n, sizeof(*s), by_share);
    return n;
}

/* Of a token, over the streams of rows that the layers' mechanisms keep; its part of what is kept once a
 * page, too. */
static double cache_bytes(const struct checkpoint *ck)
{
    double rows = 0, of_page = 0;
    uint32_t page = 1; /* whole rows of all streams */
    for (int i = 0; i < ck->config.num_hidden_layers; i++) {
        struct kv_plane planes[ATTENTION_MAX_PLANES];
        const char *name = ck->layers[i].attention;
        const struct attention_ops *ops = attention_find(name ? name : "mla");
        int n = ops ? ops->planes(&ck->config, &ck->layers[i], CACHE_TYPE, planes) : 0;
        for (int k = 0; k < n; k++) {
            if (planes[k].tokens_per_row == ATTENTION_WHOLE_PAGE) {
                of_page += planes[k].row_bytes;
                continue;
            }
            rows += (double)planes[k].row_bytes / planes[k].tokens_per_row;
            page = kv_common_tokens(page, planes[k].tokens_per_row);
        }
    }
    while (page && page < PAGE_TOKENS)
        page *= 2;
    return rows + (page ? of_page / page : 0);
}

static const char *mechanism(const struct checkpoint *ck, int layer)
{
    const struct family_layer *l = ck->layers[layer].family;
    return l ? l->mechanism->name : ck->config.index_topk > 0 ? "dsa" : "mla";
}

/* The names of the layers' mechanisms, each once. */
static void print_mechanisms(const struct checkpoint *ck, const char *quote, const char *between)
{
    for (int i = 0; i < ck->config.num_hidden_layers; i++) {
        int k = 0;
        while (strcmp(mechanism(ck, k), mechanism(ck, i)))
            k++;
        if (k == i)
            printf("%s%s%s%s", i ? between : "", quote, mechanism(ck, i), quote);
    }
}

/* --- as JSON ----------------------------------------------------------------------------------- */

static void json_string(const char *s)
{
    bool utf8 = utf8_valid(s, strlen(s)); /* names in files may be any bytes */
    putchar('"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20 || c == 0x7f || (c > 0x7f && !utf8))
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void json_model(const struct checkpoint *ck)
{
    const struct model_config *c = &ck->config;
    printf("\"format\":\"%s\",\"architecture\":", ck->format);
    json_string(c->architecture);
    printf(",\"name\":");
    json_string(c->name);
    printf(",\"parameters\":%" PRId64 ",\"layers\":%d,\"nextn_layers\":%d,\"nextn_present\":%s"
           ",\"hidden_size\":%d,\"vocab_size\":%d,\"heads\":%d,\"q_lora_rank\":%d,\"kv_lora_rank\":%d"
           ",\"qk_nope_head_dim\":%d,\"qk_rope_head_dim\":%d,\"v_head_dim\":%d,\"context_length\":%d"
           ",\"experts\":%d,\"experts_per_token\":%d,\"shared_experts\":%d",
           ck->n_params, c->num_hidden_layers, c->num_nextn_predict_layers, ck->mtp ? "true" : "false",
           c->hidden_size, c->vocab_size, c->num_attention_heads, c->q_lora_rank, c->kv_lora_rank,
           c->qk_nope_head_dim, c->qk_rope_head_dim, c->v_head_dim, c->max_position_embeddings,
           c->n_routed_experts, c->num_experts_per_tok, c->n_shared_experts);
    printf(",\"attention\":[");
    print_mechanisms(ck, "\"", ",");
    printf("],\"cache_bytes_per_token\":%.10g,\"chat_template\":%s,", cache_bytes(ck),
           ck->chat_template ? "true" : "false");
}

static void json_table(const struct table *t)
{
    struct share s[MAX_TYPES];
    int n = shares(t, s);
    printf("\"tensor_bytes\":%" PRIu64 ",\"types\":[", t->n_bytes);
    for (int i = 0; i < n; i++) {
        printf("%s{\"type\":", i ? "," : "");
        json_string(s[i].type);
        printf(",\"tensors\":%d,\"bytes\":%" PRIu64 "}", s[i].n, s[i].n_bytes);
    }
    printf("],\"tensors\":[");
    for (size_t i = 0; i < t->n; i++) {
        const struct row *r = &t->rows[i];
        printf("%s{\"name\":", i ? "," : "");
        json_string(r->name);
        printf(",\"shape\":[");
        for (int d = 0; d < r->n_dims; d++)
            printf("%s%" PRId64, d ? "," : "", r->ne[d]);
        printf("],\"type\":");
        json_string(r->type);
        printf(",\"bytes\":%" PRIu64 ",\"offset\":%" PRIu64 ",\"file\":", r->n_bytes, r->offset);
        json_string(r->file);
        printf("}");
    }
    printf("]");
}

/* --- as text ----------------------------------------------------------------------------------- */

static void text_tokenizer(const struct checkpoint *ck)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    int r = tokenizer_new(&ck->tokenizer, ck->config.vocab_size, &t, &e);
    if (r == 0)
        printf("tokenizer      %s, %d tokens\n",
               ck->tokenizer.json_path ? "tokenizer.json" : ck->tokenizer.pre, tokenizer_vocab_size(t));
    else
        printf("tokenizer      %s\n", r == ERR_NOTFOUND ? "none: token ids only" : e.text);
    if (t)
        tokenizer_free(&t);
    printf("chat template  %s\n", ck->chat_template ? "yes" : "no");
}

static void text_model(const struct checkpoint *ck)
{
    const struct model_config *c = &ck->config;
    char size[32];
    printf("name           %s\nformat         %s, %s\narchitecture   %s\n", c->name, ck->format,
           plan_size(ck->file_bytes, size), c->architecture);
    printf("parameters     %.3f billion\n", (double)ck->n_params / 1e9);
    printf("layers         %d, hidden size %d, vocabulary %d, context %d\n", c->num_hidden_layers,
           c->hidden_size, c->vocab_size, c->max_position_embeddings);
    if (c->num_nextn_predict_layers)
        printf("prediction     %d further block%s, %s\n", c->num_nextn_predict_layers,
               c->num_nextn_predict_layers > 1 ? "s" : "", ck->mtp ? "present" : "not in the file");
    printf("attention      ");
    if (c->kv_lora_rank)
        printf("%d heads; latent %d + rope %d; heads of %d + %d and %d; query latent %d",
               c->num_attention_heads, c->kv_lora_rank, c->qk_rope_head_dim, c->qk_nope_head_dim,
               c->qk_rope_head_dim, c->v_head_dim, c->q_lora_rank);
    else /* sizes of the family's are each mechanism's own */
        print_mechanisms(ck, "", ", ");
    putchar('\n');
    if (c->n_routed_experts)
        printf("experts        %d, %d per token, %d shared, %d wide; %d dense layers\n",
               c->n_routed_experts, c->num_experts_per_tok, c->n_shared_experts,
               c->moe_intermediate_size, c->first_k_dense_replace);
    printf("cache          %.10g bytes per token (bf16)\n", cache_bytes(ck));
    text_tokenizer(ck);
}

static void text_table(const struct table *t)
{
    struct share s[MAX_TYPES];
    char size[32];
    int n = shares(t, s);
    for (int i = 0; i < n; i++)
        printf("%-14s %s, %d tensors, %.1f %%\n", i ? "" : "types", s[i].type, s[i].n,
               t->n_bytes ? 100.0 * (double)s[i].n_bytes / (double)t->n_bytes : 0.0);
    printf("\n%-48s %-24s %-8s %12s %14s\n", "tensor", "shape", "type", "size", "offset");
    for (size_t i = 0; i < t->n; i++) {
        const struct row *r = &t->rows[i];
        char shape[96];
        int at = snprintf(shape, sizeof(shape), "%" PRId64, r->ne[0]);
        for (int d = 1; d < r->n_dims && at < (int)sizeof(shape); d++)
            at += snprintf(shape + at, sizeof(shape) - (size_t)at, " x %" PRId64, r->ne[d]);
        printf("%-48s %-24s %-8s %12s %14" PRIu64 "%s%s\n", r->name, shape, r->type,
               plan_size(r->n_bytes, size), r->offset, strstr(r->file, "-of-") ? "  " : "",
               strstr(r->file, "-of-") ? r->file : "");
    }
}

/* --- the command ------------------------------------------------------------------------------- */

static int print_table(const struct tix *x, bool json, struct err *e)
{
    struct table t = {0};
    int r = make_table(x, &t, e);
    if (r < 0)
        return r;
    if (json)
        json_table(&t);
    else
        text_table(&t);
    free(t.rows);
    return 0;
}

/* The tensors of a file that checkpoint_open refused. */
static void list_anyway(const char *path, bool json)
{
    struct err e = {0};
    struct file_map m = {0};
    struct gguf g;
    struct tix x;
    struct arena *arena = arena_new(MAX_ARENA_BYTES);
    if (!arena || map__open(path, 0, &m, &e) < 0) {
        arena_free(arena);
        return;
    }
    tix__init(&x, arena);
    if (gguf__parse(&m, arena, &x, &g, &e) == 0 && tix__seal(&x, &e) == 0) {
        printf(json ? "{" : "");
        (void)!print_table(&x, json, &e);
        printf(json ? "}\n" : "");
    }
    tix__done(&x);
    map__close(&m);
    arena_free(arena);
}

int convert_info(const char *path, bool json)
{
    struct checkpoint *ck = NULL;
    struct err e = {0};
    if (checkpoint_open(path, &ck, &e) < 0) {
        list_anyway(path, json);
        fflush(stdout);
        return convert_fail(&e);
    }
    if (json) {
        putchar('{');
        json_model(ck);
    } else {
        text_model(ck);
    }
    int r = print_table(&ck->priv->tix, json, &e);
    if (json)
        printf("}\n");
    checkpoint_close(&ck);
    return r < 0 ? convert_fail(&e) : 0;
}
