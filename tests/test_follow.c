/* shunt_then: a task whose argument is the result of the task before, whatever lanes the two are on. */
#include "support.h"

#include <stdint.h>

/* The nine pairs of lanes, _i / 3 before and _i % 3 after; and the four between which a pointer can pass. */
#define BEFORE ((shunt_lane_t)(1 + _i / 3))
#define AFTER ((shunt_lane_t)(1 + _i % 3))
#define HOME_BEFORE ((shunt_lane_t)(1 + _i / 2))
#define HOME_AFTER ((shunt_lane_t)(1 + _i % 2))

static void every_pair(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 9); }
static void home_pairs(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 4); }

static shunt_task_t *then(shunt_task_t *t, shunt_lane_t lane, shunt_fn fn) {
  return shunt_then(t, fn, SHUNT_WITH(.lane = lane));
}

/* The number that t gives, or its status. For use in tasks. */
static int64_t take(shunt_task_t *t) {
  int64_t n = 0;
  int status = shunt_collect(t, &n, sizeof n);
  return status == 0 ? n : status;
}

/* ---- tasks ---- */

enum { LARGE = (3 << 20) + 5 };

static unsigned char nth_byte(size_t i) { return (unsigned char)(i * 31 + i / 251); }

/* So many bytes, which begin with their number. */
static void *make_bytes(void *arg) {
  size_t size = (size_t) * (int64_t *)arg;
  unsigned char *bytes = shunt_alloc(size);
  if (bytes == NULL || size == 0)
    return bytes;
  for (size_t i = 0; i < size; i++)
    bytes[i] = nth_byte(i);
  return memcpy(bytes, &size, sizeof size);
}

static bool intact(const unsigned char *bytes, size_t size) {
  for (size_t i = sizeof size; i < size; i++)
    if (bytes[i] != nth_byte(i))
      return false;
  return (uintptr_t)bytes % 16 == 0;
}

/* How many bytes there are, and -1 when they are not what make_bytes made. Spoils them: they are its own. */
static void *weigh(void *arg) {
  size_t size = 0;
  int64_t weight;
  if (arg != NULL)
    memcpy(&size, arg, sizeof size);
  weight = arg == NULL || intact(arg, size) ? (int64_t)size : -1;
  if (arg != NULL)
    memset(arg, 0xee, size);
  return shunt_return(&weight, sizeof weight);
}

static void *increment(void *arg) {
  int64_t n = *(int64_t *)arg + 1;
  return shunt_return(&n, sizeof n);
}

static void *number_at_go(void *arg) {
  int err = gate_await(GO, 1);
  return err == 0 ? shunt_return(arg, sizeof(int64_t)) : shunt_fail(err, NULL);
}

static void *fail_at_go(void *arg) {
  int err = gate_await(GO, 1);
  return err == 0 ? shunt_fail(UV_EIO, "broke at %d", (int)*(int64_t *)arg) : shunt_fail(err, NULL);
}

static void *see(void *arg) {
  (void)arg;
  gate_push(SEEN);
  return NULL;
}

static void *self(void *arg) { return arg; }

static void *self_at_go(void *arg) { return gate_await(GO, 1) == 0 ? arg : NULL; }

static void *add_one(void *number) {
  ++*(int *)number;
  return number;
}

/* ---- results become arguments ---- */

START_TEST(the_result_is_the_argument_with_all_its_bytes) {
  static const int64_t sizes[] = {0, 8, 160, 161, 168, 169, 200, 4096, LARGE};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    shunt_task_t *t = post_number(BEFORE, make_bytes, sizes[k]), *next = then(t, AFTER, weigh);
    assert_is(settle(next), 0);
    assert_lane(next, AFTER);
    ck_assert_int_eq(answer(next), sizes[k]);
    assert_is(finish(t), 0);
  }
}
END_TEST

START_TEST(the_pointer_is_the_argument) {
  int local = 0;
  void *result = NULL;
  shunt_task_t *t = shunt_submit(rt, self_at_go, &local, SHUNT_WITH(.lane = HOME_BEFORE));
  shunt_task_t *next = then(t, HOME_AFTER, self);
  ck_assert(!shunt_done(next));
  gate_push(GO);
  assert_is(settle(next), 0);
  assert_is(shunt_join(next, &result), 0);
  ck_assert_ptr_eq(result, &local);
  assert_is(finish(t), 0);
}
END_TEST

