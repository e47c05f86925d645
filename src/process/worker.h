/* A worker process: runs tasks one after another, and asks the parent for what it cannot do itself. */
#ifndef SHUNT_WORKER_H
#define SHUNT_WORKER_H

#include <sys/wait.h>

#include "../task.h"
#include "zygote.h"

/* This worker's region, the arguments, the parent's doorbell, and this worker's pager. */
typedef struct {
  int region, arguments, doorbell, pager;
} shunt__worker_fds_t;

/* What a worker process does, from its fork to its end. `view` is made into its view of the runtime. */
_Noreturn void shunt__worker_main(const shunt__order_t *o, shunt_t *view, shunt__worker_fds_t fds);

/* What wait() said, put into an outcome. */
static inline void shunt__how_it_died(shunt__outcome_t *o, int wait_status) {
  o->signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
  o->exit_status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 0;
}

/* The runtime as a worker sees it: every lane is the parent. */
void shunt__worker_view(shunt_t *rt);

#endif
