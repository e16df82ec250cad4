/* engine/attention/topk.c - selection by radix; see topk.h.
 *
 * Scores are mapped to integers of the same order. Three passes over their digits find the k-th
 * largest, one more writes what lies above it and the last of those equal to it. */
#include "config.h"

#include "engine/attention/topk.h"

#include <string.h>

static uint32_t order_of(float x)
{
    uint32_t u;
    if (x != x)
        return 0;
    x += 0.0f; /* -0 becomes 0 */
    memcpy(&u, &x, sizeof(u));
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

void topk__select(const float *scores, int n, int k, int32_t *ret_positions)
{
    static const struct {
        int shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t kth = 0, known = 0; /* digits of the k-th largest found so far, and their mask */
    int left = k;                /* of those that agree with them, how many are chosen */
    for (int p = 0; p < 3; p++) {
        int32_t count[1 << 11] = {0};
        uint32_t digit = (1u << digits[p].bits) - 1;
        for (int i = 0; i < n; i++) {
            uint32_t u = order_of(scores[i]);
            if ((u & known) == kth)
                count[u >> digits[p].shift & digit]++;
        }
        uint32_t d = digit;
        while (count[d] < left)
            left -= count[d--];
        kth |= d << digits[p].shift;
        known |= digit << digits[p].shift;
    }
    for (int i = n; i-- > 0;) {
        uint32_t u = order_of(scores[i]);
        if (u > kth || (u == kth && left > 0)) {
            ret_positions[--k] = i;
            left -= u == kth;
        }
    }
}
