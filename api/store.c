/* api/store.c - see store.h. */
#include "config.h"

#include "api/store.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA 1 /* user_version of files that we can read */

enum { SQL_PUT, SQL_GET, SQL_DELETE, SQL_USE, SQL_OLDEST, N_SQL };

static const char *const sql[N_SQL] = {
    [SQL_PUT] =
        "INSERT OR REPLACE INTO responses (id, client, body, items, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
    [SQL_GET] = "SELECT body, items FROM responses WHERE id = ?1 AND client = ?2",
    [SQL_DELETE] = "DELETE FROM responses WHERE id = ?1 AND client = ?2",
    [SQL_USE] = "SELECT count(*), coalesce(sum(bytes), 0) FROM responses",
    [SQL_OLDEST] = "DELETE FROM responses WHERE n = (SELECT min(n) FROM responses)",
};

struct store {
    sqlite3 *db;
    sqlite3_stmt *stmt[N_SQL];
    int max_entries;
    uint64_t max_bytes;
    int64_t n, n_bytes; /* what is in it */
};

static int count(struct store *s)
{
    int r = sqlite3_step(s->stmt[SQL_USE]) == SQLITE_ROW ? 0 : ERR_IO;
    if (r == 0) {
        s->n = sqlite3_column_int64(s->stmt[SQL_USE], 0);
        s->n_bytes = sqlite3_column_int64(s->stmt[SQL_USE], 1);
    }
    sqlite3_reset(s->stmt[SQL_USE]);
    return r;
}

static int prepare(struct store *s)
{
    static const char setup[] =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA auto_vacuum = INCREMENTAL;"
        "CREATE TABLE IF NOT EXISTS responses (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL,"
        " client INTEGER NOT NULL, body TEXT NOT NULL, items TEXT NOT NULL, bytes INTEGER NOT NULL);"
        "PRAGMA user_version = 1;";
    sqlite3_stmt *version = NULL;
    int at = 0;
    if (sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &version, NULL) == SQLITE_OK &&
        sqlite3_step(version) == SQLITE_ROW)
        at = sqlite3_column_int(version, 0);
    sqlite3_finalize(version);
    if (at != 0 && at != SCHEMA)
        return ERR_FORMAT;
    if (sqlite3_exec(s->db, setup, NULL, NULL, NULL) != SQLITE_OK)
        return ERR_IO;
    for (int i = 0; i < N_SQL; i++)
        if (sqlite3_prepare_v3(s->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->stmt[i], NULL) != SQLITE_OK)
            return ERR_IO;
    return count(s);
}

int store_open(const char *path, int max_entries, uint64_t max_bytes, struct store **ret, struct err *e)
{
    struct store *s = calloc(1, sizeof(*s));
    const char *file = path && *path ? path : ":memory:";
    if (!s)
        return err_set(e, ERR_NOMEM, "out of memory");
    s->max_entries = max_entries;
    s->max_bytes = max_bytes;
    int r = sqlite3_open_v2(file, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) == SQLITE_OK
                ? prepare(s)
                : ERR_IO;
    if (r < 0) {
        err_set(e, r, "response_store_path: %s: %s", file,
                r == ERR_FORMAT ? "written by another version" : sqlite3_errmsg(s->db));
        store_close(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void store_close(struct store **sp)
{
    struct store *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    for (int i = 0; i < N_SQL; i++)
        sqlite3_finalize(s->stmt[i]);
    sqlite3_close(s->db);
    free(s);
}

/* Runs a statement that gives no rows. */
static int run(struct store *s, int which)
{
    int r = sqlite3_step(s->stmt[which]);
    sqlite3_reset(s->stmt[which]);
    sqlite3_clear_bindings(s->stmt[which]);
    return r == SQLITE_DONE ? 0 : r == SQLITE_NOMEM ? ERR_NOMEM : ERR_IO;
}

static void bind(struct store *s, int which, const char *id, uint64_t client)
{
    sqlite3_bind_text(s->stmt[which], 1, id, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(s->stmt[which], 2, (sqlite3_int64)client);
}

int store_put(struct store *s, const char *id, uint64_t client, const char *body, const char *items)
{
    uint64_t bytes = strlen(body) + strlen(items) + strlen(id) + 64;
    if (bytes > s->max_bytes || s->max_entries < 1)
        return 0;
    bind(s, SQL_PUT, id, client);
    sqlite3_bind_text(s->stmt[SQL_PUT], 3, body, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(s->stmt[SQL_PUT], 4, items, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int64(s->stmt[SQL_PUT], 5, (sqlite3_int64)bytes);
    int r = run(s, SQL_PUT);
    s->n++;
    s->n_bytes += (int64_t)bytes;
    while (r == 0 && s->n > 1 && (s->n > s->max_entries || s->n_bytes > (int64_t)s->max_bytes)) {
        r = run(s, SQL_OLDEST);
        if (r == 0)
            r = count(s);
    }
    return r;
}

int store_get(struct store *s, const char *id, uint64_t client, char **ret_body, char **ret_items)
{
    sqlite3_stmt *q = s->stmt[SQL_GET];
    int r = ERR_NOTFOUND;
    bind(s, SQL_GET, id, client);
    int step = sqlite3_step(q);
    if (step == SQLITE_ROW) {
        const char *body = (const char *)sqlite3_column_text(q, 0),
                   *items = (const char *)sqlite3_column_text(q, 1);
        char *one = ret_body && body ? strdup(body) : NULL, *two = ret_items && items ? strdup(items) : NULL;
        r = (ret_body && !one) || (ret_items && !two) ? ERR_NOMEM : 0;
        if (r < 0) {
            free(one);
            free(two);
        } else {
            if (ret_body)
                *ret_body = one;
            if (ret_items)
                *ret_items = two;
        }
    } else if (step != SQLITE_DONE) {
        r = ERR_IO;
    }
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return r;
}

int store_delete(struct store *s, const char *id, uint64_t client)
{
    bind(s, SQL_DELETE, id, client);
    int r = run(s, SQL_DELETE);
    if (r == 0 && sqlite3_changes(s->db) == 0)
        return ERR_NOTFOUND;
    return r == 0 ? count(s) : r;
}