START_TEST(each_that_follows_has_bytes_of_its_own) {
  enum { FOLLOWERS = 6 };
  shunt_task_t *next[FOLLOWERS], *t = post_number(_i, make_bytes, 5000);
  for (int k = 0; k < FOLLOWERS; k++)
    next[k] = then(t, (shunt_lane_t)(1 + k % 3), weigh);
  for (int k = 0; k < FOLLOWERS; k++)
    ck_assert_int_eq(answer(next[k]), 5000);
  ck_assert(intact(shunt_result(t, NULL), 5000));
  shunt_release(t);
}
END_TEST

/* On one lane, or on all in turn. */
START_TEST(a_chain_of_a_hundred) {
  shunt_task_t *t = post_number(_i == 0 ? SHUNT_LANE_THREAD : _i, number_at_go, 0);
  for (int k = 0; k < 100; k++) {
    shunt_task_t *next = then(t, _i == 0 ? (shunt_lane_t)(1 + k % 3) : (shunt_lane_t)_i, increment);
    shunt_release(t);
    t = next;
  }
  gate_push(GO);
  ck_assert_int_eq(answer(t), 100);
}
END_TEST

START_TEST(a_chain_of_a_hundred_by_reference) {
  int number = 0;
  shunt_task_t *t = shunt_submit(rt, self_at_go, &number, SHUNT_WITH(.lane = HOME_BEFORE));
  for (int k = 0; k < 100; k++) {
    shunt_task_t *next = then(t, k % 2 == 0 ? HOME_AFTER : HOME_BEFORE, add_one);
    shunt_release(t);
    t = next;
  }
  gate_push(GO);
  assert_is(finish(t), 0);
  ck_assert_int_eq(number, 100);
}
END_TEST

struct pipe {
  shunt_lane_t before, after;
  int64_t size;
};

static void *pipe_inside(void *arg) {
  struct pipe *pipe = arg;
  shunt_task_t *t = post_number(pipe->before, make_bytes, pipe->size), *next = then(t, pipe->after, weigh);
  shunt_release(t);
  int64_t n = take(next);
  return shunt_return(&n, sizeof n);
}

/* _i: the lane of the task that has the other two follow each other, and the nine pairs of theirs. */
START_TEST(a_task_may_build_the_pipeline) {
  static const int64_t sizes[] = {0, 8, 200, LARGE};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    struct pipe pipe = {(shunt_lane_t)(1 + _i / 3 % 3), (shunt_lane_t)(1 + _i % 3), sizes[k]};
    ck_assert_int_eq(answer(post((shunt_lane_t)(1 + _i / 9), pipe_inside, &pipe, sizeof pipe)), sizes[k]);
  }
}
END_TEST

START_TEST(whoever_waits_for_the_last_gets_it) {
  for (int k = 0, n = (int)scaled(300); k < n; k++) {
    int64_t got = 0;
    shunt_task_t *t = post_number(BEFORE, triple, k), *next = then(t, AFTER, triple);
    assert_is(shunt_collect(next, &got, sizeof got), 0); /* may run it in place, once its turn comes */
    ck_assert_int_eq(got, 9 * k);
    assert_is(finish(t), 0);
  }
}
END_TEST

START_TEST(nobody_need_keep_either) {
  shunt_task_t *t = post_number(BEFORE, number_at_go, 1);
  shunt_release(then(t, AFTER, see));
  shunt_release(t);
  gate_push(GO);
  assert_passes(SEEN, 1);
}
END_TEST

/* ---- failures ---- */

static void assert_skipped(shunt_task_t *t, int status, const char *words) {
  shunt_info_t info;
  assert_is(settle(t), status);
  shunt_info(t, &info);
  ck_assert_uint_eq(info.attempts, 0);
  if (words == NULL)
    ck_assert_ptr_null(info.message);
  else
    ck_assert_str_eq(info.message, words);
  shunt_release(t);
}

START_TEST(a_failure_skips_what_follows_and_passes_its_words_on) {
  start_plain();
  shunt_task_t *t = post_number(BEFORE, fail_at_go, 7);
  shunt_task_t *next = then(t, AFTER, see), *last = then(next, BEFORE, see);
  gate_push(GO);
  assert_skipped(last, UV_EIO, "broke at 7");
  assert_skipped(then(t, AFTER, see), UV_EIO, "broke at 7"); /* t has failed already */
  assert_skipped(next, UV_EIO, "broke at 7");
  shunt_release(t);
  stop();
  ck_assert_uint_eq(shared->gates[SEEN], 0);
}
END_TEST

