/* A worker process: runs tasks one after another, and asks the parent for what it cannot do itself. */
#ifndef SHUNT_WORKER_H
#define SHUNT_WORKER_H

#include <sys/wait.h>

#include "../task.h"
#include "zygote.h"

/* What a worker process does, from its fork to its end. `view` is made into its view of the runtime. The descriptors are this worker's region, the arguments, and the parent's doorbell. */
_Noreturn void shunt__worker_main(const shunt__order_t *o, shunt_t *view, int region_fd, int arguments_fd, int doorbell_fd);

/* What wait() said, put into an outcome. */
static inline void shunt__how_it_died(shunt__outcome_t *o, int wait_status) {
  o->signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
  o->exit_status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 0;
}

/* The runtime as a worker sees it: every lane is the parent. */
void shunt__worker_view(shunt_t *rt);

#endif
