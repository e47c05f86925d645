/* Descriptors that fibers wait for: an epoll set of our own, inside libuv's.
 *
 * libuv's own poll handles do not suit: one descriptor may have only one, and libuv aborts when a
 * descriptor is closed under it. Here any number of fibers may wait on one descriptor, and closing it is
 * at worst a wait that nobody ends. libuv watches the set as a whole, by one handle.
 *
 * Everything here belongs to the loop's thread. */
#ifndef SHUNT_LOOP_WATCH_H
#define SHUNT_LOOP_WATCH_H

#include <uv.h>

#include "../strand.h"

/* One who waits, on the waiter's stack. */
typedef struct shunt__watcher shunt__watcher_t;
struct shunt__watcher {
  shunt__watcher_t *next, **at; /* among those of one descriptor; `at` is NULL once it is woken */
  shunt__strand_t *strand;
  uint32_t events;
};

typedef struct {
  int set;
  uv_poll_t poll;
  shunt__watcher_t **waiting; /* by descriptor */
  size_t room;
} shunt__watch_t;

/* 0, or an error, with nothing left behind. To be closed when the loop has ended. */
int shunt__watch_open(shunt__watch_t *w, uv_loop_t *uv);
void shunt__watch_close(shunt__watch_t *w);

/* me->strand is woken once, when me->events (poll(2)'s) may be there on fd, or an error or a hang-up. It
 * is to be taken out before *me goes, woken or not. 0, UV_EBADF, or why it could not be added. */
int shunt__watch_add(shunt__watch_t *w, int fd, shunt__watcher_t *me);
void shunt__watch_remove(shunt__watcher_t *me);

#endif
