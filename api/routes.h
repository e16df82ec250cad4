/* api/routes.h - the table of endpoints: what each takes, and what it does. */
#ifndef LATENT_API_ROUTES_H
#define LATENT_API_ROUTES_H

#include "api/internal.h"

struct route {
    const char *path; /* one that ends in '/' takes what begins with it */
    enum http_method method;
    struct api_exchange *(*handle)(struct api *a, const struct api_request *req, const struct reply *r);
    unsigned where;           /* its fields (enum field_where); 0: no body is read */
    const char *required;     /* as in JSON: "\"prompt\""; NULL: none */
    const char *streams;      /* media type of its streams, or NULL */
    const char *answer;       /* media type of its answer; NULL: JSON */
    const char *openapi_path; /* "/v1/models/{id}" */
    const char *summary;
};

extern const struct route api_routes[];
extern const size_t api_n_routes;

#endif
