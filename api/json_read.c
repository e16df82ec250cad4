/* api/json_read.c - see json_read.h. */
#include "config.h"

#include "api/json_read.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/utf8.h"

/* One pass over the text before any memory is spent on it: how many values at most, and is there an
 * escaped NUL, which cJSON's strings cannot hold? */
static size_t survey(const char *s, size_t n, bool *ret_nul)
{
    size_t items = 1;
    bool in_string = false;
    *ret_nul = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string && s[i] == '\\') {
            *ret_nul |= n - i > 5 && !memcmp(s + i + 1, "u0000", 5);
            i++;
        } else if (s[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && (s[i] == ',' || s[i] == '[' || s[i] == '{')) {
            items++;
        }
    }
    return items;
}

static bool only_space(const char *s, const char *end)
{
    while (s < end && (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r'))
        s++;
    return s == end;
}

int json_read_as(const char *what, const char *text, size_t n_bytes, cJSON **ret, struct err *e)
{
    const char *end = NULL;
    bool nul;
    if (n_bytes == 0)
        return err_set(e, ERR_INVAL, "%s is empty; a JSON object is expected", what);
    if (!utf8_valid(text, n_bytes))
        return err_set(e, ERR_INVAL, "%s is not valid UTF-8", what);
    if (survey(text, n_bytes, &nul) > JSON_MAX_ITEMS)
        return err_set(e, ERR_LIMIT, "%s holds more than %u values", what, JSON_MAX_ITEMS);
    if (nul || memchr(text, 0, n_bytes))
        return err_set(e, ERR_INVAL, "%s has a NUL character, which is not accepted", what);
    errno = 0; /* the parser does not tell a mistake from a lack of memory; malloc does */
    cJSON *o = cJSON_ParseWithLengthOpts(text, n_bytes, &end, 0);
    if (!o && errno == ENOMEM)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (!o) {
        size_t at = end && end >= text && end <= text + n_bytes ? (size_t)(end - text) : 0;
        return err_set(e, ERR_INVAL, "%s is not valid JSON at byte %zu", what, at);
    }
    if (!cJSON_IsObject(o) || !only_space(end, text + n_bytes)) {
        bool object = cJSON_IsObject(o);
        cJSON_Delete(o);
        return err_set(e, ERR_INVAL, object ? "%s has text after its JSON object" : "%s is not a JSON object",
                       what);
    }
    *ret = o;
    return 0;
}

int json_read(const char *text, size_t n_bytes, cJSON **ret, struct err *e)
{
    return json_read_as("the body", text, n_bytes, ret, e);
}

const cJSON *json_get(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNull(v) ? NULL : v;
}

const char *json_text(const cJSON *o, const char *name)
{
    return cJSON_GetStringValue(json_get(o, name));
}
