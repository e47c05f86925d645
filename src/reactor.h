/* The reactor: the runtime's libuv loop, the thread that runs it, and the inbox through which other threads
 * reach it.
 *
 * It knows nothing of tasks. The loop lane runs its fibers there, the process lane watches its descriptors
 * there, deadlines have their timer there. */
#ifndef SHUNT_REACTOR_H
#define SHUNT_REACTOR_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <uv.h>

/* Something to be done on the loop's thread. Lies inside what it is about; may be posted again once fire()
 * has begun. */
typedef struct shunt__post shunt__post_t;
struct shunt__post {
  shunt__post_t *next;
  shunt__post_t **at; /* for whoever queues it further: the link that points here */
  void (*fire)(shunt__post_t *p);
};

typedef struct {
  uv_loop_t loop;
  uv_async_t async;
  pthread_t thread;
  _Atomic(shunt__post_t *) inbox; /* newest first; anyone pushes, the loop's thread takes all */
  shunt__post_t ending;
  bool ran;                  /* there is, or was, a thread */
  bool ended;                /* the loop's thread only */
  _Atomic(uint32_t) running; /* futex: 1 while a thread is in uv_run */
} shunt__reactor_t;

/* Makes the loop, and starts the thread that runs it. 0, or what libuv or pthread_create said. */
int shunt__reactor_open(shunt__reactor_t *r);
int shunt__reactor_run(shunt__reactor_t *r);

/* Queues p for the loop's thread, in order of posting for each poster. Any thread. */
void shunt__post(shunt__reactor_t *r, shunt__post_t *p);

bool shunt__on_reactor(const shunt__reactor_t *r);

/* Closes every handle on the loop, which ends its thread, and waits for that until `deadline`. False: the
 * thread is stuck in some callback; it is left behind with the loop, whose memory must stay. After true, what
 * the handles lay in may be freed. */
bool shunt__reactor_close(shunt__reactor_t *r, uint64_t deadline);

#endif
