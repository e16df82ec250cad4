/* tests/fuzz/fuzz_template.c - chat templates, divided: template, messages, tools, kwargs (JSON).
 *
 * An unknown template alone runs over fixed messages and tools. A single letter instead of a template
 * names a real one, so that unknown messages meet what models bring. */
#include "config.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/template.h"
#include "tests/fuzz/fuzz.h"

#define MAX_BYTES 65536

static const char fixed_messages[] =
    "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"caf\\u00e9 <b>\"},"
    "{\"role\":\"assistant\",\"content\":\"<think>x</think> yes\",\"n\":-3,\"f\":0.5,\"l\":[1,\"2\",null]},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"42\"},"
    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"go on\"}]}]";
static const char fixed_tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"a\":{\"type\":\"integer\",\"enum\":[1,2.5]}},\"required\":[\"a\"]}}}]";

static const char *const models[] = {
    "deepseek-r1-distill-qwen", "deepseek-v2", "deepseek-v3.1", "glm-4.6", "glm-4.7-flash",
    "kimi-k2-instruct", "kimi-k2-thinking", "kimi-k2", "qwen2.5", "qwen3-coder", "qwen3", "qwq"};
#define N_MODELS (sizeof(models) / sizeof(models[0]))

static const struct template *model_template(unsigned char letter)
{
    static struct template *made[N_MODELS];
    size_t i = letter % N_MODELS, n = 0;
    struct err e = {0};
    char name[128];
    if (!made[i]) {
        snprintf(name, sizeof(name), "../template/models/%s.jinja", models[i]);
        char *text = fuzz_data(name, &n);
        FUZZ_CHECK(template_new(text, n, &made[i], &e) == 0);
        free(text);
    }
    return made[i];
}

static void render(const struct template *t, const struct template_input *in)
{
    struct template_output out = {0};
    struct err e = {0};
    if (fuzz_result(template_render(t, in, MAX_BYTES, &out, &e), &e) < 0) {
        FUZZ_CHECK(!out.text && !out.literal);
        return;
    }
    FUZZ_CHECK(out.n_bytes <= MAX_BYTES && out.text[out.n_bytes] == 0);
    for (size_t i = 0; i < out.n_bytes; i++)
        FUZZ_CHECK(out.literal[i] <= 1);
    free(out.text);
    free(out.literal);
}

/* A list of objects is what the API lets through. */
static bool is_list(const cJSON *list)
{
    const cJSON *at;
    bool ok = cJSON_IsArray(list);
    cJSON_ArrayForEach(at, list) ok = ok && cJSON_IsObject(at);
    return ok;
}

static cJSON *part_json(const uint8_t **data, size_t *n_bytes, const char *otherwise)
{
    size_t n = 0;
    const uint8_t *part = fuzz_part(data, n_bytes, &n);
    if (!part)
        return otherwise ? cJSON_Parse(otherwise) : NULL;
    return n ? cJSON_ParseWithLength((const char *)part, n) : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const struct template_text texts[] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    size_t n = 0;
    const uint8_t *text = fuzz_part(&data, &n_bytes, &n);
    bool real = data && n == 1;
    cJSON *messages = part_json(&data, &n_bytes, fixed_messages);
    cJSON *tools = part_json(&data, &n_bytes, fixed_tools);
    cJSON *kwargs = part_json(&data, &n_bytes, NULL);
    struct template_input in = {.messages = messages, .tools = is_list(tools) ? tools : NULL,
                                .kwargs = cJSON_IsObject(kwargs) ? kwargs : NULL,
                                .texts = texts, .n_texts = 2, .now = 1700000000};
    struct template *own = NULL;
    struct err e = {0};
    if (is_list(messages) &&
        (real || fuzz_result(template_new((const char *)text, n, &own, &e), &e) == 0)) {
        const struct template *t = real ? model_template(text[0]) : own;
        render(t, &in);
        in.adapt_messages = in.add_generation_prompt = true;
        render(t, &in);
    }
    template_free(&own);
    cJSON_Delete(messages);
    cJSON_Delete(tools);
    cJSON_Delete(kwargs);
    return 0;
}
