/* Scopes: a group of tasks that cannot outlive it, whose first failure ends the others, and whose deadline is
 * that of all that comes of it. */
#include "support.h"

#include <pthread.h>
#include <sched.h>

/* Two lanes, of which the first six are a lane at home and any lane. */
#define ONE ((shunt_lane_t)(1 + _i / 3))
#define OTHER ((shunt_lane_t)(1 + _i % 3))

static void every_pair(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 9); }
static void home_and_any(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 6); }

/* Two lanes of which the second may be blocked while the first goes on: not the loop beside processes, as it
 * hears for them. */
static const struct { shunt_lane_t free, blocked; } apart[] = {{SHUNT_LANE_LOOP, SHUNT_LANE_THREAD},
                                                               {SHUNT_LANE_LOOP, SHUNT_LANE_PROCESS},
                                                               {SHUNT_LANE_THREAD, SHUNT_LANE_LOOP},
                                                               {SHUNT_LANE_THREAD, SHUNT_LANE_PROCESS},
                                                               {SHUNT_LANE_PROCESS, SHUNT_LANE_THREAD}};
enum { APARTS = sizeof apart / sizeof *apart };

static uint64_t soon(void) { return 300 * slowness(); }

static shunt_scope_t *open_scope(uint64_t timeout_ms, bool keep_going) {
  shunt_t *here = shunt_current();
  return shunt_scope_open(here != NULL ? here : rt,
                          &(shunt_scope_options_t){.timeout_ms = timeout_ms, .keep_going = keep_going});
}

/* A member by value, told a number. */
static shunt_task_t *enter(shunt_scope_t *scope, shunt_lane_t lane, shunt_fn fn, int64_t number) {
  shunt_t *here = shunt_current();
  return shunt_submit(here != NULL ? here : rt, fn, &number,
                      SHUNT_WITH(.lane = lane, .arg_size = sizeof number, .scope = scope));
}

static unsigned attempts(shunt_task_t *t) {
  shunt_info_t info;
  shunt_info(t, &info);
  return info.attempts;
}

/* ---- tasks ---- */

static void *fail_with(void *arg) { return shunt_fail((int)*(int64_t *)arg, "a member failed"); }

static const int errors[] = {UV_EIO, UV_ENOENT, UV_EPERM, UV_EPIPE};

/* When GO was pushed n times the nth error comes, and after the last success. */
static void *end_in_turn(void *arg) {
  int64_t turn = *(int64_t *)arg;
  int err = gate_await(GO, (uint32_t)turn + 1);
  if (err == 0 && turn < 4)
    err = errors[turn];
  return err == 0 ? triple(arg) : shunt_fail(err, NULL);
}

static void *close_given(void *scope) {
  gate_push(READY);
  int err = shunt_scope_close(scope);
  shared->cells[0] = err;
  gate_push(SEEN);
  return err == 0 ? scope : shunt_fail(err, NULL);
}

/* ---- close ---- */

START_TEST(an_empty_scope_closes_at_once) {
  assert_is(shunt_scope_close(shunt_scope_open(rt, NULL)), 0);
  shunt_scope_t *scope = open_scope(1, true);
  assert_is(shunt_sleep(5), 0);
  assert_is(shunt_scope_close(scope), 0);
}
END_TEST

START_TEST(close_waits_for_all) {
  enum { MEMBERS = 4 };
  shunt_scope_t *scope = open_scope(0, false);
  for (int k = 0; k < MEMBERS; k++)
    shunt_release(enter(scope, OTHER, hold, k));
  shunt_task_t *closer = shunt_submit(rt, close_given, scope, SHUNT_WITH(.lane = ONE));
  assert_passes(READY, 1);
  assert_is(shunt_await_for(closer, 20, NULL), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(finish(closer), 0);
  ck_assert_uint_eq(shared->gates[ENDED], MEMBERS);
}
END_TEST

START_TEST(close_waits_in_any_thread_and_leaves_the_handles) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *t[] = {enter(scope, _i, end_in_turn, 4), enter(scope, _i, end_in_turn, 5)};
  for (int k = 0; k <= 5; k++)
    gate_push(GO);
  assert_is(shunt_scope_close(scope), 0);
  for (int k = 0; k < 2; k++) {
    ck_assert(shunt_done(t[k]));
    ck_assert_int_eq(answer(t[k]), 12 + 3 * k);
  }
}
END_TEST

