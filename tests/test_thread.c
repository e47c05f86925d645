/* The thread lane: as many threads as are needed and allowed, old pthread functions as they are, and a
 * thread that awaits a queued task runs it itself. */
#include "support.h"

#include <pthread.h>

/* ---- how many ---- */

static void *hold_in_crowd(void *arg) {
  crowd_enter();
  gate_push(STARTED);
  gate_wait(GO, 1);
  crowd_leave();
  return arg;
}

static void submit_crowd(shunt_task_t *t[], int n, shunt_kind_t kind) {
  for (int i = 0; i < n; i++)
    t[i] = shunt_submit(rt, hold_in_crowd, NULL, SHUNT_WITH(.kind = kind, .lane = SHUNT_LANE_THREAD));
}

static void finish_crowd(shunt_task_t *t[], int n) {
  gate_push(GO);
  for (int i = 0; i < n; i++)
    assert_is(finish(t[i]), 0);
}

START_TEST(blocked_threads_make_room_for_more) {
  enum { MANY = 32 };
  shunt_task_t *t[MANY];
  start_plain();
  submit_crowd(t, MANY, SHUNT_BLOCKING);
  assert_passes(STARTED, MANY);
  finish_crowd(t, MANY);
  ck_assert_int_eq(shared->peak, MANY);
  stop();
}
END_TEST

START_TEST(never_more_than_max_threads_run_at_once) {
  enum { MAX = 3, MANY = 24 };
  shunt_task_t *t[MANY];
  start(&(shunt_options_t){.max_threads = MAX});
  submit_crowd(t, MANY, SHUNT_BLOCKING);
  assert_passes(STARTED, MAX);
  finish_crowd(t, MANY);
  ck_assert_int_eq(shared->peak, MAX);
  stop();
}
END_TEST

START_TEST(computing_tasks_run_on_as_many_threads_as_there_are_cores) {
  enum { MANY = 64 };
  shunt_task_t *t[MANY];
  start_plain();
  submit_crowd(t, MANY, SHUNT_CPU);
  assert_passes(STARTED, 1);
  finish_crowd(t, MANY);
  ck_assert_int_le(shared->peak, uv_available_parallelism());
  stop();
}
END_TEST

START_TEST(computing_tasks_do_not_hold_blocking_ones_up) {
  enum { MANY = 16 };
  shunt_task_t *computing[MANY], *blocking[MANY];
  start_plain();
  submit_crowd(computing, MANY, SHUNT_CPU);
  assert_passes(STARTED, 1);
  uint32_t running = uv_available_parallelism() < MANY ? uv_available_parallelism() : MANY;
  submit_crowd(blocking, MANY, SHUNT_BLOCKING);
  assert_passes(STARTED, running + MANY);
  finish_crowd(computing, MANY);
  for (int i = 0; i < MANY; i++)
    assert_is(finish(blocking[i]), 0);
  stop();
}
END_TEST

/* ---- in place ---- */

/* By reference: where it ran, and that it knew itself there. */
struct place {
  pid_t thread;
  shunt_task_t *self;
};

static void *note_place(void *place) {
  *(struct place *)place = (struct place){.thread = gettid(), .self = shunt_self()};
  return place;
}

START_TEST(a_waiter_runs_a_queued_task_on_its_own_thread) {
  struct place place = {0};
  void *result = NULL;
  shunt_task_t *busy = occupy(SHUNT_LANE_THREAD);
  shunt_task_t *t = shunt_submit(rt, note_place, &place, SHUNT_WITH(.lane = SHUNT_LANE_THREAD));
  assert_is(shunt_await(t, &result), 0);
  ck_assert_ptr_eq(result, &place);
  ck_assert_int_eq(place.thread, gettid());
  ck_assert_ptr_eq(place.self, t);
  ck_assert_ptr_null(shunt_self());
  gate_push(GO);
  assert_is(finish(t), 0);
  assert_is(finish(busy), 0);
}
END_TEST

