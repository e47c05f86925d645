/* The front door: start, submit, cancel, stop.
 *
 *     submit ─▶ admit (is there room?) ─▶ place (which lane?) ─▶ lane->push
 *
 * What is refused on the way comes back as a handle that has settled, so a caller has one way to learn of
 * every failure. */
#include <config.h>

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"
#include "lane.h"
#include "follow.h"
#include "place.h"
#include "process/worker.h"
#include "run.h"
#include "scope.h"

/* ---- submit ---- */

static shunt_task_t *refuse(shunt_t *rt, bool by_value, int status, const char *format, ...)
    SHUNT_PRINTF(4, 5);

static shunt_task_t *refuse(shunt_t *rt, bool by_value, int status, const char *format, ...) {
  char *message = NULL;
  if (format) {
    va_list args;
    va_start(args, format);
    if (vasprintf(&message, format, args) < 0) message = NULL; /* the status must do */
    va_end(args);
  }
  return shunt__task_refused(rt, by_value, status, message);
}

/* As an argument: it will come when the task before has settled. */
static const char later;
#define LATER ((const void *)&later)

#define ALL_FLAGS (SHUNT_BY_VALUE | SHUNT_IDEMPOTENT | SHUNT_LOOP_OK | SHUNT_WAIT)

/* NULL, or what is wrong with the call. */
static const char *wrong(const shunt_t *rt, shunt_fn fn, const shunt_task_options_t *o) {
  if (!rt) return "the runtime is NULL: did shunt_start fail?";
  if (!fn) return "the function is NULL";
  if (o->arg_size > SIZE_MAX / 4) return "arg_size is larger than any memory";
  if ((unsigned)o->kind > SHUNT_CPU) return "kind is none of SHUNT_AUTO, _ASYNC, _BLOCKING, _CPU";
  if ((unsigned)o->lane > SHUNT_LANE_PROCESS)
    return "lane is none of SHUNT_LANE_ANY, _LOOP, _THREAD, _PROCESS";
  if (o->flags & ~(unsigned)ALL_FLAGS) return "flags has a bit that means nothing";
  return NULL;
}

/* Puts the task among the live, with its deadline and its scope. An error: one of those could not be had, and
 * it has settled with that. */
static int enrol(shunt_task_t *t, const shunt_task_options_t *o, uint64_t own, uint64_t bound) {
  int err = 0;
  t->bound = shunt__earlier(bound, o->scope ? shunt__scope_bound(o->scope) : 0);
  t->alarm.when = shunt__earlier(own, t->bound);
  if (t->alarm.when == SHUNT__NEVER) t->alarm.when = 0;
  shunt__live_add(t); /* from here on stop may settle it */
  if (t->alarm.when && !t->rt->worker) err = shunt__deadline_watch(t); /* a worker's parent does that */
  if (!err && o->scope) err = shunt__scope_join(o->scope, t);
  if (!err) return 0;
  shunt__settle(t, (shunt__outcome_t){.status = err});
  shunt__run_over(t);
  return err;
}

/* A task that is admitted, placed and enrolled, and only has to be pushed. Settled: it was refused, or
 * cancelled on the way. */
static shunt_task_t *prepare(shunt_t *rt, shunt_fn fn, const void *arg, const shunt_task_options_t *options,
                             uint64_t bound, bool *ready) {
  shunt_task_options_t o = options ? *options : (shunt_task_options_t){0};
  bool by_value = o.arg_size || o.flags & SHUNT_BY_VALUE;
  const char *mistake = wrong(rt, fn, &o);
  *ready = false;
  if (mistake) return refuse(rt, by_value, UV_EINVAL, "%s", mistake);
  if (o.arg_size && !arg) return refuse(rt, by_value, UV_EINVAL, "arg_size is set, but the argument is NULL");
  if (rt->worker && !by_value) return refuse(rt, by_value, SHUNT_EBYREF, NULL);
  shunt__placement_t placement = shunt__place(&o, by_value);
  if (placement.lane == SHUNT_LANE_PROCESS && !by_value)
    return refuse(rt, by_value, UV_EINVAL,
                  "the process lane takes tasks by value only: give arg_size, or SHUNT_BY_VALUE");
  if (!rt->worker) o.lane = placement.lane; /* else the parent places it */
  uint64_t own = o.timeout_ms ? shunt__deadline(o.timeout_ms) : 0; /* before a wait for room */
  int err = shunt__admit(rt, o.flags & SHUNT_WAIT);
  if (err == UV_EAGAIN)
    return refuse(rt, by_value, err, "%zu tasks are waiting to start (max_pending)", rt->options.max_pending);
  if (err) return refuse(rt, by_value, err, NULL);
  shunt_task_t *t = arg == LATER ? shunt__task_new_empty(rt, fn, &o) : shunt__task_new(rt, fn, arg, &o);
  if (!t) {
    shunt__less_pending(rt);
    shunt__less_in_flight(rt);
    return refuse(rt, by_value, UV_ENOMEM, "no memory for a task with %zu bytes of argument", o.arg_size);
  }
  t->reason = placement.reason;
  if (arg == LATER) atomic_store(&t->ops, &shunt__not_yet);
  *ready = !enrol(t, &o, own, bound);
  return t;
}

