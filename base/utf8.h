/* base/utf8.h - UTF-8 boundaries for streaming. Pure functions. */
#ifndef LATENT_BASE_UTF8_H
#define LATENT_BASE_UTF8_H

#include <stddef.h>

/* Length of the longest prefix of s that does not end inside a character. A sequence that can no
 * longer become valid does not hold text back: its bytes count as complete. */
size_t utf8_complete_bytes(const char *s, size_t n_bytes);
/* 1 when s is valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF). */
int utf8_valid(const char *s, size_t n_bytes);
/* Copies s to dst with each maximal ill-formed part replaced by U+FFFD, as the Unicode standard
 * recommends. dst needs 3 * n_bytes. Returns the bytes written. */
size_t utf8_sanitize(const char *s, size_t n_bytes, char *dst);

#endif