START_TEST(ten_thousand_members) {
  int n = (int)scaled(10000), right = 0;
  shunt_task_t **t = calloc((size_t)n, sizeof *t);
  shunt_scope_t *scope = open_scope(0, false);
  for (int k = 0; k < n; k++)
    t[k] = enter(scope, _i == 0 ? (shunt_lane_t)(1 + k % 3) : (shunt_lane_t)_i, triple, k);
  assert_is(shunt_scope_close(scope), 0);
  for (int k = 0; k < n; k++) {
    right += shunt_done(t[k]) && *(const int64_t *)shunt_result(t[k], NULL) == 3 * k;
    shunt_release(t[k]);
  }
  ck_assert_int_eq(right, n);
  free(t);
}
END_TEST

struct tree {
  shunt_scope_t *scope;
  _Atomic int nodes;
  int depth, even;
};

/* By reference: a member that submits into its own scope. */
static void *grow(void *arg) {
  struct tree *up = arg;
  for (int k = 0; k < 2 && up->depth > 0; k++) {
    struct tree *tree = malloc(sizeof *tree);
    *tree = (struct tree){.scope = up->scope, .depth = up->depth - 1, .even = !up->even};
    shunt_lane_t lane = tree->even ? SHUNT_LANE_LOOP : SHUNT_LANE_THREAD;
    shunt_release(shunt_submit(shunt_current(), grow, tree, SHUNT_WITH(.lane = lane, .scope = up->scope)));
  }
  gate_push(ENDED);
  free(up);
  return NULL;
}

START_TEST(members_submit_into_their_own_scope) {
  enum { DEPTH = 9 };
  struct tree *root = malloc(sizeof *root);
  shunt_scope_t *scope = open_scope(0, false);
  *root = (struct tree){.scope = scope, .depth = DEPTH, .even = _i == SHUNT_LANE_LOOP};
  shunt_release(shunt_submit(rt, grow, root, SHUNT_WITH(.lane = _i, .scope = scope)));
  assert_is(shunt_scope_close(scope), 0);
  ck_assert_uint_eq(shared->gates[ENDED], (2 << DEPTH) - 1);
}
END_TEST

/* ---- failure ---- */

START_TEST(the_first_failure_tells_those_that_run) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *running = enter(scope, OTHER, hold, 0);
  assert_passes(STARTED, 1);
  shunt_task_t *bad = enter(scope, ONE, fail_with, UV_EIO);
  assert_is(shunt_scope_close(scope), UV_EIO);
  assert_is(finish(running), UV_ECANCELED);
  assert_is(finish(bad), UV_EIO);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

START_TEST(the_first_failure_withdraws_those_that_do_not) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *busy = occupy(apart[_i].blocked), *queued = enter(scope, apart[_i].blocked, hold, 0);
  shunt_task_t *bad = enter(scope, apart[_i].free, fail_with, UV_EIO);
  assert_is(settle(queued), UV_ECANCELED);
  ck_assert_uint_eq(attempts(queued), 0);
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_EIO);
  assert_is(finish(bad), UV_EIO);
  assert_is(finish(busy), 0);
  assert_is(finish(post(apart[_i].blocked, hold, NULL, 0)), 0);
  ck_assert_uint_eq(shared->gates[STARTED], 2);
  shunt_release(queued);
}
END_TEST

START_TEST(a_failure_cancels_what_follows_a_member) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *t = post_number(OTHER, end_in_turn, 9);
  shunt_task_t *next = shunt_then(t, hold, SHUNT_WITH(.lane = OTHER, .scope = scope));
  shunt_release(enter(scope, ONE, fail_with, UV_EIO));
  assert_is(shunt_scope_close(scope), UV_EIO);
  assert_is(finish(next), UV_ECANCELED);
  ck_assert(!shunt_done(t));
  for (int k = 0; k <= 9; k++)
    gate_push(GO);
  ck_assert_int_eq(answer(t), 27);
}
END_TEST

