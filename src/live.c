/* The tasks that have not settled, so that stop finds every one of them whatever lane it is on.
 *
 * A handful of lists, each behind a flag that is held for four stores; a thread sticks to one list, so
 * threads that submit seldom meet. A task leaves its list before its settler drops its reference: whoever
 * finds it in the list may take one. */
#include <config.h>

#include <sched.h>
#include <stdlib.h>

#include "internal.h"

static uint32_t my_shard(void) {
  static _Atomic(uint32_t) next;
  static _Thread_local uint32_t mine; /* counted from 1 */
  if (!mine) mine = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % SHUNT__SHARDS + 1;
  return mine - 1;
}

static void lock(_Atomic(bool) *busy) {
  while (atomic_exchange_explicit(busy, true, memory_order_acquire)) sched_yield();
}

static void unlock(_Atomic(bool) *busy) { atomic_store_explicit(busy, false, memory_order_release); }

void shunt__live_add(shunt_task_t *t) {
  shunt_t *rt = t->rt;
  uint32_t i = t->shard = my_shard();
  lock(&rt->alive[i].busy);
  t->live_next = rt->alive[i].first;
  if (t->live_next) t->live_next->live_at = &t->live_next;
  t->live_at = &rt->alive[i].first;
  rt->alive[i].first = t;
  unlock(&rt->alive[i].busy);
}

void shunt__live_remove(shunt_task_t *t) {
  _Atomic(bool) *busy = &t->rt->alive[t->shard].busy;
  lock(busy);
  *t->live_at = t->live_next;
  if (t->live_next) t->live_next->live_at = t->live_at;
  unlock(busy);
}

#define FEW 32

/* A copy of one list, each task retained, *n of them; in `few`, and only that many, when there is no memory
 * for more. */
static shunt_task_t **snapshot(shunt_t *rt, uint32_t i, shunt_task_t *few[FEW], size_t *n) {
  size_t count = 0, room = FEW;
  lock(&rt->alive[i].busy);
  for (shunt_task_t *t = rt->alive[i].first; t; t = t->live_next) count++;
  shunt_task_t **tasks = count > FEW ? malloc(count * sizeof(shunt_task_t *)) : NULL;
  if (tasks)
    room = count;
  else
    tasks = few;
  *n = 0;
  for (shunt_task_t *t = rt->alive[i].first; t && *n < room; t = t->live_next)
    tasks[(*n)++] = shunt_retain(t);
  unlock(&rt->alive[i].busy);
  return tasks;
}

bool shunt__live_each(shunt_t *rt, void (*visit)(shunt_task_t *t)) {
  bool any = false;
  for (uint32_t i = 0; i < SHUNT__SHARDS; i++) {
    size_t n;
    shunt_task_t *few[FEW], **tasks = snapshot(rt, i, few, &n);
    any |= n > 0;
    for (size_t k = 0; k < n; k++) {
      visit(tasks[k]);
      shunt_release(tasks[k]);
    }
    if (tasks != few) free(tasks);
  }
  return any;
}
