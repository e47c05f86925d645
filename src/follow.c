/* What comes after a task: another task, a callback, a readable descriptor; and tasks in order of completion.
 *
 * Each is a waiter on the handle, called once by whoever settles it, with no lock held. The waiter's memory
 * is its own, or lies in what it is about; it holds the references that it needs. */
#include <config.h>

#include "follow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"
#include "lane.h"

/* Hangs w on t, or calls it at once when t has settled. */
static void follow(shunt_task_t *t, shunt__waiter_t *w) {
  if (!shunt__waiter_add(t, w)) w->wake(w);
}

/* ---- another task ---- */

typedef struct {
  shunt__waiter_t waiter; /* first */
  shunt_task_t *before, *next; /* a reference to the one, the run's reference to the other */
} then_t;

/* Until it is pushed to its lane, a task that follows can only be withdrawn. */
static shunt_cancel_t end_not_yet(shunt_task_t *t, int status) {
  if (shunt__withdraw(t, status)) return SHUNT_WITHDRAWN;
  const shunt__lane_ops_t *lane = atomic_load(&t->ops); /* it has settled, or been pushed meanwhile */
  return lane == &shunt__not_yet ? SHUNT_TOO_LATE : lane->end(t, status);
}

const shunt__lane_ops_t shunt__not_yet = {.name = "none yet", .end = end_not_yet};

static bool take_result(shunt_task_t *next, const shunt__outcome_t *o) {
  if (!next->by_value) {
    next->arg = o->result;
    return true;
  }
  return shunt__task_fill(next, o->block ? o->block->data : NULL, o->block ? o->block->size : 0);
}

static void go_on(then_t *then) {
  shunt_task_t *t = then->before, *next = then->next;
  const shunt__outcome_t *o = &t->outcome;
  atomic_store_explicit(&t->observed, true, memory_order_relaxed); /* what it failed with is passed on */
  if (shunt__settled(next)) {
    shunt__run_over(next); /* withdrawn before its turn came */
  } else if (o->status) {
    shunt__settle(next,
                  (shunt__outcome_t){.status = o->status, .message = o->message ? strdup(o->message) : NULL});
    shunt__run_over(next);
  } else if (!take_result(next, o)) {
    shunt__settle(next, (shunt__outcome_t){.status = UV_ENOMEM});
    shunt__run_over(next);
  } else {
    /* A cancel may still see the old table, and withdraw: every lane drops what was withdrawn when it comes
     * to it. */
    atomic_store(&next->ops, next->rt->ops[next->lane]);
    atomic_load(&next->ops)->push(next);
  }
  shunt_release(t);
  free(then);
}

/* A failure passes down a chain of any length: the first on this thread works off what the others add,
 * instead of each calling the next. Nothing in here suspends, so a thread's list is as good as a fiber's. */
static void turn_comes(shunt__waiter_t *w) {
  static _Thread_local then_t *first, **end; /* end: NULL while nobody works */
  then_t *then = (then_t *)w;
  w->next = NULL;
  if (end) {
    *end = then;
    end = (then_t **)&w->next;
    return;
  }
  first = then;
  end = (then_t **)&w->next;
  while ((then = first)) {
    if (!(first = (then_t *)then->waiter.next)) end = &first;
    go_on(then);
  }
  end = NULL;
}

bool shunt__follow(shunt_task_t *before, shunt_task_t *next) {
  then_t *then = malloc(sizeof *then);
  if (!then) return false;
  *then = (then_t){.waiter.wake = turn_comes, .before = shunt_retain(before), .next = next};
  follow(before, &then->waiter);
  return true;
}

/* ---- a callback ---- */

typedef struct {
  shunt__waiter_t waiter; /* first */
  shunt__post_t post;
  shunt_task_t *task; /* a reference */
  void (*cb)(shunt_task_t *t, void *data);
  void *data;
} done_t;

static void call_back(shunt__post_t *p) {
  done_t *d = (done_t *)((char *)p - offsetof(done_t, post));
  shunt_t *rt = d->task->rt;
  d->cb(d->task, d->data);
  shunt_release(d->task);
  shunt__less_in_flight(rt);
  free(d);
}

static void post_done(shunt__waiter_t *w) {
  done_t *d = (done_t *)w;
  shunt__post(d->task->rt->reactor, &d->post);
}

int shunt_on_done(shunt_task_t *t, void (*cb)(shunt_task_t *t, void *data), void *data) {
  shunt_t *rt = t->rt;
  if (rt->worker) return UV_ENOTSUP;
  done_t *d = malloc(sizeof *d);
  if (!d) return UV_ENOMEM;
  int err = shunt__stay(rt); /* it counts as in flight until it was called */
  if (err) {
    free(d);
    return err;
  }
  *d = (done_t){
      .waiter.wake = post_done, .post.fire = call_back, .task = shunt_retain(t), .cb = cb, .data = data};
  atomic_store_explicit(&t->observed, true, memory_order_relaxed);
  follow(t, &d->waiter);
  return 0;
}

/* ---- a descriptor ---- */

typedef struct {
  shunt__waiter_t waiter; /* first */
  int fd; /* the handle's; whoever settles it holds a reference */
} ready_t;

static void make_readable(shunt__waiter_t *w) {
  uint64_t one = 1;
  (void)!write(((ready_t *)w)->fd, &one, sizeof one);
  free(w);
}

int shunt_task_fd(shunt_task_t *t) {
  int have = atomic_load(&t->fd), none = 0;
  if (have) return have - 1;
  ready_t *r = malloc(sizeof *r);
  int fd = r ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
  if (fd < 0) {
    int err = r ? -errno : UV_ENOMEM;
    free(r);
    return err;
  }
  if (!atomic_compare_exchange_strong(&t->fd, &none, fd + 1)) { /* another thread was faster */
    close(fd);
    free(r);
    return none - 1;
  }
  *r = (ready_t){.waiter.wake = make_readable, .fd = fd};
  atomic_store_explicit(&t->observed, true, memory_order_relaxed);
  follow(t, &r->waiter);
  return fd;
}
