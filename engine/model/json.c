/* engine/model/json.c - see json.h. */
#include "config.h"

#include "engine/model/json.h"

#include <errno.h>
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <string.h>

/* An upper bound of the values in the text: each one but the first follows '[', '{', ',' or ':'. */
static size_t count_items(const char *text, size_t n_bytes)
{
    size_t n = 1;
    bool in_string = false;
    for (size_t i = 0; i < n_bytes; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == ',' || text[i] == '[' || text[i] == '{') {
            n++;
        }
    }
    return n;
}

static bool only_space(const char *s, const char *end)
{
    for (; s < end; s++)
        if (*s != ' ' && *s != '\t' && *s != '\n' && *s != '\r')
            return false;
    return true;
}

int json__parse(const char *text, size_t n_bytes, size_t max_items, const char *what,
                struct cJSON **ret, struct err *e)
{
    const char *end = NULL;
    size_t n_items = count_items(text, n_bytes);
    if (n_items > max_items)
        return err_set(e, ERR_LIMIT, "%s: about %zu values; at most %zu are accepted", what, n_items,
                       max_items);
    errno = 0; /* the parser does not tell a mistake from a lack of memory; malloc does */
    cJSON *o = n_bytes ? cJSON_ParseWithLengthOpts(text, n_bytes, &end, 0) : NULL;
    if (!o && errno == ENOMEM)
        return err_set(e, ERR_NOMEM, "%s: out of memory", what);
    if (!o) {
        size_t at = end && end >= text && end <= text + n_bytes ? (size_t)(end - text) : 0;
        return err_set(e, ERR_FORMAT, "%s is not JSON at byte %zu", what, at);
    }
    if (!cJSON_IsObject(o) || !only_space(end, text + n_bytes)) {
        bool object = cJSON_IsObject(o);
        cJSON_Delete(o);
        return err_set(e, ERR_FORMAT, object ? "%s: text after the object" : "%s is not an object",
                       what);
    }
    *ret = o;
    return 0;
}

int json__get(const struct cJSON *o, const char *key, const struct cJSON **ret)
{
    const cJSON *found = NULL, *at = NULL;
    if (cJSON_IsObject(o)) {
        cJSON_ArrayForEach(at, o)
        {
            if (!at->string || strcmp(at->string, key))
                continue;
            if (found)
                return ERR_FORMAT;
            found = at;
        }
    }
    *ret = found;
    return 0;
}
