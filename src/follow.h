/* What comes after a task. */
#ifndef SHUNT_FOLLOW_H
#define SHUNT_FOLLOW_H

#include "lane.h"

/* The lane of a task whose turn has not come. */
extern const shunt__lane_ops_t shunt__not_yet;

/* Pushes `next` to its lane with the result of `before`, or fails it with that one's failure, when that one
 * has settled. Takes over the run's reference to `next`. False: no memory, and nothing was done. */
bool shunt__follow(shunt_task_t *before, shunt_task_t *next);

#endif
