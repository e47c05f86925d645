/* The line at a channel, a mutex, a semaphore or an event: who waits there, first come, first served.
 *
 * Promises: strict order. What becomes free goes to the first in line, handed over by whoever frees it
 * in the same step. So nobody who comes later can have it, and nobody is woken only to find that
 * somebody else was faster.
 *
 * Operation: one lock for each object. A call that need not wait does its business under it. One that
 * must wait puts a node, which lies on its own stack, at the end of the line, gives the lock back and
 * parks. Whoever has something for it takes the node out of the line, does the waiter's business for
 * it, writes down the outcome and wakes it.
 *
 * Safety: the outcome is the node's last word. It is written under the lock, last of all (release), and
 * once the waiter has seen it (acquire) it leaves without the lock, its stack being its own again. A
 * waiter that leaves for another reason, its limit or a cancel, takes its node out itself, under the
 * lock and only if nothing was handed to it; else it keeps that, and its call succeeds. A wake touches
 * the strand alone, and strands are never freed. The lock is held for a few instructions and the copy
 * of an element, never across a park; no other lock is taken under it. */
#ifndef SHUNT_SYNC_LINE_H
#define SHUNT_SYNC_LINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../strand.h"

typedef struct shunt__waiting shunt__waiting_t;
struct shunt__waiting {
  shunt__waiting_t *next, **at; /* under the lock; `at` is the link that points here */
  shunt__strand_t *strand;
  void *with; /* what the one who hands must know: where the element lies, who is to be the owner */
  _Atomic(int) outcome;
};

typedef struct {
  pthread_mutex_t lock; /* for everything in the object */
  shunt__waiting_t *first, **end;
  bool in_worker; /* it was made in a worker process, and is that one's alone */
} shunt__line_t;

void shunt__line_open(shunt__line_t *l);

/* Takes the lock. UV_EPERM: the object is another process's. */
int shunt__line_lock(shunt__line_t *l);

/* The same for a call that may wait: first tells the caller if its task should end. *s is its strand. */
int shunt__line_enter(shunt__line_t *l, shunt__strand_t **s);

/* Gives the lock back and then wakes `next`, unless it is NULL. In this order it finds the lock free. */
void shunt__line_unlock(shunt__line_t *l, shunt__strand_t *next);

/* Stands in line until something is handed over, and returns that outcome; or why it left. Gives the lock
 * back. */
int shunt__line_wait(shunt__line_t *l, shunt__strand_t *s, void *with, uint64_t timeout_ms);

/* Under the lock: the first in line leaves with this outcome. Returns its strand, for the caller to wake. */
shunt__strand_t *shunt__line_hand(shunt__line_t *l, int outcome);

/* Gives the lock back. 0: for good, the object can be freed. UV_EBUSY: it is in use, or somebody waits. */
int shunt__line_close(shunt__line_t *l, bool in_use);

#endif
