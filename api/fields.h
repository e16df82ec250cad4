/* api/fields.h - the table of request fields (fields.def), for those who walk all of it. */
#ifndef LATENT_API_FIELDS_H
#define LATENT_API_FIELDS_H

#include "api/params.h"

enum field_kind { KIND_NUM, KIND_OPEN, KIND_INT, KIND_BOOL, KIND_VALUE, KIND_IGNORED, KIND_UNSERVED };

struct field {
    unsigned where; /* enum field_where, or'ed */
    const char *name;
    enum field_kind kind;
    size_t offset;
    double min, max; /* INT_MAX: no bound */
    int (*read)(struct params *p, const cJSON *v, const char *name, struct err *e);
    const char *reader; /* KIND_VALUE: its function's name; else NULL */
};

extern const struct field api_fields[];
extern const size_t api_n_fields;

#endif
