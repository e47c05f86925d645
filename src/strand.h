/* Strands: whatever can wait.
 *
 * A strand is a place of execution that may stop and be woken: a pthread, a fiber, the one thread of a worker process. The code
 * that waits (await.c, run.c) knows strands and not lanes, which is why the same call suspends a fiber and blocks a thread.
 *
 * Protocol. `word` is RUNNING, PARKED or NOTIFIED. Only the owner moves it to PARKED and back to RUNNING; anyone moves it to NOTIFIED.
 * A wake is a hint and never a message: shunt__park() may return for nothing, so every caller loops around the condition that it
 * waits for. A wake that comes before the park is kept (NOTIFIED), so none is lost.
 *
 * Safety. The waker may still hold the strand's address when its owner has long gone on, so strands are recycled and never freed: a late
 * wake hits another owner's word, and costs it one look at its condition. How a strand is woken never changes, not even when it is
 * recycled, as the waker of a thread learns it after the thread may have left. */
#ifndef SHUNT_STRAND_H
#define SHUNT_STRAND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { SHUNT__RUNNING, SHUNT__PARKED, SHUNT__NOTIFIED };

typedef struct shunt__strand shunt__strand_t;
typedef struct shunt__frame shunt__frame_t;

typedef struct {
  /* Stops the caller, whose word is PARKED, until the word changes or `deadline` passes; early returns are fine. 0, or why
   * this strand cannot wait. */
  int (*sleep)(shunt__strand_t *s, uint64_t deadline);
  void (*yield)(shunt__strand_t *s);
  enum { SHUNT__HELPS_NEVER, SHUNT__HELPS_JOINS, SHUNT__HELPS } helps; /* may run what it waits for on its own stack */
} shunt__strand_ops_t;

struct shunt__strand {
  _Atomic(uint32_t) word;
  /* Called once by whoever moved the word from PARKED to NOTIFIED; any thread. Never changes. */
  void (*wake)(shunt__strand_t *s);
  const shunt__strand_ops_t *ops; /* these and the rest: the owner's alone, and while it is PARKED the waker's */
  shunt__frame_t *frame; /* the innermost task running here */
  void *owner;           /* what the ops need to know: a pool worker, a loop */
  shunt__strand_t *next; /* in the list of strands at rest */
};

/* The calling thread's or fiber's strand, made on first use. NULL when there is no memory for one. */
shunt__strand_t *shunt__strand(void);

/* Is this a fiber? */
bool shunt__on_fiber(void);

/* The loop lane tells which fiber runs; NULL for none: the thread's own strand again. */
void shunt__strand_enter(shunt__strand_t *s);

/* A strand that is woken so, from the ones at rest if possible; and back to them. */
shunt__strand_t *shunt__strand_new(void (*wake)(shunt__strand_t *s), const shunt__strand_ops_t *ops, void *owner);
void shunt__strand_rest(shunt__strand_t *s);

/* Waits until woken, or until `deadline` (in shunt__now()'s time). 0, or an error when waiting is not possible here. */
int shunt__park(shunt__strand_t *s, uint64_t deadline);
void shunt__unpark(shunt__strand_t *s);

/* How a plain thread sleeps and yields: for strands that add something around it. */
int shunt__thread_sleep(shunt__strand_t *s, uint64_t deadline);
void shunt__thread_yield(shunt__strand_t *s);

/* CLOCK_MONOTONIC in nanoseconds; the time at which a call made now with this limit ends. */
uint64_t shunt__now(void);
uint64_t shunt__deadline(uint64_t timeout_ms);

#define SHUNT__NEVER UINT64_MAX

/* Futexes. `shared` when the word lies in memory that two processes map. Returns early at will. */
void shunt__futex_wait(_Atomic(uint32_t) *word, uint32_t value, uint64_t deadline, bool shared);
void shunt__futex_wake(_Atomic(uint32_t) *word, int count, bool shared);

#endif
