/* The loop lane: fibers on the libuv loop.
 *
 * Promises: a task that never suspends costs a function call and no switch; one that waits costs a stack, of
 * which it pays the pages it touched; all that is ready gets its turn, and libuv its own every half
 * millisecond.
 *
 * Operation: what is ready stands in one queue: tasks to begin and fibers to resume. A turn works it off,
 * from a libuv prepare handle. The scheduler is itself the body of every fiber: it calls a task's function on
 * its own stack. If the function suspends, the fiber stops there with the function on it, and a spare one
 * goes on with the queue; when it is resumed and the function returns, it finds itself in the scheduler
 * again, which goes on from there. So there is no scheduler stack to switch to and back from.
 *
 * Safety: everything here belongs to the loop's thread. Others reach it by shunt__post() only: push() with a
 * task, wake() with a fiber. A fiber is posted by whoever moved its strand from PARKED to NOTIFIED, so it
 * stands in one queue at most once. */
#include <config.h>

#include <stddef.h>
#include <stdlib.h>

#include "fiber.h"
#include "internal.h"
#include "lane.h"
#include "run.h"
#include "stack.h"
#include "watch.h"

#define TURN_NS 500000 /* then libuv looks for events */
#define LOOK_EVERY 16  /* items between two looks at the clock */

typedef struct loop loop_t;

typedef struct fiber {
  shunt__fiber_t context;
  loop_t *loop;
  shunt__strand_t *strand;
  void *stack;
  struct fiber *next; /* in the list of spare ones */
  shunt__alarm_t alarm;
  shunt__post_t post;
} fiber_t;

struct loop {
  shunt_t *rt;
  uv_prepare_t prepare; /* runs the turns */
  uv_idle_t idle;       /* active while something is ready: keeps libuv from sleeping */
  uv_timer_t timer;     /* the earliest alarm */
  uint64_t armed;       /* when that is */
  shunt__alarms_t alarms;
  shunt__watch_t watch;
  shunt__stacks_t stacks;
  shunt__fiber_t thread; /* uv_run's own stack */
  bool adopted;
  fiber_t *spare;        /* in the scheduler, with nothing on their stacks */
  shunt__post_t *first, **end; /* ready */
  uint64_t turn_ends;
  unsigned items; /* since the last look at the clock */
  bool over;      /* this turn is */
  int error;      /* why the last new fiber could not be had */
};

static loop_t *loop_of(shunt_t *rt) { return rt->lanes[SHUNT_LANE_LOOP]; }

#define FIBER_OF(post_) ((fiber_t *)((char *)(post_) - offsetof(fiber_t, post)))
#define TASK_OF(post_) ((shunt_task_t *)((char *)(post_) - offsetof(shunt_task_t, post)))

/* ---- the queue of what is ready ---- */

static void fiber_ready(shunt__post_t *p);

static void ready(loop_t *l, shunt__post_t *p) {
  p->next = NULL;
  p->at = l->end;
  *l->end = p;
  l->end = &p->next;
}

static void unready(loop_t *l, shunt__post_t *p) {
  if ((*p->at = p->next))
    p->next->at = p->at;
  else
    l->end = p->at;
  p->at = NULL;
}

static bool is_fiber(const shunt__post_t *p) { return p->fire == fiber_ready; }

static shunt__post_t *next_ready(loop_t *l) {
  shunt__post_t *p = l->first;
  unready(l, p);
  /* With thousands of fibers the next one's stack is in no cache: have it fetched while this one runs. */
  if (l->first && is_fiber(l->first)) __builtin_prefetch(FIBER_OF(l->first)->context.saved);
  return p;
}

static void on_idle(uv_idle_t *idle) { (void)idle; }

/* From outside a turn, libuv must be told that there is one to come. */
static void fiber_ready(shunt__post_t *p) {
  loop_t *l = FIBER_OF(p)->loop;
  ready(l, p);
  uv_idle_start(&l->idle, on_idle);
}

static void task_ready(shunt__post_t *p) {
  loop_t *l = loop_of(TASK_OF(p)->rt);
  ready(l, p);
  uv_idle_start(&l->idle, on_idle);
}

static bool turn_is_over(loop_t *l) {
  if (++l->items >= LOOK_EVERY) {
    l->items = 0;
    l->over = shunt__now() >= l->turn_ends;
  }
  return l->over;
}

/* ---- fibers ---- */