START_TEST(ten_thousand_members_are_withdrawn) {
  uint32_t n = (uint32_t)scaled(10000), withdrawn = 0;
  shunt_task_t **t = calloc(n, sizeof *t), *busy = occupy(apart[_i].blocked);
  shunt_scope_t *scope = open_scope(0, false);
  for (uint32_t k = 0; k < n; k++)
    t[k] = enter(scope, apart[_i].blocked, hold, k);
  shunt_release(enter(scope, apart[_i].free, fail_with, UV_EIO));
  for (uint32_t k = 0; k < n; k++) {
    withdrawn += settle(t[k]) == UV_ECANCELED && attempts(t[k]) == 0;
    shunt_release(t[k]);
  }
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_EIO);
  assert_is(finish(busy), 0);
  ck_assert_uint_eq(withdrawn, n);
  free(t);
}
END_TEST

/* Members come and go while one fails: none is overlooked, or close would not end. */
START_TEST(a_failure_meets_members_on_their_way_in) {
  for (int round = 0, n = (int)scaled(300); round < n; round++) {
    enum { MEMBERS = 6 };
    shunt_task_t *t[MEMBERS];
    int wrong = 0;
    shunt_scope_t *scope = open_scope(0, false);
    for (int k = 0; k < MEMBERS; k++)
      t[k] = enter(scope, k == round % 3 ? ONE : OTHER, k == round % 3 ? fail_with : hold, UV_EIO);
    assert_is(shunt_scope_close(scope), UV_EIO);
    for (int k = 0; k < MEMBERS; k++)
      wrong += !shunt_done(t[k]) || finish(t[k]) != (k == round % 3 ? UV_EIO : UV_ECANCELED);
    ck_assert_int_eq(wrong, 0);
  }
}
END_TEST

START_TEST(to_keep_going_cancels_nobody) {
  shunt_scope_t *scope = open_scope(0, true);
  shunt_task_t *bad = enter(scope, ONE, end_in_turn, 0), *good = enter(scope, OTHER, end_in_turn, 4);
  gate_push(GO);
  assert_is(settle(bad), UV_EIO);
  assert_is(shunt_await_for(good, 20, NULL), UV_ETIMEDOUT);
  shunt_task_t *late = enter(scope, OTHER, triple, 5);
  for (int k = 0; k < 4; k++)
    gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_EIO);
  ck_assert_int_eq(answer(good), 12);
  ck_assert_int_eq(answer(late), 15);
  shunt_release(bad);
}
END_TEST

START_TEST(the_first_error_is_the_first_in_time) {
  shunt_task_t *t[4];
  shunt_scope_t *scope = open_scope(0, true);
  for (int k = 0; k < 4; k++)
    t[k] = enter(scope, _i, end_in_turn, (k + 3) % 4);
  for (int k = 0; k < 4; k++) {
    gate_push(GO);
    assert_is(settle(t[(k + 1) % 4]), errors[k]);
  }
  assert_is(shunt_scope_close(scope), errors[0]);
  for (int k = 0; k < 4; k++)
    shunt_release(t[k]);
}
END_TEST

/* ---- cancel ---- */

START_TEST(a_cancelled_scope_tells_withdraws_and_takes_no_more) {
  shunt_scope_t *scope = open_scope(0, _i > 3);
  shunt_lane_t lane = (shunt_lane_t)(1 + _i % 3);
  shunt_task_t *running = enter(scope, lane, hold, 0), *t = post_number(lane, triple, 1);
  assert_passes(STARTED, 1);
  shunt_task_t *busy = lane == SHUNT_LANE_LOOP ? NULL : occupy(lane), *queued = enter(scope, lane, hold, 1);
  shunt_scope_cancel(scope);
  shunt_scope_cancel(scope);
  shunt_task_t *late = enter(scope, lane, hold, 2);
  shunt_task_t *next = shunt_then(t, hold, SHUNT_WITH(.lane = lane, .scope = scope));
  ck_assert(shunt_done(late));
  ck_assert(shunt_done(next));
  assert_is(settle(queued), UV_ECANCELED);
  assert_is(finish(running), UV_ECANCELED);
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_ECANCELED);
  ck_assert_uint_eq(attempts(late) + attempts(next), 0);
  assert_is(finish(late), UV_ECANCELED);
  assert_is(finish(next), UV_ECANCELED);
  shunt_release(queued);
  shunt_release(t);
  if (busy != NULL)
    assert_is(finish(busy), 0);
}
END_TEST

