/* engine/sample_sigma.c - top_n_sigma: noise of logits is about normal, and what carries meaning stands out
 * above it by some deviations. Independent of temperature, since both sides scale with it. */
#include "config.h"

#include <math.h>

#include "engine/sample.h"

double sample_sigma_bound(const float *logits, int vocab_size, double n)
{
    double max = -INFINITY, sum = 0, squares = 0;
    int count = 0;
    for (int i = 0; i < vocab_size; i++) {
        double x = (double)logits[i];
        if (x == -INFINITY)
            continue;
        sum += x;
        max = x > max ? x : max;
        count++;
    }
    double mean = count ? sum / count : 0;
    for (int i = 0; i < vocab_size; i++) /* a second walk: squares of differences lose no digits */
        if (logits[i] > -INFINITY)
            squares += ((double)logits[i] - mean) * ((double)logits[i] - mean);
    return count ? max - n * sqrt(squares / count) : -INFINITY;
}
