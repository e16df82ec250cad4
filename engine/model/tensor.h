/* engine/model/tensor.h - a tensor as it lies in a mapped file, and what its element types are.
 *
 * Type ids are those of the GGUF specification (ggml_type), so that a file's number is our number;
 * types that only safetensors knows have ids above 1000. */
#ifndef LATENT_ENGINE_MODEL_TENSOR_H
#define LATENT_ENGINE_MODEL_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum tensor_type {
    TT_F32 = 0,
    TT_F16 = 1,
    TT_Q4_0 = 2,
    TT_Q4_1 = 3,
    TT_Q5_0 = 6,
    TT_Q5_1 = 7,
    TT_Q8_0 = 8,
    TT_Q2_K = 10,
    TT_Q3_K = 11,
    TT_Q4_K = 12,
    TT_Q5_K = 13,
    TT_Q6_K = 14,
    TT_IQ4_NL = 20,
    TT_IQ4_XS = 23,
    TT_I8 = 24,  /* cache rows only */
    TT_I32 = 26,
    TT_BF16 = 30,
    TT_I4 = 1002, /* cache rows only: engine/kernels/kern.h */
    TT_F8_E4M3 = 1001, /* 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities, 0x7f is NaN */
};

#define TENSOR_MAX_DIMS 4
#define TENSOR_SCALE_BLOCK 128 /* rows and columns that share one entry of struct tensor's scale */

struct tensor {
    const char *name; /* the file's own name, for messages */
    enum tensor_type type;
    int n_dims;
    int64_t ne[TENSOR_MAX_DIMS]; /* ne[0] is contiguous (GGUF order); unused ones are 1 */
    const void *data;            /* read-only map; lives as long as the checkpoint */
    size_t n_bytes;
    /* FP8 only. Element (row r, column k), rows of all outer dimensions counted as one, is to be
     * multiplied by scale[((r + scale_row0) / 128) * scale_cols + k / 128]; NULL means 1. */
    const float *scale;
    int64_t scale_cols, scale_row0;
};

struct tensor_type_info {
    enum tensor_type type;
    const char *name;   /* "F32", "Q8_0" */
    int block_elems;    /* values in a block; ne[0] must be a multiple */
    int block_bytes;
    bool weight;        /* matrices may have it */
    /* Plain C dequantisation of n values (a multiple of block_elems), without struct tensor's scale. */
    void (*to_f32)(const void *src, float *dst, int64_t n);
};

/* NULL for an unknown type id. */
const struct tensor_type_info *tensor_type_info(uint32_t type);
/* The i-th known type in a fixed order; NULL at the end. */
const struct tensor_type_info *tensor_type_at(int i);
/* "F32, F16, ..": names of all weight types, for messages. Cut when dst is too small; about 110 bytes. */
void tensor_weight_types(char *dst, size_t dst_bytes);
/* Bytes of a row of n values; 0 when n is not a multiple of the block. */
size_t tensor_row_bytes(enum tensor_type type, int64_t n);
/* Row r (counting all outer dimensions as one) as float32, ne[0] values; scale applied. */
void tensor_row_f32(const struct tensor *t, int64_t r, float *dst);
/* The values of a vector, 64-aligned, for free(). NULL: no memory. */
float *tensor_vector_f32(const struct tensor *t);
/* View of index i along the outermost dimension of a 2-d or 3-d tensor (an expert, a head). */
struct tensor tensor_slice(const struct tensor *t, int64_t i);
/* View of rows [r0, r0 + n) of a 2-d tensor. */
struct tensor tensor_rows(const struct tensor *t, int64_t r0, int64_t n);

#endif
