/* Strands: whatever can wait.
 *
 * A strand is a place of execution that may stop and be woken: a pthread, a fiber, the one thread of a worker
 * process. The code that waits (await.c, run.c) knows strands and not lanes, which is why the same call
 * suspends a fiber and blocks a thread.
 *
 * Protocol. `word` is RUNNING, PARKED, POLLING or NOTIFIED. Only the owner moves it to PARKED or POLLING and
 * back to RUNNING; anyone moves it to NOTIFIED. A wake is a hint and never a message: shunt__park() may
 * return for nothing, so every caller loops around the condition that it waits for. A wake that comes before
 * the park is kept (NOTIFIED), so none is lost.
 *
 * Safety. The waker may still hold the strand's address when its owner has long gone on, so strands are
 * recycled and never freed: a late wake hits another owner's word, and costs it one look at its condition.
 * How a strand is woken never changes, not even when it is recycled, as the waker of a thread learns it after
 * the thread may have left.
 *
 * POLLING is a thread in poll(2), on a descriptor and on `bell`, an eventfd of its own. Here no waker may be
 * late, as the descriptor will be closed: whoever moves POLLING to NOTIFIED writes the bell once, and an
 * owner that finds NOTIFIED stays until it has read that. */
#ifndef SHUNT_STRAND_H
#define SHUNT_STRAND_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { SHUNT__RUNNING, SHUNT__PARKED, SHUNT__POLLING, SHUNT__NOTIFIED };

struct pollfd;

typedef struct shunt__strand shunt__strand_t;
typedef struct shunt__frame shunt__frame_t;

typedef struct {
  /* Stops the caller, whose word is PARKED, until the word changes or `deadline` passes; early returns are
   * fine. 0, or why this strand cannot wait. */
  int (*sleep)(shunt__strand_t *s, uint64_t deadline);
  /* Parks as shunt__park() does, and returns, too, when one of poll(2)'s `events` may be there on fd, which
   * is not negative. As early returns are fine, the caller asks the descriptor itself. 0, UV_EBADF, or why
   * this strand cannot wait. */
  int (*wait_fd)(shunt__strand_t *s, int fd, int events, uint64_t deadline);
  void (*yield)(shunt__strand_t *s);
  /* may run what it waits for on its own stack */
  enum { SHUNT__HELPS_NEVER, SHUNT__HELPS_JOINS, SHUNT__HELPS } helps;
  bool blocks; /* may hold up its thread in a call that blocks: nobody else runs there */
} shunt__strand_ops_t;

struct shunt__strand {
  _Atomic(uint32_t) word;
  /* Called once by whoever moved the word from PARKED to NOTIFIED; any thread. Never changes. */
  void (*wake)(shunt__strand_t *s);
  const shunt__strand_ops_t *ops; /* these and the rest: the owner's alone, and while it is PARKED the
                                     waker's */
  shunt__frame_t *frame; /* the innermost task running here */
  void *owner;           /* what the ops need to know: a pool worker, a loop */
  int bell;              /* eventfd, made when a thread first polls, closed when the strand rests; -1: none */
  shunt__strand_t *next; /* in the list of strands at rest */
};

/* The calling thread's or fiber's strand, made on first use. NULL when there is no memory for one. */
shunt__strand_t *shunt__strand(void);

/* Is this a fiber? */
bool shunt__on_fiber(void);

/* The loop lane tells which fiber runs; NULL for none: the thread's own strand again. */
void shunt__strand_enter(shunt__strand_t *s);

/* A strand that is woken so, from the ones at rest if possible; and back to them. */
shunt__strand_t *shunt__strand_new(void (*wake)(shunt__strand_t *s), const shunt__strand_ops_t *ops,
                                   void *owner);
void shunt__strand_rest(shunt__strand_t *s);

/* Waits until woken, or until `deadline` (in shunt__now()'s time). 0, or an error when waiting is not
 * possible here. */
int shunt__park(shunt__strand_t *s, uint64_t deadline);
void shunt__unpark(shunt__strand_t *s);

/* How a plain thread sleeps, waits and yields: for strands that add something around it. */
int shunt__thread_sleep(shunt__strand_t *s, uint64_t deadline);
int shunt__thread_wait_fd(shunt__strand_t *s, int fd, int events, uint64_t deadline);
void shunt__thread_yield(shunt__strand_t *s);

/* The calling thread's own strand is a plain thread's again. */
void shunt__strand_plain(void);

/* Is half of the calling thread's stack still free? */
bool shunt__stack_left(void);

/* A thread to which the system delivers no signal: the program's signals are for the program's threads. A
 * positive error number. */
int shunt__thread_create(pthread_t *thread, void *(*fn)(void *), void *arg);

/* CLOCK_MONOTONIC in nanoseconds; the time at which a call made now with this limit ends. */
uint64_t shunt__now(void);
uint64_t shunt__deadline(uint64_t timeout_ms);

#define SHUNT__NEVER UINT64_MAX

/* poll(2) until `deadline`: how many are ready, 0 also when a signal came between, or an error. */
int shunt__poll(struct pollfd *fds, unsigned n, uint64_t deadline);

/* Futexes. `shared` when the word lies in memory that two processes map. Returns early at will. */
void shunt__futex_wait(_Atomic(uint32_t) *word, uint32_t value, uint64_t deadline, bool shared);
void shunt__futex_wake(_Atomic(uint32_t) *word, int count, bool shared);

#endif
