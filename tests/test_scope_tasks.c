/* Scopes and the tasks that they are in: what a cancel of the closing task does, who inherits a deadline, and scopes
 * in scopes. */
#include "scopes.h"

static uint64_t soon(void) { return 200 + 100 * slowness(); }

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
  int err = shunt_scope_close(scope);
  shared->cells[0] = err;
  for (int k = 0; k < 2; k++) {
    shared->cells[1 + k] = shunt_status(t[k]);
    shunt_release(t[k]);
  }
  return shunt_fail(err, NULL);
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
  shunt_task_t *meek[2];
  for (int k = 0; k < 2; k++)
    meek[k] = enter(scope, OTHER, tell_that_it_ends, k);
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
  assert_is(finish(t), UV_ETIMEDOUT);
  ck_assert_uint_eq(shared->gates[ENDED], 0);
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
  shunt_task_options_t options = {.lane = SHUNT_LANE_THREAD, .scope = scope};
  shunt_release(shunt_submit(rt, open_for_others, NULL, &options));
  assert_passes(READY, 1);
  shunt_task_t *t = enter(inner, _i, hold, 0);
  assert_is(shunt_scope_close(inner), UV_ETIMEDOUT);
  assert_is(finish(t), UV_ETIMEDOUT);
  gate_push(GO);
  assert_is(shunt_scope_close(scope), UV_ETIMEDOUT);
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
    shunt_lane_t lane = (shunt_lane_t)(1 + (nested->depth + k) % 3);
    t[k] = shunt_submit(shunt_current(), nest, &below,
                        SHUNT_WITH(.lane = lane, .arg_size = sizeof below, .scope = scope));
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

int main(int argc, char **argv) {
  Suite *suite = suite_create("scope_tasks");
  TCase *closing = room(suite, "closing", NULL);
  every_pair(closing, a_cancel_of_the_closing_task_cancels_the_scope);
  every_pair(closing, so_does_its_deadline);
  home_and_any(room(suite, "told", start_plain), all_members_are_told_at_once);
  TCase *deadline = room(suite, "deadline", start_plain);
  every_lane(deadline, the_deadline_ends_all_members);
  every_lane(deadline, the_deadline_counts_from_the_opening);
  every_pair(deadline, a_members_own_deadline_is_its_own);
  every_pair(deadline, the_deadline_goes_with_all_that_members_submit);
  tcase_add_loop_test(deadline, an_inner_scope_ends_no_later_than_the_outer, 0, 6);
  every_lane(deadline, an_inner_scope_may_end_earlier);
  every_lane(deadline, an_inner_scope_has_the_outer_deadline_whoever_submits);
  TCase *inside = room(suite, "inside", start_plain);
  every_pair(inside, a_failure_in_a_tasks_own_scope);
  every_lane(inside, scopes_nest_across_lanes);
  every_lane(room(suite, "tree", NULL), a_failure_deep_down_ends_the_whole_tree);
  return run(suite, argc, argv);
}
