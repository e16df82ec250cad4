/* engine/kernels/amx_attn.c - attention over a piece of the context on AMX tiles. */
#include "config.h"

#include "engine/kernels/amx.h"

void kern__init_amx_attention(struct kernels *t)
{
    (void)t;
}
