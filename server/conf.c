/* server/conf.c - see config.h. The table of conf.def, and everything that walks it. */
#include "config.h"

#include "server/conf.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"

#define MAX_LINE 8192
#define MAX_LINES 10000

enum type { GROUP_ROW, TEXT_ROW, SECRET_ROW, BOOL_ROW, CHOICE_ROW, INT_ROW, SIZE_ROW, TIME_ROW };

struct key {
    enum type type;
    const char *name, *def, *choices, *help;
    size_t offset;
    long long min, max;
};

static const struct key keys[] = {
#define AT(key) offsetof(struct server_config, key)
#define GROUP(title) {GROUP_ROW, title, NULL, NULL, NULL, 0, 0, 0},
#define SECRET(key, help) {SECRET_ROW, #key, "", NULL, help, AT(key), 0, 0},
#define TEXT(key, def, help) {TEXT_ROW, #key, def, NULL, help, AT(key), 0, 0},
#define BOOL(key, def, help) {BOOL_ROW, #key, def, NULL, help, AT(key), 0, 0},
#define CHOICE(key, def, choices, help) {CHOICE_ROW, #key, def, choices, help, AT(key), 0, 0},
#define INT(key, def, min, max, help) {INT_ROW, #key, def, NULL, help, AT(key), min, max},
#define SIZE(key, def, min, max, help) {SIZE_ROW, #key, def, NULL, help, AT(key), min, max},
#define TIME(key, def, min, max, help) {TIME_ROW, #key, def, NULL, help, AT(key), min, max},
#include "server/conf.def"
#undef GROUP
#undef TEXT
#undef SECRET
#undef BOOL
#undef CHOICE
#undef INT
#undef SIZE
#undef TIME
};
#define N_KEYS (sizeof(keys) / sizeof(*keys))

static char **text_at(const struct server_config *c, const struct key *k)
{
    return (char **)(void *)((char *)(uintptr_t)c + k->offset);
}

static bool is_text(const struct key *k)
{
    return k->type == TEXT_ROW || k->type == CHOICE_ROW || k->type == SECRET_ROW;
}

static long long *number_at(const struct server_config *c, const struct key *k)
{
    return (long long *)(void *)((char *)(uintptr_t)c + k->offset);
}

static bool *flag_at(const struct server_config *c, const struct key *k)
{
    return (bool *)(void *)((char *)(uintptr_t)c + k->offset);
}

/* --- values --------------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    long long factor;
};

static const struct unit sizes[] = {
    {"T", 1ll << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"", 1},
};
static const struct unit times[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

static const struct unit *units_of(const struct key *k, int *ret_n)
{
    *ret_n = k->type == SIZE_ROW ? 5 : k->type == TIME_ROW ? 4 : 0;
    return k->type == SIZE_ROW ? sizes : times;
}

/* 1048576 as "1M". */
static void show_number(const struct key *k, long long v, char *dst, size_t n)
{
    int n_units;
    const struct unit *u = units_of(k, &n_units);
    if (!strcmp(k->name, "socket_mode")) {
        snprintf(dst, n, "0%llo", v);
        return;
    }
    for (int i = 0; i < n_units && v != 0; i++)
        if (v % u[i].factor == 0) {
            snprintf(dst, n, "%lld%s", v / u[i].factor, u[i].name);
            return;
        }
    snprintf(dst, n, "%lld", v);
}

static int out_of_range(const struct key *k, const char *value, struct err *e)
{
    char min[40], max[40];
    show_number(k, k->min, min, sizeof(min));
    show_number(k, k->max, max, sizeof(max));
    return err_set_param(e, ERR_INVAL, k->name, "%s = \"%.60s\" is not %s from %s to %s", k->name, value,
                         k->type == SIZE_ROW   ? "a size"
                         : k->type == TIME_ROW ? "a time (500ms, 10s, 2m)"
                                               : "a whole number",
                         min, max);
}

