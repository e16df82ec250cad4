/* api/template_builtin.h - what filters, tests, methods and functions of templates share. */
#ifndef LATENT_API_TEMPLATE_BUILTIN_H
#define LATENT_API_TEMPLATE_BUILTIN_H

#include "api/template_value.h"

enum text_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_WORDS, CASE_CAPITAL, CASE_SWAP };

struct value builtin__strip(struct run *x, const struct str *s, const struct value *chars,
                            bool left, bool right);
struct value builtin__case(struct run *x, const struct str *s, enum text_case k);
bool builtin__all_upper(struct run *x, const struct str *s, bool upper);
struct value builtin__replace(struct run *x, const struct str *s, const struct value *from,
                              const struct value *to, int64_t count); /* below 0: all */
struct value builtin__center(struct run *x, struct value self, struct call *c);
struct value builtin__items(struct run *x, const struct dict *d);
void builtin__update(struct run *x, struct dict *d, const struct value *from);
/* "{} {0} {name!r:>5}".format() */
struct value builtin__format_braces(struct run *x, const struct str *s, struct call *c);
/* Does v pass the test of this name? */
bool builtin__passes(struct run *x, struct value v, const struct value *test,
                     const struct value *args, int n_args);

#endif
