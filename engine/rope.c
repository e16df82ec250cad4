/* engine/rope.c - rotary position embedding. Angles are float32 products, as the reference
 * implementations compute them, so that long positions agree with what models were trained on. */
#include "config.h"

#include "engine/rope.h"

#include <math.h>
#include <string.h>

static float yarn_mscale(float factor, float mscale)
{
    return factor <= 1.0f ? 1.0f : 0.1f * mscale * logf(factor) + 1.0f;
}

/* The dimension whose wave turns `rotations` times over the original context. */
static double yarn_dim_of(double rotations, int dim, double theta, double original)
{
    return dim * log(original / (rotations * 2.0 * M_PI)) / (2.0 * log(theta));
}

float rope_score_scale(const struct model_config *c)
{
    const struct rope_scaling *s = &c->rope_scaling;
    if (s->type != ROPE_SCALING_YARN || s->mscale_all_dim == 0.0f)
        return 1.0f;
    float m = yarn_mscale(s->factor, s->mscale_all_dim);
    return m * m;
}

static void longrope_init(struct rope *r, const struct rope_scaling *s, int max_position)
{
    float original = (float)s->original_max_position_embeddings;
    const float *by = max_position > s->original_max_position_embeddings ? s->long_factor
                                                                         : s->short_factor;
    for (int i = 0; i < r->dim / 2; i++)
        r->inv_freq[i] /= by[i];
    r->amplitude = s->attention_factor;
    if (r->amplitude == 0.0f)
        r->amplitude = s->factor <= 1.0f ? 1.0f : sqrtf(1.0f + logf(s->factor) / logf(original));
}

/* Waves longer than the original context over low_freq_factor are stretched, those shorter than it over
 * high_freq_factor stay, and between the two there is a straight line over the frequency. */
static void llama3_init(struct rope *r, const struct rope_scaling *s)
{
    for (int i = 0; i < r->dim / 2; i++) {
        double turns = (double)r->inv_freq[i] * s->original_max_position_embeddings / (2.0 * M_PI);
        double at = (turns - (double)s->low_freq_factor) / (double)(s->high_freq_factor - s->low_freq_factor);
        at = fmin(fmax(at, 0.0), 1.0);
        r->inv_freq[i] = (float)((double)r->inv_freq[i] * (at + (1.0 - at) / (double)s->factor));
    }
}

void rope_init(struct rope *r, const struct model_config *c, int max_position)
{
    const struct rope_scaling *s = &c->rope_scaling;
    int half = c->qk_rope_head_dim / 2;
    r->dim = c->qk_rope_head_dim;
    r->interleave = c->rope_interleave;
    r->amplitude = 1.0f;
    for (int i = 0; i < half; i++)
        r->inv_freq[i] = 1.0f / powf(c->rope_theta, (float)(2 * i) / (float)r->dim);
    if (s->type == ROPE_SCALING_LONGROPE)
        longrope_init(r, s, max_position);
    if (s->type == ROPE_SCALING_LLAMA3)
        llama3_init(r, s);
    if (s->type != ROPE_SCALING_YARN)
        return;
    double low = floor(yarn_dim_of(s->beta_fast, r->dim, c->rope_theta,
                                   s->original_max_position_embeddings));
    double high = ceil(yarn_dim_of(s->beta_slow, r->dim, c->rope_theta,
                                   s->original_max_position_embeddings));
    low = fmax(low, 0.0);
    high = fmin(high, r->dim - 1.0);
    if (high == low)
        high += 0.001;
    for (int i = 0; i < half; i++) {
        float ramp = (float)fmin(fmax((i - low) / (high - low), 0.0), 1.0);
        r->inv_freq[i] = r->inv_freq[i] / s->factor * ramp + r->inv_freq[i] * (1.0f - ramp);
    }
    if (s->mscale != 0.0f && s->mscale_all_dim != 0.0f)
        r->amplitude = yarn_mscale(s->factor, s->mscale) / yarn_mscale(s->factor, s->mscale_all_dim);
    else
        r->amplitude = yarn_mscale(s->factor, 1.0f);
}

int rope_tables_need(struct rope_tables *r, int dim, float theta, bool interleave,
                     const struct rope_scaling *scaling)
{
    struct model_config c = {.qk_rope_head_dim = dim, .rope_theta = theta, .rope_interleave = interleave};
    if (scaling)
        c.rope_scaling = *scaling;
    for (int i = 0; i < r->n; i++)
        if (r->t[i].rope.dim == dim && r->t[i].theta == theta && r->t[i].rope.interleave == interleave &&
            !memcmp(&r->t[i].scaling, &c.rope_scaling, sizeof(c.rope_scaling)))
            return i;
    if (r->n == ROPE_MAX_TABLES)
        return -1;
    rope_init(&r->t[r->n].rope, &c, 1);
    r->t[r->n].theta = theta;
    r->t[r->n].scaling = c.rope_scaling;
    return r->n++;
}

void rope_angles(const struct rope *r, int position, float *cos_out, float *sin_out)
{
    for (int i = 0; i < r->dim / 2; i++) {
        float a = (float)position * r->inv_freq[i];
        cos_out[i] = cosf(a) * r->amplitude;
        sin_out[i] = sinf(a) * r->amplitude;
    }
}

void rope_apply(const struct kernels *k, const struct rope *r, const float *cos_t, const float *sin_t,
                float *x)
{
    k->rotate(cos_t, sin_t, r->dim / 2, r->interleave, x);
}