static void *die(void *arg) { _exit((int)*(int64_t *)arg); }

START_TEST(a_crash_is_passed_on_too) {
  shunt_info_t info;
  shunt_task_t *t = post_number(SHUNT_LANE_PROCESS, die, 3), *next = then(t, _i, see);
  assert_is(settle(t), SHUNT_ECRASHED);
  shunt_info(t, &info);
  assert_skipped(next, SHUNT_ECRASHED, info.message);
  shunt_release(t);
}
END_TEST

START_TEST(a_failed_pointer_is_no_argument) {
  int64_t n = 4;
  shunt_task_t *t = shunt_submit(rt, fail_at_go, &n, SHUNT_WITH(.lane = HOME_BEFORE));
  shunt_task_t *next = then(t, HOME_AFTER, see);
  gate_push(GO);
  assert_skipped(next, UV_EIO, "broke at 4");
  assert_is(finish(t), UV_EIO);
}
END_TEST

START_TEST(a_long_chain_fails_in_little_stack) {
  int n = (int)scaled(20000);
  shunt_task_t *t = post_number(_i, fail_at_go, 1);
  for (int k = 0; k < n; k++) {
    shunt_task_t *next = then(t, _i, see);
    shunt_release(t);
    t = next;
  }
  gate_push(GO);
  assert_skipped(t, UV_EIO, "broke at 1");
}
END_TEST

/* ---- before its turn ---- */

START_TEST(a_cancel_before_its_turn_withdraws_it_alone) {
  start_plain();
  shunt_task_t *t = post_number(BEFORE, number_at_go, 5), *next = then(t, AFTER, see);
  ck_assert_int_eq(shunt_cancel(next), SHUNT_WITHDRAWN);
  ck_assert_int_eq(shunt_cancel(next), SHUNT_TOO_LATE);
  assert_skipped(next, UV_ECANCELED, NULL);
  ck_assert(!shunt_done(t));
  shunt_task_t *other = then(t, AFTER, triple);
  gate_push(GO);
  ck_assert_int_eq(answer(t), 5);
  ck_assert_int_eq(answer(other), 15);
  stop();
  ck_assert_uint_eq(shared->gates[SEEN], 0);
}
END_TEST

START_TEST(a_cancel_of_the_first_skips_the_second) {
  start_plain();
  shunt_task_t *t = post_number(BEFORE, number_at_go, 5), *next = then(t, AFTER, see);
  shunt_cancel(t);
  assert_skipped(next, UV_ECANCELED, NULL);
  assert_is(finish(t), UV_ECANCELED);
  stop();
  ck_assert_uint_eq(shared->gates[SEEN], 0);
}
END_TEST

START_TEST(its_deadline_comes_before_its_turn) {
  start_plain();
  shunt_task_t *t = post_number(SHUNT_LANE_THREAD, number_at_go, 5);
  shunt_task_t *next = shunt_then(t, see, SHUNT_WITH(.lane = _i, .timeout_ms = 10));
  assert_skipped(next, UV_ETIMEDOUT, NULL);
  ck_assert(!shunt_done(t));
  gate_push(GO);
  ck_assert_int_eq(answer(t), 5);
  stop();
  ck_assert_uint_eq(shared->gates[SEEN], 0);
}
END_TEST

START_TEST(its_deadline_comes_before_its_turn_by_reference) {
  int local;
  shunt_task_t *t = shunt_submit(rt, self_at_go, &local, SHUNT_WITH(.lane = HOME_BEFORE));
  shunt_task_t *next = shunt_then(t, see, SHUNT_WITH(.lane = HOME_AFTER, .timeout_ms = 10));
  assert_skipped(next, UV_ETIMEDOUT, NULL);
  ck_assert(!shunt_done(t));
  gate_push(GO);
  assert_is(finish(t), 0);
}
END_TEST

START_TEST(a_deadline_it_meets_is_none) {
  shunt_task_t *t = post_number(BEFORE, triple, 5);
  shunt_task_t *next = shunt_then(t, triple, SHUNT_WITH(.lane = AFTER, .timeout_ms = patience()));
  ck_assert_int_eq(answer(next), 45);
  ck_assert_int_eq(answer(t), 15);
}
END_TEST