static int set_number(struct server_config *c, const struct key *k, const char *value, struct err *e)
{
    char *end = NULL;
    int n_units;
    const struct unit *u = units_of(k, &n_units);
    errno = 0;
    long long v = strtoll(value, &end, strcmp(k->name, "socket_mode") ? 10 : 8), factor = n_units ? 0 : 1;
    for (int i = 0; i < n_units; i++)
        if (!strcasecmp(end, u[i].name) || (k->type == SIZE_ROW && *end && u[i].name[0] &&
                                            toupper((unsigned char)*end) == u[i].name[0] &&
                                            (!strcasecmp(end + 1, "B") || !strcasecmp(end + 1, "iB"))))
            factor = u[i].factor;
    if (n_units && v == 0 && !*end)
        factor = 1;
    if (k->type == TIME_ROW && !*end)
        factor = 1000; /* seconds, where nothing is said */
    if (end == value || errno || factor == 0 || (!n_units && *end) || v < 0 || v > LLONG_MAX / factor ||
        v * factor < k->min || v * factor > k->max)
        return out_of_range(k, value, e);
    *number_at(c, k) = v * factor;
    return 0;
}

static int set_flag(struct server_config *c, const struct key *k, const char *value, struct err *e)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (int i = 0; i < 4; i++)
        if (!strcasecmp(value, yes[i]) || !strcasecmp(value, no[i])) {
            *flag_at(c, k) = !strcasecmp(value, yes[i]);
            return 0;
        }
    return err_set_param(e, ERR_INVAL, k->name, "%s = \"%.60s\" is not true or false", k->name, value);
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *s = choices; n && (s = strstr(s, value)); s += n)
        if ((s == choices || s[-1] == ' ') && (s[n] == ' ' || s[n] == 0))
            return true;
    return false;
}

static int set_text(struct server_config *c, const struct key *k, const char *value, struct err *e)
{
    if (k->type == CHOICE_ROW && !is_choice(k->choices, value))
        return err_set_param(e, ERR_INVAL, k->name, "%s = \"%.60s\" is not one of: %s", k->name, value,
                             k->choices);
    char *copy = strdup(value);
    if (!copy)
        return err_set(e, ERR_NOMEM, "out of memory");
    free(*text_at(c, k));
    *text_at(c, k) = copy;
    return 0;
}

/* --- keys ----------------------------------------------------------------------------------------- */

static int distance(const char *a, const char *b)
{
    int row[64], n = (int)strlen(b);
    if (n > 63)
        return 99;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; *a; a++, i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = corner + (*a != b[j - 1]);
            corner = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[n];
}

int config_set(struct server_config *c, const char *name, const char *value, struct err *e)
{
    const struct key *near = NULL;
    int least = 4;
    for (size_t i = 0; i < N_KEYS; i++) {
        const struct key *k = &keys[i];
        if (k->type == GROUP_ROW)
            continue;
        if (!strcmp(k->name, name))
            return k->type == BOOL_ROW ? set_flag(c, k, value, e)
                   : is_text(k)        ? set_text(c, k, value, e)
                                       : set_number(c, k, value, e);
        int d = distance(name, k->name);
        if (d < least) {
            least = d;
            near = k;
        }
    }
    return near ? err_set_param(e, ERR_NOTFOUND, name, "there is no key \"%.60s\"; is \"%s\" meant?", name,
                                near->name)
                : err_set_param(e, ERR_NOTFOUND, name, "there is no key \"%.60s\"", name);
}

int config_init(struct server_config *c)
{
    *c = (struct server_config){0};
    for (size_t i = 0; i < N_KEYS; i++)
        if (keys[i].type != GROUP_ROW && config_set(c, keys[i].name, keys[i].def, NULL) < 0) {
            config_done(c);
            return ERR_NOMEM;
        }
    return 0;
}

void config_done(struct server_config *c)
{
    for (size_t i = 0; i < N_KEYS; i++)
        if (is_text(&keys[i])) {
            free(*text_at(c, &keys[i]));
            *text_at(c, &keys[i]) = NULL;
        }
}

