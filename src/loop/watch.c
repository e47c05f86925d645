/* The epoll set: see watch.h.
 *
 * A table leads from the descriptor to those who wait for it. The set is armed for what they want
 * together, for one event (EPOLLONESHOT); then those who wanted it are woken, and it is armed again for
 * the others. So an event costs nothing for any other descriptor, and a waiter that leaves early costs no
 * call: what it leaves armed wakes nobody.
 *
 * The kernel forgets a descriptor when the last copy of it is closed, without telling us. So we do not
 * keep what we think is armed, but arm anew for each waiter. A closed descriptor of which there is a copy
 * (a child process has one, say) may still report for its old number; that wakes for nothing the one who
 * waits there now, which it is prepared for. */
#include <config.h>

#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 128, ALWAYS = EPOLLERR | EPOLLHUP };

_Static_assert(POLLIN == EPOLLIN && POLLPRI == EPOLLPRI && POLLOUT == EPOLLOUT && POLLRDHUP == EPOLLRDHUP &&
                   POLLRDNORM == EPOLLRDNORM && POLLRDBAND == EPOLLRDBAND && POLLWRNORM == EPOLLWRNORM &&
                   POLLWRBAND == EPOLLWRBAND && POLLERR == EPOLLERR && POLLHUP == EPOLLHUP,
               "events are called the same by poll and epoll");

static void link_in(shunt__watch_t *w, int fd, shunt__watcher_t *me) {
  me->at = &w->waiting[fd];
  if ((me->next = *me->at)) me->next->at = &me->next;
  *me->at = me;
}

static void take_out(shunt__watcher_t *me) {
  if ((*me->at = me->next)) me->next->at = me->at;
  me->at = NULL;
}

void shunt__watch_remove(shunt__watcher_t *me) {
  if (me->at) take_out(me);
}

/* For all that is wanted on fd, once. */
static int arm(shunt__watch_t *w, int fd) {
  struct epoll_event e = {.events = EPOLLONESHOT, .data.fd = fd};
  for (const shunt__watcher_t *o = w->waiting[fd]; o; o = o->next) e.events |= o->events;
  int err = epoll_ctl(w->set, EPOLL_CTL_MOD, fd, &e);
  if (err && errno == ENOENT) err = epoll_ctl(w->set, EPOLL_CTL_ADD, fd, &e);
  return err ? -errno : 0;
}

static void wake(shunt__watch_t *w, int fd, uint32_t events) {
  for (shunt__watcher_t *o = w->waiting[fd], *next; o; o = next) {
    next = o->next;
    if (!(events & (o->events | ALWAYS))) continue;
    take_out(o);
    shunt__unpark(o->strand);
  }
  /* Should arming fail (closed meanwhile), they are to find out why. */
  if (w->waiting[fd] && arm(w, fd)) wake(w, fd, ALWAYS);
}

static void on_events(uv_poll_t *poll, int status, int readable) {
  shunt__watch_t *w = poll->data;
  struct epoll_event events[BATCH];
  (void)status;
  (void)readable;
  int n = epoll_wait(w->set, events, BATCH, 0); /* are there more, libuv calls again */
  for (int i = 0; i < n; i++) wake(w, events[i].data.fd, events[i].events);
}

static bool make_room(shunt__watch_t *w, size_t fd) {
  size_t room = w->room ? w->room : 64;
  if (fd < w->room) return true;
  while (room <= fd) room *= 2;
  shunt__watcher_t **waiting = calloc(room, sizeof *waiting);
  if (!waiting) return false;
  for (size_t i = 0; i < w->room; i++)
    if ((waiting[i] = w->waiting[i])) waiting[i]->at = &waiting[i];
  free(w->waiting);
  w->waiting = waiting;
  w->room = room;
  return true;
}

int shunt__watch_add(shunt__watch_t *w, int fd, shunt__watcher_t *me) {
  if (!make_room(w, (size_t)fd)) return UV_ENOMEM;
  link_in(w, fd, me);
  int err = arm(w, fd);
  /* EPERM: a file or the like, for which poll(2) has its answer at once; so whoever is here waits for what
   * it will never say. */
  if (!err || err == UV_EPERM) return 0;
  take_out(me);
  return err;
}

int shunt__watch_open(shunt__watch_t *w, uv_loop_t *uv) {
  if ((w->set = epoll_create1(EPOLL_CLOEXEC)) < 0) return -errno;
  int err = uv_poll_init(uv, &w->poll, w->set);
  if (!err) {
    w->poll.data = w;
    return uv_poll_start(&w->poll, UV_READABLE, on_events); /* never fails after the init */
  }
  close(w->set);
  return err;
}

void shunt__watch_close(shunt__watch_t *w) {
  free(w->waiting);
  close(w->set);
}