/* In a task: cells[0] says whether the follower was withdrawn, cells[1] how it ended. */
static void *cancel_inside(void *lane) {
  shunt_task_t *t = post_number(SHUNT_LANE_THREAD, number_at_go, 5);
  shunt_task_t *next = then(t, *(shunt_lane_t *)lane, see);
  shared->cells[0] = shunt_cancel(next) == SHUNT_WITHDRAWN;
  shared->cells[1] = shunt_status(next);
  gate_push(GO);
  shared->cells[2] = take(t);
  shunt_release(next);
  return NULL;
}

/* In a worker the deadline is looked at when its turn comes. */
static void *limit_inside(void *lane) {
  shunt_task_t *t = post_number(SHUNT_LANE_THREAD, number_at_go, 5);
  shunt_task_t *next = shunt_then(t, see, SHUNT_WITH(.lane = *(shunt_lane_t *)lane, .timeout_ms = 10));
  bool in_worker = lane_of(shunt_self()) == SHUNT_LANE_PROCESS;
  shunt_await_for(next, in_worker ? 20 : patience(), NULL);
  shared->cells[0] = in_worker || shunt_done(next);
  gate_push(GO);
  shared->cells[1] = shunt_await(next, NULL);
  shared->cells[2] = take(t);
  shunt_release(next);
  return NULL;
}

static void see_inside(int i, shunt_fn fn, int status) {
  shunt_lane_t lane = (shunt_lane_t)(1 + i % 3);
  start_plain();
  assert_is(finish(post((shunt_lane_t)(1 + i / 3), fn, &lane, sizeof lane)), 0);
  ck_assert_int_eq(shared->cells[0], true);
  assert_is((int)shared->cells[1], status);
  ck_assert_int_eq(shared->cells[2], 5);
  stop();
  ck_assert_uint_eq(shared->gates[SEEN], 0);
}

/* _i: the lane of the task that does so, and its follower's. */
START_TEST(a_task_cancels_what_follows) { see_inside(_i, cancel_inside, UV_ECANCELED); }
END_TEST

START_TEST(a_task_limits_what_follows) { see_inside(_i, limit_inside, UV_ETIMEDOUT); }
END_TEST

/* A cancel that comes as the first settles: whatever it says it came to, that is so. */
START_TEST(a_cancel_that_meets_its_turn_means_what_it_says) {
  int lies = 0, ran = 0, n = (int)scaled(1000);
  start_plain();
  for (int k = 0; k < n; k++) {
    shunt_task_t *t = post_number(BEFORE, triple, k), *next = then(t, AFTER, see);
    for (int spin = k % 64; spin > 0; spin--)
      shunt_status(t);
    shunt_cancel_t came_to = shunt_cancel(next);
    lies += came_to == SHUNT_WITHDRAWN && !shunt_done(next);
    int status = finish(next);
    lies += came_to == SHUNT_WITHDRAWN ? status != UV_ECANCELED : status != 0;
    ran += came_to != SHUNT_WITHDRAWN;
    ck_assert_int_eq(answer(t), 3 * k);
  }
  stop();
  ck_assert_int_eq(lies, 0);
  ck_assert_uint_eq(shared->gates[SEEN], (unsigned)ran);
}
END_TEST

/* ---- what cannot follow ---- */

START_TEST(what_makes_no_sense_is_refused_at_once) {
  int local;
  shunt_task_t *t = post_number(SHUNT_LANE_THREAD, number_at_go, 5);
  shunt_task_t *reference = shunt_submit(rt, self_at_go, &local, SHUNT_WITH(.lane = SHUNT_LANE_THREAD));
  shunt_task_t *refused[] = {shunt_then(t, NULL, NULL),
                             shunt_then(t, see, SHUNT_WITH(.arg_size = 8)),
                             shunt_then(t, see, SHUNT_WITH(.lane = (shunt_lane_t)9)),
                             shunt_then(reference, see, SHUNT_WITH(.lane = SHUNT_LANE_PROCESS)),
                             shunt_then(reference, see, SHUNT_WITH(.flags = SHUNT_BY_VALUE))};
  for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
    ck_assert_msg(shunt_done(refused[k]), "number %zu was not refused", k);
    assert_is(finish(refused[k]), UV_EINVAL);
  }
  gate_push(GO);
  assert_is(finish(t), 0);
  assert_is(finish(reference), 0);
  ck_assert_uint_eq(shared->gates[SEEN], 0);
}
END_TEST

