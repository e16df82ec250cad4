/* api/openapi.c - GET /openapi.json: the routes and the table of fields that validates requests, as
 * OpenAPI 3.1. What a field of kind VALUE may be is said here, by the function that reads it. Fields that
 * have no effect, or are refused, are marked with x-latentd. */
#include "config.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "api/fields.h"
#include "api/internal.h"
#include "api/routes.h"

#define STRING "{\"type\":[\"string\",\"null\"]}"
#define IDS "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}}"
#define TEXT_OR_PARTS "{\"type\":[\"string\",\"array\",\"null\"],\"items\":{\"type\":\"object\"}}"
#define OBJECTS "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"object\"}}"
#define OBJECT "{\"type\":[\"object\",\"null\"]}"
#define SECONDS "{\"type\":[\"number\",\"null\"],\"exclusiveMinimum\":0}"

#define SCHEMA "{\"type\":[\"object\",\"boolean\",\"string\",\"null\"]}"
#define CHOICE                                                                                             \
    "{\"type\":[\"array\",\"null\"],\"minItems\":1,\"items\":{\"type\":\"string\",\"minLength\":1}}"
#define FORMAT                                                                                             \
    "{\"type\":[\"object\",\"null\"],\"required\":[\"type\"],\"properties\":{\"type\":{\"enum\":["         \
    "\"text\","                                                                                            \
    "\"json_object\",\"json_schema\",\"structural_tag\"]}}}"