shunt_task_t *shunt__submit(shunt_t *rt, shunt_fn fn, const void *arg, const shunt_task_options_t *options,
                            uint64_t bound) {
  bool ready;
  shunt_task_t *t = prepare(rt, fn, arg, options, bound, &ready);
  if (ready) atomic_load(&t->ops)->push(t);
  return t;
}

/* The deadline of the scope that the submitting task is in. */
static uint64_t passed_on(void) {
  shunt__frame_t *f = shunt__frame();
  return f ? f->task->bound : 0;
}

shunt_task_t *shunt_submit(shunt_t *rt, shunt_fn fn, void *arg, const shunt_task_options_t *options) {
  return shunt__submit(rt, fn, arg, options, passed_on());
}

shunt_task_t *shunt_then(shunt_task_t *before, shunt_fn fn, const shunt_task_options_t *options) {
  shunt_task_options_t o = options ? *options : (shunt_task_options_t){0};
  bool ready;
  if (shunt_done(before) && before->outcome.status) {
    const char *message = before->outcome.message;
    if (o.scope) shunt__scope_fail(o.scope, before->outcome.status);
    return refuse(before->rt, before->by_value, shunt_status(before), message ? "%s" : NULL, message);
  }
  if (o.arg_size)
    return refuse(before->rt, before->by_value, UV_EINVAL,
                  "the argument is the result of the task before: arg_size must be 0");
  if (before->by_value) o.flags |= SHUNT_BY_VALUE;
  if (!before->by_value && o.flags & SHUNT_BY_VALUE)
    return refuse(before->rt, true, UV_EINVAL, "the task before is by reference, so this one must be too");
  shunt_task_t *t = prepare(before->rt, fn, LATER, &o, passed_on(), &ready);
  if (ready && !shunt__follow(before, t)) {
    shunt__settle(t, (shunt__outcome_t){.status = UV_ENOMEM});
    shunt__run_over(t);
  }
  return t;
}

/* ---- cancel ---- */

shunt_cancel_t shunt__end_here(shunt_task_t *t, int status) {
  if (shunt__withdraw(t, status)) return SHUNT_WITHDRAWN;
  return shunt__ask(t, status == UV_ETIMEDOUT ? SHUNT__LATE : SHUNT__CANCEL) ? SHUNT_REQUESTED
                                                                             : SHUNT_TOO_LATE;
}

shunt_cancel_t shunt_cancel(shunt_task_t *t) {
  if (shunt__settled(t)) return SHUNT_TOO_LATE;
  shunt__hold(t->rt); /* so that a stop that t's end allows does not take the lane away */
  shunt_cancel_t came_to = shunt__settled(t) ? SHUNT_TOO_LATE : atomic_load(&t->ops)->end(t, UV_ECANCELED);
  shunt__less_in_flight(t->rt);
  return came_to;
}

/* ---- start ---- */

static pthread_mutex_t runtimes_lock = PTHREAD_MUTEX_INITIALIZER;
static shunt_t *runtimes; /* all there ever were */

static shunt__block_t *make_result(shunt_t *rt, size_t size) {
  (void)rt;
  return shunt__heap_block(size);
}

static int check_options(const shunt_options_t *o) {
  if (o->loop) return UV_EINVAL;
  if (o->stack_size && (o->stack_size < 16 << 10 || o->stack_size > (size_t)1 << 30)) return UV_EINVAL;
  if (o->max_threads > 1 << 15 || o->max_processes > 1 << 12 || o->max_pending > UINT32_MAX / 2)
    return UV_EINVAL;
  return 0;
}

static shunt_t *new_runtime(const shunt_options_t *options) {
  shunt_t *rt = aligned_alloc(64, (sizeof *rt + 63) & ~(size_t)63);
  if (!rt) return NULL;
  *rt = (shunt_t){.options = *options, .door = SHUNT__CLOSED, .make_result = make_result};
  shunt_options_t *o = &rt->options;
  if (!o->max_threads) o->max_threads = 256;
  if (!o->max_processes) o->max_processes = uv_available_parallelism();
  if (!o->max_pending) o->max_pending = 1 << 20;
  if (!o->stack_size) o->stack_size = 256 << 10;
  pthread_mutex_init(&rt->room.lock, NULL);
  rt->ops[SHUNT_LANE_LOOP] = &shunt__loop_lane;
  rt->ops[SHUNT_LANE_THREAD] = &shunt__thread_lane;
  rt->ops[SHUNT_LANE_PROCESS] = &shunt__process_lane;
  pthread_mutex_lock(&runtimes_lock);
  rt->next = runtimes;
  runtimes = rt;
  pthread_mutex_unlock(&runtimes_lock);
  return rt;
}

