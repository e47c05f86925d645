/* Waiting for a descriptor, and what to do where the system has no call that does not block. */
#include <config.h>

#include <errno.h>

#include "io.h"

#define GIVE_WAY 16 /* calls on the loop between two turns of others */

int shunt__io_enter(shunt__strand_t **s) {
  static _Thread_local unsigned calls;
  if (!(*s = shunt__strand())) return UV_ENOMEM;
  shunt__frame_t *f = (*s)->frame;
  int err = shunt__told(f);
  if (err || (*s)->ops->blocks || !f || ++calls % GIVE_WAY) return err;
  (*s)->ops->yield(*s);
  return shunt__told(f);
}

int shunt__io_look(int fd, int events) {
  struct pollfd p = {fd, (short)events, 0};
  if (fd < 0) return UV_EBADF; /* poll(2) would leave it out */
  int ready = shunt__poll(&p, 1, 0);
  return ready < 0 ? ready : p.revents & POLLNVAL ? UV_EBADF : p.revents;
}

int shunt__io_wait(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  int err = shunt__told(s->frame);
  if (err) return err;
  if (deadline != SHUNT__NEVER && shunt__now() >= deadline) return UV_ETIMEDOUT;
  return s->ops->wait_fd(s, fd, events, deadline);
}

int shunt__io_wait_for(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  int got, err;
  while (!(got = shunt__io_look(fd, events)))
    if ((err = shunt__io_wait(s, fd, events, deadline))) return err;
  return got;
}

#define IN_EVENTS (POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND | POLLRDHUP)
#define OUT_EVENTS (POLLOUT | POLLWRNORM | POLLWRBAND)

int shunt_wait_fd(int fd, int events, uint64_t timeout_ms) {
  shunt__strand_t *s;
  int err = shunt__io_enter(&s);
  if (!err && events & ~(IN_EVENTS | OUT_EVENTS | POLLERR | POLLHUP)) err = UV_EINVAL;
  return err ? err : shunt__io_wait_for(s, fd, events, timeout_ms ? shunt__deadline(timeout_ms) : 0);
}

/* ---- taking turns ---- */

/* By descriptor, so that a call that blocks after all holds up those of the same descriptor, which would
 * block as well, and hardly others. */
enum { LOCKS = 64 };
static pthread_mutex_t locks[LOCKS] = {[0 ... LOCKS - 1] = PTHREAD_MUTEX_INITIALIZER};

ssize_t shunt__io_in_turn(int fd, int events, shunt__io_call_t *call, void *arg) {
  pthread_mutex_t *lock = &locks[(unsigned)fd % LOCKS];
  pthread_mutex_lock(lock);
  ssize_t came = shunt__io_look(fd, events);
  if (came >= 0) came = came ? call(arg) : UV_EAGAIN;
  pthread_mutex_unlock(lock);
  return came;
}
