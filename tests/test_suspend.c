/* A task that suspends until it is resumed, so that any callback can be awaited; and one that shields a
 * clean-up from its own cancel. */
#include "support.h"

#include <sched.h>
#include <signal.h>

static uint64_t soon(void) { return 200 + 100 * slowness(); }

static shunt_task_t *submit(shunt_lane_t lane, shunt_fn fn, void *arg) {
  return shunt_submit(rt, fn, arg, SHUNT_WITH(.lane = lane));
}

/* ---- suspend and resume ---- */

/* Suspends when GO is pushed; cells[0] is what that said. */
static void *suspend_at_go(void *arg) {
  gate_push(STARTED);
  gate_wait(GO, 1);
  gate_push(READY);
  shared->cells[0] = shunt_suspend(SHUNT_FOREVER);
  shared->cells[1] = shunt_suspend(0);
  return arg;
}

START_TEST(a_resume_wakes_the_task) {
  shunt_task_t *t = submit(_i, suspend_at_go, NULL);
  gate_push(GO);
  assert_passes(READY, 1);
  assert_is(shunt_await_for(t, 20, NULL), UV_ETIMEDOUT);
  shunt_resume(t);
  assert_is(finish(t), 0);
  assert_is((int)shared->cells[0], 0);
  assert_is((int)shared->cells[1], UV_ETIMEDOUT);
}
END_TEST

START_TEST(resumes_that_come_early_are_kept_and_count_as_one) {
  shunt_task_t *t = submit(_i, suspend_at_go, NULL);
  assert_passes(STARTED, 1);
  for (int i = 0; i < 3; i++)
    shunt_resume(t);
  gate_push(GO);
  assert_is(finish(t), 0);
  assert_is((int)shared->cells[0], 0);
  assert_is((int)shared->cells[1], UV_ETIMEDOUT);
}
END_TEST

START_TEST(a_resume_before_the_start_is_kept) {
  shunt_task_t *busy = occupy(_i), *t = submit(_i, suspend_at_go, NULL);
  shunt_resume(t);
  gate_push(GO);
  assert_is(finish(t), 0);
  assert_is((int)shared->cells[0], 0);
  assert_is(finish(busy), 0);
}
END_TEST

START_TEST(a_resume_after_the_end_does_nothing) {
  shunt_task_t *t = post_number(_i, triple, 1);
  assert_is(settle(t), 0);
  shunt_resume(t);
  ck_assert_int_eq(answer(t), 3);
  ck_assert_int_eq(answer(post_number(_i, triple, 1)), 3);
}
END_TEST

/* By itself, so in a worker too. */
static void *suspend_alone(void *arg) {
  (void)arg;
  uint64_t begun = now_ms();
  shared->cells[0] = shunt_suspend(0);
  shared->cells[1] = shunt_suspend(20);
  shared->cells[2] = (int64_t)(now_ms() - begun);
  shunt_resume(shunt_self());
  shunt_resume(shunt_self());
  shared->cells[3] = shunt_suspend(SHUNT_FOREVER);
  shared->cells[4] = shunt_suspend(0);
  gate_push(READY);
  shared->cells[5] = shunt_suspend(SHUNT_FOREVER);
  shared->cells[6] = shunt_suspend(SHUNT_FOREVER);
  gate_push(SEEN);
  return NULL;
}

static void assert_suspended_alone(int end) {
  const int said[] = {UV_ETIMEDOUT, UV_ETIMEDOUT, 0, 0, UV_ETIMEDOUT, end, end};
  assert_passes(SEEN, 1);
  ck_assert_int_ge(shared->cells[2], 19);
  shared->cells[2] = 0;
  for (size_t i = 0; i < sizeof said / sizeof *said; i++)
    assert_is((int)shared->cells[i], said[i]);
}

START_TEST(suspending_ends_by_a_resume_a_limit_or_a_cancel) {
  shunt_task_t *t = post(_i, suspend_alone, NULL, 0);
  assert_passes(READY, 1);
  shunt_cancel(t);
  assert_suspended_alone(UV_ECANCELED);
  assert_is(finish(t), UV_ECANCELED);
}
END_TEST

START_TEST(suspending_ends_by_a_deadline) {
  shunt_task_options_t options = {.lane = _i, .flags = SHUNT_BY_VALUE, .timeout_ms = soon()};
  shunt_task_t *t = shunt_submit(rt, suspend_alone, NULL, &options);
  assert_suspended_alone(UV_ETIMEDOUT);
  assert_is(finish(t), UV_ETIMEDOUT);
}
END_TEST

START_TEST(only_tasks_suspend) { assert_is(shunt_suspend(SHUNT_FOREVER), UV_EINVAL); }
END_TEST

/* ---- resumed from elsewhere ---- */

struct tick {
  uv_timer_t timer; /* first */
  shunt_task_t *task;
  int left;
  bool closed;
};

static void on_tick(uv_timer_t *timer) {
  struct tick *tick = (struct tick *)timer;
  if (--tick->left == 0)
    uv_timer_stop(timer);
  shunt_resume(tick->task);
}