START_TEST(a_cancel_after_the_end_is_told_all_the_same) {
  shunt_scope_t *scope = open_scope(0, false);
  ck_assert_int_eq(answer(enter(scope, _i, triple, 1)), 3);
  shunt_scope_cancel(scope);
  assert_is(shunt_scope_close(scope), UV_ECANCELED);
}
END_TEST

static void *cancel_given(void *scope) {
  shunt_scope_cancel(scope);
  return scope;
}

START_TEST(a_member_may_cancel_its_scope) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *other = enter(scope, OTHER, hold, 0);
  shunt_release(shunt_submit(rt, cancel_given, scope, SHUNT_WITH(.lane = ONE, .scope = scope)));
  assert_is(shunt_scope_close(scope), UV_ECANCELED);
  assert_is(finish(other), UV_ECANCELED);
}
END_TEST

/* ---- the closing task ---- */

struct closing {
  shunt_lane_t lane; /* of its members */
  int members;
};

static void *close_own(void *arg) {
  struct closing *closing = arg;
  shunt_task_t *t[2];
  shunt_scope_t *scope = open_scope(0, true);
  for (int k = 0; k < 2; k++)
    t[k] = enter(scope, closing->lane, hold, k);
  shared->cells[0] = shunt_scope_close(scope);
  for (int k = 0; k < 2; k++) {
    shared->cells[1 + k] = shunt_status(t[k]);
    shunt_release(t[k]);
  }
  return NULL;
}

/* A worker may have been killed before it could tell. */
static void assert_closed(shunt_lane_t lane) {
  stop();
  for (int k = 0; k < 3 && lane != SHUNT_LANE_PROCESS; k++)
    assert_is((int)shared->cells[k], UV_ECANCELED);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}

START_TEST(a_cancel_of_the_closing_task_cancels_the_scope) {
  struct closing closing = {.lane = OTHER};
  start_plain();
  shunt_task_t *t = post(ONE, close_own, &closing, sizeof closing);
  assert_passes(STARTED, 2);
  shunt_cancel(t);
  assert_is(finish(t), UV_ECANCELED);
  assert_closed(ONE);
}
END_TEST

START_TEST(so_does_its_deadline) {
  struct closing closing = {.lane = OTHER};
  shunt_task_options_t options = {.lane = ONE, .arg_size = sizeof closing, .timeout_ms = soon()};
  start_plain();
  assert_is(finish(shunt_submit(rt, close_own, &closing, &options)), UV_ETIMEDOUT);
  assert_closed(ONE);
}
END_TEST

static void *tell_that_it_ends(void *arg) {
  hold(arg);
  gate_push(READY);
  return NULL;
}

/* By reference, so that the test sees the scope, too. The one that close comes to first heeds no cancel. */
START_TEST(all_members_are_told_at_once) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *meek[] = {enter(scope, OTHER, tell_that_it_ends, 0), enter(scope, OTHER, tell_that_it_ends, 1)};
  assert_passes(STARTED, 2);
  shunt_task_t *stubborn = enter(scope, SHUNT_LANE_THREAD, hold_tight, 0);
  shunt_task_t *closer = shunt_submit(rt, close_given, scope, SHUNT_WITH(.lane = ONE));
  assert_passes(STARTED, 3);
  assert_passes(READY, 1);
  shunt_cancel(closer);
  assert_passes(READY, 3);
  ck_assert(!shunt_done(closer));
  ck_assert(!shunt_done(stubborn));
  gate_push(GO);
  assert_is(finish(closer), UV_ECANCELED);
  assert_is((int)shared->cells[0], UV_ECANCELED);
  assert_is(finish(stubborn), 0); /* never looked */
  for (int k = 0; k < 2; k++)
    assert_is(finish(meek[k]), UV_ECANCELED);
}
END_TEST

/* ---- deadlines ---- */

