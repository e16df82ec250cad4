/* tools/convert/quantize_fit.h - the choice of scales behind the block types.
 *
 * All of it is least squares over one block or super-block, without weights: nothing is known of the
 * values that a weight will meet. Codes follow from scales by rounding, scales from codes by a closed
 * form; a search over starting scales and a few rounds of both find a good pair. */
#ifndef LATENT_TOOLS_CONVERT_QUANTIZE_FIT_H
#define LATENT_TOOLS_CONVERT_QUANTIZE_FIT_H

#include <stdint.h>

#define FIT_SUPER 256 /* values of a super-block */

/* The values that a code may have: lo..hi, or sixteen levels in ascending order from lo to hi. */
struct fit_grid {
    int lo, hi;
    const int8_t *levels; /* NULL: all integers */
};

extern const struct fit_grid fit_iq4;

/* Codes of x for a given scale: the nearest grid value to x / d; all 0-nearest when d is 0. */
void fit_codes(const float *x, int n, float d, const struct fit_grid *g, int8_t *q);
/* x ~ d q. Returns d and fills q. */
float fit_scale(const float *x, int n, const struct fit_grid *g, int8_t *q);
/* x ~ d q + m with q in 0..hi and d >= 0; m is at most 0 when nonpositive. Returns d, fills q. */
float fit_affine(const float *x, int n, int hi, int nonpositive, int8_t *q, float *ret_m);

/* Super-blocks of sub-blocks of len values; numbers beyond the sub-blocks are unused. d and dmin come
 * as half-precision bits. */
struct fit_super {
    uint16_t d, dmin;
    int scale[16], min[16];
    int8_t q[FIT_SUPER];
};

/* x ~ (d scale) q, scale in scale_lo..scale_hi. */
void fit_super_scale(const float *x, int len, const struct fit_grid *g, int scale_lo, int scale_hi,
                     struct fit_super *ret);
/* x ~ (d scale) q - dmin min, q in 0..hi, scale and min in 0..scale_hi. */
void fit_super_affine(const float *x, int len, int hi, int scale_hi, struct fit_super *ret);

#endif
