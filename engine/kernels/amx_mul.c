/* engine/kernels/amx_mul.c - weight products on AMX tiles. */
#include "config.h"

#include "engine/kernels/amx.h"

void kern__init_amx_products(struct kernels *t)
{
    (void)t;
}
