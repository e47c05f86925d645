/* What the calls of <shunt/io.h> have in common. Each is the same loop on every lane: is the task to end?
 * does it work without waiting? then wait, which is the strand's business, and again. */
#ifndef SHUNT_IO_IO_H
#define SHUNT_IO_IO_H

#include <shunt/io.h>

#include "../internal.h"
#include "../run.h"
#include "../strand.h"

/* How every call begins: which strand this is, and 0 or what the call is to return at once. Now and then
 * it lets other fibers run. */
int shunt__io_enter(shunt__strand_t **s);

/* Which of `events` are there? 0: none. Never waits. */
int shunt__io_look(int fd, int events);

/* Waits for `events` once, perhaps for nothing: then it is to be tried again. 0, or what the call is to
 * return. */
int shunt__io_wait(shunt__strand_t *s, int fd, int events, uint64_t deadline);

/* Both until there is one: it, or an error. */
int shunt__io_wait_for(shunt__strand_t *s, int fd, int events, uint64_t deadline);

/* For a call that knows no other way not to block: makes it if fd is ready, else UV_EAGAIN. Two of these
 * never take what the look showed from each other; somebody else's call might, and then this one blocks
 * like any plain call. */
typedef ssize_t shunt__io_call_t(void *arg);
ssize_t shunt__io_in_turn(int fd, int events, shunt__io_call_t *call, void *arg);

/* fn(arg) where it may block: a thread does it, or the caller when it is one. As shunt_blocking(), after
 * its beginning. */
int shunt__io_block(shunt__strand_t *s, shunt_fn fn, void *arg, void **result);

/* The thread's part of that: a task that is a part of the running one. `argument`, if not NULL, is dropped
 * when the function is through with it. NULL: no memory. */
shunt_task_t *shunt__io_offload(shunt__strand_t *s, shunt_fn fn, void *arg, shunt__block_t *argument);

/* One read or write. */
typedef struct {
  int fd;
  bool out;
  void *buf;
  size_t n;
  off_t at;     /* -1: at the descriptor's position, if it has one */
  ssize_t came; /* what came of it: bytes, or an error */
} shunt__move_t;

/* Of anything but a socket: as far as it does not block (UV_EAGAIN; UV_ENOTSUP: nobody can tell); by the
 * plain call; and of a file, which has nothing to wait for, as a whole. */
ssize_t shunt__io_move_now(const shunt__move_t *m);
ssize_t shunt__io_move_plainly(const shunt__move_t *m);
ssize_t shunt__io_move_file(shunt__strand_t *s, shunt__move_t *m);

#endif
