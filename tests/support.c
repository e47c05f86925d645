/* Gates, fixtures and the runner of the test programs; support.h says what they promise.
 *
 * A gate is a futex word in shared memory, so one push wakes waiters in every process and no test needs a
 * pipe or a lock that a dying worker could leave in a bad state. */
#include "support.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

enum { PATIENCE_MS = 20000, TEST_SECONDS = 60, SLOW = 2 }; /* twice that in a slow build, however slow */

struct shared *shared;
shunt_t *rt;

/* A sanitizer ends the program by default where malloc would return NULL; a test asks for more memory
 * than there is. */
#if defined(__SANITIZE_ADDRESS__)
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
#elif defined(__SANITIZE_THREAD__)
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "allocator_may_return_null=1"; }
#endif

unsigned slowness(void) {
#if defined(__SANITIZE_THREAD__)
  return 10;
#elif defined(__SANITIZE_ADDRESS__)
  return 4;
#else
  return RUNNING_ON_VALGRIND ? 20 : 1;
#endif
}

static unsigned slow(void) { return slowness() > 1 ? SLOW : 1; }

uint64_t patience(void) { return PATIENCE_MS * slow(); }

size_t scaled(size_t n) { return n > slowness() ? n / slowness() : 1; }

uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- gates ---- */

void gate_push(enum gate gate) {
  atomic_fetch_add(&shared->gates[gate], 1);
  syscall(SYS_futex, &shared->gates[gate], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool gate_wait(enum gate gate, uint32_t n) {
  uint64_t end = now_ms() + patience();
  for (uint32_t seen; (seen = atomic_load(&shared->gates[gate])) < n;) {
    uint64_t now = now_ms();
    if (now >= end)
      return false;
    uint64_t ms = end - now;
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    syscall(SYS_futex, &shared->gates[gate], FUTEX_WAIT, seen, &left, NULL, 0);
  }
  return true;
}

int gate_await(enum gate gate, uint32_t n) {
  while (atomic_load(&shared->gates[gate]) < n) {
    int err = shunt_sleep(1);
    if (err != 0)
      return err;
  }
  return 0;
}

void crowd_enter(void) {
  int64_t inside = atomic_fetch_add(&shared->inside, 1) + 1, peak = atomic_load(&shared->peak);
  while (inside > peak && !atomic_compare_exchange_weak(&shared->peak, &peak, inside))
    continue;
}

void crowd_leave(void) { atomic_fetch_sub(&shared->inside, 1); }

/* ---- tasks ---- */

void *hold(void *arg) {
  (void)arg;
  gate_push(STARTED);
  if (gate_await(GO, 1) == 0)
    gate_push(ENDED);
  return NULL;
}

void *hold_tight(void *arg) {
  (void)arg;
  gate_push(STARTED);
  gate_wait(GO, 1);
  gate_push(ENDED);
  return NULL;
}

void *triple(void *arg) {
  int64_t n = *(int64_t *)arg * 3;
  return shunt_return(&n, sizeof n);
}

shunt_task_t *post(shunt_lane_t lane, shunt_fn fn, const void *arg, size_t size) {
  shunt_t *here = shunt_current();
  return shunt_submit(here != NULL ? here : rt, fn, (void *)arg,
                      SHUNT_WITH(.lane = lane, .arg_size = size, .flags = SHUNT_BY_VALUE));
}

shunt_task_t *post_number(shunt_lane_t lane, shunt_fn fn, int64_t number) {
  return post(lane, fn, &number, sizeof number);
}

shunt_task_t *occupy(shunt_lane_t lane) {
  uint32_t started = atomic_load(&shared->gates[STARTED]);
  shunt_task_t *t = post(lane, hold_tight, NULL, 0);
  assert_passes(STARTED, started + 1);
  return t;
}

int settle(shunt_task_t *t) {
  int err = shunt_await_for(t, patience(), NULL);
  ck_assert_msg(shunt_done(t), "the handle did not settle: %s", status_word(err));
  assert_is(shunt_status(t), err);
  return err;
}

int finish(shunt_task_t *t) {
  int status = settle(t);
  assert_is(shunt_join(t, NULL), status);
  return status;
}

int64_t answer(shunt_task_t *t) {
  int64_t n = 0;
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, &n, sizeof n), 0);
  return n;
}

const char *status_word(int status) {
  return status == 0 ? "success" : shunt_err_name(status);
}

shunt_lane_t lane_of(shunt_task_t *t) {
  shunt_info_t info;
  shunt_info(t, &info);
  return info.lane;
}

/* ---- fixtures and runner ---- */

/* Check times a test out from outside, and cannot when it does not fork: an alarm does it then. */
static void begin(void) {
  const char *fork_status = getenv("CK_FORK");
  if (fork_status != NULL && strcmp(fork_status, "no") == 0)
    alarm(TEST_SECONDS * slow());
  memset(shared, 0, sizeof *shared);
}

void start(const shunt_options_t *options) { assert_is(shunt_start(&rt, options), 0); }

void start_plain(void) { start(&(shunt_options_t){.max_processes = 4}); }

void start_narrow(void) { start(&(shunt_options_t){.max_threads = 1, .max_processes = 1}); }

void stop(void) { assert_is(shunt_stop(rt, patience()), 0); }

TCase *room(Suite *suite, const char *name, SFun setup) {
  TCase *room = tcase_create(name);
  tcase_add_checked_fixture(room, begin, NULL);
  if (setup != NULL)
    tcase_add_checked_fixture(room, setup, stop);
  tcase_set_timeout(room, TEST_SECONDS * slow());
  suite_add_tcase(suite, room);
  return room;
}

void every_lane(TCase *room, const TTest *test) {
  tcase_add_loop_test(room, test, SHUNT_LANE_LOOP, SHUNT_LANE_PROCESS + 1);
}

void home_lanes(TCase *room, const TTest *test) {
  tcase_add_loop_test(room, test, SHUNT_LANE_LOOP, SHUNT_LANE_THREAD + 1);
}

void share(void) {
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) {
    perror("no shared memory for the gates of the tests");
    exit(EXIT_FAILURE);
  }
}

int run(Suite *suite, int argc, char **argv) {
  share();
  SRunner *runner = srunner_create(suite);
  srunner_run(runner, NULL, argc > 1 ? argv[1] : NULL, CK_NORMAL);
  int ran = srunner_ntests_run(runner), failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  if (ran == 0)
    fprintf(stderr, "%s: no test ran; give no argument, or the name of one room() in the source\n", argv[0]);
  return ran == 0 || failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
