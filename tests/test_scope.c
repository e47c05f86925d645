/* Scopes: a group of tasks that cannot outlive it, whose first failure ends the others, and whose deadline is
 * that of all that comes of it. */
#include "support.h"

#include <pthread.h>
#include <stdio.h>

/* Two lanes: any, and two that differ; and a lane at home before any lane. */
#define ONE ((shunt_lane_t)(1 + _i / 3))
#define OTHER ((shunt_lane_t)(1 + _i % 3))
#define APART ((shunt_lane_t)(1 + (_i / 3 + 1 + _i % 2) % 3))

static void every_pair(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 9); }
static void home_and_any(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 6); }

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
  shunt_task_t *busy = occupy(APART), *queued = enter(scope, APART, hold, 0);
  shunt_task_t *bad = enter(scope, ONE, fail_with, UV_EIO);
  assert_is(settle(queued), UV_ECANCELED);
  ck_assert_uint_eq(attempts(queued), 0);
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_EIO);
  assert_is(finish(bad), UV_EIO);
  assert_is(finish(busy), 0);
  assert_is(finish(post(APART, hold, NULL, 0)), 0);
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
  shunt_task_t **t = calloc(n, sizeof *t), *busy = occupy(APART);
  shunt_scope_t *scope = open_scope(0, false);
  for (uint32_t k = 0; k < n; k++)
    t[k] = enter(scope, APART, hold, k);
  shunt_release(enter(scope, ONE, fail_with, UV_EIO));
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
  gate_push(GO);
  assert_is(finish(running), UV_ECANCELED);
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
static void assert_closed(shunt_lane_t lane, shunt_task_t *t, int status) {
  assert_is(finish(t), status);
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
  assert_closed(ONE, t, UV_ECANCELED);
}
END_TEST

START_TEST(so_does_its_deadline) {
  struct closing closing = {.lane = OTHER};
  start_plain();
  shunt_task_t *t = shunt_submit(rt, close_own, &closing, SHUNT_WITH(.lane = ONE, .timeout_ms = soon()));
  assert_is(settle(t), UV_ETIMEDOUT);
  assert_closed(SHUNT_LANE_PROCESS, t, UV_ETIMEDOUT);
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
  shunt_task_t *bad = enter(scope, SHUNT_LANE_THREAD, end_in_turn, 0);
  gate_await(STARTED, (uint32_t)n);
  gate_push(GO);
  shared->cells[n] = shunt_scope_close(scope);
  for (int k = 0; k < n; k++) {
    shared->cells[k] = shunt_status(t[k]);
    shunt_release(t[k]);
  }
  shunt_release(bad);
  return NULL;
}

/* What holds in other tests holds until GO; here it must be told, as GO is what makes the other fail. */
static void *fail_and_tell(void *arg);

struct tree_node {
  int depth;
  bool bad; /* whether the last leaf fails, while others hold */
};

static shunt_task_t *enter_node(shunt_scope_t *scope, shunt_lane_t lane, shunt_fn fn, struct tree_node node) {
  return shunt_submit(shunt_current(), fn, &node, SHUNT_WITH(.lane = lane, .arg_size = sizeof node, .scope = scope));
}
