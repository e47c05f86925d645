/* Placement: kind and promises in, lane and reason out. Knows no lane's inside. */
#ifndef SHUNT_PLACE_H
#define SHUNT_PLACE_H

#include <shunt.h>

typedef struct {
  shunt_lane_t lane;
  const char *reason; /* static */
} shunt__placement_t;

/* options is valid and its lane may be SHUNT_LANE_ANY. */
shunt__placement_t shunt__place(const shunt_task_options_t *options, bool by_value);

#endif
