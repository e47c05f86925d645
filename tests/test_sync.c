/* Mutexes, limiters and events, and what holds for every call that waits: limits, cancel, misuse, callbacks
 * and worker processes. Channels have test_chan.c, where it is said how a waiter is known to be in line. */
#include "support.h"

#include <shunt/sync.h>

static shunt_task_t *go(shunt_lane_t lane, shunt_fn fn, void *arg) {
  return shunt_submit(rt, fn, arg, SHUNT_WITH(.lane = lane));
}

static void *nothing(void *arg) { return arg; }

static void let_the_loop_begin(void) { assert_is(finish(go(SHUNT_LANE_LOOP, nothing, NULL)), 0); }

/* The loops of the tests: _i % 4 is a pair of lanes, _i / 4 whether a mutex or a limiter. */
static shunt_lane_t one_lane(int i) { return i / 2 % 2 == 0 ? SHUNT_LANE_LOOP : SHUNT_LANE_THREAD; }
static shunt_lane_t other_lane(int i) { return i % 2 == 0 ? SHUNT_LANE_LOOP : SHUNT_LANE_THREAD; }

/* A mutex, or a limiter where one is as good as a mutex. */
struct door {
  shunt_mutex_t *mutex;
  shunt_sem_t *sem;
};

static void door_open(struct door *door, int i, unsigned permits) {
  *door = (struct door){NULL, NULL};
  assert_is(i / 4 == 0 ? shunt_mutex_open(&door->mutex) : shunt_sem_open(&door->sem, permits), 0);
}

static int enter(struct door *d, uint64_t limit) {
  return d->mutex != NULL ? shunt_mutex_lock(d->mutex, limit) : shunt_sem_acquire(d->sem, limit);
}

static int leave(struct door *d) {
  return d->mutex != NULL ? shunt_mutex_unlock(d->mutex) : shunt_sem_release(d->sem);
}

static int door_free(struct door *d) {
  return d->mutex != NULL ? shunt_mutex_free(d->mutex) : shunt_sem_free(d->sem);
}

/* ---- order ---- */

static char order[8];

struct turn {
  struct door *door;
  char mark;
};

static void *take_turn(void *arg) {
  struct turn *turn = arg;
  int err = enter(turn->door, SHUNT_FOREVER);
  if (err != 0)
    return shunt_fail(err, NULL);
  size_t end = strlen(order);
  shunt_yield();
  order[end] = turn->mark;
  return leave(turn->door) == 0 ? NULL : shunt_fail(UV_EIO, NULL);
}

/* The test's own thread is inside while fibers line up, and then cannot be faster than the first of them,
 * who cannot even come yet. */
START_TEST(the_first_in_line_is_next_and_nobody_overtakes) {
  struct door door;
  struct turn turns[5];
  shunt_task_t *tasks[5];
  memset(order, 0, sizeof order);
  door_open(&door, _i, 1);
  assert_is(enter(&door, 0), 0);
  for (int k = 0; k < 5; k++) {
    turns[k] = (struct turn){.door = &door, .mark = (char)('a' + k)};
    tasks[k] = go(SHUNT_LANE_LOOP, take_turn, &turns[k]);
  }
  let_the_loop_begin();
  shunt_task_t *busy = occupy(SHUNT_LANE_LOOP);
  assert_is(leave(&door), 0);
  assert_is(enter(&door, 0), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(finish(busy), 0);
  for (int k = 0; k < 5; k++)
    assert_is(finish(tasks[k]), 0);
  ck_assert_str_eq(order, "abcde");
  assert_is(door_free(&door), 0);
}
END_TEST

/* ---- inside ---- */

enum { ROUNDS = 50, CROWD = 8 };

struct account {
  struct door door;
  int64_t balance;
  shunt_lane_t other;
};

static void wait_somehow(const struct account *a, int i) {
  if (i % 10 == 0)
    shunt_sleep(1);
  else if (i % 10 == 5)
    shunt_join(go(a->other, nothing, NULL), NULL);
  else
    shunt_yield();
}

/* Reads, waits, and writes: only a lock that holds across the wait keeps the sum. */
static void *deposit(void *arg) {
  struct account *a = arg;
  for (int i = 0; i < ROUNDS; i++) {
    int err = enter(&a->door, SHUNT_FOREVER);
    if (err != 0)
      return shunt_fail(err, NULL);
    int64_t seen = a->balance;
    wait_somehow(a, i);
    a->balance = seen + 1;
    leave(&a->door);
  }
  return NULL;
}

START_TEST(it_is_held_across_any_wait) {
  struct account a = {.other = other_lane(_i)};
  shunt_task_t *tasks[CROWD];
  door_open(&a.door, _i, 1);
  for (int k = 0; k < CROWD; k++)
    tasks[k] = go(k % 2 == 0 ? one_lane(_i) : other_lane(_i), deposit, &a);
  for (int k = 0; k < CROWD; k++)
    assert_is(finish(tasks[k]), 0);
  ck_assert_int_eq(a.balance, CROWD * ROUNDS);
  assert_is(door_free(&a.door), 0);
}
END_TEST

static uint32_t random_below(uint32_t *state, uint32_t limit) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state % limit;
}

