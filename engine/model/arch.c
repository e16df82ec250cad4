/* engine/model/arch.c - the list of families; see arch.h. */
#include "config.h"

#include "engine/model/arch.h"

#include <stdio.h>
#include <string.h>

#define ARCH(row) extern const struct arch row;
#include "engine/model/arch.def"
#undef ARCH

#define ARCH(row) &row,
static const struct arch *const rows[] = {
#include "engine/model/arch.def"
};
#undef ARCH
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static const char *row_name(const struct arch *a, enum ckpt_format format)
{
    return format == FORMAT_GGUF ? a->gguf_name : a->hf_model_type;
}

static const struct arch *find(enum ckpt_format format, const char *name)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *s = row_name(rows[i], format);
        if (s && strcmp(s, name) == 0)
            return rows[i];
    }
    return NULL;
}

void arch__config_json(const struct arch *a, struct keys *k, struct arena *arena, const struct tix *tix,
                       struct checkpoint *c)
{
    a->config_hf(k, tix, &c->config);
    if (a->layers_hf && k->r == 0)
        a->layers_hf(k, arena, c);
}

const struct arch *arch__by_gguf_name(const char *name)
{
    return find(FORMAT_GGUF, name);
}

const struct arch *arch__by_hf_model_type(const char *type)
{
    return find(FORMAT_HF, type);
}

const struct arch *arch__by_name(const char *name)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i]->name, name) == 0)
            return rows[i];
    return NULL;
}

void arch__list(enum ckpt_format format, char *dst, size_t dst_bytes)
{
    size_t n = 0;
    dst[0] = 0;
    for (size_t i = 0; i < N_ROWS && n < dst_bytes; i++) {
        const char *s = row_name(rows[i], format);
        bool listed = s && find(format, s) != rows[i];
        if (s && !listed)
            n += (size_t)snprintf(dst + n, dst_bytes - n, "%s%s", n ? ", " : "", s);
    }
}