START_TEST(a_wait_with_a_limit_never_runs_the_task_itself) {
  struct place place = {0};
  shunt_task_t *busy = occupy(SHUNT_LANE_THREAD);
  shunt_task_t *t = shunt_submit(rt, note_place, &place, SHUNT_WITH(.lane = SHUNT_LANE_THREAD));
  assert_is(shunt_await_for(t, 20, NULL), UV_ETIMEDOUT);
  ck_assert_int_eq(place.thread, 0);
  gate_push(GO);
  assert_is(shunt_await_for(t, patience(), NULL), 0);
  ck_assert_int_ne(place.thread, gettid());
  assert_is(finish(t), 0);
  assert_is(finish(busy), 0);
}
END_TEST

/* Awaits the task it is given, and is itself again afterwards. */
static void *nest_place(void *inner) {
  shunt_task_t *self = shunt_self();
  void *place = NULL;
  if (shunt_await(inner, &place) != 0 || shunt_self() != self || shunt_current() != rt)
    return NULL;
  return ((struct place *)place)->thread == gettid() ? place : NULL;
}

START_TEST(a_task_is_itself_again_after_running_another_in_place) {
  struct place place = {0};
  void *result = NULL;
  shunt_task_t *busy = occupy(SHUNT_LANE_THREAD);
  shunt_task_t *inner = shunt_submit(rt, note_place, &place, SHUNT_WITH(.lane = SHUNT_LANE_THREAD));
  shunt_task_t *outer = shunt_submit(rt, nest_place, inner, SHUNT_WITH(.lane = SHUNT_LANE_THREAD));
  assert_is(shunt_await(outer, &result), 0);
  ck_assert_ptr_eq(result, &place);
  ck_assert_ptr_eq(place.self, inner);
  gate_push(GO);
  assert_is(finish(inner), 0);
  assert_is(finish(outer), 0);
  assert_is(finish(busy), 0);
}
END_TEST

/* ---- old pthread functions ---- */

static void *leave(void *arg) {
  pthread_exit(arg);
}

START_TEST(pthread_exit_settles_the_task_and_the_pool_goes_on) {
  int64_t n = 1;
  assert_is(finish(shunt_submit(rt, leave, &n, SHUNT_WITH(.lane = SHUNT_LANE_THREAD))), SHUNT_EEXITED);
  assert_is(finish(post_number(SHUNT_LANE_THREAD, leave, n)), SHUNT_EEXITED);
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_THREAD, triple, 2)), 6);
}
END_TEST

static void *submit_and_sum(void *arg) {
  int64_t sum = 0, n = 0;
  for (int64_t i = 1; i <= 50; i++) {
    shunt_task_t *t = post_number((shunt_lane_t)(1 + i % 3), triple, i);
    if (shunt_collect(t, &n, sizeof n) == 0)
      sum += n;
  }
  *(int64_t *)arg = sum;
  return arg;
}

START_TEST(threads_the_library_never_heard_of_may_submit_and_wait) {
  pthread_t threads[8];
  int64_t sums[8];
  for (int i = 0; i < 8; i++)
    ck_assert_int_eq(pthread_create(&threads[i], NULL, submit_and_sum, &sums[i]), 0);
  for (int i = 0; i < 8; i++) {
    pthread_join(threads[i], NULL);
    ck_assert_int_eq(sums[i], 3 * 50 * 51 / 2);
  }
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("thread");
  TCase *how_many = room(suite, "how many", NULL);
  tcase_add_test(how_many, blocked_threads_make_room_for_more);
  tcase_add_test(how_many, never_more_than_max_threads_run_at_once);
  tcase_add_test(how_many, computing_tasks_run_on_as_many_threads_as_there_are_cores);
  tcase_add_test(how_many, computing_tasks_do_not_hold_blocking_ones_up);
  TCase *in_place = room(suite, "in place", start_narrow);
  tcase_add_test(in_place, a_waiter_runs_a_queued_task_on_its_own_thread);
  tcase_add_test(in_place, a_wait_with_a_limit_never_runs_the_task_itself);
  tcase_add_test(in_place, a_task_is_itself_again_after_running_another_in_place);
  TCase *pthreads = room(suite, "pthreads", start_plain);
  tcase_add_test(pthreads, pthread_exit_settles_the_task_and_the_pool_goes_on);
  tcase_add_test(pthreads, threads_the_library_never_heard_of_may_submit_and_wait);
  return run(suite, argc, argv);
}
