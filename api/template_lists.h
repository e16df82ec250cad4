/* api/template_lists.h - the filters on lists, for the table in template_filters.c. */
#ifndef LATENT_API_TEMPLATE_LISTS_H
#define LATENT_API_TEMPLATE_LISTS_H

#include "api/template_value.h"

#define LIST_FILTERS(ROW)                                                                  \
    ROW(join) ROW(first) ROW(last) ROW(list) ROW(reverse) ROW(sort) ROW(unique) ROW(min)    \
    ROW(max) ROW(sum) ROW(map) ROW(select) ROW(reject) ROW(selectattr) ROW(rejectattr)      \
    ROW(groupby) ROW(dictsort) ROW(batch) ROW(slice)
#define ROW(name) struct value f_##name(struct run *x, struct value v, struct call *c);
LIST_FILTERS(ROW)
#undef ROW

#endif
