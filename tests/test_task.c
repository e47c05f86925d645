/* The handle: whatever lane a task runs on, its handle is awaited, polled, kept and dropped in the same
 * way, by anybody.
 *
 * A test added with every_lane() runs once a lane, which is _i; home_lanes() leaves out the process lane,
 * where no by-reference task may go. */
#include "support.h"

#include <pthread.h>

/* ---- tasks ---- */

static void *fail_io(void *arg) {
  (void)arg;
  return shunt_fail(UV_EIO, "no luck");
}

static void *fail_early(void *arg) {
  (void)arg;
  return shunt_fail(UV_EPERM, NULL);
}

static void *fail_late(void *arg) {
  (void)arg;
  gate_await(GO, 1);
  return shunt_fail(UV_EIO, NULL);
}

static void *wait_for(void *arg) {
  gate_await(GO, *(uint32_t *)arg);
  return NULL;
}

static void *seven_after_go(void *arg) {
  (void)arg;
  int64_t seven = 7;
  gate_push(STARTED);
  gate_await(GO, 1);
  return shunt_return(&seven, sizeof seven);
}

/* Awaits a handle and hands on its result: as a task, and as the function of a thread the library never
 * heard of. */
static void *await_it(void *t) {
  void *result = NULL;
  gate_push(READY);
  return shunt_await(t, &result) == 0 ? result : NULL;
}

static void *same_pointer(void *arg) { return arg; }

static void *pid_and_self(void *arg) {
  (void)arg;
  int64_t told[] = {getpid(), shunt_self() != NULL, shunt_current() != NULL, shunt_cancelled()};
  return shunt_return(told, sizeof told);
}

static void *await_self(void *arg) {
  (void)arg;
  int64_t told[] = {shunt_await(shunt_self(), NULL), shunt_await_for(shunt_self(), SHUNT_FOREVER, NULL),
                    shunt_join(shunt_self(), NULL), shunt_done(shunt_self())};
  return shunt_return(told, sizeof told);
}

static void *self_is(void *arg) {
  (void)arg;
  gate_await(GO, 1);
  return shunt_current() == rt ? shunt_self() : NULL;
}

/* ---- settling ---- */

START_TEST(a_task_gives_its_result) { ck_assert_int_eq(answer(post_number(_i, triple, 14)), 42); }
END_TEST

START_TEST(a_by_reference_task_hands_its_pointer_back) {
  int local;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, same_pointer, &local, SHUNT_WITH(.lane = _i));
  assert_is(shunt_join(t, &result), 0);
  ck_assert_ptr_eq(result, &local);
}
END_TEST

START_TEST(a_failure_is_the_status_of_the_handle) {
  shunt_task_t *t = post(_i, fail_io, NULL, 0);
  assert_is(settle(t), UV_EIO);
  assert_is(shunt_await(t, NULL), UV_EIO);
  assert_is(shunt_join(t, NULL), UV_EIO);
}
END_TEST

START_TEST(a_pending_handle_says_so_and_does_not_wait) {
  shunt_task_t *t = post(_i, hold, NULL, 0);
  void *result = &result;
  assert_passes(STARTED, 1);
  ck_assert(!shunt_done(t));
  assert_is(shunt_status(t), SHUNT_EPENDING);
  assert_is(shunt_await_for(t, 0, &result), UV_ETIMEDOUT);
  ck_assert_ptr_null(result);
  ck_assert_ptr_null(shunt_result(t, NULL));
  gate_push(GO);
  assert_is(finish(t), 0);
}
END_TEST

START_TEST(a_settled_handle_may_be_awaited_again_and_again) {
  shunt_task_t *t = post_number(_i, triple, 5);
  void *first = NULL, *second = NULL;
  assert_is(shunt_await(t, &first), 0);
  assert_is(shunt_await_for(t, 0, &second), 0);
  ck_assert_ptr_eq(first, second);
  ck_assert_ptr_eq(first, shunt_result(t, NULL));
  ck_assert_int_eq(answer(t), 15);
}
END_TEST

