/* engine/draft.c - see draft.h. */
#include "config.h"

#include "engine/draft.h"

/* Tokens before `end` that are equal to those before n, at most DRAFT_MOST. */
static int equal_before(const int32_t *tokens, int end, int n)
{
    int k = 0;
    while (k < DRAFT_MOST && k < end && tokens[end - 1 - k] == tokens[n - 1 - k])
        k++;
    return k;
}

int draft_lookup(int32_t *tokens, int n, int max)
{
    int longest = DRAFT_LEAST - 1, from = -1, least = n > DRAFT_WINDOW ? n - DRAFT_WINDOW : 0;
    for (int end = n - 1; end > least && longest < DRAFT_MOST; end--) {
        int k = tokens[end - 1] == tokens[n - 1] ? equal_before(tokens, end, n) : 0;
        if (k > longest) {
            longest = k;
            from = end;
        }
    }
    for (int i = 0; from >= 0 && i < max; i++)
        tokens[n + i] = tokens[from + i];
    return from >= 0 && max > 0 ? max : 0;
}
