/* engine/draft.c - see draft.h. */
#include "config.h"

#include "engine/draft.h"

/* Tokens of text before `end` that are equal to the last ones of tokens[0..n), at most DRAFT_MOST. */
static int equal_before(const int32_t *text, int end, const int32_t *tokens, int n)
{
    int most = end < n ? end : n, k = 0;
    most = most < DRAFT_MOST ? most : DRAFT_MOST;
    while (k < most && text[end - 1 - k] == tokens[n - 1 - k])
        k++;
    return k;
}

int draft_lookup(int32_t *tokens, int n, int max)
{
    int longest = DRAFT_LEAST - 1, from = -1, least = n > DRAFT_WINDOW ? n - DRAFT_WINDOW : 0;
    for (int end = n - 1; end > least && longest < DRAFT_MOST; end--) {
        int k = equal_before(tokens, end, tokens, n);
        if (k > longest) {
            longest = k;
            from = end;
        }
    }
    for (int i = 0; from >= 0 && i < max; i++)
        tokens[n + i] = tokens[from + i];
    return from >= 0 && max > 0 ? max : 0;
}

int draft_place(const int32_t *text, int from, int n_text, const int32_t *tokens, int n)
{
    int longest = DRAFT_LEAST - 1, at = -1;
    int n_places = n_text < DRAFT_WINDOW ? n_text : DRAFT_WINDOW;
    for (int i = 0; i < n_places && longest < DRAFT_MOST; i++) {
        int end = from + i < n_text ? from + i : from + i - n_text;
        int k = equal_before(text, end, tokens, n);
        if (k > longest) {
            longest = k;
            at = end;
        }
    }
    return at;
}
