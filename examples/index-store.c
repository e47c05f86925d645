/* The index in SQLite: which words are in which files.
 *
 * An index is made once and then only read. So it is written without journal and without syncing, in one
 * transaction, and into a file of another name: an interrupted run leaves the old index as it was. (A power
 * cut may cost the index; it can be made again.)
 *
 * The rows of one file would go all over the table of words, each to another page. So they are to come many
 * files at a time and sorted, which is worth twice the speed, and are inserted MANY by a statement, worth
 * some more.
 *
 * A store is used by one thread at a time, not always the same one: SQLite allows that, and who submits sees
 * to it.
 */
#define _GNU_SOURCE
#include "index.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  WRITE = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
  MANY = 16,
  STOP_STEPS = 100000 /* of SQLite's machine, some milliseconds: how often it asks whether to stop */
};

struct store {
  sqlite3 *db;
  sqlite3_stmt *add_file;
  sqlite3_stmt *add_one;
  sqlite3_stmt *add_many;
  char *path;
};

#define APPLICATION_ID "0x73686e74" /* "shnt": what tells an index from other SQLite files */

static const char SCHEMA[] =
    "PRAGMA page_size = 8192; PRAGMA cache_size = -131072;"
    "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;"
    "PRAGMA application_id = " APPLICATION_ID ";"
    "BEGIN;"
    "CREATE TABLE files(id INTEGER PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL,"
    "                   sha256 BLOB NOT NULL, words INTEGER);" /* words: NULL when binary */
    "CREATE TABLE words(word TEXT NOT NULL, file INTEGER NOT NULL, count INTEGER NOT NULL,"
    "                   PRIMARY KEY (word, file)) WITHOUT ROWID;";

#define ROW "(?, ?, ?)"
#define ROWS_4 ROW "," ROW "," ROW "," ROW
static const char ADD_FILE[] = "INSERT INTO files VALUES(?, ?, ?, ?, ?)";
static const char ADD_ONE[] = "INSERT INTO words VALUES" ROW;
static const char ADD_MANY[] = "INSERT INTO words VALUES" ROWS_4 "," ROWS_4 "," ROWS_4 "," ROWS_4;

static const char *words_for(int rc) {
  return rc == SQLITE_OK || rc == SQLITE_DONE ? NULL : sqlite3_errstr(rc);
}

static const char *run_sql(sqlite3 *db, const char *sql) {
  return words_for(sqlite3_exec(db, sql, NULL, NULL, NULL));
}

static const char *prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql) {
  return words_for(sqlite3_prepare_v2(db, sql, -1, out, NULL));
}

/* Runs a statement that has no rows to show. */
static const char *run_once(sqlite3_stmt *statement) {
  int rc = sqlite3_step(statement);
  sqlite3_reset(statement);
  return words_for(rc);
}

static int stop(void *unused) {
  (void)unused;
  return interrupted();
}

/* ---- writing ------------------------------------------------------------------------------------------- */

void store_close(struct store *store, bool keep) {
  sqlite3_finalize(store->add_file);
  sqlite3_finalize(store->add_one);
  sqlite3_finalize(store->add_many);
  sqlite3_close(store->db);
  if (!keep) unlink(store->path);
  free(store->path);
  free(store);
}

const char *store_create(struct store **out, const char *path) {
  const char *problem;
  struct store *store = *out = calloc(1, sizeof *store);
  if (store == NULL || (store->path = strdup(path)) == NULL) {
    free(store);
    return uv_strerror(UV_ENOMEM);
  }
  unlink(path);
  if ((problem = words_for(sqlite3_open_v2(path, &store->db, WRITE, NULL))) != NULL ||
      (problem = run_sql(store->db, SCHEMA)) != NULL ||
      (problem = prepare(&store->add_file, store->db, ADD_FILE)) != NULL ||
      (problem = prepare(&store->add_one, store->db, ADD_ONE)) != NULL ||
      (problem = prepare(&store->add_many, store->db, ADD_MANY)) != NULL) {
    store_close(store, false);
    return problem;
  }
  sqlite3_progress_handler(store->db, STOP_STEPS, stop, NULL);
  return NULL;
}

const char *store_add_file(struct store *store, uint32_t id, const char *path, const struct digest *digest) {
  sqlite3_stmt *s = store->add_file;
  sqlite3_bind_int64(s, 1, id);
  sqlite3_bind_text(s, 2, path, -1, SQLITE_STATIC);
  sqlite3_bind_int64(s, 3, (int64_t)digest->size);
  sqlite3_bind_blob(s, 4, digest->sha256, sizeof digest->sha256, SQLITE_STATIC);
  if (digest->binary) sqlite3_bind_null(s, 5);
  else sqlite3_bind_int64(s, 5, (int64_t)digest->words);
  return run_once(s);
}