static const struct schema {
    const char *reader, *json;
} schemas[] = {
    {"read_model", STRING},
    {"read_prompt",
     "{\"type\":[\"string\",\"array\"],\"items\":{\"type\":[\"string\",\"integer\",\"array\"]}}"},
    {"read_text_prompt", STRING},
    {"read_messages", "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"object\",\"required\":["
                      "\"role\"],\"properties\":"
                      "{\"role\":{\"type\":\"string\"},\"content\":" TEXT_OR_PARTS "}}}"},
    {"read_tools", OBJECTS},
    {"read_documents", OBJECTS},
    {"read_tool_choice",
     "{\"anyOf\":[{\"enum\":[\"auto\",\"none\",\"required\",null]},{\"type\":\"object\",\"required\":["
     "\"type\"],\"properties\":{\"type\":{\"enum\":[\"function\",\"allowed_tools\"]}}}]}"},
    {"read_anthropic_tool_choice",
     "{\"type\":[\"object\",\"null\"],\"properties\":{\"type\":{\"enum\":[\"auto\",\"none\",\"any\","
     "\"tool\"]}}}"},
    {"read_template_kwargs", OBJECT},
    {"read_tokens", IDS},
    {"read_max_tokens", "{\"type\":[\"integer\",\"null\"],\"minimum\":-1}"},
    {"read_chat_max_tokens",
     "{\"type\":[\"integer\",\"null\"],\"minimum\":-1,\"not\":{\"const\":0}}"},
    {"read_n", "{\"type\":[\"integer\",\"null\"],\"minimum\":1,\"maximum\":%max_n%}"},
    {"read_best_of", "{\"type\":[\"integer\",\"null\"],\"minimum\":1,\"maximum\":%max_n%}"},
    {"read_seed", "{\"type\":[\"integer\",\"null\"],\"format\":\"int64\"}"},
    {"read_seed_or_any", "{\"type\":[\"integer\",\"null\"],\"format\":\"int64\"}"},
    {"read_stop", "{\"type\":[\"string\",\"array\",\"null\"],\"maxItems\":%max_stop%,\"items\":{\"type\":"
                  "\"string\",\"minLength\":1,\"maxLength\":512}}"},
    {"read_stop_token_ids",
     "{\"type\":[\"array\",\"null\"],\"maxItems\":256,\"items\":{\"type\":\"integer\",\"minimum\":0}}"},
    {"read_logit_bias",
     "{\"type\":[\"object\",\"null\"],\"maxProperties\":%max_logit_bias%,\"additionalProperties\":"
     "{\"type\":\"number\",\"minimum\":-100,\"maximum\":100}}"},
    {"read_native_logit_bias",
     "{\"type\":[\"array\",\"object\",\"null\"],\"maxProperties\":%max_logit_bias%,\"maxItems\":"
     "%max_logit_bias%,\"items\":{\"type\":\"array\",\"minItems\":2,\"maxItems\":2}}"},
    {"read_logprobs",
     "{\"type\":[\"integer\",\"boolean\",\"null\"],\"minimum\":0,\"maximum\":%max_logprobs%}"},
    {"read_top_logprobs", "{\"type\":[\"integer\",\"null\"],\"minimum\":0,\"maximum\":%max_logprobs%}"},
    {"read_prompt_logprobs", "{\"type\":[\"integer\",\"null\"],\"minimum\":0,\"maximum\":%max_logprobs%}"},
    {"read_add_special", "{\"type\":[\"boolean\",\"null\"]}"},
    {"read_stream_options",
     "{\"type\":[\"object\",\"null\"],\"properties\":{\"include_usage\":{\"type\":\"boolean\"},"
     "\"continuous_usage_stats\":{\"type\":\"boolean\"}}}"},
    {"read_cache_salt", "{\"type\":[\"string\",\"null\"],\"minLength\":1}"},
    {"read_timeout", SECONDS},
    {"read_max_queue_time", SECONDS},
    {"read_allowed_token_ids",
     "{\"type\":[\"array\",\"null\"],\"minItems\":1,\"items\":{\"type\":\"integer\",\"minimum\":0}}"},
    {"read_bad_words", "{\"type\":[\"array\",\"null\"],\"maxItems\":256,\"items\":{\"type\":\"string\","
                       "\"minLength\":1,\"maxLength\":256}}"},
    {"read_breakers", "{\"type\":[\"array\",\"null\"],\"maxItems\":64,\"items\":{\"type\":\"string\","
                      "\"minLength\":1,\"maxLength\":64}}"},
    {"read_truncate", "{\"type\":[\"integer\",\"null\"],\"minimum\":-1,\"not\":{\"const\":0}}"},
    {"read_repetition_detection",
     "{\"type\":[\"object\",\"null\"],\"properties\":{\"max_pattern_size\":{\"type\":\"integer\","
     "\"minimum\":0,"
     "\"maximum\":1024},\"min_pattern_size\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":1024},"
     "\"min_count\":{\"type\":\"integer\",\"minimum\":2,\"maximum\":1000}},\"additionalProperties\":"
     "false}"},
    {"read_suffix", STRING},
    {"read_input_prefix", STRING},
    {"read_input_suffix", STRING},
    {"read_input_extra",
     "{\"type\":[\"array\",\"null\"],\"maxItems\":256,\"items\":{\"type\":\"object\",\"required\":["
     "\"text\"],\"properties\":{\"text\":{\"type\":\"string\"},\"filename\":{\"type\":\"string\"}}}}"},
    {"read_n_probs", "{\"type\":[\"integer\",\"null\"],\"minimum\":0,\"maximum\":%max_logprobs%}"},
    {"read_request_id", "{\"type\":[\"string\",\"null\"],\"pattern\":\"^[A-Za-z0-9._:-]{1,64}$\"}"},
    {"read_reasoning_effort",
     "{\"enum\":[\"none\",\"minimal\",\"low\",\"medium\",\"high\",\"xhigh\",null]}"},
    {"read_reasoning_format", "{\"enum\":[\"none\",\"auto\",\"deepseek\",null]}"},
    {"read_thinking", "{\"type\":[\"object\",\"null\"],\"required\":[\"type\"],\"properties\":{\"type\":{"
                      "\"enum\":[\"enabled\",\"adaptive\","
                      "\"disabled\"]},\"budget_tokens\":{\"type\":\"integer\",\"minimum\":1}}}"},
    {"read_context_management",
     "{\"type\":[\"object\",\"null\"],\"properties\":{\"edits\":" OBJECTS "}}"},
    {"read_system", TEXT_OR_PARTS},
    {"read_input", "{\"type\":[\"string\",\"array\"],\"minItems\":1,\"items\":{\"type\":\"object\"}}"},
    {"read_embed_input", "{\"type\":[\"string\",\"array\"],\"minItems\":1,\"items\":{\"type\":[\"string\","
                         "\"integer\",\"array\"]}}"},
    {"read_encoding_format", "{\"enum\":[\"float\",\"base64\",null]}"},
    {"read_pooling", "{\"enum\":[\"mean\",\"last\",null]}"},
    {"read_instructions", STRING},
    {"read_previous", "{\"type\":[\"string\",\"null\"],\"minLength\":1}"},
    {"read_reasoning",
     "{\"type\":[\"object\",\"null\"],\"properties\":{\"effort\":{\"type\":[\"string\",\"null\"]}}}"},
    {"read_text", "{\"type\":[\"object\",\"null\"],\"properties\":{\"format\":" FORMAT "}}"},
    {"read_output_config", "{\"type\":[\"object\",\"null\"],\"properties\":{\"format\":" FORMAT "}}"},
    {"read_response_format", FORMAT},
    {"read_structured_outputs",
     "{\"type\":[\"object\",\"null\"],\"maxProperties\":1,\"additionalProperties\":false,\"properties\":{"
     "\"json\":" SCHEMA ",\"regex\":{\"type\":\"string\"},\"choice\":" CHOICE ",\"grammar\":{\"type\":"
     "\"string\"},\"json_object\":{\"type\":\"boolean\"},\"structural_tag\":" OBJECT "}}"},
    {"read_structure_json", SCHEMA},
    {"read_structure_regex", STRING},
    {"read_structure_choice", CHOICE},
    {"read_structure_grammar", STRING},
    {"read_ollama_format", "{\"anyOf\":[{\"enum\":[\"json\",\"\",null]},{\"type\":\"object\"}]}"},
    {"read_truncation", "{\"enum\":[\"disabled\",null]}"},
    {"read_prediction",
     "{\"type\":[\"object\",\"null\"],\"required\":[\"type\",\"content\"],\"properties\":{\"type\":{"
     "\"const\":\"content\"},\"content\":{\"type\":[\"string\",\"array\"],\"items\":{"
     "\"type\":\"object\"}}}}"},
    {"read_options", OBJECT},
    {"read_num_predict", "{\"type\":[\"integer\",\"null\"],\"minimum\":-2}"},
    {"read_n_predict", "{\"type\":[\"integer\",\"null\"],\"minimum\":-2}"},
    {"read_think",
     "{\"enum\":[true,false,\"none\",\"minimal\",\"low\",\"medium\",\"high\",\"xhigh\",null]}"},
    {"read_images", "{\"type\":[\"array\",\"null\"],\"maxItems\":0}"},
};

