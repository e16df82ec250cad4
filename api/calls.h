/* api/calls.h - how models write calls of tools, one file and one row of the table (calls.c) each. A format
 * is fed the text of an answer from its first mark on, in pieces of any size, and appends calls to the
 * parts of the answer. What is not of the form it announced is given out as plain text, never lost. Loop
 * thread. */
#ifndef LATENT_API_CALLS_H
#define LATENT_API_CALLS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include "api/parts.h"

enum call_step {
    CALL_MORE,  /* needs more text */
    CALL_AGAIN, /* got further: call again */
    CALL_OUT,   /* plain text follows */
};

struct call_text {
    struct buf in;      /* text not understood yet; a format consumes it from the front */
    struct buf before;  /* spaces before the mark: plain text again if no call follows */
    struct parts *out;
    const cJSON *tools; /* OpenAI's list, for the types of arguments; may be NULL */
    bool only_one;      /* parallel_tool_calls: false; further calls are dropped */
    bool mute;          /* ... as is this one */
    int state, depth, n_args; /* the format's; 0 at its first mark */
    bool in_string, escaped;
    bool plain;         /* what was announced was none */
    char name[128];     /* of the call, for argument types */
};

/* How calls are written when they must come: texts around them. Parts may be NULL: nothing. */
struct call_syntax {
    const char *section, *section_end, *between; /* around all, between two */
    const char *open, *name_end, *close;         /* of a call: NAME between the first, arguments the others */
    bool numbered;                               /* a colon and a number behind NAME */
    /* Arguments are JSON; or, where arg_end is said, each is arg KEY (arg_text | arg_json) VALUE arg_before
     * arg_end arg_after. */
    const char *arg, *arg_text, *arg_json, *arg_before, *arg_end, *arg_after;
};

struct call_format {
    const char *name;             /* tool_parser = ... */
    const char *const *of_template; /* a template with all of these is of this format; NULL ends */
    const char *const *begin;     /* marks that begin calls; NULL ends */
    bool at_beginning;            /* marks count at the beginning of the text only */
    enum call_step (*step)(struct call_text *t, bool end);
    const struct call_syntax *(*syntax)(const char *chat_template);
};

/* By name, or NULL. */
const struct call_format *call_format_find(const char *name);
/* The one of a chat template, or NULL. */
const struct call_format *call_format_of(const char *chat_template);

/* --- for the formats ------------------------------------------------------------------------------ */

bool text_begins(const struct call_text *t, const char *mark);
/* May the text still become one that begins with mark? */
bool text_may_begin(const struct call_text *t, const char *mark);
void text_skip_space(struct call_text *t);
/* Offset of mark at or after `from`, or -1. */
long text_find(const struct call_text *t, size_t from, const char *mark);
/* It is no call: its first character is plain text, and the rest is looked at anew. */
enum call_step text_is_plain(struct call_text *t);
void call_begin(struct call_text *t, const char *name, size_t n_name, const char *id, size_t n_id);
void call_args(struct call_text *t, const char *text, size_t n_bytes);
void call_end(struct call_text *t);
/* One argument of a call whose arguments come one by one, as text: a string where the tool's schema says so
 * (or is_string > 0), else JSON when it is (is_string < 0: not known). */
void call_arg(struct call_text *t, const char *key, size_t n_key, const char *value, size_t n_value,
              int is_string);
/* Where the value at `from`, which call_arg is to have, ends: the offset of the mark behind it, or -1: not
 * there yet. Inside the strings of JSON the mark is part of the value. */
long call_value_end(const struct call_text *t, const char *key, size_t n_key, size_t from, const char *mark,
                    int is_string, bool end);
/* ... and the end of them. */
void call_args_end(struct call_text *t);
/* No whole argument is there yet. end: none will be; the call ends with those that came. */
enum call_step call_args_wait(struct call_text *t, bool end);
/* Passes JSON on until the value that began is complete; consumes it. true: complete. */
bool call_json_value(struct call_text *t);
/* {"name": ..., "arguments": ...} behind a mark of `mark` bytes: CALL_OUT when the object is complete.
 * *ret_plain: it is none; nothing was consumed. Uses the states 0 to 2. */
enum call_step call_json_object(struct call_text *t, size_t mark, bool end, bool *ret_plain);

/* The same between two marks, the second of which may lack. Uses the states 0 to 3. */
enum call_step call_object_step(struct call_text *t, const char *call, const char *done, bool end);

/* Calls whose arguments are pairs of a key and a value. Uses the states 0 and 4. */
struct call_pairs {
    const char *call, *done, *key, *key_end, *value, *value_end;
};
enum call_step call_pairs_step(struct call_text *t, const struct call_pairs *m, bool end);

/* Formats of marked calls: section, call, head, separator, JSON, end of call, end of section. */
struct call_marks {
    const char *section, *call, *separator, *end, *section_end;
    /* What stands before the separator: begins the call. true: the rest of the line and a ```json follow */
    bool (*head)(struct call_text *t, const char *head, size_t n_bytes);
};
enum call_step call_marked_step(struct call_text *t, const struct call_marks *m, bool end);

extern const struct call_format call_format_deepseek, call_format_dsml, call_format_kimi, call_format_glm,
    call_format_longcat, call_format_qwen_coder, call_format_hermes, call_format_llama;

#endif
