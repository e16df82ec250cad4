/* api/store_db.c - see store_db.h. */
#include "config.h"

#include "api/store_db.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA 1 /* user_version of files that we can read */
#define BUSY_MS 5000 /* that another process may hold the file */

enum { SQL_PUT, SQL_GET, SQL_OTHER, SQL_OWN, SQL_OLDEST, SQL_DROP, SQL_USE, N_SQL };

static const char *const sql[N_SQL] = {
    [SQL_PUT] =
        "INSERT OR REPLACE INTO responses (id, client, body, items, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
    [SQL_GET] = "SELECT body, items FROM responses WHERE id = ?1 AND client = ?2",
    [SQL_OTHER] = "SELECT n, bytes FROM responses WHERE id = ?1 AND client != ?2",
    [SQL_OWN] = "SELECT n, bytes FROM responses WHERE id = ?1 AND client = ?2",
    [SQL_OLDEST] = "SELECT n, bytes FROM responses ORDER BY n LIMIT 1",
    [SQL_DROP] = "DELETE FROM responses WHERE n = ?1",
    [SQL_USE] = "SELECT count(*), coalesce(sum(bytes), 0) FROM responses", /* reads all of it */
};

struct store_db {
    sqlite3 *db;
    sqlite3_stmt *stmt[N_SQL];
    int max_entries;
    uint64_t max_bytes;
    int64_t n, n_bytes; /* what is in it */
};

/* What is there at the start; from then on it is counted as it comes and goes. */
static int count(struct store_db *d)
{
    int r = sqlite3_step(d->stmt[SQL_USE]) == SQLITE_ROW ? 0 : ERR_IO;
    if (r == 0) {
        d->n = sqlite3_column_int64(d->stmt[SQL_USE], 0);
        d->n_bytes = sqlite3_column_int64(d->stmt[SQL_USE], 1);
    }
    sqlite3_reset(d->stmt[SQL_USE]);
    return r;
}

static int prepare(struct store_db *d)
{
    static const char setup[] =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA auto_vacuum = INCREMENTAL;"
        "CREATE TABLE IF NOT EXISTS responses (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL,"
        " client INTEGER NOT NULL, body TEXT NOT NULL, items TEXT NOT NULL, bytes INTEGER NOT NULL);"
        "PRAGMA user_version = 1;";
    sqlite3_stmt *version = NULL;
    int at = 0;
    if (sqlite3_prepare_v2(d->db, "PRAGMA user_version", -1, &version, NULL) == SQLITE_OK &&
        sqlite3_step(version) == SQLITE_ROW)
        at = sqlite3_column_int(version, 0);
    sqlite3_finalize(version);
    if (at != 0 && at != SCHEMA)
        return ERR_FORMAT;
    if (sqlite3_exec(d->db, setup, NULL, NULL, NULL) != SQLITE_OK)
        return ERR_IO;
    for (int i = 0; i < N_SQL; i++)
        if (sqlite3_prepare_v3(d->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &d->stmt[i], NULL) != SQLITE_OK)
            return ERR_IO;
    return count(d);
}

int store_db_open(const char *path, int max_entries, uint64_t max_bytes, struct store_db **ret, struct err *e)
{
    struct store_db *d = calloc(1, sizeof(*d));
    const char *file = path && *path ? path : ":memory:";
    if (!d)
        return err_set(e, ERR_NOMEM, "out of memory");
    d->max_entries = max_entries;
    d->max_bytes = max_bytes;
    int r = sqlite3_open_v2(file, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) == SQLITE_OK &&
                    sqlite3_busy_timeout(d->db, BUSY_MS) == SQLITE_OK
                ? prepare(d)
                : ERR_IO;
    if (r < 0) {
        err_set(e, r, "response_store_path: %s: %s", file,
                r == ERR_FORMAT ? "written by another version" : sqlite3_errmsg(d->db));
        store_db_close(&d);
        return r;
    }
    *ret = d;
    return 0;
}