START_TEST(what_was_refused_is_followed_by_nothing) {
  shunt_task_t *t = shunt_submit(rt, NULL, NULL, NULL), *nowhere = shunt_submit(NULL, see, NULL, NULL);
  shunt_info_t info;
  shunt_info(t, &info);
  assert_skipped(then(t, _i, see), UV_EINVAL, info.message);
  shunt_info(nowhere, &info);
  assert_skipped(then(nowhere, _i, see), UV_EINVAL, info.message);
  shunt_release(t);
  shunt_release(nowhere);
}
END_TEST

START_TEST(what_follows_counts_as_pending) {
  start(&(shunt_options_t){.max_pending = 1});
  shunt_task_t *t = post_number(SHUNT_LANE_LOOP, number_at_go, 5), *next;
  while (shunt_status(next = then(t, SHUNT_LANE_LOOP, triple)) == UV_EAGAIN) /* t has not started */
    shunt_release(next);
  assert_is(finish(then(t, SHUNT_LANE_LOOP, triple)), UV_EAGAIN);
  gate_push(GO);
  ck_assert_int_eq(answer(next), 15);
  assert_is(finish(t), 0);
  stop();
}
END_TEST

/* ---- stop ---- */

START_TEST(stop_waits_for_what_follows) {
  start_plain();
  shunt_task_t *t = post_number(BEFORE, triple, 5), *next = then(t, AFTER, triple);
  shunt_task_t *last = then(next, BEFORE, triple);
  stop();
  ck_assert_int_eq(answer(last), 135);
  ck_assert_int_eq(answer(next), 45);
  assert_is(finish(then(t, AFTER, triple)), SHUNT_ECLOSED);
  ck_assert_int_eq(answer(t), 15);
}
END_TEST

START_TEST(stop_in_a_hurry_settles_what_follows) {
  start_plain();
  shunt_task_t *t = post_number(BEFORE, number_at_go, 5), *next = then(t, AFTER, triple);
  assert_is(shunt_stop(rt, 0), 0);
  assert_is(finish(t), UV_ECANCELED);
  assert_is(finish(next), UV_ECANCELED);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("follow");
  TCase *results = room(suite, "results", start_plain);
  every_pair(results, the_result_is_the_argument_with_all_its_bytes);
  home_pairs(results, the_pointer_is_the_argument);
  every_lane(results, each_that_follows_has_bytes_of_its_own);
  tcase_add_loop_test(results, a_chain_of_a_hundred, 0, SHUNT_LANE_PROCESS + 1);
  home_pairs(results, a_chain_of_a_hundred_by_reference);
  tcase_add_loop_test(results, a_task_may_build_the_pipeline, 0, 27);
  every_pair(results, whoever_waits_for_the_last_gets_it);
  every_pair(results, nobody_need_keep_either);
  TCase *failures = room(suite, "failures", start_plain);
  every_lane(failures, a_crash_is_passed_on_too);
  home_pairs(failures, a_failed_pointer_is_no_argument);
  every_lane(failures, a_long_chain_fails_in_little_stack);
  home_pairs(failures, its_deadline_comes_before_its_turn_by_reference);
  every_pair(failures, a_deadline_it_meets_is_none);
  tcase_add_test(failures, what_makes_no_sense_is_refused_at_once);
  every_lane(failures, what_was_refused_is_followed_by_nothing);
  TCase *ends = room(suite, "ends", NULL);
  every_pair(ends, a_failure_skips_what_follows_and_passes_its_words_on);
  every_pair(ends, a_cancel_before_its_turn_withdraws_it_alone);
  every_pair(ends, a_cancel_of_the_first_skips_the_second);
  every_lane(ends, its_deadline_comes_before_its_turn);
  every_pair(ends, a_task_cancels_what_follows);
  tcase_add_loop_test(ends, a_task_limits_what_follows, 0, 6); /* a worker looks when the turn comes */
  every_pair(ends, a_cancel_that_meets_its_turn_means_what_it_says);
  tcase_add_test(ends, what_follows_counts_as_pending);
  every_pair(ends, stop_waits_for_what_follows);
  every_pair(ends, stop_in_a_hurry_settles_what_follows);
  return run(suite, argc, argv);
}
