/* engine/attention/attention.c - the table of mechanisms. */
#include "config.h"

#include "engine/attention/attention.h"

#include <string.h>

const struct attention_ops *attention_find(const char *name)
{
    static const struct attention_ops *const table[] = {
#define ATTENTION(ops) &ops,
#include "engine/attention/attention.def"
#undef ATTENTION
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (!strcmp(table[i]->name, name))
            return table[i];
    return NULL;
}
