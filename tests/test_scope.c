/* Scopes: a group of tasks that cannot outlive it, and whose first failure ends the others. */
#include "scopes.h"

/* Two lanes of which the second may be blocked while the first goes on: not the loop beside processes, as it
 * hears for them. */
static const struct { shunt_lane_t free, blocked; } apart[] = {{SHUNT_LANE_LOOP, SHUNT_LANE_THREAD},
                                                               {SHUNT_LANE_LOOP, SHUNT_LANE_PROCESS},
                                                               {SHUNT_LANE_THREAD, SHUNT_LANE_LOOP},
                                                               {SHUNT_LANE_THREAD, SHUNT_LANE_PROCESS},
                                                               {SHUNT_LANE_PROCESS, SHUNT_LANE_THREAD}};
enum { APARTS = sizeof apart / sizeof *apart };

static unsigned attempts(shunt_task_t *t) {
  shunt_info_t info;
  shunt_info(t, &info);
  return info.attempts;
}

/* ---- tasks ---- */

static const int errors[] = {UV_EIO, UV_ENOENT, UV_EPERM, UV_EPIPE};

/* When GO was pushed n times the nth error comes, and after the last success. */
static void *end_in_turn(void *arg) {
  int64_t turn = *(int64_t *)arg;
  int err = gate_await(GO, (uint32_t)turn + 1);
  if (err == 0 && turn < 4)
    err = errors[turn];
  return err == 0 ? triple(arg) : shunt_fail(err, NULL);
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

/* _i: whether it is told to follow before the other fails or afterwards, on each lane. */
START_TEST(what_is_skipped_fails_its_scope) {
  shunt_lane_t lane = (shunt_lane_t)(1 + _i % 3);
  shunt_scope_t *scope = open_scope(0, false);
  shunt_task_t *t = post_number(lane, end_in_turn, 0);
  if (_i >= 3) {
    gate_push(GO);
    assert_is(settle(t), UV_EIO);
  }
  shunt_task_t *next = shunt_then(t, triple, SHUNT_WITH(.lane = lane, .scope = scope));
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_EIO);
  assert_is(finish(next), UV_EIO);
  assert_is(finish(t), UV_EIO);
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

int main(int argc, char **argv) {
  Suite *suite = suite_create("scope");
  TCase *close = room(suite, "close", start_plain);
  tcase_add_test(close, an_empty_scope_closes_at_once);
  home_and_any(close, close_waits_for_all);
  every_lane(close, close_waits_in_any_thread_and_leaves_the_handles);
  tcase_add_loop_test(close, ten_thousand_members, 0, SHUNT_LANE_PROCESS + 1);
  home_lanes(close, members_submit_into_their_own_scope);
  every_lane(close, a_callback_cannot_close_what_still_runs);
  home_lanes(close, a_member_cannot_close_its_scope);
  TCase *failure = room(suite, "failure", start_plain);
  every_pair(failure, the_first_failure_tells_those_that_run);
  every_pair(failure, a_failure_cancels_what_follows_a_member);
  every_pair(failure, a_failure_meets_members_on_their_way_in);
  tcase_add_loop_test(failure, what_is_skipped_fails_its_scope, 0, 6);
  every_pair(failure, to_keep_going_cancels_nobody);
  every_lane(failure, the_first_error_is_the_first_in_time);
  TCase *narrow = room(suite, "one of each", start_narrow);
  tcase_add_loop_test(narrow, the_first_failure_withdraws_those_that_do_not, 0, APARTS);
  tcase_add_loop_test(narrow, ten_thousand_members_are_withdrawn, 0, APARTS);
  tcase_add_loop_test(narrow, a_cancelled_scope_tells_withdraws_and_takes_no_more, 0, 6);
  TCase *cancel = room(suite, "cancel", start_plain);
  every_lane(cancel, a_cancel_after_the_end_is_told_all_the_same);
  home_and_any(cancel, a_member_may_cancel_its_scope);
  return run(suite, argc, argv);
}