void store_db_close(struct store_db **dp)
{
    struct store_db *d = *dp;
    *dp = NULL;
    if (!d)
        return;
    for (int i = 0; i < N_SQL; i++)
        sqlite3_finalize(d->stmt[i]);
    sqlite3_close(d->db);
    free(d);
}

/* Runs a statement that gives no rows. */
static int run(struct store_db *d, int which)
{
    int r = sqlite3_step(d->stmt[which]);
    sqlite3_reset(d->stmt[which]);
    sqlite3_clear_bindings(d->stmt[which]);
    return r == SQLITE_DONE ? 0 : r == SQLITE_NOMEM ? ERR_NOMEM : ERR_IO;
}

/* The texts bound are the caller's: they outlive the step. */
static void bind(struct store_db *d, int which, const char *id, uint64_t client)
{
    sqlite3_bind_text(d->stmt[which], 1, id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(d->stmt[which], 2, (sqlite3_int64)client);
}

struct row {
    int64_t n, bytes;
};

/* The row of a statement whose texts are bound. ERR_NOTFOUND: none. */
static int find(struct store_db *d, int which, struct row *ret)
{
    sqlite3_stmt *q = d->stmt[which];
    int step = sqlite3_step(q);
    if (step == SQLITE_ROW)
        *ret = (struct row){sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 1)};
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return step == SQLITE_ROW     ? 0
           : step == SQLITE_DONE  ? ERR_NOTFOUND
           : step == SQLITE_NOMEM ? ERR_NOMEM
                                  : ERR_IO;
}

static int drop(struct store_db *d, int which)
{
    struct row row;
    int r = find(d, which, &row);
    if (r < 0)
        return r;
    sqlite3_bind_int64(d->stmt[SQL_DROP], 1, row.n);
    r = run(d, SQL_DROP);
    if (r == 0) {
        d->n--;
        d->n_bytes -= row.bytes;
    }
    return r;
}

int store_db_put(struct store_db *d, const char *id, uint64_t client, const char *body, const char *items)
{
    uint64_t bytes = strlen(body) + strlen(items) + strlen(id) + 64;
    if (bytes > d->max_bytes || d->max_entries < 1)
        return 0;
    struct row old = {0, 0};
    bind(d, SQL_OTHER, id, client); /* clients may choose ids: one that another has, or one twice */
    int other = find(d, SQL_OTHER, &old);
    if (other != ERR_NOTFOUND)
        return other == 0 ? ERR_DENIED : other;
    bind(d, SQL_OWN, id, client);
    int same = find(d, SQL_OWN, &old);
    if (same < 0 && same != ERR_NOTFOUND)
        return same;
    bind(d, SQL_PUT, id, client);
    sqlite3_bind_text(d->stmt[SQL_PUT], 3, body, -1, SQLITE_STATIC);
    sqlite3_bind_text(d->stmt[SQL_PUT], 4, items, -1, SQLITE_STATIC);
    sqlite3_bind_int64(d->stmt[SQL_PUT], 5, (sqlite3_int64)bytes);
    int r = run(d, SQL_PUT);
    if (r == 0) {
        d->n += same == ERR_NOTFOUND;
        d->n_bytes += (int64_t)bytes - old.bytes;
    }
    while (r == 0 && d->n > 1 && (d->n > d->max_entries || d->n_bytes > (int64_t)d->max_bytes))
        r = drop(d, SQL_OLDEST);
    return r == ERR_NOTFOUND ? count(d) : r; /* somebody else has changed the file */
}

int store_db_get(struct store_db *d, const char *id, uint64_t client, char **ret_body, char **ret_items)
{
    sqlite3_stmt *q = d->stmt[SQL_GET];
    int r = ERR_NOTFOUND;
    bind(d, SQL_GET, id, client);
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

int store_db_delete(struct store_db *d, const char *id, uint64_t client)
{
    bind(d, SQL_OWN, id, client);
    return drop(d, SQL_OWN);
}

const char *store_db_trouble(const struct store_db *d)
{
    return sqlite3_errmsg(d->db);
}

void store_db_use(const struct store_db *d, int64_t *ret_entries, int64_t *ret_bytes)
{
    *ret_entries = d->n;
    *ret_bytes = d->n_bytes;
}
