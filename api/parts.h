/* api/parts.h - what an assistant's answer is made of: reasoning, text and calls of tools, in order, as it
 * grows. Text is kept as the inside of a JSON string. Loop thread. */
#ifndef LATENT_API_PARTS_H
#define LATENT_API_PARTS_H

#include <stdbool.h>
#include "api/json_write.h"

enum part_kind { PART_TEXT, PART_REASONING, PART_CALL };

struct part {
    enum part_kind kind;
    struct jw text;   /* escaped: what is said, thought, or the call's arguments (JSON, escaped again) */
    size_t told;      /* bytes of it that went out; before it only what endpoints want that repeat it */
    bool opened;      /* its beginning went out */
    bool closed;      /* nothing follows in it */
    bool over;        /* its end went out */
    int call;         /* CALL: number among the calls of the answer */
    char *name;       /* CALL */
    char id[96];      /* CALL: as told to the client */
};

struct parts {
    struct part *list;
    int n, cap;
    int n_calls;
    size_t max_bytes; /* of a part */
    int err;          /* the first failure: ERR_NOMEM, ERR_LIMIT */
    const char *id_prefix; /* of calls without an id */
    unsigned long long id_seed;
};

void parts_init(struct parts *p, size_t max_bytes, const char *id_prefix, unsigned long long id_seed);
void parts_done(struct parts *p);
/* Appends to the part that grows, or begins one. An empty text begins none. */
void parts_add(struct parts *p, enum part_kind kind, const char *text, size_t n_bytes);
/* id: NULL or n_id 0: one is made. */
void parts_call(struct parts *p, const char *name, size_t n_name, const char *id, size_t n_id);
/* Nothing more comes to the part that grows. */
void parts_close(struct parts *p);
/* Everything went out. keep: text stays, for endpoints that tell it again at the end. */
void parts_told(struct parts *p, bool keep);
/* All text of a kind that has not gone out, joined. */
void parts_join(const struct parts *p, enum part_kind kind, struct jw *w);
/* Does anything wait to be told: text, or the beginning of a call? */
bool parts_pending(const struct parts *p);
bool parts_has(const struct parts *p, enum part_kind kind);

#endif
