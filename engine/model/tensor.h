/* engine/model/tensor.h - a tensor as it lies in a mapped file, and what its element types are.
 *
 * Type ids are those of the GGUF specification (ggml_type), so that a file's number is our number;
 * types that only safetensors knows have ids above 1000. */
#ifndef LATENT_ENGINE_MODEL_TENSOR_H
#define LATENT_ENGINE_MODEL_TENSOR_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum tensor_type {
    TT_F32 = 0,
    TT_F16 = 1,
    TT_Q8_0 = 8,
    TT_I32 = 26,
    TT_BF16 = 30,
};

#define TENSOR_MAX_DIMS 4

struct tensor {
    const char *name; /* the file's own name, for messages */
    enum tensor_type type;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS]; /* ne[0] is contiguous (GGUF order); unused ones are 1 */
    const void *data;            /* read-only map; lives as long as the checkpoint */
    size_t n_bytes;
};

struct tensor_type_info {
    enum tensor_type type;
    const char *name;   /* "F32", "Q8_0" */
    int block_elems;    /* values in a block; ne[0] must be a multiple */
    int block_bytes;
    /* Plain C dequantisation of n values (a multiple of block_elems). */
    void (*to_f32)(const void *src, float *dst, int64_t n);
};

/* NULL for an unknown type id. */
const struct tensor_type_info *tensor_type_info(uint32_t type);
/* Bytes of a row of n values; 0 when n is not a multiple of the block. */
size_t tensor_row_bytes(enum tensor_type type, int64_t n);
/* Row r (counting all outer dimensions as one) as float32, ne[0] values. */
void tensor_row_f32(const struct tensor *t, int64_t r, float *dst);
/* View of index i along the outermost dimension of a 2-d or 3-d tensor (an expert, a head). */
struct tensor tensor_slice(const struct tensor *t, int64_t i);
/* View of rows [r0, r0 + n) of a 2-d tensor. */
struct tensor tensor_rows(const struct tensor *t, int64_t r0, int64_t n);

#endif
