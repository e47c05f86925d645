/* Time and its end: deadlines, limits of a wait, sleep, and cancel.
 *
 * A clock is asserted from one side only: what must last long enough. Where a test needs a task to start
 * before its deadline the deadline is soon(), far longer than a start takes. */
#include "support.h"

static uint64_t soon(void) { return 300 * slowness(); }

/* ---- tasks ---- */

/* Asks for waits of every sort after it was told to end, and tells what they said. */
static void *ask_again(void *arg) {
  (void)arg;
  gate_push(STARTED);
  shunt_task_t *never = post(SHUNT_LANE_THREAD, hold, NULL, 0);
  shared->cells[0] = shunt_sleep(SHUNT_FOREVER);
  shared->cells[1] = shunt_sleep(0);
  shared->cells[2] = shunt_yield();
  shared->cells[3] = shunt_await(never, NULL);
  shared->cells[4] = shunt_await_for(never, SHUNT_FOREVER, NULL);
  shared->cells[5] = shunt_await_any(&never, 1, SHUNT_FOREVER);
  shared->cells[6] = shunt_await_all(&never, 1, SHUNT_FOREVER);
  shared->cells[7] = shunt_cancelled();
  shared->cells[8] = shunt_done(never);
  shunt_release(never);
  gate_push(SEEN);
  return NULL;
}

/* Told to end by a failing wait, it stays all the same until GO. By reference. */
static void *outstay(void *arg) {
  gate_push(STARTED);
  while (shunt_sleep(SHUNT_FOREVER) == 0)
    continue;
  gate_push(SEEN);
  gate_wait(GO, 1);
  return arg;
}

static void *look_until_cancelled(void *arg) {
  gate_push(STARTED);
  while (!shunt_cancelled())
    continue;
  return arg;
}

static void *never_look(void *arg) {
  gate_push(STARTED);
  gate_wait(GO, 1);
  return arg;
}

static void *never_look_by_value(void *arg) {
  gate_push(STARTED);
  gate_wait(GO, 1);
  return shunt_return(arg, sizeof(int64_t));
}

static void *sleep_for(void *arg) {
  int64_t begun = (int64_t)now_ms();
  int err = shunt_sleep((uint64_t) * (int64_t *)arg);
  int64_t slept = (int64_t)now_ms() - begun;
  return err == 0 ? shunt_return(&slept, sizeof slept) : shunt_fail(err, NULL);
}

static void *yield_often(void *arg) {
  (void)arg;
  for (int i = 0; i < 100; i++)
    if (shunt_yield() != 0)
      return shunt_fail(UV_EIO, "yield failed");
  return NULL;
}

/* Awaits or joins an inner task that holds; cells[0] is what that said, cells[1] how the inner task was
 * then. */
static void *await_inner(void *lane) {
  shunt_task_t *inner = post((shunt_lane_t)(intptr_t)lane, hold, NULL, 0);
  shared->cells[0] = shunt_await(inner, NULL);
  shared->cells[1] = shunt_status(inner);
  shunt_release(inner);
  gate_push(SEEN);
  return NULL;
}

static void *join_inner(void *lane) {
  shunt_task_t *inner = shunt_retain(post((shunt_lane_t)(intptr_t)lane, hold, NULL, 0));
  shared->cells[0] = shunt_join(inner, NULL);
  shared->cells[1] = shunt_status(inner);
  shunt_release(inner);
  gate_push(SEEN);
  return NULL;
}

/* ---- deadlines ---- */

static shunt_task_t *post_limited(shunt_lane_t lane, shunt_fn fn, uint64_t timeout_ms) {
  shunt_task_options_t options = {.lane = lane, .flags = SHUNT_BY_VALUE, .timeout_ms = timeout_ms};
  return shunt_submit(rt, fn, NULL, &options);
}

START_TEST(a_task_in_time_keeps_its_result) {
  int64_t n = 4;
  shunt_task_options_t options = {.lane = _i, .arg_size = sizeof n, .timeout_ms = patience()};
  shunt_task_t *t = shunt_submit(rt, triple, &n, &options);
  ck_assert_int_eq(answer(t), 12);
}
END_TEST

START_TEST(a_value_settles_at_its_deadline_though_its_function_runs_on) {
  shunt_task_t *t = post_limited(_i, hold_tight, soon());
  assert_passes(STARTED, 1);
  assert_is(settle(t), UV_ETIMEDOUT);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
  shunt_release(t);
  gate_push(GO);
}
END_TEST

START_TEST(a_reference_never_settles_before_its_function_returned) {
  int local;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, outstay, &local, SHUNT_WITH(.lane = _i, .timeout_ms = soon()));
  assert_passes(SEEN, 1);
  ck_assert(!shunt_done(t));
  assert_is(shunt_await_for(t, 20, NULL), UV_ETIMEDOUT);
  assert_is(shunt_status(t), SHUNT_EPENDING);
  gate_push(GO);
  assert_is(shunt_join(t, &result), UV_ETIMEDOUT);
  ck_assert_ptr_eq(result, &local);
}
END_TEST