START_TEST(the_deadline_ends_all_members) {
  enum { MEMBERS = 3 };
  shunt_task_t *t[MEMBERS];
  shunt_scope_t *scope = open_scope(soon(), true);
  for (int k = 0; k < MEMBERS; k++)
    t[k] = enter(scope, _i, hold, k);
  assert_is(shunt_scope_close(scope), UV_ETIMEDOUT);
  for (int k = 0; k < MEMBERS; k++)
    assert_is(finish(t[k]), UV_ETIMEDOUT);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

START_TEST(the_deadline_counts_from_the_opening) {
  shunt_scope_t *scope = open_scope(10, false);
  assert_is(shunt_sleep(20), 0);
  shunt_task_t *t = enter(scope, _i, hold, 0);
  assert_is(settle(t), UV_ETIMEDOUT);
  ck_assert_uint_eq(attempts(t), 0);
  shunt_release(t);
  assert_is(shunt_scope_close(scope), UV_ETIMEDOUT);
}
END_TEST

START_TEST(a_members_own_deadline_is_its_own) {
  int64_t n = 0;
  shunt_scope_t *scope = open_scope(patience(), true);
  shunt_task_options_t options = {.lane = OTHER, .arg_size = sizeof n, .scope = scope, .timeout_ms = 10};
  shunt_task_t *other = enter(scope, ONE, hold, 0), *t = shunt_submit(rt, hold, &n, &options);
  assert_is(finish(t), UV_ETIMEDOUT);
  ck_assert(!shunt_done(other));
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_ETIMEDOUT);
  assert_is(finish(other), 0);
}
END_TEST

/* Tasks that submit one another, the last of which waits to be told. None of them names the scope. */
struct path {
  shunt_lane_t lanes[4];
  int at, length;
};

static void *wait_to_be_told(void *arg) {
  (void)arg;
  shared->cells[0] = shunt_sleep(patience());
  gate_push(SEEN);
  return NULL;
}

static void *walk(void *arg) {
  struct path *path = arg;
  if (++path->at == path->length)
    return wait_to_be_told(NULL);
  shunt_release(post(path->lanes[path->at], walk, path, sizeof *path));
  return NULL;
}

START_TEST(the_deadline_goes_with_all_that_members_submit) {
  struct path path = {{ONE, OTHER, 1 + _i % 2}, 0, 3};
  shunt_scope_t *scope = open_scope(soon(), false);
  shunt_task_options_t options = {.lane = ONE, .arg_size = sizeof path, .scope = scope};
  shunt_release(shunt_submit(rt, walk, &path, &options));
  assert_is(shunt_scope_close(scope), 0); /* those that members submitted are not members */
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], UV_ETIMEDOUT);
}
END_TEST

static void *close_it(void *scope) {
  shared->cells[1] = shunt_scope_close(scope);
  return scope;
}

/* Opens a scope in a scope, with the limit that it is told: 0 for none. */
static void *open_inside(void *arg) {
  shunt_scope_t *scope = open_scope((uint64_t) * (int64_t *)arg, true);
  shunt_release(enter(scope, SHUNT_LANE_THREAD, wait_to_be_told, 0));
  shunt_shield(close_it, scope);
  return NULL;
}

/* _i: the lane of the task that opens it, and whether it has a later deadline or none. */
START_TEST(an_inner_scope_ends_no_later_than_the_outer) {
  shunt_scope_t *scope = open_scope(soon(), false);
  shunt_release(enter(scope, (shunt_lane_t)(1 + _i / 2), open_inside, _i % 2 == 0 ? 0 : (int64_t)patience()));
  assert_is(shunt_scope_close(scope), UV_ETIMEDOUT);
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], UV_ETIMEDOUT);
}
END_TEST

START_TEST(an_inner_scope_may_end_earlier) {
  shunt_scope_t *scope = open_scope(patience(), false);
  shunt_release(enter(scope, _i, open_inside, (int64_t)soon()));
  assert_is(shunt_scope_close(scope), 0);
  assert_is((int)shared->cells[0], UV_ETIMEDOUT);
  assert_is((int)shared->cells[1], UV_ETIMEDOUT);
}
END_TEST

static shunt_scope_t *inner;

static void *open_for_others(void *arg) {
  inner = open_scope(0, false);
  gate_push(READY);
  gate_wait(GO, 1);
  return arg;
}