static void on_closed(uv_handle_t *timer) {
  struct tick *tick = (struct tick *)timer;
  tick->closed = true;
  shunt_resume(tick->task);
}

/* Takes *arg down to 0, one a tick. */
static void *await_ticks(void *arg) {
  struct tick tick = {.task = shunt_self(), .left = *(int *)arg};
  uv_timer_init(shunt_uv_loop(shunt_current()), &tick.timer);
  uv_timer_start(&tick.timer, on_tick, 1, 1);
  while (tick.left > 0)
    shunt_suspend(SHUNT_FOREVER);
  *(int *)arg = tick.left;
  uv_close((uv_handle_t *)&tick.timer, on_closed);
  while (!tick.closed)
    shunt_suspend(SHUNT_FOREVER);
  return NULL;
}

START_TEST(a_task_awaits_callbacks_of_libuv) {
  enum { TASKS = 50 };
  int left[TASKS];
  shunt_task_t *t[TASKS];
  for (int i = 0; i < TASKS; i++) {
    left[i] = 1 + i % 7;
    t[i] = submit(SHUNT_LANE_LOOP, await_ticks, &left[i]);
  }
  for (int i = 0; i < TASKS; i++) {
    assert_is(finish(t[i]), 0);
    ck_assert_int_eq(left[i], 0);
  }
}
END_TEST

struct rally {
  _Atomic int served, returned;
  int last;
};

static void *return_serves(void *arg) {
  struct rally *rally = arg;
  for (int i = 1; i <= rally->last; i++) {
    for (int err; rally->served < i;)
      if ((err = shunt_suspend(patience())) != 0)
        return shunt_fail(err, "no resume came for serve %d", i);
    rally->returned = i;
  }
  return NULL;
}

/* Each resume comes while the task is on its way to suspend. */
START_TEST(no_resume_is_lost) {
  struct rally rally = {.last = (int)scaled(10000)};
  shunt_task_t *t = submit(_i, return_serves, &rally);
  for (int i = 1; i <= rally.last && !shunt_done(t); i++) {
    rally.served = i;
    shunt_resume(t);
    while (rally.returned < i && !shunt_done(t))
      sched_yield();
  }
  assert_is(finish(t), 0);
  ck_assert_int_eq(rally.returned, rally.last);
}
END_TEST

/* A task that runs in place of its waiter shares the waiter's strand, but not its resumes. */
static void *suspend_inside(void *inner) {
  *(shunt_task_t **)inner = shunt_retain(shunt_self());
  gate_push(READY);
  return shunt_suspend(SHUNT_FOREVER) == 0 ? inner : NULL;
}

static void *join_then_suspend(void *inner) {
  void *resumed = NULL;
  shunt_lane_t lane = lane_of(shunt_self());
  shunt_join(shunt_submit(shunt_current(), suspend_inside, inner, SHUNT_WITH(.lane = lane)), &resumed);
  shared->cells[0] = shunt_suspend(0);
  return resumed;
}

START_TEST(each_has_its_own_resumes_on_a_shared_stack) {
  void *resumed = NULL;
  shunt_task_t *inner, *t = submit(_i, join_then_suspend, &inner);
  assert_passes(READY, 1);
  shunt_resume(t);
  assert_is(shunt_await_for(inner, 20, NULL), UV_ETIMEDOUT);
  shunt_resume(inner);
  assert_is(finish(inner), 0);
  assert_is(shunt_join(t, &resumed), 0);
  ck_assert_ptr_eq(resumed, &inner);
  assert_is((int)shared->cells[0], 0);
}
END_TEST

/* ---- shield ---- */

/* What waits say, in cells from *arg on. Local ones: a worker that was asked to end has not much time. */
static void *wait_here(void *arg) {
  _Atomic int64_t *said = &shared->cells[*(int64_t *)arg];
  shunt_resume(shunt_self());
  *said++ = shunt_suspend(SHUNT_FOREVER);
  *said++ = shunt_sleep(1);
  *said++ = shunt_yield();
  *said++ = shunt_cancelled();
  *said++ = shunt_suspend(1);
  return arg;
}

static void *shield_again(void *arg) { return shunt_shield(wait_here, arg); }

static void *outlive_the_cancel(void *arg) {
  int64_t inside = 10, deeper = 20, outside = 30;
  (void)arg;
  signal(SIGTERM, SIG_IGN); /* else a worker has but half its grace */
  gate_push(STARTED);
  shared->cells[0] = shunt_sleep(SHUNT_FOREVER);
  shared->cells[1] = shunt_shield(wait_here, &inside) == &inside;
  shared->cells[2] = shunt_shield(shield_again, &deeper) == &deeper;
  wait_here(&outside);
  gate_push(SEEN);
  return NULL;
}

static void assert_shielded(shunt_task_t *t, int end) {
  const int shielded[] = {0, 0, 0, false, UV_ETIMEDOUT}, told[] = {0, end, end, true, end};
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], end);
  ck_assert_int_eq(shared->cells[1] + shared->cells[2], 2);
  for (int i = 0; i < 5; i++) {
    assert_is((int)shared->cells[10 + i], shielded[i]);
    assert_is((int)shared->cells[20 + i], shielded[i]);
    assert_is((int)shared->cells[30 + i], told[i]);
  }
  assert_is(finish(t), end);
}

