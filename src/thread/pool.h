/* The thread lane's state, shared by the pool and its governor. Everything here is under `lock`, but for what
 * says otherwise. */
#ifndef SHUNT_POOL_H
#define SHUNT_POOL_H

#include <pthread.h>
#include <sys/types.h>

#include "internal.h"
#include "lane.h"

typedef struct shunt__pool shunt__pool_t;

typedef struct shunt__worker {
  shunt__pool_t *pool;
  struct shunt__worker *next, **at; /* among the pool's workers */
  pthread_t thread;
  pid_t tid;
  bool running;      /* in a task's function, wherever that is */
  bool busy;         /* runs a task or looks for one, and is not waiting in a call of ours */
  unsigned cpu;      /* tasks under the gate in its frames */
  uint64_t cpu_seen; /* the governor's last look at its clock, in ns of CPU time */
} shunt__worker_t;

typedef struct {
  shunt_task_t *first, **end;
} shunt__queue_t;

struct shunt__pool {
  pthread_mutex_t lock;
  shunt_t *rt;
  unsigned cores;

  shunt__queue_t blocking, computing; /* two gates: tasks that may block, tasks that compute */
  unsigned queued;                    /* in both */
  unsigned computing_now;             /* at most `cores`, unless one that waited has resumed */
  bool computing_next;                /* whose turn it is when both could run */

  shunt__worker_t *workers;
  unsigned threads, busy, idle; /* the others wait in a call of ours */
  unsigned summoned;            /* signals on the way to idle workers */
  pthread_cond_t work;          /* idle workers wait here */
  pthread_cond_t gone;          /* close waits here */
  pthread_t last;               /* the last worker that left, not joined yet */
  bool has_last, closing, left_behind;
  bool refused; /* the system refused the last thread that was asked for */

  struct {
    pthread_t thread;
    pthread_cond_t trouble; /* the governor waits here while nothing is stuck */
    bool exists;
    uint64_t looked; /* when it last read the clocks */
  } governor;
};

/* Tasks at the head of the queues that the gates would let through now. */
unsigned shunt__pool_ready(const shunt__pool_t *p);

/* One more worker gets to work: an idle one, or a new one. False: at the limit, or the system refuses. */
bool shunt__pool_add(shunt__pool_t *p);

/* The governor's thread. */
void *shunt__govern(void *pool);

#endif
