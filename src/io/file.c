/* Files, and whatever else may block: done by a thread while the fiber waits.
 *
 * The thread's part is a task like any other, but it belongs to the one that waits: it is not refused when
 * the runtime stops, as the other was let in, and what cancels the other cancels it. The fiber joins it,
 * so the thread may use what lies on the fiber's stack. */
#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../lane.h"
#include "io.h"

#define FEW (1 << 18)

shunt_task_t *shunt__io_offload(shunt__strand_t *s, shunt_fn fn, void *arg, shunt__block_t *argument) {
  shunt_t *rt = s->frame->task->rt;
  shunt_task_options_t options = {.kind = SHUNT_BLOCKING, .lane = SHUNT_LANE_THREAD};
  shunt_task_t *t = shunt__task_new(rt, fn, arg, &options);
  if (!t) return NULL;
  t->reason = "a part of a task on the loop that may block";
  t->arg_block = argument;
  shunt__hold(rt); /* no look at the door: stop waits for the task that this one is a part of */
  shunt__more_pending(rt);
  shunt__live_add(t);
  atomic_load(&t->ops)->push(t);
  return t;
}

int shunt__io_block(shunt__strand_t *s, shunt_fn fn, void *arg, void **result) {
  if (s->ops->blocks) {
    *result = fn(arg);
    return 0;
  }
  if (!s->frame) return SHUNT_EDEADLK;
  shunt_task_t *t = shunt__io_offload(s, fn, arg, NULL);
  int err = t ? shunt_join(t, result) : UV_ENOMEM;
  int told = err == UV_ECANCELED ? shunt__told(s->frame) : 0;
  return told ? told : err; /* it may have been a deadline that cancelled our part */
}

int shunt_blocking(shunt_fn fn, void *arg, void **result) {
  shunt__strand_t *s;
  void *returned = NULL;
  int err = shunt__io_enter(&s);
  if (!err) err = shunt__io_block(s, fn, arg, &returned);
  if (result) *result = returned;
  return err;
}

/* ---- reading and writing ---- */

ssize_t shunt__io_move_now(const shunt__move_t *m) {
  struct iovec v = {m->buf, m->n};
  ssize_t n = m->out ? pwritev2(m->fd, &v, 1, m->at, RWF_NOWAIT) : preadv2(m->fd, &v, 1, m->at, RWF_NOWAIT);
  return n < 0 ? -errno : n;
}

ssize_t shunt__io_move_plainly(const shunt__move_t *m) {
  ssize_t n;
  do {
    if (m->at >= 0)
      n = m->out ? pwrite(m->fd, m->buf, m->n, m->at) : pread(m->fd, m->buf, m->n, m->at);
    else
      n = m->out ? write(m->fd, m->buf, m->n) : read(m->fd, m->buf, m->n);
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : n;
}

static void *move(void *arg) {
  shunt__move_t *m = arg;
  m->came = shunt__io_move_plainly(m);
  return NULL;
}

/* Whatever is in memory, at once. True: that was all. The end of the file and the end of what is in memory
 * look alike, so it goes on until one of the two is plain. */
static bool move_from_memory(shunt__move_t *m) {
  ssize_t n;
  do {
    if ((n = shunt__io_move_now(m)) <= 0) break;
    m->buf = (char *)m->buf + n;
    m->n -= (size_t)n;
    if (m->at >= 0) m->at += n;
  } while (m->n);
  return n >= 0;
}

/* On the loop, few bytes that are in memory cost less than a thread's attention; many would hold up the
 * others. */
ssize_t shunt__io_move_file(shunt__strand_t *s, shunt__move_t *m) {
  size_t all = m->n;
  void *nothing;
  if (!s->ops->blocks && all <= FEW && move_from_memory(m)) return (ssize_t)(all - m->n);
  ssize_t done = (ssize_t)(all - m->n);
  int err = shunt__io_block(s, move, m, &nothing);
  if (!err && m->came >= 0) return done + m->came;
  return done ? done : err ? err : m->came;
}

static ssize_t move_at(shunt__move_t m) {
  shunt__strand_t *s;
  int err = shunt__io_enter(&s);
  if (!err && m.at < 0) err = UV_EINVAL;
  return err ? err : shunt__io_move_file(s, &m);
}

ssize_t shunt_pread(int fd, void *buf, size_t n, off_t offset) {
  return move_at((shunt__move_t){.fd = fd, .buf = buf, .n = n, .at = offset});
}

ssize_t shunt_pwrite(int fd, const void *buf, size_t n, off_t offset) {
  return move_at((shunt__move_t){.fd = fd, .out = true, .buf = (void *)(uintptr_t)buf, .n = n, .at = offset});
}

/* ---- open and sync ---- */

typedef struct {
  const char *path;
  int fd, flags;
  mode_t mode;
} opening_t;

static void *open_it(void *arg) {
  opening_t *o = arg;
  do o->fd = open(o->path, o->flags | O_CLOEXEC, o->mode);
  while (o->fd < 0 && errno == EINTR);
  if (o->fd < 0) o->fd = -errno;
  return NULL;
}

int shunt_open(const char *path, int flags, mode_t mode) {
  opening_t o = {.path = path, .flags = flags, .mode = mode};
  int err = shunt_blocking(open_it, &o, NULL);
  return err ? err : o.fd;
}

static void *sync_it(void *arg) {
  int *fd = arg;
  *fd = fsync(*fd) ? -errno : 0;
  return NULL;
}

int shunt_fsync(int fd) {
  int err = shunt_blocking(sync_it, &fd, NULL);
  return err ? err : fd;
}
