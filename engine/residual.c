/* engine/residual.c - see residual.h. */
#include "config.h"

#include "engine/residual.h"

#include <stdlib.h>

int residual_new(const struct residual_tensors *t, int n, float **ret)
{
    size_t m = (size_t)n;
    *ret = NULL;
    if (!t->out_scale.data)
        return 0;
    float *w = malloc(4 * m * sizeof(float));
    if (!w)
        return ERR_NOMEM;
    tensor_row_f32(&t->out_scale, 0, w);
    tensor_row_f32(&t->stream_scale, 0, w + m);
    tensor_row_f32(&t->out_bias, 0, w + 2 * m);
    tensor_row_f32(&t->stream_bias, 0, w + 3 * m);
    for (size_t i = 0; i < m; i++)
        w[2 * m + i] = w[2 * m + i] * w[i] + w[3 * m + i] * w[m + i];
    *ret = w;
    return 0;
}