/* A schema with %names% of limits filled in. */
static void write_schema(const struct api_config *cfg, const char *json, struct jw *w)
{
    const struct {
        const char *name;
        int value;
    } limits[] = {
        {"%max_n%", cfg->max_n},
        {"%max_stop%", cfg->max_stop},
        {"%max_logit_bias%", cfg->max_logit_bias},
        {"%max_logprobs%", cfg->max_logprobs},
    };
    while (*json) {
        size_t n = strcspn(json, "%");
        jw_bytes(w, json, n);
        json += n;
        for (size_t i = 0; *json && i < sizeof(limits) / sizeof(*limits); i++)
            if (!strncmp(json, limits[i].name, strlen(limits[i].name))) {
                jw_printf(w, "%d", limits[i].value);
                json += strlen(limits[i].name);
            }
    }
}

static void write_field(const struct api_config *cfg, const struct field *f, struct jw *w)
{
    jw_string(w, f->name, strlen(f->name));
    jw_raw(w, ":");
    switch (f->kind) {
    case KIND_NUM:
    case KIND_OPEN:
        jw_printf(w, "{\"type\":[\"number\",\"null\"],\"%s\":%g,\"maximum\":%g}",
                  f->kind == KIND_OPEN ? "exclusiveMinimum" : "minimum", f->min, f->max);
        break;
    case KIND_INT:
        jw_printf(w, "{\"type\":[\"integer\",\"null\"],\"minimum\":%d", (int)f->min);
        if (f->max < INT_MAX)
            jw_printf(w, ",\"maximum\":%d", (int)f->max);
        jw_raw(w, "}");
        break;
    case KIND_BOOL:
        jw_raw(w, "{\"type\":[\"boolean\",\"null\"]}");
        break;
    case KIND_VALUE:
        for (size_t i = 0; i < sizeof(schemas) / sizeof(*schemas); i++)
            if (!strcmp(schemas[i].reader, f->reader)) {
                write_schema(cfg, schemas[i].json, w);
                return;
            }
        jw_raw(w, "{}");
        break;
    case KIND_IGNORED:
        jw_raw(w, "{\"x-latentd\":\"ignored\"}");
        break;
    case KIND_UNSERVED:
        jw_raw(w, "{\"x-latentd\":\"unserved\"}");
        break;
    }
}