static void schedule(void *fiber);
static void fiber_wake(shunt__strand_t *s);
static const shunt__strand_ops_t fiber_ops;

static fiber_t *new_fiber(loop_t *l) {
  fiber_t *f = calloc(1, sizeof *f);
  l->error = UV_ENOMEM;
  if (!f) return NULL;
  f->loop = l;
  f->post.fire = fiber_ready;
  if (!(f->strand = shunt__strand_new(fiber_wake, &fiber_ops, f))) goto no_strand;
  if ((l->error = shunt__stack_get(&l->stacks, &f->stack))) goto no_stack;
  if (!(l->error = shunt__fiber_make(&f->context, f->stack, l->stacks.stack_size, schedule, f))) return f;
  shunt__stack_put(&l->stacks, f->stack);
no_stack:
  shunt__strand_rest(f->strand);
no_strand:
  free(f);
  return NULL;
}

static fiber_t *spare_fiber(loop_t *l) {
  fiber_t *f = l->spare;
  if (!f) return new_fiber(l);
  l->spare = f->next;
  return f;
}

static void free_fiber(fiber_t *f) {
  shunt__fiber_drop(&f->context);
  shunt__stack_put(&f->loop->stacks, f->stack);
  shunt__strand_rest(f->strand);
  free(f);
}

/* Who goes on with the queue: the fiber at its head, a spare one for a task, or NULL: the thread, as there is
 * nothing to do in this turn. */
static fiber_t *successor(loop_t *l) {
  if (!l->first || turn_is_over(l)) return NULL;
  return is_fiber(l->first) ? FIBER_OF(next_ready(l)) : spare_fiber(l);
}

static void go(shunt__fiber_t *from, loop_t *l, fiber_t *to) {
  shunt__strand_enter(to ? to->strand : NULL);
  shunt__fiber_switch(from, to ? &to->context : &l->thread);
}

/* Stops f, which runs, until someone switches to it again. */
static void step_aside(fiber_t *f) {
  fiber_t *to = successor(f->loop);
  if (to != f) go(&f->context, f->loop, to);
}

static void run(shunt_task_t *t, shunt__strand_t *s, bool joined) {
  shunt__frame_t frame = {.joined = joined};
  if (shunt__claim(t, s)) shunt__run(t, s, &frame);
  shunt__run_over(t);
}

/* The body of every fiber. */
static void schedule(void *fiber) {
  fiber_t *me = fiber;
  loop_t *l = me->loop;
  for (;;) {
    while (l->first && !is_fiber(l->first) && !turn_is_over(l))
      run(TASK_OF(next_ready(l)), me->strand, false);
    fiber_t *to = l->first && !l->over ? FIBER_OF(next_ready(l)) : NULL;
    me->next = l->spare;
    l->spare = me;
    go(&me->context, l, to);
  }
}

/* ---- turns ---- */

/* A task for which there is no stack fails; the fibers that wait still go on. */
static void fail_first(loop_t *l) {
  shunt_task_t *t = TASK_OF(next_ready(l));
  shunt__settle_error(
      t, l->error,
      l->error == UV_ENOTSUP
          ? "the thread has a shadow stack, which needs a library built with --enable-ucontext"
          : "no memory for one more stack (see stack_size, and the system's vm.max_map_count)");
  shunt__run_over(t);
}

static void turn(uv_prepare_t *prepare) {
  loop_t *l = prepare->data;
  if (!l->first) return;
  if (!l->adopted) shunt__fiber_adopt(&l->thread);
  l->adopted = true;
  l->turn_ends = shunt__now() + TURN_NS;
  l->items = 0;
  l->over = false;
  while (l->first && !l->over) {
    fiber_t *to = successor(l);
    if (to)
      go(&l->thread, l, to);
    else if (l->first && !l->over)
      fail_first(l);
  }
  if (!l->first) uv_idle_stop(&l->idle);
  uv_update_time(prepare->loop); /* libuv reckons how long it may sleep from a time that may be a long turn
                                    ago */
}

static void on_timer(uv_timer_t *timer) {
  loop_t *l = timer->data;
  uint64_t now = shunt__now();
  for (shunt__alarm_t *a; (a = shunt__alarm_due(&l->alarms, now));)
    shunt__unpark(((fiber_t *)((char *)a - offsetof(fiber_t, alarm)))->strand);
  shunt__alarm_t *first = shunt__alarm_first(&l->alarms);
  shunt__timer_at(timer, on_timer, l->armed = first ? first->when : SHUNT__NEVER);
}

