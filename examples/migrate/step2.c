/* tally PATTERN SOURCE...: reads many logs at once, and counts the lines in each, and those that match.
 *
 *     tally 'error|fatal' app.log <(ssh web1 cat app.log) <(ssh web2 cat app.log)
 *
 * A source is a file or a pipe. A line of more than 16 KiB counts as several.
 *
 * docs/migrating.md, step 2: what waits is shunt's, too. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <regex.h>
#include <shunt/io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 16384 };

struct counts {
  unsigned long lines, matching;
};

struct source {
  const char *path;
  shunt_task_t *task;
  struct counts counts;
  int error;
};

struct block {
  size_t size;
  char text[BLOCK + 1]; /* room for the end of a last line that has none */
};

static regex_t pattern; /* set before any work begins, and then only used */

static struct counts count(struct block *b) {
  struct counts c = {0, 0};
  for (char *line = b->text, *end = line + b->size, *stop; line < end; line = stop + 1) {
    stop = memchr(line, '\n', (size_t)(end - line));
    if (stop == NULL) stop = end;
    *stop = '\0';
    c.lines++;
    c.matching += regexec(&pattern, line, 0, NULL, 0) == 0;
  }
  return c;
}

static void add(struct source *s, struct block *b) {
  struct counts c = count(b);
  s->counts.lines += c.lines;
  s->counts.matching += c.matching;
}

/* Up to the end of the last line; a full block without one is a piece of a long line. */
static size_t whole_lines(const char *text, size_t size) {
  const char *last = memrchr(text, '\n', size);
  if (last != NULL) return (size_t)(last + 1 - text);
  return size == BLOCK ? size : 0;
}

static void *collect(void *arg) {
  struct source *s = arg;
  struct block b;
  size_t kept = 0; /* of a line whose end is yet to come */
  ssize_t n;
  int fd = shunt_open(s->path, O_RDONLY, 0);
  if (fd < 0) return s->error = fd, NULL;
  while ((n = shunt_read(fd, b.text + kept, BLOCK - kept)) > 0) {
    size_t have = kept + (size_t)n;
    b.size = whole_lines(b.text, have);
    add(s, &b);
    kept = have - b.size;
    memmove(b.text, b.text + b.size, kept);
  }
  if (n < 0) s->error = (int)n;
  b.size = kept;
  add(s, &b);
  close(fd);
  return NULL;
}

static int complain(const char *what, const char *why) {
  fprintf(stderr, "tally: %s: %s\n", what, why);
  return 1;
}

static int report(const struct source *s) {
  if (s->error != 0) return complain(s->path, shunt_strerror(s->error));
  printf("%8lu lines %8lu matching  %s\n", s->counts.lines, s->counts.matching, s->path);
  return 0;
}

int main(int argc, char **argv) {
  char why[256];
  shunt_t *shunt;
  int err, failures = 0, n = argc - 2;
  if (n < 1) return complain("usage", "tally PATTERN SOURCE...");
  if ((err = regcomp(&pattern, argv[1], REG_EXTENDED | REG_NOSUB)) != 0)
    return regerror(err, &pattern, why, sizeof why), complain(argv[1], why);
  struct source *sources = calloc((size_t)n, sizeof *sources);
  if (sources == NULL) return complain("sources", strerror(errno));
  err = shunt_start(&shunt, &(shunt_options_t){.max_threads = (unsigned)n});
  if (err != 0) return complain("cannot start", shunt_strerror(err));
  for (int i = 0; i < n; i++) {
    struct source *s = &sources[i];
    s->path = argv[2 + i];
    s->task = shunt_submit(shunt, collect, s, SHUNT_WITH(.kind = SHUNT_BLOCKING));
  }
  for (int i = 0; i < n; i++) {
    struct source *s = &sources[i];
    err = shunt_join(s->task, NULL);
    failures += err != 0 ? complain(s->path, shunt_strerror(err)) : report(s);
  }
  shunt_stop(shunt, SHUNT_FOREVER);
  free(sources);
  regfree(&pattern);
  if (fflush(stdout) != 0) return complain("standard output", strerror(errno));
  return failures != 0;
}
