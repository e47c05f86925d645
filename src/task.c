/* The handle: its references, its waiters, its one moment of settling. The protocol is in task.h. */
#include <config.h>

#include "task.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "lane.h"

/* ---- result bytes ---- */

#define ROUND16(n) (((n) + 15) & ~(size_t)15)

static void heap_block_drop(shunt__block_t *b) { free(b); }

shunt__block_t *shunt__heap_block(size_t size) {
  size_t head = ROUND16(sizeof(shunt__block_t));
  shunt__block_t *b = size > SIZE_MAX - head ? NULL : malloc(head + size);
  if (b) *b = (shunt__block_t){.data = (char *)b + head, .size = size, .drop = heap_block_drop};
  return b;
}

static void outcome_drop(shunt__outcome_t *o) {
  if (o->block) o->block->drop(o->block);
  free(o->message);
}

/* ---- life ---- */

/* `waiters` is a pointer whose lowest bit is a lock for the rare removal, or it is SETTLED. */
#define SETTLED ((uintptr_t)2)
#define LOCKED ((uintptr_t)1)

static void task_free(shunt_task_t *t) {
  outcome_drop(&t->outcome);
  if (t->arg_block) t->arg_block->drop(t->arg_block);
  if (t->fd) close(t->fd - 1);
  free(t->name);
  free(t);
}

bool shunt__task_fill(shunt_task_t *t, const void *arg, size_t size) {
  const shunt__lane_ops_t *lane = t->rt->ops[t->lane];
  t->arg_size = size;
  if (!size) return true;
  if (size <= SHUNT__ARG_INLINE)
    t->arg = (char *)t + ROUND16(sizeof *t);
  else if ((t->arg_block = lane->make_arg ? lane->make_arg(t->rt, size) : shunt__heap_block(size)))
    t->arg = t->arg_block->data;
  else
    return false;
  memcpy(t->arg, arg, size);
  return true;
}

/* A task from the loop to the loop may take less time than to look at the clock three times, so there one in
 * 16 is measured, and each that waits (shunt__run_waits). */
static uint64_t submit_time(shunt_lane_t lane) {
  static _Thread_local unsigned count;
  return lane == SHUNT_LANE_LOOP && shunt__on_fiber() && ++count % 16 ? 0 : shunt__now();
}

static shunt_task_t *new_task(shunt_t *rt, shunt_fn fn, const void *arg, const shunt_task_options_t *options,
                              size_t room) {
  bool by_value = options->arg_size > 0 || (options->flags & SHUNT_BY_VALUE);
  shunt_task_t *t = malloc(ROUND16(sizeof *t) + room);
  if (!t) return NULL;
  *t = (shunt_task_t){
      .refs = 2,
      .by_value = by_value,
      .kind = (uint8_t)options->kind,
      .lane = (uint8_t)options->lane,
      .flags = (uint8_t)options->flags,
      .rt = rt,
      .ops = rt->ops[options->lane],
      .fn = fn,
      .arg = by_value ? NULL : (void *)(uintptr_t)arg,
      .submitted = submit_time(options->lane),
      .asked = &t->state,
  };
  if (!options->name || (t->name = strdup(options->name))) return t;
  task_free(t);
  return NULL;
}

shunt_task_t *shunt__task_new(shunt_t *rt, shunt_fn fn, const void *arg,
                              const shunt_task_options_t *options) {
  size_t size = options->arg_size;
  shunt_task_t *t = new_task(rt, fn, arg, options, size <= SHUNT__ARG_INLINE ? size : 0);
  if (!t || shunt__task_fill(t, arg, size)) return t;
  task_free(t);
  return NULL;
}

shunt_task_t *shunt__task_new_empty(shunt_t *rt, shunt_fn fn, const shunt_task_options_t *options) {
  return new_task(rt, fn, NULL, options, SHUNT__ARG_INLINE);
}

