/* Scopes: a list of members, and what their ends mean for the others.
 *
 * A member is a waiter on its task. When the task settles, its settler notes a failure, cancels the others if
 * this is the first, and only then takes the member off the list: so as long as close finds a member, the
 * scope is in use, and when it finds none it may free it. The lock is never held while a task is cancelled,
 * since that settles tasks and comes back here. */
#include <config.h>

#include "scope.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "internal.h"
#include "run.h"

typedef struct member {
  shunt__waiter_t waiter; /* first */
  shunt_scope_t *scope;
  struct member *next, **at;
  shunt_task_t *task; /* a reference */
} member_t;

struct shunt_scope {
  pthread_mutex_t lock;
  member_t *members;   /* not cancelled by us */
  member_t *cancelled; /* cancelled by us */
  uint64_t bound;
  int first_error;
  bool closing, keep_going; /* closing: no longer takes members, nor lets them run */
};

static void link_member(member_t **list, member_t *m) {
  if ((m->next = *list)) m->next->at = &m->next;
  m->at = list;
  *list = m;
}

static void unlink_member(member_t *m) {
  if ((*m->at = m->next)) m->next->at = m->at;
}

uint64_t shunt__scope_bound(const shunt_scope_t *scope) { return scope->bound; }

shunt_scope_t *shunt_scope_open(shunt_t *rt, const shunt_scope_options_t *options) {
  shunt_scope_t *scope = calloc(1, sizeof *scope);
  (void)rt;
  if (!scope) return NULL;
  pthread_mutex_init(&scope->lock, NULL);
  shunt__frame_t *f = shunt__frame();
  uint64_t own = options && options->timeout_ms ? shunt__deadline(options->timeout_ms) : 0;
  scope->bound = shunt__earlier(own, f ? f->task->bound : 0);
  scope->keep_going = options && options->keep_going;
  return scope;
}

/* Takes one member to the cancelled ones, with a reference to its task. */
static shunt_task_t *next_to_cancel(shunt_scope_t *scope) {
  pthread_mutex_lock(&scope->lock);
  member_t *m = scope->members;
  if (m) {
    unlink_member(m);
    link_member(&scope->cancelled, m);
  }
  shunt_task_t *t = m ? shunt_retain(m->task) : NULL;
  pthread_mutex_unlock(&scope->lock);
  return t;
}

static void cancel_with(shunt_scope_t *scope, int error) {
  pthread_mutex_lock(&scope->lock);
  scope->closing = true;
  if (!scope->first_error) scope->first_error = error;
  pthread_mutex_unlock(&scope->lock);
  for (shunt_task_t *t; (t = next_to_cancel(scope));) {
    shunt_cancel(t);
    shunt_release(t);
  }
}

void shunt_scope_cancel(shunt_scope_t *scope) { cancel_with(scope, UV_ECANCELED); }

void shunt__scope_fail(shunt_scope_t *scope, int status) {
  pthread_mutex_lock(&scope->lock);
  /* Once, or each that is cancelled would go on to cancel the rest. */
  bool first = !scope->keep_going && !scope->closing;
  if (!scope->first_error) scope->first_error = status;
  pthread_mutex_unlock(&scope->lock);
  if (first) cancel_with(scope, status);
}

static void member_settled(shunt__waiter_t *w) {
  member_t *m = (member_t *)w;
  shunt_scope_t *scope = m->scope;
  int status = m->task->outcome.status;
  if (status) atomic_store_explicit(&m->task->observed, true, memory_order_relaxed); /* close tells of it */
  if (status) shunt__scope_fail(scope, status);
  pthread_mutex_lock(&scope->lock);
  unlink_member(m);
  pthread_mutex_unlock(&scope->lock);
  shunt_release(m->task);
  free(m);
}

int shunt__scope_join(shunt_scope_t *scope, shunt_task_t *t) {
  member_t *m = malloc(sizeof *m);
  if (!m) return UV_ENOMEM;
  *m = (member_t){.waiter.wake = member_settled, .scope = scope, .task = t};
  pthread_mutex_lock(&scope->lock);
  bool open = !scope->closing;
  if (open) {
    shunt_retain(t);
    link_member(&scope->members, m);
  }
  pthread_mutex_unlock(&scope->lock);
  if (!open) {
    free(m);
    return UV_ECANCELED;
  }
  if (!shunt__waiter_add(t, &m->waiter)) member_settled(&m->waiter);
  return 0;
}

static shunt_task_t *any_member(shunt_scope_t *scope) {
  pthread_mutex_lock(&scope->lock);
  member_t *m = scope->members ? scope->members : scope->cancelled;
  shunt_task_t *t = m ? shunt_retain(m->task) : NULL;
  pthread_mutex_unlock(&scope->lock);
  return t;
}

int shunt_scope_close(shunt_scope_t *scope) {
  bool cancelled = false;
  for (shunt_task_t *t; (t = any_member(scope));) {
    bool settled = shunt__settled(t); /* then its settler is about to take it off the list */
    int err = settled ? (sched_yield(), 0) : cancelled ? shunt__wait_to_end(t) : shunt__wait_until_asked(t);
    shunt_release(t);
    if (err && err != UV_ECANCELED) return err;
    if (err) shunt_scope_cancel(scope);
    cancelled |= err != 0;
  }
  int first_error = scope->first_error;
  pthread_mutex_destroy(&scope->lock);
  free(scope);
  return first_error;
}
