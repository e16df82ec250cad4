/* api/template_text.h - UTF-8 and Unicode as Python's strings see them. Pure functions; s is valid
 * UTF-8. */
#ifndef LATENT_API_TEMPLATE_TEXT_H
#define LATENT_API_TEMPLATE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the white space character at s, or 0. */
size_t text_space(const char *s, size_t n);
/* The length without white space at the end; the bytes of white space at the front. */
size_t text_rstrip(const char *s, size_t n);
size_t text_lstrip(const char *s, size_t n);
size_t text_chars(const char *s, size_t n);
/* Byte where character i begins; n when there are fewer. */
size_t text_offset(const char *s, size_t n, size_t i);
size_t text_char_bytes(const char *s, size_t n); /* of the character at s; n > 0 */
uint32_t text_code_point(const char *s, size_t n, size_t *ret_bytes);
size_t text_encode(uint32_t c, char dst[4]);
/* Bytes of the line that begins at s, without its end, and those of the end; 0: the text ends there. */
size_t text_line(const char *s, size_t n, size_t *ret_end);

enum text_class { TEXT_ALPHA, TEXT_DIGIT, TEXT_ALNUM, TEXT_SPACE, TEXT_UPPER, TEXT_LOWER };
bool text_is(uint32_t c, enum text_class k);
/* The upper (title: the first letter of a word) or lower case of c as UTF-8; returns the bytes. */
size_t text_upper(uint32_t c, bool title, char dst[12]);
size_t text_lower(uint32_t c, char dst[12]);

#endif
