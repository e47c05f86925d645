/* The process lane's state in the parent, shared by its files: process.c (what the lane promises), crew.c
 * (the workers: spawn, feed, bury), link.c (messages from and to a worker). Everything here is under `lock`,
 * but for what says otherwise.
 *
 * Lock order: while `lock` is held, `arguments.lock` may be taken, and the runtime's room lock (by a claim),
 * and nothing else. No task is settled, and no user code runs, under it. A worker can hold neither: they are
 * the parent's own. */
#ifndef SHUNT_PROCESS_H
#define SHUNT_PROCESS_H

#include <pthread.h>

#include "../internal.h"
#include "../lane.h"
#include "arena.h"
#include "ring.h"
#include "zygote.h"

typedef struct shunt__crew shunt__crew_t;
typedef struct shunt__hand shunt__hand_t;

/* A worker's region, mapped here as long as the worker lives or a handle holds a result in it. */
typedef struct {
  _Atomic(uint32_t) refs;
  shunt__link_t *link;
  uint64_t size;
} shunt__region_t;

/* A task that a worker submitted, until the worker has been told how it ended. */
typedef struct shunt__nested {
  shunt__waiter_t waiter; /* first */
  shunt__crew_t *crew;
  shunt__hand_t *hand; /* NULL: that worker has died */
  struct shunt__nested *next, **at; /* in the hand's `nested`, or its `owed` once it has settled */
  uint64_t cookie;
  uint32_t run;       /* by which of the worker's runs */
  shunt_task_t *task; /* a reference */
} shunt__nested_t;

/* One worker, seen from the parent. Made under the lock by any thread; freed by the loop's thread. */
struct shunt__hand {
  shunt__hand_t *next;
  uint32_t id;
  pid_t pid; /* 0: not known yet */
  shunt__region_t *region;
  int pager; /* eventfd: wakes the worker where a futex cannot */
  uint32_t run_tail, up_head, reply_tail, reply_seen;  /* our own copies: what the shared ones say is
                                                          checked against these */
  shunt_task_t *task[SHUNT__RING_SLOTS];               /* in flight, by run slot */
  uint32_t asked[SHUNT__RING_SLOTS];                   /* what its task was asked, by run slot */
  /* argument memory that a reply points to, by reply slot */
  struct { uint64_t offset, size; } lent[SHUNT__RING_SLOTS];
  unsigned count;                                      /* tasks in flight */
  bool waiting;                                        /* in a call of ours: takes no tasks, does not count */
  bool leaving;                                        /* told to exit, or discarded for what it wrote */
  bool useful;                                         /* has finished a task */
  uint64_t doom;                                       /* when the next rung of the cancel ladder is due;
                                                          0: none */
  uint32_t doom_slot;
  int doom_signal;
  shunt__nested_t *nested, *owed, **owed_end;
  bool owes_answer, owes_no_room;
  int32_t answer; /* to a cancel of answer_to: a worker asks for one at a time, or one inside another */
  uint64_t answer_to;
};

struct shunt__crew {
  pthread_mutex_t lock;
  shunt_t *rt;
  shunt_task_t *first, **end; /* tasks that no worker has */
  shunt__hand_t *hands;       /* the loop's thread alone takes one out */
  unsigned total, active;     /* hands that are not leaving; of those, not waiting */
  uint32_t next_id;
  uint64_t spawn_again; /* not before: the last fork failed */
  unsigned stillborn;  /* workers in a row that ended before they finished a task */
  int no_worker;       /* why a spawn failed while no worker was left: the loop's thread is to fail what
                          waits */
  int lost;            /* why there will be no workers any more; else 0 */
  shunt_task_t *spent; /* settled while they were in our hands: shunt__crew_unlock ends their runs */
  int channel;         /* to the zygote */
  int doorbell;        /* eventfd: some worker has put something on its up ring */
  uv_poll_t news_poll, doorbell_poll;
  uv_timer_t doom_timer;
  shunt__post_t look; /* posted when something is for the loop's thread to do */
  bool look_posted;

  struct { /* large arguments, and large replies */
    pthread_mutex_t lock;
    shunt__arena_t arena;
    char *base;
  } arguments;
};

/* cancel: ask; after this SIGTERM; after twice this SIGKILL */
#define SHUNT__RUNG_NS ((uint64_t)SHUNT__GRACE_MS * 1000000 / 2)
#define SHUNT__STILLBORN 3 /* workers in a row that may end before they finish a task */

static inline shunt__crew_t *shunt__crew_of(shunt_t *rt) { return rt->lanes[SHUNT_LANE_PROCESS]; }

/* crew.c */
void shunt__crew_unlock(shunt__crew_t *c);
void shunt__crew_append(shunt__crew_t *c, shunt_task_t *t);
/* false: it is not in the queue */
bool shunt__crew_unqueue(shunt__crew_t *c, shunt_task_t *t);
/* hands out what waits; starts workers */
void shunt__crew_dispatch(shunt__crew_t *c);
bool shunt__crew_may_substitute(const shunt__crew_t *c);
/* false: the worker has begun it */
bool shunt__hand_withdraw(shunt__hand_t *h, uint32_t slot);
/* takes back all that it has not begun */
void shunt__hand_recall(shunt__crew_t *c, shunt__hand_t *h);
/* the worker is through with it */
shunt_task_t *shunt__hand_take(shunt__hand_t *h, uint32_t slot);
/* it may have nothing to do: find it something */
void shunt__hand_idle(shunt__crew_t *c, shunt__hand_t *h);
/* unless the task there ends, signals will follow */
void shunt__hand_doom(shunt__crew_t *c, shunt__hand_t *h, uint32_t slot);
/* gives it up; its death comes as news */
void shunt__hand_discard(shunt__crew_t *c, shunt__hand_t *h, int signal);
/* sends it away if it is idle and one too many */
void shunt__hand_retire(shunt__crew_t *c, shunt__hand_t *h);
/* takes the lock itself; frees h */
void shunt__crew_bury(shunt__crew_t *c, shunt__hand_t *h, int wait_status);
/* the same for one that could not be forked */
void shunt__crew_unborn(shunt__crew_t *c, shunt__hand_t *h, int error);
void shunt__crew_fail_waiting(shunt__crew_t *c, int error, const char *why);  /* takes the lock itself */
/* something is for the loop's thread to do: a timer to set, tasks to fail */
void shunt__crew_look_later(shunt__crew_t *c);
void shunt__region_unref(shunt__region_t *r);

/* link.c; both on the loop's thread, without the lock */
void shunt__hand_listen(shunt__crew_t *c, shunt__hand_t *h); /* acts on all that the worker has sent */
/* the worker is dead: what run `run` submitted is cancelled */
void shunt__hand_orphan(shunt__crew_t *c, shunt__hand_t *h, uint32_t run);
void shunt__hand_wake(shunt__hand_t *h);                     /* any thread */

/* process.c: argument memory. 0: full. */
uint64_t shunt__lend(shunt__crew_t *c, uint64_t size);
void shunt__lend_back(shunt__crew_t *c, uint64_t offset, uint64_t size);

#endif