START_TEST(an_inner_scope_has_the_outer_deadline_whoever_submits) {
  shunt_scope_t *scope = open_scope(soon(), false);
  shunt_release(shunt_submit(rt, open_for_others, NULL, SHUNT_WITH(.lane = SHUNT_LANE_THREAD, .scope = scope)));
  assert_passes(READY, 1);
  shunt_task_t *t = enter(inner, _i, hold, 0);
  assert_is(shunt_scope_close(inner), UV_ETIMEDOUT);
  assert_is(finish(t), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_ETIMEDOUT);
}
END_TEST

/* ---- where it cannot close ---- */

static void close_in_callback(shunt_task_t *t, void *scope) {
  (void)t;
  shared->cells[0] = shunt_scope_close(scope);
  gate_push(SEEN);
}

START_TEST(a_callback_cannot_close_what_still_runs) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *t = post_number(_i, triple, 1), *member = enter(scope, _i, hold, 0);
  assert_is(shunt_on_done(t, close_in_callback, scope), 0);
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], SHUNT_EDEADLK);
  ck_assert(!shunt_done(member));
  shunt_task_t *another = enter(scope, _i, triple, 2);
  gate_push(GO);
  assert_is(shunt_scope_close(scope), 0);
  ck_assert_int_eq(answer(another), 6);
  assert_is(finish(member), 0);
  shunt_release(t);
}
END_TEST

START_TEST(a_member_cannot_close_its_scope) {
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *t = shunt_submit(rt, close_given, scope, SHUNT_WITH(.lane = _i, .scope = scope));
  assert_passes(SEEN, 1);
  assert_is((int)shared->cells[0], SHUNT_EDEADLK);
  assert_is(shunt_scope_close(scope), SHUNT_EDEADLK); /* what the member then failed with */
  assert_is(finish(t), SHUNT_EDEADLK);
}
END_TEST

/* ---- scopes in tasks ---- */

/* Many members hold, one fails: how each ended, in cells. */
static void *fail_inside(void *arg) {
  struct closing *closing = arg;
  int n = closing->members;
  shunt_task_t *t[16];
  shunt_scope_t *scope = open_scope(0, false);
  for (int k = 0; k < n; k++)
    t[k] = enter(scope, closing->lane, hold, k);
  gate_await(STARTED, (uint32_t)n);
  shunt_release(enter(scope, SHUNT_LANE_THREAD, fail_with, UV_EIO));
  shared->cells[n] = shunt_scope_close(scope);
  for (int k = 0; k < n; k++) {
    shared->cells[k] = shunt_status(t[k]);
    shunt_release(t[k]);
  }
  return NULL;
}

START_TEST(a_failure_in_a_tasks_own_scope) {
  struct closing closing = {.lane = OTHER, .members = OTHER == SHUNT_LANE_PROCESS ? 3 : 16};
  assert_is(finish(post(ONE, fail_inside, &closing, sizeof closing)), 0);
  assert_is((int)shared->cells[closing.members], UV_EIO);
  for (int k = 0; k < closing.members; k++)
    assert_is((int)shared->cells[k], UV_ECANCELED);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

struct nest {
  int depth;
  enum { COUNT, HOLD, FAIL } leaves; /* FAIL: the last one, when all others hold */
};

enum { DEPTH = 3, LEAVES = 1 << DEPTH };

static void *leaf(const struct nest *nest) {
  int64_t one = 1;
  switch (nest->leaves) {
  case HOLD:
    return hold(NULL);
  case FAIL:
    gate_await(STARTED, LEAVES - 1);
    return shunt_fail(UV_EIO, "the last leaf");
  default:
    return shunt_return(&one, sizeof one);
  }
}

/* Counts the leaves below it. */
static void *nest(void *arg) {
  struct nest *nested = arg;
  shunt_task_t *t[2];
  int64_t n = 0;
  if (nested->depth == 0)
    return leaf(nested);
  shunt_scope_t *scope = open_scope(0, false);
  for (int k = 0; k < 2; k++) {
    struct nest below = {nested->depth - 1, nested->leaves == FAIL && k == 0 ? HOLD : nested->leaves};
    shunt_task_options_t options = {.lane = (shunt_lane_t)(1 + (nested->depth + k) % 3), .arg_size = sizeof below, .scope = scope};
    t[k] = shunt_submit(shunt_current(), nest, &below, &options);
  }
  int err = shunt_scope_close(scope);
  for (int k = 0; k < 2; k++) {
    const int64_t *leaves = shunt_result(t[k], NULL);
    n += leaves != NULL ? *leaves : 0;
    shunt_release(t[k]);
  }
  return err == 0 ? shunt_return(&n, sizeof n) : shunt_fail(err, NULL);
}

START_TEST(scopes_nest_across_lanes) {
  struct nest root = {DEPTH, COUNT};
  ck_assert_int_eq(answer(post(_i, nest, &root, sizeof root)), LEAVES);
}
END_TEST

START_TEST(a_failure_deep_down_ends_the_whole_tree) {
  struct nest root = {DEPTH, FAIL};
  start_plain();
  assert_is(finish(post(_i, nest, &root, sizeof root)), UV_EIO);
  stop();
  ck_assert_uint_eq(shared->gates[ENDED], 0);
}
END_TEST

/* ---- stress ---- */

enum { THREADS = 3, SLOTS = 16, MOST = 12 };

static _Atomic(shunt_task_t *) slots[SLOTS]; /* handles for anyone to cancel, each with a reference */
static _Atomic bool over;

static uint32_t random_below(uint32_t *state, uint32_t limit) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state % limit;
}

