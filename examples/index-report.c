/* What the user sees: a progress bar on stderr while the work runs, and at the end a table of where the time
 * went.
 *
 * On a terminal the bar is redrawn in place ten times a second; elsewhere it is a plain line each second. A
 * report has no lock: all calls come from tasks on the loop, which share one thread, or from main() when
 * nothing else runs.
 */
#include "index.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUB = 16, BAR = 24 };

static const uint64_t SECOND = 1000000000;

/* ---- histograms ---------------------------------------------------------------------------------------- */

/* Values under 16 have a bucket each; from there on the highest five bits of a value name its bucket. */
static size_t bucket_of(uint64_t ns) {
  if (ns < SUB) return ns;
  unsigned shift = 59 - (unsigned)__builtin_clzll(ns);
  return (shift + 1) * SUB + (ns >> shift) % SUB;
}

/* The middle of bucket b. */
static double value_of(size_t b) {
  if (b < SUB) return (double)b;
  return (SUB + b % SUB + 0.5) * (double)(UINT64_C(1) << (b / SUB - 1));
}

static void add_time(struct histogram *h, uint64_t ns) {
  h->total++;
  h->count[bucket_of(ns)]++;
}

/* The time that `share` of all did not exceed. */
static double quantile(const struct histogram *h, double share) {
  uint64_t wanted = (uint64_t)((double)h->total * share), seen = 0;
  for (size_t b = 0; b < BUCKETS; b++)
    if ((seen += h->count[b]) > wanted) return value_of(b);
  return 0;
}

/* ---- while it runs ------------------------------------------------------------------------------------- */

void report_start(struct report *report, bool quiet) {
  memset(report, 0, sizeof *report);
  report->quiet = quiet;
  report->started_ns = report->drawn_ns = uv_hrtime();
}

double report_seconds(const struct report *report) {
  return (double)(uv_hrtime() - report->started_ns) / 1e9;
}

void report_task(struct report *report, const shunt_info_t *info) {
  if (info->lane == SHUNT_LANE_ANY) return; /* it never ran */
  add_time(&report->lane[info->lane].queued, info->queued_ns);
  add_time(&report->lane[info->lane].running, info->run_ns);
}

void report_file(struct report *report, const struct digest *digest) {
  report->files++;
  report->bytes += digest->size;
  report->words += digest->words;
}

void report_clear(void) {
  if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
}

void report_skip(struct report *report, const char *path, const char *problem) {
  report->skipped++;
  if (report->quiet) return;
  report_clear();
  fprintf(stderr, "index: skipped %s: %s\n", path, problem);
}

static void draw_bar(uint64_t done, uint64_t expected) {
  char bar[BAR + 1];
  if (expected == 0) return;
  memset(bar, '.', BAR);
  memset(bar, '#', (size_t)(BAR * done / expected));
  bar[BAR] = '\0';
  fprintf(stderr, "[%s] %3" PRIu64 " %%  ", bar, 100 * done / expected);
}

void report_progress(struct report *report, uint64_t expected) {
  bool terminal = isatty(STDERR_FILENO);
  uint64_t now = uv_hrtime(), done = report->files + report->skipped;
  if (now - report->drawn_ns < (terminal ? SECOND / 10 : SECOND)) return;
  report->drawn_ns = now;
  report_clear();
  draw_bar(done < expected ? done : expected, expected);
  fprintf(stderr, "%" PRIu64 " files, %.0f MiB, %.0f s%s", done, (double)report->bytes / 0x1p20,
          report_seconds(report), terminal ? "" : "\n");
}

/* ---- at the end ---------------------------------------------------------------------------------------- */

static const char *words_for_time(char buffer[16], double ns) {
  static const char *const units[] = {"ns", "us", "ms", "s"};
  size_t unit = 0;
  for (; ns >= 999.5 && unit < 3; unit++) ns /= 1000;
  snprintf(buffer, 16, ns < 9.95 ? "%.1f %s" : "%.0f %s", ns, units[unit]);
  return buffer;
}

static void print_times(const struct histogram *h) {
  char buffer[16];
  printf("  %9s", h->total > 0 ? words_for_time(buffer, quantile(h, 0.5)) : "-");
  printf(" %9s", h->total > 0 ? words_for_time(buffer, quantile(h, 0.99)) : "-");
}

static void print_lanes(const struct report *report) {
  printf("%18s  %19s  %19s\n", "", "queued", "running, with waits");
  printf("%-8s %9s  %9s %9s  %9s %9s\n", "lane", "tasks", "median", "99 %", "median", "99 %");
  for (shunt_lane_t lane = SHUNT_LANE_LOOP; lane <= SHUNT_LANE_PROCESS; lane++) {
    printf("%-8s %9" PRIu64, shunt_lane_name(lane), report->lane[lane].queued.total);
    print_times(&report->lane[lane].queued);
    print_times(&report->lane[lane].running);
    putchar('\n');
  }
}

void report_summary(const struct report *report, double seconds, const char *out) {
  report_clear();
  print_lanes(report);
  printf("\n%" PRIu64 " files, %.1f MiB of text, %" PRIu64 " words in %.2f s: %s\n", report->files,
         (double)report->bytes / 0x1p20, report->words, seconds, out);
  if (report->skipped > 0) printf("%" PRIu64 " skipped, named above\n", report->skipped);
}
