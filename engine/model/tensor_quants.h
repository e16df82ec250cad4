/* engine/model/tensor_quants.h - dequantisation of the block types; only tensor.c includes it. */
#ifndef LATENT_ENGINE_MODEL_TENSOR_QUANTS_H
#define LATENT_ENGINE_MODEL_TENSOR_QUANTS_H

#include <stdint.h>

/* Half precision to float32, exact. */
float tensor__f16(uint16_t h);
/* FP8 e4m3 to float32, exact. */
float tensor__f8(uint8_t v);

/* n values, a multiple of the block; src at any address. */
void tensor__q4_0(const void *src, float *dst, int64_t n);
void tensor__q4_1(const void *src, float *dst, int64_t n);
void tensor__q5_0(const void *src, float *dst, int64_t n);
void tensor__q5_1(const void *src, float *dst, int64_t n);
void tensor__q8_0(const void *src, float *dst, int64_t n);
void tensor__q2_k(const void *src, float *dst, int64_t n);
void tensor__q3_k(const void *src, float *dst, int64_t n);
void tensor__q4_k(const void *src, float *dst, int64_t n);
void tensor__q5_k(const void *src, float *dst, int64_t n);
void tensor__q6_k(const void *src, float *dst, int64_t n);
void tensor__iq4_nl(const void *src, float *dst, int64_t n);
void tensor__iq4_xs(const void *src, float *dst, int64_t n);

#endif
