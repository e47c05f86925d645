/* Start and stop: every handle has settled when stop returns and outlives its runtime, nothing is
 * leaked, and a runtime with too much to do says so. */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>

static void *nothing(void *arg) {
  (void)arg;
  return NULL;
}

/* ---- stop ---- */

START_TEST(given_time_all_that_was_accepted_finishes) {
  shunt_task_t *t[100];
  start_narrow();
  for (int i = 0; i < 100; i++)
    t[i] = post_number(_i, triple, i);
  stop();
  for (int i = 0; i < 100; i++) {
    ck_assert(shunt_done(t[i]));
    ck_assert_int_eq(answer(t[i]), 3 * i);
  }
}
END_TEST

START_TEST(without_grace_all_is_cancelled_and_settled) {
  shunt_task_t *t[10];
  start_narrow();
  for (int i = 0; i < 10; i++)
    t[i] = post(_i, hold, NULL, 0);
  assert_passes(STARTED, 1);
  assert_is(shunt_stop(rt, 0), 0);
  for (int i = 0; i < 10; i++) {
    ck_assert(shunt_done(t[i]));
    assert_is(shunt_join(t[i], NULL), UV_ECANCELED);
  }
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

START_TEST(a_worker_process_that_will_not_end_is_killed) {
  start_narrow();
  shunt_task_t *t = occupy(SHUNT_LANE_PROCESS), *queued = post(SHUNT_LANE_PROCESS, hold, NULL, 0);
  assert_is(shunt_stop(rt, 0), 0);
  assert_is(shunt_join(t, NULL), UV_ECANCELED);
  assert_is(shunt_join(queued, NULL), UV_ECANCELED);
}
END_TEST

START_TEST(a_thread_that_will_not_end_is_left_behind) {
  start_narrow();
  shunt_task_t *t = shunt_submit(rt, hold_tight, NULL, SHUNT_WITH(.lane = _i));
  assert_passes(STARTED, 1);
  shunt_task_t *queued = post(_i, hold, NULL, 0);
  assert_is(shunt_stop(rt, 0), SHUNT_EABANDONED);
  ck_assert(shunt_done(t));
  assert_is(shunt_join(t, NULL), SHUNT_EABANDONED);
  ck_assert(shunt_done(queued));
  assert_is(shunt_join(queued, NULL), UV_ECANCELED);
  gate_push(GO);
  assert_passes(ENDED, 1);
}
END_TEST

START_TEST(a_stopped_runtime_refuses_politely) {
  start_plain();
  stop();
  assert_is(shunt_stop(rt, 0), SHUNT_ECLOSED);
  shunt_task_t *t = post_number(_i, triple, 1);
  ck_assert(shunt_done(t));
  assert_lane(t, SHUNT_LANE_ANY);
  assert_is(shunt_join(t, NULL), SHUNT_ECLOSED);
}
END_TEST

static void *submit_until_refused(void *arg) {
  int64_t status = 0;
  uint64_t end = now_ms() + patience();
  (void)arg;
  gate_push(STARTED);
  while (status == 0 && now_ms() < end && shunt_yield() == 0)
    status = shunt_join(post(SHUNT_LANE_THREAD, nothing, NULL, 0), NULL);
  return shunt_return(&status, sizeof status);
}

START_TEST(new_work_is_refused_while_stop_waits_for_old) {
  start_narrow();
  shunt_task_t *t = post(_i, submit_until_refused, NULL, 0);
  assert_passes(STARTED, 1);
  stop();
  assert_is((int)answer(t), SHUNT_ECLOSED);
}
END_TEST

START_TEST(handles_outlive_the_runtime) {
  start_plain();
  shunt_task_t *t = post_number(_i, triple, 4);
  stop();
  assert_is(shunt_status(t), 0);
  ck_assert_int_eq(*(const int64_t *)shunt_result(t, NULL), 12);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_TOO_LATE);
  ck_assert_int_eq(answer(t), 12);
}
END_TEST

static void *stop_from_inside(void *arg) {
  *(int *)arg = shunt_stop(rt, SHUNT_FOREVER);
  return NULL;
}

START_TEST(a_task_cannot_stop_the_runtime_it_runs_in) {
  int said = 0;
  start_plain();
  assert_is(finish(shunt_submit(rt, stop_from_inside, &said, SHUNT_WITH(.lane = _i))), 0);
  assert_is(said, SHUNT_EDEADLK);
  ck_assert_int_eq(answer(post_number(_i, triple, 1)), 3);
  stop();
}
END_TEST

/* ---- start ---- */

