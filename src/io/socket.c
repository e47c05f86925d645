/* Accept and connect: calls that the system has no way to make without waiting, but by a flag of the
 * socket that is the caller's. */
#include <config.h>

#include <errno.h>
#include <fcntl.h>

#include "io.h"

/* ---- accept ---- */

typedef struct {
  int fd;
  struct sockaddr *address;
  socklen_t *size;
} accepting_t;

static ssize_t accept_it(void *arg) {
  accepting_t *a = arg;
  int fd = accept4(a->fd, a->address, a->size, SOCK_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

/* Else waiting for connections would be in vain, and what comes not one. */
static int check_listens(int fd) {
  int listens;
  socklen_t size = sizeof listens;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size)) return -errno;
  return listens ? 0 : UV_EINVAL;
}

int shunt_accept(int fd, struct sockaddr *address, socklen_t *size) {
  accepting_t a = {fd, address, size};
  shunt__strand_t *s;
  int err = shunt__io_enter(&s);
  if (!err) err = check_listens(fd);
  while (!err) {
    ssize_t came = shunt__io_in_turn(fd, POLLIN, accept_it, &a);
    if (came == UV_EAGAIN || came == UV_EINTR)
      err = shunt__io_wait(s, fd, POLLIN, SHUNT__NEVER);
    else if (came != UV_ECONNABORTED) /* it went while it stood in line */
      return (int)came;
  }
  return err;
}

/* ---- connect ---- */

/* Nobody else has a use for a socket that is not connected, so its O_NONBLOCK can be borrowed for the
 * length of a call. */
static int begin(int fd, const struct sockaddr *address, socklen_t size) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return -errno;
  bool borrow = !(flags & O_NONBLOCK);
  if (borrow && fcntl(fd, F_SETFL, flags | O_NONBLOCK)) return -errno;
  int err = connect(fd, address, size) ? -errno : 0;
  if (borrow) fcntl(fd, F_SETFL, flags);
  return err;
}

static int outcome_of(int fd) {
  int err;
  socklen_t size = sizeof err;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) ? -errno : -err;
}

int shunt_connect(int fd, const struct sockaddr *address, socklen_t size) {
  shunt__strand_t *s;
  int err = shunt__io_enter(&s);
  if (err) return err;
  err = begin(fd, address, size);
  if (err != -EINPROGRESS && err != UV_EALREADY) return err; /* already: after a call that was cancelled */
  int ready = shunt__io_wait_for(s, fd, POLLOUT, SHUNT__NEVER);
  return ready < 0 ? ready : outcome_of(fd);
}
