/* How many tasks a second each lane takes, and how long one takes there and back, beside libuv's own
 * pool and a bare pthread.
 *
 *     lanes [rounds]
 *
 * tasks/s: submit many, then wait for all. Round trip: submit one and wait for it, again and again; its
 * median and its 99th percentile. Every task does nothing, so the numbers are what the lanes cost. All rows
 * take turns in each round, so that a busy moment of the machine hits all of them, and each number is the
 * median over the rounds. "x uv" is that number as a multiple of uv_queue_work's: more is better for tasks/s,
 * less is better for the round trip. A thread that joins a task still queued for the thread lane runs it
 * itself: that is the thread lane's round trip here. */
#include <pthread.h>
#include <shunt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_ROUNDS = 99, BATCH = 20000, TRIPS = 2000, THREADS_AT_ONCE = 64, ARGUMENT = 64 };

static shunt_t *rt;

typedef struct row {
  const char *name;
  void (*batch)(const struct row *row);
  void (*trip)(const struct row *row);
  shunt_lane_t lane;
  bool inside; /* measured by a task on the loop, not by main() */
  double rate[MAX_ROUNDS], median[MAX_ROUNDS], p99[MAX_ROUNDS];
} row_t;

static void check(int err, const char *what) {
  if (err == 0)
    return;
  fprintf(stderr, "lanes: %s: %s\n", what, shunt_strerror(err));
  exit(EXIT_FAILURE);
}

static double now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* ---- shunt ---- */

static void *nothing(void *arg) {
  (void)arg;
  return NULL;
}

static shunt_task_t *submit(const row_t *row) {
  static char argument[ARGUMENT];
  size_t size = row->lane == SHUNT_LANE_PROCESS ? sizeof argument : 0;
  return shunt_submit(rt, nothing, argument, SHUNT_WITH(.lane = row->lane, .arg_size = size));
}

static void batch_shunt(const row_t *row) {
  static shunt_task_t *tasks[BATCH];
  for (int i = 0; i < BATCH; i++)
    tasks[i] = submit(row);
  check(shunt_await_all(tasks, BATCH, SHUNT_FOREVER), row->name);
  for (int i = 0; i < BATCH; i++)
    shunt_release(tasks[i]);
}

static void trip_shunt(const row_t *row) { check(shunt_join(submit(row), NULL), row->name); }

/* ---- libuv's pool ---- */

static uv_loop_t loop;

static void work(uv_work_t *request) { (void)request; }

static void batch_uv(const row_t *row) {
  static uv_work_t requests[BATCH];
  for (int i = 0; i < BATCH; i++)
    check(uv_queue_work(&loop, &requests[i], work, NULL), row->name);
  uv_run(&loop, UV_RUN_DEFAULT);
}

static void trip_uv(const row_t *row) {
  uv_work_t request;
  check(uv_queue_work(&loop, &request, work, NULL), row->name);
  uv_run(&loop, UV_RUN_DEFAULT);
}

/* ---- pthreads ---- */

static void run_threads(const row_t *row, int n) {
  pthread_t threads[THREADS_AT_ONCE];
  for (int i = 0; i < n; i++)
    check(-pthread_create(&threads[i], NULL, nothing, NULL), row->name);
  for (int i = 0; i < n; i++)
    pthread_join(threads[i], NULL);
}

static void batch_pthread(const row_t *row) {
  for (int left = BATCH; left > 0; left -= THREADS_AT_ONCE)
    run_threads(row, left < THREADS_AT_ONCE ? left : THREADS_AT_ONCE);
}

static void trip_pthread(const row_t *row) { run_threads(row, 1); }

/* ---- measuring ---- */

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double quantile(double *values, int n, double q) {
  qsort(values, (size_t)n, sizeof *values, compare);
  return values[(int)(q * (n - 1) + 0.5)];
}

typedef struct {
  row_t *row;
  int round;
} turn_t;

static void *measure(void *arg) {
  static double trips[TRIPS];
  turn_t *turn = arg;
  row_t *row = turn->row;
  double begun = now_ns();
  row->batch(row);
  row->rate[turn->round] = BATCH / ((now_ns() - begun) / 1e9);
  for (int i = 0; i < TRIPS; i++) {
    begun = now_ns();
    row->trip(row);
    trips[i] = now_ns() - begun;
  }
  row->median[turn->round] = quantile(trips, TRIPS, 0.5);
  row->p99[turn->round] = quantile(trips, TRIPS, 0.99);
  return NULL;
}

static void take_turn(row_t *row, int round) {
  turn_t turn = {.row = row, .round = round};
  if (row->inside)
    check(shunt_join(shunt_submit(rt, measure, &turn, SHUNT_WITH(.lane = SHUNT_LANE_LOOP)), NULL), row->name);
  else
    measure(&turn);
}

/* ---- the table ---- */

static row_t rows[] = {
  {.name = "uv_queue_work", .batch = batch_uv, .trip = trip_uv},
  {.name = "pthread_create + join", .batch = batch_pthread, .trip = trip_pthread},
  {.name = "loop, from main", .batch = batch_shunt, .trip = trip_shunt, .lane = SHUNT_LANE_LOOP},
  {.name = "loop, from the loop", .batch = batch_shunt, .trip = trip_shunt, .lane = SHUNT_LANE_LOOP,
   .inside = true},
  {.name = "thread", .batch = batch_shunt, .trip = trip_shunt, .lane = SHUNT_LANE_THREAD},
  {.name = "process, 64 bytes", .batch = batch_shunt, .trip = trip_shunt, .lane = SHUNT_LANE_PROCESS},
};
enum { ROWS = sizeof rows / sizeof *rows };

static void print_table(int rounds) {
  printf("%-22s %12s %7s %14s %12s %7s\n", "", "tasks/s", "x uv", "round trip ns", "p99 ns", "x uv");
  double uv_rate = quantile(rows[0].rate, rounds, 0.5), uv_median = quantile(rows[0].median, rounds, 0.5);
  for (row_t *row = rows; row < rows + ROWS; row++) {
    double rate = quantile(row->rate, rounds, 0.5), median = quantile(row->median, rounds, 0.5);
    printf("%-22s %12.0f %7.2f %14.0f %12.0f %7.2f\n", row->name, rate, rate / uv_rate, median,
           quantile(row->p99, rounds, 0.5), median / uv_median);
  }
  printf("%u cores\n", uv_available_parallelism());
}

static int parse_rounds(int argc, char **argv) {
  char *end = NULL;
  long rounds = argc > 1 ? strtol(argv[1], &end, 10) : 7;
  if (argc > 2 || (end != NULL && *end != '\0') || rounds < 1 || rounds > MAX_ROUNDS) {
    fprintf(stderr, "usage: lanes [rounds]    rounds from 1 to %d, 7 when not given\n", MAX_ROUNDS);
    exit(EXIT_FAILURE);
  }
  return (int)rounds;
}

int main(int argc, char **argv) {
  int rounds = parse_rounds(argc, argv);
  check(shunt_start(&rt, NULL), "shunt_start");
  check(uv_loop_init(&loop), "uv_loop_init");
  for (int round = 0; round < rounds; round++)
    for (row_t *row = rows; row < rows + ROWS; row++)
      take_turn(row, round);
  print_table(rounds);
  uv_loop_close(&loop);
  check(shunt_stop(rt, SHUNT_FOREVER), "shunt_stop");
  return EXIT_SUCCESS;
}
