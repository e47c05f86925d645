/* Which lane, and why. */
#include <config.h>

#include "place.h"

shunt__placement_t shunt__place(const shunt_task_options_t *options, bool by_value) {
  if (options->lane != SHUNT_LANE_ANY) return (shunt__placement_t){options->lane, "pinned to this lane"};
  switch (options->kind) {
    case SHUNT_ASYNC:
      return (shunt__placement_t){SHUNT_LANE_LOOP, "async: it waits in calls that suspend"};
    case SHUNT_BLOCKING:
      return (shunt__placement_t){SHUNT_LANE_THREAD, "blocking: it may hold up its thread"};
    case SHUNT_CPU:
      if (by_value)
        return (shunt__placement_t){SHUNT_LANE_PROCESS, "cpu, by value: a worker process takes it"};
      return (shunt__placement_t){SHUNT_LANE_THREAD, "cpu, by reference: it must stay in this process"};
    case SHUNT_AUTO:
      break;
  }
  return (shunt__placement_t){SHUNT_LANE_THREAD, "auto: taken as blocking until it is measured"};
}
