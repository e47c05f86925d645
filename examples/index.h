/* The parts of the demo `index`: what each does for index.c, which is the only one that submits tasks.
 *
 * The others are plain C of the kind every program has. Where something can go wrong, they return NULL for
 * success or the reason in words: a static string that nobody frees.
 */
#ifndef INDEX_H
#define INDEX_H

#include <dirent.h>
#include <shunt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  TEXT_MAX = 4 << 20, /* of a longer text, the first 4 MiB are indexed */
  WORD_MIN = 2,       /* in bytes: shorter words are in every file, longer ones are no words */
  WORD_MAX = 40
};

/* ---- index-files.c: calls that block, in the shape of a pthread's function ----------------------------- */

/* A text carries its size along, because it travels to other processes as one run of bytes. */
struct text {
  size_t size;
  unsigned char bytes[];
};

struct source {
  const char *path;
  struct text *text; /* out: from malloc, freed by the caller, after a failure too; may be NULL then */
};

struct listing {
  const char *path;
  struct dirent **entries; /* out: from scandir, sorted, with d_type filled in */
  int count;
};

void *read_plain(void *source);
void *read_gzip(void *source);
void *list_directory(void *listing);
void free_listing(struct listing *listing);

/* ---- index-sha256.c, index-text.c: pure computing ------------------------------------------------------ */

void sha256(unsigned char digest[32], const void *data, size_t size);

/* What there is to know of a text, again as one run of bytes. */
struct digest {
  unsigned char sha256[32];
  uint64_t size;     /* of the text */
  uint64_t words;    /* all of them */
  uint32_t distinct; /* as many entries follow, see digest_rows() */
  uint32_t binary;   /* not text: there are no words */
  unsigned char entries[];
};

/* A word of a file. */
struct row {
  const char *letters; /* in the digest */
  uint32_t length;
  uint32_t count;
  uint32_t file;
};

/* Changes the text. The digest comes from alloc; NULL when there is no memory. */
struct digest *digest_text(struct text *text, void *(*alloc)(size_t size));

/* Makes rows of a digest's words, and returns where the next rows may go. */
struct row *digest_rows(struct row *rows, const struct digest *digest, uint32_t file);

/* By word, then by file. */
void sort_rows(struct row *rows, size_t count);

/* Folds s in place as the words of a text are, and says whether it is one whole word. */
bool fold_word(char *s);

/* ---- index-store.c: SQLite ----------------------------------------------------------------------------- */

/* An index in the making: in a file of its own, which replaces nothing until it is whole and published. One
 * thread at a time may use a store. Long statements end when a signal has come. */
struct store;

const char *store_create(struct store **out, const char *path);
const char *store_add_file(struct store *store, uint32_t id, const char *path, const struct digest *digest);
const char *store_add_rows(struct store *store, const struct row *rows, size_t count);
void *store_finish(void *store);                  /* commits */
void store_close(struct store *store, bool keep); /* keep: the file stays */
const char *store_publish(const char *part, const char *path);

/* May an index be put at path? If there is a file, only when that is an index too. */
const char *store_may_replace(const char *path);

/* Prints up to limit files that have the word, the most frequent first. *found is how many there are. */
const char *store_find(size_t *found, const char *path, const char *word, int limit);
const char *store_compare(bool *equal, const char *path, const char *other);

/* ---- index-report.c: what the user sees ---------------------------------------------------------------- */

enum { BUCKETS = 61 * 16 };

/* Times by order of magnitude, 16 buckets to each power of two: any number of tasks in constant memory,
 * within 3 %. */
struct histogram {
  uint64_t total;
  uint64_t count[BUCKETS];
};

/* The struct is the caller's; one thread at a time may use it. */
struct report {
  struct {
    struct histogram queued, running;
  } lane[SHUNT_LANE_PROCESS + 1];
  uint64_t files, skipped, bytes, words;
  uint64_t started_ns;
  uint64_t drawn_ns;
  bool quiet; /* names no skipped file */
};

void report_start(struct report *report, bool quiet);
void report_task(struct report *report, const shunt_info_t *info);
void report_file(struct report *report, const struct digest *digest);
void report_skip(struct report *report, const char *path, const char *problem);
void report_clear(void); /* the bar, if there is one: before a message */
void report_progress(struct report *report, uint64_t expected); /* expected: files in all; 0: not known yet */
double report_seconds(const struct report *report);
void report_summary(const struct report *report, double seconds, const char *out);

/* ---- index-main.c, index-options.c: the command line --------------------------------------------------- */

enum { OK = 0, NO = 1, FAILED = 2 }; /* exit status */

struct options {
  char *find;         /* folded; NULL: make an index */
  bool compare;
  char **roots;       /* directories: absolute, none within another, NULL at the end */
  char *out;          /* absolute */
  char *part, *again; /* what is not yet out, and what it is compared with */
};

/* The signal that asked us to end, or 0. From any thread. */
int interrupted(void);

/* Returns -1, or the status to exit with. To be freed in either case. */
int read_options(struct options *options, int argc, char **argv);
void free_options(struct options *options);

/* Is this the index, or another file of ours that is on its way to become it? Then its name begins in the
 * same way. */
bool is_output(const struct options *options, const char *path);

/* ---- index.c: the pipeline ----------------------------------------------------------------------------- */

/* Makes the index options ask for in a new file at path, which is there afterwards only if all went well.
 * With shunt NULL, one thing is done after another. */
const char *build_index(struct report *report, shunt_t *shunt, const struct options *options,
                        const char *path);

#endif
