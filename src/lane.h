/* What a lane offers. The front door (shunt.c) and the waits (await.c) know lanes by this table only; a lane
 * never calls another. */
#ifndef SHUNT_LANE_H
#define SHUNT_LANE_H

#include "task.h"

struct shunt__lane_ops {
  const char *name;

  /* Makes the lane's state in rt->lanes; called before the reactor runs. 0 or an error, with nothing left
   * behind. */
  int (*open)(shunt_t *rt);

  /* Takes a task that is QUEUED, and the run's reference with it. Never waits, never fails: trouble settles
   * the task. Any thread. */
  void (*push)(shunt_task_t *t);

  /* Ends t with `status`, UV_ECANCELED or UV_ETIMEDOUT: at once if it has not started, else by asking its
   * function. Any thread that holds a reference. */
  shunt_cancel_t (*end)(shunt_task_t *t, int status);

  /* Runs t here and now if it is still queued. `joined`: a cancel of the task that waits is t's too. NULL:
   * this lane's tasks run nowhere else. */
  bool (*help)(shunt_task_t *t, shunt__strand_t *s, bool joined);

  /* Room for an argument, where the lane likes it best. NULL: on the heap. */
  shunt__block_t *(*make_arg)(shunt_t *rt, size_t size);

  /* The end. kill: whatever can be killed is; settles nothing. close: no task is live and the loop has ended;
   * frees the lane, except for what something left behind still uses. Returns false when something was left
   * behind. Both may be NULL. */
  void (*kill)(shunt_t *rt);
  bool (*close)(shunt_t *rt);
};

extern const shunt__lane_ops_t shunt__loop_lane, shunt__thread_lane, shunt__process_lane;

/* In a worker process all three lanes are this one: the parent. */
extern const shunt__lane_ops_t shunt__uplink_lane;

/* `end` for tasks whose start is a claim in this process. */
shunt_cancel_t shunt__end_here(shunt_task_t *t, int status);

#endif
