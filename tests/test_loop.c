/* The loop lane: tasks are fibers on one thread, take turns when they wait, and share it with libuv. */
#include "support.h"

#include <alloca.h>

/* ---- taking turns ---- */

/* Two players append to one string; only the loop's thread touches it. */
static char score[32];

static void *player(void *mark) {
  for (int i = 0; i < 4; i++) {
    size_t end = strlen(score);
    score[end] = *(const char *)mark;
    score[end + 1] = '\0';
    shunt_yield();
  }
  return NULL;
}

/* Holds the loop until both players wait their turn, so that neither has a head start. */
START_TEST(yielding_tasks_take_turns) {
  score[0] = '\0';
  shunt_task_t *busy = occupy(SHUNT_LANE_LOOP);
  shunt_task_t *a = shunt_submit(rt, player, (void *)"a", SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  shunt_task_t *b = shunt_submit(rt, player, (void *)"b", SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  gate_push(GO);
  assert_is(finish(busy), 0);
  assert_is(finish(a), 0);
  assert_is(finish(b), 0);
  ck_assert_str_eq(score, "abababab");
}
END_TEST

static void *await_it(void *t) {
  gate_push(READY);
  return shunt_await(t, NULL) == 0 ? t : NULL;
}

static void *open_the_gate(void *arg) {
  gate_push(GO);
  return arg;
}

START_TEST(a_task_that_awaits_leaves_the_loop_to_others) {
  shunt_task_t *slow = post(_i, hold, NULL, 0);
  shunt_task_t *waiter = shunt_submit(rt, await_it, slow, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  assert_passes(READY, 1);
  assert_is(finish(shunt_submit(rt, open_the_gate, NULL, SHUNT_WITH(.lane = SHUNT_LANE_LOOP))), 0);
  assert_is(finish(waiter), 0);
  assert_is(finish(slow), 0);
}
END_TEST

START_TEST(thousands_of_tasks_wait_at_once_on_one_thread) {
  size_t n = scaled(10000);
  shunt_task_t **waiters = calloc(n, sizeof *waiters), *slow = post(SHUNT_LANE_THREAD, hold, NULL, 0);
  for (size_t i = 0; i < n; i++)
    waiters[i] = shunt_submit(rt, await_it, slow, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  assert_passes(READY, (uint32_t)n);
  ck_assert(!shunt_done(slow));
  gate_push(GO);
  for (size_t i = 0; i < n; i++)
    assert_is(shunt_join(waiters[i], NULL), 0);
  assert_is(finish(slow), 0);
  free(waiters);
}
END_TEST

static void *yield_until_go(void *arg) {
  for (uint64_t end = now_ms() + patience(); atomic_load(&shared->gates[GO]) == 0 && now_ms() < end;)
    shunt_yield();
  return atomic_load(&shared->gates[GO]) == 0 ? NULL : arg;
}

static void *sleep_and_open(void *arg) {
  shunt_sleep(5);
  return open_the_gate(arg);
}

START_TEST(a_task_that_only_yields_does_not_starve_the_clock) {
  void *seen = NULL;
  shunt_task_t *t = shunt_submit(rt, yield_until_go, &seen, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
  assert_is(finish(shunt_submit(rt, sleep_and_open, NULL, SHUNT_WITH(.lane = SHUNT_LANE_LOOP))), 0);
  assert_is(shunt_join(t, &seen), 0);
  ck_assert_ptr_nonnull(seen);
}
END_TEST

static void *thread_id(void *arg) {
  (void)arg;
  int64_t id = gettid();
  shunt_yield();
  return id == gettid() ? shunt_return(&id, sizeof id) : shunt_fail(UV_EFAULT, "moved to another thread");
}

START_TEST(all_tasks_share_one_thread_that_is_not_the_callers) {
  int64_t first = answer(post(SHUNT_LANE_LOOP, thread_id, NULL, 0));
  ck_assert_int_ne(first, gettid());
  for (int i = 0; i < 10; i++)
    ck_assert_int_eq(answer(post(SHUNT_LANE_LOOP, thread_id, NULL, 0)), first);
}
END_TEST

/* ---- stacks ---- */

/* Keeps a sum in floating point and in locals on the stack across many switches. */
static void *add_up(void *arg) {
  int64_t from = *(int64_t *)arg, parts[64], whole;
  double sum = 0;
  for (int i = 0; i < 64; i++) {
    parts[i] = from + i;
    sum += (double)parts[i];
    if (shunt_yield() != 0)
      return NULL;
  }
  whole = (int64_t)sum;
  for (int i = 0; i < 64; i++)
    whole -= parts[i];
  return shunt_return(&whole, sizeof whole);
}

START_TEST(what_a_task_holds_survives_its_waits) {
  shunt_task_t *t[100];
  for (int i = 0; i < 100; i++)
    t[i] = post_number(SHUNT_LANE_LOOP, add_up, i * 1000);
  for (int i = 0; i < 100; i++)
    ck_assert_int_eq(answer(t[i]), 0);
}
END_TEST

/* Uses its stack down to a depth, leaf last. */
static void *fill_stack(void *arg) {
  size_t size = (size_t) * (int64_t *)arg;
  volatile unsigned char *deep = alloca(size);
  for (size_t i = size; i-- > 0;)
    deep[i] = (unsigned char)i;
  shunt_yield();
  int64_t wrong = 0;
  for (size_t i = 0; i < size; i++)
    wrong += deep[i] != (unsigned char)i;
  return shunt_return(&wrong, sizeof wrong);
}

START_TEST(a_stack_has_the_size_that_was_asked_for) {
  start(&(shunt_options_t){.stack_size = 4 << 20});
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_LOOP, fill_stack, (4 << 20) - (64 << 10))), 0);
  stop();
}
END_TEST

START_TEST(a_stack_has_room_by_default) {
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_LOOP, fill_stack, 192 << 10)), 0);
}
END_TEST

