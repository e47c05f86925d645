/* index: a full-text index of directory trees, made on three lanes at once.
 *
 *     loop      one task walks the trees and starts a task for each file, which leads its file through the
 *               steps; another draws the progress bar. They mostly wait, and that costs them a stack page
 *     thread    lists directories, reads files, unpacks .gz with zlib, writes to SQLite: calls that block.
 *               And sorts what is to be written, by reference: where megabytes need not travel
 *     process   finds the words of a text and its SHA-256: bytes in, bytes out, on a core of its own. Should
 *               a worker die, another does its text again
 *
 * What changes while this runs (struct run) is changed by loop tasks alone, and those share one thread: there
 * is no lock in this program. What is handed to a thread belongs to that thread until it has returned.
 *
 * At most LOOK_AHEAD files are under way, and they leave in the order in which they came: so memory is
 * bounded however large the tree, and the same tree gives the same index. Where run->shunt is NULL, each step
 * is a plain function call, and the same pipeline does one thing after another: that is what --compare
 * compares with.
 */
#define _GNU_SOURCE
#include "index.h"

#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_AHEAD = 64, BATCH_ROWS = 100000 };

struct file {
  struct run *run;
  struct file *next; /* in its batch */
  struct source source;
  shunt_task_t *task;          /* leads this file through the steps */
  shunt_task_t *digesting;     /* owns the digest; without shunt there is none, and the file owns it */
  const struct digest *digest; /* NULL: not yet, or skipped */
  uint32_t id;                 /* in the index */
  char path[];
};

struct batch {
  struct store *store;
  struct file *first, **end; /* in the order in which they came */
  struct row *rows;          /* all their words */
  size_t room, count;        /* how many rows there will be at most, and how many there are */
};

struct directory {
  struct directory *next;
  char path[];
};

struct run {
  shunt_t *shunt;
  const struct options *options;
  const char *problem; /* once set, everything ends */
  struct store *store;
  struct directory *todo;
  struct file *window[LOOK_AHEAD]; /* file number n is at n % LOOK_AHEAD */
  size_t started, taken;           /* how many files were; those in between are under way */
  uint32_t indexed;                /* how many of them will be in the index */
  struct batch filling, written;
  shunt_task_t *writing;           /* writes the latter; NULL: nobody does */
  struct report *report;
};

static bool stopping(const struct run *run) { return run->problem != NULL || interrupted() != 0; }

/* ---- one step: on a thread, in a process --------------------------------------------------------------- */

/* Waits for t, notes where it ran and for how long, and releases it. */
static int finish(struct run *run, shunt_task_t *t, void **result) {
  shunt_info_t info;
  int err = shunt_join(shunt_retain(t), result);
  shunt_info(t, &info);
  report_task(run->report, &info);
  shunt_release(t);
  return err;
}

static shunt_task_t *submit(struct run *run, shunt_kind_t kind, shunt_fn fn, void *arg) {
  return shunt_submit(run->shunt, fn, arg, SHUNT_WITH(.kind = kind));
}

/* Calls fn(arg), which blocks or computes, on a thread. Returns what fn does: what went wrong, in words. */
static const char *on_thread(struct run *run, shunt_kind_t kind, shunt_fn fn, void *arg) {
  void *problem = NULL;
  if (run->shunt == NULL) return fn(arg);
  int err = finish(run, submit(run, kind, fn, arg), &problem);
  return err == 0 ? problem : shunt_strerror(err);
}

static void *digest_in_worker(void *text) {
  struct digest *digest = digest_text(text, shunt_alloc);
  return digest != NULL ? digest : shunt_fail(UV_ENOMEM, NULL);
}

/* The text goes by value, and the digest comes back as the result of the handle. */
static const char *in_process(struct run *run, struct file *f) {
  struct text *text = f->source.text;
  if (run->shunt == NULL) {
    f->digest = digest_text(text, malloc);
    return f->digest != NULL ? NULL : shunt_strerror(UV_ENOMEM);
  }
  size_t size = sizeof *text + text->size;
  f->digesting = shunt_submit(run->shunt, digest_in_worker, text,
                              SHUNT_WITH(.kind = SHUNT_CPU, .arg_size = size, .flags = SHUNT_IDEMPOTENT));
  free(f->source.text); /* the task has a copy */
  f->source.text = NULL;
  int err = finish(run, shunt_retain(f->digesting), NULL);
  f->digest = shunt_result(f->digesting, NULL);
  return err == 0 ? NULL : shunt_strerror(err);
}