static void write_properties(const struct api_config *cfg, unsigned where, struct jw *w)
{
    bool any = false;
    jw_raw(w, "{");
    for (size_t i = 0; i < api_n_fields; i++) {
        if (!(api_fields[i].where & where))
            continue;
        jw_raw(w, any ? "," : "");
        any = true;
        write_field(cfg, &api_fields[i], w);
    }
    jw_raw(w, "}");
}

static void write_operation(const struct api_config *cfg, const struct route *r, struct jw *w)
{
    jw_raw(w, "{\"summary\":");
    jw_cstring(w, r->summary);
    if (strchr(r->openapi_path, '{'))
        jw_raw(w, ",\"parameters\":[{\"name\":\"id\",\"in\":\"path\",\"required\":true,\"schema\":{"
                  "\"type\":\"string\"}}]");
    if (r->where) {
        jw_printf(w, ",\"requestBody\":{\"required\":%s,\"content\":{\"application/json\":{\"schema\":",
                  r->method == HTTP_M_POST ? "true" : "false");
        jw_raw(w, "{\"type\":\"object\",\"properties\":");
        write_properties(cfg, r->where, w);
        jw_raw(w, ",\"required\":[");
        jw_raw(w, r->required ? r->required : "");
        jw_printf(w, "],\"additionalProperties\":%s}}}}", cfg->strict ? "false" : "true");
    }
    jw_raw(w, ",\"responses\":{\"200\":{\"description\":\"the answer\",\"content\":{");
    jw_printf(w, "\"%s\":{\"schema\":{}}", r->answer ? r->answer : "application/json");
    if (r->streams)
        jw_printf(w, ",\"%s\":{\"schema\":{}}", r->streams);
    jw_raw(w, "}},\"default\":{\"description\":\"an "
              "error\",\"content\":{\"application/json\":{\"schema\":{}}}}}}");
}

struct api_exchange *handle_openapi(struct api *a, const struct api_request *req, const struct reply *r)
{
    static const char *const methods[] =
        {[HTTP_M_GET] = "get", [HTTP_M_POST] = "post", [HTTP_M_DELETE] = "delete"};
    struct jw w;
    const char *path = NULL;
    (void)req;
    jw_init(&w, 4u << 20);
    jw_raw(&w, "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"latentd\",\"version\":\"" PACKAGE_VERSION
               "\"},\"paths\":{");
    for (size_t i = 0; i < api_n_routes; i++) {
        const struct route *at = &api_routes[i];
        if (path && !strcmp(path, at->openapi_path)) { /* another method: rows of a path stand together */
            jw_raw(&w, ",");
        } else {
            jw_raw(&w, path ? "}," : "");
            path = at->openapi_path;
            jw_string(&w, path, strlen(path));
            jw_raw(&w, ":{");
        }
        jw_printf(&w, "\"%s\":", methods[at->method]);
        write_operation(&a->cfg, at, &w);
    }
    jw_raw(&w, "}},\"components\":{\"schemas\":{\"OllamaOptions\":{\"type\":\"object\",\"properties\":");
    write_properties(&a->cfg, IN_OPTIONS, &w);
    jw_raw(&w, "}}}}");
    reply_json(r, 200, &w, NULL);
    jw_done(&w);
    return NULL;
}