/* --- sources -------------------------------------------------------------------------------------- */

static char *trim(char *s)
{
    char *end = s + strlen(s);
    while (isspace((unsigned char)*s))
        s++;
    while (end > s && isspace((unsigned char)end[-1]))
        *--end = 0;
    return s;
}

/* The value of a line: quoted, or up to a comment. */
static int take_value(char *s, char **ret)
{
    char *d;
    s = trim(s);
    if (*s != '"') {
        for (d = s; *d; d++)
            if (*d == '#' && (d == s || isspace((unsigned char)d[-1]))) {
                *d = 0;
                break;
            }
        *ret = trim(s);
        return 0;
    }
    for (*ret = d = ++s; *s && *s != '"'; s++) {
        if (*s == '\\' && (s[1] == '"' || s[1] == '\\'))
            s++;
        *d++ = *s;
    }
    if (*s != '"')
        return ERR_FORMAT;
    s = trim(s + 1);
    *d = 0;
    return *s == 0 || *s == '#' ? 0 : ERR_FORMAT;
}

/* The last of several lines about a key holds. Somebody may have meant all of them, or not seen the first. */
static void tell_again(const char *name, const char *path, int line, int lines_of[N_KEYS])
{
    for (size_t i = 0; i < N_KEYS; i++)
        if (keys[i].type != GROUP_ROW && !strcmp(keys[i].name, name)) {
            if (lines_of[i])
                LOG_WARN("config", "%.200s, line %d: %s is in line %d already; the last one holds", path,
                         line, name, lines_of[i]);
            lines_of[i] = line;
        }
}

static int read_line(struct server_config *c, char *line, const char **ret_name, struct err *e)
{
    char *equals, *value, *name = trim(line);
    if (*name == 0 || *name == '#')
        return 0;
    equals = strchr(name, '=');
    if (!equals)
        return err_set(e, ERR_FORMAT, "\"%.60s\" is not `key = value`", name);
    *equals = 0;
    if (take_value(equals + 1, &value) < 0)
        return err_set(e, ERR_FORMAT, "a quoted value does not end");
    *ret_name = trim(name);
    return config_set(c, *ret_name, value, e);
}

int config_read_file(struct server_config *c, const char *path, struct err *e)
{
    char line[MAX_LINE];
    static const char mark[] = "\xef\xbb\xbf"; /* of UTF-8: some editors put it at the beginning */
    struct err inner = {0};
    int n = 0, r = 0, lines_of[N_KEYS] = {0};
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(e, ERR_IO, "%.200s: %s", path, strerror(errno));
    while (r == 0 && fgets(line, sizeof(line), f)) {
        const char *name = "";
        if (++n > MAX_LINES || (!strchr(line, '\n') && !feof(f)))
            r = err_set(&inner, ERR_LIMIT, "a file has at most %d lines of %d bytes", MAX_LINES, MAX_LINE);
        else
            r = read_line(c, line + (n == 1 && !strncmp(line, mark, 3) ? 3 : 0), &name, &inner);
        if (r == 0)
            tell_again(name, path, n, lines_of);
    }
    if (r == 0 && ferror(f)) {
        r = err_set(e, ERR_IO, "%.200s: %s", path, strerror(errno)); /* a folder, for one */
        fclose(f);
        return r;
    }
    fclose(f);
    return r == 0 ? 0 : err_set_param(e, r, inner.param, "%.120s, line %d: %s", path, n, inner.text);
}

/* What stands behind the first `word` that begins the name or one of its parts; or NULL. */
static const char *behind(const char *name, const char *word)
{
    const char *s = strstr(name, word);
    while (s && s != name && s[-1] != '_')
        s = strstr(s + 1, word);
    return s ? s + strlen(word) : NULL;
}

