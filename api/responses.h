/* api/responses.h - what the two files about the Responses API share. */
#ifndef LATENT_API_RESPONSES_H
#define LATENT_API_RESPONSES_H

#include "api/internal.h"
#include "api/store.h"

/* x->extra of a response. */
struct response {
    cJSON *items;  /* all input, of responses before it too */
    int sequence;  /* of the next event */
    bool kept;     /* it is in the store, or failed to get there, or is not to */
};

/* The store was asked, and has answered `code`, which is no 0: *e says so, and is returned. */
int store_failed(int code, struct err *e);
/* Writes the response as it is; status: "in_progress", or NULL: what it ended with. */
void write_response(struct api_exchange *x, const char *status, const struct err *failure, struct jw *w);

#endif
