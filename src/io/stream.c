/* Reading and writing whatever has a descriptor.
 *
 * Tried first is always a call that cannot block: on a socket with MSG_DONTWAIT, on anything else with
 * RWF_NOWAIT. So the caller's O_NONBLOCK does not matter, and what is there already costs no wait. Where a
 * kind of file has no such call (terminals; pipes before Linux 6.4) the plain one is made when poll(2)
 * says that the descriptor is ready. */
#include <config.h>

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io.h"

static ssize_t over_socket(const shunt__move_t *m) {
  ssize_t n = m->out ? send(m->fd, m->buf, m->n, MSG_DONTWAIT | MSG_NOSIGNAL)
                     : recv(m->fd, m->buf, m->n, MSG_DONTWAIT);
  return n < 0 ? -errno : n;
}

/* A write to a pipe that nobody reads raises SIGPIPE, for which there is no flag as with sockets. A signal
 * of the thread's own that was not blocked cannot have been pending before, so the one that is now is ours
 * to take back. */
static ssize_t quietly(shunt__io_call_t *call, shunt__move_t *m) {
  sigset_t broken_pipe, old;
  if (!m->out) return call(m);
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &broken_pipe, &old);
  ssize_t n = call(m);
  if (sigismember(&old, SIGPIPE)) return n;
  if (n == UV_EPIPE) sigtimedwait(&broken_pipe, NULL, &(struct timespec){0, 0});
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return n;
}

static ssize_t move_now(void *m) { return shunt__io_move_now(m); }
static ssize_t move_plainly(void *m) { return shunt__io_move_plainly(m); }

/* The plain call may block here when somebody else has read what we saw, or filled the pipe, without
 * taking turns with us. A pipe that is ready has room for PIPE_BUF bytes; a terminal may stop in the
 * middle of them. */
static ssize_t move_in_turn(void *arg) {
  shunt__move_t *m = arg;
  if (m->out && m->n > PIPE_BUF) m->n = PIPE_BUF;
  return shunt__io_in_turn(m->fd, m->out ? POLLOUT : POLLIN, move_plainly, m);
}

static bool is_file(int fd) {
  struct stat st;
  return !fstat(fd, &st) && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode));
}

/* False: it has to wait. Else *n is what came of it. */
static bool try(shunt__strand_t *s, shunt__move_t m, ssize_t *n) {
  *n = m.n ? over_socket(&m) : UV_ENOTSOCK; /* to read nothing from a socket is no reason to wait */
  if (*n != UV_ENOTSOCK) return *n != UV_EAGAIN;
  if (is_file(m.fd)) {
    *n = shunt__io_move_file(s, &m);
    return true;
  }
  *n = quietly(move_now, &m);
  if (*n == UV_ENOTSUP) *n = quietly(move_in_turn, &m);
  return *n != UV_EAGAIN;
}

static ssize_t move(shunt__move_t m) {
  shunt__strand_t *s;
  int err = shunt__io_enter(&s);
  ssize_t n = 0;
  while (!err && !try(s, m, &n)) err = shunt__io_wait(s, m.fd, m.out ? POLLOUT : POLLIN, SHUNT__NEVER);
  return err ? err : n;
}

ssize_t shunt_read(int fd, void *buf, size_t n) {
  return move((shunt__move_t){.fd = fd, .buf = buf, .n = n, .at = -1});
}

ssize_t shunt_write(int fd, const void *buf, size_t n) {
  return move((shunt__move_t){.fd = fd, .out = true, .buf = (void *)(uintptr_t)buf, .n = n, .at = -1});
}

int shunt_write_all(int fd, const void *buf, size_t n) {
  for (size_t done = 0; done < n;) {
    ssize_t more = shunt_write(fd, (const char *)buf + done, n - done);
    if (more <= 0) return more < 0 ? (int)more : UV_EIO; /* it takes nothing, and does not say why */
    done += (size_t)more;
  }
  return 0;
}