shunt_task_t *shunt__task_refused(shunt_t *rt, bool by_value, int status, char *message) {
  static shunt_t nowhere = {.door = SHUNT__CLOSED};
  /* Two of these for when there is no memory for one; they are never freed, as their first reference is
   * nobody's. */
  static shunt_task_t no_memory[2] = {
      {.refs = 1, .waiters = SETTLED, .rt = &nowhere, .outcome.status = UV_ENOMEM},
      {.refs = 1, .waiters = SETTLED, .rt = &nowhere, .outcome.status = UV_ENOMEM, .by_value = true},
  };
  shunt_task_t *t = calloc(1, sizeof *t);
  if (!t) {
    free(message);
    return shunt_retain(&no_memory[by_value]);
  }
  t->refs = 1;
  t->waiters = SETTLED;
  t->by_value = by_value;
  t->rt = rt ? rt : &nowhere;
  t->outcome = (shunt__outcome_t){.status = status, .message = message};
  return t;
}

shunt_task_t *shunt_retain(shunt_task_t *t) {
  atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
  return t;
}

static void report_unobserved(shunt_task_t *t) {
  shunt_t *rt = t->rt;
  if (!rt->options.on_unobserved || t->outcome.status >= 0 || t->outcome.status == UV_ECANCELED) return;
  if (!atomic_load_explicit(&t->observed, memory_order_relaxed))
    rt->options.on_unobserved(t, rt->options.unobserved_data);
}

void shunt_release(shunt_task_t *t) {
  /* Release, so that what this holder did with t is done before the last one frees it; acquire on the
   * last. */
  if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) > 1) return;
  report_unobserved(t);
  task_free(t);
}

/* ---- phases ---- */

bool shunt__claim(shunt_task_t *t, shunt__strand_t *s) {
  uint32_t queued = SHUNT__QUEUED;
  atomic_store_explicit(&t->strand, s, memory_order_relaxed);
  /* Release: whoever sees STARTED (shunt__ask) may use `strand`. Acquire: pairs with shunt__unclaim.
   * Sequentially consistent: see shunt_resume. */
  if (!atomic_compare_exchange_strong(&t->state, &queued, SHUNT__STARTED)) return false;
  shunt__less_pending(t->rt);
  return true;
}

void shunt__unclaim(shunt_task_t *t) {
  uint32_t state = atomic_load_explicit(&t->state, memory_order_relaxed);
  shunt__more_pending(t->rt);
  do {
    if (shunt__phase(state) != SHUNT__STARTED) {
      shunt__less_pending(t->rt);
      return;
    }
  } while (!atomic_compare_exchange_weak_explicit(&t->state, &state, SHUNT__QUEUED, memory_order_acq_rel,
                                                  memory_order_relaxed));
}

bool shunt__ask(shunt_task_t *t, uint32_t flag) {
  uint32_t state = atomic_load_explicit(&t->state, memory_order_acquire);
  do {
    if (shunt__phase(state) != SHUNT__STARTED) return false;
  } while (!atomic_compare_exchange_weak_explicit(&t->state, &state, state | flag, memory_order_acq_rel,
                                                  memory_order_acquire));
  shunt__strand_t *s = atomic_load_explicit(&t->strand, memory_order_relaxed);
  if (s) shunt__unpark(s);
  return true;
}

/* The right to settle: from the phases below `limit`. */
static bool take(shunt_task_t *t, uint32_t limit) {
  uint32_t state = atomic_load_explicit(&t->state, memory_order_relaxed), settling;
  do {
    if (shunt__phase(state) >= limit) return false;
    settling = (state & ~(uint32_t)SHUNT__PHASE) | SHUNT__SETTLING;
  } while (!atomic_compare_exchange_weak_explicit(&t->state, &state, settling, memory_order_acq_rel,
                                                  memory_order_relaxed));
  if (shunt__phase(state) == SHUNT__QUEUED) shunt__less_pending(t->rt);
  return true;
}

/* ---- waiters ---- */

bool shunt__settled(const shunt_task_t *t) {
  return atomic_load_explicit(&t->waiters, memory_order_acquire) == SETTLED;
}

/* The word once it is not locked. Removals hold the lock for a few loads and stores, and never wait. */
static uintptr_t unlocked(shunt_task_t *t) {
  uintptr_t head;
  while ((head = atomic_load_explicit(&t->waiters, memory_order_acquire)) & LOCKED) sched_yield();
  return head;
}

bool shunt__waiter_add(shunt_task_t *t, shunt__waiter_t *w) {
  uintptr_t head;
  do {
    head = unlocked(t);
    if (head == SETTLED) return false;
    w->next = (shunt__waiter_t *)head;
  } while (!atomic_compare_exchange_weak_explicit(&t->waiters, &head, (uintptr_t)w, memory_order_release,
                                                  memory_order_relaxed));
  return true;
}