/* ---- one file: a task on the loop ---------------------------------------------------------------------- */

static void skip(struct run *run, const char *path, const char *problem) {
  if (!stopping(run)) report_skip(run->report, path, problem);
}

static bool is_gzip(const char *path) {
  const char *dot = strrchr(path, '.');
  return dot != NULL && strcmp(dot, ".gz") == 0;
}

static void *index_file(void *arg) {
  struct file *f = arg;
  struct run *run = f->run;
  shunt_fn read_it = is_gzip(f->path) ? read_gzip : read_plain;
  const char *problem = on_thread(run, SHUNT_BLOCKING, read_it, &f->source);
  if (problem == NULL) problem = in_process(run, f);
  free(f->source.text);
  if (problem != NULL) skip(run, f->path, problem);
  return NULL;
}

static void end_file(struct run *run, struct file *f) {
  if (f->digest != NULL) report_file(run->report, f->digest);
  if (f->digesting != NULL) shunt_release(f->digesting);
  else free((void *)f->digest);
  free(f);
}

/* ---- a batch of files: sorted on a thread, while another thread writes the batch before ---------------- */

static void *sort_batch(void *arg) {
  struct batch *batch = arg;
  struct row *end = batch->rows = malloc((batch->room + 1) * sizeof *end);
  if (end == NULL) return (void *)shunt_strerror(UV_ENOMEM);
  for (struct file *f = batch->first; f != NULL; f = f->next) end = digest_rows(end, f->digest, f->id);
  batch->count = (size_t)(end - batch->rows);
  sort_rows(batch->rows, batch->count);
  return NULL;
}

static void *write_batch(void *arg) {
  struct batch *batch = arg;
  const char *problem = NULL;
  for (struct file *f = batch->first; f != NULL && problem == NULL; f = f->next)
    problem = store_add_file(batch->store, f->id, f->path, f->digest);
  return (void *)(problem != NULL ? problem : store_add_rows(batch->store, batch->rows, batch->count));
}

static void finish_writing(struct run *run) {
  void *problem = NULL;
  int err = run->writing != NULL ? finish(run, run->writing, &problem) : 0;
  run->writing = NULL;
  if (run->problem == NULL) run->problem = err == 0 ? problem : shunt_strerror(err);
  for (struct file *f; (f = run->written.first) != NULL; end_file(run, f)) run->written.first = f->next;
  free(run->written.rows);
  run->written = (struct batch){0};
}

/* Has the batch that was filled written, and turns to the next one meanwhile. */
static void start_writing(struct run *run) {
  if (!stopping(run)) run->problem = on_thread(run, SHUNT_CPU, sort_batch, &run->filling);
  finish_writing(run);
  run->written = run->filling;
  run->filling = (struct batch){.store = run->store, .end = &run->filling.first};
  if (stopping(run)) return;
  if (run->shunt == NULL) run->problem = write_batch(&run->written);
  else run->writing = submit(run, SHUNT_BLOCKING, write_batch, &run->written);
}

static void add_to_batch(struct run *run, struct file *f) {
  struct batch *batch = &run->filling;
  f->id = ++run->indexed;
  *batch->end = f;
  batch->end = &f->next;
  batch->room += f->digest->distinct + 1; /* so that files without words fill it, too */
  if (batch->room >= BATCH_ROWS) start_writing(run);
}

/* ---- all files: the walker, a task on the loop too ----------------------------------------------------- */

static void take_oldest(struct run *run) {
  struct file *f = run->window[run->taken++ % LOOK_AHEAD];
  int err = f->task != NULL ? finish(run, f->task, NULL) : 0;
  if (err != 0) skip(run, f->path, shunt_strerror(err));
  if (f->digest != NULL) add_to_batch(run, f);
  else end_file(run, f);
  if (run->shunt == NULL) report_progress(run->report, 0);
}

static void start_file(struct run *run, const char *path) {
  if (run->started - run->taken == LOOK_AHEAD) take_oldest(run);
  struct file *f = calloc(1, sizeof *f + strlen(path) + 1);
  if (f == NULL) {
    skip(run, path, shunt_strerror(UV_ENOMEM));
    return;
  }
  f->run = run;
  f->source.path = strcpy(f->path, path);
  run->window[run->started++ % LOOK_AHEAD] = f;
  if (run->shunt == NULL) index_file(f);
  else f->task = submit(run, SHUNT_ASYNC, index_file, f);
}

