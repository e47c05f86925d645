/* Waiting for tasks.
 *
 * There is one wait, for any of n tasks; awaiting one is n = 1, awaiting all is one after another. It hangs a
 * node on each task, parks the strand until one has settled, and takes the nodes off again. How a strand
 * parks is its own business: a fiber suspends, a thread sleeps on a futex, a worker process serves its link
 * to the parent.
 *
 * A node lies on the waiter's stack, so the waiter may not leave while a settler can touch it: `fired` is the
 * settler's last write. */
#include <config.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "lane.h"
#include "run.h"

typedef struct {
  shunt__waiter_t waiter;
  shunt__strand_t *strand;
  _Atomic(bool) fired;
} node_t;

static void wake_strand(shunt__waiter_t *w) {
  node_t *n = (node_t *)w;
  shunt__strand_t *s = n->strand; /* outlives the node: strands are never freed */
  atomic_store_explicit(&n->fired, true, memory_order_release);
  shunt__unpark(s);
}

static void unhook(shunt_task_t *t, node_t *n) {
  if (shunt__waiter_remove(t, &n->waiter)) return;
  /* The settler has the list in hand and will touch n once, at most as many wakes away as there are
   * waiters. */
  while (!atomic_load_explicit(&n->fired, memory_order_acquire)) sched_yield();
}

static int first_settled(shunt_task_t *const tasks[], size_t n) {
  for (size_t i = 0; i < n; i++)
    if (shunt__settled(tasks[i])) return (int)i;
  return SHUNT_EPENDING;
}

/* How a wait ends early. A join does not run from a cancel: the function might still touch what the caller is
 * about to free. */
enum { HEED_CANCEL, SEE_CANCEL, IGNORE_CANCEL }; /* see: end as if heeding, but the task is not told by it */

static int park_until_one(shunt__strand_t *s, shunt_task_t *const tasks[], size_t n, uint64_t deadline,
                          int heed) {
  bool passed_on = false;
  for (int err;;) {
    int i = first_settled(tasks, n);
    if (i >= 0) return i;
    if (heed == HEED_CANCEL && (err = shunt__told(s->frame))) return err;
    if (heed == SEE_CANCEL && (err = shunt__asked(s->frame))) return err;
    if (heed == IGNORE_CANCEL && !passed_on && shunt__asked(s->frame)) {
      passed_on = true;
      shunt_cancel(tasks[0]);
    }
    if (deadline != SHUNT__NEVER && shunt__now() >= deadline) return UV_ETIMEDOUT;
    if ((err = shunt__park(s, deadline))) return err;
  }
}

#define FEW 8 /* nodes on the stack; more are allocated */

static int wait_any(shunt__strand_t *s, shunt_task_t *const tasks[], size_t n, uint64_t deadline, int heed) {
  node_t few[FEW], *nodes = n <= FEW ? few : malloc(n * sizeof *nodes);
  if (!nodes) return UV_ENOMEM;
  size_t hooked = 0;
  for (; hooked < n; hooked++) {
    node_t *node = &nodes[hooked];
    *node = (node_t){.waiter.wake = wake_strand, .strand = s};
    if (!shunt__waiter_add(tasks[hooked], &node->waiter)) break;
  }
  int result = park_until_one(s, tasks, n, deadline, heed);
  while (hooked-- > 0) unhook(tasks[hooked], &nodes[hooked]);
  if (nodes != few) free(nodes);
  return result;
}

/* ---- one ---- */

/* Running t here instead of waiting for it. Not for a wait with a limit and not in a task with a deadline,
 * which running in place could not keep; on the loop only for a join, as any other wait shall end when the
 * waiting task is cancelled. Whether there is stack enough is for the lane to say. */
static bool may_help(const shunt_task_t *t, const shunt__strand_t *s, uint64_t deadline, int heed) {
  const shunt__lane_ops_t *lane = atomic_load(&t->ops);
  if (!lane->help || deadline != SHUNT__NEVER) return false;
  if (s->ops->helps == SHUNT__HELPS_NEVER || (s->ops->helps == SHUNT__HELPS_JOINS && heed == HEED_CANCEL))
    return false;
  if (t->by_value && t->alarm.when) return false; /* settles at its deadline, whether its function has
                                                     returned or not */
  return !(s->frame && s->frame->limited) && !shunt__asked(s->frame);
}