/* ---- the strand of a fiber ---- */

static int fiber_sleep(shunt__strand_t *s, uint64_t deadline) {
  fiber_t *f = s->owner;
  loop_t *l = f->loop;
  shunt__run_waits(s->frame);
  if (deadline == SHUNT__NEVER) {
    step_aside(f);
    return 0;
  }
  f->alarm.when = deadline;
  if (!shunt__alarm_set(&l->alarms, &f->alarm)) {
    uint32_t parked = SHUNT__PARKED;
    /* Whoever was faster has put us in the queue, so we must be taken out of it before we go on. */
    if (!atomic_compare_exchange_strong(&s->word, &parked, SHUNT__RUNNING)) step_aside(f);
    return UV_ENOMEM;
  }
  if (deadline < l->armed) shunt__timer_at(&l->timer, on_timer, l->armed = deadline);
  step_aside(f);
  shunt__alarm_unset(&l->alarms, &f->alarm);
  return 0;
}

static int fiber_wait_fd(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  fiber_t *f = s->owner;
  shunt__watcher_t me = {.strand = s, .events = (uint32_t)events};
  int err = shunt__watch_add(&f->loop->watch, fd, &me);
  if (err) return err;
  err = shunt__park(s, deadline);
  shunt__watch_remove(&me);
  return err;
}

static void fiber_wake(shunt__strand_t *s) {
  fiber_t *f = s->owner;
  if (shunt__on_reactor(f->loop->rt->reactor))
    fiber_ready(&f->post);
  else
    shunt__post(f->loop->rt->reactor, &f->post);
}

static void fiber_yield(shunt__strand_t *s) {
  fiber_t *f = s->owner;
  ready(f->loop, &f->post);
  step_aside(f);
}

static const shunt__strand_ops_t fiber_ops = {fiber_sleep, fiber_wait_fd, fiber_yield, SHUNT__HELPS_JOINS,
                                              false};

/* ---- the lane ---- */

static void push(shunt_task_t *t) {
  t->post.fire = task_ready;
  if (shunt__on_reactor(t->rt->reactor))
    task_ready(&t->post);
  else
    shunt__post(t->rt->reactor, &t->post);
}

/* A join runs the task where it is, without a switch or a wake: the two could not do anything apart. As long
 * as there is stack enough that the task has no less than it may count on. */
static bool help(shunt_task_t *t, shunt__strand_t *s, bool joined) {
  if (s->ops != &fiber_ops) return false;
  fiber_t *f = s->owner;
  loop_t *l = f->loop;
  if (t->rt != l->rt || !t->post.at || (char *)&f - (char *)f->stack < (ptrdiff_t)(l->stacks.stack_size / 2))
    return false;
  unready(l, &t->post);
  run(t, s, joined);
  return true;
}

static int open_loop(shunt_t *rt) {
  loop_t *l = calloc(1, sizeof *l);
  if (!l) return UV_ENOMEM;
  uv_loop_t *uv = &rt->reactor->loop;
  int err = shunt__watch_open(&l->watch, uv);
  if (err) {
    free(l);
    return err;
  }
  l->rt = rt;
  l->armed = SHUNT__NEVER;
  l->end = &l->first;
  shunt__stacks_init(&l->stacks, rt->options.stack_size);
  uv_prepare_init(uv, &l->prepare);
  uv_idle_init(uv, &l->idle);
  uv_timer_init(uv, &l->timer);
  l->prepare.data = l->timer.data = l;
  uv_prepare_start(&l->prepare, turn);
  rt->lanes[SHUNT_LANE_LOOP] = l;
  return 0;
}

static bool close_loop(shunt_t *rt) {
  loop_t *l = loop_of(rt);
  for (fiber_t *f; (f = l->spare);) {
    l->spare = f->next;
    free_fiber(f);
  }
  shunt__alarms_free(&l->alarms);
  shunt__watch_close(&l->watch);
  shunt__stacks_destroy(&l->stacks);
  free(l);
  rt->lanes[SHUNT_LANE_LOOP] = NULL;
  return true;
}

const shunt__lane_ops_t shunt__loop_lane = {.name = "loop",
                                            .open = open_loop,
                                            .push = push,
                                            .end = shunt__end_here,
                                            .help = help,
                                            .close = close_loop};