/* What Kubernetes and Docker tell every container of a service or link of our name (LATENTD_SERVICE_HOST,
 * LATENTD_PORT=tcp://..., LATENTD_PORT_8080_TCP_ADDR), or of one whose name begins so (latentd-b:
 * LATENTD_B_SERVICE_HOST): nobody has set it, and no key is called so. */
static bool is_service_link(const char *name, const char *value)
{
    const char *port = behind(name, "port");
    return behind(name, "service_host") || behind(name, "service_port") ||
           (port && *port == 0 && strstr(value, "://")) ||
           (port && *port == '_' && isdigit((unsigned char)port[1]));
}

int config_read_env(struct server_config *c, char *const *list, struct err *e)
{
    struct err inner = {0};
    for (; list && *list; list++) {
        char name[256]; /* a service's own may have 63 */
        size_t n = 0;
        if (strncmp(*list, "LATENTD_", 8) != 0)
            continue;
        for (const char *s = *list + 8; *s && *s != '=' && n + 1 < sizeof(name); s++)
            name[n++] = (char)tolower((unsigned char)*s);
        name[n] = 0;
        const char *value = strchr(*list, '=');
        if (value && is_service_link(name, value + 1))
            continue;
        int r = config_set(c, name, value ? value + 1 : "", &inner);
        if (r < 0)
            return err_set_param(e, r, inner.param, "environment, %.60s: %s", *list, inner.text);
    }
    return 0;
}

/* As browsers send them: anything else would never match, and nobody would be told. */
static int check_origins(const char *list, struct err *e)
{
    static const char separators[] = ", \t";
    for (list += strspn(list, separators); *list; list += strspn(list, separators)) {
        char word[256];
        size_t n = strcspn(list, separators);
        snprintf(word, sizeof(word), "%.*s", (int)(n < sizeof(word) ? n : sizeof(word) - 1), list);
        const char *host = strstr(word, "://");
        bool ok = host && host != word && host[3] && !strchr(host + 3, '/');
        if (!ok && strcmp(word, "*") != 0 && strcmp(word, "null") != 0)
            return err_set_param(e, ERR_INVAL, "cors_origins",
                                 "cors_origins: \"%.100s\" is not SCHEME://HOST or SCHEME://HOST:PORT", word);
        list += n;
    }
    return 0;
}

int config_check(const struct server_config *c, struct err *e)
{
    if (c->write_low >= c->write_high)
        return err_set_param(e, ERR_INVAL, "write_low", "write_low must be below write_high");
    if (c->page_tokens & (c->page_tokens - 1))
        return err_set_param(e, ERR_INVAL, "page_tokens", "page_tokens must be a power of two");
    if (c->mla_block & (c->mla_block - 1))
        return err_set_param(e, ERR_INVAL, "mla_block", "mla_block must be a power of two");
    if (*c->cache_disk_path && !c->prefix_cache)
        return err_set_param(e, ERR_INVAL, "cache_disk_path", "cache_disk_path needs prefix_cache = true");
    if (*c->cache_pin_files && (!c->cache_pinned || !c->prefix_cache))
        return err_set_param(e, ERR_INVAL, "cache_pin_files",
                             "cache_pin_files needs %s", c->prefix_cache ? "cache_pinned above 0"
                                                                         : "prefix_cache = true");
    if (c->max_num_batched_tokens < c->max_num_seqs)
        return err_set_param(e, ERR_INVAL, "max_num_batched_tokens",
                             "max_num_batched_tokens must be at least max_num_seqs (%lld)",
                             c->max_num_seqs);
    if (c->max_body_memory < c->max_body_size)
        return err_set_param(e, ERR_INVAL, "max_body_memory",
                             "max_body_memory must be at least max_body_size");
    if (!*c->listen)
        return err_set_param(e, ERR_INVAL, "listen", "listen names no address");
    return check_origins(c->cors_origins, e);
}

