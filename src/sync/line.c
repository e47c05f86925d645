/* Standing in line. The protocol is in line.h. */
#include <config.h>

#include "line.h"

#include "../internal.h"
#include "../process/zygote.h"
#include "../run.h"

enum { WAITING = 1 }; /* no outcome: those are 0 and below */

void shunt__line_open(shunt__line_t *l) {
  pthread_mutex_init(&l->lock, NULL);
  l->first = NULL;
  l->end = &l->first;
  l->in_worker = shunt__in_worker();
}

int shunt__line_lock(shunt__line_t *l) {
  /* A worker has copies of what the program made before it: nobody is at the other end. */
  if (l->in_worker != shunt__in_worker()) return UV_EPERM;
  pthread_mutex_lock(&l->lock);
  return 0;
}

int shunt__line_enter(shunt__line_t *l, shunt__strand_t **s) {
  if (!(*s = shunt__strand())) return UV_ENOMEM;
  int err = shunt__told((*s)->frame);
  return err ? err : shunt__line_lock(l);
}

void shunt__line_unlock(shunt__line_t *l, shunt__strand_t *next) {
  pthread_mutex_unlock(&l->lock);
  if (next) shunt__unpark(next);
}

static void append(shunt__line_t *l, shunt__waiting_t *w) {
  w->at = l->end;
  *l->end = w;
  l->end = &w->next;
}

static void take_out(shunt__line_t *l, shunt__waiting_t *w) {
  if ((*w->at = w->next))
    w->next->at = w->at;
  else
    l->end = w->at;
}

shunt__strand_t *shunt__line_hand(shunt__line_t *l, int outcome) {
  shunt__waiting_t *w = l->first;
  shunt__strand_t *s = w->strand;
  take_out(l, w);
  /* Release: what was done for the waiter is there when it sees this. From here on its stack is its own. */
  atomic_store_explicit(&w->outcome, outcome, memory_order_release);
  return s;
}

static int outcome_of(const shunt__waiting_t *w) {
  return atomic_load_explicit(&w->outcome, memory_order_acquire);
}

/* Ends a wait that nobody ended, if there is cause. Whether the task should end is asked only here, when
 * nothing can be handed over any more: it must not be told so by a call that then succeeds. */
static void leave_if_due(shunt__line_t *l, shunt__waiting_t *w, int err, uint64_t deadline) {
  pthread_mutex_lock(&l->lock);
  if (outcome_of(w) == WAITING) {
    if (!err) err = shunt__told(w->strand->frame);
    if (!err && deadline != SHUNT__NEVER && shunt__now() >= deadline) err = UV_ETIMEDOUT;
    if (err) {
      take_out(l, w);
      atomic_store_explicit(&w->outcome, err, memory_order_relaxed);
    }
  }
  pthread_mutex_unlock(&l->lock);
}

int shunt__line_wait(shunt__line_t *l, shunt__strand_t *s, void *with, uint64_t timeout_ms) {
  shunt__waiting_t w = {.strand = s, .with = with, .outcome = WAITING};
  if (!timeout_ms || l->in_worker) { /* a worker's only thread is this one: nobody would come */
    pthread_mutex_unlock(&l->lock);
    return timeout_ms ? SHUNT_EDEADLK : UV_ETIMEDOUT;
  }
  append(l, &w);
  pthread_mutex_unlock(&l->lock);
  uint64_t deadline = timeout_ms == SHUNT_FOREVER ? SHUNT__NEVER : shunt__deadline(timeout_ms);
  while (outcome_of(&w) == WAITING) {
    int err = shunt__park(s, deadline);
    if (outcome_of(&w) == WAITING) leave_if_due(l, &w, err, deadline);
  }
  return outcome_of(&w);
}

int shunt__line_close(shunt__line_t *l, bool in_use) {
  bool busy = in_use || l->first;
  pthread_mutex_unlock(&l->lock);
  if (busy) return UV_EBUSY;
  pthread_mutex_destroy(&l->lock);
  return 0;
}