START_TEST(a_task_that_waits_past_its_deadline_is_told) {
  shunt_task_t *t = post_limited(_i, ask_again, soon());
  assert_passes(SEEN, 1);
  for (int i = 0; i <= 6; i++)
    assert_is((int)shared->cells[i], UV_ETIMEDOUT);
  ck_assert_int_eq(shared->cells[7], true);
  ck_assert_int_eq(shared->cells[8], false);
  gate_push(GO);
  assert_is(finish(t), UV_ETIMEDOUT);
}
END_TEST

START_TEST(looking_tells_of_the_deadline) {
  int local;
  void *result = NULL;
  shunt_task_options_t options = {.lane = SHUNT_LANE_THREAD, .timeout_ms = soon()};
  shunt_task_t *t = shunt_submit(rt, look_until_cancelled, &local, &options);
  assert_is(settle(t), UV_ETIMEDOUT);
  assert_is(shunt_join(t, &result), UV_ETIMEDOUT);
  if (atomic_load(&shared->gates[STARTED]) == 1)
    ck_assert_ptr_eq(result, &local);
}
END_TEST

/* The loop's own clock stands still while a task blocks its thread, so there the deadline may be
 * noticed late, but the task is not started any more. */
START_TEST(a_task_still_queued_at_its_deadline_never_runs) {
  shunt_info_t info;
  shunt_task_t *busy = occupy(_i);
  shunt_task_t *t = post_limited(_i, hold, 20);
  if (_i == SHUNT_LANE_LOOP)
    ck_assert_int_eq(shunt_await_for(t, 50, NULL), UV_ETIMEDOUT);
  else
    assert_is(settle(t), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(settle(t), UV_ETIMEDOUT);
  assert_is(finish(busy), 0);
  assert_is(finish(post(_i, hold, NULL, 0)), 0);
  ck_assert_uint_eq(shared->gates[STARTED], 2);
  shunt_info(t, &info);
  ck_assert_uint_eq(info.attempts, 0);
  shunt_release(t);
}
END_TEST

/* ---- waiting for a while ---- */

START_TEST(a_limited_wait_ends_and_leaves_the_task_alone) {
  shunt_task_t *t = post(_i, hold, NULL, 0);
  uint64_t begun = now_ms();
  assert_is(shunt_await_for(t, 20, NULL), UV_ETIMEDOUT);
  ck_assert_int_eq(shunt_await_any(&t, 1, 20), UV_ETIMEDOUT);
  assert_is(shunt_await_all(&t, 1, 20), UV_ETIMEDOUT);
  ck_assert_uint_ge(now_ms() - begun, 59);
  ck_assert(!shunt_done(t));
  gate_push(GO);
  assert_is(finish(t), 0);
}
END_TEST

START_TEST(a_sleep_lasts_at_least_its_time) {
  ck_assert_int_ge(answer(post_number(_i, sleep_for, 30)), 29);
  ck_assert_int_ge(answer(post_number(_i, sleep_for, 0)), 0);
}
END_TEST

START_TEST(outside_tasks_sleep_sleeps_and_yield_yields) {
  uint64_t begun = now_ms();
  assert_is(shunt_sleep(20), 0);
  ck_assert_uint_ge(now_ms() - begun, 19);
  assert_is(shunt_yield(), 0);
}
END_TEST

START_TEST(yielding_is_no_failure) { assert_is(finish(post(_i, yield_often, NULL, 0)), 0); }
END_TEST

/* ---- cancel ---- */

START_TEST(a_cancel_before_the_start_withdraws) {
  shunt_info_t info;
  shunt_task_t *busy = occupy(_i), *t = post(_i, hold, NULL, 0);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_WITHDRAWN);
  ck_assert(shunt_done(t));
  assert_is(shunt_status(t), UV_ECANCELED);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_TOO_LATE);
  gate_push(GO);
  assert_is(finish(busy), 0);
  assert_is(finish(post(_i, hold, NULL, 0)), 0);
  ck_assert_uint_eq(shared->gates[STARTED], 2);
  shunt_info(t, &info);
  ck_assert_uint_eq(info.attempts, 0);
  shunt_release(t);
}
END_TEST

START_TEST(a_cancel_after_the_end_is_too_late) {
  shunt_task_t *t = post_number(_i, triple, 6);
  assert_is(settle(t), 0);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_TOO_LATE);
  ck_assert_int_eq(answer(t), 18);
}
END_TEST

START_TEST(a_running_task_is_told_and_settles_as_cancelled) {
  shunt_task_t *t = post(_i, hold, NULL, 0);
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), _i == SHUNT_LANE_PROCESS ? SHUNT_KILLED : SHUNT_REQUESTED);
  assert_is(finish(t), UV_ECANCELED);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

