/* Running a task's function: the frame under it, and what comes of it. */
#ifndef SHUNT_RUN_H
#define SHUNT_RUN_H

#include "task.h"

/* Lies on the runner's stack while the function runs; the strand's thread alone touches it. A waiter that
 * helps itself to a task runs it in a frame above its own. */
struct shunt__frame {
  shunt_task_t *task;
  shunt__frame_t *outer;
  shunt__block_t *blocks; /* made by shunt_alloc, not yet returned */
  int error;              /* of shunt_fail, or why a result could not be made */
  char *message;
  bool told;    /* the function has seen that it should end */
  bool joined;  /* runs in place of a join by `outer`, whose cancel it shares */
  unsigned shields; /* shunt_shield calls that it is in */
  bool limited; /* this task or one below it has a deadline */
};

/* Runs t, which the caller has claimed for s, and settles it. *f is the caller's, zero but for `joined`, so
 * that it is still there when the function leaves by pthread_exit instead of returning; the caller's clean-up
 * handler then calls shunt__run_exited, which ends the innermost task on s. */
void shunt__run(shunt_task_t *t, shunt__strand_t *s, shunt__frame_t *f);
void shunt__run_exited(shunt__strand_t *s);

/* The task in frame f, if any, is about to wait: from here on its time is measured, if it was not from the
 * start. */
void shunt__run_waits(shunt__frame_t *f);

/* The innermost frame of the calling strand, or NULL outside tasks. */
shunt__frame_t *shunt__frame(void);

/* 0, or what the waits of the task in frame f must return (UV_ECANCELED, UV_ETIMEDOUT); with shunt__told the
 * task has been told, with shunt__asked it has not. f may be NULL: outside tasks. */
int shunt__told(shunt__frame_t *f);
int shunt__asked(shunt__frame_t *f);

#endif
