/* The runtime, as the rooms of the house see it. */
#ifndef SHUNT_INTERNAL_H
#define SHUNT_INTERNAL_H

#include <shunt.h>
#include <stdatomic.h>

#include "alarm.h"
#include "reactor.h"
#include "task.h"

/* Arguments up to this size lie in the task itself, and travel to a worker in the ring's slot. */
#define SHUNT__ARG_INLINE 160

#define SHUNT__GRACE_MS 100 /* from a cancel to the kill */

enum { SHUNT__OPEN, SHUNT__CLOSING, SHUNT__CLOSED };
enum { SHUNT__LANES = 4 }; /* indexed by shunt_lane_t */
enum { SHUNT__SHARDS = 8 };

/* A runtime outlives its stop as this struct alone: a submit that comes too late, and a handle released late,
 * find a closed door and not freed memory. */
struct shunt {
  shunt_options_t options; /* defaults filled in */
  shunt_t *next;           /* all there ever were, so that a leak checker can reach them */

  _Atomic(uint32_t) door; /* OPEN → CLOSING → CLOSED */
  _Atomic(uint32_t) in_flight; /* futex: runs not over. submit raises it, then looks at the door; stop
                                  shuts the door, then waits for 0 */
  _Atomic(size_t) pending; /* tasks accepted and not started */
  bool worker;             /* this is the view from inside a worker process */

  struct { /* those who wait for `pending` to fall */
    pthread_mutex_t lock;
    struct shunt__room_waiter *first;
    _Atomic(uint32_t) count;
  } room;

  struct { /* every task that has not settled, for stop to find. A task stays in the shard that took it in */
    _Alignas(64) _Atomic(bool) busy;
    shunt_task_t *first;
  } alive[SHUNT__SHARDS];

  struct { /* tasks with a deadline. Lock order: this lock is innermost */
    pthread_mutex_t lock;
    shunt__alarms_t alarms;
    uv_timer_t timer;
    shunt__post_t rearm; /* posted when the earliest changed */
    bool posted;
  } deadlines;

  shunt__reactor_t *reactor;
  void *lanes[SHUNT__LANES];
  const shunt__lane_ops_t *ops[SHUNT__LANES];

  /* Room for a result: on the heap, or in the worker's shared memory. */
  shunt__block_t *(*make_result)(shunt_t *rt, size_t size);
};

/* admit.c: a place among the tasks in flight. Pending falls when a task starts or is withdrawn, in_flight
 * when its run is over. */
int shunt__admit(shunt_t *rt, bool wait);
void shunt__less_pending(shunt_t *rt);
void shunt__more_pending(shunt_t *rt);
void shunt__less_in_flight(shunt_t *rt);
bool shunt__drained(shunt_t *rt, uint64_t deadline); /* waits until nothing is in flight */
void shunt__wake_room(shunt_t *rt);                  /* those who wait to be admitted look at the door */

int shunt__stay(shunt_t *rt); /* in flight, and nothing more: 0 or SHUNT_ECLOSED */

/* The same for a call about a task that has not settled: look at that again afterwards, and the lanes are
 * there until shunt__less_in_flight. */
static inline void shunt__hold(shunt_t *rt) { atomic_fetch_add(&rt->in_flight, 1); }

/* await.c: waits until t has settled; a cancel of the waiting task is passed on to t. 0, or why it could not
 * wait. */
int shunt__wait_to_end(shunt_task_t *t);

/* The same, but it returns UV_ECANCELED once the waiting task is asked to end. */
int shunt__wait_until_asked(shunt_task_t *t);

/* The earlier of two deadlines, of which 0 is none. */
static inline uint64_t shunt__earlier(uint64_t a, uint64_t b) { return !a || (b && b < a) ? b : a; }

/* live.c: the tasks that have not settled. `visit` is called for each there is, with a reference held; false:
 * there was none. */
void shunt__live_add(shunt_task_t *t);
void shunt__live_remove(shunt_task_t *t);
bool shunt__live_each(shunt_t *rt, void (*visit)(shunt_task_t *t));

/* deadline.c: t->alarm.when is set. Forget is for settling: a no-op unless the alarm is still set. */
int shunt__deadlines_open(shunt_t *rt);
int shunt__deadline_watch(shunt_task_t *t);
void shunt__deadline_forget(shunt_task_t *t);
void shunt__deadlines_close(shunt_t *rt);

/* Arms a timer for a time of shunt__now(), or stops it for SHUNT__NEVER. The loop's thread. */
void shunt__timer_at(uv_timer_t *timer, uv_timer_cb cb, uint64_t when);

/* shunt.c: shunt_submit, with the deadline that the submitter passes on (0: none). */
shunt_task_t *shunt__submit(shunt_t *rt, shunt_fn fn, const void *arg, const shunt_task_options_t *options,
                            uint64_t bound);

/* symbol.c: a function in words, for messages. */
void shunt__symbol(shunt_fn fn, char *buf, size_t size);

#endif