bool shunt__waiter_remove(shunt_task_t *t, shunt__waiter_t *w) {
  uintptr_t head;
  do {
    head = unlocked(t);
    if (head == SETTLED) return false;
  } while (!atomic_compare_exchange_weak_explicit(&t->waiters, &head, head | LOCKED, memory_order_acquire,
                                                  memory_order_relaxed));
  shunt__waiter_t *first = (shunt__waiter_t *)head, **at = &first;
  while (*at != w) at = &(*at)->next;
  *at = w->next;
  atomic_store_explicit(&t->waiters, (uintptr_t)first, memory_order_release);
  return true;
}

static void wake_all(shunt_task_t *t) {
  uintptr_t head;
  do {
    head = unlocked(t);
    /* Release publishes the outcome to all who see SETTLED. */
  } while (!atomic_compare_exchange_weak_explicit(&t->waiters, &head, SETTLED, memory_order_acq_rel,
                                                  memory_order_relaxed));
  for (shunt__waiter_t *w = (shunt__waiter_t *)head, *next; w; w = next) {
    next = w->next;
    w->wake(w);
  }
}

/* ---- settling ---- */

static void finish(shunt_task_t *t, const shunt__outcome_t *outcome) {
  t->outcome = *outcome;
  if (t->alarm.when) shunt__deadline_forget(t);
  wake_all(t);
  shunt__live_remove(t); /* after the wakes: while a task is in the list, the lanes that wakes may use are
                            there */
}

bool shunt__withdraw(shunt_task_t *t, int status) {
  if (!take(t, SHUNT__STARTED)) return false;
  finish(t, &(shunt__outcome_t){.status = status});
  return true;
}

bool shunt__settle(shunt_task_t *t, shunt__outcome_t outcome) {
  bool first = take(t, SHUNT__SETTLING);
  if (first)
    finish(t, &outcome);
  else
    outcome_drop(&outcome);
  return first;
}

bool shunt__settle_error(shunt_task_t *t, int status, const char *format, ...) {
  char *message = NULL;
  va_list args;
  va_start(args, format);
  if (vasprintf(&message, format, args) < 0) message = NULL; /* the status must do */
  va_end(args);
  return shunt__settle(t, (shunt__outcome_t){.status = status, .message = message});
}

void shunt__run_over(shunt_task_t *t) {
  shunt_t *rt = t->rt;
  if (t->arg_block) t->arg_block->drop(t->arg_block); /* now: the handle may outlive the lane whose memory
                                                         this is */
  t->arg_block = NULL;
  shunt_release(t);
  shunt__less_in_flight(rt);
}

/* ---- looking ---- */

bool shunt_done(shunt_task_t *t) { return shunt__settled(t); }

int shunt_status(shunt_task_t *t) {
  if (!shunt__settled(t)) return SHUNT_EPENDING;
  atomic_store_explicit(&t->observed, true, memory_order_relaxed);
  return t->outcome.status;
}

const void *shunt_result(shunt_task_t *t, size_t *size) {
  const shunt__block_t *b = shunt_status(t) == 0 ? t->outcome.block : NULL;
  if (size) *size = b ? b->size : 0;
  return b ? b->data : NULL;
}

void shunt_info(shunt_task_t *t, shunt_info_t *info) {
  bool settled = shunt__settled(t);
  uint64_t submitted = atomic_load_explicit(&t->submitted, memory_order_relaxed);
  uint64_t started = atomic_load_explicit(&t->started, memory_order_relaxed);
  *info = (shunt_info_t){
      .lane = (shunt_lane_t)t->lane,
      .reason = t->reason,
      .queued_ns = submitted && started > submitted ? started - submitted : 0,
      .run_ns = atomic_load_explicit(&t->ran, memory_order_relaxed),
      .cpu_ns = atomic_load_explicit(&t->cpu, memory_order_relaxed),
      .attempts = t->attempts,
  };
  if (!settled) return;
  info->pid = t->outcome.pid;
  info->signal = t->outcome.signal;
  info->exit_status = t->outcome.exit_status;
  info->message = t->outcome.message;
}
