/* tests/unit/rendered.c - see rendered.h. */
#include "config.h"

#include "tests/unit/rendered.h"

#include <stdlib.h>
#include <string.h>

static struct template_output out;
static char *marks;

static cJSON *parse(const char *json)
{
    return json ? cJSON_Parse(json) : NULL;
}

const char *rendered(const char *text, const struct rendered *with, struct err *e)
{
    struct template *t = NULL;
    struct template_output got = {0};
    const struct template_text texts[] = {{"bos_token", "<B>"}, {"eos_token", "<E>"}};
    free(out.text);
    free(out.literal);
    free(marks);
    marks = NULL;
    out = got;
    *e = (struct err){0};
    if (template_new(text, strlen(text), &t, e) < 0)
        return NULL;
    cJSON *messages = parse(with->messages), *tools = parse(with->tools),
          *kwargs = parse(with->kwargs);
    const struct template_input in = {
        .messages = messages,
        .tools = tools,
        .kwargs = kwargs,
        .add_generation_prompt = true,
        .adapt_messages = with->adapt,
        .texts = texts,
        .n_texts = 2,
        .now = 1764000000,
    };
    int r = template_render(t, &in, with->max_bytes ? with->max_bytes : 100000, &got, e);
    cJSON_Delete(messages);
    cJSON_Delete(tools);
    cJSON_Delete(kwargs);
    template_free(&t);
    if (r < 0)
        return NULL;
    out = got;
    return out.text;
}

const char *rendered_marks(void)
{
    free(marks);
    marks = calloc(1, out.n_bytes + 1);
    for (size_t i = 0; marks && i < out.n_bytes; i++)
        marks[i] = out.literal[i] ? '1' : '0';
    return marks;
}