int config_path(const char *name, const char *key, char *dst, size_t n, struct err *e)
{
    static const char scheme[] = "credential:";
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    bool credential = !strncmp(name, scheme, sizeof(scheme) - 1);
    const char *file = credential ? name + sizeof(scheme) - 1 : name;
    if (credential && (!folder || !*folder))
        return err_set_param(e, ERR_NOTFOUND, key,
                             "%s = %.100s: there are no credentials (LoadCredential= in the unit)", key,
                             name);
    if (credential && (!*file || strchr(file, '/')))
        return err_set_param(e, ERR_INVAL, key, "%s = %.100s: a credential's name has no slash", key, name);
    int len = credential ? snprintf(dst, n, "%s/%s", folder, file) : snprintf(dst, n, "%s", file);
    return len < (int)n ? 0 : err_set_param(e, ERR_LIMIT, key, "%s: the path is too long", key);
}

/* Is the same said about key i? */
static bool same(const struct server_config *a, const struct server_config *b, const struct key *k)
{
    return is_text(k)            ? !strcmp(*text_at(a, k), *text_at(b, k))
           : k->type == BOOL_ROW ? *flag_at(a, k) == *flag_at(b, k)
                                 : *number_at(a, k) == *number_at(b, k);
}

void config_take(struct server_config *to, struct server_config *from, bool (*may)(const char *key),
                 void (*told)(void *arg, const char *key, bool taken), void *arg)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        const struct key *k = &keys[i];
        if (k->type == GROUP_ROW || same(to, from, k))
            continue;
        bool take = may(k->name);
        if (take && is_text(k)) {
            char *old = *text_at(to, k);
            *text_at(to, k) = *text_at(from, k);
            *text_at(from, k) = old;
        } else if (take && k->type == BOOL_ROW) {
            *flag_at(to, k) = *flag_at(from, k);
        } else if (take) {
            *number_at(to, k) = *number_at(from, k);
        }
        told(arg, k->name, take);
    }
}

/* --- printing ------------------------------------------------------------------------------------- */

static void show(const struct server_config *c, const struct key *k, char *dst, size_t n)
{
    switch (k->type) {
    case BOOL_ROW:
        snprintf(dst, n, "%s", *flag_at(c, k) ? "true" : "false");
        break;
    case SECRET_ROW:
        snprintf(dst, n, "%s", **text_at(c, k) ? "********" : "\"\"");
        break;
    case TEXT_ROW:
    case CHOICE_ROW: {
        const char *s = *text_at(c, k);
        bool quote = !*s || strpbrk(s, "#\"\\") || isspace((unsigned char)*s);
        size_t at = 0;
        for (at = (size_t)snprintf(dst, n, "%s", quote ? "\"" : ""); *s && at + 3 < n; s++) {
            if (quote && (*s == '"' || *s == '\\'))
                dst[at++] = '\\';
            dst[at++] = *s;
        }
        snprintf(dst + at, n - at, "%s", quote ? "\"" : "");
        break;
    }
    default:
        show_number(k, *number_at(c, k), dst, n);
    }
}

void config_print(const struct server_config *c, bool with_help, FILE *f)
{
    char text[MAX_LINE], min[40], max[40];
    for (size_t i = 0; i < N_KEYS; i++) {
        const struct key *k = &keys[i];
        if (k->type == GROUP_ROW) {
            if (with_help)
                fprintf(f, "%s# --- %s ---\n", i ? "\n" : "", k->name);
            continue;
        }
        show(c, k, text, sizeof(text));
        if (with_help) {
            fprintf(f, "\n# %s.", k->help);
            if (k->type == CHOICE_ROW)
                fprintf(f, " One of: %s.", k->choices);
            if (k->type == INT_ROW || k->type == SIZE_ROW || k->type == TIME_ROW) {
                show_number(k, k->min, min, sizeof(min));
                show_number(k, k->max, max, sizeof(max));
                fprintf(f, " From %s to %s.", min, max);
            }
            fprintf(f, "\n#");
        }
        fprintf(f, "%s = %s\n", k->name, text);
    }
}
