/* main() and what it may be asked for: make an index, compare, find. Signals and exit statuses are here. */
#define _GNU_SOURCE
#include "index.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { FIND_LIMIT = 20 };

/* Written by the signal handler, read by any thread. Nothing else depends on it: any memory order will do. */
static atomic_int signal_number;

int interrupted(void) { return atomic_load_explicit(&signal_number, memory_order_relaxed); }

static void on_signal(int number) { atomic_store_explicit(&signal_number, number, memory_order_relaxed); }

/* The first signal ends the run and cleans up; the second finds the default action, and ends it at once. */
static void catch_signals(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  signal(SIGXFSZ, SIG_IGN); /* that a file may not grow is an error like others, and SQLite says so */
}

static int fail(const char *what, const char *problem) {
  report_clear();
  fprintf(stderr, "index: %s: %s\n", what, problem);
  return interrupted() != 0 ? 128 + interrupted() : FAILED;
}

/* The same again, with plain function calls: second, when the files are cached, and that is in its favour. */
static int compare(const struct options *o, double seconds) {
  static struct report report;
  bool equal = false;
  report_start(&report, true);
  const char *problem = build_index(&report, NULL, o, o->again);
  double alone = report_seconds(&report);
  if (problem == NULL) problem = store_compare(&equal, o->out, o->again);
  unlink(o->again);
  if (problem != NULL) return fail("--compare", problem);
  report_clear();
  printf("one after another %.2f s, with shunt %.2f s: ", alone, seconds);
  printf("%.2f times as fast\n", alone / seconds);
  puts(equal ? "both indexes are equal" : "the two indexes differ: did files change in between?");
  return equal ? OK : NO;
}

static int make_index(const struct options *o) {
  static struct report report;
  static shunt_t *shunt;
  const char *problem = store_may_replace(o->out);
  if (problem != NULL) return fail(o->out, problem);
  catch_signals();
  int err = shunt_start(&shunt, NULL);
  if (err != 0) return fail("cannot start shunt", shunt_strerror(err));
  report_start(&report, false);
  problem = build_index(&report, shunt, o, o->part);
  double seconds = report_seconds(&report);
  shunt_stop(shunt, SHUNT_FOREVER);
  if (problem == NULL) problem = store_publish(o->part, o->out);
  if (problem != NULL) return fail(o->out, problem);
  report_summary(&report, seconds, o->out);
  return o->compare ? compare(o, seconds) : OK;
}

static int find(const struct options *o) {
  size_t found;
  const char *problem = store_find(&found, o->out, o->find, FIND_LIMIT);
  if (problem != NULL) return fail(o->out, problem);
  if (found == 0) fprintf(stderr, "index: %s: in no file\n", o->find);
  if (found > FIND_LIMIT) fprintf(stderr, "index: these are the first %d of %zu files\n", FIND_LIMIT, found);
  return found > 0 ? OK : NO;
}

int main(int argc, char **argv) {
  struct options options;
  int status = read_options(&options, argc, argv);
  if (status < 0) status = options.find != NULL ? find(&options) : make_index(&options);
  free_options(&options);
  return fflush(stdout) == 0 && !ferror(stdout) ? status : fail("standard output", uv_strerror(-errno));
}
