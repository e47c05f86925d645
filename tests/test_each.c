/* shunt_each: tasks in order of completion, wherever they run and whoever takes them. */
#include "support.h"

#include <pthread.h>

/* The nine pairs of lanes: _i / 3 takes, _i % 3 is taken from. */
#define OUTER ((shunt_lane_t)(1 + _i / 3))
#define INNER ((shunt_lane_t)(1 + _i % 3))

static void every_pair(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 9); }

/* ---- tasks ---- */

/* Settles when GO was pushed so often as it is told; -1: never. */
static void *in_turn(void *arg) {
  int64_t turn = *(int64_t *)arg;
  int err = gate_await(GO, (uint32_t)turn);
  return err == 0 ? shunt_return(&turn, sizeof turn) : shunt_fail(err, NULL);
}

enum { TASKS = 5, SAID = 16 };
static const int64_t turns[TASKS] = {3, 1, 5, 2, 4};
static const int by_turn[TASKS] = {1, 3, 0, 4, 2};

static void post_turns(shunt_task_t *t[TASKS], shunt_lane_t lane) {
  for (int i = 0; i < TASKS; i++)
    t[i] = post_number(lane, in_turn, turns[i]);
}

static void release_all(shunt_task_t *t[], size_t n) {
  for (size_t i = 0; i < n; i++)
    shunt_release(t[i]);
}

/* ---- order ---- */

/* Lets one after another settle and takes it; what each call said goes into cells. Runs anywhere. */
static void *take_in_turn(void *lane) {
  shunt_task_t *t[TASKS];
  shunt_each_t *each;
  _Atomic int64_t *said = shared->cells;
  post_turns(t, *(shunt_lane_t *)lane);
  *said++ = shunt_each(&each, t, TASKS);
  for (int i = 0; i < TASKS; i++) {
    *said++ = shunt_each_next(each, 0);
    gate_push(GO);
    *said++ = shunt_each_next(each, SHUNT_FOREVER);
  }
  *said++ = shunt_each_next(each, SHUNT_FOREVER);
  *said++ = shunt_each_next(each, 0);
  shunt_each_end(each);
  release_all(t, TASKS);
  return NULL;
}

static void assert_taken_in_turn(void) {
  assert_is((int)shared->cells[0], 0);
  for (int i = 0; i < TASKS; i++) {
    assert_is((int)shared->cells[1 + 2 * i], UV_ETIMEDOUT);
    ck_assert_int_eq(shared->cells[2 + 2 * i], by_turn[i]);
  }
  assert_is((int)shared->cells[1 + 2 * TASKS], UV_EOF);
  assert_is((int)shared->cells[2 + 2 * TASKS], UV_EOF);
}

START_TEST(a_task_takes_tasks_in_order_of_completion) {
  shunt_lane_t lane = INNER;
  assert_is(finish(post(OUTER, take_in_turn, &lane, sizeof lane)), 0);
  assert_taken_in_turn();
}
END_TEST

START_TEST(so_does_a_thread_of_the_programs_own) {
  shunt_lane_t lane = _i;
  pthread_t thread;
  ck_assert_int_eq(pthread_create(&thread, NULL, take_in_turn, &lane), 0);
  pthread_join(thread, NULL);
  assert_taken_in_turn();
}
END_TEST

START_TEST(the_order_is_kept_for_who_comes_later) {
  shunt_task_t *t[TASKS];
  shunt_each_t *each;
  post_turns(t, _i);
  gate_push(GO);
  assert_is(settle(t[by_turn[0]]), 0); /* settled before */
  assert_is(shunt_each(&each, t, TASKS), 0);
  for (int i = 1; i < TASKS; i++) {
    gate_push(GO);
    assert_is(settle(t[by_turn[i]]), 0);
    ck_assert_int_eq(shunt_each_next(each, patience()), by_turn[i - 1]);
  }
  ck_assert_int_eq(shunt_each_next(each, patience()), by_turn[TASKS - 1]);
  assert_is(shunt_each_next(each, 0), UV_EOF);
  shunt_each_end(each);
  release_all(t, TASKS);
}
END_TEST

START_TEST(what_failed_or_was_refused_comes_too) {
  shunt_each_t *each;
  shunt_task_t *t[] = {post(_i, hold, NULL, 0), shunt_submit(rt, NULL, NULL, NULL)};
  assert_is(shunt_each(&each, t, 2), 0);
  ck_assert_int_eq(shunt_each_next(each, patience()), 1);
  shunt_cancel(t[0]);
  ck_assert_int_eq(shunt_each_next(each, patience()), 0);
  assert_is(shunt_each_next(each, 0), UV_EOF);
  shunt_each_end(each);
  release_all(t, 2);
}
END_TEST

START_TEST(none_is_soon_over_and_one_may_come_twice) {
  shunt_each_t *each;
  assert_is(shunt_each(&each, NULL, 0), 0);
  assert_is(shunt_each_next(each, SHUNT_FOREVER), UV_EOF);
  shunt_each_end(each);
  shunt_task_t *t = post_number(_i, triple, 1), *twice[] = {t, t};
  assert_is(shunt_each(&each, twice, 2), 0);
  ck_assert_int_eq(shunt_each_next(each, patience()) + shunt_each_next(each, patience()), 1);
  assert_is(shunt_each_next(each, 0), UV_EOF);
  shunt_each_end(each);
  shunt_release(t);
}
END_TEST

/* ---- waits that end early ---- */