static void offer(shunt_task_t *t, uint32_t slot) {
  shunt_task_t *old = atomic_exchange(&slots[slot], t);
  if (old != NULL)
    shunt_release(old);
}

static void *cancel_some(void *arg) {
  for (uint32_t seed = *(uint32_t *)arg; !over;) {
    shunt_task_t *t = atomic_exchange(&slots[random_below(&seed, SLOTS)], NULL);
    if (t != NULL) {
      shunt_cancel(t);
      shunt_release(t);
    }
    sched_yield();
  }
  return NULL;
}

static void *doze(void *arg) {
  shunt_sleep((uint64_t) * (int64_t *)arg % 4);
  return triple(arg);
}

static void *nest_one(void *arg) {
  int64_t n = *(int64_t *)arg;
  shunt_scope_t *scope = open_scope(0, false);
  for (int k = 0; k < 3; k++)
    shunt_release(enter(scope, (shunt_lane_t)(1 + (n + k) % 3), doze, n));
  int err = shunt_scope_close(scope);
  return err == 0 ? triple(arg) : shunt_fail(err, NULL);
}

static shunt_task_t *enter_any(shunt_scope_t *scope, shunt_task_t *before, uint32_t *seed) {
  static const shunt_fn what[] = {triple, triple, doze, doze, doze, nest_one, fail_with};
  shunt_lane_t lane = (shunt_lane_t)(1 + random_below(seed, 3));
  if (before != NULL && random_below(seed, 4) == 0)
    return shunt_then(before, doze, SHUNT_WITH(.lane = lane, .scope = scope));
  shunt_fn fn = what[random_below(seed, sizeof what / sizeof *what)];
  return enter(scope, lane, fn, fn == fail_with ? UV_EIO : (int64_t)random_below(seed, 100));
}

/* One scope from open to close. Does what close says fit what became of the members? */
static bool holds_together(uint32_t *seed) {
  shunt_task_t *t[MOST];
  uint32_t n = 1 + random_below(seed, MOST), settled = 0, failed = 0, same = 0;
  bool cancelled = random_below(seed, 8) == 0;
  shunt_scope_t *scope = open_scope(random_below(seed, 4) == 0 ? 1 + random_below(seed, 8) : 0, random_below(seed, 2));
  for (uint32_t k = 0; k < n; k++) {
    t[k] = enter_any(scope, k > 0 ? t[k - 1] : NULL, seed);
    offer(shunt_retain(t[k]), random_below(seed, SLOTS));
  }
  if (cancelled)
    shunt_scope_cancel(scope);
  int err = shunt_scope_close(scope);
  for (uint32_t k = 0; k < n; k++) {
    settled += shunt_done(t[k]);
    failed += shunt_status(t[k]) != 0;
    same += shunt_status(t[k]) == err;
    shunt_release(t[k]);
  }
  return settled == n && (err == 0 ? failed == 0 && !cancelled : same > 0 || (cancelled && err == UV_ECANCELED));
}