/* In and out until the turns are used up; the result says whether the task was told to end. */
struct revolving {
  struct door door;
  _Atomic int64_t turns;
};

static void *come_and_go(void *arg) {
  struct revolving *r = arg;
  for (int64_t n; (n = atomic_fetch_sub(&r->turns, 1)) > 0;) {
    int err = enter(&r->door, n % 4 == 0 ? 1 : SHUNT_FOREVER);
    if (err == UV_ETIMEDOUT)
      continue;
    if (err != 0)
      return err == UV_ECANCELED ? arg : shunt_fail(err, NULL);
    crowd_enter();
    err = n % 8 == 1 ? shunt_yield() : 0;
    crowd_leave();
    if (leave(&r->door) != 0)
      return shunt_fail(UV_EIO, NULL);
    if (err != 0)
      return arg;
  }
  return NULL;
}

static bool cancelled_as_told(shunt_task_t *t) {
  void *told = NULL;
  bool withdrawn = shunt_cancel(t) == SHUNT_WITHDRAWN;
  return shunt_join(t, &told) == (withdrawn || told != NULL ? UV_ECANCELED : 0);
}

START_TEST(a_cancel_amid_the_hand_over_loses_no_place_and_makes_none) {
  struct revolving r = {.turns = (int64_t)scaled(20000)};
  shunt_task_t *tasks[CROWD];
  unsigned permits = _i / 4 == 0 ? 1 : 3;
  uint32_t seed = 2654435769u * (uint32_t)(_i + 1);
  int untold = 0;
  door_open(&r.door, _i, permits);
  for (int k = 0; k < CROWD; k++)
    tasks[k] = go(k % 2 == 0 ? one_lane(_i) : other_lane(_i), come_and_go, &r);
  while (atomic_load(&r.turns) > 0) {
    uint32_t k = random_below(&seed, CROWD);
    for (uint32_t pause = random_below(&seed, 2000); pause > 0; pause--)
      atomic_load(&r.turns);
    untold += !cancelled_as_told(tasks[k]);
    tasks[k] = go(k % 2 == 0 ? one_lane(_i) : other_lane(_i), come_and_go, &r);
  }
  for (int k = 0; k < CROWD; k++)
    assert_is(finish(tasks[k]), 0);
  ck_assert_int_eq(untold, 0);
  ck_assert_int_le(shared->peak, permits);
  assert_is(door_free(&r.door), 0);
}
END_TEST