const char *store_add_rows(struct store *store, const struct row *rows, size_t count) {
  const char *problem = NULL;
  for (const struct row *end = rows + count; rows < end && problem == NULL;) {
    int some = end - rows < MANY ? 1 : MANY;
    sqlite3_stmt *s = some == MANY ? store->add_many : store->add_one;
    for (int i = 0; i < some; i++, rows++) {
      sqlite3_bind_text(s, 3 * i + 1, rows->letters, (int)rows->length, SQLITE_STATIC);
      sqlite3_bind_int64(s, 3 * i + 2, rows->file);
      sqlite3_bind_int64(s, 3 * i + 3, rows->count);
    }
    problem = run_once(s);
  }
  return problem;
}

void *store_finish(void *store) { return (void *)run_sql(((struct store *)store)->db, "COMMIT"); }

const char *store_publish(const char *part, const char *path) {
  if (rename(part, path) == 0) return NULL;
  const char *problem = uv_strerror(-errno);
  unlink(part);
  return problem;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* The first column of the first row of sql. */
static const char *ask_number(int64_t *answer, sqlite3 *db, const char *sql) {
  sqlite3_stmt *s;
  const char *problem = prepare(&s, db, sql);
  int rc = problem == NULL ? sqlite3_step(s) : SQLITE_OK;
  *answer = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
  sqlite3_finalize(s);
  return problem != NULL || rc == SQLITE_ROW ? problem : words_for(rc);
}

static const char FOREIGN[] = "not an index made by this program";
static const char IS_OURS[] = "SELECT application_id = " APPLICATION_ID " FROM pragma_application_id";

/* Opens the index at path, if it is one. *db is to be closed in any case. */
static const char *open_index(sqlite3 **db, const char *path) {
  struct stat st;
  int64_t ours = 0;
  *db = NULL;
  if (stat(path, &st) != 0) return errno == ENOENT ? "no such index: make it first" : uv_strerror(-errno);
  if (!S_ISREG(st.st_mode)) return FOREIGN;
  int rc = sqlite3_open_v2(path, db, SQLITE_OPEN_READONLY, NULL);
  if (rc != SQLITE_OK) return sqlite3_errstr(rc);
  return ask_number(&ours, *db, IS_OURS) == NULL && ours != 0 ? NULL : FOREIGN;
}

const char *store_may_replace(const char *path) {
  sqlite3 *db;
  struct stat st;
  if (stat(path, &st) != 0) return errno == ENOENT ? NULL : uv_strerror(-errno);
  if (S_ISREG(st.st_mode) && st.st_size == 0) return NULL;
  const char *problem = open_index(&db, path);
  sqlite3_close(db);
  return problem;
}

static const char *print_matches(size_t *found, sqlite3_stmt *s) {
  int rc;
  while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
    printf("%8" PRId64 "  %s\n", (int64_t)sqlite3_column_int64(s, 0), sqlite3_column_text(s, 1));
    *found = (size_t)sqlite3_column_int64(s, 2);
  }
  return words_for(rc);
}

static const char FIND[] =
    "SELECT words.count, path, count(*) OVER () FROM words JOIN files ON id = file WHERE word = ?"
    " ORDER BY words.count DESC, path LIMIT ?";

const char *store_find(size_t *found, const char *path, const char *word, int limit) {
  sqlite3 *db;
  sqlite3_stmt *s = NULL;
  const char *problem = open_index(&db, path);
  *found = 0;
  if (problem == NULL) problem = prepare(&s, db, FIND);
  if (problem == NULL) {
    sqlite3_bind_text(s, 1, word, -1, SQLITE_STATIC);
    sqlite3_bind_int(s, 2, limit);
    problem = print_matches(found, s);
  }
  sqlite3_finalize(s);
  sqlite3_close(db);
  return problem;
}

/* Files are compared row by row. So are words, but there are millions of them, in the same order on both
 * sides: as many rows here as there, and each of them found there, is the same at a tenth of the cost. */
static const char SAME[] =
    "SELECT NOT EXISTS (SELECT * FROM main.files EXCEPT SELECT * FROM other.files)"
    "   AND NOT EXISTS (SELECT * FROM other.files EXCEPT SELECT * FROM main.files)"
    "   AND (SELECT count(*) FROM main.words) = (SELECT count(*) FROM other.words)"
    "   AND (SELECT count(*) FROM main.words) = (SELECT count(*) FROM main.words NATURAL JOIN other.words)";

const char *store_compare(bool *equal, const char *path, const char *other) {
  sqlite3 *db;
  sqlite3_stmt *attach = NULL;
  int64_t same = 0;
  const char *problem = open_index(&db, path);
  sqlite3_progress_handler(db, STOP_STEPS, stop, NULL);
  if (problem == NULL) problem = prepare(&attach, db, "ATTACH ? AS other");
  if (problem == NULL) {
    sqlite3_bind_text(attach, 1, other, -1, SQLITE_STATIC);
    problem = run_once(attach);
  }
  if (problem == NULL) problem = ask_number(&same, db, SAME);
  sqlite3_finalize(attach);
  sqlite3_close(db);
  *equal = same != 0;
  return problem;
}