struct user {
  pthread_t thread;
  uint32_t seed, first_wrong;
};

static void *use_scopes(void *arg) {
  struct user *user = arg;
  for (int round = 0, n = (int)scaled(200); round < n; round++) {
    uint32_t seed = user->seed;
    if (!holds_together(&user->seed) && user->first_wrong == 0)
      user->first_wrong = seed;
  }
  return NULL;
}

START_TEST(any_mix_of_scopes_holds_together) {
  struct user user[THREADS];
  pthread_t canceller;
  uint32_t seed = 2654435769u * (uint32_t)(_i + 1);
  start_plain();
  over = false;
  ck_assert_int_eq(pthread_create(&canceller, NULL, cancel_some, &seed), 0);
  for (uint32_t k = 0; k < THREADS; k++) {
    user[k] = (struct user){.seed = seed + k};
    ck_assert_int_eq(pthread_create(&user[k].thread, NULL, use_scopes, &user[k]), 0);
  }
  for (int k = 0; k < THREADS; k++)
    pthread_join(user[k].thread, NULL);
  over = true;
  pthread_join(canceller, NULL);
  for (uint32_t k = 0; k < SLOTS; k++)
    offer(NULL, k);
  stop();
  for (int k = 0; k < THREADS; k++)
    ck_assert_msg(user[k].first_wrong == 0, "wrong with seed %u", user[k].first_wrong);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("scope");
  TCase *close = room(suite, "close", start_plain);
  tcase_add_test(close, an_empty_scope_closes_at_once);
  home_and_any(close, close_waits_for_all);
  every_lane(close, close_waits_in_any_thread_and_leaves_the_handles);
  tcase_add_loop_test(close, ten_thousand_members, 0, SHUNT_LANE_PROCESS + 1);
  home_lanes(close, members_submit_into_their_own_scope);
  TCase *failure = room(suite, "failure", start_plain);
  every_pair(failure, the_first_failure_tells_those_that_run);
  every_pair(failure, a_failure_cancels_what_follows_a_member);
  every_pair(failure, a_failure_meets_members_on_their_way_in);
  every_pair(failure, to_keep_going_cancels_nobody);
  every_lane(failure, the_first_error_is_the_first_in_time);
  every_pair(failure, a_failure_in_a_tasks_own_scope);
  TCase *narrow = room(suite, "one of each", start_narrow);
  tcase_add_loop_test(narrow, the_first_failure_withdraws_those_that_do_not, 0, APARTS);
  tcase_add_loop_test(narrow, ten_thousand_members_are_withdrawn, 0, APARTS);
  tcase_add_loop_test(narrow, a_cancelled_scope_tells_withdraws_and_takes_no_more, 0, 6);
  TCase *cancel = room(suite, "cancel", start_plain);
  every_lane(cancel, a_cancel_after_the_end_is_told_all_the_same);
  home_and_any(cancel, a_member_may_cancel_its_scope);
  tcase_add_loop_test(cancel, all_members_are_told_at_once, 0, 6);
  every_lane(cancel, a_callback_cannot_close_what_still_runs);
  home_lanes(cancel, a_member_cannot_close_its_scope);
  every_lane(cancel, scopes_nest_across_lanes);
  TCase *deadline = room(suite, "deadline", start_plain);
  every_lane(deadline, the_deadline_ends_all_members);
  every_lane(deadline, the_deadline_counts_from_the_opening);
  every_pair(deadline, a_members_own_deadline_is_its_own);
  every_pair(deadline, the_deadline_goes_with_all_that_members_submit);
  tcase_add_loop_test(deadline, an_inner_scope_ends_no_later_than_the_outer, 0, 6);
  every_lane(deadline, an_inner_scope_may_end_earlier);
  every_lane(deadline, an_inner_scope_has_the_outer_deadline_whoever_submits);
  TCase *ends = room(suite, "ends", NULL);
  every_pair(ends, a_cancel_of_the_closing_task_cancels_the_scope);
  every_pair(ends, so_does_its_deadline);
  every_lane(ends, a_failure_deep_down_ends_the_whole_tree);
  tcase_add_loop_test(ends, any_mix_of_scopes_holds_together, 0, 6);
  return run(suite, argc, argv);
}