START_TEST(as_many_are_inside_as_there_are_permits) {
  shunt_sem_t *sem;
  assert_is(shunt_sem_open(&sem, 3), 0);
  for (int round = 0; round < 3; round++) {
    for (int k = 0; k < 3; k++)
      assert_is(shunt_sem_acquire(sem, 0), 0);
    assert_is(shunt_sem_acquire(sem, 0), UV_ETIMEDOUT);
    assert_is(shunt_sem_acquire(sem, 1), UV_ETIMEDOUT);
    for (int k = 0; k < 3; k++)
      assert_is(shunt_sem_release(sem), 0);
  }
  assert_is(shunt_sem_free(sem), 0);
}
END_TEST

/* ---- events ---- */

static int happened; /* written before the set, read after the wait */

static void *await_event(void *e) {
  gate_push(STARTED);
  int err = shunt_event_wait(e, SHUNT_FOREVER);
  return err == 0 && happened == 1 ? NULL : shunt_fail(err != 0 ? err : UV_EIO, NULL);
}

static shunt_event_t *open_event(void) {
  shunt_event_t *e;
  happened = 0;
  assert_is(shunt_event_open(&e), 0);
  return e;
}

static void await_in_crowd(shunt_event_t *e, shunt_task_t *tasks[CROWD], shunt_lane_t a, shunt_lane_t b) {
  for (int k = 0; k < CROWD; k++)
    tasks[k] = go(k % 2 == 0 ? a : b, await_event, e);
  assert_passes(STARTED, CROWD);
  let_the_loop_begin();
}

START_TEST(a_set_lets_all_go_who_wait_and_all_who_come_later) {
  shunt_task_t *tasks[CROWD];
  shunt_event_t *e = open_event();
  assert_is(shunt_event_wait(e, 0), UV_ETIMEDOUT);
  await_in_crowd(e, tasks, one_lane(_i), other_lane(_i));
  happened = 1;
  assert_is(shunt_event_set(e), 0);
  assert_is(shunt_event_set(e), 0);
  for (int k = 0; k < CROWD; k++)
    assert_is(finish(tasks[k]), 0);
  assert_is(finish(go(one_lane(_i), await_event, e)), 0);
  assert_is(shunt_event_wait(e, 0), 0);
  assert_is(shunt_event_reset(e), 0);
  assert_is(shunt_event_wait(e, 1), UV_ETIMEDOUT);
  assert_is(shunt_event_free(e), 0);
}
END_TEST

START_TEST(a_reset_right_after_the_set_holds_nobody_back) {
  shunt_task_t *tasks[CROWD];
  shunt_event_t *e = open_event();
  await_in_crowd(e, tasks, SHUNT_LANE_LOOP, SHUNT_LANE_LOOP);
  assert_is(shunt_event_free(e), UV_EBUSY);
  happened = 1;
  assert_is(shunt_event_set(e), 0);
  assert_is(shunt_event_reset(e), 0);
  for (int k = 0; k < CROWD; k++)
    assert_is(finish(tasks[k]), 0);
  assert_is(shunt_event_free(e), 0);
}
END_TEST

/* ---- told to end ---- */

/* One of each. */
struct things {
  shunt_chan_t *c;
  shunt_mutex_t *m;
  shunt_sem_t *sem;
  shunt_event_t *e;
};

static bool open_things(struct things *t) {
  return shunt_chan_open(&t->c, sizeof(int64_t), 1) == 0 && shunt_mutex_open(&t->m) == 0 &&
         shunt_sem_open(&t->sem, 2) == 0 && shunt_event_open(&t->e) == 0;
}

static bool free_things(struct things *t) {
  return shunt_chan_free(t->c) == 0 && shunt_mutex_free(t->m) == 0 && shunt_sem_free(t->sem) == 0 &&
         shunt_event_free(t->e) == 0;
}

/* Every call that waits, though none had to; what they said is in the cells from `cell` on. */
enum { CALLS = 5 };

static void call_all(struct things *t, uint64_t limit, _Atomic int64_t *cell) {
  int64_t n = 1;
  cell[0] = shunt_chan_send(t->c, &n, limit);
  cell[1] = shunt_chan_recv(t->c, &n, limit);
  cell[2] = shunt_mutex_lock(t->m, limit);
  cell[3] = shunt_sem_acquire(t->sem, limit);
  cell[4] = shunt_event_wait(t->e, limit);
}

