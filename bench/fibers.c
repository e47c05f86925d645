/* What tasks on the loop cost: submit and join, yield, sleep, beside libuv's own timers.
 *
 *     fibers [rounds]
 *
 * Prints a line for each: its name and nanoseconds an operation, the median over the rounds. bench/peers does
 * the same in Go and in Rust with tokio, and bench/peers/run puts them side by side. */
#include <shunt.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_ROUNDS = 99, TASKS = 200000, YIELDS = 1000000, FIBERS = 100, TIMERS = 100000 };

static double results[4][MAX_ROUNDS];

static void check(int err, const char *what) {
  if (err == 0) return;
  fprintf(stderr, "fibers: %s: %s\n", what, shunt_strerror(err));
  exit(EXIT_FAILURE);
}

static double since(uint64_t start, double n) { return (double)(uv_hrtime() - start) / n; }

static void *nothing(void *arg) { return arg; }

static double submit_and_join(void) {
  uint64_t start = uv_hrtime();
  for (int i = 0; i < TASKS; i++)
    check(shunt_join(shunt_submit(shunt_current(), nothing, NULL, SHUNT_WITH(.kind = SHUNT_ASYNC)), NULL),
          "join");
  return since(start, TASKS);
}

static void run_together(shunt_fn fn, int n) {
  shunt_scope_t *scope = shunt_scope_open(shunt_current(), NULL);
  for (int i = 0; i < n; i++)
    shunt_release(shunt_submit(shunt_current(), fn, NULL, SHUNT_WITH(.kind = SHUNT_ASYNC, .scope = scope)));
  check(shunt_scope_close(scope), "scope");
}

static void *yields(void *arg) {
  for (int i = 0; i < YIELDS / FIBERS; i++) shunt_yield();
  return arg;
}

static double yield(void) {
  uint64_t start = uv_hrtime();
  run_together(yields, FIBERS);
  return since(start, YIELDS);
}

static void *sleeps(void *arg) { return shunt_sleep(1), arg; }

static double sleep_1ms(void) {
  uint64_t start = uv_hrtime();
  run_together(sleeps, TIMERS);
  return since(start, TIMERS);
}

static int fired;

static void on_timer(uv_timer_t *timer) {
  fired++;
  uv_close((uv_handle_t *)timer, NULL);
}

/* libuv alone: as many timers, each in memory of its own. */
static double libuv_timers(void) {
  uv_loop_t loop;
  uv_timer_t **timers = malloc(TIMERS * sizeof(uv_timer_t *));
  check(uv_loop_init(&loop), "uv_loop_init");
  uint64_t start = uv_hrtime();
  for (int i = 0; i < TIMERS; i++) {
    timers[i] = malloc(sizeof(uv_timer_t));
    uv_timer_init(&loop, timers[i]);
    uv_timer_start(timers[i], on_timer, 1, 0);
  }
  uv_run(&loop, UV_RUN_DEFAULT);
  for (int i = 0; i < TIMERS; i++) free(timers[i]);
  double ns = since(start, TIMERS);
  free(timers);
  uv_loop_close(&loop);
  return ns;
}

static void *measure(void *arg) {
  double(*const bench[])(void) = {submit_and_join, yield, sleep_1ms, libuv_timers};
  int rounds = *(int *)arg;
  for (int r = 0; r < rounds; r++)
    for (int b = 0; b < 4; b++) results[b][r] = bench[b]();
  return NULL;
}

static int compare(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

int main(int argc, char **argv) {
  static const char *const names[] = {"submit+join", "yield", "sleep 1 ms", "uv_timer 1 ms"};
  shunt_t *s;
  int rounds = argc > 1 ? atoi(argv[1]) : 9;
  if (rounds < 1 || rounds > MAX_ROUNDS) {
    fprintf(stderr, "fibers: rounds must be from 1 to %d\n", MAX_ROUNDS);
    return EXIT_FAILURE;
  }
  check(shunt_start(&s, NULL), "shunt_start");
  check(shunt_join(shunt_submit(s, measure, &rounds, SHUNT_WITH(.kind = SHUNT_ASYNC)), NULL), "measure");
  for (int b = 0; b < 4; b++) {
    qsort(results[b], (size_t)rounds, sizeof(double), compare);
    printf("%-14s %10.1f ns\n", names[b], results[b][rounds / 2]);
  }
  return shunt_stop(s, SHUNT_FOREVER);
}