START_TEST(every_waiter_of_one_handle_gets_its_result) {
  enum { EACH = 8 };
  pthread_t threads[EACH];
  shunt_task_t *t = post(_i, seven_after_go, NULL, 0), *waiters[2 * EACH];
  for (int i = 0; i < EACH; i++) {
    ck_assert_int_eq(pthread_create(&threads[i], NULL, await_it, t), 0);
    waiters[i] = shunt_submit(rt, await_it, t, SHUNT_WITH(.lane = SHUNT_LANE_THREAD));
    waiters[EACH + i] = shunt_submit(rt, await_it, t, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  }
  assert_passes(READY, 3 * EACH);
  gate_push(GO);
  assert_is(settle(t), 0);
  for (int i = 0; i < EACH; i++) {
    void *result = NULL;
    ck_assert_int_eq(pthread_join(threads[i], &result), 0);
    ck_assert_ptr_eq(result, shunt_result(t, NULL));
  }
  for (int i = 0; i < 2 * EACH; i++) {
    void *result = NULL;
    assert_is(shunt_join(waiters[i], &result), 0);
    ck_assert_ptr_eq(result, shunt_result(t, NULL));
  }
  ck_assert_int_eq(answer(t), 7);
}
END_TEST

/* ---- references ---- */

START_TEST(a_released_task_still_runs_to_its_end) {
  shunt_release(post(_i, hold, NULL, 0));
  gate_push(GO);
  assert_passes(ENDED, 1);
}
END_TEST

START_TEST(a_retained_handle_outlives_its_join) {
  shunt_task_t *t = shunt_retain(post_number(_i, triple, 3));
  assert_is(finish(t), 0);
  ck_assert_int_eq(*(const int64_t *)shunt_result(t, NULL), 9);
  assert_is(shunt_status(t), 0);
  shunt_release(t);
}
END_TEST

/* ---- many handles ---- */

START_TEST(await_any_tells_the_lowest_that_has_settled) {
  uint32_t once = 1, twice = 2;
  shunt_task_t *t[] = {post(_i, wait_for, &twice, sizeof twice), post(_i, wait_for, &once, sizeof once),
                       post(_i, wait_for, &once, sizeof once)};
  ck_assert_int_eq(shunt_await_any(t, 3, 0), UV_ETIMEDOUT);
  gate_push(GO);
  ck_assert_int_gt(shunt_await_any(t, 3, patience()), 0);
  assert_is(shunt_await_all(t + 1, 2, patience()), 0);
  ck_assert_int_eq(shunt_await_any(t, 3, 0), 1);
  gate_push(GO);
  assert_is(settle(t[0]), 0);
  ck_assert_int_eq(shunt_await_any(t, 3, SHUNT_FOREVER), 0);
  for (int i = 0; i < 3; i++)
    assert_is(finish(t[i]), 0);
}
END_TEST

START_TEST(await_all_waits_for_all_and_tells_the_first_failure) {
  shunt_task_t *t[] = {post_number(_i, triple, 1), post(_i, fail_late, NULL, 0),
                       post(_i, fail_early, NULL, 0)};
  assert_is(settle(t[2]), UV_EPERM);
  assert_is(shunt_await_all(t, 3, 0), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(shunt_await_all(t, 3, patience()), UV_EIO);
  for (int i = 0; i < 3; i++) {
    ck_assert(shunt_done(t[i]));
    shunt_release(t[i]);
  }
}
END_TEST

START_TEST(a_handle_may_be_listed_twice) {
  shunt_task_t *t = post_number(_i, triple, 1), *twice[] = {t, t};
  assert_is(shunt_await_all(twice, 2, patience()), 0);
  ck_assert_int_eq(shunt_await_any(twice, 2, 0), 0);
  shunt_release(t);
}
END_TEST

START_TEST(none_of_no_handles_can_settle_and_all_of_them_have) {
  assert_is(shunt_await_any(NULL, 0, SHUNT_FOREVER), UV_EINVAL);
  assert_is(shunt_await_all(NULL, 0, SHUNT_FOREVER), 0);
}
END_TEST

/* ---- refusals ---- */

static void assert_refused(shunt_task_t *t, int status) {
  ck_assert_ptr_nonnull(t);
  ck_assert(shunt_done(t));
  assert_is(shunt_status(t), status);
  assert_is(shunt_await(t, NULL), status);
  shunt_info_t info;
  shunt_info(t, &info);
  ck_assert_int_eq(info.lane, SHUNT_LANE_ANY);
  ck_assert_uint_eq(info.attempts, 0);
  assert_is(shunt_join(t, NULL), status);
}

START_TEST(what_makes_no_sense_comes_back_as_a_settled_handle) {
  assert_refused(shunt_submit(rt, NULL, NULL, NULL), UV_EINVAL);
  assert_refused(shunt_submit(rt, hold, NULL, SHUNT_WITH(.lane = SHUNT_LANE_PROCESS)), UV_EINVAL);
  assert_refused(shunt_submit(rt, hold, NULL, SHUNT_WITH(.lane = (shunt_lane_t)9)), UV_EINVAL);
  assert_refused(shunt_submit(rt, hold, NULL, SHUNT_WITH(.kind = (shunt_kind_t)9)), UV_EINVAL);
  assert_refused(shunt_submit(rt, hold, NULL, SHUNT_WITH(.flags = 1u << 31)), UV_EINVAL);
}
END_TEST

START_TEST(a_task_that_awaits_itself_is_told_and_not_stuck) {
  int64_t told[4];
  shunt_task_t *t = post(_i, await_self, NULL, 0);
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, told, sizeof told), 0);
  for (int i = 0; i < 3; i++)
    assert_is((int)told[i], SHUNT_EDEADLK);
  ck_assert_int_eq(told[3], false);
}
END_TEST