START_TEST(a_cancelled_task_is_told_again_and_again) {
  shunt_task_t *t = post(_i, ask_again, NULL, 0);
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  assert_passes(SEEN, 1);
  for (int i = 0; i <= 6; i++)
    assert_is((int)shared->cells[i], UV_ECANCELED);
  ck_assert_int_eq(shared->cells[7], true);
  gate_push(GO);
  assert_is(finish(t), UV_ECANCELED);
}
END_TEST

START_TEST(looking_tells_of_a_cancel) {
  int local;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, look_until_cancelled, &local, SHUNT_WITH(.lane = _i));
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  assert_is(shunt_join(t, &result), UV_ECANCELED);
  ck_assert_ptr_eq(result, &local);
}
END_TEST

START_TEST(a_task_that_never_looked_keeps_its_result) {
  int local;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, never_look, &local, SHUNT_WITH(.lane = _i));
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  ck_assert(!shunt_done(t));
  gate_push(GO);
  assert_is(shunt_join(t, &result), 0);
  ck_assert_ptr_eq(result, &local);
}
END_TEST

START_TEST(a_value_that_never_looked_is_kept_too) {
  shunt_task_t *t = post_number(_i, never_look_by_value, 8);
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  gate_push(GO);
  ck_assert_int_eq(answer(t), 8);
}
END_TEST

START_TEST(a_worker_that_does_not_end_its_cancelled_task_is_killed) {
  shunt_task_t *t = occupy(SHUNT_LANE_PROCESS), *next = post_number(SHUNT_LANE_PROCESS, triple, 2);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_KILLED);
  assert_is(finish(t), UV_ECANCELED);
  ck_assert_int_eq(answer(next), 6);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

/* _i is a pair of lanes, the waiter's and the inner task's. Not thread and thread: there the waiter
 * runs the inner task itself. */
START_TEST(a_cancelled_waiter_goes_and_what_it_awaited_stays) {
  shunt_lane_t inner = 1 + _i % 3;
  shunt_task_t *t = shunt_submit(rt, await_inner, (void *)(intptr_t)inner, SHUNT_WITH(.lane = 1 + _i / 3));
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  assert_is(finish(t), UV_ECANCELED);
  assert_is((int)shared->cells[0], UV_ECANCELED);
  assert_is((int)shared->cells[1], SHUNT_EPENDING);
  gate_push(GO);
  assert_passes(ENDED, 1);
}
END_TEST

START_TEST(a_join_passes_the_cancel_on_and_stays) {
  shunt_lane_t inner = 1 + _i % 3;
  shunt_task_t *t = shunt_submit(rt, join_inner, (void *)(intptr_t)inner, SHUNT_WITH(.lane = 1 + _i / 3));
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], UV_ECANCELED);
  assert_is((int)shared->cells[1], UV_ECANCELED);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
  settle(t);
  shunt_release(t);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("time");
  TCase *deadlines = room(suite, "deadlines", start_narrow);
  every_lane(deadlines, a_task_in_time_keeps_its_result);
  tcase_add_loop_test(deadlines, a_value_settles_at_its_deadline_though_its_function_runs_on, 2, 4);
  home_lanes(deadlines, a_reference_never_settles_before_its_function_returned);
  home_lanes(deadlines, a_task_that_waits_past_its_deadline_is_told);
  tcase_add_test(deadlines, looking_tells_of_the_deadline);
  every_lane(deadlines, a_task_still_queued_at_its_deadline_never_runs);
  TCase *waits = room(suite, "waits", start_plain);
  every_lane(waits, a_limited_wait_ends_and_leaves_the_task_alone);
  every_lane(waits, a_sleep_lasts_at_least_its_time);
  tcase_add_test(waits, outside_tasks_sleep_sleeps_and_yield_yields);
  every_lane(waits, yielding_is_no_failure);
  TCase *cancel = room(suite, "cancel", start_narrow);
  every_lane(cancel, a_cancel_before_the_start_withdraws);
  every_lane(cancel, a_cancel_after_the_end_is_too_late);
  every_lane(cancel, a_running_task_is_told_and_settles_as_cancelled);
  home_lanes(cancel, a_cancelled_task_is_told_again_and_again);
  home_lanes(cancel, looking_tells_of_a_cancel);
  home_lanes(cancel, a_task_that_never_looked_keeps_its_result);
  home_lanes(cancel, a_value_that_never_looked_is_kept_too);
  tcase_add_test(cancel, a_worker_that_does_not_end_its_cancelled_task_is_killed);
  tcase_add_loop_test(cancel, a_cancelled_waiter_goes_and_what_it_awaited_stays, 0, 4);
  tcase_add_loop_test(cancel, a_cancelled_waiter_goes_and_what_it_awaited_stays, 5, 6);
  tcase_add_loop_test(cancel, a_join_passes_the_cancel_on_and_stays, 0, 6);
  return run(suite, argc, argv);
}