/* What never waits works, though the task was told. */
static bool give_all_back(struct things *t) {
  return shunt_mutex_unlock(t->m) == 0 && shunt_sem_release(t->sem) == 0 && shunt_event_set(t->e) == 0 &&
         shunt_chan_close(t->c) == 0;
}

static void *outlast_the_telling(void *arg) {
  struct things *t = arg;
  int64_t n;
  if (shunt_mutex_lock(t->m, 0) != 0 || shunt_sem_acquire(t->sem, 0) != 0)
    return NULL;
  gate_push(STARTED);
  shared->cells[0] = shunt_chan_recv(t->c, &n, SHUNT_FOREVER);
  call_all(t, SHUNT_FOREVER, &shared->cells[1]);
  call_all(t, 0, &shared->cells[1 + CALLS]);
  return give_all_back(t) ? arg : NULL;
}

static void told_everywhere(shunt_task_t *t, int wanted) {
  void *result = NULL;
  assert_is(shunt_join(t, &result), wanted);
  ck_assert_ptr_nonnull(result);
  for (int k = 0; k <= 2 * CALLS; k++)
    assert_is((int)shared->cells[k], wanted);
}

START_TEST(a_cancelled_task_is_told_by_every_call_that_waits) {
  struct things t;
  ck_assert(open_things(&t));
  shunt_task_t *task = go(_i, outlast_the_telling, &t);
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(task), SHUNT_REQUESTED);
  told_everywhere(task, UV_ECANCELED);
  ck_assert(free_things(&t));
}
END_TEST

START_TEST(a_task_past_its_deadline_is_told_by_every_call_that_waits) {
  struct things t;
  ck_assert(open_things(&t));
  shunt_task_options_t options = {.lane = _i, .timeout_ms = 300 * slowness()};
  told_everywhere(shunt_submit(rt, outlast_the_telling, &t, &options), UV_ETIMEDOUT);
  ck_assert(free_things(&t));
}
END_TEST

static void *lock_it(void *m) {
  int err = shunt_mutex_lock(m, SHUNT_FOREVER);
  return err == 0 ? NULL : shunt_fail(err, NULL);
}

static void *count_a_lock(void *m) {
  gate_push(STARTED);
  shared->cells[0] = shunt_mutex_lock(m, SHUNT_FOREVER);
  shared->cells[1] = shunt_mutex_unlock(m);
  return NULL;
}

static void *lock_behind_a_shield(void *m) {
  shunt_shield(count_a_lock, m);
  return NULL;
}

START_TEST(behind_a_shield_a_cancelled_task_waits_as_ever) {
  shunt_mutex_t *m;
  assert_is(shunt_mutex_open(&m), 0);
  assert_is(shunt_mutex_lock(m, 0), 0);
  shunt_task_t *task = go(_i, lock_behind_a_shield, m);
  assert_passes(STARTED, 1);
  ck_assert_int_eq(shunt_cancel(task), SHUNT_REQUESTED);
  assert_is(shunt_await_for(task, 20, NULL), UV_ETIMEDOUT);
  assert_is(shunt_mutex_unlock(m), 0);
  assert_is(finish(task), 0);
  assert_is((int)shared->cells[0], 0);
  assert_is((int)shared->cells[1], 0);
  assert_is(shunt_mutex_free(m), 0);
}
END_TEST

/* ---- misuse ---- */

static void *unlock_it(void *m) {
  int err = shunt_mutex_unlock(m);
  return err == 0 ? NULL : shunt_fail(err, NULL);
}

static void *lock_twice(void *m) {
  int first = shunt_mutex_lock(m, SHUNT_FOREVER), again = shunt_mutex_lock(m, SHUNT_FOREVER);
  int limited = shunt_mutex_lock(m, 1), tried = shunt_mutex_lock(m, 0), err = shunt_mutex_unlock(m);
  if (first != 0 || err != 0 || limited != again || tried != again)
    return shunt_fail(UV_EIO, NULL);
  return shunt_fail(again, NULL);
}