static void add_directory(struct run *run, const char *path) {
  struct directory *d = malloc(sizeof *d + strlen(path) + 1);
  if (d == NULL) {
    skip(run, path, shunt_strerror(UV_ENOMEM));
    return;
  }
  d->next = run->todo;
  strcpy(d->path, path);
  run->todo = d;
}

/* Links are not followed; pipes and devices are no files; and what we are writing is not to be read. */
static void visit(struct run *run, const char *directory, const struct dirent *e) {
  char path[PATH_MAX];
  const char *slash = strcmp(directory, "/") == 0 ? "" : "/";
  if (snprintf(path, sizeof path, "%s%s%s", directory, slash, e->d_name) >= (int)sizeof path)
    skip(run, directory, "the names in it are too long");
  else if (e->d_type == DT_DIR) add_directory(run, path);
  else if (e->d_type == DT_REG && !is_output(run->options, path)) start_file(run, path);
}

/* With a list instead of recursion, for a tree may be deeper than a stack. */
static void walk(struct run *run) {
  while (run->todo != NULL) {
    struct directory *d = run->todo;
    struct listing listing = {.path = d->path};
    run->todo = d->next;
    const char *problem = stopping(run) ? NULL : on_thread(run, SHUNT_BLOCKING, list_directory, &listing);
    if (problem != NULL) skip(run, d->path, problem);
    for (int i = 0; i < listing.count && !stopping(run); i++) visit(run, d->path, listing.entries[i]);
    free_listing(&listing);
    free(d);
  }
}

static void *index_trees(void *arg) {
  struct run *run = arg;
  run->filling = (struct batch){.store = run->store, .end = &run->filling.first};
  for (char **root = run->options->roots; *root != NULL; root++) add_directory(run, *root);
  walk(run);
  while (run->taken < run->started) take_oldest(run);
  start_writing(run);
  finish_writing(run);
  if (!stopping(run)) run->problem = on_thread(run, SHUNT_BLOCKING, store_finish, run->store);
  return NULL;
}

/* ---- the progress bar: a third task on the loop -------------------------------------------------------- */

static _Thread_local uintptr_t counted; /* nftw() hands its callback no context of ours */

static int count_one(const char *path, const struct stat *st, int type, struct FTW *where) {
  (void)path, (void)where;
  counted += type == FTW_F && S_ISREG(st->st_mode);
  return shunt_cancelled();
}

/* How many files there will be, for the bar to know how long it is. Blocks, but that holds nobody up. */
static void *count_files(void *roots) {
  counted = 0;
  for (char **root = roots; *root != NULL; root++) nftw(*root, count_one, 16, FTW_PHYS);
  return (void *)counted;
}

/* Ends by being cancelled: from then on, each call that waits says so. */
static void *show_progress(void *arg) {
  struct run *run = arg;
  void *expected = NULL;
  shunt_task_t *count = submit(run, SHUNT_BLOCKING, count_files, run->options->roots);
  while (shunt_await_for(count, 100, &expected) == UV_ETIMEDOUT) report_progress(run->report, 0);
  while (shunt_sleep(100) == 0) report_progress(run->report, (uintptr_t)expected);
  finish(run, count, NULL);
  return NULL;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

/* Starts the two tasks that see to all the others, and waits with an eye on signals. */
static void lead(struct run *run) {
  shunt_task_t *work = submit(run, SHUNT_ASYNC, index_trees, run);
  shunt_task_t *bar = submit(run, SHUNT_ASYNC, show_progress, run);
  while (shunt_await_for(work, 100, NULL) == UV_ETIMEDOUT)
    if (interrupted() != 0) shunt_cancel(work);
  shunt_cancel(bar);
  finish(run, bar, NULL);
  int err = finish(run, work, NULL);
  if (err != 0 && run->problem == NULL) run->problem = shunt_strerror(err);
}

const char *build_index(struct report *report, shunt_t *shunt, const struct options *options,
                        const char *path) {
  struct run run = {.shunt = shunt, .report = report, .options = options};
  run.problem = store_create(&run.store, path);
  if (run.problem != NULL) return run.problem;
  if (shunt != NULL) lead(&run);
  else index_trees(&run);
  bool whole = !stopping(&run);
  store_close(run.store, whole);
  return whole ? NULL : interrupted() != 0 ? "interrupted" : run.problem;
}