/* It may come to nothing: t is not queued, or this is no place for it, or a cancel takes it just then. The
 * wait goes on in any case. */
static void help(shunt_task_t *t, shunt__strand_t *s, int heed) {
  shunt__hold(t->rt);
  if (!shunt__settled(t)) atomic_load(&t->ops)->help(t, s, heed == IGNORE_CANCEL);
  shunt__less_in_flight(t->rt);
}

static bool waits_for_itself(const shunt__strand_t *s, const shunt_task_t *t) {
  for (const shunt__frame_t *f = s->frame; f; f = f->outer)
    if (f->task == t) return true;
  return false;
}

static int wait_one(shunt_task_t *t, uint64_t deadline, int heed) {
  if (shunt__settled(t)) return 0;
  shunt__strand_t *s = shunt__strand();
  if (!s) return UV_ENOMEM;
  if (waits_for_itself(s, t)) return SHUNT_EDEADLK;
  if (may_help(t, s, deadline, heed)) help(t, s, heed);
  int i = wait_any(s, &t, 1, deadline, heed);
  return i < 0 ? i : 0;
}

int shunt__wait_until_asked(shunt_task_t *t) {
  shunt__strand_t *s = shunt__strand();
  if (!s) return SHUNT_EDEADLK;
  if (!s->frame) return shunt__wait_to_end(t); /* nobody can ask: then it may help, too */
  int i = waits_for_itself(s, t) ? SHUNT_EDEADLK : wait_any(s, &t, 1, SHUNT__NEVER, SEE_CANCEL);
  return i >= 0 ? 0 : shunt__asked(s->frame) ? UV_ECANCELED : SHUNT_EDEADLK;
}

/* Every reason not to wait is one to its callers, who then keep what they would have released. */
int shunt__wait_to_end(shunt_task_t *t) {
  return wait_one(t, SHUNT__NEVER, IGNORE_CANCEL) ? SHUNT_EDEADLK : 0;
}

static int result_of(shunt_task_t *t, void **result) {
  int status = shunt_status(t);
  if (result) *result = t->outcome.block ? t->outcome.block->data : t->outcome.result;
  return status;
}

static int await_until(shunt_task_t *t, uint64_t deadline, void **result) {
  int err = wait_one(t, deadline, HEED_CANCEL);
  if (!err) return result_of(t, result);
  if (result) *result = NULL;
  return err;
}

int shunt_await(shunt_task_t *t, void **result) { return await_until(t, SHUNT__NEVER, result); }

int shunt_await_for(shunt_task_t *t, uint64_t timeout_ms, void **result) {
  return await_until(t, shunt__deadline(timeout_ms), result);
}

int shunt_join(shunt_task_t *t, void **result) {
  int err = shunt__wait_to_end(t);
  if (result) *result = NULL;
  if (err) return err;
  err = result_of(t, t->by_value ? NULL : result);
  shunt_release(t);
  return err;
}

int shunt_collect(shunt_task_t *t, void *buf, size_t size) {
  if (!t->by_value) return UV_EINVAL;
  int err = shunt__wait_to_end(t);
  if (err) return err;
  const shunt__block_t *b = t->outcome.block;
  if (b && b->size > size) return UV_EMSGSIZE;
  if (b && b->size) memcpy(buf, b->data, b->size);
  return shunt_join(t, NULL);
}

/* ---- many ---- */

int shunt_await_any(shunt_task_t *const tasks[], size_t n, uint64_t timeout_ms) {
  if (!n) return UV_EINVAL;
  int i = first_settled(tasks, n);
  if (i >= 0) return i;
  shunt__strand_t *s = shunt__strand();
  if (!s) return UV_ENOMEM;
  size_t own = 0;
  while (own < n && waits_for_itself(s, tasks[own])) own++;
  return own == n ? SHUNT_EDEADLK : wait_any(s, tasks, n, shunt__deadline(timeout_ms), HEED_CANCEL);
}

int shunt_await_all(shunt_task_t *const tasks[], size_t n, uint64_t timeout_ms) {
  uint64_t deadline = shunt__deadline(timeout_ms);
  int first = 0;
  for (size_t i = 0; i < n; i++) {
    int err = wait_one(tasks[i], deadline, HEED_CANCEL);
    if (err) return err;
    err = shunt_status(tasks[i]);
    if (!first) first = err;
  }
  return first;
}
