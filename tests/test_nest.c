/* Tasks that submit tasks and wait for them, from every lane to every lane, where there is one thread
 * and one worker process: a waiter never takes the place that what it waits for needs. */
#include "support.h"

/* What a nested task is told; by value, so it may run anywhere. */
struct order {
  shunt_lane_t lane; /* of the inner task */
  int64_t n;
};

static shunt_task_t *post_order(shunt_lane_t lane, shunt_fn fn, struct order order) {
  return post(lane, fn, &order, sizeof order);
}

/* The number that t gives, or its status. For use in tasks. */
static int64_t take(shunt_task_t *t) {
  int64_t n = 0;
  int status = shunt_collect(t, &n, sizeof n);
  return status == 0 ? n : status;
}

/* The nine pairs of lanes: _i / 3 outside, _i % 3 inside. */
static int64_t outer(int i, shunt_fn fn, int64_t n) {
  struct order order = {.lane = (shunt_lane_t)(1 + i % 3), .n = n};
  return answer(post_order((shunt_lane_t)(1 + i / 3), fn, order));
}

static void every_pair(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 9); }

/* ---- ways to wait ---- */

static void *collect_triple(void *arg) {
  struct order *order = arg;
  int64_t n = take(post_number(order->lane, triple, order->n));
  return shunt_return(&n, sizeof n);
}

static void *await_triple(void *arg) {
  struct order *order = arg;
  void *result = NULL;
  shunt_task_t *t = post_number(order->lane, triple, order->n);
  int64_t n = shunt_await(t, &result);
  if (n == 0 && result != NULL)
    n = *(int64_t *)result;
  shunt_release(t);
  return shunt_return(&n, sizeof n);
}

static void *await_triple_for(void *arg) {
  struct order *order = arg;
  shunt_task_t *t = post_number(order->lane, triple, order->n);
  int64_t n = shunt_await_for(t, patience(), NULL);
  if (n == 0)
    n = *(const int64_t *)shunt_result(t, NULL);
  shunt_release(t);
  return shunt_return(&n, sizeof n);
}

/* Three at once; the sum of what they gave. */
static void *await_all_triples(void *arg) {
  struct order *order = arg;
  shunt_task_t *t[3];
  for (int i = 0; i < 3; i++)
    t[i] = post_number(order->lane, triple, order->n);
  int64_t sum = shunt_await_all(t, 3, SHUNT_FOREVER);
  for (int i = 0; i < 3; i++)
    sum += take(t[i]);
  return shunt_return(&sum, sizeof sum);
}

/* One that is held and one that is not: the index of the one that settles. */
static void *await_any_triple(void *arg) {
  struct order *order = arg;
  shunt_lane_t other = order->lane == SHUNT_LANE_LOOP ? SHUNT_LANE_THREAD : SHUNT_LANE_LOOP;
  shunt_task_t *t[2] = {post(other, hold, NULL, 0), post_number(order->lane, triple, order->n)};
  int64_t index = shunt_await_any(t, 2, SHUNT_FOREVER);
  gate_push(GO);
  shunt_join(t[0], NULL);
  shunt_release(t[1]);
  return shunt_return(&index, sizeof index);
}

START_TEST(a_task_collects_what_a_task_gives) { ck_assert_int_eq(outer(_i, collect_triple, 7), 21); }
END_TEST

START_TEST(a_task_awaits_a_task) { ck_assert_int_eq(outer(_i, await_triple, 7), 21); }
END_TEST

START_TEST(a_task_awaits_a_task_for_a_while) { ck_assert_int_eq(outer(_i, await_triple_for, 7), 21); }
END_TEST

START_TEST(a_task_awaits_all_of_several) { ck_assert_int_eq(outer(_i, await_all_triples, 7), 63); }
END_TEST

START_TEST(a_task_awaits_any_of_several) { ck_assert_int_eq(outer(_i, await_any_triple, 7), 1); }
END_TEST

/* ---- what else crosses ---- */

static void *fail_io(void *arg) { return shunt_fail(UV_EIO, "inner %d", *(char *)arg); }

static void *observe_failure(void *arg) {
  struct order *order = arg;
  shunt_info_t info;
  shunt_task_t *t = post(order->lane, fail_io, "\1", 1);
  int64_t told = shunt_await(t, NULL);
  shunt_info(t, &info);
  if (info.lane != order->lane || info.message == NULL || strcmp(info.message, "inner 1") != 0)
    told = 0;
  shunt_release(t);
  return shunt_return(&told, sizeof told);
}

START_TEST(a_failure_and_its_words_reach_the_task_that_waits) {
  assert_is((int)outer(_i, observe_failure, 0), UV_EIO);
}
END_TEST

static void *die(void *arg) {
  _exit((int)*(int64_t *)arg);
}

static void *observe_crash(void *arg) {
  (void)arg;
  shunt_info_t info;
  shunt_task_t *t = post_number(SHUNT_LANE_PROCESS, die, 9);
  int64_t told = shunt_await(t, NULL) == SHUNT_ECRASHED;
  shunt_info(t, &info);
  told = told ? info.exit_status : -1;
  shunt_release(t);
  return shunt_return(&told, sizeof told);
}

START_TEST(a_crash_hurts_the_inner_task_only) {
  ck_assert_int_eq(answer(post(_i, observe_crash, NULL, 0)), 9);
}
END_TEST

static void *withdraw(void *arg) {
  struct order *order = arg;
  shunt_task_t *t = post(order->lane, hold, NULL, 0);
  shunt_cancel_t came_to = shunt_cancel(t);
  int64_t told = shunt_join(t, NULL) == UV_ECANCELED && came_to != SHUNT_TOO_LATE;
  return shunt_return(&told, sizeof told);
}