START_TEST(only_the_owner_unlocks_and_nobody_locks_twice) {
  shunt_mutex_t *m;
  assert_is(shunt_mutex_open(&m), 0);
  assert_is(shunt_mutex_unlock(m), UV_EPERM);
  assert_is(shunt_mutex_lock(m, 0), 0);
  assert_is(shunt_mutex_lock(m, SHUNT_FOREVER), SHUNT_EDEADLK);
  assert_is(finish(go(_i, unlock_it, m)), UV_EPERM);
  assert_is(shunt_mutex_free(m), UV_EBUSY);
  assert_is(shunt_mutex_unlock(m), 0);
  assert_is(shunt_mutex_unlock(m), UV_EPERM);
  assert_is(finish(go(_i, lock_twice, m)), SHUNT_EDEADLK);
  assert_is(shunt_mutex_free(m), 0);
}
END_TEST

static void *join_one_that_needs_my_lock(void *m) {
  int err = shunt_mutex_lock(m, SHUNT_FOREVER);
  if (err == 0)
    err = shunt_join(go(SHUNT_LANE_THREAD, lock_it, m), NULL);
  shunt_mutex_unlock(m);
  return shunt_fail(err, NULL);
}

/* With one thread, who waits for a queued task runs it on its own stack. */
START_TEST(a_task_run_in_place_of_a_wait_cannot_wait_for_the_waiter) {
  shunt_mutex_t *m;
  assert_is(shunt_mutex_open(&m), 0);
  assert_is(finish(go(SHUNT_LANE_THREAD, join_one_that_needs_my_lock, m)), SHUNT_EDEADLK);
  assert_is(shunt_mutex_free(m), 0);
}
END_TEST

START_TEST(a_limiter_gives_no_more_than_it_has) {
  shunt_sem_t *sem = (shunt_sem_t *)&sem;
  assert_is(shunt_sem_open(&sem, 0), UV_EINVAL);
  ck_assert_ptr_null(sem);
  assert_is(shunt_sem_open(&sem, 2), 0);
  assert_is(shunt_sem_release(sem), UV_EPERM);
  assert_is(shunt_sem_acquire(sem, 0), 0);
  assert_is(shunt_sem_free(sem), UV_EBUSY);
  assert_is(shunt_sem_release(sem), 0);
  assert_is(shunt_sem_release(sem), UV_EPERM);
  assert_is(shunt_sem_free(sem), 0);
}
END_TEST

/* ---- callbacks of libuv ---- */

static void in_callback(uv_timer_t *timer) {
  struct things *t = timer->data;
  call_all(t, 0, &shared->cells[0]);
  call_all(t, SHUNT_FOREVER, &shared->cells[CALLS]);
  shared->cells[2 * CALLS] = shunt_mutex_unlock(t->m);
  shared->cells[2 * CALLS + 1] = shunt_sem_release(t->sem);
  shared->cells[2 * CALLS + 2] = shunt_sem_release(t->sem);
  uv_close((uv_handle_t *)timer, NULL);
  gate_push(SEEN);
}

static void *start_timer(void *arg) {
  static uv_timer_t timer;
  timer.data = arg;
  uv_timer_init(shunt_uv_loop(rt), &timer);
  uv_timer_start(&timer, in_callback, 0, 0);
  return NULL;
}

/* Nor is it left in line: else the event could not be freed. */
START_TEST(a_callback_does_what_need_not_wait_and_is_refused_the_rest) {
  static const int said[] = {0, 0, 0, 0, UV_ETIMEDOUT, 0, 0, SHUNT_EDEADLK, 0, SHUNT_EDEADLK, 0, 0, 0};
  struct things t;
  ck_assert(open_things(&t));
  assert_is(finish(go(SHUNT_LANE_LOOP, start_timer, &t)), 0);
  assert_passes(SEEN, 1);
  for (int k = 0; k < 13; k++)
    assert_is((int)shared->cells[k], said[k]);
  ck_assert(free_things(&t));
}
END_TEST