/* ---- libuv ---- */

/* What calls said in a libuv callback, on the loop's thread and outside any task. Touched by that
 * thread, and by the test once SEEN was pushed. */
static struct {
  uv_timer_t timer;
  shunt_task_t *pending;
  int await, await_for, any, all, join, collect, sleep, stop;
  bool outside, done;
  shunt_task_t *submitted;
} callback;

static void on_timer(uv_timer_t *timer) {
  int64_t n = 5;
  shunt_task_t *t = callback.pending;
  callback.outside = shunt_self() == NULL && shunt_current() == NULL;
  callback.await = shunt_await(t, NULL);
  callback.await_for = shunt_await_for(t, SHUNT_FOREVER, NULL);
  callback.any = shunt_await_any(&t, 1, SHUNT_FOREVER);
  callback.all = shunt_await_all(&t, 1, SHUNT_FOREVER);
  callback.join = shunt_join(t, NULL);
  callback.collect = shunt_collect(t, &n, sizeof n);
  callback.sleep = shunt_sleep(1);
  callback.stop = shunt_stop(rt, SHUNT_FOREVER);
  callback.done = shunt_done(t);
  callback.submitted = post_number(SHUNT_LANE_LOOP, triple, n);
  uv_close((uv_handle_t *)timer, NULL);
  gate_push(SEEN);
}

static void *use_libuv(void *arg) {
  (void)arg;
  uv_timer_init(shunt_uv_loop(rt), &callback.timer);
  uv_timer_start(&callback.timer, on_timer, 1, 0);
  return NULL;
}

START_TEST(a_callback_may_submit_and_look_but_not_wait) {
  callback.pending = post(_i, hold, NULL, 0);
  assert_is(finish(shunt_submit(rt, use_libuv, NULL, SHUNT_WITH(.lane = SHUNT_LANE_LOOP))), 0);
  assert_passes(SEEN, 1);
  ck_assert(callback.outside);
  ck_assert(!callback.done);
  assert_is(callback.await, SHUNT_EDEADLK);
  assert_is(callback.await_for, SHUNT_EDEADLK);
  assert_is(callback.any, SHUNT_EDEADLK);
  assert_is(callback.all, SHUNT_EDEADLK);
  assert_is(callback.join, SHUNT_EDEADLK);
  assert_is(callback.collect, SHUNT_EDEADLK);
  assert_is(callback.sleep, SHUNT_EDEADLK);
  assert_is(callback.stop, SHUNT_EDEADLK);
  ck_assert_int_eq(answer(callback.submitted), 15);
  gate_push(GO);
  assert_is(finish(callback.pending), 0);
}
END_TEST

static void *tell_loop(void *arg) {
  (void)arg;
  return shunt_uv_loop(shunt_current());
}

START_TEST(the_loop_is_the_same_from_everywhere) {
  void *seen = NULL;
  assert_is(shunt_join(shunt_submit(rt, tell_loop, NULL, SHUNT_WITH(.lane = _i)), &seen), 0);
  ck_assert_ptr_nonnull(seen);
  ck_assert_ptr_eq(seen, shunt_uv_loop(rt));
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("loop");
  TCase *turns = room(suite, "taking turns", start_plain);
  tcase_add_test(turns, yielding_tasks_take_turns);
  every_lane(turns, a_task_that_awaits_leaves_the_loop_to_others);
  tcase_add_test(turns, thousands_of_tasks_wait_at_once_on_one_thread);
  tcase_add_test(turns, a_task_that_only_yields_does_not_starve_the_clock);
  tcase_add_test(turns, all_tasks_share_one_thread_that_is_not_the_callers);
  TCase *stacks = room(suite, "stacks", start_plain);
  tcase_add_test(stacks, what_a_task_holds_survives_its_waits);
  tcase_add_test(stacks, a_stack_has_room_by_default);
  tcase_add_test(room(suite, "stack size", NULL), a_stack_has_the_size_that_was_asked_for);
  TCase *libuv = room(suite, "libuv", start_plain);
  every_lane(libuv, a_callback_may_submit_and_look_but_not_wait);
  home_lanes(libuv, the_loop_is_the_same_from_everywhere);
  return run(suite, argc, argv);
}
