/* The line under channels, mutexes, limiters and events, from the inside: the test holds its lock, so it
 * knows who stands there and in what order, whatever the lane. */
#include "support.h"

#include "sync/line.h"

static shunt__line_t line;

static void start_with_line(void) {
  start_plain();
  shunt__line_open(&line);
}

static void lock(void) { assert_is(shunt__line_lock(&line), 0); }

static void unlock(shunt__strand_t *next) { shunt__line_unlock(&line, next); }

static int length(void) {
  int n = 0;
  lock();
  for (const shunt__waiting_t *w = line.first; w != NULL; w = w->next)
    n++;
  unlock(NULL);
  return n;
}

static void await_length(int n) {
  uint64_t end = now_ms() + patience();
  while (length() != n && now_ms() < end)
    sched_yield();
  ck_assert_int_eq(length(), n);
}

/* Stands in line; what it was handed is its result. */
static void *stand(void *limit) {
  shunt__strand_t *s;
  int err = shunt__line_enter(&line, &s);
  if (err == 0)
    err = shunt__line_wait(&line, s, NULL, (uint64_t)(uintptr_t)limit);
  return (void *)(intptr_t)err;
}

static shunt_task_t *join_line(shunt_lane_t lane, uint64_t limit) {
  int before = length();
  shunt_task_t *t = shunt_submit(rt, stand, (void *)(uintptr_t)limit, SHUNT_WITH(.lane = lane));
  await_length(before + 1);
  return t;
}

/* Outcomes are 0 and below: the n-th that is handed over is -n. */
static void hand(int n) {
  lock();
  unlock(shunt__line_hand(&line, -n));
}

/* What t came away with; its status. */
static int left_with(shunt_task_t *t, int wanted) {
  void *got = NULL;
  assert_is(settle(t), shunt_status(t));
  int status = shunt_join(t, &got);
  ck_assert_int_eq((intptr_t)got, wanted);
  return status;
}

enum { CROWD = 6 };

static shunt_lane_t lane_in(int i, int k) {
  return (i >> (k % 2) & 1) == 0 ? SHUNT_LANE_LOOP : SHUNT_LANE_THREAD;
}

/* _i's two bits are the lanes of every other one in line. */
START_TEST(who_came_first_is_served_first) {
  shunt_task_t *tasks[CROWD];
  for (int k = 0; k < CROWD; k++)
    tasks[k] = join_line(lane_in(_i, k), SHUNT_FOREVER);
  for (int k = 0; k < CROWD; k++)
    hand(k);
  for (int k = 0; k < CROWD; k++)
    assert_is(left_with(tasks[k], -k), 0);
}
END_TEST

START_TEST(who_leaves_disturbs_nobody) {
  shunt_task_t *tasks[CROWD];
  for (int k = 0; k < CROWD; k++)
    tasks[k] = join_line(lane_in(_i, k), SHUNT_FOREVER);
  for (int k = 0; k < CROWD; k += 5) { /* the first and the last */
    shunt_cancel(tasks[k]);
    assert_is(left_with(tasks[k], UV_ECANCELED), UV_ECANCELED);
  }
  shunt_cancel(tasks[3]);
  assert_is(left_with(tasks[3], UV_ECANCELED), UV_ECANCELED);
  tasks[5] = join_line(lane_in(_i, 5), SHUNT_FOREVER);
  await_length(4);
  static const int left[] = {1, 2, 4, 5};
  for (int k = 0; k < 4; k++)
    hand(k);
  for (int k = 0; k < 4; k++)
    assert_is(left_with(tasks[left[k]], -k), 0);
}
END_TEST

/* Under the lock: whoever wakes up in line cannot leave it before the test gives the lock back, but does see
 * that there is cause to. */
static void await_word(const shunt__waiting_t *w, uint32_t word) {
  uint64_t end = now_ms() + patience();
  while (atomic_load(&w->strand->word) != word && now_ms() < end)
    sched_yield();
  ck_assert_uint_eq(atomic_load(&w->strand->word), word);
}

/* It was not told of the cancel either, so its task settles as done. */
START_TEST(what_is_handed_over_while_it_is_cancelled_is_kept) {
  shunt_task_t *t = join_line(_i, SHUNT_FOREVER);
  lock();
  await_word(line.first, SHUNT__PARKED);
  ck_assert_int_eq(shunt_cancel(t), SHUNT_REQUESTED);
  await_word(line.first, SHUNT__RUNNING);
  unlock(shunt__line_hand(&line, -7));
  assert_is(left_with(t, -7), 0);
}
END_TEST

START_TEST(what_is_handed_over_as_the_limit_runs_out_is_kept) {
  uint64_t limit = 100 * slowness(), end = now_ms() + limit;
  shunt_task_t *t = join_line(_i, limit);
  lock();
  bool there = line.first != NULL; /* unless the test was held up for so long */
  while (now_ms() <= end)
    sched_yield();
  if (there)
    await_word(line.first, SHUNT__RUNNING);
  unlock(there ? shunt__line_hand(&line, -7) : NULL);
  assert_is(left_with(t, there ? -7 : UV_ETIMEDOUT), 0);
}
END_TEST

START_TEST(a_line_with_somebody_in_it_is_not_closed) {
  shunt_task_t *t = join_line(_i, SHUNT_FOREVER);
  lock();
  assert_is(shunt__line_close(&line, false), UV_EBUSY);
  hand(1);
  assert_is(left_with(t, -1), 0);
  lock();
  assert_is(shunt__line_close(&line, true), UV_EBUSY);
  lock();
  assert_is(shunt__line_close(&line, false), 0);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("line");
  TCase *order = room(suite, "order", start_with_line);
  tcase_add_loop_test(order, who_came_first_is_served_first, 0, 4);
  tcase_add_loop_test(order, who_leaves_disturbs_nobody, 0, 4);
  TCase *leaving = room(suite, "leaving", start_with_line);
  home_lanes(leaving, what_is_handed_over_while_it_is_cancelled_is_kept);
  home_lanes(leaving, what_is_handed_over_as_the_limit_runs_out_is_kept);
  home_lanes(leaving, a_line_with_somebody_in_it_is_not_closed);
  return run(suite, argc, argv);
}
