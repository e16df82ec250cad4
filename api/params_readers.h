/* api/params_readers.h - readers of fields that are more than a number or a flag (params_lists.c), for the
 * table in params.c. Each checks the value and keeps it in p; errors name the field and what it may be. */
#ifndef LATENT_API_PARAMS_READERS_H
#define LATENT_API_PARAMS_READERS_H

#include "api/params.h"

int read_best_of(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_suffix(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_input_prefix(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_input_suffix(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_input_extra(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_max_tokens(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_chat_max_tokens(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_n_predict(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_n_probs(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_logit_bias(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_native_logit_bias(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_prompt_logprobs(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_allowed_token_ids(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_bad_words(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_breakers(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_truncate(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_repetition_detection(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_reasoning_effort(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_reasoning_format(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_tool_choice(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_anthropic_tool_choice(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_thinking(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_output_config(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_context_management(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_system(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_input(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_instructions(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_previous(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_reasoning(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_text(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_truncation(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_options(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_num_predict(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_think(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_text_prompt(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_images(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_embed_input(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_encoding_format(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_pooling(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_response_format(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_structured_outputs(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_structure_json(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_structure_regex(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_structure_choice(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_structure_grammar(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_ollama_format(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_prediction(struct params *p, const cJSON *v, const char *name, struct err *e);
int read_request_id(struct params *p, const cJSON *v, const char *name, struct err *e);

/* ERR_INVAL, "NAME must be EXPECTED"; ERR_NOMEM. Both return it. */
int params_bad(struct err *e, const char *name, const char *expected);
int params_no_memory(struct err *e);
/* A whole number in [min, max] (MAX_INT: no bound of ours). */
int params_int(const cJSON *v, const char *name, int min, int max, int *ret, struct err *e) LATENT_MUST_CHECK;
int params_text(const cJSON *v, const char *name, const char **ret, struct err *e) LATENT_MUST_CHECK;

#endif