static bool close_lanes(shunt_t *rt) {
  bool all = true;
  for (int i = 0; i < SHUNT__LANES; i++)
    if (rt->lanes[i]) all &= rt->ops[i]->close(rt);
  return all;
}

static int open_all(shunt_t *rt) {
  int err = shunt__reactor_open(rt->reactor);
  if (err) return err;
  err = shunt__deadlines_open(rt);
  for (int i = 1; !err && i < SHUNT__LANES; i++) err = rt->ops[i]->open(rt);
  if (!err) err = shunt__reactor_run(rt->reactor);
  if (!err) return 0;
  shunt__reactor_close(rt->reactor, SHUNT__NEVER);
  close_lanes(rt);
  return err;
}

int shunt_start(shunt_t **out, const shunt_options_t *options) {
  static const shunt_options_t defaults;
  int err = check_options(options ? options : &defaults);
  *out = NULL;
  if (!err && shunt__in_worker()) err = UV_EPERM;
  if (err) return err;
  /* before the fork, so that workers find their view of it here */
  shunt_t *rt = *out = new_runtime(options ? options : &defaults);
  if (!rt) return UV_ENOMEM;
  if (!(err = shunt__zygote_start(rt)) && !(rt->reactor = calloc(1, sizeof *rt->reactor))) err = UV_ENOMEM;
  if (!err && (err = open_all(rt))) {
    free(rt->reactor);
    rt->reactor = NULL;
  }
  if (err)
    *out = NULL;
  else
    atomic_store(&rt->door, SHUNT__OPEN);
  return err;
}

/* ---- stop ---- */

static void cancel_it(shunt_task_t *t) { shunt_cancel(t); }

static void abandon_it(shunt_task_t *t) {
  /* A worker that was killed is gone; a thread cannot be made to go. */
  bool gone = t->lane == SHUNT_LANE_PROCESS;
  shunt__settle(t, (shunt__outcome_t){.status = gone ? UV_ECANCELED : SHUNT_EABANDONED});
}

/* Cancels what is left, again and again: a task may have been on its way into a lane, or gone back to a
 * queue. */
static bool cancel_all(shunt_t *rt) {
  uint64_t end = shunt__deadline(SHUNT__GRACE_MS), pause;
  do {
    shunt__live_each(rt, cancel_it);
    pause = shunt__deadline(10);
    if (shunt__drained(rt, pause < end ? pause : end)) return true;
  } while (shunt__now() < end);
  return false;
}

/* Ends the handles of all that is left. What was waiting for those may then come to its end. */
static bool kill_all(shunt_t *rt) {
  for (int i = 1; i < SHUNT__LANES; i++)
    if (rt->ops[i]->kill) rt->ops[i]->kill(rt);
  while (shunt__live_each(rt, abandon_it)) sched_yield(); /* another may be half through settling one */
  return shunt__drained(rt, shunt__deadline(SHUNT__GRACE_MS));
}

/* Takes apart what nobody uses any more. False: the loop's thread or a worker is stuck in somebody's
 * function. */
static bool take_apart(shunt_t *rt) {
  /* Long enough for a loaded machine: only a libuv callback of the program's could hold the loop up now. */
  if (!shunt__reactor_close(rt->reactor, shunt__deadline(20 * SHUNT__GRACE_MS)) || !close_lanes(rt))
    return false;
  shunt__deadlines_close(rt);
  free(rt->reactor);
  rt->reactor = NULL;
  return true;
}

int shunt_stop(shunt_t *rt, uint64_t grace_ms) {
  uint32_t open = SHUNT__OPEN;
  if (rt->worker) return UV_EPERM;
  if (shunt_current() == rt || (rt->reactor && shunt__on_reactor(rt->reactor))) return SHUNT_EDEADLK;
  if (!atomic_compare_exchange_strong(&rt->door, &open, SHUNT__CLOSING)) return SHUNT_ECLOSED;
  shunt__wake_room(rt);
  bool drained = shunt__drained(rt, shunt__deadline(grace_ms)) || cancel_all(rt) || kill_all(rt);
  /* Every task has settled. If something is still in flight, it is a function whose handle has: by value past
   * its deadline, or left behind. What that may use (its fiber's stack, its lane, the loop) then stays
   * too. */
  bool clean = drained && take_apart(rt);
  atomic_store(&rt->door, SHUNT__CLOSED);
  return clean ? 0 : SHUNT_EABANDONED;
}

uv_loop_t *shunt_uv_loop(shunt_t *rt) { return rt->reactor ? &rt->reactor->loop : NULL; }

void shunt__worker_view(shunt_t *rt) {
  *rt = (shunt_t){.door = SHUNT__OPEN, .worker = true, .options.max_pending = UINT32_MAX};
  pthread_mutex_init(&rt->room.lock, NULL);
  pthread_mutex_init(&rt->deadlines.lock, NULL);
  for (int i = 0; i < SHUNT__LANES; i++) rt->ops[i] = &shunt__uplink_lane;
}