START_TEST(options_that_make_no_sense_start_nothing) {
  shunt_t *none = (shunt_t *)&none;
  assert_is(shunt_start(&none, &(shunt_options_t){.loop = uv_default_loop()}), UV_EINVAL);
  ck_assert_ptr_null(none);
}
END_TEST

START_TEST(defaults_will_do) {
  start(NULL);
  for (int lane = SHUNT_LANE_LOOP; lane <= SHUNT_LANE_PROCESS; lane++)
    ck_assert_int_eq(answer(post_number(lane, triple, lane)), 3 * lane);
  stop();
}
END_TEST

static void *await_it(void *t) { return shunt_await(t, NULL) == 0 ? t : NULL; }

START_TEST(two_runtimes_stand_side_by_side) {
  int64_t n = 5;
  shunt_t *other;
  void *awaited = NULL;
  start_plain();
  assert_is(shunt_start(&other, &(shunt_options_t){.max_threads = 1, .max_processes = 1}), 0);
  shunt_task_t *here = post_number(_i, triple, 4);
  shunt_task_t *there = shunt_submit(other, triple, &n, SHUNT_WITH(.lane = _i, .arg_size = sizeof n));
  shunt_task_t *across = shunt_submit(rt, await_it, there, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  assert_is(shunt_join(across, &awaited), 0);
  ck_assert_ptr_eq(awaited, there);
  ck_assert_int_eq(answer(there), 15);
  assert_is(shunt_stop(other, patience()), 0);
  ck_assert_int_eq(answer(here), 12);
  ck_assert_int_eq(answer(post_number(_i, triple, 6)), 18);
  stop();
}
END_TEST

/* ---- leaks ---- */

static int count_entries(const char *path) {
  int n = 0;
  DIR *dir = opendir(path);
  ck_assert_ptr_nonnull(dir);
  while (readdir(dir) != NULL)
    n++;
  closedir(dir);
  return n;
}

static int count_mappings(void) {
  int n = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  ck_assert_ptr_nonnull(maps);
  for (int c; (c = getc(maps)) != EOF;)
    n += c == '\n';
  fclose(maps);
  return n;
}

static void *tell_pid(void *arg) {
  (void)arg;
  int64_t pid = getpid();
  return shunt_return(&pid, sizeof pid);
}

/* The pid of the worker it used. */
static pid_t live_and_die(void) {
  start_plain();
  for (int lane = SHUNT_LANE_LOOP; lane <= SHUNT_LANE_THREAD; lane++)
    ck_assert_int_eq(answer(post(lane, tell_pid, NULL, 0)), getpid());
  pid_t worker = (pid_t)answer(post(SHUNT_LANE_PROCESS, tell_pid, NULL, 0));
  stop();
  return worker;
}

/* The thread sanitizer starts a thread of its own with the program's first. */
#if defined(__SANITIZE_THREAD__)
enum { THREADS_OF_OTHERS = 1 };
#else
enum { THREADS_OF_OTHERS = 0 };
#endif

/* The kernel forgets a joined thread and a reaped process a moment after the call that waited for them. */
static bool soon_gone(pid_t worker, int threads) {
  for (uint64_t end = now_ms() + patience(); now_ms() < end; sched_yield())
    if ((kill(worker, 0) == -1 && errno == ESRCH) && count_entries("/proc/self/task") <= threads)
      return true;
  return false;
}

START_TEST(a_hundred_lives_leave_nothing_behind) {
  enum { ROUNDS = 100, SLACK = ROUNDS / 2 }; /* the allocator keeps a few mappings; one a round is a leak */
  int threads = count_entries("/proc/self/task") + THREADS_OF_OTHERS;
  ck_assert(soon_gone(live_and_die(), threads));
  int fds = count_entries("/proc/self/fd"), mappings = count_mappings();
  for (int i = 0; i < ROUNDS; i++)
    ck_assert_msg(soon_gone(live_and_die(), threads), "a worker or a thread stayed after round %d", i);
  ck_assert_int_eq(count_entries("/proc/self/fd"), fds);
  if (slowness() == 1) /* a sanitizer maps as it likes */
    ck_assert_int_le(count_mappings(), mappings + SLACK);
}
END_TEST

/* ---- room ---- */

enum { ROOM = 4, PLENTY = 10000 };

/* Submits until it is refused; how many were accepted. */
static int fill(shunt_lane_t lane, shunt_task_t *t[]) {
  int n = 0;
  while (n < PLENTY && (t[n] = post(lane, nothing, NULL, 0), shunt_status(t[n]) != UV_EAGAIN))
    n++;
  ck_assert_int_lt(n, PLENTY);
  shunt_release(t[n]);
  return n;
}

static void start_small(void) {
  start(&(shunt_options_t){.max_threads = 1, .max_processes = 1, .max_pending = ROOM});
}

START_TEST(more_than_max_pending_is_refused_until_there_is_room) {
  static shunt_task_t *t[PLENTY];
  shunt_task_t *busy = occupy(_i);
  int n = fill(_i, t);
  if (_i == SHUNT_LANE_PROCESS)
    ck_assert_int_ge(n, ROOM);
  else
    ck_assert_int_eq(n, ROOM);
  gate_push(GO);
  for (int i = 0; i < n; i++)
    assert_is(finish(t[i]), 0);
  assert_is(finish(busy), 0);
  ck_assert_int_eq(answer(post_number(_i, triple, 1)), 3);
}
END_TEST

START_TEST(a_withdrawn_task_makes_room) {
  static shunt_task_t *t[PLENTY];
  shunt_task_t *busy = occupy(_i);
  int n = fill(_i, t);
  ck_assert_int_eq(shunt_cancel(t[n - 1]), SHUNT_WITHDRAWN);
  shunt_release(t[n - 1]);
  t[n - 1] = post(_i, nothing, NULL, 0);
  assert_is(shunt_status(t[n - 1]), SHUNT_EPENDING);
  gate_push(GO);
  for (int i = 0; i < n; i++)
    assert_is(finish(t[i]), 0);
  assert_is(finish(busy), 0);
}
END_TEST

static void *submit_patiently(void *lane) {
  gate_push(READY);
  return shunt_submit(rt, nothing, NULL,
                      SHUNT_WITH(.lane = *(shunt_lane_t *)lane, .flags = SHUNT_BY_VALUE | SHUNT_WAIT));
}

START_TEST(a_patient_submit_waits_for_room) {
  static shunt_task_t *t[PLENTY];
  shunt_lane_t lane = _i;
  pthread_t thread;
  void *patient = NULL;
  shunt_task_t *busy = occupy(lane);
  int n = fill(lane, t);
  ck_assert_int_eq(pthread_create(&thread, NULL, submit_patiently, &lane), 0);
  assert_passes(READY, 1);
  gate_push(GO);
  ck_assert_int_eq(pthread_join(thread, &patient), 0);
  assert_is(finish(patient), 0);
  for (int i = 0; i < n; i++)
    assert_is(finish(t[i]), 0);
  assert_is(finish(busy), 0);
}
END_TEST

static void *submit_much(void *lane) {
  for (int i = 0; i < 50; i++) {
    shunt_task_t *t = submit_patiently(lane);
    if (shunt_status(t) < 0 && shunt_status(t) != SHUNT_EPENDING)
      return t;
    shunt_release(t);
  }
  return NULL;
}

START_TEST(a_task_on_the_loop_waits_for_room_without_stopping_the_loop) {
  shunt_lane_t lane = _i;
  void *refused = NULL;
  shunt_task_t *t = shunt_submit(rt, submit_much, &lane, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  assert_is(settle(t), 0);
  assert_is(shunt_join(t, &refused), 0);
  ck_assert_ptr_null(refused);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("stop");
  TCase *stopping = room(suite, "stopping", NULL);
  every_lane(stopping, given_time_all_that_was_accepted_finishes);
  every_lane(stopping, without_grace_all_is_cancelled_and_settled);
  tcase_add_test(stopping, a_worker_process_that_will_not_end_is_killed);
  home_lanes(stopping, a_thread_that_will_not_end_is_left_behind);
  every_lane(stopping, a_stopped_runtime_refuses_politely);
  every_lane(stopping, new_work_is_refused_while_stop_waits_for_old);
  every_lane(stopping, handles_outlive_the_runtime);
  home_lanes(stopping, a_task_cannot_stop_the_runtime_it_runs_in);
  TCase *starting = room(suite, "starting", NULL);
  tcase_add_test(starting, options_that_make_no_sense_start_nothing);
  tcase_add_test(starting, defaults_will_do);
  every_lane(starting, two_runtimes_stand_side_by_side);
  tcase_add_test(room(suite, "leaks", NULL), a_hundred_lives_leave_nothing_behind);
  TCase *pressure = room(suite, "room", start_small);
  every_lane(pressure, more_than_max_pending_is_refused_until_there_is_room);
  every_lane(pressure, a_withdrawn_task_makes_room);
  every_lane(pressure, a_patient_submit_waits_for_room);
  every_lane(pressure, a_task_on_the_loop_waits_for_room_without_stopping_the_loop);
  return run(suite, argc, argv);
}
