/* tests/forward/gguf_file.c - see gguf_file.h. */
#include "config.h"

#include "tests/forward/gguf_file.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 32

struct bytes {
    unsigned char *p;
    size_t n;
};

struct gguf_file {
    char architecture[64];
    struct bytes keys, tensors, data;
    uint64_t n_keys, n_tensors;
};

static void put(struct bytes *b, const void *p, size_t n)
{
    b->p = realloc(b->p, b->n + n + 1);
    ck_assert_ptr_nonnull(b->p);
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t v)
{
    put(b, &v, sizeof(v));
}

static void put_u64(struct bytes *b, uint64_t v)
{
    put(b, &v, sizeof(v));
}

static void put_string(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void pad(struct bytes *b)
{
    static const unsigned char zeros[ALIGN];
    put(b, zeros, (ALIGN - b->n % ALIGN) % ALIGN);
}

struct gguf_file *gguf_file_new(const char *architecture)
{
    struct gguf_file *g = calloc(1, sizeof(*g));
    ck_assert_ptr_nonnull(g);
    snprintf(g->architecture, sizeof(g->architecture), "%s", architecture);
    put_string(&g->keys, "general.architecture");
    put_u32(&g->keys, 8);
    put_string(&g->keys, architecture);
    g->n_keys = 1;
    return g;
}

static void put_key(struct gguf_file *g, const char *key, uint32_t type)
{
    char name[160];
    snprintf(name, sizeof(name), "%s.%s", g->architecture, key);
    put_string(&g->keys, name);
    put_u32(&g->keys, type);
    g->n_keys++;
}

void gguf_file_u32(struct gguf_file *g, const char *key, int64_t value)
{
    put_key(g, key, 4);
    put_u32(&g->keys, (uint32_t)value);
}

void gguf_file_plain_u32(struct gguf_file *g, const char *key, int64_t value)
{
    put_string(&g->keys, key);
    put_u32(&g->keys, 4);
    put_u32(&g->keys, (uint32_t)value);
    g->n_keys++;
}

void gguf_file_bool(struct gguf_file *g, const char *key, int value)
{
    unsigned char b = value != 0;
    put_key(g, key, 7);
    put(&g->keys, &b, 1);
}

void gguf_file_f32(struct gguf_file *g, const char *key, float value)
{
    put_key(g, key, 6);
    put(&g->keys, &value, sizeof(value));
}

void gguf_file_stack(struct gguf_file *g, const char *name, const struct tensor *const *t, int n)
{
    int n_dims = t[0]->n_dims;
    put_string(&g->tensors, name);
    put_u32(&g->tensors, (uint32_t)(n > 1 ? n_dims + 1 : n_dims));
    for (int i = 0; i < n_dims; i++)
        put_u64(&g->tensors, (uint64_t)t[0]->ne[i]);
    if (n > 1)
        put_u64(&g->tensors, (uint64_t)n);
    put_u32(&g->tensors, (uint32_t)t[0]->type);
    put_u64(&g->tensors, g->data.n);
    for (int i = 0; i < n; i++)
        put(&g->data, t[i]->data, t[i]->n_bytes);
    pad(&g->data);
    g->n_tensors++;
}

void gguf_file_tensor(struct gguf_file *g, const char *name, const struct tensor *t)
{
    gguf_file_stack(g, name, &t, 1);
}

void gguf_file_write(struct gguf_file *g, const char *path)
{
    struct bytes head = {0};
    put(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, g->n_tensors);
    put_u64(&head, g->n_keys);
    put(&head, g->keys.p, g->keys.n);
    put(&head, g->tensors.p, g->tensors.n);
    pad(&head);
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(head.p, 1, head.n, f), head.n);
    ck_assert_uint_eq(fwrite(g->data.p, 1, g->data.n, f), g->data.n);
    ck_assert_int_eq(fclose(f), 0);
    free(head.p);
    free(g->keys.p);
    free(g->tensors.p);
    free(g->data.p);
    free(g);
}