START_TEST(a_shield_keeps_the_cancel_out) {
  shunt_task_t *t = post(_i, outlive_the_cancel, NULL, 0);
  assert_passes(STARTED, 1);
  shunt_cancel(t);
  assert_shielded(t, UV_ECANCELED);
}
END_TEST

START_TEST(a_shield_keeps_the_deadline_out) {
  shunt_task_options_t options = {.lane = _i, .flags = SHUNT_BY_VALUE, .timeout_ms = soon()};
  assert_shielded(shunt_submit(rt, outlive_the_cancel, NULL, &options), UV_ETIMEDOUT);
}
END_TEST

static void *stay_until_go(void *arg) {
  gate_push(STARTED);
  return gate_await(GO, 1) == 0 ? arg : NULL;
}

static void *stay_shielded(void *arg) {
  void *stayed = shunt_shield(stay_until_go, arg);
  shared->cells[0] = shunt_sleep(0);
  return stayed;
}

START_TEST(a_cancel_that_comes_meanwhile_waits_outside) {
  int local;
  void *result = NULL;
  shunt_task_t *t = submit(_i, stay_shielded, &local);
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  assert_is(shunt_await_for(t, 20, NULL), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(shunt_join(t, &result), UV_ECANCELED);
  ck_assert_ptr_eq(result, &local);
  assert_is((int)shared->cells[0], UV_ECANCELED);
}
END_TEST

static void *doze_and_triple(void *arg) { return shunt_sleep(1) == 0 ? triple(arg) : NULL; }

/* Needs others: tasks of every lane, one of which it may have to run itself; and a scope. */
static void *clean_up(void *arg) {
  int64_t n = 0;
  shunt_scope_t *scope = shunt_scope_open(shunt_current(), NULL);
  for (int lane = SHUNT_LANE_LOOP; lane <= SHUNT_LANE_PROCESS; lane++) {
    shunt_task_options_t options = {.lane = (shunt_lane_t)lane, .arg_size = sizeof n, .scope = scope};
    shunt_task_t *t = post_number((shunt_lane_t)lane, doze_and_triple, lane);
    int err = shunt_collect(t, &n, sizeof n);
    shared->cells[lane] = err == 0 ? n : err;
    shunt_release(shunt_submit(shunt_current(), doze_and_triple, &n, &options));
  }
  shared->cells[0] = shunt_scope_close(scope);
  return arg;
}

static void *clean_up_at_the_end(void *arg) {
  gate_push(STARTED);
  return shunt_sleep(SHUNT_FOREVER) == UV_ECANCELED ? shunt_shield(clean_up, arg) : NULL;
}

START_TEST(a_shielded_clean_up_uses_the_whole_library) {
  int local;
  void *result = NULL;
  shunt_task_t *t = submit(_i, clean_up_at_the_end, &local);
  assert_passes(STARTED, 1);
  shunt_cancel(t);
  assert_is(shunt_join(t, &result), UV_ECANCELED);
  ck_assert_ptr_eq(result, &local);
  for (int lane = SHUNT_LANE_LOOP; lane <= SHUNT_LANE_PROCESS; lane++)
    ck_assert_int_eq(shared->cells[lane], 3 * lane);
  assert_is((int)shared->cells[0], 0);
}
END_TEST

static void *self(void *arg) { return arg; }

START_TEST(outside_tasks_a_shield_is_just_the_call) {
  int local;
  ck_assert_ptr_eq(shunt_shield(self, &local), &local);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("suspend");
  TCase *suspend = room(suite, "suspend", start_plain);
  home_lanes(suspend, a_resume_wakes_the_task);
  home_lanes(suspend, resumes_that_come_early_are_kept_and_count_as_one);
  every_lane(suspend, a_resume_after_the_end_does_nothing);
  every_lane(suspend, suspending_ends_by_a_resume_a_limit_or_a_cancel);
  every_lane(suspend, suspending_ends_by_a_deadline);
  tcase_add_test(suspend, only_tasks_suspend);
  tcase_add_test(suspend, a_task_awaits_callbacks_of_libuv);
  home_lanes(suspend, no_resume_is_lost);
  TCase *narrow = room(suite, "one thread", start_narrow);
  home_lanes(narrow, a_resume_before_the_start_is_kept);
  home_lanes(narrow, each_has_its_own_resumes_on_a_shared_stack);
  TCase *shield = room(suite, "shield", start_narrow);
  every_lane(shield, a_shield_keeps_the_cancel_out);
  every_lane(shield, a_shield_keeps_the_deadline_out);
  home_lanes(shield, a_cancel_that_comes_meanwhile_waits_outside);
  home_lanes(shield, a_shielded_clean_up_uses_the_whole_library);
  tcase_add_test(shield, outside_tasks_a_shield_is_just_the_call);
  return run(suite, argc, argv);
}