/* ---- worker processes ---- */

/* Made before the first runtime, so that every worker process has a copy. */
static struct things of_the_program;

static void *use_the_programs(void *arg) {
  (void)arg;
  int64_t told[CALLS + 1];
  call_all(&of_the_program, SHUNT_FOREVER, &shared->cells[0]);
  for (int k = 0; k < CALLS; k++)
    told[k] = shared->cells[k];
  told[CALLS] = shunt_event_set(of_the_program.e);
  return shunt_return(told, sizeof told);
}

START_TEST(a_worker_process_is_refused_what_is_the_programs) {
  int64_t told[CALLS + 1] = {0};
  assert_is(shunt_collect(post(SHUNT_LANE_PROCESS, use_the_programs, NULL, 0), told, sizeof told), 0);
  for (int k = 0; k <= CALLS; k++)
    assert_is((int)told[k], UV_EPERM);
}
END_TEST

static void *use_its_own(void *arg) {
  (void)arg;
  struct things t;
  int64_t told[CALLS + 1];
  if (!open_things(&t))
    return NULL;
  call_all(&t, SHUNT_FOREVER, &shared->cells[0]);
  for (int k = 0; k < CALLS; k++)
    told[k] = shared->cells[k];
  told[CALLS] = give_all_back(&t) && free_things(&t);
  return shunt_return(told, sizeof told);
}

START_TEST(a_worker_process_has_its_own_and_never_waits_for_nobody) {
  int64_t told[CALLS + 1] = {0};
  assert_is(shunt_collect(post(SHUNT_LANE_PROCESS, use_its_own, NULL, 0), told, sizeof told), 0);
  for (int k = 0; k < CALLS - 1; k++)
    assert_is((int)told[k], 0);
  assert_is((int)told[CALLS - 1], SHUNT_EDEADLK);
  ck_assert_int_eq(told[CALLS], true);
}
END_TEST

int main(int argc, char **argv) {
  if (!open_things(&of_the_program))
    return EXIT_FAILURE;
  Suite *suite = suite_create("sync");
  TCase *doors = room(suite, "doors", start_plain);
  tcase_add_loop_test(doors, the_first_in_line_is_next_and_nobody_overtakes, 3, 5);
  tcase_add_loop_test(doors, it_is_held_across_any_wait, 0, 8);
  tcase_add_loop_test(doors, a_cancel_amid_the_hand_over_loses_no_place_and_makes_none, 0, 8);
  tcase_add_test(doors, as_many_are_inside_as_there_are_permits);
  TCase *events = room(suite, "events", start_plain);
  tcase_add_loop_test(events, a_set_lets_all_go_who_wait_and_all_who_come_later, 0, 4);
  tcase_add_test(events, a_reset_right_after_the_set_holds_nobody_back);
  TCase *told = room(suite, "told", start_plain);
  home_lanes(told, a_cancelled_task_is_told_by_every_call_that_waits);
  home_lanes(told, a_task_past_its_deadline_is_told_by_every_call_that_waits);
  home_lanes(told, behind_a_shield_a_cancelled_task_waits_as_ever);
  TCase *misuse = room(suite, "misuse", start_narrow);
  home_lanes(misuse, only_the_owner_unlocks_and_nobody_locks_twice);
  tcase_add_test(misuse, a_task_run_in_place_of_a_wait_cannot_wait_for_the_waiter);
  tcase_add_test(misuse, a_limiter_gives_no_more_than_it_has);
  tcase_add_test(room(suite, "callbacks", start_plain),
                 a_callback_does_what_need_not_wait_and_is_refused_the_rest);
  TCase *workers = room(suite, "workers", start_plain);
  tcase_add_test(workers, a_worker_process_is_refused_what_is_the_programs);
  tcase_add_test(workers, a_worker_process_has_its_own_and_never_waits_for_nobody);
  return run(suite, argc, argv);
}
