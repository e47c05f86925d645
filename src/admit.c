/* The door: how many tasks are in flight, whether there is room for one more, and whether the runtime still
 * takes any. */
#include <config.h>

#include "internal.h"
#include "run.h"

typedef struct shunt__room_waiter {
  struct shunt__room_waiter *next;
  shunt__strand_t *strand;
} room_waiter_t;

static bool is_open(shunt_t *rt) { return atomic_load(&rt->door) == SHUNT__OPEN; }

static bool take_room(shunt_t *rt) {
  size_t pending = atomic_load(&rt->pending);
  do {
    if (pending >= rt->options.max_pending) return false;
  } while (!atomic_compare_exchange_weak(&rt->pending, &pending, pending + 1));
  return true;
}

void shunt__wake_room(shunt_t *rt) {
  pthread_mutex_lock(&rt->room.lock);
  for (room_waiter_t *w = rt->room.first; w; w = w->next) shunt__unpark(w->strand);
  pthread_mutex_unlock(&rt->room.lock);
}

static void leave_room(shunt_t *rt, room_waiter_t *me) {
  pthread_mutex_lock(&rt->room.lock);
  room_waiter_t **at = &rt->room.first;
  while (*at != me) at = &(*at)->next;
  *at = me->next;
  atomic_fetch_sub(&rt->room.count, 1);
  pthread_mutex_unlock(&rt->room.lock);
}

static int wait_for_room(shunt_t *rt) {
  room_waiter_t me = {.strand = shunt__strand()};
  int err = 0;
  if (!me.strand) return UV_ENOMEM;
  pthread_mutex_lock(&rt->room.lock);
  me.next = rt->room.first;
  rt->room.first = &me;
  /* Sequentially consistent, as is less_pending's pair: either it sees us here, or we see the room it
   * made. */
  atomic_fetch_add(&rt->room.count, 1);
  pthread_mutex_unlock(&rt->room.lock);
  while (!(err = is_open(rt) ? shunt__told(me.strand->frame) : SHUNT_ECLOSED) && !take_room(rt))
    if ((err = shunt__park(me.strand, SHUNT__NEVER))) break;
  leave_room(rt, &me);
  return err == SHUNT_EDEADLK ? UV_EAGAIN : err;
}

int shunt__stay(shunt_t *rt) {
  atomic_fetch_add(&rt->in_flight, 1); /* then the door: stop shuts it, then looks at the count */
  if (is_open(rt)) return 0;
  shunt__less_in_flight(rt);
  return SHUNT_ECLOSED;
}

int shunt__admit(shunt_t *rt, bool wait) {
  int err = shunt__stay(rt);
  if (err || take_room(rt)) return err;
  err = wait ? wait_for_room(rt) : UV_EAGAIN;
  if (err) shunt__less_in_flight(rt);
  return err;
}

void shunt__more_pending(shunt_t *rt) { atomic_fetch_add(&rt->pending, 1); }

void shunt__less_pending(shunt_t *rt) {
  atomic_fetch_sub(&rt->pending, 1);
  if (atomic_load(&rt->room.count)) shunt__wake_room(rt);
}

void shunt__less_in_flight(shunt_t *rt) {
  /* rt itself is never freed, so the wake may come late. */
  atomic_fetch_sub(&rt->in_flight, 1);
  if (!is_open(rt)) shunt__futex_wake(&rt->in_flight, 1, false);
}

bool shunt__drained(shunt_t *rt, uint64_t deadline) {
  for (uint32_t n; (n = atomic_load(&rt->in_flight)); shunt__futex_wait(&rt->in_flight, n, deadline, false))
    if (shunt__now() >= deadline) return false;
  return true;
}
