/* api/grant.c - names of models, and what the key of a request may ask for.
 *
 * Which key that is the server knows; here it is a priority and a list of models. */
#include "config.h"

#include <string.h>

#include "api/internal.h"

bool name_in_list(const char *list, const char *name)
{
    static const char separators[] = ", \t";
    size_t n = strlen(name);
    while (list && *list) {
        size_t word = strcspn(list, separators);
        if (word == n && !memcmp(list, name, n) && n > 0)
            return true;
        list += word;
        list += strspn(list, separators);
    }
    return false;
}

const char *api_model_name(const struct api *a)
{
    return a->cfg.model_id ? a->cfg.model_id : engine_info(a->cfg.engine)->model_id;
}

int check_model(const struct api *a, const struct params *p, struct err *e)
{
    const char *name = api_model_name(a);
    size_t n = strlen(name);
    if (!p->model || !*p->model || !strcmp(p->model, name) || name_in_list(a->cfg.model_aliases, p->model) ||
        (!strncmp(p->model, name, n) && !strcmp(p->model + n, ":latest"))) /* as Ollama's clients write it */
        return 0;
    return err_set_param(e, ERR_NOTFOUND, "model", "the model \"%.100s\" does not exist; \"%s\" is served",
                         p->model, name);
}

bool grant_has_model(const struct api_grant *g, const char *name)
{
    return !g || !g->models || name_in_list(g->models, name);
}

int apply_grant(const struct api *a, const struct api_grant *g, struct params *p, struct err *e)
{
    bool alias = p->model && name_in_list(a->cfg.model_aliases, p->model);
    const char *model = alias ? p->model : api_model_name(a);
    if (p->priority == PRIORITY_NOT_SAID)
        p->priority = g ? g->priority : 0;
    if (!grant_has_model(g, model))
        return err_set_param(e, ERR_DENIED, "model", "this key may not use the model \"%.100s\"", model);
    if (g && p->priority < g->best_priority)
        return err_set_param(e, ERR_DENIED, "priority",
                             "this key may ask for a priority of %d or more, not %d", g->best_priority,
                             p->priority);
    return 0;
}
