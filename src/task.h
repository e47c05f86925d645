/* The handle: one submitted call, from submit to the last release. Knows strands, knows no lane.
 *
 * State. `state` holds a phase and two flags; `waiters` holds the list of those who wait, and says when it is
 * over:
 *
 *     QUEUED ──claim──▶ RUNNING ──▶ SETTLING        waiters: list ──▶ SETTLED
 *        └────────withdraw / settle───▶┘
 *
 * Each arrow into SETTLING is one compare-and-swap, so exactly one party takes it; that party alone writes
 * the outcome (status, result, message, …) and then swings `waiters` to SETTLED. Everybody else reads the
 * outcome only after seeing SETTLED there.
 *
 *     field                         written by                         read by
 *     fn … name, deadline           submit, before the push            anyone
 *     arg                           submit; the runner's to change     the runner
 *     strand, started, ran, …       the runner (atomics, relaxed)      anyone, as hints
 *     outcome                       whoever took SETTLING              anyone, after SETTLED
 *     next, at, home                the lane, under its own lock       the lane
 *
 * References. Submit makes two: the caller's and the run's. The lane drops the run's, with shunt__run_over(),
 * when it is through with the task: after it settled, and for a by-value task perhaps long after (it settles
 * at its deadline). */
#ifndef SHUNT_TASK_H
#define SHUNT_TASK_H

#include <shunt.h>
#include <stdatomic.h>

#include "alarm.h"
#include "reactor.h"
#include "strand.h"

/* Result bytes: on the heap, or in a worker's shared memory. `drop` frees them and the block. */
typedef struct shunt__block shunt__block_t;
struct shunt__block {
  shunt__block_t *next;
  void *data;
  size_t size;
  void (*drop)(shunt__block_t *b);
};

shunt__block_t *shunt__heap_block(size_t size);

/* What came of a task. Pointers in it are owned by whoever holds the outcome. */
typedef struct {
  int status;
  void *result;          /* by reference: what the function returned */
  shunt__block_t *block; /* by value: its bytes, or NULL for none */
  char *message;
  pid_t pid;
  int signal, exit_status;
} shunt__outcome_t;

enum { SHUNT__QUEUED, SHUNT__STARTED, SHUNT__SETTLING, SHUNT__PHASE = 3, SHUNT__CANCEL = 4, SHUNT__LATE = 8 };

typedef struct shunt__lane_ops shunt__lane_ops_t;

struct shunt_task {
  _Atomic(uint32_t) state;
  _Atomic(uint32_t) refs;
  _Atomic(uintptr_t) waiters;
  _Atomic(bool) observed; /* somebody asked how it ended */
  _Atomic(bool) resumed;  /* by shunt_resume, and not yet taken by shunt_suspend */
  bool by_value;
  uint8_t kind, flags;
  _Atomic(uint8_t) lane, attempts;
  shunt_t *rt;
  _Atomic(const shunt__lane_ops_t *) ops; /* its lane's; of a task that follows another, `follow.c`'s until
                                             it is pushed */
  shunt_fn fn;
  void *arg;
  size_t arg_size;
  shunt__block_t *arg_block; /* where arg lies when it lies elsewhere than behind this struct */
  const char *reason;
  char *name;
  shunt__alarm_t alarm; /* the deadline, when there is one */

  uint64_t bound; /* the deadline of the scope that it or its submitter is in, which it passes on; 0: none */

  _Atomic(shunt__strand_t *) strand; /* where it runs, so that a cancel can wake it */
  _Atomic(uint32_t) *asked;          /* where SHUNT__CANCEL and SHUNT__LATE appear: `state`; in a worker,
                                        memory shared with the parent */
  _Atomic(uint64_t) submitted, started, ran, cpu;

  shunt_task_t *next, **at; /* in a lane's queue; `at` is the link that points here */
  shunt_task_t *live_next, **live_at; /* under the shard's lock, see live.c */
  uint32_t shard;
  shunt__post_t post;
  void *home;
  _Atomic(int) fd; /* of shunt_task_fd, plus one; 0: none */

  shunt__outcome_t outcome;
};

/* A task with two references, QUEUED, for the lane that `options` names. By value copies the argument. NULL:
 * no memory. */
shunt_task_t *shunt__task_new(shunt_t *rt, shunt_fn fn, const void *arg, const shunt_task_options_t *options);

/* One whose argument comes later, by value, and that time. False: no memory. */
shunt_task_t *shunt__task_new_empty(shunt_t *rt, shunt_fn fn, const shunt_task_options_t *options);
bool shunt__task_fill(shunt_task_t *t, const void *arg, size_t size);

/* The runner's right to run it. False: it was withdrawn. */
bool shunt__claim(shunt_task_t *t, shunt__strand_t *s);

/* A handle that has settled from the start: with `status`, and message if not NULL (which it takes over).
 * Never NULL. */
shunt_task_t *shunt__task_refused(shunt_t *rt, bool by_value, int status, char *message);

/* A started process task goes back to the queue (its worker died before or under it, and it may run
 * again). */
void shunt__unclaim(shunt_task_t *t);

/* Settles t if it has not started. False: it has, or has settled. */
bool shunt__withdraw(shunt_task_t *t, int status);

/* Settles t unless somebody else has. Takes over what the outcome owns either way. */
bool shunt__settle(shunt_task_t *t, shunt__outcome_t outcome);
bool shunt__settle_error(shunt_task_t *t, int status, const char *format, ...) SHUNT_PRINTF(3, 4);

/* Drops the run's reference. The last thing that a lane does with a task. */
void shunt__run_over(shunt_task_t *t);

/* Asks a started task to end: `flag` is SHUNT__CANCEL or SHUNT__LATE. False: it had not started, or had
 * settled. */
bool shunt__ask(shunt_task_t *t, uint32_t flag);

bool shunt__settled(const shunt_task_t *t);
static inline uint32_t shunt__phase(uint32_t state) { return state & SHUNT__PHASE; }

/* One who waits for t. `wake` is called once when t settles, by whoever settled it, and is the last use of
 * w. */
typedef struct shunt__waiter shunt__waiter_t;
struct shunt__waiter {
  shunt__waiter_t *next;
  void (*wake)(shunt__waiter_t *w);
};

/* False: t has settled already, and w was not added. */
bool shunt__waiter_add(shunt_task_t *t, shunt__waiter_t *w);

/* False: too late, t has settled and w is being woken. */
bool shunt__waiter_remove(shunt_task_t *t, shunt__waiter_t *w);

#endif
