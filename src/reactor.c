/* One thread in uv_run, and a stack of posts with one coalesced wake-up.
 *
 * The inbox is a lock-free stack that is only ever taken whole, so it has no ABA problem. Whoever pushes onto
 * an empty one sends the wake-up; the others know that it is on its way, because the loop's thread takes the
 * stack only after that wake-up. */
#include <config.h>

#include "reactor.h"

#include <shunt.h>
#include <stddef.h>

#include "strand.h"

static _Thread_local const shunt__reactor_t *here; /* the reactor whose loop this thread runs */

bool shunt__on_reactor(const shunt__reactor_t *r) { return here == r; }

void shunt__post(shunt__reactor_t *r, shunt__post_t *p) {
  shunt__post_t *head = atomic_load_explicit(&r->inbox, memory_order_relaxed);
  do {
    p->next = head;
    /* Release: what p is about is visible to fire(). */
  } while (!atomic_compare_exchange_weak_explicit(&r->inbox, &head, p, memory_order_release,
                                                  memory_order_relaxed));
  if (!head) uv_async_send(&r->async);
}

static void take_inbox(uv_async_t *async) {
  shunt__reactor_t *r = async->data;
  shunt__post_t *p = atomic_exchange_explicit(&r->inbox, NULL, memory_order_acquire), *in_order = NULL;
  while (p) {
    shunt__post_t *next = p->next;
    p->next = in_order;
    in_order = p;
    p = next;
  }
  while ((p = in_order)) {
    in_order = p->next;
    p->fire(p);
  }
}

static void close_handle(uv_handle_t *handle, void *unused) {
  (void)unused;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void end(shunt__post_t *p) {
  shunt__reactor_t *r = (shunt__reactor_t *)((char *)p - offsetof(shunt__reactor_t, ending));
  r->ended = true;
  uv_walk(&r->loop, close_handle, NULL);
}

int shunt__reactor_open(shunt__reactor_t *r) {
  *r = (shunt__reactor_t){.ending.fire = end};
  int err = uv_loop_init(&r->loop);
  if (err) return err;
  if ((err = uv_async_init(&r->loop, &r->async, take_inbox))) uv_loop_close(&r->loop);
  r->async.data = r;
  return err;
}

/* In a libuv callback nothing can be waited for: what would end the wait runs on this very thread. */
static int cannot_sleep(shunt__strand_t *s, uint64_t deadline) {
  (void)s;
  (void)deadline;
  return SHUNT_EDEADLK;
}

static int cannot_wait_fd(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  (void)fd;
  (void)events;
  return cannot_sleep(s, deadline);
}

static const shunt__strand_ops_t callback_ops = {cannot_sleep, cannot_wait_fd, shunt__thread_yield,
                                                 SHUNT__HELPS_NEVER, false};

static void *run(void *arg) {
  shunt__reactor_t *r = arg;
  shunt__strand_t *s = shunt__strand();
  if (s) s->ops = &callback_ops;
  here = r;
  while (!r->ended) uv_run(&r->loop, UV_RUN_DEFAULT); /* a task may have called uv_stop */
  uv_run(&r->loop, UV_RUN_DEFAULT);
  atomic_store(&r->running, 0);
  shunt__futex_wake(&r->running, 1, false);
  return NULL;
}

int shunt__reactor_run(shunt__reactor_t *r) {
  atomic_store(&r->running, 1);
  int err = shunt__thread_create(&r->thread, run, r);
  r->ran = !err;
  return -err;
}

bool shunt__reactor_close(shunt__reactor_t *r, uint64_t deadline) {
  if (!r->ran) {
    end(&r->ending);
    uv_run(&r->loop, UV_RUN_DEFAULT);
  } else {
    shunt__post(r, &r->ending);
    while (atomic_load(&r->running) && shunt__now() < deadline)
      shunt__futex_wait(&r->running, 1, deadline, false);
    if (atomic_load(&r->running)) {
      pthread_detach(r->thread);
      return false;
    }
    pthread_join(r->thread, NULL);
  }
  uv_loop_close(&r->loop);
  return true;
}
