/* The command line: whether it makes sense, and what it means. All paths are made absolute here, so that an
 * index is the same wherever it is searched from. */
#define _GNU_SOURCE
#include "index.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char HELP[] =
    "usage: index [--out FILE] [--compare] [DIR...]\n"
    "       index [--out FILE] --find WORD\n"
    "\n"
    "Makes a full-text index of the files below each DIR (default: /usr/share/doc,\n"
    "/usr/share/man and the working directory). With --find, answers from an index\n"
    "which files have WORD: the most frequent first, at most 20.\n"
    "\n"
    "  --out FILE   the index, a SQLite file (default: shunt-index.db); it replaces\n"
    "               the old one once it is whole\n"
    "  --compare    do the same again, one thing after another and without shunt,\n"
    "               and compare the times and the indexes\n"
    "  --find WORD  2 to 40 letters, digits, underscores; in ASCII, case is ignored\n"
    "  --help       this text\n"
    "\n"
    "Files that end in .gz are unpacked. Of a longer text the first 4 MiB count:\n"
    "size, SHA-256 and words are theirs. Binary files (a NUL among the first 8 KiB)\n"
    "are listed without words. Symbolic links are not followed. What is damaged, or\n"
    "cannot be read, is named and skipped; that does not make the run fail.\n"
    "\n"
    "Exit status: 0 done; 1 no file has WORD, or the indexes differ; 2 wrong usage,\n"
    "or failure; 130 interrupted. A run that ends early leaves the old index as it\n"
    "was.\n";

static int see_help(void) {
  fputs("Try 'index --help'.\n", stderr);
  return FAILED;
}

static int complain(const char *what, const char *problem) {
  fprintf(stderr, "index: %s: %s\n", what, problem);
  return see_help();
}

/* ---- where the index is -------------------------------------------------------------------------------- */

/* The file itself need not exist, but its directory must. */
static char *resolve_file(const char *path) {
  char *whole = realpath(path, NULL);
  if (whole != NULL || errno != ENOENT) return whole;
  const char *slash = strrchr(path, '/');
  const char *name = slash != NULL ? slash + 1 : path;
  char *above = slash != NULL ? strndup(path, (size_t)(name - path)) : strdup(".");
  char *directory = above != NULL && *name != '\0' ? realpath(above, NULL) : NULL;
  if (directory != NULL && asprintf(&whole, "%s/%s", directory, name) < 0) whole = NULL;
  free(directory);
  free(above);
  return whole;
}

/* The process id, for two may write the same index at once: the later one to end replaces the other's. */
static int set_out(struct options *o, const char *path) {
  o->out = resolve_file(path);
  if (o->out == NULL) return complain(path, uv_strerror(-errno));
  if (asprintf(&o->part, "%s.%d.part", o->out, (int)getpid()) < 0) o->part = NULL;
  if (asprintf(&o->again, "%s.%d.again", o->out, (int)getpid()) < 0) o->again = NULL;
  return o->part != NULL && o->again != NULL ? -1 : complain(path, uv_strerror(UV_ENOMEM));
}

bool is_output(const struct options *o, const char *path) {
  return strncmp(path, o->out, strlen(o->out)) == 0;
}

/* ---- what it is of ------------------------------------------------------------------------------------- */

static bool is_within(const char *path, const char *directory) {
  size_t n = strlen(directory);
  return strncmp(path, directory, n) == 0 && (path[n] == '\0' || path[n] == '/' || directory[n - 1] == '/');
}

/* A directory within another is walked with that one; of two that are equal, the first stays. */
static void add_root(char **roots, char *root) {
  size_t kept = 0;
  for (size_t i = 0; roots[i] != NULL; i++) {
    if (is_within(root, roots[i])) {
      free(root);
      return;
    }
  }
  for (size_t i = 0; roots[i] != NULL; i++) {
    if (is_within(roots[i], root)) free(roots[i]);
    else roots[kept++] = roots[i];
  }
  roots[kept++] = root;
  roots[kept] = NULL;
}

static int set_roots(struct options *o, char **names, int n, bool must_exist) {
  o->roots = calloc((size_t)n + 1, sizeof *o->roots);
  if (o->roots == NULL) return complain("DIR", uv_strerror(UV_ENOMEM));
  for (int i = 0; i < n; i++) {
    struct stat st;
    char *root = realpath(names[i], NULL);
    if (root != NULL && stat(root, &st) == 0 && S_ISDIR(st.st_mode)) {
      add_root(o->roots, root);
      continue;
    }
    const char *problem = root != NULL ? "not a directory" : uv_strerror(-errno);
    free(root);
    if (must_exist) return complain(names[i], problem);
  }
  return -1;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static int check(struct options *o, int argc, char **argv) {
  static char *defaults[] = {"/usr/share/doc", "/usr/share/man", "."};
  bool any = optind < argc;
  if (o->find == NULL && any) return set_roots(o, argv + optind, argc - optind, true);
  if (o->find == NULL) return set_roots(o, defaults, 3, false);
  if (any) return complain(argv[optind], "--find searches an index, not a directory");
  if (o->compare) return complain("--compare", "there is nothing to compare with --find");
  if (fold_word(o->find)) return -1;
  return complain(o->find, "--find takes one word of 2 to 40 letters, digits, underscores");
}

int read_options(struct options *o, int argc, char **argv) {
  static const struct option known[] = {{"out", required_argument, NULL, 'o'},
                                        {"find", required_argument, NULL, 'f'},
                                        {"compare", no_argument, NULL, 'c'},
                                        {"help", no_argument, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};
  const char *out = "shunt-index.db";
  memset(o, 0, sizeof *o);
  for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    switch (c) {
    case 'o': out = optarg; break;
    case 'f': o->find = optarg; break;
    case 'c': o->compare = true; break;
    case 'h': return fputs(HELP, stdout) >= 0 ? OK : FAILED;
    default: return see_help(); /* getopt has said why */
    }
  }
  int status = check(o, argc, argv);
  return status < 0 ? set_out(o, out) : status;
}

void free_options(struct options *o) {
  for (char **root = o->roots; root != NULL && *root != NULL; root++) free(*root);
  free(o->roots);
  free(o->out);
  free(o->part);
  free(o->again);
}