START_TEST(a_task_cancels_a_task) { ck_assert_int_eq(outer(_i, withdraw, 0), true); }
END_TEST

enum { LARGE = (2 << 20) + 5 };

static void *grow(void *arg) {
  unsigned char *bytes = shunt_alloc(LARGE);
  return bytes == NULL ? NULL : memset(bytes, *(unsigned char *)arg, LARGE);
}

static void *count_grown(void *arg) {
  struct order *order = arg;
  int64_t right = 0;
  unsigned char *large = calloc(1, LARGE);
  *large = (unsigned char)order->n;
  shunt_task_t *t = post(order->lane, grow, large, LARGE);
  if (shunt_await(t, NULL) == 0)
    for (const unsigned char *bytes = shunt_result(t, NULL); right < LARGE && bytes[right] == *large;)
      right++;
  shunt_release(t);
  free(large);
  return shunt_return(&right, sizeof right);
}

START_TEST(large_bytes_cross_both_ways) { ck_assert_int_eq(outer(_i, count_grown, 42), LARGE); }
END_TEST

static void *leave_behind(void *arg) {
  struct order *order = arg;
  shunt_release(post(order->lane, hold, NULL, 0));
  return shunt_return(&order->n, sizeof order->n);
}

START_TEST(a_task_need_not_wait_for_what_it_submitted) {
  ck_assert_int_eq(outer(_i, leave_behind, 3), 3);
  gate_push(GO);
  assert_passes(ENDED, 1);
}
END_TEST

/* ---- depth ---- */

/* Lanes in turn, or the one lane it is told. */
static void *descend(void *arg) {
  struct order *order = arg;
  int64_t depth = 0;
  if (order->n > 0) {
    shunt_lane_t lane = order->lane == SHUNT_LANE_ANY ? (shunt_lane_t)(1 + order->n % 3) : order->lane;
    depth = 1 + take(post_order(lane, descend, (struct order){.lane = order->lane, .n = order->n - 1}));
  }
  return shunt_return(&depth, sizeof depth);
}

/* A worker process that waits is a process: as deep as the process lane goes, it has as many. */
START_TEST(tasks_nest_deeply) {
  int64_t depth = _i == SHUNT_LANE_PROCESS ? 16 : (int64_t)scaled(500);
  struct order order = {.lane = _i, .n = depth};
  ck_assert_int_eq(answer(post_order(_i, descend, order)), depth);
}
END_TEST

START_TEST(tasks_nest_across_lanes) {
  struct order order = {.lane = SHUNT_LANE_ANY, .n = 24};
  ck_assert_int_eq(answer(post_order(SHUNT_LANE_PROCESS, descend, order)), 24);
}
END_TEST

static void *fibonacci(void *arg) {
  struct order *order = arg, less = {.lane = order->lane, .n = order->n - 1};
  int64_t n = order->n;
  if (n > 1) {
    shunt_task_t *one = post_order(order->lane, fibonacci, less);
    less.n--;
    shunt_task_t *two = post_order(order->lane, fibonacci, less);
    n = take(one);
    n += take(two);
  }
  return shunt_return(&n, sizeof n);
}

START_TEST(a_tree_of_tasks_adds_up) {
  static const struct { int64_t n, result; } sums[] = {{0}, {15, 610}, {15, 610}, {7, 13}};
  struct order order = {.lane = _i, .n = sums[_i].n};
  ck_assert_int_eq(answer(post_order(_i, fibonacci, order)), sums[_i].result);
}
END_TEST

static void *echo_wait(void *arg) {
  gate_await(GO, 1);
  return shunt_return(arg, sizeof(int64_t));
}

/* By reference: awaits a handle that it did not submit. */
static void *await_given(void *t) {
  void *result = NULL;
  gate_push(READY);
  return shunt_await(t, &result) == 0 ? result : NULL;
}

START_TEST(a_task_may_await_a_handle_it_was_given) {
  void *result = NULL;
  shunt_task_t *t = post_number((shunt_lane_t)(1 + _i % 3), echo_wait, 11);
  shunt_task_t *waiter = shunt_submit(rt, await_given, t, SHUNT_WITH(.lane = (shunt_lane_t)(1 + _i / 3)));
  assert_passes(READY, 1);
  gate_push(GO);
  assert_is(settle(waiter), 0);
  assert_is(shunt_join(waiter, &result), 0);
  ck_assert_ptr_nonnull(result);
  ck_assert_int_eq(answer(t), 11);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("nest");
  TCase *waits = room(suite, "ways to wait", start_narrow);
  every_pair(waits, a_task_collects_what_a_task_gives);
  every_pair(waits, a_task_awaits_a_task);
  every_pair(waits, a_task_awaits_a_task_for_a_while);
  every_pair(waits, a_task_awaits_all_of_several);
  every_pair(waits, a_task_awaits_any_of_several);
  tcase_add_loop_test(room(suite, "given", start_plain), a_task_may_await_a_handle_it_was_given, 0, 6);
  TCase *crossing = room(suite, "crossing", start_narrow);
  every_pair(crossing, a_failure_and_its_words_reach_the_task_that_waits);
  every_lane(crossing, a_crash_hurts_the_inner_task_only);
  every_pair(crossing, a_task_cancels_a_task);
  every_pair(crossing, large_bytes_cross_both_ways);
  every_pair(crossing, a_task_need_not_wait_for_what_it_submitted);
  TCase *depth = room(suite, "depth", start_narrow);
  every_lane(depth, tasks_nest_deeply);
  tcase_add_test(depth, tasks_nest_across_lanes);
  every_lane(depth, a_tree_of_tasks_adds_up);
  return run(suite, argc, argv);
}