/* ---- what is known ---- */

START_TEST(a_kind_finds_its_lane) {
  static const struct { shunt_kind_t kind; shunt_lane_t by_value, by_reference; } table[] = {
    {SHUNT_AUTO, SHUNT_LANE_THREAD, SHUNT_LANE_THREAD},
    {SHUNT_ASYNC, SHUNT_LANE_LOOP, SHUNT_LANE_LOOP},
    {SHUNT_BLOCKING, SHUNT_LANE_THREAD, SHUNT_LANE_THREAD},
    {SHUNT_CPU, SHUNT_LANE_PROCESS, SHUNT_LANE_THREAD},
  };
  int64_t n = 2;
  shunt_task_t *v = shunt_submit(rt, triple, &n, SHUNT_WITH(.kind = table[_i].kind, .arg_size = sizeof n));
  shunt_task_t *r = shunt_submit(rt, same_pointer, &n, SHUNT_WITH(.kind = table[_i].kind));
  assert_lane(v, table[_i].by_value);
  assert_lane(r, table[_i].by_reference);
  ck_assert_int_eq(answer(v), 6);
  assert_is(finish(r), 0);
}
END_TEST

START_TEST(info_tells_where_and_why_a_task_ran) {
  int64_t told[4];
  shunt_info_t info;
  shunt_task_t *t = post(_i, pid_and_self, NULL, 0);
  assert_is(settle(t), 0);
  memcpy(told, shunt_result(t, NULL), sizeof told);
  shunt_info(t, &info);
  ck_assert_int_eq(info.lane, _i);
  ck_assert_ptr_nonnull(info.reason);
  ck_assert_uint_eq(info.attempts, 1);
  ck_assert_int_eq(info.pid, _i == SHUNT_LANE_PROCESS ? told[0] : 0);
  ck_assert_int_eq(told[0] == getpid(), _i != SHUNT_LANE_PROCESS);
  ck_assert_int_eq(info.signal, 0);
  ck_assert_int_eq(info.exit_status, 0);
  ck_assert_ptr_null(info.message);
  shunt_release(t);
}
END_TEST

START_TEST(a_task_knows_itself_and_its_runtime) {
  int64_t told[4];
  shunt_task_t *t = post(_i, pid_and_self, NULL, 0);
  assert_is(settle(t), 0);
  assert_is(shunt_collect(t, told, sizeof told), 0);
  ck_assert_int_eq(told[1], true);
  ck_assert_int_eq(told[2], true);
  ck_assert_int_eq(told[3], false);
  ck_assert_ptr_null(shunt_self());
  ck_assert_ptr_null(shunt_current());
  ck_assert(!shunt_cancelled());
}
END_TEST

