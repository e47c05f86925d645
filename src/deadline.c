/* Deadlines of tasks: one heap behind a lock, one timer on the loop.
 *
 * A task is in the heap from submit until it settles or its deadline comes. Both ends take it out under the
 * lock, so the timer never meets a task that is gone: a task found in the heap has not settled, and its
 * settler waits for the lock. */
#include <config.h>

#include <stddef.h>

#include "internal.h"
#include "lane.h"
#include "run.h"

#define TASK_OF(alarm_) ((shunt_task_t *)((char *)(alarm_) - offsetof(shunt_task_t, alarm)))

static void expire(shunt_task_t *t) {
  t->ops->end(t, UV_ETIMEDOUT);
  /* By value, the caller need not wait until the function notices; by reference it must. */
  if (t->by_value) shunt__settle(t, (shunt__outcome_t){.status = UV_ETIMEDOUT});
  shunt_release(t);
}

static shunt_task_t *next_due(shunt_t *rt, uint64_t *next) {
  pthread_mutex_lock(&rt->deadlines.lock);
  shunt__alarm_t *a = shunt__alarm_due(&rt->deadlines.alarms, shunt__now());
  shunt__alarm_t *first = shunt__alarm_first(&rt->deadlines.alarms);
  shunt_task_t *t = a ? shunt_retain(TASK_OF(a)) : NULL;
  *next = first ? first->when : SHUNT__NEVER;
  pthread_mutex_unlock(&rt->deadlines.lock);
  return t;
}

static void on_timer(uv_timer_t *timer) {
  shunt_t *rt = timer->data;
  uint64_t next;
  for (shunt_task_t *t; (t = next_due(rt, &next));) expire(t);
  shunt__timer_at(timer, on_timer, next);
}

void shunt__timer_at(uv_timer_t *timer, uv_timer_cb cb, uint64_t when) {
  if (when == SHUNT__NEVER) {
    uv_timer_stop(timer);
    return;
  }
  uint64_t now = shunt__now();
  uv_update_time(timer->loop);
  uv_timer_start(timer, cb, when > now ? (when - now + 999999) / 1000000 : 0, 0);
}

static void rearm(shunt__post_t *p) {
  shunt_t *rt = (shunt_t *)((char *)p - offsetof(shunt_t, deadlines.rearm));
  pthread_mutex_lock(&rt->deadlines.lock);
  rt->deadlines.posted = false;
  pthread_mutex_unlock(&rt->deadlines.lock);
  on_timer(&rt->deadlines.timer);
}

int shunt__deadlines_open(shunt_t *rt) {
  pthread_mutex_init(&rt->deadlines.lock, NULL);
  rt->deadlines.rearm.fire = rearm;
  rt->deadlines.timer.data = rt;
  return uv_timer_init(&rt->reactor->loop, &rt->deadlines.timer);
}

int shunt__deadline_watch(shunt_task_t *t) {
  shunt_t *rt = t->rt;
  pthread_mutex_lock(&rt->deadlines.lock);
  /* One that is settling has been to shunt__deadline_forget, or will come to it after us. */
  uint32_t phase = shunt__phase(atomic_load_explicit(&t->state, memory_order_relaxed));
  bool over = phase == SHUNT__SETTLING, set = over || shunt__alarm_set(&rt->deadlines.alarms, &t->alarm);
  bool post = set && shunt__alarm_first(&rt->deadlines.alarms) == &t->alarm && !rt->deadlines.posted;
  if (post) rt->deadlines.posted = true;
  pthread_mutex_unlock(&rt->deadlines.lock);
  if (post) shunt__post(rt->reactor, &rt->deadlines.rearm);
  return set ? 0 : UV_ENOMEM;
}

void shunt__deadline_forget(shunt_task_t *t) {
  shunt_t *rt = t->rt;
  pthread_mutex_lock(&rt->deadlines.lock);
  shunt__alarm_unset(&rt->deadlines.alarms, &t->alarm);
  pthread_mutex_unlock(&rt->deadlines.lock);
}

void shunt__deadlines_close(shunt_t *rt) {
  shunt__alarms_free(&rt->deadlines.alarms);
}