START_TEST(a_limit_ends_the_wait_and_not_the_rest) {
  shunt_each_t *each;
  shunt_task_t *t = post_number(_i, in_turn, 1);
  uint64_t begun = now_ms();
  assert_is(shunt_each(&each, &t, 1), 0);
  for (int i = 0; i < 3; i++)
    assert_is(shunt_each_next(each, 10), UV_ETIMEDOUT);
  ck_assert_uint_ge(now_ms() - begun, 29);
  gate_push(GO);
  ck_assert_int_eq(shunt_each_next(each, patience()), 0);
  shunt_each_end(each);
  ck_assert_int_eq(answer(t), 1);
}
END_TEST

static void *go_on(void *each) {
  gate_push(GO);
  shared->cells[3] = shunt_each_next(each, SHUNT_FOREVER);
  return NULL;
}

static void *take_until_told(void *lane) {
  shunt_each_t *each;
  shunt_task_t *t = post_number(*(shunt_lane_t *)lane, in_turn, 1);
  shared->cells[0] = shunt_each(&each, &t, 1);
  gate_push(STARTED);
  shared->cells[1] = shunt_each_next(each, SHUNT_FOREVER);
  shared->cells[2] = shunt_each_next(each, SHUNT_FOREVER);
  shunt_shield(go_on, each);
  shunt_each_end(each);
  shunt_release(t);
  gate_push(SEEN);
  return NULL;
}

/* In a worker it would have to be quick: it is killed soon. */
START_TEST(a_cancel_ends_the_wait_and_not_the_rest) {
  shunt_lane_t lane = INNER;
  shunt_task_t *t = post(OUTER, take_until_told, &lane, sizeof lane);
  assert_passes(STARTED, 1);
  shunt_cancel(t);
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], 0);
  assert_is((int)shared->cells[1], UV_ECANCELED);
  assert_is((int)shared->cells[2], UV_ECANCELED);
  ck_assert_int_eq(shared->cells[3], 0);
  assert_is(finish(t), UV_ECANCELED);
}
END_TEST

START_TEST(an_early_end_leaves_the_tasks_alone) {
  shunt_task_t *t[TASKS];
  shunt_each_t *each;
  post_turns(t, _i);
  assert_is(shunt_each(&each, t, TASKS), 0);
  for (int i = 0; i < 2; i++) {
    gate_push(GO);
    assert_is(settle(t[by_turn[i]]), 0);
  }
  ck_assert_int_eq(shunt_each_next(each, patience()), by_turn[0]);
  shunt_each_end(each); /* one taken, one to be taken, the others not settled */
  for (int i = 2; i < TASKS; i++)
    gate_push(GO);
  for (int i = 0; i < TASKS; i++)
    ck_assert_int_eq(answer(t[i]), turns[i]);
}
END_TEST

/* ---- many ---- */

/* _i: one lane, or 0: all in turn. */
#define NTH_LANE(n) ((shunt_lane_t)(_i == 0 ? 1 + (n) % 3 : _i))

START_TEST(each_of_ten_thousand_comes_once) {
  int n = (int)scaled(10000), once = 0;
  shunt_task_t **t = calloc((size_t)n, sizeof *t);
  char *times = calloc((size_t)n, 1);
  shunt_each_t *each;
  for (int i = 0; i < n; i++)
    t[i] = post_number(NTH_LANE(i), triple, i);
  assert_is(shunt_each(&each, t, (size_t)n), 0);
  for (int i; (i = shunt_each_next(each, patience())) >= 0 && i < n;)
    once += ++times[i] == 1 && shunt_status(t[i]) == 0;
  assert_is(shunt_each_next(each, 0), UV_EOF);
  ck_assert_int_eq(once, n);
  shunt_each_end(each);
  release_all(t, (size_t)n);
  free(t);
  free(times);
}
END_TEST

/* Ends while tasks are settling, in a different place each time. */
START_TEST(an_end_may_come_at_any_time) {
  enum { FEW = 8 };
  for (int round = 0, n = (int)scaled(1000); round < n; round++) {
    shunt_task_t *t[FEW];
    shunt_each_t *each;
    for (int i = 0; i < FEW; i++)
      t[i] = post_number(NTH_LANE(i), triple, i);
    assert_is(shunt_each(&each, t, FEW), 0);
    for (int i = round % (FEW + 1); i > 0; i--)
      ck_assert_int_ge(shunt_each_next(each, patience()), 0);
    shunt_each_end(each);
    for (int i = 0; i < FEW; i++)
      ck_assert_int_eq(answer(t[i]), 3 * i);
  }
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("each");
  TCase *order = room(suite, "order", start_plain);
  every_pair(order, a_task_takes_tasks_in_order_of_completion);
  every_lane(order, so_does_a_thread_of_the_programs_own);
  every_lane(order, the_order_is_kept_for_who_comes_later);
  every_lane(order, what_failed_or_was_refused_comes_too);
  every_lane(order, none_is_soon_over_and_one_may_come_twice);
  TCase *early = room(suite, "early", start_plain);
  every_lane(early, a_limit_ends_the_wait_and_not_the_rest);
  tcase_add_loop_test(early, a_cancel_ends_the_wait_and_not_the_rest, 0, 6);
  every_lane(early, an_early_end_leaves_the_tasks_alone);
  TCase *many = room(suite, "many", start_plain);
  tcase_add_loop_test(many, each_of_ten_thousand_comes_once, 0, SHUNT_LANE_PROCESS + 1);
  tcase_add_loop_test(many, an_end_may_come_at_any_time, 0, SHUNT_LANE_PROCESS + 1);
  return run(suite, argc, argv);
}
