/* A task that waits, one that blocks, one that counts: one way to submit them, and one to await them. */
#include <shunt.h>
#include <stdio.h>
#include <unistd.h>

static void *waits(void *text) { return shunt_sleep(50), text; }
static void *blocks(void *text) { return usleep(50000), text; } /* an old pthread function, as it is */

static void *counts(void *arg) { /* by value: on a copy of its argument, and its result is copied back */
  unsigned limit = *(unsigned *)arg, primes = 0;
  char text[64] = "";
  for (unsigned n = 2, d; n < limit; primes += d * d > n++)
    for (d = 2; d * d <= n && n % d != 0;) d++;
  snprintf(text, sizeof text, "counted %u primes below %u", primes, limit);
  return shunt_return(text, sizeof text);
}

static int report(shunt_task_t *t) { /* awaits it, wherever it runs */
  shunt_info_t info;
  void *text;
  int err = shunt_await(t, &text);
  shunt_info(t, &info);
  printf("%-8s %6.1f ms   %s\n", shunt_lane_name(info.lane), (double)info.run_ns / 1e6,
         err == 0 ? (const char *)text : shunt_strerror(err));
  shunt_release(t);
  return err;
}

int main(void) {
  shunt_t *s;
  unsigned limit = 1000000;
  int err = shunt_start(&s, NULL);
  if (err != 0) return fprintf(stderr, "shunt_start: %s\n", shunt_strerror(err)), 1;
  shunt_task_t *a = shunt_submit(s, waits, "waited without a thread", SHUNT_WITH(.kind = SHUNT_ASYNC));
  shunt_task_t *b = shunt_submit(s, blocks, "blocked a thread", SHUNT_WITH(.kind = SHUNT_BLOCKING));
  shunt_task_t *c = shunt_submit(s, counts, &limit, SHUNT_WITH(.kind = SHUNT_CPU, .arg_size = sizeof limit));
  int failures = (report(a) != 0) + (report(b) != 0) + (report(c) != 0);
  return failures + (shunt_stop(s, SHUNT_FOREVER) != 0);
}
