/* What the tests of scopes share. */
#ifndef SCOPES_H
#define SCOPES_H

#include "support.h"

/* Two lanes, of which the first six are a lane at home and any lane. */
#define ONE ((shunt_lane_t)(1 + _i / 3))
#define OTHER ((shunt_lane_t)(1 + _i % 3))

static inline void every_pair(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 9); }
static inline void home_and_any(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, 6); }

static inline shunt_scope_t *open_scope(uint64_t timeout_ms, bool keep_going) {
  shunt_scope_options_t options = {.timeout_ms = timeout_ms, .keep_going = keep_going};
  return shunt_scope_open(shunt_current() != NULL ? shunt_current() : rt, &options);
}

/* A member by value, told a number. */
static inline shunt_task_t *enter(shunt_scope_t *scope, shunt_lane_t lane, shunt_fn fn, int64_t number) {
  shunt_task_options_t options = {.lane = lane, .arg_size = sizeof number, .scope = scope};
  return shunt_submit(shunt_current() != NULL ? shunt_current() : rt, fn, &number, &options);
}

static inline void *fail_with(void *arg) {
  return shunt_fail((int)*(int64_t *)arg, "a member failed");
}

/* By reference: cells[0] is what close said. */
static inline void *close_given(void *scope) {
  gate_push(READY);
  int err = shunt_scope_close(scope);
  shared->cells[0] = err;
  gate_push(SEEN);
  return err == 0 ? scope : shunt_fail(err, NULL);
}

#endif