START_TEST(self_is_the_handle_that_submit_returned) {
  void *result = NULL;
  shunt_task_t *t = shunt_retain(shunt_submit(rt, self_is, NULL, SHUNT_WITH(.lane = _i)));
  gate_push(GO);
  assert_is(shunt_join(t, &result), 0);
  ck_assert_ptr_eq(result, t);
  shunt_release(t);
}
END_TEST

/* ---- failures nobody looked at ---- */

static void unobserved(shunt_task_t *t, void *data) {
  *(_Atomic int64_t *)data = shunt_status(t);
  gate_push(SEEN);
}

START_TEST(only_a_failure_that_nobody_looked_at_is_reported) {
  start(&(shunt_options_t){.on_unobserved = unobserved, .unobserved_data = (void *)&shared->cells[0]});
  assert_is(finish(post(_i, fail_early, NULL, 0)), UV_EPERM);
  shunt_release(post(_i, hold, NULL, 0));
  shunt_release(post(_i, fail_io, NULL, 0));
  assert_passes(SEEN, 1);
  gate_push(GO);
  stop();
  ck_assert_uint_eq(shared->gates[SEEN], 1);
  assert_is((int)shared->cells[0], UV_EIO);
}
END_TEST

/* ---- words ---- */

START_TEST(every_error_has_a_name_and_words) {
#define CHECK_WORDS(name, number, text)                                                                      \
  ck_assert_str_eq(shunt_err_name(number), "SHUNT_" #name);                                                  \
  ck_assert_str_eq(shunt_strerror(SHUNT_##name), text);
  SHUNT_ERRORS(CHECK_WORDS)
  ck_assert_str_eq(shunt_err_name(UV_EINVAL), "UV_EINVAL");
  ck_assert_str_eq(shunt_strerror(UV_EINVAL), uv_strerror(UV_EINVAL));
  ck_assert_str_eq(shunt_err_name(-99999), "UNKNOWN");
  ck_assert_str_eq(shunt_strerror(-99999), "unknown error");
  ck_assert_str_eq(shunt_lane_name(SHUNT_LANE_ANY), "none");
  ck_assert_str_eq(shunt_lane_name(SHUNT_LANE_LOOP), "loop");
  ck_assert_str_eq(shunt_lane_name(SHUNT_LANE_THREAD), "thread");
  ck_assert_str_eq(shunt_lane_name(SHUNT_LANE_PROCESS), "process");
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("task");
  TCase *settling = room(suite, "settling", start_plain);
  every_lane(settling, a_task_gives_its_result);
  home_lanes(settling, a_by_reference_task_hands_its_pointer_back);
  every_lane(settling, a_failure_is_the_status_of_the_handle);
  every_lane(settling, a_pending_handle_says_so_and_does_not_wait);
  every_lane(settling, a_settled_handle_may_be_awaited_again_and_again);
  every_lane(settling, every_waiter_of_one_handle_gets_its_result);
  every_lane(settling, a_released_task_still_runs_to_its_end);
  every_lane(settling, a_retained_handle_outlives_its_join);
  TCase *many = room(suite, "many handles", start_plain);
  every_lane(many, await_any_tells_the_lowest_that_has_settled);
  every_lane(many, await_all_waits_for_all_and_tells_the_first_failure);
  every_lane(many, a_handle_may_be_listed_twice);
  tcase_add_test(many, none_of_no_handles_can_settle_and_all_of_them_have);
  TCase *refusals = room(suite, "refusals", start_plain);
  tcase_add_test(refusals, what_makes_no_sense_comes_back_as_a_settled_handle);
  every_lane(refusals, a_task_that_awaits_itself_is_told_and_not_stuck);
  TCase *known = room(suite, "what is known", start_plain);
  tcase_add_loop_test(known, a_kind_finds_its_lane, 0, 4);
  every_lane(known, info_tells_where_and_why_a_task_ran);
  every_lane(known, a_task_knows_itself_and_its_runtime);
  home_lanes(known, self_is_the_handle_that_submit_returned);
  every_lane(room(suite, "unobserved", NULL), only_a_failure_that_nobody_looked_at_is_reported);
  tcase_add_test(room(suite, "words", NULL), every_error_has_a_name_and_words);
  return run(suite, argc, argv);
}
