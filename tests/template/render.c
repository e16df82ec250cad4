/* tests/template/render.c - renders chat templates for tests in other languages. One JSON object a
 * line on stdin: {"template", "messages", "tools", "documents", "kwargs", "add_generation_prompt",
 * "texts", "now", "adapt_messages", "max_bytes"}; one a line on stdout: {"text", "literal"}
 * (literal: "0" and "1" a byte) or
 * {"error"}. A line without "template" uses that of the line before. */
#include "config.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_write.h"
#include "api/template.h"

#define MAX_TEXTS 32

static const cJSON *get(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNull(v) ? NULL : v;
}

static int render(const cJSON *o, const struct template *t, struct template_output *ret,
                  struct err *e)
{
    struct template_text texts[MAX_TEXTS];
    const cJSON *at, *now = get(o, "now"), *max = get(o, "max_bytes"), *kwargs = get(o, "kwargs");
    struct template_input in = {
        .messages = get(o, "messages"),
        .tools = get(o, "tools"),
        .documents = get(o, "documents"),
        .kwargs = kwargs,
        .add_generation_prompt = cJSON_IsTrue(get(o, "add_generation_prompt")),
        .adapt_messages = cJSON_IsTrue(get(o, "adapt_messages")),
        .texts = texts,
        .now = now ? (int64_t)now->valuedouble : 0,
    };
    cJSON_ArrayForEach(at, get(o, "texts"))
        if (cJSON_IsString(at) && in.n_texts < MAX_TEXTS)
            texts[in.n_texts++] = (struct template_text){at->string, at->valuestring};
    return template_render(t, &in, max ? (size_t)max->valuedouble : 1u << 22, ret, e);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    struct template *t = NULL;
    struct err e, template_error = {0};
    while ((n = getline(&line, &cap, stdin)) > 0) {
        struct template_output out = {0};
        struct jw w;
        cJSON *o = cJSON_Parse(line);
        if (!o)
            return 1;
        const cJSON *text = get(o, "template");
        if (text) {
            template_free(&t);
            template_error = (struct err){0};
            if (template_new(text->valuestring, strlen(text->valuestring), &t, &template_error) < 0)
                t = NULL;
        }
        e = template_error;
        jw_init(&w, 1u << 28);
        if (t && render(o, t, &out, &e) == 0) {
            jw_raw(&w, "{\"text\":");
            jw_string(&w, out.text, out.n_bytes);
            jw_raw(&w, ",\"literal\":\"");
            for (size_t i = 0; i < out.n_bytes; i++)
                out.literal[i] += '0';
            jw_bytes(&w, (const char *)out.literal, out.n_bytes);
            jw_raw(&w, "\"}\n");
            free(out.text);
            free(out.literal);
        } else {
            jw_raw(&w, "{\"error\":");
            jw_cstring(&w, e.text);
            jw_raw(&w, "}\n");
        }
        fwrite(w.b.data, 1, w.b.n_bytes, stdout);
        fflush(stdout);
        jw_done(&w);
        cJSON_Delete(o);
    }
    template_free(&t);
    free(line);
    return 0;
}
