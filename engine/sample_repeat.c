/* engine/sample_repeat.c - repetition_detection: an output that goes round in circles is ended. */
#include "config.h"

#include "engine/sample.h"

bool repeats(const struct repetition_detection *r, const int32_t *tokens, int n)
{
    int least = r->min_pattern_size > 1 ? r->min_pattern_size : 1;
    if (r->min_count < 2)
        return false;
    for (int size = least; size <= r->max_pattern_size && size <= n / r->min_count; size++) {
        int span = size * r->min_count, i = n - span + size;
        while (i < n && tokens[i] == tokens[i - size])
            i++;
        if (i == n)
            return true;
    }
    return false;
}
